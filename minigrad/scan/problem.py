"""What a scan has to do, checked and taken apart: the same for every way of doing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.ops.indexing import getitem, getitem_
from minigrad.ops.op import as_value
from minigrad.scan.carry import Carry
from minigrad.tensor import Tensor


@dataclass
class Problem:
    """`fn` over the (T, ...) leaves of elems, from the carry's initial state; `rows` are lengths, or None."""

    fn: Callable[[Any, Any], Any]
    elems: list[Tensor]
    structure: tree.Structure
    carry: Carry
    has_output: bool
    reverse: bool
    rows: np.ndarray[Any, Any] | None
    steps: int

    def x(self, leaves: list[Tensor]) -> Any:
        """One step's input, from the leaves of one step."""
        return self.structure.build(leaves)

    def call(self, state: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor], tree.Structure]:
        """One step of `fn`: the leaves of the new state, and those of the output (none) with its structure."""
        result = self.fn(self.carry.build(state), self.x(x))
        if not self.has_output:
            return self.carry.check(result), [], self.carry.structure
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"with has_output=True, fn of scan returns a pair (state, output), got {type(result).__name__}"
            )
        leaves, structure = tree.flatten(result[1])
        outputs = [leaf if isinstance(leaf, Tensor) else Tensor(as_value("scan", leaf)) for leaf in leaves]
        if self.rows is not None:
            for path, out in zip(structure.paths(), outputs, strict=True):
                if not out.shape or out.shape[0] != len(self.rows):
                    raise ValueError(
                        f"with {len(self.rows)} lengths, output{path} of scan's fn is ({len(self.rows)}, ...): "
                        f"rows are its axis 0; got shape {out.shape}"
                    )
        return self.carry.check(result[0]), outputs, structure

    def without_padding(self) -> list[Tensor]:
        """The elems with padding replaced by inputs that rows really have, so that it never enters the arithmetic.

        A finished row reads its own last input again, an empty one the inputs of the longest row. What is computed
        from them is thrown away, and zeros flow back to them.
        """
        if self.rows is None or not self.rows.size or self.rows.min() == self.steps:
            return self.elems
        longest = int(self.rows.argmax())
        row = np.where(self.rows > 0, np.arange(len(self.rows)), longest)
        t = np.minimum(np.arange(int(self.rows.max()))[:, None], self.rows[row] - 1)
        return [getitem(leaf, (t, row)) for leaf in self.elems]

    def slices(self, elems: list[Tensor], t: int) -> list[Tensor]:
        """The leaves of step t."""
        return [getitem_(leaf, index=(t,)) for leaf in elems]
