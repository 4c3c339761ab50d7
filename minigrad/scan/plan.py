"""Where every value of a program is kept, with as few buffers as possible.

A value that the loop makes and only the same step reads stands in a buffer that every step uses again; what is read
outside of its loop, or kept for backward, stands in a stack over time. A buffer whose value nobody reads any more is
taken over by the next value of its form, if possible in place; pieces of a concatenation are computed where they
belong. `verify` proves that none is lost.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from minigrad.ops.indexing import getitem_
from minigrad.ops.linalg import matmul
from minigrad.ops.op import REGISTRY, Primitive
from minigrad.ops.reductions import sum_
from minigrad.ops.shape import concatenate_, reshape_
from minigrad.ops.where import where_
from minigrad.scan.canonical import frozen_states
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import COPY, Packing, Stages, is_ufunc, is_view
from minigrad.scan.places import Buffer, Columns, Place, last_columns, overlap, pieces, region_shape
from minigrad.scan.symbol import CONSTANT, STOP, Symbol
from minigrad.scan.trace import Body

Event = tuple[int, int]
"""A stage and a place in it: when a node is computed."""

FOREVER: Event = (1 << 30, 0)


class Plan:
    """The places of a body's values. `scratch` are the states without stack, `direct` those made in their place.

    `spent` are the inputs whose stacks nobody needs after this program: they may be taken over like its own.
    """

    def __init__(
        self,
        body: Body,
        stages: Stages,
        wanted: Sequence[str],
        packing: Packing | None = None,
        spent: Sequence[Symbol] = (),
    ) -> None:
        self.packing = packing
        self.body = body
        self.stages = stages
        self.frozen = frozen_states(body)
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
        self.spent = spent
        for leaf in spent:
            self.place[leaf] = Place(Buffer(self._lead(leaf), leaf.shape, leaf.dtype, "lent", leaf))
            self.event[leaf] = (-1, 0)
        self._place_states()
        self._place_nodes()
        self._states_in_place()
        self._reuse()

    def buffers(self) -> list[Buffer]:
        """All buffers in use."""
        found: dict[Buffer, None] = {}
        places = [self.place[symbol] for symbol in [*self.spent, *self.order] if symbol in self.place]
        for place in [*self.carry_place.values(), *places]:
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
        """Stacks for the states that something outside of their loop reads, one buffer each for the others."""
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
        """A place for each value that is computed into one."""
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
        """What stands before the shape of one step in a stack of a node."""
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
        """Let values move into buffers that are vacant when they are made."""
        self.last: dict[Symbol, Event] = {}
        for node in [*reversed(self.order), *self.spent]:
            if node in self.place:
                self.last[node] = self._last_read(node)
        occupants: dict[Buffer, list[Symbol]] = {self.place[leaf].buffer: [leaf] for leaf in self.spent}
        own = {place.buffer.owner: place.buffer for place in self.place.values() if place.part == "all"}
        for node in self.order:
            if node not in self.place:
                continue
            place = self.place[node]
            owner = place.buffer.owner
            unsettled = owner not in self.leaves and owner in own and self.place[owner].buffer is place.buffer
            if owner is node and unsettled and self._movable(node):
                self._settle(node, occupants)
            elif place.columns is not None and unsettled and owner.op is concatenate_:
                own.pop(owner)  # a concatenation finds its buffer before its first piece is made, and keeps it
                self._settle(owner, occupants)
                occupants.setdefault(self.place[owner].buffer, []).append(owner)
            own.pop(node, None)
            occupants.setdefault(self.place[node].buffer, []).append(node)

    def _settle(self, node: Symbol, occupants: dict[Buffer, list[Symbol]]) -> None:
        """Move a node, with the pieces that are computed into it, to a buffer that is vacant, if there is one."""
        buffer = self.place[node].buffer
        target = self._vacant(node, occupants) if buffer.kind == "frame" else None
        if target is None:
            return
        self.place[node] = target
        if node.op is concatenate_:
            for piece, columns in pieces(node):
                if piece in self.place and self.place[piece].buffer is buffer:
                    self.place[piece] = target._replace(columns=columns)

    def _movable(self, node: Symbol) -> bool:
        """Whether a node may be computed into another buffer than its own."""
        return self.stages.place[node] in ("batch", "loop") and writes_in_place(node)

    def _last_read(self, node: Symbol) -> Event:
        """When a node's value is read for the last time."""
        if node in self.kept or node in self.fresh or self.place[node].part != "all":
            return FOREVER
        if self.place[node].buffer.owner in self.carry_place:
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

    def _last_read_of(self, node: Symbol, columns: Columns | None) -> Event:
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
        candidates = [place for i in node.inputs if (place := self.where(i)) is not None]
        untouched = [place.buffer.kind == "lent" and len(occupants[place.buffer]) == 1 for place in candidates]
        candidates = [place for _, place in sorted(zip(untouched, candidates, strict=True), key=operator.itemgetter(0))]
        candidates += [Place(buffer) for buffer in occupants]
        for place in candidates:
            if place.part != "all" or place.buffer is mine or place.buffer not in occupants:
                continue
            buffer = place.buffer
            if buffer.kind == "fresh" or buffer.owner in self.carry_place:
                continue
            if (buffer.lead, buffer.dtype) != (mine.lead, mine.dtype):
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
        """Whether all that is written with a node comes after the last reads of what is there."""
        writes: list[tuple[Symbol, Columns | None]] = [(node, place.columns)]
        if node.op is concatenate_:
            placed: list[tuple[Symbol, Columns | None]] = [
                (p, c) for p, c in pieces(node) if p in self.place and self.place[p].buffer is self.place[node].buffer
            ]
            writes = [*placed, *writes] if len(placed) < len(node.inputs) else placed
        for writer, columns in writes:
            when = self.event[writer]
            for resident in residents:
                if not overlap(columns, self.place[resident].columns):
                    continue
                if columns is not None and resident.op is concatenate_ and resident.static["axis"] != columns[0]:
                    return False  # its pieces lie across these columns
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
        if symbol in self.place or symbol in self.leaves:
            return self.place.get(symbol)
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
