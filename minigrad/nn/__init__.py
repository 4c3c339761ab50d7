"""Neural networks: modules and layers, recurrent cells, what goes around a cell, the loop over time, and losses.

A cell is any callable `cell(x, state) -> (output, state)` with `zero_state(batch_size)`: ten lines, no loop and no
derivative. `dynamic_rnn` runs it over sequences with `scan`. Rows are samples everywhere: `x @ W_x + h @ W_h + b`.
"""

from minigrad.nn import decoding, initialisers
from minigrad.nn.attention import AdditiveAttention, Attention, DotAttention
from minigrad.nn.bidirectional import Bidirectional
from minigrad.nn.cells import GRUCell, LayerNorm, LSTMCell, LSTMState, RNNCell
from minigrad.nn.deep import Deep, DeepOutput, DeepTransition
from minigrad.nn.dropout import Dropout
from minigrad.nn.equations import equations
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
from minigrad.nn.run import Run
from minigrad.nn.seq2seq import Predictions, Seq2Seq
from minigrad.nn.stream import Stream
from minigrad.nn.torch_weights import from_torch, to_torch
from minigrad.nn.wrappers import LearnedState, Residual

__all__ = [
    "AdditiveAttention",
    "Attention",
    "Bidirectional",
    "Deep",
    "DeepOutput",
    "DeepTransition",
    "DotAttention",
    "Dropout",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "LSTMState",
    "LayerNorm",
    "LearnedState",
    "Linear",
    "Module",
    "Predictions",
    "RNNCell",
    "Residual",
    "Run",
    "Seq2Seq",
    "Stream",
    "binary_cross_entropy",
    "bits_per_character",
    "decoding",
    "dynamic_rnn",
    "equations",
    "from_torch",
    "initialisers",
    "mean_squared_error",
    "perplexity",
    "reduce_losses",
    "sequence_loss",
    "to_torch",
]
