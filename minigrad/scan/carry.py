"""The carry: the state that a body hands on, which must keep its structure, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.ops.op import WEAK, as_value, is_abstract
from minigrad.tape import Box, Value, constant

Leaves = list[Value]


def as_leaves(what: str, given: Any, beside: Sequence[Value] = ()) -> tuple[Leaves, tree.Structure]:
    """The leaves of a pytree as arrays and tensors; numbers become arrays of the backend of those that are `beside`.

    Raises TypeError naming the leaf that is neither.
    """
    leaves, structure = tree.flatten(given)
    values: Leaves = []
    for leaf in leaves:
        if isinstance(leaf, Box):
            values.append(leaf)
            continue
        try:
            follows = leaf.__class__ in WEAK and beside
            values.append(as_value("scan", backend_of(constant(beside[0])).asarray(leaf) if follows else leaf))
        except TypeError as error:
            path = list(structure.paths())[len(values)]
            raise TypeError(f"{what}{path} of scan: {error}") from None
    return values, structure


def check_backends(parts: dict[str, tuple[Leaves, tree.Structure]]) -> None:
    """Raise TypeError, naming two leaves, unless all that have values are on one backend."""
    found: dict[str, str] = {}
    for what, (leaves, structure) in parts.items():
        for leaf, path in zip(leaves, structure.paths(), strict=True):
            if not is_abstract(constant(leaf)):
                found.setdefault(backend_of(constant(leaf)).name, f"{what}{path}")
    if len(found) > 1:
        listed = ", ".join(f"{name} is on {backend}" for backend, name in found.items())
        raise TypeError(
            f"scan: {listed}: arrays of two backends do not mix; move one with Tensor.to(name), or make it with "
            "mg.zeros or mg.asarray where mg.use_backend(name) holds"
        )


def form(value: Value) -> str:
    """What must not change in a leaf."""
    return f"{value.dtype}{tuple(value.shape)}"


class Carry:
    """The initial state's leaves and structure, to which every later state is held."""

    def __init__(self, leaves: Leaves, structure: tree.Structure) -> None:
        self.leaves = leaves
        self.structure = structure

    def check(self, state: Any) -> Leaves:
        """The leaves of a state that `fn` returned. Raises TypeError naming the leaf that changed."""
        leaves, structure = as_leaves("state", state, self.leaves)
        if structure != self.structure:
            raise TypeError(
                f"fn of scan must return a state of the initializer's structure {self.structure}, got {structure}"
                + ("; for fn returning (state, output), pass has_output=True" if self._is_pair(state) else "")
            )
        for got, needed in zip(leaves, self.leaves, strict=True):
            a, b = constant(got), constant(needed)
            if a.shape != b.shape or a.dtype != b.dtype:
                self._refuse(leaves)
        return leaves

    def _is_pair(self, state: Any) -> bool:
        return type(state) is tuple and len(state) == 2 and tree.flatten(state[0])[1] == self.structure

    def _refuse(self, leaves: Leaves) -> None:
        lines = []
        for path, got, needed in zip(self.structure.paths(), leaves, self.leaves, strict=True):
            if form(got) == form(needed):
                continue
            if got.shape == needed.shape:
                fix = f"start from an initializer of dtype {got.dtype}, or convert the new state with astype"
            else:
                fix = f"start from an initializer of shape {tuple(got.shape)}, or reshape the new state"
            lines.append(f"state{path} was {form(needed)} and became {form(got)}; {fix}")
        raise TypeError("the state of scan must keep its shapes and dtypes: " + "; ".join(lines))

    def check_rows(self, rows: int) -> None:
        """Raise ValueError where the state has no row for each length."""
        for path, leaf in zip(self.structure.paths(), self.leaves, strict=True):
            if not leaf.shape or leaf.shape[0] != rows:
                raise ValueError(
                    f"with {rows} lengths, initializer{path} of scan is ({rows}, ...): rows are its axis 0; "
                    f"got shape {tuple(leaf.shape)}"
                )
