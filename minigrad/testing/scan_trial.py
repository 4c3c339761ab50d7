"""One body of `scan` at one point: the ways of running it, and the values and derivatives that each way gives.

A point is a dict of float64 arrays by name: the floating leaves of the initial state, of the inputs, and the tensors
that the body captures. Whatever a body captures cannot be passed to it, so a captured tensor stands in for another
value for as long as an answer is worked out. That makes of every body a function of its point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import numpy as np

from minigrad import random, tree
from minigrad.backend import BACKEND_OF_TYPE, backend_of, default_backend, use_backend
from minigrad.nn.module import is_module, tensors_of
from minigrad.nn.run import Run, is_whole_sequence, over_time
from minigrad.ops import add
from minigrad.ops.op import as_value
from minigrad.ops.sequence import as_lengths
from minigrad.scan import scan
from minigrad.tape import Leaf, constant
from minigrad.tensor import Tensor, asarray, tensor
from minigrad.testing.adapters import Minigrad
from minigrad.testing.compare import random_cotangent, same_bits
from minigrad.testing.hints import simple_hints
from minigrad.testing.numeric import EPS, is_float
from minigrad.testing.report import (
    Context,
    Deviation,
    NondeterministicError,
    NondifferentiableError,
    deviations,
    literal,
)
from minigrad.transforms import grad, jvp, vjp
from minigrad.walk import reachable

Answers = dict[str, np.ndarray[Any, Any]]
"""What a way of running a body gives, by name, on the host."""

Found = list[Deviation]
"""The worst deviations that a law saw."""

Walk = Callable[[Any, Any], tuple[Any, Any]]
"""A way of running a body: `(xs, init) -> (final state, stacked outputs)`."""

FEWEST = 3  # with fewer steps there is no order of time to get wrong
ROUNDING = 64 * EPS  # between two ways of adding up the same few terms, in units of the largest
NUDGE = 2.0**-40  # by which a point is moved to see what rounding does to the answers
WORST_CONDITION = 1e4  # beyond it answers are not told from rounding, and there is no verdict
OUTPUTS, FINAL = "outputs", "final state"
GRADIENT, TANGENT = "gradient by ", "tangent of "


class Given(NamedTuple):
    """What a user asked about, as it was given; the fields are the arguments of `check_scan`.

    >>> from minigrad.testing.scan_trial import Given
    >>> Given(lambda s, x: s + x, 0.0, [1.0, 2.0, 3.0]).seed
    0
    """

    body: Any
    init: Any
    xs: Any
    lengths: Any = None
    params: Any = None
    has_output: bool = False
    seed: int = 0
    name: str = "body"


class ScanTrial:
    """A body or a net, its point, and what the laws need: `scan`, `answers`, `values`, `agree` and `fail`.

    Floating leaves are taken as float64. A net (anything with `zero_state`) is run in training, with the seed; its
    initial state, unless given, is its zero state plus drawn numbers, and its lengths, unless given, are of every kind.
    Raises what `check_scan` says about its arguments.

    >>> import numpy as np
    >>> from minigrad.testing.scan_trial import Given, ScanTrial
    >>> trial = ScanTrial(Given(lambda s, x: s + x, 0.5, np.array([1.0, 2.0, 3.0])))
    >>> trial.values(trial.way(reverse=True))["outputs"]
    array([6.5, 5.5, 3.5])
    >>> trial.values(trial.way(steps=2))["final state"]
    array(3.5)
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        self.seed = given.seed
        self._known: dict[tuple[int, bool, bool, bool], Answers] = {}
        self._drawn: dict[Any, Answers] = {}
        self.net = given.body if hasattr(given.body, "zero_state") else None
        self.whole = self.net is not None and is_whole_sequence(self.net)
        self.has_output = given.has_output or self.net is not None
        self.params = _captured(given.params, self.net)
        self.adapter = Minigrad(_backend_of([given.xs, given.init, *self.params.values()]))
        xs = _numbered("xs", given.xs)
        self.steps = _steps_of(xs)
        self.lengths = self._lengths_of(xs)
        self.rows = None if self.lengths is None else len(self.lengths)
        init = given.init
        if init is None:
            init = self._drawn_init()
        self.structures = {part: tree.flatten(value)[1] for part, value in (("init", init), ("xs", xs))}
        arrays = _named("init", init) | _named("xs", xs) | self.params
        host = {name: _on_host(value) for name, value in arrays.items()}
        self.point = {name: np.array(a, np.float64) for name, a in host.items() if is_float(a)}
        self.fixed = {name: a for name, a in host.items() if not is_float(a)}
        if not self.point:
            raise TypeError("there is nothing to check: no leaf of init, xs and params of check_scan is floating-point")
        with use_backend(self.adapter.name):
            self.body = self._plain_body()
            self._probe()
            self.draws = [] if self.whole else self._places_of_draws()

    # ---- running -----------------------------------------------------------------------------------------------

    def scan(self, xs: Any, init: Any, *, body: Any = None, **options: Any) -> tuple[Any, Any]:
        """The final state and the stacked outputs; of a body without outputs these are the states."""
        if self.whole:
            run = Run(training=False)
            outputs, final, _ = over_time(
                self.net, run, xs, init, options.get("lengths"), bool(options.get("reverse", False))
            )
            return final, outputs
        body = self.body if body is None else body
        if self.has_output:
            result: tuple[Any, Any] = scan(body, xs, init, has_output=True, **options)
            return result
        states = scan(body, xs, init, **options)
        steps = tree.flatten(xs)[0][0].shape[0]
        last = 0 if options.get("reverse") else -1
        return (tree.map(lambda leaf: leaf[last], states) if steps else init), states

    def way(self, steps: int | None = None, **options: Any) -> Walk:
        """Run as `scan` does with these options, over all steps or the first few."""

        def run(xs: Any, init: Any) -> tuple[Any, Any]:
            return self.scan(xs if steps is None else part_of(xs, 0, steps), init, **options)

        return run

    @property
    def unrolled(self) -> dict[str, Any]:
        """The options of the reference. A net that walks over whole sequences has no other way than its own."""
        return {} if self.whole else {"unroll": True}

    @property
    def ways(self) -> list[dict[str, Any]]:
        """The options of each way of running: compiled and, where there is one, as a loop on the tape."""
        return [{}] if self.whole else [{}, {"unroll": True}]

    def state_of(self, result: Any) -> Any:
        """The new state in what the body returned."""
        return result[0] if self.has_output else result

    # ---- answers -----------------------------------------------------------------------------------------------

    def values(self, run: Walk, at: Mapping[str, Any] | None = None) -> Answers:
        """What a way gives where nobody wants a gradient."""
        with self._standing_in():
            xs, init = self._assume(self._on_device(at))
            return self._hosted(_result(run(xs, init)))

    def answers(
        self,
        run: Walk,
        at: Mapping[str, Any] | None = None,
        by: Sequence[str] | None = None,
        tangents: bool = True,
    ) -> Answers:
        """Values, gradients and tangents by some variables (all of them)."""
        f, moved, rest = self._function(run, at, by)
        with self._standing_in():
            out, pull = vjp(f, moved)
            found = self._hosted(out | rest) | self._hosted(pull(self._like(out, 1))[0], GRADIENT)
            if tangents:
                found |= self._hosted(jvp(f, (moved,), (self._like(moved, 2),))[1], TANGENT)
        return found

    def answers_of(
        self,
        *,
        steps: int | None = None,
        reverse: bool = False,
        padded: bool = False,
        unroll: bool = False,
        tangents: bool = True,
    ) -> Answers:
        """The answers of a plain `way`, `padded` being with lengths: worked out once, since many laws look at them."""
        key = (self.steps if steps is None else steps, reverse, padded, unroll)
        if key not in self._known:
            lengths = self.lengths if padded else None
            self._known[key] = self.answers(self.way(steps, lengths=lengths, reverse=reverse, unroll=unroll))
        found = self._known[key]
        return found if tangents else {name: a for name, a in found.items() if not name.startswith(TANGENT)}

    def weighed(self, run: Walk, weights: Iterable[Callable[[str, Any], Any]]) -> list[Answers]:
        """Values and gradients for each change of the drawn cotangents: one run, and a walk back for each."""
        f, moved, rest = self._function(run)
        with self._standing_in():
            out, pull = vjp(f, moved)
            values, drawn = self._hosted(out | rest), self._draw(out, 1)
            found = []
            for weigh in weights:
                g = {name: self.adapter.asarray(np.asarray(weigh(name, a))) for name, a in drawn.items()}
                found.append(values | self._hosted(pull(g)[0], GRADIENT))
        return found

    def _function(
        self, run: Walk, at: Mapping[str, Any] | None = None, by: Sequence[str] | None = None
    ) -> tuple[Callable[..., dict[str, Any]], dict[str, Any], dict[str, Any]]:
        """A way as a function of some variables, these, and what it returns that is no float: filled when it runs."""
        here = self._on_device(at)
        moved = {name: here[name] for name in (self.point if by is None else by)}
        rest: dict[str, Any] = {}

        def f(moved: dict[str, Any]) -> dict[str, Any]:
            xs, init = self._assume(here | moved)
            result = _result(run(xs, init))
            rest.update({name: leaf for name, leaf in result.items() if not is_float(leaf)})
            return {name: leaf for name, leaf in result.items() if is_float(leaf)}

        return f, moved, rest

    def _hosted(self, values: Mapping[str, Any], prefix: str = "") -> Answers:
        return {prefix + name: self.adapter.to_host(leaf) for name, leaf in values.items()}

    def second(self, run: Walk, at: Mapping[str, Any] | None = None) -> Answers:
        """The Hessian of a bent sum of the results, times a direction: reverse over reverse."""
        here = self._on_device(at)
        moved = {name: here[name] for name in self.point}
        direction = self._like(moved, 2)

        def loss(moved: dict[str, Any]) -> Any:
            xs, init = self._assume(here | moved)
            result = {name: leaf for name, leaf in _result(run(xs, init)).items() if is_float(leaf)}
            weights = self._like(result, 1)
            return _total([(leaf + leaf * leaf) * weights[name] for name, leaf in result.items()])

        def slope(moved: dict[str, Any]) -> Any:
            gradients = grad(loss)(moved)
            return _total([gradients[name] * direction[name] for name in moved])

        with self._standing_in():
            found = grad(slope)(moved)
        return self._hosted(found, "second derivative by ")

    def cotangents(self, run: Walk) -> list[Any]:
        """What `answers` pulls back, for each floating result of a way, in their order."""
        values = {name: a for name, a in self.values(run).items() if is_float(a)}
        drawn = self._like(values, 1)
        return [self.adapter.to_host(drawn[name]) for name in values]

    def _like(self, values: Mapping[str, Any], stream: int) -> dict[str, Any]:
        """A drawn array for each value, of its dtype."""
        drawn = self._draw(values, stream)
        return {name: self.adapter.asarray(a.astype(values[name].dtype)) for name, a in drawn.items()}

    def _draw(self, values: Mapping[str, Any], stream: int) -> Answers:
        """A drawn array for each value, the same whenever names and shapes are the same."""
        shapes = {name: tuple(values[name].shape) for name in sorted(values)}
        key = (stream, *shapes.items())
        if key not in self._drawn:
            rng = np.random.default_rng([self.seed, stream])
            self._drawn[key] = {name: random_cotangent(np.zeros(shape), rng) for name, shape in shapes.items()}
        return self._drawn[key]

    # ---- values that stand in for captured tensors -------------------------------------------------------------

    @contextmanager
    def _standing_in(self) -> Iterator[None]:
        """Within the block `_assume` may put values into captured tensors; after it they are what they were."""
        kept = [(t, t.array, t.record) for t in self.params.values()]
        try:
            yield
        finally:
            for t, array, record in kept:
                t.array, t.record = array, record

    def _assume(self, here: Mapping[str, Any]) -> tuple[Any, Any]:
        """xs and the initial state of a point, whose captured tensors take their values from now on."""
        for name, t in self.params.items():
            value = here[name]
            t.array, t.record = constant(value), value.record if isinstance(value, Tensor) else None
        xs, init = (self.structures[p].build([here[p + q] for q in self.structures[p].paths()]) for p in ("xs", "init"))
        if self.net is not None and self.given.init is None:
            init = tree.map(_added, self.net.zero_state(self.rows), init)
        return xs, init

    def _on_device(self, at: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: self.adapter.asarray(a) for name, a in (self.point | self.fixed | dict(at or {})).items()}

    # ---- verdicts ----------------------------------------------------------------------------------------------

    def agree(
        self,
        law: str,
        got: Answers,
        expected: Answers,
        problem: str,
        exact: bool = False,
        sized_by: Answers | None = None,
    ) -> Found:
        """Demand that two ways give the same, to 64 eps of the largest number that took part, or exactly.

        The largest is looked for in the expected answers, or in more of them. Where that is missed, the tolerance is
        multiplied by the measured `condition`. Returns the worst deviation. What is no float is compared exactly.
        """
        if got.keys() != expected.keys():
            self.fail(law, f"{problem}: one way gives {sorted(got)}, the other {sorted(expected)}")
        largest = self._largest(sized_by or expected)
        tol = 0.0 if exact or not np.isfinite(largest) else ROUNDING * largest
        worst: Found = []
        for name, wanted in expected.items():
            found = got[name]
            if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
                kinds = [f"{a.dtype}{list(a.shape)}" for a in (found, wanted)]
                self.fail(law, f"{problem}: {name} is {kinds[0]}, and should be {kinds[1]}")
            allowed = tol if is_float(wanted) else 0.0
            compared = deviations(found, wanted, allowed, name)
            if allowed and any(d.excess > 1 for d in compared):
                allowed *= max(1.0, self.condition)
                compared = deviations(found, wanted, allowed, name)
            if any(d.excess > 1 for d in compared):
                hints = simple_hints(np.asarray(found, float), np.asarray(wanted, float), allowed)
                hints += _time_hints(name, found, wanted, allowed)
                self.fail(law, f"{problem}: {name} differs", worst=compared, hints=hints, method=_method(allowed))
            if allowed > tol * WORST_CONDITION:
                reason = f"no verdict is possible: rounding is amplified {self.condition:.0e} times at this point"
                self.fail(law, reason, worst=compared, error=NondifferentiableError)
            worst += compared[:1]
        return sorted(worst, key=lambda d: -d.excess)[:1]

    @cached_property
    def condition(self) -> float:
        """How far the loop's answers move, in units of the largest number, where the point moves by one such unit."""
        run = self.way(**self.unrolled)

        def answers(at: Answers) -> Answers:
            return self.answers(run, at) | ({} if self.whole else self.second(run, at))

        rng = np.random.default_rng([self.seed, 5])
        here, moved = answers(self.point), 0.0
        for _ in range(3):
            there = answers({name: a * (1 + rng.choice([-NUDGE, NUDGE], a.shape)) for name, a in self.point.items()})
            moved = max(
                [moved, *(float(np.abs(there[n] - a).max(initial=0.0)) for n, a in here.items() if is_float(a))]
            )
        return moved / (NUDGE * self._largest(here))

    def _largest(self, answers: Answers) -> float:
        """The largest number among some answers, the point, and the cotangents."""
        numbers = [*answers.values(), *self.point.values()]
        return max([1.5, *(float(np.abs(a).max(initial=0.0)) for a in numbers if is_float(a))])

    def zero(self, law: str, got: Any, problem: str) -> None:
        """Demand zeros, exactly."""
        found = deviations(got, np.zeros(np.shape(got)), 0.0)
        if any(d.excess > 1 for d in found):
            self.fail(law, problem, worst=found, method="compared with ==")

    def fail(self, law: str, problem: str, **particulars: Any) -> NoReturn:
        """Raise a GradientError that names the law, the case and the line that shows it again."""
        self.context_of(law).fail(law, problem, **particulars)

    def context_of(self, law: str) -> Context:
        """What every failure of a law says."""
        return Context(self.given.name, self._case(), self._reproduce(law))

    def _reproduce(self, law: str) -> str:
        given = self.given
        body = getattr(given.body, "__name__", "net" if self.net is not None else "body")
        words = ["body" if body == "<lambda>" else body, _source(given.init), _source(given.xs)]
        if given.lengths is not None:
            words.append(f"lengths={list(map(int, np.asarray(self.lengths)))}")
        if given.params is not None:
            words.append("params=params")
        if given.has_output:
            words.append("has_output=True")
        return f"check_scan({', '.join(words)}, laws=[{law!r}], seed={self.seed})"

    def _case(self) -> str:
        shapes = ", ".join(f"{name}: {list(a.shape)}" for name, a in (self.point | self.fixed).items())
        return shapes if self.lengths is None else f"{shapes}; lengths={self.lengths.tolist()}"

    # ---- looking at what was given -----------------------------------------------------------------------------

    def _lengths_of(self, xs: Any) -> Any:
        if self.given.lengths is not None:
            return as_lengths("testing.check_scan", self.given.lengths, None, self.steps)
        if self.net is None:
            return None
        shape = tree.flatten(xs)[0][0].shape
        if len(shape) < 2:
            raise ValueError(f"check_scan runs a net over xs of shape (T, B, ...), got {tuple(shape)}")
        return np.resize([self.steps - 1, 0, self.steps, 1], shape[1])

    def _drawn_init(self) -> Any:
        """What is added to the zero state of a net: zeros would hide what the first step does with its state."""
        if self.net is None:
            raise TypeError("check_scan needs an init: only a net, with zero_state(batch_size), has one of its own")
        rng = np.random.default_rng([self.seed, 0])

        def draw(leaf: Any) -> Any:
            array = _on_host(leaf)
            drawn = random_cotangent(array, rng) / 2 if is_float(array) else np.zeros_like(array)
            return self.adapter.asarray(np.asarray(drawn))

        return tree.map(draw, self.net.zero_state(self.rows))

    def _plain_body(self) -> Any:
        """The function `(state, x)` that is scanned: of a net, its cell in training."""
        if self.net is None or self.whole:
            return self.given.body
        run = Run(training=True, seed=self.seed)
        cell = self.net.prepared(run) if hasattr(self.net, "prepared") else self.net

        def body(state: Any, x: Any) -> tuple[Any, Any]:
            output, state = cell(x, state)
            return state, output

        return body

    def _probe(self) -> None:
        """Run twice: answers must be finite and the same, and depend on the params and on no other leaf."""
        run = self.way(**self.unrolled)
        once, again = self.values(run), self.values(run)
        if any(not same_bits(a, b) for a, b in zip(once.values(), again.values(), strict=True)):
            self.fail(
                "S1",
                "the body gives two different results for the same arguments",
                error=NondeterministicError,
                hints=["draw with minigrad.random and a seed: a body is a function of its arguments"],
            )
        for name, value in once.items():
            if is_float(value) and not np.isfinite(value).all():
                self.fail("S1", f"no verdict is possible: {name} is not finite here", error=NondifferentiableError)
        with self._standing_in():
            device = self._on_device(None)
            leaves = {name: tensor(device[name], requires_grad=True) for name in self.point}
            xs, init = self._assume(device | leaves)
            result = _result(run(xs, init)).values()
        own = {leaf.record: name for name, leaf in leaves.items()}
        met = reachable([leaf.record for leaf in result if isinstance(leaf, Tensor)]).leaves
        missing = [name for leaf, name in own.items() if name.startswith("params") and leaf not in met]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} of check_scan: nothing that the body returns depends on this tensor; params are "
                "the tensors that the body itself captures, not what they were made from"
            )
        foreign = [_title(leaf) for leaf in met if leaf not in own]
        if foreign:
            raise ValueError(
                f"the body of check_scan captures tensors that require a gradient and are not checked: "
                f"{', '.join(foreign)}; name them in params"
            )

    def _places_of_draws(self) -> list[tuple[int, ...]]:
        """The path of each draw, in order: the number and the step of each scan around it."""
        places = []

        def take(draw: Callable[[tuple[int, ...]], Any]) -> Any:
            places.append(random.path())
            return self.adapter.asarray(np.asarray(draw(random.path())))

        with random.deferred(take):
            self.values(self.way(unroll=True))
        return places


# ---- ways, and pieces of sequences -----------------------------------------------------------------------------------


def said(options: Mapping[str, Any]) -> str:
    """The options of a way, for a message.

    >>> said({"unroll": True})
    ', unroll=True'
    """
    return "".join(f", {name}={value!r}" for name, value in options.items())


def part_of(values: Any, begin: int, end: int) -> Any:
    """Some steps of every leaf.

    >>> import numpy as np
    >>> part_of({"a": np.arange(5)}, 1, 3)
    {'a': array([1, 2])}
    """
    return tree.map(lambda leaf: leaf[begin:end], values)


def flipped(values: Any) -> Any:
    """Every leaf with its last step first.

    >>> import numpy as np
    >>> flipped((np.arange(3),))
    (array([2, 1, 0]),)
    """
    return tree.map(lambda leaf: leaf[::-1], values)


def _steps_of(xs: Any) -> int:
    shapes = [tuple(leaf.shape) for leaf in tree.flatten(xs)[0]]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"xs of check_scan are arrays (T, ...) with one number of steps T, got shapes {shapes}")
    steps = int(shapes[0][0])
    if steps < FEWEST:
        raise ValueError(f"check_scan needs at least {FEWEST} steps to tell orders of time apart, got {steps}")
    return steps


# ---- what is captured ----------------------------------------------------------------------------------------------


def _captured(params: Any, net: Any) -> dict[str, Tensor]:
    """The captured tensors to differentiate by, by name."""
    params = net if params is None else params
    if is_module(params):
        tensors = tensors_of(params)
        return {f"params[{path!r}]": t for path, t in tensors.items() if isinstance(t.record, Leaf)}
    found = _named("params", params)
    for name, leaf in found.items():
        if not isinstance(leaf, Tensor) or not is_float(leaf) or not isinstance(leaf.record, Leaf | None):
            raise TypeError(
                f"{name} of check_scan is a floating tensor that the body captures, made with mg.tensor, got "
                f"{_kind_of(leaf)}"
            )
    if len({id(leaf) for leaf in found.values()}) != len(found):
        raise ValueError("params of check_scan has one tensor twice")
    return found


def _kind_of(leaf: Any) -> str:
    if not isinstance(leaf, Tensor):
        return f"a {type(leaf).__name__}"
    return f"one of {leaf.dtype}" if not is_float(leaf) else "a result of ops"


def _title(leaf: Leaf) -> str:
    return leaf.name or f"one of shape {tuple(leaf.out.shape)}"


def _backend_of(values: Any) -> str:
    """The backend of what was given; NumPy arrays may stand beside those of another one, and are moved there."""
    found = {type(constant(leaf)) for leaf in tree.flatten(values)[0]} & BACKEND_OF_TYPE.keys()
    names = {BACKEND_OF_TYPE[kind].name for kind in found}
    others = names - {"numpy"}
    if len(others) > 1:
        raise ValueError(f"check_scan takes arrays of one backend, got those of {', '.join(sorted(names))}")
    return (others or names or {default_backend().name}).pop()


def _on_host(value: Any) -> np.ndarray[Any, Any]:
    array = constant(value)
    return np.array(backend_of(array).to_host(array) if hasattr(array, "shape") else array)


# ---- results -------------------------------------------------------------------------------------------------------


def _result(result: tuple[Any, Any]) -> dict[str, Any]:
    """The leaves of a final state and of outputs, by name."""
    final, outputs = result
    return _named(FINAL, final) | _named(OUTPUTS, outputs)


def _named(prefix: str, values: Any) -> dict[str, Any]:
    leaves, structure = tree.flatten(values)
    return {prefix + path: leaf for path, leaf in zip(structure.paths(), leaves, strict=True)}


def _numbered(what: str, values: Any) -> Any:
    return tree.map(lambda leaf: as_value(f"testing.check_scan: {what}", leaf), values)


def _added(zero: Any, drawn: Any) -> Any:
    return add(zero, drawn) if is_float(zero) else zero


def _total(terms: Sequence[Any]) -> Any:
    total = asarray(0.0)
    for term in terms:
        total = total + term.sum()
    return total


def _method(tol: float) -> str:
    return f"two ways of adding up the same terms, compared to {tol:.1e}" if tol else "compared with =="


def _time_hints(name: str, got: Any, expected: Any, tol: float) -> list[str]:
    """Which steps are right, of an answer along time."""
    if not (OUTPUTS in name or name.startswith(("gradient by xs", "second derivative by xs"))):
        return []
    with np.errstate(invalid="ignore"):
        right = [t for t, (a, b) in enumerate(zip(got, expected, strict=True)) if np.all(np.abs(a - b) <= tol)]
    return [f"right at steps {right} of {len(expected)}"] if right else []


def _source(values: Any) -> str:
    """A pytree of arrays as Python source, as far as it can be printed."""
    if isinstance(values, Tensor):
        values = values.array
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        fields = ", ".join(f"{name}={_source(v)}" for name, v in zip(values._fields, values, strict=True))
        return f"{type(values).__name__}({fields})"
    if isinstance(values, (tuple, list)):
        inner = ", ".join(map(_source, values)) + ("," if isinstance(values, tuple) and len(values) == 1 else "")
        return f"({inner})" if isinstance(values, tuple) else f"[{inner}]"
    if isinstance(values, dict):
        return "{" + ", ".join(f"{k!r}: {_source(v)}" for k, v in values.items()) + "}"
    if type(values) in BACKEND_OF_TYPE:
        backend = BACKEND_OF_TYPE[type(values)]
        text = literal(np.array(backend.to_host(values)))
        return text if backend.name == "numpy" else f"mg.asarray({text})"
    return literal(values)
