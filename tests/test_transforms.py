"""Transforms: what they give, of which type, at which order, and that nested ones never confuse their variables."""

from __future__ import annotations

import functools
import itertools
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

import minigrad as mg
from minigrad import random, transforms
from minigrad.testing import fake_cupy


def reverse(f):
    """d f / dx of a function of one number, by a walk backwards."""
    return mg.grad(f)


def forward(f):
    """d f / dx of a function of one number, by a walk forwards."""
    return lambda x: mg.jvp(f, (x,), (1.0,))[1]


MODES = {"R": reverse, "F": forward}
PAIRS = ["".join(modes) for modes in itertools.product(MODES, repeat=2)]  # "FR": forward over reverse
TRIPLES = ["".join(modes) for modes in itertools.product(MODES, repeat=3)]


def second(modes, f, args, v):
    """The Hessian of f times v, the outer mode first; for FF the number v H v."""

    def dot(xs, ys):
        return sum((x * y).sum() for x, y in zip(xs, ys, strict=True))

    every = tuple(range(len(args)))
    if modes == "RR":
        return mg.grad(lambda *xs: dot(mg.grad(f, argnums=every)(*xs), v), argnums=every)(*args)
    if modes == "FR":
        return mg.jvp(mg.grad(f, argnums=every), args, v)[1]
    if modes == "RF":
        return mg.grad(lambda *xs: mg.jvp(f, xs, v)[1], argnums=every)(*args)
    return mg.jvp(lambda *xs: mg.jvp(f, xs, v)[1], args, v)[1]


# ---- one order -----------------------------------------------------------------------------------------------------


def test_grad_of_one_argument_or_several():
    f = lambda x, y: (x * x * y).sum()  # noqa: E731
    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    assert mg.grad(f)(x, y).tolist() == [6.0, 16.0]
    assert mg.grad(f, argnums=1)(x, y).tolist() == [1.0, 4.0]
    both = mg.grad(f, argnums=(1, 0))(x, y)
    assert type(both) is tuple
    assert [g.tolist() for g in both] == [[1.0, 4.0], [6.0, 16.0]]
    assert mg.grad(f, argnums=(0,))(x, y)[0].tolist() == [6.0, 16.0]
    assert mg.grad(f)(x, y=y).tolist() == [6.0, 16.0]


def test_value_and_grad():
    value, g = mg.value_and_grad(lambda x: x**3)(2.0)
    assert (value, g) == (8.0, 12.0)
    (value, aux), g = mg.value_and_grad(lambda x: (x**3, {"twice": x * 2, "name": "x"}), has_aux=True)(2.0)
    assert (value, aux["twice"], aux["name"], g) == (8.0, 4.0, "x", 12.0)
    assert type(aux["twice"]) is np.ndarray
    g, aux = mg.grad(lambda x: (x**3, x), has_aux=True)(2.0)
    assert (g, aux) == (12.0, 2.0)


def test_has_aux_needs_a_pair():
    with pytest.raises(TypeError, match="pair"):
        mg.grad(lambda x: x, has_aux=True)(1.0)


def test_aux_carries_gradients_to_whoever_is_outside():
    w = mg.tensor(3.0, requires_grad=True)
    _, aux = mg.grad(lambda x: (x * w, x * x * w), has_aux=True)(2.0)
    aux.backward()
    assert w.grad == 4.0

    def outer(x):
        g, aux = mg.grad(lambda y: (x * y * y, x * y), has_aux=True)(x)
        return g * aux  # 2 x^2 * x^2

    assert mg.grad(outer)(3.0) == 8 * 27


def test_kwargs_are_constants():
    assert mg.grad(lambda x, *, scale: (x * scale).sum())(np.ones(2), scale=5.0).tolist() == [5.0, 5.0]


def test_names_and_docstrings_are_kept():
    def loss(x):
        """What it costs."""
        return x

    assert mg.grad(loss).__name__ == mg.checkpoint(loss).__name__ == "loss"
    assert mg.value_and_grad(loss).__doc__ == "What it costs."


def test_what_does_not_depend_has_gradient_zero():
    x = np.ones(3, "float32")
    g = mg.grad(lambda x, y: (y * 2).sum())(x, np.ones(2))
    assert g.dtype == np.float32
    assert g.tolist() == [0.0, 0.0, 0.0]
    assert mg.grad(lambda x: mg.tensor(3.0))(1.0) == 0.0
    assert mg.grad(lambda x: 3.0)(1.0) == 0.0
    out, tangent = mg.jvp(lambda x: np.ones(2), (1.0,), (1.0,))
    assert (out.tolist(), tangent.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    _, pull = mg.vjp(lambda x, y: x * 2, np.ones(2), 3.0)
    assert pull(np.ones(2))[1] == 0.0


def test_the_identity():
    x = np.array([1.0, 2.0])
    _, pull = mg.vjp(lambda x: x, x)
    g = np.array([3.0, 4.0])
    (gradient,) = pull(g)
    assert gradient.tolist() == [3.0, 4.0]
    assert gradient is not g
    gradient[:] = 0
    assert g.tolist() == [3.0, 4.0]
    assert mg.grad(lambda x: x)(2.0) == 1.0
    assert mg.jvp(lambda x: x, (x,), (g,))[1].tolist() == [3.0, 4.0]


def test_gradients_of_several_arguments_share_no_memory():
    a, b = mg.grad(lambda x, y: (x + y).sum(), argnums=(0, 1))(np.ones(2), np.ones(2))
    a[:] = 5.0
    assert b.tolist() == [1.0, 1.0]
    a, b = mg.vjp(lambda x: (x, x), np.ones(2))[0]
    t, u = mg.jvp(lambda x: (x, x), (np.ones(2),), (np.ones(2),))[1]
    t[:] = 5.0
    assert u.tolist() == [1.0, 1.0]


def test_vjp_pulls_many_times():
    x = np.array([0.3, -0.7])
    out, pull = mg.vjp(lambda x, w: mg.tanh(x) @ w, x, np.array([[1.0, 2.0], [3.0, 4.0]]))
    once = pull(np.array([1.0, 0.0]))
    other = pull(np.array([0.0, 1.0]))
    again = pull(np.array([1.0, 0.0]))
    for a, b in zip(once, again, strict=True):
        assert np.array_equal(a, b)
    both = pull(np.array([2.0, -3.0]))
    for a, b, c in zip(once, other, both, strict=True):
        np.testing.assert_allclose(c, 2 * a - 3 * b, rtol=1e-15)
    assert out.shape == (2,)


def test_vjp_and_jvp_are_transposes():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 2)), rng.standard_normal((2, 4))

    def f(x, w):
        y = mg.tanh(x @ w)
        return {"sum": y.sum(axis=0), "max": (y.max(axis=1), x[::-1] * 2)}

    out, pull = mg.vjp(f, x, w)
    t, u = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    g = mg.tree.map(lambda leaf: rng.standard_normal(leaf.shape), out)
    pulled = pull(g)
    same, pushed = mg.jvp(f, (x, w), (t, u))
    assert mg.tree.flatten(mg.tree.map(np.array_equal, out, same))[0] == [True] * 3
    left = sum(mg.tree.flatten(mg.tree.map(lambda a, b: float((a * b).sum()), g, pushed))[0])
    right = float((pulled[0] * t).sum() + (pulled[1] * u).sum())
    assert left == pytest.approx(right, rel=1e-13)


def test_jacobian_in_both_modes():
    A = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    x = np.array([0.1, 0.2])
    expected = (1 - np.tanh(A @ x) ** 2)[:, None] * A
    for mode in ("reverse", "forward"):
        np.testing.assert_allclose(mg.jacobian(lambda x: mg.tanh(A @ x), mode=mode)(x), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: mg.outer(x, x), np.array([1.0, 2.0, 3.0])),
        (lambda x: x @ x.T, np.arange(6.0).reshape(2, 3)),
        (lambda x: x.sum(), np.ones((2, 2))),
        (lambda x: x * np.ones((2, 3)), 2.0),
        (lambda x: x**2, 3.0),
        (lambda x: mg.where(x > 1, x * x, 0.0), np.array([[0.5, 1.5]])),
        (lambda x: x[:0], np.ones(3)),
        (lambda x: x * 2, np.ones((0, 2))),
        (lambda x: np.ones(2), np.ones(3)),
    ],
)
def test_the_jacobian_s_shape_and_modes_agree(f, x):
    by_rows, by_columns = mg.jacobian(f)(x), mg.jacobian(f, mode="forward")(x)
    assert by_rows.shape == by_columns.shape == np.shape(f(np.asarray(x))) + np.shape(x)
    np.testing.assert_array_equal(by_rows, by_columns)


def test_a_jacobian_of_nothing_by_a_number():
    for mode in ("reverse", "forward"):
        assert mg.jacobian(lambda x: x * np.ones(0), mode=mode)(2.0).shape == (0,)


def test_jacobian_argnums_and_errors():
    f = lambda x, y: x * y  # noqa: E731
    assert mg.jacobian(f, argnums=1)(np.array([1.0, 2.0]), np.array([3.0, 4.0])).tolist() == [[1.0, 0.0], [0.0, 2.0]]
    with pytest.raises(ValueError, match="mode"):
        mg.jacobian(f, mode="backward")
    with pytest.raises(ValueError, match="argument 2"):
        mg.jacobian(f, argnums=2)(1.0, 2.0)
    for mode in ("reverse", "forward"):
        with pytest.raises(TypeError, match=r"cannot differentiate by argument 0\['n'\].*int64.*astype"):
            mg.jacobian(lambda t: t["x"] * 2, mode=mode)({"x": 1.0, "n": np.array([1, 2])})
        with pytest.raises(TypeError, match=r"floating results, got bool for the result\['p'\]\[1\]"):
            mg.jacobian(lambda x: {"p": (x, x > 0)}, mode=mode)(1.0)
        with pytest.raises(ValueError, match="at least one array, got None"):
            mg.jacobian(lambda x: None, mode=mode)(1.0)


MODE = pytest.mark.parametrize("mode", ["reverse", "forward"])


@MODE
def test_the_jacobian_of_trees_has_the_result_s_structure_and_in_it_the_argument_s(mode):
    """Each block is the Jacobian of one array by one array, the other arrays standing still."""
    rng = np.random.default_rng(11)
    args = {"W": rng.standard_normal((2, 3)), "more": [rng.standard_normal(3), None]}, rng.standard_normal((4, 2))
    leaves, structure = mg.tree.flatten(args)

    def f(params, x):
        y = mg.tanh(x @ params["W"] + params["more"][0])
        return {"y": y, "pair": State(y.sum(axis=0), (params["W"] ** 2).sum())}

    def entry(j, k):
        """Leaf j of the result as a function of leaf k of the arguments alone."""
        return lambda leaf: mg.tree.flatten(f(*structure.build([*leaves[:k], leaf, *leaves[k + 1 :]])))[0][j]

    outs, result_structure = mg.tree.flatten(f(*args))
    expected = result_structure.build(
        [structure.build([mg.jacobian(entry(j, k))(leaf) for k, leaf in enumerate(leaves)]) for j in range(len(outs))]
    )
    blocks, nested = mg.tree.flatten(mg.jacobian(f, argnums=(0, 1), mode=mode)(*args))
    alone, expected_nesting = mg.tree.flatten(expected)
    assert nested == expected_nesting
    for block, one in zip(blocks, alone, strict=True):
        assert type(block) is np.ndarray
        assert block.shape == one.shape
        np.testing.assert_allclose(block, one, rtol=1e-14, atol=1e-16)


@MODE
def test_the_jacobian_by_hand(mode):
    """Exact: products of small integers, by two arguments of other shapes."""
    a, b = np.array([2.0, 3.0]), np.array([[1.0, 4.0, 5.0]])

    def f(p, q):
        return [p[:, None] * q, p[0] * q[0, 2]]

    outer, number = mg.jacobian(f, argnums=[1, 0], mode=mode)(a, b)
    assert np.array_equal(outer[0], np.einsum("i,jk->ijk", a, np.eye(3))[:, :, None, :])
    assert np.array_equal(outer[1], np.einsum("ik,j->ijk", np.eye(2), b[0]))
    assert np.array_equal(number[0], [[0.0, 0.0, 2.0]])
    assert np.array_equal(number[1], [5.0, 0.0])
    (alone,) = mg.jacobian(lambda p: p**2, argnums=(0,), mode=mode)(a)
    assert np.array_equal(alone, [[4.0, 0.0], [0.0, 6.0]])


@MODE
def test_a_jacobian_of_trees_keeps_dtypes_and_gives_tensors_for_tensors(mode):
    half, double = np.ones(2, "float32"), np.ones(2)

    def f(t):
        return {"a": t["x"] * 2, "b": t["x"] * t["y"], "none": t["y"][:0]}

    arrays = mg.jacobian(f, mode=mode)({"x": half, "y": double})
    dtypes = {key: (part["x"].dtype.name, part["y"].dtype.name) for key, part in arrays.items()}
    if mode == "reverse":
        assert dtypes == dict.fromkeys(("a", "b", "none"), ("float32", "float64"))
    else:
        assert dtypes == {"a": ("float32",) * 2, "b": ("float64",) * 2, "none": ("float64",) * 2}
    assert arrays["none"]["x"].shape == (0, 2)
    leaves = mg.tree.flatten(arrays)[0]
    assert {type(leaf) for leaf in leaves} == {np.ndarray}
    tensors = mg.tree.flatten(mg.jacobian(f, mode=mode)({"x": half, "y": mg.tensor(double)}))[0]
    assert {type(leaf) for leaf in tensors} == {mg.Tensor}
    assert all(leaf.record is None for leaf in tensors)
    for leaf, tensor in zip(leaves, tensors, strict=True):
        assert np.array_equal(leaf, tensor.data)
        assert leaf.dtype == tensor.dtype


@MODE
def test_another_result_does_not_reach_a_block(mode):
    """A rule that gives NaN for one result says nothing of the others."""
    broken = mg.custom_op(lambda x: x * 1.0, vjp=lambda g, out, x: (g * np.nan,), jvp=lambda t, out, x: t[0] * np.nan)
    result = mg.jacobian(lambda t: (t["x"] * 3.0, broken(t["y"])), mode=mode)({"x": 1.0, "y": 2.0})
    assert result[0] == {"x": 3.0, "y": 0.0}
    assert result[1]["x"] == 0.0
    assert np.isnan(result[1]["y"])
    shared = mg.jacobian(lambda x: (x * 3.0, broken(x)), mode=mode)(1.0)
    assert shared[0] == 3.0
    assert np.isnan(shared[1])


@pytest.mark.parametrize("modes", list(itertools.product(["reverse", "forward"], repeat=2)))
def test_the_hessian_of_a_tree(modes):
    """The Jacobian of a gradient, and of a Jacobian, is that of one flat vector, cut into blocks."""
    outer, inner = modes
    rng = np.random.default_rng(12)
    w, b = rng.standard_normal((2, 2)), rng.standard_normal(2)

    def f(p):
        return (mg.tanh(p["b"] @ p["W"]) * p["b"]).sum() + (p["b"] ** 3).sum()

    def flat(v):
        return f({"W": v[:4].reshape(2, 2), "b": v[4:]})

    H = mg.jacobian(mg.grad(flat))(np.concatenate([w.ravel(), b]))
    parts = {"W": slice(0, 4), "b": slice(4, 6)}
    shapes = {"W": (2, 2), "b": (2,)}
    for gradient in (mg.grad(f), mg.jacobian(f, mode=inner)):
        hessian = mg.jacobian(gradient, mode=outer)({"W": w, "b": b})
        for i, j in itertools.product(parts, repeat=2):
            assert hessian[i][j].shape == shapes[i] + shapes[j]
            block = H[parts[i], parts[j]].reshape(shapes[i] + shapes[j])
            np.testing.assert_allclose(hessian[i][j], block, rtol=1e-12, atol=1e-15)


@MODE
def test_a_jacobian_of_trees_carries_gradients_to_whoever_is_outside(mode):
    w = mg.tensor([2.0, 3.0], requires_grad=True)
    result = mg.jacobian(lambda p: {"y": p["a"] ** 2 * w, "z": p["b"]}, mode=mode)({"a": 5.0, "b": 1.0})
    result["y"]["a"].sum().backward()
    assert w.grad.tolist() == [10.0, 10.0]
    assert mg.grad(lambda s: mg.jacobian(lambda p: (p[0] * s * s, p[1]), mode=mode)((1.0, 2.0))[0][0])(3.0) == 6.0


def test_a_jacobian_runs_its_function_once_and_passes_keywords():
    calls = []

    def f(x, *, scale):
        """Scaled."""
        calls.append(scale)
        return x * scale

    for mode in ("reverse", "forward"):
        jacobian = mg.jacobian(f, mode=mode)
        assert jacobian.__doc__ == "Scaled."
        assert jacobian(np.ones(2), scale=3.0).tolist() == [[3.0, 0.0], [0.0, 3.0]]
    assert calls == [3.0, 3.0]


def test_hvp_is_the_jacobian_of_the_gradient_times_a_vector():
    rng = np.random.default_rng(2)
    A = rng.standard_normal((4, 4))
    f = lambda x: mg.logsumexp(mg.tanh(A @ x) * x) + (x**4).sum()  # noqa: E731
    x, v = rng.standard_normal(4), rng.standard_normal(4)
    H = mg.jacobian(mg.grad(f))(x)
    np.testing.assert_allclose(H, H.T, rtol=1e-12)
    np.testing.assert_allclose(mg.hvp(f, (x,), (v,))[0], H @ v, rtol=1e-12)
    np.testing.assert_allclose(mg.jacobian(mg.grad(f), mode="forward")(x), H, rtol=1e-12)


def test_hvp_of_several_arguments():
    result = mg.hvp(lambda x, y: (x * x * y).sum(), (2.0, 3.0), (1.0, 10.0))
    assert result == (2 * 3 * 1.0 + 2 * 2 * 10.0, 2 * 2 * 1.0)


# ---- pytrees -------------------------------------------------------------------------------------------------------


class State(NamedTuple):
    h: object
    c: object


@dataclass
class Layer:
    W: object
    b: object


def test_pytrees_in_and_out():
    params = {"layers": [Layer(np.eye(2), np.zeros(2))], "state": State(np.ones(2), 3.0), "none": None, "empty": ()}

    def f(params):
        layer = params["layers"][0]
        return (params["state"].h @ layer.W + layer.b).sum() * params["state"].c

    g = mg.grad(f)(params)
    assert isinstance(g["layers"][0], Layer)
    assert isinstance(g["state"], State)
    assert g["none"] is None
    assert g["empty"] == ()
    assert g["layers"][0].W.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert g["layers"][0].b.tolist() == [3.0, 3.0]
    assert g["state"].c == 2.0
    out, tangent = mg.jvp(lambda s: State(s.c, s.h), (State(1.0, 2.0),), (State(10.0, 20.0),))
    assert out == State(2.0, 1.0)
    assert tangent == State(20.0, 10.0)


def test_one_array_at_two_places_of_a_tree():
    shared = np.array([1.0, 2.0])
    a, b = mg.grad(lambda pair: (pair[0] * pair[0] * pair[1]).sum())((shared, shared))
    assert a.tolist() == [2.0, 8.0]
    assert b.tolist() == [1.0, 4.0]
    leaf = mg.tensor(shared, requires_grad=True)
    a, b = mg.grad(lambda pair: (pair[0] * pair[0] * pair[1]).sum())((leaf, leaf))
    assert a.data.tolist() == [2.0, 8.0]
    assert b.data.tolist() == [1.0, 4.0]


# ---- types and dtypes ----------------------------------------------------------------------------------------------


def leaves_of(result):
    return [leaf for leaf in mg.tree.flatten(result)[0] if not callable(leaf)]


TRANSFORMED = {
    "grad": lambda f, x: mg.grad(f)(x),
    "value_and_grad": lambda f, x: mg.value_and_grad(f)(x),
    "grad of grad": lambda f, x: mg.grad(lambda x: mg.grad(f)(x).sum())(x),
    "vjp": lambda f, x: (lambda out, pull: (out, pull(np.ones_like(out))))(*mg.vjp(f, x)),
    "jvp": lambda f, x: mg.jvp(f, (x,), (np.ones(2),)),
    "jacobian": lambda f, x: mg.jacobian(f)(x),
    "jacobian, forward": lambda f, x: mg.jacobian(f, mode="forward")(x),
    "hvp": lambda f, x: mg.hvp(f, (x,), (np.ones(2),)),
    "checkpoint": lambda f, x: mg.checkpoint(f)(x),
    "stop_gradient": lambda f, x: mg.stop_gradient(x),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_arrays_give_arrays_and_tensors_give_tensors(name):
    f = lambda x: (mg.tanh(x) ** 3).sum()  # noqa: E731
    x = np.array([0.5, 1.0])
    on_arrays = leaves_of(TRANSFORMED[name](f, x))
    assert [type(leaf) for leaf in on_arrays] == [np.ndarray] * len(on_arrays)
    on_tensors = leaves_of(TRANSFORMED[name](f, mg.tensor(x)))
    assert [type(leaf) for leaf in on_tensors] == [mg.Tensor] * len(on_tensors)
    assert all(leaf.record is None for leaf in on_tensors)
    for a, b in zip(on_arrays, on_tensors, strict=True):
        np.testing.assert_array_equal(a, b.data)


def test_one_tensor_among_the_arguments_is_enough():
    f = lambda x, y: (x * y).sum()  # noqa: E731
    x, y = np.ones(2), mg.tensor([1.0, 2.0])
    assert type(mg.grad(f)(x, y)) is mg.Tensor
    assert type(mg.vjp(f, x, y)[1](1.0)[0]) is mg.Tensor
    assert type(mg.jvp(f, (x, y), (x, x))[1]) is mg.Tensor
    assert type(mg.jacobian(f)(x, y)) is mg.Tensor


def test_a_tensor_behind_the_function_gives_tensors():
    w = mg.tensor([1.0, 2.0], requires_grad=True)
    value, g = mg.value_and_grad(lambda x: (x * w).sum())(np.ones(2))
    assert isinstance(g, mg.Tensor)
    assert g.requires_grad
    assert value.requires_grad


def test_a_pull_on_arrays_may_be_differentiated_later():
    _, pull = mg.vjp(np.tanh, np.array([0.5]))
    g = mg.grad(lambda g: (pull(g)[0] ** 2).sum())(np.array([3.0]))
    np.testing.assert_allclose(np.asarray(mg.stop_gradient(g)), 6.0 * (1 - np.tanh(0.5) ** 2) ** 2, rtol=1e-15)


def test_lists_and_numbers_are_arguments():
    assert mg.grad(lambda x: x * x)(3.0) == 6.0
    assert type(mg.grad(lambda x: x * x)(3.0)) is np.ndarray
    assert mg.grad(lambda x: x * x)(np.float64(3.0)) == 6.0
    assert mg.grad(lambda x: x * x)(np.float32(3.0)).dtype == np.float32
    g = mg.grad(lambda pair: pair[0] * pair[1])([3.0, 4.0])  # a list is a tree of two numbers
    assert g == [4.0, 3.0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_gradients_have_the_dtype_of_their_input(dtype):
    x = np.array([0.5, 1.0], dtype)
    f = lambda x: (mg.tanh(x * 2 + 1.0) / 3).sum()  # noqa: E731
    value, g = mg.value_and_grad(f)(x)
    assert (value.dtype, g.dtype) == (dtype, dtype)
    assert mg.jvp(f, (x,), (np.ones(2),))[1].dtype == dtype
    assert mg.hvp(f, (x,), (np.ones(2),))[0].dtype == dtype
    assert mg.jacobian(f)(x).dtype == dtype
    assert mg.grad(mg.checkpoint(f))(x).dtype == dtype
    mixed = mg.grad(lambda x, w: (x * w).sum(), argnums=(0, 1))(x, np.ones(2, "float64"))
    assert (mixed[0].dtype, mixed[1].dtype) == (dtype, "float64")


@pytest.mark.parametrize("bad", [2, True, np.array([1, 2]), np.array([True]), mg.tensor([1, 2]), np.int8(3)])
def test_only_floating_arguments_have_derivatives(bad):
    for call in (
        lambda x: mg.grad(lambda t: t["a"][1].sum())({"a": [0.0, x]}),
        lambda x: mg.vjp(lambda t: t["a"][1] * 1.0, {"a": [0.0, x]}),
        lambda x: mg.jvp(lambda t: t["a"][1] * 1.0, ({"a": [0.0, x]},), ({"a": [0.0, x]},)),
    ):
        with pytest.raises(TypeError, match=r"argument 0\['a'\]\[1\].*(int|bool).*astype"):
            call(bad)


def test_a_function_of_integers_and_one_of_nothing_are_refused():
    with pytest.raises(TypeError, match="int"):
        mg.grad(lambda x: (x > 0).sum())(np.ones(2))
    with pytest.raises((TypeError, ValueError), match="None"):
        mg.grad(lambda x: None)(np.ones(2))


def test_grad_needs_one_number():
    with pytest.raises(ValueError, match=r"one number.*\(2,\).*vjp or jacobian"):
        mg.grad(lambda x: x)(np.ones(2))
    with pytest.raises(ValueError, match="one number"):
        mg.grad(lambda x: (x, x))(1.0)
    assert mg.grad(lambda x: x.reshape(1, 1))(2.0) == 1.0


BY_ARGNUMS = {
    "grad": lambda f, argnums: mg.grad(f, argnums),
    "value_and_grad": lambda f, argnums: lambda *args: mg.value_and_grad(f, argnums)(*args)[1],
    "jacobian": lambda f, argnums: mg.jacobian(f, argnums),
    "jacobian, forward": lambda f, argnums: mg.jacobian(f, argnums, mode="forward"),
}


@pytest.mark.parametrize("by", BY_ARGNUMS.values(), ids=BY_ARGNUMS)
def test_any_sequence_of_argnums_is_a_tuple(by):
    f = lambda x, y: x * x * y  # noqa: E731
    for argnums in ((0, 1), [0, 1], range(2), [np.int64(0), 1]):
        assert by(f, argnums)(3.0, 5.0) == (30.0, 9.0)
    assert by(f, [1])(3.0, 5.0) == (9.0,)
    assert by(f, np.int64(1))(3.0, 5.0) == 9.0


@pytest.mark.parametrize("by", BY_ARGNUMS.values(), ids=BY_ARGNUMS)
def test_wrong_argnums_are_refused(by):
    f = lambda x, y: x * x * y  # noqa: E731
    for bad in ("x", 1.0, (0, 1.0), ["x"], True, None, {0, 1}, [[0]], np.array([0, 1])):
        with pytest.raises(TypeError, match="argnums is the number of an argument, or a tuple of such numbers, got"):
            by(f, bad)(1.0, 2.0)
    for twice in ((0, 0), [1, 0, 1]):
        with pytest.raises(ValueError, match="twice"):
            by(f, twice)(1.0, 2.0)
    for beyond in (2, -1, [0, 5]):
        with pytest.raises(ValueError, match=r"argnums names argument (2|-1|5), but 2 positional"):
            by(f, beyond)(1.0, 2.0)


def test_cotangents_and_tangents_are_checked():
    _, pull = mg.vjp(lambda x: {"a": x * 2}, np.ones(3))
    for bad in (np.ones(3), {"b": np.ones(3)}, {"a": (np.ones(3),)}, None):
        with pytest.raises(ValueError, match="structure"):
            pull(bad)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        pull({"a": np.ones(2)})
    with pytest.raises(ValueError, match=r"\(3,\)"):
        pull({"a": 1.0})
    for bad in ((np.ones(3), 1.0), (), ((np.ones(3),),)):
        with pytest.raises(ValueError, match="structure|tangents"):
            mg.jvp(lambda x: x * 2, (np.ones(3),), bad)
    with pytest.raises(ValueError, match=r"\(3,\).*\(\)"):
        mg.jvp(lambda x: x * 2, (np.ones(3),), (1.0,))
    with pytest.raises(ValueError, match="shape"):
        mg.grad(lambda t: mg.jvp(lambda x: x * x, (np.ones(3),), (t,))[1].sum())(2.0)
    with pytest.raises(ValueError, match="shape"):
        mg.grad(lambda t: mg.vjp(lambda x: x * x, np.ones(3))[1](t)[0].sum())(2.0)
    with pytest.raises(ValueError, match=r"the cotangent of the result\['a'\] needs the shape \(3,\), got \(2,\)"):
        pull({"a": np.ones(2)})


ALONG = {"jvp": mg.jvp, "hvp": mg.hvp}


@pytest.mark.parametrize("along", ALONG.values(), ids=ALONG)
def test_a_wrong_tangent_is_named(along):
    f = lambda x, t: (x * t["w"][0] ** 2).sum()  # noqa: E731
    args = np.ones(2), {"w": [np.ones(2, "float32")]}

    def tangents(w):
        return np.ones(2), {"w": [w]}

    where = r"the tangent of argument 1\['w'\]\[0\] needs the "
    with pytest.raises(ValueError, match=where + r"shape \(2,\), got \(3,\); give one number for each element"):
        along(f, args, tangents(np.ones(3)))
    with pytest.raises(ValueError, match=where + r"shape \(2,\), got \(\)"):
        along(f, args, tangents(1.0))
    with pytest.raises(TypeError, match=where + "dtype float32, got complex128; give it in float32"):
        along(f, args, tangents(np.ones(2) * 1j))
    with pytest.raises(TypeError, match=where + "dtype float32, got float64; give it in float32"):
        mg.grad(lambda t: mg.tree.flatten(along(f, args, tangents(t)))[0][0].sum())(np.ones(2))
    with pytest.raises(TypeError, match=r"the tangent of argument 1\['w'\]\[0\]: .*got str"):
        along(f, args, tangents("a"))
    with pytest.raises(ValueError, match=r"the tangent of argument 1 needs the structure \{'w': \[\*\]\}, got \*"):
        along(f, args, (np.ones(2), np.ones(2)))
    for count, some in ((1, args[:1]), (3, (*args, 1.0)), (0, ())):
        with pytest.raises(ValueError, match=f"tangents has one tangent for each argument, got {count} for 2; give"):
            along(f, args, some)
    along(f, args, tangents(np.ones(2)))  # a constant takes the dtype


@pytest.mark.parametrize("along", ALONG.values(), ids=ALONG)
def test_what_is_no_tuple_of_arguments_is_refused(along):
    x = np.ones(2)
    total = lambda x: mg.tanh(x).sum()  # noqa: E731
    alone = {
        r"an array of shape \(2,\)": x,
        r"an array of shape \(1,\)": mg.tensor([1.0]),
        "a float": 1.0,
        "a dict": {"x": x},
    }
    for got, bad in alone.items():
        with pytest.raises(TypeError, match=rf"^args is a tuple of arguments, got {got}: write \(x,\)$"):
            along(total, bad, bad)
        with pytest.raises(TypeError, match=rf"^tangents is a tuple of tangents, got {got}: write \(t,\)$"):
            along(total, (x,), bad)
    expected, got = along(total, (x,), (x,)), along(total, [x], [x])  # a list will do
    assert [np.array_equal(a, b) for a, b in zip(expected, got, strict=True)] == [True] * len(expected)


# ---- nested --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", PAIRS)
def test_nested_derivatives_keep_their_variables_apart(modes):
    d, e = (MODES[mode] for mode in modes)
    assert d(lambda x: x * e(lambda y: x + y)(1.0))(5.0) == 1.0
    assert d(lambda x: x * e(lambda y: x * y)(3.0))(5.0) == 10.0
    assert d(lambda x: e(lambda y: x * y * y)(x))(5.0) == 20.0  # the inner point is the outer variable
    assert d(lambda x: x * e(lambda y: x)(2.0))(5.0) == 0.0  # the inner function ignores its variable
    assert d(lambda x: x * e(lambda y: y)(2.0))(5.0) == 1.0  # and here the outer one
    assert d(lambda x: e(lambda y: x * x)(2.0) + x)(5.0) == 1.0
    assert d(e(lambda x: x**3))(5.0) == 30.0
    assert d(lambda x: e(lambda x: x**3)(x) * x)(2.0) == 9 * 4  # the same name, two variables
    assert d(lambda x: e(lambda y: mg.stop_gradient(x) * x * y)(1.0))(5.0) == 5.0
    assert d(lambda x: mg.stop_gradient(e(lambda y: x * y)(1.0)) * x)(5.0) == 5.0


@pytest.mark.parametrize("modes", TRIPLES)
def test_three_levels(modes):
    d, e, f = (MODES[mode] for mode in modes)
    assert d(e(f(lambda x: x**4)))(2.0) == 48.0
    assert d(lambda x: x * e(lambda y: y * f(lambda z: x * y * z)(1.0))(2.0))(3.0) == 24.0  # d/dx 4 x^2
    assert d(lambda x: x * e(lambda y: x * f(lambda z: x + y + z)(1.0) + y)(2.0))(3.0) == 1.0
    sixth = d(lambda x: e(lambda y: f(lambda z: mg.exp(x * y * z))(y))(x))(0.5)  # d/dx [d/dy x y e^(x y y)]_{y=x}
    x = 0.5  # e^(x y^2) (x + 2 x^2 y^2) at y = x is e^(x^3) (x + 2 x^4)
    assert sixth == pytest.approx(np.exp(x**3) * (1 + 8 * x**3 + 3 * x**2 * (x + 2 * x**4)), rel=1e-14)


def test_derivatives_of_closures_over_loops():
    """A derivative inside a loop over the outer variable's functions, as in unrolled optimisation."""

    def trained(rate):
        w = 3.0
        for _ in range(3):
            w = w - rate * mg.grad(lambda w: w * w)(w)
        return w * w  # 9 (1 - 2 rate)^6

    for d in MODES.values():
        assert d(trained)(0.25) == pytest.approx(9 * 6 * 0.5**5 * -2, rel=1e-15)


@pytest.mark.parametrize("modes", [pair for pair in PAIRS if pair != "FF"])
def test_second_derivatives_in_every_mixture(modes):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 3)), rng.standard_normal((3, 2))
    v = [rng.standard_normal((2, 3)), rng.standard_normal((3, 2))]

    def f(x, w):
        y = mg.softmax(mg.tanh(x @ w), axis=1)
        return (y * mg.log(y)).sum() + mg.norm(mg.concatenate([x, w.T]))

    ours = second(modes, f, (x, w), v)
    H = [[mg.jacobian(lambda b, i=i, j=j: mg.grad(f, argnums=i)(*((b, w) if j == 0 else (x, b))))((x, w)[j])
          for j in range(2)] for i in range(2)]  # fmt: skip
    for i in range(2):
        expected = sum(np.tensordot(H[i][j], v[j], axes=2) for j in range(2))
        np.testing.assert_allclose(ours[i], expected, rtol=1e-11, atol=1e-13)
    number = second("FF", f, (x, w), v)
    assert number == pytest.approx(sum(float((a * b).sum()) for a, b in zip(ours, v, strict=True)), rel=1e-12)


def test_a_pull_inside_grad():
    x = np.array([0.5, -1.0])

    def f(x):
        out, pull = mg.vjp(lambda y: y**3 * x, x)  # pull(g) = 3 y^2 x g
        return (pull(out)[0]).sum()  # at y = x: 3 x^2 * x * x^4

    np.testing.assert_allclose(mg.grad(f)(x), 21 * x**6, rtol=1e-14)


def test_a_pull_from_outside_is_linear_in_its_cotangent():
    x = np.array([0.5, -1.0])
    _, pull = mg.vjp(lambda x: x**3, x)
    J = mg.jacobian(lambda g: pull(g)[0])(np.array([7.0, 8.0]))
    np.testing.assert_array_equal(np.asarray(mg.stop_gradient(J)), np.diag(3 * x**2))
    _, t = mg.jvp(lambda g: pull(g)[0], (np.ones(2),), (np.array([1.0, 10.0]),))
    np.testing.assert_array_equal(np.asarray(mg.stop_gradient(t)), 3 * x**2 * [1.0, 10.0])


def test_jvp_of_vjp_of_jvp():
    f = lambda x: mg.sin(x) * x  # noqa: E731

    def through(x):
        _, pull = mg.vjp(lambda y: mg.jvp(f, (y,), (1.0,))[1], x)
        return pull(1.0)[0]  # f''

    third = mg.jvp(through, (0.7,), (1.0,))[1]
    assert third == pytest.approx(-3 * np.sin(0.7) - 0.7 * np.cos(0.7), rel=1e-14)


def test_a_gradient_penalty_on_a_captured_leaf():
    """The classic: the norm of a gradient by the input, differentiated by the weights, with backward()."""
    rng = np.random.default_rng(4)
    w = mg.tensor(rng.standard_normal(3), requires_grad=True)
    x = rng.standard_normal(3)
    g = mg.grad(lambda x: mg.tanh((x * w).sum()))(x)  # (1 - tanh^2) w
    (g * g).sum().backward()
    s = float(x @ w.data)
    slope = 1 - np.tanh(s) ** 2
    expected = 2 * slope**2 * w.data + w.data @ w.data * 2 * slope * (-2 * np.tanh(s) * slope) * x
    np.testing.assert_allclose(w.grad, expected, rtol=1e-13)


def test_grad_by_a_leaf_that_is_captured_and_given():
    w = mg.tensor([2.0, 3.0], requires_grad=True)
    g = mg.grad(lambda v: (v * v * w).sum())(w)  # 2 v w at v = w: 2 w^2
    assert g.data.tolist() == [8.0, 18.0]
    assert w.grad is None
    g.backward([1.0, 1.0])
    assert w.grad.tolist() == [8.0, 12.0]


def test_the_gradient_by_a_computed_tensor_reaches_what_computed_it():
    w = mg.tensor(3.0, requires_grad=True)
    y = w * w
    value, g = mg.value_and_grad(lambda y: y**3)(y)  # value w^6, g 3 w^4
    (value + g).backward()
    assert w.grad == 6 * 3**5 + 12 * 3**3


def test_backward_inside_a_traced_function_leaves_the_trace_alone():
    w = mg.tensor(2.0, requires_grad=True)

    def f(x):
        (w * w).backward()
        return x * 3

    assert mg.grad(f)(1.0) == 3.0
    assert w.grad == 4.0


def test_a_trace_fills_no_grad():
    w = mg.tensor(2.0, requires_grad=True)
    mg.grad(lambda v: v * v * w)(w)
    mg.jvp(lambda v: v * v * w, (w,), (1.0,))
    mg.hvp(lambda v: v * v * w, (w,), (1.0,))
    assert w.grad is None


def test_no_grad_inside_a_trace_cuts():
    def f(x):
        with mg.no_grad():
            y = x * x
        return x * y

    assert mg.grad(f)(3.0) == 9.0
    assert mg.grad(lambda x: mg.grad(f)(x))(3.0) == 0.0
    for d in MODES.values():
        assert d(f)(3.0) == 9.0


# ---- nothing is lost silently --------------------------------------------------------------------------------------


LOSSES = {
    "asarray": lambda x: mg.asarray(np.asarray(x)),
    "array": lambda x: mg.asarray(np.array(x)),
    "float": lambda x: mg.asarray(float(x.sum())),
    "int": lambda x: mg.asarray(int(x.sum())),
    "item": lambda x: mg.asarray(x.sum().item()),
    "numpy": lambda x: mg.asarray(x.numpy()),
    "list": lambda x: mg.asarray([float(row) for row in x]),
    # a variable is a leaf, and a leaf may be copied, but not here
    "tensor": lambda x: mg.tensor(x),
    "asarray with dtype": lambda x: mg.asarray(x, "float32"),
    "to": lambda x: x.to("numpy"),
    "deepcopy": lambda x: __import__("copy").deepcopy(x),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("through", [lambda x: x, lambda x: x * 1.0], ids=["variable", "computed"])
def test_leaving_the_tape_inside_a_trace_is_an_error(name, through):
    with pytest.raises((TypeError, RuntimeError), match="gradient|detach"):
        mg.grad(lambda x: (LOSSES[name](through(x)) ** 2).sum())(np.array([1.0, 2.0]))


def test_a_value_that_is_meant_to_leave_may():
    def f(x):
        assert float(mg.stop_gradient(x)) == 3.0
        assert x.detach().numpy() == 3.0
        assert float(x.data) == 3.0
        if x > 2:  # a choice by value is Python, and each call makes its own trace
            return x * x
        return x

    assert mg.grad(f)(3.0) == 6.0


def test_complex_numbers_are_refused_where_a_gradient_would_be_lost():
    x = np.array([1.0, 2.0])
    for f in (lambda x: mg.abs(x * 1j).sum(), lambda x: mg.abs(mg.matmul(x, np.array([1j, 2]))).sum()):
        with pytest.raises(TypeError, match="complex"):
            mg.grad(f)(x)


def turned(x):
    return {"turned": x * 1j}


@pytest.mark.parametrize("along", ["grad", "jvp", "backward"])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: mg.checkpoint(turned)(x)["turned"],
        mg.checkpoint(lambda x: mg.matmul(mg.reshape(x, 1), np.array([1j]))),
        mg.custom_op(lambda x: x * 1j, vjp=lambda g, out, x: (g,), jvp=lambda ts, out, x: ts[0]),
    ],
    ids=["checkpoint of a tree", "checkpoint", "custom op"],
)
def test_complex_results_of_a_function_are_refused_where_a_gradient_would_be_lost(f, along):
    """They are no constants: |ia| has the derivative 1."""
    loss = lambda x: mg.abs(f(x)).sum()  # noqa: E731
    assert loss(2.0) == 2.0
    ways = {
        "grad": lambda: mg.grad(loss)(2.0),
        "jvp": lambda: mg.jvp(loss, (2.0,), (1.0,)),
        "backward": lambda: loss(mg.tensor(2.0, requires_grad=True)).backward(),
    }
    with pytest.raises(TypeError, match="complex"):
        ways[along]()


def test_complex_numbers_that_depend_on_nothing_pass_through_a_checkpoint():
    f = mg.checkpoint(lambda x: (x * x, np.array(2.0) * 1j))
    assert f(2.0)[1] == 2j
    x = mg.tensor(3.0, requires_grad=True)
    square, constant = f(x)
    square.backward()
    assert (x.grad, constant.data) == (6.0, 2j)


# ---- checkpoint ----------------------------------------------------------------------------------------------------


def two_layers(x, w):
    return mg.tanh(mg.tanh(x @ w) @ w).sum()


def test_checkpoint_is_plain():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((2, 3)), rng.standard_normal((3, 3))
    v = [rng.standard_normal((2, 3)), rng.standard_normal((3, 3))]
    kept = mg.checkpoint(two_layers)
    assert kept(x, w) == two_layers(x, w)
    for a, b in zip(mg.grad(kept, argnums=(0, 1))(x, w), mg.grad(two_layers, argnums=(0, 1))(x, w), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    assert mg.jvp(kept, (x, w), v)[1] == pytest.approx(float(mg.jvp(two_layers, (x, w), v)[1]), rel=1e-14)
    for modes in PAIRS:
        ours, plain = second(modes, kept, (x, w), v), second(modes, two_layers, (x, w), v)
        for a, b in zip(mg.tree.flatten(ours)[0], mg.tree.flatten(plain)[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("modes", TRIPLES)
def test_checkpoint_at_order_three(modes):
    d, e, f = (MODES[mode] for mode in modes)
    assert d(e(f(mg.checkpoint(lambda x: x**2 * mg.checkpoint(lambda y: y * y)(x)))))(2.0) == 48.0
    assert d(lambda x: e(mg.checkpoint(lambda y: f(lambda z: x * y * y * z * z)(y)))(x))(2.0) == 18 * 4


def test_checkpoint_recomputes_and_remembers_only_its_inputs():
    calls = []

    def f(x):
        calls.append(None)
        return mg.tanh(mg.tanh(x))

    x = mg.tensor([0.5], requires_grad=True)
    y = mg.checkpoint(f)(x)
    assert len(calls) == 1
    (record,) = y.record.parents
    assert list(record.parents) == [x.record]
    y.backward()
    assert len(calls) == 2
    assert x.grad == mg.grad(f)(np.array([0.5]))
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


def test_checkpoint_with_closures():
    w, b = mg.tensor([2.0], requires_grad=True), mg.tensor([0.1])
    x = mg.tensor([0.5], requires_grad=True)
    middle = w * w  # captured, and computed
    y = mg.checkpoint(lambda x: mg.tanh(x * w * middle + b))(x)
    y.backward()
    plain_x, plain_w = mg.tensor([0.5], requires_grad=True), mg.tensor([2.0], requires_grad=True)
    mg.tanh(plain_x * plain_w * (plain_w * plain_w) + b).backward()
    np.testing.assert_allclose(x.grad, plain_x.grad, rtol=1e-15)
    np.testing.assert_allclose(w.grad, plain_w.grad, rtol=1e-15)


def test_checkpoint_of_constants_with_a_captured_leaf():
    w = mg.tensor([2.0], requires_grad=True)
    (mg.checkpoint(lambda x: x * w)(np.array([3.0])) + mg.checkpoint(lambda: w * 5)()).backward()
    assert w.grad.tolist() == [8.0]


def test_checkpoint_of_an_input_that_is_captured_too():
    w = mg.tensor([2.0], requires_grad=True)
    mg.checkpoint(lambda x: x * w)(w).backward()
    assert w.grad.tolist() == [4.0]


def test_a_checkpoint_over_the_variables_of_outer_transforms():
    def f(x):
        return mg.grad(lambda y: mg.checkpoint(lambda a: a * a * x * y)(y))(3.0)  # d/dy x y^3 = 3 x y^2

    assert mg.grad(f)(2.0) == 27.0
    assert mg.grad(lambda x: mg.grad(f)(x) * x)(2.0) == 27.0


def test_checkpoint_passes_trees_and_other_arguments_through():
    def f(params, index, mode, flag):
        assert (index, mode, flag) == (1, "sum", None)
        return {"out": params["W"][index] * 2, "pair": (params["W"].sum(), 7)}

    out = mg.checkpoint(f)({"W": mg.tensor([1.0, 2.0], requires_grad=True)}, 1, "sum", None)
    assert out["out"].data == 4.0
    assert out["pair"][0].data == 3.0
    W = np.array([1.0, 2.0])
    g = mg.grad(lambda W: (lambda o: o["out"] * o["pair"][0])(mg.checkpoint(f)({"W": W}, 1, "sum", None)))(W)
    assert g.tolist() == [4.0, 4.0 + 6.0]


def test_one_output_of_several_is_used():
    f = mg.checkpoint(lambda x: (x * 2, mg.tanh(x), x * x))
    assert mg.grad(lambda x: f(x)[2])(3.0) == 6.0
    assert mg.grad(lambda x: f(x)[2] + f(x)[0])(3.0) == 8.0
    for modes in PAIRS:
        assert mg.tree.flatten(second(modes, lambda x: f(x)[2], (3.0,), (1.0,)))[0] == [2.0]


def test_checkpoint_draws_the_same_random_numbers_again():
    def f(x):
        return (x * random.normal(3, seed=1) * random.bernoulli(3, seed=2)).sum()

    x = np.array([1.0, 2.0, 3.0])
    for step in range(3):
        with random.steps() as enter:
            enter(step)
            plain = mg.value_and_grad(f)(x)
        with random.steps() as enter:
            enter(step)
            kept = mg.value_and_grad(mg.checkpoint(f))(x)
        np.testing.assert_array_equal(plain[0], kept[0])
        np.testing.assert_array_equal(plain[1], kept[1])


def test_rebinding_a_captured_tensor_is_noticed():
    w = mg.tensor([2.0], requires_grad=True)
    x = mg.tensor([3.0], requires_grad=True)
    y = mg.checkpoint(lambda x: x * x * w)(x)
    w.data = np.array([100.0])
    with pytest.raises(RuntimeError, match="new .data between forward and backward"):
        y.backward()
    assert x.grad is None
    assert w.grad is None


def test_rebinding_an_argument_does_not_matter():
    x = mg.tensor([3.0], requires_grad=True)
    y = mg.checkpoint(lambda x: x * x)(x)
    x.data = np.array([100.0])
    y.backward()
    assert x.grad.tolist() == [6.0]


def test_an_impure_checkpoint_is_noticed():
    ws = [mg.tensor([1.0], requires_grad=True), mg.tensor([2.0], requires_grad=True)]
    calls = itertools.count()
    y = mg.checkpoint(lambda x: x * ws[next(calls)])(mg.tensor([3.0], requires_grad=True))
    with pytest.raises(RuntimeError, match="pure"):
        y.backward()


IMPURE = {
    "a number of its closure": lambda x, box, rng: x * box["k"],
    "an array that it reads itself": lambda x, box, rng: x * (box["array"] * 2),
    "a generator": lambda x, box, rng: x * rng.random(),
    "an integer": lambda x, box, rng: (x * 1.0, np.array(box["k"])),
    "beside nothing": lambda x, box, rng: (x * box["k"], x[:0]),
    "a constant": lambda x, box, rng: (x * 1.0, np.array([1.0, box["k"]])),
    "NaN": lambda x, box, rng: x * (0.0 if box["k"] == 1 else float("nan")),
    "in float32": lambda x, box, rng: x.astype("float32") * (1.0 + 1e-5 * box["k"]),
    "a small change": lambda x, box, rng: x * (1.0 + 1e-13 * box["k"]),
}


@pytest.mark.parametrize("backend", ["numpy", "strict"])
@pytest.mark.parametrize("name", IMPURE)
def test_other_numbers_in_the_second_run_are_noticed(name, backend):
    with mg.use_backend(backend):
        box = {"k": 1, "array": mg.asarray([1.0, 2.0]).data}
        rng = np.random.default_rng(0)
        f = mg.checkpoint(lambda x: {"out": IMPURE[name](x, box, rng)})
        x = mg.tensor([2.0, 3.0], requires_grad=True)
        out = f(x)["out"]
        total = (out[0] if isinstance(out, tuple) else out).sum()
        box["k"], box["array"] = 100, box["array"] * 5
        with pytest.raises(RuntimeError, match=r"other numbers when it ran again, in result\['out'\].*must be pure"):
            total.backward()
        assert x.grad is None


@pytest.mark.parametrize("modes", [*MODES, *PAIRS])
def test_other_numbers_are_noticed_in_every_mode(modes):
    draws = itertools.count(1)
    f = mg.checkpoint(lambda x: x * x * next(draws))
    with pytest.raises(RuntimeError, match="other numbers"):
        functools.reduce(lambda f, mode: MODES[mode](f), modes, f)(2.0)


def test_the_result_that_changed_is_named():
    draws = itertools.count()
    f = mg.checkpoint(lambda x: (x * x, {"a": x, "b": [x * 2, x * next(draws)]}))
    with pytest.raises(RuntimeError, match=r"in result\[1\]\['b'\]\[1\]:"):
        mg.grad(lambda x: f(x)[0])(2.0)


@pytest.mark.parametrize("shape", [(3,), (1, 2), ()])
def test_other_shapes_in_the_second_run_are_noticed(shape):
    shapes = iter([(2,), shape])
    f = mg.checkpoint(lambda x: x * np.ones(next(shapes)))
    with pytest.raises(RuntimeError, match="other shapes"):
        mg.grad(lambda x: f(x).sum())(2.0)


def test_an_array_that_a_checkpoint_uses_is_read_only_until_backward():
    """As without one. At x = 0 its results would not tell that the array has changed."""
    x, k = mg.tensor([0.0, 2.0], requires_grad=True), np.array([[3.0, 4.0], [5.0, 6.0]])
    row = k[0]
    y = mg.checkpoint(lambda x: mg.tanh(x * row) + x * mg.asarray(k)[1])(x)
    for array in (k, row):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 100.0
    y.backward(np.ones(2))
    assert x.grad[0] == 8.0
    del y
    k[0], row[0] = 1.0, 2.0
    assert k[0].tolist() == [2.0, 1.0]


def test_what_a_checkpointed_function_makes_itself_is_not_kept():
    made = []

    def f(x):
        noise = np.arange(2.0)
        made.append(weakref.ref(noise))
        return x * noise + x[:1] * noise[1:]

    y = mg.checkpoint(f)(mg.tensor([1.0, 2.0], requires_grad=True))
    assert made[0]() is None
    y.backward(np.ones(2))


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150])
def test_another_order_of_a_sum_is_no_other_number(monkeypatch, scale):
    """Not every library adds up in one order twice, and a gradient does not need it."""
    values = np.random.default_rng(0).standard_normal((100, 8)) * scale

    def gradient():
        orders = iter([values, values[::-1]])

        def f(x):
            total = x * 0.0
            for part in next(orders):
                total = total + (part * x).sum()
            return mg.stack([total, x * np.inf, x * np.nan, x * 0.0])

        return mg.grad(lambda x: mg.checkpoint(f)(x)[0])(1.0)

    assert gradient() == pytest.approx(values.sum(), rel=1e-12)
    monkeypatch.setattr(transforms, "ROUNDINGS", 0)
    with pytest.raises(RuntimeError, match="other numbers"):
        gradient()


def test_comparing_the_runs_of_a_checkpoint_waits_for_the_device_once():
    with mg.use_backend("strict"):
        x = mg.tensor([1.0, 2.0], requires_grad=True)
        with fake_cupy.count_syncs() as plain:
            (mg.tanh(x) * x).backward(mg.ones(2))
        y = mg.checkpoint(lambda x: (mg.tanh(x) * x, x * x))(x)[0]
        with fake_cupy.expect_syncs(len(plain) + 2):  # the comparison, and the walk inside looks for NaN
            y.backward(mg.ones(2))


def test_a_checkpoint_in_a_traced_body_has_no_numbers_to_compare():
    f = mg.checkpoint(lambda h, x: mg.tanh(h * x))

    def last(x, unroll):
        return mg.scan(f, x, mg.tensor(0.5), unroll=unroll)[-1]

    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        mg.grad(lambda x: last(x, False))(x), mg.grad(lambda x: last(x, True))(x), rtol=1e-14
    )  # fmt: skip


def test_checkpoint_without_anything_to_differentiate():
    f = mg.checkpoint(lambda x: x * 2)
    assert type(f(np.ones(2))) is np.ndarray
    assert f(mg.tensor([1.0])).record is None
    with mg.no_grad():
        assert f(mg.tensor([1.0], requires_grad=True)).record is None


def test_a_number_is_weak_inside_a_checkpoint_too():
    x = mg.tensor([1.0, 2.0], dtype="float32", requires_grad=True)
    f = lambda x, scale: x * scale  # noqa: E731
    assert f(x, 0.5).dtype == np.float32
    assert mg.checkpoint(f)(x, 0.5).dtype == np.float32


def test_checkpoint_takes_keywords():
    f = lambda x, *, scale: x * scale  # noqa: E731
    assert mg.grad(lambda x: mg.checkpoint(f)(x, scale=3.0))(1.0) == 3.0


# ---- custom ops ----------------------------------------------------------------------------------------------------


def test_a_custom_op_has_every_order_and_mode():
    @mg.custom_op(
        vjp=lambda g, out, x, y: (g * y, g * x),
        jvp=lambda ts, out, x, y: ts[0] * y + x * ts[1],
    )
    def times(x, y):
        """The product."""
        return x * y

    assert times.__name__ == "times"
    assert times.__doc__ == "The product."
    assert type(times(2.0, 3.0)) is np.ndarray
    for a, b, c in TRIPLES:
        assert MODES[a](MODES[b](MODES[c](lambda x: times(times(x, x), times(x, x)))))(2.0) == 48.0
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    times(x, np.array([3.0, 4.0])).backward([1.0, 1.0])
    assert x.grad.tolist() == [3.0, 4.0]


def test_a_custom_op_with_static_arguments_and_an_input_without_derivative():
    pick = mg.custom_op(
        lambda x, i, *, scale: x[i] * scale,
        vjp=lambda g, out, x, i, *, scale: (mg.one_hot(i, 3, "float64").T @ g * scale, None),
    )
    x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    pick(x, np.array([0, 0, 2]), scale=10.0).backward([1.0, 1.0, 1.0])
    assert x.grad.tolist() == [20.0, 0.0, 10.0]


def custom(gradient, forward=lambda x: x * 2.0):
    def rule(g, out, x):
        return gradient(g)

    return mg.custom_op(forward, vjp=rule)


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (lambda g: (), ValueError, "0 gradients for 1"),
        (lambda g: (g, g), ValueError, "2 gradients for 1"),
        (lambda g: (None,), ValueError, "None"),
        (lambda g: g[:1], ValueError, r"\(1,\).*\(2,\)"),
        (lambda g: g.sum(), ValueError, r"\(\).*\(2,\)"),
        (lambda g: 1.0, ValueError, r"\(2,\)"),
        (lambda g: g.astype("float32"), TypeError, "float32.*float64"),
    ],
)
def test_a_wrong_custom_rule_is_named(gradient, error, message):
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(error, match=message):
        custom(gradient)(x).backward([1.0, 1.0])
    assert x.grad is None


def test_a_custom_op_without_jvp_says_so_in_forward_mode():
    with pytest.raises(TypeError, match="forward mode.*jvp"):
        mg.jvp(custom(lambda g: g * 2), (1.0,), (1.0,))


def test_a_constant_tensor_in_a_custom_rule_leaves_the_gradient_an_array():
    scale = mg.tensor([2.0, 2.0])
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    custom(lambda g: g * scale)(x).backward([1.0, 1.0])
    assert type(x.grad) is np.ndarray


# ---- stop_gradient -------------------------------------------------------------------------------------------------


def test_stop_gradient_of_trees_and_arrays():
    x = mg.tensor([1.0], requires_grad=True)
    stopped = mg.stop_gradient({"a": x * 2, "b": [np.ones(2), 3.0]})
    assert stopped["a"].record is None
    assert stopped["a"].data == 2.0
    assert type(stopped["b"][0]) is np.ndarray
    assert stopped["b"][1] == 3.0


@pytest.mark.parametrize("modes", PAIRS)
def test_stop_gradient_at_order_two(modes):
    d, e = (MODES[mode] for mode in modes)
    assert d(e(lambda x: x * x * mg.stop_gradient(x)))(3.0) == 6.0
    assert d(lambda x: mg.stop_gradient(e(lambda y: y**3)(x)) * x)(2.0) == 12.0


def test_straight_through():
    """Forward one function, backward another: the usual use of stop_gradient."""
    x = np.array([0.2, 0.8])
    value, g = mg.value_and_grad(lambda x: (x + mg.stop_gradient((x > 0.5).astype("float64") - x)).sum())(x)
    assert value == 1.0
    assert g.tolist() == [1.0, 1.0]


# ---- a masked branch cannot poison a gradient ----------------------------------------------------------------------

SINGULAR = {
    "sqrt": (mg.sqrt, lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5),
    "log": (mg.log, lambda x: 1 / x, lambda x: -(x**-2)),
    "divide": (lambda x: 3.0 / x, lambda x: -3 * x**-2, lambda x: 6 * x**-3),
    "divide by a product": (lambda x: x / (x * x), lambda x: -(x**-2), lambda x: 2 * x**-3),
    "power": (lambda x: x**0.5, lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5),
    "power, array exponent": (
        lambda x: mg.power(x, np.full(x.shape, -1.0)),
        lambda x: -(x**-2),
        lambda x: 2 * x**-3,
    ),
    "x log x": (lambda x: x * mg.log(x), lambda x: np.log(x) + 1, lambda x: 1 / x),
    "singular at order two only": (lambda x: x**1.5, lambda x: 1.5 * x**0.5, lambda x: 0.75 * x**-0.5),
    "tanh of log": (
        lambda x: mg.tanh(mg.log(x)),
        lambda x: 4 * x / (x * x + 1) ** 2,
        lambda x: 4 / (x * x + 1) ** 2 - 16 * x * x / (x * x + 1) ** 3,
    ),
    "norm": (lambda x: mg.norm(mg.stack([x, x * 0.0]), axis=0), lambda x: 1 + 0 * x, lambda x: 0 * x),
    "infinite factor": (
        lambda x: x * np.where(np.asarray(mg.stop_gradient(x)) > 0, 2.0, np.inf),
        lambda x: 2 + 0 * x,
        lambda x: 0 * x,
    ),
}


@pytest.fixture
def quiet():
    """The masked branch is computed, and NumPy says so."""
    with np.errstate(all="ignore"):
        yield


def masked(singular):
    """Only the result is chosen, so the singular branch runs at 0 too."""
    return lambda x: mg.where(mg.stop_gradient(x) > 0, singular(x), 0.0)


def masked_twice(singular):
    """The argument is chosen too, so a NaN in the middle of the walk may be dropped before it ends."""

    def f(x):
        positive = mg.stop_gradient(x) > 0
        return mg.where(positive, singular(mg.where(positive, x, 0.0)), 0.0)

    return f


@pytest.mark.parametrize("mask", [masked, masked_twice])
@pytest.mark.parametrize("name", SINGULAR)
def test_a_masked_branch_at_order_one(name, mask, quiet):
    singular, first, _ = SINGULAR[name]
    x = np.array([0.0, 2.0, 0.0, 0.5])
    expected = np.array([0.0, first(2.0), 0.0, first(0.5)])
    f = mask(singular)
    np.testing.assert_allclose(mg.grad(lambda x: f(x).sum())(x), expected, rtol=1e-14)
    np.testing.assert_allclose(mg.jvp(f, (x,), (np.ones(4),))[1], expected, rtol=1e-14)
    leaf = mg.tensor(x, requires_grad=True)
    f(leaf).sum().backward()
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-14)
    np.testing.assert_allclose(mg.grad(lambda x: mg.checkpoint(f)(x).sum())(x), expected, rtol=1e-14)
    with mg.Tape():
        again = mg.tensor(x, requires_grad=True)
        f(again).sum().backward()
    np.testing.assert_allclose(again.grad, expected, rtol=1e-14)


@pytest.mark.parametrize("modes", PAIRS)
@pytest.mark.parametrize("mask", [masked, masked_twice])
@pytest.mark.parametrize("name", SINGULAR)
def test_a_masked_branch_at_order_two(name, mask, modes, quiet):
    singular, _, twice = SINGULAR[name]
    x, v = np.array([0.0, 2.0, 0.0, 0.5]), np.array([1.0, -1.0, 3.0, 2.0])
    expected = v * np.array([0.0, twice(2.0), 0.0, twice(0.5)])
    f = mask(singular)
    ours = second(modes, lambda x: f(x).sum(), (x,), (v,))
    if modes == "FF":
        assert ours == pytest.approx(float((expected * v).sum()), rel=1e-13)
    else:
        np.testing.assert_allclose(ours[0], expected, rtol=1e-13)


@pytest.mark.parametrize("modes", TRIPLES)
def test_a_masked_branch_stays_masked_at_order_three(modes, quiet):
    d, e, f = (MODES[mode] for mode in modes)
    assert d(e(f(masked(mg.sqrt))))(0.0) == 0.0
    assert d(e(f(masked(mg.sqrt))))(1.0) == pytest.approx(0.375, rel=1e-14)


def test_what_is_not_masked_stays_nan(quiet):
    x = np.array([0.0, -1.0, 4.0])
    g = mg.grad(lambda x: mg.sqrt(x).sum())(x)
    assert g[0] == np.inf
    assert np.isnan(g[1])
    assert g[2] == 0.25
    assert np.isnan(mg.grad(lambda x: (mg.sqrt(x) * x * np.inf).sum())(x)[:2]).all()
    x = mg.tensor([np.nan, 1.0], requires_grad=True)
    (x * x).sum().backward()
    assert np.isnan(x.grad[0])
    assert x.grad[1] == 2.0
    assert np.isnan(mg.jvp(lambda x: mg.sqrt(x), (-1.0,), (1.0,))[1])


def test_one_nan_does_not_change_the_other_gradients(quiet):
    """A walk that ends in NaN is walked again with care: where nothing is 0 times infinite, to the same numbers."""
    rng = np.random.default_rng(6)
    x = np.abs(rng.standard_normal(6))
    w = rng.standard_normal((6, 6))

    def f(x):
        return (mg.tanh(mg.sqrt(x) * w).sum(axis=0) * mg.log(x)).sum()

    clean = mg.grad(lambda x: f(x))(x)
    both = mg.grad(lambda x, y: f(x) + mg.sqrt(y), argnums=(0, 1))(x, -1.0)
    assert np.isnan(both[1])
    np.testing.assert_allclose(both[0], clean, rtol=1e-15)


@pytest.mark.parametrize("modes", PAIRS)
@pytest.mark.parametrize("poison", [False, True], ids=["clean", "careful"])
def test_a_factor_that_happens_to_be_zero_is_not_a_mask(modes, poison, quiet):
    """d2/dc dx of c log x is 1 / x, also where c is 0; the careful walk, which a NaN elsewhere starts, knows it too."""

    def f(c, x):
        loss = c * mg.log(x)
        return loss + mg.where(np.array(False), mg.sqrt(x - 4.0) * mg.sqrt(c), 0.0) if poison else loss

    outer, inner = modes
    by_c = {
        "R": lambda x: mg.grad(f)(0.0, x),
        "F": lambda x: mg.jvp(lambda c: f(c, x), (0.0,), (1.0,))[1],
    }[inner]
    assert MODES[outer](by_c)(4.0) == 0.25
    by_x = {
        "R": lambda c: mg.grad(f, argnums=1)(c, 4.0),
        "F": lambda c: mg.jvp(lambda x: f(c, x), (4.0,), (1.0,))[1],
    }[inner]
    assert MODES[outer](by_x)(0.0) == 0.25


@pytest.mark.parametrize("modes", PAIRS)
def test_a_product_at_zero_keeps_its_mixed_derivative(modes):
    a, b = (MODES[mode] for mode in modes)
    assert a(lambda x: b(lambda y: x * y)(0.0))(0.0) == 1.0
    assert a(lambda x: b(lambda y: x / (y + 1))(0.0))(0.0) == -1.0
    assert a(lambda x: b(lambda y: mg.prod(mg.stack([x, y, 3.0 + 0 * x])))(0.0))(0.0) == 3.0


def test_the_second_derivatives_of_a_power_at_exponent_zero():
    H = mg.jacobian(mg.grad(lambda p: p[0] ** p[1]))(np.array([2.0, 0.0]))
    log = np.log(2.0)
    np.testing.assert_allclose(H, [[0.0, 0.5], [0.5, log * log]], rtol=1e-15)


def test_an_infinite_padding_does_not_reach_a_gradient(quiet):
    """What stands behind a mask may be anything: the gradients are bitwise those with zeros there."""
    rng = np.random.default_rng(7)
    x, mask = rng.standard_normal((3, 2)), np.array([[True], [True], [False]])
    w = rng.standard_normal(2)

    def loss(x, w):
        return mg.where(mask, mg.log(x * x) * w / x, 0.0).sum()

    clean = x.copy()
    clean[2] = 1.0
    expected = mg.grad(loss, argnums=(0, 1))(clean, w)
    for bad in (0.0, np.inf, np.nan, -np.inf):
        poisoned = x.copy()
        poisoned[2] = bad
        g = mg.grad(loss, argnums=(0, 1))(poisoned, w)
        assert np.array_equal(g[0], expected[0])
        assert np.array_equal(g[1], expected[1])


@pytest.mark.parametrize(
    "product", [lambda x, w: x @ w, lambda x, w: mg.einsum("ij,jk->ik", x, w)], ids=["matmul", "einsum"]
)
def test_a_matrix_product_with_a_masked_infinite_row(product, quiet):
    mask = np.array([[True], [False]])
    x, w = np.array([[1.0, 2.0], [np.inf, np.nan]]), np.ones((2, 2))
    g = mg.grad(lambda w: mg.where(mask, product(x, w), 0.0).sum())(w)
    assert g.tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_a_masked_maximum_of_nan(quiet):
    x = np.array([[1.0, 2.0], [np.nan, 1.0]])
    for extremum, row in ((mg.max, [0.0, 1.0]), (mg.min, [1.0, 0.0])):
        best = functools.partial(extremum, axis=1)
        f = functools.partial(lambda best, x: mg.where(np.array([True, False]), best(x), 0.0).sum(), best)
        assert mg.grad(f)(x).tolist() == [row, [0.0, 0.0]]


ELEMENTWISE = {
    "log": mg.log,
    "sqrt": mg.sqrt,
    "1 / x": lambda a: 1.0 / a,
    "x ** 0.5": lambda a: a**0.5,
    "x ** -1": lambda a: a**-1.0,
    "x ** 2": lambda a: a**2,
    "2 ** x": lambda a: 2.0**a,
    "exp": lambda a: mg.exp(-a),
    "tanh": mg.tanh,
    "log1p": mg.log1p,
    "abs": mg.abs,
    "softplus": mg.softplus,
    "norm": lambda a: mg.norm(mg.stack([a, a * 0.5]), axis=0),
    "logsumexp": lambda a: mg.logsumexp(mg.stack([a, a * 2]), axis=0),
    "softmax": lambda a: mg.softmax(mg.stack([a, -a]), axis=0)[0],
    "prod": lambda a: mg.prod(mg.stack([a, a + 1.0, a]), axis=0),
    "max": lambda a: mg.max(mg.stack([a, -a]), axis=0),
    "var": lambda a: mg.var(mg.stack([a, 2 * a]), axis=0),
    "checkpoint": mg.checkpoint(lambda a: mg.log(a) * a),
    "add": mg.add,
    "subtract": mg.subtract,
    "multiply": mg.multiply,
    "divide": mg.divide,
    "power": mg.power,
    "maximum": mg.maximum,
    "logaddexp": np.logaddexp,
}
TWO = ("add", "subtract", "multiply", "divide", "power", "maximum", "logaddexp")


def random_program(rng):
    """A function of an array x and a number c, of a few elementwise ops, most of them singular somewhere."""
    steps = []
    for made in range(2, 2 + int(rng.integers(1, 5))):
        name = sorted(ELEMENTWISE)[rng.integers(len(ELEMENTWISE))]
        steps.append((name, [int(rng.integers(max(0, made - 2), made)) for _ in range(2 if name in TWO else 1)]))

    def program(x, c):
        values = [x, c * mg.asarray(np.ones(x.shape))]
        for name, places in steps:
            values.append(ELEMENTWISE[name](*[values[place] for place in places]))
        return values[-1]

    return program


def derivatives(f, x, c, v, u):
    """Everything of orders one and two, as pairs of what belongs to x and to c, or numbers."""
    both = {"gradient": mg.grad(f, argnums=(0, 1))(x, c)}
    both |= {modes: second(modes, f, (x, c), (v, u)) for modes in ("RR", "FR", "RF")}
    numbers = {"jvp": mg.jvp(f, (x, c), (v, u))[1], "FF": second("FF", f, (x, c), (v, u))}
    return {key: [np.asarray(g) for g in pair] for key, pair in both.items()}, numbers


@pytest.mark.parametrize("garbage", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_masking_is_the_same_as_leaving_out(garbage, quiet):
    """On random programs: whatever stands in the masked places, all derivatives are those of the others alone."""
    mask = np.array([True, False, True, False])
    compared = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        program = random_program(rng)
        x, c = np.abs(rng.standard_normal(4)) + 0.3, np.array(rng.standard_normal())
        v, u = rng.standard_normal(4), np.array(rng.standard_normal())
        pairs, numbers = derivatives(lambda x, c, p=program: p(x, c).sum(), x[mask], c, v[mask], u)
        every = [*[g for pair in pairs.values() for g in pair], *numbers.values()]
        if not all(np.isfinite(g).all() and np.abs(g).max() < 1e6 for g in every):
            continue  # outside of its domain already without garbage
        compared += 1
        x[~mask] = garbage
        masked_pairs, masked_numbers = derivatives(
            lambda x, c, p=program: mg.where(mask, p(x, c), 0.0).sum(), x, c, v, u
        )
        for key, (by_x, by_c) in pairs.items():
            assert not masked_pairs[key][0][~mask].any(), (seed, key)
            np.testing.assert_allclose(masked_pairs[key][0][mask], by_x, rtol=1e-9, atol=1e-9, err_msg=f"{seed} {key}")
            np.testing.assert_allclose(masked_pairs[key][1], by_c, rtol=1e-9, atol=1e-9, err_msg=f"{seed} {key}")
        for key, number in numbers.items():
            np.testing.assert_allclose(masked_numbers[key], number, rtol=1e-9, atol=1e-9, err_msg=f"{seed} {key}")
    assert compared > 40


def test_softmax_of_a_masked_row(quiet):
    """Minus infinity is how attention masks: probabilities and gradients of 0 there."""
    scores = np.array([[1.0, -np.inf, 2.0], [-np.inf, -np.inf, 0.0]])
    w = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    value, g = mg.value_and_grad(lambda s: (mg.softmax(s) * w).sum())(scores)
    p = np.exp([1.0, 2.0]) / np.exp([1.0, 2.0]).sum()
    assert value == pytest.approx(p @ [1.0, 3.0] + 6.0, rel=1e-14)
    slope = p[0] * p[1] * 2.0
    np.testing.assert_allclose(g, [[-slope, 0.0, slope], [0.0, 0.0, 0.0]], rtol=1e-13)
    np.testing.assert_allclose(
        mg.hvp(lambda s: (mg.softmax(s) * w).sum(), (scores,), (np.ones((2, 3)),))[0], np.zeros((2, 3)), atol=1e-15
    )


def test_a_rule_of_a_custom_op_may_give_numpys_scalars():
    """Of arrays without axes NumPy's functions give scalars, and so may a rule in either mode."""
    cube = mg.custom_op(lambda x: x**3, vjp=lambda g, out, x: (3 * x**2 * g,), jvp=lambda t, out, x: 3 * x**2 * t[0])
    x = np.array(2.0)
    assert mg.jvp(cube, (x,), (np.array(1.0),))[1] == 12.0
    assert mg.grad(cube)(x) == 12.0
    assert mg.jvp(mg.grad(cube), (x,), (np.array(1.0),))[1] == 12.0
