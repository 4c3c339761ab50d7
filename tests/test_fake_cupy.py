"""The fake CuPy beside NumPy, and beside the real one where it is: the same values, and the same refusals.

Every snippet is run on fresh arrays; what stands after its last semicolon is its result. Where cupy is installed but
finds no GPU, its arrays lie in the host's memory: then it refuses what it refuses before it asks the device.
"""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import itertools
import os
import re
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from minigrad.testing import fake_cupy
from minigrad.testing.fake_cupy import assert_no_sync, count_launches, count_syncs, expect_syncs, refresh_names

HOST = {
    "a": np.arange(24.0).reshape(2, 3, 4),
    "b": np.arange(24).reshape(2, 3, 4) > 3,
    "c": np.array([1 + 2j, 2 - 1j]),
    "d": np.array([1, 1]),
    "f": np.arange(24, dtype="f4").reshape(2, 3, 4),
    "h": np.array([1, 2], "f2"),
    "i": np.array([1, 0]),
    "j": np.array([3, 2], "i4"),
    "k": np.array([1, 2], "i1"),
    "m": np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]]),
    "n": np.array([np.nan, 1.0]),
    "s": np.array(1.5),
    "u": np.array([1, 2], "u4"),
    "v": np.array([0.0, 1, 2, 4]),
}

# What the fake accepts, with NumPy's values; CuPy accepts it with the same dtypes, shapes and values.
ACCEPTED = {
    "creation": """
        xp.zeros((2, 3))
        xp.zeros(3, "i4")
        xp.ones((0, 2), dtype="f4")
        xp.full((2,), 3)
        xp.full((2,), s)
        xp.full_like(a, 2)
        xp.zeros_like(a, dtype="f4")
        xp.ones_like(a, shape=(2,))
        xp.arange(5)
        xp.arange(1, 5, 2, dtype="f4")
        xp.linspace(0, 1, 5)
        xp.eye(3, 4, 1)
        xp.identity(2)
        xp.tri(3)
        xp.array([1, 2], ndmin=2)
        xp.array([[1, 2], [3, 4.5]])
        xp.array(1j)
        xp.asarray(range(3))
        xp.asarray(H)
        xp.asarray(a, dtype="f4")
        xp.ascontiguousarray(a.T)
        xp.copy(a)
        xp.meshgrid(v, v)
        xp.indices((2, 3))
        xp.tril(m)
        xp.diag(v)
        xp.tril_indices(3)
    """,
    "shape": """
        xp.reshape(a, (6, -1))
        a.reshape(4, 6)
        a.reshape([6, 4])
        xp.reshape(a, (6, 4), order="F")
        xp.ravel(a.T)
        xp.transpose(a, (0, 2, 1))
        a.transpose(2, 0, 1)
        a.T
        a.mT
        xp.swapaxes(a, 0, 2)
        xp.moveaxis(a, [0, 1], [1, 0])
        xp.expand_dims(a, (0, 1))
        xp.squeeze(a[:1], 0)
        xp.broadcast_to(a, (5, 2, 3, 4))
        xp.broadcast_arrays(m, v[:3])
        xp.concatenate([a, a], axis=1)
        xp.concatenate((v, i))
        xp.concatenate([a, a], axis=None)
        xp.stack([a, a], axis=-1)
        xp.vstack([v, v])
        xp.hstack((v, i))
        xp.split(a, 2)
        xp.split(a, [1], axis=1)
        xp.array_split(v, 3)
        xp.tile(v, (2, 1))
        xp.repeat(a, 2, axis=1)
        xp.repeat(a, [1, 2], axis=0)
        xp.flip(a, (0, 1))
        xp.roll(a, 1)
        xp.rot90(m)
        xp.pad(a, ((0, 1), (0, 0), (2, 0)))
        xp.pad(v, 1, mode="reflect")
        xp.pad(v, 2, constant_values=3.0)
        xp.atleast_2d(v)
        a.flatten()
        a.copy()
        a.view("i8")
    """,
    "indexing": """
        a[0, 1, 2]
        a[...]
        a[::-1, None, ..., 0]
        a[i]
        a[:, i, 0]
        a[i, :, i]
        a[i[:, None], i]
        a[b]
        a[:, b[0, :, 3]]
        a[j - 2]
        s[()]
        xp.take(a, i, axis=1)
        xp.take(a, 1, axis=1)
        xp.take(a, i)
        a.take(i, axis=0)
        xp.take_along_axis(v, i, axis=0)
        xp.where(b, a, -1.0)
        xp.where(b, 1.0, f)
        xp.where(v)
        xp.nonzero(v)
        xp.flatnonzero(v)
        xp.argwhere(m)
        xp.compress(v > 1, v)
        xp.diagonal(m)
        xp.searchsorted(v, v)
        a.diagonal()
        len(a)
        list(v)
    """,
    "ufuncs": """
        a + a
        a + 1
        a * True
        f + 1.0
        f + np.float64(1)
        f + s
        f * np.float32(2)
        np.float32(2) * f
        k + 3
        k + 1.5
        h * 2
        k * j
        u - u
        2 - a
        1 / v
        a // 3
        -a % 5
        a ** 2
        i ** i
        j << 1
        ~b
        b & True
        b ^ b
        a == 3
        a != a
        v < 2
        abs(-a)
        divmod(a, 3)
        m @ m
        m @ v[:3]
        a @ a.mT
        f @ f.mT
        xp.exp(v)
        xp.exp(0.5)
        xp.exp(k)
        xp.exp(v, dtype="f4")
        xp.tanh(f)
        xp.log1p(f)
        xp.sqrt(h)
        xp.floor(i)
        xp.sign(-a)
        xp.reciprocal(v + 1)
        xp.logical_and(a, b)
        xp.maximum(a, 5)
        xp.isnan(n)
        xp.abs(c)
        xp.angle(c)
        xp.conj(c)
        c.real
        xp.clip(a, 1, 5)
        xp.clip(a, None, v)
        a.clip(2)
        xp.round(v / 3, 1)
        xp.nan_to_num(n)
        xp.isclose(a, 1.0)
        xp.add.reduce(a, axis=1)
        xp.multiply.reduce(v)
        xp.add.accumulate(v)
        xp.add.outer(v, v)
        xp.add(a, a, dtype="f4", casting="same_kind")
        xp.add(1, 2)
    """,
    "reductions": """
        a.sum()
        xp.sum(a, axis=(0, 2), keepdims=True)
        xp.sum(f)
        xp.sum(b)
        xp.sum(k)
        xp.sum(a, dtype="f4")
        xp.prod(k)
        xp.mean(i)
        xp.mean(f, axis=0)
        xp.var(a, axis=1, ddof=1)
        xp.std(a)
        xp.max(a, axis=0)
        xp.min(k)
        xp.argmax(a, axis=1)
        a.argmin()
        xp.any(b)
        xp.all(b, axis=0)
        xp.count_nonzero(a)
        xp.cumsum(a, axis=1)
        xp.cumsum(k)
        xp.cumprod(v + 1)
        xp.diff(a, axis=0)
        xp.median(v)
        xp.average(v, weights=v)
        xp.percentile(v, 50)
        xp.nansum(n)
        xp.sort(-a, axis=0)
        xp.argsort(-v)
        xp.unique(d)
        xp.bincount(i, minlength=4)
        xp.trace(m)
        xp.allclose(a, a)
        xp.array_equal(a, a)
        xp.sum(a[:0])
        xp.mean(v, keepdims=True)
    """,
    "products": """
        xp.dot(m, m)
        m.dot(m)
        xp.matmul(a, a.mT)
        xp.inner(v, v)
        xp.outer(v, i)
        xp.vdot(v, v)
        xp.tensordot(a, a, axes=([0, 1], [0, 1]))
        xp.kron(v, v)
        xp.einsum("ijk,k->ij", a, v)
        xp.einsum("ij,jk", m, m, optimize=True)
        xp.einsum("ii->i", m)
        xp.linalg.norm(m, axis=1)
        xp.linalg.norm(v)
        xp.linalg.det(m)
        xp.linalg.inv(m)
        xp.linalg.solve(m, m)
        xp.linalg.cholesky(m)
        xp.linalg.eigvalsh(m)
        xp.linalg.svd(m)[1]
        xp.linalg.qr(m)[0].shape
    """,
    "in place": """
        a[0] = 1.0; a
        a[i] = a[0]; a
        a[b] = 0.0; a
        a[..., 1] = v[0]; a
        a[:, i, i] = -1; a
        j[0] = 2.5; j
        v[1:] = v[:-1].copy(); v
        a += a; a
        a *= v; a
        f -= np.float64(1); f
        i //= 2; i
        b &= False; b
        m @= m; m
        v.fill(s); v
        xp.add(a, 1, out=a); a
        xp.add(a, a, out=f); f
        r = xp.zeros((3, 4)); xp.sum(a, axis=0, out=r); r
        xp.add.at(v, d, 1.0); v
        xp.add.at(f, (d, 0), 2.0); f
        xp.add.at(v, v > 1, 1.0); v
        xp.maximum.at(v, i, 3.0); v
        xp.subtract.at(u, i, u); u
        xp.copyto(v, 1.0); v
        xp.put(v, i, 1.0); v
        xp.put_along_axis(v, i, 5.0, axis=0); v
        xp.putmask(v, v > 1, 0.0); v
        xp.fill_diagonal(m, 0.0); m
        r = a[1, 2]; r[...] = -5.0; a
        r = a.reshape(-1); r[5] = -8.0; a
        r = xp.asarray(a); r[0] = 1.0; a
    """,
    "dtypes": """
        a.astype("f4")
        v.astype(int)
        (-v).astype("i1")
        v.astype(bool)
        i.astype("c8")
        xp.astype(v, "f2")
        xp.result_type(f, 1.0)
        xp.promote_types("f4", "i4")
        xp.can_cast("f4", "f8")
        xp.finfo("f4").eps
        xp.ndim(a)
        xp.shape(a)
        xp.iscomplexobj(c)
        a.nbytes
        a.strides
        a.T.flags.f_contiguous
        float(s)
        bool(v[0])
        int(j[0])
        v.tolist()
        s.item()
        f"{s:.2f}"
    """,
}

# What CuPy refuses, the fake refuses.
REFUSED = {
    "mixing": """
        a + H
        H + a
        H @ a.mT
        a == H
        a + [1.0] * 4
        a + None
        a == None
        a + "1"
        m @ 2.0
        xp.add(a, H)
        xp.add(a, [1.0])
        xp.exp([1.0])
        xp.exp(H)
        a[...] = H
        a[0] = [1.0, 2.0, 3.0, 4.0]
        a[0] = "x"
        v.fill(H)
        v.fill(v)
        v.set([1.0] * 4)
        v.set(H)
        xp.copyto(v, H[0, 0])
        xp.copyto(v, [1.0] * 4)
        xp.sum([1.0])
        xp.sum(1.0)
        xp.where(True, a, a)
        xp.where(b, a, H)
        xp.stack([a, H])
        xp.dot(m, [1.0, 2.0, 3.0])
        m.dot(2.0)
        xp.expand_dims(H, 0)
        xp.take_along_axis(v, [0], axis=0)
        xp.convolve(v, [1.0])
        xp.interp(v, v, [1.0] * 4)
        xp.choose(i, [v[:2], v[:2]])
        xp.size([1])
        xp.repeat(a, np.array([1, 2]), axis=0)
        xp.pad(a, i)
        xp.zeros(i)
        xp.split(a, i)
        a.reshape(i)
        a.sum(axis=i)
        a.transpose(i)
    """,
    "host": """
        np.asarray(a)
        np.array([a, a])
        np.float32(s)
        hash(a)
        range(j[0])
        [1, 2][j[0]]
        H[j]
        bool(a)
        a.item()
        a.item(0)
        len(s)
        list(s)
        memoryview(a)
        a.__index__
        a.__imatmul__
        a.__array_interface__
        a.setflags(write=False)
        a.flags.writeable
        a.flags["WRITEABLE"]
        a.ctypes
        a.resize(3)
        a.name = 1
        a.T = a
        a.strides = (8,)
    """,
    "arguments": """
        xp.add(a, a, where=True)
        xp.add(a, a, order="F")
        xp.exp(a, a, a)
        xp.add(a, a, out=H)
        xp.max(a, initial=0.0)
        xp.sum(a, where=b)
        a.sum(initial=1.0)
        xp.clip(a, max=1.0)
        xp.take(a, i, axis=0, mode="clip")
        xp.reshape(a, shape=(6, 4))
        xp.matmul(m, m, m)
        xp.matmul(m, m, out=m.T)
        m.dot(m, m.T)
        xp.einsum("ij,jk", m, m, out=m)
        xp.maximum.reduce(a)
        xp.maximum.accumulate(v)
        xp.multiply.at(v, i, 1.0)
        xp.add.at(i, d, 1)
        xp.add.at(k, d, 1)
        xp.add.at(c, d, 1.0)
        xp.subtract.at(v, d, 1.0)
        a.astype("i4", casting="safe")
        xp.geomspace(1, 2)
        xp.insert(v, 0, 1.0)
        xp.block([a, a])
        xp.linalg.multi_dot([m, m])
        xp.errstate
    """,
    "dtypes": """
        xp.zeros(2, dtype=object)
        xp.zeros(2, dtype="longdouble")
        xp.zeros(2, dtype="U3")
        xp.array(["text"])
        xp.array(None)
        xp.array(H.astype("longdouble"))
        a.astype("M8[s]")
        a.astype(object)
        xp.logical_not(c)
        xp.logical_and(c, True)
        xp.floor(c)
        -b
        b - b
        ~a
        a & 1
        v << 1
        i += 1.5
        i /= 2
        xp.add(a, a, out=a.astype("i4"))
        v[s]
        j[0] = float("nan")
        xp.bincount(v)
    """,
    "shapes": """
        a + v[:3]
        v += a
        s += v
        a.reshape(5, 5)
        a.transpose(0, 1)
        a.squeeze(0)
        a[5]
        a[0, 1, 2, 3]
        a[..., ...]
        a[b[:1]]
        a.sum(axis=7)
        a.sum(axis=1.0)
        xp.max(a[:0])
        xp.concatenate([a, v])
        xp.concatenate([])
        xp.stack([a, v])
        xp.dot(a, a)
        m @ v
        m @ s
        a[0] = v[:3]
        xp.broadcast_to(a, (3, 3))
        xp.split(a, 5)
    """,
}

# What CuPy does without a word, and the fake refuses: undefined, or another value than NumPy's, or a hidden transfer.
STRICTER = {
    "CuPy dispatches, so the slip stays unseen": """
        np.tanh(a)
        np.sum(a)
        np.concatenate([a, a])
        np.linalg.norm(v)
    """,
    "CuPy copies it to the device, at every call": """
        a[[0, 1]]
        a[np.array([0, 1])]
        a[HOST_MASK]
        xp.take(a, [0, 1], 0)
        xp.isclose(v, [1.0] * 4)
        xp.append(v, [1.0])
        a[[0, 1]] = 1.0
    """,
    "CuPy waits for the device": """
        a[: i[0]]
        xp.arange(s)
    """,
    "CuPy leaves the value undefined": """
        v[d] = v[:2]
        xp.put(v, d, v[:2])
        v[1:] = v[:-1]
        n.astype("i4")
        (v * 1e20).astype("i8")
        (v - 1).astype("u1")
    """,
    "CuPy's value is another than NumPy's": """
        a[i + 5]
        xp.take(a, i + 5, axis=0)
        i ** -1
    """,
    "NumPy refuses it": """
        a[1.0]
        a[0:1.0]
        xp.broadcast_arrays(a, 1.0)
    """,
}


def lines(table):
    return [line.strip() for text in table.values() for line in text.strip().splitlines()]


def result_of(snippet, xp, make):
    """Run a snippet on fresh arrays of a library; return the value of its last part, if that is an expression."""
    names = {"xp": xp, "np": np, "H": HOST["a"].copy(), "HOST_MASK": HOST["b"].copy()}
    names |= {name: make(array) for name, array in HOST.items()}
    *statements, last = snippet.split("; ")
    for statement in statements:
        exec(statement, names)
    try:
        code = compile(last, "<snippet>", "eval")
    except SyntaxError:
        exec(last, names)
        return None
    return eval(code, names)


def same(found, expected, array_type, ulps):
    """Assert equal dtypes, shapes and values, to so many units of rounding where they are floats."""
    if isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            same(one, other, array_type, ulps)
    elif isinstance(found, array_type):
        floating = found.dtype.kind in "fc"
        tolerance = ulps * float(np.finfo(found.dtype).eps) if floating else 0
        expected = np.asarray(expected)  # NumPy's scalars are arrays of no dimensions on a device
        np.testing.assert_allclose(found.get(), expected, rtol=tolerance, atol=tolerance, strict=True)
    else:
        assert type(found) is type(expected)
        assert found == expected


# The fake


@pytest.mark.parametrize("snippet", lines(ACCEPTED))
def test_it_computes_what_numpy_computes(snippet):
    with np.errstate(all="ignore"):
        expected = result_of(snippet, np, np.array)
    same(result_of(snippet, fake_cupy.xp, fake_cupy.xp.array), expected, fake_cupy.StrictArray, ulps=0)


REFUSALS = (TypeError, ValueError, IndexError, AttributeError, NotImplementedError, KeyError, OverflowError)


@pytest.mark.parametrize("snippet", lines(REFUSED) + lines(STRICTER))
def test_it_refuses(snippet):
    with pytest.raises(REFUSALS):
        result_of(snippet, fake_cupy.xp, fake_cupy.xp.array)


# The real one


class Real:
    """CuPy with arrays on its GPU or, where there is none, in the host's memory, which stands for the device's."""

    def __init__(self):
        self.xp = pytest.importorskip("cupy", reason="cupy is not installed, so the fake cannot be compared with it")
        self.has_gpu = self.xp.cuda.is_available()
        self.make = self.xp.array if self.has_gpu else self.on_host

    def on_host(self, array):
        array = np.array(array)
        memory = self.xp.cuda.UnownedMemory(array.ctypes.data, max(array.nbytes, 1), array, 0)
        return self.xp.ndarray(array.shape, array.dtype, memptr=self.xp.cuda.MemoryPointer(memory, 0))

    def outcome(self, snippet):
        """Return a snippet's result or the error with which CuPy refuses it; None if it asked for a missing GPU."""
        try:
            return result_of(snippet, self.xp, self.make)
        except REFUSALS as error:
            return error
        except (RuntimeError, ImportError, MemoryError):  # no driver, or a library that comes with one
            if self.has_gpu:
                raise
            return None


@pytest.fixture
def real():
    return Real()


@pytest.mark.filterwarnings("ignore")  # CuPy's own: what it says about a cast is not the question
def test_cupy_accepts_what_the_fake_accepts_with_the_same_values(real):
    wrong = []
    for snippet in lines(ACCEPTED):
        found = real.outcome(snippet)
        if isinstance(found, Exception):
            wrong.append(f"{snippet}: CuPy raises {found!r}")
        elif real.has_gpu:
            with np.errstate(all="ignore"):
                expected = result_of(snippet, np, np.array)
            try:
                same(found, expected, real.xp.ndarray, ulps=16)
            except AssertionError as error:
                wrong.append(f"{snippet}: {' '.join(str(error).split())}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.filterwarnings("ignore")
def test_cupy_refuses_what_the_fake_says_that_it_refuses(real):
    accepted = [snippet for snippet in lines(REFUSED) if not isinstance(real.outcome(snippet), (Exception, type(None)))]
    assert not accepted


@pytest.mark.filterwarnings("ignore")
def test_cupy_accepts_where_the_fake_says_that_it_is_stricter(real):
    refused = [snippet for snippet in lines(STRICTER) if isinstance(real.outcome(snippet), Exception)]
    assert not refused


def test_cupy_s_ufuncs_have_the_dtypes_that_numpy_s_have(real):
    """Where the fake computes, the result has NumPy's dtype; so has CuPy's, by the loops that it lists."""
    wrong = []
    for name, taken in fake_cupy.names.NAMES["ufunc"].items():
        ours, loops = getattr(np, name, None), getattr(real.xp, name).types
        if isinstance(ours, np.ufunc):
            for types in itertools.product(taken, repeat=ours.nin):
                expected = dtypes_by_numpy(ours, types)
                if expected is not None and dtypes_by_loops(loops, types) != expected:
                    wrong.append(f"{name} of {types}: NumPy gives {expected}")
    assert not wrong, "\n".join(wrong)


def dtypes_by_numpy(ufunc, types):
    try:
        return ufunc.resolve_dtypes((*map(np.dtype, types), *[None] * ufunc.nout))[ufunc.nin :]
    except TypeError:
        return None


def dtypes_by_loops(loops, types):
    """Return the result's dtypes of the first loop that every operand can be cast to, which is the one that runs."""
    for operands, results in (loop.split("->") for loop in loops):
        if set(operands) <= set(refresh_names.DTYPES) and all(map(np.can_cast, types, operands)):
            return tuple(map(np.dtype, results))
    return None


# What a GPU would do with it


WAITS = {
    "average": lambda xp, v: xp.average(v, weights=v),
    "repeat": lambda xp, v: xp.repeat(v, xp.asarray([1, 2, 1, 1])),
    "a.repeat": lambda xp, v: v.repeat(xp.asarray([1, 2, 1, 1])),
    "bincount": lambda xp, v: xp.bincount(xp.arange(3)),
    "unique": lambda xp, v: xp.unique(v),
    "histogram": lambda xp, v: xp.histogram(v),
    "nanmax": lambda xp, v: xp.nanmax(v),
    "place": lambda xp, v: xp.place(v, v > 1, v),
    "extract": lambda xp, v: xp.extract(v > 1, v),
    "a.compress": lambda xp, v: v.compress(v > 1),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_what_depends_on_values_waits_for_them(wait):
    v = fake_cupy.xp.asarray(HOST["v"])
    with expect_syncs(1):
        wait(fake_cupy.xp, v)


def test_what_does_not_depend_on_values_waits_for_nothing():
    v = fake_cupy.xp.asarray(HOST["v"])
    with assert_no_sync():
        fake_cupy.xp.average(v)
        fake_cupy.xp.repeat(v, [1, 2, 1, 1])
        fake_cupy.xp.put(v, fake_cupy.xp.asarray([0, 1]), v[2:])


def test_assert_no_sync_names_the_wait():
    with pytest.raises(AssertionError, match=r"expected 0 synchronisations, got 1: item\(\)"), assert_no_sync():
        fake_cupy.xp.asarray(1.0).item()


def test_a_failing_block_fails_by_its_own_error():
    with pytest.raises(ZeroDivisionError), expect_syncs(3):
        _ = 1 / 0


def test_counting_nests_and_ends():
    a = fake_cupy.xp.asarray(1.0)
    with count_syncs() as outer, count_launches() as launches:
        with count_syncs() as inner:
            float(a)
        int(a + a)
    float(a)
    assert (outer, inner, launches) == (["float()", "int()"], ["float()"], ["add"])


def test_what_overlaps_is_refused_only_where_cupy_copies_memory_as_it_is():
    v = fake_cupy.xp.asarray(HOST["v"])
    with pytest.raises(ValueError, match=r"overlaps, which is undefined in CuPy; copy it first"):
        v[1:] = v[:-1]
    v[...] = v  # the same place
    v[:2] = v[2:]  # two places apart
    v[::-1] = v  # another layout: CuPy's kernel for it knows what overlaps
    np.testing.assert_array_equal(v.get(), [4.0, 2.0, 4.0, 2.0])


def test_named_tuples_are_plain_ones():
    q, r = fake_cupy.xp.linalg.qr(fake_cupy.xp.asarray(HOST["m"]))
    np.testing.assert_allclose((q @ r).get(), HOST["m"], rtol=1e-14, atol=1e-14)
    assert type(fake_cupy.xp.linalg.svd(fake_cupy.xp.asarray(HOST["m"]))) is tuple


def test_get_array_module_tells_where_an_array_is():
    xp = fake_cupy.xp
    assert xp.get_array_module(1.0, xp.zeros(2)) is xp
    assert xp.get_array_module(np.zeros(2)) is np


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda xp, a: np.linalg.norm(a), "np.linalg.norm was called with a device array; call xp.linalg.norm instead"),
        (lambda xp, a: np.add.at(a, 0, 1), "np.add.at was called with a device array; call xp.add.at instead"),
        (lambda xp, a: xp.where(a > 0, a, [0.0]), "y is a list, which is no device array; copy it to the device first"),
        (lambda xp, a: a.sum(axis=xp.asarray(0)), "axis is a device array, but the host needs it"),
        (lambda xp, a: xp.pad(a, 1, padding=2), "cupy.pad does not take padding; it takes constant_values, end_values"),
        (lambda xp, a: xp.logical_not(a + 1j), "cupy.logical_not takes no complex numbers"),
        (lambda xp, a: xp.add.at(a.astype("i8"), xp.asarray([0]), 1), "no kernel for int64 where an array of integers"),
    ],
)
def test_an_error_says_what_to_do(attempt, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        attempt(fake_cupy.xp, fake_cupy.xp.asarray(HOST["v"]))


@pytest.mark.parametrize(
    "name", ["mgrid", "vectorize", "apply_along_axis", "fft", "random", "ElementwiseKernel", "load"]
)
def test_what_cannot_be_the_same_in_both_is_not_offered(name):
    with pytest.raises(AttributeError, match=f"^CuPy has {name}, but "):
        getattr(fake_cupy.xp, name)


# What is public


@pytest.mark.parametrize("name", [name for name in fake_cupy.__all__ if name not in ("xp", "backend")])
def test_a_public_name_is_documented_with_an_example(name):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(getattr(fake_cupy, name)))


@pytest.mark.parametrize("item", [fake_cupy.xp, fake_cupy.backend, fake_cupy], ids=["xp", "backend", "fake_cupy"])
def test_so_are_the_objects_and_the_module(item):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(item))


def test_it_is_imported_when_asked_for_and_needs_numpy_only():
    code = """
import sys, numpy
import minigrad, minigrad.testing
assert not any(name.startswith("minigrad.testing.fake_cupy") for name in sys.modules)
before = set(sys.modules)
from minigrad.testing import fake_cupy
fake_cupy.xp.tanh(fake_cupy.xp.zeros(2)) + 1
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(root for root in roots if root not in sys.stdlib_module_names))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "['minigrad']"), done.stderr


# The list of names


def stand_in():
    """A module that looks like cupy from outside."""

    class ufunc:  # noqa: N801  # CuPy's name
        types = ("d->?", "ff->f", "EE->E")

        def __init__(self, scatter):
            self._scatter_op = scatter

    class ndarray:  # noqa: N801  # CuPy's name
        T = property()

        def sum(self, axis=None):
            """_ndarray_base.sum(self, axis=None, int ddof=1) -> ndarray"""

    cupy = ModuleType("cupy")
    cupy.__version__ = "99"
    cupy.ufunc, cupy.ndarray, cupy.linalg = ufunc, ndarray, ModuleType("linalg")
    cupy.add, cupy.exp, cupy.pi = ufunc("add"), ufunc(None), 3.0
    cupy.mean = lambda a, axis=None: None
    cupy.linalg.norm = lambda x, /, *, axis=2: None
    return cupy


def test_the_script_writes_the_names_of_the_cupy_that_it_finds(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cupy", stand_in())
    monkeypatch.setattr(refresh_names, "FILE", tmp_path / "names.txt")
    refresh_names.main()
    heading, *listed = (tmp_path / "names.txt").read_text().splitlines()
    assert heading.endswith("from CuPy 99")
    assert listed == [
        "attribute T",
        "class ndarray",
        "class ufunc",
        "constant pi",
        "function linalg.norm(x, /, *, axis=None)",
        "function mean(a, axis=None)",
        "method sum(axis=None, ddof=None)",
        "module linalg",
        "ufunc add(fd)",
        "ufunc exp(fd)",
        "ufunc.at add",
    ]
    assert "wrote" in capsys.readouterr().out


def test_the_list_of_names_is_installed_with_the_package():
    assert importlib.util.find_spec("minigrad.testing.fake_cupy.refresh_names") is not None
    assert fake_cupy.names.FILE.exists()
