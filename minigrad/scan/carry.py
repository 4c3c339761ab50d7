"""The carry: the state that a body hands on, which must keep its structure, shapes and dtypes."""

from __future__ import annotations

from typing import Any

from minigrad import tree
from minigrad.ops.op import as_value
from minigrad.tensor import Tensor


class Carry:
    """The initial state's leaves and structure, to which every later state is held."""

    def __init__(self, leaves: list[Tensor], structure: tree.Structure) -> None:
        self.leaves = leaves
        self.structure = structure

    def check(self, state: Any) -> list[Tensor]:
        """The leaves of a state that `fn` returned. Raises TypeError naming the leaf that changed."""
        leaves, structure = tree.flatten(state)
        if structure != self.structure:
            raise TypeError(
                f"fn of scan must return a state of the initializer's structure {self.structure}, got {structure}"
                + ("; for fn returning (state, output), pass has_output=True" if self._is_pair(state) else "")
            )
        tensors = [leaf if isinstance(leaf, Tensor) else Tensor(as_value("scan", leaf)) for leaf in leaves]
        for got, needed in zip(tensors, self.leaves, strict=True):
            if got.array.shape != needed.array.shape or got.array.dtype != needed.array.dtype:
                self._refuse(tensors)
        return tensors

    def _is_pair(self, state: Any) -> bool:
        return type(state) is tuple and len(state) == 2 and tree.flatten(state[0])[1] == self.structure

    def _refuse(self, tensors: list[Tensor]) -> None:
        lines = []
        for path, got, needed in zip(self.structure.paths(), tensors, self.leaves, strict=True):
            if got.shape != needed.shape or got.dtype != needed.dtype:
                fix = (
                    f"start from an initializer of dtype {got.dtype}, or convert the new state with astype"
                    if got.shape == needed.shape
                    else f"start from an initializer of shape {got.shape}, or reshape the new state"
                )
                lines.append(f"state{path} was {needed.dtype}{needed.shape} and became {got.dtype}{got.shape}; {fix}")
        raise TypeError("the state of scan must keep its shapes and dtypes: " + "; ".join(lines))

    def check_rows(self, rows: int) -> None:
        """Raise ValueError where the state has no row for each length."""
        for path, leaf in zip(self.structure.paths(), self.leaves, strict=True):
            if not leaf.shape or leaf.shape[0] != rows:
                raise ValueError(
                    f"with {rows} lengths, initializer{path} of scan is ({rows}, ...): rows are its axis 0; "
                    f"got shape {leaf.shape}"
                )

    def build(self, leaves: list[Tensor]) -> Any:
        """A state of this structure."""
        return self.structure.build(leaves)
