"""What the kit must know about an op to test it: an `OpSpec`, kept in a registry by name.

Structure and values are drawn apart. A `Case` is structure alone: shapes, axes, indices. `realize` turns it into
arrays, with values from a seed that are generic (no ties, no zeros, nothing near a kink), since what breaks a gradient
is nearly always its structure, and what breaks a finite difference is an unlucky value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.testing.numeric import Floats
from minigrad.testing.report import literal

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Shape = tuple[int, ...]

GRID = 1024  # values are multiples of 1 / GRID, so that x + h and x - h are exact
SPACING = 1 / 16  # how far apart values of a `distinct` domain are, roughly


@dataclass(frozen=True)
class Domain:
    """The values that an argument may take: in [lo, hi], `margin` away from each of `avoid`.

    `distinct` keeps all values apart from each other, and from those of the other arguments that are `distinct`.

    >>> import minigrad as mg
    >>> from minigrad.testing import Domain, gradient_property, tensor
    >>> @gradient_property(x=tensor((3,), Domain(avoid=(0.0,))), max_examples=5)
    ... def test_away_from_the_kink(x):
    ...     return mg.relu(x)
    >>> test_away_from_the_kink()
    """

    lo: float = -2.0
    hi: float = 2.0
    avoid: tuple[float, ...] = ()
    distinct: bool = False
    margin: float = 1 / 8


@cache
def _grid(domain: Domain, spacing: float) -> Floats:
    """The multiples of `spacing` that lie in a domain."""
    points = np.arange(np.ceil(domain.lo / spacing), np.floor(domain.hi / spacing) + 1) * spacing
    far = np.abs(points[:, None] - np.array(domain.avoid)) >= domain.margin
    return np.asarray(points[far.all(axis=1)])


@dataclass(frozen=True, eq=False)  # arrays among the arguments cannot be compared by ==
class Case:
    """The structure of one call, `fn(*arrays, *args, **kwargs)`: a shape for every differentiable array.

    Index arrays and masks stand in `args` and `kwargs`, as NumPy arrays. `tags` name structure that the kit cannot see
    by itself; what it can see is added by `structure`.

    >>> from minigrad.testing import Case
    >>> Case(shapes=((2, 3),), kwargs={"axis": -1})  # np.sum(x, axis=-1) of such an array
    Case(shapes=((2, 3),), kwargs={'axis': -1})
    """

    shapes: tuple[Shape, ...]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        parts = [f"shapes={self.shapes}"]
        if self.args:
            parts.append(f"args={literal(self.args)}")
        if self.kwargs:
            parts.append(f"kwargs={literal(dict(self.kwargs))}")
        return f"Case({', '.join(parts)})"


@dataclass(frozen=True)
class Kink:
    """A documented convention: at these inputs and this cotangent, these are the gradients.

    >>> from minigrad.testing import Kink
    >>> Kink(([-1.0, 0.0, 2.0],), [3.0, 5.0, 7.0], ([0.0, 0.0, 7.0],), reason="relu'(0) = 0").expected
    ([0.0, 0.0, 7.0],)
    """

    inputs: tuple[Any, ...]
    cotangent: Any
    expected: tuple[Any, ...]
    case: Case | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class OpSpec:
    """One op under test.

    `fn` and `ref` are called as `fn(*arrays, *case.args, **case.kwargs)`: `fn` on tensors, `ref`, written
    independently, on NumPy arrays. `cases` draws the structure. `linear` says where the op is linear exactly:
    "each" argument by itself, "jointly" in all of them, or a tuple of groups such as `((0,),)`. `tags` are the kinds
    of structure that must occur. `kinks` are documented conventions, `laws` (see `kinks.py`) relations between result
    and gradients that hold at kinks too. `waits` is how often forward and backward may wait for a device, to
    look at indices or lengths that lie there. `exempt` maps a property to the reason why this op does not have it.

    >>> import minigrad as mg
    >>> from minigrad.testing import Case, OpSpec, check_properties
    >>> from minigrad.testing.strategies import shapes
    >>> spec = OpSpec("twice", lambda x: x + x, lambda x: 2 * x, shapes().map(lambda s: Case((s,))), linear="each")
    >>> sorted(check_properties(spec, properties=["P1", "P2"], max_examples=10))
    ['P1', 'P2']
    """

    name: str
    fn: Callable[..., Any]
    ref: Callable[..., Any]
    cases: SearchStrategy[Case]
    domain: Domain | tuple[Domain, ...] = Domain()
    linear: str | tuple[tuple[int, ...], ...] = ()
    exact: bool = False
    differentiable: bool = True
    kinks: tuple[Kink, ...] = ()
    laws: tuple[Callable[..., tuple[Any, Any]], ...] = ()
    tags: frozenset[str] = frozenset()
    waits: tuple[int, int] = (0, 0)
    exempt: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.linear, str) and self.linear not in ("each", "jointly"):
            raise ValueError(f'{self.name}: linear is "each", "jointly" or a tuple of groups, got {self.linear!r}')
        for prop, reason in self.exempt.items():
            if not reason.strip():
                raise ValueError(f"{self.name}: the exemption from {prop} has no reason")
        for kink in self.kinks:
            if len(kink.expected) != len(kink.inputs):
                raise ValueError(
                    f"{self.name}: a kink gives {len(kink.expected)} gradients for {len(kink.inputs)} inputs"
                )
            if any(np.array_equal(kink.cotangent, x) for x in kink.inputs):
                raise ValueError(f"{self.name}: a kink whose cotangent is one of its inputs cannot tell them apart")

    def __repr__(self) -> str:
        return f"<spec of {self.name}>"

    def groups(self, case: Case) -> tuple[tuple[int, ...], ...]:
        """The groups of arguments in which the op is exactly linear, for this case."""
        every = range(len(case.shapes))
        if isinstance(self.linear, str):
            return (tuple(every),) if self.linear == "jointly" else tuple((k,) for k in every)
        return self.linear

    def domains(self, count: int) -> list[Domain]:
        if isinstance(self.domain, Domain):
            return [self.domain] * count
        if len(self.domain) != count:
            raise ValueError(f"{self.name}: {len(self.domain)} domains for {count} arrays")
        return list(self.domain)


def realize(spec: OpSpec, case: Case, seed: int, dtype: str = "float64") -> list[np.ndarray[Any, Any]]:
    """Turn structure into arrays: the same case and seed give the same values, on every machine.

    >>> from minigrad.testing.specs import Case, Domain, OpSpec, realize
    >>> spec = OpSpec("log", None, None, None, domain=Domain(0.5, 2.0))
    >>> realize(spec, Case(shapes=((2, 3),)), seed=0)[0].shape
    (2, 3)
    """
    rng = np.random.default_rng(seed)
    domains = spec.domains(len(case.shapes))
    sizes = [int(np.prod(shape)) for shape in case.shapes]
    apart = _distinct(rng, [(d, n) for d, n in zip(domains, sizes, strict=True) if d.distinct])
    arrays = []
    for domain, shape, size in zip(domains, case.shapes, sizes, strict=True):
        if domain.distinct:
            values = next(apart)
        else:
            points = _grid(domain, 1 / GRID)
            values = points[rng.integers(0, len(points), size)]
        arrays.append(values.reshape(shape).astype(dtype))
    return arrays


def _distinct(rng: np.random.Generator, wanted: list[tuple[Domain, int]]) -> Iterator[Floats]:
    """Draw values that all differ, across arguments too: grid points without repetition, shifted a little."""
    taken: set[float] = set()
    for domain, size in wanted:
        free = np.array([p for p in _grid(domain, SPACING) if p not in taken])
        if len(free) < size:
            raise ValueError(f"{domain} has no room for {size} distinct values; draw smaller shapes or widen it")
        points = rng.choice(free, size, replace=False)
        taken.update(points.tolist())
        yield points + rng.integers(-GRID // 64, GRID // 64 + 1, size) / GRID


def structure(case: Case) -> frozenset[str]:
    """The tags that a case deserves: the kinds of structure that gradients are known to break on."""
    tags = set(case.tags)
    for shape in case.shapes:
        tags |= {"0d"} if shape == () else set()
        tags |= {"empty"} if 0 in shape else set()
        tags |= {"size1"} if 1 in shape else set()
    if len({*case.shapes}) > 1:
        tags.add("broadcast")
    for key, value in case.kwargs.items():
        if key.startswith("ax") or key.endswith("axis"):
            numbers = value if isinstance(value, tuple) else (value,)
            tags |= {"tuple_axis"} if isinstance(value, tuple) else set()
            tags |= {"negative_axis"} if any(isinstance(n, int) and n < 0 for n in numbers) else set()
    for value in _arrays([case.args, *case.kwargs.values()]):
        if value.dtype.kind == "i" and len(np.unique(value)) < value.size:
            tags.add("repeated_index")
    return frozenset(tags)


def _arrays(values: Iterable[Any]) -> Iterator[np.ndarray[Any, Any]]:
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _arrays(value)


_registry: dict[str, OpSpec] = {}


def register_spec(spec: OpSpec) -> OpSpec:
    """Add a spec to the registry. Raises ValueError if the op has one already.

    >>> from minigrad.testing import register_spec, spec_for
    >>> register_spec(spec_for("tanh"))
    Traceback (most recent call last):
    ValueError: the op 'tanh' has a spec already; every op has exactly one
    """
    if spec.name in _registry:
        raise ValueError(f"the op {spec.name!r} has a spec already; every op has exactly one")
    _registry[spec.name] = spec
    return spec


def is_registered(spec: OpSpec) -> bool:
    """Say whether this spec, and not another one of its name, is in the registry."""
    return _registry.get(spec.name) is spec


def all_specs() -> list[OpSpec]:
    """All registered specs, those of minigrad's own ops included, by name.

    >>> from minigrad.testing import all_specs
    >>> "tanh" in [spec.name for spec in all_specs()]
    True
    """
    import minigrad.testing.op_specs  # noqa: F401, PLC0415  (registers them; needs Hypothesis)

    return [_registry[name] for name in sorted(_registry)]


def spec_for(name: str) -> OpSpec:
    """The spec of the op of this name.

    Raises KeyError, with the names that are known.

    >>> from minigrad.testing import spec_for
    >>> spec_for("log").domain.lo > 0
    True
    """
    known = {spec.name: spec for spec in all_specs()}
    if name not in known:
        raise KeyError(f"no spec is called {name!r}; known: {', '.join(known)}")
    return known[name]
