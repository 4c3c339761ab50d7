"""State machines that hunt for bugs of the tape: they write random programs, run them line by line, and check all.

`GraphMachine` builds graphs and walks them; `ViewMachine` writes into arrays wherever it can. Both keep a reference
that knows nothing of tapes: it stores what every result was made of, with copies of the numbers, and differentiates by
plain recursion, path by path. All numbers are small integers and all ops are affine in each operand, so that the
derivative along a basis vector e is f(x + e) - f(x) and everything is compared with ==, without a tolerance.

A failure is a `ProgramError`, whose message is the program: it runs as it stands. Programs compute with NumPy.
Source: Claessen and Hughes, Testing monadic code with QuickCheck (2002), for random programs against a model.
"""

from minigrad.testing.machines.graphs import GraphMachine
from minigrad.testing.machines.ops import OPS, GraphOp
from minigrad.testing.machines.program import Program, ProgramError
from minigrad.testing.machines.reference import Made, Node, flows, kept
from minigrad.testing.machines.views import ViewMachine

__all__ = ["OPS", "GraphMachine", "GraphOp", "Made", "Node", "Program", "ProgramError", "ViewMachine", "flows", "kept"]
