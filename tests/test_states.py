"""StateStore: sequences of any lengths, whose pieces come in any batches, run as if each ran alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.training import StateStore

CHUNK = 3


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    rows=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_pieces_in_any_batches_run_as_each_sequence_alone(lengths, rows, seed, backend):
    draw = np.random.default_rng(seed)
    cell = nn.LSTMCell(2, 3, dtype="float64", seed=0)
    sequences = {f"id{i}": draw.normal(size=(n, 2)) for i, n in enumerate(lengths)}
    outputs = {id: [] for id in sequences}
    done, store = dict.fromkeys(sequences, 0), StateStore(cell, limit=len(sequences))
    while done:
        ids = [str(id) for id in draw.permutation(list(done))[:rows]]
        batch, here = np.zeros((len(ids), CHUNK, 2)), []
        for row, id in enumerate(ids):
            piece = sequences[id][done[id] : done[id] + CHUNK]
            batch[row, : len(piece)] = piece
            here.append(len(piece))
            done[id] += len(piece)
        ended = [done[id] == len(sequences[id]) for id in ids]
        found, state = nn.dynamic_rnn(cell, backend.asarray(batch), here, store.take(ids))
        store.put(ids, state, ended)
        for row, id in enumerate(ids):
            outputs[id].append(host(found)[row, : here[row]])
            assert (id in store) != ended[row]
            if ended[row]:
                del done[id]
    assert len(store) == 0
    for id, sequence in sequences.items():
        alone, _ = nn.dynamic_rnn(cell, backend.asarray(sequence[None]))
        np.testing.assert_allclose(np.concatenate(outputs[id]), host(alone)[0], rtol=1e-12, atol=1e-14)


def numbered(first, rows=2, dtype="float32"):
    """A state of a GRU with two units in which every number is another one."""
    return mg.tensor(np.arange(first, first + 2 * rows, dtype=dtype).reshape(rows, 2))


@pytest.fixture
def store():
    return StateStore(nn.GRUCell(1, 2))


def test_rows_go_to_their_ids_in_any_order(store):
    store.put(["a", 7], numbered(1))
    store.put([("c", 0)], numbered(10, rows=1))
    np.testing.assert_array_equal(host(store.take([7, "new", ("c", 0), "a"])), [[3, 4], [0, 0], [10, 11], [1, 2]])
    assert len(store) == 3
    assert "new" not in store
    store.put(["a"], numbered(20, rows=1))
    np.testing.assert_array_equal(host(store.take(["a", 7])), [[20, 21], [3, 4]])


def test_those_that_ended_begin_anew(store):
    store.put(["a", "b"], numbered(1))
    store.put(["b", "a"], numbered(5), ended=np.array([False, True]))
    np.testing.assert_array_equal(host(store.take(["a", "b"])), [[0, 0], [5, 6]])
    store.drop(["b", "never seen"])
    np.testing.assert_array_equal(host(store.take(["b"])), [[0, 0]])


def test_what_is_stored_is_cut_and_a_copy(store):
    cell = store.cell
    _, state = nn.dynamic_rnn(cell, np.ones((1, 2, 1), "float32"), initial_state=store.take(["a"]))
    store.put(["a"], state)
    assert state.requires_grad
    assert not store.take(["a"]).requires_grad
    array = np.ones((1, 2), "float32")
    store.put(["b"], array)
    array[:] = 5
    np.testing.assert_array_equal(host(store.take(["b"])), [[1, 1]])


def test_new_sequences_get_the_first_state_of_the_cell_with_its_gradient():
    class Learned(nn.GRUCell):
        def __init__(self):
            super().__init__(1, 2)
            self.first = mg.tensor([[1.0, 2.0]], dtype="float32", requires_grad=True)

        def zero_state(self, batch_size):
            return mg.broadcast_to(self.first, (batch_size, 2))

    store = StateStore(Learned())
    store.put(["old"], numbered(5, rows=1))
    state = store.take(["new", "old", "newer"])
    np.testing.assert_array_equal(host(state), [[1, 2], [5, 6], [1, 2]])
    (state * np.array([[1.0], [10.0], [100.0]], "float32")).sum().backward()
    np.testing.assert_array_equal(host(store.cell.first.grad), [[101, 101]])


def test_no_rows(store):
    assert store.take([]).shape == (0, 2)
    store.put([], numbered(0, rows=0), ended=[])
    assert len(store) == 0


def test_a_limit_raises_rather_than_forgets():
    store = StateStore(nn.GRUCell(1, 2), limit=2)
    store.put(["a", "b"], numbered(1))
    with pytest.raises(RuntimeError, match="holds at most 2 states, and would hold 3: drop the sequences that ended"):
        store.put(["a", "c"], numbered(5))
    np.testing.assert_array_equal(host(store.take(["a", "b", "c"])), [[1, 2], [3, 4], [0, 0]])
    store.put(["a", "c"], numbered(5), ended=[True, False])
    assert set(store.states) == {"b", "c"}
    with pytest.raises(ValueError, match="limit is at least 1, got 0"):
        StateStore(nn.GRUCell(1, 2), limit=0)


@pytest.mark.parametrize(
    ("ids", "state", "ended", "error", "message"),
    [
        (["a", "a"], numbered(0), None, ValueError, "one row of a batch, .* got 'a' twice"),
        (
            ["a"],
            numbered(0),
            None,
            ValueError,
            r"state must be float32\(1, 2\), a row for each id, got float32\(2, 2\)",
        ),
        (
            ["a", "b"],
            numbered(0, dtype="float64"),
            None,
            ValueError,
            r"must be float32\(2, 2\), .* got float64\(2, 2\)",
        ),
        (["a", "b"], (numbered(0), numbered(0)), None, TypeError, r"have the structure \*, got \(\*, \*\)"),
        (["a", "b"], numbered(0), [True], ValueError, r"ended is a bool for each of 2 rows, got bool\(1,\)"),
        (["a", "b"], numbered(0), [5, 3], ValueError, r"ended is a bool for each of 2 rows, got int64\(2,\)"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_stored(ids, state, ended, error, message, store):
    with pytest.raises(error, match=message):
        store.put(ids, state, ended)
    assert len(store) == 0


# ---- ids -----------------------------------------------------------------------------------------------------------


IDS = {
    "list": lambda ids, backend: ids,
    "tuple": lambda ids, backend: tuple(ids),
    "generator": lambda ids, backend: (id for id in ids),
    "array": lambda ids, backend: np.array(ids),
    "bytes of an array": lambda ids, backend: np.array(ids, "uint8"),
    "scalars": lambda ids, backend: [np.int64(id) for id in ids],
    "array of the backend": lambda ids, backend: backend.asarray(np.array(ids)),
    "tensor": lambda ids, backend: mg.tensor(backend.asarray(np.array(ids))),
    "tensors": lambda ids, backend: [mg.tensor(backend.asarray(np.array(id))) for id in ids],
}


@pytest.mark.parametrize("taken", IDS)
@pytest.mark.parametrize("put", IDS)
def test_an_id_is_found_again_whatever_it_comes_in(put, taken, backend):
    store = StateStore(nn.GRUCell(1, 2))
    store.put(IDS[put]([7, 8], backend), backend.asarray(numbered(1).data))
    np.testing.assert_array_equal(host(store.take(IDS[taken]([8, 9, 7], backend))), [[3, 4], [0, 0], [1, 2]])
    store.put(IDS[taken]([7, 8], backend), backend.asarray(numbered(5).data))
    assert {id: type(id) for id in store.states} == {7: int, 8: int}
    assert np.int64(7) in store
    assert mg.tensor(7) in store
    store.drop(IDS[taken]([7], backend))
    assert list(store.states) == [8]
    with pytest.raises(ValueError, match="got 7 twice"):
        store.take(IDS[taken]([7, 7], backend))


def test_strings_and_tuples_of_an_array_are_ids(store):
    store.put(np.array(["anna", "bert"]), numbered(1))
    store.put([("c", np.int64(0))], numbered(10, rows=1))
    np.testing.assert_array_equal(host(store.take([("c", 0), "bert"])), [[10, 11], [3, 4]])


class Foreign:
    """A tensor of another library, which hashes by its address."""

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other


@pytest.mark.parametrize(
    "id", [float("nan"), np.float64("nan"), None, object(), Foreign(), ("a", float("nan")), [7], np.array([7])]
)
def test_an_id_that_would_never_be_found_again_is_refused(id, store):
    for call in (store.take, store.drop, lambda ids: store.put(ids, numbered(1, rows=1))):
        with pytest.raises(TypeError, match=r"StateStore would never find the id .* again: an id is an integer, a str"):
            call([id])
    with pytest.raises(TypeError, match="StateStore would never find the id"):
        store.__contains__(id)
    assert len(store) == 0


@pytest.mark.parametrize("ids", ["ab", b"ab", {1, 2}, {"a": 1, "b": 2}, 7, None, mg.tensor(7)])
def test_ids_are_one_a_row_in_an_order(ids, store):
    for call in (store.take, store.drop, lambda ids: store.put(ids, numbered(1))):
        with pytest.raises(TypeError, match="takes the ids of a batch in a list or an array, one a row, got"):
            call(ids)


def test_a_store_is_for_a_cell():
    with pytest.raises(TypeError, match=r"StateStore: what has the states is a cell .*, got the class GRUCell"):
        StateStore(nn.GRUCell)


def test_an_id_that_is_taken_twice_is_refused(store):
    with pytest.raises(ValueError, match="got 3 twice"):
        store.take([1, 3, 2, 3])
