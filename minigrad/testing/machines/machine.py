"""What both machines do: they write lines, keep the reference beside, and compare everything."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from minigrad.testing import strategies
from minigrad.testing.collector import without_collector
from minigrad.testing.machines.ops import GraphOp
from minigrad.testing.machines.program import Program
from minigrad.testing.machines.reference import EXACT, Flow, Made, Memory, Node, below, flows, is_freed, kept
from minigrad.testing.numeric import Floats
from minigrad.testing.report import literal
from minigrad.testing.specs import Shape

MOST_ELEMENTS, MOST_PATHS, LARGEST = 12, 64, 2.0**16  # of results; what exceeds them is not computed


@cache  # Hypothesis looks into every new strategy before it draws from it, which takes longer than the draw
def _from_the_newest(count: int) -> st.SearchStrategy[int]:
    """A place in a list, counted from its end: in half of the cases any, else one of the last four."""
    newest = min(count, 4)
    return st.sampled_from([k % newest for k in range(count)] + list(range(count)))


def _small_integers(seed: int, shape: Shape) -> Floats:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)


@cache
def _op_and_stale(names: tuple[str, ...]) -> st.SearchStrategy[tuple[str, bool]]:
    """An op, and whether it may meet what was freed: in one draw, since a draw takes as long as running a line."""
    return st.tuples(st.sampled_from(names), strategies.rarely())


# Of a walk: without a cotangent, retain=True, the cotangent written to afterwards, the seed of its numbers.
_walks = st.tuples(st.booleans(), st.integers(0, 3).map(bool), st.booleans(), strategies.seeds)


class Machine(RuleBasedStateMachine):
    """A program that grows, its variables, and the rules that both machines have."""

    header: ClassVar[str] = "import copy, pickle\nimport minigrad as mg\nimport numpy as np"
    ops: ClassVar[Mapping[str, GraphOp]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.program = Program(self.header)
        self.nodes: list[Node] = []
        self.planned: list[Node] = []  # their lines are written, and not run yet
        self.records: list[tuple[Node, weakref.ref[Any]]] = []
        self.cotangents: dict[str, Floats] = {}
        self._numbers = itertools.count()

    # ---- drawing ---------------------------------------------------------------------------------------------

    def fresh(self, letter: str) -> str:
        """A name that nothing had before."""
        return f"{letter}{next(self._numbers)}"

    def integers(self, data: st.DataObject, shape: Shape) -> Floats:
        """An array of small integers."""
        return _small_integers(data.draw(strategies.seeds, label="seed"), shape)

    def choose(self, data: st.DataObject, label: str, nodes: Sequence[Node]) -> Node:
        """One of these nodes, counted from the newest, in most cases one of the newest: graphs grow deep and knotty."""
        return nodes[-1 - data.draw(_from_the_newest(len(nodes)), label=label)] if len(nodes) > 1 else nodes[0]

    def tracked(self) -> list[Node]:
        return [node for node in self.nodes if node.tracked]

    def tensors(self) -> list[Node]:
        return [node for node in self.nodes if not node.raw]

    def arrays(self) -> list[Node]:
        return [node for node in self.nodes if node.raw]

    def sound(self) -> list[Node]:
        """The variables from which a walk would meet nothing that was freed."""
        return [node for node in self.nodes if not any(is_freed(part) for part in below(node))]

    def leaves(self) -> list[Node]:
        return [node for node in self.nodes if node.leaf]

    # ---- writing ---------------------------------------------------------------------------------------------

    def plan(
        self,
        data: st.DataObject,
        recorded: bool = True,
        transforms: bool = True,
        pool: Sequence[Node] = (),
    ) -> str | None:
        """The line that applies an op to nodes of the pool, or any; None where none fit, or the result is too large."""
        choices = tuple(name for name, op in self.ops.items() if transforms or not op.transforms)
        name, stale = data.draw(_op_and_stale(choices), label="op, stale")
        op = self.ops[name]
        if not pool:
            pool = self.nodes if stale else self.sound()
        operands: list[Node] = []
        for _ in range(op.operands):
            shapes = [node.value.shape for node in operands]
            fitting = [node for node in pool if op.fits(*shapes, node.value.shape)]
            if not fitting:
                return None
            operands.append(self.choose(data, "operand", fitting))
        if all(node.raw for node in operands):
            return None
        freed = op.captured is not None and any(is_freed(node) for node in below(operands[op.captured]))
        if freed and "checkpoint" in op.code:
            return None  # it asks at once, and refuses; a gradient's graph is refused when it is walked
        static = op.static(data.draw, [node.value.shape for node in operands])

        def function(*arrays: Floats) -> list[Floats]:
            out = op.reference(*arrays, **static)
            return [np.asarray(part) for part in out] if isinstance(out, list) else [np.asarray(out)]

        tracked = recorded and not op.constant and any(node.tracked for node in operands)
        several = isinstance(op.reference(*[node.value for node in operands], **static), list)
        names = self._results(function, operands, tracked, op)
        if not names:
            return None
        targets = f"[{', '.join(names)}]" if several else names[0]
        text = {name: literal(value) for name, value in static.items()}
        return f"{targets} = {op.code.format(*[node.name for node in operands], **text)}"

    def _results(
        self, function: Callable[..., list[Floats]], operands: Sequence[Node], tracked: bool, op: GraphOp
    ) -> list[str]:
        """Plan the nodes of the outputs of a call; give their names, or none if one would be too large."""
        values = function(*[node.value for node in operands])
        paths = sum(node.paths for node in operands)
        if paths > MOST_PATHS or any(v.size > MOST_ELEMENTS or np.abs(v).max(initial=0) > LARGEST for v in values):
            return []
        made = None
        for place, value in enumerate(values):
            if tracked and (made is None or not op.joint):
                made = Made(function, operands, op.code)
            node = Node(self.fresh("x"), value, tracked, made, place)
            self.place(node, operands, op)
            self.planned.append(node)
            self.nodes.append(node)
        return [node.name for node in self.planned[len(self.planned) - len(values) :]]

    def place(self, node: Node, operands: Sequence[Node], op: GraphOp) -> None:
        """Note where the numbers of a result are kept."""
        node.memory = Memory(node.value, exact=False)

    def run(self, text: str, *nodes: Node) -> None:
        """Run a text that makes these nodes and those that were planned."""
        self.nodes += nodes
        self.program.run(text)
        for node in (*nodes, *self.planned):
            if not node.raw:
                self.look_at(node)
        self.planned = []
        self.settle()

    def settle(self) -> None:
        """Follow what a line has changed, before the next one changes more."""

    def look_at(self, node: Node) -> None:
        """Check a new tensor, and remember its record."""
        tensor = self.program.names[node.name]
        if not hasattr(tensor, "requires_grad"):
            raise self.program.failure(f"{node.name} is a {type(tensor).__name__}, not a Tensor")
        if tensor.requires_grad is not node.tracked:
            raise self.program.failure(
                f"{node.name}.requires_grad is {tensor.requires_grad}",
                f"assert {node.name}.requires_grad is {node.tracked}",
            )
        if node.tracked:
            self.records.append((node, weakref.ref(tensor.record)))

    def walk(self, data: st.DataObject, root: Node) -> list[Flow] | None:
        """Write a backward walk and expect what it gives; None where it is refused, or too large to be exact.

        Afterwards the cotangent may be written to: it is the caller's, and nothing may share it.
        """
        plain, retain, overwritten, seed = data.draw(_walks, label="plain, retain, overwritten, seed")
        plain = plain and root.value.size == 1
        g = np.ones(root.value.shape) if plain else _small_integers(seed, root.value.shape)
        found = list(flows(root, g))
        if any(flow.bound.max(initial=0) >= EXACT for flow in found):
            return None
        argument = ""
        if not plain:
            argument = self.fresh("g")
            self.run(f"{argument} = {literal(g)}")
            self.cotangents[argument] = g
        passed = below(root)
        if any(is_freed(node) for node in passed):
            self.program.refuses(f"{root.name}.backward({argument})", "RuntimeError", "freed")
            return None
        options = [argument] * bool(argument) + ["retain=True"] * retain
        with without_collector():
            self.run(f"{root.name}.backward({', '.join(options)})")
            for node in passed:
                if node.made is not None and not retain:
                    node.made.freed = node.walked = True
            self.check_that_the_dead_are_gone()
        if argument and overwritten:
            self.run(f"{argument}[...] = 9.0")
            self.cotangents[argument] = np.full(g.shape, 9.0)
        for flow in found:
            if flow.node.leaf:
                flow.node.grad = np.array(flow.g if flow.node.grad is None else flow.node.grad + flow.g)
        return found

    def check_that_the_dead_are_gone(self) -> None:
        """Fail if a record is still there that nothing needs; the collector must be off."""
        alive = kept(self.nodes)
        for node, record in self.records:
            if node not in alive and record() is not None:
                raise self.program.failure(f"the record of {node.name} is still alive, though nothing needs it")
        self.records = [(node, record) for node, record in self.records if node in alive]

    # ---- rules -----------------------------------------------------------------------------------------------

    def grow(self, data: st.DataObject, most: int, recorded: bool = True, pool: Sequence[Node] = ()) -> None:
        """Apply some ops, one after the other. Most rules begin so: Hypothesis leaves some rules out of a whole run."""
        for _ in range(data.draw(st.integers(1, most), label="lines")):
            line = self.plan(data, recorded, pool=pool)
            if line is not None:
                self.run(line if recorded else f"with mg.no_grad():\n    {line}")

    @rule(data=st.data(), recorded=st.sampled_from((True, True, False)))
    def compute(self, data: st.DataObject, recorded: bool) -> None:
        """Apply some ops, now and then with nothing recorded."""
        self.grow(data, 3, recorded)

    @precondition(lambda self: self.tracked())
    @rule(data=st.data())
    def backward(self, data: st.DataObject) -> None:
        """Compute, and walk back from some tensor; where a record on the way was freed, that is an error."""
        self.grow(data, 4)
        self.walk(data, self.choose(data, "root", self.tracked()))

    @precondition(lambda self: any(leaf.grad is not None for leaf in self.leaves()))
    @rule(data=st.data(), in_place=st.booleans())
    def clear(self, data: st.DataObject, in_place: bool) -> None:
        """Clear a gradient, by None or with zeros; no cotangent may share it."""
        leaf = self.choose(data, "leaf", [leaf for leaf in self.leaves() if leaf.grad is not None])
        self.run(f"{leaf.name}.grad[...] = 0.0" if in_place else f"{leaf.name}.grad = None")
        leaf.grad = np.zeros(leaf.value.shape) if in_place else None

    @precondition(lambda self: len(self.nodes) > 2)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """Delete variables: the records that only they reached die at once, without the garbage collector."""
        for _ in range(data.draw(st.integers(1, 3), label="count")):
            node = self.choose(data, "variable", self.nodes)
            if self.leaves() == [node]:
                return  # something is left to differentiate by
            self.nodes.remove(node)
            with without_collector():
                self.run(f"del {node.name}")
                self.check_that_the_dead_are_gone()

    @invariant()
    def everything_is_as_the_reference_says(self) -> None:
        """Compare all values, gradients and cotangents."""
        for node in self.nodes:
            self.program.expect(node.name if node.raw else f"{node.name}.array", node.value)
            if node.leaf:
                self.program.expect(f"{node.name}.grad", node.grad)
        for name, g in self.cotangents.items():
            self.program.expect(name, g)
