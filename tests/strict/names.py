"""The names that CuPy has, read from cupy_names.txt."""

from __future__ import annotations

import inspect
from collections import defaultdict
from pathlib import Path

FILE = Path(__file__).with_name("cupy_names.txt")


def read() -> dict[str, dict[str, str]]:
    """Return, for each kind of name (function, method, ufunc, ...), its names and their arguments as text."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for line in FILE.read_text().splitlines():
        if not line.startswith("#"):
            kind, _, rest = line.partition(" ")
            name, _, arguments = rest.partition("(")
            found[kind][name] = arguments.removesuffix(")")
    return dict(found)


def signature(arguments: str) -> inspect.Signature:
    """Return the signature of `name(arguments)`."""
    return inspect.signature(eval(f"lambda {arguments}: None"))


NAMES = read()
