"""The programs that scan makes of a function, to be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import random
from minigrad.scan.api import problem_of
from minigrad.scan.cache import compiled
from minigrad.scan.program import Program
from minigrad.tape import Box, Value, recorder


@dataclasses.dataclass(frozen=True, repr=False)
class Part:
    """One program: `source` is its Python, `products_in_loops` counts the matrix products in each of its loops.

    The source defines `make(T)`, which makes the buffers for T steps, and `run`, which computes in them.

    >>> import minigrad as mg, numpy as np
    >>> decayed = mg.explain.program(lambda h, x: h / 2 + x, np.ones((5, 2)), np.zeros(2)).forward
    >>> decayed.products_in_loops, decayed.source.splitlines()[0]
    ([0], 'def make(T):')
    """

    source: str
    products_in_loops: list[int]

    def __str__(self) -> str:
        return self.source

    __repr__ = __str__


@dataclasses.dataclass(frozen=True, repr=False)
class Listing:
    """What scan runs: `forward`, and `backward`, which is None where no gradient is wanted. Print it to read it.

    >>> import minigrad as mg, numpy as np
    >>> listing = mg.explain.program(lambda h, x: h / 2 + x, np.ones((5, 2)), mg.tensor(np.zeros(2)))
    >>> print(listing.backward)
    None
    >>> print(str(listing).splitlines()[0])
    # ---- forward: 0 matrix products in the loop ----
    """

    forward: Part
    backward: Part | None

    def __str__(self) -> str:
        parts = [("forward", self.forward), ("backward", self.backward)]
        return "\n".join([f"# ---- {title}: {_counted(part)} ----\n\n{part}" for title, part in parts if part])

    __repr__ = __str__


def program(
    fn: Callable[[Any, Any], Any],
    elems: Any,
    initializer: Any,
    *,
    has_output: bool = False,
    reverse: bool = False,
    lengths: Any = None,
    length: int | None = None,
) -> Listing:
    """The programs that `mg.scan` with these arguments runs forward and backward, as Python source.

    `fn` is traced and compiled, or found compiled already, as scan does it; nothing is run. Gradients are those by
    every tensor among `elems`, `initializer` and what `fn` captures that requires one, from cotangents of the final
    state and of everything that is stacked. Where none requires one, or in `mg.no_grad`, forward is the program
    that keeps nothing for backward.

    The source is straight-line array code, its names taken from the variables of `fn` where they are known: a name
    in `_all` holds a value of all T steps. Comments say what is done once for all steps and what at each step.
    A cell takes and gives its state in the other order, so pass a function that calls it, as in the second example:
    these are the programs that `dynamic_rnn` runs.
    Raises what scan raises where an argument does not fit or `fn` cannot be traced, and TypeError for a cell by itself.

    >>> import minigrad as mg, numpy as np
    >>> W_x, W_h = (mg.tensor(np.ones((n, 3)), requires_grad=True) for n in (2, 3))
    >>> def cell(h, x):
    ...     return mg.tanh(x @ W_x + h @ W_h)
    >>> listing = mg.explain.program(cell, np.ones((5, 4, 2)), np.zeros((4, 3)))
    >>> listing.forward.products_in_loops  # h @ W_h; the other product is done for all steps at once
    [1]
    >>> "W_x" in listing.forward.source, "for each step, from the last to the first" in listing.backward.source
    (True, True)

    >>> cell, xs = mg.nn.LSTMCell(2, 3, peepholes=True), np.ones((5, 4, 2), dtype="float32")
    >>> listing = mg.explain.program(lambda state, x: cell(x, state)[::-1], xs, cell.zero_state(4), has_output=True)
    >>> print(*[line for line in listing.forward.source.splitlines() if line.endswith("= captured")])
        (W_x, W_h, b, p_i, p_f, p_o, ) = captured
    """
    if hasattr(fn, "zero_state"):
        raise TypeError(
            f"explain.program takes fn(state, x), and a {type(fn).__name__} is called as cell(x, state): pass "
            "lambda state, x: cell(x, state)[::-1], inputs (T, B, ...) and has_output=True"
        )
    problem = problem_of(fn, elems, initializer, has_output, reverse, lengths, length)
    with random.steps() as enter:
        scan, captured, draws = compiled(problem, enter)
    inputs: list[Value | None] = [*problem.carry.leaves, *problem.elems, *[None] * len(draws), *captured]
    wanted = frozenset(i for i, value in enumerate(inputs) if _requires_grad(value))
    if not wanted or recorder.get() is None:
        return Listing(_part(scan.inference()), None)
    training = scan.training(wanted)
    given = [i for i, stacked in enumerate(scan.body.stacked) if stacked.dtype.kind == "f"]
    _, backward = scan.backward(training, wanted, given)
    assert backward is not None  # noqa: S101  # without care there always is one
    return Listing(_part(training.program), _part(backward))


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Box) and value.record is not None and value.array.dtype.kind == "f"


def _part(program: Program) -> Part:
    source = program.source
    return Part(f"{source.make}\n\n{source.run}", list(source.products_in_loops))


def _counted(part: Part) -> str:
    """How many matrix products are done at each step."""
    counts: Sequence[int] = part.products_in_loops
    if not counts:
        return "no loop"
    products = " and ".join(map(str, counts)) + (" matrix product" if counts == [1] else " matrix products")
    return f"{products} in the loop" if len(counts) == 1 else f"{products} in the {len(counts)} loops"
