"""What programs call, beside the functions of the array library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minigrad.backend import Backend
from minigrad.scan.distribute import UFUNCS
from minigrad.scan.rows import Rows
from minigrad.tape import Array

VIEWS_AT_MOST = 20_000
"""Views of steps are kept in lists up to this length, and made on the way beyond."""


def namespace(backend: Backend) -> dict[str, Any]:
    """The names that a program finds."""
    xp = backend.xp
    return {
        **{name: getattr(xp, name) for name in UFUNCS.values()},
        "xp": xp, "empty": xp.empty, "zeros": xp.zeros, "dot": xp.dot, "matmul": xp.matmul, "sum_of": xp.sum,
        "broadcast_to": xp.broadcast_to, "copyto": _copyto(backend), "asarray": backend.asarray,
        "scatter_add": backend.scatter_add, "views": _views, "rows_of": _rows_of, "first_rows": _first_rows,
        "packed_views": _packed_views, "take_rows": _take_rows, **_made_by(backend),
    }  # fmt: skip


def _copyto(backend: Backend) -> Callable[..., None]:
    """NumPy's function, and for others one that passes no `where` where there is none."""
    xp = backend.xp

    def copyto(destination: Array, source: Any, where: Any = None) -> None:
        if where is None:
            xp.copyto(destination, source)
        else:
            xp.copyto(destination, source, where=where)

    return xp.copyto if backend.name == "numpy" else copyto


def _made_by(backend: Backend) -> dict[str, Callable[..., Array]]:
    """The functions that make arrays of a backend."""
    xp = backend.xp

    def copy_to_shape(array: Array, shape: tuple[int, ...]) -> Array:
        out = xp.empty(shape, array.dtype)
        out[...] = array
        return out

    def step_numbers(steps: int, rank: int) -> Array:
        return xp.arange(steps).reshape((steps,) + (1,) * rank)

    def sum_of_steps(stack: Array, rows: Rows) -> Array:
        out = xp.zeros((rows.all, *stack.shape[1:]), dtype=stack.dtype)
        for view in _packed_views(stack, rows):
            out[: len(view)] += view
        return out

    def times_steps(array: Array, rows: Rows) -> Array:
        counts = backend.asarray(rows.steps_of_rows(), array.dtype)
        return array * counts.reshape((-1,) + (1,) * (array.ndim - 1))

    def steps_beside(stack: Array, axis: int) -> Array:
        """The steps one after the other along an axis, -1 or -2: with -2, (T, ..., n, k) becomes (..., T * n, k)."""
        moved = xp.moveaxis(stack, 0, axis - 1)
        steps, size = moved.shape[axis - 1 :][:2]
        shape = list(stack.shape[1:])
        shape[axis] = steps * size
        return moved.reshape(shape)

    made = (copy_to_shape, step_numbers, sum_of_steps, times_steps, steps_beside)
    return {function.__name__: function for function in made}


def _views(stack: Array) -> Any:
    """The steps of a stack, as arrays even where they are numbers."""
    if stack.ndim == 1:
        return [stack[t, ...] for t in range(len(stack))]
    return list(stack) if len(stack) <= VIEWS_AT_MOST else stack


def _rows_of(stack: Array, width: int) -> Array:
    return stack.reshape(math.prod(stack.shape[:-1]), width)


def _first_rows(array: Array, rows: Rows) -> list[Array]:
    """The rows of a buffer that take part in each step."""
    return rows.firsts(array)


def _packed_views(stack: Array, rows: Rows) -> tuple[Array, ...]:
    """The rows of each step, of those of all steps."""
    return rows.parts(stack)


def _take_rows(array: Array, rows: Rows) -> Array:
    """A row of an array for each of the rows of all steps."""
    return array[rows.row_of]
