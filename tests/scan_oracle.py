"""What `scan` means, as plain loops; random bodies to hold it to that; and how two answers are compared.

The loops are the oracle: `loop` is the docstring of `scan`, `ragged` walks over each row by itself, which is what
`lengths` means. Bodies are drawn as structure (a small program over pytrees of states and inputs); their values come
from a seed. Nothing here looks inside `scan`, so the same tests hold a compiler to the same laws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import minigrad as mg
from minigrad import tree

Arrays = dict[str, Any]

# ---- the meaning of scan -------------------------------------------------------------------------------------------


def loop(fn, elems, initializer, *, has_output=False, reverse=False, length=None):
    """The loop in the docstring of `scan`, with `has_output` and `reverse`."""
    steps = [leaf.shape[0] for leaf in tree.flatten(elems)[0]] or [length]
    state, results = initializer, []
    for t in sorted(range(steps[0]), reverse=reverse):
        new = fn(state, tree.map(lambda leaf, t=t: leaf[t], elems))
        state, result = new if has_output else (new, new)
        results.append(result)
    if not results:
        stacked = tree.map(lambda leaf: as_array(leaf)[None][:0], _example_of_result(fn, elems, state, has_output))
    else:
        stacked = tree.map(lambda *leaves: mg.stack(leaves), *(results[::-1] if reverse else results))
    return (state, stacked) if has_output else stacked


def ragged(fn, elems, initializer, lengths, *, has_output=False, reverse=False):
    """`loop` over each row alone, to its own length; then what `lengths` promises for the rest, put behind it."""
    if len(lengths) == 0:
        return loop(fn, elems, initializer, has_output=has_output, reverse=reverse)
    steps = tree.flatten(elems)[0][0].shape[0]
    finals, stacks = [], []
    for row, n in enumerate(lengths):
        x = tree.map(lambda leaf, row=row, n=n: leaf[:n, row : row + 1], elems)
        start = tree.map(lambda leaf, row=row: leaf[row : row + 1], initializer)
        result = loop(fn, x, start, has_output=has_output, reverse=reverse)
        if has_output:
            final, stacked = result
            rest = tree.map(lambda leaf: np.zeros_like(as_array(leaf)[:1]), stacked)
            if n == 0:
                rest = tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), stacked)
        else:
            stacked = result
            final = tree.map(lambda leaf: leaf[0 if reverse else -1], stacked) if n else start
            rest = tree.map(lambda leaf: leaf[None], start if reverse else final)
        finals.append(final)
        stacks.append(tree.map(lambda s, r, n=n: mg.concatenate([s] + [r] * (steps - n)), stacked, rest))
    joined = tree.map(lambda *leaves: mg.concatenate(leaves, axis=1), *stacks)
    return (tree.map(lambda *leaves: mg.concatenate(leaves), *finals), joined) if has_output else joined


def _example_of_result(fn, elems, state, has_output):
    if not has_output:
        return state
    with mg.no_grad(), np.errstate(all="ignore"):
        return fn(state, tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), elems))[1]


def as_array(value):
    """The NumPy array of a Tensor, an array or a number."""
    return value.array if isinstance(value, mg.Tensor) else np.asarray(value)


# ---- containers ----------------------------------------------------------------------------------------------------


class Named(NamedTuple):
    """A namedtuple for states and the like."""

    first: Any
    rest: Any


@dataclasses.dataclass
class Data:
    """A dataclass for states and the like."""

    first: Any
    rest: Any


def pack(kind: str, leaves: list[Any]) -> Any:
    """Some leaves in a container of a kind."""
    if kind == "bare" and len(leaves) == 1:
        return leaves[0]
    if kind == "list":
        return list(leaves)
    if kind == "dict":  # names in another order than their leaves
        return {f"k{len(leaves) - i}": leaf for i, leaf in enumerate(leaves)}
    if kind in ("named", "data") and leaves:
        return {"named": Named, "data": Data}[kind](leaves[0], tuple(leaves[1:]))
    if kind == "nested":
        return {"a": [*leaves[:1], None], "b": (tuple(leaves[1:]), {})}
    return tuple(leaves)


def unpack(kind: str, packed: Any, count: int) -> list[Any]:
    """The leaves that `pack` put into a container."""
    if kind == "bare" and count == 1:
        return [packed]
    if kind == "dict":
        assert len(packed) == count
        return [packed[f"k{count - i}"] for i in range(count)]
    if kind in ("named", "data") and count:
        assert type(packed) is {"named": Named, "data": Data}[kind]
        return [packed.first, *packed.rest]
    if kind == "nested":
        assert packed["a"][-1] is None
        assert packed["b"][1] == {}
        return [*packed["a"][:-1], *packed["b"][0]]
    assert type(packed) is (list if kind == "list" else tuple)
    return list(packed)


KINDS = ("bare", "tuple", "list", "dict", "named", "data", "nested")

# ---- bodies --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Example:
    """Something to scan: `body(weights)` is the function, which captures the weights that it uses."""

    body: Callable[[Arrays], Callable[[Any, Any], Any]]
    elems: Any
    init: Any
    weights: Arrays
    has_output: bool
    steps: int
    rows: int | None

    def call(self, apply: Callable[..., Any], **options: Any) -> Any:
        """`apply` (scan or an oracle) on plain arrays."""
        return apply(self.body(self.weights), self.elems, self.init, has_output=self.has_output, **options)

    def variables(self) -> Arrays:
        """Every floating leaf by name: what can be differentiated by."""
        named = {}
        for part, given in (("elems", self.elems), ("init", self.init), ("weights", self.weights)):
            leaves, structure = tree.flatten(given)
            named |= {part + path: leaf for path, leaf in zip(structure.paths(), leaves, strict=True)}
        return {name: leaf for name, leaf in named.items() if leaf.dtype.kind == "f"}

    def with_variables(self, values: Arrays) -> tuple[Any, Any, Arrays]:
        """elems, init and weights, with some floating leaves replaced."""
        parts = []
        for part, given in (("elems", self.elems), ("init", self.init), ("weights", self.weights)):
            leaves, structure = tree.flatten(given)
            paths = [part + path for path in structure.paths()]
            parts.append(structure.build([values.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]))
        return tuple(parts)

    def function(self, apply: Callable[..., Any], **options: Any) -> Callable[[Arrays], list[Any]]:
        """A function from variables to the floating leaves of what `apply` gives."""

        def of_variables(values: Arrays) -> list[Any]:
            elems, init, weights = self.with_variables(values)
            result = apply(self.body(weights), elems, init, has_output=self.has_output, **options)
            return [leaf for leaf in tree.flatten(result)[0] if as_array(leaf).dtype.kind == "f"]

        return of_variables


class Plan(NamedTuple):
    """The structure of a random body. Widths are sizes of the last axis; 0 is no axis at all."""

    states: tuple[int, ...]
    inputs: tuple[int, ...]
    tokens: int  # width of an embedding of integer inputs, 0 if there are none
    counter: bool  # whether an integer state counts the steps
    nodes: tuple[tuple[str, int, int, int], ...]
    updates: tuple[tuple[str, int], ...]
    outputs: tuple[int, ...]
    kinds: tuple[str, str, str]


VOCABULARY = 4
NODES = ("linear", "unary", "add", "subtract", "multiply", "blend", "concat", "slice", "softmax", "mean", "scale",
         "choose", "einsum", "divide")  # fmt: skip
UNARIES = (
    mg.tanh, mg.sigmoid, mg.sin, mg.square, lambda a: mg.log1p(a * a), lambda a: 1.0 / (1.0 + a * a), mg.softplus,
    lambda a: mg.sqrt(0.5 + a * a), lambda a: mg.exp(-a * a), lambda a: a**3,
)  # fmt: skip
UPDATES = ("squash", "mix", "keep", "cross", "input")

_small = st.integers(0, 11)


@st.composite
def plans(draw: Any, outputs: bool = True, counter: bool = True) -> Plan:
    """The structure of a body: what comes in, a few operations, what goes out."""
    states = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    inputs = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    tokens = draw(st.sampled_from((0, 0, 2))) if inputs else 2
    return Plan(
        states,
        inputs,
        tokens,
        counter and draw(st.integers(0, 4)) == 4,
        tuple(draw(st.lists(st.tuples(st.sampled_from(NODES), _small, _small, _small), max_size=6))),
        tuple((draw(st.sampled_from(UPDATES)), draw(_small)) for _ in states),
        tuple(draw(st.lists(_small, min_size=1, max_size=3))) if outputs else (),
        tuple(draw(st.sampled_from(KINDS)) for _ in range(3)),
    )


class Program:
    """A plan as a function of weights, states and inputs; it acts on the last axis only, so rows never meet."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __repr__(self) -> str:
        return f"Program({self.plan})"

    def body(self, weights: Arrays) -> Callable[[Any, Any], Any]:
        """The function to scan."""

        def fn(state: Any, x: Any) -> Any:
            self.fetch = weights.__getitem__
            return self._run(state, x)

        return fn

    def make_weights(self, state: Any, x: Any, draw: Callable[..., np.ndarray]) -> Arrays:
        """Run once to find out which weights there are."""
        weights: Arrays = {}
        self.fetch = lambda name: weights.setdefault(name, draw(_shape_of(name)))
        self._run(state, x)
        return weights

    def _weight(self, *shape: int, share: bool = False) -> Any:
        """A weight of a shape; with `share`, perhaps one that this step has used before."""
        same = [name for name in self.used if _shape_of(name) == shape]
        name = same[0] if share and same else f"W{len(self.used)}_{'x'.join(map(str, shape))}"
        self.used.append(name)
        return self.fetch(name)

    def _linear(self, a: Any, width: int, share: bool = False) -> Any:
        return mg.matmul(a, self._weight(a.shape[-1], width, share=share))

    def _run(self, state: Any, x: Any) -> Any:
        plan = self.plan
        self.used: list[str] = []
        state_kind, elems_kind, out_kind = plan.kinds
        states = unpack(state_kind, state, len(plan.states) + plan.counter)
        inputs = unpack(elems_kind, x, len(plan.inputs) + (plan.tokens > 0))
        counts = [states.pop()] if plan.counter else []
        values = [_with_axis(leaf, width) for leaf, width in zip(states, plan.states, strict=True)]
        floats = [_with_axis(leaf, width) for leaf, width in zip(inputs, plan.inputs, strict=False)]
        if plan.tokens:
            floats.append(mg.take(self._weight(VOCABULARY, plan.tokens), inputs[-1], axis=0))
        values += floats
        for node in plan.nodes:
            values.append(self._node(values, floats[0], *node))
        new = [
            self._update(how, values[i % len(values)], states, j, floats[i % len(floats)])
            for j, (how, i) in enumerate(plan.updates)
        ]
        packed = pack(state_kind, new + [count + 1 for count in counts])
        if not plan.outputs:
            return packed
        choices = [
            *values,
            *states,
            *inputs,
            np.ones(values[0].shape, values[0].dtype),
            *[c * 2 for c in counts],
            values[0] > 0,
        ]
        return packed, pack(out_kind, [choices[-1 - i % len(choices)] for i in plan.outputs])

    def _node(self, values: list[Any], x: Any, op: str, i: int, j: int, k: int) -> Any:
        a = values[i % len(values)]
        width = a.shape[-1]
        alike = [value for value in values if value.shape[-1] == width]
        b, c = alike[j % len(alike)], alike[k % len(alike)]
        if op == "linear":
            return self._linear(a, 1 + j % 3, share=k % 2 == 0) + (self._weight(1 + j % 3) if k % 3 else 0.0)
        if op == "unary":
            return UNARIES[j % len(UNARIES)](a)
        if op == "add":
            return a + b
        if op == "subtract":
            return 0.5 * a - b
        if op == "multiply":
            return a * b
        if op == "blend":
            gate = mg.sigmoid(c)
            return gate * a + (1.0 - gate) * b
        if op == "concat":
            return mg.concatenate([a, values[j % len(values)]], axis=-1)[..., :4]
        if op == "slice":
            return a[..., k % 2 * (width // 2) : width - width // 3]
        if op == "softmax":
            return mg.softmax(a)
        if op == "mean":
            return a.mean(axis=-1, keepdims=True) * b
        if op == "scale":
            return self._weight(width, share=True) * a
        if op == "choose":
            return mg.where(x[..., :1] > 0, a, 0.5 * b)
        if op == "einsum":
            return mg.einsum("...i,...i,ij->...j", a, b, self._weight(width, 2, share=True))
        return a / (1.0 + b * b)

    def _update(self, how: str, value: Any, states: list[Any], j: int, x: Any) -> Any:
        width = self.plan.states[j]
        if how == "keep":
            return states[j]
        if how == "cross":
            other = states[(j + 1) % len(states)]
            return other if other.shape == states[j].shape else 0.5 * states[j]
        new = mg.tanh(self._fit(x if how == "input" else value, max(width, 1)))
        new = new if width else new[..., 0]
        return 0.5 * states[j] + 0.5 * new if how == "mix" else new

    def _fit(self, value: Any, width: int) -> Any:
        return value if value.shape[-1] == width else self._linear(value, width)


def _shape_of(name: str) -> tuple[int, ...]:
    return tuple(int(n) for n in name.partition("_")[2].split("x"))


def _with_axis(leaf: Any, width: int) -> Any:
    return leaf if width else mg.expand_dims(leaf, -1)


def draws(seed: int) -> Callable[..., np.ndarray]:
    """A source of generic numbers: of both signs, and between 1/4 and 1 in size, so that logarithms are finite."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.25, 1.0, shape))

    return draw


def realise(plan: Plan, steps: int, rows: int | None, seed: int) -> Example:
    """A plan with numbers: `rows` is B, or None for states and inputs without a row axis."""
    draw = draws(seed)
    batch = () if rows is None else (rows,)

    def leaf(*shape: int) -> np.ndarray:
        return draw((*shape[:-1], *([shape[-1]] if shape[-1] else [])))

    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (steps, *batch))
    elems = [leaf(steps, *batch, width) for width in plan.inputs] + [tokens] * (plan.tokens > 0)
    init = [leaf(*batch, width) for width in plan.states] + [np.zeros(batch, np.int64)] * plan.counter
    program = Program(plan)
    x = [np.zeros(e.shape[1:], e.dtype) for e in elems]
    state_kind, elems_kind, _ = plan.kinds
    init = pack(state_kind, init)
    weights = program.make_weights(init, pack(elems_kind, x), lambda shape: draw(shape) / max(1.0, shape[0] ** 0.5))
    return Example(program.body, pack(elems_kind, elems), init, weights, bool(plan.outputs), steps, rows)


@st.composite
def examples(draw: Any, rows: Any = True, outputs: Any = None, **options: Any) -> Example:
    """A random body with numbers. `rows=True`: always with a row axis, as `lengths` needs it."""
    with_outputs = draw(st.booleans()) if outputs is None else outputs
    plan = draw(plans(outputs=with_outputs, **options))
    steps = draw(st.sampled_from((3, 2, 1, 4, 5, 6, 0)))
    batch = draw(st.sampled_from((2, 1, 3, 0) if rows is True else (2, None, 1, 3, 0)))
    return realise(plan, steps, batch, draw(st.integers(0, 2**16 - 1)))


# ---- the cells that everybody writes -------------------------------------------------------------------------------


def vanilla(w: Arrays) -> Callable[[Any, Any], Any]:
    """h = tanh(x W + h U + b)."""
    return lambda h, x: mg.tanh(x @ w["W"] + h @ w["U"] + w["b"])


def gru(w: Arrays) -> Callable[[Any, Any], Any]:
    """A gated recurrent unit whose update gate keeps; its output is the state."""

    def fn(h: Any, x: Any) -> Any:
        n = h.shape[-1]
        gates = mg.sigmoid(x @ w["W"][:, : 2 * n] + h @ w["U"][:, : 2 * n] + w["b"][: 2 * n])
        r, z = gates[..., :n], gates[..., n:]
        new = mg.tanh(x @ w["W"][:, 2 * n :] + (r * h) @ w["U"][:, 2 * n :] + w["b"][2 * n :])
        h = z * h + (1.0 - z) * new
        return h, h

    return fn


def lstm(w: Arrays) -> Callable[[Any, Any], Any]:
    """A long short-term memory, whose state is a pair and whose output is a dict."""

    def fn(state: Any, x: Any) -> Any:
        i, f, g, o = mg.split(x @ w["W"] + state.first @ w["U"] + w["b"], 4, axis=-1)
        c = mg.sigmoid(f) * state.rest[0] + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        return Named(h, (c,)), {"h": h, "gate": mg.sigmoid(f)}

    return fn


CELLS = {"vanilla": (vanilla, 1), "gru": (gru, 3), "lstm": (lstm, 4)}


def cell_example(name: str, steps: int, rows: int, inputs: int = 2, units: int = 2, seed: int = 0) -> Example:
    """A hand-written cell with numbers, contractive."""
    body, gates = CELLS[name]
    draw = draws(seed)
    weights = {
        "W": draw((inputs, gates * units)),
        "U": draw((units, gates * units)) * 0.6 / units,
        "b": draw((gates * units,)) * 0.5,
    }
    h = draw((rows, units))
    init = Named(h, (draw((rows, units)),)) if name == "lstm" else h
    return Example(body, draw((steps, rows, inputs)), init, weights, name != "vanilla", steps, rows)


# ---- answers, and how they are compared ----------------------------------------------------------------------------


def random_like(values: Any, seed: int) -> Any:
    """Numbers of both signs, between 1/2 and 3/2 in size, for each array of a pytree."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        shape = as_array(leaf).shape
        return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape))

    return tree.map(draw, values)


def first_order(f: Callable[[Arrays], list[Any]], at: Arrays, seed: int) -> Arrays:
    """Values, gradients (reverse mode) and a tangent (forward mode)."""
    values, pull = mg.vjp(f, at)
    (gradients,) = pull(random_like(values, seed))
    _, tangents = mg.jvp(f, (at,), (random_like(at, seed + 1),))
    answers = {f"output {i}": value for i, value in enumerate(values)}
    answers |= {f"gradient by {name}": gradient for name, gradient in gradients.items()}
    return answers | {f"tangent {i}": tangent for i, tangent in enumerate(tangents)}


def loss_of(f: Callable[[Arrays], list[Any]], like: Any, seed: int) -> Callable[[Arrays], Any]:
    """One number: the outputs weighed with random numbers, a little bent so that second derivatives are dense."""
    weights = random_like(like, seed)

    def loss(at: Arrays) -> Any:
        total = mg.asarray(0.0)
        for out, weight in zip(f(at), weights, strict=True):
            total = total + (mg.sin(out) * weight).sum()
        return total

    return loss


MIXTURES = ("reverse over reverse", "forward over reverse", "reverse over forward")


def second_order(loss: Callable[[Arrays], Any], at: Arrays, seed: int, mixture: str) -> Arrays:
    """The Hessian's product with a direction, by one mixture of the two modes."""
    direction = random_like(at, seed)

    def slope(at: Arrays) -> Any:
        gradients = mg.grad(loss)(at)
        terms = [(gradients[name] * direction[name]).sum() for name in at]
        return sum(terms, start=mg.asarray(0.0))

    if mixture == "reverse over reverse":
        return mg.grad(slope)(at)
    if mixture == "forward over reverse":
        return mg.jvp(mg.grad(loss), (at,), (direction,))[1]
    return mg.grad(lambda at: mg.jvp(loss, (at,), (direction,))[1])(at)


EPS = np.finfo(np.float64).eps


def agree(got: Any, expected: Any, rounding: float = 64.0) -> None:
    """Assert two pytrees of answers to be the same up to `rounding` eps of the largest terms (0: exactly).

    Examples are made of numbers of size 1, so every answer is a sum with terms of that size; the largest answer
    says how much they grew. NaN is never equal.
    """
    names = tree.paths(expected)
    got, structure = tree.flatten(got)
    expected, needed = tree.flatten(expected)
    assert structure == needed, f"structure {structure}, expected {needed}"
    got, expected = [as_array(g) for g in got], [as_array(e) for e in expected]
    scale = max([1.0, *[np.abs(e).max(initial=0.0) for e in expected if e.dtype.kind == "f"]])
    for name, g, e in zip(names, got, expected, strict=True):
        assert g.shape == e.shape, f"{name}: shape {g.shape}, expected {e.shape}"
        assert g.dtype == e.dtype, f"{name}: dtype {g.dtype}, expected {e.dtype}"
        allowed = rounding * EPS * scale if e.dtype.kind == "f" else 0.0
        wrong = ~(np.abs(np.subtract(g, e, dtype=np.float64)) <= allowed)
        assert not wrong.any(), f"{name} at {np.argwhere(wrong)[0].tolist()}: {g[wrong][0]}, expected {e[wrong][0]}"


def same(got: Any, expected: Any) -> None:
    """Assert two pytrees of answers to be equal under ==, element by element (so NaN is never equal)."""
    agree(got, expected, rounding=0.0)
