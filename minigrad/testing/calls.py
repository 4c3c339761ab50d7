"""Calling functions and rules that are under test: on copies, twice, and saying what they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.testing.compare import copies, map_result, same_bits
from minigrad.testing.numeric import flatten, is_float, leaves
from minigrad.testing.report import Context, NondeterministicError, literal


def forward(context: Context, f: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Run `f` twice on copies: it must leave its arguments alone and answer the same both times."""
    given = copies(args)
    out, again = f(*given), f(*copies(args))
    if not leaves(out):
        context.fail("forward", f"the function returned no floating-point array, but {type(out).__name__}")
    for k, (before, after) in enumerate(zip(args, given, strict=True)):
        if isinstance(before, np.ndarray) and not same_bits(before, after):
            context.fail("forward", f"the function wrote into its argument {k}")
    if not same_bits(flatten(out), flatten(again)):
        context.fail(
            "forward",
            "the function gives two different results for the same arguments",
            error=NondeterministicError,
            hints=["fix the seed of what is random inside, or draw it outside and pass it in"],
        )
    return out


def call_rule(
    context: Context, vjp: Callable[..., Any], g: Any, out: Any, args: Sequence[Any], argnums: Sequence[int]
) -> list[Any]:
    """Call the rule on copies, demand one gradient an argument, and that the copies are as they were."""
    given, g_given, out_given = copies(args), map_result(np.array, g), copy_result(out)
    grads = vjp(g_given, out_given, *given)
    grads = tuple(grads) if isinstance(grads, (tuple, list)) else (grads,)
    if len(grads) != len(args):
        context.fail("vjp", f"the rule returned {len(grads)} gradients for {len(args)} arguments; it needs one each")
    for what, before, after in (
        ("its cotangent", flatten(g), flatten(g_given)),
        ("the function's result", flatten(out), flatten(out_given)),
        *((f"argument {k}", a, b) for k, (a, b) in enumerate(zip(args, given, strict=True)) if is_float_array(a)),
    ):
        if not same_bits(before, after):
            context.fail("vjp", f"the rule wrote into {what}")
    for k in argnums:
        if grads[k] is None:
            context.fail("vjp", f"the rule returned None for argument {k}; a gradient of zero is an array of zeros")
    return [np.asarray(grads[k]) for k in argnums]


def copy_result(out: Any) -> Any:
    return type(out)(map(copy_result, out)) if isinstance(out, (tuple, list)) else np.array(out)


def chosen_arguments(args: Sequence[Any], argnums: Sequence[int] | None) -> list[int]:
    floating = [k for k, a in enumerate(args) if is_float_array(a)]
    if not floating:
        raise TypeError("there is nothing to check: no argument is a floating-point array")
    for k in argnums or ():
        if k not in floating:
            raise TypeError(f"argument {k} cannot be checked: the floating-point arrays are arguments {floating}")
    return floating if argnums is None else list(argnums)


def is_float_array(x: Any) -> bool:
    return hasattr(x, "dtype") and is_float(x)


def name_of(f: Callable[..., Any]) -> str:
    name = getattr(f, "__name__", type(f).__name__)
    return "f" if name == "<lambda>" else name


def describe(args: Sequence[Any], g: Any) -> str:
    shapes = [f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else literal(a) for a in args]
    cotangents = [str(list(np.shape(leaf))) for leaf in leaves(g)]
    return f"arguments {', '.join(shapes)}; cotangent {', '.join(cotangents)}"


def reproduce(check: str, f: Any, args: Sequence[Any], rest: str, argnums: Sequence[int] | None) -> str:
    name = name_of(f)
    name = f"np.{name}" if getattr(np, name, None) is f else name
    chosen = "" if argnums is None else f", argnums={tuple(argnums)}"
    return f"{check}({', '.join([name, *map(literal, args)])}, {rest}{chosen})"
