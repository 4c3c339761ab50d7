"""`gradient_property`: a function with shapes becomes a test of its derivatives, on sizes and values that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from minigrad.testing.checks import check_grads, check_vjp
from minigrad.testing.compare import FLOOR
from minigrad.testing.report import NondifferentiableError
from minigrad.testing.specs import Case, Domain, OpSpec, Shape, realize
from minigrad.testing.strategies import kept_as, seeds

Size = int | st.SearchStrategy[int]


@dataclass(frozen=True)
class Drawn:
    """An argument that is to be drawn: a strategy of shapes, and the domain of its values."""

    shapes: st.SearchStrategy[Shape]
    domain: Domain


def size(name: str, least: int = 1, most: int = 3) -> st.SearchStrategy[int]:
    """A length that is drawn once an example: wherever this name stands, it is the same.

    >>> from minigrad.testing import gradient_property, size, tensor
    >>> T, H = size("T", least=0), size("H")
    >>> @gradient_property(x=tensor((T, H)), h=tensor((H,)), max_examples=5)
    ... def test_add(x, h):
    ...     return x + h
    >>> test_add()
    """
    return st.shared(st.integers(least, most), key=("minigrad.testing.size", name))


def tensor(shape: Sequence[Size] | st.SearchStrategy[Shape], domain: Domain | None = None) -> Drawn:
    """An argument of `gradient_property`: its shape, in numbers and strategies, and the domain of its values.

    A strategy of whole shapes will do too. Values are drawn from a seed, between -2 and 2 unless the domain says
    otherwise; keep them away from kinks (`Domain(avoid=(0.0,))`) and, under a maximum, apart (`Domain(distinct=True)`).

    >>> from minigrad.testing import Domain, size, tensor
    >>> tensor((size("B"), 4), Domain(0.5, 2.0)).domain.lo
    0.5
    """
    if not isinstance(shape, st.SearchStrategy):
        shape = st.tuples(*[st.just(n) if isinstance(n, int) else n for n in shape])
    return Drawn(shape, domain or Domain())


def gradient_property(
    *,
    vjp: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    order: int = 1,
    max_examples: int | None = None,
    tol: float = FLOOR,
    **tensors: Drawn,
) -> Callable[[Callable[..., Any]], Callable[[], None]]:
    """Make a function of arrays into a Hypothesis test of its derivatives.

    The decorated function takes the named tensors, as keywords, and returns a pytree of them; the test draws their
    shapes and a seed for their values, and runs `check_grads` up to `order`: both modes against finite differences,
    and against each other. With `vjp`, a rule as `check_vjp` takes it, the function and its rule may be of any
    framework. Under pytest, give the function a name that begins with `test_`. What failed is shrunk, and printed
    with a line that shows it again; `test.function` is the decorated function, of positional arguments.

    The test raises `GradientError` where a derivative is wrong. Raises TypeError if no tensor is named, or if one is
    not made by `tensor(...)`.

    >>> import minigrad as mg
    >>> from minigrad.testing import gradient_property, size, tensor
    >>> B, I, H = size("B"), size("I"), size("H")
    >>> @gradient_property(x=tensor((B, I)), h=tensor((B, H)), W=tensor((I, H)), max_examples=10)
    ... def test_cell(x, h, W):
    ...     return mg.tanh(x @ W + h)
    >>> test_cell()
    """
    if not tensors:
        raise TypeError("gradient_property needs the function's arguments: gradient_property(x=tensor((3, 2)))")
    for name, drawn in tensors.items():
        if not isinstance(drawn, Drawn):
            raise TypeError(f"gradient_property: {name} must be made by tensor(shape, domain), got {drawn!r}")

    def decorate(f: Callable[..., Any]) -> Callable[[], None]:
        def function(*values: Any) -> Any:
            return f(**dict(zip(tensors, values, strict=True)))

        function.__name__ = f"{f.__name__}.function"
        domains = tuple(drawn.domain for drawn in tensors.values())
        spec = OpSpec(f.__name__, function, function, st.nothing(), domain=domains)

        def test(shapes: tuple[Shape, ...], seed: int) -> None:
            arrays = realize(spec, Case(shapes), seed)
            try:
                if vjp is None:
                    check_grads(function, *arrays, order=order, seed=seed, tol=tol)
                else:
                    check_vjp(function, *arrays, vjp=vjp, jvp=jvp, seed=seed, tol=tol)
            except NondifferentiableError:
                reject()

        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(test, name, getattr(f, name))
        kept_as(test, f"{f.__module__}.{f.__qualname__}")
        shapes = st.tuples(*[drawn.shapes for drawn in tensors.values()])
        made: Any = settings(**_options(max_examples))(given(shapes=shapes, seed=seeds)(test))
        made.function = function
        return made  # type: ignore[no-any-return]

    return decorate


def _options(max_examples: int | None) -> Mapping[str, Any]:
    """The settings of such a test: those of the profile, but for what gradients need."""
    options: dict[str, Any] = {
        "deadline": None,
        "report_multiple_bugs": False,
        "suppress_health_check": [HealthCheck.too_slow],
        "phases": [phase for phase in Phase if phase is not Phase.explain],  # the diagnosis says what it would
    }
    return options if max_examples is None else options | {"max_examples": max_examples}
