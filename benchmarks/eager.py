"""The price of one small operation on the tape, of the import, and of depth: `python -m benchmarks.eager`.

A chain of 1000 operations on 4 elements, forward and backward; its loss is the sum of the squares of the last
values. With arrays this small nothing is measured but bookkeeping. The same chain, written once, runs on each
library; beside it stands the same computation in plain NumPy with its derivative written by hand.

A contestant is a function of a chain and its arrays. It returns `forward`, which gives the recorded loss, and
`backward`, which takes that and gives the results.
"""

import gc
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from benchmarks import timing

OPS, SMOKE_OPS = 1000, 20
DEEP, SMOKE_DEEP = 100_000, 1000
TARGETS = {"torch": 0.8, "autograd": 0.6}
IMPORT_TARGET = 1.5
TOLERANCE = {"float64": 1e-10, "float32": 1e-3}  # a thousand roundings, relative to the largest element

Array: TypeAlias = Any
Leaves: TypeAlias = Sequence[Array]  # x, w, b, or their gradients
ByHand: TypeAlias = tuple[Array, Callable[[Array], Leaves]]  # the last values; what pulls their gradient back
Program: TypeAlias = tuple[Callable[[], Any], Callable[[Any], dict[str, Array]]]  # forward, backward


# The chains. Each keeps values and derivatives near 1 in size: subnormal numbers would be timed otherwise.


def mixed_chain(leaves: Leaves, tanh: Any, n: int) -> Array:
    x, w, b = leaves
    for _ in range(n // 5):
        x = x * w
        x = x + b
        x = x - w
        x = tanh(x)
        x = 1.001 * x
    return x


def mixed_by_hand(leaves: Leaves, n: int) -> ByHand:
    x, w, b = leaves
    tape = []
    for _ in range(n // 5):
        tape.append(x)
        x = x * w
        x = x + b
        x = x - w
        x = np.tanh(x)
        tape.append(x)
        x = 1.001 * x

    def pull(g: Array) -> Leaves:
        dw, db = np.zeros_like(w), np.zeros_like(b)
        while tape:
            g = 1.001 * g
            y = tape.pop()
            g = g * (1 - y * y)
            dw -= g
            db += g
            dw += g * tape.pop()
            g = g * w
        return g, dw, db

    return x, pull


def add_chain(leaves: Leaves, _tanh: Any, n: int) -> Array:
    x, w, _ = leaves
    for _ in range(n):
        x = x + w
    return x


def add_by_hand(leaves: Leaves, n: int) -> ByHand:
    x, w, b = leaves
    for _ in range(n):
        x = x + w

    def pull(g: Array) -> Leaves:
        dw = np.zeros_like(w)
        for _ in range(n):
            dw += g
        return g, dw, np.zeros_like(b)

    return x, pull


def multiply_chain(leaves: Leaves, _tanh: Any, n: int) -> Array:
    x, w, _ = leaves
    for _ in range(n):
        x = x * w
    return x


def multiply_by_hand(leaves: Leaves, n: int) -> ByHand:
    x, w, b = leaves
    tape = []
    for _ in range(n):
        tape.append(x)
        x = x * w

    def pull(g: Array) -> Leaves:
        dw = np.zeros_like(w)
        while tape:
            dw += g * tape.pop()
            g = g * w
        return g, dw, np.zeros_like(b)

    return x, pull


def tanh_chain(leaves: Leaves, tanh: Any, n: int) -> Array:
    x = leaves[0]
    for _ in range(n):
        x = tanh(x)
    return x


def tanh_by_hand(leaves: Leaves, n: int) -> ByHand:
    x, w, b = leaves
    tape = []
    for _ in range(n):
        x = np.tanh(x)
        tape.append(x)

    def pull(g: Array) -> Leaves:
        while tape:
            y = tape.pop()
            g = g * (1 - y * y)
        return g, np.zeros_like(w), np.zeros_like(b)

    return x, pull


CHAINS = {  # name: (for every library, by hand)
    "mixed": (mixed_chain, mixed_by_hand),
    "add": (add_chain, add_by_hand),
    "multiply": (multiply_chain, multiply_by_hand),
    "tanh": (tanh_chain, tanh_by_hand),
}


# The contestants.


def by_hand(chain: str, arrays: Leaves, n: int) -> Program:
    """The operations recorded in a plain list of arrays, the derivative of the chain written out."""
    run = CHAINS[chain][1]

    def forward() -> Any:
        out, pull = run(arrays, n)
        return np.sum(out * out), out, pull

    def backward(recorded: Any) -> dict[str, Array]:
        loss, out, pull = recorded
        return result(loss, pull(2 * out))

    return forward, backward


def minigrad_tape(chain: str, arrays: Leaves, n: int) -> Program:
    import minigrad as mg

    leaves = [mg.tensor(array, requires_grad=True) for array in arrays]
    return taped(CHAINS[chain][0], leaves, mg.tanh, n)


def torch_tape(chain: str, arrays: Leaves, n: int) -> Program:
    import torch

    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    return taped(CHAINS[chain][0], leaves, torch.tanh, n)


def mygrad_tape(chain: str, arrays: Leaves, n: int) -> Program:
    import mygrad

    mygrad.turn_memory_guarding_off()  # MyGrad's own advice for speed
    leaves = [mygrad.tensor(array) for array in arrays]
    return taped(CHAINS[chain][0], leaves, mygrad.tanh, n, detach=lambda leaf: leaf.null_grad())


def taped(
    run: Callable[..., Array],
    leaves: list[Array],
    tanh: Any,
    n: int,
    detach: Callable[[Array], object] = lambda leaf: setattr(leaf, "grad", None),
) -> Program:
    """Forward and backward of a library with `loss.backward()` and `leaf.grad`."""

    def forward() -> Any:
        for leaf in leaves:
            detach(leaf)
        out = run(leaves, tanh, n)
        return (out * out).sum()

    def backward(loss: Any) -> dict[str, Array]:
        loss.backward()
        return result(loss.item(), [leaf.grad for leaf in leaves])

    return forward, backward


def autograd_tape(chain: str, arrays: Leaves, n: int) -> Program:
    import autograd
    import autograd.numpy as anp

    def loss(*leaves: Array) -> Array:
        out = CHAINS[chain][0](leaves, anp.tanh, n)
        return anp.sum(out * out)

    record = autograd.make_vjp(loss, argnum=(0, 1, 2))

    def forward() -> Any:
        return record(*arrays)

    def backward(recorded: Any) -> dict[str, Array]:
        pull, value = recorded
        return result(value, pull(np.ones_like(value)))

    return forward, backward


def result(loss: Array, gradients: Leaves) -> dict[str, Array]:
    return {"loss": loss, **dict(zip(("dx", "dw", "db"), gradients, strict=True))}


CONTESTANTS: dict[str, tuple[str, Callable[..., Program]]] = {  # name: (library it needs, function)
    "by-hand": ("numpy", by_hand),
    "torch": ("torch", torch_tape),
    "mygrad": ("mygrad", mygrad_tape),
    "autograd": ("autograd", autograd_tape),
    "minigrad": ("minigrad", minigrad_tape),
}


def draw(dtype: str) -> Leaves:
    """x, w, b of 4 elements; w and b near 1."""
    normal = np.random.default_rng(0).normal(size=(3, 4))
    return [array.astype(dtype) for array in (normal[0], 1 + 0.001 * normal[1], 1 + 0.001 * normal[2])]


def checked(chain: str, dtype: str, n: int, name: str) -> Program:
    """The program, after making sure that it computes what the hand-written one computes in float64."""
    forward, backward = by_hand(chain, draw("float64"), n)
    expected = backward(forward())
    forward, backward = CONTESTANTS[name][1](chain, draw(dtype), n)
    got = {key: 0 * expected[key] if value is None else value for key, value in backward(forward()).items()}
    timing.equal(f"{name} ({chain}, {dtype})", got, expected, TOLERANCE[dtype])
    return forward, backward


def chains(names: list[str], n: int, repeats: int) -> None:
    targets = {name: target for name, target in TARGETS.items() if {name, "minigrad"} <= set(names)}
    rows: list[list[object]] = []
    for dtype in TOLERANCE:
        for chain in CHAINS:
            steps = {name: in_one(*checked(chain, dtype, n, name)) for name in names}
            samples = timing.interleaved(steps, repeats)
            medians = [1e6 * statistics.median(samples[name]) / n for name in names]
            ratios = [timing.ratio(samples, "minigrad", name) for name in targets]
            rows.append([f"{chain}, {dtype}", *medians, *ratios])
    print(f"The same values and gradients, in both dtypes, from {', '.join(names)}\n")
    print(f"Microseconds an operation, forward + backward, chains of {n} on 4 elements:\n")
    heads = [f"ratio to {name} (<= {target})" for name, target in targets.items()]
    timing.table(["chain", *names, *heads], rows)


def in_one(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> Callable[[], object]:
    return lambda: backward(forward())


def deep(names: list[str], n: int) -> None:
    """One long chain: the time of each phase; then, in another run, the peak memory that Python sees."""
    rows: list[list[object]] = []
    for name in names:
        try:
            program = checked("mixed", "float64", n, name)
            times = [1e6 * seconds / n for seconds in phases(*program)]
            rows.append([name, *times, "-" if name == "torch" else peak_bytes(*program) / n])
        except RecursionError:
            rows.append([name, "RecursionError", "-", "-", "-"])
    print(f"One mixed chain of {n} operations, float64; microseconds and bytes an operation:\n")
    timing.table(["", "forward", "backward", "free", "peak bytes"], rows)
    print("free: dropping the last reference, and a garbage collection.", end=" ")
    print("Python cannot see the memory of torch's tape.\n" if "torch" in names else "\n")


def phases(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> list[float]:
    """Seconds of forward, of backward, and of freeing what they made."""
    with timing.without_garbage():
        marks = [time.perf_counter()]
        recorded = forward()
        marks.append(time.perf_counter())
        backward(recorded)
        marks.append(time.perf_counter())
        del recorded
        gc.collect()
        marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def peak_bytes(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        backward(forward())
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def imports(runs: int) -> None:
    """Seconds of an import in a fresh process, without the start of the interpreter."""
    samples: dict[str, list[float]] = {"numpy": [], "minigrad": []}
    with tempfile.TemporaryDirectory() as folder:  # for bytecode, so that both are compiled whatever was set
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        for run in range(runs + 1):
            for library, times in samples.items():
                code = f"from time import perf_counter as now; t = now(); import {library}; print(now() - t)"
                seconds = subprocess.check_output([sys.executable, "-c", code], env=environment)
                if run > 0:  # the first compiles
                    times.append(float(seconds))
    medians = [1e3 * statistics.median(times) for times in samples.values()]
    print(f"Import in a fresh process, milliseconds, median of {runs}:\n")
    ratio = timing.ratio(samples, "minigrad", "numpy")
    timing.table(["", *samples, f"ratio (<= {IMPORT_TARGET})"], [["import", *medians, ratio]])


def main() -> None:
    parser = timing.arguments("The eager tape: small operations, depth, import.", CONTESTANTS, 1, repeats=40)
    options = parser.parse_args()
    timing.pin_threads(options.threads)
    timing.header(options.threads)
    names = [name for name in options.only or CONTESTANTS if timing.installed(CONTESTANTS[name][0])]
    print()
    chains(names, SMOKE_OPS if options.smoke else OPS, 2 if options.smoke else options.repeats)
    deep(names, SMOKE_DEEP if options.smoke else DEEP)
    if "minigrad" in names:
        imports(1 if options.smoke else 21)


if __name__ == "__main__":
    main()
