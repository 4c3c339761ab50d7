"""What the user calls the values of a body, so that its program can be read.

Names are looked for where a new program is made. They stand on its symbols, and are no part of what tells bodies apart.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import keyword
import os
import re
import sys
import types
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from minigrad import tree
from minigrad.ops.elementwise import multiply
from minigrad.ops.indexing import getitem_
from minigrad.ops.linalg import matmul
from minigrad.scan.problem import Problem
from minigrad.scan.symbol import CONSTANT, Symbol, is_elementwise
from minigrad.scan.trace import Body, Trace, order_of
from minigrad.tape import Box

Keys = tuple[str | int, ...]  # the names and numbers through which a value is reached

LOOKED_AT, PARTS = 1000, 100
"""Objects behind a function that are looked at in search of what it captured, and parts of each."""

LONGEST, LONGEST_MADE = 32, 20
"""Characters of a name that was found, and of one that is put together."""


def name_values(problem: Problem, trace: Trace, body: Body, local: LocalNames) -> None:
    """Name the symbols of a body which `trace` has just made, while `local` was watching."""
    _name_inputs(problem, body, local)
    _name_captured(problem.fn, trace, local)
    leaves = set(body.leaves)
    given = set(leaves)
    order = [node for node in order_of(body.results, body.leaves) if node.trace is trace.token]
    for node in order:
        node.name = node.name or local.name_of(node)
        if node.name:
            given.add(node)
    for old, new in zip(body.carry, body.next, strict=True):
        if new.trace is trace.token and new not in leaves and (new not in given or new.name == old.name):
            new.name = f"{old.name}_next"
            given.add(new)
    name_by_inputs(order)


def name_by_inputs(order: Sequence[Symbol]) -> None:
    """Name what the user has no name for after what it is made of, where that is short: `tanh_c`, `x_W`."""
    for node in order:
        if node.name is None:
            name = _by_inputs(node)
            node.name = identifier(name) if name is not None and len(name) <= LONGEST_MADE else None


def _name_inputs(problem: Problem, body: Body, local: LocalNames) -> None:
    """Name the leaves of the state and of elems: by their keys, or as the function calls what has none."""
    parameters, known = _parameters(problem.fn)
    structures = (problem.carry.structure, problem.structure)
    for structure, leaves, parameter in zip(structures, (body.carry, body.elems), parameters, strict=True):
        paths = list(_paths(structure, (parameter,)))
        for leaf, path, name in zip(leaves, paths, _names(paths), strict=False):
            has_name = isinstance(path[-1], str) and (len(path) > 1 or known)
            leaf.name = name if has_name else local.name_of(leaf, of_part=False) or name
        for leaf in leaves[len(paths) :]:
            leaf.name = local.name_of(leaf) or "draw"


def _name_captured(fn: Any, trace: Trace, local: LocalNames) -> None:
    """Name what came from outside: as it calls itself, or as the variable, key or attribute behind `fn`."""
    arrays = [_array_of(value) for value in trace.values]
    paths: list[Keys] = [()] * len(arrays)
    places = {id(array): place for place, array in enumerate(arrays)}
    for path, array in _reached(fn):
        place = places.get(id(array))
        if place is not None and not paths[place]:
            paths[place] = path
            if all(path or not leaf.shape for path, leaf in zip(paths, trace.captured, strict=True)):
                break  # what is left are numbers, most likely
    for place, value in enumerate(trace.values):
        own = getattr(value, "name", None)
        if isinstance(own, str) and own:
            paths[place] = (*paths[place][:-1], own)
    for leaf, array, path, name in zip(trace.captured, arrays, paths, _names(paths), strict=True):
        has_name = bool(path) and isinstance(path[-1], str)
        leaf.name = name if has_name else local.name_of(array, of_part=False) or name
        if leaf.name is None and not leaf.shape:
            leaf.name = "number"


def _by_inputs(node: Symbol) -> str | None:
    names = [i.name for i in node.inputs if i.op is not CONSTANT]
    if not names or None in names:
        return None
    if node.op is matmul:
        return "_".join(map(str, names))
    if node.op is getitem_:
        return f"{names[0]}_part"
    if node.op is multiply and len(names) == 1:
        return f"{names[0]}_scaled"  # by a number of the program
    if len(node.inputs) == 1 and is_elementwise(node.op):
        return f"{node.op.name.rstrip('_')}_{names[0]}"
    return None


# ---- from paths to names -------------------------------------------------------------------------------------------


def identifier(text: str) -> str | None:
    """Text as a name of Python, or None if nothing is left of it."""
    name = re.sub(r"\W", "_", unicodedata.normalize("NFKC", text))[:LONGEST]
    if name[:1].isdigit():
        name = f"v{name}"
    if not name.isidentifier():
        name = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if not name.strip("_"):
        return None
    return f"{name}_" if keyword.iskeyword(name) else name


def _names(paths: Sequence[Keys]) -> list[str | None]:
    """The end of each path as a name: as much of it as tells it from the others."""
    endings = [_endings(path) for path in paths]
    uses = Counter(itertools.chain.from_iterable(endings))
    return [next((end for end in ends if uses[end] == 1), ends[-1] if ends else None) for ends in endings]


def _endings(path: Keys) -> list[str]:
    """Names for a path, the shortest first: layers[1].W is `W`, then `layers1_W`."""
    found: list[str] = []
    for start in reversed(range(len(path))):
        if isinstance(path[start], str):
            text = "".join([str(part) if isinstance(part, int) else f"_{part}" for part in path[start:]])
            name = identifier(text[1:])
            if name is not None and name not in found:
                found.append(name)
    return found


def _paths(structure: tree.Structure, start: Keys) -> Iterator[Keys]:
    """The path of every leaf of a tree."""
    if structure.kind is None:
        yield start
    for key, child in zip(structure.keys, structure.children, strict=True):
        yield from _paths(child, (*start, key if isinstance(key, int) else str(key)))


# ---- what a function reaches ---------------------------------------------------------------------------------------


def _parameters(fn: Any) -> tuple[tuple[str, str], bool]:
    """What a function calls the state and the elems, and whether a user gave it these names."""
    try:
        first, second = itertools.islice(inspect.signature(fn).parameters.values(), 2)
    except (TypeError, ValueError):
        return ("state", "x"), False
    if inspect.Parameter.VAR_POSITIONAL in (first.kind, second.kind):
        return ("state", "x"), False
    code = getattr(fn, "__code__", None)
    return (first.name, second.name), code is None or _is_users(code)


def _reached(fn: Any) -> Iterator[tuple[Keys, Any]]:
    """The arrays that a function reaches and the paths to them, the nearest first."""
    waiting: deque[tuple[Keys, Any]] = deque([((), fn)])
    seen: dict[int, Any] = {}
    while waiting and len(seen) < LOOKED_AT:
        path, item = waiting.popleft()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        array = _array_of(item)
        if array is not None:
            yield path, array
            continue
        try:
            parts = list(itertools.islice(_parts(item), PARTS))
        except Exception:  # noqa: BLE001, S112  # an object that does not like to be looked at is worth no error
            continue
        waiting += [(path if key is None else (*path, key), part) for key, part in parts]


def _array_of(item: Any) -> Any:
    """The array that something is, or holds as a tensor."""
    if issubclass(type(item), Box):
        return item.array
    return item if hasattr(type(item), "__array__") or type(item) is Symbol else None


def _parts(item: Any) -> Iterator[tuple[str | int | None, Any]]:
    """What can be reached from an object in one step, by which name or number (None: by itself)."""
    kind = type(item)
    if issubclass(kind, types.FunctionType):
        yield from _parts_of_function(item)
    elif issubclass(kind, types.MethodType):
        yield None, item.__self__
        yield None, item.__func__
    elif issubclass(kind, functools.partial):
        yield from item.keywords.items()
        code = getattr(item.func, "__code__", None)
        yield from zip(code.co_varnames if code else itertools.count(), item.args, strict=False)
        yield None, item.func
    elif issubclass(kind, dict):
        yield from ((key if isinstance(key, int) else str(key), part) for key, part in item.items())
    elif issubclass(kind, tuple | list):
        yield from zip(getattr(kind, "_fields", itertools.count()), item, strict=False)
    elif not issubclass(kind, type | types.ModuleType | types.CodeType):
        yield from list(getattr(item, "__dict__", {}).items())
        yield from ((name, getattr(item, name, None)) for name in getattr(kind, "__slots__", ()))
        yield None, vars(kind).get("__call__")


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str | None, Any]]:
    code = function.__code__
    if not _is_users(code) and "<locals>" not in function.__qualname__:
        return  # a function of minigrad's own has nothing of the user's, a closure may
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from (function.__kwdefaults__ or {}).items()
    defaults = function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    if _is_users(code):
        for name in _global_names(code):
            if name in function.__globals__:
                yield name, function.__globals__[name]


def _global_names(code: types.CodeType) -> Iterator[str]:
    """The global names that a function uses, also in the functions that it makes."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _global_names(inner)


# ---- local variables -----------------------------------------------------------------------------------------------

_OURS, _NUMPYS = (f"{Path(file).parents[up]}{os.sep}" for file, up in ((__file__, 1), (np.__file__, 0)))
_CELLS = f"{_OURS}nn{os.sep}"


def _is_users(code: types.CodeType) -> bool:
    """Whether a function is a user's, or the equations of a cell or layer of `minigrad.nn`."""
    path = code.co_filename
    if path.startswith(_CELLS):
        return code.co_name == "__call__"
    return not path.startswith((_OURS, _NUMPYS))


class _Found(NamedTuple):
    name: str
    rank: int  # 0: a variable of its own, 1: a parameter, which has another name elsewhere, 2: part of something
    array: Any  # kept, so that its id stays its own


class LocalNames:
    """In a `with` block: notes the local variables of the user's functions that run in it and hold tensors.

    A profile function sees them, whenever one of these functions calls another or returns. Where a debugger, a
    profiler or a coverage tool is at work already, nothing is noted, and nobody is disturbed.
    """

    def __init__(self) -> None:
        self._found: dict[int, _Found] = {}
        self._users: dict[types.CodeType, bool] = {}

    def __enter__(self) -> Self:
        self._watching = sys.getprofile() is None and sys.gettrace() is None
        if self._watching:
            self._look = self._looked  # one object, to be recognised
            sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self._watching and sys.getprofile() is self._look:
            sys.setprofile(None)

    def name_of(self, array: Any, of_part: bool = True) -> str | None:
        """The name of an array, if a local variable held it (or, with `of_part`, a tuple, list or dict with it)."""
        found = self._found.get(id(array))
        return None if found is None or (found.rank == 2 and not of_part) else found.name

    def _looked(self, frame: types.FrameType | None, event: str, _: Any) -> None:
        if event == "call":  # before the caller uses a name for something else
            frame = frame.f_back if frame is not None else None
        elif event != "return":
            return
        if frame is None or frame.f_locals is frame.f_globals:
            return
        code = frame.f_code
        users = self._users.get(code)
        if users is None:
            users = self._users[code] = _is_users(code)
        if users:
            parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            for name, value in frame.f_locals.items():
                self._note(name, value, int(name in parameters))

    def _note(self, name: str, value: Any, rank: int) -> None:
        kind = type(value)
        if issubclass(kind, Box):
            known = self._found.get(id(value.array))
            if known is None or known.rank > rank:
                text = identifier(name)
                if text is not None:
                    self._found[id(value.array)] = _Found(text, rank, value.array)
        elif rank < 2 and (kind in (list, dict) or issubclass(kind, tuple)) and len(value) <= PARTS:
            for key, part in _parts(value):
                self._note(key if isinstance(key, str) else f"{name}{key}", part, 2)
