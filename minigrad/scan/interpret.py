"""A body done step by step on the ordinary tape: what a program must agree with, and how its single uses are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad.ops.shape import stack
from minigrad.scan.symbol import CONSTANT, Symbol, constant_of, filled, slots
from minigrad.scan.trace import PICKED, Body, order_of
from minigrad.tape import Leaf, Tape, Value, constant
from minigrad.tensor import Tensor


def interpret(body: Body, inputs: Sequence[Value], steps: int, reverse: bool) -> list[Value]:
    """The final state and the stacked results of a body without sums, by calling its ops at every step."""
    a, b = len(body.carry), len(body.carry) + len(body.elems)
    state, elems, captured = list(inputs[:a]), inputs[a:b], inputs[b:]
    order = order_of(body.results, body.leaves)
    stacked: list[list[Value]] = [[] for _ in body.stacked]
    for t in sorted(range(steps), reverse=reverse):
        known = dict(zip(body.leaves, [*state, *[x[t] for x in elems], *captured], strict=True))
        for node in order:
            known[node] = _value(node, known)
        state = [known[new] for new in body.next]
        for column, result in zip(stacked, body.stacked, strict=True):
            column.append(known[result])
    return [*state, *[stack(column[::-1] if reverse else column) for column in stacked]]


def _value(node: Symbol, known: dict[Symbol, Any]) -> Any:
    if node.op is CONSTANT:
        return node.static["value"]
    values = [constant_of(i) if i.op is CONSTANT else known[i] for i in node.inputs]
    if node.op is PICKED:
        return values[0][node.static["place"]]
    count = len(values) - slots(node.static)
    static = filled(node.static, [constant(value) for value in values])
    if hasattr(node.op, "on_arrays"):  # a scan inside of this one
        return node.op(values, **static)
    return node.op(*values[:count], **static)


def uses(run: Callable[[list[Tensor]], Sequence[Value]], record: Any, argnum: int) -> Iterator[tuple[str, int, Any]]:
    """Every use of one input of a recorded scan: the op, its argument, and the gradient by this use alone.

    `run` gives the scan's results on the ordinary tape.
    """
    inputs = [
        Tensor(array) if parent is None else _variable(array)
        for array, parent in zip(record.inputs[:-1], record.parents[:-1], strict=True)
    ]
    with Tape() as tape:
        out = run(inputs)
        total = None
        for place, g in record.cotangent.items():
            term = (out[place] * g).sum() if isinstance(out[place], Tensor) else None
            total = term if total is None or term is None else total + term
        if isinstance(total, Tensor) and total.requires_grad:
            total.backward()
    asked = inputs[argnum]
    used = any(asked.record in r.parents for r in tape.records)  # not by steps that ignore it
    if used and any(r.cotangent is not None for r in tape.records):
        for use in tape.uses(asked):
            yield use.op, use.argnum, use.gradient


def _variable(array: Any) -> Tensor:
    return Tensor(array, Leaf(array))
