"""Random numbers that depend on a key alone: the same draws on every backend, in every replay.

Outside of `scan` a draw is a function of its seed. In a scan's body the key is (seed, call, step): each step and each
call in it draws anew, and recomputing the body draws the same again. Numbers are made by NumPy's counter-based Philox
generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) on the host, then moved.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from minigrad.backend import Backend, backend_of, default_backend
from minigrad.ops import argmax
from minigrad.ops.op import as_value, is_abstract
from minigrad.tape import constant, scoped
from minigrad.tensor import Tensor

Shape = int | tuple[int, ...]

_path: ContextVar[tuple[int, ...]] = ContextVar("minigrad_random_path", default=())  # call, step of each scan around
_calls: ContextVar[int] = ContextVar("minigrad_random_calls", default=0)


_deferred: ContextVar[Callable[[Callable[[tuple[int, ...]], Any]], Any] | None] = ContextVar(
    "minigrad_random_deferred", default=None
)
"""While a scan's body is traced: takes what draws for the path of a step, gives what stands for all its draws."""


def deferred(take: Callable[[Callable[[tuple[int, ...]], Any]], Any]) -> scoped:
    """Hand draws to `take` as functions of the path of their step, instead of drawing.

    >>> from minigrad import random
    >>> with random.deferred(lambda draw: draw((0, 3))):  # as step 3 of scan 0 draws
    ...     random.bernoulli(2, seed=0, p=1.0)
    Tensor([1., 1.])
    """
    return scoped(_deferred, take)


def path() -> tuple[int, ...]:
    """The call and step of each scan around.

    >>> from minigrad import random
    >>> random.path()  # outside of every scan
    ()
    """
    return _path.get()


def _drawn(
    seed: int | Sequence[int],
    dtype: Any,
    make: Callable[[np.random.Generator], Any],
    backend: Backend | None = None,
) -> Tensor:
    """A draw that holds here: of this step, or in a body that is being traced of every step."""
    take = _deferred.get()
    if take is None:
        drawn = np.asarray(make(generator(seed))).astype(np.dtype(dtype))
        return Tensor((backend or default_backend()).asarray(drawn))
    seeds, call = as_seeds(seed), _next_call()
    return Tensor(take(lambda at: np.asarray(make(_generator(seeds, at, call))).astype(np.dtype(dtype))))


class steps:  # noqa: N801  # reads like the statement that it makes
    """A scan's scope (inside those of the scans around it): call what it gives with t when step t begins."""

    __slots__ = ("outer", "tokens")

    def __enter__(self) -> Callable[[int], None]:
        self.outer = (*_path.get(), _next_call())
        self.tokens = _path.set(self.outer), _calls.set(0)
        return self.enter

    def __exit__(self, *_: object) -> None:
        _path.reset(self.tokens[0])
        _calls.reset(self.tokens[1])

    def enter(self, t: int) -> None:
        _path.set((*self.outer, t))
        _calls.set(0)


def _next_call() -> int:
    """The number of a draw (or scan) within its step; outside of scans nothing is counted."""
    call = _calls.get()
    if _path.get():
        _calls.set(call + 1)
    return call


def generator(seed: int | Sequence[int]) -> np.random.Generator:
    """NumPy's generator for the key (seed, call, step) that holds here. It takes a call's number in a scan's body.

    >>> from minigrad import random
    >>> bool(random.generator(7).random() == random.generator(7).random())
    True
    """
    if _deferred.get() is not None:
        raise TypeError(
            "minigrad.random.generator in the function of scan: its draws are not known while it is traced; use "
            "normal, uniform or bernoulli, or pass unroll=True"
        )
    path = _path.get()
    return _generator(as_seeds(seed), path, _next_call() if path else 0)


def as_seeds(seed: Any) -> list[int]:
    """The integers of a seed. TypeError for what is none, ValueError for a negative one.

    >>> from minigrad import random
    >>> random.as_seeds(7), random.as_seeds((1, 2))
    ([7], [1, 2])
    """
    try:
        seeds = [operator.index(part) for part in (seed if isinstance(seed, Sequence) else [seed])]
    except TypeError:
        raise TypeError(f"a seed is an integer of at least 0, or a sequence of such, got {seed!r}") from None
    if any(s < 0 for s in seeds):
        raise ValueError(f"a seed is an integer of at least 0, or a sequence of such, got {seed!r}")
    return seeds


def _generator(seeds: Sequence[int], path: tuple[int, ...], call: int) -> np.random.Generator:
    import hashlib  # noqa: PLC0415  # a tenth of what minigrad imports, and many programs draw nothing

    key = (seeds, path, call)
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()  # one key of 128 bits for each of ours
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def normal(shape: Shape, seed: int | Sequence[int], dtype: Any = "float64") -> Tensor:
    """Draws from the normal distribution of mean 0 and standard deviation 1.

    >>> import minigrad as mg
    >>> mg.random.normal((2, 3), seed=0).shape
    (2, 3)
    """
    return _drawn(seed, dtype, lambda g: g.standard_normal(shape))


def uniform(
    shape: Shape, seed: int | Sequence[int], low: float = 0.0, high: float = 1.0, dtype: Any = "float64"
) -> Tensor:
    """Draws from the uniform distribution on [low, high).

    >>> import minigrad as mg
    >>> bool((mg.random.uniform(100, seed=0, low=2.0, high=3.0) >= 2.0).all())
    True
    """

    def draw(g: np.random.Generator) -> Any:
        values = np.asarray(g.uniform(low, high, shape)).astype(np.dtype(dtype))
        below = np.nextafter(values.dtype.type(high), values.dtype.type(low))  # rounding must not reach the upper end
        return np.minimum(values, below) if high > low else values

    return _drawn(seed, dtype, draw)


def bernoulli(shape: Shape, seed: int | Sequence[int], p: float = 0.5, dtype: Any = "float64") -> Tensor:
    """1 with probability p, else 0. Raises ValueError for a p outside [0, 1].

    >>> import minigrad as mg
    >>> mg.random.bernoulli(3, seed=0, p=1.0)
    Tensor([1., 1., 1.])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"a probability lies between 0 and 1, got {p}")
    return _drawn(seed, dtype, lambda g: g.random(shape) < p)


def categorical(logits: Any, seed: int | Sequence[int]) -> Tensor:
    """One class a row, drawn with probabilities softmax(logits): (..., classes) to integers (...). No derivative.

    A logit is a number, or -inf for a class that is impossible. Raises ValueError for a NaN or +inf, and for a row in
    which every class is impossible; it waits for the device to see them. Where a scan's body is traced, logits have no
    values yet and nothing is raised: there a NaN or +inf draws its own class, a row of -inf alone class 0.
    Source: the Gumbel-max trick (Gumbel, 1954).

    >>> import minigrad as mg
    >>> mg.random.categorical([[0.0, 1000.0], [1000.0, 0.0]], seed=0)
    Tensor([1, 0], int64)
    """
    array = constant(as_value("random.categorical", logits))
    backend = backend_of(array)
    noise = _drawn(seed, "float64", lambda g: g.gumbel(size=array.shape), backend)
    drawn = Tensor(argmax(array + noise.array, axis=-1))
    if array.size and not is_abstract(array):
        largest = backend.to_host(backend.asarray(backend.xp.max(array, axis=-1)))  # of a row with a NaN it is NaN
        wrong = ~np.isfinite(largest)
        if wrong.any():
            row = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
            raise ValueError(
                "minigrad.random.categorical: logits are numbers, or -inf for what is impossible, and at least one "
                f"class of a row is possible; got {largest[row]} as the largest logit"
                + (f" of row {', '.join(map(str, row))}" if row else "")
            )
    return drawn


__all__ = ["bernoulli", "categorical", "generator", "normal", "uniform"]
