"""One op at one point, on one framework, with all that the properties share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from minigrad.testing.adapters import Adapter, Minigrad
from minigrad.testing.compare import like_result, map_result, random_cotangent
from minigrad.testing.numeric import flatten
from minigrad.testing.report import Context, literal
from minigrad.testing.specs import Case, OpSpec, is_registered, realize


class Rejected(Exception):  # noqa: N818  (nothing is in error)
    """This example can neither confirm nor refute the property; too many of these fail the ledger.

    >>> from minigrad.testing import Case, Rejected, replay
    >>> try:
    ...     replay("abs", "P1", Case(shapes=((1,),)), arrays=[[0.0]])
    ... except Rejected:
    ...     print("finite differences say nothing at a kink")
    finite differences say nothing at a kink
    """


class Trial:
    """One op at one point, with what the properties share: inputs, result, pull-back, gradients; all made on demand.

    The inputs and the cotangent are drawn from the seed, unless they are given: `arrays`, `cotangent`.

    >>> import numpy as np
    >>> from minigrad.testing import Case, Trial, spec_for
    >>> from minigrad.testing.adapters import Minigrad
    >>> given = {"arrays": [np.array([1.0, 3.0])], "cotangent": np.array([1.0, 10.0])}
    >>> Trial(spec_for("square"), Case(shapes=((2,),)), 0, Minigrad(), **given).grads
    [array([ 2., 60.])]
    """

    def __init__(
        self,
        spec: OpSpec,
        case: Case,
        seed: int,
        adapter: Adapter,
        dtype: str = "float64",
        *,
        arrays: Sequence[Any] | None = None,
        cotangent: Any = None,
    ) -> None:
        self.spec = spec
        self.case = case
        self.seed = seed
        self.adapter = adapter
        self.given = arrays is not None
        self.cotangent = cotangent
        self.host = realize(spec, case, seed, dtype) if arrays is None else [np.array(a, dtype) for a in arrays]
        self.static = tuple(_to_device(adapter, value) for value in case.args)
        self.kwargs = {key: _to_device(adapter, value) for key, value in case.kwargs.items()}

    @property
    def argnums(self) -> range:
        return range(len(self.host))

    def fn(self, *arrays: Any) -> Any:
        """The op under test as a function of its arrays alone."""
        return self.spec.fn(*arrays, *self.static, **self.kwargs)

    def ref(self, *arrays: Any) -> Any:
        """The reference as a function of its arrays alone, on NumPy."""
        return self.spec.ref(*arrays, *self.case.args, **self.case.kwargs)

    def to_device(self, arrays: Sequence[np.ndarray[Any, Any]]) -> list[Any]:
        return [self.adapter.asarray(a) for a in arrays]

    def cotangent_to_device(self, g: Any, out: Any) -> Any:
        """Give a cotangent on the host the dtypes of `out`, and move it."""
        return map_result(self.adapter.asarray, like_result(g, self.adapter.to_host(out)))

    def to_host(self, values: Sequence[Any]) -> list[Any]:
        return [self.adapter.to_host(v) for v in values]

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])

    @cached_property
    def g_host(self) -> Any:
        """The cotangent on the host, float64."""
        out = self.ref(*self.host)
        if self.cotangent is not None:
            return like_result(self.cotangent, out)
        return random_cotangent(out, np.random.default_rng([self.seed, 2]))

    @cached_property
    def arrays(self) -> list[Any]:
        return self.to_device(self.host)

    @cached_property
    def out_and_pull(self) -> tuple[Any, Callable[[Any], Sequence[Any]]]:
        return self.adapter.vjp(self.fn, self.arrays)

    @property
    def out(self) -> Any:
        return self.out_and_pull[0]

    def pull(self, g: Any) -> list[Any]:
        """Pull a cotangent on the host back to gradients on the host."""
        return self.to_host(self.out_and_pull[1](self.cotangent_to_device(g, self.out)))

    @cached_property
    def grads(self) -> list[Any]:
        return self.pull(self.g_host)

    def context(self, prop: str) -> Context:
        """What a failure of a property says of this trial: the case, and the line that shows it again."""
        chosen = f", arrays={literal(self.host)}" if self.given else ""
        chosen += "" if self.cotangent is None else f", cotangent={literal(self.cotangent)}"
        what = repr(self.spec.name) if is_registered(self.spec) else "spec"
        where = repr(self.adapter.name) if isinstance(self.adapter, Minigrad) else "adapter"
        return Context(
            f"{self.spec.name} on {self.adapter.name}",
            f"{self.case}, seed={self.seed}",
            f"replay({what}, {prop!r}, {self.case}, seed={self.seed}, backend={where}{chosen})",
        )

    def filled(self) -> list[int]:
        """The arguments that have elements: on the others there is nothing to compare but shapes."""
        return [k for k in self.argnums if self.host[k].size]

    def judged(self) -> list[int]:
        """The arguments with elements, if the result has any: then something was compared."""
        return self.filled() if flatten(self.g_host).size else []


def parts(out: Any) -> list[Any]:
    """The arrays of a result, of any dtype."""
    return [part for item in out for part in parts(item)] if isinstance(out, (tuple, list)) else [out]


def rebuilt(out: Any, values: Sequence[Any]) -> Any:
    """Give a flat sequence of values the structure of `out`."""
    return values[0] if not isinstance(out, (tuple, list)) else type(out)(values)


def _to_device(adapter: Adapter, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return adapter.asarray(value)
    return type(value)(_to_device(adapter, v) for v in value) if isinstance(value, (tuple, list)) else value
