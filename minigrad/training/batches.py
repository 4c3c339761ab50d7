"""Batches that lose nothing: one long stream cut into rows and chunks, or many sequences padded to one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.module import as_size
from minigrad.ops import getitem, where
from minigrad.ops.op import as_value
from minigrad.random import generator
from minigrad.tape import Array, constant

Seed = int | Sequence[int] | None


# ---- one stream ----------------------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """What `streams` yields: a piece of every row, and for each token the one that follows.

    >>> import minigrad as mg, numpy as np
    >>> chunk = next(mg.training.streams(np.arange(9), batch=2, chunk=3))
    >>> chunk.inputs.tolist(), chunk.targets.tolist()
    ([[0, 1, 2], [4, 5, 6]], [[1, 2, 3], [5, 6, 7]])
    """

    inputs: Array
    """(batch, n)"""
    targets: Array
    """(batch, n): each token's successor"""
    lengths: Any
    """(batch,), on the host: how many of the n steps each row has. Only in the last chunk may some have n - 1."""


def streams(tokens: Any, batch: int, chunk: int) -> Iterator[Chunk]:
    """A text as `batch` contiguous rows, read side by side, `chunk` steps at a time, for next-token prediction.

    tokens: (N,), N >= 2. Row b goes on in the next chunk where it stopped, so its state can be carried. Every token is
    the target of its predecessor once, also across the ends of chunks and of rows: all but the first token, which has
    no predecessor. Likewise all but the last are inputs. The last chunk has as many steps as are left; where N - 1 is
    not divisible by `batch`, its last step is missing in some rows, which `lengths` tells, and holds zeros there.
    Chunks lie on the backend of `tokens`.

    TypeError or ValueError for tokens of another shape, fewer than two, or sizes that are not positive integers.

    >>> import minigrad as mg, numpy as np
    >>> for inputs, targets, lengths in mg.training.streams(np.arange(8), batch=2, chunk=3):
    ...     print(inputs.tolist(), targets.tolist(), lengths.tolist())
    [[0, 1, 2], [4, 5, 6]] [[1, 2, 3], [5, 6, 7]] [3, 3]
    [[3], [0]] [[4], [0]] [1, 0]
    """
    batch, chunk = as_size("streams", "batch", batch), as_size("streams", "chunk", chunk)
    array = constant(as_value("training.streams", tokens))
    if len(array.shape) != 1 or array.shape[0] < 2:
        raise ValueError(f"streams takes tokens (N,) with N >= 2, one to read and one to predict, got {array.shape}")
    return _chunks(array, batch, chunk)


def _chunks(tokens: Array, batch: int, chunk: int) -> Iterator[Chunk]:
    backend = backend_of(tokens)
    pairs = tokens.shape[0] - 1  # of a token and the next one
    shorter, longer_rows = divmod(pairs, batch)
    rows = np.arange(batch)
    sizes = shorter + (rows < longer_rows)
    starts = shorter * rows + np.minimum(rows, longer_rows)
    for first in range(0, sizes[0], chunk):
        steps = np.arange(first, min(first + chunk, sizes[0]))
        real = steps < sizes[:, None]
        index = np.where(real, starts[:, None] + steps, 0)
        mask = backend.asarray(real)
        none = backend.xp.zeros_like(tokens[:1])
        inputs, targets = [where(mask, getitem(tokens, (at,)), none) for at in (index, index + 1)]
        yield Chunk(inputs, targets, real.sum(axis=1))


# ---- many sequences ------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What `padded` and `bucketed` yield: some sequences, padded to the length of their longest.

    >>> import minigrad as mg, numpy as np
    >>> labels = np.array(["long", "short"])
    >>> batch = next(mg.training.bucketed([[6, 7, 8], [5]], batch=2))
    >>> batch.values.tolist(), batch.lengths.tolist(), labels[batch.rows].tolist()
    ([[5, 0, 0], [6, 7, 8]], [1, 3], ['short', 'long'])
    """

    values: Any
    """(B, T, ...), or a tuple of such"""
    lengths: Any
    """(B,), on the host: how many steps each row has"""
    rows: Any
    """(B,), on the host: the place of each row among the sequences, to pick what else belongs to it"""


def padded(sequences: Iterable[Any], batch: int, seed: Seed = None, fill: float = 0) -> Iterator[Batch]:
    """Sequences in batches, each padded to the longest in its batch; in their order, or shuffled by a seed.

    sequences: arrays (T_i, ...) or lists, or tuples of such with one T_i each, say `(tokens[:-1], tokens[1:])`. Every
    step of every sequence is in one batch, once; the last batch may be smaller. `fill` stands in the padding.
    seed: as of `minigrad.random`, for example `(seed, epoch)`, for another order in each epoch.

    TypeError or ValueError, before the first batch, for sequences that differ in dtype or in what follows T_i, or a
    `fill` that is no value of their dtype.

    >>> import minigrad as mg
    >>> for values, lengths, rows in mg.training.padded([[5], [6, 7, 8], [9, 9]], batch=2):
    ...     print(values.tolist(), lengths.tolist(), rows.tolist())
    [[5, 0, 0], [6, 7, 8]] [1, 3] [0, 1]
    [[9, 9]] [2] [2]
    """
    data = _ragged("padded", sequences, fill)
    order = np.arange(len(data.lengths)) if seed is None else generator(seed).permutation(len(data.lengths))
    return (data.padded(rows, fill) for rows in _groups(order, as_size("padded", "batch", batch)))


def bucketed(sequences: Iterable[Any], batch: int, seed: Seed = None, fill: float = 0) -> Iterator[Batch]:
    """As `padded`, but sequences of similar lengths share a batch, so that little padding is needed.

    Sequences are sorted by length and cut into batches. With a seed, those of equal length are shuffled before, and
    the batches after; without one the shortest come first.

    >>> import minigrad as mg
    >>> for values, lengths, rows in mg.training.bucketed([[5], [6, 7, 8], [9, 9]], batch=2):
    ...     print(values.tolist(), lengths.tolist(), rows.tolist())
    [[5, 0], [9, 9]] [1, 2] [0, 2]
    [[6, 7, 8]] [3] [1]
    """
    data = _ragged("bucketed", sequences, fill)
    draw = None if seed is None else generator(seed)
    order = np.arange(len(data.lengths)) if draw is None else draw.permutation(len(data.lengths))
    by_length = order[np.argsort(data.lengths[order], kind="stable")]
    groups = _groups(by_length, as_size("bucketed", "batch", batch))
    if draw is not None:
        groups = [groups[i] for i in draw.permutation(len(groups))]
    return (data.padded(rows, fill) for rows in groups)


def _groups(order: Any, batch: int) -> list[Any]:
    return [order[first : first + batch] for first in range(0, len(order), batch)]


class _Ragged(NamedTuple):
    """Sequences of unequal lengths: for each of their parts the arrays of all of them."""

    parts: list[list[Array]]
    lengths: Any
    single: bool  # sequences are arrays, not tuples of such

    def padded(self, rows: Any, fill: float) -> Batch:
        """Some of the sequences as a batch."""
        lengths = self.lengths[rows]
        values = tuple([_padded([arrays[row] for row in rows], int(lengths.max()), fill) for arrays in self.parts])
        return Batch(values[0] if self.single else values, lengths, rows)


def _padded(arrays: list[Array], steps: int, fill: float) -> Array:
    like = arrays[0]
    values = backend_of(like).xp.full((len(arrays), steps, *like.shape[1:]), fill, dtype=like.dtype)
    for row, array in enumerate(arrays):
        values[row, : array.shape[0]] = array
    return values


def _ragged(owner: str, sequences: Iterable[Any], fill: Any) -> _Ragged:
    """The sequences, checked, and what fills them up."""
    items = list(sequences)
    tuples = [item if isinstance(item, tuple) else (item,) for item in items]
    if len({(isinstance(item, tuple), len(parts)) for item, parts in zip(items, tuples, strict=True)}) > 1:
        raise TypeError(f"{owner} takes sequences that are all arrays, or all tuples of equally many arrays")
    parts = [_alike(owner, column) for column in zip(*tuples, strict=True)]
    lengths = np.zeros(len(items), dtype=np.intp)
    for i, arrays in enumerate(zip(*parts, strict=True)):
        found = [int(array.shape[0]) for array in arrays]
        if len(set(found)) > 1:
            raise ValueError(f"{owner}: the arrays of one sequence have one length, got {found} in sequence {i}")
        lengths[i] = found[0]
    for part in parts:
        dtype = part[0].dtype
        if not _holds(dtype, fill):
            raise ValueError(
                f"{owner}: fill is a number that {dtype}, the dtype of the sequences, holds exactly, got {fill!r}; "
                "take one of its values, or convert the sequences with astype"
            )
    return _Ragged(parts, lengths, not any(isinstance(item, tuple) for item in items))


def _holds(dtype: Any, number: Any) -> bool:
    """Whether a number comes back from an array of the dtype as it was."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            kept = np.array(number, dtype=dtype).item()
    except (TypeError, ValueError, OverflowError):  # NaN and -1 are no unsigned integers
        return False
    return bool(kept == number or (kept != kept and number != number))  # noqa: PLR0124  (NaN alone differs from itself)


def _alike(owner: str, items: Sequence[Any]) -> list[Array]:
    """Arrays (T_i, ...) that differ in T_i alone."""
    arrays = [constant(as_value(f"training.{owner}", item)) for item in items]
    empty = [isinstance(item, list) and not item for item in items]  # it shows no dtype, and takes that of the others
    like = next((array for array, nothing in zip(arrays, empty, strict=True) if not nothing), arrays[0])
    arrays = [like[:0] if nothing else array for array, nothing in zip(arrays, empty, strict=True)]
    for i, array in enumerate(arrays):
        if not array.shape or (array.shape[1:], array.dtype) != (like.shape[1:], like.dtype):
            raise ValueError(
                f"{owner} takes sequences (T, ...) that differ in T alone: sequence 0 is "
                f"{like.dtype}{tuple(like.shape)}, and sequence {i} {array.dtype}{tuple(array.shape)}"
            )
    return arrays
