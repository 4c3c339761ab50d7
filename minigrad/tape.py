"""The tape: what was computed, in order.

An op that meets a tracked tensor leaves a `Record`: its inputs, its output and which records made the inputs. Records
are reached from the tensors that they made and carry a number, so the tape of a tensor is its reachable records in
that order; `walk` differentiates it.

The tape knows no op by name. An op is anything with a `name` and the two methods of `Differentiable`.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from minigrad.backend import Backend, backend_of
from minigrad.hold import Hold, hold

Array = Any  # an array of some backend
Value = Any  # an array or a Tensor: rules run on both


class Differentiable(Protocol):
    """What the walks need of an op. `wanted[i]` is None for an input whose gradient nobody wants.

    `pull_into` is None but for an op of one input whose gradients are best added up in a buffer in place;
    `structural` says that this buffer holds values without computing with them, so that it serves every walk.
    """

    name: str

    @property
    def pull_into(self) -> Callable[..., Any] | None: ...

    @property
    def structural(self) -> bool: ...

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

    __slots__ = ("op", "values", "parents", "static", "out", "number", "held", "lent", "__weakref__")
    lent: Any  # holds on what others got to see; `keep` fills the slot

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
        self.lent = None


class WatchedRecord(Record):
    """A record made under a `Tape`: it keeps its inputs, its cotangent and what it gave to each input's gradient."""

    __slots__ = ("inputs", "cotangent", "contributions")

    def __init__(self, *fields: Any) -> None:
        super().__init__(*fields)
        self.inputs = self.values or ()
        self.cotangent: Array | None = None
        self.contributions: list[Array | None] = [None] * len(self.parents)

    def note(self, cotangent: Array, contributions: Sequence[Array | None]) -> None:
        """Remember what the latest backward walk carried through this record: copies, for some is the caller's own."""
        self.cotangent = cotangent.copy()
        self.contributions = [None if part is None else part.copy() for part in contributions]

    def free(self) -> None:
        self.values = self.held = self.lent = None


class Leaf(Record):
    """Where a tape begins: a tensor that asked for its gradient, or the variable of a transform.

    It is `active` while somebody may want its gradient, which `backward` adds to `grad`.
    """

    __slots__ = ("active", "grad", "name", "live_hold")

    def __init__(self, array: Array, name: str | None = None) -> None:
        super().__init__(LEAF, (), (), {}, array, None)
        self.active = True
        self.grad: Array | None = None
        self.name = name
        self.live_hold: Callable[[], Hold | None] = no_hold  # a weak reference: the hold, as long as a record has it

    def hold(self, backend: Backend) -> Hold | None:
        """A hold on this leaf's array; ops look at `live_hold` first."""
        held = hold((self.out,), backend)
        self.live_hold = no_hold if held is None else weakref.ref(held)
        return held


def no_hold() -> None:
    """What a weak reference to no hold would answer."""


class _LeafOp:
    """The op of a leaf: nothing was computed, so there is nothing to differentiate."""

    name = "leaf"
    pull_into: Callable[..., Any] | None = None
    structural = False

    def pull(self, *_: Any, **__: Any) -> Sequence[Value | None]:
        raise AssertionError("a walk entered a leaf")

    def push(self, *_: Any, **__: Any) -> Value:
        raise AssertionError("a walk entered a leaf")


LEAF = _LeafOp()
_numbers = itertools.count(1)


def next_number() -> int:
    """A number that every record made so far is below, and every later one above."""
    return next(_numbers)


def keep(record: Record | None, array: Array) -> None:
    """Lend an array that a record may need to somebody who could write to it: read-only while the record needs it."""
    held: Any = None
    while record is not None and record.__class__ is not Leaf and record.values is not None:
        held = held or hold((array,), backend_of(array))
        if held is None:
            return
        lent = getattr(record, "lent", None) or {}
        key = frozenset(held.held)
        if key not in lent:  # it is seen again and again
            record.lent = {**lent, key: held}
        # a view shows what the record before made
        record = record.parents[0] if record.parents and getattr(array, "base", None) is not None else None


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

careful: ContextVar[bool | str] = ContextVar("minigrad_careful", default=False)
"""Whether products are done with care; "elementwise": all but the sums of products, which have no values yet."""


last_walk: ContextVar[bool] = ContextVar("minigrad_last_walk", default=False)
"""Whether nobody walks over these records again, so that what they kept for the walk may be written over."""

open_variables: ContextVar[tuple[Record, ...]] = ContextVar("minigrad_open_variables", default=())
"""The variables of the transforms whose function is running."""


class scoped:  # noqa: N801  # reads like the statement that it makes; a generator takes twice as long
    """Set a context variable within a block."""

    __slots__ = ("variable", "value", "token")

    def __init__(self, variable: ContextVar[Any], value: Any) -> None:
        self.variable = variable
        self.value = value

    def __enter__(self) -> None:
        self.token = self.variable.set(self.value)

    def __exit__(self, *_: object) -> None:
        self.variable.reset(self.token)


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


# ---- ops with several outputs --------------------------------------------------------------------------------------


class Pick:
    """The op that takes one output out of a record whose `out` is a tuple of them.

    The cotangent of such a record, and its tangent, is a dict from an output's place to its value; what is missing
    is zero.
    """

    name = "pick"
    structural = True

    def pull_into(self, total: Any, owned: bool, g: Value, values: Any, static: dict[str, Any]) -> dict[int, Value]:
        place, cotangents = static["place"], {} if total is None else total
        cotangents[place] = added(cotangents[place], g) if place in cotangents else g
        return cotangents

    def pull(self, *_: Any, **__: Any) -> Sequence[Value | None]:
        raise AssertionError("the walk adds what is picked up in place")

    def push(self, tangents: Any, out: Value, values: Any, static: dict[str, Any]) -> Value:
        tangent = tangents[0].get(static["place"])
        return backend_of(constant(out)).xp.zeros_like(constant(out)) if tangent is None else tangent


PICK: Differentiable = Pick()


def unbundle(record: Record) -> list[Box]:
    """The outputs of a record whose `out` is a tuple, as tensors; only floating ones depend on it."""
    return [
        Box.new(out, Record(PICK, (None,), (record,), {"place": i}, out, None) if out.dtype.kind == "f" else None)
        for i, out in enumerate(record.out)
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
        self._tokens.append(recorder.set(None if recorder.get() is None else self.watch))
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

        ValueError for a tensor that no record of this tape made or used, such as an argument of `mg.grad`, which works
        on a copy. RuntimeError before `backward()`: the contributions are what the latest backward walk carried.
        """
        asked = getattr(tensor, "record", None)
        if asked is None or not self._knows(asked):
            name = getattr(asked, "name", None) or "this tensor"
            raise ValueError(
                f"{name} is on no record of this tape: it wants no gradient, or nothing in the block used it. mg.grad "
                "and its kin differentiate copies of their arguments: call loss.backward() instead, or name the copy, "
                "which the function is given, and ask for its uses"
            )
        if self.records and all(record.cotangent is None for record in self.records):
            names = " -> ".join(record.op.name for record in self.records[:3])
            raise RuntimeError(f"no backward walk has passed this tape yet ({names}, ...): call backward() first")
        found = []
        for place, record in enumerate(self.records):
            own = getattr(record.op, "own_inputs", len(record.parents))  # the others' uses are on the tape themselves
            for argnum, parent in enumerate(record.parents[:own]):
                inside = getattr(record.op, "uses_inside", None)
                if parent is asked and inside is not None:
                    found += [Use(place, *use) for use in inside(record, argnum)]
                elif parent is asked:
                    gradient = record.contributions[argnum]
                    if gradient is None:  # the result does not depend on this use
                        gradient = backend_of(tensor.array).xp.zeros_like(tensor.array)
                    found.append(Use(place, record.op.name, argnum, gradient))
        return found

    def _knows(self, record: Record) -> bool:
        """Whether something on this tape made a record's value, or took it as an input."""
        if record.op is PICK and not record.parents:
            return True  # freed, so it cannot tell
        made = record.parents[0] if record.op is PICK else record
        return any(own is made or record in own.parents for own in self.records)

    def __str__(self) -> str:
        index: dict[Record | None, int] = {record: i for i, record in enumerate(self.records)}
        rows = [("#", "op", "inputs", "out", "gradient norm")]
        for i, record in enumerate(self.records):
            inputs = [_label(v, p, index) for v, p in zip(record.inputs, record.parents, strict=True)]
            g = record.cotangent
            parts = g.values() if isinstance(g, dict) else [] if g is None else [g]
            size = f"{sum(float((part * part).sum()) for part in parts) ** 0.5:.4g}" if parts else ""
            rows.append((str(i), record.op.name, ", ".join(inputs), _form(record.out), size))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def _form(array: Any) -> str:
    if isinstance(array, tuple):
        return ", ".join(map(_form, array[:3])) + (", ..." if len(array) > 3 else "")
    return f"{array.dtype}({', '.join(map(str, array.shape))})"


def _label(value: Any, parent: Record | None, index: dict[Record | None, int]) -> str:
    if parent in index:
        return f"#{index[parent]}"
    if parent is not None and parent.op is PICK and parent.parents and parent.parents[0] in index:
        return f"#{index[parent.parents[0]]}[{parent.static['place']}]"
    if isinstance(parent, Leaf) and parent.name:
        return parent.name
    return _form(value) if hasattr(value, "dtype") else str(value)


# ---- values --------------------------------------------------------------------------------------------------------


def constant(value: Value) -> Array:
    """The array behind a value; of a dict of values, their arrays."""
    if value.__class__ is dict:
        return {place: constant(part) for place, part in value.items()}
    return value.array if isinstance(value, Box) else value


def added(a: Value, b: Value) -> Value:
    """The sum of two gradients of one shape; NumPy's 0-d sums stay arrays."""
    total = a + b
    if total.__class__ is a.__class__:
        return total
    return np.asarray(total) if isinstance(total, np.generic) else total
