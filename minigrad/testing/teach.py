"""Making a failure easy to read: the simplest numbers that still fail, and what its cause is not.

When a check has failed, it is asked again with nicer numbers: small integers, then one decimal, and cotangents that
ask for one element of the result. The first of them that fails in the same way is what the message shows. Then other
values are tried, and other structures if there are any to try: a bug in a formula shows everywhere, a structural one
on this structure with whatever values, and the rest depends on the numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigrad.testing.compare import map_result
from minigrad.testing.numeric import flatten, leaves
from minigrad.testing.probes import one_hots
from minigrad.testing.report import GradientError, NondeterministicError, NondifferentiableError, is_shown

Attempt = Callable[[Sequence[Any], Any], Any]

SMALL = 64  # elements beyond which no simpler numbers are tried
ONE_HOTS = 8
OTHERS = 5  # how many other sets of values, and other structures, are tried


def taught(error: GradientError, attempt: Attempt, args: Sequence[Any], g: Any) -> GradientError:
    """The error to raise instead of `error`: with the simplest numbers, and with what other values do."""
    if isinstance(error, (NondeterministicError, NondifferentiableError)) or not is_shown():
        return error.with_traceback(None)
    return diagnosed(simplest(error, attempt, args, g), by_values(error, attempt, args, g))


def simplest(error: GradientError, attempt: Attempt, args: Sequence[Any], g: Any) -> GradientError:
    """The failure of the simplest numbers that fail as `error` did, or `error` itself.

    `attempt(args, cotangent)` runs the check once more.
    """
    if sum(np.size(a) for a in [*args, *leaves(g)]) > SMALL:
        return error
    for nice in _nice_arguments(args):
        for cotangent in _nice_cotangents(g):
            found = failure(attempt, nice, cotangent)
            if found is not None and _alike(found, error):
                # One element says little: the patterns are those of the numbers that the check had drawn.
                return type(error)(replace(found.report, hints=error.report.hints or found.report.hints))
    return error


def failure(attempt: Callable[..., Any], *given: Any) -> GradientError | None:
    """The error that an attempt raises because a derivative is wrong; None if it raises none, or another one."""
    try:
        with np.errstate(all="ignore"):
            attempt(*given)
    except (NondeterministicError, NondifferentiableError):
        return None
    except GradientError as error:
        return error
    except Exception:  # noqa: BLE001  (nicer numbers may be outside of what the function takes)
        return None
    return None


def diagnosed(error: GradientError, text: str) -> GradientError:
    """The same error, which says this too."""
    return type(error)(replace(error.report, diagnosis=text))


def by_values(error: GradientError, attempt: Attempt, args: Sequence[Any], g: Any) -> str:
    """Say whether other values of these shapes fail too."""
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(OTHERS):
        moved = [_scaled(a, rng) for a in args]
        found = failure(attempt, moved, map_result(lambda leaf: _scaled(np.asarray(leaf), rng), g))
        failed += found is not None and _alike(found, error)
    if failed == OTHERS:
        return f"structural, or in the formula: all of {OTHERS} other sets of values fail too"
    return f"it depends on the values: {failed} of {OTHERS} other sets of values fail too"


def by_structure(values: Iterable[bool], structures: Iterable[bool]) -> str:
    """Say what a failure depends on, from whether other values here, and other structures, fail too."""
    here, elsewhere = list(values), list(structures)
    fail = f"{sum(here)} of {len(here)} other sets of values fail"
    if not all(here):
        return f"it depends on the values: {fail}"
    if not elsewhere:
        return f"structural, or in the formula: {fail}; the op has no other structure"
    if all(elsewhere):
        return f"formula: {fail}, and all of {len(elsewhere)} other structures"
    return f"structural: {fail}, but only {sum(elsewhere)} of {len(elsewhere)} other structures"


def _alike(a: GradientError, b: GradientError) -> bool:
    return (a.report.check, a.report.problem) == (b.report.check, b.report.problem)


def _nice_arguments(args: Sequence[Any]) -> Iterator[list[Any]]:
    """Small integers counted up, small integers near the arguments, one decimal, and the arguments themselves."""
    counted = itertools.count(1)
    yield [_counted(counted, a.shape) if _is_floats(a) else a for a in args]
    yield [np.where(np.round(a) == 0, np.copysign(1.0, a), np.round(a)) if _is_floats(a) else a for a in args]
    yield [np.round(a, 1) if _is_floats(a) else a for a in args]
    yield list(args)


def _nice_cotangents(g: Any) -> Iterator[Any]:
    """One element at a time, small integers, one decimal, and the cotangent itself; None where the check draws it."""
    if g is None:
        yield None
        return
    if flatten(g).size <= ONE_HOTS:
        yield from one_hots(g)
    counted = itertools.count(1)
    yield map_result(lambda leaf: _counted(counted, np.shape(leaf)), g)
    yield map_result(lambda leaf: np.round(leaf, 1), g)
    yield g


def _counted(counted: Iterator[int], shape: tuple[int, ...]) -> Any:
    """The next integers, as an array of this shape."""
    return np.array([float(next(counted)) for _ in range(math.prod(shape))]).reshape(shape)


def _scaled(x: Any, rng: np.random.Generator) -> Any:
    """Every number made up to a quarter larger or smaller, on the grid on which values are drawn."""
    return np.asarray(np.round(x * rng.uniform(0.75, 1.25, x.shape) * 1024) / 1024) if _is_floats(x) else x


def _is_floats(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"
