"""`mg.explain.credit_map`: entry [t, tau] is |d loss_tau / d state_t|, for any cell, and exactly 0 in the past."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.explain import credit_map
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep
from minigrad.nn.dropout import Dropout

rarely = settings(max_examples=25, deadline=None)


class Wide(NamedTuple):
    """A state of three parts, one of which has no derivative."""

    low: Any
    high: list[Any]
    count: Any


class TwoLayers:
    """Two layers, whose output is no part of the state, and takes from the old state too."""

    def __init__(self, rng, inputs, units):
        sizes = [(inputs, units), *[(units, units)] * 3, (units, 2)]
        self.A, self.B, self.C, self.D, self.E = (rng.normal(size=size) for size in sizes)

    def new_state(self, x, state):
        low = mg.tanh(x @ self.A + state.low @ self.B)
        high = mg.sigmoid(low @ self.C + state.high[0] @ self.D)
        return Wide(low, [high], state.count + 1)

    def output(self, old, new):
        return {"y": (new.high[0] * new.low) @ self.E + mg.sum(old.high[0], axis=-1, keepdims=True)}

    def __call__(self, x, state):
        new = self.new_state(x, state)
        return self.output(state, new), new


# ---- against what is known ------------------------------------------------------------------------------------------


@rarely
@given(st.integers(1, 5), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_linear_recurrence_gives_products_of_its_matrix_exactly(T, B, H, time_major, seed):
    """h_t = h_(t-1) A + x_t and loss_tau = h_tau v, so the gradient is A^(tau - t) v: integers, and their root."""
    rng = np.random.default_rng(seed)
    A, v = rng.integers(-3, 4, size=(H, H)), rng.integers(-3, 4, size=H)
    inputs = rng.integers(-3, 4, size=(T, B, H) if time_major else (B, T, H)).astype("float64")

    def cell(x, h):
        h = h @ A.astype("float64") + x
        return h, h

    found = credit_map(cell, inputs, lambda outputs: outputs @ v.astype("float64"), np.ones((B, H)), time_major)
    expected = np.zeros((T, T))
    for t in range(T):
        for tau in range(t, T):
            gradient = np.linalg.matrix_power(A, tau - t) @ v
            expected[t, tau] = np.sqrt(gradient @ gradient)
    assert found.dtype == np.float64
    assert (found == expected).all()


@rarely
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["rnn", "gru", "lstm"]), st.integers(0, 99)
)
def test_it_is_what_the_loss_says_when_the_rest_is_run_from_the_state(T, B, H, kind, seed):
    """The state after step t is taken out, and the steps from there on are a plain function of it."""
    rng = np.random.default_rng(seed)
    made = {"rnn": mg.nn.RNNCell, "gru": mg.nn.GRUCell, "lstm": mg.nn.LSTMCell}[kind]
    cell = made(2, H, dtype="float64", seed=seed)
    inputs, v = rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, H))

    def of(state):
        return state.h if kind == "lstm" else state

    def loss_from(state, t, tau, row):
        for step in range(t + 1, tau + 1):
            _, state = cell(inputs[:, step], state)
        return (mg.square(of(state)) * v[:, tau]).sum(axis=-1)[row]

    state, expected = cell.zero_state(B), np.zeros((T, T))
    for t in range(T):
        state = mg.stop_gradient(cell(inputs[:, t], state)[1])
        for tau in range(t, T):
            for row in range(B):
                parts = mg.tree.flatten(mg.grad(loss_from)(state, t, tau, row))[0]
                expected[t, tau] += np.sqrt(sum((part.numpy()[row] ** 2).sum() for part in parts)) / B

    found = credit_map(cell, inputs, lambda outputs: (mg.square(outputs) * v).sum(axis=-1))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert (found[np.tril_indices(T, -1)] == 0).all()
    assert (np.diag(found) > 0).all()


@rarely
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_states_and_outputs_are_pytrees_and_parts_of_a_state_are_independent(T, B, H, seed):
    """The oracle adds something to each part when the whole state of a step is done, before its output is made."""
    rng = np.random.default_rng(seed)
    cell, inputs = TwoLayers(rng, 2, H), rng.normal(size=(T, B, 2))
    start = Wide(rng.normal(size=(B, H)), [rng.normal(size=(B, H))], np.zeros((B, 1), int))

    def losses(outputs):
        return mg.sum(mg.square(outputs["y"]), axis=-1)

    def loss(nudges, tau):
        state = start
        for t in range(tau + 1):
            new = cell.new_state(inputs[t], state)
            new = Wide(new.low + nudges[0][t], [new.high[0] + nudges[1][t]], new.count)
            output, state = cell.output(state, new), new
        return losses(output).sum()

    expected = np.zeros((T, T))
    for tau in range(T):
        gradients = mg.grad(loss)((np.zeros((T, B, H)), np.zeros((T, B, H))), tau)
        expected[:, tau] = np.linalg.norm(np.concatenate(gradients, axis=-1), axis=-1).mean(axis=1)
    found = credit_map(cell, inputs, losses, start, time_major=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert (found[np.tril_indices(T, -1)] == 0).all()


def test_a_nan_or_an_inf_later_on_does_not_reach_the_past():
    inputs = np.array([[[1.0], [2.0], [np.nan], [np.inf]]])

    def cell(x, h):
        h = h * 2.0 + x * 0.5
        return h, h

    found = credit_map(cell, inputs, lambda outputs: mg.square(outputs)[..., 0], np.zeros((1, 1)))
    h = [0.5, 2.0]
    assert found[0, 0] == 2 * h[0]
    assert found[0, 1] == 2 * h[1] * 2
    assert found[1, 1] == 2 * h[1]
    assert (found[np.tril_indices(4, -1)] == 0).all()
    assert np.isnan(found[:3, 2]).all()


@pytest.mark.parametrize("scale", [2.0**-300, 2.0**300])
def test_what_is_too_small_or_large_to_be_squared_has_a_norm(scale):
    def cell(x, h):
        h = h * scale + x
        return h, h

    losses = lambda outputs: outputs @ np.array([3.0, 4.0])  # noqa: E731
    found = credit_map(cell, np.zeros((1, 4, 2)), losses, np.zeros((1, 2)))
    assert found[0, 3] == 5 * scale**3
    assert found[0].tolist() == [5.0, 5 * scale, 5 * scale**2, 5 * scale**3]


def test_a_memory_that_is_handed_on_untouched_is_a_state_of_every_step():
    def cell(x, state):
        held, h = state
        h = h * 2.0 + held * x
        return h, (held, h)

    start = (np.full((1, 1), 3.0), np.zeros((1, 1)))
    found = credit_map(cell, np.ones((1, 3, 1)), lambda outputs: outputs[..., 0], start)
    # of h: 2^(tau - t); of what is held: 1 at each step between, doubled from then on
    expected = [[1, np.hypot(2, 1), np.hypot(4, 3)], [0, 1, np.hypot(2, 1)], [0, 0, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_a_net_without_memory_has_a_diagonal():
    def cell(x, h):
        h = x * 3.0
        return h, h

    found = credit_map(cell, np.ones((2, 3, 1)), lambda outputs: outputs[..., 0] * 2.0, np.zeros((2, 1)))
    assert (found == 2 * np.eye(3)).all()


def test_losses_that_look_ahead_are_told_as_they_are():
    def cell(x, h):
        h = h + x
        return h, h

    def total(outputs):
        return mg.broadcast_to(mg.sum(outputs[..., 0], axis=1, keepdims=True), (2, 3))

    found = credit_map(cell, np.ones((2, 3, 1)), total, np.zeros((2, 1)))
    assert (found == [[3, 3, 3], [2, 2, 2], [1, 1, 1]]).all()


def test_it_is_the_mean_over_the_rows():
    inputs, factors = np.random.default_rng(0).normal(size=(3, 4, 2)), np.array([[1.0], [2.0], [4.0]])
    cell = mg.nn.GRUCell(2, 3, dtype="float64", seed=0)

    def losses(outputs):
        return mg.square(outputs).sum(axis=-1)

    rows = [credit_map(cell, inputs[i : i + 1], losses) for i in range(3)]
    np.testing.assert_allclose(credit_map(cell, inputs, losses), np.mean(rows, axis=0), rtol=1e-13)
    weighted = credit_map(cell, inputs, lambda outputs: losses(outputs) * factors)
    np.testing.assert_allclose(weighted, (rows[0] + 2 * rows[1] + 4 * rows[2]) / 3, rtol=1e-13)


# ---- manners ---------------------------------------------------------------------------------------------------------


def test_tokens_float32_and_no_time():
    embedding, cell = mg.nn.Embedding(5, 2, seed=0), mg.nn.LSTMCell(2, 3, seed=0)

    class Reader:
        zero_state = cell.zero_state

        def __call__(self, token, state):
            return cell(embedding(token), state)

    def losses(outputs):
        return mg.square(outputs).sum(axis=-1)

    found = credit_map(Reader(), np.array([[0, 1, 4]]), losses)
    given = credit_map(cell, embedding(np.array([[0, 1, 4]])), losses)  # which has a gradient of its own
    assert found.dtype == given.dtype == np.float64
    assert (found == given).all()
    assert (found > 0).sum() == 6
    assert credit_map(cell, np.zeros((2, 0, 2), "float32"), losses).shape == (0, 0)


def test_deep_nets_with_dropout_take_what_dynamic_rnn_takes():
    net = Deep([mg.nn.GRUCell(2, 3, seed=0), Dropout(mg.nn.LSTMCell(3, 3, seed=1), output=0.5)]).astype("float64")
    plain = Deep([mg.nn.GRUCell(2, 3, seed=0), mg.nn.LSTMCell(3, 3, seed=1)]).astype("float64")
    inputs = np.random.default_rng(0).normal(size=(2, 4, 2))

    def losses(outputs):
        return mg.square(outputs).sum(axis=-1)

    def found(net, **options):
        return credit_map(net, inputs, losses, **options)

    assert (found(net, training=False) == found(plain)).all()
    once, again, other = (found(net, training=True, seed=seed) for seed in (1, 1, 2))
    assert (once == again).all()
    assert (once != other).any()
    assert (once[np.tril_indices(4, -1)] == 0).all()
    with pytest.raises(ValueError, match="draws random numbers in training"):
        found(net)
    with pytest.raises(TypeError, match="takes a cell, and a Bidirectional runs over whole sequences"):
        found(Bidirectional(mg.nn.GRUCell(2, 3), mg.nn.GRUCell(2, 3)))


def test_nothing_is_left_behind():
    cell = mg.nn.RNNCell(2, 3, dtype="float64", seed=0)
    inputs = mg.tensor(np.ones((1, 3, 2)), requires_grad=True)

    def losses(outputs):
        return outputs.sum(axis=-1)

    with mg.Tape() as tape:
        found = credit_map(cell, inputs, losses)
    with mg.no_grad():
        assert (credit_map(cell, inputs, losses) == found).all()
    assert len(tape) == 0
    assert inputs.grad is None
    assert all(weight.grad is None for weight in cell.parameters().values())


def test_random_numbers_in_a_cell_are_new_at_every_step_and_the_same_every_time():
    def cell(x, h):
        h = (h + x) * mg.random.uniform((1, 1), seed=3)
        return h, h

    def once():
        return credit_map(cell, np.ones((1, 4, 1)), lambda outputs: outputs[..., 0], np.zeros((1, 1)))

    found = once()
    assert (found == once()).all()
    factors = np.diag(found, 1)
    assert len(set(factors)) == 3
    np.testing.assert_allclose(found[0, 2], factors[0] * factors[1], rtol=1e-15)


def plain(x, h):
    h = h * 0.5 + x
    return h, h


def first(outputs):
    return outputs[..., 0]


@pytest.mark.parametrize(
    ("cell", "inputs", "losses", "message"),
    [
        (plain, np.ones(3), first, r"credit_map takes inputs \(B, T, ...\), got inputs of shape \(3,\)"),
        (plain, (), first, r"got none"),
        (plain, (np.ones((1, 2, 1)), np.ones((1, 3, 1))), first, r"got inputs\[1\] of shape"),
        (plain, np.ones((0, 3, 1)), first, "the mean over the rows, and got inputs of none"),
        (plain, np.ones((2, 3, 1)), lambda outputs: outputs, r"of shape \(2, 3\), got \(2, 3, 1\)"),
        (plain, np.ones((2, 3, 1)), lambda outputs: 1.0, r"one loss for each row and step, .*, got None"),
        (plain, np.ones((2, 3, 1)), lambda outputs: np.ones((2, 3)), "computed from the outputs, got a constant"),
        (lambda x, h: (h, mg.zeros(h.shape)), np.ones((2, 3, 1)), first, "after step 0, but state is a constant there"),
        (lambda x, h: (h, h.sum()), np.ones((2, 3, 1)), first, r"axis 0 holds the 2 rows, got state of shape \(\)"),
    ],
)
def test_bad_input_is_one_clear_error(cell, inputs, losses, message):
    with pytest.raises(ValueError, match=message):
        credit_map(cell, inputs, losses, np.zeros((2, 1)))


def test_a_parameter_is_no_state_that_the_cell_computed():
    held = mg.tensor(np.ones((2, 1)), requires_grad=True)
    for state in (held, held * 2.0):
        with pytest.raises(ValueError, match="state is a constant there, or was computed before"):
            credit_map(lambda x, h, state=state: (h, state), np.ones((2, 3, 1)), first, np.zeros((2, 1)))


def test_a_cell_without_zero_state_needs_an_initial_state():
    with pytest.raises(TypeError, match=r"plain has no zero_state\(batch_size\): pass initial_state"):
        credit_map(plain, np.ones((2, 3, 1)), first)


def test_its_own_gradient_is_refused():
    def of(scale):
        return credit_map(plain, np.ones((1, 3, 1)) * scale, first, np.zeros((1, 1))).sum()

    with pytest.raises(TypeError, match="numbers without a gradient"):
        mg.grad(of)(2.0)


def test_values_that_leave_the_tape_inside_a_cell_are_refused():
    def cell(x, h):
        h = mg.asarray(h.numpy()) + x
        return h, h

    with pytest.raises(TypeError, match="would lose the gradient"):
        credit_map(cell, np.ones((1, 3, 1)), first, np.zeros((1, 1)))


def test_on_the_strict_backend():
    cell = mg.nn.LSTMCell(2, 3, dtype="float64", seed=0)
    inputs = np.random.default_rng(0).normal(size=(2, 4, 2))

    def losses(outputs):
        return mg.square(outputs).sum(axis=-1)

    expected = credit_map(cell, inputs, losses)
    with mg.use_backend("strict"):
        found = credit_map(cell.to("strict"), mg.tensor(inputs), losses)
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, expected, rtol=1e-12)
