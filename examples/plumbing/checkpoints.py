"""Checkpoints: all of a run in one file, which appears whole or not at all, and from which it goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import minigrad as mg
from minigrad import nn, optim, training
from plumbing.commands import BadInputError, FirstInterrupt, mark
from plumbing.training import History, Schedule, fit


@dataclass
class Run:
    """Everything that changes while training, so everything that a checkpoint must hold, and the settings."""

    config: Any  # a dataclass of what JSON can hold; its `steps` are those of the whole run
    model: nn.Module
    optimiser: optim.Adam
    state: Any  # what the cells remember from one step of training to the next
    history: History = field(default_factory=History)


def check(path: Path | None, resume: bool) -> None:
    """No run is written over another's checkpoint, and what is gone on with has one."""
    if resume and path is None:
        raise BadInputError("--resume needs --checkpoint FILE, the file to go on with")
    if not resume and path is not None and path.exists():
        raise BadInputError(f"{path} exists and is kept: add --resume to go on with it, or name another --checkpoint")


def save(run: Run, path: Path | None, program: str, data: str) -> None:
    """Write a run; without a path, nothing. `data` says what it is trained on, to know that again."""
    if path is None:
        return
    history = run.history
    arrays: dict[str, Any] = {"losses": np.array(history.losses)}
    arrays["validation"] = np.array(history.measured).reshape(-1, 2)
    arrays |= {f"model.{name}": array for name, array in run.model.state_dict().items()}
    arrays |= {f"optimiser.{name}": array for name, array in run.optimiser.state_dict().items()}
    arrays |= {f"state.{i}": leaf for i, leaf in enumerate(mg.tree.flatten(run.state)[0])}
    meta = {"program": mark(program), "config": asdict(run.config), "data": data}
    training.save(path, arrays, meta | {"seconds": history.seconds, "times": history.times})


def save_first(run: Run, path: Path | None, program: str, data: str) -> None:
    """Save before any work is done, so that a file that cannot be written costs nobody's time."""
    try:
        save(run, path, program, data)
    except (OSError, ImportError) as error:
        raise BadInputError(f"cannot write --checkpoint {path}: {getattr(error, 'strerror', None) or error}") from None


def fit_and_save(
    run: Run,
    loss_of: Callable[[int], Any],
    schedule: Schedule,
    measure: Callable[[], float],
    console: Console,
    metric: str,
    keep: Callable[[], None],
) -> None:
    """`fit` a run from where it is, until Ctrl-C at most. It is kept at the end and with each measurement, before this
    is told: what stands in the table is saved.
    """
    history = run.history

    def enough() -> bool:
        if history.measured and history.measured[-1][0] == history.step:
            keep()
        return interrupt.came

    going_on = {"history": history, "optimiser": run.optimiser, "enough": enough}
    with FirstInterrupt() as interrupt:
        fit(run.model, loss_of, schedule, measure, console, metric, **going_on)
        keep()


def load(path: Path, program: str, config: type[Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the rest of a checkpoint of this program, with these settings."""
    try:
        arrays, meta = training.load(path)
    except (OSError, ValueError, ImportError) as error:
        raise BadInputError(f"cannot read --checkpoint: {error}") from None
    if meta.get("program") != mark(program):
        raise BadInputError(f"--checkpoint {path} holds something else than a run of this program")
    if set(meta["config"]) != {f.name for f in fields(config)}:
        raise BadInputError(
            f"--checkpoint {path} was made by another version of this program: begin anew with another --checkpoint"
        )
    return arrays, meta


def resumed(stored: Any, given: Mapping[str, Any], changeable: Collection[str]) -> Any:
    """The settings of a checkpoint; what was given on the command line must not contradict them, but for some."""
    for name, value in given.items():
        if name not in changeable and value != getattr(stored, name):
            raise BadInputError(
                f"the checkpoint was made with --{name} {getattr(stored, name)}, not {value}: leave --{name} out, or "
                "begin anew with another --checkpoint"
            )
    return replace(stored, **{name: value for name, value in given.items() if name in changeable})


def restore(run: Run, path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Put a run, made with the same settings, where the checkpoint's was, bit for bit. It may not end before that."""

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    try:
        run.model.load_state_dict(part("model."))
        run.optimiser.load_state_dict(part("optimiser."))
        leaves, structure = mg.tree.flatten(run.state)
        run.state = structure.build([mg.tensor(arrays[f"state.{i}"]) for i in range(len(leaves))])
        measured = [(int(step), value) for step, value in arrays["validation"].tolist()]
        run.history = History(arrays["losses"].tolist(), measured, meta["times"], meta["seconds"])
    except (KeyError, ValueError) as error:
        raise BadInputError(f"--checkpoint {path} does not fit this version of the program: {error}") from None
    if run.config.steps < run.history.step:
        raise BadInputError(
            f"the run in --checkpoint {path} has done {run.history.step} steps, more than --steps {run.config.steps}: "
            "--steps counts them all, those before --resume too; name more, or leave it out"
        )
