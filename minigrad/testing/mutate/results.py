"""Mutants that change what a rule returns, or the cotangent that it is given: they need no source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minigrad.testing.compare import map_result
from minigrad.testing.mutate.syntax import Mutant

Change = Callable[[Any], Any]


def _times(factor: float) -> Change:
    return lambda x: np.asarray(x * np.asarray(factor, x.dtype))


def _mean(x: Any) -> Any:
    return np.full_like(x, x.mean() if x.size else 0)


def _without_last(x: Any) -> Any:
    lost = np.array(x)
    lost.reshape(-1)[-1:] = 0
    return lost


CHANGES: dict[str, Change] = {
    "times 1.001": _times(1.001),
    "times 1.00001": _times(1.00001),
    "negated": lambda x: np.asarray(-x),
    "zero": np.zeros_like,
    "rolled": lambda x: np.roll(x, 1),
    "reversed": np.flip,
    "transposed": np.transpose,
    "mean everywhere": _mean,
    "last element zero": _without_last,
    "shifted by 1e-4": lambda x: np.asarray(x + np.asarray(1e-4, x.dtype)),
    "float32 inside": lambda x: np.asarray(x, np.float32).astype(x.dtype),
    "float64 outside": lambda x: np.asarray(x, np.float64),
}
"""What may be done to one gradient; an array in, an array out."""


def rule(vjp: Callable[..., Any], *, gradients: int = 1) -> Iterator[Mutant]:
    """The mutants of what a rule returns: of each gradient alone, and of all together.

    `vjp(g, out, *arrays)` returns a gradient, or a tuple of as many as `gradients` says. Each of `CHANGES` is made to
    each gradient; then the cotangent is replaced by ones, gradients are swapped, all but the first are lost, and
    broadcasting is not undone. A mutant may well be right for a rule: `score` tells which never gave another answer.

    >>> import numpy as np
    >>> from minigrad.testing import mutate
    >>> def product_vjp(g, out, x, y):
    ...     return g * y, g * x
    >>> mutants = {mutant.name: mutant for mutant in mutate.rule(product_vjp, gradients=2)}
    >>> len(mutants), [name for name in mutants if "negated" in name]
    (28, ['gradient 0 negated', 'gradient 1 negated'])
    >>> g, x, y = np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.array([1.0, 0.0])
    >>> mutants["gradients swapped"].rule(g, x * y, x, y)
    (array([ 3., 10.]), array([1., 0.]))
    """
    for k in range(gradients):
        for name, change in CHANGES.items():
            yield Mutant(f"gradient {k} {name}" if gradients > 1 else name, _changed(vjp, change, k))
    yield Mutant("cotangent of ones", lambda g, out, *args, **kw: vjp(map_result(np.ones_like, g), out, *args, **kw))
    yield Mutant("broadcasting not undone", _not_reduced(vjp))
    if gradients > 1:
        yield Mutant("gradients swapped", _on_all(vjp, lambda grads: grads[::-1]))
        yield Mutant("first gradient only", _on_all(vjp, lambda grads: [grads[0], *map(_nothing, grads[1:])]))


def count_of(vjp: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """The rule, and a list to which it adds, whenever it is called, how many gradients it has returned."""
    seen: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        grads = vjp(*args, **kwargs)
        seen.append(len(grads) if isinstance(grads, (tuple, list)) else 1)
        return grads

    return counted, seen


def _changed(vjp: Callable[..., Any], change: Change, k: int) -> Callable[..., Any]:
    def changed(grads: Sequence[Any]) -> Sequence[Any]:
        return [change(np.asarray(g)) if i == k and g is not None else g for i, g in enumerate(grads)]

    return _on_all(vjp, changed)


def _on_all(vjp: Callable[..., Any], change: Callable[[Sequence[Any]], Sequence[Any]]) -> Callable[..., Any]:
    """The rule with its gradients changed, in the form in which it gave them."""

    def mutated(*args: Any, **kwargs: Any) -> Any:
        grads = vjp(*args, **kwargs)
        return type(grads)(change(grads)) if isinstance(grads, (tuple, list)) else change([grads])[0]

    return mutated


def _not_reduced(vjp: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(g: Any, out: Any, *args: Any, **kwargs: Any) -> Any:
        def stretched(grads: Sequence[Any]) -> Sequence[Any]:
            return [x if x is None else _broadcast(np.asarray(x), np.shape(out)) for x in grads]

        return (vjp if isinstance(out, (tuple, list)) else _on_all(vjp, stretched))(g, out, *args, **kwargs)

    return mutated


def _broadcast(x: Any, shape: tuple[int, ...]) -> Any:
    """An array repeated to a shape, if it can be."""
    try:
        return np.array(np.broadcast_to(x, shape))
    except ValueError:
        return x


def _nothing(x: Any) -> Any:
    return None if x is None else np.zeros_like(x)
