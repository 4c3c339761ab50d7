"""A body that is being rewritten."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.backend import Backend
from minigrad.ops.indexing import getitem_
from minigrad.ops.op import WEAK
from minigrad.scan.distribute import (
    cycles,
    once_nodes,
)
from minigrad.scan.places import last_columns
from minigrad.scan.rewrite.simplify import simpler, with_inputs
from minigrad.scan.symbol import CONSTANT, Symbol, current
from minigrad.scan.trace import Body, Trace, frozen, order_of
from minigrad.tape import careful, recorder, scoped

Rule = Callable[[Symbol], Symbol | None]


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
        """What reads a value."""
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
                node = s if all(a is b for a, b in zip(inputs, s.inputs, strict=True)) else with_inputs(s, inputs)
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
        """A number or an array as a node."""
        if value.__class__ in WEAK:
            return self.trace.constant(value, dtype)
        return self.trace.constant(self.trace.backend.asarray(np.asarray(value, dtype)))


def _as_it_is(node: Symbol) -> None:
    """The rule that changes nothing."""


def _called(made: Symbol, old: Symbol) -> Symbol:
    """A new node, under the name of the one in whose place it stands."""
    if made.name is None:
        made.name = old.name
    return made


def columns(graph: Graph, whole: Symbol, start: int, stop: int) -> Symbol:
    """Some columns: a slice of the last axis."""
    index = (slice(None),) * (len(whole.shape) - 1) + (slice(start, stop),)
    return graph.trace.node(getitem_, [whole], {"index": index})


def columns_of(node: Symbol) -> tuple[Symbol, int, int] | None:
    """What a slice of the last axis is a slice of, and its bounds."""
    cut = last_columns(node) if node.op is getitem_ else None
    return None if cut is None else (node.inputs[0], *cut[1:])
