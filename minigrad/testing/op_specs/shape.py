"""Specs of the ops that move data and change nothing: linear, and exact to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad import ops
from minigrad.testing.specs import Case, OpSpec, Shape, register_spec
from minigrad.testing.strategies import DrawFn, axes, axis, broadcastable, int_array, permutations_of, rarely, shapes

LIMITS = frozenset({"0d", "empty", "size1"})


def moving(name: str, ref: Any, cases: st.SearchStrategy[Case], tags: frozenset[str] = LIMITS, fn: Any = None) -> None:
    """An op that puts every element somewhere, nowhere, or in several places."""
    spec = OpSpec(name, fn or getattr(ops, name), ref, cases, linear="jointly", exact=True, tags=tags)
    register_spec(spec)


def with_axis(shape_strategy: st.SearchStrategy[Shape]) -> st.SearchStrategy[Case]:
    """An array of at least one axis, and one of its axes."""
    return shape_strategy.flatmap(lambda s: axis(len(s)).map(lambda n: Case((s,), kwargs={"axis": n})))


# ---- one array, seen differently -----------------------------------------------------------------------------------


@st.composite
def _reshapes(draw: DrawFn) -> Case:
    """A shape and another one of the same size, in some cases with one length left open."""
    shape = draw(shapes())
    new = list(draw(st.permutations(shape)))
    if draw(st.booleans()):
        new = [int(np.prod(new[:2], dtype=int)), *new[2:]]
    if draw(st.booleans()):
        new.insert(draw(st.integers(0, len(new))), 1)
    if new and 0 not in new and draw(st.booleans()):
        new[draw(st.integers(0, len(new) - 1))] = -1
    return Case((shape,), (tuple(new),))


@st.composite
def _orders(draw: DrawFn) -> Case:
    shape = draw(shapes())
    return Case((shape,), () if draw(st.booleans()) else (draw(permutations_of(len(shape))),))


@st.composite
def _two_axes(draw: DrawFn) -> Case:
    shape = draw(shapes(min_dims=1))
    return Case((shape,), (draw(axis(len(shape))), draw(axis(len(shape)))))


@st.composite
def _expansions(draw: DrawFn) -> Case:
    shape = draw(shapes())
    if draw(st.booleans()):
        return Case((shape,), kwargs={"axis": draw(axis(len(shape) + 1))})
    return Case((shape,), kwargs={"axis": tuple(draw(st.permutations(range(len(shape) + 2)))[:2])})


@st.composite
def _squeezes(draw: DrawFn) -> Case:
    """An array with axes of length 1, of which all, one or several are dropped."""
    shape = list(draw(shapes()))
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    ones = [k for k, side in enumerate(shape) if side == 1]
    chosen: Any = None
    if ones and draw(st.booleans()):
        chosen = draw(st.sampled_from(ones)) - draw(st.sampled_from((0, len(shape))))
    elif draw(st.booleans()):
        chosen = tuple(draw(st.lists(st.sampled_from(ones), unique=True))) if ones else ()
    return Case((tuple(shape),), kwargs={"axis": chosen})


@st.composite
def _stretches(draw: DrawFn) -> Case:
    """A shape and one that it broadcasts to: longer axes, and more of them."""
    target, start = draw(broadcastable(2))
    full = np.broadcast_shapes(target, start)
    return Case((start,), (tuple(draw(shapes(max_dims=1))) + full,))


@st.composite
def _flips(draw: DrawFn) -> Case:
    shape = draw(shapes())
    return Case((shape,), kwargs={"axis": draw(axes(len(shape)))})


@st.composite
def _pads(draw: DrawFn) -> Case:
    """One number, one pair for all axes, or a pair for each."""
    shape = draw(shapes(min_dims=1))
    pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
    width = draw(st.integers(0, 2) | pair | st.tuples(*[pair] * len(shape)))
    return Case((shape,), (width,))


@st.composite
def _repeats(draw: DrawFn) -> Case:
    """Every element equally often, or each its own number of times."""
    shape = draw(shapes())
    chosen = draw(axis(len(shape))) if shape and draw(st.booleans()) else None
    length = int(np.prod(shape)) if chosen is None else shape[chosen]
    count: Any = 0 if draw(rarely()) else draw(st.integers(1, 3))
    if draw(st.booleans()):
        count = tuple(draw(int_array((length,), 0, 2)).tolist()) if length else 1
    return Case((shape,), (count,), {"axis": chosen})


moving("copy", np.copy, shapes().map(lambda s: Case((s,))))
moving("reshape", np.reshape, _reshapes())
moving("transpose", np.transpose, _orders())
moving("swapaxes", np.swapaxes, _two_axes(), LIMITS - {"0d"})
moving("moveaxis", np.moveaxis, _two_axes(), LIMITS - {"0d"})
moving("expand_dims", np.expand_dims, _expansions(), LIMITS | {"negative_axis", "tuple_axis"})
moving("squeeze", np.squeeze, _squeezes(), LIMITS | {"negative_axis", "tuple_axis"})
moving("broadcast_to", np.broadcast_to, _stretches())
moving("flip", np.flip, _flips(), LIMITS | {"negative_axis", "tuple_axis"})
moving("pad", np.pad, _pads(), LIMITS - {"0d"})
moving("repeat", np.repeat, _repeats(), LIMITS | {"negative_axis"})

# ---- several arrays ------------------------------------------------------------------------------------------------


@st.composite
def _chains(draw: DrawFn) -> Case:
    """Arrays that differ along one axis only."""
    shape = draw(shapes(min_dims=1))
    chosen = draw(axis(len(shape)))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        sides = list(shape)
        sides[chosen] = 0 if draw(rarely()) else draw(st.integers(1, 3))
        found.append(tuple(sides))
    return Case(tuple(found), kwargs={"axis": chosen})


@st.composite
def _piles(draw: DrawFn) -> Case:
    shape = draw(shapes(max_dims=2))
    return Case((shape,) * draw(st.integers(1, 3)), kwargs={"axis": draw(axis(len(shape) + 1))})


@st.composite
def _cuts(draw: DrawFn) -> Case:
    """A number of equal parts, or the places to cut at, in any order and also beyond both ends."""
    shape = list(draw(shapes(min_dims=1)))
    chosen = draw(axis(len(shape)))
    if draw(st.booleans()):
        parts = draw(st.integers(1, 3))
        shape[chosen] = parts * draw(st.integers(0, 2))
        return Case((tuple(shape),), (parts,), {"axis": chosen})
    places = draw(st.lists(st.integers(-shape[chosen] - 2, shape[chosen] + 1), max_size=3))
    return Case((tuple(shape),), (tuple(places),), {"axis": chosen})


def concatenate(*arrays: Any, axis: int) -> Any:
    """`concatenate` of separate arguments."""
    return ops.concatenate(list(arrays), axis=axis)


def stack(*arrays: Any, axis: int) -> Any:
    """`stack` of separate arguments."""
    return ops.stack(list(arrays), axis=axis)


def split(x: Any, where: Any, axis: int) -> Any:
    """`split`, with the places as the list that NumPy takes."""
    return ops.split(x, list(where) if isinstance(where, tuple) else where, axis=axis)


moving(
    "concatenate",
    lambda *arrays, axis: np.concatenate(arrays, axis=axis),
    _chains(),
    frozenset({"empty", "size1", "negative_axis"}),
    concatenate,
)
moving(
    "stack",
    lambda *arrays, axis: np.stack(arrays, axis=axis),
    _piles(),
    LIMITS | {"negative_axis"},
    stack,
)
moving(
    "split",
    lambda x, where, axis: np.split(x, list(where) if isinstance(where, tuple) else where, axis=axis),
    _cuts(),
    frozenset({"empty", "size1", "negative_axis"}),
    split,
)
