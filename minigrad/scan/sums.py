"""What is known after the last step: sums over time, as expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad.ops.linalg import matmul
from minigrad.scan.calls import Calls
from minigrad.scan.differentiate import SUM_OVER_TIME
from minigrad.scan.distribute import (
    COPY,
    OUTER_OVER_TIME,
    PRODUCT_OVER_TIME,
    ROWS_OVER_TIME,
    SCATTER_OVER_TIME,
    UFUNCS,
)
from minigrad.scan.symbol import Symbol
from minigrad.scan.text import tuple_of


def final_expression(e: Calls, node: Symbol) -> str:
    """A node that is computed after the last step."""
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(e, node)
    operands = [e.stack(i)[0] for i in node.inputs]
    if node.op is matmul:
        return f"matmul({operands[0]}, {operands[1]})"
    if node.op.name in UFUNCS:
        return f"asarray({UFUNCS[node.op.name]}({', '.join(operands)}))"
    if node.op is COPY:
        return f"copy_to_shape({operands[0]}, {tuple_of(node.shape)})"
    return e.expression(node, operands)


def _times_steps(e: Calls, text: str, node: Symbol) -> str:
    """The sum of as many equal terms as there are steps."""
    return f"multiply({text}, {e.dtype(node.dtype)}.type(T))"


def _sum(e: Calls, node: Symbol) -> str:
    """The sum over steps."""
    x = node.inputs[0]
    variable = e.stack(x)[0]
    if x in e.aligned:
        return f"{'times_steps' if e.is_once(x) else 'sum_of_steps'}({variable}, rows)"
    return _times_steps(e, variable, node) if e.is_once(x) else f"asarray(sum_of({variable}, axis=0))"


def _product(e: Calls, node: Symbol) -> str:
    """The sum over steps of a.T @ b: one product, of stacks or with what is the same at all steps taken out."""
    a, b = node.inputs
    if a in e.of_rows or b in e.of_rows:
        left, right = (f"take_rows({e.stack(x)[0]}, rows)" if e.is_once(x) else e.rows(x, x.shape[-1]) for x in (a, b))
        return f"dot({left}.T, {right})"
    left, right = e.stack(a)[0], e.stack(b)[0]
    if e.is_once(a) and e.is_once(b):
        return _times_steps(e, f"dot({left}.T, {right})", node)
    if e.is_once(a):
        return f"dot({left}.T, sum_of({right}, axis=0))"
    if e.is_once(b):
        return f"dot(sum_of({left}, axis=0).T, {right})"
    return f"dot({e.rows(a, a.shape[-1])}.T, {e.rows(b, b.shape[-1])})"


def _outer(e: Calls, node: Symbol) -> str:
    """The sum over steps of outer products: one product for each of the leading indices."""
    a, b = node.inputs
    left, right = e.stack(a)[0], e.stack(b)[0]
    if e.is_once(a) and e.is_once(b):
        return _times_steps(e, f"multiply({left}, {right})", node)
    if e.is_once(a):
        return f"multiply({left}, sum_of({right}, axis=0))"
    if e.is_once(b):
        return f"multiply(sum_of({left}, axis=0), {right})"
    return f"matmul(steps_beside({left}, -1), steps_beside({right}, -2))"


def _rows(e: Calls, node: Symbol) -> str:
    """The sum over steps and over axes of each."""
    x = node.inputs[0]
    axis, keepdims = node.static["axis"], node.static["keepdims"]
    if not e.is_once(x) and set(axis) == set(range(len(x.shape) - 1)) and len(x.shape) > 1 and x.dtype.kind == "f":
        # a product, which is faster than NumPy's sum over rows
        text = f"{e.ones(x)}.dot({e.rows(x, x.shape[-1])})"
        return f"{text}.reshape({tuple_of(node.shape)})" if keepdims else text
    if x in e.aligned:
        variable = e.stack(x)[0]
        if e.is_once(x):  # a row counts as often as it takes part in a step
            variable = f"times_steps({variable}, rows)"
            return f"asarray(sum_of({variable}, axis={tuple_of(axis)}, keepdims={keepdims}))"
        text = f"asarray(sum_of({variable}, axis={tuple_of(axis)}, keepdims={keepdims}))"
        return text if 0 in axis else f"sum_of_steps({text}, rows)"
    if e.is_once(x):
        total = _times_steps(e, f"sum_of({e.stack(x)[0]}, axis={tuple_of(axis)})", node)
        return f"{total}.reshape({tuple_of(node.shape)})"
    text = f"asarray(sum_of({e.stack(x)[0]}, axis={tuple_of((0, *[a + 1 for a in axis]))}))"
    return f"{text}.reshape({tuple_of(node.shape)})" if keepdims else text


def _scatter(e: Calls, node: Symbol) -> str:
    """The sum over steps of what is added at index arrays."""
    x, index = node.inputs
    if x in e.aligned and index in e.aligned:
        return _scatter_rows(e, node)
    values = e.stack(x)[0]
    if e.is_once(index) and not e.is_once(x):
        values = f"sum_of({values}, axis=0)"
    elif e.is_once(x):
        steps = () if e.is_once(index) else ("T",)
        values = f"broadcast_to({values}, {tuple_of((*steps, *x.shape))})"
    shape, dtype = tuple_of(node.static["shape"]), e.dtype(node.dtype)
    text = f"scatter_add({shape}, {dtype}, ({e.stack(index)[0]},), {values})"
    return _times_steps(e, text, node) if e.is_once(x) and e.is_once(index) else text


def _scatter_rows(e: Calls, node: Symbol) -> str:
    """The same of packed rows: a row that is the same at all steps counts at each step that it takes part in."""
    values, index = (f"take_rows({e.stack(i)[0]}, rows)" if e.is_once(i) else e.stack(i)[0] for i in node.inputs)
    return f"scatter_add({tuple_of(node.static['shape'])}, {e.dtype(node.dtype)}, ({index},), {values})"


_RULES: dict[Any, Callable[[Calls, Symbol], str]] = {
    SUM_OVER_TIME: _sum,
    PRODUCT_OVER_TIME: _product,
    OUTER_OVER_TIME: _outer,
    ROWS_OVER_TIME: _rows,
    SCATTER_OVER_TIME: _scatter,
}
