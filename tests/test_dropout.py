"""Dropout: what is drawn, from which keys, and that a net with its masks written out is the same net."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, random
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep
from minigrad.nn.dropout import Dropout
from minigrad.nn.initialisers import seed_for
from minigrad.nn.run import Run
from minigrad.testing import check_grads
from net_oracle import (
    INPUTS,
    Sequences,
    along_two_directions,
    as_function,
    bits,
    by_hand,
    driven,
    hold,
    inputs_of,
    poisoned,
    sequences,
)

laws = settings(max_examples=8, deadline=None)
few = settings(max_examples=3, deadline=None)
rates = st.sampled_from([0.0, 0.25, 0.5])  # factors of at most 2: the bound of `agree` is for numbers of size 1
per_step_or_sequence = pytest.mark.parametrize("per_sequence", [False, True])
F = "float64"
UNITS = 3
BATCH = Sequences(4, 3, [2, 0, 4], False, 5)


class Echo:
    """A cell that gives its input out, and hands its state on."""

    def __call__(self, x, state):
        return x, state

    def zero_state(self, batch_size):
        return np.zeros((batch_size, 1))


def gru(seed=0):
    return nn.GRUCell(INPUTS, UNITS, dtype=F, seed=seed)


def lstm(seed=1):
    return nn.LSTMCell(INPUTS, UNITS, dtype=F, seed=seed)


def masks(batch, seed, probabilities, per_sequence):
    """The factors of every step by their keys: (seed, place), the step, and the number of the draw in it."""
    sizes = {"state": UNITS, "input": INPUTS, "output": UNITS}
    found = {place: np.ones((batch.rows, batch.steps, sizes[place])) for place in sizes}

    def drawn(place):
        keep = 1 - probabilities[place]
        return random.bernoulli((batch.rows, sizes[place]), seed_for(seed, place), keep).data / keep

    used = [place for place in sizes if probabilities[place]]
    if per_sequence:
        for place in used:
            found[place][:] = drawn(place)[:, None]
        return found
    with random.steps() as enter:
        for t in range(batch.steps):
            enter(t)
            for place in used:
                found[place][:, t] = drawn(place)
    return found


def with_masks(batch, seed):
    """A net's loop by hand, its masks being inputs."""

    def hand(net, inputs, state):
        probabilities = {"state": net.state, "input": net.input, "output": net.output}
        factors = masks(batch, seed, probabilities, net.per_sequence)

        def step(x, state):
            if isinstance(state, nn.LSTMState):
                state = nn.LSTMState(state.h * x["state"], state.c)
            else:
                state = state * x["state"]
            output, state = net.cell(x["x"] * x["input"], state)
            return output * x["output"], state

        return by_hand(step, {"x": inputs} | factors, batch.lengths, state, batch.reverse)

    return hand


# ---- what a net with dropout means -----------------------------------------------------------------------------------


@per_step_or_sequence
@pytest.mark.parametrize("cell", [gru, lstm])
@laws
@given(batch=sequences(), places=st.tuples(rates, rates, rates), seed=st.integers(0, 99))
def test_it_is_the_loop_with_its_masks_written_out(cell, per_sequence, batch, places, seed):
    net = Dropout(cell(), *places, per_sequence=per_sequence)
    hold(driven(batch, training=True, seed=seed), with_masks(batch, seed), net, batch)


@per_step_or_sequence
@few
@given(batch=sequences(least=1))
def test_gradients_are_those_of_differences(per_sequence, batch):
    net = Dropout(lstm(), 0.3, 0.3, 0.3, per_sequence)
    f, at = as_function(driven(batch, training=True, seed=batch.seed), net, batch)
    check_grads(along_two_directions(f, at, batch.seed), np.zeros(2), order=2)


@per_step_or_sequence
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_cannot_matter(per_sequence, poison, reverse):
    batch = Sequences(4, 5, [2, 0, 4, 1, 3], reverse, 7)
    net = Dropout(lstm(), 0.5, 0.5, 0.5, per_sequence)
    run = driven(batch, training=True, seed=3)
    assert bits(run, net, batch, poisoned(batch, poison)) == bits(run, net, batch, inputs_of(batch))


@per_step_or_sequence
@pytest.mark.parametrize("options", [{"unroll": True}, {"checkpoint": 2}, {"unroll": True, "checkpoint": 3}], ids=str)
@pytest.mark.parametrize("lengths", [None, [2, 0, 4]])
def test_the_masks_are_the_same_however_scan_runs(per_sequence, options, lengths):
    """Values and gradients: a mask that were drawn anew in recomputation would show."""
    net = Deep([Dropout(lstm(), 0.5, 0.5, 0.5, per_sequence), Dropout(nn.GRUCell(3, 2, dtype=F, seed=2), output=0.5)])
    x = np.swapaxes(inputs_of(BATCH), 0, 1)

    def found(**options):
        cell = net.prepared(Run(training=True, seed=3))

        def step(state, x):
            output, state = cell(x, state)
            return state, output

        inputs = mg.tensor(x, requires_grad=True)
        _, outputs = mg.scan(step, inputs, net.zero_state(3), has_output=True, lengths=lengths, **options)
        (outputs**2).sum().backward()
        return outputs.data, inputs.grad

    for got, needed in zip(found(**options), found(), strict=True):
        np.testing.assert_allclose(got, needed, rtol=1e-13, atol=1e-15)


@per_step_or_sequence
def test_the_masks_are_the_same_on_every_backend(per_sequence, minigrad_backend):
    net = Dropout(lstm(), 0.5, 0.5, 0.5, per_sequence)
    needed, _ = nn.dynamic_rnn(net, inputs_of(BATCH), BATCH.lengths, training=True, seed=1)
    with mg.use_backend(minigrad_backend):
        x = mg.asarray(inputs_of(BATCH))
        got, _ = nn.dynamic_rnn(net.to(minigrad_backend), x, BATCH.lengths, training=True, seed=1)
        assert got.backend.name == minigrad_backend
        np.testing.assert_allclose(got.detach().numpy(), needed.data, rtol=1e-13, atol=1e-15)


@per_step_or_sequence
def test_the_masks_go_where_the_arrays_are(per_sequence, minigrad_backend):
    """Also where that is not the default backend."""
    net, x = Dropout(lstm(), 0.5, 0.5, 0.5, per_sequence), inputs_of(BATCH)
    needed, _ = nn.dynamic_rnn(net, x, training=True, seed=1)
    moved = mg.asarray(x).to(minigrad_backend)
    got, _ = nn.dynamic_rnn(net.to(minigrad_backend), moved, training=True, seed=1)
    assert got.backend.name == minigrad_backend
    np.testing.assert_allclose(got.detach().numpy(), needed.data, rtol=1e-13, atol=1e-15)


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def mask(seed, rate=0.2, rows=4, steps=5, units=6, **options):
    """The output of ones, which is the mask of the input."""
    net = Dropout(Echo(), input=rate, **options)
    ones = np.ones((rows, steps, units))
    return np.asarray(nn.dynamic_rnn(net, ones, training=True, seed=seed)[0])


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
@per_step_or_sequence
def test_an_element_is_dropped_or_divided_by_what_is_kept(rate, per_sequence):
    assert sorted(set(mask(0, rate, per_sequence=per_sequence).flat)) == [0.0, 1 / (1 - rate)]
    ones = np.ones((2, 3, 50), np.float32)
    single, _ = nn.dynamic_rnn(Dropout(Echo(), rate, per_sequence=per_sequence), ones, training=True, seed=0)
    assert single.dtype == np.float32
    assert set(np.asarray(single).flat) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}


def test_the_share_that_is_dropped_is_a_fixed_number():
    """100 seeds, 12,000 elements: 2,400 are dropped at a probability of 0.2, give or take 44."""
    dropped = sum(int((mask(seed) == 0).sum()) for seed in range(100))
    assert dropped == 2353


def test_every_step_row_and_seed_has_a_mask_of_its_own():
    drawn = [mask(seed, 0.5, units=40) for seed in (0, 1, (0, 1), (1, 0))]
    rows = [row.tobytes() for found in drawn for step in found for row in step]
    assert len(set(rows)) == len(rows) == 4 * 4 * 5
    np.testing.assert_array_equal(mask(0, 0.5), mask([0], 0.5))


def test_a_mask_of_a_sequence_is_the_same_at_all_steps_and_of_each_row_its_own():
    found = mask(0, 0.5, units=40, per_sequence=True)
    assert (found == found[:, :1]).all()
    assert len({row.tobytes() for row in found[:, 0]}) == 4


@per_step_or_sequence
def test_places_and_leaves_layers_and_directions_draw_apart(per_sequence):
    """With one seed: no two of these masks are alike."""

    def one(**places):
        return Dropout(Echo(), **places, per_sequence=per_sequence)

    ones = np.ones((2, 3, 40))
    pair, _ = nn.dynamic_rnn(one(input=0.5), (ones, ones), training=True, seed=0)
    both, _ = nn.dynamic_rnn(Bidirectional(one(input=0.5), one(input=0.5), None), ones, training=True, seed=0)
    output, _ = nn.dynamic_rnn(one(output=0.5), ones, training=True, seed=0)
    first, second = (
        nn.dynamic_rnn(Deep([a, b]), ones, training=True, seed=0)[0]
        for a, b in itertools.permutations([one(input=0.5), Dropout(Echo())])
    )
    found = [*pair, *both, output, first, second]
    assert len({np.asarray(x).tobytes() for x in found}) == len(found) == 7


def test_shared_layers_draw_apart():
    cell = Dropout(Echo(), input=0.5, per_sequence=True)
    ones = np.ones((2, 3, 40))
    twice, _ = nn.dynamic_rnn(Deep([cell, cell], share=True), ones, training=True, seed=0)
    assert sorted(set(np.asarray(twice).flat)) == [0.0, 4.0]
    assert 0.6 < (np.asarray(twice) == 0).mean() < 0.9


@per_step_or_sequence
@pytest.mark.parametrize("unroll", [False, True])
def test_inside_of_another_scan_each_of_its_steps_has_its_own_masks(per_sequence, unroll):
    """A scan over documents whose function runs a net over each: compiled and unrolled, the same masks."""
    net = Dropout(Echo(), input=0.5, per_sequence=per_sequence)

    def read(state, document):
        outputs, _ = nn.dynamic_rnn(net, document, training=True, seed=0)
        return state, outputs

    documents = np.ones((3, 2, 4, 40))
    _, found = mg.scan(read, documents, np.zeros(1), has_output=True, unroll=unroll)
    _, compiled = mg.scan(read, documents, np.zeros(1), has_output=True)
    found = np.asarray(mg.asarray(found).data)
    np.testing.assert_array_equal(found, np.asarray(mg.asarray(compiled).data))
    distinct = {row.tobytes() for document in found for sequence in document for row in sequence}
    assert len(distinct) == (3 * 2 if per_sequence else 3 * 2 * 4)


def test_the_state_is_dropped_where_it_is_read_and_only_h():
    """A cell that shows what it reads: the h of an LSTM's state has zeros, its c and what is handed on have none."""

    class Show:
        def __call__(self, x, state):
            return (state.h, state.c), nn.LSTMState(state.h * 0 + x, state.c)

        def zero_state(self, batch_size):
            return nn.LSTMState(np.ones((batch_size, 40)), np.ones((batch_size, 40)))

    ones = np.ones((2, 3, 40))
    (h, c), final = nn.dynamic_rnn(Dropout(Show(), state=0.5), ones, training=True, seed=0)
    assert sorted(set(np.asarray(h).flat)) == [0.0, 2.0]
    assert (np.asarray(h) == 0).any((0, 2)).all()  # at every step, the first one, too
    assert (np.asarray(c) == 1).all()
    assert (np.asarray(final.h) == 1).all()
    assert (np.asarray(final.c) == 1).all()


def test_the_state_of_a_stack_is_dropped_in_every_layer():
    net = Dropout(Deep([lstm(), nn.GRUCell(UNITS, 2, dtype=F)]), state=0.9, per_sequence=True)
    state = mg.tree.map(lambda leaf: np.ones(leaf.shape), net.zero_state(3))
    x = mg.tree.map(lambda leaf: mg.tensor(leaf, requires_grad=True), state)
    outputs, _ = nn.dynamic_rnn(net, inputs_of(Sequences(1, 3, None, False, 0)), initial_state=x, training=True, seed=2)
    (outputs**2).sum().backward()
    assert (x[0].h.grad == 0).any()
    assert (x[1].grad == 0).any()
    assert (x[0].c.grad != 0).all()


# ---- training or not -------------------------------------------------------------------------------------------------


def test_without_training_nothing_is_drawn_or_scaled():
    x = inputs_of(BATCH)
    plain, _ = nn.dynamic_rnn(lstm(), x)
    for options in ({"training": False}, {"training": False, "seed": 3}):
        outputs, _ = nn.dynamic_rnn(Dropout(lstm(), 0.5, 0.5, 0.5), x, **options)
        assert bool((outputs == plain).all())


@pytest.mark.parametrize(
    "options", [{}, {"training": True}, {"training": False}, {"seed": 1}, {"training": True, "seed": 1}]
)
def test_a_net_without_draws_takes_any(options):
    x = inputs_of(BATCH)
    plain, _ = nn.dynamic_rnn(lstm(), x)
    for net in (lstm(), Dropout(lstm()), Deep([Dropout(lstm())])):
        assert bool((nn.dynamic_rnn(net, x, **options)[0] == plain).all())


def test_what_is_left_open_is_refused():
    net, x = Deep([Dropout(lstm(), output=0.5)]), inputs_of(BATCH)
    with pytest.raises(
        ValueError, match=r"Dropout draws .* pass training=True and a seed to dynamic_rnn, or training=Fa"
    ):
        nn.dynamic_rnn(net, x)
    with pytest.raises(ValueError, match="pass training=True and a seed"):
        nn.dynamic_rnn(net, x, seed=1)
    with pytest.raises(ValueError, match="pass a seed, and another one for every batch"):
        nn.dynamic_rnn(net, x, training=True)
    with pytest.raises(ValueError, match=r"make a plain cell with \.prepared\(Run\(training=False\)\)"):
        net(x[:, 0], net.zero_state(3))
    with pytest.raises(ValueError, match="pass training=True and a seed"):
        nn.dynamic_rnn(Bidirectional(lstm(), Dropout(lstm(), 0.1)), x)


def test_a_plain_cell_for_single_steps_is_one_call_away():
    net, x = Dropout(lstm(), 0.5), inputs_of(BATCH)[:, 0]
    output, _ = net.prepared(Run(training=False))(x, net.zero_state(3))
    assert bool((output == lstm()(x, net.zero_state(3))[0]).all())


def test_bad_input_is_refused():
    for rate in (-0.1, 1.0, 2, np.nan, "half", None):
        with pytest.raises(ValueError, match=r"Dropout: output is the probability .* in \[0, 1\), got"):
            Dropout(lstm(), output=rate)
    with pytest.raises(TypeError, match=r"drops floating values, got input of dtype int64: drop after an Embedding"):
        nn.dynamic_rnn(Dropout(Echo(), 0.5), np.ones((1, 2, 3), int), training=True, seed=0)
    with pytest.raises(TypeError, match=r"Dropout needs the h of a state, .*, got dict"):
        Dropout(Echo(), state=0.5).prepared(Run(training=True, seed=0))(np.ones((1, 2)), {"h": np.ones((1, 2))})
    with pytest.raises(
        TypeError, match="Dropout: what it wraps is a cell, and a Bidirectional runs over whole sequences"
    ):
        Dropout(Bidirectional(lstm(), lstm()))
    with pytest.raises(TypeError, match="training is True, False or None, got 1"):
        nn.dynamic_rnn(lstm(), inputs_of(BATCH), training=1)
    for seed in ("7", -1, 1.5, [1, -1]):
        with pytest.raises(
            (TypeError, ValueError), match="a seed is an integer of at least 0, or a sequence of such, got"
        ):
            nn.dynamic_rnn(lstm(), inputs_of(BATCH), training=True, seed=seed)
