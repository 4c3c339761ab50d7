"""Runs of elementwise calls as single kernels, for backends that make them (`Backend.elementwise`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minigrad.backend import ElementwiseRun
from minigrad.scan.places import Place, overlap


class Located(NamedTuple):
    """A variable of a program, the shape of what it holds at one step, and where that is, if it is in a buffer.

    `exact` is False for another view of the buffer than of some of its columns.
    """

    name: str
    shape: tuple[int, ...]
    place: Place | None
    exact: bool


class Call(str):
    """A line of a program that is an elementwise call."""

    __slots__ = ("steps", "indent")
    steps: tuple[tuple[str, tuple[Located, ...], Located], ...]
    indent: str


def call(text: str, indent: str, *steps: tuple[str, Sequence[Located], Located]) -> Call:
    """A line, and what it does: for each step the function, its operands and its destination."""
    line = Call(text)
    line.indent = indent
    line.steps = tuple([(name, tuple(operands), destination) for name, operands, destination in steps])
    return line


def fused(lines: Sequence[str], const: Callable[[Any, str], str]) -> list[str]:
    """The lines with neighbouring elementwise calls on arrays of one shape made into one kernel each."""
    result: list[str] = []
    group: list[Call] = []

    def flush() -> None:
        if group:
            result.append(_kernel(group, const))
            group.clear()

    for line in lines:
        if not isinstance(line, Call):
            flush()
            result.append(line)
            continue
        if group and not _fits(group, line):
            flush()
        group.append(line)
    flush()
    return result


def _fits(group: Sequence[Call], line: Call) -> bool:
    """Whether a call can be done by the kernel of others: element by element, none reads what another writes."""
    if group[0].indent != line.indent or group[0].steps[0][2].shape != line.steps[0][2].shape:
        return False
    if not line.indent and _stack(group[0]) != _stack(line):
        return False
    calls = [*group, line]
    written = [destination for c in calls for _, _, destination in c.steps]
    touched = [*written, *(operand for c in calls for _, operands, _ in c.steps for operand in operands)]
    one_step = bool(line.indent)
    return not any(_partly(a, b, one_step) for a in written for b in touched)


def _stack(line: Call) -> str:
    """Whether a call writes all steps of a value ("T"), the rows of all ("N"), or one value ("")."""
    place = line.steps[0][2].place
    return "" if place is None else place.buffer.lead.removesuffix(" + 1")


def _partly(a: Located, b: Located, one_step: bool) -> bool:
    """Whether two values share memory otherwise than element for element."""
    if a.place is None or b.place is None or a.place.buffer is not b.place.buffer:
        return False
    if a.place.part != b.place.part:
        return not one_step  # the states before a step and after it are apart, those of all steps are not
    if a.exact and b.exact and a.place.columns == b.place.columns and a.shape == b.shape:
        return False
    return not (a.exact and b.exact) or overlap(a.place.columns, b.place.columns)


def _kernel(group: Sequence[Call], const: Callable[[Any, str], str]) -> str:
    """The call of one kernel in the place of a group."""
    arrays: dict[str, int] = {}
    steps = []
    for line in group:
        for name, operands, destination in line.steps:
            numbers = tuple([arrays.setdefault(operand.name, len(arrays)) for operand in operands])
            steps.append((name, numbers, arrays.setdefault(destination.name, len(arrays))))
    kernel = const(Kernel(ElementwiseRun(tuple(steps), len(arrays))), "kernel")
    return f"{group[0].indent}{kernel}({', '.join(arrays)})"


class Kernel:
    """A kernel that the program's backend makes when the program is built."""

    def __init__(self, run: ElementwiseRun) -> None:
        self.run = run
