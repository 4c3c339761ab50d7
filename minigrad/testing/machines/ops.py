"""The ops that the machines write, each with a reference of its own in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad.testing import strategies
from minigrad.testing.numeric import Floats
from minigrad.testing.specs import Shape
from minigrad.testing.strategies import DrawFn

SHAPES: Sequence[Shape] = ((), (1,), (2,), (3,), (2, 1), (2, 2), (2, 3), (1, 3))


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
