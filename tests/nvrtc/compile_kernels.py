"""Generated kernels through NVRTC, NVIDIA's compiler, to machine code of two GPUs. No GPU is needed: `tox -e nvrtc`.

The name of this file does not begin with `test_`, so that it is collected only where it is asked for.
"""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

import kernel_runs
from minigrad.backend import ElementwiseRun
from minigrad_cupy import kernels

GPUS = ("sm_80", "sm_90")


class Nvrtc:
    """The few functions of the library that compile a text."""

    def __init__(self):
        from cuda.pathfinder import load_nvidia_dynamic_lib

        self.library = ctypes.CDLL(load_nvidia_dynamic_lib("nvrtc").abs_path)

    def call(self, name, *arguments):
        status = getattr(self.library, f"nvrtc{name}")(*arguments)
        assert status == 0, f"nvrtc{name} returned {status}"

    def text(self, program, kind):
        """What a compilation left: its log, its PTX or its machine code."""
        size = ctypes.c_size_t()
        self.call(f"Get{kind}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"Get{kind}", program, buffer)
        return buffer.raw

    def compile(self, source, gpu, kind="CUBIN"):
        options = [*kernels.OPTIONS, "-ftz=true", f"-arch={gpu}"]  # CuPy adds the second one
        program = ctypes.c_void_p()
        self.call("CreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            listed = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            status = self.library.nvrtcCompileProgram(program, len(options), listed)
            log = self.text(program, "ProgramLog").rstrip(b"\0").decode()
            assert status == 0, f"{log}\n{source}"
            assert not log, f"warnings: {log}\n{source}"
            return self.text(program, kind)
        finally:
            self.call("DestroyProgram", ctypes.byref(program))


@pytest.fixture(scope="module")
def nvrtc():
    return Nvrtc()


def sources(cases):
    for k, case in enumerate(cases):
        views = kernel_runs.views_of(case.views(case.new_memories()))
        yield kernels.plan(case.run, views, 0 if k % 3 == 0 else kernels.INT_LIMIT).source


@pytest.mark.parametrize("gpu", GPUS)
def test_every_operation_compiles_on_every_dtype(nvrtc, gpu):
    found = list(sources(kernel_runs.single_steps()))
    code = nvrtc.compile(kernel_runs.joined(found), gpu)
    assert all(f"elementwise_{k}\0".encode() in code for k in range(len(found)))


@pytest.mark.parametrize("gpu", GPUS)
def test_drawn_runs_compile(nvrtc, gpu):
    assert nvrtc.compile(kernel_runs.joined(list(sources([*kernel_runs.SPECIAL_CASES, *kernel_runs.drawn(100)]))), gpu)


def test_an_integer_power_compiles(nvrtc):
    for dtype in kernel_runs.INTEGERS:
        arrays = [np.ones(3, dtype) for _ in range(3)]
        plan = kernels.plan(ElementwiseRun((("power", (0, 1), 2),), 3), kernel_runs.views_of(arrays))
        assert nvrtc.compile(plan.source, "sm_90")


def test_one_kernel_alone_compiles_as_cupy_is_given_it(nvrtc):
    run = ElementwiseRun((("multiply", (0, 1), 2), ("add", (2, 3), 2), ("tanh", (2,), 2)), 4)
    arrays = [np.ones((4, 3), "float16") for _ in range(4)]
    assert b"elementwise\0" in nvrtc.compile(kernels.plan(run, kernel_runs.views_of(arrays)).source, "sm_90")


@pytest.mark.parametrize(("dtype", "suffix"), [("float32", "ftz.f32"), ("float64", "f64")])
def test_products_are_rounded_before_they_are_added(nvrtc, dtype, suffix):
    """A multiplication and an addition fused into one instruction would round once where NumPy rounds twice."""
    steps = (("multiply", (0, 1), 2), ("add", (2, 3), 2), ("square", (2,), 4), ("subtract", (4, 0), 4))
    run = ElementwiseRun(steps, 5)
    arrays = [np.ones((4, 3), dtype) for _ in range(5)]
    ptx = nvrtc.compile(kernels.plan(run, kernel_runs.views_of(arrays)).source, "compute_90", "PTX").decode()
    assert len(re.findall(rf"\bmul\.rn\.{suffix}\b", ptx)) == 2
    assert "fma" not in ptx


def test_functions_are_the_accurate_ones(nvrtc):
    for name in ("tanh", "sin", "cos", "sqrt", "divide"):
        count = getattr(np, name).nin
        arrays = [np.ones(4, "float32") for _ in range(count + 1)]
        run = ElementwiseRun(((name, tuple(range(count)), count),), count + 1)
        ptx = nvrtc.compile(kernels.plan(run, kernel_runs.views_of(arrays)).source, "compute_90", "PTX").decode()
        assert not re.search(r"\b(tanh|sin|cos|sqrt|div)\.(approx|full)", ptx), name
