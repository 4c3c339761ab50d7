"""Checks of forward mode: a Jacobian-vector product against differences, and both modes against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.testing.calls import call_rule, chosen_arguments, describe, forward, is_float_array, name_of, reproduce
from minigrad.testing.compare import FLOOR, METHOD, copies, exactly, judge, random_cotangent, same_bits
from minigrad.testing.numeric import Floats, derivative_along, flatten, leaves
from minigrad.testing.report import Context, GradReport, NondeterministicError, deviations

TRANSPOSE = "<g, J t> = <J^T g, t>"
DIRECTIONS = 4


def check_jvp(
    f: Callable[..., Any],
    *arrays: Any,
    jvp: Callable[..., Any],
    argnums: Sequence[int] | None = None,
    seed: int = 0,
    tol: float = FLOOR,
    name: str | None = None,
) -> GradReport:
    """Check a Jacobian-vector product rule, of any framework, against finite differences.

    `jvp(tangents, out, *arrays)` returns the tangent of the result, of its structure, shapes and dtypes; `tangents`
    has an array for each argument (None for one that is not floating point, or not in `argnums`). Each argument is
    moved by itself and all together, along random directions of mixed signs drawn from `seed`. The rule must be linear
    in the tangents, give the same answer twice, and leave its arguments alone.

    Returns a `GradReport`. Raises `GradientError`, `NondifferentiableError` and `NondeterministicError` as `check_vjp`.

    >>> import numpy as np
    >>> from minigrad.testing import check_jvp
    >>> x, y = np.array([0.25, -1.5]), np.array([2.0, 1.0])
    >>> check_jvp(np.multiply, x, y, jvp=lambda t, out, x, y: sum(p * q for p, q in zip(t, (y, x)) if p is not None)).ok
    True
    """
    args = [np.array(a, np.float64) if is_float_array(a) else a for a in arrays]
    chosen = chosen_arguments(args, argnums)
    context = Context(name or name_of(f))
    out = forward(context, f, args)
    context.case = describe(args, out)
    context.reproduce = reproduce("check_jvp", f, args, f"jvp=rule, seed={seed}", argnums)
    rng = np.random.default_rng(seed)
    worst = []
    for moving in [*((k,) for k in chosen), *([tuple(chosen)] * DIRECTIONS)]:
        tangents = [random_cotangent(a, rng) if k in moving else None for k, a in enumerate(args)]
        got = _push(context, jvp, tangents, out, args)
        worst += judge(
            context,
            "jvp",
            got,
            derivative_along(f, args, tangents),
            label="tangent",
            problem=f"the tangent is wrong when {'argument' if len(moving) == 1 else 'arguments'} "
            f"{', '.join(map(str, moving))} move",
            tol=tol,
        )
        doubled = _push(context, jvp, [None if t is None else 2 * t for t in tangents], out, args)
        exactly(context, "jvp", doubled, 2 * got, label="tangent", problem="doubled tangents do not give a doubled one")
    return GradReport(context.name, "jvp", worst=tuple(worst), method=METHOD)


def check_adjoint(
    f: Callable[..., Any],
    *arrays: Any,
    vjp: Callable[..., Any],
    jvp: Callable[..., Any],
    argnums: Sequence[int] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> GradReport:
    """Check that the rules of both modes are each other's transpose: <g, J t> = <J^T g, t>.

    No differences are taken, so this holds to rounding wherever both rules can be computed, also where `f` is steep,
    large, or costs too much to differentiate numerically. It does not say that either rule is right: two rules may be
    wrong alike. `vjp` is that of `check_vjp`, `jvp` that of `check_jvp`.

    Returns a `GradReport`. Raises `GradientError` where the modes disagree.

    >>> import numpy as np
    >>> from minigrad.testing import check_adjoint
    >>> x = np.linspace(-1.0, 1.0, 1000)
    >>> reverse = lambda g, out, x: np.cumsum(g[::-1])[::-1]
    >>> check_adjoint(np.cumsum, x, vjp=reverse, jvp=lambda t, out, x: np.cumsum(t[0])).ok
    True
    """
    args = [np.array(a, np.float64) if is_float_array(a) else a for a in arrays]
    chosen = chosen_arguments(args, argnums)
    context = Context(name or name_of(f))
    out = forward(context, f, args)
    rng = np.random.default_rng(seed)
    g = random_cotangent(out, rng)
    context.case = describe(args, g)
    context.reproduce = reproduce("check_adjoint", f, args, f"vjp=rule, jvp=jvp, seed={seed}", argnums)
    grads = call_rule(context, vjp, g, out, args, chosen)
    for _ in range(DIRECTIONS):
        tangents = [random_cotangent(a, rng) if k in chosen else None for k, a in enumerate(args)]
        moved = _push(context, jvp, tangents, out, args)
        along = [tangents[k] for k in chosen]
        transposed(context, "adjoint", context.name, flatten(g), moved, flatten(grads), flatten(along))
    return GradReport(context.name, "adjoint", method=TRANSPOSE)


def transposed(
    context: Context, check: str, what: str, g: Floats, moved: Floats, grads: Floats, tangents: Floats
) -> None:
    """Demand that reverse and forward mode are each other's transpose, up to rounding."""
    along, back = float(g @ moved), float(grads @ tangents)
    size = float(np.abs(g) @ np.abs(moved) + np.abs(grads) @ np.abs(tangents))
    found = deviations(np.asarray(along), np.asarray(back), 1e-10 * max(size, 1.0), "<g, J t>")
    if any(d.excess > 1 for d in found):
        context.fail(check, f"forward and reverse mode of {what} disagree", worst=found, method=TRANSPOSE)


def _push(context: Context, jvp: Callable[..., Any], tangents: Sequence[Any], out: Any, args: Sequence[Any]) -> Floats:
    """Call the rule twice on copies: it must leave them alone, answer alike, and give the kind of the result."""
    given, moving = copies(args), copies(tangents)
    first, second = jvp(moving, out, *given), jvp(copies(tangents), out, *copies(args))
    for what, before, after in (("a tangent", tangents, moving), ("an argument", args, given)):
        if not all(same_bits(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, np.ndarray)):
            context.fail("jvp", f"the rule wrote into {what}")
    if not same_bits(flatten(first), flatten(second)):
        context.fail("jvp", "the rule gives two different answers to one question", error=NondeterministicError)
    kinds = [[(np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves(x)] for x in (first, out)]
    if kinds[0] != kinds[1]:
        got, wanted = (", ".join(f"{dtype}{list(shape)}" for shape, dtype in kind) or "nothing" for kind in kinds)
        context.fail("jvp", f"the tangent is {got}, the result is {wanted}")
    return flatten(first)
