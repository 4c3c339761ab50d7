"""examples/plumbing: what the examples share does what it says, once for all of them."""

from __future__ import annotations

import importlib
import io
import itertools
import math
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim

for library in ("matplotlib", "rich", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")

commands, documentation, flow, pictures, text, training = (
    importlib.import_module(f"plumbing.{name}")
    for name in ("commands", "documentation", "flow", "pictures", "text", "training")
)


@dataclass(frozen=True)
class Config:
    """What is some."""

    steps: int = commands.option(5, commands.count, "N", "how many")
    lr: float = commands.option(0.1, commands.positive, "X", "how fast")
    top_k: int | None = commands.option(None, commands.whole, "N", "of the best")
    kind: str = commands.option("gru", commands.one_of(["rnn", "gru"]), "rnn|gru", "which")


@dataclass(frozen=True)
class Others:
    """What is not."""

    fast: bool = commands.option(False, bool, "", "hurry")
    rates: Sequence[float] = commands.option((), commands.fraction, "P", "of each", several=True)
    words: Sequence[str] = commands.option(("a", "b"), str, "WORD", "said", several=True)
    pair: Sequence[str] = commands.option(("a", "b"), lambda text: tuple(text.split(",")), "A,B", "of both")


DEFAULTS = asdict(Config()) | asdict(Others()) | {"backend": "numpy", "out": Path("runs/prog")}


def run(argv, work=lambda options: 0, only_given=None):
    parser = commands.parser("prog", "What it does.", Config, Others, only_given=only_given)
    return commands.run("prog", parser, work, argv)


# ---- commands ------------------------------------------------------------------------------------------------------


def options_of(argv, **more):
    seen = []
    assert run(argv, lambda options: seen.append(options) or 3, **more) == 3
    return seen[0]


def test_options_have_their_defaults_and_what_is_given():
    assert vars(options_of([])) == DEFAULTS
    words = "--steps 7 --fast --top-k 0 --rates 0.1 0.5 --words c --pair d,e --out here".split()
    assert vars(options_of(words)) == DEFAULTS | {
        "steps": 7, "fast": True, "top_k": 0, "rates": (0.1, 0.5), "words": ("c",), "pair": ("d", "e"),
        "out": Path("here"),
    }  # fmt: skip


def test_some_options_are_left_out_unless_given():
    options = options_of(["--lr", "2"], only_given=Config)
    assert commands.given(Config, options) == {"lr": 2.0}
    assert commands.given(Others, options) == asdict(Others())


def test_options_make_the_settings_again():
    options = options_of(["--lr", "2", "--words", "c", "--fast"])
    assert commands.made(Config, options) == Config(lr=2.0)
    assert commands.made(Others, options) == Others(fast=True, words=("c",))
    assert commands.made(Config, options_of(["--top-k", "1"], only_given=Config)) == Config(top_k=1)


def test_help_tells_of_every_setting_and_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        run(["--help"], only_given=Config)
    assert end.value.code == 0
    _, some, others, where = re.split(r"^(?=W)", capsys.readouterr().out.partition("-h, --help")[2], flags=re.MULTILINE)
    assert [line.split(maxsplit=2) for line in some.splitlines()[1:5]] == [
        ["--steps", "N", "how many [5]"],
        ["--lr", "X", "how fast [0.1]"],
        ["--top-k", "N", "of the best"],
        ["--kind", "rnn|gru", "which [gru]"],
    ]
    assert some.startswith("What is some:\n")
    assert others.startswith("What is not:\n")
    for told in (
        "--fast ",
        "hurry\n",
        "--rates P [P ...]",
        "of each\n",
        "said [a b]\n",
        "--pair A,B",
        "of both [a,b]\n",
    ):
        assert told in others
    for told in ("--backend NAME", " [numpy]\n", "--out DIR", f" [{Path('runs/prog')}]\n"):
        assert told in where


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 0", "argument --steps: needs a whole number of at least 1, got '0'"),
        ("--steps 1.5", "argument --steps: needs a whole number of at least 1, got '1.5'"),
        ("--lr 0", "argument --lr: needs a number above 0, got '0'"),
        ("--lr inf", "argument --lr: needs a number above 0, got 'inf'"),
        ("--lr nan", "argument --lr: needs a number above 0, got 'nan'"),
        ("--top-k -1", "argument --top-k: needs a whole number of at least 0, got '-1'"),
        ("--kind lstm", "argument --kind: is one of rnn, gru, got 'lstm'"),
        ("--colour red", "unrecognized arguments: --colour red"),
        ("--backend nampy", "--backend: no backend is called 'nampy'"),
    ],
)
def test_a_bad_option_is_one_line_and_nothing_is_done(options, message, capsys):
    def work(options):
        raise AssertionError

    assert run(options.split(), work) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"prog: {message}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(("given", "expected"), [("0", 0), ("0.5", 0.5), ("1", None), ("-0.1", None), ("x", None)])
def test_a_fraction_is_below_1(given, expected):
    if expected is None:
        with pytest.raises(commands.argparse.ArgumentTypeError, match="needs a number"):
            commands.fraction(given)
    else:
        assert commands.fraction(given) == expected


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (commands.BadInputError("the file\nis empty"), 2, "prog: the file is empty\n"),
        (FloatingPointError("a norm of nan"), 1, "prog: training broke down: a norm of nan; a smaller --lr may help\n"),
        (OSError(28, "No space left"), 1, "prog: cannot save: [Errno 28] No space left\n"),
        (KeyboardInterrupt(), 130, "prog: interrupted\n"),
    ],
)
def test_every_end_has_its_exit_code_and_one_line(error, code, line, capsys):
    def work(options):
        if error is not None:
            raise error
        return 0

    assert run([], work) == code
    assert capsys.readouterr().err == line


def test_a_mistake_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run([], lambda options: 1 // 0)


def test_the_work_is_done_on_the_backend_that_is_named():
    seen = []
    run(["--backend", "strict"], lambda options: seen.append(mg.zeros(1).backend.name) or 0)
    assert seen == ["strict"]
    assert mg.zeros(1).backend.name == "numpy"


def test_pictures_of_ours_are_replaced_and_others_are_kept(tmp_path):
    folder = tmp_path / "new" / "folder"
    (path,) = commands.claimed("prog", folder, "curve.png")
    assert path == folder / "curve.png"
    figure, axes = pictures.canvas()
    axes.plot([1, 2], label="line")
    pictures.finish(figure, path, "prog")
    assert commands.claimed("prog", folder, "curve.png") == [path]
    before = path.read_bytes()
    with pytest.raises(commands.BadInputError, match="curve.png was not made by this program and is kept"):
        commands.claimed("other", folder, "curve.png")
    assert path.read_bytes() == before


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(commands.BadInputError, match="cannot use --out .*taken: File exists; name another folder"):
        commands.claimed("prog", tmp_path / "taken", "curve.png")


@pytest.mark.usefixtures("interruptible")
def test_the_first_interrupt_is_noted_and_the_second_ends_it_all():
    before = signal.getsignal(signal.SIGINT)
    with commands.FirstInterrupt() as interrupt:
        assert not interrupt.came
        signal.raise_signal(signal.SIGINT)
        assert interrupt.came
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("library", ["numpy", "matplotlib", "rich", "babel"])
def test_a_missing_library_is_one_line(library, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "plumbing")
    monkeypatch.setattr(sys, "argv", ["examples/prog.py"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("plumbing")
    assert end.value.code == 2
    assert capsys.readouterr().err == f"prog: {library} is not installed: pip install 'minigrad[examples]'\n"


# ---- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contents", [b"caf\xc3\xa9\nend", b"\xef\xbb\xbfcaf\xc3\xa9\nend", b"caf\xc3\xa9\r\nend"])
def test_a_text_is_the_same_with_a_mark_in_front_and_with_any_line_ends(contents, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(contents)
    assert text.read(path, "--text") == "café\nend"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "cannot read --text .*text.txt: No such file or directory"),
        ("folder", "cannot read --text .*text.txt: Is a directory"),
        (b"good \xff", r"--text .*text.txt is not UTF-8: invalid start byte at byte 5; convert it first"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_complaint(contents, message, tmp_path):
    path = tmp_path / "text.txt"
    if contents == "folder":
        path.mkdir()
    elif contents is not None:
        path.write_bytes(contents)
    with pytest.raises(commands.BadInputError, match=message):
        text.read(path, "--text")


@pytest.mark.parametrize("read", ["whole", "by_chapter"])
def test_a_python_without_its_documentation_says_what_to_do(read, monkeypatch):
    for name in ("pydoc_data", "pydoc_data.topics"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(commands.BadInputError, match="without pydoc_data.*: name a text with --data FILE"):
        list(getattr(documentation, read)("--data"))


@given(st.lists(st.text(max_size=3), max_size=10))
def test_a_vocabulary_numbers_its_tokens_and_gives_them_back(tokens):
    vocabulary = text.Vocabulary(tokens, ["<pad>"])
    assert vocabulary.tokens == ["<pad>", *sorted(set(tokens))]
    numbers = vocabulary.numbers_of(tokens)
    assert all(0 < number < len(vocabulary) for number in numbers)
    assert vocabulary.tokens_of(numbers) == tokens
    assert all(token in vocabulary for token in tokens)


def test_a_vocabulary_of_the_frequent_counts_the_others_as_unknown():
    vocabulary = text.Vocabulary.of_frequent("cccbbaad", 2, ["?"])
    assert vocabulary.tokens == ["?", "a", "c"]  # a and b are equally frequent
    assert vocabulary.numbers_of("abcd", "?") == [1, 0, 2, 0]
    with pytest.raises(commands.BadInputError, match="'b' is not among the 3 tokens that the net knows"):
        vocabulary.numbers_of("ab")


# ---- training ------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls_as_it_is_told():
    schedule = training.Schedule(8, 2.0, warmup=4)
    expected = [2 * min(1, (step + 1) / 4) * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    np.testing.assert_allclose([schedule.learning_rate(step) for step in range(8)], expected, rtol=1e-15)
    straight = training.Schedule(4, 2.0, fall=training.linear)
    assert [straight.learning_rate(step) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]


class Slope(nn.Module):
    """Two weights, and a loss that says how far they are from 3 and -1."""

    def __init__(self):
        self.W = mg.tensor([0.0, 0.0], requires_grad=True)

    def loss(self, step):
        return mg.square(self.W - np.array([3.0, -1.0])).sum() + 0.0 * step


def by_hand(schedule, steps):
    """The losses and weights of the same training, in a plain loop."""
    model = Slope()
    optimiser, losses = optim.Adam(model, schedule.lr), []
    for step in range(steps):
        loss = model.loss(step)
        loss.backward()
        optim.clip_global_norm(model, schedule.clip)
        optimiser.lr = schedule.learning_rate(step)
        optimiser.step()
        losses.append(loss.item())
    return losses, model.W.numpy()


def fitted(schedule, model, **options):
    """A run whose metric is the distance of the first weight from 3, and what it printed."""
    out = io.StringIO()
    console = training.Console(file=out, soft_wrap=True, highlight=False)
    history = training.fit(
        model, model.loss, schedule, lambda: abs(3 - model.W[0].item()), console, "distance", **options
    )
    return history, out.getvalue()


def test_fit_is_the_plain_loop_and_tells_of_it():
    schedule, model = training.Schedule(25, 0.5, warmup=3, every=10), Slope()
    history, out = fitted(schedule, model)
    losses, weights = by_hand(schedule, 25)
    assert history.losses == losses
    np.testing.assert_array_equal(model.W.numpy(), weights)
    assert [step for step, _ in history.measured] == [10, 20, 25]
    assert history.measured[-1][1] == abs(3 - weights[0])
    header, *lines = out.splitlines()
    assert header.split() == ["step", "loss", "distance", "time"]
    for line, (step, value), start in zip(lines, history.measured, (0, 10, 20), strict=True):
        mean = np.mean(losses[start:step])
        assert line.split() == [str(step), f"{mean:.3f}", f"{value:.3f}", "0:00"]
    assert 0 < history.times[0] < history.times[-1] < history.seconds


@pytest.mark.parametrize("part", [1, 10, 24])
def test_a_run_that_stops_goes_on_as_if_it_had_not(part):
    schedule = training.Schedule(25, 0.5, every=10)
    whole, out = fitted(schedule, expected := Slope())
    model, history = Slope(), training.History()
    optimiser = optim.Adam(model, schedule.lr)
    options = {"history": history, "optimiser": optimiser}
    _, first = fitted(schedule, model, enough=lambda: history.step == part, **options)
    assert history.step == part
    _, second = fitted(schedule, model, **options)
    assert history.losses == whole.losses
    assert history.measured == whole.measured
    np.testing.assert_array_equal(model.W.numpy(), expected.W.numpy())
    assert out.splitlines()[1:] == first.splitlines()[1:] + second.splitlines()[1:]
    assert history.times == sorted(history.times)


def test_enough_is_asked_after_each_step_with_its_measurement_and_before_its_line():
    history, seen = training.History(), []
    out = io.StringIO()
    model, schedule = Slope(), training.Schedule(6, 0.5, every=2)

    def enough():
        seen.append((history.step, len(history.measured), len(out.getvalue().splitlines()) - 1))
        return history.step == 4

    console = training.Console(file=out)
    training.fit(model, model.loss, schedule, lambda: 0.0, console, "zero", history=history, enough=enough)
    assert seen == [(1, 0, 0), (2, 1, 0), (3, 1, 1), (4, 2, 1)]
    assert len(out.getvalue().splitlines()) == 3


def test_training_that_breaks_down_raises():
    model = Slope()
    with pytest.raises(FloatingPointError):
        training.fit(
            model, lambda step: model.loss(step) * math.inf, training.Schedule(2, 0.1), lambda: 0.0,
            training.Console(file=io.StringIO()), "zero",
        )  # fmt: skip


def test_the_first_time_below_a_target():
    history = training.History(measured=[(10, 3.0), (20, 1.5), (30, 1.0)], times=[1.0, 2.0, 3.0])
    assert history.first_below(2.0) == (20, 2.0)
    assert history.first_below(1.5) == (30, 3.0)
    assert history.first_below(1.0) is None


def test_lately_is_since_the_last_measurement():
    assert math.isnan(training.History().lately)
    history = training.History(losses=[1.0, 2.0, 4.0])
    assert history.lately == 7 / 3
    history.measured = [(2, 0.0)]
    assert history.lately == 4.0
    history.measured.append((3, 0.0))  # of this very step: its line tells of what came before it
    assert history.lately == 4.0


def test_each_epoch_has_every_sequence_once_in_another_order():
    sequences = [np.full(length, length) for length in (1, 2, 2, 3, 4, 5, 6)]
    batches = list(itertools.islice(training.epochs(sequences, 2, seed=1), 8))
    epochs = [[row for batch in batches[i : i + 4] for row in batch.rows] for i in (0, 4)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0] != epochs[1]


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5))
def test_what_is_made_in_batches_comes_in_the_order_of_the_sequences(lengths, batch):
    """Each row is its sequence, padded to the longest of its batch, and its result is found where the sequence was."""
    sequences, sizes = [np.arange(length) + 10 * i for i, length in enumerate(lengths)], []

    def work(rows, lengths):
        sizes.append(len(rows))
        return (row[:length].tolist() for row, length in zip(rows, lengths, strict=True))

    assert training.in_batches(work, sequences, batch) == [sequence.tolist() for sequence in sequences]
    assert max(sizes, default=0) <= batch


@pytest.mark.parametrize(("seconds", "clock"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "60:00")])
def test_a_clock_has_minutes_and_seconds(seconds, clock):
    assert training.clock_of(seconds) == clock


def test_a_model_has_a_size_and_a_place():
    assert training.size_of(nn.Linear(40, 50)) == "2,050 weights, on numpy"


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
def test_the_gradient_by_states_is_how_the_loss_moves_when_a_state_is_moved(kind):
    cell = kind(2, 3, seed=0).astype("float64")
    inputs, start = np.random.default_rng(0).normal(size=(4, 2, 2)), cell.zero_state(2)

    def loss_of(nudges):
        outputs, _ = nn.dynamic_rnn(flow.Nudged(cell), (inputs, nudges), initial_state=start, time_major=True)
        return mg.square(outputs).sum()

    def moved(state, by, part):
        leaves, structure = mg.tree.flatten(state)
        return structure.build([leaf + by * (i == part) for i, leaf in enumerate(leaves)])

    def loss_from(t, by, part):
        """The loss of what comes after step t, whose state is moved, and of its own output, the part h."""
        state = start
        for x in inputs[: t + 1]:
            _, state = cell(x, state)
        state = moved(state, by, part)
        h = mg.tree.flatten(state)[0][0]
        losses = [mg.square(h).sum()]
        for x in inputs[t + 1 :]:
            h, state = cell(x, state)
            losses.append(mg.square(h).sum())
        return mg.stack(losses).sum().item()

    found = mg.tree.flatten(flow.gradient_by_states(loss_of, len(inputs), start))[0]
    for part, gradient in enumerate(found):
        assert gradient.shape == (4, 2, 3)
        for t, row, unit in itertools.product(range(4), range(2), range(3)):
            by = 1e-5 * np.eye(2)[row][:, None] * np.eye(3)[unit]
            slope = (loss_from(t, by, part) - loss_from(t, -by, part)) / 2e-5
            np.testing.assert_allclose(gradient[t, row, unit], slope, rtol=1e-6, atol=1e-9)


def test_a_confusion_has_each_true_label_in_a_row():
    _, axes = pictures.canvas()
    pictures.confusion(axes, np.array([0, 0, 0, 2, 1]), np.array([0, 2, 0, 2, 0]), ["a", "b", "c"])
    expected = [[2 / 3, 0, 1 / 3], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), expected)
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "2", (2, 0): "1", (0, 1): "1", (2, 2): "1"}


def test_swatches_stand_in_rows():
    _, axes = pictures.canvas()
    pictures.swatches(axes, [(0, 0, 0), (1, 1, 1), (0.5, 0, 1)], ["dark", "light", "odd"], columns=2)
    assert [patch.get_xy() for patch in axes.patches] == [(0, 0), (1, 0), (0, 1)]
    assert [patch.get_facecolor()[:3] for patch in axes.patches] == [(0, 0, 0), (1, 1, 1), (0.5, 0, 1)]
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        ("dark", "white"), ("light", "black"), ("odd", "white"),
    ]  # fmt: skip


def test_no_example_imports_numpy_before_the_plumbing_asks_for_one_thread():
    for path in Path(training.__file__).parents[1].glob("*.py"):
        source = path.read_text()
        if "plumbing" in source:
            assert source.index("from plumbing") < source.index("import numpy"), path.name


def test_an_option_of_several_words_takes_those_of_all_its_places():
    seen = []
    for argv in (["--words", "x", "y", "--words", "z"], []):
        assert run(argv, lambda options: seen.append(options.words) or 0) == 0
    assert seen == [("x", "y", "z"), ("a", "b")]


def test_a_dollar_in_a_label_is_a_dollar(tmp_path):
    figure, axes = pictures.canvas()
    pictures.confusion(axes, np.array([0, 1]), np.array([0, 1]), [r"cost $\foo$ x", "$x_1$"])
    axes.set_title(r"we$\foo$ird.py")
    pictures.finish(figure, tmp_path / "p.png", "prog", legend=False)
