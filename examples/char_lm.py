"""A language model: a recurrent network learns to write text like the one that it reads, by characters or by words.

    python examples/char_lm.py
    python examples/char_lm.py --words

The first trains one LSTM layer on the language reference that comes with Python, which takes one to two minutes, then
prints how well it predicts the last tenth of the text, which it never saw, and when it was good enough, writes some
text of its own, and saves two pictures. The second does so word by word, with dropout, because it reads its text many
times. `--help` lists all settings.

Dropout stands where Zaremba et al., "Recurrent neural network regularization" (2014), have it: between the layers and
after the last one, and not in what a cell remembers.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plumbing import checkpoints, commands, documentation, pictures
from plumbing.checkpoints import Run
from plumbing.commands import BadInputError, count, option, positive, whole
from plumbing.flow import Nudged, gradient_by_states
from plumbing.text import Vocabulary, read
from plumbing.training import Schedule, size_of

# isort: split

import numpy as np
from rich.console import Console

import minigrad as mg
from minigrad import nn, optim, training
from minigrad.nn import decoding

PROGRAM = "char_lm"
PICTURES = "learning_curve.png", "gradient_flow.png"
CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
VALIDATION_ROWS, VALIDATION_CHUNK = 16, 32
FLOW_ROWS, FLOW_STEPS = 64, 100
UNKNOWN = " <unknown>"  # three words of a text, so none is called so
END = "end"  # of a word; no character is called so


# ---- settings ------------------------------------------------------------------------------------------------------

BY_WORDS = {"units": 128, "embedding": 128, "dropout": 0.5, "steps": 800, "every": 100}  # what --words sets otherwise
QUICK = {"units": 32, "embedding": 16, "batch": 16, "chunk": 16, "steps": 100, "warmup": 10, "every": 50}
CHANGEABLE = {"text", "steps", "every"}  # by --resume; a text is known again by its contents, wherever it lies


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is, and is kept in its checkpoint."""

    text: str | None = option(None, str, "FILE", "text to learn, in UTF-8; else the language reference inside Python")
    words: bool = option(False, bool, "", f"learn words instead of characters, by default with {BY_WORDS}")
    vocabulary: int = option(4000, count, "N", "the most frequent words, which --words knows; the others count as one")
    cell: str = option("lstm", commands.one_of(CELLS), "|".join(CELLS), "kind of cell")
    layers: int = option(1, count, "N", "layers of cells, one above the other")
    units: int = option(192, count, "N", "units of each layer")
    embedding: int = option(64, count, "N", "numbers that stand for one character or word")
    dropout: float = option(0.0, commands.fraction, "P", "how probably training drops an output of a layer")
    batch: int = option(32, count, "N", "rows of text that are read side by side")
    chunk: int = option(32, count, "N", "tokens of each row that a step reads; gradients flow back through so many")
    steps: int = option(2000, count, "N", "updates of the weights, in all")
    lr: float = option(0.01, positive, "X", "highest learning rate of Adam; it falls to 0 along half a cosine")
    warmup: int = option(100, count, "N", "steps in which the learning rate rises")
    clip: float = option(1.0, positive, "X", "largest norm of the gradient of all weights together")
    every: int = option(200, count, "N", "steps from one validation and checkpoint to the next")
    seed: int = option(0, whole, "N", "of the initial weights, of dropout and of the sample")


@dataclass(frozen=True)
class Request:
    """What is asked of a run."""

    checkpoint: Path | None = option(None, Path, "FILE", "where it is saved, also at Ctrl-C; new, but for --resume")
    resume: bool = option(False, bool, "", "go on with the run in --checkpoint, bit for bit")
    quick: bool = option(False, bool, "", "tiny settings that show everything in seconds")
    target: float | None = option(
        None, positive, "X", "whose first time on validation is told  [1.85 bits, or a perplexity of 70]"
    )
    sample: int = option(500, whole, "N", "tokens to write at the end")
    prompt: str | None = option(None, str, "TEXT", "what the sample goes on from; by default an empty line")
    temperature: float = option(
        0.6, commands.at_least_0, "X", "of the sample: 0 takes the likeliest token, 1 draws as learnt"
    )


# ---- text ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """What a token is, and how its losses are told: `metric` takes their sum in nats, and the number of tokens."""

    token: str
    split: Callable[[str], list[str]]
    metric: Callable[[Any, Any], float]
    short: str
    long: str
    target: float


def words_of(text: str) -> list[str]:
    """The text in pieces: words and numbers, marks and runs of one mark, each with a space before it; other spaces."""
    return [piece[0] for piece in re.finditer(r" ?\w+| ?([^\w\s])\1*|\s+", text)]


CHARACTERS = Level("character", list, nn.bits_per_character, "bits/char", "{:.3g} bits per character", 1.85)
WORDS = Level("word", words_of, nn.perplexity, "perplexity", "a perplexity of {:.3g} per word", 70)


@dataclass(frozen=True)
class Corpus:
    """A text, and the same as integers: the places of its characters, or words, in a vocabulary."""

    name: str
    text: str
    level: Level = CHARACTERS
    size: int = 0  # of a vocabulary of words

    @cached_property
    def pieces(self) -> list[str]:
        return self.level.split(self.text)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All characters of the text, or the most frequent words of its training part."""
        if self.level is CHARACTERS:
            return Vocabulary(self.pieces)
        return Vocabulary.of_frequent(self.pieces[: self._split], self.size, [UNKNOWN])

    @cached_property
    def tokens(self) -> np.ndarray:
        unknown = None if self.level is CHARACTERS else UNKNOWN
        return np.array(self.vocabulary.numbers_of(self.pieces, unknown), dtype=int)

    @property
    def training(self) -> np.ndarray:
        return self.tokens[: self._split]

    @property
    def validation(self) -> np.ndarray:
        """The last tenth, after the token that comes before it: each token of the tenth is predicted."""
        return self.tokens[self._split - 1 :]

    @property
    def validation_pieces(self) -> list[str]:
        return self.pieces[self._split :]

    @cached_property
    def _split(self) -> int:
        """The first token in the last tenth of the characters."""
        starts = np.cumsum([0, *map(len, self.pieces)])
        return int(np.searchsorted(starts, len(self.text) - len(self.text) // 10))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_corpus(config: Config) -> Corpus:
    level = WORDS if config.words else CHARACTERS
    name = config.text or "Python's language reference"
    text = documentation.whole("--text") if config.text is None else read(Path(config.text), "--text")
    corpus = Corpus(name, text, level, config.vocabulary)
    needed = config.batch * config.chunk + 1
    if len(corpus.training) < needed or len(corpus.validation) < 2:
        raise BadInputError(
            f"{name} has {len(corpus.pieces):,} {level.token}s, which is too short: nine tenths of it must fill "
            f"--batch {config.batch} rows of --chunk {config.chunk} {level.token}s, {needed:,} in all"
        )
    return corpus


def rows(tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The text cut into `count` equal parts, side by side: inputs and targets (time, count). What is left over goes."""
    length = (len(tokens) - 1) // count
    inputs, targets = tokens[: length * count], tokens[1 : length * count + 1]
    return inputs.reshape(count, length).T, targets.reshape(count, length).T


# ---- model ---------------------------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    """Tokens in, scores of the next token out: a vector for each, layers of cells over time, a linear map."""

    def __init__(self, tokens: int, config: Config) -> None:
        sizes = [config.embedding] + [config.units] * config.layers
        cells = [
            CELLS[config.cell](inputs, config.units, seed=[config.seed, layer])
            for layer, inputs in enumerate(sizes[:-1])
        ]
        self.embedding = nn.Embedding(tokens, config.embedding, seed=config.seed)
        self.net = nn.Deep([nn.Dropout(cell, output=config.dropout) for cell in cells])
        self.scores = nn.Linear(config.units, tokens, seed=config.seed)

    def zero_state(self, batch: int) -> Any:
        return self.net.zero_state(batch)

    def __call__(self, tokens: Any, state: Any, training: bool = False, seed: Any = None) -> tuple[mg.Tensor, Any]:
        """Tokens (time, batch) and the state before them; scores (time, batch, tokens) and the state after them."""
        outputs, state = nn.dynamic_rnn(
            self.net, self.embedding(tokens), initial_state=state, time_major=True, training=training, seed=seed
        )
        return self.scores(outputs), state


# ---- training ------------------------------------------------------------------------------------------------------


def new_run(config: Config, corpus: Corpus) -> Run:
    model = LanguageModel(len(corpus.vocabulary), config)
    return Run(config, model, optim.Adam(model, config.lr), model.zero_state(config.batch))


def schedule_of(config: Config) -> Schedule:
    return Schedule(config.steps, config.lr, config.warmup, config.clip, config.every)


def loss_of_next_chunk(run: Run, corpus: Corpus) -> mg.Tensor:
    """One chunk of truncated backpropagation through time: the state is handed on, its gradient is cut."""
    inputs, targets = next_chunk(run, corpus)
    logits, state = run.model(inputs, run.state, training=True, seed=[run.config.seed, run.history.step])
    run.state = mg.stop_gradient(state)
    return mg.cross_entropy(logits, targets).mean()


def next_chunk(run: Run, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The chunk that follows; at the end of the rows, the first one and a fresh state."""
    size = run.config.chunk
    inputs, targets = rows(corpus.training, run.config.batch)
    start = run.history.step % (len(inputs) // size) * size
    if start == 0:
        run.state = run.model.zero_state(run.config.batch)
    return inputs[start : start + size], targets[start : start + size]


def train(run: Run, corpus: Corpus, checkpoint: Path | None, console: Console) -> None:
    """Train until all steps are done or Ctrl-C is pressed."""
    checkpoints.fit_and_save(
        run,
        lambda _: loss_of_next_chunk(run, corpus),
        schedule_of(run.config),
        lambda: evaluate(run.model, corpus),
        console,
        corpus.level.short,
        lambda: checkpoints.save(run, checkpoint, PROGRAM, corpus.digest),
    )


# ---- evaluation ----------------------------------------------------------------------------------------------------


def total_loss(model: Any, tokens: np.ndarray) -> float:
    """The losses of every token but the first, in nats, their sum; each is predicted from those before it in its row.

    The text is read in some rows side by side, because that is faster, each beginning with a state of zeros.
    """
    state, total = model.zero_state(VALIDATION_ROWS), 0.0
    with mg.no_grad():
        for inputs, targets, lengths in training.streams(tokens, VALIDATION_ROWS, VALIDATION_CHUNK):
            logits, state = model(inputs.T, state)
            losses = mg.cross_entropy(logits, targets.T).astype("float64")
            total += nn.reduce_losses(mg.swapaxes(losses, 0, 1), "sum", lengths=lengths).item()
    return total


def evaluate(model: Any, corpus: Corpus) -> float:
    """Bits per character, or the perplexity per word, of the validation text."""
    return corpus.level.metric(total_loss(model, corpus.validation), len(corpus.validation) - 1)


def guessing(corpus: Corpus) -> float:
    """What a guesser gets on the validation text who only knows how often each token occurs in the whole text."""
    frequency = np.bincount(corpus.tokens) / len(corpus.tokens)
    losses = -np.log(frequency[corpus.validation[1:]])
    return corpus.level.metric(losses.sum(), len(losses))


def spelling(words: Sequence[str]) -> float:
    """The nats that it takes to spell words by the frequency of their characters and ends.

    A model of words leaves it out where a word is unknown, and a model of characters does not; so they nearly compare:
    that the frequencies are those of these very words makes it a little too cheap.
    """
    counts = np.array([*Counter(itertools.chain.from_iterable([*word, END] for word in words)).values()])
    return float(-(counts * np.log(counts / counts.sum())).sum())


# ---- sampling ------------------------------------------------------------------------------------------------------


def sample(run: Run, corpus: Corpus, prompt: str, length: int, temperature: float) -> str:
    """Text that the model writes after the prompt: each token is drawn from what it predicts, or the likeliest."""
    vocabulary = corpus.vocabulary
    *before, last = vocabulary.numbers_of(corpus.level.split(prompt))
    state = run.model.zero_state(1)
    with mg.no_grad():
        if before:
            _, state = run.model(np.array(before)[:, None], state)

    def step(tokens: Any, state: Any, _: None) -> Any:
        logits, state = run.model(tokens[None], state)
        return logits[0], state

    if temperature == 0:
        written = decoding.greedy(step, state, start=last, end=None, max_length=length)
    else:
        written = decoding.sample(
            step, state, start=last, end=None, max_length=length, seed=run.config.seed, temperature=temperature
        )
    return prompt + "".join(vocabulary.tokens_of(written.tokens[0]))


def checked_prompt(prompt: str | None, corpus: Corpus) -> str:
    """The prompt, by default an empty line, after which a paragraph begins."""
    known, split = corpus.vocabulary, corpus.level.split
    if prompt is None:
        return next(piece for piece in [*split("\n\n"), *corpus.pieces] if piece in known)
    for start in (prompt, f" {prompt}"):  # a word that stands within a line is known with the space before it
        if prompt and all(piece in known for piece in split(start)):
            return start
    unknown = [piece for piece in split(prompt) if piece not in known]
    raise BadInputError(
        f"--prompt needs {corpus.level.token}s in the vocabulary of {corpus.name}, got {unknown or 'none'}"
    )


# ---- gradient flow -------------------------------------------------------------------------------------------------


def windows(tokens: np.ndarray) -> np.ndarray:
    """Pieces of text that begin evenly spaced, side by side: (2 * steps + 1, rows) tokens."""
    steps = min(FLOW_STEPS, (len(tokens) - 1) // 2)
    starts = np.linspace(0, len(tokens) - 2 * steps - 1, FLOW_ROWS).astype(int)
    return tokens[starts + np.arange(2 * steps + 1)[:, None]]


def gradient_flow(model: LanguageModel, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """|d loss of the last token / d state k steps before it|, k = 0, 1, ..., by the name of the state.

    The model reads the first half of some windows without a gradient, so that it has a state of the usual kind, then
    the second half. The norm is over the units, for each row by itself; then the mean over the rows is taken.
    """
    tokens = windows(tokens)
    steps = len(tokens) // 2
    with mg.no_grad():
        _, before = model(tokens[:steps], model.zero_state(tokens.shape[1]))

    def loss_of_last(nudges: Any) -> mg.Tensor:
        x = model.embedding(tokens[steps:-1])
        for layer, state, nudge in zip(model.net.layers, before, nudges, strict=True):
            x, _ = nn.dynamic_rnn(Nudged(layer.cell), (x, nudge), initial_state=state, time_major=True)
        return mg.cross_entropy(model.scores(x[-1]), tokens[-1]).sum()

    gradients = gradient_by_states(loss_of_last, steps, before)
    norms = mg.tree.map(lambda g: np.linalg.norm(g, axis=-1).mean(axis=-1)[::-1], gradients)
    lines = {}
    for layer, state in enumerate(norms, start=1):
        named = state._asdict() if isinstance(state, nn.LSTMState) else {"h": state}
        lines |= {f"layer {layer} {name}": norm for name, norm in named.items()}
    return lines


# ---- pictures ------------------------------------------------------------------------------------------------------


def draw_learning_curve(run: Run, corpus: Corpus, path: Path) -> None:
    figure, axes = pictures.canvas()
    level, size = corpus.level, run.config.batch * run.config.chunk / 1000
    losses = [level.metric(loss, 1) for loss in run.history.losses]
    axes.plot(size * np.arange(1, len(losses) + 1), losses, lw=0.5, color="C7", label="training, each step")
    steps, validation = np.array(run.history.measured).T
    axes.plot(size * steps, validation, "o-", ms=4, label=f"validation, at last {validation[-1]:.3f}")
    axes.axhline(guessing(corpus), ls=":", color="C3", label="guessing by frequency")
    axes.set(
        title=f"Learning curve: {title(run.config)}",
        xlabel=f"thousands of {level.token}s read",
        ylabel=level.short,
        yscale="linear" if level is CHARACTERS else "log",
    )
    pictures.finish(figure, path, PROGRAM)


def draw_gradient_flow(run: Run, corpus: Corpus, path: Path) -> None:
    figure, axes = pictures.canvas()
    untrained = LanguageModel(len(corpus.vocabulary), run.config)
    for model, when, style in ((run.model, "trained", "-"), (untrained, "before training", ":")):
        for i, (name, norms) in enumerate(gradient_flow(model, corpus.validation).items()):
            shown = np.where(norms > 0, norms, np.nan)  # c does not act on its own step, and 0 has no logarithm
            axes.semilogy(shown, style, color=f"C{i}", label=f"{name}, {when}")
    axes.set(
        title=f"Gradient flow: {title(run.config)}",
        xlabel="k: steps back in time",
        ylabel="|d loss(T) / d state(T - k)|",
    )
    pictures.finish(figure, path, PROGRAM)


def title(config: Config) -> str:
    return f"{config.cell}, {config.layers} x {config.units} units"


# ---- main ----------------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> tuple[Run, Corpus]:
    """The run, new or from its checkpoint. Whatever is wrong with the input is found here, before any work."""
    if options.quick and options.resume:
        raise BadInputError("--quick is for a new run: leave it out with --resume, which keeps the old settings")
    given = (QUICK if options.quick else {}) | commands.given(Config, options)
    checkpoints.check(options.checkpoint, options.resume)
    if not options.resume:
        if "vocabulary" in given and "words" not in given:
            raise BadInputError("--vocabulary is for --words: characters are all known")
        config = Config(**((BY_WORDS if "words" in given else {}) | given))
        corpus = read_corpus(config)
        return new_run(config, corpus), corpus
    arrays, meta = checkpoints.load(options.checkpoint, PROGRAM, Config)
    config = checkpoints.resumed(Config(**meta["config"]), given, CHANGEABLE)
    corpus = read_corpus(config)
    if meta["data"] != corpus.digest:
        raise BadInputError(
            f"the checkpoint was made from another text than {corpus.name}: name that one with --text FILE"
        )
    run = new_run(config, corpus)
    checkpoints.restore(run, options.checkpoint, arrays, meta)
    return run, corpus


def introduce(run: Run, corpus: Corpus, console: Console) -> None:
    config, token = run.config, corpus.level.token
    known = len(corpus.vocabulary)
    kinds = f"of which it knows the {known - 1:,} most frequent" if config.words else f"{known} different ones"
    dropout = f", dropout {config.dropout:g}" if config.dropout else ""
    console.print(
        f"text: {corpus.name}, {len(corpus.pieces):,} {token}s, {kinds}; "
        f"the last tenth is for validation\n"
        f"model: {title(config)}{dropout}, {size_of(run.model)}\n"
        f"training: {config.steps:,} steps of {config.batch} x {config.chunk} {token}s, "
        f"{config.steps * config.batch * config.chunk / len(corpus.training):.1f} times through the text\n"
    )


def report(options: argparse.Namespace, run: Run, corpus: Corpus, paths: Sequence[Path], console: Console) -> None:
    """What a finished run shows: the validation loss, when it was good enough, a sample, two pictures."""
    if not run.history.measured or run.history.measured[-1][0] != run.history.step:
        run.history.note(evaluate(run.model, corpus))
    console.print(f"\n{validation_report(run, corpus)}\n{target_report(options.target, run, corpus)}")
    if options.sample:
        written = sample(run, corpus, options.prompt, options.sample, options.temperature)
        line = "-" * 80
        console.print(f"\na sample, at temperature {options.temperature:g}:\n{line}\n{written.strip()}\n{line}")
    draw_learning_curve(run, corpus, paths[0])
    draw_gradient_flow(run, corpus, paths[1])
    console.print(f"\npictures: {paths[0]}, {paths[1]}")
    if options.checkpoint is not None:
        console.print(f"checkpoint: {options.checkpoint}")


def validation_report(run: Run, corpus: Corpus) -> str:
    tokens, value = corpus.validation, run.history.measured[-1][1]
    if corpus.level is CHARACTERS:
        return (
            f"validation: {value:.3f} bits per character, over {len(tokens) - 1:,} characters "
            f"(guessing by frequency: {guessing(corpus):.3f})"
        )
    unknown = [word for word in corpus.validation_pieces if word not in corpus.vocabulary]
    nats = total_loss(run.model, tokens) + spelling(unknown)
    bits = nn.bits_per_character(nats, sum(map(len, corpus.validation_pieces)))
    return (
        f"validation: a perplexity of {value:.1f} per word, over {len(tokens) - 1:,} words "
        f"(guessing by frequency: {guessing(corpus):.1f})\n"
        f"            {bits:.3f} bits per character, with the spelling of {len(unknown):,} words that are not in the "
        "vocabulary"
    )


def target_report(target: float | None, run: Run, corpus: Corpus) -> str:
    target = corpus.level.target if target is None else target
    told, reached = corpus.level.long.format(target), run.history.first_below(target)
    if reached is None:
        return f"not below {told} in {run.history.step:,} steps, {run.history.seconds:.0f} s"
    step, seconds = reached
    return f"below {told} after {seconds:.0f} s (step {step:,})"


def farewell(options: argparse.Namespace, run: Run) -> str:
    done = f"\ninterrupted after step {run.history.step:,} of {run.config.steps:,}"
    if options.checkpoint is None:
        return f"{done}, nothing is saved: with --checkpoint FILE it would be, for --resume to go on with"
    return f"{done}, saved in {options.checkpoint}: the same command with --resume goes on"


def work(options: argparse.Namespace) -> int:
    console = commands.console()
    run, corpus = prepare(options)
    options.prompt = checked_prompt(options.prompt, corpus)
    paths = commands.claimed(PROGRAM, options.out, *PICTURES)
    checkpoints.save_first(run, options.checkpoint, PROGRAM, corpus.digest)
    introduce(run, corpus, console)
    train(run, corpus, options.checkpoint, console)
    if run.history.step < run.config.steps:
        console.print(farewell(options, run))
        return 130
    report(options, run, corpus, paths, console)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    # what is not given is left out of the options, so that --resume can tell
    parser = commands.parser(PROGRAM, "Train a language model.", Config, Request, only_given=Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
