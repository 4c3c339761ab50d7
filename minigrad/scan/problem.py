"""What a scan has to do, checked and taken apart: the same for every way of doing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of
from minigrad.ops.indexing import getitem_
from minigrad.scan.carry import Carry, Leaves, as_leaves
from minigrad.tape import Value, constant
from minigrad.tensor import Tensor


class Problem:
    """`fn` over the (T, ...) leaves of elems, from the carry's initial state; `rows` are lengths, or None."""

    def __init__(
        self,
        fn: Callable[[Any, Any], Any],
        elems: Leaves,
        structure: tree.Structure,
        carry: Carry,
        has_output: bool,
        reverse: bool,
        rows: np.ndarray[Any, Any] | None,
        steps: int,
    ) -> None:
        self.fn = fn
        self.elems = elems
        self.structure = structure
        self.carry = carry
        self.has_output = has_output
        self.reverse = reverse
        self.rows = rows
        self.steps = steps
        self.active = steps if rows is None else int(rows.max(initial=0))  # no row has more steps
        self.spare_state = carry.leaves
        self.output_structure = None if has_output else carry.structure
        self._output_forms: list[Any] | None = None

    def replace_padding(self) -> None:
        """Give every row something to do where it has no step of its own: its first step, from its first state.

        An empty row does that of the longest one. So padding never enters the arithmetic, and `fn` is only asked what
        some row asks; zeros flow back. (What `fn` captures for each row stays with its row: that is an empty row's
        own still.)
        """
        rows = self.rows
        if rows is None or not self.active or rows.min() == self.active:
            return
        row = np.where(rows > 0, np.arange(len(rows)), rows.argmax())
        t = np.arange(self.active)[:, None]
        t = np.where(t < rows, t, rows[row] - 1 if self.reverse else 0)
        self.elems = [_cut(leaf, t, row) for leaf in self.elems]
        if rows.min() == 0:
            self.spare_state = [_cut(leaf, row) for leaf in self.carry.leaves]

    def call(self, state: Leaves, x: Leaves) -> tuple[Leaves, Leaves]:
        """One step of `fn`: the leaves of the new state, and of the output (of the state if there is none)."""
        # Tensors, also of arrays: `s += x` in a body then makes a new one, and does not write into what was given.
        result = self.fn(self.carry.structure.build(_tensors(state)), self.structure.build(_tensors(x)))
        if not self.has_output:
            new = self.carry.check(result)
            return new, new
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"with has_output=True, fn of scan returns a pair (state, output), got {type(result).__name__}"
            )
        return self.carry.check(result[0]), self._checked_output(result[1])

    def _checked_output(self, output: Any) -> Leaves:
        leaves, structure = as_leaves("output", output, [*self.carry.leaves, *self.elems])
        forms = [(leaf.dtype, tuple(leaf.shape)) for leaf in leaves]
        if self._output_forms is None:
            self.output_structure, self._output_forms = structure, forms
            self._check_rows(leaves, structure)
            return leaves
        if structure != self.output_structure:
            raise TypeError(
                f"the output of scan's fn must keep its structure: it was {self.output_structure}, got {structure}"
            )
        for path, was, got in zip(structure.paths(), self._output_forms, forms, strict=True):
            if was != got:
                before, now = (f"{dtype}{shape}" for dtype, shape in (was, got))
                raise TypeError(f"output{path} of scan's fn must keep its shape and dtype: it was {before}, got {now}")
        return leaves

    def _check_rows(self, leaves: Leaves, structure: tree.Structure) -> None:
        if self.rows is None:
            return
        for path, out in zip(structure.paths(), leaves, strict=True):
            if not out.shape or out.shape[0] != len(self.rows):
                raise ValueError(
                    f"with {len(self.rows)} lengths, output{path} of scan's fn is ({len(self.rows)}, ...): "
                    f"rows are its axis 0; got shape {tuple(out.shape)}"
                )


def _tensors(leaves: Leaves) -> list[Tensor]:
    return [leaf if isinstance(leaf, Tensor) else Tensor(leaf) for leaf in leaves]


def _cut(leaf: Value, *index: np.ndarray[Any, Any]) -> Value:
    return getitem_(leaf, index=tuple(backend_of(constant(leaf)).asarray(part) for part in index))
