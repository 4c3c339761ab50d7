"""The equations of a cell, as it runs: one step is traced, and what was traced is printed as Python.

The names are those of the local variables in the cell's call and of its attributes. Nothing is looked up in a table, so
a cell that is changed, or one of your own, prints what it does.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.nn.module import attributes, is_module, tensors_of
from minigrad.nn.record import called
from minigrad.nn.run import check_cell
from minigrad.ops.indexing import getitem_
from minigrad.scan.carry import as_leaves
from minigrad.scan.names import LocalNames, identifier, name_by_inputs
from minigrad.scan.symbol import CONSTANT, Slot, Symbol, slots
from minigrad.scan.trace import Trace, order_of, traced
from minigrad.tape import Box, constant
from minigrad.tensor import Tensor

INFIX = {
    "less": ("<", 0), "less_equal": ("<=", 0), "greater": (">", 0), "greater_equal": (">=", 0), "equal": ("==", 0),
    "not_equal": ("!=", 0), "add": ("+", 1), "subtract": ("-", 1), "multiply": ("*", 2), "divide": ("/", 2),
    "matmul": ("@", 2), "power": ("**", 4),
}  # fmt: skip
"""Operators, by the op that they stand for, and how tightly they bind; a minus sign and what needs no brackets."""
MINUS, ATOM = 3, 5
LEFT_FIRST = ("+", "-", "*", "/")  # a - b - c is (a - b) - c; so is a @ b @ c, but (a * b) @ c reads better

POSITIONAL = ("astype", "clip")
"""Functions whose further arguments have other names in NumPy."""

Text = tuple[str, int]  # and how tightly it binds


def equations(cell: Any, inputs: Any, state: Any = None) -> str:
    """What `cell(x, state)` computes, as lines of Python with NumPy's names.

    cell: any callable `cell(x, state) -> (output, state)`. inputs: an example of its x, at one step: (B, ...), or a
    pytree of such. state: an example of its state, by default `cell.zero_state(B)`; only shapes and dtypes matter.

    A line assigns a local variable of the cell's call, or a value that is used more than once; like these variables, a
    name may be assigned again. The last line says what the call returns. Numbers are written out, sizes as they are in
    this cell. While a debugger, a profiler or a coverage tool is at work, fewer names of variables are known, and
    values are named after how they are made.
    Raises what scan raises for a cell that cannot be traced; TypeError for one without `zero_state` and no state, and
    for what is no cell; ValueError for inputs without an axis of rows, where the state is made.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.equations import equations
    >>> W = mg.tensor(np.ones((2, 2)), requires_grad=True, name="W")
    >>> def leaky(x, h):
    ...     new = mg.tanh(x + h @ W)
    ...     h = 0.9 * h + 0.1 * new
    ...     return h, h
    >>> print(equations(leaky, np.ones((3, 2)), np.ones((3, 2))))
    new = tanh(x + h @ W)
    h = 0.9 * h + 0.1 * new
    output, state = h, h
    """
    check_cell("equations", cell)
    given = as_leaves("inputs of the cell", inputs)[0]
    if state is None:
        if not hasattr(cell, "zero_state"):
            raise TypeError(f"{getattr(cell, '__name__', type(cell).__name__)} has no zero_state: pass a state")
        shape = tuple(given[0].shape) if given else None
        if not shape:
            raise ValueError(
                "equations takes an example of a cell's inputs at one step, an array (B, ...), for instance zeros of "
                f"shape (1, inputs), got {'none' if shape is None else 'a number'}"
            )
        state = cell.zero_state(shape[0])
    return _Printer(_step_of(cell, inputs, state)).text()


# ---- tracing -------------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """A traced step: its leaves by name, the numbers in it, the values that it returns, and their form.

    `local` knows all variables of the cell's call and of those in it, `variables` what the cell's own are at its end.
    """

    leaves: dict[Symbol, str]
    numbers: dict[Symbol, str]
    local: LocalNames
    variables: dict[Symbol, str]
    carry: list[Symbol]
    new: list[Symbol]
    outputs: list[Symbol]
    output_form: tree.Structure
    state_form: tree.Structure


def _step_of(cell: Any, inputs: Any, state: Any) -> _Step:
    """The cell's call on symbols, also in the place of its parameters, so that what is made of these is seen."""
    (xs, x_form), (states, state_form) = as_leaves("inputs", inputs), as_leaves("state", state)
    parameters = tensors_of(cell if is_module(cell) else attributes(cell))
    forms: list[tree.Structure] = []
    variables: dict[Symbol, str] = {}

    def call(carry: Sequence[Symbol], elems: Sequence[Symbol]) -> tuple[list[Any], list[Any]]:
        weights = zip(parameters.values(), elems[len(xs) :], strict=True)
        this = copy.deepcopy(cell, {id(tensor): Tensor(symbol) for tensor, symbol in weights})
        x = x_form.build([Tensor(symbol) for symbol in elems[: len(xs)]])
        (output, new), found = _called(this, x, state_form.build([Tensor(symbol) for symbol in carry]))
        named = {name: value for name, value in found.items() if isinstance(value, Box) and name != "_"}
        variables.update({constant(value): name for name, value in named.items()})
        (outputs, output_form), (news, new_form) = as_leaves("output", output), as_leaves("new state", new)
        forms[:] = output_form, new_form
        return news, outputs

    carried = [constant(value) for value in states]
    stacks = [constant(value)[None] for value in (*xs, *parameters.values())]  # of one step
    with LocalNames() as local:
        trace, body = traced(backend_of([*stacks, *carried][-1]), call, carried, stacks)
    paths = [*[f"state{path}" for path in state_form.paths()], *[f"x{path}" for path in x_form.paths()]]
    given = [*body.carry, *body.elems[: len(xs)]]
    leaves = {leaf: local.name_of(leaf, of_part=False) or path for leaf, path in zip(given, paths, strict=True)}
    leaves |= dict(zip(body.elems[len(xs) :], parameters, strict=True))
    captured, numbers = _captured(cell, trace, local)
    leaves = {leaf: "_".join(re.findall(r"\w+", name)) for leaf, name in {**leaves, **captured}.items()}
    leaves = {leaf: identifier(name) or "x" for leaf, name in leaves.items()}
    return _Step(leaves, numbers, local, variables, body.carry, body.next, body.stacked, *forms)


def _called(cell: Any, x: Any, state: Any) -> tuple[Any, dict[str, Any]]:
    """What a cell gives, and its variables at the end of the call, where they can be seen."""
    profiler = sys.getprofile()
    seen = profiler is None or callable(profiler)
    return called(cell, x, state) if seen else (cell(x, state), {})


def _captured(cell: Any, trace: Trace, local: LocalNames) -> tuple[dict[Symbol, str], dict[Symbol, str]]:
    """What else came from outside: arrays by their name, and numbers."""
    known = attributes(cell)
    if inspect.isfunction(cell):
        variables = inspect.getclosurevars(cell)
        known = {**variables.globals, **variables.nonlocals}
    names = {id(constant(value)): name for name, value in known.items()}
    arrays, numbers = {}, {}
    for leaf, value in zip(trace.captured, trace.values, strict=True):
        array = constant(value)
        name = getattr(value, "name", None) or names.get(id(array)) or local.name_of(array)
        if name is None and not leaf.shape and not isinstance(value, Box):
            numbers[leaf] = _number(trace.backend.to_host(array)[()])
        else:
            arrays[leaf] = name or "array"
    return arrays, numbers


# ---- printing ------------------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """An assignment to one value; or to all parts into which one is split, with the cuts before, between and behind."""

    targets: list[Symbol]
    axis: int = 0
    cuts: Sequence[int] = ()


class _Printer:
    """The text of a step: its values in an order in which they can be computed.

    A value is assigned in a line and read by its name, or it is written out where it is read. A name may be assigned
    again where nobody reads its last value any more.
    """

    def __init__(self, step: _Step) -> None:
        self.step = step
        self.results = [*step.outputs, *step.new]
        nodes = order_of(self.results, [*step.leaves, *step.numbers])
        self.order = sorted(nodes, key=lambda node: node.number)  # as the cell computed them
        self._name_values()
        self.lines = list(self._assignments())
        self.line_at = {target: number for number, line in enumerate(self.lines) for target in line.targets}
        self.last_read = self._last_reads()
        functions = [name for name in map(_function, self.order) if name not in INFIX]
        self.owners: dict[str, Symbol | None] = dict.fromkeys(["split", "inf", "nan", *functions])
        self.texts: dict[Symbol, Text] = {leaf: _bound(text) for leaf, text in step.numbers.items()}
        for leaf, name in step.leaves.items():
            self._give_name(leaf, name, -1)

    def text(self) -> str:
        printed: list[str] = []
        for node in self.order:
            number = self.line_at.get(node)
            if number is None:
                self.texts[node] = self._expression(node)
            elif number == len(printed):
                printed.append(self._printed(number, node))
        texts = iter([self.texts[result][0] for result in self.results])
        output, state = _tree(self.step.output_form, texts), _tree(self.step.state_form, texts)
        return "\n".join([*printed, f"output, state = {output}, {state}"])

    # ---- what is assigned, and until when it is read ---------------------------------------------------------------

    def _name_values(self) -> None:
        """Name each value as the user does, or else after what it becomes, or after how it is made."""
        variables = self.step.variables
        for leaf, name in self.step.leaves.items():
            leaf.name = name
        becomes = dict.fromkeys(self.step.outputs, "output")
        becomes |= {new: old.name or "state" for new, old in zip(self.step.new, self.step.carry, strict=True)}
        for node in self.order:
            node.name = variables.get(node) or self.step.local.name_of(node) or becomes.get(node)
        name_by_inputs(self.order)

    def _assignments(self) -> Iterator[_Line]:
        splits, returned = self._splits(), set(self.results)
        uses = Counter(itertools.chain(self.results, *[node.inputs for node in self.order]))
        for part, line in splits.items():
            if part is not line.targets[0]:
                uses[part.inputs[0]] -= 1  # a value is used once where it is split
        seen: set[int] = set()
        for node in self.order:
            if node in splits:
                if id(splits[node]) not in seen:
                    yield splits[node]
                seen.add(id(splits[node]))
            elif node.op is not CONSTANT and (node in self.step.variables or node in returned or uses[node] > 1):
                yield _Line([node])

    def _splits(self) -> dict[Symbol, _Line]:
        """The slices that cut a whole value side by side, each with the line for all of them."""
        slices: dict[tuple[Symbol, int], dict[tuple[int, int], Symbol]] = {}
        for node in self.order:
            if (place := _slice(node)) is not None:
                axis, start, stop = place
                slices.setdefault((node.inputs[0], axis), {})[start, stop] = node
        lines: dict[Symbol, _Line] = {}
        for (whole, axis), parts in slices.items():
            starts, stops = zip(*sorted(parts), strict=True)
            if len(parts) > 1 and [*starts, whole.shape[axis]] == [0, *stops]:
                line = _Line([parts[place] for place in sorted(parts)], axis - len(whole.shape), [0, *stops])
                lines |= dict.fromkeys(line.targets, line)
        return lines

    def _last_reads(self) -> dict[Symbol, float]:
        """The number of the last line that reads a leaf or an assigned value."""
        last: dict[Symbol, float] = {}
        reads: dict[Symbol, set[Symbol]] = {leaf: {leaf} for leaf in self.step.leaves}
        reads |= {number: set() for number in self.step.numbers}
        for node in self.order:
            below = set().union(*[reads[i] for i in node.inputs])
            reads[node] = {node} if node in self.line_at else below
            if node in self.line_at:
                last |= dict.fromkeys(below, self.line_at[node])
        for result in self.results:
            last |= dict.fromkeys(reads[result], math.inf)
        return last

    def _give_name(self, value: Symbol, wanted: str, line: int) -> None:
        """Let a value have the name, from this line on; with a number behind it, where it still means another value."""
        for name in itertools.chain([wanted], (f"{wanted}{number}" for number in itertools.count(2))):
            owner = self.owners.get(name)
            if name not in self.owners or (owner is not None and self.last_read.get(owner, -1) <= line):
                self.owners[name] = value
                self.texts[value] = name, ATOM
                return

    # ---- text ------------------------------------------------------------------------------------------------------

    def _printed(self, number: int, node: Symbol) -> str:
        line = self.lines[number]
        if line.cuts:
            sizes = {stop - start for start, stop in itertools.pairwise(line.cuts)}
            sections = len(line.targets) if len(sizes) == 1 else list(line.cuts[1:-1])
            value = f"split({self.texts[node.inputs[0]][0]}, {sections}, axis={line.axis})"
        else:
            value = self._expression(node)[0]
        for target in line.targets:
            self._give_name(target, target.name or _function(target), number)
        return f"{', '.join([self.texts[target][0] for target in line.targets])} = {value}"

    def _expression(self, node: Symbol) -> Text:
        if node.op is CONSTANT:
            return _bound(_number(node.static["value"]))
        name, texts = _function(node), [self.texts[i] for i in node.inputs]
        if name in INFIX:
            sign, binds = INFIX[name]
            left = _bracketed(texts[0], binds if sign in LEFT_FIRST else binds + 1)
            return f"{left} {sign} {_bracketed(texts[1], binds + 1)}", binds
        if name == "negative":
            return f"-{_bracketed(texts[0], MINUS)}", MINUS
        if node.op is getitem_:
            index = ", ".join([self._static(part, node) for part in node.static["index"]])
            return f"{_bracketed(texts[0], ATOM)}[{index}]", ATOM
        return f"{name}({', '.join(self._arguments(node, name))})", ATOM

    def _arguments(self, node: Symbol, name: str) -> list[str]:
        """The arguments of a call, in NumPy's order."""
        arrays = [self.texts[i][0] for i in node.inputs[: len(node.inputs) - slots(node.static)]]
        static = dict(node.static)
        if name == "concatenate":
            arrays = [f"[{', '.join(arrays)}]"]
        if name == "einsum":
            arrays.insert(0, repr(f"{','.join(static.pop('inputs'))}->{static.pop('output')}"))
        texts = {key: self._static(value, node) for key, value in static.items()}
        return [*arrays, *[text if name in POSITIONAL else f"{key}={text}" for key, text in texts.items()]]

    def _static(self, value: Any, node: Symbol) -> str:
        """A static argument, or a part of an index."""
        if isinstance(value, Slot):
            return self.texts[node.inputs[value.place]][0]
        if isinstance(value, slice):
            ends = [value.start, value.stop, *([] if value.step is None else [value.step])]
            return ":".join(["" if end is None else str(end) for end in ends])
        if isinstance(value, tuple):
            return "(" + "".join([f"{self._static(part, node)}, " for part in value]).strip() + ")"
        return "..." if value is Ellipsis else repr(str(value) if isinstance(value, np.dtype) else value)


def _function(node: Symbol) -> str:
    return str(node.op.name).rstrip("_")


def _slice(node: Symbol) -> tuple[int, int, int] | None:
    """The axis and the ends, where a node is a slice along one axis."""
    index = node.static["index"] if node.op is getitem_ else ()
    cut = [axis for axis, part in enumerate(index) if part != slice(None)]
    if len(cut) != 1 or not all(isinstance(part, slice) for part in index) or index[cut[0]].step is not None:
        return None
    start, stop, _ = index[cut[0]].indices(node.inputs[0].shape[cut[0]])
    return cut[0], start, stop


def _number(value: Any) -> str:
    """A number, a whole one without its decimal point, with as many digits as its dtype needs."""
    return str(value).removesuffix(".0")


def _bound(number: str) -> Text:
    return number, MINUS if number.startswith("-") else ATOM


def _bracketed(text: Text, binds: int) -> str:
    return text[0] if text[1] >= binds else f"({text[0]})"


def _tree(form: tree.Structure, texts: Iterator[str]) -> str:
    """What is returned: the leaves in dicts and tuples."""
    if form.kind is None:
        return next(texts)
    children = [_tree(child, texts) for child in form.children]
    if issubclass(form.kind, dict):
        return "{" + ", ".join([f"{key!r}: {child}" for key, child in zip(form.keys, children, strict=True)]) + "}"
    return f"({', '.join(children)}{',' if len(children) == 1 else ''})"
