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
    Stage,
    batched_static,
    distribute,
    index_rule,
    is_solid,
    is_view,
)
from minigrad.scan.plan import UFUNCS, Buffer, Place, Plan, pieces
from minigrad.scan.symbol import CONSTANT, STOP, Slot, Symbol, filled, is_elementwise
from minigrad.scan.trace import PICKED, Body

class Kept(NamedTuple):
    """Where a stacked result is found after a run: part `part` of array `index` of the frame or of the fresh ones."""

    source: str  # "fresh" or "frame"
    index: int
    part: str  # "all", "before", "after": of T, or of T + 1 of which the first or the last is the initial state


class Fresh(NamedTuple):
    """An array that every run gets anew: for results."""

    extra: int  # rows more than T
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


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
) -> Source:
    """The program of a body. `wanted` says of each stacked result whether it is "fresh" or stays in the "frame"."""
    return _Emitter(body, once, reverse, wanted, names).source()


class _Emitter:
    def __init__(
        self,
        body: Body,
        once: Sequence[Symbol],
        reverse: bool,
        wanted: Sequence[str],
        names: dict[Symbol, str],
    ) -> None:
        self.body, self.wanted = canonical(body, wanted)
        self.frozen = {leaf for leaf, new in zip(self.body.carry, self.body.next, strict=True) if leaf is new}
        self.once_leaves = [*once, *self.frozen]
        self.reverse = reverse
        self.stages = distribute(self.body, self.once_leaves)
        self.plan = Plan(self.body, self.stages, self.wanted, self.frozen)
        self.place, self.carry_place = self.plan.place, self.plan.carry_place
        self.given_names = names
        self.taken: set[str] = set(_RESERVED)
        self.name_of: dict[Symbol, str] = {}
        self.bytes_a_step = 0
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
        for number, stage in enumerate(self.stages.stages):
            if stage.kind == "loop":
                _Loop(self, number, stage).emit()
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
        run = [*inputs, *head, *self.run]
        make = [*self.make, f"return ({frame})"]
        return Source(
            "def make(T):\n" + "".join(f"    {line}\n" for line in make),
            "def run(T, carry, elems, captured, frame, fresh):\n" + "".join(f"    {line}\n" for line in run),
            self.constants,
            [Fresh(int(b.lead == "T + 1"), b.shape, b.dtype) for b in self.fresh],
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
        sizes = ", ".join([lead] * bool(lead) + [str(n) for n in shape])
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
            found = self.define(self.fresh_name(self.named(symbol) + "_before"), self.part_of(place), self.home(place.buffer))
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
            text += _brackets([slice(None)] * (axis + bool(place.buffer.lead)) + [slice(start, stop)])
        return text

    def view(self, node: Symbol, variable: str) -> str:
        """A view of one array."""
        if node.op is STOP:
            return variable
        static = node.static
        if node.op is getitem_:
            return variable + _brackets(static["index"])
        if node.op is reshape_:
            return f"{variable}.reshape({_tuple(node.shape)})"
        if node.op is transpose_:
            return f"{variable}.transpose({_tuple(static['axes'])})"
        return f"broadcast_to({variable}, {_tuple(node.shape)})"

    def batched_view(self, node: Symbol, variable: str) -> str:
        """The same view of all steps."""
        if node.op is STOP:
            return variable
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
        return variable if rank >= wanted or rank == wanted else variable + _brackets(
            [slice(None)] + [None] * (wanted - rank) + [Ellipsis]
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
            variable, home = self.stack(i)
            if steps and kind == "batch" and (is_elementwise(node.op) or node.op is COPY):
                key = ("aligned", i, rank)
                if len(i.shape) < rank:
                    if key not in self.whole:
                        text = self.aligned_text(variable, len(i.shape), rank)
                        self.whole[key] = self.define(self.fresh_name(variable + "_wide"), text, home)
                    variable = self.whole[key][0]
            operands.append(variable)
        destination = None
        if node in self.place:
            destination = self.stack(node)[0]
        if kind == "batch":
            self.batch_call(node, operands, stacked, destination, lines)
        else:
            self.step_call(node, operands, destination, lines, "")
            if destination is None:
                self.whole[node] = (self.named(node), "run")

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
        return self.rows_text(variable, width, home if is_solid(symbol) else "run")

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
        self, node: Symbol, operands: list[str], destination: str | None, lines: list[str], indent: str
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
            index = "(" + ", ".join(
                operands[p.place] if p.__class__ is Slot else _part(p) for p in node.static["index"]
            ) + ",)"
            if op is getitem_:
                text = f"asarray({operands[0]}[{index}])"
            else:
                shape = _tuple(node.static["shape"])
                text = f"scatter_add({shape}, {self.dtype(node.dtype)}, {index}, {operands[0]})"
        elif op is scatter_add:
            text = (
                f"scatter_add({_tuple(node.static['shape'])}, {self.dtype(node.dtype)}, "
                f"{_index(node.static['index'])}, {operands[0]})"
            )
        else:
            text = self.forward_call(node, operands, node.static)
        if destination is not None:
            lines.append(f"{indent}copyto({destination}, {text})")
        else:
            lines.append(f"{indent}{self.named(node)} = {text}")

    def ufunc_call(
        self, node: Symbol, operands: list[str], destination: str | None, lines: list[str], indent: str
    ) -> bool:
        op = node.op
        if destination is None:
            return False
        if op is COPY:
            if operands[0] != destination:
                lines.append(f"{indent}copyto({destination}, {operands[0]})")
        elif op is where_:
            condition, x, y = operands
            if y != destination:
                lines.append(f"{indent}copyto({destination}, {y})")
            lines.append(f"{indent}copyto({destination}, {x}, where={condition})")
        elif op.name in ("zeros_like", "ones_like"):
            lines.append(f"{indent}{destination}.fill({int(op.name == 'ones_like')})")
        elif op is power and node.inputs[1].op is CONSTANT and node.inputs[1].static["value"] == 2:
            lines.append(f"{indent}square({operands[0]}, {destination})")
        elif op.name in UFUNCS:
            out = "out=" if op.name in ("maximum", "minimum") else ""  # NumPy asks for it
            lines.append(f"{indent}{UFUNCS[op.name]}({', '.join(operands)}, {out}{destination})")
        else:
            return False
        return True

    def forward_call(self, node: Symbol, operands: list[str], static: dict[str, Any]) -> str:
        """An op's own forward function."""
        if node.op is PICKED:
            return f"{operands[0]}[{static['place']}]"
        if hasattr(node.op, "on_arrays"):  # a scan inside of this one
            return f"{self.const(node.op.on_arrays, 'scan')}({', '.join(operands)}, steps={static['steps']})"
        name = self.const(node.op.forward, node.op.name)
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
            if self.is_once(x):
                text = f"multiply({self.stack(x)[0]}, {self.dtype(node.dtype)}.type(T))"
            else:
                text = f"asarray(sum_of({self.stack(x)[0]}, axis=0))"
        elif node.op is PRODUCT_OVER_TIME:
            a, b = node.inputs
            text = f"dot({self.rows(a, a.shape[-1])}.T, {self.rows(b, b.shape[-1])})"
        elif node.op is ROWS_OVER_TIME:
            x = node.inputs[0]
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
            shape = _tuple(node.static["shape"])
            text = (
                f"scatter_add({shape}, {self.dtype(node.dtype)}, ({self.stack(index)[0]},), {self.stack(x)[0]})"
            )
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

    def emit(self) -> None:
        e = self.e
        sums = []
        for node in self.stage.nodes:
            if is_view(node):
                continue
            operands = [self.reference(i) for i in node.inputs]
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
                    self.lines.append(f"    add({name}, {value}, {name})")
                    e.whole[reader] = (name, "run")
        for i in self.stage.carry:
            if i in e.plan.scratch and i not in e.plan.direct:
                leaf, new = e.body.carry[i], e.body.next[i]
                self.lines.append(f"    copyto({e.carry_place[leaf].buffer.name}, {self.reference(new)})")
        e.products.append(self.products)
        e.run.append("# for each step" + (", from the last to the first" if e.reverse else ""))
        if self.zipped:
            targets = ", ".join(self.zipped)
            lists = ", ".join(self.zipped.values())
            head = f"for {targets} in zip({lists}):" if len(self.zipped) > 1 else f"for {targets} in {lists}:"
        else:
            head = "for _ in range(T):"
        e.run.append(head)
        e.run.extend(self.lines or ["    pass"])

    def reference(self, symbol: Symbol, write: bool = False) -> str:
        """How a step reads (or writes) a value."""
        e = self.e
        if symbol in self.seen:
            return self.seen[symbol]
        if e.is_once(symbol):
            return e.stack(symbol)[0]
        place = e.place.get(symbol)
        if symbol in e.carry_place and e.stages.loop.get(symbol) == self.number:
            place = e.carry_place[symbol]
        if place is not None and not place.buffer.lead:
            name = place.buffer.name
            if place.columns is not None:
                name = e.define(e.named(symbol), e.part_of(place), e.home(place.buffer))[0]
            self.seen[symbol] = name
            return name
        if is_view(symbol) and symbol not in e.leaf_place:
            base = symbol.inputs[0]
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
        steps = self.steps(variable, home)
        name = e.named(symbol)
        if name in self.zipped or name in e.exports:
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

    def steps(self, variable: str, home: str) -> str:
        """The list of a stack's steps, in the order in which they are walked."""
        e = self.e
        key = ("steps", variable)
        if key not in e.whole:
            text = f"views({variable}[::-1])" if e.reverse else f"views({variable})"
            e.whole[key] = e.define(e.fresh_name(variable + "_steps"), text, home)
        return e.whole[key][0]


# ---- bodies in a form with a place for everything ------------------------------------------------------------------


def canonical(body: Body, wanted: Sequence[str]) -> tuple[Body, list[str]]:
    """A body in which every next state and stacked result is computed, once, into a place of its own."""
    owned: set[Symbol] = set()
    leaves = set(body.leaves)

    def own(symbol: Symbol, like: Symbol) -> Symbol:
        plain = symbol not in leaves and not symbol.op is CONSTANT and not is_view(symbol)
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
        elif s in carried and want == "frame" and new[carried[s]] is not s:
            target = s
        elif s in owned and s not in used and s not in position:
            target = s
        else:
            target = own(s, s)
        used.add(target)
        kinds[target] = want
        stacked.append(target)
    return body._replace(next=new, stacked=stacked), list(wanted)


def _copy(symbol: Symbol, like: Symbol) -> Symbol:
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
    "range", "slice", "and", "or", "not", "if", "in", "is", "for", "def", "return", "lambda", "del", "pass", "None",
    *UFUNCS.values(),
)  # fmt: skip
