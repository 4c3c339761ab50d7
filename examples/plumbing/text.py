"""Texts: files that are read with one clear complaint, and vocabularies that turn tokens into integers and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from plumbing.commands import BadInputError


def read(path: Path, option: str) -> str:
    """A text file in UTF-8, which an option names."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInputError(f"cannot read {option} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{option} {path} is not UTF-8: {error.reason} at byte {error.start}; convert it first"
        ) from None
    return text.replace("\r\n", "\n")


class Vocabulary:
    """Tokens and their numbers, 0 to len - 1: first the special ones, in their order, then the others, sorted."""

    def __init__(self, tokens: Iterable[Any], special: Sequence[Any] = ()) -> None:
        self.tokens = [*special, *sorted(set(tokens) - set(special))]
        self.numbers = {token: number for number, token in enumerate(self.tokens)}

    @classmethod
    def of_frequent(cls, tokens: Iterable[Any], size: int, special: Sequence[Any]) -> Vocabulary:
        """The `size` most frequent tokens, beside the special ones; of equally frequent ones the first in order."""
        counts = Counter(tokens)
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(ranked[:size], special)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: Hashable) -> bool:
        return token in self.numbers

    def numbers_of(self, tokens: Iterable[Any], unknown: Any = None) -> list[int]:
        """The number of each token. Other tokens count as the token `unknown`; without one they are bad input."""
        if unknown is not None:
            return [self.numbers.get(token, self.numbers[unknown]) for token in tokens]
        tokens = list(tokens)
        for token in tokens:
            if token not in self.numbers:
                raise BadInputError(f"{token!r} is not among the {len(self)} tokens that the net knows")
        return [self.numbers[token] for token in tokens]

    def tokens_of(self, numbers: Iterable[int]) -> list[Any]:
        """The token of each number."""
        return [self.tokens[number] for number in numbers]
