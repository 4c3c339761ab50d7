"""What an encoder hands over to a decoder: a first state, a vector for every step, a bias, a memory for attention."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from minigrad import tree
from minigrad.nn.attention import Memory
from minigrad.nn.hidden import hidden_of
from minigrad.nn.initialisers import Seed, seed_for
from minigrad.nn.layers import Linear
from minigrad.nn.module import Module
from minigrad.ops import concatenate
from minigrad.tape import Value
from minigrad.tensor import Tensor


class Given(NamedTuple):
    """What every step of a decoder reads and none changes: rows are axis 0 of everything."""

    summary: Any = None
    """(B, C): joined to the input of every step"""
    bias: Any = None
    """(B, gates * units): added to the bias of the decoder's cell"""
    memory: Memory | None = None
    """what attention reads"""


class Bridge(Module):
    """An affine map from all that one state holds, or from a vector, to a state of other sizes or another structure.

    `layers` has a Linear for each leaf of the new state, which reads all leaves of the old one, side by side.

    >>> import minigrad as mg
    >>> from minigrad.nn.context import Bridge
    >>> lstm, gru = mg.nn.LSTMCell(2, 3), mg.nn.GRUCell(2, 5)
    >>> Bridge(lstm.zero_state(1), gru.zero_state(1), seed=0)(lstm.zero_state(4)).shape
    (4, 5)
    """

    def __init__(self, old: Any, new: Any, seed: Seed = None) -> None:
        leaves, structure = tree.flatten(new)
        inputs = width_of(tree.flatten(old)[0])
        self.layers = [
            Linear(inputs, leaf.shape[-1], dtype=leaf.dtype, seed=seed_for(seed, f"Bridge{path}"))
            for leaf, path in zip(leaves, structure.paths(), strict=True)
        ]
        self.structure = structure

    def __call__(self, state: Any) -> Any:
        everything = joined(tree.flatten(state)[0])
        return self.structure.build([layer(everything) for layer in self.layers])


def fits(old: Any, new: Any) -> bool:
    """Whether one state can be handed over where another is needed, as it is."""
    (leaves, structure), (others, needed) = tree.flatten(old), tree.flatten(new)
    return structure == needed and [leaf.shape for leaf in leaves] == [leaf.shape for leaf in others]


def summary_of(state: Any) -> Value:
    """The h of a state (B, C): of several states, as those of `Deep` and `Bidirectional`, all side by side."""
    return joined(hidden_of("Seq2Seq", state))


def joined(parts: list[Any]) -> Value:
    """Arrays (B, ...) side by side on their last axis."""
    return parts[0] if len(parts) == 1 else concatenate(parts, axis=-1)


def width_of(parts: list[Any]) -> int:
    """How wide they are, side by side."""
    return sum(part.shape[-1] for part in parts)


# ---- a bias for each row -------------------------------------------------------------------------------------------


def bias_of(net: Any) -> Tensor | None:
    """The bias `b` of a cell, of the one in a wrapper, or of the lowest layer of a stack, which reads the inputs."""
    while not isinstance(getattr(net, "b", None), Tensor):
        inside = _inside(net)
        if inside is None:
            return None
        net = inside
    return net.b  # type: ignore[no-any-return]


def with_bias(net: Any, more: Any) -> Any:
    """A copy of a net, with the same weights, whose `bias_of` has (B, gates * units) added to it, row by row."""
    changed = copy.copy(net)
    if isinstance(getattr(net, "b", None), Tensor):
        changed.b = net.b + more
    elif hasattr(net, "cell"):
        changed.cell = with_bias(net.cell, more)
    else:
        changed.layers = [with_bias(net.layers[0], more), *net.layers[1:]]
    return changed


def _inside(net: Any) -> Any:
    """The lowest layer of a stack, or the cell of a wrapper."""
    if hasattr(net, "cell"):
        return net.cell
    layers = getattr(net, "layers", None)
    return layers[0] if isinstance(layers, list) and layers and hasattr(layers[0], "zero_state") else None
