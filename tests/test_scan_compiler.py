"""What the compiler of `scan` promises beyond scan's meaning: which products stay in a loop, what is compiled again
and what is not, what cannot be traced, and that random bodies run compiled as they run unrolled.

`test_scan` holds scan to its laws, compiled or not; here every test asserts that a compiled program ran.
"""

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import minigrad as mg
import random_bodies
from minigrad import tree
from minigrad.scan import CACHE_SIZE, TraceError, clear_cache, info
from minigrad.testing import fake_cupy
from scan_oracle import (
    MIXTURES,
    Example,
    agree,
    as_array,
    draws,
    first_order,
    loss_of,
    random_like,
    same,
    second_order,
)

T, B, I, H, S, CLASSES = 5, 2, 2, 3, 4, 3


def run(example, unroll=False, **options):
    """The example by the compiler, or step by step."""
    return example.call(mg.scan, unroll=unroll, **options)


def ran(call: Callable[[], Any]) -> Any:
    """What a call gives; it must have run a compiled program."""
    before = info().runs
    result = call()
    assert info().runs > before, "no compiled program ran"
    return result


def compilations(call: Callable[[], Any]) -> int:
    """How many programs a call compiles."""
    before = info().compilations
    ran(call)
    return info().compilations - before


# ---- bodies whose best program is known ----------------------------------------------------------------------------


def vanilla(w):
    return lambda h, x: mg.tanh(x @ w["W"] + h @ w["U"] + w["b"])


def gru_reset_before(w):
    def fn(h, x):
        r = mg.sigmoid(x @ w["Wr"] + h @ w["Ur"] + w["br"])
        z = mg.sigmoid(x @ w["Wz"] + h @ w["Uz"] + w["bz"])
        n = mg.tanh(x @ w["Wn"] + (r * h) @ w["Un"] + w["bn"])
        return z * h + (1 - z) * n

    return fn


def gru_reset_after(w):
    def fn(h, x):
        from_x, from_h = x @ w["W"] + w["b"], h @ w["U"] + w["c"]
        r = mg.sigmoid(from_x[:, :H] + from_h[:, :H])
        z = mg.sigmoid(from_x[:, H : 2 * H] + from_h[:, H : 2 * H])
        n = mg.tanh(from_x[:, 2 * H :] + r * from_h[:, 2 * H :])
        return z * h + (1 - z) * n

    return fn


def gru_reset_after_in_parts(w):
    def fn(h, x):
        r = mg.sigmoid(x @ w["Wr"] + h @ w["Ur"] + w["br"])
        z = mg.sigmoid(x @ w["Wz"] + h @ w["Uz"] + w["bz"])
        n = mg.tanh(x @ w["Wn"] + r * (h @ w["Un"] + w["cn"]) + w["bn"])
        return (1 - z) * n + z * h

    return fn


def lstm_step(i, f, g, o, c):
    c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
    return mg.sigmoid(o) * mg.tanh(c), c


def lstm_fused(w):
    def fn(state, x):
        h, c = state
        return lstm_step(*mg.split(x @ w["W"] + h @ w["U"] + w["b"], 4, axis=-1), c)

    return fn


def lstm_in_parts(w):
    def fn(state, x):
        h, c = state
        return lstm_step(*[x @ w["W" + k] + h @ w["U" + k] + w["b" + k] for k in "ifgo"], c)

    return fn


def lstm_in_another_order(w):
    def fn(memory, x):
        cell, shown = memory
        pre = shown @ w["U"] + (w["b"] + x @ w["W"])
        out, update, forget, write = (pre[:, k * H : (k + 1) * H] for k in (3, 0, 2, 1))
        cell = mg.tanh(update) * mg.sigmoid(write) + cell * mg.sigmoid(forget)
        return cell, mg.tanh(cell) * mg.sigmoid(out)

    return fn


def lstm_peephole(w):
    def fn(state, x):
        h, c = state
        i, f, g, o = mg.split(x @ w["W"] + h @ w["U"] + w["b"], 4, axis=-1)
        i, f = mg.sigmoid(i + w["pi"] * c), mg.sigmoid(f + w["pf"] * c)
        c = f * c + i * mg.tanh(g)
        return mg.sigmoid(o + w["po"] * c) * mg.tanh(c), c

    return fn


def lstm_concatenated(w):
    def fn(state, x):
        h, c = state
        return lstm_step(*mg.split(mg.concatenate([x, h], axis=-1) @ w["K"] + w["b"], 4, axis=-1), c)

    return fn


def residual(w):
    return lambda h, x: h + mg.tanh(x @ w["W"] + h @ w["U"] + w["b"])


def two_layers(w):
    def fn(state, x):
        below = mg.tanh(x @ w["W1"] + state["below"] @ w["U1"] + w["b1"])
        above = mg.tanh(below @ w["W2"] + state["above"] @ w["U2"] + w["b2"])
        return {"below": below, "above": above}

    return fn


def two_lstm_layers(w):
    def fn(state, x):
        h1, c1 = lstm_step(*mg.split(x @ w["W1"] + state[0] @ w["U1"] + w["b1"], 4, axis=-1), state[1])
        h2, c2 = lstm_step(*mg.split(h1 @ w["W2"] + state[2] @ w["U2"] + w["b2"], 4, axis=-1), state[3])
        return (h1, c1, h2, c2), h2

    return fn


def with_cross_entropy(w):
    def fn(h, x):
        h = mg.tanh(x["x"] @ w["W"] + h @ w["U"] + w["b"])
        logits = h @ w["V"] + w["c"]
        return h, (mg.cross_entropy(logits, x["label"]), logits)

    return fn


def with_squares(w):
    def fn(state, x):
        h, c = lstm_fused(w)(state, x["x"])
        return (h, c), ((h @ w["V"] + w["c"] - x["y"]) ** 2).sum(axis=-1)

    return fn


def attention(w):
    def fn(h, x):
        scores = mg.einsum("bsh,bh->bs", w["memory"], h @ w["A"])
        context = mg.einsum("bs,bsh->bh", mg.softmax(scores, axis=-1), w["memory"])
        h = mg.tanh(x @ w["W"] + h @ w["U"] + context @ w["C"])
        return h, (h, scores)

    return fn


def attention_by_matmul(w):
    def fn(h, x):
        scores = mg.squeeze(w["memory"] @ mg.expand_dims(h @ w["A"], 2), 2)
        context = mg.squeeze(mg.expand_dims(mg.softmax(scores, axis=-1), 1) @ w["memory"], 1)
        return mg.tanh(x @ w["W"] + h @ w["U"] + context @ w["C"]), scores

    return fn


def products_in_stacks(w):
    def fn(h, x):
        z = mg.tanh((mg.expand_dims(x @ w["W"], 1) + w["memory"]) @ w["N"])
        context = mg.squeeze(mg.swapaxes(z @ w["v"], 1, 2) @ w["memory"], 1)
        return mg.tanh(h @ w["U"] + context), z

    return fn


def products_with_rows(w):
    """One factor of each outer product in its derivative is the same at all steps."""

    def fn(h, x):
        keys = mg.tanh(mg.expand_dims(x @ w["W"], 1) + w["memory"])
        left = mg.squeeze(w["p"] @ (keys + w["memory"]), 1)
        right = mg.squeeze((keys + w["memory"]) @ w["q"], 2)
        return mg.tanh(h @ w["U"] + left), right

    return fn


def products_with_one_row(w):
    """Of stacks of matrices, one that is alone is the same for all rows."""

    def fn(h, x):
        outer = mg.expand_dims(mg.tanh(x @ w["W"]), 2) @ w["right"]
        return mg.tanh(h @ w["U"] + mg.squeeze(w["left"] @ mg.sin(outer), 1))

    return fn


def powers_side_by_side(w):
    """Each piece of the concatenation is the one before it times the same."""

    def fn(h, x):
        p = mg.sigmoid(x @ w["W"] + h)
        q = p * h
        slab = mg.concatenate([p, q, q * h], axis=1)
        return mg.tanh(slab @ w["V"]), slab @ w["A"]

    return fn


def ignores_its_input(w):
    return lambda h, x: mg.tanh(h @ w["U"] + w["b"])


def ignores_its_state(w):
    return lambda h, x: mg.tanh(x @ w["W"] + w["b"]) @ w["V"]


def passes_a_carry_through(w):
    def fn(state, x):
        h, context = state
        return mg.tanh(x @ w["W"] + h @ w["U"] + context @ w["C"]), context

    return fn


def counts(w):
    def fn(state, x):
        h, n = state
        return (mg.tanh(x @ w["W"] + h @ w["U"] + 0.1 * n[:, None]), n + 1), mg.take(
            w["E"], mg.minimum(n, 3), axis=0
        ) + h

    return fn


def minimal_gated_unit(w):
    def fn(h, x):
        f = mg.sigmoid(x @ w["Wf"] + h @ w["Uf"] + w["bf"])
        return (1 - f) * h + f * mg.tanh(x @ w["Wn"] + (f * h) @ w["Un"] + w["bn"])

    return fn


WX, UH, BH = (I, H), (H, H), (H,)
GRU = {f"{kind}{gate}": shape for gate in "rzn" for kind, shape in (("W", WX), ("U", UH), ("b", BH))}
LSTM = {"W": (I, 4 * H), "U": (H, 4 * H), "b": (4 * H,)}
LSTM_PARTS = {f"{kind}{gate}": shape for gate in "ifgo" for kind, shape in (("W", WX), ("U", UH), ("b", BH))}
VANILLA = {"W": WX, "U": UH, "b": BH}
ONE, TWO, PAIR = (B, H), [(B, H)] * 2, ((B, H), (B, H))


class Known(NamedTuple):
    """A body, the shapes of what it captures and of its state, and the products that each of its loops may keep."""

    body: Callable[[dict[str, Any]], Callable[[Any, Any], Any]]
    weights: dict[str, tuple[int, ...]]
    state: Any
    forward: list[int]
    backward: list[int]
    has_output: bool = False
    elems: Any = (T, B, I)
    at_most: bool = False


KNOWN = {
    "vanilla": Known(vanilla, VANILLA, ONE, [1], [1]),
    "GRU, reset before": Known(gru_reset_before, GRU, ONE, [2], [2]),
    "GRU, reset after": Known(
        gru_reset_after, {"W": (I, 3 * H), "U": (H, 3 * H), "b": (3 * H,), "c": (3 * H,)}, ONE, [1], [1]
    ),
    "GRU, reset after, in parts": Known(gru_reset_after_in_parts, {**GRU, "cn": BH}, ONE, [1], [1]),
    "LSTM": Known(lstm_fused, LSTM, PAIR, [1], [1]),
    "LSTM in parts": Known(lstm_in_parts, LSTM_PARTS, PAIR, [1], [1]),
    "LSTM in another order": Known(lstm_in_another_order, LSTM, PAIR, [1], [1]),
    "LSTM with peepholes": Known(lstm_peephole, {**LSTM, "pi": BH, "pf": BH, "po": BH}, PAIR, [1], [1]),
    "LSTM, concatenated": Known(lstm_concatenated, {"K": (I + H, 4 * H), "b": (4 * H,)}, PAIR, [1], [1]),
    "residual": Known(residual, VANILLA, ONE, [1], [1]),
    "two layers": Known(
        two_layers, {"W1": WX, "U1": UH, "b1": BH, "W2": UH, "U2": UH, "b2": BH}, {"below": ONE, "above": ONE},
        [1, 1], [1, 1],
    ),
    "two LSTM layers": Known(
        two_lstm_layers,
        {**{k + n: shape for k, shape in LSTM.items() for n in "12"}, "W2": (H, 4 * H)},
        (ONE,) * 4, [1, 1], [1, 1], has_output=True,
    ),
    "output layer, cross entropy": Known(
        with_cross_entropy, {**VANILLA, "V": (H, CLASSES), "c": (CLASSES,)}, ONE, [1], [1], has_output=True,
        elems={"x": (T, B, I), "label": "labels"},
    ),
    "output layer, squares": Known(
        with_squares, {**LSTM, "V": (H, CLASSES), "c": (CLASSES,)}, PAIR, [1], [1], has_output=True,
        elems={"x": (T, B, I), "y": (T, B, CLASSES)},
    ),
    # Five as it is written; h @ A and h @ U may become one, so may the products with the memory.
    "attention": Known(
        attention, {"memory": (B, S, H), "A": UH, "W": WX, "U": UH, "C": UH}, ONE, [5], [5], has_output=True,
        at_most=True,
    ),
    "attention by matmul": Known(
        attention_by_matmul, {"memory": (B, S, H), "A": UH, "W": WX, "U": UH, "C": UH}, ONE, [5], [5], has_output=True,
        at_most=True,
    ),
    "products in stacks": Known(
        products_in_stacks, {"memory": (B, S, H), "W": WX, "N": (B, H, H), "v": (H, 1), "U": UH}, ONE, [1], [1],
        has_output=True,
    ),
    "products with rows": Known(
        products_with_rows, {"memory": (B, S, H), "W": WX, "p": (B, 1, S), "q": (B, H, 1), "U": UH}, ONE, [1], [1],
        has_output=True,
    ),
    "products with one row": Known(
        products_with_one_row, {"W": WX, "right": (1, 1, H), "left": (1, 1, H), "U": UH}, ONE, [1], [1]
    ),
    "powers side by side": Known(
        powers_side_by_side, {"W": WX, "V": (3 * H, H), "A": (3 * H, 2)}, ONE, [1], [1], has_output=True
    ),
    "ignores its input": Known(ignores_its_input, {"U": UH, "b": BH}, ONE, [1], [1]),
    "ignores its state": Known(ignores_its_state, {"W": WX, "b": BH, "V": UH}, ONE, [], []),
    "passes a carry through": Known(passes_a_carry_through, {"W": WX, "U": UH, "C": UH}, (ONE, ONE), [1], [1]),
    "counts": Known(counts, {"W": WX, "U": UH, "E": (4, H)}, (ONE, "counter"), [1], [1], has_output=True),
    "minimal gated unit": Known(
        minimal_gated_unit, {k: shape for k, shape in {**GRU, "Wf": WX, "Uf": UH, "bf": BH}.items() if k[1] in "fn"},
        ONE, [2], [2],
    ),
}  # fmt: skip

known = pytest.mark.parametrize("name", KNOWN)


def example_of(name: str, steps: int = T) -> Example:
    """A known body with numbers; products with square weights shrink a little, so that nothing saturates."""
    spec, draw = KNOWN[name], draws(3)

    def filled(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: filled(part) for key, part in shape.items()}
        if isinstance(shape, (tuple, list)) and shape and not isinstance(shape[0], int):
            return tuple(filled(part) for part in shape)
        if shape == "labels":
            return np.random.default_rng(0).integers(0, CLASSES, (steps, B))
        if shape == "counter":
            return np.arange(B)
        return draw((steps if shape[0] == T else shape[0], *shape[1:])) * 0.7

    elems, init = filled(spec.elems), filled(spec.state)
    return Example(spec.body, elems, init, {k: filled(v) for k, v in spec.weights.items()}, spec.has_output, steps, B)


@known
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_known_bodies_are_those_of_the_tape(name, reverse):
    """Values, gradients by everything, and tangents."""
    example = example_of(name)
    agree(ran(lambda: run(example, reverse=reverse)), run(example, unroll=True, reverse=reverse))
    at = example.variables()
    got = ran(lambda: first_order(example.function(mg.scan, reverse=reverse), at, 1))
    agree(got, first_order(example.function(mg.scan, reverse=reverse, unroll=True), at, 1))


@known
@pytest.mark.parametrize("mixture", MIXTURES)
def test_second_derivatives_of_known_bodies(name, mixture):
    example = example_of(name)
    at = example.variables()
    slow = example.function(mg.scan, unroll=True)
    like = slow(at)
    got = ran(lambda: second_order(loss_of(example.function(mg.scan), like, 2), at, 3, mixture))
    agree(got, second_order(loss_of(slow, like, 2), at, 3, "reverse over reverse"))


@known
@pytest.mark.parametrize("options", [{"lengths": [2, 5]}, {"checkpoint": 2}, {"lengths": [5, 0], "checkpoint": "sqrt"}],
                         ids=["lengths", "checkpoint", "both"])  # fmt: skip
def test_known_bodies_with_options(name, options):
    example = example_of(name)
    at = example.variables()
    got = ran(lambda: first_order(example.function(mg.scan, **options), at, 1))
    agree(got, first_order(example.function(mg.scan, unroll=True, lengths=options.get("lengths")), at, 1))


def program_of(name: str, **options: Any) -> Any:
    """The programs of a known body of which everything wants its gradient."""
    example = example_of(name)
    elems, init, weights = tree.map(
        lambda leaf: mg.tensor(leaf, requires_grad=True) if leaf.dtype.kind == "f" else leaf,
        (example.elems, example.init, example.weights),
    )
    return mg.explain.program(example.body(weights), elems, init, has_output=example.has_output, **options)


@known
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"lengths": [2, 5]}], ids=["", "reverse", "lengths"])
def test_products_in_loops(name, options):
    """At every step of each loop, in their order; a loop without products costs no more than its carry."""
    spec, program = KNOWN[name], program_of(name, **options)
    for part, expected in ((program.forward, spec.forward), (program.backward, spec.backward)):
        counted = [n for n in part.products_in_loops if n]
        if spec.at_most:
            assert len(counted) == len(expected), part.source
            assert all(n <= most for n, most in zip(counted, expected, strict=True)), part.source
        else:
            assert counted == expected, part.source


@pytest.mark.parametrize("lengths", [None, [5, 2, 4]], ids=["padded", "packed"])
def test_a_piece_without_columns(lengths):
    """Its values stand nowhere, so none is lost."""

    def fn(h, x):
        return mg.tanh(h + x), mg.concatenate([mg.tanh(x) * h, np.zeros((3, 2))], 1)

    args = fn, np.zeros((5, 3, 0)), np.zeros((3, 0))
    got, expected = (mg.scan(*args, has_output=True, lengths=lengths, unroll=unroll) for unroll in (False, True))
    agree(got, expected)


def test_sums_of_outer_products_are_one_product_for_each_row():
    """And those that are not summed multiply element by element."""
    backward = program_of("products in stacks").backward
    assert backward.source.count("matmul(steps_beside(") == 1  # of the memory
    assert "sum_of_steps" not in backward.source
    assert re.search(r"multiply\(d_z_v_all, transpose\d, ", backward.source), backward.source
    source = program_of("products with rows").backward.source
    assert "multiply(sum_of(" in source
    assert re.search(r"multiply\(\w+, sum_of\(", source), source
    packed = program_of("products in stacks", lengths=[2, 5]).backward
    assert "steps_beside" not in packed.source


@known
def test_programs_are_python_that_can_be_read(name):
    program = program_of(name)
    for part in (program.forward, program.backward):
        ast.parse(part.source)
        assert part.source in str(program)
        comments = [line for line in part.source.splitlines() if line.strip().startswith("#")]
        assert comments, part.source
    assert repr(program) == str(program)


@known
@pytest.mark.parametrize("options", [{}, {"lengths": [2, 5]}], ids=["", "lengths"])
def test_a_frame_holds_what_is_read_and_nothing_else(name, options):
    """With lengths it is made anew at every call, and there each list of views costs what a call in every step does."""
    program = program_of(name, **options)
    for part in (program.forward, program.backward):
        make, run = ast.parse(part.source).body
        *lines, handed_on = make.body
        read = {
            n.id for f in (*lines, run) for n in ast.walk(f) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
        }
        made = {
            line.targets[0].id: line
            for line in lines
            if isinstance(line, ast.Assign) and hasattr(line.targets[0], "id")
        }
        unread = {name for name in made if name not in read} - {"N"}
        kept = {element.id for element in handed_on.value.elts} if part is program.forward else set()
        assert unread <= kept, (unread - kept, part.source)


def test_packed_steps_do_what_padded_steps_do_in_as_many_calls():
    """But for two copies of each state: the same function of adjacent columns is one call, and a bias one product."""

    def calls_a_step(source):
        (loop,) = [
            n
            for n in ast.walk(ast.parse(source))
            if isinstance(n, ast.For) and isinstance(n.iter, ast.Call) and n.iter.func.id == "zip"
        ]
        return len(loop.body)

    padded, packed = program_of("LSTM"), program_of("LSTM", lengths=[2, 5])
    assert calls_a_step(packed.forward.source) == calls_a_step(padded.forward.source) + 2 * 2
    assert calls_a_step(packed.backward.source) == calls_a_step(padded.backward.source)
    assert "sum_of(" not in packed.backward.source


def test_a_program_of_constants_wants_no_gradient_and_one_of_tensors_names_them():
    example = example_of("LSTM")
    program = mg.explain.program(example.body(example.weights), example.elems, example.init)
    assert [n for n in program.forward.products_in_loops if n] == [1]
    kernel = mg.tensor(example.weights["U"], requires_grad=True, name="kernel")
    clear_cache()  # names are no part of the key: a program has those of the body that it was made for
    program = mg.explain.program(example.body({**example.weights, "U": kernel}), example.elems, example.init)
    assert "kernel" in str(program)


def test_only_what_is_wanted_is_computed():
    """Without a wish for gradients of the inputs, backward has no product for them."""

    def products(wanted):
        example = example_of("vanilla")
        weights = {k: mg.tensor(v, requires_grad=k in wanted) for k, v in example.weights.items()}
        elems = mg.tensor(example.elems, requires_grad="x" in wanted)
        source = mg.explain.program(example.body(weights), elems, example.init).backward.source
        return len(re.findall(r"\b(matmul|dot)\(", source))

    assert products({"b"}) < products({"b", "U"}) < products({"b", "U", "W"}) < products({"b", "U", "W", "x"})


@pytest.mark.parametrize("name", ["vanilla", "GRU, reset after", "LSTM"])
def test_every_subset_of_known_bodies(name):
    example = example_of(name)
    at = example.variables()
    like = example.function(mg.scan, unroll=True)(at)
    names = sorted(at)
    every = first_order(example.function(mg.scan, unroll=True), at, 1)
    assert len(every) > len(like)
    for mask in range(1, 2 ** len(names)):
        some = {n: at[n] for i, n in enumerate(names) if mask >> i & 1}
        got = ran(lambda some=some: first_order(example.function(mg.scan), some, 1))
        agree(
            {k: v for k, v in got.items() if not k.startswith("tangent")},
            {k: v for k, v in every.items() if k in got and not k.startswith("tangent")},
        )


# ---- what is compiled again, and what is not -----------------------------------------------------------------------

N = 3


def answers(call: "Call", unroll: bool = False) -> dict[str, Any]:
    """Values and gradients of a call of scan."""
    leaves = {name: mg.tensor(value, requires_grad=name in call.wanted) for name, value in call.at.items()}
    for other, name in call.one_tensor.items():
        leaves[other] = leaves[name]
    results = tree.flatten(mg.scan(*call.make(leaves), unroll=unroll, **call.options))[0]
    floats = [leaf for leaf in results if as_array(leaf).dtype.kind == "f"]
    terms = [(leaf * (0.5 + k)).sum() for k, leaf in enumerate(floats) if isinstance(leaf, mg.Tensor)]
    total = sum(terms, start=mg.asarray(np.float32(0.0)))
    if total.requires_grad:
        total.backward()
    found = {f"output {k}": leaf.array if isinstance(leaf, mg.Tensor) else leaf for k, leaf in enumerate(results)}
    return found | {f"gradient by {name}": leaves[name].grad for name in call.wanted}


class Call(NamedTuple):
    """One call of scan: `make` gives its arguments from some leaves."""

    make: Callable[[dict[str, Any]], tuple[Any, Any, Any]]
    at: dict[str, np.ndarray]
    wanted: tuple[str, ...] = ("x", "h", "W", "U")
    one_tensor: dict[str, str] = {}  # noqa: RUF012  # never written to
    options: dict[str, Any] = {}  # noqa: RUF012

    def checked(self) -> int:
        """How many programs it compiles; its answers are those of the tape, however often it runs."""
        before = info().compilations
        got = ran(lambda: answers(self))
        count = info().compilations - before
        agree(got, answers(self, unroll=True), rounding=64 if self.at["x"].dtype == np.float64 else 2.0**35)
        return count


def leaves_for(seed: int = 0, steps: int = 4, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Inputs, a state and weights that are square, so that no shape tells two bodies apart."""
    draw = draws(seed)
    shapes = {"x": (steps, N, N), "h": (N, N), "W": (N, N), "U": (N, N)}
    return {name: (draw(shape) * 0.6).astype(dtype) for name, shape in shapes.items()}


def body_call(body: Callable[..., Any], **changes: Any) -> Call:
    """A call of `body(w, h, x)` on the square leaves."""
    return Call(lambda w: (lambda h, x: body(w, h, x), w["x"], w["h"]), leaves_for())._replace(**changes)


def plain(w, h, x):
    return mg.tanh(x @ w["W"] + h @ w["U"])


def branching(choose):
    return body_call(lambda w, h, x: (new := plain(w, h, x), choose(h, x, new)), options={"has_output": True})


# Pairs of calls that differ in one part of the key, at equal shapes.
ANOTHER_PROGRAM = {
    "a slice's bounds": [
        body_call(lambda w, h, x, k=k: mg.tanh(x[:, k : k + 2].sum(axis=1, keepdims=True) + h @ w["U"])) for k in (0, 1)
    ],
    "a slice's step": [body_call(lambda w, h, x, k=k: mg.tanh(x[:, ::k] + h @ w["U"])) for k in (1, -1)],
    "which axis is sliced": [
        body_call(lambda w, h, x: mg.tanh(x[1:2, :] + h @ w["U"])),
        body_call(lambda w, h, x: mg.tanh(mg.reshape(x[:, 1:2], (1, N)) + h @ w["U"])),
    ],
    "an index": [body_call(lambda w, h, x, k=k: mg.tanh(x[k] + h @ w["U"])) for k in (0, 1, -1)],
    "an axis of a sum": [body_call(lambda w, h, x, k=k: mg.tanh(x.sum(axis=k) + h @ w["U"])) for k in (0, 1)],
    "an axis of softmax": [body_call(lambda w, h, x, k=k: mg.softmax(x + h @ w["U"], axis=k)) for k in (0, 1)],
    "an axis of cumsum": [body_call(lambda w, h, x, k=k: mg.tanh(mg.cumsum(h + x, axis=k))) for k in (0, 1)],
    "an axis of concatenate": [
        body_call(lambda w, h, x, k=k: mg.tanh(mg.concatenate([h, x], axis=k).reshape(2 * N, N)[:N] @ w["U"]))
        for k in (0, 1)
    ],
    "axes of a transpose": [
        body_call(lambda w, h, x, axes=axes: mg.tanh(mg.transpose(h @ w["U"] + x, axes))) for axes in ((0, 1), (1, 0))
    ],
    "a slope": [body_call(lambda w, h, x, k=k: 0.5 * mg.leaky_relu(x + h @ w["U"], slope=k)) for k in (0.1, 0.2)],
    "alpha": [body_call(lambda w, h, x, k=k: 0.5 * mg.elu(x + h @ w["U"], alpha=k)) for k in (1.0, 1.3)],
    "an einsum": [
        body_call(lambda w, h, x, k=k: mg.tanh(x + mg.einsum(k, h, w["U"]))) for k in ("bi,ij->bj", "bi,ji->bj")
    ],
    "an op": [body_call(lambda w, h, x, f=f: f(x @ w["W"] + h @ w["U"])) for f in (mg.tanh, mg.sigmoid, mg.sin)],
    "a comparison": [
        body_call(lambda w, h, x, f=f: mg.where(f(x, 0.0), mg.tanh(h @ w["U"]), x))
        for f in (lambda a, b: a > b, lambda a, b: a < b)
    ],
    "the branches of where": [
        body_call(lambda w, h, x: mg.where(x > 0, h, x) * 0.5), body_call(lambda w, h, x: mg.where(x > 0, x, h) * 0.5),
    ],
    "the order of operands": [
        body_call(lambda w, h, x: mg.tanh(x - h @ w["U"])), body_call(lambda w, h, x: mg.tanh(h @ w["U"] - x)),
    ],
    "the wiring": [body_call(plain), body_call(lambda w, h, x: mg.tanh(h @ w["W"] + x @ w["W"] + 0.0 * w["U"]))],
    "what is captured": [
        body_call(lambda w, h, x: mg.tanh(h @ w["W"] + h @ w["U"] + x)),
        body_call(lambda w, h, x: mg.tanh(h @ w["W"] + x @ w["U"] + x)),
    ],
    "captures that are one tensor": [
        body_call(plain), body_call(plain, wanted=("x", "h", "W"), one_tensor={"U": "W"}),
    ],
    "which leaves want gradients": [
        body_call(plain, wanted=wanted) for wanted in (("W",), ("U",), ("x",), ("h",), ("W", "U"), ("x", "h", "W", "U"))
    ],
    "whether anything wants gradients": [body_call(plain, wanted=()), body_call(plain)],
    "reverse": [body_call(plain), body_call(plain, options={"reverse": True})],
    "lengths": [body_call(plain), body_call(plain, options={"lengths": [4, 1, 3]})],
    "the output": [
        branching(lambda h, x, new: new), branching(lambda h, x, new: h), branching(lambda h, x, new: x),
        branching(lambda h, x, new: (h, x)), branching(lambda h, x, new: (x, h)), branching(lambda h, x, new: h * x),
    ],
    "which state is which": [
        Call(lambda w, k=k: (lambda s, x: k(s, x @ w["W"]), w["x"], (w["h"], w["U"])), leaves_for())
        for k in (lambda s, x: (s[0] + x, s[1] * x), lambda s, x: (s[1] * x, s[0] + x))
    ],
    "dtype": [body_call(plain), body_call(plain, at=leaves_for(dtype="float32"))],
    "a dtype inside": [
        body_call(lambda w, h, x: mg.tanh(x @ w["W"] + h @ w["U"] + 0.0)),
        body_call(lambda w, h, x: mg.tanh((x @ w["W"]).astype("float32").astype("float64") + h @ w["U"] + 0.0)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ANOTHER_PROGRAM)
def test_each_part_of_the_key_alone_makes_another_program(name):
    clear_cache()
    for call in ANOTHER_PROGRAM[name]:
        assert call.checked() > 0, "a program of another body was taken"
    for call in ANOTHER_PROGRAM[name]:
        assert call.checked() == 0, "what had been compiled was compiled again"


RIGHT_NUMBERS = {
    "a transposed weight": [body_call(plain), body_call(lambda w, h, x: mg.tanh(x @ w["W"] + h @ w["U"].T))],
    "a slice of a weight": [
        body_call(lambda w, h, x, k=k: mg.tanh(x @ w["W"] + (h @ w["U"][:, k : k + 1]))) for k in (0, 1, 2)
    ],
    "a capture that is the state's start": [
        body_call(plain), body_call(plain, wanted=("x", "h", "W"), one_tensor={"U": "h"}),
    ],
    "ddof": [body_call(lambda w, h, x, k=k: mg.tanh(h @ w["U"] + mg.var(x, axis=0, ddof=k))) for k in (0, 1)],
    "powers": [body_call(lambda w, h, x, k=k: mg.tanh(h @ w["U"] + x**k)) for k in (2, 3, 2.0, 1, 0, 4, -1, -2)],
    "bounds of clip": [body_call(lambda w, h, x, k=k: mg.clip(h @ w["U"] + x, -k, k)) for k in (0.1, 0.3, 1)],
    "a list of places": [
        body_call(lambda w, h, x, k=k: mg.tanh(x[:, k] + h)) for k in ([0, 1, 2], [2, 1, 0], [1, 1, 0])
    ],
    "an array of places": [
        body_call(lambda w, h, x, k=k: mg.tanh(mg.take(x, np.array(k), axis=1) + h)) for k in ([0, 1, 2], [2, 1, 0])
    ],
    "a mask": [
        body_call(lambda w, h, x, k=k: mg.where(np.array(k), mg.tanh(h + x), h))
        for k in ([True, False, True], [False] * 3, [True, True, False])
    ],
    "a dtype of a number": [body_call(lambda w, h, x, k=k: mg.tanh(h + k * x)) for k in (1, 1.0, True, np.float32(1))],
    "seeds": [
        body_call(lambda w, h, x, k=k: mg.tanh(h + x * mg.random.normal((N, N), seed=k))) for k in (0, 1, (1, 2), 2**40)
    ],
    "a probability": [
        body_call(lambda w, h, x, k=k: mg.tanh(h + x * mg.random.bernoulli((N, N), seed=0, p=k)))
        for k in (0.5, 0.9, 0.1)
    ],
    "the shape of a step": [
        body_call(lambda w, h, x, k=k: mg.tanh((x[:k] @ w["W"]).sum(axis=0) + h @ w["U"])) for k in (1, 2, 3)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT_NUMBERS)
def test_calls_alike_are_not_mixed_up(name):
    """Whether these share a program is the compiler's affair; the numbers are right, in any order."""
    clear_cache()
    for call in [*RIGHT_NUMBERS[name], *RIGHT_NUMBERS[name][::-1]]:
        call.checked()


def test_has_output_makes_another_result():
    """A pair as state, and a state with an output, are the same two leaves."""
    clear_cache()
    draw = draws(0)
    fn = lambda s, x: (mg.tanh(s[0] + x), s[0] * x)  # noqa: E731
    pair = fn, draw((4, 3)), (draw((3,)), draw((3,)))
    for _ in range(2):
        same(ran(lambda: mg.scan(*pair)), mg.scan(*pair, unroll=True))
        with_output = lambda s, x: (fn((s, None), x)[0], s * x)  # noqa: E731
        single = with_output, pair[1], pair[2][0]
        got = ran(lambda single=single: mg.scan(*single, has_output=True))
        same(got, mg.scan(*single, has_output=True, unroll=True))


def test_the_backend_makes_another_program():
    clear_cache()
    at = leaves_for()
    call = body_call(plain)
    expected = answers(call, unroll=True)
    for _ in range(2):
        agree(ran(lambda: answers(call)), expected)
        with mg.use_backend("strict"):
            device = tree.map(fake_cupy.backend.asarray, at)
            got = ran(lambda device=device: answers(call._replace(at=device)))
        agree(tree.map(fake_cupy.backend.to_host, got), expected)
    assert compilations(lambda: answers(call)) == 0


def test_under_no_grad_another_program_runs():
    clear_cache()
    call = body_call(plain)
    agree(ran(lambda: answers(call)), answers(call, unroll=True))
    with mg.no_grad():
        got = ran(lambda: mg.scan(*call.make({k: mg.tensor(v, requires_grad=True) for k, v in call.at.items()})))
    assert not got.requires_grad
    agree(as_array(got), answers(call, unroll=True)["output 0"])


def numbers_call(a, b, n, p) -> Call:
    return body_call(lambda w, h, x: mg.tanh(a * (x @ w["W"]) + (b - h) / (n + 0.5) + n * (h @ w["U"]) - p))


SAME_PROGRAM = {
    "T": [body_call(plain, at=leaves_for(steps=steps)) for steps in (4, 1, 2, 7, 30)],
    "values": [body_call(plain, at=leaves_for(seed)) for seed in range(4)],
    "numbers": [
        numbers_call(*numbers) for numbers in ((0.5, 1.0, 2, 3), (0.25, 2.0, 3, 1), (1.0, 0.0, 1, 0), (0.0, -1.5, 0, 1))
    ],
    "NumPy's scalars": [
        body_call(lambda w, h, x, a=a: mg.tanh(np.float64(a) * (x @ w["W"]) + h @ w["U"])) for a in (0.5, 1.0, 0.0, 2.0)
    ],
    "arrays made in the body": [
        body_call(lambda w, h, x, a=a: mg.tanh(np.full((N, N), a) * (x @ w["W"]) + h @ w["U"])) for a in (0.5, 1.0, 0.0)
    ],
    "a number in a comparison": [
        body_call(lambda w, h, x, a=a: mg.where(x > a, mg.tanh(h @ w["U"]), x)) for a in (0.0, 0.1, -10.0, 10)
    ],
    "lengths": [
        body_call(plain, options={"lengths": n})
        for n in ([4, 1, 3], [1, 2, 1], [0, 0, 4], [4, 4, 4], np.array([2, 3, 0]))
    ],
    "closures": [
        body_call(make(k)) for k in range(3)
        for make in (lambda k: lambda w, h, x: mg.tanh(x @ w["W"] + h @ w["U"] * (k + 1.0)),)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SAME_PROGRAM)
def test_what_is_an_input_at_run_time_compiles_nothing(name):
    clear_cache()
    first, *others = SAME_PROGRAM[name]
    assert first.checked() > 0
    for call in others:
        assert call.checked() == 0
    assert first.checked() == 0


def test_a_training_run_compiles_once():
    """Weights updated, a number annealed, T and lengths from batch to batch: one forward and one backward program."""
    clear_cache()
    example = example_of("GRU, reset after")
    weights = {k: mg.tensor(v, requires_grad=True) for k, v in example.weights.items()}
    optimiser = mg.optim.SGD(list(weights.values()), 0.1)
    counts = []
    for step in range(5):
        draw = draws(step)
        x, n = draw((3 + step, B, I)), np.array([1 + step, 3])
        rate = 1.0 / (1 + step)

        def loss(unroll=False, x=x, n=n, rate=rate):
            fn = example.body(weights)
            return mg.scan(lambda h, x: fn(h, rate * x), x, example.init, lengths=n, unroll=unroll)[-1].sum()

        expected = loss(unroll=True)
        expected.backward()
        wanted = {k: w.grad for k, w in weights.items()}
        for w in weights.values():
            w.grad = None
        before = info().compilations
        value = ran(loss)
        value.backward()
        counts.append(info().compilations - before)
        agree({"loss": value, **{k: w.grad for k, w in weights.items()}}, {"loss": expected, **wanted})
        optimiser.step()
    assert counts[0] > 0
    assert counts[1:] == [0] * 4


def test_a_body_is_traced_once_a_call_and_twice_when_it_is_new():
    clear_cache()
    calls = []

    def fn(h, x):
        calls.append(1)
        return mg.tanh(h + x)

    for expected in (2, 1, 1):
        calls.clear()
        before = info()
        mg.scan(fn, np.ones(6), 0.0)
        assert len(calls) == expected
        assert info().traces - before.traces == expected
        assert info().compilations - before.compilations == (expected == 2)
        assert info().runs - before.runs == 1


def test_the_cache_is_bounded_and_forgets_what_was_not_used_for_longest():
    clear_cache()
    x = np.linspace(-1.0, 1.0, 4)

    def body(k):
        return lambda s, x: 0.5 * mg.leaky_relu(s + x, slope=k / 1000)

    def compiles(k):
        got = []
        count = compilations(lambda: got.append(mg.scan(body(k), x, 0.1)))
        states, s = [], 0.1
        for t in x:
            s = 0.5 * (s + t) * (1.0 if s + t > 0 else k / 1000)
            states.append(s)
        agree(got[0], np.array(states))
        return count

    for k in range(CACHE_SIZE + 10):
        assert compiles(k) == 1
        assert compiles(0) == 0  # used again and again, so it stays
    assert compiles(CACHE_SIZE + 9) == 0
    assert compiles(1) == 1, "it should have been forgotten"
    clear_cache()
    assert compiles(CACHE_SIZE + 9) == 1


# ---- what cannot be traced -----------------------------------------------------------------------------------------

TABLE = np.arange(6.0)
W = np.ones((2, 2)) / 2
kept: list[Any] = []


def if_on_a_value(s, x):
    if s.sum() > 0:  # here
        return s + x
    return s - x


def while_on_a_value(s, x):
    while (s * s).sum() < 1.0:  # here
        s = s * 2.0
    return s


def conditional_expression(s, x):
    return s if x[0] > 0 else -s  # here


def python_max(s, x):
    return s * max(s[0], x[0])  # here


def and_of_values(s, x):
    return mg.where(s[0] > 0 and x[0] > 0, s, x)  # here


def chained_comparison(s, x):
    return mg.where(-1.0 < s[0] < 1.0, s, x)  # here


def to_float(s, x):
    return s * float(x[0])  # here


def to_int(s, x):
    return s + int(x[0])  # here


def item(s, x):
    scale = x[0].item()  # here
    return s * scale


def numpy_method(s, x):
    return s + x.numpy()  # here


def np_asarray(s, x):
    return s + np.asarray(x)  # here


def np_array(s, x):
    return s + np.array(x, dtype=float)  # here


def rounded(s, x):
    return s + round(float(x[0]), 2)  # here


def index_into_an_array(s, x):
    return s + TABLE[x[0].astype("int64")]  # here


def index_into_a_list(s, x):
    return s + [1.0, 2.0][(x[0] * 0).astype("int64")]  # here


def range_of_a_value(s, x):
    for _ in range((x[0] * 0).astype("int64")):  # here
        s = s + 1.0
    return s


def no_such_op(s, x):
    return s + np.sort(x)  # here


def helper_that_decides(s):
    return s if s[0] > 0 else -s  # here, in a function that the body calls


def deep_inside(s, x):
    return helper_that_decides(s + x)


UNTRACEABLE = {
    "if": if_on_a_value, "while": while_on_a_value, "a if b else c": conditional_expression, "max()": python_max,
    "and": and_of_values, "a < b < c": chained_comparison, "float()": to_float, "int()": to_int, ".item()": item,
    ".numpy()": numpy_method, "np.asarray()": np_asarray, "np.array()": np_array, "round()": rounded,
    "array[traced]": index_into_an_array, "list[traced]": index_into_a_list, "range()": range_of_a_value,
    "np.sort": no_such_op, "in a function": deep_inside,
}  # fmt: skip

HERE = Path(__file__)


def line_here(fn: Callable[..., Any]) -> int:
    """The line marked `# here` in a function of this file, or in the helper that it calls."""
    fn = helper_that_decides if fn is deep_inside else fn
    lines = HERE.read_text().splitlines()
    return next(n for n in range(fn.__code__.co_firstlineno, len(lines)) if "# here" in lines[n - 1])


def assert_teaches(error: Any, fn: Callable[..., Any]) -> None:
    """One message that names the file and the line, and a way out."""
    assert f"{HERE.name}, line {line_here(fn)}" in str(error.value), str(error.value)
    assert "unroll=True" in str(error.value), str(error.value)


X = np.array([[0.5, -0.25], [0.75, 1.0], [1.5, 0.25]])


@pytest.mark.parametrize("name", UNTRACEABLE)
@pytest.mark.parametrize("boxed", [False, True], ids=["arrays", "gradients"])
def test_what_cannot_be_traced_is_an_error_that_names_the_line(name, boxed):
    fn = UNTRACEABLE[name]
    x = mg.tensor(X, requires_grad=True) if boxed else X
    before = info().runs
    with pytest.raises(TraceError) as error:
        mg.scan(fn, x, np.array([0.5, 0.25]))
    assert isinstance(error.value, TypeError)
    assert_teaches(error, fn)
    assert info().runs == before
    assert_nothing_is_left_behind()


def assert_nothing_is_left_behind():
    """After an error, ops record and scans compile as before."""
    a = mg.tensor(2.0, requires_grad=True)
    (a * a).backward()
    same(a.grad, np.array(4.0))
    same(ran(lambda: mg.scan(lambda s, x: s + x, np.ones(3), 0.0)), np.array([1.0, 2.0, 3.0]))


def test_unroll_runs_what_cannot_be_traced():
    same(mg.scan(if_on_a_value, X, np.array([0.5, 0.25]), unroll=True)[-1], np.array([3.25, 1.25]))
    same(mg.scan(to_float, np.ones((2, 2)), np.ones(2), unroll=True), np.ones((2, 2)))


def test_a_traced_value_may_not_be_used_after_its_trace():
    kept.clear()

    def leaks(s, x):
        kept.append(s * x)
        return s + x

    mg.scan(leaks, X, np.zeros(2))

    def used_outside():
        return kept[0] + 1.0  # here

    for use in (used_outside, lambda: mg.tanh(kept[0]), lambda: kept[0].sum(), lambda: np.ones(2) @ kept[0]):
        with pytest.raises(TraceError) as error:
            use()
        if use is used_outside:
            assert_teaches(error, used_outside)
    assert_nothing_is_left_behind()


def test_a_traced_value_may_not_be_used_in_the_next_trace():
    kept.clear()

    def fn(s, x):
        s = s + kept[-1] if kept else s  # here
        kept.append(x)
        return s * x

    with pytest.raises(TraceError) as error:
        mg.scan(fn, X, np.zeros(2))
    assert_teaches(error, fn)
    kept.clear()

    def stores(s, x):
        kept.append(x)
        return s * x

    def reads(s, x):
        return s + kept[0]  # here

    mg.scan(stores, X, np.zeros(2))
    with pytest.raises(TraceError) as error:
        mg.scan(reads, X, np.zeros(2))
    assert_teaches(error, reads)
    assert_nothing_is_left_behind()


def test_an_inner_body_may_not_leak_into_the_outer():
    def outer(s, x):
        inside = []

        def inner(c, y):
            inside.append(c * y)
            return c + y

        last = mg.scan(inner, x, 0.0)[-1]
        return s + last + inside[0]  # here

    with pytest.raises(TraceError) as error:
        mg.scan(outer, np.ones((3, 2)), 0.0)
    assert_teaches(error, outer)
    assert_nothing_is_left_behind()


def alternating_ops(calls):
    def fn(s, x):
        calls.append(1)
        return s * x if len(calls) % 2 else s + x

    return fn


def growing(calls):
    def fn(s, x):
        calls.append(1)
        for _ in calls:
            s = mg.tanh(s)
        return s + x

    return fn


def moving_slice(calls):
    def fn(s, x):
        calls.append(1)
        return s + x[len(calls) % 2]

    return fn


def counted_number(calls):
    def fn(s, x):
        calls.append(1)
        return s * 0.5 ** len(calls) + x

    return fn


def counted_operand(calls):
    def fn(s, x):
        calls.append(1)
        return s * len(calls) + x

    return fn


def drawn_by_numpy(calls):
    rng = np.random.default_rng(0)
    return lambda s, x: s + x * rng.normal(size=(2,))


def changing_array(calls):
    total = np.zeros(2)

    def fn(s, x):
        total[...] += 1.0
        return s + x * total

    return fn


def another_capture(calls):
    weights = [np.ones(2), np.full(2, 2.0)]

    def fn(s, x):
        calls.append(1)
        return s + x * weights[len(calls) % 2]

    return fn


def another_output(calls):
    def fn(s, x):
        calls.append(1)
        return s + x * (mg.ones(2) if len(calls) % 2 else mg.zeros(2))

    return fn


def another_tensor(calls):
    """Equal values, but the gradient would flow into one of them only."""
    weights = [mg.ones(2, requires_grad=True) for _ in range(2)]

    def fn(s, x):
        calls.append(1)
        return s + x * weights[len(calls) % 2]

    return fn


def another_seed(calls):
    def fn(s, x):
        calls.append(1)
        return s + mg.random.normal(2, seed=len(calls))

    return fn


def another_index(calls):
    def fn(s, x):
        calls.append(1)
        return s + mg.take(x, np.array([0, len(calls) % 2]))

    return fn


def another_value_of_the_body(calls):
    def fn(s, x):
        calls.append(1)
        a, b = s + x, s * x
        return a if len(calls) % 2 else b

    return fn


def another_variable_of_a_derivative(calls):
    def fn(s, x):
        calls.append(1)
        return s + x * mg.grad(lambda w: (w * w).sum())(np.full(2, float(len(calls))))

    return fn


IMPURE = [
    alternating_ops, growing, moving_slice, counted_number, counted_operand, drawn_by_numpy, changing_array,
    another_capture, another_output, another_tensor, another_seed, another_index, another_value_of_the_body,
    another_variable_of_a_derivative,
]  # fmt: skip


@pytest.mark.parametrize("make", IMPURE, ids=lambda make: make.__name__)
def test_a_body_with_a_state_of_its_own_is_refused(make):
    """Unrolled it would do something else at each step; compiled, every step would silently do the same."""
    clear_cache()
    with pytest.raises(TraceError, match=r"test_scan_compiler\.py, line \d+") as error:
        mg.scan(make([]), X, np.zeros(2))
    assert "unroll=True" in str(error.value)
    assert "pure" in str(error.value)
    assert_nothing_is_left_behind()


@pytest.mark.parametrize("make", [moving_slice, counted_operand, drawn_by_numpy, another_capture, another_index],
                         ids=lambda make: make.__name__)  # fmt: skip
def test_the_error_for_an_impure_body_names_the_line_that_differs(make):
    clear_cache()
    fn = make([])
    with pytest.raises(TraceError) as error:
        mg.scan(fn, X, np.zeros(2))
    first = fn.__code__.co_firstlineno
    line = first if make is drawn_by_numpy else first + 2
    assert f"{HERE.name}, line {line}:" in str(error.value), str(error.value)


def test_what_is_computed_from_captured_values_may_be_made_anew_at_each_trace():
    """Pure bodies, though their captured arrays are other objects: NaN, too, is equal to itself."""
    weights = mg.tensor(np.array([0.5, -0.25]), requires_grad=True)
    table = np.array([1.0, np.nan])

    def fn(s, x):
        scale = np.nan_to_num(table * 2.0) + 0.5
        return s * scale + x * mg.tanh(weights) + np.where(np.isnan(table), 0.0, table * 0.5) + mg.full(2, 0.25)

    results = []
    for unroll in (False, True):
        out = mg.scan(fn, X, np.zeros(2), unroll=True) if unroll else ran(lambda: mg.scan(fn, X, np.zeros(2)))
        (out * random_like(out, 0)).sum().backward()
        results.append({"out": out, "weights": weights.grad})
        weights.grad = None
    agree(*results)
    same(ran(lambda: mg.scan(lambda s, x: mg.where(x > -9.0, s, table), X, np.zeros(2)))[-1], np.zeros(2))


def test_arrays_that_a_caller_changes_between_two_calls_are_fine():
    table = np.ones(2)
    for factor in (1.0, 3.0):
        table[...] = factor
        same(ran(lambda: mg.scan(lambda s, x: s + x * table, X, np.zeros(2))), np.cumsum(X * factor, axis=0))


def test_two_threads_that_ask_for_a_new_array_function_get_the_same_op(monkeypatch):
    """Else their programs would differ in nothing but the op, and rules would not find theirs."""
    module = sys.modules["minigrad.scan.symbol"]
    made = module.Op
    others = []

    def slow(*args, **options):
        monkeypatch.setattr(module, "Op", made)
        others.append(module.function("isnan"))  # the other thread, meanwhile
        return made(*args, **options)

    monkeypatch.setattr(module, "_FUNCTIONS", {})
    monkeypatch.setattr(module, "Op", slow)
    op = module.function("isnan")
    assert op is others[0] is module.function("isnan")
    assert op.batch_rule is not None
    assert op.row_rule is not None


def test_a_refused_body_is_not_kept():
    """Its first trace would be found by a second call."""
    clear_cache()
    calls: list[int] = []
    fn = alternating_ops(calls)
    for _ in range(3):
        with pytest.raises(TraceError):
            mg.scan(fn, X, np.zeros(2))


def prints(s, x):
    print(s, repr(x), f"{x.shape}")
    return s + x


def asks_for_shapes(s, x):
    assert s.shape == x.shape == (2,)
    assert s.dtype == x.dtype == np.float64
    assert (s.ndim, s.size, len(s)) == (1, 2, 2)
    assert isinstance(s, mg.Tensor)
    if x.shape[-1] > 1 and s is not x and s is not None:
        return s + x
    return s


def loops_over_elements(s, x):
    total = sum(part * 0.5 for part in x)
    for i in range(s.shape[0]):
        total = total + s[i] * x[-i]
    first, second = s
    return mg.stack([total, first * second])


def writes_in_python(s, x):
    s += x
    x *= 2.0
    return s * x


def keeps_lists(s, x):
    parts = {"a": [s, x], "b": (s * x,)}
    parts["a"].append(parts["b"][0])
    return mg.tanh(sum(parts["a"]))


def stops_by_no_grad(s, x):
    with mg.no_grad():
        hidden = s * x
    return mg.tanh(s + hidden)


def stops_views_by_no_grad(s, x):
    with mg.no_grad():
        flipped, first = mg.flip(s, axis=0), x[:1]
    return mg.tanh(s + flipped * first * x)


def stops_a_derivative_by_no_grad(s, x):
    with mg.no_grad():
        value, slope = mg.value_and_grad(lambda s: (s * s * x).sum())(s)
        _, pull = mg.vjp(lambda s: s * 1.0, s)
        (pulled,) = pull(x)
    return mg.tanh(s + x * slope * value + pulled)


def keeps_a_derivative(s, x):
    value, slope = mg.value_and_grad(lambda s: (s * s * x).sum())(s)
    return mg.tanh(s + x * slope * value)


def stops_an_inner_scan_by_no_grad(s, x):
    with mg.no_grad():
        inner = mg.scan(lambda c, y: mg.tanh(c * y), x, s)
    return mg.tanh(s * x + inner[-1] * s)


def stops_inside_an_inner_scan(s, x):
    def inner(c, y):
        with mg.no_grad():
            held = c * y
        return mg.tanh(c + held * y)

    return mg.scan(inner, x, s)[-1] * 0.5


def stops_by_detach(s, x):
    return mg.tanh(s * x.detach() + s.detach())


def stops_by_stop_gradient(s, x):
    return mg.tanh(s * mg.stop_gradient(x) + mg.stop_gradient(s))


def numpy_style(s, x):
    return np.tanh(np.concatenate([s, x])[1:3] @ W + np.where(x > 0, s, x).dot(W) + np.sum(x) + np.ones(2) * s)


def recursive(s, x, depth=3):
    return s if depth == 0 else mg.tanh(recursive(s, x, depth - 1) + x)


def uses_defaults(s, x, *, scale=0.5, w=W):
    return mg.tanh(s @ w + x * scale)


def mutates_a_local_array(s, x):
    mask = np.zeros(2)
    mask[0] = 1.0
    return mg.tanh(s * mask + x * (1.0 - mask))


def tries(s, x):
    try:
        return mg.tanh(s @ x @ W)
    except ValueError:
        return mg.tanh(s + x)


FINE = [
    prints, asks_for_shapes, loops_over_elements, writes_in_python, keeps_lists, stops_by_no_grad,
    stops_views_by_no_grad, stops_a_derivative_by_no_grad, keeps_a_derivative, stops_an_inner_scan_by_no_grad,
    stops_inside_an_inner_scan, stops_by_detach, stops_by_stop_gradient, numpy_style, recursive, uses_defaults,
    mutates_a_local_array, tries,
]  # fmt: skip


@pytest.mark.parametrize("fn", FINE, ids=lambda fn: fn.__name__)
def test_python_that_depends_on_no_value_is_fine(fn):
    def f(at, unroll=False):
        return [mg.scan(fn, at["x"], at["s"], unroll=unroll)]

    at = {"x": X, "s": np.array([0.5, 0.25])}
    got = ran(lambda: first_order(f, at, 1))
    agree(got, first_order(lambda at: f(at, unroll=True), at, 1))
    agree(ran(lambda: f(at)), f(at, unroll=True))


USES = {
    "data": lambda x: x.data,
    "asarray": lambda x: mg.asarray(x.data),
    "ufunc": lambda x: np.tanh(x.data),
    "ufunc of two": lambda x: np.multiply(np.array([0.5, 2.0]), x.data),
    "array (op) data": lambda x: np.array([0.5, 2.0]) * x.data - np.float64(0.25),
    "comparison": lambda x: np.where(np.array([0.5, 0.1]) > x.data, 0.5, x.data),
    "isnan": lambda x: np.where(np.isnan(x.data), 0.5, x.data),
    "function": lambda x: np.sum(x.data) + np.concatenate([x.data, x.data])[:2],
    "reduce": lambda x: np.add.reduce(x.data),
    "no such ufunc": lambda x: np.arctan(x.data),
    "no such function": lambda x: np.sort(x.data),
    "out": lambda x: np.tanh(x.data, out=np.zeros(2)),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_arrays_behind_traced_values_carry_no_gradient_or_are_refused(use):
    def f(at, unroll=False):
        return [mg.scan(lambda s, x: mg.tanh(s * use(x) + use(s)), at["x"], at["s"], unroll=unroll)]

    at = {"x": X, "s": np.array([0.5, 0.25])}
    try:
        got = ran(lambda: first_order(f, at, 1))
    except TraceError as error:
        assert f"{HERE.name}, line" in str(error)  # noqa: PT017  (either road is right, silence is not)
    else:
        agree(got, first_order(lambda at: f(at, unroll=True), at, 1))


C, TC, MASK, PLACES = np.array([0.3, 0.7]), mg.tensor([0.3, 0.7]), np.array([True, False]), np.array([1, 0])

OPERANDS = {
    "Tensor > traced": lambda s, x: mg.where(TC > x, s, x),  # noqa: SIM300
    "traced > Tensor": lambda s, x: mg.where(x > TC, s, x),
    "array != traced": lambda s, x: mg.where(C != x, s, x),  # noqa: SIM300
    "traced > list": lambda s, x: mg.where(x > [0.1, 0.2], s, x),
    "array | traced": lambda s, x: mg.where(MASK | (x > 0.3), s, x),
    "~traced & array": lambda s, x: mg.where(~(x > 0.3) & MASK, s, x),
    "logical functions": lambda s, x: mg.where(np.logical_or(C > 0.5, np.logical_not(x > 0.3)), s, x),
    "any, all": lambda s, x: mg.where((x > 0.3).any() & (s > 0.0).all(axis=0), s, x * 2.0),
    "logaddexp": lambda s, x: np.logaddexp(C, x) + np.logaddexp(s, TC) + np.logaddexp(x, 0.5),
    "lists": lambda s, x: [1.0, 2.0] * x + s * [0.5, 0.25],
    "concatenate": lambda s, x: mg.concatenate([C, x, TC])[1:3] + s,
    "einsum": lambda s, x: mg.einsum("i,i->i", C, x) + s,
    "take from a Tensor": lambda s, x: mg.take(TC, mg.argmax(x)) + s,
    "an array as index": lambda s, x: x[PLACES] + s[mg.asarray(PLACES)],
    "an array as bound": lambda s, x: mg.clip(x, C, 1.0) + mg.clip(s, -1.0, x.data),
    "arrays on both sides": lambda s, x: (C @ x + TC.dot(x)) * s + s @ C,
    "NumPy's functions": lambda s, x: np.std(x) + np.linalg.norm(x) + s + np.pad(x, (1, 0))[1:] + np.hstack([x, C])[:2],
    "NumPy's numbers": lambda s, x: s + np.float64(2) * x / np.float32(3) - np.float64(0.25) * s / np.float64(7),
    "numbers in both places": lambda s, x: 2.0**x + x**2 - 3 / (x + 4.0) - (1 - s) + True * s,
    "data's own operators": lambda s, x: -x.data + abs(s) + (+x) + abs(x.data) * TC,
}


@pytest.mark.parametrize("name", OPERANDS)
def test_operands_of_every_kind(name):
    def f(at, unroll=False):
        return [mg.scan(OPERANDS[name], at["x"], at["s"], unroll=unroll)]

    at = {"x": X, "s": np.array([0.5, 0.25])}
    agree(ran(lambda: first_order(f, at, 1)), first_order(lambda at: f(at, unroll=True), at, 1))


def inner_scan(w, q, x, **options):
    return mg.scan(lambda c, y: mg.tanh(c * y + q * w), mg.stack([x, x * x, x]), q, **options)


def taken_apart(q, x):
    first, second = mg.stack([q * x, q])
    return (first * second + q[0]).sum()


DERIVATIVES = {
    "many uses": lambda s, x, w: mg.grad(lambda q: (q * q + q * 3.0 + mg.tanh(q) + q * w).sum())(s) * x,
    "parts": lambda s, x, w: mg.grad(lambda q: taken_apart(q, x * w))(s) * x,
    "by a captured tensor": lambda s, x, w: mg.grad(lambda w: (mg.tanh(w * s) * x).sum())(w) + s,
    "jvp": lambda s, x, w: mg.jvp(lambda q: q * q * w, (s,), (x,))[1],
    "jacobian": lambda s, x, w: mg.jacobian(lambda q: mg.tanh(q * w))(s) @ x,
    "hvp": lambda s, x, w: mg.hvp(lambda q: (q**3).sum() * w[0], (s,), (x,))[0],
    "checkpoint": lambda s, x, w: mg.checkpoint(lambda q: mg.tanh(q * w) * x)(s),
    "of an unrolled scan": lambda s, x, w: mg.grad(lambda q: inner_scan(w, q, x, unroll=True)[-1].sum())(s) * x,
    "of a scan": lambda s, x, w: mg.grad(lambda q: inner_scan(w, q, x).sum())(s) * x,
    "of a scan in reverse": lambda s, x, w: mg.grad(lambda q: inner_scan(w, q, x, reverse=True)[0].sum())(s) * x,
    "of a scan, kept in part": lambda s, x, w: mg.grad(lambda q: inner_scan(w, q, x, checkpoint=2).sum())(s) * x,
    "of a scan, by what it captures": lambda s, x, w: mg.grad(lambda w: inner_scan(w, s, x)[-1].sum())(w) * x + s,
    "vjp of a scan": lambda s, x, w: mg.vjp(lambda q: inner_scan(w, q, x)[-1], s)[1](x)[0],
    "jvp of a scan": lambda s, x, w: mg.jvp(lambda q: inner_scan(w, q, x)[-1], (s,), (x,))[1],
    "hvp of a scan": lambda s, x, w: mg.hvp(lambda q: inner_scan(w, q, x).sum(), (s,), (x,))[0] + s,
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_inside_of_a_body(name):
    def f(at, unroll=False):
        return [mg.scan(lambda s, x: DERIVATIVES[name](s, x, at["w"]), at["x"], at["s"], unroll=unroll)]

    at = {"x": X, "s": np.array([0.5, 0.25]), "w": np.array([0.4, -0.6])}
    agree(ran(lambda: first_order(f, at, 1)), first_order(lambda at: f(at, unroll=True), at, 1))


def changes_an_array_that_it_used(s, x):
    mask = np.zeros(2)
    s = s * mask  # here
    mask[0] = 1.0
    return s + x * mask


def test_an_array_changed_in_place_after_its_use_is_an_error():
    with pytest.raises(TraceError, match="changed in place") as error:
        mg.scan(changes_an_array_that_it_used, X, np.zeros(2))
    assert_teaches(error, changes_an_array_that_it_used)


def changes_a_list_that_it_used(s, x):
    factors = [0.0, 0.5]
    s = s * factors
    factors[0] = 1.0
    return s + x * factors


def test_a_list_changed_after_its_use_is_what_it_was():
    got = ran(lambda: mg.scan(changes_a_list_that_it_used, X, np.ones(2)))
    same(got, mg.scan(changes_a_list_that_it_used, X, np.ones(2), unroll=True))


def test_what_a_traced_tensor_prints():
    seen = []

    def fn(s, x):
        seen[:] = [repr(x), str(s * x[0]), f"{x}"]
        return s + x

    mg.scan(fn, X, np.zeros(2))
    assert seen == ["Tensor(traced, float64(2,))"] * 3


def test_cells_and_modules_are_fine_bodies():
    for make in (mg.nn.RNNCell, mg.nn.GRUCell, mg.nn.LSTMCell):
        cell = make(2, 3, dtype="float64", seed=0)
        x, state = draws(0)((4, 2, 2)), cell.zero_state(2)

        def loss(unroll, cell=cell, x=x, state=state):
            _, out = mg.scan(lambda s, x: cell(x, s)[::-1], x, state, has_output=True, unroll=unroll)
            return (out * random_like(out, 0)).sum()

        results = []
        for unroll in (False, True):
            value = loss(True) if unroll else ran(lambda: loss(False))
            value.backward()
            results.append({"loss": value} | {k: w.grad for k, w in cell.parameters().items()})
            for w in cell.parameters().values():
                w.grad = None
        agree(*results)


MEETINGS = {
    "a mean over the batch": lambda s, x: mg.tanh(s + x.mean(axis=0)),
    "a sum of everything": lambda s, x: mg.tanh(s * x.sum()),
    "softmax over the batch": lambda s, x: mg.softmax(s + x, axis=0),
    "rows turned around": lambda s, x: mg.tanh(s[::-1] + x),
    "one row for all": lambda s, x: mg.tanh(s + x[:1]),
    "a product of rows": lambda s, x: mg.tanh(s @ s.T @ x),
    "cumsum over the batch": lambda s, x: mg.tanh(mg.cumsum(s, axis=0) + x),
    "rows in the place of units": lambda s, x: mg.tanh(s.T + x),
    "rows shifted": lambda s, x: mg.tanh(mg.concatenate([s[1:], x[:1]])),
    "rows gathered": lambda s, x: mg.tanh(mg.take(s, np.array([1, 2, 0]), axis=0) + x),
    "an einsum over rows": lambda s, x: mg.tanh(mg.einsum("bi,ci->bc", s, x)),
    "rows mixed by a reshape": lambda s, x: mg.tanh(s + x.reshape(1, 9)[:, ::-1].reshape(3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEETINGS)
def test_rows_that_meet_are_an_error_under_lengths(name):
    """The shapes are square, so that only the axes tell."""
    fn, draw = MEETINGS[name], draws(0)
    args = fn, draw((4, 3, 3)), draw((3, 3))
    agree(ran(lambda: mg.scan(*args)), mg.scan(*args, unroll=True))
    for lengths in ([4, 2, 1], [4, 4, 4]):
        with pytest.raises((TypeError, ValueError), match="row"):
            mg.scan(*args, lengths=lengths)
    assert_nothing_is_left_behind()


# ---- random bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", random_bodies.MODES)
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_bodies(mode, seed):
    """`python tests/random_bodies.py` looks for more; a failure prints a small body and how to run it again."""
    random_bodies.check(seed, mode)


@pytest.mark.slow
def test_at_least_95_of_100_random_bodies_compile():
    """The rest says why, with the line."""
    reasons = []
    for seed in range(300):
        case = random_bodies.make_case(seed)
        try:
            at = random_bodies.tracked(case)
            loss = random_bodies.weighted_sum(case.compiled(at), seed)
            if loss is not None:
                loss.backward()
        except TraceError as error:
            assert re.search(r"body_\w+\.py, line \d+", str(error)), str(error)  # noqa: PT017
            reasons.append(f"seed {seed}: {error}")
    assert len(reasons) <= 15, "\n".join(reasons)


def test_few_random_bodies_are_too_ill_conditioned_to_judge():
    found = [random_bodies.check(seed, "order2") for seed in range(100)]
    assert found.count(random_bodies.ILL) <= 5


def test_a_tape_says_in_words_what_a_scan_keeps():
    """Not in arrays, and not by the address of an object."""
    x = mg.tensor(np.ones((4, 2)), requires_grad=True)
    for checkpoint, words in ((None, "what backward needs"), (2, "states of every 2 steps")):
        with mg.Tape() as tape:
            mg.scan(lambda s, x: mg.tanh(s + x), x, np.zeros(2), checkpoint=checkpoint)
        assert words in str(tape)
        assert "0x" not in str(tape)


@pytest.mark.parametrize("lengths", [None, [2, 5, 0, 3]], ids=["", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ["bias", "product", "rows", "table"])
def test_sums_over_time_of_what_is_the_same_at_all_steps(name, reverse, lengths):
    """The cotangent of a running sum never changes: it counts once a step, and in each row for that row's steps."""
    # Once: an error for a sum over rows, which was taken for something that is known before the first step.
    rng = np.random.default_rng(0)
    shapes = {"bias": (3,), "product": (2, 3), "rows": (4, 3), "table": (6, 3)}
    fixed = rng.integers(-3, 4, (4, 2)).astype(float)
    what = {
        "bias": lambda w, k: w,
        "product": lambda w, k: k @ w,
        "rows": lambda w, k: w,
        "table": lambda w, i: mg.take(w, i[:, 0], axis=0),
    }[name]
    cotangent = np.arange(12.0).reshape(4, 3)

    def gradient(unroll):
        w = mg.tensor(start_of_w.copy(), requires_grad=True)

        def fn(state, x):
            total, k = state
            return (total + what(w, x if name == "table" else k), k), ()

        start = (np.ones((4, 3)), mg.tensor(fixed))
        (total, _), _ = mg.scan(
            fn,
            np.arange(20).reshape(5, 4, 1) % 6,
            start,
            has_output=True,
            lengths=lengths,
            reverse=reverse,
            unroll=unroll,
        )
        (total * cotangent).sum().backward()
        return w.grad

    start_of_w = rng.integers(-3, 4, shapes[name]).astype(float)
    np.testing.assert_array_equal(gradient(False), gradient(True))
