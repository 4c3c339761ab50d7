"""Truncated backpropagation through time: a long sequence in windows, through whose beginnings no gradient passes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minigrad import tree
from minigrad.nn.module import as_size
from minigrad.nn.recurrent import dynamic_rnn, sizes
from minigrad.nn.run import is_whole_sequence
from minigrad.ops import concatenate
from minigrad.ops.op import as_value
from minigrad.ops.sequence import as_lengths
from minigrad.transforms import stop_gradient


class Window(NamedTuple):
    """What `truncated` yields: some steps' outputs, to make a loss of.

    >>> import functools, minigrad as mg, numpy as np
    >>> net = functools.partial(mg.nn.dynamic_rnn, mg.nn.RNNCell(2, 3, seed=0))
    >>> inputs, targets = np.ones((4, 9, 2), dtype="float32"), np.zeros((4, 9, 3), dtype="float32")
    >>> window = next(mg.training.truncated(net, inputs, k1=5))
    >>> window.steps, targets[:, window.steps].shape == window.outputs.shape, window.state.shape
    (slice(0, 5, None), True, (4, 3))
    """

    outputs: Any
    """(B, n, ...), or (n, B, ...) with time_major: the outputs of these steps, which no other window has."""
    steps: slice
    """Which steps of the sequence these are: `targets[:, window.steps]` are their targets."""
    sequence_length: Any
    """How many of these steps each row has, on the host; None where `truncated` was given no lengths."""
    state: Any
    """The state after the last step. Its gradient is not cut."""


def truncated(
    net: Callable[..., Any],
    inputs: Any,
    k1: int,
    k2: int | None = None,
    sequence_length: Any = None,
    initial_state: Any = None,
    time_major: bool = False,
) -> Iterator[Window]:
    """Windows of k1 steps each, in order, in which gradients flow k2 steps back: TBPTT(k1, k2).

    net: `net(inputs, sequence_length=..., initial_state=...) -> (outputs, state)`, called for pieces of the sequence:
    `functools.partial(nn.dynamic_rnn, cell)`, or a function that calls dynamic_rnn and does more, such as an embedding.
    If it draws random numbers, it must take another seed at each call. A Stream, which cuts its state by itself, does
    not fit, nor does what reads a window from its end, such as a Bidirectional or reverse=True: there is no later state
    to begin with. These are refused, unless a function of yours hides them.
    inputs: a pytree of (B, T, ...), or (T, B, ...) with `time_major=True`.
    k2: at least k1, and k1 by default: chunks, between which the state is carried and its gradient cut.
    sequence_length: an integer for each row, 0 to T (default: T).
    initial_state: handed to `net` with the first steps; its gradient is not cut.

    A window begins k2 - k1 steps before those whose outputs it yields, with the state that an earlier window had there,
    as a constant; the last one yields the rest, at most k1 steps. Every output is in one window, so the losses of all
    windows add up to that of the sequence. With k2 >= T nothing is cut: this is full backpropagation through time.
    Call backward() for each window, stepping the optimiser or not, or once for the sum: the first keeps one window on
    the tape. Either way about T * k2 / k1 steps are run, forward and backward: each window runs all that it holds.

    ValueError or TypeError, before anything is run, where net, k1, k2, a shape or a length does not fit; and as it runs
    for a net that gives something else, or takes steps for rows.
    Source: Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories" (1990), whose BPTT(h; h') is k2 = h, k1 = h'.

    >>> import functools, minigrad as mg, numpy as np
    >>> net = functools.partial(mg.nn.dynamic_rnn, mg.nn.RNNCell(2, 3, seed=0))
    >>> inputs = np.ones((1, 5, 2), dtype="float32")
    >>> for window in mg.training.truncated(net, inputs, k1=2, k2=4):
    ...     mg.sum(window.outputs**2).backward()
    ...     print(window.steps, window.outputs.shape)
    slice(0, 2, None) (1, 2, 3)
    slice(2, 4, None) (1, 2, 3)
    slice(4, 5, None) (1, 1, 3)
    """
    _check_net(net)
    k1 = as_size("truncated", "k1", k1)
    k2 = k1 if k2 is None else as_size("truncated", "k2", k2)
    if k2 < k1:
        raise ValueError(
            f"truncated: k2 is at least k1, or some steps' losses would reach no weight, got k1={k1} and k2={k2}"
        )
    inputs = tree.map(lambda leaf: as_value("training.truncated", leaf), inputs)
    batch, steps = sizes("truncated", inputs, time_major)
    runs_cell = isinstance(net, functools.partial) and net.func is dynamic_rnn
    if runs_cell and net.keywords.get("time_major", False) != time_major:  # type: ignore[attr-defined]
        raise ValueError(_other_layout(time_major))
    lengths = None
    if sequence_length is not None:
        lengths = as_lengths("training.truncated", sequence_length, batch, steps)
    overlap = steps if k2 >= steps else k2 - k1  # nothing is cut then, not even for a last window of fewer steps
    return _windows(_Pieces(net, inputs, lengths, time_major, batch), steps, k1, overlap, initial_state)


def _check_net(net: Any) -> None:
    """TypeError for what cannot be called as a net is here, a cell by itself, say, and for what reads backwards."""
    partial = isinstance(net, functools.partial)
    parts = [*net.args, *net.keywords.values()] if partial else [net]
    if any(map(is_whole_sequence, parts)) or (partial and net.keywords.get("reverse")):
        raise TypeError(
            "truncated goes forwards from window to window, and got a net that reads each of them from its end (a "
            "Bidirectional, or reverse=True): there is no later state to begin with; run it over whole sequences"
        )
    try:
        inspect.signature(net).bind(None, sequence_length=None, initial_state=None)
    except ValueError:  # some callables do not tell how they are called
        return
    except TypeError:
        got = getattr(net, "__name__", f"a {type(net).__name__}")
        raise TypeError(
            "truncated takes a net that is called as net(inputs, sequence_length=..., initial_state=...), and not as "
            f"{got} is: for a cell, pass functools.partial(mg.nn.dynamic_rnn, cell)"
        ) from None


def _other_layout(time_major: bool) -> str:
    layout, other = ("(T, B, ...)", "(B, T, ...)") if time_major else ("(B, T, ...)", "(T, B, ...)")
    return (
        f"truncated has time_major={time_major}, so its net is given pieces {layout} of the inputs, and takes them for "
        f"{other}: pass the same time_major to truncated and to the dynamic_rnn in the net"
    )


class _Pieces(NamedTuple):
    """A net and the sequence that it reads piece by piece."""

    net: Callable[..., Any]
    inputs: Any
    lengths: Any
    time_major: bool
    rows: int

    def run(self, begin: int, end: int, state: Any) -> tuple[list[Any], Any]:
        """The outputs of some steps, none for no steps, and the state after them."""
        if begin == end:
            return [], state
        piece = tree.map(lambda leaf: self.cut(leaf, slice(begin, end)), self.inputs)
        result = self.net(piece, sequence_length=self.lengths_in(begin, end), initial_state=state)
        if not (isinstance(result, tuple) and len(result) == 2):
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise TypeError(f"truncated takes a net that gives (outputs, state), without records, got {got}")
        self._check_layout(*result, end - begin)
        return [result[0]], result[1]

    def _check_layout(self, outputs: Any, state: Any, steps: int) -> None:
        """ValueError where the net took steps for rows: its state has a row for each step then."""
        axis = 0 if self.time_major else 1
        for leaf in tree.flatten(outputs)[0]:
            got = tuple(getattr(leaf, "shape", ()))
            if got[axis : axis + 1] != (steps,):
                layout = "(T, B, ...)" if self.time_major else "(B, T, ...)"
                raise ValueError(f"truncated needs outputs {layout} of the {steps} steps that it gave, got {got}")
        rows = {tuple(getattr(leaf, "shape", ()))[:1] for leaf in tree.flatten(state)[0]}
        if self.rows != steps and rows == {(steps,)}:
            raise ValueError(_other_layout(self.time_major))

    def cut(self, leaf: Any, steps: slice) -> Any:
        return leaf[steps] if self.time_major else leaf[:, steps]

    def lengths_in(self, begin: int, end: int) -> Any:
        """How many of these steps each row has."""
        return None if self.lengths is None else np.clip(self.lengths - begin, 0, end - begin)


def _windows(pieces: _Pieces, steps: int, k1: int, overlap: int, state: Any) -> Iterator[Window]:
    begin = 0
    for first in range(0, steps, k1):
        end = min(first + k1, steps)
        following = max(end - overlap, 0)  # where the next window begins, and the state is needed as a constant
        early, middle = pieces.run(begin, following, state)
        late, final = pieces.run(following, end, middle)
        yield Window(
            _joined(early + late, slice(first - begin, None), pieces),
            slice(first, end),
            pieces.lengths_in(first, end),
            final,
        )
        if following > begin:
            begin, state = following, stop_gradient(middle)


def _joined(parts: list[Any], steps: slice, pieces: _Pieces) -> Any:
    """Some steps of the outputs that come in parts, one after the other."""
    axis = 0 if pieces.time_major else 1
    return tree.map(lambda *leaves: pieces.cut(concatenate(leaves, axis=axis), steps), *parts)
