"""Ops that move elements and compute nothing: every one is linear, and most are each other's transpose."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.ops.indexing import getitem_, take
from minigrad.ops.op import (
    Flags,
    Shapes,
    Static,
    as_value,
    axes_of,
    axis_of,
    broadcast_batch,
    broadcast_rows,
    primitive,
)
from minigrad.tape import Array, Value


def _integers(name: str, argument: str, given: Any) -> tuple[int, ...]:
    """One integer, or several in a sequence or an array, as a tuple; TypeError for anything else."""
    if given.__class__ is int:
        return (given,)
    try:
        return tuple(map(operator.index, given if _is_several(given) else (given,)))
    except TypeError as error:  # its own kind, for a trace tells of what it cannot follow
        raise type(error)(f"minigrad.{name}: {argument} takes integers, got {given!r}: {error}") from None


def _is_several(given: Any) -> bool:
    return isinstance(given, Sequence) or len(getattr(given, "shape", ())) == 1


# ---- reshape and transpose -----------------------------------------------------------------------------------------


@primitive(linear="each")
def reshape_(xp: Any, x: Array, *, shape: tuple[int, ...]) -> Array:
    return xp.reshape(x, shape)


@reshape_.vjp(0)
def reshape_dx(g: Value, out: Value, x: Value, *, shape: tuple[int, ...]) -> Value:
    return reshape_(g, shape=x.shape)


@reshape_.batch
def reshape_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    """The -1 in first place of `shape` stands for the number of steps."""
    return {"shape": (-1, *_closed(static["shape"], shapes[0]))}


@reshape_.rows
def reshape_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return _closed(static["shape"], shapes[0])[:1] == shapes[0][:1]  # in C order, rows are cut where they were


def _closed(new: tuple[int, ...], old: tuple[int, ...]) -> tuple[int, ...]:
    """The new shape of an array, with its -1 worked out."""
    return tuple(math.prod(old) // -math.prod(new) if n == -1 else n for n in new)


def reshape(x: Any, shape: int | Sequence[int]) -> Any:
    """x with another shape of as many elements, in C order; one entry may be -1.

    >>> import minigrad as mg
    >>> mg.reshape([1.0, 2.0, 3.0, 4.0], (2, -1))
    array([[1., 2.],
           [3., 4.]])
    """
    return reshape_(x, shape=_integers("reshape", "shape", shape))


@primitive(linear="each")
def transpose_(xp: Any, x: Array, *, axes: tuple[int, ...]) -> Array:
    return xp.transpose(x, axes)


@transpose_.vjp(0)
def transpose_dx(g: Value, out: Value, x: Value, *, axes: tuple[int, ...]) -> Value:
    return transpose_(g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__)))


@transpose_.batch
def transpose_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    return {"axes": (0, *[a + 1 for a in static["axes"]])}


@transpose_.rows
def transpose_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return bool(static["axes"][0] == 0)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """x with its axes in another order; reversed by default.

    >>> import minigrad as mg
    >>> mg.transpose([[1.0, 2.0], [3.0, 4.0]])
    array([[1., 3.],
           [2., 4.]])
    """
    x = as_value("transpose", x)
    ndim = len(x.shape)
    if axes is None:
        return transpose_(x, axes=tuple(range(ndim))[::-1])
    axes = _integers("transpose", "axes", axes)
    if axes_of("transpose", axes, ndim) != tuple(range(ndim)):
        raise ValueError(f"minigrad.transpose: {axes} does not name each of {ndim} axes once")
    return transpose_(x, axes=tuple(a % ndim for a in axes))


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """x with two axes exchanged.

    >>> import minigrad as mg
    >>> mg.swapaxes([[1.0, 2.0]], 0, 1).shape
    (2, 1)
    """
    x = as_value("swapaxes", x)
    axes = list(range(len(x.shape)))
    a, b = axis_of("swapaxes", axis1, len(axes)), axis_of("swapaxes", axis2, len(axes))
    axes[a], axes[b] = axes[b], axes[a]
    return transpose_(x, axes=tuple(axes))


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """x with one axis (or several) moved to another place, the others in their order.

    >>> import minigrad as mg
    >>> mg.moveaxis([[[1.0, 2.0, 3.0]]], 2, 0).shape
    (3, 1, 1)
    """
    x = as_value("moveaxis", x)
    ndim = len(x.shape)
    old, new = (
        [axis_of("moveaxis", a, ndim) for a in _integers("moveaxis", argument, given)]
        for argument, given in (("source", source), ("destination", destination))
    )
    if len(old) != len(new) or len(set(old)) != len(old) or len(set(new)) != len(new):
        raise ValueError(f"minigrad.moveaxis: {source} and {destination} name as many different axes")
    axes = [a for a in range(ndim) if a not in old]
    for place, axis in sorted(zip(new, old, strict=True)):
        axes.insert(place, axis)
    return transpose_(x, axes=tuple(axes))


def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """x with axes of size 1 inserted at the given places of the result.

    >>> import minigrad as mg
    >>> mg.expand_dims([1.0, 2.0], 0).shape
    (1, 2)
    """
    x = as_value("expand_dims", x)
    places = _integers("expand_dims", "axis", axis)
    ndim = len(x.shape) + len(places)
    axes = axes_of("expand_dims", places, ndim)
    sizes = iter(x.shape)
    return reshape_(x, shape=tuple(1 if a in axes else next(sizes) for a in range(ndim)))


def squeeze(x: Any, axis: int | tuple[int, ...] | None = None) -> Any:
    """x without the given axes, which must have size 1; by default without all of size 1.

    >>> import minigrad as mg
    >>> mg.squeeze([[[1.0, 2.0]]]).shape
    (2,)
    """
    x = as_value("squeeze", x)
    ones = tuple(a for a, n in enumerate(x.shape) if n == 1)
    axes = ones if axis is None else axes_of("squeeze", axis, len(x.shape))
    if not set(axes) <= set(ones):
        raise ValueError(f"minigrad.squeeze: axes {axes} of shape {tuple(x.shape)} must have size 1")
    return reshape_(x, shape=tuple(n for a, n in enumerate(x.shape) if a not in axes))


# ---- broadcasting --------------------------------------------------------------------------------------------------


@primitive(linear="each")
def broadcast_to_(xp: Any, x: Array, *, shape: tuple[int, ...]) -> Array:
    return xp.broadcast_to(x, shape)


@broadcast_to_.vjp(0)
def broadcast_to_dx(g: Value, out: Value, x: Value, *, shape: tuple[int, ...]) -> Value:
    return g  # `unbroadcast` sums it to the shape of x, as it does for every op


@broadcast_to_.batch
def broadcast_to_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    """The -1 in first place of `shape` stands for the number of steps. Without new axes only: they come before time."""
    return {"shape": (-1, *static["shape"])} if len(static["shape"]) == len(shapes[0]) else None


@broadcast_to_.rows
def broadcast_to_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    shape = static["shape"]
    return len(shape) == len(shapes[0]) and shape[:1] == shapes[0][:1]


def broadcast_to(x: Any, shape: int | Sequence[int]) -> Any:
    """x repeated along new axes and axes of size 1, without copying; the result is read-only.

    >>> import minigrad as mg
    >>> mg.broadcast_to([1.0, 2.0], (2, 2))
    array([[1., 2.],
           [1., 2.]])
    """
    return broadcast_to_(x, shape=_integers("broadcast_to", "shape", shape))


# ---- joining and cutting -------------------------------------------------------------------------------------------


@primitive(linear="jointly")
def concatenate_(xp: Any, *xs: Array, axis: int) -> Array:
    return xp.concatenate(xs, axis=axis)


@concatenate_.vjp_all
def concatenate_dxs(
    g: Value, out: Value, values: Sequence[Value], static: dict[str, Any], wanted: Sequence[Any]
) -> list[Value | None]:
    axis = static["axis"]
    gradients: list[Value | None] = []
    start = 0
    for x, want in zip(values, wanted, strict=True):
        stop = start + x.shape[axis]
        part = None
        if want is not None:
            part = getitem_(g, index=(slice(None),) * axis + (slice(start, stop),))
            part = part if part.dtype == x.dtype else part.astype(x.dtype)
        gradients.append(part)
        start = stop
    return gradients


@concatenate_.batch
def concatenate_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    return {"axis": static["axis"] + 1} if all(stacked) else None


@concatenate_.rows
def concatenate_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return static["axis"] != 0 and all(aligned)


def concatenate(xs: Sequence[Any], axis: int | None = 0) -> Any:
    """Arrays joined along an axis that they have; they agree in every other. With None they are flattened first.

    >>> import minigrad as mg
    >>> mg.concatenate([[1.0, 2.0], [3.0]])
    array([1., 2., 3.])
    """
    xs = [as_value("concatenate", x) for x in xs]
    if axis is None:
        return concatenate([reshape_(x, shape=(-1,)) for x in xs])
    if not xs:
        raise ValueError("minigrad.concatenate needs at least one array")
    return concatenate_(*xs, axis=axis_of("concatenate", axis, len(xs[0].shape)))


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape joined along a new axis.

    >>> import minigrad as mg
    >>> mg.stack([[1.0, 2.0], [3.0, 4.0]])
    array([[1., 2.],
           [3., 4.]])
    """
    xs = [as_value("stack", x) for x in xs]
    if not xs:
        raise ValueError("minigrad.stack needs at least one array")
    shapes = {tuple(x.shape) for x in xs}
    if len(shapes) > 1:
        raise ValueError(f"minigrad.stack: the arrays differ in shape: {sorted(shapes)}")
    axis = axis_of("stack", axis, len(xs[0].shape) + 1)
    return concatenate_(*[expand_dims(x, axis) for x in xs], axis=axis)


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """x cut along an axis: into `sections` equal parts, or before each of the given indices.

    The indices, a sequence or an array, mean what they mean in slices: negative ones count from the end.
    Raises ValueError where equal parts are not possible.

    >>> import minigrad as mg
    >>> mg.split([1.0, 2.0, 3.0, 4.0], 2)
    [array([1., 2.]), array([3., 4.])]
    """
    x = as_value("split", x)
    axis = axis_of("split", axis, len(x.shape))
    n = x.shape[axis]
    places = _integers("split", "sections", sections)
    if _is_several(sections):
        cuts = [0, *[slice(i, None).indices(n)[0] for i in places], n]
    else:
        (count,) = places
        if count < 1 or n % count:
            raise ValueError(f"minigrad.split: axis {axis} of size {n} does not divide into {count} equal parts")
        cuts = [k * (n // count) for k in range(count + 1)]
    before = (slice(None),) * axis
    return [getitem_(x, index=(*before, slice(a, max(a, b)))) for a, b in itertools.pairwise(cuts)]


def flip(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """x backwards along the given axes; along all by default.

    >>> import minigrad as mg
    >>> mg.flip([1.0, 2.0, 3.0])
    array([3., 2., 1.])
    """
    x = as_value("flip", x)
    axes = axes_of("flip", None if axis is None else _integers("flip", "axis", axis), len(x.shape))
    backwards = tuple(slice(None, None, -1) if a in axes else slice(None) for a in range(len(x.shape)))
    return getitem_(x, index=backwards)


@primitive(linear="each")
def pad_(xp: Any, x: Array, *, widths: tuple[tuple[int, int], ...]) -> Array:
    return xp.pad(x, widths)


@pad_.vjp(0)
def pad_dx(g: Value, out: Value, x: Value, *, widths: tuple[tuple[int, int], ...]) -> Value:
    return getitem_(g, index=tuple(slice(a, a + n) for (a, _), n in zip(widths, x.shape, strict=True)))


@pad_.batch
def pad_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    return {"widths": ((0, 0), *static["widths"])}


@pad_.rows
def pad_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return not any(static["widths"][0])


def pad(x: Any, widths: Any) -> Any:
    """x with zeros around it: `widths` is a number, (before, after), or one such pair for each axis.

    >>> import minigrad as mg
    >>> mg.pad([1.0, 2.0], (1, 2))
    array([0., 1., 2., 0., 0.])
    """
    x = as_value("pad", x)
    try:
        pairs = np.broadcast_to(np.asarray(widths), (len(x.shape), 2)).tolist()
    except ValueError:
        raise ValueError(
            f"minigrad.pad: widths {widths} do not fit {len(x.shape)} axes; give (before, after) for each"
        ) from None
    if any(n < 0 for pair in pairs for n in _integers("pad", "widths", pair)):
        raise ValueError(f"minigrad.pad: widths must not be negative, got {widths}")
    return pad_(x, widths=tuple((a, b) for a, b in pairs))


def repeat(x: Any, repeats: int | Sequence[int], axis: int | None = None) -> Any:
    """x with each element (along an axis; of the flattened x by default) repeated.

    >>> import minigrad as mg
    >>> mg.repeat([1.0, 2.0], [1, 2])
    array([1., 2., 2.])
    """
    x = as_value("repeat", x)
    n = math.prod(x.shape) if axis is None else x.shape[axis_of("repeat", axis, len(x.shape))]
    return take(x, np.repeat(np.arange(n), repeats), axis=axis)


# ---- copies --------------------------------------------------------------------------------------------------------


@primitive(linear="each")
def copy_(xp: Any, x: Array) -> Array:
    return x.copy()


@copy_.vjp(0)
def copy_dx(g: Value, out: Value, x: Value) -> Value:
    return g


copy_.batch(broadcast_batch)
copy_.rows(broadcast_rows)


def copy(x: Any) -> Any:
    """A copy of x that shares no memory with it.

    >>> import minigrad as mg
    >>> mg.copy([1.0, 2.0])
    array([1., 2.])
    """
    return copy_(x)


@primitive(linear="each")
def astype_(xp: Any, x: Array, *, dtype: np.dtype[Any]) -> Array:
    return x.astype(dtype)


@astype_.vjp(0)
def astype_dx(g: Value, out: Value, x: Value, *, dtype: np.dtype[Any]) -> Value:
    return astype_(g, dtype=x.dtype)


astype_.batch(broadcast_batch)
astype_.rows(broadcast_rows)


def astype(x: Any, dtype: Any) -> Any:
    """x in another dtype. Between floating dtypes gradients pass, in the dtype of x; to integers they end.

    >>> import minigrad as mg
    >>> mg.astype([1.0, 2.0], "float32")
    array([1., 2.], dtype=float32)
    """
    return astype_(x, dtype=np.dtype(dtype))
