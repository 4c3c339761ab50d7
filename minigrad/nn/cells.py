"""Recurrent cells: one step of a recurrent network, `cell(x, state) -> (output, state)`.

A cell is its equations. Time belongs to `scan`, and derivatives to the ops. The weights of all gates stand side by
side, so that a step multiplies once for the input and once for the state; `cell.gate(name)` shows those of one gate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from minigrad.nn.initialisers import Seed, glorot_uniform, orthogonal, seed_for
from minigrad.nn.layers import parameter
from minigrad.nn.module import Module, as_float_dtype, as_input, as_size
from minigrad.ops import concatenate, sigmoid, split, tanh
from minigrad.tape import Value
from minigrad.tensor import Tensor, asarray, full


class Gate(NamedTuple):
    """The weights of one gate: slices of the cell's, through which gradients pass."""

    W_x: Tensor
    W_h: Tensor
    b: Tensor


class Cell(Module):
    """What the cells share: fused weights, zero states, and the checks of what a step is given.

    `W_x` (inputs, gates * units) starts Glorot-uniform, `W_h` (units, gates * units) orthogonal, each gate by itself.
    """

    gates: ClassVar[str]

    def __init__(self, inputs: int, units: int, bias: dict[str, float], dtype: Any, seed: Seed) -> None:
        self._name = type(self).__name__
        self.inputs = as_size(self._name, "inputs", inputs)
        self.units = as_size(self._name, "units", units)
        dtype = as_float_dtype(dtype)

        def fused(name: str, initialiser: Callable[..., Tensor], rows: int) -> Tensor:
            seeds = [seed_for(seed, f"{self._name}.{name}.{gate}") for gate in self.gates]
            blocks = [initialiser((rows, self.units), gate_seed, dtype) for gate_seed in seeds]
            return parameter(name, concatenate(blocks, axis=1))

        self.W_x = fused("W_x", glorot_uniform, self.inputs)
        self.W_h = fused("W_h", orthogonal, self.units)
        self.b = parameter("b", concatenate([full(self.units, bias.get(gate, 0.0), dtype) for gate in self.gates]))

    def zero_state(self, batch_size: int) -> Any:
        """The state before the first step: zeros (batch_size, units), where the parameters are and of their dtype.

        >>> import minigrad as mg
        >>> mg.nn.GRUCell(2, 3).zero_state(1)
        Tensor([[0., 0., 0.]], float32)
        """
        shape = (batch_size, self.units)
        return asarray(self.W_h.backend.xp.zeros(shape, dtype=self.W_h.dtype))

    def gate(self, name: str) -> Gate:
        """The weights of one gate, by its letter. ValueError for another.

        >>> import minigrad as mg
        >>> mg.nn.LSTMCell(2, 3).gate("o").W_x.shape
        (2, 3)
        """
        if len(name) != 1 or name not in self.gates:
            raise ValueError(f"the gates of {self._name} are {', '.join(self.gates)}, got {name!r}")
        start = self.gates.index(name) * self.units
        columns = slice(start, start + self.units)
        return Gate(self.W_x[:, columns], self.W_h[:, columns], self.b[columns])

    def _input(self, x: Any) -> Value:
        return as_input(self._name, "an input", x, self.W_x, self.inputs)

    def _state(self, name: str, state: Any, x: Value) -> Value:
        state = as_input(self._name, f"a state {name}", state, self.W_h, self.units)
        shape = (*x.shape[:-1], self.units)
        if state.shape != shape:
            raise ValueError(
                f"{self._name} got an input of shape {x.shape}: state {name} must be {shape}, got {state.shape}"
            )
        return state


class RNNCell(Cell):
    """The simple recurrent network: (..., inputs) and a state h (..., units) to (h, h), the output being the state.

        h = activation(x W_x + h W_h + b)

    Raises TypeError for an input or a state of another dtype than the parameters', ValueError for another shape.
    Source: Elman, "Finding structure in time" (1990).

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.RNNCell(3, 4, seed=0)
    >>> output, state = cell(np.ones((2, 3), dtype="float32"), cell.zero_state(2))
    >>> output.shape
    (2, 4)
    """

    gates = "h"

    def __init__(
        self,
        inputs: int,
        units: int,
        activation: Callable[[Any], Any] = tanh,
        dtype: Any = "float32",
        seed: Seed = None,
    ) -> None:
        super().__init__(inputs, units, {}, dtype, seed)
        self.activation = activation

    def __call__(self, x: Any, state: Any) -> tuple[Value, Value]:
        x = self._input(x)
        h = self._state("h", state, x)
        h = self.activation(x @ self.W_x + h @ self.W_h + self.b)
        return h, h


class GRUCell(Cell):
    """The gated recurrent unit: (..., inputs) and a state h (..., units) to (h, h), the output being the state.

        r = sigmoid(x W_xr + h W_hr + b_r)           the reset gate: how much of h the candidate sees
        z = sigmoid(x W_xz + h W_hz + b_z)           the update gate: how much of h is kept
        n = tanh(x W_xn + (r * h) W_hn + b_n)        the candidate
        h = z * h + (1 - z) * n

    Fused in this order: r, z, n. Raises TypeError for an input or a state of another dtype than the parameters',
    ValueError for another shape.
    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014).

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.GRUCell(3, 4, seed=0)
    >>> output, state = cell(np.ones((2, 3), dtype="float32"), cell.zero_state(2))
    >>> output.shape, cell.gate("z").W_h.shape
    ((2, 4), (4, 4))
    """

    gates = "rzn"

    def __init__(self, inputs: int, units: int, dtype: Any = "float32", seed: Seed = None) -> None:
        super().__init__(inputs, units, {}, dtype, seed)

    def __call__(self, x: Any, state: Any) -> tuple[Value, Value]:
        x = self._input(x)
        h = self._state("h", state, x)
        from_x = x @ self.W_x + self.b
        W_rz, W_n = split(self.W_h, [2 * self.units], axis=1)
        x_rz, x_n = split(from_x, [2 * self.units], axis=-1)
        r, z = split(sigmoid(x_rz + h @ W_rz), 2, axis=-1)
        n = tanh(x_n + (r * h) @ W_n)
        h = z * h + (1 - z) * n
        return h, h


class LSTMState(NamedTuple):
    """What an LSTM hands on: the output h and the memory c, each (..., units)."""

    h: Any
    c: Any


class LSTMCell(Cell):
    """Long short-term memory: (..., inputs) and LSTMState(h, c), each (..., units), to (h, LSTMState(h, c)).

        i = sigmoid(x W_xi + h W_hi + b_i)           the input gate: how much is written
        f = sigmoid(x W_xf + h W_hf + b_f)           the forget gate: how much is kept
        g = tanh(x W_xg + h W_hg + b_g)              the candidate
        o = sigmoid(x W_xo + h W_ho + b_o)           the output gate: how much is shown
        c = f * c + i * g
        h = o * tanh(c)

    Fused in this order: i, f, g, o. `forget_bias` is the initial value of b_f; a call adds nothing to it.
    Raises TypeError for an input or a state of another dtype than the parameters', ValueError for another shape.
    Sources: Hochreiter and Schmidhuber (1997); Gers et al., "Learning to forget" (2000), for the forget gate;
    Jozefowicz et al. (2015) for its bias.

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.LSTMCell(3, 4, seed=0)
    >>> output, state = cell(np.ones((2, 3), dtype="float32"), cell.zero_state(2))
    >>> state.c.shape, cell.gate("f").b
    ((2, 4), Tensor([1., 1., 1., 1.], float32, from getitem))
    """

    gates = "ifgo"

    def __init__(
        self, inputs: int, units: int, forget_bias: float = 1.0, dtype: Any = "float32", seed: Seed = None
    ) -> None:
        super().__init__(inputs, units, {"f": forget_bias}, dtype, seed)

    def zero_state(self, batch_size: int) -> LSTMState:
        return LSTMState(super().zero_state(batch_size), super().zero_state(batch_size))

    def __call__(self, x: Any, state: Any) -> tuple[Value, LSTMState]:
        x = self._input(x)
        if not (isinstance(state, tuple) and len(state) == 2):
            raise TypeError(f"the state of {self._name} is LSTMState(h, c), got {type(state).__name__}")
        h, c = self._state("h", state[0], x), self._state("c", state[1], x)
        i, f, g, o = split(x @ self.W_x + h @ self.W_h + self.b, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, LSTMState(h, c)
