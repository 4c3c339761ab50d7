"""Functions of functions: grad, vjp, jvp and what follows from them.

All of them trace `f` once, on variables of their own, and walk the records that it left. Nothing else is needed for
higher orders: a walk that meets something else to differentiate runs on tensors, and is recorded itself.

Arguments and results are pytrees. Functions of arrays alone give arrays; with a Tensor among the arguments, or behind
the function, they give Tensors.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad import tape, tree
from minigrad.backend import backend_of
from minigrad.ops.op import Primitive, as_value, unbroadcast, zeros_like
from minigrad.ops.shape import copy_, stack
from minigrad.tape import (
    Array,
    Bundle,
    Leaf,
    Record,
    Value,
    Walk,
    constant,
    dependent,
    hold,
    next_number,
    reachable,
    scoped,
)
from minigrad.tensor import Tensor, cotangent_for

Fn = Callable[..., Any]


class _Trace(NamedTuple):
    """One run of a function on variables of its own."""

    outputs: list[Tensor]
    structure: tree.Structure
    variables: list[Record]
    boxed: bool  # whether a Tensor was among the arguments
    aux: Any


def _variable(x: Any, where: str) -> Tensor:
    """A tensor that stands for one argument: a record of its own, connected to what made the argument."""
    value = as_value("asarray", x)
    array = constant(value)
    if array.dtype.kind != "f":
        raise TypeError(
            f"cannot differentiate by {where}: its dtype is {array.dtype}, and only floating numbers have derivatives; "
            "convert it with astype('float64'), or leave it out of argnums"
        )
    parent = value.record if isinstance(value, Tensor) else None
    return Tensor(array, Leaf(array) if parent is None else Record(copy_, (array,), (parent,), {}, array, None))


def _trace(f: Fn, args: Sequence[Any], argnums: Sequence[int], has_aux: bool = False) -> _Trace:
    """Run `f` with the arguments at `argnums` replaced by variables."""
    boxed = any(isinstance(leaf, Tensor) for leaf in tree.flatten(tuple(args))[0])
    traced = list(args)
    variables: list[Record] = []
    for argnum in argnums:
        leaves, structure = tree.flatten(args[argnum])
        names = [f"argument {argnum}{path}" for path in structure.paths()]
        fresh = [_variable(leaf, name) for leaf, name in zip(leaves, names, strict=True)]
        variables += [variable.record for variable in fresh if variable.record is not None]
        traced[argnum] = structure.build(fresh)
    try:
        recorder = tape.recorder.get() or Record
        opened = (*tape.open_variables.get(), *variables)
        with scoped(tape.recorder, recorder), scoped(tape.open_variables, opened):
            result = f(*traced)
    finally:
        for variable in variables:
            if isinstance(variable, Leaf):
                variable.active = False  # nobody but this transform, which names it as its target, wants its gradient
    aux = None
    if has_aux:
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError("with has_aux=True the function returns a pair (result, aux)")
        result, aux = result
    outputs, structure = tree.flatten(result)
    tensors = [out if isinstance(out, Tensor) else Tensor(as_value("asarray", out)) for out in outputs]
    return _Trace(tensors, structure, variables, boxed, aux)


def _reach(outputs: Sequence[Tensor], variables: Sequence[Record]) -> tuple[tape.Reach, bool]:
    """What the outputs depend on above the variables, and whether a walk over it must be recorded."""
    since = min((variable.number for variable in variables), default=0)
    reach = reachable([out.record for out in outputs], since, variables)
    foreign = reach.leaves or reach.older or any(not isinstance(variable, Leaf) for variable in variables)
    return reach, bool(foreign) and tape.recorder.get() is not None


def _walk(reach: tape.Reach, targets: Sequence[Record], recorded: bool) -> Walk:
    return Walk(reach.order, targets, recorded, needed=dependent(reach.order, targets))


def _results(values: Sequence[Value], boxed: bool) -> list[Value]:
    """Results as the caller expects them: arrays for arrays; Tensors for Tensors, and where they are recorded."""
    return [value if isinstance(value, Tensor) else Tensor(value) if boxed else value for value in values]


def _closed(tensors: Sequence[Tensor], trace: _Trace) -> list[Value]:
    """The outputs of a trace as the caller sees them: without its records, unless somebody else needs those."""
    results: list[Value] = []
    for out in tensors:
        _, recorded = _reach([out], trace.variables)
        depends = out.record is not None and recorded
        results.append(out if depends else Tensor(out.array) if trace.boxed else out.array)
    return results


def _pull(
    trace: _Trace, roots: Sequence[tuple[Record | None, Value]], reach: tape.Reach, recorded: bool
) -> list[Value]:
    """The gradients of the variables; zeros where nothing depends on one."""
    seeds = [(record, g) for record, g in roots if record is not None]
    gradients = _walk(reach, trace.variables, recorded).pull_back(
        [(record, Tensor(g) if recorded and not isinstance(g, Tensor) else g) for record, g in seeds]
    )
    return [
        backend_of(variable.out).xp.zeros_like(variable.out) if g is None else g if isinstance(g, Tensor) else g.copy()
        for variable, g in zip(trace.variables, gradients, strict=True)
    ]


def _regroup(args: Sequence[Any], argnums: Sequence[int], leaves: Sequence[Value]) -> list[Any]:
    """The leaves, put back into the structures of the arguments that they belong to."""
    source = iter(leaves)
    structures = [tree.flatten(args[argnum])[1] for argnum in argnums]
    return [structure.build([next(source) for _ in structure.paths()]) for structure in structures]


# ---- reverse mode --------------------------------------------------------------------------------------------------


def value_and_grad(f: Fn, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Fn:
    """A function that gives (f(...), gradient); f returns one number, or (number, aux) with `has_aux=True`.

    The gradient has the structure, shapes and dtypes of the argument at `argnums` (a tuple of them for a tuple);
    with `has_aux` the function gives ((number, aux), gradient). TypeError for an argument that is not floating,
    ValueError for a result of more than one element.

    >>> import minigrad as mg, numpy as np
    >>> mg.value_and_grad(lambda x: (x * x).sum())(np.array([1.0, 2.0]))
    (array(5.), array([2., 4.]))
    """
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)

    @functools.wraps(f, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        trace = _trace(functools.partial(f, **kwargs), args, _checked_argnums(numbers, args), has_aux)
        if len(trace.outputs) != 1 or trace.outputs[0].size != 1:
            shapes = [out.shape for out in trace.outputs]
            raise ValueError(
                f"grad needs a function of one number, got results of shapes {shapes}; use vjp or jacobian"
            )
        (out,) = trace.outputs
        reach, recorded = _reach([out], trace.variables)
        gradients = _pull(trace, [(out.record, cotangent_for(out, None))], reach, recorded)
        regrouped = _regroup(args, numbers, _results(gradients, trace.boxed))
        (value,) = _closed([out], trace)
        if has_aux:
            aux = tree.map(lambda leaf: _closed([leaf], trace)[0] if isinstance(leaf, Tensor) else leaf, trace.aux)
            value = (value, aux)
        return value, tuple(regrouped) if isinstance(argnums, tuple) else regrouped[0]

    return differentiated


def grad(f: Fn, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Fn:
    """A function that gives the gradient of f, which returns one number; see `value_and_grad`.

    >>> import minigrad as mg
    >>> mg.grad(mg.grad(lambda x: x**3))(2.0)
    array(12.)
    """
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return differentiated


def _checked_argnums(argnums: Sequence[int], args: Sequence[Any]) -> Sequence[int]:
    for argnum in argnums:
        if not 0 <= argnum < len(args):
            raise ValueError(f"argnums names argument {argnum}, but {len(args)} positional arguments were given")
    return argnums


def vjp(f: Fn, *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """f(*args), and `pull(g)`, which gives one gradient an argument from a cotangent of the result's structure.

    `pull` may be called any number of times. TypeError for an argument that is not floating.

    >>> import minigrad as mg, numpy as np
    >>> out, pull = mg.vjp(lambda x, y: x * y, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    >>> pull(np.array([1.0, 10.0]))
    (array([ 3., 40.]), array([ 1., 20.]))
    """
    argnums = range(len(args))
    trace = _trace(f, args, argnums)
    reach, recorded = _reach(trace.outputs, trace.variables)

    def pull(g: Any) -> tuple[Any, ...]:
        leaves, structure = tree.flatten(g)
        if structure != trace.structure:
            raise ValueError(f"the cotangent has the structure of the result, {trace.structure}, got {structure}")
        tracked = any(isinstance(leaf, Tensor) and leaf.record is not None for leaf in leaves)
        seeds = []
        for out, leaf in zip(trace.outputs, leaves, strict=True):
            checked = leaf if isinstance(leaf, Tensor) and leaf.record is not None else cotangent_for(out, leaf)
            if checked.shape != out.shape or checked.dtype != out.dtype:
                raise ValueError(f"the cotangent of {out.dtype}{out.shape} is {checked.dtype}{checked.shape}")
            seeds.append((out.record, checked))
        gradients = _pull(trace, seeds, reach, (recorded or tracked) and tape.recorder.get() is not None)
        boxed = trace.boxed or any(isinstance(leaf, Tensor) for leaf in leaves)
        return tuple(_regroup(args, argnums, _results(gradients, boxed)))

    return trace.structure.build(_closed(trace.outputs, trace)), pull


# ---- forward mode --------------------------------------------------------------------------------------------------


def jvp(f: Fn, args: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f(*args), and the derivative of f along `tangents`, which have the structures and shapes of the arguments.

    >>> import minigrad as mg
    >>> mg.jvp(lambda x, y: x * y, (3.0, 4.0), (1.0, 0.0))
    (array(12.), array(4.))
    """
    if len(args) != len(tangents):
        raise ValueError(f"jvp needs one tangent an argument: {len(args)} arguments, {len(tangents)} tangents")
    trace = _trace(f, args, range(len(args)))
    leaves, structure = tree.flatten(tuple(tangents))
    expected = tree.flatten(tuple(args))[1]
    if structure != expected:
        raise ValueError(f"the tangents have the structure of the arguments, {expected}, got {structure}")
    tracked = any(isinstance(leaf, Tensor) and leaf.record is not None for leaf in leaves)
    reach, recorded = _reach(trace.outputs, trace.variables)
    recorded = (recorded or tracked) and tape.recorder.get() is not None
    seeds = []
    for variable, leaf in zip(trace.variables, leaves, strict=True):
        seed = (
            leaf if isinstance(leaf, Tensor) and leaf.record is not None else cotangent_for(Tensor(variable.out), leaf)
        )
        seeds.append(
            Tensor(seed) if recorded and not isinstance(seed, Tensor) else constant(seed) if not recorded else seed
        )
    pushed = _walk(reach, trace.variables, recorded).push_forward(seeds, [out.record for out in trace.outputs])
    filled = [
        out.backend.xp.zeros_like(out.array) if t is None else t if isinstance(t, Tensor) else t.copy()
        for out, t in zip(trace.outputs, pushed, strict=True)
    ]
    boxed = trace.boxed or any(isinstance(leaf, Tensor) for leaf in leaves)
    build = trace.structure.build
    return build(_closed(trace.outputs, trace)), build(_results(filled, boxed))


# ---- whole matrices, and products with them ------------------------------------------------------------------------


def jacobian(f: Fn, argnums: int = 0, mode: str = "reverse") -> Fn:
    """A function that gives the Jacobian of f: an array of shape out.shape + x.shape, x being argument `argnums`.

    `mode="reverse"` takes one walk for each element of the result, "forward" one for each element of x.
    f takes and returns single arrays there; ValueError otherwise.

    >>> import minigrad as mg, numpy as np
    >>> mg.jacobian(lambda x: x**2)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    if mode not in ("reverse", "forward"):
        raise ValueError(f'mode is "reverse" or "forward", got {mode!r}')

    def differentiated(*args: Any) -> Any:
        _checked_argnums((argnums,), args)
        x = as_value("jacobian", args[argnums])

        def of_x(x: Any) -> Any:
            return f(*args[:argnums], x, *args[argnums + 1 :])

        if mode == "reverse":
            out, pull = vjp(of_x, x)
            shape = _single(out).shape
            rows = [pull(e)[0] for e in _basis(out)]
            return _stacked(rows, x).reshape((*shape, *x.shape))
        columns = [_single(jvp(of_x, (x,), (e,))[1]) for e in _basis(x)]
        shape = columns[0].shape if columns else _single(of_x(x)).shape
        return (
            _stacked(columns, x)
            .reshape((*x.shape, *shape))
            .transpose((*range(len(x.shape), len(x.shape) + len(shape)), *range(len(x.shape))))
        )

    return differentiated


def _single(out: Any) -> Any:
    if not hasattr(out, "shape"):
        raise ValueError(f"jacobian needs a function of one array, got a {type(out).__name__}")
    return out


def _basis(x: Any) -> list[Array]:
    """The unit arrays of the shape of x."""
    array = constant(x)
    backend = backend_of(array)
    n = int(np.prod(array.shape))
    return [backend.asarray(row.reshape(array.shape)) for row in np.eye(n, dtype=array.dtype)]


def _stacked(rows: list[Any], like: Any) -> Any:
    return stack(rows) if rows else as_value("jacobian", constant(like))[:0]


def hvp(f: Fn, args: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The product of the Hessian of f with `tangents` at `args` (forward over reverse); f returns one number.

    The result has the structure of `args`, a tuple with one entry an argument.

    >>> import minigrad as mg
    >>> mg.hvp(lambda x: x**3, (2.0,), (1.0,))
    (array(12.),)
    """
    every = tuple(range(len(args)))
    return jvp(grad(f, argnums=every), args, tangents)[1]


# ---- ends and new beginnings ---------------------------------------------------------------------------------------


def stop_gradient(x: Any) -> Any:
    """The same values as constants: no gradient passes. x is a pytree.

    >>> import minigrad as mg
    >>> mg.grad(lambda x: x * mg.stop_gradient(x))(3.0)
    array(3.)
    """
    return tree.map(lambda leaf: Tensor(leaf.array) if isinstance(leaf, Tensor) else leaf, x)


class _CustomOp(Primitive):
    """An op made of a user's functions; see `custom_op`."""

    def __init__(self, forward: Fn, vjp: Fn, jvp: Fn | None) -> None:
        super().__init__(lambda _, *values, **static: forward(*values, **static), register=False)
        functools.update_wrapper(self, forward)
        self.name = getattr(forward, "__name__", "custom op")
        self.rule, self.tangent_rule = vjp, jvp

    def pull(self, g: Value, out: Value, values: Sequence[Any], static: dict[str, Any], wanted: Sequence[Any]) -> Any:
        gradients = self.rule(g, out, *values, **static)
        gradients = gradients if isinstance(gradients, tuple | list) else (gradients,)
        if len(gradients) != len(values):
            raise ValueError(
                f"the vjp of `{self.name}` returned {len(gradients)} gradients for {len(values)} arguments"
            )
        checked = []
        for want, gradient, value in zip(wanted, gradients, values, strict=True):
            if want is not None and gradient is None:
                raise ValueError(f"the vjp of `{self.name}` returned None for an argument whose gradient is wanted")
            if want is not None and getattr(gradient, "shape", None) != value.shape:
                raise ValueError(
                    f"the vjp of `{self.name}` returned a gradient of shape {getattr(gradient, 'shape', None)} "
                    f"for an argument of shape {tuple(value.shape)}"
                )
            checked.append(None if want is None else unbroadcast(gradient, value, out, self.name))
        return checked

    def push(self, tangents: Sequence[Any], out: Value, values: Sequence[Any], static: dict[str, Any]) -> Value:
        if self.tangent_rule is None:
            raise TypeError(f"`{self.name}` has no rule for forward mode: give custom_op a jvp")
        filled = [
            t if t is not None else value * 0 if hasattr(value, "shape") else None
            for t, value in zip(tangents, values, strict=True)
        ]
        return self.tangent_rule(filled, out, *values, **static)


def custom_op(forward: Fn | None = None, *, vjp: Fn, jvp: Fn | None = None) -> Fn:
    """An op from your own functions, usable as a decorator.

    `forward(*arrays, **static)` gets raw arrays and returns one array. `vjp(g, out, *values, **static)` returns one
    gradient an argument (None for one without derivative), of its shape and dtype; `jvp(tangents, out, *values)`
    returns the output's tangent, for forward mode. Write both in minigrad's ops and operators, and they serve raw
    arrays and higher orders alike; check them with `minigrad.testing.check_vjp`.

    >>> import minigrad as mg
    >>> @mg.custom_op(vjp=lambda g, out, x: (g * 3 * x**2,))
    ... def cube(x):
    ...     return x**3
    >>> mg.grad(cube)(2.0)
    array(12.)
    """
    if forward is None:
        return functools.partial(custom_op, vjp=vjp, jvp=jvp)
    return _CustomOp(forward, vjp, jvp)


# ---- recomputing instead of remembering ----------------------------------------------------------------------------


class _Checkpoint:
    """The op of a checkpointed call: it keeps the inputs and runs the function again when it is differentiated."""

    name = "checkpoint"
    pull_into: Callable[..., Array] | None = None

    def __init__(self, f: Fn, captured: Sequence[Record]) -> None:
        self.f = f
        self.captured = captured  # what f reaches without being given it: its closure's tensors
        self.context = contextvars.copy_context()  # f draws the same random numbers again

    def _again(self, values: Sequence[Value], recorded: bool) -> tuple[_Trace, tape.Reach, list[Record]]:
        count = len(values) - len(self.captured)
        for record, value in zip(self.captured, values[count:], strict=True):
            if record.out is not constant(value):
                raise RuntimeError(
                    "a tensor that a checkpointed function uses got new .data between forward and backward; "
                    "take the optimiser's step after backward()"
                )
        trace = self.context.copy().run(_trace, self.f, values[:count], range(count))
        targets = [*trace.variables, *self.captured]
        since = min((variable.number for variable in trace.variables), default=next_number())
        reach = reachable([out.record for out in trace.outputs], since, targets)
        if reach.older or reach.leaves:
            raise RuntimeError("a checkpointed function used other tensors when it ran again: it must be pure")
        return trace, reach, targets

    def pull(self, g: Value, out: Value, values: Sequence[Value], static: dict[str, Any], wanted: Sequence[Any]) -> Any:
        recorded = any(isinstance(value, Tensor) for value in [*values, *g])
        trace, reach, targets = self._again(values, recorded)
        seeds = [
            (result.record, gradient)
            for result, gradient in zip(trace.outputs, g, strict=True)
            if result.record is not None and gradient is not None
        ]
        gradients = _walk(reach, targets, recorded).pull_back(seeds)
        return [
            None if want is None else zeros_like(value) if gradient is None else gradient
            for want, gradient, value in zip(wanted, gradients, values, strict=True)
        ]

    def push(self, tangents: Sequence[Any], out: Value, values: Sequence[Value], static: dict[str, Any]) -> Value:
        recorded = any(isinstance(value, Tensor) for value in [*values, *tangents])
        trace, reach, targets = self._again(values, recorded)
        seeds = [zeros_like(value) if t is None else t for t, value in zip(tangents, values, strict=True)]
        pushed = _walk(reach, targets, recorded).push_forward(seeds, [result.record for result in trace.outputs])
        return Bundle(pushed)


def checkpoint(f: Fn) -> Fn:
    """f, but remembering only its inputs: what is between is computed again when a gradient is wanted.

    Less memory for one more run of f. f must be pure; it may use tensors of its closure. Works at every order.
    Source: Griewank and Walther, Algorithm 799 (2000), with one level.

    >>> import minigrad as mg
    >>> mg.grad(mg.checkpoint(lambda x: mg.tanh(mg.tanh(x))))(0.0)
    array(1.)
    """

    @functools.wraps(f, updated=())
    def checkpointed(*args: Any) -> Any:
        leaves, structure = tree.flatten(args)
        arrays = [i for i, leaf in enumerate(leaves) if _floating(leaf)]

        def of_arrays(*values: Any) -> Any:
            filled = list(leaves)
            for i, value in zip(arrays, values, strict=True):
                filled[i] = value
            return f(*structure.build(filled))

        inputs = [as_value("checkpoint", leaves[i]) for i in arrays]
        op = _Checkpoint(of_arrays, ())
        if tape.recorder.get() is None:
            return f(*args)
        since = next_number()
        trace = _trace(of_arrays, inputs, range(len(inputs)))
        reach = reachable([out.record for out in trace.outputs], since, trace.variables)
        op.captured = [*reach.older, *reach.leaves]
        parents = [value.record if isinstance(value, Tensor) else None for value in inputs] + list(op.captured)
        if not any(parent is not None for parent in parents):
            return trace.structure.build(_closed(trace.outputs, trace))
        values = [constant(value) for value in inputs] + [record.out for record in op.captured]
        held = [hold(value, backend_of(value)) for value in values]
        record = Record(op, values, parents, {}, Bundle(out.array for out in trace.outputs), held)
        return trace.structure.build(tape.unbundle(record))

    return checkpointed


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, float) or getattr(getattr(leaf, "dtype", None), "kind", "") == "f"
