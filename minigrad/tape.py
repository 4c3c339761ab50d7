"""The tape: what was computed, in order, and the two walks that differentiate it.

An op that meets a tracked tensor leaves a `Record`: its inputs, its output and which records made the inputs. Records
are reached from the tensors that they made and carry a number, so the tape of a tensor is its reachable records in
that order. `pull_back` walks it backwards with cotangents (reverse mode), `push_forward` walks it forwards with
tangents (forward mode). Both walks run on raw arrays, or, when something else than their own variables is being
differentiated too, on tensors: then they are recorded themselves, and higher orders need nothing more.

The tape knows no op by name. An op is anything with a `name` and the two methods of `Differentiable`.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from minigrad.backend import Backend, backend_of

Array = Any  # an array of some backend
Value = Any  # an array or a Tensor: rules run on both


class Differentiable(Protocol):
    """What the walks need of an op. `wanted[i]` is None for an input whose gradient nobody wants.

    `pull_into` is None but for an op of one input whose gradients are best added up in a buffer in place.
    """

    name: str
    pull_into: Callable[..., Array] | None

    def pull(
        self, g: Value, out: Value, values: Sequence[Any], static: dict[str, Any], wanted: Sequence[Any]
    ) -> Sequence[Value | None]:
        """One gradient an input, of that input's shape and dtype, from the cotangent `g` of the output."""

    def push(
        self, tangents: Sequence[Value | None], out: Value, values: Sequence[Any], static: dict[str, Any]
    ) -> Value:
        """The tangent of the output, of its shape and dtype; a tangent that is None is zero."""


class Record:
    """One op that was computed: `out = op(*values, **static)`; `parents[i]` made `values[i]`, or is None."""

    __slots__ = ("op", "values", "parents", "static", "out", "number", "held", "__weakref__")

    def __init__(
        self,
        op: Differentiable,
        values: Sequence[Any],
        parents: Sequence[Record | None],
        static: dict[str, Any],
        out: Array,
        held: Any,
    ) -> None:
        self.op = op
        self.values: Any = values  # a sequence; None when freed
        self.parents = parents
        self.static = static
        self.out = out
        self.number = next(_numbers)
        self.held = held

    def free(self) -> None:
        """Let go of what backward needed; the record stays, so that a second walk can say which op it misses."""
        self.values = self.out = self.held = None
        self.parents = ()


class WatchedRecord(Record):
    """A record made under a `Tape`: it keeps its inputs, its cotangent and what it gave to each input's gradient."""

    __slots__ = ("inputs", "cotangent", "contributions")

    def __init__(self, *fields: Any) -> None:
        super().__init__(*fields)
        self.inputs = self.values or ()
        self.cotangent: Array | None = None
        self.contributions: list[Array | None] = [None] * len(self.parents)

    def note(self, cotangent: Array, contributions: Sequence[Array | None]) -> None:
        """Remember what the latest backward walk carried through this record."""
        self.cotangent = cotangent
        self.contributions = list(contributions)

    def free(self) -> None:
        self.values = self.held = None


class Leaf(Record):
    """Where a tape begins: a tensor that asked for its gradient, or the variable of a transform.

    It is `active` while somebody may want its gradient, which `backward` adds to `grad`.
    """

    __slots__ = ("active", "grad", "name", "_hold")

    def __init__(self, array: Array, name: str | None = None) -> None:
        super().__init__(LEAF, (), (), {}, array, None)
        self.active = True
        self.grad: Array | None = None
        self.name = name
        self._hold: Callable[[], Hold | None] = _no_hold

    def hold(self, backend: Backend) -> Hold | None:
        """The hold on this leaf's array, as long as some record has it."""
        held = self._hold()
        if held is None or held.array is not self.out:
            held = hold(self.out, backend)
            self._hold = _no_hold if held is None else weakref.ref(held)
        return held


def _no_hold() -> None:
    """What a weak reference to no hold would answer."""


class _LeafOp:
    """The op of a leaf: nothing was computed, so there is nothing to differentiate."""

    name = "leaf"
    pull_into: Callable[..., Array] | None = None

    def pull(self, *_: Any, **__: Any) -> Sequence[Value | None]:
        raise AssertionError("a walk entered a leaf")

    def push(self, *_: Any, **__: Any) -> Value:
        raise AssertionError("a walk entered a leaf")


LEAF = _LeafOp()
_numbers = itertools.count(1)


def next_number() -> int:
    """A number that every record made so far is below, and every later one above."""
    return next(_numbers)


class Box:
    """An array and the record that made it (None for a constant). `Tensor` is the only subclass.

    The tape makes tensors through `Box.new`, so that it need not import the module that gives them operators.
    """

    __slots__ = ("array", "record")
    new: ClassVar[Any]

    def __init__(self, array: Array, record: Record | None = None) -> None:
        self.array = array
        self.record = record


# ---- scoped state --------------------------------------------------------------------------------------------------

recorder: ContextVar[Callable[..., Record] | None] = ContextVar("minigrad_recorder", default=Record)
"""What makes the record of an op: `Record`, a tape's `watch`, or None where nothing is recorded."""

careful: ContextVar[bool] = ContextVar("minigrad_careful", default=False)


open_variables: ContextVar[tuple[Record, ...]] = ContextVar("minigrad_open_variables", default=())
"""The variables of the transforms whose function is running."""


@contextmanager
def scoped(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Set a context variable within a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute without recording: results inside the block are constants.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> with mg.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    with scoped(recorder, None):
        yield


# ---- what the tape needs stays unchanged ---------------------------------------------------------------------------


class Hold:
    """Keeps an array read-only for as long as some record holds it."""

    __slots__ = ("array", "backend", "__weakref__")

    def __init__(self, array: Array, backend: Backend) -> None:
        self.array = array
        self.backend = backend
        backend.freeze(array)

    def __del__(self) -> None:
        _holds.pop(id(self.array), None)
        self.backend.thaw(self.array)


_holds: dict[int, weakref.ref[Hold]] = {}


def hold(array: Array, backend: Backend) -> Hold | None:
    """A shared hold on `array`, or None where nothing could write to it anyway."""
    known = _holds.get(id(array))
    held = None if known is None else known()
    if held is None and backend.is_writeable(array):
        held = Hold(array, backend)
        _holds[id(array)] = weakref.ref(held)
    return held


# ---- ops with several outputs --------------------------------------------------------------------------------------


class Bundle(tuple[Any, ...]):
    """The outputs of an op that has several, or their cotangents; None stands for a zero cotangent."""

    __slots__ = ()

    def __add__(self, other: Any) -> Bundle:
        return Bundle(a if b is None else b if a is None else added(a, b) for a, b in zip(self, other, strict=True))


class _Pick:
    """The op that takes one output out of a bundle."""

    name = "pick"
    pull_into: Callable[..., Array] | None = None

    def pull(self, g: Value, out: Value, values: Any, static: dict[str, Any], wanted: Any) -> Sequence[Value | None]:
        return (Bundle(g if i == static["place"] else None for i in range(static["count"])),)

    def push(self, tangents: Any, out: Value, values: Any, static: dict[str, Any]) -> Value:
        tangent = tangents[0][static["place"]]
        return out * 0.0 if tangent is None else tangent


PICK = _Pick()


def unbundle(record: Record) -> list[Box]:
    """The outputs of a record whose `out` is a bundle, as tensors."""
    outs = record.out
    return [
        Box.new(out, Record(PICK, (None,), (record,), {"place": i, "count": len(outs)}, out, None))
        for i, out in enumerate(outs)
    ]


# ---- the tape, to look at ------------------------------------------------------------------------------------------


class Use(NamedTuple):
    """One use of a tensor: by `op`, the record at `place` of the tape, as its input `argnum`."""

    place: int
    op: str
    argnum: int
    gradient: Array


class Tape:
    """Keeps every record that is made in its block, to print and to question.

    >>> import minigrad as mg
    >>> W = mg.tensor(2.0, requires_grad=True, name="W")
    >>> with mg.Tape() as tape:
    ...     y = mg.tanh(W * 0.5) * W
    ...     y.backward()
    >>> print(tape)
    #  op        inputs  out        gradient norm
    0  multiply  W, 0.5  float64()  0.8399
    1  tanh      #0      float64()  2
    2  multiply  #1, W   float64()  1
    >>> [(use.op, float(use.gradient.round(3))) for use in tape.uses(W)]
    [('multiply', 0.42), ('multiply', 0.762)]
    """

    def __init__(self) -> None:
        self.records: list[WatchedRecord] = []
        self._tokens: list[Any] = []

    def __enter__(self) -> Self:
        self._tokens.append(recorder.set(self.watch))
        return self

    def __exit__(self, *_: object) -> None:
        recorder.reset(self._tokens.pop())

    def watch(self, *fields: Any) -> WatchedRecord:
        """Make and keep the record of an op."""
        record = WatchedRecord(*fields)
        self.records.append(record)
        return record

    def __len__(self) -> int:
        return len(self.records)

    def uses(self, tensor: Box) -> list[Use]:
        """Every use of a tensor with its own contribution to the tensor's gradient; they add up to it.

        RuntimeError before `backward()`: the contributions are what the latest backward walk carried.
        """
        found = []
        for index, record in enumerate(self.records):
            for argnum, parent in enumerate(record.parents):
                if parent is not None and parent is tensor.record:
                    if record.cotangent is None:
                        raise RuntimeError(f"no backward walk has passed record {index} (`{record.op.name}`) yet")
                    found.append(Use(index, record.op.name, argnum, record.contributions[argnum]))
        return found

    def __str__(self) -> str:
        index: dict[Record | None, int] = {record: i for i, record in enumerate(self.records)}
        rows = [("#", "op", "inputs", "out", "gradient norm")]
        for i, record in enumerate(self.records):
            inputs = [_label(v, p, index) for v, p in zip(record.inputs, record.parents, strict=True)]
            g = record.cotangent
            size = "" if g is None else f"{float((g * g).sum()) ** 0.5:.4g}"
            rows.append((str(i), record.op.name, ", ".join(inputs), _form(record.out), size))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def _form(array: Any) -> str:
    return f"{array.dtype}({', '.join(map(str, array.shape))})"


def _label(value: Any, parent: Record | None, index: dict[Record | None, int]) -> str:
    if parent in index:
        return f"#{index[parent]}"
    if isinstance(parent, Leaf) and parent.name:
        return parent.name
    return _form(value) if hasattr(value, "dtype") else str(value)


# ---- the walks -----------------------------------------------------------------------------------------------------


class Reach(NamedTuple):
    """What a set of records depends on: `order` (oldest first, targets left out), and where that ends.

    `leaves` are the active leaves met, `older` the records from before `since`; `idle`: some leaf was not active.
    """

    order: list[Record]
    leaves: list[Leaf]
    older: list[Record]
    idle: bool


def reachable(roots: Iterable[Record | None], since: int = 0, targets: Iterable[Record] = ()) -> Reach:
    """Collect what `roots` depend on, down to the targets; records with a number below `since` are not entered."""
    seen: set[Record] = set(targets)
    order: list[Record] = []
    leaves: list[Leaf] = []
    older: list[Record] = []
    idle = False
    stack: list[Record | None] = list(roots)
    while stack:
        record = stack.pop()
        if record is None or record in seen:
            continue
        seen.add(record)
        if record.__class__ is Leaf:
            if record.active:
                leaves.append(record)
            else:
                idle = True
        elif record.number < since:
            older.append(record)
        else:
            if record.values is None:
                raise RuntimeError(
                    f"the record of `{record.op.name}` was freed by an earlier backward(); "
                    "call the earlier one with retain=True, or compute the value again"
                )
            order.append(record)
            stack += record.parents
    order.sort(key=_number)
    return Reach(order, leaves, older, idle)


_number = operator.attrgetter("number")


def dependent(order: Sequence[Record], targets: Iterable[Record]) -> set[Record]:
    """The targets and those of the records (oldest first) whose value depends on one."""
    needed = set(targets)
    for record in order:
        if not needed.isdisjoint(record.parents):
            needed.add(record)
    return needed


def depends_on_open_variable(record: Record) -> bool:
    """Whether a function that is being differentiated made this record from its variables."""
    variables = open_variables.get()
    if not variables:
        return False
    first = min(variable.number for variable in variables)
    seen: set[Record] = set()
    stack = [record]
    while stack:
        record = stack.pop()
        if record in variables:
            return True
        if record not in seen and record.number > first:
            seen.add(record)
            stack += [parent for parent in record.parents if parent is not None]
    return False


class Walk:
    """One differentiation: over `order` (oldest first), to or from `targets`, on tensors if `boxed`.

    `needed` are the records that depend on a target, or None: all of them.
    """

    def __init__(
        self, order: Sequence[Record], targets: Sequence[Record], boxed: bool, needed: set[Record] | None = None
    ) -> None:
        self.order = order
        self.targets = targets
        self.boxed = boxed
        self.needed = needed

    def pull_back(self, roots: Sequence[tuple[Record, Value]]) -> list[Value | None]:
        """Reverse mode: the gradient of each target (None: zero) from the cotangents of the roots."""
        return self._optimistic(lambda: self._pull_back(roots))

    def push_forward(self, tangents: Sequence[Value], outputs: Sequence[Record | None]) -> list[Value | None]:
        """Forward mode: the tangent of each output (None: zero) from the tangents of the targets."""
        return self._optimistic(lambda: self._push_forward(tangents, outputs))

    def _optimistic(self, walk: Callable[[], list[Value | None]]) -> list[Value | None]:
        """Walk with plain products; where that ends in NaN, walk again with products in which 0 times inf is 0.

        Rules are linear in what they carry, so a NaN reaches the results unless a selection drops it, and then the
        careful walk would have dropped a zero there: a result without NaN is right. So care costs one look at the
        results, and a masked branch still cannot poison a gradient.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            if not careful.get() and not (self.order and type(self.order[-1]) is WatchedRecord):
                results = walk()
                arrays = [constant(value) for value in results if value is not None]
                if not arrays or not backend_of(arrays[0]).any_nan(arrays):
                    return results
            with scoped(careful, True):
                return walk()

    def _pull_back(self, roots: Sequence[tuple[Record, Value]]) -> list[Value | None]:
        needed = self.needed
        totals: dict[Record, Value] = {}
        owned: set[Record] = set()  # whose total is a buffer of this walk, so that it may be added to in place
        for record, g in roots:
            if needed is None or record in needed:
                totals[record] = added(totals[record], g) if record in totals else g
        for record in reversed(self.order):
            g = totals.pop(record, None)
            if g is None:
                continue
            op, parents = record.op, record.parents
            if needed is not None:
                parents = [parent if parent in needed else None for parent in parents]
            if self.boxed or record.__class__ is WatchedRecord:
                gradients = self._pull_slowly(record, g, parents)
            elif op.pull_into is not None:
                parent: Any = parents[0]
                totals[parent] = op.pull_into(totals.get(parent), parent in owned, g, record.values, record.static)
                owned.add(parent)
                continue
            else:
                gradients = op.pull(g, record.out, record.values, record.static, parents)
            for parent, gradient in zip(parents, gradients):  # noqa: B905  # `pull` gives one gradient a parent
                if parent is None:
                    continue
                if parent not in totals:
                    totals[parent] = gradient
                else:
                    totals[parent] = added(totals[parent], gradient)
                    owned.discard(parent)
        return [totals.get(target) for target in self.targets]

    def _pull_slowly(self, record: Record, g: Value, wanted: Sequence[Record | None]) -> Sequence[Value | None]:
        """Pull through one record on tensors, or through one that wants to know what passed."""
        if self.boxed:
            out, values = Box.new(record.out, record), boxed_values(record)
        else:
            out, values = record.out, record.values
        gradients = record.op.pull(g, out, values, record.static, wanted)
        if isinstance(record, WatchedRecord):
            record.note(constant(g), [constant(gradient) for gradient in gradients])
        return gradients

    def _push_forward(self, seeds: Sequence[Value], outputs: Sequence[Record | None]) -> list[Value | None]:
        tangents: dict[Record | None, Value] = dict(zip(self.targets, seeds, strict=True))
        for record in self.order:
            incoming = [None if parent is None else tangents.get(parent) for parent in record.parents]
            if any(tangent is not None for tangent in incoming):
                out, values = record.out, record.values
                if self.boxed:
                    out, values = Box.new(out, record), boxed_values(record)
                tangents[record] = record.op.push(incoming, out, values, record.static)
        return [None if output is None else tangents.get(output) for output in outputs]


def boxed_values(record: Record) -> list[Any]:
    """A record's inputs as they were given: tracked ones as tensors, so that rules on them are recorded."""
    return [
        value if parent is None else Box.new(value, parent)
        for value, parent in zip(record.values, record.parents, strict=True)
    ]


def added(a: Value, b: Value) -> Value:
    """The sum of two gradients of one shape; NumPy's 0-d sums stay arrays."""
    total = a + b
    return total if total.__class__ is a.__class__ else np.asarray(total)


def constant(value: Value) -> Array:
    """The array behind a value."""
    return value.array if isinstance(value, Box) else value


def backward(root: Record, g: Array, retain: bool) -> None:
    """Add the gradient of every active leaf below `root` to its `grad`, then free the records unless `retain`.

    Nothing is changed before every gradient is known.
    """
    order, leaves, _, idle = reachable([root])
    if not leaves:
        raise RuntimeError("backward() found nothing below this tensor that requires a gradient")
    needed = dependent(order, leaves) if idle else None
    gradients = Walk(order, leaves, boxed=False, needed=needed).pull_back([(root, g)])
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            leaf.grad = gradient.copy() if leaf.grad is None else added(leaf.grad, gradient)
    if not retain:
        for record in order:
            record.free()
