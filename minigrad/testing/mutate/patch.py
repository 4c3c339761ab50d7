"""Putting something wrong in the place of something right, for as long as a block runs."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Patch:
    """A mutant of code that is no rule: within `apply()` the mutant is in place; `check` must then raise.

    `check` passes on the right code: a cheap test, by name the one that is meant to notice.
    """

    name: str
    apply: Callable[[], AbstractContextManager[Any]]
    check: Callable[[], Any]

    def __repr__(self) -> str:
        return self.name


@contextmanager
def patched(function: Any, mutant: Any) -> Iterator[None]:
    """Within the block, every module that has `function` under some name has `mutant` there instead.

    So a mutant reaches those who imported the function by name. Only modules of the function's own package are
    looked at. Raises ValueError where no module has the function: nothing would be mutated.

    >>> from minigrad.testing import compare, mutate
    >>> with mutate.patched(compare.integers, lambda rng, shape: "no integers"):
    ...     compare.integers(None, (2,))
    'no integers'
    """
    package = function.__module__.partition(".")[0]
    modules = [m for name, m in list(sys.modules.items()) if name.partition(".")[0] == package]
    places = [(vars(m), name) for m in modules for name, value in list(vars(m).items()) if value is function]
    if not places:
        raise ValueError(f"no module of {package!r} has {function!r} among its names, so there is nothing to replace")
    for names, name in places:
        names[name] = mutant
    try:
        yield
    finally:
        for names, name in places:
            names[name] = function


@contextmanager
def edited(function: FunctionType, old: str, new: str) -> Iterator[None]:
    """Within the block, `function` does what its source says with `old` replaced by `new`.

    The function object stays, so the mutant reaches whoever holds it: tables, classes, other modules. Raises ValueError
    unless `old` stands in the source exactly once, so that no mutant outlives the line that it was made for, and for a
    function with a closure.

    >>> import numpy as np
    >>> from minigrad.testing import compare, mutate
    >>> with mutate.edited(compare.copies, "np.array(a)", "np.zeros_like(a)"):
    ...     compare.copies([np.ones(2), 1.0])
    [array([0., 0.]), 1.0]
    """
    code = function.__code__
    text = textwrap.dedent(inspect.getsource(function))
    if text.count(old) != 1:
        raise ValueError(f"{old!r} stands {text.count(old)} times in the source of {function.__qualname__}, not once")
    if code.co_freevars:
        raise ValueError(f"{function.__qualname__} has a closure ({', '.join(code.co_freevars)}): it cannot be edited")
    module = compile("from __future__ import annotations\n" + text.replace(old, new), code.co_filename, "exec")
    function.__code__ = next(c for c in module.co_consts if isinstance(c, CodeType) and c.co_name == code.co_name)
    try:
        yield
    finally:
        function.__code__ = code


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block, `owner` has this attribute (of its own)."""
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
