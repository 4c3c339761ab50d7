"""From a call of scan to its compiled form: traced once, twice where it is new, and kept by what was traced."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad import random
from minigrad.backend import Backend, backend_of, default_backend
from minigrad.scan import rewrite
from minigrad.scan.compiled import CompiledScan, Counters
from minigrad.scan.names import LocalNames, name_values
from minigrad.scan.problem import Problem
from minigrad.scan.purity import Seen
from minigrad.scan.rows import find_alignment
from minigrad.scan.symbol import Symbol, current
from minigrad.scan.trace import Body, Trace, traced
from minigrad.tape import Value, constant

CACHE_SIZE = 256
"""Compiled scans that are kept, the least recently used one first to go."""

_cache: OrderedDict[Any, CompiledScan] = OrderedDict()
_lock = threading.Lock()


class Info(NamedTuple):
    """Counts since the process began: bodies traced, programs compiled, programs run."""

    traces: int
    compilations: int
    runs: int


def info() -> Info:
    """How often scan traced, compiled and ran.

    >>> from minigrad.scan import info
    >>> info().runs >= 0
    True
    """
    return Info(Counters.traces, Counters.compilations, Counters.runs)


def clear_cache() -> None:
    """Forget every compiled scan."""
    with _lock:
        _cache.clear()


class Traced(NamedTuple):
    """A traced body, the values that it captured, and what draws its random numbers."""

    scan: CompiledScan
    captured: list[Value]
    draws: list[Callable[[tuple[int, ...]], Any]]


def compiled(problem: Problem, enter: Callable[[int], None]) -> Traced:
    """The compiled form of a problem's body; `enter` begins a step of its random numbers."""
    backend = _backend(problem.elems, problem.carry.leaves)
    trace, body = _trace(problem, backend, enter)
    key = (
        backend.name, problem.reverse, problem.rows is not None, tuple(trace.code),
        *[tuple([s.number for s in part]) for part in body],
    )  # fmt: skip
    with _lock:
        found = _cache.get(key)
        if found is not None:
            _cache.move_to_end(key)
    if found is None:
        seen = Seen(trace, body)
        with LocalNames() as local:
            again, same = _trace(problem, backend, enter, lines=True)
        seen.check(again, same)
        name_values(problem, again, same, local)
        again.forget()
        alignment = None
        if problem.rows is not None:
            given = [True] * len(problem.elems) + [False] * len(trace.drawn)
            alignment = find_alignment(rewrite.forward(same, backend), len(problem.rows), given)
        found = CompiledScan(same, backend, problem.reverse, alignment)
        with _lock:
            _cache[key] = found
            while len(_cache) > CACHE_SIZE:
                _cache.popitem(last=False)
    return Traced(found, trace.values, trace.draws)


def _backend(*parts: Sequence[Value]) -> Backend:
    for part in parts:
        for leaf in part:
            array = constant(leaf)
            if array.__class__ is not Symbol:
                return backend_of(array)
    outer = current.get()
    return default_backend() if outer is None else outer.backend


def _trace(problem: Problem, backend: Backend, enter: Callable[[int], None], lines: bool = False) -> tuple[Trace, Body]:
    Counters.traces += 1
    enter(0)
    at = random.path()

    def take(make: Callable[[tuple[int, ...]], Any]) -> Any:
        trace = current.get()
        assert trace is not None  # noqa: S101  # draws are deferred in a trace only
        inside = random.path()[len(at) :]  # of loops that this trace unrolls
        return trace.draw(lambda path: make(path + inside), np.asarray(make(at + inside)))

    with random.deferred(take):
        return traced(backend, problem.call, problem.carry.leaves, problem.elems, lines)
