"""Modules (paths, states, copies), Linear, Embedding and the initialisers."""

from __future__ import annotations

import collections
import copy
import dataclasses
import gc
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.nn import initialisers
from minigrad.nn.initialisers import seed_for
from minigrad.testing import check_grads


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


class Net(nn.Module):
    """A module of every container, with a tensor that is reached twice and one that is not trained."""

    def __init__(self, seed=0, outputs=2):
        self.name = "net"
        self.embedding = nn.Embedding(5, 3, seed=seed)
        self.layers = [nn.Linear(3, 4, seed=seed), nn.LSTMCell(4, 2, seed=seed)]
        self.heads = {"main": nn.Linear(2, outputs, bias=False, seed=seed), "pair": (mg.zeros(1, requires_grad=True),)}
        self.tied = self.embedding.W
        self.state = nn.LSTMState(mg.zeros(2, "float32"), None)
        self.itself = self


PARAMETERS = [
    "embedding.W", "layers.0.W", "layers.0.b", "layers.1.W_x", "layers.1.W_h", "layers.1.b", "heads.main.W",
    "heads.pair.0",
]  # fmt: skip


# ---- paths ---------------------------------------------------------------------------------------------------------


def test_parameters_are_found_by_path_in_order_of_assignment():
    net = Net()
    found = net.parameters()
    assert list(found) == PARAMETERS
    assert found["layers.1.W_x"] is net.layers[1].W_x
    assert found["embedding.W"] is net.tied  # once, under its first path


def test_a_state_holds_constants_too_and_no_results():
    net = Net()
    net.last = net.embedding([1])
    assert list(net.state_dict()) == [*PARAMETERS, "state.h"]
    assert list(net.parameters()) == PARAMETERS


def test_two_tensors_of_one_path_are_refused():
    module = nn.Module()
    module.a = {1: mg.zeros(1, requires_grad=True), "1": mg.zeros(2, requires_grad=True)}
    with pytest.raises(ValueError, match=r"two tensors have the path 'a\.1'"):
        module.parameters()


def test_an_empty_module():
    assert nn.Module().parameters() == {}
    assert repr(nn.Module()) == "Module: 0 parameters"
    nn.Module().load_state_dict({})


def test_repr_is_a_table():
    assert repr(Net()).splitlines()[:3] == [
        "Net: 92 parameters",  # 15 + (12 + 4) + (32 + 16 + 8) + 4 + 1: what is tied counts once
        "  embedding.W   (5, 3)  float32",
        "  layers.0.W    (3, 4)  float32",
    ]


# ---- where parameters may be ---------------------------------------------------------------------------------------


def parameter(*shape):
    return mg.tensor(np.full(shape, 2.0, "float32"), requires_grad=True, name="W")


@dataclasses.dataclass
class Parts:
    W: Any
    more: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    W: Any


class Slotted:
    """A cell of a class of its own without a __dict__, its bias in a slot of a class above."""

    class Base:
        __slots__ = ("b",)

    def __new__(cls):
        class Cell(cls.Base):
            __slots__ = ("W",)

            def zero_state(self, batch_size):
                return mg.zeros((batch_size, 3), "float32")

            def __call__(self, x, h):
                h = mg.tanh(x @ self.W + self.b + h)
                return h, h

        cell = Cell()
        cell.W, cell.b = parameter(2, 3), parameter(3)
        return cell


class Layers(nn.Module, list):
    """A module that is a list, too."""


class Everywhere(nn.Module):
    def __init__(self):
        self.parts = Parts(parameter(1), [Parts(parameter(2))])
        self.frozen = Frozen(parameter(3))
        self.queue = collections.deque([parameter(4), nn.Linear(2, 1)], maxlen=2)
        self.cell = Slotted()
        self.layers = Layers([parameter(5)])
        self.layers.own = parameter(6)
        self.words = {"a", "b"}
        self.kinds = Parts, nn.Linear, Frozen(mg.zeros(7, "float32"))


EVERYWHERE = [
    "parts.W", "parts.more.0.W", "frozen.W", "queue.0", "queue.1.W", "queue.1.b", "cell.W", "cell.b", "layers.own",
    "layers.0",
]  # fmt: skip


def test_parameters_are_found_wherever_there_is_a_path():
    net = Everywhere()
    found = net.parameters()
    assert list(found) == EVERYWHERE
    assert found["parts.more.0.W"] is net.parts.more[0].W
    assert found["cell.b"] is net.cell.b
    assert list(mg.optim.SGD(net, lr=0.1).params) == EVERYWHERE
    state = net.state_dict()
    assert list(state) == [*EVERYWHERE, "kinds.2.W"]
    net.load_state_dict({path: array + 1 for path, array in state.items()})
    for path, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[path] + 1)


def test_copies_hold_what_was_found(backend):
    net = Everywhere()
    for made, dtype in [(net.astype("float64"), "float64"), (net.to(backend.name), "float32")]:
        assert list(made.parameters()) == EVERYWHERE
        assert list(made.state_dict()) == list(net.state_dict())
        assert {array.dtype for array in made.state_dict().values()} == {np.dtype(dtype)}
        assert type(made.queue) is collections.deque
        assert made.queue.maxlen == 2
        assert made.parts.W is not net.parts.W
        assert all(mine is not p for mine, p in zip(made.parameters().values(), net.parameters().values(), strict=True))


def test_a_cell_with_slots_learns_and_tells_its_equations():
    net = nn.Deep([Slotted()])
    outputs, _ = nn.dynamic_rnn(net, np.ones((1, 2, 2), "float32"))
    outputs.sum().backward()
    mg.optim.SGD(net, lr=0.1).step()
    assert all((host(p) != 2.0).any() for p in net.parameters().values())
    assert nn.equations(Slotted(), np.ones((1, 2), "float32")).splitlines()[0] == "h = tanh(x @ W + b + h)"


def test_a_state_in_a_dataclass_is_learned():
    class Counting:
        def zero_state(self, batch_size):
            return Parts(mg.zeros((batch_size, 1)), [mg.zeros((batch_size, 2))])

        def __call__(self, x, state):
            return x, state

    assert list(nn.LearnedState(Counting()).parameters()) == ["state.W", "state.more.0"]


class Plain:
    """An object of a class that is no module."""

    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("hidden", "where"),
    [
        (lambda: {parameter(1)}, "a set at 'heads.0'"),
        (lambda: frozenset([("a", parameter(1))]), "a frozenset at 'heads.0'"),
        (lambda: {mg.zeros(1)}, "a set at 'heads.0'"),
        (lambda: Plain(parameter(1)), "a Plain at 'heads.0'"),
        (lambda: Plain({"inside": [nn.Linear(1, 1, bias=False)]}), "a Plain at 'heads.0'"),
    ],
)
def test_a_parameter_without_a_path_is_refused(hidden, where):
    net = nn.Module()
    net.W, net.heads = parameter(2), [hidden()]
    message = rf"^{where} holds a tensor.* of shape \(1.*\) that has no path, so it would be neither trained nor saved"
    for call in (net.parameters, net.state_dict, lambda: net.astype("float64"), lambda: mg.optim.SGD(net, lr=0.1)):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_parameter_of_the_class_is_refused():
    class Shared(nn.Module):
        W = parameter(2)

    with pytest.raises(TypeError, match=r"^a Shared holds a tensor 'W' of shape \(2,\) that has no path, .*__init__"):
        Shared().parameters()
    own = Shared()
    own.W = parameter(3)
    assert list(own.parameters()) == ["W"]


def test_what_is_found_elsewhere_may_stand_anywhere():
    net = nn.Module()
    net.W = parameter(2)
    net.decayed, net.plain, net.results = {net.W}, Plain([net.W]), {net.W * 2}
    net.constants = Plain(mg.zeros(1))
    assert list(net.parameters()) == list(net.state_dict()) == ["W"]
    del net.results
    wide = net.astype("float64")
    assert wide.decayed == {wide.W}
    assert wide.plain.value[0] is wide.W


# ---- states --------------------------------------------------------------------------------------------------------


def test_a_state_is_a_copy(backend):
    layer = nn.Linear(2, 2, seed=0)
    before = host(layer.W)
    state = layer.state_dict()
    assert {type(array) for array in state.values()} == {backend.array_type}
    state["W"] += 1
    np.testing.assert_array_equal(host(layer.W), before)
    layer.load_state_dict(state)
    np.testing.assert_array_equal(host(layer.W), before + 1)
    state["W"] += 1
    np.testing.assert_array_equal(host(layer.W), before + 1)


@pytest.mark.parametrize("source", ["own", "numpy", "tensors"])
def test_a_state_goes_from_net_to_net(source, backend):
    net, other = Net(0), Net(1)
    given = net.state_dict()
    if source != "own":
        given = {path: host(array) if source == "numpy" else mg.tensor(array) for path, array in given.items()}
    tokens, other_parameters = other.embedding.W, other.parameters()
    other.load_state_dict(given)
    assert other.embedding.W is tokens  # the tensors stay, so that an optimiser keeps hold of them
    assert other.parameters() == other_parameters
    for path, p in net.parameters().items():
        mine = other.parameters()[path]
        assert mine.backend is backend
        np.testing.assert_array_equal(host(mine), host(p))


def test_loading_drops_the_gradients_of_the_old_values():
    layer = nn.Linear(1, 1)
    layer(np.ones((1, 1), np.float32)).sum().backward()
    assert layer.W.grad is not None
    layer.load_state_dict(layer.state_dict())
    assert layer.W.grad is None


def test_one_error_lists_all_that_does_not_fit_and_nothing_changes():
    net, other = Net(0), Net(1)
    state = other.state_dict()
    del state["layers.0.b"]
    state["layers.9.b"] = np.zeros(1)
    state["layers.1.b"] = state["layers.1.b"].astype("float64")
    state["heads.main.W"] = np.zeros((2, 3), np.float32)
    state["heads.pair.0"] = 1.0
    before = net.state_dict()
    with pytest.raises(ValueError, match="this state does not fit Net, nothing was changed") as error:
        net.load_state_dict(state)
    for line in (
        "layers.0.b is missing",
        "layers.9.b is unexpected",
        "layers.1.b must be float32(8,), got float64(8,)",
        "heads.main.W must be float32(2, 2), got float32(2, 3)",
        "heads.pair.0 must be float64(1,), got a float",
    ):
        assert line in str(error.value)
    assert "\n" not in str(error.value)
    for path, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[path])
    with pytest.raises(TypeError, match="Net loads a dict of arrays by path, got list"):
        net.load_state_dict([1])


# ---- copies --------------------------------------------------------------------------------------------------------


def test_astype_gives_a_copy_of_another_dtype(backend):
    net = Net()
    net.counter = mg.tensor([1, 2])
    net.embedding.W.name = "E"
    wide = net.astype("float64")
    assert {t.dtype for t in wide.parameters().values()} == {np.dtype("float64")}
    assert wide.state.h.dtype == np.float64
    assert wide.counter.dtype == net.counter.dtype
    assert net.layers[0].W.dtype == np.float32
    assert list(wide.parameters()) == PARAMETERS
    assert wide.tied is wide.embedding.W  # what was one tensor is one again
    assert wide.tied is not net.tied
    assert (wide.tied.name, wide.tied.backend) == ("E", backend)
    assert wide.itself is wide
    np.testing.assert_array_equal(host(wide.tied), host(net.tied).astype("float64"))
    back = wide.astype("float32")
    for path, p in back.parameters().items():
        np.testing.assert_array_equal(host(p), host(net.parameters()[path]))
    with pytest.raises(TypeError, match=r"parameters are floating, .* got int64"):
        net.astype("int64")


def test_a_copy_shares_nothing():
    layer = nn.Linear(2, 2)
    same = layer.astype("float32")
    (layer(np.ones((1, 2), np.float32))).sum().backward()
    layer.W.data = np.zeros((2, 2), np.float32)
    assert same.W.grad is None
    assert (same.W != 0).all()


def test_to_moves_a_copy(backend):
    with mg.use_backend("numpy"):
        net = Net()
    moved = net.to(backend.name)
    assert {p.backend for p in moved.parameters().values()} == {backend}
    assert moved.tied is moved.embedding.W
    assert {p.backend.name for p in net.parameters().values()} == {"numpy"}
    tokens = np.array([[0, 4]])
    np.testing.assert_array_equal(host(moved.embedding(tokens)), host(net.embedding(tokens)))
    for path, p in moved.to("numpy").parameters().items():
        np.testing.assert_array_equal(p.data, net.parameters()[path].data)


def test_to_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="no backend is called 'abacus'"):
        nn.Module().to("abacus")


def test_a_module_can_be_deep_copied():
    cell = nn.RNNCell(2, 3, activation=mg.relu)
    twin = copy.deepcopy(cell)
    x = np.ones((1, 2), np.float32)
    assert (twin(x, twin.zero_state(1))[0] == cell(x, cell.zero_state(1))[0]).all()
    assert twin.W_x is not cell.W_x


# ---- Linear --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, backend):
    layer = nn.Linear(3, 2, bias=bias, dtype="float64", seed=0)
    draw = np.random.default_rng(0)
    if bias:
        layer.b.data = backend.asarray(draw.normal(size=2))
    x, g = draw.normal(size=(4, 5, 3)), draw.normal(size=(4, 5, 2))
    given = mg.tensor(x, requires_grad=True)
    y = layer(given)
    np.testing.assert_allclose(host(y), x @ host(layer.W) + (host(layer.b) if bias else 0), rtol=1e-14)
    y.backward(backend.asarray(g))
    np.testing.assert_allclose(host(layer.W.grad), np.einsum("abi,abo->io", x, g), rtol=1e-13)
    np.testing.assert_allclose(host(given.grad), g @ host(layer.W).T, rtol=1e-13)
    if bias:
        np.testing.assert_allclose(host(layer.b.grad), g.sum((0, 1)), rtol=1e-13)
    assert list(layer.parameters()) == (["W", "b"] if bias else ["W"])


def test_linear_keeps_its_dtype_and_says_so():
    layer = nn.Linear(3, 2)
    assert layer(np.ones(3, np.float32)).dtype == np.float32
    with pytest.raises(TypeError, match=r"Linear has parameters of dtype float32 and got an input of float64: convert"):
        layer(np.ones(3))
    with pytest.raises(ValueError, match=r"Linear takes an input of shape \(\.\.\., 3\), got \(2,\)"):
        layer(np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"of shape \(\.\.\., 3\), got \(\)"):
        layer(np.float32(1.0))
    with pytest.raises(ValueError, match="Linear: outputs is at least 1, got -1"):
        nn.Linear(3, -1)


# ---- Embedding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["host", "device", "list", "tensor", "uint8"])
def test_embedding(form, backend):
    layer = nn.Embedding(5, 3, dtype="float64", seed=0)
    tokens = np.array([[1, 4, 1], [0, 1, 4]])
    given = {
        "host": tokens.copy(),
        "device": backend.asarray(tokens),
        "list": tokens.tolist(),
        "tensor": mg.tensor(tokens),
        "uint8": tokens.astype("uint8"),
    }[form]
    y = layer(given)
    assert (y.shape, y.dtype, y.backend) == ((2, 3, 3), np.float64, backend)
    np.testing.assert_array_equal(host(y), host(layer.W)[tokens])
    if form == "host":
        given[:] = 0  # a gradient belongs to the tokens as they were
    g = np.random.default_rng(0).normal(size=(2, 3, 3))
    y.backward(backend.asarray(g))
    expected = np.zeros((5, 3))
    np.add.at(expected, tokens, g)
    np.testing.assert_allclose(host(layer.W.grad), expected, rtol=1e-14)


def test_embedding_is_differentiable_twice(backend):
    tokens = [2, 0, 2]

    def f(W):
        layer = nn.Embedding(3, 2, dtype="float64")
        layer.W = mg.asarray(W)
        return mg.tanh(layer(tokens))

    assert check_grads(f, backend.asarray(np.random.default_rng(0).normal(size=(3, 2))), order=2).ok


@pytest.mark.parametrize(("tokens", "worst"), [([5], 5), ([[0, 7], [9, 1]], 9), ([0, -1], -1), (-3, -3)])
def test_a_token_outside_the_vocabulary_is_named(tokens, worst, backend):
    layer = nn.Embedding(5, 3)
    for given in (np.array(tokens), backend.asarray(np.array(tokens))):
        with pytest.raises(IndexError, match=rf"a vocabulary of 5 tokens, 0\.\.4, got token {worst}$"):
            layer(given)


def test_in_the_body_of_a_scan_a_token_outside_gives_nan(backend):
    """There it cannot be named, but it must not pass for another one: NumPy would take -1 for the last."""
    layer = nn.Embedding(5, 3, dtype="float64", seed=0)
    W = host(layer.W)
    tokens = backend.asarray(np.array([[1, -1], [4, 5], [0, 2]]))

    def body(total, token):
        return total, layer(token)

    found = host(mg.scan(body, tokens, mg.zeros(()), has_output=True)[1])
    np.testing.assert_array_equal(found, [[W[1], [np.nan] * 3], [W[4], [np.nan] * 3], [W[0], W[2]]])
    with pytest.raises(TypeError, match="Embedding takes integer tokens, got dtype float64"):
        mg.scan(body, mg.zeros((2, 2)), mg.zeros(()), has_output=True)


@pytest.mark.parametrize("tokens", [[1.0], np.array([True]), np.zeros((2, 2), np.float32), 1.5])
def test_tokens_are_integers(tokens):
    with pytest.raises(TypeError, match=r"Embedding takes integer tokens, got dtype (float|bool)"):
        nn.Embedding(5, 3)(tokens)


@pytest.mark.parametrize("tokens", [[], np.zeros((2, 0), int), np.zeros((0, 3), int)])
def test_no_tokens_give_no_rows(tokens, backend):
    y = nn.Embedding(5, 3)(tokens)
    assert y.shape == (*np.shape(tokens), 3)
    y.sum().backward()


def test_one_token():
    layer = nn.Embedding(5, 3)
    np.testing.assert_array_equal(host(layer(2)), host(layer.W)[2])
    np.testing.assert_array_equal(host(layer(np.int64(2))), host(layer.W)[2])


# ---- initial values ------------------------------------------------------------------------------------------------


def test_glorot_uniform_fills_its_limits(backend):
    W = initialisers.glorot_uniform((40, 60), seed=1, dtype="float64")
    limit = np.sqrt(6 / 100)
    values = host(W)
    assert W.backend is backend
    assert 0.99 * limit < values.max() < limit
    assert -limit <= values.min() < -0.99 * limit
    assert abs(values.mean()) < 3 * limit / np.sqrt(3 * values.size)
    assert abs(values.var() / (limit**2 / 3) - 1) < 0.1


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_orthogonal_is(shape, dtype, backend):
    Q = initialisers.orthogonal(shape, seed=2, dtype=dtype)
    assert (Q.shape, Q.dtype, Q.backend) == (shape, np.dtype(dtype), backend)
    q = host(Q).astype("float64")
    product = q @ q.T if shape[0] <= shape[1] else q.T @ q
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=4 * np.finfo(dtype).eps)


def test_orthogonal_draws_reflections_and_rotations():
    """The signs of QR alone would always give the same kind."""
    signs = {round(np.linalg.det(initialisers.orthogonal((3, 3), seed, "float64").data)) for seed in range(20)}
    assert signs == {-1, 1}
    first = [initialisers.orthogonal((2, 2), seed, "float64").data[0, 0] for seed in range(200)]
    assert abs(np.mean(first)) < 0.2


@pytest.mark.parametrize("make", [initialisers.glorot_uniform, initialisers.orthogonal])
def test_matrices_only(make):
    with pytest.raises(ValueError, match=r"makes matrices \(inputs, outputs\), got shape \(3,\)"):
        make((3,), seed=0)


def test_zeros():
    assert initialisers.zeros((2, 3)).numpy().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_what_is_drawn_with_one_seed_is_not_alike():
    """One seed for all layers must not make their weights copies of one another."""
    drawn = [nn.Linear(3, 3, seed=0).W, nn.Embedding(3, 3, seed=0).W, nn.RNNCell(3, 3, seed=0).W_x]
    drawn += [nn.RNNCell(3, 3, seed=0).W_h, nn.GRUCell(3, 3, seed=0).gate("r").W_x]
    correlation = np.corrcoef([host(W).ravel() for W in drawn])
    assert (np.abs(correlation - np.eye(len(drawn))) < 0.95).all()


def test_seeds_may_be_sequences():
    a, b, c = (nn.Linear(2, 2, seed=seed).W for seed in ((0, 1), (0, 1), (1, 0)))
    assert (a == b).all()
    assert (a != c).all()
    assert seed_for((1, 2), "W")[:2] == (1, 2)
    assert seed_for(None, "W") != seed_for(None, "W")
    with pytest.raises(ValueError, match="a seed is an integer of at least 0"):
        nn.Linear(2, 2, seed=-1)


def test_weights_of_a_seed_do_not_change_between_versions():
    """Written down once: a model that is made again from its seed must be the same model."""
    np.testing.assert_allclose(nn.Linear(2, 2, seed=0).W.numpy(), LINEAR_0, rtol=1e-6)
    np.testing.assert_allclose(nn.GRUCell(1, 2, seed=0).gate("z").W_h.detach().numpy(), GRU_0, rtol=1e-6)


LINEAR_0 = [[0.26344585, 0.12305067], [-0.42466804, 0.78572208]]
GRU_0 = [[-0.66580176, -0.74612868], [0.74612868, -0.66580176]]


def test_looking_for_parameters_leaves_nothing_for_the_garbage_collector():
    net = nn.Linear(2, 3, seed=0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            net.parameters()
        assert gc.collect() == 0
    finally:
        gc.enable()
