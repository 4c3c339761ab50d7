"""Specs of the ops that choose elements by index."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad import ops
from minigrad.testing.specs import Case, OpSpec, register_spec
from minigrad.testing.strategies import DrawFn, axis, basic_index, bool_array, int_array, int_index, rarely, shapes


@st.composite
def _indices(draw: DrawFn) -> Case:
    """What stands between brackets: slices, integers, None, Ellipsis, arrays of integers, masks, and mixtures."""
    shape = draw(shapes())
    kind = draw(st.sampled_from(("basic", "integers", "mask", "mixed", "pairs")))
    if kind == "mask" and shape:
        return Case((shape,), (draw(bool_array(shape[: draw(st.integers(1, len(shape)))])),))
    if kind == "integers" and shape:
        return Case((shape,), (draw(int_index(shape[0])),))
    if kind == "mixed" and len(shape) > 1:
        rest = [slice(None)] * (len(shape) - 1)
        place = draw(st.integers(0, len(shape) - 1))
        return Case((shape,), ((*rest[:place], draw(int_index(shape[place])), *rest[place:]),))
    if kind == "pairs" and len(shape) > 1 and 0 not in shape:
        count = draw(st.integers(0, 3))
        return Case((shape,), (tuple(draw(int_array((count,), -side, side - 1)) for side in shape[:2]),))
    index = draw(basic_index(shape))
    return Case((shape,), (index[0] if len(index) == 1 and draw(st.booleans()) else index,))


def getitem(x: Any, index: Any) -> Any:
    """`x[index]` by its public name."""
    return ops.getitem(x, index)


register_spec(
    OpSpec(
        "getitem",
        getitem,
        lambda x, index: x[index],
        _indices(),
        linear="jointly",
        exact=True,
        tags=frozenset({"0d", "empty", "size1", "repeated_index"}),
        waits=(4, 1),  # for the least and the largest of two index arrays, and for the size of a mask
    )
)


@st.composite
def _takes(draw: DrawFn) -> Case:
    """Indices into one axis, or into the array laid flat; a number, or an array with repetitions."""
    shape = draw(shapes(min_dims=1))
    chosen = draw(st.none() | axis(len(shape)))
    length = int(np.prod(shape)) if chosen is None else shape[chosen]
    index: Any = draw(int_index(length))
    if length and draw(st.integers(0, 3)) == 0:
        index = draw(st.integers(-length, length - 1))
    return Case((shape,), (index,), {"axis": chosen})


register_spec(
    OpSpec(
        "take",
        ops.take,
        np.take,
        _takes(),
        linear="jointly",
        exact=True,
        tags=frozenset({"empty", "size1", "repeated_index", "negative_axis"}),
        waits=(2, 0),  # for the least and the largest index
    )
)


@st.composite
def _takes_along(draw: DrawFn) -> Case:
    """For every position of the other axes its own indices into one axis."""
    shape = draw(shapes(min_dims=1))
    chosen = draw(axis(len(shape)))
    sides = list(shape)
    sides[chosen] = 0 if shape[chosen] == 0 or draw(rarely()) else draw(st.integers(1, 3))
    length = max(shape[chosen], 1)
    return Case((shape,), (draw(int_array(tuple(sides), -length, length - 1)),), {"axis": chosen})


register_spec(
    OpSpec(
        "take_along_axis",
        ops.take_along_axis,
        np.take_along_axis,
        _takes_along(),
        linear="jointly",
        exact=True,
        tags=frozenset({"empty", "size1", "repeated_index", "negative_axis"}),
        waits=(2, 0),  # for the least and the largest index
    )
)
