"""Guesses at what is wrong that need more numerical gradients, and the cotangents that ask for one element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minigrad.testing.compare import map_result
from minigrad.testing.numeric import Floats, flatten, numerical_vjp

FEW = 64  # elements up to which every output is asked for by itself


def costly_hints(f: Callable[..., Any], args: Sequence[Any], g: Any, grad: Any, k: int) -> list[str]:
    """Try explanations that need more numerical gradients; called only after a failure."""
    if grad.shape != np.shape(args[k]) or not np.all(np.isfinite(grad)) or not np.any(grad):
        return []
    hints = []
    ones = numerical_vjp(f, args, map_result(lambda leaf: np.ones(np.shape(leaf)), g), argnum=k).value
    if _alike(grad, ones):
        hints.append("this is the gradient for a cotangent of ones: the rule ignores g")
    for j, other in enumerate(args):
        comparable = j != k and isinstance(other, np.ndarray) and other.dtype.kind == "f" and other.shape == grad.shape
        if comparable and _alike(grad, numerical_vjp(f, args, g, argnum=j).value):
            hints.append(f"this is the gradient with respect to argument {j}: swapped?")
    if flatten(g).size * grad.size <= FEW**2:
        hints += _one_use_hints(f, args, g, grad, k)
    return hints


def _one_use_hints(f: Callable[..., Any], args: Sequence[Any], g: Any, grad: Any, k: int) -> list[str]:
    """Whether every element has the contribution of one use only, where it should have their sum."""
    contributions = [numerical_vjp(f, args, one, argnum=k).value for one in one_hots(g, keep_size=True)]
    used = [np.abs(part) > 1e-9 for part in contributions]
    if not used or np.sum(used, axis=0).max(initial=0) < 2:
        return []
    first, last = np.zeros(grad.shape), np.zeros(grad.shape)
    for part, there in zip(contributions, used, strict=True):
        last = np.where(there, part, last)
    for part, there in zip(reversed(contributions), reversed(used), strict=True):
        first = np.where(there, part, first)
    for which, only in (("last", last), ("first", first)):
        if _alike(grad, only):
            return [f"every element has the contribution of its {which} use only: repeated indices must add up"]
    return []


def one_hots(g: Any, keep_size: bool = False) -> Iterator[Any]:
    """The cotangents of the structure of `g` that ask for one element: by 1, or by the number that `g` has there."""
    for place in range(flatten(g).size):
        seen = 0

        def one(leaf: Any, place: int = place) -> Any:
            nonlocal seen
            out = np.zeros(np.shape(leaf))
            here = place - seen
            seen += out.size
            if 0 <= here < out.size:
                index = np.unravel_index(here, out.shape)
                out[index] = np.asarray(leaf)[index] if keep_size else 1.0
            return out

        yield map_result(one, g)


def _alike(a: Floats, b: Floats) -> bool:
    return bool(np.allclose(a, b, rtol=1e-7, atol=1e-9))
