"""What an op is: a forward function on arrays and, beside it, its derivative rules.

A rule is a plain function in terms of ops and operators, so the same rule runs on raw arrays (first order) and on
tensors (higher orders). `unbroadcast` is the one place where broadcasting is undone.

    @elementwise                               @primitive
    def tanh(xp, x):                           def matmul_(xp, a, b):
        return xp.tanh(x)                          return xp.matmul(a, b)

    @tanh.partial(0)                           @matmul_.vjp(0)
    def tanh_dx(out, x):                       def matmul_da(g, out, a, b):
        return 1.0 - out * out                     ...

An elementwise op gives its partial derivatives; their VJP and JVP follow. Any other op gives a VJP for each input;
its JVP follows where it is linear in that input (`@primitive(linear=...)`), else it gives `@op.jvp(i)` too.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.backend import BACKEND_OF_TYPE, Backend, backend_of, default_backend
from minigrad.hold import Hold, hold
from minigrad.tape import Array, Box, Leaf, Record, Value, careful, constant, keep, recorder

Rule = Callable[..., Value]
Static = dict[str, Any]
Shapes = Sequence[tuple[int, ...]]
Flags = Sequence[bool]

REGISTRY: dict[str, Op] = {}
"""Every op that has rules, by name."""

HALF = "e"
"""NumPy's code of float16."""


class Op:
    """A function of arrays with its derivative rules; called on tensors, it records itself on the tape.

    Positional arguments are arrays (or what converts to them), keyword arguments are static.
    """

    pull_into: Callable[..., Array] | None = None
    structural = False
    batch_rule: Callable[..., dict[str, Any] | None] | None = None
    row_rule: Callable[..., bool] | None = None

    def __init__(self, forward: Callable[..., Array], name: str | None = None, register: bool = True) -> None:
        self.__name__ = forward.__name__
        functools.update_wrapper(self, forward)
        signature = inspect.signature(forward)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
        self.name = name or forward.__name__.rstrip("_")
        self.forward = forward
        self.vjps: dict[int, Rule] = {}
        if register:
            if self.name in REGISTRY:
                raise ValueError(f"an op named {self.name!r} exists already")
            REGISTRY[self.name] = self

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.__name__  # an op of a module is itself wherever it is copied or pickled to

    def __call__(self, *args: Any, **static: Any) -> Any:
        boxed = False
        values: list[Any] = []
        parents: list[Record | None] = []
        kind: type | None = None  # of the arrays: all of one
        for arg in args:
            if isinstance(arg, Box):
                boxed = True
                parents.append(arg.record)
                values.append(arg.array)
            else:
                parents.append(None)
                values.append(arg)
            cls = values[-1].__class__
            if cls is not kind and cls not in WEAK:
                if kind is not None or cls not in BACKEND_OF_TYPE:
                    take = getattr(cls, "__minigrad_op__", None)
                    return take(self, args, static) if take else self._convert_and_call(args, static)
                kind = cls
        if kind is None:
            return self._convert_and_call(args, static)
        backend = BACKEND_OF_TYPE[kind]
        try:
            out = self.forward(backend.xp, *values, **static)
        except (ValueError, TypeError, IndexError) as error:
            raise explained(self.name, values, error) from error
        if out.__class__ is not kind:
            out = backend.asarray(out)
        if not boxed:
            return out
        record = recorder.get()
        if record is None or out.dtype.kind != "f" or not any(parents):
            if out.dtype.kind == "c" and any(parents):
                raise complex_numbers(self.name)
            if getattr(out, "base", None) is not None:
                for parent in parents:
                    keep(parent, out)  # it may be a view of an array that another record needs
            return Box.new(out)
        needed = [
            value
            for value, parent in zip(values, parents, strict=True)
            if (parent is None or parent.__class__ is Leaf) and value.__class__ is kind
        ]
        return Box.new(out, record(self, values, parents, static, out, hold(needed, backend)))

    def _convert_and_call(self, args: Sequence[Any], static: dict[str, Any]) -> Any:
        """The slow way in: lists, NumPy scalars, arrays of a type not seen before, or numbers alone.

        An array without values (in a body that is being traced) takes the call itself.
        """
        for arg in args:
            array = arg.array if isinstance(arg, Box) else arg
            take = getattr(array.__class__, "__minigrad_op__", None)
            if take is not None:
                return take(self, args, static)
        return self(*as_values(self.name, args), **static)

    # ---- derivative rules -------------------------------------------------------------------------------------

    def vjp(self, argnum: int) -> Callable[[Rule], Rule]:
        """Register `rule(g, out, *values, **static)`: the gradient of input `argnum` from the output's cotangent."""

        def register(rule: Rule) -> Rule:
            self.vjps[argnum] = rule
            return rule

        return register

    def accumulate(self, rule: Callable[..., Array]) -> Callable[..., Array]:
        """Register `rule(total, owned, g, values, static)`: add an input's gradient to a buffer; see `walk.Walk`."""
        self.pull_into = rule
        return rule

    def batch(self, rule: Callable[..., dict[str, Any] | None]) -> Callable[..., dict[str, Any] | None]:
        """Register `rule(static, shapes, stacked)`: how the op works on all steps of a scan at once.

        `shapes` are the inputs' at one step; where `stacked[i]`, input i has a first axis of time before that. The
        rule gives the static arguments with which one call gives the stack of the outputs, or None: there is no such
        call. The rule does not know how many steps there are: in a static `shape` it writes -1 for it, in first place.
        """
        self.batch_rule = rule
        return rule

    def rows(self, rule: Callable[..., bool]) -> Callable[..., bool]:
        """Register `rule(static, shapes, aligned)`: whether rows stay apart.

        That is: if axis 0 of the inputs with `aligned[i]` counts the rows of a batch, axis 0 of the output does too,
        and each of its rows depends on the same row of those inputs only, and on all of the others.
        """
        self.row_rule = rule
        return rule

    def pull(
        self, g: Value, out: Value, values: Sequence[Any], static: dict[str, Any], wanted: Sequence[Any]
    ) -> Sequence[Value | None]:
        return [
            None if want is None else unbroadcast(self.vjps[i](g, out, *values, **static), values[i], out, self.name)
            for i, want in enumerate(wanted)
        ]

    def push(
        self, tangents: Sequence[Value | None], out: Value, values: Sequence[Any], static: dict[str, Any]
    ) -> Value:
        raise NotImplementedError


def broadcast_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static:
    """Broadcasting takes one more axis, if what is stacked has as many axes as the output: whoever asks sees to it."""
    return static


def broadcast_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    """What has rows has them on the output's axis 0, and what has none is spread along it."""
    ndim = max(len(shape) for shape in shapes)
    return all(
        len(shape) == ndim if rows else len(shape) < ndim or shape[:1] == (1,)
        for shape, rows in zip(shapes, aligned, strict=True)
    )


class Elementwise(Op):
    """An op on each element (after broadcasting) of one or two inputs, known by its partial derivatives."""

    apply: Callable[..., Any]
    batch_rule = staticmethod(broadcast_batch)
    row_rule = staticmethod(broadcast_rows)

    def __init__(self, forward: Callable[..., Array]) -> None:
        super().__init__(forward)
        self.partials: list[Rule] = []

    def partial(self, rule: Rule) -> Rule:
        """Register `rule(out, *values, **static)`: the derivative by the next input, in their order."""

        def vjp(g: Value, out: Value, *values: Any, **static: Any) -> Value:
            return scaled(g, rule(out, *values, **static))

        self.vjps[len(self.partials)] = vjp
        self.partials.append(rule)
        return rule

    def push(
        self, tangents: Sequence[Value | None], out: Value, values: Sequence[Any], static: dict[str, Any]
    ) -> Value:
        if out.dtype.kind == "c":
            raise complex_numbers(self.name)
        total = None
        for rule, tangent in zip(self.partials, tangents, strict=True):
            if tangent is not None:
                term = scaled(tangent, rule(out, *values, **static))
                total = term if total is None else total + term
        return broadcast_like(total, out)


class Unary(Elementwise):
    """`Elementwise` of one input. This and `Binary` are unrolled, because every small op passes here."""

    def apply(self, x: Any, **static: Any) -> Any:
        boxed = isinstance(x, Box)
        value = x.array if boxed else x
        backend = BACKEND_OF_TYPE.get(value.__class__)
        if backend is None:
            return self._convert_and_call((x,), static)
        try:
            out = self.forward(backend.xp, value, **static) if static else self.forward(backend.xp, value)
        except (ValueError, TypeError) as error:
            raise explained(self.name, (value,), error) from error
        if out.__class__ is not value.__class__:
            out = backend.asarray(out)
        if not boxed:
            return out
        parent, record = x.record, recorder.get()
        if parent is None or record is None:
            return Box.new(out)
        held = (parent.live_hold() or parent.hold(backend)) if parent.__class__ is Leaf else None
        return Box.new(out, record(self, (value,), (parent,), static, out, held))

    __call__ = apply  # operators use `apply`: Python calls a method faster than an object

    def pull(
        self, g: Value, out: Value, values: Sequence[Any], static: dict[str, Any], wanted: Sequence[Any]
    ) -> Sequence[Value | None]:
        (x,) = values
        d = self.partials[0](out, x, **static) if static else self.partials[0](out, x)
        gradient = g if d is ONE else -g if d is MINUS_ONE else scaled(g, d) if careful.get() else g * d
        if not gradient.shape or gradient.shape != x.shape or gradient.dtype is not x.dtype:
            gradient = unbroadcast(gradient, x, out, self.name)  # or 0-d: NumPy may have made it a scalar
        return (gradient,)


class Binary(Elementwise):
    """`Elementwise` of two inputs, without static arguments."""

    def apply(self, x: Any, y: Any) -> Any:
        a, b, x_parent, y_parent, boxed = x, y, None, None, False
        if isinstance(x, Box):
            a, x_parent, boxed = x.array, x.record, True
        if isinstance(y, Box):
            b, y_parent, boxed = y.array, y.record, True
        kind = a.__class__
        backend = BACKEND_OF_TYPE.get(kind)
        if backend is None:
            kind = b.__class__
            backend = BACKEND_OF_TYPE.get(kind)
            if backend is None or a.__class__ not in WEAK:
                return self._convert_and_call((x, y), NO_STATIC)
        elif b.__class__ is not kind and b.__class__ not in WEAK:
            return self._convert_and_call((x, y), NO_STATIC)
        try:
            out = self.forward(backend.xp, a, b)
        except (ValueError, TypeError) as error:
            raise explained(self.name, (a, b), error) from error
        if out.__class__ is not kind:
            out = backend.asarray(out)
        if not boxed:
            return out
        record = recorder.get()
        if (x_parent is None and y_parent is None) or record is None:
            return Box.new(out)
        x_held: Hold | None = None
        y_held: Hold | None = None
        if x_parent.__class__ is Leaf:
            x_held = x_parent.live_hold() or x_parent.hold(backend)
        elif x_parent is None and a.__class__ is kind:
            a, x_held = settled(a, out, backend)
        if y_parent.__class__ is Leaf:
            y_held = y_parent.live_hold() or y_parent.hold(backend)
        elif y_parent is None and b.__class__ is kind:
            b, y_held = settled(b, out, backend)
        held = y_held if x_held is None else x_held if y_held is None else (x_held, y_held)
        return Box.new(out, record(self, (a, b), (x_parent, y_parent), NO_STATIC, out, held))

    __call__ = apply

    def pull(
        self, g: Value, out: Value, values: Sequence[Any], static: dict[str, Any], wanted: Sequence[Any]
    ) -> Sequence[Value | None]:
        x, y = values
        x_rule, y_rule = self.partials
        x_wanted, y_wanted = wanted
        x_gradient = y_gradient = None
        if x_wanted is not None:
            d = x_rule(out, x, y)
            x_gradient = g if d is ONE else -g if d is MINUS_ONE else scaled(g, d) if careful.get() else g * d
            if not x_gradient.shape or x_gradient.shape != x.shape or x_gradient.dtype is not x.dtype:
                x_gradient = unbroadcast(x_gradient, x, out, self.name)
        if y_wanted is not None:
            d = y_rule(out, x, y)
            y_gradient = g if d is ONE else -g if d is MINUS_ONE else scaled(g, d) if careful.get() else g * d
            if not y_gradient.shape or y_gradient.shape != y.shape or y_gradient.dtype is not y.dtype:
                y_gradient = unbroadcast(y_gradient, y, out, self.name)
        return x_gradient, y_gradient


class Primitive(Op):
    """Any other op. `linear="each"`: linear in each input by itself; "jointly": in all array inputs together."""

    def __init__(self, forward: Callable[..., Array], linear: str | None = None, register: bool = True) -> None:
        super().__init__(forward, register=register)
        if linear not in (None, "each", "jointly"):
            raise ValueError(f'linear is None, "each" or "jointly", got {linear!r}')
        self.linear = linear
        self.variadic = False
        self.jvps: dict[int, Rule] = {}

    def jvp(self, argnum: int) -> Callable[[Rule], Rule]:
        """Register `rule(t, out, *values, **static)`: the output's tangent from that of input `argnum`."""

        def register(rule: Rule) -> Rule:
            self.jvps[argnum] = rule
            return rule

        return register

    def vjp_all(self, rule: Callable[..., Sequence[Value | None]]) -> Callable[..., Sequence[Value | None]]:
        """Register `rule(g, out, values, static, wanted)`, which gives the gradients of any number of inputs."""
        self.variadic = True
        self.pull = rule  # type: ignore[method-assign]  # the rule is the whole of it
        return rule

    def push(
        self, tangents: Sequence[Value | None], out: Value, values: Sequence[Any], static: dict[str, Any]
    ) -> Value:
        if self.linear == "jointly":
            filled = [
                tangent if tangent is not None else zeros_like(value) if i in self.vjps or self.variadic else value
                for i, (value, tangent) in enumerate(zip(values, tangents, strict=True))
            ]
            return broadcast_like(self(*filled, **static), out)
        total = None
        for i, tangent in enumerate(tangents):
            if tangent is not None:
                if self.linear == "each":
                    term = self(*values[:i], tangent, *values[i + 1 :], **static)
                else:
                    term = self.jvps[i](tangent, out, *values, **static)
                total = term if total is None else total + term
        return broadcast_like(total, out)


NO_STATIC: dict[str, Any] = {}

ONE, MINUS_ONE = 1.0, -1.0
"""The partial derivatives of ops that pass their input on: told apart by identity, they cost no multiplication."""


def settled(array: Array, out: Array, backend: Backend) -> tuple[Array, Hold | None]:
    """A constant factor as rules need it: read-only for as long as the record lives, or, if of integers, in floats.

    Rules would promote integers to another dtype than the op did.
    """
    if array.dtype.kind == "f":
        return array, hold((array,), backend)
    return array.astype(out.dtype), None


def elementwise(forward: Callable[..., Array]) -> Elementwise:
    """Make an elementwise op of `forward(xp, x, **static)` or `forward(xp, x, y, **static)`."""
    inputs = [p for p in inspect.signature(forward).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    return Unary(forward) if len(inputs) == 2 else Binary(forward)


def primitive(linear: str | None = None) -> Callable[[Callable[..., Array]], Primitive]:
    """Make an op of `forward(xp, *arrays, **static)`; see `Primitive` for `linear`."""
    return lambda forward: Primitive(forward, linear)


# ---- what rules share ----------------------------------------------------------------------------------------------


class _Careful(Op):
    """A product of two arrays in which some zeros win over an infinite factor: how a careful walk multiplies."""

    batch_rule = staticmethod(broadcast_batch)
    row_rule = staticmethod(broadcast_rows)

    def push(
        self, tangents: Sequence[Value | None], out: Value, values: Sequence[Any], static: dict[str, Any]
    ) -> Value:
        terms = [
            rule(tangent, out, *values)
            for rule, tangent in zip(self.vjps.values(), tangents, strict=True)
            if tangent is not None  # a product is linear in each factor: its tangents follow the rules of its gradients
        ]
        return broadcast_like(terms[0] if len(terms) == 1 else terms[0] + terms[1], out)


def _scale(xp: Any, g: Array, d: Array) -> Array:
    product = xp.multiply(g, d)
    return xp.where(xp.equal(g, 0), xp.zeros_like(product), product)


scale = _Careful(_scale, "scale")
"""g * d, and 0 wherever the cotangent g is 0, even where the local derivative d is infinite or NaN."""


@scale.vjp(0)
def scale_dg(h: Value, out: Value, g: Value, d: Value) -> Value:
    return scale(h, d)


@scale.vjp(1)
def scale_dd(h: Value, out: Value, g: Value, d: Value) -> Value:
    return absorb(h, g)


def _absorb(xp: Any, g: Array, h: Array) -> Array:
    product = xp.multiply(g, h)
    return xp.where(xp.logical_or(xp.equal(g, 0), xp.equal(h, 0)), xp.zeros_like(product), product)


absorb = _Careful(_absorb, "absorb")
"""The product of two cotangents, of two orders of differentiation: 0 wherever one of them is."""


@absorb.vjp(0)
def absorb_dg(k: Value, out: Value, g: Value, h: Value) -> Value:
    return absorb(k, h)


@absorb.vjp(1)
def absorb_dh(k: Value, out: Value, g: Value, h: Value) -> Value:
    return absorb(k, g)


def absorbing(product: Callable[..., Value], g: Value, factors: Sequence[Value]) -> Value:
    """`product(g, *factors)`, linear in each, in which a zero of g wins over an infinite factor if the walk is careful.

    An element in which a g that is not 0 meets such a factor is what the plain product makes of it.
    """
    if careful.get() is not True or not factors:
        return product(g, *factors)
    xp = backend_of(constant(g)).xp
    arrays = [constant(factor) for factor in factors]
    wild = [xp.logical_not(xp.isfinite(array)) for array in arrays]
    if not any(is_abstract(w) or w.any() for w in wild):  # waits for the device: a careful walk may
        return product(g, *factors)
    there = (constant(g) != 0).astype(g.dtype)
    ones = [xp.ones_like(array) for array in arrays]
    meets = [product(there, *ones[:k], w.astype(g.dtype), *ones[k + 1 :]) > 0 for k, w in enumerate(wild)]
    plain, tame = product(g, *factors), product(g, *[choose(w, 0.0, f) for w, f in zip(wild, factors, strict=True)])
    return choose(functools.reduce(xp.logical_or, meets), plain, tame)


def scaled(g: Value, d: Value) -> Value:
    """`g * d` for a local derivative `d`, which may be a number; see `walk.Walk` for when it is done with care."""
    if d is ONE or d is MINUS_ONE:
        return g if d is ONE else -g
    return scale(g, d) if careful.get() else g * d


def choose(condition: Array, x: Value, y: Value) -> Value:
    """`where`, which has a file of its own and builds on this one."""
    return REGISTRY["where"](condition, x, y)


def unbroadcast(g: Value, like: Value, out: Value, name: str) -> Value:
    """Undo broadcasting: sum `g` to the shape of the input `like`, and give it that input's dtype.

    Only where the op promoted (its output has another dtype than the input) may the gradient's dtype differ.
    """
    shape = like.shape
    if g.shape != shape:
        extra = len(g.shape) - len(shape)
        stretched = tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
        if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
            raise ValueError(f"the rule of `{name}` returned a gradient of shape {g.shape} for an input of {shape}")
        if extra or stretched:
            axes = (*range(extra), *stretched)
            half = g.dtype.char == HALF  # sums in it stand still at 2048
            g = (g.astype(np.float32) if half else g).sum(axis=axes, keepdims=True).reshape(shape)
            g = g.astype(np.float16) if half else g
    if g.dtype != like.dtype:
        if g.dtype.kind == "c":
            raise complex_numbers(name)
        if out.dtype == like.dtype:
            raise TypeError(f"the rule of `{name}` returned a {g.dtype} gradient for an input of {like.dtype}")
        g = g.astype(like.dtype)
    return np.asarray(g) if isinstance(g, np.generic) else g


def broadcast_like(tangent: Value, out: Value) -> Value:
    """Give a tangent the shape and dtype of the output that it belongs to."""
    if tangent.shape != out.shape:
        tangent = tangent + zeros_like(out)
    if tangent.dtype != out.dtype:
        tangent = tangent.astype(out.dtype)
    return np.asarray(tangent) if isinstance(tangent, np.generic) else tangent


def zeros_like(value: Value) -> Array:
    """Zeros of the shape and dtype of an array or a Tensor, as an array; 0.0 for a number."""
    array = constant(value)
    return 0.0 if array.__class__ in WEAK else backend_of(array).xp.zeros_like(array)


# ---- arguments -----------------------------------------------------------------------------------------------------


def as_value(name: str, x: Any) -> Value:
    """An array or a Tensor out of anything that converts to one."""
    if isinstance(x, Box) or x.__class__ in BACKEND_OF_TYPE or is_abstract(x):
        return x
    return as_values(name, [x])[0]


def is_abstract(array: Any) -> bool:
    """Whether an array has no values to look at, for it stands in a body that is being traced."""
    return hasattr(array, "__minigrad_op__")


def untracked(name: str, argument: str, x: Any) -> Any:
    """An argument without derivative: a number, None, or an array that nobody else can write to."""
    if isinstance(x, Box):
        if x.record is not None:
            raise TypeError(f"minigrad.{name} has no derivative by {argument}; pass {argument} through stop_gradient")
        x = x.array
    elif isinstance(x, list):
        x = default_backend().asarray(x)
    return x.copy() if hasattr(x, "copy") else x


def axes_of(name: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes as a sorted tuple of numbers from 0; None means all.

    Raises TypeError for an axis that is no integer, ValueError for one that does not exist or is named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    try:
        axes = [operator.index(a) for a in axes]
    except TypeError:
        raise TypeError(f"minigrad.{name}: an axis is an integer, got {axis!r}") from None
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(f"minigrad.{name}: axis {a} does not exist in an array of {ndim} dimensions")
    found = sorted(a % ndim for a in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"minigrad.{name}: axis {axis} names one axis twice")
    return tuple(found)


def boxed_like(out: Value, *args: Any) -> Value:
    """The result of an op as a Tensor if one of the arguments, perhaps one without derivative, is a Tensor."""
    return Box.new(out) if not isinstance(out, Box) and any(isinstance(arg, Box) for arg in args) else out


def axis_of(name: str, axis: Any, ndim: int) -> int:
    """One axis as a number from 0."""
    return axes_of(name, (axis,), ndim)[0]


def as_values(name: str, args: Sequence[Any]) -> list[Any]:
    """Arrays, tensors and numbers out of anything that converts to an array, all on one backend.

    An array without values (in a body that is being traced) goes with those of any backend.
    """
    arrays = [constant(arg) for arg in args]
    real = [array for array in arrays if not is_abstract(array)]
    backends = {_backend_of(name, array).name: _backend_of(name, array) for array in real if not _converts(array)}
    if len(backends) > 1:
        raise TypeError(
            f"minigrad.{name}: arrays of two backends ({', '.join(backends)}) do not mix; move one with Tensor.to(name)"
        )
    if not backends and len(real) < len(arrays):
        backends = {"": _backend_of(name, next(array for array in arrays if is_abstract(array)))}
    backend = next(iter(backends.values()), None) or default_backend()
    alone = all(type(arg) in WEAK for arg in args)  # numbers alone become arrays; beside an array they stay weak
    return [
        arg
        if type(array) is backend.array_type or is_abstract(array) or (type(arg) in WEAK and not alone)
        else _converted(name, backend, array)
        for arg, array in zip(args, arrays, strict=True)
    ]


WEAK = frozenset((float, int, bool))


def _converts(data: Any) -> bool:
    """Whether this is something that a backend makes an array of."""
    return isinstance(data, numbers.Number | np.generic | list | tuple)


def _backend_of(name: str, array: Any) -> Backend:
    try:
        return backend_of(array)
    except TypeError as error:
        raise TypeError(f"minigrad.{name}: {error}") from None


def _converted(name: str, backend: Backend, data: Any) -> Array:
    if isinstance(data, (list, tuple)) and _holds_box(data):
        raise TypeError(
            f"minigrad.{name}: got a {type(data).__name__} of Tensors; put them together with minigrad.stack"
        )
    try:
        return backend.asarray(data)
    except (TypeError, ValueError) as error:
        raise TypeError(f"minigrad.{name} takes tensors, arrays, numbers or lists of numbers: {error}") from None


def _holds_box(data: Any) -> bool:
    return isinstance(data, Box) or (isinstance(data, (list, tuple)) and any(_holds_box(part) for part in data))


def complex_numbers(name: str) -> TypeError:
    """The error for a gradient that would need complex numbers."""
    return TypeError(f"`{name}` gave complex numbers; minigrad differentiates real ones: split them first")


def explained(name: str, values: Sequence[Any], error: Exception) -> Exception:
    """The array library's error, with the op and what it got."""
    got = ", ".join(f"{v.dtype}{tuple(v.shape)}" if hasattr(v, "shape") else repr(v) for v in values)
    if any(hasattr(v, "dtype") and v.dtype.kind not in "biufc" for v in values):
        return TypeError(f"minigrad.{name}({got}) needs arrays of numbers")
    kind = IndexError if isinstance(error, IndexError) else TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"minigrad.{name}({got}): {error}")
