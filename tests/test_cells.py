"""Each cell against its equations, written independently in tests/cell_equations.py: values, and every gradient."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import cell_equations
import minigrad as mg
from cell_equations import EQUATIONS
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.testing import check_grads

INPUTS, UNITS, ROWS = 2, 3, 2
KINDS = list(EQUATIONS)
TIGHT = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


def build(kind, **options):
    """A float64 cell whose parameters are all different from what the initialisers give."""
    cell = getattr(nn, kind)(INPUTS, UNITS, dtype="float64", **options)
    draw = np.random.default_rng(KINDS.index(kind))
    cell.load_state_dict({path: draw.normal(size=p.shape) for path, p in cell.parameters().items()})
    return cell


def point(kind, seed=0):
    """An input and a state, and a cotangent of the output and of each part of the new state."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(ROWS, INPUTS))
    states = [draw.normal(size=(ROWS, UNITS)) for _ in range(EQUATIONS[kind][2])]
    cotangents = [draw.normal(size=(ROWS, UNITS)) for _ in range(1 + len(states))]
    return x, states, cotangents


def packed(kind, states):
    return nn.LSTMState(*states) if kind == "LSTMCell" else states[0]


def parts(kind, output, state):
    return [output, *(state if kind == "LSTMCell" else [state])]


def with_parameters(cell, parameters):
    cell = copy.copy(cell)
    for path, value in parameters.items():
        setattr(cell, path, value)
    return cell


def loss_of(cell, kind, cotangents):
    """<cotangents, cell(x, state)> as a function of all that the step depends on."""

    def loss(arrays):
        given = with_parameters(cell, {path: arrays[path] for path in cell.parameters()})
        names = [name for name in sorted(arrays) if name.startswith("state")]
        outs = parts(kind, *given(arrays["x"], packed(kind, [arrays[name] for name in names])))
        return sum((out * g).sum() for out, g in zip(outs, cotangents, strict=True))

    return loss


def oracle_of(kind, cotangents):
    """The same, by the equations."""
    step = EQUATIONS[kind][0]

    def loss(arrays):
        weights = cell_equations.unfused(kind, arrays)
        states = [arrays[name] for name in sorted(arrays) if name.startswith("state")]
        output, new = step(weights, arrays["x"], *states)
        return sum((out * g).sum() for out, g in zip([output, *new], cotangents, strict=True))

    return loss


def everything(cell, x, states):
    """All arrays that a step depends on, on the host."""
    arrays = {path: host(p) for path, p in cell.parameters().items()}
    return arrays | {"x": x} | {f"state{i}": state for i, state in enumerate(states)}


# ---- values and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_its_equations(kind, backend):
    cell = build(kind)
    x, states, _ = point(kind)
    output, state = cell(backend.asarray(x), packed(kind, [backend.asarray(s) for s in states]))
    fused = {path: host(p) for path, p in cell.parameters().items()}
    step, _, _ = EQUATIONS[kind]
    expected, expected_states = step(cell_equations.unfused(kind, fused), x, *states)
    for got, needed in zip(parts(kind, output, state), [expected, *expected_states], strict=True):
        assert got.backend is backend
        np.testing.assert_allclose(host(got), needed, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_of_a_step(kind, backend):
    cell = build(kind)
    x, states, cotangents = point(kind)
    expected = cell_equations.gradient(oracle_of(kind, cotangents), everything(cell, x, states))
    leaves = {"x": mg.tensor(x, requires_grad=True)}
    leaves |= {f"state{i}": mg.tensor(s, requires_grad=True) for i, s in enumerate(states)}
    outs = parts(kind, *cell(leaves["x"], packed(kind, [leaves[f"state{i}"] for i in range(len(states))])))
    for out, g in zip(outs[1:], cotangents[1:], strict=True):
        out.backward(backend.asarray(g), retain=True)
    outs[0].backward(backend.asarray(cotangents[0]))
    leaves |= cell.parameters()
    assert set(leaves) == set(expected)
    for name, leaf in leaves.items():
        assert np.abs(expected[name]).max() > 1e-3, name  # a gradient of zeros would prove nothing
        np.testing.assert_allclose(host(leaf.grad), expected[name], err_msg=name, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["forward over reverse", "reverse over reverse"])
def test_every_second_derivative_of_a_step(kind, mode, backend):
    cell = build(kind)
    x, states, cotangents = point(kind)
    at = everything(cell, x, states)
    draw = np.random.default_rng(1)
    along = {name: draw.normal(size=array.shape) for name, array in at.items()}
    oracle = oracle_of(kind, cotangents)

    def gradient_at(t):
        return cell_equations.gradient(oracle, {name: at[name] + t * along[name] for name in at})

    expected = cell_equations.derivative(gradient_at)
    loss = loss_of(cell, kind, [backend.asarray(g) for g in cotangents])
    here = {name: backend.asarray(array) for name, array in at.items()}
    there = {name: backend.asarray(array) for name, array in along.items()}
    if mode == "forward over reverse":
        (found,) = mg.hvp(loss, (here,), (there,))
    else:

        def slope(arrays):
            gradient = mg.grad(loss)(arrays)
            return sum((gradient[name] * there[name]).sum() for name in there)

        found = mg.grad(slope)(here)
    for name in at:
        np.testing.assert_allclose(host(found[name]), expected[name], err_msg=name, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_checker_agrees_in_both_modes_at_both_orders(kind, backend):
    cell = build(kind)
    x, states, cotangents = point(kind)
    at = {name: backend.asarray(array) for name, array in everything(cell, x, states).items()}
    assert check_grads(loss_of(cell, kind, [backend.asarray(g) for g in cotangents]), at, order=2).ok


@pytest.mark.parametrize("kind", KINDS)
def test_weights_shared_by_three_steps(kind, backend):
    """The cell in an ordinary loop: a weight's gradient adds up over its uses."""
    cell = build(kind)
    draw = np.random.default_rng(2)
    xs = draw.normal(size=(3, ROWS, INPUTS))
    _, states, _ = point(kind)
    fused = {path: host(p) for path, p in cell.parameters().items()}

    def oracle(arrays):
        inputs = np.swapaxes(xs, 0, 1)
        outputs, finals = cell_equations.ragged(kind, arrays, inputs, [3] * ROWS, states)
        return (outputs**2).sum() + sum(final.sum() for final in finals)

    state = packed(kind, [mg.tensor(s) for s in states])
    loss = 0.0
    for x in xs:
        output, state = cell(backend.asarray(x), state)
        loss = loss + (output**2).sum()
    (loss + sum(part.sum() for part in parts(kind, None, state)[1:])).backward()
    for path, expected in cell_equations.gradient(oracle, fused).items():
        np.testing.assert_allclose(host(cell.parameters()[path].grad), expected, err_msg=path, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_are_rows(kind):
    cell = build(kind)
    x, states, _ = point(kind)
    output, _ = cell(x, packed(kind, states))
    single, _ = cell(x[0], packed(kind, [s[0] for s in states]))
    np.testing.assert_allclose(host(single), host(output)[0], **TIGHT)
    many, _ = cell(x[None], packed(kind, [s[None] for s in states]))
    np.testing.assert_allclose(host(many)[0], host(output), **TIGHT)


@pytest.mark.parametrize("activation", [mg.relu, mg.sigmoid, lambda x: x])
def test_any_activation_serves_the_simple_cell(activation):
    cell = build("RNNCell", activation=activation)
    x, (h,), _ = point("RNNCell")
    output, state = cell(x, h)
    assert state is output
    z = x @ host(cell.W_x) + h @ host(cell.W_h) + host(cell.b)
    np.testing.assert_allclose(host(output), host(activation(z)), **TIGHT)
    assert check_grads(loss_of(cell, "RNNCell", point("RNNCell")[2]), everything(cell, x, [h]), order=1).ok


# ---- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_weights_and_their_order(kind, backend):
    cell = getattr(nn, kind)(INPUTS, UNITS, seed=0)
    _, gates, _ = EQUATIONS[kind]
    n = len(gates) * UNITS
    shapes = {path: p.shape for path, p in cell.parameters().items()}
    assert shapes == {"W_x": (INPUTS, n), "W_h": (UNITS, n), "b": (n,)}
    assert list(shapes) == ["W_x", "W_h", "b"]
    for p in cell.parameters().values():
        assert p.dtype == np.float32
        assert p.backend is backend
    fused = {path: host(p) for path, p in cell.parameters().items()}
    single = cell_equations.unfused(kind, fused)
    for gate in gates:
        views = cell.gate(gate)
        for view, name in zip(views, [f"W_x{gate}", f"W_h{gate}", f"b_{gate}"], strict=True):
            np.testing.assert_array_equal(host(view.detach()), single[name])
        assert views.W_x is not cell.W_x


def test_gradients_pass_through_the_view_of_a_gate():
    cell = build("LSTMCell")
    (cell.gate("f").W_x ** 2).sum().backward()
    expected = np.zeros(cell.W_x.shape)
    expected[:, UNITS : 2 * UNITS] = 2 * host(cell.W_x)[:, UNITS : 2 * UNITS]
    np.testing.assert_array_equal(cell.W_x.grad, expected)


@pytest.mark.parametrize("name", ["q", "", "if", "F"])
def test_an_unknown_gate_is_refused(name):
    with pytest.raises(ValueError, match="the gates of LSTMCell are i, f, g, o, got"):
        nn.LSTMCell(2, 3).gate(name)


def test_the_forget_bias_stands_in_b_and_is_not_added_at_call():
    assert nn.LSTMCell(1, 2).b.numpy().tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert nn.LSTMCell(1, 2, forget_bias=3.0).b.numpy().tolist() == [0, 0, 3, 3, 0, 0, 0, 0]
    one, three = nn.LSTMCell(1, 2, seed=0), nn.LSTMCell(1, 2, forget_bias=3.0, seed=0)
    three.load_state_dict(one.state_dict())
    x = np.ones((1, 1), np.float32)
    assert (three(x, three.zero_state(1))[0] == one(x, one.zero_state(1))[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights(kind):
    """Each gate by itself: orthogonal from the state, within Glorot's limits of one gate from the input."""
    cell = getattr(nn, kind)(5, 8, dtype="float64", seed=3)
    limit = np.sqrt(6 / (5 + 8))
    blocks = []
    for gate in EQUATIONS[kind][1]:
        W_x, W_h, _ = (host(view.detach()) for view in cell.gate(gate))
        np.testing.assert_allclose(W_h @ W_h.T, np.eye(8), atol=1e-14)
        assert 0.8 * limit < np.abs(W_x).max() <= limit
        blocks += [W_x.tobytes(), W_h.tobytes()]
    assert len(set(blocks)) == len(blocks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_weights_on_every_backend(kind, backend):
    here = getattr(nn, kind)(4, 3, seed=7)
    with mg.use_backend("numpy"):
        there = getattr(nn, kind)(4, 3, seed=7)
        other = getattr(nn, kind)(4, 3, seed=8)
    for path, p in there.parameters().items():
        np.testing.assert_array_equal(host(here.parameters()[path]), host(p))
    assert (host(here.W_x) != host(other.W_x)).all()


def test_without_a_seed_no_two_cells_are_alike():
    assert (nn.GRUCell(3, 3).W_x != nn.GRUCell(3, 3).W_x).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_zero_state(kind, backend):
    cell = getattr(nn, kind)(INPUTS, UNITS, dtype="float64")
    with mg.use_backend("numpy"):  # the state belongs to the cell, whatever the default is
        state = cell.zero_state(5)
    for part in state if kind == "LSTMCell" else [state]:
        assert (part.shape, part.dtype, part.backend) == ((5, UNITS), np.float64, backend)
        assert not part.requires_grad
        assert (host(part) == 0).all()


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_dtypes_are_kept(kind, dtype, backend):
    cell = getattr(nn, kind)(INPUTS, UNITS, dtype=dtype, seed=0)
    x = backend.asarray(np.ones((ROWS, INPUTS), dtype))
    outs = parts(kind, *cell(x, cell.zero_state(ROWS)))
    assert {out.dtype for out in outs} == {np.dtype(dtype)}
    outs[0].sum().backward()
    assert {p.grad.dtype for p in cell.parameters().values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("kind", KINDS)
def test_another_dtype_is_refused_with_both_fixes(kind):
    cell = getattr(nn, kind)(INPUTS, UNITS)
    x32 = np.ones((ROWS, INPUTS), np.float32)
    with pytest.raises(TypeError) as error:
        cell(x32.astype(np.float64), cell.zero_state(ROWS))
    for piece in (kind, "float32", "an input of float64", ".astype('float32')", "the module with .astype('float64')"):
        assert piece in str(error.value)
    wide = cell.astype("float64")
    with pytest.raises(TypeError, match=r"has parameters of dtype float32 and got a state [hc] of float64"):
        cell(x32, wide.zero_state(ROWS))
    with pytest.raises(TypeError, match=r"int64: convert it with .astype\('float32'\), or look tokens up"):
        cell(np.ones((ROWS, INPUTS), np.int64), cell.zero_state(ROWS))
    output, _ = wide(x32.astype(np.float64), wide.zero_state(ROWS))
    assert output.dtype == np.float64


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shapes_are_refused(kind):
    cell = getattr(nn, kind)(INPUTS, UNITS)
    x = np.ones((ROWS, INPUTS), np.float32)
    with pytest.raises(ValueError, match=rf"{kind} takes an input of shape \(\.\.\., 2\), got \(2, 3\)"):
        cell(np.ones((2, 3), np.float32), cell.zero_state(ROWS))
    with pytest.raises(ValueError, match=r"state h must be \(2, 3\), got \(1, 3\)"):
        cell(x, cell.zero_state(1))  # would broadcast, silently
    with pytest.raises(ValueError, match=rf"{kind} takes a state h of shape \(\.\.\., 3\), got \(2, 4\)"):
        cell(x, packed(kind, [np.ones((2, 4), np.float32)] * 2))


def test_the_state_of_an_lstm_is_a_pair():
    cell = nn.LSTMCell(INPUTS, UNITS)
    x = np.ones((ROWS, INPUTS), np.float32)
    with pytest.raises(TypeError, match=r"the state of LSTMCell is LSTMState\(h, c\), got Tensor"):
        cell(x, cell.zero_state(ROWS).h)
    pair = tuple(cell.zero_state(ROWS))
    assert type(cell(x, pair)[1]) is nn.LSTMState


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_sizes_are_refused(kind):
    make = getattr(nn, kind)
    with pytest.raises(ValueError, match=f"{kind}: units is at least 1, got 0"):
        make(2, 0)
    with pytest.raises(TypeError, match=f"{kind}: inputs is an integer, got float"):
        make(2.0, 3)
    with pytest.raises(TypeError, match="parameters are floating"):
        make(2, 3, dtype="int32")


def test_scan_sends_a_cell_to_dynamic_rnn():
    with pytest.raises(TypeError, match="dynamic_rnn"):
        mg.scan(nn.RNNCell(2, 3), np.ones((4, 1, 2), np.float32), np.zeros((1, 3), np.float32))
