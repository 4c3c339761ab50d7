"""ViewMachine: views, and writes wherever one can be tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from minigrad.testing.machines.machine import LARGEST, Machine
from minigrad.testing.machines.ops import OPS, GraphOp, has_axis
from minigrad.testing.machines.reference import Memory, Node, kept
from minigrad.testing.numeric import Floats
from minigrad.testing.report import literal
from minigrad.testing.specs import Shape
from minigrad.testing.strategies import DrawFn

FEW_SHAPES: Sequence[Shape] = ((2,), (3,), (2, 2))  # so that arrays often fit together
SLICES = (slice(1, None), slice(None, -1), slice(None, None, -1), slice(None))


def _slice(draw: DrawFn, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"index": (draw(st.sampled_from(SLICES)), Ellipsis)}


class ViewMachine(Machine):
    """Views and writes: what the tape needs is read-only until its record dies, and no write may change a gradient.

    Arrays of the user and views of them, made before and after; tensors that copy and that share; `.data` written to
    and bound again; optimiser steps between forward and backward; copies and pickles. As a test, it is
    `ViewMachine.TestCase`. A view that existed before minigrad saw the array can still write to it: that is a
    documented limit, and such a write is left out. Raises `ProgramError` for anything that differs from the reference,
    which keeps copies.

    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> from minigrad.testing.machines import ViewMachine
    >>> run_state_machine_as_test(ViewMachine, settings=settings(max_examples=2, derandomize=True, database=None))
    """

    ops: ClassVar[Mapping[str, GraphOp]] = {
        name: OPS[name] for name in ("add", "multiply", "matmul", "transpose", "concatenate", "detach")
    } | {"view": GraphOp("{0}[{index}]", lambda a, index: a[index], fits=has_axis, static=_slice)}

    def __init__(self) -> None:
        self.memories: list[Memory] = []
        super().__init__()

    # ---- what is where ---------------------------------------------------------------------------------------

    def memory(self, array: Floats, like: Memory | None = None, exact: bool = True) -> Memory:
        """Note a new array object, which may be a view of one that is known."""
        roots = [memory for memory in self.memories if memory.array is array.base]
        born = like is None or like.writeable
        self.memories.append(Memory(array, roots[0] if roots else None, exact, born))
        return self.memories[-1]

    def place(self, node: Node, operands: Sequence[Node], op: GraphOp) -> None:
        if op.constant:  # a tensor of the same array object
            node.memory = operands[0].memory
            self.lend(operands[0], node.memory)
            return
        node.memory = self.memory(node.value, exact=False)
        if not node.tracked and node.value.base is not None:
            for operand in operands:
                self.lend(operand, node.memory)

    def lend(self, node: Node | None, memory: Memory) -> None:
        """Others get to see an array that a record may need: it is frozen while that one, or what made it, lives."""
        while node is not None and node.made is not None and not node.made.freed:
            node.made.lent.append(memory)
            node = node.parents[0] if memory.array.base is not None else None

    def living(self) -> list[Node]:
        """The results whose records are there, and not freed."""
        return [node for node in kept(self.nodes) if node.made is not None and not node.made.freed]

    def settle(self) -> None:
        """Freeze what living records hold, and thaw the rest; a view thaws when its base does."""
        needed = {
            part
            for node in self.living()
            if node.made is not None
            for memory in (*node.made.holds, *node.made.lent)
            for part in memory.chain()
        }
        for memory in self.memories:
            if memory in needed:
                memory.frozen = True
            elif needed.isdisjoint(memory.chain()):
                memory.frozen = False

    def is_needed(self, array: Floats) -> bool:
        """Whether a living record computes with numbers of this array."""
        return any(
            np.shares_memory(array, part)
            for node in self.living()
            if node.made is not None
            for part in (*node.made.given, node.value)
        )

    # ---- rules -----------------------------------------------------------------------------------------------

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with an array, a view of it, and a leaf."""
        self._array(data)
        self._view(self.nodes[0], slice(None, None, -1))
        self._tensor(self.nodes[0], "leaf")

    @rule(data=st.data(), index=st.none() | st.sampled_from(SLICES))
    def new_array(self, data: st.DataObject, index: slice | None) -> None:
        """Make an array of the user's own, or a view of one."""
        viewed = [node for node in self.arrays() if node.value.ndim]
        if index is None or not viewed:
            self._array(data)
        else:
            self._view(self.choose(data, "array", viewed), index)

    def _view(self, old: Node, index: slice) -> None:
        node = Node(self.fresh("a"), old.value[index], raw=True)
        node.memory = self.memory(node.value, like=old.memory, exact=old.memory.exact)
        self.run(f"{node.name} = {old.name}[{index!r}]", node)

    def _array(self, data: st.DataObject) -> None:
        value = self.integers(data, data.draw(st.sampled_from(FEW_SHAPES), label="shape"))
        node = Node(self.fresh("a"), value, raw=True)
        node.memory = self.memory(node.value)
        self.run(f"{node.name} = {literal(value)}", node)

    @precondition(lambda self: self.arrays())
    @rule(data=st.data(), kind=st.sampled_from(("leaf", "copy", "share")))
    def new_tensor(self, data: st.DataObject, kind: str) -> None:
        """Make a tensor of an array: a leaf or a constant that copies it, or a constant that shares it."""
        self._tensor(self.choose(data, "array", self.arrays()), kind)

    def _tensor(self, array: Node, kind: str) -> None:
        shared = kind == "share"
        node = Node(self.fresh("x"), array.value if shared else array.value.copy(), kind == "leaf")
        node.memory = array.memory if shared else self.memory(node.value)
        make = {"leaf": "mg.tensor({}, requires_grad=True)", "copy": "mg.tensor({})", "share": "mg.asarray({})"}[kind]
        self.run(f"{node.name} = {make.format(array.name)}", node)

    @precondition(lambda self: self.tensors())
    @rule(data=st.data())
    def see(self, data: st.DataObject) -> None:
        """Take the array out of a tensor."""
        tensor = self.choose(data, "tensor", self.tensors())
        self.lend(tensor, tensor.memory)
        node = Node(self.fresh("a"), tensor.value, raw=True)
        node.memory = tensor.memory
        self.run(f"{node.name} = {tensor.name}.data", node)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """Write into an array, or the array of a tensor: refused while a record needs it, and done otherwise."""
        self.grow(data, 1)
        node = self.choose(data, "array", self.nodes)
        target = node.name
        if not node.raw:
            target = f"{node.name}.data"
            self.lend(node, node.memory)
        self.settle()
        memory = node.memory
        writeable = memory.writeable
        if not memory.exact and not memory.frozen:
            writeable = self.program.value(target).flags.writeable
        number = float(data.draw(st.integers(4, 9), label="number"))
        line = f"{target}[...] = {number}"
        if not writeable:
            self.program.refuses(line, "ValueError", "read-only")
        elif not self.is_needed(node.value):  # else it is a view that existed before, the documented limit
            self.run(line)
            node.value[...] = number
        if not node.raw:
            self.run(f"{node.name}.numpy()[...] = 9.0")  # a copy, so that nothing changes
            self.program.refuses(f"{node.name}[...] = 9.0", "TypeError", "not written to in place")

    @precondition(lambda self: self.leaves())
    @rule(data=st.data())
    def rebind(self, data: st.DataObject) -> None:
        """Give a leaf new data between two computations: an array that it shares, or what an optimiser's step makes."""
        leaf = self.choose(data, "leaf", self.leaves())
        fitting = [node for node in self.arrays() if node.value.shape == leaf.value.shape]
        self.grow(data, 1, pool=[leaf])
        if leaf.grad is not None and np.abs(leaf.grad).max(initial=0) < LARGEST:
            self.run(f"mg.optim.SGD([{leaf.name}], lr=1.0).step()")
            leaf.value = np.asarray(leaf.value - leaf.grad)
            leaf.grad, leaf.memory = None, self.memory(leaf.value)
        elif fitting:
            array = self.choose(data, "array", fitting)
            self.run(f"{leaf.name}.data = {array.name}")
            leaf.value, leaf.memory = array.value, array.memory
        self.grow(data, 1, pool=[leaf])

    @precondition(lambda self: self.tensors())
    @rule(data=st.data(), how=st.sampled_from(("copy.deepcopy({})", "pickle.loads(pickle.dumps({}))", "copy.copy({})")))
    def duplicate(self, data: st.DataObject, how: str) -> None:
        """Copy a tensor with its gradient; of a result, that is refused."""
        old = self.choose(data, "tensor", self.leaves() or self.tensors())
        if old.made is not None:
            self.program.refuses(how.format(old.name), "TypeError", "detach() it first")
            return
        node = Node(self.fresh("x"), old.value.copy(), old.tracked)
        node.grad = None if old.grad is None else old.grad.copy()
        node.memory = self.memory(node.value)
        self.run(f"{node.name} = {how.format(old.name)}", node)

    @invariant()
    def arrays_are_writeable_as_they_should_be(self) -> None:
        """Compare the flags of all arrays: read-only while a record needs them, and as they were before and after."""
        self.settle()
        for node in self.nodes:
            text = node.name if node.raw else f"{node.name}.array"
            if node.memory.exact and self.program.value(text).flags.writeable is not node.memory.writeable:
                raise self.program.failure(
                    f"{text} is {'read-only' if node.memory.writeable else 'writeable'}, and should not be",
                    f"assert {text}.flags.writeable is {node.memory.writeable}",
                )
