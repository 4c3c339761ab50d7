"""Bodies must be pure: a new one is traced twice, and both traces must be equal, in what they do and in values."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.backend import backend_of
from minigrad.scan.symbol import Symbol, TraceError
from minigrad.scan.trace import Body, Trace
from minigrad.tape import Array, Box, Leaf, Value, constant


class Seen:
    """What a trace did and captured, as it was then."""

    def __init__(self, trace: Trace, body: Body) -> None:
        self.trace = trace
        self.results = [s.number for s in body.results]
        self.values = [_copied(value) for value in trace.values]

    def check(self, again: Trace, body: Body) -> None:
        """Raise TraceError naming the line, if the second trace (which notes lines) is not like this one."""
        what = self._of_code(again) or self._of_values(again)
        if what is None and self.results != [s.number for s in body.results]:
            what = f"{again.line_of(len(again.code))}: it returned another of its values"
        if what is not None:
            raise TraceError(
                f"the function of scan did something else when it was called again, at {what}. It must be pure, "
                "without state of its own (a counter, a list, a generator of random numbers); or pass unroll=True "
                "to run it step by step"
            )

    def _of_code(self, again: Trace) -> str | None:
        for place, (a, b) in enumerate(zip(self.trace.code, again.code, strict=False)):
            if a != b:
                return f"{again.line_of(place)}: {_entry(a)} became {_entry(b)}"
        counts = len(self.trace.code), len(again.code)
        if counts[0] == counts[1]:
            return None
        return f"{again.line_of(counts[0])}: it had {counts[0]} operations and then {counts[1]}"

    def _of_values(self, again: Trace) -> str | None:
        for was, old, new, leaf in zip(self.values, self.trace.values, again.values, again.captured, strict=True):
            array = constant(new)
            if _leaf(old, self.trace) is not _leaf(new, again):
                what: str | None = "it captured another tensor"
            else:
                what = _difference(was, array)
            if what is None and not _same(again.copy_of(leaf, array), array):
                what = f"an array {array.dtype}{tuple(array.shape)} was changed in place after it had been used"
            if what is not None:
                return f"{again.line_of(leaf.number)}: {what}"
        for was, new, leaf in zip(self.trace.examples, again.examples, again.drawn, strict=True):
            if not _equal(was, new):
                return f"{again.line_of(leaf.number)}: the draws of minigrad.random had another seed"
        return None


def _copied(value: Value) -> Array:
    """A captured array as it is now. Only NumPy's are copied: others would have to be compared on their device."""
    array = constant(value)
    return array.copy() if isinstance(array, np.ndarray) else array


def _leaf(value: Value, trace: Trace) -> Leaf | None:
    """The leaf of the tape that a value is, whose gradient somebody outside of the trace wants."""
    record = value.record if isinstance(value, Box) else None
    return record if isinstance(record, Leaf) and record.number < trace.started else None


def _difference(was: Array, array: Array) -> str | None:
    """How a captured value differs from what it was."""
    if was is array:
        return None
    if was.__class__ is Symbol or array.__class__ is Symbol:
        return "it captured another value of the scan around it"
    if _equal(was, array):
        return None
    if not array.shape:
        return f"a number was {_host(was)} and became {_host(array)}"
    return f"an array {array.dtype}{tuple(array.shape)} that it captured has other values"


def _same(was: Array, array: Array) -> bool:
    return was is array or _equal(was, array)


def _equal(a: Array, b: Array) -> bool:
    return np.array_equal(_host(a), _host(b), equal_nan=a.dtype.kind in "fc")


def _host(array: Array) -> Any:
    return array if isinstance(array, np.ndarray) else backend_of(array).to_host(array)


def _entry(code: Any) -> str:
    """An entry of a trace's code, for a reader."""
    return getattr(code[0], "name", str(code[0]))
