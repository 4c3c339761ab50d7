"""Dropout around a cell: on its input, its output and its h."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import numpy as np

from minigrad import random, tree
from minigrad.backend import backend_of, use_backend
from minigrad.nn.hidden import map_hidden
from minigrad.nn.initialisers import Seed, seed_for
from minigrad.nn.module import as_flag
from minigrad.nn.run import Run
from minigrad.nn.wrappers import Wrapper
from minigrad.ops.op import as_value
from minigrad.tape import Array, constant


class Dropout(Wrapper):
    """A cell with dropout: in training each element is 0 with the given probability, or divided by 1 - probability.

    `input` and `output` are the probabilities for every leaf of the cell's input and output. `state` is that for h as
    the cell reads it, the first one included: the whole of a state that is one array, the field h of an LSTM's, whose
    memory c is never dropped; in a Deep's, that of every layer. The state that is handed on is what the cell made.
    Masks are new at every step, or with `per_sequence=True` the same at all steps of a run (and other ones for every
    row). They are a function of the seed alone, whatever the backend. A net that draws is driven with `training=True`
    and a seed, a new one for every batch, or with `training=False`, which draws nothing and scales nothing.

    Raises ValueError for a probability outside [0, 1), TypeError for something to drop that is not floating.
    Sources: Srivastava et al., "Dropout" (2014); Zaremba et al., "Recurrent neural network regularization" (2014), for
    input and output; Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks"
    (2016), for `per_sequence` and the state.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.dropout import Dropout
    >>> cell = Dropout(mg.nn.GRUCell(3, 4, seed=0), output=0.5)
    >>> outputs, _ = mg.nn.dynamic_rnn(cell, np.ones((2, 5, 3), dtype="float32"), training=True, seed=1)
    >>> bool((outputs == 0).any())
    True
    """

    def __init__(
        self, cell: Any, input: float = 0.0, output: float = 0.0, state: float = 0.0, per_sequence: bool = False
    ) -> None:
        super().__init__(cell)
        self.input = _as_rate("input", input)
        self.output = _as_rate("output", output)
        self.state = _as_rate("state", state)
        self.per_sequence = as_flag("Dropout", "per_sequence", per_sequence)

    def prepared(self, run: Run) -> Any:
        cell = run.cell(self.cell, "cell")
        if not (self.input or self.output or self.state) or not run.draws("Dropout"):
            return cell
        masks = _Masks(run.seed, self.per_sequence)

        def step(x: Any, state: Any) -> tuple[Any, Any]:
            if self.state:
                state = map_hidden("Dropout", lambda h: masks.dropped("state", h, self.state), state)
            output, state = cell(masks.dropped("input", x, self.input), state)
            return masks.dropped("output", output, self.output), state

        return step


def _as_rate(what: str, rate: Any) -> float:
    if not isinstance(rate, int | float | np.floating) or not 0 <= rate < 1:
        raise ValueError(f"Dropout: {what} is the probability that an element is dropped, in [0, 1), got {rate!r}")
    return float(rate)


class _Masks:
    """The masks of a run: drawn where they are used, or for a whole sequence once, as outside of its scan."""

    def __init__(self, seed: Seed, per_sequence: bool) -> None:
        self.seed = seed
        self.outside = copy_context() if per_sequence else None
        self.kept: dict[Any, Array] = {}

    def dropped(self, what: str, values: Any, rate: float) -> Any:
        """A pytree with its elements dropped, each leaf by a mask of its own."""
        if not rate:
            return values
        leaves, structure = tree.flatten(values)
        named = zip(leaves, structure.paths(), strict=True)
        return structure.build([self._of_leaf(what + path, leaf, rate) for leaf, path in named])

    def _of_leaf(self, name: str, leaf: Any, rate: float) -> Any:
        leaf = as_value("Dropout", leaf)
        if leaf.dtype.kind != "f":
            raise TypeError(f"Dropout drops floating values, got {name} of dtype {leaf.dtype}: drop after an Embedding")
        return leaf * self._mask(name, leaf, 1.0 - rate)

    def _mask(self, name: str, like: Any, keep: float) -> Any:
        """0, or 1 / keep with probability keep, in the shape and dtype of a leaf."""
        shape, dtype, seed = tuple(like.shape), like.dtype, seed_for(self.seed, name)
        if self.outside is None:
            return random.bernoulli(shape, seed, keep, dtype) / keep
        key = (name, shape, dtype.char)
        if key not in self.kept:
            drawn = self.outside.run(_drawn_on_the_host, shape, seed, keep, dtype)
            self.kept[key] = backend_of(constant(like)).asarray(drawn)
        return self.kept[key] / keep


def _drawn_on_the_host(shape: tuple[int, ...], seed: tuple[int, ...], keep: float, dtype: Any) -> Array:
    """A draw that is moved to where it is used, whatever the default backend is."""
    with use_backend("numpy"):
        return constant(random.bernoulli(shape, seed, keep, dtype))
