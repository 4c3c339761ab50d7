"""Bidirectional: two loops by hand, one of them backwards within each row's length; the mirror law; merging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep
from minigrad.testing import check_grads
from net_oracle import (
    INPUTS,
    Sequences,
    along_two_directions,
    as_function,
    bits,
    by_hand,
    driven,
    gru,
    hold,
    inputs_of,
    lstm,
    poisoned,
    sequences,
    states_of,
)
from scan_oracle import agree

laws = settings(max_examples=8, deadline=None)
few = settings(max_examples=3, deadline=None)
F = "float64"


def bent(a, b):
    """A merge that makes something of zeros, too."""
    return mg.sin(a) * b + 1


MERGES = {
    "concat": lambda a, b: mg.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "multiply": lambda a, b: a * b,
    None: lambda a, b: (a, b),
    bent: bent,
}
merges = pytest.mark.parametrize("merge", MERGES)


def one_before(outputs, length, backwards):
    """A row's outputs (T, units), each moved to the step that was read after it."""
    zero = outputs[:1] * 0
    seen = outputs[:length]
    moved = [seen[1:], zero] if backwards else [zero, seen[:-1]]
    return mg.concatenate([*moved, outputs[length:]]) if length else outputs


def both_by_hand(net, batch):
    """Each direction along each row alone, then merged, row by row."""

    def run(net, inputs, states):
        fw, first = by_hand(net.forward, inputs, batch.lengths, states[0], batch.reverse)
        bw, second = by_hand(net.backward, inputs, batch.lengths, states[1], not batch.reverse)
        lengths = [batch.steps] * batch.rows if batch.lengths is None else batch.lengths
        if net.exclusive:
            rows = [one_before(bw[row], n, not batch.reverse) for row, n in enumerate(lengths)]
            bw = mg.stack(rows)
        outputs = MERGES[net.merge](fw, bw)
        if net.merge is bent:
            outputs = outputs * (np.arange(batch.steps) < np.array(lengths)[:, None])[:, :, None]
        return outputs, (first, second)

    return run


@merges
@laws
@given(batch=sequences(), exclusive=st.booleans())
def test_it_is_two_loops_by_hand(merge, batch, exclusive):
    net = Bidirectional(gru(), lstm(), merge, exclusive)
    hold(driven(batch), both_by_hand(net, batch), net, batch)


@laws
@given(batch=sequences())
def test_directions_may_be_of_any_kind_and_size(batch):
    net = Bidirectional(Deep([gru(units=2), lstm(2, 1)]), nn.RNNCell(INPUTS, 4, dtype=F, seed=3))
    hold(driven(batch), both_by_hand(net, batch), net, batch)


@few
@given(batch=sequences(least=1), exclusive=st.booleans())
def test_gradients_are_those_of_differences(batch, exclusive):
    f, at = as_function(driven(batch), Bidirectional(gru(), lstm(), exclusive=exclusive), batch)
    check_grads(along_two_directions(f, at, batch.seed), np.zeros(2), order=2)


@given(batch=sequences(least=1), exclusive=st.booleans())
@laws
def test_the_mirror_law(batch, exclusive):
    """Reversed rows through exchanged directions give the reversed outputs, and the states exchanged."""
    one, other = gru(seed=0), gru(seed=1)
    inputs = inputs_of(batch)
    state = states_of(Bidirectional(one, other), batch)
    lengths = [batch.steps] * batch.rows if batch.lengths is None else batch.lengths

    def mirrored(values):
        return mg.tree.map(lambda x: mg.reverse_sequence(x, lengths, time_axis=1, batch_axis=0), values)

    (fw, bw), final = driven(batch)(Bidirectional(one, other, None), inputs, state)
    exchanged, finals = driven(batch)(Bidirectional(other, one, None), mirrored(inputs), state[::-1])
    agree(mirrored(exchanged[::-1]), (fw, bw))
    agree(finals[::-1], final)
    net = Bidirectional(one, other, None, exclusive)
    turned, turned_final = driven(batch._replace(reverse=not batch.reverse))(net, inputs, state)
    outputs, final = driven(batch)(net, mirrored(inputs), state)
    agree(mirrored(outputs), turned)
    agree(final, turned_final)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_each_output_has_seen(exclusive, reverse):
    """By the gradient: forwards up to i, backwards from i on, or from i + 1 on if it is exclusive."""
    net = Bidirectional(gru(), gru(seed=1), None, exclusive)
    T = 4
    for i in range(T):
        seen = []
        for direction in range(2):
            x = mg.tensor(inputs_of(Sequences(T, 1, None, reverse, 0)), requires_grad=True)
            outputs, _ = nn.dynamic_rnn(net, x, reverse=reverse)
            outputs[direction][0, i].sum().backward()
            seen.append([t for t in range(T) if (x.grad[0, t] != 0).any()])
        before, after = list(range(i + 1)), list(range(i, T))
        forward, backward = (after, before) if reverse else (before, after)
        assert seen[0] == forward
        assert seen[1] == ([t for t in backward if t != i] if exclusive else backward)


def test_an_exclusive_output_is_zero_at_each_rows_last_step():
    net = Bidirectional(gru(), gru(seed=1), None, exclusive=True)
    x = inputs_of(Sequences(4, 4, None, False, 3))
    (_, bw), _ = nn.dynamic_rnn(net, x, [4, 1, 0, 3])
    assert (bw.data != 0).any(-1).tolist() == [
        [True, True, True, False], [False] * 4, [False] * 4, [True, True, False, False],
    ]  # fmt: skip


@merges
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_padding_cannot_matter(merge, poison, reverse, exclusive):
    batch = Sequences(4, 5, [2, 0, 4, 1, 3], reverse, 7)
    net = Bidirectional(gru(), lstm(), merge, exclusive)
    clean = bits(driven(batch), net, batch, inputs_of(batch))
    assert bits(driven(batch), net, batch, poisoned(batch, poison)) == clean


@merges
def test_outputs_past_a_rows_length_are_zero(merge):
    batch = Sequences(4, 3, [2, 0, 4], False, 5)
    outputs, _ = driven(batch)(Bidirectional(gru(), lstm(), merge), inputs_of(batch), None)
    for leaf in mg.tree.flatten(outputs)[0]:
        assert (leaf.data != 0).any(-1).tolist() == [[True, True, False, False], [False] * 4, [True] * 4]


# ---- in a stack ------------------------------------------------------------------------------------------------------


@laws
@given(batch=sequences())
def test_a_stack_with_it_is_one_run_after_the_other(batch):
    net = Deep([Bidirectional(gru(units=2), lstm(units=1)), lstm(3, 2), Bidirectional(gru(2), gru(2, seed=4), "mean")])

    def hand(net, inputs, states):
        finals, outputs = [], inputs
        for layer, state in zip(net.layers, states, strict=True):
            outputs, final = driven(batch)(layer, outputs, state)
            finals.append(final)
        return outputs, tuple(finals)

    hold(driven(batch), hand, net, batch)


def test_a_stack_with_it_has_no_single_step():
    net = Deep([gru(), Bidirectional(gru(3), lstm(3))])
    assert net.whole_sequence
    with pytest.raises(TypeError, match="has no single step: use dynamic_rnn"):
        net(np.zeros((1, INPUTS)), net.zero_state(1))
    with pytest.raises(TypeError, match=r"use mg\.nn\.dynamic_rnn"):
        mg.scan(net, np.zeros((2, 1, INPUTS)), net.zero_state(1))


def test_paths_of_parameters():
    net = Deep([Bidirectional(gru(), lstm())])
    assert list(net.parameters())[::3] == ["layers.0.forward.W_x", "layers.0.backward.W_x"]


@pytest.mark.parametrize(("rows", "steps"), [(0, 3), (2, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("exclusive", [False, True])
def test_nothing_is_something(rows, steps, exclusive, minigrad_backend):
    with mg.use_backend(minigrad_backend):
        net = Bidirectional(nn.GRUCell(INPUTS, 3), nn.LSTMCell(INPUTS, 4), exclusive=exclusive)
        x = mg.zeros((rows, steps, INPUTS), dtype="float32")
        for lengths in (None, [steps] * rows):
            outputs, (fw, bw) = nn.dynamic_rnn(net, x, lengths)
            assert (outputs.shape, outputs.dtype) == ((rows, steps, 7), np.float32)
            assert (fw.shape, bw.c.shape) == ((rows, 3), (rows, 4))


def test_it_runs_where_its_arrays_are(minigrad_backend):
    batch = Sequences(4, 3, [2, 0, 4], True, 5)
    net = Bidirectional(gru(), gru(seed=1), bent, exclusive=True)
    needed, _ = driven(batch)(net, inputs_of(batch), None)
    with mg.use_backend(minigrad_backend):
        moved = net.to(minigrad_backend)
        got, _ = driven(batch)(moved, mg.asarray(inputs_of(batch)), None)
        assert got.backend.name == minigrad_backend
    np.testing.assert_allclose(got.numpy(), needed.numpy(), rtol=1e-14)


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_made_is_refused():
    cell = gru()
    with pytest.raises(ValueError, match="one object for both directions: make a cell for each"):
        Bidirectional(cell, cell)
    with pytest.raises(ValueError, match='merge is one of "concat", "sum", "mean", "multiply", a function or None'):
        Bidirectional(cell, lstm(), merge="max")
    with pytest.raises(TypeError, match=r"the backward net is a cell with zero_state\(batch_size\), got a Linear"):
        Bidirectional(cell, nn.Linear(2, 3))


def test_outputs_that_cannot_be_merged_are_refused():
    x = np.zeros((2, 4, INPUTS))
    for merge in ("sum", "mean", "multiply"):
        with pytest.raises(ValueError, match=rf'merge="{merge}" takes outputs of one shape .* \(2, 3\) .* \(2, 4\)'):
            nn.dynamic_rnn(Bidirectional(gru(), lstm(units=4), merge), x)

    class Totals:
        def __call__(self, x, state):
            return x.sum(1), state

        def zero_state(self, batch_size):
            return np.zeros(batch_size)

    with pytest.raises(ValueError, match=r'merge="concat" joins outputs \(B, units\) .* \(2,\) forward'):
        nn.dynamic_rnn(Bidirectional(Totals(), Totals()), x)


def test_a_state_that_is_no_pair_is_refused():
    with pytest.raises(TypeError, match="got an initial_state of"):
        nn.dynamic_rnn(Bidirectional(gru(), lstm()), np.zeros((2, 4, INPUTS)), initial_state=np.zeros((2, 3)))
