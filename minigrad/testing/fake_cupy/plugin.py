"""Device arrays as a backend of minigrad's: what `minigrad.backend.register` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad.testing.fake_cupy.counting import synchronised
from minigrad.testing.fake_cupy.device_array import Host, StrictArray
from minigrad.testing.fake_cupy.elementwise import elementwise
from minigrad.testing.fake_cupy.namespace import StrictNamespace, xp


class StrictBackend:
    """Device arrays behind minigrad's backend socket, under the name "strict".

    >>> import minigrad as mg
    >>> from minigrad.testing import fake_cupy
    >>> mg.backend.register(fake_cupy.backend)
    >>> with mg.use_backend("strict"), fake_cupy.expect_syncs(1):  # the walk looks for NaN, once
    ...     gradient = mg.grad(lambda x: mg.tanh(x).sum())(mg.zeros(3))
    """

    name = "strict"
    xp: StrictNamespace = xp
    array_type = StrictArray

    def unusable(self) -> str | None:
        """Return None: it is usable everywhere."""
        return None

    def asarray(self, data: Any, dtype: Any = None) -> StrictArray:
        """Return numbers, nested lists, a NumPy or a device array as a device array; copy only from the host."""
        if isinstance(data, np.ndarray) and type(data) not in (np.ndarray, np.memmap):
            raise TypeError(f"cannot make a device array of {type(data)}; make it a plain array first")
        array: StrictArray = xp.asarray(data, dtype=dtype)
        return array

    def to_host(self, array: StrictArray) -> Host:
        """Return a device array as a NumPy array; counts as a wait for the device."""
        if not isinstance(array, StrictArray):
            raise TypeError(f"expected a device array of {__name__.rpartition('.')[0]}, got {type(array)}")
        return array.get()

    def scatter_add(self, shape: tuple[int, ...], dtype: Any, index: Any, values: Any) -> StrictArray:
        """Return zeros of `shape` with `values` added at `index`; where an index repeats, they add up."""
        out: StrictArray = xp.zeros(shape, dtype)
        xp.add.at(out, index, values)
        return out

    elementwise = staticmethod(elementwise)

    def any_nan(self, arrays: Iterable[StrictArray]) -> bool:
        """Return whether any of the arrays holds a NaN, waiting for the device once for all of them."""
        found = [xp.isnan(array).any() for array in arrays if array.dtype.kind in "fc"]
        return bool(xp.stack(found).any()) if found else False

    def freeze(self, array: StrictArray) -> None:
        """Do nothing: CuPy has no read-only arrays."""

    def thaw(self, array: StrictArray) -> None:
        """Do nothing: CuPy has no read-only arrays."""

    def is_writeable(self, array: StrictArray) -> bool:
        """Return False: there is nothing to freeze."""
        return False

    def synchronize(self) -> None:
        """Count as a wait for the device."""
        synchronised("synchronize()")


backend = StrictBackend()
