"""The same value from less: laws of single nodes."""

from __future__ import annotations

from collections.abc import Sequence

from minigrad.ops.elementwise import add, multiply, negative, subtract
from minigrad.ops.indexing import getitem_
from minigrad.ops.linalg import matmul
from minigrad.ops.op import WEAK
from minigrad.ops.shape import broadcast_to_, reshape_, transpose_
from minigrad.scan.symbol import CONSTANT, Symbol, is_elementwise


def with_inputs(node: Symbol, inputs: Sequence[Symbol]) -> Symbol:
    """A node with other inputs of the same form."""
    made = Symbol(node.op, tuple(inputs), node.static, node.shape, node.dtype, node.trace, node.number)
    made.name = node.name
    return made


def simpler(node: Symbol, leaves: set[Symbol]) -> Symbol | None:
    """The same value from less. Into leaves nobody looks: what made them is of another program."""
    op, inputs = node.op, node.inputs
    if not inputs or inputs[0] in leaves:
        return _simpler_sum(node) if op in (add, subtract) else None
    if op is negative and inputs[0].op is negative:
        return inputs[0].inputs[0]
    if op is reshape_ and inputs[0].shape == node.shape:
        return inputs[0]
    if op is transpose_ and inputs[0].op is transpose_:
        axes = tuple([inputs[0].static["axes"][a] for a in node.static["axes"]])
        inner = inputs[0].inputs[0]
        return inner if axes == tuple(range(len(axes))) else _moved(inner, axes)
    if _is_product_transposed(node):  # (a @ b).T = b.T @ a.T, which keeps rows in front
        a, b = (_transposed(i, leaves) for i in inputs[0].inputs)
        return Symbol(matmul, (b, a), {}, node.shape, node.dtype, node.trace, node.number)
    if op is transpose_ and node.static["axes"] == tuple(range(len(node.shape))):
        return inputs[0]
    if (
        op is getitem_
        and inputs[0].shape == node.shape
        and all(part.__class__ is slice and part.step in (None, 1) for part in node.static["index"])
    ):
        return inputs[0]
    if op in (add, subtract):
        better = _simpler_sum(node)
        if better is not None:
            return better
    if is_elementwise(op) and len(inputs) == 2 and op.name in ("add", "subtract", "multiply"):
        a, b = inputs  # numbers broadcast by themselves
        if a.op is broadcast_to_ and not a.inputs[0].shape and b.shape == node.shape and a.inputs[0].dtype == a.dtype:
            return with_inputs(node, (a.inputs[0], b))
        if b.op is broadcast_to_ and not b.inputs[0].shape and a.shape == node.shape and b.inputs[0].dtype == b.dtype:
            return with_inputs(node, (a, b.inputs[0]))
    return None


def outer_product(node: Symbol) -> Symbol | None:
    """Products over an axis of length 1, element by element: NumPy does a stack of them one after the other."""
    if node.op is not matmul or not is_stack_of_outer_products(node):
        return None
    return Symbol(multiply, node.inputs, {}, node.shape, node.dtype, node.trace, node.number)


def is_stack_of_outer_products(product: Symbol) -> bool:
    """Whether a product has leading axes, and the axis that it sums over length 1."""
    a, b = product.inputs
    return len(product.shape) > 2 and min(len(a.shape), len(b.shape)) > 1 and a.shape[-1] == 1


def _is_product_transposed(node: Symbol) -> bool:
    """Whether a node is (a @ b).T."""
    if node.op is not transpose_ or node.static["axes"] != (1, 0) or node.inputs[0].op is not matmul:
        return False
    return all(len(i.shape) == 2 for i in node.inputs[0].inputs)


def _simpler_sum(node: Symbol) -> Symbol | None:
    """A sum with zero is its other operand."""
    a, b = node.inputs
    if _is_zero(b) and a.shape == node.shape and a.dtype == node.dtype:
        return a
    return b if node.op is add and _is_zero(a) and b.shape == node.shape and b.dtype == node.dtype else None


def _moved(symbol: Symbol, axes: tuple[int, ...]) -> Symbol:
    """Another order of axes."""
    shape = tuple([symbol.shape[a] for a in axes])
    return Symbol(transpose_, (symbol,), {"axes": axes}, shape, symbol.dtype, symbol.trace)


def _transposed(symbol: Symbol, leaves: set[Symbol]) -> Symbol:
    """A matrix transposed, as simply as possible."""
    moved = _moved(symbol, (1, 0))
    better = simpler(moved, leaves)
    return moved if better is None else better


def _is_zero(symbol: Symbol) -> bool:
    """Whether a value is the number 0, or that broadcast."""
    if symbol.op is broadcast_to_:
        symbol = symbol.inputs[0]
    return symbol.op is CONSTANT and symbol.static["value"].__class__ in WEAK and symbol.static["value"] == 0
