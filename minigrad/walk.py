"""The two walks over the tape: backwards with cotangents (reverse mode), forwards with tangents (forward mode).

Both run on raw arrays, or, when something else than their own variables is being differentiated too, on tensors: then
they are recorded themselves, and higher orders need nothing more.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import backend_of
from minigrad.tape import (
    Array,
    Box,
    Leaf,
    Record,
    Value,
    WatchedRecord,
    added,
    careful,
    constant,
    last_walk,
    open_variables,
    scoped,
)

LARGE = 1 << 12
"""Elements of an array whose copy is worth avoiding."""


class Reach(NamedTuple):
    """What a set of records depends on: `order` (oldest first, targets left out), and where that ends.

    `leaves` are the active leaves met, `idle` the others, `older` the records from before `since`.
    """

    order: list[Record]
    leaves: list[Leaf]
    older: list[Record]
    idle: list[Leaf]


def reachable(roots: Iterable[Record | None], since: int = 0, targets: Iterable[Record] = ()) -> Reach:
    """Collect what `roots` depend on, down to the targets; records with a number below `since` are not entered."""
    seen: set[Record] = set(targets)
    order: list[Record] = []
    leaves: list[Leaf] = []
    older: list[Record] = []
    idle: list[Leaf] = []
    stack: list[Record | None] = list(roots)
    while stack:
        record = stack.pop()
        if record is None or record in seen:
            continue
        seen.add(record)
        if record.__class__ is Leaf:
            (leaves if record.active else idle).append(record)
        elif record.number < since:
            older.append(record)
        else:
            if record.values is None:
                raise was_freed(record)
            order.append(record)
            stack += record.parents
    order.sort(key=_number)
    return Reach(order, leaves, older, idle)


_number = operator.attrgetter("number")


def was_freed(record: Record) -> RuntimeError:
    """The error for a record that an earlier walk has spent."""
    return RuntimeError(
        f"the record of `{record.op.name}` was freed by an earlier backward(); "
        "call the earlier one with retain=True, or compute the value again"
    )


def leads_to_active_leaf(records: Iterable[Record]) -> bool:
    """Whether somebody may still want a gradient below these records; what was freed cannot tell, and may."""
    seen: set[Record] = set()
    stack: list[Record | None] = list(records)
    while stack:
        record = stack.pop()
        if record is None or record in seen:
            continue
        seen.add(record)
        if record.values is None or (record.__class__ is Leaf and record.active):
            return True
        stack += record.parents
    return False


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

    `needed` are the records that depend on a target, or None: all of them. `last`: nobody means to walk here again.
    """

    def __init__(
        self,
        order: Sequence[Record],
        targets: Sequence[Record],
        boxed: bool,
        needed: set[Record] | None = None,
        last: bool = False,
    ) -> None:
        self.order = order
        self.targets = targets
        self.boxed = boxed
        self.needed = needed
        self.last = last
        self.owned: set[Record] = set()

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
        results, and a masked branch still cannot poison a gradient. A walk that is recorded is careful at once: its
        products must say which factor is a cotangent to the walks over them.
        """
        with np.errstate(divide="ignore", invalid="ignore"), scoped(last_walk, self.last):
            watched = bool(self.order) and type(self.order[-1]) is WatchedRecord
            if not (careful.get() or self.boxed or watched):
                results = walk()
                arrays = [constant(value) for value in results if value is not None]
                if not arrays or not backend_of(arrays[0]).any_nan(arrays):
                    return results
            with scoped(careful, True):
                return walk()

    def _pull_back(self, roots: Sequence[tuple[Record, Value]]) -> list[Value | None]:
        boxed, needed = self.boxed, self.needed
        # What has no values, in a body that is being traced, is not written to.
        arrays = [constant(value) for record, g in roots for value in (record.out, g)]
        in_place = not boxed and not any(hasattr(array, "__minigrad_op__") for array in arrays)
        totals: dict[Record, Value] = {}
        owned = self.owned = set()  # whose total is a buffer of this walk, so that it may be added to in place
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
            slowly = boxed or record.__class__ is WatchedRecord
            if op.pull_into is not None and (op.structural or (in_place and not slowly)):
                parent: Any = parents[0]
                totals[parent] = op.pull_into(totals.get(parent), parent in owned, g, record.values, record.static)
                owned.add(parent)
                continue
            gradients: Sequence[Any]
            if slowly:
                gradients = self._pull_slowly(record, g, parents)
            else:
                gradients = op.pull(g, record.out, record.values, record.static, parents)
            for parent, gradient in zip(parents, gradients):  # noqa: B905  # `pull` gives one gradient a parent
                if parent is None:
                    continue
                if parent not in totals:
                    totals[parent] = gradient
                    if gradient.size > LARGE and in_place and not slowly and getattr(op, "gives_new_arrays", False):
                        owned.add(parent)
                elif parent in owned:
                    total = totals[parent]
                    total += gradient
                else:
                    totals[parent] = added(totals[parent], gradient)
                    if in_place:
                        owned.add(parent)
        return [totals.get(target) for target in self.targets]

    def _pull_slowly(self, record: Record, g: Value, wanted: Sequence[Record | None]) -> Sequence[Value | None]:
        """Pull through one record on tensors, or through one that wants to know what passed."""
        if self.boxed:
            out, values = _boxed(record), boxed_values(record)
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
                    out, values = _boxed(record), boxed_values(record)
                tangents[record] = record.op.push(incoming, out, values, record.static)
        return [None if output is None else tangents.get(output) for output in outputs]


def boxed_values(record: Record) -> list[Any]:
    """A record's inputs as they were given: tracked ones as tensors, so that rules on them are recorded."""
    return [
        value if parent is None else Box.new(value, parent)
        for value, parent in zip(record.values, record.parents, strict=True)
    ]


def _boxed(record: Record) -> Any:
    """A record's output as a tensor; the outputs of one that has several stay as they are."""
    return record.out if record.out.__class__ is tuple else Box.new(record.out, record)


_delivering = threading.Lock()  # threads may share a leaf


def backward(root: Record, g: Array, retain: bool) -> None:
    """Add the gradient of every active leaf below `root` to its `grad`, then free the records unless `retain`.

    Nothing is changed before every gradient is known.
    """
    order, leaves, _, idle = reachable([root])
    if not leaves:
        raise RuntimeError("backward() found nothing below this tensor that requires a gradient")
    needed = dependent(order, leaves) if idle else None
    walk = Walk(order, leaves, boxed=False, needed=needed, last=not retain)
    gradients = walk.pull_back([(root, g)])
    with _delivering:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                if leaf.grad is not None:
                    leaf.grad = added(leaf.grad, gradient)
                else:  # nobody else has what the walk owns
                    leaf.grad = gradient if leaf in walk.owned else gradient.copy()
    if not retain:
        for record in order:
            record.free()
