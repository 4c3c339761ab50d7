"""A body in a form with a place for everything that it returns."""

from __future__ import annotations

from collections.abc import Sequence

from minigrad.ops.shape import broadcast_to_, reshape_
from minigrad.scan.distribute import COPY, Packing, cycles, is_view, once_nodes
from minigrad.scan.rewrite.simplify import with_inputs
from minigrad.scan.rows import Alignment, aligned, is_number
from minigrad.scan.symbol import CONSTANT, Symbol
from minigrad.scan.trace import Body, order_of


def frozen_states(body: Body) -> set[Symbol]:
    """The states that no step changes."""
    return {leaf for leaf, new in zip(body.carry, body.next, strict=True) if leaf is new}


def canonical(body: Body, wanted: Sequence[str]) -> Body:
    """A body in which every next state and stacked result is computed, once, into a place of its own."""
    owned: set[Symbol] = set()
    leaves = set(body.leaves)

    def own(symbol: Symbol, like: Symbol) -> Symbol:
        """What computes a value into a place of its own: itself, once, or a copy."""
        plain = symbol not in leaves and symbol.op is not CONSTANT and not is_view(symbol)
        if plain and symbol not in owned and _depends_on_steps(symbol, body):
            owned.add(symbol)
            return symbol
        return _copy(symbol, like)

    new = [n if n is leaf else own(n, leaf) for n, leaf in zip(body.next, body.carry, strict=True)]
    stacked = []
    position = {n: i for i, n in reversed(list(enumerate(body.next)))}
    carried = {leaf: i for i, leaf in enumerate(body.carry)}
    used: set[Symbol] = set()
    for s, want in zip(body.stacked, wanted, strict=True):
        frozen = s in position and new[position[s]] in leaves
        if s in position and not frozen and new[position[s]] not in used:
            target = new[position[s]]  # the states themselves
        elif (s in carried and want == "frame" and new[carried[s]] is not s) or (
            s in owned and s not in used and s not in position
        ):
            target = s
        else:
            target = own(s, s)
        used.add(target)
        stacked.append(target)
    return body._replace(next=new, stacked=stacked)


def with_copies_of_states(body: Body, wanted: Sequence[str], alignment: Alignment) -> tuple[Body, list[str], Packing]:
    """A body over packed rows, in which only a state's own loop reads it, and all others a copy from before each step.

    Rows come and go, so a state stands in one buffer of all rows, of which each step changes the first.
    """
    order = order_of(body.results, body.leaves)
    leaves, frozen = set(body.leaves), frozen_states(body)
    loop = cycles(body, order, once_nodes(order, [*body.captured, *frozen]))
    before = {leaf: _copy(leaf, leaf) for leaf in body.carry if leaf not in frozen}
    new: dict[Symbol, Symbol] = {leaf: leaf for leaf in body.leaves}
    seen_before = dict(before)

    def outside(symbol: Symbol) -> Symbol:
        """What a node outside of a state's loop reads in its place, or in that of a view of it."""
        if symbol not in seen_before:
            inner = outside(symbol.inputs[0]) if symbol not in leaves and is_view(symbol) else None
            changed = inner is not None and inner is not new[symbol.inputs[0]]
            seen_before[symbol] = with_inputs(symbol, [inner]) if changed and inner is not None else new[symbol]
        return seen_before[symbol]

    def state_of(symbol: Symbol) -> Symbol:
        while symbol not in leaves and is_view(symbol):
            symbol = symbol.inputs[0]
        return symbol

    for node in order:
        inputs = [
            outside(i) if state_of(i) in before and loop.get(node, -1) != loop.get(state_of(i), -2) else new[i]
            for i in node.inputs
        ]
        same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
        new[node] = node if same else with_inputs(node, inputs)
    stacked = [outside(s) if state_of(s) in before else new[s] for s in body.stacked]
    result = body._replace(next=[new[s] for s in body.next], stacked=stacked, summed=[new[s] for s in body.summed])
    read = {i for node in order_of(result.results, result.leaves) for i in node.inputs} | set(stacked)
    unread = [before[leaf] for leaf in before if leaf not in loop and before[leaf] not in read]
    result = result._replace(stacked=[*stacked, *unread])
    known = aligned(result, alignment.leaves(body), alignment.rows)
    results = [*result.next, *result.stacked]
    known |= {s for s in results if s.op is COPY and is_number(s) and s.shape[:1] == (alignment.rows,)}
    of_rows = set(known)
    for node in order_of(result.results, result.leaves):
        if (is_view(node) or node.op is reshape_) and node.inputs[0] in of_rows:
            of_rows.add(node)
    return result, [*wanted, *["frame"] * len(unread)], Packing(known, before, of_rows)


def _copy(symbol: Symbol, like: Symbol) -> Symbol:
    """A value in a place of its own, of the form of another."""
    if symbol.op is broadcast_to_ and not symbol.inputs[0].shape and symbol.dtype == symbol.inputs[0].dtype:
        symbol = symbol.inputs[0]  # numbers broadcast by themselves
    copied = Symbol(COPY, (symbol,), {}, like.shape, like.dtype, like.trace)
    copied.name = symbol.name
    return copied


def _depends_on_steps(symbol: Symbol, body: Body) -> bool:
    """Whether a value may be another at another step."""
    frozen = frozen_states(body)
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
