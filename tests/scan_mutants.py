"""Mutants of scan: each breaks its compiler, its run or its loop in one place, and names the law that must notice.

The laws are those of `test_scan`, on the cells that everybody writes, which are small enough to be checked again for
every mutant. Programs are compiled anew for each, since a mutant may sit in what compiles them.
"""

from contextlib import contextmanager
from functools import partial

import numpy as np

import minigrad as mg
from minigrad import random
from minigrad.backend import get_backend
from minigrad.scan import (
    clear_cache,
    compiled,
    differentiate,
    emit,
    loop,
    plan,
    rows,
    run,
    sums,
    timeloop,
    variables,
    verify,
)
from minigrad.scan import program as programs
from minigrad.tape import constant
from minigrad.testing.mutate import Patch, edited, patched
from minigrad.testing.mutate.patch import attribute
from scan_oracle import agree, cell_example, first_order, loss_of, ragged, same, second_order
from scan_oracle import loop as python_loop

CELLS = ("vanilla", "gru", "lstm")
LENGTHS = np.array([2, 4, 0, 3])


def both(name, oracle, order=1, oracle_options=None, **options):
    """The cell compiled, and by an oracle."""
    example = cell_example(name, steps=4, rows=4)
    at = example.variables()
    answers = []
    for apply, given in ((mg.scan, options), (oracle, oracle_options or {})):
        f = example.function(apply, **given)
        if order == 1:
            answers.append(first_order(f, at, seed=1))
        else:
            answers.append(second_order(loss_of(f, f(at), seed=2), at, 3, "reverse over reverse"))
    agree(*answers)


def check_cells():
    """Values, gradients and tangents are those of the loop."""
    for name in CELLS:
        both(name, python_loop)


def check_reverse():
    for name in ("vanilla", "lstm"):
        both(name, python_loop, reverse=True, oracle_options={"reverse": True})


def check_order_2():
    both("vanilla", python_loop, order=2)


def check_lengths():
    """A padded batch is the loop over each of its rows."""
    for name in ("vanilla", "gru"):
        for reverse in (False, True):
            both(
                name,
                lambda *args, reverse=reverse, **options: ragged(*args, LENGTHS, reverse=reverse, **options),
                lengths=LENGTHS,
                reverse=reverse,
            )


def check_unrolled_lengths():
    """The same of the loop on the tape."""
    for reverse in (False, True):
        both(
            "gru",
            lambda *args, reverse=reverse, **options: ragged(*args, LENGTHS, reverse=reverse, **options),
            lengths=LENGTHS,
            reverse=reverse,
            unroll=True,
        )


def check_short_lengths():
    """No row takes part in the last steps."""
    short = np.array([2, 3, 0, 1])
    for reverse in (False, True):
        both(
            "vanilla",
            lambda *args, reverse=reverse, **options: ragged(*args, short, reverse=reverse, **options),
            lengths=short,
            reverse=reverse,
            unroll=True,
        )


def check_checkpoint():
    for steps in (2, 3):
        both("gru", python_loop, checkpoint=steps)
        both("vanilla", python_loop, checkpoint=steps, reverse=True, oracle_options={"reverse": True})


def check_unrolled():
    both("lstm", python_loop, unroll=True)
    both("vanilla", python_loop, unroll=True, reverse=True, oracle_options={"reverse": True})


def check_draws():
    """One draw a step, the same compiled and unrolled, and another at every step."""
    x, h = np.ones((4, 3)), np.zeros(3)

    def f(unroll):
        def body(h, x):
            return h * 0.5 + x * random.uniform((3,), seed=7)

        return mg.value_and_grad(lambda x: (mg.scan(body, x, h, unroll=unroll) ** 2).sum())(x)

    compiled_answer, unrolled = f(False), f(True)
    agree(compiled_answer, unrolled)
    steps = mg.scan(lambda h, x: x * random.uniform((3,), seed=7), x, h)
    assert len({row.tobytes() for row in steps}) == 4


def check_embedding():
    """Indices that repeat within a step and over time add up."""
    tokens, table = np.array([[0, 0], [1, 0], [2, 1]]), np.arange(6.0).reshape(3, 2) / 4

    def f(table, apply):
        return mg.sin(apply(lambda h, t: 0.5 * h + mg.take(table, t, axis=0), tokens, np.zeros((2, 2)))).sum()

    agree(*(mg.value_and_grad(partial(f, apply=apply))(table) for apply in (mg.scan, python_loop)))


def check_annealing():
    """A captured number is an input of the program, not a part of it."""
    for rate in (0.5, 0.25):
        values = mg.scan(lambda h, x, rate=rate: h * rate + x, np.ones((3, 2)), np.zeros(2))
        same(values[1], np.full(2, 1 + rate))


def check_backward_twice():
    """What a retained backward walk needs is there at the next one."""
    example = cell_example("gru", steps=4, rows=2)
    w = {name: mg.tensor(value, requires_grad=True) for name, value in example.weights.items()}
    total = (mg.scan(example.body(w), example.elems, example.init, has_output=True)[1] ** 2).sum()
    total.backward(retain=True)
    once = {name: value.grad.copy() for name, value in w.items()}
    total.backward()
    agree({name: value.grad for name, value in w.items()}, {name: 2 * grad for name, grad in once.items()})


def check_second_walk():
    """A walk that ends in NaN is done again with care, and finds what it needs in scan although it has been there."""
    example = cell_example("gru", steps=4, rows=2)
    z = np.array([0.0, 4.0])

    def loss(weights, z, apply):
        outputs = apply(example.body(weights), example.elems, example.init, has_output=True)[1]
        return (outputs**2).sum() + mg.where(constant(z) > 0, mg.sqrt(z), 0.0).sum()

    agree(*(mg.grad(partial(loss, apply=apply), (0, 1))(example.weights, z) for apply in (mg.scan, python_loop)))


def check_inputs_alone():
    """What is wanted reaches one state through the other."""

    def f(x, apply):
        final = apply(lambda state, x: (state[0] + mg.sin(x), state[1] * state[0]), x, (np.ones(2), np.ones(2)))
        return final[1].sum()

    x = np.linspace(-1, 1, 8).reshape(4, 2)
    agree(*(mg.value_and_grad(partial(f, apply=apply))(x) for apply in (mg.scan, python_loop)))


def check_two_calls_alive():
    """The frames of two calls that both wait for their gradient are not one."""

    def f(x, apply):
        body = lambda h, x: mg.tanh(h * x + x)  # noqa: E731
        one, two = (apply(body, x * k, np.zeros(3)) for k in (1.0, 2.0))
        return (one * two).sum()

    x = np.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(2):  # at the second time there are frames to be had
        agree(*(mg.value_and_grad(partial(f, apply=apply))(x) for apply in (mg.scan, python_loop)))


def check_sums():
    """A weight that every step uses gets the gradient of every step, the first and the last too."""
    x = np.arange(1.0, 9.0).reshape(4, 2)
    gradient = mg.grad(lambda w: mg.scan(lambda h, x: h + w * x, x, np.zeros(2)).sum())(np.ones(2))
    same(gradient, (x * np.arange(4, 0, -1)[:, None]).sum(axis=0))
    gradient = mg.grad(lambda w: mg.scan(lambda h, x: h + x @ w, x[:, None], np.zeros((1, 2))).sum())(np.eye(2))
    same(gradient, np.tile((x * np.arange(4, 0, -1)[:, None]).sum(axis=0)[:, None], (1, 2)))


def compiled_anew(check):
    """A check with programs that nothing has compiled before."""
    clear_cache()
    try:
        check()
    finally:
        clear_cache()


@contextmanager
def anew(apply):
    """A mutant in place, with no program that was compiled without it, and none of its own left behind."""
    clear_cache()
    try:
        with apply():
            yield
    finally:
        clear_cache()


@contextmanager
def unverified(apply):
    """A mutant of the plan while the verifier sleeps: the laws have to notice by themselves."""
    with patched(verify.verify, lambda plan: None), apply():
        yield


@contextmanager
def overwriting():
    """What a backend without accumulation would do: of repeated indices the last one stays."""
    numpy = get_backend("numpy")

    def scatter(shape, dtype, index, values):
        out = np.zeros(shape, dtype)
        out[index] = values
        return out

    with attribute(numpy, "scatter_add", scatter):
        yield


BACKWARD = 'wishes, not self.reverse, "backward"'

EDITS = (
    # time
    ("backward walks forwards in time", compiled.CompiledScan.backward, BACKWARD, BACKWARD.replace("not ", ""),
     check_cells),
    ("reverse is ignored", compiled.CompiledScan.__init__, "self.reverse = reverse", "self.reverse = False",
     check_reverse),
    ("steps are listed in the wrong order", timeloop.TimeLoop.steps, "views({variable}[::-1])", "views({variable})",
     check_cells),
    ("packed steps are listed in the wrong order", timeloop.TimeLoop.steps, '("[::-1]" if e.reverse else "")', '""',
     check_lengths),
    ("the derivative of a derivative walks forwards", compiled.CompiledScan._pull_as_scan,
     "self.backend, not self.reverse, alignment", "self.backend, self.reverse, alignment", check_order_2),
    ("the state stands at the wrong end", emit._Emitter._first_states,
     "'T' if self.reverse else 0", "0 if self.reverse else 'T'", check_cells),
    ("the state after a step for the one before it", programs.Program.stack, '(kept.part == "before") != reverse',
     '(kept.part == "after") != reverse', check_cells),
    ("a residual of the next step", variables.Variables.part_of,
     '(place.part == "before") != self.reverse', '(place.part == "after") != self.reverse', check_cells),
    # who gets a gradient
    ("the first captured gradient is forgotten", differentiate.differentiate,
     "captured = [i for i, leaf in enumerate(body.captured) if leaf in found]",
     "captured = [i for i, leaf in enumerate(body.captured) if leaf in found][1:]", check_cells),
    ("inputs get no gradient", differentiate.differentiate,
     "elems = [i for i, leaf in enumerate(body.elems) if leaf in found]", "elems = []", check_cells),
    ("the second use in a body is forgotten", differentiate._pulled,
     "totals[symbol] = totals[symbol] + g if symbol in totals else g", "totals.setdefault(symbol, g)", check_cells),
    ("the carry's cotangent is dropped", differentiate.differentiate,
     "roots = [(body.next[i], g) for i, g in zip(active, state, strict=True)]", "roots = []", check_cells),
    ("outputs hand nothing back", differentiate.differentiate,
     "roots += [(body.stacked[i], g) for i, g in zip(given, stacked, strict=True)]", "pass", check_cells),
    ("the carry is found in one round", differentiate.active_carry, "if grown <= found:", "if True:",
     check_inputs_alone),
    ("what is the same at all steps gives no gradient", differentiate.differentiate,
     "terms += [inside[leaf]] if leaf in inside else []", "pass", check_cells),
    # sums over time
    ("a sum forgets the first step", sums._sum, "sum_of({variable}, axis=0)", "sum_of({variable}[1:], axis=0)",
     check_sums),
    ("a product over time forgets the last step", sums._product, "{e.rows(a, a.shape[-1])}.T, {e.rows(b, b.shape[-1])}",
     "{e.rows(a, a.shape[-1])}[:-1].T, {e.rows(b, b.shape[-1])}[:-1]", check_sums),
    # lengths
    ("all rows at all steps", rows.Rows.firsts, "array[:n]", "array", check_lengths),
    ("the rows of step 1 at all steps", rows.Rows.firsts, "array[:n]", "array[:self.counts[0]]", check_lengths),
    ("rows are not put back in order", run._run_packed, "spread(leaf, index=back, shape=tuple(leaf.shape[:1]))", "leaf",
     check_lengths),
    ("states are not sorted with the rows", run._run_packed, "[in_order(leaf) for leaf in problem.carry.leaves]",
     "problem.carry.leaves", check_lengths),
    ("finished rows are left at zero", run._run_packed, "if not problem.has_output:", "if False:", check_lengths),
    ("the final state is copied through in reverse", run._run_packed,
     "problem.carry.leaves if problem.reverse else final", "final", check_lengths),
    ("rows end one step late", rows.Rows.__init__, 'side="left"', 'side="right"', check_lengths),
    ("the mask of step 1 at all steps", loop._step, "going = problem.rows > t", "going = problem.rows > 0",
     check_unrolled_lengths),
    ("a row that has ended goes on", loop._step,
     "new = [_chosen(going, leaf, old) for leaf, old in zip(new, state, strict=True)]", "pass", check_unrolled_lengths),
    ("idle steps copy the wrong state", loop.with_idle_steps, "problem.carry.leaves if problem.reverse else state",
     "state", check_short_lengths),
    # checkpoints, frames, draws
    ("chunks are done again in the wrong order", compiled.CompiledScan._pull_arrays,
     "zip(reversed(order), reversed(saved.states), strict=True)", "zip(order, reversed(saved.states), strict=True)",
     check_checkpoint),
    ("each chunk forgets the sums of the others", compiled.CompiledScan._pull_arrays,
     "[added(a, b) for a, b in zip(totals, sums, strict=True)] if totals else sums", "sums", check_checkpoint),
    ("what was written over is not computed again", compiled.CompiledScan._pull_arrays, "if saved.spent:", "if False:",
     check_second_walk),
    ("two calls share a frame", programs.Program.frame, "return waiting.pop()", "return waiting[-1]",
     check_two_calls_alive),
    ("the draw of step 1 at all steps", run._drawn, "make((*inner, t))", "make((*inner, 0))", check_draws),
    ("unrolled, outputs come in the order of the walk", loop._run, "outputs[::-1] if problem.reverse else outputs",
     "outputs", check_unrolled),
)  # fmt: skip

OVERWRITTEN = (
    ("a value is overwritten before its last reader", plan.Plan._last_read,
     "for reader in self.readers.get(node, ()):\n        last = max(last, self.event[reader])",
     "for reader in self.readers.get(node, ())[:1]:\n        last = max(last, self.event[reader])"),
    ("what stands in a buffer does not matter", plan.Plan._may_take, "self._last_read_of(resident, columns) > when",
     "False"),
    ("what backward needs is not kept", plan.Plan._last_read, "node in self.kept or ", ""),
)  # fmt: skip

SCAN = [
    *(Patch(name, partial(anew, partial(edited, function, old, new)), check)
      for name, function, old, new, check in EDITS),
    *(Patch(name, partial(anew, partial(edited, function, old, new)), check_cells)
      for name, function, old, new in OVERWRITTEN),
    *(Patch(f"{name}, unverified", partial(anew, partial(unverified, partial(edited, function, old, new))), check_cells)
      for name, function, old, new in OVERWRITTEN),
    Patch("repeated indices overwrite", partial(anew, overwriting), check_embedding),
]  # fmt: skip
