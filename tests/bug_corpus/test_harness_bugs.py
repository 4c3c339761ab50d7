"""Bugs that tests did not see because of the tests: too loose, not run, skipped, or unable to fail."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.elementwise import softplus, subtract, subtract_dx
from minigrad.ops.where import where_, where_dx, where_dy
from minigrad.testing import Case, GradientError, Ledger, check_grads, check_vjp, replay, spec_for
from minigrad.testing.ledger import MIN_EXAMPLES, Cell
from minigrad.testing.plugin import stale_exemptions

X = np.array([[3.0, -4.0], [0.5, 0.25]])


def test_b01_renorm_with_the_branches_of_its_gradient_swapped():
    """The gradient of PyTorch's `renorm` took the branches of a `where` for each other; its fast check passed.

    It projected on directions of one sign, with a tolerance as wide as that made it (pytorch #59584, #59557, #59615).
    """

    def renorm(x):
        length = mg.norm(x, axis=1, keepdims=True)
        return mg.where(length > 1.0, x / length, x)

    assert check_grads(renorm, X).ok
    swapped = patch.dict(where_.vjps, {1: where_dy, 2: where_dx})
    with swapped, pytest.raises(GradientError, match=r"reverse mode: the derivative of f with respect to args\[0\]"):
        check_grads(renorm, X, order=1)


@pytest.mark.parametrize("module", ["checks", "properties"])
def test_b02_the_checker_returns_early(module):
    """Chainer's gradient check returned before it compared anything, and passed everything (chainer #3541, #3542)."""

    def check():
        with pytest.raises(GradientError):
            check_vjp(np.exp, X, vjp=lambda g, out, x: 1.001 * g * out)
        with patch.object(subtract, "partials", [subtract_dx, subtract_dx]), pytest.raises(GradientError):
            replay("subtract", "P1", Case(((2, 2), (2,))))

    check()
    early = patch(f"minigrad.testing.{module}.judge", lambda *args, **options: [])
    with early, pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check()


def test_b03_a_wrong_sign_behind_a_test_that_does_not_run():
    """A gradient of autograd's covariance had the wrong sign; a typo kept its tests from running (autograd #412)."""

    def suite(*, runs):
        ledger, cell = Ledger(), Cell("subtract", "P1", "numpy")
        for seed in range(MIN_EXAMPLES if runs else 0):
            ledger.accept(cell, 2, replay("subtract", "P1", Case(((2, 3), (3,))), seed=seed))
        return ledger.problems([cell], {})

    assert suite(runs=True) == []
    with patch.object(subtract, "partials", [subtract_dx, subtract_dx]):
        with pytest.raises(GradientError, match="argument 1 is wrong") as error:
            suite(runs=True)
        assert suite(runs=False) == ["P1 of subtract on numpy: 0 examples compared anything, 5 are needed"]
    assert "analytic = -1 * expected, everywhere" in str(error.value)


def test_b28_a_wrong_second_derivative_behind_a_skip():
    """Forward over reverse of a cross-entropy was silently wrong, and its test was skipped (pytorch #79609).

    Here that is one of four mixtures that every op is tested in, and an exemption that is not needed fails.
    """

    def constant_slope(out, x):
        return mg.sigmoid(mg.stop_gradient(x))

    case = Case(((3,),))
    skipped = replace(spec_for("softplus"), exempt={"P13": "pytorch #79609"})
    replay("softplus", "P13", case)
    with patch.object(softplus, "partials", [constant_slope]):
        replay("softplus", "P1", case)
        with pytest.raises(GradientError, match="the derivative of the gradient is wrong") as error:
            replay("softplus", "P13", case)
        assert stale_exemptions(skipped) == []
    assert "forward over reverse" in str(error.value)
    assert stale_exemptions(skipped) == ["P13"]
