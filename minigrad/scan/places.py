"""Places for values: buffers, and columns of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minigrad.scan.symbol import Symbol

Columns = tuple[int, int, int]
"""An axis, and where on it some columns start and stop."""


class Buffer:
    """A place for values: a stack if `lead` is "T", "T + 1" or "N" (packed rows), else one array.

    `kind` is "frame", "fresh" (for results), or "lent": of the frame of the forward run, which may be written over.
    """

    def __init__(self, lead: str, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, owner: Symbol) -> None:
        self.lead = lead
        self.shape = shape
        self.dtype = dtype
        self.kind = kind
        self.owner = owner
        self.name = ""

    @property
    def over_time(self) -> bool:
        """Whether there is an axis of time before those of one step; packed rows have none."""
        return self.lead in ("T", "T + 1")


class Place(NamedTuple):
    """Where a value is: part "all", "before" or "after" of a stack, and there only `columns`, if they are given."""

    buffer: Buffer
    part: str = "all"
    columns: Columns | None = None


def pieces(node: Symbol) -> list[tuple[Symbol, Columns]]:
    """The pieces of a concatenation, and the columns that they fill."""
    axis, start, found = node.static["axis"], 0, []
    for piece in node.inputs:
        stop = start + piece.shape[axis]
        found.append((piece, (axis, start, stop)))
        start = stop
    return found


def overlap(a: Columns | None, b: Columns | None) -> bool:
    """Whether two sets of columns share some."""
    return a is None or b is None or a[0] != b[0] or (a[1] < b[2] and b[1] < a[2])


def region_shape(place: Place) -> tuple[int, ...]:
    """The shape of one step's value at a place."""
    if place.columns is None:
        return place.buffer.shape
    axis, start, stop = place.columns
    shape = list(place.buffer.shape)
    shape[axis] = stop - start
    return tuple(shape)


def last_columns(node: Symbol) -> Columns | None:
    """The columns that a slice takes, if it is one of the last axis alone."""
    parts, shape = node.static["index"], node.inputs[0].shape
    if not shape or any(p.__class__ is not slice and p is not Ellipsis for p in parts):
        return None
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    fill = (slice(None),) * (len(shape) - len([p for p in parts if p is not Ellipsis]))
    parts = parts[:at] + fill + parts[at + 1 :]
    bounds = [p.indices(n) for p, n in zip(parts, shape, strict=True)]
    if any(step != 1 for *_, step in bounds):
        return None
    if any((a, b) != (0, n) for (a, b, _), n in zip(bounds[:-1], shape[:-1], strict=True)):
        return None
    start, stop, _ = bounds[-1]
    return (len(shape) - 1, start, stop) if stop > start else None
