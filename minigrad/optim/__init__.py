"""Optimisers: how parameters follow their gradients, and clipping before they do.

`params` is a Module, a tensor, or a pytree of both. `step()` binds a new array to each parameter's `.data`, never
writes into the old one, which the tape or a copy may still need, and clears `.grad`. So a training step is

    loss.backward(); clip(params); optimiser.step()
"""

from minigrad.optim.clipping import Clip, clip_global_norm, clip_value
from minigrad.optim.methods import SGD, Adagrad, Adam, AdamW, RMSProp
from minigrad.optim.optimiser import Optimiser

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Clip", "Optimiser", "RMSProp", "clip_global_norm", "clip_value"]
