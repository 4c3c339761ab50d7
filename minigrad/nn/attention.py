"""Attention: a mean of a memory, weighted by how well its parts fit what is asked for.

A memory is prepared once for a batch, by `attention.memory(values, lengths)`, and then asked at every step. Padding is
masked by construction: its values are left out before anything is computed from them, and its weights are exactly 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.initialisers import Seed, glorot_uniform, seed_for, zeros
from minigrad.nn.layers import parameter
from minigrad.nn.module import Module, as_float_dtype, as_input, as_size
from minigrad.ops import expand_dims, matmul, sequence_mask, softmax, squeeze, tanh, where
from minigrad.ops.sequence import as_lengths
from minigrad.tape import Value, constant
from minigrad.tensor import Tensor


class Memory(NamedTuple):
    """What attention reads, prepared. Rows are axis 0 of everything, so that `scan` packs it with its rows."""

    keys: Any
    """(B, S, ...): what scores are made from"""
    values: Any
    """(B, S, features), zero in the padding"""
    mask: Any
    """(B, S), boolean: False in the padding"""
    floor: Any
    """(B, 1): the score of the padding. It is -inf, but 0 in a row without values, whose scores nobody compares."""


class Attention(Module):
    """What the kinds share: (B, queries) and a memory to the mean (B, features) and its weights (B, S).

    A kind says what the keys of a memory are, and how well they fit a query. Weights are from 0 to 1 and sum to 1; in a
    row without values, of length 0, they and the mean are 0.

    >>> import minigrad as mg, numpy as np
    >>> class Nearest(mg.nn.DotAttention):  # its keys, and a kind of scores of one's own
    ...     def scores(self, query, keys):
    ...         return -mg.norm(keys - mg.expand_dims(query, 1), axis=2)
    >>> attention = Nearest(4, 3, seed=0)
    >>> mean, weights = attention(np.ones((1, 4), "float32"), attention.memory(np.ones((1, 3, 3), "float32"), [2]))
    >>> weights.numpy()
    array([[0.5, 0.5, 0. ]], dtype=float32)
    """

    W_memory: Tensor

    def __init__(self, queries: int, features: int) -> None:
        self._name = type(self).__name__
        self.queries = as_size(self._name, "queries", queries)
        self.features = as_size(self._name, "features", features)

    def memory(self, values: Any, lengths: Any = None) -> Memory:
        """Values (B, S, features), each row with as many as its length says (default: S), ready to be asked.

        Raises ValueError or TypeError where a shape, a dtype or a length does not fit.

        >>> import minigrad as mg, numpy as np
        >>> attention = mg.nn.DotAttention(4, 3, seed=0)
        >>> attention.memory(np.ones((2, 5, 3), dtype="float32"), lengths=[5, 2]).keys.shape
        (2, 5, 4)
        """
        values = as_input(self._name, "a memory", values, self.W_memory, self.features)
        if len(values.shape) != 3:
            raise ValueError(f"{self._name} takes a memory (B, S, {self.features}), got {tuple(values.shape)}")
        B, S = values.shape[:2]
        lengths = as_lengths(f"nn.{self._name}", [S] * B if lengths is None else lengths, B, S)
        floor = np.where(lengths == 0, 0.0, -math.inf).astype(values.dtype)[:, None]
        backend = backend_of(constant(values))
        mask = backend.asarray(sequence_mask(lengths, S))
        values = where(expand_dims(mask, 2), values, 0.0)
        return Memory(self.keys(values), values, mask, backend.asarray(floor))

    def __call__(self, query: Any, memory: Memory) -> tuple[Value, Value]:
        query = as_input(self._name, "a query", query, self.W_memory, self.queries)
        if query.shape[:-1] != memory.mask.shape[:1]:
            raise ValueError(
                f"{self._name} takes a query for each of the {memory.mask.shape[0]} rows of its memory, "
                f"got {tuple(query.shape)}"
            )
        scores = where(memory.mask, self.scores(query, memory.keys), memory.floor)
        weights = where(memory.mask, softmax(scores, axis=1), 0.0) if scores.size else scores
        return squeeze(matmul(expand_dims(weights, 1), memory.values), 1), weights

    def keys(self, values: Value) -> Value:
        """What scores are made from: values (B, S, features) to (B, S, ...), once for a memory."""
        raise NotImplementedError

    def scores(self, query: Value, keys: Value) -> Value:
        """How well each part of a memory fits a query (B, queries): (B, S)."""
        raise NotImplementedError


class AdditiveAttention(Attention):
    """Attention whose scores come from a small net: v . tanh(query W_query + value W_memory + b).

    `W_query` (queries, units), `W_memory` (features, units) and `v` (units, 1) start Glorot-uniform, `b` (units,) at 0.
    Raises TypeError for a query or a memory of another dtype, ValueError for another shape.
    Source: Bahdanau et al., "Neural machine translation by jointly learning to align and translate" (2015).

    >>> import minigrad as mg, numpy as np
    >>> attention = mg.nn.AdditiveAttention(4, 3, units=8, seed=0)
    >>> memory = attention.memory(np.ones((2, 5, 3), dtype="float32"), lengths=[5, 2])
    >>> mean, weights = attention(np.ones((2, 4), dtype="float32"), memory)
    >>> mean.shape, weights[1]
    ((2, 3), Tensor([0.5, 0.5, 0. , 0. , 0. ], float32, from getitem))
    """

    def __init__(self, queries: int, features: int, units: int, dtype: Any = "float32", seed: Seed = None) -> None:
        super().__init__(queries, features)
        self.units = as_size(self._name, "units", units)
        dtype = as_float_dtype(dtype)

        def drawn(name: str, rows: int, columns: int) -> Tensor:
            return parameter(name, glorot_uniform((rows, columns), seed_for(seed, f"{self._name}.{name}"), dtype))

        self.W_query = drawn("W_query", self.queries, self.units)
        self.W_memory = drawn("W_memory", self.features, self.units)
        self.b = parameter("b", zeros((self.units,), dtype=dtype))
        self.v = drawn("v", self.units, 1)

    def keys(self, values: Value) -> Value:
        return values @ self.W_memory + self.b

    def scores(self, query: Value, keys: Value) -> Value:
        return squeeze(tanh(expand_dims(query @ self.W_query, 1) + keys) @ self.v, 2)


class DotAttention(Attention):
    """Multiplicative attention: scores are dot products, query . (value W_memory).

    `W_memory` (features, queries) starts Glorot-uniform.
    Raises TypeError for a query or a memory of another dtype, ValueError for another shape.
    Source: Luong et al., "Effective approaches to attention-based neural machine translation" (2015), "general".

    >>> import minigrad as mg, numpy as np
    >>> attention = mg.nn.DotAttention(4, 3, seed=0)
    >>> memory = attention.memory(np.ones((2, 5, 3), dtype="float32"), lengths=[5, 0])
    >>> mean, weights = attention(np.ones((2, 4), dtype="float32"), memory)
    >>> mean.shape, weights[1]
    ((2, 3), Tensor([0., 0., 0., 0., 0.], float32, from getitem))
    """

    def __init__(self, queries: int, features: int, dtype: Any = "float32", seed: Seed = None) -> None:
        super().__init__(queries, features)
        weight = glorot_uniform((self.features, self.queries), seed_for(seed, "DotAttention.W"), as_float_dtype(dtype))
        self.W_memory = parameter("W_memory", weight)

    def keys(self, values: Value) -> Value:
        return values @ self.W_memory

    def scores(self, query: Value, keys: Value) -> Value:
        return squeeze(keys @ expand_dims(query, 2), 2)
