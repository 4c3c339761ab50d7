"""Python's own documentation, as `help()` shows it: a text that is there without a download."""

from __future__ import annotations

import re
from collections.abc import Iterator

from plumbing.commands import BadInputError

CHAPTERS = {
    "lexical analysis": "floating id-classes identifiers imaginary integers numbers strings",
    "data model": "objects specialnames types",
    "execution model": "execmodel",
    "expressions": "atom-identifiers atom-literals attribute-references await binary bitwise booleans calls comparisons"
    " conversions dict exprlists in lambda lists operator-summary power shifting slicings subscriptions unary",
    "simple statements": "assert assignment augassign break continue del global import nonlocal pass raise return"
    " yield",
    "compound statements": "compound",
    "built-in types": "bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects specialattrs"
    " string-methods truth typesfunctions typesmapping typesmethods typesmodules typesseq",
    "format strings": "formatstrings",
    "debugger": "debugger",
}
"""The topics of each chapter; other versions of Python have others."""


def topics(option: str) -> dict[str, str]:
    """The text of each topic. Who has none is told of the option that names another text."""
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415  (some systems leave it out of Python)
    except ModuleNotFoundError:
        raise BadInputError(
            f"this Python came without pydoc_data, the default text: name a text with {option} FILE"
        ) from None
    return topics


def whole(option: str) -> str:
    """All of it, topic by topic."""
    return "\n".join(text for _, text in sorted(topics(option).items()))


def by_chapter(option: str) -> Iterator[tuple[str, str]]:
    """(chapter, sentence) for each sentence of those in `CHAPTERS`."""
    texts = topics(option)
    for chapter, names in CHAPTERS.items():
        for name in names.split():
            for block in re.split(r"\n\s*\n", texts.get(name, "")):
                yield from ((chapter, sentence) for sentence in sentences(block))


def sentences(block: str) -> list[str]:
    """Those of a paragraph: what starts like a sentence, ends like one and has four words at least."""
    if re.search(r"::=|^\s*[|+]", block, re.MULTILINE):  # a grammar or a table
        return []
    pieces = re.split(r"(?<=[.!?:])\s+(?=[A-Z\"*(])", " ".join(block.split()))
    found = [piece.removeprefix("* ") for piece in pieces]
    return [
        piece for piece in found if re.fullmatch(r"[A-Z\"*(].*[.!?:]", piece) and len(re.findall(r"\w+", piece)) > 3
    ]
