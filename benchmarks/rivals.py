"""The same networks in torch, JAX, autograd and MyGrad.

Each function takes the inputs (T, B, I) and the parameters by name, does what is done once, and returns the step
that is timed: forward, the sum of the squares of all outputs, backward.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks.cells import LSTM, Array, Arrays, Cell, Step, results, zero_state


def torch_layer(name: str, x: Array, parameters: Arrays) -> Step:
    """torch.nn.LSTM, GRU or RNN: written in C++ for this purpose. Its GRU resets after the product."""
    import torch

    layer = getattr(torch.nn, name)(len(parameters["W_x"]), len(parameters["W_h"]))
    names = {name: THEIRS[name] + "_l0" for name in parameters}
    return torch_step(layer, names, lambda inputs: layer(inputs)[0], x, parameters)


def torch_two(second: str, x: Array, parameters: Arrays, **options: Any) -> Step:
    """torch.nn.LSTM with two layers or two directions; `second` is what torch calls the second."""
    import torch

    layer = torch.nn.LSTM(len(parameters["W_x"]), len(parameters["W_h"]), **options)
    names = {name: THEIRS[name.removesuffix("2")] + (second if name.endswith("2") else "_l0") for name in parameters}
    return torch_step(layer, names, lambda inputs: layer(inputs)[0], x, parameters)


def torch_loop(x: Array, parameters: Arrays) -> Step:
    """torch.nn.LSTMCell in a loop: what a cell of one's own costs."""
    import torch

    lstm = torch.nn.LSTMCell(len(parameters["W_x"]), len(parameters["W_h"]))

    def run(inputs: Array) -> Array:
        state, outputs = None, []
        for x_t in inputs.unbind():
            state = lstm(x_t, state)
            outputs.append(state[0])
        return torch.stack(outputs)

    return torch_step(lstm, {name: THEIRS[name] for name in parameters}, run, x, parameters)


THEIRS = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih", "b_x": "bias_ih", "b_h": "bias_hh"}


def torch_step(
    module: Array, names: dict[str, str], run: Callable[[Array], Array], x: Array, parameters: Arrays
) -> Step:
    """`names` are torch's of the parameters."""
    import torch

    copies = [getattr(module, names[name]) for name in parameters]
    with torch.no_grad():
        for name, theirs in module.named_parameters():
            if name.startswith("bias_hh"):
                theirs.zero_()  # torch adds two biases, whether the cell has them or not
        for copy, array in zip(copies, parameters.values(), strict=True):
            copy.copy_(torch.from_numpy(array.T.copy()))
    inputs = torch.tensor(x, requires_grad=True)

    def step() -> dict[str, Array]:
        module.zero_grad()
        inputs.grad = None
        outputs = run(inputs)
        loss = (outputs * outputs).sum()
        loss.backward()
        gradients = [inputs.grad, *(copy.grad if copy.ndim == 1 else copy.grad.T for copy in copies)]
        return results(parameters, outputs.detach(), loss.item(), gradients)

    return step


def jax_scan(cell: Cell, x: Array, parameters: Arrays, hoisted: bool = True) -> Step:
    """The cell in jax.lax.scan under jit; with its input product before the loop, or as it stands."""
    import jax

    ops = SimpleNamespace(tanh=jax.numpy.tanh, sigmoid=jax.nn.sigmoid)
    early = cell.early if hoisted else lambda inputs, _: inputs
    step_of = cell.late if hoisted else cell.step

    def loss(inputs: Array, *weights: Array) -> tuple[Array, Array]:
        def body(state: tuple[Array, ...], x_t: Array) -> tuple[tuple[Array, ...], Array]:
            state = step_of(state, x_t, weights, ops)
            return state, state[0]

        outputs = jax.lax.scan(body, start, early(inputs, weights))[1]
        return jax.numpy.sum(outputs * outputs), outputs

    start = tuple(map(jax.numpy.asarray, zero_state(cell, x, parameters)))
    arrays = [jax.numpy.asarray(array) for array in (x, *parameters.values())]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays))), has_aux=True))

    def step() -> dict[str, Array]:
        (value, outputs), gradients = jax.block_until_ready(compiled(*arrays))
        return results(parameters, outputs, value, gradients)

    return step


def autograd_loop(x: Array, parameters: Arrays) -> Step:
    """The LSTM in a Python loop."""
    import autograd
    import autograd.numpy as anp
    from autograd.tracer import getval

    ops = SimpleNamespace(tanh=anp.tanh, sigmoid=lambda z: 1 / (1 + anp.exp(-z)))
    kept = []

    def loss(arrays: tuple[Array, ...]) -> Array:
        inputs, *weights = arrays
        state, outputs = zero_state(LSTM, x, parameters), []
        for t in range(len(x)):
            state = LSTM.step(state, inputs[t], weights, ops)
            outputs.append(state[0])
        stacked = anp.stack(outputs)
        kept[:] = [getval(stacked)]
        return anp.sum(stacked * stacked)

    value_and_grad = autograd.value_and_grad(loss)

    def step() -> dict[str, Array]:
        value, gradients = value_and_grad((x, *parameters.values()))
        return results(parameters, kept[0], value, gradients)

    return step


def mygrad_loop(x: Array, parameters: Arrays) -> Step:
    """The LSTM in a Python loop."""
    import mygrad
    from mygrad.nnet.activations import sigmoid

    mygrad.turn_memory_guarding_off()  # MyGrad's own advice for speed
    ops = SimpleNamespace(tanh=mygrad.tanh, sigmoid=sigmoid)
    tensors = [mygrad.tensor(array) for array in (x, *parameters.values())]

    def step() -> dict[str, Array]:
        inputs, *weights = tensors
        for tensor in tensors:
            tensor.null_grad()
        state, outputs = zero_state(LSTM, x, parameters), []
        for t in range(len(x)):
            state = LSTM.step(state, inputs[t], weights, ops)
            outputs.append(state[0])
        stacked = mygrad.stack(outputs)
        loss = (stacked * stacked).sum()
        loss.backward()
        return results(parameters, stacked.data, loss.item(), [tensor.grad for tensor in tensors])

    return step
