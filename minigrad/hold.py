"""What the tape needs stays unchanged: a hold keeps arrays read-only until the last record that needs them is gone.

Only libraries that know read-only arrays take part (NumPy). A view that existed before, other than through its base,
can still write: that is a documented limit. So is that NumPy cannot make memory of another library (of a torch tensor,
of DLPack) writeable again: such an array stays read-only.
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
    """Keeps arrays, and what they are views of, read-only while anybody has this object."""

    __slots__ = ("backend", "held", "__weakref__")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.held: list[_Held] = []

    def __del__(self) -> None:
        try:
            _let_go(self.held, self.backend)
        finally:
            if self.held:  # an interrupt (Ctrl-C) came between, and nobody sees it in a finaliser
                _let_go(self.held, self.backend)


_known: dict[int, _Held] = {}
_lock = threading.RLock()  # threads may share arrays


def hold(arrays: Sequence[Array], backend: Backend) -> Hold | None:
    """A hold on `arrays`, or None where nothing could write to them anyway."""
    made = Hold(backend)
    with _lock:
        for array in arrays:
            _take(array, backend, made.held)
    return made if made.held else None


# Python looks for interrupts and garbage after calls. So what is counted is entered without a call between, and is
# entered before it is frozen: whenever an interrupt comes, the hold knows what it has to let go.


def _take(array: Array, backend: Backend, taken: list[_Held]) -> _Held | None:
    """Add what holds an array to `taken`: itself, unless it is read-only already, and what it is a view of."""
    held = _known.get(id(array))
    if held is not None and held.count:  # else a collection of garbage has let it go since the line above
        held.count += 1
        taken.append(held)
    else:
        held = None
    base = getattr(array, "base", None)
    below = _take(base, backend, taken) if base.__class__ is array.__class__ else None
    if held is not None:
        return held
    if not backend.is_writeable(array):
        return below
    held = _Held(array, below)
    taken.append(held)
    _known[id(array)] = held
    backend.freeze(array)
    return held


def _let_go(taken: list[_Held], backend: Backend) -> None:
    """Count one hold less on each, the last one first; what nobody holds any more becomes writeable."""
    with _lock:
        while taken:
            held = taken[-1]
            if held.count == 1:
                _known.pop(id(held.array), None)
                backend.thaw(held.array)
                if held.below is not None and held.below.count and not backend.is_writeable(held.array):
                    held.below.waiting = held.below.waiting or []
                    held.below.waiting.append(held.array)
                for view in held.waiting or ():
                    backend.thaw(view)
            held.count -= 1
            del taken[-1]
