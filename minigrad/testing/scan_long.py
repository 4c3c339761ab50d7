"""The laws of scan over long sequences: the gradient is that of finite differences, and nothing grows but with time."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.ops import concatenate
from minigrad.tape import Tape
from minigrad.tensor import Tensor
from minigrad.testing.collector import without_collector
from minigrad.testing.compare import judge, random_cotangent
from minigrad.testing.numeric import derivative_along, is_float
from minigrad.testing.scan_trial import Found, ScanTrial, Walk, said

LONG = 200
DIRECTIONS = 4
MEASURED = (40, 80)
VERY_LONG = 10_000
GROWTH = 2.3  # of what is linear in time, when time doubles

# ---- S9: against differences ---------------------------------------------------------------------------------------


def s9_long(trial: ScanTrial) -> Found:
    """Along random directions the gradient through 200 steps is that of finite differences.

    The inputs are repeated to that length. Raises `NondifferentiableError` for a chaotic body, which differences cannot
    judge.
    """
    names = list(trial.point)
    repeats = -(-LONG // trial.steps)

    def run(xs: Any, init: Any) -> tuple[Any, Any]:
        return trial.scan(tree.map(lambda leaf: concatenate([leaf] * repeats)[:LONG], xs), init)

    def f(*arrays: Any) -> list[Any]:
        values = trial.values(run, dict(zip(names, arrays, strict=True)))
        return [a for a in values.values() if is_float(a)]

    rng = np.random.default_rng([trial.seed, 3])
    answers, g = trial.answers(run, tangents=False), trial.cotangents(run)
    found = []
    for _ in range(DIRECTIONS):
        directions = [random_cotangent(trial.point[name], rng) for name in names]
        along = sum(np.sum(answers[f"gradient by {n}"] * d) for n, d in zip(names, directions, strict=True))
        estimate = derivative_along(f, [trial.point[name] for name in names], directions, g)
        problem = f"the gradient through {LONG} steps is wrong along a random direction"
        found += judge(trial.context_of("S9"), "S9", np.asarray(along), estimate, label="along", problem=problem)
    return found


# ---- S10: records, memory, recursion, and what is left behind ------------------------------------------------------


def s10_resources(trial: ScanTrial) -> Found:
    """Records and memory are linear in time, 10,000 steps need no recursion, and what a step made dies with it."""
    _check_growth(trial, "records of the tape", partial(_records, trial), unroll=True)
    for options in trial.ways:
        _check_growth(trial, "bytes at the peak", partial(_peak, trial, options), **options)
        _dies(trial, options)
    with np.errstate(all="ignore"):  # over so many steps some bodies overflow
        trial.answers(_repeated(trial, VERY_LONG, {}), tangents=False)
    return []


def _repeated(trial: ScanTrial, steps: int, options: dict[str, Any]) -> Walk:
    """The inputs again and again, for so many steps."""
    index = np.arange(steps) % trial.steps

    def run(xs: Any, init: Any) -> tuple[Any, Any]:
        return trial.scan(tree.map(lambda leaf: leaf[trial.adapter.asarray(index)], xs), init, **options)

    return run


def _check_growth(trial: ScanTrial, what: str, measure: Callable[[int], int], **options: Any) -> None:
    small, large = map(measure, MEASURED)
    if large > GROWTH * small:
        trial.fail(
            "S10",
            f"{what} are not linear in time{said(options)}: {small} and {large} for {MEASURED} steps",
            hints=["something of the size of the sequence is kept at every step"],
        )


def _records(trial: ScanTrial, steps: int) -> int:
    with Tape() as tape, np.errstate(all="ignore"):
        trial.answers(_repeated(trial, steps, {"unroll": True}), tangents=False)
    return len(tape)


def _peak(trial: ScanTrial, options: dict[str, Any], steps: int) -> int:
    def run() -> None:
        with np.errstate(all="ignore"):
            trial.answers(_repeated(trial, steps, options), tangents=False)

    if not options:  # the first time there is something to compile
        run()
    with without_collector():  # else the peak would depend on when it runs
        tracemalloc.start()
        try:
            run()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def _dies(trial: ScanTrial, options: dict[str, Any]) -> None:
    """After backward, and without the garbage collector, no state that the body made is alive."""
    seen: list[weakref.ref[Any]] = []

    def body(state: Any, x: Any) -> Any:
        result = trial.body(state, x)
        seen.extend(weakref.ref(leaf) for leaf in tree.flatten(trial.state_of(result))[0] if isinstance(leaf, Tensor))
        return result

    with without_collector():
        trial.answers(trial.way(**options, body=body), tangents=False)
        alive = sum(ref() is not None for ref in seen)
    if alive:
        trial.fail(
            "S10", f"{alive} of {len(seen)} states are alive after backward{said(options)}: does the body keep them?"
        )
