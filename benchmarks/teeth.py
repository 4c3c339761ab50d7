"""Which gradient checks notice which mistakes: mutants of minigrad's own rules against ways of testing gradients.

    python -m benchmarks.teeth           twenty minutes
    python -m benchmarks.teeth --quick   every eighth op, in a minute: does it run?

Every rule that reverse mode uses is made wrong in all ways that `minigrad.testing.mutate` knows: what it returns, and
its source. Each way of testing is asked to notice. `teeth_styles.py` has the ways of other projects, re-created;
`teeth_cases.py` has the calls that they are tried on. minigrad's kit draws its own, and is also tried with one
ingredient taken away. Mutants that are no mistakes (`tests/equivalent_mutants.toml`) are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np

from benchmarks import teeth_styles as styles
from benchmarks import timing
from benchmarks.teeth_cases import typical
from minigrad.ops import REGISTRY
from minigrad.testing import PROPERTIES, Case, OpSpec, Rejected, Trial, all_specs, compare, kinks, mutate
from minigrad.testing.adapters import Minigrad
from minigrad.testing.mutate import rules
from minigrad.testing.mutate.rules import RuleMutant
from minigrad.testing.numeric import derivative_along
from minigrad.testing.properties import check

EQUIVALENT = Path(__file__).parents[1] / "tests" / "equivalent_mutants.toml"
EXAMPLES = rules.EXAMPLES  # that the kit draws of an op
FEW = 3  # of which it tries so many with every property before it tries the others
QUICK = 8
LOOSE = 1e-3
FULL = "the kit in full"
ADAPTER = Minigrad()

Check = Callable[[], Any]
Stages = list[list[Check]]
Examples = Callable[[OpSpec], list[tuple[Case, int]]]


@dataclass
class Tester:
    """A way of testing an op: checks in the order in which they are tried, each of which raises if it notices."""

    name: str
    checks: Callable[[OpSpec], Stages]
    setting: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    sound: dict[OpSpec, Stages] = field(default_factory=dict)
    """The checks that the right op passes: only those can tell a mutant from it."""
    alarms: list[str] = field(default_factory=list)
    seconds: float = 0.0
    results: list[RuleMutant] = field(default_factory=list)
    source: list[RuleMutant] = field(default_factory=list)
    """The mutants that live, of each layer."""


# ---- the styles ------------------------------------------------------------------------------------------------------


def in_style(style: Callable[[OpSpec, Case, int], None]) -> Callable[[OpSpec], Stages]:
    return lambda spec: [[partial(style, spec, case, seed) for seed, case in enumerate(typical(spec))]]


def by_hypothesis(spec: OpSpec) -> Stages:
    drawn = itertools.chain(*[styles.default_arrays(spec, case) for case in typical(spec)])
    return [[partial(styles.by_hypothesis, spec, numbers) for numbers in drawn]]


# ---- the kit ---------------------------------------------------------------------------------------------------------

CONVENTIONS = rules.CONVENTIONS
ORDER = (rules.FIRST, rules.SECOND, rules.LAST)


def drawn_structure(spec: OpSpec) -> list[tuple[Case, int]]:
    return rules.examples(spec)[:EXAMPLES]


def typical_structure(spec: OpSpec) -> list[tuple[Case, int]]:
    """As many examples, with the shapes of a suite written by hand."""
    return [(case, seed) for seed, case in zip(range(EXAMPLES), itertools.cycle(typical(spec)), strict=False)]


def one_number(spec: OpSpec, case: Case, seed: int) -> None:
    """P1 by one signed random projection of the gradients of all arguments."""
    trial = Trial(spec, case, seed, ADAPTER)
    direction = [compare.random_cotangent(a, trial.rng) for a in trial.host]
    along = sum(float(np.sum(grad * d)) for grad, d in zip(trial.grads, direction, strict=True))
    estimate = derivative_along(trial.ref, trial.host, direction, trial.g_host)
    compare.judge(trial.context("P1"), "P1", np.asarray(along), estimate, label="projection", problem="wrong")


def kit(
    spec: OpSpec,
    without: Iterable[str] = (),
    examples: Examples = drawn_structure,
    p1: Callable[[OpSpec, Case, int], Any] | None = None,
) -> Stages:
    """The properties of the kit that judge a rule, in the order in which `mutate.rules` tries them."""

    def of(names: Sequence[str], chosen: slice) -> Iterator[Check]:
        for name in names:
            if name in without or (name != CONVENTIONS and not applies(spec, name)):
                continue
            if name == CONVENTIONS:
                yield from (partial(kinks.p9_kink, spec, kink, ADAPTER) for kink in spec.kinks[chosen])
                continue
            for case, seed in examples(spec)[chosen]:
                yield (
                    partial(p1, spec, case, seed)
                    if p1 and name == "P1"
                    else partial(check, spec, name, case, seed, ADAPTER)
                )

    return [list(of(names, chosen)) for names in ORDER for chosen in (slice(0, FEW), slice(FEW, None))]


def applies(spec: OpSpec, name: str) -> bool:
    return PROPERTIES[name].applies(spec) and name not in spec.exempt


def ones_everywhere() -> AbstractContextManager[Any]:
    """Cotangents and directions of ones."""
    return mutate.patched(compare.random_cotangent, lambda out, _: compare.map_result(_ones, out))


def _ones(leaf: Any) -> Any:
    return np.ones(np.shape(leaf))


@contextlib.contextmanager
def loose_tolerance() -> Iterator[None]:
    """Every comparison to one part in a thousand."""
    judge, closely = compare.judge, compare.closely

    def loosely(*args: Any, rtol: float = 0.0, method: str = "", **kwargs: Any) -> Any:
        return closely(*args, rtol=LOOSE, **kwargs)

    with (
        mutate.patched(compare.judge, partial(judge, tol=LOOSE)),
        mutate.patched(compare.exactly, loosely),
        mutate.patched(compare.closely, loosely),
        mock.patch.object(kinks, "BETWEEN", LOOSE),
    ):
        yield


P1_ALONE = tuple(name for names in ORDER for name in names if name != "P1")


def testers() -> list[Tester]:
    return [
        Tester("autograd style", in_style(styles.autograd)),
        Tester("JAX style", in_style(styles.jax)),
        Tester("PyTorch fast style", in_style(styles.torch_fast)),
        Tester("PyTorch slow style", in_style(styles.torch_slow)),
        Tester("sum().backward() style", in_style(styles.sum_backward)),
        Tester("Hypothesis, default arrays", by_hypothesis),
        Tester(FULL, kit),
        Tester("  its P1 alone", partial(kit, without=P1_ALONE)),
        Tester("  without structure variety", partial(kit, examples=typical_structure)),
        Tester("  with cotangents of ones", partial(kit, without=("P2",)), ones_everywhere),
        Tester("  with a tolerance of 1e-3", partial(kit, without=("P10",)), loose_tolerance),
        Tester("  without kinks", partial(kit, without=(CONVENTIONS, "P9"))),
        Tester("  with one projection", partial(kit, without=("P2", "P9", "P11"), p1=one_number)),
        Tester("  without second order", partial(kit, without=("P13",))),
    ]


# ---- the contest -----------------------------------------------------------------------------------------------------


def passes(attack: Check) -> bool:
    """Whether nothing was noticed; a point at which no verdict is possible is no notice."""
    try:
        attack()
    except Rejected:
        return True
    except Exception:  # noqa: BLE001  (a notice is whatever a check, or the mutant itself, raises)
        return False
    return True


def prepare(tester: Tester, specs: Sequence[OpSpec]) -> None:
    """Try a tester on the right ops: how long it takes, which it wrongly accuses, and which checks are left."""
    stages = {spec: tester.checks(spec) for spec in specs}
    with tester.setting():
        started = time.perf_counter()
        for spec in specs:
            tester.sound[spec] = [[attack for attack in stage if passes(attack)] for stage in stages[spec]]
        tester.seconds = time.perf_counter() - started
    tester.alarms = [spec.name for spec in specs if tester.sound[spec] != stages[spec]]


def notices(tester: Tester, mutant: RuleMutant) -> bool:
    chosen = [tester.sound[spec] for spec in mutant.specs if spec in tester.sound][: rules.SPECS]
    with mutant.apply():
        return any(not passes(attack) for same in zip(*chosen, strict=True) for stage in same for attack in stage)


def mutants_of(names: set[str]) -> tuple[list[RuleMutant], list[RuleMutant]]:
    """The mutants of what reverse mode computes of these ops, and of the source of its rules, without equivalents."""
    with EQUIVALENT.open("rb") as file:
        entries = tomllib.load(file)["equivalent"]
    equivalent = {(entry["rule"], mutant) for entry in entries for mutant in entry["mutants"]}

    def chosen(mutants: Iterable[RuleMutant]) -> list[RuleMutant]:
        return [m for m in mutants if (m.where, m.name) not in equivalent and m.specs[0].name in names]

    results = itertools.chain(*[rules.of_results(name) for name in REGISTRY if name in names or name not in PUBLIC])
    forward = {id(rule) for op in REGISTRY.values() for rule in getattr(op, "jvps", {}).values()}
    reverse = [rule for op in REGISTRY.values() for rule in rules.rules_of(op) if id(rule) not in forward]
    source = itertools.chain(*[rules.of_source(*item) for item in rules.with_helpers(reverse).items()])
    return chosen(m for m in results if m.where.endswith(".pull")), chosen(source)


PUBLIC = {spec.name for spec in all_specs()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Which gradient checks notice which mistakes.")
    parser.add_argument("--quick", action="store_true", help=f"every {QUICK}th op only")
    names = [tester.name.strip() for tester in testers()]
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"(default all) {', '.join(names)}")
    options = parser.parse_args()
    timing.pin_threads(1)
    specs = [spec for spec in all_specs() if spec.differentiable][:: QUICK if options.quick else 1]
    print(f"CPU: {timing.cpu_name()}, {timing.usable_cpus()} usable; threads: 1")
    print(f"minigrad {timing.version('minigrad')}, NumPy {np.__version__}, Hypothesis {hypothesis.__version__}")
    warnings.simplefilter("ignore")
    with np.errstate(all="ignore"):
        contest(specs, [tester for tester in testers() if tester.name.strip() in (options.only or names)])


def contest(specs: Sequence[OpSpec], contestants: Sequence[Tester]) -> None:
    results, source = mutants_of({spec.name for spec in specs})
    print(f"{len(specs)} ops; {len(results)} mutants of what their rules return, {len(source)} of the rules' source")
    print(f"kit: {EXAMPLES} examples an op and property; styles: {sum(len(typical(s)) for s in specs)} calls in all\n")
    for tester in contestants:
        started = time.perf_counter()
        prepare(tester, specs)
        with tester.setting():
            tester.results = [mutant for mutant in results if not notices(tester, mutant)]
            tester.source = [mutant for mutant in source if not notices(tester, mutant)]
        print(f"{tester.name.strip()}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    heads = ["", f"results ({len(results)})", f"source ({len(source)})", "killed", "false alarms", "seconds"]
    total = len(results) + len(source)
    rows = []
    for tester in contestants:
        killed = len(results) - len(tester.results), len(source) - len(tester.source)
        rows.append(
            [tester.name, *map(str, killed), f"{sum(killed) / total:.1%}", str(len(tester.alarms)), tester.seconds]
        )
    timing.table(heads, rows)
    for tester in contestants:
        if tester.alarms:
            print(f"False alarms of {tester.name.strip()}: {', '.join(tester.alarms)}")
        if tester.name == FULL:
            for mutant in [*tester.results, *tester.source]:
                print(f"\nLives under {FULL}: {mutant}")


if __name__ == "__main__":
    main()
