"""The adding problem: what a plain recurrent net cannot learn over 200 steps, and gated ones can.

    python examples/adding.py

At each step the net reads a random number between 0 and 1 and a mark; two steps are marked, one in each half of the
sequence. After the last step it says the sum of the two marked numbers. To say 1 each time costs 1/6, the variance of
the sum: less is learnt only by remembering over many steps. A vanilla net, a GRU and an LSTM are trained, and two
pictures are saved: their learning curves, and how far back the gradient of the loss reaches, before and after training.

Source: Hochreiter and Schmidhuber, "Long short-term memory" (1997), in the form with numbers from 0 to 1 and one mark
in each half. `--help` lists all settings.

From top to bottom: settings, task, model, training, gradient flow, pictures, command line, main.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # Matrices of this size are multiplied fastest on one core. NumPy reads it now; set it yourself for large layers.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import minigrad as mg
    from minigrad import nn, optim
except ModuleNotFoundError as missing:
    library = str(missing.name).partition(".")[0]
    print(f"adding: {library} is not installed: pip install 'minigrad[examples]'", file=sys.stderr)
    sys.exit(2)

CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
GUESSING = 1 / 6  # the variance of the sum of two numbers, each uniform between 0 and 1
SOLVED = 0.01  # the mean squared error, on problems that are new to the net, below which we say that it solves them
LATELY = 25  # updates over whose losses a mean is taken
TEST_ROWS, FLOW_ROWS = 1000, 100


class BadInputError(Exception):
    """Something that the user can mend: printed in one line, and the exit code is 2."""


# ---- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    cells: Sequence[str] = tuple(CELLS)
    length: int = 200
    units: int = 32
    batch: int = 32
    steps: int = 3000
    lr: float = 0.02
    clip: float = 1.0
    seed: int = 0


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
    optimiser: optim.Adam
    losses: list[float] = field(default_factory=list)  # of each step, before its update
    flow: list[np.ndarray] = field(default_factory=list)  # before and after training
    error: float = float("nan")  # at last, on problems that it has not seen
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The mean of the latest losses."""
        return float(np.mean(self.losses[-LATELY:]))

    @property
    def enough(self) -> bool:
        return len(self.losses) >= LATELY and self.loss < SOLVED / 2


def new_run(kind: str, config: Config) -> Run:
    model = Model(kind, config.units, config.seed)
    return Run(kind, model, optim.Adam(model, config.lr))


def training_step(run: Run, config: Config) -> None:
    """One update, on problems that are drawn for it; every kind of cell gets the same ones."""
    inputs, sums = problems(config.batch, config.length, [config.seed, len(run.losses)])
    loss = squared_error(run.model(inputs), sums)
    loss.backward()
    optim.clip_global_norm(run.model, config.clip)
    run.optimiser.lr = config.lr * (1 - len(run.losses) / config.steps)
    run.optimiser.step()
    run.losses.append(loss.item())


def unseen_error(model: Model, config: Config) -> float:
    """The mean squared error on problems that are for nothing else."""
    inputs, sums = problems(TEST_ROWS, config.length, [config.seed, 0, 1])
    with mg.no_grad():
        return squared_error(model(inputs), sums).item()


def train(run: Run, config: Config, console: Console) -> None:
    """Train until the problem is solved, or all steps are done."""
    run.flow.append(gradient_flow(run.model, config))
    begun = time.perf_counter()
    with progress_bar(console) as bar:
        task = bar.add_task(run.kind, total=config.steps)
        while len(run.losses) < config.steps and not run.enough:
            training_step(run, config)
            bar.update(task, advance=1, description=f"{run.kind}  error {run.loss:.4f}")
    run.seconds = time.perf_counter() - begun
    run.error = unseen_error(run.model, config)
    run.flow.append(gradient_flow(run.model, config))


def progress_bar(console: Console) -> Progress:
    """A moving bar on a terminal; nothing in a file or a pipe."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal)


# ---- gradient flow -------------------------------------------------------------------------------------------------


def gradient_flow(model: Model, config: Config) -> np.ndarray:
    """|d loss / d state(t)| over |d loss / d state(T)|, for t = 1 to T = length: what of the gradient gets back to t.

    Something is added to the state after every step; where it is zero nothing changes, and the gradient by it is that
    by the state. The norm is over all numbers of a state (h and c of an LSTM), for each row by itself; the mean over
    the rows is taken. The loss depends on the states through one number, what the net says, so its derivative by that
    number stands above and below the line: the gradient of what the net says gives the same. What is smaller than the
    smallest number of float32 is 0.
    """
    inputs, _ = problems(FLOW_ROWS, config.length, [config.seed, 0, 2])
    start = model.cell.zero_state(FLOW_ROWS)

    def said(nudges: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            x, nudge = x
            _, state = model.cell(x, state)
            return mg.tree.map(mg.add, state, nudge)

        states = mg.scan(step, (inputs, nudges), start)
        h = states.h if isinstance(states, nn.LSTMState) else states
        return model.readout(h[-1]).sum()

    nudges = mg.tree.map(lambda part: mg.zeros((config.length, *part.shape), part.dtype), start)
    with mg.no_grad():  # of the gradient itself
        gradient = mg.tree.flatten(mg.grad(said)(nudges))[0]
    norms = np.linalg.norm(np.concatenate([part.numpy() for part in gradient], axis=-1).astype("float64"), axis=-1)
    return (norms / norms[-1]).mean(axis=1)


# ---- pictures ------------------------------------------------------------------------------------------------------


def draw_learning_curves(runs: Sequence[Run], config: Config, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.semilogy(smoothed(run.losses), lw=1, label=f"{run.kind}, at last {run.error:.4f}")
    axes.axhline(GUESSING, ls=":", color="C7", label="always saying 1: 1/6")
    axes.axhline(SOLVED, ls="--", color="C7", label=f"solved: below {SOLVED}")
    axes.set(title=f"The adding problem over {config.length} steps", xlabel="updates", ylabel="mean squared error")
    finish(figure, path)


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """The mean of the latest losses, at each step."""
    sums = np.cumsum([0.0, *losses])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - LATELY, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw_gradient_flow(runs: Sequence[Run], config: Config, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, run in enumerate(runs):
        for when, style, flow in zip(("before training", "trained"), (":", "-"), run.flow, strict=True):
            shown = np.where(flow > 0, flow, np.nan)  # 0 has no logarithm
            axes.semilogy(np.arange(1, len(flow) + 1), shown, style, color=f"C{i}", label=f"{run.kind}, {when}")
    axes.set(
        title=f"What of the gradient gets back to step t, of {config.length}",
        xlabel="t",
        ylabel="|d loss / d state(t)| / |d loss / d state(T)|",
    )
    finish(figure, path)


def finish(figure: Figure, path: Path) -> None:
    axes = figure.axes[0]
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


# ---- command line --------------------------------------------------------------------------------------------------


def number(kind: type, low: float, text: str) -> Any:
    """The number that an option names, at least `low`."""
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not low <= value < float("inf"):
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"needs {what} of at least {low:g}, got {text!r}")
    return value


def cell(text: str) -> str:
    if text not in CELLS:
        raise argparse.ArgumentTypeError(f"takes some of {', '.join(CELLS)}, got {text!r}")
    return text


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message} (--help lists the options)")


def parser() -> Parser:
    wide = partial(argparse.HelpFormatter, max_help_position=26, width=110)
    parser = Parser("adding.py", description="Train recurrent nets on the adding problem.", formatter_class=wide)
    count, whole, positive = partial(number, int, 1), partial(number, int, 0), partial(number, float, 1e-9)
    options = {
        "length": (partial(number, int, 2), "N", "steps of a sequence"),
        "units": (count, "N", "units of each cell"),
        "batch": (count, "N", "sequences of each update"),
        "steps": (count, "N", "updates of the weights of a net, at most: it stops where the problem is solved"),
        "lr": (positive, "X", "learning rate of Adam at first; it would reach 0 after all steps, along a line"),
        "clip": (positive, "X", "largest norm of the gradient of all weights together"),
        "seed": (whole, "N", "of the weights and of the problems"),
    }
    parser.add_argument(
        "--cells", type=cell, nargs="+", metavar="CELL", default=Config.cells, help="which to train  [rnn gru lstm]"
    )
    for name, (kind, unit, meaning) in options.items():
        default = getattr(Config, name)
        parser.add_argument(f"--{name}", type=kind, metavar=unit, default=default, help=f"{meaning}  [{default}]")
    parser.add_argument("--backend", default="numpy", metavar="NAME", help="where arrays live  [numpy]")
    out = Path("runs/adding")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder for the pictures  [{out}]")
    return parser


# ---- main ----------------------------------------------------------------------------------------------------------


def work(config: Config, folder: Path) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(
        f"the adding problem over {config.length} steps: {config.units} units, at most {config.steps:,} updates of "
        f"{config.batch} sequences\nalways saying 1 costs {GUESSING:.4f}; solved is below {SOLVED}\n\n"
        "cell  updates   error              |gradient| at t = 1, before and after    time"
    )
    runs = [new_run(kind, config) for kind in config.cells]
    for run in runs:
        train(run, config, console)
        verdict = "solved" if run.error < SOLVED else "not solved"
        before, after = (flow[0] for flow in run.flow)
        console.print(
            f"{run.kind:4} {len(run.losses):8,} {run.error:7.4f} {verdict:10} {before:19.1e} {after:14.1e} "
            f"{run.seconds:12.0f} s"
        )
    pictures = folder / "learning_curves.png", folder / "gradient_flow.png"
    draw_learning_curves(runs, config, pictures[0])
    draw_gradient_flow(runs, config, pictures[1])
    console.print(f"\npictures: {pictures[0]}, {pictures[1]}")


def prepared(folder: Path) -> Path:
    """The folder for the pictures, found usable before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot use --out {folder}: {error.strerror}; name another folder") from None
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"cannot use --out {folder}: no permission to write; name another folder")
    return folder


def on_backend(name: str) -> Any:
    try:
        return mg.use_backend(name)
    except (ValueError, RuntimeError) as error:
        raise BadInputError(f"--backend: {error}") from None


def complain(error: object, code: int) -> int:
    print("adding:", " ".join(str(error).split()), file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when all is done, 1 where training or saving fails, 2 for bad input, 130 after Ctrl-C."""
    try:
        options = vars(parser().parse_args(argv))
        with on_backend(options.pop("backend")):
            folder = prepared(options.pop("out"))
            work(Config(**options), folder)
    except BadInputError as error:
        return complain(error, 2)
    except FloatingPointError as error:
        return complain(f"training broke down: {error}; a smaller --lr may help", 1)
    except OSError as error:
        return complain(f"cannot save: {error}", 1)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
