"""Optimisers against their formulas, written out by hand; clipping; states; and what must not happen."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend import get_backend
from minigrad.testing import fake_cupy

P = np.array([1.0, -2.0, 0.5])
G1, G2 = np.array([0.5, -1.0, 2.0]), np.array([-0.25, 3.0, 1.0])
TIGHT = {"rtol": 1e-14, "atol": 1e-16}

MAKERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "nesterov": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "Adagrad": lambda params: optim.Adagrad(params, lr=0.5),
    "RMSProp": lambda params: optim.RMSProp(params, lr=0.1),
    "Adam": lambda params: optim.Adam(params, lr=0.1),
    "AdamW": lambda params: optim.AdamW(params, lr=0.1, weight_decay=0.25),
}


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def host(x):
    return mg.asarray(x).detach().numpy()


def leaf(values, dtype="float64"):
    return mg.tensor(np.array(values, dtype), requires_grad=True)


def give(p, g):
    p.grad = p.backend.asarray(np.asarray(g, p.dtype))


def two_steps(opt, p):
    seen = []
    for g in (G1, G2):
        give(p, g)
        opt.step()
        seen.append(host(p))
    return seen


# ---- the formulas --------------------------------------------------------------------------------------------------


def test_sgd(backend):
    p = leaf(P)
    first, second = two_steps(optim.SGD([p], lr=0.1), p)
    np.testing.assert_allclose(first, P - 0.1 * G1, **TIGHT)
    np.testing.assert_allclose(second, P - 0.1 * G1 - 0.1 * G2, **TIGHT)


def test_momentum(backend):
    """v1 = g1, v2 = 0.9 g1 + g2."""
    p = leaf(P)
    first, second = two_steps(optim.SGD([p], lr=0.1, momentum=0.9), p)
    np.testing.assert_allclose(first, P - 0.1 * G1, **TIGHT)
    np.testing.assert_allclose(second, P - 0.1 * (1.9 * G1 + G2), **TIGHT)


def test_nesterov(backend):
    """p - lr (g + 0.9 v): 1.9 g1, then g2 + 0.9 (0.9 g1 + g2)."""
    p = leaf(P)
    first, second = two_steps(optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True), p)
    np.testing.assert_allclose(first, P - 0.19 * G1, **TIGHT)
    np.testing.assert_allclose(second, P - 0.1 * ((1.9 + 0.81) * G1 + 1.9 * G2), **TIGHT)


def test_adagrad(backend):
    """Over the root of the sum of squares so far."""
    p = leaf(P)
    first, second = two_steps(optim.Adagrad([p], lr=0.1, eps=1e-3), p)
    expected = P - 0.1 * G1 / (np.abs(G1) + 1e-3)
    np.testing.assert_allclose(first, expected, **TIGHT)
    np.testing.assert_allclose(second, expected - 0.1 * G2 / (np.sqrt(G1**2 + G2**2) + 1e-3), **TIGHT)


def test_rmsprop(backend):
    """Over the root of the mean square: 0.3 g1^2, then 0.7 * 0.3 g1^2 + 0.3 g2^2."""
    p = leaf(P)
    first, second = two_steps(optim.RMSProp([p], lr=0.1, decay=0.7, eps=1e-3), p)
    expected = P - 0.1 * G1 / (np.sqrt(0.3 * G1**2) + 1e-3)
    np.testing.assert_allclose(first, expected, **TIGHT)
    expected = expected - 0.1 * G2 / (np.sqrt(0.21 * G1**2 + 0.3 * G2**2) + 1e-3)
    np.testing.assert_allclose(second, expected, **TIGHT)


def test_adam(backend):
    """Step 1: the corrected moments are g and g ** 2. Step 2: weighted means of both gradients."""
    p = leaf(P)
    first, second = two_steps(optim.Adam([p], lr=0.1, betas=(0.8, 0.9), eps=1e-3), p)
    expected = P - 0.1 * G1 / (np.abs(G1) + 1e-3)
    np.testing.assert_allclose(first, expected, **TIGHT)
    m = (0.8 * 0.2 * G1 + 0.2 * G2) / (1 - 0.8**2)
    v = (0.9 * 0.1 * G1**2 + 0.1 * G2**2) / (1 - 0.9**2)
    np.testing.assert_allclose(second, expected - 0.1 * m / (np.sqrt(v) + 1e-3), **TIGHT)


def test_adamw(backend):
    """Adam's two steps, and besides each p loses lr * weight_decay = 0.025 of what it was before."""
    p = leaf(P)
    first, second = two_steps(optim.AdamW([p], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.25), p)
    expected = P - 0.1 * G1 / (np.abs(G1) + 1e-3) - 0.025 * P
    np.testing.assert_allclose(first, expected, **TIGHT)
    m = (0.8 * 0.2 * G1 + 0.2 * G2) / (1 - 0.8**2)
    v = (0.9 * 0.1 * G1**2 + 0.1 * G2**2) / (1 - 0.9**2)
    np.testing.assert_allclose(second, expected - 0.1 * m / (np.sqrt(v) + 1e-3) - 0.025 * expected, **TIGHT)


def test_the_decay_of_adamw_is_outside_of_the_moments():
    """With no gradient but zeros, Adam stands still; AdamW multiplies by 1 - lr * weight_decay."""
    p = leaf(P)
    opt = optim.AdamW([p], lr=0.5, weight_decay=0.5)
    give(p, np.zeros(3))
    opt.step()
    np.testing.assert_array_equal(host(p), 0.75 * P)
    assert not opt.state_dict()["m.0"].any()


@pytest.mark.parametrize(
    ("opt", "first"),
    [
        (optim.Adam, P - 1e-3 * G1 / (np.abs(G1) + 1e-8)),
        (optim.AdamW, P - 1e-3 * G1 / (np.abs(G1) + 1e-8) - 1e-5 * P),
        (optim.Adagrad, P - 1e-2 * G1 / (np.abs(G1) + 1e-10)),
        (optim.RMSProp, P - 1e-3 * G1 / (np.sqrt(0.1) * np.abs(G1) + 1e-8)),
    ],
    ids=["Adam", "AdamW", "Adagrad", "RMSProp"],
)
def test_the_numbers_by_default(opt, first):
    p = leaf(P)
    np.testing.assert_allclose(two_steps(opt([p]), p)[0], first, **TIGHT)


TORCH = {
    "SGD": (optim.SGD, {"lr": 0.1}, {}),
    "SGD, momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}, {}),
    "SGD, Nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {}),
    "Adagrad": (optim.Adagrad, {"lr": 0.1, "eps": 1e-4}, {}),
    "RMSprop": (optim.RMSProp, {"lr": 0.1, "eps": 1e-4}, {"decay": 0.8}),
    "Adam": (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-4}, {}),
    "AdamW": (optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.3}, {}),
}


@pytest.mark.parametrize("name", TORCH)
def test_ten_steps_of_torch(name):
    torch = pytest.importorskip("torch", reason="torch cannot be imported, so its optimisers cannot be compared")
    ours, same, own = TORCH[name]
    theirs = getattr(torch.optim, name.split(",", maxsplit=1)[0])
    p, q = leaf(P), torch.tensor(P, requires_grad=True)
    opt = ours([p], **same, **own)
    reference = theirs([q], **same, **({"alpha": own["decay"]} if own else {}))
    for g in np.random.default_rng(0).normal(size=(10, 3)):
        give(p, g)
        q.grad = torch.tensor(g)
        opt.step()
        reference.step()
        np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=1e-13, atol=1e-15)


def test_a_changed_learning_rate_acts_at_once(backend):
    p = leaf(P)
    opt = optim.SGD([p], lr=0.1)
    opt.lr = 0.2
    give(p, G1)
    opt.step()
    np.testing.assert_allclose(host(p), P - 0.2 * G1, **TIGHT)


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.int64(1)])
def test_an_assigned_number_is_python_s_own(number, make, backend):
    """A NumPy scalar would turn float32 parameters into float64."""
    p, q = leaf(P, "float32"), leaf(P, "float32")
    opt, plain = make([p]), make([q])
    opt.lr, plain.lr = number, number.item()
    assert type(opt.lr) is float
    for each, moving in ((p, opt), (q, plain)):
        give(each, G1)
        moving.step()
    assert p.dtype == np.float32
    assert host(p).tobytes() == host(q).tobytes()


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("lr", -0.1, ValueError, r"lr lies in \[0, inf\), got -0.1"),
        ("lr", math.nan, ValueError, "lr lies in"),
        ("lr", "0.1", TypeError, "lr is a number, got str"),
        ("lr", 1j, TypeError, "lr is a number, got complex"),
        ("momentum", 1.0, ValueError, r"momentum lies in \[0, 1\), got 1.0"),
        ("nesterov", 0.5, ValueError, "nesterov is True or False, got 0.5"),
    ],
)
def test_an_assigned_number_is_checked(name, value, error, message):
    opt = optim.SGD([leaf(P)], lr=0.1, momentum=0.5)
    with pytest.raises(error, match=message):
        setattr(opt, name, value)
    assert (opt.lr, opt.momentum, opt.nesterov) == (0.1, 0.5, False)


def test_a_step_that_fails_changes_nothing():
    """An update rule of the user's own that makes another dtype, for the second parameter."""

    class Wrong(optim.Optimiser):
        def update(self, p, g, count):
            return (p - self.lr * g.astype("float64"),)

    params = {"a": leaf(P), "b": leaf(P, "float32")}
    opt = Wrong(params, lr=0.1)
    for p in params.values():
        give(p, G1)
    needed = r"Wrong makes float64\(3,\) for the parameter 'b', needed is float32\(3,\), nothing was changed"
    with pytest.raises(ValueError, match=needed):
        opt.step()
    for name, p in params.items():
        np.testing.assert_array_equal(host(p), P)
        np.testing.assert_array_equal(host(p.grad), G1)
        assert opt.state_dict()[f"count.{name}"] == 0


def test_a_momentum_that_is_assigned_acts(backend):
    """v1 = g1, then v2 = 0.5 g1 + g2, and without it p - lr g again."""
    p = leaf(P)
    opt = optim.SGD([p], lr=0.125)
    give(p, G1)
    opt.step()
    opt.momentum = 0.5
    give(p, G2)
    opt.step()
    np.testing.assert_array_equal(host(p), P - 0.125 * G1 - 0.125 * (0.5 * G1 + G2))
    opt.momentum = 0.0
    give(p, G1)
    opt.step()
    np.testing.assert_array_equal(host(p), P - 0.125 * G1 - 0.125 * (0.5 * G1 + G2) - 0.125 * G1)


@pytest.mark.parametrize("g", [1e-7, 1e-4, 6e4])
def test_float16_is_computed_in_float32(g, make, backend):
    """Squares of its gradients are 0 or inf in its own dtype."""
    half, single = leaf(P, "float16"), leaf(P, "float32")
    opt, reference = make({"w": half}), make({"w": single})
    g16 = np.full(3, g, "float16")
    opt.lr = reference.lr = 1e-3
    for _ in range(2):
        single.data = backend.asarray(host(half).astype("float32"))
        give(half, g16)
        give(single, g16)
        opt.step()
        reference.step()
        assert half.dtype == np.float16
        np.testing.assert_array_equal(host(half), host(single).astype("float16"))
    assert np.isfinite(host(half)).all()
    for name, array in opt.state_dict().items():
        expected = reference.state_dict()[name]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(host(array), host(expected))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shapes_and_dtypes_are_kept(make, dtype, shape, backend):
    p = leaf(np.ones(shape), dtype)
    opt = make({"p": p})
    for _ in range(2):
        give(p, np.full(shape, 0.5))
        opt.step()
        assert (p.shape, p.dtype, type(p.data)) == (shape, np.dtype(dtype), backend.array_type)
        assert (host(p) < 1).all()
    opt.load_state_dict(opt.state_dict())
    give(p, np.full(shape, 0.5))
    opt.step()
    assert p.dtype == np.dtype(dtype)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "AdamW"])  # which ends nearer to 0
def test_every_optimiser_goes_downhill(name, backend):
    """To the minimum of a quadratic form whose axes are tilted and stretched."""
    A, target = backend.asarray(np.array([[3.0, 0.5], [0.5, 1.0]])), backend.asarray(np.array([1.0, -2.0]))
    p = leaf([0.0, 0.0])
    opt = MAKERS[name]([p])

    def loss():
        d = p - target
        return (d @ A * d).sum()

    for _ in range(300):
        loss().backward()
        opt.step()
        if name == "RMSProp":  # whose steps are about as long as lr, to the end
            opt.lr *= 0.97
    assert float(host(loss())) < 1e-8


# ---- params --------------------------------------------------------------------------------------------------------


def test_params_are_modules_and_trees_of_tensors():
    cell, x = nn.RNNCell(1, 2), leaf([1.0])
    assert list(optim.SGD(cell, 0.1).params) == ["W_x", "W_h", "b"]
    assert list(optim.SGD(cell.parameters(), 0.1).params) == ["W_x", "W_h", "b"]
    assert list(optim.SGD([cell, {"x": x}, (x, cell)], 0.1).params) == ["0.W_x", "0.W_h", "0.b", "1.x"]
    assert optim.SGD(x, 0.1).params == {"": x}


def test_what_an_optimiser_is_not_given_is_frozen(make, backend):
    net = nn.Deep([nn.RNNCell(1, 2, seed=0), nn.RNNCell(2, 2, seed=1)])
    opt, before = make(net.layers[1]), net.state_dict()
    outputs, _ = nn.dynamic_rnn(net, backend.asarray(np.ones((1, 3, 1), "float32")))
    outputs.sum().backward()
    opt.step()
    moved = {path for path, array in net.state_dict().items() if (host(array) != host(before[path])).any()}
    assert moved == {"layers.1.W_x", "layers.1.W_h", "layers.1.b"}
    assert {path for path, p in net.parameters().items() if p.grad is None} == moved


def test_a_shared_tensor_moves_once(backend):
    x = leaf([1.0])
    opt = optim.SGD([x, x], 0.1)
    give(x, [1.0])
    opt.step()
    assert host(x) == [0.9]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, "no tensor that requires a gradient"),
        (nn.Module(), ValueError, "no tensor that requires a gradient"),
        ({"W": mg.tensor([1.0])}, TypeError, "at 'W' holds a tensor that does not require a gradient"),
        ([np.ones(2)], TypeError, "at '0' holds a ndarray"),
        ([leaf([1.0]) * 2], TypeError, "at '0' holds a tensor that does not require a gradient"),
        ({"a": [leaf(1.0)], "a.0": leaf(2.0)}, ValueError, "two parameters have the path 'a.0'"),
        (None, TypeError, "params holds a NoneType"),
        (nn.RNNCell(1, 2).parameters().values(), TypeError, r"a dict_values: pass the net, or net.parameters\(\)"),
        (list(nn.RNNCell(1, 2).parameters().items()), TypeError, "at '0.0' holds a str: pass the net, or net.param"),
    ],
    ids=range(9),
)
def test_wrong_params_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        optim.Adam(params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, lr=-0.1), r"lr lies in \[0, inf\), got -0.1"),
        (lambda p: optim.SGD(p, lr=float("nan")), r"lr lies in"),
        (lambda p: optim.SGD(p, lr=0.1, momentum=1.0), r"momentum lies in \[0, 1\), got 1.0"),
        (lambda p: optim.SGD(p, lr=0.1, nesterov=True), "nesterov=True needs a momentum above 0"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), r"beta2 lies in \[0, 1\), got 1.0"),
        (lambda p: optim.Adam(p, betas=(-0.1, 0.9)), r"beta1 lies in"),
        (lambda p: optim.Adam(p, eps=-1.0), r"eps lies in"),
        (lambda p: optim.AdamW(p, weight_decay=-0.1), r"weight_decay lies in \[0, inf\), got -0.1"),
        (lambda p: optim.Adagrad(p, eps=-1.0), r"eps lies in"),
        (lambda p: optim.Adagrad(p, lr=float("inf")), r"lr lies in"),
        (lambda p: optim.RMSProp(p, eps=-1.0), r"eps lies in"),
        (lambda p: optim.RMSProp(p, decay=1.0), r"decay lies in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([leaf(P)])
    with pytest.raises(TypeError, match="lr is a number, got str"):
        optim.Adam([leaf(P)], lr="0.1")


# ---- what a step does besides --------------------------------------------------------------------------------------


def test_a_step_binds_new_arrays_and_clears_gradients(make, backend):
    p = leaf(P)
    opt = make([p])
    old, g = p.data, backend.asarray(G1.copy())
    for _ in range(2):
        before = host(p)
        p.grad = g
        held, kept = p.data, host(p)
        opt.step()
        assert p.grad is None
        assert p.data is not held
        np.testing.assert_array_equal(host(mg.asarray(held)), kept)
        assert (host(p) != before).all()
    np.testing.assert_array_equal(host(mg.asarray(old)), P)
    np.testing.assert_array_equal(host(mg.asarray(g)), G1)


def test_a_step_leaves_a_retained_tape_intact():
    x = leaf(P)
    opt = optim.SGD([x], lr=0.1)
    y = (x**3).sum()
    y.backward(retain=True)
    first = host(x.grad)
    opt.step()
    y.backward()
    np.testing.assert_array_equal(host(x.grad), first)  # the gradient at the point where y was computed


def test_without_any_gradient_a_step_is_an_error(make):
    with pytest.raises(RuntimeError, match=r"no parameter has a gradient: call backward\(\)"):
        make([leaf(P)]).step()
    with pytest.raises(RuntimeError, match="no parameter has a gradient"):
        make([leaf(P)]).step(allow_unused=True)


def test_a_parameter_without_a_gradient_is_an_error_unless_allowed(make, backend):
    params = {"a": leaf(P), "b": leaf(P), "c": leaf(P)}
    opt = make(params)
    give(params["a"], G1)
    state = opt.state_dict()
    with pytest.raises(RuntimeError, match=r"2 of 3 parameters have no gradient: b, c; .*allow_unused=True"):
        opt.step()
    assert params["a"].grad is not None
    for name, array in opt.state_dict().items():
        np.testing.assert_array_equal(host(array), host(state[name]))
    opt.step(allow_unused=True)
    assert (host(params["a"]) != P).all()
    assert params["a"].grad is None
    for name in "bc":
        np.testing.assert_array_equal(host(params[name]), P)
        assert opt.state_dict()[f"count.{name}"] == 0


def test_each_parameter_has_its_own_count_of_steps(make):
    """One that joins late starts at step 1, and the other goes on, as if each were alone."""
    early, late = leaf(P), leaf(P)
    both = make([early, late])
    alone = [leaf(P), leaf(P)]
    single = [make([p]) for p in alone]
    for late_g in (None, G1, G2):
        for p, g in ((early, G2), (late, late_g), (alone[0], G2), (alone[1], late_g)):
            if g is not None:
                give(p, g)
        both.step(allow_unused=True)
        single[0].step()
        if late_g is not None:
            single[1].step()
        np.testing.assert_array_equal(host(early), host(alone[0]))
        np.testing.assert_array_equal(host(late), host(alone[1]))


# ---- states --------------------------------------------------------------------------------------------------------


def test_training_goes_on_bit_for_bit(make, backend):
    def train(p, opt, gradients):
        for g in gradients:
            give(p, g)
            opt.step()

    draw = np.random.default_rng(0)
    gradients = draw.normal(size=(6, 3)).astype("float32")
    through = leaf(P, "float32")
    opt = make({"w": through})
    train(through, opt, gradients[:3])
    parameters, state = host(through), opt.state_dict()
    train(through, opt, gradients[3:])

    resumed = leaf(parameters, "float32")
    opt = make({"w": resumed})
    opt.lr = 7.0  # the state knows better
    opt.load_state_dict(state)
    train(resumed, opt, gradients[3:])
    assert host(resumed).tobytes() == host(through).tobytes()


def test_a_state_is_a_copy(make):
    p = leaf(P)
    opt = make([p])
    give(p, G1)
    opt.step()
    state = opt.state_dict()
    kept = {name: array.copy() for name, array in state.items()}
    for array in state.values():
        array[...] = 0
    for name, array in opt.state_dict().items():
        np.testing.assert_array_equal(array, kept[name])


def test_the_names_in_a_state(backend):
    opt = optim.Adam({"cell": nn.RNNCell(1, 1), "x": leaf(P)})
    names = ["lr", "beta1", "beta2", "eps"]
    for path in ("cell.W_x", "cell.W_h", "cell.b", "x"):
        names += [f"count.{path}", f"m.{path}", f"v.{path}"]
    assert list(opt.state_dict()) == names
    assert opt.state_dict()["count.x"].dtype == np.int64


@pytest.mark.parametrize(
    ("opt", "names"),
    [
        (optim.Adagrad, ["lr", "eps", "count.w", "s.w"]),
        (optim.RMSProp, ["lr", "decay", "eps", "count.w", "v.w"]),
        (optim.AdamW, ["lr", "beta1", "beta2", "eps", "weight_decay", "count.w", "m.w", "v.w"]),
    ],
)
def test_the_names_in_the_states_of_others(opt, names):
    assert list(opt({"w": leaf(P)}).state_dict()) == names


def test_a_state_that_does_not_fit_changes_nothing():
    p = leaf(P)
    opt = optim.Adam({"w": p})
    give(p, G1)
    opt.step()
    state = opt.state_dict()
    wrong = dict(state)
    del wrong["m.w"]
    wrong["lr"] = np.array(5.0)
    wrong["v.w"] = np.zeros(2)
    wrong["velocity.w"] = np.zeros(3)
    with pytest.raises(ValueError, match="this state does not fit Adam, nothing was changed") as error:
        opt.load_state_dict(wrong)
    for line in ("m.w is missing", "velocity.w is unexpected", "v.w must be float64(3,), got float64(2,)"):
        assert line in str(error.value)
    for name, array in opt.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_a_state_of_another_kind_of_optimiser_is_refused():
    sgd, adagrad = optim.SGD([leaf(P)], 0.1), optim.Adagrad([leaf(P)], 0.1)
    with pytest.raises(ValueError, match=r"velocity\.0 is missing"):
        sgd.load_state_dict(adagrad.state_dict())


@pytest.mark.parametrize(
    ("opt", "name", "value"),
    [
        (optim.Adam, "lr", math.nan),
        (optim.Adam, "lr", -1.0),
        (optim.Adam, "beta2", 1.0),
        (optim.AdamW, "weight_decay", math.inf),
        (optim.Adagrad, "eps", -1.0),
        (optim.RMSProp, "decay", 5.0),
        (optim.SGD, "momentum", 5.0),
        (optim.SGD, "nesterov", math.nan),
        (optim.Adam, "count.w", -1),
    ],
)
def test_a_number_that_the_constructor_refuses_is_not_loaded(opt, name, value):
    p = leaf(P)
    opt = opt({"w": p}, lr=0.1)
    kept = opt.state_dict()
    give(p, G1)
    opt.step()
    wrong = opt.state_dict() | {"lr": np.array(0.5)}
    wrong |= {name: np.array(value, kept[name].dtype)}
    opt.load_state_dict(kept)
    with pytest.raises(ValueError, match=f"^{name} (lies in|is True or False)"):
        opt.load_state_dict(wrong)
    for path, array in opt.state_dict().items():
        np.testing.assert_array_equal(array, kept[path])


# ---- clipping ------------------------------------------------------------------------------------------------------

CLIPS = {
    "clip_global_norm": optim.clip_global_norm,
    "clip_value": optim.clip_value,
    "Clip": lambda params, limit: optim.Clip(limit)(params),
}


@pytest.fixture(params=CLIPS)
def clip(request):
    return CLIPS[request.param]


def test_clipping_scales_all_gradients_together(backend):
    a, b, unused = leaf([1.0, 1.0]), leaf([[1.0]], "float32"), leaf(1.0)
    give(a, [3.0, 0.0])
    give(b, [[4.0]])
    norm = optim.clip_global_norm({"a": a, "b": b, "unused": unused}, 1.0)
    assert type(norm) is float
    assert norm == 5.0
    np.testing.assert_allclose(host(a.grad), [0.6, 0.0], rtol=1e-15)
    np.testing.assert_allclose(host(b.grad), [[0.8]], rtol=1e-7)
    assert (b.grad.dtype, type(b.grad)) == (np.float32, backend.array_type)
    assert unused.grad is None


@pytest.mark.parametrize("max_norm", [5.0, 7.5, float("inf")])
def test_a_norm_within_the_limit_changes_no_bit(max_norm):
    a = leaf([1.0, 1.0])
    give(a, [3.0, 4.0])
    g = a.grad
    assert optim.clip_global_norm([a], max_norm) == 5.0
    assert a.grad is g


def test_clipping_a_0d_gradient(backend):
    a = leaf(1.0)
    give(a, -8.0)
    assert optim.clip_global_norm(a, 2.0) == 8.0
    assert host(a.grad) == -2.0
    assert type(a.grad) is backend.array_type


def test_the_norm_of_zeros_is_0(clip):
    a = leaf([1.0])
    give(a, [0.0])
    assert clip([a], 1.0) == 0.0
    assert a.grad == [0.0]


def test_clipping_after_the_step_is_an_error(clip):
    """It would clip nothing, without a word: the step has cleared the gradients."""
    a = leaf([1.0])
    give(a, [3.0])
    optim.SGD([a], 0.1).step()
    with pytest.raises(RuntimeError, match=r"clip after backward\(\) and before step\(\)"):
        clip([a], 1.0)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_that_is_not_above_0_is_an_error(clip, limit):
    with pytest.raises(ValueError, match=r"max_(norm|value) is a number above 0, got"):
        clip([leaf([1.0])], limit)


@pytest.mark.parametrize("limit", ["1", None, [1.0], 1j])
def test_a_limit_that_is_no_number_is_an_error(clip, limit):
    with pytest.raises(TypeError, match=r"max_(norm|value) is a number, got (str|NoneType|list|complex)$"):
        clip([leaf([1.0])], limit)


def test_a_limit_of_numpy_keeps_the_dtype_of_the_gradients(clip, backend):
    a = leaf([1.0, 1.0], "float32")
    give(a, [0.0, 4.0])
    clip([a], np.float64(0.5))
    assert a.grad.dtype == np.float32
    np.testing.assert_array_equal(host(a.grad), [0.0, 0.5])


def test_the_norm_does_not_overflow_in_the_gradients_own_dtype(backend):
    a = leaf(np.ones(4), "float16")
    give(a, np.full(4, 40000.0))
    assert optim.clip_global_norm([a], 1.0) == 80000.0 == 2 * float(np.float16(40000))
    np.testing.assert_allclose(host(a.grad), np.full(4, 0.5), rtol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_norm_that_is_no_number_is_an_error_and_changes_nothing(bad, backend):
    a, b = leaf([1.0, 1.0]), leaf([1.0])
    give(a, [3.0, 4.0])
    give(b, [bad])
    with pytest.raises(FloatingPointError, match=r"have the norm (nan|inf), nothing was changed; NaN or too large: b$"):
        optim.clip_global_norm({"a": a, "b": b}, 1.0)
    np.testing.assert_array_equal(host(a.grad), [3.0, 4.0])
    np.testing.assert_array_equal(host(b.grad), [bad])


def test_values_are_limited_one_by_one(backend):
    a, b, unused, empty = leaf([0.0] * 4), leaf(1.0, "float32"), leaf(1.0), leaf([])
    give(a, [3.0, -4.0, 0.5, -1.0])
    give(b, -8.0)
    give(empty, [])
    assert optim.clip_value({"a": a, "b": b, "unused": unused, "empty": empty}, 1.0) == 8.0
    np.testing.assert_array_equal(host(a.grad), [1.0, -1.0, 0.5, -1.0])
    assert host(b.grad) == -1.0
    assert (b.grad.dtype, type(b.grad)) == (np.float32, backend.array_type)
    assert unused.grad is None


def test_values_within_the_limit_change_no_bit():
    a = leaf([1.0, 1.0])
    give(a, [3.0, -4.0])
    g = a.grad
    assert optim.clip_value([a], 4.0) == 4.0
    assert a.grad is g


def test_the_largest_of_empty_gradients_is_0():
    a = leaf([])
    give(a, [])
    assert optim.clip_value([a], 1.0) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_value_that_is_no_number_is_an_error_and_changes_nothing(bad, order, backend):
    params = {name: leaf([1.0, 1.0]) for name in order}
    give(params["a"], [3.0, 4.0])
    give(params["b"], [bad, 5.0])
    with pytest.raises(FloatingPointError, match=r"largest gradient is (nan|inf), .*changed; NaN or infinite: b$"):
        optim.clip_value(params, 1.0)
    np.testing.assert_array_equal(host(params["a"].grad), [3.0, 4.0])
    np.testing.assert_array_equal(host(params["b"].grad), [bad, 5.0])


@pytest.mark.parametrize("name", ["clip_global_norm", "clip_value"])
def test_clipping_waits_for_the_device_once(name):
    params = [leaf(values).to("strict") for values in ([1.0, 2.0], [[3.0]])]
    params = [mg.tensor(p, requires_grad=True) for p in params]
    for p in params:
        give(p, np.full(p.shape, 3.0))
    with fake_cupy.expect_syncs(1):
        getattr(optim, name)(params, 1.0)


def test_clip_counts_how_often_it_fired(backend):
    a, clip = leaf([0.0, 0.0]), optim.Clip(5.0)
    assert math.isnan(clip.last_norm)
    for g, norm, fired in (([3.0, 4.0], 5.0, 0), ([6.0, 8.0], 10.0, 1), ([0.0, 1.0], 1.0, 1), ([0.0, -7.0], 7.0, 2)):
        give(a, g)
        other = leaf([0.0, 0.0])
        give(other, g)
        assert clip([a]) == optim.clip_global_norm([other], 5.0) == clip.last_norm == norm
        np.testing.assert_array_equal(host(a.grad), host(other.grad))
        assert clip.fired == fired
    assert (clip.calls, clip.max_norm) == (4, 5.0)
    assert repr(clip) == "Clip(5): fired in 2 of 4 calls, last norm 7"


def test_a_clip_that_raises_has_not_counted():
    a, clip = leaf([0.0]), optim.Clip(1.0)
    give(a, [2.0])
    clip([a])
    give(a, [np.nan])
    with pytest.raises(FloatingPointError):
        clip([a])
    assert (clip.calls, clip.fired, clip.last_norm) == (1, 1, 2.0)


def test_the_counts_of_a_clip_are_a_state():
    a, clip = leaf([0.0]), optim.Clip(1.0)
    for g in (2.0, 0.5):
        give(a, [g])
        clip([a])
    resumed = optim.Clip(9.0)
    resumed.load_state_dict(clip.state_dict())
    assert vars(resumed) == vars(clip) == {"max_norm": 1.0, "calls": 2, "fired": 1, "last_norm": 0.5}
    assert [type(value) for value in vars(resumed).values()] == [float, int, int, float]
    state = clip.state_dict()
    del state["fired"]
    with pytest.raises(ValueError, match="does not fit Clip, nothing was changed: fired is missing"):
        resumed.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_norm", -1.0), ("max_norm", math.nan), ("calls", -1), ("fired", 3), ("last_norm", math.nan)],
)
def test_numbers_that_no_clip_has_are_not_loaded(name, value):
    a, clip = leaf([0.0]), optim.Clip(1.0)
    for g in (2.0, 0.5):
        give(a, [g])
        clip([a])
    state = optim.Clip(9.0).state_dict() | clip.state_dict() | {"max_norm": np.array(3.0)}
    state[name] = np.array(value, state[name].dtype)
    before = dict(vars(clip))
    with pytest.raises(ValueError, match=f"^{name} (lies in|is a number above 0)"):
        clip.load_state_dict(state)
    assert vars(clip) == before


# ---- all of it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_net_learns(kind, backend):
    """To tell at the end of a sequence which token it began with."""

    class Net(nn.Module):
        def __init__(self):
            self.embedding = nn.Embedding(3, 4, seed=0)
            self.cell = getattr(nn, kind)(4, 8, seed=0)
            self.out = nn.Linear(8, 3, seed=0)

        def __call__(self, tokens):
            outputs, _ = nn.dynamic_rnn(self.cell, self.embedding(tokens))
            return self.out(outputs[:, -1])

    net = Net()
    opt = optim.Adam(net, lr=0.03)
    tokens = np.array([[a, b, c] for a in range(3) for b in range(3) for c in range(3)])
    for _ in range(40):
        loss = mg.cross_entropy(net(tokens), tokens[:, 0]).mean()
        loss.backward()
        optim.clip_global_norm(net, 5.0)
        opt.step()
    assert loss.item() < 0.2
    assert (host(mg.argmax(net(tokens), axis=-1)) == tokens[:, 0]).all()


def test_a_training_step_leaves_nothing_for_the_garbage_collector():
    """Memory goes when its last user goes: no step makes reference cycles."""
    cell, readout = mg.nn.GRUCell(2, 3, seed=0), mg.nn.Linear(3, 4, seed=1)
    params = {"cell": cell, "readout": readout}
    optimiser = mg.optim.Adam(params)

    def step():
        outputs, _ = mg.nn.dynamic_rnn(cell, np.ones((5, 2, 2), "float32"), sequence_length=[2] * 5)
        mg.cross_entropy(readout(outputs), np.zeros((5, 2), int)).mean().backward()
        mg.optim.clip_global_norm(params, 1.0)
        optimiser.step()

    step()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            step()
        assert gc.collect() == 0
    finally:
        gc.enable()
