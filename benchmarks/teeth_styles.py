"""How well-known gradient checks work, each method written anew in a few lines. None is the project's own code.

A style is a function of one op, one call of it and a seed, which raises AssertionError where it finds a gradient wrong.
What is taken from each project is its method: the step, the direction, the cotangent, the tolerance, what is compared,
and the modes and orders that it checks when nothing else is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minigrad.testing import Case, OpSpec, Trial
from minigrad.testing.adapters import Minigrad
from minigrad.testing.compare import like_result
from minigrad.testing.numeric import flatten, leaves

ADAPTER = Minigrad()
Arrays = Sequence[np.ndarray]
Function = Callable[..., Any]
Direction = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
HYPOTHESIS_EXAMPLES = 25


def op_of(spec: OpSpec, case: Case, seed: int) -> tuple[Function, list[np.ndarray]]:
    """One call of an op as a function of its arrays, and arrays to call it with."""
    trial = Trial(spec, case, seed, ADAPTER)
    return trial.fn, trial.host


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.normal(size=shape))


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of length 1, with no negative element."""
    x = np.asarray(rng.random(shape))
    return np.asarray(x / max(float(np.linalg.norm(x)), 1e-12))


def moved(f: Function, arrays: Arrays, direction: Arrays, step: float) -> np.ndarray:
    """The derivative of all outputs along a direction, by one central difference."""
    after = flatten(f(*[np.asarray(a + step * d) for a, d in zip(arrays, direction, strict=True)]))
    before = flatten(f(*[np.asarray(a - step * d) for a, d in zip(arrays, direction, strict=True)]))
    return (after - before) / (2 * step)


def pulled(f: Function, arrays: Arrays, g: np.ndarray) -> list[np.ndarray]:
    """The gradients for a cotangent that is given as one vector over all outputs."""
    out, pull = ADAPTER.vjp(f, arrays)
    out = ADAPTER.to_host(out)
    parts = np.split(g, np.cumsum([leaf.size for leaf in leaves(out)])[:-1])
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves(out), strict=True)]
    grads = ADAPTER.to_host(pull(like_result(shaped, out)))
    for grad, array in zip(grads, arrays, strict=True):
        assert (grad.shape, grad.dtype) == (array.shape, array.dtype)
    return list(grads)


def pushed(f: Function, arrays: Arrays, tangents: Arrays) -> np.ndarray:
    return flatten(ADAPTER.to_host(ADAPTER.jvp(f, arrays, tangents)[1]))


def outputs(f: Function, arrays: Arrays) -> int:
    return flatten(f(*arrays)).size


def gradient_of(f: Function, count: int) -> Function:
    """(arrays, cotangents) -> gradients: what the second order differentiates."""

    def gradient(*values: Any) -> tuple[Any, ...]:
        out, pull = ADAPTER.vjp(f, values[:count])
        return tuple(pull(type(out)(values[count:]) if isinstance(out, (tuple, list)) else values[count]))

    return gradient


def tangent_of(f: Function, count: int) -> Function:
    """(arrays, tangents) -> tangent."""

    def tangent(*values: Any) -> Any:
        return ADAPTER.jvp(f, values[:count], values[count:])[1]

    return tangent


def cotangents(f: Function, arrays: Arrays, rng: np.random.Generator, draw: Direction = normal) -> list[np.ndarray]:
    out = f(*arrays)
    return [draw(rng, np.shape(part)) for part in (out if isinstance(out, (tuple, list)) else [out])]


# ---- the styles ------------------------------------------------------------------------------------------------------


def autograd(spec: OpSpec, case: Case, seed: int) -> None:
    """One random direction and cotangent, one number compared to 1e-6 (absolute or relative); both modes, order 2."""
    f, arrays = op_of(spec, case, seed)
    _autograd(f, arrays, np.random.default_rng([seed, 3]), order=2)


def _autograd(f: Function, arrays: Arrays, rng: np.random.Generator, order: int) -> None:
    direction, g = [normal(rng, a.shape) for a in arrays], normal(rng, (outputs(f, arrays),))
    numeric = float(g @ moved(f, arrays, direction, 0.5e-6))
    backward = float(flatten(pulled(f, arrays, g)) @ flatten(direction))
    forward = float(g @ pushed(f, arrays, direction))
    for analytic in (backward, forward):
        error = abs(analytic - numeric)
        assert error < 1e-6 or error / abs(analytic + numeric) < 1e-6
    if order > 1:
        n = len(arrays)
        _autograd(gradient_of(f, n), [*arrays, *cotangents(f, arrays, rng)], rng, order - 1)
        _autograd(tangent_of(f, n), [*arrays, *direction], rng, order - 1)


def jax(spec: OpSpec, case: Case, seed: int) -> None:
    """A step of 1e-4 and 1e-5 for everything; the tangent elementwise, the gradient by one number; order 2.

    The direction is drawn from the same seed for every op; the second order has the result as its cotangent.
    """
    f, arrays = op_of(spec, case, seed)
    _jax(f, arrays, order=2)


def _jax(f: Function, arrays: Arrays, order: int) -> None:
    rng = np.random.default_rng(0)
    direction, g = [normal(rng, a.shape) for a in arrays], normal(rng, (outputs(f, arrays),))
    numeric = moved(f, arrays, direction, 1e-4)
    np.testing.assert_allclose(pushed(f, arrays, direction), numeric, rtol=1e-5, atol=1e-5 * max(numeric.size, 1))
    backward = float(flatten(pulled(f, arrays, g)) @ flatten(direction))
    np.testing.assert_allclose(backward, float(g @ numeric), rtol=1e-5, atol=1e-5)
    if order > 1:
        n = len(arrays)

        def with_result(*values: Any) -> tuple[Any, ...]:
            out, pull = ADAPTER.vjp(f, values)
            return tuple(pull(out))

        _jax(with_result, arrays, order - 1)
        _jax(tangent_of(f, n), [*arrays, *arrays], order - 1)


def torch_fast(spec: OpSpec, case: Case, seed: int) -> None:
    """Positive directions, one number for each argument, to 1e-3 and 1e-5 times their sums; then the same of gradients.

    A cotangent of 0 must give 0, and two backward calls the same.
    """
    f, arrays = op_of(spec, case, seed)
    _torch(f, arrays, np.random.default_rng([seed, 3]), _fast_jacobian)


def torch_slow(spec: OpSpec, case: Case, seed: int) -> None:
    """Every element of the Jacobian, to 1e-3 and 1e-5; then the same of the gradients. Zero and repetition as above."""
    f, arrays = op_of(spec, case, seed)
    _torch(f, arrays, np.random.default_rng([seed, 3]), _slow_jacobian)


def _torch(f: Function, arrays: Arrays, rng: np.random.Generator, compare: Callable[..., None]) -> None:
    size = outputs(f, arrays)
    assert all(not np.any(grad) for grad in pulled(f, arrays, np.zeros(size)))
    g = normal(rng, (size,))
    for one, two in zip(pulled(f, arrays, g), pulled(f, arrays, g), strict=True):
        assert np.array_equal(one, two)
    compare(f, arrays, rng)
    compare(gradient_of(f, len(arrays)), [*arrays, *cotangents(f, arrays, rng)], rng)


def _fast_jacobian(f: Function, arrays: Arrays, rng: np.random.Generator) -> None:
    v = positive(rng, (outputs(f, arrays),))
    grads = pulled(f, arrays, v)
    for k, grad in enumerate(grads):
        u = positive(rng, grad.shape)
        along = [u if j == k else np.zeros(a.shape) for j, a in enumerate(arrays)]
        numeric = float(v @ moved(f, arrays, along, 1e-6))
        np.testing.assert_allclose(np.sum(grad * u), numeric, rtol=1e-3, atol=1e-5 * u.sum() * v.sum())


def _slow_jacobian(f: Function, arrays: Arrays, rng: np.random.Generator) -> None:
    size = outputs(f, arrays)
    rows = [pulled(f, arrays, unit) for unit in np.eye(size)]
    for k, index, along in units(arrays):
        numeric = moved(f, arrays, along, 1e-6)
        np.testing.assert_allclose([row[k][index] for row in rows], numeric, rtol=1e-3, atol=1e-5)


def units(arrays: Arrays) -> Iterator[tuple[int, tuple[int, ...], list[np.ndarray]]]:
    """Each element of each array, with the direction that moves nothing else."""
    for k, a in enumerate(arrays):
        for index in np.ndindex(*a.shape):
            along = [np.zeros(b.shape) for b in arrays]
            along[k][index] = 1.0
            yield k, index, along


def sum_backward(spec: OpSpec, case: Case, seed: int) -> None:
    """What `out.sum().backward()` leaves in `.grad`: a cotangent of ones, every element, to 1e-3 and 1e-4."""
    f, arrays = op_of(spec, case, seed)
    every_gradient(f, arrays, np.ones(outputs(f, arrays)), rtol=1e-3, atol=1e-4)


def every_gradient(f: Function, arrays: Arrays, g: np.ndarray, rtol: float, atol: float) -> None:
    """Every element of every gradient against a central difference."""
    grads = pulled(f, arrays, g)
    for k, index, along in units(arrays):
        np.testing.assert_allclose(grads[k][index], g @ moved(f, arrays, along, 1e-6), rtol=rtol, atol=atol)


@dataclass(frozen=True)
class Drawn:
    """Numbers that Hypothesis has drawn for one call: arrays, and a cotangent."""

    case: Case
    arrays: tuple[np.ndarray, ...]
    cotangent: np.ndarray


def by_hypothesis(spec: OpSpec, drawn: Drawn) -> None:
    """Every element of every gradient, to 1e-5, at arrays and for a cotangent that Hypothesis has drawn."""
    f = Trial(spec, drawn.case, 0, ADAPTER).fn
    every_gradient(f, drawn.arrays, drawn.cotangent, rtol=1e-5, atol=1e-5)


def default_arrays(spec: OpSpec, case: Case) -> list[Drawn]:
    """Numbers as `hypothesis.extra.numpy.arrays` draws them, within the bounds of the op's domain; always the same."""
    f, arrays = op_of(spec, case, 0)
    bounds = [st.floats(domain.lo, domain.hi) for domain in spec.domains(len(arrays))]
    strategy = st.tuples(
        st.tuples(*[hnp.arrays("float64", a.shape, elements=b) for a, b in zip(arrays, bounds, strict=True)]),
        hnp.arrays("float64", outputs(f, arrays), elements=st.floats(-2, 2)),
    )
    found: list[Drawn] = []

    @settings(
        max_examples=HYPOTHESIS_EXAMPLES, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def draw(drawn: Any) -> None:
        found.append(Drawn(case, *drawn))

    draw()
    return found
