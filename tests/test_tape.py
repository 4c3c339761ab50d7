"""The tape: what is recorded, what a walk gives, what backward frees, and what nobody may change meanwhile."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import hold as tape_hold
from minigrad import tape
from minigrad.backend import get_backend
from minigrad.hold import hold

DEEP = 100_000


def leaf(data, name=None):
    return mg.tensor(np.array(data, dtype="float64"), requires_grad=True, name=name)


def chain(x, length):
    """x after `length` ops that change nothing."""
    for _ in range(length):
        x = x * 1.0
    return x


@pytest.fixture(autouse=True)
def _scoped_state_is_as_it_was():
    """No test here may leave a no_grad, a Tape, a careful walk or an open trace behind."""
    yield
    assert tape.recorder.get() is tape.Record
    assert tape.open_variables.get() == ()
    assert tape.careful.get() is False


@contextlib.contextmanager
def without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ---- records -------------------------------------------------------------------------------------------------------


def test_only_what_depends_on_a_leaf_is_recorded():
    x, c = leaf([1.0]), mg.tensor([2.0])
    assert (c * c).record is None
    assert not (c * c).requires_grad
    assert (x * c).record.op.name == "multiply"
    assert (x * c).requires_grad


def test_a_record_knows_its_inputs_and_its_output():
    x = leaf([1.0, 2.0])
    y = x * 3.0
    z = mg.tanh(y)
    assert y.record.values[0] is x.data
    assert y.record.values[1] == 3.0
    assert y.record.parents == (x.record, None)
    assert z.record.parents == (y.record,)
    assert z.record.out is z.array


def test_numbers_rise_in_the_order_of_computation():
    x = leaf(1.0)
    made = [x]
    for _ in range(5):
        made.append(made[-1] * 2)
    numbers = [t.record.number for t in made]
    assert numbers == sorted(set(numbers))
    before = tape.next_number()
    assert numbers[-1] < before < (x * 2).record.number


def test_an_integer_result_is_a_constant():
    x = leaf([1.0, 3.0, 2.0])
    for result in (mg.argmax(x), x > 1, x.astype("int64"), x == x, ~(x > 1), (x > 1).all(), (x > 1).any()):
        assert isinstance(result, mg.Tensor)
        assert result.record is None


# ---- depth and memory ----------------------------------------------------------------------------------------------


def test_a_hundred_thousand_ops_deep():
    """Forward, backward, repr, refusal to pickle or copy, freeing: no recursion anywhere."""
    x = leaf(2.0)
    y = chain(x, DEEP)
    assert repr(y) == "Tensor(2., from multiply)"
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="detach"):
            refused(y)
    y.backward()
    assert x.grad == 1.0
    again = chain(x, DEEP)
    del y  # a chain that was walked
    del again  # and one that never was
    assert pickle.loads(pickle.dumps(x)).grad == 1.0
    assert copy.deepcopy(x).grad == 1.0


def test_transforms_a_hundred_thousand_ops_deep():
    assert mg.grad(lambda x: chain(x, DEEP))(2.0) == 1.0
    assert mg.jvp(lambda x: chain(x, DEEP), (2.0,), (3.0,))[1] == 3.0


def test_second_order_of_a_deep_chain():
    deep = 10_000
    assert mg.grad(mg.grad(lambda x: chain(x * x, deep)))(3.0) == 2.0
    assert mg.hvp(lambda x: chain(x * x, deep), (3.0,), (5.0,)) == (10.0,)
    assert float(mg.grad(lambda x: chain(x, deep) * 1.0)(3.0)) == 1.0


def test_a_trace_may_ask_for_a_number_below_a_deep_chain():
    """`item()` must find out whether its tensor is being differentiated, however deep that lies."""
    deep = chain(leaf(2.0), 10_000)

    def f(x):
        assert deep.item() == 2.0  # not part of the trace
        with pytest.raises(TypeError, match="inside a function that is being differentiated"):
            chain(x, 10_000).item()
        return x

    mg.grad(f)(1.0)


def test_a_tape_of_a_deep_chain_prints():
    x = leaf(1.0, "x")
    with mg.Tape() as records:
        y = chain(x, 5_000)
    y.backward()
    assert len(str(records).splitlines()) == len(records) + 1 == 5_001
    assert len(records.uses(x)) == 1


def peak_memory(length):
    x = leaf(np.ones(64))
    tracemalloc.start()
    chain(x, length).sum().backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_linear_in_the_number_of_ops():
    peak_memory(100)  # warm up
    one, four = peak_memory(1_000), peak_memory(4_000)
    assert 3.5 < four / one < 4.5


def test_backward_frees_without_the_garbage_collector():
    """No reference cycle between tensors, records and arrays: what backward frees is gone at once."""
    x = leaf(np.ones(3))
    with without_the_garbage_collector():
        y = mg.tanh(x * 2)
        kept = weakref.ref(y.record)
        inner = weakref.ref(y.array)
        z = (y * y).sum()
        arrays = [weakref.ref(value) for value in z.record.values]
        del y
        z.backward()
        assert [ref() for ref in arrays] == [None]
        assert inner() is None
        assert kept() is None  # z's record let go of its parents
        assert z.data == 3 * np.tanh(2.0) ** 2


def test_a_graph_dies_with_its_last_tensor():
    x = leaf(np.ones(3))
    with without_the_garbage_collector():
        y = mg.tanh(x * 2)
        refs = [weakref.ref(y), weakref.ref(y.record), weakref.ref(y.array), weakref.ref(y.record.parents[0])]
        del y
        assert [ref() for ref in refs] == [None] * 4


def square_of_product(w, refs):
    y = mg.tanh(w @ np.ones(2))
    refs += [weakref.ref(y), weakref.ref(y.record), weakref.ref(y.array)]
    return (y * y).sum()


W = np.array([[0.5, -0.3], [0.2, 0.1]])

TRANSFORMS = {
    "value_and_grad": lambda f: mg.value_and_grad(f)(W),
    "grad of grad": lambda f: mg.grad(lambda w: (mg.grad(f)(w) ** 2).sum())(W),
    "vjp": lambda f: mg.vjp(f, W)[1](1.0),
    "jvp": lambda f: mg.jvp(f, (W,), (W,)),
    "hvp": lambda f: mg.hvp(f, (W,), (W,)),
    "jacobian": lambda f: mg.jacobian(f)(W),
    "checkpoint": lambda f: mg.grad(mg.checkpoint(f))(W),
    "gradient penalty": lambda f: (mg.grad(f)(mg.tensor(W, requires_grad=True)) ** 2).sum().backward(),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_leaves_nothing_behind(name):
    refs = []
    with without_the_garbage_collector():
        TRANSFORMS[name](lambda w: square_of_product(w, refs))
        assert refs
        assert [ref() for ref in refs] == [None] * len(refs)


def test_a_tape_leaves_nothing_behind():
    refs = []
    w = leaf(W)
    with without_the_garbage_collector():
        with mg.Tape() as records:
            square_of_product(w, refs).backward()
            square_of_product(w, refs)
        str(records)
        del records
        assert [ref() for ref in refs] == [None] * len(refs)


def test_an_error_in_backward_leaves_nothing_behind():
    refs = []
    w = leaf(W)
    with without_the_garbage_collector():
        y = mg.tanh(w)
        refs.append(weakref.ref(y))
        with contextlib.suppress(ValueError):
            y.backward()
        del y
        assert refs[0]() is None


def test_reading_data_takes_no_memory():
    y = leaf(1.0) * 2
    assert y.data == 2  # the first look makes a hold
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1000):
        y.data  # noqa: B018  # the look is the point
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1000


# ---- backward ------------------------------------------------------------------------------------------------------


def test_gradients_add_up_over_calls():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    assert first.tolist() == [3.0, 3.0]  # a gradient that was taken away does not change


def test_backward_twice_names_the_op():
    x = leaf([1.0, 2.0])
    y = mg.tanh(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"`sum`.*freed.*retain=True"):
        y.backward()
    middle = mg.tanh(x)
    (middle * 2).sum().backward()
    with pytest.raises(RuntimeError, match="`tanh`"):
        (middle * 3).sum().backward()


def test_backward_twice_changes_nothing():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    middle = mg.tanh(x)
    (middle * 2).sum().backward()
    before = x.grad.copy()
    late = (middle * w).sum() + (w * w).sum()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="`tanh`"):
            late.backward()
        assert w.grad is None
        assert np.array_equal(x.grad, before)
    fresh = (w * w).sum()
    fresh.backward()
    assert w.grad.tolist() == [6.0, 8.0]


def test_retain_gives_exactly_twice_the_gradient():
    rng = np.random.default_rng(0)
    x, w = leaf(rng.standard_normal(3)), leaf(rng.standard_normal((3, 4)))
    y = (mg.tanh(x @ w) ** 2).sum()
    y.backward(retain=True)
    once = x.grad.copy(), w.grad.copy()
    y.backward(retain=True)
    assert np.array_equal(x.grad, 2 * once[0])
    assert np.array_equal(w.grad, 2 * once[1])
    y.backward()
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


def test_backward_needs_a_cotangent_for_more_than_one_element():
    x = leaf([1.0, 2.0])
    y = x * 3
    with pytest.raises(ValueError, match=r"shape \(2,\).*cotangent"):
        y.backward()
    with pytest.raises(ValueError, match=r"\(2,\).*got.*\(3,\)"):
        y.backward(np.ones(3))
    with pytest.raises(ValueError, match=r"\(2,\).*got.*\(\)"):
        y.backward(1.0)
    assert x.grad is None
    y.backward([1.0, 10.0])
    assert x.grad.tolist() == [3.0, 30.0]
    z = (x * 3).reshape(1, 2)[:, :1]
    z.backward()  # one element, whatever its shape
    assert x.grad.tolist() == [6.0, 30.0]


def test_a_cotangent_takes_the_dtype_of_its_output():
    x = mg.tensor([1.0, 2.0], dtype="float32", requires_grad=True)
    (x * 3).backward(np.array([1, 2]))
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [3.0, 6.0]
    with pytest.raises((TypeError, ValueError), match="cotangent"):
        (x * 3).backward(np.array([1j, 2]))


def test_the_cotangent_is_not_the_gradient_itself():
    x = leaf([1.0, 2.0])
    g = np.array([5.0, 6.0])
    x.backward(g)
    g[:] = 0
    assert x.grad.tolist() == [5.0, 6.0]


def test_two_leaves_never_share_one_gradient_array():
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (x + y).backward([1.0, 1.0])
    x.grad[:] = 7.0
    assert y.grad.tolist() == [1.0, 1.0]


def test_backward_of_a_leaf_and_of_a_constant():
    x = leaf(2.0)
    x.backward()
    assert x.grad == 1.0
    with pytest.raises(RuntimeError, match="constant"):
        mg.tensor(2.0).backward()
    with pytest.raises(RuntimeError, match="constant"):
        (mg.tensor(2.0) * 2).backward()


def test_an_error_in_a_rule_changes_nothing():
    """The first gradients of the walk are known when a later rule fails: none of them may be kept."""

    def broken(g, out, x):
        raise ArithmeticError("no derivative today")

    double = mg.custom_op(lambda x: x * 2.0, vjp=broken)
    x, w = leaf([1.0]), leaf([2.0])
    y = (double(x) * w).sum()
    for _ in range(2):  # nothing was freed either
        with pytest.raises(ArithmeticError, match="today"):
            y.backward()
        assert x.grad is None
        assert w.grad is None


def test_a_leaf_that_nothing_depends_on_gets_no_gradient():
    x, w = leaf([1.0]), leaf([2.0])
    (x * 2).backward()
    assert w.grad is None


# ---- shared nodes --------------------------------------------------------------------------------------------------


def test_one_tensor_as_several_inputs():
    x = leaf([2.0, 3.0])
    (x * x).backward([1.0, 1.0])
    assert x.grad.tolist() == [4.0, 6.0]
    w = leaf([[1.0, 2.0], [3.0, 4.0]])
    mg.matmul(w, w).sum().backward()
    assert np.array_equal(w.grad, np.ones((2, 2)) @ w.data.T + w.data.T @ np.ones((2, 2)))
    v = leaf([1.0, 2.0])
    mg.concatenate([v, v, v]).backward(np.arange(6.0))
    assert v.grad.tolist() == [0.0 + 2 + 4, 1.0 + 3 + 5]
    u = leaf([1.0, 2.0])
    mg.einsum("i,i,i->", u, u, u).backward()
    assert u.grad.tolist() == [3.0, 12.0]
    (u - u).backward([5.0, 5.0])
    assert u.grad.tolist() == [3.0, 12.0]


def test_a_diamond():
    x = leaf(3.0)
    a = x * x
    b, c = a * 2, a * 5
    (b * c).backward()  # 10 x^4
    assert x.grad == 40 * 27


def test_a_ladder_of_diamonds_is_walked_once_each():
    """2 ** 200 paths lead to x: a walk that follows paths would never end."""
    x = leaf(1.0)
    y = x
    for _ in range(200):
        y = y * 0.5 + y * 0.5
    y.backward()
    assert x.grad == 1.0


def test_many_slices_of_one_tensor():
    """Their gradients are added in place, which must not show anywhere."""
    x = leaf(np.arange(12.0).reshape(4, 3))
    parts = [x[0], x[1:3], x[:, 1], x[-1, 2], x[::-1], x[[0, 0]], x[np.array([True, False, False, True])], x[None, 2]]
    total = sum((part * (i + 1.0)).sum() for i, part in enumerate(parts)) + (x * x).sum() + x.sum()
    total.backward()
    expected = 2 * x.data + 1
    for i, index in enumerate(
        [0, slice(1, 3), (slice(None), 1), (-1, 2), slice(None, None, -1), [0, 0], [True, False, False, True], 2]
    ):
        np.add.at(expected, np.array(index) if isinstance(index, list) else index, i + 1.0)
    assert np.array_equal(x.grad, expected)


def test_slices_first_seen_by_another_rule():
    """The first gradient of x comes from `add` and is shared with y: a slice's must not be added into it."""
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    late = x[0] * 1.0
    both = x + y
    cotangent = np.array([1.0, 1.0])
    (both * 1.0 + late).backward(cotangent)
    assert x.grad.tolist() == [3.0, 1.0]
    assert y.grad.tolist() == [1.0, 1.0]
    assert cotangent.tolist() == [1.0, 1.0]


def test_zero_dimensional_pieces_keep_the_gradient_an_array():
    x = leaf(2.0)
    (x[None] * 2 + x[...] * 3 + x[()] * 4).sum().backward()
    assert type(x.grad) is np.ndarray
    assert x.grad == 9.0


# ---- what a walk has freed -------------------------------------------------------------------------------------------


def test_what_a_gradient_owes_to_a_freed_record_is_not_lost():
    """What grad gives depends on y, whose record an earlier walk has spent: asking further is an error, no silence."""
    x, w = mg.tensor([2.0], requires_grad=True), mg.tensor([3.0], requires_grad=True)
    y = x * 2.0
    y.backward(np.ones(1))
    z = mg.grad(lambda a: mg.sum(a * a * y))(np.array([5.0]))
    assert z.requires_grad
    with pytest.raises(RuntimeError, match="`multiply` was freed by an earlier backward"):
        (z * w).backward(np.ones(1))


def test_a_checkpoint_of_what_was_freed_is_refused():
    x = mg.tensor([2.0], requires_grad=True)
    y = x * 2.0
    y.backward(np.ones(1))
    with pytest.raises(RuntimeError, match="`multiply` was freed by an earlier backward"):
        mg.checkpoint(lambda a: a * y)(np.ones(1))


def test_what_a_tape_remembers_and_a_copy_holds_is_nobody_elses():
    x = mg.tensor([2.0, 3.0], requires_grad=True)
    with mg.Tape() as tape:
        y = x + 1.0
    g = np.array([1.0, 2.0])
    y.backward(g)
    g[...] = 9.0
    assert tape.uses(x)[0].gradient.tolist() == [1.0, 2.0]
    twin = copy.copy(x)
    twin.grad[...] = 0.0
    assert x.grad.tolist() == [1.0, 2.0]


# ---- the tape as a table -------------------------------------------------------------------------------------------


def test_the_table():
    W, b = leaf([[1.0, 2.0], [3.0, 4.0]], "W"), mg.tensor([1.0, 1.0])
    with mg.Tape() as records:
        y = mg.tanh(W @ np.zeros(2) + b) * 2
    assert str(records).splitlines() == [
        "#  op        inputs          out         gradient norm",
        "0  matmul    W, float64(2)   float64(2)",
        "1  add       #0, float64(2)  float64(2)",
        "2  tanh      #1              float64(2)",
        "3  multiply  #2, 2           float64(2)",
    ]
    y.backward([3.0, 4.0])
    rows = str(records).splitlines()
    assert rows[0].split() == ["#", "op", "inputs", "out", "gradient", "norm"]
    assert [row.split()[1] for row in rows[1:]] == ["matmul", "add", "tanh", "multiply"]  # the order of computation
    assert rows[4].split()[-1] == "5"  # |(3, 4)|: the gradient of the loss by what this row made
    assert float(rows[3].split()[-1]) == 10.0
    assert len(records) == 4


def test_uses_add_up_to_the_gradient():
    rng = np.random.default_rng(0)
    W, x = leaf(rng.standard_normal((3, 3)), "W"), rng.standard_normal((5, 3))
    with mg.Tape() as records:
        h = mg.tensor(np.zeros(3))
        for t in range(5):
            h = mg.tanh(x[t] + h @ W) + W[0]
        (h * h).sum().backward()
    uses = records.uses(W)
    assert [use.op for use in uses] == ["matmul", "getitem"] * 5
    assert [use.argnum for use in uses] == [1, 0] * 5
    assert all(use.gradient.shape == W.shape for use in uses)
    np.testing.assert_allclose(sum(use.gradient for use in uses), W.grad, rtol=1e-14, atol=1e-15)


def test_both_places_of_one_op_are_uses():
    W = leaf(3.0)
    with mg.Tape() as records:
        (W * W).backward()
    assert [(use.argnum, float(use.gradient)) for use in records.uses(W)] == [(0, 3.0), (1, 3.0)]
    assert W.grad == 6.0


def test_uses_before_backward_is_an_error():
    W = leaf(3.0)
    with mg.Tape() as records:
        W * W
    with pytest.raises(RuntimeError, match="multiply"):
        records.uses(W)


def test_uses_of_what_the_tape_never_saw_is_an_error():
    """An empty list would say that the weight has no share in the loss."""
    W, other, constant = leaf(3.0, "W"), leaf(2.0), mg.tensor(5.0)
    with mg.Tape() as records:
        mg.grad(lambda w: w * w * constant)(W)
        copies = len(records)
        (other * constant).backward()
    with pytest.raises(ValueError, match=r"^W is on no record.*mg.grad.*copies.*loss.backward\(\).*name the copy"):
        records.uses(W)
    for unknown in (constant, np.ones(2), W * 2.0, W * other, leaf(3.0)):
        with pytest.raises(ValueError, match="^this tensor is on no record of this tape"):
            records.uses(unknown)
    assert copies > 0
    assert [float(use.gradient) for use in records.uses(other)] == [5.0]
    with pytest.raises(ValueError, match="no record"):
        mg.Tape().uses(W)


def test_the_copy_that_grad_works_on_has_uses():
    W, named = leaf(3.0, "W"), []

    def cube(w):
        named.append(w)
        return w * w * w

    with mg.Tape() as records:
        g = mg.grad(cube)(W.data)
    assert [(use.op, float(use.gradient)) for use in records.uses(named[0])] == [("multiply", 9.0)] * 3
    assert g == 27.0


def test_what_the_tape_made_and_nobody_used_has_no_uses():
    """It is known, so the list is empty: also one output of several, and after backward has freed it."""
    W = leaf(3.0)
    pair = mg.checkpoint(lambda w: (w * 2.0, w * 5.0))
    with mg.Tape() as records:
        plain = W * 4.0
        used, idle = pair(W)
        (plain + used).backward()
        root, _ = pair(W)
        root.backward()
    assert records.uses(idle) == records.uses(root) == []
    assert [use.op for use in records.uses(plain)] == [use.op for use in records.uses(used)] == ["add"]


def test_a_use_that_the_loss_does_not_depend_on_contributes_nothing():
    W = leaf(3.0)
    with mg.Tape() as records:
        W * 100  # a number that is only looked at
        (W * W).backward()
    assert sum(float(use.gradient) for use in records.uses(W)) == W.grad == 6.0


def test_uses_through_a_checkpoint_add_up():
    W = leaf(3.0)
    with mg.Tape() as records:
        y = mg.checkpoint(lambda a: a * W)(W * 2.0)
        y.backward()
    assert sum(float(use.gradient) for use in records.uses(W)) == W.grad == 12.0


def test_a_watched_gradient_equals_an_unwatched_one():
    rng = np.random.default_rng(1)
    x0 = rng.standard_normal((4, 3))

    def loss(x):
        return (mg.tanh(x[1:] * x[:-1]) + x[0]).sum() + mg.where(x > 0, mg.sqrt(mg.abs(x)), 0.0).sum()

    plain, watched = leaf(x0), leaf(x0)
    loss(plain).backward()
    with mg.Tape():
        loss(watched).backward()
    np.testing.assert_allclose(watched.grad, plain.grad, rtol=1e-15)


def test_a_tape_keeps_only_its_block():
    x = leaf(1.0)
    with mg.Tape() as records:
        y = x * 2
    z = y * 3
    assert len(records) == 1
    z.backward()  # walks over watched and unwatched records
    assert x.grad == 6.0
    assert float(records.uses(x)[0].gradient) == 6.0
    with records:
        x * 5  # a tape may be entered again
    assert len(records) == 2


def test_no_grad_wins_over_a_tape_inside_it():
    x = leaf(1.0)
    with mg.no_grad(), mg.Tape() as records:
        y = x * 2
    assert not y.requires_grad
    assert len(records) == 0


# ---- no_grad -------------------------------------------------------------------------------------------------------


def test_no_grad_ends_with_its_block():
    x = leaf(1.0)
    with pytest.raises(KeyError), mg.no_grad():
        assert not (x * 2).requires_grad
        with mg.no_grad():
            pass
        assert not (x * 2).requires_grad
        raise KeyError
    assert (x * 2).requires_grad


def test_no_grad_as_a_decorator():
    x = leaf(1.0)

    @mg.no_grad()
    def f():
        return x * 2

    assert not f().requires_grad
    assert (x * 2).requires_grad


def test_a_transform_works_under_no_grad_and_its_gradient_is_a_constant():
    w = leaf(3.0)
    with mg.no_grad():
        g = mg.grad(lambda x: x * x * w)(mg.tensor(2.0))
        assert (w * 2).requires_grad is False
    assert g.data == 12.0
    assert not g.requires_grad


def test_state_is_restored_after_exceptions_everywhere():
    def broken(x):
        raise KeyError

    for call in (
        lambda: mg.grad(broken)(1.0),
        lambda: mg.vjp(broken, 1.0),
        lambda: mg.jvp(broken, (1.0,), (1.0,)),
        lambda: mg.grad(mg.checkpoint(broken))(1.0),
        lambda: mg.grad(lambda x: mg.grad(broken)(x))(1.0),
        lambda: mg.jacobian(broken)(np.ones(2)),
    ):
        with pytest.raises(KeyError):
            call()
    with pytest.raises(KeyError), mg.Tape():
        raise KeyError
    y = leaf(1.0) * 2
    assert y.item() == 2.0  # no trace is open
    assert type(y.record) is tape.Record


# ---- what the tape needs stays unchanged ---------------------------------------------------------------------------


def test_inputs_are_read_only_until_backward():
    x, raw = leaf([1.0, 2.0]), np.array([3.0, 4.0])
    y = (x * raw).sum()
    for array in (x.data, raw):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9.0
    with pytest.raises(ValueError, match="read-only"):
        raw += 1
    y.backward()
    assert x.grad.tolist() == [3.0, 4.0]
    raw[0] = x.data[0] = 9.0  # and may be written to again
    assert (x * raw).data[0] == 81.0


def test_inputs_are_released_when_the_graph_dies():
    x, raw = leaf([1.0, 2.0]), np.array([3.0, 4.0])
    y = x * raw
    assert not raw.flags.writeable
    del y
    assert raw.flags.writeable
    assert x.data.flags.writeable


def test_two_graphs_share_one_hold():
    x, raw = leaf([1.0, 2.0]), np.array([3.0, 4.0])
    first, second = (x * raw).sum(), (x + raw).sum()
    first.backward(retain=True)
    assert not raw.flags.writeable
    first.backward()
    assert not raw.flags.writeable
    del second
    assert raw.flags.writeable


def test_an_array_that_was_read_only_stays_so():
    raw = np.array([3.0, 4.0])
    raw.flags.writeable = False
    (leaf([1.0, 2.0]) * raw).sum().backward()
    assert not raw.flags.writeable


def test_results_are_read_only_once_seen():
    x = leaf([0.5, 1.0])
    y = mg.tanh(x)
    with pytest.raises(ValueError, match="read-only"):
        y.data[0] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        y.reshape(2, 1).data[0] = 0.0
    y.backward([1.0, 1.0])
    np.testing.assert_array_equal(x.grad, 1 - np.tanh(x.data) ** 2)
    y.data[0] = 7.0
    assert y.data[0] == 7.0


def test_what_an_op_needs_none_of_may_be_shared_with_constants():
    c = mg.asarray(np.array([1.0, 2.0]))
    y = leaf([1.0, 2.0]) * c
    assert not c.data.flags.writeable
    del y
    assert c.data.flags.writeable


def test_index_arrays_and_bounds_may_change():
    """Static arrays are copied, not held."""
    x, index, low = leaf([1.0, 2.0, 3.0]), np.array([0, 1]), np.array([1.5, 0.0, 0.0])
    y, z = x[index], mg.clip(x, low)
    index[:] = 2
    low[:] = 9.0
    (y.sum() + z.sum()).backward()
    assert x.grad.tolist() == [1.0, 2.0, 1.0]


def changed_behind_the_tape(shared):
    """The gradient of sum(tanh(x)) at 0.5, where the result was offered to the user by `shared`, who overwrites it."""
    x = leaf([0.5])
    y = mg.tanh(x)
    array = shared(y)
    with contextlib.suppress(ValueError):  # "read-only" is the other good answer
        array[...] = 0.0
    y.backward([1.0])
    return float(x.grad[0])


def under_no_grad(y):
    with mg.no_grad():
        return y.reshape(1, 1).data


@pytest.mark.parametrize(
    "shared",
    [
        lambda y: y.data,
        lambda y: y.numpy(),
        lambda y: y.reshape(1, 1).data,
        lambda y: np.asarray(y.detach()),
        # the next four share the array of a record that still needs it
        lambda y: y.detach().data,
        lambda y: mg.stop_gradient(y).data,
        lambda y: y.detach().reshape(1, 1).data,
        under_no_grad,
    ],
    ids=["data", "numpy", "view", "asarray", "detach", "stop_gradient", "view of detach", "no_grad"],
)
def test_nobody_writes_into_a_result_that_the_tape_needs(shared):
    assert changed_behind_the_tape(shared) == 1 - np.tanh(0.5) ** 2


def test_nobody_writes_into_the_result_of_a_vjp_that_pull_needs():
    out, pull = mg.vjp(np.tanh, np.array([0.5]))
    with contextlib.suppress(ValueError):
        out[...] = 0.0
    assert pull(np.array([1.0]))[0] == 1 - np.tanh(0.5) ** 2


def test_the_input_of_a_vjp_is_held_while_pull_lives():
    x = np.array([2.0, 3.0])
    _, pull = mg.vjp(lambda a: a * a, x)
    assert not x.flags.writeable
    assert pull(np.ones(2))[0].tolist() == [4.0, 6.0]
    del pull
    assert x.flags.writeable


def test_a_view_and_its_base_are_both_released():
    base = np.ones(4)
    view = base[:2]
    x = leaf([1.0, 2.0])
    first, second = x * view, mg.concatenate([x, x]) * base
    del first
    del second
    assert base.flags.writeable
    assert view.flags.writeable


def test_rebinding_data_between_forward_and_backward_changes_no_gradient():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x * x * w).sum()
    x.data, w.data = np.array([100.0, 100.0]), np.array([-1.0, -1.0])
    y.backward()
    assert x.grad.tolist() == [6.0, 16.0]
    assert w.grad.tolist() == [1.0, 4.0]
    assert x.data.tolist() == [100.0, 100.0]


def test_rebinding_data_changes_no_higher_derivative():
    w = leaf([3.0])
    g = mg.grad(lambda x: (x**3 * w).sum())(mg.tensor([2.0]))  # 3 x^2 w
    w.data = np.array([1000.0])
    g.backward([1.0])
    assert w.grad.tolist() == [12.0]


# ---- threads -------------------------------------------------------------------------------------------------------


def in_threads(*jobs):
    """Run the jobs at the same time, switching as often as possible; raise what any of them raised."""
    errors = []

    def guarded(job):
        try:
            job()
        except BaseException as error:  # noqa: BLE001  # handed to the main thread
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def test_two_threads_differentiate_at_once():
    w = leaf([1.0, 2.0, 3.0])
    wide = np.arange(3.0)

    def job(k):
        for _ in range(100):
            g = mg.grad(lambda x: (mg.tanh(x * w) * k).sum())(wide)
            expected = k * w.data * (1 - np.tanh(wide * w.data) ** 2)
            np.testing.assert_allclose(g.data, expected, rtol=1e-14)
            own = leaf([k])
            (own * w * own).sum().backward()
            assert own.grad == 12.0 * k

    in_threads(*[lambda k=k: job(k) for k in (1.0, 2.0, 3.0)])
    assert wide.flags.writeable


def test_threads_that_share_a_leaf_lose_no_gradient():
    w, times = leaf([1.0]), 1500

    def job():
        for _ in range(times):
            (w * 1.0).backward([1.0])

    in_threads(job, job, job)
    assert w.grad.tolist() == [3.0 * times]
    assert w.data.flags.writeable


def test_a_tape_and_a_no_grad_belong_to_their_thread():
    x = leaf(1.0)
    inside, seen = threading.Barrier(2, timeout=10), []

    def with_a_tape():
        with mg.Tape() as records:
            inside.wait()
            x * 2
            inside.wait()
        seen.append(("tape", len(records)))

    def without_gradients():
        with mg.no_grad():
            inside.wait()
            seen.append(("no_grad", (x * 3).requires_grad))
            inside.wait()

    in_threads(with_a_tape, without_gradients)
    assert sorted(seen) == [("no_grad", False), ("tape", 1)]


def test_a_trace_belongs_to_its_thread():
    """`item()` is refused inside a trace, but not in another thread that differentiates nothing."""
    x = leaf(2.0)

    def f(a):
        in_threads(lambda: x.item())
        return a * x.data

    assert mg.grad(f)(1.0) == 2.0


def test_a_hold_that_goes_does_not_release_what_another_has():
    array, other, backend = np.ones(3), np.ones(2), get_backend("numpy")
    first = hold((array, other), backend)
    second = hold((array, array), backend)
    del first
    assert not array.flags.writeable
    assert other.flags.writeable
    del second
    assert array.flags.writeable


def test_a_hold_that_goes_while_another_is_taken(monkeypatch):
    """Garbage may be collected between any two lines: when `get` has found an array that is then let go."""
    array, backend = np.ones(3), get_backend("numpy")
    first = [hold((array,), backend)]

    class Known(dict):
        def get(self, key):
            found = super().get(key)
            first.clear()
            return found

    monkeypatch.setattr(tape_hold, "_known", Known(tape_hold._known))
    second = hold((array,), backend)
    assert not array.flags.writeable
    del second
    assert array.flags.writeable


class Interrupted:
    """NumPy's backend, in which Ctrl-C comes once, right after `method` has done its work."""

    def __init__(self, method):
        self.backend, self.method = get_backend("numpy"), method

    def __getattr__(self, name):
        if name != self.method:
            return getattr(self.backend, name)

        def interrupted(array):
            self.method = None
            getattr(self.backend, name)(array)
            raise KeyboardInterrupt

        return interrupted


def test_an_interrupt_leaves_nothing_read_only():
    base, other = np.ones(3), np.ones(2)
    view = base[:]
    with pytest.raises(KeyboardInterrupt):
        hold((other, view, base), Interrupted("freeze"))
    gc.collect()  # the error kept the hold
    assert base.flags.writeable
    assert view.flags.writeable
    assert other.flags.writeable


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a finaliser cannot raise it
def test_an_interrupt_in_a_finaliser_leaves_nothing_read_only():
    base, other = np.ones(3), np.ones(2)
    view = base[:]
    held = hold((other, view, base), Interrupted("thaw"))
    assert not base.flags.writeable
    del held
    assert base.flags.writeable
    assert view.flags.writeable
    assert other.flags.writeable
