"""Rows of a padded batch: the proof that they do not meet, and how their steps are packed.

With `lengths` the rows are sorted by length, so that those which take part in step t are the first n_t. Stacks hold
the steps one after the other without gaps: (n_0 + n_1 + ..., ...). So padding costs nothing and enters no arithmetic.
Source: the packed sequences of PyTorch, without their limits.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import Backend
from minigrad.ops.indexing import getitem_, scatter_add
from minigrad.ops.op import Primitive
from minigrad.ops.shape import broadcast_to_, reshape_
from minigrad.ops.where import where_
from minigrad.scan.distribute import COPY
from minigrad.scan.symbol import CAPTURED, ELEM, Slot, Symbol, current
from minigrad.scan.trace import Body, Trace, order_of
from minigrad.tape import Array, Value, recorder, scoped


class RowsMeetError(ValueError):
    """A body under `lengths` in which one row's result depends on another row."""


class Alignment(NamedTuple):
    """Which inputs of a body have a row in axis 0 for each length: states always do."""

    rows: int
    elems: tuple[bool, ...]
    captured: tuple[bool, ...]
    summed: tuple[bool, ...] = ()

    def leaves(self, body: Body) -> set[Symbol]:
        """The leaves with rows."""
        found = set(body.carry)
        found |= {leaf for leaf, flag in zip(body.elems, self.elems, strict=True) if flag}
        return found | {leaf for leaf, flag in zip(body.captured, self.captured, strict=True) if flag}


def find_alignment(body: Body, rows: int, elems: Sequence[bool]) -> Alignment:
    """Which captured values and draws belong to rows, found by what the body does with them.

    Raises RowsMeetError where rows meet whatever they are.
    """
    flags = dict(zip(body.elems, elems, strict=True))
    maybe = {
        leaf for leaf in [*body.captured, *(e for e, flag in flags.items() if not flag)] if leaf.shape[:1] == (rows,)
    }
    chosen: set[Symbol] = set()
    while True:
        leaves = {*body.carry, *(e for e, flag in flags.items() if flag), *chosen}
        known, fault = _propagate(body, leaves, rows)
        if fault is None:
            results = [*body.next, *body.stacked]
            fault = next((s for s in results if s not in known and not is_number(s)), None)
        if fault is None:
            return Alignment(
                rows, tuple([e in leaves for e in body.elems]), tuple([c in leaves for c in body.captured])
            )
        more = {leaf for leaf in _sources(fault, known) if leaf in maybe} - chosen
        if not more:
            raise RowsMeetError(
                f"with lengths, each row of fn's results must depend on the same row of the state and the inputs "
                f"alone, but rows meet in `{fault.op.name}` "
                f"({', '.join(f'{i.dtype}{i.shape}' for i in fault.inputs)} to {fault.shape}). Reduce over other axes "
                "than 0, or mask by hand without lengths"
            )
        rank = max(len(leaf.shape) for leaf in more)
        chosen |= {leaf for leaf in more if len(leaf.shape) == rank}


def aligned(body: Body, leaves: set[Symbol], rows: int) -> set[Symbol]:
    """The values with rows, in a body or its derivative."""
    return _propagate(body, leaves, rows, strict=False)[0]


def _propagate(body: Body, leaves: set[Symbol], rows: int, strict: bool = True) -> tuple[set[Symbol], Symbol | None]:
    known = set(leaves)
    for node in order_of(body.results, body.leaves):
        flags = [i in known for i in node.inputs]
        if any(flags):
            flags = [f or (is_number(i) and i.shape[:1] == (rows,)) for f, i in zip(flags, node.inputs, strict=True)]
            if keeps_rows(node, flags, rows):
                known.add(node)
            elif strict:
                return known, node
    return known, None


def keeps_rows(node: Symbol, flags: Sequence[bool], rows: int) -> bool:
    """Whether rows stay apart in a node; see `Op.rows`."""
    if node.op is COPY:
        return node.inputs[0].shape == node.shape
    parts = node.static.get("index", ())
    if node.op in (getitem_, scatter_add) and any(part.__class__ is Slot for part in parts):
        arrays = [node.inputs[p.place] for p in parts if p.__class__ is Slot]
        own = flags[: len(node.inputs) - len(arrays)]
        if all(own) and len(arrays) == 1 and arrays[0] is node.inputs[-1] and not flags[-1]:
            first = parts[0]  # all rows, and an index into another axis
            whole = len(node.static.get("shape", node.inputs[0].shape))
            return (first.__class__ is slice and first == slice(None)) or (first is Ellipsis and whole >= len(parts))
        by_rows = [f and a.shape[:1] == (rows,) for a, f in zip(arrays, flags[len(own) :], strict=True)]
        return node.op is getitem_ and not any(own) and parts[0].__class__ is Slot and all(by_rows)
    rule = getattr(node.op, "row_rule", None)
    return rule is not None and bool(rule(node.static, [i.shape for i in node.inputs], flags))


def is_number(symbol: Symbol) -> bool:
    """Whether a value is a number for all rows, as in a state that is set to 0."""
    if symbol.op is COPY:
        return not symbol.inputs[0].shape or is_number(symbol.inputs[0])
    return symbol.op is broadcast_to_ and not symbol.inputs[0].shape


def _sources(fault: Symbol, known: set[Symbol]) -> set[Symbol]:
    """The leaves without rows behind the inputs of a node in which rows meet."""
    found: set[Symbol] = set()
    stack = [i for i in (fault.inputs or (fault,)) if i not in known]
    while stack:
        symbol = stack.pop()
        if not symbol.inputs:
            found.add(symbol)
        else:
            stack += [i for i in symbol.inputs if i not in known]
    return found


# ---- packing ---------------------------------------------------------------------------------------------------------


class Rows:
    """The order and number of rows at each step, on the host and as index arrays of a backend."""

    def __init__(self, lengths: np.ndarray[Any, Any], backend: Backend) -> None:
        self.all = len(lengths)
        self.order = np.argsort(-lengths, kind="stable")
        self.steps = int(lengths.max(initial=0))
        ranked = lengths[self.order]
        self._cut(np.searchsorted(-ranked, -np.arange(self.steps), side="left").tolist())
        steps = np.repeat(np.arange(self.steps), self.counts)
        within = np.arange(self.total) - np.repeat(np.asarray(self.starts[:-1], dtype=np.intp), self.counts)
        self.step_of = backend.asarray(steps)
        self.row_of = backend.asarray(within.astype(np.intp))
        self.original = backend.asarray(self.order[within.astype(np.intp)])
        self.permutation = backend.asarray(self.order)

    def _cut(self, counts: list[int]) -> None:
        """Where each step starts in a packed stack, and how the rows of all steps are taken out of one."""
        self.counts = counts
        self.starts = [0, *itertools.accumulate(counts)]
        self.total = self.starts[-1]
        self.parts = _taking([slice(a, b) for a, b in itertools.pairwise(self.starts)])
        self.runs = [(n, len(list(run))) for n, run in itertools.groupby(counts)]

    def firsts(self, array: Array) -> list[Array]:
        """As many first rows of an array as take part in each step."""
        found: list[Array] = []
        for n, steps in self.runs:
            found += [array[:n]] * steps
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and (self.all, self.counts) == (other.all, other.counts)

    def __hash__(self) -> int:
        return hash((self.all, *self.counts))

    def part(self, steps: slice) -> Rows:
        """The rows of some of the steps."""
        part = object.__new__(Rows)
        part.all = self.all
        part._cut(self.counts[steps])
        part.steps = len(part.counts)
        first, last = self.starts[steps.start], self.starts[steps.stop]
        part.step_of = self.step_of[first:last] - steps.start
        part.row_of = self.row_of[first:last]
        return part

    def padding(self, reverse: bool, backend: Backend) -> Padding:
        """For every step and row, where it stands in a packed stack: past its end, where the row's first step does.

        An empty row does what the first, the longest, does.
        """
        length = self.steps_of_rows()
        row = np.where(length > 0, np.arange(self.all), 0)
        t = np.arange(self.steps)[:, None]
        mask = t < length
        t = np.where(mask, t, length[row] - 1 if reverse else 0)
        source = np.asarray(self.starts[:-1], dtype=np.intp)[t] + row
        return Padding(backend.asarray(mask), backend.asarray(source), backend.asarray(row))

    def steps_of_rows(self) -> np.ndarray[Any, Any]:
        """How many steps each row takes part in, the longest first."""
        counts = np.asarray(self.counts, dtype=np.intp)
        length: np.ndarray[Any, Any] = (counts[None, :] > np.arange(self.all)[:, None]).sum(axis=1)
        return length

    def packed(self, steps: slice) -> slice:
        """Where some of the steps stand in a packed stack."""
        return slice(self.starts[steps.start], self.starts[steps.stop])


def _taking(slices: list[slice]) -> Callable[[Array], tuple[Array, ...]]:
    """What takes all the slices of an array: a program takes those of a dozen arrays, at each call other ones."""
    if len(slices) < 2:  # for which itemgetter has another form
        return lambda array: tuple([array[s] for s in slices])
    return operator.itemgetter(*slices)


class Padding(NamedTuple):
    """Index arrays that make packed steps padded ones: which are real (T, rows), what fills them, whose state."""

    mask: Array
    source: Array
    row: Array


def masked(body: Body, backend: Backend) -> Body:
    """The body over padded rows: its first input says which rows go on, its last captured values are spare states.

    A row that has ended does its own first step again, from its first state, and the result is dropped.
    """
    trace = Trace(backend, literal=True)
    rows = body.carry[0].shape[0] if body.carry else body.elems[0].shape[0]
    with scoped(current, trace), scoped(recorder, None):
        mask = trace.leaf(ELEM, (rows,), np.dtype(bool))
        spare = [trace.leaf(CAPTURED, leaf.shape, leaf.dtype) for leaf in body.carry]

        def chosen(x: Symbol, y: Symbol) -> Symbol:
            wide = reshape_(mask, shape=(rows, *[1] * (len(x.shape) - 1)))
            return trace.symbol_of(where_(wide, x, y))

        known = {leaf: leaf for leaf in body.leaves}
        known |= {leaf: chosen(leaf, other) for leaf, other in zip(body.carry, spare, strict=True)}
        for node in order_of(body.results, body.leaves):
            inputs = tuple([known[i] for i in node.inputs])
            known[node] = Symbol(node.op, inputs, node.static, node.shape, node.dtype, trace)
        new = [chosen(known[n], leaf) for n, leaf in zip(body.next, body.carry, strict=True)]
    return Body(body.carry, [mask, *body.elems], [*body.captured, *spare], new, [known[s] for s in body.stacked], [])


class _Gather(Primitive):
    """x[index], every place named once at most."""


def _gather(xp: Any, x: Array, *, index: tuple[Array, ...], shape: tuple[int, ...]) -> Array:
    return x[index]


def _spread(xp: Any, g: Array, *, index: tuple[Array, ...], shape: tuple[int, ...]) -> Array:
    out = xp.zeros((*shape, *g.shape[len(index[0].shape) :]), dtype=g.dtype)
    out[index] = g
    return out


gather = _Gather(_gather, "each", register=False)
"""Elements at an index that names none twice."""

spread = _Gather(_spread, "each", register=False)
"""Elements put back where `gather` found them, and zeros."""


@gather.vjp(0)
def gather_dx(g: Value, out: Value, x: Value, *, index: Any, shape: Any) -> Value:
    return spread(g, index=index, shape=shape)


@spread.vjp(0)
def spread_dg(g: Value, out: Value, x: Value, *, index: Any, shape: Any) -> Value:
    return gather(g, index=index, shape=shape)
