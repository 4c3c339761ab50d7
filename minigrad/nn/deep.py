"""Depth: stacks of cells, and the two other places where a recurrent net can be deep.

Source: Pascanu et al., "How to construct deep recurrent neural networks" (2014), whose stacked, deep-transition and
deep-output networks these are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from minigrad.nn.hidden import map_hidden
from minigrad.nn.module import as_flag, tensors_of
from minigrad.nn.run import Net, Run, as_net, is_whole_sequence, over_time
from minigrad.nn.wrappers import Wrapper


class Deep(Net):
    """A stack of layers, each reading the outputs of the one below: x and a tuple of states to (output, states).

    A stack of cells is a cell. With a `Bidirectional` among its layers it runs over whole sequences, in `dynamic_rnn`,
    layer by layer. `[cell] * 3` is one cell three times, with one set of weights; so a cell, or a tensor, that is in
    two layers is an error unless `share=True` says that it is meant.

    Raises ValueError for no layers and for shared ones, TypeError for a layer that is not a cell.
    Source: Pascanu et al. (2014), stacked.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.deep import Deep
    >>> net = Deep([mg.nn.GRUCell(2, 3, seed=0), mg.nn.LSTMCell(3, 4, seed=1)])
    >>> outputs, states = mg.nn.dynamic_rnn(net, np.ones((1, 5, 2), dtype="float32"))
    >>> outputs.shape, states[1].c.shape, list(net.parameters())[:2]
    ((1, 5, 4), (1, 4), ['layers.0.W_x', 'layers.0.W_h'])
    """

    def __init__(self, layers: Sequence[Any], share: bool = False) -> None:
        self.layers = [as_net("Deep", f"layer {i}", layer) for i, layer in enumerate(layers)]
        if not self.layers:
            raise ValueError("Deep needs at least one layer, got none")
        if not as_flag("Deep", "share", share):
            _refuse_shared(self.layers)

    @property
    def whole_sequence(self) -> bool:
        """Whether a layer, and with it the stack, has no single step.

        >>> import minigrad as mg
        >>> from minigrad.nn.deep import Deep
        >>> Deep([mg.nn.GRUCell(2, 3)]).whole_sequence
        False
        """
        return any(is_whole_sequence(layer) for layer in self.layers)

    @property
    def inputs(self) -> Any:
        """How many features it reads, which its lowest layer knows, or None.

        >>> import minigrad as mg
        >>> net = mg.nn.Deep([mg.nn.RNNCell(2, 3), mg.nn.GRUCell(3, 4)])
        >>> net.inputs, net.outputs
        (2, 4)
        """
        return getattr(self.layers[0], "inputs", None)

    @property
    def outputs(self) -> Any:
        """How many features it gives, which its highest layer knows, or None."""
        return getattr(self.layers[-1], "outputs", None)

    def zero_state(self, batch_size: int) -> tuple[Any, ...]:
        """The first states of all layers.

        >>> import minigrad as mg
        >>> from minigrad.nn.deep import Deep
        >>> Deep([mg.nn.RNNCell(2, 1), mg.nn.RNNCell(1, 2)]).zero_state(1)
        (Tensor([[0.]], float32), Tensor([[0., 0.]], float32))
        """
        return tuple([layer.zero_state(batch_size) for layer in self.layers])

    def prepared(self, run: Run) -> Any:
        if self.whole_sequence:
            raise TypeError("a Deep with a layer that runs over whole sequences has no single step: use dynamic_rnn")
        layers = [run.cell(layer, f"layers.{i}") for i, layer in enumerate(self.layers)]

        def step(x: Any, states: Any) -> tuple[Any, Any]:
            _check_states(states, len(layers))
            finals = []
            for layer, state in zip(layers, states, strict=True):
                x, final = layer(x, state)
                finals.append(final)
            return x, tuple(finals)

        return step

    def over_time(
        self, run: Run, elems: Any, states: Any, lengths: Any, reverse: bool
    ) -> tuple[Any, Any, dict[str, Any]]:
        _check_states(states, len(self.layers))
        finals: list[Any] = []
        recorded: dict[str, Any] = {}
        for i, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            elems, final, found = over_time(layer, run.part(f"layers.{i}"), elems, state, lengths, reverse)
            finals.append(final)
            recorded |= found
        return elems, tuple(finals), recorded


def _check_states(states: Any, layers: int) -> None:
    if not (isinstance(states, tuple) and len(states) == layers):
        got = f"a tuple of {len(states)}" if isinstance(states, tuple) else type(states).__name__
        raise TypeError(f"the state of Deep is a tuple with one for each of its {layers} layers, got {got}")


def _refuse_shared(layers: Sequence[Any]) -> None:
    for (i, one), (j, other) in itertools.combinations(enumerate(layers), 2):
        ids = {id(t): path for path, t in tensors_of(one).items()}
        shared = [ids[id(t)] for t in tensors_of(other).values() if id(t) in ids]
        if one is other or shared:
            what = "are the same object" if one is other else f"share {shared[0]}"
            raise ValueError(
                f"layers {i} and {j} of Deep {what}: [cell] * 3 is one cell three times, with one set of weights. Make "
                "a cell for each layer, or pass share=True if the weights are meant to be shared"
            )


class DeepTransition(Wrapper):
    """A cell with layers between h_{t-1} and h_t: the h that the cell makes passes through `transitions`, in order.

    Transitions are callables (B, units) to (B, units), such as `Linear(4, 4)` and `mg.tanh`; nothing is applied that
    is not listed. The new h is the output, too; the rest of the state, an LSTM's c, stays what the cell made of it.

    Raises TypeError for a transition that is not callable, and for a cell whose output is not its h.
    Source: Pascanu et al. (2014), deep transition.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.deep import DeepTransition
    >>> cell = DeepTransition(mg.nn.RNNCell(2, 4, seed=0), [mg.nn.Linear(4, 4, seed=1), mg.tanh])
    >>> output, h = cell(np.ones((1, 2), dtype="float32"), cell.zero_state(1))
    >>> output is h, list(cell.parameters())[-1]
    (True, 'transitions.0.b')
    """

    def __init__(self, cell: Any, transitions: Sequence[Callable[[Any], Any]]) -> None:
        super().__init__(cell)
        self.transitions = _as_layers("DeepTransition", "transition", transitions)

    def prepared(self, run: Run) -> Any:
        cell, transitions = run.cell(self.cell, "cell"), self.transitions

        def step(x: Any, state: Any) -> tuple[Any, Any]:
            output, state = cell(x, state)
            deeper = _through(transitions, output)

            def replaced(h: Any) -> Any:
                if h is not output:
                    raise TypeError(
                        "DeepTransition takes a cell whose output is its h, so that both can pass through the "
                        "transitions; a DeepOutput or Dropout goes around it, not inside"
                    )
                return deeper

            return deeper, map_hidden("DeepTransition", replaced, state)

        return step


class DeepOutput(Wrapper):
    """A cell with layers between h_t and the output, which passes through `layers` in order; the state does not.

    Layers are callables of what the cell gives out, (B, units) to (B, outputs), such as `Linear(4, 2)` and `mg.tanh`;
    nothing is applied that is not listed. TypeError for one that is not callable.
    Source: Pascanu et al. (2014), deep output.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.nn.deep import DeepOutput
    >>> cell = DeepOutput(mg.nn.GRUCell(2, 4, seed=0), [mg.nn.Linear(4, 3, seed=1), mg.relu])
    >>> output, h = cell(np.ones((1, 2), dtype="float32"), cell.zero_state(1))
    >>> output.shape, h.shape
    ((1, 3), (1, 4))
    """

    def __init__(self, cell: Any, layers: Sequence[Callable[[Any], Any]]) -> None:
        super().__init__(cell)
        self.layers = _as_layers("DeepOutput", "layer", layers)

    @property
    def outputs(self) -> Any:
        return getattr(self.layers[-1], "outputs", None) if self.layers else super().outputs

    def prepared(self, run: Run) -> Any:
        cell, layers = run.cell(self.cell, "cell"), self.layers

        def step(x: Any, state: Any) -> tuple[Any, Any]:
            output, state = cell(x, state)
            return _through(layers, output), state

        return step


def _as_layers(owner: str, what: str, layers: Sequence[Any]) -> list[Callable[[Any], Any]]:
    found = list(layers)
    for i, layer in enumerate(found):
        if not callable(layer) or hasattr(layer, "zero_state"):
            raise TypeError(f"{owner}: {what} {i} is a function of one array, got a {type(layer).__name__}")
    return found


def _through(layers: Sequence[Callable[[Any], Any]], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x
