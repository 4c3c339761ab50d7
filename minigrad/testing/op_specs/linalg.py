"""Specs of products of matrices and vectors, and of the norm."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad import ops
from minigrad.testing.kinks import scales
from minigrad.testing.specs import Case, Domain, Kink, OpSpec, Shape, register_spec
from minigrad.testing.strategies import DrawFn, matmul_shapes, rarely, reductions, shapes

INFINITE = "a cotangent of 0 wins over an infinite factor"

PRODUCTS: dict[str, tuple[str, str]] = {
    "vector @ vector": ("k", "k"),
    "vector @ matrix": ("k", "km"),
    "vector @ stack": ("k", "skm"),
    "matrix @ vector": ("nk", "k"),
    "matrix @ stack": ("nk", "skm"),
    "stack @ vector": ("snk", "k"),
    "stack @ matrix": ("snk", "km"),
    "stacks @ stacks": ("rsnk", "rskm"),
}
"""The kinds of products whose rules are cases of their own, with the axes of both factors."""


@st.composite
def _products(draw: DrawFn) -> Case:
    """Two shapes that `matmul` takes: one of the kinds of products, or any two with leading axes that broadcast."""
    kind = draw(st.sampled_from(("any", "any", *PRODUCTS)))
    if kind == "any":
        return Case(draw(matmul_shapes()))
    sizes = dict(zip("nkm", draw(st.permutations((1, 2, 3))), strict=True)) | {"r": 2, "s": draw(st.integers(1, 2))}
    a, b = (tuple(sizes[axis] for axis in axes) for axes in PRODUCTS[kind])
    return Case((a, b), tags=frozenset({kind}))


register_spec(
    OpSpec(
        "matmul",
        ops.matmul,
        np.matmul,
        _products(),
        linear="each",
        kinks=tuple(
            Kink(inputs, cotangent, expected, reason=INFINITE)
            for inputs, cotangent, expected in (
                (
                    ([[1.0, 2.0], [3.0, 4.0]], [[np.inf, 1.0], [3.0, 4.0]]),
                    [[0.0, 5.0], [7.0, 0.0]],
                    ([[5.0, 20.0], [np.inf, 21.0]], [[21.0, 5.0], [28.0, 10.0]]),
                ),
                (
                    ([[np.inf, 1.0], [3.0, 4.0]], [[1.0], [2.0]]),
                    [[0.0], [5.0]],
                    ([[0.0, 0.0], [5.0, 10.0]], [[15.0], [20.0]]),
                ),
                (([[1.0, 2.0], [3.0, 4.0]], [np.inf, 1.0]), [0.0, 5.0], ([[0.0, 0.0], [np.inf, 5.0]], [15.0, 20.0])),
                (
                    ([np.inf, 2.0], [[1.0, 2.0], [3.0, 4.0]]),
                    [0.0, 5.0],
                    ([10.0, 20.0], [[0.0, np.inf], [0.0, 10.0]]),
                ),
                (([np.inf, 2.0], [1.0, 3.0]), 0.0, ([0.0, 0.0], [0.0, 0.0])),
                (
                    ([[[np.inf, 2.0]], [[1.0, 3.0]]], [[[1.0], [2.0]], [[3.0], [4.0]]]),
                    [[[0.0]], [[5.0]]],
                    ([[[0.0, 0.0]], [[15.0, 20.0]]], [[[0.0], [0.0]], [[5.0], [15.0]]]),
                ),
            )
        ),
        tags=frozenset({"empty", "size1", "broadcast", *PRODUCTS}),
    )
)


@st.composite
def _dot_shapes(draw: DrawFn) -> Case:
    """What `dot` takes: a number with anything, or the last axis of one with the last but one of the other."""
    a, b = list(draw(shapes(max_dims=3))), list(draw(shapes(max_dims=3)))
    if a and b:
        b[max(len(b) - 2, 0)] = a[-1]
    return Case((tuple(a), tuple(b)))


register_spec(
    OpSpec("dot", ops.dot, np.dot, _dot_shapes(), linear="each", tags=frozenset({"0d", "empty", "size1", "broadcast"}))
)
register_spec(
    OpSpec(
        "outer",
        ops.outer,
        np.outer,
        st.tuples(shapes(min_dims=1, max_dims=1), shapes(min_dims=1, max_dims=1)).map(Case),
        linear="each",
        exact=True,
        tags=frozenset({"empty", "size1", "broadcast"}),
    )
)

SUBSCRIPTS = (
    "ij,jk->ik", "ij,jk", "ij,ij->", "ij,kj->ki", "bij,bjk->bik", "i,i->", "i,j->ij", "ij->ji", "ij->j", "ij->",
    "ij,j->i", "bi,ij,bj->b", "i,i,i->i", "ij,ik->jk", "...i,ij->...j", "i,jk->", "ij,ji->", "b...i,b...i->b...",
)  # fmt: skip


@st.composite
def _contractions(draw: DrawFn) -> Case:
    """Subscripts with a length for every letter, now and then 0; an ellipsis stands for no axis or one of length 2."""
    subscripts = draw(st.sampled_from(SUBSCRIPTS))
    letters = sorted(set(subscripts) - set(",->."))
    sizes = {letter: draw(st.integers(1, 3)) for letter in letters}
    if draw(rarely()):
        sizes[draw(st.sampled_from(letters))] = 0
    hidden: Shape = (2,) if draw(st.booleans()) else ()
    found = []
    for term in subscripts.split("->")[0].split(","):
        parts = [tuple(sizes[letter] for letter in part) for part in term.split("...")]
        found.append(parts[0] if len(parts) == 1 else (*parts[0], *hidden, *parts[1]))
    return Case(tuple(found), kwargs={"subscripts": subscripts})


def einsum(*arrays: Any, subscripts: str) -> Any:
    """`einsum` with its arrays first."""
    return ops.einsum(subscripts, *arrays)


register_spec(
    OpSpec(
        "einsum",
        einsum,
        lambda *arrays, subscripts: np.einsum(subscripts, *arrays),
        _contractions(),
        linear="each",
        kinks=(
            Kink(
                ([1.0, 2.0], [np.inf, np.inf], [-1.0, 3.0]),
                [5.0, 0.0],
                ([-np.inf, 0.0], [-5.0, 0.0], [np.inf, 0.0]),
                Case(((2,), (2,), (2,)), kwargs={"subscripts": "i,i,i->i"}),
                reason=INFINITE,
            ),
        ),
        tags=frozenset({"empty", "size1", "broadcast"}),
    )
)
register_spec(
    OpSpec(
        "norm",
        ops.norm,
        lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
        reductions(of_nothing=False),
        domain=Domain(avoid=(0.0,)),
        laws=(scales,),
        kinks=(
            Kink(([0.0, 0.0],), 3.0, ([0.0, 0.0],), Case(((2,),), kwargs={"axis": None}), reason="norm'(0) = 0"),
            Kink(([3.0, 4.0],), 5.0, ([3.0, 4.0],), Case(((2,),), kwargs={"axis": None})),
        ),
        tags=frozenset({"0d", "size1", "negative_axis", "tuple_axis"}),
    )
)
