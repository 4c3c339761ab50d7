"""Decoding against exhaustive search, and beam search against one in plain Python lists."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend import backend_of, get_backend
from minigrad.nn.decoding import beam, greedy, sample
from minigrad.testing import fake_cupy

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
TABLE = 4093
SEEDS = st.integers(0, 2**32 - 1)
PENALTIES = st.sampled_from([0.0, 0.6, 1.0, 3.0])


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


# ---- models whose logits depend on all tokens before ---------------------------------------------------------------


class Hashed:
    """Random logits after every sequence of tokens, in a table: the state is the row, a hash of all tokens."""

    def __init__(self, vocabulary, seed, impossible=0.0, scale=2.0):
        draw = np.random.default_rng(seed)
        self.table = scale * draw.normal(size=(TABLE, vocabulary))
        self.table[draw.random(self.table.shape) < impossible] = -np.inf
        self.table[:, -1] = np.where(np.isinf(self.table).all(axis=1), 0.0, self.table[:, -1])

    def states(self, rows, seed=0):
        return np.random.default_rng([seed, 1]).integers(0, TABLE, size=rows)

    def step(self, tokens, state, context):
        assert tokens.dtype == np.int64
        assert tokens.shape == state.shape
        state = (7 * state + tokens + 1) % TABLE
        return self.table[state], state

    def log_probs(self, state, start, tokens):
        """log p of each token of one sequence."""
        found, before = [], start
        for token in tokens:
            logits, state = self.step(np.array([before]), np.array([state]), None)
            state = state[0]
            found.append(log_softmax(logits[0])[token])
            before = token
        return found


def log_softmax(logits):
    best = max(logits)
    total = math.fsum(math.exp(x - best) for x in logits)
    return [float(x - best) - math.log(total) for x in logits]


def penalty(length, exponent):
    return ((5 + length) / 6) ** exponent


def all_sequences(vocabulary, end, max_length):
    """Every sequence that ends, or is of the greatest length."""
    for length in range(1, max_length + 1):
        for tokens in itertools.product(range(vocabulary), repeat=length):
            if end not in tokens[:-1] and (length == max_length or tokens[-1] == end):
                yield tokens


def exhaustive(model, state, start, vocabulary, end, max_length, exponent):
    """All possible sequences as (score, log_prob, tokens), the best first."""
    found = []
    for tokens in all_sequences(vocabulary, end, max_length):
        log_prob = math.fsum(model.log_probs(state, start, tokens))
        if log_prob > -math.inf:
            found.append((log_prob / penalty(len(tokens), exponent), log_prob, tokens))
    return sorted(found, reverse=True)


def listed(beams, row):
    """What a row of beams holds, as `exhaustive` has it; the rest is known to be missing."""
    found, missing = [], False
    for tokens, length, log_prob, score, finished in zip(*[part[row] for part in beams], strict=True):
        if length == 0:
            missing = True
            assert log_prob == score == -math.inf
            assert not finished
        else:
            assert not missing
            found.append((score, log_prob, tuple(tokens[:length].tolist())))
    return found


def assert_are(found, expected):
    assert [tokens for _, _, tokens in found] == [tokens for _, _, tokens in expected]
    np.testing.assert_allclose([f[:2] for f in found], [e[:2] for e in expected], **TIGHT)


def assert_well_formed(decoded, end, max_length):
    """What holds of every sequence: where it ends, its length, and what fills it up."""
    tokens = decoded.tokens
    assert tokens.dtype == decoded.lengths.dtype == np.int64
    assert decoded.log_probs.dtype == np.float64
    assert decoded.finished.dtype == np.bool_
    assert tokens.shape == (*decoded.lengths.shape, decoded.lengths.max())
    for index in np.ndindex(decoded.lengths.shape):
        length, sequence = decoded.lengths[index], tokens[index].tolist()
        assert (end in sequence[:length]) == decoded.finished[index]
        if decoded.finished[index]:
            assert sequence.index(end) == length - 1
            assert set(sequence[length:]) <= {end}
        elif length:
            assert length == max_length


# ---- exhaustive search ---------------------------------------------------------------------------------------------


@st.composite
def tasks(draw):
    """(model, vocabulary, end, max_length, start of each row, states): all of them small."""
    vocabulary, seed = draw(st.integers(1, 4)), draw(SEEDS)
    model = Hashed(vocabulary, seed, impossible=draw(st.sampled_from([0.0, 0.3])))
    end = draw(st.none() | st.integers(0, vocabulary - 1))
    rows = draw(st.integers(1, 3))
    start = np.random.default_rng([seed, 2]).integers(0, vocabulary, size=rows)
    return model, vocabulary, end, draw(st.integers(1, 3 if vocabulary == 4 else 4)), start, model.states(rows, seed)


@given(task=tasks(), exponent=PENALTIES, more=st.integers(0, 2))
def test_a_beam_as_wide_as_there_are_sequences_is_exhaustive_search(task, exponent, more):
    model, vocabulary, end, max_length, start, states = task
    width = len(list(all_sequences(vocabulary, end, max_length))) + more
    found = beam(model.step, states, start=start, end=end, max_length=max_length, width=width, length_penalty=exponent)
    assert found.lengths.shape == (len(states), width)
    assert_well_formed(found, end, max_length)
    for row, state in enumerate(states):
        expected = exhaustive(model, state, start[row], vocabulary, end, max_length, exponent)
        assert_are(listed(found, row), expected)


def plain_beam(model, state, start, vocabulary, end, max_length, width, exponent):
    """Beam search over one row in lists, without stopping early."""
    opened, finished = [(0.0, (), state, start)], []
    for length in range(1, max_length + 1):
        extended = []
        for total, tokens, before, last in opened:
            logits, after = model.step(np.array([last]), np.array([before]), None)
            for token, log_prob in enumerate(log_softmax(logits[0])):
                if log_prob > -math.inf:
                    extended.append((total + log_prob, (*tokens, token), after[0], token))
        extended.sort(key=lambda e: -e[0])
        ends = [e for e in extended[:width] if e[3] == end]
        opened = [e for e in extended if e[3] != end][:width]
        complete = ends + (opened if length == max_length else [])
        finished += [(total / penalty(length, exponent), total, tokens) for total, tokens, _, _ in complete]
    return sorted(finished, key=lambda f: -f[0])[:width]


@given(task=tasks(), exponent=PENALTIES, width=st.integers(1, 6))
def test_beam_search_is_the_one_over_lists(task, exponent, width):
    model, vocabulary, end, max_length, start, states = task
    found = beam(model.step, states, start=start, end=end, max_length=max_length, width=width, length_penalty=exponent)
    assert_well_formed(found, end, max_length)
    for row, state in enumerate(states):
        sequences = listed(found, row)
        assert_are(sequences, plain_beam(model, state, start[row], vocabulary, end, max_length, width, exponent))
        assert len({tokens for _, _, tokens in sequences}) == len(sequences)
        for score, log_prob, tokens in sequences:
            np.testing.assert_allclose(log_prob, math.fsum(model.log_probs(state, start[row], tokens)), **TIGHT)
            assert score == log_prob / penalty(len(tokens), exponent)
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()


def test_a_wider_beam_finds_what_greedy_decoding_misses():
    table = np.log([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    found = greedy(bigram(table), np.zeros((1, 0)), start=0, end=2, max_length=2)
    assert found.tokens.tolist() == [[1, 0]]
    np.testing.assert_allclose(found.log_probs, [math.log(0.2)], **TIGHT)
    found = beam(bigram(table), np.zeros((1, 0)), start=0, end=2, max_length=2, width=2)
    assert found.tokens[0, 0].tolist() == [2, 2]
    np.testing.assert_allclose(found.log_probs[0, 0], math.log(0.4), **TIGHT)


def bigram(table):
    def step(tokens, state, context):
        return table[tokens], state

    return step


# ---- greedy --------------------------------------------------------------------------------------------------------


@given(task=tasks())
def test_greedy_is_the_best_token_each_time(task):
    model, _, end, max_length, start, states = task
    found = greedy(model.step, states, start=start, end=end, max_length=max_length)
    assert_well_formed(found, end, max_length)
    for row, state in enumerate(states):
        tokens, before, at = [], start[row], state
        while len(tokens) < max_length and (not tokens or before != end):
            logits, after = model.step(np.array([before]), np.array([at]), None)
            before, at = int(np.argmax(logits[0])), after[0]
            tokens.append(before)
        assert found.tokens[row, : found.lengths[row]].tolist() == tokens
        np.testing.assert_allclose(found.log_probs[row], math.fsum(model.log_probs(state, start[row], tokens)), **TIGHT)


@given(task=tasks(), ties=st.booleans())
def test_a_beam_of_width_1_without_penalty_is_greedy(task, ties):
    model, _, end, max_length, start, states = task
    if ties:
        model.table = np.round(model.table / 2)
    one = greedy(model.step, states, start=start, end=end, max_length=max_length)
    found = beam(model.step, states, start=start, end=end, max_length=max_length, width=1)
    for name in one._fields:
        np.testing.assert_array_equal(getattr(found, name)[:, 0], getattr(one, name))
    np.testing.assert_array_equal(found.scores, found.log_probs)


def test_a_beam_of_width_1_goes_on_past_an_end_where_the_penalty_lets_that_pay():
    """log 0.55 / penalty(1) against log 0.45 / penalty(2), where the second token is certain."""
    table = np.array([[-np.inf, math.log(0.45), math.log(0.55)], [-np.inf, -np.inf, 0.0], [0.0, 0.0, 0.0]])
    for exponent, best in ((0.0, [2]), (1.0, [2]), (3.0, [1, 2])):
        assert (math.log(0.45) / penalty(2, exponent) > math.log(0.55)) == (len(best) == 2)
        found = beam(bigram(table), np.zeros((1, 0)), start=0, end=2, max_length=4, width=1, length_penalty=exponent)
        assert found.tokens[0, 0, : found.lengths[0, 0]].tolist() == best


# ---- ties ----------------------------------------------------------------------------------------------------------


def test_of_equal_tokens_the_lowest_is_taken():
    step, state = bigram(np.zeros((4, 4))), np.zeros((2, 0))
    assert greedy(step, state, start=0, end=None, max_length=3).tokens.tolist() == [[0] * 3] * 2
    found = beam(step, state, start=0, end=None, max_length=2, width=6)
    for row in range(2):
        assert [tokens for _, _, tokens in listed(found, row)] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def test_of_equal_scores_the_one_finished_first_is_first():
    table = np.array([[-np.inf, 0.0, 0.0], [-np.inf, -np.inf, 0.0], [0.0, 0.0, 0.0]])  # 2, or 1 and then surely 2
    found = beam(bigram(table), np.zeros((1, 0)), start=0, end=2, max_length=3, width=3)
    half = -math.log(2)
    assert_are(listed(found, 0), [(half, half, (2,)), (half, half, (1, 2))])
    found = beam(bigram(np.zeros((2, 2))), np.zeros((1, 0)), start=0, end=1, max_length=2, width=3)
    assert_are(listed(found, 0), [(half, half, (1,)), (2 * half, 2 * half, (0, 1)), (2 * half, 2 * half, (0, 0))])


# ---- sampling ------------------------------------------------------------------------------------------------------


def chi_square(counts, probabilities):
    expected = np.asarray(probabilities) * np.sum(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_sequences_are_drawn_as_often_as_they_are_probable():
    model, state, rows = Hashed(3, seed=5, scale=1.0), 17, 6000
    found = sample(model.step, np.full(rows, state), start=0, end=2, max_length=3, seed=0)
    assert_well_formed(found, 2, 3)
    made = [tuple(t[:n].tolist()) for t, n in zip(found.tokens, found.lengths, strict=True)]
    expected = {tokens: log_prob for _, log_prob, tokens in exhaustive(model, state, 0, 3, 2, 3, 0.0)}
    assert len(expected) == 15
    counts = [made.count(tokens) for tokens in expected]
    assert sum(counts) == rows
    assert chi_square(counts, np.exp(list(expected.values()))) < 36.1  # exceeded once in 1000, 14 degrees of freedom
    np.testing.assert_allclose(found.log_probs, [expected[tokens] for tokens in made], **TIGHT)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("top_k", [None, 3])
def test_temperature_and_top_k_change_the_draws_and_not_the_log_probs(temperature, top_k):
    logits = np.array([0.3, -0.5, 1.0, 0.0, -1.5])
    found = sample(
        bigram(np.tile(logits, (5, 1))),
        np.zeros((4000, 0)),
        start=0,
        end=None,
        max_length=1,
        seed=1,
        temperature=temperature,
        top_k=top_k,
    )
    weights = np.exp(logits / temperature)
    kept = [2, 0, 3, 1, 4][:top_k]
    counts = np.bincount(found.tokens[:, 0], minlength=5)
    assert counts[kept].sum() == 4000
    assert chi_square(counts[kept], weights[kept] / weights[kept].sum()) < 18.5  # once in 1000, 4 degrees of freedom
    np.testing.assert_allclose(found.log_probs, np.array(log_softmax(logits))[found.tokens[:, 0]], **TIGHT)


def test_of_equal_tokens_at_the_edge_of_top_k_the_lowest_are_kept():
    logits = np.array([[0.0, 1.0, 0.0, 0.0, -1.0]])
    step = bigram(np.repeat(logits, 5, axis=0))
    for k, kept in ((1, {1}), (2, {0, 1}), (3, {0, 1, 2}), (4, {0, 1, 2, 3}), (5, {0, 1, 2, 3, 4})):
        found = sample(step, np.zeros((500, 0)), start=0, end=None, max_length=1, seed=2, top_k=k)
        assert set(found.tokens[:, 0].tolist()) == kept


@given(task=tasks(), seed=SEEDS)
def test_the_best_token_alone_is_greedy(task, seed):
    model, _, end, max_length, start, states = task
    expected = greedy(model.step, states, start=start, end=end, max_length=max_length)
    for options in ({"top_k": 1}, {"temperature": 1e-300}):
        found = sample(model.step, states, start=start, end=end, max_length=max_length, seed=seed, **options)
        for name in expected._fields:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_seed_says_all_draws():
    model, states = Hashed(4, seed=0, scale=0.1), np.arange(50)

    def tokens(seed):
        return sample(model.step, states, start=0, end=None, max_length=6, seed=seed).tokens

    np.testing.assert_array_equal(tokens(3), tokens(3))
    np.testing.assert_array_equal(tokens(3), tokens([3]))
    assert (tokens(3) != tokens(4)).any()
    assert (tokens([3, 0]) != tokens([3, 1])).any()
    flat = sample(bigram(np.zeros((4, 4))), np.zeros((50, 0)), start=0, end=None, max_length=6, seed=3).tokens
    assert len(np.unique(flat, axis=0)) > 45  # rows draw apart
    assert len(np.unique(flat, axis=1).T) == 6  # and so do steps


# ---- rows of a batch -----------------------------------------------------------------------------------------------


def rows_of(decoded, rows):
    """Some rows, with the tokens cut after the longest of them."""
    part = type(decoded)(*[field[rows] for field in decoded])
    return part._replace(tokens=part.tokens[..., : part.lengths.max(initial=0)])


def assert_equal(found, expected):
    for name in expected._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@given(task=tasks(), exponent=PENALTIES, width=st.integers(1, 4), seed=SEEDS)
def test_a_batch_is_each_row_alone(task, exponent, width, seed):
    """Exactly; of draws, which are keyed by the place of a row, the first rows are those of a smaller batch."""
    model, _, end, max_length, start, states = task
    options = {"end": end, "max_length": max_length}
    for decode, extra in ((greedy, {}), (beam, {"width": width, "length_penalty": exponent})):
        batch = decode(model.step, states, start=start, **options, **extra)
        for row in range(len(states)):
            one = slice(row, row + 1)
            assert_equal(rows_of(batch, one), decode(model.step, states[one], start=start[one], **options, **extra))
    batch = sample(model.step, states, start=start, **options, seed=seed)
    for rows in range(1, len(states) + 1):
        first = slice(rows)
        alone = sample(model.step, states[first], start=start[first], **options, seed=seed)
        assert_equal(rows_of(batch, first), alone)


DECODERS = [
    pytest.param(greedy, {}, id="greedy"),
    pytest.param(sample, {"seed": 0}, id="sample"),
    pytest.param(beam, {"width": 1}, id="beam of 1"),
    pytest.param(beam, {"width": 3, "length_penalty": 0.8}, id="beam of 3"),
]


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_what_ended_rows_get_from_the_step_does_not_matter(decode, options):
    """Rows count their steps, and every row has a NaN after the end that its own logits make certain."""
    ends = np.array([1, 4, 2])

    def step(poison):
        def next_logits(tokens, state, context):
            count, context_rows = state + 1, context
            logits = np.where((count >= context_rows)[:, None], [-np.inf, -np.inf, 0.0], [0.5, 0.0, -np.inf])
            logits[count > context_rows] = poison
            return logits, count

        return next_logits

    found = decode(step(np.nan), np.zeros(3, int), ends, start=0, end=2, max_length=6, **options)
    assert_equal(found, decode(step(0.25), np.zeros(3, int), ends, start=0, end=2, max_length=6, **options))
    lengths = found.lengths if found.lengths.ndim == 1 else found.lengths[:, 0]
    assert lengths.tolist() == ends.tolist()
    assert found.finished.reshape(3, -1)[:, 0].all()


# ---- when it stops -------------------------------------------------------------------------------------------------


def counted(logits_of):
    """A step whose logits are those of the count of steps, and how often it was called."""
    calls = []

    def step(tokens, state, context):
        calls.append(tokens)
        return logits_of(np.asarray(state)), state + 1

    return step, calls


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_it_stops_when_all_rows_are_done(decode, options):
    sure = np.array([[0.0, 0.1, -np.inf], [0.0, 0.0, -np.inf], [-np.inf, -np.inf, 0.0]])
    step, calls = counted(lambda count: sure[np.minimum(count, 2)])
    found = decode(step, np.array([0, 1, 2]), start=0, end=2, max_length=100, **options)
    assert len(calls) == 3
    assert found.tokens.shape[-1] == 3
    assert found.lengths.reshape(3, -1)[:, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(("exponent", "max_length"), [(0.0, 50), (1.0, 20), (3.0, 5), (3.0, 50)])
def test_a_beam_stops_when_nothing_open_can_win(exponent, max_length):
    """The end has 0.9 at every step. What goes on loses log 0.09 a step, and hopes for the longest's penalty."""
    table = np.log([[0.09, 0.01, 0.9]] * 3)
    calls = []

    def step(tokens, state, context):
        calls.append(tokens)
        return table[tokens], state

    found = beam(step, np.zeros((1, 0)), start=0, end=2, max_length=max_length, width=1, length_penalty=exponent)
    assert found.lengths.tolist() == [[1]]
    hope = math.log(0.09) / penalty(max_length, exponent)
    assert len(calls) == next(steps for steps in range(1, max_length + 1) if steps * hope <= math.log(0.9))


def test_a_beam_stops_where_what_is_open_can_only_draw_level():
    step, calls = counted(lambda count: np.zeros((len(count), 2)))
    found = beam(step, np.zeros(1, int), start=1, end=0, max_length=9, width=1)
    assert found.tokens.tolist() == [[[0]]]
    assert len(calls) == 1


def test_without_an_end_all_rows_go_on_to_max_length():
    model = Hashed(3, seed=1)
    found = greedy(model.step, model.states(2), start=0, end=None, max_length=7)
    assert found.lengths.tolist() == [7, 7]
    assert not found.finished.any()
    beams = beam(model.step, model.states(2), start=0, end=None, max_length=2, width=20)
    assert (beams.lengths > 0).sum(axis=1).tolist() == [9, 9]
    assert (beams.tokens[:, 9:] == 0).all()


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_an_empty_batch_asks_nothing(decode, options):
    step, calls = counted(lambda count: np.zeros((0, 3)))
    found = decode(step, np.zeros(0, int), start=0, end=2, max_length=3, **options)
    assert not calls
    assert found.tokens.shape in {(0, 0), (0, options.get("width"), 0)}


# ---- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_log_probs_add_up_where_probabilities_underflow(dtype):
    table = np.array([[-1e4, 0.0, -np.inf], [-np.inf, -np.inf, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    found = beam(bigram(table), np.zeros((1, 0)), start=0, end=2, max_length=40, width=41)
    finished = [(0,) * n + (1, 2) for n in range(39)]
    assert [tokens for _, _, tokens in listed(found, 0)] == [*finished, (0,) * 39 + (1,), (0,) * 40]
    np.testing.assert_array_equal(found.log_probs[0], [-1e4 * n for n in range(41)])


def test_log_probs_beside_large_logits():
    """logsumexp(1e16, 1e16) is 1e16 in floating point; each still has probability 1/2."""
    found = greedy(bigram(np.full((2, 2), 1e16)), np.zeros((1, 0)), start=0, end=None, max_length=2)
    np.testing.assert_array_equal(found.log_probs, [-2 * math.log(2)])
    found = greedy(bigram(np.array([[1e308, -1e308]] * 2)), np.zeros((1, 0)), start=0, end=None, max_length=2)
    np.testing.assert_array_equal(found.log_probs, [0.0])


# ---- nets, backends, pytrees ---------------------------------------------------------------------------------------

V, UNITS = 4, 3


class Net:
    """A language model: an embedding, two cells and an output layer; its context is added to every input."""

    def __init__(self):
        self.embedding = mg.nn.Embedding(V, 2, dtype="float64", seed=0)
        self.cell = mg.nn.Deep(
            [mg.nn.GRUCell(2, UNITS, dtype="float64", seed=1), mg.nn.LSTMCell(UNITS, UNITS, dtype="float64", seed=2)]
        )
        self.readout = mg.nn.Linear(UNITS, V, dtype="float64", seed=3)
        for p in self.readout.parameters().values():
            p.data = p.data * 4

    def step(self, tokens, state, context):
        output, cells = self.cell(self.embedding(tokens) + context, state["cells"])
        return self.readout(output), {"cells": cells, "count": state["count"] + 1, "even": ~state["even"]}

    def first(self, backend, rows):
        context = np.random.default_rng(8).normal(size=(rows, 2))
        state = {
            "cells": self.cell.zero_state(rows),
            "count": backend.asarray(np.arange(rows)),
            "even": backend.asarray(np.ones(rows, dtype=bool)),
        }
        return state, backend.asarray(context)

    def log_prob(self, context, start, tokens):
        """Of a whole sequence, by teacher forcing."""
        read = self.embedding(np.array([[start, *tokens[:-1]]])) + context
        outputs, _ = mg.nn.dynamic_rnn(self.cell, read)
        scores = mg.log_softmax(self.readout(outputs)).detach().numpy()
        return math.fsum(scores[0, range(len(tokens)), tokens])


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_a_net_is_decoded_as_it_is_trained(backend, exponent):
    net = Net()
    state, context = net.first(backend, 2)
    options = {"start": 0, "end": 3, "max_length": 3}
    found = beam(net.step, state, context, **options, width=40, length_penalty=exponent)
    assert_well_formed(found, 3, 3)
    for row in range(2):
        expected = []
        for tokens in all_sequences(V, 3, 3):
            log_prob = net.log_prob(context[row : row + 1], 0, tokens)
            expected.append((log_prob / penalty(len(tokens), exponent), log_prob, tokens))
        assert_are(listed(found, row), sorted(expected, reverse=True))
    one = greedy(net.step, state, context, **options)
    drawn = sample(net.step, state, context, **options, seed=0)
    for decoded, row in itertools.product((one, drawn), range(2)):
        tokens = decoded.tokens[row, : decoded.lengths[row]].tolist()
        np.testing.assert_allclose(decoded.log_probs[row], net.log_prob(context[row : row + 1], 0, tokens), **TIGHT)


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_it_is_the_same_on_every_backend(decode, options):
    def decoded(name):
        with mg.use_backend(name):
            net = Net()
            state, context = net.first(get_backend(name), 3)
            return decode(net.step, state, context, start=[0, 1, 2], end=3, max_length=5, **options)

    expected, found = decoded("numpy"), decoded("strict")
    assert type(found.tokens) is np.ndarray
    assert_equal(found, expected)


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_tokens_lie_where_the_state_does(decode, options):
    table = fake_cupy.backend.asarray(np.zeros((3, 3)))
    seen = []

    def step(tokens, state, context):
        seen.append((type(tokens), [type(leaf) for leaf in state]))
        return table[tokens], state

    state = (fake_cupy.backend.asarray(np.zeros((2, 1))), np.zeros(2))
    decode(step, state, start=0, end=2, max_length=2, **options)
    decode(step, (), state[0], start=0, end=2, max_length=2, **options)
    decode(step, (), start=fake_cupy.backend.asarray(np.array([0, 1])), end=2, max_length=2, **options)
    assert {tokens for tokens, _ in seen} == {fake_cupy.StrictArray}
    assert [fake_cupy.StrictArray, np.ndarray] in [leaves for _, leaves in seen]


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_nothing_is_recorded_and_nothing_is_changed(decode, options):
    W = mg.tensor(np.random.default_rng(0).normal(size=(3, 3)), requires_grad=True)
    h = mg.tensor(np.ones((2, 3)), requires_grad=True)
    start, context = np.array([0, 1]), np.ones((2, 1))

    def step(tokens, state, context):
        logits = mg.take(W, tokens, axis=0) + state * context
        assert not logits.requires_grad
        return logits, state @ W

    def writing(tokens, state, context):
        result = step(tokens, state, context)
        tokens[:] = 0  # a step's tokens are its own
        return result

    found = decode(step, h, context, start=start, end=2, max_length=4, **options)
    assert_equal(decode(writing, h, context, start=start, end=2, max_length=4, **options), found)
    assert found.tokens.any()
    assert W.grad is None
    assert start.tolist() == [0, 1]
    np.testing.assert_array_equal(h.data, np.ones((2, 3)))
    assert (context == 1).all()


def test_the_copies_of_a_row_are_side_by_side_and_share_its_context():
    seen = []

    def step(tokens, state, context):
        seen.append((state.copy(), context["memory"][:, 0].copy()))
        return np.zeros((len(tokens), 3)), state

    context = {"memory": np.array([[5.0], [7.0]]), "none": None}
    beam(step, np.array([[1], [2]]), context, start=[0, 1], end=None, max_length=2, width=3)
    for state, memory in seen:
        assert state[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
        assert memory.tolist() == [5.0] * 3 + [7.0] * 3


def test_a_start_for_each_row_gives_the_number_of_rows():
    table = np.random.default_rng(3).normal(size=(4, 4))
    both = greedy(bigram(table), None, start=[1, 2], end=0, max_length=5)
    for row, token in enumerate((1, 2)):
        assert_equal(rows_of(both, [row]), greedy(bigram(table), None, start=np.array([token]), end=0, max_length=5))
    assert backend_of(both.tokens).name == "numpy"


# ---- errors --------------------------------------------------------------------------------------------------------


def call(decode=greedy, step=None, state=np.zeros((2, 1)), context=None, **options):  # noqa: B008  # never changed
    step = step or bigram(np.zeros((3, 3)))
    return decode(step, state, context, **{"start": 0, "end": 2, "max_length": 3, **options})


def giving(logits):
    return lambda tokens, state, context: (logits, state)


NAN, ONE_INF = np.array([[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]]), np.array([[0.0, 0.0, np.inf], [0.0, 0.0, 0.0]])
STUCK = np.array([[0.0, 0.0, 0.0], [-np.inf] * 3])
FEW = np.zeros((2, 3))
ERRORS = {
    "step is a cell's name": ({"step": "gru"}, TypeError, "step is a function .* got a str"),
    "step gives logits only": ({"step": lambda *_: FEW}, TypeError, "step returns .logits, state., got a ndarray"),
    "step loses rows": (
        {"step": lambda *_: (FEW, np.zeros((1, 1)))},
        ValueError,
        r"got 2 rows .* state of shape .1, 1",
    ),
    "step loses a part's rows": (
        {"step": lambda *_: (FEW, {"h": np.zeros((1, 1))})},
        ValueError,
        r"step got 2 rows .* state\['h'\] of shape \(1, 1\)",
    ),
    "step gives a number as state": ({"step": lambda *_: (FEW, 3)}, TypeError, r"state is an array \(B, .* got a int"),
    "logits of one row": ({"step": giving(np.zeros((1, 3)))}, ValueError, r"logits are \(2, V\), got shape \(1, 3\)"),
    "logits without rows": ({"step": giving(np.zeros(3))}, ValueError, r"logits are \(2, V\), got shape \(3,\)"),
    "logits of no token": ({"step": giving(np.zeros((2, 0)))}, ValueError, r"logits are \(2, V\), got shape \(2, 0\)"),
    "logits of integers": ({"step": giving(np.zeros((2, 3), int))}, TypeError, "logits are floating, got int64"),
    "logits that are none": ({"step": giving("abc")}, TypeError, "greedy: logits: expected an array"),
    "a NaN": ({"step": giving(NAN)}, ValueError, "got nan for token 1 in row 1 at step 1"),
    "an infinity": ({"step": giving(ONE_INF)}, ValueError, "got inf for token 2 in row 0 at step 1"),
    "nothing possible": ({"step": giving(STUCK)}, ValueError, "every logit is -inf in row 1 at step 1"),
    "max_length of 0": ({"max_length": 0}, ValueError, "max_length is at least 1, got 0"),
    "max_length of a half": ({"max_length": 0.5}, TypeError, "max_length is an integer, got float"),
    "a start below 0": ({"start": -1}, IndexError, "tokens are integers from 0, got start -1"),
    "starts of other rows": ({"start": [0, 1, 2]}, ValueError, "got 2 in state and 3 in start"),
    "a start of rank 2": ({"start": [[0]]}, TypeError, r"integers \(B,\), got int64 of shape \(1, 1\)"),
    "a start that is no integer": ({"start": 0.0}, TypeError, r"start is a token.* got float64"),
    "no start": ({"start": None}, TypeError, "greedy: start: expected an array"),
    "an end below 0": ({"end": -1}, IndexError, "tokens are integers from 0, got end -1"),
    "an end beyond": ({"end": 3}, IndexError, r"3 tokens, 0\.\.2, got end 3"),
    "an end that is no integer": ({"end": "."}, TypeError, "end is a token or None, got a str"),
    "an end that is a flag": ({"end": True}, TypeError, "end is a token or None, got a bool"),
    "max_length that is a flag": ({"max_length": True}, TypeError, "max_length is an integer, got bool"),
    "a context of other rows": (
        {"context": {"m": np.zeros((3, 1))}},
        ValueError,
        r"2 in state and 3 in context\['m'\]",
    ),
    "a state without rows": ({"state": np.zeros(())}, TypeError, r"state is an array \(B, .* got shape \(\)"),
    "a state that is a number": ({"state": [np.zeros(2), 1.0]}, TypeError, r"state\[1\] is an array .* got a float"),
    "rows that nothing tells": ({"state": None}, ValueError, r"pass start as integers \(B,\), one for each row"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("decode", [greedy, sample, beam])
def test_what_is_wrong_is_one_clear_error(name, decode):
    options, error, message = ERRORS[name]
    extra = {greedy: {}, sample: {"seed": 0}, beam: {"width": 1}}[decode]
    with pytest.raises(error, match=message.replace("greedy", decode.__name__)) as raised:
        call(decode, **options, **extra)
    assert f"minigrad.nn.decoding.{decode.__name__}: " in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0}, ValueError, r"temperature is a number above 0, got 0; .* greedy\(\.\.\.\)"),
        ({"temperature": -1.0}, ValueError, "temperature is a number above 0, got -1.0"),
        ({"temperature": math.nan}, ValueError, "temperature is a number above 0, got nan"),
        ({"temperature": math.inf}, ValueError, "temperature is a number above 0, got inf"),
        ({"temperature": "hot"}, ValueError, "temperature is a number above 0, got 'hot'"),
        ({"top_k": 0}, ValueError, "top_k is at least 1, got 0"),
        ({"top_k": 4}, ValueError, r"top_k is 1\.\.3, the vocabulary, got 4"),
        ({"top_k": 1.5}, TypeError, "top_k is an integer, got float"),
        ({"seed": None}, TypeError, "a seed is an integer of at least 0"),
        ({"seed": -1}, ValueError, "a seed is an integer of at least 0"),
    ],
)
def test_what_is_wrong_with_sampling_is_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        call(sample, **{"seed": 0, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width": 0}, ValueError, "width is at least 1, got 0"),
        ({"width": 2.0}, TypeError, "width is an integer, got float"),
        ({"length_penalty": -0.1}, ValueError, "length_penalty is a number from 0, got -0.1"),
        ({"length_penalty": math.nan}, ValueError, "length_penalty is a number from 0, got nan"),
        ({"length_penalty": math.inf}, ValueError, "length_penalty is a number from 0, got inf"),
        ({"length_penalty": None}, ValueError, "length_penalty is a number from 0, got None"),
        ({"length_penalty": 1e5}, ValueError, "length_penalty 100000.0 is beyond floating point at max_length 3"),
    ],
)
def test_what_is_wrong_with_a_beam_is_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        call(beam, **{"width": 2, **options})


@pytest.mark.parametrize(("decode", "options"), DECODERS)
def test_a_vocabulary_that_changes_is_an_error(decode, options):
    def step(tokens, state, context):
        return np.zeros((len(tokens), 3 + int(state[0]))), state + 1

    rows = 2 * options.get("width", 1)
    with pytest.raises(ValueError, match=rf"logits are \({rows}, 3\), got shape \({rows}, 4\)"):
        call(decode, step, np.zeros(2, int), end=None, **options)


def test_an_error_of_a_beam_names_the_row_of_the_batch():
    def step(tokens, state, context):
        return np.where((state == 1)[:, None] & (tokens == 1)[:, None], np.nan, np.zeros((len(tokens), 3))), state

    with pytest.raises(ValueError, match="got nan for token 0 in row 1 at step 2"):
        call(beam, step, np.array([0, 1]), width=3)


def test_a_start_that_is_never_said_needs_no_logit():
    table = np.log([[0.1, 0.9], [0.6, 0.4], [0.3, 0.7]])  # three tokens are read, and two are said
    assert greedy(bigram(table), np.zeros((1, 0)), start=2, end=0, max_length=3).tokens.tolist() == [[1, 0]]
