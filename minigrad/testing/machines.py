"""State machines that hunt for bugs of the tape: they write random programs, run them line by line, and check all.

`GraphMachine` builds graphs and walks them; `ViewMachine` writes into arrays wherever it can. Both keep a reference
that knows nothing of tapes: it stores what every result was made of, with copies of the numbers, and differentiates by
plain recursion, path by path. All numbers are small integers and all ops are affine in each operand, so that the
derivative along a basis vector e is f(x + e) - f(x) and everything is compared with ==, without a tolerance.

A failure is a `ProgramError`, whose message is the program: it runs as it stands. Programs compute with NumPy.
Source: Claessen and Hughes, Testing monadic code with QuickCheck (2002), for random programs against a model.
"""

from __future__ import annotations

import contextvars
import gc
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minigrad.testing import strategies
from minigrad.testing.numeric import Floats
from minigrad.testing.report import literal
from minigrad.testing.specs import Shape
from minigrad.testing.strategies import DrawFn

MOST_ELEMENTS, MOST_PATHS, LARGEST = 12, 64, 2.0**16  # of results; what exceeds them is not computed
EXACT = 2.0**53  # float64 adds integers below this exactly, in any order

SHAPES: Sequence[Shape] = ((), (1,), (2,), (3,), (2, 1), (2, 2), (2, 3), (1, 3))


# ---- the program ---------------------------------------------------------------------------------------------------


class ProgramError(AssertionError):
    """A program that a machine wrote went wrong; the message says where, and ends with the program."""


class Program:
    """Lines of Python, each run when it is written; a failure shows all of them.

    They have a context of their own: what they leave open ends with them.

    >>> program = Program("import minigrad as mg")
    >>> program.run("x0 = mg.tensor(2.0, requires_grad=True)")
    >>> program.run("(x0 * x0).backward()")
    >>> program.expect("x0.grad", np.array(3.0))
    Traceback (most recent call last):
    minigrad.testing.machines.ProgramError: x0.grad is np.array(4.0), expected np.array(3.0)
    <BLANKLINE>
    import minigrad as mg
    x0 = mg.tensor(2.0, requires_grad=True)
    (x0 * x0).backward()
    assert np.array_equal(x0.grad, np.array(3.0))
    """

    def __init__(self, header: str) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.context = contextvars.copy_context()
        self.run(header)

    def run(self, text: str) -> None:
        """Write and run some lines, which must not raise."""
        self.lines.append(text)
        try:
            self.context.run(exec, text, self.names)  # what is shown is what was run: it is the same text
        except Exception as error:
            raise self.failure(f"the last line raised {type(error).__name__}: {error}") from error

    def refuses(self, text: str, error: str, words: str) -> None:
        """Write and run a line that must raise this error, with these words in its message."""
        self.run(
            f"try:\n    {text}\nexcept {error} as error:\n    assert {words!r} in str(error), error\n"
            f"else:\n    raise AssertionError('nothing was raised, expected {error}')"
        )

    def value(self, text: str) -> Any:
        """What an expression is at this point."""
        return self.context.run(eval, text, self.names)

    def expect(self, text: str, expected: Floats | None) -> None:
        """Fail unless an expression is this array, exactly, or None."""
        got = self.value(text)
        if expected is None:
            agrees = got is None
        else:
            agrees = type(got) is np.ndarray and got.dtype == expected.dtype and np.array_equal(got, expected)
        if agrees:
            return
        needed = f"{text} is None" if expected is None else f"np.array_equal({text}, {literal(expected)})"
        raise self.failure(f"{text} is {literal(got)}, expected {literal(expected)}", f"assert {needed}")

    def failure(self, problem: str, *last: str) -> ProgramError:
        """The error that says what is wrong and shows the program, with a last line that was not run yet."""
        return ProgramError("\n".join([problem, "", *self.lines, *last]))


# ---- the reference -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Memory:
    """One array object. `exact`: the machine knows whether it is writeable; `frozen`: a record keeps it from that."""

    array: Floats  # the reference's own: a view wherever minigrad's is one
    root: Memory | None = None  # what it is a view of
    exact: bool = True
    born_writeable: bool = True
    frozen: bool = False

    @property
    def writeable(self) -> bool:
        return self.born_writeable and not self.frozen

    def chain(self) -> list[Memory]:
        """This array object and the one that it is a view of."""
        return [self] if self.root is None else [self, self.root]


@dataclass(eq=False)
class Node:
    """A variable of the program, a tensor or an array: its numbers now and, if it is tracked, how it was made."""

    name: str
    value: Floats
    tracked: bool = False
    made: Made | None = None
    place: int = 0  # among the outputs of what made it
    grad: Floats | None = None  # of a leaf: what .grad must be
    walked: bool = False  # a backward walk has freed this very node
    watched: bool = False  # made under a Tape: its record is there to be looked at, even when it was freed
    raw: bool = False  # an array, and no tensor
    memory: Memory = field(init=False)

    @property
    def leaf(self) -> bool:
        return self.tracked and self.made is None

    @property
    def parents(self) -> Sequence[Node | None]:
        return () if self.made is None else self.made.parents

    @property
    def paths(self) -> int:
        """On how many ways the recursion goes down from here."""
        return sum(parent.paths for parent in self.parents if parent is not None) if self.made else 1


class Made:
    """One call: its function of arrays, and its operands as they were at the time."""

    def __init__(self, function: Callable[..., list[Floats]], operands: Sequence[Node], code: str = "") -> None:
        self.function = function
        self.code = code
        self.parents = [node if node.tracked else None for node in operands]
        self.given = [node.value for node in operands]
        self.values = [array.copy() for array in self.given]
        self.holds = [node.memory for node in operands if node.leaf or not node.tracked]
        self.lent: list[Memory] = []  # what others got to see of what it needs
        self.freed = False
        self._jacobians: dict[tuple[int, int], Floats] = {}

    def jacobian(self, place: int, k: int) -> Floats:
        """The derivative of an output by operand k: one row for each element of the output.

        ValueError if two steps along a basis vector make different differences: then the function is not affine.
        """
        if (place, k) not in self._jacobians:
            start = self.function(*self.values)[place]
            columns = np.zeros((start.size, self.values[k].size))
            for i in range(self.values[k].size):
                moved = [array.copy() for array in self.values]
                moved[k].flat[i] += 1.0
                once = self.function(*moved)[place].copy()  # it may be a view of what moves on
                moved[k].flat[i] += 1.0
                columns[:, i] = (once - start).ravel()
                if not np.array_equal(self.function(*moved)[place] - once, once - start):
                    raise ValueError(
                        f"the reference is not affine in operand {k}: {self.code}; machines compare exactly"
                    )
            self._jacobians[place, k] = columns
        return self._jacobians[place, k]


@dataclass(frozen=True)
class Flow:
    """What one path hands to a node: the cotangent, a bound on every sum inside it, and the user it came from."""

    node: Node
    user: Node | None
    g: Floats
    bound: Floats


def flows(node: Node, g: Floats, bound: Floats | None = None, user: Node | None = None) -> Iterator[Flow]:
    """Reverse mode by recursion: the cotangent g of a node, and all that follows from it below."""
    bound = np.abs(g) if bound is None else bound
    yield Flow(node, user, g, bound)
    for k, parent in enumerate(node.parents):
        if parent is not None and node.made is not None:
            d = node.made.jacobian(node.place, k)
            shape = node.made.values[k].shape
            below = (g.ravel() @ d).reshape(shape)
            yield from flows(parent, below, (bound.ravel() @ np.abs(d)).reshape(shape), node)


def kept(nodes: Iterable[Node]) -> set[Node]:
    """The nodes whose records these nodes keep alive."""
    found: set[Node] = set()
    stack: list[Node | None] = list(nodes)
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += () if node.walked and not node.watched else node.parents
    return found


def below(node: Node) -> set[Node]:
    """The tracked nodes that a walk from here must pass, whether they were freed or not."""
    found: set[Node] = set()
    stack: list[Node | None] = [node]
    while stack:
        current = stack.pop()
        if current is not None and current not in found:
            found.add(current)
            stack += current.parents
    return found


def is_freed(node: Node) -> bool:
    """Whether a walk has freed the record of a result."""
    return node.made is not None and node.made.freed


# ---- ops -----------------------------------------------------------------------------------------------------------


def _no_static(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {}


def _any_shapes(*shapes: Shape) -> bool:
    return True


@dataclass(frozen=True)
class GraphOp:
    """An op that a machine may write: an expression of its operands {0}, {1}, ... and of static arguments by name.

    `reference` is the same function on NumPy arrays. It must be affine in each operand by itself, with integer
    coefficients, and may return a list of arrays. `fits` tells for one shape, then two, ... whether these first
    operands go together; `static` draws the other arguments. With several outputs, `joint` says that one record made
    them all. An op that `transforms` a function makes several records; the function takes operand `captured` from
    outside. `constant`: no gradient passes.

    >>> double = GraphOp("{0} + {0}", lambda a: a + a)
    >>> double.code.format("x3")
    'x3 + x3'
    """

    code: str
    reference: Callable[..., Any]
    operands: int = 1
    fits: Callable[..., bool] = _any_shapes
    static: Callable[[DrawFn, Sequence[Shape]], dict[str, Any]] = _no_static
    joint: bool = False
    captured: int | None = None
    constant: bool = False

    @property
    def transforms(self) -> bool:
        return self.captured is not None


def broadcasting(*shapes: Shape) -> bool:
    """Whether shapes broadcast together."""
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def alike(*shapes: Shape) -> bool:
    """Whether all shapes are the same."""
    return len(set(shapes)) == 1


def has_axis(*shapes: Shape) -> bool:
    """Whether an array has a first axis, which is not empty."""
    return all(bool(shape) and shape[0] > 0 for shape in shapes)


def joining(*shapes: Shape) -> bool:
    """Whether shapes differ along their first axis only."""
    return all(shapes) and len({shape[1:] for shape in shapes}) == 1


def multiplying(*shapes: Shape) -> bool:
    """Whether shapes fit in a matrix product."""
    if not all(shapes):
        return False
    if len(shapes) == 1:
        return True
    a, b = shapes
    return a[-1] == b[-2 if len(b) > 1 else -1] and broadcasting(a[:-2], b[:-2])


def _basic(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"index": draw(strategies.basic_index(shapes[0]))}


def _rows(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"index": draw(strategies.int_index(shapes[0][0], max_dims=1))}


def _reduced(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"axis": draw(strategies.axes(len(shapes[0]))), "keepdims": draw(st.booleans())}


def _mask(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"mask": draw(strategies.bool_array(np.broadcast_shapes(*shapes)))}


def _cuts(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"indices_or_sections": sorted(draw(st.lists(st.integers(0, shapes[0][0]), min_size=1, max_size=2)))}


def _gradient_of_square(a: Floats, c: Floats) -> Floats:
    return 2.0 * a * c


OPS: Mapping[str, GraphOp] = {
    "add": GraphOp("{0} + {1}", np.add, 2, broadcasting),
    "subtract": GraphOp("{0} - {1}", np.subtract, 2, broadcasting),
    "multiply": GraphOp("{0} * {1}", np.multiply, 2, broadcasting),
    "matmul": GraphOp("{0} @ {1}", np.matmul, 2, multiplying),
    "negative": GraphOp("-{0}", np.negative),
    "transpose": GraphOp("mg.transpose({0})", np.transpose),
    "sum": GraphOp("mg.sum({0}, axis={axis}, keepdims={keepdims})", np.sum, static=_reduced),
    "getitem": GraphOp("{0}[{index}]", lambda a, index: a[index], static=_basic),
    "rows": GraphOp("{0}[{index}]", lambda a, index: a[index], fits=has_axis, static=_rows),
    "where": GraphOp("mg.where({mask}, {0}, {1})", lambda a, b, mask: np.where(mask, a, b), 2, broadcasting, _mask),
    "concatenate": GraphOp("mg.concatenate([{0}, {1}])", lambda *xs: np.concatenate(xs), 2, joining),
    "split": GraphOp("mg.split({0}, {indices_or_sections})", np.split, fits=has_axis, static=_cuts),
    "unstack": GraphOp("unstack({0})", list, fits=has_axis, joint=True),
    "parts": GraphOp("sum(unstack({0}))", lambda a: np.sum(a, axis=0), fits=has_axis),
    "detach": GraphOp("{0}.detach()", np.asarray, constant=True),
    "stop_gradient": GraphOp("mg.stop_gradient({0})", np.asarray, constant=True),
    "checkpoint": GraphOp(
        "mg.checkpoint(lambda a, b, c={2}: (a * b * c, c - a))({0}, {1})",
        lambda a, b, c: [a * b * c, c - a], 3, broadcasting, joint=True, captured=2,
    ),
    "checkpoints": GraphOp(
        "mg.subtract(*mg.checkpoint(lambda a, b, c={2}: (a * b * c, c + b))({0}, {1}))",
        lambda a, b, c: a * b * c - (c + b), 3, broadcasting, captured=2,
    ),
    "grad": GraphOp("mg.grad(lambda a, c={1}: mg.sum(a * a * c))({0})", _gradient_of_square, 2, alike, captured=1),
    "vjp": GraphOp(
        "mg.vjp(lambda a, c={1}: [a * a * c] * 2, {0})[1]([{2}, {2}])[0]",
        lambda a, c, g: 2.0 * g * _gradient_of_square(a, c), 3, alike, captured=1,
    ),
    "jvp": GraphOp(
        "mg.jvp(lambda a, c={1}: a * a * c, ({0},), ({2},))[1]",
        lambda a, c, t: t * _gradient_of_square(a, c), 3, alike, captured=1,
    ),
}  # fmt: skip
"""What `GraphMachine` computes with."""


# ---- what both machines do -----------------------------------------------------------------------------------------


@contextmanager
def without_collector() -> Iterator[None]:
    """Within the block, what is in a cycle is not freed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Machine(RuleBasedStateMachine):
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
        rng = np.random.default_rng(data.draw(strategies.seeds, label="seed"))
        return rng.integers(-3, 4, shape).astype(np.float64)

    def choose(self, data: st.DataObject, label: str, nodes: Sequence[Node]) -> Node:
        """One of these nodes, counted from the newest, in most cases one of the newest: graphs grow deep and knotty."""
        last = len(nodes) - 1
        return nodes[-1 - data.draw(st.integers(0, min(last, 3)) | st.integers(0, last), label=label)]

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
        names = [name for name, op in self.ops.items() if transforms or not op.transforms]
        op = self.ops[data.draw(st.sampled_from(names), label="op")]
        if not pool:
            pool = self.nodes if data.draw(strategies.rarely(), label="stale") else self.sound()
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
        plain = root.value.size == 1 and data.draw(st.booleans(), label="plain")
        g = np.ones(root.value.shape) if plain else self.integers(data, root.value.shape)
        retain = data.draw(st.integers(0, 3), label="retain") > 0
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
        if argument and data.draw(st.booleans(), label="overwritten"):
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


# ---- graphs --------------------------------------------------------------------------------------------------------


class GraphMachine(_Machine):
    """Random graphs: shared nodes, several outputs, walks again and again, transforms, no_grad, a Tape, deletions.

    Run it as a test with `TestGraphs = GraphMachine.TestCase`. Its programs use the ops of `ops`; a subclass may add to
    them, and to `header`, the imports. Raises `ProgramError` for anything that differs from the reference.

    >>> import numpy as np
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> from minigrad.testing.machines import GraphMachine, GraphOp
    >>> class WithMine(GraphMachine):
    ...     ops = {**GraphMachine.ops, "flip": GraphOp("mg.flip({0})", np.flip)}
    >>> run_state_machine_as_test(WithMine, settings=settings(max_examples=2, derandomize=True, database=None))
    """

    header: ClassVar[str] = _Machine.header + "\nfrom minigrad.ops.unstack import unstack"
    ops: ClassVar[Mapping[str, GraphOp]] = OPS

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with something to differentiate by."""
        self._tensor(data, tracked=True)

    @rule(data=st.data(), tracked=st.booleans())
    def new_tensor(self, data: st.DataObject, tracked: bool) -> None:
        """Make a leaf, or a constant."""
        self._tensor(data, tracked)

    def _tensor(self, data: st.DataObject, tracked: bool) -> None:
        value = self.integers(data, data.draw(st.sampled_from(SHAPES), label="shape"))
        node = Node(self.fresh("x"), value, tracked)
        node.memory = Memory(value)
        self.run(f"{node.name} = mg.tensor({literal(value)}{', requires_grad=True' * tracked})", node)

    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        """Compute under a Tape, and walk: what it says of the uses of each operand adds up to what they handed down."""
        lines = [self.plan(data, transforms=False) for _ in range(data.draw(st.integers(1, 3), label="lines"))]
        made = list(self.planned)
        for node in made:
            node.watched = True
        body = [line for line in lines if line is not None] or ["pass"]
        self.run("\n    ".join(["with mg.Tape() as tape:", *body]))
        if data.draw(st.booleans(), label="error"):  # after which everything is recorded as before
            self.run("try:\n    with mg.no_grad(), mg.Tape():\n        raise KeyError\nexcept KeyError:\n    pass")
        roots = [node for node in made if node.tracked]
        found = self.walk(data, roots[-1]) if roots else None
        if found is not None:
            operands = dict.fromkeys(parent for node in made for parent in node.parents if parent is not None)
            for operand in operands:
                parts = [flow.g for flow in found if flow.node is operand and flow.user in made]
                total = np.asarray(sum(parts, np.zeros(operand.value.shape)))
                if operand.name in self.program.names:
                    self.program.expect(f"np.asarray(sum(use.gradient for use in tape.uses({operand.name})))", total)
        self.run("del tape")


# ---- views and writes ----------------------------------------------------------------------------------------------

FEW_SHAPES: Sequence[Shape] = ((2,), (3,), (2, 2))  # so that arrays often fit together
SLICES = (slice(1, None), slice(None, -1), slice(None, None, -1), slice(None))


def _slice(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"index": (draw(st.sampled_from(SLICES)), Ellipsis)}


class ViewMachine(_Machine):
    """Views and writes: what the tape needs is read-only until its record dies, and no write may change a gradient.

    Arrays of the user and views of them, made before and after; tensors that copy and that share; `.data` written to
    and bound again; optimiser steps between forward and backward; copies and pickles. As a test, it is
    `ViewMachine.TestCase`. A view that existed before minigrad saw the array can still write to it: that is a
    documented limit, and such a write is left out. Raises `ProgramError` for anything that differs from the reference,
    which keeps copies.

    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> from minigrad.testing.machines import ViewMachine
    >>> run_state_machine_as_test(ViewMachine, settings=settings(max_examples=2, derandomize=True, database=None))
    """

    ops: ClassVar[Mapping[str, GraphOp]] = {
        name: OPS[name] for name in ("add", "multiply", "matmul", "transpose", "concatenate", "detach")
    } | {"view": GraphOp("{0}[{index}]", lambda a, index: a[index], fits=has_axis, static=_slice)}

    def __init__(self) -> None:
        self.memories: list[Memory] = []
        super().__init__()

    # ---- what is where ---------------------------------------------------------------------------------------

    def memory(self, array: Floats, like: Memory | None = None, exact: bool = True) -> Memory:
        """Note a new array object, which may be a view of one that is known."""
        roots = [memory for memory in self.memories if memory.array is array.base]
        born = like is None or like.writeable
        self.memories.append(Memory(array, roots[0] if roots else None, exact, born))
        return self.memories[-1]

    def place(self, node: Node, operands: Sequence[Node], op: GraphOp) -> None:
        if op.constant:  # a tensor of the same array object
            node.memory = operands[0].memory
            self.lend(operands[0], node.memory)
            return
        node.memory = self.memory(node.value, exact=False)
        if not node.tracked and node.value.base is not None:
            for operand in operands:
                self.lend(operand, node.memory)

    def lend(self, node: Node | None, memory: Memory) -> None:
        """Others get to see an array that a record may need: it is frozen while that one, or what made it, lives."""
        while node is not None and node.made is not None and not node.made.freed:
            node.made.lent.append(memory)
            node = node.parents[0] if memory.array.base is not None else None

    def living(self) -> list[Node]:
        """The results whose records are there, and not freed."""
        return [node for node in kept(self.nodes) if node.made is not None and not node.made.freed]

    def settle(self) -> None:
        """Freeze what living records hold, and thaw the rest; a view thaws when its base does."""
        needed = {
            part
            for node in self.living()
            if node.made is not None
            for memory in (*node.made.holds, *node.made.lent)
            for part in memory.chain()
        }
        for memory in self.memories:
            if memory in needed:
                memory.frozen = True
            elif needed.isdisjoint(memory.chain()):
                memory.frozen = False

    def is_needed(self, array: Floats) -> bool:
        """Whether a living record computes with numbers of this array."""
        return any(
            np.shares_memory(array, part)
            for node in self.living()
            if node.made is not None
            for part in (*node.made.given, node.value)
        )

    # ---- rules -----------------------------------------------------------------------------------------------

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with an array, a view of it, and a leaf."""
        self._array(data)
        self._view(self.nodes[0], slice(None, None, -1))
        self._tensor(self.nodes[0], "leaf")

    @rule(data=st.data(), index=st.none() | st.sampled_from(SLICES))
    def new_array(self, data: st.DataObject, index: slice | None) -> None:
        """Make an array of the user's own, or a view of one."""
        viewed = [node for node in self.arrays() if node.value.ndim]
        if index is None or not viewed:
            self._array(data)
        else:
            self._view(self.choose(data, "array", viewed), index)

    def _view(self, old: Node, index: slice) -> None:
        node = Node(self.fresh("a"), old.value[index], raw=True)
        node.memory = self.memory(node.value, like=old.memory, exact=old.memory.exact)
        self.run(f"{node.name} = {old.name}[{index!r}]", node)

    def _array(self, data: st.DataObject) -> None:
        value = self.integers(data, data.draw(st.sampled_from(FEW_SHAPES), label="shape"))
        node = Node(self.fresh("a"), value, raw=True)
        node.memory = self.memory(node.value)
        self.run(f"{node.name} = {literal(value)}", node)

    @precondition(lambda self: self.arrays())
    @rule(data=st.data(), kind=st.sampled_from(("leaf", "copy", "share")))
    def new_tensor(self, data: st.DataObject, kind: str) -> None:
        """Make a tensor of an array: a leaf or a constant that copies it, or a constant that shares it."""
        self._tensor(self.choose(data, "array", self.arrays()), kind)

    def _tensor(self, array: Node, kind: str) -> None:
        shared = kind == "share"
        node = Node(self.fresh("x"), array.value if shared else array.value.copy(), kind == "leaf")
        node.memory = array.memory if shared else self.memory(node.value)
        make = {"leaf": "mg.tensor({}, requires_grad=True)", "copy": "mg.tensor({})", "share": "mg.asarray({})"}[kind]
        self.run(f"{node.name} = {make.format(array.name)}", node)

    @precondition(lambda self: self.tensors())
    @rule(data=st.data())
    def see(self, data: st.DataObject) -> None:
        """Take the array out of a tensor."""
        tensor = self.choose(data, "tensor", self.tensors())
        self.lend(tensor, tensor.memory)
        node = Node(self.fresh("a"), tensor.value, raw=True)
        node.memory = tensor.memory
        self.run(f"{node.name} = {tensor.name}.data", node)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """Write into an array, or the array of a tensor: refused while a record needs it, and done otherwise."""
        self.grow(data, 1)
        node = self.choose(data, "array", self.nodes)
        target = node.name
        if not node.raw:
            target = f"{node.name}.data"
            self.lend(node, node.memory)
        self.settle()
        memory = node.memory
        writeable = memory.writeable
        if not memory.exact and not memory.frozen:
            writeable = self.program.value(target).flags.writeable
        number = float(data.draw(st.integers(4, 9), label="number"))
        line = f"{target}[...] = {number}"
        if not writeable:
            self.program.refuses(line, "ValueError", "read-only")
        elif not self.is_needed(node.value):  # else it is a view that existed before, the documented limit
            self.run(line)
            node.value[...] = number
        if not node.raw:
            self.run(f"{node.name}.numpy()[...] = 9.0")  # a copy, so that nothing changes
            self.program.refuses(f"{node.name}[...] = 9.0", "TypeError", "not written to in place")

    @precondition(lambda self: self.leaves())
    @rule(data=st.data())
    def rebind(self, data: st.DataObject) -> None:
        """Give a leaf new data between two computations: an array that it shares, or what an optimiser's step makes."""
        leaf = self.choose(data, "leaf", self.leaves())
        fitting = [node for node in self.arrays() if node.value.shape == leaf.value.shape]
        self.grow(data, 1, pool=[leaf])
        if leaf.grad is not None and np.abs(leaf.grad).max(initial=0) < LARGEST:
            self.run(f"mg.optim.SGD([{leaf.name}], lr=1.0).step()")
            leaf.value = np.asarray(leaf.value - leaf.grad)
            leaf.grad, leaf.memory = None, self.memory(leaf.value)
        elif fitting:
            array = self.choose(data, "array", fitting)
            self.run(f"{leaf.name}.data = {array.name}")
            leaf.value, leaf.memory = array.value, array.memory
        self.grow(data, 1, pool=[leaf])

    @precondition(lambda self: self.tensors())
    @rule(data=st.data(), how=st.sampled_from(("copy.deepcopy({})", "pickle.loads(pickle.dumps({}))", "copy.copy({})")))
    def duplicate(self, data: st.DataObject, how: str) -> None:
        """Copy a tensor with its gradient; of a result, that is refused."""
        old = self.choose(data, "tensor", self.leaves() or self.tensors())
        if old.made is not None:
            self.program.refuses(how.format(old.name), "TypeError", "detach() it first")
            return
        node = Node(self.fresh("x"), old.value.copy(), old.tracked)
        node.grad = None if old.grad is None else old.grad.copy()
        node.memory = self.memory(node.value)
        self.run(f"{node.name} = {how.format(old.name)}", node)

    @invariant()
    def arrays_are_writeable_as_they_should_be(self) -> None:
        """Compare the flags of all arrays: read-only while a record needs them, and as they were before and after."""
        self.settle()
        for node in self.nodes:
            text = node.name if node.raw else f"{node.name}.array"
            if node.memory.exact and self.program.value(text).flags.writeable is not node.memory.writeable:
                raise self.program.failure(
                    f"{text} is {'read-only' if node.memory.writeable else 'writeable'}, and should not be",
                    f"assert {text}.flags.writeable is {node.memory.writeable}",
                )
