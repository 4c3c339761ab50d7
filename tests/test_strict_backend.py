"""The strict backend refuses what CuPy refuses, and computes what NumPy computes."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad.backend as socket
import minigrad_cupy
from minigrad.testing import fake_cupy
from minigrad.testing.fake_cupy import (
    StrictArray,
    count_launches,
    count_syncs,
    expect_syncs,
    memory_order,
    names,
    namespace,
    refresh_names,
    xp,
)

backend = fake_cupy.backend
HOST = np.arange(24.0).reshape(2, 3, 4)


def device(data=HOST):
    return backend.asarray(data)


def host(array):
    assert type(array) is StrictArray
    return backend.to_host(array)


def same(array, expected):
    result = host(array)
    np.testing.assert_array_equal(result, expected, strict=True)


def test_it_plugs_into_the_socket(monkeypatch):
    for table in ("BACKEND_OF_TYPE", "_plugins", "_ready"):
        monkeypatch.setattr(socket, table, dict(getattr(socket, table)))
    socket.register(backend)
    assert socket.get_backend("strict") is backend
    assert socket.backend_of(device()) is backend
    assert socket.xp_of(device()) is xp
    assert socket.backends()["strict"] == ("strict", True, "")


# Refused


REFUSED = {
    "np.asarray": np.asarray,
    "np.array of a list": lambda a: np.array([a]),
    "np.ufunc": np.tanh,
    "np.function": np.sum,
    "np.concatenate": lambda a: np.concatenate([a, a]),
    "ndarray + a": lambda a: HOST + a,
    "a + ndarray": lambda a: a + HOST,
    "ndarray @ a": lambda a: HOST @ a,
    "ndarray += a": lambda a: HOST.copy().__iadd__(a),
    "a += ndarray": lambda a: a.__iadd__(HOST),
    "a == ndarray": lambda a: a == HOST,
    "a + list": lambda a: a + [1.0] * 4,
    "a + None": lambda a: a + None,
    "a == None": lambda a: a == None,  # noqa: E711
    "a @ scalar": lambda a: a @ 2.0,
    "out=ndarray": lambda a: np.add(HOST, 1.0, out=a),
    "xp.add(ndarray)": lambda a: xp.add(a, HOST),
    "xp.add(list)": lambda a: xp.add(a, [1.0, 2.0, 3.0, 4.0]),
    "xp.add(where=)": lambda a: xp.add(a, a, where=True),
    "xp.add(out=ndarray)": lambda a: xp.add(a, a, out=HOST),
    "xp.sum(ndarray)": lambda a: xp.sum(HOST),
    "xp.sum(number)": lambda a: xp.sum(1.0),
    "xp.sum(where=)": lambda a: xp.sum(a, where=a > 0),
    "a.sum(initial=)": lambda a: a.sum(initial=0.0),
    "xp.max(initial=)": lambda a: xp.max(a, initial=0.0),
    "xp.clip(max=)": lambda a: xp.clip(a, max=1.0),
    "xp.where(bool)": lambda a: xp.where(True, a, a),
    "xp.concatenate(number)": lambda a: xp.concatenate([a, 1.0]),
    "xp.stack(ndarray)": lambda a: xp.stack([a, HOST]),
    "xp.take(list)": lambda a: xp.take(a, [0, 1], 0),
    "xp.take(ndarray)": lambda a: xp.take(a, np.array([0]), 0),
    "xp.dot(a, ndarray)": lambda a: xp.dot(a, HOST),
    "xp.zeros(device)": lambda a: xp.zeros(device([2, 3])),
    "xp.arange(device)": lambda a: xp.arange(a[0, 0, 2]),
    "a[list]": lambda a: a[[0, 1]],
    "a[ndarray]": lambda a: a[np.array([0])],
    "a[ndarray of no dimensions]": lambda a: a[np.array(0)],
    "a[True]": lambda a: a[True],
    "a[:device]": lambda a: a[: device(1)],
    "a[...] = ndarray": lambda a: a.__setitem__(..., HOST),
    "a[...] = list": lambda a: a.__setitem__(0, [1.0, 2.0, 3.0, 4.0]),
    "hash": hash,
    "range(device)": lambda a: range(device(3)),
    "range[device]": lambda a: range(3)[device(1)],
    "asarray(masked)": lambda a: backend.asarray(np.ma.array([1.0])),
    "asarray(object)": lambda a: backend.asarray(object()),
    "to_host(ndarray)": lambda a: backend.to_host(HOST),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_refused_with_a_type_error(attempt):
    with expect_syncs(0), pytest.raises(TypeError):
        attempt(device())


ABSENT = {
    "setflags": lambda a: a.setflags(write=False),
    "flags.writeable": lambda a: a.flags.writeable,
    "setting a flag": lambda a: setattr(a.flags, "writeable", False),
    "data": lambda a: a.data,
    "ctypes": lambda a: a.ctypes,
    "resize": lambda a: a.resize(3),
    "__array_interface__": lambda a: a.__array_interface__,
    "__index__": lambda a: a.__index__(),
    "__imatmul__": lambda a: a.__imatmul__,
    "errstate": lambda a: xp.errstate,
    "insert": lambda a: xp.insert,
    "geomspace": lambda a: xp.geomspace,
    "linalg.multi_dot": lambda a: xp.linalg.multi_dot,
    "random": lambda a: xp.random,
    "ElementwiseKernel": lambda a: xp.ElementwiseKernel,
    "_core": lambda a: xp._core,
    "shape=": lambda a: setattr(a, "shape", (24,)),
    "new attribute": lambda a: setattr(a, "name", "a"),
}


@pytest.mark.parametrize("attempt", ABSENT.values(), ids=ABSENT)
def test_absent_as_in_cupy(attempt):
    with pytest.raises(AttributeError):
        attempt(device())


def test_indices_out_of_range_raise():
    for index in (5, device([0, 5]), device([-3])):
        with pytest.raises(IndexError):
            device()[index]
    with pytest.raises(IndexError):
        xp.take(device(), device([2]), 0)
    with pytest.raises(IndexError, match="integer or boolean"):
        device()[device([0.0])]


def test_storing_two_values_in_one_place_raises():
    a = device(np.zeros(4))
    for index in (device([1, 1]), device([3, -1])):
        with pytest.raises(IndexError, match="repeats"):
            a[index] = device([1.0, 2.0])
        a[index] = 0.0  # one value: it does not matter who comes last
    a[device([2, 0])] = device([5.0, 6.0])
    same(a, np.array([6.0, 0, 5, 0]))


def test_what_cupy_does_not_implement_is_not_implemented():
    a = device()
    for attempt in (
        lambda: xp.maximum.reduce(a),
        lambda: xp.maximum.accumulate(a),
        lambda: xp.multiply.at(a, device([0]), 1.0),
    ):
        with pytest.raises(NotImplementedError):
            attempt()


def test_matmul_needs_a_contiguous_output():
    a = device(np.eye(3))
    same(xp.matmul(a, a, out=xp.zeros((3, 3))), np.eye(3))
    with pytest.raises(ValueError, match="C-contiguous"):
        xp.matmul(a, a, out=xp.zeros((3, 3)).T)


# Computed


def test_operators_agree_with_numpy():
    a, b = device(), device(HOST[::-1] + 1)
    x, y = HOST, HOST[::-1] + 1
    same(a + b, x + y)
    same(2 - a, 2 - x)
    same(a * 3, x * 3)
    same(1 / b, 1 / y)
    same(a // b, x // y)
    same(a % b, x % y)
    same(b**2, y**2)
    same(2**a, 2**x)
    same(-a, -x)
    same(abs(-a), x)
    same(a @ b.mT, x @ y.mT)
    same(a < b, x < y)
    same(a == a, x == x)
    same((a > 3) & ~(a > 5), (x > 3) & ~(x > 5))
    quotient, remainder = divmod(a, b)
    same(quotient, x // y)
    same(remainder, x % y)
    a += b
    a *= 2
    same(a, (x + y) * 2)


def test_types_follow_nep_50():
    a = backend.asarray([1.5], "float32")
    assert (a + 1).dtype == (2.0 * a).dtype == np.float32
    assert (a + np.float64(1)).dtype == (np.float64(1) * a).dtype == np.float64
    assert (np.float32(1) * a).dtype == np.float32
    assert (a + device(np.array(1.0))).dtype == np.float64  # an array of no dimensions is no scalar
    assert (backend.asarray([1], "int8") + 1).dtype == np.int8
    assert type(np.float32(2) - a) is StrictArray


def test_reductions_and_full_indexing_return_arrays():
    a = device()
    for result in (
        a.sum(),
        xp.sum(a),
        a.max(),
        a.argmax(),
        xp.any(a),
        xp.vdot(a, a),
        xp.linalg.norm(a),
        a[1, 2, 3],
    ):
        assert type(result) is StrictArray
        assert result.shape == ()
    same(a[1, 2, 3], HOST[1, 2, 3, ...])
    same(xp.allclose(a, a), np.array(True))
    same(xp.count_nonzero(a), np.array(23))
    same(a.sum() + a.sum(), np.array(HOST.sum() * 2))
    same(xp.exp(0.0), np.array(1.0))


INDICES = [
    0,
    (0, -1),
    (slice(None, None, -1), 1),
    (..., None, 2),
    (slice(None), np.array([2, 0, 2])),
    (np.array([0, 1]), np.array([2, 2])),
    (np.array([[0], [1]]), slice(None), np.array([3, 3])),
    HOST > 7,
    (slice(None), np.array([True, False, True])),
    (np.int64(1), np.int64(2)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_agrees_with_numpy(index):
    parts = index if isinstance(index, tuple) else (index,)
    on_device = tuple(device(part) if isinstance(part, np.ndarray) else part for part in parts)
    same(device()[on_device], HOST[index])
    a, expected = device(), HOST.copy()
    a[on_device] = -1.0
    expected[index] = -1.0
    same(a, expected)
    if len(parts) == 1:
        same(device()[on_device[0]], HOST[index])


def test_basic_indexing_gives_views_as_cupy_does():
    a = device()
    a[1, 2, 3][...] = -5.0
    a[0][0][0] = -6.0
    a.T[1, 1, 1] = -7.0
    a.reshape(-1)[5] = -8.0
    expected = HOST.copy()
    expected[1, 2, 3], expected[0, 0, 0], expected[1, 1, 1], expected[0, 1, 1] = -5, -6, -7, -8
    same(a, expected)


def test_functions_agree_with_numpy():
    a, b = device(), device(HOST + 1)
    same(xp.concatenate([a, b], axis=1), np.concatenate([HOST, HOST + 1], axis=1))
    same(xp.stack((a, b)), np.stack([HOST, HOST + 1]))
    same(xp.where(a > 5, a, 0.0), np.where(HOST > 5, HOST, 0.0))
    same(xp.einsum("ijk,ljk->il", a, b), np.einsum("ijk,ljk->il", HOST, HOST + 1))
    same(xp.transpose(a, (2, 0, 1)), HOST.transpose(2, 0, 1))
    same(xp.broadcast_to(a, (5, 2, 3, 4)), np.broadcast_to(HOST, (5, 2, 3, 4)))
    same(xp.take(a, device([1, 1]), axis=0), HOST[[1, 1]])
    same(xp.cumsum(a, axis=1), np.cumsum(HOST, axis=1))
    same(xp.pad(a, ((0, 1), (0, 0), (2, 0))), np.pad(HOST, ((0, 1), (0, 0), (2, 0))))
    same(xp.zeros_like(a), np.zeros_like(HOST))
    same(xp.full((2, 2), device(3.0)), np.full((2, 2), 3.0))
    same(xp.arange(3, dtype="float32"), np.arange(3, dtype="float32"))
    same(xp.add.reduce(a, axis=1), HOST.sum(axis=1))
    same(a.astype("float32").mean(axis=(0, 2)), HOST.astype("float32").mean(axis=(0, 2)))
    for part, expected in zip(xp.split(a, [1], axis=1), np.split(HOST, [1], axis=1), strict=True):
        same(part, expected)
    assert xp.result_type(a, 1.0) == np.float64
    assert xp.shape(a) == a.shape
    assert xp.ndim(a) == 3
    assert (xp.pi, xp.float32, xp.newaxis) == (np.pi, np.float32, None)
    assert xp.ndarray is StrictArray
    assert isinstance(xp.add, xp.ufunc)


def test_out_is_written_and_returned():
    a, out = device(), device(np.zeros_like(HOST))
    assert xp.exp(a, out=out) is out
    same(out, np.exp(HOST))
    assert xp.multiply(a, 2.0, out) is out
    same(out, HOST * 2)
    total = device(np.zeros((3, 4)))
    assert xp.sum(a, axis=0, out=total) is total
    assert a.sum(axis=0, out=total) is total
    same(total, HOST.sum(axis=0))


def test_it_gives_no_floating_point_warnings_as_a_gpu_gives_none():
    a = device([0.0, -1.0, 1e308])
    with np.errstate(all="raise"):
        same(1 / a, np.array([np.inf, -1.0, 1e-308]))
        same(xp.log(a), np.array([-np.inf, np.nan, np.log(1e308)]))
        same(a * 1e308, np.array([0, -1e308, np.inf]))


def test_asarray_copies_from_the_host_and_shares_on_the_device():
    source = np.zeros(3)
    a = backend.asarray(source)
    source[0] = 1.0
    same(a, np.zeros(3))
    assert backend.asarray(a) is xp.asarray(a) is a
    assert backend.asarray(a, "float64") is a
    assert backend.asarray(a, "float32") is not a
    assert xp.array(a) is not a
    same(backend.asarray([a, a]), np.zeros((2, 3)))
    same(backend.asarray([[1, 2], [3, 4.5]]), np.array([[1, 2], [3, 4.5]]))
    assert host(a) is not host(a)


def test_scatter_add_and_any_nan():
    same(
        backend.scatter_add((3,), "float32", device([0, 2, 0]), device([1.0, 2, 3])),
        np.array([4, 0, 2], "f4"),
    )
    same(
        backend.scatter_add((2, 2), "float64", (slice(None), 1), device([1.0, 2])),
        np.array([[0, 1], [0, 2.0]]),
    )
    with expect_syncs(1):
        assert backend.any_nan([device(), device([1]), device([0.0, np.nan])])
    with expect_syncs(1):
        assert not backend.any_nan([device(), device([np.inf])])
    with expect_syncs(0):
        assert not backend.any_nan([device([1])])


def test_there_is_nothing_to_freeze():
    a = device()
    assert not backend.is_writeable(a)
    backend.freeze(a)
    a[...] = 0.0
    backend.thaw(a)
    same(a, np.zeros_like(HOST))


def test_it_can_be_copied_and_pickled():
    a = device()
    other = copy.deepcopy(a)
    other[...] = 0.0
    same(a, HOST)
    same(pickle.loads(pickle.dumps(a)), HOST)


# CuPy's plug-in, with strict arrays in the place of CuPy's


@pytest.fixture
def on_cupy():
    """The CuPy backend on a namespace that behaves as CuPy's, with the current device to choose."""
    fake = type(xp)("cupy", np)
    fake.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(id=fake.current, synchronize=waits))
    fake.current = 0
    log = []

    def waits():
        log.append("synchronize")

    plugin = minigrad_cupy.CupyBackend()
    vars(plugin)["xp"] = fake  # where the cached property keeps it
    plugin.log = log
    return plugin


def test_the_cupy_plugin_moves_arrays_explicitly(on_cupy):
    assert on_cupy.array_type is StrictArray
    a = on_cupy.asarray(HOST)
    same(a, HOST)
    assert on_cupy.asarray(a) is a
    same(on_cupy.asarray([[1, 2], [3, 4.5]], "float32"), np.array([[1, 2], [3, 4.5]], "f4"))
    same(on_cupy.asarray([a, a]), np.stack([HOST, HOST]))
    same(on_cupy.asarray(2), np.array(2))
    with expect_syncs(1):
        np.testing.assert_array_equal(on_cupy.to_host(a), HOST)
    on_cupy.synchronize()
    assert on_cupy.log == ["synchronize"]


def test_the_cupy_plugin_refuses_what_would_cross_over_silently(on_cupy):
    a = on_cupy.asarray(HOST)
    foreign = type("Foreign", (), {"__dlpack__": None, "__module__": "other"})()
    with pytest.raises(TypeError, match=r"got other\.Foreign; convert it first \(cupy\.from_dlpack"):
        on_cupy.asarray(foreign)
    with pytest.raises(TypeError, match="masked array would lose its mask"):
        on_cupy.asarray(np.ma.array([1.0]))
    with pytest.raises(TypeError, match="a tensor holds numbers or booleans, got dtype"):
        on_cupy.asarray(["text"])
    on_cupy.xp.current = 1
    with pytest.raises(ValueError, match="the array is on GPU 0, the current device is GPU 1"):
        on_cupy.asarray(a)


def test_the_cupy_plugin_computes(on_cupy):
    index = device([0, 2, 0])
    same(on_cupy.scatter_add((3,), "float32", index, device([1.0, 2, 3])), np.array([4, 0, 2], "f4"))
    with expect_syncs(1):
        assert on_cupy.any_nan([device(), device([1]), device([0.0, np.nan])])
    with expect_syncs(0):
        assert not on_cupy.any_nan([device([1])])
    a = device()
    assert not on_cupy.is_writeable(a)
    on_cupy.freeze(a)
    on_cupy.thaw(a)


# Other classes take part in NumPy's protocols, as in CuPy


class Dispatching:
    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return ufunc, inputs

    def __array_function__(self, func, types, args, kwargs):
        return func


class Prior:
    __array_priority__ = 1000

    def __radd__(self, other):
        return "radd"


class NoUfunc:
    __array_ufunc__ = None

    def __rmatmul__(self, other):
        return "rmatmul"


def test_another_class_with_array_ufunc_is_asked():
    a, other = device(), Dispatching()
    assert (a + other) == (np.add, (a, other)) or (a + other)[0] is np.add
    assert (a @ other)[0] is np.matmul
    assert np.add(a, other)[0] is np.add
    assert np.concatenate([a, other]) is np.concatenate
    assert a + Prior() == "radd"
    assert a @ NoUfunc() == "rmatmul"


# Synchronisations


SYNCHRONISING = {
    "bool": lambda a: bool(a[0, 0, 0]),
    "float": lambda a: float(a[0, 0, 0]),
    "int": lambda a: int(a[0, 0, 0]),
    "complex": lambda a: complex(a[0, 0, 0]),
    "item": lambda a: a[0, 0, 0].item(),
    "tolist": lambda a: a.tolist(),
    "get": lambda a: a.get(),
    "to_host": backend.to_host,
    "asnumpy": xp.asnumpy,
    "repr": repr,
    "format": lambda a: f"{a[0, 0, 0]:.2f}",
    "nonzero": xp.nonzero,
    "where": xp.where,
    "mask": lambda a: a[a > 3],
    "if": lambda a: 1 if a[0, 0, 0] > 0 else 2,
    "synchronize": lambda a: backend.synchronize(),
}


@pytest.mark.parametrize("wait", SYNCHRONISING.values(), ids=SYNCHRONISING)
def test_each_wait_of_the_host_is_counted(wait):
    a = device()
    with expect_syncs(1), count_syncs() as log:
        wait(a)
    assert len(log) == 1


def test_computing_waits_for_nothing():
    a = device()
    with expect_syncs(0):
        b = xp.tanh(a @ a.mT).sum(axis=0, keepdims=True)
        b[0, 0] = 2.0
        _ = len(b), b.shape, list(b), xp.result_type(b), b.flags.c_contiguous
        _ = xp.where(b > 0, b, 0.0), xp.take(b, device([0]), 1), b[:, device([0])], backend.asarray([1.0])


def test_a_wrong_count_is_an_error_that_names_the_waits():
    a = device(1.0)
    message = r"expected 0 synchronisations, got 2: float\(\), get\(\)"
    with pytest.raises(AssertionError, match=message), expect_syncs(0):
        _ = float(a), a.get()


# Counting launches


def test_what_is_launched_is_counted():
    a, b = device(), device()
    with count_launches() as log:
        _ = a + b, 1.0 - a, -a, xp.exp(a), a @ b.mT, np.float32(2) * a
        a += b
        xp.add(a, b, out=a)
    assert log == "add subtract negative exp matmul multiply add add".split()
    with count_launches() as log:
        _ = a.sum(), xp.max(a, axis=0), xp.stack([a, b]), xp.where(a > 0, a, b), a.copy(), xp.zeros(3), a.astype("f4")
        xp.copyto(a, b)
        a[0] = 0.0
        a.fill(1.0)
        _ = a[device([0])], xp.ascontiguousarray(a.T), a.T.reshape(-1)
        backend.scatter_add((3,), "float64", device([0]), a[0, 0, :1])
    expected = "sum max stack greater where copy zeros astype copyto setitem setitem getitem ascontiguousarray reshape"
    assert log == [*expected.split(), "zeros", "add.at"]
    with count_launches() as outer, count_launches() as inner:
        _ = a * b
    assert outer == inner == ["multiply"]
    _ = a * b
    assert len(outer) == 1


def test_views_and_what_the_host_knows_are_no_launches():
    a = device()
    with count_launches() as log:
        _ = a[0], a[..., 1:], a.T, a.reshape(6, 4), a.ravel(), a.transpose(2, 0, 1), xp.broadcast_to(a, (5, 2, 3, 4))
        _ = a.astype("float64", copy=False), xp.asarray(a), xp.expand_dims(a, 0), a[:0], list(a), a.shape, len(a)
        _ = xp.empty((2, 3)), xp.empty_like(a), xp.result_type(a, "float32"), xp.ascontiguousarray(a)
        _ = backend.to_host(a), backend.asarray(HOST), float(a[0, 0, 0])
    assert log == []


# The order of memory


def test_results_lie_in_many_orders_and_the_values_do_not_care():
    orders = set()
    for seed in range(20):
        with memory_order(seed):
            result = xp.stack([device(), device()])
            again = xp.stack([device(), device()])
        assert result.strides == again.strides
        orders.add(result.strides)
        same(result, np.stack([HOST, HOST]))
    assert len(orders) > 5


def test_elementwise_results_and_new_arrays_keep_their_order():
    for seed in range(20):
        with memory_order(seed):
            a = device()
            for result in (a + 1, xp.exp(a), xp.zeros((3, 4)), a.copy(), xp.where(a > 1, a, a)):
                assert result.flags.c_contiguous


# The list of names


def test_the_list_of_names_is_what_cupy_has():
    cupy = pytest.importorskip("cupy", reason="cupy cannot be imported, so its names cannot be compared")
    heading, *listed = names.FILE.read_text().splitlines()
    found = refresh_names.lines(cupy)
    if heading == refresh_names.HEADING + cupy.__version__:
        assert listed == found
    else:  # a newer or older CuPy: what we rely on must be there
        there = {line.partition("(")[0] for line in found}
        assert not {line.partition("(")[0] for line in listed} - there


def test_every_listed_name_that_numpy_has_is_offered():
    for kind in ("ufunc", "function", "class", "constant"):
        for name in names.NAMES[kind]:
            if "." not in name and hasattr(np, name) and name not in namespace.NOT_OFFERED:
                assert getattr(xp, name) is getattr(xp, name)
