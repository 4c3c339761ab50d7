"""`gradient_property`: a function and shapes make a test, which passes right derivatives and shrinks wrong ones."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.internal.reflection import function_digest

import minigrad as mg
from minigrad.testing import Domain, GradientError, check_grads
from minigrad.testing.from_shapes import gradient_property, size, tensor

T, B, I, H = size("T", least=0), size("B"), size("I"), size("H")


@gradient_property(xs=tensor((T, B, I)), h=tensor((B, H)), W=tensor((I, H)), U=tensor((H, H)), max_examples=15)
def test_a_scan(xs, h, W, U):
    """Sizes with one name are one size, and T = 0 is among them."""
    return mg.scan(lambda h, x: mg.tanh(x @ W + h @ U), xs, h)


@gradient_property(x=tensor((B, 3), Domain(avoid=(0.0,))), order=2, max_examples=10)
def test_second_order(x):
    return {"relu": mg.relu(x), "norm": mg.norm(x)}


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


@gradient_property(
    x=tensor((B, I)),
    vjp=lambda g, out, x: out * (g - (g * out).sum(axis=-1, keepdims=True)),
    jvp=lambda t, out, x: out * (t[0] - (t[0] * out).sum(axis=-1, keepdims=True)),
    max_examples=10,
)
def test_a_rule_without_a_framework(x):
    return softmax(x)


@gradient_property(x=tensor(st.sampled_from([(), (2,), (2, 1)])), max_examples=10)
def test_a_strategy_of_shapes(x):
    return mg.exp(x)


def test_it_is_an_ordinary_test():
    assert test_a_scan.__name__ == "test_a_scan"
    assert test_a_scan.__doc__.startswith("Sizes with one name")
    assert check_grads(test_a_rule_in_minigrad.function, np.ones((2, 2)), np.ones(2)).ok


@gradient_property(x=tensor((B, H)), y=tensor((H,)), max_examples=10)
def test_a_rule_in_minigrad(x, y):
    return x * y


def test_a_wrong_derivative_is_shrunk_and_can_be_pasted():
    @gradient_property(x=tensor((T, B)), h=tensor((B,)), max_examples=30)
    def test_wrong(x, h):
        return mg.stop_gradient(x) * h + x

    with pytest.raises(GradientError, match=r"derivative of f with respect to args\[0\] is wrong") as error:
        test_wrong()
    line = error.value.report.reproduce
    assert line == "check_grads(test_wrong.function, np.array([[1.0]]), np.array([2.0]), order=1, seed=0)"
    with pytest.raises(GradientError) as again:
        eval(line, {"np": np, "check_grads": check_grads, "test_wrong": test_wrong})
    assert again.value.report.worst == error.value.report.worst


def test_failures_of_one_test_are_not_tried_on_another():
    """Hypothesis keeps them; tests of the same name in two places are two tests."""

    def made():
        @gradient_property(x=tensor((B,)))
        def test_square(x):
            return x * x

        return test_square

    def also_made():
        @gradient_property(x=tensor((B,)))
        def test_square(x):
            return x * x

        return test_square

    first, again, other = (function_digest(make().hypothesis.inner_test) for make in (made, made, also_made))
    assert first == again
    assert first != other


def test_a_wrong_rule_is_caught():
    @gradient_property(x=tensor((B, I)), vjp=lambda g, out, x: out * (g - g.mean()), max_examples=20)
    def test_wrong(x):
        return softmax(x)

    with pytest.raises(GradientError, match="argument 0 is wrong"):
        test_wrong()


def test_both_modes_are_compared_if_both_are_given():
    @gradient_property(x=tensor((3,)), vjp=lambda g, out, x: 2 * g, jvp=lambda t, out, x: 3 * t[0], max_examples=5)
    def test_wrong(x):
        return 2 * x

    with pytest.raises(GradientError, match="disagree"):
        test_wrong()


def test_points_at_a_kink_are_passed_over():
    @gradient_property(x=tensor((2,), Domain(-1 / 1024, 1 / 1024)), max_examples=10)
    def test_some_kinks(x):
        return mg.abs(x)

    test_some_kinks()


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match=r"gradient_property needs the function's arguments"):
        gradient_property()
    with pytest.raises(TypeError, match=r"gradient_property: x must be made by tensor\(shape, domain\), got \(3, 2\)"):
        gradient_property(x=(3, 2))


def test_values_keep_to_their_domains():
    seen = []

    @gradient_property(x=tensor((H, 4), Domain(0.5, 0.75)), y=tensor((H,), Domain(distinct=True)), max_examples=60)
    def test_collect(x, y):
        seen.append([np.array(mg.stop_gradient(a).data) if isinstance(a, mg.Tensor) else a for a in (x, y)])
        return mg.sqrt(x) * mg.expand_dims(y, 1)

    test_collect()
    assert {x.shape[0] for x, _ in seen} == {1, 2, 3}
    assert all(x.shape[0] == y.shape[0] for x, y in seen)
    assert all(x.min() > 0.25 and x.max() < 1.0 for x, _ in seen)
