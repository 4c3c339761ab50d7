"""P11, at special values: gradients are finite where they should be, and NaN stays where it belongs.

Rules are tested on tame numbers first, and then break on others: a product with a zero in it, a softmax of large
numbers, a loss over rows of which one is NaN and masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.testing.compare import exactly, only, random_cotangent
from minigrad.testing.numeric import Floats, flatten
from minigrad.testing.report import Context, deviations, literal
from minigrad.testing.trial import Trial

SPECIALS = (0.0, 1.0, -1.0, 50.0, -50.0, 800.0, -800.0, 1e30, -1e30, 1e-30, -1e-30)
WILD = (1e30, -1e30, np.nan)  # what an element is replaced by to see what depends on it
NEAR = 2.0**-10  # how far neighbours are, relative to the number; 0 has them at this distance


def p11_specials(trial: Trial) -> Sequence[int]:
    """Where the derivative is finite so is the gradient, and what does not depend on a NaN does not change by it."""
    with np.errstate(all="ignore"):
        _finite(trial)
        _isolated(trial)
    return trial.judged()


def _finite(trial: Trial) -> None:
    """At a mixture of ordinary and special values, each element with a finite slope has a finite gradient."""
    host = trial.host if trial.given else at_specials(trial)
    context = trial.context("P11")
    context.case += f"\narrays={literal(host)}"
    out, pull = trial.adapter.vjp(trial.fn, trial.to_device(host))
    middle = trial.adapter.to_host(out)  # the op's own values: a reference may overflow where an op need not
    if not (_zero_wins(trial) or np.all(np.isfinite(flatten(middle)))):
        return
    g = trial.g_host if trial.given else random_cotangent(middle, np.random.default_rng([trial.seed, 8]))
    g = only(np.isfinite(flatten(middle)), g)
    grads = trial.to_host(pull(trial.cotangent_to_device(g, out)))
    for k, grad in enumerate(grads):
        wild = [index for index in np.ndindex(*grad.shape) if not np.isfinite(grad[index])]
        for index in wild:
            slopes = _slopes(trial, host, flatten(g), k, index)
            if np.all(np.isfinite(slopes)):
                found = deviations(grad[index], np.asarray(np.mean(slopes)), 0.0, f"arg {k}{list(index)}")
                context.fail(
                    "P11",
                    f"the gradient with respect to argument {k} is not finite where the derivative is",
                    worst=found,
                    method="differences to the neighbours on both sides",
                )


def at_specials(trial: Trial) -> list[Floats]:
    """The arrays of a trial, with about half of their values special; not negative where the domain is positive."""
    rng = np.random.default_rng([trial.seed, 7])
    found = []
    for a, domain in zip(trial.host, trial.spec.domains(len(trial.host)), strict=True):
        allowed = [value for value in SPECIALS if value >= 0 or domain.lo < 0]
        found.append(np.where(rng.integers(0, 2, a.shape) == 0, rng.choice(allowed, a.shape), a))
    return found


def _slopes(trial: Trial, host: Sequence[Floats], g: Floats, k: int, index: tuple[int, ...]) -> Floats:
    """The slopes of <g, f> to both neighbours of an element."""
    step = abs(float(host[k][index])) * NEAR or NEAR

    def at(move: float) -> Floats:
        arrays = [np.array(a) for a in host]
        arrays[k][index] += move
        return np.where(g == 0, 0.0, flatten(trial.adapter.to_host(trial.fn(*trial.to_device(arrays)))))

    middle = at(0.0)
    return np.array([np.sum(g * ((at(move) - middle) / move)) for move in (step, -step)])


def _isolated(trial: Trial) -> None:
    """What a NaN in one element cannot reach, it does not change: not a bit of it, and no gradient either."""
    filled = trial.filled()
    if not filled:
        return
    context = trial.context("P11")
    rng = np.random.default_rng([trial.seed, 9])
    k = int(rng.choice(filled))
    index = tuple(int(rng.integers(0, side)) for side in trial.host[k].shape)
    before = flatten(trial.ref(*trial.host))
    reached = np.zeros(before.shape, bool)
    for value in WILD:
        after = flatten(trial.ref(*_replaced(trial.host, k, index, value)))
        reached |= ~((after == before) | (np.isnan(after) & np.isnan(before)))
    if np.any(reached) and not _zero_wins(trial):
        return
    g = only(~reached, trial.g_host)
    results = []
    for host in (trial.host, _replaced(trial.host, k, index, np.nan)):
        out, pull = trial.adapter.vjp(trial.fn, trial.to_device(host))
        grads = trial.to_host(pull(trial.cotangent_to_device(g, out)))
        results.append([flatten(trial.adapter.to_host(out))[~reached], *grads])
    _unchanged(context, f"NaN in argument {k} at {list(index)}", results)


def _zero_wins(trial: Trial) -> bool:
    """Whether the framework promises a gradient of 0 where the cotangent is 0, even past what is not finite."""
    return bool(getattr(trial.adapter, "zero_wins", False))


def _unchanged(context: Context, what: str, results: Sequence[Sequence[Any]]) -> None:
    without, poisoned = results
    for i, (got, expected) in enumerate(zip(poisoned, without, strict=True)):
        name = f"the gradient with respect to argument {i - 1}, of outputs that" if i else "an output that"
        exactly(
            context,
            "P11",
            got,
            expected,
            label=f"arg {i - 1}" if i else "out",
            problem=f"{what} changes {name} does not depend on it",
        )


def _replaced(host: Sequence[Floats], k: int, index: tuple[int, ...], value: float) -> list[Floats]:
    """Copies of the arrays, with one element replaced."""
    arrays = [np.array(a) for a in host]
    arrays[k][index] = value
    return arrays
