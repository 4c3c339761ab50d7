"""What the tape needs stays unchanged: a hold keeps an array read-only until the last record that needs it is gone.

Only libraries that know read-only arrays take part (NumPy). A view that existed before, other than through its base,
can still write: that is a documented limit.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from minigrad.backend import Backend

Array = Any


class Hold:
    """Keeps an array read-only while anybody has this object; `below` does so for the array that it is a view of."""

    __slots__ = ("array", "backend", "below", "going", "waiting", "__weakref__")

    def __init__(self, array: Array, backend: Backend, below: Hold | None) -> None:
        self.array = array
        self.backend = backend
        self.below = below
        self.going = False
        self.waiting: list[Array] | None = None  # views to release after this one: NumPy refuses while it is read-only
        backend.freeze(array)

    def __del__(self) -> None:
        self.going = True
        array, backend = self.array, self.backend
        with _lock:
            known = _holds.pop(id(array), None)
            if known is not None and (other := known()) is not None and other is not self:
                _holds[id(array)] = known
                return  # another thread has taken the array over
            below, self.below = self.below, None
            backend.thaw(array)
            if below is not None and not backend.is_writeable(array):
                below.waiting = below.waiting or []
                below.waiting.append(array)
            for view in self.waiting or ():
                backend.thaw(view)


_holds: dict[int, weakref.ref[Hold]] = {}
_lock = threading.RLock()  # threads may share arrays


def hold(array: Array, backend: Backend) -> Hold | None:
    """The hold on `array` that all records share, or None where nothing could write to it anyway."""
    with _lock:
        known = _holds.get(id(array))
        held = None if known is None else known()
        if held is not None and not held.going:
            return held
        writeable = known is not None or backend.is_writeable(array)  # a hold that is going made it read-only
        base = getattr(array, "base", None)
        below = hold(base, backend) if base.__class__ is array.__class__ else None
        if not writeable:
            return below
        held = Hold(array, backend, below)
        _holds[id(array)] = weakref.ref(held)
        return held
