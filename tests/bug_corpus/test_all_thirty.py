"""Thirty bugs of other frameworks that their gradient tests let through, each made again here, and caught.

One test a bug, in the file of its kind; its name has the bug's number, its docstring says what went wrong, and where.
Every test does the same: a check passes on minigrad as it is, then the bug is put in place, and the check fails, saying
what is wrong. So each of them shows that the kind of check that would have found the bug is one of ours, and that it
still can fail.
"""

import re
from pathlib import Path

HOW_MANY = 30
NOT_HERE: dict[int, str] = {}
"""The bugs that cannot be made here, with the reason. So far each of them can."""


def test_every_bug_has_one_test_or_a_reason():
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    tested = [int(number) for text in sources for number in re.findall(r"^def test_b(\d\d)_\w", text, re.MULTILINE)]
    assert sorted([*tested, *NOT_HERE]) == list(range(1, HOW_MANY + 1))
    assert all(reason.strip() for reason in NOT_HERE.values())
