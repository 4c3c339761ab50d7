"""What both benchmarks share: pinned threads, interleaved medians, the equality check, tables.

NumPy, torch and JAX size their thread pools when they are loaded, so `pin_threads` starts the program again
with the environment set; nothing else would hold for all of them.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

RIVALS = ("torch", "jax", "autograd", "mygrad")
POOLS = (  # the last is what JAX reads
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC",
)  # fmt: skip
UNTIMED_BELOW = 0.05  # seconds: steps shorter than this get an untimed call first, to warm the caches
FEWEST_ROUNDS = 5
REST = 0.1  # seconds: OpenBLAS's threads sleep after about a quarter of that without work
SAMPLE = 0.005  # seconds: one sample of a short step lasts about this long


def arguments(description: str, contestants: Iterable[str], threads: int, repeats: int) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=positive, default=threads, help=f"default {threads}")
    parser.add_argument("--repeats", type=positive, default=repeats, help=f"at most (default {repeats})")
    parser.add_argument("--only", nargs="+", choices=list(contestants), help="who takes part (default all)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run and agree?")
    return parser


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def pin_threads(threads: int) -> None:
    """Continues in a process whose libraries were loaded with `threads` threads each."""
    wanted = {name: str(threads) for name in POOLS} | {"JAX_PLATFORMS": "cpu"}
    if threads == 1:
        wanted["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        again = [sys.executable, "-m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]]
        sys.exit(subprocess.run(again, env={**os.environ, **wanted}, check=False).returncode)
    if installed("torch"):
        import torch

        torch.set_num_threads(threads)


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def header(threads: int) -> None:
    """Prints the machine, the versions, and which rivals are missing."""
    if not installed("minigrad"):
        sys.exit("minigrad is not installed: pip install -e '.[bench]', in the root of the repository")
    print(f"CPU: {cpu_name()}, {usable_cpus()} usable; threads: {threads}")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}", end="")
    for library in ("minigrad", *filter(installed, RIVALS)):
        print(f", {library} {version(library)}", end="")
    print()
    missing = [library for library in RIVALS if not installed(library)]
    if missing:
        print(f"Not installed, so not measured: {', '.join(missing)} (the extra minigrad[bench] has them)")


def version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "(source tree)"


def cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, seconds: float = float("inf")
) -> dict[str, list[float]]:
    """Seconds a call, one sample a round for each step; all steps take a turn in every round.

    Stops after `rounds` rounds, or after `seconds` and five rounds. The order of the turns is drawn for each round,
    and before each there is a rest: threads of one library that wait for more work, spinning, would take time from
    the next. A short step is called once untimed at each turn, as the caches hold the last contestant's data, and
    then often enough to be measured. Garbage collection is on, since its work is part of the price, and each turn
    begins without garbage.
    """
    samples: dict[str, list[float]] = {name: [] for name in steps}
    order, draws = list(steps), random.Random(0)
    rest = 0.0 if os.environ.get(POOLS[0]) == "1" else REST  # alone, a thread waits for nobody
    started = time.perf_counter()
    with without_garbage():
        for done in range(rounds):
            if done >= FEWEST_ROUNDS and time.perf_counter() - started > seconds:
                break
            draws.shuffle(order)
            for name in order:
                gc.collect()
                time.sleep(rest)
                samples[name].append(sample(steps[name], expected=min(samples[name], default=0.0)))
    return samples


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """Keeps the collector, while it works, from searching all that was imported and set up before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def sample(step: Callable[[], object], expected: float) -> float:
    if expected < UNTIMED_BELOW:
        step()
    calls = max(1, round(SAMPLE / expected)) if expected else 1
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def ratio(samples: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """Time of `one` over time of `other`: the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(samples[one], samples[other], strict=True))


def equal(name: str, got: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> float:
    """The largest difference, relative to the largest element of its array; exits if it is above `tolerance`.

    A contestant that computes something else would make the whole comparison worthless.
    """
    worst = 0.0
    for key, reference in expected.items():
        value = np.asarray(got[key], dtype="float64")
        if value.shape != np.shape(reference):
            sys.exit(f"{name}: {key} has shape {value.shape}, expected {np.shape(reference)}")
        scale = max(float(np.max(np.abs(reference))), np.finfo("float64").tiny)
        error = float(np.max(np.abs(value - reference))) / scale
        if not error <= tolerance:
            sys.exit(f"{name} computes something else: {key} is off by {error:.1e} (at most {tolerance:.0e})")
        worst = max(worst, error)
    return worst


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table: the first column flush left, numbers flush right with three digits."""
    cells = [list(heads), *([text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    for first, *rest in cells:
        numbers = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print(f"| {' | '.join([first.ljust(widths[0]), *numbers])} |")
    print(flush=True)


def text(cell: object) -> str:
    """A number with three significant digits and no exponent; everything else as it is."""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if cell >= 100 else f"{cell:.3g}"
