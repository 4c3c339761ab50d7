"""How an op runs: P14, on a device that nobody waits for, and P15, twice with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.backend import BACKEND_OF_TYPE, register
from minigrad.testing.adapters import Minigrad
from minigrad.testing.compare import closely, random_cotangent, same_bits
from minigrad.testing.numeric import EPS
from minigrad.testing.trial import Trial, parts

STRICT = "strict"
LOOK = 1  # how often a walk over the tape may wait: it looks at its results once, for NaN


def p14_device(trial: Trial) -> Sequence[int]:
    """On a strict fake CuPy an op computes what it computes on NumPy, and asks the device for no number of its own."""
    from minigrad.testing import fake_cupy  # noqa: PLC0415  (only this property needs it)

    strict = Trial(trial.spec, trial.case, trial.seed, strict_adapter())
    context = strict.context("P14")
    arrays, adapter = strict.arrays, strict.adapter
    with fake_cupy.count_syncs() as forward:
        out, pull = adapter.vjp(strict.fn, arrays)
    g = strict.cotangent_to_device(strict.g_host, out)
    tangents = strict.to_device(_tangents(strict))
    with fake_cupy.count_syncs() as backward:
        grads = pull(g)
    with fake_cupy.count_syncs() as along:
        _, tangent = adapter.jvp(strict.fn, arrays, tangents)
    first, later = trial.spec.waits
    for what, log, allowed in (
        ("forward", forward, first),
        ("backward", backward, later + LOOK),
        ("forward mode", along, first + later + LOOK),
    ):
        if len(log) > allowed:
            context.fail("P14", f"{what} waits for the device {len(log)} times, {allowed} are needed: {', '.join(log)}")
    on_numpy = Trial(trial.spec, trial.case, trial.seed, Minigrad("numpy"))
    wanted = _everything(on_numpy)
    got = [*map(adapter.to_host, parts(out)), *strict.to_host(grads), *map(adapter.to_host, parts(tangent))]
    for i, (have, want) in enumerate(zip(got, wanted, strict=True)):
        closely(
            context,
            "P14",
            have,
            want,
            label=f"array {i}",
            problem="the strict device gives other numbers than NumPy (results first, then gradients, then tangents)",
            rtol=64 * EPS,
        )
    return trial.judged()


def p15_determinism(trial: Trial) -> Sequence[int]:
    """The same op on the same arrays gives the same result, gradients and tangents, to the last bit."""
    context = trial.context("P15")
    once, again = (_everything(Trial(trial.spec, trial.case, trial.seed, trial.adapter)) for _ in range(2))
    for i, (one, two) in enumerate(zip(once, again, strict=True)):
        if not same_bits(one, two):
            context.fail("P15", f"two runs differ in array {i} (results first, then gradients, then tangents)")
    return trial.judged()


def _everything(trial: Trial) -> list[Any]:
    """The results, the gradients and, where there is a forward mode, the tangents of a trial, on the host."""
    adapter = trial.adapter
    found = [*map(adapter.to_host, parts(trial.out)), *trial.grads]
    if adapter.transforms:
        _, tangent = adapter.jvp(trial.fn, trial.arrays, trial.to_device(_tangents(trial)))
        found += map(adapter.to_host, parts(tangent))
    return found


def _tangents(trial: Trial) -> list[Any]:
    rng = np.random.default_rng([trial.seed, 10])
    return [random_cotangent(a, rng) for a in trial.host]


def strict_adapter() -> Minigrad:
    """minigrad on the strict fake CuPy, which is registered if it is not."""
    from minigrad.testing import fake_cupy  # noqa: PLC0415

    if BACKEND_OF_TYPE.get(fake_cupy.StrictArray) is not fake_cupy.backend:
        register(fake_cupy.backend)
    return Minigrad(STRICT)
