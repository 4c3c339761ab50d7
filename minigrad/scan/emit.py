"""From a body to a program: the Python source that computes it.

The source has two functions. `make(T)` makes a frame: the buffers for T steps, and views of each step in them. `run`
computes in a frame. With lengths, whose sum is hardly ever the same twice, `make` is given `empty`, which hands out
memory of earlier frames. What a forward run keeps is lent to the frame of the backward run, which may write over it.
Values of all steps stand in stacks (T, ...), whose names end in `_all`; what a step alone needs stands in a buffer that
every step uses again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.scan.calls import Calls
from minigrad.scan.canonical import canonical, frozen_states, with_copies_of_states
from minigrad.scan.distribute import Packing, Stage, distribute, is_view, refuse_merged_rows
from minigrad.scan.plan import Plan
from minigrad.scan.rows import Alignment
from minigrad.scan.sums import final_expression
from minigrad.scan.symbol import CONSTANT, Symbol
from minigrad.scan.text import tuple_of
from minigrad.scan.timeloop import TimeLoop
from minigrad.scan.trace import Body, order_of
from minigrad.scan.verify import verify

TITLES = {"once": "the same for all steps", "batch": "all steps at once", "final": "after the last step"}


class Kept(NamedTuple):
    """Where a stacked result is after a run: `part` of the array at `place` of the frame or of the fresh ones."""

    source: str  # "fresh" or "frame"
    place: int
    part: str  # "all", "before", "after": of T, or of T + 1 of which the first or the last is the initial state
    lasting: bool  # a stack without gaps that is the same array after each run in a frame
    alone: bool  # in a buffer of its own


class Fresh(NamedTuple):
    """An array that every run gets anew: for results."""

    extra: int  # steps more than T
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: bool  # the rows of all steps without gaps, instead of T


class Source(NamedTuple):
    """A program's text and what it needs to run."""

    make: str
    run: str
    names: dict[str, Any]
    fresh: list[Fresh]
    kept: list[Kept]
    products_in_loops: list[int]
    bytes_a_step: int
    lent: list[bool]  # of the elems: those that `make` is given


def emit(
    body: Body,
    reverse: bool,
    wanted: Sequence[str],
    alignment: Alignment | None = None,
    kernels: bool = False,
    lent: Sequence[Symbol] = (),
    spent: Sequence[Symbol] = (),
) -> Source:
    """The program of a body. `wanted` says of each stacked result whether it is "fresh" or stays in the "frame".

    With an `alignment`, it works on packed rows; see `rows`. With `kernels`, neighbouring elementwise calls are one.
    `lent` are the elems whose stacks are the same at each run in a frame, `spent` those that may be written over.
    """
    body = canonical(body, wanted)
    packing: Packing | None = None
    if alignment is not None:
        body, wanted, packing = with_copies_of_states(body, wanted, alignment)
        refuse_merged_rows(order_of(body.results, body.leaves), packing)
    once = [*body.captured, *frozen_states(body)]
    plan = Plan(body, distribute(body, once, packing), wanted, packing, spent)
    verify(plan)
    return _Emitter(plan, once, reverse, kernels, lent).source()


class _Emitter(Calls):
    """Writes the stages of a plan one after the other."""

    def __init__(
        self, plan: Plan, once: Sequence[Symbol], reverse: bool, kernels: bool, lent: Sequence[Symbol]
    ) -> None:
        super().__init__(plan, once, reverse, kernels, lent)
        self.packed = plan.packing is not None
        self.products: list[int] = []

    def source(self) -> Source:
        """The program."""
        for buffer in self.plan.buffers():
            self.claim(buffer)
        self._first_states()
        tile: list[Symbol] = []
        for number, stage in enumerate(self.stages.stages):
            if stage.kind == "loop":
                loop = TimeLoop(self, number, stage)
                loop.emit(tile)
                self.products.append(loop.products)
                tile = []
            elif stage.tiled:
                tile = stage.nodes
            else:
                self._straight(stage)
        finals = ", ".join(self._final_state(leaf) for leaf in self.body.carry)
        sums = ", ".join(self._final_value(s) for s in self.body.summed)
        self.run.append(f"return [{finals}], [{sums}]")
        return self._text()

    def _straight(self, stage: Stage) -> None:
        """A stage without a loop."""
        start = len(self.run)
        for node in stage.nodes:
            if stage.kind == "final":
                self._final(node)
            else:
                self.compute(node, stage.kind, self.run)
        if len(self.run) > start:
            self.run.insert(start, f"# {TITLES[stage.kind]}")

    def _final(self, node: Symbol) -> None:
        """A node that is known after the last step only, unless a loop added it up."""
        if is_view(node) or node.op is CONSTANT or node in self.whole:
            return
        name = self.named(node)
        self.run.append(f"{name} = {final_expression(self, node)}")
        self.whole[node] = (name, "run")

    def _first_states(self) -> None:
        """Put the initial state where the first step finds it."""
        for leaf in self.body.carry:
            if leaf in self.frozen:
                continue
            buffer = self.carry_place[leaf].buffer
            where = buffer.name
            if buffer.lead:
                where += f"[{'T' if self.reverse else 0}, ...]"
            self.run.append(f"copyto({where}, {self.input_name(leaf)})")

    def _final_value(self, symbol: Symbol) -> str:
        """A summed result: an array of its own."""
        variable = self.stack(symbol)[0]
        owned = not is_view(symbol) and self.is_made(symbol) and symbol.op is not CONSTANT
        owned = owned and self.stages.place.get(symbol) == "final" and sum(s is symbol for s in self.body.summed) == 1
        return variable if owned else f"copy_to_shape({variable}, {tuple_of(symbol.shape)})"

    def _final_state(self, leaf: Symbol) -> str:
        """The state after the last step: an array of its own."""
        if leaf in self.frozen:
            return f"copy_to_shape({self.input_name(leaf)}, {tuple_of(leaf.shape)})"
        place = self.carry_place[leaf]
        if place.buffer.lead:
            return f"{place.buffer.name}[{0 if self.reverse else 'T'}, ...].copy()"
        return f"{place.buffer.name}.copy()"

    def _text(self) -> Source:
        """The functions, around the lines that were collected, of which those that nothing needs are dropped."""
        in_frame = {self.stack(symbol)[0] for symbol in self.plan.kept}
        lines = self.fuse(self.run)
        read = in_frame | _words(lines)
        self.exports = [name for name in self.exports if name in read]
        kept = []
        places = [(self.place.get(s) or self.carry_place[s]).buffer for s in self.body.stacked]
        for symbol in self.body.stacked:
            place = self.place.get(symbol) or self.carry_place[symbol]
            alone = place.part == "all" and places.count(place.buffer) == 1
            if place.buffer.kind == "fresh":
                kept.append(Kept("fresh", self.fresh.index(place.buffer), place.part, lasting=False, alone=alone))
            else:
                at = self.exports.index(self.stack(symbol)[0])
                kept.append(Kept("frame", at, "all", place.columns is None, alone))
        frame = "".join(f"{name}, " for name in self.exports)
        fresh = "".join(f"{b.name}, " for b in self.fresh)
        head = ["(" + frame + ") = frame"] if frame else []
        head += ["(" + fresh + ") = fresh"] if fresh else []
        given = [leaf for leaf in self.body.elems if leaf not in self.lent]
        leaves = {"carry": self.body.carry, "elems": given, "captured": self.body.captured}
        inputs = [
            "(" + "".join(f"{self.input_name(leaf)}, " for leaf in listed) + f") = {name}"
            for name, listed in leaves.items()
            if listed
        ]
        run = [*inputs, *head, *lines]
        rows = ", rows" if self.packed else ""
        memory = ", empty" if self.packed else ""
        lent = "".join(f"{self.input_name(leaf)}, " for leaf in self.lent)
        make = ["N = rows.total"] if rows else []
        make += [f"({lent}) = lent"] if lent else []
        make += [*_needed(self.make, read), f"return ({frame})"]
        return Source(
            f"def make(T{rows}{memory}{', lent' if lent else ''}):\n" + "".join(f"    {line}\n" for line in make),
            f"def run(T, carry, elems, captured, frame, fresh{rows}):\n" + "".join(f"    {line}\n" for line in run),
            self.constants,
            [Fresh(int(b.lead == "T + 1"), b.shape, b.dtype, b.lead == "N") for b in self.fresh],
            kept,
            self.products,
            self.bytes_a_step,
            [leaf in self.lent for leaf in self.body.elems],
        )


def _words(lines: Sequence[str]) -> set[str]:
    """The names in some lines, and more."""
    return set(re.findall(r"\w+", "\n".join(lines)))


def _needed(lines: Sequence[str], read: set[str]) -> list[str]:
    """The lines that define what is read, by others of them too."""
    read, needed = set(read), []
    for line in reversed(lines):
        name = line.partition(" = ")[0]
        if name in read or not name.isidentifier():  # which is a call that fills what is read
            needed.append(line)
            read |= _words([line])
    return needed[::-1]
