"""Stream: a net over sequences that arrive in chunks. The state is kept between chunks, and its gradient cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.nn.initialisers import Seed
from minigrad.nn.module import Module
from minigrad.nn.recurrent import as_state, dynamic_rnn, sizes
from minigrad.nn.run import as_cell
from minigrad.ops import where
from minigrad.ops.op import as_value
from minigrad.tape import constant


class Stream(Module):
    """A cell that goes on where it stopped: every call is `dynamic_rnn` on the next chunk (B, T, ...) of B streams.

    Between calls `state` holds the final state, as arrays, so that no gradient passes from one chunk into the one
    before: truncated backpropagation through time. It is None before the first chunk; to resume, assign one that was
    kept, which is copied and cut, and undoes a `reset` of rows. It is no parameter, and not in `state_dict`. Chunks may
    differ in length, and rows in theirs.

    Raises ValueError for a chunk of another batch size than the state's, TypeError for a net that reads backwards. For
    a state that is assigned, TypeError where its structure is not the cell's, ValueError for another shape or dtype.
    Source: Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories" (1990).

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.stream import Stream
    >>> cell, x = mg.nn.GRUCell(2, 3, seed=0), np.ones((1, 6, 2), dtype="float32")
    >>> stream = Stream(cell)
    >>> outputs = [stream(x[:, :4])[0], stream(x[:, 4:])[0]]
    >>> bool((mg.concatenate(outputs, axis=1) == mg.nn.dynamic_rnn(cell, x)[0]).all())
    True
    """

    called_as: ClassVar[str] = "stream(chunk)"

    def __init__(self, cell: Any) -> None:
        self.cell = as_cell("Stream", cell, "what reads backwards begins at the end, and a stream has none")
        self._state: Any = None
        self._ended: np.ndarray[Any, Any] | None = None  # which rows begin anew with the next chunk

    @property
    def state(self) -> Any:
        """What the next chunk begins with, as arrays that nothing else uses; None before the first one.

        >>> import minigrad as mg
        >>> mg.nn.Stream(mg.nn.GRUCell(2, 3)).state is None
        True
        """
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._keep(None if state is None else as_state("Stream", state, self._zeros_like(state), "as its cell has it"))

    def _zeros_like(self, state: Any) -> Any:
        """The cell's first state, for as many rows as a state has."""
        leaves = tree.flatten(state)[0]
        shape = as_value("Stream", leaves[0]).shape if leaves else ()
        return self.cell.zero_state(shape[0] if shape else 1)

    def _keep(self, state: Any) -> None:
        self._state = None if state is None else tree.map(_copied, state)
        self._ended = None

    def __call__(
        self,
        inputs: Any,
        sequence_length: Any = None,
        time_major: bool = False,
        training: bool | None = None,
        seed: Seed = None,
        record: Sequence[str] = (),
    ) -> tuple[Any, ...]:
        """The next chunk: what `dynamic_rnn` with these arguments gives."""
        state = self._first_state(sizes("Stream", inputs, time_major)[0])
        result = dynamic_rnn(
            self.cell,
            inputs,
            sequence_length,
            state,
            time_major=time_major,
            training=training,
            seed=seed,
            record=record,
        )
        self._keep(result[1])
        return result

    def reset(self, rows: Any = None) -> None:
        """Let all streams, or those in the given rows, begin anew with the next chunk, from the cell's first state.

        rows: integers, or a boolean for each row. Raises IndexError for a row that there is not, ValueError for rows
        where there is no state yet.

        >>> import minigrad as mg, numpy as np
        >>> from minigrad.nn.stream import Stream
        >>> stream = Stream(mg.nn.GRUCell(2, 3, seed=0))
        >>> x = np.ones((2, 4, 2), dtype="float32")
        >>> _ = stream(x)
        >>> stream.reset(rows=[1])
        >>> outputs, _ = stream(x)
        >>> bool((outputs[0, 0] == outputs[1, 0]).any())
        False
        """
        if rows is None:
            self._keep(None)
            return
        if self.state is None:
            raise ValueError("Stream has no state yet, so no rows to reset: reset() after the first chunk")
        count = self._rows()
        if count is None:
            return  # a cell without state: every chunk begins anew
        ended = np.zeros(count, dtype=bool) if self._ended is None else self._ended
        ended[_as_rows(rows, len(ended))] = True
        self._ended = ended

    def _rows(self) -> int | None:
        leaves = tree.flatten(self.state)[0]
        return int(leaves[0].shape[0]) if leaves else None

    def _first_state(self, batch: int) -> Any:
        if self.state is None:
            return None
        if self._rows() not in (None, batch):
            raise ValueError(
                f"Stream keeps the state of {self._rows()} rows and got a chunk of {batch}: reset() to begin anew with "
                "another batch size, or fill the batch up with rows of sequence_length 0, which keep their state"
            )
        if self._ended is None:
            return self.state
        ended = self._ended

        def chosen(first: Any, kept: Any) -> Any:
            mask = ended.reshape((-1, *[1] * (len(kept.shape) - 1)))
            return where(backend_of(constant(kept)).asarray(mask), first, kept)

        return tree.map(chosen, self.cell.zero_state(batch), self.state)


def _copied(leaf: Any) -> Any:
    """The array of a state, cut from its tape and from what the tape needs."""
    return constant(as_value("Stream", leaf)).copy()


def _as_rows(rows: Any, count: int) -> np.ndarray[Any, Any]:
    """Rows as an index of numbers or booleans."""
    index = np.asarray(rows)
    if index.size == 0:
        index = index.astype(np.intp)
    if index.dtype.kind not in "iub" or (index.dtype.kind == "b" and index.shape != (count,)):
        raise TypeError(f"rows of Stream.reset are integers, or a boolean for each of {count} rows, got {rows!r}")
    if index.dtype.kind != "b" and ((index < 0) | (index >= count)).any():
        raise IndexError(f"Stream.reset: the rows are 0 to {count - 1}, got {rows!r}")
    return index
