"""Where every value of a program is kept, with as few buffers as possible, and the proof that none is lost.

A value that the loop makes and only the same step reads stands in a buffer that every step uses again; what is read
outside of its loop, or kept for backward, stands in a stack over time. A buffer whose value nobody reads any more is
taken over by the next value of its form, if possible in place; pieces of a concatenation are computed where they
belong. `verify` replays two steps and asserts that each read finds the value that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.ops.indexing import getitem_
from minigrad.ops.linalg import matmul
from minigrad.ops.op import REGISTRY, Primitive
from minigrad.ops.reductions import sum_
from minigrad.ops.shape import concatenate_, reshape_
from minigrad.ops.where import where_
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import COPY, Packing, Stages, is_ufunc, is_view
from minigrad.scan.symbol import CONSTANT, STOP, Slot, Symbol
from minigrad.scan.trace import Body

Event = tuple[int, int]
"""A stage and a place in it: when a node is computed."""

FOREVER: Event = (1 << 30, 0)


class Buffer:
    """A place for values: a stack if `lead` is "T", "T + 1" or "N" (packed rows), else one array.

    `kind` is "frame" or "fresh".
    """

    def __init__(self, lead: str, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str, owner: Symbol) -> None:
        self.lead = lead
        self.shape = shape
        self.dtype = dtype
        self.kind = kind
        self.owner = owner
        self.name = ""

    @property
    def over_time(self) -> bool:
        """Whether there is an axis of time before those of one step; packed rows have none."""
        return self.lead in ("T", "T + 1")


class Place(NamedTuple):
    """Where a value is: part "all", "before" or "after" of a stack, and there only `columns`, if they are given."""

    buffer: Buffer
    part: str = "all"
    columns: tuple[int, int, int] | None = None  # axis, start, stop


class Plan:
    """The places of a body's values. `scratch` are the states without stack, `direct` those made in their place."""

    def __init__(
        self, body: Body, stages: Stages, wanted: Sequence[str], frozen: set[Symbol], packing: Packing | None = None
    ) -> None:
        self.packing = packing
        self.body = body
        self.stages = stages
        self.frozen = frozen
        self.place: dict[Symbol, Place] = {}
        self.carry_place: dict[Symbol, Place] = {}
        self.scratch: set[int] = set()
        self.direct: set[int] = set()
        self.leaves = set(body.leaves)
        self.event: dict[Symbol, Event] = {}
        for number, stage in enumerate(stages.stages):
            self.event |= {node: (number, i) for i, node in enumerate(stage.nodes)}
        self.order = [node for stage in stages.stages for node in stage.nodes]
        self.readers: dict[Symbol, list[Symbol]] = {}  # of what a node computes, through views
        for node in self.order:
            if not is_view(node):
                for i in node.inputs:
                    self.readers.setdefault(self.base(i), []).append(node)
        self.reshaped: set[Symbol] = {self.base(node) for node in self.order if node.op is reshape_ and is_view(node)}
        self.fresh = {s for s, want in zip(body.stacked, wanted, strict=True) if want == "fresh"}
        self.kept = {s for s, want in zip(body.stacked, wanted, strict=True) if want == "frame"}
        self.outside = self._read_outside() | self.fresh | self.kept
        self._place_states()
        self._place_nodes()
        self._states_in_place()
        self._reuse()
        verify(self)

    def buffers(self) -> list[Buffer]:
        """All buffers in use."""
        found: dict[Buffer, None] = {}
        for place in [*self.carry_place.values(), *(self.place[n] for n in self.order if n in self.place)]:
            found[place.buffer] = None
        return list(found)

    # ---- who reads what ------------------------------------------------------------------------------------------

    def base(self, symbol: Symbol) -> Symbol:
        """What a symbol is a view of: a leaf, or a node that is computed."""
        while symbol not in self.leaves and is_view(symbol):
            symbol = symbol.inputs[0]
        return symbol

    def added_up_in_loop(self, symbol: Symbol) -> bool:
        """Whether the terms of a sum over time are added where they are made."""
        return symbol in self.stages.loop and symbol not in self.leaves and not is_view(symbol)

    def _read_outside(self) -> set[Symbol]:
        """What lives in a loop and is read outside of it, directly or through views."""
        loop = self.stages.loop
        found: set[Symbol] = set()
        for node in self.order:
            if is_view(node) or (node.op is SUM_OVER_TIME and self.added_up_in_loop(node.inputs[0])):
                continue
            bases = [self.base(i) for i in node.inputs]
            found |= {b for b in bases if b in loop and loop[b] != loop.get(node)}
        found |= {
            new
            for leaf, new in zip(self.body.carry, self.body.next, strict=True)
            if new in loop and loop.get(leaf) != loop[new]
        }
        return found

    # ---- first a place for each ------------------------------------------------------------------------------------

    def _place_states(self) -> None:
        for i, (leaf, new) in enumerate(zip(self.body.carry, self.body.next, strict=True)):
            if leaf in self.frozen:
                continue
            if self.packing or (leaf in self.stages.loop and leaf not in self.outside and new not in self.outside):
                self.scratch.add(i)
                self.carry_place[leaf] = Place(Buffer("", leaf.shape, leaf.dtype, "frame", leaf))
                continue
            kind = "fresh" if leaf in self.fresh or new in self.fresh else "frame"
            buffer = Buffer("T + 1", leaf.shape, leaf.dtype, kind, leaf)
            self.carry_place[leaf] = Place(buffer, "before")
            self.place[new] = Place(buffer, "after")

    def _place_nodes(self) -> None:
        for node in self.body.stacked:
            if node not in self.place and node not in self.carry_place:
                kind = "fresh" if node in self.fresh else "frame"
                self.place[node] = Place(Buffer(self._lead(node), node.shape, node.dtype, kind, node))
        for node in reversed(self.order):  # a concatenation before its pieces
            kind = self.stages.place[node]
            if is_view(node) or node.op is CONSTANT or kind == "final":
                continue
            if self._merges_rows(node):
                continue
            stacked = kind == "batch" or (kind == "loop" and node in self.outside)
            if node not in self.place and (writes_in_place(node) or (kind == "loop" and stacked)):
                self.place[node] = Place(
                    Buffer(self._lead(node) if stacked else "", node.shape, node.dtype, "frame", node)
                )
            if node.op is concatenate_ and node in self.place:
                self._place_pieces(node)

    def _merges_rows(self, node: Symbol) -> bool:
        """Whether a node makes of rows what has no fixed shape, as when rows and another axis become one."""
        packing = self.packing
        return (
            packing is not None
            and node.op is reshape_
            and node.inputs[0] in packing.of_rows
            and node not in packing.aligned
        )

    def _lead(self, node: Symbol) -> str:
        return "N" if self.packing and node in self.packing.aligned else "T"

    def _place_pieces(self, node: Symbol) -> None:
        """Let the pieces of a concatenation be computed where they belong."""
        place = self.place[node]
        for piece, columns in pieces(node):
            where = self.stages.place.get(piece), self.stages.loop.get(piece)
            if (
                place.columns is None
                and piece not in self.place
                and piece not in self.leaves
                and piece not in self.reshaped  # which takes a value without gaps
                and where == (self.stages.place[node], self.stages.loop.get(node))
                and self.event[piece][0] == self.event[node][0]
                and (place.buffer.lead or piece not in self.outside)
                and piece.dtype == node.dtype
                and is_ufunc(piece)
                and sum(p is piece for p in node.inputs) == 1
            ):
                self.place[piece] = Place(place.buffer, place.part, columns)

    # ---- then as few as possible -----------------------------------------------------------------------------------

    def _reuse(self) -> None:
        self.last: dict[Symbol, Event] = {}
        for node in reversed(self.order):
            if node in self.place:
                self.last[node] = self._last_read(node)
        occupants: dict[Buffer, list[Symbol]] = {}
        own = {place.buffer.owner: place.buffer for place in self.place.values() if place.part == "all"}
        for node in self.order:
            place = self.place.get(node)
            if place is None:
                continue
            buffer = place.buffer
            if buffer.owner is node and own.get(node) is buffer and buffer.kind == "frame" and self._movable(node):
                target = self._vacant(node, occupants)
                if target is not None:
                    self.place[node] = target
                    if node.op is concatenate_:
                        for piece, columns in pieces(node):
                            mine = self.place.get(piece)
                            if mine is not None and mine.buffer is buffer:
                                self.place[piece] = target._replace(columns=columns)
            elif place.columns is not None and buffer.owner not in self.leaves:
                joined = buffer.owner  # a piece: the concatenation finds its buffer before its first piece is made
                if joined.op is concatenate_ and self.place[joined].buffer is buffer and joined in own:
                    target = self._vacant(joined, occupants) if buffer.kind == "frame" else None
                    own.pop(joined)
                    if target is not None:
                        self.place[joined] = target
                        for piece, columns in pieces(joined):
                            mine = self.place.get(piece)
                            if mine is not None and mine.buffer is buffer:
                                self.place[piece] = target._replace(columns=columns)
            own.pop(node, None)
            occupants.setdefault(self.place[node].buffer, []).append(node)

    def _movable(self, node: Symbol) -> bool:
        return self.stages.place[node] in ("batch", "loop") and writes_in_place(node)

    def _last_read(self, node: Symbol) -> Event:
        """When a node's value is read for the last time."""
        if node in self.kept or node in self.fresh or self.place[node].part != "all":
            return FOREVER
        if self.place[node].buffer.owner in self.leaves:
            return FOREVER  # a state
        last = self.event[node]
        for reader in self.readers.get(node, ()):
            last = max(last, self.event[reader])
            if reader.op is concatenate_ and reader in self.place:
                last = max(last, self.last[reader])  # if it is a piece, it has to last as long as the whole
        for i, new in enumerate(self.body.next):
            if new is node and i in self.scratch:
                stage = self.stages.loop.get(self.body.carry[i], self.event[node][0])
                last = max(last, (stage, 1 << 29))  # handed on at the end of the step
        return last

    def _last_read_of(self, node: Symbol, columns: tuple[int, int, int] | None) -> Event:
        """When some columns of a node's value are read for the last time."""
        if (
            columns is None
            or self.last[node][1] >= 1 << 29
            or self.last[node] >= FOREVER
            or any(
                r.op is concatenate_ and self.place.get(r, self.place[node]).buffer is self.place[node].buffer
                for r in self.readers.get(node, ())
            )
        ):
            return self.last[node]
        last = self.event[node]
        for reader in self.readers.get(node, ()):
            for i in reader.inputs:
                if self.base(i) is node:
                    there = self.where(i)
                    if there is None or overlap(there.columns, columns):
                        last = max(last, self.event[reader])
                        if reader.op is concatenate_ and reader in self.place:
                            last = max(last, self.last[reader])
        return last

    def _vacant(self, node: Symbol, occupants: dict[Buffer, list[Symbol]]) -> Place | None:
        """A place of the node's form whose value nobody reads any more when the node is computed."""
        mine = self.place[node].buffer
        candidates = [self.where(i) for i in node.inputs]
        candidates += [Place(buffer) for buffer in occupants]
        for place in candidates:
            if place is None or place.part != "all" or place.buffer is mine or place.buffer not in occupants:
                continue
            buffer = place.buffer
            if (buffer.kind, buffer.lead, buffer.dtype) != (
                "frame",
                mine.lead,
                mine.dtype,
            ) or buffer.owner in self.leaves:
                continue
            if region_shape(place) != node.shape:
                continue
            if place.columns is not None and (node.op is concatenate_ or node in self.reshaped):
                continue
            if not mine.lead and self.event[buffer.owner][0] != self.event[node][0]:
                continue  # each loop has its own
            if self._may_take(node, place, occupants[buffer]):
                return place
        return None

    def _may_take(self, node: Symbol, place: Place, residents: Sequence[Symbol]) -> bool:
        writes = [(node, place.columns)]
        if node.op is concatenate_:
            placed = [
                (p, c) for p, c in pieces(node) if p in self.place and self.place[p].buffer is self.place[node].buffer
            ]
            writes = [*placed, *writes] if len(placed) < len(node.inputs) else placed
        for writer, columns in writes:
            when = self.event[writer]
            for resident in residents:
                if not overlap(columns, self.place[resident].columns):
                    continue
                if self._last_read_of(resident, columns) > when:
                    return False
            for i in writer.inputs:
                there = self.where(i)
                touches = self.place.get(self.base(i))
                if touches is None or touches.buffer is not place.buffer:
                    continue
                exact = there is not None and there.columns == columns and there.part == "all"
                if exact and is_ufunc(writer) and i.shape == writer.shape:
                    continue
                if not overlap(columns, touches.columns if there is None else there.columns):
                    continue
                return False
        return True

    def where(self, symbol: Symbol) -> Place | None:
        """The place of a value that is some columns of a buffer, as it stands there; None if it is seen otherwise."""
        if symbol in self.leaves:
            return None
        if symbol in self.place:
            return self.place[symbol]
        if symbol.op is STOP:
            return self.where(symbol.inputs[0])
        if symbol.op is getitem_ and is_view(symbol):
            inner = self.where(symbol.inputs[0])
            cut = last_columns(symbol)
            if inner is None or cut is None:
                return None
            axis, start, stop = cut
            if inner.columns is None:
                return inner._replace(columns=cut)
            if inner.columns[0] == axis:
                return inner._replace(columns=(axis, inner.columns[1] + start, inner.columns[1] + stop))
        return None

    def _states_in_place(self) -> None:
        """Compute a state without stack where it stands, if the old one is not read any more by then."""
        for i in self.scratch:
            leaf, new = self.body.carry[i], self.body.next[i]
            place = self.place.get(new)
            if (
                place is None
                or place.columns is not None
                or place.buffer.lead
                or any(n is not new and p.buffer is place.buffer for n, p in self.place.items())
            ):
                continue
            now = self.event[new]
            if all(self.event[r] <= now for r in self.readers.get(leaf, ())) and self._reads_exactly(new, leaf):
                self.place[new] = self.carry_place[leaf]
                self.direct.add(i)

    def _reads_exactly(self, node: Symbol, leaf: Symbol) -> bool:
        """Whether a node that reads a state may write over it."""
        touching = [i for i in node.inputs if self.base(i) is leaf]
        return not touching or (is_ufunc(node) and all(i is leaf and i.shape == node.shape for i in touching))


def writes_in_place(node: Symbol) -> bool:
    """Whether a node is computed into a given array, or has to be copied there: it may be a view of its inputs."""
    if is_ufunc(node) or node.op in (COPY, where_, concatenate_, matmul, sum_, reshape_):
        return True
    foreign = isinstance(node.op, Primitive) and REGISTRY.get(node.op.name) is not node.op
    return foreign or node.op.name in ("zeros_like", "ones_like")


def pieces(node: Symbol) -> list[tuple[Symbol, tuple[int, int, int]]]:
    """The pieces of a concatenation, and the columns that they fill."""
    axis, start, found = node.static["axis"], 0, []
    for piece in node.inputs:
        stop = start + piece.shape[axis]
        found.append((piece, (axis, start, stop)))
        start = stop
    return found


def overlap(a: tuple[int, int, int] | None, b: tuple[int, int, int] | None) -> bool:
    """Whether two sets of columns share some."""
    return a is None or b is None or a[0] != b[0] or (a[1] < b[2] and b[1] < a[2])


def region_shape(place: Place) -> tuple[int, ...]:
    """The shape of one step's value at a place."""
    if place.columns is None:
        return place.buffer.shape
    axis, start, stop = place.columns
    shape = list(place.buffer.shape)
    shape[axis] = stop - start
    return tuple(shape)


def last_columns(node: Symbol) -> tuple[int, int, int] | None:
    """The columns that a slice takes, if it is one of the last axis alone."""
    parts, shape = node.static["index"], node.inputs[0].shape
    if not shape or any(
        p is None or (p.__class__ is not slice and p is not Ellipsis) or p.__class__ is Slot for p in parts
    ):
        return None
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    fill = (slice(None),) * (len(shape) - len([p for p in parts if p is not Ellipsis]))
    parts = parts[:at] + fill + parts[at + 1 :]
    bounds = [p.indices(n) for p, n in zip(parts, shape, strict=True)]
    if any(step != 1 for *_, step in bounds):
        return None
    if any((a, b) != (0, n) for (a, b, _), n in zip(bounds[:-1], shape[:-1], strict=True)):
        return None
    start, stop, _ = bounds[-1]
    return (len(shape) - 1, start, stop) if stop > start else None


# ---- the proof -------------------------------------------------------------------------------------------------------


class PlanError(AssertionError):
    """A plan in which a value would be overwritten before it is read: a bug of the compiler, never of a body."""


def verify(plan: Plan) -> None:
    """Replay two steps with names in the place of numbers: each read must find what it names.

    A region of a buffer holds the node that was written there last, and at which step.
    """
    memory: dict[tuple[Buffer, int], list[tuple[Any, Symbol, int]]] = {}
    times = (0, 1)

    def slot(place: Place, t: int) -> tuple[Buffer, int]:
        return place.buffer, (t if place.part != "after" else t + 1) if place.buffer.lead else 0

    def write(place: Place, node: Symbol, t: int) -> None:
        known = memory.setdefault(slot(place, t), [])
        known[:] = [(part, n, when) for c, n, when in known for part in _rest(c, place.columns, place.buffer.shape)]
        known.append((place.columns, node, t))

    def check(symbol: Symbol, t: int, reader: Symbol) -> None:
        base = plan.base(symbol)
        whole, since = base, t
        if base in plan.carry_place:
            place = plan.carry_place[base]
            i = next(i for i, leaf in enumerate(plan.body.carry) if leaf is base)
            whole, since = plan.body.next[i], t - 1
            names = {(base, t), (whole, since)}
        elif base in plan.place:
            place, names = plan.place[base], {(base, t)}
        else:
            return
        if not place.buffer.lead and plan.stages.place.get(base) == "once":
            t, since, names = 0, 0, {(base, 0)}
        seen = plan.where(symbol)
        columns = place.columns if seen is None or seen.buffer is not place.buffer else seen.columns
        found = [k for k in memory.get(slot(place, t), []) if overlap(k[0], columns)]
        if not found or any(
            (node, when) not in names and not _part_of(plan, whole, node, when, since) for _, node, when in found
        ):
            raise PlanError(f"{reader!r} reads {base!r} of step {t}, but finds {found!r}")

    def compute(node: Symbol, t: int) -> None:
        if is_view(node) or node.op is CONSTANT:
            return
        for i in node.inputs:
            check(i, t, node)
        place = plan.place.get(node)
        if place is None:
            return
        if node.op is concatenate_:
            for piece, columns in pieces(node):
                if plan.place.get(piece) != place._replace(columns=columns):
                    write(place._replace(columns=columns), piece, t)
        else:
            write(place, node, t)

    for leaf, place in plan.carry_place.items():
        write(place, leaf, 0)
    for stage in plan.stages.stages:
        if stage.kind == "loop":
            for t in times:
                for node in stage.nodes:
                    compute(node, t)
                for i in stage.carry:
                    if i in plan.scratch:
                        check(plan.body.next[i], t, plan.body.next[i])
                        write(plan.carry_place[plan.body.carry[i]], plan.body.next[i], t)
        elif stage.kind in ("once", "batch"):
            for node in stage.nodes:
                stacked = node in plan.place and plan.place[node].buffer.lead
                for t in times if stage.kind == "batch" or stacked else (0,):
                    compute(node, t)
        else:
            for node in stage.nodes:
                for i in node.inputs:
                    if (
                        not (node.op is SUM_OVER_TIME and plan.added_up_in_loop(i))
                        and plan.stages.place.get(i) != "final"
                    ):
                        for t in times:
                            check(i, t, node)
    for node in plan.body.stacked:
        for t in times:
            check(node, t, node)


def _rest(
    old: tuple[int, int, int] | None, new: tuple[int, int, int] | None, shape: tuple[int, ...]
) -> list[tuple[int, int, int] | None]:
    """What is left of some columns when others are written over."""
    if not overlap(old, new):
        return [old]
    if new is None:
        return []
    axis, start, stop = new
    if old is not None and old[0] != axis:
        return []
    _, first, last = old or (axis, 0, shape[axis])
    return [part for part in ((axis, first, min(last, start)), (axis, max(first, stop), last)) if part[1] < part[2]]


def _part_of(plan: Plan, whole: Symbol, node: Symbol, when: int, t: int) -> bool:
    """Whether a node is a piece of a concatenation, of the same step."""
    pending: list[Symbol] = [whole]
    while pending:
        symbol = pending.pop()
        if symbol is node:
            return when == t
        if symbol.op is concatenate_ and symbol not in plan.leaves:
            pending += symbol.inputs
    return False


def unique(symbols: Iterable[Symbol]) -> list[Symbol]:
    """Symbols without repetition, in their order."""
    return list(dict.fromkeys(symbols))
