"""README says how large each part is; here it is counted, in statements without docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = {
    "tape, holds and walks": ["tape.py", "hold.py", "walk.py"],
    "public ops": ["ops"],
    "tensors": ["tensor.py"],
    "transforms": ["transforms.py"],
    "cells, nets of them and losses": ["nn"],
    "sequence to sequence and decoding": [f"nn/{name}.py" for name in ("seq2seq", "attention", "context", "decoding")],
    "optimisers": ["optim"],
    "training": ["training"],
    "has": ["scan"],
    "testing kit": ["testing"],
}
APART = {"cells, nets of them and losses": "sequence to sequence and decoding"}  # in the same folder, counted apart


def statements(paths):
    """How many statements the files, or those of the folders, have."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    documented = [
        n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(n)
    ]
    return sum(isinstance(node, ast.stmt) for node in nodes) - len(documented)


@pytest.mark.parametrize("part", PARTS)
def test_readme_says_how_large_a_part_is(part):
    count = statements([ROOT / "minigrad" / path for path in PARTS[part]])
    if part in APART:
        count -= statements([ROOT / "minigrad" / path for path in PARTS[APART[part]]])
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(rf"{part},? ([\d,]*\d)", text.partition("It is small on purpose.")[2])
    assert said, part
    assert int(said[1].replace(",", "")) == pytest.approx(count, rel=0.03), count
