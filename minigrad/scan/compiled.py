"""A compiled scan is an op: its forward runs one program, its gradient another, and its derivative is a scan again."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minigrad.backend import BACKEND_OF_TYPE, Backend
from minigrad.hold import hold
from minigrad.ops.indexing import getitem_
from minigrad.ops.op import zeros_like
from minigrad.scan import rewrite
from minigrad.scan.differentiate import Derivative, differentiate, push_forward
from minigrad.scan.distribute import MergedRowsError, is_view, once_nodes
from minigrad.scan.emit import Kept, emit
from minigrad.scan.interpret import interpret, uses
from minigrad.scan.program import Frame, Program
from minigrad.scan.rows import Alignment, Rows, aligned, gather, masked
from minigrad.scan.symbol import CONSTANT, Symbol, current
from minigrad.scan.trace import Body, order_of
from minigrad.tape import Array, Box, Value, added, careful, constant, last_walk, recorder, unbundle
from minigrad.transforms import vjp

Places = frozenset[int]


class Counters:
    """How often bodies were traced, programs compiled and run since the process began."""

    traces = 0
    compilations = 0
    runs = 0


class Training(NamedTuple):
    """The forward program of a scan that will be differentiated: its body, and what it keeps for backward."""

    body: Body
    program: Program
    residuals: list[Symbol]
    once: set[Symbol]
    backward: dict[Any, tuple[Derivative, Program | None]]

    @property
    def kept(self) -> Sequence[Kept]:
        """Where each of the residuals is after a run."""
        return self.program.source.kept[len(self.body.stacked) :]


class Saved:
    """What one forward run left for its backward run; the frame goes back to the pool with it.

    It is `spent` when a backward run has written over it.
    """

    def __init__(self, training: Training, steps: int, frame: Frame, fresh: Sequence[Array], rows: Rows | None) -> None:
        self.rows = rows
        self.training = training
        self.steps = steps
        self.frame = frame
        self.fresh = fresh
        self.spent = False
        self.lock = threading.Lock()

    def residuals(self, flags: Sequence[bool], lent: bool, reverse: bool) -> list[Array]:
        """Those residuals that are lent to a program with these flags, or those that are not."""
        first, program = len(self.training.body.stacked), self.training.program
        chosen = [first + i for i in range(len(self.training.residuals)) if flags[i] == lent]
        return [program.stack(place, reverse, self.frame, self.fresh) for place in chosen]

    def __repr__(self) -> str:
        return "(what backward needs)"

    def __del__(self) -> None:
        self.training.program.give_back(self.steps, self.frame, self.rows)


class Checkpoints(NamedTuple):
    """What a forward run left that is done again in backward: the state before each chunk of steps."""

    training: Training
    interval: int
    states: list[Sequence[Array]]

    def __repr__(self) -> str:
        return f"(states of every {self.interval} steps)"


def chunks(steps: int, size: int, reverse: bool) -> list[slice]:
    """The steps in chunks, in the order in which they are walked; one, though empty, of no steps."""
    parts = [slice(start, min(start + size, steps)) for start in range(0, steps, size)] or [slice(0, 0)]
    return parts[::-1] if reverse else parts


class CompiledScan:
    """A scan over one body, in one direction of time. Inputs are the initial state, elems and captured values."""

    name = "scan"
    pull_into: Callable[..., Any] | None = None
    structural = False
    gives_new_arrays = True  # gradients that nobody else holds: a walk may add to them in place

    def __init__(
        self,
        body: Body,
        backend: Backend,
        reverse: bool,
        alignment: Alignment | None = None,
    ) -> None:
        self.alignment = alignment
        self.body = body
        self.backend = backend
        self.reverse = reverse
        self._inference: Program | None = None
        self._training: dict[Places, Training] = {}
        self._scans: dict[Any, Any] = {}
        self._lock = threading.RLock()

    # ---- programs --------------------------------------------------------------------------------------------------

    def inference(self) -> Program:
        """The program that keeps nothing for a gradient."""
        with self._lock:
            if self._inference is None:
                body = rewrite.forward(self.body, self.backend)
                wishes = ["fresh"] * len(body.stacked)
                self._inference = self._program(body, wishes, self.reverse, "forward", self.alignment)
            return self._inference

    def training(self, wanted: Places) -> Training:
        """The program that keeps what the gradients of the inputs at `wanted` need."""
        with self._lock:
            found = self._training.get(wanted)
            if found is None:
                found = self._training[wanted] = self._trained(wanted)
            return found

    def _trained(self, wanted: Places) -> Training:
        """Compile what `training` gives."""
        body = rewrite.forward(self.body, self.backend)
        once = once_nodes(order_of(body.results, body.leaves), body.captured)
        given = [i for i, s in enumerate(body.stacked) if s.dtype.kind == "f"]
        leaves = {body.leaves[i] for i in wanted}
        derivative = differentiate(body, leaves, given, self.backend, careful.get(), once)
        residuals = [*body.carry, *_residuals(body, derivative, once)]
        kept = body._replace(stacked=[*body.stacked, *residuals])
        wishes = ["fresh"] * len(body.stacked) + ["frame"] * len(residuals)
        program = self._program(kept, wishes, self.reverse, "forward", self.alignment)
        return Training(body, program, residuals, once, {})

    def backward(
        self, training: Training, wanted: Places, given: Sequence[int], spending: bool = True
    ) -> tuple[Derivative, Program | None]:
        """The program of the gradients at `wanted` from the cotangents of the stacked results at `given`.

        If it is `spending`, it may write over what the forward run kept. None: packed rows have no such program.
        """
        key = (wanted, tuple(given), careful.get(), spending)
        with self._lock:
            found = training.backward.get(key)
            if found is None:
                body = training.body
                leaves = {body.leaves[i] for i in wanted}
                derivative = differentiate(body, leaves, given, self.backend, careful.get(), training.once)
                stacked = derivative.body.elems[len(body.carry) + len(body.elems) :]
                whole = derivative.body._replace(elems=[*training.residuals, *body.elems, *stacked])
                whole = rewrite.backward(whole, self.backend, packed=self.alignment is not None)
                wishes = ["fresh"] * len(whole.stacked)
                alignment = None
                if self.alignment is not None:
                    known = aligned(body, self.alignment.leaves(body), self.alignment.rows)
                    flags = [s in known for s in training.residuals]
                    alignment = self._derived(flags, len(given), derivative)
                kept = [(leaf, at) for leaf, at in zip(training.residuals, training.kept, strict=True) if at.lasting]
                lent, spent = [leaf for leaf, _ in kept], [leaf for leaf, at in kept if spending and at.alone]
                try:
                    program = self._program(whole, wishes, not self.reverse, "backward", alignment, lent, spent)
                except MergedRowsError:
                    program = None
                found = training.backward[key] = (derivative, program)
            return found

    def _derived(self, first: Sequence[bool], given: int, derivative: Derivative) -> Alignment:
        """The alignment of a derivative: of its first inputs, those of this body, and cotangents."""
        mine = self.alignment
        assert mine is not None  # noqa: S101
        return Alignment(
            mine.rows,
            (*first, *mine.elems, *[True] * given),
            (*mine.captured, *mine.summed),
            tuple([mine.captured[i] for i in derivative.captured]),
        )

    def _program(
        self,
        body: Body,
        wishes: list[str],
        reverse: bool,
        title: str,
        alignment: Alignment | None,
        lent: Sequence[Symbol] = (),
        spent: Sequence[Symbol] = (),
    ) -> Program:
        """Compile a body."""
        Counters.compilations += 1
        source = emit(body, reverse, wishes, alignment, hasattr(self.backend, "elementwise"), lent, spent)
        return Program(source, self.backend, title)

    # ---- running ---------------------------------------------------------------------------------------------------

    def __call__(
        self, inputs: Sequence[Value], steps: int, interval: int | None = None, rows: Rows | None = None
    ) -> list[Value]:
        """The final state's leaves, the stacked results and the sums; recorded if an input is tracked.

        With an `interval`, the state of every so many steps is kept for backward, and the others computed again.
        """
        arrays = [constant(value) for value in inputs]
        if Symbol in {array.__class__ for array in arrays}:
            return self._as_node(inputs, steps, rows)
        make = recorder.get()
        parents = [
            value.record if isinstance(value, Box) and array.dtype.kind == "f" else None
            for value, array in zip(inputs, arrays, strict=True)
        ]
        if make is None or not any(parents):
            return [Box.new(array) for array in self._infer(arrays, steps, rows)]
        training = self.training(frozenset([i for i, parent in enumerate(parents) if parent is not None]))
        saved: Saved | Checkpoints
        if interval is None:
            out, saved = self._train(training, arrays, steps, rows)
        else:
            saved = Checkpoints(training, interval, [])
            out = self._infer(arrays, steps, rows, interval, saved.states)
        held = hold(arrays, self.backend)
        record = make(self, [*arrays, saved], [*parents, None], {"steps": steps, "rows": rows}, tuple(out), held)
        return list(unbundle(record))

    def _train(
        self, training: Training, arrays: Sequence[Array], steps: int, rows: Rows | None
    ) -> tuple[list[Array], Saved]:
        """A run that keeps what backward needs."""
        Counters.runs += 1
        program = training.program
        frame, fresh = program.frame(steps, rows), program.fresh(steps, rows)
        finals, sums = program.run(steps, *self._apart(arrays), frame, fresh, rows)
        stacks = [program.stack(i, self.reverse, frame, fresh) for i in range(len(self.body.stacked))]
        return [*finals, *stacks, *sums], Saved(training, steps, frame, fresh, rows)

    def _run_again(self, saved: Saved, arrays: Sequence[Array]) -> None:
        """Compute once more what a backward run has written over: the walk before was not the last after all."""
        program = saved.training.program
        saved.fresh = program.fresh(saved.steps, saved.rows)
        program.run(saved.steps, *self._apart(arrays), saved.frame, saved.fresh, saved.rows)

    def _infer(
        self,
        arrays: Sequence[Array],
        steps: int,
        rows: Rows | None,
        size: int | None = None,
        states: list[Any] | None = None,
    ) -> list[Array]:
        """A run that keeps nothing, by chunks of steps, so that its memory does not grow with them.

        The state before each chunk is added to `states`.
        """
        Counters.runs += 1
        program = self.inference()
        carry, elems, captured = self._apart(arrays)
        whole = program.fresh(steps, rows)
        totals: list[Array] | None = None
        for chunk in chunks(steps, size or program.steps_in_cache(), self.reverse):
            if states is not None:
                states.append(carry)
            n, some = chunk.stop - chunk.start, None if rows is None else rows.part(chunk)
            frame = program.frame(n, some)
            xs, results = self._cut(elems, chunk, rows), program.part(whole, chunk, rows)
            carry, sums = program.run(n, carry, xs, captured, frame, results, some)
            totals = sums if totals is None else [added(a, b) for a, b in zip(totals, sums, strict=True)]
            program.give_back(n, frame, some)
        stacks = [program.stack(i, self.reverse, None, whole) for i in range(len(self.body.stacked))]
        return [*carry, *stacks, *(totals or [])]

    def _cut(self, elems: Sequence[Array], chunk: slice, rows: Rows | None) -> list[Array]:
        """Some steps of the inputs."""
        if rows is None or self.alignment is None:
            return [x[chunk] for x in elems]
        return [x[rows.packed(chunk) if flag else chunk] for x, flag in zip(elems, self.alignment.elems, strict=True)]

    def _apart(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Values for the leaves of the body as those of carry, elems and captured."""
        a, b = len(self.body.carry), len(self.body.carry) + len(self.body.elems)
        return values[:a], values[a:b], values[b : b + len(self.body.captured)]

    def _as_node(self, inputs: Sequence[Value], steps: int, rows: Rows | None) -> list[Value]:
        """This scan inside of a body that is being traced."""
        trace = current.get()
        assert trace is not None  # noqa: S101  # there are symbols
        symbols = [trace.capture(value) if not isinstance(value, Box) else trace.symbol_of(value) for value in inputs]
        body = self.body
        forms = [(leaf.shape, leaf.dtype) for leaf in body.carry]
        with_rows = set() if self.alignment is None else aligned(body, self.alignment.leaves(body), self.alignment.rows)
        forms += [
            ((rows.total, *s.shape[1:]) if rows is not None and s in with_rows else (steps, *s.shape), s.dtype)
            for s in body.stacked
        ]
        forms += [(s.shape, s.dtype) for s in body.summed]
        outs = trace.bundle(self, symbols, {"steps": steps, "rows": rows}, forms)
        make = recorder.get()
        parents = [trace.parent(value) for value in inputs]  # of a derivative that is taken inside of the body
        if make is None or not any(parents):
            return [Box.new(out) for out in outs]
        return list(unbundle(make(self, symbols, parents, {"steps": steps, "rows": rows}, tuple(outs), None)))

    def on_arrays(self, *arrays: Array, steps: int, rows: Rows | None) -> list[Array]:
        """A run that nobody differentiates, as a step of another program."""
        return self._infer(arrays, steps, rows)

    # ---- differentiation -------------------------------------------------------------------------------------------

    def pull(self, g: Any, out: Any, values: Sequence[Any], static: dict[str, Any], wanted: Sequence[Any]) -> Any:
        """One gradient an input, from a dict of cotangents by the place of the result."""
        steps, rows = static["steps"], static["rows"]
        saved = values[-1]
        kept = isinstance(saved, (Saved, Checkpoints))
        inputs = values[:-1] if kept else values
        want = frozenset([i for i, w in enumerate(wanted[: len(inputs)]) if w is not None])
        if kept and {value.__class__ for value in [*inputs, *g.values()]} <= BACKEND_OF_TYPE.keys():
            gradients = self._pull_arrays(g, inputs, saved, steps, rows, want)
        else:  # tensors, or what has no values
            gradients = self._pull_as_scan(g, inputs, steps, rows, want)
        return [gradients.get(i) for i in range(len(wanted))]

    def _pull_arrays(
        self,
        g: dict[int, Array],
        arrays: Sequence[Array],
        saved: Saved | Checkpoints,
        steps: int,
        rows: Rows | None,
        wanted: Places,
    ) -> dict[int, Array]:
        """The gradients by the backward program: of all steps, or of one chunk after the other, each done again."""
        Counters.runs += 1
        training, body = saved.training, saved.training.body
        count = len(body.carry)
        given = [i for i in range(len(body.stacked)) if count + i in g]
        spending = last_walk.get() or isinstance(saved, Checkpoints)
        derivative, program = self.backward(training, wanted, given, spending)
        if program is None:
            assert rows is not None  # noqa: S101  # of packed ones
            return self._pull_masked(g, arrays, rows, wanted)
        lent = program.source.lent
        carry = [g[i] if i in g else zeros_like(arrays[i]) for i in derivative.active]
        first = count + len(body.stacked)
        summed = [self._cotangent(g, first + i, s) for i, s in enumerate(body.summed)]
        cotangents = [g[count + i] for i in given]
        _, elems, captured = self._apart(arrays)
        if isinstance(saved, Saved):
            with saved.lock:
                if saved.spent:
                    self._run_again(saved, arrays)
                saved.spent = spending
                residuals, whole = saved.residuals(lent, False, self.reverse), program.fresh(steps, rows)
                frame = program.frame_behind(
                    saved.frame, steps, rows, lambda: saved.residuals(lent, True, self.reverse)
                )
                carry, totals = program.run(
                    steps, carry, [*residuals, *elems, *cotangents], [*captured, *summed], frame, whole, rows
                )
        else:
            whole, totals = program.fresh(steps, rows), []
            order = chunks(steps, saved.interval, self.reverse)
            for chunk, state in zip(reversed(order), reversed(saved.states), strict=True):
                n, some = chunk.stop - chunk.start, None if rows is None else rows.part(chunk)
                xs = self._cut(elems, chunk, rows)
                _, again = self._train(training, [*state, *xs, *captured], n, some)
                residuals = again.residuals(lent, False, self.reverse)
                frame = program.frame_behind(
                    again.frame, n, some, functools.partial(again.residuals, lent, True, self.reverse)
                )
                at = chunk if rows is None else rows.packed(chunk)
                carry, sums = program.run(
                    n, carry, [*residuals, *xs, *[c[at] for c in cotangents]], [*captured, *summed], frame,
                    program.part(whole, chunk, rows), some,
                )  # fmt: skip
                totals = [added(a, b) for a, b in zip(totals, sums, strict=True)] if totals else sums
        stacks = [program.stack(i, not self.reverse, None, whole) for i in range(len(derivative.elems))]
        return self._by_place(derivative, carry, stacks, totals)

    def uses_inside(self, record: Any, argnum: int) -> Any:
        """The uses of one input by the steps of a recorded run; see `Tape.uses`."""
        steps, rows = record.static["steps"], record.static["rows"]

        def run(inputs: Sequence[Value]) -> Sequence[Value]:
            if rows is None:
                return interpret(self.body, inputs, steps, self.reverse)
            body = masked(self.body, self.backend)
            return self._masked(inputs, rows, lambda padded: interpret(body, padded, steps, self.reverse))

        return uses(run, record, argnum)

    def _cotangent(self, g: dict[int, Any], place: int, like: Symbol) -> Any:
        """A cotangent, or zeros for a result that nobody used."""
        return g[place] if place in g else self.backend.xp.zeros(like.shape, dtype=like.dtype)

    def _by_place(
        self, derivative: Derivative, finals: Sequence[Any], stacks: Sequence[Any], sums: Sequence[Any]
    ) -> dict[int, Any]:
        """What a derivative gives, by the place of the input."""
        count = len(self.body.carry)
        gradients = dict(zip(derivative.active, finals, strict=True))
        gradients |= {count + i: stack for i, stack in zip(derivative.elems, stacks, strict=True)}
        first = count + len(self.body.elems)
        return gradients | {first + i: total for i, total in zip(derivative.captured, sums, strict=True)}

    def _pull_as_scan(
        self, g: dict[int, Value], inputs: Sequence[Value], steps: int, rows: Rows | None, wanted: Places
    ) -> dict[int, Value]:
        """The gradients as a scan over the derivative of the body: recorded, or part of a body around it."""
        if rows is not None:
            return self._pull_masked(g, inputs, rows, wanted)
        body = self.body
        count = len(body.carry)
        given = [i for i in range(len(body.stacked)) if count + i in g]
        key = ("pull", wanted, tuple(given), careful.get())
        with self._lock:
            if key not in self._scans:
                leaves = {body.leaves[i] for i in wanted}
                care = "elementwise" if careful.get() else False
                derivative = differentiate(body, leaves, given, self.backend, care, set())
                alignment = None
                if self.alignment is not None:
                    alignment = self._derived([True] * count, len(given), derivative)
                scan = CompiledScan(derivative.body, self.backend, not self.reverse, alignment)
                self._scans[key] = (derivative, scan)
            derivative, scan = self._scans[key]
        states = self._states(inputs, steps, rows)
        carry = [g[i] if i in g else zeros_like(inputs[i]) for i in derivative.active]
        first = count + len(body.stacked)
        summed = [self._cotangent(g, first + i, s) for i, s in enumerate(body.summed)]
        _, elems, captured = self._apart(inputs)
        out = scan([*carry, *states, *elems, *[g[count + i] for i in given], *captured, *summed], steps, None, rows)
        a, b = len(derivative.active), len(derivative.active) + len(derivative.elems)
        boxed = any(isinstance(value, Box) for value in [*inputs, *g.values()])
        out = out if boxed else [constant(value) for value in out]
        return self._by_place(derivative, out[:a], out[a:b], out[b:])

    def _pull_masked(
        self, g: dict[int, Value], inputs: Sequence[Value], rows: Rows, wanted: Places
    ) -> dict[int, Value]:
        """Of packed rows, the gradients to be differentiated again are those of the same scan done with masks."""
        boxed = any(isinstance(value, Box) for value in [*inputs, *g.values()])
        places = sorted(wanted)

        def of(*values: Value) -> list[Value]:
            filled = dict(zip(places, values, strict=True))
            given = [filled.get(i, value) for i, value in enumerate(inputs)]
            results = self._masked(given, rows, lambda padded: self._masked_scan()(padded, rows.steps))
            return [results[place] for place in g]

        _, pull = vjp(of, *[inputs[i] for i in places])
        gradients = pull(list(g.values()))
        return {i: gradient if boxed else constant(gradient) for i, gradient in zip(places, gradients, strict=True)}

    def _masked_scan(self) -> CompiledScan:
        """The scan over padded rows that copies the states of rows that are over."""
        with self._lock:
            if "masked" not in self._scans:
                body = masked(self.body, self.backend)
                self._scans["masked"] = CompiledScan(body, self.backend, self.reverse)
            return self._scans["masked"]  # type: ignore[no-any-return]

    def _masked(
        self, inputs: Sequence[Value], rows: Rows, run: Callable[[Sequence[Value]], Sequence[Value]]
    ) -> list[Value]:
        """What a run over packed rows gives, by one over padded rows."""
        alignment = self.alignment
        assert alignment is not None  # noqa: S101  # there are rows
        carry, elems, captured = self._apart(inputs)
        padding = rows.padding(self.reverse, self.backend)
        padded = [
            getitem_(x, index=(padding.source,)) if flag else x for x, flag in zip(elems, alignment.elems, strict=True)
        ]
        spare = [getitem_(x, index=(padding.row,)) for x in carry]
        out = run([*carry, padding.mask, *padded, *captured, *spare])
        count = len(carry)
        at = (rows.step_of, rows.row_of)
        return [*out[:count], *[gather(x, index=at, shape=(rows.steps, rows.all)) for x in out[count:]]]

    def _states(self, inputs: Sequence[Value], steps: int, rows: Rows | None) -> list[Value]:
        """The state before every step, from a run of its own."""
        body = self.body
        if not body.carry:
            return []
        with self._lock:
            if "states" not in self._scans:
                whole = Body(body.carry, body.elems, body.captured, body.next, list(body.carry), [])
                self._scans["states"] = CompiledScan(whole, self.backend, self.reverse, self.alignment)
        return self._scans["states"](inputs, steps, None, rows)[len(body.carry) :]  # type: ignore[no-any-return]

    def push(
        self, tangents: Sequence[Any], out: Any, values: Sequence[Any], static: dict[str, Any]
    ) -> dict[int, Value]:
        """The tangents of the results, as a scan over the body and its tangent."""
        steps, rows = static["steps"], static["rows"]
        saved = values[-1]
        inputs = values[:-1] if isinstance(saved, Saved | Checkpoints) else values
        given = frozenset(i for i, t in enumerate(tangents[: len(inputs)]) if t is not None)
        key = ("push", given, careful.get())
        with self._lock:
            if key not in self._scans:
                forward = push_forward(self.body, given, self.backend, "elementwise" if careful.get() else False)
                alignment = self.alignment
                if alignment is not None:
                    alignment = Alignment(
                        alignment.rows,
                        (*alignment.elems, *[alignment.elems[i] for i in forward.elems]),
                        (*alignment.captured, *[alignment.captured[i] for i in forward.captured]),
                        tuple([alignment.summed[i] for i in forward.summed]),
                    )
                self._scans[key] = (forward, CompiledScan(forward.body, self.backend, self.reverse, alignment))
            forward, scan = self._scans[key]
        carry, elems, captured = self._apart(inputs)
        seeds = [tangents[i] if tangents[i] is not None else zeros_like(inputs[i]) for i in range(len(inputs))]
        t_carry, t_elems, t_captured = self._apart(seeds)
        result = scan(
            [
                *carry, *[t_carry[i] for i in forward.carry], *elems, *[t_elems[i] for i in forward.elems], *captured,
                *[t_captured[i] for i in forward.captured],
            ],
            steps, None, rows,
        )  # fmt: skip
        boxed = any(isinstance(value, Box) for value in [*inputs, *seeds])
        result = result if boxed else [constant(value) for value in result]
        count = len(carry)
        pushed = dict(zip(forward.carry, result[count : count + len(forward.carry)], strict=True))
        stacks = result[count + len(forward.carry) :]
        pushed |= {count + i: stack for i, stack in zip(forward.stacked, stacks, strict=False)}
        first = count + len(self.body.stacked)
        return pushed | {
            first + i: total for i, total in zip(forward.summed, stacks[len(forward.stacked) :], strict=True)
        }


def _residuals(body: Body, derivative: Derivative, once: set[Symbol]) -> list[Symbol]:
    """The forward values of every step that the derivative reads."""
    forward = set(order_of(body.results, [])) - once - set(body.leaves)
    found: dict[Symbol, None] = {}
    seen: set[Symbol] = set()
    stack = list(derivative.body.results)
    while stack:
        symbol = stack.pop()
        if symbol in seen or symbol.op is CONSTANT:
            continue
        seen.add(symbol)
        if symbol in forward and not is_view(symbol):
            found[symbol] = None
        else:
            stack += symbol.inputs
    return list(found)
