"""Stream: chunks are the sequence, their gradients end where they begin, and rows begin anew when they are told to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep
from minigrad.nn.dropout import Dropout
from minigrad.nn.stream import Stream
from minigrad.nn.wrappers import LearnedState

laws = settings(max_examples=10, deadline=None)


def lstm(seed=0):
    return nn.LSTMCell(2, 3, dtype="float64", seed=seed)


def inputs(rows=3, steps=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, steps, 2))


@laws
@given(cuts=st.lists(st.integers(0, 5), max_size=3).map(sorted), seed=st.integers(0, 99), time_major=st.booleans())
def test_the_chunks_are_the_sequence(cuts, seed, time_major):
    """Exactly, wherever it is cut, also into chunks of nothing."""
    cell, x = Deep([lstm(), nn.GRUCell(3, 2, dtype="float64", seed=1)]), inputs(seed=seed)
    stream = Stream(cell)
    needed, final = nn.dynamic_rnn(cell, x)
    found = []
    for chunk in np.split(x, cuts, axis=1):
        given = np.swapaxes(chunk, 0, 1) if time_major else chunk
        outputs, _ = stream(given, time_major=time_major)
        found.append(mg.swapaxes(outputs, 0, 1) if time_major else outputs)
    assert bool((mg.concatenate(found, axis=1) == needed).all())
    for kept, leaf in zip(mg.tree.flatten(stream.state)[0], mg.tree.flatten(final)[0], strict=True):
        assert type(kept) is np.ndarray
        assert bool((leaf == kept).all())


def test_rows_that_have_ended_keep_their_state():
    cell, x = lstm(), inputs()
    stream = Stream(cell)
    stream(x[:, :3], [3, 2, 0])
    stream(x[:, 3:], [2, 0, 0])
    _, state = nn.dynamic_rnn(cell, x, [5, 2, 0])
    assert bool((state.h == stream.state.h).all())


def test_no_gradient_passes_into_the_chunk_before():
    """The gradients are those of a graph with stop_gradient between the chunks, and not those of the whole."""
    cell, x = lstm(), mg.tensor(inputs(), requires_grad=True)
    stream = Stream(cell)
    parts = [stream(chunk)[0] for chunk in (x[:, :2], x[:, 2:])]
    (parts[1] ** 2).sum().backward()
    assert (x.grad[:, :2] == 0).all()
    assert (x.grad[:, 2:] != 0).all()
    cut = {path: p.grad for path, p in cell.parameters().items()}

    for p in cell.parameters().values():
        p.grad = None
    with mg.no_grad():
        _, state = nn.dynamic_rnn(cell, x[:, :2])
    outputs, _ = nn.dynamic_rnn(cell, x.detach()[:, 2:], initial_state=state)
    (outputs**2).sum().backward()
    for path, p in cell.parameters().items():
        np.testing.assert_array_equal(p.grad, cut[path])


def test_after_a_reset_it_begins_anew():
    stream, x = Stream(lstm()), inputs()
    first, _ = stream(x)
    again, _ = stream(x)
    assert not bool((first == again).any())
    stream.reset()
    anew, _ = stream(x)
    assert bool((first == anew).all())
    stream.reset()
    assert stream(x[:1])[0].shape == (1, 5, 3)


@pytest.mark.parametrize("rows", [[1], [False, True, False], 1, np.array([1]), [1, 1]])
def test_single_rows_begin_anew(rows, minigrad_backend):
    with mg.use_backend(minigrad_backend):
        cell, x = lstm().to(minigrad_backend), mg.asarray(inputs())
        stream = Stream(cell)
        first, state = stream(x)
        stream.reset(rows)
        outputs, _ = stream(x)
        on, _ = nn.dynamic_rnn(cell, x, initial_state=state)
        host = outputs.detach().numpy()
        assert (host[1] == first[1].detach().numpy()).all()
        assert (host[::2] == on[::2].detach().numpy()).all()


def test_resets_add_up_and_hold_for_one_chunk():
    stream, x = Stream(lstm()), inputs()
    first, _ = stream(x)
    stream.reset([0])
    stream.reset([])
    stream.reset([2])
    second, _ = stream(x)
    assert (first == second).data.all((1, 2)).tolist() == [True, False, True]
    third, _ = stream(x)
    assert not bool((first == third).any())


def test_a_learned_state_learns_from_the_rows_that_begin():
    net = LearnedState(lstm())
    stream, x = Stream(net), inputs()
    stream(x)
    (stream(x)[0] ** 2).sum().backward()
    assert net.state.h.grad is None
    stream.reset([0])
    outputs, _ = stream(x)
    (outputs**2).sum().backward()
    found = net.state.h.grad
    net.state.h.grad = None
    outputs, _ = nn.dynamic_rnn(net, x[:1])
    (outputs**2).sum().backward()
    np.testing.assert_allclose(found, net.state.h.grad, rtol=1e-12)


def test_what_dynamic_rnn_takes_is_handed_on():
    stream = Stream(Dropout(lstm(), output=0.5))
    outputs, _, recorded = stream(inputs(), training=True, seed=0, record=["cell.c"])
    assert bool((outputs == 0).any())
    assert recorded["cell.c"].shape == (3, 5, 3)
    with pytest.raises(ValueError, match="training=True and a seed"):
        stream(inputs())


def test_the_state_is_kept_apart_from_the_parameters():
    stream = Stream(lstm())
    before = list(stream.state_dict())
    stream(inputs())
    assert list(stream.state_dict()) == before == ["cell.W_x", "cell.W_h", "cell.b"]
    kept = stream.state
    outputs, _ = stream(inputs())
    stream.state = kept
    assert bool((stream(inputs())[0] == outputs).all())


def test_a_chunk_that_failed_leaves_the_state_alone():
    stream = Stream(lstm())
    stream(inputs())
    kept = stream.state
    with pytest.raises(ValueError, match="takes an input of shape"):
        stream(np.zeros((3, 2, 7)))
    assert stream.state is kept


def test_bad_input_is_refused():
    stream = Stream(lstm())
    with pytest.raises(ValueError, match="Stream has no state yet"):
        stream.reset([0])
    stream(inputs())
    with pytest.raises(ValueError, match=r"keeps the state of 3 rows and got a chunk of 2: reset\(\)"):
        stream(inputs(rows=2))
    with pytest.raises(IndexError, match=r"the rows are 0 to 2, got \[3\]"):
        stream.reset([3])
    with pytest.raises(IndexError, match="the rows are 0 to 2, got -1"):
        stream.reset(-1)
    with pytest.raises(TypeError, match=r"a boolean for each of 3 rows, got \[True\]"):
        stream.reset([True])
    with pytest.raises(TypeError, match=r"are integers, or a boolean"):
        stream.reset([0.5])
    with pytest.raises(
        TypeError, match="Stream: what it wraps is a cell, and a Bidirectional runs over whole sequences"
    ):
        Stream(Bidirectional(lstm(), lstm()))


def test_a_stream_is_called_itself_and_is_no_cell():
    x = inputs()
    for state in (None, lstm().zero_state(3)):
        with pytest.raises(TypeError, match=r"^a Stream is no cell, it runs .* by itself: call stream\(chunk\)$"):
            nn.dynamic_rnn(Stream(lstm()), x, initial_state=state)
    with pytest.raises(TypeError, match=r"a Stream is no cell, .* call stream\(chunk\)"):
        nn.equations(Stream(lstm()), x[:, 0], lstm().zero_state(3))
    with pytest.raises(TypeError, match=r"a Stream is no cell, .* call stream\(chunk\)"):
        mg.explain.credit_map(Stream(lstm()), x, lambda outputs: outputs[..., 0])


# ---- what a state is, between chunks -------------------------------------------------------------------------------


def test_writing_into_the_state_changes_no_gradient():
    cell, x = mg.nn.GRUCell(2, 3, dtype="float64", seed=0), np.random.default_rng(0).normal(size=(2, 4, 2))
    found = []
    for write in (False, True):
        stream = Stream(cell)
        _, final = stream(x)
        loss = mg.sum(final * final * final)
        if write:
            stream.state[:] = 0.0
        loss.backward()
        found.append(cell.W_x.grad)
        cell.W_x.grad = None
    assert (found[0] == found[1]).all()


def test_a_state_that_is_assigned_is_cut_and_undoes_a_reset_of_rows():
    cell, x = mg.nn.GRUCell(2, 3, dtype="float64", seed=0), np.random.default_rng(0).normal(size=(2, 4, 2))
    _, final = mg.nn.dynamic_rnn(cell, x)
    stream = Stream(cell)
    stream(x)
    stream.reset([1])
    stream.state = final
    outputs, _ = stream(x)
    expected, _ = mg.nn.dynamic_rnn(cell, x, initial_state=final.detach())
    assert (outputs == expected).all()
    outputs.sum().backward()
    mine, cell.W_x.grad = cell.W_x.grad, None
    expected.sum().backward()
    assert (mine == cell.W_x.grad).all()
    assert "state" not in "".join(stream.state_dict())


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ((1.0, 2.0), TypeError, r"this Stream have the structure LSTMState\(h=\*, c=\*\), got \(\*, \*\)"),
        (np.zeros((3, 3)), TypeError, r"have the structure LSTMState\(h=\*, c=\*\), got \*"),
        (nn.LSTMState(1.0, 2.0), ValueError, r"state.h must be float64\(1, 3\), as its cell has it, got float64\(\)"),
        (nn.LSTMState(np.zeros((3, 3)), np.zeros((2, 3))), ValueError, r"state.c must be float64\(3, 3\), .*\(2, 3\)"),
        (nn.LSTMState(*np.zeros((2, 3, 3), "float32")), ValueError, r"h must be float64\(3, 3\), .* float32\(3, 3\)"),
    ],
)
def test_a_state_that_is_not_the_cells_is_refused_where_it_is_assigned(state, error, message):
    stream = Stream(lstm())
    _, final = stream(inputs())
    with pytest.raises(error, match=message):
        stream.state = state
    assert bool((stream.state.h == final.h).all())


def test_a_cell_without_state_streams_too():
    class Doubling:
        def zero_state(self, batch_size):
            return ()

        def __call__(self, x, state):
            return 2 * x, ()

    stream = Stream(Doubling())
    for _ in range(2):
        assert (stream(np.ones((1, 2, 3)))[0] == 2).all()
    stream.reset([0])
    assert (stream(np.ones((2, 2, 3)))[0] == 2).all()
