"""A residual recurrent network: each step adds to the state instead of replacing it.

    h = h + tanh(x W_x + h W_h + b)

It is the template that LSTM and GRU put gates into: the gradient has a way back on which nothing is multiplied.

    python examples/recipes/residual_rnn.py

prints how much of the gradient of the last state is left at the first input, here and without the addition.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn


class ResidualRNN(nn.Module):
    """(B, inputs) and a state h (B, units) to (h, h). Further keywords are those of `nn.RNNCell`."""

    def __init__(self, inputs: int, units: int, **options: Any) -> None:
        self.update = nn.RNNCell(inputs, units, **options)

    def zero_state(self, batch_size: int) -> Any:
        return self.update.zero_state(batch_size)

    def __call__(self, x: Any, h: Any) -> tuple[Any, Any]:
        update, _ = self.update(x, h)
        h = h + update
        return h, h


def main() -> None:
    steps = 50
    inputs = np.random.default_rng(0).normal(size=(1, steps, 3))
    for cell in (nn.RNNCell(3, 16, dtype="float64", seed=0), ResidualRNN(3, 16, dtype="float64", seed=0)):

        def last(inputs: Any, cell: Any = cell) -> Any:
            return nn.dynamic_rnn(cell, inputs)[1].sum()

        sizes = mg.norm(mg.grad(last)(inputs)[0], axis=-1)
        print(f"{type(cell).__name__:12} gradient by the first input: {sizes[0]:.1e}, by the last: {sizes[-1]:.1e}")


if __name__ == "__main__":
    main()
