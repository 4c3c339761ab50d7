"""`docs/adapters.md` is executed: each framework's code, where the framework is installed.

Where one is not, its test is skipped with that reason; but its code is still compiled, and what it needs of the kit
is looked for, so that a name that changes there is noticed everywhere.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minigrad.testing
from minigrad.testing.adapters import Adapter, Minigrad, PlainRule

DOCUMENT = Path(__file__).parents[1] / "docs" / "adapters.md"
FENCE = re.compile(r"^```python (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRAMEWORKS = ("numpy", "minigrad", "autograd", "jax", "torch")
APART = ("jax", "torch")  # in a process of their own: they start threads, and their settings are those of a process
TEN_LINES = 10


def code(framework: str) -> str:
    """The document's code for one framework, as one program."""
    return "\n".join(block for name, block in FENCE.findall(DOCUMENT.read_text()) if name == framework)


def execute(program: str) -> None:
    exec(compile(program, str(DOCUMENT), "exec"), {})


def test_every_block_belongs_to_a_framework():
    text = DOCUMENT.read_text()
    assert [name for name, _ in FENCE.findall(text)] == ["numpy", "numpy", *FRAMEWORKS[1:]]
    assert text.count("```") == 2 * len(FENCE.findall(text))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_code_compiles_and_uses_what_is_there(framework):
    tree = ast.parse(code(framework))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module.startswith("minigrad"):
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("framework", ["autograd", "jax", "torch"])
def test_an_adapter_is_complete_and_short(framework):
    (adapter,) = [node for node in ast.parse(code(framework)).body if isinstance(node, ast.ClassDef)]
    defined = {node.name for node in adapter.body if isinstance(node, ast.FunctionDef)}
    wanted = {name for name in vars(Adapter) if not name.startswith("_") and callable(getattr(Adapter, name))}
    assert defined == wanted
    assert sum(len(node.body) for node in adapter.body if isinstance(node, ast.FunctionDef)) <= TEN_LINES


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_code_runs(framework):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed here: its part of docs/adapters.md was compiled, and not run")
    if framework in APART:
        done = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", code(framework)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    else:
        execute(code(framework))


def test_a_wrong_rule_is_caught_through_an_adapter():
    """The document's checks can fail: the same code with a rule that is wrong does not pass."""
    wrong = code("numpy").replace("return out * (g - ", "return out * (0.5 * g - ")
    assert wrong != code("numpy")
    with pytest.raises(minigrad.testing.GradientError, match="is wrong"):
        execute(wrong)


def test_abilities_are_stated():
    """What is optional in an adapter: minigrad and plain rules have all of it."""
    for adapter in (Minigrad(), PlainRule(lambda g, out, x: g)):
        assert adapter.strided
        assert callable(adapter.vjp_keeping)
