"""Reductions: many elements to one, over one axis, several or all.

`axis` is None (all), an int or a tuple; `keepdims=True` leaves the reduced axes with size 1. float16 is reduced in
float32, forward and backward, and what gives floats of integers computes in float64; see `widened`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minigrad.backend import backend_of
from minigrad.ops.elementwise import divide, exp, multiply, square, subtract
from minigrad.ops.op import HALF, Flags, Shapes, Static, as_value, axes_of, boxed_like, primitive, scaled
from minigrad.ops.shape import astype, broadcast_to_, concatenate_, flip, reshape_, transpose_
from minigrad.ops.where import where
from minigrad.tape import Array, Value, constant

Axes = tuple[int, ...]

FULL = "fdgFDG"
"""NumPy's codes of the floats, real and complex, that are computed with as they are."""


def widened(function: Callable[..., Value], x: Value, *args: Any) -> Value:
    """`function` of x in a wider dtype: of integers in float64; of float16 in float32, the result in float16 again.

    Small integers wrap. In float16, where nothing lies beyond 65504, adding ones ends at 2048, and 300 has no square.
    """
    if x.dtype.char != HALF:
        return function(astype(x, "float64"), *args)
    return astype(function(astype(x, "float32"), *args), "float16")


def _kept(x: Value, like: Value, axis: Axes) -> Value:
    """A reduced value, or its cotangent, with its reduced axes back as axes of size 1, so that it broadcasts."""
    if not x.shape:
        return x
    return reshape_(x, shape=tuple(1 if a in axis else n for a, n in enumerate(like.shape)))


def reduction_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    return {**static, "axis": tuple(a + 1 for a in static["axis"])}


def reduction_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return 0 not in static["axis"]


# ---- sum and mean --------------------------------------------------------------------------------------------------


@primitive(linear="each")
def sum_(xp: Any, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return xp.sum(x, axis=axis, keepdims=keepdims)


@sum_.vjp(0)
def sum_dx(g: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return broadcast_to_(_kept(g, x, axis), shape=tuple(x.shape))


sum_.batch(reduction_batch)
sum_.rows(reduction_rows)


def sum(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """The sum of the elements over the given axes; 0 of none.

    >>> import minigrad as mg
    >>> mg.sum([[1.0, 2.0], [3.0, 4.0]], axis=0)
    array([4., 6.])
    """
    x = as_value("sum", x)
    if x.dtype.char == HALF:
        return widened(sum, x, axis, keepdims)
    return sum_(x, axis=axes_of("sum", axis, len(x.shape)), keepdims=keepdims)


def mean(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """The mean of the elements over the given axes; NaN of none.

    >>> import minigrad as mg
    >>> mg.mean([[1.0, 2.0], [3.0, 4.0]], axis=1)
    array([1.5, 3.5])
    """
    x = as_value("mean", x)
    if x.dtype.char not in FULL:
        return widened(mean, x, axis, keepdims)
    axes = axes_of("mean", axis, len(x.shape))
    count = math.prod(x.shape[a] for a in axes)
    return divide(sum_(x, axis=axes, keepdims=keepdims), float(count) if count else math.nan)


def var(x: Any, axis: int | Axes | None = None, keepdims: bool = False, ddof: int = 0) -> Any:
    """The variance: the mean squared distance from the mean, divided by the count less `ddof`.

    >>> import minigrad as mg
    >>> float(mg.var([1.0, 2.0, 3.0, 4.0]))
    1.25
    """
    x = as_value("var", x)
    if x.dtype.char not in FULL:
        return widened(var, x, axis, keepdims, ddof)
    axes = axes_of("var", axis, len(x.shape))
    count = math.prod(x.shape[a] for a in axes) - ddof
    total = sum_(square(subtract(x, mean(x, axes, keepdims=True))), axis=axes, keepdims=keepdims)
    return divide(total, float(count) if count > 0 else math.nan)


# ---- max and min ---------------------------------------------------------------------------------------------------


def _ties(out: Value, x: Value, axis: Axes) -> Array:
    """The share of each element in its extremum: 1, or 1/k where k elements tie. It is piecewise constant."""
    chosen = (constant(x) == _kept(constant(out), x, axis)).astype(x.dtype)
    return chosen / sum_(chosen, axis=axis, keepdims=True)


def extremum_dx(g: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return scaled(_kept(g, x, axis), _ties(out, x, axis))


def extremum_jvp(t: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return sum_(scaled(t, _ties(out, x, axis)), axis=axis, keepdims=keepdims)


@primitive()
def max_(xp: Any, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return xp.max(x, axis=axis, keepdims=keepdims)


@primitive()
def min_(xp: Any, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return xp.min(x, axis=axis, keepdims=keepdims)


for _extremum in (max_, min_):
    _extremum.vjp(0)(extremum_dx)
    _extremum.jvp(0)(extremum_jvp)
    _extremum.batch(reduction_batch)
    _extremum.rows(reduction_rows)


def max(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """The largest element over the given axes; where k tie, each gets 1/k of the gradient.

    Raises ValueError where there are no elements.

    >>> import minigrad as mg
    >>> mg.max([[1.0, 2.0], [3.0, 0.0]], axis=1)
    array([2., 3.])
    """
    x = as_value("max", x)
    if x.dtype.char == HALF:
        return widened(max, x, axis, keepdims)
    return max_(x, axis=axes_of("max", axis, len(x.shape)), keepdims=keepdims)


def min(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """The smallest element over the given axes; where k tie, each gets 1/k of the gradient.

    Raises ValueError where there are no elements.

    >>> import minigrad as mg
    >>> mg.min([[1.0, 2.0], [3.0, 0.0]], axis=1)
    array([1., 0.])
    """
    x = as_value("min", x)
    if x.dtype.char == HALF:
        return widened(min, x, axis, keepdims)
    return min_(x, axis=axes_of("min", axis, len(x.shape)), keepdims=keepdims)


# ---- products ------------------------------------------------------------------------------------------------------


def prod(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """The product of the elements over the given axes; 1 of none. Right at zeros too, at every order.

    It multiplies halves with halves, so nothing is ever divided by an element.

    >>> import minigrad as mg
    >>> mg.prod([[1.0, 2.0], [3.0, 0.0]], axis=1)
    array([2., 0.])
    """
    x = as_value("prod", x)
    if keepdims not in (True, False):  # NumPy has the dtype in third place
        raise TypeError(f"minigrad.prod: keepdims is True or False, got {keepdims!r}; for a dtype, astype first")
    if x.dtype.char == HALF:
        return widened(prod, x, axis, keepdims)
    axes = axes_of("prod", axis, len(x.shape))
    if x.dtype.kind in "biu":  # NumPy's product widens small integers, which have no derivative
        backend = backend_of(constant(x))
        return boxed_like(backend.asarray(backend.xp.prod(constant(x), axis=axes, keepdims=keepdims)), x)
    rest = tuple(a for a in range(len(x.shape)) if a not in axes)
    shape = tuple(x.shape)
    count = math.prod(shape[a] for a in axes)
    last = len(rest)
    factors = reshape_(transpose_(x, axes=(*rest, *axes)), shape=(*[shape[a] for a in rest], count))
    while count > 1:
        half = count // 2
        product = multiply(factors[..., :half], factors[..., half : 2 * half])
        factors = product if count == 2 * half else concatenate_(product, factors[..., 2 * half :], axis=last)
        count -= half
    if count == 0:
        factors = sum_(factors, axis=(last,), keepdims=True) + 1
    return reshape_(
        factors, shape=tuple(1 if a in axes else n for a, n in enumerate(shape) if keepdims or a not in axes)
    )


@primitive(linear="each")
def cumsum_(xp: Any, x: Array, *, axis: int) -> Array:
    return xp.cumsum(x, axis=axis)


@cumsum_.vjp(0)
def cumsum_dx(g: Value, out: Value, x: Value, *, axis: int) -> Value:
    return flip(cumsum_(flip(g, axis), axis=axis), axis)


@cumsum_.batch
def cumsum_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    return {"axis": static["axis"] + 1}


@cumsum_.rows
def cumsum_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return bool(static["axis"] != 0)


def cumsum(x: Any, axis: int | None = None) -> Any:
    """The running sum along an axis (of the flattened x by default).

    >>> import minigrad as mg
    >>> mg.cumsum([1.0, 2.0, 3.0])
    array([1., 3., 6.])
    """
    x = as_value("cumsum", x)
    if x.dtype.char == HALF:
        return widened(cumsum, x, axis)
    if axis is None:
        return cumsum_(reshape_(x, shape=(-1,)), axis=0)
    return cumsum_(x, axis=axes_of("cumsum", (axis,), len(x.shape))[0])


# ---- log-sum-exp and norm ------------------------------------------------------------------------------------------


@primitive()
def logsumexp_(xp: Any, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    top = xp.max(x, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # an infinite one would make inf - inf
    total = xp.sum(xp.exp(x - top), axis=axis, keepdims=True)
    nothing = total == 0  # all are -inf, and so is the result, without a warning of log(0)
    total = xp.where(nothing, -math.inf, xp.log(xp.where(nothing, 1, total)) + top)
    return total if keepdims else xp.reshape(total, [n for a, n in enumerate(total.shape) if a not in axis])


def _softmax(out: Value, x: Value, axis: Axes) -> Value:
    total = _kept(out, x, axis)
    return exp(x - where(constant(total) == -math.inf, 0.0, total))  # of nothing but -inf: all 0


@logsumexp_.vjp(0)
def logsumexp_dx(g: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return scaled(_kept(g, x, axis), _softmax(out, x, axis))


@logsumexp_.jvp(0)
def logsumexp_jvp(t: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return sum_(scaled(t, _softmax(out, x, axis)), axis=axis, keepdims=keepdims)


logsumexp_.batch(reduction_batch)
logsumexp_.rows(reduction_rows)


def logsumexp(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """log(sum(e ** x)) over the given axes, without overflow. Raises ValueError where there are no elements.

    >>> import minigrad as mg
    >>> float(mg.logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    """
    x = as_value("logsumexp", x)
    if x.dtype.char not in FULL:
        return widened(logsumexp, x, axis, keepdims)
    return logsumexp_(x, axis=axes_of("logsumexp", axis, len(x.shape)), keepdims=keepdims)


@primitive()
def norm_(xp: Any, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return xp.sqrt(xp.sum(x * x, axis=axis, keepdims=keepdims))


def _direction(out: Value, x: Value, axis: Axes) -> Value:
    """x / norm(x), and 0 where x is 0: the subgradient of least length."""
    length = _kept(out, x, axis)
    zero = constant(length) == 0
    return where(zero, 0.0, x / where(zero, 1.0, length))


@norm_.vjp(0)
def norm_dx(g: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return scaled(_kept(g, x, axis), _direction(out, x, axis))


@norm_.jvp(0)
def norm_jvp(t: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return sum_(scaled(t, _direction(out, x, axis)), axis=axis, keepdims=keepdims)


norm_.batch(reduction_batch)
norm_.rows(reduction_rows)


def norm(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Any:
    """The Euclidean norm over the given axes (all: of the flattened x); its derivative at 0 is 0.

    >>> import minigrad as mg
    >>> float(mg.norm([3.0, 4.0]))
    5.0
    """
    x = as_value("norm", x)
    if x.dtype.char not in FULL:
        return widened(norm, x, axis, keepdims)
    return norm_(x, axis=axes_of("norm", axis, len(x.shape)), keepdims=keepdims)
