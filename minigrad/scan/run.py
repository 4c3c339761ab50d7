"""A scan done by its compiled program."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import random
from minigrad.scan.cache import compiled
from minigrad.scan.carry import Leaves
from minigrad.scan.problem import Problem
from minigrad.scan.symbol import current
from minigrad.tape import Value


def run_compiled(problem: Problem, interval: int | None) -> tuple[Any, Any]:
    """The final state, and the stacked outputs (the stacked states if there are none)."""
    with random.steps() as enter:
        scan, captured, draws = compiled(problem, problem.elems, problem.carry.leaves, enter)
        drawn: list[Value] = [_drawn(make, problem.steps, scan.backend) for make in draws]
    inputs = [*problem.carry.leaves, *problem.elems, *drawn, *captured]
    count = len(problem.carry.leaves)
    results = scan(inputs, problem.steps, interval)
    state, outputs = results[:count], results[count:]
    assert problem.output_structure is not None  # noqa: S101  # `fn` was traced
    return problem.carry.structure.build(state), problem.output_structure.build(outputs)


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
