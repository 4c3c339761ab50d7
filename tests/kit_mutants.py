"""Mutants of the testing kit itself: a checker that cannot fail passes everything, and nobody hears of it.

Each makes the kit blind in one way, and names the test of the kit that must then fail. Source of the idea: a gradient
check that returned too early passed every wrong gradient for months (Chainer, issue 3541).
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import strategies as st

import minigrad as mg
import test_ledger
import test_the_checker as checker
from minigrad.testing import (
    GradientError,
    calls,
    check_grads,
    check_vjp,
    checks,
    compare,
    examples,
    ledger,
    numeric,
    plugin,
    properties,
    report,
)
from minigrad.testing.mutate import Patch, edited, patched
from minigrad.testing.mutate.patch import attribute
from minigrad.testing.specs import Case, spec_for
from minigrad.testing.trial import Trial
from plain_rules import RULES


def every(test):
    """The test with each of its parameters."""

    def run():
        (mark,) = [mark for mark in test.pytestmark if mark.name == "parametrize"]
        for values in mark.args[1]:
            test(*values) if isinstance(mark.args[0], tuple) else test(values)

    return run


def check_wrong_rules():
    """Each wrong rule of the checker's tests is refused for its own reason."""
    (mark,) = checker.test_a_wrong_rule_is_caught_for_its_reason.pytestmark
    for problem, rule in mark.args[1]:
        with pytest.raises(GradientError) as error:
            check_vjp(np.multiply, checker.X, checker.Y, vjp=rule)
        assert problem in error.value.report.problem


def second_wrong(g, out, x, y):
    gx, gy = RULES["multiply"](g, out, x, y)
    return gx, np.asarray(gy * 1.00001 + 1e-6)


def check_both_arguments():
    """A property that compares gradients compares those of every argument."""
    for prop in ("P1", "P2", "P3"):
        with pytest.raises(GradientError):
            checker.examples("multiply", second_wrong, [prop], 10)


CASE = Case(((2,),))
BROKEN = replace(
    spec_for("tanh"),
    name="tanh, but its reference is sin",
    ref=spec_for("sin").ref,
    cases=st.just(CASE),  # one, so that Hypothesis has little to shrink
)


def check_examples_are_checked():
    with pytest.raises(GradientError):
        plugin.run_example(BROKEN, "P1", CASE, 0, "numpy")


def check_op_tests_can_fail():
    with pytest.raises(GradientError):
        plugin.op_test("P1")(minigrad_spec=BROKEN, minigrad_backend="numpy")


def check_op_tests_fill_the_ledger():
    cell = ledger.Cell("tanh, for the ledger", "P4", "numpy")
    plugin.LEDGER.entries.pop(cell, None)
    plugin.op_test("P4")(minigrad_spec=replace(spec_for("tanh"), name=cell.op), minigrad_backend="numpy")
    assert plugin.LEDGER.entries[cell].accepted >= ledger.MIN_EXAMPLES


def check_promises():
    """What has compared nothing, and what was rejected, does not count."""
    (problem,) = test_ledger.filled(compared=()).problems([test_ledger.CELL], {})
    assert "0 examples compared anything" in problem
    assert test_ledger.filled(rejected=2).problems([test_ledger.CELL], {})
    assert test_ledger.filled().problems([test_ledger.CELL], {}) == []


def check_order_2():
    cube = mg.custom_op(
        lambda x: x**3,
        vjp=lambda g, out, x: (g * 3.0 * mg.stop_gradient(x) * x,),
        jvp=lambda tangents, out, x: tangents[0] * 3.0 * x * x,
    )
    with pytest.raises(GradientError, match="derivative of the gradient"):
        check_grads(lambda x: cube(x), checker.X, order=2)


def check_purity():
    """P5 sees a rule that writes into its cotangent."""

    def rule(g, out, x):
        g *= 2.0
        return g * 0.5 * (1 - out * out)

    with pytest.raises((GradientError, ValueError)):
        checker.examples("tanh", rule, ["P5"], 10)


@contextmanager
def dropped(prop):
    """A property that has left the table."""
    before = dict(properties.PROPERTIES)
    del properties.PROPERTIES[prop]
    try:
        yield
    finally:
        properties.PROPERTIES.clear()
        properties.PROPERTIES.update(before)


def ones(out, rng):
    return compare.map_result(lambda leaf: np.ones(np.shape(leaf)), out)


KINKS = every(checker.test_kinks_are_seen)

EDITS = (
    # comparisons
    ("the tolerance is a million times wider", compare.judge, "    scale = max(", "    tol *= 1e6\n    scale = max(",
     check_wrong_rules),
    ("no verdict is a good verdict", compare._untrustworthy, "if not np.all(allowed <= limit):", "if False:",
     checker.test_where_differences_are_helpless_nothing_passes),
    ("kinks are judged", compare._untrustworthy, "if np.any(estimate.kink):", "if False:",
     checker.test_kinks_are_refused_not_judged),
    ("kinks are not seen", numeric._richardson, "gap[2] > 0.5 * gap[0]", "gap[2] > 9.0 * gap[0]", KINKS),
    ("NaN is no error", report.deviations, "np.where(np.isnan(error), np.inf, error)",
     "np.where(np.isnan(error), 0.0, error)", checker.test_gradients_that_are_not_finite_are_wrong),
    ("shapes are not compared", compare.same_kind, "if shape != wanted:", "if False:",
     checker.test_missing_unbroadcast),
    ("dtypes are not compared", compare.same_kind, "if grad.dtype != arg.dtype:", "if False:", check_wrong_rules),
    ("a negated cotangent is not tried", compare.homogeneous, "(-1.0, ", "(1.0, ", check_wrong_rules),
    ("a cotangent of zero is not tried", compare.homogeneous, "(0.0, ", "(2.0, ", check_wrong_rules),
    ("equality is within a thousandth", compare.exactly, "got, np.asarray(expected, np.float64), 0.0, label",
     "got, np.asarray(expected, np.float64), 1e-3, label", checker.test_check_linear_needs_no_tolerance),
    ("linearity is taken on trust", compare.exact_adjoint, "if flatten(f(*copies(args)))",
     "if False and flatten(f(*copies(args)))",
     checker.test_check_linear_needs_no_tolerance),
    # differences
    ("all elements move at once", numeric._units, "unit[index] = 1.0", "unit[...] = 1.0",
     checker.test_differences_of_a_function_that_returns_a_view),
    ("differences forget the cotangent", numeric.derivative_along,
     "None if cotangent is None else flatten(cotangent)", "None if cotangent is None else flatten(cotangent) * 0 + 1",
     checker.test_differences_of_a_function_that_returns_a_view),
    # what is asked
    ("the last argument is skipped", calls.chosen_arguments, "return floating if argnums is None",
     "return (floating[:-1] or floating) if argnums is None", checker.test_one_argument_only),
    ("float64 is the only dtype", checks._check_dtype, "a.astype(dtype) if", "a if", check_wrong_rules),
    ("the rule is asked once", checks._compare_rule, "if not all(same_bits(a, b)",
     "if False and not all(same_bits(a, b)", checker.test_nondeterministic_functions_and_rules_are_named_as_such),
    ("the function is asked once", calls.forward, "if not same_bits(flatten(out), flatten(again)):", "if False:",
     checker.test_nondeterministic_functions_and_rules_are_named_as_such),
    ("rules may write", calls.call_rule, "if not same_bits(before, after):", "if False:",
     every(checker.test_writing_into_what_is_lent_is_caught)),
    ("functions may write", calls.forward, "not same_bits(before, after)", "False",
     every(checker.test_writing_into_what_is_lent_is_caught)),
    ("order 2 is not looked at", checks._check_order, "if order < last:", "if False:", check_order_2),
    # examples and their ledger
    ("every failure is a rejected example", examples.run_example, "except Rejected:", "except Exception:",
     check_examples_are_checked),
    ("examples are drawn and dropped", plugin._many_examples, "if not run_example(", "if False and not run_example(",
     check_op_tests_can_fail),
    ("one example is drawn", plugin._many_examples, "max(FEWEST, int(_profile().max_examples * share))", "1",
     check_op_tests_fill_the_ledger),
    ("examples that compare nothing are accepted", ledger.Ledger.accept, "+= bool(compared)", "+= 1", check_promises),
    ("rejected examples are forgotten", ledger.Ledger.reject, ".rejected += 1", ".rejected += 0", check_promises),
    ("no argument is missed", ledger.Ledger.problems, "if count == always and", "if False and",
     every(test_ledger.test_an_empty_promise_is_a_problem)),
    ("no structure is missed", ledger.Ledger.problems, 'if cell.prop == "P7"', "if False",
     test_ledger.test_missing_structure_is_a_problem),
    ("processes overwrite each other", ledger.Ledger.merge, "self.entries.setdefault(Cell(*cell), Entry()).add(new)",
     "self.entries[Cell(*cell)] = new", test_ledger.test_ledgers_of_several_processes_add_up),
    ("a property is not expected", ledger.expected_cells, "if prop.applies(spec)",
     'if prop.applies(spec) and prop.id != "P13"',
     test_ledger.test_every_cell_is_expected),
    ("an op needs no spec", ledger.registry_problems, "sorted(ops - set(by_name))", "()",
     test_ledger.test_an_op_without_a_spec_is_a_problem),
    ("a spec needs no op", ledger.registry_problems, "sorted(set(by_name) - ops)", "()",
     test_ledger.test_a_spec_without_an_op_is_a_problem),
    ("exemptions never go stale", plugin._fails, "return True\n    return False",
     "return True\n    return True",
     test_ledger.test_an_exemption_that_is_not_needed_is_stale),
)  # fmt: skip

KIT = [Patch(name, partial(edited, function, old, new), check) for name, function, old, new, check in EDITS] + [
    Patch("every comparison holds", partial(attribute, report.Deviation, "excess", property(lambda self: 0.0)),
          check_wrong_rules),
    Patch("a cotangent of ones", partial(patched, compare.random_cotangent, ones),
          checker.test_a_cotangent_of_ones_would_be_blind),
    Patch("homogeneity is not asked for", partial(patched, compare.homogeneous, lambda *args: None), check_wrong_rules),
    Patch("the exact check takes what it is given", partial(patched, compare.exact_adjoint, lambda *args: []),
          checker.test_check_linear_needs_no_tolerance),
    Patch("integers are zeros", partial(patched, compare.integers, lambda rng, shape: np.zeros(shape)),
          checker.test_check_linear_needs_no_tolerance),
    Patch("properties skip the last argument",
          partial(attribute, Trial, "argnums", property(lambda self: range(len(self.host) - 1))), check_both_arguments),
    Patch("examples are not checked", partial(patched, properties.check, lambda *args: [0]),
          check_examples_are_checked),
    Patch("the ledger has no problems", partial(attribute, ledger.Ledger, "problems", lambda *args: []),
          check_promises),
    Patch("same bits are not looked at", partial(patched, compare.same_bits, lambda a, b: True),
          every(checker.test_writing_into_what_is_lent_is_caught)),
    Patch("a property is dropped", partial(dropped, "P3"), checker.test_every_property_is_listed_once),
]  # fmt: skip
