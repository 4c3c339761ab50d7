"""Bugs of loops over time: inputs that get no gradient, and what goes on past the end of a sequence."""

from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest

import minigrad as mg
from minigrad.backend import get_backend
from minigrad.ops.where import where_
from minigrad.scan import loop as unrolled
from minigrad.scan import run as compiled
from minigrad.scan.compiled import CompiledScan, Saved
from minigrad.scan.problem import Problem
from minigrad.tape import constant
from minigrad.testing import GradientError, check_grads
from minigrad.walk import Walk
from scan_oracle import agree, first_order, loop, ragged, same

T, B, H = 4, 2, 3
LENGTHS = [2, 4]
RNG = np.random.default_rng(0)
AT = {
    "x": RNG.normal(size=(T, B, H)),
    "h": RNG.normal(size=(B, H)),
    "U": RNG.normal(size=(H, H)) / 2,
}


def rnn(U):
    """A vanilla recurrence, which closes over its matrix."""
    return lambda h, x: mg.tanh(x + h @ U)


def states(at, scan=mg.scan, **options):
    return [scan(rnn(at["U"]), at["x"], at["h"], **options)]


def check_against(oracle, f, at=AT):
    """Values, gradients by everything in `at` and a tangent agree with those of a plain loop."""
    agree(first_order(f, at, seed=1), first_order(oracle, at, seed=1))


# ---- who gets a gradient -------------------------------------------------------------------------------------------


def without_gradients(of):
    """The method that collects the gradients of a compiled scan, with some of them lost."""
    right = CompiledScan._by_place

    def lost(scan, derivative, finals, stacks, sums):
        parts = {"finals": finals, "stacks": stacks, "sums": sums}
        for name in of:
            parts[name] = [constant(part) * 0.0 for part in parts[name]]
        return right(scan, derivative, **parts)

    return patch.object(CompiledScan, "_by_place", lost)


def test_b07_the_sequence_gets_gradients_of_zero():
    """In reverse mode the gradient of JAX's scan by `xs` was 0; forward mode was right (jax #753, #748, #749)."""

    def check():
        check_against(lambda at: states(at, loop), states)

    check()
    with (
        without_gradients(of=["stacks"]),
        pytest.raises(AssertionError, match=r"gradient by x'\] at .*: -?0.0, expected"),
    ):
        check()


def test_b08_the_state_after_a_step_is_taken_for_the_one_before():
    """A power by repeated products, in a scan with a condition, had the slope 324 at 3 instead of 108 (jax #5900)."""

    def power(x):
        return mg.scan(lambda p, go: mg.where(go, p * x, p), np.ones(4, bool), 1.0)[-1]

    def check():
        assert mg.grad(power)(3.0) == 4 * 3.0**3

    right = Saved.residuals

    def one_late(saved, flags, lent, reverse):
        kept = right(saved, flags, lent, reverse)
        return [array * 3.0 if array.shape == (4,) else array for array in kept]  # the next power for every power

    check()
    with patch.object(Saved, "residuals", one_late), pytest.raises(AssertionError, match="324"):
        check()


def test_b09_what_a_body_closes_over_is_taken_for_a_constant():
    """In a scan JAX lost sight of what is being differentiated, and silently gave gradients of 0 (jax #9567).

    So every subset of what can be differentiated is, the matrix that the body closes over included.
    """

    def check():
        for names in (subset for n in (1, 2, 3) for subset in combinations(AT, n)):
            tracked = {name: AT[name] for name in names}
            check_against(lambda at: states(AT | at, loop), lambda at: states(AT | at), tracked)

    right = compiled._run_all

    def forgets(problem, scan, drawn, captured, interval):
        return right(problem, scan, drawn, [constant(value) for value in captured], interval)

    check()
    with patch.object(compiled, "_run_all", forgets), pytest.raises(AssertionError, match="gradient by U"):
        check()


def test_b30_a_backward_pass_that_never_writes_its_result(minigrad_backend):
    """thinc's generic LSTM made an array for its gradients and never wrote into it: all were 0 (its ops.py, 9.1.1).

    Two tests ran it and looked at shapes. Here every backend is differentiated, by value.
    """
    x = get_backend(minigrad_backend).asarray(AT["x"][:, :1, :2])

    def outputs(x):
        return mg.nn.dynamic_rnn(cell, x, time_major=True)[0]

    with mg.use_backend(minigrad_backend):
        cell = mg.nn.LSTMCell(2, 2, dtype="float64", seed=0)
        assert check_grads(outputs, x, order=1).ok
        with without_gradients(of=["finals", "stacks", "sums"]):
            assert mg.grad(lambda x: outputs(x).sum())(x).shape == x.shape
            with pytest.raises(GradientError, match=r"with respect to args\[0\] is wrong") as error:
                check_grads(outputs, x, order=1)
    assert "the analytic gradient is 0 everywhere" in str(error.value)


# ---- sequences of different lengths --------------------------------------------------------------------------------


def check_rows(scan=mg.scan, lengths=LENGTHS, reverse=False):
    """A padded batch is a loop over its rows, each for its own length."""
    options = {"lengths": lengths, "reverse": reverse}
    check_against(lambda at: states(at, ragged, **options), lambda at: states(at, scan, **options))


def test_b18_backward_does_not_know_of_the_lengths():
    """The backward of MXNet's LSTM with sequence lengths raised: it counted its inputs as if there were none.

    Forward worked, and no test went backward (mxnet #15268).
    """
    right = CompiledScan.pull

    def without_lengths(scan, g, out, values, static, wanted):
        return right(scan, g, out, values, {"steps": static["steps"]}, wanted)

    check_rows()
    with patch.object(CompiledScan, "pull", without_lengths):
        agree(states(AT, lengths=LENGTHS), states(AT, ragged, lengths=LENGTHS))
        with pytest.raises(KeyError, match="rows"):
            check_rows()


def test_b19_the_first_mask_is_used_at_every_step():
    """Zoneout drew a mask for every step and used the first of them at all steps (haste #43)."""

    def draw():
        return mg.random.bernoulli((B, H), seed=0)

    _, masks = mg.scan(lambda state, x: (state, draw()), AT["x"], 0.0, has_output=True, unroll=True)
    assert len(np.unique(masks, axis=0)) == T

    def zoneout(keep, h, x, U):
        return keep * h + (1.0 - keep) * mg.tanh(x + h @ U)

    def drawn(at):
        return [mg.scan(lambda h, x: zoneout(draw(), h, x, at["U"]), at["x"], at["h"])]

    def given(at):
        return [loop(lambda h, x: zoneout(x["keep"], h, x["x"], at["U"]), {"x": at["x"], "keep": masks}, at["h"])]

    right = compiled._drawn

    def always_the_first(make, steps, backend):
        return right(lambda at: make((*at[:-1], 0)), steps, backend)

    check_against(given, drawn)
    with patch.object(compiled, "_drawn", always_the_first), pytest.raises(AssertionError, match="gradient by U"):
        check_against(given, drawn)


def test_b20_a_sequence_is_turned_round_with_its_padding():
    """Going backwards, Theano's scan did not cut a sequence that was longer than needed before turning it round.

    So it began in what should have been left out (Theano #166). With full lengths nothing is wrong.
    """

    def turned_whole(fn, elems, state, lengths, reverse):
        return mg.flip(mg.scan(fn, mg.flip(elems, 0), state, lengths=lengths), 0)

    check_rows(reverse=True)
    check_rows(turned_whole, lengths=[T, T], reverse=True)
    with pytest.raises(AssertionError, match="gradient by U"):
        check_rows(turned_whole, reverse=True)


def test_b21_one_mask_for_states_of_every_rank():
    """Keras made its mask for the output and used it for states of other ranks too (keras #11499).

    Between a mask (2, 1) and a state (2, 2, 3) broadcasting then finds a wrong way, without an error.
    """

    def matrices(at, scan=mg.scan, **options):
        def body(state, x):
            h, M = state
            return mg.tanh(x + h @ at["U"]), M * 0.5 + mg.expand_dims(h, 1)

        h, M = scan(body, at["x"], (at["h"], at["M"]), lengths=LENGTHS, **options)
        return [h, M]

    def check(**options):
        check_against(lambda at: matrices(at, ragged), lambda at: matrices(at, **options), AT | {"M": M})

    def of_the_output(going, new, otherwise):
        return where_(going.reshape(-1, 1), new, otherwise)

    M = np.random.default_rng(1).normal(size=(B, 2, H))
    check()
    check(unroll=True)
    with patch.object(unrolled, "_chosen", of_the_output), pytest.raises(AssertionError, match="gradient by M"):
        check(unroll=True)


@pytest.mark.parametrize("reverse", [False, True])
def test_b22_nan_in_the_padding(reverse):
    """A wrapper of cuDNN's LSTM gave NaN in backward, and mixed up rows with lengths read backwards (jax #15183).

    Here two things keep NaN out, and each suffices: padding never enters the arithmetic, and in a gradient 0 times NaN
    is 0. With zeros in the padding the bug would not show.
    """

    def answers(x, unroll):
        def f(at):
            return states(at, lengths=LENGTHS, reverse=reverse, unroll=unroll)

        out, pull = mg.vjp(f, AT | {"x": x})
        (gradients,) = pull([np.ones((T, B, H))])
        return {"out": out, "gradients": gradients}

    def check():
        poisoned = AT["x"].copy()
        poisoned[LENGTHS[0] :, 0] = np.nan
        for unroll in (False, True):
            got = answers(poisoned, unroll)
            same(got, answers(AT["x"], unroll))
            assert not got["gradients"]["x"][LENGTHS[0] :, 0].any()

    enters = patch.object(Problem, "replace_padding", lambda problem: None)
    multiplies = patch.object(Walk, "_optimistic", lambda walk, run: run())
    check()
    for one in (enters, multiplies):
        with one:
            check()
    with enters, multiplies, pytest.raises(AssertionError, match=r"gradients.* at \[0, 0\]: nan, expected"):
        check()
