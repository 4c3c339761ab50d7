"""Tensor: an array that behaves as NumPy's do, keeps its dtype, and never leaves the tape in silence."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing.fake_cupy import StrictArray


def leaf(data, dtype=None, name=None):
    return mg.tensor(data, dtype=dtype, requires_grad=True, name=name)


@pytest.fixture
def strict():
    return mg.use_backend("strict")


# ---- making tensors ------------------------------------------------------------------------------------------------


def test_tensor_copies_and_asarray_shares():
    array = np.array([1.0, 2.0])
    copied, shared = mg.tensor(array), mg.asarray(array)
    array[0] = 9.0
    assert copied.data.tolist() == [1.0, 2.0]
    assert shared.data.tolist() == [9.0, 2.0]
    assert shared.data is array
    assert mg.asarray(shared) is shared
    assert mg.tensor(shared).data is not array
    assert mg.asarray(array, "float64").data is array
    assert mg.asarray(array, "float32").dtype == np.float32


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, "float64", ()),
        (3, "int64", ()),
        (True, "bool", ()),
        ([1, 2], "int64", (2,)),
        ([[1.0], [2.0]], "float64", (2, 1)),
        ((1.0, 2), "float64", (2,)),
        ([], "float64", (0,)),
        (np.float32(1.0), "float32", ()),
        (np.arange(3, dtype="int8"), "int8", (3,)),
        (np.float16([1, 2]), "float16", (2,)),
        (range(3), "int64", (3,)),
    ],
)
def test_lists_and_numbers_become_what_numpy_makes_of_them(data, dtype, shape):
    for make in (mg.tensor, mg.asarray):
        t = make(data)
        assert type(t.data) is np.ndarray
        assert (t.dtype, t.shape) == (np.dtype(dtype), shape)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("abc", "numbers"),
        ([1.0, "a"], "numbers"),
        (None, "numbers"),
        ({"a": 1}, "numbers"),
        (np.array(["a"]), "numbers"),
        (np.array([object()]), "numbers"),
        (np.ones((1, 1)).view(np.matrix), "matrix"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "mask"),
        (np.rec.array([(1.0,)], dtype=[("a", float)]), "recarray|convert"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(data, message):
    for make in (mg.tensor, mg.asarray):
        with pytest.raises(TypeError, match=message):
            make(data)
    if type(data) is not np.ndarray:  # NumPy itself may compute with an array of objects
        for op in (mg.tanh, lambda x: mg.tensor([1.0]) + x, mg.sum):
            with pytest.raises(TypeError, match=f"{message}|expected an array"):
                op(data)


def test_lists_that_are_no_rectangle_are_refused():
    for make in (mg.tensor, mg.asarray, mg.tanh):
        with pytest.raises((ValueError, TypeError), match="shape|inhomogeneous"):
            make([[1.0], [1.0, 2.0]])


def test_a_list_of_tensors_is_stacked_not_converted():
    parts = [leaf(1.0), leaf(2.0)]
    with pytest.raises(TypeError, match="gradient|stack"):
        mg.tensor(parts)
    with pytest.raises(TypeError, match="stack"):
        mg.tanh(parts)
    with pytest.raises(TypeError, match="gradient|stack"):
        np.array(parts)
    assert mg.stack(parts).data.tolist() == [1.0, 2.0]


def test_only_floating_tensors_require_gradients():
    for bad in ([1, 2], True, 3, np.array([1j])):
        with pytest.raises(TypeError, match="floating.*got dtype.*pass dtype="):
            mg.tensor(bad, requires_grad=True)
    assert mg.tensor([1, 2], dtype="float32", requires_grad=True).dtype == np.float32


def test_copying_a_computed_tensor_is_refused():
    y = leaf([1.0]) * 2
    for make in (mg.tensor, lambda t: mg.asarray(t, "float32")):
        with pytest.raises(TypeError, match="detach"):
            make(y)
    assert mg.tensor(y.detach()).data.tolist() == [2.0]


def test_zeros_ones_full_arange():
    assert mg.zeros((2, 1)).data.tolist() == [[0.0], [0.0]]
    assert mg.ones(2, dtype="float32").dtype == np.float32
    assert mg.full((2,), 7).data.tolist() == [7.0, 7.0]
    assert mg.full((2,), 7).dtype == np.float64
    assert mg.arange(3).dtype == np.int64
    assert mg.arange(1.0, 2.0, 0.5).data.tolist() == [1.0, 1.5]
    assert mg.zeros(2, requires_grad=True).requires_grad
    with pytest.raises(TypeError, match="floating"):
        mg.zeros(2, dtype="int64", requires_grad=True)


# ---- what it is ----------------------------------------------------------------------------------------------------


def test_attributes():
    t = leaf(np.zeros((2, 3)), name="W")
    assert (t.shape, t.ndim, t.size, t.dtype, t.name, t.requires_grad) == ((2, 3), 2, 6, np.float64, "W", True)
    assert t.backend.name == "numpy"
    assert len(t) == 2
    assert t.T.shape == (3, 2)
    with pytest.raises(TypeError, match="0-d"):
        len(mg.tensor(1.0))
    with pytest.raises(AttributeError):
        t.colour = "red"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mg.tensor([1.0, 2.0]), "Tensor([1., 2.])"),
        (lambda: mg.tensor(1.0), "Tensor(1.)"),
        (lambda: mg.tensor([1, 2]), "Tensor([1, 2], int64)"),
        (lambda: mg.tensor([True]), "Tensor([ True], bool)"),
        (lambda: leaf([1.0], "float32", "w"), "Tensor([1.], float32, requires_grad, name='w')"),
        (lambda: mg.tanh(leaf([0.0])), "Tensor([0.], from tanh)"),
        (lambda: leaf([[1.0], [2.0]]).sum(axis=0), "Tensor([3.], from sum)"),
        (lambda: mg.tensor([[1.0, 2.0], [3.0, 4.0]]), "Tensor([[1., 2.],\n        [3., 4.]])"),
    ],
)
def test_repr(make, text):
    assert repr(make()) == text


def test_a_long_tensor_has_a_short_repr():
    assert len(repr(mg.zeros(100_000))) < 200


def test_hash_is_identity():
    a, b = mg.tensor([1.0, 2.0]), mg.tensor([1.0, 2.0])
    assert len({a, b, a}) == 2
    assert {a: 1}[a] == 1


def test_names():
    t = leaf([1.0])
    assert t.name is None
    t.name = "weight"
    assert t.name == "weight"
    assert (t * 2).name is None


# ---- .data and .grad -----------------------------------------------------------------------------------------------


def test_data_takes_an_array_of_the_same_kind_only():
    t = leaf([1.0, 2.0], name="w")
    new = np.array([5.0, 6.0])
    t.data = new
    assert t.data is new
    t.data = mg.tensor([7.0, 8.0])
    assert t.data.tolist() == [7.0, 8.0]
    t.data -= 0.5 * np.ones(2)
    assert t.data.tolist() == [6.5, 7.5]
    for bad in (np.ones(3), np.ones((2, 1)), np.ones(2, "float32"), np.ones(2, int), [1.0, 2.0], 3.0):
        with pytest.raises(ValueError, match=r"'w'.*numpy array float64\(2,\), got"):
            t.data = bad
    assert t.data.tolist() == [6.5, 7.5]
    with pytest.raises(RuntimeError, match="`multiply`"):
        (t * 2).data = np.ones(2)


def test_grad_takes_an_array_of_the_same_kind_only():
    t = leaf([1.0, 2.0], name="w")
    assert t.grad is None
    t.grad = np.array([3.0, 4.0])
    (t * 1).backward([1.0, 1.0])
    assert t.grad.tolist() == [4.0, 5.0]
    for bad in (np.ones(3), np.ones(2, "float32"), np.ones((2, 1))):
        with pytest.raises(ValueError, match=r"\.grad of tensor 'w' is .*float64\(2,\), got"):
            t.grad = bad
    t.grad = None
    assert t.grad is None
    for constant in (mg.tensor([1.0]), t * 2):
        assert constant.grad is None
        with pytest.raises((AttributeError, RuntimeError), match="requires_grad=True"):
            constant.grad = np.ones(2)


@pytest.mark.parametrize("bad", [0, 0.0, [1.0, 2.0], "x"])
def test_a_grad_that_is_no_array_is_refused_in_words(bad):
    t = leaf([1.0, 2.0])
    with pytest.raises((TypeError, ValueError), match="grad"):
        t.grad = bad


# ---- leaving the tape ----------------------------------------------------------------------------------------------


def test_item_and_numbers():
    t = leaf([[2.5]])
    assert t.item() == float(t) == 2.5
    assert int(t) == 2
    assert type(t.item()) is float
    assert type(mg.tensor(3).item()) is int
    assert type(mg.tensor(True).item()) is bool
    with pytest.raises(ValueError, match=r"one element.*\(2,\)"):
        leaf([1.0, 2.0]).item()


def test_numpy_is_a_copy():
    t = leaf([1.0, 2.0])
    array = t.numpy()
    array[0] = 9.0
    assert t.data[0] == 1.0
    assert array.flags.writeable
    assert type(leaf(1.0).numpy()) is np.ndarray


def test_numpy_conversion_of_a_constant_copies():
    t = mg.tensor([1.0, 2.0])
    array = np.asarray(t)
    array[0] = 9.0
    assert t.data[0] == 1.0
    assert np.asarray(t, dtype="float32").dtype == np.float32
    assert np.array(t, copy=False) is t.data


@pytest.mark.parametrize("convert", [np.asarray, np.array, np.asanyarray, list, lambda t: np.asarray([t, t])])
def test_numpy_conversion_of_a_tracked_tensor_is_an_error(convert):
    t = leaf([1.0, 2.0])
    for tracked in (t, t * 2):
        if convert is list:
            assert all(isinstance(row, mg.Tensor) for row in convert(tracked))
            continue
        with pytest.raises(TypeError, match="gradient"):
            convert(tracked)
        with pytest.raises(TypeError, match="gradient"):
            np.zeros(2)[:] = tracked


ASSERTIONS = [
    (np.testing.assert_allclose, [1.0, 2.0], [1.0, 2.5]),
    (np.testing.assert_array_equal, [1.0, 2.0], [1.0, 2.5]),
    (np.testing.assert_equal, [1.0, 2.0], [1.0, 2.5]),
    (np.testing.assert_array_less, [1.5, 2.5], [1.5, 2.0]),
]


@pytest.mark.parametrize(("check", "right", "wrong"), ASSERTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_numpy_s_assertions_take_tensors_on_the_tape(check, right, wrong):
    for t in (leaf([1.0, 2.0]), leaf([1.0, 2.0]) * 1):
        check(t, np.array(right))
        with pytest.raises(AssertionError, match="Mismatched elements: 1 / 2"):
            check(t, np.array(wrong))
        with pytest.raises(TypeError, match="gradient"):
            np.testing.assert_no_warnings(np.asarray, t)  # a function of the same module that gives the array away


def test_numpy_s_assertions_hold_while_a_function_is_differentiated():
    def f(x):
        np.testing.assert_allclose(x, 3.0)
        return x * x

    assert mg.grad(f)(3.0) == 6.0


def test_a_tensor_of_one_element_in_an_array_is_a_number():
    """NumPy asks for `float(t)` alone, which must work for a loss; so only a function in the making can refuse."""
    history, loss = np.zeros((2, 2)), leaf(3.0) * 2
    history[0, 1] = loss
    assert history.tolist() == [[0.0, 6.0], [0.0, 0.0]]
    for write in (lambda: history.__setitem__(0, loss), lambda: np.array([loss, loss])):
        with pytest.raises(TypeError, match="gradient"):
            write()

    def f(x):
        history[0, 0] = x
        return x * history[0, 0]

    with pytest.raises(ValueError, match="setting an array element") as error:  # NumPy's words
        mg.grad(f)(3.0)
    assert "would lose the gradient" in str(error.value.__cause__)


def test_a_tracked_tensor_is_not_written_into_an_array():
    history = np.zeros((3, 2))
    with pytest.raises(TypeError, match="gradient"):
        history[0] = leaf([1.0, 2.0])
    history[1] = mg.tensor([1.0, 2.0])
    assert history[1].tolist() == [1.0, 2.0]


def test_index_protocol():
    assert [10, 20, 30][mg.tensor(1)] == 20
    assert list(range(mg.tensor(2)))
    for bad in (mg.tensor(1.0), leaf(1.0), mg.tensor([1]), mg.tensor([[0]])):
        with pytest.raises(TypeError, match="integer"):
            [1, 2][bad]


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda i: np.arange(3.0)[i], "NumPy array"),
        (lambda i: np.arange(6.0).reshape(3, 2)[i, 1], "NumPy array"),
        (lambda i: np.asarray(i), "NumPy array"),
        (lambda i: np.testing.assert_array_equal(i, 0), "NumPy array"),
        (lambda i: [1.0, 2.0, 3.0][i], "index"),
        (lambda i: np.allclose(i, 0), ""),
        (lambda i: np.array_equal(i, 0), ""),
    ],
    ids=["array", "matrix", "asarray", "assert", "list", "allclose", "array_equal"],
)
def test_a_traced_value_says_what_it_is_wanted_for(use, what):
    with pytest.raises(TypeError, match=f"{what} .*test_tensor.py, line .* not known while it is traced") as error:
        mg.scan(lambda s, i: s + use(i), np.arange(3), mg.tensor(0.0))
    if what:
        error.match(r"mg\.take\(table, i, axis=0\)")


@pytest.mark.parametrize("look_up", [lambda a, i: mg.take(a, i, axis=0), lambda a, i: mg.asarray(a)[i]])
def test_what_looks_up_in_an_array_in_a_scan(look_up):
    table = np.array([[1.0, 2.0], [10.0, 20.0]])
    sums = mg.scan(lambda s, i: s + look_up(table, i), np.array([1, 0, 1]), mg.zeros(2))
    assert sums.data.tolist() == [[10.0, 20.0], [11.0, 22.0], [21.0, 42.0]]


def test_bool():
    assert bool(mg.tensor([1.0])) is True
    assert not leaf([[0.0]])
    for many in (mg.tensor([1.0, 2.0]), leaf([1.0, 2.0]) > 0, mg.zeros(0)):
        with pytest.raises(ValueError, match="ambiguous"):
            bool(many)
    with pytest.raises(ValueError, match="ambiguous"):
        1 if leaf([1.0, 2.0]) > 1 else 2


def test_detach():
    t = leaf([1.0, 2.0])
    d = (t * 2).detach()
    assert not d.requires_grad
    assert d.data.tolist() == [2.0, 4.0]
    (t * d).backward([1.0, 1.0])
    assert t.grad.tolist() == [2.0, 4.0]


def test_to(strict):
    t = leaf([1.0, 2.0], "float32", "w")
    with strict:
        made = mg.zeros(2)
    assert made.backend.name == "strict"
    moved = t.to("strict")
    assert type(moved.data) is StrictArray
    assert (moved.dtype, moved.name, moved.requires_grad) == (np.float32, "w", True)
    (moved * 2).backward([1.0, 1.0])
    assert type(moved.grad) is StrictArray
    assert t.grad is None
    back = moved.to("numpy")
    assert type(back.data) is np.ndarray
    assert back.data.tolist() == [1.0, 2.0]
    same = t.to("numpy")
    assert same.data is not t.data
    assert "strict" in repr(moved)
    with pytest.raises(RuntimeError, match="detach"):
        (t * 2).to("strict")
    with pytest.raises(ValueError, match="no backend is called 'gpu'"):
        t.to("gpu")


def test_backends_do_not_mix(strict):
    with strict:
        there = mg.tensor([1.0, 2.0], requires_grad=True)
    here = leaf([1.0, 2.0])
    for op in (
        lambda: here + there,
        lambda: there * here.data,
        lambda: here.data * there,
        lambda: mg.matmul(here, there),
        lambda: mg.concatenate([here, there]),
        lambda: mg.where(here.data > 0, there, there),
        lambda: here == there,
    ):
        with pytest.raises(TypeError, match="backends.*Tensor.to"):
            op()
    with pytest.raises(TypeError, match="implicit|numpy"):
        np.asarray(there.detach())
    assert there.numpy().tolist() == [1.0, 2.0]


# ---- copying and pickling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_clone_is_a_leaf_of_its_own(clone):
    t = leaf([1.0, 2.0], "float32", "w")
    (t * 3).backward([1.0, 1.0])
    c = clone(t)
    assert (c.name, c.requires_grad, c.dtype) == ("w", True, np.float32)
    assert c.data.tolist() == [1.0, 2.0]
    assert c.grad.tolist() == [3.0, 3.0]
    (c * 2).backward([1.0, 1.0])
    assert t.grad.tolist() == [3.0, 3.0]
    assert c.data is not t.data
    c.data[0] = 9.0
    assert t.data[0] == 1.0
    constant = clone(mg.tensor([1, 2], name="n"))
    assert (constant.name, constant.requires_grad, constant.dtype) == ("n", False, np.int64)


def test_deepcopy_keeps_what_is_shared_shared():
    t = leaf([1.0])
    a, b = copy.deepcopy([t, t])
    assert a is b
    assert a is not t


# ---- operators -----------------------------------------------------------------------------------------------------

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("other", [np.array([0.5, 2.0]), [0.5, 2.0], 2.0, 3, np.float64(1.5), np.array(2.0)], ids=repr)
def test_operators_on_both_sides(op, other):
    if op is operator.matmul and np.ndim(other) == 0:
        for a, b in ((leaf([1.0, 2.0]), other), (other, leaf([1.0, 2.0]))):
            with pytest.raises(ValueError, match="matmul"):
                op(a, b)
        return
    t = leaf([1.0, 2.0])
    for ours, theirs in ((op(t, other), op(t.data, other)), (op(other, t), op(other, t.data))):
        assert isinstance(ours, mg.Tensor)
        assert ours.requires_grad
        np.testing.assert_array_equal(ours.data, theirs)
        ours.backward(np.ones(ours.shape))
    assert t.grad.shape == (2,)


def test_unary_operators():
    t = leaf([-1.0, 2.0])
    assert (-t).data.tolist() == [1.0, -2.0]
    assert (+t).data.tolist() == [-1.0, 2.0]
    assert abs(t).data.tolist() == [1.0, 2.0]
    assert (~(t > 0)).data.tolist() == [True, False]


def test_augmented_assignment_makes_a_new_tensor():
    t = leaf([1.0, 2.0])
    first = t
    t += 1
    t *= 2.0
    assert first.data.tolist() == [1.0, 2.0]
    assert t.data.tolist() == [4.0, 6.0]
    t.backward([1.0, 1.0])
    assert first.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "matmul"])
def test_an_array_is_not_changed_in_place_by_a_tensor(name):
    array = np.array([1.0, 2.0])
    with pytest.raises(TypeError, match="out"):
        getattr(operator, "i" + name)(array, leaf([3.0, 4.0]))
    with pytest.raises(TypeError, match="out"):
        getattr(operator, "i" + name)(array, mg.tensor([3.0, 4.0]))
    assert array.tolist() == [1.0, 2.0]


def test_a_tensor_is_not_written_to_in_place():
    t = mg.tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="in place.*where"):
        t[0] = 3.0


@pytest.mark.parametrize("op", [operator.floordiv, operator.mod, divmod, operator.lshift])
def test_operators_without_a_derivative_are_refused(op):
    for a, b in ((leaf([1.0]), 2.0), (np.array([1.0]), leaf([2.0]))):
        with pytest.raises(TypeError):
            op(a, b)


@pytest.mark.parametrize("op", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
def test_comparisons_are_boolean_constants(op):
    t, array = leaf([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    for ours, theirs in (
        (op(t, 2), op(t.data, 2)),
        (op(t, array), op(t.data, array)),
        (op(array, t), op(array, t.data)),
        (op(t, mg.tensor(array)), op(t.data, array)),
        (op(t, [2.0, 2.0, 2.0]), op(t.data, array)),
        (op(2.0, t), op(2.0, t.data)),
    ):
        assert isinstance(ours, mg.Tensor)
        assert ours.record is None
        assert ours.dtype == np.bool_
        np.testing.assert_array_equal(ours.data, theirs)


def test_logic_on_masks():
    t = mg.tensor([1.0, 2.0, 3.0])
    assert ((t > 1) & (t < 3)).data.tolist() == [False, True, False]
    assert ((t < 2) | (t > 2)).data.tolist() == [True, False, True]
    assert ((t > 1) ^ (t > 2)).data.tolist() == [False, True, False]
    assert (t > 0).all()
    assert (t > 2).any()
    assert (mg.tensor([[1.0], [0.0]]) > 0).all(axis=1).data.tolist() == [True, False]


def test_python_s_own_functions():
    t = leaf([1.0, 2.0, 3.0])
    total = sum(t)
    assert isinstance(total, mg.Tensor)
    assert total.data == 6.0
    assert max(t).data == 3.0
    assert [row.data.item() for row in reversed(t)] == [3.0, 2.0, 1.0]
    a, b, c = t
    (a * b * c).backward()
    assert t.grad.tolist() == [6.0, 3.0, 2.0]
    for x, y in zip(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), ([1.0, 2.0], [3.0, 4.0]), strict=True):
        assert x.data.tolist() == y
    with pytest.raises(TypeError, match="0-d"):
        iter(mg.tensor(1.0))


def test_logic_on_masks_with_an_array_on_the_left():
    mask, t = np.array([True, True, False]), mg.tensor([1.0, 2.0, 3.0])
    assert (mask & (t > 1)).data.tolist() == [False, True, False]
    assert (mask | (t > 1)).data.tolist() == [True, True, True]
    assert (mask ^ (t > 1)).data.tolist() == [True, False, True]


# ---- dtypes --------------------------------------------------------------------------------------------------------

FLOATS = ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_python_numbers_are_weak(dtype):
    t = leaf([0.5, 1.0], dtype)
    results = [
        t + 1, 1.5 + t, t - 2, 2 - t, t * 3.0, 3 * t, t / 3, 3 / t, t**2, t**0.5, 2**t, 2.0**t, t + True, -t, abs(t),
        mg.maximum(t, 0.0), mg.minimum(1, t), mg.clip(t, 0, 1), mg.where(t > 0, t, 0.0), mg.where(t > 0, 1, t),
        mg.mean(t), mg.var(t), mg.norm(t), mg.logsumexp(t), mg.softmax(t), mg.prod(t), mg.leaky_relu(t), mg.elu(t),
        mg.sigmoid(t), mg.softplus(t), mg.relu(t), mg.cumsum(t), mg.pad(t, 1), mg.max(t), t.std(), mg.repeat(t, 2),
        mg.cross_entropy(t, 1), np.tanh(t), np.logaddexp(t, 0.0), mg.einsum("i,i->", t, t), t @ t, mg.outer(t, t),
    ]  # fmt: skip
    assert [r.dtype for r in results] == [np.dtype(dtype)] * len(results)
    sum(r.sum() for r in results).backward()
    assert t.grad.dtype == np.dtype(dtype)


@pytest.mark.parametrize("a", FLOATS)
@pytest.mark.parametrize("b", [*FLOATS, "int8", "int64", "bool"])
def test_arrays_promote_as_in_numpy_and_gradients_come_back(a, b):
    x, y = leaf([0.5, 1.0], a), mg.tensor([1, 2], dtype=b, requires_grad=b in FLOATS)
    for out in (x * y, y + x, x @ y, mg.where([True, False], x, y), mg.concatenate([x, y]), mg.maximum(x, y), x - y):
        assert out.dtype == np.result_type(np.dtype(a), np.dtype(b))
        x.grad = None
        out.backward(np.ones(out.shape))
        assert x.grad.dtype == np.dtype(a)
        if b in FLOATS:
            assert y.grad.dtype == np.dtype(b)


def test_numpy_scalars_are_strong_as_in_numpy():
    t = leaf([1.0, 2.0], "float32")
    for ours, theirs in (
        (t * np.float64(2.0), t.data * np.float64(2.0)),
        (np.float64(2.0) * t, np.float64(2.0) * t.data),
        (t * np.float32(2.0), t.data * np.float32(2.0)),
        (np.float16(2.0) * t, np.float16(2.0) * t.data),
        (t * np.int64(2), t.data * np.int64(2)),
        (t * np.array(2.0), t.data * np.array(2.0)),
        (t ** np.int64(2), np.power(t.data, np.int64(2))),  # NumPy 2.0 keeps float32 for `**` alone
        (t * np.bool_(True), t.data * np.bool_(True)),
    ):
        assert isinstance(ours, mg.Tensor)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.data, theirs)
        t.grad = None
        ours.backward([1.0, 1.0])
        assert t.grad.dtype == np.float32


def test_integers_and_masks_as_constant_factors():
    t = leaf([1.0, 2.0, 3.0])
    (t * np.array([1, 0, 2]) + t * (t > 1)).backward(np.ones(3))
    assert t.grad.tolist() == [1.0, 1.0, 3.0]
    p = leaf([2.0, 3.0])
    (p ** np.array([2, 3])).backward(np.ones(2))
    assert p.grad.tolist() == [4.0, 27.0]


INTEGERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("op", "value", "slope", "curve"),
    [
        (lambda x, n: x * n, lambda x, n: x * n, lambda x, n: n, lambda x, n: 0 * x),
        (lambda x, n: n - x, lambda x, n: n - x, lambda x, n: -1 + 0 * x, lambda x, n: 0 * x),
        (lambda x, n: x / n, lambda x, n: x / n, lambda x, n: 1 / n, lambda x, n: 0 * x),
        (lambda x, n: n / x, lambda x, n: n / x, lambda x, n: -n / x**2, lambda x, n: 2 * n / x**3),
        (lambda x, n: x**n, lambda x, n: x**n, lambda x, n: n * x ** (n - 1), lambda x, n: n * (n - 1) * x ** (n - 2)),
        (lambda x, n: n**x, lambda x, n: n**x, lambda x, n: n**x * np.log(n), lambda x, n: n**x * np.log(n) ** 2),
        (mg.maximum, np.maximum, lambda x, n: (x > n) * 1.0, lambda x, n: 0 * x),
    ],
    ids=["x * n", "n - x", "x / n", "n / x", "x ** n", "n ** x", "maximum"],
)
def test_constants_of_any_integer_dtype(op, value, slope, curve, dtype, integer):
    n = np.array([1, 3, 2], "bool" if integer == "bool" else integer)
    x = np.array([0.5, 1.5, 1.75], dtype)
    wide_x, wide_n = x.astype("float64"), n.astype("float64")
    tolerance = {"float16": 3e-3, "float32": 1e-6, "float64": 1e-14}[dtype]
    t = leaf(x)
    out = op(t, n)
    np.testing.assert_allclose(out.data, value(wide_x, wide_n), rtol=tolerance)
    out.backward(np.ones(3))
    assert t.grad.dtype == x.dtype
    np.testing.assert_allclose(t.grad, slope(wide_x, wide_n), rtol=tolerance)
    for second in (
        mg.hvp(lambda x: op(x, n).sum(), (x,), (np.ones(3),))[0],
        mg.grad(lambda x: mg.grad(lambda x: op(x, n).sum())(x).sum())(x),
    ):
        assert second.dtype == x.dtype
        np.testing.assert_allclose(second, curve(wide_x, wide_n), rtol=5 * tolerance)


@pytest.mark.parametrize("base", [np.array([2.0, 3.0]), mg.tensor([2.0, 3.0])], ids=["array", "Tensor"])
def test_a_constant_base_at_order_two(base):
    x = np.array([0.5, 1.5])
    h = mg.hvp(lambda x: mg.power(base, x).sum(), (x,), (np.ones(2),))[0]
    b = np.array([2.0, 3.0])
    np.testing.assert_allclose(np.asarray(h), b**x * np.log(b) ** 2, rtol=1e-14)


def test_a_quotient_s_gradient_neither_overflows_nor_underflows():
    for scale in (np.float32(1e25), np.float32(1e-25)):
        y = leaf(np.array([scale]))
        (np.array([scale]) / y).backward([1.0])
        np.testing.assert_allclose(y.grad, -1 / scale, rtol=1e-6)


def test_a_boolean_exponent_or_base_keeps_the_dtype():
    t = leaf([1.0, 2.0], "float32")
    (t**True).backward([1.0, 1.0])
    assert t.grad.tolist() == [1.0, 1.0]
    (True**t).backward([1.0, 1.0])
    assert t.grad.tolist() == [1.0, 1.0]


def test_a_cast_passes_its_gradient_in_the_old_dtype():
    t = leaf([1.0, 2.0], "float32")
    y = t.astype("float64") * np.array([3.0, 4.0])
    assert y.dtype == np.float64
    y.backward(np.ones(2))
    assert t.grad.dtype == np.float32
    assert t.grad.tolist() == [3.0, 4.0]
    assert t.astype("int64").record is None


def test_zero_dimensional_results_stay_arrays():
    t = leaf([1.0, 2.0])
    z = leaf(0.5)
    results = [
        t.sum(), t.mean(), t.max(), t.min(), t.var(), t.prod(), t.std(), t[0], t[np.int64(1)], t @ t, mg.norm(t),
        mg.logsumexp(t), z * 2, 2 / z, z**2, z**z, -z, abs(z), mg.tanh(z), mg.relu(z), mg.sigmoid(z), z[()], z[...],
        z.reshape(()), mg.where(z > 0, z, 0.0), mg.maximum(z, z), mg.clip(z, 0, 1), z.astype("float32"), z > 0, z == 1,
        mg.argmax(t), (t > 0).all(), mg.squeeze(t[:1]), mg.einsum("i,i->", t, t), mg.cross_entropy(t, 0), z.copy(),
        mg.elu(z), mg.leaky_relu(z), mg.softplus(z), mg.sign(z), mg.dot(z, z), mg.exp(z), mg.stack([z, z])[1],
        np.tanh(z), np.sum(t), np.add.reduce(t), np.dot(t, t), mg.take(t, 1), mg.split(t, 2)[0][0],
    ]  # fmt: skip
    for r in results:
        assert isinstance(r, mg.Tensor)
        assert type(r.array) is np.ndarray
        assert r.shape == ()
    for r in results:
        if r.requires_grad:
            r.backward()
    assert type(t.grad) is type(z.grad) is np.ndarray
    assert z.grad.shape == ()


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.tolist(), lambda x: tuple(x.tolist())])
def test_functions_of_arrays_alone_give_arrays(make):
    x = make(np.array([[0.5, 1.0], [2.0, 3.0]]))
    for out in (
        mg.tanh(x), mg.add(x, 1), mg.matmul(x, x), mg.sum(x), mg.max(x, axis=0), mg.softmax(x), mg.reshape(x, -1),
        mg.where(True, x, x), mg.concatenate([x, x]), mg.getitem(x, 0), mg.getitem(x, (0, 0)), mg.norm(x), mg.prod(x),
        mg.take(x, [0]), mg.cross_entropy(x, [0, 1]), mg.einsum("ij->", x), mg.one_hot([0, 1], 2), mg.argmax(x),
        mg.sequence_mask([1, 2]), mg.reverse_sequence(x, [1, 2]), mg.stack([x, x]), mg.split(x, 2)[0], mg.dot(x, x),
    ):  # fmt: skip
        assert type(out) is np.ndarray
    for out in (mg.tanh(0.5), mg.add(1, 2), mg.multiply(True, 2.0), mg.power(2.0, 3), mg.maximum(1, 2)):
        assert type(out) is np.ndarray
        assert out.shape == ()


def test_one_tensor_makes_a_tensor():
    c, a = mg.tensor([1.0, 2.0]), np.array([1.0, 2.0])
    for out in (
        mg.add(a, c), mg.add(c, a), mg.where([True, False], a, c), mg.concatenate([a, c]),
        mg.stack([a, c]), mg.einsum("i,i->", a, c), mg.matmul(a, c), mg.one_hot(mg.tensor([0]), 2), mg.argmax(c),
        mg.sequence_mask(mg.tensor([1])),
    ):  # fmt: skip
        assert isinstance(out, mg.Tensor)
        assert out.record is None


@pytest.mark.parametrize(
    "call",
    [
        lambda a, t: mg.where(t > 1, a, 0.0),
        lambda a, t: np.where(t > 1, 1.0, 0.0),
        lambda a, t: mg.clip(a, t, None),
        lambda a, t: mg.take(a, t.astype("int64") - 1),
        lambda a, t: mg.getitem(a, t > 1),
        lambda a, t: mg.cross_entropy(a, mg.tensor(0)),
    ],
    ids=["where", "np.where", "clip", "take", "getitem", "cross_entropy"],
)
def test_a_tensor_among_the_arguments_without_derivative_makes_a_tensor_too(call):
    out = call(np.array([1.0, 2.0]), mg.tensor([1.0, 2.0]))
    assert isinstance(out, mg.Tensor)


# ---- indexing ------------------------------------------------------------------------------------------------------

INDICES = [
    0, -1, np.int64(1), slice(None), slice(1, None), slice(None, None, -1), slice(2, 0, -1), slice(5, 9), Ellipsis,
    None, (), (0, 1), (slice(None), 1), (Ellipsis, 0), (0, Ellipsis), (None, 0, None), (1, slice(None), [0, 2]),
    [0, 2], [0, 0, 0], [], [[0, 1], [2, 0]], np.array([1, -1]), np.array(1), ([0, 1], [1, 0]), ([0, 1], 1),
    (slice(None), [0, 1], None, [1, 2]), ([0, 1], slice(None), [1, 2]), (np.array([[0], [2]]), [0, 1]),
    np.array([True, False, True]), [True, False, False], (slice(None), np.array([True, False])), True, False,
    np.arange(24).reshape(3, 2, 4) % 5 == 0, (np.array([True, False, True]), [1, 0]), (0, np.array([True, True])),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_is_numpy_s(index):
    t = leaf(np.arange(24.0).reshape(3, 2, 4))
    expected = t.data[index if not isinstance(index, list) else np.array(index, dtype=None if index else int)]
    out = t[index]
    assert type(out.array) is np.ndarray
    np.testing.assert_array_equal(out.data, expected)
    weights = np.arange(1.0, out.size + 1).reshape(out.shape)
    out.backward(weights)
    gradient = np.zeros(t.shape)
    np.add.at(
        gradient, index if not isinstance(index, list) else np.array(index, dtype=None if index else int), weights
    )
    np.testing.assert_array_equal(t.grad, gradient)


def test_tensors_as_indices():
    t = leaf([10.0, 20.0, 30.0])
    assert t[mg.tensor(1)].data == 20.0
    assert t[mg.tensor([2, 0])].data.tolist() == [30.0, 10.0]
    assert t[t > 15].data.tolist() == [20.0, 30.0]
    assert t[mg.argmax(t)].data == 30.0
    assert t[1 : mg.tensor(3)].data.tolist() == [20.0, 30.0]
    assert t[mg.tensor([True, False, True])].data.tolist() == [10.0, 30.0]
    assert np.array([1, 2, 3])[mg.tensor([0, 2])].tolist() == [1, 3]


@pytest.mark.parametrize(
    "index", [3, -4, (0, 0), [0, 3], np.array([-4]), [True, False], "a", 1.5, [0.5], (slice(0, 1.5),)]
)
def test_a_wrong_index_is_an_error(index):
    t = leaf([1.0, 2.0, 3.0])
    with pytest.raises((IndexError, TypeError)):
        t[index]
    with pytest.raises((IndexError, TypeError)):
        t.data[index]


# ---- NumPy's functions and methods ---------------------------------------------------------------------------------

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
CALLS = {
    **{name: getattr(np, name) for name in ("tanh", "exp", "expm1", "sin", "cos", "square", "abs", "negative", "sign")},
    "sqrt": lambda x: np.sqrt(x * x),
    "log": lambda x: np.log(x * x) + np.log1p(x * x),
    "reciprocal": np.reciprocal,
    "positive": np.positive,
    "binary": lambda x: np.add(x, 1) + np.subtract(2, x) * np.multiply(x, x) - np.divide(1, x),
    "true_divide": lambda x: np.true_divide(x, 2),
    "power": lambda x: np.power(x, 2) + np.power(2.0, x),
    "maximum": lambda x: np.maximum(x, 0) + np.minimum(x, X.T[:2, :1]),
    "logaddexp": lambda x: np.logaddexp(x, 1.0),
    "matmul": lambda x: np.matmul(x, X.T),
    "rmatmul": lambda x: X.T @ x,
    "sum": lambda x: np.sum(x, axis=0) + np.sum(x) + np.sum(x, axis=1, keepdims=True),
    "mean": lambda x: np.mean(x, 1) * np.mean(x),
    "max": lambda x: np.max(x, axis=1) + np.min(x, axis=1) + np.amax(x) + np.amin(x),
    "var": lambda x: np.var(x, axis=0, ddof=1) + np.std(x, axis=0),
    "prod": lambda x: np.prod(x, axis=0),
    "cumsum": lambda x: np.cumsum(x, axis=1) + np.cumsum(x)[0],
    "reduce": lambda x: (
        np.add.reduce(x) * np.multiply.reduce(x, axis=0) + np.maximum.reduce(x) - np.minimum.reduce(x, 0)
    ),
    "reshape": lambda x: np.reshape(x, (3, -1)),
    "ravel": np.ravel,
    "transpose": lambda x: np.transpose(x) @ np.transpose(x, (0, 1)),
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "expand_dims": lambda x: np.squeeze(np.expand_dims(x, 0), axis=0),
    "concatenate": lambda x: np.concatenate([x, X, x * 2], axis=1),
    "concatenate, tuple": lambda x: np.concatenate((X, x)),
    "stack": lambda x: np.stack([x, X], axis=-1),
    "hstack": lambda x: np.hstack([x, X]) @ np.hstack([x[0], X[0]]),
    "vstack": lambda x: np.vstack([x, X, x[0]]),
    "split": lambda x: np.split(x, 3, axis=1)[1] * np.split(x, [1], axis=1)[1],
    "flip": lambda x: np.flip(x, 1) * np.flip(x),
    "repeat": lambda x: np.repeat(x, 2, axis=0),
    "take": lambda x: np.take(x, [2, 0], axis=1) @ np.take(x, [0, 5]),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[0], [2]]), 1),
    "where": lambda x: np.where(X > 0, x, 0.0) + np.where(x > 0, 1.0, x),
    "clip": lambda x: np.clip(x, -0.6, 0.6) + np.clip(x, None, 1.0),
    "copy": np.copy,
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 2, 3)),
    "pad": lambda x: np.pad(x, ((1, 0), (0, 2))),
    "dot": lambda x: np.dot(X.T, x) + np.dot(x[0], x[1]),
    "outer": lambda x: np.outer(x[0], x[1]),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, X),
    "norm": lambda x: np.linalg.norm(x, axis=1) * np.linalg.norm(x),
    "zeros_like": lambda x: x * np.ones_like(x) + np.zeros_like(x),
    "shape": lambda x: x * np.shape(x)[0] + np.ndim(x) * np.size(x),
    "methods": lambda x: x.sum(axis=0) + x.mean() * x.max(axis=0) - x.min() + x.prod(0) + x.var(0) + x.std(axis=0),
    "more methods": lambda x: x.T.dot(x.reshape(2, 3)).ravel()[:3] + x.flatten()[3:] * x.swapaxes(0, 1).reshape(6)[:3],
    "even more": lambda x: (
        x.copy().clip(-0.9, 0.9).cumsum(axis=1).take([1, 0], axis=0) * x.transpose(1, 0).T.repeat(1, 0)
    ),
    "reshape, three ways": lambda x: x.reshape(-1) * x.reshape((6,)) * x.reshape([6]),
    "transpose, three ways": lambda x: x.transpose() + x.transpose(1, 0) + x.transpose((1, 0)),
    "astype": lambda x: x.astype(np.float64).squeeze(),
    "ndarray first": lambda x: X + x - X * x / (X - 5 * x) + np.float64(2) ** x,
}


@pytest.mark.parametrize("name", CALLS)
def test_numpy_functions_record(name):
    """The same source on an array and on a Tensor gives the same values, and its gradient is a central difference."""
    f = CALLS[name]
    expected = f(X)
    t = leaf(X)
    out = f(t)
    assert isinstance(out, mg.Tensor)
    assert out.requires_grad
    np.testing.assert_allclose(out.data, expected, rtol=1e-15, atol=1e-16)
    weights = np.cos(np.arange(out.size)).reshape(out.shape)
    out.backward(weights)
    rng = np.random.default_rng(0)
    direction, eps = rng.standard_normal(X.shape), 1e-6
    slope = ((f(X + eps * direction) - f(X - eps * direction)) * weights).sum() / (2 * eps)
    assert (t.grad * direction).sum() == pytest.approx(slope, rel=1e-7, abs=1e-7)


def test_numpy_comparisons():
    t = leaf([1.0, 2.0])
    assert np.greater(t, 1).data.tolist() == [False, True]
    assert np.less_equal([1.0, 1.0], t).data.tolist() == [True, True]
    assert np.logical_not(t > 1).data.tolist() == [True, False]
    assert np.logical_and(t > 0, t > 1).data.tolist() == [False, True]
    assert np.argmax(t).data == 1


SPECIAL = [1.0, np.nan, np.inf, -np.inf, 0.0]


MAKERS = {"leaf": leaf, "result": lambda data: leaf(data) * 1, "constant": mg.tensor}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("backend", ["numpy", "strict"])
@pytest.mark.parametrize("predicate", [np.isnan, np.isinf, np.isfinite])
def test_predicates_are_boolean_constants(predicate, backend, make):
    with mg.use_backend(backend):
        t = make(SPECIAL)
    for ours, theirs in ((predicate(t), predicate(SPECIAL)), (predicate(t[0]), predicate(1.0))):
        assert isinstance(ours, mg.Tensor)
        assert ours.record is None
        assert ours.backend.name == backend
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("backend", ["numpy", "strict"])
def test_closeness_is_numpy_s(make, backend):
    near = [1.0 + 1e-6, np.nan, np.inf, np.inf, 1e-9]
    with mg.use_backend(backend):
        t, other = make(SPECIAL), mg.tensor(near)
        for options in ({}, {"rtol": 1e-7}, {"atol": 0.0}, {"equal_nan": True}):
            expected = np.isclose(SPECIAL, near, **options)
            for ours in (np.isclose(t, other, **options), np.isclose(t, near, **options)):
                assert isinstance(ours, mg.Tensor)
                assert ours.record is None
                np.testing.assert_array_equal(ours.numpy(), expected)
            assert np.allclose(t, near, **options) is False
        finite = make([1.0, 2.0])
        assert np.allclose([1.0, 2.0 + 1e-7], finite) is True
        assert np.allclose(finite, 1.5, 0.0, 0.5) is True
        assert np.allclose(finite, 1.5, 0.0, make(0.5)) is True
        assert np.allclose(make([np.nan]), [np.nan], equal_nan=True) is True
        assert np.array_equal(finite, [1.0, 2.0]) is True
        assert np.array_equal(finite, [1.0, 2.5]) is False
        assert np.array_equal(finite, [[1.0, 2.0]]) is False
        assert np.array_equal(make(3.0), 3.0) is True
        assert np.array_equal(t, t) is False
        assert np.array_equal(t, t, equal_nan=True) is True
        assert np.array_equal(t, near, equal_nan=True) is False


@pytest.mark.parametrize("unroll", [False, True])
def test_predicates_in_a_scan(unroll):
    """As masks they need no values; the gradient is that of the branch that was taken."""
    xs = np.array([[1.0, np.nan], [2.0, 3.0]])

    def total(w):
        def body(s, x):
            clean = mg.where(np.isnan(x), 0.0, x)
            return s + mg.where(np.isclose(clean * w, 2.0), 0.0, clean * w)

        return mg.scan(body, xs, mg.zeros(2), unroll=unroll)[-1].sum()

    assert mg.grad(total)(1.0) == 1.0 + 3.0


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.add(t, 1, out=np.zeros(2)),
        lambda t: np.tanh(t, out=np.zeros(2)),
        lambda t: np.tanh(np.zeros(2), out=t),
        lambda t: np.sum(t, out=np.zeros(())),
        lambda t: np.concatenate([t, t], out=np.zeros(4)),
        lambda t: np.matmul(t, t, out=np.zeros(())),
        lambda t: np.clip(t, 0, 1, out=np.zeros(2)),
    ],
)
def test_out_is_refused(call):
    for t in (leaf([1.0, 2.0]), mg.tensor([1.0, 2.0])):
        with pytest.raises(TypeError, match="out"):
            call(t)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda t: np.arctan(t), "arctan"),
        (lambda t: np.floor(t), "floor"),
        (lambda t: np.rint(t), "rint"),
        (lambda t: np.round(t), "round"),
        (lambda t: np.add.accumulate(t), "add.accumulate"),
        (lambda t: np.multiply.outer(t, t), "multiply.outer"),
        (lambda t: np.add.at(t, [0], 1.0), "add.at"),
        (lambda t: np.subtract.reduce(t), "subtract.reduce"),
        (lambda t: np.tanh(t, where=np.array([True, False])), "tanh with where"),
        (lambda t: np.add(t, 1, dtype="float32"), "add with dtype"),
        (lambda t: np.sort(t), "sort"),
        (lambda t: np.fft.fft(t), "fft"),
        (lambda t: np.linalg.inv(t), "inv"),
        (lambda t: np.tensordot(t, t), "tensordot"),
        (lambda t: np.median(t), "median"),
    ],
)
def test_a_numpy_function_without_an_op_is_named(call, name):
    with pytest.raises(TypeError, match=f"numpy.*{name}.*no minigrad op"):
        call(leaf([1.0, 2.0]))


def test_the_advice_for_a_missing_numpy_function_works():
    t = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=r"numpy.median.*detach\(\)"):
        np.median(t)
    assert np.median(t.detach()) == 1.5


def test_logical_functions_ask_for_truth_not_for_bits():
    a, b = mg.tensor([1, 2, 0]), mg.tensor([2, 2, 1])
    assert np.logical_and(a, b).data.tolist() == [True, True, False]
    assert np.logical_or(a, b).data.tolist() == [True, True, True]
    assert np.logical_not(a).data.tolist() == [False, False, True]
    assert np.logical_and(leaf([1.0, 0.0]), [True, True]).data.tolist() == [True, False]


def test_both_spellings_of_clip():
    t = leaf([-1.0, 0.5, 2.0])
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # which brought them
        assert np.clip(t, min=0, max=1).data.tolist() == [0.0, 0.5, 1.0]
    assert np.clip(t, a_min=0, a_max=1).data.tolist() == [0.0, 0.5, 1.0]


def test_a_keyword_that_minigrad_lacks_is_named():
    t = leaf([1.0, 2.0])
    for call in (
        lambda: np.sum(t, where=np.array([True, False])),
        lambda: np.sum(t, initial=5.0),
        lambda: np.max(t, dtype="float32"),
        lambda: t.var(mean=1.0),
        lambda: np.pad(t, 1, mode="edge"),
        lambda: np.linalg.norm(t, ord=1),
        lambda: np.reshape(t, (2, 1), order="F"),
    ):
        with pytest.raises(TypeError, match="where|initial|dtype|mean|mode|ord"):
            call()


REDUCED = {
    name: [(0,), (1, None), (0, np.float32), (None, "float32"), *more]
    for name, more in {
        "sum": [(0, None, None, True), (1, np.int32), ((0, 1), "float64", None, True)],
        "prod": [(0, None, None, True), (1, np.int16)],
        "mean": [(0, np.float32, None, True)],
        "var": [(0, None, None, 1), (0, "float32", None, 1, True)],
        "std": [(0, None, None, 1), (0, "float32", None, 1, True)],
        "cumsum": [(0, np.float32, None), (1, np.int16)],
    }.items()
} | {"max": [(0,), (0, None), (1, None, True)], "min": [(0, None, True)], "argmax": [(0,), (1, None)]}


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, calls in REDUCED.items() for args in calls])
def test_reductions_take_numpys_arguments_in_numpys_order(name, args):
    """(axis, dtype, out, keepdims), as methods and as functions."""
    a = np.array([[1.5, -2.0, 3.0], [0.5, 4.0, 2.5]])
    t = leaf(a)
    expected = getattr(a, name)(*args)
    for out in (getattr(t, name)(*args), getattr(np, name)(t, *args), getattr(np, name)(t, *args[:1], None, *args[2:])):
        assert isinstance(out, mg.Tensor)
        assert out.shape == np.shape(expected)
    for out in (getattr(t, name)(*args), getattr(np, name)(t, *args)):
        assert out.dtype == expected.dtype
        np.testing.assert_allclose(out.data, expected, rtol=1e-6 if out.dtype == np.float32 else 1e-15)


def test_a_reduction_in_another_dtype_gives_its_gradient_in_the_old_one():
    for reduce in (lambda t: t.prod(0, np.float64), lambda t: np.prod(t, axis=0, dtype="float64")):
        t = leaf(np.array([[0.5, 3.0], [2.0, 4.0]], "float32"))
        out = reduce(t)
        assert (out.dtype, out.shape) == (np.float64, (2,))
        out.backward([1.0, 10.0])
        assert t.grad.dtype == np.float32
        assert t.grad.tolist() == [[2.0, 40.0], [0.5, 30.0]]
    total = np.add.reduce(leaf([[1.0, 2.0]]), 1, "float32", None, True)
    assert (total.dtype, total.data.tolist()) == (np.float32, [[3.0]])


def test_a_bool_in_the_place_of_the_dtype_is_keepdims():
    """minigrad's own order, (axis, keepdims, ddof): no dtype is a bool."""
    t = leaf([[1.0, 4.0]])
    assert t.sum(1, True).data.tolist() == np.sum(t, 1, True).data.tolist() == [[5.0]]
    assert t.max(1, True).data.tolist() == [[4.0]]
    assert t.var(1, True, 1).data.tolist() == [[4.5]]
    assert t.std(1, False).data.tolist() == [1.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.sum(0, None, np.zeros(())), "out"),
        (lambda t: np.sum(t, 0, None, np.zeros(())), "out"),
        (lambda t: t.max(0, np.float64), "out"),
        (lambda t: np.std(t, 0, None, np.zeros(())), "out"),
        (lambda t: t.prod(0, None, None, np.float64), "keepdims is True or False, got <class 'numpy.float64'>"),
        (lambda t: t.sum(keepdims="yes"), "keepdims is True or False, got 'yes'"),
        (lambda t: t.sum(0, "no dtype"), "no dtype"),
        (lambda t: t.sum(0, 3), "3.*data type"),
        (lambda t: t.mean(0, int), "mean with a Tensor is floating, got dtype int64"),
        (lambda t: np.var(t, 0, np.int32), "var with a Tensor is floating, got dtype int32"),
        (lambda t: t.sum(0, axis=0), "sum takes axis, dtype, out, keepdims"),
        (lambda t: t.sum(0, None, None, True, 1.0), "sum takes axis, dtype, out, keepdims"),
        (lambda t: t.var(0, None, None, 0, True, 1.0), "var takes axis, dtype, out, ddof, keepdims"),
    ],
)
def test_wrong_arguments_of_a_reduction_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call(leaf([1.0, 2.0]))


@pytest.mark.parametrize("unroll", [False, True])
def test_a_reduction_in_another_dtype_in_a_scan(unroll):
    def body(state, x):
        return state + np.sum(x, 0, "float64") + x.prod(0, np.float64)

    xs = leaf(np.array([[1.0, 2.0], [3.0, 4.0]], "float32"))
    out = mg.scan(body, xs, mg.tensor(0.0), unroll=unroll)[-1]
    assert out.data == 3 + 2 + 7 + 12
    out.backward()
    assert xs.grad.tolist() == [[3.0, 2.0], [5.0, 4.0]]


def test_an_array_s_own_method_cannot_see_the_tensor():
    """`ndarray.dot(Tensor)` asks nobody: all that can be done is to refuse, and to name the way that records."""
    with pytest.raises(TypeError, match=r"np\.dot\(a, t\)|a @ t"):
        np.ones((1, 2)).dot(leaf([1.0, 2.0]))


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t + np.ones(3), ValueError, r"minigrad\.add\(float64\(2,\), float64\(3,\)\)"),
        (lambda t: np.ones((2, 3)) @ t, ValueError, r"minigrad\.matmul\(float64\(2, 3\), float64\(2,\)\)"),
        (lambda t: mg.where([True, False, True], t, 0.0), ValueError, r"where.*\(3,\).*\(2,\)"),
        (lambda t: t.reshape(3), ValueError, r"reshape.*\(2,\)"),
        (lambda t: mg.concatenate([t, np.ones((2, 1))]), ValueError, "concatenate"),
        (lambda t: mg.stack([t, np.ones(3)]), ValueError, r"stack.*\(2,\).*\(3,\)"),
        (lambda t: t.sum(axis=1), ValueError, "sum.*axis 1.*1 dim"),
        (lambda t: t.sum(axis=(0, 0)), ValueError, "sum.*twice"),
        (lambda t: mg.softmax(t, axis=2), ValueError, "axis 2"),
        (lambda t: mg.max(t[:0]), ValueError, "max"),
        (lambda t: t[5], IndexError, r"getitem\(float64\(2,\)\).*5"),
        (lambda t: mg.einsum("ij->", t), ValueError, "einsum.*'ij'"),
        (lambda t: mg.split(t, 3), ValueError, "split.*3 equal"),
        (lambda t: mg.squeeze(t, 0), ValueError, "squeeze.*size 1"),
        (lambda t: mg.transpose(t, (0, 0)), ValueError, "transpose"),
        (lambda t: mg.clip(t), ValueError, "clip"),
        (lambda t: mg.clip(t, t), TypeError, "clip.*stop_gradient"),
        (lambda t: mg.cross_entropy(t, 0.5), TypeError, "labels are integers"),
        (lambda t: mg.cross_entropy(t, 2), IndexError, r"label 2 lies outside 0\.\.1"),
        (lambda t: mg.cross_entropy(t, -1), IndexError, "label -1"),
        (lambda t: mg.take(t, [0.5]), TypeError, "integers"),
        (lambda t: mg.broadcast_to(t, (2, 3)), ValueError, "broadcast_to"),
        (lambda t: mg.pad(t, -1), ValueError, "negative"),
        (lambda t: t + "a", TypeError, "add.*str"),
        (lambda t: t * None, TypeError, "multiply.*NoneType"),
        (lambda t: t + [t, t], TypeError, "stack"),
        (lambda t: t + object(), TypeError, "add.*object"),
        (lambda t: t.item(), ValueError, "one element"),
    ],
)
def test_errors_name_the_op_and_the_shapes(call, error, message):
    with pytest.raises(error, match=message):
        call(leaf([1.0, 2.0]))


def test_integers_have_reductions_as_in_numpy():
    for array in (
        np.array([0, 200], "uint8"),
        np.array([-128, 100], "int8"),
        np.array([2**20, 2**20], "int32"),
        np.array([True, False]),
        np.array([3, 1, 2]),
    ):
        assert mg.sum(array) == np.sum(array)
        assert mg.max(array) == np.max(array)
        assert mg.mean(array) == np.mean(array)
        assert mg.min(array) == np.min(array)
        assert mg.prod(array) == np.prod(array)
        for reduction in (mg.sum, mg.max, mg.min, mg.mean, mg.prod):
            assert type(reduction(array)) is np.ndarray
            assert type(reduction(mg.tensor(array)).array) is np.ndarray
            with pytest.raises(ValueError, match=rf"minigrad\.{reduction.__name__}: axis 3"):
                reduction(array, axis=3)


def test_an_einsum_that_stretches_an_axis_gives_back_the_shape():
    x = leaf(np.arange(3.0).reshape(1, 3))
    mg.einsum("ij,kj->ik", x, np.ones((2, 1))).backward(np.ones((1, 2)))
    assert x.grad.tolist() == [[2.0, 2.0, 2.0]]


def test_an_einsum_of_one_operand_whose_gradient_is_nan():
    x = np.array([[1.0, -1.0]])
    with np.errstate(invalid="ignore"):
        g = mg.grad(lambda x: mg.einsum("ij->ji", mg.sqrt(x)).sum())(x)
    assert g[0, 0] == 0.5
    assert np.isnan(g[0, 1])


def test_logaddexp_is_numpy_s():
    minus = -np.inf
    for a, b in (([1, 2], 0.5), ([True], 0.5), ([1.0], [0, 1]), ([1.0, minus], minus), ([1.0], np.float64(2))):
        np.testing.assert_allclose(np.asarray(np.logaddexp(mg.tensor(a), b)), np.logaddexp(a, b), rtol=1e-15)
        np.testing.assert_allclose(np.asarray(np.logaddexp(b, mg.tensor(a))), np.logaddexp(a, b), rtol=1e-15)
    narrow = mg.tensor([1.0], dtype="float32")
    assert np.logaddexp(narrow, 0.5).dtype == np.float32
    assert np.logaddexp(narrow, np.float64(0.5)).dtype == np.float64
    with mg.use_backend("strict"):
        there = mg.tensor([1.0])
    assert np.logaddexp(there, 0.5).numpy() == np.logaddexp(1.0, 0.5)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_large_scores_cost_no_digits(scale):
    """Differences of float32 scores are exact or nearly so; a logarithm of their sum, as large as they, is not."""
    scores = (scale + np.random.default_rng(0).normal(size=(5, 7))).astype("float32")
    exact = mg.log_softmax(scores.astype("float64"))
    eps = np.finfo("float32").eps
    assert np.abs(mg.softmax(scores).sum(axis=1) - 1).max() < 8 * eps
    assert np.abs(mg.log_softmax(scores) - exact).max() < 8 * eps * np.abs(exact).max()
    assert np.abs(mg.cross_entropy(scores, [0] * 5) + exact[:, 0]).max() < 8 * eps * np.abs(exact).max()


def test_logsumexp_of_nothing_but_minus_infinity_does_not_warn():
    for row in ([-np.inf, -np.inf], [-np.inf]):
        assert mg.logsumexp(np.array(row)) == -np.inf
    value, g = mg.value_and_grad(lambda x: mg.exp(mg.logsumexp(x)))(np.array([-np.inf, -np.inf]))
    assert (value, g.tolist()) == (0.0, [0.0, 0.0])


def test_logaddexp_has_its_second_derivative_where_both_are_equal():
    H = mg.jacobian(mg.grad(lambda v: np.logaddexp(v[0], v[1])))(np.array([0.7, 0.7]))
    np.testing.assert_allclose(H, [[0.25, -0.25], [-0.25, 0.25]], rtol=1e-14)


# ---- plain NumPy code ----------------------------------------------------------------------------------------------


def rnn(xt, prev_h, U, W, V):
    ht = np.tanh(xt.dot(U) + prev_h.dot(W))
    ot = ht.dot(V)
    return ot, ht


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(xt, prev_c, prev_h, p):
    ft = sigmoid(xt.dot(p["W_xf"]) + prev_h.dot(p["W_hf"]) + p["b_f"])
    it = sigmoid(xt.dot(p["W_xi"]) + prev_h.dot(p["W_hi"]) + p["b_i"])
    ot = sigmoid(xt.dot(p["W_xo"]) + prev_h.dot(p["W_ho"]) + p["b_o"])
    candidate_memory = np.tanh(xt.dot(p["W_xc"]) + prev_h.dot(p["W_hc"]) + p["b_c"])
    ct = ft * prev_c + it * candidate_memory
    ht = ot * np.tanh(ct)
    return np.copy(ht), ct, ht


def gru(xt, prev_h, p):
    zt = sigmoid(xt.dot(p["W_xz"]) + prev_h.dot(p["W_hz"]))
    rt = sigmoid(xt.dot(p["W_xr"]) + prev_h.dot(p["W_hr"]))
    candidate_activation = np.tanh(xt.dot(p["W_xc"]) + (rt * prev_h).dot(p["W_hc"]))
    ht = (1.0 - zt) * prev_h + zt * candidate_activation
    return np.copy(ht), ht


def run_rnn(p, xs):
    h = np.zeros((2, 3)) * p["U"][0, 0]
    loss = 0.0
    for x in xs:
        o, h = rnn(x, h, p["U"], p["W"], p["V"])
        loss = loss + np.sum(o * o)
    return loss


def run_lstm(p, xs):
    c = h = np.zeros((2, 3)) * p["b_f"]
    loss = 0.0
    for x in xs:
        out, c, h = lstm(x, c, h, p)
        loss = loss + np.sum(out * out)
    return loss


def run_gru(p, xs):
    h = np.ones((2, 3)) * p["W_hz"][0]
    loss = 0.0
    for x in xs:
        out, h = gru(x, h, p)
        loss = loss + np.mean(out * out)
    return loss


CELLS = {
    "rnn": (run_rnn, {"U": (4, 3), "W": (3, 3), "V": (3, 2)}),
    "lstm": (run_lstm, {**{f"W_x{g}": (4, 3) for g in "fioc"}, **{f"W_h{g}": (3, 3) for g in "fioc"},
                        **{f"b_{g}": (3,) for g in "fioc"}}),
    "gru": (run_gru, {**{f"W_x{g}": (4, 3) for g in "zrc"}, **{f"W_h{g}": (3, 3) for g in "zrc"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_plain_numpy_cells_differentiate_unchanged(name):
    """Cells written for arrays alone, with xt.dot(U), np.tanh and np.copy: tensors go in, and gradients come out."""
    run, shapes = CELLS[name]
    rng = np.random.default_rng(1)
    values = {key: rng.standard_normal(shape) * 0.5 for key, shape in shapes.items()}
    xs = rng.standard_normal((3, 2, 4))
    params = {key: leaf(value) for key, value in values.items()}
    loss = run(params, [mg.tensor(x) for x in xs])
    plain = run(values, list(xs))
    assert loss.item() == pytest.approx(plain, rel=1e-14)
    loss.backward()
    directions = {key: rng.standard_normal(value.shape) for key, value in values.items()}
    eps = 1e-5
    for key in shapes:
        ends = [run({**values, key: values[key] + s * eps * directions[key]}, list(xs)) for s in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * eps)
        assert (params[key].grad * directions[key]).sum() == pytest.approx(slope, rel=1e-7, abs=1e-9)
    by_grad = mg.grad(lambda p: run(p, [mg.asarray(x) for x in xs]))(values)
    for key in shapes:
        np.testing.assert_allclose(np.asarray(by_grad[key]), params[key].grad, rtol=1e-13)


def test_a_number_formats_like_a_number():
    assert f"{leaf([0.5]).sum():.3f}" == "0.500"
    assert f"{mg.tensor(2.0)}" == str(mg.tensor(2.0))
    with pytest.raises(ValueError, match="one element"):
        format(leaf([1.0, 2.0]), ".3f")


def test_casting_a_leaf_on_the_side_is_refused():
    with pytest.raises(TypeError, match="astype"):
        mg.asarray(leaf([1.0]), "float32")


def test_a_mean_of_halves_does_not_overflow():
    t = leaf(np.ones(70000), "float16")
    assert mg.mean(t).item() == 1.0
    assert mg.mean(t).dtype == np.float16
