"""Reading elements by index, and its transpose: adding them back where they came from.

Integer and boolean index arrays have no derivative. They are copied, so that changing them later changes no gradient,
and checked: an index outside the array is an IndexError on every backend.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.backend import Backend, backend_of
from minigrad.ops.op import Flags, Shapes, Static, as_value, axis_of, boxed_like, choose, is_abstract, primitive
from minigrad.tape import Array, Value, added, constant

Index = tuple[Any, ...]

# ---- getitem and scatter_add, each other's transpose ---------------------------------------------------------------


@primitive(linear="each")
def getitem_(xp: Any, x: Array, *, index: Index) -> Array:
    return x[index]


@getitem_.vjp(0)
def getitem_dx(g: Value, out: Value, x: Value, *, index: Index) -> Value:
    return scatter_add(g, index=index, shape=tuple(x.shape))


@getitem_.accumulate
def getitem_dx_into(total: Array | None, owned: bool, g: Array, values: Sequence[Array], static: Any) -> Array:
    """The gradients of many slices of one array, added in place: T slices cost T steps and not T copies."""
    index = static["index"]
    if total is not None and all(isinstance(part, int | slice) for part in index):
        total = total if owned else total.copy()
        total[index] += g
        return total
    part = scatter_add(g, index=index, shape=tuple(values[0].shape))
    return part if total is None else added(total, part)


@getitem_.batch
def getitem_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    index = static["index"]
    return {"index": (slice(None), *index)} if _is_basic(index) else None


@getitem_.rows
def getitem_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return _keeps_rows(static["index"], shapes[0])


@primitive(linear="each")
def scatter_add(xp: Any, g: Array, *, index: Index, shape: tuple[int, ...]) -> Array:
    return backend_of(g).scatter_add(shape, g.dtype, index, g)


@scatter_add.vjp(0)
def scatter_add_dg(g: Value, out: Value, x: Value, *, index: Index, shape: tuple[int, ...]) -> Value:
    return getitem_(g, index=index)


@scatter_add.batch
def scatter_add_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    """The -1 in first place of `shape` stands for the number of steps."""
    index, shape = static["index"], static["shape"]
    return {"index": (slice(None), *index), "shape": (-1, *shape)} if _is_basic(index) else None


@scatter_add.rows
def scatter_add_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    shape = static["shape"]
    return shape[:1] == shapes[0][:1] and _keeps_rows(static["index"], shape)


def _is_basic(index: Index) -> bool:
    return all(part is None or part is Ellipsis or part.__class__ in (int, slice) for part in index)


def _keeps_rows(index: Index, shape: tuple[int, ...]) -> bool:
    """Whether a basic index takes the whole of axis 0, and leaves it in first place."""
    if not index:
        return True
    if not _is_basic(index):
        return False
    first, *others = index
    if first is Ellipsis:
        return sum(part is not None for part in others) < len(shape)  # else it stands for no axis
    return first.__class__ is slice and first.indices(shape[0]) == (0, shape[0], 1)


def getitem(x: Any, index: Any) -> Any:
    """x[index] with NumPy's rules: ints, slices, None, Ellipsis, integer and boolean arrays, or a tuple of them.

    Where an index repeats, its gradients add up. Raises IndexError for an index outside x.

    >>> import minigrad as mg
    >>> mg.getitem([10.0, 20.0, 30.0], [0, 0, 2])
    array([10., 10., 30.])
    """
    x = as_value("getitem", x)
    parts = index if isinstance(index, tuple) else (index,)
    if _is_plain(parts):
        return getitem_(x, index=parts)
    checked = _checked(x, parts)
    for part in checked:
        if is_abstract(part):
            return boxed_like(part.__minigrad_op__(getitem_, (x,), {"index": checked}), *parts)
    return boxed_like(getitem_(x, index=checked), *parts)


def _is_plain(parts: Index) -> bool:
    """Whether an index has nothing but slices, None and Ellipsis: most have, and nothing to check or to convert."""
    for part in parts:
        if part.__class__ is slice:
            if not (part.start.__class__ in _BOUND and part.stop.__class__ in _BOUND and part.step.__class__ in _BOUND):
                return False
        elif part is not None and part is not Ellipsis:
            return False
    return True


_BOUND = (int, type(None))


def _checked(x: Value, parts: Index) -> Index:
    """The index with its arrays copied, on the backend of x, and known to lie inside x.

    What the host has is looked at there: only for an index that lies on a device the host must wait.
    """
    backend = backend_of(constant(x))
    given = [np.asarray(part) if isinstance(part, list) else constant(part) for part in parts]
    parts = tuple(_index_part(backend, part) for part in parts)
    traced = is_abstract(constant(x)) or any(map(is_abstract, parts))
    used = sum(part.ndim if _is_mask(part) else 1 for part in parts if part is not None and part is not Ellipsis)
    checked: list[Any] = []
    axis = 0
    for part, source in zip(parts, given, strict=True):
        if part is Ellipsis:
            axis += len(x.shape) - used
        elif _is_mask(part):
            checked += _true_places(part, tuple(x.shape[axis : axis + part.ndim])) if traced else [part]
            axis += part.ndim
            continue
        elif part is not None:
            if hasattr(part, "dtype") and axis < len(x.shape):
                check_bounds(source if isinstance(source, np.ndarray) else part, x.shape[axis])
            axis += 1
        checked.append(part)
    return tuple(checked)


def _true_places(mask: Array, shape: tuple[int, ...]) -> Sequence[Array]:
    """A mask as the integer arrays that say the same: in a trace no shape may depend on values."""
    if not mask.ndim or tuple(mask.shape) != shape:
        raise IndexError(f"minigrad.getitem: a mask of shape {tuple(mask.shape)} on axes of shape {shape}")
    places: Sequence[Array] = mask.nonzero()
    return places


def _is_mask(part: Any) -> bool:
    return getattr(part, "dtype", None) == np.bool_


def _index_part(backend: Backend, part: Any) -> Any:
    if part is None or part is Ellipsis:
        return part
    if isinstance(part, slice):
        return slice(*[None if i is None else operator.index(i) for i in (part.start, part.stop, part.step)])
    if isinstance(part, int | np.integer) and not isinstance(part, bool):
        return int(part)
    part = constant(part)
    if is_abstract(part):
        backend = backend_of(part)
    array = backend.asarray(np.asarray(part) if isinstance(part, list | bool | np.bool_) else part)
    if array.dtype.kind not in "iub" and array.size == 0:
        array = array.astype(np.intp)  # an empty list has no integers to show its dtype
    if array.dtype.kind not in "iub":
        raise IndexError(f"minigrad.getitem: an index is an integer, a slice or a mask, got dtype {array.dtype}")
    return array.copy()


def check_bounds(index: Array, size: int) -> None:
    """Raise IndexError where an integer array leaves [-size, size). Waits for the device, if there is one."""
    if index.size and not is_abstract(index):
        xp = backend_of(index).xp
        low, high = int(xp.min(index)), int(xp.max(index))
        if low < -size or high >= size:
            worst = low if low < -size else high
            raise IndexError(f"minigrad.getitem: index {worst} lies outside an axis of size {size}")


# ---- taking --------------------------------------------------------------------------------------------------------


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The entries of x at integer indices along an axis (of the flattened x by default).

    >>> import minigrad as mg
    >>> mg.take([[1.0, 2.0], [3.0, 4.0]], [1, 0, 1], axis=0)
    array([[3., 4.],
           [1., 2.],
           [3., 4.]])
    """
    x = boxed_like(as_value("take", x), indices)
    indices = constant(indices)
    if not hasattr(indices, "dtype"):
        indices = np.asarray(indices, dtype=None if np.size(indices) else np.intp)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"minigrad.take: indices are integers, got dtype {indices.dtype}")
    if axis is None:
        return getitem(x.reshape(-1), (indices,))
    return getitem(x, (slice(None),) * axis_of("take", axis, len(x.shape)) + (indices,))


def take_along_axis(x: Any, indices: Any, axis: int) -> Any:
    """One entry of x for each of `indices` (integers of x's rank), matched along every axis but the given one.

    Raises IndexError for an index outside; in the body of a scan, where indices have no values yet, it gives NaN.

    >>> import minigrad as mg
    >>> mg.take_along_axis([[1.0, 2.0], [3.0, 4.0]], [[1], [0]], axis=1)
    array([[2.],
           [3.]])
    """
    x = boxed_like(as_value("take_along_axis", x), indices)
    ndim = len(x.shape)
    axis = axis_of("take_along_axis", axis, ndim)
    indices = as_value("take_along_axis", constant(indices))
    if indices.dtype.kind not in "iu" or len(indices.shape) != ndim:
        raise TypeError(
            f"minigrad.take_along_axis: indices are integers of rank {ndim}, "
            f"got {indices.dtype} of shape {tuple(indices.shape)}"
        )
    size = x.shape[axis]
    check_bounds(indices, size)
    if x.dtype.kind != "f" or not (is_abstract(constant(x)) or is_abstract(indices)):
        return known_along_axis(x, indices, axis)
    inside = (indices >= -size) & (indices < size)
    taken = known_along_axis(x, choose(inside, indices + size * (indices < 0), 0), axis)
    return choose(inside, taken, math.nan)


def known_along_axis(x: Value, indices: Array, axis: int) -> Value:
    """`take_along_axis` for indices that are known to lie inside, so that nobody needs to look at them."""
    ndim = len(x.shape)
    xp = backend_of(constant(x)).xp
    if (is_abstract(constant(x)) or is_abstract(indices)) and indices.shape[axis] == 1 and x.dtype.kind == "f":
        # the same without an index into every axis, so that a compiled scan can do all steps at once
        places = xp.arange(x.shape[axis]).reshape((1,) * axis + (-1,) + (1,) * (ndim - axis - 1))
        return choose(indices == places, x, 0.0).sum(axis=axis, keepdims=True)
    grid = [
        indices if a == axis else xp.arange(n).reshape((1,) * a + (n,) + (1,) * (ndim - a - 1))
        for a, n in enumerate(x.shape)
    ]
    if is_abstract(constant(x)) or is_abstract(indices):
        return getitem(x, tuple(grid))
    grid[axis] = indices.copy()
    return getitem_(x, index=tuple(grid))
