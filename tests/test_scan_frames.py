"""What a compiled scan keeps where: a backward run writes over what the forward run kept, and nothing is lost by it."""

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad.scan import clear_cache
from minigrad.scan.compiled import CompiledScan

T, B, I, H = 7, 4, 3, 5


@pytest.fixture
def draws():
    return np.random.default_rng(0)


@pytest.fixture
def runs_again(monkeypatch):
    """The scans that computed once more what had been written over."""
    found = []
    run_again = CompiledScan._run_again
    monkeypatch.setattr(CompiledScan, "_run_again", lambda *args: (found.append(args[0]), run_again(*args))[1])
    return found


def lstm(draws, rows=B):
    """An LSTM's step, its inputs and first state."""
    sizes = [(I, 4 * H), (H, 4 * H), (4 * H,)]
    W_x, W_h, b = weights = [mg.tensor(draws.normal(size=size), requires_grad=True) for size in sizes]

    def step(state, x):
        h, c = state
        i, f, g, o = mg.split(x @ W_x + h @ W_h + b, 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        return (h, c), h

    start = np.zeros((rows, H))
    return step, weights, draws.normal(size=(T, rows, I)), (start, start)


def gradients(weights):
    found = [w.grad for w in weights]
    for w in weights:
        w.grad = None
    return found


def test_backward_writes_over_the_gates(draws):
    step, _, xs, start = lstm(draws)
    backward = mg.explain.program(step, xs, start, has_output=True).backward.source
    made = re.findall(rf"= empty\(\(T, {B}, (\d+),", backward)
    assert "lent" in backward
    assert f"{4 * H}" not in made, "the gradients of the gates need no stack of their own"


def test_walking_twice_gives_the_same_twice(draws, runs_again):
    step, weights, xs, start = lstm(draws)
    loss = mg.scan(step, xs, start, has_output=True)[1].sum()
    loss.backward(retain=True)
    first = gradients(weights)
    loss.backward(retain=True)
    second = gradients(weights)
    loss.backward()
    third = gradients(weights)
    assert not runs_again, "who means to walk again spends nothing"
    for a, b, c in zip(first, second, third, strict=True):
        assert (a == b).all()
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-12)


def test_a_pull_may_be_called_again(draws, runs_again):
    step, _, xs, start = lstm(draws)
    out, pull = mg.vjp(lambda xs: mg.scan(step, xs, start, has_output=True)[1], xs)
    g = draws.normal(size=out.shape)
    first, _, third = pull(g), pull(2 * g), pull(g)
    assert (first[0] == third[0]).all()
    assert not runs_again


def test_what_was_spent_is_computed_again_where_a_walk_was_not_the_last(draws, runs_again):
    """A walk that ends in NaN is done again with care, over records whose stacks the first has written over."""
    W = mg.tensor(draws.normal(size=(H, H)), requires_grad=True)
    xs = draws.normal(size=(T, B, H))
    xs[2, 1, 3] = 0.0

    def step(h, x):
        return mg.tanh(h @ W + mg.where(x > 0, mg.sqrt(mg.maximum(x, 0.0)), 0.0))

    def both(unroll):
        x = mg.tensor(xs, requires_grad=True)
        states = mg.scan(step, x, np.zeros((B, H)), unroll=unroll)
        (states * states).sum().backward()
        return [x.grad, *gradients([W])]

    expected = both(unroll=True)
    for a, b in zip(both(unroll=False), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        assert np.isfinite(a).all()
    assert len(runs_again) == 1


def test_outputs_stay_as_they_were_when_their_scan_runs_again(draws, runs_again):
    W = mg.tensor(draws.normal(size=(H, H)), requires_grad=True)
    xs = mg.tensor(np.zeros((T, B, H)), requires_grad=True)
    states = mg.scan(lambda h, x: mg.tanh(h @ W + mg.where(x > 0, mg.sqrt(x), x)), xs, np.ones((B, H)))
    values = states.numpy()
    mine = states.data
    states.sum().backward()
    assert runs_again
    assert (mine == values).all()
    assert mine is states.data


@pytest.mark.parametrize("rows", [1, B])
def test_calls_alive_at_once_in_any_order(draws, rows):
    step, weights, xs, start = lstm(draws, rows)

    def loss(scale, unroll=False):
        return (scale * mg.scan(step, scale * xs, start, has_output=True, unroll=unroll)[1]).sum()

    expected = []
    for scale in (1.0, 2.0, 3.0):
        loss(scale, unroll=True).backward()
        expected.append(gradients(weights))
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        losses = [loss(scale) for scale in (1.0, 2.0, 3.0)]
        for k in order:
            losses[k].backward()
            for a, b in zip(gradients(weights), expected[k], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_a_value_may_not_stand_where_a_piece_of_a_concatenation_comes_before_its_last_read(draws):
    """Found by `random_bodies`: the verifier refused the plan of a second derivative."""
    W0, W7 = draws.normal(size=(3, 2)), draws.normal(size=(5, 3))
    x, start = draws.normal(size=(1, 1, 1)), (draws.normal(size=(1, 3)), draws.normal(size=(1, 3)))

    def loss(W7, unroll):
        def fn(state, x):
            s0, s1 = state
            v0 = s1 @ W0
            v2, v3 = mg.sigmoid(v0[..., 0:1]), mg.sigmoid(v0[..., 1:2])
            v9 = mg.concatenate([v2, mg.where(x > 0.0731, v2, v3)], axis=1)
            v15 = mg.concatenate([s0, v9], axis=1) @ W7
            return s0, mg.sigmoid(s0) * s0 + (1.0 - mg.sigmoid(s0)) * mg.tanh(v15)

        state = mg.scan(fn, x, start, lengths=[1], unroll=unroll)
        return (state[1] * state[1]).sum()

    results = [
        mg.jvp(mg.grad(lambda W: loss(W, unroll)), (W7,), (np.ones_like(W7),))[1]  # noqa: B023
        for unroll in (False, True)
    ]
    np.testing.assert_allclose(*results, rtol=1e-10, atol=1e-12)


def test_what_is_the_same_at_all_steps_is_spread_to_the_rows(draws):
    step, _, xs, start = lstm(draws)
    clear_cache()
    forward = mg.explain.program(step, xs, start, has_output=True).forward.source
    loop = forward[forward.index("for each step") :]
    assert re.search(r"multiply\(\w+, table\w*_spread, ", loop), "one run over memory, not one a row"


def test_frames_of_other_lengths_use_the_same_memory(draws):
    """And what an earlier call gave stays as it was."""
    step, weights, xs, start = lstm(draws)
    mine, theirs = [], []
    for lengths in ([7, 7, 7, 7], [1, 2, 3, 4], [7, 0, 5, 5], [0, 0, 0, 1], [7, 7, 7, 6]):
        for unroll, results in ((False, mine), (True, theirs)):
            states = mg.scan(step, xs, start, has_output=True, lengths=lengths, unroll=unroll)[1]
            (states * states).sum().backward()
            results.append([states.data, *gradients(weights)])
    for found, expected in zip(mine, theirs, strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("cell", [mg.nn.RNNCell, mg.nn.GRUCell, mg.nn.LSTMCell])
def test_stacks_of_any_height_in_one_body(draws, cell, layers):
    """Three LSTMs: a loop read the last value that another loop's variable had held, and no plan was wrong."""
    net = mg.nn.Deep([cell(H, H, dtype="float64", seed=k) for k in range(layers)])
    xs, g = draws.normal(size=(B, 3, H)), draws.normal(size=(B, 3, H))
    lengths = [3, 0, 2, 3]
    for options in ({}, {"sequence_length": lengths}, {"reverse": True}):
        outputs, final = mg.nn.dynamic_rnn(net, xs, **options)
        ((outputs * g).sum() + sum(mg.sum(leaf * leaf) for leaf in mg.tree.flatten(final)[0])).backward()
        found = gradients(net.parameters().values())
        (mine, last), expected = by_loop(net, xs, **options), []
        ((mine * g).sum() + sum(mg.sum(leaf * leaf) for leaf in mg.tree.flatten(last)[0])).backward()
        expected = gradients(net.parameters().values())
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def by_loop(net, xs, sequence_length=None, reverse=False):
    """The same on the ordinary tape."""

    def step(state, x):
        output, state = net(x, state)
        return state, output

    state, outputs = mg.scan(
        step, mg.swapaxes(mg.asarray(xs), 0, 1), net.zero_state(len(xs)), has_output=True, reverse=reverse,
        lengths=sequence_length, unroll=True,
    )  # fmt: skip
    return mg.swapaxes(outputs, 0, 1), state


def test_a_value_named_like_a_method_is_no_variable_of_another_loop(draws):
    """Found by `random_bodies`: the proof that loops read nothing of each other took a method for a variable."""

    def loss(s2):
        def fn(state, _):
            s0, s1, s2 = state
            mean = mg.mean(s2, axis=0)
            return s1 + s0, mean + s1, mean + s2

        states = mg.scan(fn, None, (np.ones((1, 3)), np.ones(3), s2), length=1)
        return sum(mg.sum(leaf * leaf * leaf) for leaf in states)

    s2, v = draws.normal(size=(3, 3)), draws.normal(size=(3, 3))
    found = mg.hvp(loss, (s2,), (v,))
    # by the definition of the step: h1 = 2, h2 = m + 1, h3 = m + s2, m the mean over rows, for one step
    expected = mg.hvp(
        lambda s2: mg.sum((mg.mean(s2, axis=0) + 1) ** 3) + mg.sum((mg.mean(s2, axis=0) + s2) ** 3), (s2,), (v,)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-11)
