"""The properties that every op must have, each a function of one `Trial`: an op, a case, a seed and a framework.

A property raises `GradientError`, or `Rejected` where this example can prove nothing; otherwise it returns the
arguments on which it has compared at least one number, which is what the ledger counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from minigrad.backend import xp_of
from minigrad.testing.adapters import Adapter, Minigrad
from minigrad.testing.compare import (
    closely,
    exact_adjoint,
    exactly,
    homogeneous,
    integers,
    judge,
    like_result,
    map_result,
    random_cotangent,
    same_bits,
    same_kind,
)
from minigrad.testing.execution import STRICT, p14_device, p15_determinism
from minigrad.testing.float32 import p10_float32
from minigrad.testing.kinks import p9_kink, p9_kinks
from minigrad.testing.numeric import EPS, derivative_along, flatten, leaves, numerical_jvp, numerical_vjp
from minigrad.testing.probes import costly_hints
from minigrad.testing.report import Context, NondifferentiableError
from minigrad.testing.specials import p11_specials
from minigrad.testing.specs import Case, OpSpec, spec_for
from minigrad.testing.trial import Rejected, Trial, parts, rebuilt

Property = Callable[["Trial"], Sequence[int]]

ROUNDING = 64 * EPS  # between two ways of adding up the same few terms

# ---- P0: the value -----------------------------------------------------------------------------------------------


def p0_reference(trial: Trial) -> Sequence[int]:
    """The result has the reference's values, shape and dtype, in float64 and float32, and no input changes."""
    context, compared = trial.context("P0"), False
    for dtype in ("float64", "float32"):
        host = [a.astype(dtype) for a in trial.host]
        arrays = trial.to_device(host)
        out, expected = trial.fn(*arrays), trial.ref(*host)
        for part, wanted in zip(parts(out), parts(expected), strict=True):
            if not trial.adapter.is_array(part):
                context.fail("P0", f"arrays go in, and a {type(part).__qualname__} comes out")
            got, want = trial.adapter.to_host(part), np.asarray(wanted)
            compared |= want.size > 0
            if (got.shape, got.dtype) != (want.shape, want.dtype):
                context.fail(
                    "P0", f"the result is {got.dtype}{list(got.shape)}, the reference is {want.dtype}{list(want.shape)}"
                )
            problem = f"the value is wrong ({dtype})"
            if trial.spec.exact or want.dtype.kind != "f":
                exactly(context, "P0", got, want, label="value", problem=problem)
            else:
                rtol = 64 * float(np.finfo(want.dtype).eps)
                closely(context, "P0", got, want, label="value", problem=problem, rtol=rtol)
        for k, (before, after) in enumerate(zip(host, trial.to_host(arrays), strict=True)):
            if not same_bits(before, after):
                context.fail("P0", f"the op wrote into its argument {k}")
    return (trial.filled() if trial.argnums else [0]) if compared else []


# ---- P1 to P4: the first derivative --------------------------------------------------------------------------------


def p1_derivative(trial: Trial) -> Sequence[int]:
    """Every element of every gradient, and the tangent of forward mode, agree with finite differences."""
    context = trial.context("P1")
    try:
        for k in trial.argnums:
            same_kind(context, "P1", trial.grads[k], trial.host[k], k)
            judge(
                context,
                "P1",
                trial.grads[k],
                numerical_vjp(trial.ref, trial.host, trial.g_host, argnum=k),
                label=f"arg {k}",
                problem=f"the gradient with respect to argument {k} is wrong",
                hints=partial(costly_hints, trial.ref, trial.host, trial.g_host, trial.grads[k], k),
            )
        if trial.adapter.transforms:
            tangents = [random_cotangent(a, trial.rng) for a in trial.host]
            _, tangent = trial.adapter.jvp(trial.fn, trial.arrays, trial.to_device(tangents))
            judge(
                context,
                "P1",
                flatten(trial.adapter.to_host(tangent)),
                numerical_jvp(trial.ref, trial.host, tangents),
                label="tangent",
                problem="the tangent of forward mode is wrong",
            )
    except NondifferentiableError as error:
        raise Rejected from error
    return trial.judged()


def p2_exact(trial: Trial) -> Sequence[int]:
    """Where the op is linear, its gradient is exactly that of the linear map, on integers and without a tolerance."""
    context = trial.context("P2")
    host = [integers(trial.rng, a.shape) for a in trial.host]
    g = map_result(lambda leaf: integers(trial.rng, np.shape(leaf)), trial.ref(*host))
    arrays = trial.to_device(host)
    out, pull = trial.adapter.vjp(trial.fn, arrays)
    grads = trial.to_host(pull(trial.cotangent_to_device(g, out)))
    covered: set[int] = set()
    for group in trial.spec.groups(trial.case):
        for k in group:
            same_kind(context, "P2", grads[k], host[k], k)
        exact_adjoint(context, "P2", trial.ref, host, g, [grads[k] for k in group], group)
        covered |= set(group)
        if trial.adapter.transforms:
            zeros = [np.zeros_like(a) for a in host]
            tangents = [integers(trial.rng, a.shape) if k in group else zeros[k] for k, a in enumerate(host)]
            _, tangent = trial.adapter.jvp(trial.fn, arrays, trial.to_device(tangents))
            moved = trial.ref(*[t if k in group else a for k, (a, t) in enumerate(zip(host, tangents, strict=True))])
            exactly(
                context,
                "P2",
                flatten(trial.adapter.to_host(tangent)),
                flatten(moved),
                label="tangent",
                problem=f"the op is linear in its arguments {group}, but its tangent is not its value at the tangents",
            )
    return [k for k in trial.judged() if k in covered]


def p3_homogeneity(trial: Trial) -> Sequence[int]:
    """Pulling back 0, 2g and -g gives 0, and exactly 2 and -1 times the gradient."""
    homogeneous(trial.context("P3"), "P3", trial.pull, trial.g_host, trial.grads, trial.argnums)
    return trial.judged()


def p4_kind(trial: Trial) -> Sequence[int]:
    """Gradients and tangents are arrays of the backend, and have the shape and dtype of what they belong to."""
    context = trial.context("P4")
    for dtype in ("float64", "float32"):
        host = [a.astype(dtype) for a in trial.host]
        arrays = trial.to_device(host)
        out, pull = trial.adapter.vjp(trial.fn, arrays)
        for k, grad in enumerate(pull(trial.cotangent_to_device(trial.g_host, out))):
            if not trial.adapter.is_array(grad):
                context.fail("P4", f"the gradient with respect to argument {k} is {type(grad).__name__}, not an array")
            same_kind(context, "P4", trial.adapter.to_host(grad), host[k], k)
        if trial.adapter.transforms:
            out, tangent = trial.adapter.jvp(trial.fn, arrays, arrays)
            for y, t in zip(parts(out), parts(tangent), strict=True):
                if not trial.adapter.is_array(t) or (t.shape, t.dtype) != (y.shape, y.dtype):
                    kinds = [f"{type(x).__name__} {x.dtype}{list(x.shape)}" for x in (t, y)]
                    context.fail("P4", f"the tangent is {kinds[0]}, the result {kinds[1]}")
    return list(trial.argnums)


# ---- P5 and P6: whose memory is it, and how does it lie ------------------------------------------------------------


def p5_purity(trial: Trial) -> Sequence[int]:
    """Backward works on read-only arrays, changes none, answers twice alike, and what it stores is nobody else's."""
    context = trial.context("P5")
    g = trial.cotangent_to_device(trial.g_host, trial.out)
    lent = [("argument", a) for a in trial.arrays] + [("result", y) for y in parts(trial.out)]
    lent += [("cotangent", part) for part in parts(g) if part is not None]
    before = [(what, a, trial.adapter.to_host(a)) for what, a in lent]
    for _, a in lent:
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    pull = trial.out_and_pull[1]
    first = trial.to_host(pull(g))
    second = trial.to_host(pull(g))
    for what, a, old in before:
        if not same_bits(trial.adapter.to_host(a), old):
            context.fail("P5", f"backward wrote into an array that was lent to it: the {what}")
    for k, (one, two) in enumerate(zip(first, second, strict=True)):
        if not same_bits(one, two):
            context.fail("P5", f"pulling one cotangent back twice gives two gradients with respect to argument {k}")
    if isinstance(trial.adapter, Minigrad):
        _stored_gradients_are_private(trial, context, trial.adapter)
    return trial.judged()


def _stored_gradients_are_private(trial: Trial, context: Context, adapter: Minigrad) -> None:
    """Write into each `.grad` after backward: nothing else may change."""
    tensors = [adapter.tensor(a, requires_grad=True) for a in trial.to_device(trial.host)]
    out = trial.fn(*tensors)
    gs = leaves(trial.cotangent_to_device(trial.g_host, out))
    for y, g in zip(parts(out), gs, strict=True):
        y.backward(g, retain=True)
    arrays = {f"the data of argument {k}": t.data for k, t in enumerate(tensors)}
    arrays |= {f"result {k}": y.data for k, y in enumerate(parts(out))}
    arrays |= {f"cotangent {k}": g for k, g in enumerate(gs)}
    grads = {f"the gradient of argument {k}": t.grad for k, t in enumerate(tensors) if t.grad is not None}
    for name, grad in grads.items():
        others = {**arrays, **{other: a for other, a in grads.items() if other != name}}
        before = {other: adapter.to_host(a) for other, a in others.items()}
        grad[...] = 7.0
        for other, a in others.items():
            if not same_bits(adapter.to_host(a), before[other]):
                context.fail("P5", f"{name} shares memory with {other}")


def p6_layout(trial: Trial) -> Sequence[int]:
    """How inputs and cotangents lie in memory (Fortran order, backwards, repeated by stride 0) changes nothing."""
    context = trial.context("P6")
    for layout in (_fortran, _backwards, _repeated):
        host = [_dense(layout(a, np.asarray), np.asarray) for a in trial.host]
        g = map_result(partial(layout, move=np.asarray), trial.g_host)
        dense, laid = (_result_and_gradients(trial, host, g, place) for place in (_dense, layout))
        for k, (got, want) in enumerate(zip(laid, dense, strict=True)):
            what = f"the gradient with respect to argument {k - 1}" if k else "the result"
            closely(
                context,
                "P6",
                got,
                want,
                label=f"arg {k - 1}" if k else "out",
                problem=f"{what} depends on the layout of the arrays ({layout.__name__.strip('_')})",
                rtol=ROUNDING,
            )
    return trial.judged()


def _result_and_gradients(trial: Trial, host: Sequence[Any], g: Any, place: Callable[..., Any]) -> list[Any]:
    """The result and all gradients, from arrays that lie as `place` puts them on the device."""
    move = trial.adapter.asarray
    out, pull = trial.adapter.vjp(trial.fn, [place(a, move) for a in host])
    cotangent = map_result(partial(place, move=move), like_result(g, trial.adapter.to_host(out)))
    return [flatten(trial.adapter.to_host(out)), *trial.to_host(pull(cotangent))]


def _dense(x: np.ndarray[Any, Any], move: Callable[[Any], Any]) -> Any:
    """In C order, without holes or repetitions."""
    return move(np.array(x, order="C"))


def _fortran(x: np.ndarray[Any, Any], move: Callable[[Any], Any]) -> Any:
    """The same numbers, first axis fastest."""
    return move(np.array(x.T, order="C")).T


def _backwards(x: np.ndarray[Any, Any], move: Callable[[Any], Any]) -> Any:
    """The same numbers, with negative strides along every axis."""
    turn = (slice(None, None, -1),) * x.ndim
    return move(np.array(x[turn], order="C"))[turn]


def _repeated(x: np.ndarray[Any, Any], move: Callable[[Any], Any]) -> Any:
    """The first slice again and again: stride 0 along the first axis."""
    if not x.ndim or x.shape[0] < 2:
        return move(x)
    first = move(np.array(x[0]))
    return xp_of(first).broadcast_to(first, x.shape)


# ---- P7: structure at its limits -----------------------------------------------------------------------------------


def p7_degenerate(trial: Trial) -> Sequence[int]:
    """Properties P1, P3 and P4 hold where the structure is at its limits: 0-d, empty, length 1, axes from the end."""
    for prop in (p1_derivative, p3_homogeneity, p4_kind):
        prop(trial)
    return list(trial.argnums)


# ---- P8: used more than once ---------------------------------------------------------------------------------------


def p8_fan_out(trial: Trial) -> Sequence[int]:
    """Gradients add up: of one tensor passed as several arguments, of several consumers, of several backward calls."""
    context, adapter = trial.context("P8"), trial.adapter
    shared = [k for k in trial.argnums if trial.host[k].shape == trial.host[0].shape]
    if len(shared) > 1:
        _same_tensor_twice(trial, context, shared)
    g = trial.cotangent_to_device(trial.g_host, trial.out)
    twice = trial.cotangent_to_device(map_result(lambda leaf: leaf * 2, trial.g_host), trial.out)
    _, pull = adapter.vjp(lambda *xs: (trial.fn(*xs), trial.fn(*xs)), trial.arrays)
    for k, grad in enumerate(trial.to_host(pull((g, twice)))):
        closely(
            context,
            "P8",
            grad,
            3 * trial.grads[k],
            label=f"arg {k}",
            problem=f"two consumers of argument {k}: their gradients do not add up",
            rtol=ROUNDING,
        )
    if isinstance(adapter, Minigrad):
        tensors = [adapter.tensor(a, requires_grad=True) for a in trial.arrays]
        out = trial.fn(*tensors)
        for repeat in (1, 2):
            for y, part in zip(parts(out), leaves(g), strict=True):
                y.backward(part, retain=True)
            for k, t in enumerate(tensors):
                closely(
                    context,
                    "P8",
                    adapter.to_host(t.grad),
                    repeat * trial.grads[k],
                    label=f"arg {k}",
                    problem=f"argument {k}: `.grad` after {repeat} backward calls is not {repeat} times the gradient",
                    rtol=ROUNDING,
                )
    return trial.judged()


def _same_tensor_twice(trial: Trial, context: Context, shared: Sequence[int]) -> None:
    """f(x, x) has the sum of the partial gradients of f(x, y) at y = x."""
    same = [trial.host[0] if k in shared else a for k, a in enumerate(trial.host)]
    others = [trial.adapter.asarray(a) for k, a in enumerate(same) if k not in shared]

    def diagonal(x: Any) -> Any:
        rest = iter(others)
        return trial.fn(*[x if k in shared else next(rest) for k in trial.argnums])

    results = []
    for f, arrays in ((trial.fn, same), (diagonal, [same[0]])):
        out, pull = trial.adapter.vjp(f, trial.to_device(arrays))
        g = random_cotangent(trial.adapter.to_host(out), np.random.default_rng([trial.seed, 3]))
        results.append(trial.to_host(pull(trial.cotangent_to_device(g, out))))
    separate, (together,) = results
    closely(
        context,
        "P8",
        together,
        sum(separate[k] for k in shared),
        label="x",
        problem=f"one tensor as arguments {list(shared)}: its gradient is not the sum of the partial ones",
        rtol=ROUNDING,
    )


# ---- P12: which arguments are tracked ------------------------------------------------------------------------------


def p12_subsets(trial: Trial) -> Sequence[int]:
    """Tracking some of the arguments gives the gradients that tracking all of them gives; the others get None."""
    context, adapter = trial.context("P12"), trial.adapter
    every = list(trial.argnums)
    for chosen in (subset for size in range(1, len(every)) for subset in combinations(every, size)):

        def f(*xs: Any, chosen: tuple[int, ...] = chosen) -> Any:
            given = dict(enumerate(trial.arrays)) | dict(zip(chosen, xs, strict=True))
            return trial.fn(*[given[k] for k in every])

        out, pull = adapter.vjp(f, [trial.arrays[k] for k in chosen])
        grads = trial.to_host(pull(trial.cotangent_to_device(trial.g_host, out)))
        for k, grad in zip(chosen, grads, strict=True):
            exactly(
                context,
                "P12",
                grad,
                trial.grads[k],
                label=f"arg {k}",
                problem=f"tracking only arguments {list(chosen)} changes the gradient of argument {k}",
            )
    if isinstance(adapter, Minigrad):
        for k in every:
            _only_one_gets_a_gradient(trial, context, adapter, k)
    return trial.judged()


def _only_one_gets_a_gradient(trial: Trial, context: Context, adapter: Minigrad, k: int) -> None:
    tensors = [adapter.tensor(a, requires_grad=j == k) for j, a in enumerate(trial.arrays)]
    out = trial.fn(*tensors)
    for y, g in zip(parts(out), leaves(trial.cotangent_to_device(trial.g_host, out)), strict=True):
        y.backward(g, retain=True)
    for j, t in enumerate(tensors):
        if (t.grad is None) != (j != k):
            state = "has no" if t.grad is None else "was not tracked but has a"
            context.fail("P12", f"argument {j} {state} gradient when only argument {k} is tracked")


# ---- P13: the second derivative ------------------------------------------------------------------------------------


def p13_second_order(trial: Trial) -> Sequence[int]:
    """The derivatives of the gradient and of the tangent agree with finite differences, in all four mixed modes.

    One random direction is taken through everything, so that an example costs a dozen evaluations. The differences are
    taken of the first-order rules, which P1 has checked.
    """
    context = trial.context("P13")
    count = len(trial.host)
    g_host = [np.asarray(leaf) for leaf in leaves(trial.g_host)]
    tangents = [random_cotangent(a, trial.rng) for a in trial.host]
    judge_of = trial
    if isinstance(trial.adapter, Minigrad):  # whose rules run on NumPy faster than anywhere else
        judge_of = Trial(trial.spec, trial.case, trial.seed, Minigrad("numpy"))

    def gradient(which: Trial) -> Callable[..., Any]:
        def f(*values: Any) -> Any:
            out, pull = which.adapter.vjp(which.fn, values[:count])
            return tuple(pull(rebuilt(out, values[count:])))

        return f

    def tangent(which: Trial) -> Callable[..., Any]:
        def f(*values: Any) -> Any:
            return which.adapter.jvp(which.fn, values[:count], values[count:])[1]

        return f

    def on_host(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values: judge_of.adapter.to_host(f(*judge_of.to_device(values)))

    try:
        for name, make, at in (("gradient", gradient, g_host), ("tangent", tangent, tangents)):
            point = [*trial.host, *at]
            direction = [random_cotangent(a, trial.rng) for a in point]
            estimate = derivative_along(on_host(make(judge_of)), point, direction)
            arrays = trial.to_device(point)
            _, moved = trial.adapter.jvp(make(trial), arrays, trial.to_device(direction))
            judge(
                context,
                "P13",
                flatten(trial.adapter.to_host(moved)),
                estimate,
                label=f"forward over {'reverse' if name == 'gradient' else 'forward'}",
                problem=f"the derivative of the {name} is wrong",
            )
            out, pull = trial.adapter.vjp(make(trial), arrays)
            weights = random_cotangent(trial.adapter.to_host(out), trial.rng)
            pulled = trial.to_host(pull(trial.cotangent_to_device(weights, out)))
            for k, (p, a) in enumerate(zip(pulled, point, strict=True)):
                same_kind(context, "P13", p, a, k)
            judge(
                context,
                "P13",
                flatten(pulled) @ flatten(direction),
                estimate.contracted(flatten(weights)),
                label=f"reverse over {'reverse' if name == 'gradient' else 'forward'}",
                problem=f"the gradient of the {name} is wrong",
            )
    except NondifferentiableError as error:
        raise Rejected from error
    return trial.judged()


# ---- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A property with its name and its share of the examples that the profile asks for."""

    id: str
    check: Property
    share: float
    needs: str = ""
    """The ability of an adapter without which the property makes no sense."""
    backend: str = ""
    """The backend that it is about, whatever others are chosen."""

    def applies(self, spec: OpSpec) -> bool:
        """Say whether an op of this spec must have the property; an exemption is another matter."""
        if not spec.differentiable:
            return self.id == "P0"
        if self.id == "P2":
            return bool(spec.linear)
        if self.id == "P9":
            return bool(spec.kinks or spec.laws)
        return self.id != "P7" or bool(spec.tags)

    def possible(self, adapter: Adapter) -> bool:
        """Say whether a framework has what the property needs: see `Adapter`."""
        if self.needs == "minigrad":
            return isinstance(adapter, Minigrad)
        return not self.needs or bool(getattr(adapter, self.needs, False))

    def __repr__(self) -> str:
        return self.id


PROPERTIES: dict[str, Entry] = {
    entry.id: entry
    for entry in (
        Entry("P0", p0_reference, 0.5),
        Entry("P1", p1_derivative, 1.0),
        Entry("P2", p2_exact, 1.0),
        Entry("P3", p3_homogeneity, 0.3),
        Entry("P4", p4_kind, 0.3),
        Entry("P5", p5_purity, 0.3),
        Entry("P6", p6_layout, 0.3, needs="strided"),
        Entry("P7", p7_degenerate, 0.5),
        Entry("P8", p8_fan_out, 0.3, needs="transforms"),
        Entry("P9", p9_kinks, 0.375),
        Entry("P10", p10_float32, 0.25, needs="vjp_keeping"),
        Entry("P11", p11_specials, 0.3),
        Entry("P12", p12_subsets, 0.3, needs="transforms"),
        Entry("P13", p13_second_order, 0.25, needs="transforms"),
        Entry("P14", p14_device, 0.3, needs="minigrad", backend=STRICT),
        Entry("P15", p15_determinism, 0.25),
    )
}


def check_conventions(spec: OpSpec, adapter: Adapter) -> None:
    """Check the documented conventions of an op: what its gradients are at kinks.

    Raises `GradientError` where one is broken.
    """
    for kink in spec.kinks:
        p9_kink(spec, kink, adapter)


def check(spec: OpSpec, prop: str, case: Case, seed: int, adapter: Adapter) -> Sequence[int]:
    """Run one property on one example; return the arguments on which something was compared.

    Raises `GradientError` where the property does not hold, and `Rejected` where the example proves nothing.
    """
    return PROPERTIES[prop].check(Trial(spec, case, seed, adapter))


def replay(
    spec: str | OpSpec,
    prop: str,
    case: Case,
    seed: int = 0,
    backend: str | Adapter = "numpy",
    arrays: Sequence[Any] | None = None,
    cotangent: Any = None,
) -> Sequence[int]:
    """Run one example again, as a failure message prints it.

    `spec` is one, or the name of a registered one; `backend` is a backend of minigrad, or the adapter of another
    framework; `arrays` and `cotangent` stand for those of the seed.

    Returns the arguments on which something was compared. Raises what the property raises.

    >>> from minigrad.testing import Case, replay
    >>> replay("multiply", "P1", Case(shapes=((2, 3), (3,))), seed=7)
    [0, 1]
    """
    spec = spec_for(spec) if isinstance(spec, str) else spec
    adapter = Minigrad(backend) if isinstance(backend, str) else backend
    return PROPERTIES[prop].check(Trial(spec, case, seed, adapter, arrays=arrays, cotangent=cotangent))
