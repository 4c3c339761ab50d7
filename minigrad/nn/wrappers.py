"""Cells around a cell: Residual and LearnedState, and what all such wrappers share."""

from __future__ import annotations

from typing import Any

from minigrad import tree
from minigrad.nn.layers import parameter
from minigrad.nn.run import Net, Run, as_cell
from minigrad.ops import add, broadcast_to
from minigrad.ops.op import as_value
from minigrad.tensor import Tensor


class Wrapper(Net):
    """A cell around a cell, whose state is the same. What a step does is said in `prepared`; see `minigrad.nn.run`."""

    def __init__(self, cell: Any) -> None:
        self.cell = as_cell(type(self).__name__, cell, "wrap the cells of each direction")

    @property
    def inputs(self) -> Any:
        """How many features it reads, or None where the cell inside does not say."""
        return getattr(self.cell, "inputs", None)

    @property
    def outputs(self) -> Any:
        """How many features it gives, or None where the cell inside does not say.

        >>> import minigrad as mg
        >>> mg.nn.Dropout(mg.nn.GRUCell(2, 3), output=0.5).outputs
        3
        """
        return getattr(self.cell, "outputs", None)

    def zero_state(self, batch_size: int) -> Any:
        """The first state of the cell inside.

        >>> import minigrad as mg
        >>> from minigrad.nn.wrappers import Residual
        >>> Residual(mg.nn.GRUCell(2, 2)).zero_state(1)
        Tensor([[0., 0.]], float32)
        """
        return self.cell.zero_state(batch_size)


class Residual(Wrapper):
    """A cell whose output is added to its input: x and a state to (x + output, state).

    Input and output may be pytrees. Raises ValueError where their structures or shapes differ.
    Source: He et al., "Deep residual learning for image recognition" (2016), as used in Wu et al., "Google's neural
    machine translation system" (2016).

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.wrappers import Residual
    >>> cell = Residual(mg.nn.GRUCell(3, 3, seed=0))
    >>> x = np.ones((2, 3), dtype="float32")
    >>> output, state = cell(x, cell.zero_state(2))
    >>> bool((output == x + state).all())
    True
    """

    def prepared(self, run: Run) -> Any:
        cell = run.cell(self.cell, "cell")

        def step(x: Any, state: Any) -> tuple[Any, Any]:
            output, state = cell(x, state)
            return tree.map(_added, x, output), state

        return step


def _added(x: Any, output: Any) -> Any:
    x, output = as_value("Residual", x), as_value("Residual", output)
    if x.shape != output.shape:
        raise ValueError(
            f"Residual adds a cell's input to its output, so their shapes are the same, got {tuple(x.shape)} and "
            f"{tuple(output.shape)}"
        )
    return add(x, output)


class LearnedState(Wrapper):
    """A cell whose first state is learned: `state` holds a parameter for each leaf, the same for every row.

    The parameters start at the cell's zero state, without its batch axis, and `zero_state(batch_size)` broadcasts them,
    so that the gradient of a leaf is the sum over the rows.
    Raises TypeError for a state with leaves that are no floating tensors.

    >>> import minigrad as mg
    >>> from minigrad.nn.wrappers import LearnedState
    >>> cell = LearnedState(mg.nn.LSTMCell(2, 3, seed=0))
    >>> [path for path in cell.parameters() if "state" in path], cell.zero_state(5).c.shape
    (['state.h', 'state.c'], (5, 3))
    """

    def __init__(self, cell: Any) -> None:
        super().__init__(cell)
        leaves, structure = tree.flatten(self.cell.zero_state(1))
        self.state = structure.build(
            [_learned(f"state{path}", leaf) for path, leaf in zip(structure.paths(), leaves, strict=True)]
        )

    def prepared(self, run: Run) -> Any:
        return run.cell(self.cell, "cell")

    def zero_state(self, batch_size: int) -> Any:
        return tree.map(lambda leaf: broadcast_to(leaf, (batch_size, *leaf.shape)), self.state)


def _learned(name: str, leaf: Any) -> Tensor:
    """A parameter with the first row of a state's leaf."""
    leaf = as_value("LearnedState", leaf)
    if isinstance(leaf, Tensor) and leaf.record is not None:
        raise ValueError(f"LearnedState: the cell has learned its {name} already; wrap the outermost cell only")
    if leaf.dtype.kind != "f":
        raise TypeError(f"LearnedState learns floating states, got {name} of dtype {leaf.dtype}")
    return parameter(name, leaf[0])
