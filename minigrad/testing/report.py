"""What a gradient check says: the report of a check, and the errors that carry one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from minigrad.testing.numeric import Floats

WORST = 3  # how many elements a message shows; never the whole Jacobian
PRINTABLE = 64  # arrays with more elements than this are not written out in a message


@dataclass(frozen=True)
class Deviation:
    """One element of a derivative: what the rule said, what it should have been, and how far apart they may be."""

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

    `problem` is empty when the check passed; `str(report)` is then one line, otherwise the whole story.
    """

    name: str
    check: str
    problem: str = ""
    worst: tuple[Deviation, ...] = ()
    method: str = ""
    hints: tuple[str, ...] = ()
    case: str = ""
    reproduce: str = ""

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
        if self.hints:
            lines += _labelled("hint", self.hints)
        if self.reproduce:
            lines += _labelled("reproduce", self.reproduce.splitlines())
        return "\n".join(lines)


class GradientError(AssertionError):
    """A derivative is wrong. `.report` holds a `GradReport`; the message is the same report as text."""

    def __init__(self, report: GradReport) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:  # AssertionError would be rebuilt from its text
        return (type(self), (self.report,))


class NondifferentiableError(GradientError):
    """The point that was chosen has no derivative (a kink), or none that finite differences can establish."""


class NondeterministicError(GradientError):
    """The function or the rule gave two different answers to one question, so nothing can be said about it."""


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
        """Raise `error` with a report of what is wrong."""
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


def simple_hints(analytic: Floats, numeric: Floats, tol: float) -> list[str]:
    """Name the simple patterns that connect a wrong gradient with the right one."""
    if analytic.shape != numeric.shape or not analytic.size:
        return []
    hints = []
    large = np.abs(numeric) > max(1e-3 * float(np.max(np.abs(numeric))), tol)
    if not np.all(np.isfinite(analytic)):
        hints.append(f"{int(np.sum(~np.isfinite(analytic)))} of {analytic.size} elements are not finite")
    elif np.all(analytic == 0):
        hints.append("the analytic gradient is 0 everywhere")
    elif large.sum() > 1 and np.all(np.abs(analytic[~large]) <= np.abs(numeric[~large]) * 2 + tol):
        ratio = analytic[large] / numeric[large]
        if np.ptp(ratio) <= 1e-6 * np.abs(ratio).max():
            hints.append(f"analytic = {float(np.mean(ratio)):.7g} * expected, everywhere")
    if analytic.ndim >= 1 and analytic.size > 1:
        same = np.abs(analytic - numeric) <= tol
        if 0 < same.sum() < same.size:
            hints.append(f"{int(same.sum())} of {same.size} elements are right")
        if np.allclose(analytic, numeric[tuple([slice(None, None, -1)] * numeric.ndim)], rtol=0, atol=tol):
            hints.append("analytic = expected, reversed along every axis")
        elif numeric.shape == numeric.T.shape and np.allclose(analytic, numeric.T, rtol=0, atol=tol):
            hints.append("analytic = expected, transposed")
    return hints


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
    order = np.argsort(-excess, kind="stable")[:WORST]
    return [tuple(int(j) for j in np.unravel_index(i, error.shape)) for i in order]


def _subscript(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"  {label if i == 0 else '':<10} {line}" for i, line in enumerate(lines)]
