"""An LSTM, forward and backward, in float32: `python -m benchmarks.rnn`.

The loss is the sum of the squares of all outputs; every contestant returns the outputs, the loss, and the
gradients of the inputs, both weights and the bias. Rows are samples, gates stand in the order i, f, g, o, the
first state is zero.

A contestant is a function of the arrays that does everything that is done once (making parameters, buffers,
compiling) and returns `step`, which is what is timed.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from benchmarks import timing

SIZES = "50,1,32,32 100,16,64,64 100,32,128,128 100,32,256,256 50,64,512,512 400,32,128,128 50,128,1024,1024"
SMOKE_SIZES = "5,3,4,6 1,1,2,3"
SECONDS = 60.0  # for each size
MOST_FLOPS = 5e9  # in x @ W_x and h @ W_h together; above, the slow contestants sit out
TOLERANCE = 1e-4  # float32 against float64, relative to the largest element of each array

Array: TypeAlias = Any
State: TypeAlias = tuple[Array, Array]  # h, c
Step: TypeAlias = Callable[[], dict[str, Array]]


def matmuls(x: Array, W_x: Array, W_h: Array, _b: Array) -> Step:
    """The matrix products and nothing else, in the shapes that the best program uses. Computes no LSTM."""
    (T, B, I), H = x.shape, len(W_h)
    rows, W_hT = x.reshape(T * B, I), np.ascontiguousarray(W_h.T)
    z, h, dx = np.zeros((T, B, 4 * H), x.dtype), np.zeros((T, B, H), x.dtype), np.zeros((T * B, I), x.dtype)
    zs, hs, product, dh = list(z), list(h), np.zeros((B, 4 * H), x.dtype), np.zeros((B, H), x.dtype)

    def step() -> dict[str, Array]:
        rows.dot(W_x, out=z.reshape(T * B, 4 * H))
        for h_t in hs:
            h_t.dot(W_h, out=product)
        for dz_t in zs:
            dz_t.dot(W_hT, out=dh)
        dz = z.reshape(T * B, 4 * H)
        dW_x, dW_h = rows.T.dot(dz), h.reshape(T * B, H).T.dot(dz)
        return {"dx": dz.dot(W_x.T, out=dx), "dW_x": dW_x, "dW_h": dW_h}

    return step


def by_hand_plain(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    """Hoisted products, reused buffers, weight gradients deferred to one product after the loop."""
    (T, B, I), H = x.shape, len(W_h)
    rows = x.reshape(T * B, I)
    gates, dz = np.empty((2, T, B, 4 * H), x.dtype)  # gates holds z, then its activations
    h, c = np.zeros((2, T + 1, B, H), x.dtype)
    tanh_c = np.empty((T, B, H), x.dtype)
    product, buffer = np.empty((B, 4 * H), x.dtype), np.empty((B, H), x.dtype)
    dx, dh, dc = np.empty((T * B, I), x.dtype), np.empty((B, H), x.dtype), np.empty((B, H), x.dtype)

    def sigmoid(z: Array) -> None:
        np.negative(z, out=z)
        np.exp(z, out=z)
        np.add(z, 1, out=z)
        np.reciprocal(z, out=z)

    def times_sigmoid_slope(d: Array, s: Array) -> None:
        np.multiply(d, s, out=d)
        np.subtract(1, s, out=buffer)
        np.multiply(d, buffer, out=d)

    def times_tanh_slope(d: Array, y: Array) -> None:
        np.multiply(y, y, out=buffer)
        np.subtract(1, buffer, out=buffer)
        np.multiply(d, buffer, out=d)

    def step() -> dict[str, Array]:
        np.matmul(rows, W_x, out=gates.reshape(T * B, 4 * H))
        np.add(gates, b, out=gates)
        for t in range(T):
            z = gates[t]
            np.matmul(h[t], W_h, out=product)
            np.add(z, product, out=z)
            i, f, g, o = z[:, :H], z[:, H : 2 * H], z[:, 2 * H : 3 * H], z[:, 3 * H :]
            sigmoid(z[:, : 2 * H])
            np.tanh(g, out=g)
            sigmoid(o)
            np.multiply(f, c[t], out=c[t + 1])
            np.multiply(i, g, out=buffer)
            np.add(c[t + 1], buffer, out=c[t + 1])
            np.tanh(c[t + 1], out=tanh_c[t])
            np.multiply(o, tanh_c[t], out=h[t + 1])
        outputs = h[1:]
        loss = np.sum(outputs * outputs)

        dh[:], dc[:] = 0, 0
        for t in reversed(range(T)):
            z, d = gates[t], dz[t]
            i, f, g, o = z[:, :H], z[:, H : 2 * H], z[:, 2 * H : 3 * H], z[:, 3 * H :]
            di, df, dg, do = d[:, :H], d[:, H : 2 * H], d[:, 2 * H : 3 * H], d[:, 3 * H :]
            np.multiply(outputs[t], 2, out=buffer)  # the derivative of the loss
            np.add(dh, buffer, out=dh)
            np.multiply(dh, tanh_c[t], out=do)
            times_sigmoid_slope(do, o)
            np.multiply(dh, o, out=dh)
            times_tanh_slope(dh, tanh_c[t])
            np.add(dc, dh, out=dc)
            np.multiply(dc, g, out=di)
            times_sigmoid_slope(di, i)
            np.multiply(dc, c[t], out=df)
            times_sigmoid_slope(df, f)
            np.multiply(dc, i, out=dg)
            times_tanh_slope(dg, g)
            np.multiply(dc, f, out=dc)
            np.matmul(d, W_h.T, out=dh)
        flat = dz.reshape(T * B, 4 * H)
        dW_x, dW_h = np.matmul(rows.T, flat), np.matmul(h[:-1].reshape(T * B, H).T, flat)
        np.matmul(flat, W_x.T, out=dx)
        return result(outputs, loss, (dx.reshape(T, B, I), dW_x, dW_h, flat.sum(axis=0)))

    return step


def by_hand_best(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    """The plain program, with one tanh for all gates, views made once, all local derivatives at once.

    sigmoid(z) = tanh(z/2)/2 + 1/2, so with the halves folded into weights and bias, once a call, one tanh
    serves all gates. The local derivatives do not depend on what flows back, so they need no loop.
    """
    (T, B, I), H = x.shape, len(W_h)
    rows = x.reshape(T * B, I)
    half = np.full(4 * H, 0.5, x.dtype)  # the factor before and after tanh: 1/2 for sigmoids, 1 for g
    half[2 * H : 3 * H] = 1
    shift = 1 - half
    two = np.array(2, x.dtype)
    gates, dz = np.empty((2, T, B, 4 * H), x.dtype)
    h, c = np.zeros((2, T + 1, B, H), x.dtype)
    tanh_c, slope_c, dh_loss = np.empty((3, T, B, H), x.dtype)
    product, dx = np.empty((B, 4 * H), x.dtype), np.empty((T * B, I), x.dtype)
    buffer, dh, dc = np.empty((3, B, H), x.dtype)
    flat_gates, flat_dz = gates.reshape(T * B, 4 * H), dz.reshape(T * B, 4 * H)
    i, f, g, o = gate_views(gates, H)
    d_i, d_f, d_g, d_o = gate_views(dz, H)
    d_ifg = dz.reshape(T, B, 4, H)[:, :, :3]
    sigmoids, d_sigmoids = (gates[..., : 2 * H], o), (dz[..., : 2 * H], d_o)
    dc_three = dc[:, None]
    forward = list(zip(gates, i, f, g, o, h, h[1:], c, c[1:], tanh_c, strict=False))
    backward = list(zip(dh_loss, slope_c, d_o, d_ifg, f, dz, strict=True))[::-1]

    def step() -> dict[str, Array]:
        np.dot(rows, W_x * half, out=flat_gates)
        W_half, W_hT = W_h * half, np.ascontiguousarray(W_h.T)
        np.add(gates, b * half, out=gates)
        for z, i_t, f_t, g_t, o_t, h_before, h_t, c_before, c_t, tanh_c_t in forward:
            h_before.dot(W_half, product)
            np.add(z, product, z)
            np.tanh(z, z)
            np.multiply(z, half, z)
            np.add(z, shift, z)
            np.multiply(f_t, c_before, c_t)
            np.multiply(i_t, g_t, buffer)
            np.add(c_t, buffer, c_t)
            np.tanh(c_t, tanh_c_t)
            np.multiply(o_t, tanh_c_t, h_t)
        outputs = h[1:]
        loss = np.vdot(outputs, outputs)

        # The local derivatives of all steps: dz holds dc/dz (dh/dz in its last quarter), slope_c holds dh/dc.
        np.multiply(gates, gates, out=dz)
        for s, slope in zip(sigmoids, d_sigmoids, strict=True):
            np.subtract(s, slope, out=slope)
        np.subtract(1, d_g, out=d_g)
        for slope, factor in ((d_i, g), (d_f, c[:-1]), (d_g, i), (d_o, tanh_c)):
            np.multiply(slope, factor, out=slope)
        np.multiply(tanh_c, tanh_c, out=slope_c)
        np.subtract(1, slope_c, out=slope_c)
        np.multiply(slope_c, o, out=slope_c)
        np.multiply(outputs, two, out=dh_loss)

        dh.fill(0)
        dc.fill(0)
        for dh_t, slope_c_t, d_o_t, d_ifg_t, f_t, dz_t in backward:
            np.add(dh, dh_t, dh)
            np.multiply(d_o_t, dh, d_o_t)
            np.multiply(dh, slope_c_t, dh)
            np.add(dc, dh, dc)
            np.multiply(d_ifg_t, dc_three, d_ifg_t)
            np.multiply(dc, f_t, dc)
            dz_t.dot(W_hT, dh)
        dW_x, dW_h = rows.T.dot(flat_dz), h[:-1].reshape(T * B, H).T.dot(flat_dz)
        flat_dz.dot(W_x.T, out=dx)
        return result(outputs, loss, (dx.reshape(T, B, I), dW_x, dW_h, flat_dz.sum(axis=0)))

    return step


def gate_views(slab: Array, H: int) -> list[Array]:
    return [slab[..., k * H : (k + 1) * H] for k in range(4)]


def cell(state: State, x: Array, parameters: Sequence[Array], tanh: Any, sigmoid: Any) -> State:
    """The LSTM as its equations are written; every library below that takes plain code is given this one."""
    (h, c), (W_x, W_h, b) = state, parameters
    H = h.shape[-1]
    z = x @ W_x + h @ W_h + b
    i, f = sigmoid(z[:, :H]), sigmoid(z[:, H : 2 * H])
    g, o = tanh(z[:, 2 * H : 3 * H]), sigmoid(z[:, 3 * H :])
    c = f * c + i * g
    return o * tanh(c), c


def torch_lstm(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    import torch

    lstm = torch.nn.LSTM(W_x.shape[0], W_h.shape[0])
    return torch_step(lstm, "_l0", lambda inputs: lstm(inputs)[0], (x, W_x, W_h, b))


def torch_loop(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    import torch

    lstm = torch.nn.LSTMCell(W_x.shape[0], W_h.shape[0])

    def run(inputs: Array) -> Array:
        state, outputs = None, []
        for x_t in inputs.unbind():
            state = lstm(x_t, state)
            outputs.append(state[0])
        return torch.stack(outputs)

    return torch_step(lstm, "", run, (x, W_x, W_h, b))


def torch_step(module: Any, suffix: str, run: Callable[[Array], Array], arrays: Sequence[Array]) -> Step:
    import torch

    x, W_x, W_h, b = arrays
    weight_x, weight_h, bias, zero = (
        getattr(module, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    with torch.no_grad():
        weight_x.copy_(torch.from_numpy(W_x.T.copy()))
        weight_h.copy_(torch.from_numpy(W_h.T.copy()))
        bias.copy_(torch.from_numpy(b))
        zero.zero_()  # torch adds two biases
    inputs = torch.tensor(x, requires_grad=True)

    def step() -> dict[str, Array]:
        module.zero_grad()
        inputs.grad = None
        outputs = run(inputs)
        loss = (outputs * outputs).sum()
        loss.backward()
        gradients = inputs.grad, weight_x.grad.T, weight_h.grad.T, bias.grad
        return result(outputs.detach(), loss.item(), gradients)

    return step


def jax_scan(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    import jax

    def loss(*args: Array) -> tuple[Array, Array]:
        inputs, *parameters = args

        def body(state: State, x_t: Array) -> tuple[State, Array]:
            state = cell(state, x_t, parameters, jax.numpy.tanh, jax.nn.sigmoid)
            return state, state[0]

        zero = jax.numpy.zeros((x.shape[1], len(W_h)), x.dtype)
        outputs = jax.lax.scan(body, (zero, zero), inputs)[1]
        return jax.numpy.sum(outputs * outputs), outputs

    args = [jax.numpy.asarray(array) for array in (x, W_x, W_h, b)]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))

    def step() -> dict[str, Array]:
        (value, outputs), gradients = jax.block_until_ready(compiled(*args))
        return result(outputs, value, gradients)

    return step


def autograd_loop(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    import autograd
    import autograd.numpy as anp
    from autograd.tracer import getval

    zero = np.zeros((x.shape[1], len(W_h)), x.dtype)
    kept = []

    def sigmoid(z: Array) -> Array:
        return 1 / (1 + anp.exp(-z))

    def loss(args: tuple[Array, ...]) -> Array:
        inputs, *parameters = args
        state, outputs = (zero, zero), []
        for t in range(len(x)):
            state = cell(state, inputs[t], parameters, anp.tanh, sigmoid)
            outputs.append(state[0])
        stacked = anp.stack(outputs)
        kept[:] = [getval(stacked)]
        return anp.sum(stacked * stacked)

    value_and_grad = autograd.value_and_grad(loss)

    def step() -> dict[str, Array]:
        value, gradients = value_and_grad((x, W_x, W_h, b))
        return result(kept[0], value, gradients)

    return step


def mygrad_loop(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    import mygrad
    from mygrad.nnet.activations import sigmoid

    mygrad.turn_memory_guarding_off()  # MyGrad's own advice for speed
    tensors = [mygrad.tensor(array) for array in (x, W_x, W_h, b)]
    zero = np.zeros((x.shape[1], len(W_h)), x.dtype)

    def step() -> dict[str, Array]:
        inputs, *parameters = tensors
        for tensor in tensors:
            tensor.null_grad()
        state, outputs = (zero, zero), []
        for t in range(len(x)):
            state = cell(state, inputs[t], parameters, mygrad.tanh, sigmoid)
            outputs.append(state[0])
        stacked = mygrad.stack(outputs)
        loss = (stacked * stacked).sum()
        loss.backward()
        return result(stacked.data, loss.item(), [tensor.grad for tensor in tensors])

    return step


def minigrad_nn(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    """minigrad.nn.LSTMCell under dynamic_rnn."""
    import minigrad as mg

    lstm = mg.nn.LSTMCell(W_x.shape[0], W_h.shape[0], dtype=str(x.dtype), seed=0)
    lstm.W_x.data, lstm.W_h.data, lstm.b.data = W_x.copy(), W_h.copy(), b.copy()
    inputs = mg.tensor(x, requires_grad=True)
    return minigrad_step(
        lambda: mg.nn.dynamic_rnn(lstm, inputs, time_major=True)[0], [inputs, lstm.W_x, lstm.W_h, lstm.b]
    )


def minigrad_scan(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    """The cell above under mg.scan, which does not know that it is an LSTM."""
    import minigrad as mg

    tensors = inputs, *parameters = [mg.tensor(array, requires_grad=True) for array in (x, W_x, W_h, b)]
    zero = mg.tensor(np.zeros((x.shape[1], len(W_h)), x.dtype))

    def body(state: State, x_t: Array) -> State:
        return cell(state, x_t, parameters, mg.tanh, mg.sigmoid)

    return minigrad_step(lambda: mg.scan(body, inputs, (zero, zero))[0], tensors)


def minigrad_step(run: Callable[[], Array], tensors: list[Array]) -> Step:
    def step() -> dict[str, Array]:
        for tensor in tensors:
            tensor.grad = None
        outputs = run()
        loss = (outputs * outputs).sum()
        loss.backward()
        return result(outputs.data, loss.data, [tensor.grad for tensor in tensors])

    return step


def result(outputs: Array, loss: Array, gradients: Iterable[Array]) -> dict[str, Array]:
    names = ("dx", "dW_x", "dW_h", "db")
    return {"outputs": outputs, "loss": loss, **dict(zip(names, gradients, strict=True))}


CONTESTANTS: dict[str, tuple[str, Callable[..., Step]]] = {  # name: (library it needs, function)
    "matmuls": ("numpy", matmuls),
    "by-hand-plain": ("numpy", by_hand_plain),
    "by-hand-best": ("numpy", by_hand_best),
    "torch-lstm": ("torch", torch_lstm),
    "torch-loop": ("torch", torch_loop),
    "jax-scan": ("jax", jax_scan),
    "autograd-loop": ("autograd", autograd_loop),
    "mygrad-loop": ("mygrad", mygrad_loop),
    "minigrad-nn": ("minigrad", minigrad_nn),
    "minigrad-scan": ("minigrad", minigrad_scan),
}
SLOW = ("autograd-loop", "mygrad-loop")  # loops that record every small op
OURS = ("minigrad-nn", "minigrad-scan")


class Size(NamedTuple):
    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


def parse_size(text: str) -> Size:
    numbers = text.split(",")
    if len(numbers) != len(Size._fields):
        raise argparse.ArgumentTypeError(f"{text!r} is not T,B,I,H, as in 100,32,128,128")
    return Size(*map(timing.positive, numbers))


def draw(size: Size) -> list[Array]:
    """Inputs, W_x, W_h, b in float32: weights of the usual scale, a forget bias of 1."""
    T, B, I, H = size
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(T, B, I)), 0.1 * rng.normal(size=4 * H)
    W_x, W_h = (rng.normal(size=(rows, 4 * H)) / math.sqrt(rows) for rows in (I, H))
    b[H : 2 * H] += 1
    return [array.astype("float32") for array in (x, W_x, W_h, b)]


def sits_out(name: str, size: Size) -> bool:
    T, B, I, H = size
    return name in SLOW and 2 * T * B * 4 * H * (I + H) > MOST_FLOPS


def measure(size: Size, names: list[str], repeats: int) -> dict[str, list[float]]:
    """Checks that the contestants named agree with the plain program in float64, then times them."""
    arrays = draw(size)
    expected = by_hand_plain(*(array.astype("float64") for array in arrays))()
    steps = {name: CONTESTANTS[name][1](*arrays) for name in names if not sits_out(name, size)}
    errors = {
        name: timing.equal(f"{name} at {size}", step(), expected, TOLERANCE)
        for name, step in steps.items()
        if name != "matmuls"
    }
    if errors:
        worst = max(errors.values())
        print(f"{size}: the same values and gradients, to {worst:.0e}, from {', '.join(errors)}", flush=True)
    return timing.interleaved(steps, repeats, SECONDS)


def main() -> None:
    parser = timing.arguments("An LSTM, forward + backward, float32.", CONTESTANTS, threads=2, repeats=25)
    parser.add_argument("--sizes", nargs="+", type=parse_size, metavar="T,B,I,H", help=f"default: {SIZES}")
    options = parser.parse_args()
    timing.pin_threads(options.threads)
    timing.header(options.threads)
    names = [name for name in options.only or CONTESTANTS if timing.installed(CONTESTANTS[name][0])]
    sizes = options.sizes or [parse_size(text) for text in (SMOKE_SIZES if options.smoke else SIZES).split()]
    repeats = 2 if options.smoke else options.repeats
    print(f"float32, at most {repeats} rounds and about {SECONDS:.0f} s a size\n", flush=True)
    samples = {size: measure(size, names, repeats) for size in sizes}
    print_medians(samples, names)
    for ours in OURS:
        if ours in names:
            print_ratios(samples, ours, [name for name in names if name not in OURS])


Samples: TypeAlias = dict[Size, dict[str, list[float]]]


def print_medians(samples: Samples, names: list[str]) -> None:
    print("\nMilliseconds, medians:\n")
    rows = [
        [size, *(1e3 * statistics.median(row[name]) if name in row else "-" for name in names)]
        for size, row in samples.items()
    ]
    timing.table(["T,B,I,H", *names], rows)
    if any(sits_out(name, size) for name in names for size in samples):
        print(f"-: {' and '.join(SLOW)} sit out above {MOST_FLOPS:.0e} flops in the forward products\n")


def print_ratios(samples: Samples, ours: str, others: list[str]) -> None:
    print(f"{ours}, time relative to each (below 1: minigrad is faster):\n")
    ratios = {
        size: {name: timing.ratio(row, ours, name) for name in others if name in row} for size, row in samples.items()
    }
    rows = [[size, *(row.get(name, "-") for name in others)] for size, row in ratios.items()]
    columns = [[row[name] for row in ratios.values() if name in row] for name in others]
    means = [statistics.geometric_mean(column) if column else "-" for column in columns]
    timing.table(["T,B,I,H", *others], [*rows, ["geometric mean", *means]])


if __name__ == "__main__":
    main()
