"""Truncated backpropagation against graphs unrolled on the tape, in which stop_gradient stands where gradients end."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend import get_backend
from minigrad.training import truncated

INPUTS, UNITS = 2, 3
KINDS = {"RNNCell": 1, "GRUCell": 1, "LSTMCell": 2}  # and how many leaves their states have
TIGHT = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


def begin_of(first, steps, k1, k2):
    """Where the window that yields the steps from `first` begins."""
    return 0 if k2 >= steps else max(0, first + k1 - k2)


class Problem:
    """A cell with random weights, a batch of sequences, and a loss in which every output and final state counts."""

    def __init__(self, kind, batch, steps, seed, lengths=None):
        self.kind, self.steps, self.lengths = kind, steps, lengths
        draw = np.random.default_rng(seed)
        self.cell = getattr(nn, kind)(INPUTS, UNITS, dtype="float64")
        self.cell.load_state_dict({name: draw.normal(size=p.shape) for name, p in self.cell.parameters().items()})
        self.inputs = mg.tensor(draw.normal(size=(batch, steps, INPUTS)), requires_grad=True)
        self.states = [mg.tensor(draw.normal(size=(batch, UNITS)), requires_grad=True) for _ in range(KINDS[kind])]
        self.weights = mg.tensor(draw.normal(size=(batch, steps, UNITS)))
        self.final = mg.tensor(draw.normal(size=(batch, UNITS)))

    @property
    def initial(self):
        return nn.LSTMState(*self.states) if self.kind == "LSTMCell" else self.states[0]

    @property
    def net(self):
        return functools.partial(nn.dynamic_rnn, self.cell)

    def loss(self, outputs, steps):
        return (self.weights[:, steps] * outputs**2).sum()

    def last_loss(self, state):
        return sum(((self.final * leaf) ** 3).sum() for leaf in mg.tree.flatten(state)[0])

    def windows(self, k1, k2=None, **options):
        return truncated(self.net, self.inputs, k1, k2, self.lengths, self.initial, **options)

    def gradients(self):
        """All gradients, which are cleared; zeros where nothing arrived."""
        leaves = {**self.cell.parameters(), "inputs": self.inputs}
        leaves |= {f"state{i}": state for i, state in enumerate(self.states)}
        found = {name: np.zeros(t.shape) if t.grad is None else host(t.grad) for name, t in leaves.items()}
        for t in leaves.values():
            t.grad = None
        return found

    def unrolled(self, k1, k2):
        """The loss as one graph of single steps: for each window the whole past, cut where the window begins."""
        rows = mg.asarray(np.full(self.inputs.shape[0], self.steps) if self.lengths is None else self.lengths)
        total = 0.0
        for first in range(0, self.steps, k1):
            end, begin, state = min(first + k1, self.steps), begin_of(first, self.steps, k1, k2), self.initial
            for t in range(end):
                if 0 < t == begin:
                    state = mg.stop_gradient(state)
                output, new = self.cell(self.inputs[:, t], state)
                goes_on = (rows > t).reshape(-1, 1)
                state = mg.tree.map(lambda n, o, on=goes_on: mg.where(on, n, o), new, state)
                if t >= first:
                    total = total + self.loss(mg.where(goes_on, output, 0.0).reshape(-1, 1, UNITS), slice(t, t + 1))
        return total + self.last_loss(state)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, err_msg=name, **TIGHT)


@st.composite
def cases(draw):
    steps = draw(st.integers(1, 7))
    k1 = draw(st.integers(1, steps + 1))
    k2 = draw(st.integers(k1, steps + 2))
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=3, max_size=3))
    return draw(st.sampled_from(list(KINDS))), steps, k1, k2, lengths, draw(st.integers(0, 2**32 - 1))


slow_on_devices = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


@slow_on_devices
@given(case=cases(), at_once=st.booleans())
@example(case=("RNNCell", 1, 1, 1, None, 128580), at_once=False)  # a loss of 0.001, whose terms are of size 1
def test_it_is_the_unrolled_graph_with_its_cuts(case, at_once, backend):
    kind, steps, k1, k2, lengths, seed = case
    problem = Problem(kind, 3, steps, seed, lengths)
    expected_loss = problem.unrolled(k1, k2)
    expected_loss.backward()
    expected = problem.gradients()
    total = 0.0
    for window in problem.windows(k1, k2):
        loss = problem.loss(window.outputs, window.steps)
        if window.steps.stop == steps:
            loss = loss + problem.last_loss(window.state)
        if not at_once:
            loss.backward()
        total = total + (loss if at_once else loss.item())
    if at_once:
        total.backward()
        total = total.item()
    np.testing.assert_allclose(total, expected_loss.item(), **TIGHT)
    assert_close(problem.gradients(), expected)


@slow_on_devices
@given(case=cases(), more=st.integers(0, 2))
def test_from_k2_of_all_steps_it_is_full_backpropagation(case, more, backend):
    kind, steps, k1, _, lengths, seed = case
    problem = Problem(kind, 3, steps, seed, lengths)
    outputs, final = problem.net(problem.inputs, sequence_length=lengths, initial_state=problem.initial)
    (problem.loss(outputs, slice(None)) + problem.last_loss(final)).backward()
    expected = problem.gradients()
    for window in problem.windows(k1, max(k1, steps + more)):
        problem.loss(window.outputs, window.steps).backward(retain=window.steps.stop == steps)
    problem.last_loss(window.state).backward()
    assert_close(problem.gradients(), expected)


@slow_on_devices
@given(case=cases(), explicit=st.booleans())
def test_with_k1_equal_to_k2_it_is_chunks_with_a_carried_state(case, explicit, backend):
    kind, steps, k1, _, lengths, seed = case
    problem = Problem(kind, 3, steps, seed, lengths)
    state, expected_outputs = problem.initial, []
    for first in range(0, steps, k1):
        chunk = slice(first, first + k1)
        piece = problem.inputs[:, chunk]
        here = None if lengths is None else np.clip(np.array(lengths) - first, 0, piece.shape[1])
        outputs, state = problem.net(piece, sequence_length=here, initial_state=state)
        problem.loss(outputs, chunk).backward()
        expected_outputs.append(host(outputs))
        state = mg.stop_gradient(state)
    expected = problem.gradients()
    for window, outputs in zip(problem.windows(k1, k1 if explicit else None), expected_outputs, strict=True):
        problem.loss(window.outputs, window.steps).backward()
        np.testing.assert_array_equal(host(window.outputs), outputs)
    found = problem.gradients()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@slow_on_devices
@given(case=cases())
def test_every_step_is_in_one_window_as_in_the_whole_run(case, backend):
    kind, steps, k1, k2, lengths, seed = case
    problem = Problem(kind, 3, steps, seed, lengths)
    expected, final = problem.net(problem.inputs, sequence_length=lengths, initial_state=problem.initial)
    windows = list(problem.windows(k1, k2))
    assert [t for window in windows for t in range(steps)[window.steps]] == list(range(steps))
    assert all(window.steps.stop - window.steps.start == k1 for window in windows[:-1])
    assert_close(
        {"outputs": np.concatenate([host(window.outputs) for window in windows], axis=1)}, {"outputs": host(expected)}
    )
    for leaf, other in zip(mg.tree.flatten(windows[-1].state)[0], mg.tree.flatten(final)[0], strict=True):
        np.testing.assert_allclose(host(leaf), host(other), **TIGHT)
    if lengths is None:
        assert all(window.sequence_length is None for window in windows)
    else:
        assert sum(window.sequence_length for window in windows).tolist() == lengths


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 3), (2, 4), (3, 3), (3, 7), (4, 20)])
def test_gradients_reach_k2_steps_back_and_not_one_more(k1, k2, backend):
    """Exactly 0 before, and not 0 at any step from there on, for the losses of a window's last step."""
    steps = 8
    problem = Problem("RNNCell", 2, steps, 0)
    for window in problem.windows(k1, k2):
        last = window.steps.stop - 1
        problem.loss(window.outputs[:, -1:], slice(last, last + 1)).backward()
        reached = (problem.gradients()["inputs"] != 0).all(axis=(0, 2))
        begin = begin_of(window.steps.start, steps, k1, k2)
        assert reached.tolist() == [begin <= t <= last for t in range(steps)]


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (2, 5), (3, 4)])
def test_what_stands_in_the_padding_cannot_matter(k1, k2, backend):
    lengths = [7, 3, 0]
    padding = np.arange(7) >= np.array(lengths)[:, None]

    def run(poison):
        problem = Problem("GRUCell", 3, 7, 0, lengths)
        inputs = host(problem.inputs)
        inputs[padding] = poison
        problem.inputs = mg.tensor(inputs, requires_grad=True)
        outputs = []
        for window in problem.windows(k1, k2):
            problem.loss(window.outputs, window.steps).backward()
            outputs.append(host(window.outputs))
        return {"outputs": np.concatenate(outputs, axis=1), **problem.gradients()}

    expected = run(0.0)
    assert (expected["outputs"][padding] == 0).all()
    assert (expected["inputs"][padding] == 0).all()
    for poison in (np.nan, np.inf, 1e308):
        found = run(poison)
        for name, array in expected.items():
            assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (2, 3), (1, 3), (2, 6)])
def test_weights_may_change_between_windows(k1, k2, backend):
    """Then a window begins with the state that the earlier window had there, and runs on with the weights of now."""

    def trained(step):
        problem = Problem("LSTMCell", 2, 7, 0)
        optimiser = optim.SGD(problem.cell, lr=0.1)
        step(problem, optimiser)
        return {name: host(p) for name, p in problem.cell.parameters().items()}

    def by_windows(problem, optimiser):
        for window in problem.windows(k1, k2):
            problem.loss(window.outputs, window.steps).backward()
            optimiser.step()

    def by_hand(problem, optimiser):
        states = {0: problem.initial}  # at the beginning of each step, as the latest window had it
        for first in range(0, problem.steps, k1):
            begin, end, loss = begin_of(first, problem.steps, k1, k2), min(first + k1, problem.steps), 0.0
            state = mg.stop_gradient(states[begin])
            for t in range(begin, end):
                output, state = problem.cell(problem.inputs[:, t], state)
                states[t + 1] = state
                if t >= first:
                    loss = loss + problem.loss(output.reshape(-1, 1, UNITS), slice(t, t + 1))
            loss.backward()
            optimiser.step()

    assert_close(trained(by_windows), trained(by_hand))


@pytest.mark.parametrize(("steps", "k1", "k2"), [(12, 3, 3), (12, 2, 6), (13, 3, 5), (5, 2, 9), (1, 4, 4)])
def test_the_work_is_what_the_docstring_says(steps, k1, k2):
    """Each window runs its own steps and the k2 - k1 before them, once; so T * k2 / k1 at most, for whole windows."""
    problem, run = Problem("RNNCell", 1, steps, 0), []

    def net(inputs, **options):
        run.append(inputs.shape[1])
        return problem.net(inputs, **options)

    windows = list(truncated(net, problem.inputs, k1, k2, initial_state=problem.initial))
    assert sum(run) == sum(w.steps.stop - begin_of(w.steps.start, steps, k1, k2) for w in windows)
    assert sum(run) <= k2 * len(windows)
    assert 0 not in run
    assert len(run) <= 2 * len(windows)


def test_a_net_may_be_more_than_a_cell(backend):
    """Tokens through an embedding, in the net: so each window has an embedding of its own to go back through."""
    embedding, cell = (
        nn.Embedding(5, INPUTS, dtype="float64", seed=0),
        nn.GRUCell(INPUTS, UNITS, dtype="float64", seed=0),
    )
    tokens = np.random.default_rng(0).integers(0, 5, size=(2, 6))

    def net(tokens, **options):
        return nn.dynamic_rnn(cell, embedding(tokens), **options)

    (net(tokens)[0] ** 2).sum().backward()
    expected = {"W": host(embedding.W.grad), "W_h": host(cell.W_h.grad)}
    for p in (*embedding.parameters().values(), *cell.parameters().values()):
        p.grad = None
    for window in truncated(net, tokens, 2, 6):
        (window.outputs**2).sum().backward()
    assert_close({"W": host(embedding.W.grad), "W_h": host(cell.W_h.grad)}, expected)


def test_inputs_made_outside_of_the_net_say_so_at_the_second_window():
    problem = Problem("RNNCell", 1, 4, 0)
    windows = truncated(problem.net, mg.tanh(problem.inputs), 2)
    (next(windows).outputs ** 2).sum().backward()
    with pytest.raises(RuntimeError, match="backward"):
        (next(windows).outputs ** 2).sum().backward()


def test_pytrees_and_time_major(backend):
    problem = Problem("LSTMCell", 3, 5, 0, [5, 2, 3])

    def net(inputs, **options):
        outputs, state = nn.dynamic_rnn(problem.cell, inputs["x"], time_major=True, **options)
        return {"h": outputs, "twice": 2 * outputs}, state

    elems = {"x": mg.swapaxes(problem.inputs.detach(), 0, 1)}
    windows = list(truncated(net, elems, 2, 3, problem.lengths, problem.initial, time_major=True))
    for window, other in zip(windows, problem.windows(2, 3), strict=True):
        np.testing.assert_array_equal(host(window.outputs["h"]), host(other.outputs).swapaxes(0, 1))
        np.testing.assert_array_equal(host(window.outputs["twice"]), 2 * host(window.outputs["h"]))
        assert window.steps == other.steps


def test_no_steps_have_no_window():
    problem = Problem("RNNCell", 2, 0, 0)
    assert list(problem.windows(3)) == []


@pytest.mark.parametrize(
    ("net", "got"),
    [
        (nn.GRUCell(2, 3), "a GRUCell"),
        (nn.Stream(nn.GRUCell(2, 3)), "a Stream"),
        (nn.dynamic_rnn, "dynamic_rnn"),  # without its cell, in whose place the inputs would stand
        (lambda piece, state: (piece, state), "<lambda>"),
        (None, "a NoneType"),
    ],
)
def test_what_is_not_called_as_a_net_is_refused_before_the_first_window(net, got):
    message = rf"net\(inputs, sequence_length=\.\.\., .*not as {got} is: for a cell, pass functools.partial\(mg.nn.dyn"
    with pytest.raises(TypeError, match=message):
        truncated(net, np.ones((2, 4, 2), "float32"), 2)


BOTH_WAYS = nn.Bidirectional(nn.GRUCell(2, 3), nn.GRUCell(2, 3))


@pytest.mark.parametrize(
    "net",
    [
        BOTH_WAYS,
        functools.partial(nn.dynamic_rnn, BOTH_WAYS),
        functools.partial(nn.dynamic_rnn, cell=nn.Deep([BOTH_WAYS])),
        functools.partial(nn.dynamic_rnn, nn.GRUCell(2, 3), reverse=True),
    ],
)
def test_what_reads_windows_from_their_ends_is_refused(net):
    with pytest.raises(TypeError, match=r"window to window, and got a net that reads each .*run it over whole s"):
        truncated(net, np.ones((2, 4, 2), "float32"), 2)


@pytest.mark.parametrize("time_major", [False, True])
def test_a_net_that_takes_steps_for_rows_is_refused(time_major):
    """With as many steps in every window, nothing else would notice it."""
    inputs, run = np.ones((3, 4, 2), "float32"), functools.partial(nn.dynamic_rnn, nn.GRUCell(2, 3))
    inputs = np.swapaxes(inputs, 0, 1) if time_major else inputs
    message = f"truncated has time_major={time_major}, .* pass the same time_major to truncated and to the dynamic_rnn"
    with pytest.raises(ValueError, match=message):
        truncated(functools.partial(run, time_major=not time_major), inputs, 2, time_major=time_major)
    windows = truncated(lambda x, **given: run(x, time_major=not time_major, **given), inputs, 2, time_major=time_major)
    with pytest.raises(ValueError, match=message):
        next(windows)
    assert len(list(truncated(functools.partial(run, time_major=time_major), inputs, 2, time_major=time_major))) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda outputs, state: outputs, TypeError, r"a net that gives \(outputs, state\), .* got a Tensor$"),
        (lambda outputs, state: (outputs, state, {}), TypeError, "without records, got a tuple of 3$"),
        (lambda outputs, state: (outputs[:, -1], state), ValueError, r"\(B, T, ...\) of the 2 steps .* got \(2, 3\)$"),
        (lambda outputs, state: (0.0, state), ValueError, r"\(B, T, ...\) of the 2 steps .* got \(\)$"),
    ],
)
def test_a_net_that_gives_something_else_is_refused(change, error, message):
    """With two rows, one array could be taken for a pair."""
    run = functools.partial(nn.dynamic_rnn, nn.GRUCell(2, 3))
    windows = truncated(lambda x, **given: change(*run(x, **given)), np.ones((2, 4, 2), "float32"), 2)
    with pytest.raises(error, match=message):
        next(windows)


def test_a_net_that_does_not_tell_how_it_is_called_is_called():
    net, inputs = functools.partial(nn.dynamic_rnn, nn.RNNCell(2, 3)), np.ones((2, 4, 2), "float32")

    class Secretive:
        __signature__ = property(lambda self: (_ for _ in ()).throw(ValueError("none")))

        def __call__(self, *args, **named):
            return net(*args, **named)

    assert [window.steps for window in truncated(Secretive(), inputs, 2)] == [slice(0, 2), slice(2, 4)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k1": 0}, ValueError, "truncated: k1 is at least 1, got 0"),
        ({"k1": 1.5}, TypeError, "truncated: k1 is an integer, got float"),
        ({"k1": 2, "k2": 0}, ValueError, "truncated: k2 is at least 1, got 0"),
        ({"k1": 3, "k2": 2}, ValueError, "k2 is at least k1, .* got k1=3 and k2=2"),
        ({"k1": 1, "sequence_length": [1]}, ValueError, "got 1 lengths for 2 rows"),
        ({"k1": 1, "sequence_length": [1, 5]}, ValueError, "between 0 and the 4 steps there are, got 5"),
        ({"k1": 1, "inputs": np.ones(3)}, ValueError, r"inputs \(B, T, ...\), got inputs of shape \(3,\)"),
        ({"k1": 1, "inputs": ()}, ValueError, r"inputs \(B, T, ...\), got none"),
        (
            {"k1": 1, "inputs": {"a": np.ones((4, 2)), "b": np.ones((5, 2))}, "time_major": True},
            ValueError,
            r"inputs \(T, B, ...\), got inputs\['b'\] of shape \(5, 2\)",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_window(options, error, message):
    problem = Problem("RNNCell", 2, 4, 0)
    with pytest.raises(error, match=message):
        truncated(problem.net, **{"inputs": problem.inputs, **options})
