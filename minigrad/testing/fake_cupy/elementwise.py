"""Runs of elementwise operations on device arrays: one launch, and what the caller must guarantee is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.backend import ElementwiseRun
from minigrad.testing.fake_cupy.counting import launched
from minigrad.testing.fake_cupy.device_array import Host, StrictArray, host_of, quietly


def interpret(run: ElementwiseRun, arrays: Sequence[Any], xp: Any) -> None:
    """Do a run step by step: what every backend's `elementwise` must agree with.

    `xp` is the namespace of the arrays; those that the run names as destinations are written.

    >>> import numpy as np
    >>> from minigrad.backend import ElementwiseRun
    >>> from minigrad.testing import fake_cupy
    >>> a, b, c = np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.zeros(2)
    >>> fake_cupy.interpret(ElementwiseRun((("multiply", (0, 1), 2), ("negative", (2,), 2)), 3), [a, b, c], np)
    >>> c
    array([-3., -8.])
    """
    for name, operands, destination in run.steps:
        values = [arrays[i] for i in operands]
        if name == "copy":
            (result,) = values
        elif name in ("fill_0", "fill_1"):
            result = int(name == "fill_1")
        else:
            result = getattr(xp, name)(*values)
        if isinstance(result, np.generic):
            result = np.asarray(result)  # a scalar would refuse where an array wraps around
        arrays[destination][...] = result


def elementwise(run: ElementwiseRun) -> Callable[..., None]:
    """Return f(*arrays), which does a run on device arrays as NumPy would, and counts one launch."""
    written = sorted({destination for _, _, destination in run.steps})

    def call(*arrays: StrictArray) -> None:
        if len(arrays) != run.arrays:
            raise ValueError(f"elementwise: the run takes {run.arrays} arrays, got {len(arrays)}")
        for array in arrays:
            if type(array) is not StrictArray:
                raise TypeError(f"elementwise: Unsupported type {type(array)}")
        data = [host_of(array) for array in arrays]
        _check_apart(data, written)
        launched("elementwise")
        with quietly():
            interpret(run, data, np)

    return call


def _check_apart(arrays: Sequence[Host], written: Sequence[int]) -> None:
    """Raise ValueError if shapes do not fit, or if an array overlaps a destination in part."""
    shapes = {arrays[i].shape for i in written}
    if len(shapes) != 1:
        raise ValueError(f"the destinations of a run have one shape, got {shapes}")
    (shape,) = shapes
    where = [_places(array, shape) for array in arrays]
    for i in written:
        for j, other in enumerate(arrays):
            if where[j] != where[i] and np.shares_memory(arrays[i], other):
                raise ValueError(f"array {j} overlaps destination {i}, and is not the same element for element")


def _places(array: Host, shape: tuple[int, ...]) -> Any:
    """What tells where each element of an array that broadcasts to a shape is."""
    array = np.broadcast_to(array, shape)
    strides = [stride for stride, n in zip(array.strides, shape, strict=True) if n > 1]
    return array.__array_interface__["data"][0], strides, array.dtype
