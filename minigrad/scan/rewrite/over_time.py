"""Sums over time, moved to where a product of two stacks takes them up."""

from __future__ import annotations

from minigrad.ops.elementwise import add, negative, subtract
from minigrad.ops.indexing import scatter_add
from minigrad.ops.linalg import matmul
from minigrad.ops.reductions import sum_
from minigrad.ops.shape import reshape_, transpose_
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import (
    OUTER_OVER_TIME,
    PRODUCT_OVER_TIME,
    ROWS_OVER_TIME,
    SCATTER_OVER_TIME,
)
from minigrad.scan.rewrite.simplify import is_stack_of_outer_products
from minigrad.scan.symbol import Slot, Symbol, current


def sums_over_time(node: Symbol, leaves: set[Symbol], packed: bool) -> Symbol | None:
    """Move a sum over time inwards: through what is linear, into products and sums over rows.

    Rows that are `packed` are not the same in number at all steps, so steps cannot stand beside each other in them.
    """
    if node.op is not SUM_OVER_TIME:
        return None
    x, trace = node.inputs[0], current.get()
    if x in leaves:
        return None
    assert trace is not None  # noqa: S101  # of the rewriting

    def summed(value: Symbol) -> Symbol:
        total = trace.node(SUM_OVER_TIME, [value], {})
        better = sums_over_time(total, leaves, packed)
        return total if better is None else better

    if (
        x.op is matmul
        and all(len(i.shape) == 2 for i in x.inputs)
        and x.inputs[0].op is transpose_
        and x.inputs[0] not in leaves
    ):
        rows = x.inputs[0].inputs[0]
        return Symbol(PRODUCT_OVER_TIME, (rows, x.inputs[1]), {}, x.shape, x.dtype, trace)
    if x.op is matmul and not packed and is_stack_of_outer_products(x) and len({i.shape[:-2] for i in x.inputs}) == 1:
        return Symbol(OUTER_OVER_TIME, x.inputs, {}, x.shape, x.dtype, trace)
    if x.op is sum_ and len(x.inputs[0].shape) > 0:
        return Symbol(ROWS_OVER_TIME, x.inputs, x.static, x.shape, x.dtype, trace)
    if x.op is scatter_add and any(part.__class__ is Slot for part in x.static["index"]):
        if len(x.static["index"]) == 1:
            return Symbol(SCATTER_OVER_TIME, x.inputs, x.static, x.shape, x.dtype, trace)
        return None
    if x.op in (add, subtract) and all(i.shape == x.shape and i.dtype == x.dtype for i in x.inputs):
        parts = [summed(i) for i in x.inputs]
        if any(part.op is not SUM_OVER_TIME for part in parts):
            return trace.node(x.op, parts, {})
    if x.op in (reshape_, transpose_, negative) or (
        x.op is scatter_add and not any(part.__class__ is Slot for part in x.static["index"])
    ):
        return trace.node(x.op, [summed(x.inputs[0])], x.static)
    return None
