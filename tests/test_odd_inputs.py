"""Odd inputs: integers and float16 where floats are computed with, cuts and axes in all of the forms that NumPy takes.

Formulas in float64 are the oracle, of which a float16 may be one rounding away.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing.strategies import seeds


def log_softmax(x, axis):
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def logsumexp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return np.squeeze(np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top, axis)


FLOATING = {
    "mean": (mg.mean, lambda x, axis: x.sum(axis=axis) / x.shape[axis]),
    "var": (mg.var, lambda x, axis: ((x - x.mean(axis=axis, keepdims=True)) ** 2).mean(axis=axis)),
    "norm": (mg.norm, lambda x, axis: np.sqrt((x * x).sum(axis=axis))),
    "logsumexp": (mg.logsumexp, logsumexp),
    "softmax": (mg.softmax, lambda x, axis: np.exp(log_softmax(x, axis))),
    "log_softmax": (mg.log_softmax, log_softmax),
}
"""What gives floats, also of integers."""

SUMMING = {
    "sum": (mg.sum, lambda x, axis: x.sum(axis=axis)),
    "cumsum": (mg.cumsum, lambda x, axis: x.cumsum(axis=axis)),
    "prod": (mg.prod, lambda x, axis: x.prod(axis=axis)),
    "max": (mg.max, lambda x, axis: x.max(axis=axis)),
    "min": (mg.min, lambda x, axis: x.min(axis=axis)),
    "einsum": (
        lambda x, axis: mg.einsum("...i->..." if axis else "i...->...", x),
        lambda x, axis: x.sum(axis=axis),
    ),
} | FLOATING
"""What adds up or multiplies many."""

# ---- integers ------------------------------------------------------------------------------------------------------

INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"]


@pytest.mark.parametrize("name", FLOATING)
@given(st.sampled_from(INTEGERS), st.sampled_from([0, 1, -1]), seeds)
def test_what_gives_floats_computes_with_floats(name, dtype, axis, seed):
    op, formula = FLOATING[name]
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    rng = np.random.default_rng(seed)
    x = np.where(
        rng.integers(0, 2, (3, 4)) == 0,
        rng.choice(np.array([low, high], dtype), (3, 4)),
        rng.integers(low, high, (3, 4), np.dtype(dtype).newbyteorder("="), endpoint=True),
    ).astype(dtype)
    expected = formula(x.astype("float64"), axis)
    for got in (op(x, axis), op(mg.asarray(x), axis).numpy()):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("logits", "label", "loss"),
    [
        (np.array([1, 2, 250], "uint8"), 0, 249.0),
        (np.array([100, -100], "int8"), 0, 0.0),
        (np.array([100, -100], "int8"), 1, 200.0),
        (np.array([True, False]), 1, np.log(1 + np.e)),
    ],
)
def test_cross_entropy_of_integer_logits(logits, label, loss):
    got = mg.cross_entropy(logits, label)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, loss, rtol=1e-15)


def test_integers_in_a_scan():
    xs = np.array([[200, 200, 3], [0, 255, 254]], "uint8")

    def step(state, x):
        return state + mg.norm(x) + mg.logsumexp(x) + mg.var(x) + mg.softmax(x).sum()

    expected = mg.scan(step, xs.astype("float64"), 0.0)
    for unroll in (False, True):
        np.testing.assert_array_equal(mg.scan(step, xs, 0.0, unroll=unroll), expected)


# ---- float16 -------------------------------------------------------------------------------------------------------


def rounded_once(got, expected):
    """Whether each number of float16 is that of float64 to one rounding."""
    expected = np.asarray(expected)
    assert got.dtype == np.float16
    assert got.shape == expected.shape
    return bool(np.all(np.abs(got.astype("float64") - expected) <= np.spacing(np.abs(expected).astype("float16"))))


@pytest.mark.parametrize("name", SUMMING)
@given(st.sampled_from([0, 1]), st.sampled_from(["many", "large", "small"]), seeds)
def test_float16_is_reduced_in_float32(name, axis, kind, seed):
    """Also of many terms, and where squares leave the dtype; gradients and tangents are those of float32, rounded."""
    op, formula = SUMMING[name]
    rng = np.random.default_rng(seed)
    rows = 1000 if kind == "many" and name != "prod" else 4
    largest = {"many": 4.0, "large": 200.0 if name != "prod" else 12.0, "small": 2.0**-12}[kind]
    x = np.moveaxis(largest * rng.integers(1, 9, (rows, 2)) / 8, 0, axis).astype("float16")
    assert rounded_once(op(x, axis), formula(x.astype("float64"), axis))
    g = rng.integers(-4, 5, op(x, axis).shape) / 4
    t = rng.integers(-4, 5, x.shape) / 4

    def derivatives(dtype):
        _, pull = mg.vjp(lambda x: op(x, axis), x.astype(dtype))
        _, tangent = mg.jvp(lambda x: op(x, axis), (x.astype(dtype),), (t.astype(dtype),))
        return pull(g.astype(dtype))[0], tangent

    for got, expected in zip(derivatives("float16"), derivatives("float32"), strict=True):
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, expected.astype("float16"))


@pytest.mark.parametrize(
    ("op", "x", "value", "gradient"),
    [
        (mg.norm, [1e-4] * 4, 2e-4, 0.5),
        (mg.norm, [200.0] * 10, 200 * 10**0.5, 10**-0.5),
        (lambda x: mg.softmax(x)[0], [0.0] * 70000, 1 / 70000, None),
        (mg.var, [200.0, -200.0] * 500, 40000.0, None),
        (mg.sum, [1.0] * 5000, 5000.0, 1.0),
        (lambda x: mg.sum(x.reshape(-1, 2), 0)[0], [1.0] * 10000, 5000.0, None),
        (lambda x: mg.cumsum(x)[-1], [1.0] * 5000, 5000.0, 1.0),
        (mg.max, [1.0] * 70000, 1.0, 1 / 70000),
        (mg.min, [1.0] * 70000, 1.0, 1 / 70000),
        (mg.prod, [300.0, 300.0, 2.0**-9, 2.0**-9], 90000 * 2.0**-18, None),
        (mg.logsumexp, [0.0] * 70000, np.log(70000), 1 / 70000),
        (lambda x: mg.einsum("ij,ij->j", x.reshape(-1, 2), x.reshape(-1, 2))[0], [1.0] * 10000, 5000.0, None),
        (lambda x: mg.einsum("i,j->j", x, np.ones(2, "float16"))[0], [1.0] * 5000, 5000.0, 1.0),
    ],
)
def test_float16_does_not_overflow_nor_stand_still(op, x, value, gradient):
    x = np.array(x, "float16")
    assert rounded_once(op(x), value)
    if gradient is not None:
        assert rounded_once(mg.grad(op)(x), np.full(x.shape, gradient))


@pytest.mark.parametrize("name", SUMMING)
def test_a_compiled_scan_reduces_float16_alike(name):
    op, _ = SUMMING[name]
    xs = (np.random.default_rng(0).integers(1, 65, (2, 5, 3)) / 8).astype("float16")

    def results(xs, unroll):
        return mg.scan(lambda s, x: (s, op(x, 0)), xs, 0.0, has_output=True, unroll=unroll)[1]

    for f in (results, mg.grad(lambda xs, unroll: results(xs, unroll).sum())):
        got, expected = f(xs, False), f(xs, True)
        assert got.dtype == expected.dtype == np.float16
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", SUMMING)
def test_every_backend_reduces_float16(name, minigrad_backend):
    op, formula = SUMMING[name]
    x = np.array([[4.0, 12.0], [0.5, 8.0], [2.0, 1.5]], "float16")
    with mg.use_backend(minigrad_backend):
        leaf = mg.tensor(x, requires_grad=True)
        out = op(leaf, 0)
        out.backward(np.ones(out.shape, "float16"))
    assert rounded_once(out.numpy(), formula(x.astype("float64"), 0))
    assert leaf.grad.dtype == np.float16


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SUMMING)
def test_other_floats_are_left_alone(name, dtype):
    """Nothing is converted, and the sums are NumPy's own, to the last bit."""
    op, _ = SUMMING[name]
    x = np.random.default_rng(0).normal(size=(37, 3)).astype(dtype)
    with mg.Tape() as tape:
        out = op(mg.tensor(x, requires_grad=True), 0)
    assert out.dtype == dtype
    assert [record for record in tape.records if getattr(record.op, "name", "") == "astype"] == []
    same = {
        "sum": lambda: x.sum(0),
        "mean": lambda: x.sum(0) / 37.0,
        "var": lambda: np.square(x - x.sum(0, keepdims=True) / 37.0).sum(0) / 37.0,
        "norm": lambda: np.sqrt((x * x).sum(0)),
        "cumsum": lambda: x.cumsum(0),
        "max": lambda: x.max(0),
        "min": lambda: x.min(0),
        "einsum": lambda: np.einsum("i...->...", x),
        "logsumexp": lambda: np.log(np.exp(x - x.max(0)).sum(0)) + x.max(0),
        "log_softmax": lambda: log_softmax(x, 0),
        "softmax": lambda: np.exp(log_softmax(x, 0)),
    }
    if name in same:
        np.testing.assert_array_equal(out.numpy(), same[name]())


# ---- cuts ----------------------------------------------------------------------------------------------------------

FORMS = [list, tuple, np.array, mg.tensor, lambda cuts: [np.int8(i) for i in cuts]]


@given(st.lists(st.integers(-9, 9), max_size=4), st.sampled_from(FORMS), st.integers(0, 5))
def test_cuts_are_where_numpy_makes_them(cuts, form, n):
    x = np.arange(2.0 * n).reshape(n, 2)
    given_cuts = form(cuts) if cuts else []
    got, expected = mg.split(x, given_cuts), np.split(x, cuts)
    assert [part.tolist() for part in got] == [part.tolist() for part in expected]
    got, expected = mg.split(x.T, given_cuts, axis=-1), np.split(x.T, cuts, axis=-1)
    assert [part.tolist() for part in got] == [part.tolist() for part in expected]


@pytest.mark.parametrize("sections", [2, np.int64(2), np.array(2), mg.tensor(2)])
def test_equal_parts_may_be_any_integer(sections):
    first, second = mg.split(np.arange(4.0), sections)
    assert (first.tolist(), second.tolist()) == ([0.0, 1.0], [2.0, 3.0])


def test_equal_parts_of_nothing():
    assert [part.shape for part in mg.split(np.ones((0, 2)), 3)] == [(0, 2)] * 3


# ---- axes ----------------------------------------------------------------------------------------------------------

X = np.arange(24.0).reshape(2, 3, 4)
ONES = np.ones((1, 3, 1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "x", "args"),
    [
        ("expand_dims", X, ([0, 1],)),
        ("expand_dims", X, ([-1, 1],)),
        ("expand_dims", X, ([2],)),
        ("transpose", X, ([2, 0, 1],)),
        ("transpose", X, ([-1, 0, 1],)),
        ("moveaxis", X, ([0, 1], [1, 2])),
        ("moveaxis", X, ([-1], [0])),
        ("flip", X, ([0, -1],)),
        ("reshape", X, ([6, -1],)),
        ("broadcast_to", X, ([2, 2, 3, 4],)),
    ],
)
def test_several_axes_in_any_form(name, x, args, form):
    expected = getattr(np, name)(x, *map(tuple, args))
    got = getattr(mg, name)(x, *map(form, args))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("one", [int, np.int8, np.array, mg.tensor])
@pytest.mark.parametrize(
    ("name", "x", "args"),
    [
        ("expand_dims", X, (-2,)),
        ("squeeze", ONES, (2,)),
        ("flip", X, (1,)),
        ("moveaxis", X, (0, -1)),
        ("swapaxes", X, (0, -1)),
        ("reshape", X, (-1,)),
        ("sum", X, (1,)),
        ("mean", X, (-1,)),
        ("max", X, (0,)),
        ("cumsum", X, (1,)),
        ("var", X, (1,)),
        ("argmax", X, (1,)),
    ],
)
def test_one_axis_in_any_form(name, x, args, one):
    np.testing.assert_array_equal(getattr(mg, name)(x, *map(one, args)), getattr(np, name)(x, *args))


def test_a_list_of_axes_is_several():
    assert mg.sum(X, [0, -1]).tolist() == X.sum((0, -1)).tolist()
    assert mg.norm(X, [0, 1]).shape == (4,)
    assert mg.squeeze(ONES, [0, 2]).shape == (3,)
    assert mg.expand_dims(np.ones((2, 1)), []).shape == (2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mg.expand_dims(X, None), "minigrad.expand_dims: axis takes integers, got None"),
        (lambda: mg.expand_dims(X, [[0]]), r"minigrad.expand_dims: axis takes integers, got \[\[0\]\]"),
        (lambda: mg.transpose(X, "abc"), "minigrad.transpose: axes takes integers, got 'abc'"),
        (lambda: mg.transpose(X, 1.0), "minigrad.transpose: axes takes integers, got 1.0"),
        (lambda: mg.moveaxis(X, 0, [0.5]), r"minigrad.moveaxis: destination takes integers, got \[0.5\]"),
        (lambda: mg.moveaxis(X, None, 0), "minigrad.moveaxis: source takes integers, got None"),
        (lambda: mg.flip(X, 1.5), "minigrad.flip: axis takes integers, got 1.5"),
        (lambda: mg.reshape(X, 24.0), "minigrad.reshape: shape takes integers, got 24.0"),
        (lambda: mg.broadcast_to(X, [2.0]), r"minigrad.broadcast_to: shape takes integers, got \[2.0\]"),
        (lambda: mg.split(X, [0.5]), r"minigrad.split: sections takes integers, got \[0.5\]"),
        (lambda: mg.split(X, 2.0), "minigrad.split: sections takes integers, got 2.0"),
        (lambda: mg.split(X, np.eye(2, dtype=int)), "minigrad.split: sections takes integers, got array"),
        (lambda: mg.pad(X, 0.5), r"minigrad.pad: widths takes integers, got \[0.5, 0.5\]"),
    ],
)
def test_what_is_no_integer_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: mg.expand_dims(X, [0, 0]),
        lambda: mg.expand_dims(X, [0, 5]),
        lambda: mg.transpose(X, 1),
        lambda: mg.transpose(X, [0, 1]),
        lambda: mg.moveaxis(X, [0, 1], [2]),
        lambda: mg.flip(X, np.array([0, 0])),
    ],
)
def test_axes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match=r"^minigrad\.(expand_dims|transpose|moveaxis|flip): "):
        call()


def test_an_axis_that_a_trace_does_not_know_is_named_with_its_line():
    with pytest.raises(TypeError, match=r"minigrad.expand_dims: axis takes integers.*at .*test_odd_inputs\.py, line"):
        mg.scan(lambda s, i: s + mg.expand_dims(X, i).sum(), np.arange(2), 0.0)


# ---- einsum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("einsum", [np.einsum, mg.einsum])
def test_the_list_form_of_einsum_is_refused(einsum):
    with pytest.raises(TypeError, match=r"einsum\('ij->i', x\) for einsum\(x, \[0, 1\], \[0\]\); got Tensor"):
        einsum(mg.tensor(np.eye(2), requires_grad=True), [0, 1], [0])


@pytest.mark.parametrize("axis", [1.0, np.array([0, 1]), (0, "1"), [0.0]], ids=repr)
@pytest.mark.parametrize("op", [mg.sum, mg.mean, mg.max, mg.norm, mg.softmax])
def test_axes_that_are_no_integers(op, axis):
    with pytest.raises(TypeError, match=r"minigrad\.\w+: an axis is an integer, got"):
        op(np.ones((2, 3)), axis)


def test_a_broadcast_float16_gets_the_sum_of_its_gradients():
    """Which stands still at 2048 in float16."""
    bias = mg.tensor(np.zeros(3, "float16"), requires_grad=True)
    (np.ones((5000, 3), "float16") + bias).sum().backward()
    assert bias.grad.dtype == np.float16
    assert bias.grad.tolist() == [5000.0] * 3


def test_a_dtype_is_not_taken_for_keepdims():
    with pytest.raises(TypeError, match="prod: keepdims is True or False"):
        mg.prod(np.ones((2, 3)), 0, np.float64)
