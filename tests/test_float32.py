"""`check_float32` and P10: right rules pass in float32, and rules that lose digits there do not."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.elementwise import exp, softplus, tanh
from minigrad.testing import Case, GradientError, NondeterministicError, check_vjp, replay, spec_for
from minigrad.testing.adapters import PlainRule
from minigrad.testing.compare import map_result
from minigrad.testing.float32 import EPS32, check_float32, nudged
from minigrad.testing.properties import PROPERTIES
from minigrad.testing.trial import Trial
from plain_rules import RULES

X = np.array([0.25, -1.5, 0.75])


def half(rule):
    """The same rule, whose float32 gradients were rounded to float16 on the way."""

    def spoilt(g, out, *args, **kwargs):
        grads = rule(g, out, *args, **kwargs)
        several = grads if isinstance(grads, tuple) else (grads,)
        rounded = tuple(
            grad.astype("float16").astype("float32") if grad.dtype == "float32" else grad for grad in several
        )
        return rounded if isinstance(grads, tuple) else rounded[0]

    return spoilt


def off(rule, relative=3e-5):
    """The same rule, wrong by a relative error in float32 only."""

    def spoilt(g, out, *args, **kwargs):
        grads = rule(g, out, *args, **kwargs)
        several = grads if isinstance(grads, tuple) else (grads,)
        factor = 1 + relative if several[0].dtype == np.float32 else 1
        wrong = tuple(grad * np.asarray(factor, grad.dtype) for grad in several)
        return wrong if isinstance(grads, tuple) else wrong[0]

    return spoilt


# ---- check_float32 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["exp", "tanh", "log", "sigmoid", "multiply", "divide", "matmul", "softmax", "var"])
def test_right_rules_pass_and_those_that_are_wrong_by_3e_5_do_not(name, seed):
    rng = np.random.default_rng(seed)
    arrays = [0.5 + rng.random((3, 3)) for _ in range(2 if name in ("multiply", "divide", "matmul") else 1)]
    static = {"axis": 0, "keepdims": False} if name == "var" else {}

    def f(*xs):
        return np.asarray(spec_for(name).ref(*xs, **static))

    def rule(g, out, *xs):
        return RULES[name](g, out, *xs, **static)

    assert check_float32(f, *arrays, vjp=rule, seed=seed).ok
    for spoilt in (off(rule), half(rule)):
        with pytest.raises(GradientError, match="is worse than float32 must be"):
            check_float32(f, *arrays, vjp=spoilt, seed=seed)


def test_cancellation_is_found_where_check_vjp_sees_nothing():
    """1 - tanh(x)^2 by way of cosh is as good; by way of a difference of large numbers it is not."""
    x = np.array([2.0, 3.0, 4.0])

    def cancels(g, out, x):
        big = np.asarray(1e4, x.dtype)
        return g * ((1 - out * out + big) - big)

    assert check_vjp(np.tanh, x, vjp=cancels).ok
    with pytest.raises(GradientError) as error:
        check_float32(np.tanh, x, vjp=cancels)
    assert "subtracts numbers that are nearly equal" in error.value.report.hints[0]


def test_a_saturated_output_is_no_false_alarm():
    """1 - out^2 amplifies the rounding of a saved output near 1; that is the function's doing, not the rule's."""
    x = np.linspace(2.0, 9.0, 15)
    for seed in range(10):
        assert check_float32(np.tanh, x, vjp=RULES["tanh"], seed=seed).ok


def test_overflow_is_named():
    with np.errstate(all="ignore"), pytest.raises(GradientError, match="1 of 2 elements are not finite") as error:
        check_float32(np.sqrt, np.array([1e30, 4.0]), vjp=lambda g, out, x: g * (x * x) / (2 * out * x * x))
    assert error.value.report.check == "float32"


def test_the_safety_factor_is_a_factor():
    assert check_float32(np.tanh, X, vjp=off(RULES["tanh"], 1e-6), safety=100.0).ok
    with pytest.raises(GradientError):
        check_float32(np.tanh, X, vjp=off(RULES["tanh"], 1e-6), safety=1.0)


def test_arguments_kinds_and_determinism_are_looked_at():
    with pytest.raises(GradientError, match="is float64, the argument is float32"):
        check_float32(np.tanh, X, vjp=lambda g, out, x: (g * (1 - out * out)).astype(np.float64))
    with pytest.raises(TypeError, match="no argument is a floating-point array"):
        check_float32(np.negative, np.array([1, 2]), vjp=lambda g, out, x: g)
    rng = np.random.default_rng(0)
    with pytest.raises(NondeterministicError):
        check_float32(lambda x: x * np.asarray(rng.random(3), x.dtype), X, vjp=lambda g, out, x: g)


def test_the_message_can_be_pasted():
    rule = half(RULES["tanh"])
    with pytest.raises(GradientError) as error:
        check_float32(np.tanh, X, vjp=rule)
    with pytest.raises(GradientError) as again:
        eval(error.value.report.reproduce, {"np": np, "check_float32": check_float32, "rule": rule})
    assert str(again.value) == str(error.value)


def test_numbers_are_nudged_by_one_rounding_and_equal_ones_alike():
    x = np.random.default_rng(0).normal(size=1000)
    moved = np.array([nudged(x, round) / x - 1 for round in range(6)])
    np.testing.assert_allclose(np.abs(moved), EPS32, rtol=1e-8)
    ups = (moved > 0).mean(axis=1)
    assert np.all((ups > 0.4) & (ups < 0.6))
    assert np.all(np.abs(np.corrcoef(moved) - np.eye(6)) < 0.15)
    assert np.array_equal(nudged(np.array([0.5, 0.25, 0.5]), 1)[::2], [nudged(np.array(0.5), 1)] * 2)
    assert nudged(np.zeros((2, 0)), 0).shape == (2, 0)


# ---- P10 -------------------------------------------------------------------------------------------------------------


def test_p10_sees_digits_lost_in_a_rule_of_minigrad():
    case = Case(((3,),))

    def cancelling(out, x):
        big = 1e4
        return (1.0 - out * out + big) - big

    replay("tanh", "P10", case)
    with patch.object(tanh, "partials", [cancelling]), pytest.raises(GradientError, match="worse than float32"):
        replay("tanh", "P10", case)


def test_p10_sees_half_precision_and_overflow():
    case = Case(((4,),))
    with (
        patch.object(
            exp, "partials", [lambda out, x: out.astype("float16").astype(x.dtype) if x.dtype == "float32" else out]
        ),
        pytest.raises(GradientError, match="worse than float32"),
    ):
        replay("exp", "P10", case)
    overflows = patch.object(softplus, "partials", [lambda out, x: mg.exp(x) / (1.0 + mg.exp(x))])
    with overflows, np.errstate(all="ignore"), pytest.raises(GradientError, match="float32 ends at 3.4e"):
        replay("softplus", "P10", case, arrays=[np.array([1.0, 100.0, -2.0, 0.5])])


@pytest.mark.parametrize("name", ["tanh", "softmax", "divide", "max"])
def test_p10_of_plain_rules(name):
    """A rule without a framework has the property too, and is caught by it."""
    spec = spec_for(name)
    case = Case(((2, 3),) * (2 if name == "divide" else 1), kwargs={"max": {"axis": 1, "keepdims": True}}.get(name, {}))
    spec = replace(spec, fn=lambda *args, **kwargs: map_result(np.asarray, spec.ref(*args, **kwargs)))
    for seed in range(5):
        for spoil, right in ((lambda rule: rule, True), (off, False), (half, False)):
            rule = spoil(lambda g, out, *xs: RULES[name](g, out, *xs, **case.kwargs))
            if name == "max" and spoil is half:
                continue  # it only moves the cotangent's numbers, which float16 holds
            trial = Trial(spec, case, seed, PlainRule(rule))
            if right:
                assert PROPERTIES["P10"].check(trial)
            else:
                with pytest.raises(GradientError):
                    PROPERTIES["P10"].check(trial)


def test_a_sum_that_nearly_cancels_is_no_alarm():
    """Of numbers that were changed in proportion, six times by chance, it hardly moves."""
    arrays, cotangent = [np.array([1.0, 2.0])], np.array([-0.6481666024774313, 0.6466197585687041])
    case = Case(((2,),), ((0, 2),), {"axis": None})
    assert replay("repeat", "P10", case, arrays=arrays, cotangent=cotangent) == [0]
