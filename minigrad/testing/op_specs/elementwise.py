"""Specs of the elementwise ops."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad import ops
from minigrad.testing.kinks import scales, shifts
from minigrad.testing.specs import Case, Domain, Kink, OpSpec, register_spec
from minigrad.testing.strategies import DrawFn, bool_array, broadcastable, shapes

anything = Domain()
LIMITS = frozenset({"0d", "empty", "size1"})
one = shapes().map(lambda shape: Case((shape,)))
alike = shapes(min_dims=2, max_dims=2, empty=False).map(lambda shape: (shape, shape))
pairs = st.integers(0, 3).flatmap(lambda n: alike if n == 3 else broadcastable(2))
two = pairs.map(Case)
positive = Domain(0.25, 3.0)
off_zero = Domain(avoid=(0.0,))


def unary(name: str, ref: Any, domain: Domain = anything, *, kinks: tuple[Kink, ...] = (), **more: Any) -> None:
    """A function of one array."""
    spec = OpSpec(name, getattr(ops, name), ref, one, domain=domain, kinks=kinks, tags=LIMITS, **more)
    register_spec(spec)


def binary(name: str, ref: Any, domain: Domain | tuple[Domain, ...] = anything, **more: Any) -> None:
    """A function of two arrays that broadcast."""
    register_spec(OpSpec(name, getattr(ops, name), ref, two, domain=domain, tags=LIMITS | {"broadcast"}, **more))


# ---- one argument --------------------------------------------------------------------------------------------------

unary("negative", np.negative, linear="jointly", exact=True)
unary("exp", np.exp)
unary("expm1", np.expm1)
unary("log", np.log, positive)
unary("log1p", np.log1p, Domain(-0.75, 3.0))
unary("square", np.square)
unary("tanh", np.tanh)
unary("sin", np.sin)
unary("cos", np.cos)
unary("sigmoid", lambda x: (1 / (1 + np.exp(-x))).astype(x.dtype), Domain(-4.0, 4.0))
unary("softplus", lambda x: np.log1p(np.exp(x)), Domain(-4.0, 4.0))
unary(
    "sqrt",
    np.sqrt,
    positive,
    kinks=(
        Kink(([0.0, 4.0],), [3.0, 5.0], ([np.inf, 1.25],), reason="sqrt'(0) = inf"),
        Kink(([0.0, 4.0],), [0.0, 5.0], ([0.0, 1.25],), reason="where the cotangent is 0, so is the gradient"),
    ),
)
unary(
    "abs",
    np.abs,
    off_zero,
    exact=True,
    kinks=(Kink(([-1.0, 0.0, 2.0],), [3.0, 5.0, 7.0], ([-3.0, 0.0, 7.0],), reason="abs'(0) = 0"),),
    laws=(scales,),
)
unary(
    "sign",
    np.sign,
    off_zero,
    exact=True,
    kinks=(Kink(([-1.0, 0.0, 2.0],), [3.0, 5.0, 7.0], ([0.0, 0.0, 0.0],), reason="sign' = 0"),),
)
unary(
    "relu",
    lambda x: np.where(x > 0, x, 0).astype(x.dtype),
    off_zero,
    exact=True,
    kinks=(Kink(([-1.0, 0.0, 2.0],), [3.0, 5.0, 7.0], ([0.0, 0.0, 7.0],), reason="relu'(0) = 0"),),
    laws=(scales,),
)


def _with_option(name: str, values: tuple[float, ...]) -> st.SearchStrategy[Case]:
    options = st.sampled_from([{}, *({name: value} for value in values)])
    return st.builds(lambda shape, kwargs: Case((shape,), kwargs=kwargs), shapes(), options)


register_spec(
    OpSpec(
        "leaky_relu",
        ops.leaky_relu,
        lambda x, slope=0.01: np.where(x > 0, x, x * np.asarray(slope, x.dtype)),
        _with_option("slope", (0.5, 0.0)),
        domain=off_zero,
        kinks=(Kink(([-1.0, 0.0, 2.0],), [300.0, 500.0, 7.0], ([3.0, 5.0, 7.0],), reason="leaky_relu'(0) = slope"),),
        laws=(scales,),
        tags=LIMITS,
    )
)
register_spec(
    OpSpec(
        "elu",
        ops.elu,
        lambda x, alpha=1.0: np.where(x > 0, x, np.asarray(alpha, x.dtype) * np.expm1(x)),
        _with_option("alpha", (0.5, 2.0)),
        domain=off_zero,
        kinks=(
            Kink(([0.0, 2.0],), [5.0, 7.0], ([10.0, 7.0],), Case(((2,),), kwargs={"alpha": 2.0}), "elu'(0) = alpha"),
        ),
        tags=LIMITS,
    )
)


BOUNDS = ((-1.0, 1.0), (None, 0.5), (-0.5, None))

register_spec(
    OpSpec(
        "clip",
        ops.clip,
        np.clip,
        st.builds(lambda shape, bounds: Case((shape,), bounds), shapes(), st.sampled_from(BOUNDS)),
        domain=Domain(avoid=(-1.0, -0.5, 0.5, 1.0)),
        exact=True,
        kinks=(
            Kink(
                ([-2.0, -1.0, 0.0, 1.0, 2.0],),
                [3.0, 5.0, 7.0, 11.0, 13.0],
                ([0.0, 5.0, 7.0, 11.0, 0.0],),
                Case(((5,),), (-1.0, 1.0)),
                reason="clip is inclusive",
            ),
        ),
        tags=LIMITS,
    )
)
register_spec(
    OpSpec(
        "astype",
        ops.astype,
        lambda x, dtype: x.astype(dtype),
        shapes().map(lambda shape: Case((shape,), ("float64",))),  # narrower is not smooth, and is tested by itself
        linear="jointly",
        exact=True,
        tags=LIMITS,
    )
)

# ---- two arguments -------------------------------------------------------------------------------------------------

binary("add", np.add, linear="jointly", exact=True)
binary("subtract", np.subtract, linear="jointly", exact=True)
INFINITE = "a cotangent of 0 wins over an infinite factor"
binary(
    "multiply",
    np.multiply,
    linear="each",
    exact=True,
    kinks=(
        Kink(([2.0, 3.0], [np.inf, 4.0]), [0.0, 5.0], ([0.0, 20.0], [0.0, 15.0]), reason=INFINITE),
        Kink(([2.0, 3.0],), [0.0, 5.0], ([0.0, np.inf],), Case(((2,),), (np.inf,)), reason=INFINITE),
    ),
)
binary(
    "scale",
    np.multiply,
    linear="each",
    exact=True,
    kinks=(
        Kink(([np.inf, 2.0], [1.0, 3.0]), [0.0, 7.0], ([0.0, 21.0], [0.0, 14.0]), reason=INFINITE),
        Kink(([1.0, 2.0], [np.inf, 3.0]), [0.0, 7.0], ([0.0, 21.0], [0.0, 14.0]), reason=INFINITE),
    ),
)
binary(
    "absorb",
    np.multiply,
    linear="each",
    exact=True,
    kinks=(Kink(([np.inf, 2.0], [1.0, 3.0]), [0.0, 7.0], ([0.0, 21.0], [0.0, 14.0]), reason=INFINITE),),
)
binary(
    "divide",
    np.divide,
    (Domain(), Domain(avoid=(0.0,), margin=0.5)),
    kinks=tuple(
        Kink(([2.0, 3.0],), [0.0, 5.0], ([0.0, slope],), Case(((2,),), (zero,)), reason="by a number that is 0")
        for zero, slope in ((0.0, np.inf), (-0.0, -np.inf), (0, np.inf))
    ),
)
TIES = ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
binary(
    "maximum",
    np.maximum,
    Domain(distinct=True),
    exact=True,
    kinks=(Kink(TIES, [4.0, 6.0, 8.0], ([0.0, 3.0, 8.0], [4.0, 3.0, 0.0]), reason="ties split equally"),),
    laws=(shifts, scales),
)
binary(
    "minimum",
    np.minimum,
    Domain(distinct=True),
    exact=True,
    kinks=(Kink(TIES, [4.0, 6.0, 8.0], ([4.0, 3.0, 0.0], [0.0, 3.0, 8.0]), reason="ties split equally"),),
    laws=(shifts, scales),
)


@st.composite
def _powers(draw: DrawFn) -> Case:
    """A power of two arrays, of an array and a number, or of a number and an array."""
    kind = draw(st.sampled_from(("arrays", "arrays", "exponent", "base")))
    if kind == "arrays":
        return Case(draw(pairs))
    shape = draw(shapes())
    if kind == "base":
        return Case((shape,), kwargs={"base": draw(st.sampled_from((2, 0.5, 1, 0, 3.0)))})
    return Case((shape,), (draw(st.sampled_from((2, 3, -1, 0.5, 1, 0))),))


def power(*args: Any, base: float | None = None) -> Any:
    """`power`, whose base may be a number."""
    return ops.power(*args) if base is None else ops.power(base, *args)


register_spec(
    OpSpec(
        "power",
        power,
        lambda *args, base=None: np.power(*args) if base is None else np.power(base, *args),
        _powers(),
        domain=Domain(0.25, 2.5),
        kinks=(
            Kink(([-2.0, 3.0],), [5.0, 7.0], ([60.0, 189.0],), Case(((2,),), (3,)), reason="of a negative base"),
            Kink(([-2.0, 0.0],), [5.0, 7.0], ([-20.0, 0.0],), Case(((2,),), (2,)), reason="(x ** 2)' = 2 x at 0 too"),
            Kink(([0.0, 2.0],), [5.0, 7.0], ([0.0, 0.0],), Case(((2,),), (0,)), reason="(x ** 0)' = 0"),
            Kink(
                ([0.0, 0.0, 0.0], [2.0, 1.0, 0.0]),
                [3.0, 5.0, 7.0],
                ([0.0, 5.0, 0.0], [0.0, 0.0, 0.0]),
                reason="of a base of 0",
            ),
            Kink(
                ([2.0, 0.0, -1.0, -2.0],),
                [5.0, 7.0, 11.0, 0.0],
                ([0.0, 0.0, -np.inf, 0.0],),
                Case(((4,),), kwargs={"base": 0}),
                reason="(0 ** x)' = 0 at x >= 0",
            ),
            Kink(
                ([-1.0, 2.0],),
                [5.0, 7.0],
                ([np.inf, 0.0],),
                Case(((2,),), kwargs={"base": -0.0}),
                reason="of a base of -0",
            ),
            Kink(
                ([2.0, 3.0],),
                [5.0, 7.0],
                ([np.nan, np.nan],),
                Case(((2,),), kwargs={"base": -0.5}),
                reason="by its exponent a power of a negative base has no derivative",
            ),
        ),
        tags=LIMITS | {"broadcast"},
    )
)


@st.composite
def _choices(draw: DrawFn) -> Case:
    """Two arrays and a condition, which all broadcast."""
    mask, x, y = draw(broadcastable(3))
    return Case((x, y), (draw(bool_array(mask)),))


def where(x: Any, y: Any, condition: Any) -> Any:
    """`where` with its arrays first."""
    return ops.where(condition, x, y)


register_spec(
    OpSpec(
        "where",
        where,
        lambda x, y, condition: np.where(condition, x, y),
        _choices(),
        linear="jointly",
        exact=True,
        tags=LIMITS | {"broadcast"},
    )
)
