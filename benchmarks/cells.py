"""The cells, written as their equations stand, for every library that takes plain code.

`ops` is where `tanh` and `sigmoid` come from. A state is a tuple of arrays (B, H), and its first is the output.
Gates stand in the order i, f, g, o in the LSTM, r, z, n in the GRU.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any
State: TypeAlias = tuple[Array, ...]
Arrays: TypeAlias = Mapping[str, Array]  # parameters by name, in the order in which the cell takes them
Results: TypeAlias = dict[str, Array]  # outputs, loss, dx and the gradient of each parameter, as dW_x
Step: TypeAlias = Callable[[], Results]


class Cell(NamedTuple):
    """`step(state, x, parameters, ops)` is the new state. The same in two parts, for those who hoist by hand:

    `early(x, parameters)` needs no state, so it can be done for all steps at once; `late` does the rest with it.
    """

    states: int
    step: Callable[[State, Array, Sequence[Array], Any], State]
    early: Callable[[Array, Sequence[Array]], Array] | None = None
    late: Callable[[State, Array, Sequence[Array], Any], State] | None = None


def results(names: Iterable[str], outputs: Array, loss: Array, gradients: Iterable[Array]) -> Results:
    """`gradients`: of the inputs, then of each parameter."""
    named = zip(("x", *names), gradients, strict=True)
    return {"outputs": outputs, "loss": loss, **{f"d{name}": gradient for name, gradient in named}}


def zero_state(cell: Cell, x: Array, parameters: Arrays) -> State:
    """As wide as the matrices that multiply a state are high."""
    units = next(len(array) for name, array in parameters.items() if not name.startswith(("W_x", "b")))
    return (np.zeros((x.shape[1], units), x.dtype),) * cell.states


# ---- LSTM ----------------------------------------------------------------------------------------------------------


def lstm(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
    (h, c), (W_x, W_h, b) = state, parameters
    return lstm_gates(x @ W_x + h @ W_h + b, c, ops)


def lstm_gates(z: Array, c: Array, ops: Any) -> State:
    H = c.shape[-1]
    i, f = ops.sigmoid(z[:, :H]), ops.sigmoid(z[:, H : 2 * H])
    g, o = ops.tanh(z[:, 2 * H : 3 * H]), ops.sigmoid(z[:, 3 * H :])
    c = f * c + i * g
    return o * ops.tanh(c), c


def lstm_early(x: Array, parameters: Sequence[Array]) -> Array:
    W_x, _, b = parameters
    return x @ W_x + b


def lstm_late(state: State, early: Array, parameters: Sequence[Array], ops: Any) -> State:
    (h, c), (_, W_h, _) = state, parameters
    return lstm_gates(early + h @ W_h, c, ops)


def lstm_renamed(state: State, u: Array, parameters: Sequence[Array], ops: Any) -> State:
    """Somebody else's LSTM: other names, other places of the gates (`RENAMED`), sums and products turned round."""
    (y, memory), (A, R, k) = state, parameters
    n = y.shape[-1]
    s = k + y @ R + u @ A
    show, new = ops.sigmoid(s[:, :n]), ops.tanh(s[:, n : 2 * n])
    write, keep = ops.sigmoid(s[:, 2 * n : 3 * n]), ops.sigmoid(s[:, 3 * n :])
    memory = new * write + memory * keep
    return ops.tanh(memory) * show, memory


RENAMED = "ogif"


def lstm_in_order(order: str) -> Callable[..., State]:
    """The LSTM with its gates in any order: for each a structurally new body."""
    places = {gate: order.index(gate) for gate in "ifgo"}

    def step(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
        (h, c), (W_x, W_h, b) = state, parameters
        H, z = c.shape[-1], x @ W_x + h @ W_h + b
        i, f, g, o = (z[:, place * H : (place + 1) * H] for place in places.values())
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        return ops.sigmoid(o) * ops.tanh(c), c

    return step


def lstm_four(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
    """The LSTM as textbooks print it, with matrices of its own for each gate."""
    h, c = state
    W_xi, W_xf, W_xg, W_xo, W_hi, W_hf, W_hg, W_ho, b_i, b_f, b_g, b_o = parameters
    i = ops.sigmoid(x @ W_xi + h @ W_hi + b_i)
    f = ops.sigmoid(x @ W_xf + h @ W_hf + b_f)
    g = ops.tanh(x @ W_xg + h @ W_hg + b_g)
    o = ops.sigmoid(x @ W_xo + h @ W_ho + b_o)
    c = f * c + i * g
    return o * ops.tanh(c), c


def lstm_stack(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
    """Two layers in one body; the upper one's state stands first."""
    upper, lower = state[:2], state[2:]
    lower = lstm(lower, x, parameters[:3], ops)
    return *lstm(upper, lower[0], parameters[3:], ops), *lower


def in_order(parameters: Arrays, order: str = RENAMED) -> Arrays:
    """The parameters of the LSTM, or their gradients, with the gates in another order."""
    places = ["ifgo".index(gate) for gate in order]
    return {
        name: np.concatenate([np.split(array, 4, axis=-1)[place] for place in places], axis=-1)
        for name, array in parameters.items()
    }


def in_four(parameters: Arrays) -> Arrays:
    """The parameters of the LSTM, or their gradients, by gates."""
    return {
        (name if name.startswith("W") else name + "_") + gate: np.ascontiguousarray(part)
        for name, array in parameters.items()
        for gate, part in zip("ifgo", np.split(array, 4, axis=-1), strict=True)
    }


# ---- GRU -----------------------------------------------------------------------------------------------------------


def gru_after_early(x: Array, parameters: Sequence[Array]) -> Array:
    W_x, _, b_x, _ = parameters
    return x @ W_x + b_x


def gru_after_late(state: State, from_x: Array, parameters: Sequence[Array], ops: Any) -> State:
    """The reset gate comes after the product, so that one product serves all: the GRU of cuDNN and torch."""
    (h,), (_, W_h, _, b_h) = state, parameters
    H, from_h = h.shape[-1], h @ W_h + b_h
    r = ops.sigmoid(from_x[:, :H] + from_h[:, :H])
    z = ops.sigmoid(from_x[:, H : 2 * H] + from_h[:, H : 2 * H])
    n = ops.tanh(from_x[:, 2 * H :] + r * from_h[:, 2 * H :])
    return ((1 - z) * n + z * h,)


def gru_before_early(x: Array, parameters: Sequence[Array]) -> Array:
    W_x, _, _, b = parameters
    return x @ W_x + b


def gru_before_late(state: State, from_x: Array, parameters: Sequence[Array], ops: Any) -> State:
    """The reset gate comes before the product: the GRU as it was published."""
    (h,), (_, W_rz, W_n, _) = state, parameters
    H = h.shape[-1]
    rz = ops.sigmoid(from_x[:, : 2 * H] + h @ W_rz)
    r, z = rz[:, :H], rz[:, H:]
    n = ops.tanh(from_x[:, 2 * H :] + (r * h) @ W_n)
    return ((1 - z) * n + z * h,)


def gru_after(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
    return gru_after_late(state, gru_after_early(x, parameters), parameters, ops)


def gru_before(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
    return gru_before_late(state, gru_before_early(x, parameters), parameters, ops)


# ---- the simple recurrent network ----------------------------------------------------------------------------------


def vanilla(state: State, x: Array, parameters: Sequence[Array], ops: Any) -> State:
    (h,), (W_x, W_h, b) = state, parameters
    return (ops.tanh(x @ W_x + h @ W_h + b),)


def vanilla_late(state: State, early: Array, parameters: Sequence[Array], ops: Any) -> State:
    (h,), (_, W_h, _) = state, parameters
    return (ops.tanh(early + h @ W_h),)


LSTM = Cell(2, lstm, lstm_early, lstm_late)
LSTM_RENAMED = Cell(2, lstm_renamed)
LSTM_FOUR = Cell(2, lstm_four)
LSTM_STACK = Cell(4, lstm_stack)
GRU_AFTER = Cell(1, gru_after, gru_after_early, gru_after_late)
GRU_BEFORE = Cell(1, gru_before, gru_before_early, gru_before_late)
VANILLA = Cell(1, vanilla, lstm_early, vanilla_late)
