"""Specs of reductions and cumulative sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad import ops
from minigrad.testing.kinks import scales, shifts, stays
from minigrad.testing.specs import Case, Domain, Kink, OpSpec, register_spec
from minigrad.testing.strategies import DrawFn, axis, reductions, shapes

LIMITS = frozenset({"0d", "empty", "size1", "negative_axis", "tuple_axis"})
everything = reductions()
something = reductions(of_nothing=False)
whole = {"axis": None}


def _logsumexp(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


register_spec(OpSpec("sum", ops.sum, np.sum, everything, linear="jointly", tags=LIMITS))
register_spec(OpSpec("mean", ops.mean, np.mean, something, tags=LIMITS))
register_spec(OpSpec("var", ops.var, np.var, something, laws=(stays,), tags=LIMITS))
register_spec(
    OpSpec(
        "logsumexp",
        ops.logsumexp,
        _logsumexp,
        something,
        kinks=(
            Kink(([-np.inf, 2.0, -np.inf],), 3.0, ([0.0, 3.0, 0.0],), Case(((3,),), kwargs=whole), "of -inf is 0"),
            Kink(([-np.inf, -np.inf],), 3.0, ([0.0, 0.0],), Case(((2,),), kwargs=whole), "of nothing but -inf is 0"),
        ),
        laws=(shifts,),
        tags=LIMITS,
    )
)
register_spec(
    OpSpec(
        "prod",
        ops.prod,
        np.prod,
        everything,
        domain=Domain(avoid=(0.0,)),
        kinks=(
            Kink(([2.0, 0.0, 3.0],), 5.0, ([0.0, 30.0, 0.0],), Case(((3,),), kwargs=whole), reason="with one zero"),
            Kink(([2.0, 0.0, 0.0],), 5.0, ([0.0, 0.0, 0.0],), Case(((3,),), kwargs=whole), reason="with two zeros"),
        ),
        tags=LIMITS,
    )
)
register_spec(
    OpSpec(
        "max",
        ops.max,
        np.max,
        something,
        domain=Domain(distinct=True),
        exact=True,
        kinks=(Kink(([1.0, 4.0, 4.0],), 6.0, ([0.0, 3.0, 3.0],), Case(((3,),), kwargs=whole), reason="ties split"),),
        laws=(shifts, scales),
        tags=LIMITS,
    )
)
register_spec(
    OpSpec(
        "min",
        ops.min,
        np.min,
        something,
        domain=Domain(distinct=True),
        exact=True,
        kinks=(Kink(([1.0, 1.0, 4.0],), 6.0, ([3.0, 3.0, 0.0],), Case(((3,),), kwargs=whole), reason="ties split"),),
        laws=(shifts, scales),
        tags=LIMITS,
    )
)


@st.composite
def _along_one(draw: DrawFn, empty: bool = True) -> Case:
    """An array with one axis, or None for the array laid flat."""
    shape = draw(shapes(empty=empty))
    chosen = None if not shape or draw(st.integers(0, 3)) == 0 else draw(axis(len(shape)))
    return Case((shape,), kwargs={"axis": chosen})


register_spec(
    OpSpec(
        "cumsum",
        ops.cumsum,
        np.cumsum,
        _along_one(),
        linear="jointly",
        tags=LIMITS - {"tuple_axis"},
    )
)
register_spec(
    OpSpec("argmax", ops.argmax, np.argmax, _along_one(empty=False), domain=Domain(distinct=True), differentiable=False)
)
