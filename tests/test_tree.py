"""Pytrees: what is a container, that building undoes flattening, and errors that name the place."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

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


# ---- dicts, lists and tuples of other classes ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [("b", "a", "l10", "l2"), ("l2", "b", "l10", "a")])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_dict_keeps_the_order_of_its_keys(kind, order):
    """Layers in a dict are applied in its order, which a sorted copy would change."""
    value = kind((key, float(i)) for i, key in enumerate(order))
    again = tree.map(lambda x: x + 1, value)
    assert type(again) is kind
    assert list(again.items()) == [(key, i + 1.0) for i, key in enumerate(order)]
    assert tree.flatten(value)[0] == [value[key] for key in sorted(order)]
    seen = []
    mg.grad(lambda params: seen.extend(params) or sum(params.values()))(value)
    assert tuple(seen) == order


def test_an_ordered_dict_is_read_in_its_own_order():
    value = OrderedDict(a=1, b=2)
    value.move_to_end("a")
    again = tree.map(lambda x: x, value)
    assert list(again) == ["b", "a"]
    again.move_to_end("b")
    assert list(again) == ["a", "b"]


class Counted(Counter):
    """Built again from pairs, a Counter would count the pairs."""


class Loud(list):
    """A list whose constructor takes something else, and which has methods of its own."""

    def __init__(self, first, second, name):
        super().__init__([first, second])
        self.name = name

    def __iter__(self):
        raise AssertionError("the user's method ran")

    def append(self, item):
        raise AssertionError("the user's method ran")


class Shouting(dict):
    def __getitem__(self, key):
        raise AssertionError("the user's method ran")

    __iter__ = __setitem__ = __init__ = __getitem__


class WithDefaults(NamedTuple):
    a: object
    b: object = 7


class Checked(WithDefaults):
    """Constructors of tuples are `__new__`."""

    def __new__(cls, a):
        return super().__new__(cls, a)


@pytest.mark.parametrize(
    "value",
    [
        Counter(a=3, b=1),
        Counted("aab"),
        defaultdict(list, W=1),
        OrderedDict(b=1, a=2),
        Loud(1, 2, "name"),
        WithDefaults(1),
        Checked(1),
        Pair((1, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_container_is_built_again_as_what_it_was(value):
    leaves, structure = tree.flatten(value)
    again = structure.build([10 * leaf for leaf in leaves])
    assert type(again) is type(value)
    assert tree.flatten(again) == ([10 * leaf for leaf in leaves], structure)
    assert getattr(again, "default_factory", None) is getattr(value, "default_factory", None)
    assert getattr(again, "__dict__", None) == getattr(value, "__dict__", None)
    assert structure.build(leaves) is not value
    base = next(base for base in (dict, list, tuple) if isinstance(value, base))
    assert base.__eq__(structure.build(leaves), value)


def test_a_dict_is_read_and_written_without_its_own_methods():
    value = dict.__new__(Shouting)
    dict.__setitem__(value, "W", 1)
    again = tree.map(lambda x: x + 1, value)
    assert type(again) is Shouting
    assert dict(dict.items(again)) == {"W": 2}


def test_the_classes_of_dicts_are_told_apart_in_print():
    with pytest.raises(ValueError, match=r"Counter\(a=\*\) and \{'a': \*\}"):
        tree.map(lambda x, y: x, Counter(a=1), {"a": 1})


def test_what_is_neither_tuple_list_nor_dict_is_a_leaf():
    for leaf in (deque([1, 2]), type("Text", (str,), {})("ab")):
        assert tree.flatten(leaf)[0] == [leaf]
    with pytest.raises(TypeError, match="deque"):
        mg.grad(lambda x: x[0])(deque([1.0]))


def test_a_tuple_that_python_does_not_let_us_make_is_refused():
    value = time.gmtime(0)
    assert tree.flatten(value)[0] == list(value)
    with pytest.raises(TypeError, match="struct_time is a container that cannot be made again.*use a tuple"):
        tree.map(lambda x: x, value)


# ---- dataclasses ---------------------------------------------------------------------------------------------------


@dataclass
class Doubled:
    w: Any

    def __post_init__(self):
        self.w = self.w * 2.0


def test_no_post_init_runs_when_a_dataclass_is_built_again():
    p = Doubled(np.array([1.0]))
    value, gradient = mg.value_and_grad(lambda p: p.w.sum())(p)
    assert (value, gradient.w.tolist()) == (2.0, [1.0])
    for unroll in (False, True):
        states = mg.scan(lambda p, x: tree.map(lambda w: w + x, p), np.array([1.0, 10.0]), p, unroll=unroll)
        assert states.w.tolist() == [[3.0], [13.0]]


@dataclass
class Constant:
    w: Any
    k: Any = field(init=False, default=7)


@pytest.mark.parametrize("k", [100, 100.0, "text", None, np.tanh, [1, "a"], np.float32])
def test_what_holds_no_array_and_is_no_argument_is_kept(k):
    p = Constant(np.array([1.0]))
    p.k = k
    seen = []
    gradient = mg.grad(lambda p: seen.append(p.k) or p.w.sum())(p)
    assert seen[0] == gradient.k == k
    assert gradient.w.tolist() == [1.0]
    assert tree.paths(p) == [".w"]
    assert str(tree.flatten(p)[1]) == f"Constant(w=*, k={k!r})"


def test_an_array_that_is_no_argument_is_a_part():
    """Were it kept as it was, what it was computed from would have a gradient of 0 through it."""
    p = Constant(np.array([1.0]))
    p.k = {"table": np.array([2.0, 3.0])}
    assert tree.paths(p) == [".w", ".k['table']"]
    gradient = mg.grad(lambda p: (p.w * p.k["table"]).sum())(p)
    assert gradient.w.tolist() == [5.0]
    assert gradient.k["table"].tolist() == [1.0, 1.0]
    p.k = mg.tensor([4.0])
    assert mg.grad(lambda p: (p.w * p.k).sum())(p).k.data.tolist() == [1.0]


@dataclass
class Stepped:
    h: Any
    t: Any = field(init=False, default_factory=lambda: np.array(0.0))


def counted(state, x):
    new = Stepped(state.h + x)
    new.t = state.t + 1
    return new


@pytest.mark.parametrize("unroll", [False, True])
def test_a_counter_in_a_state_counts(unroll):
    states = mg.scan(counted, np.ones(3), Stepped(np.array(5.0)), unroll=unroll)
    assert states.h.tolist() == [6.0, 7.0, 8.0]
    assert states.t.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("unroll", [False, True])
def test_a_number_that_is_no_argument_may_not_change_in_a_state(unroll):
    """It would be dropped in silence: what is kept is the initializer's."""
    start = Stepped(np.array(5.0))
    start.t = 0
    with pytest.raises(TypeError, match=r"Stepped\(h=\*, t=0\), got Stepped\(h=\*, t=1\)"):
        mg.scan(counted, np.ones(3), start, unroll=unroll)


def test_trees_that_keep_different_things_differ():
    a, b = Constant(1.0), Constant(1.0)
    b.k = 7
    assert tree.flatten(a)[1] == tree.flatten(b)[1]
    b.k = 8
    with pytest.raises(ValueError, match="k=7.*k=8"):
        tree.map(lambda x, y: x, a, b)


@dataclass(frozen=True, slots=True)
class Tight:
    w: Any
    size: int = field(init=False, default=3)

    def __post_init__(self):
        object.__setattr__(self, "w", self.w + 1)
        object.__setattr__(self, "size", 4)


@dataclass
class Scaled:
    w: Any
    scale: InitVar[float]
    parts: Any = None

    def __post_init__(self, scale):
        self.w = self.w * scale
        self.note = "made"


@dataclass(frozen=True)
class Child(Tight):
    extra: Any = 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tight(1.0),
        lambda: Scaled(2.0, 3.0),
        lambda: Scaled(2.0, 3.0, parts={"b": Tight(1.0), "a": [Doubled(1.0), Scaled(1.0, 2.0)]}),
        lambda: Child(1.0),
    ],
    ids=["frozen slots", "InitVar", "nested", "inherited"],
)
def test_a_dataclass_is_built_again_as_it_was(make):
    value = make()
    leaves, structure = tree.flatten(value)
    again = structure.build(leaves)
    assert again == value
    assert again is not value
    assert type(again) is type(value)
    assert tree.flatten(again) == (leaves, structure)
    assert getattr(again, "note", None) == getattr(value, "note", None)
    assert getattr(again, "size", None) == getattr(value, "size", None)
    assert tree.flatten(structure.build([2 * leaf for leaf in leaves]))[0] == [2 * leaf for leaf in leaves]


@dataclass
class Cached:
    w: Any

    @cached_property
    def twice(self):
        return self.w * 2


def test_what_was_cached_is_computed_again_from_the_new_leaves():
    p = Cached(np.array([1.0]))
    assert p.twice.tolist() == [2.0]
    assert mg.grad(lambda p: p.twice.sum())(p).w.tolist() == [2.0]
    assert tree.map(lambda w: 10 * w, p).twice.tolist() == [20.0]


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    x: T


def test_a_parameter_of_the_class_makes_no_difference():
    assert tree.map(lambda a, b: a + b, Box[int](1), Box(2)) == Box(3)


@dataclass
class Derived:
    x: object
    norm: float = field(init=False, default=0.0)


def test_a_dataclass_with_a_field_that_its_constructor_does_not_take():
    assert tree.map(lambda x: x + 1, Derived(1.0)).x == 2.0
