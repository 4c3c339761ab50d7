"""A program: emitted source, compiled, and the frames of buffers that it runs in."""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.backend import Backend
from minigrad.scan.emit import Source
from minigrad.scan.kernels import Kernel
from minigrad.scan.namespace import namespace
from minigrad.scan.rows import Rows
from minigrad.scan.text import Number

CACHE, STEPS_AT_LEAST = 64 * 1024, 16
"""Bytes of buffers that a run without gradient fills before it goes on to the next steps, but for so many at least."""

FRAMES_KEPT = 2
"""Frames that wait for the next call with as many steps."""


class Memory:
    """Arrays for frames that are made in the same order again and again, of sizes that change."""

    def __init__(self, backend: Backend) -> None:
        self.make = backend.xp.empty
        self.arrays: list[Any] = []
        self.taken = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The next array, in memory that served before if it is large enough."""
        size, place = math.prod(shape), self.taken
        self.taken += 1
        if place == len(self.arrays):
            self.arrays.append(self.make((size,), dtype))
        elif self.arrays[place].size < size:
            self.arrays[place] = self.make((size + size // 8,), dtype)
        return self.arrays[place][:size].reshape(shape)


class Frame:
    """Buffers, and views of them, that one run at a time computes in; `behind` are those of programs that read them."""

    __slots__ = ("arrays", "memory", "behind")

    def __init__(self, arrays: Any, memory: Memory | None = None) -> None:
        self.arrays = arrays
        self.memory = memory
        self.behind: dict[Program, Frame] = {}


class Program:
    """Straight-line array code for one direction of a scan."""

    def __init__(self, source: Source, backend: Backend, title: str) -> None:
        self.source = source
        self.backend = backend
        names = {name: _realised(value, backend) for name, value in source.names.items()}
        known: dict[str, Any] = {**namespace(backend), **names}
        text = source.make + "\n\n" + source.run
        filename = f"<minigrad {title} {id(self):x}>"
        exec(compile(text, filename, "exec"), known)  # noqa: S102  # we wrote it a moment ago
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        self._filename = filename
        self._make: Callable[..., Any] = known["make"]
        self._run: Callable[..., Any] = known["run"]
        self._pool: dict[int, list[Frame]] = {}
        self._memory: list[Memory] = []

    def __del__(self) -> None:
        linecache.cache.pop(self._filename, None)

    def frame(self, steps: int, rows: Rows | None = None) -> Frame:
        """Buffers for so many steps, from the pool if there are some."""
        if rows is not None:
            return self._packed(steps, rows)
        waiting = self._pool.get(steps)
        if waiting:
            try:
                return waiting.pop()
            except IndexError:  # another thread was faster
                pass
        return Frame(self._make(steps))

    def frame_behind(self, front: Frame, steps: int, rows: Rows | None, lend: Callable[[], list[Any]]) -> Frame:
        """Buffers beside those of the run that goes before, which lends the stacks that it kept."""
        found = front.behind.get(self)
        if found is None:
            lent = (lend(),) if any(self.source.lent) else ()
            made = Frame(self._make(steps, *lent)) if rows is None else self._packed(steps, rows, *lent)
            found = front.behind[self] = made
        return found

    def _packed(self, steps: int, rows: Rows, *lent: Any) -> Frame:
        """Buffers for the rows of all steps, in memory of earlier ones."""
        try:
            memory = self._memory.pop()
        except IndexError:
            memory = Memory(self.backend)
        memory.taken = 0
        return Frame(self._make(steps, rows, memory.empty, *lent), memory)

    def give_back(self, steps: int, frame: Frame, rows: Rows | None = None) -> None:
        """Let a later call have a frame."""
        if rows is not None:  # lengths are hardly ever the same twice, so only the memory serves again
            for program, part in [(self, frame), *frame.behind.items()]:
                if part.memory is not None and len(program._memory) < FRAMES_KEPT:  # noqa: SLF001  # of its own class
                    program._memory.append(part.memory)  # noqa: SLF001
            return
        waiting = self._pool.setdefault(steps, [])
        if len(waiting) < FRAMES_KEPT:
            waiting.append(frame)
        for old in list(self._pool)[: -2 * FRAMES_KEPT]:  # a copy: other threads give back, too
            self._pool.pop(old, None)

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
        frame: Frame,
        fresh: Sequence[Any],
        rows: Rows | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """The final states and the sums; stacks are found in the frame and the fresh arrays, see `stack`."""
        more = () if rows is None else (rows,)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            return self._run(steps, carry, elems, captured, frame.arrays, fresh, *more)  # type: ignore[no-any-return]

    def stack(self, place: int, reverse: bool, frame: Frame | None, fresh: Sequence[Any]) -> Any:
        """A stacked result."""
        kept = self.source.kept[place]
        if kept.source == "frame":
            assert frame is not None  # noqa: S101  # there is one where something is kept in it
            return frame.arrays[kept.place]
        array = fresh[kept.place]
        if kept.part == "all":
            return array
        return array[:-1] if (kept.part == "before") != reverse else array[1:]


def _realised(value: Any, backend: Backend) -> Any:
    """What a name of the source stands for on a backend."""
    if isinstance(value, Kernel):
        make: Any = backend  # one that offers `elementwise`
        return make.elementwise(value.run)
    return backend.asarray(value.value, value.dtype) if isinstance(value, Number) else value
