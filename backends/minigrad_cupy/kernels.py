"""Runs of elementwise operations as CUDA C++: one kernel does all of them, each thread for some of the elements.

`plan` turns a run and the layout of the arrays that it is called with into a kernel's source and arguments. It needs
neither CuPy nor a GPU: the text is a pure function of what it is given, so it can be read, and compiled elsewhere.
`ElementwiseKernel` is what CuPy's backend returns: it plans at the first call of each layout, and then launches.

A value is rounded to its dtype after each step, as it would be if NumPy did the steps one by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from minigrad.backend import ElementwiseRun

Step = tuple[str, tuple[int, ...], int]  # name, numbers of the operands, number of the destination

NAME = "elementwise"
"""What every kernel is called."""

OPTIONS = ("-std=c++17",)  # and nothing that trades accuracy for speed

THREADS, BLOCKS_AT_MOST = 128, 8192
"""Threads of a block, and blocks of a launch; threads take more than one element where these are not enough."""

INT_LIMIT = 2**31 - THREADS * BLOCKS_AT_MOST
"""Up to here elements are counted in 32 bits: the counter steps over the end by a launch's threads at most."""

LAYOUTS_KEPT = 256
"""Layouts that a kernel remembers; beyond that it forgets them all and plans again."""


# ---- types -----------------------------------------------------------------------------------------------------------

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int",
    "float32": "float", "float64": "double",
    "float16": "unsigned short",  # its bits; a value of float16 is a float that has been rounded
}  # fmt: skip


def c_type(dtype: np.dtype[Any]) -> str:
    """The type of an array's elements; TypeError where kernels have none."""
    try:
        return C_TYPES[dtype.name]
    except KeyError:
        raise TypeError(
            f"an elementwise kernel got an array of {dtype.name}; it needs one of {', '.join(C_TYPES)}: "
            "convert the array first"
        ) from None


def value_type(dtype: np.dtype[Any]) -> str:
    """The type of a value in a register."""
    return "float" if dtype == np.float16 else c_type(dtype)


def cast(value: str, source: np.dtype[Any], target: np.dtype[Any]) -> str:
    """A value of one dtype as a value of another, as NumPy's assignment would convert it."""
    if source == target:
        return value
    if target == np.bool_:
        return f"{value} != 0"
    if target == np.float16:
        return f"rounded_to_half({value})" if source.kind == "f" else f"rounded_to_half(float({value}))"
    return f"static_cast<{value_type(target)}>({value})"


HALF = """\
#ifdef __CUDA_ARCH__
__device__ unsigned short half_bits(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ unsigned short half_bits(double x) {
    unsigned short bits;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(x));
    return bits;
}
__device__ float half_value(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
#endif
"""
"""Conversions of half precision as the GPU's own instructions: CUDA's header of them is not needed, nor compiled."""

ROUNDED_TO_HALF = """\
__device__ float rounded_to_half(float x) { return half_value(half_bits(x)); }
__device__ float rounded_to_half(double x) { return half_value(half_bits(x)); }
"""


# ---- operations ------------------------------------------------------------------------------------------------------

# Expressions of x and y by the kind of dtype that NumPy computes in: "b" bool, "i" signed, "u" unsigned integers, "f"
# floats. {f} is the suffix of C's functions of float, {m} the product that the compiler may not fuse with a sum, {v}
# the type of the result and {u} an unsigned one: sums that wrap around are defined in NumPy, but not in C++.


def _for(kinds: str, expression: str) -> dict[str, str]:
    return dict.fromkeys(kinds, expression)


def _wrapped(expression: str) -> dict[str, str]:
    return _for("iu", "{v}(" + expression + ")")


OPERATIONS: dict[str, dict[str, str]] = {
    "add": {"b": "x || y", **_wrapped("{u}(x) + {u}(y)"), "f": "x + y"},
    "subtract": {**_wrapped("{u}(x) - {u}(y)"), "f": "x - y"},
    "multiply": {"b": "x && y", **_wrapped("{u}(x) * {u}(y)"), "f": "{m}(x, y)"},
    "divide": {"f": "x / y"},
    "negative": {**_wrapped("-{u}(x)"), "f": "-x"},
    "absolute": {"b": "x", "u": "x", "i": "x < 0 ? {v}(-{u}(x)) : x", "f": "fabs{f}(x)"},
    "sign": {"u": "x != 0", "i": "(x > 0) - (x < 0)", "f": "x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x"},
    "square": {**_wrapped("{u}(x) * {u}(x)"), "f": "{m}(x, x)"},
    "power": {"f": "pow{f}(x, y)", **_for("iu", "{v}(integer_power(x, y))")},
    "maximum": {"f": "x >= y || x != x ? x : y", **_for("biu", "x >= y ? x : y")},  # the first NaN wins
    "minimum": {"f": "x <= y || x != x ? x : y", **_for("biu", "x <= y ? x : y")},
    "equal": _for("biuf", "x == y"),
    "not_equal": _for("biuf", "x != y"),
    "less": _for("biuf", "x < y"),
    "less_equal": _for("biuf", "x <= y"),
    "greater": _for("biuf", "x > y"),
    "greater_equal": _for("biuf", "x >= y"),
    "logical_and": _for("biuf", "x != 0 && y != 0"),
    "logical_or": _for("biuf", "x != 0 || y != 0"),
    "logical_not": _for("biuf", "x == 0"),
    "bitwise_and": _for("biu", "{v}(x & y)"),
    "bitwise_or": _for("biu", "{v}(x | y)"),
    "bitwise_xor": _for("biu", "{v}(x ^ y)"),
    "invert": {"b": "!x", **_for("iu", "{v}(~x)")},
    "isnan": _for("biuf", "x != x"),
    "isfinite": _for("biuf", "x - x == 0"),  # of what is infinite or NaN the difference is NaN
    "isinf": _for("biuf", "x == x && x - x != 0"),
    **{name: {"f": name + "{f}(x)"} for name in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh")},
}
OPERATIONS["abs"] = OPERATIONS["absolute"]

SPECIAL = {"copy": 1, "where": 3, "fill_0": 0, "fill_1": 0}
"""Steps that are no ufuncs, and how many operands they have."""

INTEGER_POWER = """\
// Wraps around as repeated products do. A negative exponent gives 0, 1 or -1: there is no way to raise an error here.
__device__ long long integer_power(long long base, long long exponent) {
    if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    unsigned long long result = 1, factor = base;
    for (; exponent > 0; exponent /= 2, factor *= factor)
        if (exponent % 2) result *= factor;
    return static_cast<long long>(result);
}
"""


def check(run: ElementwiseRun) -> None:
    """Raise ValueError unless every step of a run has a kernel, operands enough, and arrays that take part."""
    if not run.steps:
        raise ValueError("an elementwise run has one step at least, got none")
    for step in run.steps:
        name, operands, destination = step
        if name in SPECIAL:
            count = SPECIAL[name]
        elif name in OPERATIONS:
            count = getattr(np, name).nin
        else:
            known = ", ".join(sorted([*OPERATIONS, *SPECIAL]))
            raise ValueError(f"step {step}: there is no kernel for {name!r}; there is one for {known}")
        if len(operands) != count:
            raise ValueError(f"step {step}: {name} takes {count} operands, got {len(operands)}")
        if not all(0 <= number < run.arrays for number in (*operands, destination)):
            raise ValueError(f"step {step}: the arrays are numbered from 0 to {run.arrays - 1}")


def computed(name: str, values: Sequence[tuple[str, np.dtype[Any]]], target: np.dtype[Any]) -> tuple[str, Any]:
    """The expression of one step, given names and dtypes of its operands, and the dtype that it computes."""
    if name.startswith("fill"):
        return name[-1], target
    if name == "copy":
        return values[0]
    if name == "where":
        (condition, kind), (x, of_x), (y, of_y) = values
        dtype = np.result_type(of_x, of_y)
        chosen = cast(condition, kind, np.dtype(bool))
        return f"({chosen}) ? {cast(x, of_x, dtype)} : {cast(y, of_y, dtype)}", dtype
    *inner, out = getattr(np, name).resolve_dtypes((*[dtype for _, dtype in values], None))
    operands = [cast(value, kind, dtype) for (value, kind), dtype in zip(values, inner, strict=True)]
    text = _expression(name, inner[0], operands)
    return (f"rounded_to_half({text})" if out == np.float16 else text), out


def _expression(name: str, dtype: np.dtype[Any], operands: Sequence[str]) -> str:
    """What a ufunc computes of operands that are all of one dtype."""
    expression = OPERATIONS[name][dtype.kind]
    if dtype.kind == "f":
        double = dtype == np.float64
        expression = expression.format(f="" if double else "f", m="__dmul_rn" if double else "__fmul_rn")
    else:
        wide = "unsigned long long" if dtype.itemsize == 8 else "unsigned int"
        expression = expression.format(v=f"static_cast<{value_type(dtype)}>", u=f"static_cast<{wide}>")
    named = {name: o if o.isidentifier() else f"({o})" for name, o in zip("xy", operands, strict=False)}
    return re.sub(r"\b[xy]\b", lambda found: named[found.group()], expression)


# ---- where the elements are ------------------------------------------------------------------------------------------

FLAT, SINGLE, STRIDED = "flat", "single", "strided"
"""Where an array has element i: at i; at 0, always; or where the index along each axis and the strides say."""


class View(NamedTuple):
    """What a plan must know about an array: not where it is, only which array before it starts at the same place."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    dtype: np.dtype[Any]
    same_start: int  # the number of the first array of a call that starts where this one does


class Plan(NamedTuple):
    """How to call a run on arrays of one layout."""

    source: str
    elements: int  # of each destination
    scalars: tuple[Any, ...]  # a kernel's first arguments
    passed: tuple[int, ...]  # the numbers of the arrays that are the others


def plan(run: ElementwiseRun, views: Sequence[View], limit: int = INT_LIMIT) -> Plan:
    """Find the kernel for arrays of this layout; elements are counted in 32 bits where fewer than `limit` matter.

    Raises ValueError where destinations differ in shape, an operand does not broadcast to it, or starts where a
    destination starts and goes on elsewhere; TypeError for a dtype that kernels or NumPy's ufunc do not know.
    """
    written = {destination for _, _, destination in run.steps}
    used = sorted(written.union(*(operands for _, operands, _ in run.steps)))
    shape = _common_shape(views, written)
    strides = {i: _broadcast_strides(i, views[i], shape) for i in used}
    number = _merged(views, strides, used, written)
    steps = _needed([(name, tuple(number[i] for i in operands), number[d]) for name, operands, d in run.steps])
    passed = tuple(sorted({i for _, operands, d in steps for i in (*operands, d)}))
    extents, steps_of = _joined_axes(shape, {i: strides[i] for i in passed}, steps[-1][2])
    kinds = {i: _kind(extents, steps_of[i]) for i in passed}
    count = math.prod(shape)
    reach = max(sum((n - 1) * abs(s) for n, s in zip(extents, steps_of[i], strict=True)) for i in passed)
    integer = "int" if max(count, reach) < limit else "long long"
    text = source(steps, {i: views[i].dtype for i in passed}, kinds, len(extents), integer)
    scalar = np.int32 if integer == "int" else np.int64
    scalars: tuple[Any, ...] = (scalar(count),)
    if STRIDED in kinds.values():
        numbers = [*extents, *(s for i in passed if kinds[i] == STRIDED for s in steps_of[i])]
        scalars += (_by_value(numbers, scalar),)
    return Plan(text, count, scalars, passed)


def _by_value(numbers: Sequence[int], scalar: Any) -> np.ndarray:
    """A struct of integers: CuPy passes an array of one element by value."""
    return np.array(numbers, scalar).view([("numbers", scalar, (len(numbers),))])


def _common_shape(views: Sequence[View], written: set[int]) -> tuple[int, ...]:
    shapes = {views[i].shape for i in written}
    if len(shapes) != 1:
        found = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"the destinations of an elementwise run have one shape; got {found}")
    return shapes.pop()


def _broadcast_strides(number: int, view: View, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array along each axis of the destinations, in elements; 0 where nothing changes."""
    missing = len(shape) - len(view.shape)
    own = (1,) * missing + view.shape
    if missing < 0 or not all(m in (1, n) for m, n in zip(own, shape, strict=True)):
        raise ValueError(f"array {number} of an elementwise run has shape {view.shape}, which is not {shape} broadcast")
    if any(stride % view.dtype.itemsize for stride in view.strides):
        raise ValueError(f"array {number} of an elementwise run has elements that are not aligned: copy it first")
    steps = (0,) * missing + tuple(stride // view.dtype.itemsize for stride in view.strides)
    return tuple(0 if n == 1 else step for n, step in zip(own, steps, strict=True))


def _merged(
    views: Sequence[View], strides: dict[int, tuple[int, ...]], used: Sequence[int], written: set[int]
) -> dict[int, int]:
    """Each array's number, the same for all that are one array: what is written by one name is read by the other."""
    number: dict[int, int] = {}
    for i in used:
        here = [j for j in number if views[j].same_start == views[i].same_start]
        same = [j for j in here if strides[j] == strides[i] and views[j].dtype == views[i].dtype]
        number[i] = number[same[0]] if same else i
        clash = [j for j in here if j in written or i in written]
        if clash and not same and 0 not in views[i].shape:
            raise ValueError(
                f"arrays {clash[0]} and {i} of an elementwise run start at the same place and lie differently, and one "
                "of them is written: they must be the same, element for element, or apart"
            )
    return number


def _needed(steps: Sequence[Step]) -> list[Step]:
    """The steps without those whose result is overwritten before anything reads it."""
    overwritten: set[int] = set()
    needed = []
    for step in reversed(steps):
        _, operands, destination = step
        if destination not in overwritten:
            needed.append(step)
            overwritten.add(destination)
            overwritten.difference_update(operands)
    return needed[::-1]


def _joined_axes(
    shape: tuple[int, ...], strides: dict[int, tuple[int, ...]], first: int
) -> tuple[list[int], dict[int, list[int]]]:
    """Axes in the order in which array `first` lies in memory, neighbours joined where all arrays allow it."""
    order = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -abs(strides[first][a]))
    extents: list[int] = []
    joined: dict[int, list[int]] = {i: [] for i in strides}
    for axis in order:
        if extents and all(joined[i][-1] == strides[i][axis] * shape[axis] for i in strides):
            extents[-1] *= shape[axis]
            for i in strides:
                joined[i][-1] = strides[i][axis]
        else:
            extents.append(shape[axis])
            for i in strides:
                joined[i].append(strides[i][axis])
    return extents, joined


def _kind(extents: Sequence[int], strides: Sequence[int]) -> str:
    contiguous = [math.prod(extents[a + 1 :]) for a in range(len(extents))]
    return FLAT if list(strides) == contiguous else SINGLE if not any(strides) else STRIDED


# ---- source ----------------------------------------------------------------------------------------------------------


def source(
    steps: Sequence[Step],
    dtypes: dict[int, np.dtype[Any]],
    kinds: dict[int, str],
    ndim: int,
    integer: str,
) -> str:
    """Return a kernel's source, given the dtype and the kind of each array that it is passed.

    No two arrays overlap, and every step's result is needed. `ndim` axes are left of the shape, and `integer` is
    the type that counts elements.
    """
    strided = [i for i in kinds if kinds[i] == STRIDED]
    body = _body(steps, dtypes, {FLAT: "[i]", SINGLE: "[0]"}, kinds)
    written = {destination for _, _, destination in steps}
    arguments = ["const Integer count"]
    if strided:
        arguments.append("const Layout layout")
    for i, dtype in dtypes.items():
        const = "" if i in written else "const "
        arguments.append(f"{const}{c_type(dtype)}* __restrict__ a{i}")
    lines = [f"using Integer = {integer};"]
    if strided:
        fields = ", ".join(f"a{i}[{ndim}]" for i in strided)
        lines.append(f"struct Layout {{ Integer shape[{ndim}], {fields}; }};")
    lines += ["", f'extern "C" __global__ void {NAME}({", ".join(arguments)}) {{']
    lines.append("    const Integer first = static_cast<Integer>(blockIdx.x) * blockDim.x + threadIdx.x;")
    lines.append("    const Integer step = static_cast<Integer>(gridDim.x) * blockDim.x;")
    lines.append("    #pragma unroll 1")  # a division to count the rounds would cost more than they do
    lines.append("    for (Integer i = first; i < count; i += step) {")
    lines += ["        " + line for line in (_index(strided, ndim) if strided else []) + body]
    text = "\n".join([*lines, "    }", "}", ""])
    helpers = [INTEGER_POWER] if "integer_power" in text else []
    if "rounded_to_half" in text:
        helpers.insert(0, ROUNDED_TO_HALF)
    if np.float16 in dtypes.values() or helpers[:1] == [ROUNDED_TO_HALF]:
        helpers.insert(0, HALF)
    return "".join(helper + "\n" for helper in helpers) + text


def _index(strided: Sequence[int], ndim: int) -> list[str]:
    """The index along each axis of element i, and from it the place of the element in each strided array."""
    lines = []
    rest = "i"
    for axis in reversed(range(1, ndim)):
        lines.append(f"const Integer i{axis} = {rest} % layout.shape[{axis}];")
        lines.append(f"const Integer r{axis} = {rest} / layout.shape[{axis}];")
        rest = f"r{axis}"
    indices = [rest, *(f"i{axis}" for axis in range(1, ndim))]
    for i in strided:
        terms = " + ".join(f"{index} * layout.a{i}[{axis}]" for axis, index in enumerate(indices))
        lines += [f"const Integer p{i} = {terms};"]
    return lines


def _body(
    steps: Sequence[Step],
    dtypes: dict[int, np.dtype[Any]],
    place: dict[str, str],
    kinds: dict[int, str],
) -> list[str]:
    """What happens to one element. Each value is loaded once, and stored when nothing overwrites it later."""
    last = {destination: k for k, (_, _, destination) in enumerate(steps)}
    at = {i: f"a{i}" + place.get(kind, f"[p{i}]") for i, kind in kinds.items()}
    value: dict[int, str] = {}  # the variable that holds an array's element by now
    lines = []
    for k, (name, operands, destination) in enumerate(steps):
        for i in operands:
            if i not in value:
                value[i] = f"x{i}"
                loaded = f"half_value({at[i]})" if dtypes[i] == np.float16 else at[i]
                lines.append(f"const {value_type(dtypes[i])} x{i} = {loaded};")
        target = dtypes[destination]
        expression, dtype = computed(name, [(value[i], dtypes[i]) for i in operands], target)
        if dtype != target and not expression.isidentifier():
            expression = f"static_cast<{value_type(dtype)}>({expression})"
        value[destination] = f"v{k}"
        lines.append(f"const {value_type(target)} v{k} = {cast(expression, dtype, target)};  // {name}")
        if last[destination] == k:
            stored = f"half_bits(v{k})" if target == np.float16 else f"v{k}"
            lines.append(f"{at[destination]} = {stored};")
    return lines


# ---- launching -------------------------------------------------------------------------------------------------------


class ElementwiseKernel:
    """A run of elementwise operations on CuPy's arrays: a kernel for each layout that it meets."""

    def __init__(self, run: ElementwiseRun, cupy: Any) -> None:
        check(run)
        self.run = run
        self._cupy = cupy
        self._launches: dict[Any, tuple[Any, ...]] = {}

    def __call__(self, *arrays: Any) -> None:
        """Do the steps. Their results are in the destinations when the device gets there; nothing waits for it."""
        starts = [a.data.ptr for a in arrays]
        same = () if len(set(starts)) == len(starts) else tuple(map(starts.index, starts))
        key = (same, *[(a.shape, a.strides, a.dtype) for a in arrays])
        launch = self._launches.get(key)
        if launch is None:
            launch = self._prepare(key, arrays, same or range(len(arrays)))
        kernel, grid, scalars, passed = launch
        if kernel is not None:
            kernel(grid, (THREADS,), (*scalars, *[arrays[i] for i in passed]))

    def _prepare(self, key: Any, arrays: Sequence[Any], same: Sequence[int]) -> tuple[Any, ...]:
        if len(arrays) != self.run.arrays:
            raise TypeError(f"this elementwise run takes {self.run.arrays} arrays, got {len(arrays)}")
        views = [View(a.shape, a.strides, a.dtype, start) for a, start in zip(arrays, same, strict=True)]
        found = plan(self.run, views)
        blocks = min(-(-found.elements // THREADS), BLOCKS_AT_MOST)
        kernel = compiled(found.source, self._cupy) if found.elements else None
        launch = (kernel, (blocks,), found.scalars, found.passed)
        if len(self._launches) >= LAYOUTS_KEPT:
            self._launches.clear()
        self._launches[key] = launch
        return launch


@lru_cache(maxsize=1024)
def compiled(text: str, cupy: Any) -> Any:
    """A kernel of CuPy's for a source: compiled when it is first launched on a device, and for each device once."""
    return cupy.RawModule(code=text, options=OPTIONS).get_function(NAME)
