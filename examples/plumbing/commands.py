"""The command line of an example: its options, its complaints, its exit codes, the place of its pictures."""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from rich.console import Console

import minigrad as mg

Made = TypeVar("Made")


class BadInputError(Exception):
    """Something that the user can mend: printed in one line, and the exit code is 2."""


# ---- what options take ---------------------------------------------------------------------------------------------


def number(kind: type, low: float, text: str) -> Any:
    """The number that an option names, at least `low`; a `low` between 0 and 1 stands for: above 0."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value < math.inf:
        what = "a whole number" if kind is int else "a number"
        bound = "above 0" if 0 < low < 1 else f"of at least {low:g}"
        raise argparse.ArgumentTypeError(f"needs {what} {bound}, got {text!r}")
    return value


count, whole = partial(number, int, 1), partial(number, int, 0)
positive, at_least_0 = partial(number, float, math.ulp(0)), partial(number, float, 0)


def fraction(text: str) -> float:
    """A number from 0 to below 1, as a rate of dropout."""
    value = probability(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"needs a number from 0 to below 1, got {text!r}")
    return value


def probability(text: str) -> float:
    value: float = at_least_0(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"needs a number from 0 to 1, got {text!r}")
    return value


def one_of(words: Collection[str]) -> Callable[[str], str]:
    """What takes one of some words."""

    def take(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"is one of {', '.join(words)}, got {text!r}")
        return text

    return take


# ---- settings, which are options -----------------------------------------------------------------------------------


def option(default: Any, takes: Callable[[str], Any], unit: str, meaning: str, *, several: bool = False) -> Any:
    """A field of a dataclass of settings, and all that the command line needs to know of it.

    `takes` makes a value of a word, and where it is `bool`, the option is there or not. With `several` words, the
    value is a sequence.
    """
    told = {"takes": takes, "unit": unit, "meaning": meaning, "several": several}
    return field(default=default, metadata=told)


class _Several(argparse.Action):
    """The words of an option, of all the places where it stands."""

    words: tuple[Any, ...] = ()

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        self.words = (*self.words, *values)
        setattr(namespace, self.dest, self.words)


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message} (--help lists the options)")


def parser(
    program: str, description: str, *settings: type[Any], only_given: type[Any] | None = None
) -> argparse.ArgumentParser:
    """A parser with an option for each field of some dataclasses of settings, and with `--backend` and `--out`.

    The options of `only_given`, one of the dataclasses, are left out of the result unless they are given.
    """
    wide = partial(argparse.HelpFormatter, max_help_position=26, width=110)
    parsed = _Parser(f"{program}.py", description=description, formatter_class=wide)
    for kind in settings:
        section = parsed.add_argument_group(str(kind.__doc__).rstrip("."))
        for setting in fields(kind):
            _add(section, setting, argparse.SUPPRESS if kind is only_given else setting.default)
    place = parsed.add_argument_group("Where it runs")
    where = "where arrays live: numpy, cupy or another that is installed  [numpy]"
    place.add_argument("--backend", metavar="NAME", default="numpy", help=where)
    out = Path("runs", program)
    place.add_argument("--out", type=Path, metavar="DIR", default=out, help=f"folder for the pictures  [{out}]")
    return parsed


def _add(section: Any, setting: Field[Any], default: Any) -> None:
    """The option of one setting."""
    name, told = f"--{setting.name.replace('_', '-')}", setting.metadata
    if told["takes"] is bool:
        section.add_argument(name, action="store_true", default=default, help=told["meaning"])
        return
    shown = setting.default
    if isinstance(shown, tuple):
        shown = (" " if told["several"] else ",").join(shown)
    text = told["meaning"] + (f"  [{shown}]" if shown not in {None, ""} else "")
    words = {"nargs": "+", "action": _Several} if told["several"] else {}
    section.add_argument(name, type=told["takes"], metavar=told["unit"], default=default, help=text, **words)


def given(kind: type[Any], options: argparse.Namespace) -> dict[str, Any]:
    """What options say of the settings in a dataclass."""
    return {setting.name: getattr(options, setting.name) for setting in fields(kind) if setting.name in options}


def made(kind: type[Made], options: argparse.Namespace) -> Made:
    """A dataclass of settings, as options say."""
    return kind(**given(kind, options))


# ---- running -------------------------------------------------------------------------------------------------------


def console() -> Console:
    """Where an example prints: what it says is shown as it is."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def run(program: str, parser: argparse.ArgumentParser, work: Callable[..., int], argv: Sequence[str] | None) -> int:
    """`work(options)` on the backend that `--backend` names, and its exit code.

    0 when all is done, 1 where training or saving fails, 2 for bad input, 130 after Ctrl-C.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a text may hold characters that the terminal does not know

    def complain(error: object, code: int) -> int:
        print(f"{program}:", " ".join(str(error).split()), file=sys.stderr)
        return code

    try:
        options = parser.parse_args(argv)
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


def on_backend(name: str) -> Any:
    try:
        return mg.use_backend(name)
    except (ValueError, RuntimeError) as error:
        raise BadInputError(f"--backend: {error}") from None


def claimed(program: str, folder: Path, *names: str) -> list[Path]:
    """The pictures to write; BadInputError, before any work is done, where a file of somebody else's is in the way."""
    paths = [folder / name for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.exists() and mark(program).encode() not in path.read_bytes():
                raise BadInputError(f"{path} was not made by this program and is kept: name another folder with --out")
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise BadInputError(f"cannot use --out {folder}: {error.strerror}; name another folder") from None
    return paths


def mark(program: str) -> str:
    """What is written into the files that a program makes, to know them again."""
    return f"minigrad {program}"
