"""The rules that `scan` compiles with: all steps in one call (`Op.batch`), and rows that do not meet (`Op.rows`).

Both are held against what the op does: one step at a time, one row at a time. The calls are those that the ops' own
cases record, forward and backward, so that whatever a rule of a derivative does is among them.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import tree
from minigrad.ops.op import REGISTRY, Elementwise, Op
from minigrad.ops.unstack import UNSTACK
from minigrad.testing.specs import all_specs, realize, spec_for
from minigrad.testing.strategies import seeds

OPS = {name: op for name, op in REGISTRY.items() if op.forward.__module__.startswith("minigrad.")}
WITHOUT = {}  # an op without one of the rules, and why
BROADCASTING = {name for name, op in OPS.items() if isinstance(op, Elementwise)} | {"where", "scale", "absorb"}
ROUNDING = {name for name, op in OPS.items() if isinstance(op, Elementwise)} | {"logsumexp", "log_softmax", "norm"}
SLICE, REVERSED = slice(None), slice(None, None, -1)


def test_every_op_has_both_rules():
    bare = {name for name, op in OPS.items() if op.batch_rule is None or op.row_rule is None}
    assert bare == set(WITHOUT)


def test_what_is_no_op_of_ours_has_none():
    cube = mg.custom_op(lambda x: x**3, vjp=lambda g, out, x: (g * 3 * x**2,))
    for op in (cube, UNSTACK):
        assert getattr(op, "batch_rule", None) is None
        assert getattr(op, "row_rule", None) is None


# ---- what is compared ----------------------------------------------------------------------------------------------


def forward(op, arrays, static):
    with np.errstate(all="ignore"):
        return np.asarray(op.forward(np, *arrays, **static))


def same(op, got, expected):
    """To the last bit, or where functions have loops of their own for other lengths, to a few."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if op.name not in ROUNDING or expected.dtype.kind != "f":
        return np.array_equal(got, expected, equal_nan=expected.dtype.kind == "f")
    eps = 8 * np.finfo(expected.dtype).eps
    return np.allclose(got, expected, rtol=eps, atol=eps, equal_nan=True)


def fresh(op, like, shape, rng):
    """Other values: of the array's own for an elementwise op, which has a domain; else such that sums are exact."""
    if like.size == 0 or (like.dtype.kind == "f" and op.name not in BROADCASTING):
        return (rng.integers(-2048, 2049, shape) / 1024).astype(like.dtype)
    return rng.choice(like.reshape(-1), shape)


def calls_of(spec, case, seed):
    """What one call of a public op records with its gradient: (op, inputs, static) of every record."""
    inputs = [mg.tensor(array, requires_grad=True) for array in realize(spec, case, seed)]
    with mg.Tape() as tape:
        out, pull = mg.vjp(lambda *xs: spec.fn(*xs, *case.args, **case.kwargs), *inputs)
        if spec.differentiable:
            pull(tree.map(lambda y: mg.tensor(np.ones(y.shape, y.dtype), requires_grad=True), out))
    return [
        (record.op, [np.asarray(value) for value in record.inputs], record.static)
        for record in tape.records
        if isinstance(record.op, Op)
    ]


def subsets(places):
    """Every subset but the empty one."""
    return [set(chosen) for n in range(1, len(places) + 1) for chosen in itertools.combinations(places, n)]


SPECS = [spec.name for spec in all_specs() if spec.differentiable]


def of_all_specs(test):
    """The test on drawn cases of every op; parametrized outside, so that Hypothesis sees one op at a time."""
    return pytest.mark.parametrize("name", SPECS)(given(st.data(), seeds)(test))


# ---- all steps at once ---------------------------------------------------------------------------------------------


def no_single_call(op, static, shapes, stacked):
    """Where time cannot be one more axis, by the op's own description."""
    if op.name == "matmul":
        a, b = (np.ones(((5,) if moves else ()) + shape) for shape, moves in zip(shapes, stacked, strict=True))
        step = np.matmul(*(np.ones(shape) for shape in shapes))
        try:
            return np.matmul(a, b).shape != (5, *step.shape)  # no other axis has size 5
        except ValueError:
            return True
    if op.name == "concatenate":
        return not all(stacked)
    if op.name in ("getitem", "scatter_add"):
        return any(isinstance(part, np.ndarray) for part in static["index"])
    if op.name == "broadcast_to":
        return len(static["shape"]) > len(shapes[0])
    if op.name == "clip":
        return any(np.ndim(bound) > len(shapes[0]) for bound in static.values() if bound is not None)
    return False


def check_batch(op, arrays, static, stacked, steps, rng):
    shapes = [array.shape for array in arrays]
    given = [
        fresh(op, array, (steps, *array.shape) if moves else array.shape, rng)
        for array, moves in zip(arrays, stacked, strict=True)
    ]
    batched = op.batch_rule(static, shapes, stacked)
    assert (batched is None) == no_single_call(op, static, shapes, stacked), (op, static, shapes, stacked)
    if batched is None:
        return
    if batched.get("shape", ())[:1] == (-1,):  # as the docstrings say
        batched = {**batched, "shape": (steps, *batched["shape"][1:])}
    parts = [
        forward(op, [x[t, ...] if moves else x for x, moves in zip(given, stacked, strict=True)], static)
        for t in range(steps)
    ]
    one = forward(op, arrays, static)
    expected = np.stack(parts) if parts else np.empty((0, *one.shape), one.dtype)
    if op.name in BROADCASTING:  # whoever asks gives these as many axes as the output has
        given = [
            x.reshape(steps, *(1,) * (one.ndim - len(shape)), *shape) if moves else x
            for x, moves, shape in zip(given, stacked, shapes, strict=True)
        ]
    got = forward(op, given, batched)
    assert same(op, got, expected), (op, static, shapes, stacked, steps, got, expected)


@of_all_specs
def test_one_call_gives_the_stack_of_all_steps(name, data, seed):
    rng = np.random.default_rng(seed)
    for op, arrays, static in calls_of(spec_for(name), data.draw(spec_for(name).cases), seed):
        for chosen in subsets(range(len(arrays))):
            for steps in (0, 1, 3):
                check_batch(op, arrays, static, [i in chosen for i in range(len(arrays))], steps, rng)


A = np.array([0, 1])
BATCHES = [
    # op, static, shapes at a step, what is stacked, static for all steps
    ("sum", {"axis": (0, 1), "keepdims": True}, [(2, 3)], [1], {"axis": (1, 2), "keepdims": True}),
    ("sum", {"axis": (), "keepdims": False}, [()], [1], {"axis": (), "keepdims": False}),
    ("max", {"axis": (1,), "keepdims": False}, [(2, 3)], [1], {"axis": (2,), "keepdims": False}),
    ("min", {"axis": (0,), "keepdims": False}, [(2, 3)], [1], {"axis": (1,), "keepdims": False}),
    ("logsumexp", {"axis": (1,), "keepdims": True}, [(2, 3)], [1], {"axis": (2,), "keepdims": True}),
    ("norm", {"axis": (0, 1), "keepdims": False}, [(2, 3)], [1], {"axis": (1, 2), "keepdims": False}),
    ("cumsum", {"axis": 0}, [(2, 3)], [1], {"axis": 1}),
    ("cumsum", {"axis": 1}, [(2, 3)], [1], {"axis": 2}),
    ("log_softmax", {"axis": 0}, [(2, 3)], [1], {"axis": 1}),
    ("log_softmax", {"axis": 1}, [(2, 3)], [1], {"axis": 2}),
    ("clip", {"lo": np.zeros((2, 1)), "hi": 1}, [(2, 3)], [1], {"lo": np.zeros((2, 1)), "hi": 1}),
    ("clip", {"lo": -1.0, "hi": 1.0}, [(3,)], [1], {"lo": -1.0, "hi": 1.0}),
    ("reshape", {"shape": ()}, [(1, 1)], [1], {"shape": (-1,)}),
    ("reshape", {"shape": (3, -1)}, [(2, 3)], [1], {"shape": (-1, 3, 2)}),
    ("reshape", {"shape": (-1, 2)}, [(0, 3)], [1], {"shape": (-1, 0, 2)}),
    ("transpose", {"axes": (1, 0)}, [(2, 3)], [1], {"axes": (0, 2, 1)}),
    ("broadcast_to", {"shape": (2, 3)}, [(2, 1)], [1], {"shape": (-1, 2, 3)}),
    ("broadcast_to", {"shape": (2, 3)}, [(3,)], [1], None),
    ("concatenate", {"axis": 1}, [(2, 3), (2, 1)], [1, 1], {"axis": 2}),
    ("concatenate", {"axis": 1}, [(2, 3), (2, 1)], [1, 0], None),
    ("pad", {"widths": ((1, 0), (0, 2))}, [(2, 3)], [1], {"widths": ((0, 0), (1, 0), (0, 2))}),
    ("copy", {}, [(2, 3)], [1], {}),
    ("astype", {"dtype": np.dtype("float32")}, [(2,)], [1], {"dtype": np.dtype("float32")}),
    ("getitem", {"index": ()}, [(2,)], [1], {"index": (SLICE,)}),
    ("getitem", {"index": (0, ..., None)}, [(2, 3)], [1], {"index": (SLICE, 0, ..., None)}),
    ("getitem", {"index": (SLICE, A)}, [(2, 3)], [1], None),
    ("getitem", {"index": (A > 0,)}, [(2, 3)], [1], None),
    ("getitem", {"index": (object(),)}, [(2, 3)], [1], None),  # what a trace puts in the place of an array
    ("scatter_add", {"index": (0,), "shape": (2, 3)}, [(3,)], [1], {"index": (SLICE, 0), "shape": (-1, 2, 3)}),
    ("scatter_add", {"index": (A,), "shape": (2, 3)}, [(2, 3)], [1], None),
    ("einsum", {"inputs": ("ij", "j"), "output": "i"}, [(2, 3), (3,)], [1, 1],
     {"inputs": ("aij", "aj"), "output": "ai"}),
    ("einsum", {"inputs": ("ab", "b"), "output": "a"}, [(2, 3), (3,)], [0, 1],
     {"inputs": ("ab", "cb"), "output": "ca"}),
    ("clip", {"lo": -1.0, "hi": None}, [(2, 3)], [1], {"lo": -1.0, "hi": None}),
    ("clip", {"lo": np.zeros((2, 1)), "hi": 1}, [(3,)], [1], None),
    ("where", {}, [(2, 1), (2, 3), ()], [0, 1, 0], {}),
    ("scale", {}, [(2, 3), (2, 3)], [1, 0], {}),
    ("absorb", {}, [(2, 3), (2, 3)], [0, 1], {}),
    *[("matmul", {}, shapes, stacked, {} if works else None) for shapes, stacked, works in (
        ([(2, 3), (3, 1)], [1, 0], True), ([(3,), (3, 1)], [1, 0], True), ([(2, 3), (3,)], [1, 0], True),
        ([(3,), (3,)], [1, 0], True), ([(4, 2, 3), (4, 3, 1)], [1, 0], True), ([(4, 2, 3), (3, 1)], [1, 0], True),
        ([(2, 3), (4, 3, 1)], [1, 0], False), ([(3,), (4, 3, 1)], [1, 0], False),
        ([(2, 3), (3, 1)], [0, 1], True), ([(3,), (3, 1)], [0, 1], True), ([(2, 3), (4, 3, 1)], [0, 1], True),
        ([(2, 3), (3,)], [0, 1], False), ([(3,), (3,)], [0, 1], False), ([(4, 2, 3), (3, 1)], [0, 1], False),
        ([(2, 3), (3, 1)], [1, 1], True), ([(4, 2, 3), (4, 3, 1)], [1, 1], True), ([(3,), (3,)], [1, 1], False),
        ([(3,), (3, 1)], [1, 1], False), ([(2, 3), (3,)], [1, 1], False), ([(4, 2, 3), (3, 1)], [1, 1], False),
    )],
]  # fmt: skip


@pytest.mark.parametrize(("name", "static", "shapes", "stacked", "expected"), BATCHES)
def test_what_a_batch_rule_says(name, static, shapes, stacked, expected):
    assert str(OPS[name].batch_rule(static, shapes, stacked)) == str(expected)
    if not any(part.__class__ is object for part in static.get("index", ())):
        rng = np.random.default_rng(0)
        for steps in (0, 1, 2, 3):
            check_batch(OPS[name], [np.ones(shape) for shape in shapes], static, stacked, steps, rng)


def test_the_table_shows_every_op_with_a_rule_of_its_own():
    assert {name for name, *_ in BATCHES} >= {name for name, op in OPS.items() if not isinstance(op, Elementwise)}


def test_an_einsum_without_a_free_letter_has_no_batch():
    letters = "".join(chr(ord(first) + n) for first in "aA" for n in range(26))
    assert OPS["einsum"].batch_rule({"inputs": (letters,), "output": ""}, [(1,) * 52], [True]) is None


# ---- rows that do not meet -----------------------------------------------------------------------------------------


def of_one_row(op, static):
    """The static arguments of the same call on a batch of one row."""
    if op.name in ("reshape", "broadcast_to", "scatter_add") and static["shape"]:
        return {**static, "shape": (1, *static["shape"][1:])}
    return static


def rows_stay_apart(op, arrays, static, aligned, rng):
    """Whether changing a row changes no other one, to the last bit, and whether each row comes out by itself."""
    rows = next(len(x) for x, has in zip(arrays, aligned, strict=True) if has)
    try:
        out = forward(op, arrays, static)
        if out.shape[:1] != (rows,):
            return False
        for r in range(rows):
            changed = [x.copy() for x in arrays]
            for x, has in zip(changed, aligned, strict=True):
                if has:
                    x[r] = fresh(op, x, x.shape[1:], rng)
            others = [np.delete(y, r, 0).tobytes() for y in (out, forward(op, changed, static))]
            alone = [x[r : r + 1] if has else x for x, has in zip(arrays, aligned, strict=True)]
            if others[0] != others[1] or not same(op, forward(op, alone, of_one_row(op, static)), out[r : r + 1]):
                return False
    except (ValueError, IndexError):  # a single row does not even fit
        return False
    return True


@of_all_specs
def test_where_a_rule_says_so_rows_stay_apart(name, data, seed):
    rng = np.random.default_rng(seed)
    for op, originals, static in calls_of(spec_for(name), data.draw(spec_for(name).cases), seed):
        arrays = [fresh(op, x, x.shape, rng) for x in originals]
        shapes = [x.shape for x in arrays]
        for chosen in subsets([i for i, x in enumerate(arrays) if x.ndim]):
            if len({len(arrays[i]) for i in chosen}) == 1:
                aligned = [i in chosen for i in range(len(arrays))]
                if op.row_rule(static, shapes, aligned):
                    assert rows_stay_apart(op, arrays, static, aligned, rng), (op, static, shapes, aligned)


APART = [
    # op, static, shapes, which have rows
    ("add", {}, [(2, 3), (2, 3)], [1, 1]),
    ("add", {}, [(2, 3), (3,)], [1, 0]),
    ("add", {}, [(2, 2), (2,)], [1, 0]),
    ("add", {}, [(2, 3), (1, 3)], [1, 0]),
    ("add", {}, [(2,), ()], [1, 0]),
    ("add", {}, [(2, 1), (2, 3)], [1, 1]),
    ("add", {}, [(1, 2), (1, 2)], [1, 0]),  # there is one row, and nothing that it could meet
    ("where", {}, [(2, 1), (2, 3), ()], [1, 1, 0]),
    ("scale", {}, [(2, 3), (3,)], [1, 0]),
    ("absorb", {}, [(2, 3), (2, 3)], [1, 1]),
    ("clip", {"lo": np.zeros(2), "hi": np.ones((1, 2))}, [(2, 2)], [1]),
    ("matmul", {}, [(2, 2), (2, 2)], [1, 0]),
    ("matmul", {}, [(2, 2), (2,)], [1, 0]),
    ("matmul", {}, [(2, 2, 2), (2, 2)], [1, 0]),
    ("matmul", {}, [(2, 2, 2, 2), (2, 2, 2)], [1, 0]),
    ("matmul", {}, [(2, 2, 2), (2, 2, 2)], [1, 1]),
    ("matmul", {}, [(2, 2), (2, 2, 2)], [0, 1]),
    ("matmul", {}, [(2,), (2, 2, 2)], [0, 1]),
    ("matmul", {}, [(2, 2, 1), (1, 1, 2)], [1, 0]),
    ("matmul", {}, [(1, 2, 2), (2, 2, 2)], [0, 1]),
    ("einsum", {"inputs": ("bij", "bjk"), "output": "bik"}, [(2, 2, 2), (2, 2, 2)], [1, 1]),
    ("einsum", {"inputs": ("bi", "ij", "bj"), "output": "b"}, [(2, 2), (2, 2), (2, 2)], [1, 0, 1]),
    ("sum", {"axis": (1,), "keepdims": False}, [(2, 2)], [1]),
    ("sum", {"axis": (), "keepdims": False}, [(2, 2)], [1]),
    ("max", {"axis": (1, 2), "keepdims": True}, [(2, 2, 2)], [1]),
    ("min", {"axis": (1,), "keepdims": False}, [(2, 2)], [1]),
    ("norm", {"axis": (1,), "keepdims": True}, [(2, 2)], [1]),
    ("logsumexp", {"axis": (1,), "keepdims": True}, [(2, 2)], [1]),
    ("cumsum", {"axis": 1}, [(2, 2)], [1]),
    ("log_softmax", {"axis": 1}, [(2, 2)], [1]),
    ("getitem", {"index": (slice(None), slice(None))}, [(2, 3)], [1]),
    ("reshape", {"shape": (2, 2, 1)}, [(2, 2)], [1]),
    ("reshape", {"shape": (-1, 4)}, [(2, 2, 2)], [1]),
    ("reshape", {"shape": (2, -1)}, [(2, 2, 2)], [1]),
    ("reshape", {"shape": (0, 5)}, [(0, 3)], [1]),
    ("transpose", {"axes": (0, 2, 1)}, [(2, 2, 2)], [1]),
    ("broadcast_to", {"shape": (2, 3)}, [(2, 1)], [1]),
    ("concatenate", {"axis": 1}, [(2, 2), (2, 1)], [1, 1]),
    ("pad", {"widths": ((0, 0), (1, 1))}, [(2, 2)], [1]),
    ("copy", {}, [(2, 2)], [1]),
    ("astype", {"dtype": np.dtype("float32")}, [(2, 2)], [1]),
    ("getitem", {"index": ()}, [(2, 2)], [1]),
    ("getitem", {"index": (SLICE, 0)}, [(2, 2)], [1]),
    ("getitem", {"index": (SLICE, REVERSED)}, [(2, 2)], [1]),
    ("getitem", {"index": (slice(0, 2), slice(1, 2))}, [(2, 2)], [1]),  # the gradient of pad
    ("getitem", {"index": (..., 0)}, [(2, 2)], [1]),
    ("getitem", {"index": (..., None)}, [(2,)], [1]),
    ("scatter_add", {"index": (SLICE, 0), "shape": (2, 2)}, [(2,)], [1]),
    ("scatter_add", {"index": (..., REVERSED), "shape": (2, 2)}, [(2, 2)], [1]),
]

MEETING = [
    ("add", {}, [(2,), (2, 2)], [1, 1]),
    ("add", {}, [(2,), (2, 2)], [1, 0]),
    ("add", {}, [(2, 2), (2, 2)], [1, 0]),  # of something that stays, rows belong to no row
    ("add", {}, [(2, 2), (2, 2)], [0, 1]),
    ("add", {}, [(2, 1), (1, 2, 2)], [1, 0]),
    ("add", {}, [(1, 2), (2, 2)], [1, 0]),  # one row, and two come out
    ("add", {}, [(2,), (2, 1)], [1, 1]),
    ("where", {}, [(2,), (2, 2), (2, 2)], [1, 1, 1]),
    ("where", {}, [(2, 2), (2, 2), ()], [0, 1, 0]),
    ("scale", {}, [(2, 2), (2,)], [1, 1]),
    ("absorb", {}, [(2, 2), (2, 2)], [1, 0]),
    ("clip", {"lo": np.array([[-3.0], [1.0]]), "hi": None}, [(2, 2)], [1]),
    ("clip", {"lo": np.array([[-3.0], [1.0]]), "hi": None}, [(2,)], [1]),
    ("matmul", {}, [(2, 2), (2, 2)], [0, 1]),
    ("matmul", {}, [(2, 2), (2, 2)], [1, 1]),
    ("matmul", {}, [(2,), (2, 2)], [1, 0]),
    ("matmul", {}, [(2,), (2, 2)], [0, 1]),
    ("matmul", {}, [(2, 2), (2,)], [0, 1]),
    ("matmul", {}, [(2,), (2,)], [1, 1]),
    ("matmul", {}, [(2, 2), (2, 2, 2)], [1, 0]),
    ("matmul", {}, [(2, 2), (2, 2, 2)], [1, 1]),
    ("matmul", {}, [(2, 2, 2), (2, 2)], [0, 1]),
    ("matmul", {}, [(2, 2, 2), (2, 2, 2)], [1, 0]),
    ("matmul", {}, [(2, 2, 2), (2, 2, 2)], [0, 1]),
    ("matmul", {}, [(1, 2, 2), (2, 2, 2)], [1, 0]),  # one row, and two come out
    ("matmul", {}, [(1, 2), (2, 2)], [0, 1]),
    ("matmul", {}, [(2, 2), (1, 2, 2)], [1, 0]),
    ("matmul", {}, [(1, 2, 2), (2, 2)], [0, 1]),
    ("matmul", {}, [(2, 2, 2), (2, 2, 2, 2)], [1, 1]),  # rows of a are an inner leading axis of b
    ("matmul", {}, [(2, 2, 2, 2), (2, 2, 2)], [1, 1]),
    ("einsum", {"inputs": ("bi", "bj"), "output": "ij"}, [(2, 2), (2, 2)], [1, 1]),
    ("einsum", {"inputs": ("bi", "bj"), "output": "bij"}, [(2, 2), (2, 2)], [1, 0]),
    ("einsum", {"inputs": ("bi", "cj"), "output": "bj"}, [(2, 2), (2, 2)], [1, 1]),
    ("einsum", {"inputs": ("bi", "ib"), "output": "b"}, [(2, 2), (2, 2)], [1, 0]),
    ("einsum", {"inputs": ("bb",), "output": "b"}, [(2, 2)], [1]),
    ("einsum", {"inputs": ("bi",), "output": "ib"}, [(2, 2)], [1]),
    ("einsum", {"inputs": ("bi",), "output": ""}, [(2, 2)], [1]),
    *[(name, {"axis": axis, "keepdims": kept}, [(2, 2)], [1])
      for name in ("sum", "max", "min", "norm", "logsumexp") for axis in ((0,), (0, 1)) for kept in (True, False)],
    ("cumsum", {"axis": 0}, [(2, 2)], [1]),
    ("log_softmax", {"axis": 0}, [(2, 2)], [1]),
    ("clip", {"lo": None, "hi": np.array([[-3.0], [1.0]])}, [(2, 2)], [1]),
    ("reshape", {"shape": (4,)}, [(2, 2)], [1]),
    ("reshape", {"shape": (-1,)}, [(2, 2)], [1]),
    ("reshape", {"shape": (1, 2, 2)}, [(2, 2)], [1]),
    ("reshape", {"shape": (3, 2)}, [(2, 3)], [1]),
    ("transpose", {"axes": (1, 0)}, [(2, 2)], [1]),
    ("transpose", {"axes": (1, 0, 2)}, [(2, 2, 2)], [1]),
    ("broadcast_to", {"shape": (2, 2)}, [(2,)], [1]),
    ("broadcast_to", {"shape": (2, 3)}, [(1, 3)], [1]),
    ("concatenate", {"axis": 0}, [(2, 2), (2, 2)], [1, 1]),
    ("concatenate", {"axis": 1}, [(2, 2), (2, 2)], [1, 0]),
    ("pad", {"widths": ((1, 0), (0, 0))}, [(2, 2)], [1]),
    ("getitem", {"index": (0,)}, [(2, 2)], [1]),
    ("getitem", {"index": (..., 0)}, [(2,)], [1]),
    ("getitem", {"index": (None,)}, [(2, 2)], [1]),
    ("getitem", {"index": (REVERSED,)}, [(2, 2)], [1]),
    ("getitem", {"index": (slice(1, None),)}, [(2, 2)], [1]),
    ("getitem", {"index": (..., REVERSED, SLICE)}, [(2, 2)], [1]),
    ("getitem", {"index": (np.array([1, 0]),)}, [(2, 2)], [1]),
    ("getitem", {"index": (A, A)}, [(2, 2)], [1]),
    ("scatter_add", {"index": (0,), "shape": (2, 2)}, [(2,)], [1]),
    ("scatter_add", {"index": (REVERSED,), "shape": (2, 2)}, [(2, 2)], [1]),
    ("scatter_add", {"index": (slice(1, 3),), "shape": (3, 2)}, [(2, 2)], [1]),
    ("scatter_add", {"index": (SLICE,), "shape": (2, 2)}, [(1, 2)], [1]),
    ("scatter_add", {"index": (np.array([1, 0]),), "shape": (2, 2)}, [(2, 2)], [1]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "static", "shapes", "aligned"), APART)
def test_rows_that_stay_apart(name, static, shapes, aligned):
    rng = np.random.default_rng(0)
    arrays = [distinct(shape, rng) for shape in shapes]
    assert OPS[name].row_rule(static, shapes, aligned) is True
    assert rows_stay_apart(OPS[name], arrays, static, aligned, rng)


@pytest.mark.parametrize(("name", "static", "shapes", "aligned"), MEETING)
def test_rows_that_meet(name, static, shapes, aligned):
    """By the rule, and in truth: a table of what a rule refuses without need would not test it."""
    rng = np.random.default_rng(0)
    arrays = [distinct(shape, rng) for shape in shapes]
    assert OPS[name].row_rule(static, shapes, aligned) is False
    assert not rows_stay_apart(OPS[name], arrays, static, aligned, rng)


def distinct(shape, rng):
    """Values that all differ, so that no two rows are equal by chance; one is 0, which is False to `where`."""
    size = int(np.prod(shape))
    return (rng.permutation(size) - size // 2).reshape(shape) / 8


def test_the_tables_show_every_op_with_a_rule_of_its_own():
    own = {name for name, op in OPS.items() if not isinstance(op, Elementwise)}
    assert {name for name, *_ in APART} >= own
    assert {name for name, *_ in MEETING} >= own - {"copy", "astype"}  # in which nothing meets


@pytest.mark.parametrize("name", ["getitem", "scatter_add"])
def test_index_arrays_and_what_stands_for_them_are_refused(name):
    for part in (A, A > 0, object(), True):
        static = {"index": (SLICE, part), "shape": (2, 2)}
        assert OPS[name].row_rule(static, [(2, 2)], [True]) is False


# ---- whole functions -----------------------------------------------------------------------------------------------


def rows_apart(f, *shapes):
    """Rule after rule through all that f records; every argument has rows."""
    rng = np.random.default_rng(0)
    inputs = [mg.tensor(distinct(shape, rng), requires_grad=True) for shape in shapes]
    with mg.Tape() as tape:
        f(*inputs)
    assert tape.records
    rows = {x.record for x in inputs}
    for record in tape.records:
        aligned = [parent in rows for parent in record.parents]
        if any(aligned):
            if not record.op.row_rule(record.static, [np.shape(x) for x in record.inputs], aligned):
                return False
            rows.add(record)
    return True


W = distinct((2, 2), np.random.default_rng(1))


@pytest.mark.parametrize(("f", "apart"), [
    (lambda x: mg.softmax(x, axis=1), True),
    (lambda x: mg.softmax(x, axis=0), False),
    (lambda x: (x - mg.mean(x, -1, keepdims=True)) / mg.sqrt(mg.var(x, -1, keepdims=True) + 1e-5), True),
    (lambda x: x - mg.mean(x, 0), False),
    (lambda x: x - mg.mean(x), False),
    (lambda x: mg.tanh(x @ W + W[0]), True),
    (lambda x: W @ x, False),
    (lambda x: x @ x.T, False),
    (lambda x: x + x.T, False),
    (lambda x: x.T.T, False),  # a rule sees one op: between the two, axis 0 has no rows
    (lambda x: mg.norm(x, axis=1) + x, False),  # (B,) against (B, B)
    (lambda x: mg.norm(x, axis=1, keepdims=True) + x, True),
    (lambda x: mg.flip(x, 1), True),
    (lambda x: mg.flip(x, 0), False),
    (lambda x: mg.cumsum(x, 1), True),
    (lambda x: mg.cumsum(x, 0), False),
    (lambda x: mg.cumsum(x), False),
    (lambda x: mg.stack([x, x], 1), True),
    (lambda x: mg.stack([x, x], 0), False),
    (lambda x: mg.concatenate(mg.split(x, 2, axis=1), axis=1), True),
    (lambda x: mg.prod(x, axis=0), False),
    (lambda x: mg.einsum("bi,ij,bj->b", x, W, x), True),
    (lambda x: mg.einsum("bi,bj->ij", x, x), False),
])  # fmt: skip
def test_functions_of_a_square_batch(f, apart):
    assert rows_apart(f, (2, 2)) is apart


def test_attention_and_its_transposed_memory():
    def attend(query, memory):  # (B, H), (B, S, H)
        weights = mg.softmax(mg.squeeze(mg.expand_dims(query, 1) @ mg.swapaxes(memory, 1, 2), 1))
        return mg.squeeze(mg.expand_dims(weights, 1) @ memory, 1)

    assert rows_apart(attend, (2, 2), (2, 2, 2))
    assert not rows_apart(lambda query, memory: attend(query, mg.swapaxes(memory, 0, 1)), (2, 2), (2, 2, 2))
