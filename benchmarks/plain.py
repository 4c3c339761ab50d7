"""Backpropagation through time as a textbook has it: one step after the other, each derivative written out.

Slow, and never timed: in float64 these are the values and gradients that every contestant must have.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from benchmarks.cells import Array, Arrays, Results, State, results

# From the gradient of the new state to those of the input, the old state, and the parameters.
Pull: TypeAlias = Callable[[State], tuple[Array, State, Sequence[Array]]]
PlainStep: TypeAlias = Callable[[State, Array, Sequence[Array]], tuple[State, Pull]]


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def lstm(state: State, x: Array, parameters: Sequence[Array]) -> tuple[State, Pull]:
    (h, c), (W_x, W_h, b) = state, parameters
    z_i, z_f, z_g, z_o = np.split(x @ W_x + h @ W_h + b, 4, axis=1)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    new_c = f * c + i * g
    tanh_c = np.tanh(new_c)

    def pull(gradient: State) -> tuple[Array, State, Sequence[Array]]:
        dh, dc = gradient
        dc = dc + dh * o * (1 - tanh_c**2)
        slopes = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
        dz = np.concatenate(slopes, axis=1)
        return dz @ W_x.T, (dz @ W_h.T, dc * f), (x.T @ dz, h.T @ dz, dz.sum(axis=0))

    return (o * tanh_c, new_c), pull


def gru_after(state: State, x: Array, parameters: Sequence[Array]) -> tuple[State, Pull]:
    (h,), (W_x, W_h, b_x, b_h) = state, parameters
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x @ W_x + b_x, 3, axis=1), np.split(h @ W_h + b_h, 3, axis=1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)

    def pull(gradient: State) -> tuple[Array, State, Sequence[Array]]:
        (dh,) = gradient
        dn = dh * (1 - z) * (1 - n**2)
        dr, dz = dn * h_n * r * (1 - r), dh * (h - n) * z * (1 - z)
        from_x, from_h = np.concatenate((dr, dz, dn), axis=1), np.concatenate((dr, dz, dn * r), axis=1)
        gradients = x.T @ from_x, h.T @ from_h, from_x.sum(axis=0), from_h.sum(axis=0)
        return from_x @ W_x.T, (from_h @ W_h.T + dh * z,), gradients

    return ((1 - z) * n + z * h,), pull


def gru_before(state: State, x: Array, parameters: Sequence[Array]) -> tuple[State, Pull]:
    (h,), (W_x, W_rz, W_n, b) = state, parameters
    (x_r, x_z, x_n), (h_r, h_z) = np.split(x @ W_x + b, 3, axis=1), np.split(h @ W_rz, 2, axis=1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + (r * h) @ W_n)

    def pull(gradient: State) -> tuple[Array, State, Sequence[Array]]:
        (dh,) = gradient
        dn = dh * (1 - z) * (1 - n**2)
        d_rh = dn @ W_n.T
        d_rz = np.concatenate((d_rh * h * r * (1 - r), dh * (h - n) * z * (1 - z)), axis=1)
        from_x = np.concatenate((d_rz, dn), axis=1)
        gradients = x.T @ from_x, h.T @ d_rz, (r * h).T @ dn, from_x.sum(axis=0)
        return from_x @ W_x.T, (d_rz @ W_rz.T + d_rh * r + dh * z,), gradients

    return ((1 - z) * n + z * h,), pull


def vanilla(state: State, x: Array, parameters: Sequence[Array]) -> tuple[State, Pull]:
    (h,), (W_x, W_h, b) = state, parameters
    new = np.tanh(x @ W_x + h @ W_h + b)

    def pull(gradient: State) -> tuple[Array, State, Sequence[Array]]:
        dz = gradient[0] * (1 - new**2)
        return dz @ W_x.T, (dz @ W_h.T,), (x.T @ dz, h.T @ dz, dz.sum(axis=0))

    return (new,), pull


STATES = {lstm: 2, gru_after: 1, gru_before: 1, vanilla: 1}
Sequences: TypeAlias = tuple[Array, Callable[[Array], list[Array]]]  # outputs; from their gradient to all others


def through_time(step: PlainStep, x: Array, parameters: Sequence[Array]) -> Sequences:
    W_h = parameters[1]
    zero = np.zeros((x.shape[1], len(W_h)), x.dtype)
    state, outputs, pulls = (zero,) * STATES[step], [], []
    for x_t in x:
        state, pull = step(state, x_t, parameters)
        outputs.append(state[0])
        pulls.append(pull)

    def back(d_outputs: Array) -> list[Array]:
        d_state, dx, gradients = (zero,) * STATES[step], np.empty_like(x), [np.zeros_like(p) for p in parameters]
        for t in reversed(range(len(x))):
            dx[t], d_state, parts = pulls[t]((d_state[0] + d_outputs[t], *d_state[1:]))
            gradients = [total + part for total, part in zip(gradients, parts, strict=True)]
        return [dx, *gradients]

    return np.stack(outputs), back


def one_layer(step: PlainStep, x: Array, parameters: Arrays, lengths: Array = None) -> Results:
    """Past its length a row has outputs of zero, so nothing flows back from there."""
    outputs, back = through_time(step, x, list(parameters.values()))
    if lengths is not None:
        outputs *= (np.arange(len(x))[:, None] < lengths)[..., None]
    return results(parameters, outputs, np.sum(outputs**2), back(2 * outputs))


def two_layers(x: Array, parameters: Arrays) -> Results:
    arrays = list(parameters.values())
    between, back_lower = through_time(lstm, x, arrays[:3])
    outputs, back_upper = through_time(lstm, between, arrays[3:])
    d_between, *upper = back_upper(2 * outputs)
    return results(parameters, outputs, np.sum(outputs**2), [*back_lower(d_between), *upper])


def both_directions(x: Array, parameters: Arrays) -> Results:
    arrays = list(parameters.values())
    forward, back = through_time(lstm, x, arrays[:3])
    backward, forth = through_time(lstm, x[::-1], arrays[3:])
    outputs = np.concatenate([forward, backward[::-1]], axis=-1)
    dx, *of_forward = back(2 * forward)
    dx_reversed, *of_backward = forth(2 * backward)
    return results(parameters, outputs, np.sum(outputs**2), [dx + dx_reversed[::-1], *of_forward, *of_backward])


LSTM, VANILLA = partial(one_layer, lstm), partial(one_layer, vanilla)
GRU_AFTER, GRU_BEFORE = partial(one_layer, gru_after), partial(one_layer, gru_before)
