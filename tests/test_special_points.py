"""P9, P11, P14 and P15 can fail: each sees the mistakes that it is there for, and no others."""

from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.elementwise import clip_, leaky_relu, maximum, relu, sigmoid, softplus
from minigrad.ops.reductions import logsumexp_, max_, norm_
from minigrad.ops.where import where_
from minigrad.testing import Case, GradientError, Kink, replay, spec_for
from minigrad.testing.adapters import Minigrad, PlainRule
from minigrad.testing.examples import check_properties
from minigrad.testing.kinks import at_kinks, one_sided
from minigrad.testing.properties import PROPERTIES, check_conventions
from minigrad.testing.specials import SPECIALS, at_specials
from minigrad.testing.trial import Trial

LINE = Case(((4,),))
TWO = Case(((4,), (4,)))
WHOLE = Case(((4,),), kwargs={"axis": None, "keepdims": False})


@contextmanager
def caught(match):
    with np.errstate(all="ignore"), pytest.raises(GradientError, match=match) as error:
        yield error


def everywhere(name, prop, case, seeds=10):
    """Run a property on one structure with several sets of values."""
    for seed in range(seeds):
        replay(name, prop, case, seed=seed)


# ---- P9 --------------------------------------------------------------------------------------------------------------


def test_values_are_at_kinks_and_tied():
    clip = Trial(spec_for("clip"), Case(((40,),), (-1.0, 1.0)), 0, Minigrad())
    (x,) = at_kinks(clip)
    assert {-1.0, 1.0} <= set(x)
    assert len(set(x)) > 5
    top = Trial(spec_for("maximum"), TWO, 0, Minigrad())
    assert set(np.concatenate(at_kinks(top))) <= {-1.0, 0.0, 1.0}
    roots = Trial(spec_for("sqrt"), Case(((40,),)), 0, Minigrad())
    assert 0.0 in at_kinks(roots)[0]


def test_one_sided_derivatives():
    trial = Trial(spec_for("relu"), LINE, 0, Minigrad())
    x = np.array([-1.0, 0.0, 2.0, 0.0])
    before, after = one_sided(trial, [x], [np.array([1.0, 1.0, 1.0, -2.0])])
    np.testing.assert_allclose(before, [0, 0, 1, -2], atol=1e-8)
    np.testing.assert_allclose(after, [0, 1, 1, 0], atol=1e-8)


@pytest.mark.parametrize(
    ("name", "op", "wrong", "case"),
    [
        ("relu", relu, lambda out, x: (x > 0) * 1.0 + (x == 0) * 1.5, LINE),
        ("relu", relu, lambda out, x: (x > 0) * 1.0 - (x == 0) * 0.001, LINE),
        ("leaky_relu", leaky_relu, lambda out, x, slope=0.01: (x > 0) * 1.0 + (x < 0) * slope, LINE),
        ("clip", clip_, lambda out, x, lo, hi: (out == x) * 1.0 - 1.5 * (x == lo), Case(((4,),), (-1.0, 1.0))),
    ],
)
def test_gradients_outside_of_the_bracket_are_caught(name, op, wrong, case):
    everywhere(name, "P9", case)
    with patch.object(op, "partials", [wrong]):
        with caught(r"outside of the one-sided derivatives"):
            everywhere(name, "P9", case)
        everywhere(name, "P1", case, seeds=3)  # away from kinks it is right, and P1 cannot know


def test_another_choice_between_the_sides_is_a_convention_only():
    """Half the slope at 0 is a subgradient too: the bracket lets it pass, the documented convention does not."""
    half = patch.object(relu, "partials", [lambda out, x: (x > 0) * 1.0 + (x == 0) * 0.5])
    with half:
        everywhere("relu", "P9", LINE)
        with caught(r"breaks the convention relu'\(0\) = 0"):
            check_conventions(spec_for("relu"), Minigrad())


def test_mass_that_is_lost_or_won_at_ties_is_caught():
    def lost(out, x, y):
        return (x > y) * 1.0  # at a tie neither has the gradient

    def won(g, out, x, *, axis, keepdims):
        return g * (x == out)  # every maximum has all of it

    with patch.object(maximum, "partials", [lost, lambda out, x, y: lost(out, y, x)]):
        with caught("break a law: .*add up to the cotangent|outside of the one-sided"):
            everywhere("maximum", "P9", TWO)
        everywhere("maximum", "P1", TWO, seeds=3)
    with patch.dict(max_.vjps, {0: won}), caught("break a law: .*add up to the cotangent|outside of the one-sided"):
        everywhere("max", "P9", WHOLE)


def test_a_law_catches_what_lies_between_the_sides():
    """Each of two equal elements may have all of the gradient, as far as the sides say; but not both of them."""
    spec = replace(spec_for("maximum"), fn=lambda x, y: np.asarray(np.maximum(x, y)))

    def first(g, out, x, y):
        return g * (x >= y), g * (x < y)

    def both(g, out, x, y):
        return g * (x >= y), g * (x <= y)

    for seed in range(5):
        PROPERTIES["P9"].check(Trial(spec, TWO, seed, PlainRule(first)))
    with caught("the gradients break a law: f.x . c. = f.x. . c, so all gradients"):
        PROPERTIES["P9"].check(Trial(spec, TWO, 0, PlainRule(both)))


def test_a_convention_is_kept_or_caught():
    wrong = replace(spec_for("relu"), kinks=(Kink(([0.0],), [2.0], ([2.0],), reason="relu'(0) = 1"),))
    with caught(r"argument 0 breaks the convention relu'\(0\) = 1"):
        check_conventions(wrong, Minigrad())


# ---- P11 -------------------------------------------------------------------------------------------------------------


def test_values_are_special():
    (x,) = at_specials(Trial(spec_for("tanh"), Case(((200,),)), 0, Minigrad()))
    assert set(SPECIALS) <= set(x)
    (positive,) = at_specials(Trial(spec_for("power"), Case(((200,),), (2,)), 0, Minigrad()))
    assert positive.min() >= 0


@pytest.mark.parametrize(
    ("name", "op", "wrong"),
    [
        ("softplus", softplus, lambda out, x: mg.exp(x) / (1.0 + mg.exp(x))),
        ("sigmoid", sigmoid, lambda out, x: mg.exp(-x) / mg.square(1.0 + mg.exp(-x))),
    ],
)
def test_overflow_in_a_rule_is_caught(name, op, wrong):
    everywhere(name, "P11", LINE)
    with patch.object(op, "partials", [wrong]):
        with caught("is not finite where the derivative is"):
            everywhere(name, "P11", LINE)
        with np.errstate(all="ignore"):
            everywhere(name, "P1", LINE, seeds=3)


def test_a_norm_that_divides_by_zero_is_caught():
    def divides(g, out, x, *, axis, keepdims):
        return g * x / out

    with patch.dict(norm_.vjps, {0: divides}), caught("P11"):
        for seed in range(20):
            replay("norm", "P11", Case(((1,),), kwargs={"axis": None, "keepdims": False}), seed=seed)


def test_a_sum_of_exponentials_that_overflows_is_caught():
    def overflows(g, out, x, *, axis, keepdims):
        return g * mg.exp(x) / mg.exp(out)

    everywhere("logsumexp", "P11", WHOLE)
    with patch.dict(logsumexp_.vjps, {0: overflows}), caught("P11"):
        everywhere("logsumexp", "P11", WHOLE)


def test_a_mask_by_multiplication_is_caught():
    """0 * NaN is NaN: `where` must choose, not multiply."""

    def multiplied(xp, condition, x, y):
        return condition * x + (1 - condition) * y

    case = Case(((4,), (4,)), (np.array([True, False, True, False]),))
    everywhere("where", "P11", case)
    with patch.object(where_, "forward", multiplied), caught("NaN in argument . .* changes an output that does not"):
        everywhere("where", "P11", case)


def test_nan_that_spreads_through_a_gradient_is_caught():
    """A rule that uses the mean of all elements, times 0, is right until one of them is NaN."""

    def spreads(out, x):
        return (x > 0) * 1.0 + 0.0 * x.mean()

    with patch.object(relu, "partials", [spreads]):
        everywhere("relu", "P1", LINE, seeds=3)
        with caught("NaN in argument 0 at .* changes the gradient"):
            everywhere("relu", "P11", LINE)


def test_of_other_frameworks_less_is_demanded():
    """Who does not promise that a zero cotangent wins over NaN is not held to it."""
    spec = replace(spec_for("exp"), fn=lambda x: np.asarray(np.exp(x)))
    plain = PlainRule(lambda g, out, x: np.asarray(g * out))
    assert check_properties(spec, plain, properties=["P11"], max_examples=10)
    plain.zero_wins = True
    with caught("NaN in argument 0"):
        check_properties(spec, plain, properties=["P11"], max_examples=10)


# ---- P14 and P15 -----------------------------------------------------------------------------------------------------


def test_waiting_for_the_device_is_caught():
    replay("relu", "P14", LINE)

    def waits(out, x):
        float(mg.sum(out))
        return (x > 0) * 1.0

    with (
        patch.object(relu, "partials", [waits]),
        caught(r"relu on strict: backward waits for the device . times, 1 are needed: .*float\(\)"),
    ):
        replay("relu", "P14", LINE)


def test_looking_at_indices_is_allowed_as_often_as_the_spec_says():
    case = Case(((3,),), (np.array([0, 2]),), {"axis": 0})
    replay("take", "P14", case)
    impatient = replace(spec_for("take"), waits=(0, 0))
    with caught("forward waits for the device 2 times, 0 are needed"):
        PROPERTIES["P14"].check(Trial(impatient, case, 0, Minigrad()))


def test_what_the_host_knows_is_not_asked_of_the_device():
    """A find of P14: indices that the host had were looked at on the device."""
    from minigrad.testing import fake_cupy

    x = Minigrad("strict").asarray(np.arange(6.0).reshape(2, 3))
    with fake_cupy.count_syncs() as log:
        mg.take(x, [0, 0, 1], axis=0)
        mg.take(x, 1)
        mg.getitem(x, (np.array([1, 0]), [2, 1]))
        mg.repeat(x, 2, axis=1)
    assert log == []
    for index in ([2], np.array([-3]), (0, [3])):
        with pytest.raises(IndexError, match="lies outside an axis of size"):
            mg.getitem(x, index)


def test_a_rule_that_answers_differently_is_caught():
    answers = iter(range(100))
    with (
        patch.object(relu, "partials", [lambda out, x: (x > 0) * (1.0 + 1e-15 * next(answers))]),
        caught("two runs differ in array 1"),
    ):
        replay("relu", "P15", LINE, seed=3)
