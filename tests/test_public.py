"""What `import minigrad as mg` offers: every public name exists, is documented, and shows an example."""

from __future__ import annotations

import inspect

import pytest

import minigrad as mg


def test_the_list_of_public_names_is_sorted_and_complete():
    assert mg.__all__ == sorted(set(mg.__all__))
    public = {
        name for name, item in vars(mg).items() if not name.startswith("_") and not inspect.ismodule(item)
    }
    assert public <= set(mg.__all__)


@pytest.mark.parametrize("name", mg.__all__)
def test_a_public_name_is_documented_with_an_example(name):
    item = getattr(mg, name)
    text = inspect.getdoc(item)
    assert text, f"mg.{name} has no docstring"
    if not inspect.ismodule(item):
        assert ">>> " in text, f"the docstring of mg.{name} shows no example"
