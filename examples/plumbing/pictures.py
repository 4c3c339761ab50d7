"""Pictures: saved as PNG, without a display, and known again by the name of the program in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from plumbing.commands import mark

rcParams["text.parse_math"] = False  # labels and names of files are data: a $ in them is a $


def canvas(width: float = 7, height: float = 4, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes, one or those that `subplots` makes of the options."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**options)


def finish(figure: Figure, path: Path, program: str, legend: bool = True) -> None:
    """Save a picture; with a legend, as a plot of curves has it, and a grid."""
    for axes in figure.axes if legend else ():
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": mark(program)})


def confusion(axes: Any, true: np.ndarray, said: np.ndarray, labels: Sequence[str]) -> None:
    """How many of each true label are called what; darker is a larger share of them."""
    table = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(table, (true, said), 1)
    shares = table / table.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), number in np.ndenumerate(table):
        if number:
            axes.text(j, i, number, ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="said", ylabel="true")


def swatches(axes: Any, colours: Iterable[Any], texts: Iterable[str], columns: int) -> None:
    """Colours in rows of so many, with words in black or white on them."""
    for i, (colour, text) in enumerate(zip(colours, texts, strict=True)):
        y, x = divmod(i, columns)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white"))
        ink = "black" if np.dot(colour, (0.3, 0.6, 0.1)) > 0.5 else "white"
        axes.text(x + 0.5, y + 0.5, text, color=ink, fontsize=7, ha="center", va="center")
    axes.autoscale()
    axes.invert_yaxis()
    axes.set_axis_off()
