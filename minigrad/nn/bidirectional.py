"""Bidirectional: one cell that reads each row forwards and one that reads it backwards, their outputs merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.nn.module import Module, as_flag
from minigrad.nn.run import Run, as_net, over_time
from minigrad.ops import concatenate, where
from minigrad.ops.op import zeros_like
from minigrad.tape import Value, constant

Merge = Callable[[Any, Any], Any]


class Bidirectional(Module):
    """Two nets over the same sequences: (B, T, ...) to merged outputs (B, T, ...) and the pair of their final states.

    `forward` reads each row from its first step to its last, `backward` from its last, within the row's own length, to
    its first; outputs of both stand in the order of the inputs. They may be cells of any kind and size, or stacks.
    `merge`: "concat" (on the last axis), "sum", "mean", "multiply", a function of two outputs (T, B, ...), or None,
    which gives the pair (forward's, backward's). It is applied to each leaf, and past a row's length gives 0.
    `exclusive=True`: the backward output at step i has seen the steps after i only, not i itself: what the backward
    net gave at step i + 1, and zeros at a row's last step. Driven with reverse=True, both directions are turned round.

    Raises ValueError for one object in both directions, an unknown merge, or outputs that cannot be merged.
    Source: Schuster and Paliwal, "Bidirectional recurrent neural networks" (1997).

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.bidirectional import Bidirectional
    >>> net = Bidirectional(mg.nn.GRUCell(2, 3, seed=0), mg.nn.LSTMCell(2, 4, seed=1))
    >>> outputs, (forward, backward) = mg.nn.dynamic_rnn(net, np.ones((2, 5, 2), dtype="float32"), [5, 3])
    >>> outputs.shape, forward.shape, backward.c.shape
    ((2, 5, 7), (2, 3), (2, 4))
    """

    whole_sequence = True

    def __init__(self, fw: Any, bw: Any, merge: str | Merge | None = "concat", exclusive: bool = False) -> None:
        self.forward = as_net("Bidirectional", "the forward net", fw)
        self.backward = as_net("Bidirectional", "the backward net", bw)
        if fw is bw:
            raise ValueError("Bidirectional got one object for both directions: make a cell for each")
        if not (merge is None or callable(merge) or merge in _MERGES):
            words = ", ".join(f'"{word}"' for word in _MERGES)
            raise ValueError(f"Bidirectional: merge is one of {words}, a function or None, got {merge!r}")
        self.merge = merge
        self.exclusive = as_flag("Bidirectional", "exclusive", exclusive)

    @property
    def inputs(self) -> Any:
        """How many features it reads, or None where its nets do not say."""
        return getattr(self.forward, "inputs", None)

    @property
    def outputs(self) -> Any:
        """How many features it gives, or None where its nets do not say, or the merge is one of your own.

        >>> import minigrad as mg
        >>> mg.nn.Bidirectional(mg.nn.GRUCell(2, 3), mg.nn.GRUCell(2, 4)).outputs
        7
        """
        sizes = [getattr(net, "outputs", None) for net in (self.forward, self.backward)]
        if None in sizes or self.merge is None or callable(self.merge):
            return None
        return sum(sizes) if self.merge == "concat" else sizes[0]

    def zero_state(self, batch_size: int) -> tuple[Any, Any]:
        """The first states of both directions.

        >>> import minigrad as mg
        >>> from minigrad.nn.bidirectional import Bidirectional
        >>> Bidirectional(mg.nn.RNNCell(1, 1), mg.nn.RNNCell(1, 2)).zero_state(1)
        (Tensor([[0.]], float32), Tensor([[0., 0.]], float32))
        """
        return self.forward.zero_state(batch_size), self.backward.zero_state(batch_size)

    def over_time(
        self, run: Run, elems: Any, state: Any, lengths: Any, reverse: bool
    ) -> tuple[Any, Any, dict[str, Any]]:
        if not (isinstance(state, tuple) and len(state) == 2):
            raise TypeError(f"the state of Bidirectional is a pair (forward, backward), got {type(state).__name__}")
        fw, fw_state, records = over_time(self.forward, run.part("forward"), elems, state[0], lengths, reverse)
        bw, bw_state, more = over_time(self.backward, run.part("backward"), elems, state[1], lengths, not reverse)
        if self.exclusive:
            bw = tree.map(lambda out: _one_step_before(out, lengths, not reverse), bw)
        return self._merged(fw, bw, lengths), (fw_state, bw_state), records | more

    def _merged(self, fw: Any, bw: Any, lengths: Any) -> Any:
        if self.merge is None:
            return fw, bw
        if callable(self.merge):
            own = self.merge
            return tree.map(lambda a, b: _without_padding(own(a, b), lengths), fw, bw)
        return tree.map(_MERGES[self.merge], fw, bw)


# ---- merging -------------------------------------------------------------------------------------------------------


def _concat(a: Value, b: Value) -> Value:
    if len(a.shape) < 3 or len(b.shape) < 3 or a.shape[:-1] != b.shape[:-1]:
        raise ValueError(
            'merge="concat" joins outputs (B, units) on their last axis, got each step '
            f"{tuple(a.shape[1:])} forward and {tuple(b.shape[1:])} backward"
        )
    return concatenate([a, b], axis=-1)


def _sum(a: Value, b: Value) -> Value:
    _check_same("sum", a, b)
    return a + b


def _mean(a: Value, b: Value) -> Value:
    _check_same("mean", a, b)
    return (a + b) / 2


def _multiply(a: Value, b: Value) -> Value:
    _check_same("multiply", a, b)
    return a * b


def _check_same(merge: str, a: Value, b: Value) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f'merge="{merge}" takes outputs of one shape from both directions, got each step {tuple(a.shape[1:])} '
            f'forward and {tuple(b.shape[1:])} backward; merge="concat" takes different ones'
        )


_MERGES: dict[str, Merge] = {"concat": _concat, "sum": _sum, "mean": _mean, "multiply": _multiply}


# ---- what was given one step before --------------------------------------------------------------------------------


def _one_step_before(outputs: Value, lengths: Any, reverse: bool) -> Value:
    """At every step the output of the step that was read before it, and zeros at the first; (T, B, ...)."""
    zeros = zeros_like(outputs[:1])
    if reverse:
        return concatenate([outputs[1:], zeros])  # the padding is zeros already
    return _without_padding(concatenate([zeros, outputs[:-1]]), lengths)


def _without_padding(outputs: Value, lengths: Any) -> Value:
    """The outputs (T, B, ...), with zeros past each row's length."""
    if lengths is None:
        return outputs
    mask = np.arange(outputs.shape[0])[:, None] < lengths
    wide = backend_of(constant(outputs)).asarray(mask.reshape((*mask.shape, *[1] * (len(outputs.shape) - 2))))
    return where(wide, outputs, zeros_like(outputs))
