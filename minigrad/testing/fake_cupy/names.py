"""The names that CuPy has, read from cupy_names.txt."""

from __future__ import annotations

import inspect
from collections import defaultdict
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("cupy_names.txt")
DTYPES = "?bBhHiIlLqQefdFD"  # that every CuPy has; others, as bfloat16, come with other packages


def read() -> dict[str, dict[str, str]]:
    """Return, for each kind of name (function, method, ufunc, ...), its names and their arguments as text.

    Those of a ufunc are the characters of the dtypes that it takes.
    """
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            kind, _, rest = line.partition(" ")
            name, _, arguments = rest.partition("(")
            found[kind][name] = arguments.removesuffix(")")
    return dict(found)


@cache
def signature(arguments: str) -> inspect.Signature:
    """Return the signature of `name(arguments)`."""
    return inspect.signature(eval(f"lambda {arguments}: None"))  # noqa: S307  # the text is our own file's


NAMES = read()
