"""Random runs of elementwise operations, with arrays in many layouts, for the tests of what backends make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from minigrad.backend import ElementwiseRun
from minigrad_cupy import kernels

FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int32", "int64", "int8", "uint8", "int16", "uint16", "uint32")
DTYPES = (*FLOATS, "bool", *INTEGERS)
SINGLE_STEPS = sorted([*kernels.OPERATIONS, *kernels.SPECIAL])


class Memory(NamedTuple):
    """An array of the host that owns its memory, and how the array that takes part lies in it."""

    dtype: str
    layout: str
    shape: tuple[int, ...]  # of the array that takes part; it broadcasts to the run's
    written: bool


class Case(NamedTuple):
    """A run and all that is needed to make its arrays, again and again the same."""

    run: ElementwiseRun
    shape: tuple[int, ...]
    memories: tuple[Memory, ...]
    arrays: tuple[tuple[int, str], ...]  # for each array the number of its memory, and which view of it
    seed: int

    def new_memories(self) -> list[np.ndarray]:
        """The memories with their first contents."""
        rng = np.random.default_rng(self.seed)
        return [numbers(rng, whole_shape(m.layout, m.shape), np.dtype(m.dtype)) for m in self.memories]

    def views(self, memories: Sequence[Any], xp: Any = np) -> list[Any]:
        """The arrays that take part, as views of memories of any library."""
        found = [part(xp, array, m.layout, m.shape) for array, m in zip(memories, self.memories, strict=True)]
        return [VIEWS[view](xp, found[i], self.shape) for i, view in self.arrays]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Ordinary numbers, and now and then those at which functions turn or end."""
    if dtype.kind == "f":
        special = [0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 30.0]
        values = np.where(rng.random(shape) < 0.2, rng.choice(special, shape), rng.normal(0, 2, shape))
        return np.asarray(values, dtype)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    ends = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    small = rng.integers(-4 if dtype.kind == "i" else 0, 5, shape).astype(dtype)
    return np.asarray(np.where(rng.random(shape) < 0.1, rng.choice(np.array(ends, dtype), shape), small))


# ---- layouts: the shape of a memory, and the part of it that takes part ----------------------------------------------

WITHOUT_AXES = ("whole", "step of a stack")
LAYOUTS = (*WITHOUT_AXES, "transposed", "columns", "every other", "backwards")


def whole_shape(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return {
        "whole": shape,
        "step of a stack": (3, *shape),
        "transposed": shape[::-1],
        "columns": (*shape[:-1], sum(shape[-1:]) + 3),
        "every other": (*shape[:-1], 2 * sum(shape[-1:])),
        "backwards": shape,
    }[layout]


def part(xp: Any, array: Any, layout: str, shape: tuple[int, ...]) -> Any:
    if layout == "step of a stack":
        return array[1, ...]
    if layout == "transposed":
        return array.T
    if layout == "columns":
        return array[..., 1 : 1 + shape[-1]]
    if layout == "every other":
        return array[..., ::2]
    return array[..., ::-1] if layout == "backwards" else array


VIEWS = {
    "itself": lambda xp, array, shape: array,
    "broadcast": lambda xp, array, shape: xp.broadcast_to(array, shape),
    "first column": lambda xp, array, shape: array[..., :1],
}


# ---- cases that chance would seldom meet -----------------------------------------------------------------------------


def case(steps: Any, shape: tuple[int, ...], *arrays: Any) -> Case:
    """A case of arrays given as a dtype and a layout, all of one shape, or as the number of another array."""
    owned = [a for a in arrays if isinstance(a, tuple)]
    written = {destination for _, _, destination in steps}
    memories = tuple(Memory(dtype, layout, shape, arrays.index((dtype, layout)) in written) for dtype, layout in owned)
    numbered = tuple((owned.index(a) if isinstance(a, tuple) else a, "itself") for a in arrays)
    return Case(ElementwiseRun(steps, len(arrays)), shape, memories, numbered, 1)


SPECIAL_CASES = [
    # What is written under one name is read under another.
    case((("add", (0, 1), 0), ("multiply", (1, 0), 1), ("tanh", (0,), 1)), (2, 3), ("float32", "columns"), 0),
    case((("add", (2, 1), 0), ("multiply", (2, 0), 2)), (2, 3), ("float64", "whole"), ("float64", "columns"), 0),
    # Of a square, rows and columns have the same strides in another order.
    case((("subtract", (0, 1), 2),), (4, 4), ("float64", "whole"), ("float64", "transposed"), ("float32", "whole")),
    # Neither of the two that `where` chooses from decides the dtype.
    case((("where", (0, 1, 2), 3),), (40,), ("float32", "whole"), ("int32", "whole"), ("float16", "whole"),
         ("float64", "whole")),
    case((("where", (0, 1, 2), 3),), (40,), ("bool", "whole"), ("float32", "whole"), ("float64", "whole"),
         ("float64", "columns")),
]  # fmt: skip


# ---- drawing ---------------------------------------------------------------------------------------------------------


@st.composite
def memories(draw: Any, shape: tuple[int, ...], written: bool) -> Memory:
    dtype = draw(st.sampled_from(DTYPES) | st.sampled_from(FLOATS))
    if not written:
        shape = tuple(draw(st.sampled_from((n, n, 1))) for n in shape)
        shape = shape[draw(st.integers(0, len(shape))) :] if draw(st.booleans()) else shape
    layout = draw(st.sampled_from(LAYOUTS if shape else WITHOUT_AXES))
    return Memory(dtype, layout, shape, written)


@st.composite
def cases(draw: Any) -> Case:
    shape = tuple(draw(st.lists(st.sampled_from((2, 3, 1, 4, 0)), max_size=3)))
    writable = draw(st.integers(1, 3))
    all_memories = [draw(memories(shape, k < writable)) for k in range(writable + draw(st.integers(0, 3)))]
    arrays = [(i, "itself") for i in range(len(all_memories))]
    for _ in range(draw(st.integers(0, 2))):  # a second array that is the same, or shows a part of the same
        i = draw(st.integers(0, len(all_memories) - 1))
        views = ["itself", "broadcast"]
        if not all_memories[i].written and all_memories[i].shape:
            views.append("first column")
        arrays.append((i, draw(st.sampled_from(views))))
    dtypes = [np.dtype(all_memories[i].dtype) for i, _ in arrays]
    destinations = [k for k, (i, view) in enumerate(arrays) if all_memories[i].written and view == "itself"]
    numbered = st.integers(0, len(arrays) - 1)
    steps = []
    for _ in range(draw(st.integers(1, 7))):
        destination = draw(st.sampled_from(destinations))
        count = draw(st.sampled_from((2, 1, 2, 1, 3, 0)))
        operands = tuple(draw(numbered) for _ in range(count))
        names = possible([dtypes[i] for i in operands], dtypes[destination])
        if names:
            steps.append((draw(st.sampled_from(names)), operands, destination))
    if not steps:
        steps = [("fill_1", (), destinations[0])]
    run = ElementwiseRun(tuple(steps), len(arrays))
    return Case(run, shape, tuple(all_memories), tuple(arrays), draw(st.integers(0, 2**32 - 1)))


def possible(operands: Sequence[np.dtype], destination: np.dtype) -> list[str]:
    """The steps that NumPy does on operands of these dtypes, and whose result it puts into the destination."""
    found = []
    for name in SINGLE_STEPS:
        dtype = result_dtype(name, operands, destination)
        if dtype is None or (name == "power" and dtype.kind != "f"):  # where NumPy raises, kernels cannot
            continue
        if destination.kind == "b" or np.can_cast(dtype, destination, "same_kind"):
            found.append(name)
    return found


def result_dtype(name: str, operands: Sequence[np.dtype], destination: np.dtype) -> np.dtype | None:
    """The dtype that a step computes, or None if NumPy knows no such step."""
    if name in kernels.SPECIAL:
        if len(operands) != kernels.SPECIAL[name]:
            return None
        return {"copy": lambda: operands[0], "where": lambda: np.result_type(*operands[1:])}.get(
            name, lambda: destination
        )()
    ufunc = getattr(np, name)
    if ufunc.nin != len(operands):
        return None
    try:
        return ufunc.resolve_dtypes((*operands, None))[-1]
    except TypeError:
        return None


def drawn(count: int) -> list[Case]:
    """Many cases at once, for compilers that are slow to start."""
    found: list[Case] = []

    checks = list(HealthCheck)

    @settings(max_examples=count, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=checks)
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return sorted(found, key=lambda case: len(case.run.steps))  # so that the first that fails is a small one


def single_steps() -> Iterator[Case]:
    """Every operation alone, on every dtype that NumPy has it for, into the dtype that NumPy gives."""
    for name in SINGLE_STEPS:
        count = kernels.SPECIAL[name] if name in kernels.SPECIAL else getattr(np, name).nin
        for dtype in DTYPES:
            operands = [np.dtype(dtype)] * count
            result = result_dtype(name, operands, np.dtype(dtype))
            if result is None or (name == "power" and result.kind != "f"):
                continue
            shape = (5, 40)
            whole = tuple(Memory(d, "whole", shape, False) for d in (dtype,) * count)
            into = Memory(result.name, "whole", shape, True)
            run = ElementwiseRun(((name, tuple(range(count)), count),), count + 1)
            yield Case(run, shape, (*whole, into), tuple((k, "itself") for k in range(count + 1)), 0)


def views_of(arrays: Sequence[np.ndarray]) -> list[kernels.View]:
    """What a plan is told about arrays of the host."""
    starts = [a.__array_interface__["data"][0] for a in arrays]
    return [kernels.View(a.shape, a.strides, a.dtype, starts.index(s)) for a, s in zip(arrays, starts, strict=True)]


def joined(sources: Sequence[str]) -> str:
    """Many kernels as one source; the kernel of source k is called `elementwise_k`."""
    renamed = [text.replace(f" {kernels.NAME}(", f" {kernels.NAME}_{k}(") for k, text in enumerate(sources)]
    return "\n".join(f"namespace n{k} {{\n{text}}}" for k, text in enumerate(renamed))
