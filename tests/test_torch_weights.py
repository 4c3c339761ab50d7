"""Weights to and from PyTorch without PyTorch: names and layouts, there and back, and what is refused.

`tests/parity/torch_parity.py` compares with torch itself.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep, DeepOutput
from minigrad.nn.torch_weights import from_torch, to_torch

F = "float64"
INPUTS, UNITS = 2, 3
CELLS = {
    "RNN": lambda inputs, units, dtype=F: nn.RNNCell(inputs, units, dtype=dtype),
    "RNN relu": lambda inputs, units, dtype=F: nn.RNNCell(inputs, units, mg.relu, dtype=dtype),
    "GRU keep": lambda inputs, units, dtype=F: nn.GRUCell(inputs, units, reset="after", dtype=dtype),
    "GRU write": lambda inputs, units, dtype=F: nn.GRUCell(inputs, units, "write", "after", dtype=dtype),
    "LSTM": lambda inputs, units, dtype=F: nn.LSTMCell(inputs, units, dtype=dtype),
    "LSTM projected": lambda inputs, units, dtype=F: nn.LSTMCell(inputs, units, projection=units - 1, dtype=dtype),
}
kinds = pytest.mark.parametrize("kind", CELLS)


def stack(kind, layers, both, dtype=F):
    """The net that is a torch module of so many layers and directions; one layer stands alone."""
    inputs, found = INPUTS, []
    for _ in range(layers):
        cells = [CELLS[kind](inputs, UNITS, dtype) for _ in range(1 + both)]
        found.append(Bidirectional(*cells) if both else cells[0])
        inputs = sum(cell.outputs for cell in cells)
    return found[0] if layers == 1 else Deep(found)


def filled(net, seed, values=None):
    """The net with other weights: normal draws, or draws from some values."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal if values is None else lambda size: draw.choice(values, size=size)
    net.load_state_dict({name: numbers(size=a.shape).astype(a.dtype) for name, a in net.state_dict().items()})
    return net


def bits(arrays):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


# ---- what torch has ------------------------------------------------------------------------------------------------


def test_names_shapes_and_order_are_those_of_torch():
    found = to_torch(stack("LSTM projected", 2, both=True))
    assert {name: array.shape for name, array in found.items()} == {
        "weight_ih_l0": (12, 2), "weight_hh_l0": (12, 2), "bias_ih_l0": (12,), "bias_hh_l0": (12,),
        "weight_hr_l0": (2, 3),
        "weight_ih_l0_reverse": (12, 2), "weight_hh_l0_reverse": (12, 2), "bias_ih_l0_reverse": (12,),
        "bias_hh_l0_reverse": (12,), "weight_hr_l0_reverse": (2, 3),
        "weight_ih_l1": (12, 4), "weight_hh_l1": (12, 2), "bias_ih_l1": (12,), "bias_hh_l1": (12,),
        "weight_hr_l1": (2, 3),
        "weight_ih_l1_reverse": (12, 4), "weight_hh_l1_reverse": (12, 2), "bias_ih_l1_reverse": (12,),
        "bias_hh_l1_reverse": (12,), "weight_hr_l1_reverse": (2, 3),
    }  # fmt: skip
    assert list(found)[4:7] == ["weight_hr_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"]
    assert {array.dtype for array in found.values()} == {np.dtype(F)}


def test_each_cell_goes_to_its_layer_and_direction():
    """Weights of the first gate alone, each cell with a number of its own."""
    net = stack("RNN", 3, both=True)
    cells = [cell for layer in net.layers for cell in (layer.forward, layer.backward)]
    for number, cell in enumerate(cells):
        cell.load_state_dict({name: np.full(a.shape, float(number)) for name, a in cell.state_dict().items()})
    found = to_torch(net)
    suffixes = ["l0", "l0_reverse", "l1", "l1_reverse", "l2", "l2_reverse"]
    assert [set(found[f"weight_hh_{suffix}"].flat) for suffix in suffixes] == [{float(n)} for n in range(6)]


def test_a_stack_of_one_is_its_layer():
    cell = filled(CELLS["LSTM"](INPUTS, UNITS), 0)
    assert bits(to_torch(Deep([cell]))) == bits(to_torch(cell))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def step_of_torch(kind, w, x, h, c):
    """A step as torch documents it, in torch's layout: (output, c)."""
    from_x, from_h = w["weight_ih_l0"] @ x + w["bias_ih_l0"], w["weight_hh_l0"] @ h + w["bias_hh_l0"]
    if kind.startswith("RNN"):
        return (np.maximum(from_x + from_h, 0) if "relu" in kind else np.tanh(from_x + from_h)), c
    if kind.startswith("GRU"):
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(from_x, 3), np.split(from_h, 3)
        z = sigmoid(x_z + h_z)
        return (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h, c
    i, f, g, o = np.split(from_x + from_h, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (w["weight_hr_l0"] @ h if "weight_hr_l0" in w else h), c


@kinds
@given(seed=st.integers(0, 2**16 - 1))
@settings(max_examples=10, deadline=None)
def test_a_cell_with_weights_of_torch_takes_torchs_step(kind, seed):
    draw = np.random.default_rng(seed)
    cell = CELLS[kind](INPUTS, UNITS)
    w = {name: draw.normal(size=array.shape) for name, array in to_torch(cell).items()}
    x, h, c = (draw.normal(size=size) for size in (INPUTS, cell.outputs, UNITS))
    output, new_c = step_of_torch(kind, w, x, h, c)
    from_torch(cell, w)
    got, state = cell(x[None], nn.LSTMState(h[None], c[None]) if kind.startswith("LSTM") else h[None])
    np.testing.assert_allclose(got.data[0], output, rtol=1e-13, atol=1e-14)
    if kind.startswith("LSTM"):
        np.testing.assert_allclose(state.c.data[0], new_c, rtol=1e-13, atol=1e-14)
    again, _ = step_of_torch(kind, to_torch(cell), x, h, c)
    np.testing.assert_allclose(again, output, rtol=1e-13, atol=1e-14)


# ---- there and back ------------------------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1.5, -3.0, 1e-300, np.inf, -np.inf, np.nan]


@kinds
@given(
    layers=st.integers(1, 3),
    both=st.booleans(),
    dtype=st.sampled_from(["float32", F]),
    values=st.sampled_from([None, SPECIAL]),
    seed=st.integers(0, 2**16 - 1),
)
@settings(max_examples=15, deadline=None)
def test_ours_comes_back_bit_for_bit(kind, layers, both, dtype, values, seed):
    if values is not None and dtype == "float32":
        values = np.float32([v for v in values if v != 1e-300])
    net, other = (filled(stack(kind, layers, both, dtype), s, values) for s in (seed, seed + 1))
    from_torch(other, to_torch(net))
    assert bits(other.state_dict()) == bits(net.state_dict())


@kinds
@given(layers=st.integers(1, 2), both=st.booleans(), seed=st.integers(0, 2**16 - 1))
@settings(max_examples=5, deadline=None)
def test_torchs_comes_back_with_its_biases_added(kind, layers, both, seed):
    """Of the numbers k / 8 a sum is exact, and a GRU's second bias of the candidate stays apart."""
    net = stack(kind, layers, both)
    draw = np.random.default_rng(seed)
    state = {name: draw.integers(-8, 9, size=a.shape) / 8 for name, a in to_torch(net).items()}
    from_torch(net, state)
    found = to_torch(net)
    for name, array in state.items():
        if not name.startswith("bias"):
            assert (found[name] == array).all()
        elif name.startswith("bias_hh"):
            apart = np.repeat([False, False, True], UNITS) if kind.startswith("GRU") else False
            assert (found[name] == np.where(apart, array, 0)).all()
            first = name.replace("hh", "ih")
            assert (found[first] == state[first] + np.where(apart, 0, array)).all()


@kinds
def test_a_module_without_biases_sets_them_to_zero(kind):
    net = filled(stack(kind, 2, both=True), 3)
    state = {name: array for name, array in to_torch(net).items() if name.startswith("weight")}
    from_torch(net, state)
    for name, array in to_torch(net).items():
        assert (array == state.get(name, 0)).all()


def test_the_two_updates_have_the_same_arrays_in_torch():
    keep, write = (CELLS[kind](INPUTS, UNITS) for kind in ("GRU keep", "GRU write"))
    from_torch(write, to_torch(filled(keep, 4)))
    assert bits(mg.training.convert_update(write.state_dict())) == bits(keep.state_dict())
    assert bits(to_torch(write)) == bits(to_torch(keep))


def test_arrays_are_copies_that_are_contiguous_and_writable():
    net = nn.RNNCell(1, 1, dtype=F, init_b=nn.initialisers.constant(2.0))  # (1, 1) is contiguous both ways
    state = to_torch(net)
    for array in state.values():
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.owndata
    from_torch(net, state)
    before = bits(net.state_dict())
    for array in state.values():
        array[...] = 7
    assert bits(net.state_dict()) == before


def test_lists_and_arrays_of_any_layout_are_taken():
    net, other = (filled(CELLS["LSTM"](INPUTS, UNITS), seed) for seed in (5, 6))
    state = to_torch(net)
    from_torch(other, {name: np.asfortranarray(array) for name, array in state.items()})
    assert bits(other.state_dict()) == bits(net.state_dict())
    from_torch(other, {name: array.tolist() for name, array in to_torch(filled(net, 7)).items()})
    assert bits(other.state_dict()) == bits(net.state_dict())


@kinds
def test_a_net_stays_on_its_backend(kind, minigrad_backend):
    with mg.use_backend(minigrad_backend):
        net, other = (stack(kind, 2, both=True) for _ in range(2))
    state = to_torch(net)
    assert {type(array) for array in state.values()} == {np.ndarray}
    from_torch(other, state)
    assert {p.backend.name for p in other.parameters().values()} == {minigrad_backend}
    assert bits(to_torch(other)) == bits(state)


def test_loading_drops_gradients_and_keeps_the_parameters():
    cell = CELLS["GRU keep"](INPUTS, UNITS)
    parameters = cell.parameters()
    outputs, _ = nn.dynamic_rnn(cell, np.ones((1, 2, INPUTS)))
    outputs.sum().backward()
    from_torch(cell, to_torch(cell))
    assert all(cell.parameters()[name] is p and p.grad is None for name, p in parameters.items())


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_every_array_that_does_not_fit_is_named_and_nothing_is_changed():
    net = filled(stack("GRU write", 2, both=False), 8)
    before = bits(net.state_dict())
    state = to_torch(filled(stack("GRU write", 2, both=False), 9))
    del state["bias_hh_l1"]
    state["weight_hr_l0"] = np.zeros((1, 3))
    state["weight_ih_l0"] = state["weight_ih_l0"].T
    state["weight_hh_l1"] = state["weight_hh_l1"].astype("float32")
    needed = (
        "this state does not fit Deep, nothing was changed: bias_hh_l1 is missing; weight_hr_l0 is unexpected; "
        "weight_ih_l0 must be float64(9, 2), got float64(2, 9); weight_hh_l1 must be float64(9, 3), got float32(9, 3)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(needed)}$"):
        from_torch(net, state)
    assert bits(net.state_dict()) == before


def test_weights_of_another_module_are_refused():
    net = stack("LSTM", 1, both=False)
    with pytest.raises(ValueError, match="weight_ih_l0_reverse is unexpected; .* bias_hh_l0_reverse is unexpected"):
        from_torch(net, to_torch(stack("LSTM", 1, both=True)))
    with pytest.raises(ValueError, match="weight_hr_l0 is missing"):
        from_torch(stack("LSTM projected", 1, both=False), to_torch(net))
    with pytest.raises(ValueError, match=r"weight_ih_l0 must be float64\(9, 2\), got float64\(12, 2\)"):
        from_torch(stack("GRU keep", 1, both=False), to_torch(net))
    with pytest.raises(TypeError, match=r"takes what module\.state_dict\(\) gives, got a list"):
        from_torch(net, [1, 2])


def test_a_bias_that_is_missing_is_no_module_without_biases():
    state = to_torch(stack("LSTM", 2, both=False))
    with pytest.raises(ValueError, match="bias_ih_l0 is missing; bias_hh_l0 is missing$"):
        from_torch(
            stack("LSTM", 2, both=False), {k: v for k, v in state.items() if k not in ("bias_ih_l0", "bias_hh_l0")}
        )


def lstm(inputs=INPUTS, units=UNITS, dtype=F, **options):
    return nn.LSTMCell(inputs, units, dtype=dtype, **options)


class OwnCell(nn.LSTMCell):
    """A cell that may compute anything."""


NO_MODULES = [
    (ValueError, 'nn.GRU cannot express the reset="before" of GRUCell: use reset="after"', lambda: nn.GRUCell(2, 3)),
    (ValueError, "nn.LSTM cannot express the peepholes of LSTMCell: use peepholes=False", lambda: lstm(peepholes=True)),
    (ValueError, "nn.LSTM cannot express the clip of LSTMCell: use clip=None", lambda: lstm(clip=1.0)),
    (ValueError, "the coupled gates of LSTMCell: use coupled=False", lambda: lstm(coupled=True)),
    (ValueError, "the layer normalisation of LSTMCell: use layer_norm=False", lambda: lstm(layer_norm=True)),
    (ValueError, "the projection=3 of LSTMCell: use one below units=3", lambda: lstm(projection=3)),
    (ValueError, "the activation <op sin> of RNNCell: use mg.tanh or mg.relu", lambda: nn.RNNCell(2, 3, mg.sin)),
    (ValueError, "the clip of LSTMCell at layers.1.backward", lambda: Deep(
        [Bidirectional(lstm(), lstm()), Bidirectional(lstm(6), lstm(6, clip=1.0))]
    )),
    (ValueError, "got merge='sum'", lambda: Bidirectional(lstm(), lstm(), merge="sum")),
    (ValueError, "got merge=None at layers.0", lambda: Deep([Bidirectional(lstm(), lstm(), merge=None)])),
    (ValueError, "got exclusive=True", lambda: Bidirectional(lstm(), lstm(), exclusive=True)),
    (ValueError, "got GRUCell(units=3, outputs=3, dtype=float64) at layers.0 and LSTMCell(units=3", lambda: Deep(
        [CELLS["GRU keep"](2, 3), lstm(3)]
    )),
    (ValueError, "and LSTMCell(units=4, outputs=4, dtype=float64) at layers.1", lambda: Deep([lstm(), lstm(3, 4)])),
    (ValueError, "and LSTMCell(units=3, outputs=2, dtype=float64) at backward", lambda: Bidirectional(
        lstm(), lstm(projection=2)
    )),
    (ValueError, "and LSTMCell(units=3, outputs=3, dtype=float32)", lambda: Deep([lstm(), lstm(3, dtype="float32")])),
    (ValueError, "dtype=float64, activation=<op relu>) at layers.1", lambda: Deep(
        [CELLS["RNN"](2, 3), CELLS["RNN relu"](3, 3)]
    )),
    (ValueError, "has inputs=3 at layers.1, got inputs=2", lambda: Deep([lstm(), lstm()])),
    (ValueError, "has inputs=6 at layers.1.backward, got inputs=3", lambda: Deep(
        [Bidirectional(lstm(), lstm()), Bidirectional(lstm(6), lstm(3))]
    )),
    (ValueError, "has inputs=2 at backward, got inputs=5", lambda: Bidirectional(lstm(), lstm(5))),
    (ValueError, "got a Deep with layers of both kinds", lambda: Deep([Bidirectional(lstm(), lstm()), lstm(6)])),
    (ValueError, "got a Deep with layers of both kinds", lambda: Deep([lstm(), Bidirectional(lstm(3), lstm(3))])),
    (ValueError, "this Deep uses a weight in several places", lambda: Deep([lstm(3)] * 2, share=True)),
    (TypeError, "got a OwnCell", lambda: OwnCell(2, 3)),
    (TypeError, "got a DeepOutput at layers.0; convert the cells inside wrappers", lambda: Deep(
        [DeepOutput(lstm(), [mg.tanh])]
    )),
    (TypeError, "got a Deep at forward", lambda: Bidirectional(Deep([lstm()]), Deep([lstm()]))),
    (TypeError, "got a Deep at layers.0", lambda: Deep([Deep([lstm()])])),
    (TypeError, "got a Linear", lambda: nn.Linear(2, 3)),
    (TypeError, "got a list", lambda: [lstm()]),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "make"), NO_MODULES, ids=[words for _, words, _ in NO_MODULES])
def test_what_torch_cannot_express_is_refused(error, words, make):
    net = make()
    with pytest.raises(error, match=re.escape(words)):
        to_torch(net)
    with pytest.raises(error, match=re.escape(words)):
        from_torch(net, {})


def test_cells_that_share_one_weight_are_refused():
    one, two = lstm(3), lstm(3)
    two.W_h = one.W_h
    with pytest.raises(ValueError, match="this Bidirectional uses a weight in several places"):
        to_torch(Bidirectional(one, two))
