"""One node as lines of source: for all steps at once, for one step, or once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad.ops.elementwise import negative, power
from minigrad.ops.indexing import getitem_, scatter_add
from minigrad.ops.linalg import matmul
from minigrad.ops.reductions import sum_
from minigrad.ops.shape import broadcast_to_, concatenate_, reshape_
from minigrad.ops.where import where_
from minigrad.scan.distribute import COPY, UFUNCS, batched_static, index_rule, is_view
from minigrad.scan.kernels import Located, call, fused
from minigrad.scan.places import pieces
from minigrad.scan.plan import Plan
from minigrad.scan.symbol import CONSTANT, Slot, Symbol, filled, is_elementwise, slots
from minigrad.scan.text import Text, brackets, index_part, static_text, tuple_of
from minigrad.scan.trace import PICKED
from minigrad.scan.variables import Variables


class Calls(Variables):
    """The calls of a program in the making. Where a value has a place, its call writes into it."""

    def __init__(
        self, plan: Plan, once: Sequence[Symbol], reverse: bool, kernels: bool, lent: Sequence[Symbol] = ()
    ) -> None:
        super().__init__(plan, once, reverse, lent)
        self.kernels = kernels
        self.walked: set[str] = set()  # the variables of loops so far: each belongs to one
        self.tile: dict[str, str] | None = None  # stacks, and the variables that are those of their steps done now

    def compute(self, node: Symbol, kind: str, lines: list[str]) -> None:
        """Emit the computation of a node for all steps ("batch") or "once"."""
        if is_view(node) or node.op is CONSTANT:
            return
        stacked = [not self.is_once(i) for i in node.inputs]
        operands = [
            self.operand(self.number_behind(i, node), node, kind, steps)
            for i, steps in zip(node.inputs, stacked, strict=True)
        ]
        destination = self.in_tile(self.stack(node)[0]) if node in self.place else None
        rows = any(i in self.of_rows for i, steps in zip(node.inputs, stacked, strict=True) if steps)
        if kind != "batch":
            self.step_call(node, operands, destination, lines, "")
        elif rows:
            self.step_call(node, operands, destination, lines, "", self.whole_name(node))
        else:
            self.batch_call(node, operands, stacked, destination, lines)
        if destination is None:
            self.whole[node] = (self.whole_name(node) if kind == "batch" else self.named(node), "run")

    def operand(self, symbol: Symbol, reader: Symbol, kind: str, steps: bool) -> str:
        """How a node that is computed as a whole reads an input: one value, or all steps of it."""
        variable, home = self.stack(symbol)
        if not steps:
            packed = reader in self.place and self.place[reader].buffer.lead == "N"
            packed = packed or (kind == "batch" and reader in self.aligned)
            return f"take_rows({variable}, rows)" if packed and symbol in self.aligned else variable
        rank, wanted = len(symbol.shape), len(reader.shape)
        broadcasts = is_elementwise(reader.op) or reader.op is COPY
        if kind == "batch" and symbol not in self.aligned and broadcasts and rank < wanted:
            key = ("widened", symbol, wanted)
            if key not in self.whole:
                text = self.widened(variable, rank, wanted)
                self.whole[key] = self.define(self.fresh_name(variable + "_wide"), text, home)
            variable = self.whole[key][0]
        return self.in_tile(variable)

    def in_tile(self, variable: str) -> str:
        """A stack, or in a tile those of its steps that are done now."""
        if self.tile is None:
            return variable
        if variable not in self.tile:
            self.tile[variable] = self.fresh_name(variable.removesuffix("_all") + "_now")
        return self.tile[variable]

    def number_behind(self, symbol: Symbol, reader: Symbol) -> Symbol:
        """The number that was broadcast to all rows: there may be fewer of them."""
        of_rows = reader in self.aligned and (reader.op in (COPY, concatenate_) or is_elementwise(reader.op))
        if of_rows and symbol.op is broadcast_to_ and not symbol.inputs[0].shape and self.is_made(symbol):
            return symbol.inputs[0]
        return symbol

    # ---- all steps at once ---------------------------------------------------------------------------------------

    def batch_call(
        self, node: Symbol, operands: list[str], stacked: list[bool], destination: str | None, lines: list[str]
    ) -> None:
        """One evaluation for all steps."""
        op = node.op
        if op is matmul and self.flat_product(node, stacked, destination, lines):
            return
        if op is concatenate_:
            self.join(node, operands, destination, lines, lead=True)
            return
        if op is sum_ and destination is not None:
            axes, keepdims = [a + 1 for a in node.static["axis"]], node.static["keepdims"]
            lines.append(f"sum_of({operands[0]}, axis={tuple_of(axes)}, keepdims={keepdims}, out={destination})")
            return
        if self.ufunc_call(node, operands, destination, lines, ""):
            return
        text = self.batch_expression(node, operands, stacked)
        if destination is not None:
            lines.append(f"copyto({destination}, {text})")
        else:
            lines.append(f"{self.whole_name(node)} = {text}")

    def batch_expression(self, node: Symbol, operands: list[str], stacked: list[bool]) -> str:
        """All steps of a node as an expression."""
        if node.op is matmul and any(len(i.shape) < 2 for i in node.inputs):
            return f"matmul({operands[0]}, {operands[1]})"  # vectors: what the batch rule allows works as it is
        if _has_index_arrays(node):
            return self.indexed(node, operands, stacked)
        static = node.static if is_elementwise(node.op) else batched_static(node, stacked)
        assert static is not None  # noqa: S101  # distribute asked
        shape = static.get("shape")
        if shape is not None and shape[:1] == (-1,):
            static = {**static, "shape": ("T", *shape[1:])}
        return self.forward_call(node, operands, static)

    def flat_product(self, node: Symbol, stacked: list[bool], destination: str | None, lines: list[str]) -> bool:
        """All steps of `x @ W` as one product of two matrices."""
        a, b = node.inputs
        if stacked != [True, False] or len(b.shape) != 2 or destination is None or not a.shape:
            return False
        k, m = b.shape
        left = self.rows(a, k)
        right = self.solid(b)
        if self.place[node].columns is not None:
            return False
        out = self.rows_of(destination, m, self.stack(node)[1])
        lines.append(f"{left}.dot({right}, {out})")
        return True

    def indexed(self, node: Symbol, operands: list[str], stacked: list[bool]) -> str:
        """Reading or adding at index arrays, for all steps."""
        once = {i for i, steps in zip(node.inputs, stacked, strict=True) if not steps}
        rule = index_rule(node, once)
        parts = []
        rank = max(len(node.inputs[p.place].shape) for p in node.static["index"])
        for part in node.static["index"]:
            text = operands[part.place]
            if rule == "all" and stacked[part.place]:
                text = self.widened(text, len(node.inputs[part.place].shape), rank)
            parts.append(text)
        if rule == "all":
            parts.insert(0, f"step_numbers(T, {rank})")
        index = tuple_of(parts)
        if node.op is getitem_:
            return f"{operands[0]}[{index}]"
        shape = tuple_of(("T", *node.static["shape"]))
        return f"scatter_add({shape}, {self.dtype(node.dtype)}, {index}, {operands[0]})"

    # ---- one step, or once -----------------------------------------------------------------------------------------

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
        if destination is None:
            text = self.expression(node, operands)
            lines.append(f"{indent}{name or self.named(node)} = {text}")
        elif not self.writing_call(node, operands, destination, lines, indent):
            lines.append(f"{indent}copyto({destination}, {self.expression(node, operands)})")

    def writing_call(self, node: Symbol, operands: list[str], destination: str, lines: list[str], indent: str) -> bool:
        """A call that itself writes into the destination, if there is one for the op."""
        op = node.op
        if op is matmul:
            a, b = node.inputs
            if not node.shape:
                lines.append(f"{indent}copyto({destination}, dot({operands[0]}, {operands[1]}))")
            else:
                plain = len(a.shape) <= 2 and len(b.shape) <= 2 and a.dtype == b.dtype
                product, out = (f"{operands[0]}.dot(", "") if plain else (f"matmul({operands[0]}, ", "out=")
                lines.append(f"{indent}{product}{operands[1]}, {out}{destination})")  # CuPy's matmul wants the name
        elif op is concatenate_:
            self.join(node, operands, destination, lines, lead=False, indent=indent)
        elif op is sum_:
            axis, keepdims = node.static["axis"], node.static["keepdims"]
            lines.append(
                f"{indent}sum_of({operands[0]}, axis={tuple_of(axis)}, keepdims={keepdims}, out={destination})"
            )
        else:
            return self.ufunc_call(node, operands, destination, lines, indent)
        return True

    def expression(self, node: Symbol, operands: list[str]) -> str:
        """One evaluation as an expression."""
        arrays = _has_index_arrays(node)
        if node.op is getitem_ and arrays:
            parts = [operands[p.place] if p.__class__ is Slot else index_part(p) for p in node.static["index"]]
            return f"asarray({operands[0]}[{tuple_of(parts)}])"
        if node.op is not scatter_add:
            return self.forward_call(node, operands, node.static)
        indices, shape = node.static["index"], list(node.static["shape"])
        if node in self.aligned:
            shape[0] = f"{operands[0]}.shape[0]"
            if indices[0].__class__ is slice and not arrays:
                indices = (slice(None), *indices[1:])
        index = tuple_of([operands[p.place] if p.__class__ is Slot else index_part(p) for p in indices])
        return f"scatter_add({tuple_of(shape)}, {self.dtype(node.dtype)}, {index}, {operands[0]})"

    # ---- both ------------------------------------------------------------------------------------------------------

    def ufunc_call(
        self, node: Symbol, operands: list[str], destination: str | None, lines: list[str], indent: str
    ) -> bool:
        """An elementwise call that writes into the destination, if there is one for the op."""
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
        elif op is negative and to.place is not None and to.place.columns is not None:
            # NumPy's negative (2.4.6, x86) writes other numbers into columns, from columns of rows of 16 or 64 bytes
            if node.dtype.kind == "f":
                text = f"multiply({operands[0]}, {self.number(-1.0, node.dtype)}, {destination})"
            else:
                text = f"subtract({self.number(0, node.dtype)}, {operands[0]}, {destination})"
            lines.append(call(indent + text, indent, ("negative", at, to)))
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
            return f"{operands[0]}.reshape({tuple_of((-1, *node.shape[1:]))}).copy()"
        if node.op in (reshape_, broadcast_to_) and node.inputs[0] in self.aligned:
            first = f"{operands[0]}.shape[0]" if node in self.aligned else "-1"
            static = {"shape": (Text(first), *static["shape"][1:])}
        elif node.op is getitem_ and node in self.aligned and static["index"][0].__class__ is slice:
            static = {"index": (slice(None), *static["index"][1:])}
        count = len(operands) - slots(node.static)
        if count != len(operands):
            static = filled(static, [Text(operand) for operand in operands])
        options = "".join(f", {key}={static_text(value, self.const)}" for key, value in static.items())
        return f"asarray({name}(xp, {', '.join(operands[:count])}{options}))"

    def fuse(self, lines: Sequence[str]) -> list[str]:
        """Elementwise calls as kernels, if the backend makes some."""
        return fused(lines, self.const) if self.kernels else list(lines)

    def join(
        self, node: Symbol, operands: list[str], destination: str | None, lines: list[str], lead: bool, indent: str = ""
    ) -> None:
        """A concatenation: pieces that are not in their places yet are copied there."""
        assert destination is not None  # noqa: S101  # concatenations have places
        place = self.place[node]
        for (piece, columns), operand in zip(pieces(node), operands, strict=True):
            if self.place.get(piece) != place._replace(columns=columns):
                axis, start, stop = columns
                index = [slice(None)] * (axis + lead) + [slice(start, stop)]
                lines.append(f"{indent}copyto({destination}{brackets(index)}, {operand})")


def _has_index_arrays(node: Symbol) -> bool:
    """Whether a node reads or adds at places that arrays tell."""
    return node.op in (getitem_, scatter_add) and any(p.__class__ is Slot for p in node.static["index"])
