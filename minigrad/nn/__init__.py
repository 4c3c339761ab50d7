"""Neural networks: modules and layers, recurrent cells, and the loop over time that drives any cell.

A cell is any callable `cell(x, state) -> (output, state)` with `zero_state(batch_size)`: ten lines, no loop and no
derivative. `dynamic_rnn` runs it over sequences with `scan`. Rows are samples everywhere: `x @ W_x + h @ W_h + b`.
"""

from minigrad.nn import initialisers
from minigrad.nn.cells import GRUCell, LSTMCell, LSTMState, RNNCell
from minigrad.nn.layers import Embedding, Linear
from minigrad.nn.losses import (
    binary_cross_entropy,
    bits_per_character,
    mean_squared_error,
    perplexity,
    reduce_losses,
    sequence_loss,
)
from minigrad.nn.module import Module
from minigrad.nn.recurrent import dynamic_rnn

__all__ = [
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "LSTMState",
    "Linear",
    "Module",
    "RNNCell",
    "binary_cross_entropy",
    "bits_per_character",
    "dynamic_rnn",
    "initialisers",
    "mean_squared_error",
    "perplexity",
    "reduce_losses",
    "sequence_loss",
]
