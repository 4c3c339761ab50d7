"""Generated kernels on this machine's processor: their source compiled as C++, with a few names of CUDA's defined."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernel_runs import joined

COMPILER = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
# Functions of constants are left to the C library too: compilers know better values of them than it does.
OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-builtin", "-shared", "-fPIC")
BLOCKS, THREADS = 2, 3

SHIM = """\
#include <cmath>

#define __global__
#define __device__ static inline

struct Index { unsigned int x; };
static Index threadIdx, blockIdx, blockDim, gridDim;
static float __fmul_rn(float x, float y) { return x * y; }
static double __dmul_rn(double x, double y) { return x * y; }

// Half precision: a sign, 5 bits of exponent, 10 of 11 bits of significand; rounded to the nearest, ties to even.
static unsigned short half_bits(double x) {
    const int sign = std::signbit(x) ? 0x8000 : 0;
    const double size = std::fabs(x);
    if (size != size) return sign | 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    int exponent;
    std::frexp(size, &exponent);
    if (size == 0 || exponent < -13) exponent = -13;
    const int significand = static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));
    return sign | (significand + ((exponent + 13) << 10));
}
static float half_value(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31) size = fraction == 0 ? INFINITY : NAN;
    return static_cast<float>(bits & 0x8000 ? -size : size);
}

extern "C" void be_thread(unsigned int block, unsigned int blocks, unsigned int thread, unsigned int threads) {
    blockIdx.x = block, gridDim.x = blocks, threadIdx.x = thread, blockDim.x = threads;
}
"""

FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh")


def own_functions() -> str:
    """C's functions of arrays, named like `tanh_float`."""
    text = ""
    for name in FUNCTIONS:
        for kind, suffix in (("float", "f"), ("double", "")):
            text += (
                f'extern "C" void {name}_{kind}(long n, const {kind}* x, {kind}* out) '
                f"{{ for (long i = 0; i < n; i++) out[i] = {name}{suffix}(x[i]); }}\n"
            )
    for kind, suffix in (("float", "f"), ("double", "")):
        text += (
            f'extern "C" void power_{kind}(long n, const {kind}* x, const {kind}* y, {kind}* out) '
            f"{{ for (long i = 0; i < n; i++) out[i] = pow{suffix}(x[i], y[i]); }}\n"
        )
    return text


class Library:
    """Kernels, compiled together."""

    def __init__(self, sources: Sequence[str], folder: Path) -> None:
        assert COMPILER is not None
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        source.write_text(SHIM + own_functions() + joined(sources))
        subprocess.run([COMPILER, *OPTIONS, "-o", str(library), str(source)], check=True)
        self.code = ctypes.CDLL(str(library))

    def launch(self, number: int, blocks: int, threads: int, arguments: Sequence[Any]) -> None:
        """Run kernel `number` with all its threads, one after the other; arrays are given as pointers."""
        kernel = getattr(self.code, f"elementwise_{number}")
        kernel.restype = None
        converted = [as_argument(a) for a in arguments]
        for block in range(blocks):
            for thread in range(threads):
                self.code.be_thread(block, blocks, thread, threads)
                kernel(*converted)

    @property
    def xp(self) -> Any:
        """NumPy, but with the functions of this library and with `maximum` and `minimum` that choose between zeros."""
        return HostNumPy(self.code)


def as_argument(value: Any) -> Any:
    """A kernel's argument as ctypes passes it."""
    if isinstance(value, np.int32):
        return ctypes.c_int(int(value))
    if isinstance(value, np.int64):
        return ctypes.c_longlong(int(value))
    if isinstance(value, np.ndarray):  # one element, passed by value
        dtype, (length,) = value.dtype["numbers"].subdtype
        integer = {4: ctypes.c_int, 8: ctypes.c_longlong}[dtype.itemsize]
        struct = type("Layout", (ctypes.Structure,), {"_fields_": [("numbers", integer * length)]})
        return struct.from_buffer_copy(value.tobytes())
    return ctypes.c_void_p(value)


class HostNumPy:
    """NumPy's namespace with C's functions, so that a kernel compiled for this machine gives the same bits.

    NumPy has exponential functions of its own, and does not say which of 0.0 and -0.0 is the larger one.
    """

    def __init__(self, code: ctypes.CDLL) -> None:
        self.code = code

    def __getattr__(self, name: str) -> Any:
        if name in (*FUNCTIONS, "power"):
            return lambda *values: self.call(name, *values)
        return getattr(np, name)

    def call(self, name: str, *values: np.ndarray) -> np.ndarray:
        dtype = getattr(np, name).resolve_dtypes((*[v.dtype for v in values], None))[-1]
        kind = "double" if dtype == np.float64 else "float"
        wide = np.float64 if kind == "double" else np.float32
        operands = [np.ascontiguousarray(v, wide) for v in np.broadcast_arrays(*values)]
        out = np.empty(operands[0].shape, wide)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*operands, out)]
        getattr(self.code, f"{name}_{kind}")(ctypes.c_long(out.size), *pointers)
        return out.astype(dtype)

    def maximum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where((x >= y) | (x != x), x, y)

    def minimum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where((x <= y) | (x != x), x, y)
