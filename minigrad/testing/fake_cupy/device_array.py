"""An array that behaves as CuPy's does wherever CuPy's differs from NumPy's.

It wraps a NumPy array and is none itself: a subclass would let through everything that must be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.testing.fake_cupy.counting import launched, synchronised
from minigrad.testing.fake_cupy.memory import ORDERED, disordered
from minigrad.testing.fake_cupy.names import DTYPES

Host = np.ndarray[Any, Any]  # an array in the host's memory
Operator = Callable[..., Any]

SCALARS = (bool, int, float, complex, np.generic)
PLAIN = (*SCALARS, str, np.dtype, type, slice, range, type(...))  # what functions may be given beside arrays
NO_LAUNCH = frozenset("empty empty_like".split())
ADVICE = "copy it to the device first, with xp.asarray"


# ---- into the wrapper and out of it ----------------------------------------------------------------------------------


def host_of(array: StrictArray) -> Host:
    """The NumPy array within: for this package, and for nobody else."""
    return array._data  # noqa: SLF001  # the one place that looks inside


def is_lone(value: Any) -> bool:
    """Whether a value is a device array or a scalar, which is all that operators take."""
    return isinstance(value, (StrictArray, *SCALARS))


def unwrap(value: Any, caller: str) -> Any:
    """Return what NumPy needs for `value`; raise TypeError for what CuPy would not take."""
    if type(value) is StrictArray:
        return host_of(value)
    if type(value) in (list, tuple):
        return type(value)(unwrap(item, caller) for item in value)
    if isinstance(value, np.ndarray):
        raise TypeError(f"{caller}: Unsupported type {type(value)}: an array of NumPy among device arrays; {ADVICE}")
    if value is None or isinstance(value, PLAIN):
        return value
    raise TypeError(f"{caller}: Unsupported type {type(value)}; needed a device array, or what describes a call")


def wrap(result: Any, name: str, *inputs: Any) -> Any:
    """Return device arrays for a result's arrays and scalars; what shares memory with an input is a view."""
    if isinstance(result, (tuple, list)):
        items = [wrap(item, name, *inputs) for item in result]
        return items if isinstance(result, list) else tuple(items)  # NumPy's named tuples are plain ones in CuPy
    if isinstance(result, SCALARS):
        return StrictArray(np.asarray(result))
    if isinstance(result, np.ndarray):
        fresh = not any(np.may_share_memory(result, array) for array in arrays_in(inputs))
        return StrictArray(disordered(result, name) if fresh and name not in ORDERED else result)
    return result


def wrap_elementwise(result: Any) -> Any:
    """Return device arrays for the result or the results of a ufunc, laid out as its operands are."""
    if isinstance(result, tuple):
        return tuple(map(wrap_elementwise, result))
    return StrictArray(np.asarray(result))


def arrays_in(values: Any) -> Iterator[Host]:
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from arrays_in(value)


def launched_unless_view(by: str, result: Any, inputs: Any) -> None:
    """Count a call as a launch, unless all that it returns are views of arrays that it was given."""
    found = list(arrays_in(result if isinstance(result, (tuple, list)) else [result]))
    given = list(arrays_in(inputs))
    views = bool(found) and all(a.size == 0 or any(np.may_share_memory(a, b) for b in given) for a in found)
    if not views and by not in NO_LAUNCH:
        launched(by)


def quietly() -> np.errstate:
    """Return a context without floating-point warnings: a GPU gives none."""
    return np.errstate(all="ignore")


def check_dtype(dtype: Any) -> None:
    """Raise ValueError for a dtype that a GPU does not have."""
    dtype = np.dtype(dtype)
    if dtype.char not in DTYPES or not dtype.isnative:
        raise ValueError(
            f"Unsupported dtype {dtype}: a device array holds booleans, integers, floats of 16 to 64 bits or complex "
            "numbers of two such, in the machine's byte order"
        )


def check_cast(data: Host, dtype: Any) -> None:
    """Raise ValueError for a float that an integer dtype cannot hold: NumPy and CuPy make different integers of it."""
    dtype = np.dtype(dtype)
    if data.dtype.kind != "f" or dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    whole = np.trunc(data.astype(np.float64, copy=False))
    if not ((whole >= float(limits.min)) & (whole < float(limits.max + 1))).all():
        raise ValueError(
            f"a cast of {data.dtype} to {dtype} meets a NaN, or a number beyond {limits.min} and {limits.max}: the "
            "result is undefined, and differs between NumPy and CuPy; replace such numbers before the cast"
        )


# ---- indices ---------------------------------------------------------------------------------------------------------


def check_index(index: Any) -> Any:
    """Return the index for NumPy; raise for what CuPy refuses, or would copy to the device."""
    return tuple(map(_check_index_part, index if isinstance(index, tuple) else (index,)))


def _check_index_part(part: Any) -> Any:
    if type(part) is StrictArray:
        kind = part.dtype.kind
        if kind == "b":
            synchronised("indexing by a boolean array")  # the result's shape must be known to the host
        elif kind not in "iu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type, got {part.dtype}")
        return host_of(part)
    if isinstance(part, slice):
        for bound in (part.start, part.stop, part.step):
            if bound is not None and not isinstance(bound, (int, np.integer)):
                raise TypeError(f"slice bounds must be integers of the host, got {type(bound)}")
        return part
    if part is None or part is ... or (isinstance(part, (int, np.integer)) and not isinstance(part, bool)):
        return part
    raise TypeError(f"device arrays are indexed by integers, slices and device arrays, got {type(part)}; {ADVICE}")


def check_no_repeat(places: Host) -> None:
    """Raise IndexError if two places in memory are the same: which value is stored there is undefined in CuPy."""
    if np.unique(places).size != places.size:
        raise IndexError(
            "an index repeats: which value is stored is undefined in CuPy; use xp.add.at, which adds them up, or an "
            "index that names each place once"
        )


def check_no_overlap(target: Host, source: Host) -> None:
    """Raise ValueError where CuPy copies memory as it is although the two places overlap: the result is undefined."""
    if not np.may_share_memory(target, source):
        return
    same_layout = (target.shape, target.strides, target.dtype) == (source.shape, source.strides, source.dtype)
    if same_layout and target.flags.c_contiguous and target.ctypes.data != source.ctypes.data:
        raise ValueError(
            "an array is copied onto a place that it overlaps, which is undefined in CuPy; copy it first: "
            "a[1:] = a[:-1].copy()"
        )


class Flags:
    """The flags that CuPy's arrays have: nothing about writing."""

    __slots__ = ("c_contiguous", "f_contiguous", "fnc", "forc", "owndata")
    c_contiguous: bool
    f_contiguous: bool
    fnc: bool
    forc: bool
    owndata: bool

    def __init__(self, data: Host):
        for name in self.__slots__:
            object.__setattr__(self, name, getattr(data.flags, name))

    def __getitem__(self, name: str) -> bool:
        found: bool = getattr(self, {"C_CONTIGUOUS": "c_contiguous", "F_CONTIGUOUS": "f_contiguous"}[name])
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the flag {name} of a device array cannot be set")


# ---- operators -------------------------------------------------------------------------------------------------------


def _binary(ufunc: np.ufunc) -> tuple[Operator, Operator, Operator]:
    """Return the methods `a + b`, `b + a` and `a += b` of one ufunc."""

    def forward(self: StrictArray, other: Any) -> Any:
        if dispatches(type(other), "__array_ufunc__"):
            return type(other).__array_ufunc__(other, ufunc, "__call__", self, other)
        value = _operand(other, ufunc)
        return NotImplemented if value is NotImplemented else _compute(ufunc, host_of(self), value)

    def reflected(self: StrictArray, other: Any) -> Any:
        value = _operand(other, ufunc)
        return NotImplemented if value is NotImplemented else _compute(ufunc, value, host_of(self))

    def in_place(self: StrictArray, other: Any) -> Any:
        value = _operand(other, ufunc)
        if value is NotImplemented:
            return NotImplemented
        launched(ufunc.__name__)
        with quietly():
            ufunc(host_of(self), value, out=host_of(self))
        return self

    return forward, reflected, in_place


def _operand(other: Any, ufunc: np.ufunc) -> Any:
    """Return the other operand for NumPy, or NotImplemented where its class must be asked."""
    if is_lone(other):
        return unwrap(other, ufunc.__name__)
    if getattr(type(other), "__array_ufunc__", 0) is None or getattr(other, "__array_priority__", 0) > 100:
        return NotImplemented
    raise TypeError(f"{ufunc.__name__}: Unsupported type {type(other)}; needed a device array or a scalar: {ADVICE}")


def _compute(ufunc: np.ufunc, x: Any, y: Any) -> Any:
    if ufunc is np.matmul and not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
        raise TypeError("matmul takes two device arrays, not a scalar; multiply with *")
    launched(ufunc.__name__)
    with quietly():
        result = ufunc(x, y)
    return wrap(result, "matmul") if ufunc is np.matmul else wrap_elementwise(result)


def _unary(ufunc: np.ufunc) -> Operator:
    def method(self: StrictArray) -> Any:
        launched(ufunc.__name__)
        with quietly():
            return wrap_elementwise(ufunc(host_of(self)))

    return method


def dispatches(cls: type, protocol: str) -> bool:
    """Return whether a class of another library takes part in one of NumPy's protocols."""
    own = issubclass(cls, (StrictArray, np.ndarray, np.generic))
    return not own and getattr(cls, protocol, None) is not None


# ---- the array -------------------------------------------------------------------------------------------------------


class StrictArray:
    """A device array, made by `xp.asarray` and its like. Its methods and attributes are those that CuPy and NumPy share.

    No function of NumPy's takes it, and no array of NumPy mixes with it: TypeError. `repr` shows it as NumPy would.

    >>> from minigrad.testing import fake_cupy
    >>> x = fake_cupy.xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    >>> (x @ x.T).sum(axis=0)
    Strictarray([16., 36.])
    >>> import numpy as np
    >>> x + np.ones(2)
    Traceback (most recent call last):
    ...
    TypeError: add: Unsupported type <class 'numpy.ndarray'>; needed a device array or a scalar: copy it to the device first, with xp.asarray
    """  # noqa: E501  # an error stands on one line

    __slots__ = ("__weakref__", "_data")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]  # as CuPy's

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The methods that `methods` adds: those which CuPy and NumPy share."""

    def __init__(self, data: Host):
        if type(data) is not np.ndarray:
            raise TypeError(f"a StrictArray wraps a plain array of NumPy, got {type(data)}; make it with xp.asarray")
        if data.dtype.char not in DTYPES or not data.dtype.isnative:
            check_dtype(data.dtype)
        self._data: Host = data

    # NumPy must not take it for one of its own

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Stay on the device, with functions of xp, or use "
            "a.get() or xp.asnumpy(a), explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(dispatches(type(value), "__array_ufunc__") for value in inputs):
            return NotImplemented  # a Tensor, which knows what to do
        if method == "__call__" and not kwargs and len(inputs) == 2 and isinstance(inputs[0], np.generic):
            return _compute(ufunc, inputs[0], host_of(self))  # np.float32(2) + a, which Python asks NumPy first
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise TypeError(f"np.{name} was called with a device array; call xp.{name} instead")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if any(dispatches(cls, "__array_function__") for cls in types):
            return NotImplemented
        name = f"{func.__module__}.{func.__name__}".removeprefix("numpy.")
        raise TypeError(f"np.{name} was called with a device array; call xp.{name} instead")

    # what the host knows without asking the device

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._data.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._data.dtype
        return dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def itemsize(self) -> int:
        return self._data.itemsize

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        return self._data.strides

    @property
    def flags(self) -> Flags:
        return Flags(self._data)

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=0)

    @property
    def T(self) -> StrictArray:  # noqa: N802  # NumPy's name
        return StrictArray(self._data.T)

    @property
    def mT(self) -> StrictArray:  # noqa: N802  # NumPy's name
        return StrictArray(self._data.mT)

    @property
    def real(self) -> StrictArray:
        return StrictArray(self._data.real)

    @property
    def imag(self) -> StrictArray:
        return StrictArray(self._data.imag)

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

    def get(self) -> Host:
        """Return a copy in the host's memory."""
        synchronised("get()")
        return self._data.copy()

    def set(self, array: Host) -> None:
        """Copy an array of the host, of the same shape and dtype, into this one."""
        if type(array) is not np.ndarray:
            raise TypeError(f"only an array of NumPy can be set to a device array, got {type(array)}")
        if array.dtype != self.dtype:
            raise TypeError(f"an array of {array.dtype} cannot be set to one of {self.dtype}; convert it first")
        if array.shape != self.shape:
            raise ValueError(f"an array of shape {array.shape} cannot be set to one of shape {self.shape}")
        self._data[...] = array

    def fill(self, value: Any) -> None:
        """Set every element to a scalar, or to an array of no dimensions."""
        if isinstance(value, StrictArray) and value.ndim:
            raise ValueError(f"fill: the value must be a scalar or have no dimensions, got shape {value.shape}")
        self[...] = value

    # indexing

    def __getitem__(self, index: Any) -> StrictArray:
        index = check_index(index)
        if not any(part is ... for part in index):
            index = (*index, ...)  # then NumPy returns an array even where all axes are gone
        result = self._data[index]
        launched_unless_view("getitem", result, [self._data])
        found: StrictArray = wrap(result, "getitem", self._data)
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        if not is_lone(value):
            raise TypeError(f"device arrays hold scalars and other device arrays, got {type(value)}; {ADVICE}")
        index = check_index(index)
        data = unwrap(value, "setitem")
        if self._data.dtype.kind in "iu":
            check_cast(np.asarray(data), self._data.dtype)
        if isinstance(value, StrictArray) and value.size > 1:
            if any(isinstance(part, np.ndarray) for part in index):
                check_no_repeat(np.arange(self.size).reshape(self.shape)[index])
            else:
                check_no_overlap(self._data[index], data)
        launched("setitem")
        with quietly():
            self._data[index] = data

    # operators

    __add__, __radd__, __iadd__ = _binary(np.add)
    __sub__, __rsub__, __isub__ = _binary(np.subtract)
    __mul__, __rmul__, __imul__ = _binary(np.multiply)
    __truediv__, __rtruediv__, __itruediv__ = _binary(np.divide)
    __floordiv__, __rfloordiv__, __ifloordiv__ = _binary(np.floor_divide)
    __mod__, __rmod__, __imod__ = _binary(np.remainder)
    __pow__, __rpow__, __ipow__ = _binary(np.power)
    __and__, __rand__, __iand__ = _binary(np.bitwise_and)
    __or__, __ror__, __ior__ = _binary(np.bitwise_or)
    __xor__, __rxor__, __ixor__ = _binary(np.bitwise_xor)
    __lshift__, __rlshift__, __ilshift__ = _binary(np.left_shift)
    __rshift__, __rrshift__, __irshift__ = _binary(np.right_shift)
    __divmod__, __rdivmod__ = _binary(np.divmod)[:2]
    __matmul__, __rmatmul__ = _binary(np.matmul)[:2]
    __eq__, __ne__ = _binary(np.equal)[0], _binary(np.not_equal)[0]
    __lt__, __le__ = _binary(np.less)[0], _binary(np.less_equal)[0]
    __gt__, __ge__ = _binary(np.greater)[0], _binary(np.greater_equal)[0]
    __neg__, __pos__, __abs__, __invert__ = map(_unary, (np.negative, np.positive, np.abs, np.invert))
