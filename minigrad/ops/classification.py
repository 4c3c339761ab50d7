"""Scores to probabilities, and their loss against integer labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.backend import backend_of
from minigrad.ops.elementwise import exp, subtract
from minigrad.ops.indexing import take_along_axis
from minigrad.ops.op import as_value, axis_of, boxed_like, is_abstract
from minigrad.ops.reductions import logsumexp
from minigrad.ops.shape import expand_dims, squeeze
from minigrad.tape import Array, Box, constant


def log_softmax(x: Any, axis: int = -1) -> Any:
    """The logarithms of `softmax`, without overflow.

    >>> import minigrad as mg
    >>> mg.log_softmax([0.0, 0.0])
    array([-0.69314718, -0.69314718])
    """
    return subtract(x, logsumexp(x, axis, keepdims=True))


def softmax(x: Any, axis: int = -1) -> Any:
    """e ** x scaled to sum to 1 along an axis.

    >>> import minigrad as mg
    >>> mg.softmax([1000.0, 1000.0])
    array([0.5, 0.5])
    """
    return exp(log_softmax(x, axis))


def cross_entropy(logits: Any, labels: Any, axis: int = -1) -> Any:
    """-log softmax(logits)[label]: logits (..., classes), integer labels (...), one loss in nats a label.

    No mean is taken: divide by the count that you mean. Raises TypeError for labels that are no integers, ValueError
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
    chosen = squeeze(take_along_axis(logits, expand_dims(indices, axis), axis), axis)
    return subtract(logsumexp(logits, axis), chosen)


def one_hot(labels: Any, num_classes: int, dtype: Any = "float32") -> Any:
    """1 at each label and 0 elsewhere: integers (...) to (..., num_classes). It has no derivative.

    Raises TypeError for labels that are no integers, IndexError for one outside 0..num_classes - 1.

    >>> import minigrad as mg
    >>> mg.one_hot([0, 2], 3)
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    indices = as_labels("one_hot", labels, num_classes)
    classes = backend_of(indices).xp.arange(num_classes)
    out = (indices[..., None] == classes).astype(np.dtype(dtype))
    return Box.new(out) if isinstance(labels, Box) else out


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
    return array if backend is None else backend.asarray(array)


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
