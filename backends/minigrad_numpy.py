"""The default backend: NumPy arrays in the host's memory.

A backend is any object with the names of `minigrad.backend.Backend`. This module shows how little that takes;
it imports NumPy and nothing else, as a third party's plug-in would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np


class NumpyBackend:
    """NumPy behind minigrad's backend socket."""

    name = "numpy"
    xp = np
    array_type = np.ndarray

    def unusable(self) -> str | None:
        """Return None: NumPy is minigrad's one requirement, so it is always usable."""
        return None

    def asarray(self, data: Any, dtype: Any = None) -> np.ndarray:
        """Return `data` (numbers, nested lists, an array) as an ndarray, sharing memory where it can.

        Raises TypeError for what is no array of numbers or booleans, and for a subclass of ndarray with a
        meaning of its own (a masked array's mask would be lost silently).
        """
        if type(data) is not np.ndarray and isinstance(data, np.ndarray):
            self.check_subclass(type(data))
        array = np.asarray(data, dtype=dtype)
        if array.dtype.kind not in "biufc":
            raise TypeError(
                f"a tensor holds numbers or booleans, got {type(data).__name__} that NumPy reads as dtype "
                f"{array.dtype}; convert it to numbers first"
            )
        return array

    def to_host(self, array: np.ndarray) -> np.ndarray:
        """Return `array` itself: it is on the host already."""
        return array

    def scatter_add(self, shape: tuple[int, ...], dtype: Any, index: Any, values: Any) -> np.ndarray:
        """Return zeros of `shape` with `values` added at `index`; where an index repeats, they add up."""
        out = np.zeros(shape, dtype)
        if _is_table(index, out, values):
            _add_rows(out, index[0], values)
        elif may_repeat(index):
            np.add.at(out, index, values)
        else:
            out[index] = values
        return out

    def any_nan(self, arrays: Iterable[np.ndarray]) -> bool:
        """Return whether any of the arrays holds a NaN."""
        for array in arrays:
            kind = array.dtype.kind
            if kind == "f":
                # A sum of squares is NaN exactly when a term is: squares are never negative, so no infinities
                # cancel. vdot takes one pass, makes no temporary for contiguous arrays and never warns.
                if math.isnan(np.vdot(array, array)):
                    return True
            elif kind == "c" and np.isnan(array).any():
                return True
        return False

    def freeze(self, array: np.ndarray) -> None:
        """Make `array` read-only; views of its memory made earlier stay as they are."""
        # Half the time of `array.flags.writeable = False`, and every record passes here.
        array.setflags(False)  # type: ignore[call-arg]  # NumPy's stub knows the keyword alone

    def thaw(self, array: np.ndarray) -> None:
        """Make `array` writeable again, unless it is a view of an array that is still read-only."""
        try:  # noqa: SIM105  # contextlib.suppress takes three times as long, and every record passes here
            array.setflags(True)  # type: ignore[call-arg]
        except ValueError:
            pass

    def is_writeable(self, array: np.ndarray) -> bool:
        """Return whether `array` may be written to through this object."""
        return array.flags.writeable

    def synchronize(self) -> None:
        """Do nothing: NumPy has finished when its call returns."""

    def check_subclass(self, cls: type) -> None:
        """Raise TypeError, saying what to do, unless arrays of the subclass `cls` can be taken."""
        if issubclass(cls, np.memmap):
            return
        if issubclass(cls, np.ma.MaskedArray):
            remedy = "fill it (a.filled(0.0)) and give the mask to minigrad.where or as weights"
        elif issubclass(cls, np.matrix):
            remedy = "convert it with numpy.asarray(a); its * is a matrix product, an array's is not"
        else:
            remedy = "convert it with numpy.asarray(a)"
        found = f"{cls.__module__}.{cls.__qualname__}"
        raise TypeError(f"minigrad takes plain NumPy arrays, got {found}: {remedy}")


def may_repeat(index: Any) -> bool:
    """Return whether `index` can name one place twice: only integer arrays (or lists of integers) can."""
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, (np.ndarray, list)):
            array = np.asarray(part)
            if array.dtype.kind in "iu" and array.size > 1:
                return True
    return False


def _is_table(index: Any, out: np.ndarray, values: Any) -> bool:
    """Return whether whole rows of `out` are added to, by one array of their numbers."""
    if not (isinstance(index, tuple) and len(index) == 1 and isinstance(index[0], np.ndarray)):
        return False
    rows = index[0]
    wide = rows.dtype.kind in "iu" and rows.size > 1 and out.ndim > 1 and out.size > 0
    return wide and np.shape(values) == (*rows.shape, *out.shape[1:])


def _add_rows(out: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
    """Add rows that are brought in order first: several times faster than `numpy.add.at`."""
    numbers = index.ravel()
    if numbers.min() < -len(out) or numbers.max() >= len(out):
        raise IndexError(f"an index lies outside of {len(out)} rows")
    numbers = np.where(numbers < 0, numbers + len(out), numbers)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
    rows = values.reshape(len(numbers), -1)[order]
    out.reshape(len(out), -1)[numbers[starts]] = np.add.reduceat(rows, starts, axis=0)


backend = NumpyBackend()
