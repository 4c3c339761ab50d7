"""From stages to a program: where every value is kept, and the Python source that computes it.

The source has two functions. `make(T)` makes a frame: the buffers for T steps, and views of each step in them. `run`
computes in a frame. Values of all steps stand in stacks (T, ...), whose names end in `_all`; what a step alone needs
stands in a buffer that every step uses again.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.ops.elementwise import power
from minigrad.ops.indexing import getitem_, scatter_add
from minigrad.ops.linalg import matmul
from minigrad.ops.op import WEAK
from minigrad.ops.reductions import sum_
from minigrad.ops.shape import broadcast_to_, concatenate_, reshape_, transpose_
from minigrad.ops.where import where_
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import (
    COPY,
    PRODUCT_OVER_TIME,
    ROWS_OVER_TIME,
    SCATTER_OVER_TIME,
    UFUNCS,
    Packing,
    Stage,
    batched_static,
    cycles,
    distribute,
    index_rule,
    is_solid,
    is_view,
    once_nodes,
)
from minigrad.scan.kernels import Call, Located, call, fused
from minigrad.scan.plan import Buffer, Place, Plan, pieces
from minigrad.scan.rows import Alignment, aligned, is_number
from minigrad.scan.symbol import CONSTANT, STOP, Slot, Symbol, filled, is_elementwise
from minigrad.scan.trace import PICKED, Body, order_of

TILE = 512 * 1024
"""Bytes that a tile of steps may touch."""


class Kept(NamedTuple):
    """Where a stacked result is found after a run: part `part` of array `index` of the frame or of the fresh ones."""

    source: str  # "fresh" or "frame"
    index: int
    part: str  # "all", "before", "after": of T, or of T + 1 of which the first or the last is the initial state


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


def emit(
    body: Body,
    once: Sequence[Symbol],
    reverse: bool,
    wanted: Sequence[str],
    names: dict[Symbol, str],
    alignment: Alignment | None = None,
    kernels: bool = False,
) -> Source:
    """The program of a body. `wanted` says of each stacked result whether it is "fresh" or stays in the "frame".

    With an `alignment`, it works on packed rows; see `rows`. With `kernels`, neighbouring elementwise calls are one.
    """
    return _Emitter(body, once, reverse, wanted, names, alignment, kernels).source()


class _Emitter:
    def __init__(
        self,
        body: Body,
        once: Sequence[Symbol],
        reverse: bool,
        wanted: Sequence[str],
        names: dict[Symbol, str],
        alignment: Alignment | None,
        kernels: bool,
    ) -> None:
        self.kernels = kernels
        self.body, self.wanted = canonical(body, wanted)
        self.row_count = alignment.rows if alignment else -1
        packing = None
        if alignment is not None:
            self.body, self.wanted, packing = with_copies_of_states(self.body, self.wanted, alignment)
        self.aligned = packing.aligned if packing else set()
        self.of_rows = packing.of_rows if packing else set()
        self.frozen = {leaf for leaf, new in zip(self.body.carry, self.body.next, strict=True) if leaf is new}
        self.once_leaves = [*once, *self.frozen]
        self.reverse = reverse
        self.stages = distribute(self.body, self.once_leaves, packing)
        self.plan = Plan(self.body, self.stages, self.wanted, self.frozen, packing)
        self.place, self.carry_place = self.plan.place, self.plan.carry_place
        self.given_names = names
        self.taken: set[str] = set(_RESERVED)
        self.name_of: dict[Symbol, str] = {}
        self.bytes_a_step = 0
        self.tile: dict[str, str] | None = None
        self.tile_bytes = 0
        self.make: list[str] = []
        self.run: list[str] = []
        self.exports: list[str] = []
        self.constants: dict[str, Any] = {}
        self.fresh: list[Buffer] = []
        self.whole: dict[Any, tuple[str, str]] = {}  # variable, and whether "make" or "run" defines it
        self.products: list[int] = []
        self.leaf_place = {leaf: ("carry", i) for i, leaf in enumerate(self.body.carry)}
        self.leaf_place |= {leaf: ("elem", i) for i, leaf in enumerate(self.body.elems)}
        self.leaf_place |= {leaf: ("captured", i) for i, leaf in enumerate(self.body.captured)}
        self.uid = itertools.count()

    # ---- names -------------------------------------------------------------------------------------------------

    def fresh_name(self, wish: str) -> str:
        wish = re.sub(r"\W", "_", wish)
        if not wish or wish[0].isdigit():
            wish = "v" + wish
        name, n = wish, 1
        while name in self.taken:
            n += 1
            name = f"{wish}{n}" if not wish[-1].isdigit() else f"{wish}_{n}"
        self.taken.add(name)
        return name

    def named(self, symbol: Symbol) -> str:
        """The name of a value of one step."""
        if symbol not in self.name_of:
            wish = self.given_names.get(symbol) or symbol.name or symbol.op.name.rstrip("_")
            self.name_of[symbol] = self.fresh_name(wish)
        return self.name_of[symbol]

    def const(self, value: Any, wish: str) -> str:
        """A name for an object that the program uses."""
        for name, known in self.constants.items():
            if known is value:
                return name
        name = self.fresh_name(wish)
        self.constants[name] = value
        return name

    # ---- the whole ---------------------------------------------------------------------------------------------

    def source(self) -> Source:
        self.inputs()
        for buffer in self.plan.buffers():
            self.claim(buffer)
        self.first_states()
        tile: list[Symbol] = []
        for number, stage in enumerate(self.stages.stages):
            if stage.kind == "loop":
                _Loop(self, number, stage).emit(tile)
                tile = []
            elif stage.tiled:
                tile = stage.nodes
            elif stage.nodes:
                title = {"once": "the same for all steps", "batch": "all steps at once", "final": "after the last step"}
                start = len(self.run)
                for node in stage.nodes:
                    self.compute(node, stage.kind, self.run, "")
                if len(self.run) > start:
                    self.run.insert(start, f"# {title[stage.kind]}")
        finals = ", ".join(self.final_state(i) for i in range(len(self.body.carry)))
        sums = ", ".join(self.final_value(s) for s in self.body.summed)
        self.run.append(f"return [{finals}], [{sums}]")
        return self.text()

    def text(self) -> Source:
        kept = []
        for symbol in self.body.stacked:
            place = self.place.get(symbol) or self.carry_place[symbol]
            if place.buffer.kind == "fresh":
                kept.append(Kept("fresh", self.fresh.index(place.buffer), place.part))
            else:
                kept.append(Kept("frame", self.exports.index(self.stack(symbol)[0]), "all"))
        frame = "".join(f"{name}, " for name in self.exports)
        fresh = "".join(f"{b.name}, " for b in self.fresh)
        head = ["(" + frame + ") = frame"] if frame else []
        head += ["(" + fresh + ") = fresh"] if fresh else []
        heads = [("carry", self.body.carry), ("elems", self.body.elems), ("captured", self.body.captured)]
        inputs = []
        for name, leaves in heads:
            if leaves:
                inputs.append("(" + "".join(f"{self.input_name(leaf)}, " for leaf in leaves) + f") = {name}")
        run = self.fuse([*inputs, *head, *self.run])
        rows = ", rows" if self.row_count >= 0 else ""
        make = [*(["N = rows.total"] if rows else []), *self.make, f"return ({frame})"]
        return Source(
            f"def make(T{rows}):\n" + "".join(f"    {line}\n" for line in make),
            f"def run(T, carry, elems, captured, frame, fresh{rows}):\n" + "".join(f"    {line}\n" for line in run),
            self.constants,
            [Fresh(int(b.lead == "T + 1"), b.shape, b.dtype, b.lead == "N") for b in self.fresh],
            kept,
            self.products,
            self.bytes_a_step,
        )

    def input_name(self, leaf: Symbol) -> str:
        kind, i = self.leaf_place[leaf]
        if kind == "carry":
            return self.name_of.setdefault(("init", leaf), self.fresh_name(self.named(leaf) + "_init"))  # type: ignore[arg-type]
        if leaf in self.once_set:
            return self.named(leaf)
        return self.whole_name(leaf)

    def whole_name(self, symbol: Symbol) -> str:
        key = ("all", symbol)
        if key not in self.name_of:
            self.name_of[key] = self.fresh_name(self.named(symbol) + "_all")  # type: ignore[index]
        return self.name_of[key]  # type: ignore[index]

    def inputs(self) -> None:
        self.once_set = set(self.once_leaves)
        for leaf in [*self.body.elems, *self.body.captured]:
            self.whole[leaf] = (self.input_name(leaf), "run")
        for leaf in self.body.carry:
            name = self.input_name(leaf)
            if leaf in self.frozen:
                self.whole[leaf] = (name, "run")

    # ---- where values are kept -----------------------------------------------------------------------------------

    def claim(self, buffer: Buffer) -> None:
        """Name a buffer, and have it made."""
        owner = buffer.owner
        if owner in self.plan.carry_place:
            buffer.name = self.fresh_name(self.named(owner) + ("_states" if buffer.lead else "_now"))
        else:
            buffer.name = self.whole_name(owner) if buffer.lead else self.named(owner)
        if buffer.kind == "fresh":
            self.fresh.append(buffer)
            return
        self.bytes_a_step += bool(buffer.lead) * math.prod(buffer.shape) * buffer.dtype.itemsize
        self.allocate(buffer.name, buffer.lead, buffer.shape, buffer.dtype)

    def allocate(self, name: str, lead: str, shape: tuple[int, ...], dtype: Any) -> None:
        sizes = ", ".join([lead] * bool(lead) + [str(n) for n in (shape[1:] if lead == "N" else shape)])
        sizes = f"({sizes},)" if sizes else "()"
        self.make.append(f"{name} = empty({sizes}, {self.dtype(dtype)})")
        self.exports.append(name)

    def dtype(self, dtype: np.dtype[Any]) -> str:
        return self.const(dtype, dtype.name)

    # ---- values as a whole: stacks, and what is the same for all steps --------------------------------------------

    def stack(self, symbol: Symbol) -> tuple[str, str]:
        """The variable that holds all steps of a value (or the one value for all), and where it is defined."""
        if symbol in self.whole:
            return self.whole[symbol]
        if symbol.op is CONSTANT:
            found = (self.constant(symbol), "make")
            self.whole[symbol] = found
            return found
        if symbol in self.carry_place:
            place = self.carry_place[symbol]
            found = self.define(
                self.fresh_name(self.named(symbol) + "_before"), self.part_of(place), self.home(place.buffer)
            )
        elif symbol in self.place:
            place = self.place[symbol]
            if place.part == "all" and place.columns is None:
                found = (place.buffer.name, self.home(place.buffer))
            else:
                found = self.define(self.whole_name(symbol), self.part_of(place), self.home(place.buffer))
        elif is_view(symbol) and symbol not in self.leaf_place:
            base = symbol.inputs[0]
            variable, home = self.stack(base)
            once = self.is_once(symbol)
            if once:
                wish, text = self.named(symbol), self.view(symbol, variable)
            else:
                wish, text = self.whole_name(symbol), self.batched_view(symbol, variable)
            found = self.define(wish, text, home)
        else:
            raise AssertionError(f"{symbol!r} is not computed yet")
        self.whole[symbol] = found
        return found

    def is_once(self, symbol: Symbol) -> bool:
        return self.stages.place.get(symbol) in ("once", "final") or symbol in self.once_set or symbol.op is CONSTANT

    def constant(self, symbol: Symbol) -> str:
        value = symbol.static["value"]
        if value.__class__ in WEAK:
            key = (repr(value), symbol.dtype)
            for name, known in self.constants.items():
                if getattr(known, "minigrad_key", None) == key:
                    return name
            text = re.sub(r"\W", "_", repr(value)).strip("_")
            name = self.fresh_name("minus_" + text if repr(value).startswith("-") else "n" + text)
            self.constants[name] = _Number(value, symbol.dtype, key)
            return name
        return self.const(value, "table")

    def home(self, buffer: Buffer) -> str:
        return "make" if buffer.kind == "frame" else "run"

    def define(self, name: str, text: str, home: str) -> tuple[str, str]:
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
            text += _brackets([slice(None)] * (axis + place.buffer.over_time) + [slice(start, stop)])
        return text

    def view(self, node: Symbol, variable: str) -> str:
        """A view of one array."""
        if node.op is STOP:
            return variable
        static = node.static
        if node.op is transpose_:
            return f"{variable}.transpose({_tuple(static['axes'])})"
        if node.op is getitem_:
            parts = static["index"]
            if node in self.aligned and parts[0].__class__ is slice:
                parts = (slice(None), *parts[1:])  # all of the rows that there are
            return variable + _brackets(parts)
        shape: list[Any] = list(node.shape)
        if node in self.aligned:
            shape[0] = f"{variable}.shape[0]"
        elif node.inputs[0] in self.of_rows and node.op is reshape_:
            shape[0] = -1
        return (
            f"{variable}.reshape({_tuple(shape)})"
            if node.op is reshape_
            else f"broadcast_to({variable}, {_tuple(shape)})"
        )

    def batched_view(self, node: Symbol, variable: str) -> str:
        """The same view of all steps."""
        if node.op is STOP:
            return variable
        if node.inputs[0] in self.of_rows:
            return self.view(node, variable)  # rows of many steps are rows
        static = node.static
        if node.op is getitem_:
            return variable + _brackets((slice(None), *static["index"]))
        if node.op is reshape_:
            return f"{variable}.reshape({_tuple(('T', *node.shape))})"
        if node.op is transpose_:
            return f"{variable}.transpose({_tuple((0, *[a + 1 for a in static['axes']]))})"
        aligned = self.aligned_text(variable, len(node.inputs[0].shape), len(node.shape))
        return f"broadcast_to({aligned}, {_tuple(('T', *node.shape))})"

    def aligned_text(self, variable: str, rank: int, wanted: int) -> str:
        """A stack with axes of size 1 behind time, so that steps broadcast as they did one by one."""
        return (
            variable
            if rank >= wanted or rank == wanted
            else variable + _brackets([slice(None)] + [None] * (wanted - rank) + [Ellipsis])
        )

    # ---- computing -------------------------------------------------------------------------------------------------

    def compute(self, node: Symbol, kind: str, lines: list[str], indent: str) -> None:
        """Emit the computation of a node for all steps ("batch") or once ("once", "final")."""
        if is_view(node) or node.op is CONSTANT:
            return
        stacked = [not self.is_once(i) for i in node.inputs]
        if kind == "final":
            self.compute_final(node, stacked)
            return
        rank = len(node.shape)
        operands = []
        for i, steps in zip(node.inputs, stacked, strict=True):
            i = self.number_behind(i, node)  # noqa: PLW2901
            variable, home = self.stack(i)
            packed = node in self.place and self.place[node].buffer.lead == "N"
            if i in self.aligned and not steps and (packed or (kind == "batch" and node in self.aligned)):
                variable = f"take_rows({variable}, rows)"
            elif steps and kind == "batch" and i not in self.aligned and (is_elementwise(node.op) or node.op is COPY):
                key = ("aligned", i, rank)
                if len(i.shape) < rank:
                    if key not in self.whole:
                        text = self.aligned_text(variable, len(i.shape), rank)
                        self.whole[key] = self.define(self.fresh_name(variable + "_wide"), text, home)
                    variable = self.whole[key][0]
            operands.append(self.in_tile(variable, i) if steps else variable)
        destination = None
        if node in self.place:
            destination = self.in_tile(self.stack(node)[0], node)
        if kind == "batch" and any(i in self.of_rows for i, steps in zip(node.inputs, stacked, strict=True) if steps):
            self.step_call(node, operands, destination, lines, "", self.whole_name(node))
            if destination is None:
                self.whole[node] = (self.whole_name(node), "run")
        elif kind == "batch":
            self.batch_call(node, operands, stacked, destination, lines)
        else:
            self.step_call(node, operands, destination, lines, "")
            if destination is None:
                self.whole[node] = (self.named(node), "run")

    def in_tile(self, variable: str, symbol: Symbol) -> str:
        """A stack, or in a tile those of its steps that are done now."""
        if self.tile is None:
            return variable
        if variable not in self.tile:
            self.tile[variable] = self.fresh_name(variable.removesuffix("_all") + "_now")
            self.tile_bytes += symbol.size * symbol.dtype.itemsize
        return self.tile[variable]

    def number_behind(self, symbol: Symbol, reader: Symbol) -> Symbol:
        """The number that was broadcast to all rows: there may be fewer of them."""
        of_rows = reader in self.aligned and (reader.op in (COPY, concatenate_) or is_elementwise(reader.op))
        if of_rows and symbol.op is broadcast_to_ and not symbol.inputs[0].shape and symbol not in self.leaf_place:
            return symbol.inputs[0]
        return symbol

    def batch_call(
        self, node: Symbol, operands: list[str], stacked: list[bool], destination: str | None, lines: list[str]
    ) -> None:
        op = node.op
        if op is matmul and self.flat_product(node, operands, stacked, destination, lines):
            return
        if op is matmul and not all(
            len(i.shape) >= 2 for i in node.inputs
        ):  # vectors: what the batch rule allows works with plain matmul
            self.assign(node, f"matmul({operands[0]}, {operands[1]})", destination, lines, "batch")
            return
        if op is concatenate_:
            self.join(node, operands, stacked, destination, lines, lead=True)
            return
        if op in (getitem_, scatter_add) and any(p.__class__ is Slot for p in node.static["index"]):
            self.assign(node, self.indexed(node, operands, stacked), destination, lines, "batch")
            return
        if op is sum_ and destination is not None:
            axes = tuple(a + 1 for a in node.static["axis"])
            lines.append(
                f"sum_of({operands[0]}, axis={_tuple(axes)}, keepdims={node.static['keepdims']}, out={destination})"
            )
            return
        if self.ufunc_call(node, operands, destination, lines, ""):
            return
        static = node.static if is_elementwise(op) else batched_static(node, stacked)
        assert static is not None  # noqa: S101  # distribute asked
        shape = static.get("shape")
        if shape is not None and shape[:1] == (-1,):
            static = {**static, "shape": ("T", *shape[1:])}
        self.assign(node, self.forward_call(node, operands, static), destination, lines, "batch")

    def flat_product(
        self, node: Symbol, operands: list[str], stacked: list[bool], destination: str | None, lines: list[str]
    ) -> bool:
        """All steps of `x @ W` as one product of two matrices."""
        a, b = node.inputs
        if stacked != [True, False] or len(b.shape) != 2 or destination is None or not a.shape:
            return False
        k, m = b.shape
        left = self.rows(a, k)
        right = self.solid(b)
        place = self.place[node]
        if place.columns is not None:
            return False
        out = self.rows_text(destination, m, self.stack(node)[1])
        lines.append(f"dot({left}, {right}, {out})")
        return True

    def rows(self, symbol: Symbol, width: int) -> str:
        """A stack as a matrix of rows."""
        variable, home = self.stack(symbol)
        if len(symbol.shape) == 1:
            return variable
        place = self.place.get(self.plan.base(symbol))
        solid = is_solid(symbol) and (place is None or place.columns is None)
        return self.rows_text(variable, width, home if solid else "run")

    def rows_text(self, variable: str, width: int, home: str) -> str:
        key = ("rows", variable)
        if key not in self.whole:
            self.whole[key] = self.define(self.fresh_name(variable + "_rows"), f"rows_of({variable}, {width})", home)
        return self.whole[key][0]

    def solid(self, symbol: Symbol) -> str:
        """A matrix that every step multiplies by, contiguous."""
        variable, home = self.stack(symbol)
        if not (is_view(symbol) and symbol not in self.leaf_place):
            return variable
        key = ("solid", symbol)
        if key not in self.whole:
            name = self.fresh_name(self.named(symbol) + "_solid")
            self.allocate(name, "", symbol.shape, symbol.dtype)
            self.run.append(f"copyto({name}, {variable})")
            self.whole[key] = (name, "make")
        return self.whole[key][0]

    def indexed(self, node: Symbol, operands: list[str], stacked: list[bool]) -> str:
        """Reading or adding at index arrays, for all steps."""
        once = {i for i, steps in zip(node.inputs, stacked, strict=True) if not steps}
        rule = index_rule(node, once)
        parts = []
        rank = max(len(node.inputs[p.place].shape) for p in node.static["index"])
        for part in node.static["index"]:
            array = node.inputs[part.place]
            text = operands[part.place]
            if rule == "all" and stacked[part.place]:
                text = self.aligned_text(text, len(array.shape), rank)
            parts.append(text)
        if rule == "all":
            parts.insert(0, f"step_numbers(T, {rank})")
        index = "(" + ", ".join(parts) + ",)"
        if node.op is getitem_:
            return f"{operands[0]}[{index}]"
        shape = _tuple(("T", *node.static["shape"]))
        return f"scatter_add({shape}, {self.dtype(node.dtype)}, {index}, {operands[0]})"

    def step_call(
        self,
        node: Symbol,
        operands: list[str],
        destination: str | None,
        lines: list[str],
        indent: str,
        name: str | None = None,
    ) -> None:
        """One evaluation, of one step or once."""
        op = node.op
        if op is matmul and destination is not None:
            a, b = node.inputs
            if not node.shape:
                lines.append(f"{indent}copyto({destination}, dot({operands[0]}, {operands[1]}))")
            elif len(a.shape) <= 2 and len(b.shape) <= 2 and a.dtype == b.dtype:
                lines.append(f"{indent}dot({operands[0]}, {operands[1]}, {destination})")
            else:
                lines.append(f"{indent}matmul({operands[0]}, {operands[1]}, {destination})")
            return
        if op is concatenate_ and destination is not None:
            self.join(node, operands, [True] * len(operands), destination, lines, lead=False, indent=indent)
            return
        if op is sum_ and destination is not None:
            axis, keepdims = node.static["axis"], node.static["keepdims"]
            lines.append(f"{indent}sum_of({operands[0]}, axis={_tuple(axis)}, keepdims={keepdims}, out={destination})")
            return
        if self.ufunc_call(node, operands, destination, lines, indent):
            return
        if op in (getitem_, scatter_add) and any(p.__class__ is Slot for p in node.static["index"]):
            index = (
                "("
                + ", ".join(operands[p.place] if p.__class__ is Slot else _part(p) for p in node.static["index"])
                + ",)"
            )
            if op is getitem_:
                text = f"asarray({operands[0]}[{index}])"
            else:
                shape = list(node.static["shape"])
                if node in self.aligned:
                    shape[0] = f"{operands[0]}.shape[0]"
                text = f"scatter_add({_tuple(shape)}, {self.dtype(node.dtype)}, {index}, {operands[0]})"
        elif op is scatter_add:
            parts, sizes = node.static["index"], list(node.static["shape"])
            if node in self.aligned:
                parts = (slice(None), *parts[1:]) if parts[0].__class__ is slice else parts
                sizes[0] = f"{operands[0]}.shape[0]"
            text = f"scatter_add({_tuple(sizes)}, {self.dtype(node.dtype)}, {_index(parts)}, {operands[0]})"
        else:
            text = self.forward_call(node, operands, node.static)
        if destination is not None:
            lines.append(f"{indent}copyto({destination}, {text})")
        else:
            lines.append(f"{indent}{name or self.named(node)} = {text}")

    def ufunc_call(
        self, node: Symbol, operands: list[str], destination: str | None, lines: list[str], indent: str
    ) -> bool:
        op = node.op
        if destination is None:
            return False
        at = [self.located(i, name) for i, name in zip(node.inputs, operands, strict=True)]
        to = self.located(node, destination)
        if op is COPY:
            if operands[0] != destination:
                lines.append(call(f"{indent}copyto({destination}, {operands[0]})", indent, ("copy", at, to)))
        elif op is where_:
            condition, x, y = operands
            chosen = f"{indent}copyto({destination}, {x}, where={condition})"
            if y != destination:
                chosen = f"{indent}copyto({destination}, {y}); {chosen.strip()}"
            lines.append(call(chosen, indent, ("where", at, to)))
        elif op.name in ("zeros_like", "ones_like"):
            value = int(op.name == "ones_like")
            lines.append(call(f"{indent}{destination}.fill({value})", indent, (f"fill_{value}", (), to)))
        elif op is power and node.inputs[1].op is CONSTANT and node.inputs[1].static["value"] == 2:
            lines.append(call(f"{indent}square({operands[0]}, {destination})", indent, ("square", at[:1], to)))
        elif op.name in UFUNCS:
            out = "out=" if op.name in ("maximum", "minimum") else ""  # NumPy asks for it
            text = f"{indent}{UFUNCS[op.name]}({', '.join(operands)}, {out}{destination})"
            lines.append(call(text, indent, (UFUNCS[op.name], at, to)))
        else:
            return False
        return True

    def located(self, symbol: Symbol, name: str) -> Located:
        """A variable and where its values stand."""
        base = self.plan.base(symbol)
        place = self.place.get(base) or self.carry_place.get(base)
        seen = self.plan.where(symbol) if base is not symbol else place
        exact = place is not None and seen is not None and seen.buffer is place.buffer
        return Located(name, symbol.shape, seen if exact else place, exact)

    def fuse(self, lines: Sequence[str]) -> list[str]:
        """Elementwise calls as kernels, if the backend makes some."""
        return fused(lines, self.const) if self.kernels else list(lines)

    def forward_call(self, node: Symbol, operands: list[str], static: dict[str, Any]) -> str:
        """An op's own forward function."""
        if node.op is PICKED:
            return f"{operands[0]}[{static['place']}]"
        if hasattr(node.op, "on_arrays"):  # a scan inside of this one
            rows = "None" if static["rows"] is None else self.const(static["rows"], "inner_rows")
            run = self.const(node.op.on_arrays, "scan")
            return f"{run}({', '.join(operands)}, steps={static['steps']}, rows={rows})"
        name = self.const(node.op.forward, node.op.name)
        if node.op is reshape_ and node.inputs[0] in self.of_rows and node not in self.aligned:
            return f"{operands[0]}.reshape({_tuple((-1, *node.shape[1:]))}).copy()"
        if node.op in (reshape_, broadcast_to_) and node.inputs[0] in self.aligned:
            first = f"{operands[0]}.shape[0]" if node in self.aligned else "-1"
            static = {"shape": (_Text(first), *static["shape"][1:])}
        elif node.op is getitem_ and node in self.aligned and static["index"][0].__class__ is slice:
            static = {"index": (slice(None), *static["index"][1:])}
        count = len(operands) - _slot_count(node.static)
        static = filled(static, [_Text(operand) for operand in operands]) if count != len(operands) else static
        options = "".join(f", {key}={_static(value, self.const)}" for key, value in static.items())
        return f"asarray({name}(xp, {', '.join(operands[:count])}{options}))"

    def join(
        self,
        node: Symbol,
        operands: list[str],
        stacked: list[bool],
        destination: str | None,
        lines: list[str],
        lead: bool,
        indent: str = "",
    ) -> None:
        """A concatenation: pieces that are not in their places yet are copied there."""
        assert destination is not None  # noqa: S101  # concatenations have places
        place = self.place[node]
        for (piece, columns), operand in zip(pieces(node), operands, strict=True):
            if self.place.get(piece) != place._replace(columns=columns):
                axis, start, stop = columns
                index = [slice(None)] * (axis + lead) + [slice(start, stop)]
                lines.append(f"{indent}copyto({destination}{_brackets(index)}, {operand})")

    def assign(self, node: Symbol, text: str, destination: str | None, lines: list[str], kind: str) -> None:
        if destination is not None:
            lines.append(f"copyto({destination}, {text})")
        else:
            name = self.whole_name(node)
            lines.append(f"{name} = {text}")
            self.whole[node] = (name, "run")

    # ---- after the last step -----------------------------------------------------------------------------------------

    def compute_final(self, node: Symbol, stacked: list[bool]) -> None:
        name = self.named(node)
        if node in self.whole:
            return
        if node.op is SUM_OVER_TIME:
            x = node.inputs[0]
            if x in self.aligned:
                what = "times_steps" if self.is_once(x) else "sum_of_steps"
                text = f"{what}({self.stack(x)[0]}, rows)"
            elif self.is_once(x):
                text = f"multiply({self.stack(x)[0]}, {self.dtype(node.dtype)}.type(T))"
            else:
                text = f"asarray(sum_of({self.stack(x)[0]}, axis=0))"
        elif node.op is PRODUCT_OVER_TIME:
            a, b = node.inputs
            text = self.product_over_time(a, b)
        elif node.op is ROWS_OVER_TIME:
            x = node.inputs[0]
            if x in self.aligned:
                keep, axis = node.static["keepdims"], node.static["axis"]
                text = f"asarray(sum_of({self.stack(x)[0]}, axis={_tuple(axis)}, keepdims={keep}))"
                text = text if 0 in axis else f"sum_of_steps({text}, rows)"
                self.run.append(f"{name} = {text}")
                self.whole[node] = (name, "run")
                return
            if self.is_once(x):
                total = f"sum_of({self.stack(x)[0]}, axis={_tuple(node.static['axis'])})"
                text = f"multiply({total}, {self.dtype(node.dtype)}.type(T)).reshape({_tuple(node.shape)})"
                self.run.append(f"{name} = {text}")
                self.whole[node] = (name, "run")
                return
            axes = (0, *[a + 1 for a in node.static["axis"]])
            keep = node.static["keepdims"]
            whole = set(node.static["axis"]) == set(range(len(x.shape) - 1)) and not keep and len(x.shape) > 1
            if whole:
                text = f"asarray(sum_of({self.rows(x, x.shape[-1])}, axis=0))"
            else:
                text = f"asarray(sum_of({self.stack(x)[0]}, axis={_tuple(axes)}))"
                if keep:
                    text += f".reshape({_tuple(node.shape)})"
        elif node.op is SCATTER_OVER_TIME:
            x, index = node.inputs
            shape, values = _tuple(node.static["shape"]), self.stack(x)[0]
            if self.is_once(index) and not self.is_once(x):
                values = f"sum_of({values}, axis=0)"
            elif self.is_once(x):
                steps = () if self.is_once(index) else ("T",)
                values = f"broadcast_to({values}, {_tuple((*steps, *x.shape))})"
            text = f"scatter_add({shape}, {self.dtype(node.dtype)}, ({self.stack(index)[0]},), {values})"
            if self.is_once(x) and self.is_once(index):
                text = f"multiply({text}, {self.dtype(node.dtype)}.type(T))"
        else:
            operands = [self.stack(i)[0] for i in node.inputs]
            if node.op is matmul:
                text = f"matmul({operands[0]}, {operands[1]})"
            elif node.op.name in UFUNCS:
                text = f"asarray({UFUNCS[node.op.name]}({', '.join(operands)}))"
            elif node.op is COPY:
                text = f"copy_to_shape({operands[0]}, {_tuple(node.shape)})"
            else:
                lines: list[str] = []
                self.step_call(node, operands, None, lines, "")
                self.run.extend(lines)
                self.whole[node] = (name, "run")
                return
        self.run.append(f"{name} = {text}")
        self.whole[node] = (name, "run")

    def product_over_time(self, a: Symbol, b: Symbol) -> str:
        """The sum over steps of a.T @ b: one product, of stacks or with what is the same at all steps taken out."""
        if a in self.of_rows or b in self.of_rows:
            left, right = (
                f"take_rows({self.stack(x)[0]}, rows)" if self.is_once(x) else self.rows(x, x.shape[-1]) for x in (a, b)
            )
            return f"dot({left}.T, {right})"
        left, right = self.stack(a)[0], self.stack(b)[0]
        if self.is_once(a) and self.is_once(b):
            return f"multiply(dot({left}.T, {right}), {self.dtype(a.dtype)}.type(T))"
        if self.is_once(a):
            return f"dot({left}.T, sum_of({right}, axis=0))"
        if self.is_once(b):
            return f"dot(sum_of({left}, axis=0).T, {right})"
        return f"dot({self.rows(a, a.shape[-1])}.T, {self.rows(b, b.shape[-1])})"

    def final_value(self, symbol: Symbol) -> str:
        """A summed result: an array of its own."""
        variable = self.stack(symbol)[0]
        owned = not is_view(symbol) and symbol not in self.leaf_place and symbol.op is not CONSTANT
        owned = owned and self.stages.place.get(symbol) == "final" and sum(s is symbol for s in self.body.summed) == 1
        return variable if owned else f"copy_to_shape({variable}, {_tuple(symbol.shape)})"

    def final_state(self, i: int) -> str:
        leaf = self.body.carry[i]
        if leaf in self.frozen:
            return f"copy_to_shape({self.input_name(leaf)}, {_tuple(leaf.shape)})"
        place = self.carry_place[leaf]
        if place.buffer.lead:
            return f"{place.buffer.name}[{0 if self.reverse else 'T'}, ...].copy()"
        return f"{place.buffer.name}.copy()"

    # ---- loops -------------------------------------------------------------------------------------------------------

    def first_states(self) -> None:
        """Put the initial state where the first step finds it."""
        for leaf in self.body.carry:
            if leaf in self.frozen:
                continue
            buffer = self.carry_place[leaf].buffer
            where = buffer.name
            if buffer.lead:
                where += f"[{'T' if self.reverse else 0}, ...]"
            self.run.append(f"copyto({where}, {self.input_name(leaf)})")


class _Loop:
    """One loop over time: what each of its steps reads is a view made once, or taken from a list of views."""

    def __init__(self, emitter: _Emitter, number: int, stage: Stage) -> None:
        self.e = emitter
        self.number = number
        self.stage = stage
        self.zipped: dict[str, str] = {}  # loop variable -> list
        self.seen: dict[Any, str] = {}
        self.lines: list[str] = []
        self.products = 0

    def emit(self, tile: Sequence[Symbol]) -> None:
        e = self.e
        before: list[str] = []
        e.tile = {} if tile else None
        for node in tile:
            e.compute(node, "batch", before, "")
        tiled, e.tile = e.tile or {}, None
        sums = []
        for node in self.stage.nodes:
            if is_view(node):
                continue
            operands = [self.reference(e.number_behind(i, node)) for i in node.inputs]
            if node.op is matmul:
                self.products += 1
                operands = [
                    e.solid(i) if e.is_once(i) else operand for i, operand in zip(node.inputs, operands, strict=True)
                ]
            place = e.place.get(node)
            destination = None if place is None else self.reference(node, write=True)
            e.step_call(node, operands, destination, self.lines, "    ")
            if destination is None:
                self.seen[node] = e.named(node)
            for reader in e.plan.readers.get(node, ()):
                if reader.op is SUM_OVER_TIME and reader.inputs[0] is node:
                    name = e.named(reader)
                    e.run.append(f"{name} = zeros({_tuple(node.shape)}, {e.dtype(node.dtype)})")
                    sums.append(reader)
                    value = destination or e.named(node)
                    total = f"{name}[:{value}.shape[0]]" if node in e.aligned else name
                    self.lines.append(f"    add({total}, {value}, {total})")
                    e.whole[reader] = (name, "run")
        for i in self.stage.carry:
            if i in e.plan.scratch and i not in e.plan.direct:
                leaf, new = e.body.carry[i], e.body.next[i]
                self.lines.append(f"    copyto({self.reference(leaf)}, {self.reference(new)})")
        self.lines, before = e.fuse(self.widened(self.lines)), e.fuse(before)
        used = set(re.findall(r"\w+", " ".join(self.lines)))
        self.zipped = {name: steps for name, steps in self.zipped.items() if name in used}
        e.products.append(self.products)
        each = "for each step" + (", from the last to the first" if e.reverse else "")
        if not before:
            e.run.append(f"# {each}")
            self.walk("", e.run)
            return
        tile_of = [f"{name} = {variable}[now]" for variable, name in tiled.items()]
        steps = max(1, TILE // max(1, e.tile_bytes))
        e.tile_bytes = 0
        e.run += [
            f"# some steps at once, as many as stay in the cache, and then {each}",
            f"for start in range(0, T, {steps}):",
            f"    stop = min(start + {steps}, T)",
            "    now = slice(T - stop, T - start)" if e.reverse else "    now = slice(start, stop)",
        ]
        body = [*tile_of, *before]
        self.walk("[start:stop]", body)
        e.run += [f"    {line}" for line in body]

    def widened(self, lines: Sequence[str]) -> list[str]:
        """The same product for adjacent columns as one call, which broadcasts what they share."""
        result: list[str] = []
        run: list[Call] = []
        for line in [*lines, ""]:
            if run and not (isinstance(line, Call) and _beside(run[-1], line)):
                result.append(self.one_call(run) if len(run) > 1 else run[0])
                run = []
            if isinstance(line, Call) and not self.e.kernels and _may_widen(line):
                run.append(line)
            elif line:
                result.append(line)
        return result

    def one_call(self, run: Sequence[Call]) -> str:
        _, (first, shared), out = run[0].steps[0]
        last = run[-1].steps[0][2]
        if first.place is None or out.place is None or last.place is None:
            raise AssertionError("these have places")
        wide = self.e.fresh_name(shared.name + "_wide")
        self.e.define(wide, f"{shared.name}[:, None]", "make")
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
            text = f"{buffer.name}[:, :, {start}:{start + count * width}].reshape({_tuple(('T', -1, count, width))})"
            variable, home = e.define(e.fresh_name(buffer.name.removesuffix("_all") + "_blocks"), text, e.home(buffer))
            name = e.fresh_name(buffer.name.removesuffix("_all") + "_block")
            self.zipped[name] = self.steps(variable, home, "views")
            e.whole[key] = (name, home)
        return e.whole[key][0]

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

    def reference(self, symbol: Symbol, write: bool = False) -> str:
        """How a step reads (or writes) a value."""
        e = self.e
        if symbol in self.seen:
            return self.seen[symbol]
        if e.is_once(symbol):
            variable, home = e.stack(symbol)
            return self.first_rows(symbol, variable, home) if symbol in e.aligned else variable
        place = e.place.get(symbol)
        if symbol in e.carry_place and e.stages.loop.get(symbol) == self.number:
            place = e.carry_place[symbol]
        if place is not None and not place.buffer.lead:
            name = place.buffer.name
            if place.columns is not None:
                name = e.define(e.named(symbol), e.part_of(place), e.home(place.buffer))[0]
            if symbol in e.aligned:
                return self.first_rows(symbol, name, e.home(place.buffer))
            self.seen[symbol] = name
            return name
        if is_view(symbol) and symbol not in e.leaf_place:
            base = symbol.inputs[0]
            if base in e.of_rows and (symbol not in e.aligned or self.is_constant(base) or not self.has_stack(base)):
                inner = self.reference(base)
                name = e.named(symbol)
                self.lines.append(f"    {name} = {e.view(symbol, inner)}")
                self.seen[symbol] = name
                return name
            if self.is_constant(base) or not self.has_stack(base):
                inner = self.reference(base)
                if self.is_constant(base):
                    home = "make" if inner in e.exports else "run"
                    name = e.define(e.named(symbol), e.view(symbol, inner), home)[0]
                    self.seen[symbol] = name
                    return name
                name = e.named(symbol)  # of something made anew at each step
                self.lines.append(f"    {name} = {e.view(symbol, inner)}")
                self.seen[symbol] = name
                return name
        variable, home = e.stack(symbol)
        steps = self.steps(variable, home, "packed_views" if symbol in e.aligned else "views")
        return self.walked(symbol, steps)

    def first_rows(self, symbol: Symbol, variable: str, home: str) -> str:
        """The rows of a buffer that take part in a step."""
        return self.walked(symbol, self.steps(variable, home, "first_rows"))

    def walked(self, symbol: Symbol, steps: str) -> str:
        """The loop variable that walks over a list."""
        e = self.e
        name = e.named(symbol)
        if name in self.zipped or name in e.exports or name in e.constants or e.is_once(symbol):
            name = e.fresh_name(name)
        self.zipped[name] = steps
        self.seen[symbol] = name
        return name

    def has_stack(self, symbol: Symbol) -> bool:
        """Whether all steps of a value stand somewhere."""
        e = self.e
        while symbol not in e.leaf_place and symbol not in e.place and is_view(symbol):
            symbol = symbol.inputs[0]
        return symbol in e.leaf_place or symbol in e.place or e.stages.loop.get(symbol) != self.number

    def is_constant(self, symbol: Symbol) -> bool:
        """Whether a value stands at the same place at every step."""
        e = self.e
        while True:
            place = e.place.get(symbol) or e.carry_place.get(symbol)
            if place is not None:
                return not place.buffer.lead
            if symbol in e.leaf_place or not is_view(symbol):
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
        and math.prod(out.shape) > 0
        and stacked.shape == shared.shape == out.shape
        and all(p.exact and p.place is not None and p.place.part == "all" for p in (stacked, shared, out))
        and all(p.place.columns is not None and p.place.buffer.lead == "T" for p in (stacked, out) if p.place)
        and all(p.place.buffer.kind == "frame" for p in (stacked, out) if p.place)
        and shared.place is not None
        and not shared.place.buffer.lead
        and shared.place.columns is None
    )


def _beside(one: Call, other: Call) -> bool:
    """Whether a call does for the next columns what another does."""
    if not _may_widen(other):
        return False
    (_, (a, x), c), (_, (b, y), d) = one.steps[0], other.steps[0]

    def adjacent(p: Located, q: Located) -> bool:
        if p.place is None or q.place is None or p.place.columns is None or q.place.columns is None:
            return False
        return p.place.buffer is q.place.buffer and p.place.columns[2] == q.place.columns[1] and p.shape == q.shape

    return x.name == y.name and adjacent(a, b) and adjacent(c, d)


# ---- bodies in a form with a place for everything ------------------------------------------------------------------


def canonical(body: Body, wanted: Sequence[str]) -> tuple[Body, list[str]]:
    """A body in which every next state and stacked result is computed, once, into a place of its own."""
    owned: set[Symbol] = set()
    leaves = set(body.leaves)

    def own(symbol: Symbol, like: Symbol) -> Symbol:
        plain = symbol not in leaves and symbol.op is not CONSTANT and not is_view(symbol)
        if plain and symbol not in owned and _depends_on_steps(symbol, body):
            owned.add(symbol)
            return symbol
        return _copy(symbol, like)

    new = [n if n is leaf else own(n, leaf) for n, leaf in zip(body.next, body.carry, strict=True)]
    kinds: dict[Symbol, str] = {}
    stacked = []
    position = {n: i for i, n in reversed(list(enumerate(body.next)))}
    carried = {leaf: i for i, leaf in enumerate(body.carry)}
    used: set[Symbol] = set()
    for s, want in zip(body.stacked, wanted, strict=True):
        frozen = s in position and new[position[s]] in leaves
        if s in position and not frozen and new[position[s]] not in used:
            target = new[position[s]]  # the states themselves
        elif (s in carried and want == "frame" and new[carried[s]] is not s) or (
            s in owned and s not in used and s not in position
        ):
            target = s
        else:
            target = own(s, s)
        used.add(target)
        kinds[target] = want
        stacked.append(target)
    return body._replace(next=new, stacked=stacked), list(wanted)


def with_copies_of_states(body: Body, wanted: Sequence[str], alignment: Alignment) -> tuple[Body, list[str], Packing]:
    """A body over packed rows, in which only a state's own loop reads it, and all others a copy from before each step.

    Rows come and go, so a state stands in one buffer of all rows, of which each step changes the first.
    """
    order = order_of(body.results, body.leaves)
    frozen = {leaf for leaf, new in zip(body.carry, body.next, strict=True) if leaf is new}
    loop = cycles(body, order, once_nodes(order, [*body.captured, *frozen]))
    before = {leaf: _copy(leaf, leaf) for leaf in body.carry if leaf not in frozen}
    new: dict[Symbol, Symbol] = {leaf: leaf for leaf in body.leaves}
    seen_before = dict(before)

    def outside(symbol: Symbol) -> Symbol:
        """What a node outside of a state's loop reads in its place, or in that of a view of it."""
        if symbol not in seen_before:
            inner = outside(symbol.inputs[0]) if symbol not in leaves and is_view(symbol) else None
            changed = inner is not None and inner is not new[symbol.inputs[0]]
            seen_before[symbol] = _again(symbol, [inner]) if changed and inner is not None else new[symbol]
        return seen_before[symbol]

    def state_of(symbol: Symbol) -> Symbol:
        while symbol not in leaves and is_view(symbol):
            symbol = symbol.inputs[0]
        return symbol

    leaves = set(body.leaves)
    for node in order:
        inputs = [
            outside(i) if state_of(i) in before and loop.get(node, -1) != loop.get(state_of(i), -2) else new[i]
            for i in node.inputs
        ]
        same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
        new[node] = node if same else _again(node, inputs)
    stacked = [outside(s) if state_of(s) in before else new[s] for s in body.stacked]
    result = body._replace(next=[new[s] for s in body.next], stacked=stacked, summed=[new[s] for s in body.summed])
    read = {i for node in order_of(result.results, result.leaves) for i in node.inputs} | set(stacked)
    unread = [before[leaf] for leaf in before if leaf not in loop and before[leaf] not in read]
    result = result._replace(stacked=[*stacked, *unread])
    known = aligned(result, alignment.leaves(body), alignment.rows)
    results = [*result.next, *result.stacked]
    known |= {s for s in results if s.op is COPY and is_number(s) and s.shape[:1] == (alignment.rows,)}
    of_rows = set(known)
    for node in order_of(result.results, result.leaves):
        if (is_view(node) or node.op is reshape_) and node.inputs[0] in of_rows:
            of_rows.add(node)
    return result, [*wanted, *["frame"] * len(unread)], Packing(known, before, of_rows)


def _again(node: Symbol, inputs: Sequence[Symbol]) -> Symbol:
    made = Symbol(node.op, tuple(inputs), node.static, node.shape, node.dtype, node.trace, node.number)
    made.name = node.name
    return made


def _copy(symbol: Symbol, like: Symbol) -> Symbol:
    if symbol.op is broadcast_to_ and not symbol.inputs[0].shape and symbol.dtype == symbol.inputs[0].dtype:
        symbol = symbol.inputs[0]  # numbers broadcast by themselves
    copied = Symbol(COPY, (symbol,), {}, like.shape, like.dtype, like.trace)
    copied.name = symbol.name
    return copied


def _depends_on_steps(symbol: Symbol, body: Body) -> bool:
    frozen = {leaf for leaf, new in zip(body.carry, body.next, strict=True) if leaf is new}
    steps = {*body.carry, *body.elems} - frozen
    seen = {*body.captured, *frozen}
    stack = [symbol]
    while stack:
        s = stack.pop()
        if s in steps:
            return True
        if s not in seen:
            seen.add(s)
            stack += s.inputs
    return False


def _slot_count(static: dict[str, Any]) -> int:
    from minigrad.scan.symbol import slots  # noqa: PLC0415

    return slots(static)


# ---- text ----------------------------------------------------------------------------------------------------------


class _Number:
    """A constant number, made into an array of the program's backend when the program is built."""

    def __init__(self, value: Any, dtype: np.dtype[Any], key: Any) -> None:
        self.value = value
        self.dtype = dtype
        self.minigrad_key = key


class _Text(str):
    """An expression, not a string."""

    __slots__ = ()


def _tuple(parts: Iterable[Any]) -> str:
    parts = list(parts)
    return "(" + ", ".join(str(p) for p in parts) + ("," if len(parts) == 1 else "") + ")"


def _part(part: Any) -> str:
    if part.__class__ is slice:
        return f"slice({part.start}, {part.stop}, {part.step})"
    return "Ellipsis" if part is Ellipsis else repr(part)


def _index(parts: Sequence[Any]) -> str:
    return "(" + ", ".join(_part(p) for p in parts) + ("," if len(parts) == 1 else "") + ")"


def _brackets(parts: Sequence[Any]) -> str:
    """An index in its usual form; with an Ellipsis, so that single numbers stay arrays."""

    def text(part: Any) -> str:
        if part.__class__ is slice:
            start, stop = ("" if n is None else str(n) for n in (part.start, part.stop))
            return f"{start}:{stop}" + ("" if part.step is None else f":{part.step}")
        return "..." if part is Ellipsis else repr(part)

    listed = [text(part) for part in parts]
    if "..." not in listed and (any(part.__class__ is int for part in parts) or not listed):
        listed.append("...")
    return "[" + ", ".join(listed) + "]"


def _static(value: Any, const: Callable[[Any, str], str]) -> str:
    if value.__class__ is _Text:
        return str(value)
    if value.__class__ is tuple:
        return "(" + "".join(_static(part, const) + ", " for part in value) + ")"
    if value is None or value.__class__ in (int, bool, str):
        return value if value == "T" else repr(value)  # type: ignore[no-any-return]
    if value.__class__ is float and math.isfinite(value):
        return repr(value)
    if value.__class__ is slice or value is Ellipsis:
        return _part(value)
    return const(value, "static")


_RESERVED = (
    "T", "carry", "elems", "captured", "frame", "fresh", "make", "run", "empty", "zeros", "views", "rows_of", "dot",
    "matmul", "copyto", "sum_of", "asarray", "scatter_add", "broadcast_to", "step_numbers", "copy_to_shape", "xp", "zip",
    "min", "max", "start", "stop", "now", "range", "slice", "rows", "N", "first_rows", "packed_views", "take_rows", "sum_of_steps", "times_steps", "and", "or", "not", "if", "in", "is", "for", "def", "return", "lambda", "del", "pass", "None",
    *UFUNCS.values(),
)  # fmt: skip
