"""Syntax highlighting as sequence labelling: a bidirectional net says of every character of Python what it belongs to.

    python examples/highlight.py
    python examples/highlight.py --file your_program.py

It learns from modules of Python's own standard library, with `tokenize` as the truth. Whether `in` is a keyword or the
beginning of `int`, and whether a name is called, shows in what follows; whether a name is being defined, or stands in
a string, in what came before. So three nets of about equally many weights are trained, which read forward, backward and
both ways, and files that none of them has seen tell how often each is right. Then a file is shown as the last one sees
it: coloured on a terminal, elsewhere with the first letter of its class below each character. A picture shows both.

The nets see characters only. They learn from windows cut out anywhere, maybe in a string, and are used on whole files,
of any length, where they are right more often, because nothing is out of sight. Classes are those of `class_of`; soft
keywords, such as match, count as other names do.

Source: Schuster and Paliwal, "Bidirectional recurrent neural networks" (1997). `--help` lists all settings.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

from plumbing import commands, pictures, python_code, text, training
from plumbing.commands import count, option, positive, whole

# isort: split

import numpy as np
from rich.console import Console
from rich.text import Text

import minigrad as mg
from minigrad import nn

PROGRAM = "highlight"
COLOURS = {
    "whitespace": "#a0a0a0",
    "comment": "#607890",
    "string": "#2e9050",
    "number": "#c07000",
    "keyword": "#b040a0",
    "definition": "#2070e0",
    "function": "#1898a8",
    "identifier": "#8a6a52",
    "operator": "#d04040",
}
CLASSES = tuple(COLOURS)
DIRECTIONS = "forward", "backward", "both"
CHARACTERS, UNKNOWN = 90, "any other"  # the most frequent characters, and what the net reads in place of another
EMBEDDING = 16
LARGEST = 40_000  # characters of a file to learn from
LINES_DRAWN, COLUMNS_DRAWN = 60, 120  # the most that a picture has room for


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    folder: Path = option(Path(os.__file__).parent, Path, "DIR", "its files that begin with a to z are learnt from")
    files: int = option(80, count, "N", "how many of them, drawn by the seed")
    held_out: int = option(8, count, "N", "how many of those are held out, to compare the nets on")
    file: Path | None = option(None, Path, "FILE", "a Python file to show, not learnt from; else one held out")
    lines: int = option(24, count, "N", "how many lines of it: those of most classes, and then of most errors")
    units: int = option(64, count, "N", "units in each direction of the net that reads both ways")
    window: int = option(128, count, "N", "characters of a window, 40,000 at most")
    batch: int = option(32, count, "N", "windows of each update")
    steps: int = option(600, count, "N", "updates of the weights of each net")
    lr: float = option(0.02, positive, "X", "learning rate of Adam, at its highest")
    seed: int = option(0, whole, "N", "of the choice of files, of weights and of windows")


# ---- truth ---------------------------------------------------------------------------------------------------------


def truth(code: str) -> np.ndarray:
    """The class of each character: (characters,). SyntaxError or TokenError where the code has no tokens."""
    begins = [0, *itertools.accumulate(len(line) + 1 for line in code.split("\n"))]
    tags = np.full(len(code), CLASSES.index("whitespace"))
    tokens = list(python_code.tokens_of(code))
    for i, token in enumerate(tokens):
        before, after = (tokens[j].string if 0 <= j < len(tokens) else "" for j in (i - 1, i + 1))
        first, last = (begins[line - 1] + column for line, column in (token.start, token.end))
        tags[first:last] = CLASSES.index(class_of(token, before, after))
    return tags


def class_of(token: tokenize.TokenInfo, before: str, after: str) -> str:
    """The class of a token between its neighbours."""
    if token.type == tokenize.NAME:
        if iskeyword(token.string):
            return "keyword"
        if before in {"def", "class"}:
            return "definition"
        return "function" if after == "(" else "identifier"
    kinds = {tokenize.COMMENT: "comment", tokenize.STRING: "string", tokenize.NUMBER: "number", tokenize.OP: "operator"}
    return kinds.get(token.type, "whitespace")  # ends of lines and of blocks


# ---- files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A Python file, and the class of each of its characters, or why there is none."""

    path: Path
    text: str
    tags: np.ndarray | None
    fault: str = ""


def read(path: Path) -> Source:
    code = python_code.read(path)
    try:
        return Source(path, code, truth(code))
    except (SyntaxError, tokenize.TokenError) as error:
        return Source(path, code, None, str(error.args[0]))


class Corpus:
    """The files to learn from and those held out, drawn from a folder by the seed; `shown` is none of them."""

    def __init__(self, config: Config, shown: Source | None) -> None:
        apart = shown and shown.path.resolve()
        paths = sorted(path for path in config.folder.glob("[a-z]*.py") if path.resolve() != apart)
        mg.random.generator(config.seed).shuffle(paths)
        sources = list(itertools.islice(fit_to_learn_from(paths, config.window), config.files))
        self.held_out, self.seen = sources[: config.held_out], sources[config.held_out :]
        if not self.seen and config.files <= config.held_out:
            raise commands.BadInputError(
                f"--files {config.files} leaves none to learn from: needed are more than the {config.held_out} of "
                "--held-out"
            )
        if not self.seen:
            raise commands.BadInputError(
                f"--folder {config.folder} has {len(sources)} Python files without a fault, of {config.window:,} to "
                f"{LARGEST:,} characters; needed are more than the {config.held_out} that are held out"
            )
        everything = itertools.chain.from_iterable(source.text for source in self.seen)
        self.vocabulary = text.Vocabulary.of_frequent(everything, CHARACTERS, [UNKNOWN])

    def codes(self, source: Source) -> np.ndarray:
        """The number of each character of a file."""
        return np.array(self.vocabulary.numbers_of(source.text, UNKNOWN))

    def windows(self, sources: Sequence[Source], steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Files cut into windows, without what remains of each: their characters and classes, both (steps, windows)."""

        def cut(rows: list[Any]) -> np.ndarray:
            return np.concatenate([row[: len(row) // steps * steps].reshape(-1, steps) for row in rows]).T

        return cut([self.codes(source) for source in sources]), cut([source.tags for source in sources])


def fit_to_learn_from(paths: Sequence[Path], smallest: int) -> Iterator[Source]:
    for path in paths:
        try:
            source = read(path)
        except commands.BadInputError:
            continue
        if source.tags is not None and smallest <= len(source.text) <= LARGEST:
            yield source


# ---- nets ----------------------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """Characters (T, B) to logits (T, B, classes), through a GRU in one direction or one in each."""

    def __init__(self, direction: str, characters: int, config: Config) -> None:
        # one cell of 1.45 times the units has about as many weights as two cells
        self.sizes = [config.units, config.units] if direction == "both" else [round(1.45 * config.units)]
        cells = [nn.GRUCell(EMBEDDING, units, seed=(config.seed, i)) for i, units in enumerate(self.sizes)]
        self.embedding = nn.Embedding(characters, EMBEDDING, seed=config.seed)
        self.net = nn.Bidirectional(*cells) if direction == "both" else cells[0]
        self.readout = nn.Linear(sum(self.sizes), len(CLASSES), seed=config.seed)
        self.reverse = direction == "backward"

    def __call__(self, codes: Any, lengths: Any = None) -> Any:
        inputs = self.embedding(codes)
        outputs, _ = nn.dynamic_rnn(self.net, inputs, lengths, time_major=True, reverse=self.reverse)
        return self.readout(outputs)

    def tags(self, codes: Any, lengths: Any = None) -> np.ndarray:
        """The likeliest class of each character, (T, B)."""
        with mg.no_grad():
            return mg.argmax(self(codes, lengths), axis=-1).numpy()


def train(direction: str, corpus: Corpus, config: Config, console: Console) -> Tagger:
    model = Tagger(direction, len(corpus.vocabulary), config)
    codes, tags = corpus.windows(corpus.seen, config.window)
    unseen_codes, unseen_tags = (part[:, ::8] for part in corpus.windows(corpus.held_out, config.window))

    def loss(step: int) -> Any:
        drawn = mg.random.generator([config.seed, step]).integers(codes.shape[1], size=config.batch)
        return mg.cross_entropy(model(codes[:, drawn]), tags[:, drawn]).mean()

    def accuracy() -> float:
        return float((model.tags(unseen_codes) == unseen_tags).mean())

    console.print(f"\n{direction}: {' + '.join(map(str, model.sizes))} units, {training.size_of(model)}")
    training.fit(model, loss, training.Schedule(config.steps, config.lr, warmup=20), accuracy, console, "in windows")
    return model


def tag_files(model: Tagger, corpus: Corpus, sources: Sequence[Source]) -> list[np.ndarray]:
    """What a net says of the characters of whole files."""

    def said(codes: Any, lengths: Any) -> Any:
        return (tags[:length] for tags, length in zip(model.tags(codes.T, lengths).T, lengths, strict=True))

    return training.in_batches(said, [corpus.codes(source) for source in sources], batch=4)


# ---- what is shown -------------------------------------------------------------------------------------------------


def compare(models: Mapping[str, Tagger], corpus: Corpus, console: Console) -> dict[str, list[float]]:
    """The percentage of right answers of each net, for each class and for all, on the files held out."""
    tags = np.concatenate([source.tags for source in corpus.held_out])
    masks = {name: tags == i for i, name in enumerate(CLASSES)} | {"all": np.ones(len(tags), bool)}
    table = {}
    for direction, model in models.items():
        right = np.concatenate(tag_files(model, corpus, corpus.held_out)) == tags
        table[direction] = [100 * float(right[mask].mean()) if mask.any() else float("nan") for mask in masks.values()]
    console.print("\ncharacters tagged right, in whole files that no net has seen, in %")
    console.print("class         share  " + "  ".join(f"{direction:>8}" for direction in models))
    for i, (name, mask) in enumerate(masks.items()):
        values = "  ".join(f"{values[i]:8.1f}" for values in table.values())
        console.print(f"{name:12}  {100 * mask.mean():5.1f}  {values}")
    return table


Line = Sequence[tuple[str, str, bool]]
"""The characters of a line of code: each with the class that a net gives it, and whether that is known to be wrong."""


def lines_of(source: Source, said: np.ndarray) -> list[Line]:
    wrong = np.zeros(len(said), bool) if source.tags is None else said != source.tags
    lines: list[Any] = [[]]
    for char, tag, bad in zip(source.text, said, wrong, strict=True):
        if char == "\n":
            lines.append([])
        else:
            lines[-1].append((char if char.isprintable() else " ", CLASSES[tag], bool(bad)))
    return lines


def liveliest(lines: Sequence[Line], size: int) -> int:
    """Where those `size` lines begin that have the most classes, and among them the most errors."""

    def variety(first: int) -> tuple[int, int]:
        chars = [char for line in lines[first : first + size] for char in line]
        return len({name for _, name, _ in chars}), sum(wrong for _, _, wrong in chars)

    return max(range(max(len(lines) - size, 0) + 1), key=variety)


def show(lines: Sequence[Line], console: Console) -> None:
    """Lines in colours on a terminal, elsewhere with the letters of classes below."""
    if console.is_terminal:
        console.print(Text(" ").join([Text(*item) for item in [*COLOURS.items(), ("error", "underline")]]), "\n")
    else:
        console.print("below each character is the first letter of its class, a capital where it is wrong\n")
    for line in lines:
        styled = [(char, COLOURS[name] + " underline" * wrong) for char, name, wrong in line]
        console.print(Text.assemble(*styled))
        if line and not console.is_terminal:
            letters = (name[0].upper() if wrong else name[0].replace("w", " ") for _, name, wrong in line)
            console.print("".join(letters).rstrip())


def draw(table: Mapping[str, Sequence[float]], lines: Sequence[Line], title: str, path: Path) -> None:
    """The accuracy of each net on each class, and lines of code as the last one sees them, errors underlined."""
    height = (len(lines) + 2) / 7
    figure, (bars, code) = pictures.canvas(9, 3.5 + height, nrows=2, height_ratios=[3, height])
    places = np.arange(len(CLASSES) + 1)
    for i, (direction, values) in enumerate(table.items()):
        bars.bar(places + (i - 1) / 4, values, 1 / 4, color=f"C{i}", label=direction)
    bars.set(title="characters tagged right, in whole files that no net has seen", ylabel="%")
    bars.set_xticks(places, [*CLASSES, "all"], size="small")
    for label, colour in zip(bars.get_xticklabels(), COLOURS.values(), strict=False):
        label.set_color(colour)
    bars.legend(loc="upper left", bbox_to_anchor=(1, 1))

    code.set(title=f"{title}; errors are underlined", ylim=(len(lines), -1))
    code.set_axis_off()
    for i, line in enumerate(lines):  # one text for each colour: in a monospaced font they do not overlap
        layers = {COLOURS[name]: [char if name == one else " " for char, one, _ in line] for name in CLASSES}
        layers["red"] = ["_" if wrong else " " for _, _, wrong in line]
        for colour, layer in layers.items():
            row = "".join(char if char.isascii() else "?" for char in layer[:COLUMNS_DRAWN]).rstrip()
            code.text(0, i, row, color=colour, family="monospace", size=7)
    pictures.finish(figure, path, PROGRAM, legend=False)


# ---- main ----------------------------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> int:
    config = commands.made(Config, options)
    [picture] = commands.claimed(PROGRAM, options.out, "highlight.png")
    shown = read(config.file) if config.file else None
    corpus, console = Corpus(config, shown), commands.console()
    console.print(
        f"{len(corpus.seen)} files to learn from, {sum(len(source.text) for source in corpus.seen):,} characters, in "
        f"windows of {config.window}\nheld out: {', '.join(source.path.name for source in corpus.held_out)}"
    )
    models = {direction: train(direction, corpus, config, console) for direction in DIRECTIONS}
    table = compare(models, corpus, console)

    source = shown or corpus.held_out[0]
    [said] = tag_files(models["both"], corpus, [source])
    lines = lines_of(source, said)
    first = liveliest(lines, config.lines)
    passage = lines[first : first + config.lines]
    title = f"{source.path.name} from line {first + 1}, as the net that reads both ways sees it"
    if source.tags is None:
        verdict = f"how much is right is unknown, because tokenize finds a fault: {source.fault}"
    else:
        verdict = f"of the file's {len(said):,} characters {100 * (said == source.tags).mean():.2f} % are right"
    console.print(f"\n{title}\n{verdict}\n")
    show(passage, console)
    draw(table, passage[:LINES_DRAWN], title, picture)
    console.print(f"\npicture: {picture}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = commands.parser(PROGRAM, "Train nets to highlight Python, and show a file.", Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
