"""Files of Python code: read in the encoding that they declare, and cut into the same tokens by every version."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from plumbing.commands import BadInputError


def read(path: Path) -> str:
    """A Python file, which is not empty."""
    try:
        with tokenize.open(path) as file:
            code = file.read()
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from None
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not UTF-8, nor what it declares: {error}; convert it first") from None
    if not code.strip():
        raise BadInputError(f"{path} is empty")
    return code


def tokens_of(code: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens: an f-string is one. SyntaxError or TokenError where something is none."""
    opened = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = tokenize.tok_name[token.type]
        if kind in {"FSTRING_START", "TSTRING_START"}:  # since Python 3.12
            opened.append(token)
        elif kind in {"FSTRING_END", "TSTRING_END"}:
            start = opened.pop()
            if not opened:
                yield start._replace(type=tokenize.STRING, end=token.end)
        elif not opened:
            stray = kind == "OP" and (token.string == "!" or token.string not in tokenize.EXACT_TOKEN_TYPES)
            if stray or kind == "ERRORTOKEN" or (kind == "NAME" and not token.string.isidentifier()):
                raise SyntaxError(f"something in line {token.start[0]} is no token")
            yield token
