"""What the tape needs stays unchanged: a hold keeps arrays read-only until the last record that needs them is gone.

Only libraries that know read-only arrays take part (NumPy). A view that existed before, other than through its base,
can still write: that is a documented limit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from minigrad.backend import Backend

Array = Any


class _Held:
    """An array that is read-only for so many holds; `below` is the array that it is a view of."""

    __slots__ = ("array", "count", "below", "waiting")

    def __init__(self, array: Array, below: _Held | None) -> None:
        self.array = array
        self.count = 1
        self.below = below
        self.waiting: list[Array] | None = None  # views to release after this one: NumPy refuses while it is read-only


class Hold:
    """Keeps arrays read-only while anybody has this object."""

    __slots__ = ("backend", "arrays", "__weakref__")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.arrays: list[_Held] = []

    def __del__(self) -> None:
        with _lock:
            for held in self.arrays:
                _let_go(held, self.backend)


_known: dict[int, _Held] = {}
_lock = threading.RLock()  # threads may share arrays


def hold(arrays: Sequence[Array], backend: Backend) -> Hold | None:
    """A hold on `arrays`, or None where nothing could write to them anyway."""
    made = Hold(backend)
    with _lock:
        for array in arrays:
            held = _take(array, backend)
            if held is not None:
                made.arrays.append(held)
    return made if made.arrays else None


def _take(array: Array, backend: Backend) -> _Held | None:
    """Count one hold more on an array, or on the array below it where it is read-only itself."""
    held = _known.get(id(array))
    if held is not None:
        held.count += 1
        if held.count > 1:  # else a collection of garbage between these lines has let it go
            return held
    base = getattr(array, "base", None)
    below = _take(base, backend) if base.__class__ is array.__class__ else None
    if not backend.is_writeable(array):
        return below
    backend.freeze(array)
    held = _known[id(array)] = _Held(array, below)
    return held


def _let_go(held: _Held, backend: Backend) -> None:
    """Count one hold less; an array that nobody holds any more becomes writeable."""
    held.count -= 1
    if held.count:
        return
    array, below = held.array, held.below
    del _known[id(array)]
    if below is not None:
        _let_go(below, backend)
    backend.thaw(array)
    if below is not None and below.count and not backend.is_writeable(array):
        below.waiting = below.waiting or []
        below.waiting.append(array)
    for view in held.waiting or ():
        backend.thaw(view)
