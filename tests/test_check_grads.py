"""`check_grads` passes right functions of tensors, in both modes and at every order, and catches wrong derivatives."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.op import elementwise, primitive
from minigrad.testing import (
    GradientError,
    NondeterministicError,
    NondifferentiableError,
    check_grads,
    check_linear,
    check_vjp,
)

X = np.array([0.25, -1.5, 0.75])
Y = np.array([1.1, 0.6, -0.9])


def test_right_functions_pass():
    assert check_grads(mg.tanh, X).ok
    assert check_grads(lambda x, y: x * y + mg.exp(x), X, Y, order=3).ok
    assert check_grads(lambda x: (mg.sin(x), [mg.cos(x).sum()]), X).ok


def test_pytrees_tensors_and_other_leaves():
    """Leaves that are not floating are passed on; tensors, float32 and Python numbers are taken as float64."""

    def f(tree, scale, index):
        return {"out": mg.take(tree["W"] @ tree["x"], index) * scale, "count": np.array(3)}

    tree = {"W": mg.tensor([[0.5, -1.0], [0.25, 2.0]], dtype="float32", requires_grad=True), "x": X[:2]}
    report = check_grads(f, tree, 2.0, np.array([0, 0, 1]))
    assert report.ok
    assert "passed" in str(report)


def test_a_function_over_tracked_parameters():
    w = mg.tensor(Y, requires_grad=True)
    assert check_grads(lambda x: (x * w).sum(), X).ok


def test_large_arguments_are_probed():
    x = np.random.default_rng(0).random((20, 30))
    assert check_grads(lambda x: mg.tanh(x).sum(), x).ok


def wrong_forward_mode():
    @primitive()
    def _double(xp, x):
        return 2 * x

    @_double.vjp(0)
    def double_dx(g, out, x):
        return 2.0 * g

    @_double.jvp(0)
    def double_jvp(t, out, x):
        return 2.001 * t

    return _double


def wrong_second_order():
    @elementwise
    def _cube(xp, x):
        return x * x * x

    @_cube.partial
    def cube_dx(out, x):
        return 3.0 * mg.stop_gradient(x) * x  # right, but as a function of x only half of it is seen

    return _cube


@pytest.fixture
def forget_ops():
    """Ops defined by a test are taken out of the registry again."""
    from minigrad.ops import REGISTRY

    before = set(REGISTRY)
    yield
    for name in set(REGISTRY) - before:
        del REGISTRY[name]


@pytest.mark.usefixtures("forget_ops")
def test_wrong_forward_mode_is_caught():
    with pytest.raises(GradientError, match="forward mode: the derivative of f along a direction"):
        check_grads(wrong_forward_mode(), X)


@pytest.mark.usefixtures("forget_ops")
def test_a_wrong_second_derivative_is_caught_at_order_2_only():
    cube = wrong_second_order()
    assert check_grads(cube, X, order=1).ok
    with pytest.raises(GradientError, match="derivative of the gradient of f"):
        check_grads(cube, X, order=2)


def test_a_stopped_gradient_is_caught():
    with pytest.raises(GradientError, match=r"args\[0\]\['h'\] is wrong") as error:
        check_grads(lambda s: mg.stop_gradient(s["h"]) * s["c"], {"c": X, "h": Y})
    assert "the analytic gradient is 0 everywhere" in str(error.value)


def test_kinks_and_random_functions_are_named():
    with pytest.raises(NondifferentiableError, match="this is a kink"):
        check_grads(mg.relu, np.array([0.0, 1.0]))
    rng = np.random.default_rng(0)
    with pytest.raises(NondeterministicError, match="two different results"):
        check_grads(lambda x: x * rng.random(), X)


def test_bad_input():
    with pytest.raises(TypeError, match="no leaf of the arguments is floating-point"):
        check_grads(mg.sum, np.array([1, 2]))
    with pytest.raises(GradientError, match="returned no floating-point array"):
        check_grads(mg.argmax, X)


class Foreign:
    """An array of a library whose dtypes are its own, as PyTorch's are."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.dtype = object()
        self.shape = self.values.shape


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_vjp(lambda x: x, Foreign(X), vjp=lambda g, out, x: g),
        lambda: check_vjp(lambda x: Foreign(2 * x), X, vjp=lambda g, out, x: 2 * g),
        lambda: check_vjp(lambda x: (x, [Foreign(x)]), X, vjp=lambda g, out, x: g),
        lambda: check_linear(lambda x: x, Foreign(X), vjp=lambda g, out, x: g),
        lambda: check_grads(mg.tanh, Foreign(X)),
    ],
    ids=["argument", "result", "in a result", "check_linear", "check_grads"],
)
def test_an_array_of_another_library_is_refused_and_the_way_to_write_it_named(check):
    with pytest.raises(TypeError, match=r"NumPy arrays, and got a \w+\.Foreign.*docs/adapters.md"):
        check()


def doubled_rule(size):
    """`size * x` with a rule that is wrong by a factor of 2."""
    return mg.custom_op(
        lambda x: size * x, vjp=lambda g, out, x: (2 * size * g,), jvp=lambda ts, out, x: 2 * size * ts[0]
    )


def test_small_derivatives_are_compared_absolutely():
    """As the docstring says: the tolerance ends at 1e-8 / 128; a larger function shows what lies below."""
    wrong = doubled_rule(1e-12)
    assert check_grads(wrong, X).ok
    with pytest.raises(GradientError, match="derivative of f"):
        check_grads(lambda x: 1e12 * wrong(x), X)
    with pytest.raises(GradientError, match="derivative of"):
        check_grads(doubled_rule(1e-9), X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_module_in_float32_is_named_with_its_copy_in_float64(dtype):
    """What the module itself says, to convert the input, would not help: it is passed as float64 whatever it was."""
    net, x = mg.nn.Linear(2, 3, seed=0), np.ones((4, 2), dtype)
    with pytest.raises(TypeError, match=r'Linear takes float32 .* float64 .*net\.astype\("float64"\)') as error:
        check_grads(net, x)
    assert "Linear has parameters of dtype float32" in str(error.value.__cause__)
    assert check_grads(net.astype("float64"), x).ok


def test_another_mistake_stays_what_it_is():
    with pytest.raises(TypeError, match="^minigrad.add: .* got str"):
        check_grads(lambda x: mg.add(x, "a"), X)


def test_the_message_can_be_pasted():
    def f(x):
        return mg.stop_gradient(x) * x

    with pytest.raises(GradientError) as error:
        check_grads(f, X)
    with pytest.raises(GradientError) as again:
        eval(error.value.report.reproduce, {"np": np, "check_grads": check_grads, "f": f})
    assert str(again.value) == str(error.value)
