"""Ufuncs as CuPy has them: device arrays and scalars in, `out`, `dtype` and `casting`, no `where`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.testing.fake_cupy.counting import launched
from minigrad.testing.fake_cupy.device_array import (
    ADVICE,
    StrictArray,
    check_dtype,
    check_index,
    host_of,
    is_lone,
    quietly,
    unwrap,
    wrap_elementwise,
)
from minigrad.testing.fake_cupy.names import NAMES

BOOL = np.dtype(np.bool_)
ATOMIC = {
    "add": "int32 uint32 uint64 float16 float32 float64",
    "subtract": "int32 uint32",
    "maximum": "int32 uint32 uint64 float32 float64",
    "minimum": "int32 uint32 uint64 float32 float64",
    "bitwise_and": "int32 int64 uint32 uint64",
    "bitwise_or": "int32 int64 uint32 uint64",
    "bitwise_xor": "int32 int64 uint32 uint64",
}
"""What `at` takes where integers index: CuPy has kernels for the dtypes that the GPU changes atomically."""


class StrictUfunc:
    """One of NumPy's ufuncs for device arrays; `at`, `reduce` and `accumulate` exist where CuPy has them."""

    def __init__(self, name: str, ufunc: Any):
        self.__name__ = name
        self._ufunc = ufunc
        self.nin: int = getattr(ufunc, "nin", 1)  # a few of CuPy's ufuncs are functions in NumPy, of one argument
        self.nout: int = getattr(ufunc, "nout", 1)
        self.nargs = self.nin + self.nout
        self._takes_complex = "D" in NAMES["ufunc"][name]

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        options: dict[str, Any] = {}
        if dtype is not None:
            check_dtype(dtype)
            options["dtype"] = dtype
        written = out if isinstance(out, tuple) else args[self.nin :] if out is None else (out,)
        self._check(args[: self.nin], written)
        if out is not None:
            options |= {"out": unwrap(out, self.__name__), "casting": casting}
        launched(self.__name__)
        with quietly():
            result = self._ufunc(*(unwrap(value, self.__name__) for value in args), **options)
        if not written:
            return wrap_elementwise(result)
        return written[0] if self.nout == 1 else written

    def _check(self, values: tuple[Any, ...], written: tuple[Any, ...]) -> None:
        for value in values:
            if not is_lone(value):
                raise TypeError(f"cupy.{self.__name__}: Unsupported type {type(value)}; {ADVICE}")
            if not self._takes_complex and (isinstance(value, complex) or getattr(value, "dtype", BOOL).kind == "c"):
                raise TypeError(f"cupy.{self.__name__} takes no complex numbers; give it their real and imag")
        for array in written:
            if array is not None and not isinstance(array, StrictArray):
                raise TypeError(f"cupy.{self.__name__}: out must be a device array, got {type(array)}")

    def at(self, array: StrictArray, index: Any, values: Any = None) -> None:
        """Apply the ufunc in place at an index; where it repeats, values accumulate."""
        if self.__name__ not in NAMES["ufunc.at"]:
            raise NotImplementedError(f"cupy.{self.__name__}.at is not supported")
        if not isinstance(array, StrictArray) or not is_lone(values):
            raise TypeError(f"cupy.{self.__name__}.at: Unsupported types {type(array)}, {type(values)}; {ADVICE}")
        parts = check_index(index)
        by_integers = [part for part in parts if isinstance(part, np.ndarray) and part.dtype != BOOL]
        if by_integers and array.dtype.name not in ATOMIC[self.__name__].split():
            raise TypeError(
                f"cupy.{self.__name__}.at has no kernel for {array.dtype} where an array of integers indexes; it has "
                f"one for {ATOMIC[self.__name__].replace(' ', ', ')}"
            )
        launched(f"{self.__name__}.at")
        with quietly():
            self._ufunc.at(host_of(array), parts, unwrap(values, self.__name__))

    def reduce(
        self, array: StrictArray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        """Sum or multiply along an axis; CuPy has no other."""
        name = {"add": "sum", "multiply": "prod"}.get(self.__name__)
        if name is None:
            raise NotImplementedError(f"cupy.{self.__name__}.reduce is not supported")
        return getattr(array, name)(axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def accumulate(self, array: StrictArray, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        """Sum or multiply cumulatively along an axis; CuPy has no other."""
        name = {"add": "cumsum", "multiply": "cumprod"}.get(self.__name__)
        if name is None:
            raise NotImplementedError(f"cupy.{self.__name__}.accumulate is not supported")
        return getattr(array, name)(axis=axis, dtype=dtype, out=out)

    def outer(self, a: StrictArray, b: StrictArray, **options: Any) -> Any:
        """Apply the ufunc to every pair of elements."""
        return self(a.reshape(a.shape + (1,) * b.ndim), b, **options)

    def __repr__(self) -> str:
        return f"<ufunc {self.__name__}>"
