"""A program: emitted source, compiled, and the frames of buffers that it runs in."""

from __future__ import annotations

import itertools
import linecache
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.backend import Backend
from minigrad.scan.emit import Fresh, Source
from minigrad.scan.emit import _Number as Number
from minigrad.scan.kernels import Kernel
from minigrad.scan.rows import Rows

VIEWS_AT_MOST = 20_000
"""Views of steps are kept in lists up to this length, and made on the way beyond."""

CACHE, STEPS_AT_LEAST = 64 * 1024, 16
"""Bytes of buffers that a run without gradient fills before it goes on to the next steps, but for so many at least."""

FRAMES_KEPT = 2
"""Frames that wait for the next call with as many steps."""


class Program:
    """Straight-line array code for one direction of a scan."""

    def __init__(self, source: Source, backend: Backend, title: str) -> None:
        self.source = source
        self.backend = backend
        xp = backend.xp
        names = {name: _realised(value, backend) for name, value in source.names.items()}
        namespace: dict[str, Any] = {**_namespace(backend), **names}
        for name in _UFUNCS:
            namespace.setdefault(name, getattr(xp, name))
        text = source.make + "\n\n" + source.run
        filename = f"<minigrad {title} {id(self):x}>"
        exec(compile(text, filename, "exec"), namespace)  # noqa: S102  # we wrote it a moment ago
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        self._filename = filename
        self._make: Callable[..., Any] = namespace["make"]
        self._run: Callable[..., Any] = namespace["run"]
        self._pool: dict[int, list[Any]] = {}

    def __del__(self) -> None:
        linecache.cache.pop(self._filename, None)

    def frame(self, steps: int, rows: Rows | None = None) -> Any:
        """Buffers for so many steps, from the pool if there are some."""
        if rows is not None:
            return self._make(steps, rows)
        waiting = self._pool.get(steps)
        if waiting:
            try:
                return waiting.pop()
            except IndexError:  # another thread was faster
                pass
        return self._make(steps)

    def give_back(self, steps: int, frame: Any, rows: Rows | None = None) -> None:
        """Let a later call have a frame."""
        if rows is not None:
            return  # lengths are hardly ever the same twice
        waiting = self._pool.setdefault(steps, [])
        if len(waiting) < FRAMES_KEPT:
            waiting.append(frame)
        while len(self._pool) > 2 * FRAMES_KEPT:
            self._pool.pop(next(iter(self._pool)), None)

    def fresh(self, steps: int, rows: Rows | None = None) -> list[Any]:
        """Arrays for the results of a run."""
        empty = self.backend.xp.empty
        return [
            empty((rows.total, *f.shape[1:]) if f.packed and rows else (steps + f.extra, *f.shape), f.dtype)
            for f in self.source.fresh
        ]

    def part(self, fresh: Sequence[Any], steps: slice, rows: Rows | None = None) -> list[Any]:
        """What a run of some of the steps fills of the arrays for all of them."""
        specs = self.source.fresh
        return [
            a[rows.packed(steps)] if f.packed and rows else a[steps.start : steps.stop + f.extra]
            for a, f in zip(fresh, specs, strict=True)
        ]

    def steps_in_cache(self) -> int:
        """How many steps' buffers stay in a processor's cache, about."""
        return max(STEPS_AT_LEAST, CACHE // max(1, self.source.bytes_a_step))

    def run(
        self,
        steps: int,
        carry: Sequence[Any],
        elems: Sequence[Any],
        captured: Sequence[Any],
        frame: Any,
        fresh: Sequence[Any],
        rows: Rows | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """The final states and the sums; stacks are found in the frame and the fresh arrays, see `stack`."""
        more = () if rows is None else (rows,)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            return self._run(steps, carry, elems, captured, frame, fresh, *more)  # type: ignore[no-any-return]

    def stack(self, place: int, reverse: bool, frame: Any, fresh: Sequence[Any]) -> Any:
        """A stacked result."""
        source, index, part = self.source.kept[place]
        array = fresh[index] if source == "fresh" else frame[index]
        if part == "all":
            return array
        return array[:-1] if (part == "before") != reverse else array[1:]


def _realised(value: Any, backend: Backend) -> Any:
    if isinstance(value, Kernel):
        make: Any = backend  # one that offers `elementwise`
        return make.elementwise(value.run)
    return backend.asarray(value.value, value.dtype) if isinstance(value, Number) else value


def _namespace(backend: Backend) -> dict[str, Any]:
    """What programs call."""
    xp = backend.xp

    def views(stack: Any) -> Any:
        if stack.ndim == 1:
            return [stack[t, ...] for t in range(len(stack))]
        return list(stack) if len(stack) <= VIEWS_AT_MOST else stack

    def rows_of(stack: Any, width: int) -> Any:
        return stack.reshape(math.prod(stack.shape[:-1]), width)

    def copyto(destination: Any, source: Any, where: Any = None) -> None:
        if where is None:
            xp.copyto(destination, source)
        else:
            xp.copyto(destination, source, where=where)

    def copy_to_shape(array: Any, shape: tuple[int, ...]) -> Any:
        out = xp.empty(shape, array.dtype)
        out[...] = array
        return out

    def first_rows(array: Any, rows: Rows) -> Any:
        return [array[:n] for n in rows.counts]

    def packed_views(stack: Any, rows: Rows) -> Any:
        return [stack[a:b] for a, b in itertools.pairwise(rows.starts)]

    def take_rows(array: Any, rows: Rows) -> Any:
        return array[rows.row_of]

    def sum_of_steps(stack: Any, rows: Rows) -> Any:
        views = packed_views(stack, rows)
        out = xp.zeros((rows.all, *stack.shape[1:]), dtype=stack.dtype)
        for view in views:
            out[: len(view)] += view
        return out

    def times_steps(array: Any, rows: Rows) -> Any:
        counts = backend.asarray(rows.steps_of_rows(), array.dtype)
        return array * counts.reshape((-1,) + (1,) * (array.ndim - 1))

    def step_numbers(steps: int, rank: int) -> Any:
        return xp.arange(steps).reshape((steps,) + (1,) * rank)

    def scatter_add(shape: tuple[int, ...], dtype: Any, index: Any, values: Any) -> Any:
        return backend.scatter_add(shape, dtype, index, values)

    return {
        "xp": xp, "empty": xp.empty, "zeros": xp.zeros, "views": views, "rows_of": rows_of, "dot": xp.dot,
        "matmul": xp.matmul, "copyto": copyto if backend.name != "numpy" else xp.copyto, "sum_of": xp.sum,
        "asarray": backend.asarray, "scatter_add": scatter_add, "broadcast_to": xp.broadcast_to,
        "first_rows": first_rows, "packed_views": packed_views, "take_rows": take_rows, "sum_of_steps": sum_of_steps,
        "times_steps": times_steps, "step_numbers": step_numbers, "copy_to_shape": copy_to_shape,
    }  # fmt: skip


_UFUNCS = (
    "add", "subtract", "multiply", "divide", "negative", "exp", "log", "log1p", "expm1", "sqrt", "square", "tanh",
    "sin", "cos", "sign", "maximum", "minimum", "power", "equal", "not_equal", "less", "less_equal", "greater",
    "greater_equal", "bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "logical_not", "invert",
    "isfinite", "isnan", "isinf", "absolute",
)  # fmt: skip

__all__ = ["Fresh", "Program"]
