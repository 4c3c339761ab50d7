"""The strict fake CuPy under the short name that the tests know it by; it is `minigrad.testing.fake_cupy`."""

from minigrad.testing.fake_cupy import (
    StrictArray,
    backend,
    count_launches,
    count_syncs,
    expect_syncs,
    interpret,
    memory_order,
    xp,
)

__all__ = [
    "StrictArray",
    "backend",
    "count_launches",
    "count_syncs",
    "expect_syncs",
    "interpret",
    "memory_order",
    "xp",
]
