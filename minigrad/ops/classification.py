"""Scores to probabilities, and their loss against integer labels; computed in floats, see `reductions.widened`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.backend import backend_of
from minigrad.ops.elementwise import exp, negative, subtract
from minigrad.ops.indexing import known_along_axis
from minigrad.ops.op import Flags, Shapes, Static, as_value, axis_of, boxed_like, is_abstract, primitive, scaled
from minigrad.ops.reductions import FULL, sum, widened
from minigrad.ops.shape import expand_dims, squeeze
from minigrad.ops.where import where
from minigrad.tape import Array, Box, Value, constant


@primitive()
def log_softmax_(xp: Any, x: Array, *, axis: int) -> Array:
    shifted = x - xp.max(x, axis=axis, keepdims=True)  # exact, so that large scores cost no digits
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@log_softmax_.vjp(0)
def log_softmax_dx(g: Value, out: Value, x: Value, *, axis: int) -> Value:
    return subtract(g, scaled(sum(g, axis, keepdims=True), exp(out)))


@log_softmax_.jvp(0)
def log_softmax_jvp(t: Value, out: Value, x: Value, *, axis: int) -> Value:
    return subtract(t, sum(scaled(t, exp(out)), axis, keepdims=True))


@log_softmax_.batch
def log_softmax_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    return {"axis": static["axis"] + 1}


@log_softmax_.rows
def log_softmax_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return bool(static["axis"] != 0)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """The logarithms of `softmax`, without overflow. Raises ValueError where there are no elements.

    >>> import minigrad as mg
    >>> mg.log_softmax([0.0, 0.0])
    array([-0.69314718, -0.69314718])
    """
    x = as_value("log_softmax", x)
    if x.dtype.char not in FULL:
        return widened(log_softmax, x, axis)
    return log_softmax_(x, axis=axis_of("log_softmax", axis, len(x.shape)))


def softmax(x: Any, axis: int = -1) -> Any:
    """e ** x scaled to sum to 1 along an axis.

    >>> import minigrad as mg
    >>> mg.softmax([1000.0, 1000.0])
    array([0.5, 0.5])
    """
    x = as_value("softmax", x)
    if x.dtype.char not in FULL:
        return widened(softmax, x, axis)
    return exp(log_softmax(x, axis))


def cross_entropy(logits: Any, labels: Any, axis: int = -1) -> Any:
    """-log softmax(logits)[label]: logits (..., classes), integer labels (...), one loss in nats a label.

    No mean is taken: divide by the count that you mean. In the body of a scan, where labels have no values yet, one
    outside of the classes gives NaN. Raises TypeError for labels that are no integers, ValueError
    where the shapes do not fit, IndexError for a label outside the classes.

    >>> import minigrad as mg
    >>> mg.cross_entropy([[0.0, 0.0], [5.0, 0.0]], [0, 0])
    array([0.69314718, 0.00671535])
    """
    logits = boxed_like(as_value("cross_entropy", logits), labels)
    axis = axis_of("cross_entropy", axis, len(logits.shape))
    indices = as_labels("cross_entropy", labels, logits.shape[axis], backend_of(constant(logits)))
    expected = tuple(n for a, n in enumerate(logits.shape) if a != axis)
    if tuple(indices.shape) != expected:
        raise ValueError(
            f"minigrad.cross_entropy: logits of shape {tuple(logits.shape)} need labels of shape {expected}, "
            f"got {tuple(indices.shape)}"
        )
    known = expand_dims(_known(indices, logits.shape[axis]), axis)
    chosen = known_along_axis(log_softmax(logits, axis), known, axis)
    return _or_nan(negative(squeeze(chosen, axis)), indices, logits.shape[axis])


def one_hot(labels: Any, num_classes: int, dtype: Any = "float32") -> Any:
    """1 at each label and 0 elsewhere: integers (...) to (..., num_classes). It has no derivative.

    In the body of a scan, where labels have no values yet, one outside gives NaN.
    Raises TypeError for labels that are no integers, IndexError for one outside 0..num_classes - 1.

    >>> import minigrad as mg
    >>> mg.one_hot([0, 2], 3)
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    indices = as_labels("one_hot", labels, num_classes)
    classes = backend_of(indices).xp.arange(num_classes)
    if is_abstract(indices) and np.dtype(dtype).kind != "f":
        raise TypeError(
            f"minigrad.one_hot: in the body of a scan it is floating, so that NaN can tell of a label outside, got "
            f"{np.dtype(dtype)}; convert it with astype"
        )
    out = _or_nan((indices[..., None] == classes).astype(np.dtype(dtype)), indices[..., None], num_classes)
    return Box.new(out) if isinstance(labels, Box) else out


def _known(indices: Array, num_classes: int) -> Array:
    """Labels that can be looked up: those that have no values yet, with 0 in place of one outside."""
    return where(_is_known(indices, num_classes), indices, 0) if is_abstract(indices) else indices


def _or_nan(x: Value, indices: Array, num_classes: int) -> Value:
    """What was looked up, but NaN for a label outside, where that could not be seen before."""
    return where(_is_known(indices, num_classes), x, math.nan) if is_abstract(indices) else x


def _is_known(indices: Array, num_classes: int) -> Array:
    return (indices >= 0) & (indices < num_classes)


def as_labels(name: str, labels: Any, num_classes: int, backend: Any = None) -> Array:
    """Class labels as an integer array, each in 0..num_classes - 1; TypeError or IndexError otherwise.

    Labels on the host are checked there, and moved to `backend`; labels on a device are waited for.
    """
    array = as_value(name, constant(labels))
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"minigrad.{name}: labels are integers, got dtype {array.dtype}; convert them with astype")
    if array.size and not is_abstract(array):
        xp = backend_of(array).xp
        low, high = int(xp.min(array)), int(xp.max(array))
        if low < 0 or high >= num_classes:
            worst = low if low < 0 else high
            raise IndexError(f"minigrad.{name}: label {worst} lies outside 0..{num_classes - 1}")
    array = array if array.dtype.kind in "iu" else array.astype(np.intp)
    return array if backend is None or is_abstract(array) else backend.asarray(array)


def argmax(x: Any, axis: int | None = None) -> Any:
    """The integer index of the largest element, the first at a tie. It has no derivative.

    >>> import minigrad as mg
    >>> int(mg.argmax([1.0, 3.0, 2.0]))
    1
    """
    array = constant(as_value("argmax", x))
    axis = None if axis is None else axis_of("argmax", axis, len(array.shape))
    backend = backend_of(array)
    out = backend.asarray(backend.xp.argmax(array, axis=axis))
    return Box.new(out) if isinstance(x, Box) else out
