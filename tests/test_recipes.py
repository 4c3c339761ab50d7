"""The recipes of examples/recipes: each against a loop in plain NumPy, its gradients, its size, and that it runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minigrad as mg
from cell_equations import sigmoid
from minigrad import nn, tree
from minigrad.testing import check_grads

FOLDER = Path(__file__).parents[1] / "examples" / "recipes"
NAMES = ["identity_relu_rnn", "minimal_gated_unit", "residual_rnn", "zoneout"]
TIGHT = {"rtol": 1e-12, "atol": 1e-13}
SLOW = {"suppress_health_check": [HealthCheck.too_slow], "deadline": None}


def load(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPES = {name: load(name) for name in NAMES}


def host(x):
    return mg.asarray(x).detach().numpy()


# ---- in plain NumPy ------------------------------------------------------------------------------------------------


def residual(w, x, h):
    return h + np.tanh(x @ w["update.W_x"] + h @ w["update.W_h"] + w["update.b"])


def identity_relu(w, x, h):
    return np.maximum(x @ w["W_x"] + h @ w["W_h"] + w["b"], 0.0)


def minimal_gated(w, x, h):
    f = sigmoid(np.hstack([x, h]) @ w["forget.W"] + w["forget.b"])
    n = np.tanh(np.hstack([x, f * h]) @ w["new.W"] + w["new.b"])
    return (1 - f) * h + f * n


CELLS = {
    "residual_rnn": (RECIPES["residual_rnn"].ResidualRNN, residual),
    "identity_relu_rnn": (RECIPES["identity_relu_rnn"].identity_relu_rnn, identity_relu),
    "minimal_gated_unit": (RECIPES["minimal_gated_unit"].MinimalGatedUnit, minimal_gated),
}


def plain(step, w, inputs, lengths, start):
    """Outputs and final states, every row by itself for exactly its own steps."""
    outputs, final = np.zeros((*inputs.shape[:2], start.shape[1])), start.copy()
    for row, length in enumerate(lengths):
        for t in range(length):
            outputs[row, t] = final[row] = step(w, inputs[row, t][None], final[row][None])[0]
    return outputs, final


some_lengths = st.lists(st.integers(0, 3), min_size=1, max_size=3)
batches = st.tuples(st.sampled_from(list(CELLS)), st.integers(1, 3), some_lengths, st.integers(0, 999))


def built(batch):
    """A recipe's cell with weights of any kind, its plain step, and sequences of the drawn lengths."""
    name, units, lengths, seed = batch
    make, step = CELLS[name]
    cell, draw = make(2, units, dtype="float64"), np.random.default_rng(seed)
    cell.load_state_dict({path: draw.normal(size=p.shape) for path, p in cell.parameters().items()})
    shape = (len(lengths), max(lengths), 2)
    return cell, step, draw.normal(size=shape), lengths, draw.normal(size=(len(lengths), units))


@settings(max_examples=60, **SLOW)
@given(batches)
def test_a_recipe_is_its_equations(batch):
    cell, step, inputs, lengths, start = built(batch)
    outputs, final = nn.dynamic_rnn(cell, inputs, lengths, start)
    for got, needed in zip((outputs, final), plain(step, cell.state_dict(), inputs, lengths, start), strict=True):
        np.testing.assert_allclose(host(got), needed, **TIGHT)


@settings(max_examples=15, **SLOW)
@given(batches.filter(lambda batch: batch[0] != "identity_relu_rnn"))
def test_the_gradients_of_a_recipe_at_both_orders(batch):
    cell, _, inputs, lengths, start = built(batch)
    assert check_grads(through_time(cell, lengths), at(cell, inputs, start), order=2).ok


def test_the_gradients_of_the_identity_relu_network_away_from_its_kink():
    """Units that stay on and one that stays off, far from 0 at every step."""
    make, step = CELLS["identity_relu_rnn"]
    cell = make(2, 3, dtype="float64", seed=0)
    W_h = np.eye(3) + 0.1 * np.random.default_rng(0).uniform(size=(3, 3))
    cell.load_state_dict({"W_x": np.full((2, 3), 0.3), "W_h": W_h, "b": np.array([0.5, 0.2, -9.0])})
    inputs, start = np.random.default_rng(1).uniform(size=(2, 3, 2)), np.ones((2, 3))
    outputs, _ = plain(step, cell.state_dict(), inputs, [3, 2], start)
    assert (outputs[0, :, :2] > 0.5).all()
    assert (outputs[:, :, 2] == 0).all()
    assert check_grads(through_time(cell, [3, 2]), at(cell, inputs, start), order=2).ok


def at(cell, inputs, start):
    return {"inputs": inputs, "start": start, "parameters": cell.state_dict()}


def through_time(cell, lengths, **how):
    """Outputs and final state as a function of the inputs, the first state and the parameters."""

    def run(arrays):
        return nn.dynamic_rnn(swapped(cell, arrays["parameters"]), arrays["inputs"], lengths, arrays["start"], **how)

    return run


def swapped(item, parameters, path=""):
    """A copy of a module with other tensors in the place of its parameters."""
    if not isinstance(item, nn.Module):
        return item
    new = object.__new__(type(item))
    for name, value in vars(item).items():
        own = path + name
        vars(new)[name] = mg.asarray(parameters[own]) if own in parameters else swapped(value, parameters, f"{own}.")
    return new


def test_the_identity_relu_network_starts_as_in_its_paper():
    cell = RECIPES["identity_relu_rnn"].identity_relu_rnn(50, 40, seed=0)
    np.testing.assert_array_equal(host(cell.W_h), np.eye(40))
    assert (host(cell.b) == 0).all()
    assert host(cell.W_x).std() == pytest.approx(0.001, rel=0.1)


# ---- zoneout -------------------------------------------------------------------------------------------------------


def zoned(make=nn.LSTMCell, rate=0.4):
    cell = RECIPES["zoneout"].Zoneout(make(2, 3, dtype="float64", seed=0), rate)
    draw = np.random.default_rng(0)
    return cell, draw.normal(size=(4, 6, 2)), tree.map(lambda s: draw.normal(size=s.shape), cell.zero_state(4))


@pytest.mark.parametrize("make", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_zoneout_keeps_or_takes_each_element(make):
    """Every element of every part of the state is the old one, or what the cell makes of the old state."""
    cell, inputs, start = zoned(make)
    h_of, kept, taken = (lambda s: s.h if make is nn.LSTMCell else s), 0, 0
    outputs, _ = nn.dynamic_rnn(cell, inputs, None, start, training=True, seed=3)
    for t in range(inputs.shape[1]):
        _, before = nn.dynamic_rnn(cell, inputs[:, :t], None, start, training=True, seed=3)
        _, after = nn.dynamic_rnn(cell, inputs[:, : t + 1], None, start, training=True, seed=3)
        np.testing.assert_array_equal(host(outputs)[:, t], host(h_of(after)))
        _, new = cell.cell(inputs[:, t], before)
        for old, made, got in zip(*[tree.flatten(s)[0] for s in (before, new, after)], strict=True):
            stays, moves = (np.isclose(host(got), host(x), rtol=1e-13, atol=1e-15) for x in (old, made))
            assert (stays | moves).all()
            kept, taken = kept + stays.sum(), taken + (moves & ~stays).sum()
    assert kept > 20
    assert taken > 20


def test_zoneout_draws_each_element_anew_at_each_step():
    """A counter that misses steps: after 20, binomial, with mean 20 * 0.6 and variance 20 * 0.6 * 0.4."""
    cell = RECIPES["zoneout"].Zoneout(Counter(), rate=0.4)
    _, counts = nn.dynamic_rnn(cell, np.zeros((64, 20, 1)), training=True, seed=0)
    counts = host(counts)
    assert set(counts.ravel()) <= set(range(21))
    assert abs(counts.mean() - 12.0) < 4 * np.sqrt(4.8 / counts.size)
    assert abs(counts.var() - 4.8) < 0.5
    assert np.abs(np.corrcoef(counts)[np.triu_indices(64, 1)]).mean() < 0.15  # rows have nothing in common


class Counter:
    def zero_state(self, batch_size):
        return np.zeros((batch_size, 50))

    def __call__(self, x, state):
        return x, state + 1.0


def test_zoneout_elsewhere_is_its_mean():
    cell, inputs, start = zoned()
    state = start
    outputs, _ = nn.dynamic_rnn(cell, inputs, None, start, training=False)
    for t in range(inputs.shape[1]):
        _, new = cell.cell(inputs[:, t], state)
        state = tree.map(lambda old, new: 0.4 * old + 0.6 * host(new), state, new)
        np.testing.assert_allclose(host(outputs)[:, t], state.h, **TIGHT)


def test_zoneout_draws_from_its_seed():
    cell, inputs, start = zoned()
    a, b, c = (host(nn.dynamic_rnn(cell, inputs, None, start, training=True, seed=s)[0]) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    with pytest.raises(ValueError, match="Zoneout draws random numbers in training"):
        nn.dynamic_rnn(cell, inputs)


def test_a_rate_of_0_is_the_cell_and_of_1_holds_the_state():
    cell, inputs, start = zoned(rate=0.0)
    outputs, _ = nn.dynamic_rnn(cell, inputs, None, start, training=True, seed=0)
    np.testing.assert_array_equal(host(outputs), host(nn.dynamic_rnn(cell.cell, inputs, None, start)[0]))
    cell.rate = 1.0
    _, final = nn.dynamic_rnn(cell, inputs, None, start, training=True, seed=0)
    for got, needed in zip(final, start, strict=True):
        np.testing.assert_array_equal(host(got), needed)


@pytest.mark.parametrize("how", [{"training": True, "seed": 5}, {"training": False}], ids=["training", "elsewhere"])
@pytest.mark.parametrize("lengths", [None, [3, 0, 1, 2]], ids=["full", "ragged"])
def test_the_gradients_of_zoneout_at_both_orders(how, lengths):
    cell, inputs, start = zoned()
    assert check_grads(through_time(cell, lengths, **how), at(cell, inputs[:, :3], start), order=2).ok


# ---- what a recipe is ----------------------------------------------------------------------------------------------


def test_every_recipe_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_ten_lines(name):
    """The statements in the body of its longest function are at most ten."""
    functions = [f for f in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())) if isinstance(f, ast.FunctionDef)]
    lines = {}
    for function in functions:
        if function.name != "main":
            inside = [node for statement in function.body for node in ast.walk(statement)]
            lines[function.name] = sum(isinstance(node, ast.stmt) for node in inside)
    assert max(lines.values()) <= 11, lines  # the docstring is one


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
