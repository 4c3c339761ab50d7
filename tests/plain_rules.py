"""Vector-Jacobian products of well-known functions, written by hand on NumPy arrays, with no framework in sight.

They are right. The tests of the checker show that it agrees, and that it disagrees as soon as one of them is spoilt.
The signature is `rule(g, out, *arrays, *static, **kwargs)`; the result is one gradient for each array.
"""

import builtins

import numpy as np


def unbroadcast(g, x):
    while g.ndim > x.ndim:
        g = g.sum(axis=0)
    for k, side in enumerate(x.shape):
        if side == 1 and g.shape[k] != 1:
            g = g.sum(axis=k, keepdims=True)
    return np.asarray(g)


def expanded(value, x, axis, keepdims):
    """Give a reduced value its reduced axes back, with length 1."""
    if axis is None:
        return np.reshape(value, (1,) * x.ndim)
    return value if keepdims else np.expand_dims(value, axis)


def exp(g, out, x):
    return np.asarray(g * out)


def tanh(g, out, x):
    return np.asarray(g * (1 - out * out))


def log(g, out, x):
    return np.asarray(g / x)


def relu(g, out, x):
    return np.asarray(g * (x > 0))


def sigmoid(g, out, x):
    return np.asarray(g * out * (1 - out))


def clip(g, out, x, lo, hi):
    inside = (x >= (-np.inf if lo is None else lo)) & (x <= (np.inf if hi is None else hi))
    return np.asarray(g * inside)


def add(g, out, x, y):
    return unbroadcast(g, x), unbroadcast(g, y)


def subtract(g, out, x, y):
    return unbroadcast(g, x), unbroadcast(np.asarray(-g), y)


def multiply(g, out, x, y):
    return unbroadcast(np.asarray(g * y), x), unbroadcast(np.asarray(g * x), y)


def divide(g, out, x, y):
    return unbroadcast(np.asarray(g / y), x), unbroadcast(np.asarray(-g * out / y), y)


def maximum(g, out, x, y):
    tie = np.asarray(x == y).astype(g.dtype) / 2
    return unbroadcast(np.asarray(g * ((x > y) + tie)), x), unbroadcast(np.asarray(g * ((x < y) + tie)), y)


def where(g, out, x, y, condition):
    zero = np.zeros_like(g)
    return unbroadcast(np.where(condition, g, zero), x), unbroadcast(np.where(condition, zero, g), y)


def matmul(g, out, a, b):
    a2, b2 = a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b
    g2 = np.reshape(g, np.matmul(a2, b2).shape)
    da, db = np.matmul(g2, np.swapaxes(b2, -1, -2)), np.matmul(np.swapaxes(a2, -1, -2), g2)
    return unbroadcast(da, a2).reshape(a.shape), unbroadcast(db, b2).reshape(b.shape)


def outer(g, out, x, y):
    return np.asarray(g @ y), np.asarray(x @ g)


def sum(g, out, x, axis, keepdims):
    return np.array(np.broadcast_to(expanded(g, x, axis, keepdims), x.shape))


def mean(g, out, x, axis, keepdims):
    return np.asarray(sum(g, out, x, axis, keepdims) * np.asarray(np.size(out) / builtins.max(x.size, 1), x.dtype))


def max(g, out, x, axis, keepdims):
    hit = np.asarray(x == expanded(out, x, axis, keepdims)).astype(x.dtype)
    return np.asarray(expanded(g, x, axis, keepdims) * hit / hit.sum(axis=axis, keepdims=True))


def var(g, out, x, axis, keepdims):
    scale = np.asarray(2 * np.size(out) / builtins.max(x.size, 1), x.dtype)
    return np.asarray(expanded(g, x, axis, keepdims) * (x - x.mean(axis=axis, keepdims=True)) * scale)


def logsumexp(g, out, x, axis, keepdims):
    return np.asarray(expanded(g, x, axis, keepdims) * np.exp(x - expanded(out, x, axis, keepdims)))


def cumsum(g, out, x, axis):
    back = np.flip(np.cumsum(np.flip(g, axis), axis), axis)
    return np.asarray(back.reshape(x.shape))


def reshape(g, out, x, shape):
    return g.reshape(x.shape)


def transpose(g, out, x, axes=None):
    return np.transpose(g, None if axes is None else np.argsort([a % g.ndim for a in axes]))


def concatenate(g, out, *arrays, axis):
    places = np.cumsum([a.shape[axis] for a in arrays])[:-1]
    return tuple(np.split(g, places, axis=axis))


def split(g, out, x, where, axis):
    if isinstance(where, int):
        return np.concatenate(g, axis=axis)
    grad = np.zeros_like(x)  # cuts in any order give pieces that overlap
    for piece, first, last in zip(g, [0, *where], [*where, None], strict=True):
        np.moveaxis(grad, axis, 0)[first:last] += np.moveaxis(piece, axis, 0)
    return grad


def broadcast_to(g, out, x, shape):
    return unbroadcast(g, x)


def take(g, out, x, index, axis):
    grad = np.zeros(x.shape, x.dtype)  # zeros_like would keep Fortran order, and then reshape(-1) would copy
    if axis is None:
        np.add.at(grad.reshape(-1), index, g)
    else:
        front = np.moveaxis(grad, axis, 0)
        axes = tuple(range(axis % x.ndim, axis % x.ndim + np.ndim(index)))
        np.add.at(front, index, np.moveaxis(g, axes, tuple(range(np.ndim(index)))))
    return grad


def getitem(g, out, x, index):
    grad = np.zeros_like(x)
    np.add.at(grad, index, g)
    return grad


def softmax(g, out, x, axis=-1):
    return np.asarray(out * (g - (g * out).sum(axis=axis, keepdims=True)))


def log_softmax(g, out, x, axis=-1):
    return np.asarray(g - np.exp(out) * g.sum(axis=axis, keepdims=True))


RULES = {
    rule.__name__: rule
    for rule in (
        exp, tanh, log, relu, sigmoid, clip, add, subtract, multiply, divide, maximum, where, matmul, outer, sum, mean,
        max, var, logsumexp, cumsum, reshape, transpose, concatenate, split, broadcast_to, take, getitem, softmax,
        log_softmax,
    )
}  # fmt: skip
