"""Loops over time: what each step does, and the views on which it does it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from minigrad.ops.linalg import matmul
from minigrad.scan.calls import Calls
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import Stage, is_ufunc, is_view
from minigrad.scan.kernels import Call, Located
from minigrad.scan.places import Place, overlap
from minigrad.scan.symbol import Symbol
from minigrad.scan.text import tuple_of
from minigrad.scan.verify import PlanError

TILE = 512 * 1024
"""Bytes that a tile of steps may write: they stay in a processor's cache until the loop reads them."""

FULL = 64 * 1024
"""Bytes that a value which is the same at all steps may take when it is spread to the rows of a step."""


class TimeLoop:
    """One loop over time: what each of its steps reads is a view made once, or taken from a list of views."""

    def __init__(self, emitter: Calls, number: int, stage: Stage) -> None:
        self.e = emitter
        self.number = number
        self.stage = stage
        self.zipped: dict[str, str] = {}  # loop variable -> list
        self.seen: dict[Symbol, str] = {}
        self.lines: list[str] = []
        self.products = 0

    def emit(self, tile: Sequence[Symbol]) -> None:
        """Write the loop, after or in turns with the nodes of a tile."""
        e = self.e
        before: list[str] = []
        e.tile = {} if tile else None
        for node in tile:
            e.compute(node, "batch", before)
        tiled, e.tile = e.tile or {}, None
        for node in self.stage.nodes:
            if not is_view(node):
                self.compute(node)
        self.hand_on()
        self.lines, before = e.fuse(self.widened(self.lines)), e.fuse(before)
        used = set(re.findall(r"(?<![.\w])\w+\b(?!=)", " ".join(self.lines)))  # but for methods and keywords
        self.zipped = {name: steps for name, steps in self.zipped.items() if name in used}
        made = set(re.findall(r"^ +(\w+) = ", "\n".join(self.lines), re.MULTILINE))
        stale = used & e.walked - self.zipped.keys() - made
        if stale:  # they hold what another loop left in them
            raise PlanError(f"a loop reads variables of another: {', '.join(sorted(stale))}")
        e.walked |= self.zipped.keys()
        each = "for each step" + (", from the last to the first" if e.reverse else "")
        if not before:
            e.run.append(f"# {each}")
            self.walk("", e.run)
            return
        written = {e.place[node].buffer for node in tile if node in e.place}
        bytes_a_step = sum(math.prod(buffer.shape) * buffer.dtype.itemsize for buffer in written)
        steps = max(1, TILE // max(1, bytes_a_step))
        e.run += [
            f"# some steps at once, as many as stay in the cache, and then {each}",
            f"for start in range(0, T, {steps}):",
            f"    stop = min(start + {steps}, T)",
            "    now = slice(T - stop, T - start)" if e.reverse else "    now = slice(start, stop)",
        ]
        body = [*[f"{name} = {variable}[now]" for variable, name in tiled.items()], *before]
        self.walk("[start:stop]", body)
        e.run += [f"    {line}" for line in body]

    def compute(self, node: Symbol) -> None:
        """One step of a node, and of the sums over time that are added up as it goes."""
        e = self.e
        operands = [self.reference(e.number_behind(i, node)) for i in node.inputs]
        if node.op is matmul:
            self.products += 1
            matrices = [e.is_once(i) and i not in e.aligned for i in node.inputs]
            given = zip(node.inputs, matrices, operands, strict=True)
            operands = [e.solid(i) if same else name for i, same, name in given]
        elif is_ufunc(node) and not e.kernels:
            operands = [self.spread(i, node, name) for i, name in zip(node.inputs, operands, strict=True)]
        destination = self.reference(node) if node in e.place else None
        e.step_call(node, operands, destination, self.lines, "    ")
        value = destination or e.named(node)
        self.seen[node] = value
        for reader in e.plan.readers.get(node, ()):
            if reader.op is SUM_OVER_TIME and reader.inputs[0] is node:
                name = e.named(reader)
                e.run.append(f"{name} = zeros({tuple_of(node.shape)}, {e.dtype(node.dtype)})")
                total = f"{name}[:{value}.shape[0]]" if node in e.aligned else name
                self.lines.append(f"    add({total}, {value}, {total})")
                e.whole[reader] = (name, "run")

    def spread(self, symbol: Symbol, node: Symbol, name: str) -> str:
        """An operand of a step; what is the same at all of them in the step's shape, where that is small.

        A call on arrays of one shape is one run over memory, and a call that broadcasts starts anew for each row.
        """
        e = self.e
        same = e.is_once(symbol) and math.prod(symbol.shape) > 1 and symbol.shape != node.shape
        if not same or math.prod(node.shape) * symbol.dtype.itemsize > FULL or symbol in e.aligned:
            return name
        variable = e.spread(symbol, node.shape)
        if node not in e.aligned:
            return variable
        return self.walking(variable + "_now", self.steps(variable, "make", "first_rows"))

    def hand_on(self) -> None:
        """Copy the new states to where the next step finds them, unless they were computed there."""
        e = self.e
        for i in self.stage.carry:
            if i in e.plan.scratch and i not in e.plan.direct:
                leaf, new = e.body.carry[i], e.body.next[i]
                self.lines.append(f"    copyto({self.reference(leaf)}, {self.reference(new)})")

    def widened(self, lines: Sequence[str]) -> list[str]:
        """The same product for adjacent columns as one call, which broadcasts what they share."""
        result: list[str] = []
        run: list[Call] = []
        for line in [*lines, ""]:
            if run and not (isinstance(line, Call) and _goes_on(run, line)):
                result.append(self.one_call(run) if len(run) > 1 else run[0])
                run = []
            if isinstance(line, Call) and not self.e.kernels and self.may_widen(line):
                run.append(line)
            elif line:
                result.append(line)
        return result

    def may_widen(self, line: Call) -> bool:
        """Whether a call can be one for adjacent columns, and its buffer has the rows that the columns have."""
        packed = self.e.plan.packing is not None
        return _may_widen(line) and (not packed or line.steps[0][1][1].name in self.zipped)

    def one_call(self, run: Sequence[Call]) -> str:
        """The calls of a run, which do the same for adjacent columns, as one."""
        _, (first, shared), out = run[0].steps[0]
        last = run[-1].steps[0][2]
        if first.place is None or out.place is None or last.place is None:
            raise AssertionError("these have places")
        assert shared.place is not None  # noqa: S101  # `_may_widen` asked
        buffer = shared.place.buffer.name
        wide = self.e.fresh_name(buffer + "_wide")
        self.e.define(wide, f"{buffer}[:, None]", "make")
        if self.e.plan.packing is not None:
            wide = self.walking(wide + "_now", self.steps(wide, "make", "first_rows"))
        operand, target = (self.blocks(place, len(run)) for place in (first.place, out.place))
        return f"    {run[0].steps[0][0]}({operand}, {wide}, {target})"

    def blocks(self, place: Place, count: int) -> str:
        """Adjacent columns of a stack, as an axis of blocks, step by step."""
        e, buffer = self.e, place.buffer
        assert place.columns is not None  # noqa: S101  # `_may_widen` asked
        _, start, stop = place.columns
        key = ("blocks", buffer.name, start, stop, count)
        if key not in e.whole:
            width = stop - start
            shape = ("T", -1, count, width) if buffer.over_time else (-1, count, width)
            text = f"{buffer.name}[..., {start}:{start + count * width}].reshape({tuple_of(shape)})"
            name = e.fresh_name(buffer.name.removesuffix("_all") + "_blocks")
            e.whole[key] = e.define(name, text, e.home(buffer))
        variable, home = e.whole[key]
        kind = "views" if buffer.over_time else "packed_views"
        return self.walking(buffer.name.removesuffix("_all") + "_block", self.steps(variable, home, kind))

    def walk(self, part: str, lines: list[str]) -> None:
        """The loop itself, over all steps or a part of them."""
        if self.zipped:
            targets = ", ".join(self.zipped)
            lists = ", ".join(f"{steps}{part}" for steps in self.zipped.values())
            head = f"for {targets} in zip({lists}):" if len(self.zipped) > 1 else f"for {targets} in {lists}:"
        else:
            head = "for _ in range(start, stop):" if part else "for _ in range(T):"
        lines.append(head)
        lines.extend(self.lines or ["    pass"])

    # ---- how a step reads or writes a value ----------------------------------------------------------------------

    def reference(self, symbol: Symbol) -> str:
        """The variable that is a value of the step."""
        if symbol not in self.seen:
            self.seen[symbol] = self._reference(symbol)
        return self.seen[symbol]

    def _reference(self, symbol: Symbol) -> str:
        """Find what `reference` gives."""
        e = self.e
        if e.is_once(symbol):
            return self.of_step(symbol, *e.stack(symbol))
        place = e.place.get(symbol)
        if symbol in e.carry_place and e.stages.loop.get(symbol) == self.number:
            place = e.carry_place[symbol]
        if place is not None and not place.buffer.lead:
            name, home = place.buffer.name, e.home(place.buffer)
            if place.columns is not None:
                name = e.define(e.named(symbol), e.part_of(place), home)[0]
            return self.of_step(symbol, name, home)
        seen = self.view(symbol) if is_view(symbol) and e.is_made(symbol) else None
        if seen is not None:
            return seen
        variable, home = e.stack(symbol)
        return self.walked(symbol, self.steps(variable, home, "packed_views" if symbol in e.aligned else "views"))

    def of_step(self, symbol: Symbol, variable: str, home: str) -> str:
        """What stands at the same place at every step: of rows, the first, those that take part in the step."""
        if symbol not in self.e.aligned:
            return variable
        return self.walked(symbol, self.steps(variable, home, "first_rows"))

    def view(self, symbol: Symbol) -> str | None:
        """A view of what a step reads otherwise; None if it is a step of a view of the whole stack."""
        e, base = self.e, symbol.inputs[0]
        same, rows = self.is_constant(base), base in e.of_rows
        if self.has_stack(base) and not same and not (rows and symbol not in e.aligned):
            return None
        inner = self.reference(base)
        name, text = e.named(symbol), e.view(symbol, inner)
        if same and not rows:
            return e.define(name, text, "make" if inner in e.exports else "run")[0]
        self.lines.append(f"    {name} = {text}")
        return name

    def walked(self, symbol: Symbol, steps: str) -> str:
        """The loop variable that walks over a list."""
        e = self.e
        name = e.named(symbol)
        if name in self.zipped or name in e.exports or name in e.constants or e.is_once(symbol):
            name = e.fresh_name(name)
        self.zipped[name] = steps
        return name

    def walking(self, wish: str, steps: str) -> str:
        """The variable of this loop that walks over a list, which other loops may walk over too."""
        for name, walked in self.zipped.items():
            if walked == steps:
                return name
        name = self.e.fresh_name(wish)
        self.zipped[name] = steps
        return name

    def has_stack(self, symbol: Symbol) -> bool:
        """Whether all steps of a value stand somewhere."""
        e = self.e
        while e.is_made(symbol) and symbol not in e.place and is_view(symbol):
            symbol = symbol.inputs[0]
        return not e.is_made(symbol) or symbol in e.place or e.stages.loop.get(symbol) != self.number

    def is_constant(self, symbol: Symbol) -> bool:
        """Whether a value stands at the same place at every step."""
        e = self.e
        while True:
            place = e.place.get(symbol) or e.carry_place.get(symbol)
            if place is not None:
                return not place.buffer.lead
            if not e.is_made(symbol) or not is_view(symbol):
                return e.is_once(symbol)
            symbol = symbol.inputs[0]

    def steps(self, variable: str, home: str, kind: str) -> str:
        """The list of a stack's steps, in the order in which they are walked."""
        e = self.e
        key = ("steps", variable)
        if key not in e.whole:
            text = f"views({variable}[::-1])" if e.reverse else f"views({variable})"
            if kind != "views":
                text = f"{kind}({variable}, rows)" + ("[::-1]" if e.reverse else "")
            e.whole[key] = e.define(e.fresh_name(variable + "_steps"), text, home)
        return e.whole[key][0]


def _may_widen(line: Call) -> bool:
    """Whether a call multiplies columns of a stack with a buffer of one step, into columns of a stack."""
    if len(line.steps) != 1 or len(line.steps[0][1]) != 2:
        return False
    name, (stacked, shared), out = line.steps[0]
    return (
        name == "multiply"
        and len(out.shape) == 2
        and out.shape[0] > 1  # one row's columns are one run over memory each, and faster alone
        and math.prod(out.shape) > 0
        and stacked.shape == shared.shape == out.shape
        and all(p.exact and p.place is not None and p.place.part == "all" for p in (stacked, shared, out))
        and all(p.place.columns is not None and p.place.buffer.lead in ("T", "N") for p in (stacked, out) if p.place)
        and all(p.place.buffer.kind != "fresh" for p in (stacked, out) if p.place)
        and shared.place is not None
        and not shared.place.buffer.lead
        and shared.place.columns is None
    )


def _goes_on(run: Sequence[Call], line: Call) -> bool:
    """Whether a call does for the next columns what those of a run do, and reads nothing that they write."""
    if not _may_widen(line):
        return False
    (_, (a, x), c), (_, (b, y), d) = run[-1].steps[0], line.steps[0]
    written = [call.steps[0][2].place for call in run]
    return x.name == y.name and _adjacent(a, b) and _adjacent(c, d) and not any(_meet(b.place, w) for w in written)


def _adjacent(p: Located, q: Located) -> bool:
    """Whether q has the columns after those of p."""
    if p.place is None or q.place is None or p.place.columns is None or q.place.columns is None:
        return False
    return p.place.buffer is q.place.buffer and p.place.columns[2] == q.place.columns[1] and p.shape == q.shape


def _meet(p: Place | None, q: Place | None) -> bool:
    """Whether two places share memory."""
    return p is None or q is None or (p.buffer is q.buffer and overlap(p.columns, q.columns))
