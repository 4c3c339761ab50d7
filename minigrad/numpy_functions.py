"""What NumPy's functions do with a Tensor among their arguments: the ops that they stand for, in NumPy's spelling.

A function that is not here is refused for a Tensor that requires a gradient, and runs on the arrays of those that do
not: `Tensor.__array_ufunc__` and `Tensor.__array_function__` look into these tables.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.backend import Backend, backend_of
from minigrad.ops.op import as_value, as_values
from minigrad.tape import Array, constant
from minigrad.tensor import FUNCTIONS, REDUCTIONS, UFUNCS, Tensor

UFUNCS |= {
    getattr(np, name): ops.PUBLIC[name]
    for name in (
        "abs", "add", "cos", "divide", "exp", "expm1", "log", "log1p", "matmul", "maximum", "minimum", "multiply",
        "negative", "power", "sign", "sin", "sqrt", "square", "subtract", "tanh",
    )
}  # fmt: skip


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def compared(a: Any, b: Any) -> Any:
        return compare(a if isinstance(a, Tensor) else Tensor(as_value("asarray", a)), b)

    return compared


def _logaddexp(a: Any, b: Any) -> Any:
    a, b = as_values("logaddexp", [a, b])
    dtype = np.result_type(*[x.dtype if hasattr(x, "dtype") else x for x in (a, b)])  # a Python number is weak
    backend = backend_of(constant(a if hasattr(a, "dtype") else b))
    a, b = (x if hasattr(x, "dtype") else backend.asarray(x, dtype) for x in (a, b))
    shape = np.broadcast_shapes(a.shape, b.shape)
    return ops.logsumexp(ops.stack([ops.broadcast_to(a, shape), ops.broadcast_to(b, shape)]), axis=0)


def _predicate(name: str) -> Callable[..., Tensor]:
    """A function of one array whose truth values have no derivative."""

    def predicate(a: Tensor) -> Tensor:
        return Tensor(a.backend.asarray(getattr(a.backend.xp, name)(a.array)))

    return predicate


UFUNCS |= {
    np.equal: _comparison(operator.eq),
    np.not_equal: _comparison(operator.ne),
    np.less: _comparison(operator.lt),
    np.less_equal: _comparison(operator.le),
    np.greater: _comparison(operator.gt),
    np.greater_equal: _comparison(operator.ge),
    np.logical_and: _comparison(lambda a, b: (a != 0) & (b != 0)),
    np.logical_or: _comparison(lambda a, b: (a != 0) | (b != 0)),
    np.logical_xor: _comparison(lambda a, b: (a != 0) ^ (b != 0)),
    np.bitwise_and: _comparison(operator.and_),
    np.bitwise_or: _comparison(operator.or_),
    np.bitwise_xor: _comparison(operator.xor),
    np.logical_not: lambda a: a == 0,
    np.invert: lambda a: ~a,
    np.isfinite: _predicate("isfinite"),
    np.isinf: _predicate("isinf"),
    np.isnan: _predicate("isnan"),
    np.logaddexp: _logaddexp,
    np.reciprocal: lambda a: 1.0 / a,
    np.positive: lambda a: a,
}

FUNCTIONS |= {
    getattr(np, name): ops.PUBLIC[name]
    for name in (
        "broadcast_to", "concatenate", "copy", "dot", "einsum", "expand_dims", "flip", "moveaxis", "outer", "repeat",
        "reshape", "split", "squeeze", "stack", "swapaxes", "take", "take_along_axis", "transpose", "where",
    )
}  # fmt: skip
FUNCTIONS |= {getattr(np, name): reduction for name, reduction in REDUCTIONS.items()}


def _pad(a: Any, pad_width: Any, mode: str = "constant") -> Any:
    if mode != "constant":
        raise TypeError(f"minigrad pads with zeros only, got mode={mode!r}")
    return ops.pad(a, pad_width)


def _norm(a: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord is not None and not (ord == 2 and (a.ndim == 1 or isinstance(axis, int))):
        raise TypeError(f"minigrad has the Euclidean norm only, got ord={ord!r}")
    return ops.norm(a, axis, keepdims)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return ops.clip(a, min if a_min is None else a_min, max if a_max is None else a_max)


def _pair(name: str, a: Any, b: Any) -> tuple[Backend, Array, Array]:
    """Two arguments that are compared, as arrays or numbers without derivative, and their backend."""
    a, b = (constant(x) for x in as_values(name, [a, b]))
    return backend_of(a if hasattr(a, "dtype") else b), a, b


def _isclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Tensor:
    backend, a, b = _pair("isclose", a, b)
    close = backend.xp.isclose(a, b, rtol=constant(rtol), atol=constant(atol), equal_nan=equal_nan)
    return Tensor(backend.asarray(close))


def _allclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> bool:
    return bool(_isclose(a, b, rtol, atol, equal_nan).all())


def _array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> bool:
    backend, a, b = _pair("array_equal", a1, a2)
    if getattr(a, "shape", ()) != getattr(b, "shape", ()):
        return False
    equal = a == b
    if equal_nan:
        equal = equal | (backend.xp.isnan(a) & backend.xp.isnan(b))
    return bool(Tensor(backend.asarray(equal)).all())


FUNCTIONS |= {
    np.isclose: _isclose,
    np.allclose: _allclose,
    np.array_equal: _array_equal,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a: a.size,
    np.clip: _clip,
    np.ravel: lambda a: ops.reshape(a, -1),
    np.amax: REDUCTIONS["max"],
    np.amin: REDUCTIONS["min"],
    np.zeros_like: lambda a, dtype=None: Tensor(a.backend.xp.zeros_like(a.array, dtype=dtype)),
    np.ones_like: lambda a, dtype=None: Tensor(a.backend.xp.ones_like(a.array, dtype=dtype)),
    np.hstack: lambda xs: ops.concatenate(xs, axis=0 if np.ndim(xs[0]) == 1 else 1),
    np.vstack: lambda xs: ops.concatenate([x if np.ndim(x) > 1 else ops.expand_dims(x, 0) for x in xs], axis=0),
    np.pad: _pad,
    np.linalg.norm: _norm,
}
