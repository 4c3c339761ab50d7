"""dynamic_rnn: a net run over sequences. The loop over time, the lengths and their gradients are all `scan`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import tree
from minigrad.nn.initialisers import Seed
from minigrad.nn.module import as_flag
from minigrad.nn.record import Recording
from minigrad.nn.run import Run, check_cell, over_time
from minigrad.ops import swapaxes
from minigrad.ops.op import as_value
from minigrad.ops.sequence import as_lengths
from minigrad.tape import constant


def dynamic_rnn(
    cell: Any,
    inputs: Any,
    sequence_length: Any = None,
    initial_state: Any = None,
    time_major: bool = False,
    reverse: bool = False,
    training: bool | None = None,
    seed: Seed = None,
    record: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Run a net over a batch of sequences: inputs (B, T, ...) to (outputs (B, T, ...), final_state).

    cell: any callable `cell(x, state) -> (output, state)` for x (B, ...), or a net that runs over whole sequences, such
    as `Bidirectional`. Inputs, states and outputs may be pytrees.
    sequence_length: an integer for each row, 0 to T (default: T). Past it a row's outputs are zero and its state is
    copied through, so that `final_state` is each row's own last one; what stands in the padding cannot matter.
    initial_state: by default `cell.zero_state(B)`.
    time_major: inputs and outputs are (T, B, ...) instead.
    reverse: each row is read from its last step to its first; outputs stay in the order of the inputs.
    training, seed: for nets that draw random numbers (dropout), which need training=True and a seed, a new one for
    every batch, or training=False. Other nets take any.
    record: names of local variables of the cell's call, "i" or in a part of the net "layers.0.i". Then the result is
    (outputs, final_state, recorded), with what they held at the end of every step, (B, T, ...) and zero past a row's
    length, in the dict `recorded`.

    Raises ValueError or TypeError where a shape, a dtype, a length or a name does not fit, or where it was left open
    whether a net draws.
    Source: the function of this name in TensorFlow r0.11.

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.LSTMCell(3, 4, seed=0)
    >>> inputs = np.ones((2, 5, 3), dtype="float32")
    >>> outputs, state = mg.nn.dynamic_rnn(cell, inputs, sequence_length=[5, 2])
    >>> outputs.shape, state.h.shape
    ((2, 5, 4), (2, 4))
    >>> bool((state.h[1] == outputs[1, 1]).all()), bool((outputs[1, 2:] == 0).all())
    (True, True)
    >>> _, _, recorded = mg.nn.dynamic_rnn(cell, inputs, record=["c"])
    >>> recorded["c"].shape
    (2, 5, 4)
    """
    check_cell("dynamic_rnn", cell)
    reverse = as_flag("dynamic_rnn", "reverse", reverse)
    batch, steps = sizes("dynamic_rnn", inputs, time_major)
    lengths = None if sequence_length is None else as_lengths("nn.dynamic_rnn", sequence_length, batch, steps)
    recording = Recording(record, batch) if record else None
    state = first_state(cell, batch, initial_state)
    elems = inputs if time_major else tree.map(swapped, inputs)
    run = Run(training, seed, recording=recording)
    outputs, final_state, recorded = over_time(cell, run, elems, state, lengths, reverse)
    if not time_major:
        outputs, recorded = tree.map(swapped, (outputs, recorded))
    return (outputs, final_state) if recording is None else (outputs, final_state, recording.checked(recorded))


def swapped(x: Any) -> Any:
    """(B, T, ...) to (T, B, ...), and back."""
    return swapaxes(x, 0, 1)


def sizes(owner: str, inputs: Any, time_major: bool) -> tuple[int, int]:
    """B and T, on which all leaves of the inputs must agree."""
    as_flag(owner, "time_major", time_major)
    leaves, structure = tree.flatten(inputs)
    layout = "(T, B, ...)" if time_major else "(B, T, ...)"
    shapes = [tuple(as_value(owner, leaf).shape) for leaf in leaves]
    for path, shape in zip(structure.paths(), shapes, strict=True):
        if len(shape) < 2 or shape[:2] != shapes[0][:2]:
            raise ValueError(f"{owner} takes inputs {layout}, got inputs{path} of shape {shape}")
    if not shapes:
        raise ValueError(f"{owner} takes inputs {layout}, got none")
    first, second = shapes[0][:2]
    return (second, first) if time_major else (first, second)


def first_state(cell: Any, batch: int, given: Any) -> Any:
    """The initial state that was given, of the cell's structure, or the cell's zeros."""
    name = getattr(cell, "__name__", type(cell).__name__)
    if not hasattr(cell, "zero_state"):
        if given is None:
            raise TypeError(f"{name} has no zero_state(batch_size): pass initial_state")
        return given
    state = cell.zero_state(batch)
    if given is None:
        return state
    needed, got = tree.flatten(state)[1], tree.flatten(given)[1]
    if needed != got:
        raise TypeError(f"the states of {name} have the structure {needed}, got an initial_state of {got}")
    return given


def as_state(owner: str, state: Any, needed: Any, rows: str) -> Any:
    """The arrays of a state with the structure, shapes and dtypes of the one that is needed; `rows` says which it has.

    TypeError for another structure, ValueError for another shape or dtype.
    """
    leaves, structure = tree.flatten(state)
    like, expected = tree.flatten(needed)
    if structure != expected:
        raise TypeError(f"the states of this {owner} have the structure {expected}, got {structure}")
    arrays = [constant(as_value(owner, leaf)) for leaf in leaves]
    for array, other, path in zip(arrays, like, structure.paths(), strict=True):
        if array.shape != other.shape or array.dtype != other.dtype:
            raise ValueError(
                f"{owner}: state{path} must be {other.dtype}{tuple(other.shape)}, {rows}, "
                f"got {array.dtype}{tuple(array.shape)}"
            )
    return structure.build(arrays)
