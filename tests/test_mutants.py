"""Are the tests any good? Everything that they look after is made wrong in thousands of ways, and they must notice.

Rules (what they give, and their source) are judged by the properties that every op must have; the rules that `scan`
compiles with by their tables; the engine, scan and the kit itself by the check that each of their mutants names. What
survives and is no mistake stands in `equivalent_mutants.toml` with the reason; an entry that is not needed is red, too.
Each test prints its score. The profile `nightly` tries what is called equivalent in full.
"""

import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import test_batch_rules as batch_rules
from engine_mutants import ENGINE
from kit_mutants import KIT
from minigrad.ops import REGISTRY
from minigrad.testing import check_vjp, compare, mutate
from minigrad.testing.mutate import rules
from minigrad.testing.mutate.rules import RuleMutant
from plain_rules import RULES, unbroadcast
from scan_mutants import SCAN, compiled_anew

with (Path(__file__).parent / "equivalent_mutants.toml").open("rb") as file:
    EQUIVALENT = {
        (entry["rule"], mutant): entry["reason"]
        for entry in tomllib.load(file)["equivalent"]
        for mutant in entry["mutants"]
    }
LAWS = list(dict.fromkeys(patch.check for patch in ENGINE))
SCAN_LAWS = [partial(compiled_anew, check) for check in dict.fromkeys(patch.check for patch in SCAN)]
SOURCES = rules.rule_functions()
MODULES = sorted({function.__module__ for function in SOURCES.values()})


@pytest.fixture
def judged(capsys):
    """A function that judges mutants, and prints the score also where output is captured."""

    def judge(*args: Any) -> None:
        score = judged_mutants(*args)
        with capsys.disabled():
            print(f"\n{score}", end=" ")

    return judge


def judged_mutants(mutants: Iterable[RuleMutant], is_killed: Callable[..., bool], where: set[str], title: str) -> str:
    """Kill every mutant but the equivalents, which survive; `where` are the rules that the mutants are of."""
    killed, alive, left, stale = 0, 0, [], []
    missing = {key for key in EQUIVALENT if key[0] in where}
    # The equivalents last: they shall meet what has killed the others.
    for mutant in sorted(mutants, key=lambda mutant: (mutant.where, mutant.name) in EQUIVALENT):
        key = (mutant.where, mutant.name)
        missing.discard(key)
        if is_killed(mutant, key in EQUIVALENT):
            killed += 1
            stale += [key] * (key in EQUIVALENT)
        elif key in EQUIVALENT:
            alive += 1
        else:
            left.append(str(mutant))
    assert not left, "no test notices\n" + "\n".join(left)
    assert not stale, f"not equivalent, since something kills it: {stale}"
    assert not missing, f"there is no such mutant any more: {sorted(missing)}"
    assert killed
    return f"{title}: {killed} of {killed} mutants killed, {alive} more are equivalent"


# ---- derivative rules ------------------------------------------------------------------------------------------------


KILLERS: defaultdict[str, Counter[Callable[[], Any]]] = defaultdict(Counter)
"""What has killed the mutants of each rule."""


def by_properties(mutant: RuleMutant, equivalent: bool) -> bool:
    killers = KILLERS[mutant.where]
    if equivalent and settings.default.max_examples < 1000:
        return rules.is_killed(mutant, list(killers), 1, 1)
    return rules.is_killed(mutant, LAWS, killers=killers) or rules.is_killed(mutant, SCAN_LAWS, 0, 0, killers)


def halves(names: Iterable[str], first: bool) -> list[str]:
    """Every other name: a test for each half, so that two processes can share the work."""
    return sorted(names)[first::2]


@pytest.mark.parametrize("first", [False, True])
def test_what_the_rules_give(first, judged):
    names = halves(REGISTRY, first)
    mutants = [mutant for name in names for mutant in rules.of_results(name)]
    judged(
        mutants, by_properties, {f"{name}.{kind}" for name in names for kind in ("pull", "push")}, "results of rules"
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_source_of_the_rules(module, judged):
    chosen = {where: function for where, function in SOURCES.items() if function.__module__ == module}
    mutants = [mutant for where, function in chosen.items() for mutant in rules.of_source(where, function)]
    judged(mutants, by_properties, set(chosen), f"source of {module}")


def test_every_rule_is_reached_by_an_op():
    assert [where for where, function in SOURCES.items() if not rules.specs_that_reach([function])] == []


def test_the_rules_stay_as_they_were():
    """A mutant goes when its block is over, also if it raised."""
    op = REGISTRY["tanh"]
    before = (op.partials[0].__code__, op.pull, op.push)
    for mutant in [*rules.of_results("tanh"), *rules.of_source("tanh", op.partials[0])]:
        with pytest.raises(ZeroDivisionError), mutant.apply():
            assert (op.partials[0].__code__, op.pull, op.push) != before
            raise ZeroDivisionError
        assert (op.partials[0].__code__, op.pull, op.push) == before


def test_what_fails_on_the_right_rule_kills_no_mutant():
    def fails():
        raise AssertionError

    mutant = next(rules.of_results("tanh"))
    with pytest.raises(ValueError, match="fails on the right rule, so it would kill every mutant"):
        rules.is_killed(mutant, [fails], 0, 0)


def test_what_has_killed_a_mutant_is_tried_on_the_next():
    mutants = {mutant.name: mutant for mutant in rules.of_results("tanh")}
    killers = Counter()
    assert rules.is_killed(mutants["gradient 0 negated"], killers=killers)
    (killer,) = killers
    assert not rules.is_killed(mutants["gradient 0 zero"], [], 0, 0)
    assert rules.is_killed(mutants["gradient 0 zero"], [], 0, 0, killers)
    assert killers == {killer: 2}


# ---- the rules that scan compiles with -------------------------------------------------------------------------------

OWN = {name: op for name, op in REGISTRY.items() if op.forward.__module__.startswith("minigrad.")}


def tables(names: set[str]) -> list[Callable[[], Any]]:
    """The rows of `test_batch_rules` on some ops."""
    found: list[Callable[[], Any]] = []
    for table, test in (
        (batch_rules.BATCHES, batch_rules.test_what_a_batch_rule_says),
        (batch_rules.APART, batch_rules.test_rows_that_stay_apart),
        (batch_rules.MEETING, batch_rules.test_rows_that_meet),
    ):
        found += [partial(test, *row) for row in table if row[0] in names]
    index_ops = names & {"getitem", "scatter_add"}
    found += [
        partial(batch_rules.test_index_arrays_and_what_stands_for_them_are_refused, name) for name in sorted(index_ops)
    ]
    return found + [batch_rules.test_an_einsum_without_a_free_letter_has_no_batch] * ("einsum" in names)


@pytest.mark.parametrize("kind", ["batch_rule", "row_rule"])
def test_the_rules_that_scan_compiles_with(kind, judged):
    reach = {name: rules.with_helpers([getattr(op, kind)]) for name, op in OWN.items()}
    functions = {where: function for found in reach.values() for where, function in found.items()}
    rows = {where: tables({name for name, found in reach.items() if where in found}) for where in functions}

    def by_tables(mutant: RuleMutant, equivalent: bool) -> bool:
        return rules.is_killed(mutant, rows[mutant.where], 0, 0)

    mutants = [mutant for where, function in functions.items() for mutant in rules.of_source(where, function)]
    judged(mutants, by_tables, set(functions), f"source of each {kind}")


# ---- the engine, scan, and the kit -----------------------------------------------------------------------------------


@cache
def passes(check: Callable[[], Any]) -> bool:
    """Run a check on the right code, once, however many patches name it; ask while none is in place."""
    check()
    return True


@pytest.mark.parametrize("patch", [*ENGINE, *SCAN, *KIT], ids=str)
def test_the_named_check_notices(patch):
    assert passes(patch.check)
    noticed = False
    with patch.apply():
        try:
            patch.check()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  (pytest's own failures are no Exceptions)
            noticed = True
    assert noticed, f"the check passes although {patch}"


# ---- mutation testing for everybody ----------------------------------------------------------------------------------

X = np.array([[0.5, -1.25, 2.0], [1.0, 0.75, -0.5]])
COLUMN = np.array([[1.5], [-0.25]])


def product_vjp(g, out, x, y):
    return g * y, (g * x).sum(axis=1, keepdims=True)


def exp_vjp(g, out, x):
    return g * out


def test_a_good_test_of_a_right_rule():
    """`check_vjp` on shapes that broadcast kills every mutant of a product, of the results and of the source."""
    report = mutate.score(product_vjp, lambda rule: check_vjp(np.multiply, X, COLUMN, vjp=rule))
    assert report.ok, str(report)
    assert len(report.killed) > 40
    assert str(report) == f"product_vjp: {len(report.killed)} of {len(report.killed)} mutants killed, 0 equivalent"


def test_what_loose_tests_let_live():
    """No structure, no signs, a wide tolerance: each has its survivors."""

    mutants = list(mutate.rule(RULES["multiply"], gradients=2))

    def names(y, **options):
        report = mutate.score(
            RULES["multiply"], lambda rule: check_vjp(np.multiply, X, y, vjp=rule, **options), mutants=mutants
        )
        return {mutant.name for mutant in report.survivors}

    assert names(COLUMN) == set()
    assert names(X + 1) == {"broadcasting not undone"}
    assert {"gradient 1 negated", "gradient 1 rolled", "first gradient only"} <= names(COLUMN, argnums=(0,))
    assert names(COLUMN, tol=1e-4) == {
        f"gradient {k} {how}" for k in (0, 1) for how in ("times 1.00001", "float32 inside")
    }
    with pytest.raises(ValueError, match="fails on the rule itself"):
        names(COLUMN[:, 0])


def test_survivors_that_gave_no_other_answer_are_marked():
    report = mutate.score(RULES["exp"], lambda rule: check_vjp(np.exp, np.array([0.5]), vjp=rule))
    unseen = {mutant.name for mutant in report.unseen}
    assert {"rolled", "reversed", "transposed", "mean everywhere", "broadcasting not undone"} <= unseen
    assert "survived    rolled  (gave the rule's own answers here)" in str(report)
    assert not report.ok


def test_equivalents_are_declared_and_go_stale():
    def check(rule):
        check_vjp(np.exp, X, vjp=rule)

    report = mutate.score(exp_vjp, check, equivalent=["broadcasting not undone"])
    assert report.ok, str(report)
    assert [mutant.name for mutant in report.equivalent] == ["broadcasting not undone"]
    report = mutate.score(exp_vjp, check, equivalent=["broadcasting not undone", "zero", "no such mutant"])
    assert report.stale == ("no such mutant", "zero")
    assert "stale       zero: declared equivalent, but killed or not there" in str(report)
    assert not report.ok


def test_the_diff_of_a_survivor_is_printed():
    def half(g, out, x):
        if x.size > 100:
            return g * 2.0
        return g * out

    report = mutate.score(half, lambda rule: check_vjp(np.exp, X, vjp=rule))
    assert "survived    - return g * 2.0  (gave the rule's own answers here)\n              + return g / 2.0" in str(
        report
    )


def test_a_test_that_fails_on_the_rule_itself():
    with pytest.raises(ValueError, match=r"fails on the rule itself \(GradientError\), so it would kill every mutant"):
        mutate.score(RULES["exp"], lambda rule: check_vjp(np.tanh, X, vjp=rule))


def test_pytest_s_own_failures_are_kills():
    def check(rule):
        with pytest.raises(AssertionError):
            assert np.all(rule(X, X, X) != X * X)

    assert "zero" not in {mutant.name for mutant in mutate.survivors(RULES["exp"], check)}


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (lambda g, out, x: g * out, "a lambda has no source of its own to mutate: write the rule with def"),
        (np.multiply, "multiply is a ufunc, not a function"),
        (partial(RULES["exp"]), "is a partial, not a function"),
        (eval("exec('def f(g, out, x): return g') or locals()['f']", {}, {}), "the source of f is not to be had"),
    ],
)
def test_rules_without_source(rule, problem):
    with pytest.raises(ValueError, match="source|function") as error:
        list(mutate.source(rule))
    assert problem in str(error.value)


def test_a_rule_without_source_has_other_mutants():
    report = mutate.score(lambda g, out, x: g * out, lambda rule: check_vjp(np.exp, X, vjp=rule))
    assert len(report.killed) > 10
    assert "note        a lambda has no source of its own" in str(report)


def test_mutants_keep_closures_and_defaults():
    factor = np.array(2.0)

    def scaled(g, out, x, *, power=1):
        return g * factor**power

    for mutant in mutate.source(scaled):
        cells = dict(zip(mutant.rule.__code__.co_freevars, mutant.rule.__closure__ or (), strict=True))
        assert all(cell.cell_contents is factor for cell in cells.values())
        assert mutant.rule.__kwdefaults__ == {"power": 1}
    (divided,) = [mutant for mutant in mutate.source(scaled) if mutant.diff.endswith("+ return g / factor ** power")]
    assert divided.rule(np.array(6.0), None, None) == 3.0


def test_mutants_differ_from_the_rule_and_from_each_other():
    for rule in RULES.values():
        found = list(mutate.source(rule))
        assert len({mutant.diff for mutant in found}) == len(found)
        assert all(line[:2] in ("- ", "+ ") for mutant in found for line in mutant.diff.splitlines())


def test_edits_have_to_fit():
    with pytest.raises(ValueError, match="stands 0 times in the source of unbroadcast, not once"):
        mutate.edited(unbroadcast, "no such line", "").__enter__()
    with pytest.raises(ValueError, match="stands 2 times"):
        mutate.edited(unbroadcast, "axis=", "").__enter__()
    local = X

    def closed():
        return local

    with pytest.raises(ValueError, match=r"has a closure \(local\): it cannot be edited"):
        mutate.edited(closed, "return", "return").__enter__()
    with pytest.raises(ValueError, match="there is nothing to replace"):
        mutate.patched(closed, None).__enter__()


def test_replaced_functions_come_back():
    before = compare.copies
    with pytest.raises(ZeroDivisionError), mutate.patched(compare.copies, None):
        assert compare.copies is None
        raise ZeroDivisionError
    assert compare.copies is before


def test_it_needs_no_hypothesis():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import numpy as np\n"
        "from minigrad.testing import check_vjp, mutate\n"
        "def rule(g, out, x):\n    return g * out\n"
        "report = mutate.score(rule, lambda rule: check_vjp(np.exp, np.eye(2), vjp=rule))\n"
        "assert len(report.killed) > 10, report\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
