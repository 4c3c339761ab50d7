"""Backpropagation through time in five steps: a small recurrent net reads a word and predicts its next characters.

    python examples/bptt.py

prints the tape, what walks back along it, each step's share of a weight's gradient, the same gradient by forward mode,
which state acts on which loss, and the program that `scan` makes of it all. It saves one picture. Read it from top to
bottom beside what it prints; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbing import commands, pictures

# isort: split

import numpy as np

import minigrad as mg

PROGRAM = "bptt"
UNITS = 4
END = "."  # to be predicted after the last character of the word


def readable(word: str) -> str:
    if not 2 <= len(word) <= 12 or END in word:
        raise argparse.ArgumentTypeError(f"has 2 to 12 characters and no {END!r}, which marks its end, got {word!r}")
    return word


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    word: str = commands.option("hello", readable, "WORD", "what the net reads, 2 to 12 characters")
    seed: int = commands.option(0, commands.whole, "N", "of the weights")


class Net:
    """A vanilla recurrent net: its weights, its step, and the loss of its states."""

    def __init__(self, characters: int, seed: int) -> None:
        shapes = {"W_x": (characters, UNITS), "W_h": (UNITS, UNITS), "W_y": (UNITS, characters)}
        self.W_x, self.W_h, self.W_y = (
            mg.tensor(mg.random.normal(shape, [seed, i]) / 2, requires_grad=True, name=name)
            for i, (name, shape) in enumerate(shapes.items())
        )

    def pre_activation(self, x: Any, h: Any) -> Any:
        return x @ self.W_x + h @ self.W_h

    def cell(self, x: Any, h: Any) -> tuple[Any, Any]:
        h = mg.tanh(self.pre_activation(x, h))
        return h, h

    def losses(self, h: Any, targets: Any) -> Any:
        return mg.cross_entropy(h @ self.W_y, targets)


def lesson(word: str, seed: int, picture: Path) -> None:
    """Time is axis 0 and there is one row: every x_t is (1, characters), every h_t (1, units)."""
    alphabet = sorted(set(word + END))
    tokens = np.array([[alphabet.index(character)] for character in word + END])
    xs, targets = mg.asarray(mg.one_hot(tokens[:-1], len(alphabet), dtype="float64")), mg.asarray(tokens[1:])
    net, start, steps = Net(len(alphabet), seed), mg.zeros((1, UNITS)), range(len(word))

    section("1. Forward: each operation leaves a record on the tape")
    h, states, pre_activations, losses = start, [], [], []
    with mg.Tape() as tape:
        for t in steps:
            pre_activations.append(net.pre_activation(xs[t], h))
            h = mg.tanh(pre_activations[t])
            states.append(h)
            losses.append(net.losses(h, targets[t]))
        loss = mg.stack(losses).sum()
        loss.backward()
    for t in steps:
        print(f"step {t} reads {word[t]!r} and is to say {(word + END)[t + 1]!r}: loss {losses[t].item():.4f}")
    print(
        f"The loss is their sum, {loss.item():.4f}. The tape, with the norm of the gradient that came to each record:\n"
    )
    print(tape)

    section("2. Backward: delta_t, the gradient of the loss by z_t, where h_t = tanh(z_t)")
    print("h_t acts on the loss of its own step, and through z_(t+1) = x_(t+1) W_x + h_t W_h on all later ones. Hence")
    print("delta_t = (d loss_t / d h_t + delta_(t+1) W_h^T) * (1 - h_t^2), from the last step to the first:\n")
    deltas = [host(z.record.cotangent) for z in pre_activations]  # the tape noted them
    later = np.zeros((1, UNITS))
    for t in reversed(steps):
        own = host(mg.grad(net.losses)(states[t].detach(), targets[t]))
        formula = (own + later @ host(net.W_h).T) * (1 - host(states[t]) ** 2)
        print(f"delta_{t} = {row(deltas[t][0])}   from the formula: {row(formula[0])}")
        later = formula

    section("3. Every step uses W_h, and each use has its share of the gradient")
    print("The share of step t is h_(t-1)^T delta_t. In percent: its part along the whole gradient, of either sign.\n")
    whole, shares = host(net.W_h.grad), [host(use.gradient) for use in tape.uses(net.W_h)]
    for t in steps:
        percent = 100 * (shares[t] * whole).sum() / (whole * whole).sum()
        print(f"step {t}: norm {np.linalg.norm(shares[t]):.4f}, {percent:7.2f} %")
    difference = np.abs(np.sum(shares, axis=0) - whole).max()
    print(f"Their sum is W_h.grad, of norm {np.linalg.norm(whole):.4f}; largest difference {difference:.0e}.")
    print("The first share is 0, because the first step finds h = 0.")

    section("4. The same gradient by forward mode")
    print("Nudge one weight, and carry the change forward with the states: one run for each weight. Column 0 of W_h:\n")

    def total(W_h: mg.Tensor) -> mg.Tensor:
        hs = mg.scan(lambda h, x: mg.tanh(x @ net.W_x + h @ W_h), xs, start)
        return net.losses(hs, targets).sum()

    nudges = np.eye(UNITS)[:, :, None] * np.eye(UNITS)[0]  # nudge i is 1 at row i of column 0
    forward = [mg.jvp(total, (net.W_h,), (mg.asarray(nudge),))[1].item() for nudge in nudges]
    print(f"forward   {row(forward)}\nbackward  {row(whole[:, 0])}")

    section("5. The map of credit: |d loss_tau / d h_t|, t downwards, tau to the right")
    print(
        "On the diagonal a state acts on the loss of its own step; right of it, on later ones. None acts on the past.\n"
    )
    credit = mg.explain.credit_map(net.cell, xs, lambda hs: net.losses(hs, targets), start, time_major=True)
    print("t \\ tau" + "".join(f"{tau:9}" for tau in steps))
    for t in steps:
        print(f"{t:7}" + "".join(f"{value:9.4f}" if value else f"{'.':>9}" for value in credit[t]))
    draw(credit, word, picture)
    print(f"\nThe same as a picture: {picture}")

    section("6. The program that scan makes of the step, forward and backward")
    print("What needs no state is done for all steps at once, and only the rest stands in the loops.\n")
    print(mg.explain.program(lambda h, x: net.cell(x, h)[0], xs, start))


def section(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}")


def host(values: Any) -> np.ndarray:
    return mg.asarray(values).numpy()


def row(values: Any) -> str:
    return " ".join(f"{value:8.4f}" for value in values)


def draw(credit: np.ndarray, word: str, path: Path) -> None:
    figure, axes = pictures.canvas(5.5, 4.5)
    shown = np.ma.masked_equal(credit, 0.0)  # a loss depends on no later state: left white
    figure.colorbar(axes.imshow(shown, vmin=0, cmap="viridis"), label="|d loss(tau) / d h(t)|")
    for (t, tau), value in np.ndenumerate(credit):
        if value:
            axes.text(tau, t, f"{value:.2f}", ha="center", va="center", color="w" if value < credit.max() / 2 else "k")
    axes.set(title=f"Who acts on what, reading {word!r}", xlabel="step of the loss, tau", ylabel="step of the state, t")
    axes.set_xticks(range(len(word)), [f"{t}: say {c!r}" for t, c in enumerate((word + END)[1:])])
    axes.set_yticks(range(len(word)), [f"{t}: read {c!r}" for t, c in enumerate(word)])
    axes.tick_params(axis="x", rotation=30)
    pictures.finish(figure, path, PROGRAM, legend=False)


def work(options: argparse.Namespace) -> int:
    [picture] = commands.claimed(PROGRAM, options.out, "credit_map.png")
    lesson(options.word, options.seed, picture)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = commands.parser(PROGRAM, "Backpropagation through time, shown in six sections.", Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
