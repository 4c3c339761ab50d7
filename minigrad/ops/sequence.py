"""Ops on padded sequences, whose rows have lengths of their own."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from minigrad.backend import backend_of
from minigrad.ops.indexing import getitem
from minigrad.ops.op import as_value, axis_of
from minigrad.ops.shape import transpose
from minigrad.tape import Box, constant


def reverse_sequence(x: Any, lengths: Any, time_axis: int = 0, batch_axis: int = 1) -> Any:
    """Each row reversed within its own length; what stands behind it stays where it is.

    `lengths` are integers, one a row. Raises ValueError for a length outside 0..T.

    >>> import minigrad as mg
    >>> mg.reverse_sequence([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [2, 3])
    array([[2., 3.],
           [1., 2.],
           [3., 1.]])
    """
    x = as_value("reverse_sequence", x)
    ndim = len(x.shape)
    time, batch = axis_of("reverse_sequence", time_axis, ndim), axis_of("reverse_sequence", batch_axis, ndim)
    if time == batch:
        raise ValueError(f"minigrad.reverse_sequence: time_axis and batch_axis are both {time}")
    n = as_lengths("reverse_sequence", lengths, x.shape[batch], x.shape[time])
    t = np.arange(x.shape[time])[:, None]
    source = np.where(t < n, n - 1 - t, t)
    order = (time, batch, *[a for a in range(ndim) if a not in (time, batch)])
    back = tuple(sorted(range(ndim), key=order.__getitem__))
    return transpose(getitem(transpose(x, order), (source, np.arange(len(n)))), back)


def sequence_mask(lengths: Any, maxlen: int | None = None) -> Any:
    """A boolean array (B, maxlen): True in each row for its first `lengths` steps. It has no derivative.

    `maxlen` is the largest length by default; ValueError for a length outside 0..maxlen.

    >>> import minigrad as mg
    >>> mg.sequence_mask([1, 3])
    array([[ True, False, False],
           [ True,  True,  True]])
    """
    backend = backend_of(as_value("sequence_mask", constant(lengths)))
    longest = None if maxlen is None else operator.index(maxlen)
    n = as_lengths("sequence_mask", lengths, None, longest)
    mask = backend.asarray(np.arange(n.max(initial=0) if longest is None else longest) < n[:, None])
    return Box.new(mask) if isinstance(lengths, Box) else mask


def as_lengths(name: str, lengths: Any, rows: int | None, longest: int | None) -> Any:
    """Sequence lengths as a host array of ints, one a row, each in 0..longest; TypeError or ValueError otherwise."""
    array = constant(lengths)
    host = backend_of(array).to_host(array) if hasattr(array, "shape") else np.asarray(array)
    if host.size == 0:
        host = host.astype(np.intp)
    if host.dtype.kind not in "iu" or host.ndim != 1:
        raise TypeError(f"minigrad.{name}: lengths are integers, one a row, got {host.dtype} of shape {host.shape}")
    if rows is not None and len(host) != rows:
        raise ValueError(f"minigrad.{name}: got {len(host)} lengths for {rows} rows")
    for n in host:
        if n < 0 or (longest is not None and n > longest):
            raise ValueError(f"minigrad.{name}: a length lies between 0 and the {longest} steps there are, got {n}")
    return host.astype(np.intp)
