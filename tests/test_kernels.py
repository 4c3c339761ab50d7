"""Generated elementwise kernels: what they say, and that they do what NumPy does step by step.

Their source is compiled for this machine's processor where there is a compiler, and runs on a GPU where
`--minigrad-backend cupy` is asked for. `tox -e nvrtc` compiles it with NVIDIA's compiler, for which no GPU is needed.
"""

from __future__ import annotations

import types

import numpy as np
import pytest
from hypothesis import example, given

import kernel_host
import kernel_runs
from kernel_runs import views_of
from minigrad.backend import ElementwiseRun, get_backend
from minigrad.testing.fake_cupy import count_launches, interpret
from minigrad_cupy import kernels

TANH_OF_PRODUCT = ElementwiseRun((("multiply", (0, 1), 2), ("tanh", (2,), 3)), 4)
needs_compiler = pytest.mark.skipif(kernel_host.COMPILER is None, reason="there is no C++ compiler on this machine")


def plan_for(run, *arrays, **options):
    return kernels.plan(run, views_of(arrays), **options)


def f32(*shape):
    return np.ones(shape, "float32")


# What the source says


def test_a_kernel_of_contiguous_arrays_computes_no_indices():
    found = plan_for(TANH_OF_PRODUCT, f32(4, 3), f32(4, 3), f32(4, 3), f32(4, 3))
    assert found.source == (
        "using Integer = int;\n"
        "\n"
        'extern "C" __global__ void elementwise(const Integer count, const float* __restrict__ a0, '
        "const float* __restrict__ a1, float* __restrict__ a2, float* __restrict__ a3) {\n"
        "    const Integer first = static_cast<Integer>(blockIdx.x) * blockDim.x + threadIdx.x;\n"
        "    const Integer step = static_cast<Integer>(gridDim.x) * blockDim.x;\n"
        "    #pragma unroll 1\n"
        "    for (Integer i = first; i < count; i += step) {\n"
        "        const float x0 = a0[i];\n"
        "        const float x1 = a1[i];\n"
        "        const float v0 = __fmul_rn(x0, x1);  // multiply\n"
        "        a2[i] = v0;\n"
        "        const float v1 = tanhf(v0);  // tanh\n"
        "        a3[i] = v1;\n"
        "    }\n"
        "}\n"
    )
    assert found.scalars == (12,)
    assert [type(s) for s in found.scalars] == [np.int32]
    assert found.passed == (0, 1, 2, 3)


def test_arrays_of_any_length_share_a_kernel():
    sources = {plan_for(TANH_OF_PRODUCT, *[f32(T, 4, 3) for _ in range(4)]).source for T in (2, 5, 100)}
    assert len(sources) == 1
    slabs = {plan_for(TANH_OF_PRODUCT, *[f32(T, 4, 12)[..., 3:6] for _ in range(4)]).source for T in (2, 5, 100)}
    assert len(slabs) == 1
    assert "layout.shape[1]" in slabs.pop(), "rows of T steps are joined; columns of a slab are not"


def test_strides_are_used_only_where_an_array_needs_them():
    bias, gates = f32(3), f32(4, 12)
    source = plan_for(TANH_OF_PRODUCT, gates[:, 3:6], bias, f32(4, 3), f32(4, 3)).source
    assert "struct Layout { Integer shape[2], a0[2], a1[2]; };" in source
    assert "a2[i] = v0;" in source
    assert "float x1 = a1[p1];" in source
    number = np.array(2.0, "float32")
    assert "float x1 = a1[0];" in plan_for(TANH_OF_PRODUCT, gates, number, f32(4, 12), f32(4, 12)).source


def test_a_transposed_layout_of_all_arrays_is_contiguous():
    source = plan_for(TANH_OF_PRODUCT, *[f32(3, 4).T for _ in range(4)]).source
    assert "Layout" not in source


def test_indices_grow_to_64_bits_where_32_are_too_few():
    run = ElementwiseRun((("tanh", (0,), 1),), 2)

    def integer(shape, *strides):
        views = [kernels.View(shape, each, np.dtype("float32"), k) for k, each in enumerate(strides)]
        found = kernels.plan(run, views)
        assert f"using Integer = {'int' if type(found.scalars[0]) is np.int32 else 'long long'};" in found.source
        return {s.dtype["numbers"].base if s.ndim else s.dtype for s in found.scalars}

    assert integer((4, 3), (12, 4), (12, 4)) == {np.dtype("int32")}
    assert integer((2**20, 2**10), (2**12, 4), (2**12, 4)) == {np.dtype("int32")}
    assert integer((2**21, 2**10), (2**12, 4), (2**12, 4)) == {np.dtype("int64")}, "as many elements"
    assert integer((2, 3), (4 * 2**30, 4), (12, 4)) == {np.dtype("int32")}
    assert integer((2, 3), (4 * 2**31, 4), (12, 4)) == {np.dtype("int64")}, "as far away"
    assert integer((2, 3), (-4 * 2**31, 4), (12, 4)) == {np.dtype("int64")}


def test_what_is_overwritten_is_not_stored():
    steps = (("exp", (2,), 1), ("add", (0, 0), 1), ("multiply", (1, 0), 1), ("tanh", (1,), 1))
    found = plan_for(ElementwiseRun(steps, 3), f32(5), f32(5), f32(5))
    source = found.source
    assert "exp" not in source, "what is overwritten before it is read is not computed either"
    assert found.passed == (0, 1)
    assert source.count("a1[i] =") == 1
    assert source.count("= a0[i]") == 1
    assert "= a1[i]" not in source


def test_arrays_that_are_the_same_are_passed_once():
    a, out = f32(4, 3), f32(4, 3)
    run = ElementwiseRun((("tanh", (0,), 1), ("add", (2, 0), 3)), 4)
    found = plan_for(run, a, out, out[:], a)
    assert found.passed == (0, 1)
    assert "a0[i] = v1;" in found.source
    assert "const float v1 = v0 + x0;" in found.source


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_are_those_of_the_dtype(dtype):
    names = ("tanh", "exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "absolute", "power", "multiply", "square")
    for name in names:
        count = getattr(np, name).nin
        run = ElementwiseRun(((name, tuple(range(count)), 2),), 3)
        source = plan_for(run, *[np.ones(3, dtype)] * 2, np.ones(3, dtype)).source
        other = {"float32": "double", "float64": "float"}[dtype]
        assert other not in source
        called = {"absolute": "fabs", "power": "pow"}.get(name, name)
        if name not in ("multiply", "square"):
            assert called + ("f(" if dtype == "float32" else "(") in source
        else:
            assert ("__fmul_rn(" if dtype == "float32" else "__dmul_rn(") in source


# What is refused


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            ElementwiseRun((("matmul", (0, 1), 2),), 3),
            r"no kernel for 'matmul'; there is one for abs, .*where",
        ),
        (ElementwiseRun((("add", (0,), 1),), 2), "add takes 2 operands, got 1"),
        (ElementwiseRun((("where", (0, 1), 2),), 3), "where takes 3 operands, got 2"),
        (ElementwiseRun((("tanh", (0,), 3),), 3), "the arrays are numbered from 0 to 2"),
        (ElementwiseRun((), 3), "one step at least"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_without_a_kernel_is_refused_when_it_is_made(run, message):
    with pytest.raises(ValueError, match=message):
        kernels.ElementwiseKernel(run, None)


def test_arrays_that_do_not_fit_are_refused():
    a = f32(4, 3)
    cases = [
        ((a, a, f32(4, 3), f32(4, 1)), "the destinations of an elementwise run have one shape; got"),
        ((f32(5), a, f32(4, 3), f32(4, 3)), r"array 0 .* has shape \(5,\), which is not \(4, 3\) broadcast"),
        ((f32(2, 4, 3), a, f32(4, 3), f32(4, 3)), r"array 0 .* has shape \(2, 4, 3\), which is not"),
        ((a[:1], f32(4, 3), a, f32(4, 3)), "arrays 0 and 2 .* start at the same place and lie differently"),
    ]
    for arrays, message in cases:
        with pytest.raises(ValueError, match=message):
            plan_for(TANH_OF_PRODUCT, *arrays)
    with pytest.raises(TypeError, match="got an array of complex64; it needs one of bool, "):
        plan_for(TANH_OF_PRODUCT, a.astype("complex64"), a, f32(4, 3), f32(4, 3).astype("complex64"))
    with pytest.raises(ValueError, match="not aligned"):
        packed = np.zeros((4, 3), [("a", "i1"), ("b", "f4")])["b"]
        plan_for(TANH_OF_PRODUCT, packed, a, f32(4, 3), f32(4, 3))


# What kernels do, compiled for this machine


def source_of(case, limit):
    arrays = case.views(case.new_memories())
    return kernels.plan(case.run, views_of(arrays), limit)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Many kernels in one library, for compilers start slowly: pairs of case and plan."""
    cases = [*kernel_runs.single_steps(), *kernel_runs.SPECIAL_CASES, *kernel_runs.drawn(150)]
    limits = [0 if k % 3 == 0 else kernels.INT_LIMIT for k in range(len(cases))]  # a third counts in 64 bits
    plans = [source_of(case, limit) for case, limit in zip(cases, limits, strict=True)]
    library = kernel_host.Library([plan.source for plan in plans], tmp_path_factory.mktemp("kernels"))
    return library, list(zip(cases, plans, strict=True))


def run_on_host(library, number, case, plan):
    memories = case.new_memories()
    arrays = case.views(memories)
    pointers = [arrays[i].__array_interface__["data"][0] for i in plan.passed]
    if plan.elements:
        library.launch(number, kernel_host.BLOCKS, kernel_host.THREADS, [*plan.scalars, *pointers])
    return memories


def expected(case, xp):
    memories = case.new_memories()
    with np.errstate(all="ignore"):
        interpret(case.run, case.views(memories), xp)
    return memories


@needs_compiler
def test_kernels_do_what_the_steps_say_to_the_last_bit(compiled):
    library, pairs = compiled
    for number, (case, plan) in enumerate(pairs):
        found = run_on_host(library, number, case, plan)
        for array, other in zip(found, expected(case, library.xp), strict=True):
            np.testing.assert_array_equal(array, other, strict=True, err_msg=f"{case}\n{plan.source}")


@needs_compiler
def test_each_operation_is_numpys(compiled):
    """NumPy's own exponential functions differ from C's in the last bits: both are within 4 of them of the truth."""
    library, pairs = compiled
    single = [(k, case, plan) for k, (case, plan) in enumerate(pairs) if case.shape == (5, 40)]
    assert len(single) > 150
    for number, case, plan in single:
        name = case.run.steps[0][0]
        found = run_on_host(library, number, case, plan)[-1]
        want = expected(case, np)[-1]
        if name in (*kernel_host.FUNCTIONS, "power"):
            eps = np.finfo(want.dtype).eps
            np.testing.assert_allclose(found, want, rtol=4 * eps, atol=4 * eps * (name in ("sin", "cos")), err_msg=name)
        else:
            np.testing.assert_array_equal(found, want, strict=True, err_msg=name)


@needs_compiler
def test_an_integer_to_a_negative_power_is_rounded_towards_zero(tmp_path):
    """NumPy raises an error; a kernel cannot, and gives what CuPy gives."""
    base = np.array([-2, -1, -1, 0, 1, 2, 3, -3, 2, 10], "int32")
    exponent = np.array([-1, -1, -2, -1, -5, -3, 4, 3, 31, 0], "int32")
    out = np.empty_like(base)
    run = ElementwiseRun((("power", (0, 1), 2),), 3)
    plan = plan_for(run, base, exponent, out)
    library = kernel_host.Library([plan.source], tmp_path)
    library.launch(0, 1, 4, [*plan.scalars, *(a.ctypes.data for a in (base, exponent, out))])
    assert out.tolist() == [0, -1, 1, 0, 1, 0, 81, -27, -(2**31), 1]


# What the callable does: `RawModule` stands for CuPy's, and compiles for this machine


class DeviceArray:
    """What a kernel's launch reads of CuPy's arrays."""

    def __init__(self, array):
        self.array = array
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.data = types.SimpleNamespace(ptr=array.__array_interface__["data"][0] if array.size else 0)


@pytest.fixture
def fake_cupy(tmp_path):
    """A module `cupy` whose kernels run here; `compiled` lists their sources."""
    cupy = types.ModuleType("cupy")
    cupy.compiled, cupy.launched = [], []

    class RawModule:
        def __init__(self, code, options):
            assert options == ("-std=c++17",)
            cupy.compiled.append(code)
            folder = tmp_path / str(len(cupy.compiled))
            folder.mkdir()
            self.library = kernel_host.Library([code], folder)

        def get_function(self, name):
            assert name == "elementwise"
            return self.launch

        def launch(self, grid, block, args):
            cupy.launched.append((grid, block))
            arguments = [a.data.ptr if isinstance(a, DeviceArray) else a for a in args]
            self.library.launch(0, *grid, *block, arguments)

    cupy.RawModule = RawModule
    yield cupy
    kernels.compiled.cache_clear()


@needs_compiler
def test_a_layout_is_planned_once_and_a_source_compiled_once(fake_cupy):
    kernel = kernels.ElementwiseKernel(TANH_OF_PRODUCT, fake_cupy)
    for rows in (2, 2, 100, 2):
        a, b = np.full((rows, 3), 0.5, "float32"), np.array(2.0, "float32")
        c, d = np.empty_like(a), np.empty_like(a)
        kernel(*map(DeviceArray, (a, b, c, d)))
        assert (c == 1).all()
        assert (d == np.float32(np.tanh(1.0))).all() or np.allclose(d, np.tanh(1.0), rtol=1e-6)
    assert len(fake_cupy.compiled) == 1
    assert fake_cupy.launched == [((1,), (128,)), ((1,), (128,)), ((3,), (128,)), ((1,), (128,))]
    twin = kernels.ElementwiseKernel(TANH_OF_PRODUCT, fake_cupy)
    twin(*map(DeviceArray, (a, b, c, d)))
    assert len(fake_cupy.compiled) == 1, "another run with the same source"


@needs_compiler
def test_a_call_in_which_arrays_are_the_same_gets_a_kernel_of_its_own(fake_cupy):
    run = ElementwiseRun((("add", (0, 0), 1), ("multiply", (2, 0), 1)), 3)
    kernel = kernels.ElementwiseKernel(run, fake_cupy)
    a, b, c = np.full(3, 2.0), np.zeros(3), np.full(3, 10.0)
    kernel(*map(DeviceArray, (a, b, c)))
    assert b.tolist() == [20, 20, 20]
    kernel(*map(DeviceArray, (a, b, b)))
    assert b.tolist() == [8, 8, 8]
    kernel(*map(DeviceArray, (a, a, a)))
    assert a.tolist() == [16, 16, 16]
    assert len(fake_cupy.compiled) == 3


@needs_compiler
def test_layouts_and_dtypes_are_told_apart(fake_cupy):
    kernel = kernels.ElementwiseKernel(ElementwiseRun((("negative", (0,), 1),), 2), fake_cupy)
    whole = np.arange(9.0).reshape(3, 3)
    for a in (whole, whole.T, whole[::-1], whole.astype("float32"), whole.astype("int64"), whole.astype("float16")):
        out = np.zeros((3, 3))
        kernel(*map(DeviceArray, (a, out)))
        np.testing.assert_array_equal(out, -a)


def test_nothing_is_launched_for_no_elements():
    kernel = kernels.ElementwiseKernel(TANH_OF_PRODUCT, None)
    kernel(*[DeviceArray(f32(0, 3)) for _ in range(4)])
    with pytest.raises(TypeError, match="takes 4 arrays, got 2"):
        kernel(*[DeviceArray(f32(0, 3)) for _ in range(2)])


def test_layouts_are_not_kept_without_end(monkeypatch):
    cupy = types.ModuleType("cupy")
    cupy.RawModule = lambda code, options: types.SimpleNamespace(get_function=lambda name: lambda *args: None)
    kernel = kernels.ElementwiseKernel(TANH_OF_PRODUCT, cupy)
    monkeypatch.setattr(kernels, "LAYOUTS_KEPT", 3)
    for rows in range(10):
        kernel(*[DeviceArray(f32(rows + 1, 3)) for _ in range(4)])
        assert len(kernel._launches) <= 3
    kernels.compiled.cache_clear()


# Backends


def test_numpys_backend_runs_ufuncs():
    assert not hasattr(get_backend("numpy"), "elementwise")


def with_special_cases(test):
    for case in kernel_runs.SPECIAL_CASES:
        test = example(case=case)(test)
    return test


@with_special_cases
@given(case=kernel_runs.cases())
def test_a_backend_does_what_the_steps_say_to_the_last_bit(minigrad_backend, case):
    backend = get_backend(minigrad_backend)
    made = getattr(backend, "elementwise", None)
    f = made(case.run) if made else lambda *arrays: interpret(case.run, arrays, backend.xp)
    results = []
    for do in (f, lambda *arrays: interpret(case.run, arrays, backend.xp)):
        memories = [backend.asarray(memory.copy()) for memory in case.new_memories()]
        with np.errstate(all="ignore"):
            assert do(*case.views(memories, backend.xp)) is None
        results.append([backend.to_host(memory) for memory in memories])
    for array, other in zip(*results, strict=True):
        np.testing.assert_array_equal(array, other, strict=True)


def test_on_the_strict_backend_a_run_is_one_launch_and_its_arrays_are_looked_at():
    backend = get_backend("strict")
    f = backend.elementwise(TANH_OF_PRODUCT)
    a, c, d = (backend.asarray(f32(4, 3)) for _ in range(3))
    with count_launches() as log:
        f(a, a, c, d)
    assert log == ["elementwise"]
    np.testing.assert_array_equal(backend.to_host(d), np.tanh(f32(4, 3)), strict=True)
    with pytest.raises(TypeError, match="Unsupported type"):
        f(f32(4, 3), a, c, d)
    with pytest.raises(ValueError, match="one shape"):
        f(a, a, c, d[:1])
    with pytest.raises(ValueError, match="array 0 overlaps destination 2"):
        f(c[:1], a, c, d)
    with pytest.raises(ValueError, match="array 0 overlaps destination 2"):
        f(c[::-1], a, c, d)
    with pytest.raises(ValueError, match="remapping|broadcast"):
        f(a[None], a, c, d)
    f(c, a, c, d)  # the same, element for element
