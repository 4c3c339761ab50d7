"""Recurrent networks, forward and backward, in float32: `python -m benchmarks.rnn`.

The loss is the sum of the squares of all outputs; every contestant returns the outputs, the loss, and the gradients
of the inputs and of every parameter. Rows are samples, the first state is zero. `--parts` chooses what is measured.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from benchmarks import by_hand, cells, contest, costs, ours, plain, rivals, timing
from benchmarks.cells import Array, Arrays, Results, Step
from benchmarks.contest import Contestant, Contestants, Rounds, Samples, Size, parse_size

SIZES = "50,1,32,32 100,16,64,64 100,32,128,128 100,32,256,256 50,64,512,512 400,32,128,128 50,128,1024,1024"
SMOKE_SIZES = "5,3,4,6 1,1,2,3"
FEWEST_ROWS = 16  # with lengths: fewer rows have little to save
MOST = {"by-hand-best": 1.10, "torch": 1 / 1.25, "jax": 1 / 1.15, "four": 1.25, "body": 1.10}


def by_hand_program(program: Callable[..., Step]) -> Callable[[Array, Arrays], Step]:
    return lambda x, parameters: program(x, *parameters.values())


def arranged(
    arrange: Callable[[Arrays], Arrays], make: Callable[[Array, Arrays], Step]
) -> tuple[Callable[[Array, Arrays], Step], contest.Reference]:
    """The LSTM with its parameters in another arrangement, in which its gradients are expected too."""

    def reference(x: Array, parameters: Arrays) -> Results:
        expected = plain.LSTM(x, parameters)
        gradients = arrange({name: expected.pop(f"d{name}") for name in parameters})
        return {**expected, **{f"d{name}": gradient for name, gradient in gradients.items()}}

    return lambda x, parameters: make(x, arrange(parameters)), reference


def some_lengths(T: int, B: int) -> Array:
    """Uniform in 1..T, stratified: one from each of B equal parts, in a random order."""
    strata = np.ceil((np.arange(B) + 0.5) * T / B).astype(int)
    return np.random.default_rng(0).permutation(strata)


def with_lengths(run: Callable[..., Array], x: Array, parameters: Arrays) -> Array:
    return run(x, parameters, lengths=some_lengths(*x.shape[:2]))


RENAMED, FOUR = (
    arranged(arrange, partial(ours.scan, cell))
    for arrange, cell in ((cells.in_order, cells.LSTM_RENAMED), (cells.in_four, cells.LSTM_FOUR))
)
SCAN = Contestant("minigrad", partial(ours.scan, cells.LSTM), plain.LSTM)
BEST = Contestant("numpy", by_hand_program(by_hand.best), plain.LSTM)
AFTER, BEFORE = (
    {
        f"jax-{name}": Contestant("jax", partial(rivals.jax_scan, cell), reference),
        f"minigrad-{name}": Contestant("minigrad", partial(ours.scan, cell), reference),
    }
    for name, cell, reference in (
        ("after", cells.GRU_AFTER, plain.GRU_AFTER),
        ("before", cells.GRU_BEFORE, plain.GRU_BEFORE),
    )
)

# Part: (what is drawn, contestants). A contestant has one name in all parts in which it stands.
CONTESTANTS: dict[str, tuple[str, Contestants]] = {
    "lstm": (
        "lstm",
        {
            "matmuls": Contestant("numpy", by_hand_program(by_hand.matmuls), None),
            "by-hand-best": BEST,
            "by-hand-plain": Contestant("numpy", by_hand_program(by_hand.plain), plain.LSTM),
            "torch-lstm": Contestant("torch", partial(rivals.torch_layer, "LSTM"), plain.LSTM),
            "torch-loop": Contestant("torch", rivals.torch_loop, plain.LSTM),
            "jax-scan": Contestant("jax", partial(rivals.jax_scan, cells.LSTM, hoisted=False), plain.LSTM),
            "jax-hoisted": Contestant("jax", partial(rivals.jax_scan, cells.LSTM), plain.LSTM),
            "autograd-loop": Contestant("autograd", rivals.autograd_loop, plain.LSTM, slow=True),
            "mygrad-loop": Contestant("mygrad", rivals.mygrad_loop, plain.LSTM, slow=True),
            "minigrad-nn": Contestant("minigrad", partial(ours.layer, "LSTMCell"), plain.LSTM),
            "minigrad-scan": SCAN,
        },
    ),
    "gru": (
        "gru-after",
        {"torch-gru": Contestant("torch", partial(rivals.torch_layer, "GRU"), plain.GRU_AFTER), **AFTER},
    ),
    "gru-before": (
        "gru-before",
        {**BEFORE, "minigrad-gru": Contestant("minigrad", partial(ours.layer, "GRUCell"), plain.GRU_BEFORE)},
    ),
    "rnn": (
        "rnn",
        {
            "torch-rnn": Contestant("torch", partial(rivals.torch_layer, "RNN"), plain.VANILLA),
            "jax-rnn": Contestant("jax", partial(rivals.jax_scan, cells.VANILLA), plain.VANILLA),
            "minigrad-rnn": Contestant("minigrad", partial(ours.layer, "RNNCell"), plain.VANILLA),
            "minigrad-vanilla": Contestant("minigrad", partial(ours.scan, cells.VANILLA), plain.VANILLA),
        },
    ),
    "gates": (
        "lstm",
        {
            "by-hand-best": BEST,
            "minigrad-scan": SCAN,
            "minigrad-renamed": Contestant("minigrad", *RENAMED),
            "minigrad-four": Contestant("minigrad", *FOUR),
        },
    ),
    "stack": (
        "stack",
        {
            "minigrad-two-scans": Contestant("minigrad", ours.two_scans, plain.two_layers),
            "minigrad-one-body": Contestant("minigrad", partial(ours.scan, cells.LSTM_STACK), plain.two_layers),
        },
    ),
    "deep": (
        "stack",
        {
            "torch-deep": Contestant("torch", partial(rivals.torch_two, "_l1", num_layers=2), plain.two_layers),
            "minigrad-deep": Contestant("minigrad", partial(ours.two_cells, ours.deep), plain.two_layers),
            "minigrad-layers": Contestant(
                "minigrad", partial(ours.two_cells, ours.layer_after_layer), plain.two_layers
            ),
        },
    ),
    "bidirectional": (
        "both",
        {
            "torch-both": Contestant(
                "torch", partial(rivals.torch_two, "_l0_reverse", bidirectional=True), plain.both_directions
            ),
            "minigrad-both": Contestant("minigrad", partial(ours.two_cells, ours.bidirectional), plain.both_directions),
            "minigrad-directions": Contestant(
                "minigrad", partial(ours.two_cells, ours.forth_and_back), plain.both_directions
            ),
        },
    ),
    "lengths": (
        "lstm",
        {
            "minigrad-scan": SCAN,
            "minigrad-lengths": Contestant(
                "minigrad", partial(with_lengths, partial(ours.scan, cells.LSTM)), partial(with_lengths, plain.LSTM)
            ),
        },
    ),
}
COSTS = {"overhead": costs.overhead, "linear": costs.linear, "memory": costs.memory}
PARTS = (*CONTESTANTS, *COSTS)


# ---- what is said about each part ----------------------------------------------------------------------------------


def report_lstm(samples: Samples) -> None:
    rivals_of = [name for name in CONTESTANTS["lstm"][1] if not name.startswith("minigrad")]
    for name in ("minigrad-nn", "minigrad-scan"):
        contest.print_ratios(samples, name, rivals_of)
    # A slow reference would be easy to reach, and the comparison void.
    limits = {64: 2.5, 128: 1.6, 256: 1.35, 512: 1.25}
    contest.at_every_size(samples, "by-hand-best", "matmuls", lambda size: limits.get(size.H), otherwise="VOID")
    for name in ("minigrad-nn", "minigrad-scan"):
        contest.at_every_size(samples, name, "by-hand-best", MOST["by-hand-best"])
        contest.on_average(samples, name, "torch-lstm", MOST["torch"])
        contest.on_average(samples, name, "jax-hoisted", MOST["jax"])
        contest.on_average(samples, name, "jax-scan", MOST["jax"])
        contest.at_every_size(samples, name, "autograd-loop", autograd_limit)


def autograd_limit(size: Size) -> float | None:
    limits = {64: 1 / 4, 128: 1 / 3, 256: 1 / 2}
    return next((most for units, most in limits.items() if units >= size.H), None)


def report_gru(samples: Samples) -> None:
    contest.print_ratios(samples, "minigrad-after", ["torch-gru", "jax-after"])
    contest.on_average(samples, "minigrad-after", "torch-gru", MOST["torch"])
    contest.on_average(samples, "minigrad-after", "jax-after", MOST["jax"])


def report_gru_before(samples: Samples) -> None:
    for name in ("minigrad-before", "minigrad-gru"):
        contest.print_ratios(samples, name, ["jax-before"])
        contest.on_average(samples, name, "jax-before", MOST["jax"])


def report_rnn(samples: Samples) -> None:
    for name in ("minigrad-vanilla", "minigrad-rnn"):
        contest.print_ratios(samples, name, ["torch-rnn", "jax-rnn"])


def report_gates(samples: Samples) -> None:
    for name in ("minigrad-scan", "minigrad-renamed", "minigrad-four"):
        contest.print_ratios(samples, name, ["by-hand-best"])
    contest.at_every_size(samples, "minigrad-renamed", "by-hand-best", MOST["by-hand-best"])
    contest.at_every_size(samples, "minigrad-four", "minigrad-scan", MOST["four"])


def report_stack(samples: Samples) -> None:
    contest.print_ratios(samples, "minigrad-one-body", ["minigrad-two-scans"])
    contest.at_every_size(samples, "minigrad-one-body", "minigrad-two-scans", MOST["body"])


def report_deep(samples: Samples) -> None:
    contest.print_ratios(samples, "minigrad-deep", ["torch-deep", "minigrad-layers"])
    contest.at_every_size(samples, "minigrad-deep", "minigrad-layers", MOST["body"])


def report_bidirectional(samples: Samples) -> None:
    contest.print_ratios(samples, "minigrad-both", ["torch-both", "minigrad-directions"])
    contest.at_every_size(samples, "minigrad-both", "minigrad-directions", MOST["body"])


def report_lengths(samples: Samples) -> None:
    contest.print_ratios(samples, "minigrad-lengths", ["minigrad-scan"])
    contest.at_every_size(samples, "minigrad-lengths", "minigrad-scan", lambda size: 0.7 if size.H >= 128 else 0.85)


REPORTS = {
    "lstm": report_lstm,
    "gru": report_gru,
    "gru-before": report_gru_before,
    "rnn": report_rnn,
    "gates": report_gates,
    "stack": report_stack,
    "deep": report_deep,
    "bidirectional": report_bidirectional,
    "lengths": report_lengths,
}


def where_the_time_goes(samples: Samples, contestants: Contestants, rounds: Rounds) -> None:
    """Overhead: the program with one row and one unit. Products: alone, less the same. The rest is elementwise."""
    programs = [name for name in ("by-hand-best", "minigrad-scan") if name in contestants]
    if "matmuls" not in contestants or not programs:
        return
    needed = {name: contestants[name] for name in ("matmuls", *programs)}
    tiny = {
        T: contest.measure("where the time goes", Size(T, 1, 1, 1), "lstm", needed, rounds)
        for T in dict.fromkeys(size.T for size in samples)
    }
    rows: list[list[object]] = []
    for size, row in samples.items():
        for name in programs:
            total, products, overhead, calls = map(
                statistics.median, (row[name], row["matmuls"], tiny[size.T][name], tiny[size.T]["matmuls"])
            )
            matmul = max(0.0, products - calls) / total
            shares = [100 * share for share in (matmul, max(0.0, 1 - matmul - overhead / total), overhead / total)]
            rows.append([f"{size} {name}", 1e3 * total, *shares])
    print("\nWhere the time goes, percent. Overhead: the same program with B = I = H = 1, where arithmetic is nearly")
    print("free. Matmul: the products alone, less theirs with B = I = H = 1. Elementwise: what is left.\n")
    timing.table(["T,B,I,H", "ms", "matmul", "elementwise", "overhead"], rows)


# ---- command line --------------------------------------------------------------------------------------------------


def run_part(part: str, options: argparse.Namespace, sizes: Iterable[Size], rounds: Rounds) -> None:
    cell, all_contestants = CONTESTANTS[part]
    contestants = {
        name: contestant
        for name, contestant in all_contestants.items()
        if timing.installed(contestant.library) and (not options.only or name in options.only)
    }
    if part == "lengths":
        sizes = [size for size in sizes if size.B >= FEWEST_ROWS or options.smoke]
    if part != "lstm" and options.smoke:
        sizes = sizes[:1]
    if not contestants or not sizes:
        return
    samples = contest.measure_all(part, sizes, cell, contestants, rounds)
    REPORTS[part](samples)
    if part == "lstm":
        where_the_time_goes(samples, contestants, rounds)


def main() -> None:
    names = dict.fromkeys(name for _, contestants in CONTESTANTS.values() for name in contestants)
    parser = timing.arguments("Recurrent networks, forward + backward, float32.", names, threads=2, repeats=25)
    parser.add_argument("--sizes", nargs="+", type=parse_size, metavar="T,B,I,H", help=f"default: {SIZES}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default all)")
    parser.add_argument("--seconds", type=timing.positive, default=40, help="about, for each size (default 40)")
    options = parser.parse_args()
    timing.pin_threads(options.threads)
    timing.header(options.threads)
    sizes = options.sizes or [parse_size(text) for text in (SMOKE_SIZES if options.smoke else SIZES).split()]
    rounds = Rounds(2 if options.smoke else options.repeats, options.seconds)
    print(f"float32, at most {rounds.count} rounds and about {rounds.seconds} s a size")
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        if part in CONTESTANTS:
            run_part(part, options, sizes, rounds)
        else:
            COSTS[part](rounds, options.smoke)


if __name__ == "__main__":
    main()
