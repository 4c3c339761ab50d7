"""What a scan costs beside its arithmetic: tracing and compiling, memory, and how both grow with time."""

import gc
import itertools
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

import minigrad as mg
from benchmarks import by_hand, cells, contest, ours, plain, timing
from benchmarks.cells import Array, Cell
from benchmarks.contest import Contestant, Rounds, Size
from minigrad.scan.program import Program

SMALLEST = Size(1, 1, 1, 1)
MOST_OVERHEAD, MOST_MISS = 120.0, 15.0  # microseconds, milliseconds
MOST_GROWTH = 1.5  # of the time of a step, from 100 steps to 10,000
MOST_FLOATS, MOST_MIB = 20.0, 64.0


# ---- trace, key, record, compile -----------------------------------------------------------------------------------


def overhead(rounds: Rounds, smoke: bool) -> None:
    """With one step, one row and one unit, arithmetic is nearly free."""
    calls = {
        "forward": forward(requires_grad=True),
        "its program alone": program_alone(forward(requires_grad=True)),
        "forward + backward": ours.scan(cells.LSTM, *contest.draw(SMALLEST)),
        "forward, no gradient": forward(requires_grad=False),
    }
    samples = timing.interleaved(calls, 2 if smoke else 10 * rounds.count, rounds.seconds)
    micros = {name: 1e6 * statistics.median(seconds) for name, seconds in samples.items()}
    print("A call of scan with the LSTM's body, T = B = I = H = 1, microseconds:\n")
    timing.table(["", *micros], [["a call", *micros.values()]])
    misses = 1e3 * statistics.median(cache_misses(3 if smoke else 23))
    print("A cache miss: the first call with gates in an order not seen before, forward + backward, less the second.\n")
    what = "trace, key and record of the LSTM: a call forward, less its program alone, microseconds"
    contest.verdict(what, micros["forward"] - micros["its program alone"], MOST_OVERHEAD)
    contest.verdict("a cache miss of the LSTM, forward and backward, milliseconds", max(0.0, misses), MOST_MISS)


def forward(requires_grad: bool) -> Callable[[], mg.Tensor]:
    x, parameters = contest.draw(SMALLEST)
    inputs, *weights = ours.leaves(x, parameters, requires_grad)
    start = ours.zeros(cells.LSTM, x, parameters)
    return lambda: ours.run(cells.LSTM, inputs, weights, start)


def program_alone(call: Callable[[], mg.Tensor]) -> Callable[[], Any]:
    """The last compiled program that a call runs, on the same arrays again."""
    ran: list[Callable[[], Any]] = []
    run = Program.run

    def noting(program: Program, *args: Any) -> Any:
        ran.append(partial(run, program, *args))
        return ran[-1]()

    with patch.object(Program, "run", noting):
        call()
    return ran[-1]


def cache_misses(count: int) -> list[float]:
    """Seconds that the first call takes longer than the second, for bodies that differ in where they slice."""
    extra = []
    for order in itertools.islice(itertools.permutations("ifgo"), 1, 1 + count):  # the first may have been seen
        step = ours.scan(Cell(2, cells.lstm_in_order("".join(order))), *contest.draw(SMALLEST))
        gc.collect()
        marks = [time.perf_counter()]
        for _ in range(2):
            step()
            marks.append(time.perf_counter())
        extra.append((marks[1] - marks[0]) - (marks[2] - marks[1]))
    return extra


# ---- time ----------------------------------------------------------------------------------------------------------


def linear(rounds: Rounds, smoke: bool) -> None:
    """The time of a step must not depend on how many there are."""
    steps = (10, 20) if smoke else (100, 1000, 10_000)
    contestants = {
        "by-hand-best": Contestant("numpy", lambda x, parameters: by_hand.best(x, *parameters.values()), plain.LSTM),
        "minigrad-scan": Contestant("minigrad", partial(ours.scan, cells.LSTM), plain.LSTM),
    }
    growth, rows = {}, []
    for B, H in ((1, 32), (8, 64)):
        micros = {}
        for T in steps:
            samples = contest.measure("linear", Size(T, B, H, H), "lstm", contestants, rounds)
            micros[T] = [1e6 * statistics.median(samples[name]) / T for name in contestants]
            rows.append([f"{T}, {B}, {H}", *micros[T]])
        growth[B, H] = [last / first for first, last in zip(micros[steps[0]], micros[steps[-1]], strict=True)]
    print("\nMicroseconds a step, LSTM, forward + backward:\n")
    timing.table(["T, B, I = H", *contestants], rows)
    for (B, H), (by_hands, minigrads) in growth.items():
        what = f"time of a step at T = {steps[-1]:,} / at {steps[0]}, (B, H) = ({B}, {H})"
        contest.verdict(f"{what}; by-hand-best {by_hands:.2f}", minigrads, MOST_GROWTH)


# ---- memory --------------------------------------------------------------------------------------------------------


def memory(rounds: Rounds, smoke: bool) -> None:
    """The peak that Python sees, less what was there before, the results, and their gradients."""
    print("Peak memory beyond inputs, outputs and the gradients of both:\n")
    size, long = (Size(8, 3, 4, 5), Size(50, 3, 4, 4)) if smoke else (Size(100, 32, 128, 128), Size(100_000, 8, 64, 64))
    T, B, _, H = size
    floats = peak_bytes(cells.LSTM, "lstm", size) / (4 * T * B * H)
    print(f"LSTM at {size}: {floats:.3g} T*B*H floats")
    for times in (1, 4):
        more = size._replace(T=times * T)
        kept = peak_bytes(cells.LSTM, "lstm", more, requires_grad=False)
        print(f"LSTM at {more}, no gradient wanted: {kept / (4 * B * H):.4g} B*H floats")
    large = {}
    for name, cell, parameters in (("vanilla", cells.VANILLA, "rnn"), ("LSTM", cells.LSTM, "lstm")):
        started = time.perf_counter()
        large[name] = peak_bytes(cell, parameters, long, checkpoint="sqrt") / 2**20
        seconds = time.perf_counter() - started
        print(f'{name} at {long}, checkpoint="sqrt": {large[name]:.3g} MiB ({seconds:.0f} s, watching memory)')
    print()
    contest.verdict(f"memory of the LSTM at {size}, T*B*H floats", floats, MOST_FLOATS)
    for name, mebibytes in large.items():
        contest.verdict(f'memory of the {name} at {long}, checkpoint="sqrt", MiB', mebibytes, MOST_MIB)


def peak_bytes(cell: Cell, parameters: str, size: Size, requires_grad: bool = True, **options: Any) -> float:
    """With the gradient of the outputs given, so that no loss keeps anything.

    Buffers that stay between calls count; what a compiled program itself takes does not: it is there before.
    """
    compiled = one_call(cell, parameters, size._replace(T=min(size.T, 10)), requires_grad, **options)
    compiled()
    call = one_call(cell, parameters, size, requires_grad, **options)
    gc.collect()
    tracemalloc.start()
    try:
        results = sum(array.nbytes for array in call())
        return float(tracemalloc.get_traced_memory()[1] - results)
    finally:
        tracemalloc.stop()


def one_call(cell: Cell, parameters: str, size: Size, requires_grad: bool, **options: Any) -> Callable[[], list[Array]]:
    """A function that gives the outputs, and, where wanted, the gradients of inputs and parameters."""
    x, arrays = contest.draw(size, parameters)
    inputs, *weights = tensors = ours.leaves(x, arrays, requires_grad)
    start = ours.zeros(cell, x, arrays)
    d_outputs = np.ones((size.T, size.B, size.H), x.dtype)

    def call() -> list[Array]:
        outputs = ours.run(cell, inputs, weights, start, **options)
        if not requires_grad:
            return [outputs.data]
        outputs.backward(d_outputs)
        return [outputs.data, *(tensor.grad for tensor in tensors)]

    return call
