"""Products of matrices: linear in each factor, so each rule is a product again."""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend import backend_of
from minigrad.ops.elementwise import multiply
from minigrad.ops.op import HALF, Flags, Shapes, Static, absorbing, as_value, primitive, scaled
from minigrad.ops.shape import astype, broadcast_to_, moveaxis, reshape_, swapaxes
from minigrad.tape import Array, Value, constant

# ---- matmul --------------------------------------------------------------------------------------------------------


@primitive(linear="each")
def matmul(xp: Any, a: Array, b: Array) -> Array:
    """The matrix product, with NumPy's rules: (..., n, k) @ (..., k, m), leading axes broadcast, vectors of (k,).

    >>> import minigrad as mg
    >>> mg.matmul([[1.0, 2.0], [3.0, 4.0]], [1.0, 1.0])
    array([3., 7.])
    """
    return xp.matmul(a, b)


@matmul.vjp(0)
def matmul_da(g: Value, out: Value, a: Value, b: Value) -> Value:
    if len(b.shape) == 1:
        return scaled(g[..., None], b)
    if len(a.shape) == 1:
        g = g[..., None, :]  # `unbroadcast` sums the axis away again
    return absorbing(lambda g, b: matmul(g, b.T if len(b.shape) == 2 else swapaxes(b, -1, -2)), g, [b])


@matmul.vjp(1)
def matmul_db(g: Value, out: Value, a: Value, b: Value) -> Value:
    if len(a.shape) == 1:
        return scaled(g, a) if len(b.shape) == 1 else scaled(g[..., None, :], a[:, None])
    if len(b.shape) <= 2:
        # one product over all leading axes, instead of one for each and a sum
        if len(a.shape) > 2:
            rows = math.prod(a.shape[:-1])
            a, g = reshape_(a, shape=(rows, a.shape[-1])), reshape_(g, shape=(rows, *b.shape[1:]))
        return absorbing(lambda g, a: matmul(a.T, g), g, [a])
    return absorbing(lambda g, a: matmul(swapaxes(a, -1, -2), g), g, [a])


@matmul.batch
def matmul_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    """Time has to come first among the leading axes, which broadcast; or it makes vectors a the rows of a matrix.

    Both stacked: (T, n, k) @ (T, k, m), with equally many axes before n and k. Only a: (T, n, k) @ (k, m) or (k,), and
    (T, k) @ (k, m) or (k,). Only b: (n, k) or (k,) @ (T, k, m). Not (T, k) @ (T, k), (T, k) @ (T, k, m),
    (n, k) @ (T, k), nor where what is not stacked has more axes: (T, n, k) @ (p, k, m).
    """
    a, b = (len(shape) for shape in shapes)
    fits = a == b >= 2 if all(stacked) else b <= max(a, 2) if stacked[0] else a <= b >= 2
    return static if fits else None


@matmul.rows
def matmul_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    """Axis 0 is a leading axis of the product, or the rows of a matrix a."""
    a, b = (len(shape) for shape in shapes)
    if all(aligned):
        return a == b >= 3
    other = shapes[1 if aligned[0] else 0]
    if a == b >= 3 and other[0] == 1:
        return True  # it is the same for all rows
    return b < max(a, 3) and a >= 2 if aligned[0] else a < b >= 3


def dot(a: Any, b: Any) -> Any:
    """NumPy's dot: products summed over the last axis of a and the last but one of b; with a number, it multiplies.

    >>> import minigrad as mg
    >>> float(mg.dot([1.0, 2.0], [3.0, 4.0]))
    11.0
    """
    a, b = as_value("dot", a), as_value("dot", b)
    if not a.shape or not b.shape:
        return multiply(a, b)
    if len(b.shape) <= 2:
        return matmul(a, b)
    columns = moveaxis(b, -2, 0)
    product = matmul(a, reshape_(columns, shape=(b.shape[-2], math.prod(columns.shape[1:]))))
    return reshape_(product, shape=(*a.shape[:-1], *columns.shape[1:]))


def outer(a: Any, b: Any) -> Any:
    """The products of every element of a with every element of b, both flattened: (n,), (m,) to (n, m).

    >>> import minigrad as mg
    >>> mg.outer([1.0, 2.0], [3.0, 4.0])
    array([[3., 4.],
           [6., 8.]])
    """
    a, b = as_value("outer", a), as_value("outer", b)
    return multiply(reshape_(a, shape=(-1, 1)), reshape_(b, shape=(1, -1)))


# ---- einsum --------------------------------------------------------------------------------------------------------


@primitive(linear="each")
def einsum_(xp: Any, *operands: Array, inputs: tuple[str, ...], output: str) -> Array:
    subscripts = ",".join(inputs) + "->" + output
    return xp.einsum(subscripts, *operands, optimize=True) if len(operands) > 2 else xp.einsum(subscripts, *operands)


@einsum_.vjp_all
def einsum_doperands(g: Value, out: Value, values: Any, static: Any, wanted: Any) -> list[Value | None]:
    inputs, output = static["inputs"], static["output"]
    return [
        None if want is None else _einsum_doperand(k, g, list(values), list(inputs), output)
        for k, want in enumerate(wanted)
    ]


@einsum_.batch
def einsum_batch(static: Static, shapes: Shapes, stacked: Flags) -> Static | None:
    inputs, output = static["inputs"], static["output"]
    time = next((label for label in _LABELS if label not in "".join(inputs)), None)
    if time is None:
        return None
    names = tuple(time + labels if moves else labels for labels, moves in zip(inputs, stacked, strict=True))
    return {"inputs": names, "output": time + output}


@einsum_.rows
def einsum_rows(static: Static, shapes: Shapes, aligned: Flags) -> bool:
    row = static["output"][:1]
    return all(
        labels[:1] == row and row not in labels[1:] if rows else row not in labels
        for labels, rows in zip(static["inputs"], aligned, strict=True)
    )


def _einsum_doperand(k: int, g: Value, values: list[Value], inputs: list[str], output: str) -> Value:
    """The gradient of operand k: the same sum with the cotangent in its place.

    A label that nothing else carries was summed away: ones bring it back. A label that the operand carries twice is a
    diagonal: the identity puts the gradient on it.
    """
    xp = backend_of(constant(values[k])).xp
    x, labels = values.pop(k), inputs.pop(k)
    factors, names = [g, *values], [output, *inputs]
    wanted = ""
    for axis, label in enumerate(labels):
        n = x.shape[axis]
        if label in wanted:
            twin = next(c for c in _LABELS if c not in "".join(names) + labels + wanted)
            factors.append(xp.eye(n, dtype=x.dtype))
            names.append(label + twin)
            wanted += twin
        else:
            if label not in "".join(names):
                factors.append(xp.ones(n, dtype=x.dtype))
                names.append(label)
            wanted += label
    gradient = absorbing(lambda *arrays: einsum_(*arrays, inputs=tuple(names), output=wanted), g, factors[1:])
    stretched = tuple(a for a, n in enumerate(x.shape) if n == 1 and gradient.shape[a] != 1)
    if stretched:  # this operand was, to the others' size
        gradient = gradient.sum(axis=stretched, keepdims=True)
    if gradient.shape != x.shape:  # the others were, to this operand's
        gradient = broadcast_to_(gradient, shape=tuple(x.shape))
    return gradient if gradient.dtype == x.dtype else gradient.astype(x.dtype)


_LABELS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein's summation, NumPy's string form: implicit or explicit output, repeated labels, ellipsis.

    float16 is summed in float32. Raises ValueError for subscripts that do not fit the operands, TypeError for NumPy's
    form with lists of axes.

    >>> import minigrad as mg
    >>> mg.einsum("ij,j->i", [[1.0, 2.0], [3.0, 4.0]], [1.0, 10.0])
    array([21., 43.])
    """
    if not isinstance(subscripts, str):
        raise TypeError(
            "minigrad.einsum takes its subscripts first, as a string: einsum('ij->i', x) for einsum(x, [0, 1], [0]); "
            f"got {type(subscripts).__name__}"
        )
    operands = tuple(as_value("einsum", x) for x in operands)
    inputs, output = _parse(subscripts, [len(x.shape) for x in operands])
    if {x.dtype.char for x in operands} != {HALF}:
        return einsum_(*operands, inputs=inputs, output=output)
    operands = tuple(astype(x, "float32") for x in operands)
    return astype(einsum_(*operands, inputs=inputs, output=output), "float16")


def _parse(subscripts: str, ranks: list[int]) -> tuple[tuple[str, ...], str]:
    """The labels of each operand and of the output, with every ellipsis spelt out."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ranks):
        raise ValueError(f"minigrad.einsum: {subscripts!r} has {len(inputs)} operands, got {len(ranks)}")
    counts = [rank - len(labels.replace("...", "")) for labels, rank in zip(inputs, ranks, strict=True)]
    for labels, count, rank in zip(inputs, counts, ranks, strict=True):
        if count < 0 or (count and "..." not in labels):
            raise ValueError(f"minigrad.einsum: {labels!r} in {subscripts!r} does not fit {rank} dimensions")
    free = [c for c in reversed(_LABELS) if c not in subscripts]
    width = max([count for labels, count in zip(inputs, counts, strict=True) if "..." in labels], default=0)
    dots = "".join(free[:width])
    inputs = [labels.replace("...", dots[width - count :]) for labels, count in zip(inputs, counts, strict=True)]
    if arrow:
        output = right.replace("...", dots)
    else:
        every = "".join(inputs)
        output = dots + "".join(sorted(c for c in set(every) - set(dots) if every.count(c) == 1))
    return tuple(inputs), output
