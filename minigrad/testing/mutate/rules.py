"""minigrad's own rules under mutation, judged by the properties that every op must have.

Two layers of mutants are made: of what the rules give (`results.CHANGES`, of each gradient and each tangent of every
op), and of the source of every function that takes part in a derivative. A mutant is put in the place of the rule in
this process, and the ops that reach the rule are tested as they are in the suite: with structure drawn by Hypothesis,
values from a seed, and no more examples than the default profile draws. The most telling properties come first, and
the first failure is a kill, if the right rule passes there.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from minigrad.ops.op import REGISTRY, Op
from minigrad.tape import added
from minigrad.testing.adapters import Minigrad
from minigrad.testing.kinks import p9_kink
from minigrad.testing.mutate.patch import attribute
from minigrad.testing.mutate.results import CHANGES
from minigrad.testing.mutate.syntax import Mutant, source
from minigrad.testing.properties import PROPERTIES, check
from minigrad.testing.report import quiet
from minigrad.testing.specs import Case, OpSpec, all_specs, structure
from minigrad.testing.strategies import find_case, seeds
from minigrad.testing.trial import Rejected

DRAWN, EXAMPLES, SAME_STRUCTURE = 40, 20, 2
"""Of the examples that the default profile draws, a mutant has to survive so many, first two of each structure."""

TANGENTS = ("times 1.00001", "negated", "rolled", "last element zero", "float32 inside", "float64 outside")
"""The changes that are made to tangents, which are checked like gradients."""

Apply = Callable[[], AbstractContextManager[Any]]
Check = Callable[[], Any]


@dataclass(frozen=True)
class RuleMutant:
    """A mutant of a rule of minigrad: `where` is the rule, `apply()` puts the mutant in its place."""

    where: str
    name: str
    apply: Apply
    specs: tuple[OpSpec, ...]
    diff: str = ""

    def __str__(self) -> str:
        return "\n".join([self.where, *[f"    {line}" for line in (self.diff or self.name).splitlines()]])


# ---- what the rules give ---------------------------------------------------------------------------------------------


def of_results(name: str) -> Iterator[RuleMutant]:
    """The mutants of the gradients and of the tangent of one op."""
    op = REGISTRY[name]
    reach = specs_that_reach(rules_of(op), name)
    for k in (0, 1) if getattr(op, "variadic", False) else sorted(op.vjps):  # of any number of inputs, two
        for change in CHANGES:
            yield RuleMutant(f"{name}.pull", f"gradient {k} {change}", functools.partial(_pull, op, k, change), reach)
    for change in TANGENTS:
        yield RuleMutant(f"{name}.push", f"tangent {change}", functools.partial(_push, op, change), reach)


def _pull(op: Op, k: int, name: str) -> AbstractContextManager[Any]:
    change = CHANGES[name]
    pull, into = op.pull, op.pull_into

    def mutated(g: Any, out: Any, values: Any, static: Any, wanted: Any) -> Any:
        grads = pull(g, out, values, static, wanted)
        return [_on_array(change, grad) if i == k else grad for i, grad in enumerate(grads)]

    def mutated_into(total: Any, owned: bool, g: Any, values: Any, static: Any) -> Any:
        assert into is not None  # noqa: S101  # else this is not in place
        part = change(into(None, False, g, values, static))
        return part if total is None else added(total, part)

    if into is None:
        return attribute(op, "pull", mutated)
    return attribute(op, "pull_into", mutated_into)


def _push(op: Op, name: str) -> AbstractContextManager[Any]:
    push = op.push

    def mutated(*args: Any) -> Any:
        return _on_array(CHANGES[name], push(*args))

    return attribute(op, "push", mutated)


def _on_array(change: Callable[[Any], Any], value: Any) -> Any:
    """Change an array; a Tensor, of which a walk of higher order is made, passes."""
    return change(value) if isinstance(value, np.ndarray) else value


# ---- their source ----------------------------------------------------------------------------------------------------


def rule_functions() -> dict[str, FunctionType]:
    """Every function that takes part in a derivative, by where it is: the rules, and the helpers that they call."""
    return with_helpers(rule for op in REGISTRY.values() for rule in rules_of(op))


def with_helpers(functions: Iterable[Any]) -> dict[str, FunctionType]:
    """Functions of minigrad's ops, and the helpers that they call, by where they are."""
    found: dict[str, FunctionType] = {}
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        where = f"{function.__module__}.{function.__qualname__}"
        if where in found or not function.__module__.startswith("minigrad.ops"):
            continue
        found[where] = function
        called = [function.__globals__.get(name) for name in function.__code__.co_names]
        waiting += [f for f in called if isinstance(f, FunctionType) and _helps(f)]
    return dict(sorted(found.items()))


HELPERS = frozenset({"scaled", "unbroadcast", "broadcast_like", "zeros_like", "absorbing", "choose"})
"""The helpers in `op` that rules share. What else has no underscore is a public op, whose value is P0's."""


def _helps(function: FunctionType) -> bool:
    return function.__name__.startswith("_") or function.__name__ in HELPERS


def rules_of(op: Op) -> list[FunctionType]:
    """The functions that were registered as rules of an op."""
    rules = list(getattr(op, "partials", None) or op.vjps.values())
    rules += list(getattr(op, "jvps", {}).values())
    if getattr(op, "variadic", False):
        rules.append(op.pull)
    return [*rules, *([op.pull_into] if op.pull_into is not None else [])]


def of_source(where: str, function: FunctionType) -> Iterator[RuleMutant]:
    """The mutants of the source of one function."""
    reach = specs_that_reach([function], function.__name__.rpartition("_")[0])  # `tanh_dx` belongs to `tanh`
    for mutant in source(function):
        apply = functools.partial(in_place, function, mutant)
        yield RuleMutant(where, mutant.name, apply, reach, mutant.diff)


@contextmanager
def in_place(function: FunctionType, mutant: Mutant) -> Iterator[None]:
    """Within the block the function itself does what the mutant does, for whoever holds it."""
    code = function.__code__
    function.__code__ = mutant.rule.__code__
    try:
        yield
    finally:
        function.__code__ = code


# ---- which ops reach a rule ------------------------------------------------------------------------------------------


def specs_that_reach(functions: Sequence[FunctionType], name: str = "") -> tuple[OpSpec, ...]:
    """The specs of ops that call one of the functions when they are tested: the one of that name, and then those first
    that call little else.
    """
    codes = {function.__code__ for function in functions}
    reach = reached()
    found = [spec for spec in reach if codes & reach[spec]]
    return tuple(sorted(found, key=lambda spec: (spec.name != name, len(reach[spec]), spec.name)))


@functools.cache
def reached() -> dict[OpSpec, set[Any]]:
    """The code that testing an op runs, inside of minigrad's ops."""
    found: dict[OpSpec, set[Any]] = {}
    for spec in all_specs():
        if not spec.differentiable:
            continue
        seen: set[Any] = set()

        def watch(frame: Any, event: str, _: Any, seen: set[Any] = seen) -> None:
            if event == "call":
                seen.add(frame.f_code)

        attacks: list[Check] = list(_attacks(spec, ("P13", CONVENTIONS), 0, 3))
        before = sys.getprofile()
        sys.setprofile(watch)
        try:
            for attack in attacks:
                _stands(attack)
        finally:
            sys.setprofile(before)
        found[spec] = {code for code in seen if "/minigrad/ops/" in code.co_filename.replace("\\", "/")}
    return found


# ---- judgement -------------------------------------------------------------------------------------------------------

CONVENTIONS = "conventions"
"""The documented gradients at kinks, which need no example."""

FIRST, SECOND, LAST = (CONVENTIONS, "P1", "P4"), ("P2", "P3", "P13"), ("P9", "P11", "P5", "P6", "P8", "P10", "P12")
"""The properties in the order in which they are tried: those first that kill most for their time."""

SPECS = 6
"""How many ops judge a mutant at most: of those that reach it, the ones that reach little else."""

ADAPTER = Minigrad()


@dataclass(frozen=True)
class Attack:
    """A test of one op: a property on one of its examples, or at one of its kinks. Equal attacks do the same."""

    spec: OpSpec
    prop: str
    number: int

    def __call__(self) -> None:
        if self.prop == CONVENTIONS:
            p9_kink(self.spec, self.spec.kinks[self.number], ADAPTER)
        else:
            check(self.spec, self.prop, *examples(self.spec)[self.number], ADAPTER)


def is_killed(
    mutant: RuleMutant,
    checks: Iterable[Check] = (),
    count: int = EXAMPLES,
    specs: int = SPECS,
    killers: Counter[Check] | None = None,
) -> bool:
    """Whether some property of some op that reaches the rule fails when the mutant is in its place, or some check.

    `checks` are laws of the engine, for rules that do more than to give a gradient. Up to `specs` ops are tried, with
    up to `count` examples. `killers` counts what has killed other mutants of the rule, which mostly die of the same:
    it is tried first, and what kills this mutant is added.

    Raises ValueError if what fails also fails on the right rule, since then it would kill every mutant.
    """
    chosen, few = mutant.specs[:specs], min(count, 3)
    killers = Counter() if killers is None else killers
    waves: list[Iterable[Check]] = [[attack for attack, _ in killers.most_common()]]
    waves += [_attacks(spec, FIRST, 0, few) for spec in chosen]
    waves += [checks]
    waves += [_attacks(spec, FIRST[1:], few, count) for spec in chosen]
    waves += [_attacks(spec, SECOND, 0, few) for spec in chosen]
    waves += [_attacks(spec, (*SECOND, *LAST), few, count) for spec in chosen]
    with warnings.catch_warnings(), np.errstate(all="ignore"), quiet():
        warnings.simplefilter("ignore")
        with mutant.apply():
            killer = next((attack for attack in _once(itertools.chain(*waves)) if not _stands(attack)), None)
        if killer is None:
            return False
        if not _is_sound(killer):
            raise ValueError(f"{killer} fails on the right rule, so it would kill every mutant: make it pass first")
    killers[killer] += 1
    return True


@functools.cache
def _is_sound(attack: Check) -> bool:
    """Whether an attack passes on the right rules: call this while no mutant is in place."""
    return _stands(attack)


def _stands(attack: Check) -> bool:
    try:
        attack()
    except Rejected:
        return True
    except Exception:  # noqa: BLE001  (a kill is whatever a property, or the mutant itself, raises)
        return False
    return True


def _once(attacks: Iterable[Check]) -> Iterator[Check]:
    """The attacks in their order, without repetition."""
    seen: set[Check] = set()
    for attack in attacks:
        if attack not in seen:
            seen.add(attack)
            yield attack


def _attacks(spec: OpSpec, properties: Iterable[str], start: int, stop: int) -> Iterator[Check]:
    """Tests of one op: some properties on some of its examples, and its kinks."""
    for name in properties:
        if name == CONVENTIONS:
            yield from (Attack(spec, name, number) for number in range(len(spec.kinks)))
        elif PROPERTIES[name].applies(spec) and name not in spec.exempt:
            yield from (Attack(spec, name, number) for number in range(len(examples(spec)))[start:stop])


@functools.cache
def examples(spec: OpSpec) -> list[tuple[Case, int]]:
    """Some of the examples that the suite draws of an op, always the same: of new structure if possible, small last."""
    found: list[tuple[Case, int]] = []

    @settings(
        max_examples=DRAWN, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=spec.cases, seed=seeds)
    def draw(case: Case, seed: int) -> None:
        found.append((case, seed))

    draw()
    seen: Counter[str] = Counter()
    new: list[tuple[Case, int]] = []
    for case, seed in found:
        if any(seen[tag] < SAME_STRUCTURE for tag in structure(case)):
            new.append((case, seed))
            seen.update(structure(case))
    limits = [(find_case(spec, tag), 0) for tag in sorted(spec.tags) if not seen[tag]]  # of P7
    chosen = [*limits, *new, *(example for example in found if example not in new)][:EXAMPLES]
    return sorted(chosen, key=_is_small)


def _is_small(example: tuple[Case, int]) -> bool:
    """Whether an example has no more than one number in an array: most mutants survive it."""
    case, _ = example
    return max(map(math.prod, case.shapes), default=0) < 2
