"""Rewriting a body so that less of it has to stay in the loop. No rule here knows a cell; each is a law of algebra.

`forward` is applied to a body before it is differentiated, `backward` to what differentiation gives:

- equal values are computed once;
- products that share an operand become one product, and the same operation on adjacent slices one operation on all;
- sigmoid(z) is tanh(z / 2) / 2 + 1 / 2, so that one tanh serves all gates; the halves move into the weights;
- sums and products are reassociated by what changes when: first what is the same at all steps, then what is known for
  all steps at once, last what the loop makes; common factors of the loop are taken out of sums. Never across a `where`;
- sums over time move inwards, where a product of two stacks takes them up.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import Backend
from minigrad.ops.elementwise import add, multiply, negative, sigmoid, subtract, tanh
from minigrad.ops.indexing import getitem_, scatter_add
from minigrad.ops.linalg import matmul
from minigrad.ops.op import WEAK
from minigrad.ops.reductions import sum_
from minigrad.ops.shape import broadcast_to_, concatenate_, reshape_, transpose_
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import (
    PRODUCT_OVER_TIME,
    ROWS_OVER_TIME,
    SCATTER_OVER_TIME,
    cycles,
    once_nodes,
)
from minigrad.scan.names import name_by_inputs
from minigrad.scan.symbol import CONSTANT, Slot, Symbol, current, is_elementwise
from minigrad.scan.trace import Body, Trace, frozen, order_of
from minigrad.tape import careful, recorder, scoped

Rule = Callable[[Symbol], Symbol | None]


def forward(body: Body, backend: Backend) -> Body:
    """A body that computes the same with less in its loop."""
    graph = Graph(body, backend)
    with graph.rewriting():
        graph.apply(graph.shared)
        merge_products(graph)
        merge_slices(graph)
        one_tanh(graph)
        regroup(graph)
        graph.apply(graph.shared)
    name_by_inputs(graph.order)
    return graph.body


def backward(body: Body, backend: Backend) -> Body:
    """The same for the body of a derivative."""
    graph = Graph(body, backend)
    with graph.rewriting():
        graph.apply(graph.shared)
        graph.apply(lambda node: sums_over_time(node, graph.leaves))
        slices_to_concatenations(graph)
        scales_into_weights(graph)
        regroup(graph)
        into_pieces(graph)
        regroup(graph)
        graph.apply(lambda node: sums_over_time(node, graph.leaves))
        graph.apply(graph.shared)
    name_by_inputs(graph.order)
    return graph.body


def _as_it_is(node: Symbol) -> None:
    """The rule that changes nothing."""


class Graph:
    """A body that is being rewritten."""

    def __init__(self, body: Body, backend: Backend) -> None:
        self.body = body
        self.trace = Trace(backend, literal=True)
        self.leaves = set(body.leaves)
        self._shared: dict[Any, Symbol] = {}
        self.look()

    def rewriting(self) -> Any:
        """The scope in which nodes are made."""
        stack = contextlib.ExitStack()
        stack.enter_context(scoped(current, self.trace))
        stack.enter_context(scoped(recorder, None))
        stack.enter_context(scoped(careful, False))
        return stack

    def look(self) -> None:
        """Find out what depends on what."""
        body = self.body
        self.order = order_of(body.results, body.leaves)
        self.once = once_nodes(self.order, body.captured) | set(body.captured)
        self.once |= {node for node in self.order if node.op is CONSTANT}
        self.loop = cycles(body, self.order, self.once)
        self.states = {leaf for leaf in body.carry if leaf in self.loop}
        self.readers: dict[Symbol, list[Symbol]] = {}
        for node in self.order:
            for i in node.inputs:
                self.readers.setdefault(i, []).append(node)
        self.results = set(body.results)

    def reads(self, symbol: Symbol) -> list[Symbol]:
        return self.readers.get(symbol, [])

    def made_in(self, loop: int) -> set[Symbol]:
        """What lives in a loop."""
        return {symbol for symbol, number in self.loop.items() if number == loop}

    def single(self, symbol: Symbol) -> bool:
        """Whether a value is read once and is no result."""
        return len(self.reads(symbol)) == 1 and symbol not in self.results

    def replace(self, found: dict[Symbol, Symbol]) -> None:
        """Put new nodes in the place of old ones."""
        if found:
            self.apply(_as_it_is, dict(found))

    def apply(self, rule: Rule, known: dict[Symbol, Symbol] | None = None) -> None:
        """Rebuild the body, with what the rule gives for each node (None: the node as it is)."""
        known = {} if known is None else known
        new: dict[Symbol, Symbol] = {}

        def moved(symbol: Symbol) -> Symbol:
            """A symbol with everything below it replaced; new nodes are entered too."""
            stack = [symbol]
            while stack:
                s = stack[-1]
                if s in new:
                    stack.pop()
                    continue
                if s in self.leaves:
                    new[s] = s
                    stack.pop()
                    continue
                if s in known and known[s] is not s:
                    target = known[s]
                    if target in new:
                        new[s] = _called(new[target], s)
                        stack.pop()
                    else:
                        stack.append(target)
                    continue
                waiting = [i for i in s.inputs if i not in new]
                if waiting:
                    stack += waiting
                    continue
                inputs = tuple([new[i] for i in s.inputs])
                node = s if all(a is b for a, b in zip(inputs, s.inputs, strict=True)) else _with(s, inputs)
                result = rule(node)
                new[s] = node if result is None else _called(result, s)
                stack.pop()
            return new[symbol]

        body = self.body
        self.body = Body(
            body.carry,
            body.elems,
            body.captured,
            [moved(s) for s in body.next],
            [moved(s) for s in body.stacked],
            [moved(s) for s in body.summed],
        )
        self._shared = {}
        self.look()

    def shared(self, node: Symbol) -> Symbol | None:
        """Equal values once; what does nothing away."""
        better = simpler(node, self.leaves)
        node = node if better is None else better
        if node in self.leaves:
            return node
        if node.op is CONSTANT:
            value = node.static["value"]
            key: Any = (CONSTANT, repr(value) if value.__class__ in WEAK else id(value), node.dtype.char)
        else:
            key = (node.op, *[id(i) for i in node.inputs], frozen(node.static), node.shape, node.dtype.char)
        return self._shared.setdefault(key, node)

    def constant(self, value: Any, dtype: np.dtype[Any]) -> Symbol:
        if value.__class__ in WEAK:
            return self.trace.constant(value, dtype)
        return self.trace.constant(self.trace.backend.asarray(np.asarray(value, dtype)))


def _with(node: Symbol, inputs: tuple[Symbol, ...]) -> Symbol:
    """A node with other inputs of the same form."""
    made = Symbol(node.op, inputs, node.static, node.shape, node.dtype, node.trace, node.number)
    made.name = node.name
    return made


def _called(made: Symbol, old: Symbol) -> Symbol:
    """A new node, under the name of the one in whose place it stands."""
    if made.name is None:
        made.name = old.name
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
    if op is transpose_ and inputs[0].op is matmul and all(len(i.shape) == 2 for i in inputs[0].inputs):
        if node.static["axes"] == (1, 0):  # (a @ b).T = b.T @ a.T, which keeps rows in front
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
            return _with(node, (a.inputs[0], b))
        if b.op is broadcast_to_ and not b.inputs[0].shape and a.shape == node.shape and b.inputs[0].dtype == b.dtype:
            return _with(node, (a, b.inputs[0]))
    return None


def _simpler_sum(node: Symbol) -> Symbol | None:
    a, b = node.inputs
    if _is_zero(b) and a.shape == node.shape and a.dtype == node.dtype:
        return a
    return b if node.op is add and _is_zero(a) and b.shape == node.shape and b.dtype == node.dtype else None


def _moved(symbol: Symbol, axes: tuple[int, ...]) -> Symbol:
    shape = tuple([symbol.shape[a] for a in axes])
    return Symbol(transpose_, (symbol,), {"axes": axes}, shape, symbol.dtype, symbol.trace)


def _transposed(symbol: Symbol, leaves: set[Symbol]) -> Symbol:
    """A matrix transposed, as simply as possible."""
    moved = _moved(symbol, (1, 0))
    better = simpler(moved, leaves)
    return moved if better is None else better


def _is_zero(symbol: Symbol) -> bool:
    if symbol.op is broadcast_to_:
        symbol = symbol.inputs[0]
    return symbol.op is CONSTANT and symbol.static["value"].__class__ in WEAK and symbol.static["value"] == 0


# ---- products that share an operand, operations on adjacent slices -------------------------------------------------


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


def columns(graph: Graph, whole: Symbol, start: int, stop: int) -> Symbol:
    """Some columns: a slice of the last axis."""
    index = (slice(None),) * (len(whole.shape) - 1) + (slice(start, stop),)
    return graph.trace.node(getitem_, [whole], {"index": index})


def columns_of(node: Symbol) -> tuple[Symbol, int, int] | None:
    """What a slice of the last axis is a slice of, and its bounds."""
    if node.op is not getitem_:
        return None
    parts, whole = node.static["index"], node.inputs[0]
    if any(p is None or (p.__class__ is not slice and p is not Ellipsis) for p in parts) or not whole.shape:
        return None
    if Ellipsis in [p for p in parts if p.__class__ is not Slot]:
        at = next(i for i, p in enumerate(parts) if p is Ellipsis)
        parts = parts[:at] + (slice(None),) * (len(whole.shape) - len(parts) + 1) + parts[at + 1 :]
    parts = parts + (slice(None),) * (len(whole.shape) - len(parts))
    bounds = [p.indices(n) for p, n in zip(parts, whole.shape, strict=True)]
    if any(step != 1 for *_, step in bounds):
        return None
    if any((a, b) != (0, n) for (a, b, _), n in zip(bounds[:-1], whole.shape[:-1], strict=True)):
        return None
    start, stop, _ = bounds[-1]
    return (whole, start, stop) if stop > start else None


def merge_slices(graph: Graph) -> None:
    """The same operation on adjacent slices is one operation on all of them, again and again."""
    for _ in range(32):
        found = _mergeable(graph)
        if not found:
            return
        graph.replace(found)


def _mergeable(graph: Graph) -> dict[Symbol, Symbol]:
    slabs: dict[Symbol, list[tuple[int, int, Symbol]]] = {}
    for node in graph.order:
        cut = columns_of(node)
        if cut is not None and cut[0] not in graph.once:
            slabs.setdefault(cut[0], []).append((cut[1], cut[2], node))
    for whole, cuts in slabs.items():
        cuts.sort(key=lambda cut: cut[:2])
        for op in (add, subtract, multiply):
            for side in (0, 1):
                group = _group(graph, whole, cuts, op, side)
                if len(group) > 1:
                    return _merged(graph, whole, group, op, side)
    return {}


def _group(
    graph: Graph, whole: Symbol, cuts: Sequence[tuple[int, int, Symbol]], op: Any, side: int
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


# ---- one tanh for all gates ----------------------------------------------------------------------------------------


def one_tanh(graph: Graph) -> None:
    """sigmoid as tanh (as the op itself computes it), and one tanh for adjacent slices of either."""
    slabs: dict[Symbol, list[tuple[int, int, Symbol]]] = {}
    alone: list[Symbol] = []
    for node in graph.order:
        if node.op not in (sigmoid, tanh) or node in graph.once or node.dtype.kind != "f":
            continue
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
                cut = columns_of(reader)
                assert cut is not None  # noqa: S101  # `_untouched` saw to it
                found[reader] = columns(graph, inside, cut[1], cut[2])
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
        if x in graph.once or x not in graph.loop:
            return True
        if x.op in (add, subtract) and (root or graph.single(x)):
            return all(cheap(i, False) for i in x.inputs)
        return (
            x.op is matmul and (root or graph.single(x)) and x.inputs[1] in graph.once and len(x.inputs[1].shape) == 2
        )

    def push(x: Symbol) -> Symbol:
        if x in graph.once:
            return trace.node(multiply, [x, factor], {})
        if x.op in (add, subtract):
            return trace.node(x.op, [push(i) for i in x.inputs], {})
        if x.op is matmul and x.inputs[1] in graph.once and len(x.inputs[1].shape) == 2:
            return trace.node(matmul, [x.inputs[0], trace.node(multiply, [x.inputs[1], factor], {})], {})
        return trace.node(multiply, [x, factor], {})

    return push(x) if cheap(x, root) else trace.node(multiply, [x, factor], {})


# ---- sums and products, by what changes when -----------------------------------------------------------------------


def regroup(graph: Graph) -> None:
    """Reassociate the sums and products of each loop, and take common factors of the loop out of sums."""
    found: dict[Symbol, Symbol] = {}
    for node in graph.order:
        if node.op in (add, subtract, multiply, negative) and node in graph.loop and node.dtype.kind == "f":
            readers = graph.reads(node)
            inner = (
                graph.single(node)
                and readers[0].op in (add, subtract, multiply, negative)
                and graph.loop.get(readers[0]) == graph.loop[node]
            )
            if not inner:
                better = _Polynomial(graph, node).rebuilt()
                if better is not None:
                    found[node] = better
    graph.replace(found)


class _Polynomial:
    """A tree of sums and products within one loop, as a sum of terms: sign, factors of the loop, other factors."""

    def __init__(self, graph: Graph, root: Symbol) -> None:
        self.graph = graph
        self.root = root
        self.loop = graph.made_in(graph.loop[root])

    def inner(self, symbol: Symbol) -> bool:
        return symbol is self.root or (
            symbol in self.loop and self.graph.single(symbol) and symbol.dtype == self.root.dtype
        )

    def terms(self, symbol: Symbol, sign: int) -> list[Term]:
        if self.inner(symbol):
            if symbol.op is add:
                return [*self.terms(symbol.inputs[0], sign), *self.terms(symbol.inputs[1], sign)]
            if symbol.op is subtract:
                return [*self.terms(symbol.inputs[0], sign), *self.terms(symbol.inputs[1], -sign)]
            if symbol.op is negative:
                return self.terms(symbol.inputs[0], -sign)
            if symbol.op is multiply:
                return [self.product(symbol, sign)]
        return [Term(sign, [symbol], [])] if symbol in self.loop else [Term(sign, [], [symbol])]

    def product(self, symbol: Symbol, sign: int) -> Term:
        inside: list[Symbol] = []
        outside: list[Symbol] = []
        stack = [symbol]
        while stack:
            s = stack.pop()
            if self.inner(s) and s.op is multiply:
                stack += reversed(s.inputs)
            elif self.inner(s) and s.op is negative:
                sign = -sign
                stack.append(s.inputs[0])
            else:
                (inside if s in self.loop else outside).append(s)
        return Term(sign, inside, sorted(outside, key=lambda s: s not in self.graph.once))

    def rebuilt(self) -> Symbol | None:
        """The same value with as little as possible in the loop, or None if it is so already."""
        terms = self.terms(self.root, 1)
        groups: dict[tuple[int, ...], list[Term]] = {}
        for term in terms:
            groups.setdefault(tuple(sorted(id(s) for s in term.inside)), []).append(term)
        if len(terms) == 1 and len(terms[0].inside) + len(terms[0].outside) <= 2 and self.root.op is multiply:
            return None
        if len(groups) == len(terms) == 2 and all(len(t.inside) + len(t.outside) <= 2 for t in terms):
            return None
        parts: list[tuple[int, int, Symbol]] = []  # sign, when it is known, value
        outer = groups.pop((), [])
        if outer:
            sign, value = self.total([(t.sign, self.rank(t), self.times(t.outside)) for t in outer])
            parts.append((sign, 1, value))
        for members in groups.values():
            loop = self.times(members[0].inside)
            if len(members) > 1 and all(t.outside for t in members):
                sign, factor = self.total([(t.sign, self.rank(t), self.times(t.outside)) for t in members])
                parts.append((sign, 2, self.times([factor, loop])))
            else:
                parts += [
                    (t.sign, 2, self.times([self.times(t.outside), loop]) if t.outside else loop) for t in members
                ]
        sign, result = self.total(parts)
        if sign < 0:
            result = self.graph.trace.node(negative, [result], {})
        return result if (result.shape, result.dtype) == (self.root.shape, self.root.dtype) else None

    def rank(self, term: Term) -> int:
        """0 for what is the same at all steps."""
        return int(any(s not in self.graph.once for s in term.outside))

    def times(self, factors: Sequence[Symbol]) -> Symbol:
        result = factors[0]
        for factor in factors[1:]:
            result = self.graph.trace.node(multiply, [result, factor], {})
        return result

    def total(self, parts: Sequence[tuple[int, int, Symbol]]) -> tuple[int, Symbol]:
        """A sum, beginning with what is known first, and the sign in front of it."""
        ranked = sorted(parts, key=lambda part: (part[1], -part[0]))
        sign, _, result = ranked[0]
        for s, _, part in ranked[1:]:
            if sign < 0 < s:  # p - r instead of -(r - p)
                sign, result = s, self.graph.trace.node(subtract, [part, result], {})
            else:
                result = self.graph.trace.node(add if s == sign else subtract, [result, part], {})
        return sign, result


class Term(NamedTuple):
    """A product: of what a loop makes, and of what is known before it."""

    sign: int
    inside: list[Symbol]
    outside: list[Symbol]


# ---- sums over time ------------------------------------------------------------------------------------------------


def sums_over_time(node: Symbol, leaves: set[Symbol]) -> Symbol | None:
    """Move a sum over time inwards: through what is linear, into products and sums over rows."""
    if node.op is not SUM_OVER_TIME:
        return None
    x, trace = node.inputs[0], current.get()
    if x in leaves:
        return None
    assert trace is not None  # noqa: S101  # of the rewriting

    def summed(value: Symbol) -> Symbol:
        total = trace.node(SUM_OVER_TIME, [value], {})
        better = sums_over_time(total, leaves)
        return total if better is None else better

    if (
        x.op is matmul
        and all(len(i.shape) == 2 for i in x.inputs)
        and x.inputs[0].op is transpose_
        and x.inputs[0] not in leaves
    ):
        rows = x.inputs[0].inputs[0]
        return Symbol(PRODUCT_OVER_TIME, (rows, x.inputs[1]), {}, x.shape, x.dtype, trace)
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


# ---- gradients of slices -------------------------------------------------------------------------------------------


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
    if scale is None or rest is None:
        return {}
    trace, found = graph.trace, {}
    column = trace.node(reshape_, [scale], {"shape": (scale.shape[0], 1)})
    for reader in graph.reads(node):
        if reader.op is matmul and reader.inputs[0] is node and reader.inputs[1] in graph.once:
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


def _take_scale(graph: Graph, node: Symbol, root: bool) -> tuple[Symbol | None, Symbol | None]:
    """A product without a factor that is one row for all steps, and that factor."""
    if node.op is not multiply or not (root or graph.single(node)):
        return None, None
    for factor, other in (node.inputs, node.inputs[::-1]):
        if factor in graph.once and len(factor.shape) == 1 and other.shape == node.shape and node.dtype == other.dtype:
            return other, factor
    for place, inner in enumerate(node.inputs):
        rest, factor = _take_scale(graph, inner, False)
        if rest is not None and factor is not None:
            inputs = [rest, node.inputs[1]] if place == 0 else [node.inputs[0], rest]
            return graph.trace.node(multiply, inputs, {}), factor
    return None, None


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
                        and other.shape == node.shape == joined.shape
                        and graph.loop.get(other) != graph.loop[node]
                    ):
                        found[node] = _piecewise(graph, joined, other)
        if not found:
            return
        graph.replace(found)


def _piecewise(graph: Graph, joined: Symbol, other: Symbol) -> Symbol:
    parts, start = [], 0
    for piece in joined.inputs:
        stop = start + piece.shape[-1]
        parts.append(graph.trace.node(multiply, [piece, columns(graph, other, start, stop)], {}))
        start = stop
    return graph.trace.node(concatenate_, parts, joined.static)
