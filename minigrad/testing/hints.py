"""Guesses at what is wrong: the patterns that connect a wrong gradient with the right one.

Each is a cheap hypothesis, tried on the numbers of a failure; what fits is told. These look at two arrays only;
those in `probes` ask the function again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from minigrad.testing.numeric import Floats


def simple_hints(analytic: Floats, numeric: Floats, tol: float) -> list[str]:
    """Name the simple patterns that connect a wrong gradient with the right one.

    >>> import numpy as np
    >>> from minigrad.testing.hints import simple_hints
    >>> simple_hints(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0]), 1e-8)
    ['analytic = expected, shifted by 1 along axis 0: off by one in time?']
    """
    if analytic.shape != numeric.shape or not analytic.size:
        return []
    if not np.all(np.isfinite(analytic)):
        return [f"{int(np.sum(~np.isfinite(analytic)))} of {analytic.size} elements are not finite"]
    if np.all(analytic == 0):
        return ["the analytic gradient is 0 everywhere"]
    hints = []
    large = np.abs(numeric) > max(1e-3 * float(np.max(np.abs(numeric))), tol)
    if large.sum() > 1 and np.all(np.abs(analytic[~large]) <= np.abs(numeric[~large]) * 2 + tol):
        ratio = analytic[large] / numeric[large]
        if np.ptp(ratio) <= 1e-6 * np.abs(ratio).max():
            hints.append(f"analytic = {float(np.mean(ratio)):.7g} * expected, everywhere")
    if analytic.size == 1:
        return hints
    same = np.abs(analytic - numeric) <= tol
    if 0 < same.sum() < same.size:
        hints.append(f"{int(same.sum())} of {same.size} elements are right")
    for how, moved in _rearranged(numeric):
        there = ~np.isnan(moved)
        constant = np.ptp(numeric[there]) <= tol if there.any() else True
        if not constant and np.allclose(analytic[there], moved[there], rtol=0, atol=tol):
            return [*hints, f"analytic = expected, {how}"]
    return hints


def _rearranged(x: Floats) -> Iterator[tuple[str, Floats]]:
    """The ways in which elements get into wrong places; NaN where a way says nothing about a place."""
    yield "reversed along every axis", np.flip(x)
    for axis in range(x.ndim if x.ndim > 1 else 0):
        yield f"reversed along axis {axis}", np.flip(x, axis)
    for a, b in combinations(range(x.ndim), 2):
        if x.shape[a] == x.shape[b]:
            yield "transposed" if x.ndim == 2 else f"axes {a} and {b} exchanged", np.swapaxes(x, a, b)
    for axis in range(x.ndim):
        for step in (1, -1):
            yield f"rolled by {step} along axis {axis}", np.roll(x, step, axis)
    for step in (1, -1) if x.ndim and x.shape[0] > 2 else ():
        moved = np.full(x.shape, np.nan)
        moved[max(step, 0) : x.shape[0] + min(step, 0)] = x[max(-step, 0) : x.shape[0] - max(step, 0)]
        yield f"shifted by {step} along axis 0: off by one in time?", moved
    for axis in range(x.ndim if x.size > 1 else 0):
        yield f"its mean along axis {axis}, everywhere", np.broadcast_to(x.mean(axis, keepdims=True), x.shape)


def unreduced_hints(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[str]:
    """What a gradient may be that has one shape and should have another."""
    if len(shape) >= len(wanted) and math.prod(shape) > math.prod(wanted):
        return ["broadcasting is not undone: sum over the axes along which the argument was repeated"]
    return ["this is the shape of the argument transposed"] if shape == wanted[::-1] else []
