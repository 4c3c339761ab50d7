"""Losses of sequences, and the metrics made from them: every denominator is named.

A per-position loss maps predictions and targets (B, T, ...) to losses (B, T), as `minigrad.cross_entropy` and the two
here do; it takes no mean over positions. `reduce_losses` makes one number of them by the reduction that is asked for:

    "sum"                 sum of w * loss
    "per_token"           sum of w * loss / sum of w
    "per_sequence"        sum of w * loss / B
    "per_example_mean"    mean over the B rows of (sum of w * loss / sum of w) within each row

over all positions with their weights w, 1 without any; 0 / 0 is 0. `sequence_loss` also keeps padding out of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.module import moved
from minigrad.ops import astype, divide, mean, multiply, sequence_mask, softplus, square, subtract, sum, where
from minigrad.ops.op import as_value, boxed_like, is_abstract, untracked
from minigrad.ops.sequence import as_lengths
from minigrad.tape import Array, Box, Value, constant

Reduction = Literal["sum", "per_token", "per_sequence", "per_example_mean"]

# ---- losses at each position ---------------------------------------------------------------------------------------


def binary_cross_entropy(logits: Any, targets: Any) -> Any:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)): logits x and targets t in [0, 1] (...) to losses (...) in nats.

    It has no cancellation: small losses are as exact as large ones. Integer and boolean targets are taken in the dtype
    of the logits. Several labels a position, (B, T, labels), give one loss each: take their sum, or their mean.
    An infinite logit costs 0 where the target agrees with it, and else inf.
    Raises ValueError for targets that are NaN or outside [0, 1], or of another shape than the logits; on a device the
    check waits.

    >>> import minigrad as mg
    >>> mg.nn.binary_cross_entropy([0.0, 3.0], [1, 0])
    array([0.69314718, 3.04858735])
    """
    name = "nn.binary_cross_entropy"
    targets = _real(name, targets)
    low, high = _range(constant(targets))
    if not (low >= 0 and high <= 1):  # NaN neither
        raise ValueError(f"minigrad.{name}: targets are probabilities in [0, 1], got {high if low >= 0 else low}")
    logits, targets = _pair(name, "logits", logits, targets)
    return _weighted_softplus(-logits, targets) + _weighted_softplus(logits, 1 - targets)


def _weighted_softplus(x: Value, p: Value) -> Value:
    """p * softplus(x), which is 0 for p = 0 even where x is inf: there the largest finite number does as well."""
    largest = float(np.finfo(x.dtype).max)
    return softplus(where(x == math.inf, where(p == 0, largest, x), x)) * p


def mean_squared_error(predictions: Any, targets: Any) -> Any:
    """The mean of (prediction - target) ** 2 over the last axis: both (..., features), to losses (...).

    Integer and boolean targets are taken in the dtype of the predictions. Raises ValueError for targets of another
    shape, or without features.

    >>> import minigrad as mg
    >>> mg.nn.mean_squared_error([[1.0, 2.0], [0.0, 0.0]], [[1.0, 0.0], [3.0, 1.0]])
    array([2., 5.])
    """
    predictions, targets = _pair("nn.mean_squared_error", "predictions", predictions, targets)
    if not predictions.shape or predictions.shape[-1] == 0:
        raise ValueError(
            f"minigrad.nn.mean_squared_error: predictions are (..., features) with a feature at least, got shape "
            f"{tuple(predictions.shape)}"
        )
    return mean(square(subtract(predictions, targets)), axis=-1)


def _pair(name: str, what: str, predictions: Any, targets: Any) -> tuple[Value, Value]:
    """Floating predictions, and targets of their shape, on their backend."""
    predictions = as_value(name, predictions)
    if predictions.dtype.kind != "f":
        raise TypeError(f"minigrad.{name}: {what} are floating, got {predictions.dtype}; convert them with astype")
    targets = _real(name, targets)
    if targets.shape != predictions.shape:  # (B, T) against (B, T, 1) would broadcast
        raise ValueError(
            f"minigrad.{name}: {what} of shape {tuple(predictions.shape)} need targets of this shape, "
            f"got {tuple(targets.shape)}"
        )
    if targets.dtype.kind in "iub":
        targets = boxed_like(constant(targets).astype(predictions.dtype), targets)
    if not isinstance(targets, Box) and not is_abstract(targets):
        targets = backend_of(constant(predictions)).asarray(targets)
    return boxed_like(predictions, targets), targets


def _real(name: str, targets: Any) -> Value:
    targets = as_value(name, targets)
    if targets.dtype.kind not in "iubf":
        raise TypeError(f"minigrad.{name}: targets are real numbers, got {targets.dtype}")
    return targets


def _range(array: Array) -> tuple[float, float]:
    """The least and the greatest element, where there are any to look at; those on a device are waited for."""
    if is_abstract(array) or not math.prod(array.shape):
        return 0.0, 0.0
    xp = backend_of(array).xp
    return float(xp.min(array)), float(xp.max(array))


# ---- from losses to one number -------------------------------------------------------------------------------------


def sequence_loss(
    loss: Callable[[Any, Any], Any],
    predictions: Any,
    targets: Any,
    reduction: Reduction,
    *,
    weights: Any = None,
    lengths: Any = None,
) -> Any:
    """The loss of a batch of sequences, one number: predictions and targets (B, T, ...), reduced as the name says.

    loss: a per-position loss, `loss(predictions, targets)` to (B, T): `minigrad.cross_entropy`, or any.
    reduction: one of "sum", "per_token", "per_sequence", "per_example_mean", see `minigrad.nn.losses`.
    weights: numbers from 0, or a boolean mask, (B, T); they have no derivative. With numbers the sums are float64, so
        that weights of any size have their ratios; the loss is of the dtype of the losses.
    lengths: an integer for each row, 0 to T; positions behind it have the weight 0.

    At a position of weight 0 the loss is given zeros, whatever stands there: labels out of range, NaN or inf change
    neither value nor gradients, and the gradient of such a prediction is 0. Without any weight above 0 the loss is 0.
    Raises ValueError for an unknown reduction, and for shapes, weights or lengths that do not fit; TypeError for losses
    that are not floating or weights that want a gradient. Weights on a device are waited for.
    Source: `sequence_loss` in TensorFlow r0.11, which is "per_example_mean" with `minigrad.cross_entropy`.

    >>> import minigrad as mg, numpy as np
    >>> logits = np.zeros((2, 3, 4))
    >>> labels = [[2, 0, 3], [1, -1, -1]]
    >>> float(mg.nn.sequence_loss(mg.cross_entropy, logits, labels, "per_sequence", lengths=[3, 1]) / np.log(4))
    2.0
    """
    name = "nn.sequence_loss"
    _check_reduction(name, reduction)
    predictions = as_value(name, predictions)
    targets = as_value(name, targets)
    shape = tuple(predictions.shape[:2])
    if len(shape) < 2 or targets.shape[:2] != shape:
        raise ValueError(
            f"minigrad.{name}: predictions and targets are (B, T, ...) with the same B and T, got shapes "
            f"{tuple(predictions.shape)} and {tuple(targets.shape)}"
        )
    w = _weights(name, predictions, weights, lengths)
    if weights is not None or lengths is not None:
        predictions, targets = _kept(predictions, w), _kept(targets, w)
    losses = as_value(name, loss(predictions, targets))
    if losses.shape != shape:
        what = getattr(loss, "__name__", type(loss).__name__)
        raise ValueError(
            f"minigrad.{name}: {what} gave losses of shape {tuple(losses.shape)}, needed is one for each position, "
            f"{shape}; sum or average them over the other axes"
        )
    return boxed_like(_reduced(name, losses, reduction, w), weights, lengths)


def reduce_losses(losses: Any, reduction: Reduction, *, weights: Any = None, lengths: Any = None) -> Any:
    """Losses (B, T), already computed, to one number; the arguments are those of `sequence_loss`.

    At a position of weight 0 the loss may be NaN or inf, and gets the gradient 0. What it was computed from was part of
    the arithmetic, though: `sequence_loss` keeps that out, too. Raises as `sequence_loss` does.

    >>> import minigrad as mg, numpy as np
    >>> losses = np.array([[1.0, 3.0], [5.0, np.nan]])
    >>> float(mg.nn.reduce_losses(losses, "per_token", lengths=[2, 1]))
    3.0
    >>> float(mg.nn.reduce_losses(losses, "per_example_mean", lengths=[2, 1]))  # of the rows' means 2 and 5
    3.5
    """
    name = "nn.reduce_losses"
    _check_reduction(name, reduction)
    losses = as_value(name, losses)
    if len(losses.shape) != 2:
        raise ValueError(
            f"minigrad.{name}: losses are (B, T), one for each position, got shape {tuple(losses.shape)}; sum or "
            "average them over the other axes first"
        )
    w = _weights(name, losses, weights, lengths)
    return boxed_like(_reduced(name, losses, reduction, w), weights, lengths)


def _reduced(name: str, losses: Value, reduction: Reduction, w: Array) -> Value:
    if losses.dtype.kind != "f":
        raise TypeError(f"minigrad.{name}: losses are floating, got {losses.dtype}; convert them with astype")
    wide = np.dtype("float32" if w.dtype.kind == "b" else "float64")
    if losses.dtype.itemsize < wide.itemsize:  # float16 sums overflow at 65504, and float32 cannot hold all weights
        return astype(_reduced(name, astype(losses, wide), reduction, w), losses.dtype)
    B = losses.shape[0]
    w = astype(moved(w, constant(losses)), losses.dtype)
    totals = sum(multiply(_kept(losses, w), w), axis=1)
    if reduction == "per_example_mean":
        totals = _ratio(totals, sum(w, axis=1))
    total = sum(totals)
    if reduction == "sum":
        return total
    if reduction == "per_token":
        return _ratio(total, sum(w))
    return divide(total, float(max(B, 1)))


def _ratio(total: Value, count: Array) -> Value:
    """total / count, and 0 where nothing was counted: the total is 0 there."""
    return divide(total, where(count == 0, 1.0, count))


def _kept(x: Value, w: Array) -> Value:
    """x (B, T, ...) where the weight is not 0, and 0 elsewhere: in the arithmetic, 0 * nan would be nan."""
    mask = moved(w, constant(x)) != 0
    return where(mask.reshape(*w.shape, *(1,) * (len(x.shape) - 2)), x, False)


def _weights(name: str, like: Value, weights: Any, lengths: Any) -> Array:
    """The weight of each position of `like` (B, T, ...): 0 behind the lengths, 1 by default; on any backend."""
    B, T = like.shape[:2]
    within = np.ones((B, T), bool) if lengths is None else sequence_mask(as_lengths(name, lengths, B, T), T)
    if weights is None:
        return within
    w: Array = untracked(name, "weights", as_value(name, weights))
    if w.shape != (B, T) or w.dtype.kind not in "biuf":
        raise ValueError(
            f"minigrad.{name}: weights are numbers or a boolean mask of shape (B, T) = {(B, T)}, got {w.dtype} of "
            f"shape {tuple(w.shape)}"
        )
    w = where(backend_of(w).asarray(within), w, 0)
    low, high = _range(w)
    if not (low >= 0 and high < math.inf):
        raise ValueError(f"minigrad.{name}: weights are finite and at least 0, got {high if low >= 0 else low}")
    if not high * math.prod(w.shape) < math.inf:
        raise ValueError(f"minigrad.{name}: weights have a finite sum, got {B * T} of up to {high}; make them smaller")
    return w


def _check_reduction(name: str, reduction: Any) -> None:
    known = get_args(Reduction)
    if reduction not in known:
        raise ValueError(f"minigrad.{name}: reduction is one of {', '.join(map(repr, known))}, got {reduction!r}")


# ---- metrics: of sums, never of means ------------------------------------------------------------------------------


def perplexity(total: Any, tokens: Any) -> float:
    """e ** (total / tokens), of the sum of the losses in nats and the number of tokens that they are losses of.

    Means of batches of different sizes cannot be averaged; so it takes sums, which add up over batches.
    Raises ValueError for a count that is not above 0, or an array of more than one number; TypeError for no number.

    >>> import minigrad as mg, math
    >>> mg.nn.perplexity(10 * math.log(4), 10)
    4.0
    """
    nats = _mean("nn.perplexity", "tokens", total, tokens)
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def bits_per_character(total: Any, characters: Any) -> float:
    """total / characters / log 2, of the sum of the losses in nats and the number of characters of the text.

    A token may be more than one character, or less: the count is the text's. Raises ValueError for a count that is not
    above 0, or an array of more than one number; TypeError for no number.

    >>> import minigrad as mg, math
    >>> mg.nn.bits_per_character(10 * math.log(4), 10)
    2.0
    """
    return _mean("nn.bits_per_character", "characters", total, characters) / math.log(2)


def _mean(name: str, unit: str, total: Any, count: Any) -> float:
    nats, number = _number(name, "the total", total), _number(name, f"the number of {unit}", count)
    if not 0 < number < math.inf:
        raise ValueError(f"minigrad.{name}: the number of {unit} is above 0, got {number:g}; nothing has no mean loss")
    return nats / number


def _number(name: str, what: str, x: Any) -> float:
    if not isinstance(x, Real) and not hasattr(x, "item"):
        raise TypeError(f"minigrad.{name}: {what} is one number, a sum, got a {type(x).__name__}; add it up first")
    if math.prod(getattr(x, "shape", ())) != 1:
        raise ValueError(f"minigrad.{name}: {what} is one number, a sum, got an array of shape {tuple(x.shape)}")
    return float(x.item() if hasattr(x, "item") else x)


__all__ = [
    "binary_cross_entropy",
    "bits_per_character",
    "mean_squared_error",
    "perplexity",
    "reduce_losses",
    "sequence_loss",
]
