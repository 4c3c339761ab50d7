"""The backend socket: discovery, the process's default and a block's, errors, and NumPy's plug-in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import minigrad.backend as socket
import minigrad_cupy
import minigrad_numpy


class FakeBackend(minigrad_numpy.NumpyBackend):
    """A plug-in of a third party, with an array class of its own."""

    def __init__(self, name="fake", array_type=None, reason=None):
        self.name = name
        self.array_type = array_type or type("FakeArray", (), {"__module__": f"{name}.arrays"})
        self.reason = reason

    def unusable(self):
        return self.reason


@pytest.fixture(autouse=True)
def _untouched_socket(monkeypatch):
    """Give each test a socket of its own, with the default at NumPy."""
    for table in ("BACKEND_OF_TYPE", "_plugins", "_ready"):
        monkeypatch.setattr(socket, table, dict(getattr(socket, table)))
    monkeypatch.setattr(socket, "_defaults", [])
    assert socket._overrides.get() == ()
    yield
    assert socket._overrides.get() == ()


@pytest.fixture
def install(monkeypatch):
    """Install plug-ins as a package would: as modules that entry points name."""
    points = []

    def install_one(name, backend=None, module=None):
        module = module or f"minigrad_{name}"
        if backend is not None:
            code = types.ModuleType(module)
            code.backend = backend
            monkeypatch.setitem(sys.modules, module, code)
        points.append(EntryPoint(name, f"{module}:backend", socket.ENTRY_POINT_GROUP))

    def entry_points(*, group):
        assert group == "minigrad.backends"
        return points

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    return install_one


# Discovery


def test_numpy_is_known_by_name_without_reading_entry_points(monkeypatch):
    def refuse(**kwargs):
        raise AssertionError("entry points were read")

    monkeypatch.setattr("importlib.metadata.entry_points", refuse)
    socket._plugins.clear(), socket._ready.clear(), socket.BACKEND_OF_TYPE.clear()
    assert socket.get_backend("numpy") is minigrad_numpy.backend
    assert socket.default_backend() is minigrad_numpy.backend
    assert socket.backend_of(np.zeros(2)) is minigrad_numpy.backend
    assert socket.xp_of(np.zeros(2)) is np
    known = socket.BACKEND_OF_TYPE
    assert known == {np.ndarray: minigrad_numpy.backend}


def test_an_array_is_recognised_before_anybody_named_its_backend():
    socket._plugins.clear(), socket._ready.clear(), socket.BACKEND_OF_TYPE.clear()
    assert socket.backend_of(np.zeros(2)) is minigrad_numpy.backend


def test_a_plugin_is_found_by_its_entry_point(install):
    fake = FakeBackend()
    install("fake", fake)
    assert socket.get_backend("fake") is fake
    assert socket.get_backend("fake") is fake
    assert socket.backend_of(fake.array_type()) is fake


def test_a_plugin_called_like_its_library_is_found_by_its_array_alone(install):
    fake = FakeBackend()
    install("fake", fake)
    array = fake.array_type()
    assert socket.backend_of(array) is fake
    assert socket.BACKEND_OF_TYPE[type(array)] is fake


def test_the_first_entry_point_of_a_name_wins(install):
    first = FakeBackend()
    install("fake", first, module="first_fake")
    install("fake", FakeBackend(), module="second_fake")
    assert socket.get_backend("fake") is first


def test_register_adds_and_replaces(install):
    install("fake", FakeBackend())
    old, new = FakeBackend(), FakeBackend()
    socket.register(old)
    assert socket.get_backend("fake") is old
    socket.register(new)
    assert socket.get_backend("fake") is new
    assert socket.backend_of(new.array_type()) is new
    with pytest.raises(TypeError, match="expected an array"):
        socket.backend_of(old.array_type())


def test_register_takes_an_unusable_backend():
    socket.register(FakeBackend(reason="it has no device."))
    with pytest.raises(RuntimeError, match=r"backend 'fake' cannot be used here: it has no device\."):
        socket.get_backend("fake")


def test_an_unknown_name_lists_what_is_installed(install):
    install("fake", FakeBackend())
    with pytest.raises(ValueError, match=r"no backend is called 'nupmy'; installed here: 'numpy', .*'fake'"):
        socket.get_backend("nupmy")
    with pytest.raises(ValueError, match="no backend is called"):
        socket.use_backend("nupmy")
    assert socket.default_backend().name == "numpy"


def test_an_unusable_backend_says_why_and_becomes_usable_later(install):
    fake = FakeBackend(reason="it is not plugged in: plug it in.")
    install("fake", fake)
    for attempt in (socket.get_backend, socket.use_backend):
        with pytest.raises(RuntimeError, match=r"it is not plugged in: plug it in\."):
            attempt("fake")
    fake.reason = None
    assert socket.get_backend("fake") is fake


def test_without_its_numpy_module_minigrad_says_what_to_install(monkeypatch):
    socket._plugins.clear(), socket._ready.clear()
    monkeypatch.setitem(sys.modules, "minigrad_numpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e \.") as caught:
        socket.get_backend("numpy")
    assert caught.value.name == "minigrad_numpy"


def test_backends_lists_everything_and_survives_broken_plugins(install):
    install("fine", FakeBackend("fine"))
    install("idle", FakeBackend("idle", reason="no device."))
    install("absent")
    status = socket.backends()
    assert status["numpy"] == socket.BackendStatus("numpy", usable=True, reason="")
    assert status["fine"] == ("fine", True, "")
    assert status["idle"] == ("idle", False, "no device.")
    assert not status["absent"].usable
    assert status["absent"].reason.startswith("its plug-in is broken: ModuleNotFoundError")


# By the array


@pytest.mark.parametrize("value", [[1.0], 1.0, None, "text", np.float64(1.0), (np.zeros(2),)])
def test_a_value_that_is_no_array_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"expected an array of .*numpy.*, got .*; make one with minigrad\.tensor"):
        socket.backend_of(value)


def test_a_memory_map_is_an_array(tmp_path):
    array = np.memmap(tmp_path / "data", dtype="f4", mode="w+", shape=(3,))
    assert socket.backend_of(array) is minigrad_numpy.backend
    plain = minigrad_numpy.backend.asarray(array)
    assert type(plain) is np.ndarray
    assert np.shares_memory(plain, array)


SUBCLASSES = [
    (np.ma.array([1.0, 2.0], mask=[True, False]), r"MaskedArray: fill it"),
    (
        np.zeros((2, 2)).view(np.matrix),
        r"matrix: convert it with numpy\.asarray\(a\); its \* is a matrix product",
    ),
    (np.zeros(2).view(type("Own", (np.ndarray,), {})), r"Own: convert it with numpy\.asarray"),
]


@pytest.mark.parametrize(("array", "message"), SUBCLASSES, ids=["masked", "matrix", "own"])
def test_other_subclasses_of_ndarray_are_refused(array, message):
    for function in (socket.backend_of, minigrad_numpy.backend.asarray):
        with pytest.raises(TypeError, match=message):
            function(array)


def test_a_subclass_is_refused_by_a_backend_that_says_nothing_about_subclasses():
    class Plain(FakeBackend):
        check_subclass = None

    fake = Plain()
    socket.register(fake)
    child = type("Child", (fake.array_type,), {})
    with pytest.raises(TypeError, match=r"takes arrays of class fake\.arrays\.FakeArray, got its subclass .*Child"):
        socket.backend_of(child())


# use_backend


@pytest.fixture
def two():
    socket.register(FakeBackend("one"))
    socket.register(FakeBackend("two"))


def current():
    return socket.default_backend().name


@pytest.mark.usefixtures("two")
class TestUseBackend:
    def test_as_a_call_it_sets_the_default_of_the_process(self):
        socket.use_backend("one")
        assert current() == "one"
        assert in_thread(current) == "one"
        socket.use_backend("numpy")
        assert in_thread(current) == current() == "numpy"

    def test_a_block_overrides_inside_only_and_in_its_thread_only(self):
        socket.use_backend("one")
        with socket.use_backend("two") as backend:
            assert backend is socket.get_backend("two")
            assert current() == "two"
            assert in_thread(current) == "one"
        assert current() == "one"
        assert in_thread(current) == "one"

    def test_blocks_nest_and_end_well_on_exceptions(self):
        with pytest.raises(ZeroDivisionError), socket.use_backend("one"):
            with socket.use_backend("two"), socket.use_backend("numpy"):
                assert current() == "numpy"
            assert current() == "one"
            _ = 1 / 0
        assert current() == "numpy"

    def test_one_choice_can_be_entered_again(self):
        choice = socket.use_backend("one")
        with choice, socket.use_backend("two"), choice:
            assert current() == "one"
        assert current() == "numpy"
        with choice:
            assert current() == "one"
        assert current() == "numpy"

    def test_a_call_in_a_block_sets_the_default_for_after_it(self):
        with socket.use_backend("one"):
            socket.use_backend("two")
            assert current() == "one"
        assert current() == "two"

    def test_a_block_leaves_the_default_that_another_thread_sets_meanwhile(self):
        with socket.use_backend("one"):
            in_thread(lambda: socket.use_backend("two"))
        assert current() == "two"

    def test_calls_and_blocks_of_two_threads_may_interleave(self):
        mine, theirs = socket.use_backend("one"), socket.use_backend("two")
        with mine:
            assert in_thread(lambda: enter(theirs)) == "two"
        assert current() == "numpy"

    def test_a_block_belongs_to_its_task(self):
        async def work(name):
            with socket.use_backend(name):
                await asyncio.sleep(0)
                return current()

        async def both():
            return await asyncio.gather(work("one"), work("two"))

        assert asyncio.run(both()) == ["one", "two"]

    def test_it_shows_itself(self):
        assert repr(socket.use_backend("one")) == "use_backend('one')"


def enter(choice):
    with choice:
        return current()


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# NumPy's plug-in

numpy_backend = minigrad_numpy.backend


def test_asarray_shares_arrays_and_reads_lists():
    array = np.arange(3.0)
    assert numpy_backend.asarray(array) is array
    assert numpy_backend.asarray(array, "float64") is array
    assert numpy_backend.asarray([1, 2]).dtype == np.int64
    assert numpy_backend.asarray([[1, 2.5]], "float32").dtype == np.float32
    assert type(numpy_backend.asarray(np.float32(2))) is np.ndarray
    assert numpy_backend.to_host(array) is array


@pytest.mark.parametrize("data", ["text", [object()], np.array(["2020-01-01"], "datetime64[D]"), None])
def test_asarray_refuses_what_holds_no_numbers(data):
    with pytest.raises(TypeError, match=r"a tensor holds numbers or booleans, got .* dtype"):
        numpy_backend.asarray(data)


INDICES = [
    2,
    -1,
    slice(None, None, 2),
    np.array([2, 0, 2, 2]),
    [1, 1],
    (np.array([0, 0, 3]), np.array([1, 1, 2])),
    (slice(1, 3), np.array([[0, 0], [2, 0]])),
    (Ellipsis, np.array([1, 1])),
    (None, np.array([0, 0])),
    np.array([True, False, True, False]),
    (np.array([True, False, True, True]), np.array([2, 2, 2])),
    np.array([-1, 3]),  # the same place by two names
    np.zeros((0,), int),
    (),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_scatter_add_accumulates_where_an_index_repeats(index):
    shape = (4, 3)
    places = np.arange(12).reshape(shape)[index]
    values = np.random.default_rng(0).integers(-9, 9, places.shape)
    expected = np.zeros(12)
    for place, value in zip(places.ravel(), values.ravel(), strict=True):
        expected[place] += value
    for dtype in ("float32", "float64", "int64"):
        result = numpy_backend.scatter_add(shape, dtype, index, values.astype(dtype))
        assert result.dtype == dtype
        assert (result == expected.reshape(shape)).all()


def test_scatter_add_broadcasts_values():
    result = numpy_backend.scatter_add((2, 3), "float64", np.array([1, 1]), 2.0)
    assert result.tolist() == [[0, 0, 0], [4, 4, 4]]


HUGE = np.finfo("float32").max
NOT_NAN = [
    np.array([np.inf, -np.inf, 0.0], "float32"),
    np.full((40, 40), HUGE),  # its squares overflow
    np.full((3, 3), np.finfo("float32").tiny / 8),
    np.full(9, 65504, "float16"),
    np.array([np.inf + 0j, 1j]),
    np.zeros((0, 3)),
    np.array([1, 2]),
    np.array([True]),
    np.array(2.0),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_any_nan_finds_a_nan_anywhere(dtype):
    backend = numpy_backend
    assert not backend.any_nan([])
    assert not backend.any_nan(NOT_NAN)
    for shape in [(), (1,), (17,), (5, 6, 7)]:
        array = np.ones(shape, dtype)
        for place in {0, array.size // 2, array.size - 1}:
            array.flat[:] = np.inf
            array.flat[place] = np.nan
            assert backend.any_nan([*NOT_NAN, array])
            assert backend.any_nan([array.T])
            assert not backend.any_nan([array.reshape(-1)[place + 1 :]])


def test_any_nan_looks_at_what_a_view_shows():
    array = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert not numpy_backend.any_nan([array[:, 0]])
    assert numpy_backend.any_nan([array[:, ::-1]])
    assert not numpy_backend.any_nan([np.broadcast_to(array[:, :1], (2, 9))])


def test_any_nan_never_warns_nor_raises_under_strict_floating_point():
    with np.errstate(all="raise"):
        assert not numpy_backend.any_nan(NOT_NAN)


def test_freeze_and_thaw():
    array = np.zeros(3)
    numpy_backend.freeze(array)
    assert not numpy_backend.is_writeable(array)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    numpy_backend.thaw(array)
    assert numpy_backend.is_writeable(array)
    array[0] = 1
    numpy_backend.synchronize()


# CuPy's plug-in, where there is no GPU


def test_without_cupy_the_plugin_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    reason = minigrad_cupy.CupyBackend().unusable()
    assert reason.startswith('cupy is not installed: pip install "minigrad[cupy]"')


def test_a_broken_cupy_is_told_from_an_absent_one(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so.12:\\n   no such file')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    reason = minigrad_cupy.CupyBackend().unusable()
    assert reason == ("cupy is installed but cannot be imported, so reinstall it: libcudart.so.12: no such file")


def test_without_a_gpu_the_plugin_says_so(monkeypatch):
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert minigrad_cupy.CupyBackend().unusable().startswith("cupy is installed but finds no usable GPU")
    cupy.cuda.is_available = lambda: True
    assert minigrad_cupy.CupyBackend().unusable() is None


def test_the_cupy_plugin_is_installed_and_gives_its_reason():
    installed = socket.backends()
    assert "cupy" in installed, "entry points come with an installation: pip install -e ."
    status = installed["cupy"]
    assert status.usable == (status.reason == "")
    if not status.usable:
        with pytest.raises(RuntimeError, match="backend 'cupy' cannot be used here: cupy is"):
            socket.use_backend("cupy")


# What an import brings


def run_python(code):
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-P", "-c", code], env=here, check=True)


def test_import_minigrad_brings_neither_cupy_nor_hypothesis():
    run_python(
        "import sys, minigrad.backend, minigrad\n"
        "minigrad.backend.get_backend('numpy')\n"
        "heavy = {'cupy', 'hypothesis', 'pytest', 'importlib.metadata', 'safetensors', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )


def test_plugins_import_no_minigrad():
    run_python(
        "import sys, minigrad_numpy, minigrad_cupy\n"
        "assert not {'minigrad', 'cupy'} & set(sys.modules), sorted(sys.modules)"
    )
