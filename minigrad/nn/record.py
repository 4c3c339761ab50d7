"""What `record=` gives: local variables of a cell's call, of every step, without a change to the cell.

A profile function sees the call return, and takes its variables then: each has its last value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from minigrad import tree


class Recording:
    """The variables that are wanted, by path: "i", or "layers.0.i" for that of a part."""

    def __init__(self, wanted: Sequence[str], rows: int) -> None:
        if not (isinstance(wanted, list | tuple) and all(isinstance(name, str) for name in wanted)):
            raise TypeError(f'record is a tuple of names, for example ("i", "f"), got {wanted!r}')
        self.wanted = tuple(wanted)
        self.rows = rows
        self._seen: dict[str, None] = {}
        self._step: dict[str, Any] = {}

    def watched(self, cell: Callable[..., Any], path: str) -> Callable[..., Any]:
        """The same cell, whose variables are noted."""

        def call(x: Any, state: Any) -> Any:
            result, variables = called(cell, x, state)
            self._note(path, variables)
            return result

        return call

    def _note(self, path: str, variables: dict[str, Any]) -> None:
        for name, value in variables.items():
            if self._has_rows(value):
                self._seen[path + name] = None
                if path + name in self.wanted:
                    self._step[path + name] = value

    def _has_rows(self, value: Any) -> bool:
        leaves = tree.flatten(value)[0]
        return bool(leaves) and all(hasattr(x, "dtype") and x.shape[:1] == (self.rows,) for x in leaves)

    def taken(self) -> dict[str, Any]:
        """What was noted since the last time."""
        step, self._step = self._step, {}
        return step

    def checked(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """The records, in the order in which they were asked for; ValueError for one that there is not."""
        missing = [name for name in self.wanted if name not in recorded]
        if missing:
            raise ValueError(
                f"record: {missing[0]!r} is no variable of a cell's call that has a row for each sequence; those are "
                f"{', '.join(sorted(self._seen)) or 'none'}"
            )
        return {name: recorded[name] for name in self.wanted}


def called(cell: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, Any]]:
    """What a call of a Python function gives, and its local variables as it returned.

    Raises RuntimeError where a profiler written in C is at work, which cannot be asked to wait.
    """
    around = sys.getprofile()
    if not (around is None or callable(around)):
        raise RuntimeError(f"record cannot see a cell's variables while {type(around).__name__} profiles the program")
    variables: dict[str, Any] = {}
    here: FrameType | None = sys._getframe()  # noqa: SLF001  # it is what inspect.currentframe gives

    def look(frame: FrameType, event: Any, arg: Any) -> None:
        if around is not None:
            around(frame, event, arg)
        if event == "return" and frame.f_back is here:
            variables.update(frame.f_locals)

    sys.setprofile(look)
    try:
        result = cell(*args)
    finally:
        sys.setprofile(around)
        here = None  # or this frame would keep itself alive
    return result, variables
