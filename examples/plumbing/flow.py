"""How far back a gradient reaches: what is added to a state has the gradient of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minigrad as mg
from minigrad import nn


class Nudged:
    """A cell to whose state something is added after every step.

    Where that is zero nothing changes, and the gradient by what was added at step t is the gradient by the state of
    step t, through everything that comes after it.
    """

    def __init__(self, cell: Any) -> None:
        self.cell = cell

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        x, nudge = x
        _, state = self.cell(x, state)
        state = mg.tree.map(mg.add, state, nudge)
        return (state.h if isinstance(state, nn.LSTMState) else state), state


def gradient_by_states(loss_of: Callable[[Any], Any], steps: int, state: Any) -> Any:
    """The gradient of a loss by the states after so many steps, each like `state`: (steps, B, units), on the host.

    `loss_of` takes what cells that are `Nudged` shall add.
    """
    nudges = mg.tree.map(lambda part: mg.zeros((steps, *part.shape), part.dtype), state)
    with mg.no_grad():  # of the gradient itself
        return mg.tree.map(lambda part: part.numpy(), mg.grad(loss_of)(nudges))
