"""Pytrees: nested tuples, lists, dicts and dataclasses whose leaves are tensors.

`flatten` takes a tree apart into its leaves and its structure, `Structure.build` puts new leaves back. `None` is an
empty tree. Anything that is not one of these containers is a leaf.

A container that is built again is what it was, with other leaves: of the same class, its keys in the same order, its
other attributes as they were. No constructor and no `__post_init__` runs, for they would run at every step of a scan.
The parts of a dataclass are the fields that its constructor takes, and whatever else of it holds arrays. The rest (a
size, a name, a function) belongs to the structure. What `functools.cached_property` keeps is forgotten.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

Tree = Any

_NOTHING: dict[str, Any] = {}


class Structure:
    """The shape of a pytree: `kind` is the container's type (None for a leaf), `keys` name its `children`.

    >>> from minigrad import tree
    >>> _, structure = tree.flatten({"W": 1, "state": (2, 3)})
    >>> structure
    Structure({'W': *, 'state': (*, *)})
    >>> structure.build([0.5, 1.5, 2.5])
    {'W': 0.5, 'state': (1.5, 2.5)}
    """

    __slots__ = ("kind", "keys", "children", "kept", "order", "default")

    def __init__(
        self,
        kind: type | None,
        keys: tuple[Any, ...] = (),
        children: tuple[Structure, ...] = (),
        kept: dict[str, Any] | None = None,  # attributes that are no parts
        order: tuple[Any, ...] = (),  # a dict's own, of its keys
        default: Any = None,  # a defaultdict's
    ) -> None:
        self.kind = kind
        self.keys = keys
        self.children = children
        self.kept = kept or _NOTHING
        self.order = order
        self.default = default

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Structure)
            and self.kind is other.kind
            and self.keys == other.keys
            and self.children == other.children
            and self.kept == other.kept
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.keys, self.children))

    def __repr__(self) -> str:
        return f"Structure({self})"

    def build(self, leaves: Sequence[Any]) -> Tree:
        """The tree of this structure that holds `leaves`, in the order in which `flatten` gives them."""
        source = iter(leaves)
        tree = self._build(source)
        if next(source, _END) is not _END:
            raise ValueError(f"too many leaves for the structure {self}")
        return tree

    def _build(self, leaves: Iterator[Any]) -> Tree:
        if self.kind is None:
            leaf = next(leaves, _END)
            if leaf is _END:
                raise ValueError("too few leaves for the structure")
            return leaf
        parts = [child._build(leaves) for child in self.children]  # noqa: SLF001  # of its own class
        if self.kind is tuple:
            return tuple(parts)
        if self.kind is type(None):
            return None
        if self.kind is list:
            return parts
        if self.kind is dict and self.order == self.keys:
            return dict(zip(self.keys, parts, strict=True))
        try:
            return self._made(parts)
        except TypeError as error:
            raise TypeError(
                f"a {self.kind.__name__} is a container that cannot be made again with other leaves ({error}); use a "
                "tuple, list, dict, namedtuple or dataclass in its place"
            ) from error

    def _made(self, parts: list[Any]) -> Tree:
        """The container that holds `parts`, by the methods of Python's own classes: none of the user's code runs."""
        kind: Any = self.kind
        attributes = dict(self.kept)
        if issubclass(kind, tuple):
            tree = tuple.__new__(kind, parts)
        elif issubclass(kind, list):
            tree = list.__new__(kind)
            list.extend(tree, parts)
        elif issubclass(kind, dict):
            base, values = _base_of_dict(kind), dict(zip(self.keys, parts, strict=True))
            tree = base.__new__(kind)
            for key in self.order:
                base.__setitem__(tree, key, values[key])
            if base is defaultdict:
                tree.default_factory = self.default
        else:
            tree = object.__new__(kind)
            attributes.update(zip(self.keys, parts, strict=True))
        for name, value in attributes.items():
            object.__setattr__(tree, name, value)
        return tree

    def paths(self, prefix: str = "") -> Iterator[str]:
        """A readable path for each leaf, such as `layers[0].W_x`; a tree that is one leaf has the path ''."""
        if self.kind is None:
            yield prefix
            return
        named = bool(_fields_of_tuple(self.kind)) or not issubclass(self.kind, tuple | list | dict)
        for key, child in zip(self.keys, self.children, strict=True):
            step = f".{key}" if named else f"[{key!r}]"
            yield from child.paths(prefix + step)

    def __str__(self) -> str:
        if self.kind is None:
            return "*"
        if self.kind is type(None):
            return "None"
        if self.kind is tuple:
            return "(" + ", ".join([str(c) for c in self.children]) + ("," if len(self.children) == 1 else "") + ")"
        if self.kind is list:
            return "[" + ", ".join([str(c) for c in self.children]) + "]"
        if self.kind is dict:
            return "{" + ", ".join(f"{k!r}: {c}" for k, c in zip(self.keys, self.children, strict=True)) + "}"
        parts = [f"{k}={c}" for k, c in zip(self.keys, self.children, strict=True)]
        parts += [f"{name}={value!r}" for name, value in self.kept.items()]
        return f"{self.kind.__name__}({', '.join(parts)})"


_END: Any = object()
_LEAF = Structure(None)


def flatten(tree: Tree) -> tuple[list[Any], Structure]:
    """The leaves of a tree, in a fixed order, and its structure.

    >>> from minigrad import tree
    >>> leaves, structure = tree.flatten({"W": 1, "layers": [2, (3, None)]})
    >>> leaves, str(structure)
    ([1, 2, 3], "{'W': *, 'layers': [*, (*, None)]}")
    >>> structure.build([10, 20, 30])
    {'W': 10, 'layers': [20, (30, None)]}
    """
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Tree, leaves: list[Any]) -> Structure:
    kind = type(tree)
    if kind is tuple:  # the state of most scans, several times a call
        return Structure(tuple, tuple(range(len(tree))), tuple([_flatten(part, leaves) for part in tree]))
    taken_apart = _CONTAINERS.get(kind, _UNKNOWN)
    if taken_apart is _UNKNOWN:
        if len(_CONTAINERS) > 1_000:
            _CONTAINERS.clear()
        taken_apart = _CONTAINERS[kind] = _container(kind)
    if taken_apart is None:
        leaves.append(tree)
        return _LEAF
    keys, parts, rest = taken_apart(tree)
    return Structure(kind, keys, tuple([_flatten(part, leaves) for part in parts]), **rest)


Parts = tuple[tuple[Any, ...], Iterable[Any], dict[str, Any]]
"""The keys and parts of a container, and what else its structure knows of it."""

_UNKNOWN: Any = object()
_CONTAINERS: dict[type, Callable[[Any], Parts] | None] = {}
"""What takes a container apart, by its type; None for a type whose values are leaves."""


def _container(kind: type) -> Callable[[Any], Parts] | None:
    """What `_CONTAINERS` knows of a type."""
    if kind is type(None):
        return lambda _: ((), (), _NOTHING)
    if issubclass(kind, tuple | list):
        base: Any = tuple if issubclass(kind, tuple) else list
        fields, plain = _fields_of_tuple(kind), kind is list or (base is tuple and not kind.__dictoffset__)
        return lambda tree: (
            fields or tuple(range(base.__len__(tree))),
            base.__iter__(tree),
            _NOTHING if plain else {"kept": _attributes(tree)},
        )
    if issubclass(kind, dict):
        return _of_dict if kind is dict else _of_dict_of_ones_own
    if dataclasses.is_dataclass(kind):
        taken = tuple([field.name for field in dataclasses.fields(kind) if field.init])
        others = tuple([field.name for field in dataclasses.fields(kind) if not field.init])
        return lambda tree: _of_dataclass(tree, taken, others)
    return None


def _fields_of_tuple(kind: type) -> tuple[str, ...]:
    """A namedtuple's names; none of any other type."""
    return tuple(getattr(kind, "_fields", ())) if issubclass(kind, tuple) else ()


def _of_dict(tree: dict[Any, Any]) -> Parts:
    """Sorted, so that two dicts with equal keys have equal structures."""
    order = tuple(tree)
    keys = _sorted(order)
    return keys, [tree[key] for key in keys], {"order": order}


def _of_dict_of_ones_own(tree: dict[Any, Any]) -> Parts:
    base = _base_of_dict(type(tree))
    order = tuple(base.__iter__(tree))
    keys = _sorted(order)
    rest = {"order": order, "kept": _attributes(tree)}
    if base is defaultdict:
        rest["default"] = tree.default_factory  # type: ignore[attr-defined]
    return keys, [base.__getitem__(tree, key) for key in keys], rest


def _sorted(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(sorted(keys, key=lambda key: (str(key), type(key).__name__)))


def _base_of_dict(kind: type) -> Any:
    """The class of Python's own whose methods read and write a dict of this kind."""
    return next(base for base in (OrderedDict, defaultdict, dict) if issubclass(kind, base))


def _of_dataclass(tree: Any, taken: tuple[str, ...], others: tuple[str, ...]) -> Parts:
    """The fields that the constructor takes, then what else holds arrays; `others` may be defaults of the class."""
    attributes = {name: getattr(tree, name) for name in others if hasattr(tree, name)}
    attributes.update(_attributes(tree))
    held = sorted(name for name, value in attributes.items() if name not in taken and _holds_array(value))
    kept = {name: value for name, value in attributes.items() if name not in taken and name not in held}
    keys = (*taken, *held)
    return keys, [getattr(tree, name) for name in keys], {"kept": kept}


def _attributes(tree: Any) -> dict[str, Any]:
    """What an object keeps in its dict and slots.

    Left out are what `cached_property` computes again, from the new leaves, and Python's own note of `P[int](...)`.
    """
    state, kind = object.__getstate__(tree), type(tree)
    found: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):  # of an object with slots (dict, slots)
        found.update(part or {})
    return {
        name: value
        for name, value in found.items()
        if name != "__orig_class__" and not isinstance(getattr(kind, name, None), cached_property)
    }


def _holds_array(value: Any) -> bool:
    """Whether there is something with a shape and a dtype in a tree: an array or a Tensor, of whatever backend."""
    leaves = flatten(value)[0]
    return any(hasattr(leaf, "dtype") and hasattr(leaf, "shape") and not isinstance(leaf, type) for leaf in leaves)


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `fn` to every leaf of `tree` (and to the leaves at the same places of the other trees).

    Raises ValueError where the trees differ in structure.

    >>> from minigrad import tree
    >>> tree.map(lambda a, b: a + b, (1, [2]), (10, [20]))
    (11, [22])
    """
    leaves, structure = flatten(tree)
    columns = [leaves]
    for other in rest:
        other_leaves, other_structure = flatten(other)
        if other_structure != structure:
            raise ValueError(f"trees differ in structure: {structure} and {other_structure}")
        columns.append(other_leaves)
    return structure.build([fn(*row) for row in zip(*columns, strict=True)])


def paths(tree: Tree) -> list[str]:
    """The path of every leaf, in the order of `flatten`.

    >>> from minigrad import tree
    >>> tree.paths({"W": 1, "state": (2, 3)})
    ["['W']", "['state'][0]", "['state'][1]"]
    """
    return list(flatten(tree)[1].paths())


__all__ = ["Structure", "flatten", "map", "paths"]
