"""The reference of the machines: what every result was made of, differentiated by plain recursion, path by path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from minigrad.testing.numeric import Floats

EXACT = 2.0**53  # float64 adds integers below this exactly, in any order


@dataclass(eq=False)
class Memory:
    """One array object. `exact`: the machine knows whether it is writeable; `frozen`: a record keeps it from that."""

    array: Floats  # the reference's own: a view wherever minigrad's is one
    root: Memory | None = None  # what it is a view of
    exact: bool = True
    born_writeable: bool = True
    frozen: bool = False

    @property
    def writeable(self) -> bool:
        return self.born_writeable and not self.frozen

    def chain(self) -> list[Memory]:
        """This array object and the one that it is a view of."""
        return [self] if self.root is None else [self, self.root]


@dataclass(eq=False)
class Node:
    """A variable of the program, a tensor or an array: its numbers now and, if it is tracked, how it was made."""

    name: str
    value: Floats
    tracked: bool = False
    made: Made | None = None
    place: int = 0  # among the outputs of what made it
    grad: Floats | None = None  # of a leaf: what .grad must be
    walked: bool = False  # a backward walk has freed this very node
    watched: bool = False  # made under a Tape: its record is there to be looked at, even when it was freed
    raw: bool = False  # an array, and no tensor
    memory: Memory = field(init=False)

    @property
    def leaf(self) -> bool:
        return self.tracked and self.made is None

    @property
    def parents(self) -> Sequence[Node | None]:
        return () if self.made is None else self.made.parents

    @property
    def paths(self) -> int:
        """On how many ways the recursion goes down from here."""
        return sum(parent.paths for parent in self.parents if parent is not None) if self.made else 1


class Made:
    """One call: its function of arrays, and its operands as they were at the time."""

    def __init__(self, function: Callable[..., list[Floats]], operands: Sequence[Node], code: str = "") -> None:
        self.function = function
        self.code = code
        self.parents = [node if node.tracked else None for node in operands]
        self.given = [node.value for node in operands]
        self.values = [array.copy() for array in self.given]
        self.holds = [node.memory for node in operands if node.leaf or not node.tracked]
        self.lent: list[Memory] = []  # what others got to see of what it needs
        self.freed = False
        self._jacobians: dict[tuple[int, int], Floats] = {}

    def jacobian(self, place: int, k: int) -> Floats:
        """The derivative of an output by operand k: one row for each element of the output.

        ValueError if two steps along a basis vector make different differences: then the function is not affine.
        """
        if (place, k) not in self._jacobians:
            start = self.function(*self.values)[place]
            columns = np.zeros((start.size, self.values[k].size))
            for i in range(self.values[k].size):
                moved = [array.copy() for array in self.values]
                moved[k].flat[i] += 1.0
                once = self.function(*moved)[place].copy()  # it may be a view of what moves on
                moved[k].flat[i] += 1.0
                columns[:, i] = (once - start).ravel()
                if not np.array_equal(self.function(*moved)[place] - once, once - start):
                    raise ValueError(
                        f"the reference is not affine in operand {k}: {self.code}; machines compare exactly"
                    )
            self._jacobians[place, k] = columns
        return self._jacobians[place, k]


@dataclass(frozen=True)
class Flow:
    """What one path hands to a node: the cotangent, a bound on every sum inside it, and the user it came from."""

    node: Node
    user: Node | None
    g: Floats
    bound: Floats


def flows(node: Node, g: Floats, bound: Floats | None = None, user: Node | None = None) -> Iterator[Flow]:
    """Reverse mode by recursion: the cotangent g of a node, and all that follows from it below."""
    bound = np.abs(g) if bound is None else bound
    yield Flow(node, user, g, bound)
    for k, parent in enumerate(node.parents):
        if parent is not None and node.made is not None:
            d = node.made.jacobian(node.place, k)
            shape = node.made.values[k].shape
            below = (g.ravel() @ d).reshape(shape)
            yield from flows(parent, below, (bound.ravel() @ np.abs(d)).reshape(shape), node)


def kept(nodes: Iterable[Node]) -> set[Node]:
    """The nodes whose records these nodes keep alive."""
    found: set[Node] = set()
    stack: list[Node | None] = list(nodes)
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += () if node.walked and not node.watched else node.parents
    return found


def below(node: Node) -> set[Node]:
    """The tracked nodes that a walk from here must pass, whether they were freed or not."""
    found: set[Node] = set()
    stack: list[Node | None] = [node]
    while stack:
        current = stack.pop()
        if current is not None and current not in found:
            found.add(current)
            stack += current.parents
    return found


def is_freed(node: Node) -> bool:
    """Whether a walk has freed the record of a result."""
    return node.made is not None and node.made.freed
