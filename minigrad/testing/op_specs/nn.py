"""Specs of the ops of neural networks: softmax and its losses, and what sequences of different lengths need."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad import ops
from minigrad.testing.kinks import stays
from minigrad.testing.specs import Case, OpSpec, register_spec
from minigrad.testing.strategies import DrawFn, axis, int_array, lengths, rarely, shapes


@st.composite
def _distributions(draw: DrawFn) -> Case:
    """An array whose chosen axis is not empty."""
    shape = list(draw(shapes(min_dims=1, empty=False)))
    chosen = draw(axis(len(shape)))
    if len(shape) > 1 and draw(rarely()):
        shape[(chosen % len(shape)) - 1] = 0
    return Case((tuple(shape),), kwargs={"axis": chosen} if chosen != -1 or draw(st.booleans()) else {})


def _softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x)
    return e / e.sum(axis=axis, keepdims=True)


LIMITS = frozenset({"empty", "size1", "negative_axis"})


def _log_softmax(x: Any, axis: int = -1) -> Any:
    return np.log(_softmax(x, axis))


register_spec(OpSpec("softmax", ops.softmax, _softmax, _distributions(), laws=(stays,), tags=LIMITS))
register_spec(OpSpec("log_softmax", ops.log_softmax, _log_softmax, _distributions(), laws=(stays,), tags=LIMITS))


@st.composite
def _classified(draw: DrawFn) -> Case:
    """Logits, and a label for every position of the other axes."""
    case = draw(_distributions())
    (shape,), chosen = case.shapes, case.kwargs.get("axis", -1)
    rest = list(shape)
    classes = rest.pop(chosen)
    return Case(case.shapes, (draw(int_array(tuple(rest), 0, classes - 1)),), case.kwargs)


def _cross_entropy(x: Any, labels: Any, axis: int = -1) -> Any:
    logs = np.moveaxis(np.log(_softmax(x, axis)), axis, -1)
    flat = logs.reshape(-1, logs.shape[-1])
    picked = [row[label] for row, label in zip(flat, labels.ravel(), strict=True)]
    return -np.array(picked, x.dtype).reshape(labels.shape)


register_spec(
    OpSpec(
        "cross_entropy",
        ops.cross_entropy,
        _cross_entropy,
        _classified(),
        laws=(stays,),
        tags=LIMITS | {"repeated_index"},
        waits=(2, 0),  # for the least and the largest label
    )
)


@st.composite
def _labels(draw: DrawFn) -> Case:
    classes = draw(st.integers(1, 4))
    labels = draw(int_array(draw(shapes(max_dims=2)), 0, classes - 1))
    return Case((), (labels, classes))


register_spec(
    OpSpec(
        "one_hot",
        lambda labels, classes: ops.one_hot(labels, classes, "float64"),
        lambda labels, classes: np.eye(classes)[labels],
        _labels(),
        differentiable=False,
    )
)


@st.composite
def _sequences(draw: DrawFn) -> Case:
    """Rows of different lengths; in half of the cases time and rows are not where they usually are."""
    shape = draw(shapes(min_dims=2))
    if draw(st.booleans()):
        time, batch = 0, 1
        kwargs = {}
    else:
        time, batch = draw(st.permutations(range(len(shape))))[:2]
        kwargs = {
            "time_axis": time - draw(st.sampled_from((0, len(shape)))),
            "batch_axis": batch - draw(st.sampled_from((0, len(shape)))),
        }
    return Case((shape,), (draw(lengths(shape[time], shape[batch])),), kwargs)


def _reverse_sequence(x: Any, lengths: Any, time_axis: int = 0, batch_axis: int = 1) -> Any:
    out = np.moveaxis(x.copy(), (time_axis, batch_axis), (0, 1))
    source = np.moveaxis(x, (time_axis, batch_axis), (0, 1))
    for row, n in enumerate(lengths):
        out[:n, row] = source[:n, row][::-1]
    return np.moveaxis(out, (0, 1), (time_axis, batch_axis))


register_spec(
    OpSpec(
        "reverse_sequence",
        ops.reverse_sequence,
        _reverse_sequence,
        _sequences(),
        linear="jointly",
        exact=True,
        tags=LIMITS,
        waits=(1, 0),  # for the lengths
    )
)


@st.composite
def _masks(draw: DrawFn) -> Case:
    time, batch = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    return Case((), (draw(lengths(time, batch)), time))


register_spec(
    OpSpec(
        "sequence_mask",
        ops.sequence_mask,
        lambda lengths, maxlen: np.arange(maxlen) < lengths[:, None],
        _masks(),
        differentiable=False,
    )
)
