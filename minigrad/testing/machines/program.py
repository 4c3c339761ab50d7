"""Programs: lines of Python that run as they are written, and that a failure shows."""

from __future__ import annotations

import contextvars
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np

from minigrad.testing.numeric import Floats
from minigrad.testing.report import literal


class ProgramError(AssertionError):
    """A program that a machine wrote went wrong; the message says where, and ends with the program.

    >>> from minigrad.testing.machines import Program, ProgramError
    >>> try:
    ...     Program("1 / 0")
    ... except ProgramError as error:
    ...     print(error)
    the last line raised ZeroDivisionError: division by zero
    <BLANKLINE>
    1 / 0
    """


@lru_cache(maxsize=1024)  # the same few expressions are looked at after every line of every program
def _compiled(text: str) -> CodeType:
    return compile(text, "<program>", "eval")


class Program:
    """Lines of Python, each run when it is written; a failure shows all of them.

    They have a context of their own: what they leave open ends with them.

    >>> program = Program("import minigrad as mg")
    >>> program.run("x0 = mg.tensor(2.0, requires_grad=True)")
    >>> program.run("(x0 * x0).backward()")
    >>> program.expect("x0.grad", np.array(3.0))
    Traceback (most recent call last):
    minigrad.testing.machines.program.ProgramError: x0.grad is np.array(4.0), expected np.array(3.0)
    <BLANKLINE>
    import minigrad as mg
    x0 = mg.tensor(2.0, requires_grad=True)
    (x0 * x0).backward()
    assert np.array_equal(x0.grad, np.array(3.0))
    """

    def __init__(self, header: str) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.context = contextvars.copy_context()
        self.run(header)

    def run(self, text: str) -> None:
        """Write and run some lines, which must not raise."""
        self.lines.append(text)
        try:
            self.context.run(exec, text, self.names)  # what is shown is what was run: it is the same text
        except Exception as error:
            raise self.failure(f"the last line raised {type(error).__name__}: {error}") from error

    def refuses(self, text: str, error: str, words: str) -> None:
        """Write and run a line that must raise this error, with these words in its message."""
        self.run(
            f"try:\n    {text}\nexcept {error} as error:\n    assert {words!r} in str(error), error\n"
            f"else:\n    raise AssertionError('nothing was raised, expected {error}')"
        )

    def value(self, text: str) -> Any:
        """What an expression is at this point."""
        return self.context.run(eval, _compiled(text), self.names)

    def expect(self, text: str, expected: Floats | None) -> None:
        """Fail unless an expression is this array, exactly, or None."""
        got = self.value(text)
        if expected is None:
            agrees = got is None
        else:
            agrees = type(got) is np.ndarray and got.dtype == expected.dtype and np.array_equal(got, expected)
        if agrees:
            return
        needed = f"{text} is None" if expected is None else f"np.array_equal({text}, {literal(expected)})"
        raise self.failure(f"{text} is {literal(got)}, expected {literal(expected)}", f"assert {needed}")

    def failure(self, problem: str, *last: str) -> ProgramError:
        """The error that says what is wrong and shows the program, with a last line that was not run yet."""
        return ProgramError("\n".join([problem, "", *self.lines, *last]))
