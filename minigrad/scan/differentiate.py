"""The derivative of a body, found with the ordinary rules: a body again, with time reversed.

Its state are the cotangents of the state, its inputs the cotangents of what was stacked (and what the rules need of
the forward steps), and it sums over time what flows into captured values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minigrad.backend import Backend
from minigrad.ops.op import Op, complex_numbers
from minigrad.ops.shape import broadcast_to_
from minigrad.scan.symbol import CAPTURED, CONSTANT, ELEM, Kind, Symbol, constant_of, current, filled, slots
from minigrad.scan.trace import PICKED, Body, Trace, order_of
from minigrad.tape import Leaf, Record, careful, recorder, scoped


class _SumOverTime(Op):
    """The sum of a value over all steps: known after the last one. Its cotangent is that of every step."""

    def pull(self, g: Any, out: Any, values: Any, static: Any, wanted: Any) -> Any:
        return (g,)

    def push(self, tangents: Any, out: Any, values: Any, static: Any) -> Any:
        trace = current.get()
        assert trace is not None  # noqa: S101  # tangents are traced
        return trace.node(self, [tangents[0]], {})


def _forward(xp: Any, x: Any) -> Any:
    return x


SUM_OVER_TIME = _SumOverTime(_forward, "sum_over_time", register=False)


class Derivative(NamedTuple):
    """The body of a derivative, and which of the forward body's values its parts belong to.

    `active` are the places of the state's leaves that carry cotangents; its inputs are those of the forward body
    followed by the cotangents of `given`, the places of the stacked outputs; its captured values those of the forward
    body followed by the cotangents of its summed outputs. It stacks the gradients of the inputs at `elems` and sums
    those of the captured values at `captured`.
    """

    body: Body
    active: list[int]
    given: list[int]
    elems: list[int]
    captured: list[int]
    trace: Trace


def active_carry(body: Body, wanted: set[Symbol]) -> set[Symbol]:
    """What depends on a wanted leaf in any step, and is floating: wanted leaves, and states that they reach.

    Raises TypeError where a gradient would have to pass through complex numbers.
    """
    order = order_of(body.results, body.leaves)
    found = {leaf for leaf in wanted if leaf.dtype.kind == "f"}
    while True:
        live = set(found)
        for node in order:
            if node.dtype.kind in "fc" and _may_have_rules(node) and not live.isdisjoint(node.inputs):
                if node.dtype.kind == "c":
                    raise complex_numbers(node.op.name)
                live.add(node)
        grown = {leaf for leaf, new in zip(body.carry, body.next, strict=True) if new in live}
        if grown <= found:
            return found
        found |= grown


def has_rules(node: Symbol) -> bool:
    """Whether a gradient can pass through a node."""
    return node.dtype.kind == "f" and _may_have_rules(node)


def _may_have_rules(node: Symbol) -> bool:
    return (type(node.op) is not Op and hasattr(node.op, "pull")) or node.op is PICKED


def differentiate(
    body: Body, wanted: set[Symbol], given: Sequence[int], backend: Backend, with_care: bool | str, once: set[Symbol]
) -> Derivative:
    """The derivative by the leaves `wanted`, from the cotangents of the stacked outputs at `given` (and of all others).

    The nodes in `once` are the same at all steps: gradients by them are summed over time first.
    """
    trace = Trace(backend, literal=True)
    found = active_carry(body, wanted)
    active = [i for i, leaf in enumerate(body.carry) if leaf in found]
    elems = [i for i, leaf in enumerate(body.elems) if leaf in found]
    captured = [i for i, leaf in enumerate(body.captured) if leaf in found]
    order = order_of(body.results, body.leaves)
    with scoped(current, trace), scoped(careful, with_care), scoped(recorder, None):
        state = [_cotangent(trace, CAPTURED, body.carry[i]) for i in active]
        stacked = [_cotangent(trace, ELEM, body.stacked[i]) for i in given]
        summed = [_cotangent(trace, CAPTURED, s) for s in body.summed]
        roots = [(body.next[i], g) for i, g in zip(active, state, strict=True)]
        roots += [(body.stacked[i], g) for i, g in zip(given, stacked, strict=True)]
        roots += list(zip(body.summed, summed, strict=True))
        steps = [node for node in order if node not in once]
        reached = [i for node in [*steps, *(root for root, _ in roots)] for i in (*node.inputs, node)]
        boundary = {i for i in reached if i in once and i.op is not CONSTANT}
        totals = _pulled(trace, steps, found | boundary, roots)
        if once:
            sums = [(node, _summed(trace, totals[node])) for node in order if node in boundary and node in totals]
            inside = _pulled(trace, [node for node in order if node in once], found, sums)
        else:
            inside = {}
        zeros = _Zeros(trace)
        parts = [totals[leaf] if leaf in totals else zeros.like(leaf) for leaf in (body.carry[i] for i in active)]
        xs = [totals[leaf] if leaf in totals else zeros.like(leaf) for leaf in (body.elems[i] for i in elems)]
        finals = []
        for i in captured:
            leaf = body.captured[i]
            terms = [_summed(trace, totals[leaf])] if leaf in totals else []
            terms += [inside[leaf]] if leaf in inside else []
            finals.append(terms[0] + terms[1] if len(terms) == 2 else terms[0] if terms else zeros.like(leaf))
        for leaf, g in zip([body.captured[i] for i in captured], finals, strict=True):
            _named(g, leaf)
    derivative = Body(state, [*body.carry, *body.elems, *stacked], [*body.captured, *summed], parts, xs, finals)
    return Derivative(derivative, active, list(given), elems, captured, trace)


class _Zeros:
    """Gradients of what nothing depends on."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def like(self, leaf: Symbol) -> Symbol:
        zero = self.trace.constant(0.0, leaf.dtype)
        return broadcast_to_(zero, shape=leaf.shape) if leaf.shape else zero


def _summed(trace: Trace, value: Symbol) -> Symbol:
    return trace.node(SUM_OVER_TIME, [value], {})


def _named(g: Any, node: Symbol) -> Any:
    """A gradient, called after what it is the gradient of."""
    if g.__class__ is Symbol and g.name is None and node.name is not None:
        g.name = f"d_{node.name}"
    return g


def _cotangent(trace: Trace, kind: Kind, of: Symbol) -> Symbol:
    leaf = trace.leaf(kind, of.shape, of.dtype)
    _named(leaf, of)
    return leaf


def _pulled(
    trace: Trace, order: Sequence[Symbol], targets: set[Symbol], roots: Sequence[tuple[Symbol, Symbol]]
) -> dict[Symbol, Symbol]:
    """The gradients of the targets: the backward walk, on symbols, where nothing is in place."""
    records: dict[Symbol, Record] = {leaf: Leaf(leaf) for leaf in targets}
    for node in order:
        if node in records or not has_rules(node):
            continue
        parents = [records.get(i) for i in node.inputs]
        if any(parents):
            values = [constant_of(i) for i in node.inputs]
            records[node] = Record(node.op, values, parents, filled(node.static, values), node, None)
    totals: dict[Symbol, Symbol] = {}

    def add(symbol: Symbol, g: Symbol) -> None:
        g = trace.symbol_of(g)
        totals[symbol] = totals[symbol] + g if symbol in totals else g

    for symbol, g in roots:
        if symbol in records:
            add(symbol, g)
    for node in reversed(order):
        record = records.get(node)
        if node not in totals or record is None or record.__class__ is Leaf:
            continue
        if node.op is PICKED:
            cotangents: Any = totals.setdefault(node.inputs[0], {})  # type: ignore[arg-type]
            place, g = node.static["place"], totals.pop(node)
            cotangents[place] = cotangents[place] + g if place in cotangents else g
            continue
        count = len(record.values) - _slot_count(node)
        gradients = record.op.pull(
            _named(totals.pop(node), node), node, record.values[:count], record.static, record.parents[:count]
        )
        for symbol, parent, gradient in zip(node.inputs, record.parents, gradients, strict=False):
            if parent is not None and gradient is not None:
                add(symbol, gradient)
    return {target: _named(totals[target], target) for target in targets if target in totals}


def _slot_count(node: Symbol) -> int:
    return slots(node.static) if node.static else 0


class Tangent(NamedTuple):
    """The body of a forward derivative: the body itself, with tangents beside those values that have some."""

    body: Body
    carry: list[int]
    elems: list[int]
    captured: list[int]
    stacked: list[int]
    summed: list[int]


def push_forward(body: Body, given: frozenset[int], backend: Backend, with_care: bool | str) -> Tangent:
    """The tangents of the results from those of the leaves at `given`."""
    trace = Trace(backend, literal=True)
    found = active_carry(body, {body.leaves[i] for i in given})
    places = [[i for i, leaf in enumerate(part) if leaf in found] for part in (body.carry, body.elems, body.captured)]
    with scoped(current, trace), scoped(careful, with_care), scoped(recorder, None):
        tangents: dict[Symbol, Any] = {}  # of several results, a dict of them by their place
        leaves: list[list[Symbol]] = []
        for part, chosen in zip((body.carry, body.elems, body.captured), places, strict=True):
            leaves.append([trace.leaf(CAPTURED, part[i].shape, part[i].dtype) for i in chosen])
            tangents |= {part[i]: leaf for i, leaf in zip(chosen, leaves[-1], strict=True)}
        for node in order_of(body.results, body.leaves):
            if not has_rules(node):
                continue
            incoming = [tangents.get(i) for i in node.inputs]
            if node.op is PICKED and incoming[0] is not None:
                if node.static["place"] in incoming[0]:
                    tangents[node] = trace.symbol_of(incoming[0][node.static["place"]])
            elif any(t is not None for t in incoming):
                values = [constant_of(i) for i in node.inputs]
                count = len(values) - _slot_count(node)
                pushed = node.op.push(incoming[:count], node, values[:count], filled(node.static, values))
                tangents[node] = pushed if pushed.__class__ is dict else trace.symbol_of(pushed)
        zeros = _Zeros(trace)
        new = [tangents[n] if n in tangents else zeros.like(n) for n in (body.next[i] for i in places[0])]
        stacked = [i for i, s in enumerate(body.stacked) if s in tangents]
        summed = [i for i, s in enumerate(body.summed) if s in tangents]
    whole = Body(
        [*body.carry, *leaves[0]],
        [*body.elems, *leaves[1]],
        [*body.captured, *leaves[2]],
        [*body.next, *new],
        [tangents[body.stacked[i]] for i in stacked],
        [tangents[body.summed[i]] for i in summed],
    )
    carry, elems, captured = places
    return Tangent(whole, carry, elems, captured, stacked, summed)
