"""Weights to and from PyTorch's nn.RNN, nn.GRU and nn.LSTM, as plain arrays: nothing here needs torch.

Both libraries keep the weights of all gates side by side, in the same order. Torch's are transposed, one set for each
layer and direction, with a bias beside each of the two products; they are added, but for the candidate of a GRU, whose
second bias the reset gate multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.cells import Cell, GRUCell, LSTMCell, RNNCell, with_z_negated
from minigrad.nn.deep import Deep
from minigrad.nn.module import Module, checked_state, tensors_of
from minigrad.ops import relu, tanh

Host = np.ndarray[Any, Any]
MODULES: dict[type, str] = {RNNCell: "nn.RNN", GRUCell: "nn.GRU", LSTMCell: "nn.LSTM"}


def to_torch(net: Module) -> dict[str, Host]:
    """The weights of a net as NumPy arrays by the names, in the layout and order of torch's `state_dict`.

    net: an `RNNCell`, `GRUCell` or `LSTMCell`, which is torch's layer 0; a `Bidirectional` of two; or a `Deep` of
    either, all of one kind and size. In torch, `torch.from_numpy` makes tensors of them for `load_state_dict`.
    For layer k: weight_ih_l{k} (gates * units, inputs), weight_hh_l{k} (gates * units, outputs), bias_ih_l{k} and
    bias_hh_l{k} (gates * units,) and, with a projection, weight_hr_l{k} (outputs, units); the same with _reverse for
    its backward cell. Our one bias is bias_ih, and bias_hh is 0 but for a GRU's b_hn. A GRU with update="write" is
    turned into torch's, in which z keeps, by the sign of z.

    Raises TypeError for another net, ValueError for one that torch cannot express: a GRU with reset="before",
    peepholes, clip, coupled gates, layer norm, another merge than "concat", layers that differ or share weights.
    Source: the documentation of nn.RNN, nn.GRU and nn.LSTM in PyTorch 2.

    >>> import minigrad as mg
    >>> from minigrad.nn.torch_weights import to_torch
    >>> {name: array.shape for name, array in to_torch(mg.nn.LSTMCell(2, 3)).items()}
    {'weight_ih_l0': (12, 2), 'weight_hh_l0': (12, 3), 'bias_ih_l0': (12,), 'bias_hh_l0': (12,)}
    """
    return {f"{name}{suffix}": array for _, suffix, cell in _places(net) for name, array in _theirs(cell).items()}


def from_torch(net: Module, state: Mapping[str, Any]) -> None:
    """Load the `state_dict` of torch's nn.RNN, nn.GRU or nn.LSTM into a net that computes the same.

    net: as for `to_torch`. state: what NumPy takes as arrays, by torch's names: tensors on the CPU, or arrays; that of
    a module with bias=False sets our biases to 0. Arrays are copied, on whatever backend the net is, and gradients of
    the old weights are dropped. No array tells the nonlinearity of an nn.RNN, which is yours to match; nor torch's
    dropout between layers, for which the cells are wrapped afterwards.
    What `to_torch` gives comes back bit for bit. The other way round, torch's two biases come back as their sum and 0.

    Raises TypeError and ValueError for a net as `to_torch` does, and ValueError listing every missing and unexpected
    array and every other shape or dtype; then nothing changed.

    >>> import minigrad as mg
    >>> from minigrad.nn.torch_weights import from_torch, to_torch
    >>> cell, other = (mg.nn.GRUCell(2, 3, reset="after", seed=seed) for seed in range(2))
    >>> from_torch(cell, to_torch(other))
    >>> bool((cell.W_h == other.W_h).all())
    True
    """
    needed = to_torch(net)
    arrays = checked_state(type(net).__name__, needed, _given(state, needed))
    own: dict[str, Host] = {}
    for path, suffix, cell in _places(net):
        theirs = {name: arrays[f"{name}{suffix}"] for name in _theirs(cell)}
        own |= {f"{path}{name}": array for name, array in _ours(cell, theirs).items()}
    net.load_state_dict(own)


def _given(state: Any, needed: Mapping[str, Host]) -> dict[str, Host]:
    """A state as NumPy arrays; with biases of 0 where it has none at all."""
    if not isinstance(state, Mapping):
        raise TypeError(f"from_torch takes what module.state_dict() gives, got a {type(state).__name__}")
    given = {name: np.asarray(array) for name, array in state.items()}
    if any(str(name).startswith("bias") for name in given):
        return given
    return given | {name: np.zeros_like(array) for name, array in needed.items() if name.startswith("bias")}


# ---- one cell ------------------------------------------------------------------------------------------------------


def _theirs(cell: Cell) -> dict[str, Host]:
    """The arrays of a cell in torch's layout."""
    own = {name: backend_of(array).to_host(array) for name, array in cell.state_dict().items()}
    own = _with_other_update(own) if _writes(cell) else own
    bias_hh = np.zeros_like(own["b"])
    if "b_hn" in own:
        bias_hh[2 * cell.units :] = own["b_hn"]
    arrays = {"weight_ih": own["W_x"].T, "weight_hh": own["W_h"].T, "bias_ih": own["b"], "bias_hh": bias_hh}
    if "W_p" in own:
        arrays["weight_hr"] = own["W_p"].T
    return {name: array.copy() for name, array in arrays.items()}


def _ours(cell: Cell, theirs: dict[str, Host]) -> dict[str, Host]:
    """Arrays in torch's layout as those of a cell."""
    own = {"W_x": theirs["weight_ih"].T, "W_h": theirs["weight_hh"].T}
    added = theirs["bias_hh"].copy()
    if isinstance(cell, GRUCell):
        own["b_hn"] = theirs["bias_hh"][2 * cell.units :]
        added[2 * cell.units :] = 0
    own["b"] = np.where(added == 0, theirs["bias_ih"], theirs["bias_ih"] + added)  # -0.0 + 0.0 would lose the sign
    if "weight_hr" in theirs:
        own["W_p"] = theirs["weight_hr"].T
    return _with_other_update(own) if _writes(cell) else own


def _writes(cell: Cell) -> bool:
    return isinstance(cell, GRUCell) and cell.update == "write"


def _with_other_update(own: dict[str, Host]) -> dict[str, Host]:
    """A GRU whose z keeps as one whose z writes, or the other way round."""
    return own | {name: with_z_negated(own[name]) for name in ("W_x", "W_h", "b")}


# ---- a net of cells ------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a cell stands: its path in the net, with a dot, and the end of the names of its arrays in torch."""

    path: str
    suffix: str
    cell: Cell


def _places(net: Any) -> list[Place]:
    """The cells of a net in torch's order, which torch can express."""
    layers = {f"layers.{k}.": layer for k, layer in enumerate(net.layers)} if type(net) is Deep else {"": net}
    places = []
    for k, (path, layer) in enumerate(layers.items()):
        if type(layer) is Bidirectional:
            _check_bidirectional(path, layer)
            places.append(Place(f"{path}forward.", f"_l{k}", layer.forward))
            places.append(Place(f"{path}backward.", f"_l{k}_reverse", layer.backward))
        else:
            places.append(Place(path, f"_l{k}", layer))
    for path, _, cell in places:
        _check_cell(path, cell)
    _check_layers(places, len(layers))
    if len(tensors_of(net)) < sum(len(tensors_of(place.cell)) for place in places):
        raise ValueError(f"this {type(net).__name__} uses a weight in several places, and torch has one for each place")
    return places


def _check_bidirectional(path: str, layer: Bidirectional) -> None:
    if layer.merge != "concat" or layer.exclusive:
        got = "exclusive=True" if layer.exclusive else f"merge={layer.merge!r}"
        raise ValueError(f'torch joins both directions by merge="concat" and nothing else, got {got}{_at(path)}')


def _check_cell(path: str, cell: Any) -> None:
    if type(cell) not in MODULES:  # a subclass may compute something else
        raise TypeError(
            "torch's recurrent modules are an RNNCell, GRUCell or LSTMCell, a Bidirectional of two, or a Deep of "
            f"either, got a {type(cell).__name__}{_at(path)}; convert the cells inside wrappers by themselves"
        )
    name, module = type(cell).__name__, MODULES[type(cell)]
    for option, instead in _beyond_torch(cell).items():
        raise ValueError(f"{module} cannot express the {option} of {name}{_at(path)}: use {instead}")


def _beyond_torch(cell: Any) -> dict[str, str]:
    """The options of a cell that torch has not, and with what to build the cell instead."""
    if isinstance(cell, RNNCell):
        known = cell.activation is tanh or cell.activation is relu
        return {} if known else {f"activation {cell.activation!r}": "mg.tanh or mg.relu"}
    if isinstance(cell, GRUCell):
        return {} if cell.reset == "after" else {'reset="before"': 'reset="after", and train it anew'}
    words = {"peepholes": "peepholes", "coupled": "coupled gates", "layer_norm": "layer normalisation"}
    found = {words[name]: f"{name}=False" for name in words if getattr(cell, name)}
    if cell.clip is not None:
        found["clip"] = "clip=None"
    if cell.projection is not None and cell.projection >= cell.units:
        found[f"projection={cell.projection}"] = f"one below units={cell.units}"
    return found


def _check_layers(places: list[Place], layers: int) -> None:
    """Torch's layers are of one kind, size, dtype and number of directions, each as wide as what it reads."""
    top = places[0]
    directions = 2 if top.path.endswith("forward.") else 1
    if len(places) != directions * layers:
        raise ValueError("a torch module reads in one direction or in both, got a Deep with layers of both kinds")
    for path, suffix, cell in places:
        if _kind(cell) != _kind(top.cell):
            raise ValueError(
                f"the cells of a torch module differ in nothing but their inputs, got {_kind(top.cell)}{_at(top.path)} "
                f"and {_kind(cell)}{_at(path)}"
            )
        inputs = top.cell.inputs if suffix.startswith("_l0") else directions * top.cell.outputs
        if cell.inputs != inputs:
            raise ValueError(f"a torch module like this one has inputs={inputs}{_at(path)}, got inputs={cell.inputs}")


def _kind(cell: Any) -> str:
    parts = [f"units={cell.units}", f"outputs={cell.outputs}", f"dtype={cell.W_x.dtype}"]
    if isinstance(cell, RNNCell):
        parts.append(f"activation={cell.activation!r}")
    return f"{type(cell).__name__}({', '.join(parts)})"


def _at(path: str) -> str:
    return f" at {path[:-1]}" if path else ""
