"""Bodies for `scan`, made at random: a few lines of ordinary code over carries, inputs and captured arrays.

A body is text, so what fails can be printed and run. Each line is run on examples as it is made, which tells its
shape, and whether it makes sense at all. A seed gives the same body everywhere.
"""

from __future__ import annotations

import dataclasses
import linecache
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from scan_oracle import as_array

ROWS = 7  # stands for the number of rows while a body is made; no other axis has this size
LARGEST = 6  # of any other axis
WIDE = 8  # but for this: rows of 64 bytes, in which NumPy has fast ways of its own

# ---- a body --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Line:
    """One assignment: `text` with the names of `args` put in."""

    text: str
    args: tuple[str, ...]

    def __str__(self) -> str:
        return self.text.format(*self.args)

    def renamed(self, old: str, new: str) -> Line:
        return Line(self.text, tuple(new if arg == old else arg for arg in self.args))


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A carry's start, an input or a captured array: its shape (ROWS for the number of rows) and kind (f, i or b)."""

    shape: tuple[int, ...]
    kind: str = "f"
    rows: bool = False  # whether axis 0 is the rows


@dataclasses.dataclass(frozen=True)
class Body:
    """A body to scan. Names: s carries, x inputs, W captured arrays, v lines."""

    carries: dict[str, Leaf]
    inputs: dict[str, Leaf]
    captured: dict[str, Leaf]
    aliases: dict[str, str]  # leaves that are one tensor with another
    lines: dict[str, Line]
    updates: tuple[str, ...]
    outputs: tuple[str, ...] | None

    @property
    def leaves(self) -> dict[str, Leaf]:
        return {**self.carries, **self.inputs, **self.captured}

    def source(self) -> str:
        """`fn`, as one would write it."""

        def names(of: Any) -> str:
            return ", ".join(of) + ("," if len(of) == 1 else "")

        text = ["def fn(state, x):"]
        text += [f"    {names(self.carries)} = state"] if self.carries else []
        text += [f"    {names(self.inputs)} = x"] if self.inputs else []
        text += [f"    {name} = {line}" for name, line in self.lines.items()]
        outputs = "" if self.outputs is None else f", ({names(self.outputs)})"
        return "\n".join([*text, f"    return ({names(self.updates)}){outputs}"])

    def function(self, captured: dict[str, Any]) -> Callable[[Any, Any], Any]:
        """`fn` over some captured arrays, made anew: a closure of the same structure each time."""
        inside = "\n".join(["    " + line for line in self.source().splitlines()])
        text = f"def make({', '.join(self.captured)}):\n{inside}\n    return fn\n"
        file = f"body_{zlib.crc32(text.encode()):08x}.py"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for tracebacks
        scope: dict[str, Any] = {"mg": mg, "np": np}
        exec(compile(text, file, "exec"), scope)
        return scope["make"](*[captured[name] for name in self.captured])


# ---- making one ----------------------------------------------------------------------------------------------------

UNARIES = (
    "mg.tanh({0})", "mg.tanh({0})", "mg.sigmoid({0})", "mg.sigmoid({0})", "mg.relu({0})", "np.tanh({0})",
    "mg.exp(-({0} * {0}))", "{0} ** 2", "mg.square({0})", "{0} ** 3", "mg.softplus({0})", "mg.sin({0})", "mg.cos({0})",
    "mg.log1p({0} * {0})", "mg.sqrt(0.5 + {0} * {0})", "mg.abs({0})", "-{0}", "1.0 - {0}", "1 - {0}", "{0} + 0.3",
    "{0} / 2", "1.0 / (1.5 + {0} * {0})", "mg.exp(0.5 * mg.tanh({0}))", "mg.expm1(0.3 * mg.sin({0}))",
    "mg.elu({0}, alpha=1.3)", "mg.log(1.5 + {0} * {0})", "mg.copy({0})", "mg.stop_gradient({0})",
    "(1.2 + mg.tanh({0})) ** 0.5",
)  # fmt: skip
BINARIES = (
    "{0} + {1}", "{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} * {1}", "{0} / (1.5 + {1} * {1})", "mg.maximum({0}, {1})",
    "mg.minimum({0}, {1})", "mg.where({0} > 0.137, {0}, {1})", "mg.where({1} < -0.091, 0.7, {0})",
    "{0} * mg.sigmoid({1})", "mg.sigmoid({0}) * mg.tanh({1})", "0.5 * {0} - {1}", "{0} * (1.0 - {1})",
    "(1.2 + mg.tanh({0})) ** {1}",
)  # fmt: skip
TERNARIES = (
    "{0} * {1} + (1.0 - {0}) * {2}", "{0} * {1} - {0} * {2}", "mg.where({0} > 0.0731, {1}, {2})",
    "{0} + {1} + {2}", "{0} * ({1} + {2})", "({0} - {1}) * {2}",
)  # fmt: skip


class ImpossibleError(Exception):
    """The line that was asked for cannot be made here."""


class Maker:
    """Makes a body line by line. Each line runs on examples with three numbers of rows, which tells its shape."""

    def __init__(self, seed: int, rowwise: bool) -> None:
        self.rng = random.Random(f"{seed} {rowwise}")
        self.numbers = np.random.default_rng(seed)
        self.rowwise = rowwise  # whether rows must not meet
        self.widths = (self.rng.choice((2, 3)), self.rng.choice((1, 2, 3)), self.rng.choice((2, 3)))
        self.made: dict[str, Leaf] = {}  # the form of every name
        self.examples: dict[int, dict[str, Any]] = {rows: {} for rows in (ROWS, 11, 1)}
        self.body = Body({}, {}, {}, {}, {}, (), None)

    # leaves

    def leaf(self, group: str, letter: str, shape: tuple[int, ...], kind: str = "f") -> str:
        """A new carry, input or captured array."""
        names = getattr(self.body, group)
        if self.rowwise and ROWS in shape[1:]:
            raise ImpossibleError
        name = f"{letter}{len(names)}"
        names[name] = self.made[name] = Leaf(shape, kind, bool(shape) and shape[0] == ROWS and self.rowwise)
        for rows, example in self.examples.items():
            example[name] = as_numbers(self.numbers, sized(shape, rows), kind)
        return name

    def captured(self, *shape: int) -> str:
        """An array from outside, perhaps one that is there already, perhaps two names for one."""
        same = [name for name, leaf in self.body.captured.items() if leaf.shape == shape]
        if same and self.rng.random() < 0.35:
            return self.rng.choice(same)
        name = self.leaf("captured", "W", shape)
        alike = [n for n in (*same, *self.body.carries) if self.made[n] == self.made[name]]
        if alike and self.rng.random() < 0.15:
            other = self.rng.choice(alike)
            self.body.aliases[name] = self.body.aliases.get(other, other)
        return name

    # choices

    def pick(self, fits: Callable[[Leaf], bool] = lambda leaf: leaf.kind == "f") -> str:
        """A value: often a new one, seldom something captured."""
        names = [name for name, leaf in self.made.items() if fits(leaf)]
        lines = [name for name in names if name in self.body.lines]
        inner = [name for name in names if name not in self.body.captured]
        which = self.rng.random()
        names = (lines[-4:] if which < 0.45 else inner if which < 0.9 else names) or names
        if not names:
            raise ImpossibleError
        return self.rng.choice(names)

    def ranked(self, least: int, most: int = 3) -> str:
        return self.pick(lambda leaf: leaf.kind == "f" and least <= len(leaf.shape) <= most)

    def axis(self, name: str) -> int:
        """Any axis, rather the last; rows are left alone where they must not meet."""
        rank = len(self.made[name].shape)
        first = 1 if self.made[name].rows else 0
        if rank == first:
            raise ImpossibleError
        axis = rank - 1 if self.rng.random() < 0.6 else self.rng.randrange(first, rank)
        return axis - rank if self.rng.random() < 0.5 else axis

    # lines

    def add(self, text: str, *args: str) -> str:
        """Put a line in, if it is sound; squashed if its numbers are large."""
        line = Line(text, args)
        form, large = self.form(line)
        if large:
            line = Line(f"mg.tanh({text})", args)
            form, _ = self.form(line)
        name = f"v{len(self.body.lines)}"
        self.body.lines[name] = line
        self.made[name] = form
        for example in self.examples.values():
            example[name] = evaluated(line, example)
        return name

    def form(self, line: Line) -> tuple[Leaf, bool]:
        """The form of a line's value, and whether it is large; ImpossibleError if it is no line for a body."""
        values = {rows: evaluated(line, example) for rows, example in self.examples.items()}
        shape, kind = values[ROWS].shape, values[ROWS].dtype.kind
        sound = len(shape) <= 4 and all(1 <= n <= LARGEST or n in (WIDE, ROWS) for n in shape)
        sound &= all(value.shape == sized(shape, rows) for rows, value in values.items())
        sound &= all(value.dtype in (np.float64, np.int64, bool) for value in values.values())
        rows = any(self.made[arg].rows for arg in line.args)
        sound &= not self.rowwise or (ROWS in shape) == rows
        sound &= not rows or self._keeps_rows_apart(line, values[ROWS])
        if not sound or not all(np.isfinite(value).all() for value in values.values()):
            raise ImpossibleError
        return Leaf(shape, kind, rows), kind == "f" and np.abs(values[ROWS]).max() > 2.5

    def _keeps_rows_apart(self, line: Line, value: np.ndarray) -> bool:
        """Change one row of every argument: the others stay."""
        for row in (1, 4):
            example = dict(self.examples[ROWS])
            for arg in line.args:
                if self.made[arg].rows:
                    example[arg] = other = example[arg].copy()
                    was = other[row]
                    other[row] = was + 1 if was.dtype.kind == "i" else ~was if was.dtype == bool else 0.1 - 1.3 * was
            changed = evaluated(line, example)
            others = np.arange(ROWS) != row
            if (
                value.shape[:1] != (ROWS,)
                or ROWS in value.shape[1:]
                or not np.allclose(changed[others], value[others], rtol=1e-9, atol=1e-12)
            ):
                return False
        return True

    def elementwise(self) -> str:
        which = self.rng.random()
        if which < 0.4:
            return self.add(self.rng.choice(UNARIES), self.pick())
        if which < 0.5:
            slope = self.rng.choice((0.1, 0.2, 0.01))
            low, high = self.rng.choice(((-0.6, 0.7), (-0.21, 1.1)))
            return self.add(
                self.rng.choice((
                    f"mg.leaky_relu({{0}}, slope={slope})", f"mg.clip({{0}}, {low}, {high})", f"{{0}} * {slope * 3}",
                )),
                self.pick(),
            )  # fmt: skip
        if which < 0.85:
            return self.add(self.rng.choice(BINARIES), self.pick(), self.pick())
        return self.add(self.rng.choice(TERNARIES), self.pick(), self.pick(), self.pick())

    def product(self) -> str:
        """Products of matrices: with captured weights, with vectors, transposed, sliced, and of two values."""
        a = self.ranked(1)
        shape = self.made[a].shape
        n, m = shape[-1], self.rng.choice((*self.widths, 1, 4))
        which = self.rng.randrange(10)
        if which < 3:
            return self.add("{0} @ {1}", a, self.captured(n, m))
        if which == 9:
            column = self.rng.randrange(WIDE)
            form = self.rng.choice(("-{0}[..., {1}:{2}]", "1.0 - {0}[..., {1}:{2}] ** 2"))
            wide = self.add("{0} @ {1}", a, self.captured(n, WIDE))
            return self.add("{0} @ {1}", self.add(form.format("{0}", column, column + 1), wide), self.captured(1, m))
        if which == 3:
            return self.add("{0} @ {1}.T", a, self.captured(m, n))
        if which == 4:
            return self.add("{0} @ {1}", a, self.captured(n)) if self.rng.random() < 0.5 else self.add(
                "{1} @ {0}", a, self.captured(m, shape[-2] if len(shape) > 1 else n))  # fmt: skip
        if which == 5:
            low = self.rng.randrange(2)
            return self.add(f"{{0}} @ {{1}}[:, {low}:{low + m}]", a, self.captured(n, m + low + 1))
        if which == 6:
            return self.add("{0} @ {1} + {2} @ {3} + {4}", a, self.captured(n, m), (b := self.ranked(1)),
                            self.captured(self.made[b].shape[-1], m), self.captured(m))  # fmt: skip
        if which == 7:
            return self.memory(a)
        b = self.pick(lambda leaf: leaf.kind == "f" and len(leaf.shape) >= 1 and leaf.shape[-1] == n)
        text = ("{0} @ mg.swapaxes({1}, -1, -2)", "mg.einsum('...i,...i->...', {0}, {1})",
                "mg.einsum('...i,...j->...ij', {0}, {1})", "mg.outer({0}, {1})", "mg.dot({0}, {1})")  # fmt: skip
        return self.add(self.rng.choice(text), a, b)

    def memory(self, a: str) -> str:
        """Attention of each row over something captured for it, or over captured positions for all."""
        shape, rank = self.made[a].shape, len(self.made[a].shape)
        if rank > 2:
            raise ImpossibleError
        positions = self.rng.choice((2, 3))
        memory = self.captured(*shape[:-1], positions, shape[-1])
        scores = self.add("mg.einsum('...sh,...h->...s', {0}, {1})", memory, a)
        weights = self.add("mg.softmax({0}, axis=-1)", scores)
        return self.add("({0}[..., None] * {1}).sum(axis=-2)", weights, memory)

    def slab(self) -> str:
        """Gates side by side, of which slices are used: neighbours, overlapping, twice."""
        a, b = self.ranked(1, 2), self.ranked(1, 2)
        n = self.rng.choice((1, 2))
        gates = self.rng.choice((2, 3))
        wide = self.add("{0} @ {1} + {2} @ {3}", a, self.captured(self.made[a].shape[-1], gates * n), b,
                        self.captured(self.made[b].shape[-1], gates * n))  # fmt: skip
        if self.rng.random() < 0.3:
            wide = self.add("{0} + {1}", wide, self.captured(gates * n))
        for _ in range(self.rng.choice((2, 3))):
            low = self.rng.randrange((gates - 1) * n + 1)
            squash = self.rng.choice(("mg.tanh({})", "mg.sigmoid({})", "mg.sigmoid({})", "{}", "mg.relu({})"))
            last = self.add(squash.format(f"{{0}}[..., {low}:{low + n}]"), wide)
        return last

    def reduction(self) -> str:
        a = self.ranked(1)
        keep = self.rng.choice(("", ", keepdims=True"))
        op = self.rng.choice(("sum", "sum", "mean", "mean", "max", "min", "logsumexp", "prod", "var"))
        if self.rng.random() < 0.15 and not self.made[a].rows:
            return self.add(f"mg.{op}({{0}})", a)
        return self.add(f"mg.{op}({{0}}, axis={self.axis(a)}{keep})", a)

    def along(self) -> str:
        """What keeps the shape but looks along an axis."""
        a = self.ranked(1)
        op = self.rng.choice(("softmax", "log_softmax", "cumsum", "flip"))
        return self.add(f"mg.{op}({{0}}, axis={self.axis(a)})", a)

    def sliced(self) -> str:
        a = self.ranked(1)
        n = self.made[a].shape[-1]
        low, high = self.rng.randrange(n), self.rng.randrange(1, n + 1)
        texts = [
            f"{{0}}[..., {low}:{high}]", f"{{0}}[..., {low}:{high}]", f"{{0}}[..., :{high}]", "{0}[..., ::-1]",
            "{0}[..., ::2]", f"{{0}}[..., {low}]", f"{{0}}[..., [{low}, 0, {low}]]", "{0}[..., None]",
            "{0}[..., None, :]", f"{{0}}[..., -{low + 1}:]", f"mg.take({{0}}, [{low}, {n - 1}], axis=-1)",
            "{0}[0]", "{0}[::-1]", "{0}[:1]", f"mg.split({{0}}, {n}, axis=-1)[{low}]",
        ]  # fmt: skip
        return self.add(self.rng.choice(texts), a)

    def shaped(self) -> str:
        a = self.pick()
        shape = self.made[a].shape
        new = list(shape)
        self.rng.shuffle(new)
        texts = [
            f"{{0}}.reshape({tuple(-1 if n == ROWS else n for n in new)})", "{0}.reshape(-1)", "{0}[None]",
            "mg.swapaxes({0}, -1, -2)", "mg.swapaxes({0}, 0, 1)", "{0}.T", "mg.expand_dims({0}, -1)",
            "mg.squeeze({0}, axis=-1)", "mg.transpose({0}, (0, 2, 1))", "mg.moveaxis({0}, -1, 0)",
            "mg.broadcast_to({0}, (2, *{0}.shape))", "mg.repeat({0}, 2, axis=-1)",
            f"mg.pad({{0}}, {[(0, 0)] * (len(shape) - 1) + [(1, 0)]})", "{0}.reshape(*{0}.shape[:-1], -1, 1)",
            "{0}.reshape(*{0}.shape[:-2], -1)",
        ]  # fmt: skip
        return self.add(self.rng.choice(texts), a)

    def joined(self) -> str:
        a = self.ranked(1)
        if self.rng.random() < 0.3:
            alike = self.pick(lambda leaf: leaf.kind == "f" and leaf.shape == self.made[a].shape)
            if self.rng.random() < 0.5:
                return self.add(f"mg.stack([{{0}}, {{1}}], axis={self.rng.choice((-1, 1, -2))})", a, alike)
            once = self.add("{0} * {1}", a, alike)
            return self.add("mg.concatenate([{0}, {1}, {2}], axis=-1)", a, once, self.add("{0} * {1}", once, alike))
        shape, axis = self.made[a].shape, self.axis(a)
        rank = len(shape)
        rest = shape[: axis % rank] + shape[axis % rank + 1 :]

        def fits(leaf: Leaf) -> bool:
            at = axis % rank
            return leaf.kind == "f" and len(leaf.shape) == rank and leaf.shape[:at] + leaf.shape[at + 1 :] == rest

        args = [a, self.pick(fits), *([self.pick(fits)] if self.rng.random() < 0.3 else [])]
        self.rng.shuffle(args)
        places = ", ".join(f"{{{i}}}" for i in range(len(args)))
        return self.add(f"mg.concatenate([{places}], axis={axis})", *args)

    def integers(self) -> str:
        """What integers are for: an embedding, a choice, a label, a number."""
        i = self.pick(lambda leaf: leaf.kind == "i")
        width = self.rng.choice(self.widths)
        which = self.rng.randrange(6)
        if which == 0:
            return self.add("mg.take({0}, mg.minimum({1}, 3), axis=0)", self.captured(4, width), i)
        if which == 1:
            return self.add("mg.asarray({0})[mg.minimum({1}, 3)]", self.captured(4, width), i)
        if which == 2:
            return self.add("mg.one_hot(mg.minimum({0}, 3), 4, dtype='float64') @ {1}", i, self.captured(4, width))
        if which == 3:
            a = self.pick(lambda leaf: leaf.kind == "f" and leaf.shape[-1:] not in {(), (ROWS,)})
            return self.add(f"mg.cross_entropy({{0}}, mg.minimum({{1}}, {self.made[a].shape[-1] - 1}))", a, i)
        if which == 4:
            a = self.pick()
            return self.add("mg.where({0} == 1, {1}, 0.5 * {1})", i, a)
        return self.add("{0} + 1" if self.rng.random() < 0.5 else "{0} * 0.1", i)

    def masked(self) -> str:
        """Booleans as values, and as factors."""
        if self.rng.random() < 0.3:
            a, b = (self.pick(lambda leaf: leaf.kind in "bi") for _ in "ab")
            forms = (
                "{0} * {1} + {0} * {2}",
                "{0} * {1} - {0} * {2}",
                "{0} * {1} * {2}",
                "mg.sigmoid({0} + ({1} + {2}))",
            )
            return self.add(self.rng.choice(forms), self.pick(), a, b)
        if self.rng.random() < 0.5:
            return self.add(self.rng.choice(("{0} > 0.113", "{0} <= {1}")), self.pick(), self.pick())
        flag = self.pick(lambda leaf: leaf.kind == "b")
        return self.add("mg.where({0}, {1}, {2})", flag, self.pick(), self.pick())

    LINES = (
        (elementwise, 30), (product, 18), (slab, 5), (reduction, 8), (along, 5), (sliced, 10), (shaped, 7),
        (joined, 12), (integers, 8), (masked, 3),
    )  # fmt: skip

    def line(self, *kinds: Callable[[Maker], str]) -> str:
        """One more line of any kind, or of some kinds; some have others before them."""
        table = [(kind, weight) for kind, weight in self.LINES if not kinds or kind in kinds]
        while True:
            (make,) = self.rng.choices([kind for kind, _ in table], [weight for _, weight in table])
            try:
                return make(self)
            except ImpossibleError:
                continue

    # the whole

    def make(self) -> Body:
        h, i, other = self.widths
        carries = [(h,), (ROWS, h), (ROWS, h), (ROWS, h), (ROWS, 2, h), (), (ROWS,), (other,), (h, h), (ROWS, other)]
        inputs = [(i,), (ROWS, i), (ROWS, i), (ROWS, h), (ROWS, h), (ROWS, 2, h), (), (h,)]
        if self.rowwise:
            carries, inputs = ([shape for shape in shapes if shape[:1] == (ROWS,)] for shapes in (carries, inputs))
        shapes = self.rng.choices(carries, k=self.rng.choice((1, 1, 1, 2, 2, 3)))
        if self.rng.random() < 0.4:
            shapes = shapes[:1] * len(shapes)
        for shape in shapes:
            self.leaf("carries", "s", shape)
        if self.made["s0"] == self.made.get("s1") and self.rng.random() < 0.15:
            self.body.aliases["s1"] = "s0"
        for shape in self.rng.choices(inputs, k=self.rng.choice((1, 1, 1, 1, 2, 2, 0))):
            self.leaf("inputs", "x", shape)
        batch = (ROWS,) if self.rowwise or self.rng.random() < 0.5 else ()
        if self.rng.random() < 0.2:
            self.leaf("inputs", "x", batch, "i")
        if self.rng.random() < 0.1:
            self.leaf("carries", "s", batch, "i")
        for _ in range(self.rng.choice((1, 2, 4, 6, 9, 12, 16, 22))):
            self.line()
        updates: list[str] = []
        for name in self.body.carries:
            updates.append(self.update(name, updates))
        body = dataclasses.replace(self.body, updates=tuple(updates))
        if self.rng.random() < 0.65:
            body = dataclasses.replace(body, outputs=tuple(self.output() for _ in range(self.rng.choice((1, 2, 2, 3)))))
        return without_dead_lines(body)

    def update(self, name: str, updates: list[str]) -> str:
        """The next value of a carry: mostly something squashed, but also every form that a compiler may trip over."""
        leaf = self.made[name]
        if leaf.kind == "i":
            return self.add(self.rng.choice(("{0} + 1", "{0} + 1", "{0} + 0", "mg.where({0} > 2, 0, {0} + 1)")), name)
        which = self.rng.random()
        alike = [n for n, form in self.made.items() if form == leaf and n not in self.body.lines]
        others = [n for n in alike if n != name]
        if which < 0.09 and others:
            return self.rng.choice(others)  # another carry (a swap), an input, a captured array
        if which < 0.12:
            same = [n for n in updates if self.made[n] == leaf]
            return self.rng.choice(same or [name])  # two carries become one, or it is passed through
        if which < 0.14:
            return self.add("np.full({0}.shape, 0.3)", name)
        if which < 0.19:
            return self.viewed(name, alike)
        fresh = self.fitting(leaf)
        if which < 0.45:
            return self.add("mg.tanh({0})", fresh)
        if which < 0.6:
            return self.add("{0} + 0.2 * mg.tanh({1})", name, fresh)
        if which < 0.75:
            return self.add("0.5 * {0} + 0.5 * mg.sin({1})", name, fresh)
        gate = self.fitting(leaf)
        return self.add("mg.sigmoid({0}) * {1} + (1.0 - mg.sigmoid({0})) * mg.tanh({2})", gate, name, fresh)

    def viewed(self, name: str, alike: list[str]) -> str:
        """A view of a carry, an input, or something captured."""
        texts = ["{0}[..., ::-1]", "{0}[::-1]", "{0}.reshape({0}.shape)", "mg.swapaxes({0}, 0, 1)", "{0}.T"]
        self.rng.shuffle(texts)
        for text in texts:
            try:
                form, _ = self.form(Line(text, (other := self.rng.choice(alike),)))
            except ImpossibleError:
                continue
            if form == self.made[name]:
                return self.add(text, other)
        return name

    def fitting(self, leaf: Leaf) -> str:
        """A value of a form, from what there is."""
        same = [name for name in self.body.lines if self.made[name] == leaf]
        if same and self.rng.random() < 0.7:
            return self.rng.choice(same[-3:])
        for _ in range(20):
            a = self.pick(lambda other: other.kind == "f" and other.rows <= leaf.rows)
            try:
                ready = self._fitted(a, leaf)
            except ImpossibleError:
                continue
            if self.made[ready] == leaf:
                return ready
        start = next(name for name, form in self.made.items() if form == leaf)
        return self.add("mg.sin({0})", start)

    def _fitted(self, a: str, leaf: Leaf) -> str:
        shape, target = self.made[a].shape, leaf.shape
        if shape and target and shape[-1] != target[-1] and target[-1] != ROWS:
            a = self.add("{0} @ {1}", a, self.captured(shape[-1], target[-1]))
        elif not target:
            a = self.add("{0}.sum()", a)
        elif len(shape) == len(target) + 1:
            a = self.add("mg.mean({0}, axis=1)" if leaf.rows else "mg.mean({0}, axis=0)", a)
        if self.made[a] != leaf:
            carry = next(name for name, form in self.made.items() if form == leaf)
            a = self.add("{0} + 0.3 * {1}", a, carry)
        return a

    def output(self) -> str:
        which = self.rng.random()
        if which < 0.72:
            read = {arg for line in self.body.lines.values() for arg in line.args}
            fit = [n for n in self.body.lines if self.made[n].rows or not self.rowwise]
            unread = [n for n in fit if n not in read]
            if unread and self.rng.random() < 0.6:
                return self.rng.choice(unread)
            return self.pick(lambda leaf: leaf.rows or not self.rowwise)
        if which < 0.8 and self.body.lines and not self.rowwise:
            return self.add("np.ones(2)")
        leaves = [n for n in self.body.leaves if self.made[n].rows or not self.rowwise]
        if which < 0.88:
            name = self.rng.choice(leaves)
            return self.viewed(name, [name])
        return self.rng.choice(leaves)


def evaluated(line: Line, example: dict[str, Any]) -> np.ndarray:
    """The value of a line on arrays; ImpossibleError where it makes no sense."""
    try:
        with np.errstate(all="ignore"):
            return as_array(eval(str(line), {"mg": mg, "np": np, **{arg: example[arg] for arg in line.args}}))
    except (ValueError, TypeError, IndexError, AttributeError):
        raise ImpossibleError from None


def sized(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return tuple(rows if n == ROWS else n for n in shape)


def as_numbers(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Numbers of both signs between 1/4 and 1 in size, those of a matrix so that a product with it is no larger."""
    if kind == "i":
        return np.asarray(rng.integers(0, 4, shape))
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.25, 1.0, shape))


def without_dead_lines(body: Body) -> Body:
    """Only the lines and captured arrays that something reads (most bodies; dead code is tried in one of eight)."""
    alive = {*body.updates, *(body.outputs or ())}
    for name, line in reversed(body.lines.items()):
        if name in alive:
            alive.update(line.args)
    lines = {name: line for name, line in body.lines.items() if name in alive}
    captured = {name: leaf for name, leaf in body.captured.items() if name in alive}
    leaves = {**captured, **body.carries}
    aliases = {a: b for a, b in body.aliases.items() if a in leaves and b in leaves}
    return dataclasses.replace(body, lines=lines, captured=captured, aliases=aliases)


def make_body(seed: int, rowwise: bool = False) -> Body:
    """The body of a seed; with `rowwise`, one whose rows never meet, as `lengths` needs it."""
    return Maker(seed, rowwise).make()
