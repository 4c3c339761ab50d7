"""A ReLU network that starts as a counter: its recurrent matrix is the identity, so the state stays as it is.

    h = relu(x W_x + h W_h + b)          W_h = 1, b = 0, W_x small

Source: Le, Jaitly and Hinton, "A simple way to initialize recurrent networks of rectified linear units" (2015).

    python examples/recipes/identity_relu_rnn.py

prints how much of a first state is left after 100 steps without input, here and for the usual simple cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn


def small(shape: tuple[int, ...], seed: Any, dtype: Any) -> Any:
    """Normal draws of standard deviation 0.001."""
    return 0.001 * mg.random.normal(shape, seed, dtype)


def identity_relu_rnn(inputs: int, units: int, **options: Any) -> nn.RNNCell:
    """The cell of Le et al. Further keywords are those of `nn.RNNCell`."""
    return nn.RNNCell(inputs, units, activation=mg.relu, init_W_x=small, init_W_h=nn.initialisers.identity, **options)


def main() -> None:
    silence, start = np.zeros((1, 100, 3)), np.linspace(0.0, 1.0, 16)[None]
    for name, make in (("usual", nn.RNNCell), ("identity", identity_relu_rnn)):
        cell = make(3, 16, dtype="float64", seed=0)
        _, final = nn.dynamic_rnn(cell, silence, initial_state=start)
        print(f"{name:8} size of the state: {mg.norm(start):.3f} at first, {mg.norm(final.data):.3f} after 100 steps")


if __name__ == "__main__":
    main()
