"""Clipping: gradients made smaller, after `backward()` and before `step()`, which clears them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minigrad.nn.module import checked_state
from minigrad.optim.optimiser import Params, as_number, checked, trainable
from minigrad.tape import Array
from minigrad.tensor import Tensor


def clip_global_norm(params: Params, max_norm: float) -> float:
    """Scale all gradients down together so that their joint Euclidean norm is at most `max_norm`.

    Returns the norm before clipping, computed in float64; waits for the device. Parameters without a gradient count
    as 0. FloatingPointError, and nothing changes, where the norm is NaN or infinite: scaling by it would turn
    gradients into NaN or 0 without a word. RuntimeError where no parameter has a gradient, ValueError for a max_norm
    that is not above 0, TypeError for one that is no number.
    Source: Pascanu et al., "On the difficulty of training recurrent neural networks" (2013).

    >>> import minigrad as mg
    >>> x = mg.tensor([3.0, 4.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> mg.optim.clip_global_norm([x], 1.0), x.grad
    (10.0, array([0.6, 0.8]))
    """
    max_norm = _limit("max_norm", max_norm)
    found = _with_gradients(params)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = {path: _sum_of_squares(p) for path, p in found.items()}
        norm = math.sqrt(float(sum(squares.values())))  # one wait for the device, for all of them
    if not math.isfinite(norm):
        broken = [path for path, square in squares.items() if not math.isfinite(float(square))]
        raise FloatingPointError(
            f"the gradients have the norm {norm}, nothing was changed; NaN or too large: {', '.join(broken)}"
        )
    if norm > max_norm:
        for p in found.values():
            g: Array = p.grad
            p.grad = p.backend.asarray(g * (max_norm / norm))
    return norm


def clip_value(params: Params, max_value: float) -> float:
    """Limit each element of each gradient to [-max_value, max_value], which may turn the direction of the step.

    Returns the largest absolute value before clipping; waits for the device. FloatingPointError, and nothing changes,
    where it is NaN or infinite. RuntimeError where no parameter has a gradient, ValueError for a max_value that is not
    above 0.
    Source: after Graves, "Generating sequences with recurrent neural networks" (2013), who limits the derivatives by
    the inputs of each layer so.

    >>> import minigrad as mg
    >>> x = mg.tensor([3.0, -0.25], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> mg.optim.clip_value([x], 1.0), x.grad
    (6.0, array([ 1. , -0.5]))
    """
    max_value = _limit("max_value", max_value)
    found = _with_gradients(params)
    largest = {path: p.backend.xp.max(p.backend.xp.abs(p.grad)) for path, p in found.items() if p.size}
    if not largest:
        return 0.0
    maximum = next(iter(found.values())).backend.xp.maximum  # which hands a NaN on
    top = float(functools.reduce(maximum, largest.values()))  # one wait for the device, for all of them
    if not math.isfinite(top):
        broken = [path for path, value in largest.items() if not math.isfinite(float(value))]
        raise FloatingPointError(
            f"the largest gradient is {top}, nothing was changed; NaN or infinite: {', '.join(broken)}"
        )
    if top > max_value:
        for p in found.values():
            p.grad = p.backend.asarray(p.backend.xp.clip(p.grad, -max_value, max_value))
    return top


class Clip:
    """`clip_global_norm` that counts: `.calls`, how often it `.fired`, and `.last_norm`, before clipping.

    One that fires all the time is a smaller learning rate; one that never does may go. A call that raises counts for
    nothing; before the first one, `last_norm` is NaN. ValueError for a max_norm that is not above 0.

    >>> import minigrad as mg
    >>> x = mg.tensor([3.0, 4.0], requires_grad=True)
    >>> clip, opt = mg.optim.Clip(5.0), mg.optim.SGD([x], lr=0.25)
    >>> for _ in range(3):
    ...     (x * x).sum().backward()
    ...     norm = clip([x])
    ...     opt.step()
    >>> clip
    Clip(5): fired in 2 of 3 calls, last norm 5
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = _limit("max_norm", max_norm)
        self.calls = 0
        self.fired = 0
        self.last_norm = math.nan

    def __call__(self, params: Params) -> float:
        """Clip, and return the norm before: `clip_global_norm(params, max_norm)`."""
        norm = clip_global_norm(params, self.max_norm)
        self.calls += 1
        self.fired += norm > self.max_norm
        self.last_norm = norm
        return norm

    def __repr__(self) -> str:
        return f"Clip({self.max_norm:g}): fired in {self.fired:,} of {self.calls:,} calls, last norm {self.last_norm:g}"

    def state_dict(self) -> dict[str, Array]:
        """The limit and the counts, as 0-d arrays on the host, for a checkpoint.

        >>> import minigrad as mg
        >>> list(mg.optim.Clip(5.0).state_dict())
        ['max_norm', 'last_norm', 'calls', 'fired']
        """
        state = {name: np.array(getattr(self, name), dtype=np.float64) for name in ("max_norm", "last_norm")}
        return state | {name: np.array(getattr(self, name), dtype=np.int64) for name in ("calls", "fired")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict`. ValueError, and nothing changes, where it does not fit, or no Clip has its numbers.

        >>> import minigrad as mg
        >>> clip = mg.optim.Clip(1.0)
        >>> clip.load_state_dict(mg.optim.Clip(5.0).state_dict())
        >>> clip.max_norm
        5.0
        """
        values = {name: array.item() for name, array in checked_state("Clip", self.state_dict(), state).items()}
        _limit("max_norm", values["max_norm"])
        checked("calls", values["calls"], math.inf)
        checked("fired", values["fired"], values["calls"] + 1)
        if values["calls"]:  # before the first one it is NaN
            checked("last_norm", values["last_norm"], math.inf)
        for name, value in values.items():
            setattr(self, name, value)


def _limit(name: str, limit: Any) -> float:
    number = as_number(name, limit)
    if not number > 0:
        raise ValueError(f"{name} is a number above 0, got {limit}")
    return number


def _with_gradients(params: Params) -> dict[str, Tensor]:
    found = {path: p for path, p in trainable(params).items() if p.grad is not None}
    if not found:
        raise RuntimeError(
            "no parameter has a gradient to clip: clip after backward() and before step(), which clears it"
        )
    return found


def _sum_of_squares(p: Tensor) -> Array:
    xp = p.backend.xp
    return xp.sum(xp.square(p.grad, dtype=np.float64))
