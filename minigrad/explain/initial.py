"""What a cell is like before training: does its state fade or explode, and can its gates learn at all?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.cells import Cell
from minigrad.nn.module import tensors_of
from minigrad.nn.recurrent import dynamic_rnn
from minigrad.ops import sigmoid, tanh
from minigrad.ops.op import as_value
from minigrad.tape import constant, no_grad

SIGMOIDS, TANHS = "ifozr", "gn"
"""The gates of minigrad's cells by what squashes them; in the simple cell it is its activation."""


@dataclasses.dataclass(frozen=True, repr=False)
class Initial:
    """What `initial` found, each by gate. Print it to read it.

    `spectral_radius`: the largest |eigenvalue| of the gate's W_h; None where W_h is not square. `saturated`: the share
    of values in which the gate hardly reacts any more; None for an activation that does not saturate like this.

    >>> import minigrad as mg, numpy as np
    >>> mg.explain.initial(mg.nn.GRUCell(2, 3, seed=0), np.full((1, 4, 2), 1e4, "float32")).saturated  # large inputs
    {'r': 1.0, 'z': 1.0, 'n': 1.0}
    """

    spectral_radius: dict[str, float | None]
    saturated: dict[str, float | None]

    def __str__(self) -> str:
        lines = ["gate  spectral radius of W_h  saturated units"]
        for gate, radius in self.spectral_radius.items():
            share = self.saturated[gate]
            texts = "not square" if radius is None else f"{radius:.3f}", "-" if share is None else f"{share:.1%}"
            lines.append(f"{gate:4}{texts[0]:>24}{texts[1]:>17}")
        return "\n".join(lines)

    __repr__ = __str__


def initial(cell: Cell, inputs: Any) -> Initial:
    """The spectral radius of each gate's recurrent matrix, and its share of saturated units over inputs (B, T, I).

    The cell, one of `minigrad.nn`, runs over the inputs from its zero state. A value of a gate counts as saturated
    where it is below 0.05 or above 0.95 after a sigmoid, or above 0.95 in size after a tanh: there the derivative is
    less than a fifth, or a tenth, of its largest.

    Raises TypeError for another kind of cell; ValueError for inputs without a step, for NaN or inf in the parameters or
    the inputs, and for a gate that becomes NaN.
    Source: the diagnosis is that of Glorot and Bengio (2010); the radius, of Pascanu et al., "On the difficulty of
    training recurrent neural networks" (2013).

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.explain.initial import initial
    >>> cell = mg.nn.LSTMCell(3, 4, forget_bias=5.0, init_W_h=mg.nn.initialisers.identity)
    >>> print(initial(cell, np.zeros((1, 2, 3), "float32")))
    gate  spectral radius of W_h  saturated units
    i                      1.000             0.0%
    f                      1.000           100.0%
    g                      1.000             0.0%
    o                      1.000             0.0%
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"explain.initial takes a cell of minigrad.nn, got {type(cell).__name__}")
    for path, parameter in tensors_of(cell).items():
        _check_finite(f"{path} of the cell", _host(parameter))
    _check_finite("the inputs", _host(as_value("explain.initial", inputs)))
    with no_grad():
        recorded = dynamic_rnn(cell, inputs, record=tuple(cell.gates))[2]
    values = {gate: _host(recorded[gate]) for gate in cell.gates}
    if not all(array.size for array in values.values()):
        raise ValueError(f"explain.initial takes inputs (B, T, I) with at least one step, got {np.shape(inputs)}")
    for gate, array in values.items():
        if np.isnan(array).any():
            row, step, unit = np.argwhere(np.isnan(array))[0]
            raise ValueError(
                f"explain.initial: gate {gate} is NaN at step {step} of row {row}, unit {unit}: the inputs or the "
                "parameters are so large that sums overflow; make them smaller"
            )
    return Initial(
        {gate: _radius(_host(cell.gate(gate).W_h)) for gate in cell.gates},
        {gate: _saturated(values[gate], _squashing(cell, gate)) for gate in cell.gates},
    )


def _check_finite(what: str, array: np.ndarray[Any, Any]) -> None:
    """ValueError that says what is NaN or inf, and where: all that is computed from it would be, too."""
    wrong = np.argwhere(~np.isfinite(array)) if array.dtype.kind == "f" else np.empty((0, 0))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise ValueError(
            f"explain.initial needs finite numbers, got {array[place]} at {place} of {what}, where {len(wrong)} of "
            f"{array.size} are NaN or inf"
        )


def _host(value: Any) -> np.ndarray[Any, Any]:
    array = constant(value)
    host: np.ndarray[Any, Any] = backend_of(array).to_host(array)
    return host


def _radius(W: np.ndarray[Any, Any]) -> float | None:
    return None if W.shape[0] != W.shape[1] else float(np.abs(np.linalg.eigvals(W.astype(np.float64))).max())


def _squashing(cell: Cell, gate: str) -> Any:
    known = {**dict.fromkeys(SIGMOIDS, sigmoid), **dict.fromkeys(TANHS, tanh)}
    return known.get(gate, getattr(cell, "activation", None))


def _saturated(values: np.ndarray[Any, Any], squashing: Any) -> float | None:
    if squashing is tanh:
        return float((np.abs(values) > 0.95).mean())
    return float(((values < 0.05) | (values > 0.95)).mean()) if squashing is sigmoid else None
