"""`mg.explain.program`: the programs that scan runs, found without running them, in the words of who wrote the cell."""

import ast
import dataclasses
import functools
import gc
import re
import sys
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest

import minigrad as mg
from minigrad.scan import TraceError, cache, clear_cache, info
from minigrad.scan.names import identifier
from minigrad.scan.trace import order_of

T, B, I, H = 5, 2, 3, 4


@pytest.fixture(autouse=True)
def alone():
    """No program is known, and no tracer (coverage, a debugger) hides the names of local variables."""
    clear_cache()
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)
    clear_cache()


def weights(*shape, **options):
    return mg.tensor(np.random.default_rng(sum(shape)).standard_normal(shape), requires_grad=True, **options)


def inputs():
    return np.random.default_rng(1).standard_normal((T, B, I))


def zeros():
    return np.zeros((B, H))


def lstm_and_weights():
    """The ten-line LSTM, its weights in its closure."""
    W_x, W_h, b = weights(I, 4 * H), weights(H, 4 * H), weights(4 * H)

    def lstm(state, x):
        h, c = state
        i, f, g, o = mg.split(x @ W_x + h @ W_h + b, 4, axis=-1)
        c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
        h = mg.sigmoid(o) * mg.tanh(c)
        return h, c

    return lstm, (W_x, W_h, b)


def lstm():
    return lstm_and_weights()[0]


def words(source):
    return set(re.findall(r"\w+", source))


def last_scan():
    """The compiled scan that was used last."""
    return next(reversed(cache._cache.values()))


def leaf_names(part):
    """What the leaves of the last body are called: its "carry", "elems" or "captured"."""
    return [leaf.name for leaf in getattr(last_scan().body, part)]


def value_names():
    """What the values that the last body computes are called."""
    body = last_scan().body
    return [node.name for node in order_of(body.results, body.leaves)]


def listing_of(fn, elems=None, initializer=None, **options):
    return mg.explain.program(
        fn, inputs() if elems is None else elems, zeros() if initializer is None else initializer, **options
    )


# ---- the programs --------------------------------------------------------------------------------------------------


def test_the_listing_of_an_lstm():
    listing = listing_of(lstm(), initializer=(zeros(), zeros()))
    assert listing.forward.products_in_loops == [1]
    assert listing.backward.products_in_loops == [1]
    for part in (listing.forward, listing.backward):
        names = [node.name for node in ast.parse(part.source).body if isinstance(node, ast.FunctionDef)]
        assert names == ["make", "run"]
        assert {"W_x", "W_h", "b"} <= words(part.source)
        assert str(part) == part.source
    assert "for each step\n" in listing.forward.source
    assert "for each step, from the last to the first\n" in listing.backward.source


def test_a_listing_prints_both_programs_under_headings():
    listing = listing_of(lstm(), initializer=(zeros(), zeros()))
    text = str(listing)
    assert repr(listing) == text
    forward = text.index("# ---- forward: 1 matrix product in the loop ----")
    backward = text.index("# ---- backward: 1 matrix product in the loop ----")
    assert forward < text.index(listing.forward.source) < backward < text.index(listing.backward.source)
    ast.parse(text)


def test_headings_count_the_products_of_every_loop():
    V = weights(H, H)

    def two_layers(state, x):
        lower, upper = state
        lower = mg.tanh(x + lower @ V)
        return lower, mg.tanh(lower + upper @ V)

    elems = np.ones((T, B, H))
    text = str(listing_of(two_layers, elems, (zeros(), zeros())))
    assert "# ---- forward: 1 and 1 matrix products in the 2 loops ----" in text
    text = str(mg.explain.program(lambda h, x: x, elems, zeros()))
    assert "# ---- forward: no loop ----" in text


def test_nothing_is_run_and_scan_uses_the_same_programs():
    fn, (W_x, W_h, b) = lstm_and_weights()
    state = (zeros(), zeros())
    before = info()
    listing_of(fn, initializer=state)
    after = info()
    assert after.runs == before.runs
    assert after.compilations == before.compilations + 2
    hs, cs = mg.scan(fn, inputs(), state)
    (hs * cs).sum().backward()
    assert info().compilations == after.compilations
    assert info().runs == after.runs + 2
    assert all(np.any(w.grad) for w in (W_x, W_h, b))


def test_a_listing_of_programs_that_ran_compiles_nothing():
    fn, _ = lstm_and_weights()
    hs, cs = mg.scan(fn, inputs(), (zeros(), zeros()))
    (hs * cs).sum().backward()
    before = info()
    listing_of(fn, initializer=(zeros(), zeros()))
    assert info().compilations == before.compilations
    assert info().traces == before.traces + 1


def test_without_a_gradient_there_is_no_backward():
    W = np.ones((I, H))
    listing = listing_of(lambda h, x: mg.tanh(x @ W + h))
    assert listing.backward is None
    assert "backward" not in str(listing)
    fn = lstm()
    state = (zeros(), zeros())
    assert listing_of(fn, initializer=state).backward is not None
    with mg.no_grad():
        listing = listing_of(fn, initializer=state)
    assert listing.backward is None
    assert listing.forward.source == last_scan().inference().source.make + "\n\n" + last_scan().inference().source.run


@pytest.mark.parametrize("which", ["elems", "initializer", "captured"])
def test_any_input_that_requires_a_gradient_asks_for_backward(which):
    def tracked(name, array):
        return mg.tensor(array, requires_grad=which == name)

    V = tracked("captured", np.ones((I, H)))
    fn = lambda h, x: mg.tanh(x @ V + h)  # noqa: E731
    listing = listing_of(fn, tracked("elems", inputs()), tracked("initializer", zeros()))
    before = info().compilations
    states = mg.scan(fn, tracked("elems", inputs()), tracked("initializer", zeros()))
    states.sum().backward()
    assert listing.backward is not None
    assert info().compilations == before


def test_options_are_those_of_scan():
    V = weights(H, H)

    def fn(h, x):
        h = mg.tanh(x + h @ V)
        return h, {"index": mg.stop_gradient(h) > 0, "value": h * h}

    elems = np.ones((T, B, H))
    listing = listing_of(fn, elems, has_output=True, reverse=True)
    assert "for each step, from the last to the first\n" in listing.forward.source
    assert "for each step\n" in listing.backward.source
    before = info().compilations
    state, outputs = mg.scan(fn, elems, zeros(), has_output=True, reverse=True)
    (state.sum() + outputs["value"].sum()).backward()
    assert info().compilations == before


def test_without_outputs_gradients_come_from_the_final_state():
    V = weights(H, H)
    listing = listing_of(lambda h, x: (mg.tanh(x + h @ V), None), np.ones((T, B, H)), has_output=True)
    assert listing.backward.products_in_loops == [1]


def test_no_steps_are_enough():
    assert listing_of(lambda h, x: h + x, np.ones((0, B, H))).forward.products_in_loops == [0]


def test_draws_are_inputs():
    V = weights(H, H)
    listing = listing_of(lambda h, x: mg.tanh(x + h @ V) * mg.random.normal((B, H), 7), np.ones((T, B, H)))
    assert listing.backward is not None


def test_what_does_not_fit_is_an_error():
    with pytest.raises(
        TypeError, match=r"^explain.program takes fn\(state, x\), and a LSTMCell .*: pass lambda state, x: .*has_output"
    ):
        listing_of(mg.nn.LSTMCell(I, H, dtype="float64"))
    with pytest.raises(TypeError, match="got int"):
        listing_of(3)
    with pytest.raises(ValueError, match="must be one number of steps"):
        listing_of(lambda h, x: h, (np.ones(3), np.ones(4)))
    with pytest.raises(TypeError, match="must keep its shapes and dtypes"):
        listing_of(lambda h, x: h[:1])


def test_what_cannot_be_traced_is_an_error_and_leaves_nothing_behind():
    with pytest.raises(TraceError, match="test_explain.py, line"):
        listing_of(lambda h, x: h if h.sum() > 0 else -h)
    assert sys.getprofile() is None
    calls = []

    def fails_the_second_time(h, x):
        calls.append(x)
        if len(calls) == 2:
            raise KeyError("mine")
        return h

    with pytest.raises(KeyError, match="mine"):
        listing_of(fails_the_second_time)
    assert sys.getprofile() is None


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        (mg.nn.RNNCell(I, H, seed=0), ["W_x", "W_h", "b"]),
        (mg.nn.GRUCell(I, H, reset="after", seed=0), ["W_x", "W_h", "b", "b_hn"]),
        (mg.nn.LSTMCell(I, H, peepholes=True, projection=2, seed=0), ["W_x", "W_h", "b", "p_i", "p_f", "p_o", "W_p"]),
    ],
    ids=lambda item: type(item).__name__,
)
def test_a_function_around_a_cell_shows_what_dynamic_rnn_runs(cell, names):
    """What a learner is told to pass: the programs are those that run, and they name the cell's parameters."""
    xs = inputs().astype("float32")
    listing = listing_of(lambda state, x: cell(x, state)[::-1], xs, cell.zero_state(B), has_output=True)
    assert list(cell.parameters()) == names
    assert set(names) <= words(listing.forward.source)
    assert {f"d_{name}" for name in names} <= words(listing.backward.source)
    before = info()
    outputs, state = mg.nn.dynamic_rnn(cell, xs, time_major=True)
    (outputs.sum() + sum(leaf.sum() for leaf in mg.tree.flatten(state)[0])).backward()
    assert info().compilations == before.compilations
    assert info().runs == before.runs + 2


# ---- names ---------------------------------------------------------------------------------------------------------


def test_the_names_of_an_lstm():
    listing_of(lstm(), initializer=(zeros(), zeros()))
    assert leaf_names("captured") == ["W_x", "W_h", "b"]
    assert leaf_names("carry") == ["h", "c"]
    assert leaf_names("elems") == ["x"]
    assert {"i", "f", "g", "o", "c_next", "h_next", "x_W_x", "h_W_h", "sigmoid_f", "tanh_c_next"} <= set(value_names())


def test_names_reach_the_source():
    V = weights(H, H, name="recurrent")

    def fn(shown, fed):
        before = fed + shown @ V
        return mg.tanh(before) * before

    listing = listing_of(fn, np.ones((T, B, H)))
    text = " ".join(words(listing.forward.source))
    for name in ("recurrent", "shown", "fed"):
        assert name in text
    assert "before" in value_names()
    assert "recurrent" in words(listing.backward.source)


def test_the_names_of_a_cell_under_dynamic_rnn():
    cell = mg.nn.LSTMCell(I, H, seed=0)
    outputs, _ = mg.nn.dynamic_rnn(cell, np.ones((B, T, I), "float32"))
    outputs.sum().backward()
    assert leaf_names("captured") == ["W_x", "W_h", "b"]
    assert leaf_names("carry") == ["h", "c"]
    assert leaf_names("elems") == ["x"]
    assert {"i", "f", "g", "o", "c_next", "h_next"} <= set(value_names())


def test_the_names_of_a_cell_with_one_state():
    mg.nn.dynamic_rnn(mg.nn.GRUCell(I, H, seed=0), np.ones((B, T, I), "float32"))
    assert leaf_names("carry") == ["h"]
    assert leaf_names("captured") == ["W_x", "b", "W_rz", "W_n", "number"]  # W_h is split before the steps
    assert {"r", "z", "n", "h_next"} <= set(value_names())


class TwoLayers:
    def __init__(self):
        self.layers = [mg.nn.RNNCell(I, H, dtype="float64"), mg.nn.RNNCell(H, H, dtype="float64")]
        self.scale = weights(H)

    def step(self, state, x):
        lower, state0 = self.layers[0](x, state[0])
        _, state1 = self.layers[1](lower * self.scale, state[1])
        return state0, state1


def test_equal_names_are_told_apart_by_their_paths():
    listing_of(TwoLayers().step, initializer=(zeros(), zeros()))
    names = leaf_names("captured")
    assert names[:3] == ["layers0_W_x", "layers0_W_h", "layers0_b"]
    assert names[3:] == ["scale", "layers1_W_x", "layers1_W_h", "layers1_b"]


class Memory(NamedTuple):
    key: Any
    value: Any


def test_leaves_are_called_by_their_keys():
    def fn(state, x):
        return Memory(state.key + x["class"] + x["1st"], {"deep": [state.value["deep"][0] * x["Δ"]]})

    elems = {"class": inputs(), "1st": inputs(), "Δ": inputs()}
    start = np.zeros((B, I))
    listing = listing_of(fn, elems, Memory(start, {"deep": [start]}))
    assert leaf_names("carry") == ["key", "deep0"]
    assert leaf_names("elems") == ["v1st", "class_", "Δ"]
    ast.parse(listing.forward.source)


def test_parts_of_a_tuple_are_called_as_the_function_calls_them_or_counted():
    def unpacked(pair, x):
        left, right = pair
        return right, left + x

    def indexed(pair, x):
        return pair[1], pair[0] + x

    start = np.zeros((B, I))
    listing_of(unpacked, initializer=(start, start))
    assert leaf_names("carry") == ["left", "right"]
    clear_cache()
    listing_of(indexed, initializer=(start, start))
    assert leaf_names("carry") == ["pair0", "pair1"]


OFFSET = mg.tensor(np.full(H, 0.5), requires_grad=True)


def test_captured_values_are_called_as_the_function_has_them():
    table = {"W": weights(I, H)}
    pair = (np.ones(H), np.full(H, 2.0))
    named = mg.tensor(np.full(H, 3.0), name="own name")

    def inner(y):
        return (y * pair[1] + OFFSET) * named

    def fn(gain, h, x, shift=np.full(H, 4.0)):  # noqa: B008
        first, _ = pair
        return inner(mg.tanh(x @ table["W"] + h * first)) * gain * 0.5 + shift

    listing = listing_of(functools.partial(fn, weights(H)))
    assert leaf_names("captured") == ["W", "pair0", "pair1", "OFFSET", "own_name", "gain", "number", "shift"]
    assert leaf_names("carry") == ["h"]
    ast.parse(str(listing))


def test_unpacked_weights_are_called_by_their_local_names():
    parameters = (weights(I, H), weights(H, H))

    def fn(h, x):
        W, U = parameters
        return mg.tanh(x @ W + h @ U)

    listing_of(fn)
    assert leaf_names("captured") == ["W", "U"]


def test_a_name_that_is_used_again_is_seen_before():
    def fn(h, x):
        z = h + x
        z = z * z
        return mg.tanh(z)

    listing_of(fn, np.ones((T, B, H)))
    assert value_names() == ["z", "z", "h_next"]


def test_functions_that_a_body_calls_name_their_values_too():
    def gate(y):
        squeezed = mg.sigmoid(y)
        return squeezed * y

    listing_of(lambda h, x: mg.tanh(gate(h + x)), np.ones((T, B, H)))
    assert {"squeezed", "y"} <= set(value_names())


def test_a_nested_scan_names_its_values():
    def inner(total, row):
        weighted = row * row
        return total + weighted

    def fn(h, x):
        sums = mg.scan(inner, x, mg.zeros(H))
        return h + sums

    listing_of(fn, np.ones((T, B, H)))
    bodies = [scan.body for scan in cache._cache.values()]
    names = {node.name for body in bodies for node in order_of(body.results, body.leaves)}
    assert {"weighted", "total_next", "sums"} <= names


def test_functions_with_other_names_share_a_program():
    def one():
        W = weights(H, H)
        return lambda h, x: mg.tanh(x + h @ W)

    def other():
        recurrent = weights(H, H)
        return lambda state, fed: mg.tanh(fed + state @ recurrent)

    elems = np.ones((T, B, H))
    first = listing_of(one(), elems)
    before = info().compilations
    second = listing_of(other(), elems)
    assert info().compilations == before
    assert str(first) == str(second)
    assert "W" in words(first.forward.source)


class Shy:
    """An object that does not like to be looked at."""

    @property
    def __dict__(self):
        raise RuntimeError("do not look")


@dataclasses.dataclass(slots=True)
class Slotted:
    shy: Any
    W: Any


def test_what_cannot_be_looked_at_is_passed_over():
    shy, both = Shy(), Slotted(Shy(), weights(H, H))

    def fn(h, x):
        assert shy is not both.shy
        return mg.tanh(x + h @ both.W)

    listing_of(fn, np.ones((T, B, H)))
    assert leaf_names("captured") == ["W"]


@pytest.mark.parametrize("setter", ["settrace", "setprofile"])
def test_a_tracer_at_work_is_not_disturbed(setter):
    seen = []

    def tracer(frame, event, arg):
        seen.append(event)

    fn, _ = lstm_and_weights()
    set_it = getattr(sys, setter)
    get_it = getattr(sys, setter.replace("set", "get"))
    set_it(tracer)
    try:
        listing = listing_of(fn, initializer=(zeros(), zeros()))
        still = get_it()
    finally:
        set_it(None)
    assert still is tracer
    assert seen
    assert leaf_names("captured") == ["W_x", "W_h", "b"]  # known without looking at local variables
    assert leaf_names("carry") == ["state0", "state1"]
    ast.parse(str(listing))
    assert sys.getprofile() is None


def test_a_profiler_that_a_body_starts_stays():
    def profiler(frame, event, arg):
        pass

    def fn(h, x):
        sys.setprofile(profiler)
        return h + x

    try:
        listing_of(fn, np.ones((T, B, H)))
        still = sys.getprofile()
    finally:
        sys.setprofile(None)
    assert still is profiler


def test_local_variables_are_not_changed_by_looking():
    def fn(h, x):
        count = 0

        def add_one():
            nonlocal count
            count += 1
            return h * 1.0

        total = x
        for _ in range(3):
            total = total + add_one()
        assert count == 3
        return total

    listing_of(fn, np.ones((T, B, H)))
    assert value_names().count("total") >= 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("W_x", "W_x"), ("layer.0/W", "layer_0_W"), ("1st", "v1st"), ("class", "class_"), ("Δ", "Δ"), ("x²", "x2"),
        ("", None), ("+", None), ("a" * 100, "a" * 32),
    ],
)  # fmt: skip
def test_identifiers(text, name):
    assert identifier(text) == name
    assert name is None or name.isidentifier()


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_a_kept_program_keeps_nothing_that_was_captured():
    fn, (W, *_) = lstm_and_weights()
    listing_of(fn, initializer=(zeros(), zeros()))
    array = weakref.ref(W.array)
    del fn, W, _
    gc.collect()
    assert array() is None
    assert len(cache._cache) == 1


def test_a_body_that_returns_another_of_its_values_is_an_error():
    turns = []

    def fn(state, x):
        turns.append(x)
        a, b = state
        a, b = a + x, b * x
        return (a, b) if len(turns) % 2 else (b, a)

    with pytest.raises(TraceError, match="it returned another of its values"):
        listing_of(fn, np.ones((T, B, H)), (zeros(), zeros()))
