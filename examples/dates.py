"""Sequence to sequence with attention: dates as people write them in many languages, to ISO 8601.

    python examples/dates.py
    python examples/dates.py --date "vendredi 5 juin 1987" "5. KESÄKUUTA 1987"

"Friday, June 5, 1987", "5. kesäkuuta 1987" and "1987. június 5., péntek" are all 1987-06-05. Babel's locale data says
how a language writes a date. The net reads it character by character, in both directions, then writes the ten others,
and looks back at what it read before each of them: a picture shows where. It is asked for days of which it has seen no
date, in any language; right is what is right in every character. Forms that leave the date open are not asked for:
years of two digits, and in numbers the month before the day, as in the United States, which contradicts the others.

Sources: Bahdanau et al., "Neural machine translation by jointly learning to align and translate" (2015); Bengio et al.,
"Scheduled sampling for sequence prediction with recurrent neural networks" (2015), for `--teacher-forcing` below 1.
`--help` lists all settings.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from plumbing import commands, pictures, training
from plumbing.commands import count, option, positive, whole
from plumbing.text import Vocabulary

# isort: split

import numpy as np
from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from rich.console import Console

import minigrad as mg
from minigrad import nn
from minigrad.nn import decoding

PROGRAM = "dates"
LOCALES = "en_US", "fi", "ru", "en_GB", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "cs", "hu", "el"
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
CASES = str, str.lower, str.upper
UNKNOWN = "<unknown>"
END = "\n"  # of what the net writes; it also stands before its beginning
LENGTH = len("1987-06-05" + END)
ISO = Vocabulary("0123456789-", [END])


def locales(text: str) -> tuple[str, ...]:
    """Locales that Babel knows, each once."""
    try:
        return tuple(dict.fromkeys(str(Locale.parse(name)) for name in text.split(",")))
    except (UnknownLocaleError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"takes names such as de and en_GB, between commas, got {text!r}: {error}"
        ) from None


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    locales: Sequence[str] = option(LOCALES, locales, "NAME,...", "languages; the picture shows the first three")
    strings: int = option(20_000, count, "N", "dates to learn from")
    held_out: int = option(200, count, "N", "days that are held out, and asked for in every locale")
    embedding: int = option(32, count, "N", "numbers that stand for one character")
    units: int = option(64, count, "N", "units in each direction of reading; writing has twice as many")
    teacher_forcing: float = option(1.0, commands.probability, "P", "how often a step reads the truth, not its own")
    batch: int = option(64, count, "N", "dates of each update")
    steps: int = option(600, count, "N", "updates of the weights")
    lr: float = option(0.005, positive, "X", "learning rate of Adam, at its highest")
    every: int = option(100, count, "N", "steps from one look at the held-out dates to the next")
    date: Sequence[str] = option((), str, "TEXT", "dates to translate at the end", several=True)
    seed: int = option(0, whole, "N", "of the dates, of the weights and of what a step reads")


# ---- data ----------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A date as somebody writes it, and in ISO 8601."""

    text: str
    iso: str
    locale: str


def forms(locale: str) -> list[str]:
    """The patterns by which a language writes dates, such as "d MMMM y", without those that leave the date open."""
    known = Locale.parse(locale)
    patterns = [*known.date_formats.values(), *(known.datetime_skeletons.get(name) for name in ("yMd", "yMMMEd"))]
    return sorted({str(pattern) for pattern in patterns if pattern and is_decidable(str(pattern))})


def is_decidable(pattern: str) -> bool:
    """Whether it has all digits of the year, and a month that is a name, or stands between day and year."""
    order = "".join(sorted("dMy", key=pattern.find))
    return "yy" not in pattern and ("MMM" in pattern or order in {"dMy", "yMd"})


def tidy(text: str) -> str:
    """The same with one code point for a letter and its accent, and plain spaces instead of those that do not break."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class Dates:
    """Dates to learn from and, of other days, held-out ones, of each locale equally many: all drawn by the seed."""

    def __init__(self, config: Config) -> None:
        self.rng = mg.random.generator([config.seed, 0])
        self.forms = {locale: forms(locale) for locale in config.locales}
        days = self.rng.permutation(np.arange(FIRST.toordinal(), LAST.toordinal() + 1))
        if config.held_out >= len(days):
            raise commands.BadInputError(
                f"--held-out is below {len(days):,}, all days there are, got {config.held_out:,}"
            )
        seen = self.rng.choice(days[config.held_out :], config.strings)
        locales = self.rng.choice(config.locales, config.strings)
        self.seen = [self.written(day, locale) for day, locale in zip(seen, locales, strict=True)]
        self.held_out = [self.written(day, locale) for locale in config.locales for day in days[: config.held_out]]
        self.characters = Vocabulary((character for item in self.seen for character in item.text), [UNKNOWN])

    def written(self, day: int, locale: str) -> Written:
        """A day in one of the forms of a language: as it is, in small letters, or in capitals."""
        it = date.fromordinal(int(day))
        text = format_date(it, str(self.rng.choice(self.forms[locale])), locale=locale)
        return Written(tidy(CASES[self.rng.integers(len(CASES))](text)), it.isoformat(), str(locale))

    def numbers(self, texts: Sequence[str]) -> list[np.ndarray]:
        """What the net reads: the number of each character."""
        return [np.array(self.characters.numbers_of(text, UNKNOWN)) for text in texts]


# ---- net -----------------------------------------------------------------------------------------------------------


def new_net(characters: int, config: Config) -> nn.Seq2Seq:
    """A GRU that reads in both directions, and an LSTM that writes, with attention to what was read."""
    E, H, seed = config.embedding, config.units, config.seed
    return nn.Seq2Seq(
        nn.Bidirectional(nn.GRUCell(E, H, seed=(seed, 0)), nn.GRUCell(E, H, seed=(seed, 1))),
        nn.LSTMCell(E + 2 * H, 2 * H, seed=seed),
        context="init",
        attention="additive",
        source=nn.Embedding(characters, E, seed=(seed, 0)),
        target=nn.Embedding(len(ISO), E, seed=(seed, 1)),
        readout=nn.Linear(2 * H + 2 * H, len(ISO), seed=seed),
        start=ISO.numbers[END],
        seed=seed,
    )


def fit(net: nn.Seq2Seq, dates: Dates, config: Config, console: Console) -> training.History:
    """Train the net on all dates, again and again, in batches of similar lengths."""
    targets = np.array([ISO.numbers_of(item.iso + END) for item in dates.seen])
    batches = training.epochs(dates.numbers([item.text for item in dates.seen]), config.batch, config.seed)

    def loss_of(step: int) -> Any:
        inputs, lengths, rows = next(batches)
        said = net(inputs, targets[rows], lengths, teacher_forcing=config.teacher_forcing, seed=(config.seed, step))
        return nn.sequence_loss(mg.cross_entropy, said.logits, targets[rows], "per_token")

    def measure() -> float:
        return float(np.mean([answer.right for answer in answers(net, dates)]))

    schedule = training.Schedule(config.steps, config.lr, warmup=min(100, config.steps), every=config.every)
    return training.fit(net, loss_of, schedule, measure, console, "exact")


@mg.no_grad()
def translated(net: nn.Seq2Seq, dates: Dates, texts: Sequence[str]) -> list[tuple[str, float]]:
    """What the net makes of each text, taking the likeliest character each time, and its log-probability."""

    def said(inputs: Any, lengths: Any) -> Any:
        stepper = net.stepper(inputs, lengths)
        decoded = decoding.greedy(*stepper, start=net.start, end=ISO.numbers[END], max_length=LENGTH)
        return zip(("".join(ISO.tokens_of(row)).rstrip(END) for row in decoded.tokens), decoded.log_probs, strict=True)

    return training.in_batches(said, dates.numbers(texts), batch=200)


class Answer(NamedTuple):
    """What the net makes of a held-out date."""

    right: bool
    log_prob: float
    iso: str
    item: Written


def answers(net: nn.Seq2Seq, dates: Dates) -> list[Answer]:
    """What the net makes of all the held-out dates."""
    said = translated(net, dates, [item.text for item in dates.held_out])
    return [
        Answer(iso == item.iso, log_prob, iso, item) for (iso, log_prob), item in zip(said, dates.held_out, strict=True)
    ]


# ---- what is shown -------------------------------------------------------------------------------------------------


def tell(found: Sequence[Answer], console: Console) -> None:
    """How often the net is exactly right, with an example of each locale, and where it is wrong, or least sure."""
    by_locale: dict[str, list[Answer]] = {}
    for answer in found:
        by_locale.setdefault(answer.item.locale, []).append(answer)
    console.print(
        f"\nheld-out dates exactly right: {np.mean([answer.right for answer in found]):.2%} of {len(found):,}"
    )
    for locale, among in by_locale.items():
        part = np.mean([answer.right for answer in among])
        console.print(f"{part:8.1%}  {name_of(locale):24}  {among[0].item.text:34}  {among[0].iso}")
    console.print("\nwrong, or least sure, with log-probabilities:")
    for right, log_prob, iso, item in sorted(found)[:8]:
        verdict = "right" if right else f"wrong, it is {item.iso}"
        console.print(f"{log_prob:8.2f}  {name_of(item.locale):24}  {item.text:34}  {iso}  {verdict}")


def name_of(locale: str) -> str:
    return str(Locale.parse(locale).english_name)


def draw(net: nn.Seq2Seq, dates: Dates, history: training.History, path: Path) -> None:
    """The course of training; and where the net looks in the longest held-out date of each of the first locales."""
    figure, grid = pictures.canvas(10, 6.5, nrows=2, ncols=2)
    curve, *maps = grid.flat
    curve.semilogy(np.arange(1, history.step + 1), history.losses, lw=0.7, color="C7")
    curve.set(title="training", xlabel="steps", ylabel="loss of each step")
    exact = curve.twinx()
    exact.plot(*zip(*history.measured, strict=True), "o-", ms=4)
    exact.set_ylabel("held-out dates exactly right", color="C0")

    for axes, locale in zip(maps, dates.forms, strict=False):
        text = max((item.text for item in dates.held_out if item.locale == locale), key=len)
        [(said, _)] = translated(net, dates, [text])
        with mg.no_grad():
            weights = net(np.array(dates.numbers([text])), np.array([ISO.numbers_of(said + END)])).weights
        axes.imshow(weights.numpy()[0], aspect="auto", cmap="Greys", vmin=0, vmax=1)
        axes.set(title=f"{name_of(locale)}: where it looks", xlabel="read", ylabel="written")
        axes.set_xticks(range(len(text)), text)
        axes.set_yticks(range(len(said) + 1), [*said, "end"])
    for axes in maps[len(dates.forms) :]:
        axes.set_axis_off()
    pictures.finish(figure, path, PROGRAM, legend=False)


# ---- main ----------------------------------------------------------------------------------------------------------


def readable(dates: Dates, texts: Sequence[str]) -> list[str]:
    """The texts of `--date`, if the net knows all their characters."""
    texts = [tidy(text) for text in texts]
    for text in texts:
        unknown = sorted({character for character in text if character not in dates.characters})
        if unknown or not text:
            what = f"the net does not know {', '.join(map(repr, unknown))}" if text else "there is nothing to read"
            raise commands.BadInputError(f"--date {text!r}: {what}")
    return texts


def work(options: argparse.Namespace) -> int:
    config = commands.made(Config, options)
    [picture] = commands.claimed(PROGRAM, options.out, "dates.png")
    console, dates = commands.console(), Dates(config)
    texts = readable(dates, config.date)
    net = new_net(len(dates.characters), config)
    console.print(
        f"{len(dates.seen):,} dates to learn from, in {len(dates.forms)} locales, of "
        f"{len(dates.characters)} characters, for example {dates.seen[0].text}\n"
        f"{len(dates.held_out):,} dates of {config.held_out} other days are held out\n"
        f"2 x {config.units} units that read, {2 * config.units} that write, {training.size_of(net)}\n"
    )
    history = fit(net, dates, config, console)
    tell(answers(net, dates), console)
    draw(net, dates, history, picture)
    for text, (iso, log_prob) in zip(texts, translated(net, dates, texts), strict=True):
        console.print(f"\n{text}\n{iso}, log-probability {log_prob:.3f}")
    console.print(f"\npicture: {picture}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = commands.parser(PROGRAM, "Learn to translate dates from many languages to ISO 8601.", Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
