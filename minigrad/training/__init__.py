"""What a training run needs around the model: checkpoints."""

from minigrad.training.checkpoint import load, save

__all__ = ["load", "save"]
