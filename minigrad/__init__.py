"""minigrad: a tiny tape-based autograd engine, one switch between NumPy and CuPy, and a `scan`."""

# ruff: noqa: F401, F403, F405  # what is imported here is public: the names are in __all__, sorted
from minigrad import explain, nn, numpy_functions, ops, optim, random, testing, training, tree
from minigrad.backend import backends, use_backend
from minigrad.ops import *
from minigrad.scan import scan
from minigrad.tape import Tape, no_grad
from minigrad.tensor import Tensor, arange, asarray, full, ones, tensor, zeros
from minigrad.transforms import checkpoint, custom_op, grad, hvp, jacobian, jvp, stop_gradient, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "Tape", "Tensor", "abs", "add", "arange", "argmax", "asarray", "astype", "backends", "broadcast_to", "checkpoint",
    "clip", "concatenate", "copy", "cos", "cross_entropy", "cumsum", "custom_op", "divide", "dot", "einsum", "elu",
    "exp", "expand_dims", "explain", "expm1", "flip", "full", "getitem", "grad", "hvp", "jacobian", "jvp", "leaky_relu",
    "log", "log1p", "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum", "moveaxis",
    "multiply", "negative", "nn", "no_grad", "norm", "one_hot", "ones", "optim", "outer", "pad", "power", "prod",
    "random", "relu", "repeat", "reshape", "reverse_sequence", "scan", "sequence_mask", "sigmoid", "sign", "sin",
    "softmax", "softplus", "split", "sqrt", "square", "squeeze", "stack", "stop_gradient", "subtract", "sum",
    "swapaxes", "take", "take_along_axis", "tanh", "tensor", "testing", "training", "transpose", "tree", "use_backend",
    "value_and_grad", "var", "vjp", "where", "zeros",
]  # fmt: skip
