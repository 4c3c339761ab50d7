"""Loop distribution: what of a body must stay in the loop over time, and what can be done for all steps at once.

Strongly connected components of the body's dependence graph that hold a state stay sequential; everything else is
evaluated once, before, between or after the loops, through the ops' batch rules.
Source: Allen and Kennedy, Automatic translation of Fortran programs to vector form (1987).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from minigrad.ops.indexing import getitem_, scatter_add
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import broadcast_to_, concatenate_, reshape_, transpose_
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.symbol import STOP, Slot, Symbol, is_elementwise
from minigrad.scan.trace import PICKED, Body, order_of

UFUNCS = {
    name: name
    for name in (
        "add", "subtract", "multiply", "divide", "negative", "exp", "log", "log1p", "expm1", "sqrt", "square", "tanh",
        "sin", "cos", "sign", "maximum", "minimum", "power", "equal", "not_equal", "less", "less_equal", "greater",
        "greater_equal", "bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "logical_not",
        "invert", "isfinite", "isnan", "isinf",
    )
} | {"abs": "absolute"}  # fmt: skip
"""The ops that are one call of an array library's function, which writes into a given array."""


class Stage(NamedTuple):
    """A part of a program: nodes of `kind` "once", "batch", "loop" or "final", in their order."""

    kind: str
    nodes: list[Symbol]
    carry: list[int]  # the places of the states that a loop hands on
    tiled: bool = False  # a batch that only the loop after it reads: done in turns with it, for some steps each time


class Stages(NamedTuple):
    """A body taken apart: its stages in order, and where each node went (`loop` counts stages)."""

    stages: list[Stage]
    place: dict[Symbol, str]  # "once", "batch", "loop", "final"
    loop: dict[Symbol, int]  # nodes and carry leaves that live in the loop of a stage


def distribute(body: Body, once_leaves: Sequence[Symbol], rows: Packing | None = None) -> Stages:
    """Take a body apart. `once_leaves` are its leaves that are the same at all steps."""
    order = order_of(body.results, body.leaves)
    once = once_nodes(order, once_leaves)
    final = _final_nodes(order)
    steps = [node for node in order if node not in once and node not in final]
    next_of = {leaf: new for leaf, new in zip(body.carry, body.next, strict=True) if leaf is not new}
    components = _components(steps, next_of, rows.before if rows else {})
    same = once | set(once_leaves)
    merged: set[Symbol] = set()
    if rows is None:
        alone = {node for node in steps if not batchable(node, same)} | _too_large(order, steps)
    else:
        merged = _merged_for_steps(order, rows)
        alone = {node for node in steps if not packable(node, same, rows) or node in merged} | _too_large(order, steps)
    units: list[_Unit] = []
    unit_of: dict[Symbol, _Unit] = {}
    for members in components:  # what a component depends on comes before it
        first = members[0]
        looks_at = unit_of.get(first.inputs[0]) if first not in next_of and is_view(first) else None
        stepwise = first in alone or (looks_at is not None and looks_at.kind == "alone")
        unit = _Unit(members, "loop" if len(members) > 1 else "alone" if stepwise else "batch")
        units.append(unit)
        unit_of |= dict.fromkeys(members, unit)
        for symbol in members:
            for i in [next_of[symbol]] if symbol in next_of else symbol.inputs:
                if i in unit_of and unit_of[i] is not unit:
                    unit.level = max(unit.level, unit.first_level_after(unit_of[i]))
    _as_late_as_readers(merged, units, unit_of)
    place = dict.fromkeys(once, "once") | dict.fromkeys(final, "final")
    place |= {symbol: "batch" if unit.kind == "batch" else "loop" for symbol, unit in unit_of.items()}
    stages = [Stage("once", [node for node in order if node in once], [])]
    loop: dict[Symbol, int] = {}
    for now in range(max((unit.level for unit in units), default=0) + 1):
        batch = [unit.members[0] for unit in units if unit.kind == "batch" and unit.level == now]
        batch = [node for node in batch if node not in next_of]
        loops = [set(unit.members) for unit in units if unit.kind == "loop" and unit.level == now]
        mapped = {unit.members[0] for unit in units if unit.kind == "alone" and unit.level == now}
        tiled: set[Symbol] = set()
        if len(loops) == 1 and not mapped and rows is None:
            tiled = _only_for(batch, loops[0], order, body)
        stages.append(Stage("batch", [node for node in batch if node not in tiled], []))
        stages.append(Stage("batch", [node for node in batch if node in tiled], [], tiled=True))
        stages = [stage for stage in stages if stage.nodes]
        for inside in [*loops, mapped] if mapped else loops:
            loop |= dict.fromkeys(inside, len(stages))
            carry = [i for i, leaf in enumerate(body.carry) if leaf in inside]
            stages.append(Stage("loop", _products_last([node for node in steps if node in inside]), carry))
    stages.append(Stage("final", [node for node in order if node in final], []))
    return Stages(stages, place, loop)


def _products_last(nodes: Sequence[Symbol]) -> list[Symbol]:
    """Nodes in an order in which a product waits for all else that can be done: elementwise calls stay together."""
    waiting, done, ordered = list(nodes), set(nodes), []
    while waiting:
        ready = [node for node in waiting if not any(i in done for i in node.inputs)]
        node = next((node for node in ready if node.op is not matmul), ready[0])
        waiting = [other for other in waiting if other is not node]
        done.discard(node)
        ordered.append(node)
    return ordered


def _only_for(batch: Sequence[Symbol], loop: set[Symbol], order: Sequence[Symbol], body: Body) -> set[Symbol]:
    """The elementwise nodes of a batch that nothing else than a loop reads, directly or one through the other."""
    leaves, results = set(body.leaves), set(body.results)
    readers: dict[Symbol, list[Symbol]] = {}
    for node in order:
        for i in node.inputs:
            readers.setdefault(i, []).append(node)
    found: set[Symbol] = set()
    for node in reversed(batch):
        fits = is_view(node) or is_ufunc(node)
        if fits and node not in results and all(r in loop or r in found for r in readers.get(node, ())):
            found.add(node)
    return {node for node in found if node not in leaves}


def _as_late_as_readers(merged: set[Symbol], units: Sequence[_Unit], unit_of: dict[Symbol, _Unit]) -> None:
    """Make what cannot be stacked, and views of it, in the loop that reads it."""
    for unit in reversed(units):
        for i in unit.members[0].inputs:
            behind = unit_of.get(i)
            if behind is not None and (i in merged or (is_view(i) and i.inputs and i.inputs[0] in merged)):
                behind.level = max(behind.level, unit.level)


class _Unit:
    """A component of the dependence graph, and how many loops have to be over before it can be done."""

    def __init__(self, members: list[Symbol], kind: str) -> None:
        self.members = members
        self.kind = kind  # "loop", "batch", or "alone": a node that has to be done step by step
        self.level = 0

    def first_level_after(self, other: _Unit) -> int:
        if other.kind == "batch" or (self.kind == "alone" == other.kind):
            return other.level
        return other.level + 1


def once_nodes(order: Sequence[Symbol], leaves: Iterable[Symbol]) -> set[Symbol]:
    """The nodes that are the same at all steps: made of captured values and constants alone."""
    once = set(leaves)
    for node in order:
        if not is_sum_over_time(node) and all(i in once for i in node.inputs):
            once.add(node)
    return once & set(order)


def is_sum_over_time(node: Symbol) -> bool:
    """Whether a node is known after the last step only, even if what it adds up is the same at all of them."""
    return node.op is SUM_OVER_TIME or isinstance(node.op, Contraction)


def _final_nodes(order: Sequence[Symbol]) -> set[Symbol]:
    """The nodes that are known after the last step only."""
    final: set[Symbol] = set()
    for node in order:
        if is_sum_over_time(node) or not final.isdisjoint(node.inputs):
            final.add(node)
    return final


class Packing(NamedTuple):
    """Of a body over packed rows: what has rows, and the copy of each state that all but its own loop reads."""

    aligned: set[Symbol]
    before: dict[Symbol, Symbol]
    of_rows: set[Symbol]  # what has rows, or is another view of what has some


class MergedRowsError(ValueError):
    """A body over packed rows that has no program: in it, rows that are one axis with another are computed with."""


def refuse_merged_rows(order: Sequence[Symbol], rows: Packing) -> None:
    """Raise MergedRowsError where an op works element by element on rows that are one with another axis.

    No buffer has the shape of its result. Ordinary gradients have no such op; those taken with care may, which ask
    whether the factors of a product are finite.
    """
    merged: set[Symbol] = set()
    for node in order:
        if node in rows.aligned:
            continue
        if node in rows.of_rows and (node.op is reshape_ or node.inputs[0] in merged):
            merged.add(node)
        elif is_elementwise(node.op) and not merged.isdisjoint(node.inputs):
            raise MergedRowsError(f"`{node.op.name}` of packed rows that are one axis with another")


def _merged_for_steps(order: Sequence[Symbol], rows: Packing) -> set[Symbol]:
    """Copies in which rows and another axis are one, and which something else reads than a sum over all steps."""
    copies = [node for node in order if node.op is reshape_ and not is_view(node)]
    merged = {node for node in copies if node in rows.of_rows and node not in rows.aligned}
    return {i for node in order if not isinstance(node.op, Contraction) for i in node.inputs if i in merged}


def packable(node: Symbol, once: set[Symbol], rows: Packing) -> bool:
    """Whether one call can do a node for the rows of all steps at once: then it does what it does at one step."""
    steps = [i for i in node.inputs if i not in once]
    with_rows = [i in rows.of_rows for i in steps]
    if not any(with_rows):
        return batchable(node, once)
    if node.op in (COPY, SUM_OVER_TIME) or isinstance(node.op, Contraction):
        return all(with_rows)
    if node.op is reshape_ and all(with_rows):
        return True  # rows and another axis become one
    flags = [i in rows.aligned for i in steps]
    return node in rows.aligned and all(flags) and not hasattr(node.op, "on_arrays")


def _components(
    steps: Sequence[Symbol], next_of: dict[Symbol, Symbol], together: dict[Symbol, Symbol] | None = None
) -> list[list[Symbol]]:
    """The strongly connected components, each after what it depends on.

    Source: Tarjan, Depth-first search and linear graph algorithms (1972), without recursion.
    """
    inside = {*steps, *next_of}
    edges = {
        symbol: [i for i in ([next_of[symbol]] if symbol in next_of else symbol.inputs) if i in inside]
        for symbol in [*next_of, *steps]
    }
    for leaf, copied in (together or {}).items():
        if leaf in edges and copied in edges:
            edges[leaf].append(copied)
    for node in steps:
        if node.op is PICKED and node.inputs[0] in edges:
            edges[node.inputs[0]].append(node)  # the results of one op belong together
    index: dict[Symbol, int] = {}
    low: dict[Symbol, int] = {}
    open_: set[Symbol] = set()
    stack: list[Symbol] = []
    components: list[list[Symbol]] = []
    for root, needed in edges.items():
        if root in index:
            continue
        work = [(root, iter(needed))]
        index[root] = low[root] = len(index)
        stack.append(root)
        open_.add(root)
        while work:
            symbol, rest = work[-1]
            for i in rest:
                if i not in index:
                    index[i] = low[i] = len(index)
                    stack.append(i)
                    open_.add(i)
                    work.append((i, iter(edges[i])))
                    break
                if i in open_:
                    low[symbol] = min(low[symbol], index[i])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[symbol])
                if low[symbol] == index[symbol]:
                    members: list[Symbol] = []
                    while not members or members[-1] is not symbol:
                        members.append(stack.pop())
                    open_.difference_update(members)
                    components.append(members)
    return components


def cycles(body: Body, order: Sequence[Symbol], once: set[Symbol]) -> dict[Symbol, int]:
    """What has to stay in loops: the number of its component for each node and state on a cycle."""
    steps = [node for node in order if node not in once]
    next_of = {leaf: new for leaf, new in zip(body.carry, body.next, strict=True) if leaf is not new}
    return {
        symbol: number
        for number, members in enumerate(_components(steps, next_of))
        if len(members) > 1
        for symbol in members
    }


class Contraction:
    """An op that sums over time as it goes; see `sums`."""

    def __init__(self, name: str) -> None:
        self.name = name


PRODUCT_OVER_TIME = Contraction("product_over_time")
"""The sum over steps of a.T @ b, as one product: (n, k), (n, m) to (k, m)."""

OUTER_OVER_TIME = Contraction("outer_over_time")
"""The sum over steps of outer products, as one product a leading index: (..., n, 1), (..., 1, m) to (..., n, m)."""

ROWS_OVER_TIME = Contraction("rows_over_time")
"""The sum over steps and over `axis`."""

SCATTER_OVER_TIME = Contraction("scatter_over_time")
"""The sum over steps of a scatter_add with index arrays."""


def is_ufunc(node: Symbol) -> bool:
    """Whether one call of the array library computes a node element by element, also in place."""
    return is_elementwise(node.op) and node.op.name in UFUNCS


def is_view(node: Symbol) -> bool:
    """Whether a node only looks at its input in another way."""
    if node.op is STOP:
        return True
    if node.op is getitem_:
        return not any(part.__class__ is Slot for part in node.static["index"])
    if node.op is reshape_:
        return is_solid(node.inputs[0])
    return node.op in (transpose_, broadcast_to_)


def is_solid(symbol: Symbol) -> bool:
    """Whether a value of the program is contiguous, so that it can be reshaped without copying."""
    return not is_view(symbol) or (symbol.op in (reshape_, STOP) and is_solid(symbol.inputs[0]))


def batchable(node: Symbol, once: set[Symbol]) -> bool:
    """Whether one call can do a node for all steps at once."""
    if is_elementwise(node.op) or node.op in (SUM_OVER_TIME, COPY, concatenate_, broadcast_to_):
        return True
    if node.op in (getitem_, scatter_add):
        parts = node.static["index"]
        if any(part.__class__ is Slot for part in parts):
            return index_rule(node, once) is not None
    return batched_static(node, [i not in once for i in node.inputs]) is not None


def batched_static(node: Symbol, stacked: Sequence[bool]) -> dict[str, Any] | None:
    """The static arguments for all steps at once, or None; see `Op.batch`."""
    rule = getattr(node.op, "batch_rule", None)
    if rule is None or not any(stacked):
        return None
    return rule(node.static, [i.shape for i in node.inputs], stacked)  # type: ignore[no-any-return]


def index_rule(node: Symbol, once: set[Symbol]) -> str | None:
    """How a node with index arrays is done at once: "rows" of a table, "all" axes indexed, or None."""
    parts = node.static["index"]
    arrays = [part.__class__ is Slot for part in parts]
    x = node.inputs[0]
    if node.op is getitem_ and x in once and arrays == [True]:
        return "rows"
    kinds = [node.inputs[p.place].dtype.kind for p in parts if p.__class__ is Slot]
    whole = x.shape if node.op is getitem_ else node.static["shape"]
    if all(arrays) and len(arrays) == len(whole) and all(k in "iu" for k in kinds) and x not in once:
        return "all"
    return None


def _too_large(order: Sequence[Symbol], steps: Sequence[Symbol]) -> set[Symbol]:
    """Terms of a sum over time that are much larger than what they are made of: added up step by step."""
    inside = set(steps)
    readers: dict[Symbol, int] = {}
    for node in order:
        for i in node.inputs:
            readers[i] = readers.get(i, 0) + 1
    found = set()
    for node in order:
        if node.op is SUM_OVER_TIME and node.inputs[0] in inside and readers[node.inputs[0]] == 1:
            term = node.inputs[0]
            largest = max((math.prod(i.shape) for i in term.inputs), default=0)
            if math.prod(term.shape) > 4 * largest and math.prod(term.shape) > 4096 and not is_view(term):
                found.add(term)
    return found


class _Copy:
    """A value written to a place of its own."""

    name = "copy"
    batch_rule = None


COPY: Any = _Copy()
