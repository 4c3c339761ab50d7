"""The scan as a loop on the ordinary tape: `fn` is called at every step, and what it does is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import random
from minigrad.backend import backend_of
from minigrad.ops.op import zeros_like
from minigrad.ops.shape import broadcast_to_, concatenate_, stack
from minigrad.ops.unstack import unstack
from minigrad.ops.where import where_
from minigrad.scan.carry import Leaves
from minigrad.scan.problem import Problem
from minigrad.tape import Record, Value, constant, next_number, recorder, scoped
from minigrad.tensor import Tensor
from minigrad.transforms import checkpoint
from minigrad.walk import reachable


def run_loop(problem: Problem, interval: int | None) -> tuple[Leaves, Leaves]:
    """The leaves of the final state, and of the stacked outputs (the stacked states if there are none)."""
    problem.replace_padding()
    steps: list[Leaves] = [[] for _ in range(problem.steps)]
    for leaf in problem.elems:
        for x, part in zip(steps, unstack(leaf), strict=False):  # padding is cut off
            x.append(part)
    order = range(problem.active)[::-1] if problem.reverse else range(problem.active)
    chunk_size = interval or max(1, len(order))
    state, stacks = problem.carry.leaves, []
    with random.steps() as enter:
        for i in range(0, len(order), chunk_size):
            chunk = order[i : i + chunk_size]
            run = _run if interval is None else _run_again_in_backward
            state, outputs = run(problem, chunk, enter, [steps[t] for t in chunk], state)
            stacks.append(outputs)
        if stacks:
            outputs = [_joined(parts) for parts in zip(*(stacks[::-1] if problem.reverse else stacks), strict=True)]
        else:
            outputs = _stacks_of_nothing(problem, enter)
    return state, with_idle_steps(problem, state, outputs)


def _run(
    problem: Problem, chunk: Sequence[int], enter: Callable[[int], None], xs: Sequence[Leaves], state: Leaves
) -> tuple[Leaves, Leaves]:
    """Some steps: the state after them, and the outputs of each, stacked in the order of time."""
    outputs: list[Leaves] = []
    for t, x in zip(chunk, xs, strict=True):
        enter(t)
        state, output = _step(problem, t, x, state)
        outputs.append(output)
    return state, [stack(column) for column in zip(*(outputs[::-1] if problem.reverse else outputs), strict=True)]


def _step(problem: Problem, t: int, x: Leaves, state: Leaves) -> tuple[Leaves, Leaves]:
    """One step. A row that has ended does its own first step again, and its results are dropped: see `Problem`."""
    if problem.rows is None or (problem.rows > t).all():
        return problem.call(state, x)
    going = problem.rows > t
    spare = [_chosen(going, leaf, other) for leaf, other in zip(state, problem.spare_state, strict=True)]
    new, output = problem.call(spare, x)
    new = [_chosen(going, leaf, old) for leaf, old in zip(new, state, strict=True)]
    return new, [_chosen(going, leaf, zeros_like(leaf)) for leaf in output] if problem.has_output else new


def _chosen(going: np.ndarray[Any, Any], new: Value, otherwise: Value) -> Value:
    """`new` in the rows that are going on, `otherwise` in the others."""
    mask = going.reshape((-1,) + (1,) * (len(new.shape) - 1))
    return where_(backend_of(constant(new)).asarray(mask), new, otherwise)


def _run_again_in_backward(
    problem: Problem, chunk: Sequence[int], enter: Callable[[int], None], xs: Sequence[Leaves], state: Leaves
) -> tuple[Leaves, Leaves]:
    """`_run`, remembering only what goes in."""

    def run(xs: Sequence[Leaves], state: Leaves) -> tuple[Leaves, Leaves]:
        return _run(problem, chunk, enter, xs, state)

    return checkpoint(run)(xs, state)  # type: ignore[no-any-return]


def _joined(parts: Sequence[Value]) -> Value:
    return parts[0] if len(parts) == 1 else concatenate_(*parts, axis=0)


# ---- steps that no row takes part in -------------------------------------------------------------------------------


def with_idle_steps(problem: Problem, state: Leaves, outputs: Leaves) -> Leaves:
    """The stacks with the steps after the last active one: zero outputs, states copied through."""
    idle = problem.steps - problem.active
    if not idle:
        return outputs
    copied = problem.carry.leaves if problem.reverse else state
    padded = []
    for i, out in enumerate(outputs):
        shape = (idle, *out.shape[1:])
        if problem.has_output:
            rest = backend_of(constant(out)).xp.zeros(shape, dtype=out.dtype)
        else:
            rest = broadcast_to_(copied[i], shape=shape)
        padded.append(concatenate_(out, rest, axis=0))
    return padded


def _stacks_of_nothing(problem: Problem, enter: Callable[[int], None]) -> Leaves:
    """The stacks of no steps. The shapes of outputs are those that `fn` gives for an input of zeros."""
    if not problem.has_output:
        return [_empty(leaf) for leaf in problem.carry.leaves]
    blank = [_blank(leaf) for leaf in problem.elems]
    since = next_number()
    quietly = scoped(recorder, recorder.get() and Record)  # on no Tape: this is no step
    with quietly, np.errstate(all="ignore"):
        enter(0)
        _, outputs = problem.call(problem.carry.leaves, blank)
    return [_behind(_empty(out), out, since) for out in outputs]


def _blank(leaf: Value) -> Value:
    array = backend_of(constant(leaf)).xp.zeros(tuple(leaf.shape[1:]), dtype=leaf.dtype)
    return Tensor(array) if isinstance(leaf, Tensor) else array


def _empty(leaf: Value) -> Value:
    """No steps of something like a leaf: an array of an array, a Tensor of a Tensor."""
    array = backend_of(constant(leaf)).xp.zeros((0, *leaf.shape), dtype=leaf.dtype)
    return Tensor(array) if isinstance(leaf, Tensor) else array


class _NoSteps:
    """The op of outputs that no step made: they depend on what `fn` uses, with gradients of zero."""

    name = "no_steps"
    pull_into: Callable[..., Any] | None = None
    structural = False

    def pull(self, g: Value, out: Value, values: Sequence[Value], static: dict[str, Any], wanted: Any) -> Any:
        return [None if want is None else zeros_like(value) for want, value in zip(wanted, values, strict=True)]

    def push(self, tangents: Any, out: Value, values: Any, static: dict[str, Any]) -> Value:
        return zeros_like(out)


def _behind(empty: Value, out: Value, since: int) -> Value:
    """The empty stack, tracked if one step's output would be."""
    if recorder.get() is None or not isinstance(out, Tensor) or out.record is None:
        return empty
    reach = reachable([out.record], since)
    used: list[Record] = [*reach.leaves, *reach.older]
    return Tensor(constant(empty), Record(_NoSteps(), [record.out for record in used], used, {}, constant(empty), None))
