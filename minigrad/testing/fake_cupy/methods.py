"""The methods of device arrays: those of NumPy's that CuPy has, with CuPy's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.testing.fake_cupy.arguments import bind, by_name, check_is_array, check_kinds, check_positions
from minigrad.testing.fake_cupy.counting import launched, synchronised
from minigrad.testing.fake_cupy.device_array import (
    StrictArray,
    check_cast,
    check_dtype,
    host_of,
    launched_unless_view,
    quietly,
    unwrap,
    wrap,
)
from minigrad.testing.fake_cupy.names import NAMES, signature

HOST_RESULT = frozenset("item tolist tobytes".split())
SYNCHRONISING = frozenset("item tolist tobytes nonzero compress".split())
# What works in place, or on files and bytes: xp.sort(a), xp.put(a, ...) and the like say it for both libraries.
NOT_OFFERED = frozenset("dump dumps tofile put choose byteswap partition sort searchsorted".split())
NEEDS_ARRAY = frozenset("dot compress".split())  # the first argument


def _method(name: str, arguments: str) -> Callable[..., Any]:
    expected = signature(arguments)
    function = getattr(np.ndarray, name)
    caller = f"ndarray.{name}"

    def call(self: StrictArray, *args: Any, **kwargs: Any) -> Any:
        bound = bind(caller, expected, args, kwargs)
        _check(name, self, bound.arguments)
        check_kinds(caller, by_name(bound))
        if name in SYNCHRONISING:
            synchronised(f"{name}()")
        inputs = [unwrap(value, caller) for value in args]
        options = {key: unwrap(value, caller) for key, value in kwargs.items()}
        with quietly():
            result = function(host_of(self), *inputs, **options)
        if name in HOST_RESULT:
            return result
        if bound.arguments.get("out") is not None:
            launched(name)
            return bound.arguments["out"]
        launched_unless_view(name, result, [host_of(self)])
        return wrap(result, name, host_of(self), *inputs)

    call.__name__ = name
    return call


def _check(name: str, array: StrictArray, arguments: dict[str, Any]) -> None:
    """Raise for arguments that CuPy's method refuses, or that leave its result undefined."""
    first = next(iter(arguments.values()), None)
    if name in NEEDS_ARRAY:
        check_is_array(f"ndarray.{name}", first)
    elif name == "take":
        check_positions("ndarray.take", first)
    elif name == "repeat" and isinstance(first, StrictArray):
        synchronised("repeat() by a device array")  # the result's shape must be known to the host
    elif name == "astype":
        check_dtype(first)
        check_cast(host_of(array), first)
        if arguments.get("casting") is not None or arguments.get("subok") is not None:
            raise TypeError("cupy.ndarray.astype does not support casting= or subok=")


for _name, _arguments in NAMES["method"].items():
    if hasattr(np.ndarray, _name) and _name not in NOT_OFFERED and not hasattr(StrictArray, _name):
        setattr(StrictArray, _name, _method(_name, _arguments))
