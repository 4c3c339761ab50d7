"""The comparisons that every check is made of: with a numerical estimate, exactly with integers, bit for bit.

Nothing here knows minigrad. Each function raises a `GradientError` through the `Context` that it is given, or returns
the worst deviation that it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.testing.hints import simple_hints, unreduced_hints
from minigrad.testing.numeric import Estimate, Floats, flatten, is_float, leaves
from minigrad.testing.report import Context, Deviation, NondifferentiableError, deviations, is_shown

FLOOR = 1e-8  # the tolerance, relative to the largest element of the derivative, when nothing speaks for a wider one
CAP = 1e-5  # where finite differences cannot promise this much, the point is refused instead of waved through
SMALLEST_SCALE = 2.0**-7  # derivatives smaller than this are compared absolutely
METHOD = "central differences, extrapolated twice, float64"


def judge(
    context: Context,
    check: str,
    analytic: Any,
    estimate: Estimate,
    *,
    label: str,
    problem: str,
    tol: float = FLOOR,
    hints: Callable[[], list[str]] = list,
) -> list[Deviation]:
    """Compare a derivative with its estimate; refuse where the estimate cannot be trusted."""
    finite = np.abs(estimate.value[np.isfinite(estimate.value)])
    scale = max(float(finite.max(initial=0.0)), SMALLEST_SCALE)
    allowed = np.maximum(np.maximum(tol * scale, 4 * estimate.error), estimate.noise)
    reason = _untrustworthy(estimate, allowed, max(CAP, tol) * scale)
    if reason:
        context.fail(
            check,
            f"no verdict is possible about {label}: {reason}",
            method=METHOD,
            error=NondifferentiableError,
            hints=["choose another point, or take the kink out of the function under test"],
        )
    found = deviations(analytic, estimate.value, allowed, label)
    if any(d.excess > 1 for d in found):
        simple = simple_hints(np.asarray(analytic, np.float64), estimate.value, float(allowed.max()))
        context.fail(check, problem, worst=found, method=METHOD, hints=simple + (hints() if is_shown() else []))
    return found[:1]


def _untrustworthy(estimate: Estimate, allowed: Floats, limit: float) -> str:
    """Say why a numerical derivative cannot be the judge, or return an empty string."""
    if np.any(estimate.kink):
        where = [int(i) for i in np.argwhere(estimate.kink)[0]]
        return f"the one-sided derivatives disagree{f' at {where}' if where else ''}: this is a kink"
    if not np.all(allowed <= limit):
        return (
            f"finite differences promise {float(np.max(allowed)):.1e} here, and {limit:.1e} is needed; "
            "the function is too steep at this point, not smooth, or not defined around it"
        )
    return ""


def exactly(
    context: Context, check: str, got: Any, expected: Any, *, label: str, problem: str, method: str = "compared with =="
) -> list[Deviation]:
    """Demand equality of every element."""
    found = deviations(got, np.asarray(expected, np.float64), 0.0, label)
    if any(d.excess > 1 for d in found):
        hints = simple_hints(np.asarray(got, np.float64), np.asarray(expected, np.float64), 0.0)
        context.fail(check, problem, worst=found, method=method, hints=hints)
    return found[:1]


def closely(
    context: Context, check: str, got: Any, expected: Any, *, label: str, problem: str, rtol: float
) -> list[Deviation]:
    """Demand agreement up to `rtol` times the largest expected element: two orders of one sum, not two answers."""
    expected = np.asarray(expected, np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    found = deviations(got, expected, rtol * max(1.0, float(finite.max(initial=0.0))), label)
    if any(d.excess > 1 for d in found):
        context.fail(check, problem, worst=found, method=f"compared to {rtol:.0e} of the largest element")
    return found[:1]


def exact_adjoint(
    context: Context,
    check: str,
    f: Callable[..., Any],
    args: Sequence[Any],
    g: Any,
    grads: Sequence[Any],
    argnums: Sequence[int],
) -> list[Deviation]:
    """Compare gradients with <f(e_i), g>, exactly. `f` is linear in `argnums` together, and all values are integers."""
    zeros = [np.zeros(np.shape(a)) if k in argnums else a for k, a in enumerate(args)]
    flat_g = flatten(g)
    expected = [np.zeros(np.shape(args[k])) for k in argnums]
    for k, gradient in zip(argnums, expected, strict=True):
        for index in np.ndindex(*gradient.shape):
            units = copies(zeros)
            units[k][index] = 1.0
            gradient[index] = flatten(f(*units)) @ flat_g
    if flatten(f(*copies(args))) @ flat_g != sum(np.sum(e * args[k]) for k, e in zip(argnums, expected, strict=True)):
        context.fail(check, f"the function is not linear in its arguments {tuple(argnums)} taken together")
    found: list[Deviation] = []
    for k, grad, gradient in zip(argnums, grads, expected, strict=True):
        found += exactly(
            context,
            check,
            grad,
            gradient,
            label=f"arg {k}",
            problem=f"the gradient with respect to argument {k} is wrong",
            method="exact: small integers, compared with ==",
        )
    return found


def homogeneous(
    context: Context,
    check: str,
    pull: Callable[[Any], Sequence[Any]],
    g: Any,
    grads: Sequence[Any],
    argnums: Sequence[int],
) -> None:
    """Demand pull(0) = 0, pull(2g) = 2 pull(g) and pull(-g) = -pull(g), bitwise: these factors never round."""
    for factor, problem in (
        (0.0, "a cotangent of zero gives a gradient that is not zero"),
        (2.0, "a doubled cotangent does not give a doubled gradient"),
        (-1.0, "a negated cotangent does not give a negated gradient"),
    ):

        def scale(leaf: Any, factor: float = factor) -> Any:
            return np.asarray(leaf * np.asarray(factor, leaf.dtype))

        for k, grad, new in zip(argnums, grads, pull(map_result(scale, g)), strict=True):
            before = np.asarray(grad, np.float64)
            exactly(
                context,
                check,
                new,
                np.zeros(before.shape) if factor == 0 else before * factor,
                label=f"arg {k}",
                problem=f"{problem} (argument {k})",
            )


def same_kind(context: Context, check: str, grad: Any, arg: Any, k: int) -> None:
    """Demand that a gradient has the shape and the dtype of its argument."""
    shape, wanted = tuple(grad.shape), tuple(arg.shape)
    if shape != wanted:
        context.fail(
            check,
            f"the gradient with respect to argument {k} has shape {shape}, the argument has {wanted}",
            hints=unreduced_hints(shape, wanted),
        )
    if grad.dtype != arg.dtype:
        context.fail(
            check,
            f"the gradient with respect to argument {k} is {grad.dtype}, the argument is {arg.dtype}",
            hints=["a float64 array or scalar takes part in the rule"] * (grad.dtype == np.float64),
        )


def random_cotangent(out: Any, rng: np.random.Generator) -> Any:
    """Draw a cotangent for a result, float64: of mixed signs, and between 0.5 and 1.5 in size.

    A cotangent of ones would be blind to every gradient that sums to a constant (softmax), to permutations, and to a
    rule that forgets it.
    """

    def draw(leaf: Any) -> Any:
        shape = np.shape(leaf)
        size = (2**29 + rng.integers(0, 2**30 + 1, shape)) / 2**30  # more digits than float32 holds
        return np.asarray(size * (2 * rng.integers(0, 2, shape) - 1))

    return map_result(draw, out)


def only(chosen: Any, g: Any) -> Any:
    """A cotangent, and 0 where an output is not chosen."""
    left = iter(np.where(chosen, flatten(g), 0.0))
    return map_result(lambda leaf: np.array([next(left) for _ in range(leaf.size)]).reshape(leaf.shape), g)


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw float64 integers from -9 to 9, for exact checks."""
    return np.asarray(rng.integers(-9, 10, shape), dtype=np.float64)


def same_bits(a: Any, b: Any) -> bool:
    """Say whether two NumPy arrays have one shape, one dtype and the same numbers (NaN being the same as NaN)."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def map_result(f: Callable[[Any], Any], out: Any) -> Any:
    """Apply `f` to every floating-point array of a result, keeping its structure; anything else becomes None."""
    if isinstance(out, (tuple, list)):
        return type(out)(map_result(f, part) for part in out)
    return f(out) if is_float(out) else None


def like_result(values: Any, out: Any) -> Any:
    """Give `values` (the arrays of some result) the structure and the dtypes of `out`.

    Raises ValueError if their number or shapes differ.
    """
    given, wanted = leaves(values), leaves(out)
    shapes = [np.shape(v) for v in given], [np.shape(w) for w in wanted]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the cotangent has arrays of shapes {shapes[0]}, the result has {shapes[1]}")
    source = iter(given)
    return map_result(lambda leaf: np.array(next(source), np.asarray(leaf).dtype), out)


def copies(args: Sequence[Any]) -> list[Any]:
    """Copy the NumPy arrays among the arguments; the rest is passed on."""
    return [np.array(a) if isinstance(a, np.ndarray) else a for a in args]
