"""Module: an object whose parameters are the tensors among its attributes, found by their path.

There is nothing to register and nothing to override: assign tensors, and modules that have some, to attributes.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Self

import numpy as np

from minigrad.backend import backend_of, get_backend
from minigrad.ops.op import as_value
from minigrad.tape import Array, Leaf, Value, constant
from minigrad.tensor import Tensor, tensor


class Module:
    """An object that holds tensors in its attributes, in modules among them, in containers and in dataclasses.

    Containers are lists, tuples, deques, dicts and named tuples. A cell of a class of its own, with `zero_state`, is
    looked into like a module. Slots are attributes.

    Paths join names with dots, in the order in which attributes were assigned: "W_x", "layers.0.b". A tensor that is
    reached twice appears once, under its first path; so tied weights are one parameter. TypeError for a parameter in
    what gives it no path: in a set, an object of another class, or an attribute of the class itself.

    >>> import minigrad as mg
    >>> class Net(mg.nn.Module):
    ...     def __init__(self):
    ...         self.layers = [mg.nn.Linear(3, 4, seed=0), mg.nn.Linear(4, 2, bias=False, seed=1)]
    >>> Net()
    Net: 24 parameters
      layers.0.W  (3, 4)  float32
      layers.0.b  (4,)    float32
      layers.1.W  (4, 2)  float32
    """

    def parameters(self) -> dict[str, Tensor]:
        """The tensors that require a gradient, by path. They are the tensors themselves, not copies.

        >>> import minigrad as mg
        >>> list(mg.nn.RNNCell(2, 3).parameters())
        ['W_x', 'W_h', 'b']
        """
        return {path: t for path, t in tensors_of(self).items() if isinstance(t.record, Leaf)}

    def state_dict(self) -> dict[str, Array]:
        """Copies of the arrays of all parameters, and of constant tensors, by path: what a checkpoint needs.

        >>> import minigrad as mg
        >>> mg.nn.Linear(1, 2).state_dict()["b"]
        array([0., 0.], dtype=float32)
        """
        return {path: t.array.copy() for path, t in _stored(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over copies of the arrays of a `state_dict`, from any backend; gradients of the old values are dropped.

        ValueError, which lists every missing and unexpected path and every other shape or dtype; then nothing changed.

        >>> import minigrad as mg
        >>> layer, other = mg.nn.Linear(1, 2, seed=0), mg.nn.Linear(1, 2, seed=1)
        >>> layer.load_state_dict(other.state_dict())
        >>> bool((layer.W == other.W).all())
        True
        """
        tensors = _stored(self)
        arrays = checked_state(type(self).__name__, {path: t.array for path, t in tensors.items()}, state)
        for path, t in tensors.items():
            t.data = arrays[path]
            if t.requires_grad:
                t.grad = None

    def astype(self, dtype: Any) -> Self:
        """A copy of this module whose floating tensors have another dtype; like an array's, this one stays as it is.

        So give the copy's parameters to the optimiser. TypeError for a dtype that is not floating.

        >>> import minigrad as mg
        >>> cell = mg.nn.GRUCell(2, 3)
        >>> cell = cell.astype("float64")
        >>> cell.b.dtype
        dtype('float64')
        """
        dtype = as_float_dtype(dtype)

        def convert(t: Tensor) -> Tensor:
            return tensor(t, dtype if t.dtype.kind == "f" else None, t.requires_grad, t.name)

        return self._converted(convert)

    def to(self, backend: str) -> Self:
        """A copy of this module whose tensors lie on another backend; this one stays as it is.

        ValueError for an unknown backend, RuntimeError for one that cannot be used here.

        >>> import minigrad as mg
        >>> mg.nn.Linear(1, 2).to("numpy").W.backend.name
        'numpy'
        """
        get_backend(backend)
        return self._converted(lambda t: t.to(backend))

    def _converted(self, convert: Callable[[Tensor], Tensor]) -> Self:
        return copy.deepcopy(self, {id(t): convert(t) for t in tensors_of(self).values()})

    def __repr__(self) -> str:
        parameters = self.parameters()
        rows = [(path, str(p.shape), str(p.dtype)) for path, p in parameters.items()]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        lines = [f"{type(self).__name__}: {sum(p.size for p in parameters.values()):,} parameters"]
        lines += [f"  {path.ljust(widths[0])}  {shape.ljust(widths[1])}  {dtype}" for path, shape, dtype in rows]
        return "\n".join(lines)


# ---- finding tensors -----------------------------------------------------------------------------------------------


def tensors_of(item: Any) -> dict[str, Tensor]:
    """Every tensor in a module, container or dataclass, by its path; what is reached twice, by its first path.

    ValueError where two tensors would have one path, TypeError for a parameter that has none.
    """
    found: dict[str, Tensor] = {}
    others = []
    for path, part in walk(item):
        if not isinstance(part, Tensor):
            others.append((path, part))
        elif path in found:
            raise ValueError(f"two tensors have the path {path!r}; rename a key or an attribute")
        else:
            found[path] = part
    _refuse_hidden(others, found.values())
    return found


_PLAIN = {type(None), bool, int, float, str, bytes}  # a vocabulary has many, and there is nothing in them


def walk(item: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """An object and all that is in it, each once, by its first path; but for numbers and strings."""
    seen = set() if seen is None else seen
    if id(item) in seen or type(item) in _PLAIN:
        return
    seen.add(id(item))
    yield path, item
    for name, child in children(item):
        yield from walk(child, f"{path}.{name}" if path else str(name), seen)


def is_module(item: Any) -> bool:
    """Whether an object's attributes are looked at for tensors: a Module, or a cell of somebody's own class."""
    return isinstance(item, Module) or (hasattr(type(item), "zero_state") and not isinstance(item, type))


def children(item: Any) -> Iterable[tuple[Any, Any]]:
    """The parts of a module, a dataclass or a container, by name; of anything else, none."""
    if _has_attributes(item):
        yield from attributes(item).items()
    if isinstance(item, dict):
        yield from item.items()
    elif isinstance(item, list | tuple | deque):
        yield from zip(getattr(item, "_fields", range(len(item))), item, strict=True)


def attributes(item: Any) -> dict[str, Any]:
    """What a copy of an object would hold: what is in its `__dict__`, in order of assignment, then in its slots."""
    state: Any = object.__getstate__(item)
    own, slots = state if isinstance(state, tuple) else (state, None)
    return {**(own or {}), **(slots or {})}


def _has_attributes(item: Any) -> bool:
    return is_module(item) or (dataclasses.is_dataclass(item) and not isinstance(item, type))


def _refuse_hidden(parts: Iterable[tuple[str, Any]], found: Iterable[Tensor]) -> None:
    """TypeError for a parameter without a path: it would be neither trained nor saved, and nobody would see it."""
    known = {id(t) for t in found}
    for path, part in parts:
        for t in _without_path(part):
            if id(t) not in known:
                where = f"a {type(part).__name__}" + (f" at {path!r}" if path else "")
                name = f" {t.name!r}" if t.name else ""
                raise TypeError(
                    f"{where} holds a tensor{name} of shape {t.shape} that has no path, so it would be neither trained "
                    "nor saved: assign it in __init__ to an attribute of a minigrad.nn.Module (derive the class from "
                    "it) or of a dataclass, or put it into a list, tuple, deque or dict there"
                )


def _without_path(part: Any) -> list[Tensor]:
    """The tensors in a set, and the parameters in an object of another class, or in a module's class itself."""
    if isinstance(part, set | frozenset):
        return [t for _, t in walk(list(part)) if isinstance(t, Tensor) and _is_stored(t)]
    if isinstance(part, type | ModuleType):
        return []
    hidden = attributes(part)
    if _has_attributes(part):
        shared = {name: value for kind in reversed(type(part).__mro__) for name, value in vars(kind).items()}
        hidden = {name: value for name, value in shared.items() if isinstance(value, Tensor) and name not in hidden}
    return [t for _, t in walk(hidden) if isinstance(t, Tensor) and isinstance(t.record, Leaf)]


def _stored(module: Module) -> dict[str, Tensor]:
    """What makes up a module: its tensors but for those that were computed from others."""
    return {path: t for path, t in tensors_of(module).items() if _is_stored(t)}


def _is_stored(t: Tensor) -> bool:
    return t.record is None or isinstance(t.record, Leaf)


# ---- checking states -----------------------------------------------------------------------------------------------


def checked_state(owner: str, needed: Mapping[str, Array], given: Mapping[str, Any]) -> dict[str, Array]:
    """Copies of the given arrays, each on the backend of the needed one; ValueError listing all that does not fit."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{owner} loads a dict of arrays by path, got {type(given).__name__}")
    problems = [f"{path} is missing" for path in needed if path not in given]
    problems += [f"{path} is unexpected" for path in given if path not in needed]
    for path, array in needed.items():
        if path in given and _form(given[path]) != _form(array):
            problems.append(f"{path} must be {_form(array)}, got {_form(given[path])}")
    if problems:
        raise ValueError(f"this state does not fit {owner}, nothing was changed: {'; '.join(problems)}")
    return {path: moved(constant(given[path]), array) for path, array in needed.items()}


def _form(value: Any) -> str:
    array = constant(value)
    return f"{array.dtype}{tuple(array.shape)}" if hasattr(array, "shape") else f"a {type(array).__name__}"


def moved(array: Array, like: Array) -> Array:
    """A copy of an array, on the backend of another."""
    source, target = backend_of(array), backend_of(like)
    return array.copy() if source is target else target.asarray(source.to_host(array)).copy()


# ---- checking arguments --------------------------------------------------------------------------------------------


def as_input(owner: str, what: str, value: Any, weight: Tensor, size: int) -> Value:
    """`value` as an array or Tensor (..., size) of the weight's dtype; TypeError or ValueError otherwise."""
    value = as_value(owner, value)
    if value.dtype != weight.dtype:
        if value.dtype.kind != "f":
            raise TypeError(
                f"{owner} takes {what} of its parameters' dtype {weight.dtype}, got {value.dtype}: convert it with "
                f".astype('{weight.dtype}'), or look tokens up in an Embedding"
            )
        raise TypeError(
            f"{owner} has parameters of dtype {weight.dtype} and got {what} of {value.dtype}: convert {what} with "
            f".astype('{weight.dtype}'), or the module with .astype('{value.dtype}'), which returns a copy"
        )
    if not value.shape or value.shape[-1] != size:
        raise ValueError(f"{owner} takes {what} of shape (..., {size}), got {tuple(value.shape)}")
    return value


def as_size(owner: str, what: str, size: Any) -> int:
    """A size as an int; TypeError for another type, a bool among them, ValueError below 1."""
    try:
        number = operator.index(size)
    except TypeError:
        number = None
    if number is None or isinstance(size, bool):
        raise TypeError(f"{owner}: {what} is an integer, got {type(size).__name__}")
    if number < 1:
        raise ValueError(f"{owner}: {what} is at least 1, got {number}")
    return number


def as_flag(owner: str, what: str, flag: Any) -> bool:
    """True or False; TypeError for anything else, for "no" would be true, and a 0 in a wrong place false."""
    if not isinstance(flag, bool | np.bool_):
        raise TypeError(f"{owner}: {what} is True or False, got {flag!r}")
    return bool(flag)


def as_float_dtype(dtype: Any) -> np.dtype[Any]:
    """A floating dtype; TypeError for another, and for None, which NumPy takes for float64."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.kind != "f" or dtype is None:
        got = "None" if dtype is None else found
        raise TypeError(f"parameters are floating, for example 'float32' or 'float64', got {got}")
    return found
