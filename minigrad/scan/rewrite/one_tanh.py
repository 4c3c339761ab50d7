"""sigmoid(z) as tanh(z / 2) / 2 + 1 / 2, so that one tanh serves adjacent slices of both."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.ops.elementwise import add, multiply, sigmoid, subtract, tanh
from minigrad.ops.linalg import matmul
from minigrad.scan.rewrite.graph import Graph, columns, columns_of
from minigrad.scan.symbol import Symbol


def one_tanh(graph: Graph) -> None:
    """sigmoid as tanh (as the op itself computes it), and one tanh for adjacent slices of either."""
    slabs: dict[Symbol, list[tuple[int, int, Symbol]]] = {}
    alone: list[Symbol] = []
    for node in graph.order:
        if node.op not in (sigmoid, tanh) or node in graph.once or node.dtype.kind != "f":
            continue
        if node.inputs[0].dtype != node.dtype:
            continue  # of integers there are no halves
        cut = columns_of(node.inputs[0])
        if cut is not None and cut[0] not in graph.once and len(graph.reads(node.inputs[0])) == 1:
            slabs.setdefault(cut[0], []).append((cut[1], cut[2], node))
        elif node.op is sigmoid:
            alone.append(node)
    found: dict[Symbol, Symbol] = {}
    for whole, cuts in slabs.items():
        cuts.sort(key=lambda cut: cut[:2])
        found |= _tanh_of_slab(graph, whole, cuts)
    for node in alone:
        half = graph.constant(0.5, node.dtype)
        inside = graph.trace.node(tanh, [_scaled(graph, node.inputs[0], half)], {})
        found[node] = graph.trace.node(add, [graph.trace.node(multiply, [inside, half], {}), half], {})
    graph.replace(found)


def _tanh_of_slab(graph: Graph, whole: Symbol, cuts: list[tuple[int, int, Symbol]]) -> dict[Symbol, Symbol]:
    """One tanh for each run of adjacent slices; the sigmoids among them get halves."""
    runs: list[list[tuple[int, int, Symbol]]] = []
    for cut in cuts:
        if runs and runs[-1][-1][1] == cut[0]:
            runs[-1].append(cut)
        elif not runs or runs[-1][-1][1] < cut[0]:
            runs.append([cut])
        else:
            return {}  # slices that overlap
    trace, width, dtype = graph.trace, whole.shape[-1], whole.dtype
    scale = np.ones(width)
    for a, b, node in cuts:
        if node.op is sigmoid:
            scale[a:b] = 0.5
    if (scale == 1).all() and all(len(run) == 1 for run in runs):
        return {}
    own = {cut[2].inputs[0] for cut in cuts}
    inside = whole
    found: dict[Symbol, Symbol] = {}
    if (scale != 1).any():
        others = [reader for reader in graph.reads(whole) if reader not in own]
        if whole in graph.results or not all(_untouched(reader, scale) for reader in others):
            inside = trace.node(multiply, [whole, graph.constant(scale, dtype)], {})
        else:
            inside = _scaled(graph, whole, graph.constant(scale, dtype))
            for reader in others:
                read = columns_of(reader)
                assert read is not None  # noqa: S101  # `_untouched` saw to it
                found[reader] = columns(graph, inside, read[1], read[2])
    for run in runs:
        start, stop = run[0][0], run[-1][1]
        part = inside if (start, stop) == (0, width) else columns(graph, inside, start, stop)
        value = trace.node(tanh, [part], {})
        kinds = {node.op for *_, node in run}
        if kinds == {sigmoid}:
            half = graph.constant(0.5, dtype)
            value = trace.node(add, [trace.node(multiply, [value, half], {}), half], {})
        elif len(kinds) == 2:
            factor = graph.constant(scale[start:stop], dtype)
            shift = graph.constant(np.where(scale[start:stop] == 1, 0.0, 0.5), dtype)
            value = trace.node(add, [trace.node(multiply, [value, factor], {}), shift], {})
        for a, b, node in run:
            found[node] = value if len(run) == 1 else columns(graph, value, a - start, b - start)
    return found


def _untouched(reader: Symbol, scale: np.ndarray[Any, Any]) -> bool:
    """Whether a reader of a slab reads columns only that keep their scale."""
    cut = columns_of(reader)
    return cut is not None and bool((scale[cut[1] : cut[2]] == 1).all())


def _scaled(graph: Graph, x: Symbol, factor: Symbol, root: bool = True) -> Symbol:
    """x * factor, with the factor moved to where it costs nothing: into weights, and out of the loop."""
    trace = graph.trace

    def cheap(x: Symbol, root: bool) -> bool:
        """Whether the factor can go all the way into weights or out of the loop."""
        if x in graph.once or x not in graph.loop:
            return True
        if x.dtype != factor.dtype:
            return False
        if x.op in (add, subtract) and (root or graph.single(x)):
            return all(cheap(i, False) for i in x.inputs)
        return (
            x.op is matmul and (root or graph.single(x)) and x.inputs[1] in graph.once and len(x.inputs[1].shape) == 2
        )

    def push(x: Symbol) -> Symbol:
        """The product, with the factor moved inwards."""
        if x in graph.once or x.dtype != factor.dtype:
            return trace.node(multiply, [x, factor], {})
        if x.op in (add, subtract):
            return trace.node(x.op, [push(i) for i in x.inputs], {})
        if x.op is matmul and x.inputs[1] in graph.once and len(x.inputs[1].shape) == 2:
            return trace.node(matmul, [x.inputs[0], trace.node(multiply, [x.inputs[1], factor], {})], {})
        return trace.node(multiply, [x, factor], {})

    return push(x) if cheap(x, root) else trace.node(multiply, [x, factor], {})
