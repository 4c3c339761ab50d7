"""Products that share an operand as one product, and the same operation on adjacent slices as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad.ops.elementwise import add, multiply, subtract
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import concatenate_
from minigrad.scan.rewrite.graph import Graph, columns, columns_of
from minigrad.scan.symbol import Symbol


def merge_products(graph: Graph) -> None:
    """x @ U and x @ V are one product with U and V side by side."""
    groups: dict[Any, list[Symbol]] = {}
    for node in graph.order:
        if node.op is matmul and node not in graph.once:
            x, w = node.inputs
            if len(w.shape) == 2 and len(x.shape) >= 1 and w in graph.once and x not in graph.once:
                groups.setdefault((x, graph.loop.get(node, -1), w.shape[0], w.dtype), []).append(node)
    found: dict[Symbol, Symbol] = {}
    for (x, *_), nodes in groups.items():
        if len({id(node.inputs[1]) for node in nodes}) > 1:
            joined = graph.trace.node(concatenate_, [node.inputs[1] for node in nodes], {"axis": 1})
            whole = graph.trace.node(matmul, [x, joined], {})
            start = 0
            for node in nodes:
                stop = start + node.shape[-1]
                found[node] = columns(graph, whole, start, stop)
                start = stop
    graph.replace(found)


def merge_slices(graph: Graph) -> None:
    """The same operation on adjacent slices is one operation on all of them, again and again."""
    for _ in range(32):
        found = _mergeable(graph)
        if not found:
            return
        graph.replace(found)


def _mergeable(graph: Graph) -> dict[Symbol, Symbol]:
    """New readers for the first run of adjacent slices with which the same is done."""
    slabs: dict[Symbol, list[tuple[int, int, Symbol]]] = {}
    for node in graph.order:
        cut = columns_of(node)
        if cut is not None and cut[0] not in graph.once:
            slabs.setdefault(cut[0], []).append((cut[1], cut[2], node))
    for whole, cuts in slabs.items():
        cuts.sort(key=lambda cut: cut[:2])
        for op in (add, subtract, multiply):
            for side in (0, 1):
                group = _group(graph, cuts, op, side)
                if len(group) > 1:
                    return _merged(graph, whole, group, op, side)
    return {}


def _group(
    graph: Graph, cuts: Sequence[tuple[int, int, Symbol]], op: Any, side: int
) -> list[tuple[int, int, Symbol, Symbol]]:
    """The longest run of adjacent slices (start, stop, reader, other operand) that one operation can take."""
    best: list[tuple[int, int, Symbol, Symbol]] = []
    run: list[tuple[int, int, Symbol, Symbol]] = []
    for start, stop, node in cuts:
        reader = next(
            (
                (r, r.inputs[1 - side])
                for r in graph.reads(node)
                if r.op is op
                and r.inputs[side] is node
                and r.inputs[1 - side] is not node
                and r.shape == node.shape
                and r.dtype == node.dtype
                and graph.loop.get(r, -1) == graph.loop.get(node, -1)
            ),
            None,
        )
        if reader is None or (run and (run[-1][1] != start or not _fits(graph, run, reader[1], start, stop))):
            best = max(best, run, key=len)
            run = []
        if reader is not None and (run or _fits(graph, [], reader[1], start, stop)):
            run.append((start, stop, *reader))
    return max(best, run, key=len)


def _fits(graph: Graph, run: Sequence[Any], other: Symbol, start: int, stop: int) -> bool:
    """Whether an operand goes beside those of a run: adjacent columns of one value, or values to be joined."""
    if not other.shape or other.shape[-1] != stop - start:
        return False
    if other in graph.once:
        return not run or (run[0][3] in graph.once and run[0][3].shape[:-1] == other.shape[:-1])
    cut = columns_of(other)
    if cut is None:
        return False
    if not run:
        return True
    before = columns_of(run[-1][3])
    return before is not None and before[0] is cut[0] and before[2] == cut[1]


def _merged(graph: Graph, whole: Symbol, group: Sequence[Any], op: Any, side: int) -> dict[Symbol, Symbol]:
    """One operation on all slices of a run, and the slices of its result."""
    trace = graph.trace
    start, stop = group[0][0], group[-1][1]
    mine = whole if (start, stop) == (0, whole.shape[-1]) else columns(graph, whole, start, stop)
    others = [other for *_, other in group]
    if others[0] in graph.once:
        other = trace.node(concatenate_, others, {"axis": len(others[0].shape) - 1})
    else:
        first, last = columns_of(others[0]), columns_of(others[-1])
        assert first is not None and last is not None  # noqa: S101, PT018  # `_fits` saw to it
        source = first[0]
        exact = (first[1], last[2]) == (0, source.shape[-1])
        other = source if exact else columns(graph, source, first[1], last[2])
    both = [mine, other] if side == 0 else [other, mine]
    result = trace.node(op, both, {})
    return {reader: columns(graph, result, a - start, b - start) for a, b, reader, _ in group}
