"""The laws that hold for every body of `scan`, each a function of one `ScanTrial`, and `check_scan`, which tries them.

A law compares two ways of running the body that must agree, or demands zeros where nothing may arrive. What is exact by
algebra is compared with ==: padding, the future, finished rows, checkpointed states. It raises `GradientError`
(`NondifferentiableError` where differences cannot judge), and returns the worst deviations that it saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import tree
from minigrad.backend import backend_of, use_backend
from minigrad.ops import concatenate, reverse_sequence, where
from minigrad.ops.op import zeros_like
from minigrad.scan import scan
from minigrad.tape import constant
from minigrad.testing.compare import same_bits
from minigrad.testing.numeric import is_float
from minigrad.testing.report import GradReport, NondifferentiableError
from minigrad.testing.scan_exact import check_exact_bptt
from minigrad.testing.scan_long import s9_long, s10_resources
from minigrad.testing.scan_trial import FINAL, OUTPUTS, Answers, Found, Given, ScanTrial, Walk, flipped, part_of, said
from minigrad.training import truncated
from minigrad.transforms import stop_gradient

POISONS = (7.3, 1e308, np.inf, np.nan)  # finite padding alone would not find 0 * NaN
SUBSETS = 3  # of the variables, each tracked alone or left out alone


# ---- S1: compiled, it is the loop ----------------------------------------------------------------------------------


def s1_unrolled(trial: ScanTrial) -> Found:
    """A compiled scan is the loop on the tape, for all steps, one and none: to order 2, whatever is tracked."""
    found = []
    for steps, reverse in ((trial.steps, False), (trial.steps, True), (1, False), (0, False)):
        got = trial.answers_of(steps=steps, reverse=reverse)
        expected = trial.answers_of(steps=steps, reverse=reverse, unroll=True)
        problem = f"compiled and unrolled differ ({steps} steps, reverse={reverse})"
        found += trial.agree("S1", got, expected, problem)
    got, expected = trial.second(trial.way()), trial.second(trial.way(unroll=True))
    found += trial.agree("S1", got, expected, "compiled and unrolled differ at order 2")
    every = trial.answers_of(unroll=True, tangents=False)
    for names in _subsets(trial):
        some = trial.answers(trial.way(), by=names, tangents=False)
        problem = f"tracking only {', '.join(names)} changes what is found"
        found += trial.agree("S1", some, {name: every[name] for name in some}, problem, sized_by=every)
    return found


def _subsets(trial: ScanTrial) -> list[list[str]]:
    """Each variable alone, and all but each; some of these where there are many."""
    names = list(trial.point)
    if len(names) < 2:
        return []
    alone = [[name] for name in names]
    rest = [[other for other in names if other != name] for name in names] if len(names) > 2 else []
    order = np.random.default_rng([trial.seed, 4]).permutation(len(alone) + len(rest))
    return [(alone + rest)[i] for i in order[:SUBSETS]]


# ---- S2 to S4: the order of time -----------------------------------------------------------------------------------


def s2_chunks(trial: ScanTrial) -> Found:
    """Two scans, the second from where the first ended, are one scan over all steps, wherever it is cut."""
    found = []
    for reverse in (False, True):
        whole = trial.answers_of(reverse=reverse, tangents=False)
        for cut in sorted({0, 1, trial.steps - 1, trial.steps}):

            def chunked(xs: Any, init: Any, cut: int = cut, reverse: bool = reverse) -> tuple[Any, Any]:
                pieces = [part_of(xs, 0, cut), part_of(xs, cut, trial.steps)]
                stacks, state = [], init
                for piece in pieces[::-1] if reverse else pieces:
                    state, stack = trial.scan(piece, state, reverse=reverse)
                    stacks.append(stack)
                return state, _joined(stacks[::-1] if reverse else stacks)

            problem = f"two scans, of {cut} steps and of the others, are not one scan"
            found += trial.agree("S2", trial.answers(chunked, tangents=False), whole, problem)
    return found


def s3_reverse(trial: ScanTrial) -> Found:
    """Backwards is flip, scan, flip; with lengths each row is flipped within its own."""

    def there_and_back(xs: Any, init: Any) -> tuple[Any, Any]:
        final, outputs = trial.scan(flipped(xs), init)
        return final, flipped(outputs)

    expected = trial.answers(there_and_back)
    found = trial.agree("S3", trial.answers_of(reverse=True), expected, "reverse is not flip, scan, flip")
    if trial.lengths is None:
        return found

    def turned(values: Any) -> Any:
        return tree.map(lambda leaf: reverse_sequence(leaf, trial.lengths), values)

    def within_lengths(xs: Any, init: Any) -> tuple[Any, Any]:
        final, outputs = trial.scan(turned(xs), init, lengths=trial.lengths)
        return final, _only_valid(trial, turned(outputs))

    def backwards(xs: Any, init: Any) -> tuple[Any, Any]:
        final, outputs = trial.scan(xs, init, lengths=trial.lengths, reverse=True)
        return final, _only_valid(trial, outputs)

    problem = "with lengths, reverse is not flip, scan, flip of each row's own steps"
    return found + trial.agree("S3", trial.answers(backwards), trial.answers(within_lengths), problem)


def _only_valid(trial: ScanTrial, outputs: Any) -> Any:
    """Outputs with zeros in the padding. There a body without outputs has states, other ones in either direction."""
    mask = np.arange(trial.steps)[:, None] < trial.lengths
    return tree.map(lambda leaf: where(_wide(trial, mask, leaf), leaf, zeros_like(leaf)), outputs)


def s4_causality(trial: ScanTrial) -> Found:
    """An output has a gradient of exactly zero by every later input, and by other rows; by earlier ones, the loop's."""
    found = []
    for reverse in (False, True):
        fast, slow = (
            trial.weighed(trial.way(reverse=reverse, **options), map(_of_step, range(trial.steps)))
            for options in trial.ways
        )
        for t, (got, expected) in enumerate(zip(fast, slow, strict=True)):
            for name, gradient in _by_inputs(got):
                later = gradient[:t] if reverse else gradient[t + 1 :]
                trial.zero("S4", later, f"the output of step {t} depends on later inputs: {name}, reverse={reverse}")
            found += trial.agree("S4", got, expected, f"what the output of step {t} depends on differs")
    if trial.rows is not None:
        for row, answers in enumerate(trial.weighed(trial.way(), map(_of_row, range(trial.rows)))):
            for name, gradient in _by_inputs(answers):
                others = np.delete(gradient, row, axis=1)
                trial.zero("S4", others, f"the outputs of row {row} depend on other rows: {name}")
    return found


def _of_step(t: int) -> Callable[[str, Any], Any]:
    """Leaves of a cotangent what belongs to the output of step t."""

    def weigh(name: str, g: Any) -> Any:
        return np.where(_steps_like(g) == t, g, 0.0) if name.startswith(OUTPUTS) else g * 0

    return weigh


def _of_row(row: int) -> Callable[[str, Any], Any]:
    """Leaves of a cotangent what belongs to a row."""

    def weigh(name: str, g: Any) -> Any:
        return np.where(_rows_like(name, g) == row, g, 0.0)

    return weigh


def _by_inputs(answers: Answers) -> list[tuple[str, Any]]:
    return [(name, a) for name, a in answers.items() if name.startswith("gradient by xs")]


def _steps_like(g: Any) -> Any:
    """The number of its step for each element."""
    return np.arange(len(g)).reshape(-1, *[1] * (g.ndim - 1))


def _rows_like(name: str, g: Any) -> Any:
    """The number of its row for each element: axis 0 of states, axis 1 of outputs."""
    axis = 1 if name.startswith(OUTPUTS) else 0
    return np.arange(g.shape[axis]).reshape(-1, *[1] * (g.ndim - axis - 1))


# ---- S5 and S6: rows with lengths of their own ---------------------------------------------------------------------


def s5_ragged(trial: ScanTrial) -> Found:
    """A padded batch is each row by itself, to its own length; a finished row's state is frozen, bit for bit."""
    found = []
    for reverse in (False, True):
        expected = trial.answers(_row_by_row(trial, reverse))
        for options in trial.ways:
            got = trial.answers_of(padded=True, reverse=reverse, **options)
            problem = f"a padded batch is not its rows one by one (reverse={reverse}{said(options)})"
            found += trial.agree("S5", got, expected, problem)
            _frozen(trial, reverse, options)
    return found


def _row_by_row(trial: ScanTrial, reverse: bool) -> Walk:
    """Each row from a scan without padding, over exactly its own steps."""

    def run(xs: Any, init: Any) -> tuple[Any, Any]:
        result: Any = None
        for length in sorted(set(trial.lengths.tolist())):
            final, outputs = trial.scan(part_of(xs, 0, length), init, reverse=reverse, **trial.unrolled)
            rest = None if trial.has_output else init if reverse else final
            padded = _padded(outputs, rest, trial.steps - length)
            these = trial.lengths == length
            result = (final, padded) if result is None else _chosen_rows(trial, these, (final, padded), result)
        return result  # type: ignore[no-any-return]

    return run


def _padded(outputs: Any, rest: Any, count: int) -> Any:
    """Outputs with so many more steps: zeros, or what is copied through."""

    def more(leaf: Any, fill: Any) -> Any:
        return concatenate([leaf, *[fill[None]] * count])

    if rest is None:
        return tree.map(lambda leaf: concatenate([leaf, *[_zero_step(leaf)] * count]), outputs)
    return tree.map(more, outputs, rest)


def _zero_step(leaf: Any) -> Any:
    """One step of zeros, for an output that may have no steps."""
    return backend_of(constant(leaf)).xp.zeros((1, *leaf.shape[1:]), dtype=leaf.dtype)


def _chosen_rows(trial: ScanTrial, these: Any, new: tuple[Any, Any], old: tuple[Any, Any]) -> tuple[Any, Any]:
    final = tree.map(lambda a, b: where(_wide(trial, these, a), a, b), new[0], old[0])
    outputs = tree.map(lambda a, b: where(_wide(trial, these[None], a), a, b), new[1], old[1])
    return final, outputs


def _wide(trial: ScanTrial, mask: Any, leaf: Any) -> Any:
    """A mask on the device, with as many axes as a leaf."""
    return trial.adapter.asarray(mask.reshape(*mask.shape, *[1] * (len(leaf.shape) - mask.ndim)))


def _frozen(trial: ScanTrial, reverse: bool, options: dict[str, Any]) -> None:
    """Past its length a row's state is copied through and its outputs are zero, exactly."""
    lengths, how = trial.lengths, f"(reverse={reverse}{said(options)})"
    options = {"lengths": lengths, "reverse": reverse, **options}
    result = trial.values(trial.way(**options))
    start = trial.values(lambda _, init: (init, ()))
    for name, first in start.items():
        if not same_bits(result[name][lengths == 0], first[lengths == 0]):
            trial.fail("S5", f"{name}: the state of a row of no steps is not its initial one {how}")
    if trial.has_output:
        for name, outputs in result.items():
            if name.startswith(OUTPUTS):
                for row, length in enumerate(lengths):
                    problem = f"{name}: row {row} ends after {length} steps, and is not zero past them {how}"
                    trial.zero("S5", outputs[length:, row], problem)
    if trial.whole:
        return

    def states_alone(xs: Any, init: Any) -> tuple[Any, Any]:
        return (), scan(lambda state, x: trial.state_of(trial.body(state, x)), xs, init, **options)

    for name, states in trial.values(states_alone).items():
        first = start[FINAL + name.removeprefix(OUTPUTS)]
        for row, length in enumerate(lengths):
            kept = first[row] if reverse or length == 0 else states[length - 1, row]
            if any(not same_bits(state, kept) for state in states[length:, row]):
                trial.fail("S5", f"state{name.removeprefix(OUTPUTS)}: finished row {row} is not frozen {how}")


def s6_padding(trial: ScanTrial) -> Found:
    """What stands in the padding, NaN or infinity too, changes no bit, and its gradient is exactly zero."""
    past = np.arange(trial.steps)[:, None] >= trial.lengths
    for reverse in (False, True):
        for options in trial.ways:
            run = trial.way(lengths=trial.lengths, reverse=reverse, **options)
            how = f"reverse={reverse}{said(options)}"
            clean = trial.answers_of(padded=True, reverse=reverse, **options)
            for name, gradient in _by_inputs(clean):
                trial.zero("S6", gradient[past], f"{name} is not zero in the padding ({how})")
            for poison in POISONS:
                spoilt = {n: _poisoned(a, past, poison) for n, a in _inputs(trial).items()}
                with np.errstate(all="ignore"):
                    got = trial.answers(run, at=spoilt)
                problem = f"{poison} in the padding changes the answer ({how})"
                trial.agree("S6", got, clean, problem, exact=True)
    return []


def _inputs(trial: ScanTrial) -> Answers:
    return {name: a for name, a in (trial.point | trial.fixed).items() if name.startswith("xs")}


def _poisoned(leaf: Any, past: Any, poison: float) -> Any:
    """A leaf with something else in its padding: integers, which may be indices, get one that is out of any range."""
    leaf = leaf.copy()
    leaf[past] = poison if is_float(leaf) else leaf.dtype.type(-1e9) if leaf.dtype.kind == "i" else leaf.dtype.type(1)
    return leaf


# ---- S7: truncated backpropagation through time --------------------------------------------------------------------


def s7_truncated(trial: ScanTrial) -> Found:
    """TBPTT(k1, k2) changes no value; its gradients are those of the loop with its state stopped where it cuts."""
    full, last = trial.answers_of(tangents=False), trial.steps
    values = {name: a for name, a in full.items() if name.startswith((FINAL, OUTPUTS))}
    found = []
    for k1, k2 in sorted({(1, 1), (1, 2), (2, 2), (2, 3), (1, last), (last, last)}):
        problem = f"TBPTT({k1}, {k2})"
        windows = _windows(trial, k1, k2)
        got, of_the_last = trial.weighed(windows, (_unchanged, _of_step(last - 1)))
        same = {name: got[name] for name in values}
        found += trial.agree("S7", same, values, f"{problem} changes values", sized_by=full)
        expected = full if k2 >= last else trial.answers(_stopped(trial, k1, k2), tangents=False)
        found += trial.agree("S7", got, expected, f"{problem} is not the loop with its state stopped")
        begin = _beginning((last - 1) // k1 * k1, k1, k2, last)
        if begin:
            for name, gradient in _by_inputs(of_the_last):
                trial.zero("S7", gradient[:begin], f"{problem}: {name} is not zero before the last window begins")
    return found


def _unchanged(name: str, g: Any) -> Any:
    return g


def _windows(trial: ScanTrial, k1: int, k2: int) -> Walk:
    """The windows of `mg.training.truncated`, joined. It cuts up the numbers of the steps, so that xs may be any."""

    def run(xs: Any, init: Any) -> tuple[Any, Any]:
        def net(steps: Any, sequence_length: Any, initial_state: Any) -> tuple[Any, Any]:
            final, outputs = trial.scan(part_of(xs, int(steps[0, 0]), int(steps[-1, 0]) + 1), initial_state)
            return outputs, final

        states = tree.flatten(init)[0]
        rows = states[0].shape[0] if states and states[0].shape else 1
        numbers = np.repeat(np.arange(trial.steps)[:, None], max(rows, 1), axis=1)
        windows = list(truncated(net, numbers, k1, k2, initial_state=init, time_major=True))
        return windows[-1].state, _joined([window.outputs for window in windows])

    return run


def _stopped(trial: ScanTrial, k1: int, k2: int) -> Walk:
    """The same as loops on the tape: every window anew, from a state through which no gradient passes."""

    def run(xs: Any, init: Any) -> tuple[Any, Any]:
        stacks, final = [], init
        for first in range(0, trial.steps, k1):
            begin, end = _beginning(first, k1, k2, trial.steps), min(first + k1, trial.steps)
            state = stop_gradient(trial.scan(part_of(xs, 0, begin), init, unroll=True)[0]) if begin else init
            final, outputs = trial.scan(part_of(xs, begin, end), state, unroll=True)
            stacks.append(part_of(outputs, first - begin, end - begin))
        return final, _joined(stacks)

    return run


def _beginning(first: int, k1: int, k2: int, steps: int) -> int:
    """Where the window begins whose own outputs begin at `first`."""
    return 0 if k2 >= steps else max(0, first - (k2 - k1))


# ---- S8: see `scan_long` for S9 and S10 ----------------------------------------------------------------------------


def s8_exact(trial: ScanTrial) -> Found:
    """Backpropagation through 5000 steps of a linear recurrence is exact: a law of scan itself, whatever the body."""
    with use_backend(trial.adapter.name):
        return list(check_exact_bptt(seed=trial.seed).worst)


# ---- S11 to S13 ----------------------------------------------------------------------------------------------------


def s11_checkpoint(trial: ScanTrial) -> Found:
    """Checkpoints change no bit of a loop's values, and gradients no more than rounding; the body runs twice a step.

    A compiled scan multiplies all rows of a chunk at once, and BLAS may add up one row in another order than several:
    there values are the same to rounding where gradients are wanted, and bit for bit where none are.
    """
    found = []
    for reverse, padded in ((False, False), (True, trial.lengths is not None)):
        for options in trial.ways:
            plain = {"lengths": trial.lengths if padded else None, "reverse": reverse, **options}
            expected = trial.answers_of(padded=padded, reverse=reverse, tangents=False, **options)
            values = trial.values(trial.way(**plain))
            for k in (1, trial.steps - 1, "sqrt"):
                saving = trial.way(checkpoint=k, **plain)
                got = trial.answers(saving, tangents=False)
                problem = f"checkpoint={k!r} changes the answer (reverse={reverse}{said(options)})"
                found += trial.agree("S11", got, expected, problem)
                trial.agree("S11", trial.values(saving), values, problem, exact=True)
                if options:
                    trial.agree("S11", {name: got[name] for name in values}, values, problem, exact=True)
    _runs_twice(trial)
    return found


def _runs_twice(trial: ScanTrial) -> None:
    calls = 0

    def body(state: Any, x: Any) -> Any:
        nonlocal calls
        calls += 1
        return trial.body(state, x)

    trial.answers(trial.way(unroll=True, checkpoint=2, body=body), tangents=False)
    if calls != 2 * trial.steps:
        trial.fail(
            "S11", f"unrolled with checkpoints, the body ran {calls} times in {trial.steps} steps, not twice a step"
        )


def s12_draws(trial: ScanTrial) -> Found:
    """Every step draws anew, and every way of running draws the same: unrolled, compiled, checkpointed, again."""
    by_step = Counter(place[1] if len(place) > 1 else None for place in trial.draws)
    if set(by_step) != set(range(trial.steps)) or len(set(by_step.values())) != 1:
        trial.fail(
            "S12",
            "not every step draws anew: a draw's key holds the number of its step",
            hints=[f"draws by the number of the step in their key: {dict(by_step)}, in {trial.steps} steps"],
        )
    reference = trial.answers_of(unroll=True)
    found = []
    for options in trial.ways:
        problem = f"the seed is the same and the answer is not{said(options)}"
        once, again = (trial.answers(trial.way(**options)) for _ in range(2))
        trial.agree("S12", again, once, problem, exact=True)
        for k in (None, 1, 2, "sqrt"):
            problem = f"the draws differ from those of the loop (checkpoint={k!r}{said(options)})"
            found += trial.agree("S12", trial.answers(trial.way(checkpoint=k, **options)), reference, problem)
    return found


def s13_dtype(trial: ScanTrial) -> Found:
    """float32 in, float32 out, gradients too; and a state that changes its dtype is refused."""
    at = {name: a.astype(np.float32) for name, a in trial.point.items()}
    hints = ["what a body captures as float64, or draws without a dtype, is float64: name it in params, or convert it"]
    for options in trial.ways:
        try:
            answers = trial.answers(trial.way(**options), at=at)
        except TypeError as error:
            trial.fail("S13", f"with all arrays float32 the body is refused{said(options)}: {error}", hints=hints)
        for name, a in answers.items():
            if a.dtype == np.float64:
                trial.fail("S13", f"all arrays are float32, and {name} is float64{said(options)}", hints=hints)
        if not trial.whole and any(name.startswith("init") for name in trial.point):
            _refuses_mixed(trial, options)
    return []


def _refuses_mixed(trial: ScanTrial, options: dict[str, Any]) -> None:
    def body(state: Any, x: Any) -> Any:
        result = trial.body(state, x)
        state = tree.map(lambda leaf: leaf.astype("float32") if is_float(leaf) else leaf, trial.state_of(result))
        return (state, result[1]) if trial.has_output else state

    try:
        trial.values(trial.way(**options, body=body))
    except TypeError:
        return
    trial.fail("S13", f"a float64 state that becomes float32 was not refused{said(options)}")


def _joined(stacks: Sequence[Any]) -> Any:
    """Pieces of time one after the other."""
    return tree.map(lambda *leaves: concatenate(leaves), *stacks)


# ---- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """A law: its name, its check, and what a trial must have for it to say anything.

    `single_steps`: not for a net that walks over whole sequences; `padding`: for rows of which some end early;
    `drawing`: only for bodies that draw random numbers, or only for others; `of_body`: it is about the body at all.

    >>> import numpy as np
    >>> from minigrad.testing.scan_laws import SCAN_LAWS
    >>> from minigrad.testing.scan_trial import Given, ScanTrial
    >>> given = Given(lambda s, x: 0.5 * s + x, np.array(1.0), np.ones(3))
    >>> trial = ScanTrial(given)
    >>> SCAN_LAWS["S6"].missing(trial), SCAN_LAWS["S2"](trial)[0].excess < 1
    ('no row is padded: pass lengths', True)
    """

    id: str
    check: Callable[[ScanTrial], Found]
    single_steps: bool = True
    padding: bool = False
    drawing: bool | None = None
    of_body: bool = True

    def __call__(self, trial: ScanTrial) -> Found:
        return self.check(trial)

    def missing(self, trial: ScanTrial) -> str:
        """Why this law says nothing about a trial; an empty string where it does."""
        if self.single_steps and trial.whole:
            return "the net has no single steps"
        if self.padding and (trial.lengths is None or trial.lengths.min() == trial.steps):
            return "no row is padded: pass lengths"
        if self.drawing is not None and self.drawing is not bool(trial.draws):
            return "the body draws nothing" if self.drawing else "a draw belongs to a step's number, which changes"
        return ""


SCAN_LAWS: dict[str, Law] = {
    law.id: law
    for law in (
        Law("S1", s1_unrolled),
        Law("S2", s2_chunks, drawing=False),
        Law("S3", s3_reverse, single_steps=False, drawing=False),
        Law("S4", s4_causality),
        Law("S5", s5_ragged, single_steps=False, padding=True),
        Law("S6", s6_padding, single_steps=False, padding=True),
        Law("S7", s7_truncated, drawing=False),
        Law("S8", s8_exact, of_body=False, single_steps=False),
        Law("S9", s9_long),
        Law("S10", s10_resources),
        Law("S11", s11_checkpoint),
        Law("S12", s12_draws, drawing=True),
        Law("S13", s13_dtype, single_steps=False),
    )
}


def check_scan(
    body: Any,
    init: Any,
    xs: Any,
    *,
    lengths: Any = None,
    params: Any = None,
    has_output: bool = False,
    laws: Sequence[str] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> GradReport:
    """Check what must hold of every body of `scan`: it is the loop, and keeps to time, lengths, checkpoints and draws.

    body: a function `body(state, x)`, as `mg.scan` takes it (has_output=True: it returns (state, output)); or a net,
    anything that `dynamic_rnn` drives, which is run in training. xs are (T, ...), T being at least 3; with rows
    (T, B, ...), time-major. init is the state's pytree; None, of a net, is its zero state plus drawn numbers.
    lengths: an integer for each row, some of them below T, for the laws of padding; a net gets some by itself.
    params: the tensors that the body captures, in a pytree or a Module; a net's are found.
    laws: names of `SCAN_LAWS`; by default all that say something about this body. The report tells which did.

    All floating arrays, the captured ones too, are taken as float64. What is exact by algebra is compared with ==, the
    rest to 64 eps of the largest number. Returns a `GradReport`. Raises `GradientError`, whose report names the law;
    `NondeterministicError`; `NondifferentiableError` where a law that was asked for cannot judge; TypeError or
    ValueError for arguments that do not fit, for a tensor in params that the body does not use, and for one that it
    captures and that is not in params; and what `scan` raises for the body.

    >>> import minigrad as mg, numpy as np
    >>> from minigrad.testing.scan_laws import check_scan
    >>> W = mg.tensor([[0.5, -1.0], [0.25, 0.75]], requires_grad=True)
    >>> x = np.linspace(-1.0, 1.0, 16).reshape(4, 2, 2)
    >>> body = lambda h, x: mg.tanh(h @ W + x)
    >>> report = check_scan(body, np.ones((2, 2)), x, lengths=[2, 4], params=[W], laws=["S1", "S2", "S5", "S6"])
    >>> report.ok
    True
    >>> print(check_scan(mg.nn.GRUCell(2, 3), None, x, laws=["S3", "S7"]).check)
    S3, S7
    """
    chosen = _chosen(laws)
    title = name or str(getattr(body, "__name__", type(body).__name__)).replace("<lambda>", "body")
    trial = ScanTrial(Given(body, init, xs, lengths, params, has_output, seed, title))
    left_out = {law.id: reason for law in chosen if (reason := law.missing(trial))}
    if laws is not None and left_out:
        raise ValueError("; ".join(f"law {law} says nothing here: {reason}" for law, reason in left_out.items()))
    held: list[str] = []
    worst: Found = []
    with use_backend(trial.adapter.name):
        for law in chosen:
            if law.id in left_out:
                continue
            try:
                worst += law(trial)
                held.append(law.id)
            except NondifferentiableError as error:
                if laws is not None:
                    raise
                left_out[law.id] = error.report.problem
    silent = "; ".join(f"not {law}: {reason}" for law, reason in left_out.items())
    checked = ", ".join(held) + (f" ({silent})" if silent else "")
    worst.sort(key=lambda d: -d.excess)
    return GradReport(title, checked, worst=tuple(worst[:1]), method="laws of scan, float64")


def _chosen(laws: Sequence[str] | None) -> list[Law]:
    """The laws of these names; by default those that are about a body."""
    if laws is None:
        return [law for law in SCAN_LAWS.values() if law.of_body]
    unknown = [law for law in laws if law not in SCAN_LAWS]
    if unknown or isinstance(laws, str) or not laws:
        raise ValueError(f"laws of check_scan are a list of names among {', '.join(SCAN_LAWS)}, got {laws!r}")
    return [SCAN_LAWS[law] for law in laws]
