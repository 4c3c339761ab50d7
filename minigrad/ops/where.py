"""`where`: choose, element by element, between two values, and keep their gradients apart."""

from __future__ import annotations

from typing import Any

from minigrad.ops.op import boxed_like, broadcast_batch, broadcast_rows, primitive
from minigrad.tape import Array, Value, constant


@primitive(linear="jointly")
def where_(xp: Any, condition: Array, x: Array, y: Array) -> Array:
    return xp.where(condition, x, y)


@where_.vjp(1)
def where_dx(g: Value, out: Value, condition: Value, x: Value, y: Value) -> Value:
    return where_(condition, g, 0.0)


@where_.vjp(2)
def where_dy(g: Value, out: Value, condition: Value, x: Value, y: Value) -> Value:
    return where_(condition, 0.0, g)


where_.batch(broadcast_batch)
where_.rows(broadcast_rows)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, y elsewhere; the three broadcast, and the condition has no derivative.

    The branch that is not taken cannot poison a gradient, even where it is infinite or NaN: see `multiply`, `log`.

    >>> import minigrad as mg
    >>> x = mg.tensor([0.0, 1.0], requires_grad=True)
    >>> y = mg.where(x.data > 0, mg.sqrt(x), 0.0)
    >>> y.backward([1.0, 1.0])
    >>> x.grad
    array([0. , 0.5])
    """
    return boxed_like(where_(constant(condition), x, y), condition)
