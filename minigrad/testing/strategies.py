"""Hypothesis strategies that draw structure: shapes that broadcast, axes, indices, permutations, lengths.

Sizes stay small (at most 3 along an axis): every kind of structure shows at that size, and messages stay readable.
Everything shrinks towards the simplest case, which is one element and no special structure. Strategies are kept, since
Hypothesis looks through each new one before it draws.

>>> from hypothesis import find, settings
>>> from minigrad.testing.strategies import shapes
>>> find(shapes(), lambda shape: len(shape) == 2, settings=settings(database=None))
(1, 1)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from minigrad.testing.specs import Case, OpSpec, Shape, structure

DrawFn = Callable[[st.SearchStrategy[Any]], Any]

seeds = st.integers(0, 2**16 - 1)  # from which all values are drawn


def kept_as(test: Callable[..., Any], name: str) -> None:
    """Give a function that is made for many tests, before `given`, a name under which Hypothesis keeps its failures.

    It keeps them by source and signature, and would try those of one test on the others.
    """
    test.__signature__ = inspect.signature(test).replace(return_annotation=name)  # type: ignore[attr-defined]


@cache
def rarely() -> st.SearchStrategy[bool]:
    """True in about one case of eight."""
    return st.integers(0, 7).map(lambda n: n == 7)


@cache
@st.composite
def shapes(draw: DrawFn, min_dims: int = 0, max_dims: int = 3, max_side: int = 3, empty: bool = True) -> Shape:
    """A shape, now and then with an axis of length 0."""
    shape = draw(st.lists(st.integers(1, max_side), min_size=min_dims, max_size=max_dims))
    if empty and shape and draw(rarely()):
        shape[draw(st.integers(0, len(shape) - 1))] = 0
    return tuple(shape)


@cache
@st.composite
def broadcastable(draw: DrawFn, count: int, max_dims: int = 3, empty: bool = True) -> tuple[Shape, ...]:
    """Shapes that broadcast together, in most cases different ones."""
    full = draw(shapes(max_dims=max_dims, empty=empty))
    if draw(st.integers(0, 3)) == 0:
        return (full,) * count
    found = []
    for _ in range(count):
        stretched = tuple(1 if draw(st.booleans()) else side for side in full)
        found.append(stretched[draw(st.integers(0, len(full))) :])
    return tuple(found)


@cache
def axis(ndim: int) -> st.SearchStrategy[int]:
    """One axis, counted from either end."""
    return st.integers(0, ndim - 1) | st.integers(-ndim, -1)


@cache
@st.composite
def axes(draw: DrawFn, ndim: int) -> Any:
    """What reductions take: None, an axis, or a tuple of different axes in any order."""
    if ndim == 0 or draw(st.integers(0, 3)) == 0:
        return None
    if draw(st.booleans()):
        return draw(axis(ndim))
    chosen = draw(st.lists(st.integers(0, ndim - 1), unique=True, max_size=ndim))
    return tuple(n - ndim if draw(st.booleans()) else n for n in chosen)


@cache
def permutations_of(ndim: int) -> st.SearchStrategy[tuple[int, ...]]:
    """An order of axes, with some counted from the end."""
    orders = st.permutations(range(ndim)).map(tuple)
    return orders | orders.map(lambda order: tuple(n - ndim for n in order))


@cache
@st.composite
def reductions(draw: DrawFn, of_nothing: bool = True) -> Case:
    """A shape with `axis` and `keepdims`; `of_nothing` allows a reduced axis to be empty."""
    shape = draw(shapes(empty=of_nothing))
    chosen = draw(axes(len(shape)))
    if not of_nothing and chosen is not None and draw(rarely()):
        reduced = {n % len(shape) for n in (chosen if isinstance(chosen, tuple) else (chosen,))}
        shape = tuple(n if k in reduced else 0 for k, n in enumerate(shape))
    return Case((shape,), kwargs={"axis": chosen, "keepdims": draw(st.booleans())})


@cache
@st.composite
def slices(draw: DrawFn, length: int) -> slice:
    """A slice of an axis: bounds from either end, also beyond it, and steps of both signs."""
    bound = st.none() | st.integers(-length - 1, length + 1)
    return slice(draw(bound), draw(bound), draw(st.sampled_from((None, 1, 2, -1, -2))))


@cache
@st.composite
def basic_index(draw: DrawFn, shape: Shape) -> tuple[Any, ...]:
    """Integers, slices, None and an Ellipsis, as NumPy's basic indexing takes them."""
    index: list[Any] = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        whole = length == 0 or draw(st.booleans())
        index.append(draw(slices(length)) if whole else draw(st.integers(-length, length - 1)))
    if draw(st.booleans()):
        rest = len(index)
        index.append(Ellipsis)
        index += [draw(slices(length)) for length in shape[rest : rest + draw(st.integers(0, 1))]]
    if draw(rarely()):
        index.insert(draw(st.integers(0, len(index))), None)
    return tuple(index)


@cache
@st.composite
def int_index(draw: DrawFn, length: int, min_dims: int = 0, max_dims: int = 2) -> np.ndarray[Any, Any]:
    """An array of indices into an axis, counted from either end, in most cases with repetitions."""
    shape = draw(shapes(min_dims=min_dims, max_dims=max_dims, empty=length > 0))
    shape = shape if length else (0,) * max(1, min_dims)
    index: np.ndarray[Any, Any] = draw(int_array(shape, -length, max(length - 1, 0)))
    return index


@cache
@st.composite
def int_array(draw: DrawFn, shape: Shape, lowest: int, highest: int) -> np.ndarray[Any, Any]:
    """An array of integers between two bounds, both included."""
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(lowest, highest), min_size=size, max_size=size))
    return np.array(values, dtype=np.int64).reshape(shape)


@cache
@st.composite
def bool_array(draw: DrawFn, shape: Shape) -> np.ndarray[Any, Any]:
    """A mask of this shape."""
    size = int(np.prod(shape))
    return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool).reshape(shape)


@cache
@st.composite
def matmul_shapes(draw: DrawFn) -> tuple[Shape, Shape]:
    """Two shapes that `matmul` takes: vectors, matrices, and stacks of matrices that broadcast."""
    rows, inner, columns = (draw(st.integers(1, 3)) for _ in range(3))
    inner = 0 if draw(rarely()) else inner
    left, right = draw(broadcastable(2, max_dims=2, empty=False)) if draw(st.booleans()) else ((), ())
    a: Shape = (*left, rows, inner)
    b: Shape = (*right, inner, columns)
    if draw(rarely()):
        a = (inner,)
    if draw(rarely()):
        b = (inner,)
    return a, b


@cache
def lengths(time: int, batch: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """A sequence length for every row: 0, full, and everything between, in any order."""
    return int_array((batch,), 0, time)


def find_case(spec: OpSpec, tag: str) -> Case:
    """A case of this op that has the structure `tag`, always the same one.

    Raises ValueError if the spec's strategy does not draw such a case.
    """
    found = _cases_of(spec, spec.tags | {tag})
    if tag not in found:
        raise ValueError(f"{spec.name} must be tested on structure {tag!r}, but its cases never have it")
    return found[tag]


@cache
def _cases_of(spec: OpSpec, tags: frozenset[str]) -> dict[str, Case]:
    """The first case that has each of these kinds of structure."""
    found: dict[str, Case] = {}

    def complete(case: Case) -> bool:
        for tag in structure(case):
            found.setdefault(tag, case)
        return tags <= found.keys()

    search = settings(
        max_examples=2000,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking would cost more than it explains: cases are small anyway
        suppress_health_check=list(HealthCheck),
    )
    with suppress(NoSuchExample):
        find(spec.cases, complete, settings=search)
    return found


@cache
def some_cases(spec: OpSpec, count: int = 5) -> tuple[Case, ...]:
    """Different structures of an op that have elements, always the same ones: what else may fail when one case does."""
    found: dict[str, Case] = {}

    @settings(
        max_examples=8 * count,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=spec.cases)
    def draw(case: Case) -> None:
        if "empty" not in structure(case):
            found.setdefault(repr(case), case)

    draw()
    return tuple(found.values())[:count]
