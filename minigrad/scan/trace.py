"""Tracing: one call of a body on symbols shows what every step does.

A trace notes each node with its op, inputs and static arguments. What the body takes from outside (arrays, tensors,
Python numbers) becomes a leaf whose value is an input at run time, so a closure is never stale and a new number needs
no new program.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import Backend, backend_of
from minigrad.ops.op import REGISTRY, WEAK
from minigrad.scan.symbol import (
    CAPTURED,
    CARRY,
    CONSTANT,
    ELEM,
    FORMS,
    STOP,
    Kind,
    Slot,
    Symbol,
    current,
    tried,
    used_after,
    user_line,
)
from minigrad.tape import Box, Record, Value, next_number, recorder, scoped

_BY_VALUE = (REGISTRY["power"],)
"""Ops whose rules look at a number among their arguments: it is part of the program."""

PICKED = Kind("picked")
"""One result of an op that has several."""

_COMPARISONS = frozenset(("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"))


class Body(NamedTuple):
    """What every step does: `(carry, elems, captured) -> (next, stacked, summed)`, as symbols.

    `stacked` is kept of every step; `summed` is made once, from sums over all steps. The derivative of a body is a
    body again, with time reversed, in which captured and summed have changed places.
    """

    carry: list[Symbol]
    elems: list[Symbol]
    captured: list[Symbol]
    next: list[Symbol]
    stacked: list[Symbol]
    summed: list[Symbol]

    @property
    def leaves(self) -> list[Symbol]:
        return [*self.carry, *self.elems, *self.captured]

    @property
    def results(self) -> list[Symbol]:
        return [*self.next, *self.stacked, *self.summed]


class _WithLines(list[Any]):
    """Entries of a trace's code with the lines of the user's code that made them, and captured arrays as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.copies: dict[int, Any] = {}

    def append(self, entry: Any) -> None:
        super().append(entry)
        self.lines.append(user_line())


class Trace:
    """The nodes that a body makes, in their order.

    With `literal`, numbers and arrays are part of the program. With `lines`, the user's line is noted of each entry.
    """

    def __init__(
        self, backend: Backend, outer: Trace | None = None, literal: bool = False, lines: bool = False
    ) -> None:
        self.backend = backend
        self.token = object()  # what its symbols know of it: they must not keep it alive
        self.outer = outer
        self.literal = literal
        self.started = next_number()
        self.recorded = not literal and recorder.get() is not None  # so that no_grad in the body cuts gradients
        self.code: list[Any] = _WithLines() if lines else []  # what tells one body from another: an entry a node
        self.captured: list[Symbol] = []
        self.values: list[Value] = []  # of the captured leaves: arrays, Tensors, or symbols of an outer trace
        self.drawn: list[Symbol] = []
        self.draws: list[Callable[[tuple[int, ...]], Any]] = []
        self.examples: list[Any] = []  # what they drew here
        self._known: dict[Any, Any] = {}

    def leaf(self, kind: Kind, shape: Sequence[int], dtype: np.dtype[Any], **static: Any) -> Symbol:
        """A leaf of the body."""
        symbol = Symbol(kind, (), static, tuple(shape), dtype, self.token, len(self.code))
        self.code.append((kind, symbol.shape, dtype.char))
        return symbol

    def constant(self, value: Any, dtype: np.dtype[Any] | None = None) -> Symbol:
        """A number or array that is part of the program."""
        if value.__class__ in WEAK:
            found = self._known.get((value.__class__, repr(value), dtype))
            if found is None:
                found = self.leaf(CONSTANT, (), np.dtype(dtype or type(value)), value=value)
                self.code[-1] = (CONSTANT, value.__class__, repr(value), found.dtype.char)
                self._known[value.__class__, repr(value), dtype] = found
            return found
        symbol = self.leaf(CONSTANT, value.shape, value.dtype, value=value)
        self.code[-1] = (CONSTANT, id(value))  # the program keeps it alive
        return symbol

    def capture(self, value: Any) -> Symbol:
        """The leaf for an array or Tensor from outside; the same for the same one."""
        array = value.array if isinstance(value, Box) else value
        if array.__class__ is Symbol:
            return array if array.trace is self.token or self.literal else self.adopt(value)
        kind = array.__class__
        key = (id(array), id(value.record) if isinstance(value, Box) else 0)
        found = self._known.get(key)
        if found is None:
            self._known["keep", len(self._known)] = value  # so that its id stays its own
            if not hasattr(array, "dtype") or isinstance(array, np.generic):
                value = array = self.backend.asarray(array)
            elif backend_of(array) is not self.backend:
                mine, its = self.backend.name, backend_of(array).name
                raise TypeError(f"arrays of two backends ({mine}, {its}) do not mix; move one with Tensor.to(name)")
            if self.literal:
                found = self.constant(array)
            else:
                found = self.leaf(CAPTURED, array.shape, array.dtype)
                self.captured.append(found)
                self.values.append(value)
                if isinstance(self.code, _WithLines) and isinstance(array, np.ndarray):
                    self.code.copies[found.number] = array.copy()
            if kind is not list:  # which may be another when it is used again
                self._known[key] = found
        return found

    def taken(self, value: Any, array: Any) -> Any:
        """What an op of this trace is given for a value whose `array` is no symbol of it: a leaf, or a number."""
        if array.__class__ is Symbol:
            return array if self.literal else self.adopt(value)
        return array if array.__class__ in WEAK else self.capture(value)

    def adopt(self, value: Any) -> Symbol:
        """The leaf for a symbol of a scan around this one, or a Tensor of one, which a derivative there may want."""
        symbol, record = (value.array, value.record) if isinstance(value, Box) else (value, None)
        found = self._known.get((symbol, record))
        if found is None:
            outer = self.outer
            while outer is not None and outer.token is not symbol.trace:
                outer = outer.outer
            if outer is None:
                raise used_after()
            found = self._known[symbol, record] = self.leaf(CAPTURED, symbol.shape, symbol.dtype)
            self.captured.append(found)
            self.values.append(value)
        return found

    def parent(self, value: Value) -> Record | None:
        """The record of a value, if a derivative that is taken inside of the body (or one around it) may want it."""
        record: Record | None = value.record if isinstance(value, Box) else None
        if record is None or record.number > self.started or record.out.__class__ is Symbol:
            return record
        return None

    def draw(self, make: Callable[[tuple[int, ...]], Any], example: Any) -> Symbol:
        """A leaf whose value at each step is `make(path)`, the path being the step's (see `random`)."""
        symbol = self.leaf(ELEM, example.shape, example.dtype)
        self.drawn.append(symbol)
        self.draws.append(make)
        self.examples.append(example)
        return symbol

    def node(self, op: Any, inputs: Sequence[Any], static: dict[str, Any]) -> Symbol:
        """What an op gives: symbols and Python numbers go in."""
        key = frozen(static) if static else None
        known: Any  # what the form depends on
        entry: Any  # of the code
        if 0 < len(inputs) <= 2 and inputs[0].__class__ is inputs[-1].__class__ is Symbol:  # unrolled: nearly every op
            a, b = inputs[0], inputs[-1]
            if len(inputs) == 1:
                known = (op, key, a.shape, a.dtype)
                entry = (op, a.number, key)
            else:
                known = (op, key, a.shape, a.dtype, b.shape, b.dtype)
                entry = (op, a.number, b.number, key)
            shape, dtype = FORMS.get(known) or tried(known, op, inputs, static)
        else:
            forms = [(i.shape, i.dtype) if i.__class__ is Symbol else (i.__class__,) for i in inputs]
            known = (op, key, *itertools.chain(*forms))
            shape, dtype = FORMS.get(known) or tried(known, op, inputs, static)
            if any(i.__class__ is not Symbol for i in inputs):
                inputs = self._without_numbers(op, inputs, dtype)
            entry = (op, *[i.number for i in inputs], key)
        symbol = Symbol(op, tuple(inputs), static, shape, dtype, self.token, len(self.code))
        self.code.append(entry)
        return symbol

    def stopped(self, symbol: Symbol) -> Symbol:
        """The same value, through which no gradient passes."""
        return self.node(STOP, [symbol], {}) if symbol.dtype.kind == "f" else symbol

    def line_of(self, place: int) -> str:
        """The user's line that made an entry of the code, or the last one."""
        lines = self.code.lines if isinstance(self.code, _WithLines) else []
        return lines[min(place, len(lines) - 1)] if lines else "an unknown line"

    def copy_of(self, leaf: Symbol, value: Any) -> Any:
        """A captured array as it was when it was captured, if the trace notes lines; else the array."""
        return self.code.copies.get(leaf.number, value) if isinstance(self.code, _WithLines) else value

    def bundle(self, op: Any, inputs: Sequence[Symbol], static: dict[str, Any], forms: Sequence[Any]) -> list[Symbol]:
        """The results of an op that has several, of the given shapes and dtypes."""
        whole = Symbol(op, tuple(inputs), static, (), np.dtype("float64"), self.token, len(self.code))
        self.code.append((op, *[i.number for i in inputs], frozen(static)))
        picked = []
        for place, (shape, dtype) in enumerate(forms):
            picked.append(Symbol(PICKED, (whole,), {"place": place}, shape, dtype, self.token, len(self.code)))
            self.code.append((PICKED, whole.number, place))
        if self.recorded and recorder.get() is None:
            return [self.stopped(symbol) for symbol in picked]
        return picked

    def _without_numbers(self, op: Any, inputs: Sequence[Any], dtype: np.dtype[Any]) -> list[Symbol]:
        arrays = [i for i in inputs if i.__class__ is Symbol]
        if dtype.kind == "b" or op.name in _COMPARISONS:
            numbers = [i for i in inputs if i.__class__ is not Symbol]
            if all(a.dtype.kind in "iu" for a in arrays):  # which compare with numbers that they cannot be
                numbers = [np.min_scalar_type(i) if isinstance(i, int) else i for i in numbers]
            dtype = np.result_type(*[a.dtype for a in arrays], *numbers)
        return [i if i.__class__ is Symbol else self._number(op, i, dtype) for i in inputs]

    def _number(self, op: Any, number: Any, dtype: np.dtype[Any]) -> Symbol:
        if self.literal or op in _BY_VALUE:
            return self.constant(number, dtype)
        leaf = self.leaf(CAPTURED, (), dtype)
        self.captured.append(leaf)
        self.values.append(self.backend.asarray(number, dtype))
        return leaf

    def forget(self) -> None:
        """Let go of what the body was traced with: its program takes captured values from every call anew."""
        self.outer = None
        self.values, self.draws, self.examples, self._known = [], [], [], {}
        self.code = []

    def symbol_of(self, value: Value) -> Symbol:
        """The node behind a value that the body returned."""
        array = value.array if isinstance(value, Box) else value
        return array if array.__class__ is Symbol and array.trace is self.token else self.capture(value)


def frozen(value: Any) -> Any:
    """Static arguments as something to compare and hash, in which 1, 1.0 and True differ."""
    kind = value.__class__
    if kind is slice:
        return (slice, value.start, value.stop, value.step)
    if kind is tuple or kind is list:
        return tuple([frozen(part) for part in value])
    if kind is dict:
        return tuple([(key, frozen(part)) for key, part in value.items()])
    if kind is float or kind is bool:
        return (kind, repr(value))
    if kind is Slot:
        return (Slot, value.place)
    return value


def traced(
    backend: Backend,
    call: Callable[[list[Symbol], list[Symbol]], tuple[list[Value], list[Value]]],
    carry: Sequence[Any],
    elems: Sequence[Any],
    lines: bool = False,
) -> tuple[Trace, Body]:
    """The body of `call(state, x)`, which returns the leaves of the new state and of the output.

    `carry` and `elems` are examples: the state's leaves, and the stacks whose slices are x.
    """
    trace = Trace(backend, current.get(), lines=lines)
    states = [trace.leaf(CARRY, leaf.shape, leaf.dtype) for leaf in carry]
    xs = [trace.leaf(ELEM, leaf.shape[1:], leaf.dtype) for leaf in elems]
    with scoped(current, trace), scoped(recorder, recorder.get() and Record):
        new, outputs = call(states, xs)
        body = Body(
            states,
            xs,
            trace.captured,
            [trace.symbol_of(leaf) for leaf in new],
            [trace.symbol_of(leaf) for leaf in outputs],
            [],
        )
    body.elems.extend(trace.drawn)
    return trace, body


def order_of(results: Sequence[Symbol], leaves: Sequence[Symbol]) -> list[Symbol]:
    """The nodes that results depend on, down to the leaves (which are left out), inputs first."""
    seen = set(leaves)
    order: list[Symbol] = []
    stack: list[tuple[Symbol, bool]] = [(r, False) for r in reversed(results)]
    while stack:
        symbol, done = stack.pop()
        if done:
            order.append(symbol)
        elif symbol not in seen:
            seen.add(symbol)
            stack.append((symbol, True))
            stack += [(i, False) for i in reversed(symbol.inputs) if i not in seen]
    return order
