"""The ops: each is one block, a forward function with its derivative rules beside it.

`PUBLIC` maps every public op's name to its function, `REGISTRY` the name of every op that has rules of its own to it;
the others are expressions in those. `CHECKED` adds what a careful walk multiplies with: nobody calls that, but its
gradients are checked like everybody's. `NON_DIFFERENTIABLE` gives integers or booleans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad.ops.classification import argmax, cross_entropy, log_softmax, one_hot, softmax
from minigrad.ops.elementwise import (
    abs,
    add,
    clip,
    cos,
    divide,
    elu,
    exp,
    expm1,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    tanh,
)
from minigrad.ops.indexing import getitem, take, take_along_axis
from minigrad.ops.linalg import dot, einsum, matmul, outer
from minigrad.ops.op import REGISTRY, absorb, scale  # noqa: F401  # the registry is for tools
from minigrad.ops.reductions import cumsum, logsumexp, max, mean, min, norm, prod, sum, var
from minigrad.ops.sequence import reverse_sequence, sequence_mask
from minigrad.ops.shape import (
    astype,
    broadcast_to,
    concatenate,
    copy,
    expand_dims,
    flip,
    moveaxis,
    pad,
    repeat,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    transpose,
)
from minigrad.ops.where import where

NON_DIFFERENTIABLE = frozenset({"argmax", "one_hot", "sequence_mask"})

__all__ = [
    "abs", "add", "argmax", "astype", "broadcast_to", "clip", "concatenate",
    "copy", "cos", "cross_entropy", "cumsum",
    "divide", "dot", "einsum", "elu", "exp", "expand_dims", "expm1", "flip", "getitem", "leaky_relu", "log", "log1p",
    "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum", "moveaxis", "multiply",
    "negative", "norm", "one_hot", "outer", "pad", "power", "prod", "relu", "repeat", "reshape", "reverse_sequence",
    "sequence_mask", "sigmoid", "sign", "sin", "softmax", "softplus", "split", "sqrt", "square", "squeeze", "stack",
    "subtract", "sum", "swapaxes", "take", "take_along_axis", "tanh", "transpose", "var", "where",
]  # fmt: skip

PUBLIC: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
CHECKED: dict[str, Callable[..., Any]] = {**PUBLIC, "absorb": absorb, "scale": scale}
