"""minigrad's recurrent nets beside PyTorch's: outputs, final states and every gradient. `tox -e parity`; needs torch.

The name of this file does not begin with `test_`, so that it is collected only where it is asked for; and torch is
imported where it is used, so that doctests are collected without it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, tree
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.deep import Deep
from minigrad.nn.torch_weights import from_torch, to_torch

KINDS = ["RNN tanh", "RNN relu", "GRU", "LSTM", "LSTM projected"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}  # of the largest element of an array

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


class Case(NamedTuple):
    """A net over a batch: its sizes, lengths or None, how our net is built, and a seed for all numbers."""

    kind: str
    dtype: str
    layers: int
    both: bool
    inputs: int
    units: int
    rows: int
    steps: int
    lengths: list[int] | None
    time_major: bool
    update: str
    seed: int

    @property
    def directions(self) -> int:
        return 2 if self.both else 1

    @property
    def outputs(self) -> int:
        """The size of h."""
        return self.units - 1 if self.kind == "LSTM projected" else self.units

    @property
    def is_lstm(self) -> bool:
        return self.kind.startswith("LSTM")


@st.composite
def cases(draw: Any, kind: str, dtype: str, layers: int, both: bool, packed: bool) -> Case:
    rows, steps = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, steps), min_size=rows, max_size=rows)) if packed else None
    return Case(
        kind, dtype, layers, both,
        inputs=draw(st.integers(2, 4)), units=draw(st.integers(4, 6)), rows=rows, steps=steps, lengths=lengths,
        time_major=draw(st.booleans()), update=draw(st.sampled_from(["keep", "write"])),
        seed=draw(st.integers(0, 2**16 - 1)),
    )  # fmt: skip


class Numbers:
    """The numbers of a case, drawn in turn.

    They are small enough to leave gates open: where all units are saturated, a gradient is all rounding error. For relu
    they are -1, 0 and 1: then sums before it are exact, and both libraries find the same side of its kink.
    """

    def __init__(self, case: Case, stream: int) -> None:
        self.case, self.draw = case, np.random.default_rng([case.seed, stream])

    def array(self, *shape: int) -> np.ndarray:
        whole = self.case.kind == "RNN relu"
        numbers = self.draw.integers(-1, 2, size=shape) if whole else self.draw.normal(scale=0.4, size=shape)
        return numbers.astype(self.case.dtype)

    def like(self, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
        return {name: self.array(*array.shape) for name, array in arrays.items()}


class Given(NamedTuple):
    """What both libraries get, in torch's layout: inputs, first states, and the cotangents of all results."""

    inputs: np.ndarray
    states: list[np.ndarray]
    cotangents: list[np.ndarray]


def given_of(case: Case) -> Given:
    numbers = Numbers(case, 1)
    leading = (case.steps, case.rows) if case.time_major else (case.rows, case.steps)
    sizes = [case.outputs, case.units] if case.is_lstm else [case.outputs]
    shapes = [(case.layers * case.directions, case.rows, size) for size in sizes]
    results = [(*leading, case.directions * case.outputs), *shapes]
    return Given(
        numbers.array(*leading, case.inputs),
        [numbers.array(*shape) for shape in shapes],
        [numbers.array(*shape) for shape in results],
    )


class Found(NamedTuple):
    """What a library gives, in torch's layout: outputs, h_n and c_n, and gradients by name."""

    results: list[np.ndarray]
    gradients: dict[str, np.ndarray]


# ---- torch ---------------------------------------------------------------------------------------------------------


def module_of(case: Case, bias: bool = True) -> Any:
    import torch

    options = {"projected": {"proj_size": case.outputs}, "relu": {"nonlinearity": "relu"}}
    name, _, option = case.kind.partition(" ")
    return getattr(torch.nn, name)(
        case.inputs, case.units, case.layers, bias=bias, batch_first=not case.time_major, bidirectional=case.both,
        dtype=getattr(torch, case.dtype), **options.get(option, {}),
    )  # fmt: skip


def by_torch(case: Case, module: Any, given: Given) -> Found:
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    inputs = torch.tensor(given.inputs, requires_grad=True)
    states = [torch.tensor(state, requires_grad=True) for state in given.states]
    first = tuple(states) if case.is_lstm else states[0]
    batch_first = not case.time_major
    if case.lengths is None:
        outputs, final = module(inputs, first)
    else:
        packed = pack_padded_sequence(inputs, case.lengths, batch_first, enforce_sorted=False)
        outputs, final = module(packed, first)
        outputs, _ = pad_packed_sequence(outputs, batch_first, total_length=case.steps)
    results = [outputs, *(final if case.is_lstm else [final])]
    loss = sum((result * torch.tensor(g)).sum() for result, g in zip(results, given.cotangents, strict=True))
    loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters()} | {"inputs": inputs.grad}
    gradients |= {f"state{k}": state.grad for k, state in enumerate(states)}
    return Found([r.detach().numpy() for r in results], {name: g.numpy() for name, g in gradients.items()})


# ---- minigrad ------------------------------------------------------------------------------------------------------


def cell_of(case: Case, inputs: int) -> Any:
    name, _, option = case.kind.partition(" ")
    if name == "RNN":
        return nn.RNNCell(inputs, case.units, getattr(mg, option), dtype=case.dtype)
    if name == "GRU":
        return nn.GRUCell(inputs, case.units, case.update, "after", dtype=case.dtype)
    return nn.LSTMCell(inputs, case.units, projection=case.outputs if option else None, dtype=case.dtype)


def net_of(case: Case) -> Any:
    layers = []
    for k in range(case.layers):
        inputs = case.inputs if k == 0 else case.directions * case.outputs
        cells = [cell_of(case, inputs) for _ in range(case.directions)]
        layers.append(Bidirectional(*cells) if case.both else cells[0])
    return layers[0] if case.layers == 1 else Deep(layers)


def host(x: Any) -> np.ndarray:
    return mg.asarray(x).detach().numpy()


def by_minigrad(case: Case, net: Any, given: Given) -> Found:
    inputs = mg.tensor(given.inputs, requires_grad=True)
    states = [mg.tensor(state, requires_grad=True) for state in given.states]
    first = [state[k] for k in range(case.layers * case.directions) for state in states]  # h, c, h, c
    structure = tree.flatten(net.zero_state(case.rows))[1]
    outputs, final = nn.dynamic_rnn(net, inputs, case.lengths, structure.build(first), time_major=case.time_major)
    finals = tree.flatten(final)[0]
    results = [outputs, *(mg.stack(finals[k :: len(states)]) for k in range(len(states)))]
    loss = sum((result * g).sum() for result, g in zip(results, given.cotangents, strict=True))
    loss.backward()
    gradients = weight_gradients(case, net) | {"inputs": host(inputs.grad)}
    gradients |= {f"state{k}": host(state.grad) for k, state in enumerate(states)}
    return Found([host(result) for result in results], gradients)


def weight_gradients(case: Case, net: Any) -> dict[str, np.ndarray]:
    """Our gradients in torch's layout, by way of the converter: it permutes and negates, as the weights do.

    Torch's biases are added, so both have the gradient of ours, but for the second one of a GRU's candidate.
    """
    holder = net_of(case)
    holder.load_state_dict({path: p.grad for path, p in net.parameters().items()})
    found = to_torch(holder)
    for name in [name for name in found if name.startswith("bias_hh")]:
        shared = 2 * case.units if case.kind == "GRU" else None
        found[name][:shared] = found[name.replace("hh", "ih")][:shared]
    return found


# ---- side by side --------------------------------------------------------------------------------------------------


def agree(got: Found, needed: Found, tolerance: float) -> None:
    for k, (ours, theirs) in enumerate(zip(got.results, needed.results, strict=True)):
        assert_close(["outputs", "h_n", "c_n"][k], ours, theirs, tolerance)
    assert got.gradients.keys() == needed.gradients.keys()
    for name, theirs in needed.gradients.items():
        assert_close(f"the gradient of {name}", got.gradients[name], theirs, tolerance)


def assert_close(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), what
    difference, scale = np.abs(ours - theirs).max(), np.abs(theirs).max()
    assert difference <= tolerance * scale, f"{what}: {difference} apart, of {scale}"


def with_weights_of_torch(case: Case, bias: bool = True) -> tuple[Any, Any]:
    """A torch module with weights of the case, and our net with the same."""
    import torch

    module, net = module_of(case, bias), net_of(case)
    weights = Numbers(case, 0).like(module.state_dict())
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    from_torch(net, module.state_dict())
    return module, net


every_net = [
    pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"]),
    pytest.mark.parametrize("both", [False, True], ids=["forward", "both"]),
    pytest.mark.parametrize("layers", [1, 2, 3]),
    pytest.mark.parametrize("kind", KINDS),
]


def on_every_net(test: Any) -> Any:
    for mark in every_net:
        test = mark(test)
    return test


@pytest.mark.parametrize("dtype", TOLERANCE)
@on_every_net
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_net_with_weights_of_torch_is_torchs(kind, layers, both, packed, dtype, data):
    case = data.draw(cases(kind, dtype, layers, both, packed))
    module, net = with_weights_of_torch(case)
    given = given_of(case)
    agree(by_minigrad(case, net, given), by_torch(case, module, given), TOLERANCE[dtype])


@on_every_net
@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_torch_with_weights_of_a_net_is_the_net(kind, layers, both, packed, data):
    """Those that torch gets are not those that it gave: its biases were added, and a GRU that writes was turned."""
    import torch

    case = data.draw(cases(kind, "float64", layers, both, packed))
    _, net = with_weights_of_torch(case)
    module, given = module_of(case), given_of(case)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(net).items()})
    agree(by_minigrad(case, net, given), by_torch(case, module, given), TOLERANCE["float64"])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_net_with_weights_of_a_module_without_biases_is_the_module(kind, data):
    case = data.draw(cases(kind, "float64", layers=2, both=True, packed=True))
    module, net = with_weights_of_torch(case, bias=False)
    given = given_of(case)
    ours = by_minigrad(case, net, given)
    weights = {name: g for name, g in ours.gradients.items() if not name.startswith("bias")}
    agree(ours._replace(gradients=weights), by_torch(case, module, given), TOLERANCE["float64"])
