"""Initialisers, those that cells are told to use, and the report on a cell before training."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.backend import get_backend
from minigrad.explain.initial import initial
from minigrad.nn.initialisers import chrono, constant, glorot_uniform, identity, orthogonal

sizes = st.integers(1, 5)


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


# ---- one by one ----------------------------------------------------------------------------------------------------


@given(sizes, sizes, st.sampled_from(["float16", "float32", "float64"]))
def test_identity(rows, columns, dtype):
    W = identity((rows, columns), dtype=dtype)
    assert (W.shape, W.dtype) == ((rows, columns), np.dtype(dtype))
    for i in range(rows):
        for j in range(columns):
            assert host(W)[i, j] == (i == j)


def test_what_is_made_lies_on_the_default_backend(backend):
    makers = (identity, constant(2.0), chrono(9, 0)["f"])
    assert all(make((2, 2), 0, "float32").backend is backend for make in makers)


@given(st.floats(2, 1000), sizes, st.integers(0, 99))
def test_chrono_draws_logarithms_of_times(longest, units, seed):
    biases = {gate: host(make((units,), 5, "float64")) for gate, make in chrono(longest, seed).items()}
    assert set(biases) == {"f", "i"}
    np.testing.assert_array_equal(biases["i"], -biases["f"])
    assert ((biases["f"] >= 0) & (biases["f"] <= math.log(longest - 1))).all()


def test_chrono_times_are_uniform():
    """The mean and the spread of exp(b_f) for T uniform on [1, 99]: 50, and 98 / sqrt(12)."""
    times = np.exp(host(chrono(100, seed=0)["f"]((100_000,), dtype="float64")))
    assert abs(times.mean() - 50) < 4 * 98 / math.sqrt(12 * 100_000)
    assert abs(times.std() - 98 / math.sqrt(12)) < 0.3


def test_chrono_for_other_cells():
    assert set(chrono(9, 0, keep="z", write=None)) == {"z"}
    gru = nn.GRUCell(2, 3, update="write", init_b=chrono(9, 0, keep=None, write="z"), dtype="float64")
    lstm = nn.LSTMCell(2, 3, init_b=chrono(9, 0), dtype="float64")
    coupled = nn.LSTMCell(2, 3, coupled=True, init_b=chrono(9, 0, keep=None), dtype="float64")
    for cell, gate in ((gru, "z"), (coupled, "i")):
        np.testing.assert_array_equal(host(cell.gate(gate).b), -host(lstm.gate("f").b))


@pytest.mark.parametrize("longest", [1, 1.9, math.inf, math.nan, -3])
def test_chrono_refuses_times_that_nobody_can_draw(longest):
    with pytest.raises(ValueError, match="longest is a number of steps, at least 2, got"):
        chrono(longest, seed=0)


# ---- chosen for a cell ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [("RNNCell", "h"), ("GRUCell", "rzn"), ("LSTMCell", "ifgo")])
def test_an_initialiser_for_all_gates(kind, gates):
    cell = getattr(nn, kind)(3, 3, init_W_x=constant(2.0), init_W_h=identity, init_b=constant(-1.0))
    for gate in gates:
        W_x, W_h, b = cell.gate(gate)
        np.testing.assert_array_equal(host(W_x), np.full((3, 3), 2.0))
        np.testing.assert_array_equal(host(W_h), np.eye(3))
        np.testing.assert_array_equal(host(b), np.full(3, -1.0))


def test_an_initialiser_for_some_gates_leaves_the_others_alone():
    cell = nn.LSTMCell(2, 3, seed=0, init_W_h={"g": identity}, init_b={"o": constant(7.0)})
    usual = nn.LSTMCell(2, 3, seed=0)
    np.testing.assert_array_equal(host(cell.W_x), host(usual.W_x))
    np.testing.assert_array_equal(host(cell.gate("g").W_h), np.eye(3))
    for gate in "ifo":
        np.testing.assert_array_equal(host(cell.gate(gate).W_h), host(usual.gate(gate).W_h))
    assert host(cell.b).tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 7, 7, 7]


def test_each_gate_is_drawn_by_itself_from_the_seed_of_the_cell():
    a, b = (nn.GRUCell(4, 4, seed=3, init_W_x=orthogonal, init_W_h=glorot_uniform) for _ in range(2))
    np.testing.assert_array_equal(host(a.W_x), host(b.W_x))
    np.testing.assert_array_equal(host(a.W_h), host(b.W_h))
    assert len({host(a.gate(gate).W_x).tobytes() for gate in "rzn"}) == 3
    for gate in "rzn":
        W = host(a.gate(gate).W_x).astype(float)
        np.testing.assert_allclose(W @ W.T, np.eye(4), atol=1e-6)


def test_a_projected_state_has_a_matrix_that_is_not_square():
    cell = nn.LSTMCell(2, 3, projection=2, init_W_h=identity)
    np.testing.assert_array_equal(host(cell.gate("o").W_h), np.eye(2, 3))


def test_an_array_will_do():
    cell = nn.RNNCell(2, 3, init_b=lambda shape, seed, dtype: np.arange(3, dtype=dtype))
    assert host(cell.b).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"init_W_h": {"q": identity}},
            ValueError,
            "init_W_h of LSTMCell is for the gates i, f, g, o, got one for 'q'",
        ),
        ({"init_b": 1.0}, TypeError, r"init_b of LSTMCell is a function .* got 1.0; a number is .*constant\(number\)"),
        ({"init_b": {"f": 1.0}}, TypeError, "init_b of LSTMCell is a function"),
        (
            {"init_W_x": lambda shape, seed, dtype: np.ones(shape)},
            ValueError,
            r"init_W_x of LSTMCell must give float32\(2, 3\) for gate i, got float64\(2, 3\)",
        ),
        (
            {"init_b": {"g": lambda shape, seed, dtype: np.ones((1, 3), dtype)}},
            ValueError,
            r"init_b of LSTMCell must give float32\(3,\) for gate g, got float32\(1, 3\)",
        ),
        ({"init_b": constant(0.0), "forget_bias": 2.0}, ValueError, "both forget_bias=2.0 and init_b set b_f"),
        ({"init_b": {"f": constant(0.0)}, "forget_bias": 2.0}, ValueError, "both forget_bias=2.0 and init_b set b_f"),
    ],
)
def test_bad_choices_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        nn.LSTMCell(2, 3, **options)


def test_a_forget_bias_beside_other_biases():
    cell = nn.LSTMCell(1, 2, forget_bias=3.0, init_b={"o": constant(-1.0)})
    assert host(cell.b).tolist() == [0, 0, 3, 3, 0, 0, -1, -1]


# ---- the report ----------------------------------------------------------------------------------------------------


def test_the_spectral_radius_is_that_of_each_gate():
    cell = nn.GRUCell(2, 2, dtype="float64", seed=0)
    r, z = [[0.0, 4.0], [1.0, 0.0]], [[0.0, -3.0], [3.0, 0.0]]  # eigenvalues 2 and -2, 3i and -3i
    cell.load_state_dict(cell.state_dict() | {"W_h": np.hstack([r, z, 0.5 * np.eye(2)])})
    found = initial(cell, np.ones((1, 1, 2))).spectral_radius
    assert list(found) == ["r", "z", "n"]
    np.testing.assert_allclose(list(found.values()), [2.0, 3.0, 0.5], rtol=1e-14)


def test_the_share_of_saturated_units_counts_every_step_and_row():
    """One unit whose gates see x alone: sigmoid is beyond 0.95 from 2.95 on, tanh from 1.84 on."""
    zero = constant(0.0)
    inputs = np.array([[-4.0, -2.0, 0.0], [2.0, 3.0, 1.0]])[..., None]
    lstm = nn.LSTMCell(1, 1, dtype="float64", init_W_x=constant(1.0), init_W_h=zero, init_b=zero)
    assert initial(lstm, inputs).saturated == {"i": 2 / 6, "f": 2 / 6, "g": 4 / 6, "o": 2 / 6}
    tanh = nn.RNNCell(1, 1, dtype="float64", init_W_x=constant(1.0), init_W_h=zero)
    assert initial(tanh, inputs).saturated == {"h": 4 / 6}
    sigmoid = nn.RNNCell(1, 1, activation=mg.sigmoid, dtype="float64", init_W_x=constant(1.0), init_W_h=zero)
    assert initial(sigmoid, inputs).saturated == {"h": 2 / 6}


def test_the_share_is_that_of_gates_which_see_the_state():
    """Over time: h grows from 0 until the candidate saturates."""
    cell = nn.RNNCell(1, 1, dtype="float64", init_W_x=constant(1.0), init_W_h=constant(2.0))
    h, beyond = 0.0, []
    for x in (0.5, 0.5, 0.5, 0.5):
        h = math.tanh(x + 2.0 * h)
        beyond.append(abs(h) > 0.95)
    assert beyond == [False, False, True, True]
    assert initial(cell, np.full((1, 4, 1), 0.5)).saturated == {"h": 0.5}


def test_the_report_reads_as_a_table():
    report = initial(nn.LSTMCell(2, 3, projection=2, coupled=True, seed=0), np.zeros((1, 1, 2), "float32"))
    assert str(report).splitlines() == [
        "gate  spectral radius of W_h  saturated units",
        "i                 not square             0.0%",
        "g                 not square             0.0%",
        "o                 not square             0.0%",
    ]
    relu = initial(nn.RNNCell(2, 3, activation=mg.relu, init_W_h=identity), np.zeros((1, 1, 2), "float32"))
    assert repr(relu).splitlines()[1] == "h                      1.000                -"


def test_nothing_is_recorded_for_a_gradient(backend):
    cell = nn.GRUCell(2, 3, seed=0)
    initial(cell, backend.asarray(np.ones((2, 3, 2), "float32")))
    assert all(p.grad is None for p in cell.parameters().values())


def test_the_report_says_what_is_nan():
    inputs = np.ones((2, 3, 2), "float32")
    for number in (np.nan, np.inf):
        for name, place in {"W_h": (0, 1), "b": (4,), "norm_c.gain": (2,)}.items():
            cell = nn.LSTMCell(2, 3, layer_norm=True)
            values = cell.parameters()[name].numpy()
            values[place] = number
            cell.parameters()[name].data = values
            found = (
                rf"{number} at {re.escape(str(place))} of {name} of the cell, where 1 of {values.size} are NaN or inf"
            )
            with pytest.raises(ValueError, match=f"^explain.initial needs finite numbers, got {found}$"):
                initial(cell, inputs)
        wrong = inputs.copy()
        wrong[1, 2, 0] = number
        with pytest.raises(
            ValueError, match=rf"got {number} at \(1, 2, 0\) of the inputs, where 1 of 12 are NaN or inf"
        ):
            initial(nn.GRUCell(2, 3), mg.tensor(wrong))


def test_the_report_says_which_gate_becomes_nan():
    def spread(h):  # what is too large becomes infinite, and then no number
        return h * mg.asarray(np.array([1.0, 2.0], "float32")) - h

    cell = nn.RNNCell(2, 2, spread, init_W_x=identity, init_W_h=constant(-3e38))
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match="gate h is NaN at step . of row 0, unit .: the inp"),
    ):
        initial(cell, np.full((1, 5, 2), 1e30, "float32"))


def test_bad_arguments_of_the_report():
    with pytest.raises(TypeError, match=r"takes a cell of minigrad\.nn, got Linear"):
        initial(nn.Linear(2, 3), np.zeros((1, 1, 2), "float32"))
    with pytest.raises(ValueError, match=r"with at least one step, got \(1, 0, 2\)"):
        initial(nn.RNNCell(2, 3), np.zeros((1, 0, 2), "float32"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.GRUCell(2, 3, seed="a"), TypeError, "a seed is an integer of at least 0, .* got 'a'"),
        (lambda: nn.GRUCell(2, 3, seed=-1), ValueError, "a seed is an integer of at least 0, .* got -1"),
        (lambda: nn.GRUCell(2, 3, seed=np.array([1, 2])), TypeError, r"a seed is an integer .* got array\(\[1, 2\]\)"),
        (lambda: chrono(100, seed=None), TypeError, "a seed is an integer .* got None"),
        (lambda: nn.LSTMCell(2, 3, clip="1"), ValueError, "clip is a positive number or None, got '1'"),
        (lambda: nn.LSTMCell(2, 3, forget_bias=np.ones(3)), TypeError, "forget_bias is a number, .* init_b"),
        (lambda: nn.GRUCell(2, 3).gate(0), ValueError, "the gates of GRUCell are r, z, n, got 0"),
        (
            lambda: nn.LearnedState(nn.Deep([nn.GRUCell(2, 3), nn.LearnedState(nn.GRUCell(3, 3))])),
            ValueError,
            "has learned its .* already",
        ),
    ],
)
def test_wrong_arguments_are_one_clear_error(make, error, message):
    with pytest.raises(error, match=message):
        make()
