"""What is shown is executed: the Python in the documents, and every example with a small setting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/your_own_op.md")
FENCE = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)

# How to run each example in a few seconds; an example that is not listed fails the test below.
EXAMPLES: dict[str, list[str]] = {
    "adding.py": "--length 6 --units 5 --batch 4 --steps 20".split(),
    "bptt.py": ["--word", "ab"],
    "char_lm.py": ["--quick"],
    "colour_names.py": "--encoder 3 --embedding 4 --units 5 --batch 6 --steps 2".split(),
    "dates.py": "--locales de,hu --strings 300 --held-out 4 --units 5 --batch 16 --steps 4".split(),
    "highlight.py": "--files 4 --held-out 1 --units 4 --window 20 --batch 2 --steps 3".split(),
    "sentiment.py": "--embedding 6 --units 5 --batch 8 --steps 6".split(),
    "test_your_own_op.py": "-q -p no:cacheprovider".split(),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_python_in_a_document_runs(name, tmp_path, monkeypatch, capsys):
    """The blocks of one document run in order, in one namespace, as a reader would type them.

    What a block prints is what the `text` right below it says, if there is one.
    """
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text()
    namespace = {"__name__": "__main__"}
    for block in FENCE.finditer(text):
        line = text[: block.start(1)].count("\n")  # so that a traceback shows the document's own lines
        exec(compile("\n" * line + block[1], str(ROOT / name), "exec"), namespace)
        printed = capsys.readouterr().out
        assert block[2] in (None, printed), f"{name}, the block before line {line}"


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    command = [sys.executable, str(ROOT / "examples" / name), *EXAMPLES[name]]
    environment = os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
