"""The map of credit: how much the loss of each step depends on the state after each step before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.nn.initialisers import Seed
from minigrad.nn.recurrent import first_state, sizes, swapped
from minigrad.nn.run import Run, check_cell, is_whole_sequence
from minigrad.ops import copy
from minigrad.ops.op import as_value
from minigrad.scan import scan
from minigrad.tape import Array, Record, Value, added, next_number, open_variables, recorder, scoped
from minigrad.tensor import Tensor, tensor
from minigrad.walk import Walk, dependent, reachable

HostArray = np.ndarray[Any, Any]


def credit_map(
    cell: Any,
    inputs: Any,
    losses: Callable[[Any], Any],
    initial_state: Any = None,
    time_major: bool = False,
    training: bool | None = None,
    seed: Seed = None,
) -> HostArray:
    """The T x T array whose entry [t, tau] is the norm of d loss_tau / d state_t, in float64 on the host.

    cell, inputs (B, T, ...), initial_state, time_major, training, seed: those of `nn.dynamic_rnn`.
    losses: a function from the outputs (B, T, ...) to one loss for each row and step, (B, T); (T, B) if time-major.

    state_t is what the cell hands on after step t, counted from 0, its parts (h and c of an LSTM) being independent of
    each other. It acts on the losses of later steps through these, and on loss_t through what the output of its own
    step takes from it. Below the diagonal, where tau < t, entries are exactly 0, unless `losses` looks at later
    outputs. The norm is Euclidean, over all floating numbers of a row's state; the entry is the mean over the rows.

    It costs T backward walks over T steps, on the ordinary tape. Raises ValueError where a shape does not fit, where
    `losses` depends on nothing that the cell computed, and for a state that the cell did not compute in its step;
    TypeError for a net that runs over whole sequences, in both directions say: it has no state that stands between.
    Source: the terms d loss_tau / d h_t of Pascanu et al., "On the difficulty of training recurrent neural networks".

    >>> import minigrad as mg, numpy as np
    >>> def halving(x, h):
    ...     h = h / 2 + x
    ...     return h, h
    >>> mg.explain.credit_map(halving, np.ones((1, 3, 1)), lambda outputs: outputs[..., 0], np.zeros((1, 1)))
    array([[1.  , 0.5 , 0.25],
           [0.  , 1.  , 0.5 ],
           [0.  , 0.  , 1.  ]])
    """
    if open_variables.get():
        raise TypeError("credit_map gives numbers without a gradient: call it outside of what is being differentiated")
    check_cell("credit_map", cell)
    inputs = tree.map(_variable, inputs)
    batch, steps = sizes("credit_map", inputs, time_major)
    if batch == 0:
        raise ValueError("credit_map takes the mean over the rows, and got inputs of none")
    if is_whole_sequence(cell):
        raise TypeError(
            f"credit_map takes a cell, and a {type(cell).__name__} runs over whole sequences: give it one of its cells"
        )
    state = tree.map(_variable, first_state(cell, batch, initial_state))
    if steps == 0:
        return np.zeros((0, 0))
    states: list[list[Record]] = []
    run_step = Run(training, seed).cell(cell)

    def step(state: Any, x: Any) -> tuple[Any, Any]:
        start = next_number()
        output, state = run_step(x, tree.map(copy, state))  # so that what is handed on untouched is a state of its own
        states.append(_records(state, len(states), batch, start))
        return state, output

    variables = tuple(leaf.record for leaf in tree.flatten((inputs, state))[0] if leaf.record is not None)
    with scoped(recorder, Record), scoped(open_variables, variables):
        elems = inputs if time_major else tree.map(swapped, inputs)
        _, outputs = scan(step, elems, state, has_output=True, unroll=True)
        given = losses(outputs if time_major else tree.map(swapped, outputs))
    loss = _checked_losses(given, steps, batch, time_major)
    pull = _Pull(loss, states)
    credit = np.zeros((steps, steps))
    for tau in range(steps):
        cotangents = pull(_one_step(loss, tau, time_major))
        for t, records in enumerate(states):
            credit[t, tau] = _norms([cotangents[record] for record in records if record in cotangents], batch).mean()
    return credit


# ---- the walks -----------------------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """The tape from some records back to the states before them."""

    starts: Sequence[Record]
    ends: Sequence[Record]
    walk: Walk


class _Pull:
    """The derivative of the loss by every state, from a cotangent of the loss.

    A walk ends at the records that it is asked for. So the tape is cut at the states: one segment from the losses back
    to them, then one for each step, from its state to the state before, the last step first.
    """

    def __init__(self, loss: Tensor, states: Sequence[Sequence[Record]]) -> None:
        assert loss.record is not None  # noqa: S101  # `_checked_losses` has seen to it
        self.root = loss.record
        self.segments = [_segment([self.root], states)]
        self.segments += [_segment(states[t], states[:t]) for t in range(len(states) - 1, 0, -1)]

    def __call__(self, g: Array) -> dict[Record, Value]:
        cotangents: dict[Record, Value] = {self.root: g}
        for starts, ends, walk in self.segments:
            roots = [(start, cotangents[start]) for start in starts if start in cotangents]
            for end, part in zip(ends, walk.pull_back(roots), strict=True):
                if part is not None:
                    cotangents[end] = added(cotangents[end], part) if end in cotangents else part
        return cotangents


def _segment(starts: Sequence[Record], before: Sequence[Sequence[Record]]) -> _Segment:
    states = [record for records in before for record in records]
    order = reachable(starts, targets=states).order
    parents = {parent for record in order for parent in record.parents}
    ends = [state for state in states if state in parents]
    return _Segment(starts, ends, Walk(order, ends, boxed=False, needed=dependent(order, ends)))


def _one_step(loss: Tensor, tau: int, time_major: bool) -> Array:
    """The cotangent that asks for the losses of one step alone."""
    chosen = np.zeros(loss.shape)
    chosen[(tau,) if time_major else (slice(None), tau)] = 1.0
    return loss.backend.asarray(chosen, dtype=loss.dtype)


def _norms(parts: Sequence[Array], batch: int) -> HostArray:
    """The norm of each row over all parts of a state, (batch,).

    Scaled by a power of two, which rounds nothing, before it is squared: what vanishes over time is small long before
    it is 0.
    """
    hosts = [np.asarray(backend_of(part).to_host(part), dtype="float64").reshape(batch, -1) for part in parts]
    rows = np.concatenate([np.zeros((batch, 1)), *hosts], axis=1)
    _, exponent = np.frexp(np.abs(rows).max(axis=1, keepdims=True))
    norms: HostArray = np.ldexp(np.linalg.norm(np.ldexp(rows, -exponent), axis=1), exponent[:, 0])
    return norms


# ---- what is given -------------------------------------------------------------------------------------------------


def _variable(leaf: Any) -> Tensor:
    """A tensor with these values, a leaf of the tape where they are floating, so that what follows is recorded."""
    value = as_value("credit_map", leaf)
    return tensor(value.detach() if isinstance(value, Tensor) else value, requires_grad=value.dtype.kind == "f")


def _records(state: Any, t: int, batch: int, start: int) -> list[Record]:
    """The records that made the floating parts of a state, each once: all made since `start`, in this step."""
    leaves, structure = tree.flatten(state)
    records = []
    for leaf, path in zip(leaves, structure.paths(), strict=True):
        value = as_value("credit_map", leaf)
        if value.dtype.kind != "f":
            continue
        if tuple(value.shape[:1]) != (batch,):
            raise ValueError(
                f"credit_map takes states whose axis 0 holds the {batch} rows, got state{path} of shape {value.shape}"
            )
        record = value.record if isinstance(value, Tensor) else None
        if record is None or record.number < start:
            raise ValueError(
                f"credit_map asks what depends on the state after step {t}, but state{path} is a constant there, "
                "or was computed before: compute it in the cell, from the input or the state before"
            )
        records.append(record)
    return list(dict.fromkeys(records))


def _checked_losses(losses: Any, steps: int, batch: int, time_major: bool) -> Tensor:
    shape = (steps, batch) if time_major else (batch, steps)
    got = getattr(losses, "shape", None)
    if got is None or tuple(got) != shape:
        raise ValueError(
            f"credit_map needs one loss for each row and step, losses(outputs) of shape {shape}, got {got}"
        )
    if not isinstance(losses, Tensor) or losses.record is None:
        raise ValueError("credit_map needs losses(outputs) computed from the outputs, got a constant")
    return losses
