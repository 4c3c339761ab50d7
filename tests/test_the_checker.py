"""Tests of the tests: right rules pass, whatever their structure, and wrong ones are caught, each for its reason."""

import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from minigrad.testing import (
    GradientError,
    NondeterministicError,
    NondifferentiableError,
    check_linear,
    check_vjp,
    numerical_jvp,
    numerical_vjp,
)
from minigrad.testing.adapters import PlainRule
from minigrad.testing.compare import map_result
from minigrad.testing.numeric import derivative_along
from minigrad.testing.properties import PROPERTIES
from minigrad.testing.specs import Case, Domain, OpSpec, realize, spec_for
from minigrad.testing.strategies import seeds
from minigrad.testing.trial import Trial
from plain_rules import RULES

X = np.array([0.25, -1.5, 0.75])
Y = np.array([1.1, 0.6, -0.9])
M = np.arange(6.0).reshape(2, 3) / 4 - 0.6


# ---- the numerical derivative ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "df", "x"),
    [
        (np.exp, np.exp, np.linspace(-2, 2, 9)),
        (np.log, lambda x: 1 / x, np.array([0.01, 0.25, 1.0, 100.0])),
        (np.tanh, lambda x: 1 - np.tanh(x) ** 2, np.linspace(-3, 3, 9)),
        (np.sqrt, lambda x: 0.5 / np.sqrt(x), np.array([0.05, 1.0, 1e4])),
        (lambda x: 1 / x, lambda x: -1 / x**2, np.array([-0.25, 0.5, 50.0])),
        (lambda x: x**3, lambda x: 3 * x**2, np.array([-1e3, 1e-3, 1e6])),
    ],
)
def test_differences_are_good_to_ten_digits(f, df, x):
    g = np.linspace(0.5, 1.5, x.size)
    estimate = numerical_vjp(f, [x], g)
    np.testing.assert_allclose(estimate.value, g * df(x), rtol=1e-10, atol=0)
    assert not estimate.kink.any()


def test_differences_know_their_error():
    """The promised error bounds the true one, also where the function is steep and the promise is modest."""
    x = np.array([0.3, 1.0, 2.0])
    for speed in (1.0, 10.0, 100.0, 1000.0):
        estimate = numerical_vjp(lambda x, k=speed: np.sin(k * x), [x], np.ones(3))
        wrong = np.abs(estimate.value - speed * np.cos(speed * x))
        assert np.all(wrong <= 4 * estimate.error + estimate.noise)


def test_differences_of_a_function_that_returns_a_view():
    estimate = numerical_vjp(lambda x: x[::2], [X], np.array([2.0, 3.0]))
    np.testing.assert_allclose(estimate.value, [2, 0, 3], atol=1e-12)


@pytest.mark.parametrize("f", [lambda x: x * x, lambda x: np.asarray(x * x), lambda x: x.reshape(()) ** 2])
def test_differences_of_a_0d_argument(f):
    estimate = numerical_vjp(f, [np.array(3.0)], np.array(2.0))
    assert estimate.value.shape == ()
    assert estimate.value == pytest.approx(12, abs=1e-11)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_differences_of_nothing(shape):
    assert numerical_vjp(np.exp, [np.zeros(shape)], np.zeros(shape)).value.shape == shape


def test_differences_do_not_depend_on_memory_order():
    g = np.arange(6.0).reshape(2, 3)
    for x in (M, np.asfortranarray(M), M[::-1][::-1], np.repeat(M, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(numerical_vjp(np.exp, [x], g).value, g * np.exp(M), rtol=1e-11)


def test_differences_leave_the_arguments_alone():
    def writes(x):
        x += 1.0
        return x

    x = X.copy()
    numerical_vjp(writes, [x], np.ones(3))
    np.testing.assert_array_equal(x, X)


def test_differences_of_several_results():
    def f(x, y):
        return [x * y, (np.sum(x), np.array([1, 2]))]  # what is not floating point has no derivative

    np.testing.assert_allclose(numerical_vjp(f, [X, Y], [Y, (np.array(2.0),)]).value, Y * Y + 2, rtol=1e-11)
    np.testing.assert_allclose(numerical_jvp(f, [X, Y], [np.ones(3), None]).value, [*Y, 3.0], rtol=1e-11)


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (np.abs, [0.0, 1.0], [True, False]),
        (np.abs, [1e-9, 1.0], [True, False]),
        (lambda x: np.maximum(x, 0.5 * x), [0.0, 1.0], [True, False]),
        (lambda x: np.sqrt(np.abs(x)), [0.0, 1.0], [True, False]),
        (np.square, [0.0, 1.0], [False, False]),
        (np.exp, [30.0, -30.0], [False, False]),
    ],
)
def test_kinks_are_seen(f, x, expected):
    assert numerical_vjp(f, [np.array(x)], np.array([1.0, -0.75])).kink.tolist() == expected


def test_a_kink_near_by_costs_precision_not_truth():
    """With a kink between x and x + h the step shrinks until it is out of reach, or the point is refused."""
    for distance in (1e-2, 1e-3):
        estimate = numerical_vjp(np.abs, [np.array([distance])], np.array([1.0]))
        np.testing.assert_allclose(estimate.value, 1.0, rtol=1e-9)


# ---- check_vjp -------------------------------------------------------------------------------------------------------


def right(g, out, x, y):
    return g * y, g * x


@pytest.mark.parametrize(
    ("problem", "rule"),
    [
        ("argument 0 is wrong", lambda g, out, x, y: (1.001 * g * y, g * x)),
        ("argument 1 is wrong", lambda g, out, x, y: (g * y, 1.00001 * g * x)),
        ("argument 0 is wrong", lambda g, out, x, y: (g * x, g * y)),
        ("argument 0 is wrong", lambda g, out, x, y: (0 * g, g * x)),
        ("argument 1 is wrong", lambda g, out, x, y: (g * y, 0 * g)),
        ("argument 0 is wrong", lambda g, out, x, y: (-g * y, g * x)),
        ("argument 1 is wrong", lambda g, out, x, y: (g * y, (g * x)[::-1])),
        ("argument 0 is wrong", lambda g, out, x, y: ((g * y).astype("float32").astype(x.dtype), g * x)),
        ("a gradient that is not zero", lambda g, out, x, y: (y, x)),
        ("a gradient that is not zero", lambda g, out, x, y: (g * y + 1e-12, g * x)),
        ("does not give a doubled gradient", lambda g, out, x, y: (g * np.abs(g) * y, g * x)),
        ("does not give a negated gradient", lambda g, out, x, y: (np.abs(g) * y, g * x)),
        ("is float64, the argument is float32", lambda g, out, x, y: (g * y * np.ones(3), g * x)),
        ("is float32, the argument is float64", lambda g, out, x, y: ((g * y).astype("float32"), g * x)),
        ("1 gradients for 2 arguments", lambda g, out, x, y: g * y),
        ("None for argument 1", lambda g, out, x, y: (g * y, None)),
        ("has shape (), the argument has (3,)", lambda g, out, x, y: (g * y, np.sum(g * x))),
    ],
)
def test_a_wrong_rule_is_caught_for_its_reason(problem, rule):
    assert check_vjp(np.multiply, X, Y, vjp=right).ok
    with pytest.raises(GradientError) as error:
        check_vjp(np.multiply, X, Y, vjp=rule)
    assert problem in error.value.report.problem
    with pytest.raises(GradientError) as again:
        eval(error.value.report.reproduce, {"np": np, "check_vjp": check_vjp, "rule": rule})
    assert str(again.value).splitlines()[0] == str(error.value).splitlines()[0]


def test_missing_unbroadcast():
    def rule(g, out, x, y):
        return g * y, g * x

    with pytest.raises(GradientError, match=r"shape \(2, 3\), the argument has \(3,\)") as error:
        check_vjp(np.multiply, M, X, vjp=rule)
    assert "broadcasting is not undone" in str(error.value)


def test_one_argument_only():
    """A rule that forgets its last argument is caught; leaving the argument out must be asked for."""

    def rule(g, out, x, y):
        return g * y, np.zeros_like(y)

    with pytest.raises(GradientError, match="argument 1 is wrong"):
        check_vjp(np.multiply, X, Y, vjp=rule)
    assert check_vjp(np.multiply, X, Y, vjp=rule, argnums=(0,)).ok


def test_a_cotangent_of_ones_would_be_blind():
    """The gradient of softmax summed up is 0: only a cotangent that is not constant sees an error."""
    softmax = spec_for("softmax").ref
    with pytest.raises(GradientError, match="is wrong"):
        check_vjp(softmax, M, vjp=lambda g, out, x: 0 * g)
    assert check_vjp(softmax, M, vjp=lambda g, out, x: 0 * g, cotangent=np.ones((2, 3))).ok


@pytest.mark.parametrize(
    ("hint", "rule"),
    [
        ("analytic = 1.001 * expected", lambda g, out, x, y: (1.001 * g * y, g * x)),
        ("swapped?", lambda g, out, x, y: (g * x, g * y)),
        ("reversed along every axis", lambda g, out, x, y: ((g * y)[::-1], g * x)),
        ("0 everywhere", lambda g, out, x, y: (0 * g, g * x)),
        ("2 of 3 elements are right", lambda g, out, x, y: (g * y * np.array([1, 2, 1]), g * x)),
    ],
)
def test_hints(hint, rule):
    with pytest.raises(GradientError) as error:
        check_vjp(np.multiply, X, Y, vjp=rule, dtypes=["float64"])
    assert hint in "\n".join(error.value.report.hints)


def test_gradients_that_are_not_finite_are_wrong():
    def rule(g, out, x):
        with np.errstate(all="ignore"):
            return g * out + 0 / np.array([0.0, 1.0, 0.0])

    with pytest.raises(GradientError, match=r"0\[0\] +analytic \+nan"):
        check_vjp(np.exp, X, vjp=rule)


def test_the_message_shows_the_worst_three_and_can_be_pasted():
    x = np.linspace(-1, 1, 12)

    def rule(g, out, x):
        return g * (1 - out)

    with pytest.raises(GradientError) as error:
        check_vjp(np.tanh, x, vjp=rule)
    text = str(error.value)
    assert text.count("analytic") == 3
    assert "float64[12]" in text
    line = error.value.report.reproduce
    with pytest.raises(GradientError) as again:
        eval(line, {"np": np, "check_vjp": check_vjp, "rule": rule})
    assert str(again.value) == text


def test_errors_survive_pickling():
    """Test runners send them between processes."""
    with pytest.raises(GradientError) as error:
        check_vjp(np.tanh, X, vjp=lambda g, out, x: g)
    copy = pickle.loads(pickle.dumps(error.value))
    assert (str(copy), copy.report) == (str(error.value), error.value.report)


@pytest.mark.parametrize(
    ("what", "f", "rule"),
    [
        ("the function wrote into its argument 0", lambda x: np.multiply(x, 2, out=x), lambda g, out, x: 2 * g),
        ("the rule wrote into its cotangent", lambda x: 2 * x, lambda g, out, x: np.multiply(g, 2, out=g)),
        ("the rule wrote into the function's result", np.exp, lambda g, out, x: np.multiply(g, out, out=out)),
        ("the rule wrote into argument 0", np.square, lambda g, out, x: np.multiply(2 * g, x, out=x)),
    ],
)
def test_writing_into_what_is_lent_is_caught(what, f, rule):
    with pytest.raises(GradientError) as error:
        check_vjp(f, X, vjp=rule)
    assert what in error.value.report.problem


def test_nondeterministic_functions_and_rules_are_named_as_such():
    rng = np.random.default_rng(0)
    with pytest.raises(NondeterministicError, match="two different results"):
        check_vjp(lambda x: x * rng.random(3), X, vjp=lambda g, out, x: g)
    with pytest.raises(NondeterministicError, match="two different answers"):
        check_vjp(np.exp, X, vjp=lambda g, out, x: g * rng.random(3))


def test_kinks_are_refused_not_judged():
    with pytest.raises(NondifferentiableError, match=r"disagree at \[1\]: this is a kink"):
        check_vjp(np.abs, np.array([1.0, 0.0]), vjp=lambda g, out, x: g * np.sign(x))


def test_where_differences_are_helpless_nothing_passes():
    def wild(x):
        return np.sin(1.7e9 * x)

    with pytest.raises(NondifferentiableError, match="finite differences promise"):
        check_vjp(wild, X, vjp=lambda g, out, x: g * 1.7e9 * np.cos(1.7e9 * x))


def test_large_arguments_are_probed():
    x = np.random.default_rng(0).random((30, 40))
    assert check_vjp(np.tanh, x, vjp=lambda g, out, x: g * (1 - out * out)).ok
    with pytest.raises(GradientError, match="is wrong"):
        check_vjp(np.tanh, x, vjp=lambda g, out, x: g * (1 - out * out) * (1 + 1e-5 * (x == x.max())) * 1.00001)


def test_check_vjp_refuses_bad_input():
    with pytest.raises(TypeError, match="no argument is a floating-point array"):
        check_vjp(np.square, np.array([1, 2]), vjp=lambda g, out, x: g)
    with pytest.raises(TypeError, match=r"argument 1 cannot be checked: the floating-point arrays are arguments \[0\]"):
        check_vjp(np.take, X, np.array([1]), vjp=lambda g, out, x, i: (g, None), argnums=(1,))
    with pytest.raises(ValueError, match="the cotangent has arrays of shapes"):
        check_vjp(np.square, X, vjp=lambda g, out, x: g, cotangent=np.ones(2))
    with pytest.raises(GradientError, match="returned no floating-point array"):
        check_vjp(np.argmax, X, vjp=lambda g, out, x: g)


def test_integer_arguments_and_several_results():
    def f(x, index):
        return x[index], np.sum(x)

    def rule(g, out, x, index):
        grad = np.zeros_like(x)
        np.add.at(grad, index, g[0])
        return grad + g[1], None

    assert check_vjp(f, X, np.array([0, 0, 2]), vjp=rule).ok

    def overwrites(g, out, x, index):
        grad = np.zeros_like(x)
        grad[index] = g[0]
        return grad + g[1], None

    with pytest.raises(GradientError, match="is wrong"):
        check_vjp(f, X, np.array([0, 0, 2]), vjp=overwrites)


# ---- check_linear ----------------------------------------------------------------------------------------------------


def test_check_linear_needs_no_tolerance():
    assert check_linear(np.cumsum, X, vjp=lambda g, out, x: np.cumsum(g[::-1])[::-1]).ok
    with pytest.raises(GradientError, match="is wrong"):
        check_linear(np.cumsum, X, vjp=lambda g, out, x: np.cumsum(g[::-1])[::-1] * (1 + 2.0**-52))
    with pytest.raises(GradientError, match="not linear in its arguments"):
        check_linear(lambda x: x + 1, X, vjp=lambda g, out, x: g + out.size)
    with pytest.raises(GradientError, match="not linear in its arguments"):
        check_linear(lambda x: x * np.abs(x), X, vjp=lambda g, out, x: g)


def test_check_linear_takes_one_factor_at_a_time():
    for k in (0, 1):
        assert check_linear(np.multiply, X, Y, vjp=right, argnums=(k,)).ok
    assert check_linear(np.add, X, Y, vjp=lambda g, out, x, y: (g, g)).ok


# ---- all properties, on rules without a framework --------------------------------------------------------------------


@cache  # every way of spoiling a rule is tried on the same cases
def drawn(name: str) -> list[tuple[Case, int]]:
    """Twenty cases of an op, and the seeds of their values."""
    found = []

    @settings(
        max_examples=20,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=spec_for(name).cases, seed=seeds)
    def draw(case: Case, seed: int) -> None:
        found.append((case, seed))

    draw()
    return found


def examples(name: str, rule: Callable[..., Any], properties: list[str], count: int = 20) -> int:
    """Run properties on drawn examples of a plain rule; return how many were run."""
    spec = replace(
        spec_for(name), fn=lambda *args, **kwargs: map_result(np.asarray, spec_for(name).ref(*args, **kwargs))
    )
    ran = 0
    for case, seed in drawn(name)[:count]:
        bound = PlainRule(partial(_with_static, rule, case))
        trial = Trial(spec, case, seed, bound)
        for prop in properties:
            if PROPERTIES[prop].applies(spec):
                ran += 1
                PROPERTIES[prop].check(trial)
    return ran


def _with_static(rule: Callable[..., Any], case: Case, g: Any, out: Any, *xs: Any) -> Any:
    return rule(g, out, *xs, *case.args, **case.kwargs)


@pytest.mark.parametrize("name", RULES)
def test_no_false_alarm(name):
    """More than three thousand checks of right rules: not one complaint, and not one rejected example."""
    assert examples(name, RULES[name], ["P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7"], 15) >= 15 * 7


def _each(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """Spoil a rule by changing every gradient that it returns."""

    def spoil(rule: Callable[..., Any]) -> Callable[..., Any]:
        def spoilt(g, out, *args, **kwargs):
            grads = rule(g, out, *args, **kwargs)
            return tuple(map(change, grads)) if isinstance(grads, tuple) else change(grads)

        return spoilt

    return spoil


def _ignores_cotangent(rule):
    return lambda g, out, *args, **kwargs: rule(map_result(np.ones_like, g), out, *args, **kwargs)


def _swapped(rule):
    return lambda g, out, *args, **kwargs: rule(g, out, *args, **kwargs)[::-1]


def _first_only(rule):
    def spoilt(*args, **kwargs):
        first, *rest = rule(*args, **kwargs)
        return (first, *map(np.zeros_like, rest))

    return spoilt


def _not_unbroadcast(rule):
    def spoilt(g, out, *args, **kwargs):
        grads = rule(g, out, *args, **kwargs)
        several = isinstance(grads, tuple)
        grads = tuple(np.array(np.broadcast_to(x, out.shape)) for x in (grads if several else (grads,)))
        return grads if several else grads[0]

    return spoilt


SPOILT: dict[str, Callable[..., Any]] = {
    "wrong by 0.1 %": _each(lambda x: x * np.asarray(1.001, x.dtype)),
    "wrong by 1e-5": _each(lambda x: x * np.asarray(1.00001, x.dtype)),
    "negated": _each(lambda x: np.asarray(-x)),
    "zero": _each(np.zeros_like),
    "rolled": _each(lambda x: np.roll(x, 1)),
    "last element lost": _each(lambda x: np.where(np.arange(x.size).reshape(x.shape) < x.size - 1, x, x * 0)),
    "shifted by 1e-4": _each(lambda x: np.asarray(x + np.asarray(1e-4, x.dtype))),
    "float64 leak": _each(lambda x: np.asarray(x, np.float64)),
    "float32 inside": _each(lambda x: np.asarray(x, np.float32).astype(x.dtype)),
    "cotangent ignored": _ignores_cotangent,
    "arguments swapped": _swapped,
    "first argument only": _first_only,
    "broadcasting not undone": _not_unbroadcast,
}

# Rules that a way of spoiling cannot hurt, and why.
BROADCASTING = {"add", "subtract", "multiply", "divide", "maximum", "where", "broadcast_to"}
SEVERAL = {"add", "subtract", "multiply", "divide", "maximum", "where", "matmul", "outer", "concatenate"}


def _applies(how: str, name: str) -> bool:
    if how in ("arguments swapped", "first argument only"):
        return name in SEVERAL
    if how == "broadcasting not undone":
        return name in BROADCASTING
    return True


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_rules_are_caught(how):
    """Every way of being wrong, on every rule that it can hurt, is caught within twenty examples."""
    survivors = []
    for name in RULES:
        if _applies(how, name):
            try:
                examples(name, SPOILT[how](RULES[name]), ["P1", "P2", "P3", "P4"])
            except GradientError:
                continue
            survivors.append(name)
    assert not survivors


def test_kinds_of_structure_do_the_catching():
    """With one shape only, `take` that overwrites repeated indices would pass; with drawn structure it cannot."""

    def overwrites(g, out, x, index, axis):
        grad = np.zeros_like(x)
        np.put_along_axis(grad, np.reshape(index, -1), np.reshape(g, -1), None)
        return grad

    spec = spec_for("take")
    plain = PlainRule(lambda g, out, x: overwrites(g, out, x, np.array([2, 0]), None))
    PROPERTIES["P1"].check(
        Trial(replace(spec, fn=spec.ref), Case(((3,),), (np.array([2, 0]),), {"axis": None}), 0, plain)
    )
    with pytest.raises(GradientError):
        examples("take", overwrites, ["P1"])


# ---- realisation -----------------------------------------------------------------------------------------------------


def _spec(domain: Domain | tuple[Domain, ...]) -> OpSpec:
    return OpSpec("none", np.add, np.add, None, domain=domain)


def test_realize_is_deterministic_and_keeps_to_the_domain():
    spec = _spec((Domain(-1, 3, avoid=(0.0, 2.0)), Domain(distinct=True)))
    case = Case(((4, 5), (3, 2)))
    for seed in range(20):
        x, y = realize(spec, case, seed)
        assert all(np.array_equal(a, b) for a, b in zip(realize(spec, case, seed), (x, y), strict=True))
        assert x.min() >= -1
        assert x.max() <= 3
        assert min(np.abs(x).min(), np.abs(x - 2).min()) >= 1 / 8
        assert np.diff(np.sort(y.ravel())).min() > 2**-6
        assert np.all(x * 1024 == np.round(x * 1024))


def test_distinct_values_are_distinct_across_arguments():
    x, y = realize(_spec(Domain(distinct=True)), Case(((3, 3), (3, 3))), 1)
    assert np.diff(np.sort(np.concatenate([x.ravel(), y.ravel()]))).min() > 2**-6
    with pytest.raises(ValueError, match="no room for 100 distinct values"):
        realize(_spec(Domain(distinct=True)), Case(((100,),)), 1)


# ---- the package -----------------------------------------------------------------------------------------------------


def test_the_core_needs_no_hypothesis():
    """Importing `minigrad.testing`, and using it, works where Hypothesis is not installed."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import numpy as np, minigrad.testing as t\n"
        "assert t.check_vjp(np.exp, np.ones(2), vjp=lambda g, y, x: g * y).ok\n"
        "try:\n    t.strategies\n"
        "except ModuleNotFoundError as error:\n    assert 'minigrad[testing]' in str(error), error\n"
        "else:\n    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_minigrad_does_not_import_the_kit():
    code = (
        "import sys, minigrad\n"
        "loaded = [m for m in sys.modules if m.startswith(('minigrad.testing.', 'hypothesis'))]\n"
        "assert not loaded, loaded\n"
        "assert minigrad.testing.check_grads.__module__ == 'minigrad.testing.checks'\n"
        "assert all(hasattr(minigrad.testing, name) for name in minigrad.testing.__all__)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_directions_combine():
    """The derivative along a sum of directions is the sum of the derivatives."""
    a, b = (np.array(v) for v in ([1.0, 0.0, 2.0], [0.5, -1.0, 0.0]))
    one, two, both = (derivative_along(np.exp, [X], [d]).value for d in (a, b, a + b))
    np.testing.assert_allclose(both, one + two, rtol=1e-10)


def test_every_property_is_listed_once():
    assert list(PROPERTIES) == [f"P{k}" for k in range(16)]
    checks = [entry.check for entry in PROPERTIES.values()]
    assert not any(a is b for a, b in itertools.combinations(checks, 2))


def test_a_rule_on_plain_arrays_may_give_scalars_of_no_axes():
    spec = spec_for("tanh")
    trial = Trial(replace(spec, fn=np.tanh), Case(((),)), 0, PlainRule(RULES["tanh"]))
    PROPERTIES["P0"].check(trial)
