"""Each cell against its equations, written independently in tests/cell_equations.py: values, and every gradient."""

from __future__ import annotations

import ast
import copy
import inspect
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import cell_equations
import minigrad as mg
from cell_equations import EQUATIONS
from minigrad import nn, tree
from minigrad.backend import get_backend
from minigrad.nn.cells import Options
from minigrad.nn.equations import equations
from minigrad.testing import check_grads

INPUTS, UNITS, ROWS = 2, 3, 2
KINDS = list(EQUATIONS)
OPTIONS = {"dtype": '"float32"', "seed": "None", "init_W_x": "None", "init_W_h": "None", "init_b": "None"}
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
    for default in ("numpy", "strict"):  # the state belongs to the cell, whatever the default is
        with mg.use_backend(default):
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


# ---- options -------------------------------------------------------------------------------------------------------
# Each cell with all its options once more, in plain NumPy, real or complex, and driven by a loop over ragged rows.


def plain_rnn(w, x, h, activation):
    h = activation(x @ w["W_x"] + h @ w["W_h"] + w["b"])
    return h, (h,)


def plain_gru(w, x, h, update, reset):
    (W_xr, W_xz, W_xn), (W_hr, W_hz, W_hn) = (np.split(w[name], 3, axis=-1) for name in ("W_x", "W_h"))
    b_r, b_z, b_n = np.split(w["b"], 3)
    r = cell_equations.sigmoid(x @ W_xr + h @ W_hr + b_r)
    z = cell_equations.sigmoid(x @ W_xz + h @ W_hz + b_z)
    from_h = (r * h) @ W_hn if reset == "before" else r * (h @ W_hn + w["b_hn"])
    n = np.tanh(x @ W_xn + from_h + b_n)
    h = {"keep": z * h + (1 - z) * n, "write": z * n + (1 - z) * h}[update]
    return h, (h,)


def plain_norm(w, name, z):
    centred = z - z.sum(axis=-1, keepdims=True) / z.shape[-1]
    variance = (centred**2).sum(axis=-1, keepdims=True) / z.shape[-1]
    return w[f"{name}.gain"] * centred / np.sqrt(variance + 1e-5) + w[f"{name}.bias"]


def plain_lstm(w, x, h, c, peepholes, projection, clip, coupled, layer_norm):
    from_x, from_h = x @ w["W_x"], h @ w["W_h"]
    if layer_norm:
        from_x, from_h = plain_norm(w, "norm_x", from_x), plain_norm(w, "norm_h", from_h)
    letters = "igo" if coupled else "ifgo"
    z = dict(zip(letters, np.split(from_x + from_h + w["b"], len(letters), axis=-1), strict=True))
    peep = {letter: w[f"p_{letter}"] if peepholes else 0.0 for letter in z if letter != "g"}
    i = cell_equations.sigmoid(z["i"] + peep["i"] * c)
    f = 1 - i if coupled else cell_equations.sigmoid(z["f"] + peep["f"] * c)
    c = f * c + i * np.tanh(z["g"])
    if clip is not None:
        c = np.where(np.abs(c.real) > clip, np.sign(c.real) * clip, c)
    o = cell_equations.sigmoid(z["o"] + peep["o"] * c)
    h = o * np.tanh(plain_norm(w, "norm_c", c) if layer_norm else c)
    return (h @ w["W_p"] if projection else h), (h @ w["W_p"] if projection else h, c)


PLAIN = {"RNNCell": plain_rnn, "GRUCell": plain_gru, "LSTMCell": plain_lstm}
ACTIVATIONS = {"tanh": (mg.tanh, np.tanh), "sigmoid": (mg.sigmoid, cell_equations.sigmoid), "square": (mg.square,) * 2}


class Case:
    """A cell with some of its options, its oracle, and a batch of sequences; all numbers from one seed."""

    def __init__(self, kind, options, inputs, units, rows, steps, lengths, seed):
        self.kind, self.options, self.lengths = kind, options, lengths
        self.rows = [steps] * rows if lengths is None else lengths
        activation = {"activation": ACTIVATIONS[options["activation"]][0]} if kind == "RNNCell" else {}
        self.cell = getattr(nn, kind)(inputs, units, **{**options, **activation}, dtype="float64")
        draw = np.random.default_rng(seed)
        self.weights = {path: 0.8 * draw.normal(size=p.shape) for path, p in self.cell.parameters().items()}
        self.cell.load_state_dict(self.weights)
        sizes = [part.shape[1] for part in tree.flatten(self.cell.zero_state(1))[0]]
        self.states = [draw.uniform(0.3, 1.2, (rows, n)) * draw.choice([-1, 1], (rows, n)) for n in sizes]
        self.inputs = draw.uniform(0.3, 1.2, (rows, steps, inputs)) * draw.choice([-1, 1], (rows, steps, inputs))
        self.draw = draw
        self.margin = np.inf  # of c to its limit, in any step

    def __repr__(self):
        shape = f"inputs {self.inputs.shape}, states {[s.shape for s in self.states]}, lengths {self.lengths}"
        return f"{self.kind}({self.options}), {shape}"

    def step(self, w, x, *states):
        options = dict(self.options)
        if self.kind == "RNNCell":
            options["activation"] = ACTIVATIONS[options["activation"]][1]
        if self.kind == "LSTMCell" and options["clip"] is not None:
            _, (_, free) = plain_lstm(w, x, *states, **{**options, "clip": None})
            self.margin = min(self.margin, np.abs(np.abs(free.real) - options["clip"]).min())
        return PLAIN[self.kind](w, x, *states, **options)

    @property
    def point(self):
        return self.weights | {"x": self.inputs} | {f"state{k}": s for k, s in enumerate(self.states)}

    def plain(self, arrays):
        """Outputs (B, T, H) and final states, every row by itself for exactly its own steps."""
        states = [np.array(arrays[f"state{k}"]) for k in range(len(self.states))]
        dtype = np.result_type(*arrays.values())
        outputs = np.zeros((*self.inputs.shape[:2], states[0].shape[1]), dtype)
        finals = [np.array(state, dtype) for state in states]
        for row, length in enumerate(self.rows):
            state = tuple(s[row] for s in states)
            for t in range(length):
                outputs[row, t], state = self.step(arrays, arrays["x"][row, t], *state)
            for final, last in zip(finals, state, strict=True):
                final[row] = last
        return [outputs, *finals]

    def run(self, arrays):
        """The same by the cell, with these arrays or tensors in the place of its parameters."""
        swap = {id(p): mg.asarray(arrays[path]) for path, p in self.cell.parameters().items()}
        cell = copy.deepcopy(self.cell, swap)
        states = [arrays[f"state{k}"] for k in range(len(self.states))]
        outputs, final = nn.dynamic_rnn(cell, arrays["x"], self.lengths, packed(self.kind, states))
        return parts(self.kind, outputs, final)


@st.composite
def cases(draw, units=4, rows=3, steps=3):
    """Cells with any options, of at most these sizes."""
    kind = draw(st.sampled_from(KINDS))
    if kind == "RNNCell":
        options = {"activation": draw(st.sampled_from(list(ACTIVATIONS)))}
    elif kind == "GRUCell":
        options = {
            "update": draw(st.sampled_from(["keep", "write"])),
            "reset": draw(st.sampled_from(["before", "after"])),
        }
    else:
        options = {name: draw(st.booleans()) for name in ("peepholes", "coupled", "layer_norm")}
        options |= {"projection": draw(st.sampled_from([None, 2, 4])), "clip": draw(st.sampled_from([None, 0.6]))}
    least = 3 if options.get("layer_norm") else 1  # two normalised numbers are 1 and -1: a step, almost
    units, inputs = draw(st.integers(least, units)), draw(st.integers(1, 3))
    rows, steps = draw(st.integers(1, rows)), draw(st.integers(1, steps))
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows))
    return Case(kind, options, inputs, units, rows, steps, lengths, draw(st.integers(0, 2**16 - 1)))


SLOW = {"suppress_health_check": [HealthCheck.too_slow], "deadline": None}


@settings(max_examples=40, **SLOW)
@given(cases())
def test_with_all_options_a_cell_is_its_plain_equations(case):
    """Outputs, final states, and every first derivative, which the complex step gives exactly."""
    cotangents = [case.draw.normal(size=out.shape) for out in case.plain(case.point)]

    def loss(arrays, outs):
        return sum((out * g).sum() for out, g in zip(outs(arrays), cotangents, strict=True))

    for got, needed in zip(case.run(case.point), case.plain(case.point), strict=True):
        np.testing.assert_allclose(host(got), needed, **TIGHT)
    assume(case.margin > 1e-6)
    expected = cell_equations.gradient(lambda arrays: loss(arrays, case.plain), case.point)
    found = mg.grad(lambda arrays: loss(arrays, case.run))(case.point)
    for name, needed in expected.items():
        scale = max(1.0, np.abs(needed).max())
        np.testing.assert_allclose(host(found[name]), needed, err_msg=name, rtol=1e-10, atol=1e-11 * scale)


@settings(max_examples=15, **SLOW)
@given(cases())
def test_with_all_options_the_strict_backend_gives_the_same(case):
    """What refuses whatever CuPy refuses: values, and every gradient, through the same compiled programs."""
    cotangents = [case.draw.normal(size=out.shape) for out in case.plain(case.point)]

    def results():
        at = {name: mg.asarray(array) for name, array in case.point.items()}
        gs = [mg.asarray(g) for g in cotangents]
        loss = lambda at: sum((out * g).sum() for out, g in zip(case.run(at), gs, strict=True))  # noqa: E731
        return [*case.run(at), *mg.grad(loss)(at).values()]

    expected = results()
    with mg.use_backend("strict"):
        found = results()
        assert all(mg.asarray(value).backend.name == "strict" for value in found)
        found = [host(value) for value in found]
    for got, needed in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, host(needed), rtol=1e-11, atol=1e-12)


@settings(max_examples=12, **SLOW)
@given(cases(units=3, rows=2, steps=2))
def test_with_all_options_the_checker_agrees_at_both_orders(case):
    case.plain(case.point)
    assume(case.margin > 0.05)  # finite differences must not meet the kink of clip
    assert check_grads(case.run, case.point, order=2).ok


@settings(max_examples=25, **SLOW)
@given(cases(), st.sampled_from([np.nan, np.inf, -np.inf, 1e308]))
def test_with_all_options_padding_cannot_matter(case, poison):
    """Bitwise, outputs, states and gradients; the gradient of the padding is exactly 0."""
    poisoned = case.inputs.copy()
    for row, length in enumerate(case.rows):
        poisoned[row, length:] = poison
    results = []
    for x in (case.inputs, poisoned):
        outs = []

        def loss(arrays, outs=outs):
            outs[:] = case.run(arrays)
            return sum((out * out).sum() for out in outs)

        gradients = mg.grad(loss)(case.point | {"x": x})
        results.append([host(out).tobytes() for out in outs] + [host(gradients[name]).tobytes() for name in gradients])
        for row, length in enumerate(case.rows):
            assert (host(gradients["x"])[row, length:] == 0).all()
    assert results[0] == results[1]


def test_every_option_is_drawn():
    """The strategy reaches each word and flag, so that the tests above are about all of them."""
    seen = set()

    @settings(max_examples=200, phases=[Phase.generate], database=None, **SLOW)
    @given(cases())
    def look(case):
        seen.update((case.kind, *item) for item in case.options.items())
        seen.add(case.lengths is None)

    look()
    flags = {("LSTMCell", name, flag) for name in ("peepholes", "coupled", "layer_norm") for flag in (True, False)}
    limits = {("LSTMCell", "projection", size) for size in (None, 2, 4)}
    words = {("GRUCell", "update", "keep"), ("GRUCell", "update", "write")}
    words |= {("GRUCell", "reset", "before"), ("GRUCell", "reset", "after")}
    assert seen >= flags | limits | words | {("LSTMCell", "clip", None), ("LSTMCell", "clip", 0.6), True, False}


def test_the_parameters_that_options_add():
    def shapes(cell):
        return {path: p.shape for path, p in cell.parameters().items() if path not in ("W_x", "b")}

    assert shapes(nn.GRUCell(2, 3, reset="after")) == {"W_h": (3, 9), "b_hn": (3,)}
    assert shapes(nn.LSTMCell(2, 3, peepholes=True)) == {"W_h": (3, 12), "p_i": (3,), "p_f": (3,), "p_o": (3,)}
    coupled = nn.LSTMCell(2, 3, coupled=True, peepholes=True)
    assert shapes(coupled) == {"W_h": (3, 9), "p_i": (3,), "p_o": (3,)}
    assert coupled.gates == "igo"
    projected = nn.LSTMCell(2, 3, projection=5)
    assert shapes(projected) == {"W_h": (5, 12), "W_p": (3, 5)}
    assert [part.shape for part in projected.zero_state(4)] == [(4, 5), (4, 3)]
    assert projected.gate("f").W_h.shape == (5, 3)
    norms = {"norm_x.gain": 12, "norm_x.bias": 12, "norm_h.gain": 12, "norm_h.bias": 12, "norm_c.gain": 3}
    norms["norm_c.bias"] = 3
    assert shapes(nn.LSTMCell(2, 3, layer_norm=True)) == {"W_h": (3, 12)} | {k: (n,) for k, n in norms.items()}


def test_a_new_option_starts_as_the_cell_without_it():
    """Peepholes and b_hn start at 0, and with no need to clip, a clipped cell is the same, bit for bit."""
    x = np.random.default_rng(0).normal(size=(ROWS, INPUTS))
    plain = nn.LSTMCell(INPUTS, UNITS, dtype="float64", seed=0)
    for options in ({"peepholes": True}, {"clip": 100.0}):
        cell = nn.LSTMCell(INPUTS, UNITS, dtype="float64", seed=0, **options)
        for got, needed in zip(cell(x, plain.zero_state(ROWS))[1], plain(x, plain.zero_state(ROWS))[1], strict=True):
            np.testing.assert_array_equal(host(got), host(needed))
    assert (host(nn.GRUCell(1, 2, reset="after").b_hn) == 0).all()


def test_negating_the_update_gate_turns_keep_into_write():
    keep = nn.GRUCell(INPUTS, UNITS, dtype="float64", seed=0)
    write = nn.GRUCell(INPUTS, UNITS, update="write", dtype="float64")
    negated = {path: array.copy() for path, array in keep.state_dict().items()}
    for array in negated.values():
        array[..., UNITS : 2 * UNITS] *= -1
    write.load_state_dict(negated)
    x, (h,), _ = point("GRUCell")
    np.testing.assert_allclose(host(write(x, h)[0]), host(keep(x, h)[0]), **TIGHT)


def test_clip_limits_the_memory_that_is_handed_on():
    cell = nn.LSTMCell(1, 2, clip=0.5, dtype="float64", seed=0)
    _, state = cell(np.ones((1, 1)), (np.zeros((1, 2)), np.array([[9.0, -9.0]])))
    assert host(state.c).tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.GRUCell(2, 3, update="forget"), ValueError, "GRUCell: update is 'keep' or 'write', got 'forget'"),
        (lambda: nn.GRUCell(2, 3, reset="later"), ValueError, "GRUCell: reset is 'before' or 'after', got 'later'"),
        (lambda: nn.LSTMCell(2, 3, clip=0.0), ValueError, "clip is a positive number or None, got 0.0"),
        (lambda: nn.LSTMCell(2, 3, clip=np.nan), ValueError, "clip is a positive number or None, got nan"),
        (lambda: nn.LSTMCell(2, 3, projection=0), ValueError, "LSTMCell: projection is at least 1, got 0"),
        (lambda: nn.LSTMCell(2, 3, clip=True), ValueError, "clip is a positive number or None, got True"),
        (lambda: nn.LSTMCell(2, 3, projection=True), TypeError, "LSTMCell: projection is an integer, got bool"),
        (lambda: nn.LSTMCell(2, 3, forget_bias=True), TypeError, "forget_bias is a number, got True"),
        (lambda: nn.LSTMCell(2, 3, forget_bias=np.nan), TypeError, "forget_bias is a number, got nan"),
        (lambda: nn.GRUCell(2, 3, dtype=None), TypeError, "parameters are floating, .* got None$"),
        (lambda: nn.LSTMCell(2, 3, coupled=True, forget_bias=2.0), ValueError, "f = 1 - i .*forget_bias=2.0"),
        (lambda: nn.LSTMCell(2, 3, peephole=True), TypeError, "LSTMCell takes no 'peephole'; .* peepholes, "),
        (lambda: nn.GRUCell(2, 3, foo=1, bar=2), TypeError, ("^GRUCell takes no 'foo', 'bar'; what it takes is "
         "inputs, units, update, reset, dtype, seed, init_W_x, init_W_h, init_b$")),
        (lambda: nn.GRUCell(2, 3, outputs=5), TypeError, "GRUCell takes no 'outputs'"),
        (lambda: nn.RNNCell(2, 3, biases={}, gates="h"), TypeError, "RNNCell takes no 'biases', 'gates'"),
        (lambda: nn.RNNCell(2, 3, activation="relu"), TypeError,
         "^RNNCell: activation is a function of an array, for example mg.relu, got 'relu'$"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_help_tells_of_the_options_that_all_cells_have(kind):
    cell = getattr(nn, kind)
    text = inspect.getdoc(cell)
    assert all(f"`{name}={default}`" in text for name, default in OPTIONS.items())
    assert list(OPTIONS) == list(Options.__annotations__)
    told = cell(2, 3, **{name: ast.literal_eval(default) for name, default in (OPTIONS | {"seed": "0"}).items()})
    for path, p in cell(2, 3, seed=0).parameters().items():
        assert p.dtype == told.parameters()[path].dtype
        assert (p == told.parameters()[path]).all()


def test_a_projected_state_is_told_from_the_memory():
    cell = nn.LSTMCell(INPUTS, 4, projection=2)
    x = np.ones((ROWS, INPUTS), np.float32)
    with pytest.raises(ValueError, match=r"LSTMCell takes a state h of shape \(\.\.\., 2\), got \(2, 4\)"):
        cell(x, cell.zero_state(ROWS)[::-1])


# ---- equations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def untraced():
    """No tracer (coverage, a debugger) hides the names of local variables."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


NUMPY = {
    **{name: getattr(np, name) for name in "tanh square sqrt sum split concatenate clip exp where".split()},
    "sigmoid": cell_equations.sigmoid,
}


def evaluated(text, **arrays):
    """What printed equations give for output and state, as plain Python with NumPy's functions."""
    names = {**NUMPY, **arrays}
    exec(text, names)
    return tree.flatten((names["output"], names["state"]))[0]


@settings(max_examples=40, **SLOW)
@given(cases())
def test_printed_equations_are_what_the_cell_computes(case):
    """Also where a profiler hides the names of local variables."""
    x = case.inputs[:, 0]
    needed = tree.flatten(case.cell(x, packed(case.kind, case.states)))[0]
    weights = {path.replace(".", "_"): array for path, array in case.weights.items()}
    profiler = sys.getprofile()
    for hidden in (None, lambda *_: None):
        sys.setprofile(hidden)
        try:
            text = case.cell.equations()
        finally:
            sys.setprofile(profiler)
        names = dict(zip("hc", case.states, strict=False))
        names |= {f"state_{name}": state for name, state in names.items()} | {"state": case.states[0]}
        for got, value in zip(evaluated(text, x=x, **names, **weights), needed, strict=True):
            np.testing.assert_allclose(got, host(value), **TIGHT)


def test_equations_read_like_the_cell(untraced):
    assert nn.RNNCell(2, 3, activation=mg.relu).equations() == "h = relu(x @ W_x + h @ W_h + b)\noutput, state = h, h"
    assert nn.GRUCell(2, 3, reset="after").equations().splitlines() == [
        "from_x = x @ W_x + b",
        "x_rz, x_n = split(from_x, [6], axis=-1)",
        "h_rz, h_n = split(h @ W_h, [6], axis=-1)",
        "r, z = split(sigmoid(x_rz + h_rz), 2, axis=-1)",
        "n = tanh(x_n + r * (h_n + b_hn))",
        "h = z * h + (1 - z) * n",
        "output, state = h, h",
    ]
    assert nn.LSTMCell(2, 3, peepholes=True, projection=2, clip=1.5).equations().splitlines() == [
        "z_i, z_f, z_g, z_o = split(x @ W_x + h @ W_h + b, 4, axis=-1)",
        "i = sigmoid(z_i + p_i * c)",
        "f = sigmoid(z_f + p_f * c)",
        "g = tanh(z_g)",
        "c = clip(f * c + i * g, -1.5, 1.5)",
        "o = sigmoid(z_o + p_o * c)",
        "h = (o * tanh(c)) @ W_p",
        "output, state = h, (h, c)",
    ]


def test_a_changed_cell_prints_changed_equations(untraced):
    class Leaky(nn.RNNCell):
        def __call__(self, x, state):
            h, _ = super().__call__(x, state)
            h = 0.25 * state + 0.75 * h
            return h, h

    assert Leaky(2, 3).equations().splitlines() == [
        "h = 0.25 * h + 0.75 * tanh(x @ W_x + h @ W_h + b)",
        "output, state = h, h",
    ]


def test_equations_of_a_function_with_trees_of_its_own(untraced):
    W, scale = np.array([[2.0, 1.0], [0.5, -1.0]]), 0.5

    def cell(x, state):
        total = state["total"] + x["a"] - (x["a"] - x["b"])
        state = {"total": total, "old": state["total"]}
        return (-(total**2) @ W / scale, total[:, :1]), state

    x = {name: np.random.default_rng(k).normal(size=(3, 2)) for k, name in enumerate("ab")}
    state = {"total": np.ones((3, 2)), "old": np.zeros((3, 2))}
    text = equations(cell, x, state)
    needed = tree.flatten(cell(x, state))[0]
    for got, value in zip(
        evaluated(text, W=W, x_a=x["a"], x_b=x["b"], state_total=state["total"], state_old=state["old"]),
        needed,
        strict=True,
    ):
        np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize(("inputs", "got"), [(2, "a number"), (np.array(1.0), "a number"), ({}, "none")])
def test_equations_need_inputs_with_rows(inputs, got):
    with pytest.raises(ValueError, match=rf"^equations takes an example .* \(B, \.\.\.\), .*, got {got}$"):
        equations(nn.GRUCell(2, 3), inputs)


def test_equations_of_a_function_of_numbers(untraced):
    assert equations(lambda x, s: (x, s * x), 2.0, 3.0) == "s = s * x\noutput, state = x, s"


def test_equations_need_a_state():
    with pytest.raises(TypeError, match="no_state has no zero_state: pass a state"):

        def no_state(x, state):
            return x, state

        equations(no_state, np.ones((1, 2)))
