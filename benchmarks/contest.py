"""Contestants at some sizes: all must agree with the plain program, take turns, and are put into tables."""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from benchmarks import timing
from benchmarks.cells import Array, Arrays, Results, Step

MOST_FLOPS = 5e9  # in x @ W_x and h @ W_h together; above, the slow contestants sit out
TOLERANCE = 1e-4  # float32 against float64, relative to the largest element of each array

Reference: TypeAlias = Callable[[Array, Arrays], Results]
Samples: TypeAlias = "dict[Size, dict[str, list[float]]]"


class Size(NamedTuple):
    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Contestant(NamedTuple):
    """`make(x, parameters)` does what is done once and returns the step; `reference` has the results it must have."""

    library: str
    make: Callable[[Array, Arrays], Step]
    reference: Reference | None  # None: computes nothing that could be compared
    slow: bool = False

    def sits_out(self, size: Size) -> bool:
        T, B, I, H = size
        return self.slow and 2 * T * B * 4 * H * (I + H) > MOST_FLOPS


Contestants: TypeAlias = Mapping[str, Contestant]


class Rounds(NamedTuple):
    """At most `count` rounds, at least five and then no more than about `seconds` at one size."""

    count: int
    seconds: float


def parse_size(text: str) -> Size:
    numbers = text.split(",")
    if len(numbers) != len(Size._fields):
        raise argparse.ArgumentTypeError(f"{text!r} is not T,B,I,H, as in 100,32,128,128")
    return Size(*map(timing.positive, numbers))


def draw(size: Size, cell: str = "lstm") -> tuple[Array, Arrays]:
    """Inputs and parameters in float32: weights of the usual scale, a forget bias of 1."""
    T, B, I, H = size
    rng = np.random.default_rng(0)
    shapes = {
        "lstm": {"W_x": (I, 4 * H), "W_h": (H, 4 * H), "b": 4 * H},
        "gru-after": {"W_x": (I, 3 * H), "W_h": (H, 3 * H), "b_x": 3 * H, "b_h": 3 * H},
        "gru-before": {"W_x": (I, 3 * H), "W_rz": (H, 2 * H), "W_n": (H, H), "b": 3 * H},
        "rnn": {"W_x": (I, H), "W_h": (H, H), "b": H},
        "stack": {"W_x": (I, 4 * H), "W_h": (H, 4 * H), "b": 4 * H}
        | {"W_x2": (H, 4 * H), "W_h2": (H, 4 * H), "b2": 4 * H},
        "both": {"W_x": (I, 4 * H), "W_h": (H, 4 * H), "b": 4 * H}
        | {"W_x2": (I, 4 * H), "W_h2": (H, 4 * H), "b2": 4 * H},
    }[cell]
    x = rng.normal(size=(T, B, I)).astype("float32")
    parameters = {}
    for name, shape in shapes.items():
        scale = 1 / math.sqrt(shape[0]) if isinstance(shape, tuple) else 0.1
        parameters[name] = (scale * rng.normal(size=shape)).astype("float32")
        if cell in {"lstm", "stack", "both"} and name.startswith("b"):
            parameters[name][H : 2 * H] += 1
    return x, parameters


def measure(title: str, size: Size, cell: str, contestants: Contestants, rounds: Rounds) -> dict[str, list[float]]:
    """Checks that all agree with the plain program in float64, then times them."""
    x, parameters = draw(size, cell)
    entered = {name: contestant for name, contestant in contestants.items() if not contestant.sits_out(size)}
    steps = {name: contestant.make(x, parameters) for name, contestant in entered.items()}
    expected: dict[Reference, Results] = {}
    errors = {}
    for name, contestant in entered.items():
        if contestant.reference is None:
            continue
        if contestant.reference not in expected:
            precise = {key: array.astype("float64") for key, array in parameters.items()}
            expected[contestant.reference] = contestant.reference(x.astype("float64"), precise)
        errors[name] = timing.equal(f"{name} at {size}", steps[name](), expected[contestant.reference], TOLERANCE)
    if errors:
        worst = max(errors.values())
        print(f"{title} at {size}: the same values and gradients, to {worst:.0e}, from {', '.join(errors)}", flush=True)
    expected.clear()
    return timing.interleaved(steps, rounds.count, rounds.seconds)


def measure_all(title: str, sizes: Iterable[Size], cell: str, contestants: Contestants, rounds: Rounds) -> Samples:
    samples = {size: measure(title, size, cell, contestants, rounds) for size in sizes}
    print_medians(samples, contestants)
    return samples


def print_medians(samples: Samples, contestants: Contestants) -> None:
    print("\nMilliseconds, forward + backward, medians:\n")
    rows = [
        [size, *(1e3 * statistics.median(row[name]) if name in row else "-" for name in contestants)]
        for size, row in samples.items()
    ]
    timing.table(["T,B,I,H", *contestants], rows)
    absent = [name for name, contestant in contestants.items() if any(map(contestant.sits_out, samples))]
    if absent:
        print(f"-: {' and '.join(absent)} sit out above {MOST_FLOPS:.0e} flops in the forward products\n")


def print_ratios(samples: Samples, ours: str, others: Iterable[str]) -> None:
    others = [name for name in others if any(name in row for row in samples.values())]
    if not any(ours in row for row in samples.values()) or not others:
        return
    print(f"{ours}, time relative to each (below 1: it is faster):\n")
    rows = [[size, *(ratio(row, ours, name) or "-" for name in others)] for size, row in samples.items()]
    columns = [[ratio(row, ours, name) for row in samples.values() if name in row] for name in others]
    means = [statistics.geometric_mean(column) if column else "-" for column in columns]
    timing.table(["T,B,I,H", *others], [*rows, ["geometric mean", *means]])


def ratio(row: Mapping[str, list[float]], one: str, other: str) -> float | None:
    return timing.ratio(row, one, other) if one in row and other in row else None


# ---- targets -------------------------------------------------------------------------------------------------------


def verdict(what: str, value: float, most: float, otherwise: str = "short") -> None:
    """One line for one target. It is a report: nothing depends on it, as no time may fail anything."""
    print(f"{'PASS' if value <= most else otherwise:5}  {what}: {timing.text(float(value))} (at most {most:.3g})")


def at_every_size(
    samples: Samples, ours: str, other: str, most: float | Callable[[Size], float | None], otherwise: str = "short"
) -> None:
    """The worst ratio among the sizes that share a target; a function `most` gives None where there is none."""
    ratios = {size: ratio(row, ours, other) for size, row in samples.items()}
    limits = {size: most(size) if callable(most) else most for size in samples}
    for limit in dict.fromkeys(limits.values()):
        among = [(value, size) for size, value in ratios.items() if value is not None and limits[size] == limit]
        if limit is not None and among:
            value, size = max(among)
            verdict(f"{ours} / {other}, worst of {len(among)}, at {size}", value, limit, otherwise)


def on_average(samples: Samples, ours: str, other: str, most: float) -> None:
    found = [value for row in samples.values() if (value := ratio(row, ours, other)) is not None]
    if found:
        verdict(f"{ours} / {other}, geometric mean of {len(found)}", statistics.geometric_mean(found), most)
