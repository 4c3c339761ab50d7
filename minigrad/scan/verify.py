"""The proof that a plan loses no value: two steps are replayed, with names in the place of numbers."""

from __future__ import annotations

from minigrad.ops.shape import concatenate_
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import Stage, is_view
from minigrad.scan.places import Buffer, Columns, Place, overlap, pieces
from minigrad.scan.plan import Plan
from minigrad.scan.symbol import CONSTANT, Symbol

TIMES = (0, 1)
"""The steps that are replayed."""


class PlanError(AssertionError):
    """A plan in which a value would be overwritten before it is read: a bug of the compiler, never of a body."""


def verify(plan: Plan) -> None:
    """Replay a plan; raises PlanError if a read finds something else than what it names."""
    replay = _Replay(plan)
    for stage in plan.stages.stages:
        replay.stage(stage)
    for node in plan.body.stacked:
        for t in TIMES:
            replay.check(node, t, node)


class _Replay:
    """What the buffers hold: for each of their regions the node that was written there last, and at which step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.memory: dict[tuple[Buffer, int], list[tuple[Columns | None, Symbol, int]]] = {}
        self.next = dict(zip(plan.body.carry, plan.body.next, strict=True))
        for leaf, place in plan.carry_place.items():
            self.write(place, leaf, 0)
        for leaf in plan.spent:
            for t in TIMES:
                self.write(plan.place[leaf], leaf, t)

    def stage(self, stage: Stage) -> None:
        """Do a stage in its order: a loop step by step, all else node by node."""
        plan = self.plan
        if stage.kind == "loop":
            for t in TIMES:
                for node in stage.nodes:
                    self.compute(node, t)
                self.hand_on(stage, t)
        elif stage.kind == "final":
            for node in stage.nodes:
                self.read_at_the_end(node)
        else:
            for node in stage.nodes:
                stacked = node in plan.place and plan.place[node].buffer.lead
                for t in TIMES if stage.kind == "batch" or stacked else (0,):
                    self.compute(node, t)

    def hand_on(self, stage: Stage, t: int) -> None:
        """Write the new states without stack over the old ones."""
        plan = self.plan
        for i in stage.carry:
            if i in plan.scratch:
                new = plan.body.next[i]
                self.check(new, t, new)
                self.write(plan.carry_place[plan.body.carry[i]], new, t)

    def read_at_the_end(self, node: Symbol) -> None:
        """Read all steps of what a node sums over time."""
        plan = self.plan
        for i in node.inputs:
            added_up = node.op is SUM_OVER_TIME and plan.added_up_in_loop(i)
            if not added_up and plan.stages.place.get(i) != "final":
                for t in TIMES:
                    self.check(i, t, node)

    def compute(self, node: Symbol, t: int) -> None:
        """Read a node's inputs and write its value; the pieces of a concatenation that stand there already stay."""
        if is_view(node) or node.op is CONSTANT:
            return
        for i in node.inputs:
            self.check(i, t, node)
        place = self.plan.place.get(node)
        if place is None:
            return
        if node.op is not concatenate_:
            self.write(place, node, t)
            return
        for piece, columns in pieces(node):
            if self.plan.place.get(piece) != place._replace(columns=columns):
                self.write(place._replace(columns=columns), piece, t)

    def write(self, place: Place, node: Symbol, t: int) -> None:
        """Let a place hold a node's value of step t."""
        known = self.memory.setdefault(_slot(place, t), [])
        known[:] = [(part, n, when) for c, n, when in known for part in _rest(c, place.columns, place.buffer.shape)]
        known.append((place.columns, node, t))

    def check(self, symbol: Symbol, t: int, reader: Symbol) -> None:
        """Raise PlanError unless a symbol's value of step t stands where it is read."""
        plan, base = self.plan, self.plan.base(symbol)
        whole, since = base, t
        names = {(base, t)}
        if base in plan.carry_place:
            place = plan.carry_place[base]
            whole, since = self.next[base], t - 1
            names.add((whole, since))
        elif base in plan.place:
            place = plan.place[base]
        else:
            return
        if not place.buffer.lead and plan.stages.place.get(base) == "once":
            t, since, names = 0, 0, {(base, 0)}
        seen = plan.where(symbol)
        columns = place.columns if seen is None or seen.buffer is not place.buffer else seen.columns
        if columns is not None and columns[1] == columns[2]:
            return  # of no columns nothing is lost
        found = [k for k in self.memory.get(_slot(place, t), []) if overlap(k[0], columns)]
        right = [(node, when) in names or self.is_part(whole, node, when, since) for _, node, when in found]
        if not found or not all(right):
            raise PlanError(f"{reader!r} reads {base!r} of step {t}, but finds {found!r}")

    def is_part(self, whole: Symbol, node: Symbol, when: int, t: int) -> bool:
        """Whether a node is a piece of a concatenation, of the same step."""
        pending: list[Symbol] = [whole]
        while pending:
            symbol = pending.pop()
            if symbol is node:
                return when == t
            if symbol.op is concatenate_ and symbol not in self.plan.leaves:
                pending += symbol.inputs
        return False


def _slot(place: Place, t: int) -> tuple[Buffer, int]:
    """A buffer, and which step of it if it is a stack."""
    return place.buffer, (t if place.part != "after" else t + 1) if place.buffer.lead else 0


def _rest(old: Columns | None, new: Columns | None, shape: tuple[int, ...]) -> list[Columns | None]:
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
