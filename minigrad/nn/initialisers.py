"""Initial values of parameters: functions `(shape, seed, dtype)` that give a tensor on the default backend.

Draws depend on the seed alone, so that one seed gives the same weights on every backend. The gates of a fused weight
are drawn one by one, each with the limits of its own shape.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minigrad import random
from minigrad.tensor import Tensor, asarray, full
from minigrad.tensor import zeros as zeros_

Seed = int | Sequence[int] | None

Initialiser = Callable[..., Any]
"""A function `(shape, seed, dtype)` that gives an array or tensor of this shape and dtype."""

Choice = Initialiser | Mapping[str, Initialiser] | None
"""What a cell is told: an initialiser for all of its gates, or some by the letter of their gate, or nothing."""


def glorot_uniform(shape: tuple[int, int], seed: int | Sequence[int], dtype: Any = "float32") -> Tensor:
    """Uniform draws between -a and a, a = sqrt(6 / (inputs + outputs)), for a matrix (inputs, outputs).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010).

    >>> from minigrad.nn import initialisers
    >>> W = initialisers.glorot_uniform((3, 3), seed=0)
    >>> W.shape, W.dtype, bool((abs(W) <= 1.0).all())
    ((3, 3), dtype('float32'), True)
    """
    rows, columns = _matrix("glorot_uniform", shape)
    limit = math.sqrt(6 / max(1, rows + columns))
    return random.uniform(shape, seed, low=-limit, high=limit, dtype=dtype)


def orthogonal(shape: tuple[int, int], seed: int | Sequence[int], dtype: Any = "float32") -> Tensor:
    """A random matrix whose rows or columns, whichever are fewer, are orthonormal.

    Sources: Saxe et al., "Exact solutions to the nonlinear dynamics of learning" (2014); Mezzadri, "How to generate
    random matrices from the classical compact groups" (2007), for the signs that make it uniform.

    >>> import minigrad as mg, numpy as np
    >>> Q = mg.nn.initialisers.orthogonal((3, 3), seed=0, dtype="float64").data
    >>> np.allclose(Q @ Q.T, np.eye(3))
    True
    """
    rows, columns = _matrix("orthogonal", shape)
    normal = random.generator(seed).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return asarray((q if rows >= columns else q.T).astype(np.dtype(dtype)))


def zeros(shape: tuple[int, ...], seed: Seed = None, dtype: Any = "float32") -> Tensor:
    """Zeros; the seed is not used.

    >>> from minigrad.nn import initialisers
    >>> initialisers.zeros((2,))
    Tensor([0., 0.], float32)
    """
    return zeros_(shape, dtype)


def constant(value: float) -> Initialiser:
    """An initialiser that gives this number everywhere; its seed is not used.

    >>> from minigrad.nn import initialisers
    >>> initialisers.constant(0.5)((2,))
    Tensor([0.5, 0.5], float32)
    """

    def constants(shape: tuple[int, ...], seed: Seed = None, dtype: Any = "float32") -> Tensor:
        return full(shape, value, dtype)

    return constants


def identity(shape: tuple[int, int], seed: Seed = None, dtype: Any = "float32") -> Tensor:
    """Ones on the main diagonal, zeros elsewhere: what a state is multiplied with to stay. The seed is not used.

    Source: Le, Jaitly and Hinton, "A simple way to initialize recurrent networks of rectified linear units" (2015).

    >>> from minigrad.nn import initialisers
    >>> initialisers.identity((2, 2))
    Tensor([[1., 0.],
            [0., 1.]], float32)
    """
    rows, columns = _matrix("identity", shape)
    return asarray(np.eye(rows, columns, dtype=np.dtype(dtype)))


def chrono(
    longest: float, seed: int | Sequence[int], keep: str | None = "f", write: str | None = "i"
) -> dict[str, Initialiser]:
    """An `init_b` for cells whose units shall remember for different times, up to `longest` steps.

    Each unit draws a time T from 1 to longest - 1. The gate `keep`, which keeps the state while it is open, gets the
    bias log T; the gate `write`, which overwrites it, -log T of the same draw, which is why the seed is given here and
    not taken from the cell. The defaults are an LSTM's. With coupled gates, `keep=None`; a GRU that keeps has
    `keep="z", write=None`, one that writes `keep=None, write="z"`.

    Raises ValueError for a `longest` below 2.
    Source: Tallec and Ollivier, "Can recurrent neural networks warp time?" (2018).

    >>> import minigrad as mg
    >>> cell = mg.nn.LSTMCell(2, 3, init_b=mg.nn.initialisers.chrono(100, seed=0))
    >>> bool((cell.gate("f").b == -cell.gate("i").b).all()), bool((cell.gate("g").b == 0).all())
    (True, True)
    """
    if not 2 <= longest < math.inf:
        raise ValueError(f"chrono: longest is a number of steps, at least 2, got {longest!r}")
    random.as_seeds(seed)  # None will not do: two gates share the draw

    def log_times(sign: float) -> Initialiser:
        def draw(shape: tuple[int, ...], seed_of_gate: Seed = None, dtype: Any = "float32") -> Tensor:
            times = random.generator(seed).uniform(1.0, longest - 1.0, shape)
            return asarray((sign * np.log(times)).astype(np.dtype(dtype)))

        return draw

    return {gate: log_times(sign) for gate, sign in ((keep, 1.0), (write, -1.0)) if gate is not None}


def seed_for(seed: Seed, label: str) -> tuple[int, ...]:
    """The seed of one parameter of an object; None draws a fresh one from the operating system.

    The label keeps the parameters of one layer, and layers of two classes, from drawing alike. Two layers of one class
    and seed do: give each its own, [seed, layer] for instance.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(16))
    return (*random.as_seeds(seed), zlib.crc32(label.encode()))


def _matrix(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{name} makes matrices (inputs, outputs), got shape {shape}")
    return shape[0], shape[1]


__all__ = ["chrono", "constant", "glorot_uniform", "identity", "orthogonal", "zeros"]
