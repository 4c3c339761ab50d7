"""Losses of sequences by their definitions; padding that cannot matter; every gradient at orders 1 and 2; metrics."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.nn.losses import (
    binary_cross_entropy,
    bits_per_character,
    mean_squared_error,
    perplexity,
    reduce_losses,
    sequence_loss,
)
from minigrad.testing import check_grads, fake_cupy
from minigrad.testing.strategies import seeds

REDUCTIONS = ["sum", "per_token", "per_sequence", "per_example_mean"]
POISON = [np.nan, np.inf, -np.inf, 1e308, -1e308]
CLASSES = 3


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


def bits(x):
    return host(x).tobytes()


# ---- examples ------------------------------------------------------------------------------------------------------


def multi_label(logits, targets):
    return mg.sum(binary_cross_entropy(logits, targets), axis=-1)


def absolute_error(predictions, targets):
    """A loss of the user's own, of one number a position."""
    return mg.abs(predictions - targets)


LOSSES = {
    "cross_entropy": mg.cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "multi_label": multi_label,
    "mean_squared_error": mean_squared_error,
    "absolute_error": absolute_error,
}


def point(loss, B, T, seed):
    """Predictions and targets for a loss: probabilities away from 0 and 1, errors away from their kink."""
    draw = np.random.default_rng(seed)
    shape = (B, T) if loss in ("binary_cross_entropy", "absolute_error") else (B, T, CLASSES)
    predictions = draw.normal(size=shape)
    if loss == "cross_entropy":
        return predictions, draw.integers(0, CLASSES, size=(B, T))
    if loss == "absolute_error":
        return predictions, predictions + draw.choice([-1, 1], size=shape) * draw.uniform(0.5, 1, size=shape)
    return predictions, draw.uniform(0.25, 0.75, size=shape)


class Weighting(NamedTuple):
    """The keywords of a call, and the weights that they mean."""

    keywords: dict[str, Any]
    w: np.ndarray


@st.composite
def weightings(draw, B, T):
    """No weights, a mask, counts or fractions; with lengths or without."""
    generator = np.random.default_rng(draw(seeds))
    keywords = {}
    w = np.ones((B, T))
    kind = draw(st.sampled_from(["none", "mask", "counts", "fractions"]))
    if kind != "none":
        values = generator.choice([0, 1, 1, 2] if kind == "counts" else [0.0, 0.5, 1.0, 2.0], size=(B, T))
        keywords["weights"] = values != 0 if kind == "mask" else values
        w = w * keywords["weights"]
    if draw(st.booleans()):
        keywords["lengths"] = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
        w = w * (np.arange(T) < np.array(keywords["lengths"], int).reshape(B, 1))
    return Weighting(keywords, w)


@st.composite
def examples(draw, least=0, losses=tuple(LOSSES)):
    """A loss, predictions, targets and a weighting of B rows of T steps."""
    B, T = draw(st.integers(least, 3)), draw(st.integers(least, 4))
    loss = draw(st.sampled_from(losses))
    return (loss, *point(loss, B, T, draw(seeds)), draw(weightings(B, T)))


def by_definition(losses, reduction, w):
    """The four reductions, position by position."""
    B, T = losses.shape
    totals = [math.fsum(losses[b, t] * w[b, t] for t in range(T) if w[b, t]) for b in range(B)]
    counts = [math.fsum(w[b]) for b in range(B)]
    if reduction == "per_example_mean":
        means = [total / count if count else 0.0 for total, count in zip(totals, counts, strict=True)]
        return math.fsum(means) / B if B else 0.0
    total = math.fsum(totals)
    count = {"sum": 1.0, "per_token": math.fsum(counts), "per_sequence": B}[reduction]
    return total / count if count else 0.0


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(data=st.data(), seed=seeds)
def test_a_reduction_is_its_definition(reduction, data, seed, minigrad_backend):
    """Integers and weights of few bits: all sums are exact, and one division rounds; a mean of means rounds more."""
    B, T = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    weighting = data.draw(weightings(B, T))
    losses = np.random.default_rng(seed).integers(-8, 9, size=(B, T)).astype("float64")
    got = host(reduce_losses(mg.tensor(losses).to(minigrad_backend), reduction, **weighting.keywords))
    assert (got.shape, got.dtype) == ((), np.float64)
    expected = by_definition(losses, reduction, weighting.w)
    if reduction == "per_example_mean":
        np.testing.assert_allclose(got, expected, rtol=1e-15, atol=1e-15)
    else:
        assert got == expected


@given(example=examples(), reduction=st.sampled_from(REDUCTIONS))
def test_the_loss_of_sequences_is_the_reduced_loss_of_positions(example, reduction):
    loss, predictions, targets, weighting = example
    losses = LOSSES[loss](predictions, targets)
    got = sequence_loss(LOSSES[loss], predictions, targets, reduction, **weighting.keywords)
    assert bits(got) == bits(reduce_losses(losses, reduction, **weighting.keywords))


def test_the_reductions_differ():
    """Rows of 1 and of 3 tokens: each denominator says something else."""
    losses = np.array([[6.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    got = {name: float(reduce_losses(losses, name, lengths=[1, 3])) for name in REDUCTIONS}
    assert got == {"sum": 12.0, "per_token": 3.0, "per_sequence": 6.0, "per_example_mean": 4.0}


def test_tensorflow_s_sequence_loss():
    """r0.11: each row's weighted sum over its sum of weights (plus 1e-12), and the sum of those over the batch size."""
    logits, labels = point("cross_entropy", 3, 4, seed=0)
    w = np.random.default_rng(1).random((3, 4))
    w[2] = 0.0
    chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    crossent = np.log(np.exp(logits).sum(axis=-1)) - chosen
    by_example = (crossent * w).sum(axis=1) / (w.sum(axis=1) + 1e-12)
    got = sequence_loss(mg.cross_entropy, logits, labels, "per_example_mean", weights=w)
    np.testing.assert_allclose(float(got), by_example.sum() / 3, rtol=1e-11)


def test_batches_add_up():
    """What perplexity needs: the sums of two batches are the sum of both."""
    losses = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    parts = [float(reduce_losses(part, "sum", lengths=n)) for part, n in ((losses[:2], [1, 2]), (losses[2:], [2]))]
    assert sum(parts) == float(reduce_losses(losses, "sum", lengths=[1, 2, 2])) == 19.0


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=12)
@given(example=examples(least=1), seed=seeds)
def test_every_gradient_at_orders_1_and_2(reduction, example, seed):
    loss, predictions, targets, weighting = example

    def f(*args):
        return sequence_loss(LOSSES[loss], *args, reduction, **weighting.keywords)

    if loss == "cross_entropy":
        assert check_grads(lambda x: f(x, targets), predictions, seed=seed).ok
    else:
        assert check_grads(f, predictions, targets, seed=seed).ok


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=12)
@given(data=st.data(), seed=seeds)
def test_the_gradients_of_reduced_losses(reduction, data, seed):
    B, T = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    weighting = data.draw(weightings(B, T))
    x = np.random.default_rng(seed).normal(size=(B, T))
    assert check_grads(lambda x: reduce_losses(mg.tanh(x) * x, reduction, **weighting.keywords), x, seed=seed).ok


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (binary_cross_entropy, np.array([[0.0, 1.0, 0.25]])),
        (mean_squared_error, np.array([[1.0, -2.0, 0.5]])),
    ],
    ids=["binary_cross_entropy", "mean_squared_error"],
)
def test_losses_at_each_position_have_right_gradients(loss, targets):
    assert check_grads(lambda x: loss(x, targets), np.array([[0.5, -1.0, 30.0]])).ok


def test_gradients_on_every_backend(backend):
    """d/dlogits of a mean of cross entropies: (softmax - one_hot) * w / sum of w."""
    logits, labels = point("cross_entropy", 2, 3, seed=3)
    w = np.array([[1.0, 0.5, 0.0], [2.0, 0.0, 0.0]])
    x = mg.tensor(logits, requires_grad=True)
    sequence_loss(mg.cross_entropy, x, labels, "per_token", weights=w).backward()
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = (p - np.eye(CLASSES)[labels]) * w[..., None] / 3.5
    np.testing.assert_allclose(host(x.grad), expected, rtol=1e-14, atol=1e-16)
    assert type(x.grad) is backend.array_type


# ---- padding -------------------------------------------------------------------------------------------------------


def everything(loss, predictions, targets, reduction, keywords, direction):
    """The value, the gradient, the derivative and the curvature along a direction."""

    def f(x):
        return sequence_loss(LOSSES[loss], x, targets, reduction, **keywords)

    value, gradient = mg.value_and_grad(f)(predictions)
    _, slope = mg.jvp(f, (predictions,), (direction,))
    return value, gradient, slope, mg.hvp(f, (predictions,), (direction,))[0]


@pytest.mark.parametrize("poison", POISON)
@settings(max_examples=25)
@given(example=examples(least=1), reduction=st.sampled_from(REDUCTIONS), seed=seeds)
def test_what_stands_at_weight_0_changes_no_bit(poison, example, reduction, seed):
    loss, predictions, targets, weighting = example
    w = weighting.w.copy()
    w.flat[seed % w.size] = 0.0  # at least one position is out
    out = w == 0
    poisoned, wrong = predictions.copy(), targets.copy()
    poisoned[out] = poison
    wrong[out] = (-1 if poison < 0 else 10**9) if loss == "cross_entropy" else poison
    direction = np.random.default_rng(seed).normal(size=predictions.shape)
    clean = everything(loss, predictions, targets, reduction, {"weights": w}, direction)
    dirty = everything(loss, poisoned, wrong, reduction, {"weights": w}, direction)
    assert [bits(part) for part in dirty] == [bits(part) for part in clean]
    for derivative in (dirty[1], dirty[3]):
        assert (host(derivative)[out] == 0).all()


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_at_weight_0_may_be_anything(poison, reduction, backend):
    losses, w = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.5, 0.0]])
    got = []
    for padding in (2.0, poison):
        losses[:, 1] = padding
        x = mg.tensor(losses, requires_grad=True)
        value = reduce_losses(x, reduction, weights=w)
        value.backward()
        assert (host(x.grad)[:, 1] == 0).all()
        assert (host(x.grad)[:, 0] != 0).all()
        got.append((bits(value), bits(x.grad)))
    assert got[0] == got[1]


def test_weights_behind_the_lengths_may_be_anything():
    losses = np.arange(6.0).reshape(2, 3)
    w = np.array([[1.0, np.nan, -1.0], [2.0, 2.0, np.inf]])
    assert float(reduce_losses(losses, "per_token", weights=w, lengths=[1, 2])) == (0 + 2 * 3 + 2 * 4) / 5


def test_a_gradient_behind_the_mask_is_safe_in_what_made_the_loss():
    """A loss computed outside: the ops keep its singular gradient out where the weight is 0."""
    p = mg.tensor([[0.5, 0.0]], requires_grad=True)
    reduce_losses(mg.sqrt(p), "per_token", weights=[[1, 0]]).backward()
    np.testing.assert_array_equal(host(p.grad), [[0.5 / np.sqrt(0.5), 0.0]])


@pytest.mark.parametrize("poison", POISON)
def test_padding_of_the_inputs_does_not_reach_the_weights(poison):
    """From padded inputs through a cell and a layer to the loss: every gradient, bit by bit."""
    cell, layer = nn.LSTMCell(2, 3, dtype="float64", seed=0), nn.Linear(3, CLASSES, dtype="float64", seed=1)
    inputs = np.random.default_rng(2).normal(size=(2, 4, 2))
    labels = np.array([[0, 1, 2, 0], [2, -1, -1, -1]])

    def gradients(padding):
        inputs[1, 1:] = padding
        outputs, _ = nn.dynamic_rnn(cell, inputs, sequence_length=[4, 1])
        loss = sequence_loss(mg.cross_entropy, layer(outputs), labels, "per_example_mean", lengths=[4, 1])
        loss.backward()
        found = [bits(loss)]
        for p in (*cell.parameters().values(), *layer.parameters().values()):
            assert (p.grad != 0).any()
            found.append(bits(p.grad))
            p.grad = None
        return found

    assert gradients(poison) == gradients(0.0)


# ---- nothing to add up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("nothing", ["weights", "lengths", "no steps", "no rows"])
def test_without_any_weight_the_loss_and_its_gradient_are_0(reduction, loss, nothing, backend):
    B, T = {"no steps": (2, 0), "no rows": (0, 2)}.get(nothing, (2, 3))
    predictions, targets = point(loss, B, T, seed=0)
    keywords = {"weights": {"weights": np.zeros((B, T))}, "lengths": {"lengths": [0] * B}}.get(nothing, {})
    x = mg.tensor(predictions, requires_grad=True)
    value = sequence_loss(LOSSES[loss], x, backend.asarray(targets), reduction, **keywords)
    value.backward()
    assert host(value) == 0.0
    np.testing.assert_array_equal(host(x.grad), np.zeros_like(predictions))


@pytest.mark.parametrize("poison", POISON)
def test_nothing_but_poison_is_0(poison):
    x = mg.tensor(np.full((2, 2), poison), requires_grad=True)
    value = reduce_losses(x, "per_token", weights=np.zeros((2, 2)))
    value.backward()
    assert value.item() == 0.0
    assert (host(x.grad) == 0).all()


def test_a_row_without_weights_counts_as_0_in_the_mean_of_rows():
    assert float(reduce_losses([[4.0], [2.0]], "per_example_mean", weights=[[1], [0]])) == 2.0


# ---- weights of any size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("reduction", ["per_token", "per_example_mean"])
@pytest.mark.parametrize("scale", [1e-50, 2.0**-140, 2.0**-20, 1e50, 1e300])
def test_the_ratio_of_weights_does_not_depend_on_their_size(dtype, reduction, scale, backend):
    """Ones that float32 cannot hold, too: 1e-50 would be 0 there, and 1e300 inf."""
    x = mg.tensor([[1.0, 3.0]], dtype, requires_grad=True)
    value = reduce_losses(x, reduction, weights=backend.asarray(np.array([[scale, scale]])))
    value.backward()
    assert (value.dtype, x.grad.dtype) == (np.dtype(dtype), np.dtype(dtype))
    assert host(value) == 2.0
    np.testing.assert_array_equal(host(x.grad), [[0.5, 0.5]])
    assert host(reduce_losses(x, reduction, weights=np.array([[0.0, scale]]))) == 3.0


def test_the_loss_of_tiny_weights_is_that_of_ones():
    logits, labels = np.zeros((1, 2, 3), "float32"), [[0, 1]]
    got = sequence_loss(mg.cross_entropy, logits, labels, "per_token", weights=[[1e-50, 1e-50]])
    assert got.dtype == np.float32
    assert got == np.float32(math.log(3))


# ---- types ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_dtypes_are_those_of_the_predictions(dtype, reduction, loss, backend):
    predictions, targets = point(loss, 2, 3, seed=0)
    x = mg.tensor(predictions, dtype, requires_grad=True)
    targets = targets if loss == "cross_entropy" else targets > 0.5
    value = sequence_loss(LOSSES[loss], x, backend.asarray(targets), reduction, weights=np.full((2, 3), 0.5))
    assert (value.dtype, value.shape, value.backend) == (np.dtype(dtype), (), backend)
    value.backward()
    assert x.grad.dtype == np.dtype(dtype)


def test_many_float16_losses_have_a_mean():
    """Their sum, and their number, lie beyond 65504."""
    losses = np.full((2, 40000), 2.0, "float16")
    assert float(reduce_losses(losses, "per_token")) == 2.0
    assert float(reduce_losses(losses, "per_example_mean")) == 2.0


def test_arrays_give_arrays_and_a_tensor_among_them_gives_a_tensor():
    losses = np.ones((1, 2))
    assert type(reduce_losses(losses, "sum")) is np.ndarray
    for keywords in ({"weights": mg.tensor([[1.0, 1.0]])}, {"lengths": mg.tensor([2])}):
        assert isinstance(reduce_losses(losses, "sum", **keywords), mg.Tensor)
        value = sequence_loss(mean_squared_error, losses[..., None], losses[..., None], "sum", **keywords)
        assert isinstance(value, mg.Tensor)
    assert isinstance(binary_cross_entropy(losses, mg.tensor(losses)), mg.Tensor)
    assert isinstance(mean_squared_error(losses, mg.tensor(losses)), mg.Tensor)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_lies_on_the_host_is_checked_without_waiting_for_the_device(loss):
    """Reducing adds no wait to those of the loss itself: cross_entropy's check its indices, the others have none."""
    predictions, targets = point(loss, 2, 3, seed=0)
    x = mg.tensor(predictions).to("strict")
    targets = fake_cupy.backend.asarray(targets) if loss == "absolute_error" else targets
    with fake_cupy.count_syncs() as alone:
        LOSSES[loss](x, targets)
    assert not alone or loss == "cross_entropy"
    with fake_cupy.expect_syncs(len(alone)):
        sequence_loss(LOSSES[loss], x, targets, "per_token", weights=np.ones((2, 3)), lengths=[3, 1])


def test_weights_on_the_device_of_the_predictions(backend):
    losses, w = mg.tensor([[1.0, 2.0], [3.0, 5.0]]), mg.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert float(host(reduce_losses(losses, "per_token", weights=w))) == 2.5
    x = mg.tensor([[[1.0], [2.0]], [[3.0], [5.0]]])
    targets = np.zeros((2, 2, 1))  # on the host
    got = sequence_loss(mean_squared_error, x, targets, "sum", weights=w)
    assert float(host(got)) == 1.0 + 4.5 + 12.5


# ---- losses at each position ---------------------------------------------------------------------------------------


def exact_binary_cross_entropy(x, t):
    with localcontext() as context:
        context.prec = 400
        x, t = Decimal(x), Decimal(t)
        return float(t * (1 + (-x).exp()).ln() + (1 - t) * (1 + x.exp()).ln())


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("x", [0.0, 1e-9, -0.5, 3.0, 40.0, -40.0, 700.0, -700.0])
def test_binary_cross_entropy_is_exact_at_both_ends(x, t):
    got = binary_cross_entropy(np.array([x]), np.array([t]))
    np.testing.assert_allclose(got, [exact_binary_cross_entropy(x, t)], rtol=1e-15)


@pytest.mark.parametrize(("x", "t", "loss"), [(1e308, 1, 0.0), (-1e308, 0, 0.0), (1e308, 0, 1e308), (-1e5, 1, 1e5)])
def test_binary_cross_entropy_of_huge_logits(x, t, loss):
    logit = mg.tensor([x], requires_grad=True)
    value = binary_cross_entropy(logit, [t])
    value.backward([1.0])
    assert host(value) == [loss]
    assert host(logit.grad) == [(1.0 if x > 0 else 0.0) - t]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("x", [math.inf, -math.inf])
def test_binary_cross_entropy_of_infinite_logits(x, t, dtype, backend):
    """The limits: 0 where the target agrees, else inf; by x sigmoid(x) - t, and by t -x, or the largest number."""
    logit, target = mg.tensor([x], dtype, requires_grad=True), mg.tensor([t], dtype, requires_grad=True)
    value = binary_cross_entropy(logit, target)
    value.backward(backend.asarray(np.ones(1, dtype)))
    certain = 1.0 if x > 0 else 0.0
    assert value.dtype == np.dtype(dtype)
    assert host(value) == [0.0 if t == certain else math.inf]
    assert host(logit.grad) == [certain - t]
    assert (host(target.grad) <= -np.finfo(dtype).max if x > 0 else host(target.grad) >= np.finfo(dtype).max).all()
    one = backend.asarray(np.ones(1, dtype))
    assert host(mg.hvp(lambda z: mg.sum(binary_cross_entropy(z, [t])), (logit.data,), (one,))[0]) == [0.0]


def test_binary_cross_entropy_of_nan_logits_is_nan():
    with np.errstate(invalid="ignore"):
        assert np.isnan(binary_cross_entropy(np.full(3, np.nan), [0.0, 0.5, 1.0])).all()


@given(seed=seeds)
def test_binary_cross_entropy_has_derivatives_by_both(seed):
    draw = np.random.default_rng(seed)
    x, t = draw.normal(size=3), np.array([0.0, draw.uniform(0.25, 0.75), 1.0])
    _, by_t = mg.value_and_grad(lambda t: mg.sum(binary_cross_entropy(x, t)))(t)
    np.testing.assert_allclose(by_t, -x, rtol=1e-14, atol=1e-15)
    _, by_x = mg.value_and_grad(lambda x: mg.sum(binary_cross_entropy(x, t)))(x)
    np.testing.assert_allclose(by_x, 1 / (1 + np.exp(-x)) - t, rtol=1e-14, atol=1e-15)


def test_binary_cross_entropy_is_cross_entropy_of_two_classes():
    draw = np.random.default_rng(0)
    x, t = draw.normal(size=(3, 2)), draw.integers(0, 2, size=(3, 2))
    two = np.stack([np.zeros_like(x), x], axis=-1)
    np.testing.assert_allclose(binary_cross_entropy(x, t), mg.cross_entropy(two, t), rtol=1e-13)


def test_mean_squared_error_is_the_mean_over_features():
    got = mean_squared_error([[[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]]], [[[1, 0, 0]], [[0, 0, 3]]])
    np.testing.assert_array_equal(got, [[13 / 3], [3.0]])


# ---- errors --------------------------------------------------------------------------------------------------------

TWO = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reduce_losses(TWO, "mean"), ValueError, r"one of 'sum', 'per_token', .*, got 'mean'"),
        (lambda: sequence_loss(absolute_error, TWO, TWO, None), ValueError, "reduction is one of .*, got None"),
        (lambda: reduce_losses(TWO[0], "sum"), ValueError, r"losses are \(B, T\).*got shape \(3,\)"),
        (lambda: reduce_losses(TWO[..., None], "sum"), ValueError, r"got shape \(2, 3, 1\); sum or average"),
        (lambda: reduce_losses(TWO.astype(int), "sum"), TypeError, "losses are floating, got int64"),
        (
            lambda: reduce_losses(TWO, "sum", weights=TWO.T),
            ValueError,
            r"of shape \(B, T\) = \(2, 3\), got float64 of shape \(3, 2\)",
        ),
        (lambda: reduce_losses(TWO, "sum", weights=TWO[0]), ValueError, r"got float64 of shape \(3,\)"),
        (lambda: reduce_losses(TWO, "sum", weights=TWO + 1j), ValueError, "got complex128"),
        (lambda: reduce_losses(TWO, "sum", weights=TWO - 0.5), ValueError, "finite and at least 0, got -0.5"),
        (lambda: reduce_losses(TWO, "sum", weights=TWO + np.inf), ValueError, "finite and at least 0, got inf"),
        (lambda: reduce_losses(TWO, "sum", weights=TWO + np.nan), ValueError, "finite and at least 0, got nan"),
        (
            lambda: reduce_losses(TWO, "sum", weights=mg.tensor(TWO, requires_grad=True)),
            TypeError,
            "no derivative by weights; pass weights through stop_gradient",
        ),
        (lambda: reduce_losses(TWO, "sum", lengths=[3, 4]), ValueError, "between 0 and the 3 steps there are, got 4"),
        (lambda: reduce_losses(TWO, "sum", lengths=[3]), ValueError, "got 1 lengths for 2 rows"),
        (lambda: reduce_losses(TWO, "sum", lengths=[1.0, 2.0]), TypeError, "lengths are integers"),
        (
            lambda: sequence_loss(absolute_error, TWO, TWO.T, "sum"),
            ValueError,
            r"with the same B and T, got shapes \(2, 3\) and \(3, 2\)",
        ),
        (lambda: sequence_loss(absolute_error, TWO[0], TWO[0], "sum"), ValueError, r"\(B, T, \.\.\.\)"),
        (
            lambda: sequence_loss(binary_cross_entropy, TWO[..., None], TWO[..., None], "sum"),
            ValueError,
            r"binary_cross_entropy gave losses of shape \(2, 3, 1\), needed is one for each position, \(2, 3\)",
        ),
        (lambda: sequence_loss(mean_squared_error, TWO, TWO, "sum"), ValueError, r"gave losses of shape \(2,\)"),
        (lambda: binary_cross_entropy(TWO, TWO[..., None]), ValueError, r"need targets of this shape, got \(2, 3, 1\)"),
        (lambda: binary_cross_entropy(TWO, TWO - 1), ValueError, r"probabilities in \[0, 1\], got -1"),
        (lambda: binary_cross_entropy(TWO, TWO + 255), ValueError, r"probabilities in \[0, 1\], got 255"),
        (lambda: binary_cross_entropy(TWO, TWO + np.nan), ValueError, r"probabilities in \[0, 1\], got nan"),
        (lambda: reduce_losses(TWO, "sum", weights=TWO + 1e308), ValueError, "a finite sum, got 6 of up to 1e\\+308"),
        (lambda: perplexity([1, 2], 2), TypeError, "the total is one number, a sum, got a list; add it up first"),
        (lambda: perplexity(1.0, None), TypeError, "the number of tokens is one number, a sum, got a NoneType"),
        (lambda: bits_per_character("1", 2), TypeError, "the total is one number, a sum, got a str"),
        (lambda: binary_cross_entropy([1, 2], [0, 1]), TypeError, "logits are floating, got int64"),
        (lambda: mean_squared_error(TWO, TWO[..., None]), ValueError, r"need targets of this shape, got \(2, 3, 1\)"),
        (lambda: mean_squared_error(TWO, TWO + 1j), TypeError, "targets are real numbers, got complex128"),
        (lambda: binary_cross_entropy(TWO, TWO * 1j), TypeError, "targets are real numbers, got complex128"),
        (lambda: mean_squared_error(1.0, 2.0), ValueError, r"with a feature at least, got shape \(\)"),
        (
            lambda: mean_squared_error(TWO[:, :0], TWO[:, :0]),
            ValueError,
            r"with a feature at least, got shape \(2, 0\)",
        ),
        (lambda: perplexity(1.0, 0), ValueError, "the number of tokens is above 0, got 0"),
        (lambda: bits_per_character(1.0, 0), ValueError, "the number of characters is above 0, got 0"),
        (lambda: perplexity(1.0, -2), ValueError, "above 0, got -2"),
        (lambda: perplexity(1.0, math.nan), ValueError, "above 0, got nan"),
        (lambda: perplexity(TWO, 6), ValueError, r"the total is one number, a sum, got an array of shape \(2, 3\)"),
        (lambda: bits_per_character(1.0, TWO), ValueError, "the number of characters is one number"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- metrics -------------------------------------------------------------------------------------------------------


def test_perplexity_and_bits_per_character_take_sums(backend):
    """Over two batches of different sizes: sums add up, and means would not."""
    losses = [mg.tensor([[1.0, 2.0, 3.0]]), mg.tensor([[6.0]])]
    total = sum(reduce_losses(part, "sum") for part in losses)
    for nats in (total, total.data, total.item()):
        assert perplexity(nats, 4) == math.exp(3.0)
        assert bits_per_character(nats, np.int64(4)) == 3.0 / math.log(2)
    assert type(perplexity(total, 4)) is float


def test_the_perplexity_of_a_guess_is_the_number_of_choices():
    logits, labels = np.zeros((2, 5, 7)), np.zeros((2, 5), int)
    total = sequence_loss(mg.cross_entropy, logits, labels, "sum", lengths=[5, 2])
    assert perplexity(total, 7) == pytest.approx(7.0, rel=1e-14)
    assert bits_per_character(total, 7) == pytest.approx(math.log2(7), rel=1e-14)


def test_a_perplexity_beyond_the_largest_float_is_inf():
    assert perplexity(1e6, 1) == math.inf
    assert perplexity(math.inf, 1) == math.inf
    assert math.isnan(perplexity(math.nan, 1))
