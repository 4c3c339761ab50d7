"""Sums and products of a loop, by what changes when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minigrad.ops.elementwise import add, multiply, negative, subtract
from minigrad.scan.rewrite.graph import Graph
from minigrad.scan.symbol import Symbol


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
        """Whether a value belongs to the tree."""
        return symbol is self.root or (
            symbol in self.loop and self.graph.single(symbol) and symbol.dtype == self.root.dtype
        )

    def terms(self, symbol: Symbol, sign: int) -> list[Term]:
        """A value of the tree as terms."""
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
        """A product of the tree as one term."""
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
        if any(s.dtype != self.root.dtype for t in terms for s in (*t.inside, *t.outside)):
            return None  # in another dtype sums and products are others: of booleans, of small integers
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
        """A product."""
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
