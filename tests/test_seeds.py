"""What the five texts that minigrad grew from teach, and where they err, as numbers.

    000  "Unfolding RNN 2"                             the vanilla cell and scan
    001  "Unfolding RNNs"                              states, losses, decoders, both directions, depth
    002  "Small crash course to RNN in tensorflow"     LSTM and GRU, lengths, a training loop
    003  "Topic 7: Recurrent neural networks"          scan, concatenated weights, residual cell, LSTM and GRU
    004  "RNNs Part 1: Creating a Cell"                the same cells as NumPy code

002:41 is line 41 of seed 002, and E-002-3 the third of its errors. An error is shown twice: as printed, with the wrong
number that it gives, and as corrected. What is a convention, and no error, says so. Slips of the pen are left out.

A cell stands here as a seed has it: plain NumPy, in the seed's own letters, but with samples as rows, so that its
W s is our s @ W. The last section runs every cell on arrays, on complex numbers, and on Tensors.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cell_equations
import minigrad as mg
from minigrad import nn, tree
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep

T, B, I, H, K = 4, 2, 2, 3, 5  # steps, rows, inputs, units, classes
TIGHT = {"rtol": 1e-12, "atol": 1e-14}

seeds = st.integers(0, 2**16 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def weights(shapes, seed=0):
    """Normal draws, one array a name."""
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape) for name, shape in shapes.items()}


def zeros(shapes):
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def host(x):
    return mg.asarray(x).detach().numpy()


def close(got, expected, **tolerance):
    np.testing.assert_allclose(host(got), expected, **(tolerance or TIGHT))


def same(got, expected):
    """Equal under ==, and of equal shapes."""
    np.testing.assert_array_equal(host(got), expected, strict=True)


def equal_with_gradients(f, g, at):
    """Assert two functions of a dict to have the same values, and the same gradients by everything in it."""
    values, pull = mg.vjp(f, at)
    cotangent = normal(9, *values.shape)
    (gradients,) = pull(cotangent)
    expected, pull = mg.vjp(g, at)
    (expected_gradients,) = pull(cotangent)
    close(values, host(expected))
    for name, gradient in expected_gradients.items():
        assert host(gradient).any(), name  # zeros would prove nothing
        close(gradients[name], host(gradient), rtol=1e-11, atol=1e-13)


# ---- what the cells are made of ------------------------------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    return np.exp(z) / np.sum(np.exp(z), axis=-1, keepdims=True)


def conc(s, x):
    return np.concatenate([s, x], axis=-1)


class SeedCell(NamedTuple):
    """A cell of a seed, and the same in our words."""

    step: Any  # (weights, x, state) -> (output, state)
    shapes: dict[str, tuple[int, ...]]
    ours: Any  # weights -> (a cell of mg.nn that holds them, what turns its outputs into the seed's)
    states: int = 1


CELLS: dict[str, SeedCell] = {}


def per_gate(gates, **shapes):
    """The shapes of one set of weights for each gate: per_gate("if", W_=(3, 3)) is {"W_i": (3, 3), "W_f": (3, 3)}."""
    return {name + gate: shape for name, shape in shapes.items() for gate in gates}


def side_by_side(w, name, gates):
    return np.concatenate([w[name + gate] for gate in gates], axis=-1)


def holding(module, **parameters):
    """A module of ours with these parameters, which may depend on others."""
    for name, value in parameters.items():
        assert getattr(module, name).shape == value.shape
        setattr(module, name, mg.asarray(value))
    return module


def as_it_is(outputs):
    return outputs


def python_loop(cell, w, xs, state):
    """xs (T, B, I) to outputs (T, B, ...) and the last state."""
    outputs = []
    for x in xs:
        output, state = cell.step(w, x, state)
        outputs.append(output)
    return np.stack(outputs), state


def scanned(cell, w, xs, state):
    state, outputs = mg.scan(lambda s, x: cell.step(w, x, s)[::-1], xs, state, has_output=True)
    return outputs, state


def in_our_words(cell, w, xs, state):
    net, output_map = cell.ours(w)
    state = nn.LSTMState(*state) if cell.states == 2 else state
    outputs, state = nn.dynamic_rnn(net, xs, initial_state=state, time_major=True)
    return output_map(outputs), state


# ---- seed 000 ------------------------------------------------------------------------------------------------------


def vanilla_000(w, x, s):
    s = np.tanh(x @ w["U"] + s @ w["W"])
    return softmax(s @ w["V"]), s


def our_vanilla_000(w):
    cell = holding(nn.RNNCell(I, H, dtype="float64"), W_x=w["U"], W_h=w["W"])
    output = holding(nn.Linear(H, K, bias=False, dtype="float64"), W=w["V"])
    return cell, lambda s: mg.softmax(output(s))


CELLS["000 vanilla"] = SeedCell(vanilla_000, {"U": (I, H), "W": (H, H), "V": (H, K)}, our_vanilla_000)


def test_the_predicted_class_needs_no_softmax_and_has_no_gradient():
    """000:24: argmax of the probabilities is argmax of the logits; nothing flows back through a choice."""
    logits = mg.tensor(normal(0, B, K), requires_grad=True)
    predicted = mg.argmax(softmax(logits), axis=-1)
    same(predicted, np.argmax(host(logits), axis=-1))
    assert predicted.dtype.kind == "i"
    assert not predicted.requires_grad


def test_how_often_the_function_runs():
    """000:40 "runs 'T' times" and 003:47 "only called once": unrolled the one, compiled the other."""
    calls = []

    def fn(s, x):
        calls.append("once more")
        return np.tanh(0.25 * s - x)

    mg.scan(fn, normal(0, 5), 0.5, unroll=True)
    assert len(calls) == 5
    compiled = mg.scan(fn, normal(0, 5), 0.5)  # where fn is new, it is traced a second time, to compare
    calls.clear()
    close(mg.scan(fn, normal(0, 50), 0.5)[:5], compiled)
    assert len(calls) == 1


# ---- seed 001 ------------------------------------------------------------------------------------------------------


def vanilla_001(w, x, h):
    h = np.tanh(h @ w["W"] + x @ w["U"] + w["b"])
    o = h @ w["V"] + w["c"]
    return softmax(o), h


def our_vanilla_001(w):
    cell = holding(nn.RNNCell(I, H, dtype="float64"), W_x=w["U"], W_h=w["W"], b=w["b"])
    output = holding(nn.Linear(H, K, dtype="float64"), W=w["V"], b=w["c"])
    return cell, lambda h: mg.softmax(output(h))


CELLS["001 vanilla"] = SeedCell(
    vanilla_001, {"W": (H, H), "U": (I, H), "b": (H,), "V": (H, K), "c": (K,)}, our_vanilla_001
)


def highest_probability(classes):
    """Of a softmax whose logits are between -1 and 1."""
    return np.e / (np.e + (classes - 1) / np.e)


@pytest.mark.parametrize(("classes", "probability", "loss"), [(10, 0.4509, 0.797), (1000, 0.0073, 4.914)])
def test_tanh_before_softmax_caps_the_probability(classes, probability, loss):
    """001:22, E-001-1: the surest net possible is still unsure, and so its loss has a floor."""
    logits = np.where(np.arange(classes) == 7, 50.0, -50.0)
    printed = mg.softmax(np.tanh(logits))[7]
    close(printed, highest_probability(classes))
    assert round(float(printed), 4) == probability
    assert round(float(mg.cross_entropy(np.tanh(logits), 7)), 3) == loss
    assert mg.softmax(logits)[7] == 1.0
    assert mg.cross_entropy(logits, 7) == 0.0


@given(seed=seeds, classes=st.integers(2, 30), size=st.sampled_from([0.1, 1.0, 10.0, 1000.0]))
def test_no_weights_lift_that_cap(seed, classes, size):
    """001:22, E-001-1."""
    logits = size * normal(seed, classes)
    assert mg.softmax(np.tanh(logits)).max() <= highest_probability(classes) * (1 + 1e-15)


def test_the_first_state_is_an_argument_of_the_last():
    """001:75, E-001-3: h_t is a function of x_1..x_t and of h_0, which is missing there."""
    w, xs = weights(CELLS["001 vanilla"].shapes), normal(1, T, B, I)
    last = [host(scanned(CELLS["001 vanilla"], w, xs, h_0)[1]) for h_0 in (np.zeros((B, H)), np.ones((B, H)))]
    assert (np.abs(last[0] - last[1]) > 1e-3).all()


def test_gradient_descent_optimises_the_first_state():
    """003:30: and so h_0 can be learned. For h = tanh(h_0) to be 1/2 it must become artanh(1/2)."""
    descend = mg.grad(lambda h_0: np.sum((mg.scan(lambda h, _: np.tanh(h), np.zeros(1), h_0)[-1] - 0.5) ** 2))
    h_0 = np.zeros(2)
    for _ in range(20):
        h_0 = h_0 - 0.8 * descend(h_0)
    close(h_0, np.full(2, np.arctanh(0.5)))


def test_the_sum_of_losses_takes_larger_steps_than_their_mean():
    """001:95 takes the sum, 002:117 the mean, E-001-5: the same gradient, but for T times B."""
    xs, labels = normal(1, T, B, I), np.arange(T * B).reshape(T, B) % K

    def losses(w):
        h = mg.scan(lambda h, x: np.tanh(h @ w["W"] + x @ w["U"] + w["b"]), xs, np.zeros((B, H)))
        return mg.cross_entropy(h @ w["V"] + w["c"], labels)

    w = weights(CELLS["001 vanilla"].shapes)
    of_sum = mg.grad(lambda w: losses(w).sum())(w)
    of_mean = mg.grad(lambda w: losses(w).mean())(w)
    for name in w:
        same(of_sum[name], T * B * of_mean[name])  # 8, a power of 2: exactly


def test_a_context_as_bias_is_a_context_beside_every_input():
    """001:105: tanh(h W + y U + x R + b) is tanh(h W + (y, x) (U over R) + b)."""
    w = weights({"W": (H, H), "U": (K, H), "R": (I, H), "b": (H,)})
    words, context = normal(1, T, B, K), normal(2, B, I)

    def as_bias(w):
        return mg.scan(
            lambda h, y: np.tanh(h @ w["W"] + y @ w["U"] + context @ w["R"] + w["b"]), words, np.zeros((B, H))
        )

    def as_input(w):
        both = np.concatenate([w["U"], w["R"]], axis=0)
        return mg.scan(lambda h, y: np.tanh(h @ w["W"] + conc(y, context) @ both + w["b"]), words, np.zeros((B, H)))

    equal_with_gradients(as_bias, as_input, w)


def decoder_loss(w, context, hears, mode):
    """Of a decoder that should say "ab" or "ba" to the same context: the mean of the two, in nats."""
    sentences = np.array([[0, 1], [1, 0]])  # time, rows
    last_words = np.stack([np.zeros((2, 2)), np.eye(2)[sentences[0]]])  # nothing has been said before the first
    bias = context @ w["R"] if mode == "bias" else 0.0
    first = context @ w["R"] if mode == "init" else np.zeros((2, H))

    def step(h, y):
        return np.tanh(h @ w["W"] + hears * (y @ w["U"]) + bias)

    return mg.cross_entropy(mg.scan(step, last_words, first) @ w["V"], sentences).sum() / 2


@pytest.mark.parametrize("mode", ["bias", "init"])
@given(seed=seeds)
def test_a_decoder_that_does_not_hear_itself_has_to_guess(mode, seed):
    """001:105 and 001:112, E-001-6 and E-001-7: with the context as the only input, both words of both sentences are
    a guess, whatever the weights: log 2 each. A decoder that hears its last word guesses the first only.
    """
    shapes = {"W": (H, H), "U": (2, H), "R": (I, H), "V": (H, 2)}
    context = np.ones((2, I))
    deaf = decoder_loss(weights(shapes, seed), context, hears=0.0, mode=mode)
    assert deaf >= 2 * np.log(2) - 1e-14
    w = zeros(shapes)
    w["U"][:, :2], w["V"][:2] = [[-50, 50], [50, -50]], 50 * np.eye(2)  # after a word comes the other one
    assert decoder_loss(w, context, hears=0.0, mode=mode) == pytest.approx(2 * np.log(2), rel=1e-15)
    assert decoder_loss(w, context, hears=1.0, mode=mode) == pytest.approx(np.log(2), rel=1e-15)


def inputs_that_reach(states_of, i):
    """The steps (from 1) whose inputs the state at step i depends on."""
    gradient = mg.grad(lambda xs: states_of(xs)[0, i - 1].sum())(normal(0, 1, T, I))
    return (np.flatnonzero(np.abs(host(gradient)).sum(axis=(0, 2))) + 1).tolist()


def test_the_backward_state_sees_its_own_input_or_not():
    """001:121, E-001-8: g_i of x_{i+1}..x_n is what other texts call g_{i+1}; the last one sees nothing."""
    h, g = (nn.RNNCell(I, H, dtype="float64", seed=seed) for seed in (0, 1))
    usual = Bidirectional(h, g, merge=None)
    as_printed = Bidirectional(h, g, merge=None, exclusive=True)

    def backward(net):
        return lambda xs: nn.dynamic_rnn(net, xs)[0][1]

    assert [inputs_that_reach(backward(usual), i) for i in range(1, T + 1)] == [[1, 2, 3, 4], [2, 3, 4], [3, 4], [4]]
    assert [inputs_that_reach(backward(as_printed), i) for i in range(1, T + 1)] == [[2, 3, 4], [3, 4], [4], []]
    xs = normal(0, 1, T, I)
    same(backward(as_printed)(xs)[:, :-1], host(backward(usual)(xs))[:, 1:])


def test_a_stack_is_one_scan_after_another():
    """001:133: both layers in one step, or the lower for all steps and then the upper: the same."""
    w = weights({"U": (I, H), "W": (H, H), "U_2": (H, H), "W_2": (H, H)})
    xs, first = normal(1, T, B, I), np.zeros((B, H))

    def together(w):
        def step(state, x):
            lower = np.tanh(x @ w["U"] + state[0] @ w["W"])
            return lower, np.tanh(lower @ w["U_2"] + state[1] @ w["W_2"])

        return mg.scan(step, xs, (first, first))[1]

    def one_by_one(w):
        lower = mg.scan(lambda h, x: np.tanh(x @ w["U"] + h @ w["W"]), xs, first)
        return mg.scan(lambda h, x: np.tanh(x @ w["U_2"] + h @ w["W_2"]), lower, first)

    equal_with_gradients(together, one_by_one, w)


def test_layers_between_hidden_and_hidden_are_no_stack():
    """001:133, E-001-9: as described it is a deep transition, where each step back in time passes all layers.

    The derivative of one step by the state before it, at 0: W_1 W_2 there, W_1 for the lower layer of a stack.
    """
    W_1, W_2 = normal(0, H, H), normal(1, H, H)
    transition = mg.jacobian(lambda h: np.tanh(np.tanh(h @ W_1) @ W_2))(np.zeros(H))
    stacked = mg.jacobian(lambda h: np.tanh(h @ W_1))(np.zeros(H))
    close(transition, (W_1 @ W_2).T)
    close(stacked, W_1.T)


def test_the_chain_of_states_is_markov_and_the_summary_lossy():
    """001:57, E-001-10: what comes next depends on the state alone; it is the state that tells less than the past."""
    cell = CELLS["001 vanilla"]
    w, xs, first = weights(cell.shapes), normal(1, T, B, I), np.zeros((B, H))
    outputs, last = scanned(cell, w, xs, first)
    _, middle = scanned(cell, w, xs[:2], first)
    resumed, resumed_last = scanned(cell, w, xs[2:], middle)  # nothing but the state is known of the first two steps
    same(resumed, host(outputs)[2:])
    same(resumed_last, host(last))
    pasts = np.array([[1.0, 2.0], [2.0, 1.0]])
    states = [mg.scan(lambda s, x: s + x, past, 0.0) for past in pasts]
    assert [s.tolist() for s in states] == [[1.0, 3.0], [2.0, 3.0]]  # two pasts, one summary


# ---- seed 002 ------------------------------------------------------------------------------------------------------


def vanilla_002(w, x, h):
    h = np.tanh(h @ w["W"] + x @ w["U"] + w["b"])
    return h, h


def lstm_002(w, x, state, gates_read=None):
    """As corrected in two places: the gates read x_t, not x_{t-1}, and c_t comes from c_{t-1}, not from itself."""
    h, c = state
    x_gates = x if gates_read is None else gates_read
    i = sigmoid(h @ w["W_i"] + x_gates @ w["U_i"] + w["b_i"])
    o = sigmoid(h @ w["W_o"] + x_gates @ w["U_o"] + w["b_o"])
    f = sigmoid(h @ w["W_f"] + x_gates @ w["U_f"] + w["b_f"])
    candidate = np.tanh(h @ w["W_c"] + x @ w["U_c"] + w["b_c"])
    c = f * c + i * candidate
    h = o * np.tanh(c)
    return h, (h, c)


def gru_002(w, x, h, gates_read=None):
    """As corrected in one place: the gates read x_t. z keeps."""
    x_gates = x if gates_read is None else gates_read
    r = sigmoid(h @ w["W_r"] + x_gates @ w["U_r"] + w["b_r"])
    z = sigmoid(h @ w["W_z"] + x_gates @ w["U_z"] + w["b_z"])
    candidate = np.tanh((h * r) @ w["W_h"] + x @ w["U_h"] + w["b_h"])
    h = z * h + (1 - z) * candidate
    return h, h


def our_vanilla_002(w):
    return holding(nn.RNNCell(I, H, dtype="float64"), W_x=w["U"], W_h=w["W"], b=w["b"]), as_it_is


def our_lstm_002(w):
    U, W, b = (side_by_side(w, name, "ifco") for name in ("U_", "W_", "b_"))
    return holding(nn.LSTMCell(I, H, dtype="float64"), W_x=U, W_h=W, b=b), as_it_is


def our_gru_002(w):
    U, W, b = (side_by_side(w, name, "rzh") for name in ("U_", "W_", "b_"))
    return holding(nn.GRUCell(I, H, dtype="float64"), W_x=U, W_h=W, b=b), as_it_is


CELLS["002 vanilla"] = SeedCell(vanilla_002, {"W": (H, H), "U": (I, H), "b": (H,)}, our_vanilla_002)
CELLS["002 LSTM"] = SeedCell(lstm_002, per_gate("iofc", W_=(H, H), U_=(I, H), b_=(H,)), our_lstm_002, states=2)
CELLS["002 GRU"] = SeedCell(gru_002, per_gate("rzh", W_=(H, H), U_=(I, H), b_=(H,)), our_gru_002)

FLAGGED = np.array([[0.1, 0.0], [0.5, 1.0], [0.9, 0.0]])  # a value, and whether to remember it
READS_NOW, READS_BEFORE = FLAGGED, np.concatenate([np.zeros((1, 2)), FLAGGED[:-1]])


@pytest.mark.parametrize(("gates_read", "remembered"), [(READS_NOW, 0.5), (READS_BEFORE, 0.9)], ids=["x_t", "x_t-1"])
def test_gates_that_read_the_input_before_open_a_step_late_lstm(gates_read, remembered):
    """002:36, E-002-2: an input gate that opens for flagged values lets the one after the flag in."""
    w = zeros(CELLS["002 LSTM"].shapes)
    w["b_f"] += 100.0
    w["U_i"][1] = 100.0
    w["b_i"] -= 50.0
    w["U_c"][0] = 1.0
    state = np.zeros(H), np.zeros(H)
    _, c = mg.scan(lambda s, x: lstm_002(w, x[0], s, x[1])[1], (FLAGGED, gates_read), state)
    same(c[-1], np.full(H, np.tanh(remembered)))


@pytest.mark.parametrize(("gates_read", "remembered"), [(READS_NOW, 0.5), (READS_BEFORE, 0.9)], ids=["x_t", "x_t-1"])
def test_gates_that_read_the_input_before_open_a_step_late_gru(gates_read, remembered):
    """002:55, E-002-4: an update gate that keeps all but flagged values takes the one after the flag."""
    w = zeros(CELLS["002 GRU"].shapes)
    w["U_z"][1] = -100.0
    w["b_z"] += 50.0
    w["U_h"][0] = 1.0
    h = mg.scan(lambda s, x: gru_002(w, x[0], s, x[1])[1], (FLAGGED, gates_read), np.zeros(H))
    same(h[-1], np.full(H, np.tanh(remembered)))


@pytest.mark.parametrize("before", [0.0, 7.0])
def test_a_cell_equation_with_itself_on_the_right_has_no_memory(before):
    """002:41, E-002-3: c = f c + i g is solved by i g / (1 - f) = 4.0, whatever c was before. A step gives 0.4.

    Written as a scan over nothing, a step is its first state, and the equation as printed its limit.
    """
    f, i, g = 0.9, 0.5, 0.8
    c = mg.scan(lambda c, _: f * c + i * g, None, before, length=1000)
    close(c[-1], 4.0)
    assert c[0] == 0.9 * before + 0.4


@pytest.mark.parametrize(("forget_bias", "left"), [(0.0, 0.5**20), (1.0, sigmoid(1.0) ** 20)])
def test_how_much_an_lstm_forgets_before_it_has_learned_anything(forget_bias, left):
    """002:26, E-002-5: as printed half of the memory is lost at each step; the code that it cites starts b_f at 1."""
    cell = nn.LSTMCell(I, H, forget_bias=forget_bias, dtype="float64")
    holding(cell, W_x=np.zeros((I, 4 * H)), W_h=np.zeros((H, 4 * H)))
    first = nn.LSTMState(np.zeros((1, H)), np.ones((1, H)))
    _, last = nn.dynamic_rnn(cell, np.zeros((1, 20, I)), initial_state=first)
    close(last.c, np.full((1, H), left))


def norm_of_gradient_by_first_state(activation, W, x, steps):
    """How long a cotangent of length 1 at the last state is when it reaches the first."""
    first = np.zeros(len(W))
    _, pull = mg.vjp(lambda h_0: mg.scan(lambda h, _: activation(h @ W + x), None, h_0, length=steps)[-1], first)
    (gradient,) = pull(np.eye(len(W))[0])
    return np.linalg.norm(host(gradient))


def test_saturation_alone_makes_the_gradient_vanish():
    """002:21, E-002-6: the cause is not W alone. This W is a rotation, which changes no length at all."""
    rotation = np.array([[np.cos(1.0), np.sin(1.0)], [-np.sin(1.0), np.cos(1.0)]])
    close(norm_of_gradient_by_first_state(as_it_is, rotation, 3.0, steps=20), 1.0)
    assert norm_of_gradient_by_first_state(np.tanh, rotation, 3.0, steps=20) < 1e-30


def test_dropping_the_state_anew_at_every_step_erases_it():
    """002:66, E-002-7, a convention: "never on the state" holds for a new mask a step; one mask for all can stay."""
    memory, steps = np.ones(1000), 10
    anew = mg.scan(lambda s, _: s * mg.random.bernoulli(1000, seed=0), None, memory, length=steps)[-1]
    mask = mg.random.bernoulli(1000, seed=0)
    locked = mg.scan(lambda s, _: s * mask, None, memory, length=steps)[-1]
    assert host(anew).mean() < 0.01
    assert 0.4 < host(locked).mean() < 0.6


def test_lengths_copy_the_state_through_and_zero_the_outputs():
    """002:71, which is right: past its length a row's output is 0 and its state stays; each row is as if alone."""
    cell, lengths = CELLS["002 LSTM"], [4, 2, 0]
    w, xs = weights(cell.shapes), normal(1, T, 3, I)
    first = nn.LSTMState(normal(2, 3, H), normal(3, 3, H))
    net, _ = cell.ours(w)
    outputs, last = nn.dynamic_rnn(net, xs, sequence_length=lengths, initial_state=first, time_major=True)
    states = mg.scan(lambda s, x: lstm_002(w, x, s)[1], xs, tuple(first), lengths=lengths)
    for row, length in enumerate(lengths):
        same(outputs[length:, row], np.zeros((T - length, H)))
        for before, ours, stacked in zip(first, last, states, strict=True):
            at_its_end = host(stacked)[length - 1, row] if length else before[row]
            same(stacked[length:, row], np.tile(at_its_end, (T - length, 1)))
            close(ours[row], at_its_end)
        if length:
            alone, _ = python_loop(cell, w, xs[:length, row], tuple(part[row] for part in first))
            close(outputs[:length, row], alone)


def test_what_the_code_of_002_feeds_is_refused():
    """002:95 and 002:102, E-002-8 and E-002-10: ids of rank 2, labels that are floats, a state for another batch."""
    cell = nn.GRUCell(1, H, dtype="float64", seed=0)
    with pytest.raises(ValueError, match="GRUCell"):
        nn.dynamic_rnn(cell, np.zeros((B, T)))
    with pytest.raises(TypeError, match="integers"):
        mg.cross_entropy(np.zeros((B, K)), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="GRUCell"):
        nn.dynamic_rnn(cell, np.zeros((B, T, 1)), initial_state=cell.zero_state(32))


def test_a_list_times_n_is_one_cell():
    """002:99, E-002-9: `[cell] * 3` has the weights of one layer; its gradient is the sum of what three would get."""
    cell = nn.GRUCell(H, H, dtype="float64", seed=0)
    copies = [nn.GRUCell(H, H, dtype="float64", seed=0) for _ in range(3)]
    one, three = Deep([cell] * 3, share=True), Deep(copies)
    assert len(one.parameters()) == 3  # W_x, W_h and b
    assert len(three.parameters()) == 9
    for net in (one, three):
        outputs, _ = nn.dynamic_rnn(net, normal(1, B, T, H))
        (outputs**2).sum().backward()
    for name, parameter in cell.parameters().items():
        shares = [host(layer.parameters()[name].grad) for layer in copies]
        close(parameter.grad, sum(shares), rtol=1e-11, atol=1e-13)
        assert all(np.abs(share).max() > 1e-3 for share in shares)
    with pytest.raises(ValueError, match="share=True"):
        Deep([cell] * 3)


def run_in_chunks(chunks, carried):
    """The running sums of a sequence, chunk by chunk, in the form of 002's loop."""
    training_state, seen = None, []
    for x in chunks:
        init_state = np.zeros(x.shape[1:]) if training_state is None else training_state
        states = mg.scan(lambda s, x: s + x, x, init_state)
        if carried:
            training_state = states[-1]
        seen.append(states)
    return np.concatenate(seen)


def test_a_state_that_is_never_assigned_is_never_carried():
    """002:129, E-002-11: `_, sess.run(...)` makes a pair and drops it, so that every chunk starts from zeros."""
    chunks = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert run_in_chunks(chunks, carried=False).tolist() == [1.0, 3.0, 3.0, 7.0]
    assert run_in_chunks(chunks, carried=True).tolist() == [1.0, 3.0, 6.0, 10.0]


def train_in_chunks(carried):
    """002's loop, on rows that begin with a bit and should name it at every step: each chunk's last loss."""
    bits = np.array([0, 1, 1, 0])
    inputs = np.zeros((4, 8, 1))
    inputs[:, 0, 0] = 2.0 * bits - 1.0
    cell, output = nn.GRUCell(1, 4, dtype="float64", seed=0), nn.Linear(4, 2, dtype="float64", seed=1)
    optimiser = mg.optim.Adam({"cell": cell.parameters(), "output": output.parameters()}, lr=0.05)
    for _ in range(60):
        training_state, losses = None, []
        for x in np.split(inputs, 2, axis=1):
            init_state = cell.zero_state(4) if training_state is None else training_state
            outputs, final_state = nn.dynamic_rnn(cell, x, initial_state=init_state)
            labels = np.tile(bits[:, None], (1, x.shape[1]))
            loss = mg.cross_entropy(output(outputs), labels).mean()
            loss.backward()
            optimiser.step()
            if carried:
                training_state = final_state.detach()  # the gradient stops here, the state does not
            losses.append(loss.item())
    return losses


def test_002s_training_loop_with_and_without_its_state():
    """002:123, E-002-11: what a chunk does not show can be known from the carried state alone.

    As printed, the second chunk is the same for both bits, so that no weights bring its loss below log 2.
    """
    first, second = train_in_chunks(carried=False)
    assert first < 0.1
    assert second >= np.log(2) - 1e-14
    first, second = train_in_chunks(carried=True)
    assert first < 0.1
    assert second < 0.1


# ---- seed 003 ------------------------------------------------------------------------------------------------------


def vanilla_003(w, x, s):
    s = np.tanh(conc(s, x) @ w["W"] + w["b"])
    return s, s


def residual_003(w, x, s):
    s = np.tanh(conc(s, x) @ w["W"] + w["b"]) + s
    return s, s


def lstm_003(w, x, state):
    """Each gate, and the candidate, with a W and a b of its own, where the seed writes one letter for all."""
    s, c = state
    i, f, o = (sigmoid(conc(s, x) @ w[f"W_{gate}"] + w[f"b_{gate}"]) for gate in "ifo")
    c = i * np.tanh(conc(s, x) @ w["W_c"] + w["b_c"]) + f * c
    s = o * np.tanh(c)
    return s, (s, c)


def gru_003(w, x, s):
    """z writes."""
    z, r = (sigmoid(conc(s, x) @ w[f"W_{gate}"] + w[f"b_{gate}"]) for gate in "zr")
    s = z * np.tanh(conc(r * s, x) @ w["W_c"] + w["b_c"]) + (1 - z) * s
    return s, s


def split_rows(W):
    """W = [W_s; W_x], the rows for the state over those for the input."""
    return {"W_h": W[:H], "W_x": W[H:]}


def our_vanilla_003(w):
    return holding(nn.RNNCell(I, H, dtype="float64"), **split_rows(w["W"]), b=w["b"]), as_it_is


def our_residual_003(w):
    cell, _ = our_vanilla_003(w)

    def residual(x, s):
        s = s + cell(x, s)[0]
        return s, s

    return residual, as_it_is


def our_lstm_003(w):
    W, b = side_by_side(w, "W_", "ifco"), side_by_side(w, "b_", "ifco")
    return holding(nn.LSTMCell(I, H, dtype="float64"), **split_rows(W), b=b), as_it_is


def our_gru_003(w):
    W, b = side_by_side(w, "W_", "rzc"), side_by_side(w, "b_", "rzc")
    return holding(nn.GRUCell(I, H, update="write", dtype="float64"), **split_rows(W), b=b), as_it_is


CELLS["003 vanilla"] = SeedCell(vanilla_003, {"W": (H + I, H), "b": (H,)}, our_vanilla_003)
CELLS["003 residual"] = SeedCell(residual_003, {"W": (H + I, H), "b": (H,)}, our_residual_003)
CELLS["003 LSTM"] = SeedCell(lstm_003, per_gate("ifoc", W_=(H + I, H), b_=(H,)), our_lstm_003, states=2)
CELLS["003 GRU"] = SeedCell(gru_003, per_gate("zrc", W_=(H + I, H), b_=(H,)), our_gru_003)


@given(seed=seeds, shape=st.sampled_from([(1,), (7,), (5, 2), (3, 2, 2), (0, 2)]))
def test_the_running_sum_as_scan_is_cumsum(seed, shape):
    """003:49: the state is the sum so far. Exactly, with whole numbers; so are the gradients."""
    xs, cotangent = (np.random.default_rng(seed + k).integers(-99, 99, shape).astype(float) for k in (0, 1))
    sums, pull = mg.vjp(lambda xs: mg.scan(lambda total, x: total + x, xs, np.zeros(shape[1:])), xs)
    expected, expected_pull = mg.vjp(lambda xs: mg.cumsum(xs, axis=0), xs)
    same(sums, host(expected))
    same(sums, np.cumsum(xs, axis=0))
    same(pull(cotangent)[0], host(expected_pull(cotangent)[0]))


@given(seed=seeds, rows=st.integers(1, 3), inputs=st.integers(1, 4), units=st.integers(1, 4))
def test_one_matrix_for_both_is_two_matrices(seed, rows, inputs, units):
    """003:15 and 003:19: conc(s, x) W + b = s W_s + x W_x + b, if W is W_s over W_x. Values and gradients."""
    shapes = {"s": (rows, units), "x": (rows, inputs), "W": (units + inputs, units), "b": (units,)}

    def joined(at):
        return np.tanh(conc(at["s"], at["x"]) @ at["W"] + at["b"])

    def split(at):
        return np.tanh(at["s"] @ at["W"][:units] + at["x"] @ at["W"][units:] + at["b"])

    equal_with_gradients(joined, split, weights(shapes, seed))


def test_a_state_represents_the_inputs_before_it():
    """003:28: the state after k inputs is the final state of those k inputs alone."""
    cell = CELLS["003 vanilla"]
    w, xs, first = weights(cell.shapes), normal(1, T, B, I), np.zeros((B, H))
    states, _ = scanned(cell, w, xs, first)
    for k in range(1, T + 1):
        same(scanned(cell, w, xs[:k], first)[1], host(states)[k - 1])


def test_a_shared_weight_gets_the_sum_over_its_uses():
    """003:32, E-003-5: the chain rule for many variables, not the product rule. For s_3 = w w w: 4 + 4 + 4 at w = 2."""
    w = mg.tensor(2.0, requires_grad=True)
    with mg.Tape() as tape:
        s = mg.asarray(1.0)
        for _ in range(3):
            s = s * w
        s.backward()
    assert [host(use.gradient) for use in tape.uses(w)] == [4.0, 4.0, 4.0]
    assert host(w.grad) == 12.0


def test_a_weight_of_its_own_for_every_step_gets_one_share():
    """003:32, E-003-5: a weight a step, all of equal value, get a gradient each, and the shared weight their sum."""
    cell = CELLS["003 vanilla"]
    w, xs = weights(cell.shapes), normal(1, T, B, I)

    def loss(W):  # (T, H + I, H): a matrix a step
        def step(s, x):
            s = np.tanh(conc(s, x[0]) @ x[1] + w["b"])
            return s, s

        s, _ = mg.scan(step, (xs, W), np.zeros((B, H)), has_output=True)
        return np.sum(s**2)

    shares = host(mg.grad(loss)(np.stack([w["W"]] * T)))
    shared = mg.grad(lambda W: np.sum(scanned(cell, w | {"W": W}, xs, np.zeros((B, H)))[1] ** 2))(w["W"])
    assert (np.abs(shares).max(axis=(1, 2)) > 1e-6).all()
    close(shared, shares.sum(axis=0), rtol=1e-11, atol=1e-13)


def test_the_product_with_the_inputs_needs_no_loop():
    """003:40: what cannot be done in parallel is the recurrence alone; x W_x is one product for all steps."""
    w, xs = weights({"W_s": (H, H), "W_x": (I, H), "b": (H,)}), normal(1, T, B, I)

    def step_by_step(w):
        return mg.scan(lambda s, x: np.tanh(s @ w["W_s"] + x @ w["W_x"] + w["b"]), xs, np.zeros((B, H)), unroll=True)

    def all_steps_at_once(w):
        from_x = xs @ w["W_x"] + w["b"]
        return mg.scan(lambda s, a: np.tanh(s @ w["W_s"] + a), from_x, np.zeros((B, H)), unroll=True)

    equal_with_gradients(step_by_step, all_steps_at_once, w)


def test_outputs_and_states_may_be_several_tensors():
    """003:63: "for returning intermediate values", as the gates of each step, here beside the running state."""
    cell = CELLS["003 GRU"]
    w, xs = weights(cell.shapes), normal(1, B, T, I)

    def with_gates(x, state):
        z, r = (sigmoid(conc(state["s"], x) @ w[f"W_{gate}"] + w[f"b_{gate}"]) for gate in "zr")
        _, s = gru_003(w, x, state["s"])
        return {"s": s, "gates": (z, r)}, {"s": s, "steps": state["steps"] + 1.0}

    first = {"s": np.zeros((B, H)), "steps": np.zeros(B)}
    outputs, last = nn.dynamic_rnn(with_gates, xs, initial_state=first)
    z, r = outputs["gates"]
    assert z.shape == r.shape == (B, T, H)
    states, _ = python_loop(cell, w, np.swapaxes(xs, 0, 1), np.zeros((B, H)))
    close(outputs["s"], np.swapaxes(states, 0, 1))
    close(z[:, 0], sigmoid(conc(np.zeros((B, H)), xs[:, 0]) @ w["W_z"] + w["b_z"]))
    same(last["steps"], np.full(B, float(T)))


def test_after_the_last_word_outputs_are_zeros_and_states_are_not():
    """003:79, E-003-4: "state ... will just be zeros" is true of the outputs; the state is copied, as 002:71 says."""
    lengths, ones = [2, 3], np.ones((3, 2))
    states = mg.scan(lambda s, x: s + x, ones, np.zeros(2), lengths=lengths)
    last, outputs = mg.scan(lambda s, x: (s + x, s + x), ones, np.zeros(2), has_output=True, lengths=lengths)
    assert states.T.tolist() == [[1.0, 2.0, 2.0], [1.0, 2.0, 3.0]]
    assert outputs.T.tolist() == [[1.0, 2.0, 0.0], [1.0, 2.0, 3.0]]
    assert last.tolist() == [2.0, 3.0]


def test_a_word_as_padding_is_safe_only_if_the_loss_ignores_it_too():
    """003:81, E-003-6: two rows of 1 and 3 words, each known for sure; the padded steps guess, and count."""
    words, lengths = np.array([[0, 1], [0, 0], [0, 1]]), [1, 3]  # time, rows: word 0 is the padding as well
    net = holding(nn.Linear(2, 2, bias=False, dtype="float64"), W=100 * np.eye(2))
    _, outputs = mg.scan(lambda s, x: (s, x), np.eye(2)[words], np.zeros((2, 1)), has_output=True, lengths=lengths)
    losses = host(mg.cross_entropy(net(outputs), words))
    valid = host(mg.sequence_mask(lengths, 3)).T
    close(losses.sum() / losses.size, 2 * np.log(2) / 6)
    assert losses[valid].sum() / valid.sum() == 0.0


def test_a_residual_state_has_no_bound():
    """003:103, E-003-1: it may grow by 1 at each step; without "+ s" it stays within 1."""
    w = zeros(CELLS["003 residual"].shapes)
    w["b"] += 20.0  # tanh(20) is 1 in float64
    xs, first = np.zeros((50, 1, I)), np.zeros((1, H))
    same(scanned(CELLS["003 residual"], w, xs, first)[1], np.full((1, H), 50.0))
    same(scanned(CELLS["003 vanilla"], w, xs, first)[1], np.full((1, H), 1.0))


@pytest.mark.parametrize(("bias", "after"), [(-50.0, 0.0), (50.0, 0.7 + 5)])
def test_one_w_and_b_for_all_gates_cannot_keep_without_writing(bias, after):
    """003:107, E-003-2: as printed all gates are one, so the cell forgets or fills; each with its own b, it keeps."""
    shapes = CELLS["003 LSTM"].shapes
    xs, first = np.zeros((5, 1, I)), (np.zeros((1, H)), np.full((1, H), 0.7))
    printed = {name: np.full(shape, bias if name.startswith("b_") else 0.0) for name, shape in shapes.items()}
    _, (_, c) = scanned(CELLS["003 LSTM"], printed, xs, first)
    close(c, np.full((1, H), after))
    corrected = printed | {"b_f": np.full(H, 50.0), "b_i": np.full(H, -50.0)}
    _, (_, c) = scanned(CELLS["003 LSTM"], corrected, xs, first)
    close(c, np.full((1, H), 0.7))


@pytest.mark.parametrize(("z", "keep", "write"), [(50.0, 0.7, np.tanh(0.2)), (-50.0, np.tanh(0.2), 0.7)])
def test_an_open_update_gate_keeps_in_002_and_writes_in_003(z, keep, write):
    """002:58 and 003:121, E-003-3, a convention: the same letter, the opposite meaning."""
    w_002, w_003 = zeros(CELLS["002 GRU"].shapes), zeros(CELLS["003 GRU"].shapes)
    w_002["b_z"], w_002["b_h"] = np.full(H, z), np.full(H, 0.2)
    w_003["b_z"], w_003["b_c"] = np.full(H, z), np.full(H, 0.2)
    same(gru_002(w_002, np.zeros(I), np.full(H, 0.7))[0], np.full(H, keep))
    same(gru_003(w_003, np.zeros(I), np.full(H, 0.7))[0], np.full(H, write))


def test_one_update_convention_is_the_other_with_the_signs_of_z_turned():
    """002:58 and 003:121, E-003-3: 1 - sigmoid(a) = sigmoid(-a), so weights convert without loss."""
    cell = CELLS["003 GRU"]

    def as_written(w):
        return scanned(cell, w, normal(1, T, B, I), np.zeros((B, H)))[0]

    def kept(w):
        turned = w | {"W_z": -w["W_z"], "b_z": -w["b_z"]}
        W, b = side_by_side(turned, "W_", "rzc"), side_by_side(turned, "b_", "rzc")
        net = holding(nn.GRUCell(I, H, dtype="float64"), **split_rows(W), b=b)
        return nn.dynamic_rnn(net, normal(1, T, B, I), initial_state=np.zeros((B, H)), time_major=True)[0]

    equal_with_gradients(as_written, kept, weights(cell.shapes))


def test_a_backward_rnn_is_a_forward_one_on_the_flipped_sequence():
    """003:133: its final state stands at the first word; within each row's length, where there are lengths."""
    cell, lengths = CELLS["003 vanilla"], [4, 2]
    w, xs, first = weights(cell.shapes), normal(1, T, B, I), np.zeros((B, H))
    states, last = mg.scan(
        lambda s, x: vanilla_003(w, x, s), xs, first, has_output=True, reverse=True, lengths=lengths
    )[::-1]
    same(last, host(states)[0])
    for row, length in enumerate(lengths):
        flipped, _ = python_loop(cell, w, xs[:length, row][::-1], first[row])
        close(states[:length, row], flipped[::-1])


# ---- seed 004 ------------------------------------------------------------------------------------------------------


def rnn_004(w, xt, prev_h):
    ht = np.tanh(xt.dot(w["U"]) + prev_h.dot(w["W"]))
    ot = ht.dot(w["V"])
    return ot, ht


def lstm_004(w, xt, state):
    prev_h, prev_c = state
    ft = sigmoid(xt.dot(w["W_xf"]) + prev_h.dot(w["W_hf"]) + w["b_f"])
    it = sigmoid(xt.dot(w["W_xi"]) + prev_h.dot(w["W_hi"]) + w["b_i"])
    ot = sigmoid(xt.dot(w["W_xo"]) + prev_h.dot(w["W_ho"]) + w["b_o"])
    candidate_memory = np.tanh(xt.dot(w["W_xc"]) + prev_h.dot(w["W_hc"]) + w["b_c"])
    ct = ft * prev_c + it * candidate_memory
    ht = ot * np.tanh(ct)
    return np.copy(ht), (ht, ct)


def gru_004(w, xt, prev_h):
    """z writes."""
    zt = sigmoid(xt.dot(w["W_xz"]) + prev_h.dot(w["W_hz"]))
    rt = sigmoid(xt.dot(w["W_xr"]) + prev_h.dot(w["W_hr"]))
    candidate_activation = np.tanh(xt.dot(w["W_xc"]) + (rt * prev_h).dot(w["W_hc"]))
    ht = (1.0 - zt) * prev_h + zt * candidate_activation
    return np.copy(ht), ht


def our_rnn_004(w):
    cell = holding(nn.RNNCell(I, H, dtype="float64"), W_x=w["U"], W_h=w["W"])
    return cell, holding(nn.Linear(H, H, bias=False, dtype="float64"), W=w["V"])


def our_lstm_004(w):
    W_x, W_h, b = (side_by_side(w, name, "ifco") for name in ("W_x", "W_h", "b_"))
    return holding(nn.LSTMCell(I, H, dtype="float64"), W_x=W_x, W_h=W_h, b=b), as_it_is


def our_gru_004(w):
    W_x, W_h = side_by_side(w, "W_x", "rzc"), side_by_side(w, "W_h", "rzc")
    return holding(nn.GRUCell(I, H, update="write", dtype="float64"), W_x=W_x, W_h=W_h), as_it_is


CELLS["004 vanilla"] = SeedCell(rnn_004, {"U": (I, H), "W": (H, H), "V": (H, H)}, our_rnn_004)
CELLS["004 LSTM"] = SeedCell(lstm_004, per_gate("fioc", W_x=(I, H), W_h=(H, H), b_=(H,)), our_lstm_004, states=2)
CELLS["004 GRU"] = SeedCell(gru_004, per_gate("zrc", W_x=(I, H), W_h=(H, H)), our_gru_004)


def test_an_arrays_own_method_cannot_be_told_of_the_tape():
    """004:72: `xt.dot(U)` of an array and a Tensor raises rather than lose a gradient; of Tensors it is recorded."""
    x, U = normal(0, B, I), normal(1, I, H)
    with pytest.raises(TypeError, match="would lose the gradient"):
        mg.grad(lambda U: np.sum(x.dot(U)))(U)
    close(mg.grad(lambda U: np.sum(mg.asarray(x).dot(U)))(U), np.tile(x.sum(axis=0)[:, None], (1, H)))


@given(z=st.floats(-700, 700))
def test_the_slopes_of_sigmoid_and_tanh_are_at_most_a_quarter_and_one(z):
    """004:97: and they are y (1 - y) and 1 - y y, the formulas that the text lost."""
    slope_of_sigmoid, slope_of_tanh = mg.grad(mg.sigmoid)(z), mg.grad(mg.tanh)(z)
    assert 0 <= slope_of_sigmoid <= 0.25
    assert 0 <= slope_of_tanh <= 1
    close(slope_of_sigmoid, sigmoid(z) * (1 - sigmoid(z)), rtol=1e-12, atol=1e-15)
    close(slope_of_tanh, 1 - np.tanh(z) ** 2, rtol=1e-12, atol=1e-15)
    assert (mg.grad(mg.sigmoid)(0.0), mg.grad(mg.tanh)(0.0)) == (0.25, 1.0)


@pytest.mark.parametrize("w", [0.5, 1.0, 2.0])
def test_a_chain_of_products_vanishes_or_explodes(w):
    """004:79 and 004:102: the gradient through T steps is w to the power of T. Exactly, for powers of 2."""
    last = mg.grad(lambda h: mg.scan(lambda h, _: w * h, None, h, length=100)[-1])
    assert last(1.0) == w**100
    squashed = mg.grad(lambda h: mg.scan(lambda h, _: np.tanh(w * h), None, h, length=100)[-1])
    assert abs(squashed(0.25)) < min(1.0, w**100)  # squashing makes it no better than that


def saturated_share(U, W, xs):
    """The share of states beyond 0.99, over the last ten steps."""
    states = mg.scan(lambda h, x: np.tanh(x.dot(U) + h.dot(W)), xs, np.zeros(xs.shape[1:]))
    return (np.abs(states[-10:]) > 0.99).mean()


@pytest.mark.parametrize(("units", "share", "draws"), [(10, 0.5, 20), (100, 0.8, 3)])
def test_randn_weights_are_not_small_numbers(units, share, draws):
    """004:68 and 004:99, E-004-1: more than half of the units start saturated, at the seed's own size 10."""
    printed, ours = [], []
    for seed in range(draws):
        draw = np.random.default_rng(seed)
        U, W = draw.normal(size=(units, units)), draw.normal(size=(units, units))
        xs = draw.normal(size=(20, 25, units))
        cell = nn.RNNCell(units, units, dtype="float64", seed=seed)
        printed.append(saturated_share(U, W, xs))
        ours.append(saturated_share(host(cell.W_x), host(cell.W_h), xs))
    assert np.mean(printed) > share
    assert np.mean(ours) < 0.05


def with_column_biases(w):
    return {name: value.reshape(-1, 1) if name.startswith("b_") else value for name, value in w.items()}


@pytest.mark.parametrize("as_array", [np.asarray, mg.asarray], ids=["arrays", "tensors"])
@pytest.mark.parametrize("shape", [(I,), (1, I)], ids=["one sample", "a batch of one"])
def test_a_column_bias_turns_one_sample_into_a_batch(shape, as_array):
    """004:160, E-004-2: (1, H) + (H, 1) is (H, H), in NumPy as here, and nobody says a word."""
    w = weights(CELLS["004 LSTM"].shapes)
    x, state = as_array(normal(1, *shape)), tuple(as_array(np.zeros((*shape[:-1], H))) for _ in range(2))
    assert lstm_004(with_column_biases(w), x, state)[0].shape == (H, H)
    assert lstm_004(w, x, state)[0].shape == (*shape[:-1], H)


def test_a_column_bias_is_silently_wrong_for_a_batch_of_h():
    """004:160, E-004-2: the shape is right, but each row gets one entry, and the gradient sums over the wrong axis.

    What hides it in the seed is that all entries are 1.
    """
    w, x = weights(CELLS["004 LSTM"].shapes), normal(1, H, I)
    state = np.zeros((H, H)), np.zeros((H, H))
    printed, corrected = lstm_004(with_column_biases(w), x, state)[0], lstm_004(w, x, state)[0]
    assert printed.shape == corrected.shape
    assert np.abs(printed - corrected).max() > 0.1
    ones = w | {name: np.ones(H) for name in w if name.startswith("b_")}
    same(lstm_004(with_column_biases(ones), x, state)[0], lstm_004(ones, x, state)[0])
    cotangent = normal(2, H, H)
    slope = mg.grad(lambda b: np.sum(cotangent * (x.dot(w["W_xf"]) + b)))
    close(slope(np.ones((H, 1))), cotangent.sum(axis=1, keepdims=True))
    close(slope(np.ones(H)), cotangent.sum(axis=0))


def test_a_column_bias_raises_for_any_other_batch_and_in_our_cells():
    """004:160, E-004-2."""
    w = with_column_biases(weights(CELLS["004 LSTM"].shapes))
    for as_array in (np.asarray, mg.asarray):
        state = as_array(np.zeros((2, H))), as_array(np.zeros((2, H)))
        with pytest.raises(ValueError, match="broadcast"):
            lstm_004(w, as_array(normal(1, 2, I)), state)
    cell = nn.LSTMCell(I, H, dtype="float64")
    with pytest.raises(ValueError, match=r"b must be float64\(12,\), got float64\(12, 1\)"):
        cell.load_state_dict(cell.state_dict() | {"b": np.ones((4 * H, 1))})


def test_all_biases_at_one_fill_the_cell_with_nothing():
    """004:164, E-004-3: c rises to e tanh(1) = 2.07 without any input; with b_f alone at 1, as in ours, it stays 0."""
    cell = CELLS["004 LSTM"]
    w = zeros(cell.shapes)
    xs, first = np.zeros((100, 1, I)), (np.zeros((1, H)), np.zeros((1, H)))
    ones = {name: np.ones(H) for name in w if name.startswith("b_")}
    _, (_, c) = scanned(cell, w | ones, xs, first)
    close(c, np.full((1, H), np.e * np.tanh(1.0)))
    _, (_, c) = scanned(cell, w | {"b_f": np.ones(H)}, xs, first)
    same(c, np.zeros((1, H)))
    same(nn.LSTMCell(I, H, dtype="float64").b, np.repeat([0.0, 1.0, 0.0, 0.0], H))


def combined_lstm(w, x, state):
    """One product for the input and one for the state, then a cut in four."""
    h, c = state
    W_x, W_h, b = (side_by_side(w, name, "fioc") for name in ("W_x", "W_h", "b_"))
    f, i, o, candidate = np.split(x.dot(W_x) + h.dot(W_h) + b, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


def products(step, w, state):
    """How many matrix products a step makes, by its tape."""
    w = {name: mg.tensor(value, requires_grad=True) for name, value in w.items()}
    with mg.Tape() as tape:
        step(w, mg.asarray(normal(1, B, I)), tuple(mg.asarray(part) for part in state))
    return sum(" matmul " in line for line in str(tape).splitlines())


def test_one_matrix_for_all_gates_is_four_matrices():
    """004:192, E-004-4: "4 for the price of 1" is the same arithmetic in 2 products, not 8. Values and gradients."""
    shapes = CELLS["004 LSTM"].shapes
    xs, first = normal(1, T, B, I), (normal(2, B, H), normal(3, B, H))
    combined = SeedCell(combined_lstm, shapes, None, states=2)

    def four(w):
        return scanned(CELLS["004 LSTM"], w, xs, first)[0]

    def one(w):
        return scanned(combined, w, xs, first)[0]

    equal_with_gradients(four, one, weights(shapes))
    assert products(lstm_004, weights(shapes), first) == 8
    assert products(combined_lstm, weights(shapes), first) == 2


def test_update_and_reset_can_be_combined():
    """004:230: one product for z and r."""
    shapes = CELLS["004 GRU"].shapes
    x, h = mg.asarray(normal(1, B, I)), mg.asarray(normal(2, B, H))

    def combined(w):
        gates = sigmoid(x @ side_by_side(w, "W_x", "zr") + h @ side_by_side(w, "W_h", "zr"))
        z, r = np.split(gates, 2, axis=-1)
        return (1 - z) * h + z * np.tanh(x @ w["W_xc"] + (r * h) @ w["W_hc"])

    equal_with_gradients(lambda w: gru_004(w, x, h)[0], combined, weights(shapes))


@pytest.mark.parametrize(("reset", "state_part"), [("before", [1.0, 2.0]), ("after", [4.0, 0.0])])
def test_the_candidate_joins_only_if_reset_comes_after_the_product(reset, state_part):
    """004:230: (r * h) W is not r * (h W), so that reset="before" needs a product of its own for the candidate."""
    W_hn, r, h = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([50.0, -50.0]), np.ones((1, 2))
    cell = nn.GRUCell(1, 2, update="write", reset=reset, dtype="float64")
    holding(
        cell,
        W_x=np.zeros((1, 6)),
        W_h=np.concatenate([np.zeros((2, 4)), W_hn], axis=1),
        b=np.concatenate([r, np.full(2, 50.0), np.zeros(2)]),
    )
    output, _ = cell(np.zeros((1, 1)), h)
    close(output, np.tanh([state_part]), rtol=1e-12, atol=1e-20)


@pytest.mark.parametrize(("z", "left"), [(0.0, 0.5), (50.0, 0.0)])
def test_a_closed_reset_gate_is_not_yet_a_fresh_start(z, left):
    """004:202, E-004-5: (1 - z) h still passes; only with z = 1 is it as if x were the first input."""
    w = zeros(CELLS["004 GRU"].shapes)
    w["W_xr"] -= 50.0
    w["W_xz"] += z
    w["W_xc"], w["W_hc"] = normal(0, I, H), normal(1, H, H)
    x = np.array([0.5, 0.5])
    jacobian = mg.jacobian(lambda h: gru_004(w, x, h)[0])(normal(2, H))
    close(jacobian, left * np.eye(H), rtol=0, atol=1e-20)


def test_sharing_saves_parameters_and_not_the_states_that_backward_needs():
    """004:33, E-004-7: the weights are the same for any T; what the tape holds grows with T."""
    w = {name: mg.tensor(value, requires_grad=True) for name, value in weights(CELLS["004 vanilla"].shapes).items()}

    def records(steps):
        with mg.Tape() as tape:
            python_loop(CELLS["004 vanilla"], w, mg.asarray(normal(1, steps, B, I)), mg.zeros((B, H)))
        return len(tape)

    for steps in (5, 50):  # a step cuts x_t out, makes three products, a sum and a tanh; all outputs are stacked
        assert records(steps) == 6 * steps + 1


@pytest.mark.parametrize("f", [0.5, 0.73, 0.999])
def test_gating_helps_only_while_the_forget_gate_is_open(f):
    """004:147, E-004-8: the gradient along the cell is a product of forget gates: 0.5**50 vanishes as well."""
    cell = CELLS["004 LSTM"]
    w = zeros(cell.shapes)
    w["b_f"] += np.log(f / (1 - f))
    xs, h = np.zeros((50, 1, I)), np.zeros((1, H))
    gradient = mg.grad(lambda c: np.sum(scanned(cell, w, xs, (h, c))[1][1]))(np.ones((1, H)))
    close(gradient, np.full((1, H), f**50))


def test_how_many_more_parameters():
    """004:187: an LSTM has four times those of a vanilla cell, a GRU three times."""
    sizes = [sum(p.size for p in cell(I, H).parameters().values()) for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)]
    assert sizes == [(I + H + 1) * H * gates for gates in (1, 3, 4)]


# ---- every cell of every seed --------------------------------------------------------------------------------------


def arrays_of(cell):
    """All that a run depends on."""
    states = {f"state{k}": normal(10 + k, B, H) for k in range(cell.states)}
    return weights(cell.shapes) | {"xs": normal(1, T, B, I)} | states


def answers(cell, run, at):
    """The outputs and the parts of the last state."""
    states = tuple(at[f"state{k}"] for k in range(cell.states))
    outputs, last = run(cell, at, at["xs"], states if cell.states == 2 else states[0])
    return [outputs, *tree.flatten(last)[0]]


def loss_of(cell, run):
    """One number that depends on every answer."""
    return lambda at: sum(np.sum(normal(20 + k, *a.shape) * a) for k, a in enumerate(answers(cell, run, at)))


@functools.cache
def expected(name):
    """Answers and gradients without minigrad: a loop on arrays, and the complex step."""
    cell = CELLS[name]
    at = arrays_of(cell)
    return answers(cell, python_loop, at), cell_equations.gradient(loss_of(cell, python_loop), at)


@pytest.mark.parametrize("run", [python_loop, scanned, in_our_words])
@pytest.mark.parametrize("name", CELLS)
def test_each_cell_of_each_seed(name, run):
    """The plain NumPy of the seed, unchanged, on Tensors: in a loop and in a scan; and our cell with its weights."""
    cell = CELLS[name]
    values, gradients = expected(name)
    at = arrays_of(cell)
    for got, needed in zip(answers(cell, run, at), values, strict=True):
        close(got, needed)
    found = mg.grad(loss_of(cell, run))(at)
    for array, needed in gradients.items():
        assert np.abs(needed).max() > 1e-3, array  # zeros would prove nothing
        np.testing.assert_allclose(host(found[array]), needed, rtol=1e-11, atol=1e-13, err_msg=array)
