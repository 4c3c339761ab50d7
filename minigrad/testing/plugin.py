"""A pytest plugin, loaded only when asked for: `pytest -p minigrad.testing.plugin`.

It offers the options `--minigrad-backend` and `--minigrad-profile`, the argument `minigrad_backend` (a test that has it
runs once on every chosen backend, and is skipped with the reason where the backend cannot be used), tests made by
`op_test`, the ledger's check at the end of a session (under pytest-xdist too), and a fixture that fails every test
which leaks scoped state.
"""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

try:
    from hypothesis import HealthCheck, Phase, find, given, reject, settings
    from hypothesis import strategies as st
    from hypothesis.database import DirectoryBasedExampleDatabase
    from hypothesis.errors import NoSuchExample
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "minigrad.testing.plugin needs Hypothesis: pip install 'minigrad[testing]'", name=error.name
    ) from error

from minigrad.testing import examples
from minigrad.testing.adapters import Minigrad
from minigrad.testing.execution import STRICT, strict_adapter
from minigrad.testing.ledger import LEDGER, Cell, expected_cells, registry_problems
from minigrad.testing.properties import PROPERTIES, check, check_conventions
from minigrad.testing.specs import Case, OpSpec, all_specs
from minigrad.testing.strategies import kept_as, seeds
from minigrad.testing.trial import Rejected

EXAMPLES = ".hypothesis/examples"  # where nightly runs keep what they find, in the folder that pytest is started in
FEWEST = 6  # examples that compare every argument, whatever a property's share: the ledger needs five
BACKEND_SHARES = {STRICT: 1 / 3}  # NumPy computes there as well: what is new is what it forbids, and that shows at once
_COMMON: dict[str, Any] = {
    "deadline": None,
    "report_multiple_bugs": False,
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": True,
}
PROFILES: dict[str, dict[str, Any]] = {
    "dev": {"max_examples": 10},
    "default": {"max_examples": 40},
    "ci": {"max_examples": 40, "derandomize": True, "database": None},
    # A derandomised run never finds anything new; this one does, and keeps it, also where CI is set.
    "nightly": {"max_examples": 1000, "derandomize": False, "database": DirectoryBasedExampleDatabase(EXAMPLES)},
}


# ---- options -------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("minigrad")
    group.addoption(
        "--minigrad-backend",
        action="append",
        metavar="NAME",
        help="run tests that take a backend on this one; may be repeated (default: numpy, and strict if registered)",
    )
    group.addoption(
        "--minigrad-profile",
        choices=sorted(PROFILES),
        help="how many examples Hypothesis draws (default: ci if the variable CI is set, else default)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "minigrad_op(prop): one property of one op, which the ledger counts")
    for name, chosen in PROFILES.items():
        settings.register_profile(f"minigrad-{name}", **{**_COMMON, **chosen})
    profile = config.getoption("--minigrad-profile")
    if profile is None and config.getoption("--hypothesis-profile", None) is None:
        profile = "ci" if os.environ.get("CI") else "default"
    if profile is not None:
        settings.load_profile(f"minigrad-{profile}")
    config.pluginmanager.register(_LedgerKeeper(config), "minigrad-ledger")


def chosen_backends(config: pytest.Config) -> list[Any]:
    """The backends to test on, as pytest parameters; one that cannot be used carries a skip mark with the reason."""
    from minigrad.backend import backends  # noqa: PLC0415

    known = backends()
    wanted = config.getoption("--minigrad-backend") or [name for name in ("numpy", "strict") if name in known]
    found = []
    for name in wanted:
        if name not in known:
            raise pytest.UsageError(f"--minigrad-backend {name}: no such backend; known: {', '.join(sorted(known))}")
        status = known[name]
        marks = () if status.usable else (pytest.mark.skip(reason=f"backend {name!r} cannot be used: {status.reason}"),)
        found.append(pytest.param(name, id=name, marks=marks))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("minigrad_op")
    if "minigrad_backend" in metafunc.fixturenames:
        fixed = PROPERTIES[mark.args[0]].backend if mark is not None and mark.args[0] in PROPERTIES else ""
        chosen = [pytest.param(fixed, id=fixed)] if fixed else chosen_backends(metafunc.config)
        metafunc.parametrize("minigrad_backend", chosen)
    if mark is not None:
        wanted = [spec for spec in mark.args[1:] or all_specs() if _wanted(spec, mark.args[0])]
        metafunc.parametrize("minigrad_spec", wanted, ids=[spec.name for spec in wanted])


def _wanted(spec: OpSpec, prop: str) -> bool:
    if prop == "conventions":
        return bool(spec.kinks)
    return PROPERTIES[prop].applies(spec) and prop not in spec.exempt


def _profile() -> settings:
    profile = settings.default
    assert profile is not None  # noqa: S101  (Hypothesis types it as optional; it never is)
    return profile


# ---- tests of ops --------------------------------------------------------------------------------------------------


def op_test(prop: str, *specs: OpSpec) -> Callable[..., None]:
    """Make the test of one property for these specs, by default every registered one, on every chosen backend.

    In a test module: `test_p1_derivative = op_test("P1", my_spec)`. The name decides what pytest collects. At the end
    of the session the ledger judges what was tested; without specs, also whether an op of minigrad was forgotten.
    """
    if prop == "P7":
        return _limits_test(*specs)

    @pytest.mark.minigrad_op(prop, *specs)
    def test(minigrad_spec: OpSpec, minigrad_backend: str) -> None:
        _many_examples(minigrad_spec, prop, minigrad_backend)

    test.__doc__ = PROPERTIES[prop].check.__doc__
    return test


def _many_examples(spec: OpSpec, prop: str, backend: str) -> None:
    """Check one property on examples that Hypothesis draws, as many as profile, property and backend ask for."""

    def example(case: Case, seed: int) -> None:
        if not run_example(spec, prop, case, seed, backend):
            reject()  # it is not counted as an example: else luck would decide whether the ledger has enough

    kept_as(example, f"{prop} of {spec.name} on {backend}")
    share = PROPERTIES[prop].share * BACKEND_SHARES.get(backend, 1.0)
    chosen = settings(
        max_examples=max(FEWEST, int(_profile().max_examples * share)),
        phases=set(_profile().phases) - {Phase.explain},  # what Hypothesis would explain, the diagnosis says
        # A failure looks for other structures that fail, which are drawn too.
        suppress_health_check=[*_profile().suppress_health_check, HealthCheck.nested_given],
    )
    chosen(given(case=spec.cases, seed=seeds)(example))()


def run_example(spec: OpSpec, prop: str, case: Case, seed: int, backend: str) -> bool:
    """Check one example and enter it into the session's ledger; say whether it compared every argument."""
    adapter = strict_adapter() if backend == STRICT else Minigrad(backend)
    return examples.run_example(spec, prop, case, seed, adapter, LEDGER)


def _limits_test(*specs: OpSpec) -> Callable[..., None]:
    @pytest.mark.minigrad_op("P7", *specs)
    def test(minigrad_spec: OpSpec, minigrad_backend: str) -> None:
        examples.check_limits(minigrad_spec, Minigrad(minigrad_backend), LEDGER)

    return test


def convention_test(*specs: OpSpec) -> Callable[..., None]:
    """Make the test of the documented conventions of these specs, or all, that have some, on every chosen backend."""

    @pytest.mark.minigrad_op("conventions", *specs)
    def test(minigrad_spec: OpSpec, minigrad_backend: str) -> None:
        check_conventions(minigrad_spec, Minigrad(minigrad_backend))

    return test


def stale_exemptions(spec: OpSpec) -> list[str]:
    """The properties that a spec is exempted from although they hold: such an exemption must go."""
    stale = []
    for prop in spec.exempt:
        if PROPERTIES[prop].applies(spec):
            try:
                find(
                    st.tuples(spec.cases, seeds),
                    partial(_fails, spec, prop),
                    settings=settings(derandomize=True, database=None, phases=[Phase.generate]),
                )
            except NoSuchExample:
                stale.append(prop)
    return stale


def _fails(spec: OpSpec, prop: str, drawn: tuple[Case, int]) -> bool:
    try:
        check(spec, prop, *drawn, Minigrad("numpy"))
    except Rejected:
        return False
    except Exception:  # noqa: BLE001  (an op that cannot do something may say so in its own way)
        return True
    return False


# ---- the ledger at the end of a session ----------------------------------------------------------------------------


class _LedgerKeeper:
    """Collects what was selected and executed, in this process or in xdist's workers, and judges it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.selected: set[Cell] = set()
        self.failed: set[Cell] = set()
        self.tags: dict[str, list[str]] = {}
        self.everything = False  # whether some test is for every op that there is
        self.deselected = False
        self.problems: list[str] = []
        self.note = ""

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected |= any(_cell(item) for item in items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in getattr(session, "items", ()):  # xdist's controller has none
            cell = _cell(item)
            if cell is not None:
                spec, mark = item.callspec.params["minigrad_spec"], item.get_closest_marker("minigrad_op")
                self.tags[spec.name] = sorted(spec.tags)
                self.everything |= not mark.args[1:]
                if item.get_closest_marker("skip") is None:
                    self.selected.add(cell)
                item.user_properties.append(("minigrad_cell", list(cell)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.failed |= {_as_cell(value) for key, value in report.user_properties if key == "minigrad_cell"}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:  # xdist's signature
        data = getattr(node, "workeroutput", {}).get("minigrad_ledger")
        if data is not None:
            LEDGER.merge(data["entries"])
            self.selected |= {_as_cell(cell) for cell in data["selected"]}
            self.deselected |= data["deselected"]
            self.everything |= data["everything"]
            self.tags |= data["tags"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["minigrad_ledger"] = {
                "entries": LEDGER.dump(),
                "selected": [list(cell) for cell in self.selected],
                "deselected": self.deselected,
                "everything": self.everything,
                "tags": self.tags,
            }
            return
        if self.selected and not self.config.option.collectonly and exitstatus in (0, 1):
            if _profile().max_examples < PROFILES["default"]["max_examples"]:
                self.note = "minigrad ledger: not judged, this profile draws too few examples"
                return
            self.problems = self._problems(session)
            self.note = f"minigrad ledger: {len(LEDGER.entries)} cells, {len(self.problems)} problems"
            if self.problems:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _problems(self, session: pytest.Session) -> list[str]:
        stopped = bool(session.shouldstop or session.shouldfail)
        executed = {cell for cell in self.selected if cell.prop in PROPERTIES} - self.failed
        if stopped:
            executed &= set(LEDGER.entries)
        found = LEDGER.problems(executed, {name: frozenset(tags) for name, tags in self.tags.items()})
        if self._whole() and not stopped:
            backends = {cell.backend for cell in self.selected if not _fixed(cell)}
            missing = expected_cells(all_specs(), backends) - self.selected
            found += [f"{cell}: there is no such test" for cell in sorted(missing)]
            found += minigrad_registry_problems()
        return found

    def _whole(self) -> bool:
        """Whether the tests of ops were asked for as a whole, not some of them by name, expression or last result."""
        return self.everything and not self.deselected and not any("::" in arg for arg in self.config.args)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.problems:
            terminalreporter.section("minigrad ledger: not everything was tested", red=True)
            for line in self.problems:
                terminalreporter.line(line, red=True)
        elif self.note:
            terminalreporter.line(self.note)


def minigrad_registry_problems() -> list[str]:
    """What is wrong between minigrad's list of public ops and the specs."""
    from minigrad import ops  # noqa: PLC0415

    return registry_problems(all_specs(), ops.CHECKED, ops.NON_DIFFERENTIABLE)


def _fixed(cell: Cell) -> bool:
    """Whether a property has a backend of its own, whatever was chosen."""
    return cell.prop in PROPERTIES and bool(PROPERTIES[cell.prop].backend)


def _as_cell(value: Any) -> Cell:
    """A cell that has travelled between processes as a list."""
    op, prop, backend = value
    return Cell(op, prop, backend)


def _cell(item: pytest.Item) -> Cell | None:
    mark, call = item.get_closest_marker("minigrad_op"), getattr(item, "callspec", None)
    if mark is None or call is None:
        return None
    return Cell(call.params["minigrad_spec"].name, mark.args[0], call.params["minigrad_backend"])


# ---- leaks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def minigrad_leak_seal() -> Iterator[None]:
    """Fail a test that leaves scoped state behind: `no_grad`, `Tape` or `use_backend`. The state is put back."""
    variables, defaults = _context_variables(), list(_process_defaults())
    yield
    leaked = []
    for variable, value in _context_variables().items():
        previous = variables[variable] if variable in variables else _default_of(variable)
        if value is not previous and (type(value) is not tuple or value != previous):
            leaked.append(variable.name)
            variable.set(previous)
    if _process_defaults() != defaults:
        leaked.append("the default of use_backend(...)")
        _process_defaults()[:] = defaults
    if leaked:
        pytest.fail(f"this test leaks {' and '.join(leaked)}: use `with`", pytrace=False)


def _default_of(variable: contextvars.ContextVar[Any]) -> Any:
    try:
        return contextvars.Context().run(variable.get)
    except LookupError:
        return None


def _context_variables() -> dict[contextvars.ContextVar[Any], Any]:
    return {v: value for v, value in contextvars.copy_context().items() if v.name.startswith("minigrad_")}


def _process_defaults() -> list[Any]:
    """The list in which `use_backend`, used as a call, keeps what it was asked for."""
    module = sys.modules.get("minigrad.backend")
    return [] if module is None else module._defaults  # noqa: SLF001  (no public way to see or undo the call)
