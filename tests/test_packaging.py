"""What is installed: the right files, from the right place, under one version."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from importlib.metadata import distribution, entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = ("minigrad", "minigrad_numpy", "minigrad_cupy")


def origin(module):
    return Path(find_spec(module).origin)


@pytest.mark.skipif("MINIGRAD_TEST_WHEEL" not in os.environ, reason="only `tox -e py` promises to test the wheel")
@pytest.mark.parametrize("module", MODULES)
def test_tox_tests_the_wheel_and_not_this_checkout(module):
    assert ROOT / "minigrad" not in origin(module).parents
    assert ROOT / "backends" not in origin(module).parents
    assert Path(sys.prefix) in origin(module).parents


def test_every_module_of_the_checkout_is_installed():
    for package, home in (("minigrad", ROOT), ("minigrad_cupy", ROOT / "backends")):
        installed = origin(package).parent
        here = {path.relative_to(home / package) for path in (home / package).rglob("*.py")}
        assert here == {path.relative_to(installed) for path in installed.rglob("*.py")}


def test_every_folder_of_minigrad_is_a_package():
    """A folder without __init__.py would be left out of the wheel."""
    for path in (ROOT / "minigrad").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path.parent


def test_minigrad_says_that_it_is_typed():
    assert (origin("minigrad").parent / "py.typed").exists()


def test_the_version_stands_in_one_place():
    tree = ast.parse((ROOT / "minigrad" / "__init__.py").read_text())
    (version,) = (
        node.value.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    )
    assert distribution("minigrad").version == version
    assert "version" in PROJECT["dynamic"]


def test_the_backends_are_entry_points():
    found = {point.name: point.value for point in entry_points(group="minigrad.backends")}
    assert found["cupy"] == "minigrad_cupy:backend"


def test_numpy_is_the_only_requirement():
    assert PROJECT["dependencies"] == ["numpy>=2"]
    required = [line for line in distribution("minigrad").requires if "extra ==" not in line]
    assert required == ["numpy>=2"]
