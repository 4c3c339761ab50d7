"""What a gradient check says: the report of a check, and the errors that carry one."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from minigrad.tape import scoped
from minigrad.testing.numeric import Floats

WORST = 3  # how many elements a message shows; never the whole Jacobian
PRINTABLE = 64  # arrays with more elements than this are not written out in a message


@dataclass(frozen=True)
class Deviation:
    """One element of a derivative: what the rule said, what it should have been, and how far apart they may be.

    >>> from minigrad.testing import Deviation
    >>> Deviation("argument 0[1]", analytic=2.0, numeric=2.5, error=0.5, tol=0.25).excess
    2.0
    """

    where: str
    analytic: float
    numeric: float
    error: float
    tol: float

    @property
    def excess(self) -> float:
        """The error in units of the tolerance; above 1 is a failure, and NaN counts as one."""
        if not np.isfinite(self.error):
            return float("inf")
        return self.error / self.tol if self.tol else float("inf") if self.error else 0.0

    def __str__(self) -> str:
        return (
            f"{self.where:<18} analytic {self.analytic:<+13.7g} expected {self.numeric:<+13.7g} "
            f"error {self.error:.1e}  tol {self.tol:.1e}"
        )


@dataclass(frozen=True)
class GradReport:
    """The result of a check: what was checked, the worst elements found, and how to see it again.

    `problem` is empty when the check passed; `str(report)` is then one line, otherwise the whole story: `diagnosis`
    says whether the failure depends on the values or on the structure, `hints` name patterns in the numbers, and
    `reproduce` is a line to paste.

    >>> import minigrad as mg
    >>> from minigrad.testing import check_grads
    >>> report = check_grads(mg.tanh, 0.5)
    >>> report.ok, report.name, report.check
    (True, 'tanh', 'order 1 to 2')
    """

    name: str
    check: str
    problem: str = ""
    worst: tuple[Deviation, ...] = ()
    method: str = ""
    hints: tuple[str, ...] = ()
    case: str = ""
    reproduce: str = ""
    diagnosis: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        if self.ok:
            margin = max((d.excess for d in self.worst), default=0.0)
            return f"{self.name}: {self.check} passed (worst error is {margin:.2g} of its tolerance)"
        lines = [f"{self.name}: {self.problem}  [{self.check}]"]
        if self.case:
            lines += _labelled("case", self.case.splitlines())
        if self.worst:
            lines += _labelled("worst", [str(d) for d in self.worst])
        if self.method:
            lines += _labelled("method", [self.method])
        if self.diagnosis:
            lines += _labelled("diagnosis", [self.diagnosis])
        if self.hints:
            lines += _labelled("hint", self.hints)
        if self.reproduce:
            lines += _labelled("reproduce", self.reproduce.splitlines())
        return "\n".join(lines)


class GradientError(AssertionError):
    """A derivative is wrong. `.report` holds a `GradReport`; the message is the same report as text.

    >>> import minigrad as mg
    >>> from minigrad.testing import GradientError, check_grads
    >>> try:
    ...     check_grads(lambda x: x * mg.stop_gradient(x), 3.0)
    ... except GradientError as error:
    ...     print(error.report.problem)
    reverse mode: the derivative of f with respect to args[0] is wrong
    """

    def __init__(self, report: GradReport) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:  # AssertionError would be rebuilt from its text
        return (type(self), (self.report,))


class NondifferentiableError(GradientError):
    """The point that was chosen has no derivative (a kink), or none that finite differences can establish.

    >>> import minigrad as mg
    >>> from minigrad.testing import NondifferentiableError, check_grads
    >>> try:
    ...     check_grads(mg.abs, 0.0)
    ... except NondifferentiableError as error:
    ...     print(error.report.problem)
    no verdict is possible about args[0]: the one-sided derivatives disagree: this is a kink
    """


class NondeterministicError(GradientError):
    """The function or the rule gave two different answers to one question, so nothing can be said about it.

    >>> import numpy as np
    >>> from minigrad.testing import NondeterministicError, check_grads
    >>> rng = np.random.default_rng(0)
    >>> try:
    ...     check_grads(lambda x: x * rng.random(), 1.0)
    ... except NondeterministicError as error:
    ...     print(error.report.problem)
    the function gives two different results for the same arguments
    """


_quiet: ContextVar[bool] = ContextVar("minigrad_testing_quiet", default=False)


def quiet() -> scoped:
    """A block in which nobody reads why a check fails, only that it does: so nobody looks for what would explain it."""
    return scoped(_quiet, True)


def is_shown() -> bool:
    """Say whether anybody will read a failure of this moment: of the many that Hypothesis shrinks, the last only."""
    if _quiet.get():
        return False
    control = sys.modules.get("hypothesis.control")
    if control is None or not control.currently_in_test_context():
        return True
    return bool(control.current_build_context().is_final)


@dataclass
class Context:
    """What every failure of one check has in common; `fail` raises it with the particulars added."""

    name: str
    case: str = ""
    reproduce: str = ""

    def fail(
        self,
        check: str,
        problem: str,
        *,
        worst: Iterable[Deviation] = (),
        method: str = "",
        hints: Iterable[str] = (),
        error: type[GradientError] = GradientError,
    ) -> NoReturn:
        """Raise `error` with a report of what is wrong; of `worst` only what is out of tolerance is shown."""
        worst = [deviation for deviation in worst if deviation.excess > 1]
        report = GradReport(self.name, check, problem, tuple(worst), method, tuple(hints), self.case, self.reproduce)
        raise error(report)


def deviations(analytic: Any, numeric: Floats, tol: Any, label: str = "") -> list[Deviation]:
    """Compare two arrays element by element and list the elements, the worst first."""
    analytic, numeric = np.asarray(analytic, np.float64), np.asarray(numeric, np.float64)
    tol = np.broadcast_to(np.asarray(tol, np.float64), numeric.shape)
    with np.errstate(invalid="ignore"):
        error = np.where(analytic == numeric, 0.0, np.abs(analytic - numeric))  # inf == inf is no error
    both_nan = np.isnan(analytic) & np.isnan(numeric)
    error = np.where(both_nan, 0.0, np.where(np.isnan(error), np.inf, error))
    return [
        Deviation(label + _subscript(i), float(analytic[i]), float(numeric[i]), float(error[i]), float(tol[i]))
        for i in _worst_indices(error, tol)
    ]


def literal(x: Any) -> str:
    """Write an array (or a number, or a nested sequence of them) as Python source that `np` can read back."""
    if isinstance(x, (tuple, list)):
        inner = ", ".join(literal(v) for v in x)
        if isinstance(x, tuple):
            return f"({inner},)" if len(x) == 1 else f"({inner})"
        return f"[{inner}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{k!r}: {literal(v)}" for k, v in x.items()) + "}"
    if isinstance(x, np.generic):
        return f"np.{x.dtype.name}({x.item()!r})"
    if not isinstance(x, np.ndarray):
        return repr(x)
    dtype = "" if x.dtype in (np.float64, np.int64, np.bool_) and x.size else f", dtype={x.dtype.name!r}"
    if x.size == 0:
        return f"np.zeros({x.shape}{dtype})"
    if x.size > PRINTABLE:
        return f"<{x.dtype.name} array of shape {x.shape}, too large to print>"
    text = repr(x.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({text}{dtype})"


def _worst_indices(error: Floats, tol: Floats) -> list[tuple[int, ...]]:
    if not error.size:
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error == 0, 0.0, error / tol).ravel()
    if not (excess > 1).any():
        return [_index(excess.argmax(), error.shape)]  # nobody asks for the others
    order = np.argsort(-excess, kind="stable")[:WORST]
    return [_index(i, error.shape) for i in order]


def _index(place: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(j) for j in np.unravel_index(place, shape))


def _subscript(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"  {label if i == 0 else '':<10} {line}" for i, line in enumerate(lines)]
