"""The adding problem: what a plain recurrent net cannot learn over 200 steps, and gated ones can.

    python examples/adding.py

At each step the net reads a random number between 0 and 1 and a mark; two steps are marked, one in each half of the
sequence. After the last step it says the sum of the two marked numbers. To say 1 each time costs 1/6, the variance of
the sum: less is learnt only by remembering over many steps. A vanilla net, a GRU and an LSTM are trained, and two
pictures are saved: their learning curves, and how far back the gradient of the loss reaches, before and after training.

Source: Hochreiter and Schmidhuber, "Long short-term memory" (1997), in the form with numbers from 0 to 1 and one mark
in each half. `--help` lists all settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from plumbing import commands, pictures
from plumbing.commands import count, option, positive, whole
from plumbing.flow import Nudged, gradient_by_states
from plumbing.training import History, Schedule, linear, train

# isort: split

import numpy as np
from rich.console import Console

import minigrad as mg
from minigrad import nn, optim

PROGRAM = "adding"
PICTURES = "learning_curves.png", "gradient_flow.png"
CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
GUESSING = 1 / 6  # the variance of the sum of two numbers, each uniform between 0 and 1
SOLVED = 0.01  # the mean squared error, on problems that are new to the net, below which we say that it solves them
LATELY = 25  # updates over whose losses a mean is taken
TEST_ROWS, FLOW_ROWS = 1000, 100


# ---- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    cells: Sequence[str] = option(tuple(CELLS), commands.one_of(CELLS), "CELL", "which nets to train", several=True)
    length: int = option(200, partial(commands.number, int, 2), "N", "steps of a sequence")
    units: int = option(32, count, "N", "units of each cell")
    batch: int = option(32, count, "N", "sequences of each update")
    steps: int = option(3000, count, "N", "updates of a net, at most: it stops where the problem is solved")
    lr: float = option(0.02, positive, "X", "learning rate of Adam at first; it falls along a line to 0")
    clip: float = option(1.0, positive, "X", "largest norm of the gradient of all weights together")
    seed: int = option(0, whole, "N", "of the weights and of the problems")


# ---- task ----------------------------------------------------------------------------------------------------------


def problems(rows: int, length: int, seed: Sequence[int]) -> tuple[mg.Tensor, mg.Tensor]:
    """Inputs (length, rows, 2), the numbers and the marks, and the sum (rows, 1) of the marked numbers."""
    rng = mg.random.generator(seed)
    numbers = rng.random((length, rows))
    marks = np.zeros((length, rows))
    half = length // 2
    marks[rng.integers(0, half, rows), np.arange(rows)] = 1
    marks[rng.integers(half, length, rows), np.arange(rows)] = 1
    sums = (numbers * marks).sum(axis=0)[:, None]
    return mg.tensor(np.stack([numbers, marks], axis=-1), dtype="float32"), mg.tensor(sums, dtype="float32")


# ---- model ---------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """A cell over time, and a linear map of its last output to one number."""

    def __init__(self, kind: str, units: int, seed: int) -> None:
        self.cell = CELLS[kind](2, units, seed=seed)
        self.readout = nn.Linear(units, 1, seed=seed)

    def __call__(self, inputs: Any) -> Any:
        outputs, _ = nn.dynamic_rnn(self.cell, inputs, time_major=True)
        return self.readout(outputs[-1])


def squared_error(said: Any, sums: Any) -> Any:
    """The mean over the rows."""
    return mg.square(said - sums).mean()


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A net in training, and what it showed."""

    kind: str
    model: Model
    history: History = field(default_factory=History)
    flow: list[np.ndarray] = field(default_factory=list)  # before and after training
    error: float = float("nan")  # at last, on problems that it has not seen


def train_net(kind: str, config: Config, console: Console) -> Run:
    """Train until the problem is solved, or all steps are done; every kind of cell gets the same problems."""
    run = Run(kind, Model(kind, config.units, config.seed))
    run.flow.append(gradient_flow(run.model, config))

    def loss_of(step: int) -> Any:
        inputs, sums = problems(config.batch, config.length, [config.seed, step])
        return squared_error(run.model(inputs), sums)

    optimiser, schedule = optim.Adam(run.model, config.lr), schedule_of(config)
    train(run.model, optimiser, loss_of, schedule, run.history, console, lambda: solved(run.history.losses), kind)
    run.error = unseen_error(run.model, config)
    run.flow.append(gradient_flow(run.model, config))
    return run


def schedule_of(config: Config) -> Schedule:
    return Schedule(config.steps, config.lr, clip=config.clip, fall=linear)


def solved(losses: Sequence[float]) -> bool:
    """Whether the mean of the latest losses says so, with a margin."""
    return len(losses) >= LATELY and float(np.mean(losses[-LATELY:])) < SOLVED / 2


def unseen_error(model: Model, config: Config) -> float:
    """The mean squared error on problems that are for nothing else."""
    inputs, sums = problems(TEST_ROWS, config.length, [config.seed, 0, 1])
    with mg.no_grad():
        return squared_error(model(inputs), sums).item()


# ---- gradient flow -------------------------------------------------------------------------------------------------


def gradient_flow(model: Model, config: Config) -> np.ndarray:
    """|d loss / d state(t)| over |d loss / d state(T)|, for t = 1 to T = length: what of the gradient gets back to t.

    The norm is over all numbers of a state (h and c of an LSTM), for each row by itself; the mean over the rows is
    taken. The loss depends on the states through one number, what the net says, so its derivative by that number stands
    above and below the line: the gradient of what the net says gives the same. What is smaller than the smallest number
    of float32 is 0.
    """
    inputs, _ = problems(FLOW_ROWS, config.length, [config.seed, 0, 2])

    def said(nudges: Any) -> Any:
        outputs, _ = nn.dynamic_rnn(Nudged(model.cell), (inputs, nudges), initial_state=start, time_major=True)
        return model.readout(outputs[-1]).sum()

    start = model.cell.zero_state(FLOW_ROWS)
    gradient, _ = mg.tree.flatten(gradient_by_states(said, config.length, start))
    norms = np.linalg.norm(np.concatenate(gradient, axis=-1).astype("float64"), axis=-1)
    return (norms / norms[-1]).mean(axis=1)


# ---- pictures ------------------------------------------------------------------------------------------------------


def draw_learning_curves(runs: Sequence[Run], config: Config, path: Path) -> None:
    figure, axes = pictures.canvas()
    for run in runs:
        axes.semilogy(smoothed(run.history.losses), lw=1, label=f"{run.kind}, at last {run.error:.4f}")
    axes.axhline(GUESSING, ls=":", color="C7", label="always saying 1: 1/6")
    axes.axhline(SOLVED, ls="--", color="C7", label=f"solved: below {SOLVED}")
    axes.set(title=f"The adding problem over {config.length} steps", xlabel="updates", ylabel="mean squared error")
    pictures.finish(figure, path, PROGRAM)


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """The mean of the latest losses, at each step."""
    sums = np.cumsum([0.0, *losses])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - LATELY, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw_gradient_flow(runs: Sequence[Run], config: Config, path: Path) -> None:
    figure, axes = pictures.canvas()
    for i, run in enumerate(runs):
        for when, style, flow in zip(("before training", "trained"), (":", "-"), run.flow, strict=True):
            shown = np.where(flow > 0, flow, np.nan)  # 0 has no logarithm
            axes.semilogy(np.arange(1, len(flow) + 1), shown, style, color=f"C{i}", label=f"{run.kind}, {when}")
    axes.set(
        title=f"What of the gradient gets back to step t, of {config.length}",
        xlabel="t",
        ylabel="|d loss / d state(t)| / |d loss / d state(T)|",
    )
    pictures.finish(figure, path, PROGRAM)


# ---- main ----------------------------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> int:
    config = commands.made(Config, options)
    paths, console = commands.claimed(PROGRAM, options.out, *PICTURES), commands.console()
    console.print(
        f"the adding problem over {config.length} steps: {config.units} units, at most {config.steps:,} updates of "
        f"{config.batch} sequences\nalways saying 1 costs {GUESSING:.4f}; solved is below {SOLVED}\n\n"
        "cell  updates   error              |gradient| at t = 1, before and after    time"
    )
    runs = []
    for kind in config.cells:
        run = train_net(kind, config, console)
        verdict = "solved" if run.error < SOLVED else "not solved"
        before, after = (flow[0] for flow in run.flow)
        console.print(
            f"{kind:4} {run.history.step:8,} {run.error:7.4f} {verdict:10} {before:19.1e} {after:14.1e} "
            f"{run.history.seconds:12.0f} s"
        )
        runs.append(run)
    draw_learning_curves(runs, config, paths[0])
    draw_gradient_flow(runs, config, paths[1])
    console.print(f"\npictures: {paths[0]}, {paths[1]}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = commands.parser(PROGRAM, "Train recurrent nets on the adding problem.", Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
