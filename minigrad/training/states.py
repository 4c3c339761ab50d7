"""StateStore: where the states of many sequences wait for their next pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.nn.module import as_size
from minigrad.ops import concatenate
from minigrad.ops.op import as_value
from minigrad.tape import constant
from minigrad.tensor import asarray


class StateStore:
    """The states of sequences by their ids, when each batch holds the next pieces of any of them.

    `cell` is whatever has `zero_state(batch_size)`, and gives a sequence that is new its first state; rows are axis 0
    of every leaf. What is stored is copied, and its gradient cut. `limit`: at most so many sequences, by default any
    number; a store that outgrows it raises rather than forgets. `states` is the dict of what is stored.
    Source: the state saver of TensorFlow r0.11.

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.GRUCell(2, 3, seed=0)
    >>> store = mg.training.StateStore(cell)
    >>> state = store.take(["anna", "bert"])
    >>> outputs, state = mg.nn.dynamic_rnn(cell, np.ones((2, 5, 2), dtype="float32"), [5, 4], state)
    >>> store.put(["anna", "bert"], state, ended=[False, True])
    >>> "anna" in store, "bert" in store
    (True, False)
    """

    def __init__(self, cell: Any, limit: int | None = None) -> None:
        self.cell = cell
        self.limit = None if limit is None else as_size("StateStore", "limit", limit)
        self.states: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.states)

    def __contains__(self, id: Hashable) -> bool:
        return id in self.states

    def take(self, ids: Iterable[Hashable]) -> Any:
        """The states of these sequences, one a row, in this order. They stay in the store until `put` or `drop`.

        ValueError for an id that is there twice.

        >>> import minigrad as mg
        >>> mg.training.StateStore(mg.nn.GRUCell(2, 3)).take(["new"])
        Tensor([[0., 0., 0.]], float32)
        """
        rows = [self.states[id] if id in self.states else self.cell.zero_state(1) for id in _distinct(ids)]
        none = self.cell.zero_state(0)  # so that no rows have a state too
        return tree.map(lambda *leaves: concatenate(leaves), none, *rows)

    def put(self, ids: Iterable[Hashable], state: Any, ended: Any = None) -> None:
        """Store the rows of a state under these ids. `ended`: a bool for each row; those sequences are dropped.

        TypeError or ValueError where the state is not one of this cell for so many rows, RuntimeError beyond the
        limit; then nothing was stored.

        >>> import minigrad as mg
        >>> cell = mg.nn.GRUCell(2, 3)
        >>> store = mg.training.StateStore(cell, limit=1)
        >>> store.put(["anna", "bert"], cell.zero_state(2), ended=[False, True])
        >>> len(store)
        1
        """
        ids = _distinct(ids)
        over = [False] * len(ids) if ended is None else _flags(ended, len(ids))
        state = _checked(state, self.cell.zero_state(len(ids)))
        stored = (self.states.keys() | set(ids)) - {id for id, end in zip(ids, over, strict=True) if end}
        if self.limit is not None and len(stored) > self.limit:
            raise RuntimeError(
                f"this StateStore holds at most {self.limit} states, and would hold {len(stored)}: drop the sequences "
                "that ended, with put(..., ended=...) or drop(ids), or raise the limit"
            )
        for row, (id, end) in enumerate(zip(ids, over, strict=True)):
            if end:
                self.states.pop(id, None)
            else:
                self.states[id] = tree.map(lambda leaf, row=row: asarray(leaf[row : row + 1].copy()), state)

    def drop(self, ids: Iterable[Hashable]) -> None:
        """Forget these sequences, stored or not; their next pieces begin anew.

        >>> import minigrad as mg
        >>> cell = mg.nn.GRUCell(2, 3)
        >>> store = mg.training.StateStore(cell)
        >>> store.put(["anna"], cell.zero_state(1))
        >>> store.drop(["anna"])
        >>> len(store)
        0
        """
        for id in ids:
            self.states.pop(id, None)


def _distinct(ids: Iterable[Hashable]) -> list[Hashable]:
    ids = list(ids)
    for id, times in Counter(ids).items():
        if times > 1:
            raise ValueError(f"a sequence has one row of a batch, or its state would be ambiguous, got {id!r} twice")
    return ids


def _flags(ended: Any, rows: int) -> list[bool]:
    """Which rows ended, on the host."""
    array = constant(as_value("training.StateStore", ended))
    if array.shape != (rows,) or (array.dtype != bool and rows):  # an empty list has no bools to show its dtype
        raise ValueError(f"ended is a bool for each of {rows} rows, got {array.dtype}{tuple(array.shape)}")
    return backend_of(array).to_host(array).tolist()  # type: ignore[no-any-return]


def _checked(state: Any, needed: Any) -> Any:
    """The arrays of a state; it has the structure, shapes and dtypes of the one that is needed."""
    leaves, structure = tree.flatten(state)
    like, expected = tree.flatten(needed)
    if structure != expected:
        raise TypeError(f"the states of this StateStore have the structure {expected}, got {structure}")
    arrays = [constant(as_value("training.StateStore", leaf)) for leaf in leaves]
    for array, other, path in zip(arrays, like, structure.paths(), strict=True):
        if array.shape != other.shape or array.dtype != other.dtype:
            raise ValueError(
                f"state{path} must be {other.dtype}{tuple(other.shape)}, a row for each id, "
                f"got {array.dtype}{tuple(array.shape)}"
            )
    return structure.build(arrays)
