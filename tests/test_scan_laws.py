"""The laws of scan hold for every cell, on every backend; and what is broken is caught by the law meant to catch it."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import random
from minigrad.nn.wrappers import LearnedState, Residual
from minigrad.scan import clear_cache, compiled, differentiate, loop, rows, run
from minigrad.scan import program as programs
from minigrad.testing import GradientError, NondeterministicError, NondifferentiableError
from minigrad.testing.mutate import edited, patched
from minigrad.testing.scan_exact import check_exact_bptt
from minigrad.testing.scan_laws import SCAN_LAWS, check_scan
from minigrad.testing.scan_trial import Given, ScanTrial
from minigrad.training import truncated

rnn, gru, lstm = (partial(cell, 2, 3, seed=0) for cell in (mg.nn.RNNCell, mg.nn.GRUCell, mg.nn.LSTMCell))

NETS = {
    "rnn": rnn,
    "rnn of softplus": lambda: rnn(activation=mg.softplus),
    "gru": gru,
    "gru, after": lambda: gru(reset="after"),
    "gru, write": lambda: gru(update="write"),
    "gru, write, after": lambda: gru(update="write", reset="after"),
    "lstm": lstm,
    "lstm, peepholes": lambda: lstm(peepholes=True),
    "lstm, projection": lambda: lstm(projection=2),
    "lstm, clip": lambda: lstm(clip=0.5),
    "lstm, coupled": lambda: lstm(coupled=True),
    "lstm, layer norm": lambda: lstm(layer_norm=True),
    "residual": lambda: Residual(mg.nn.GRUCell(2, 2, seed=0)),
    "learned state": lambda: LearnedState(lstm()),
    "dropout": lambda: mg.nn.Dropout(gru(), input=0.3, output=0.5, state=0.4),
    "dropout of a sequence": lambda: mg.nn.Dropout(lstm(), output=0.5, state=0.4, per_sequence=True),
    "deep": lambda: mg.nn.Deep([gru(), mg.nn.LSTMCell(3, 2, seed=1)]),
    "deep, dropout between": lambda: mg.nn.Deep([mg.nn.Dropout(rnn(), output=0.5), mg.nn.RNNCell(3, 2, seed=1)]),
    "bidirectional": lambda: mg.nn.Bidirectional(gru(), mg.nn.LSTMCell(2, 2, seed=1)),
    "bidirectional, exclusive": lambda: mg.nn.Bidirectional(rnn(), mg.nn.RNNCell(2, 3, seed=1), "sum", exclusive=True),
}  # fmt: skip
DRAWING = {"dropout", "deep, dropout between"}
WHOLE = {"bidirectional", "bidirectional, exclusive"}

QUICK = [law for law in SCAN_LAWS if law not in ("S8", "S9", "S10")]


def inputs(steps=4, batch=3, size=2, seed=0):
    return np.random.default_rng([seed, 9]).normal(size=(steps, batch, size))


def applying(laws, trial):
    return [law for law in laws if not SCAN_LAWS[law].missing(trial)]


def trial_of(net, xs=None, **options):
    return ScanTrial(Given(net, None, inputs() if xs is None else xs, **options))


# ---- right nets pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_every_net_keeps_every_law(name):
    laws = applying(QUICK, trial_of(NETS[name]()))
    expected = {"S3", "S5", "S6", "S13"} if name in WHOLE else set(QUICK) - {"S12"}
    expected = set(QUICK) - {"S2", "S3", "S7"} if name in DRAWING else expected
    assert set(laws) == expected
    report = check_scan(NETS[name](), None, inputs(), laws=laws)
    assert report.check == ", ".join(laws)
    assert max(d.excess for d in report.worst) < 0.5


@pytest.mark.parametrize("name", NETS)
def test_every_net_on_the_strict_backend(name):
    """In float32 all of them, in both ways and both modes; the laws of lengths on some, and all laws on one."""
    laws = QUICK if name == "dropout" else ["S5", "S13"] if name in ("gru", "lstm", "deep", *WHOLE) else ["S13"]
    net = NETS[name]().to("strict")
    assert check_scan(net, None, inputs(), laws=applying(laws, trial_of(net))).ok


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_long_sequences(name):
    report = check_scan(NETS[name](), None, inputs(), laws=["S8", "S9", "S10"] if name == "gru" else ["S9"])
    assert report.ok
    assert "not" not in report.check


def test_exact_backpropagation():
    assert check_exact_bptt(5000).ok
    for options in ({"reverse": True}, {"unroll": True}, {"checkpoint": "sqrt"}, {"unroll": True, "checkpoint": 7}):
        assert check_exact_bptt(200, **options).ok
    assert check_exact_bptt(60, dtype="float32").ok
    with mg.use_backend("strict"):
        assert "strict" in check_exact_bptt(200).name
    with pytest.raises(ValueError, match="beyond the integers of float32: fewer steps"):
        check_exact_bptt(5000, dtype="float32")


# ---- bodies of any form ----------------------------------------------------------------------------------------------


def scalar(rng):
    w = mg.tensor(0.75, requires_grad=True)
    return {"body": lambda s, x: mg.sin(w * s) + x, "init": 0.25, "xs": rng.normal(size=5), "params": [w]}


def embedding(rng):
    """Tokens, a table, a counter among the states, and a dict of outputs, one of which is an integer."""
    params = {"table": mg.tensor(rng.normal(size=(4, 3)), requires_grad=True), "W": mg.tensor(rng.normal(size=(3, 3)))}

    def body(state, token):
        h = mg.tanh(mg.take(params["table"], token, axis=0) + state["h"] @ params["W"])
        count = state["count"] + 1
        return {"h": h, "count": count}, {"h": h * 2.0, "count": count}

    tokens, init = rng.integers(0, 4, (4, 3)), {"h": rng.normal(size=(3, 3)), "count": np.zeros(3, int)}
    lengths = [2, 0, 4]
    return {"body": body, "init": init, "xs": tokens, "lengths": lengths, "params": params, "has_output": True}


def memory(rng):
    """What is captured has rows of its own."""
    keys = mg.tensor(rng.normal(size=(2, 3, 4)), requires_grad=True)

    def body(h, x):
        weights = mg.softmax(mg.einsum("bsk,bk->bs", keys, h))
        return mg.tanh(mg.einsum("bs,bsk->bk", weights, keys) + x)

    init = rng.normal(size=(2, 4))
    return {"body": body, "init": init, "xs": rng.normal(size=(4, 2, 4)), "lengths": [4, 1], "params": (keys,)}


def noisy(rng):
    w = mg.tensor(rng.normal(size=(2, 2)), requires_grad=True)

    def body(h, x):
        first = random.normal((3, 2), seed=1, dtype=h.dtype)
        second = random.bernoulli((3, 2), seed=1, dtype=h.dtype)
        return mg.tanh((h * second) @ w + x * first)

    init = rng.normal(size=(3, 2))
    return {"body": body, "init": init, "xs": rng.normal(size=(4, 3, 2)), "lengths": [1, 4, 0], "params": {"w": w}}


BODIES = {"scalar": scalar, "embedding": embedding, "memory": memory, "noisy": noisy}


def checked(given, **options):
    given = {**given, **options}
    return check_scan(given.pop("body"), given.pop("init"), given.pop("xs"), **given)


@settings(max_examples=5)
@given(name=st.sampled_from(sorted(BODIES)), seed=st.integers(0, 2**16 - 1))
def test_bodies_of_any_form(name, seed):
    given_ = BODIES[name](np.random.default_rng(seed))
    report = checked(given_, laws=["S1", "S4", "S11", "S13"], seed=seed)
    assert report.check == "S1, S4, S11, S13"


@pytest.mark.parametrize("name", BODIES)
def test_every_law_on_bodies(name):
    silent = {"scalar": ["S5", "S6", "S12"], "noisy": ["S2", "S3", "S7"]}.get(name, ["S12"])
    given_ = BODIES[name](np.random.default_rng(3))
    assert checked(given_, laws=[law for law in QUICK if law not in silent]).ok


def test_what_was_given_is_as_it_was():
    """Captured tensors have their arrays, gradients and dtypes again, also after a failure."""
    cell = mg.nn.GRUCell(2, 3, seed=0)
    before = {path: (p.array, p.record, p.grad) for path, p in cell.parameters().items()}
    assert check_scan(cell, None, inputs().astype("float32"), laws=["S1"]).ok
    with pytest.raises(TypeError, match="must return a state"):
        check_scan(lambda s, x: (*cell(x, s), None), np.zeros((3, 3)), inputs(), params=cell)
    for path, p in cell.parameters().items():
        assert (p.array, p.record, p.grad) == before[path]
        assert p.dtype == np.float32


# ---- wrong bodies ----------------------------------------------------------------------------------------------------

W = mg.tensor([[0.5, -1.0], [0.25, 0.75]], requires_grad=True)
START = np.array([[0.3, -0.7], [1.1, 0.4], [-0.2, 0.6]])
KEPT = []


def kept(h, x):
    h = mg.tanh(h @ W + x)
    KEPT.append(h)
    return h


WRONG = {
    "cut off from the past": ("S9", lambda h, x: mg.tanh(mg.stop_gradient(h) @ W + x), "along a random direction"),
    "rows that meet": ("S4", lambda h, x: mg.tanh(h @ W + x - x.mean(axis=0)), "row 0 depend on other rows"),
    "a float64 constant": ("S13", lambda h, x: mg.tanh(h @ W + x) * np.ones(2), "became float64"),
    "keeps its states": ("S10", kept, "alive after backward"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_caught(name):
    law, body, problem = WRONG[name]
    options = {"params": [W], "lengths": [4, 2, 3]}
    try:
        with pytest.raises(GradientError, match=problem) as error:
            check_scan(body, START, inputs(), laws=[law], **options)
    finally:
        KEPT.clear()
    assert error.value.report.check == law


def test_bodies_that_cannot_be_judged_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(NondeterministicError, match="two different results for the same arguments"):
        check_scan(lambda h, x: mg.tanh(h @ W + x) * rng.random(), START, inputs(), params=[W])
    with pytest.raises(NondifferentiableError, match="final state is not finite here"), np.errstate(all="ignore"):
        check_scan(lambda h, x: mg.log(h @ W + x), START, inputs(), params=[W])


def test_a_chaotic_body_is_not_waved_through():
    """Over 200 steps differences say nothing about it: asked for, that is an error, and else the report says so."""
    w = mg.tensor(40.0, requires_grad=True)
    check = partial(check_scan, lambda s, x: mg.sin(w * s) + x, 0.25, inputs()[:, 0, 0], params=[w])
    with pytest.raises(NondifferentiableError, match="no verdict is possible about along"):
        check(laws=["S9"])
    said = check().check
    assert said.startswith("S1, S2, S3, S4, S7, S10, S11, S13 (not S5: no row is padded: pass lengths; not S6: ")
    assert "not S9: no verdict is possible about along" in said


def test_a_tolerance_grows_with_what_rounding_does_to_a_body():
    """A body that cancels may differ by more than one that does not, as much as was measured and no more."""
    xs = 1.0 + 1e-3 * inputs()

    def off_by(error):
        def wrong(fn, elems, initializer, *, unroll=False, **options):
            return right_scan(fn, elems * (1.0 if unroll else 1.0 + error), initializer, unroll=unroll, **options)

        return patched(right_scan, wrong)

    def cancels(h, x):
        return mg.tanh(h @ W + 1000.0 * (x - 1.0))

    check = partial(check_scan, cancels, START, xs, params=[W], laws=["S1"])
    with off_by(2.0**-48):
        assert check().worst[0].tol > 1e-12
    with off_by(2.0**-30), pytest.raises(GradientError, match="compiled and unrolled differ"):
        check()


def test_bad_input():
    def body(h, x):
        return mg.tanh(h @ W + x)

    check = partial(check_scan, body, START)
    for error, match, call in (
        (
            ValueError,
            "captures tensors that require a gradient and are not checked: one of shape",
            lambda: check(inputs()),
        ),
        (ValueError, r"params\[1\] of check_scan: nothing", lambda: check(inputs(), params=[W, mg.tensor(1.0)])),
        (ValueError, "one tensor twice", lambda: check(inputs(), params=[W, W])),
        (TypeError, r"params\['a'\] .* got a ndarray", lambda: check(inputs(), params={"a": np.ones(2)})),
        (TypeError, "got one of int64", lambda: check(inputs(), params=[mg.tensor([1])])),
        (TypeError, "got a result of ops", lambda: check(inputs(), params=[W * 2.0])),
        (ValueError, "at least 3 steps", lambda: check(inputs(steps=2), params=[W])),
        (ValueError, r"got shapes \[\(\)\]", lambda: check(1.0, params=[W])),
        (ValueError, "S5 says nothing here: no row is padded", lambda: check(inputs(), params=[W], laws=["S1", "S5"])),
        (ValueError, "a list of names among S1, S2", lambda: check(inputs(), params=[W], laws=["S99"])),
        (ValueError, "a list of names among S1, S2", lambda: check(inputs(), params=[W], laws="S1")),
        (TypeError, "nothing to check", lambda: check_scan(lambda s, x: s + x, 0, np.ones(3, int))),
        (TypeError, "needs an init", lambda: check_scan(body, None, inputs(), params=[W])),
        (ValueError, r"xs of shape \(T, B, ...\)", lambda: check_scan(rnn(), None, np.ones(5))),
    ):
        with pytest.raises(error, match=match):
            call()


# ---- wrong scans -----------------------------------------------------------------------------------------------------

right_scan = mg.scan


def shifted(fn, elems, initializer, **options):
    """The future enters: every step sees the mean over all."""
    return right_scan(fn, elems - elems.mean(axis=0), initializer, **options)


def forgets_the_start(fn, elems, initializer, **options):
    return right_scan(fn, elems, mg.stop_gradient(initializer), **options)


def never_backwards(fn, elems, initializer, *, reverse=False, **options):
    return right_scan(fn, elems, initializer, **options)


def without_lengths(fn, elems, initializer, *, lengths=None, **options):
    return right_scan(fn, elems, initializer, **options)


def padding_times_zero(fn, elems, initializer, **options):
    """Padding enters with a weight of zero, as it does for one who has not met NaN."""
    return right_scan(fn, elems, initializer, **options) + 0.0 * elems.sum()


def rounded(fn, elems, initializer, **options):
    return right_scan(fn, elems * (1 + 2.0**-52), initializer, **options)


def everything_is_float64(fn, elems, initializer, **options):
    return mg.astype(right_scan(fn, elems, initializer, **options), "float64")


def keeps_every_prefix(fn, elems, initializer, **options):
    """What a loop does that stacks anew at every step."""
    prefixes = [mg.concatenate([elems[:t]] * 4) for t in range(elems.shape[0])]
    states = right_scan(fn, elems, initializer, **options)
    return states + 0.0 * sum(prefix.sum() for prefix in prefixes)


def another_value_with_checkpoints(fn, elems, initializer, *, checkpoint=None, **options):
    return right_scan(fn, elems * (1.0 if checkpoint is None else 1 + 1e-15), initializer, **options)


WRONG_BOTH_WAYS = {
    "the gradient of the first state is lost": ("S2", forgets_the_start),
    "reverse is ignored": ("S3", never_backwards),
    "the future is seen": ("S4", shifted),
    "lengths are ignored": ("S5", without_lengths),
    "padding is multiplied by zero": ("S6", padding_times_zero),
    "inputs are rounded": ("S8", rounded),
    "prefixes are kept": ("S10", keeps_every_prefix),
    "checkpoints change the last bit": ("S11", another_value_with_checkpoints),
    "results are float64": ("S13", everything_is_float64),
}


@pytest.mark.parametrize("name", WRONG_BOTH_WAYS)
def test_a_scan_that_is_wrong_in_every_way_of_running_is_caught_by_its_law(name):
    """Compiled and unrolled agree here, so that S1 is silent: the other laws must speak."""
    law, wrong = WRONG_BOTH_WAYS[name]
    options = {"params": [W], "lengths": [4, 0, 2]}

    def body(h, x):
        return mg.tanh(h @ W + x)

    assert check_scan(body, START, inputs(), laws=[law], **options).ok
    with patched(right_scan, wrong):
        assert check_scan(body, START, inputs(), laws=["S1"], **options).ok
        with pytest.raises(GradientError) as error:
            check_scan(body, START, inputs(), laws=[law], **options)
    assert error.value.report.check == law


BACKWARD = 'wishes, not self.reverse, "backward"'
WRONG_INSIDE = {
    "backward walks forwards": ("S1", compiled.CompiledScan.backward, BACKWARD, BACKWARD.replace("not ", "")),
    "the second use of a weight is forgotten": (
        "S1", differentiate._pulled, "totals[symbol] = totals[symbol] + g if symbol in totals else g",
        "totals.setdefault(symbol, g)"),
    "padding enters": ("S6", rows.Rows.__init__, 'side="left"', 'side="right"'),
    "the residual of the step beside": (
        "S1", programs.Program.stack, '(kept.part == "before") != reverse', '(kept.part == "after") != reverse'),
    "reverse is ignored": ("S3", compiled.CompiledScan.__init__, "self.reverse = reverse", "self.reverse = False"),
    "the mask of step 1 at all steps": ("S5", loop._step, "going = problem.rows > t", "going = problem.rows > 0"),
    "a finished row goes on": (
        "S5", loop._step, "new = [_chosen(going, leaf, old) for leaf, old in zip(new, state, strict=True)]", "pass"),
    "the gradient passes into the window before": (
        "S7", truncated.__globals__["_windows"], "stop_gradient(middle)", "middle"),
    "chunks in the wrong order": (
        "S11", compiled.CompiledScan._pull_arrays, "zip(reversed(order), reversed(saved.states), strict=True)",
        "zip(order, reversed(saved.states), strict=True)"),
    "the draw of step 1 at all steps, compiled": ("S12", run._drawn, "make((*inner, t))", "make((*inner, 0))"),
    "the draw of step 1 at all steps, everywhere": (
        "S12", random.steps.enter, "_path.set((*self.outer, t))", "_path.set((*self.outer, 0))"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_INSIDE)
def test_a_scan_that_is_broken_inside_is_caught_by_its_law(name):
    law, function, old, new = WRONG_INSIDE[name]
    net = NETS["dropout" if law == "S12" else "gru"]()
    clear_cache()
    try:
        with edited(function, old, new), pytest.raises(GradientError) as error:
            check_scan(net, None, inputs(), laws=[law])
    finally:
        clear_cache()
    assert error.value.report.check == law


def test_a_forgotten_capture_is_named():
    """Compiled, the body's weight is a constant; the loop knows better."""

    def forgetful(fn, elems, initializer, *, unroll=False, **options):
        record = W.record
        W.record = record if unroll else None
        try:
            return right_scan(fn, elems, initializer, unroll=unroll, **options)
        finally:
            W.record = record

    with (
        patched(right_scan, forgetful),
        pytest.raises(GradientError, match=r"gradient by params\['W'\] differs") as error,
    ):
        check_scan(lambda h, x: mg.tanh(h @ W + x), START, inputs(), params={"W": W}, laws=["S1"])
    assert "the analytic gradient is 0 everywhere" in error.value.report.hints


# ---- what a failure says ---------------------------------------------------------------------------------------------


def test_a_failure_can_be_pasted_and_names_what_is_wrong_with_time():
    def body(h, x):
        return 0.5 * h + x

    xs, init = np.round(inputs(steps=4, batch=1), 2), np.array([[0.5, -0.25]])

    def late(fn, elems, initializer, *, unroll=False, **options):
        states = right_scan(fn, elems, initializer, unroll=unroll, **options)
        return states if unroll or not elems.shape[0] else mg.concatenate([states[1:], states[-1:]])

    with patched(right_scan, late):
        with pytest.raises(GradientError) as error:
            check_scan(body, init, xs, laws=["S1"])
        report = error.value.report
        with pytest.raises(GradientError) as again:
            eval(report.reproduce, {"np": np, "check_scan": check_scan, "body": body})
    assert str(again.value) == str(error.value)
    assert (
        "compiled and unrolled differ (4 steps, reverse=False): final state differs" in report.problem
        or "outputs" in (report.problem)
    )
    assert 0 < len(report.worst) <= 3
