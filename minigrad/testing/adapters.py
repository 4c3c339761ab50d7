"""How the properties reach a framework: `Minigrad` on some backend, or `PlainRule` for a rule on NumPy arrays.

An adapter moves arrays to where the framework computes, and offers reverse and forward mode of a function of arrays.
Results may be arrays, or tuples and lists of arrays. `docs/adapters.md` has adapters for JAX, PyTorch and autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from minigrad import transforms
from minigrad.backend import get_backend
from minigrad.tape import Record, constant, recorder, scoped
from minigrad.tensor import tensor
from minigrad.testing.compare import map_result

Pull = Callable[[Any], Sequence[Any]]


class Adapter(Protocol):
    """What a framework must offer so that its ops can be tested.

    Three abilities are optional, and what needs them does not apply without: `strided = True` says that its arrays may
    be views with any strides, `zero_wins = True` that a cotangent of 0 gives a gradient of 0 even past a NaN, and
    `vjp_keeping` lets a test change what backward reads.
    """

    name: str
    transforms: bool
    """Whether functions compose and rules can be differentiated again: forward mode, fan-out and order 2."""

    def asarray(self, x: np.ndarray[Any, Any]) -> Any:
        """Copy a NumPy array to the device."""

    def to_host(self, out: Any) -> Any:
        """Copy a result back: NumPy arrays, in the same tuples and lists."""

    def is_array(self, x: Any) -> bool:
        """Say whether `x` is an array of this framework, and not a scalar or an array of another."""

    def vjp(self, f: Callable[..., Any], arrays: Sequence[Any]) -> tuple[Any, Pull]:
        """Return the result and the function from its cotangent to one gradient for each array."""

    def jvp(self, f: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return the result and its tangent."""


class Minigrad:
    """minigrad, on the backend of the given name."""

    transforms = True
    strided = True
    zero_wins = True

    def __init__(self, backend: str = "numpy") -> None:
        self.name = backend
        self.backend = get_backend(backend)

    def asarray(self, x: np.ndarray[Any, Any]) -> Any:
        return self.backend.asarray(np.array(x))

    def to_host(self, out: Any) -> Any:
        if isinstance(out, (tuple, list)):
            return type(out)(map(self.to_host, out))
        return None if out is None else np.array(self.backend.to_host(constant(out)))

    def is_array(self, x: Any) -> bool:
        return type(x) is self.backend.array_type

    def vjp(self, f: Callable[..., Any], arrays: Sequence[Any]) -> tuple[Any, Pull]:
        out, pull = transforms.vjp(f, *arrays)
        return out, pull

    def vjp_keeping(
        self, f: Callable[..., Any], arrays: Sequence[Any], change: Callable[[Any], Any]
    ) -> tuple[Any, Pull]:
        """As `vjp`, but every array that the tape keeps for backward is `change(array)`; the result is as it was."""

        def changed(value: Any) -> Any:
            return change(value) if self.is_array(value) and value.dtype.kind == "f" else value

        def record(op: Any, values: Any, parents: Any, static: Any, out: Any, held: Any) -> Record:
            return Record(op, tuple(map(changed, values)), parents, static, changed(out), held)

        with scoped(recorder, record):
            return self.vjp(f, arrays)

    def jvp(self, f: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        out, tangent = transforms.jvp(f, tuple(arrays), tuple(tangents))
        return out, tangent

    def tensor(self, x: Any, requires_grad: bool) -> Any:
        """Make a tensor that shares nothing with `x`."""
        return tensor(x, requires_grad=requires_grad)


class PlainRule:
    """One rule on NumPy arrays, `rule(g, out, *arrays)`; it has no transforms, so fewer properties apply."""

    transforms = False
    strided = True
    name = "plain"

    def __init__(self, rule: Callable[..., Any]) -> None:
        self.rule = rule

    def asarray(self, x: np.ndarray[Any, Any]) -> Any:
        return np.array(x)

    def to_host(self, out: Any) -> Any:
        return type(out)(map(self.to_host, out)) if isinstance(out, (tuple, list)) else np.array(out)

    def is_array(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic))  # NumPy gives a scalar where an array would have no axes

    def vjp(self, f: Callable[..., Any], arrays: Sequence[Any]) -> tuple[Any, Pull]:
        return self.vjp_keeping(f, arrays, lambda array: array)

    def vjp_keeping(
        self, f: Callable[..., Any], arrays: Sequence[Any], change: Callable[[Any], Any]
    ) -> tuple[Any, Pull]:
        """As `vjp`, but the rule is given `change(array)` for the result and for each argument."""
        out = f(*arrays)
        kept, given = map_result(change, out), [change(a) for a in arrays]

        def pull(g: Any) -> Sequence[Any]:
            grads = self.rule(g, kept, *given)
            return tuple(grads) if isinstance(grads, (tuple, list)) else (grads,)

        return out, pull

    def jvp(self, f: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        raise NotImplementedError("a plain rule has no forward mode")
