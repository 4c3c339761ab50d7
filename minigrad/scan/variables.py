"""The variables of a program: their names, which buffers they are, and how all steps of a value are seen."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from minigrad.ops.indexing import getitem_
from minigrad.ops.op import WEAK
from minigrad.ops.shape import reshape_, transpose_
from minigrad.scan.distribute import is_solid, is_view
from minigrad.scan.places import Buffer, Place
from minigrad.scan.plan import Plan
from minigrad.scan.symbol import CONSTANT, STOP, Symbol
from minigrad.scan.text import RESERVED, Number, brackets, tuple_of


class Variables:
    """The variables of a program in the making, and the lines that define them.

    Those of buffers, and of what is lent, are defined in `make` and exported to `run`; those of inputs and results in
    `run`.
    """

    def __init__(self, plan: Plan, once: Sequence[Symbol], reverse: bool, lent: Sequence[Symbol] = ()) -> None:
        self.plan = plan
        self.lent = dict.fromkeys(lent)
        self.body, self.stages = plan.body, plan.stages
        self.place, self.carry_place, self.frozen = plan.place, plan.carry_place, plan.frozen
        self.aligned = plan.packing.aligned if plan.packing else set()
        self.of_rows = plan.packing.of_rows if plan.packing else set()
        self.once = set(once)
        self.reverse = reverse
        self.taken: set[str] = set(RESERVED)
        self.name_of: dict[tuple[Symbol, str], str] = {}
        self.constants: dict[str, Any] = {}
        self.make: list[str] = []
        self.run: list[str] = []
        self.exports: list[str] = []
        self.fresh: list[Buffer] = []
        self.bytes_a_step = 0
        self.whole: dict[Hashable, tuple[str, str]] = {}  # variable, and whether "make" or "run" defines it
        for leaf in [*self.body.elems, *self.body.captured, *self.body.carry]:
            name = self.input_name(leaf)
            if leaf not in self.carry_place:
                self.whole[leaf] = (name, "make" if leaf in self.lent else "run")
        self.exports += [self.input_name(leaf) for leaf in self.lent]

    # ---- names -------------------------------------------------------------------------------------------------

    def fresh_name(self, wish: str) -> str:
        """A name that nothing else has, if possible the one wished for."""
        wish = re.sub(r"\W", "_", wish)
        if not wish or wish[0].isdigit():
            wish = "v" + wish
        name, n = wish, 1
        while name in self.taken:
            n += 1
            name = f"{wish}{n}" if not wish[-1].isdigit() else f"{wish}_{n}"
        self.taken.add(name)
        return name

    def named(self, symbol: Symbol, suffix: str = "") -> str:
        """The name of a value of one step; with a suffix, of something else that has to do with it."""
        key = (symbol, suffix)
        if key not in self.name_of:
            wish = self.named(symbol) + suffix if suffix else symbol.name or symbol.op.name.rstrip("_")
            self.name_of[key] = self.fresh_name(wish)
        return self.name_of[key]

    def whole_name(self, symbol: Symbol) -> str:
        """The name of all steps of a value."""
        return self.named(symbol, "_all")

    def input_name(self, leaf: Symbol) -> str:
        """The name of what a run is given for a leaf."""
        if leaf in self.carry_place or leaf in self.frozen:
            return self.named(leaf, "_init")
        return self.named(leaf) if leaf in self.once else self.whole_name(leaf)

    def const(self, value: Any, wish: str) -> str:
        """A name for an object that the program uses."""
        for name, known in self.constants.items():
            if known is value:
                return name
        name = self.fresh_name(wish)
        self.constants[name] = value
        return name

    def dtype(self, dtype: np.dtype[Any]) -> str:
        """A name for a dtype."""
        return self.const(dtype, dtype.name)

    def constant(self, symbol: Symbol) -> str:
        """A name for a constant of the body."""
        value = symbol.static["value"]
        if value.__class__ not in WEAK:
            return self.const(value, "table")
        return self.number(value, symbol.dtype)

    def number(self, value: Any, dtype: np.dtype[Any]) -> str:
        """A name for a number of a dtype."""
        number = Number(value, dtype)
        for name, known in self.constants.items():
            if isinstance(known, Number) and known.key == number.key:
                return name
        text = re.sub(r"\W", "_", repr(value)).strip("_")
        return self.const(number, "minus_" + text if repr(value).startswith("-") else "n" + text)

    # ---- buffers -----------------------------------------------------------------------------------------------

    def claim(self, buffer: Buffer) -> None:
        """Name a buffer, and have it made."""
        owner = buffer.owner
        if buffer.kind == "lent":
            buffer.name = self.input_name(owner)
            return
        if owner in self.carry_place:
            buffer.name = self.fresh_name(self.named(owner) + ("_states" if buffer.lead else "_now"))
        else:
            buffer.name = self.whole_name(owner) if buffer.lead else self.named(owner)
        if buffer.kind == "fresh":
            self.fresh.append(buffer)
            return
        self.bytes_a_step += bool(buffer.lead) * math.prod(buffer.shape) * buffer.dtype.itemsize
        self.allocate(buffer.name, buffer.lead, buffer.shape, buffer.dtype)

    def allocate(self, name: str, lead: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Have an array made."""
        sizes = "".join(f"{n}, " for n in [*([lead] if lead else []), *(shape[1:] if lead == "N" else shape)])
        self.make.append(f"{name} = empty(({sizes.rstrip()}), {self.dtype(dtype)})")
        self.exports.append(name)

    def home(self, buffer: Buffer) -> str:
        """The function that defines a buffer."""
        return "run" if buffer.kind == "fresh" else "make"

    def define(self, name: str, text: str, home: str) -> tuple[str, str]:
        """Define a variable."""
        if home == "make":
            self.make.append(f"{name} = {text}")
            self.exports.append(name)
        else:
            self.run.append(f"{name} = {text}")
        return name, home

    def part_of(self, place: Place) -> str:
        """A part of a stack as an expression."""
        text = place.buffer.name
        first = (place.part == "before") != self.reverse
        if place.part != "all":
            text += "[:-1]" if first else "[1:]"
        if place.columns is not None:
            axis, start, stop = place.columns
            text += brackets([slice(None)] * (axis + place.buffer.over_time) + [slice(start, stop)])
        return text

    # ---- values as a whole: stacks, and what is the same for all steps -------------------------------------------

    def is_once(self, symbol: Symbol) -> bool:
        """Whether there is one value for all steps."""
        return self.stages.place.get(symbol) in ("once", "final") or symbol in self.once or symbol.op is CONSTANT

    def is_made(self, symbol: Symbol) -> bool:
        """Whether a value is none of the inputs."""
        return symbol not in self.plan.leaves

    def stack(self, symbol: Symbol) -> tuple[str, str]:
        """The variable that holds all steps of a value (or the one value for all), and where it is defined."""
        if symbol not in self.whole:
            self.whole[symbol] = self._stack(symbol)
        return self.whole[symbol]

    def _stack(self, symbol: Symbol) -> tuple[str, str]:
        """Define what `stack` gives."""
        if symbol.op is CONSTANT:
            return self.constant(symbol), "make"
        if symbol in self.carry_place:
            place = self.carry_place[symbol]
            name = self.fresh_name(self.named(symbol) + "_before")
            return self.define(name, self.part_of(place), self.home(place.buffer))
        if symbol in self.place:
            place = self.place[symbol]
            if place.part == "all" and place.columns is None and place.buffer.kind != "lent":
                return place.buffer.name, self.home(place.buffer)
            return self.define(self.whole_name(symbol), self.part_of(place), self.home(place.buffer))
        if not is_view(symbol) or not self.is_made(symbol):
            raise AssertionError(f"{symbol!r} is not computed yet")
        variable, home = self.stack(symbol.inputs[0])
        if self.is_once(symbol):
            return self.define(self.named(symbol), self.view(symbol, variable), home)
        return self.define(self.whole_name(symbol), self.batched_view(symbol, variable), home)

    def view(self, node: Symbol, variable: str) -> str:
        """A view of one array."""
        if node.op is STOP:
            return variable
        static = node.static
        if node.op is transpose_:
            return f"{variable}.transpose({tuple_of(static['axes'])})"
        if node.op is getitem_:
            parts = static["index"]
            if node in self.aligned and parts[0].__class__ is slice:
                parts = (slice(None), *parts[1:])  # all of the rows that there are
            return variable + brackets(parts)
        shape: list[Any] = list(node.shape)
        if node in self.aligned:
            shape[0] = f"{variable}.shape[0]"
        elif node.inputs[0] in self.of_rows and node.op is reshape_:
            shape[0] = -1
        if node.op is reshape_:
            return f"{variable}.reshape({tuple_of(shape)})"
        return f"broadcast_to({variable}, {tuple_of(shape)})"

    def batched_view(self, node: Symbol, variable: str) -> str:
        """The same view of all steps."""
        if node.op is STOP:
            return variable
        if node.inputs[0] in self.of_rows:
            return self.view(node, variable)  # rows of many steps are rows
        static = node.static
        if node.op is getitem_:
            return variable + brackets((slice(None), *static["index"]))
        if node.op is reshape_:
            return f"{variable}.reshape({tuple_of(('T', *node.shape))})"
        if node.op is transpose_:
            return f"{variable}.transpose({tuple_of((0, *[a + 1 for a in static['axes']]))})"
        wide = self.widened(variable, len(node.inputs[0].shape), len(node.shape))
        return f"broadcast_to({wide}, {tuple_of(('T', *node.shape))})"

    def widened(self, variable: str, rank: int, wanted: int) -> str:
        """A stack with axes of size 1 behind time, so that steps broadcast as they did one by one."""
        if rank >= wanted:
            return variable
        return variable + brackets([slice(None)] + [None] * (wanted - rank) + [Ellipsis])

    def rows(self, symbol: Symbol, width: int) -> str:
        """A stack as a matrix of rows."""
        variable, home = self.stack(symbol)
        if len(symbol.shape) == 1:
            return variable
        place = self.place.get(self.plan.base(symbol))
        solid = is_solid(symbol) and (place is None or place.columns is None)
        return self.rows_of(variable, width, home if solid else "run")

    def rows_of(self, variable: str, width: int, home: str) -> str:
        """An array as a matrix of rows."""
        key = ("rows", variable)
        if key not in self.whole:
            self.whole[key] = self.define(self.fresh_name(variable + "_rows"), f"rows_of({variable}, {width})", home)
        return self.whole[key][0]

    def solid(self, symbol: Symbol) -> str:
        """A matrix that every step multiplies by, contiguous."""
        variable = self.stack(symbol)[0]
        if not (is_view(symbol) and self.is_made(symbol)):
            return variable
        key = ("solid", symbol)
        if key not in self.whole:
            name = self.fresh_name(self.named(symbol) + "_solid")
            self.allocate(name, "", symbol.shape, symbol.dtype)
            self.run.append(f"copyto({name}, {variable})")
            self.whole[key] = (name, "make")
        return self.whole[key][0]

    def spread(self, symbol: Symbol, shape: tuple[int, ...]) -> str:
        """What is the same at all steps, broadcast to a shape and contiguous."""
        key = ("spread", symbol, shape)
        if key not in self.whole:
            variable = self.stack(symbol)[0]
            name = self.fresh_name(variable + "_spread")
            self.allocate(name, "", shape, symbol.dtype)
            (self.make if symbol.op is CONSTANT else self.run).append(f"copyto({name}, {variable})")
            self.whole[key] = (name, "make")
        return self.whole[key][0]

    def ones(self, like: Symbol) -> str:
        """A one for each row of all steps of a value."""
        packed = like in self.aligned
        rows = " * ".join(map(str, ["N", *like.shape[1:-1]] if packed else ["T", *like.shape[:-1]]))
        key = ("ones", rows, like.dtype.char)
        if key not in self.whole:
            name = self.fresh_name("ones")
            self.allocate(name, rows, (), like.dtype)
            self.make.append(f"{name}.fill(1)")
            self.whole[key] = (name, "make")
        return self.whole[key][0]
