"""Derivatives by finite differences, on plain float64 NumPy arrays.

This is the oracle: it shares no code with any derivative rule. Central differences at three step sizes are
extrapolated twice (Richardson), which in float64 gives ten to thirteen correct digits, together with an estimate of
the error that remains. The whole procedure is tried at smaller and smaller steps until the estimate is good enough.

Three traps are avoided here, and tested: a function may return a view of its argument (so every evaluation gets a fresh
array), a 0-d array must stay an array, and memory order is not to be trusted (so elements are addressed by index).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
STEPS = (2.0**-6, 2.0**-9, 2.0**-12, 2.0**-15)  # powers of two, so that x + h and x - h are exact for ordinary x
GOOD_ENOUGH = 1e-10  # an estimated relative error below which no smaller step is tried


@dataclass(frozen=True)
class Estimate:
    """A numerical derivative.

    `value` is the derivative, `error` what the method believes to be wrong with it, `noise` what the rounding of the
    function's own values can do to it, and `kink` says where the two one-sided derivatives disagree, so that there is
    no derivative to be found. All four have one shape.

    >>> import numpy as np
    >>> from minigrad.testing import numerical_vjp
    >>> estimate = numerical_vjp(np.abs, [np.array([0.0, -2.0])], np.array([1.0, 1.0]))
    >>> estimate.kink.tolist(), estimate.value.round(6).tolist()
    ([True, False], [0.0, -1.0])
    """

    value: Floats
    error: Floats
    noise: Floats
    kink: NDArray[np.bool_]

    def contracted(self, weights: Floats) -> Estimate:
        """The estimate of the inner product with `weights`, from that of every element."""
        sizes = np.abs(weights)
        error, noise = np.dot(sizes, self.error), np.dot(sizes, self.noise)
        value, kink = np.dot(weights, self.value), np.any(self.kink)
        return Estimate(np.asarray(value), np.asarray(error), np.asarray(noise), np.asarray(kink))


def is_float(x: Any) -> bool:
    """Say whether `x` (an array, a scalar or anything with NumPy's dtype) holds real floating-point numbers.

    Raises TypeError for an array of a library that has dtypes of its own, such as PyTorch.
    """
    dtype = getattr(x, "dtype", None)
    try:
        return np.dtype(dtype or np.asarray(x).dtype).kind == "f"
    except TypeError:
        library = type(x).__module__.partition(".")[0]
        raise TypeError(
            f"minigrad.testing computes with NumPy arrays, and got a {library}.{type(x).__name__} of dtype {dtype}: "
            "pass NumPy arrays, and let the function and its rule take and return them, such as "
            "`lambda x: torch.tanh(torch.from_numpy(x)).numpy()`; docs/adapters.md shows both"
        ) from None


def leaves(out: Any) -> list[Any]:
    """List the floating-point arrays in a result: an array, or nested tuples and lists of arrays."""
    if isinstance(out, (tuple, list)):
        return [leaf for part in out for leaf in leaves(part)]
    return [out] if is_float(out) else []


def flatten(out: Any) -> Floats:
    """Lay all floating-point numbers of a result (or of a cotangent of the same structure) into one vector."""
    parts = [np.asarray(leaf, dtype=np.float64).ravel() for leaf in leaves(out)]
    return np.concatenate(parts) if parts else np.zeros(0)


def derivative_along(
    f: Callable[..., Any],
    args: Sequence[Any],
    direction: Sequence[Any],
    cotangent: Any = None,
) -> Estimate:
    """Differentiate `f` at `args` along `direction`, which has an array, or None for "stay", for every argument.

    Without a cotangent the result is the derivative of every output element, as one vector; with one it is that
    derivative's inner product with the cotangent, a single number (shape `()`).

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0])
    >>> derivative_along(np.square, [x], [np.array([1.0, 0.0])]).value.round(6).tolist()
    [2.0, 0.0]
    """
    weights = None if cotangent is None else flatten(cotangent)
    scale = _power_of_two(max([1.0, *(_largest(a, d) for a, d in zip(args, direction, strict=True) if d is not None)]))

    def at(t: float) -> Floats:
        moved = [a if d is None else np.asarray(a + t * d) for a, d in zip(args, direction, strict=True)]
        return flatten(f(*moved))

    with np.errstate(all="ignore"):
        middle = at(0.0)
        best = _richardson(at, middle, STEPS[0] * scale, weights)
        for step in STEPS[1:]:
            if np.all(best.error + best.noise <= GOOD_ENOUGH * np.maximum(1.0, np.abs(best.value))):
                break
            best = _better(best, _richardson(at, middle, step * scale, weights))
    return best


def numerical_vjp(f: Callable[..., Any], args: Sequence[Any], cotangent: Any, *, argnum: int = 0) -> Estimate:
    """Estimate the gradient of <cotangent, f(*args)> with respect to one argument, element by element.

    `f` takes NumPy arrays and returns an array, or nested tuples and lists of arrays; `cotangent` has the structure of
    the result. The argument must be float64. Every field of the estimate has the argument's shape.

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> numerical_vjp(np.square, [x], np.array([1.0, 10.0, 100.0])).value.round(6).tolist()
    [2.0, 40.0, 600.0]
    """
    x = np.asarray(args[argnum])
    if x.dtype != np.float64:
        raise TypeError(f"a numerical gradient needs a float64 argument; argument {argnum} is {x.dtype}")
    value, error, noise = np.zeros(x.shape), np.zeros(x.shape), np.zeros(x.shape)
    kink = np.zeros(x.shape, dtype=bool)
    for index, unit in _units(x.shape):
        direction: list[Any] = [None] * len(args)
        direction[argnum] = unit
        there = derivative_along(f, args, direction, cotangent)
        value[index], error[index], noise[index] = there.value, there.error, there.noise
        kink[index] = there.kink
    return Estimate(value, error, noise, kink)


def numerical_jvp(f: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Any]) -> Estimate:
    """Estimate the derivative of all outputs of `f` (as one vector) along the tangents; None means no movement.

    >>> import numpy as np
    >>> numerical_jvp(np.multiply, [np.array([2.0]), np.array([3.0])], [np.array([1.0]), None]).value.round(6).tolist()
    [3.0]
    """
    return derivative_along(f, args, tangents)


def _richardson(at: Callable[[float], Floats], middle: Floats, step: float, weights: Floats | None) -> Estimate:
    """Extrapolate central differences at `step`, `step / 2` and `step / 4` to step 0."""

    def contract(v: Floats) -> Floats:
        return v if weights is None else np.asarray(np.dot(weights, v))

    central, gap = [], []
    for h in (step, step / 2, step / 4):
        after, before = at(h), at(-h)
        central.append(contract((after - before) / (2 * h)))
        gap.append(np.abs(contract((after - middle) - (middle - before)) / h))
    coarse = (4 * central[1] - central[0]) / 3
    fine = (4 * central[2] - central[1]) / 3
    value = np.asarray((16 * fine - coarse) / 15)
    error = np.asarray(np.abs(value - fine))
    size = np.abs(middle) if weights is None else np.dot(np.abs(weights), np.abs(middle))
    noise = np.asarray(64 * EPS * size / step)
    # The one-sided slopes of a smooth function approach each other linearly with the step; across a kink they do not.
    kink = np.asarray((gap[2] > 0.5 * gap[0]) & (gap[2] > 1e-6 * np.maximum(1.0, np.abs(value))) & (gap[2] > 4 * noise))
    return Estimate(value, error, noise, kink)


def _better(a: Estimate, b: Estimate) -> Estimate:
    """Take, element by element, the estimate that promises the smaller error; NaN promises nothing."""
    first, second = np.nan_to_num(a.error + a.noise, nan=np.inf), np.nan_to_num(b.error + b.noise, nan=np.inf)
    take = second < first
    return Estimate(
        np.where(take, b.value, a.value),
        np.where(take, b.error, a.error),
        np.where(take, b.noise, a.noise),
        np.where(take, b.kink, a.kink),
    )


def _units(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Floats]]:
    """Give every index of an array of this shape, with the array that is 1 there and 0 elsewhere."""
    for index in np.ndindex(*shape):
        unit = np.zeros(shape)
        unit[index] = 1.0
        yield index, unit


def _largest(x: Any, direction: Any) -> float:
    """The largest |x| that the direction moves."""
    moved = np.abs(np.asarray(x)[np.asarray(direction) != 0])
    return float(moved.max()) if moved.size else 0.0


def _power_of_two(x: float) -> float:
    return float(2.0 ** np.round(np.log2(x))) if np.isfinite(x) else 1.0
