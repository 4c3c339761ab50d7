"""Bugs of memory: writes that meet, arrays that are one and the same, and how they lie."""

from contextlib import suppress
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
import minigrad.hold
from minigrad.ops.elementwise import add, multiply, tanh
from minigrad.ops.indexing import scatter_add
from minigrad.testing import Case, GradientError, replay
from minigrad.testing.mutate import edited
from minigrad.walk import LARGE
from scan_oracle import same


def test_b11_repeated_indices_overwrite():
    """Where an index occurs twice, the gradients were written over each other instead of being added.

    pytorch #1631, mxnet #9172, Paddle #17663. Indices that differ cannot show it.
    """

    def overwrites(xp, g, *, index, shape):
        out = xp.zeros(shape, dtype=g.dtype)
        out[index] = g
        return out

    different, repeated = (Case(((1 + max(at),),), (np.array(at),), {"axis": None}) for at in ([2, 0], [0, 0]))
    replay("take", "P1", repeated)
    with patch.object(scatter_add, "forward", overwrites):
        replay("take", "P1", different)
        with pytest.raises(GradientError, match="argument 0 is wrong"):
            replay("take", "P1", repeated)


def test_b14_a_write_through_a_chain_of_views_goes_unseen():
    """Writing in place through views of views gave silently wrong gradients (pytorch #36608, #49824).

    Here what the tape needs is read-only, with everything that it is a view of, until the tape lets go of it.
    """

    def check():
        base = np.arange(1.0, 7.0)
        x = mg.tensor([1.0, 1.0], requires_grad=True)
        y = x * base[1:][::2][:2]
        with suppress(ValueError):  # NumPy: assignment destination is read-only
            base *= 10.0
        y.backward(np.ones(2))
        same({"gradient": x.grad}, {"gradient": np.array([2.0, 4.0])})

    check()
    only_the_view = edited(minigrad.hold._take, "_take(base, backend, taken)", "None")
    with only_the_view, pytest.raises(AssertionError, match=r"gradient'\] at \[0\]: 20.0, expected 2.0"):
        check()


def test_b15_a_rule_takes_memory_order_for_the_order_of_elements():
    """Backward was wrong where an input or the cotangent was not contiguous.

    pytorch #175188, flash-attention #355, torch/nn #345.
    """

    def as_stored(g, out, values, static, wanted):
        return [g.ravel(order="K").reshape(g.shape) * (1.0 - out * out)]

    case = Case(((2, 3),))
    replay("tanh", "P6", case)
    with patch.object(tanh, "pull", as_stored):
        replay("tanh", "P3", case)
        with pytest.raises(GradientError, match=r"argument 0 depends on the layout of the arrays \(fortran\)"):
            replay("tanh", "P6", case)


def test_b16_one_tensor_as_both_inputs():
    """An op that was given one tensor twice forgot one of the two gradients (MyGrad #93, pytorch #181146)."""
    right = multiply.pull

    def once(g, out, values, static, wanted):
        x, y = right(g, out, values, static, wanted)
        return (x, y * 0.0) if wanted[0] is wanted[1] else (x, y)

    case = Case(((3,), (3,)))
    replay("multiply", "P8", case)
    with patch.object(multiply, "pull", once):
        replay("multiply", "P1", case)
        with pytest.raises(GradientError, match=r"one tensor as arguments \[0, 1\]"):
            replay("multiply", "P8", case)


def test_b17_gradients_are_added_up_in_a_buffer_that_two_share():
    """In `z = x + y; p = x / z` both gradients of the sum are the array dz; x's other one was added to it in place.

    So y's gradient grew as well (oneflow #8248). Here only large gradients are added up in place, and only where an op
    makes new arrays: the same few elements among many must have the gradients that they have alone.
    """

    def gradients(x, y):
        def f(x, y):
            product = x * y  # older than the sum, so its gradients come last, on top of what is there
            return (product / (x + y)).sum()

        return mg.grad(f, argnums=(0, 1))(x, y)

    def check():
        x, y = np.random.default_rng(0).uniform(1.0, 2.0, (2, LARGE + 1))
        few = gradients(x[:3], y[:3])
        same([gradient[:3] for gradient in gradients(x, y)], list(few))

    check()
    in_place = patch.object(add, "gives_new_arrays", True, create=True)
    with in_place, pytest.raises(AssertionError, match=r"^\[0\] at \[0\]: "):
        check()
