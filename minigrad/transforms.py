"""Functions of functions: grad, vjp, jvp and what follows from them.

All of them trace `f` once, on variables of their own, and walk the records that it left. Nothing else is needed for
higher orders: a walk that meets something else to differentiate runs on tensors, and is recorded itself.

Arguments and results are pytrees. Functions of arrays alone give arrays; with a Tensor among the arguments, or behind
the function, they give Tensors.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import numbers
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minigrad import tape, tree
from minigrad.backend import backend_of
from minigrad.hold import hold
from minigrad.ops.op import Primitive, as_value, complex_numbers, is_abstract, unbroadcast, zeros_like
from minigrad.ops.shape import copy_, reshape, stack
from minigrad.tape import Array, Leaf, Record, Value, constant, next_number, scoped
from minigrad.tensor import Tensor, cotangent_for
from minigrad.walk import Reach, Walk, dependent, leads_to_active_leaf, reachable, was_freed

Fn = Callable[..., Any]


class _Trace:
    """One run of a function on variables of its own, and the walks over what it recorded."""

    def __init__(self, f: Fn, args: Sequence[Any], argnums: Sequence[int], has_aux: bool = False) -> None:
        self.boxed = any(isinstance(leaf, Tensor) for leaf in tree.flatten(tuple(args))[0])
        self.variables: list[Record] = []
        self.structures: list[tree.Structure] = []
        traced = list(args)
        for argnum in argnums:
            if not 0 <= argnum < len(args):
                raise ValueError(f"argnums names argument {argnum}, but {len(args)} positional arguments were given")
            traced[argnum] = self._variables_for(args[argnum], f"argument {argnum}")
        result = self._run(f, traced)
        self.aux = None
        if has_aux:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise TypeError("with has_aux=True the function returns a pair (result, aux)")
            result, self.aux = result
        outputs, self.structure = tree.flatten(result)
        self.outputs = [out if isinstance(out, Tensor) else Tensor(as_value("asarray", out)) for out in outputs]
        self.reach, self.foreign = self._reach(self.outputs)

    def _variables_for(self, arg: Any, where: str) -> Any:
        """The argument with a variable in the place of each leaf."""
        leaves, structure = tree.flatten(arg)
        fresh = [_variable(leaf, where + path) for leaf, path in zip(leaves, structure.paths(), strict=True)]
        self.variables += [variable.record for variable in fresh]
        self.structures.append(structure)
        return structure.build([Tensor(variable.record.out, variable.record) for variable in fresh])

    def _run(self, f: Fn, args: Sequence[Any]) -> Any:
        opened = (*tape.open_variables.get(), *self.variables)
        try:
            with scoped(tape.recorder, tape.recorder.get() or Record), scoped(tape.open_variables, opened):
                return f(*args)
        finally:
            for variable in self.variables:
                if isinstance(variable, Leaf):
                    variable.active = False  # only this trace, which names it as its target, wants its gradient

    def _reach(self, tensors: Sequence[Tensor]) -> tuple[Reach, bool]:
        """What some tensors depend on above the variables, and whether anybody else may differentiate them too."""
        since = min((variable.number for variable in self.variables), default=0)
        reach = reachable([t.record for t in tensors], since, self.variables)
        behind = any(not isinstance(variable, Leaf) for variable in self.variables)
        return reach, bool(reach.leaves or behind or leads_to_active_leaf(reach.older))

    def closed(self, leaves: Sequence[Any]) -> list[Any]:
        """Results of the function as its caller sees them: without our records, unless somebody needs those."""
        _, foreign = self._reach([leaf for leaf in leaves if isinstance(leaf, Tensor)])
        if foreign and tape.recorder.get() is not None:
            return list(leaves)
        return [self.given(_seen(leaf)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def given(self, value: Value) -> Value:
        """A result as the caller expects it: a Tensor where Tensors came in or it is recorded, else an array."""
        if tape.recorder.get() is None and is_abstract(value):
            value = value.unrecorded()  # what a scan traces would pass gradients all the same
        return Tensor(value) if self.boxed and not isinstance(value, Tensor) else value

    def result(self) -> Any:
        """What the function returned, as its caller sees it."""
        return self.structure.build(self.closed(self.outputs))

    def by_argument(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Something for each variable, in the structures of the traced arguments."""
        source = iter(leaves)
        return tuple(structure.build([next(source) for _ in structure.paths()]) for structure in self.structures)

    def pull(self, cotangents: Sequence[Value | None], last: bool = False) -> list[Value]:
        """The gradient of each variable; zeros where nothing depends on it. `last`: nobody will ask again."""
        walk, seeds = self._walk(cotangents, last)
        outputs = [out.record for out in self.outputs]
        roots = [(out, g) for out, g in zip(outputs, seeds, strict=True) if out is not None and g is not None]
        return self._filled(walk.pull_back(roots), [variable.out for variable in self.variables])

    def push(self, tangents: Sequence[Value | None]) -> list[Value]:
        """The tangent of each output."""
        walk, seeds = self._walk(tangents)
        pushed = walk.push_forward(seeds, [out.record for out in self.outputs])
        return self._filled(pushed, [out.array for out in self.outputs])

    def _walk(self, seeds: Sequence[Value | None], last: bool = False) -> tuple[Walk, list[Value | None]]:
        """A walk over the trace, recorded if anybody else may differentiate it too, and seeds fit for it (None: 0)."""
        foreign = self.foreign or any(isinstance(seed, Tensor) and seed.record is not None for seed in seeds)
        recorded = foreign and tape.recorder.get() is not None
        needed = dependent(self.reach.order, self.variables)
        walk = Walk(self.reach.order, self.variables, recorded, needed, last)
        if recorded:
            return walk, [seed if seed is None or isinstance(seed, Tensor) else Tensor(seed) for seed in seeds]
        return walk, [constant(seed) for seed in seeds]

    def _filled(self, values: Sequence[Value | None], likes: Sequence[Array]) -> list[Value]:
        """The walk's results, zeros where it has none; arrays that share memory with nothing."""
        filled = [zeros_like(like) if value is None else value for value, like in zip(values, likes, strict=True)]
        return [self.given(value if isinstance(value, Tensor) else value.copy()) for value in filled]


def _seen(leaf: Tensor) -> Array:
    """The array of a result, as others may see it."""
    return leaf.array if is_abstract(leaf.array) else leaf.data


def _variable(x: Any, where: str) -> Any:
    """A tensor that stands for one argument: a record of its own, connected to what made the argument."""
    value = as_value("asarray", x)
    array = constant(value)
    if array.dtype.kind != "f":
        raise TypeError(
            f"cannot differentiate by {where}: its dtype is {array.dtype}, and only floating numbers have derivatives; "
            "convert it with astype('float64'), or leave it out of argnums"
        )
    parent = value.record if isinstance(value, Tensor) else None
    if parent is None:
        return Tensor(array, Leaf(array))
    return Tensor(array, Record(copy_, (array,), (parent,), {}, array, hold((array,), backend_of(array))))


def _seeds(what: str, given: Any, like: Any) -> list[Value]:
    """The leaves of `what`, a cotangent or a tangent, checked against the tree of tensors that it belongs to."""
    leaves, got = tree.flatten(given)
    likes, needed = tree.flatten(like)
    if got != needed:
        raise ValueError(f"{what} needs the structure {needed}, got {got} (* is an array)")
    places = zip(needed.paths(), leaves, likes, strict=True)
    return [_seed(what + path, leaf, of) for path, leaf, of in places]


def _seed(what: str, given: Any, like: Tensor) -> Value:
    """One leaf: of the shape, dtype and backend of what it belongs to; a tracked one stays a Tensor."""
    try:
        seed = as_value("asarray", given)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    if tuple(seed.shape) != like.shape:
        raise ValueError(
            f"{what} needs the shape {like.shape}, got {tuple(seed.shape)}; give one number for each element"
        )
    tracked = isinstance(seed, Tensor) and seed.record is not None
    if seed.dtype != like.dtype if tracked else seed.dtype.kind not in "fiub":
        raise TypeError(f"{what} needs the dtype {like.dtype}, got {seed.dtype}; give it in {like.dtype}")
    return seed if tracked else cotangent_for(like, seed)


def _as_argnums(argnums: int | Sequence[int]) -> tuple[tuple[int, ...], bool]:
    """The numbers of the arguments to differentiate by, and whether they were given as a sequence."""
    named: tuple[Any, ...] = tuple(argnums) if isinstance(argnums, Sequence) else (argnums,)
    if not all(isinstance(number, numbers.Integral) and not isinstance(number, bool) for number in named):
        raise TypeError(f"argnums is the number of an argument, or a tuple of such numbers, got {argnums!r}")
    if len(set(named)) != len(named):
        raise ValueError(f"argnums {named} names an argument twice")
    return named, isinstance(argnums, Sequence)


def _as_tuple(rule: str, example: str, given: Any) -> tuple[Any, ...]:
    """`args` or `tangents`, of which there is one for each argument; TypeError for what stands there by itself."""
    if not isinstance(given, tuple | list):
        shape = getattr(given, "shape", None)
        got = f"a {type(given).__name__}" if shape is None else f"an array of shape {tuple(shape)}"
        raise TypeError(f"{rule}, got {got}: write {example}")
    return tuple(given)


# ---- reverse mode --------------------------------------------------------------------------------------------------


def value_and_grad(f: Fn, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Fn:
    """A function that gives (f(...), gradient); f returns one number, or (number, aux) with `has_aux=True`.

    The gradient has the structure, shapes and dtypes of the argument at `argnums` (a tuple of them for a tuple or
    another sequence of numbers); with `has_aux` the function gives ((number, aux), gradient). TypeError for an
    argument that is not floating, ValueError for a result of more than one element.

    >>> import minigrad as mg, numpy as np
    >>> mg.value_and_grad(lambda x: (x * x).sum())(np.array([1.0, 2.0]))
    (array(5.), array([2., 4.]))
    """
    named, several = _as_argnums(argnums)

    @functools.wraps(f, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        trace = _Trace(functools.partial(f, **kwargs), args, named, has_aux)
        if len(trace.outputs) != 1 or trace.outputs[0].size != 1:
            got = [out.shape for out in trace.outputs] if trace.outputs else trace.structure
            raise ValueError(f"grad needs a function of one number, got results of shapes {got}; use vjp or jacobian")
        if trace.outputs[0].dtype.kind != "f":
            raise TypeError(f"grad needs a function of a floating result, got {trace.outputs[0].dtype}")
        gradients = trace.by_argument(trace.pull([cotangent_for(trace.outputs[0], None)], last=True))
        value = trace.result()
        if has_aux:
            leaves, structure = tree.flatten(trace.aux)
            value = (value, structure.build(trace.closed(leaves)))
        return value, gradients if several else gradients[0]

    return differentiated


def grad(f: Fn, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Fn:
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


def vjp(f: Fn, *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """f(*args), and `pull(g)`, which gives one gradient an argument from a cotangent of the result's structure.

    `pull` may be called any number of times. TypeError for an argument that is not floating, ValueError for a
    cotangent of another structure or shape.

    >>> import minigrad as mg, numpy as np
    >>> out, pull = mg.vjp(lambda x, y: x * y, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    >>> pull(np.array([1.0, 10.0]))
    (array([ 3., 40.]), array([ 1., 20.]))
    """
    trace = _Trace(f, args, range(len(args)))

    def pull(g: Any) -> tuple[Any, ...]:
        seeds = _seeds("the cotangent of the result", g, trace.structure.build(trace.outputs))
        return trace.by_argument(trace.pull(seeds))

    return trace.result(), pull


# ---- forward mode --------------------------------------------------------------------------------------------------


def jvp(f: Fn, args: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f(*args), and the derivative of f along `tangents`, which have the structures and shapes of the arguments.

    TypeError for an argument that is not floating, and for args or tangents that are neither tuple nor list;
    ValueError for tangents of another number, structure or shape.

    >>> import minigrad as mg
    >>> mg.jvp(lambda x, y: x * y, (3.0, 4.0), (1.0, 0.0))
    (array(12.), array(4.))
    """
    args = _as_tuple("args is a tuple of arguments", "(x,)", args)
    tangents = _as_tuple("tangents is a tuple of tangents", "(t,)", tangents)
    if len(tangents) != len(args):
        raise ValueError(
            f"tangents has one tangent for each argument, got {len(tangents)} for {len(args)}; "
            "give zeros for an argument that does not move"
        )
    trace = _Trace(f, args, range(len(args)))
    likes = trace.by_argument([Tensor(variable.out) for variable in trace.variables])
    seeds = []
    for i, (tangent, like) in enumerate(zip(tangents, likes, strict=True)):
        seeds += _seeds(f"the tangent of argument {i}", tangent, like)
    return trace.result(), trace.structure.build(trace.push(seeds))


# ---- whole matrices, and products with them ------------------------------------------------------------------------


def jacobian(f: Fn, argnums: int | Sequence[int] = 0, mode: str = "reverse") -> Fn:
    """A function that gives the Jacobian of f by the argument at `argnums`, or by several of them.

    Of one array by one array x it is an array of shape out.shape + x.shape. Of pytrees it has the structure of f's
    result, at each leaf of it the structure of the argument (a tuple of them for a sequence of argnums), and at each
    leaf of that such an array. `mode="reverse"` takes one walk for each element of the result and gives the dtype of
    x, "forward" takes one for each element of x and gives the dtype of the result. TypeError for an argument or a
    result that is not floating, ValueError for a function that returns no array.

    >>> import minigrad as mg, numpy as np
    >>> mg.jacobian(lambda x: x**2)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    >>> mg.jacobian(lambda p: {"y": p["a"] * p["b"]})({"a": 2.0, "b": np.array([3.0, 4.0])})
    {'y': {'a': array([3., 4.]), 'b': array([[2., 0.],
           [0., 2.]])}}
    """
    if mode not in ("reverse", "forward"):
        raise ValueError(f'mode is "reverse" or "forward", got {mode!r}')
    named, several = _as_argnums(argnums)

    @functools.wraps(f, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        trace = _Trace(functools.partial(f, **kwargs), args, named)
        if not trace.outputs:
            raise ValueError(f"jacobian needs a function of at least one array, got {trace.structure}")
        for out, path in zip(trace.outputs, trace.structure.paths(), strict=True):
            if out.dtype.kind != "f":
                raise TypeError(f"jacobian needs a function of floating results, got {out.dtype} for the result{path}")
        outs, xs = [out.array for out in trace.outputs], [variable.out for variable in trace.variables]
        walked = _by_units(trace.pull, outs) if mode == "reverse" else _by_units(trace.push, xs)

        def block(j: int, k: int) -> Value:
            """The derivative of leaf j of the result by leaf k of the arguments."""
            if mode == "reverse":
                parts, axis, like = [gradients[k] for gradients in walked[j]], 0, xs[k]
            else:
                parts, axis, like = [tangents[j] for tangents in walked[k]], -1, outs[j]
            shape = (*outs[j].shape, *xs[k].shape)
            if not parts:
                return trace.given(backend_of(like).xp.zeros(shape, dtype=like.dtype))
            return reshape(stack(parts, axis), shape)

        rows = [trace.by_argument([block(j, k) for k in range(len(xs))]) for j in range(len(outs))]
        return trace.structure.build([row if several else row[0] for row in rows])

    return differentiated


def _by_units(walk: Callable[[list[Value | None]], list[Value]], sources: Sequence[Array]) -> list[list[list[Value]]]:
    """For each leaf and each of its elements, what a walk gives from a 1 there and zeros elsewhere."""
    return [
        [walk([unit if i == place else None for i in range(len(sources))]) for unit in _units(source)]
        for place, source in enumerate(sources)
    ]


def _units(like: Array) -> Iterator[Array]:
    """The unit arrays of the shape of another, in the order of its elements."""
    backend = backend_of(like)
    for row in np.eye(int(np.prod(like.shape)), dtype=like.dtype):
        yield backend.asarray(row.reshape(like.shape))


def hvp(f: Fn, args: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The product of the Hessian of f with `tangents` at `args` (forward over reverse); f returns one number.

    The result has the structure of `args`, a tuple with one entry an argument. Errors as those of `grad` and `jvp`.

    >>> import minigrad as mg
    >>> mg.hvp(lambda x: x**3, (2.0,), (1.0,))
    (array(12.),)
    """

    def gradient(*xs: Any) -> Any:
        return grad(f, argnums=range(len(xs)))(*xs)

    return jvp(gradient, args, tangents)[1]


# ---- ends and new beginnings ---------------------------------------------------------------------------------------


def stop_gradient(x: Any) -> Any:
    """The same values as constants: no gradient passes. x is a pytree.

    >>> import minigrad as mg
    >>> mg.grad(lambda x: x * mg.stop_gradient(x))(3.0)
    array(3.)
    """
    return tree.map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, x)


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
            # on arrays the gradient is an array, though a rule may compute with tensors of its own
            given = gradient if isinstance(g, Tensor) else constant(gradient)
            checked.append(None if want is None else unbroadcast(given, value, out, self.name))
        return checked

    def push(self, tangents: Sequence[Any], out: Value, values: Sequence[Any], static: dict[str, Any]) -> Value:
        if self.tangent_rule is None:
            raise TypeError(f"`{self.name}` has no rule for forward mode: give custom_op a jvp")
        filled = [
            t if t is not None else value * 0 if hasattr(value, "shape") else None
            for t, value in zip(tangents, values, strict=True)
        ]
        tangent = self.tangent_rule(filled, out, *values, **static)
        return np.asarray(tangent) if isinstance(tangent, np.generic) else tangent  # NumPy's, of arrays without axes


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
    structural = False

    def __init__(self, f: Fn) -> None:
        self.f = f
        self.own_inputs = 0  # how many of the record's inputs f is given; see `Tape.uses`
        self.captured: list[Any] = []  # the records that f reaches without being given them: its closure's tensors
        self.context = contextvars.copy_context()  # f draws the same random numbers again

    def _walk(
        self, outs: Sequence[Array], values: Sequence[Value], carried: Sequence[Value | None]
    ) -> tuple[_Trace, Walk]:
        """Run the function again, and get ready to walk from or to its inputs and captured tensors.

        `outs` are the results of its first run.
        """
        count = len(values) - len(self.captured)
        for record, value in zip(self.captured, values[count:], strict=True):
            if record.out is not constant(value):
                raise RuntimeError(
                    "a tensor that a checkpointed function uses got new .data between forward and backward; "
                    "take the optimiser's step after backward()"
                )
        closed = [record for record in self.captured if isinstance(record, Leaf) and not record.active]
        for leaf in closed:
            leaf.active = True  # as when f ran first: transforms in f must see that it is being differentiated
        try:
            trace = self.context.copy().run(_traced_quietly, self.f, values[:count])
        finally:
            for leaf in closed:
                leaf.active = False
        targets = [*trace.variables, *self.captured]
        since = min((variable.number for variable in trace.variables), default=0)
        reach = reachable([out.record for out in trace.outputs], since, targets)
        if reach.older or reach.leaves:
            raise RuntimeError("a checkpointed function used other tensors when it ran again: it must be pure")
        _demand_the_same(outs, trace)
        boxed = any(isinstance(value, Tensor) for value in [*values, *carried])
        return trace, Walk(reach.order, targets, boxed, needed=dependent(reach.order, targets))

    def pull(self, g: Value, out: Value, values: Sequence[Value], static: dict[str, Any], wanted: Sequence[Any]) -> Any:
        trace, walk = self._walk(out, values, list(g.values()))
        roots = [
            (result.record, g[place])
            for place, result in enumerate(trace.outputs)
            if result.record is not None and place in g
        ]
        return [
            None if want is None else zeros_like(value) if gradient is None else gradient
            for want, gradient, value in zip(wanted, walk.pull_back(roots), values, strict=True)
        ]

    def push(self, tangents: Sequence[Any], out: Value, values: Sequence[Value], static: dict[str, Any]) -> Value:
        trace, walk = self._walk(out, values, tangents)
        seeds = [zeros_like(value) if t is None else t for t, value in zip(tangents, values, strict=True)]
        pushed = walk.push_forward(seeds, [result.record for result in trace.outputs])
        return {place: tangent for place, tangent in enumerate(pushed) if tangent is not None}


def _traced_quietly(f: Fn, values: Sequence[Value]) -> _Trace:
    """Run f again: what it had to warn of, it did the first time."""
    with np.errstate(all="ignore"):
        return _Trace(f, values, range(len(values)))


ROUNDINGS = 64
"""How many roundings of the largest element two runs may differ by: not every machine rounds alike twice."""


def _demand_the_same(first: Sequence[Array], trace: _Trace) -> None:
    """Raise RuntimeError unless a checkpointed function's second run, the trace, gave the numbers of its first run.

    Waits for the device once. In a body that is being traced there are no numbers to compare.
    """
    again = [out.array for out in trace.outputs]
    form = [(array.dtype, tuple(array.shape)) for array in first]
    if form != [(array.dtype, tuple(array.shape)) for array in again]:
        raise RuntimeError("a checkpointed function gave other shapes or dtypes when it ran again: it must be pure")
    known = [i for i, pair in enumerate(zip(first, again, strict=True)) if not any(map(is_abstract, pair))]
    with np.errstate(all="ignore"):
        same = [_equal(first[i], again[i]).all() for i in known]
        if not same or bool(functools.reduce(operator.and_, same)):
            return
        unlike = [i for i, alike in zip(known, same, strict=True) if not bool(alike)]
        different = [i for i in unlike if not _rounded_alike(first[i], again[i])]
    if different:
        path = list(trace.structure.paths())[different[0]]
        raise RuntimeError(
            f"a checkpointed function gave other numbers when it ran again, in result{path}: gradients would be wrong. "
            "It must be pure: draw with minigrad.random, and do not change what it uses (an array, a number of its "
            "closure) between forward and backward"
        )


def _equal(a: Array, b: Array) -> Array:
    """Where two arrays have the same numbers, NaN being the same as NaN."""
    return (a == b) | ((a != a) & (b != b))  # noqa: PLR0124  # of every dtype; integers have no isnan everywhere


def _rounded_alike(a: Array, b: Array) -> bool:
    """Whether two arrays differ by roundings alone, as sums do that a library adds up in another order."""
    same = _equal(a, b)
    if a.dtype.kind in "fc":
        xp = backend_of(a).xp
        largest = xp.where(xp.isfinite(a), xp.abs(a), 0).max()
        same = same | (xp.abs(a - b) <= ROUNDINGS * float(np.finfo(a.dtype).eps) * largest)
    return bool(same.all())


def _constants(records: Sequence[Record]) -> list[weakref.ref[Any]]:
    """Weak references to the arrays that records were given as constants, and to what those are views of."""
    found = {}
    for record in records:
        for value, parent in zip(record.values, record.parents, strict=True):
            array = value if parent is None else None
            while array is not None and id(array) not in found:
                with contextlib.suppress(TypeError):  # a number, or an array that is never read-only
                    found[id(array)] = weakref.ref(array)
                base = getattr(array, "base", None)
                array = base if base.__class__ is array.__class__ else None
    return list(found.values())


def checkpoint(f: Fn) -> Fn:
    """f, but remembering only its inputs: what is between is computed again when a gradient is wanted.

    Less memory for one more run of f. f must be pure; it may use tensors of its closure. Works at every order.
    RuntimeError in backward where f gives other numbers than before (beyond 64 roundings of an array's largest
    element: not every library adds up in one order twice); NumPy arrays that f uses are read-only until then. TypeError
    where f gives complex numbers. Source: Griewank and Walther, Algorithm 799 (2000), with one level.

    >>> import minigrad as mg
    >>> mg.grad(mg.checkpoint(lambda x: mg.tanh(mg.tanh(x))))(0.0)
    array(1.)
    """

    @functools.wraps(f, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree.flatten((args, kwargs))
        arrays = [i for i, leaf in enumerate(leaves) if _floating(leaf)]

        def of_arrays(*values: Any) -> Any:
            filled = list(leaves)
            for i, value in zip(arrays, values, strict=True):
                filled[i] = value
            positional, named = structure.build(filled)
            return f(*positional, **named)

        recorder = tape.recorder.get()
        if recorder is None:
            return f(*args, **kwargs)
        inputs = [as_value("checkpoint", leaves[i]) for i in arrays]
        op = _Checkpoint(of_arrays)
        since = next_number()
        op.own_inputs = len(inputs)
        with scoped(tape.recorder, Record):  # a Tape sees the run that counts, the second
            trace = _Trace(of_arrays, inputs, range(len(inputs)))
        reach = reachable([out.record for out in trace.outputs], since, trace.variables)
        op.captured = [*reach.older, *reach.leaves]
        for captured in op.captured:
            if captured.values is None:
                raise was_freed(captured)
        parents = [value.record if isinstance(value, Tensor) else None for value in inputs] + op.captured
        if not any(parents):
            return trace.result()
        if any(out.dtype.kind == "c" and out.record is not None for out in trace.outputs):
            raise complex_numbers("checkpoint")
        result, outs = trace.structure, tuple(out.array for out in trace.outputs)
        depends = [out.record is not None for out in trace.outputs]
        constants = _constants(reach.order)
        del trace, reach  # what f made itself goes with them; other constants are somebody else's, who may write
        values = [constant(value) for value in inputs] + [record.out for record in op.captured]
        used = [*values, *(array for array in [weak() for weak in constants] if array is not None)]
        held = [hold((array,), backend_of(array)) for array in used]
        picked = tape.unbundle(recorder(op, values, parents, {}, outs, held))
        for place, out in enumerate(outs):
            if not depends[place]:
                picked[place] = Tensor(out)  # it stays a constant
        return result.build(picked)

    return checkpointed


def _floating(leaf: Any) -> bool:
    return getattr(getattr(leaf, "dtype", None), "kind", "") == "f"
