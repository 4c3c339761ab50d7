"""NumPy's functions on strict arrays: those that CuPy has, with CuPy's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from strict.device_array import (
    SCALARS,
    StrictArray,
    check_arguments,
    check_index,
    check_positions,
    launched,
    launched_unless_view,
    quietly,
    synchronised,
    unwrap,
    wrap,
    wrap_elementwise,
)
from strict.names import NAMES, signature

# Functions that answer a question about arrays without looking into them.
HOST = frozenset(
    "result_type can_cast promote_types min_scalar_type common_type broadcast_shapes ndim shape size "
    "isscalar iscomplexobj isrealobj issubdtype may_share_memory shares_memory".split()
)
# What must be a device array: by default the first argument.
NO_ARRAY = frozenset("zeros ones empty full arange linspace logspace eye identity tri indices".split())
SEQUENCE = frozenset("concatenate concat stack vstack hstack dstack column_stack".split())
EVERY_ARRAY = frozenset("broadcast_arrays meshgrid ix_".split())
TWO_ARRAYS = frozenset(
    "matmul dot inner outer vdot tensordot kron cross take_along_axis array_equal allclose searchsorted isin".split()
)
POSITIONS = frozenset("take repeat".split())  # the second argument is an index
SYNCHRONISING = frozenset("nonzero flatnonzero argwhere unique extract compress union1d setdiff1d trim_zeros".split())


class StrictNamespace:
    """What `backend.xp` is for strict arrays; a name that CuPy lacks is an AttributeError."""

    ndarray = StrictArray

    def __init__(self, name: str, numpy: Any, prefix: str = ""):
        self.__name__ = name
        self._numpy = numpy
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        full = self._prefix + name
        if name.startswith("_") or not any(full in names for names in NAMES.values()):
            raise AttributeError(f"CuPy has no {full}")
        found = self._offer(name, full)
        setattr(self, name, found)  # next time without coming here
        return found

    def _offer(self, name: str, full: str) -> Any:
        if full in ("array", "asarray", "asanyarray", "asnumpy"):
            return {"asnumpy": asnumpy}.get(full) or creator(full)
        if full == "linalg":
            return StrictNamespace(f"{self.__name__}.linalg", np.linalg, "linalg.")
        if full == "ufunc":
            return StrictUfunc
        if not hasattr(self._numpy, name) or full in NAMES["module"]:
            raise AttributeError(f"CuPy has {full}, but only what NumPy has too can run on both")
        item = getattr(self._numpy, name)
        if full in NAMES["ufunc"]:
            return StrictUfunc(full, item)
        if full in NAMES["function"]:
            return strict_function(full, item)
        return item  # a dtype, a constant

    def __repr__(self) -> str:
        return f"<namespace {self.__name__}>"


def asnumpy(array: StrictArray) -> np.ndarray:
    """Return a copy in the host's memory."""
    return array.get()


def creator(name: str) -> Callable[..., StrictArray]:
    """Return `array` or `asarray`: the explicit ways by which data of the host gets to the device."""
    expected = signature(NAMES["function"][name])
    copies = name == "array"

    def create(data: Any, dtype: Any = None, copy: bool | None = None, order: str = "K") -> StrictArray:
        check_arguments(name, expected, (data,), {"dtype": dtype})
        shared = isinstance(data, StrictArray) and not (copies if copy is None else copy)
        host = to_data(data)
        result = host.astype(host.dtype if dtype is None else dtype, order=order, copy=not shared)
        if isinstance(data, StrictArray) and result is not host:
            launched(name)
        return data if result is host else StrictArray(result)

    create.__name__ = name
    return create


def to_data(data: Any) -> np.ndarray:
    """Return numbers, an array, or nested lists of them, device arrays included, as NumPy reads them."""
    if isinstance(data, StrictArray):
        return data._data
    if not isinstance(data, (list, tuple, range, np.ndarray, *SCALARS)):
        raise TypeError(f"cannot make a device array of {type(data)}")
    try:
        result = np.asarray(data)
    except TypeError:  # device arrays in a list
        result = np.asarray([to_data(item) for item in data])
    if result.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {result.dtype}")
    return result


class StrictUfunc:
    """A ufunc as CuPy has it: arrays and scalars in, `out`, `dtype` and `casting`, no `where`."""

    def __init__(self, name: str, ufunc: Any):
        self.__name__ = name
        self._ufunc = ufunc
        self.nin = getattr(ufunc, "nin", 1)  # a few of CuPy's ufuncs are functions in NumPy, of one argument
        self.nout = getattr(ufunc, "nout", 1)
        self.nargs = self.nin + self.nout

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        for value in (*args, *(out if isinstance(out, tuple) else (out,))):
            if value is not None and not isinstance(value, (StrictArray, *SCALARS)):
                raise TypeError(f"cupy.{self.__name__}: Unsupported type {type(value)}")
        if out is not None:
            options |= {"out": unwrap(out, self.__name__), "casting": casting}
        launched(self.__name__)
        with quietly():
            result = self._ufunc(*(unwrap(value, self.__name__) for value in args), **options)
        if len(args) > self.nin:
            return args[self.nin]
        return wrap_elementwise(result) if out is None else out

    def at(self, array: StrictArray, index: Any, values: Any = None) -> None:
        """Apply the ufunc in place at an index; where it repeats, values accumulate."""
        if self.__name__ not in NAMES["ufunc.at"]:
            raise NotImplementedError(f"cupy.{self.__name__}.at is not supported")
        if not isinstance(array, StrictArray) or not isinstance(values, (StrictArray, *SCALARS)):
            raise TypeError(f"cupy.{self.__name__}.at: Unsupported types {type(array)}, {type(values)}")
        launched(f"{self.__name__}.at")
        with quietly():
            self._ufunc.at(array._data, check_index(index), unwrap(values, self.__name__))

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


def strict_function(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of NumPy's for strict arrays, which takes what CuPy's function takes."""
    expected = signature(NAMES["function"][name])

    def call(*args: Any, **kwargs: Any) -> Any:
        check_arguments(name, expected, args, kwargs)
        if name not in HOST:
            check_arrays(name, args)
        if name in SYNCHRONISING or (name == "where" and len(args) == 1):
            synchronised(name)
        inputs = [unwrap(value, name) for value in args]
        options = {key: unwrap(value, name) for key, value in kwargs.items()}
        if name == "matmul":
            check_matmul_out(kwargs.get("out"))
        with quietly():
            result = function(*inputs, **options)
        if name in HOST:
            return result
        out = args[2] if name == "dot" and len(args) > 2 else kwargs.get("out")
        if out is not None:
            launched(name)
            return out
        launched_unless_view(name, result, [*inputs, *options.values()])
        return wrap(result, name, *inputs, *options.values())

    call.__name__ = name
    return call


def check_arrays(name: str, args: tuple[Any, ...]) -> None:
    """Raise TypeError where CuPy's function needs a device array and is given something else."""
    if name in NO_ARRAY:
        wrong = [a for a in args if isinstance(a, StrictArray) and not (name == "full" and a.ndim == 0)]
        if wrong:
            raise TypeError(f"cupy.{name}: a device array as a size would make the host wait")
        return
    needed = args[:2] if name in TWO_ARRAYS else args[:1]
    if name in SEQUENCE:
        needed = tuple(args[0])
    elif name in EVERY_ARRAY:
        needed = args
    elif name == "einsum":
        needed = args[1:]
    for value in needed:
        if not isinstance(value, StrictArray):
            raise TypeError(f"cupy.{name} needs a device array, got {type(value)}")
    if name in POSITIONS and len(args) > 1:
        check_positions(f"cupy.{name}", args[1])
    if name == "split" and any(isinstance(a, StrictArray) for a in args[1:]):
        raise TypeError("cupy.split: sections on the device would make the host wait")


def check_matmul_out(out: StrictArray | None) -> None:
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("cupy.matmul needs an output that is C-contiguous")


xp = StrictNamespace("strict", np)
