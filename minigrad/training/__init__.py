"""What a training run needs around the model: batches, truncated backpropagation, states, checkpoints."""

from minigrad.training.batches import Batch, Chunk, bucketed, padded, streams
from minigrad.training.checkpoint import load, save
from minigrad.training.gate_conventions import conventions, convert_update
from minigrad.training.states import StateStore
from minigrad.training.truncated import Window, truncated

__all__ = [
    "Batch",
    "Chunk",
    "StateStore",
    "Window",
    "bucketed",
    "conventions",
    "convert_update",
    "load",
    "padded",
    "save",
    "streams",
    "truncated",
]
