"""Checks of one function at one point: `check_vjp`, `check_linear` and `check_grads`.

`check_vjp` and `check_linear` know nothing of minigrad: they take any function of NumPy arrays and any rule for its
vector-Jacobian product. `check_grads` takes a function of minigrad tensors, and checks both modes at every order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.backend import BACKEND_OF_TYPE
from minigrad.tape import constant
from minigrad.testing.adapters import Minigrad
from minigrad.testing.calls import (
    call_rule,
    chosen_arguments,
    describe,
    forward,
    is_float_array,
    name_of,
    reproduce,
)
from minigrad.testing.compare import (
    FLOOR,
    METHOD,
    copies,
    exact_adjoint,
    homogeneous,
    integers,
    judge,
    like_result,
    map_result,
    random_cotangent,
    same_bits,
    same_kind,
)
from minigrad.testing.forward_mode import check_adjoint, transposed
from minigrad.testing.numeric import derivative_along, flatten, is_float, numerical_vjp
from minigrad.testing.probes import costly_hints
from minigrad.testing.report import Context, Deviation, GradientError, GradReport, NondeterministicError, literal
from minigrad.testing.teach import taught

FULL = 256  # up to so many elements each one is perturbed; beyond, a few random directions are
FULL_GRADS = 64  # the same for `check_grads`, whose functions cost more
DIRECTIONS = 4


def check_vjp(
    f: Callable[..., Any],
    *arrays: Any,
    vjp: Callable[..., Any],
    jvp: Callable[..., Any] | None = None,
    argnums: Sequence[int] | None = None,
    cotangent: Any = None,
    seed: int = 0,
    tol: float = FLOOR,
    dtypes: Sequence[str] = ("float64", "float32"),
    name: str | None = None,
) -> GradReport:
    """Check a vector-Jacobian product rule, of any framework, against finite differences.

    `f(*arrays)` returns an array, or nested tuples and lists of arrays. `vjp(g, out, *arrays)` returns one gradient for
    each argument (None for one that is not floating point); both are given NumPy arrays, `g` of the structure of `out`.
    A framework that takes its own arrays only is called in a function that converts: docs/adapters.md shows how.
    Floating-point arguments are taken as float64, since finite differences in float32 prove nothing; `argnums` chooses
    among them. The cotangent is drawn from `seed`, with mixed signs, unless one is given. Besides the values, to a
    relative `tol`, the check demands that the gradients have the shape and dtype of their arguments (in every one of
    `dtypes`), that the rule is linear in `g` (zero, doubled, negated), that it gives the same answer twice, and that
    nobody writes into anybody's array. Derivatives below 1/128 are compared absolutely, to `tol`/128, or a derivative
    of zero could never pass: scale a function whose gradients are as small as that. With `jvp` (see `check_jvp`), both
    rules must be each other's transpose.

    A function that gives two answers to one question is reported before anything is compared. Otherwise a failure is
    shown with the simplest numbers that fail in the same way, and says whether it depends on the values.

    Returns a `GradReport`. Raises `GradientError` (an `AssertionError`) where the rule is wrong,
    `NondifferentiableError` where `f` has no derivative to compare with, and `NondeterministicError`. TypeError for
    arrays without NumPy's dtypes, and where no argument is floating-point.

    >>> import numpy as np
    >>> from minigrad.testing import GradientError, check_vjp
    >>> x = np.array([0.25, -1.5])
    >>> check_vjp(np.tanh, x, vjp=lambda g, y, x: g * (1 - y * y)).ok
    True
    >>> try:
    ...     check_vjp(np.tanh, x, vjp=lambda g, y, x: g * (1 - y))
    ... except GradientError as error:
    ...     print(error.report.problem)
    the gradient with respect to argument 0 is wrong
    """
    args = [np.array(a, np.float64) if is_float_array(a) else a for a in arrays]
    chosen = chosen_arguments(args, argnums)
    context = Context(name or name_of(f))
    out = forward(context, f, args)
    g = random_cotangent(out, np.random.default_rng(seed)) if cotangent is None else like_result(cotangent, out)

    def attempt(args: Sequence[Any], g: Any) -> list[Deviation]:
        context = Context(name or name_of(f), describe(args, g))
        context.reproduce = reproduce("check_vjp", f, args, f"vjp=rule, cotangent={literal(g)}", argnums)
        return _compare_rule(context, f, vjp, args, g, chosen, tol, dtypes)

    try:
        worst = attempt(args, g)
    except GradientError as error:
        raise taught(error, attempt, args, g) from None
    if jvp is not None:
        check_adjoint(f, *arrays, vjp=vjp, jvp=jvp, argnums=argnums, seed=seed, name=name)
    return GradReport(context.name, "vjp", worst=tuple(worst), method=METHOD)


def _compare_rule(
    context: Context,
    f: Callable[..., Any],
    vjp: Callable[..., Any],
    args: Sequence[Any],
    g: Any,
    chosen: Sequence[int],
    tol: float,
    dtypes: Sequence[str],
) -> list[Deviation]:
    """All that `check_vjp` demands of a rule, at one point and for one cotangent."""
    out = forward(context, f, args)

    def pull(g: Any) -> list[Any]:
        return call_rule(context, vjp, g, out, args, chosen)

    grads = pull(g)
    for k, grad in zip(chosen, grads, strict=True):
        same_kind(context, "vjp", grad, args[k], k)
    if not all(same_bits(a, b) for a, b in zip(grads, pull(g), strict=True)):
        context.fail("vjp", "the rule gives two different answers to one question", error=NondeterministicError)
    homogeneous(context, "vjp", pull, g, grads, chosen)
    worst = []
    for k, grad in zip(chosen, grads, strict=True):
        worst += _compare_with_differences(context, f, args, g, grad, k, tol)
    for dtype in dtypes:
        _check_dtype(context, f, vjp, g, args, chosen, np.dtype(dtype))
    return worst


def check_linear(
    f: Callable[..., Any],
    *arrays: Any,
    vjp: Callable[..., Any],
    argnums: Sequence[int] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> GradReport:
    """Check the rule of a linear function exactly: small integers, and `==` instead of a tolerance.

    `f` must be linear in the chosen arguments taken together, with the others held fixed (all floating-point ones are
    chosen by default; for a product choose one factor at a time). The floating-point arrays give the shapes; their
    values are replaced by integers from -9 to 9, so that every product and sum is exact in whatever order it is done,
    and the gradient must equal <f(e_i), g> for every unit vector e_i. Nothing is differenced and nothing rounds, so
    there is nothing to excuse.

    Returns a `GradReport`. Raises `GradientError`, also where `f` is not linear in the chosen arguments.

    >>> import numpy as np
    >>> from minigrad.testing import check_linear
    >>> check_linear(np.cumsum, np.zeros(5), vjp=lambda g, y, x: np.cumsum(g[::-1])[::-1]).ok
    True
    """
    rng = np.random.default_rng(seed)
    args = [integers(rng, np.shape(a)) if is_float_array(a) else a for a in arrays]
    chosen = chosen_arguments(args, argnums)
    context = Context(name or name_of(f))
    out = forward(context, f, args)
    g = map_result(lambda leaf: integers(rng, np.shape(leaf)), out)
    context.case = describe(args, g)
    context.reproduce = reproduce("check_linear", f, args, f"vjp=rule, seed={seed}", argnums)
    grads = call_rule(context, vjp, g, out, args, chosen)
    for k, grad in zip(chosen, grads, strict=True):
        same_kind(context, "exact", grad, args[k], k)
    worst = exact_adjoint(context, "exact", f, args, g, grads, chosen)
    return GradReport(context.name, "exact", worst=tuple(worst), method="exact integers")


def check_grads(
    f: Callable[..., Any],
    *args: Any,
    order: int = 2,
    seed: int = 0,
    tol: float = FLOOR,
    name: str | None = None,
) -> GradReport:
    """Check minigrad's derivatives of `f` at `args`, against finite differences: both modes, up to `order`.

    `f` takes and returns pytrees of tensors. Every floating-point leaf of `args` is differentiated, as float64; other
    leaves (indices, flags) are passed on as they are. At order 1 the gradients (reverse mode) and the derivative along
    a random direction (forward mode) are compared with differences of `f`, and with each other. At order 2 the same is
    done to the gradient and to the forward derivative as functions of the arguments and of what they are applied to,
    which gives all four mixtures of modes; and so on. Up to 64 elements each one is perturbed, beyond that, and at
    higher orders, four random directions are. Agreement is to `tol`, relative to the largest element of a derivative;
    derivatives below 1/128 are compared absolutely, to `tol`/128, or one of zero could never pass. So of gradients of
    1e-12 nothing is seen: check a function of ordinary size, `lambda x: 1e12 * f(x)`.

    Returns a `GradReport`. Raises `GradientError`, `NondifferentiableError` where `f` has no derivative (a kink) and
    `NondeterministicError` where `f` draws random numbers that are not fixed by a seed. Raises TypeError where no leaf
    is floating-point, and where `f` takes float32 only: of a module with float32 parameters, check a copy,
    `net.astype("float64")`.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.testing import check_grads
    >>> W, x = np.array([[0.5, -1.0], [0.25, 2.0]]), np.array([1.0, -0.5])
    >>> check_grads(lambda p: mg.tanh(p["W"] @ p["x"]), {"W": W, "x": x}).ok
    True
    """
    leaves_given, structure = tree.flatten(args)
    floating = [k for k, leaf in enumerate(leaves_given) if isinstance(leaf, float) or is_float_array(leaf)]
    if not floating:
        raise TypeError("there is nothing to check: no leaf of the arguments is floating-point")
    arrays = [constant(leaves_given[k]) for k in floating]
    backends = {BACKEND_OF_TYPE[type(a)].name for a in arrays if type(a) in BACKEND_OF_TYPE}
    adapter = Minigrad(backends.pop() if backends else "numpy")
    paths = [f"args{path}" for k, path in enumerate(structure.paths()) if k in floating]
    point = [np.array(a if isinstance(a, (float, np.generic)) else adapter.to_host(a), np.float64) for a in arrays]

    def with_leaves(values: Sequence[Any]) -> Any:
        all_leaves = list(leaves_given)
        for k, value in zip(floating, values, strict=True):
            all_leaves[k] = value
        return structure.build(all_leaves)

    def flat(*values: Any) -> tuple[Any, ...]:
        return tuple(out for out in tree.flatten(f(*with_leaves(values)))[0] if is_float(out))

    def attempt(values: Sequence[Any], g: Any = None, args: Any = None) -> list[Deviation]:
        context = Context(name or name_of(f))
        context.case = ", ".join(f"{path}: {list(x.shape)}" for path, x in zip(paths, values, strict=True))
        given = _literals(with_leaves(values) if args is None else args, adapter)
        context.reproduce = f"check_grads({', '.join([name_of(f), *given])}, order={order}, seed={seed})"
        _demand_one_answer(context, adapter, flat, values)
        return _check_order(context, adapter, flat, values, paths, np.random.default_rng(seed), tol, 1, order, "f")

    try:
        worst = attempt(point, args=args)
    except GradientError as error:
        raise taught(error, attempt, point, None) from None
    except TypeError as error:
        if not _runs(flat, [adapter.asarray(x.astype(np.float32)) for x in point]):
            raise
        raise TypeError(
            f"{name or name_of(f)} takes float32 and refuses float64, in which check_grads passes all floating-point "
            "arguments, since finite differences in float32 prove nothing: check it with float64 parameters, those of "
            'a module with net.astype("float64"), which returns a copy'
        ) from error
    return GradReport(name or name_of(f), f"order 1 to {order}", worst=tuple(worst), method=METHOD)


def _runs(f: Callable[..., Any], args: Sequence[Any]) -> bool:
    try:
        f(*args)
    except Exception:  # noqa: BLE001  (whatever it is, these arguments are not what the function takes)
        return False
    return True


def _demand_one_answer(
    context: Context, adapter: Minigrad, f: Callable[..., tuple[Any, ...]], point: Sequence[Any]
) -> None:
    """Demand that a function returns something to differentiate, and the same when it is asked again."""
    first, second = (adapter.to_host(f(*map(adapter.asarray, point))) for _ in range(2))
    if not first:
        context.fail("order 1", "the function returned no floating-point array")
    if not same_bits(flatten(first), flatten(second)):
        context.fail(
            "order 1",
            "the function gives two different results for the same arguments",
            error=NondeterministicError,
            hints=["give what is random inside a seed"],
        )


def _check_order(
    context: Context,
    adapter: Minigrad,
    f: Callable[..., tuple[Any, ...]],
    point: Sequence[Any],
    paths: Sequence[str],
    rng: np.random.Generator,
    tol: float,
    order: int,
    last: int,
    what: str,
) -> list[Deviation]:
    """Check the first derivatives of `f`, which is itself a derivative of order `order - 1`, then those above it."""
    check = f"order {order}"
    host = _on_host(adapter, f)
    arrays = [adapter.asarray(x) for x in point]
    out, pull = adapter.vjp(f, arrays)
    g = random_cotangent(adapter.to_host(out), rng)
    grads = [adapter.to_host(x) for x in pull(map_result(adapter.asarray, g))]
    for k, (grad, x) in enumerate(zip(grads, point, strict=True)):
        same_kind(context, check, grad, x, k)
    worst = []
    full = order == 1 and sum(x.size for x in point) <= FULL_GRADS
    for k, (grad, path) in enumerate(zip(grads, paths, strict=True)):
        problem = f"reverse mode: the derivative of {what} with respect to {path} is wrong"
        if full:
            estimate = numerical_vjp(host, point, g, argnum=k)
            worst += judge(context, check, grad, estimate, label=path, problem=problem, tol=tol)
        for _ in range(0 if full else DIRECTIONS):
            direction = [random_cotangent(x, rng) if j == k else None for j, x in enumerate(point)]
            estimate = derivative_along(host, point, direction, g)
            along = np.asarray(np.sum(grad * direction[k]))
            worst += judge(context, check, along, estimate, label=f"{path} . random", problem=problem, tol=tol)
    tangents = [random_cotangent(x, rng) for x in point]
    _, moved = adapter.jvp(f, arrays, [adapter.asarray(t) for t in tangents])
    worst += judge(
        context,
        check,
        flatten(adapter.to_host(moved)),
        derivative_along(host, point, tangents),
        label="tangent",
        problem=f"forward mode: the derivative of {what} along a direction is wrong",
        tol=tol,
    )
    transposed(context, check, what, flatten(g), flatten(adapter.to_host(moved)), flatten(grads), flatten(tangents))
    if order < last:
        n = len(point)

        def gradient(*values: Any) -> tuple[Any, ...]:
            return tuple(adapter.vjp(f, values[:n])[1](tuple(values[n:])))

        def tangent(*values: Any) -> tuple[Any, ...]:
            return tuple(adapter.jvp(f, values[:n], values[n:])[1])

        for name, derivative, applied in (("gradient", gradient, list(g)), ("tangent", tangent, tangents)):
            names = [*paths, *(f"{'cotangent' if name == 'gradient' else 'tangent'}[{k}]" for k in range(len(applied)))]
            above = f"the {name} of {what}"
            worst += _check_order(
                context, adapter, derivative, [*point, *applied], names, rng, tol, order + 1, last, above
            )
    return worst


def _on_host(adapter: Minigrad, f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: adapter.to_host(f(*[adapter.asarray(v) for v in values]))


def _literals(args: Sequence[Any], adapter: Minigrad) -> list[str]:
    """The arguments as source, arrays and tensors alike as NumPy arrays."""
    return [literal(tree.map(lambda x: adapter.to_host(x) if hasattr(x, "dtype") else x, arg)) for arg in args]


def _compare_with_differences(
    context: Context, f: Callable[..., Any], args: Sequence[Any], g: Any, grad: Any, k: int, tol: float
) -> list[Deviation]:
    problem = f"the gradient with respect to argument {k} is wrong"
    if grad.size <= FULL:
        estimate = numerical_vjp(f, args, g, argnum=k)

        def hints() -> list[str]:
            return costly_hints(f, args, g, grad, k)

        return judge(context, "vjp", grad, estimate, label=f"arg {k}", problem=problem, tol=tol, hints=hints)
    rng = np.random.default_rng(k)
    found = []
    for _ in range(DIRECTIONS):
        direction = rng.choice([-1.0, 1.0], grad.shape)
        estimate = derivative_along(f, args, [direction if j == k else None for j in range(len(args))], g)
        along = np.asarray(np.sum(grad * direction))
        found += judge(context, "vjp", along, estimate, label=f"arg {k} . random", problem=problem, tol=tol)
    return found


def _check_dtype(
    context: Context,
    f: Callable[..., Any],
    vjp: Callable[..., Any],
    g: Any,
    args: Sequence[Any],
    chosen: Sequence[int],
    dtype: np.dtype[Any],
) -> None:
    """Demand that gradients follow the dtype of their arguments."""
    cast = [a.astype(dtype) if is_float_array(a) else a for a in args]
    out = f(*copies(cast))
    for k, grad in zip(chosen, call_rule(context, vjp, like_result(g, out), out, cast, chosen), strict=True):
        same_kind(context, "vjp", grad, cast[k], k)
