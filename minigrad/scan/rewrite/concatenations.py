"""Gradients of slices are pieces of a concatenation."""

from __future__ import annotations

import itertools

from minigrad.ops.elementwise import add, multiply
from minigrad.ops.indexing import getitem_, scatter_add
from minigrad.ops.shape import broadcast_to_, concatenate_
from minigrad.scan.rewrite.graph import Graph, columns, columns_of
from minigrad.scan.symbol import CONSTANT, Slot, Symbol


def slices_to_concatenations(graph: Graph) -> None:
    """A sum of gradients of slices that fill an array is their concatenation: written in place, not added up."""
    found: dict[Symbol, Symbol] = {}
    for node in graph.order:
        of_sum = any(reader.op is add and reader.shape == node.shape for reader in graph.reads(node))
        if node.op in (add, scatter_add) and not (of_sum and graph.single(node)):
            better = _concatenation(graph, node)
            if better is not None:
                found[node] = better
    graph.replace(found)


def _concatenation(graph: Graph, node: Symbol) -> Symbol | None:
    """A sum of gradients of slices as their concatenation, plus what else is in the sum."""
    pieces: list[tuple[int, int, Symbol]] = []
    rest: list[Symbol] = []
    stack = [node]
    while stack:
        s = stack.pop()
        piece = _placed_columns(s)
        if piece is not None:
            pieces.append(piece)
        elif s.op is add and (s is node or graph.single(s)) and all(i.shape == node.shape for i in s.inputs):
            stack += reversed(s.inputs)
        else:
            rest.append(s)
    pieces.sort(key=lambda p: p[:2])
    if not pieces or any(b[0] < a[1] for a, b in itertools.pairwise(pieces)):
        return None
    at, parts = 0, []
    for start, stop, g in [*pieces, (node.shape[-1], node.shape[-1], None)]:
        if start > at:
            parts.append(_zero_columns(graph, node, start - at))
        if g is not None:
            parts.append(g)
        at = stop
    joined = parts[0] if len(parts) == 1 else graph.trace.node(concatenate_, parts, {"axis": len(node.shape) - 1})
    for s in rest:
        joined = graph.trace.node(add, [joined, s], {})
    return joined


def _zero_columns(graph: Graph, like: Symbol, width: int) -> Symbol:
    """Columns that no slice reaches."""
    zero = graph.constant(0.0, like.dtype)
    return graph.trace.node(broadcast_to_, [zero], {"shape": (*like.shape[:-1], width)})


def _placed_columns(node: Symbol) -> tuple[int, int, Symbol] | None:
    """The gradient of a slice of the last axis: its bounds, and what stands there."""
    if node.op is not scatter_add or any(part.__class__ is Slot for part in node.static["index"]):
        return None
    shape = node.static["shape"]
    whole = Symbol(CONSTANT, (), {}, shape, node.dtype)
    view = Symbol(getitem_, (whole,), {"index": node.static["index"]}, node.inputs[0].shape, node.dtype)
    cut = columns_of(view)
    return None if cut is None else (cut[1], cut[2], node.inputs[0])


def into_pieces(graph: Graph) -> None:
    """A product of a concatenation with what is known for all steps goes into its pieces, out of the loop there."""
    for _ in range(8):
        found: dict[Symbol, Symbol] = {}
        for node in graph.order:
            if node.op is multiply and node in graph.loop:
                for joined, other in (node.inputs, node.inputs[::-1]):
                    if (
                        joined.op is concatenate_
                        and joined in graph.loop
                        and graph.single(joined)
                        and joined.static["axis"] == len(joined.shape) - 1
                        and all(piece.dtype == node.dtype for piece in joined.inputs)
                        and other.shape == node.shape == joined.shape
                        and graph.loop.get(other) != graph.loop[node]
                    ):
                        found[node] = _piecewise(graph, joined, other)
        if not found:
            return
        graph.replace(found)


def _piecewise(graph: Graph, joined: Symbol, other: Symbol) -> Symbol:
    """The product of a concatenation, piece by piece."""
    parts, start = [], 0
    for piece in joined.inputs:
        stop = start + piece.shape[-1]
        parts.append(graph.trace.node(multiply, [piece, columns(graph, other, start, stop)], {}))
        start = stop
    return graph.trace.node(concatenate_, parts, joined.static)
