"""P9, where an op has no derivative: what it gives there is a convention, but not any number will do.

Three things are demanded. The documented conventions of a spec are kept, exactly. At its kinks (the values that its
domains avoid, ties where they are distinct, and the inputs of its documented kinks) what it gives along a direction
lies between the one-sided derivatives. And laws that hold on both sides of a kink hold at the kink: the gradients of a
maximum add up to its cotangent however many elements tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.testing.adapters import Adapter
from minigrad.testing.compare import closely, exactly, only, random_cotangent
from minigrad.testing.numeric import EPS, Floats, flatten
from minigrad.testing.report import Context, deviations, literal
from minigrad.testing.specs import Case, Kink, OpSpec
from minigrad.testing.trial import Trial

STEP = 2.0**-20
BETWEEN = 1e-6  # how far outside of the one-sided derivatives, which are differences, an answer may lie
TIES = (-1.0, 0.0, 1.0)  # of which values are made that must not be distinct here


def p9_kink(spec: OpSpec, kink: Kink, adapter: Adapter) -> None:
    """At a kink the gradient is what the documentation says."""
    case = kink.case or Case(tuple(np.shape(x) for x in kink.inputs))
    inputs = [np.asarray(x, np.float64) for x in kink.inputs]
    trial = Trial(spec, case, 0, adapter, arrays=inputs)
    context = Context(f"{spec.name} on {adapter.name}", f"inputs {literal(inputs)}, cotangent {kink.cotangent}")
    with np.errstate(all="ignore"):
        out, pull = adapter.vjp(trial.fn, trial.arrays)
        grads = trial.to_host(pull(trial.cotangent_to_device(np.asarray(kink.cotangent, np.float64), out)))
    for k, (grad, expected) in enumerate(zip(grads, kink.expected, strict=True)):
        exactly(
            context,
            "P9",
            grad,
            np.asarray(expected, np.float64),
            label=f"arg {k}",
            problem=f"at a kink the gradient with respect to argument {k} breaks the convention {kink.reason}".rstrip(),
        )


def p9_kinks(trial: Trial) -> Sequence[int]:
    """At kinks too, gradients and tangents lie between the one-sided derivatives, and the op's laws hold."""
    host = trial.host if trial.given else at_kinks(trial)
    context, adapter = trial.context("P9"), trial.adapter
    context.case += f"\narrays={literal(host)}"
    arrays = trial.to_device(host)
    with np.errstate(all="ignore"):
        middle = trial.ref(*host)
        g = trial.g_host if trial.given else random_cotangent(middle, np.random.default_rng([trial.seed, 6]))
        g = only(np.isfinite(flatten(middle)), g)
        out, pull = adapter.vjp(trial.fn, arrays)
        grads = trial.to_host(pull(trial.cotangent_to_device(g, out)))
        compared = set()
        for k, a in enumerate(host):
            for index in np.ndindex(*a.shape):
                sides = one_sided(trial, host, _unit(host, k, index))
                if _between(context, np.asarray(grads[k][index]), sides, flatten(g), f"arg {k}{list(index)}"):
                    compared.add(k)
        if adapter.transforms:
            direction = [random_cotangent(a, trial.rng) for a in host]
            _, tangent = adapter.jvp(trial.fn, arrays, trial.to_device(direction))
            _tangent_between(context, flatten(adapter.to_host(tangent)), one_sided(trial, host, direction))
        if np.all(np.isfinite(flatten(middle))):
            for law in trial.spec.laws:
                got, expected = law(host, flatten(middle), flatten(g), grads)
                problem = f"the gradients break a law: {law.__doc__}"
                closely(context, "P9", np.asarray(got), expected, label="", problem=problem, rtol=256 * EPS)
    return sorted(compared)


def at_kinks(trial: Trial) -> list[Floats]:
    """The arrays of a trial, with about half of their values at the kinks of the op, or ties where it has those."""
    rng = np.random.default_rng([trial.seed, 5])
    spec, found = trial.spec, []
    for k, (a, domain) in enumerate(zip(trial.host, spec.domains(len(trial.host)), strict=True)):
        if domain.distinct:
            found.append(np.asarray(rng.choice(TIES, a.shape)))
            continue
        documented = [np.ravel(kink.inputs[k]) for kink in spec.kinks if len(kink.inputs) == len(trial.host)]
        there = np.concatenate([np.array(domain.avoid), *documented])
        there = there[np.isfinite(there)]
        chosen = rng.choice(there, a.shape) if there.size else a
        found.append(np.where(rng.integers(0, 2, a.shape) == 0, chosen, a))
    return found


def one_sided(trial: Trial, host: Sequence[Floats], direction: Sequence[Floats]) -> tuple[Floats, Floats]:
    """The derivatives of every output along a direction, from behind and from ahead; NaN where there is none."""

    def at(t: float) -> Floats:
        return flatten(trial.ref(*[np.asarray(a + t * d) for a, d in zip(host, direction, strict=True)]))

    middle = at(0.0)

    def slope(step: float) -> Floats:
        coarse, fine = (at(step) - middle) / step, (at(step / 2) - middle) / (step / 2)
        settled = np.abs(fine - coarse) <= 1e-4 * np.maximum(1.0, np.abs(fine))
        return np.where(settled, 2 * fine - coarse, np.nan)

    return slope(-STEP), slope(STEP)


def _between(context: Context, value: Any, sides: tuple[Floats, Floats], g: Floats, label: str) -> bool:
    """Demand that <gradient, direction> lies between what the sides allow; say whether there are two sides."""
    used = g != 0
    ends = np.array([side[used] * g[used] for side in sides])
    lower, upper = float(np.sum(ends.min(axis=0))), float(np.sum(ends.max(axis=0)))
    if not np.isfinite(lower + upper):
        return False
    found = deviations(value, np.clip(value, lower, upper), BETWEEN * max(1.0, abs(lower), abs(upper)), label)
    if found[0].excess > 1:
        context.fail(
            "P9",
            "at a kink the gradient is outside of the one-sided derivatives",
            worst=found,
            method=f"one-sided differences: between {lower:.7g} and {upper:.7g}",
        )
    return True


def _tangent_between(context: Context, tangent: Floats, sides: tuple[Floats, Floats]) -> None:
    lower, upper = np.minimum(*sides), np.maximum(*sides)
    there = np.isfinite(lower + upper)
    tol = BETWEEN * np.maximum(1.0, np.maximum(np.abs(lower), np.abs(upper)))[there]
    found = deviations(tangent[there], np.clip(tangent, lower, upper)[there], tol, "tangent")
    if any(d.excess > 1 for d in found):
        context.fail("P9", "at a kink the tangent is outside of the one-sided derivatives", worst=found)


def _unit(host: Sequence[Floats], k: int, index: tuple[int, ...]) -> list[Floats]:
    """The direction that moves one element of one array."""
    direction = [np.zeros(a.shape) for a in host]
    direction[k][index] = 1.0
    return direction


# ---- laws ------------------------------------------------------------------------------------------------------------

Law = Callable[[Sequence[Floats], Floats, Floats, Sequence[Floats]], tuple[Any, Any]]


def shifts(host: Sequence[Floats], out: Floats, g: Floats, grads: Sequence[Floats]) -> tuple[Any, Any]:
    """f(x + c) = f(x) + c, so all gradients together add up to the cotangent.

    As every law, it takes the inputs, the result, the cotangent and the gradients, and returns two numbers that must
    agree. Laws are listed in an `OpSpec`.

    >>> import numpy as np
    >>> from minigrad.testing import shifts
    >>> x, g = np.array([3.0, 3.0]), np.array(8.0)
    >>> left, right = shifts([x], x.max(), g, [np.array([4.0, 4.0])])  # of a maximum: ties share
    >>> bool(left == right)
    True
    """
    return sum(float(np.sum(grad)) for grad in grads), np.sum(g)


def stays(host: Sequence[Floats], out: Floats, g: Floats, grads: Sequence[Floats]) -> tuple[Any, Any]:
    """f(x + c) = f(x), so all gradients together add up to 0. See `shifts`.

    >>> import numpy as np
    >>> from minigrad.testing import stays
    >>> x, g = np.array([3.0, 5.0]), np.array(2.0)
    >>> stays([x], x.var(), g, [np.array([-2.0, 2.0])])
    (0.0, 0.0)
    """
    return sum(float(np.sum(grad)) for grad in grads), 0.0


def scales(host: Sequence[Floats], out: Floats, g: Floats, grads: Sequence[Floats]) -> tuple[Any, Any]:
    """f(c x) = c f(x) for c > 0, so <gradient, x> = <cotangent, f(x)>. See `shifts`.

    >>> import numpy as np
    >>> from minigrad.testing import scales
    >>> x, g = np.array([-1.0, 2.0]), np.array([3.0, 5.0])
    >>> left, right = scales([x], abs(x), g, [np.array([-3.0, 5.0])])
    >>> bool(left == right)
    True
    """
    return sum(float(np.sum(grad * x)) for grad, x in zip(grads, host, strict=True)), np.sum(g * out)
