"""Bugs of shape: broadcasting that is not undone, axes of length 1, an input that is forgotten."""

from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.linalg import einsum_
from minigrad.ops.shape import broadcast_to_, concatenate_, concatenate_dxs
from minigrad.ops.where import where_
from minigrad.tape import constant
from minigrad.testing import Case, GradientError, Ledger, check_grads, replay, spec_for
from minigrad.testing.ledger import expected_cells

X = np.array([0.25, -1.5, 0.75])


def test_b04_where_does_not_undo_broadcasting():
    """autograd's `where` gave gradients of the broadcast shape, without an error (autograd #396, alive in 1.9.1).

    Its test had operands of one shape, with which the rule is right.
    """

    def as_it_comes(g, out, values, static, wanted):
        condition = values[0]
        return [None, mg.where(condition, g, 0.0), mg.where(condition, 0.0, g)]

    condition = np.array([True, False, True])
    equal, broadcast = Case(((3,), (3,)), (condition,)), Case(((2, 1), (3,)), (condition,))
    replay("where", "P1", broadcast)
    with patch.object(where_, "pull", as_it_comes):
        replay("where", "P1", equal)
        with pytest.raises(GradientError, match=r"has shape \(2, 3\), the argument has \(2, 1\)") as error:
            replay("where", "P1", broadcast)
    assert "broadcasting is not undone" in str(error.value)


def test_b05_broadcast_to_cannot_undo_new_axes():
    """autograd's rule of `broadcast_to` compared the two shapes from the left, so that new axes broke it.

    Its suite never ran the rule (autograd #384, open since 2018).
    """

    def aligned_left(g, out, values, static, wanted):
        (x,) = values
        stretched = tuple(k for k, (n, m) in enumerate(zip(x.shape, g.shape, strict=False)) if n != m)
        return [g.sum(axis=stretched, keepdims=True)]

    never_ran = Ledger().problems(expected_cells([spec_for("broadcast_to")], ["numpy"]), {})
    assert "P1 of broadcast_to on numpy: 0 examples compared anything, 5 are needed" in never_ran
    stretch, new_axis = Case(((1, 3),), ((2, 3),)), Case(((3,),), ((2, 3),))
    replay("broadcast_to", "P1", new_axis)
    with patch.object(broadcast_to_, "pull", aligned_left):
        replay("broadcast_to", "P1", stretch)
        with pytest.raises(GradientError, match=r"has shape \(1, 3\), the argument has \(3,\)"):
            replay("broadcast_to", "P1", new_axis)


def einsum_by_the_book(order):
    """The textbook's gradient of an einsum: the cotangent in the operand's place, its labels in the given order."""

    def pull(g, out, values, static, wanted):
        inputs, output = static["inputs"], static["output"]
        gradients = []
        for k, labels in enumerate(inputs):
            others, names = [*values[:k], *values[k + 1 :]], (*inputs[:k], *inputs[k + 1 :])
            gradients.append(einsum_(g, *others, inputs=(output, *names), output="".join(order(labels))))
        return gradients

    return pull


def test_b06_einsum_does_not_undo_a_stretched_axis():
    """autograd's einsum gradient had the wrong shape where an axis of length 1 met a longer one (autograd #376)."""
    equal = Case(((2, 3), (3,)), kwargs={"subscripts": "ij,j->i"})
    stretched = Case(((2, 1), (3,)), kwargs={"subscripts": "ij,j->i"})
    replay("einsum", "P1", stretched)
    with patch.object(einsum_, "pull", einsum_by_the_book(list)):
        replay("einsum", "P1", equal)
        with pytest.raises(GradientError, match=r"has shape \(2, 3\), the argument has \(2, 1\)"):
            replay("einsum", "P1", stretched)


def test_b10_a_custom_rule_broadcasts_with_what_it_closes_over():
    """JAX's custom_jvp let a closed-over array broadcast: the gradient by a number was an array (jax #3056).

    Here the engine refuses such a rule; without that, the kit does.
    """
    a, x = np.array([1.0, 1.0]), np.array(1.5)

    def scaled(rule):
        return mg.custom_op(lambda x: a * x, vjp=rule, jvp=lambda tangents, out, x: a * tangents[0])

    def forgetful(g, out, x):
        return (g * a,)

    assert check_grads(scaled(lambda g, out, x: ((g * a).sum(),)), x, order=1).ok
    broken = scaled(forgetful)
    with pytest.raises(ValueError, match=r"returned a gradient of shape \(2,\) for an argument of shape \(\)"):
        mg.grad(lambda x: broken(x).sum())(x)
    with (
        patch.object(type(broken), "pull", lambda op, g, out, values, static, wanted: op.rule(g, out, *values)),
        pytest.raises(GradientError, match=r"has shape \(2,\), the argument has \(\)"),
    ):
        check_grads(broken, x, order=1)


def test_b26_concatenate_remembers_its_first_input_only():
    """Of a concatenation one input was on the tape, so that of a grouped convolution one group learned (taper #19).

    The library's test asked for any element that is not zero.
    """

    def first_only(g, out, values, static, wanted):
        first, *rest = concatenate_dxs(g, out, values, static, wanted)
        return [first, *[part * 0.0 for part in rest]]

    case = Case(((2,), (3,)), kwargs={"axis": 0})
    replay("concatenate", "P1", case)
    with patch.object(concatenate_, "pull", first_only):
        gradients = mg.grad(lambda x, y: mg.concatenate([x, y]).sum(), argnums=(0, 1))(X, X)
        assert any(constant(gradient).any() for gradient in gradients)
        with pytest.raises(GradientError, match="argument 1 is wrong") as error:
            replay("concatenate", "P1", case)
    assert "the analytic gradient is 0 everywhere" in str(error.value)


def test_b27_einsum_puts_a_gradient_down_in_another_order():
    """MXNet's einsum gradient was wrong in several ways, also for a plain batched product (mxnet #18102).

    The first case is the issue's. In the second every shape is right, since the matrix is square.
    """
    reported = Case(((1, 1, 5, 3), (1, 1, 3, 2)), kwargs={"subscripts": "bnij,bnjc->bnic"})
    square = Case(((2, 2), (2, 3)), kwargs={"subscripts": "ji,jk->ik"})
    for case in (reported, square):
        replay("einsum", "P2", case)
    with patch.object(einsum_, "pull", einsum_by_the_book(sorted)):
        with pytest.raises(GradientError, match=r"has shape \(1, 5, 3, 1\), the argument has \(1, 1, 5, 3\)"):
            replay("einsum", "P2", reported)
        with pytest.raises(GradientError, match="argument 0 is wrong") as error:
            replay("einsum", "P2", square)
    assert "exact: small integers, compared with ==" in str(error.value)
    assert "analytic = expected, transposed" in str(error.value)
