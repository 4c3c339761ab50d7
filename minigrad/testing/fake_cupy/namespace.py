"""NumPy's functions on device arrays: those that CuPy has, with CuPy's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from minigrad.testing.fake_cupy.arguments import (
    bind,
    by_name,
    check_is_array,
    check_kinds,
    check_options,
    check_positions,
)
from minigrad.testing.fake_cupy.counting import launched, synchronised
from minigrad.testing.fake_cupy.device_array import (
    SCALARS,
    Host,
    StrictArray,
    check_cast,
    check_dtype,
    check_no_repeat,
    host_of,
    launched_unless_view,
    quietly,
    unwrap,
    wrap,
)
from minigrad.testing.fake_cupy.names import NAMES, signature
from minigrad.testing.fake_cupy.ufuncs import StrictUfunc

# Functions that answer a question about arrays without looking into them.
HOST = frozenset(
    "result_type can_cast promote_types min_scalar_type common_type broadcast_shapes ndim shape size isdtype "
    "isscalar iscomplexobj isrealobj issubdtype may_share_memory shares_memory".split()
)
# What must be a device array: by default the first argument.
NO_ARRAY = frozenset(
    "zeros ones empty full arange linspace logspace eye identity tri indices tril_indices triu_indices diag_indices "
    "bartlett blackman hamming hanning kaiser".split()
)
EVERY_ARRAY = frozenset("broadcast_arrays meshgrid ix_".split())
TWO_ARRAYS = frozenset(
    "matmul dot inner outer vdot tensordot kron cross take_along_axis array_equal searchsorted isin choose digitize "
    "convolve correlate place extract compress linalg.solve linalg.lstsq linalg.tensorsolve".split()
)
SYNCHRONISING = frozenset(
    "nonzero flatnonzero argwhere unique unique_all unique_counts unique_inverse unique_values extract compress place "
    "choose union1d setdiff1d intersect1d setxor1d trim_zeros bincount histogram histogram2d histogramdd nanmax nanmin "
    "unravel_index asarray_chkfinite real_if_close".split()
)
# What CuPy has too, but what calls back with arrays, reads files, or makes arrays of NumPy here.
NOT_OFFERED = frozenset(
    "apply_along_axis apply_over_axes fromfunction piecewise vectorize mask_indices fromiter frombuffer fromfile "
    "fromstring from_dlpack load loadtxt genfromtxt save savez savez_compressed savetxt c_ r_ mgrid ogrid poly1d "
    "broadcast flatiter ndindex".split()
)
ACCEPTED = (list, tuple, range, np.ndarray, *SCALARS)  # what device arrays are made of
PAD = frozenset("stat_length constant_values end_values reflect_type".split())
EINSUM = frozenset("dtype optimize".split())


class StrictNamespace:
    """The namespace of device arrays: the names that both CuPy and NumPy have, and CuPy's ways to cross between them.

    `asnumpy` and `get_array_module` are CuPy's own. Raises AttributeError for what CuPy lacks, and for what cannot be
    the same in both: random numbers, files, kernels, Fourier transforms.

    >>> from minigrad.testing import fake_cupy
    >>> fake_cupy.xp.tanh(fake_cupy.xp.zeros(2))
    Strictarray([0., 0.])
    >>> fake_cupy.xp.geomspace(1, 2)
    Traceback (most recent call last):
    ...
    AttributeError: CuPy has no geomspace
    """

    ndarray = StrictArray

    def __init__(self, name: str, numpy: ModuleType, prefix: str = ""):
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
        if full in ("array", "asarray", "asanyarray"):
            return _creator(full)
        if full in ("asnumpy", "get_array_module"):
            return {"asnumpy": asnumpy, "get_array_module": self._array_module}[full]
        if full == "linalg":
            return StrictNamespace(f"{self.__name__}.linalg", np.linalg, "linalg.")
        if full == "ufunc":
            return StrictUfunc
        if not hasattr(self._numpy, name) or full in NAMES["module"]:
            raise AttributeError(f"CuPy has {full}, but only what NumPy has too can run on both")
        if full in NOT_OFFERED:
            raise AttributeError(f"CuPy has {full}, but its fake does not offer it")
        item = getattr(self._numpy, name)
        if full in NAMES["ufunc"]:
            return StrictUfunc(full, item)
        if full in NAMES["function"]:
            return _function(full, item)
        return item  # a dtype, a constant

    def _array_module(self, *args: Any) -> Any:
        """Return this namespace if one of the arguments is a device array, else NumPy."""
        return self if any(isinstance(value, StrictArray) for value in args) else np

    def __repr__(self) -> str:
        return f"<namespace {self.__name__}>"


def asnumpy(array: StrictArray) -> Host:
    """Return a copy in the host's memory."""
    check_is_array("asnumpy", array)
    return array.get()


# ---- from the host to the device -------------------------------------------------------------------------------------


def _creator(name: str) -> Callable[..., StrictArray]:
    """Return `array` or `asarray`: the explicit ways by which data of the host gets to the device."""
    expected = signature(NAMES["function"][name])
    copies = name == "array"

    def create(data: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> StrictArray:
        options = bind(name, expected, (data, dtype, *args), kwargs).arguments
        copy, order, ndmin = options.get("copy"), options.get("order"), options.get("ndmin") or 0
        shared = isinstance(data, StrictArray) and not (copies if copy is None else copy)
        host = _to_data(data)
        if dtype is not None:
            check_dtype(dtype)
            check_cast(host, dtype)
        result = host.astype(host.dtype if dtype is None else dtype, order=order or "K", copy=not shared)
        if isinstance(data, StrictArray) and result is not host:
            launched(name)
        if result is host and result.ndim >= ndmin and isinstance(data, StrictArray):
            return data
        return StrictArray(result.reshape((1,) * (ndmin - result.ndim) + result.shape))

    create.__name__ = name
    return create


def _to_data(data: Any) -> Host:
    """Return numbers, an array, or nested lists of them, device arrays included, as NumPy reads them."""
    if isinstance(data, StrictArray):
        return host_of(data)
    if not isinstance(data, ACCEPTED):
        raise TypeError(f"cannot make a device array of {type(data)}; needed numbers, lists of them or an array")
    if isinstance(data, (list, tuple)) and _holds_device_arrays(data):
        data = [_to_data(item) for item in data]
    result: Host = np.asarray(data)
    check_dtype(result.dtype)
    return result


def _holds_device_arrays(data: Any) -> bool:
    if isinstance(data, (list, tuple)):
        return any(map(_holds_device_arrays, data))
    return isinstance(data, StrictArray)


# ---- functions -------------------------------------------------------------------------------------------------------


def _function(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of NumPy's for device arrays, which takes what CuPy's function takes."""
    expected = signature(NAMES["function"][name])

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = bind(name, expected, args, kwargs)
        if name not in HOST or name == "size":
            given = list(by_name(bound))
            _check_arrays(name, [value for _, value in given])
            check_kinds(name, given)
            _check_defined(name, bound)
        if _waits(name, bound.arguments):
            synchronised(name)
        inputs = [unwrap(value, name) for value in args]
        options = {key: unwrap(value, name) for key, value in kwargs.items()}
        with quietly():
            result = function(*inputs, **options)
        if name in HOST:
            return result
        out = bound.arguments.get("out")
        if out is not None:
            launched(name)
            return out
        launched_unless_view(name, result, [*inputs, *options.values()])
        return wrap(result, name, *inputs, *options.values())

    call.__name__ = name
    return call


def _waits(name: str, arguments: dict[str, Any]) -> bool:
    """Whether the host waits for the device, because a shape or a decision depends on values."""
    if name == "where":
        return "x" not in arguments
    if name == "average":
        return arguments.get("weights") is not None
    if name == "repeat":
        return isinstance(arguments["repeats"], StrictArray)
    return name in SYNCHRONISING


def _check_arrays(name: str, values: list[Any]) -> None:
    """Raise TypeError where CuPy's function needs a device array and is given something else."""
    if name in NO_ARRAY:
        if any(isinstance(a, StrictArray) and not (name == "full" and a.ndim == 0) for a in values):
            raise TypeError(f"cupy.{name}: a device array as a size would make the host wait; keep sizes on the host")
        return
    needed = values[:2] if name in TWO_ARRAYS else values[:1]
    if needed and isinstance(needed[0], (list, tuple)):
        needed = needed[1:]  # a sequence of arrays, where the function takes one: arguments.check_kinds looks into it
    if name in EVERY_ARRAY:
        needed = values
    elif name == "einsum":
        needed = [value for value in values[1:] if not isinstance(value, (str, bool))]
    for value in needed:
        check_is_array(name, value)


def _check_defined(name: str, bound: inspect.BoundArguments) -> None:
    """Raise for what a function refuses by itself, or for which CuPy's result is undefined or NumPy's another."""
    arguments = bound.arguments
    if arguments.get("dtype") is not None:
        check_dtype(arguments["dtype"])
    if name == "matmul":
        _check_matmul(bound)
    elif name == "take":
        check_positions("take", arguments["indices"])
    elif name == "astype":
        check_cast(host_of(arguments["x"]), arguments["dtype"])
    elif name in ("put", "put_along_axis"):
        _check_put(name, arguments)
    elif name == "copyto" and isinstance(arguments["src"], StrictArray):
        check_cast(host_of(arguments["src"]), arguments["dst"].dtype)
    elif name in ("pad", "einsum"):
        check_options(name, arguments.get("kwargs", {}), PAD if name == "pad" else EINSUM)


def _check_put(name: str, arguments: dict[str, Any]) -> None:
    """Raise for values that `put` and `put_along_axis` would store in one place."""
    array, indices, values, *_ = arguments.values()
    check_is_array(name, indices)
    if isinstance(values, StrictArray) and values.size > 1:
        places = np.arange(array.size).reshape(array.shape)
        at = host_of(indices)
        check_no_repeat(places.ravel()[at] if name == "put" else np.take_along_axis(places, at, arguments["axis"]))


def _check_matmul(bound: inspect.BoundArguments) -> None:
    out = bound.arguments.get("out")
    if len(bound.args) != 2:
        raise TypeError(f"cupy.matmul takes two arrays, and out= by name; got {len(bound.args)} arguments")
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("cupy.matmul needs an output that is C-contiguous")


xp = StrictNamespace("strict", np)
