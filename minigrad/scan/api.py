"""What `scan` means, and the checks at its door."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from minigrad import tree
from minigrad.ops.sequence import as_lengths
from minigrad.scan.carry import Carry, Leaves, as_leaves, check_backends
from minigrad.scan.loop import run_loop
from minigrad.scan.problem import Problem
from minigrad.scan.run import run_compiled
from minigrad.tape import Value, constant
from minigrad.tensor import Tensor

Fn = Callable[[Any, Any], Any]


def scan(
    fn: Fn,
    elems: Any,
    initializer: Any,
    *,
    has_output: bool = False,
    reverse: bool = False,
    lengths: Any = None,
    length: int | None = None,
    unroll: bool = False,
    checkpoint: int | str | None = None,
) -> Any:
    """Apply `fn` along axis 0 of `elems`, handing a state on from step to step. Without options it means

        def scan(fn, elems, initializer):
            state, states = initializer, []
            for x in elems:
                state = fn(state, x)
                states.append(state)
            return mg.stack(states)

    and with `has_output=True`, where `fn(state, x)` returns `(state, output)`, it returns `(state, mg.stack(outputs))`.
    States, elems and outputs are pytrees; the leaves of elems are (T, ...), and T may be 0.

    `reverse=True` walks from the last step to the first; results stay in the order of `elems`.
    `lengths` (an integer for each row, 0 to T): rows are axis 1 of elems and axis 0 of states and outputs. Past its
    length a row's state is copied through and its output is zero (reverse: before it begins), and what stands in the
    padding, even NaN, changes no result and gets a gradient of exactly 0. What `fn` captures may have rows too, on
    axis 0. Rows must not meet in `fn`: no mean over the batch, say; where they do, ValueError, unless unrolled.
    `length`: T, where `elems` has no leaves (None).
    `checkpoint`: keep the state of every k-th step only and compute the others again in backward ("sqrt": k = sqrt T).
    `unroll`: call `fn` at every step on the ordinary tape. Without it `fn` is traced, once a call and twice where it is
    new, and a compiled program runs (`minigrad.explain.program` shows it); nothing is kept where no gradient is wanted.

    `fn` must be pure. Draws of `minigrad.random` in it are new at each step. The state must keep its structure,
    shapes and dtypes. Raises TypeError or ValueError naming the leaf where an argument or a result does not fit, and
    TraceError (a TypeError) naming the line where `fn` cannot be traced: it looks at a value, or is not pure.
    Source: the form of TensorFlow's scan (r0.11), the meaning of `reverse` and pytrees as in JAX's lax.scan.

    >>> import minigrad as mg, numpy as np
    >>> mg.scan(lambda total, x: total + x, np.array([1.0, 2.0, 3.0]), 0.0)
    array([1., 3., 6.])
    >>> mg.scan(lambda s, x: (s + x, s * x), np.array([1.0, 2.0, 3.0]), 0.0, has_output=True)
    (array(6.), array([0., 2., 9.]))
    """
    problem = problem_of(fn, elems, initializer, has_output, reverse, lengths, length)
    interval = _interval(checkpoint, problem.steps)
    plain = unroll or problem.active == 0
    state, stacked = run_loop(problem, interval) if plain else run_compiled(problem, interval)
    boxed = any(isinstance(leaf, Tensor) for leaf in [*problem.elems, *problem.carry.leaves])
    if problem.active == 0:  # no step made the state: it is the initial one, which stays the caller's own
        boxed = boxed or any(isinstance(leaf, Tensor) and leaf.record is not None for leaf in stacked)
        state = [leaf if isinstance(leaf, Tensor) else leaf.copy() for leaf in state]
    assert problem.output_structure is not None  # noqa: S101  # `fn` was called or traced
    stacked = problem.output_structure.build([_given(leaf, boxed) for leaf in stacked])
    return (problem.carry.structure.build([_given(leaf, boxed) for leaf in state]), stacked) if has_output else stacked


def _given(leaf: Value, boxed: bool) -> Value:
    """A result as the caller gets it: an array only where arrays alone went in and no gradient depends on it."""
    if isinstance(leaf, Tensor):
        return leaf if boxed or leaf.record is not None else leaf.array
    return Tensor(leaf) if boxed else leaf


def problem_of(
    fn: Fn, elems: Any, initializer: Any, has_output: bool, reverse: bool, lengths: Any, length: int | None
) -> Problem:
    """What scan is asked to do, checked."""
    called_as = getattr(fn, "called_as", None)
    if called_as is not None:
        raise TypeError(
            f"scan takes fn(state, x), got a {type(fn).__name__}, which runs over sequences by itself: call {called_as}"
        )
    if hasattr(fn, "zero_state"):
        raise TypeError(
            f"scan takes fn(state, x), and a {type(fn).__name__} is called as cell(x, state): use mg.nn.dynamic_rnn, "
            "or pass a function that calls it"
        )
    if not callable(fn):
        raise TypeError(f"scan takes a function fn(state, x), got {type(fn).__name__}")
    leaves, structure = as_leaves("elems", elems)
    state, form = as_leaves("initializer", initializer, leaves)
    if len({constant(leaf).__class__ for leaf in [*leaves, *state]}) > 1:
        check_backends({"elems": (leaves, structure), "initializer": (state, form)})
    carry = Carry(state, form)
    steps = _steps_of(leaves, structure, length)
    rows = None if lengths is None else _rows_of(lengths, steps, leaves, structure, carry)
    return Problem(fn, leaves, structure, carry, has_output, reverse, rows, steps)


def _steps_of(leaves: Leaves, structure: tree.Structure, length: int | None) -> int:
    """T, on which all of elems and `length` must agree."""
    if length is not None:
        length = _whole("length", length, 0)
    if not leaves:
        if length is None:
            raise ValueError("scan needs elems with at least one array, or length=, the number of steps")
        return length
    steps = {leaf.shape[:1] for leaf in leaves}
    if length is None and len(steps) == 1 and () not in steps:  # all is well, and there is nothing to name
        return int(leaves[0].shape[0])
    sizes = {}
    for leaf, path in zip(leaves, structure.paths(), strict=True):
        if not leaf.shape:
            raise ValueError(f"elems{path} of scan has no time axis: its shape is ()")
        sizes[f"elems{path}"] = leaf.shape[0]
    if length is not None:
        sizes["length"] = length
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {n}" for name, n in sizes.items())
        raise ValueError(f"scan walks over axis 0, whose size must be one number of steps, got {listed}")
    return int(leaves[0].shape[0])


def _rows_of(lengths: Any, steps: int, leaves: Leaves, structure: tree.Structure, carry: Carry) -> Any:
    """The checked lengths, one for each row of elems and state."""
    rows = as_lengths("scan", lengths, None, steps)
    for leaf, path in zip(leaves, structure.paths(), strict=True):
        if len(leaf.shape) < 2 or leaf.shape[1] != len(rows):
            raise ValueError(
                f"with {len(rows)} lengths, elems{path} of scan is (T, {len(rows)}, ...): rows are its axis 1; "
                f"got shape {tuple(leaf.shape)}"
            )
    carry.check_rows(len(rows))
    return rows


def _interval(checkpoint: int | str | None, steps: int) -> int | None:
    if checkpoint is None:
        return None
    if checkpoint == "sqrt":
        return max(1, math.isqrt(steps))
    if isinstance(checkpoint, str):
        raise ValueError(f'checkpoint is None, "sqrt" or a number of steps, got {checkpoint!r}')  # noqa: TRY004  # a wrong word, not a wrong type
    return _whole('checkpoint (None, "sqrt" or a number of steps)', checkpoint, 1)


def _whole(name: str, n: Any, least: int) -> int:
    """A whole number of at least `least`."""
    try:
        whole = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} of scan is a whole number of at least {least}, got {n!r}") from None
    if whole < least:
        raise ValueError(f"{name} of scan is a whole number of at least {least}, got {n}")
    return whole
