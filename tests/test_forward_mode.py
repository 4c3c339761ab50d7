"""`check_jvp` and `check_adjoint`: right rules of forward mode pass, and each way of being wrong is named."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import GradientError, NondeterministicError, NondifferentiableError, check_vjp
from minigrad.testing.forward_mode import check_adjoint, check_jvp

X = np.array([0.25, -1.5, 0.75])
Y = np.array([1.1, 0.6, -0.9])


def product(t, out, x, y):
    return sum(moved * other for moved, other in zip(t, (y, x), strict=True) if moved is not None)


def reverse(g, out, x, y):
    return g * y, g * x


def test_right_rules_pass():
    assert check_jvp(np.multiply, X, Y, jvp=product).ok
    assert check_jvp(lambda x: [np.sum(x), (x * x,)], X, jvp=lambda t, out, x: [np.sum(t[0]), (2 * x * t[0],)]).ok
    assert check_jvp(np.multiply, X, Y, jvp=product, argnums=(1,)).ok
    assert check_jvp(np.take, X, np.array([0, 0, 2]), jvp=lambda t, out, x, index: t[0][index]).ok


def test_minigrad_has_forward_mode():
    def rule(t, out, x):
        return mg.jvp(mg.softmax, (x,), (t[0],))[1]

    assert check_jvp(lambda x: mg.softmax(x), np.array([[0.5, -1.0], [2.0, 0.25]]), jvp=rule).ok


def first_off(t, out, x, y):
    return product([None if t[0] is None else 1.001 * t[0], t[1]], out, x, y)


def second_negated(t, out, x, y):
    return product([t[0], None if t[1] is None else -t[1]], out, x, y)


def writes_into_x(t, out, x, y):
    right = product(t, out, x, y)
    x += 1
    return right


def writes_into_a_tangent(t, out, x, y):
    right = product(t, out, x, y)
    np.negative(t[0] if t[1] is None else t[1], out=t[0] if t[1] is None else t[1])
    return right


@pytest.mark.parametrize(
    ("problem", "rule"),
    [
        ("wrong when argument 0 move", first_off),
        ("wrong when argument 1 move", second_negated),
        ("wrong when argument 0 move", lambda t, out, x, y: product(t, out, y, x)),
        ("doubled tangents do not give a doubled one", lambda t, out, x, y: product(t, out, x, y) + 1e-13),
        ("the tangent is float32[3], the result is float64[3]", lambda *args: product(*args).astype("float32")),
        ("the tangent is float64[], the result is float64[3]", lambda *args: np.sum(product(*args))),
        ("the tangent is nothing, the result is", lambda *args: []),
        ("wrote into an argument", writes_into_x),
        ("wrote into a tangent", writes_into_a_tangent),
    ],
)
def test_a_wrong_rule_is_caught_for_its_reason(problem, rule):
    with pytest.raises(GradientError) as error:
        check_jvp(np.multiply, X, Y, jvp=rule)
    assert problem in error.value.report.problem


def test_all_arguments_move_together_too():
    def rule(t, out, x, y):  # right for each argument, and not for their sum
        return product(t, out, x, y) * (1.0 if any(moved is None for moved in t) else 1.01)

    with pytest.raises(GradientError, match="when arguments 0, 1 move"):
        check_jvp(np.multiply, X, Y, jvp=rule)


def test_kinks_and_randomness_are_named():
    with pytest.raises(NondifferentiableError, match="kink"):
        check_jvp(np.abs, np.array([0.0, 1.0]), jvp=lambda t, out, x: t[0] * np.sign(x))
    rng = np.random.default_rng(0)
    with pytest.raises(NondeterministicError, match="two different answers"):
        check_jvp(np.exp, X, jvp=lambda t, out, x: t[0] * rng.random(3))


def test_the_message_can_be_pasted():
    def rule(t, out, x):
        return t[0] * (1 - out)

    with pytest.raises(GradientError) as error:
        check_jvp(np.tanh, X, jvp=rule)
    with pytest.raises(GradientError) as again:
        eval(error.value.report.reproduce, {"np": np, "check_jvp": check_jvp, "rule": rule})
    assert str(again.value) == str(error.value)


# ---- both modes ------------------------------------------------------------------------------------------------------


def test_modes_that_agree_pass_even_where_differences_are_helpless():
    def wild(x):
        return np.sin(1.7e9 * x)

    def slope(x):
        return 1.7e9 * np.cos(1.7e9 * x)

    assert check_adjoint(wild, X, vjp=lambda g, out, x: g * slope(x), jvp=lambda t, out, x: t[0] * slope(x)).ok
    assert check_adjoint(np.multiply, X, Y, vjp=reverse, jvp=product).ok
    assert check_adjoint(np.multiply, X, Y, vjp=reverse, jvp=product, argnums=(1,)).ok
    x = np.random.default_rng(0).normal(size=(50, 40))
    assert check_adjoint(np.cumsum, x, vjp=lambda g, out, x: np.cumsum(g[::-1])[::-1].reshape(x.shape),
                         jvp=lambda t, out, x: np.cumsum(t[0])).ok  # fmt: skip


@pytest.mark.parametrize(
    ("vjp", "jvp"),
    [
        (lambda g, out, x, y: (1.0000001 * g * y, g * x), product),
        (lambda g, out, x, y: (g * x, g * y), product),
        (reverse, lambda t, out, x, y: product(t, out, y, x)),
        (reverse, lambda t, out, x, y: np.roll(product(t, out, x, y), 1)),
    ],
)
def test_modes_that_disagree_are_caught(vjp, jvp):
    with pytest.raises(GradientError, match="forward and reverse mode of multiply disagree"):
        check_adjoint(np.multiply, X, Y, vjp=vjp, jvp=jvp)


def test_check_vjp_compares_the_modes_if_it_is_given_both():
    assert check_vjp(np.multiply, X, Y, vjp=reverse, jvp=product).ok
    with pytest.raises(GradientError, match="disagree"):
        check_vjp(np.multiply, X, Y, vjp=reverse, jvp=lambda t, out, x, y: 2 * product(t, out, x, y))
