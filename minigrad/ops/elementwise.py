"""Elementwise ops: a function and its partial derivatives, side by side.

Shapes broadcast as in NumPy; dtypes are kept (Python numbers are weak). All of them take arrays, tensors, numbers and
lists, give a Tensor when given one and an array otherwise, and raise ValueError where shapes do not broadcast.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad.ops.op import MINUS_ONE, ONE, Flags, Shapes, Static, boxed_like, broadcast_rows, elementwise, untracked
from minigrad.ops.where import where
from minigrad.tape import Array, Value

# ---- arithmetic ----------------------------------------------------------------------------------------------------


@elementwise
def add(xp: Any, x: Array, y: Array) -> Array:
    """x + y, elementwise.

    >>> import minigrad as mg
    >>> mg.add([1.0, 2.0], 10.0)
    array([11., 12.])
    """
    return xp.add(x, y)


@add.partial
def add_dx(out: Value, x: Value, y: Value) -> Value:
    return ONE


@add.partial
def add_dy(out: Value, x: Value, y: Value) -> Value:
    return ONE


@elementwise
def subtract(xp: Any, x: Array, y: Array) -> Array:
    """x - y, elementwise.

    >>> import minigrad as mg
    >>> mg.subtract([1.0, 2.0], 10.0)
    array([-9., -8.])
    """
    return xp.subtract(x, y)


@subtract.partial
def subtract_dx(out: Value, x: Value, y: Value) -> Value:
    return ONE


@subtract.partial
def subtract_dy(out: Value, x: Value, y: Value) -> Value:
    return MINUS_ONE


@elementwise
def multiply(xp: Any, x: Array, y: Array) -> Array:
    """x * y, elementwise. In a gradient, a zero cotangent times an infinite factor is 0.

    >>> import minigrad as mg
    >>> mg.multiply([1.0, 2.0], [3.0, 4.0])
    array([3., 8.])
    """
    return xp.multiply(x, y)


@multiply.partial
def multiply_dx(out: Value, x: Value, y: Value) -> Value:
    return y


@multiply.partial
def multiply_dy(out: Value, x: Value, y: Value) -> Value:
    return x


@elementwise
def divide(xp: Any, x: Array, y: Array) -> Array:
    """x / y, elementwise. Where the cotangent is 0 the gradient is 0, even at y = 0.

    >>> import minigrad as mg
    >>> mg.divide([1.0, 2.0], 4.0)
    array([0.25, 0.5 ])
    """
    return xp.divide(x, y)


@divide.partial
def divide_dx(out: Value, x: Value, y: Value) -> Value:
    if isinstance(y, int | float) and y == 0:
        return math.copysign(math.inf, y)  # as arrays have it, where Python raises
    return 1.0 / y


@divide.partial
def divide_dy(out: Value, x: Value, y: Value) -> Value:
    return -out / y


@elementwise
def negative(xp: Any, x: Array) -> Array:
    """-x, elementwise.

    >>> import minigrad as mg
    >>> mg.negative([1.0, -2.0])
    array([-1.,  2.])
    """
    return xp.negative(x)


@negative.partial
def negative_dx(out: Value, x: Value) -> Value:
    return MINUS_ONE


@elementwise
def power(xp: Any, x: Array, y: Array) -> Array:
    """x ** y, elementwise. By the exponent the derivative is 0 at x = 0, y >= 0.

    >>> import minigrad as mg
    >>> mg.power([1.0, 2.0, 3.0], 2)
    array([1., 4., 9.])
    """
    return xp.power(x, y)


@power.partial
def power_dx(out: Value, x: Value, y: Value) -> Value:
    if isinstance(y, int | float):
        return 0.0 if y == 0 else ONE if y == 1 else float(y) * x ** (y - 1)
    # at x = 0 and y = 0, x ** (y - 1) is infinite, and the derivative 0 times it: any finite power does there
    return y * power(x, where((x == 0) & (y == 0), 1.0, y - 1.0))


@power.partial
def power_dy(out: Value, x: Value, y: Value) -> Value:
    base = out.dtype.type(x) if isinstance(x, int | float) else x
    return out * log(where((x == 0) & (y >= 0), 1.0, base))


# ---- exponentials, roots, angles -----------------------------------------------------------------------------------


@elementwise
def exp(xp: Any, x: Array) -> Array:
    """e ** x, elementwise.

    >>> import minigrad as mg
    >>> mg.exp([0.0, 1.0])
    array([1.        , 2.71828183])
    """
    return xp.exp(x)


@exp.partial
def exp_dx(out: Value, x: Value) -> Value:
    return out


@elementwise
def expm1(xp: Any, x: Array) -> Array:
    """e ** x - 1, elementwise, accurate near 0.

    >>> import minigrad as mg
    >>> mg.expm1([0.0, 1.0])
    array([0.        , 1.71828183])
    """
    return xp.expm1(x)


@expm1.partial
def expm1_dx(out: Value, x: Value) -> Value:
    return out + 1.0


@elementwise
def log(xp: Any, x: Array) -> Array:
    """The natural logarithm, elementwise. Where the cotangent is 0 the gradient is 0, even at x = 0.

    >>> import minigrad as mg
    >>> mg.log([1.0, 2.0])
    array([0.        , 0.69314718])
    """
    return xp.log(x)


@log.partial
def log_dx(out: Value, x: Value) -> Value:
    return 1.0 / x


@elementwise
def log1p(xp: Any, x: Array) -> Array:
    """log(1 + x), elementwise, accurate near 0.

    >>> import minigrad as mg
    >>> mg.log1p([0.0, 1.0])
    array([0.        , 0.69314718])
    """
    return xp.log1p(x)


@log1p.partial
def log1p_dx(out: Value, x: Value) -> Value:
    return 1.0 / (1.0 + x)


@elementwise
def sqrt(xp: Any, x: Array) -> Array:
    """The square root, elementwise. sqrt'(0) is infinite, but 0 where the cotangent is 0.

    >>> import minigrad as mg
    >>> mg.sqrt([1.0, 4.0])
    array([1., 2.])
    """
    return xp.sqrt(x)


@sqrt.partial
def sqrt_dx(out: Value, x: Value) -> Value:
    return 0.5 / out


@elementwise
def square(xp: Any, x: Array) -> Array:
    """x * x, elementwise.

    >>> import minigrad as mg
    >>> mg.square([1.0, 2.0])
    array([1., 4.])
    """
    return xp.square(x)


@square.partial
def square_dx(out: Value, x: Value) -> Value:
    return 2.0 * x


@elementwise
def sin(xp: Any, x: Array) -> Array:
    """The sine of an angle in radians, elementwise.

    >>> import minigrad as mg
    >>> mg.sin([0.0, 1.0])
    array([0.        , 0.84147098])
    """
    return xp.sin(x)


@sin.partial
def sin_dx(out: Value, x: Value) -> Value:
    return cos(x)


@elementwise
def cos(xp: Any, x: Array) -> Array:
    """The cosine of an angle in radians, elementwise.

    >>> import minigrad as mg
    >>> mg.cos([0.0, 1.0])
    array([1.        , 0.54030231])
    """
    return xp.cos(x)


@cos.partial
def cos_dx(out: Value, x: Value) -> Value:
    return -sin(x)


# ---- activations ---------------------------------------------------------------------------------------------------


@elementwise
def tanh(xp: Any, x: Array) -> Array:
    """The hyperbolic tangent, elementwise.

    >>> import minigrad as mg
    >>> mg.tanh([0.0, 1.0])
    array([0.        , 0.76159416])
    """
    return xp.tanh(x)


@tanh.partial
def tanh_dx(out: Value, x: Value) -> Value:
    return 1.0 - out * out


@elementwise
def sigmoid(xp: Any, x: Array) -> Array:
    """The logistic function 1 / (1 + e ** -x), elementwise, as tanh(x / 2) / 2 + 1 / 2, which cannot overflow.

    It is right to the last digit of 1, so it is 0 where it should be smaller than that (below x = -37 in float64). Its
    logarithm is -softplus(-x), which is right everywhere.

    >>> import minigrad as mg
    >>> mg.sigmoid([0.0, 1000.0])
    array([0.5, 1. ])
    """
    return xp.tanh(x * 0.5) * 0.5 + 0.5


@sigmoid.partial
def sigmoid_dx(out: Value, x: Value) -> Value:
    return out * (1.0 - out)


@elementwise
def relu(xp: Any, x: Array) -> Array:
    """max(x, 0), elementwise; relu'(0) = 0.

    >>> import minigrad as mg
    >>> mg.relu([-1.0, 2.0])
    array([0., 2.])
    """
    return xp.maximum(x, 0)


@relu.partial
def relu_dx(out: Value, x: Value) -> Value:
    return x > 0


@elementwise
def leaky_relu(xp: Any, x: Array, *, slope: float = 0.01) -> Array:
    """x where x > 0, else slope * x, elementwise; at 0 the derivative is `slope`.

    >>> import minigrad as mg
    >>> mg.leaky_relu([-1.0, 2.0], slope=0.1)
    array([-0.1,  2. ])
    """
    return xp.where(x > 0, x, x * slope)


@leaky_relu.partial
def leaky_relu_dx(out: Value, x: Value, *, slope: float = 0.01) -> Value:
    return (x > 0).astype(x.dtype) * (1.0 - slope) + slope


@elementwise
def elu(xp: Any, x: Array, *, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (e ** x - 1), elementwise; at 0 the derivative is `alpha`.

    >>> import minigrad as mg
    >>> mg.elu([-1.0, 2.0])
    array([-0.63212056,  2.        ])
    """
    return xp.where(x > 0, x, xp.expm1(xp.minimum(x, 0)) * alpha)


@elu.partial
def elu_dx(out: Value, x: Value, *, alpha: float = 1.0) -> Value:
    return where(x > 0, 1.0, out + alpha)


@elementwise
def softplus(xp: Any, x: Array) -> Array:
    """log(1 + e ** x), elementwise, without overflow.

    >>> import minigrad as mg
    >>> mg.softplus([0.0, 1000.0])
    array([6.93147181e-01, 1.00000000e+03])
    """
    return xp.logaddexp(x, xp.zeros_like(x))


@softplus.partial
def softplus_dx(out: Value, x: Value) -> Value:
    return sigmoid(x)


# ---- kinks: the conventions are DESIGN's, and tested ---------------------------------------------------------------


@elementwise
def abs(xp: Any, x: Array) -> Array:
    """|x|, elementwise; abs'(0) = 0.

    >>> import minigrad as mg
    >>> mg.abs([-1.0, 2.0])
    array([1., 2.])
    """
    return xp.abs(x)


@abs.partial
def abs_dx(out: Value, x: Value) -> Value:
    return sign(x)


@elementwise
def sign(xp: Any, x: Array) -> Array:
    """-1, 0 or 1, elementwise; its derivative is 0 everywhere.

    >>> import minigrad as mg
    >>> mg.sign([-3.0, 0.0, 2.0])
    array([-1.,  0.,  1.])
    """
    return xp.sign(x)


@sign.partial
def sign_dx(out: Value, x: Value) -> Value:
    return 0.0


@elementwise
def maximum(xp: Any, x: Array, y: Array) -> Array:
    """The larger of x and y, elementwise; a tie gives half of the gradient to each.

    >>> import minigrad as mg
    >>> mg.maximum([1.0, 5.0], 3.0)
    array([3., 5.])
    """
    return xp.maximum(x, y)


@maximum.partial
def maximum_dx(out: Value, x: Value, y: Value) -> Value:
    return _share(out, x, y)


@maximum.partial
def maximum_dy(out: Value, x: Value, y: Value) -> Value:
    return _share(out, y, x)


@elementwise
def minimum(xp: Any, x: Array, y: Array) -> Array:
    """The smaller of x and y, elementwise; a tie gives half of the gradient to each.

    >>> import minigrad as mg
    >>> mg.minimum([1.0, 5.0], 3.0)
    array([1., 3.])
    """
    return xp.minimum(x, y)


@minimum.partial
def minimum_dx(out: Value, x: Value, y: Value) -> Value:
    return _share(out, x, y)


@minimum.partial
def minimum_dy(out: Value, x: Value, y: Value) -> Value:
    return _share(out, y, x)


def _share(out: Value, mine: Value, other: Value) -> Value:
    """The part of a choice's gradient that goes to `mine`: all where only it was chosen, half at a tie."""
    chosen = (out == mine).astype(out.dtype)
    return where(out == other, chosen * 0.5, chosen)


@elementwise
def clip_(xp: Any, x: Array, *, lo: Any, hi: Any) -> Array:
    return xp.clip(x, lo, hi)


@clip_.partial
def clip_dx(out: Value, x: Value, *, lo: Any, hi: Any) -> Value:
    return out == x


@clip_.batch
def clip_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    return static if all(len(bound) <= len(shapes[0]) for bound in _bounds(static)) else None


@clip_.rows
def clip_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    return broadcast_rows(static, (*shapes, *_bounds(static)), (*aligned, False, False))


def _bounds(static: Static) -> Shapes:
    """The shapes of those bounds that are arrays, which broadcast like inputs; in a trace they are inputs."""
    return [getattr(bound, "shape", ()) for bound in (static["lo"], static["hi"])]


def clip(x: Any, lo: Any = None, hi: Any = None) -> Any:
    """x limited to [lo, hi], elementwise; the derivative is 1 inside and at the bounds, 0 outside.

    The bounds are numbers, arrays or None (no bound); they have no derivative: TypeError for a tracked Tensor.

    >>> import minigrad as mg
    >>> mg.clip([-2.0, 0.5, 2.0], -1.0, 1.0)
    array([-1. ,  0.5,  1. ])
    """
    if lo is None and hi is None:
        raise ValueError("minigrad.clip needs a lower bound, an upper bound, or both")
    return boxed_like(clip_(x, lo=untracked("clip", "lo", lo), hi=untracked("clip", "hi", hi)), lo, hi)
