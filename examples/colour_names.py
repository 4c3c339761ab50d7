"""Vector to sequence: a net looks at a colour and writes its name, character by character.

    python examples/colour_names.py
    python examples/colour_names.py --colour 3fa7d6 ffb07c

It learns from 699 of the 949 names that people gave to colours in the xkcd survey, inside matplotlib; as they were
typed, rude ones included. An encoder turns red, green and blue into a summary; the decoder, an LSTM, is told about it:
by default the summary, times a matrix R, is added to its bias, so that every colour has a cell of its own; `--context`
takes the other ways. What is seeing the colour worth? The same net is trained blind, too, and both are asked what the
names of colours cost, in bits, that neither has seen. A colour has many good names, so most bits remain. At last the
net names colours that were held out, and a circle of hues that nobody named, in a picture; on a terminal the colours
are printed, too.

Sources: https://xkcd.com/color/rgb; Goodfellow et al., "Deep learning" (2016), section 10.2.4, for the bias; Gal and
Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks" (2016), for dropout, without
which so few names are learned by heart. `--help` lists all settings.
"""

from __future__ import annotations

import argparse
import colorsys
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbing import commands, pictures, text, training
from plumbing.commands import count, option, positive, whole

# isort: split

import numpy as np
from matplotlib.colors import XKCD_COLORS, to_hex, to_rgb
from rich.console import Console
from rich.text import Text

import minigrad as mg
from minigrad import nn
from minigrad.nn import decoding

PROGRAM = "colour_names"
CONTEXTS = "bias", "every", "init", "both"
END = "\n"  # ends a name; the decoder also reads it before the first character
SHOWN = 15  # colours of the test
HUES, LIGHTNESSES, SATURATION = 10, (0.85, 0.65, 0.45, 0.25), 0.7


def hex_colour(digits: str) -> tuple[float, ...]:
    """What --colour takes, to red, green and blue from 0 to 1."""
    if not re.fullmatch("#?[0-9a-fA-F]{6}", digits):
        raise argparse.ArgumentTypeError(f"needs colours such as 3fa7d6, six hexadecimal digits, got {digits!r}")
    return to_rgb(f"#{digits.removeprefix('#')}")


@dataclass(frozen=True)
class Config:
    """What makes a run the run that it is."""

    context: str = option("bias", commands.one_of(CONTEXTS), "|".join(CONTEXTS), "how the decoder learns of the colour")
    encoder: int = option(32, count, "N", "units of the encoder's hidden layer, and of the summary")
    embedding: int = option(32, count, "N", "numbers that stand for one character")
    units: int = option(128, count, "N", "units of the decoder's LSTM")
    dropout: float = option(0.5, commands.fraction, "P", "how much of what the LSTM says or remembers is dropped")
    held_out: int = option(125, count, "N", "colours for validation, and as many others for the test")
    batch: int = option(64, count, "N", "names of each update")
    steps: int = option(800, count, "N", "updates of the weights, for each of the two nets")
    lr: float = option(0.015, positive, "X", "highest learning rate of Adam; it falls to 0 along half a cosine")
    every: int = option(200, count, "N", "steps from one validation to the next")
    temperature: float = option(0.7, positive, "X", "of the names that are drawn: below 1 likely ones, 1 as learnt")
    colour: Sequence[Any] = option((), hex_colour, "RRGGBB", "colours to name at the end", several=True)
    seed: int = option(0, whole, "N", "of the split, the weights, the batches and the names that are drawn")


# ---- data ----------------------------------------------------------------------------------------------------------


class Survey:
    """Colours (N, 3), from 0 to 1, and their names (N, T) as integers: characters, the end, and padding."""

    def __init__(self) -> None:
        self.names = [name.removeprefix("xkcd:") for name in XKCD_COLORS]
        self.colours = np.array([to_rgb(colour) for colour in XKCD_COLORS.values()])
        self.vocabulary = text.Vocabulary("".join(self.names), special=[END])
        self.lengths = np.array([len(name) + 1 for name in self.names])
        lines = [name.ljust(self.lengths.max(), END) for name in self.names]
        self.tokens = np.array([self.vocabulary.numbers_of(line) for line in lines])

    def name(self, tokens: np.ndarray) -> str:
        """A name, up to its end."""
        return "".join(self.vocabulary.tokens_of(tokens)).partition(END)[0]

    def split(self, config: Config) -> list[np.ndarray]:
        """Which rows are to learn from, which for validation, and which for the test at the end."""
        rest = len(self.names) - 2 * config.held_out
        if rest < config.batch:
            raise commands.BadInputError(
                f"--held-out {config.held_out} for validation, and as many for the test, leave {max(rest, 0)} of the "
                f"{len(self.names)} colours to learn from; needed is a --batch of {config.batch}"
            )
        order = mg.random.generator(config.seed).permutation(len(self.names))
        return np.split(order, [rest, rest + config.held_out])

    def frequency_bits(self, learned: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What names cost where each character is told by its frequency alone, and each is seen once more."""
        seen = self.tokens[learned][self.within(learned)]
        counts = 1 + np.bincount(seen, minlength=len(self.vocabulary))
        return (-np.log2(counts / counts.sum())[self.tokens[rows]] * self.within(rows)).sum(axis=1)

    def within(self, rows: np.ndarray) -> np.ndarray:
        """What is name or end, and not padding: (rows, T)."""
        return np.arange(self.tokens.shape[1]) < self.lengths[rows, None]


# ---- net -----------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Colours (B, 3) to summaries (B, outputs). A blind one sees the same grey everywhere."""

    def __init__(self, units: int, blind: bool, seed: Sequence[int]) -> None:
        self.hidden = nn.Linear(3, units, seed=[*seed, 0])
        self.summary = nn.Linear(units, units, seed=[*seed, 1])
        self.outputs, self.blind = units, blind

    def __call__(self, colours: np.ndarray) -> Any:
        x = mg.tensor(0 * colours if self.blind else 2 * colours - 1, dtype="float32")
        return self.summary(mg.tanh(self.hidden(x)))


def namer(config: Config, characters: int, blind: bool) -> nn.Seq2Seq:
    """From colours (B, 3) to names (B, T)."""
    inputs = config.embedding + (config.encoder if config.context in {"every", "both"} else 0)
    cell = nn.LSTMCell(inputs, config.units, seed=[config.seed, 0])
    return nn.Seq2Seq(
        Encoder(config.encoder, blind, [config.seed, 1]),
        nn.Dropout(cell, output=config.dropout, state=config.dropout, per_sequence=True),
        config.context,
        target=nn.Embedding(characters, config.embedding, seed=[config.seed, 2]),
        readout=nn.Linear(config.units, characters, seed=[config.seed, 3]),
        start=0,  # the number of END
        seed=[config.seed, 4],
    )


def bits(net: nn.Seq2Seq, survey: Survey, rows: np.ndarray) -> np.ndarray:
    """What each name costs, its end included: -log2 p(name | colour)."""
    tokens = survey.tokens[rows]
    with mg.no_grad():
        logits = net(survey.colours[rows], tokens, target_length=survey.lengths[rows], training=False).logits
        nats = mg.cross_entropy(logits, tokens).numpy()
    return (nats * survey.within(rows)).sum(axis=1) / np.log(2)


def train(
    survey: Survey, learned: np.ndarray, validation: np.ndarray, config: Config, blind: bool, console: Console
) -> nn.Seq2Seq:
    """A net that has learned the names of some colours; the table shows what those for validation cost it."""
    net = namer(config, len(survey.vocabulary), blind)

    def loss(step: int) -> Any:
        seed = [config.seed, step]
        rows = mg.random.generator(seed).choice(learned, config.batch, replace=False)
        tokens, lengths = survey.tokens[rows], survey.lengths[rows]
        logits = net(survey.colours[rows], tokens, target_length=lengths, training=True, seed=seed).logits
        return nn.sequence_loss(mg.cross_entropy, logits, tokens, "per_token", lengths=lengths)

    def measure() -> float:
        return float(bits(net, survey, validation).sum() / survey.lengths[validation].sum())

    console.print(f"\n{'without' if blind else 'with'} the colour: {training.size_of(net)}")
    schedule = training.Schedule(config.steps, config.lr, warmup=20, every=config.every)
    training.fit(net, loss, schedule, measure, console, "bits/char")
    return net


# ---- names ---------------------------------------------------------------------------------------------------------


@mg.no_grad()
def likeliest(net: nn.Seq2Seq, survey: Survey, colours: np.ndarray, width: int = 5) -> list[list[tuple[str, float]]]:
    """The likeliest names of each colour that a beam search finds, the best first, with their log-probabilities."""
    length = survey.tokens.shape[1]
    beams = decoding.beam(*net.stepper(colours), start=net.start, end=net.start, max_length=length, width=width)
    return [
        [(survey.name(name), float(log_prob)) for name, log_prob in zip(*row, strict=True)]
        for row in zip(beams.tokens, beams.log_probs, strict=True)
    ]


@mg.no_grad()
def drawn(net: nn.Seq2Seq, survey: Survey, colours: np.ndarray, temperature: float, seed: int) -> list[str]:
    """A name for each colour, drawn from what the net thinks."""
    length = survey.tokens.shape[1]
    draws = {"max_length": length, "temperature": temperature, "seed": seed}
    names = decoding.sample(*net.stepper(colours), start=net.start, end=net.start, **draws)
    return [survey.name(name) for name in names.tokens]


def hue_circle() -> np.ndarray:
    """Colours that are not in the survey: (lightnesses * hues, 3)."""
    circle = [(hue / HUES, lightness, SATURATION) for lightness in LIGHTNESSES for hue in range(HUES)]
    return np.array([colorsys.hls_to_rgb(*colour) for colour in circle])


# ---- what is shown -------------------------------------------------------------------------------------------------


def tell_worth(costs: dict[str, np.ndarray], characters: int, console: Console) -> None:
    """What names cost each model, the blind net and the seeing one last, and what seeing is worth."""
    console.print(f"\n{'names of the test':30} bits a name  bits a character")
    for who, cost in costs.items():
        console.print(f"{who:30} {cost.mean():11.2f} {cost.sum() / characters:17.3f}")
    blind, seeing = [*costs.values()][-2:]
    worth = blind - seeing
    error = worth.std() / np.sqrt(len(worth))
    console.print(f"seeing the colour is worth {worth.mean():.2f} bits a name, with a standard error of {error:.2f}")


def swatch(colour: Sequence[float], words: str) -> Text:
    """A line that begins with the colour itself, where the terminal has colours."""
    return Text.assemble(("    ", f"on {to_hex(colour)}"), f" {to_hex(colour)}  {words}")


def columns(*words: str) -> str:
    return "".join(f"{word:28}" for word in words).rstrip()


def draw(colours: Any, words: Sequence[str], circle: Any, inventions: Sequence[str], path: Path) -> None:
    """Swatches with words on them: colours that were held out above, and those of the circle below."""
    figure, (above, below) = pictures.canvas(9, 6.5, nrows=2)
    above.set_title("Colours held out: the name that people gave, and the net's", fontsize=10)
    below.set_title("Colours that nobody named", fontsize=10)
    pictures.swatches(above, colours, words, HUES // 2)
    pictures.swatches(below, circle, [textwrap.fill(name, 9) for name in inventions], HUES)
    pictures.finish(figure, path, PROGRAM, legend=False)


# ---- main ----------------------------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> int:
    config = commands.made(Config, options)
    survey, console = Survey(), commands.console()
    learned, validation, test = survey.split(config)
    [picture] = commands.claimed(PROGRAM, options.out, "colour_names.png")
    console.print(
        f"{len(survey.names)} colours: {len(learned)} to learn from, {len(validation)} for validation, {len(test)} for "
        f"the test; the context is {config.context}"
    )
    blind, net = (train(survey, learned, validation, config, without, console) for without in (True, False))
    costs = {
        "frequencies of characters": survey.frequency_bits(learned, test),
        "the net, blind": bits(blind, survey, test),
        "the net, seeing the colour": bits(net, survey, test),
    }
    tell_worth(costs, survey.lengths[test].sum(), console)

    colours, trues = survey.colours[test[:SHOWN]], [survey.names[row] for row in test[:SHOWN]]
    saids = [names[0][0] for names in likeliest(net, survey, colours)]
    draws = drawn(net, survey, colours, config.temperature, config.seed)
    console.print("\n     held out " + columns("people's name", "the likeliest of the net", "one that it drew"))
    for colour, *words in zip(colours, trues, saids, draws, strict=True):
        console.print(swatch(colour, columns(*words)))

    if config.colour:
        console.print("\n     yours    the three likeliest names, with their log-probabilities")
        for colour, found in zip(config.colour, likeliest(net, survey, np.array(config.colour)), strict=True):
            console.print(swatch(colour, columns(*[f"{name} ({log_prob:.2f})" for name, log_prob in found[:3]])))

    circle = hue_circle()
    inventions = [names[0][0] for names in likeliest(net, survey, circle)]
    both = [f"{true}\n→ {said}" for true, said in zip(trues, saids, strict=True)]
    draw(colours, both, circle, inventions, picture)
    console.print(f"\npicture: {picture}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = commands.parser(PROGRAM, "Learn to name colours.", Config)
    return commands.run(PROGRAM, parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
