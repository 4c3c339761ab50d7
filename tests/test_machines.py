"""The state machines pass the true engine, find planted bugs, and show programs that fail when they are pasted."""

from functools import partial
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

import minigrad as mg
from engine_mutants import ENGINE
from minigrad import hold, optim, tape, transforms
from minigrad.ops import op
from minigrad.tensor import Tensor, _rebuild
from minigrad.testing.machines import (
    OPS,
    GraphMachine,
    GraphOp,
    Made,
    Node,
    Program,
    ProgramError,
    ViewMachine,
    flows,
    kept,
)
from minigrad.testing.mutate import edited

STEPS = 25
GraphMachine.TestCase.settings = settings(stateful_step_count=STEPS)
ViewMachine.TestCase.settings = settings(stateful_step_count=STEPS)
TestGraphs = GraphMachine.TestCase
TestViews = ViewMachine.TestCase


def run(machine, number=0, examples=40):
    """Run a machine from a seed, without shrinking what fails."""
    chosen = settings(
        max_examples=examples, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate]
    )
    seeded = seed(number)(type(machine.__name__, (machine,), {}))
    run_state_machine_as_test(seeded, settings=chosen)


@pytest.mark.parametrize("machine", [GraphMachine, ViewMachine])
@pytest.mark.parametrize("number", [*range(10), 136])
def test_the_engine_passes_whatever_the_seed(machine, number):
    run(machine, number, examples=2)


# ---- planted bugs ----------------------------------------------------------------------------------------------------

# The first example that fails ends a run. What is drawn depends on the modules of the session, too, since Hypothesis
# draws from their constants: so all of 40 may miss a bug once in a while, and 400 do not.
MANY = 400

KNOWN = {mutant.name: mutant.apply for mutant in ENGINE}
IN_GRAPHS = {
    name: KNOWN[name]
    for name in (
        "gradients overwrite",
        "the second use is forgotten",
        "the third use is forgotten",
        "topological order reversed",
        "the walk owns what others hold",
        "roots overwrite",
        "forward mode forgets the second input",
        "of several parts the last is left",
        "nobody differentiates a derivative again",
        "the cotangent itself becomes .grad",
        ".grad is overwritten",
        "retain is ignored",
        "nothing is freed",
        "stop_gradient does not stop",
        "contributions are not noted",
        "broadcasting is not undone",
    )
} | {
    name: partial(edited, function, old, new)
    for name, function, old, new in (
        ("detach keeps the record", Tensor.detach, "Tensor(self.data)", "Tensor(self.data, self.record)"),
        ("freed records keep their parents", tape.Record.free, "self.parents = ()", "pass"),
        ("records stand in cycles", tape.Record.__init__, "self.held = held", "self.held = (held, self)"),
        ("no_grad leaks", tape.scoped.__exit__, "self.variable", "self.value is None or self.variable"),
        ("a checkpoint forgets its closure", transforms._Checkpoint.pull, "if gradient is None else",
         "if gradient is None or want in self.captured else"),
    )
}  # fmt: skip
IN_VIEWS = {name: KNOWN[name] for name in ("needed arrays stay writeable",)} | {
    name: partial(edited, function, old, new)
    for name, function, old, new in (
        ("holds are never released", hold._let_go, "backend.thaw(held.array)", "pass"),
        ("the base of a view is not held", hold._take, "if base.__class__ is array.__class__", "if False"),
        ("constants are not held", op.settled, "hold((array,), backend)", "None"),
        ("what is seen is not lent", tape.keep, "record.lent = {", "record.lent = None and {"),
        ("new data takes over the old hold", Tensor.data.fset, "self.record.live_hold = tape.no_hold", "pass"),
        ("new data does not reach the tape", Tensor.data.fset, "self.record.out = array", "pass"),
        ("tensors share what they are made of", mg.tensor, ".copy()", ""),
        ("copies share their data", _rebuild, "array.copy()", "array"),
        ("copies lose their gradient", _rebuild, "grad.copy()", "None"),
        ("optimisers write in place", optim.Optimiser.step, "p.data, p.grad", "p.array[...], p.grad"),
    )
}  # fmt: skip


@pytest.mark.parametrize("bug", IN_GRAPHS)
def test_a_bug_of_graphs_is_found(bug):
    with IN_GRAPHS[bug](), pytest.raises(ProgramError):
        run(GraphMachine, examples=MANY)


@pytest.mark.parametrize("bug", IN_VIEWS)
def test_a_bug_of_views_is_found(bug):
    with IN_VIEWS[bug](), pytest.raises(ProgramError):
        run(ViewMachine, examples=MANY)


# ---- what a failure shows --------------------------------------------------------------------------------------------


def failure(machine):
    with pytest.raises(ProgramError) as error:
        run(machine)
    return str(error.value).partition("\n\n")


def test_the_program_of_a_failure_fails_when_it_is_pasted():
    bug = KNOWN["gradients overwrite in place"]
    with bug():
        problem, _, program = failure(GraphMachine)
        with pytest.raises(AssertionError):
            exec(program, {})
    assert ".grad is np.array(" in problem
    assert program.startswith("import ")
    exec(program, {})  # and passes on the right engine


def test_an_op_that_is_wrong_is_found_by_a_machine_that_has_it():
    class WithTriple(GraphMachine):
        header = GraphMachine.header + "\ntriple = mg.custom_op(lambda x: 3.0 * x, vjp=lambda g, out, x: (2.0 * g,))"
        ops = MappingProxyType({"triple": GraphOp("triple({0})", lambda a: 3.0 * a), "add": OPS["add"]})

    problem, _, program = failure(WithTriple)
    assert ".grad is np." in problem
    assert "= triple(x" in program


def test_a_program_shows_what_raised_and_what_did_not():
    program = Program("x = 1")
    program.refuses("x / 0", "ZeroDivisionError", "division")
    with pytest.raises(ProgramError, match="nothing was raised, expected KeyError"):
        program.refuses("x", "KeyError", "")
    with pytest.raises(ProgramError, match="the last line raised NameError.*\n\nx = 1"):
        program.run("y")
    with pytest.raises(ProgramError, match="x is 1, expected None\n(.*\n)*assert x is None"):
        program.expect("x", None)


@pytest.mark.parametrize("got", ["np.ones(2, np.float32)", "np.ones((1, 2))", "np.array([1.0, 2.0])", "1.0", "None"])
def test_expectations_are_exact(got):
    program = Program(f"import numpy as np\nx = {got}")
    with pytest.raises(ProgramError):
        program.expect("x", np.ones(2))


def test_what_a_program_leaves_open_ends_with_it():
    Program("import minigrad as mg\nmg.no_grad().__enter__()")
    assert tape.recorder.get() is tape.Record


# ---- the reference ---------------------------------------------------------------------------------------------------


def leaf(value):
    node = Node("x", np.array(value), tracked=True)
    node.memory = None
    return node


def result(function, *operands):
    made = Made(lambda *arrays: [np.asarray(function(*arrays))], operands)
    node = Node("y", function(*[operand.value for operand in operands]), True, made)
    node.memory = None
    return node


def gradient(root, g, node):
    return sum(flow.g for flow in flows(root, np.array(g)) if flow.node is node)


def test_the_reference_by_pencil_and_paper():
    """For y = x * x + x and z = y * c, with the cotangent g, the gradient of x is g c (2 x + 1)."""
    x, c = leaf([2.0, -3.0]), leaf([5.0, 7.0])
    y = result(np.add, result(np.multiply, x, x), x)
    z = result(np.multiply, y, c)
    assert gradient(z, [1.0, 2.0], x).tolist() == [25.0, -70.0]
    assert gradient(z, [1.0, 2.0], c).tolist() == [6.0, 12.0]
    assert z.paths == 4


def test_the_reference_undoes_broadcasting_and_keeps_the_numbers_of_then():
    x, m = leaf(2.0), leaf([[1.0, 2.0], [3.0, 4.0]])
    y = result(np.multiply, x, m)
    m.value[...] = 0.0
    assert gradient(y, [[1.0, 1.0], [1.0, 2.0]], x) == 14.0
    assert gradient(y, np.ones((2, 2)), m).tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_an_op_that_is_not_affine_is_refused():
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match="not affine in operand 0"):
        gradient(result(np.square, x), [1.0, 1.0], x)


def test_the_reference_follows_a_walk_that_freed():
    x = leaf([1.0])
    y = result(np.negative, x)
    z = result(np.negative, y)
    assert kept([z]) == {x, y, z}
    z.walked = True
    assert kept([z]) == {z}
