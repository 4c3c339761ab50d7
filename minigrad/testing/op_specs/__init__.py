"""The specs of minigrad's own ops, one module for each family; importing this package registers them."""

from minigrad.testing.op_specs import elementwise, indexing, linalg, nn, reductions, shape

__all__ = ["elementwise", "indexing", "linalg", "nn", "reductions", "shape"]
