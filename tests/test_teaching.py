"""What a failure says: the simplest numbers that fail, what it depends on, the pattern, and a line to paste."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.elementwise import multiply, tanh
from minigrad.ops.indexing import getitem_
from minigrad.ops.reductions import cumsum_
from minigrad.testing import (
    Case,
    GradientError,
    NondeterministicError,
    check_grads,
    check_linear,
    check_vjp,
    replay,
    spec_for,
)
from minigrad.testing.adapters import Minigrad, PlainRule
from minigrad.testing.examples import check_properties, explained
from minigrad.testing.hints import simple_hints, unreduced_hints
from minigrad.testing.ledger import Ledger
from minigrad.testing.probes import one_hots
from minigrad.testing.properties import check
from minigrad.testing.strategies import shapes, some_cases
from minigrad.testing.teach import by_structure

X = np.array([0.25, -1.5, 0.75])
Y = np.array([1.1, 0.6, -0.9])
M = np.arange(6.0).reshape(2, 3) / 4 - 0.6


def failure(f, *arrays, vjp, **options):
    """The report of a check that must fail."""
    with pytest.raises(GradientError) as error:
        check_vjp(f, *arrays, vjp=vjp, **options)
    return error.value.report


def failed_example(name, prop, **changes):
    """The report of a property that must fail, as the op tests raise it."""
    spec = replace(spec_for(name), **changes) if changes else spec_for(name)
    with pytest.raises(GradientError) as error:
        check_properties(spec, properties=[prop])
    return error.value.report


# ---- the simplest numbers --------------------------------------------------------------------------------------------


def test_small_integers_and_one_element_are_shown():
    report = failure(np.tanh, X, vjp=lambda g, out, x: g * (1 - out))
    assert (
        report.reproduce
        == "check_vjp(np.tanh, np.array([1.0, 2.0, 3.0]), vjp=rule, cotangent=np.array([1.0, 0.0, 0.0]))"
    )
    (worst,) = report.worst
    assert worst.where == "arg 0[0]"
    assert worst.numeric == pytest.approx(1 - np.tanh(1) ** 2)


def test_integers_near_the_arguments_come_next():
    """An error that positive numbers do not show needs negative ones."""
    report = failure(np.tanh, X, vjp=lambda g, out, x: g * (1 - out * out) * (1 + (x < -1)))
    assert "np.array([1.0, -2.0, 1.0])" in report.reproduce


def test_one_decimal_comes_before_the_numbers_themselves():
    report = failure(np.tanh, np.array([0.26, 0.31]), vjp=lambda g, out, x: g * (1 - out * out) * (1 + (x < 0.28)))
    assert "np.array([0.3, 0.3])" not in report.reproduce
    assert "np.array([0.26, 0.31])" in report.reproduce
    report = failure(np.tanh, np.array([0.16, 0.31]), vjp=lambda g, out, x: g * (1 - out * out) * (1 + (x < 0.28)))
    assert "np.array([0.2, 0.3])" in report.reproduce


def test_numbers_outside_of_the_domain_are_passed_over():
    def root(x):
        if np.any(x == np.round(x)):
            raise ValueError("no integers, please")
        return np.sqrt(x)

    report = failure(root, np.array([0.26, 1.37]), vjp=lambda g, out, x: g / out)
    assert "np.array([0.3, 1.4])" in report.reproduce


def test_large_arguments_are_left_alone():
    x = np.linspace(-1, 1, 100)
    report = failure(np.tanh, x, vjp=lambda g, out, x: g * (1 - out))
    assert len(report.worst) == 3
    assert "array of shape (100,), too large to print" in report.reproduce


def test_only_elements_that_are_wrong_are_shown_and_at_most_three():
    x = np.linspace(0.5, 2, 20)
    report = failure(np.tanh, x, vjp=lambda g, out, x: g * (1 - out), cotangent=np.ones(20))
    assert len(report.worst) <= 3
    assert all(deviation.excess > 1 for deviation in report.worst)
    twice = failure(np.multiply, X, Y, vjp=lambda g, out, x, y: (g * y * np.array([1, 2, 1]), g * x))
    assert len(twice.worst) == 1


@pytest.mark.parametrize(
    "rule",
    [
        lambda g, out, x, y: (1.001 * g * y, g * x),
        lambda g, out, x, y: (g * y, np.sum(g * x)),
        lambda g, out, x, y: (np.abs(g) * y, g * x),
        lambda g, out, x, y: (g * y * (1 + (x < -1)), g * x),
        lambda g, out, x, y: (g * y, None),
    ],
)
def test_the_line_reproduces_the_message(rule):
    """Pasted, with the rule at hand, it fails with the very same text."""
    with pytest.raises(GradientError) as error:
        check_vjp(np.multiply, X, Y, vjp=rule)
    with pytest.raises(GradientError) as again:
        eval(error.value.report.reproduce, {"np": np, "check_vjp": check_vjp, "rule": rule})
    assert again.value.report.problem == error.value.report.problem
    assert again.value.report.worst == error.value.report.worst


def test_functions_of_tensors_are_simplified_too():
    def f(tree):
        return mg.stop_gradient(tree["h"]) * tree["c"]

    with pytest.raises(GradientError) as error:
        check_grads(f, {"c": mg.tensor(X), "h": Y})
    line = error.value.report.reproduce
    assert line.startswith("check_grads(f, {'c': np.array([1.0, 2.0, 3.0]), 'h': np.array([4.0, 5.0, 6.0])}, order=2")
    with pytest.raises(GradientError) as again:
        eval(line, {"np": np, "check_grads": check_grads, "f": f})
    assert str(again.value) == str(error.value)


# ---- what it depends on ----------------------------------------------------------------------------------------------


def test_whether_it_depends_on_the_values():
    always = failure(np.tanh, X, vjp=lambda g, out, x: g * (1 - out))
    assert always.diagnosis == "structural, or in the formula: all of 5 other sets of values fail too"
    rarely = failure(np.tanh, X, vjp=lambda g, out, x: g * (1 - out * out) * (1 + (np.abs(x[0] - 0.25) < 1e-6)))
    assert rarely.diagnosis.startswith("it depends on the values: 0 of 5")
    assert "diagnosis  it depends on the values" in str(rarely)


def test_formula_structure_or_values_of_an_op():
    with patch.object(tanh, "partials", [lambda out, x: 1.0 - out]):
        assert failed_example("tanh", "P1").diagnosis.startswith("formula: 5 of 5 other sets of values fail, and all")
    with patch.object(tanh, "partials", [lambda out, x: (1.0 - out * out) * (1.0 if x.ndim < 2 else 1.001)]):
        assert failed_example("tanh", "P1").diagnosis.startswith(
            "structural: 5 of 5 other sets of values fail, but only"
        )
    with patch.object(tanh, "partials", [lambda out, x: (1.0 - out * out) * (1.0 + (x > 1.0))]):
        assert "it depends on the values" in failed_example("tanh", "P1").diagnosis


def test_the_diagnosis_in_words():
    assert (
        by_structure([True] * 5, [True] * 4)
        == "formula: 5 of 5 other sets of values fail, and all of 4 other structures"
    )
    assert by_structure([True] * 5, [True, False]).startswith("structural: 5 of 5 ")
    assert by_structure([True] * 5, []) == (
        "structural, or in the formula: 5 of 5 other sets of values fail; the op has no other structure"
    )
    assert by_structure([True, False], [True]) == "it depends on the values: 1 of 2 other sets of values fail"
    assert len(some_cases(spec_for("matmul"))) == 5


def test_what_is_random_is_named_first():
    """Before anything is compared: for a function that is not one, every other message would mislead."""
    rng = np.random.default_rng(0)

    def noisy(x):
        return mg.tanh(x) * float(rng.random())

    with pytest.raises(NondeterministicError, match="the op gives two different results for the same arguments"):
        check_properties(replace(spec_for("tanh"), fn=noisy), properties=["P1"])
    for check_it in (
        lambda: check_vjp(lambda x: x * rng.random(), X, vjp=lambda g, out, x: 1 / 0),
        lambda: check_grads(lambda x: x * rng.random(), X),
        lambda: check_linear(lambda x: x * rng.random(), X, vjp=lambda g, out, x: 1 / 0),
    ):
        with pytest.raises(NondeterministicError, match="two different results"):
            check_it()


# ---- the line of an op's example -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prop", ["P0", "P1", "P2", "P3", "P5", "P13"])
def test_an_example_of_an_op_can_be_pasted(prop):
    scope = {"np": np, "Case": Case, "replay": replay}
    if prop in ("P0", "P5"):
        wrong = patch.object(tanh, "forward", lambda xp, x: xp.tanh(x) * (1.0 if prop == "P5" else 1.1))
        rules = patch.object(tanh, "partials", [writes_into_x if prop == "P5" else tanh.partials[0]])
        name = "tanh"
    elif prop == "P2":
        name, wrong, rules = "cumsum", patch.dict(cumsum_.vjps, {0: lambda g, out, x, axis: g}), patch.dict({})
    elif prop == "P3":
        name, wrong, rules = "cumsum", patch.dict(cumsum_.vjps, {0: lambda g, out, x, axis: g * g}), patch.dict({})
    else:
        name, wrong = "tanh", patch.object(tanh, "partials", [lambda out, x: 1.0 - out * mg.stop_gradient(out)])
        rules = patch.object(tanh, "partials", [lambda out, x: 1.0 - out]) if prop == "P1" else patch.dict({})
    with wrong, rules, np.errstate(all="ignore"):
        with pytest.raises((GradientError, ValueError)) as error:
            check_properties(spec_for(name), properties=[prop])
        if isinstance(error.value, GradientError):
            with pytest.raises(GradientError) as again:
                eval(error.value.report.reproduce, scope)
            assert again.value.report.problem == error.value.report.problem
            assert again.value.report.worst == error.value.report.worst


def writes_into_x(out, x):
    x *= 1.0
    return 1.0 - out * out


def test_the_simplest_example_of_an_op():
    with patch.object(multiply, "partials", [lambda out, x, y: y, lambda out, x, y: y]):
        report = failed_example("multiply", "P1")
    assert report.reproduce == (
        "replay('multiply', 'P1', Case(shapes=((), ())), seed=0, backend='numpy', "
        "arrays=[np.array(1.0), np.array(2.0)], cotangent=np.array(1.0))"
    )
    assert "this is the gradient with respect to argument 0: swapped?" in report.hints


def test_a_spec_of_ones_own_is_called_spec_and_its_adapter_adapter():
    spec = replace(spec_for("tanh"), fn=lambda x: np.asarray(np.tanh(x)))
    adapter = PlainRule(lambda g, out, x: g * (1 - out))
    with pytest.raises(GradientError) as error:
        check_properties(spec, adapter, properties=["P1"])
    line = error.value.report.reproduce
    assert line.startswith("replay(spec, 'P1', Case(shapes=((),)), seed=0, backend=adapter")
    with pytest.raises(GradientError, match="argument 0 is wrong"):
        eval(line, {"np": np, "Case": Case, "replay": replay, "spec": spec, "adapter": adapter})


def test_what_needs_no_explanation_has_none():
    """Kinks are refused as they are, and a failure of another kind than numbers keeps its case."""
    error = NondeterministicError(failure(np.tanh, X, vjp=lambda g, out, x: g))
    assert explained(error, spec_for("tanh"), "P1", Case(((),)), 0, Minigrad()) is error


# ---- patterns --------------------------------------------------------------------------------------------------------

T = np.array([[1.0, 2.5, 3.0], [4.0, 5.5, -6.0], [7.0, 8.0, 9.5]])
CUBE = np.arange(8.0).reshape(2, 2, 2)


@pytest.mark.parametrize(
    ("hint", "analytic", "expected"),
    [
        ("analytic = 2 * expected, everywhere", 2 * T, T),
        ("analytic = -1 * expected, everywhere", -T, T),
        ("the analytic gradient is 0 everywhere", 0 * T, T),
        ("1 of 9 elements are not finite", np.where(T == 9.5, np.nan, T), T),
        ("analytic = expected, transposed", T.T, T),
        ("analytic = expected, reversed along every axis", T[::-1, ::-1], T),
        ("analytic = expected, reversed along axis 1", T[:, ::-1], T),
        ("analytic = expected, rolled by 1 along axis 0", np.roll(T, 1, 0), T),
        ("analytic = expected, rolled by -1 along axis 0", np.roll(T[:, 0], -1), T[:, 0]),
        ("shifted by 1 along axis 0: off by one in time?", np.concatenate([[0 * T[0]], T[:-1]]), T),
        ("shifted by -1 along axis 0: off by one in time?", np.concatenate([T[1:], [0 * T[0]]]), T),
        ("its mean along axis 1, everywhere", np.repeat(T.mean(1, keepdims=True), 3, 1), T),
        ("axes 0 and 2 exchanged", CUBE.T, CUBE),
    ],
)  # fmt: skip
def test_patterns(hint, analytic, expected):
    assert any(hint in found for found in simple_hints(analytic, expected, 1e-9))
    assert simple_hints(expected, expected, 1e-9) in ([], ["analytic = 1 * expected, everywhere"])


def test_no_pattern_is_seen_in_noise_or_in_constants():
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert simple_hints(rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), 1e-9) == []
    assert simple_hints(np.ones(3) * 2, np.ones(3), 1e-9) == ["analytic = 2 * expected, everywhere"]


def test_shapes_have_patterns_too():
    assert "broadcasting is not undone" in unreduced_hints((2, 3), (3,))[0]
    assert "transposed" in unreduced_hints((3, 2), (2, 3))[0]
    assert unreduced_hints((4,), (3, 2)) == []


@pytest.mark.parametrize(("which", "order"), [("last", slice(None)), ("first", slice(None, None, -1))])
def test_one_use_only(which, order):
    def rule(g, out, x, index):
        grad = np.zeros_like(x)
        grad[index[order]] = g[order]
        return grad, None

    report = failure(np.take, X, np.array([0, 0, 2]), vjp=rule)
    expected = f"every element has the contribution of its {which} use only: repeated indices must add up"
    assert expected in report.hints


def test_one_use_only_in_an_op():
    def overwrites(g, out, x, *, index):
        grad = np.zeros_like(x)
        grad[index] = g
        return grad

    with patch.object(getitem_, "pull_into", None), patch.dict(getitem_.vjps, {0: overwrites}):
        report = failed_example("take", "P1")
    assert "every element has the contribution of its last use only: repeated indices must add up" in report.hints
    assert report.diagnosis.startswith("structural: ")


def test_the_patterns_of_the_drawn_numbers_are_kept():
    """One element of one cotangent would fit too many patterns."""
    report = failure(np.multiply, X, Y, vjp=lambda g, out, x, y: (1.001 * g * y, g * x))
    assert report.hints == ("analytic = 1.001 * expected, everywhere",)
    ignored = failure(np.multiply, X, Y, vjp=lambda g, out, x, y: (y * np.sign(g).max() * (g != 0), g * x))
    assert ignored.problem


def test_one_hot_cotangents():
    g = (np.array([2.0, 3.0]), [np.array(5.0)])
    ones = list(one_hots(g))
    assert [float(np.sum(a)) + float(b[0]) for a, b in ones] == [1.0, 1.0, 1.0]
    kept = [(*a, float(b[0])) for a, b in one_hots(g, keep_size=True)]
    assert kept == [(2.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 5.0)]


# ---- check_properties ------------------------------------------------------------------------------------------------


def test_check_properties_counts_what_it_compared():
    counts = check_properties(spec_for("sum"), max_examples=10)
    assert "P9" not in counts
    assert min(counts.values()) >= 5
    with pytest.raises(ValueError, match=r"not everything was tested:\nP1 of tanh on numpy: 3 examples compared"):
        check_properties(spec_for("tanh"), properties=["P1"], max_examples=3)


@pytest.mark.parametrize("prop", ["P0", "P1"])
def test_examples_without_numbers_are_no_examples(prop):
    """However wrong an op is, what is empty cannot show it; the ledger says that nothing was compared."""
    empty = replace(spec_for("tanh"), ref=np.sin, cases=shapes().map(lambda shape: Case(((0, *shape),))))
    with pytest.raises(ValueError, match=f"not everything was tested:\n{prop} of tanh on numpy: 0 examples compared"):
        check_properties(empty, properties=[prop], max_examples=10)


def test_check_properties_looks_at_conventions_limits_and_exemptions():
    relu = spec_for("relu")
    broken = replace(relu, kinks=(replace(relu.kinks[0], expected=([0.0, 1.0, 7.0],)),))
    with pytest.raises(GradientError, match="breaks the convention"):
        check_properties(broken, properties=["P9"])
    with patch.object(tanh, "partials", [lambda out, x: (1.0 - out * out) * (1.0 if x.size != 1 else 1.1)]):
        with pytest.raises(GradientError):
            check_properties(spec_for("tanh"), properties=["P7"])
        excused = replace(spec_for("tanh"), exempt={"P7": "a reason"})
        assert check_properties(excused, properties=["P7"]) == {}


def test_the_ledger_of_an_example_is_the_one_that_is_given():
    from minigrad.testing.examples import run_example

    ledger = Ledger()
    assert run_example(spec_for("tanh"), "P1", Case(((2,),)), 0, Minigrad(), ledger)
    ((cell, entry),) = ledger.entries.items()
    assert (cell.op, cell.prop, entry.accepted) == ("tanh", "P1", 1)
    assert check(spec_for("tanh"), "P1", Case(((2,),)), 0, Minigrad()) == [0]
