"""The strict array's plug-in: what `minigrad.backend.register` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from strict.device_array import StrictArray, synchronised
from strict.elementwise import elementwise
from strict.namespace import StrictNamespace, xp


class StrictBackend:
    """Strict arrays behind minigrad's backend socket."""

    name = "strict"
    xp: StrictNamespace = xp
    array_type = StrictArray

    def unusable(self) -> str | None:
        return None

    def asarray(self, data: Any, dtype: Any = None) -> StrictArray:
        if isinstance(data, np.ndarray) and type(data) not in (np.ndarray, np.memmap):
            raise TypeError(f"cannot make a device array of {type(data)}")
        return xp.asarray(data, dtype=dtype)

    def to_host(self, array: StrictArray) -> np.ndarray:
        if not isinstance(array, StrictArray):
            raise TypeError(f"expected a strict array, got {type(array)}")
        return array.get()

    def scatter_add(self, shape: tuple[int, ...], dtype: Any, index: Any, values: Any) -> StrictArray:
        out = xp.zeros(shape, dtype)
        xp.add.at(out, index, values)
        return out

    elementwise = staticmethod(elementwise)

    def any_nan(self, arrays: Iterable[StrictArray]) -> bool:
        found = [xp.isnan(array).any() for array in arrays if array.dtype.kind in "fc"]
        return bool(xp.stack(found).any()) if found else False

    def freeze(self, array: StrictArray) -> None:
        pass

    def thaw(self, array: StrictArray) -> None:
        pass

    def is_writeable(self, array: StrictArray) -> bool:
        return False

    def synchronize(self) -> None:
        synchronised("synchronize()")


backend = StrictBackend()
