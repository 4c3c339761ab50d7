"""Conventions: what the shapes of a module's arrays do not tell, recorded with them, and conversion between two.

A GRU whose z keeps and one whose z writes have the same arrays and compute different things with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.nn.cells import with_z_negated
from minigrad.nn.module import Module, walk
from minigrad.tape import constant

CONVENTIONS = ("gates", "update", "reset", "forget_bias_in", "activation", "clip")
"""Attributes that say, each with one word, how a module reads its arrays, where their shapes do not tell."""
UPDATES = {"keep", "write"}  # of a GRU: what an open update gate does


def conventions(module: Module) -> dict[str, dict[str, str]]:
    """What the arrays of a module do not tell of themselves: for each cell in it, by path, its words for `CONVENTIONS`.

    Of an activation that is the function's name, and of a clip the number. Any module may have attributes of these
    names; what is no string is not recorded, nor is a module without them.
    A cell that is reached twice appears once, as its parameters do.

    >>> import minigrad as mg
    >>> mg.training.conventions(mg.nn.RNNCell(2, 3))
    {'': {'gates': 'h', 'activation': 'tanh'}}
    """
    found: dict[str, dict[str, str]] = {}
    for path, part in walk(module):
        if isinstance(part, Module):
            words = {name: _word(name, getattr(part, name, None)) for name in CONVENTIONS}
            told = {name: word for name, word in words.items() if word is not None}
            if told:
                found[path] = told
    return found


def _word(name: str, value: Any) -> str | None:
    """What is recorded of an attribute: a string as it is; None where that is nothing."""
    if name == "activation":
        value = getattr(value, "__name__", value)
    if name == "clip" and isinstance(value, float):
        value = str(value)
    return value if isinstance(value, str) else None


def check_conventions(file: str, saved: Any, module: Module) -> None:
    """ValueError, with the way out, where a file's conventions are not those of a module."""
    needed = conventions(module)
    if saved is None and needed:
        raise ValueError(
            f"{file!r} does not tell its conventions, and {type(module).__name__} has {needed}: load it without "
            "module= if you know that they agree"
        )
    differences, conversions = [], []
    for path in dict.fromkeys([*needed, *(saved or {})]):
        theirs, ours = (saved or {}).get(path, {}), needed.get(path, {})
        differing = [name for name in CONVENTIONS if theirs.get(name) != ours.get(name)]
        where = f"{path}." if path else ""
        differences += [
            f"{where}{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here" for name in differing
        ]
        if {theirs.get("update"), ours.get("update")} == UPDATES and theirs.get("gates") == "rzn":
            conversions.append(f"arrays = mg.training.convert_update(arrays, {path!r})")
    if differences:
        convert = f"load it without module= and convert: {'; '.join(conversions)}"
        way = convert if len(conversions) == len(differences) else "build the module with the conventions of the file"
        raise ValueError(f"{file!r} has other conventions than this module: {', '.join(differences)}; {way}")


def convert_update(arrays: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The arrays of a GRU whose z keeps the old state, as those of one whose z writes the new, or the other way round.

    With sigmoid(-a) = 1 - sigmoid(a), to negate the weights and the bias of z swaps the two: nothing is lost, and
    twice is the identity, bit for bit. arrays: a `state_dict` or a checkpoint's, of any backend; those of the GRU at
    `path` ("" for a GRU alone), whose gates are r, z, n, are converted, and the others given as they are.

    ValueError where `path` has no W_x, W_h and b of three gates, as an LSTM has not, or arrays that a GRUCell has not.
    Sources: z keeps in Cho et al. (2014), and writes in Chung et al. (2014).

    >>> import minigrad as mg, numpy as np
    >>> mg.training.convert_update({"W_x": np.ones((1, 3)), "W_h": np.ones((1, 3)), "b": np.zeros(3)})["W_x"]
    array([[ 1., -1.,  1.]])
    """
    prefix = f"{path}." if path else ""
    names = {name.removeprefix(prefix) for name in arrays if name.startswith(prefix)}
    own = {name for name in names if "." not in name}
    if not {"W_x", "W_h", "b"} <= own <= {"W_x", "W_h", "b", "b_hn"}:
        raise ValueError(f"a GRU has the arrays W_x, W_h, b and perhaps b_hn, got at the path {path!r}: {sorted(own)}")
    converted, units = dict(arrays), constant(arrays[f"{prefix}W_h"]).shape[0]
    for name in ("W_x", "W_h", "b"):
        array = constant(arrays[prefix + name])
        if array.shape[-1] != 3 * units:
            raise ValueError(
                f"{prefix}{name} has the columns of three gates of {units} units side by side, got {tuple(array.shape)}"
            )
        converted[prefix + name] = with_z_negated(array)
    return converted
