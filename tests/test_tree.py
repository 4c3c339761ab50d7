"""Pytrees: what is a container, that building undoes flattening, and errors that name the place."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import tree


class State(NamedTuple):
    h: object
    c: object


@dataclass
class Layer:
    W: object
    b: object = None


@dataclass(frozen=True, kw_only=True)
class Frozen:
    x: object


class Pair(tuple):
    """A tuple of one's own, without field names."""

    __slots__ = ()


def trees(leaves):
    keys = st.sampled_from(["W", "b", "layers", 0, 1])
    return st.recursive(
        leaves | st.none(),
        lambda children: st.one_of(
            st.lists(children, max_size=3),
            st.lists(children, max_size=3).map(tuple),
            st.lists(children, max_size=3).map(Pair),
            st.dictionaries(keys, children, max_size=3),
            st.builds(State, children, children),
            st.builds(Layer, children, children),
            st.builds(lambda child: Frozen(x=child), children),
        ),
        max_leaves=8,
    )


def types_of(value):
    """The nested container types of a tree, leaves aside."""
    if isinstance(value, dict):
        return type(value), {key: types_of(child) for key, child in value.items()}
    if isinstance(value, tuple | list):
        return type(value), [types_of(child) for child in value]
    if isinstance(value, Layer | Frozen):
        return type(value), {key: types_of(child) for key, child in vars(value).items()}
    return None


common = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@common
@given(trees(st.integers()))
def test_building_undoes_flattening(value):
    leaves, structure = tree.flatten(value)
    again = structure.build(leaves)
    assert again == value
    assert types_of(again) == types_of(value)
    assert tree.flatten(again) == (leaves, structure)
    assert len(tree.paths(value)) == len(leaves) == len(set(tree.paths(value)))


@common
@given(trees(st.integers()))
def test_map(value):
    doubled = tree.map(lambda leaf: 2 * leaf, value)
    assert tree.flatten(doubled)[0] == [2 * leaf for leaf in tree.flatten(value)[0]]
    assert tree.map(lambda a, b: b - a, value, doubled) == value


@common
@given(trees(st.integers()), st.integers(1, 3))
def test_a_wrong_number_of_leaves_is_an_error(value, extra):
    leaves, structure = tree.flatten(value)
    with pytest.raises(ValueError, match="too many leaves"):
        structure.build([*leaves, *range(extra)])
    if leaves:
        with pytest.raises(ValueError, match="too few leaves"):
            structure.build(leaves[:-1])


@common
@given(trees(st.integers()), trees(st.integers()))
def test_structures_are_equal_when_the_trees_have_one_form(a, b):
    same = (
        types_of(a) == types_of(b)
        and tree.paths(a) == tree.paths(b)
        and str(tree.flatten(a)[1]) == str(tree.flatten(b)[1])
    )
    assert (tree.flatten(a)[1] == tree.flatten(b)[1]) == same
    if not same:
        with pytest.raises(ValueError, match="differ in structure"):
            tree.map(lambda x, y: x, a, b)


def test_the_order_of_a_dict_s_keys_does_not_matter():
    a, b = {"W": 1, "b": 2}, {"b": 20, "W": 10}
    assert tree.flatten(a)[1] == tree.flatten(b)[1]
    assert tree.map(lambda x, y: x + y, a, b) == {"W": 11, "b": 22}
    mixed, other = {1: "one", "1": "text"}, {"1": "TEXT", 1: "ONE"}
    assert tree.map(lambda x, y: x.upper() == y, mixed, other) == {1: True, "1": True}


def test_an_ordered_dict_stays_one():
    again = tree.map(lambda x: x + 1, OrderedDict(W=1, b=2))
    assert type(again) is OrderedDict
    assert again == {"W": 2, "b": 3}


def test_paths():
    value = {"layers": [Layer(1, 2), Layer(3)], "state": State(4, (5,)), 7: None}
    assert tree.paths(value) == [
        "['layers'][0].W", "['layers'][0].b", "['layers'][1].W", "['state'].h", "['state'].c[0]",
    ]  # fmt: skip
    assert tree.paths(3.0) == [""]
    assert tree.paths(None) == []


def test_a_structure_prints_readably():
    structure = tree.flatten({"a": [1, (2,)], "b": (), "c": State(1, None), "d": Frozen(x=2)})[1]
    assert str(structure) == "{'a': [*, (*,)], 'b': (), 'c': State(h=*, c=None), 'd': Frozen(x=*)}"


def test_what_is_no_container_is_a_leaf():
    for leaf in (1.0, "abc", np.ones(2), mg.tensor([1.0, 2.0]), {1, 2}, Layer, range(3), b"ab"):
        leaves, structure = tree.flatten(leaf)
        assert leaves[0] is leaf
        assert structure.build([5]) == 5


def test_none_is_an_empty_tree():
    assert tree.flatten(None)[0] == []
    assert tree.flatten(None)[1] != tree.flatten(1)[1]
    assert tree.flatten(None)[1] != tree.flatten(())[1]
    assert tree.map(lambda x: x, {"a": None}) == {"a": None}


def test_a_defaultdict_comes_back_as_one():
    value = defaultdict(list, W=1.0)
    again = tree.map(lambda x: x + 1, value)
    assert again == {"W": 2.0}


@dataclass
class Derived:
    x: object
    norm: float = field(init=False, default=0.0)


def test_a_dataclass_with_a_field_that_its_constructor_does_not_take():
    assert tree.map(lambda x: x + 1, Derived(1.0)).x == 2.0
