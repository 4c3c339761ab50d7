"""An array that behaves as CuPy's does wherever CuPy's differs from NumPy's.

It wraps a NumPy array and is none itself: a subclass would let through everything that must be refused.
Where CuPy is lenient or undefined, it raises, so that what passes here passes on CuPy:

* no implicit conversion to NumPy: `np.asarray(a)`, `np.tanh(a)`, `np.sum(a)` raise;
* arrays of NumPy do not mix with it, neither as operands, nor as indices, nor as values to store;
* lists are no arrays: not as operands (CuPy raises), not as indices (CuPy copies them to the device);
* reductions and full indexing return arrays of no dimensions, never scalars;
* an index out of range raises (CuPy wraps it around); so does storing two values in one place (undefined);
* there is no read-only flag, no `__index__`, no `@=`;
* what is not elementwise returns its result in an order of memory that nobody would guess;
* every wait of the host for the device is counted, and so is everything that the device is asked to compute.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np

from strict.names import NAMES, signature

SCALARS = (bool, int, float, complex, np.generic)
PLAIN = (*SCALARS, str, np.dtype, type, slice, range, type(...))  # what functions may be given beside arrays


# Counting how often the host waits for the device

_logs: ContextVar[tuple[list[str], ...]] = ContextVar("strict_sync_logs", default=())


@contextmanager
def count_syncs() -> Iterator[list[str]]:
    """Collect, in the list that the block is given, what made the host wait for the device."""
    log: list[str] = []
    _logs.set((*_logs.get(), log))
    try:
        yield log
    finally:
        _logs.set(_logs.get()[:-1])


@contextmanager
def expect_syncs(count: int) -> Iterator[None]:
    """Assert that in the block the host waits for the device `count` times."""
    with count_syncs() as log:
        yield
    assert len(log) == count, f"expected {count} synchronisations, got {len(log)}: {', '.join(log)}"


def synchronised(by: str) -> None:
    for log in _logs.get():
        log.append(by)


# Counting what the device is asked to compute

_launches: ContextVar[tuple[list[str], ...]] = ContextVar("strict_launch_logs", default=())
NO_LAUNCH = frozenset("empty empty_like".split())


@contextmanager
def count_launches() -> Iterator[list[str]]:
    """Collect, in the list that the block is given, the calls that CuPy would launch a kernel for, or several.

    Each ufunc, operator, product, reduction, copy on the device, fill and index by an array is one; views of an array,
    new arrays without values and copies from the host or to it are none.
    """
    log: list[str] = []
    _launches.set((*_launches.get(), log))
    try:
        yield log
    finally:
        _launches.set(_launches.get()[:-1])


def launched(by: str) -> None:
    for log in _launches.get():
        log.append(by)


def launched_unless_view(by: str, result: Any, inputs: Any) -> None:
    """Count a call as a launch, unless all that it returns are views of arrays that it was given."""
    found = list(arrays_in(result if isinstance(result, (tuple, list)) else [result]))
    given = list(arrays_in(inputs))
    views = bool(found) and all(a.size == 0 or any(np.may_share_memory(a, b) for b in given) for a in found)
    if not views and by not in NO_LAUNCH:
        launched(by)


# The order of memory of results

_seed: ContextVar[int] = ContextVar("strict_memory_order", default=0)

# Functions and methods whose results lie in memory as CuPy promises: row by row, or as their operand does.
ORDERED = frozenset(
    "array asarray asanyarray ascontiguousarray asfortranarray copy astype reshape ravel flatten view "
    "zeros ones empty full zeros_like ones_like empty_like full_like arange linspace eye identity "
    "where clip round around conj conjugate real imag nan_to_num isclose".split()
)


@contextmanager
def memory_order(seed: int) -> Iterator[None]:
    """Lay results out in other orders of memory in this block, the same ones for the same seed."""
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def disordered(data: np.ndarray, name: str) -> np.ndarray:
    """Copy `data` into an order of axes that depends on the seed, the function and the shape only."""
    if data.ndim < 2 or data.size < 2:
        return data
    orders = list(permutations(range(data.ndim))) if data.ndim <= 4 else [range(data.ndim)[::-1]]
    order = orders[zlib.crc32(f"{_seed.get()} {name} {data.shape}".encode()) % len(orders)]
    memory = np.empty([data.shape[axis] for axis in order], data.dtype)
    result = memory.transpose(np.argsort(order))
    result[...] = data
    return result


# Into the wrapper and out of it


def unwrap(value: Any, caller: str) -> Any:
    """Return what NumPy needs for `value`; raise TypeError for what CuPy would not take."""
    if type(value) is StrictArray:
        return value._data
    if type(value) in (list, tuple):
        return type(value)(unwrap(item, caller) for item in value)
    if isinstance(value, np.ndarray):
        raise TypeError(f"{caller}: Unsupported type {type(value)}: an array of NumPy among device arrays")
    if value is None or isinstance(value, PLAIN):
        return value
    raise TypeError(f"{caller}: Unsupported type {type(value)}")


def wrap(result: Any, name: str, *inputs: Any) -> Any:
    """Return device arrays for a result's arrays and scalars; what shares memory with an input is a view."""
    if isinstance(result, (tuple, list)):
        return type(result)(wrap(item, name, *inputs) for item in result)
    if isinstance(result, (bool, int, float, complex, np.generic)):
        return StrictArray(np.asarray(result))
    if isinstance(result, np.ndarray):
        fresh = not any(np.may_share_memory(result, array) for array in arrays_in(inputs))
        return StrictArray(disordered(result, name) if fresh and name not in ORDERED else result)
    return result


def arrays_in(values: Any) -> Iterator[np.ndarray]:
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from arrays_in(value)


def quietly() -> np.errstate:
    """Return a context without floating-point warnings: a GPU gives none."""
    return np.errstate(all="ignore")


def check_index(index: Any) -> Any:
    """Return the index for NumPy; raise for what CuPy refuses, or would copy to the device."""
    return tuple(map(check_index_part, index if isinstance(index, tuple) else (index,)))


def check_index_part(part: Any) -> Any:
    if type(part) is StrictArray:
        kind = part.dtype.kind
        if kind == "b":
            synchronised("indexing by a boolean array")  # the result's shape must be known to the host
        elif kind not in "iu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type, got {part.dtype}")
        return part._data
    if isinstance(part, slice):
        for bound in (part.start, part.stop, part.step):
            if bound is not None and not isinstance(bound, (int, np.integer)):
                raise TypeError(f"slice bounds must be integers of the host, got {type(bound)}")
        return part
    if part is None or part is ... or (isinstance(part, (int, np.integer)) and not isinstance(part, bool)):
        return part
    raise TypeError(f"device arrays are indexed by integers, slices and device arrays, got {type(part)}")


def check_no_repeat(shape: tuple[int, ...], index: tuple[Any, ...]) -> None:
    """Raise IndexError if the index names one place twice: what is stored there is undefined in CuPy."""
    if any(isinstance(part, np.ndarray) for part in index):
        places = np.arange(np.prod(shape, dtype=int)).reshape(shape)[index]
        if np.unique(places).size != places.size:
            raise IndexError("an index repeats: which value is stored is undefined in CuPy; use scatter_add")


class Flags:
    """The flags that CuPy's arrays have: nothing about writing."""

    def __init__(self, data: np.ndarray):
        self.c_contiguous = data.flags.c_contiguous
        self.f_contiguous = data.flags.f_contiguous
        self.owndata = data.flags.owndata
        self.forc = data.flags.forc
        self.fnc = data.flags.fnc

    def __getitem__(self, name: str) -> bool:
        return getattr(self, {"C_CONTIGUOUS": "c_contiguous", "F_CONTIGUOUS": "f_contiguous"}[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("c_contiguous", "f_contiguous", "owndata", "forc", "fnc") or name in self.__dict__:
            raise AttributeError(f"the flag {name} of a device array cannot be set")
        super().__setattr__(name, value)


class StrictArray:
    """A device array. Made by the backend's `asarray`; nobody else may see the NumPy array within."""

    __slots__ = ("__weakref__", "_data")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, data: np.ndarray):
        assert type(data) is np.ndarray
        self._data = data

    # NumPy must not take it for one of its own

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use the backend's to_host, explicitly.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(dispatches(value, "__array_ufunc__") for value in inputs):
            return NotImplemented  # a Tensor, which knows what to do
        if method == "__call__" and not kwargs and isinstance(inputs[0], np.generic):
            launched(ufunc.__name__)
            with quietly():  # np.float32(2) + a, which Python asks NumPy first
                return wrap(ufunc(*(unwrap(value, ufunc.__name__) for value in inputs)), "elementwise")
        raise TypeError(f"np.{ufunc.__name__} was called with a device array; use the array's own namespace")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if any(dispatches_type(cls, "__array_function__") for cls in types):
            return NotImplemented
        raise TypeError(f"np.{func.__name__} was called with a device array; use the array's own namespace")

    # what the host knows without asking the device

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    itemsize = property(lambda self: self._data.itemsize)
    nbytes = property(lambda self: self._data.nbytes)
    strides = property(lambda self: self._data.strides)
    flags = property(lambda self: Flags(self._data))
    device = property(lambda self: SimpleNamespace(id=0))
    T = property(lambda self: StrictArray(self._data.T))
    mT = property(lambda self: StrictArray(self._data.mT))  # noqa: N815  (NumPy's name)
    real = property(lambda self: StrictArray(self._data.real))
    imag = property(lambda self: StrictArray(self._data.imag))

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[StrictArray]:
        return iter([self[i] for i in range(len(self))])

    # what makes the host wait

    def __bool__(self) -> bool:
        synchronised("bool()")
        return bool(self._data)

    def __int__(self) -> int:
        synchronised("int()")
        return int(self._data)

    def __float__(self) -> float:
        synchronised("float()")
        return float(self._data)

    def __complex__(self) -> complex:
        synchronised("complex()")
        return complex(self._data)

    def __repr__(self) -> str:
        synchronised("repr()")
        return f"Strict{self._data!r}"

    def __format__(self, form: str) -> str:
        synchronised("format()")
        return format(self._data if self.ndim else self._data[()], form)

    def __reduce__(self) -> Any:
        synchronised("pickle")
        return StrictArray, (self._data.copy(),)

    def __deepcopy__(self, memo: Any) -> StrictArray:
        launched("copy")
        return StrictArray(self._data.copy())

    def get(self) -> np.ndarray:
        """Return a copy in the host's memory."""
        synchronised("get()")
        return self._data.copy()

    def set(self, array: np.ndarray) -> None:
        """Copy an array of the host, of the same shape and dtype, into this one."""
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        self._data[...] = array

    # indexing

    def __getitem__(self, index: Any) -> StrictArray:
        index = check_index(index)
        if not any(part is ... for part in index):
            index = (*index, ...)  # then NumPy returns an array even where all axes are gone
        result = self._data[index]
        launched_unless_view("getitem", result, [self._data])
        return wrap(result, "getitem", self._data)

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, (StrictArray, *SCALARS)):
            raise TypeError(f"device arrays hold scalars and other device arrays, got {type(value)}")
        index = check_index(index)
        if isinstance(value, StrictArray) and value.size > 1:
            check_no_repeat(self.shape, index)
        launched("setitem")
        with quietly():
            self._data[index] = unwrap(value, "setitem")


def dispatches(value: Any, protocol: str) -> bool:
    return dispatches_type(type(value), protocol)


def dispatches_type(cls: type, protocol: str) -> bool:
    """Return whether a class of another library takes part in one of NumPy's protocols."""
    own = issubclass(cls, (StrictArray, np.ndarray, np.generic))
    return not own and getattr(cls, protocol, None) is not None


# Operators


def operand(other: Any, ufunc: np.ufunc) -> Any:
    """Return the other operand for NumPy, or NotImplemented where its class must be asked."""
    if isinstance(other, (StrictArray, *SCALARS)):
        return unwrap(other, ufunc.__name__)
    if getattr(type(other), "__array_ufunc__", 0) is None or getattr(other, "__array_priority__", 0) > 100:
        return NotImplemented
    raise TypeError(f"{ufunc.__name__}: Unsupported type {type(other)}")


def binary(ufunc: np.ufunc) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return the methods `a + b`, `b + a` and `a += b` of one ufunc."""
    name = "matmul" if ufunc is np.matmul else "elementwise"

    def forward(self: StrictArray, other: Any) -> Any:
        if dispatches(other, "__array_ufunc__"):
            return type(other).__array_ufunc__(other, ufunc, "__call__", self, other)
        value = operand(other, ufunc)
        return NotImplemented if value is NotImplemented else compute(self._data, value)

    def reflected(self: StrictArray, other: Any) -> Any:
        value = operand(other, ufunc)
        return NotImplemented if value is NotImplemented else compute(value, self._data)

    def in_place(self: StrictArray, other: Any) -> Any:
        value = operand(other, ufunc)
        if value is NotImplemented:
            return NotImplemented
        launched(ufunc.__name__)
        with quietly():
            ufunc(self._data, value, out=self._data)
        return self

    def compute(x: Any, y: Any) -> Any:
        if ufunc is np.matmul and not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
            raise TypeError("matmul takes two device arrays, not a scalar")
        launched(ufunc.__name__)
        with quietly():
            result = ufunc(x, y)
        if name == "elementwise":
            return wrap_elementwise(result)
        return wrap(result, name)

    return forward, reflected, in_place


def wrap_elementwise(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(wrap_elementwise, result))
    return StrictArray(np.asarray(result))


def unary(ufunc: np.ufunc) -> Callable[[StrictArray], StrictArray]:
    def method(self: StrictArray) -> StrictArray:
        launched(ufunc.__name__)
        with quietly():
            return wrap_elementwise(ufunc(self._data))

    return method


for symbol, ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "divmod": np.divmod, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}.items():  # fmt: skip
    forward, reflected, in_place = binary(ufunc)
    setattr(StrictArray, f"__{symbol}__", forward)
    setattr(StrictArray, f"__r{symbol}__", reflected)
    if symbol not in ("matmul", "divmod"):
        setattr(StrictArray, f"__i{symbol}__", in_place)
for symbol, ufunc in {
    "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}.items():  # fmt: skip
    setattr(StrictArray, f"__{symbol}__", binary(ufunc)[0])
for symbol, ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.abs, "invert": np.invert}.items():
    setattr(StrictArray, f"__{symbol}__", unary(ufunc))


# Methods: those of NumPy's that CuPy has, with CuPy's arguments

HOST_RESULT = frozenset("item tolist tobytes".split())
SYNCHRONISING = frozenset("item tolist tobytes nonzero compress".split())
NOT_OFFERED = frozenset("dump dumps tofile put choose byteswap partition sort fill searchsorted".split())


def method(name: str, arguments: str) -> Callable[..., Any]:
    expected = signature(arguments)
    function = getattr(np.ndarray, name)

    def call(self: StrictArray, *args: Any, **kwargs: Any) -> Any:
        check_arguments(f"ndarray.{name}", expected, args, kwargs)
        if name in SYNCHRONISING:
            synchronised(f"{name}()")
        if name in ("take", "repeat"):
            check_positions(f"ndarray.{name}", args[0] if args else next(iter(kwargs.values())))
        out = kwargs.get("out")
        inputs = [unwrap(value, name) for value in args]
        with quietly():
            options = {key: unwrap(value, name) for key, value in kwargs.items()}
            result = function(self._data, *inputs, **options)
        if name in HOST_RESULT:
            return result
        if out is not None:
            launched(name)
            return out
        launched_unless_view(name, result, [self._data])
        return wrap(result, name, self._data, *inputs)

    call.__name__ = name
    return call


def check_arguments(caller: str, expected: inspect.Signature, args: Any, kwargs: Any) -> None:
    try:
        expected.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"cupy.{caller}{expected}: {error}") from None
    out = kwargs.get("out")
    if out is not None and not isinstance(out, StrictArray):
        raise TypeError(f"{caller}: out must be a device array, got {type(out)}")


def check_positions(caller: str, positions: Any) -> None:
    if not isinstance(positions, (StrictArray, int, np.integer)):
        raise TypeError(f"{caller}: positions must be an integer or a device array, got {type(positions)}")


def fill(self: StrictArray, value: Any) -> None:
    """Set every element to a scalar, or to an array of no dimensions."""
    self[...] = value


for name, arguments in NAMES["method"].items():
    if hasattr(np.ndarray, name) and name not in NOT_OFFERED and not hasattr(StrictArray, name):
        setattr(StrictArray, name, method(name, arguments))
StrictArray.fill = fill
