"""Sequence to sequence, and vector to sequence: an encoder, and a decoder that writes what it is told about.

One function is a step of the decoder. Training runs it with `scan` over the whole target, and `Seq2Seq.stepper` gives
it to the functions of `minigrad.nn.decoding`: what was trained is what decodes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from minigrad import random, tree
from minigrad.backend import backend_of
from minigrad.nn.attention import AdditiveAttention, Attention, DotAttention
from minigrad.nn.context import Bridge, Given, bias_of, fits, joined, summary_of, width_of, with_bias
from minigrad.nn.hidden import hidden_of
from minigrad.nn.initialisers import Seed, glorot_uniform, seed_for
from minigrad.nn.layers import parameter
from minigrad.nn.module import Module, as_input
from minigrad.nn.recurrent import sizes, swapped
from minigrad.nn.run import Run, as_cell, over_time
from minigrad.nn.wrappers import LearnedState
from minigrad.ops import argmax, sequence_mask, where
from minigrad.ops.classification import as_labels
from minigrad.ops.op import as_value
from minigrad.ops.sequence import as_lengths
from minigrad.scan import scan
from minigrad.tape import Array, Value, constant
from minigrad.tensor import Tensor

Context = Literal["init", "every", "both", "bias"]
Step = Callable[[Any, Any], tuple[Any, Any]]


class Predictions(NamedTuple):
    """What a Seq2Seq gives for a batch.

    >>> import minigrad as mg, numpy as np
    >>> net = mg.nn.Seq2Seq(
    ...     mg.nn.Linear(3, 4, seed=0), mg.nn.GRUCell(2, 4, seed=1),
    ...     target=mg.nn.Embedding(5, 2, seed=2), readout=mg.nn.Linear(4, 5, seed=3), start=0,
    ... )
    >>> logits, weights, state = net(np.ones((1, 3), dtype="float32"), targets=[[3, 1]])
    >>> logits.shape, weights, state.shape
    ((1, 2, 5), None, (1, 4))
    """

    logits: Any
    """(B, T, tokens): the scores of every target token, given the source and those before it; 0 past a row's length"""
    weights: Any
    """(B, T, S): how each step's attention was spread over the source; None without attention"""
    state: Any
    """the decoder's state after the last step of each row"""


class Seq2Seq(Module):
    """An encoder and a decoder: the scores of a target's tokens, p(y_t | y_1 ... y_{t-1}, source).

    encoder: a net that `dynamic_rnn` can run over inputs (B, S, ...); or, for vector to sequence, a function of inputs
        (B, ...) to (B, C) with the attribute `outputs` = C, such as a `Linear`.
    decoder: a cell. It reads what `target` makes of a token, joined by what the options below add.
    context: how the decoder learns what was read. "init": its first state is the encoder's last one, by way of an
        affine `bridge` where they differ in size or structure. "every": a summary (B, C), the encoder's last h (of a
        stack or of two directions all, side by side; of a vector what the function gives), is joined to the input of
        every step. "both". "bias": b, the bias of the decoder's cell, becomes b + summary R, row by row; `R` (C, gates
        * units) is learned.
    attention: None, "additive", "dot" or an `Attention`. At every step a mean of the encoder's outputs, asked for by
        the decoder's h before the step, is joined to the input of the cell and to that of `readout`.
    source: what makes vectors of the inputs, such as an `Embedding`; by default they are vectors.
    target, readout: what makes a vector of a token, an `Embedding`; and scores of a step's output, a `Linear`.
    start: the token that stands before the first. Targets are what shall be said: the shift by one is made here.
    seed: of the weights that are made here, those of bridge, R and attention.

    Raises ValueError where sizes do not fit, TypeError for parts that cannot stand where they are.
    Sources: Sutskever et al., "Sequence to sequence learning with neural networks" (2014), init; Cho et al., "Learning
    phrase representations using RNN encoder-decoder" (2014), both; Goodfellow et al., "Deep learning" (2016), section
    10.2.4, bias; Bahdanau et al., "Neural machine translation by jointly learning to align and translate" (2015).

    >>> import minigrad as mg
    >>> net = mg.nn.Seq2Seq(
    ...     mg.nn.Bidirectional(mg.nn.GRUCell(4, 5, seed=0), mg.nn.GRUCell(4, 5, seed=1)),
    ...     mg.nn.LSTMCell(3 + 10, 6, seed=2),
    ...     attention="additive",
    ...     source=mg.nn.Embedding(20, 4, seed=3),
    ...     target=mg.nn.Embedding(9, 3, seed=4),
    ...     readout=mg.nn.Linear(6 + 10, 9, seed=5),
    ...     start=0,
    ... )
    >>> targets = [[7, 8, 1], [5, 1, 0]]
    >>> said = net([[3, 1, 4], [1, 5, 0]], targets, source_length=[3, 2], target_length=[3, 2])
    >>> said.logits.shape, said.weights.shape
    ((2, 3, 9), (2, 3, 3))
    >>> loss = mg.nn.sequence_loss(mg.cross_entropy, said.logits, targets, "per_token", lengths=[3, 2])
    """

    called_as: ClassVar[str] = "net(inputs, targets)"

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        context: Context = "init",
        attention: Literal["additive", "dot"] | Attention | None = None,
        *,
        source: Callable[[Any], Any] | None = None,
        target: Callable[[Any], Any],
        readout: Callable[[Any], Any],
        start: int,
        seed: Seed = None,
    ) -> None:
        if context not in ("init", "every", "both", "bias"):
            raise ValueError(f'Seq2Seq: context is "init", "every", "both" or "bias", got {context!r}')
        self.encoder = _as_encoder(encoder)
        self.decoder = as_cell(
            "Seq2Seq", decoder, "a decoder writes step by step, an encoder may read both ways", "the decoder"
        )
        if isinstance(decoder, LearnedState) and context in {"init", "both"}:
            raise ValueError(
                f'Seq2Seq: with context="{context}" the decoder begins where the encoder ended, and the state that its '
                'LearnedState learns is never read; take it off, or use context="every" or "bias"'
            )
        self.source, self.target, self.readout = source, target, readout
        self.start = _as_token(start)
        self.context = context
        seed = seed_for(seed, "Seq2Seq")
        first = decoder.zero_state(1)
        last = encoder.zero_state(1) if self.reads_sequences else np.zeros((1, encoder.outputs))
        self.bridge = Bridge(last, first, seed) if context in {"init", "both"} and not fits(last, first) else None
        C = 0 if context == "init" else width_of(hidden_of("Seq2Seq", last))
        self.R = _made_R(C, decoder, seed) if context == "bias" else None
        self.attention = self._made_attention(attention, first, seed)
        self._check_sizes(C)

    @property
    def reads_sequences(self) -> bool:
        """Whether the encoder is a net over sequences, and not a function of vectors.

        >>> import minigrad as mg
        >>> mg.nn.Seq2Seq(
        ...     mg.nn.Linear(3, 4), mg.nn.GRUCell(2, 4),
        ...     target=mg.nn.Embedding(5, 2), readout=mg.nn.Linear(4, 5), start=0,
        ... ).reads_sequences
        False
        """
        return hasattr(self.encoder, "zero_state")

    # ---- training ------------------------------------------------------------------------------------------------

    def __call__(
        self,
        inputs: Any,
        targets: Any,
        source_length: Any = None,
        target_length: Any = None,
        *,
        training: bool | None = None,
        seed: Seed = None,
        teacher_forcing: float = 1.0,
        feed: Literal["argmax", "sample"] = "argmax",
    ) -> Predictions:
        """Scores of targets (B, T), integers, given inputs (B, S, ...), or (B, ...) for an encoder of vectors.

        source_length, target_length: an integer for each row, by default S and T. What stands in the padding, of inputs
            or targets, changes no result and gets a gradient of 0.
        training, seed: for parts that draw random numbers, as in `dynamic_rnn`.
        teacher_forcing: the probability that a step reads the true token before it, and not the one that the net would
            have said: 1 is teacher forcing, 0 free running, and between them lies scheduled sampling, which is drawn
            for each row and step. The first step always reads `start`. No gradient passes through what the net says.
        feed: what the net says: its likeliest token, "argmax", or a draw from its distribution, "sample".

        Raises ValueError, TypeError or IndexError for what does not fit, and for draws without a seed.
        Source of scheduled sampling: Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural
        networks" (2015).
        """
        run = Run(training, seed)
        _check_feeding(teacher_forcing, feed, seed)
        state, given = self.encoded(inputs, source_length, run)
        rows = _rows_of(state)
        before, lengths = self._tokens_before(targets, target_length, rows)
        step = self._step(run, given)
        if teacher_forcing == 1:
            x = self.target(before)
        else:
            backend = backend_of(constant(tree.flatten(state)[0][0]))
            x = [backend.asarray(part) for part in (before, _forced(before.shape, teacher_forcing, seed))]
            first = backend.asarray(np.full(rows, self.start, dtype=before.dtype))
            step, state = self._free(step, _said(feed, seed)), (state, first)
        state, (logits, weights) = scan(step, x, state, has_output=True, lengths=lengths)
        if teacher_forcing != 1:
            state = state[0]
        return Predictions(swapped(logits), None if weights is None else swapped(weights), state)

    def encoded(self, inputs: Any, source_length: Any = None, run: Run | None = None) -> tuple[Any, Given]:
        """The decoder's first state, and what all of its steps are given; inputs and lengths as in a call.

        >>> import minigrad as mg, numpy as np
        >>> net = mg.nn.Seq2Seq(
        ...     mg.nn.GRUCell(3, 4, seed=0), mg.nn.GRUCell(2 + 4, 5, seed=1), context="both",
        ...     target=mg.nn.Embedding(6, 2, seed=2), readout=mg.nn.Linear(5, 6, seed=3), start=0, seed=4,
        ... )
        >>> state, given = net.encoded(np.ones((2, 7, 3), dtype="float32"), source_length=[7, 4])
        >>> state.shape, given.summary.shape
        ((2, 5), (2, 4))
        """
        run = run or Run(training=False)
        if self.reads_sequences:
            outputs, last, lengths = self._read(inputs, source_length, run)
        else:
            if source_length is not None:
                raise ValueError("Seq2Seq: the encoder is a function of vectors, which have no source_length")
            last = self._vectors(inputs)
        if self.context in {"init", "both"}:
            state = last if self.bridge is None else self.bridge(last)
        else:
            state = self.decoder.zero_state(_rows_of(last))
        summary = None if self.context == "init" else summary_of(last)
        return state, Given(
            summary if self.context in {"every", "both"} else None,
            None if self.R is None else as_input("Seq2Seq", "a summary", summary, self.R, self.R.shape[0]) @ self.R,
            None if self.attention is None else self.attention.memory(swapped(outputs), lengths),
        )

    def _read(self, inputs: Any, source_length: Any, run: Run) -> tuple[Any, Any, Any]:
        """The encoder's outputs (S, B, ...) and last state, and the checked lengths."""
        # With a source it is one array of tokens, perhaps in lists; without one lists are pytrees, as in dynamic_rnn.
        inputs = tree.map(_as_leaf, inputs) if self.source is None else _as_leaf(inputs)
        rows, steps = sizes("Seq2Seq", inputs, time_major=False)
        lengths = None
        if source_length is not None:
            lengths = as_lengths("nn.Seq2Seq", source_length, rows, steps)
            if self.source is not None:  # which would look at the padding; without one scan leaves it out
                inputs = _without_padding(inputs, lengths)
        elems = inputs if self.source is None else self.source(inputs)
        elems = tree.map(swapped, elems)
        outputs, last, _ = over_time(
            self.encoder, run.part("encoder"), elems, self.encoder.zero_state(rows), lengths, reverse=False
        )
        return outputs, last, lengths

    def _vectors(self, inputs: Any) -> Value:
        vectors = as_value("Seq2Seq", self.encoder(inputs if self.source is None else self.source(inputs)))
        if vectors.shape[1:] != (self.encoder.outputs,):
            raise ValueError(
                f"Seq2Seq: the encoder has outputs={self.encoder.outputs}, so it gives (B, {self.encoder.outputs}), "
                f"got {tuple(vectors.shape)}"
            )
        return vectors

    def _tokens_before(self, targets: Any, target_length: Any, rows: int) -> tuple[Array, Any]:
        """What each step reads (T, B), on the host: `start`, then all targets but the last; and the checked lengths."""
        array = constant(as_value("Seq2Seq", targets))
        array = backend_of(array).to_host(array)
        if len(array.shape) != 2 or array.shape[0] != rows:
            raise ValueError(f"Seq2Seq: targets are (B, T) with the {rows} rows of the inputs, got {array.shape}")
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"Seq2Seq: targets are integers, got dtype {array.dtype}")
        steps = array.shape[1]
        lengths = None if target_length is None else as_lengths("nn.Seq2Seq", target_length, rows, steps)
        before = np.full((steps, rows), self.start, dtype=np.intp)
        before[1:] = array.T[:-1]
        if lengths is not None:
            before[np.arange(steps)[:, None] >= lengths] = self.start
        if hasattr(self.target, "num_tokens"):
            as_labels("nn.Seq2Seq", before, self.target.num_tokens)
        return before, lengths

    # ---- a step ----------------------------------------------------------------------------------------------------

    def _step(self, run: Run, given: Given) -> Step:
        """One step, for `scan`: a state and the vectors of the tokens before to the next state, scores and weights."""
        decoder = self.decoder if given.bias is None else with_bias(self.decoder, given.bias)
        cell = run.cell(decoder, "decoder")

        def step(state: Any, y: Any) -> tuple[Any, Any]:
            read, asked, weights = [y], [], None
            if given.summary is not None:
                read.append(given.summary)
            if self.attention is not None and given.memory is not None:
                mean, weights = self.attention(summary_of(state), given.memory)
                asked = [mean]
            output, state = cell(joined([*read, *asked]), state)
            logits = self.readout(joined([output, *asked]))
            if len(logits.shape) != 2:
                raise ValueError(f"Seq2Seq: readout gives scores (B, tokens), got {tuple(logits.shape)}")
            return state, (logits, weights)

        return step

    def _free(self, step: Step, said: Callable[[Any], Any]) -> Step:
        """A step that reads what the net said before, where it is not told the truth."""

        def free(carry: Any, x: Any) -> tuple[Any, Any]:
            (state, own), (true, forced) = carry, x
            state, (logits, weights) = step(state, self.target(where(forced, true, own)))
            return (state, said(logits)), (logits, weights)

        return free

    def stepper(self, inputs: Any, source_length: Any = None) -> tuple[Callable[..., Any], Any, Given]:
        """`(step, state, context)`, with which `minigrad.nn.decoding` writes targets for inputs; nothing is drawn.

        step(tokens (B,), state, context) gives (logits (B, tokens), state): the very step that training runs.

        >>> import minigrad as mg, numpy as np
        >>> net = mg.nn.Seq2Seq(
        ...     mg.nn.Linear(3, 4, seed=0), mg.nn.GRUCell(2, 4, seed=1), context="bias",
        ...     target=mg.nn.Embedding(5, 2, seed=2), readout=mg.nn.Linear(4, 5, seed=3), start=0, seed=4,
        ... )
        >>> stepper = net.stepper(np.ones((2, 3), dtype="float32"))
        >>> mg.nn.decoding.greedy(*stepper, start=net.start, end=None, max_length=6).tokens.shape
        (2, 6)
        """
        run = Run(training=False)

        def step(tokens: Any, state: Any, context: Given) -> tuple[Any, Any]:
            state, (logits, _) = self._step(run, context)(state, self.target(tokens))
            return logits, state

        return step, *self.encoded(inputs, source_length, run)

    # ---- sizes -----------------------------------------------------------------------------------------------------

    def _made_attention(self, attention: Any, first: Any, seed: Seed) -> Attention | None:
        if attention is None:
            return None
        if not self.reads_sequences:
            raise TypeError("Seq2Seq: attention reads the outputs of an encoder over sequences, not of a function")
        queries, features = width_of(hidden_of("Seq2Seq", first)), getattr(self.encoder, "outputs", None)
        if isinstance(attention, Attention):
            if attention.queries != queries or features not in (None, attention.features):
                raise ValueError(
                    f"Seq2Seq: attention is asked by the decoder's h, {queries} queries, and reads the encoder's "
                    f"{features or 'outputs, of any'} features; got one of {attention.queries} queries and "
                    f"{attention.features} features"
                )
            return attention
        if attention not in ("additive", "dot"):
            raise ValueError(f'Seq2Seq: attention is "additive", "dot", an Attention or None, got {attention!r}')
        if features is None:
            raise ValueError(
                "Seq2Seq: the encoder does not say how many features it gives (its attribute outputs); make the "
                f"attention yourself, nn.{'Dot' if attention == 'dot' else 'Additive'}Attention(queries, features, ...)"
            )
        dtype = tree.flatten(first)[0][0].dtype
        if attention == "dot":
            return DotAttention(queries, features, dtype=dtype, seed=seed)
        return AdditiveAttention(queries, features, units=queries, dtype=dtype, seed=seed)

    def _check_sizes(self, C: int) -> None:
        """Errors here name the sum that is needed; a part that does not tell its size is checked when it is called."""
        asked = {} if self.attention is None else {"attention": self.attention.features}
        summary = {"summary": C} if self.context in {"every", "both"} else {}
        _check("decoder", self.decoder, {"target": _size_of(self.target, "units", "outputs"), **summary, **asked})
        _check("readout", self.readout, {"decoder": _size_of(self.decoder, "outputs"), **asked})
        known, said = _size_of(self.target, "num_tokens"), _size_of(self.readout, "outputs")
        if known is not None and not 0 <= self.start < known:
            raise ValueError(f"Seq2Seq: target knows the tokens 0..{known - 1}, got start={self.start}")
        if known is not None and said is not None and said > known:
            raise ValueError(f"Seq2Seq: readout scores {said} tokens, and target knows {known}: it must know them all")


def _as_encoder(encoder: Any) -> Any:
    if isinstance(encoder, type) or not (hasattr(encoder, "zero_state") or callable(encoder)):
        raise TypeError(f"Seq2Seq: an encoder is a net with zero_state or a function of vectors, got {encoder!r}")
    if not hasattr(encoder, "zero_state") and _size_of(encoder, "outputs") is None:
        name = getattr(encoder, "__name__", type(encoder).__name__)
        raise TypeError(
            f"Seq2Seq: {name} has no zero_state, so it is no net over sequences; a function of vectors that encodes "
            "has an attribute outputs, the size C of the (B, C) that it gives, as a Linear has"
        )
    return encoder


def _as_token(start: Any) -> int:
    if isinstance(start, bool) or not hasattr(start, "__index__"):
        raise TypeError(f"Seq2Seq: start is a token, an integer, got {start!r}")
    return operator.index(start)


def _made_R(C: int, decoder: Any, seed: Seed) -> Tensor:  # noqa: N802  # the name of the weight
    b = bias_of(decoder)
    if b is None:
        raise TypeError(
            f'Seq2Seq: context="bias" adds to the b of the decoder\'s cell, and {type(decoder).__name__} has none; '
            'context="every" does the same for a cell that multiplies its input by a matrix'
        )
    return parameter("R", glorot_uniform((C, b.shape[-1]), seed_for(seed, "R"), b.dtype))


def _size_of(part: Any, *names: str) -> int | None:
    """The first of these attributes that a part has."""
    return next((size for name in names if isinstance(size := getattr(part, name, None), int)), None)


def _check(reader: str, part: Any, given: dict[str, int | None]) -> None:
    """A part that tells how many features it reads gets as many as are joined for it."""
    inputs = _size_of(part, "inputs")
    if inputs is None or None in given.values():
        return
    needed = sum(size for size in given.values() if size is not None)
    if inputs != needed:
        terms = " + ".join(f"{size} ({what})" for what, size in given.items())
        raise ValueError(f"Seq2Seq: {reader} reads {terms} = {needed} features, got one of {inputs}")


# ---- what a step reads ---------------------------------------------------------------------------------------------


def _rows_of(state: Any) -> int:
    return int(tree.flatten(state)[0][0].shape[0])


def _as_leaf(leaf: Any) -> Value:
    return as_value("Seq2Seq", leaf)


def _without_padding(leaf: Value, lengths: Any) -> Value:
    """Tokens or vectors with 0 in the padding, whatever stands there."""
    mask = backend_of(constant(leaf)).asarray(sequence_mask(lengths, leaf.shape[1]))
    return where(mask.reshape(*mask.shape, *[1] * (len(leaf.shape) - 2)), leaf, 0)


def _check_feeding(teacher_forcing: Any, feed: Any, seed: Seed) -> None:
    if not (isinstance(teacher_forcing, int | float | np.number) and 0 <= teacher_forcing <= 1):
        raise ValueError(f"Seq2Seq: teacher_forcing is a probability, from 0 to 1, got {teacher_forcing!r}")
    if feed not in ("argmax", "sample"):
        raise ValueError(f'Seq2Seq: feed is "argmax" or "sample", got {feed!r}')
    drawn = 0 < teacher_forcing < 1 or (feed == "sample" and teacher_forcing < 1)
    if drawn and seed is None:
        raise ValueError(
            'Seq2Seq: scheduled sampling and feed="sample" draw random numbers: pass a seed, and another one for every '
            "batch"
        )


def _forced(shape: tuple[int, ...], teacher_forcing: float, seed: Seed) -> Array:
    """Which steps of which rows read the truth (T, B)."""
    if teacher_forcing == 0:
        return np.zeros(shape, dtype=bool)
    return random.generator(seed_for(seed, "teacher_forcing")).random(shape) < teacher_forcing


def _said(feed: str, seed: Seed) -> Callable[[Any], Any]:
    """What the net says, by its scores (B, tokens): integers (B,), without a gradient."""
    if feed == "argmax":
        return lambda logits: argmax(logits, axis=-1)
    return lambda logits: random.categorical(logits, seed_for(seed, "feed"))
