"""The minimal gated unit: a GRU whose one gate forgets and resets.

    f = sigmoid([x, h] W_f + b_f)
    n = tanh([x, f * h] W_n + b_n)
    h = (1 - f) * h + f * n

Source: Zhou et al., "Minimal gated unit for recurrent neural networks" (2016).

    python examples/recipes/minimal_gated_unit.py

prints the equations as they run, and a few steps of training towards the mean of the inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn
from minigrad.nn.equations import equations


class MinimalGatedUnit(nn.Module):
    """(B, inputs) and a state h (B, units) to (h, h)."""

    def __init__(self, inputs: int, units: int, dtype: Any = "float32", seed: int = 0) -> None:
        self.units = units
        self.forget = nn.Linear(inputs + units, units, dtype=dtype, seed=[seed, 0])
        self.new = nn.Linear(inputs + units, units, dtype=dtype, seed=[seed, 1])

    def zero_state(self, batch_size: int) -> Any:
        return mg.zeros((batch_size, self.units), self.new.b.dtype)

    def __call__(self, x: Any, h: Any) -> tuple[Any, Any]:
        f = mg.sigmoid(self.forget(mg.concatenate([x, h], axis=-1)))
        n = mg.tanh(self.new(mg.concatenate([x, f * h], axis=-1)))
        h = (1 - f) * h + f * n
        return h, h


def main() -> None:
    cell = MinimalGatedUnit(1, 8)
    print(equations(cell, np.ones((1, 1), "float32")))
    inputs = np.random.default_rng(0).uniform(size=(32, 10, 1)).astype("float32")
    optimiser = mg.optim.Adam(cell.parameters(), 0.01)
    for step in range(101):
        _, final = nn.dynamic_rnn(cell, inputs)
        loss = mg.mean(mg.square(final[:, 0] - inputs.mean(axis=(1, 2))))
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            print(f"step {step:3}: mean squared error {loss.item():.5f}")


if __name__ == "__main__":
    main()
