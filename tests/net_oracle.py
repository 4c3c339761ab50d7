"""What a net over time means, as a loop written out over rows and steps, and how nets are compared with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import minigrad as mg
from minigrad import tree
from scan_oracle import MIXTURES, agree, first_order, loop, loss_of, ragged, random_like, second_order

INPUTS = 2


def gru(inputs: int = INPUTS, units: int = 3, seed: int = 0) -> Any:
    return mg.nn.GRUCell(inputs, units, dtype="float64", seed=seed)


def lstm(inputs: int = INPUTS, units: int = 3, seed: int = 1) -> Any:
    return mg.nn.LSTMCell(inputs, units, dtype="float64", seed=seed)


class Sequences(NamedTuple):
    """A batch: how many steps and rows, their lengths or None, the direction, and a seed for all numbers."""

    steps: int
    rows: int
    lengths: list[int] | None
    reverse: bool
    seed: int


@st.composite
def sequences(draw: Any, least: int = 0) -> Sequences:
    """Batches of at most three rows and four steps; lengths are of every kind, from nothing to everything."""
    steps, rows = draw(st.integers(least, 4)), draw(st.integers(1, 3))
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows))
    return Sequences(steps, rows, lengths, draw(st.booleans()), draw(st.integers(0, 2**16 - 1)))


def inputs_of(batch: Sequences, size: int = INPUTS) -> np.ndarray:
    return np.random.default_rng(batch.seed).normal(size=(batch.rows, batch.steps, size))


def states_of(net: Any, batch: Sequences) -> Any:
    """Random states of a net."""
    draw = np.random.default_rng([batch.seed, 1])
    return tree.map(lambda leaf: draw.normal(size=leaf.shape), net.zero_state(batch.rows))


def swapped(values: Any) -> Any:
    return tree.map(lambda x: mg.swapaxes(x, 0, 1), values)


def by_hand(step: Callable[[Any, Any], Any], inputs: Any, lengths: Any, state: Any, reverse: bool) -> tuple[Any, Any]:
    """`step(x, state)` along each row alone, for exactly its own steps: (B, T, ...) to (outputs, final_state)."""

    def fn(state: Any, x: Any) -> Any:
        output, state = step(x, state)
        return state, output

    elems = swapped(inputs)
    if lengths is None:
        final, outputs = loop(fn, elems, state, has_output=True, reverse=reverse)
    else:
        final, outputs = ragged(fn, elems, state, lengths, has_output=True, reverse=reverse)
    return swapped(outputs), final


def with_parameters(net: Any, values: dict[str, Any]) -> Any:
    """A copy of a net with these tensors in the place of its parameters."""
    paths = {id(p): path for path, p in net.parameters().items()}
    return net._converted(lambda t: mg.asarray(values[paths[id(t)]]) if id(t) in paths else t)


def as_function(run: Callable[..., Any], net: Any, batch: Sequences) -> tuple[Callable[..., Any], dict[str, Any]]:
    """`run(net, inputs, state) -> (outputs, final_state)` as a function of all arrays, and where to look at it."""
    leaves, structure = tree.flatten(states_of(net, batch))
    at = {path: p.array.copy() for path, p in net.parameters().items()}
    at |= {"inputs": inputs_of(batch)} | {f"state{i}": leaf for i, leaf in enumerate(leaves)}

    def f(arrays: dict[str, Any]) -> list[Any]:
        state = structure.build([arrays[f"state{i}"] for i in range(len(leaves))])
        return tree.flatten(run(with_parameters(net, arrays), arrays["inputs"], state))[0]

    return f, at


def driven(batch: Sequences, **options: Any) -> Callable[..., Any]:
    """dynamic_rnn on a batch."""

    def run(net: Any, inputs: Any, state: Any) -> Any:
        return mg.nn.dynamic_rnn(net, inputs, batch.lengths, state, reverse=batch.reverse, **options)

    return run


def hold(run: Callable[..., Any], hand: Callable[..., Any], net: Any, batch: Sequences) -> None:
    """Assert two ways of running a net to agree: values, every gradient, tangents, and second derivatives."""
    got, at = as_function(run, net, batch)
    needed, _ = as_function(hand, net, batch)
    agree(first_order(got, at, batch.seed), first_order(needed, at, batch.seed))
    mixture = MIXTURES[batch.seed % len(MIXTURES)]
    like = needed(at)
    losses = [loss_of(f, like, batch.seed) for f in (got, needed)]
    agree(*[second_order(loss, at, batch.seed, mixture) for loss in losses])


def along_two_directions(f: Callable[..., Any], at: dict[str, Any], seed: int) -> Callable[[Any], Any]:
    """A loss of all results as a function of two numbers, each of which moves every array at once.

    Its derivatives take part in every gradient and every second derivative, and differences of it cost little.
    """
    loss = loss_of(f, f(at), seed)
    first, second = random_like(at, seed + 1), random_like(at, seed + 2)

    def moved(t: Any) -> Any:
        return loss({name: at[name] + t[0] * first[name] + t[1] * second[name] for name in at})

    return moved


def bits(run: Callable[..., Any], net: Any, batch: Sequences, inputs: np.ndarray) -> list[bytes]:
    """Every output and every gradient of a run, as bytes."""
    f, at = as_function(run, net, batch)
    values, pull = mg.vjp(f, at | {"inputs": inputs})
    (gradients,) = pull(random_like(values, batch.seed))
    return [np.asarray(mg.asarray(x).detach().numpy()).tobytes() for x in [*values, *gradients.values()]]


def poisoned(batch: Sequences, poison: float) -> np.ndarray:
    """The inputs of a batch with something else in their padding."""
    inputs = inputs_of(batch)
    for row, length in enumerate(batch.lengths or []):
        inputs[row, length:] = poison
    return inputs
