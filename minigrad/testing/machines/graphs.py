"""GraphMachine: random graphs over the tape, and walks along them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from minigrad.testing.machines.machine import Machine
from minigrad.testing.machines.ops import OPS, SHAPES, GraphOp
from minigrad.testing.machines.reference import Memory, Node
from minigrad.testing.report import literal


class GraphMachine(Machine):
    """Random graphs: shared nodes, several outputs, walks again and again, transforms, no_grad, a Tape, deletions.

    Run it as a test with `TestGraphs = GraphMachine.TestCase`. Its programs use the ops of `ops`; a subclass may add to
    them, and to `header`, the imports. Raises `ProgramError` for anything that differs from the reference.

    >>> import numpy as np
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> from minigrad.testing.machines import GraphMachine, GraphOp
    >>> class WithMine(GraphMachine):
    ...     ops = {**GraphMachine.ops, "flip": GraphOp("mg.flip({0})", np.flip)}
    >>> run_state_machine_as_test(WithMine, settings=settings(max_examples=2, derandomize=True, database=None))
    """

    header: ClassVar[str] = Machine.header + "\nfrom minigrad.ops.unstack import unstack"
    ops: ClassVar[Mapping[str, GraphOp]] = OPS

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with something to differentiate by."""
        self._tensor(data, tracked=True)

    @rule(data=st.data(), tracked=st.booleans())
    def new_tensor(self, data: st.DataObject, tracked: bool) -> None:
        """Make a leaf, or a constant."""
        self._tensor(data, tracked)

    def _tensor(self, data: st.DataObject, tracked: bool) -> None:
        value = self.integers(data, data.draw(st.sampled_from(SHAPES), label="shape"))
        node = Node(self.fresh("x"), value, tracked)
        node.memory = Memory(value)
        self.run(f"{node.name} = mg.tensor({literal(value)}{', requires_grad=True' * tracked})", node)

    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        """Compute under a Tape, and walk: what it says of the uses of each operand adds up to what they handed down."""
        lines = [self.plan(data, transforms=False) for _ in range(data.draw(st.integers(1, 3), label="lines"))]
        made = list(self.planned)
        for node in made:
            node.watched = True
        body = [line for line in lines if line is not None] or ["pass"]
        self.run("\n    ".join(["with mg.Tape() as tape:", *body]))
        if data.draw(st.booleans(), label="error"):  # after which everything is recorded as before
            self.run("try:\n    with mg.no_grad(), mg.Tape():\n        raise KeyError\nexcept KeyError:\n    pass")
        roots = [node for node in made if node.tracked]
        found = self.walk(data, roots[-1]) if roots else None
        if found is not None:
            operands = dict.fromkeys(parent for node in made for parent in node.parents if parent is not None)
            for operand in operands:
                parts = [flow.g for flow in found if flow.node is operand and flow.user in made]
                total = np.asarray(sum(parts, np.zeros(operand.value.shape)))
                if operand.name in self.program.names:
                    self.program.expect(f"np.asarray(sum(use.gradient for use in tape.uses({operand.name})))", total)
        self.run("del tape")
