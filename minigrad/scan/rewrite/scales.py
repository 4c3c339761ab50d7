"""Rows that scale the values of a loop go into the weights that these are multiplied with."""

from __future__ import annotations

from minigrad.ops.elementwise import multiply
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import reshape_
from minigrad.scan.distribute import (
    PRODUCT_OVER_TIME,
    ROWS_OVER_TIME,
)
from minigrad.scan.rewrite.graph import Graph
from minigrad.scan.symbol import Symbol


def scales_into_weights(graph: Graph) -> None:
    """A product with the same row for all steps goes from a loop into what the loop's value is multiplied with.

    (z * v) @ W is z @ (v * W), and sums over time of it are those of z, times v.
    """
    for _ in range(4):
        found: dict[Symbol, Symbol] = {}
        for node in graph.order:
            if node.op is multiply and node in graph.loop and node not in graph.results and len(node.shape) == 2:
                found |= _without_scale(graph, node)
        if not found:
            return
        graph.replace(found)


def _without_scale(graph: Graph, node: Symbol) -> dict[Symbol, Symbol]:
    """New readers for a product one of whose factors is a row, or nothing if they cannot take it."""
    rest, scale = _take_scale(graph, node, True)
    if scale is None or rest is None or not scale.dtype == rest.dtype == node.dtype:
        return {}
    trace, found = graph.trace, {}
    column = trace.node(reshape_, [scale], {"shape": (scale.shape[0], 1)})
    for reader in graph.reads(node):
        if reader.dtype != node.dtype:
            return {}
        if reader.op is matmul and reader.inputs[0] is node and _is_matrix(reader.inputs[1], graph):
            weights = trace.node(multiply, [column, reader.inputs[1]], {})
            found[reader] = trace.node(matmul, [rest, weights], {})
        elif reader.op is PRODUCT_OVER_TIME and reader.inputs[1] is node and reader.inputs[0] is not node:
            total = Symbol(reader.op, (reader.inputs[0], rest), {}, reader.shape, reader.dtype, trace)
            found[reader] = trace.node(multiply, [total, scale], {})
        elif reader.op is ROWS_OVER_TIME and reader.static["axis"] == (0,):
            total = Symbol(reader.op, (rest,), reader.static, reader.shape, reader.dtype, trace)
            found[reader] = trace.node(multiply, [total, scale], {})
        else:
            return {}
    return found


def _is_matrix(symbol: Symbol, graph: Graph) -> bool:
    """Whether a value is one matrix for all steps."""
    return symbol in graph.once and len(symbol.shape) == 2


def _take_scale(graph: Graph, node: Symbol, root: bool) -> tuple[Symbol | None, Symbol | None]:
    """A product without a factor that is one row for all steps, and that factor."""
    if node.op is not multiply or not (root or graph.single(node)):
        return None, None
    for factor, other in (node.inputs, node.inputs[::-1]):
        if factor in graph.once and len(factor.shape) == 1 and other.shape == node.shape and node.dtype == other.dtype:
            return other, factor
    for place, inner in enumerate(node.inputs):
        rest, scale = _take_scale(graph, inner, False)
        if rest is not None and scale is not None:
            inputs = [rest, node.inputs[1]] if place == 0 else [node.inputs[0], rest]
            return graph.trace.node(multiply, inputs, {}), scale
    return None, None
