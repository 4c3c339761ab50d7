"""The ledger: every way in which a suite can be green without having tested anything makes it red."""

import contextvars
import dataclasses
import itertools
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import core, errors, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.internal.reflection import function_digest

import minigrad as mg
from minigrad import backend, ops
from minigrad.testing import GradientError, ledger, plugin, properties_table
from minigrad.testing.adapters import Minigrad
from minigrad.testing.ledger import MIN_EXAMPLES, Cell, Ledger, expected_cells, registry_problems
from minigrad.testing.mutate import rules
from minigrad.testing.plugin import minigrad_registry_problems, stale_exemptions
from minigrad.testing.properties import PROPERTIES
from minigrad.testing.specs import Case, Domain, Kink, OpSpec, all_specs, register_spec, spec_for, structure
from minigrad.testing.strategies import find_case
from minigrad.testing.trial import Trial

PROPERTIES_MD = Path(__file__).parents[1] / "docs" / "properties.md"
CELL = Cell("take", "P1", "numpy")


def filled(accepted: int = MIN_EXAMPLES, rejected: int = 0, compared: tuple[int, ...] = (0, 1)) -> Ledger:
    ledger = Ledger()
    for _ in range(accepted):
        ledger.accept(CELL, 2, compared, ["empty"])
    for _ in range(rejected):
        ledger.reject(CELL)
    return ledger


# ---- what it counts --------------------------------------------------------------------------------------------------


def test_a_filled_cell_is_fine():
    assert filled().problems([CELL], {}) == []


@pytest.mark.parametrize(
    ("ledger", "problem"),
    [
        (Ledger(), "0 examples compared anything, 5 are needed"),
        (filled(MIN_EXAMPLES - 1), "4 examples compared anything"),
        (filled(compared=()), "0 examples compared anything"),
        (filled(compared=(0,)), "argument 1 was compared 0 times"),
        (filled(rejected=2), "2 of 7 examples were rejected, at most 20% may be"),
    ],
)
def test_an_empty_promise_is_a_problem(ledger, problem):
    (found,) = ledger.problems([CELL], {})
    assert found.startswith("P1 of take on numpy: ")
    assert problem in found


def test_an_argument_that_is_not_always_there_need_not_be_compared():
    ledger = filled()
    ledger.accept(CELL, 3, (0, 1))
    assert ledger.problems([CELL], {}) == []


def test_of_an_op_that_is_linear_in_one_argument_p2_is_about_that_one():
    ledger, cell = Ledger(), Cell("power", "P2", "numpy")
    for _ in range(MIN_EXAMPLES):
        ledger.accept(cell, {1}, (1,))
    assert ledger.problems([cell], {}) == []


def test_missing_structure_is_a_problem():
    cell = Cell("take", "P7", "numpy")
    ledger = Ledger()
    for _ in range(MIN_EXAMPLES):
        ledger.accept(cell, 1, (0,), ["empty"])
    assert ledger.problems([cell], {"take": frozenset({"empty"})}) == []
    (found,) = ledger.problems([cell], {"take": frozenset({"empty", "repeated_index"})})
    assert "no example has the structure 'repeated_index'" in found


def test_ledgers_of_several_processes_add_up():
    one, two = filled(3, 1), filled(2)
    two.merge(one.dump())
    assert two.dump() == filled(5, 1).dump()


# ---- the registry is the truth ---------------------------------------------------------------------------------------


def test_minigrad_is_complete():
    assert minigrad_registry_problems() == []
    assert {spec.name for spec in all_specs()} == set(ops.CHECKED)


def test_an_op_without_a_spec_is_a_problem():
    without = [spec for spec in all_specs() if spec.name != "tanh"]
    (found,) = registry_problems(without, ops.CHECKED, ops.NON_DIFFERENTIABLE)
    assert found == "the op 'tanh' has no spec: add one to minigrad/testing/op_specs"


def test_a_spec_without_an_op_is_a_problem():
    public = set(ops.CHECKED) - {"tanh"}
    (found,) = registry_problems(all_specs(), public, ops.NON_DIFFERENTIABLE)
    assert found == "the spec 'tanh' belongs to no public op"


def test_disagreement_about_derivatives_is_a_problem():
    (found,) = registry_problems(all_specs(), ops.CHECKED, ops.NON_DIFFERENTIABLE | {"tanh"})
    assert "disagree about whether the op has a derivative" in found


def changed(name: str, **fields: object) -> list[OpSpec]:
    return [dataclasses.replace(spec, **fields) if spec.name == name else spec for spec in all_specs()]


def test_exemptions_need_a_reason_and_a_property():
    with pytest.raises(ValueError, match="tanh: the exemption from P13 has no reason"):
        changed("tanh", exempt={"P13": " "})
    (found,) = registry_problems(changed("tanh", exempt={"P99": "why not"}), ops.CHECKED, ops.NON_DIFFERENTIABLE)
    assert found == "'tanh' is exempt from 'P99', which is no property"


def test_an_exemption_that_is_not_needed_is_stale():
    spec = dataclasses.replace(spec_for("tanh"), exempt={"P1": "a mistake"})
    assert stale_exemptions(spec) == ["P1"]
    wrong = dataclasses.replace(spec, ref=spec_for("sin").ref)
    assert stale_exemptions(wrong) == []


def test_every_cell_is_expected():
    cells = expected_cells(all_specs(), iter(["numpy", "strict"]))
    assert {cell.backend for cell in cells if cell.prop == "P15"} == {"numpy", "strict"}
    assert {cell.backend for cell in cells if cell.prop == "P14"} == {"strict"}  # it is about that one
    assert Cell("tanh", "P13", "strict") in cells
    assert Cell("tanh", "P2", "numpy") not in cells  # it is not linear
    assert Cell("argmax", "P0", "numpy") in cells
    assert Cell("argmax", "P1", "numpy") not in cells  # it has no derivative
    exempt = expected_cells(changed("tanh", exempt={"P13": "a reason"}), ["numpy"])
    assert Cell("tanh", "P13", "numpy") not in exempt


# ---- specs that cannot work ------------------------------------------------------------------------------------------


def test_specs_are_checked():
    tanh = spec_for("tanh")
    with pytest.raises(ValueError, match="has a spec already"):
        register_spec(tanh)
    with pytest.raises(KeyError, match="no spec is called 'tan'; known: abs, absorb, add"):
        spec_for("tan")
    with pytest.raises(ValueError, match='linear is "each", "jointly" or a tuple of groups'):
        dataclasses.replace(tanh, linear="both")
    with pytest.raises(ValueError, match="a kink gives 2 gradients for 1 inputs"):
        dataclasses.replace(tanh, kinks=(Kink(([0.0],), [2.0], ([1.0], [1.0])),))
    with pytest.raises(ValueError, match="cotangent is one of its inputs"):
        dataclasses.replace(tanh, kinks=(Kink(([1.0],), [1.0], ([1.0],)),))
    with pytest.raises(ValueError, match="2 domains for 1 arrays"):
        Trial(dataclasses.replace(tanh, domain=(Domain(), Domain())), Case(((),)), 0, Minigrad())
    with pytest.raises(ValueError, match="must be tested on structure 'repeated_index', but its cases never have it"):
        find_case(tanh, "repeated_index")


def test_structure_is_recognised():
    case = Case(((2, 1), (0,), ()), (np.array([1, 1]),), {"axis": (-1, 0)})
    assert structure(case) == {
        "size1", "empty", "0d", "broadcast", "repeated_index", "tuple_axis", "negative_axis"
    }  # fmt: skip
    assert structure(Case(((2, 3),), (np.array([0, 1]),), {"axis": 1})) == set()


# ---- every rule runs -------------------------------------------------------------------------------------------------


def test_every_rule_of_every_primitive_is_executed(monkeypatch):
    """Each VJP, JVP and partial derivative in the registry runs, those that only higher orders reach included.

    For `test_mutants` kills what is not called equivalent, and a mutant of a rule that does not run would live.
    """
    from test_mutants import EQUIVALENT  # it imports this module in its turn, for mutants of the kit

    monkeypatch.setattr(rules, "specs_that_reach", lambda *args: ())  # who kills them does not matter here
    without = []
    for name, op in ops.REGISTRY.items():
        deadly = [m.name for m in rules.of_results(name) if (m.where, m.name) not in EQUIVALENT]
        parts = [f"gradient {k}" for k in ([0, 1] if getattr(op, "variadic", False) else op.vjps)]
        jvps = getattr(op, "jvps", {})
        assert len(jvps) <= 1, f"{name}: mutants of a sum of tangents do not tell which JVP ran"
        without += [
            (name, part)
            for part in parts + ["tangent"] * len(jvps)
            if op.pull_into is not None or not any(mutant.startswith(f"{part} ") for mutant in deadly)
        ]
    assert without == [("getitem", "gradient 0")]  # the mutants are those of its `pull_into`; but its source has some
    where, rule = "minigrad.ops.indexing.getitem_dx", ops.REGISTRY["getitem"].vjps[0]
    assert rules.rule_functions()[where] is rule
    assert any((where, m.name) not in EQUIVALENT for m in rules.of_source(where, rule))


# ---- the table in the documentation ----------------------------------------------------------------------------------


def test_the_table_of_ops_and_properties_is_up_to_date():
    """`python -m minigrad.testing.properties_table > docs/properties.md` makes it so."""
    assert PROPERTIES_MD.read_text() == properties_table.table()


def test_the_table_says_what_the_ledger_demands():
    rows = {row.split("`")[1]: row.split("|")[2:-1] for row in properties_table.table().splitlines() if "| `" in row}
    marked = {
        Cell(op, prop, "numpy")
        for op, marks in rows.items()
        for prop, mark in zip(PROPERTIES, marks, strict=False)
        if mark.strip() == "·"
    }
    expected = {cell._replace(backend="numpy") for cell in expected_cells(all_specs(), ["numpy"])}
    assert marked == expected
    assert rows["tanh"][-1].strip() == ""
    assert rows["relu"][-1].strip() == str(len(spec_for("relu").kinks))


def test_the_table_has_exemptions_with_their_reasons(monkeypatch):
    monkeypatch.setattr(properties_table, "all_specs", lambda: changed("tanh", exempt={"P13": "for a test"}))
    text = properties_table.table()
    assert "* `tanh`, P13: for a test" in text
    assert "\nNone.\n" not in text
    assert "excused" in next(row for row in text.splitlines() if row.startswith("| `tanh`"))


# ---- the plugin, in sessions of its own ------------------------------------------------------------------------------

pytest_plugins = ["pytester"]

SMALL = """
    from minigrad.testing import ledger, plugin, spec_for
    from minigrad.testing.properties import PROPERTIES

    few = [spec_for("add"), spec_for("tanh")]
    plugin.all_specs = lambda: few
    plugin.minigrad_registry_problems = lambda: []
    ledger.PROPERTIES = {name: PROPERTIES[name] for name in ("P0", "P1")}
"""
SUITE = """
    from minigrad.testing.plugin import op_test

    test_p0 = op_test("P0")
    test_p1 = op_test("P1")
"""
NUMPY = ("--minigrad-backend", "numpy")


@contextmanager
def set_apart() -> Iterator[None]:
    """Within the block this process is to a session what a new one would be; then everything is as it was before.

    Scoped state is not put back here: a session gets a context of its own.
    """
    outside = settings.get_current_profile_name()
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.dict(vars(plugin), LEDGER=Ledger()),
            mock.patch.dict(vars(ledger)),
            mock.patch.dict(backend.BACKEND_OF_TYPE, clear=True),
            mock.patch.multiple(backend, _plugins={}, _ready={}, _defaults=[]),
            mock.patch.object(core, "global_force_seed", None),  # of `--hypothesis-seed`
            mock.patch.dict(settings._profiles),
        ):
            plain = settings(settings.get_profile("default"), database=InMemoryExampleDatabase())  # not the one on disk
            settings._profiles["default"] = plain
            settings.load_profile("ci" if os.environ.get("CI") else "default")  # as Hypothesis does when it is imported
            yield
    finally:
        settings.load_profile(outside)


@pytest.fixture(scope="module")
def loaded():
    """What a session may import, before `pytester` looks: it drops every module that is new after a test, but specs
    register themselves only once, and so does CuPy, where there is one.
    """
    all_specs()
    mg.backends()


@pytest.fixture
def session(loaded, pytester, monkeypatch):
    """Run the plugin on what `pytester` has made: in this process, since most of a session's time goes into imports.

    `new_process=True` is for what only a process of its own can show, and for pytest-xdist.
    """
    monkeypatch.delenv("CI", raising=False)
    always = ["-p", "minigrad.testing.plugin", "-p", "no:cacheprovider", "-p", "no:doctest", "-W", "error"]
    always += ["--assert", "plain"]  # the plugin is loaded already, too late to be rewritten

    def run(*options: str, new_process: bool = False):
        if new_process:
            return pytester.runpytest_subprocess(*always, *options)
        with set_apart():
            return contextvars.Context().run(pytester.runpytest_inprocess, *always, *options)

    return run


@pytest.fixture
def suite(pytester, session):
    """Run a test module in a session of its own, which knows two ops and two properties only."""

    def run(source: str, *options: str, conftest: str = "", new_process: bool = False):
        pytester.makeconftest(textwrap.dedent(SMALL) + textwrap.dedent(conftest))
        pytester.makepyfile(textwrap.dedent(source))
        return session(*(options or NUMPY), new_process=new_process)

    return run


@pytest.mark.parametrize("new_process", [False, True], ids=["inside", "new_process"])
def test_a_full_session_is_green(suite, new_process):
    result = suite(SUITE, *NUMPY, new_process=new_process)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["minigrad ledger: 4 cells, 0 problems"])
    assert result.ret == 0


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_session_of_ones_own_op_is_green(pytester, session, workers):
    """It is about this op alone: minigrad's ops need no tests there."""
    pytester.makepyfile("""
        from hypothesis import strategies as st
        from minigrad import custom_op
        from minigrad.testing import OpSpec, Case
        from minigrad.testing.plugin import op_test
        from minigrad.testing.strategies import shapes

        cube = custom_op(lambda x: x**3, vjp=lambda g, out, x: (3 * x**2 * g,), jvp=lambda t, out, x: 3 * x**2 * t[0])
        spec = OpSpec(
            "cube", cube, lambda x: x**3, shapes().map(lambda shape: Case((shape,))), tags=frozenset({"empty", "0d"})
        )
        test_p1 = op_test("P1", spec)
        test_p7 = op_test("P7", spec)
    """)
    result = session(*NUMPY, *workers, new_process=bool(workers))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["minigrad ledger: 2 cells, 0 problems"])
    assert result.ret == 0


def test_a_session_without_xdist_is_green(suite):
    suite(SUITE, *NUMPY, "-p", "no:xdist").assert_outcomes(passed=4)


def test_a_property_that_nobody_tests_is_red(suite):
    result = suite(SUITE.replace('test_p1 = op_test("P1")', ""), *NUMPY)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["P1 of add on numpy: there is no such test", "P1 of tanh on numpy: there is no such*"])
    assert result.ret == 1


NOTHING_OF_TANH = """
    right = plugin.run_example
    plugin.run_example = lambda spec, *rest: spec.name == "tanh" or right(spec, *rest)
"""


def test_a_test_that_runs_nothing_is_red(suite):
    """A test can pass without one example that compares anything; the ledger sees that it was empty."""
    result = suite(SUITE, *NUMPY, conftest=NOTHING_OF_TANH)
    result.assert_outcomes(passed=4)
    assert ledger_problems(result) == [
        "P0 of tanh on numpy: 0 examples compared anything, 5 are needed",
        "P1 of tanh on numpy: 0 examples compared anything, 5 are needed",
    ]
    assert result.ret == 1


def test_what_workers_have_tested_adds_up(suite):
    """Under xdist the session sees what no worker ran or selected, and finds no fault with the rest."""
    source = SUITE.replace('test_p1 = op_test("P1")', "")
    result = suite(source, *NUMPY, "-n", "2", conftest=NOTHING_OF_TANH, new_process=True)
    result.assert_outcomes(passed=2)
    assert ledger_problems(result) == [
        "P0 of tanh on numpy: 0 examples compared anything, 5 are needed",
        "P1 of add on numpy: there is no such test",
        "P1 of tanh on numpy: there is no such test",
    ]
    assert result.ret == 1


def ledger_problems(result) -> list[str]:
    """All that the ledger complains of in a session."""
    lines = iter(result.outlines)
    assert any("minigrad ledger: not everything was tested" in line for line in lines)
    return [line for line in itertools.takewhile(lambda line: not line.startswith("="), lines) if line]


def test_examples_that_compare_nothing_are_no_examples(monkeypatch):
    """Hypothesis draws others where some are empty, and gives up where all are."""
    monkeypatch.setattr(plugin.examples, "check", lambda *args: [])
    with pytest.raises((errors.Unsatisfiable, errors.FailedHealthCheck)):
        plugin.op_test("P1")(minigrad_spec=spec_for("tanh"), minigrad_backend="numpy")


def test_a_chosen_part_is_judged_as_a_part(suite):
    result = suite(SUITE, *NUMPY, "-k", "tanh")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["minigrad ledger: 2 cells, 0 problems"])
    assert result.ret == 0


def test_a_failing_test_is_not_reported_twice(suite):
    result = suite(
        SUITE,
        conftest="""
        right = plugin.run_example
        plugin.run_example = lambda spec, prop, *rest: 1 / 0 if prop == "P0" else right(spec, prop, *rest)
        """,
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.no_fnmatch_line("P0 of * on numpy: *")
    assert result.ret == 1


def test_the_smallest_profile_says_that_nothing_is_judged(suite):
    result = suite(SUITE, *NUMPY, "--minigrad-profile", "dev")
    result.stdout.fnmatch_lines(["minigrad ledger: not judged, this profile draws too few examples"])
    assert result.ret == 0


PROFILE = """
    from hypothesis import settings
    from hypothesis.database import DirectoryBasedExampleDatabase

    def test_profile():
        chosen = settings.default
        kept = isinstance(chosen.database, DirectoryBasedExampleDatabase)
        assert (chosen.max_examples, chosen.derandomize, kept) == {}
        assert chosen.deadline is None
        assert chosen.print_blob
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (40, True, False)),
        (("--minigrad-profile", "nightly"), (1000, False, True)),  # or it would never find anything new
    ],
)
def test_profiles_where_ci_is_set(suite, monkeypatch, options, expected):
    monkeypatch.setenv("CI", "true")
    suite(PROFILE.replace("{}", repr(expected)), *NUMPY, *options).assert_outcomes(passed=1)


def test_profiles():
    assert {name: profile["max_examples"] for name, profile in plugin.PROFILES.items()} == {
        "dev": 10, "default": 40, "ci": 40, "nightly": 1000
    }  # fmt: skip
    ci, nightly = (settings.get_profile(f"minigrad-{name}") for name in ("ci", "nightly"))
    assert (ci.derandomize, ci.database, ci.deadline, ci.print_blob) == (True, None, None, True)
    assert (nightly.derandomize, nightly.deadline, nightly.print_blob) == (False, None, True)
    assert nightly.database is not None


def test_a_profile_of_hypothesis_can_be_asked_for_instead(suite):
    source = "from hypothesis import settings\n\ndef test_it():\n    assert settings.default.max_examples == 100"
    suite(source, *NUMPY, "--hypothesis-profile", "default").assert_outcomes(passed=1)


def test_the_plugin_is_not_loaded_by_itself(pytester):
    pytester.makepyfile("def test_x(): pass")
    result = pytester.runpytest_subprocess("--minigrad-profile", "dev", "-p", "no:cacheprovider")
    result.stderr.fnmatch_lines(["*unrecognized arguments: --minigrad-profile*"])


def test_a_property_with_a_backend_of_its_own_keeps_it(suite):
    """P14 is about the strict device, whatever `--minigrad-backend` says, and its tests are no extra ones."""
    property_14 = 'ledger.PROPERTIES = {name: PROPERTIES[name] for name in ("P0", "P14")}'
    source = SUITE.replace("test_p1", "test_p14").replace('"P1"', '"P14"')
    result = suite(source, *NUMPY, "-v", conftest=property_14)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test_p14[[]*strict*", "minigrad ledger: 4 cells, 0 problems"])


def test_a_failing_test_of_an_op_shows_its_diagnosis():
    """Which looks at other cases: they are drawn while Hypothesis draws."""
    cases = st.just(Case(shapes=((2,),)))  # which leaves nothing to shrink
    wrong = dataclasses.replace(spec_for("tanh"), name="tanh, wrong", ref=np.sin, cases=cases)
    with pytest.raises(GradientError, match="diagnosis  structural, or in the formula"):
        plugin.op_test("P1", wrong)(minigrad_spec=wrong, minigrad_backend="numpy")


def test_failures_of_one_op_are_not_tried_on_another(monkeypatch):
    """Hypothesis keeps them in its database, under the name of what failed."""
    kept = set()

    def noted(**_):
        return lambda test: lambda: kept.add(function_digest(test))

    monkeypatch.setattr(plugin, "given", noted)
    for prop, name, place in (("P0", "add", "numpy"), ("P1", "add", "numpy"), ("P0", "add", "strict")):
        for _ in range(2):
            plugin.op_test(prop)(minigrad_spec=spec_for(name), minigrad_backend=place)
    assert len(kept) == 3


def test_a_convention_that_is_broken_is_red():
    kink = Kink(([0.0],), [2.0], ([1.0],), reason="tanh'(0) = 0.5")
    wrong = dataclasses.replace(spec_for("tanh"), kinks=(kink,))
    with pytest.raises(GradientError, match=r"breaks the convention tanh'\(0\) = 0.5"):
        plugin.convention_test()(minigrad_spec=wrong, minigrad_backend="numpy")


BROKEN = """
    import minigrad.backend

    class Broken:
        name = "broken"
        xp = array_type = None

        def unusable(self):
            return "there is no such device; buy one"

    minigrad.backend.register(Broken())
"""


def test_a_backend_that_cannot_be_used_is_skipped_with_its_reason(suite):
    source = "def test_on_all(minigrad_backend):\n    assert minigrad_backend == 'numpy'"
    result = suite(source, *NUMPY, "--minigrad-backend", "broken", "-rs", conftest=BROKEN)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*backend 'broken' cannot be used: there is no such device; buy one"])
    result = suite(SUITE, "--minigrad-backend", "broken", conftest=BROKEN)
    result.assert_outcomes(skipped=4)
    assert result.ret == 0


def test_an_unknown_backend_is_an_error(suite):
    result = suite("def test_x(minigrad_backend): pass", "--minigrad-backend", "abacus")
    result.stdout.fnmatch_lines(["*--minigrad-backend abacus: no such backend; known: *numpy*"])
    assert result.ret != 0


@pytest.mark.parametrize(
    ("what", "leak", "enter"),
    [
        ("minigrad_recorder", "mg.no_grad()", "__enter__"),
        ("minigrad_recorder", "mg.Tape()", "__enter__"),
        ("minigrad_backend", "mg.use_backend('numpy')", "__enter__"),
        ("the default of use_backend(...)", "mg.use_backend('numpy')", "nothing more"),
    ],
)
def test_leaks_of_scoped_state_are_failures(suite, what, leak, enter):
    """The test that leaks fails, and the next one finds everything as it was."""
    result = suite(
        f"""
        import minigrad as mg
        kept = []

        def test_leaks():
            kept.append({leak})
            getattr(kept[-1], "{enter}", lambda: None)()

        def test_does_not_leak():
            x = mg.tensor([1.0], requires_grad=True)
            with mg.Tape(), mg.use_backend("numpy"):
                (x * 2).backward()
            assert x.grad == 2

        def teardown_module():
            kept.clear()  # a block ends when it is forgotten, which must be in the context that it began in
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"*this test leaks *{what}*"])


# ---- those sessions and this one -------------------------------------------------------------------------------------

AFRESH = """
    import numpy as np
    import minigrad as mg
    from hypothesis import core, settings
    from hypothesis.database import InMemoryExampleDatabase
    from minigrad.backend import BACKEND_OF_TYPE
    from minigrad.testing import plugin

    def test_afresh():
        chosen = settings.default
        assert (chosen.max_examples, chosen.derandomize, chosen.stateful_step_count) == (40, False, 50)
        assert isinstance(chosen.database, InMemoryExampleDatabase)
        assert core.global_force_seed is None
        assert not {"odd", "strict"} & set(mg.backends())
        assert plugin.LEDGER.entries == {}
        assert mg.zeros(2).backend.name == "numpy"
        assert list(BACKEND_OF_TYPE) == [np.ndarray]
        x = mg.tensor([1.0], requires_grad=True)
        (x * 2).backward()
        assert x.grad == 2
"""


def test_a_session_inside_starts_afresh(suite):
    """Whatever the one outside has chosen, registered, counted and left open."""
    with set_apart(), mg.no_grad(), mg.use_backend("numpy"):
        settings.register_profile("odd", derandomize=True, database=None, stateful_step_count=3)
        settings.load_profile("odd")
        core.global_force_seed = 3
        array_type = type("OddArray", (), {})
        backend.register(SimpleNamespace(name="odd", xp=np, array_type=array_type, unusable=lambda: None))
        mg.use_backend("odd")
        plugin.LEDGER.accept(Cell("tanh", "P0", "odd"), 1, (0,))
        suite(AFRESH).assert_outcomes(passed=1)


MESS = """
    import os, sys
    from types import SimpleNamespace
    import minigrad as mg
    from hypothesis import core, settings
    from minigrad import backend, tape

    array_type = type("OddArray", (), {})
    backend.register(SimpleNamespace(name="odd", array_type=array_type, unusable=lambda: None))
    mg.use_backend("odd")
    tape.recorder.set(None)
    os.environ["CI"] = "odd"
    os.environ.pop("HOME")
    sys.path.insert(0, "odd")
    plugin.LEDGER.accept(ledger.Cell("tanh", "P0", "odd"), 1, (0,))
    plugin.op_test = ledger.odd = None
    core.global_force_seed = 3

    def pytest_collection_finish():
        settings.register_profile("default", max_examples=7)
        settings.register_profile("odd", max_examples=7)
        settings.load_profile("odd")
"""


def process() -> dict[str, object]:
    """What a session could leave behind here."""
    backends = (backend._plugins, backend._ready, backend.BACKEND_OF_TYPE)
    return {
        "modules": dict(sys.modules),
        "path": [list(sys.path), list(sys.meta_path)],
        "environment": dict(os.environ),
        "plugin": [dict(vars(module)) for module in (plugin, ledger)],
        "ledger": plugin.LEDGER.dump(),
        "backends": [dict(found) for found in backends],
        "defaults": list(backend._defaults),
        "context": dict(contextvars.copy_context().items()),
        "profile": (settings.get_current_profile_name(), id(settings.default)),
        "profiles": {name: id(profile) for name, profile in settings._profiles.items()},
        "seed": core.global_force_seed,
        "warnings": list(warnings.filters),
    }


def test_a_session_inside_leaves_nothing_behind(suite):
    before = process()
    result = suite("def test_x(): pass", *NUMPY, conftest=MESS)
    after = process()
    result.assert_outcomes(passed=1)
    assert [what for what in before if before[what] != after[what]] == []
