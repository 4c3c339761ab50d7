"""Bugs at special points: zeros in a product, nothing at all, ties, branches that are not taken, kinks."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.elementwise import maximum
from minigrad.ops.reductions import _kept, cumsum_
from minigrad.tape import constant
from minigrad.testing import Case, GradientError, check_grads, replay, spec_for
from minigrad.testing.adapters import Minigrad
from minigrad.testing.properties import p9_kink
from minigrad.walk import Walk
from scan_oracle import same


def check_kinks(spec):
    assert spec.kinks
    for kink in spec.kinks:
        p9_kink(spec, kink, Minigrad())


def test_b12_the_gradient_of_a_product_divides_by_zero():
    """The product's gradient was the product divided by the element: NaN at a zero, where the true one is finite.

    The tests had drawn no zeros (pytorch #82644, #106789, pytensor #1956, burn #3864).
    """

    @mg.custom_op(vjp=lambda g, out, x: (g * out / x,))
    def dividing(x):
        return np.asarray(np.prod(x))

    spec = spec_for("prod")
    check_kinks(spec)
    same({"gradient": mg.grad(dividing)(np.array([2.0, 4.0]))}, {"gradient": np.array([4.0, 2.0])})
    with pytest.raises(GradientError, match="breaks the convention with one zero") as error:
        check_kinks(replace(spec, fn=lambda x, axis: dividing(x)))
    assert "1 of 3 elements are not finite" in str(error.value)


def test_b13_cumsum_of_nothing():
    """The backward of cumsum and cumprod failed on empty arrays (pytorch #31515, #31782)."""

    def from_the_last(g, out, x, *, axis):
        sums = cumsum_(g, axis=axis)
        return mg.take(sums, [-1], axis=axis) - sums + g

    empty = [Case((shape,), kwargs={"axis": 0}) for shape in ((0,), (0, 2))]
    for case in empty:
        replay("cumsum", "P7", case)
    with patch.dict(cumsum_.vjps, {0: from_the_last}):
        replay("cumsum", "P7", Case(((3,),), kwargs={"axis": 0}))
        for case in empty:
            with pytest.raises(IndexError, match="index -1 lies outside an axis of size 0"):
                replay("cumsum", "P7", case)


def test_b23_each_of_several_maxima_gets_the_whole_gradient():
    """Where k elements tie, each got the whole gradient: k times what there was (mxnet #18563, pytorch #56734, #43519).

    Two equal arguments of `maximum` are the same bug.
    """

    def all_of_it(out, x, axis):
        return (constant(x) == _kept(constant(out), x, axis)).astype(x.dtype)

    both = [lambda out, x, y: (out == x).astype(out.dtype), lambda out, x, y: (out == y).astype(out.dtype)]
    for name, bug in (
        ("max", patch("minigrad.ops.reductions._ties", all_of_it)),
        ("min", patch("minigrad.ops.reductions._ties", all_of_it)),
        ("maximum", patch.object(maximum, "partials", both)),
    ):
        check_kinks(spec_for(name))
        with bug, pytest.raises(GradientError, match="breaks the convention ties split"):
            check_kinks(spec_for(name))


def test_b24_the_branch_not_taken_poisons_the_gradient():
    """`where` passed 0 to the branch that it did not take, whose infinite derivative made NaN of it.

    jax #1052, #2630, #5798, pytorch #68425, tinygrad #12409.
    """

    def check():
        def root(x):
            return mg.where(x > 0, mg.sqrt(x), 0.0).sum()

        x = np.array([0.0, 4.0])
        slopes = mg.grad(root)
        same(
            {"first": slopes(x), "second": mg.grad(lambda x: slopes(x).sum())(x)},
            {"first": np.array([0.0, 1 / 4]), "second": np.array([0.0, -1 / 32])},
        )

    check()
    plain = patch.object(Walk, "_optimistic", lambda walk, run: run())  # products in which 0 times inf is NaN
    with (
        plain,
        np.errstate(all="ignore"),
        pytest.raises(AssertionError, match=r"'first'\] at \[0\]: nan, expected 0.0"),
    ):
        check()


def test_b25_the_norm_at_zero():
    """The gradient of a norm at 0 was 0 / 0 (pytorch #2421, autograd #151, open since 2016, jax #3058)."""
    spec = spec_for("norm")
    check_kinks(spec)
    with (
        patch("minigrad.ops.reductions._direction", lambda out, x, axis: x / _kept(out, x, axis)),
        pytest.raises(GradientError, match=r"breaks the convention norm'\(0\) = 0") as error,
    ):
        check_kinks(spec)
    assert "2 of 2 elements are not finite" in str(error.value)


def test_b29_the_gradient_of_a_product_is_cut_off_at_two_zeros():
    """With two zeros or more, the gradient of a product was a constant: its own gradient wrongly 0 (pytorch #106789).

    Of first order it is right, at the same points.
    """

    def cut_off(x):
        others = mg.stack([mg.prod(mg.concatenate([x[:k], x[k + 1 :]])) for k in range(3)])
        start = mg.stop_gradient(x)
        return mg.prod(start) + (mg.stop_gradient(others) * (x - start)).sum()

    x = np.array([2.0, 0.0, 0.0])
    assert check_grads(mg.prod, x, order=2).ok
    assert check_grads(cut_off, x, order=1).ok
    with pytest.raises(GradientError, match="reverse mode: the derivative of the gradient of f") as error:
        check_grads(cut_off, x, order=2)
    assert "the analytic gradient is 0 everywhere" in str(error.value)
