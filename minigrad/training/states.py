"""StateStore: where the states of many sequences wait for their next pieces."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.nn.module import as_size
from minigrad.nn.recurrent import as_state
from minigrad.nn.run import as_net
from minigrad.ops import concatenate
from minigrad.ops.op import as_value
from minigrad.tape import constant
from minigrad.tensor import asarray


class StateStore:
    """The states of sequences by their ids, when each batch holds the next pieces of any of them.

    `cell` is whatever has `zero_state(batch_size)`, and gives a sequence that is new its first state; rows are axis 0
    of every leaf. What is stored is copied, and its gradient cut. `limit`: at most so many sequences, by default any
    number; a store that outgrows it raises rather than forgets. `states` is the dict of what is stored.

    Ids are an array or Tensor (B,), or a list or another ordered iterable of integers, strings, or whatever else is
    equal and hashes alike when it is made again; tuples of such, too. 7 is one id, from whatever array it comes. It is
    a TypeError to give an id without a lasting identity: NaN, None, or an object that hashes by its address.
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
        self.cell = as_net("StateStore", "what has the states", cell)
        self.limit = None if limit is None else as_size("StateStore", "limit", limit)
        self.states: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.states)

    def __contains__(self, id: Any) -> bool:
        return _as_id(id) in self.states

    def take(self, ids: Any) -> Any:
        """The states of these sequences, one a row, in this order. They stay in the store until `put` or `drop`.

        ValueError for an id that is there twice.

        >>> import minigrad as mg
        >>> mg.training.StateStore(mg.nn.GRUCell(2, 3)).take(["new"])
        Tensor([[0., 0., 0.]], float32)
        """
        rows = [self.states[id] if id in self.states else self.cell.zero_state(1) for id in _distinct(ids)]
        none = self.cell.zero_state(0)  # so that no rows have a state too
        return tree.map(lambda *leaves: concatenate(leaves), none, *rows)

    def put(self, ids: Any, state: Any, ended: Any = None) -> None:
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
        state = as_state("StateStore", state, self.cell.zero_state(len(ids)), "a row for each id")
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

    def drop(self, ids: Any) -> None:
        """Forget these sequences, stored or not; their next pieces begin anew.

        >>> import minigrad as mg
        >>> cell = mg.nn.GRUCell(2, 3)
        >>> store = mg.training.StateStore(cell)
        >>> store.put(["anna"], cell.zero_state(1))
        >>> store.drop(["anna"])
        >>> len(store)
        0
        """
        for id in _as_ids(ids):
            self.states.pop(id, None)


def _distinct(ids: Any) -> list[Hashable]:
    found = _as_ids(ids)
    for id, times in Counter(found).items():
        if times > 1:
            raise ValueError(f"a sequence has one row of a batch, or its state would be ambiguous, got {id!r} twice")
    return found


def _as_ids(ids: Any) -> list[Hashable]:
    """The ids of a batch, one a row; TypeError for what has no rows, or not in an order."""
    given = constant(ids)
    if _is_array(given):
        given = list(backend_of(given).to_host(given)) if given.shape else None
    if isinstance(given, str | bytes | set | frozenset | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"StateStore takes the ids of a batch in a list or an array, one a row, got {ids!r}")
    return [_as_id(id) for id in given]


def _as_id(id: Any) -> Hashable:
    """An id as a value that is found again, whatever array it comes from; TypeError for one that never would be."""
    if isinstance(id, tuple):
        return tuple([_as_id(part) for part in id])
    plain = constant(id)
    if _is_array(plain) and plain.shape == ():
        plain = backend_of(plain).to_host(plain)[()]
    if isinstance(plain, np.generic):
        plain = plain.item()
    if not _lasts(plain):
        raise TypeError(
            f"StateStore would never find the id {id!r} again: an id is an integer, a string or whatever else is equal "
            "and hashes alike when it is made again; of a foreign array or tensor, pass ids.tolist()"
        )
    return plain  # type: ignore[no-any-return]


def _is_array(value: Any) -> bool:
    try:
        backend_of(value)
    except TypeError:
        return False
    return True


def _lasts(id: Any) -> bool:
    """Whether an id is equal to itself, as NaN is not, and hashes by its value, and not by its address."""
    if isinstance(id, int | str):
        return True
    kind: Any = type(id)
    try:
        by_address = kind.__hash__ is object.__hash__ or hash(id) == builtins.id(id)
    except TypeError:  # a list, say
        return False
    return not (id is None or by_address) and (id == id) is True  # noqa: PLR0124  (NaN alone differs from itself)


def _flags(ended: Any, rows: int) -> list[bool]:
    """Which rows ended, on the host."""
    array = constant(as_value("training.StateStore", ended))
    if array.shape != (rows,) or (array.dtype != bool and rows):  # an empty list has no bools to show its dtype
        raise ValueError(f"ended is a bool for each of {rows} rows, got {array.dtype}{tuple(array.shape)}")
    return backend_of(array).to_host(array).tolist()  # type: ignore[no-any-return]
