"""Backpropagation through thousands of steps, checked without a tolerance.

The recurrence is h' = h P + x U with a permutation P, and all numbers are small integers. Nothing grows, so every sum
is exact in floating point, in whatever order it is taken, and the adjoint test <f(u), g> = <u, pull(g)> is one of ==.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.backend import default_backend
from minigrad.scan import scan
from minigrad.testing.adapters import Minigrad
from minigrad.testing.compare import exactly
from minigrad.testing.report import Context, Deviation, GradReport

UNITS, INPUTS, ROWS = 5, 3, 2


def check_exact_bptt(steps: int = 5000, *, dtype: Any = "float64", seed: int = 0, **options: Any) -> GradReport:
    """Check `scan` on a linear recurrence over many steps, exactly, in both modes and by everything that takes part.

    `options` are those of `scan`: reverse, unroll, checkpoint. It runs on the default backend. In float32 sums are
    exact below 2 ** 24, which a hundred steps stay under.

    Returns a `GradReport`. Raises `GradientError` where an equation does not hold exactly, ValueError where so many
    steps are not exact in `dtype`.

    >>> from minigrad.testing.scan_exact import check_exact_bptt
    >>> check_exact_bptt(1000).ok
    True
    """
    adapter, rng = Minigrad(default_backend().name), np.random.default_rng(seed)

    def integers(*shape: int) -> Any:
        return rng.integers(-3, 4, shape).astype(dtype)

    point = {
        "x": integers(steps, ROWS, INPUTS),
        "h": integers(ROWS, UNITS),
        "U": integers(INPUTS, UNITS),
        "P": np.eye(UNITS, dtype=dtype)[rng.permutation(UNITS)],
    }
    context = Context(
        f"scan on {adapter.name}",
        f"h' = h P + x U, {steps} steps, {np.dtype(dtype)}, {options}",
        f"check_exact_bptt({steps}, dtype={np.dtype(dtype).name!r}, seed={seed}"
        + "".join(f", {name}={value!r}" for name, value in options.items())
        + ")",
    )

    def f(x: Any, h: Any, U: Any, P: Any) -> Any:
        return scan(lambda h, x: h @ P + x @ U, x, h, **options)

    def at(**changed: Any) -> Any:
        return adapter.to_host(f(*[adapter.asarray(a) for a in (point | changed).values()]))

    arrays = [adapter.asarray(a) for a in point.values()]
    out, pull = adapter.vjp(f, arrays)
    states = adapter.to_host(out)
    g = integers(*states.shape)
    grads = dict(zip(point, map(adapter.to_host, pull(adapter.asarray(g))), strict=True))
    tangents = {name: integers(*a.shape) for name, a in point.items()}
    _check_exact(dtype, states, g, grads, tangents)
    zero = {name: a * 0 for name, a in point.items()}
    without_input = at(U=zero["U"])
    worst: list[Deviation] = []

    def demand(got: Any, expected: Any, label: str, problem: str) -> None:
        worst.extend(exactly(context, "S8", np.asarray(got), expected, label=label, problem=problem))

    adjoint = "the gradient is not the adjoint of the values, in which all sums are exact"
    together = np.sum(point["x"] * grads["x"]) + np.sum(point["h"] * grads["h"])
    demand(together, np.sum(states * g), "<(x, h), pull(g)>", adjoint)
    demand(np.sum(point["U"] * grads["U"]), np.sum((states - without_input) * g), "<U, pull(g)>", adjoint)
    for name in point:
        direction = [adapter.asarray(tangents[name] if name == other else zero[other]) for other in point]
        moved = adapter.to_host(adapter.jvp(f, arrays, direction)[1])
        label = f"<d{name}, pull(g)>"
        demand(np.sum(tangents[name] * grads[name]), np.sum(moved * g), label, "the modes are not each other's adjoint")
        if name in ("x", "h"):
            others = {other: zero[other] for other in ("x", "h") if other != name}
            linear = at(**{name: tangents[name]}, **others)
            demand(
                moved, linear, f"tangent by {name}", "the tangent is not the value at the tangent, of a linear function"
            )
    return GradReport(context.name, "S8", worst=tuple(worst[:1]), method="exact integers, compared with ==")


def _check_exact(dtype: Any, states: Any, g: Any, grads: Any, tangents: Any) -> None:
    """Every sum of absolute values stays below the integers that the dtype holds; ValueError otherwise."""
    largest = 2.0 ** (np.finfo(dtype).nmant + 1)
    sums = [np.sum(np.abs(states * g), dtype=np.float64)]
    sums += [np.sum(np.abs(tangents[name] * grads[name]), dtype=np.float64) for name in grads]
    if max(sums) >= largest:
        raise ValueError(
            f"check_exact_bptt: sums reach {max(sums):.1e}, beyond the integers of {np.dtype(dtype)}: fewer steps"
        )
