"""The laws of a compiled scan on random bodies, and a hunt for bodies that break them.

A seed gives a body (`body_maker`), numbers and options. What fails is made smaller and printed as a program. The
oracle is `unroll=True`, which `test_scan` holds to the plain loop.

    python tests/random_bodies.py --count 2000 --seed 0 --mode order1     # or python -m tests.random_bodies
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import random
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __package__:  # run with -m from the root, where pytest's `pythonpath` is not set
    sys.path.insert(0, str(Path(__file__).parent))

import minigrad as mg
from body_maker import Body, Leaf, Line, as_numbers, make_body, sized, without_dead_lines
from minigrad.scan import TraceError, info
from scan_oracle import EPS, MIXTURES, agree, as_array, loop, loss_of, ragged, random_like, second_order

ROWS = 7  # stands for the number of rows while a body is made; no other axis has this size
LARGEST = 6  # of any other axis
# ---- a body with numbers and options -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A body, what it is run on, and how."""

    seed: int
    body: Body
    steps: int
    rows: int
    wanted: tuple[str, ...]  # the leaves that want gradients
    reverse: bool = False
    checkpoint: int | str | None = None
    lengths: tuple[int, ...] | None = None
    mixture: str = MIXTURES[0]
    jitter: bool = False  # whether every number is a few eps off

    def numbers(self, salt: int = 0, steps: int | None = None) -> dict[str, np.ndarray]:
        """An array for each leaf; a leaf's own whatever others there are."""
        arrays = {}
        for name, leaf in self.body.leaves.items():
            shape = sized(leaf.shape, self.rows)
            if name in self.body.inputs:
                shape = (self.steps if steps is None else steps, *shape)
            rng = np.random.default_rng([self.seed, salt, *name.encode()])
            arrays[name] = as_numbers(rng, shape, leaf.kind)
            if self.jitter and leaf.kind == "f":
                arrays[name] = arrays[name] * (1.0 + 4 * EPS * rng.choice([-1.0, 0.0, 1.0], shape))
        return arrays | {a: arrays[b] for a, b in self.body.aliases.items()}

    def floats(self) -> tuple[str, ...]:
        """The leaves that can be differentiated by, without the second names of some."""
        leaves = self.body.leaves.items()
        return tuple(name for name, leaf in leaves if leaf.kind == "f" and name not in self.body.aliases)

    def run(self, apply: Callable[..., Any], at: dict[str, Any], **options: Any) -> list[Any]:
        """The leaves of the result: what stands for each name is in `at`."""
        at = at | {a: at[b] for a, b in self.body.aliases.items()}
        init = tuple(at[name] for name in self.body.carries)
        elems = tuple(at[name] for name in self.body.inputs) or None
        if elems is None:
            options["length"] = self.steps
        fn = self.body.function(at)
        has_output = self.body.outputs is not None
        result = apply(fn, elems, init, has_output=has_output, reverse=self.reverse, **options)
        return list(mg.tree.flatten(result)[0])

    def compiled(self, at: dict[str, Any]) -> list[Any]:
        """What is to be tested."""
        return self.run(candidate, at, lengths=self.lengths, checkpoint=self.checkpoint)

    def expected(self, at: dict[str, Any]) -> list[Any]:
        """What it ought to give."""
        return oracle(self, at)


def candidate(fn: Any, elems: Any, init: Any, **options: Any) -> Any:
    """scan, compiled. The laws need the compiled program to have run: a silent loop would pass them all."""
    before = info().runs
    result = mg.scan(fn, elems, init, **options)
    steps = options.get("length", 0) if elems is None else elems[0].shape[0]
    lengths = options.get("lengths")
    if steps and (lengths is None or any(lengths)) and tree_leaves(result):
        assert info().runs > before, "no compiled program ran"
    return result


def oracle(case: Case, at: dict[str, Any]) -> list[Any]:
    """The ordinary tape."""
    return case.run(mg.scan, at, lengths=case.lengths, unroll=True)


def candidate_of_self_test(fn: Any, elems: Any, init: Any, **options: Any) -> Any:
    return mg.scan(fn, elems, init, unroll=True, **options)


def oracle_of_self_test(case: Case, at: dict[str, Any]) -> list[Any]:
    """The loop of scan_oracle; with lengths, over each row alone, with what is captured for it."""
    if case.lengths is None:
        return case.run(loop, at)
    rows = []
    for row, n in enumerate(case.lengths):
        own = {
            name: at[name][row : row + 1] if leaf.rows and name in case.body.captured else at[name]
            for name, leaf in case.body.leaves.items()
            if name in at
        }
        own |= {name: at[name][:, row : row + 1] for name, leaf in case.body.inputs.items()}
        own |= {name: at[name][row : row + 1] for name in case.body.carries}
        rows.append(case.run(one_row, own, lengths=[n]))
    finals = len(case.body.carries) if case.body.outputs is not None else 0
    return [mg.concatenate(leaves, axis=int(i >= finals)) for i, leaves in enumerate(zip(*rows, strict=True))]


def one_row(fn: Any, elems: Any, init: Any, length: int | None = None, **options: Any) -> Any:
    """`ragged` of one row, also where nothing but its length is read."""
    return ragged(fn, np.zeros((length, 1)) if elems is None else elems, init, **options)


def tree_leaves(values: Any) -> list[Any]:
    return mg.tree.flatten(values)[0]


def make_case(seed: int, lengths: bool = False, checkpoint: bool = False) -> Case:
    """A body with sizes and options, all from a seed."""
    body = make_body(seed, lengths)
    rng = random.Random(seed)
    case = Case(seed, body, rng.choice((3, 3, 4, 5, 2, 1)), rng.choice((2, 2, 3, 1)), (), rng.random() < 0.4)
    names = case.floats()
    wanted = names if rng.random() < 0.6 else tuple(name for name in names if rng.random() < 0.5)
    case = dataclasses.replace(case, wanted=wanted, mixture=rng.choice(MIXTURES))
    if checkpoint:
        case = dataclasses.replace(case, checkpoint=rng.choice((2, 2, "sqrt", 1, 3)))
    if lengths:
        rows = rng.choice((2, 3, 4))
        ns = tuple(rng.randint(0, case.steps) for _ in range(rows))
        case = dataclasses.replace(case, rows=rows, lengths=ns)
    return case


# ---- the laws ------------------------------------------------------------------------------------------------------

Answers = dict[str, Any]


def differentiable(outputs: list[Any]) -> list[Any]:
    return [out for out in outputs if as_array(out).dtype.kind == "f"]


def tracked(case: Case, salt: int = 0, steps: int | None = None) -> dict[str, mg.Tensor]:
    numbers = case.numbers(salt, steps).items()
    return {name: mg.tensor(a, requires_grad=name in case.wanted) for name, a in numbers}


def weighted_sum(outputs: list[Any], seed: int) -> Any:
    """One number that depends on every output, or for some seeds on some; None if none of them wants a gradient."""
    outputs = differentiable(outputs)
    total, rng = None, random.Random(seed)
    share = rng.choice((1.0, 0.4))  # a result that nobody uses has no cotangent
    for out, weight in zip(outputs, random_like(outputs, seed), strict=True):
        used = rng.random() < share
        if used and isinstance(out, mg.Tensor) and out.requires_grad:
            term = (out * weight).sum()
            total = term if total is None else total + term
    return total


def gradients(case: Case, at: dict[str, Any]) -> Answers:
    """What `backward` left, zero where it left nothing."""
    for name in case.body.leaves:
        assert name in case.wanted or at[name].grad is None, f"{name} got a gradient that nobody wants"
    none = {name: np.zeros(at[name].shape) for name in case.wanted if at[name].grad is None}
    return {f"gradient by {name}": at[name].grad for name in case.wanted if name not in none} | {
        f"gradient by {name}": zero for name, zero in none.items()
    }


def named(outputs: list[Any]) -> Answers:
    return {f"output {i}": np.array(as_array(out)) for i, out in enumerate(outputs)}


def values(case: Case) -> tuple[Answers, Answers]:
    """Of arrays alone, and of tensors where nothing is recorded: what inference runs."""
    at = case.numbers()
    got = case.compiled(at)
    with mg.no_grad():
        again = case.compiled(tracked(case))
    assert not any(isinstance(out, mg.Tensor) for out in got), "arrays gave a Tensor"
    expected = named(case.expected(at))
    return named(got) | {f"{k} of tensors": v for k, v in named(again).items()}, expected | {
        f"{k} of tensors": v for k, v in expected.items()
    }


def order1(case: Case) -> tuple[Answers, Answers]:
    """Values, and what `backward` adds to the leaves that want it."""
    return answers_of(case, case.compiled), answers_of(case, case.expected)


def answers_of(case: Case, way: Callable[[dict[str, Any]], list[Any]], salt: int = 0) -> Answers:
    at = tracked(case, salt)
    outputs = way(at)
    loss = weighted_sum(outputs, case.seed)
    if loss is not None:
        loss.backward()
    return named(outputs) | gradients(case, at)


def variables(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The numbers of the leaves that want gradients, and those of the others."""
    numbers = case.numbers()
    return {n: a for n, a in numbers.items() if n in case.wanted}, {
        n: a for n, a in numbers.items() if n not in case.wanted
    }


def tangents(case: Case) -> tuple[Answers, Answers]:
    """Forward mode."""
    at, others = variables(case)
    if not at:
        return {}, {}
    direction = random_like(at, case.seed)
    results = []
    for way in (case.compiled, case.expected):
        _, pushed = mg.jvp(lambda at, way=way: differentiable(way(at | others)), (at,), (direction,))
        results.append({f"tangent {i}": tangent for i, tangent in enumerate(pushed)})
    return results[0], results[1]


def order2(case: Case) -> tuple[Answers, Answers]:
    """The Hessian's product with a direction, by one of the three mixtures of modes."""
    at, others = variables(case)
    if not at:
        return {}, {}
    results = []
    for way, mixture in ((case.expected, MIXTURES[0]), (case.compiled, case.mixture)):

        def f(at: Any, way: Any = way) -> list[Any]:
            return differentiable(way(at | others))

        if not results:
            like = f(at)
        product = second_order(loss_of(f, like, case.seed), at, case.seed, mixture)
        results.append({f"Hessian product by {name}": part for name, part in product.items()})
    return results[1], results[0]


def alive(case: Case) -> tuple[Answers, Answers]:
    """Calls that are alive at once: their forward and backward runs mixed, walked twice, outputs kept over others."""
    got: Answers = {}
    expected: Answers = {}
    calls = []
    for salt in (0, 1):
        at = tracked(case, salt)
        outputs = case.compiled(at)
        calls.append((at, outputs, weighted_sum(outputs, case.seed)))
    kept = [named(outputs) for _, outputs, _ in calls]
    for salt, again in ((0, True), (1, False), (0, False)):
        if calls[salt][2] is not None:
            calls[salt][2].backward(retain=again)
        if salt == 0 and again and calls[0][2] is not None:
            got |= {f"call 0, walked once: {k}": np.array(v) for k, v in gradients(case, calls[0][0]).items()}
    third = tracked(case, 2, case.steps + 1 if case.lengths is None and case.body.inputs else None)
    loss = weighted_sum(case.compiled(third), case.seed)
    if loss is not None:
        loss.backward()
    for salt, (at, outputs, _) in enumerate(calls):
        got |= {f"call {salt}: {k}": v for k, v in (named(outputs) | gradients(case, at)).items()}
        for name, was in kept[salt].items():
            now = named(outputs)[name]
            assert np.array_equal(now, was, equal_nan=True), f"call {salt}: {name} was overwritten by a later call"
        once = answers_of(case, case.expected, salt)
        expected |= {f"call 0, walked once: {k}": v for k, v in once.items() if salt == 0}
        expected |= {f"call {salt}: {k}": 2 * v if salt == 0 and "grad" in k else v for k, v in once.items()}
    return got, {k: expected[k] for k in got}


def threads(case: Case) -> tuple[Answers, Answers]:
    """The same body in two threads at once, each with numbers of its own."""
    got: Answers = {}
    errors: list[BaseException] = []
    start = threading.Barrier(2)

    def work(salt: int) -> None:
        try:
            start.wait()
            for turn in range(3):
                answers = answers_of(case, case.compiled, salt)
                got.update({f"thread {salt}, turn {turn}: {k}": v for k, v in answers.items()})
        except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the main thread
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        workers = [threading.Thread(target=work, args=(salt,)) for salt in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        answers_of(case, case.compiled)  # refused here too: it cannot be traced; else threads are to blame
        raise RuntimeError(f"only with threads: {type(errors[0]).__name__}: {errors[0]}") from errors[0]
    expected: Answers = {}
    for salt in (0, 1):
        answers = answers_of(case, case.expected, salt)
        expected |= {f"thread {salt}, turn {turn}: {k}": v for turn in range(3) for k, v in answers.items()}
    return {k: got[k] for k in expected}, expected


Law = Callable[[Case], tuple[Answers, Answers]]
MODES: dict[str, tuple[Law, dict[str, bool]]] = {
    "values": (values, {}),
    "order1": (order1, {}),
    "order2": (order2, {}),
    "tangents": (tangents, {}),
    "lengths": (order1, {"lengths": True}),
    "lengths2": (order2, {"lengths": True}),
    "checkpoint": (order1, {"checkpoint": True}),
    "checkpoint2": (order2, {"checkpoint": True}),
    "both": (order1, {"checkpoint": True, "lengths": True}),
    "alive": (alive, {}),
    "alive-lengths": (alive, {"lengths": True}),
    "threads": (threads, {}),
}


class LawError(AssertionError):
    """A law that does not hold; `kind` is what shrinking keeps."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def hold(case: Case, law: Law) -> bool:
    """Assert a law of a case. Raises LawError, or what says that the body cannot be traced.

    False for a case of which rounding decides: its answers differ in their last bits, but an error of 4 eps in its
    numbers moves them by more than 16 eps, so that nobody could be asked for 64. There are few of those.
    """
    try:
        got, expected = law(case)
    except TraceError:
        raise
    except Exception as error:
        places = [frame for frame in traceback.extract_tb(error.__traceback__) if "random_bodies" not in frame.filename]
        place = " <- ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in places[:-4:-1])
        raise LawError(f"{type(error).__name__}: {error}\n({place})", type(error).__name__) from error
    try:
        agree(got, expected)
    except AssertionError as error:
        if distance(got, expected) < 1e-9 and distance(law(jittered(case))[1], expected) > 16 * EPS:
            return False
        raise LawError(described(got, expected) or str(error), "numbers") from None
    return True


def jittered(case: Case) -> Case:
    return dataclasses.replace(case, jitter=True)


def size_of(answers: Answers) -> float:
    """The largest answer, but at least 1: what differences are measured by."""
    return float(max([1.0, *[np.abs(as_array(a)).max(initial=0.0) for a in answers.values()]]))


def distance(got: Answers, expected: Answers) -> float:
    """The largest difference, in sizes of the answers; infinite where forms differ or NaN is."""
    pairs = [(as_array(got[name]), as_array(e)) for name, e in expected.items()]
    if any(g.shape != e.shape or g.dtype != e.dtype for g, e in pairs):
        return np.inf
    largest = max([0.0, *[np.abs(np.subtract(g, e, dtype=np.float64)).max(initial=0.0) for g, e in pairs]])
    return float(largest / size_of(expected)) if np.isfinite(largest) else np.inf


def described(got: Answers, expected: Answers) -> str:
    """Which answers differ, by how much, and where most."""
    scale = size_of(expected)
    lines = []
    for name in expected:
        g, e = as_array(got[name]), as_array(expected[name])
        if g.shape != e.shape or g.dtype != e.dtype:
            lines.append(f"{name}: {g.dtype}{g.shape}, expected {e.dtype}{e.shape}")
            continue
        if not e.size:
            continue
        apart = np.abs(np.subtract(g, e, dtype=np.float64))
        apart = np.where(np.isnan(apart), np.inf, apart)
        if apart.max() > (64 * EPS * scale if e.dtype.kind == "f" else 0):
            at = np.unravel_index(apart.argmax(), apart.shape)
            where = [int(i) for i in at]
            lines.append(f"{name}: max abs diff {apart.max():.3g} at {where}: got {g[at]:.6g}, expected {e[at]:.6g}")
    return "\n".join(lines)


# ---- smaller ones --------------------------------------------------------------------------------------------------


def smaller(case: Case) -> Iterator[Case]:
    """Cases with a little less of something, the greatest savings first."""
    body = case.body
    for steps in sorted({1, 2, case.steps - 1} & set(range(1, case.steps))):
        ns = case.lengths and tuple(min(n, steps) for n in case.lengths)
        yield dataclasses.replace(case, steps=steps, lengths=ns)
    if case.lengths is not None and case.rows > 1:
        for row in range(case.rows):
            ns = case.lengths[:row] + case.lengths[row + 1 :]
            yield dataclasses.replace(case, rows=case.rows - 1, lengths=ns)
    elif case.rows > 2:
        yield dataclasses.replace(case, rows=2)
    if case.reverse:
        yield dataclasses.replace(case, reverse=False)
    if case.checkpoint is not None:
        yield dataclasses.replace(case, checkpoint=None)
    if case.lengths is not None and any(n != case.steps for n in case.lengths):
        yield dataclasses.replace(case, lengths=(case.steps,) * case.rows)
    if case.mixture != MIXTURES[0]:
        yield dataclasses.replace(case, mixture=MIXTURES[0])
    for name in case.wanted:
        yield dataclasses.replace(case, wanted=tuple(n for n in case.wanted if n != name))
    for new in map(without_dead_lines, smaller_bodies(body, forms_of(body))):
        kept = tuple(name for name in case.wanted if name in new.leaves and name not in new.aliases)
        yield dataclasses.replace(case, body=new, wanted=kept)


def smaller_bodies(body: Body, forms: dict[str, Leaf]) -> Iterator[Body]:
    if body.outputs is not None:
        for i in range(len(body.outputs)):
            yield dataclasses.replace(body, outputs=body.outputs[:i] + body.outputs[i + 1 :])
        yield dataclasses.replace(body, outputs=None)
    for name in body.aliases:
        yield dataclasses.replace(body, aliases={a: b for a, b in body.aliases.items() if a != name})
    used = {arg for line in body.lines.values() for arg in line.args} | {*(body.outputs or ())}
    for i, name in enumerate(body.carries):  # a carry that only goes into itself
        others = body.updates[:i] + body.updates[i + 1 :]
        if len(body.carries) > 1 and name not in used | {*others} and name not in body.aliases.values():
            carries = {n: leaf for n, leaf in body.carries.items() if n != name}
            yield dataclasses.replace(body, carries=carries, updates=others)
    for name in body.inputs:
        if name not in used | {*body.updates}:
            yield dataclasses.replace(body, inputs={n: leaf for n, leaf in body.inputs.items() if n != name})
    for i, (carry, update) in enumerate(zip(body.carries, body.updates, strict=True)):
        if update != carry:
            yield dataclasses.replace(body, updates=(*body.updates[:i], carry, *body.updates[i + 1 :]))
    yield from shorter_bodies(body, forms, used)


def shorter_bodies(body: Body, forms: dict[str, Leaf], used: set[str]) -> Iterator[Body]:
    """Bodies with fewer or shorter lines."""
    order = [*body.leaves, *body.lines]
    for name in reversed(order):  # every use of one value replaced by an earlier one of its form
        for other in order[: order.index(name)]:
            if forms[other] == forms[name] and name in {*used, *body.updates}:
                yield renamed(body, name, other)
    for name, line in body.lines.items():  # a long line replaced by one of its parts
        for text in simpler_texts(line):
            new = Line(text, line.args)
            if form_of(new, forms) == forms[name]:
                yield dataclasses.replace(body, lines={**body.lines, name: new})


SIMPLER = ("{0}", "{1}", "{2}", "{0} + {1}", "{0} * {1}", "{0} @ {1}", "mg.tanh({0})", "2.0 * {0}")


def simpler_texts(line: Line) -> list[str]:
    inner = re.fullmatch(r"mg\.\w+\((.*)\)", line.text)
    texts = [*([inner[1]] if inner else []), *SIMPLER]
    size = lambda text: (len(re.findall(r"\{", text)), len(text))  # noqa: E731
    return [text for text in texts if size(text) < size(line.text)]


def renamed(body: Body, old: str, new: str) -> Body:
    lines = {name: line.renamed(old, new) for name, line in body.lines.items()}
    updates = tuple(new if name == old else name for name in body.updates)
    outputs = body.outputs and tuple(new if name == old else name for name in body.outputs)
    return dataclasses.replace(body, lines=lines, updates=updates, outputs=outputs)


def form_of(line: Line, forms: dict[str, Leaf]) -> Leaf | None:
    rng = np.random.default_rng(0)
    try:
        with np.errstate(all="ignore"):
            scope = {arg: as_numbers(rng, forms[arg].shape, forms[arg].kind) for arg in line.args}
            scope |= {arg: scope[arg] > 0 for arg in line.args if forms[arg].kind == "b"}
            value = as_array(eval(str(line), {"mg": mg, "np": np, **scope}))
    except Exception:  # noqa: BLE001  # whatever is wrong with it, it is no line
        return None
    return Leaf(value.shape, value.dtype.kind, any(forms[arg].rows for arg in line.args))


def forms_of(body: Body) -> dict[str, Leaf]:
    forms = body.leaves
    for name, line in body.lines.items():
        form = form_of(line, forms)
        assert form is not None, line
        forms[name] = form
    return forms


def shrunk(case: Case, law: Law, kind: str, seconds: float = 20.0) -> Case:
    """A small case that fails in the same way."""
    until = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < until:
        found = False
        for other in smaller(case):
            if time.monotonic() > until:
                break
            try:
                other.expected(other.numbers())
            except Exception:  # noqa: BLE001  # no sound body
                continue
            try:
                hold(other, law)
            except LawError as failure:
                if failure.kind == kind:
                    case, found = other, True
                    break
            except TraceError:
                pass
    return case


ILL = "ill-conditioned"

# ---- the hunt ------------------------------------------------------------------------------------------------------


def report(case: Case, mode: str, failure: LawError) -> str:
    """What fails, in as few lines as it takes."""
    leaves = case.body.leaves.items()
    shapes = [f"{name} {sized(leaf.shape, case.rows)}{'' if leaf.kind == 'f' else ' int'}" for name, leaf in leaves]
    options = [f"T={case.steps}", *(["reverse=True"] if case.reverse else [])]
    options += [f"lengths={list(case.lengths)}"] if case.lengths is not None else []
    options += [f"checkpoint={case.checkpoint!r}"] if case.checkpoint is not None else []
    options += [case.mixture] if mode.endswith("2") else []
    aliases = "".join(f"  # {a} is {b}" for a, b in case.body.aliases.items())
    return "\n".join([
        f"seed {case.seed}, mode {mode} fails:",
        *["    " + line for line in str(failure).splitlines()[:6]],
        f"  {', '.join(options)}; a step: {', '.join(shapes)}{aliases}",
        f"  gradients wanted by: {', '.join(case.wanted) or 'nobody'}",
        *["    " + line for line in case.body.source().splitlines()],
        f"  python tests/random_bodies.py --seed {case.seed} --count 1 --mode {mode}",
    ])  # fmt: skip


def check(seed: int, mode: str, shrink: bool = True) -> str | None:
    """Hold the body of a seed to a law. Gives the reason if it was not judged; raises LawError with a report."""
    law, options = MODES[mode]
    case = make_case(seed, **options)
    try:
        return None if hold(case, law) else ILL
    except TraceError as error:
        return str(error)
    except LawError as failure:
        if shrink:
            case = shrunk(case, law, failure.kind)
            try:
                hold(case, law)
            except LawError as smaller_failure:
                failure = smaller_failure
        raise LawError(report(case, mode, failure), failure.kind) from None


def hunt(
    count: int = 300, seed: int = 0, modes: tuple[str, ...] = ("order1",), shrink: bool = True, stop: int = 1
) -> int:
    """Hold many bodies to some laws; print what fails, what cannot be traced, and how many there were of each."""
    refused: collections.Counter[str] = collections.Counter()
    failures, total = 0, 0
    for mode in modes:
        for number in range(seed, seed + count):
            total += 1
            try:
                reason = check(number, mode, shrink)
            except LawError as failure:
                failures += 1
                print(failure, "\n", flush=True)
                if stop and failures >= stop:
                    return failures
                continue
            if reason is not None:
                refused[" ".join(reason.split())[:150]] += 1
    ill = refused.pop(ILL, 0)
    print(f"{total} runs, {', '.join(modes)}: {failures} wrong, {refused.total()} not traced, {ill} ill-conditioned")
    for reason, times in refused.most_common(10):
        print(f"{times:5d} refused: {reason}")
    return failures


def script(case: Case) -> str:
    """A case as a program of its own, which prints what `scan` and the loop give."""
    body = case.body
    wanted = [name for name in case.floats() if name in case.wanted]
    aliases = "".join(f"{a} = {b}\n" for a, b in body.aliases.items())
    numbers = "".join(
        f"{name} = mg.tensor(numbers({name!r}, {a.shape}, {body.leaves[name].kind!r}), "
        f"requires_grad={name in case.wanted})\n"
        for name, a in case.numbers().items() if name not in body.aliases
    )  # fmt: skip
    init, elems = (f"({', '.join(names)}{',' if names else ''})" for names in (body.carries, body.inputs))
    options = [f"has_output={body.outputs is not None}", f"reverse={case.reverse}", f"lengths={case.lengths!r}"]
    options += [] if body.inputs else [f"length={case.steps}"]
    return f"""import numpy as np

import minigrad as mg


def numbers(name, shape, kind):
    rng = np.random.default_rng([{case.seed}, 0, *name.encode()])
    if kind == "i":
        return np.asarray(rng.integers(0, 4, shape))
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.25, 1.0, shape))


{numbers}{aliases}

{body.source()}


for unroll in (True, False):
    result = mg.scan(fn, {elems if body.inputs else None}, {init}, {", ".join(options)}, unroll=unroll,
                     checkpoint=None if unroll else {case.checkpoint!r})
    leaves = mg.tree.flatten(result)[0]
    print(*leaves, sep="\\n")
    total = sum((leaf * leaf).sum() for leaf in leaves if leaf.dtype.kind == "f")
    if total.requires_grad:
        total.backward()
    for leaf in ({", ".join(wanted)}{"," if wanted else ""}):
        print("gradient", leaf.grad)
        leaf.grad = None
"""


def main() -> None:
    """The command line."""
    global candidate, oracle  # one switch of a script: what is compared with what
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--mode", default="order1", help=f"all, or some of {', '.join(MODES)}, with commas between")
    parser.add_argument("--stop", type=int, default=1, help="after so many failures (0: never)")
    parser.add_argument("--no-shrink", action="store_true", help="print bodies as they were drawn")
    parser.add_argument("--show", action="store_true", help="print the bodies, and run nothing")
    parser.add_argument("--script", action="store_true", help="print the seed's case as a program, shrunk if it fails")
    parser.add_argument("--self-test", action="store_true", help="compare unroll=True with the loop of scan_oracle")
    options = parser.parse_args()
    warnings.simplefilter("error")
    modes = tuple(MODES) if options.mode == "all" else tuple(options.mode.split(","))
    if options.self_test:
        candidate, oracle = candidate_of_self_test, oracle_of_self_test
    for mode in modes if options.show or options.script else ():
        for seed in range(options.seed, options.seed + options.count):
            law, flags = MODES[mode]
            case = make_case(seed, **flags)
            if options.script:
                try:
                    hold(case, law)
                except TraceError:
                    pass
                except LawError as failure:
                    case = shrunk(case, law, failure.kind)
                print(script(case))
            else:
                print(f"# seed {seed}\n{case.body.source()}\n")
    if not (options.show or options.script):
        sys.exit(min(hunt(options.count, options.seed, modes, not options.no_shrink, options.stop), 1))


if __name__ == "__main__":
    main()
