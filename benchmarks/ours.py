"""The same networks in minigrad, through its public names alone.

Each function takes the inputs (T, B, I) and the parameters by name, does what is done once, and returns the step
that is timed: forward, the sum of the squares of all outputs, backward.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks.cells import LSTM, Array, Arrays, Cell, State, Step, results, zero_state


def scan(cell: Cell, x: Array, parameters: Arrays, lengths: Array = None) -> Step:
    """A cell under mg.scan, which does not know what cell it is."""
    inputs, *weights = tensors = leaves(x, parameters)
    start = zeros(cell, x, parameters)
    return taped(parameters, tensors, lambda: run(cell, inputs, weights, start, lengths=lengths))


def two_scans(x: Array, parameters: Arrays) -> Step:
    """Two layers of LSTM, one scan after the other."""
    inputs, *weights = tensors = leaves(x, parameters)
    start = zeros(LSTM, x, parameters)
    return taped(parameters, tensors, lambda: run(LSTM, run(LSTM, inputs, weights[:3], start), weights[3:], start))


def two_cells(
    run: Callable[[mg.nn.LSTMCell, mg.nn.LSTMCell, mg.Tensor], mg.Tensor], x: Array, parameters: Arrays
) -> Step:
    """Two mg.nn.LSTMCells, put together by `run(first, second, inputs)`."""
    arrays = list(parameters.values())
    cells = [lstm_cell(*arrays[:3]), lstm_cell(*arrays[3:])]
    inputs = mg.tensor(x, requires_grad=True)
    tensors = [inputs, *(p for cell in cells for p in (cell.W_x, cell.W_h, cell.b))]
    return taped(parameters, tensors, lambda: run(*cells, inputs))


def lstm_cell(W_x: Array, W_h: Array, b: Array) -> mg.nn.LSTMCell:
    cell = mg.nn.LSTMCell(len(W_x), len(W_h), dtype=str(W_x.dtype), seed=0)
    cell.load_state_dict({"W_x": W_x, "W_h": W_h, "b": b})
    return cell


def outputs(net: Any, inputs: mg.Tensor, reverse: bool = False) -> mg.Tensor:
    return mg.nn.dynamic_rnn(net, inputs, time_major=True, reverse=reverse)[0]


def deep(first: mg.nn.LSTMCell, second: mg.nn.LSTMCell, inputs: mg.Tensor) -> mg.Tensor:
    return outputs(mg.nn.Deep([first, second]), inputs)


def layer_after_layer(first: mg.nn.LSTMCell, second: mg.nn.LSTMCell, inputs: mg.Tensor) -> mg.Tensor:
    return outputs(second, outputs(first, inputs))


def bidirectional(first: mg.nn.LSTMCell, second: mg.nn.LSTMCell, inputs: mg.Tensor) -> mg.Tensor:
    return outputs(mg.nn.Bidirectional(first, second), inputs)


def forth_and_back(first: mg.nn.LSTMCell, second: mg.nn.LSTMCell, inputs: mg.Tensor) -> mg.Tensor:
    return mg.concatenate([outputs(first, inputs), outputs(second, inputs, reverse=True)], axis=-1)


def layer(kind: str, x: Array, parameters: Arrays) -> Step:
    """mg.nn.LSTMCell, GRUCell or RNNCell under dynamic_rnn."""
    W_x, *W_h, b = parameters.values()
    cell = getattr(mg.nn, kind)(len(W_x), len(W_h[0]), dtype=str(x.dtype), seed=0)
    cell.W_x.data, cell.W_h.data, cell.b.data = W_x.copy(), np.concatenate(W_h, axis=1), b.copy()
    inputs = mg.tensor(x, requires_grad=True)
    widths = np.cumsum([block.shape[1] for block in W_h[:-1]])

    def gradients() -> list[Array]:
        return [inputs.grad, cell.W_x.grad, *np.split(cell.W_h.grad, widths, axis=1), cell.b.grad]

    outputs = lambda: mg.nn.dynamic_rnn(cell, inputs, time_major=True)[0]  # noqa: E731
    return taped(parameters, [inputs, cell.W_x, cell.W_h, cell.b], outputs, gradients)


def leaves(x: Array, parameters: Arrays, requires_grad: bool = True) -> list[mg.Tensor]:
    return [mg.tensor(array, requires_grad=requires_grad) for array in (x, *parameters.values())]


def zeros(cell: Cell, x: Array, parameters: Arrays) -> State:
    return tuple(map(mg.tensor, zero_state(cell, x, parameters)))


def run(cell: Cell, inputs: mg.Tensor, weights: Sequence[mg.Tensor], start: State, **options: Array) -> mg.Tensor:
    """The outputs of all steps."""

    def body(state: State, x: Array) -> tuple[State, Array]:
        state = cell.step(state, x, weights, mg)
        return state, state[0]

    return mg.scan(body, inputs, start, has_output=True, **options)[1]


def taped(
    names: Arrays,
    tensors: Sequence[mg.Tensor],
    outputs_of: Callable[[], mg.Tensor],
    gradients_of: Callable[[], list[Array]] | None = None,
) -> Step:
    gradients_of = gradients_of or (lambda: [tensor.grad for tensor in tensors])

    def step() -> dict[str, Array]:
        for tensor in tensors:
            tensor.grad = None
        outputs = outputs_of()
        loss = (outputs * outputs).sum()
        loss.backward()
        return results(names, outputs.data, loss.data, gradients_of())

    return step
