"""Values as Python source, and the names that a program's source must leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minigrad.scan.distribute import UFUNCS


class Number:
    """A constant number, made into an array of the program's backend when the program is built."""

    def __init__(self, value: Any, dtype: np.dtype[Any]) -> None:
        self.value = value
        self.dtype = dtype
        self.key = (repr(value), dtype)


class Text(str):
    """An expression, not a string."""

    __slots__ = ()


def tuple_of(parts: Iterable[Any]) -> str:
    """A tuple of expressions."""
    parts = list(parts)
    return "(" + ", ".join(str(p) for p in parts) + ("," if len(parts) == 1 else "") + ")"


def index_part(part: Any) -> str:
    """A part of an index, where it is an argument."""
    if part.__class__ is slice:
        return f"slice({part.start}, {part.stop}, {part.step})"
    return "Ellipsis" if part is Ellipsis else repr(part)


def brackets(parts: Sequence[Any]) -> str:
    """An index in its usual form; with an Ellipsis, so that single numbers stay arrays."""

    def text(part: Any) -> str:
        if part.__class__ is slice:
            start, stop = ("" if n is None else str(n) for n in (part.start, part.stop))
            return f"{start}:{stop}" + ("" if part.step is None else f":{part.step}")
        return "..." if part is Ellipsis else repr(part)

    listed = [text(part) for part in parts]
    if "..." not in listed and (any(part.__class__ is int for part in parts) or not listed):
        listed.append("...")
    return "[" + ", ".join(listed) + "]"


def static_text(value: Any, const: Callable[[Any, str], str]) -> str:
    """A static argument; `const` names an object that has no text."""
    if value.__class__ is Text:
        return str(value)
    if value.__class__ is tuple:
        return "(" + "".join(static_text(part, const) + ", " for part in value) + ")"
    if value.__class__ is str and value == "T":
        return "T"  # the number of steps
    if value is None or value.__class__ in (int, bool, str):
        return repr(value)
    if value.__class__ is float and math.isfinite(value):
        return repr(value)
    if value.__class__ is slice or value is Ellipsis:
        return index_part(value)
    return const(value, "static")


RESERVED = (
    "T", "N", "carry", "elems", "captured", "frame", "fresh", "lent", "rows", "make", "run", "start", "stop", "now",
    "xp", "empty", "zeros", "views", "rows_of", "dot", "matmul", "copyto", "sum_of", "asarray", "scatter_add",
    "broadcast_to", "step_numbers", "copy_to_shape", "first_rows", "packed_views", "take_rows", "sum_of_steps",
    "times_steps", "zip", "min", "max", "range", "slice", "and", "or", "not", "if", "in", "is", "for", "def", "return",
    "lambda", "del", "pass", "None", *UFUNCS.values(),
)  # fmt: skip
"""Names that a program uses itself."""
