"""The recurrent cells once more, in plain NumPy: each gate by itself, from matrices of its own, real or complex.

Nothing here knows minigrad. Gradients come from the complex step: for a function that is analytic, the imaginary part
of f(x + ih) is h f'(x) with no subtraction, so h can be so small that the result is exact to rounding. Source: Squire
and Trapp, "Using complex variables to estimate derivatives of real functions" (1998).
"""

from __future__ import annotations

import itertools

import numpy as np

H = 1e-150


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rnn(w, x, h):
    h = np.tanh(x @ w["W_xh"] + h @ w["W_hh"] + w["b_h"])
    return h, (h,)


def gru(w, x, h):
    r = sigmoid(x @ w["W_xr"] + h @ w["W_hr"] + w["b_r"])
    z = sigmoid(x @ w["W_xz"] + h @ w["W_hz"] + w["b_z"])
    n = np.tanh(x @ w["W_xn"] + (r * h) @ w["W_hn"] + w["b_n"])
    h = z * h + (1 - z) * n
    return h, (h,)


def lstm(w, x, h, c):
    i = sigmoid(x @ w["W_xi"] + h @ w["W_hi"] + w["b_i"])
    f = sigmoid(x @ w["W_xf"] + h @ w["W_hf"] + w["b_f"])
    g = np.tanh(x @ w["W_xg"] + h @ w["W_hg"] + w["b_g"])
    o = sigmoid(x @ w["W_xo"] + h @ w["W_ho"] + w["b_o"])
    c = f * c + i * g
    h = o * np.tanh(c)
    return h, (h, c)


EQUATIONS = {"RNNCell": (rnn, "h", 1), "GRUCell": (gru, "rzn", 1), "LSTMCell": (lstm, "ifgo", 2)}
"""The step, the order in which the fused weights hold the gates, and the number of states."""


def unfused(kind, fused):
    """One matrix a gate, out of the cell's W_x, W_h and b."""
    gates = EQUATIONS[kind][1]
    units = fused["W_h"].shape[0]
    weights = {}
    for number, gate in enumerate(gates):
        columns = slice(number * units, (number + 1) * units)
        weights[f"W_x{gate}"] = fused["W_x"][:, columns]
        weights[f"W_h{gate}"] = fused["W_h"][:, columns]
        weights[f"b_{gate}"] = fused["b"][columns]
    return weights


def ragged(kind, fused, inputs, lengths, states, reverse=False):
    """Every row by itself, for exactly its own steps: (B, T, I) to outputs (B, T, H) and final states, each (B, H)."""
    step = EQUATIONS[kind][0]
    weights = unfused(kind, fused)
    dtype = np.result_type(inputs, *states, *fused.values())
    outputs = np.zeros((*inputs.shape[:2], fused["W_h"].shape[0]), dtype)
    finals = [np.array(state, dtype) for state in states]
    for row, length in enumerate(lengths):
        state = tuple(final[row] for final in finals)
        for t in reversed(range(length)) if reverse else range(length):
            outputs[row, t], state = step(weights, inputs[row, t], *state)
        for final, last in zip(finals, state, strict=True):
            final[row] = last
    return outputs, finals


def gradient(f, arrays):
    """The gradient of f(dict of arrays), a complex number, by every element of every array."""
    found = {}
    for name, array in arrays.items():
        found[name] = np.zeros(array.shape)
        for index in np.ndindex(*array.shape):
            moved = array.astype(complex)
            moved[index] += 1j * H
            found[name][index] = f({**arrays, name: moved}).imag / H
    return found


def derivative(f, levels=6, step=0.125):
    """The derivative at 0 of a function of a number, which gives a dict of arrays: differences, extrapolated to step 0.

    Source: Ridders, "Accurate computation of F'(x) and F'(x)F''(x)" (1982).
    """
    steps = [step / 2**k for k in range(levels)]
    table = [{name: (f(h)[name] - f(-h)[name]) / (2 * h) for name in f(0.0)} for h in steps]
    for order in range(1, levels):
        table = [
            {name: b[name] + (b[name] - a[name]) / (4**order - 1) for name in b} for a, b in itertools.pairwise(table)
        ]
    return table[0]
