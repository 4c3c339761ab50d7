"""The ledger: what was really executed, and what is missing.

A test suite that silently runs nothing is green. So every example that a property has judged is entered here, by op,
property and backend, and at the end of a session the entries are compared with what should be there: an op without a
spec, a spec without an op, a property with fewer than five examples, an argument that was never compared, a kind of
structure that never occurred, and too many rejected examples are failures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minigrad.testing.properties import PROPERTIES
from minigrad.testing.specs import OpSpec

MIN_EXAMPLES = 5
MAX_REJECTED = 0.2


class Cell(NamedTuple):
    """What is counted apart: one property of one op on one backend."""

    op: str
    prop: str
    backend: str

    def __str__(self) -> str:
        return f"{self.prop} of {self.op} on {self.backend}"


@dataclass
class Entry:
    """What has happened in one cell.

    `given` and `compared` count, for each argument, the examples that had it and those in which it was compared.
    """

    accepted: int = 0
    rejected: int = 0
    given: Counter[int] = field(default_factory=Counter)
    compared: Counter[int] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)

    def add(self, other: Entry) -> None:
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.given.update(other.given)
        self.compared.update(other.compared)
        self.tags.update(other.tags)


class Ledger:
    """Counts executed examples; `problems` says what is missing.

    >>> from minigrad.testing.ledger import Cell, Ledger
    >>> ledger, cell = Ledger(), Cell("tanh", "P1", "numpy")
    >>> ledger.accept(cell, arguments=1, compared=[0])
    >>> ledger.problems([cell], required_tags={})
    ['P1 of tanh on numpy: 1 examples compared anything, 5 are needed']
    """

    def __init__(self) -> None:
        self.entries: dict[Cell, Entry] = {}

    def accept(
        self, cell: Cell, arguments: int | Iterable[int], compared: Sequence[int], tags: Iterable[str] = ()
    ) -> None:
        """Enter an example on which the property held; one that compared nothing is not counted as accepted.

        `arguments` are those that the property is about: so many, or these.
        """
        entry = self.entries.setdefault(cell, Entry())
        entry.accepted += bool(compared)
        entry.given.update(range(arguments) if isinstance(arguments, int) else arguments)
        entry.compared.update(compared)
        entry.tags.update(tags)

    def reject(self, cell: Cell) -> None:
        """Enter an example that could prove nothing."""
        self.entries.setdefault(cell, Entry()).rejected += 1

    def dump(self) -> list[Any]:
        """The entries as plain data, for sending them from one process to another."""
        return [
            [list(cell), e.accepted, e.rejected, list(e.given.items()), list(e.compared.items()), list(e.tags.items())]
            for cell, e in self.entries.items()
        ]

    def merge(self, dumped: Sequence[Any]) -> None:
        """Add what another process has dumped."""
        for cell, accepted, rejected, given, compared, tags in dumped:
            new = Entry(accepted, rejected, *(Counter(dict(map(tuple, c))) for c in (given, compared, tags)))
            self.entries.setdefault(Cell(*cell), Entry()).add(new)

    def problems(self, expected: Iterable[Cell], required_tags: Mapping[str, frozenset[str]]) -> list[str]:
        """What is wrong with the expected cells, one sentence each; `required_tags` are those of each op."""
        found = []
        for cell in sorted(expected):
            entry = self.entries.get(cell, Entry())
            if entry.accepted < MIN_EXAMPLES:
                found.append(f"{cell}: {entry.accepted} examples compared anything, {MIN_EXAMPLES} are needed")
                continue
            total = entry.accepted + entry.rejected
            if entry.rejected > MAX_REJECTED * total:
                found.append(
                    f"{cell}: {entry.rejected} of {total} examples were rejected, at most {MAX_REJECTED:.0%} may be"
                )
            always = max(entry.given.values(), default=0)
            found += [
                f"{cell}: argument {k} was compared {entry.compared[k]} times, {MIN_EXAMPLES} are needed"
                for k, count in sorted(entry.given.items())
                if count == always and entry.compared[k] < MIN_EXAMPLES
            ]
            missing = required_tags.get(cell.op, frozenset()) - set(entry.tags) if cell.prop == "P7" else set()
            found += [f"{cell}: no example has the structure {tag!r}" for tag in sorted(missing)]
        return found


def expected_cells(specs: Iterable[OpSpec], backends: Iterable[str]) -> set[Cell]:
    """Every cell that a full run must fill: each applicable property that the op is not exempted from."""
    chosen = tuple(backends)
    return {
        Cell(spec.name, prop.id, backend)
        for spec in specs
        for prop in PROPERTIES.values()
        if prop.applies(spec) and prop.id not in spec.exempt
        for backend in ((prop.backend,) if prop.backend else chosen)
    }


def registry_problems(specs: Iterable[OpSpec], public: Iterable[str], non_differentiable: Iterable[str]) -> list[str]:
    """Compare the specs with the framework's own list of ops, which is the truth: each op has exactly one spec.

    Exemptions are checked too: for a property that exists, and with a reason.
    """
    by_name, ops, constant = {spec.name: spec for spec in specs}, set(public), set(non_differentiable)
    found = [
        f"the op {name!r} has no spec: add one to minigrad/testing/op_specs" for name in sorted(ops - set(by_name))
    ]
    found += [f"the spec {name!r} belongs to no public op" for name in sorted(set(by_name) - ops)]
    found += [f"{name!r} is listed as not differentiable, but is no public op" for name in sorted(constant - ops)]
    for name in sorted(ops & set(by_name)):
        spec = by_name[name]
        if spec.differentiable == (name in constant):
            found.append(f"{name!r}: spec and registry disagree about whether the op has a derivative")
        for prop, reason in spec.exempt.items():
            if prop not in PROPERTIES:
                found.append(f"{name!r} is exempt from {prop!r}, which is no property")
            if not reason.strip():
                found.append(f"{name!r} is exempt from {prop} without a reason")
    return found


LEDGER = Ledger()
"""The ledger of this process."""
