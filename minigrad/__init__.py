"""minigrad: a tiny tape-based autograd engine, one switch between NumPy and CuPy, and a `scan`."""

from minigrad import random, tree
from minigrad.backend import backends, use_backend
from minigrad.ops import *  # noqa: F403  # every public op is a public name; the list is minigrad.ops.__all__
from minigrad.ops import __all__ as _op_names
from minigrad.scan import scan
from minigrad.tape import Tape, no_grad
from minigrad.tensor import Tensor, arange, asarray, full, ones, tensor, zeros
from minigrad.transforms import (
    checkpoint,
    custom_op,
    grad,
    hvp,
    jacobian,
    jvp,
    stop_gradient,
    value_and_grad,
    vjp,
)

__version__ = "0.1.0"

__all__ = sorted(
    [
        *_op_names, "Tape", "Tensor", "arange", "asarray", "backends", "checkpoint", "custom_op", "full", "grad",
        "hvp", "jacobian", "jvp", "no_grad", "ones", "random", "scan", "stop_gradient", "tensor", "tree", "use_backend",
        "value_and_grad", "vjp", "zeros",
    ]
)  # fmt: skip
