"""The table of ops and properties, generated: `python -m minigrad.testing.properties_table > docs/properties.md`.

It says what the ledger demands, from the same specs and properties: a test compares the document with it.
"""

from __future__ import annotations

import inspect
import sys

from minigrad.testing.ledger import MIN_EXAMPLES
from minigrad.testing.properties import PROPERTIES
from minigrad.testing.specs import OpSpec, all_specs

HEAD = f"""\
# What is tested of every op

Made by `python -m minigrad.testing.properties_table` from the specs and the properties; a test fails if it is not
what that command prints. A dot says that the property is checked on drawn examples, on every backend, and that a
session fails if fewer than {MIN_EXAMPLES} of them compared anything. An empty place says that the property makes no
sense for the op: P2 is for linear ones, P9 for those with kinks or laws, and without a derivative there is P0 alone.
"""


def table() -> str:
    """The document: the properties, the ops with a dot for each property that is checked, and what is excused."""
    specs = all_specs()
    lines = [HEAD, "## Properties", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_first_line(prop.check)} |" for name, prop in PROPERTIES.items()]
    lines += [
        "",
        "## Ops",
        "",
        f"| op | {' | '.join(PROPERTIES)} | conventions |",
        "|---" * (len(PROPERTIES) + 2) + "|",
    ]
    lines += [f"| {_name(spec)} | {' | '.join(_marks(spec))} | {len(spec.kinks) or ''} |" for spec in specs]
    excused = [f"* {_name(spec)}, {prop}: {reason}" for spec in specs for prop, reason in spec.exempt.items()]
    lines += ["", "## Exemptions", "", *(excused or ["None."]), ""]
    return "\n".join(lines)


def _first_line(check: object) -> str:
    return (inspect.getdoc(check) or "").splitlines()[0]


def _name(spec: OpSpec) -> str:
    return f"`{spec.name}`"


def _marks(spec: OpSpec) -> list[str]:
    """A mark for each property: checked, excused, or nothing to check."""
    return [
        "" if not prop.applies(spec) else "excused" if prop.id in spec.exempt else "·" for prop in PROPERTIES.values()
    ]


if __name__ == "__main__":
    sys.stdout.write(table())
