"""Decoding: sequences of tokens from a model that scores the next one.

The model is a step function and its first state, so that every model fits: one of `nn`, or plain NumPy.

    step(tokens, state, context) -> (logits, state)

    tokens     the token before, integers (B,), an array of the backend of the state's first leaf
    state      a pytree, every leaf with its rows on axis 0
    context    what the step reads and never changes, a pytree with rows on axis 0; None where there is none
    logits     the score of each token that may be next, floating (B, V); -inf says that it is impossible

A step is pure: it returns a new state, and leaves its arguments as they are. Its rows are apart: what it gives for one
does not depend on the others. It runs under `no_grad`, and what comes back is decided on the host in float64, with sums
of log-probabilities: their products would underflow. A row that has ended goes on in the batch with its last token,
and what the step makes of it is not looked at.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from minigrad import random, tree
from minigrad.backend import backend_of
from minigrad.nn.initialisers import seed_for
from minigrad.nn.module import as_size
from minigrad.ops import log_softmax, take
from minigrad.ops.op import as_value
from minigrad.tape import constant, no_grad

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""A function `(tokens, state, context) -> (logits, state)`."""

Host = np.ndarray[Any, Any]

IMPOSSIBLE = -math.inf  # the logarithm of probability 0


class Decoded(NamedTuple):
    """One sequence a row, as NumPy arrays.

    >>> import numpy as np
    >>> from minigrad.nn import decoding
    >>> table = np.log([[0.3, 0.7], [0.6, 0.4]])  # p(next token | token)
    >>> found = decoding.greedy(lambda tokens, *_: (table[tokens], ()), (), start=[0, 1], end=1, max_length=9)
    >>> found.tokens.tolist(), found.lengths.tolist(), found.finished.tolist()
    ([[1, 1], [0, 1]], [1, 2], [True, True])
    """

    tokens: Host
    """int64 (B, L), without the start, with the end; after it the end again. L is the longest made."""
    lengths: Host
    """int64 (B,): how many tokens the row made, its end among them."""
    log_probs: Host
    """float64 (B,): the log-probability that the model gives to these tokens, their sum."""
    finished: Host
    """bool (B,): whether the row reached its end."""


class Beams(NamedTuple):
    """W sequences a row, the best first, as NumPy arrays.

    Where a row has fewer than W sequences, those that are missing stand last, with log_prob and score -inf, length 0.

    >>> import numpy as np
    >>> from minigrad.nn import decoding
    >>> table = np.log([[0.7, 0.3], [0.7, 0.3]])  # p(next token | token)
    >>> found = decoding.beam(lambda tokens, *_: (table[tokens], ()), (), start=[0], end=1, max_length=2, width=4)
    >>> found.tokens[0].tolist(), found.lengths[0].tolist(), np.exp(found.log_probs[0]).round(2)
    ([[0, 0], [1, 1], [0, 1], [1, 1]], [2, 1, 2, 0], array([0.49, 0.3 , 0.21, 0.  ]))
    """

    tokens: Host
    """int64 (B, W, L), as in `Decoded`."""
    lengths: Host
    """int64 (B, W)."""
    log_probs: Host
    """float64 (B, W), as in `Decoded`."""
    scores: Host
    """float64 (B, W), descending: log_probs over the length penalty."""
    finished: Host
    """bool (B, W)."""


def greedy(step: Step, state: Any, context: Any = None, *, start: Any, end: int | None, max_length: int) -> Decoded:
    """The best token each time, until a row's `end`, or `max_length` tokens. Of equal ones the lowest is taken.

    `start` is what the first step reads: a token, or integers (B,), one for each row. `end` is the token that ends a
    row, None where none does. Decoding stops as soon as all rows have ended.

    Raises TypeError and ValueError for arguments and logits that are not as above, for a NaN or +inf among the logits
    of a row that has not ended, and for such a row without a possible token; IndexError for a negative token, and for
    an end that has no logit. A start may have none: it is read, and need not be said.

    >>> import numpy as np
    >>> from minigrad.nn import decoding
    >>> table = np.log([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]])  # p(next token | token)
    >>> def step(tokens, state, context):
    ...     return table[tokens], state
    >>> decoded = decoding.greedy(step, np.zeros((1, 0)), start=0, end=2, max_length=5)
    >>> decoded.tokens, np.exp(decoded.log_probs)
    (array([[1, 2]]), array([0.42]))
    """
    model = _Model("nn.decoding.greedy", step, state, context, start, end, max_length)

    def best(logits: Host, t: int) -> Host:
        return np.asarray(np.argmax(logits, axis=1))

    return _one_a_row(model, best)


def sample(
    step: Step,
    state: Any,
    context: Any = None,
    *,
    start: Any,
    end: int | None,
    max_length: int,
    seed: int | Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Decoded:
    """Tokens drawn from softmax(logits / temperature), with `top_k` from the k best alone (of equal ones the lowest).

    The draws are a function of the seed, the step and the row, on every backend: they depend neither on how long other
    rows go on, nor on rows that follow. So one seed gives the rows of one batch different draws, and every batch the
    same ones: give each batch its own, [seed, batch] for instance.

    `log_probs` are those of the model itself, softmax(logits), whatever the temperature and top_k.
    The other arguments and errors are those of `greedy`. ValueError for a temperature that is not above 0, and for a
    top_k outside of 1..V; TypeError for a seed that is none.
    Sources: Ackley et al., "A learning algorithm for Boltzmann machines" (1985), for the temperature; Fan et al.,
    "Hierarchical neural story generation" (2018), for top-k.

    >>> import numpy as np
    >>> from minigrad.nn import decoding
    >>> table = np.log([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]])  # p(next token | token)
    >>> def step(tokens, state, context):
    ...     return table[tokens], state
    >>> decoding.sample(step, np.zeros((2, 0)), start=0, end=2, max_length=5, seed=0).tokens
    array([[1, 1, 2],
           [1, 2, 2]])
    """
    model = _Model("nn.decoding.sample", step, state, context, start, end, max_length)
    random.as_seeds(seed)  # None will not do: a draw is asked for by its seed
    key = seed_for(seed, "nn.decoding.sample")
    if not (_is_finite(temperature) and temperature > 0):
        raise ValueError(
            f"minigrad.{model.name}: temperature is a number above 0, got {temperature!r}; the best token each time, "
            "the limit at 0, is greedy(...)"
        )
    k = None if top_k is None else as_size(f"minigrad.{model.name}", "top_k", top_k)

    def drawn(logits: Host, t: int) -> Host:
        with np.errstate(over="ignore"):  # too far below the best for a float is as good as impossible
            scaled = _below_best(logits) / float(temperature)
        if k is not None:
            if k > logits.shape[1]:
                raise ValueError(f"minigrad.{model.name}: top_k is 1..{logits.shape[1]}, the vocabulary, got {k}")
            np.put_along_axis(scaled, _ranked(logits)[:, k:], IMPOSSIBLE, axis=1)
        return np.asarray(random.categorical(scaled, (*key, t)).data)

    return _one_a_row(model, drawn)


def beam(
    step: Step,
    state: Any,
    context: Any = None,
    *,
    start: Any,
    end: int | None,
    max_length: int,
    width: int,
    length_penalty: float = 0.0,
) -> Beams:
    """Beam search: the `width` sequences a row of the highest score that it finds, log_prob / penalty(length).

        penalty(length) = ((5 + length) / 6) ** length_penalty

    Every step extends the open sequences of a row, at most `width`, by each token. Those of the `width` best extensions
    that end are finished: set aside, and never extended. The `width` best of those that do not end stay open; at
    max_length they compete as they are. A row is done when none of its open sequences can score better than its
    `width` best finished ones, however it goes on. Of equal scores the one that finished first is first; of equal
    tokens the lowest.

    A beam as wide as there are sequences finds the best exactly. A beam of width 1 without a length penalty is
    `greedy`; with one it may be longer, for it goes on past an end while that can pay.

    `state` and `context` have B rows, as for `greedy`; the step gets B * width of them, those of one row side by side.
    The other arguments and errors are those of `greedy`. ValueError for a width below 1, and for a length_penalty that
    is negative or beyond floating point.
    Sources: Graves, "Sequence transduction with recurrent neural networks" (2012), and Sutskever et al., "Sequence to
    sequence learning with neural networks" (2014), for beam search; Wu et al., "Google's neural machine translation
    system" (2016), for the penalty.

    >>> import numpy as np
    >>> from minigrad.nn import decoding
    >>> table = np.log([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])  # p(next token | token)
    >>> def step(tokens, state, context):
    ...     return table[tokens], state
    >>> beams = decoding.beam(step, np.zeros((1, 0)), start=0, end=2, max_length=2, width=2)
    >>> beams.tokens, np.exp(beams.log_probs)  # the most probable first token does not begin the best sequence
    (array([[[2, 2],
            [1, 0]]]), array([[0.4, 0.2]]))
    """
    model = _Model("nn.decoding.beam", step, state, context, start, end, max_length)
    width = as_size(f"minigrad.{model.name}", "width", width)
    penalty = _length_penalty(model, length_penalty)
    batch = model.rows
    model.copy_rows(width)

    tokens, prefixes = model.start, np.empty((batch, width, 0), dtype=np.int64)
    totals = np.full((batch, width), IMPOSSIBLE)
    totals[:, 0] = 0.0  # the copies of a row are one sequence, until it is extended
    best = _scored(prefixes[:, :0], totals[:, :0], False, penalty)
    for _ in range(model.max_length):
        active = totals > IMPOSSIBLE
        if not active.any():
            break
        logits = model.logits(tokens.reshape(-1), active.reshape(-1))
        found = _extensions(totals, logits)
        ended = model.ends(found.tokens)

        finished = np.where(ended, found.totals, IMPOSSIBLE)[:, :width]
        sequences = _extended(prefixes, found.parents[:, :width], found.tokens[:, :width])
        best = _best(best, _scored(sequences, finished, True, penalty), width, model.fill)

        unfinished = np.where(ended, IMPOSSIBLE, found.totals)
        order = _ranked(unfinished)[:, :width]
        parents, tokens, totals = [_of_rows(part, order) for part in (found.parents, found.tokens, unfinished)]
        prefixes = _extended(prefixes, parents, tokens)
        model.pick_rows(parents)

        reach = totals / penalty(model.max_length)  # totals can only fall, and the longest is divided by most
        totals[(reach <= best.scores[:, -1:]).all(axis=1)] = IMPOSSIBLE
    best = _best(best, _scored(prefixes, totals, False, penalty), width, model.fill)
    return _without_missing(best, model.fill)


# ---- the model -----------------------------------------------------------------------------------------------------


class _Model:
    """A step function and the state that it is in. What is given and what comes back is checked here."""

    def __init__(
        self, name: str, step: Step, state: Any, context: Any, start: Any, end: int | None, max_length: int
    ) -> None:
        self.name = name
        if not callable(step):
            raise TypeError(
                f"minigrad.{name}: step is a function (tokens, state, context) -> (logits, state), got a "
                f"{type(step).__name__}"
            )
        self.step, self.state, self.context = step, state, context
        self.max_length = as_size(f"minigrad.{name}", "max_length", max_length)
        self.end = None if end is None else self._token("end", end)
        self.fill = 0 if self.end is None else self.end  # what stands where no token was made
        self.vocabulary: int | None = None  # known from the first logits on
        self.copies, self.steps = 1, 0

        first = constant(as_value(f"{name}: start", start))
        if first.dtype.kind not in "iu" or len(first.shape) > 1:
            raise TypeError(
                f"minigrad.{name}: start is a token, or integers (B,), got {first.dtype} of shape {tuple(first.shape)}"
            )
        leaves = [*_leaves("state", state), *_leaves("context", context), *([("start", first)] if first.shape else [])]
        self.rows = self._count(leaves)
        self.backend = backend_of(constant(as_value(f"{name}: {leaves[0][0]}", leaves[0][1])))
        self.start = np.empty(self.rows, dtype=np.int64)
        self.start[:] = backend_of(first).to_host(first)
        if (self.start < 0).any():
            raise IndexError(f"minigrad.{name}: tokens are integers from 0, got start {self.start.min()}")

    def _count(self, leaves: list[tuple[str, Any]]) -> int:
        """The number of rows, on which all leaves agree."""
        if not leaves:
            raise ValueError(
                f"minigrad.{self.name}: neither state nor context has an array that tells the number of rows: pass "
                "start as integers (B,), one for each row"
            )
        counts = [self._rows_of(label, leaf) for label, leaf in leaves]
        for (label, _), count in zip(leaves, counts, strict=True):
            if count != counts[0]:
                raise ValueError(
                    f"minigrad.{self.name}: all have their rows on axis 0, got {counts[0]} in {leaves[0][0]} and "
                    f"{count} in {label}"
                )
        return counts[0]

    def _rows_of(self, label: str, leaf: Any) -> int:
        shape = getattr(leaf, "shape", ())
        if not shape:
            got = "shape ()" if hasattr(leaf, "shape") else f"a {type(leaf).__name__}"
            raise TypeError(f"minigrad.{self.name}: {label} is an array (B, ...), its rows on axis 0, got {got}")
        return int(shape[0])

    def _token(self, what: str, token: Any) -> int:
        try:
            number = operator.index(token)
        except TypeError:
            number = None
        if number is None or isinstance(token, bool):
            raise TypeError(f"minigrad.{self.name}: {what} is a token or None, got a {type(token).__name__}")
        if number < 0:
            raise IndexError(f"minigrad.{self.name}: tokens are integers from 0, got {what} {number}")
        return number

    def logits(self, tokens: Host, active: Host) -> Host:
        """The logits after these tokens, float64 (rows, V) on the host; 0 in rows that are not active."""
        self.steps += 1
        with no_grad():
            result = self.step(self.backend.asarray(tokens.copy()), self.state, self.context)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"minigrad.{self.name}: step returns (logits, state), got a {type(result).__name__}")
        logits, self.state = result
        for label, leaf in _leaves("state", self.state):
            if self._rows_of(label, leaf) != self.rows:
                raise ValueError(
                    f"minigrad.{self.name}: step got {self.rows} rows on axis 0, and returned {label} of shape "
                    f"{tuple(leaf.shape)}"
                )
        return self._checked(constant(as_value(f"{self.name}: logits", logits)), active)

    def _checked(self, logits: Any, active: Host) -> Host:
        if logits.dtype.kind != "f":
            raise TypeError(f"minigrad.{self.name}: logits are floating, got {logits.dtype}; convert them with astype")
        shape = tuple(logits.shape)
        if len(shape) != 2 or shape[0] != self.rows or shape[1] == 0 or self.vocabulary not in (None, shape[1]):
            columns = "V" if self.vocabulary is None else self.vocabulary
            raise ValueError(f"minigrad.{self.name}: logits are ({self.rows}, {columns}), got shape {shape}")
        if self.vocabulary is None:
            self._set_vocabulary(shape[1])
        host: Host = np.array(backend_of(logits).to_host(logits), dtype=np.float64, order="C")
        host[~active] = 0.0
        wrong = np.argwhere(np.isnan(host) | (host == math.inf))
        if wrong.size:
            row, token = wrong[0]
            raise ValueError(
                f"minigrad.{self.name}: logits are numbers, or -inf for what is impossible, got {host[row, token]} for "
                f"token {token} in row {row // self.copies} at step {self.steps}"
            )
        stuck = np.flatnonzero((host == IMPOSSIBLE).all(axis=1))
        if stuck.size:
            raise ValueError(
                f"minigrad.{self.name}: every logit is -inf in row {stuck[0] // self.copies} at step {self.steps}: "
                "leave at least one token possible"
            )
        return host

    def _set_vocabulary(self, size: int) -> None:
        self.vocabulary = size
        if self.fill >= size:
            raise IndexError(
                f"minigrad.{self.name}: the logits are over {size} tokens, 0..{size - 1}, got end {self.fill}"
            )

    def ends(self, tokens: Host) -> Host:
        """Where these tokens end their sequence."""
        return np.zeros(tokens.shape, dtype=bool) if self.end is None else tokens == self.end

    def copy_rows(self, copies: int) -> None:
        """Let every row stand `copies` times, side by side."""
        index = np.repeat(np.arange(self.rows), copies)
        self.context = _taken(self.context, index)
        self.state = _taken(self.state, index)
        self.start = self.start[index]
        self.rows, self.copies = len(index), copies

    def pick_rows(self, parents: Host) -> None:
        """Go on from the state of these copies (B, copies) of every row. The context of a row's copies is the same."""
        first = np.arange(0, self.rows, self.copies)
        self.state = _taken(self.state, (first[:, None] + parents).reshape(-1))


def _leaves(what: str, part: Any) -> list[tuple[str, Any]]:
    return [(f"{what}{path}", leaf) for path, leaf in zip(tree.paths(part), tree.flatten(part)[0], strict=True)]


def _taken(part: Any, index: Host) -> Any:
    with no_grad():
        return tree.map(lambda leaf: take(leaf, index, axis=0), part)


# ---- one sequence a row --------------------------------------------------------------------------------------------


def _one_a_row(model: _Model, choose: Callable[[Host, int], Host]) -> Decoded:
    """The sequences that `choose(logits, t)` makes, a token for each row at step t."""
    tokens = model.start
    columns = [np.empty((model.rows, 0), dtype=np.int64)]
    lengths, log_probs = np.zeros(model.rows, dtype=np.int64), np.zeros(model.rows)
    active = np.ones(model.rows, dtype=bool)
    for t in range(model.max_length):
        if not active.any():
            break
        logits = model.logits(tokens, active=active)
        tokens = np.where(active, choose(logits, t), model.fill)
        chosen = np.take_along_axis(_log_softmax(logits), tokens[:, None], axis=1)[:, 0]
        log_probs += np.where(active, chosen, 0.0)
        lengths += active
        columns.append(tokens[:, None])
        active = active & ~model.ends(tokens)
    return Decoded(np.concatenate(columns, axis=1), lengths, log_probs, ~active)


def _below_best(logits: Host) -> Host:
    """By how much each token is below the best of its row."""
    with np.errstate(over="ignore"):  # too far below for a float is as good as impossible
        return np.asarray(logits - logits.max(axis=1, keepdims=True))


def _log_softmax(logits: Host) -> Host:
    """The log-probabilities; the best is at 0 before, for beside a large one the logarithm of the sum would be lost."""
    return np.asarray(log_softmax(_below_best(logits)))


def _ranked(numbers: Host) -> Host:
    """The places along the last axis, the greatest number first; of equal ones the lowest place."""
    return np.argsort(-numbers, axis=-1, kind="stable")


# ---- many sequences a row ------------------------------------------------------------------------------------------


class _Extensions(NamedTuple):
    """Open sequences with a token more, each (B, N), the best first."""

    parents: Host
    tokens: Host
    totals: Host


def _extensions(totals: Host, logits: Host) -> _Extensions:
    """All that may be among the `width` best of a row, or among the `width` best that do not end.

    Of the tokens after a sequence one ends it, so that the `width + 1` best are enough.
    """
    batch, width = totals.shape
    tokens = _ranked(logits)[:, : width + 1]
    log_probs = np.take_along_axis(_log_softmax(logits), tokens, axis=1)
    extended = (totals.reshape(-1, 1) + log_probs).reshape(batch, -1)
    order = _ranked(extended)
    return _Extensions(order // tokens.shape[1], _of_rows(tokens.reshape(batch, -1), order), _of_rows(extended, order))


def _extended(prefixes: Host, parents: Host, tokens: Host) -> Host:
    """The sequences (B, N, t + 1) of these prefixes (B, width, t) and a token more, (B, N) both."""
    return np.concatenate([_of_rows(prefixes, parents), tokens[:, :, None]], axis=2)


def _of_rows(parts: Host, index: Host) -> Host:
    """The sequences (B, N, ...) of each row at its places, index (B, M)."""
    return np.asarray(parts[np.arange(len(index))[:, None], index])


def _scored(tokens: Host, totals: Host, finished: bool, penalty: Callable[[int], float]) -> Beams:
    length = tokens.shape[2]
    return Beams(
        tokens,
        np.full(totals.shape, length, dtype=np.int64),
        totals,
        totals / penalty(length),
        np.full(totals.shape, finished),
    )


def _best(found: Beams, more: Beams, width: int, fill: int) -> Beams:
    """The best `width` of both; of equal scores those found before come first."""
    longer = np.full((*found.tokens.shape[:2], more.tokens.shape[2]), fill)
    longer[:, :, : found.tokens.shape[2]] = found.tokens
    both = [np.concatenate(pair, axis=1) for pair in zip(found._replace(tokens=longer), more, strict=True)]
    scores = both[3]
    order = _ranked(scores)[:, :width]
    return Beams(*[_of_rows(part, order) for part in both])


def _without_missing(beams: Beams, fill: int) -> Beams:
    """Sequences of probability 0 are none."""
    missing = beams.scores == IMPOSSIBLE
    lengths = np.where(missing, 0, beams.lengths)
    tokens = np.where(missing[:, :, None], fill, beams.tokens)[:, :, : lengths.max(initial=0)]
    return beams._replace(tokens=tokens, lengths=lengths, finished=beams.finished & ~missing)


def _is_finite(number: Any) -> bool:
    return isinstance(number, Real) and math.isfinite(number)


def _length_penalty(model: _Model, exponent: Any) -> Callable[[int], float]:
    if not (_is_finite(exponent) and exponent >= 0):
        raise ValueError(
            f"minigrad.{model.name}: length_penalty is a number from 0, got {exponent!r}; 0 is none, more favours "
            "longer sequences"
        )
    alpha = float(exponent)

    def penalty(length: int) -> float:
        return float(((5 + length) / 6) ** alpha)

    try:
        penalty(model.max_length)
    except OverflowError:
        raise ValueError(
            f"minigrad.{model.name}: length_penalty {exponent!r} is beyond floating point at max_length "
            f"{model.max_length}; usual ones are below 2"
        ) from None
    return penalty


__all__ = ["Beams", "Decoded", "beam", "greedy", "sample"]
