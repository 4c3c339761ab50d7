"""NVIDIA GPUs through CuPy: minigrad's only module that imports cupy, and only when it is asked for.

Importing this module is free. `xp` and `array_type` import cupy, which works on machines without a GPU too;
`unusable` tells which of the two is missing, so that the message can say what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad_cupy.kernels import ElementwiseKernel

if TYPE_CHECKING:
    from minigrad.backend import ElementwiseRun


class CupyBackend:
    """CuPy behind minigrad's backend socket. It works on CuPy's current device."""

    name = "cupy"

    @cached_property
    def xp(self) -> Any:
        """The module cupy, imported when first read."""
        import cupy  # noqa: PLC0415  (minigrad works without it)

        return cupy

    @property
    def array_type(self) -> type:
        """cupy.ndarray."""
        cls: type = self.xp.ndarray
        return cls

    def unusable(self) -> str | None:
        """Return None if cupy is installed and finds a GPU, else a sentence: which one is missing."""
        try:
            cupy = self.xp
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
                return 'cupy is not installed: pip install "minigrad[cupy]" (or the cupy wheel for your CUDA)'
            reason = " ".join(str(error).split())  # cupy's own text runs over many lines
            return f"cupy is installed but cannot be imported, so reinstall it: {reason}"
        if not cupy.cuda.is_available():
            return (
                "cupy is installed but finds no usable GPU: it needs an NVIDIA GPU and its driver (does "
                "`nvidia-smi` list one?), and CUDA_VISIBLE_DEVICES must not hide it"
            )
        return None

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """Return `data` (numbers, nested lists, a NumPy or a CuPy array) as an array on the current device.

        Arrays on the current device are shared, host arrays are copied. Raises TypeError for what holds no
        numbers and for arrays of other libraries, ValueError for an array on another device: none of them
        crosses over silently.
        """
        cp = self.xp
        if isinstance(data, cp.ndarray):
            self._check_device(data)
        elif isinstance(data, np.ma.MaskedArray):
            raise TypeError("a masked array would lose its mask on the GPU; fill it first (a.filled(0.0))")
        elif not isinstance(data, np.ndarray) and _is_device_array(type(data)):
            raise TypeError(
                f"expected numbers or an array of NumPy or CuPy, got {type(data).__module__}."
                f"{type(data).__qualname__}; convert it first (cupy.from_dlpack(a) for arrays on this GPU)"
            )
        elif not isinstance(data, np.ndarray):
            data = self._read(data)
        if data.dtype.kind not in "biufc":
            raise TypeError(f"a tensor holds numbers or booleans, got dtype {data.dtype}; convert it to numbers first")
        return cp.asarray(data, dtype=dtype)

    def _check_device(self, array: Any) -> None:
        here, there = self.xp.cuda.Device().id, array.device.id
        if there != here:
            raise ValueError(
                f"the array is on GPU {there}, the current device is GPU {here}; work in "
                f"`with cupy.cuda.Device({there}):`, or copy the array with cupy.array(a)"
            )

    def _read(self, data: Any) -> Any:
        """Return numbers and nested lists as a host array; lists that hold CuPy arrays as a CuPy array."""
        try:
            return np.asarray(data)
        except TypeError:  # cupy refuses to copy its arrays to the host unasked; it joins them on the device
            return self.xp.asarray(data)

    def to_host(self, array: Any) -> np.ndarray:
        """Return a CuPy array as a NumPy array; waits for the device."""
        host: np.ndarray = self.xp.asnumpy(array)
        return host

    def scatter_add(self, shape: tuple[int, ...], dtype: Any, index: Any, values: Any) -> Any:
        """Return zeros of `shape` with `values` added at `index`; where an index repeats, they add up.

        The GPU adds in any order (atomics), so the last bits of a floating-point sum can differ between runs.
        """
        out = self.xp.zeros(shape, dtype)
        self.xp.add.at(out, index, values)
        return out

    def elementwise(self, run: ElementwiseRun) -> Callable[..., None]:
        """Return f(*arrays), which does a run of elementwise operations in one kernel.

        A kernel is generated and compiled for each combination of dtypes and layouts that it is called with,
        when it is first called. Values are those that CuPy's functions would give one by one, rounded after
        each step. Raises ValueError for a step that has no kernel, or with too many or too few operands.
        """
        return ElementwiseKernel(run, self.xp)

    def any_nan(self, arrays: Iterable[Any]) -> bool:
        """Return whether any of the arrays holds a NaN, waiting for the device once for all of them."""
        cp = self.xp
        found = [cp.isnan(array).any() for array in arrays if array.dtype.kind in "fc"]
        return bool(cp.stack(found).any()) if found else False

    def freeze(self, array: Any) -> None:
        """Do nothing: CuPy has no read-only arrays."""

    def thaw(self, array: Any) -> None:
        """Do nothing: CuPy has no read-only arrays."""

    def is_writeable(self, array: Any) -> bool:
        """Return False: there is nothing to freeze."""
        return False

    def synchronize(self) -> None:
        """Wait until the current device has done everything that it was asked for."""
        self.xp.cuda.Device().synchronize()


def _is_device_array(cls: type) -> bool:
    return hasattr(cls, "__cuda_array_interface__") or hasattr(cls, "__dlpack__")


backend = CupyBackend()
