"""A Python number among the arguments of an op does what an array of it does: in values and in gradients, masked or
not, at both orders, in both modes, and in a scan, compiled or not."""

import math

import numpy as np
import pytest

import minigrad as mg

BINARY = [mg.add, mg.subtract, mg.multiply, mg.divide, mg.power, mg.maximum, mg.minimum]
NUMBERS = [0, 0.0, -0.0, 1, True, 2, -1, 0.5, math.inf, -math.inf, math.nan, 1e-320, 1e300]
POINTS = np.array([-2.0, -0.0, 0.0, 0.5, 3.0])
SHOWN = np.array([False, True, False, True, True])


@pytest.fixture(autouse=True)
def _quiet():
    """Singular values are computed, and NumPy says so."""
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("first", [False, True], ids=["second", "first"])
@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
def test_a_number_is_an_array_of_it(op, first, masked):
    def derivatives(number):
        def f(x):
            y = op(number, x) if first else op(x, number)
            return mg.where(SHOWN, y, 0.0) if masked else y

        def gradient(x):
            return mg.grad(lambda x: f(x).sum())(x)

        def tangent(x):
            return mg.jvp(f, (x,), (np.ones_like(x),))[1]

        twice = mg.grad(lambda x: gradient(x).sum())(POINTS)
        return [f(POINTS), gradient(POINTS), tangent(POINTS), twice]

    for number in NUMBERS:
        for ours, expected in zip(derivatives(number), derivatives(np.array(float(number))), strict=True):
            np.testing.assert_array_equal(ours, expected, err_msg=f"{number!r}")


@pytest.mark.parametrize("number", [0.0, 1e-320, 1e-6], ids=str)
def test_a_number_too_large_for_the_dtype_is_infinite(number):
    """1e6 is none of float16, so a mask has to hide it."""
    x = np.ones(3, "float16")
    g = mg.grad(lambda x: mg.where(np.array([True, False, False]), 1.0, x / number).sum())(x)
    assert g.dtype == np.float16
    assert g.tolist() == [0.0, np.inf, np.inf]


def test_a_mean_over_nothing_that_is_masked():
    def mean(x, n):
        return mg.where(n > 0, x.sum() / n, 0.0)

    assert mg.grad(mean)(np.ones(2), 0).tolist() == [0.0, 0.0]
    assert mg.grad(mean)(np.ones(2), 4).tolist() == [0.25, 0.25]


@pytest.mark.parametrize("unroll", [False, True], ids=["compiled", "unrolled"])
@pytest.mark.parametrize(
    "op", [lambda h: h * math.inf, lambda h: h / 0.0, lambda h: h / 1e-320], ids=["inf", "0", "tiny"]
)
def test_in_a_scan(op, unroll):
    xs = np.array([[-1.0, 1.0], [-1.0, -1.0]])

    def final(h):
        return mg.scan(lambda h, x: mg.where(x > 0, op(h), h), xs, h, unroll=unroll)[-1].sum()

    assert mg.grad(final)(np.ones(2)).tolist() == [1.0, np.inf]
