"""Cells around cells, and stacks of them: each is the loop written out by hand, at orders 1 and 2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep, DeepOutput, DeepTransition
from minigrad.nn.wrappers import LearnedState, Residual
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
)

laws = settings(max_examples=8, deadline=None)
few = settings(max_examples=3, deadline=None)
F = "float64"


def linear(inputs, outputs, seed=2):
    return nn.Linear(inputs, outputs, dtype=F, seed=seed)


# ---- what each wrapper means: its step, by hand ----------------------------------------------------------------------


def residual(net):
    def step(x, state):
        output, state = net.cell(x, state)
        return x + output, state

    return step


def learned(net):
    return net.cell


def deep(net):
    lower, upper = net.layers

    def step(x, states):
        first, second = states
        x, first = lower(x, first)
        x, second = upper(x, second)
        return x, (first, second)

    return step


def transition(net):
    W, b = net.transitions[0].W, net.transitions[0].b

    def step(x, state):
        _, state = net.cell(x, state)
        h = mg.tanh(state.h @ W + b)
        return h, nn.LSTMState(h, state.c)

    return step


def deep_output(net):
    first, _, second = net.layers

    def step(x, state):
        h, state = net.cell(x, state)
        return mg.tanh(h @ first.W + first.b) @ second.W + second.b, state

    return step


def stack_of_wrappers(net):
    inner, outer = net.layers[0].cell, net.layers[1].cell

    def step(x, states):
        h, first = inner(x, states[0])
        x = x + h
        h, second = outer(x, states[1])
        return mg.sin(h @ net.layers[1].layers[0].W), (first, second)

    return step


NETS = {
    "Residual": (lambda: Residual(gru(units=INPUTS)), residual),
    "LearnedState": (lambda: LearnedState(lstm()), learned),
    "Deep": (lambda: Deep([gru(units=3), lstm(inputs=3, units=2)]), deep),
    "DeepTransition": (lambda: DeepTransition(lstm(), [linear(3, 3), mg.tanh]), transition),
    "DeepOutput": (lambda: DeepOutput(gru(), [linear(3, 4), mg.tanh, linear(4, 2, seed=3)]), deep_output),
    "a stack of wrappers": (
        lambda: Deep(
            [
                Residual(lstm(units=INPUTS)),
                DeepOutput(LearnedState(gru()), [nn.Linear(3, 2, bias=False, dtype=F, seed=5), mg.sin]),
            ]
        ),
        stack_of_wrappers,
    ),
}
nets = pytest.mark.parametrize("name", NETS)


@nets
@laws
@given(batch=sequences())
def test_a_net_is_its_loop_by_hand(name, batch):
    make, step_of = NETS[name]

    def hand(net, inputs, state):
        return by_hand(step_of(net), inputs, batch.lengths, state, batch.reverse)

    hold(driven(batch), hand, make(), batch)


@nets
@few
@given(batch=sequences(least=1))
def test_gradients_are_those_of_differences(name, batch):
    f, at = as_function(driven(batch), NETS[name][0](), batch)
    check_grads(along_two_directions(f, at, batch.seed), np.zeros(2), order=2)


@nets
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_cannot_matter(name, poison, reverse):
    batch = Sequences(4, 5, [2, 0, 4, 1, 3], reverse, 7)
    net = NETS[name][0]()
    clean = bits(driven(batch), net, batch, inputs_of(batch))
    assert bits(driven(batch), net, batch, poisoned(batch, poison)) == clean


@nets
def test_one_step_of_a_net_is_one_step_of_its_sequence(name, minigrad_backend):
    with mg.use_backend(minigrad_backend):
        net = NETS[name][0]()
        x = mg.asarray(inputs_of(Sequences(1, 3, None, False, 0)))
        outputs, final = nn.dynamic_rnn(net, x)
        output, state = net(x[:, 0], net.zero_state(3))
        assert bool((outputs[:, 0] == output).all())
        assert mg.tree.flatten(final)[1] == mg.tree.flatten(state)[1]
        for got, needed in zip(mg.tree.flatten(final)[0], mg.tree.flatten(state)[0], strict=True):
            assert bool((got == needed).all())


# ---- stacks ----------------------------------------------------------------------------------------------------------


@laws
@given(batch=sequences())
def test_a_stack_is_one_run_after_the_other(batch):
    def hand(net, inputs, states):
        options = {"sequence_length": batch.lengths, "reverse": batch.reverse}
        middle, first = nn.dynamic_rnn(net.layers[0], inputs, initial_state=states[0], **options)
        outputs, second = nn.dynamic_rnn(net.layers[1], middle, initial_state=states[1], **options)
        return outputs, (first, second)

    hold(driven(batch), hand, Deep([gru(units=3), lstm(inputs=3, units=2)]), batch)


def test_paths_of_parameters_are_those_of_attributes():
    assert list(Deep([gru(), Residual(lstm(3, 3))]).parameters()) == [
        "layers.0.W_x", "layers.0.W_h", "layers.0.b", "layers.1.cell.W_x", "layers.1.cell.W_h", "layers.1.cell.b",
    ]  # fmt: skip
    assert [p for p in LearnedState(Deep([gru(), lstm(3, 2)])).parameters() if p.startswith("state")] == [
        "state.0", "state.1.h", "state.1.c",
    ]  # fmt: skip
    assert list(DeepTransition(gru(), [linear(3, 3)]).parameters())[-2:] == ["transitions.0.W", "transitions.0.b"]


def test_sharing_is_said_or_refused():
    cell = gru(units=INPUTS)
    with pytest.raises(ValueError, match=r"layers 0 and 1 of Deep are the same object: \[cell\] \* 3 .* share=True"):
        Deep([cell] * 3)
    with pytest.raises(ValueError, match=r"layers 0 and 1 of Deep share cell\.W_x"):
        Deep([Residual(cell), Residual(cell)])
    net = Deep([cell] * 3, share=True)
    assert list(net.parameters()) == ["layers.0.W_x", "layers.0.W_h", "layers.0.b"]
    x = inputs_of(Sequences(3, 2, None, False, 1))
    outputs, states = nn.dynamic_rnn(net, x)
    assert len(states) == 3
    for _ in range(3):
        x, _ = nn.dynamic_rnn(cell, x)
    np.testing.assert_allclose(outputs.data, x.data, rtol=1e-14)


def test_layers_that_are_no_cells_are_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        Deep([])
    with pytest.raises(TypeError, match=r"Deep: layer 1 is a cell with zero_state\(batch_size\), got a Linear"):
        Deep([gru(), linear(3, 3)])
    with pytest.raises(TypeError, match=r"Residual: what it wraps is a cell .*, got the class GRUCell"):
        Residual(nn.GRUCell)
    with pytest.raises(TypeError, match="DeepOutput: layer 0 is a function of one array, got a GRUCell"):
        DeepOutput(gru(), [gru()])
    with pytest.raises(TypeError, match="DeepTransition: transition 0 is a function of one array, got a int"):
        DeepTransition(gru(), [3])
    both = Bidirectional(gru(), gru())
    with pytest.raises(
        TypeError, match="Residual: what it wraps is a cell, and a Bidirectional runs over whole sequences"
    ):
        Residual(both)
    with pytest.raises(TypeError, match="LearnedState: what it wraps is a cell, and a Deep runs over whole sequences"):
        LearnedState(Deep([both]))


def test_states_of_another_number_of_layers_are_refused():
    net = Deep([gru(), lstm(3)])
    x = np.zeros((1, INPUTS))
    with pytest.raises(TypeError, match="a tuple with one for each of its 2 layers, got a tuple of 1"):
        net(x, (np.zeros((1, 3)),))
    with pytest.raises(TypeError, match="got an initial_state of"):
        nn.dynamic_rnn(net, x[None], initial_state=(np.zeros((1, 3)),))


# ---- the other depths ------------------------------------------------------------------------------------------------


def test_a_transition_needs_a_cell_whose_output_is_h():
    cell = DeepTransition(DeepOutput(gru(), [linear(3, 3)]), [mg.tanh])
    with pytest.raises(TypeError, match="DeepTransition takes a cell whose output is its h"):
        nn.dynamic_rnn(cell, np.zeros((1, 2, INPUTS)))


def test_a_transition_must_keep_the_size_of_h():
    with pytest.raises(TypeError, match=r"state was float64\(1, 3\) and became float64\(1, 2\)"):
        nn.dynamic_rnn(DeepTransition(gru(), [linear(3, 2)]), np.zeros((1, 2, INPUTS)))


def test_no_layers_change_nothing():
    x = inputs_of(Sequences(3, 2, None, False, 2))
    plain, _ = nn.dynamic_rnn(lstm(), x)
    for net in (DeepTransition(lstm(), []), DeepOutput(lstm(), []), Deep([lstm()])):
        assert bool((nn.dynamic_rnn(net, x)[0] == plain).all())


# ---- Residual --------------------------------------------------------------------------------------------------------


class Halved:
    """A cell of trees without parameters."""

    def __call__(self, x, state):
        return {"a": x["a"] / 2, "b": (x["b"][0] + state,)}, state

    def zero_state(self, batch_size):
        return np.ones((batch_size, 1))


def test_residual_adds_trees():
    x = {"a": np.full((1, 2, 1), 4.0), "b": (np.full((1, 2, 1), 3.0),)}
    outputs, _ = nn.dynamic_rnn(Residual(Halved()), x)
    assert outputs["a"].tolist() == [[[6.0], [6.0]]]
    assert outputs["b"][0].tolist() == [[[7.0], [7.0]]]


def test_residual_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"their shapes are the same, got \(2, 1\) and \(2, 3\)"):
        nn.dynamic_rnn(Residual(gru(inputs=1)), np.zeros((2, 4, 1)))


# ---- LearnedState ----------------------------------------------------------------------------------------------------


@given(rows=st.integers(0, 3), seed=st.integers(0, 2**16 - 1))
@laws
def test_the_learned_state_is_every_rows_and_its_gradient_their_sum(rows, seed):
    net = LearnedState(lstm())
    draw = np.random.default_rng(seed)
    net.load_state_dict({path: draw.normal(size=p.shape) for path, p in net.parameters().items()})
    x = draw.normal(size=(rows, 3, INPUTS))
    lengths = draw.integers(0, 4, size=rows)
    given = [mg.tensor(np.tile(net.state[i].data, (rows, 1)), requires_grad=True) for i in range(2)]
    learned_outputs, _ = nn.dynamic_rnn(net, x, lengths)
    outputs, _ = nn.dynamic_rnn(net.cell, x, lengths, nn.LSTMState(*given))
    assert bool((learned_outputs == outputs).all())
    (learned_outputs**2).sum().backward()
    (outputs**2).sum().backward()
    for learned_state, rows_of_it in zip(net.state, given, strict=True):
        np.testing.assert_allclose(learned_state.grad, rows_of_it.grad.sum(0), rtol=1e-12, atol=1e-15)


def test_the_learned_state_starts_at_the_cells_own():
    assert LearnedState(Halved()).state.data.tolist() == [1.0]
    assert LearnedState(gru()).zero_state(2).data.tolist() == [[0.0] * 3] * 2


def test_states_that_cannot_be_learned_are_refused():
    class Counting(Halved):
        def zero_state(self, batch_size):
            return {"n": np.zeros(batch_size, dtype=int)}

    with pytest.raises(TypeError, match=r"LearnedState learns floating states, got state\['n'\] of dtype int64"):
        LearnedState(Counting())


def test_a_learned_state_goes_with_its_cell_to_another_dtype():
    net = LearnedState(gru()).astype("float32")
    assert (net.state.dtype, net.state.requires_grad) == (np.float32, True)


class PlainCell:
    """A cell as the README has one: of no class of ours."""

    def __init__(self, inputs, units):
        self.units = units
        self.W = mg.tensor(np.full((inputs + units, units), 0.1), requires_grad=True)

    def zero_state(self, batch_size):
        return np.zeros((batch_size, self.units))

    def __call__(self, x, h):
        h = mg.tanh(mg.concatenate([x, h], axis=1) @ self.W)
        return h, h


def test_the_parameters_of_a_cell_of_ones_own_are_found():
    net = Deep([PlainCell(2, 3), nn.GRUCell(3, 3, dtype="float64", seed=0)])
    assert list(net.parameters()) == ["layers.0.W", "layers.1.W_x", "layers.1.W_h", "layers.1.b"]
    assert "layers.0.W" in net.state_dict()
    assert net.astype("float32").layers[0].W.dtype == "float32"
    before = net.layers[0].W.numpy()
    nn.dynamic_rnn(net, np.ones((1, 4, 2)))[0].sum().backward()
    mg.optim.SGD(net, 0.1).step()
    assert (net.layers[0].W.numpy() != before).all()
    first, second = PlainCell(3, 3), PlainCell(3, 3)
    second.W = first.W
    with pytest.raises(ValueError, match="share W"):
        Deep([first, second])
