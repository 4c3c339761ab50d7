"""How a net is driven over time: what a run tells the cells in it, and what a net may tell a run.

A cell is any callable `cell(x, state) -> (output, state)`, and needs nothing of what follows. Two things are optional:

- `net.prepared(run) -> cell`: the plain cell that `scan` runs, made once a run. A net that draws random numbers learns
  here whether it does (`run.draws`) and from which seed (`run.seed`); a net with cells inside prepares each of them
  with `run.cell(cell, name)`, the name being its attribute path. That is all that a wrapper is. What `record=` watches
  are the cells inside, those without `prepared`.
- `net.whole_sequence = True` and `net.over_time(run, elems, state, lengths, reverse)`: for a net that has no single
  step because it walks over the sequence more than once, as `Bidirectional` does. elems are (T, B, ...), lengths an int
  for each row or None; it returns `(outputs, final_state, recorded)`, with a loop for each of its nets by `over_time`.
- `called_as = "stream(chunk)"`: for what is no cell, because it runs over sequences by itself; how it is called.

`over_time` runs both kinds, so that `dynamic_rnn` and `Deep` need not know which they have.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from minigrad.nn.initialisers import Seed, seed_for
from minigrad.nn.module import Module
from minigrad.nn.record import Recording
from minigrad.random import as_seeds
from minigrad.scan import scan


@dataclass(frozen=True)
class Run:
    """What dynamic_rnn tells the nets that it drives: whether this is training, the seed, and the path of the part.

    Use one to take single steps of a net that draws: `net.prepared(Run(training=False))` is a plain cell. Outside
    of a scan a draw is a function of the seed alone: in training, prepare each step with a seed of its own. `path` and
    `recording` are dynamic_rnn's own.
    Raises TypeError for a training that is not True, False or None, and for a seed that is none.

    >>> import minigrad as mg
    >>> from minigrad.nn.run import Run
    >>> run = Run(training=True, seed=7)
    >>> run.draws("Noise"), run.part("layers.0").path, run.part("layers.0").seed != run.part("layers.1").seed
    (True, 'layers.0.', True)
    """

    training: bool | None = None
    seed: Seed = None
    path: str = ""
    recording: Recording | None = None

    def __post_init__(self) -> None:
        if not (self.training is None or isinstance(self.training, bool)):
            raise TypeError(f"training is True, False or None, got {self.training!r}")
        if self.seed is not None:
            as_seeds(self.seed)

    def draws(self, owner: str) -> bool:
        """Whether a net that can draw random numbers does so now; ValueError where that was left open."""
        if self.training is None:
            raise ValueError(
                f"{owner} draws random numbers in training: pass training=True and a seed to dynamic_rnn, or "
                "training=False (for single steps, make a plain cell with .prepared(Run(training=False)))"
            )
        if self.training and self.seed is None:
            raise ValueError(f"{owner} draws random numbers in training: pass a seed, and another one for every batch")
        return self.training

    def part(self, name: str) -> Run:
        """The run of a part: its path goes on with the name, and its seed is one of its own."""
        seed = None if self.seed is None else seed_for(self.seed, name)
        return replace(self, seed=seed, path=f"{self.path}{name}.")

    def cell(self, cell: Any, name: str = "") -> Any:
        """The plain cell of a net, or of a part of it with a name."""
        run = self.part(name) if name else self
        if hasattr(cell, "prepared"):
            return cell.prepared(run)
        return cell if run.recording is None else run.recording.watched(cell, run.path)


class Net(Module):
    """A module that is driven through `prepared`; a step of it by itself is one of a run that says nothing."""

    def prepared(self, run: Run) -> Any:
        """The plain cell `(x, state) -> (output, state)` of a run."""
        raise NotImplementedError

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        output, state = self.prepared(Run())(x, state)
        return output, state


def over_time(
    net: Any, run: Run, elems: Any, state: Any, lengths: Any, reverse: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """A net of either kind over (T, B, ...): `(outputs, final_state, recorded)`."""
    if is_whole_sequence(net):
        outputs, final, recorded = net.over_time(run, elems, state, lengths, reverse)
        return outputs, final, recorded
    cell = run.cell(net)

    def step(state: Any, x: Any) -> tuple[Any, Any]:
        output, state = cell(x, state)
        return state, (output, {} if run.recording is None else run.recording.taken())

    final, (outputs, recorded) = scan(step, elems, state, has_output=True, reverse=reverse, lengths=lengths)
    return outputs, final, recorded


def is_whole_sequence(net: Any) -> bool:
    """Whether a net has no single step."""
    return bool(getattr(net, "whole_sequence", False))


def check_cell(owner: str, net: Any) -> None:
    """TypeError for what is no cell: a class, what runs over sequences by itself, and a function of one array."""
    name = getattr(net, "__name__", type(net).__name__)
    if isinstance(net, type):
        raise TypeError(f"{owner} takes a cell, got the class {name}: make a cell of it, {name}(...)")
    call = getattr(net, "called_as", None)
    if call is not None:
        raise TypeError(f"a {name} is no cell, it runs over sequences by itself: call {call}")
    if is_whole_sequence(net) or hasattr(net, "prepared"):
        return
    form = "a cell, called as cell(x, state) -> (output, state)"
    if not callable(net):
        raise TypeError(f"{owner} takes {form}, and {name} cannot be called")
    try:
        inspect.signature(net).bind(None, None)
    except ValueError:  # some callables do not tell how they are called
        return
    except TypeError:
        raise TypeError(
            f"{owner} takes {form}, and {name} is called in another way; a layer without a state, such as Linear, "
            "takes whole sequences (B, T, ...) by itself"
        ) from None


def as_net(owner: str, what: str, net: Any) -> Any:
    """Something that knows its first state; TypeError otherwise."""
    if not hasattr(net, "zero_state") or isinstance(net, type):
        got = f"the class {net.__name__}" if isinstance(net, type) else f"a {type(net).__name__}"
        raise TypeError(f"{owner}: {what} is a cell with zero_state(batch_size), got {got}")
    return net


def as_cell(owner: str, cell: Any, instead: str, what: str = "what it wraps") -> Any:
    """A net with single steps; TypeError otherwise, which says what to do instead."""
    if is_whole_sequence(as_net(owner, what, cell)):
        raise TypeError(f"{owner}: {what} is a cell, and a {type(cell).__name__} runs over whole sequences: {instead}")
    return cell
