"""Gradients in float32, judged by those in float64: `check_float32`, and P10 for ops.

Finite differences in float32 prove nothing below a relative error of about 1e-3, so none are taken. The float32
gradient is compared with the float64 gradient at the same numbers, and what the two may differ by is measured: the
float64 gradient is asked again with its inputs, its cotangent and what was kept for backward changed by one rounding
of float32, each number up or down at random. Where such a change moves the gradient far, float32 cannot do better;
where it does not, a float32 gradient that is off by more than a few times as much has lost digits by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.testing.calls import call_rule, chosen_arguments, describe, forward, is_float_array, name_of, reproduce
from minigrad.testing.compare import like_result, map_result, random_cotangent, same_kind
from minigrad.testing.numeric import Floats
from minigrad.testing.report import Context, Deviation, GradReport, deviations
from minigrad.testing.trial import Trial

EPS32 = float(np.finfo(np.float32).eps)
ROUNDS = 8
METHOD = "the float64 gradient, and how far roundings of float32 move it"
_MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number, so that the product's first bit depends on all bits of the other


def check_float32(
    f: Callable[..., Any],
    *arrays: Any,
    vjp: Callable[..., Any],
    argnums: Sequence[int] | None = None,
    safety: float = 8.0,
    seed: int = 0,
    name: str | None = None,
) -> GradReport:
    """Check that a rule is as good in float32 as float32 allows, given that it is right in float64.

    `f` and `vjp` are those of `check_vjp`, which says whether the rule is right; this says whether it cancels,
    overflows or computes in half precision. Floating-point arguments are rounded to float32. The gradients may differ
    by `safety` times what one rounding of the inputs, the cotangent and the saved output does to them, the change
    being measured in eight ways, and by `safety` roundings of the largest element.

    Returns a `GradReport`. Raises `GradientError` where the float32 gradient is worse than that, or not finite while
    the float64 one is.

    >>> import numpy as np
    >>> from minigrad.testing import GradientError, check_float32
    >>> def softplus(x):
    ...     return np.logaddexp(x, np.zeros_like(x))
    >>> x = np.array([100.0, -2.0])
    >>> check_float32(softplus, x, vjp=lambda g, y, x: g / (1 + np.exp(-x))).ok
    True
    >>> with np.errstate(all="ignore"):
    ...     try:
    ...         check_float32(softplus, x, vjp=lambda g, y, x: g * np.exp(x) / (1 + np.exp(x)))
    ...     except GradientError as error:
    ...         print(error.report.hints[0])
    1 of 2 elements are not finite: float32 ends at 3.4e+38
    """
    single = [np.array(a, np.float32) if is_float_array(a) else a for a in arrays]
    double = [a.astype(np.float64) if is_float_array(a) else a for a in single]
    chosen = chosen_arguments(double, argnums)
    context = Context(name or name_of(f))
    out, out32 = forward(context, f, double), forward(context, f, single)
    g = random_cotangent(out, np.random.default_rng(seed))
    context.case = describe(single, g)
    context.reproduce = reproduce("check_float32", f, single, f"vjp=rule, safety={safety!r}, seed={seed}", argnums)

    def gradients(g: Any, out: Any, args: Sequence[Any]) -> list[Any]:
        return call_rule(context, vjp, g, out, args, chosen)

    exact = gradients(g, out, double)
    moved = [gradients(g, map_result(lambda leaf: leaf.astype(np.float64), out32), double)]
    for round in range(ROUNDS):
        nearby = [nudged(a, round) if is_float_array(a) else a for a in double]
        moved.append(gradients(nudged_result(g, round), nudged_result(out, round), nearby))
    got = gradients(like_result(g, out32), out32, single)
    for k, grad in zip(chosen, got, strict=True):
        same_kind(context, "float32", grad, single[k], k)
    worst = compare_precisions(context, "float32", got, exact, moved, chosen, safety)
    return GradReport(context.name, "float32", worst=tuple(worst), method=METHOD)


def p10_float32(trial: Trial) -> Sequence[int]:
    """The float32 gradient is as close to the float64 gradient as roundings of inputs, cotangent and tape allow."""
    context, adapter = trial.context("P10"), trial.adapter
    kept: list[Any] = []

    def keep(array: Any) -> Any:
        kept.append(array)
        return array

    single = [a.astype(np.float32) for a in trial.host]
    out, pull = adapter.vjp_keeping(trial.fn, trial.to_device(single), keep)  # type: ignore[attr-defined]
    got = trial.to_host(pull(trial.cotangent_to_device(trial.g_host, out)))
    later = iter(kept)
    double = trial.to_device([a.astype(np.float64) for a in single])

    def pulled(arrays: Sequence[Any], g: Any, change: Callable[[Any], Any]) -> list[Any]:
        out, pull = adapter.vjp_keeping(trial.fn, arrays, change)  # type: ignore[attr-defined]
        return trial.to_host(pull(trial.cotangent_to_device(g, out)))

    def as_kept(array: Any) -> Any:
        return adapter.asarray(adapter.to_host(next(later)).astype(np.float64))

    exact = pulled(double, trial.g_host, lambda array: array)
    moved = [pulled(double, trial.g_host, as_kept)]
    for round in range(ROUNDS):
        nearby = trial.to_device([nudged(a, round) for a in trial.host])

        def nudge(array: Any, round: int = round) -> Any:
            return adapter.asarray(nudged(adapter.to_host(array), round))

        moved.append(pulled(nearby, nudged_result(trial.g_host, round), nudge))
    compare_precisions(context, "P10", got, exact, moved, trial.argnums)
    return trial.judged()


def compare_precisions(
    context: Context,
    check: str,
    got: Sequence[Any],
    exact: Sequence[Any],
    moved: Sequence[Sequence[Any]],
    argnums: Sequence[int],
    safety: float = 8.0,
) -> list[Deviation]:
    """Compare float32 gradients with float64 ones; `moved` are the latter after each of several small changes."""
    found: list[Deviation] = []
    for i, k in enumerate(argnums):
        reference = np.asarray(exact[i], np.float64)
        reach = max((_largest(np.asarray(other[i], np.float64) - reference) for other in moved), default=0.0)
        tol = safety * (reach + EPS32 * _largest(reference))
        worst = deviations(got[i], reference, tol, f"arg {k}")
        if any(d.excess > 1 for d in worst):
            wild = int(np.sum(~np.isfinite(got[i])))
            context.fail(
                check,
                f"the float32 gradient with respect to argument {k} is worse than float32 must be",
                worst=worst,
                method=METHOD,
                hints=[f"{wild} of {got[i].size} elements are not finite: float32 ends at 3.4e+38"]
                if wild
                else ["the rule subtracts numbers that are nearly equal, or computes in less than float32"],
            )
        found += worst[:1]
    return found


def nudged(x: Any, round: int) -> Floats:
    """Change every number by one rounding of float32, up or down as its bits and the round say; in the first, up.

    So a sum of numbers that nearly cancel is seen to move. Equal numbers change alike: a rule may ask which element is
    the maximum, and must still find it.
    """
    x = np.asarray(x, np.float64)
    if round == 0:
        return np.asarray(x + EPS32 * np.abs(x))
    with np.errstate(over="ignore"):
        mixed = np.asarray((np.array(x).view(np.uint64) ^ np.uint64(0x5DEECE66D * (round + 1))) * _MIX)
    up = np.asarray(mixed >> np.uint64(63)).astype(np.float64)
    return np.asarray(x * (1 + EPS32 * (2 * up - 1)))


def nudged_result(out: Any, round: int) -> Any:
    """`nudged`, of every array in a result."""
    return map_result(lambda leaf: nudged(leaf, round), out)


def _largest(x: Floats) -> float:
    finite = np.abs(x[np.isfinite(x)]) if x.ndim else np.abs(x) if np.isfinite(x) else np.zeros(0)
    return float(np.max(finite, initial=0.0))
