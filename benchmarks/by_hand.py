"""The LSTM in NumPy, forward and backward, as people write it by hand: what `mg.scan` is measured against.

Gates stand in the order i, f, g, o. Each function takes the arrays, does what is done once, and returns the step
that is timed.
"""

import numpy as np

from benchmarks.cells import Array, Step, results

NAMES = ("W_x", "W_h", "b")
CACHE = 2**19  # bytes: half a megabyte stays in the second-level cache of most cores


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


def plain(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
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
        return results(NAMES, outputs, loss, (dx.reshape(T, B, I), dW_x, dW_h, flat.sum(axis=0)))

    return step


def best(x: Array, W_x: Array, W_h: Array, b: Array) -> Step:
    """The plain program and four things more.

    One tanh for all gates: sigmoid(z) = tanh(z/2)/2 + 1/2, with the halves folded into weights and bias once a call.
    Views made once. Local derivatives, which do not depend on what flows back, for some steps at once: as many as
    stay in the cache until the loop has used them. The gradients of the gates written over the gates.
    """
    (T, B, I), H = x.shape, len(W_h)
    rows = x.reshape(T * B, I)
    half = np.full(4 * H, 0.5, x.dtype)  # the factor before and after tanh: 1/2 for sigmoids, 1 for g
    half[2 * H : 3 * H] = 1
    shift = 1 - half
    one, two = np.array(1, x.dtype), np.array(2, x.dtype)
    at_once = max(1, min(T, CACHE // (B * 4 * H * x.itemsize)))
    gates, slopes = np.empty((T, B, 4 * H), x.dtype), np.empty((at_once, B, 4 * H), x.dtype)
    h, c = np.zeros((2, T + 1, B, H), x.dtype)
    tanh_c = np.empty((T, B, H), x.dtype)
    slope_c, dh_loss, forget = np.empty((3, at_once, B, H), x.dtype)
    product, dx = np.empty((B, 4 * H), x.dtype), np.empty((T * B, I), x.dtype)
    buffer, dh, dc = np.empty((3, B, H), x.dtype)
    outputs, flat, dc_three = h[1:], gates.reshape(T * B, 4 * H), dc[:, None]
    i, f, g, o = gate_views(gates, H)
    s_i, s_f, s_g, s_o = gate_views(slopes, H)
    d_ifg, s_ifg = (slab.reshape(-1, B, 4, H)[:, :, :3] for slab in (gates, slopes))
    forward = list(zip(gates, i, f, g, o, h, outputs, c, c[1:], tanh_c, strict=False))
    locally = list(zip(dh_loss, slope_c, s_o, s_ifg, forget, strict=True))
    chunks = []  # the last steps first
    for start in range(0, T, at_once)[::-1]:
        steps = slice(start, min(T, start + at_once))
        views = zip(locally, gates[steps], d_ifg[steps], o[steps], strict=False)
        chunks.append((steps, list(views)[::-1]))

    def local_derivatives(steps: slice, n: int) -> None:
        """slopes: dc/dz, in its last quarter dh/dz; slope_c: dh/dc; forget: the gate, which is overwritten."""
        np.multiply(gates[steps], gates[steps], out=slopes[:n])
        np.subtract(gates[steps, :, : 2 * H], slopes[:n, :, : 2 * H], out=slopes[:n, :, : 2 * H])
        np.subtract(one, s_g[:n], out=s_g[:n])
        np.subtract(o[steps], s_o[:n], out=s_o[:n])
        for slope, factor in ((s_i, g), (s_f, c), (s_g, i), (s_o, tanh_c)):
            np.multiply(slope[:n], factor[steps], out=slope[:n])
        np.multiply(tanh_c[steps], tanh_c[steps], out=slope_c[:n])
        np.subtract(one, slope_c[:n], out=slope_c[:n])
        np.multiply(slope_c[:n], o[steps], out=slope_c[:n])
        np.copyto(forget[:n], f[steps])
        np.multiply(outputs[steps], two, out=dh_loss[:n])

    def step() -> dict[str, Array]:
        np.dot(rows, W_x * half, out=flat)
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
        loss = np.vdot(outputs, outputs)

        dh.fill(0)
        dc.fill(0)
        for steps, views in chunks:
            local_derivatives(steps, len(views))
            for (dh_t, slope_c_t, s_o_t, s_ifg_t, f_t), dz_t, d_ifg_t, d_o_t in views:
                np.add(dh, dh_t, dh)
                np.multiply(s_o_t, dh, d_o_t)
                np.multiply(dh, slope_c_t, dh)
                np.add(dc, dh, dc)
                np.multiply(s_ifg_t, dc_three, d_ifg_t)
                np.multiply(dc, f_t, dc)
                dz_t.dot(W_hT, dh)
        dW_x, dW_h = rows.T.dot(flat), h[:-1].reshape(T * B, H).T.dot(flat)
        flat.dot(W_x.T, out=dx)
        return results(NAMES, outputs, loss, (dx.reshape(T, B, I), dW_x, dW_h, flat.sum(axis=0)))

    return step


def gate_views(slab: Array, H: int) -> list[Array]:
    return [slab[..., k * H : (k + 1) * H] for k in range(4)]
