"""What somebody writes by hand who tests an op: one to three ordinary calls of each of minigrad's ops.

They are no straw men: matrices, vectors, each kind of axis, one pair of shapes that broadcasts. What they lack is what
nobody thinks of: limits, repeated indices, axes in odd orders, odd mixtures.
"""

import numpy as np

from minigrad.testing import Case, OpSpec

MATRIX = (2, 3)
ONE = [Case((MATRIX,)), Case(((4,),))]
TWO = [Case((MATRIX, MATRIX)), Case((MATRIX, (3,)))]
REDUCED = [
    Case((MATRIX,), kwargs={"axis": None, "keepdims": False}),
    Case((MATRIX,), kwargs={"axis": 0, "keepdims": False}),
    Case((MATRIX,), kwargs={"axis": 1, "keepdims": True}),
]
ALONG_LAST = [Case((MATRIX,)), Case((MATRIX,), kwargs={"axis": 0})]

TYPICAL: dict[str, list[Case]] = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum", "minimum", "scale", "absorb"), TWO),
    **dict.fromkeys(("sum", "mean", "var", "max", "min", "prod", "norm", "logsumexp"), REDUCED),
    **dict.fromkeys(("softmax", "log_softmax"), ALONG_LAST),
    "power": [*TWO, Case((MATRIX,), (3,))],
    "where": [
        Case((MATRIX, MATRIX), (np.array([[True, False, True], [False, True, False]]),)),
        Case((MATRIX, (3,)), (np.array([True, False, True]),)),
    ],
    "clip": [Case((MATRIX,), (-1.0, 1.0)), Case(((4,),), (-0.5, None))],
    "leaky_relu": [Case((MATRIX,)), Case((MATRIX,), kwargs={"slope": 0.5})],
    "elu": [Case((MATRIX,)), Case((MATRIX,), kwargs={"alpha": 2.0})],
    "astype": [Case((MATRIX,), ("float64",))],
    "cross_entropy": [Case((MATRIX,), (np.array([2, 0]),))],
    "cumsum": [Case((MATRIX,), kwargs={"axis": 0}), Case((MATRIX,), kwargs={"axis": 1}), Case((MATRIX,))],
    "reverse_sequence": [Case(((4, 3, 2),), (np.array([4, 2, 3]),))],
    "matmul": [Case(((2, 3), (3, 4))), Case(((2, 3), (3,))), Case(((2, 3, 4), (2, 4, 2)))],
    "dot": [Case(((2, 3), (3, 4))), Case(((3,), (3,)))],
    "outer": [Case(((3,), (2,)))],
    "einsum": [
        Case(((2, 3), (3, 4)), kwargs={"subscripts": "ij,jk->ik"}),
        Case(((2, 2, 3), (2, 3, 2)), kwargs={"subscripts": "bij,bjk->bik"}),
        Case(((2, 3),), kwargs={"subscripts": "ij->ji"}),
    ],
    "getitem": [
        Case((MATRIX,), (1,)),
        Case(((4, 3),), ((slice(1, 3), slice(None)),)),
        Case(((4, 3),), (np.array([2, 0]),)),
    ],
    "take": [Case(((4, 3),), (np.array([2, 0]),), {"axis": 0}), Case((MATRIX,), (np.array([1, 2]),), {"axis": 1})],
    "take_along_axis": [Case((MATRIX,), (np.array([[2, 0], [1, 2]]),), {"axis": 1})],
    "reshape": [Case((MATRIX,), ((3, 2),)), Case((MATRIX,), ((-1,),))],
    "transpose": [Case((MATRIX,)), Case(((2, 3, 4),), ((1, 0, 2),))],
    "swapaxes": [Case((MATRIX,), (0, 1))],
    "moveaxis": [Case(((2, 3, 4),), (0, 2))],
    "expand_dims": [Case((MATRIX,), kwargs={"axis": 0})],
    "squeeze": [Case(((2, 1, 3),), kwargs={"axis": 1})],
    "broadcast_to": [Case(((3,),), ((2, 3),)), Case(((2, 1),), ((2, 3),))],
    "flip": [Case((MATRIX,), kwargs={"axis": 0}), Case((MATRIX,), kwargs={"axis": None})],
    "pad": [Case((MATRIX,), (1,)), Case((MATRIX,), (((1, 0), (0, 2)),))],
    "repeat": [Case((MATRIX,), (2,), {"axis": 0})],
    "concatenate": [Case((MATRIX, (1, 3)), kwargs={"axis": 0}), Case((MATRIX, MATRIX), kwargs={"axis": 1})],
    "stack": [Case((MATRIX, MATRIX), kwargs={"axis": 0}), Case((MATRIX, MATRIX), kwargs={"axis": 1})],
    "split": [Case(((4, 3),), (2,), {"axis": 0}), Case((MATRIX,), ((1,),), {"axis": 1})],
}


def typical(spec: OpSpec) -> list[Case]:
    """The calls of one op; a function of one array that is not listed is called on a matrix and on a vector."""
    return TYPICAL.get(spec.name, ONE)
