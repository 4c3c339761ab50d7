"""The order in which results lie in memory: CuPy promises it for few functions, so here it is nobody's guess."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import permutations
from typing import Any

import numpy as np

_seed: ContextVar[int] = ContextVar("fake_cupy_memory_order", default=0)

ORDERED = frozenset(
    "array asarray asanyarray ascontiguousarray asfortranarray copy astype reshape ravel flatten view "
    "zeros ones empty full zeros_like ones_like empty_like full_like arange linspace eye identity "
    "where clip round around conj conjugate real imag nan_to_num isclose".split()
)
"""Functions and methods whose results lie in memory as CuPy promises: row by row, or as their operand does."""


@contextmanager
def memory_order(seed: int) -> Iterator[None]:
    """Lay results out in other orders of memory in this block, the same ones for the same seed.

    Code that reads an array by its strides, or hands its buffer on, is right under every seed or only by luck.

    >>> from minigrad.testing import fake_cupy
    >>> a = fake_cupy.xp.ones((2, 3))
    >>> with fake_cupy.memory_order(1):
    ...     one = fake_cupy.xp.stack([a, a]).strides
    >>> with fake_cupy.memory_order(2):
    ...     other = fake_cupy.xp.stack([a, a]).strides
    >>> one == other
    False
    """
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def disordered(data: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Copy `data` into an order of axes that depends on the seed, the function and the shape only."""
    if data.ndim < 2 or data.size < 2:
        return data
    orders = list(permutations(range(data.ndim))) if data.ndim <= 4 else [tuple(range(data.ndim))[::-1]]
    order = orders[zlib.crc32(f"{_seed.get()} {name} {data.shape}".encode()) % len(orders)]
    memory = np.empty([data.shape[axis] for axis in order], data.dtype)
    result = memory.transpose(np.argsort(order))
    result[...] = data
    return result
