"""A rule that was made wrong, and the report on which of them a test noticed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad.testing.compare import same_bits
from minigrad.testing.mutate.results import count_of, rule
from minigrad.testing.mutate.syntax import Mutant, NoSourceError, source
from minigrad.testing.report import quiet

Test = Callable[[Callable[..., Any]], Any]


@dataclass(frozen=True)
class MutationReport:
    """Which mutants of a rule a test has killed, and which it let live.

    `unseen` are those of the `survivors` that gave the rule's own answers wherever the test called them: the test's
    inputs cannot tell them apart. `equivalent` were declared to be no mistakes, and did survive; `stale` are such
    declarations of mutants that were killed, or that there are none of.
    """

    name: str
    killed: tuple[Mutant, ...]
    survivors: tuple[Mutant, ...]
    unseen: tuple[Mutant, ...] = ()
    equivalent: tuple[Mutant, ...] = ()
    stale: tuple[str, ...] = ()
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether every mutant was killed but those that were declared equivalent, and they were not."""
        return not self.survivors and not self.stale

    def __str__(self) -> str:
        total = len(self.killed) + len(self.survivors)
        lines = [f"{self.name}: {len(self.killed)} of {total} mutants killed, {len(self.equivalent)} equivalent"]
        for mutant in self.survivors:
            unseen = "  (gave the rule's own answers here)" if mutant in self.unseen else ""
            change = mutant.diff.splitlines() or [mutant.name]
            lines += [f"  survived    {change[0]}{unseen}", *[f"              {line}" for line in change[1:]]]
        lines += [f"  stale       {name}: declared equivalent, but killed or not there" for name in self.stale]
        return "\n".join([*lines, *([f"  note        {self.note}"] if self.note else [])])


def score(
    vjp: Callable[..., Any], test: Test, *, equivalent: Collection[str] = (), mutants: Iterable[Mutant] | None = None
) -> MutationReport:
    """Run a test on every mutant of a rule, and report what it let live.

    `test(rule)` is the user's: it checks the rule that it is given, and raises (anything) where it finds it wrong. The
    mutants are those of `rule` and `source`, unless others are given; `vjp` returns one gradient or a tuple of them,
    and takes the cotangent first. A rule without source (a lambda, or one that was typed in) has no mutants of
    `source`, which the report notes. `equivalent` names mutants that are no mistakes for this rule.

    Returns a `MutationReport`, to print. Raises ValueError if the test fails on the rule itself, since then it would
    kill every mutant.

    A cotangent of ones is blind to softmax, whose sum is constant; one of mixed signs is not:

    >>> import numpy as np
    >>> from minigrad.testing import check_vjp, mutate
    >>> def softmax(x):
    ...     return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    >>> def softmax_vjp(g, out, x):
    ...     return out * (g - (g * out).sum(axis=1, keepdims=True))
    >>> x = np.array([[0.5, -1.0, 0.25], [1.0, 0.75, -0.5]])
    >>> ones = mutate.score(softmax_vjp, lambda rule: check_vjp(softmax, x, vjp=rule, cotangent=np.ones((2, 3))))
    >>> [mutant.name for mutant in ones.survivors if mutant.name in ("negated", "times 1.001")]
    ['times 1.001', 'negated']
    >>> mixed = mutate.score(
    ...     softmax_vjp,
    ...     lambda rule: check_vjp(softmax, x, vjp=rule),
    ...     equivalent=["broadcasting not undone"],  # there is none: the result has the shape of x
    ... )
    >>> print(mixed)
    softmax_vjp: 37 of 37 mutants killed, 1 equivalent
    """
    counted, seen = count_of(vjp)
    try:
        test(counted)
    except Exception as error:
        raise ValueError(
            f"the test fails on the rule itself ({type(error).__name__}), so it would kill every mutant: "
            "make it pass on the right rule first"
        ) from error
    note = ""
    if mutants is None:
        mutants = list(rule(vjp, gradients=max(seen, default=1)))
        try:
            mutants += source(vjp)
        except NoSourceError as error:
            note = str(error)
    killed: list[Mutant] = []
    alive: list[Mutant] = []
    for mutant in mutants:
        (killed if is_killed(mutant.rule, test) else alive).append(mutant)
    excused = tuple(mutant for mutant in alive if mutant.name in equivalent)
    left = tuple(mutant for mutant in alive if mutant.name not in equivalent)
    unseen = tuple(mutant for mutant in left if not _differs(vjp, mutant.rule, test))
    stale = tuple(sorted(set(equivalent) - {mutant.name for mutant in excused}))
    return MutationReport(getattr(vjp, "__name__", "rule"), tuple(killed), left, unseen, excused, stale, note)


def survivors(vjp: Callable[..., Any], test: Test) -> list[Mutant]:
    """The mutants of a rule that a test lets live; see `score`.

    >>> import numpy as np
    >>> from minigrad.testing import mutate
    >>> def double_vjp(g, out, x):
    ...     return 2.0 * g
    >>> def loose(rule):  # right to a percent, on one number
    ...     assert abs(rule(np.array(1.5), np.array(6.0), np.array(3.0)) - 3.0) < 0.03
    >>> [mutant.name for mutant in mutate.survivors(double_vjp, loose)][:3]
    ['times 1.001', 'times 1.00001', 'rolled']
    """
    return list(score(vjp, test).survivors)


def is_killed(mutated: Callable[..., Any], test: Test) -> bool:
    """Whether a test raises on a mutant."""
    with np.errstate(all="ignore"), quiet():
        try:
            test(mutated)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  (a kill is whatever the test raises; pytest's failures are no Exceptions)
            return True
    return False


def _differs(vjp: Callable[..., Any], mutated: Callable[..., Any], test: Test) -> bool:
    """Whether a mutant has given another answer than the rule anywhere in a test that it passed."""
    found = []

    def both(*args: Any, **kwargs: Any) -> Any:
        wanted = _copied(vjp(*args, **kwargs))
        got = mutated(*args, **kwargs)
        found.append(not _same(wanted, got))
        return got

    return is_killed(both, test) or any(found)


def _copied(grads: Any) -> Any:
    if isinstance(grads, (tuple, list)):
        return [_copied(grad) for grad in grads]
    return np.array(grads) if isinstance(grads, np.ndarray) else grads


def _same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, list):
        return len(wanted) == len(got) and all(_same(w, g) for w, g in zip(wanted, got, strict=True))
    return wanted is got or same_bits(wanted, got)
