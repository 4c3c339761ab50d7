"""Text classification, many to one: a net reads a text of any length and says which of some labels it has.

    python examples/sentiment.py
    python examples/sentiment.py --data reviews.tsv --text "I laughed all the way through"

A file for `--data` has a label, a tab and a text on each line, in UTF-8. Without one, a sentence is given and the
question is which chapter of Python's own documentation, as help() shows it, it stands in.

A GRU reads the words in each direction, and the mean of its outputs over the real words of a text, without the padding,
decides. It is compared with the most frequent label and with a bag of words, logistic regression on how often each word
occurs, which is trained in the same way. On so few sentences the two are close: which words occur tells most of it. In
training half of the words are hidden, as if they were unknown: so a net learns not to rely on one word, and what to
make of words that it does not know.

Sources: Schuster and Paliwal, "Bidirectional recurrent neural networks" (1997); Iyyer et al., "Deep unordered
composition rivals syntactic methods for text classification" (2015), for hiding words. `--help` lists all settings.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from plumbing import commands, documentation, pictures, training
from plumbing.commands import BadInputError, count, fraction, option, positive, whole
from plumbing.text import Vocabulary, read

# isort: split

import numpy as np
from rich.console import Console

import minigrad as mg
from minigrad import nn

PROGRAM = "sentiment"
UNKNOWN = "<unknown>"  # every other word is made of letters, digits and underscores
FEWEST = 10  # texts of a label that differ: a tenth of them is for validation, and two tenths are for the test


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    data: Path | None = option(
        None, Path, "FILE", "on each line a label, a tab and a text; else Python's documentation"
    )
    text: str | None = option(None, str, "TEXT", "a text to classify at the end")
    vocabulary: int = option(20_000, count, "N", "the most frequent words are known, so many at most")
    embedding: int = option(128, count, "N", "numbers for each word")
    units: int = option(64, count, "N", "units of each direction")
    dropout: float = option(0.5, fraction, "P", "how much of the input and output of each direction is dropped")
    hidden: float = option(0.5, fraction, "P", "how many of the words are hidden in training")
    batch: int = option(32, count, "N", "texts of each update")
    steps: int = option(600, count, "N", "updates of the weights of each model")
    lr: float = option(
        0.005, positive, "X", "highest learning rate of Adam for the net; the bag of words gets 4 times it"
    )
    seed: int = option(0, whole, "N", "of the split, of weights, batches, dropout and hidden words")


# ---- texts ---------------------------------------------------------------------------------------------------------


class Labelled(NamedTuple):
    """A text, and the label that it has."""

    label: str
    text: str


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def from_file(path: Path) -> Iterator[Labelled]:
    """The lines of a file, but for blank ones."""
    for number, line in enumerate(read(path, "--data").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"--data {path}, line {number}"
        if "\t" not in line:
            raise BadInputError(f"{where}: needed is a label, a tab and a text, got no tab")
        label, text = (part.strip() for part in line.split("\t", maxsplit=1))
        if not label:
            raise BadInputError(f"{where}: the label before the tab is empty")
        if not words(text):
            raise BadInputError(f"{where}: the text after the tab has no words")
        yield Labelled(label, text)


def read_corpus(config: Config) -> Corpus:
    if config.data is not None:
        return Corpus(from_file(config.data), f"--data {config.data}", config)
    return Corpus(itertools.starmap(Labelled, documentation.by_chapter("--data")), "Python's documentation", config)


def distinct(labelled: Iterable[Labelled]) -> list[Labelled]:
    """Each text once, or never if it stands under two labels. Those that differ in no word are the same text."""
    found: dict[str, dict[str, Labelled]] = {}
    for item in labelled:
        found.setdefault(" ".join(words(item.text)), {}).setdefault(item.label, item)
    return [item for items in found.values() if len(items) == 1 for item in items.values()]


class Corpus:
    """Different texts in three parts, each with its share of every label, and the words of the first part."""

    def __init__(self, labelled: Iterable[Labelled], source: str, config: Config) -> None:
        items = distinct(labelled)
        self.labels = Vocabulary(item.label for item in items)
        check_labels([item.label for item in items], source)
        rng = mg.random.generator(config.seed)
        items = [items[i] for i in rng.permutation(len(items))]
        self.learnt, self.validation, self.test = [], [], []
        for label in self.labels.tokens:
            own = [item for item in items if item.label == label]
            tenth = len(own) // 10
            self.test += own[: 2 * tenth]
            self.validation += own[2 * tenth : 3 * tenth]
            self.learnt += own[3 * tenth :]
        found = (word for item in self.learnt for word in words(item.text))
        self.words = Vocabulary.of_frequent(found, config.vocabulary, [UNKNOWN])

    def numbers(self, texts: Iterable[str]) -> list[np.ndarray]:
        """The words of texts as a net reads them; tokens lie on the host, whatever the backend."""
        return [np.array(self.words.numbers_of(words(text), UNKNOWN)) for text in texts]

    def answers(self, part: Sequence[Labelled]) -> np.ndarray:
        """The numbers of the labels."""
        return np.array(self.labels.numbers_of(item.label for item in part))


def check_labels(labels: Sequence[str], source: str) -> None:
    counts = Counter(labels)
    if not counts:
        raise BadInputError(f"{source} has no texts to learn from")
    if len(counts) == 1:
        raise BadInputError(f"{source} has one label only, {labels[0]!r}: there is nothing to tell apart")
    label, texts = min(counts.items(), key=lambda pair: pair[1])
    if texts < FEWEST:
        raise BadInputError(
            f"{source} has too few texts with the label {label!r}: {texts}, needed are {FEWEST} that differ"
        )


# ---- models --------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Tokens (B, T), of which the first `lengths` of each row are words, to logits (B, labels)."""

    def __init__(self, tokens: int, labels: int, config: Config) -> None:
        E, H, rate, seed = config.embedding, config.units, config.dropout, config.seed
        self.embedding = nn.Embedding(tokens, E, seed=seed)
        self.embedding.W.data = 0.1 * self.embedding.W.data  # a word that is rarely learnt from shall say little
        forward, backward = (nn.Dropout(nn.GRUCell(E, H, seed=(seed, i)), input=rate, output=rate) for i in range(2))
        self.net = nn.Bidirectional(forward, backward)
        self.readout = nn.Linear(2 * H, labels, seed=seed)

    def __call__(self, tokens: Any, lengths: Any, training: bool = False, seed: Any = None) -> Any:
        outputs, _ = nn.dynamic_rnn(self.net, self.embedding(tokens), lengths, training=training, seed=seed)
        mean = outputs.sum(axis=1) / mg.tensor(lengths[:, None], dtype="float32")  # outputs in the padding are 0
        return self.readout(mean)


class BagOfWords(nn.Module):
    """Logistic regression: the same arguments and results, and the order of the words does not matter."""

    def __init__(self, tokens: int, labels: int, config: Config) -> None:
        self.readout = nn.Linear(tokens, labels, seed=config.seed)

    def __call__(self, tokens: Any, lengths: Any, training: bool = False, seed: Any = None) -> Any:
        counts = np.zeros((len(tokens), self.readout.inputs), dtype="float32")
        rows, steps = np.nonzero(np.arange(tokens.shape[1]) < lengths[:, None])
        np.add.at(counts, (rows, tokens[rows, steps]), 1)
        return self.readout(mg.tensor(counts))


MODELS = {"bag of words": (BagOfWords, 4), "net": (Net, 1)}  # with the learning rate, in units of --lr, that suits each


def fit(model: Any, corpus: Corpus, config: Config, console: Console) -> training.History:
    """Train either model; the table shows how much it gets right of the texts for validation."""
    answers, known = corpus.answers(corpus.learnt), corpus.answers(corpus.validation)
    batches = training.epochs(corpus.numbers(item.text for item in corpus.learnt), config.batch, config.seed)

    def loss_of(step: int) -> Any:
        tokens, lengths, rows = next(batches)
        hidden = mg.random.generator((config.seed, step)).random(tokens.shape) < config.hidden
        tokens = np.where(hidden, corpus.words.numbers[UNKNOWN], tokens)
        return mg.cross_entropy(model(tokens, lengths, training=True, seed=(config.seed, step)), answers[rows]).mean()

    def measure() -> float:
        said = probabilities(model, corpus, [item.text for item in corpus.validation])
        return float((said.argmax(axis=1) == known).mean())

    schedule = training.Schedule(config.steps, config.lr, warmup=50, every=max(1, config.steps // 10))
    return training.fit(model, loss_of, schedule, measure, console, "validation")


def probabilities(model: Any, corpus: Corpus, texts: Sequence[str]) -> np.ndarray:
    """What a model makes of texts: the probability of each label, (texts, labels)."""

    def said(tokens: Any, lengths: Any) -> np.ndarray:
        return mg.softmax(model(tokens, lengths)).numpy()

    with mg.no_grad():
        return np.array(training.in_batches(said, corpus.numbers(texts), batch=100), dtype="float64")


# ---- results -------------------------------------------------------------------------------------------------------


def compare(said: dict[str, np.ndarray], corpus: Corpus, console: Console) -> None:
    """Print what is right of the test texts: those of each label, and all."""
    answers, wide = corpus.answers(corpus.test), max(3, *(len(label) for label in corpus.labels.tokens))
    right = {"majority": answers == majority(corpus)} | {name: p.argmax(axis=1) == answers for name, p in said.items()}
    console.print(f"\n{'right, in %':{wide}}  texts {''.join(f'{name:>14}' for name in right)}")
    rows = [(label, answers == i) for i, label in enumerate(corpus.labels.tokens)]
    for label, own in [*rows, ("all", np.full(len(answers), True))]:
        shares = "".join(f"{100 * is_right[own].mean():14.1f}" for is_right in right.values())
        console.print(f"{label:{wide}} {own.sum():6,} {shares}")
    bag, net = right["bag of words"], right["net"]
    console.print(f"the net alone is right on {(net & ~bag).sum():,}, the bag of words alone on {(bag & ~net).sum():,}")


def majority(corpus: Corpus) -> int:
    """The most frequent label of the texts that are learnt from."""
    return int(np.bincount(corpus.answers(corpus.learnt)).argmax())


def show(item: Labelled, said: np.ndarray, corpus: Corpus, console: Console) -> None:
    """Print a text with what the net says, and how sure it is."""
    guess = corpus.labels.tokens[said.argmax()]
    verdict = "" if not item.label else "right" if item.label == guess else f"wrong, it is {item.label}"
    console.print(f"  {textwrap.shorten(item.text, 100)}\n{100 * said.max():7.0f} % {guess}  {verdict}".rstrip())


def draw(histories: dict[str, training.History], said: np.ndarray, corpus: Corpus, path: Path) -> None:
    """How both models learnt, and what the net takes for what."""
    figure, (left, right) = pictures.canvas(11, 4.8, ncols=2)
    for name, history in histories.items():
        left.plot(*zip(*history.measured, strict=True), "o-", ms=4, label=name)
    share = float((corpus.answers(corpus.validation) == majority(corpus)).mean())
    left.axhline(share, ls=":", color="C7", label="always the most frequent label")
    left.set(title="Right among the texts for validation", xlabel="steps")
    left.grid(alpha=0.3)
    left.legend(loc="lower right")

    right.set(title="Test texts: what the net says, of each label")
    pictures.confusion(right, corpus.answers(corpus.test), said.argmax(axis=1), corpus.labels.tokens)
    pictures.finish(figure, path, PROGRAM, legend=False)


# ---- main ----------------------------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> int:
    config = commands.made(Config, options)
    if config.text is not None and not words(config.text):
        raise BadInputError(f"--text needs a word at least, got {config.text!r}")
    corpus = read_corpus(config)
    [picture], console = commands.claimed(PROGRAM, options.out, "sentiment.png"), commands.console()
    test = [item.text for item in corpus.test]
    read_in_test = [word for text in test for word in words(text)]
    unknown = sum(word not in corpus.words for word in read_in_test)
    console.print(
        f"{len(corpus.learnt):,} texts with {len(corpus.labels)} labels to learn from, {len(corpus.validation):,} for "
        f"validation, {len(corpus.test):,} for the test\nof the {len(read_in_test):,} words of the test, "
        f"{unknown:,} are unknown to the nets, which know {len(corpus.words) - 1:,}"
    )
    said, histories = {}, {}
    for name, (kind, pace) in MODELS.items():
        model = kind(len(corpus.words), len(corpus.labels), config)
        console.print(f"\n{name}: {training.size_of(model)}")
        histories[name] = fit(model, corpus, replace(config, lr=pace * config.lr), console)
        said[name] = probabilities(model, corpus, test)

    compare(said, corpus, console)
    console.print("\nsome texts of the test, and what the net says")
    for i in range(0, len(test), -(-len(test) // 6)):  # six at most, from all over it
        show(corpus.test[i], said["net"][i], corpus, console)
    if config.text is not None:
        [answer] = probabilities(model, corpus, [config.text])
        strange = sorted(set(words(config.text)) - set(corpus.words.tokens))
        console.print(f"\n--text{', of which it does not know ' + ', '.join(strange) if strange else ''}")
        show(Labelled("", config.text), answer, corpus, console)
    draw(histories, said["net"], corpus, picture)
    console.print(f"\npicture: {picture}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = commands.parser(PROGRAM, "Train a net to classify texts.", Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
