"""Symbols: arrays without values, on which a body runs once to show what it does.

A symbol knows its shape, its dtype and how it is made: by an op from other symbols. Ops that are given one ask it to
take the call (`__minigrad_op__`), so a body, its ops and their derivative rules run on symbols as they run on arrays.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from minigrad import tree
from minigrad.backend import Backend
from minigrad.ops import elementwise, indexing, linalg, reductions, shape
from minigrad.ops.op import REGISTRY, WEAK, Elementwise, Op, broadcast_batch, broadcast_rows, explained
from minigrad.tape import Array, Box, Record, constant, recorder
from minigrad.tensor import FUNCTIONS, UFUNCS, Tensor

if TYPE_CHECKING:
    from minigrad.scan.trace import Trace

current: ContextVar[Trace | None] = ContextVar("minigrad_trace", default=None)
"""The trace that is running."""


class TraceError(TypeError):
    """A body does what cannot be traced; the message names the line."""


def untraceable(what: str, instead: str = "minigrad's ops (mg.where instead of an if)") -> TraceError:
    """The error for something that a body does, with the line of the user's code that does it, and what to use."""
    return TraceError(
        f"{what} in the function of scan, at {user_line()}: its values are not known while it is traced. Use "
        f"{instead}, or pass unroll=True to run it step by step"
    )


def used_after() -> TraceError:
    """The error for a traced value that outlives its trace, with the line of the user's code that uses it."""
    return TraceError(
        f"a traced value of a function of scan is used after its trace, at {user_line()}: return it from the function "
        "as an output (has_output=True) instead of keeping it, or pass unroll=True to run the function step by step"
    )


_LIBRARIES = (  # and what older NumPys wrap their assertions in
    *[f"{Path(file).parents[up]}{os.sep}" for file, up in ((__file__, 1), (np.__file__, 0))],
    contextlib.__file__,
)


def user_line() -> str:
    """The innermost line that is running outside of minigrad, its backends and NumPy."""
    frame: Any = sys._getframe(1)  # noqa: SLF001  # there is no other cheap way to a caller's line
    while frame is not None:
        name = frame.f_code.co_filename
        backends = str(frame.f_globals.get("__name__")).startswith("minigrad_")
        users = not name.startswith((*_LIBRARIES, "<")) or name.startswith(
            ("<stdin", "<doctest", "<ipython", "<python")
        )
        if users and not backends:
            return f"{name}, line {frame.f_lineno}"
        frame = frame.f_back
    return "an unknown line"


class Kind:
    """What a symbol without op stands for."""

    rules = False

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


CARRY, ELEM, CAPTURED, CONSTANT = Kind("carry"), Kind("elem"), Kind("captured"), Kind("constant")
"""A leaf of the state; of the inputs; something from outside of the body; a number or array of a rule."""


class Slot(NamedTuple):
    """The place of an array in static arguments: it is input `place` of the node."""

    place: int


def _compared(name: str) -> Any:
    """The method of a comparison."""

    def compare(self: Symbol, other: Any) -> Any:
        return call(function(name), (self, other), {})

    return compare


def _unknown(what: str, *instead: str) -> Any:
    """A method that would have to look at the value."""

    def raises(self: Symbol, *_: Any, **__: Any) -> Any:
        raise untraceable(what, *instead)

    return raises


class Symbol:
    """An array without values: `op(*inputs, **static)` of a shape and dtype. A leaf's op is a `Kind`."""

    __slots__ = ("op", "inputs", "static", "shape", "dtype", "trace", "number", "name")
    __hash__ = object.__hash__

    def __init__(
        self,
        op: Any,
        inputs: tuple[Symbol, ...],
        static: dict[str, Any],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        trace: Any = None,
        number: int = -1,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.static = static
        self.shape = shape
        self.dtype = dtype
        self.trace = trace
        self.number = number
        self.name: str | None = None

    def __repr__(self) -> str:
        made = f" = {self.op.name}({', '.join(f'#{i.number}' for i in self.inputs)})"
        return f"#{self.number}{made} {self.dtype}{self.shape}"

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.intp))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    # ---- what takes the calls ----------------------------------------------------------------------------------

    __minigrad_op__: Callable[..., Any]

    @property
    def __minigrad_backend__(self) -> Backend:
        return BACKEND  # type: ignore[return-value]  # as much of one as ops ask for

    def stopped(self) -> Symbol:
        """The same array, through which no gradient passes."""
        return apply(STOP, (self,), {})

    def unrecorded(self) -> Symbol:
        """The same array as `no_grad` in a body gives it."""
        trace = current.get()
        return trace.stopped(self) if trace is not None and trace.recorded else self

    # ---- NumPy's functions, and its arrays' operators with a symbol ------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        known = ufunc.__name__ in ELEMENTWISE_FUNCTIONS
        fn = functools.partial(_function_of_any, ufunc.__name__) if known else UFUNCS.get(ufunc)
        if fn is None or method != "__call__" or options:
            form = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
            raise untraceable(f"numpy.{form}{' with ' + ', '.join(options) if options else ''}")
        return constant(fn(*inputs))

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        fn = FUNCTIONS.get(func)
        if fn is None:
            raise untraceable(f"numpy.{func.__name__}")

        def boxed(leaf: Any) -> Any:
            return Tensor(leaf) if leaf.__class__ is Symbol else leaf

        out = fn(*tree.map(boxed, tuple(args)), **tree.map(boxed, dict(kwargs)))
        return tree.map(constant, out)

    # ---- operators and methods, as arrays have them: derivative rules use them -----------------------------------

    def __add__(self, other: Any) -> Any:
        return call(elementwise.add, (self, other), {})

    def __radd__(self, other: Any) -> Any:
        return call(elementwise.add, (other, self), {})

    def __sub__(self, other: Any) -> Any:
        return call(elementwise.subtract, (self, other), {})

    def __rsub__(self, other: Any) -> Any:
        return call(elementwise.subtract, (other, self), {})

    def __mul__(self, other: Any) -> Any:
        return call(elementwise.multiply, (self, other), {})

    def __rmul__(self, other: Any) -> Any:
        return call(elementwise.multiply, (other, self), {})

    def __truediv__(self, other: Any) -> Any:
        return call(elementwise.divide, (self, other), {})

    def __rtruediv__(self, other: Any) -> Any:
        return call(elementwise.divide, (other, self), {})

    def __pow__(self, other: Any) -> Any:
        return call(elementwise.power, (self, other), {})

    def __rpow__(self, other: Any) -> Any:
        return call(elementwise.power, (other, self), {})

    def __matmul__(self, other: Any) -> Any:
        return call(linalg.matmul, (self, other), {})

    def __rmatmul__(self, other: Any) -> Any:
        return call(linalg.matmul, (other, self), {})

    def __neg__(self) -> Any:
        return call(elementwise.negative, (self,), {})

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return elementwise.abs(self)

    def __invert__(self) -> Any:
        return call(function("logical_not" if self.dtype.kind == "b" else "invert"), (self,), {})

    def __getitem__(self, index: Any) -> Any:
        return indexing.getitem(self, index)

    __eq__ = _compared("equal")
    __ne__ = _compared("not_equal")
    __lt__ = _compared("less")
    __le__ = _compared("less_equal")
    __gt__ = _compared("greater")
    __ge__ = _compared("greater_equal")
    __and__ = __rand__ = _compared("bitwise_and")
    __or__ = __ror__ = _compared("bitwise_or")
    __xor__ = __rxor__ = _compared("bitwise_xor")

    @property
    def T(self) -> Any:  # noqa: N802  # NumPy's name
        return shape.transpose(self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        return reductions.sum(self, axis, keepdims)

    def reshape(self, *sizes: Any) -> Any:
        return shape.reshape(self, sizes[0] if len(sizes) == 1 else sizes)

    def astype(self, dtype: Any) -> Any:
        return self if self.dtype == dtype else shape.astype(self, dtype)

    def copy(self) -> Any:
        return self  # nobody can write to it

    def any(self, axis: Any = None) -> Any:
        return call(function("any"), (self,), {"axis": axis})

    def all(self, axis: Any = None) -> Any:
        return call(function("all"), (self,), {"axis": axis})

    def __len__(self) -> int:
        return self.shape[0]

    __bool__ = _unknown("a decision (if, while, and, or) on a value")
    __float__ = __int__ = item = tolist = _unknown("turning a value into a Python number")
    __index__ = _unknown("using a value as an index", "mg.take(table, i, axis=0) or mg.asarray(table)[i]")
    __array__ = _unknown(
        "turning a value into a NumPy array",
        "minigrad's ops (to look up in an array, mg.take(table, i, axis=0) or mg.asarray(table)[i])",
    )
    nonzero = _unknown("taking the elements where a value is true, as many as they are,")


# ---- ops without derivative ----------------------------------------------------------------------------------------

_FUNCTIONS: dict[str, Op] = {}

ELEMENTWISE_FUNCTIONS = frozenset(
    (
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "bitwise_and", "bitwise_or",
        "bitwise_xor", "logical_and", "logical_or", "logical_not", "invert", "isfinite", "isnan", "isinf",
        "isclose", "zeros_like", "ones_like",
    )
)  # fmt: skip


def function(name: str) -> Op:
    """An array function by its NumPy name, as an op without derivative."""
    op = _FUNCTIONS.get(name)
    if op is None:

        def forward(xp: Any, *arrays: Array, **static: Any) -> Array:
            return getattr(xp, name)(*arrays, **static)

        op = Op(forward, name, register=False)
        if name in ELEMENTWISE_FUNCTIONS:
            op.batch_rule, op.row_rule = broadcast_batch, broadcast_rows
        elif name == "argmax":
            op.batch_rule, op.row_rule = _argmax_batch, _argmax_rows
        op = _FUNCTIONS.setdefault(name, op)  # the first of two threads wins
    return op


def _argmax_batch(static: dict[str, Any], shapes: Any, stacked: Any) -> dict[str, Any] | None:
    axis = static["axis"]  # None, of all elements, or counted from the front
    return None if axis is None else {"axis": axis + 1}


def _argmax_rows(static: dict[str, Any], shapes: Any, aligned: Any) -> bool:
    return static["axis"] not in {None, 0}


def _function_of_any(name: str, *args: Any) -> Any:
    return call(function(name), args, {})


def _identity(xp: Any, x: Array) -> Array:
    return x


STOP = Op(_identity, "stop_gradient", register=False)
STOP.batch_rule, STOP.row_rule = broadcast_batch, broadcast_rows


def is_elementwise(op: Any) -> bool:
    """Whether an op works on each element after broadcasting."""
    return isinstance(op, Elementwise) or op in _BROADCASTING or op.name in ELEMENTWISE_FUNCTIONS


_BROADCASTING = (REGISTRY["where"], REGISTRY["scale"], REGISTRY["absorb"], STOP)


class _Namespace:
    """The array functions of symbols, for what ops and rules call by name; without symbols, the real library's."""

    def __getattr__(self, name: str) -> Any:
        trace = current.get()
        if trace is None:
            raise used_after()
        real = getattr(trace.backend.xp, name)
        if not callable(real):
            return real

        def dispatch(*args: Any, **static: Any) -> Any:
            if any(isinstance(arg, Symbol) for arg in args):
                return call(function(name), args, static)
            return real(*args, **static)

        return dispatch


class _SymbolBackend:
    """What ops ask of a symbol's backend."""

    name = "traced"
    xp = _Namespace()
    array_type = Symbol

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        if isinstance(data, Symbol):
            return data if dtype is None else data.astype(dtype)
        trace = current.get()
        if trace is None:
            raise used_after()
        return trace.backend.asarray(data, dtype)

    def to_host(self, array: Any) -> Any:
        raise untraceable("looking at a value")

    def any_nan(self, arrays: Any) -> bool:
        return True  # who cannot look must take care

    def is_writeable(self, array: Any) -> bool:
        return False


BACKEND = _SymbolBackend()


# ---- calling ops on symbols ----------------------------------------------------------------------------------------


def call(op: Any, args: Sequence[Any], static: dict[str, Any]) -> Any:
    """Take the call of an op some of whose arguments are symbols, or Tensors of them."""
    trace = current.get()
    if trace is None:
        raise used_after()
    boxed = False
    parents: list[Record | None] | None = None
    inputs: list[Any] = []
    for arg in args:
        array = arg
        if isinstance(arg, Box):
            boxed, array = True, arg.array
            if arg.record is not None and (parent := trace.parent(arg)) is not None:
                parents = parents or [None] * len(args)
                parents[len(inputs)] = parent
        if array.__class__ is not Symbol or array.trace is not trace.token:
            array = trace.taken(arg, array)
        inputs.append(array)
    if static and _has_arrays(static):
        static = _slotted(static, inputs, trace)
    try:
        out = trace.node(op, inputs, static)
    except (ValueError, TypeError, IndexError) as error:
        if isinstance(error, TraceError):
            raise
        raise explained(op.name, inputs, error) from error
    make = recorder.get()
    if make is None and trace.recorded and op is not STOP:
        out = trace.stopped(out)  # no_grad in the body
    if not boxed:
        return out
    if parents is None or make is None or out.dtype.kind != "f":
        return Box.new(out)
    values = [constant_of(i) for i in out.inputs[: len(args)]]
    return Box.new(out, make(op, values, parents, filled(out.static, out.inputs), out, None))


Symbol.__minigrad_op__ = staticmethod(call)


def apply(op: Any, inputs: Sequence[Symbol], static: dict[str, Any]) -> Symbol:
    """A node of the running trace from symbols."""
    return call(op, inputs, static)  # type: ignore[no-any-return]


def constant_of(symbol: Symbol) -> Any:
    """A symbol as derivative rules get it: a constant number is a number."""
    if symbol.op is CONSTANT and symbol.static["value"].__class__ in WEAK:
        return symbol.static["value"]
    return symbol


_PLAIN = frozenset((int, float, bool, str, slice, type(None), type(Ellipsis)))


def _has_arrays(static: dict[str, Any]) -> bool:
    """Whether there may be arrays among static arguments."""
    for value in static.values():
        if value.__class__ is tuple:
            for part in value:
                if part.__class__ not in _PLAIN:
                    return True
        elif value.__class__ not in _PLAIN:
            return True
    return False


def _slotted(static: dict[str, Any], inputs: list[Any], trace: Trace) -> dict[str, Any]:
    """Static arguments with the arrays in them moved to the inputs."""
    return {key: _moved(value, inputs, trace) for key, value in static.items()}


def _moved(value: Any, inputs: list[Any], trace: Trace) -> Any:
    if value.__class__ is tuple:
        return tuple([_moved(part, inputs, trace) for part in value])
    if value.__class__ is Symbol or isinstance(value, Box) or (hasattr(value, "dtype") and hasattr(value, "shape")):
        array = value.array if isinstance(value, Box) else value
        if array.__class__ is not Symbol:
            array = trace.capture(array)
        elif array.trace is not trace.token and not trace.literal:
            array = trace.adopt(array)
        inputs.append(array)
        return Slot(len(inputs) - 1)
    return value


def filled(static: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """Static arguments with values in the place of slots."""
    return {key: _filled(value, values) for key, value in static.items()} if static else static


def _filled(value: Any, values: Sequence[Any]) -> Any:
    if value.__class__ is Slot:
        return values[value.place]
    return tuple([_filled(part, values) for part in value]) if value.__class__ is tuple else value


def slots(static: dict[str, Any]) -> int:
    """How many slots there are in static arguments."""
    return sum([_slots_in(value) for value in static.values()])


def _slots_in(value: Any) -> int:
    return 1 if value.__class__ is Slot else sum(map(_slots_in, value)) if value.__class__ is tuple else 0


# ---- shapes --------------------------------------------------------------------------------------------------------

Form: TypeAlias = tuple[tuple[int, ...], np.dtype[Any]]

FORMS: dict[Any, Form] = {}
"""The shape and dtype that an op gives, by the op, its static arguments and its inputs' shapes and dtypes."""


def tried(known: Any, op: Any, inputs: Sequence[Any], static: dict[str, Any]) -> Form:
    """The shape and dtype of `op(*inputs, **static)`, found by trying, for `FORMS` at `known`."""
    if len(FORMS) > 10_000:
        FORMS.clear()
    found = FORMS[known] = _tried(op, inputs, static)
    return found


def _tried(op: Any, inputs: Sequence[Any], static: dict[str, Any]) -> Form:
    with np.errstate(all="ignore"):
        count = slots(static)
        if is_elementwise(op) and not count:
            shapes = [i.shape for i in inputs if i.__class__ is Symbol]
            try:
                whole = np.broadcast_shapes(*shapes)
            except ValueError:
                whole = None
            if whole is not None:
                small = [np.ones((), i.dtype) if i.__class__ is Symbol else i for i in inputs]
                return whole, np.asarray(op.forward(np, *small, **static)).dtype
        ours = str(getattr(op, "__module__", "")).startswith("minigrad.")
        make = _dummy if ours else _made_up
        dummies: list[Any] = [make(i.shape, i.dtype) if i.__class__ is Symbol else i for i in inputs]
        if op is linalg.matmul and all(len(d.shape) >= 2 for d in dummies):
            a, b = dummies
            if a.shape[-1] == b.shape[-2]:
                dummies = [a[..., :0], b[..., :0, :]]  # the shape without the work
        arrays = dummies[: len(dummies) - count] if count else dummies
        try:
            out = np.asarray(op.forward(np, *arrays, **filled(static, dummies)))
        except Exception as error:
            if ours:
                raise
            raise TraceError(
                f"scan runs `{op.name}` on made-up numbers to learn the shape of its result, at {user_line()}, and it "
                f"failed: {type(error).__name__}: {error}. Let it take any numbers of these shapes, or pass unroll=True"
            ) from error
    return out.shape, out.dtype


def _dummy(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.broadcast_to(np.zeros((), dtype), shape)


def _made_up(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Numbers for an op of a user's, which may not take zeros: a matrix to be inverted, for one."""
    return np.random.default_rng(0).random(shape).astype(dtype)
