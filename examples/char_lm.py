"""A character language model: a recurrent network learns to write text like the one that it reads.

    python examples/char_lm.py

trains one LSTM layer on the language reference that comes with Python, which takes one to two minutes, then prints how
well it predicts the last tenth of the text, which it never saw, writes some text of its own, and saves two pictures.
`--help` lists all settings.

From top to bottom: settings, text, model, training, evaluation, sampling, gradient flow, pictures, checkpoints, command
line, main.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn, Self

if __name__ == "__main__":
    # Matrices of this size are multiplied fastest on one core, and two threads that wait for each other can be ten
    # times slower where other programs run too. For large layers, set the variable yourself. NumPy reads it now:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    import minigrad as mg
    from minigrad import nn, optim, training
except ModuleNotFoundError as missing:
    library = str(missing.name).partition(".")[0]
    print(f"char_lm: {library} is not installed: pip install 'minigrad[examples]'", file=sys.stderr)
    sys.exit(2)

PROGRAM = "minigrad char_lm"  # written into checkpoints and pictures, to know them again
CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
VALIDATION_ROWS, VALIDATION_CHUNK = 16, 256
FLOW_ROWS, FLOW_STEPS = 64, 100


class BadInputError(Exception):
    """Something that the user can mend: printed in one line, and the exit code is 2."""


# ---- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is. It is kept in the checkpoint."""

    text: str | None = None
    cell: str = "lstm"
    layers: int = 1
    units: int = 192
    embedding: int = 64
    batch: int = 32
    chunk: int = 32
    steps: int = 2000
    lr: float = 0.01
    warmup: int = 100
    clip: float = 1.0
    every: int = 200
    seed: int = 0


QUICK = {"units": 32, "embedding": 16, "batch": 16, "chunk": 16, "steps": 100, "warmup": 10, "every": 50}
CHANGEABLE = {"text", "steps", "every"}  # by --resume; a text is known again by its contents, wherever it lies


def learning_rate(config: Config, step: int) -> float:
    """Rises to `lr` in the first steps, then falls to 0 along half a cosine."""
    return config.lr * min(1.0, (step + 1) / config.warmup) * (1 + math.cos(math.pi * step / config.steps)) / 2


# ---- text ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """A text, and the same as integers: the places of its characters in the vocabulary, which is that of all of it."""

    name: str
    text: str

    @cached_property
    def vocabulary(self) -> str:
        return "".join(sorted(set(self.text)))

    @cached_property
    def tokens(self) -> np.ndarray:
        place = {character: token for token, character in enumerate(self.vocabulary)}
        return np.array([place[character] for character in self.text])

    @property
    def training(self) -> np.ndarray:
        return self.tokens[: self._split]

    @property
    def validation(self) -> np.ndarray:
        """The last tenth, after the character that comes before it: each character of the tenth is predicted."""
        return self.tokens[self._split - 1 :]

    @property
    def _split(self) -> int:
        return len(self.text) - len(self.text) // 10

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_corpus(config: Config) -> Corpus:
    corpus = python_reference() if config.text is None else read_file(Path(config.text))
    needed = config.batch * config.chunk + 1
    if len(corpus.training) < needed or len(corpus.validation) < 2:
        raise BadInputError(
            f"{corpus.name} has {len(corpus.text):,} characters, which is too short: nine tenths of it must fill "
            f"--batch {config.batch} rows of --chunk {config.chunk} characters, {needed:,} in all"
        )
    return corpus


def python_reference() -> Corpus:
    """The language reference that `help()` shows, topic by topic."""
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415  (some systems leave it out of Python)
    except ModuleNotFoundError:
        raise BadInputError(
            "this Python came without pydoc_data, the default text: name a text with --text FILE"
        ) from None
    return Corpus("Python's language reference", "\n".join(topics[name] for name in sorted(topics)))


def read_file(path: Path) -> Corpus:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise BadInputError(f"cannot read --text {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"--text {path} is not UTF-8: {error.reason} at byte {error.start}; convert it first"
        ) from None
    return Corpus(str(path), text)


def rows(tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The text cut into `count` equal parts, side by side: inputs and targets (time, count). What is left over goes."""
    length = (len(tokens) - 1) // count
    inputs, targets = tokens[: length * count], tokens[1 : length * count + 1]
    return inputs.reshape(count, length).T, targets.reshape(count, length).T


# ---- model ---------------------------------------------------------------------------------------------------------


class CharModel(nn.Module):
    """Characters in, scores of the next character out: a vector for each, layers of cells over time, a linear map."""

    def __init__(self, characters: int, config: Config) -> None:
        sizes = [config.embedding] + [config.units] * config.layers
        self.embedding = nn.Embedding(characters, config.embedding, seed=config.seed)
        self.cells = [
            CELLS[config.cell](inputs, config.units, seed=[config.seed, layer])
            for layer, inputs in enumerate(sizes[:-1])
        ]
        self.scores = nn.Linear(config.units, characters, seed=config.seed)

    def zero_state(self, batch: int) -> list[Any]:
        return [cell.zero_state(batch) for cell in self.cells]

    def __call__(self, tokens: Any, state: list[Any]) -> tuple[mg.Tensor, list[Any]]:
        """Tokens (time, batch) and the state before them; scores (time, batch, characters) and the state after them."""
        x, new_state = self.embedding(tokens), []
        for cell, before in zip(self.cells, state, strict=True):
            x, after = nn.dynamic_rnn(cell, x, initial_state=before, time_major=True)
            new_state.append(after)
        return self.scores(x), new_state


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Everything that changes while training, so everything that a checkpoint must hold."""

    config: Config
    model: CharModel
    optimiser: optim.Adam
    state: list[Any]  # what the cells remember of the text so far, row by row
    losses: list[float] = field(default_factory=list)  # nats per character, one for each step
    validation: list[tuple[int, float]] = field(default_factory=list)  # (step, bits per character)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)


def new_run(config: Config, corpus: Corpus) -> Run:
    model = CharModel(len(corpus.vocabulary), config)
    return Run(config, model, optim.Adam(model, config.lr), model.zero_state(config.batch))


def training_step(run: Run, corpus: Corpus) -> float:
    """One chunk of truncated backpropagation through time: the state is handed on, its gradient is cut."""
    inputs, targets = next_chunk(run, corpus)
    logits, state = run.model(inputs, run.state)
    loss = mg.cross_entropy(logits, targets).mean()
    loss.backward()
    optim.clip_global_norm(run.model, run.config.clip)
    run.optimiser.lr = learning_rate(run.config, run.step)
    run.optimiser.step()
    run.state = mg.stop_gradient(state)
    run.losses.append(loss.item())
    return run.losses[-1]


def next_chunk(run: Run, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The chunk that follows; at the end of the rows, the first one and a fresh state."""
    size = run.config.chunk
    inputs, targets = rows(corpus.training, run.config.batch)
    start = run.step % (len(inputs) // size) * size
    if start == 0:
        run.state = run.model.zero_state(run.config.batch)
    return inputs[start : start + size], targets[start : start + size]


def train(run: Run, corpus: Corpus, checkpoint: Path | None, console: Console) -> bool:
    """Train until all steps are done (True) or Ctrl-C is pressed (False). What a line tells is saved by then."""
    console.print("  step     loss  bits/char  validation   chars/s   time")
    with FirstInterrupt() as interrupt, progress_bar(console) as bar:
        task = bar.add_task("", total=run.config.steps, completed=run.step)
        start, begun = run.step, time.perf_counter()
        while run.step < run.config.steps and not interrupt.came:
            training_step(run, corpus)
            seconds = time.perf_counter() - begun
            bar.update(task, completed=run.step, description=status(run, (run.step - start) / seconds))
            if run.step % run.config.every == 0 or run.step == run.config.steps:
                run.validation.append((run.step, evaluate(run.model, corpus.validation)))
                run.seconds += time.perf_counter() - begun
                save(run, corpus, checkpoint)
                console.print(table_row(run, (run.step - start) / seconds))
                start, begun = run.step, time.perf_counter()
        run.seconds += time.perf_counter() - begun
        save(run, corpus, checkpoint)
    return run.step >= run.config.steps


class FirstInterrupt:
    """Within its block the first Ctrl-C only sets `came`, so that no step is cut in half; the second ends it all."""

    came = False

    def __enter__(self) -> Self:
        self.before = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, *_: object) -> None:
        self.came = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)


def progress_bar(console: Console) -> Progress:
    """A moving bar on a terminal; nothing in a file or a pipe, where the lines of the table must do."""
    numbers = TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn()
    columns = MofNCompleteColumn(), BarColumn(bar_width=None), *numbers
    return Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal)


def status(run: Run, steps_per_second: float) -> str:
    loss = float(np.mean(run.losses[-20:])) if run.losses else math.nan
    speed = steps_per_second * run.config.batch * run.config.chunk
    return f"loss {loss:.3f}  {bits(loss):.3f} bits/char  {speed:,.0f} chars/s"


def table_row(run: Run, steps_per_second: float) -> str:
    """The mean loss since the line before, and where the run stands."""
    marks = [0, *(step for step, _ in run.validation)]
    loss = float(np.mean(run.losses[marks[-2] :]))
    speed = steps_per_second * run.config.batch * run.config.chunk
    minutes, seconds = divmod(round(run.seconds), 60)
    columns = f"{run.step:6,} {loss:8.3f} {bits(loss):10.3f} {run.validation[-1][1]:11.3f} {speed:9,.0f}"
    return f"{columns}   {minutes}:{seconds:02}"


# ---- evaluation ----------------------------------------------------------------------------------------------------


def bits(nats: float) -> float:
    return nats / math.log(2)


def evaluate(model: CharModel, tokens: np.ndarray, count: int = VALIDATION_ROWS) -> float:
    """The mean loss in bits of every token but the first, each predicted from those before it in its row.

    The text is read in `count` rows side by side, because that is faster, each beginning with a state of zeros.
    """
    predicted = len(tokens) - 1
    length = -(-predicted // count)
    inputs, targets = rows(np.pad(tokens, (0, length * count - predicted)), count)
    real = (np.arange(length * count) < predicted).reshape(count, length).T
    state, nats = model.zero_state(count), 0.0
    with mg.no_grad():
        for start in range(0, length, VALIDATION_CHUNK):
            chunk = slice(start, start + VALIDATION_CHUNK)
            logits, state = model(inputs[chunk], state)
            losses = mg.cross_entropy(logits, targets[chunk]).numpy()
            nats += float(losses[real[chunk]].sum(dtype="float64"))
    return bits(nats / predicted)


def bits_by_frequency(corpus: Corpus) -> float:
    """What a guesser pays on the validation text who only knows how often each character occurs in the whole text."""
    frequency = np.bincount(corpus.tokens) / len(corpus.tokens)
    return float(-np.log2(frequency[corpus.validation[1:]]).mean())


# ---- sampling ------------------------------------------------------------------------------------------------------


def sample(run: Run, vocabulary: str, prompt: str, length: int, temperature: float) -> str:
    """Text that the model writes after the prompt: each character is drawn from what it predicts."""
    tokens, state, drawn = [[vocabulary.index(c)] for c in prompt], run.model.zero_state(1), []
    with mg.no_grad():
        for i in range(length):
            logits, state = run.model(tokens, state)
            if temperature == 0:
                token = int(mg.argmax(logits[-1, 0]))
            else:
                token = int(mg.random.categorical(logits[-1, 0] / temperature, seed=[run.config.seed, i]))
            tokens = [[token]]
            drawn.append(vocabulary[token])
    return prompt + "".join(drawn)


def checked_prompt(prompt: str | None, corpus: Corpus) -> str:
    """The prompt, by default an empty line, after which a paragraph begins."""
    if prompt is None:
        return "\n\n" if "\n" in corpus.vocabulary else corpus.text[0]
    unknown = sorted(set(prompt) - set(corpus.vocabulary))
    if unknown or not prompt:
        raise BadInputError(f"--prompt needs characters that {corpus.name} has, got {unknown or 'none'}")
    return prompt


# ---- gradient flow -------------------------------------------------------------------------------------------------


class Nudged:
    """A cell to whose state something is added after every step.

    Where that is zero nothing changes, and the gradient by what was added at step t is the gradient by the state of
    step t, through everything that comes after it.
    """

    def __init__(self, cell: Any) -> None:
        self.cell = cell

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        x, nudge = x
        _, state = self.cell(x, state)
        state = mg.tree.map(mg.add, state, nudge)
        return (state.h if isinstance(state, nn.LSTMState) else state), state


def windows(tokens: np.ndarray) -> np.ndarray:
    """Pieces of text that begin evenly spaced, side by side: (2 * steps + 1, rows) tokens."""
    steps = min(FLOW_STEPS, (len(tokens) - 1) // 2)
    starts = np.linspace(0, len(tokens) - 2 * steps - 1, FLOW_ROWS).astype(int)
    return tokens[starts + np.arange(2 * steps + 1)[:, None]]


def gradient_flow(model: CharModel, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """|d loss of the last character / d state k steps before it|, k = 0, 1, ..., by the name of the state.

    The model reads the first half of some windows without a gradient, so that it has a state of the usual kind, then
    the second half. The norm is over the units, for each row by itself; then the mean over the rows is taken.
    """
    text = windows(tokens)
    steps = len(text) // 2
    with mg.no_grad():
        _, before = model(text[:steps], model.zero_state(text.shape[1]))

    def loss_of_last(nudges: list[Any]) -> mg.Tensor:
        x = model.embedding(text[steps:-1])
        for cell, state, nudge in zip(model.cells, before, nudges, strict=True):
            x, _ = nn.dynamic_rnn(Nudged(cell), (x, nudge), initial_state=state, time_major=True)
        return mg.cross_entropy(model.scores(x[-1]), text[-1]).sum()

    nudges = mg.tree.map(lambda s: mg.zeros((steps, *s.shape), s.dtype), before)
    with mg.no_grad():  # of the gradient itself
        gradients = mg.grad(loss_of_last)(nudges)
    norms = mg.tree.map(lambda g: np.linalg.norm(g.numpy(), axis=-1).mean(axis=-1)[::-1], gradients)
    lines = {}
    for layer, state in enumerate(norms, start=1):
        named = state._asdict() if isinstance(state, nn.LSTMState) else {"h": state}
        lines |= {f"layer {layer} {name}": norm for name, norm in named.items()}
    return lines


# ---- pictures ------------------------------------------------------------------------------------------------------


def claim_pictures(folder: Path) -> tuple[Path, Path]:
    """The two files to write; BadInputError, before any work is done, where a file of somebody else's is in the way."""
    paths = folder / "learning_curve.png", folder / "gradient_flow.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.exists() and PROGRAM.encode() not in path.read_bytes():
                raise BadInputError(f"{path} was not made by this program and is kept: name another folder with --out")
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise BadInputError(f"cannot use --out {folder}: {error.strerror}; name another folder") from None
    return paths


def draw_learning_curve(run: Run, corpus: Corpus, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    size = run.config.batch * run.config.chunk / 1000
    axes.plot(
        size * np.arange(1, run.step + 1), bits(np.array(run.losses)), lw=0.5, color="C7", label="training, each step"
    )
    steps, validation = zip(*run.validation, strict=True)
    axes.plot(size * np.array(steps), validation, "o-", ms=4, label=f"validation, at last {validation[-1]:.3f}")
    axes.axhline(bits_by_frequency(corpus), ls=":", color="C3", label="guessing by frequency")
    axes.set(
        title=f"Learning curve: {title(run.config)}", xlabel="thousands of characters read", ylabel="bits per character"
    )
    finish(figure, path)


def draw_gradient_flow(run: Run, corpus: Corpus, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    untrained = CharModel(len(corpus.vocabulary), run.config)
    for model, when, style in ((run.model, "trained", "-"), (untrained, "before training", ":")):
        for i, (name, norms) in enumerate(gradient_flow(model, corpus.validation).items()):
            positive = np.where(norms > 0, norms, np.nan)  # c does not act on its own step, and 0 has no logarithm
            axes.semilogy(positive, style, color=f"C{i}", label=f"{name}, {when}")
    axes.set(
        title=f"Gradient flow: {title(run.config)}",
        xlabel="k: steps back in time",
        ylabel="|d loss(T) / d state(T - k)|",
    )
    finish(figure, path)


def title(config: Config) -> str:
    return f"{config.cell}, {config.layers} x {config.units} units"


def finish(figure: Figure, path: Path) -> None:
    axes = figure.axes[0]
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": PROGRAM})


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def save(run: Run, corpus: Corpus, path: Path | None) -> None:
    """Write all of a run into one file, at once; without a path, nothing."""
    if path is None:
        return
    arrays: dict[str, Any] = {"losses": np.array(run.losses), "validation": np.array(run.validation).reshape(-1, 2)}
    arrays |= {f"model.{name}": array for name, array in run.model.state_dict().items()}
    arrays |= {f"optimiser.{name}": array for name, array in run.optimiser.state_dict().items()}
    arrays |= {f"state.{i}": leaf for i, leaf in enumerate(mg.tree.flatten(run.state)[0])}
    meta = {"program": PROGRAM, "config": asdict(run.config), "text": corpus.digest, "seconds": run.seconds}
    training.save(path, arrays, meta)


def save_first(run: Run, corpus: Corpus, path: Path | None) -> None:
    """Save before any work is done, so that a file that cannot be written costs nobody's time."""
    try:
        save(run, corpus, path)
    except (OSError, ImportError) as error:
        raise BadInputError(f"cannot write --checkpoint {path}: {getattr(error, 'strerror', None) or error}") from None


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        arrays, meta = training.load(path)
    except (OSError, ValueError, ImportError) as error:
        raise BadInputError(f"cannot read --checkpoint: {error}") from None
    if meta.get("program") != PROGRAM or set(meta["config"]) != {f.name for f in fields(Config)}:
        raise BadInputError(f"--checkpoint {path} holds something else than a run of this program")
    return arrays, meta


def resumed_config(meta: dict[str, Any], given: dict[str, Any]) -> Config:
    """The settings of the checkpoint; what was given on the command line must not contradict them."""
    stored = meta["config"]
    for name, value in given.items():
        if name not in CHANGEABLE and value != stored[name]:
            raise BadInputError(
                f"the checkpoint was made with --{name} {stored[name]}, not {value}: leave --{name} out, or begin anew "
                "with another --checkpoint"
            )
    return replace(Config(**stored), **{name: given[name] for name in CHANGEABLE & set(given)})


def restore(run: Run, corpus: Corpus, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Put a run where the checkpoint's was, bit for bit."""
    if meta["text"] != corpus.digest:
        raise BadInputError(
            f"the checkpoint was made from another text than {corpus.name}: name that one with --text FILE"
        )

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    run.model.load_state_dict(part("model."))
    run.optimiser.load_state_dict(part("optimiser."))
    leaves, structure = mg.tree.flatten(run.state)
    run.state = structure.build([mg.tensor(arrays[f"state.{i}"]) for i in range(len(leaves))])
    run.losses = arrays["losses"].tolist()
    run.validation = [(int(step), value) for step, value in arrays["validation"].tolist()]
    run.seconds = meta["seconds"]


# ---- command line --------------------------------------------------------------------------------------------------


def number(kind: type, low: float, text: str) -> Any:
    """The number that an option names, at least `low`."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value < math.inf:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"needs {what} {'above 0' if low else 'of at least 0'}, got {text!r}")
    return value


count, whole = partial(number, int, 1), partial(number, int, 0)
positive, at_least_0 = partial(number, float, 1e-9), partial(number, float, 0)


def cell(text: str) -> str:
    if text not in CELLS:
        raise argparse.ArgumentTypeError(f"is one of {', '.join(CELLS)}, got {text!r}")
    return text


OPTIONS = {  # group: {option: (what it takes, its unit, what it means)}
    "text and model": {
        "text": (str, "FILE", "text to learn, in UTF-8; by default the language reference inside Python"),
        "cell": (cell, "|".join(CELLS), "kind of cell"),
        "layers": (count, "N", "layers of cells, one above the other"),
        "units": (count, "N", "units of each layer"),
        "embedding": (count, "N", "numbers that stand for one character"),
        "seed": (whole, "N", "of the initial weights and of the sample"),
    },
    "training": {
        "batch": (count, "N", "rows of text that are read side by side"),
        "chunk": (count, "N", "characters of each row that a step reads; gradients flow back through so many"),
        "steps": (count, "N", "updates of the weights, in all"),
        "lr": (positive, "X", "highest learning rate of Adam; it falls to 0 along half a cosine"),
        "warmup": (count, "N", "steps in which the learning rate rises"),
        "clip": (positive, "X", "largest norm of the gradient of all weights together"),
        "every": (count, "N", "steps from one validation and checkpoint to the next"),
    },
    "the run": {
        "backend": (str, "NAME", "where arrays live: numpy, cupy or another that is installed"),
        "checkpoint": (Path, "FILE", "where the run is saved, also at Ctrl-C; a new file, but for --resume"),
        "sample": (whole, "N", "characters to write at the end"),
        "prompt": (str, "TEXT", "what the sample goes on from; by default an empty line"),
        "temperature": (at_least_0, "X", "of the sample: 0 takes the likeliest character, 1 draws as learnt"),
        "out": (Path, "DIR", "folder for the pictures"),
    },
}
DEFAULTS = asdict(Config()) | {
    "backend": "numpy", "checkpoint": None, "sample": 500, "prompt": None, "temperature": 0.6,
    "out": Path("runs/char_lm"),
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message} (--help lists the options)")


def parser() -> Parser:
    """Options of a Config that are not given are left out, so that --resume can tell."""
    wide = partial(argparse.HelpFormatter, max_help_position=26, width=110)
    parser = Parser("char_lm.py", description="Train a character language model.", formatter_class=wide)
    for heading, options in OPTIONS.items():
        group = parser.add_argument_group(heading)
        for name, (kind, unit, meaning) in options.items():
            default = DEFAULTS[name]
            kept = argparse.SUPPRESS if hasattr(Config, name) else default
            text = meaning if default is None else f"{meaning}  [{default}]"
            group.add_argument(f"--{name}", type=kind, metavar=unit, default=kept, help=text)
    group.add_argument("--resume", action="store_true", help="go on with the run in --checkpoint, bit for bit")
    group.add_argument("--quick", action="store_true", help="tiny settings that show everything in seconds")
    return parser


# ---- main ----------------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> tuple[Run, Corpus]:
    """The run, new or from its checkpoint. Whatever is wrong with the input is found here, before any work."""
    given = (QUICK if options.quick else {}) | {k: v for k, v in vars(options).items() if hasattr(Config, k)}
    path = options.checkpoint
    if not options.resume:
        if path is not None and path.exists():
            raise BadInputError(
                f"{path} exists and is kept: add --resume to go on with it, or name another --checkpoint"
            )
        config = Config(**given)
        corpus = read_corpus(config)
        return new_run(config, corpus), corpus
    if path is None:
        raise BadInputError("--resume needs --checkpoint FILE, the file to go on with")
    arrays, meta = load(path)
    config = resumed_config(meta, given)
    corpus = read_corpus(config)
    run = new_run(config, corpus)
    try:
        restore(run, corpus, arrays, meta)
    except (KeyError, ValueError) as error:
        raise BadInputError(f"--checkpoint {path} does not fit this version of the program: {error}") from None
    return run, corpus


def introduce(run: Run, corpus: Corpus, console: Console) -> None:
    config, characters = run.config, len(corpus.text)
    weights = sum(weight.size for weight in run.model.parameters().values())
    console.print(
        f"text: {corpus.name}, {characters:,} characters, {len(corpus.vocabulary)} different ones; "
        f"the last tenth is for validation\n"
        f"model: {title(config)}, {weights:,} weights, on {run.model.scores.W.backend.name}\n"
        f"training: {config.steps:,} steps of {config.batch} x {config.chunk} characters, "
        f"{config.steps * config.batch * config.chunk / len(corpus.training):.1f} times through the text\n"
    )


def report(
    options: argparse.Namespace, run: Run, corpus: Corpus, pictures: tuple[Path, Path], console: Console
) -> None:
    """What a finished run shows: the validation loss, a sample, two pictures."""
    if not run.validation or run.validation[-1][0] != run.step:
        run.validation.append((run.step, evaluate(run.model, corpus.validation)))
    console.print(
        f"\nvalidation: {run.validation[-1][1]:.3f} bits per character, over {len(corpus.validation) - 1:,} characters "
        f"(guessing by frequency: {bits_by_frequency(corpus):.3f})"
    )
    if options.sample:
        text = sample(run, corpus.vocabulary, options.prompt, options.sample, options.temperature)
        line = "-" * 80
        console.print(f"\na sample, at temperature {options.temperature:g}:\n{line}\n{text.strip()}\n{line}")
    draw_learning_curve(run, corpus, pictures[0])
    draw_gradient_flow(run, corpus, pictures[1])
    console.print(f"\npictures: {pictures[0]}, {pictures[1]}")
    if options.checkpoint is not None:
        console.print(f"checkpoint: {options.checkpoint}")


def farewell(options: argparse.Namespace, run: Run) -> str:
    done = f"\ninterrupted after step {run.step:,} of {run.config.steps:,}"
    if options.checkpoint is None:
        return f"{done}, nothing is saved: with --checkpoint FILE it would be, for --resume to go on with"
    return f"{done}, saved in {options.checkpoint}: the same command with --resume goes on"


def work(options: argparse.Namespace) -> int:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    run, corpus = prepare(options)
    options.prompt = checked_prompt(options.prompt, corpus)
    pictures = claim_pictures(options.out)
    save_first(run, corpus, options.checkpoint)
    introduce(run, corpus, console)
    with np.errstate(over="ignore", invalid="ignore"):  # clip_global_norm raises where numbers grow out of bounds
        finished = train(run, corpus, options.checkpoint, console)
    if not finished:
        console.print(farewell(options, run))
        return 130
    report(options, run, corpus, pictures, console)
    return 0


def on_backend(name: str) -> Any:
    try:
        return mg.use_backend(name)
    except (ValueError, RuntimeError) as error:
        raise BadInputError(f"--backend: {error}") from None


def complain(error: object, code: int) -> int:
    print("char_lm:", " ".join(str(error).split()), file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when all is done, 1 where training or saving fails, 2 for bad input, 130 after Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a sample may hold characters that the terminal does not know
    try:
        options = parser().parse_args(argv)
        with on_backend(options.backend):
            return work(options)
    except BadInputError as error:
        return complain(error, 2)
    except FloatingPointError as error:
        return complain(f"training broke down: {error}; a smaller --lr may help", 1)
    except OSError as error:
        return complain(f"cannot save: {error}", 1)
    except KeyboardInterrupt:
        return complain("interrupted", 130)


if __name__ == "__main__":
    sys.exit(main())
