"""Zoneout: in training, each element of the state stays what it was with some probability.

    state = mask * old + (1 - mask) * new          the masks are drawn anew at every step

Elsewhere the mask is its mean. Dropout puts zeros into a state; this holds it, and the gradient passes through.
Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations" (2016).

    python examples/recipes/zoneout.py

prints what a state does in five steps of training, and elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, tree


class Zoneout(nn.Module):
    """Any cell, whose state stays with probability `rate`: run it with training=True and a seed, or training=False."""

    def __init__(self, cell: Any, rate: float) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"Zoneout: rate is the probability to stay, in [0, 1], got {rate!r}")
        self.cell, self.rate = cell, rate

    def zero_state(self, batch_size: int) -> Any:
        return self.cell.zero_state(batch_size)

    def prepared(self, run: Any) -> Any:
        """The cell that `dynamic_rnn` runs."""
        cell, training = run.cell(self.cell, "cell"), run.draws("Zoneout")

        def step(x: Any, state: Any) -> tuple[Any, Any]:
            output, new = cell(x, state)
            (olds, form), news = tree.flatten(state), tree.flatten(new)[0]
            seeds = [run.part(f"mask{k}").seed for k in range(len(news))]
            masks = [mg.random.bernoulli(n.shape, s, self.rate, n.dtype) if training else self.rate
                     for n, s in zip(news, seeds, strict=True)]  # fmt: skip
            mixed = [m * old + (1 - m) * n for m, old, n in zip(masks, olds, news, strict=True)]
            shown = [m for m, n in zip(mixed, news, strict=True) if n is output]  # an output that is a state's part
            return (shown[0] if shown else output), form.build(mixed)

        return step


def main() -> None:
    cell = Zoneout(nn.RNNCell(1, 4, seed=0), rate=0.5)
    inputs = np.ones((1, 5, 1), "float32")
    for training in (True, False):
        outputs, _ = nn.dynamic_rnn(cell, inputs, training=training, seed=1)
        print(f"training={training}\n{outputs.numpy()[0].round(2)}")


if __name__ == "__main__":
    main()
