"""Many examples of one op: `check_properties`, for the ops of any framework, and what is said when one fails."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis.errors import Unsatisfiable

from minigrad.testing.adapters import Adapter, Minigrad
from minigrad.testing.compare import same_bits
from minigrad.testing.kinks import at_kinks
from minigrad.testing.ledger import MIN_EXAMPLES, Cell, Ledger
from minigrad.testing.numeric import flatten
from minigrad.testing.properties import PROPERTIES, check, check_conventions
from minigrad.testing.report import GradientError, NondeterministicError, NondifferentiableError, is_shown
from minigrad.testing.specials import at_specials
from minigrad.testing.specs import Case, OpSpec, structure
from minigrad.testing.strategies import find_case, seeds, some_cases
from minigrad.testing.teach import by_structure, diagnosed, failure, simplest
from minigrad.testing.trial import Rejected, Trial

SEEDS = 5
VALUES = {"P0", "P1", "P3", "P9", "P10", "P11"}  # the properties whose numbers are those of the trial
LIMIT_SEEDS = 2  # how many sets of values P7 tries on each kind of structure


def check_properties(
    spec: OpSpec,
    adapter: Adapter | None = None,
    *,
    properties: Iterable[str] | None = None,
    max_examples: int = 40,
) -> dict[str, int]:
    """Check an op of any framework by property: every one that applies, on structure that Hypothesis draws.

    The op is `spec.fn`, on the arrays of the framework that `adapter` speaks for (minigrad on NumPy, if None), and
    `spec.ref` is the same function on NumPy arrays. Properties that the framework lacks what they need for are left
    out, as are those that the spec is exempt from; `properties` chooses among the others.

    Returns the number of examples that each property was compared on. Raises `GradientError`, shrunk and explained,
    where one does not hold, and ValueError for a property that was compared on fewer than five.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.testing import Case, OpSpec, check_properties
    >>> from minigrad.testing.strategies import shapes
    >>> cube = OpSpec("cube", lambda x: mg.power(x, 3), lambda x: x**3, shapes().map(lambda s: Case((s,))))
    >>> min(check_properties(cube, max_examples=10).values()) >= 5
    True
    """
    adapter = adapter or Minigrad()
    chosen = [PROPERTIES[name] for name in properties or PROPERTIES]
    chosen = [prop for prop in chosen if prop.applies(spec) and prop.possible(adapter) and prop.id not in spec.exempt]
    ledger = Ledger()
    cells = {prop.id: Cell(spec.name, prop.id, adapter.name) for prop in chosen}
    for prop in cells:
        if prop == "P7":
            check_limits(spec, adapter, ledger)
            continue
        if prop == "P9":
            check_conventions(spec, adapter)
        _many(spec, prop, adapter, ledger, max_examples)
    problems = ledger.problems(cells.values(), {spec.name: spec.tags})
    if problems:
        raise ValueError("not everything was tested:\n" + "\n".join(problems))
    return {prop: ledger.entries[cell].accepted for prop, cell in cells.items()}


def _many(spec: OpSpec, prop: str, adapter: Adapter, ledger: Ledger, max_examples: int) -> None:
    """Check one property on drawn examples."""

    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],  # what Hypothesis would explain, the diagnosis says
        suppress_health_check=list(HealthCheck),
    )
    @given(case=spec.cases, seed=seeds)
    def run(case: Case, seed: int) -> None:
        if not run_example(spec, prop, case, seed, adapter, ledger):
            reject()  # empty arrays pass here too, but are not counted as examples: else luck would decide the ledger

    with suppress(Unsatisfiable):  # the ledger says what is missing
        run()


def check_limits(spec: OpSpec, adapter: Adapter, ledger: Ledger) -> None:
    """Check P7: on one case of each kind of structure that the spec names, with several sets of values."""
    for tag in sorted(spec.tags):
        case = find_case(spec, tag)
        for seed in range(max(LIMIT_SEEDS, -(-MIN_EXAMPLES // len(spec.tags)))):
            run_example(spec, "P7", case, seed, adapter, ledger)


def run_example(spec: OpSpec, prop: str, case: Case, seed: int, adapter: Adapter, ledger: Ledger) -> bool:
    """Check one example and enter it into the ledger; say whether it was accepted, and compared every argument."""
    cell = Cell(spec.name, prop, adapter.name)
    try:
        compared = check(spec, prop, case, seed, adapter)
    except Rejected:
        ledger.reject(cell)
        return False
    except GradientError as error:
        raise explained(error, spec, prop, case, seed, adapter) from None
    every = range(len(case.shapes))
    wanted = {k for group in spec.groups(case) for k in group} if prop == "P2" else every  # in which the op is linear
    ledger.accept(cell, wanted, compared, structure(case))
    return bool(compared) and set(compared).issuperset(wanted)


def explained(error: GradientError, spec: OpSpec, prop: str, case: Case, seed: int, adapter: Adapter) -> GradientError:
    """The error to raise for an example that failed: with the simplest numbers that fail, and with a diagnosis."""
    if isinstance(error, (NondeterministicError, NondifferentiableError)) or not is_shown():
        return error.with_traceback(None)
    trial = Trial(spec, case, seed, adapter)
    if not _repeats(trial):
        report = error.report
        problem = "the op gives two different results for the same arguments"
        return NondeterministicError(type(report)(report.name, report.check, problem, reproduce=report.reproduce))
    found = error
    if prop in VALUES:
        start = at_kinks(trial) if prop == "P9" else at_specials(trial) if prop == "P11" else trial.host

        def attempt(arrays: Any, g: Any) -> Any:
            return PROPERTIES[prop].check(Trial(spec, case, seed, adapter, arrays=arrays, cotangent=g))

        found = simplest(error, attempt, start, trial.g_host)
    values = (failure(check, spec, prop, case, other, adapter) is not None for other in range(SEEDS))
    others = [other for other in some_cases(spec) if repr(other) != repr(case)]
    elsewhere = (failure(check, spec, prop, other, seed, adapter) is not None for other in others)
    return diagnosed(found, by_structure(values, elsewhere))


def _repeats(trial: Trial) -> bool:
    """Whether the op gives the same result twice; what is random proves nothing."""
    adapter = trial.adapter
    once, again = (flatten(adapter.to_host(trial.fn(*trial.to_device(trial.host)))) for _ in range(2))
    return same_bits(once, again)
