"""The training loop: batch after batch, with a learning rate that rises and falls, clipping, a table and a bar."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minigrad import nn, optim, training


def half_cosine(done: float) -> float:
    """From 1 to 0 as `done`, the part of the steps that is done, goes from 0 to 1."""
    return (1 + math.cos(math.pi * done)) / 2


def linear(done: float) -> float:
    """From 1 to 0, along a line."""
    return 1 - done


@dataclass(frozen=True)
class Schedule:
    """How a net is trained: Adam, whose learning rate rises to `lr`, then falls to 0, as `fall` says."""

    steps: int
    lr: float
    warmup: int = 1
    clip: float = 1.0
    every: int = 100
    fall: Callable[[float], float] = half_cosine

    def learning_rate(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / self.warmup) * self.fall(step / self.steps)


@dataclass
class History:
    """What training showed so far."""

    losses: list[float] = field(default_factory=list)  # of each step, before its update
    measured: list[tuple[int, float]] = field(default_factory=list)  # (step, the metric then)
    times: list[float] = field(default_factory=list)  # the seconds at each measurement
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.losses)

    @property
    def lately(self) -> float:
        """The mean of the losses since the last measurement."""
        marks = [0, *(step for step, _ in self.measured if step < len(self.losses))]
        return float(np.mean(self.losses[marks[-1] :])) if self.losses else math.nan

    def note(self, value: float) -> None:
        """Keep a measurement."""
        self.measured.append((self.step, value))
        self.times.append(self.seconds)

    def first_below(self, target: float) -> tuple[int, float] | None:
        """The step and the seconds at which the metric was first measured below a target; None if it never was."""
        for (step, value), seconds in zip(self.measured, self.times, strict=True):
            if value < target:
                return step, seconds
        return None


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Any],
    schedule: Schedule,
    measure: Callable[[], float],
    console: Console,
    metric: str,
    *,
    history: History | None = None,
    optimiser: optim.Adam | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> History:
    """Train a model: `loss_of(step)` is the loss of a batch, `measure()` what the table shows as `metric`.

    The history and the optimiser of a run that goes on are given and changed; others begin here. `enough` is asked
    after each step and its measurement, before the line of the table is printed, and True ends the training.
    """
    history = History() if history is None else history
    optimiser = optim.Adam(model, schedule.lr) if optimiser is None else optimiser
    console.print(f"  step     loss  {metric:>12}   time")

    def measured_enough() -> bool:
        due = history.step % schedule.every == 0 or history.step == schedule.steps
        if due:
            history.note(measure())
        end = enough()
        if due:
            value, clock = history.measured[-1][1], clock_of(history.seconds)
            console.print(f"{history.step:6,} {history.lately:8.3f}  {value:12.3f}   {clock}")
        return end

    train(model, optimiser, loss_of, schedule, history, console, measured_enough)
    return history


def train(
    model: nn.Module,
    optimiser: optim.Adam,
    loss_of: Callable[[int], Any],
    schedule: Schedule,
    history: History,
    console: Console,
    enough: Callable[[], bool],
    name: str = "",
) -> None:
    """The loop alone, from where the history stands: it ends with the last step, or when `enough()` after one.

    `history.seconds` counts all that happens in here; within `enough`, until its step was done.
    """
    begun = time.perf_counter() - history.seconds
    with np.errstate(over="ignore", invalid="ignore"), progress_bar(console) as bar:  # clipping raises on NaN and inf
        task = bar.add_task(name, total=schedule.steps, completed=history.step)
        end = False
        while history.step < schedule.steps and not end:
            history.losses.append(update(model, optimiser, schedule, history.step, loss_of(history.step)))
            history.seconds = time.perf_counter() - begun
            text = f"{name} loss {np.mean(history.losses[-20:]):.4f}".strip()
            bar.update(task, completed=history.step, description=text)
            end = enough()
            history.seconds = time.perf_counter() - begun


def update(model: nn.Module, optimiser: optim.Adam, schedule: Schedule, step: int, loss: Any) -> float:
    """One step downhill, and the loss before it."""
    loss.backward()
    optim.clip_global_norm(model, schedule.clip)
    optimiser.lr = schedule.learning_rate(step)
    optimiser.step()
    return float(loss.item())


def epochs(sequences: Sequence[Any], batch: int, seed: int) -> Iterator[training.Batch]:
    """Batches of sequences of similar lengths, without end: each epoch has all sequences once, in another order."""
    for epoch in itertools.count():
        yield from training.bucketed(sequences, batch, seed=(seed, epoch))


def in_batches(work: Callable[[Any, Any], Any], sequences: Sequence[Any], batch: int) -> list[Any]:
    """What `work(padded sequences, lengths)` makes of each sequence, in their order.

    It gets batches of sequences of similar lengths, and gives something for each row.
    """
    made = [None] * len(sequences)
    for values, lengths, rows in training.bucketed(sequences, batch):
        for row, result in zip(rows, work(values, lengths), strict=True):
            made[row] = result
    return made


def progress_bar(console: Console) -> Progress:
    """A moving bar on a terminal; nothing in a file or a pipe, where the lines of the table must do."""
    numbers = TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn()
    columns = MofNCompleteColumn(), BarColumn(bar_width=None), *numbers
    return Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal)


def clock_of(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def size_of(model: nn.Module) -> str:
    """How many weights a model has, and where they live."""
    weights = list(model.parameters().values())
    return f"{sum(weight.size for weight in weights):,} weights, on {weights[0].backend.name}"
