"""Layers without a state: Linear and Embedding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad import random
from minigrad.backend import backend_of
from minigrad.nn.initialisers import Seed, glorot_uniform, seed_for, zeros
from minigrad.nn.module import Module, as_flag, as_float_dtype, as_input, as_size
from minigrad.ops import expand_dims, where
from minigrad.ops.indexing import getitem, getitem_
from minigrad.ops.op import as_value, is_abstract
from minigrad.tape import Array, Value, constant
from minigrad.tensor import Tensor, tensor


class Linear(Module):
    """x @ W + b: (..., inputs) to (..., outputs), of the dtype of its parameters.

    `W` (inputs, outputs) starts Glorot-uniform, `b` (outputs,) at 0; without bias `b` is None.
    Raises TypeError for an x of another dtype, ValueError for another size.

    >>> import minigrad as mg, numpy as np
    >>> layer = mg.nn.Linear(3, 2, seed=0)
    >>> layer(np.ones((5, 3), dtype="float32")).shape
    (5, 2)
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype: Any = "float32", seed: Seed = None) -> None:
        self.inputs = as_size("Linear", "inputs", inputs)
        self.outputs = as_size("Linear", "outputs", outputs)
        bias, dtype = as_flag("Linear", "bias", bias), as_float_dtype(dtype)
        weight = glorot_uniform((self.inputs, self.outputs), seed_for(seed, "Linear.W"), dtype)
        self.W = parameter("W", weight)
        self.b = parameter("b", zeros((self.outputs,), dtype=dtype)) if bias else None

    def __call__(self, x: Any) -> Any:
        x = as_input("Linear", "an input", x, self.W, self.inputs)
        y = x @ self.W
        return y if self.b is None else y + self.b


class Embedding(Module):
    """The row of `W` for each token: integers (...) to (..., units).

    `W` (num_tokens, units) starts with normal draws, so that what it gives has variance 1. Tokens may lie on the host
    whatever the backend, and are checked there; for tokens on a device the check waits for it. In the body of a scan,
    where tokens have no values yet, one outside gives NaN instead.
    Raises TypeError for tokens that are no integers, IndexError for one outside 0..num_tokens - 1.

    >>> import minigrad as mg
    >>> mg.nn.Embedding(50, 4, seed=0)([[3, 1], [7, 7]]).shape
    (2, 2, 4)
    """

    def __init__(self, num_tokens: int, units: int, dtype: Any = "float32", seed: Seed = None) -> None:
        self.num_tokens = as_size("Embedding", "num_tokens", num_tokens)
        self.units = as_size("Embedding", "units", units)
        shape = (self.num_tokens, self.units)
        self.W = parameter("W", random.normal(shape, seed_for(seed, "Embedding.W"), as_float_dtype(dtype)))

    def __call__(self, tokens: Any) -> Any:
        array = np.asarray(tokens) if isinstance(tokens, list | tuple) else constant(as_value("Embedding", tokens))
        if array.dtype.kind not in "iu":
            if array.size:
                raise TypeError(f"Embedding takes integer tokens, got dtype {array.dtype}")
            array = array.astype(np.intp)  # an empty list has no integers to show its dtype
        if is_abstract(array):
            known = (array >= 0) & (array < self.num_tokens)
            rows = getitem(self.W, where(known, array, 0))
            return where(expand_dims(known, -1), rows, math.nan)
        return getitem_(self.W, index=(self._rows(array),))

    def _rows(self, array: Array) -> Array:
        """The tokens, known to be rows of W, as an array of its backend that nobody else can write to."""
        if array.size:
            xp = backend_of(array).xp
            low, high = int(xp.min(array)), int(xp.max(array))
            if low < 0 or high >= self.num_tokens:
                worst = low if low < 0 else high
                known = f"a vocabulary of {self.num_tokens} tokens, 0..{self.num_tokens - 1}"
                raise IndexError(f"Embedding has {known}, got token {worst}")
        return self.W.backend.asarray(array).copy()


def parameter(name: str, value: Value) -> Tensor:
    """A trainable tensor with a copy of these initial values."""
    return tensor(value, requires_grad=True, name=name)
