"""dynamic_rnn against a loop over ragged rows in plain NumPy: values, gradients, and the laws of padding."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest

import cell_equations
import minigrad as mg
from cell_equations import EQUATIONS
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep
from minigrad.nn.wrappers import Residual

B, T, INPUTS, UNITS = 5, 4, 2, 3
LENGTHS = [2, 0, 4, 1, 3]
KINDS = list(EQUATIONS)
TIGHT = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


def build(kind):
    cell = getattr(nn, kind)(INPUTS, UNITS, dtype="float64")
    draw = np.random.default_rng(KINDS.index(kind))
    cell.load_state_dict({path: draw.normal(size=p.shape) for path, p in cell.parameters().items()})
    return cell


def draws(kind, seed=0):
    """Inputs (B, T, I), and as many states (B, H) as the cell has."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(B, T, INPUTS)), [draw.normal(size=(B, UNITS)) for _ in range(EQUATIONS[kind][2])]


def packed(kind, states):
    return nn.LSTMState(*states) if kind == "LSTMCell" else states[0]


def listed(kind, state):
    return list(state) if kind == "LSTMCell" else [state]


def fused(cell):
    return {path: host(p) for path, p in cell.parameters().items()}


def swapped(x, time_major):
    return np.swapaxes(x, 0, 1) if time_major else x


class Watch:
    """All that a call gives: outputs, final states and, of a loss over all of them, every gradient."""

    def __init__(self, cell, kind, inputs, states, **options):
        self.inputs = mg.tensor(inputs, requires_grad=True)
        self.states = [mg.tensor(state, requires_grad=True) for state in states]
        for p in cell.parameters().values():
            p.grad = None
        outputs, final = nn.dynamic_rnn(cell, self.inputs, initial_state=packed(kind, self.states), **options)
        finals = listed(kind, final)
        self.outputs, self.finals = host(outputs), [host(f) for f in finals]
        ((outputs**2).sum() + sum((f**3).sum() for f in finals)).backward()
        self.gradients = {path: host(p.grad) for path, p in cell.parameters().items()}
        self.gradients |= {"inputs": host(self.inputs.grad)}
        self.gradients |= {f"state{i}": host(s.grad) for i, s in enumerate(self.states)}

    def bits(self):
        found = [self.outputs, *self.finals, *self.gradients.values()]
        return [array.tobytes() for array in found]


# ---- against the loop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [T] * B, [0] * B], ids=str)
@pytest.mark.parametrize("time_major", [False, True])
def test_it_is_the_loop_over_ragged_rows(kind, reverse, lengths, time_major, backend):
    cell = build(kind)
    inputs, states = draws(kind)
    rows = [T] * B if lengths is None else lengths
    expected, expected_finals = cell_equations.ragged(kind, fused(cell), inputs, rows, states, reverse)
    outputs, final = nn.dynamic_rnn(
        cell,
        backend.asarray(swapped(inputs, time_major).copy()),
        sequence_length=lengths,
        initial_state=packed(kind, [backend.asarray(s) for s in states]),
        time_major=time_major,
        reverse=reverse,
    )
    np.testing.assert_allclose(swapped(host(outputs), time_major), expected, **TIGHT)
    for got, needed in zip(listed(kind, final), expected_finals, strict=True):
        np.testing.assert_allclose(host(got), needed, **TIGHT)
    for row, length in enumerate(rows):
        assert (swapped(host(outputs), time_major)[row, length:] == 0).all()
        if length == 0:
            for got, state in zip(listed(kind, final), states, strict=True):
                np.testing.assert_array_equal(host(got)[row], state[row])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_every_gradient_is_the_loops(kind, reverse, lengths, backend):
    cell = build(kind)
    inputs, states = draws(kind)
    rows = [T] * B if lengths is None else lengths

    def loss(arrays):
        given = [arrays[f"state{i}"] for i in range(len(states))]
        outputs, finals = cell_equations.ragged(kind, arrays, arrays["inputs"], rows, given, reverse)
        return (outputs**2).sum() + sum((f**3).sum() for f in finals)

    at = fused(cell) | {"inputs": inputs} | {f"state{i}": s for i, s in enumerate(states)}
    expected = cell_equations.gradient(loss, at)
    found = Watch(cell, kind, inputs, states, sequence_length=lengths, reverse=reverse).gradients
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], err_msg=name, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_through_time(kind):
    """Hessian times vector by the inputs, with ragged rows, against differences of the loop's exact gradient."""
    cell = build(kind)
    inputs, states = draws(kind)
    along = np.random.default_rng(1).normal(size=inputs.shape)

    def gradient_at(t):
        def loss(arrays):
            outputs, _ = cell_equations.ragged(kind, fused(cell), arrays["inputs"], LENGTHS, states)
            return (outputs**2).sum()

        return cell_equations.gradient(loss, {"inputs": inputs + t * along})

    def loss(inputs):
        outputs, _ = nn.dynamic_rnn(cell, inputs, LENGTHS, packed(kind, states))
        return (outputs**2).sum()

    (found,) = mg.hvp(loss, (inputs,), (along,))
    np.testing.assert_allclose(host(found), cell_equations.derivative(gradient_at)["inputs"], rtol=1e-9, atol=1e-10)


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e308])
def test_padding_cannot_matter(kind, reverse, poison, backend):
    """Bitwise: every output, state and gradient; and the gradient of the padding is exactly 0."""
    cell = build(kind)
    inputs, states = draws(kind)
    poisoned = inputs.copy()
    for row, length in enumerate(LENGTHS):
        poisoned[row, length:] = poison
    clean = Watch(cell, kind, inputs, states, sequence_length=LENGTHS, reverse=reverse)
    dirty = Watch(cell, kind, poisoned, states, sequence_length=LENGTHS, reverse=reverse)
    assert clean.bits() == dirty.bits()
    for row, length in enumerate(LENGTHS):
        assert (dirty.gradients["inputs"][row, length:] == 0).all()
        assert (dirty.gradients["inputs"][row, :length] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_final_state_is_that_of_each_rows_last_step(kind):
    cell = build(kind)
    inputs, states = draws(kind)
    outputs, final = nn.dynamic_rnn(cell, inputs, [4, 3, 2, 1, 4], packed(kind, states))
    h = host(listed(kind, final)[0])
    for row, length in enumerate([4, 3, 2, 1, 4]):
        np.testing.assert_array_equal(h[row], host(outputs)[row, length - 1])
    _, final = nn.dynamic_rnn(cell, inputs, [4, 3, 2, 1, 4], packed(kind, states), reverse=True)
    outputs, _ = nn.dynamic_rnn(cell, inputs, [4, 3, 2, 1, 4], packed(kind, states), reverse=True)
    np.testing.assert_array_equal(host(listed(kind, final)[0]), host(outputs)[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_in_two_chunks_is_the_sequence(kind, backend):
    """Exactly: the state is all that is handed on."""
    cell = build(kind)
    inputs, _ = draws(kind)
    x = backend.asarray(inputs)
    outputs, final = nn.dynamic_rnn(cell, x)
    first, state = nn.dynamic_rnn(cell, x[:, :1])
    second, state = nn.dynamic_rnn(cell, x[:, 1:], initial_state=state)
    np.testing.assert_array_equal(np.concatenate([host(first), host(second)], axis=1), host(outputs))
    for got, needed in zip(listed(kind, state), listed(kind, final), strict=True):
        np.testing.assert_array_equal(host(got), host(needed))


@pytest.mark.parametrize("kind", KINDS)
def test_later_inputs_do_not_reach_earlier_outputs(kind):
    cell = build(kind)
    inputs, _ = draws(kind)
    for reverse in (False, True):
        x = mg.tensor(inputs, requires_grad=True)
        outputs, _ = nn.dynamic_rnn(cell, x, reverse=reverse)
        outputs[:, 1].sum().backward()
        reached = np.abs(host(x.grad)).sum((0, 2)) != 0
        assert reached.tolist() == ([False, True, True, True] if reverse else [True, True, False, False])


def test_the_default_state_is_the_cells_zero_state():
    cell = build("LSTMCell")
    inputs, _ = draws("LSTMCell")
    default, _ = nn.dynamic_rnn(cell, inputs)
    given, _ = nn.dynamic_rnn(cell, inputs, initial_state=cell.zero_state(B))
    np.testing.assert_array_equal(host(default), host(given))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "steps"), [(0, 3), (2, 0), (0, 0), (1, 1)])
def test_nothing_is_something(kind, rows, steps, backend):
    cell = getattr(nn, kind)(INPUTS, UNITS)
    x = mg.zeros((rows, steps, INPUTS), dtype="float32")
    for lengths in (None, [steps] * rows):
        outputs, final = nn.dynamic_rnn(cell, x, lengths)
        assert (outputs.shape, outputs.dtype) == ((rows, steps, UNITS), np.float32)
        for part in listed(kind, final):
            assert (part.shape, part.dtype) == ((rows, UNITS), np.float32)
            if steps == 0:
                assert (host(part) == 0).all()


# ---- any callable is a cell ----------------------------------------------------------------------------------------


class Counter:
    """A cell without parameters, whose input, state and output are trees: it adds up and counts."""

    def __call__(self, x, state):
        total = state["total"] + x["a"] * x["b"]
        return (total, x["a"]), {"total": total, "steps": state["steps"] + 1}

    def zero_state(self, batch_size):
        return {"total": np.zeros((batch_size, 1)), "steps": np.zeros(batch_size)}


def test_a_cell_may_take_and_give_trees():
    a = np.arange(6.0).reshape(2, 3, 1)
    (totals, copies), final = nn.dynamic_rnn(Counter(), {"a": a, "b": np.full((2, 3, 1), 2.0)}, [3, 2])
    assert type(totals) is np.ndarray  # arrays alone give arrays
    np.testing.assert_array_equal(totals[:, :, 0], [[0, 2, 6], [6, 14, 0]])
    np.testing.assert_array_equal(copies[:, :, 0], [[0, 1, 2], [3, 4, 0]])
    np.testing.assert_array_equal(final["total"][:, 0], [6, 14])
    np.testing.assert_array_equal(final["steps"], [3, 2])


def test_a_function_is_a_cell_if_it_is_given_its_state():
    def decay(x, state):
        state = 0.5 * state + x
        return -state, state

    x = np.ones((1, 3, 2))
    outputs, final = nn.dynamic_rnn(decay, x, initial_state=np.zeros((1, 2)))
    np.testing.assert_array_equal(outputs[0, :, 0], [-1, -1.5, -1.75])
    np.testing.assert_array_equal(final, [[1.75, 1.75]])
    with pytest.raises(TypeError, match=r"decay has no zero_state\(batch_size\): pass initial_state"):
        nn.dynamic_rnn(decay, x)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (nn.GRUCell, r", got the class GRUCell: make a cell of it, GRUCell\(...\)$"),
        (
            nn.Linear(2, 3),
            r"and Linear is called in another way; a layer without a state, .* whole sequences \(B, T, .*",
        ),
        (nn.Embedding(2, 3), "and Embedding is called in another way"),
        (mg.tanh, "and tanh is called in another way"),
        (7, r", called as cell\(x, state\) -> \(output, state\), and int cannot be called$"),
    ],
)
@pytest.mark.parametrize("state", [None, np.zeros((2, 3), "float32")])
def test_what_is_no_cell_is_refused(cell, message, state):
    x = np.ones((2, 4, 2), "float32")
    with pytest.raises(TypeError, match=f"^dynamic_rnn takes a cell.*{message}"):
        nn.dynamic_rnn(cell, x, initial_state=state)
    with pytest.raises(TypeError, match=f"^credit_map takes a cell.*{message}"):
        mg.explain.credit_map(cell, x, lambda outputs: outputs[..., 0], state)
    with pytest.raises(TypeError, match=f"^equations takes a cell.*{message}"):
        nn.equations(cell, x[:, 0], state)


@pytest.mark.parametrize("flag", ["no", None, 0])
def test_flags_are_true_or_false(flag):
    """Whatever else a person means by it, Python may take it for the opposite."""
    cell, x = nn.GRUCell(2, 3), np.ones((2, 4, 2), "float32")
    stream, net = nn.Stream(cell), functools.partial(nn.dynamic_rnn, cell)
    for what, make in {
        "dynamic_rnn: time_major": lambda: nn.dynamic_rnn(cell, x, time_major=flag),
        "dynamic_rnn: reverse": lambda: nn.dynamic_rnn(cell, x, reverse=flag),
        "Stream: time_major": lambda: stream(x, time_major=flag),
        "truncated: time_major": lambda: mg.training.truncated(net, x, 2, time_major=flag),
        "Linear: bias": lambda: nn.Linear(2, 3, flag),
        "LSTMCell: peepholes": lambda: nn.LSTMCell(2, 3, peepholes=flag),
        "LSTMCell: coupled": lambda: nn.LSTMCell(2, 3, coupled=flag),
        "LSTMCell: layer_norm": lambda: nn.LSTMCell(2, 3, layer_norm=flag),
        "Dropout: per_sequence": lambda: nn.Dropout(cell, output=0.5, per_sequence=flag),
        "Bidirectional: exclusive": lambda: nn.Bidirectional(cell, nn.GRUCell(2, 3), exclusive=flag),
        "Deep: share": lambda: nn.Deep([cell, cell], share=flag),
    }.items():
        with pytest.raises(TypeError, match=f"^{what} is True or False, got {flag!r}$"):
            make()
    assert nn.dynamic_rnn(cell, x, time_major=np.True_)[1].shape == (4, 3)


def test_a_users_module_is_a_cell_whose_parameters_learn():
    class Leaky(nn.Module):
        def __init__(self):
            self.rate = mg.tensor(0.5, requires_grad=True)

        def __call__(self, x, state):
            state = self.rate * state + x
            return state, state

        def zero_state(self, batch_size):
            return mg.zeros(batch_size)

    cell = Leaky()
    outputs, _ = nn.dynamic_rnn(cell, np.ones((1, 3)))
    outputs[0, 2].backward()  # 1 + rate + rate ** 2
    assert float(cell.rate.grad) == 2.0


# ---- records of what a cell computes ---------------------------------------------------------------------------------


class Gated(nn.Module):
    """A cell with variables to look at: an array, a tree, a number, and one that is assigned twice."""

    def __init__(self):
        self.W = mg.tensor([[0.5, -1.0, 0.25], [2.0, 0.0, 1.0]], requires_grad=True)

    def __call__(self, x, state):
        share = 0.5
        gate = mg.sigmoid(x @ self.W)
        parts = {"kept": gate * state, "new": (1 - gate) * share}
        state = parts["kept"] + parts["new"]
        return 2 * state, state

    def zero_state(self, batch_size):
        return np.zeros((batch_size, UNITS))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_records_are_a_cells_variables_at_every_step(reverse, time_major, lengths, backend):
    cell = Gated().to(backend.name)
    inputs, _ = draws("GRUCell")
    rows = [T] * B if lengths is None else lengths
    x = backend.asarray(swapped(inputs, time_major).copy())
    options = {"time_major": time_major, "reverse": reverse, "initial_state": mg.zeros((B, UNITS))}
    outputs, final, recorded = nn.dynamic_rnn(cell, x, lengths, record=("parts", "gate", "state"), **options)
    assert list(recorded) == ["parts", "gate", "state"]
    mask = (np.arange(T) < np.array(rows)[:, None])[:, :, None]
    gate = sigmoid(inputs @ host(cell.W))
    np.testing.assert_allclose(swapped(host(recorded["gate"]), time_major), gate * mask, **TIGHT)
    new = swapped(host(recorded["parts"]["new"]), time_major)
    np.testing.assert_allclose(new, (1 - gate) / 2 * mask, **TIGHT)
    np.testing.assert_array_equal(2 * host(recorded["state"]), host(outputs))  # the value it has in the end
    unwatched, state = nn.dynamic_rnn(cell, x, lengths, **options)
    np.testing.assert_array_equal(host(unwatched), host(outputs))
    np.testing.assert_array_equal(host(state), host(final))


def test_the_gates_of_an_lstm_are_on_record():
    """As they act, not as sums before the sigmoid: together they give the memory and the output."""
    inputs, states = draws("LSTMCell")
    outputs, _, recorded = nn.dynamic_rnn(
        build("LSTMCell"), inputs, initial_state=nn.LSTMState(*states), record=("i", "f", "g", "o", "c")
    )
    i, f, g, o, c = (host(recorded[name]) for name in "ifgoc")
    before = np.concatenate([states[1][:, None], c[:, :-1]], axis=1)
    np.testing.assert_allclose(c, f * before + i * g, **TIGHT)
    np.testing.assert_allclose(host(outputs), o * np.tanh(c), **TIGHT)


def test_gradients_pass_through_records():
    cell, (inputs, _) = Gated(), draws("GRUCell")
    _, _, recorded = nn.dynamic_rnn(cell, inputs, LENGTHS, record=["gate"])
    recorded["gate"].sum().backward()
    mask = (np.arange(T) < np.array(LENGTHS)[:, None])[:, :, None]
    gate = sigmoid(inputs @ cell.W.data)
    needed = np.einsum("bti,btu->iu", inputs, gate * (1 - gate) * mask)
    np.testing.assert_allclose(cell.W.grad, needed, **TIGHT)


def test_records_of_parts_have_their_paths():
    inputs, _ = draws("GRUCell")
    net = Deep([Bidirectional(Gated(), Residual(nn.RNNCell(INPUTS, INPUTS, dtype="float64"))), build_upper()])
    names = ["layers.0.forward.gate", "layers.0.backward.cell.h", "layers.1.state"]
    _, _, recorded = nn.dynamic_rnn(net, inputs, LENGTHS, record=names)
    assert [(name, value.shape) for name, value in recorded.items()] == [
        (names[0], (B, T, UNITS)), (names[1], (B, T, INPUTS)), (names[2], (B, T, UNITS)),
    ]  # fmt: skip
    _, _, alone = nn.dynamic_rnn(net.layers[0].forward, inputs, LENGTHS, record=["gate"])
    np.testing.assert_array_equal(host(recorded[names[0]]), host(alone["gate"]))


def build_upper():
    return nn.GRUCell(UNITS + INPUTS, UNITS, dtype="float64")


def test_any_function_can_be_recorded():
    def decay(rate, x, state):
        total = rate * state + x
        return total, total

    x = np.ones((1, 3, 2))
    cell = functools.partial(decay, 0.5)
    _, _, recorded = nn.dynamic_rnn(cell, x, initial_state=np.zeros((1, 2)), record=["total"])
    assert recorded["total"][0, :, 0].tolist() == [1, 1.5, 1.75]
    _, _, recorded = nn.dynamic_rnn(cell, x[:, :0], initial_state=np.zeros((1, 2)), record=["total"])
    assert recorded["total"].shape == (1, 0, 2)


def test_names_that_there_are_not_are_refused():
    cell, (inputs, _) = Gated(), draws("GRUCell")
    there = "'gates' is no variable of a cell's call that has a row for each sequence; those are gate, parts, state, x"
    with pytest.raises(ValueError, match=there):
        nn.dynamic_rnn(cell, inputs, record=["gate", "gates"])
    with pytest.raises(ValueError, match="'share' is no variable"):
        nn.dynamic_rnn(cell, inputs, record=["share"])
    for names in ("gate", [1], 3):
        with pytest.raises(TypeError, match=r'record is a tuple of names, for example \("i", "f"\), got'):
            nn.dynamic_rnn(cell, inputs, record=names)


def test_a_profiler_goes_on_while_variables_are_watched():
    calls = []

    def profiler(frame, event, arg):
        if event == "call":
            calls.append(frame.f_code.co_name)

    class Calling(Gated):
        def __call__(self, x, state):
            gate = self.through_a_helper(x)
            return gate, state

        def through_a_helper(self, x):
            return x @ self.W

    cell, (inputs, _) = Calling(), draws("GRUCell")
    sys.setprofile(profiler)
    try:
        nn.dynamic_rnn(cell, inputs, record=["gate"])
        assert sys.getprofile() is profiler
        with pytest.raises(ValueError, match="matmul"):
            nn.dynamic_rnn(cell, inputs[:, :, :1], record=["gate"])
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert "through_a_helper" in calls


def test_a_profiler_that_cannot_be_asked_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "getprofile", object)
    with pytest.raises(RuntimeError, match="cannot see a cell's variables while object profiles the program"):
        nn.dynamic_rnn(Gated(), draws("GRUCell")[0], record=["gate"])


# ---- nets of a user that draw or walk more than once -----------------------------------------------------------------


class Noisy(nn.Module):
    """A drawing net of a user: what `prepared` is for."""

    def prepared(self, run):
        seed = run.seed if run.draws("Noisy") else None

        def step(x, state):
            noise = 0.0 if seed is None else mg.random.normal(x.shape, seed)
            return x + noise, state

        return step

    def zero_state(self, batch_size):
        return np.zeros((batch_size, 1))


def test_a_users_net_learns_whether_it_draws():
    x = np.zeros((2, 3, 4))
    assert not np.asarray(nn.dynamic_rnn(Noisy(), x, training=False)[0]).any()
    one, again, other = (host(nn.dynamic_rnn(Noisy(), x, training=True, seed=s)[0]) for s in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).all()
    with pytest.raises(ValueError, match="Noisy draws random numbers in training"):
        nn.dynamic_rnn(Noisy(), x)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([2, 5, 0, 0, 0], ValueError, "between 0 and the 4 steps there are, got 5"),
        ([2, -1, 0, 0, 0], ValueError, "got -1"),
        ([2, 3], ValueError, "got 2 lengths for 5 rows"),
        ([1.0, 2.0, 3.0, 4.0, 0.0], TypeError, "lengths are integers, one a row"),
        ([[1, 2, 3, 4, 0]], TypeError, "lengths are integers, one a row"),
    ],
)
@pytest.mark.parametrize("time_major", [False, True])
def test_wrong_lengths_are_refused(lengths, error, message, time_major):
    x = np.zeros((T, B, INPUTS) if time_major else (B, T, INPUTS), np.float32)
    with pytest.raises(error, match=message):
        nn.dynamic_rnn(nn.GRUCell(INPUTS, UNITS), x, lengths, time_major=time_major)


def test_wrong_inputs_are_refused():
    cell = nn.GRUCell(INPUTS, UNITS)
    with pytest.raises(ValueError, match=r"takes inputs \(B, T, \.\.\.\), got inputs of shape \(3,\)"):
        nn.dynamic_rnn(cell, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"inputs\['b'\] of shape \(2, 4\)"):
        nn.dynamic_rnn(cell, {"a": np.zeros((2, 3)), "b": np.zeros((2, 4))})
    with pytest.raises(ValueError, match=r"\(T, B, \.\.\.\), got none"):
        nn.dynamic_rnn(cell, [], time_major=True)
    with pytest.raises(ValueError, match=r"takes an input of shape \(\.\.\., 2\), got \(1, 5\)"):
        nn.dynamic_rnn(cell, np.zeros((1, 4, 5), np.float32))
    with pytest.raises(TypeError, match=r"or the module with \.astype"):
        nn.dynamic_rnn(cell, np.zeros((1, 4, 2)))


def test_a_wrong_state_is_refused():
    cell = nn.LSTMCell(INPUTS, UNITS)
    x = np.zeros((2, 4, INPUTS), np.float32)
    with pytest.raises(ValueError, match=r"state h must be \(2, 3\), got \(1, 3\)"):
        nn.dynamic_rnn(cell, x, initial_state=cell.zero_state(1))
    with pytest.raises(TypeError, match=r"structure LSTMState\(h=\*, c=\*\), got an initial_state of \(\*, \*\)"):
        nn.dynamic_rnn(cell, x, initial_state=tuple(cell.zero_state(2)))


@pytest.mark.parametrize("lengths", [None, [0, 0, 0], [0, 1, 0]])
def test_a_final_state_is_a_tensor_of_its_own_whatever_the_lengths(lengths):
    cell, h = nn.GRUCell(2, 3, dtype="float64", seed=0), np.ones((3, 3))
    x = np.ones((3, 0 if lengths is None else 2, 2))
    outputs, final = nn.dynamic_rnn(cell, x, lengths, initial_state=h)
    assert isinstance(outputs, mg.Tensor)
    assert isinstance(final, mg.Tensor)
    h[:] = 5.0
    assert (final.numpy()[0] == 1.0).all()
