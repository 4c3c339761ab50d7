"""Attention against each row by itself in plain NumPy, without padding; and that padding is not there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cell_equations
import minigrad as mg
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.nn.attention import AdditiveAttention, Attention, DotAttention
from minigrad.testing import check_grads
from net_oracle import along_two_directions, with_parameters
from scan_oracle import EPS, agree, first_order, loss_of, random_like, same, second_order

laws = settings(max_examples=12, deadline=None)
few = settings(max_examples=4, deadline=None)
F = "float64"


class Case(NamedTuple):
    """A memory of `rows` and `steps`, the sizes of its values, of what is asked and of a hidden layer; and a seed."""

    rows: int
    steps: int
    lengths: list[int] | None
    queries: int
    features: int
    units: int
    seed: int


@st.composite
def cases(draw, least=0):
    rows, steps = draw(st.integers(least, 3)), draw(st.integers(least, 4))
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows))
    sizes = [draw(st.integers(1, 3)) for _ in range(3)]
    return Case(rows, steps, lengths, *sizes, draw(st.integers(0, 2**16 - 1)))


RAGGED = Case(4, 3, [2, 0, 3, 1], 2, 3, 4, seed=5)


def additive(case):
    return AdditiveAttention(case.queries, case.features, case.units, dtype=F)


def dot(case):
    return DotAttention(case.queries, case.features, dtype=F)


kinds = pytest.mark.parametrize("kind", [additive, dot])


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


def built(kind, case):
    """An attention with random parameters, b among them, and where to look at it: all arrays by name."""
    attention, draw = kind(case), np.random.default_rng(case.seed)
    attention.load_state_dict({path: draw.normal(size=p.shape) for path, p in attention.parameters().items()})
    at = {path: host(p) for path, p in attention.parameters().items()}
    query, values = (case.rows, case.queries), (case.rows, case.steps, case.features)
    return attention, at | {"query": draw.normal(size=query), "values": draw.normal(size=values)}


def as_function(attention, lengths):
    """Mean and weights as a function of all arrays."""

    def f(arrays):
        asked = with_parameters(attention, arrays)
        return list(asked(arrays["query"], asked.memory(arrays["values"], lengths)))

    return f


# ---- the oracle ----------------------------------------------------------------------------------------------------


def of_a_row(w, query, values):
    """What one query (queries,) gets from a row's own values (n, features): their mean, and the weights (n,)."""
    keys = values @ w["W_memory"]
    scores = np.tanh(query @ w["W_query"] + keys + w["b"]) @ w["v"][:, 0] if "v" in w else keys @ query
    fit = np.exp(scores)
    weights = fit / fit.sum()
    return weights @ values, weights


def by_hand(case):
    """The same function in NumPy, row by row, real or complex."""

    def f(arrays):
        dtype = np.result_type(*arrays.values())
        means, weights = np.zeros((case.rows, case.features), dtype), np.zeros((case.rows, case.steps), dtype)
        for row, n in enumerate([case.steps] * case.rows if case.lengths is None else case.lengths):
            means[row], weights[row, :n] = of_a_row(arrays, arrays["query"][row], arrays["values"][row, :n])
        return [means, weights]

    return f


@kinds
@laws
@given(case=cases())
def test_it_is_each_row_by_itself(kind, case):
    """Values, and the gradient of every array, which the complex step gives of the oracle."""
    attention, at = built(kind, case)
    f, hand = as_function(attention, case.lengths), by_hand(case)
    values, pull = mg.vjp(f, at)
    g = random_like(values, case.seed)

    def along(arrays):
        return sum((out * part).sum() for out, part in zip(hand(arrays), g, strict=True))

    agree([values, pull(g)[0]], [hand(at), cell_equations.gradient(along, at)])


@kinds
def test_on_every_backend(kind, backend):
    """Values and gradients, where the arrays are."""
    attention, at = built(kind, RAGGED)
    attention, at = attention.to(backend.name), {name: backend.asarray(array) for name, array in at.items()}
    values, pull = mg.vjp(as_function(attention, RAGGED.lengths), at)
    assert {type(x) for x in values} == {backend.array_type}
    on_host = {name: backend.to_host(array) for name, array in at.items()}
    agree([host(x) for x in values], by_hand(RAGGED)(on_host))
    g = random_like([host(x) for x in values], 1)
    (gradients,) = pull([backend.asarray(part) for part in g])

    def along(arrays):
        return sum((out * part).sum() for out, part in zip(by_hand(RAGGED)(arrays), g, strict=True))

    agree({name: host(x) for name, x in gradients.items()}, cell_equations.gradient(along, on_host))


@kinds
@few
@given(case=cases(least=1))
def test_gradients_are_those_of_differences(kind, case):
    """In both modes and to order 2; by the query, the memory and every parameter."""
    attention, at = built(kind, case)
    f = as_function(attention, case.lengths)
    check_grads(f, at, order=1)
    check_grads(along_two_directions(f, at, case.seed), np.zeros(2), order=2)


@kinds
def test_all_second_derivatives_are_those_of_differences(kind, backend):
    case = Case(2, 2, [2, 1], 1, 2, 1, seed=3)
    attention, at = built(kind, case)
    on_device = {name: backend.asarray(array) for name, array in at.items()}
    check_grads(as_function(attention.to(backend.name), case.lengths), on_device, order=2)


# ---- what padding may do: nothing ------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e308])
def test_padding_cannot_matter(kind, poison, backend):
    """Bitwise: mean, weights, every gradient, forward mode and order 2; the gradient of the padding is exactly 0."""
    attention, at = built(kind, RAGGED)
    f = as_function(attention.to(backend.name), RAGGED.lengths)
    padding = np.arange(RAGGED.steps) >= np.array(RAGGED.lengths)[:, None]

    def answers(filler):
        values = np.where(padding[:, :, None], filler, at["values"])
        arrays = {name: backend.asarray(array) for name, array in (at | {"values": values}).items()}
        out, pull = mg.vjp(f, arrays)
        (gradients,) = pull([backend.asarray(part) for part in random_like([host(x) for x in out], 1)])
        direction = {name: backend.asarray(array) for name, array in random_like(at, 2).items()}
        second = mg.hvp(lambda arrays: sum((x * x).sum() for x in f(arrays)), (arrays,), (direction,))[0]
        tangents = mg.jvp(f, (arrays,), (direction,))[1]
        return mg.tree.map(host, {"out": out, "gradients": gradients, "second": second, "tangents": tangents})

    clean, dirty = answers(0.0), answers(poison)
    same(dirty, clean)
    assert (dirty["gradients"]["values"][padding] == 0).all()
    assert (dirty["gradients"]["values"][~padding] != 0).all()
    assert (dirty["out"][1][padding] == 0).all()


@kinds
@laws
@given(case=cases(least=1))
def test_weights_are_from_0_to_1_and_sum_to_1(kind, case):
    attention, at = built(kind, case)
    _, weights = (host(x) for x in as_function(attention, case.lengths)(at))
    lengths = np.array([case.steps] * case.rows if case.lengths is None else case.lengths)
    inside = np.arange(case.steps) < lengths[:, None]
    assert (weights[~inside] == 0).all()
    assert (weights[inside] > 0).all()
    np.testing.assert_allclose(weights.sum(1), lengths > 0, rtol=1e-14)


@kinds
def test_a_row_without_values_has_the_mean_0_and_gives_no_gradient(kind, backend):
    attention, at = built(kind, RAGGED)
    row = RAGGED.lengths.index(0)
    f = as_function(attention.to(backend.name), RAGGED.lengths)
    (mean, weights), pull = mg.vjp(f, {name: backend.asarray(array) for name, array in at.items()})
    assert (host(mean)[row] == 0).all()
    assert (host(weights)[row] == 0).all()
    only = np.arange(RAGGED.rows)[:, None] == row
    g = [backend.asarray(np.broadcast_to(only, x.shape).astype(F)) for x in (mean, weights)]
    for name, gradient in pull(g)[0].items():
        assert (host(gradient) == 0).all(), name


@kinds
def test_an_empty_memory(kind, backend):
    for rows, steps in [(2, 0), (0, 3), (0, 0)]:
        case = Case(rows, steps, None, 2, 3, 4, seed=0)
        attention, at = built(kind, case)
        mean, weights = as_function(attention.to(backend.name), None)(
            {name: backend.asarray(array) for name, array in at.items()}
        )
        assert (mean.shape, weights.shape) == ((rows, 3), (rows, steps))
        assert (host(mean) == 0).all()


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_scores_of_any_size_are_compared(size):
    """Scores far below 0 do not lose to the padding, and those far above it do not overflow."""
    attention = DotAttention(1, 1, dtype=F)
    attention.load_state_dict({"W_memory": np.array([[1.0]])})
    values = np.array([[1.0, 2.0, 2.0, 9.0], [3.0, 1.0, 3.0, 9.0]])[:, :, None]
    mean, weights = attention(np.full((2, 1), size), attention.memory(values, [3, 3]))
    needed = [[0, 0.5, 0.5, 0], [0.5, 0, 0.5, 0]] if size > 0 else [[1, 0, 0, 0], [0, 1, 0, 0]]
    rounding = 4 * EPS * np.abs(size * values).max()  # of the scores, whose differences are what counts
    np.testing.assert_allclose(host(weights), needed, rtol=rounding)
    np.testing.assert_allclose(host(mean), [[2], [3]] if size > 0 else [[1], [1]], rtol=rounding)


# ---- inside of a loop ------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("lengths", [None, [2, 0, 4, 1]], ids=["full", "ragged"])
def test_a_memory_is_asked_at_every_step_of_a_scan(kind, lengths, backend):
    """One that the body captures, whose rows scan packs with its own; both orders, against the unrolled loop."""
    attention, at = built(kind, RAGGED)
    steps = 4
    at = at | {"asked": np.random.default_rng(1).normal(size=(steps, RAGGED.rows, RAGGED.queries))}
    on_device = {name: backend.asarray(array) for name, array in at.items()}

    def run(unroll):
        def f(arrays):
            asked = with_parameters(attention.to(backend.name), arrays)
            memory = asked.memory(arrays["values"], RAGGED.lengths)

            def step(query, x):
                mean, weights = asked(mg.tanh(query + x), memory)
                return query + mean[:, : RAGGED.queries], weights

            final, weights = mg.scan(step, arrays["asked"], arrays["query"], has_output=True, lengths=lengths,
                                     unroll=unroll)  # fmt: skip
            return [final, weights]

        return f

    def answers(f):
        out, pull = mg.vjp(f, on_device)
        g = [backend.asarray(part) for part in random_like([host(x) for x in out], 1)]
        return mg.tree.map(host, [out, pull(g)])

    agree(answers(run(False)), answers(run(True)))
    if backend.name == "numpy":
        losses = [loss_of(f, f(at), 2) for f in (run(False), run(True))]
        agree(*[second_order(loss, at, 3, "forward over reverse") for loss in losses])


class Scaled(Attention):
    """A kind of one's own: dot products divided by the root of their size, of values with keys inside."""

    def __init__(self, size):
        super().__init__(size, size)
        self.W_memory = mg.tensor(np.eye(size), requires_grad=True)

    def keys(self, values):
        return values @ self.W_memory

    def scores(self, query, keys):
        return mg.einsum("bq,bsq->bs", query, keys) / self.queries**0.5


def test_a_kind_of_ones_own_is_masked_too():
    attention, draw = Scaled(2), np.random.default_rng(0)
    query, values = draw.normal(size=(3, 2)), draw.normal(size=(3, 4, 2))
    clean = attention(query, attention.memory(values, [2, 0, 4]))
    values[0, 2:], values[1] = np.nan, np.inf
    same(list(attention(query, attention.memory(values, [2, 0, 4]))), list(clean))
    _, needed = of_a_row({"W_memory": np.eye(2)}, query[0] / 2**0.5, values[0, :2])
    np.testing.assert_allclose(host(clean[1])[0, :2], needed, rtol=1e-14)
    with pytest.raises(NotImplementedError):
        Attention(2, 2).scores(query, values)
    with pytest.raises(NotImplementedError):
        Attention(2, 2).keys(values)


# ---- dtypes, parameters, bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "paths"), [
    (lambda dtype: AdditiveAttention(2, 3, 4, dtype, seed=0), ["W_query", "W_memory", "b", "v"]),
    (lambda dtype: DotAttention(2, 3, dtype, seed=0), ["W_memory"]),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_dtype_is_kept(kind, paths, dtype):
    attention = kind(dtype)
    assert list(attention.parameters()) == paths
    values, query = np.ones((2, 3, 3), dtype), np.ones((2, 2), dtype)
    memory = attention.memory(values, [3, 0])
    answers = [*attention(query, memory), memory.keys, memory.values, memory.floor]
    assert {x.dtype for x in answers} == {np.dtype(dtype)}
    assert {p.dtype for p in attention.astype("float64").parameters().values()} == {np.dtype("float64")}
    same(kind(dtype).state_dict(), attention.state_dict())


def test_parameters_start_as_documented():
    attention = AdditiveAttention(50, 40, units=60, seed=0)
    assert [p.shape for p in attention.parameters().values()] == [(50, 60), (40, 60), (60,), (60, 1)]
    assert (host(attention.b) == 0).all()
    for weight in (attention.W_query, attention.W_memory, attention.v, DotAttention(50, 40, seed=0).W_memory):
        limit = (6 / sum(weight.shape)) ** 0.5
        assert 0.8 * limit < abs(host(weight)).max() <= limit
    assert (host(attention.W_query)[:40] != host(attention.W_memory)).any()


def test_forward_mode_is_the_transpose_of_reverse_mode():
    attention, at = built(additive, RAGGED)
    answers = first_order(as_function(attention, RAGGED.lengths), at, 3)
    out = as_function(attention, RAGGED.lengths)(at)
    g, tangents = random_like(out, 3), random_like(at, 4)
    forward = sum(float((host(answers[f"tangent {i}"]) * part).sum()) for i, part in enumerate(g))
    reverse = sum(float((host(answers[f"gradient by {name}"]) * tangents[name]).sum()) for name in at)
    np.testing.assert_allclose(forward, reverse, rtol=1e-13)


@pytest.mark.parametrize(
    ("values", "lengths", "error", "message"),
    [
        (np.ones((2, 4, 5)), None, ValueError, r"Attention takes a memory of shape \(\.\.\., 3\), got \(2, 4, 5\)"),
        (np.ones((4, 3)), None, ValueError, r"Attention takes a memory \(B, S, 3\), got \(4, 3\)"),
        (np.ones((2, 2, 4, 3)), None, ValueError, r"takes a memory \(B, S, 3\), got \(2, 2, 4, 3\)"),
        (np.ones((2, 4, 3), "float32"), None, TypeError, "dtype float64 and got a memory of float32"),
        (np.ones((2, 4, 3), int), None, TypeError, r"got int64: .* or look tokens up in an Embedding"),
        (np.ones((2, 4, 3)), [4, 5], ValueError, "Attention: a length lies between 0 and the 4 steps there are, got 5"),
        (np.ones((2, 4, 3)), [4, -1], ValueError, "got -1"),
        (np.ones((2, 4, 3)), [4], ValueError, "Attention: got 1 lengths for 2 rows"),
        (np.ones((2, 4, 3)), [4.0, 1.0], TypeError, "lengths are integers, one a row"),
    ],
)  # fmt: skip
@kinds
def test_a_memory_that_does_not_fit_is_refused(kind, values, lengths, error, message):
    with pytest.raises(error, match=message):
        built(kind, RAGGED)[0].memory(values, lengths)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (np.ones((2, 3)), ValueError, r"Attention takes a query of shape \(\.\.\., 2\), got \(2, 3\)"),
        (np.ones((3, 2)), ValueError, r"a query for each of the 2 rows of its memory, got \(3, 2\)"),
        (np.ones(2), ValueError, r"a query for each of the 2 rows of its memory, got \(2,\)"),
        (np.ones((2, 4, 2)), ValueError, r"a query for each of the 2 rows of its memory, got \(2, 4, 2\)"),
        (np.ones((2, 2), "float32"), TypeError, r"and got a query of float32: convert a query with \.astype"),
    ],
)
@kinds
def test_a_query_that_does_not_fit_is_refused(kind, query, error, message):
    attention = built(kind, RAGGED)[0]
    with pytest.raises(error, match=message):
        attention(query, attention.memory(np.ones((2, 4, 3))))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DotAttention(0, 3), ValueError, "DotAttention: queries is at least 1, got 0"),
        (lambda: DotAttention(2, "3"), TypeError, "DotAttention: features is an integer, got str"),
        (lambda: AdditiveAttention(2, -1, 3), ValueError, "AdditiveAttention: features is at least 1, got -1"),
        (lambda: AdditiveAttention(2, 3, 1.5), TypeError, "AdditiveAttention: units is an integer, got float"),
        (lambda: nn.DotAttention(2, 3, dtype=int), TypeError, "parameters are floating"),
        (lambda: nn.AdditiveAttention(2, 3, 4, dtype="int32"), TypeError, "parameters are floating"),
    ],
)
def test_sizes_that_are_none_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
