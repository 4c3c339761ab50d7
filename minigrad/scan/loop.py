"""The scan as a loop on the ordinary tape: `fn` is called at every step, and what it does is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import random, tree
from minigrad.ops.indexing import getitem_
from minigrad.ops.shape import broadcast_to_, concatenate_, stack
from minigrad.ops.where import where_
from minigrad.scan.problem import Problem
from minigrad.tape import no_grad
from minigrad.tensor import Tensor
from minigrad.transforms import checkpoint

Leaves = list[Tensor]


def run_loop(problem: Problem, interval: int | None) -> tuple[Any, Any]:
    """The final state, and the stacked outputs (the stacked states if there are none)."""
    active = problem.steps if problem.rows is None else int(problem.rows.max(initial=0))
    elems = problem.without_padding()
    order = range(active)[::-1] if problem.reverse else range(active)
    state, stacks = problem.carry.leaves, []
    structure = problem.carry.structure
    for chunk in _chunks(order, interval):
        if interval is None:
            state, outputs, structure = _run(problem, elems, state, chunk)
        else:
            state, outputs, structure = _run_again_in_backward(problem, elems, state, chunk)
        stacks.append(outputs)
    if not stacks:
        outputs, structure = _nothing(problem)
    else:
        outputs = [_joined(parts) for parts in zip(*(stacks[::-1] if problem.reverse else stacks), strict=True)]
    outputs = _with_idle_steps(problem, state, outputs, problem.steps - active if stacks else problem.steps)
    return problem.carry.build(state), structure.build(outputs)


def _chunks(order: range, interval: int | None) -> list[range]:
    k = interval or max(1, len(order))
    return [order[i : i + k] for i in range(0, len(order), k)]


def _run(
    problem: Problem, elems: Leaves, state: Leaves, steps: range, start: int = 0
) -> tuple[Leaves, Leaves, tree.Structure]:
    """Some steps: the state after them, and the outputs (or states) of each, stacked in the order of time.

    `elems` begins with step `start`.
    """
    structure = problem.carry.structure
    rows: list[Leaves] = []
    with random.steps() as enter:
        for t in steps:
            enter(t)
            new, outputs, output_structure = problem.call(state, problem.slices(elems, t - start))
            if problem.rows is not None and (problem.rows <= t).any():
                going = problem.rows > t
                new = [_chosen(going, leaf, old) for leaf, old in zip(new, state, strict=True)]
                outputs = [_chosen(going, leaf, 0.0) for leaf in outputs]
            if problem.has_output:
                if rows and output_structure != structure:
                    raise TypeError(
                        f"the output of scan's fn must keep its structure: it was {structure}, "
                        f"and at step {t} {output_structure}"
                    )
                structure = output_structure
            state = new
            rows.append(outputs if problem.has_output else new)
    columns = zip(*(rows[::-1] if problem.reverse else rows), strict=True)
    return state, [stack(column) for column in columns], structure


def _run_again_in_backward(
    problem: Problem, elems: Leaves, state: Leaves, steps: range
) -> tuple[Leaves, Leaves, tree.Structure]:
    """`_run`, remembering only what goes in."""
    start = min(steps)
    window = slice(start, max(steps) + 1)
    structures = []

    def chunk(state: Leaves, elems: Leaves) -> tuple[Leaves, Leaves]:
        state, outputs, structure = _run(problem, elems, state, steps, start)
        structures.append(structure)
        return state, outputs

    state, outputs = checkpoint(chunk)(state, [getitem_(leaf, index=(window,)) for leaf in elems])
    return state, outputs, structures[0]


def _chosen(going: Any, new: Tensor, otherwise: Any) -> Tensor:
    """`new` in the rows that are going on, `otherwise` in the others."""
    mask = new.backend.asarray(going.reshape((-1,) + (1,) * (new.ndim - 1)))
    if otherwise.__class__ is float:
        otherwise = new.backend.xp.zeros_like(new.array)
    return where_(mask, new, otherwise)  # type: ignore[no-any-return]


def _joined(parts: Any) -> Tensor:
    return parts[0] if len(parts) == 1 else concatenate_(*parts, axis=0)  # type: ignore[no-any-return]


def _nothing(problem: Problem) -> tuple[Leaves, tree.Structure]:
    """The stacks of no steps; the shapes of outputs are those that `fn` gives for an input of zeros."""
    outputs, structure = problem.carry.leaves, problem.carry.structure
    if problem.has_output:
        blank = [Tensor(leaf.backend.xp.zeros(leaf.shape[1:], dtype=leaf.dtype)) for leaf in problem.elems]
        with no_grad(), np.errstate(all="ignore"), random.steps() as enter:
            enter(0)
            _, outputs, structure = problem.call(problem.carry.leaves, blank)
    return [Tensor(out.backend.xp.zeros((0, *out.shape), dtype=out.dtype)) for out in outputs], structure


def _with_idle_steps(problem: Problem, state: Leaves, outputs: Leaves, idle: int) -> Leaves:
    """The stacks with the steps that no row takes part in: zero outputs, states copied through."""
    if not idle:
        return outputs
    copied = problem.carry.leaves if problem.reverse else state
    padded = []
    for i, out in enumerate(outputs):
        shape = (idle, *out.shape[1:])
        if problem.has_output:
            rest = Tensor(out.backend.xp.zeros(shape, dtype=out.dtype))
        else:
            rest = broadcast_to_(copied[i], shape=shape)
        padded.append(concatenate_(out, rest, axis=0))
    return padded
