"""What CuPy's functions and methods may be given: device arrays where values stand, lists only where shapes do."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minigrad.testing.fake_cupy.device_array import ADVICE, StrictArray

# Parameters that describe a shape, an axis or a place: numbers of the host, in lists or tuples where there are several.
HOST_NUMBERS = frozenset(
    "shape newshape new_shape axis axes source destination repeats reps pad_width stat_length indices_or_sections dims "
    "dimensions N M n k start stop num dtype order requirements range subscripts".split()
)
LISTS = HOST_NUMBERS | frozenset("shift q constant_values end_values".split())  # of these, device arrays may do as well
SEQUENCES = frozenset("tup arrays condlist choicelist multi_index".split())  # of device arrays
DEVICE_REPEATS = frozenset(["repeats"])  # a device array may tell them, for a wait of the host


_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_names_of: dict[tuple[Any, ...], tuple[str, ...]] = {}  # by caller, how many arguments have no name, and the others'


def bind(caller: str, expected: inspect.Signature, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Return the arguments by CuPy's names; raise TypeError for what CuPy's function does not take."""
    form = (caller, len(args), *kwargs)
    names = _names_of.get(form)
    if names is None:
        try:
            bound = expected.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"cupy.{caller}{expected}: {error}") from None
        if not any(expected.parameters[name].kind in _SEVERAL for name in bound.arguments):
            _names_of[form] = tuple(bound.arguments)
    else:  # most calls: a signature takes several times as long
        given = dict(zip(names, args, strict=False), **kwargs)
        bound = inspect.BoundArguments(expected, {name: given[name] for name in names})
    out = bound.arguments.get("out")
    if out is not None and not isinstance(out, StrictArray):
        raise TypeError(f"cupy.{caller}: out must be a device array, got {type(out)}")
    return bound


def by_name(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Yield every argument with the name of its parameter, those of `*args` and `**kwargs` too."""
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, item) for item in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def check_kinds(caller: str, arguments: Iterable[tuple[str, Any]]) -> None:
    """Raise TypeError for a list where values belong, and for a device array where the host needs a number."""
    for name, value in arguments:
        if isinstance(value, (list, tuple)):
            if name in SEQUENCES:
                for item in value:
                    check_is_array(caller, item)
            elif name not in LISTS:
                kind = type(value).__name__
                raise TypeError(f"cupy.{caller}: {name} is a {kind}, which is no device array; {ADVICE}")
        elif isinstance(value, StrictArray) and name in HOST_NUMBERS - DEVICE_REPEATS:
            raise TypeError(
                f"cupy.{caller}: {name} is a device array, but the host needs it, and would have to wait; keep it on "
                "the host, as an int or a tuple of them"
            )


def check_is_array(caller: str, value: Any) -> None:
    """Raise TypeError for what is no device array."""
    if not isinstance(value, StrictArray):
        raise TypeError(f"cupy.{caller} needs a device array, got {type(value)}; {ADVICE}")


def check_positions(caller: str, positions: Any) -> None:
    """Raise TypeError for what `take` may not be given as its index."""
    if not isinstance(positions, (StrictArray, int, np.integer)):
        raise TypeError(f"cupy.{caller}: positions must be an integer or a device array, got {type(positions)}")


def check_options(caller: str, options: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Raise TypeError for a keyword that CuPy's function of many keywords does not know."""
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise TypeError(f"cupy.{caller} does not take {', '.join(unknown)}; it takes {', '.join(sorted(allowed))}")
