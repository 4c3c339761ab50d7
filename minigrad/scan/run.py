"""A scan done by its compiled program."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import random
from minigrad.ops.shape import reshape_
from minigrad.ops.where import where_
from minigrad.scan.cache import compiled
from minigrad.scan.carry import Leaves
from minigrad.scan.compiled import CompiledScan
from minigrad.scan.problem import Problem
from minigrad.scan.rows import Rows, gather, spread
from minigrad.scan.symbol import current
from minigrad.tape import Value


def run_compiled(problem: Problem, interval: int | None) -> tuple[Leaves, Leaves]:
    """The leaves of the final state, and of the stacked outputs (the stacked states if there are none)."""
    with random.steps() as enter:
        scan, captured, draws = compiled(problem, enter)
        drawn: list[Value] = [_drawn(make, problem.active, scan.backend) for make in draws]
    if problem.rows is None:
        return _run_all(problem, scan, drawn, captured, interval)
    return _run_packed(problem, problem.rows, scan, drawn, captured, interval)


def _run_all(
    problem: Problem, scan: CompiledScan, drawn: Leaves, captured: Leaves, interval: int | None
) -> tuple[Leaves, Leaves]:
    results = scan([*problem.carry.leaves, *problem.elems, *drawn, *captured], problem.steps, interval)
    count = len(problem.carry.leaves)
    return results[:count], results[count:]


def _run_packed(
    problem: Problem,
    lengths: np.ndarray[Any, Any],
    scan: CompiledScan,
    drawn: Leaves,
    captured: Leaves,
    interval: int | None,
) -> tuple[Leaves, Leaves]:
    """With lengths: rows are packed before the scan and put back after it, by ops that are differentiated too."""
    alignment = scan.alignment
    assert alignment is not None  # noqa: S101  # of a problem with rows
    rows = Rows(lengths, scan.backend)
    steps, count = problem.steps, len(problem.carry.leaves)
    at, back = (rows.step_of, rows.original), (rows.permutation,)

    def in_order(leaf: Value) -> Value:
        return gather(leaf, index=back, shape=tuple(leaf.shape[:1]))

    state = [in_order(leaf) for leaf in problem.carry.leaves]
    elems = [
        gather(leaf, index=at, shape=tuple(leaf.shape[:2])) if flag else leaf
        for leaf, flag in zip([*problem.elems, *drawn], alignment.elems, strict=True)
    ]
    held = [in_order(leaf) if flag else leaf for leaf, flag in zip(captured, alignment.captured, strict=True)]
    results = scan([*state, *elems, *held], rows.steps, interval, rows)
    final = [spread(leaf, index=back, shape=tuple(leaf.shape[:1])) for leaf in results[:count]]
    outputs = [spread(leaf, index=at, shape=(steps, rows.all)) for leaf in results[count:]]
    if not problem.has_output:
        mask = scan.backend.asarray(np.arange(steps)[:, None] < lengths)
        copied = problem.carry.leaves if problem.reverse else final
        outputs = [_chosen(mask, out, leaf) for out, leaf in zip(outputs, copied, strict=True)]
    return final, outputs


def _chosen(mask: Any, stack: Value, otherwise: Value) -> Value:
    """The stack where rows take part, and otherwise the state that is copied through."""
    wide = mask.reshape((*mask.shape, *[1] * (len(stack.shape) - 2)))
    return where_(wide, stack, reshape_(otherwise, shape=(1, *otherwise.shape)))


def _drawn(make: Any, steps: int, backend: Any) -> Value:
    """The draws of all steps: of this scan, or of each step of the scan around it."""
    outer = current.get()
    path = random.path()

    def all_steps(at: tuple[int, ...]) -> np.ndarray[Any, Any]:
        inner = at + path[len(at) : -1]
        return np.stack([np.asarray(make((*inner, t))) for t in range(steps)])

    if outer is None:
        return backend.asarray(all_steps(()))
    return outer.draw(all_steps, all_steps(()))
