"""Recurrent cells: one step of a recurrent network, `cell(x, state) -> (output, state)`.

A cell is its equations. Time belongs to `scan`, and derivatives to the ops. The weights of all gates stand side by
side, so that a step multiplies once for the input and once for the state; `cell.gate(name)` shows those of one gate.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict, Unpack

import numpy as np

from minigrad.nn.equations import equations
from minigrad.nn.initialisers import Choice, Initialiser, Seed, constant, glorot_uniform, orthogonal, seed_for, zeros
from minigrad.nn.layers import parameter
from minigrad.nn.module import Module, as_flag, as_float_dtype, as_input, as_size
from minigrad.ops import clip, concatenate, mean, sigmoid, split, sqrt, square, tanh
from minigrad.tape import Array, Value
from minigrad.tensor import Tensor, asarray


class Gate(NamedTuple):
    """The weights of one gate: slices of the cell's, through which gradients pass."""

    W_x: Tensor
    W_h: Tensor
    b: Tensor


class Options(TypedDict, total=False):
    """What every cell takes by keyword: the dtype and the seed of its parameters, and their initialisers.

    Each may be left out: `dtype` is "float32" then, and without a `seed` no two cells are alike.
    `init_W_x`, `init_W_h` and `init_b` are functions `(shape, seed, dtype)`, as in `minigrad.nn.initialisers`, called
    for each gate by itself; or dicts of such by the letter of a gate, the other gates keeping the cell's own.
    """

    dtype: Any
    seed: Seed
    init_W_x: Choice
    init_W_h: Choice
    init_b: Choice


class Cell(Module):
    """What the cells share: fused weights, zero states, and the checks of what a step is given.

    `W_x` (inputs, gates * units) starts Glorot-uniform, `W_h` (outputs, gates * units) orthogonal, `b` at 0, each gate
    by itself, unless `Options` say otherwise. `outputs`, the size of h, is `units` unless a cell projects it.
    TypeError for an option that neither the cell nor `Options` has.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        gates: str,
        outputs: int | None = None,
        biases: Mapping[str, Initialiser] | None = None,
        /,  # so that these names are no options of a cell
        **options: Unpack[Options],
    ) -> None:
        self._name = type(self).__name__
        given = _known(type(self), options)
        self.inputs = as_size(self._name, "inputs", inputs)
        self.units = as_size(self._name, "units", units)
        self.outputs = self.units if outputs is None else as_size(self._name, "projection", outputs)
        self.gates = gates
        dtype, seed = as_float_dtype(given.get("dtype", "float32")), given.get("seed")

        def fused(name: str, shape: tuple[int, ...], own: Mapping[str, Initialiser]) -> Tensor:
            chosen = self._chosen(f"init_{name}", given.get(f"init_{name}"), own)
            blocks = []
            for gate in gates:
                block = asarray(chosen[gate](shape, seed_for(seed, f"{self._name}.{name}.{gate}"), dtype))
                if (block.dtype, block.shape) != (dtype, shape):
                    raise ValueError(
                        f"init_{name} of {self._name} must give {dtype}{shape} for gate {gate}, "
                        f"got {block.dtype}{block.shape}"
                    )
                blocks.append(block)
            return parameter(name, concatenate(blocks, axis=-1))

        self.W_x = fused("W_x", (self.inputs, self.units), dict.fromkeys(gates, glorot_uniform))
        self.W_h = fused("W_h", (self.outputs, self.units), dict.fromkeys(gates, orthogonal))
        self.b = fused("b", (self.units,), {**dict.fromkeys(gates, zeros), **(biases or {})})

    def zero_state(self, batch_size: int) -> Any:
        """The state before the first step: zeros (batch_size, outputs), where the parameters are and of their dtype.

        >>> import minigrad as mg
        >>> mg.nn.GRUCell(2, 3).zero_state(1)
        Tensor([[0., 0., 0.]], float32)
        """
        return self._zeros(batch_size, self.outputs)

    def gate(self, name: str) -> Gate:
        """The weights of one gate, by its letter. ValueError for another.

        >>> import minigrad as mg
        >>> mg.nn.LSTMCell(2, 3).gate("o").W_x.shape
        (2, 3)
        """
        if not isinstance(name, str) or len(name) != 1 or name not in self.gates:
            raise ValueError(f"the gates of {self._name} are {', '.join(self.gates)}, got {name!r}")
        start = self.gates.index(name) * self.units
        columns = slice(start, start + self.units)
        return Gate(self.W_x[:, columns], self.W_h[:, columns], self.b[columns])

    def equations(self) -> str:
        """The equations in force, as Python, read off a traced step; see `minigrad.nn.equations`.

        >>> import minigrad as mg
        >>> print(mg.nn.RNNCell(2, 3).equations())
        h = tanh(x @ W_x + h @ W_h + b)
        output, state = h, h
        """
        return equations(self, self._zeros(2, self.inputs))

    def _zeros(self, batch_size: int, size: int) -> Tensor:
        return Tensor(self.W_h.backend.xp.zeros((batch_size, size), dtype=self.W_h.dtype))

    def _chosen(self, argument: str, choice: Choice, own: Mapping[str, Initialiser]) -> dict[str, Initialiser]:
        """An initialiser for each gate: the chosen one, else the cell's own."""
        if choice is None:
            return dict(own)
        chosen = dict(choice) if isinstance(choice, Mapping) else dict.fromkeys(own, choice)
        for gate, initialiser in chosen.items():
            if gate not in own:
                raise ValueError(f"{argument} of {self._name} is for the gates {', '.join(own)}, got one for {gate!r}")
            if not callable(initialiser):
                raise TypeError(
                    f"{argument} of {self._name} is a function (shape, seed, dtype), or a dict of such by gate, "
                    f"got {initialiser!r}; a number is initialisers.constant(number)"
                )
        return {**own, **chosen}

    def _input(self, x: Any) -> Value:
        return as_input(self._name, "an input", x, self.W_x, self.inputs)

    def _state(self, name: str, state: Any, x: Value, size: int) -> Value:
        state = as_input(self._name, f"a state {name}", state, self.W_h, size)
        shape = (*x.shape[:-1], size)
        if state.shape != shape:
            raise ValueError(
                f"{self._name} got an input of shape {x.shape}: state {name} must be {shape}, got {state.shape}"
            )
        return state


class RNNCell(Cell):
    """The simple recurrent network: (..., inputs) and a state h (..., units) to (h, h), the output being the state.

        h = activation(x W_x + h W_h + b)

    `activation` is a function of an array: `mg.tanh`, `mg.relu` or any other.
    Every cell takes `dtype="float32"`, `seed=None`, and the initialisers `init_W_x=None` (Glorot-uniform),
    `init_W_h=None` (orthogonal) and `init_b=None` (zeros); see `minigrad.nn.cells.Options`.
    Raises TypeError for an activation that is no function, an option that there is not, and an input or a state of
    another dtype than the parameters'; ValueError for another shape.
    Source: Elman, "Finding structure in time" (1990).

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.RNNCell(3, 4, seed=0)
    >>> output, state = cell(np.ones((2, 3), dtype="float32"), cell.zero_state(2))
    >>> output.shape
    (2, 4)
    """

    def __init__(
        self, inputs: int, units: int, activation: Callable[[Any], Any] = tanh, **options: Unpack[Options]
    ) -> None:
        if not callable(activation):
            raise TypeError(f"RNNCell: activation is a function of an array, for example mg.relu, got {activation!r}")
        super().__init__(inputs, units, "h", **options)
        self.activation = activation

    def __call__(self, x: Any, state: Any) -> tuple[Value, Value]:
        x = self._input(x)
        h = self._state("h", state, x, self.units)
        h = self.activation(x @ self.W_x + h @ self.W_h + self.b)
        return h, h


class GRUCell(Cell):
    """The gated recurrent unit: (..., inputs) and a state h (..., units) to (h, h), the output being the state.

        r = sigmoid(x W_xr + h W_hr + b_r)           the reset gate: how much of h the candidate sees
        z = sigmoid(x W_xz + h W_hz + b_z)           the update gate
        n = tanh(x W_xn + (r * h) W_hn + b_n)        the candidate
        h = z * h + (1 - z) * n

    Four of it are in use. `update` says what an open z does: "keep" the state, as above, or "write" the candidate,
    h = (1 - z) * h + z * n. `reset` says where r acts: "before" the product, as above, or "after" it,
    n = tanh(x W_xn + r * (h W_hn + b_hn) + b_n), which has one more parameter, `b_hn` (units,), 0 at the start.

    Fused in this order: r, z, n.
    Every cell takes `dtype="float32"`, `seed=None`, and the initialisers `init_W_x=None` (Glorot-uniform),
    `init_W_h=None` (orthogonal) and `init_b=None` (zeros); see `minigrad.nn.cells.Options`.
    Raises ValueError for another word; TypeError for an option that there is not, and for an input or a state of
    another dtype than the parameters'; ValueError for another shape.
    Sources: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), keep and before; Chung et
    al., "Empirical evaluation of gated recurrent neural networks" (2014), write; cuDNN and PyTorch, keep and after.

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.GRUCell(3, 4, seed=0)
    >>> output, state = cell(np.ones((2, 3), dtype="float32"), cell.zero_state(2))
    >>> output.shape, cell.gate("z").W_h.shape
    ((2, 4), (4, 4))
    >>> print(mg.nn.GRUCell(3, 4, update="write", reset="after").equations().splitlines()[-2])
    h = (1 - z) * h + z * n
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        update: Literal["keep", "write"] = "keep",
        reset: Literal["before", "after"] = "before",
        **options: Unpack[Options],
    ) -> None:
        self.update = _one_of("update", update, ("keep", "write"))
        self.reset = _one_of("reset", reset, ("before", "after"))
        super().__init__(inputs, units, "rzn", **options)
        if reset == "after":
            self.b_hn = parameter("b_hn", zeros((self.units,), dtype=self.b.dtype))

    def __call__(self, x: Any, state: Any) -> tuple[Value, Value]:
        x = self._input(x)
        h = self._state("h", state, x, self.units)
        from_x = x @ self.W_x + self.b
        if self.reset == "before":
            W_rz, W_n = self._rz_and_n(self.W_h)
            x_rz, x_n = self._rz_and_n(from_x)
            r, z = split(sigmoid(x_rz + h @ W_rz), 2, axis=-1)
            n = tanh(x_n + (r * h) @ W_n)
        else:
            x_rz, x_n = self._rz_and_n(from_x)
            h_rz, h_n = self._rz_and_n(h @ self.W_h)
            r, z = split(sigmoid(x_rz + h_rz), 2, axis=-1)
            n = tanh(x_n + r * (h_n + self.b_hn))
        h = z * h + (1 - z) * n if self.update == "keep" else (1 - z) * h + z * n
        return h, h

    def _rz_and_n(self, fused: Value) -> list[Any]:
        """The columns of both gates, and those of the candidate."""
        return split(fused, [2 * self.units], axis=-1)


def with_z_negated(fused: Array) -> Array:
    """A fused array of a GRU, with the columns of z negated: keep becomes write, and the other way round.

    sigmoid(-a) = 1 - sigmoid(a), so nothing is lost, and twice is the identity, bit for bit.
    """
    units = fused.shape[-1] // 3
    turned = fused.copy()
    turned[..., units : 2 * units] = -turned[..., units : 2 * units]
    return turned


class LSTMState(NamedTuple):
    """What an LSTM hands on: the output h (..., outputs) and the memory c (..., units).

    >>> import minigrad as mg
    >>> h, c = mg.nn.LSTMCell(2, 3, projection=1).zero_state(4)
    >>> h.shape, c.shape
    ((4, 1), (4, 3))
    """

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
    These can be combined:

    - `peepholes`: the gates see the memory. Inside of the sigmoid, i gets + p_i * c, f gets + p_f * c, and o gets
      + p_o * c of the new c. Each of the three is (units,) and starts at 0.
    - `projection`, a size: h = (o * tanh(c)) W_p. `W_p` (units, projection) starts Glorot-uniform.
    - `clip`, a number: c is limited to [-clip, clip] after its update, and has no derivative where it was outside.
    - `coupled`: f = 1 - i. There is no gate f: the order is i, g, o, and any forget_bias but the default is refused.
    - `layer_norm`: x W_x and h W_h are normalised before they are added, each over the columns of all gates together,
      and so is c, over the units, in h = o * tanh(norm_c(c)); the c that is handed on is not. See `LayerNorm` for
      `norm_x`, `norm_h` and `norm_c`.

    Every cell takes `dtype="float32"`, `seed=None`, and the initialisers `init_W_x=None` (Glorot-uniform),
    `init_W_h=None` (orthogonal) and `init_b=None` (zeros); see `minigrad.nn.cells.Options`. An `init_b` for gate f
    takes the place of `forget_bias`.
    Raises ValueError for options that do not go together; TypeError for one that there is not, and for an input or a
    state of another dtype than the parameters'; ValueError for another shape.
    Sources: Hochreiter and Schmidhuber (1997); Gers et al., "Learning to forget" (2000), for the forget gate;
    Jozefowicz et al. (2015) for its bias; Gers and Schmidhuber, "Recurrent nets that time and count" (2000), peepholes;
    Sak et al. (2014), projection; Greff et al., "LSTM: a search space odyssey" (2017), coupled gates; Ba et al. (2016),
    normalisation.

    >>> import minigrad as mg, numpy as np
    >>> cell = mg.nn.LSTMCell(3, 4, seed=0)
    >>> output, state = cell(np.ones((2, 3), dtype="float32"), cell.zero_state(2))
    >>> state.c.shape, cell.gate("f").b
    ((2, 4), Tensor([1., 1., 1., 1.], float32, from getitem))
    >>> mg.nn.LSTMCell(3, 4, projection=2, coupled=True).zero_state(1).h.shape
    (1, 2)
    """

    forget_bias_in: ClassVar[str] = "b"  # what a file of weights must tell: TensorFlow's adds it at each call

    def __init__(
        self,
        inputs: int,
        units: int,
        forget_bias: float = 1.0,
        peepholes: bool = False,
        projection: int | None = None,
        clip: float | None = None,
        coupled: bool = False,
        layer_norm: bool = False,
        **options: Unpack[Options],
    ) -> None:
        peepholes, coupled = as_flag("LSTMCell", "peepholes", peepholes), as_flag("LSTMCell", "coupled", coupled)
        layer_norm = as_flag("LSTMCell", "layer_norm", layer_norm)
        _check_forget_bias(forget_bias, coupled, options.get("init_b"))
        gates, biases = ("igo", None) if coupled else ("ifgo", {"f": constant(forget_bias)})
        super().__init__(inputs, units, gates, projection, biases, **options)
        self.peepholes, self.coupled, self.layer_norm = peepholes, coupled, layer_norm
        self.projection = projection
        self.clip = None if clip is None else _as_limit(clip)
        dtype = self.b.dtype
        if peepholes:
            for gate in gates.replace("g", ""):
                setattr(self, f"p_{gate}", parameter(f"p_{gate}", zeros((self.units,), dtype=dtype)))
        if layer_norm:
            self.norm_x, self.norm_h = (LayerNorm(len(gates) * self.units, dtype) for _ in "xh")
            self.norm_c = LayerNorm(self.units, dtype)
        if projection is not None:
            seed = seed_for(options.get("seed"), "LSTMCell.W_p")
            self.W_p = parameter("W_p", glorot_uniform((self.units, self.outputs), seed, dtype))

    def zero_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self._zeros(batch_size, self.outputs), self._zeros(batch_size, self.units))

    def __call__(self, x: Any, state: Any) -> tuple[Value, LSTMState]:
        x, h, c = self._given(x, state)
        z_i, z_f, z_g, z_o = self._sums(x, h)
        i = sigmoid(self._peeping("i", z_i, c))
        f = 1 - i if self.coupled else sigmoid(self._peeping("f", z_f, c))
        g = tanh(z_g)
        c = self._clipped(f * c + i * g)
        o = sigmoid(self._peeping("o", z_o, c))
        h = self._projected(o * tanh(self._normalised(c)))
        return h, LSTMState(h, c)

    def _given(self, x: Any, state: Any) -> tuple[Value, Value, Value]:
        x = self._input(x)
        if not (isinstance(state, tuple) and len(state) == 2):
            raise TypeError(f"the state of {self._name} is LSTMState(h, c), got {type(state).__name__}")
        return x, self._state("h", state[0], x, self.outputs), self._state("c", state[1], x, self.units)

    def _sums(self, x: Value, h: Value) -> list[Any]:
        """What x and h give to i, f, g and o; None for an f that is coupled."""
        from_x, from_h = x @ self.W_x, h @ self.W_h
        if self.layer_norm:
            from_x, from_h = self.norm_x(from_x), self.norm_h(from_h)
        sums = split(from_x + from_h + self.b, len(self.gates), axis=-1)
        return [sums[0], None, *sums[1:]] if self.coupled else sums

    def _peeping(self, gate: str, z: Value, c: Value) -> Value:
        return z + getattr(self, f"p_{gate}") * c if self.peepholes else z

    def _clipped(self, c: Value) -> Value:
        return c if self.clip is None else clip(c, -self.clip, self.clip)

    def _normalised(self, c: Value) -> Value:
        return self.norm_c(c) if self.layer_norm else c

    def _projected(self, h: Value) -> Value:
        return h if self.projection is None else h @ self.W_p


class LayerNorm(Module):
    """gain * (z - mean) / sqrt(variance + 1e-5) + bias, over the last axis: (..., units) to (..., units).

    Mean and variance (squares divided by `units`) are those of each row by itself, in training as at any other time.
    `gain` (units,) starts at 1, `bias` (units,) at 0. Raises TypeError for a z of another dtype, ValueError for
    another size.
    Source: Ba, Kiros and Hinton, "Layer normalization" (2016).

    >>> import numpy as np
    >>> from minigrad.nn.cells import LayerNorm
    >>> LayerNorm(2, "float64")(np.array([[1.0, 3.0], [40.0, 20.0]])).numpy().round(3)
    array([[-1.,  1.],
           [ 1., -1.]])
    """

    def __init__(self, units: int, dtype: Any = "float32") -> None:
        self.units = as_size("LayerNorm", "units", units)
        dtype = as_float_dtype(dtype)
        self.gain = parameter("gain", constant(1.0)((self.units,), dtype=dtype))
        self.bias = parameter("bias", zeros((self.units,), dtype=dtype))

    def __call__(self, z: Any) -> Any:
        z = as_input("LayerNorm", "an input", z, self.gain, self.units)
        centred = z - mean(z, axis=-1, keepdims=True)
        variance = mean(square(centred), axis=-1, keepdims=True)
        return self.gain * centred / sqrt(variance + 1e-5) + self.bias


# ---- checking options ----------------------------------------------------------------------------------------------


def _known(cell: type, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options that every cell takes; TypeError for another, which lists all that this cell takes."""
    unknown = [repr(name) for name in options if name not in Options.__annotations__]
    if unknown:
        named = [p.name for p in inspect.signature(cell).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        known = ", ".join([*named, *Options.__annotations__])
        raise TypeError(f"{cell.__name__} takes no {', '.join(unknown)}; what it takes is {known}")
    return options


def _one_of(argument: str, word: str, words: tuple[str, ...]) -> str:
    """The word, which must be one of these."""
    if word not in words:
        raise ValueError(f"GRUCell: {argument} is {' or '.join(map(repr, words))}, got {word!r}")
    return word


def _check_forget_bias(forget_bias: float, coupled: bool, init_b: Choice) -> None:
    """A forget bias that somebody chose must have its effect."""
    number = isinstance(forget_bias, int | float | np.number) and not isinstance(forget_bias, bool)
    if not number or math.isnan(forget_bias):
        raise TypeError(
            f"LSTMCell: forget_bias is a number, got {forget_bias!r}; a bias for each unit goes into init_b"
        )
    if forget_bias == 1.0:
        return
    if coupled:
        raise ValueError(
            f"LSTMCell: coupled gates have f = 1 - i and no bias b_f, got forget_bias={forget_bias}; to start with "
            "open forget gates, pass init_b={'i': constant(-1.0)}"
        )
    if init_b is not None and (not isinstance(init_b, Mapping) or "f" in init_b):
        raise ValueError(f"LSTMCell: both forget_bias={forget_bias} and init_b set b_f: pass one of them")


def _as_limit(clip: float) -> float:
    """The limit of the memory as a number; ValueError for one that limits nothing."""
    number = isinstance(clip, int | float | np.number) and not isinstance(clip, bool)
    if not number or not 0 < clip < math.inf:
        raise ValueError(f"LSTMCell: clip is a positive number or None, got {clip!r}")
    return float(clip)
