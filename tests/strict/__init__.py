"""A backend for the tests that is as strict as CuPy where CuPy differs from NumPy, and runs on every machine.

`minigrad.backend.register(strict.backend)` adds it under the name "strict". What it refuses, and why, stands
in `strict.device_array`. Green here does not prove that CuPy agrees; red shows what CuPy may refuse.
"""

from strict.device_array import StrictArray, count_launches, count_syncs, expect_syncs, memory_order
from strict.elementwise import interpret
from strict.namespace import xp
from strict.plugin import backend

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
