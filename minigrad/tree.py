"""Pytrees: nested tuples, lists, dicts and dataclasses whose leaves are tensors.

`flatten` takes a tree apart into its leaves and its structure, `Structure.build` puts new leaves back. `None` is an
empty tree. Anything that is not one of these containers is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Tree = Any


class Structure:
    """The shape of a pytree: `kind` is the container's type (None for a leaf), `keys` name its `children`.

    >>> from minigrad import tree
    >>> _, structure = tree.flatten({"W": 1, "state": (2, 3)})
    >>> structure
    Structure({'W': *, 'state': (*, *)})
    >>> structure.build([0.5, 1.5, 2.5])
    {'W': 0.5, 'state': (1.5, 2.5)}
    """

    __slots__ = ("kind", "keys", "children", "default")

    def __init__(
        self,
        kind: type | None,
        keys: tuple[Any, ...] = (),
        children: tuple[Structure, ...] = (),
        default: Any = None,  # a defaultdict's
    ) -> None:
        self.kind = kind
        self.keys = keys
        self.children = children
        self.default = default

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Structure)
            and self.kind is other.kind
            and self.keys == other.keys
            and self.children == other.children
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
        if issubclass(self.kind, defaultdict):
            return self.kind(self.default, zip(self.keys, parts, strict=True))
        if issubclass(self.kind, dict):
            return self.kind(zip(self.keys, parts, strict=True))
        if dataclasses.is_dataclass(self.kind):
            return self.kind(**dict(zip(self.keys, parts, strict=True)))
        if hasattr(self.kind, "_fields"):
            return self.kind(*parts)
        container: Any = self.kind
        return container(parts)

    def paths(self, prefix: str = "") -> Iterator[str]:
        """A readable path for each leaf, such as `layers[0].W_x`; a tree that is one leaf has the path ''."""
        if self.kind is None:
            yield prefix
            return
        named = dataclasses.is_dataclass(self.kind) or hasattr(self.kind, "_fields")
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
        if issubclass(self.kind, dict):
            return "{" + ", ".join(f"{k!r}: {c}" for k, c in zip(self.keys, self.children, strict=True)) + "}"
        parts = ", ".join(f"{k}={c}" for k, c in zip(self.keys, self.children, strict=True))
        return f"{self.kind.__name__}({parts})"


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
    taken_apart = _CONTAINERS.get(kind, _UNKNOWN)
    if taken_apart is _UNKNOWN:
        if len(_CONTAINERS) > 1_000:
            _CONTAINERS.clear()
        taken_apart = _CONTAINERS[kind] = _container(kind)
    if taken_apart is None:
        leaves.append(tree)
        return _LEAF
    keys, parts = taken_apart(tree)
    default = tree.default_factory if isinstance(tree, defaultdict) else None
    return Structure(kind, keys, tuple([_flatten(part, leaves) for part in parts]), default)


_UNKNOWN: Any = object()
_CONTAINERS: dict[type, Callable[[Any], tuple[tuple[Any, ...], Any]] | None] = {}
"""What gives the keys and parts of a container, by its type; None for a type whose values are leaves."""


def _container(kind: type) -> Callable[[Any], tuple[tuple[Any, ...], Any]] | None:
    """What `_CONTAINERS` knows of a type."""
    fields = getattr(kind, "_fields", None) if issubclass(kind, tuple) else None
    if kind is type(None):
        return lambda _: ((), ())
    if fields:
        return lambda tree: (tuple(fields), tree)
    if issubclass(kind, tuple | list):
        return lambda tree: (tuple(range(len(tree))), tree)
    if issubclass(kind, dict):
        return _of_dict
    if dataclasses.is_dataclass(kind):
        names = tuple([field.name for field in dataclasses.fields(kind) if field.init])
        return lambda tree: (names, [getattr(tree, name) for name in names])
    return None


def _of_dict(tree: dict[Any, Any]) -> tuple[tuple[Any, ...], Any]:
    """Sorted, so that two dicts with equal keys have equal structures."""
    keys = tuple(sorted(tree, key=lambda key: (str(key), type(key).__name__)))
    return keys, [tree[key] for key in keys]


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
