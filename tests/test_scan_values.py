"""What depends on values that a trace does not know: masks, indices, labels, shapes, and numbers that no gradient has.

Each gives what `unroll=True` gives, or an error; never other numbers.
"""

import numpy as np
import pytest

import minigrad as mg
from minigrad import tree
from minigrad.scan import TraceError
from minigrad.scan.distribute import UFUNCS

X = np.random.default_rng(0).normal(size=(3, 2, 4))
EVEN, SOME = np.array([True, False]), np.array([[True, False, True, True], [False, False, False, True]])


def both(fn, elems, initializer, **options):
    """The leaves of what scan gives, and the same unrolled."""
    results = [mg.scan(fn, elems, initializer, unroll=unroll, **options) for unroll in (False, True)]
    return [[np.asarray(mg.stop_gradient(leaf)) for leaf in tree.flatten(result)[0]] for result in results]


def same(fn, elems, initializer, **options):
    got, expected = both(fn, elems, initializer, **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


# ---- masks ---------------------------------------------------------------------------------------------------------

MASKED = {
    "rows": lambda x: x[EVEN],
    "columns": lambda x: x[:, np.array([False, True, True, False])],
    "behind an ellipsis": lambda x: x[..., np.array([False, True, True, False])],
    "of two axes": lambda x: x[SOME],
    "beside an integer": lambda x: x[EVEN, 1],
    "beside integers": lambda x: x[EVEN, [1]],
    "a list": lambda x: x[[True, False]],
    "a tensor": lambda x: x[mg.tensor(EVEN)],
    "of nothing": lambda x: x[np.zeros(2, bool)],
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_are_known(name):
    take = MASKED[name]
    same(lambda s, x: (s + take(x).sum(), take(x)), X, 0.0, has_output=True)
    gradients = [
        mg.grad(lambda a, u=u: mg.scan(lambda s, x: mg.tanh(s + (take(x) ** 2).sum()), a, 0.5, unroll=u).sum())(X)
        for u in (False, True)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-13)


def test_a_mask_that_changes_between_two_calls():
    for mask in ([True, False], [False, True], [True, True], [False, False]):
        same(lambda s, x, mask=mask: s + x[mask].sum(), X, 0.0)


@pytest.mark.parametrize("lengths", [[3, 1], [3, 3]])
def test_a_mask_of_columns_with_lengths(lengths):
    half = np.array([True, False, True, False])
    same(lambda s, x: mg.tanh(s + x[:, half] * x[:, ~half]), X, np.ones((2, 2)), lengths=lengths)


def test_a_mask_that_the_trace_does_not_know():
    with pytest.raises(TraceError, match="as many as they are.*test_scan_values.py, line .*mg.where"):
        mg.scan(lambda s, x: s + x[x > 0.5].sum(), X, 0.0)
    with pytest.raises(TraceError, match="as many as they are"):
        mg.scan(lambda s, x: s + mg.scan(lambda c, y: c + y[x[0] > 0].sum(), x, 0.0)[-1], X, 0.0)


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.ones((2, 3), bool), np.True_])
def test_a_mask_of_another_shape(mask):
    with pytest.raises(IndexError, match=r"mask of shape \(.*\) on axes of shape"):
        mg.scan(lambda s, x: s + x[mask].sum(), X, 0.0)


# ---- indices and labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [[[-1], [0]], [[-1, 1], [0, -4]]])
def test_negative_indices_along_an_axis(indices):
    indices = np.array(indices)
    same(lambda s, x: s + mg.take_along_axis(x, indices, axis=1), X, np.zeros(indices.shape))
    stack = np.stack([indices, -1 - indices, indices])
    same(lambda s, e: s + mg.take_along_axis(e[0], e[1], axis=1), (X, stack), np.zeros(indices.shape))
    table = mg.tensor(X[0], requires_grad=True)
    gradients = []
    for unroll in (False, True):
        s = mg.scan(lambda s, i: s + mg.take_along_axis(table, i, axis=1) ** 2, stack, np.zeros(indices.shape),
                    unroll=unroll)  # fmt: skip
        s[-1].sum().backward()
        gradients.append(table.grad)
        table.grad = None
    np.testing.assert_allclose(*gradients, rtol=1e-13)


def test_an_index_outside_along_an_axis():
    with pytest.raises(IndexError, match="index 4 lies outside an axis of size 4"):
        mg.scan(lambda s, x: s + mg.take_along_axis(x, np.array([[4], [0]]), axis=1), X, np.zeros((2, 1)))
    stack = np.array([[[0], [3]], [[4], [-1]], [[-5], [1]]])
    taken = mg.scan(lambda s, e: (s, mg.take_along_axis(e[0], e[1], axis=1)), (X, stack), 0.0, has_output=True)[1]
    np.testing.assert_array_equal(
        taken[:, :, 0], [[X[0, 0, 0], X[0, 1, 3]], [np.nan, X[1, 1, 3]], [np.nan, X[2, 1, 1]]]
    )
    counts = np.arange(24).reshape(3, 2, 4)
    with pytest.raises(IndexError):  # of integers, which have no NaN
        mg.scan(lambda s, e: (s, mg.take_along_axis(e[0], e[1], axis=1)), (counts, stack), 0.0, has_output=True)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int64"])
def test_integers_of_few_bits(dtype):
    """They are compared with numbers that they cannot be."""
    tokens = np.array([[1], [100], [3]], dtype)
    embed = mg.nn.Embedding(300, 2, dtype="float64", seed=0)
    same(lambda s, k: s + embed(k), tokens, np.zeros((1, 2)))
    same(lambda s, k: s + mg.one_hot(k, 300, "float64"), tokens, np.zeros((1, 300)))
    same(lambda s, k: s + mg.cross_entropy(mg.tanh(s), k)[:, None], tokens, np.zeros((1, 300)))
    same(lambda s, k: s + mg.where(k < 1000, 1.0, 2.0) + mg.where(k > -1, 1.0, 0.0), tokens, np.zeros((1, 1)))
    same(lambda s, k: s + mg.where(k >= 100.01, 1.0, 0.0) + mg.where(k < 99.99, 2.0, 0.0), tokens, np.zeros((1, 1)))


@pytest.mark.parametrize("boxed", [False, True], ids=["array", "tensor"])
def test_labels_of_steps_and_scores_of_all(boxed):
    scores = mg.tensor(X[0], requires_grad=True) if boxed else X[0]
    labels = np.array([[1, 0], [3, 3], [2, 1]])
    same(lambda s, k: s + mg.cross_entropy(scores, k).sum(), labels, 0.0)
    same(lambda s, k: s + mg.take_along_axis(scores, k[:, None], axis=1), labels, np.zeros((2, 1)))


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_bounds_that_are_arrays_with_lengths():
    same(lambda s, x: mg.clip(s + x, np.zeros(4), None), X, np.zeros((2, 4)), lengths=[3, 1])
    same(lambda s, x: mg.clip(s + x, np.zeros((1, 4)), np.ones(())), X, np.zeros((2, 4)), lengths=[3, 1])


def test_what_is_close_with_lengths():
    same(lambda s, x: mg.where(np.isclose(x, X[0, 0, 0]), s + 1, s - x), X, np.zeros((2, 4)), lengths=[3, 1])


@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize("wild", [np.nan, np.inf, 1.0])
def test_what_is_not_finite_where_rows_are_one_with_another_axis(wild, checkpoint):
    """A gradient is taken again with care then, in which no buffer would have the shape of what that asks."""
    xs = np.random.default_rng(2).normal(size=(4, 3, 2))
    xs[0, 0, 0] = wild
    spread, results = np.random.default_rng(3).normal(size=(2, 2)), []
    for unroll in (False, True):
        weight = mg.tensor(np.random.default_rng(4).normal(size=(2, 2)), requires_grad=True)
        x, h = mg.tensor(xs, requires_grad=True), mg.tensor(np.ones((3, 2)), requires_grad=True)

        def step(h, x, weight=weight):
            return mg.tanh(x + ((h[:, None, :] * spread) @ mg.copy(weight)).sum(1))

        states = mg.scan(step, x, h, lengths=[4, 2, 3], unroll=unroll, checkpoint=checkpoint)
        states.sum().backward()
        results.append([states.data, weight.grad, h.grad, x.grad])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


# ---- a user's op ---------------------------------------------------------------------------------------------------


def test_an_op_that_does_not_take_zeros():
    inverse = mg.custom_op(np.linalg.inv, vjp=lambda g, out, a: (-(out.T @ g @ out.T),))
    a = np.stack([np.eye(2) * n for n in (1, 2, 4)])
    same(lambda s, a: s @ inverse(a), a, np.eye(2))
    gradients = [
        mg.grad(lambda a, u=u: mg.scan(lambda s, a: s @ inverse(a), a, np.eye(2), unroll=u)[-1].sum())(a)
        for u in (False, True)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-13)


def test_an_op_that_does_not_take_any_numbers():
    @mg.custom_op(vjp=lambda g, out, a: (g,))
    def half(a):
        if (a % 2).any():
            raise ArithmeticError("odd")
        return a / 2

    fn, xs = lambda s, x: s + half(x), np.array([2.0, 4.0])
    with pytest.raises(TraceError, match="`half` on made-up numbers .*test_scan_values.*ArithmeticError: odd.*unroll"):
        mg.scan(fn, xs, 0.0)
    assert mg.scan(fn, xs, 0.0, unroll=True).tolist() == [1.0, 3.0]


# ---- complex numbers -----------------------------------------------------------------------------------------------

COMPLEX = {
    "a product": lambda s, x, a: s + mg.abs(x * a * 1j),
    "a cast": lambda s, x, a: s + mg.abs((x * a).astype("complex128")),
    "a choice": lambda s, x, a: s + mg.abs(mg.where(x > 0, a * 1.0, 1j)),
}


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("unroll", [False, True], ids=["compiled", "unrolled"])
def test_no_gradient_is_lost_in_complex_numbers(name, unroll):
    def f(a):
        return mg.scan(lambda s, x: COMPLEX[name](s, x, a), np.ones(2), 0.0, unroll=unroll)[-1]

    with pytest.raises(TypeError, match="gave complex numbers"):
        mg.grad(f)(2.0)
    with pytest.raises(TypeError, match="gave complex numbers"):
        mg.jvp(f, (2.0,), (1.0,))


def test_no_gradient_is_lost_in_a_complex_state():
    w, v = mg.tensor(2.0, requires_grad=True), mg.tensor(3.0, requires_grad=True)
    with pytest.raises(TypeError, match="gave complex numbers"):
        (mg.abs(mg.scan(lambda s, x: s * x * w, np.ones(2) * 1j, 1j)).sum() * v).backward()


def test_complex_constants_are_fine():
    np.testing.assert_array_equal(mg.scan(lambda s, x: s * x, np.full(2, 1j), 1j), [-1, -1j])
    assert mg.grad(lambda a: mg.scan(lambda s, x: s + a * abs(x * 1j), np.ones(2), 0.0)[-1])(2.0) == 2.0


# ---- backends ------------------------------------------------------------------------------------------------------


def on_strict(array):
    with mg.use_backend("strict"):
        return mg.asarray(array).array


@pytest.mark.parametrize("unroll", [False, True], ids=["compiled", "unrolled"])
def test_arrays_of_two_backends_are_named(unroll):
    host, device = X[:, 0], on_strict(X[:, 0])
    with pytest.raises(TypeError, match=r"elems is on numpy, initializer\['h'\] is on strict: .*Tensor\.to\(name\)"):
        mg.scan(lambda s, x: {"h": s["h"] + x}, host, {"h": device[0]}, unroll=unroll)
    with pytest.raises(TypeError, match=r"elems\[1\] is on numpy, .*do not mix|elems\[0\] is on strict, elems\[1\]"):
        mg.scan(lambda s, x: s + x[0] * x[1], (device, host), device[0], unroll=unroll)


@pytest.mark.parametrize("unroll", [False, True], ids=["compiled", "unrolled"])
def test_numbers_follow_the_arrays(unroll):
    """Wherever new arrays are made by default."""
    xs = on_strict(X)
    state, ones = mg.scan(lambda s, x: (s + x.sum(), 1.0), xs, 0.0, has_output=True, unroll=unroll)
    assert type(state) is type(ones) is type(xs)
    reset = mg.scan(lambda s, x: 0.0, xs, 0.0, unroll=unroll)
    assert type(reset) is type(xs)


# ---- dtypes --------------------------------------------------------------------------------------------------------

DRAWN = np.random.default_rng(1)
FLAGS, SMALL = DRAWN.random((2, 5, 3, 2)) > 0.3, DRAWN.integers(1, 127, size=(2, 5, 3, 2))
START, ROW, WEIGHT = DRAWN.normal(size=(3, 2)), DRAWN.normal(size=2), DRAWN.normal(size=(2, 2))
MIXED = {
    "a sum of flags": (lambda h, x: mg.tanh(h * x[0] + h * x[1]), FLAGS),
    "a difference of flags": (lambda h, x: mg.tanh(h * x[0] - h * x[1]), FLAGS),
    "sigmoid of a sum of flags": (lambda h, x: h * 0.5 + mg.sigmoid(x[0] + x[1]), FLAGS),
    "a sum in which flags are added": (lambda h, x: h * 0.5 + mg.sigmoid(h + (x[0] + x[1])), FLAGS),
    "gates of integers": (lambda h, x: h * 0.5 + mg.sigmoid(x[0][:, :1]) - mg.tanh(x[0][:, 1:]), SMALL - 60),
    **{
        f"{name} of {dtype}": (fn, SMALL.astype(dtype))
        for dtype in ("int8", "uint8")
        for name, fn in {
            "a sum": lambda h, x: mg.tanh((h * x[0] + h * x[1]) * 0.01),
            "a difference": lambda h, x: mg.tanh((h * x[0] - h * x[1]) * 0.01),
            "a product": lambda h, x: mg.tanh((h * x[0] * x[1]) * 0.0001),
            "pieces": lambda h, x: mg.concatenate([mg.tanh(h[:, :1]), x[0][:, 1:]], 1) * x[1] * 0.01,
        }.items()
    },
    "float32 that overflows": (
        lambda h, x: mg.tanh((h * x[0] + h * x[1]) * 1e-38),
        np.full((2, 5, 3, 2), 3e38, "float32"),
    ),
    "a row of float32 and weights": (
        lambda h, x: mg.tanh((mg.tanh(h) * ROW.astype("float32")) @ WEIGHT.astype("float32") + x[0]),
        SMALL / 100,
    ),
    "a row and a vector": (lambda h, x: mg.tanh(((mg.tanh(h) * ROW) @ ROW)[:, None] + x[0]), SMALL / 100),
}


@pytest.mark.parametrize("name", MIXED)
def test_sums_and_products_of_other_dtypes(name):
    """Reassociated, they would be others: True + True is True, and 100 + 100 is -56 in 8 bits."""
    fn, stacks = MIXED[name]
    results = []
    for unroll in (False, True):
        h = mg.tensor(START, requires_grad=True)
        with np.errstate(over="ignore"):
            states = mg.scan(fn, tuple(stacks), h, unroll=unroll)
            (states * states).sum().backward()
        results.append((states.data, h.grad))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)


# ---- in place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_one_column_turns_its_sign(lengths):
    """In place, or on the way into a concatenation: NumPy's negative gives other numbers where rows are 64 bytes."""
    wide, back = DRAWN.normal(size=(2, 8)), DRAWN.normal(size=(1, 2))
    xs, options = DRAWN.normal(size=(5, 3, 2)), {"has_output": True, "lengths": lengths}
    same(lambda h, x: (mg.tanh(h + x), -(x @ wide)[:, 7:8] @ back), xs, START, **options)
    same(lambda h, x: (mg.tanh(h + x - (-(h @ wide)[:, 7:8]) @ back), x), xs, START, **options)
    same(
        lambda h, x: (mg.tanh(h + x), mg.concatenate([-(h @ wide)[:, :1], x], 1) @ wide[:1].T[:3]), xs, START, **options
    )


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_one_column_of_integers_turns_its_sign(dtype):
    xs = np.random.default_rng(5).integers(0, 9, size=(5, 3, 8)).astype(dtype)
    same(lambda h, x: (h + x, mg.concatenate([-(h + x)[:, 7:8], x], 1)), xs, xs[0], has_output=True)


def test_numpy_computes_into_columns():
    """A program computes pieces of a concatenation where they belong."""
    for name in sorted(set(UFUNCS.values()) - {"negative"}):
        function = getattr(np, name)
        for width, into in [(4, 2), (8, 2), (8, 4), (16, 3), (2, 8), (3, 3)]:
            numbers = DRAWN.uniform(0.1, 0.9, size=(2, 9, width))
            operands = [array[:, 1:2] for array in numbers][: function.nin]
            try:
                expected = function(*[operand.copy() for operand in operands])
            except TypeError:
                break  # not of floats
            out = np.zeros((9, into), expected.dtype)
            function(*operands, out=out[:, 1:2])
            np.testing.assert_array_equal(out[:, 1:2], expected, err_msg=f"{name}, {width}, {into}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(set(UFUNCS.values()) - {"negative"}))
def test_numpy_computes_columns_in_place(name, dtype):
    """A plan takes columns over for what is made of them; for `negative` a program multiplies by -1 instead."""
    function = getattr(np, name)
    numbers = DRAWN.uniform(0.1, 0.9, size=(9, 33)).astype(dtype)
    other = DRAWN.uniform(0.1, 0.9, size=(9, 2)).astype(dtype)
    for width in range(1, 34):
        for start in range(0, width, max(1, width // 4)):
            for columns in (1, 2):
                if start + columns > width:
                    continue
                array = numbers[:, :width].copy()
                view = array[:, start : start + columns]
                operands = (view, other[:, :columns])[: function.nin]
                try:
                    expected = function(*[operand.copy() for operand in operands])
                except TypeError:
                    return  # not of floats
                if expected.dtype != view.dtype:
                    return  # of no other dtype is a place taken
                function(*operands, out=view)
                np.testing.assert_array_equal(view, expected, err_msg=f"{width}, {start}, {columns}")
