"""Taking an array apart along its first axis: one record for all parts, so that T of them cost T and not T times T."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad.backend import backend_of
from minigrad.hold import hold
from minigrad.ops.shape import stack
from minigrad.tape import Value, constant, recorder, unbundle


class Unstack:
    """The op behind `unstack`; see `tape.Pick` for what its cotangents look like."""

    name = "unstack"
    pull_into: Callable[..., Any] | None = None
    structural = False

    def pull(self, g: Any, out: Any, values: Sequence[Value], static: dict[str, Any], wanted: Any) -> Sequence[Value]:
        zeros = backend_of(constant(out[0])).xp.zeros_like(constant(out[0]))
        return (stack([g.get(place, zeros) for place in range(len(out))]),)

    def push(self, tangents: Sequence[Value], out: Any, values: Sequence[Value], static: dict[str, Any]) -> Any:
        return dict(enumerate(unstack(tangents[0])))


UNSTACK = Unstack()


def unstack(x: Value) -> list[Value]:
    """x[0], x[1], ...: arrays of an array, tensors of a Tensor."""
    array = constant(x)
    parts = tuple(array[t, ...] for t in range(array.shape[0]))  # with the Ellipsis, numbers stay 0-d arrays
    if x is array:
        return list(parts)
    make = recorder.get()
    if not parts or x.record is None or make is None:
        return [type(x)(part) for part in parts]
    return list(unbundle(make(UNSTACK, (array,), (x.record,), {}, parts, hold((array,), backend_of(array)))))
