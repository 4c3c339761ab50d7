"""The laws of `scan`: what it means, that padding cannot matter, what it refuses, and what it costs.

Bodies are drawn at random or written by hand; the oracle is a plain loop (`scan_oracle`). Every law is stated over
`unroll`, because both ways of running a scan obey the same laws. Answers are compared to 64 eps of their largest
terms in float64, and exactly wherever DESIGN says so.
"""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import tree
from minigrad.testing import fake_cupy
from scan_oracle import (
    CELLS,
    KINDS,
    MIXTURES,
    Data,
    Example,
    Named,
    agree,
    as_array,
    cell_example,
    draws,
    examples,
    first_order,
    loop,
    loss_of,
    pack,
    ragged,
    random_like,
    same,
    second_order,
    unpack,
)

laws = settings(max_examples=30, deadline=None, report_multiple_bugs=False)
few = settings(laws, max_examples=15)
ways = pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unroll"])
cells = pytest.mark.parametrize("cell", CELLS)
seeds = st.integers(0, 2**16 - 1)
POISONS = (7.3, 1e308, np.inf, -np.inf, np.nan)


def lengths_for(example: Example) -> st.SearchStrategy[np.ndarray]:
    """A length for each row: from nothing to everything, in any order."""
    return st.lists(st.integers(0, example.steps), min_size=example.rows, max_size=example.rows).map(
        lambda n: np.array(n, dtype=np.int64)
    )


def tracked(values):
    """Every array of a pytree as a tensor that requires a gradient."""
    return tree.map(lambda leaf: mg.tensor(leaf, requires_grad=True), values)


# ---- a scan is the loop --------------------------------------------------------------------------------------------


@ways
@laws
@given(example=examples(rows=None), reverse=st.booleans(), seed=seeds)
def test_values_and_first_derivatives_are_those_of_the_loop(unroll, example, reverse, seed):
    agree(example.call(mg.scan, reverse=reverse, unroll=unroll), example.call(loop, reverse=reverse))
    got = first_order(example.function(mg.scan, reverse=reverse, unroll=unroll), example.variables(), seed)
    agree(got, first_order(example.function(loop, reverse=reverse), example.variables(), seed))


@ways
@pytest.mark.parametrize("mixture", MIXTURES)
@few
@given(example=examples(rows=None), reverse=st.booleans(), seed=seeds)
def test_second_derivatives_are_those_of_the_loop(unroll, mixture, example, reverse, seed):
    at = example.variables()
    slow = example.function(loop, reverse=reverse)
    fast = example.function(mg.scan, reverse=reverse, unroll=unroll)
    like = slow(at)
    expected = second_order(loss_of(slow, like, seed), at, seed, "reverse over reverse")
    agree(second_order(loss_of(fast, like, seed), at, seed, mixture), expected)


@ways
@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_cells_at_both_orders(unroll, cell, reverse):
    example = cell_example(cell, steps=5, rows=3)
    at = example.variables()
    slow = example.function(loop, reverse=reverse)
    fast = example.function(mg.scan, reverse=reverse, unroll=unroll)
    agree(example.call(mg.scan, reverse=reverse, unroll=unroll), example.call(loop, reverse=reverse))
    agree(first_order(fast, at, 1), first_order(slow, at, 1))
    loss, slow_loss = loss_of(fast, slow(at), 2), loss_of(slow, slow(at), 2)
    expected = second_order(slow_loss, at, 3, "reverse over reverse")
    for mixture in MIXTURES:
        agree(second_order(loss, at, 3, mixture), expected)


@cells
def test_a_cell_is_what_its_equations_say(cell):
    """The loop shares minigrad's ops with scan; this oracle shares nothing: NumPy, and differences for a gradient."""
    from minigrad.testing import check_grads

    example = cell_example(cell, steps=2, rows=1)
    w, h = example.weights, np.array(as_array(tree.flatten(example.init)[0][0]))
    c = None if cell != "lstm" else np.array(example.init.rest[0])
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    states = []
    for x in example.elems:
        if cell == "vanilla":
            h = np.tanh(x @ w["W"] + h @ w["U"] + w["b"])
        elif cell == "gru":
            (wr, wz, wn), (ur, uz, un), (br, bz, bn) = (np.split(w[k], 3, -1) for k in ("W", "U", "b"))
            r, z = sigmoid(x @ wr + h @ ur + br), sigmoid(x @ wz + h @ uz + bz)
            h = z * h + (1 - z) * np.tanh(x @ wn + (r * h) @ un + bn)
        else:
            i, f, g, o = np.split(x @ w["W"] + h @ w["U"] + w["b"], 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        states.append(h)
    result = example.call(mg.scan)
    outputs = {"vanilla": lambda: result, "gru": lambda: result[1], "lstm": lambda: result[1]["h"]}[cell]()
    agree(outputs, np.stack(states))
    names = list(example.variables())

    def f(*arrays):
        return tuple(example.function(mg.scan)(dict(zip(names, arrays, strict=True))))

    check_grads(f, *example.variables().values(), order=2)


@ways
@cells
def test_every_subset_of_what_can_be_tracked(unroll, cell):
    """Tracked leaves get the gradients that they get when all are tracked; the others are left alone."""
    example = cell_example(cell, steps=3, rows=2)
    at = example.variables()
    like = example.function(loop)(at)
    weights = random_like(like, 5)

    def gradients(names, apply, **options):
        values = {name: mg.tensor(a, requires_grad=name in names) for name, a in at.items()}
        total = mg.asarray(0.0)
        for out, weight in zip(example.function(apply, **options)(values), weights, strict=True):
            total = total + (out * weight).sum()
        total.backward()
        assert all(values[name].grad is None for name in at if name not in names)
        return {name: values[name].grad for name in names}

    every = gradients(list(at), loop)
    for mask in range(1, 2 ** len(at)):
        names = [name for i, name in enumerate(at) if mask >> i & 1]
        agree(gradients(names, mg.scan, unroll=unroll), {name: every[name] for name in names})


@ways
@laws
@given(example=examples(rows=None), seed=seeds, data=st.data())
def test_any_subset_of_random_bodies(unroll, example, seed, data):
    at = example.variables()
    names = data.draw(st.lists(st.sampled_from(sorted(at)), unique=True, min_size=1) if at else st.just([]))
    some = {name: at[name] for name in names}
    got = first_order(example.function(mg.scan, unroll=unroll), some, seed)
    agree(got, first_order(example.function(loop), some, seed))


@ways
def test_one_tensor_in_every_role(unroll):
    """The same tensor as elems, initial state and captured weight, several times in a step: its uses add up."""

    def f(apply):
        def of(a):
            return apply(lambda s, x: mg.tanh(s @ a + x * a[0] + s), mg.stack([a, a @ a, a]), a)

        return of

    a = draws(3)((2, 2))
    g = random_like(np.zeros((3, 2, 2)), 0)
    values, pull = mg.vjp(f(lambda *args: mg.scan(*args, unroll=unroll)), a)
    expected, expected_pull = mg.vjp(f(loop), a)
    agree((values, pull(g)), (expected, expected_pull(g)))


@ways
def test_gradients_reach_elems(unroll):
    """JAX once gave zeros here (its issue 753)."""
    x = draws(0)((4,))
    same(mg.grad(lambda x: mg.scan(lambda s, x: s + x * x, x, 0.0, unroll=unroll)[-1])(x), 2 * x)


@ways
def test_a_choice_in_the_body_is_differentiated_once(unroll):
    """JAX once gave 324 instead of 108 for a conditional inside a scan (its issue 5900)."""

    def f(x):
        return mg.scan(lambda s, t: mg.where(t > 0, s * x, s), np.array([1, 0, 1, 1]), x, unroll=unroll)[-1]

    same(mg.grad(f)(3.0), np.array(4 * 3.0**3))


@ways
def test_captured_values_of_an_outer_derivative_are_seen(unroll):
    """A perturbation may come in by the closure alone (JAX's issue 9567), and perturbations are never confused."""

    def f(w):
        return mg.scan(lambda s, x: s * w + x, np.array([1.0, 2.0, 3.0]), 0.0, unroll=unroll)[-1]  # w w + 2 w + 3

    same(mg.grad(f)(2.0), np.array(6.0))
    same(mg.jvp(f, (2.0,), (1.0,))[1], np.array(6.0))
    same(mg.grad(mg.grad(f))(2.0), np.array(2.0))
    modes = {"reverse": mg.grad, "forward": lambda f: lambda x: mg.jvp(f, (x,), (1.0,))[1]}
    for outer in modes.values():
        for inner in modes.values():

            def g(w, inner=inner):
                def body(s, x):
                    return s + w * inner(lambda y: y * x + w * w)(1.0)  # the inner derivative is x

                return mg.scan(body, np.array([1.0, 2.0, 4.0]), 0.0, unroll=unroll)[-1]

            same(outer(g)(3.0), np.array(7.0))


@ways
@pytest.mark.parametrize("checkpoint", [None, 2])
def test_a_derivative_may_be_taken_inside_of_a_body(unroll, checkpoint):
    """Gradient descent as a scan, differentiated by its step size and its loss's weight, which the body captures.

    The inner derivative is itself differentiated, also where its variable is a constant of the body.
    """

    # Once: silently 0 with checkpoint. When a chunk runs again, the outer variable has been put out of action, so
    # that the inner transform takes what it captured for a constant.
    def f(apply):
        def of(at):
            def body(p, x):
                slope = mg.grad(lambda p: (mg.sin(p * x) ** 2 * at["weight"]).sum())
                return p - at["rate"] * slope(p) + 0.1 * slope(np.ones(2))

            return [apply(body, draws(1)((3, 2)), at["start"])]

        return of

    at = {"rate": np.array(0.1), "weight": np.array(0.7), "start": draws(2)((2,))}
    fast = f(lambda *a: mg.scan(*a, unroll=unroll, checkpoint=checkpoint))
    agree(first_order(fast, at, 0), first_order(f(loop), at, 0))
    like = f(loop)(at)
    expected = second_order(loss_of(f(loop), like, 1), at, 2, "reverse over reverse")
    for mixture in MIXTURES:
        agree(second_order(loss_of(fast, like, 1), at, 2, mixture), expected)


# ---- order of time -------------------------------------------------------------------------------------------------


def flipped(elems):
    return tree.map(lambda leaf: leaf[::-1], elems)


@ways
@laws
@given(example=examples(rows=None), seed=seeds)
def test_reverse_is_flip_scan_flip(unroll, example, seed):
    def flip_scan_flip(fn, elems, init, *, has_output):
        result = mg.scan(fn, flipped(elems), init, has_output=has_output, unroll=unroll)
        return (result[0], flipped(result[1])) if has_output else flipped(result)

    agree(example.call(mg.scan, reverse=True, unroll=unroll), example.call(flip_scan_flip))
    got = first_order(example.function(mg.scan, reverse=True, unroll=unroll), example.variables(), seed)
    agree(got, first_order(example.function(flip_scan_flip), example.variables(), seed))


@ways
@laws
@given(example=examples(), seed=seeds, data=st.data())
def test_reverse_within_lengths_is_reverse_sequence_twice(unroll, example, seed, data):
    """With outputs: without, the states of the padding are initial ones on one side and final ones on the other."""
    n = data.draw(lengths_for(example))

    def turned(values):
        return tree.map(lambda leaf: mg.reverse_sequence(leaf, n), values)

    def there_and_back(fn, elems, init, *, has_output):
        result = mg.scan(fn, turned(elems), init, has_output=has_output, lengths=n, unroll=unroll)
        if has_output:
            return result[0], turned(result[1])
        return tree.map(lambda leaf: leaf[-1] if example.steps else leaf, result)

    def backwards(fn, elems, init, *, has_output):
        result = mg.scan(fn, elems, init, has_output=has_output, lengths=n, reverse=True, unroll=unroll)
        return result if has_output else tree.map(lambda leaf: leaf[0] if example.steps else leaf, result)

    agree(example.call(backwards), example.call(there_and_back))
    at = example.variables()
    agree(first_order(example.function(backwards), at, seed), first_order(example.function(there_and_back), at, seed))


@ways
@laws
@given(example=examples(rows=None), reverse=st.booleans(), seed=seeds, data=st.data())
def test_chunks_are_the_whole(unroll, example, reverse, seed, data):
    cut = data.draw(st.integers(0, example.steps))

    def chunked(fn, elems, init, *, has_output):
        halves = [tree.map(lambda leaf: leaf[:cut], elems), tree.map(lambda leaf: leaf[cut:], elems)]
        stacks = []
        for half in halves[::-1] if reverse else halves:
            result = mg.scan(fn, half, init, has_output=has_output, reverse=reverse, unroll=unroll)
            stacks.append(result[1] if has_output else result)
            if has_output:
                init = result[0]
            elif tree.flatten(half)[0][0].shape[0]:
                init = tree.map(lambda leaf: leaf[0 if reverse else -1], result)
        joined = tree.map(lambda a, b: mg.concatenate([a, b]), *(stacks[::-1] if reverse else stacks))
        return (init, joined) if has_output else joined

    agree(example.call(chunked), example.call(mg.scan, reverse=reverse, unroll=unroll))
    at = example.variables()
    got = first_order(example.function(chunked), at, seed)
    agree(got, first_order(example.function(mg.scan, reverse=reverse, unroll=unroll), at, seed))


@ways
@cells
def test_truncated_backpropagation_is_the_loop_with_its_gradient_stopped_there(unroll, cell):
    example, k = cell_example(cell, steps=5, rows=2), 2

    def chunks(apply, **options):
        def run(fn, elems, init, *, has_output):
            stacks = []
            for start in range(0, 5, k):
                if start:
                    init = mg.stop_gradient(init)
                window = elems[start : start + k]
                init, out = apply(
                    lambda s, x: fn(s, x) if has_output else (fn(s, x),) * 2, window, init, has_output=True, **options
                )
                stacks.append(out)
            return init, tree.map(lambda *parts: mg.concatenate(parts), *stacks)

        return run

    at = example.variables()
    got = first_order(example.function(chunks(mg.scan, unroll=unroll)), at, 1)
    agree(got, first_order(example.function(chunks(loop)), at, 1))
    full = first_order(example.function(mg.scan, unroll=unroll), at, 1)
    if cell != "vanilla":
        agree([got[name] for name in got if "output" in name], [full[name] for name in got if "output" in name])


@ways
@cells
def test_resuming_from_a_saved_state_is_exact(unroll, cell):
    """What a file gives back goes on as the live state would have, bit for bit."""
    example = cell_example(cell, steps=6, rows=2)
    fn = example.body(example.weights)

    def run(elems, init):
        return mg.scan(
            lambda s, x: fn(s, x) if example.has_output else (fn(s, x),) * 2,
            elems, init, has_output=True, unroll=unroll,
        )  # fmt: skip

    middle, _ = run(example.elems[:3], example.init)
    live = run(example.elems[3:], middle)
    saved = tree.map(lambda leaf: np.frombuffer(leaf.tobytes(), leaf.dtype).reshape(leaf.shape).copy(), middle)
    same(run(example.elems[3:], saved), live)
    gradients = [
        mg.vjp(lambda s: run(example.elems[3:], s), state)[1](random_like(live, 0)) for state in (middle, saved)
    ]
    same(*gradients)


@ways
@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_causality(unroll, cell, reverse):
    """An output depends on every input before it, on none after it, and on no other row: exactly zero."""
    example = cell_example(cell, steps=4, rows=2)

    def outputs(x):
        elems = example.body(example.weights), x, example.init
        result = mg.scan(*elems, has_output=example.has_output, reverse=reverse, unroll=unroll)
        result = result[1] if example.has_output else result
        return result["h"] if cell == "lstm" else result

    for mode in ("reverse", "forward"):
        jacobian = mg.jacobian(outputs, mode=mode)(example.elems)  # t, row, unit by s, row', input
        for t in range(4):
            for s in range(4):
                causal = s >= t if reverse else s <= t
                for row in range(2):
                    assert (jacobian[t, row, :, s, row] != 0).all() == causal, (t, s)
                    assert (jacobian[t, row, :, s, row] == 0).all() != causal, (t, s)
                    assert (jacobian[t, row, :, s, 1 - row] == 0).all()


@ways
@laws
@given(example=examples(), reverse=st.booleans(), seed=seeds, data=st.data())
def test_causality_of_random_bodies(unroll, example, reverse, seed, data):
    """A cotangent on the outputs of some steps gives exactly zero to inputs that come after them."""
    split = data.draw(st.integers(0, example.steps))
    inputs = [name for name in example.variables() if name.startswith("elems")]
    f = example.function(mg.scan, reverse=reverse, unroll=unroll)
    values, pull = mg.vjp(f, {name: example.variables()[name] for name in inputs})
    g = random_like(values, seed)
    stacked = values if not example.has_output else values[len(values) - _stacked_count(example) :]
    first, later = (slice(split, None), slice(None, split)) if reverse else (slice(None, split), slice(split, None))
    for i, leaf in enumerate(g):
        if i < len(values) - len(stacked):
            leaf[...] = 0.0
        else:
            leaf[later] = 0.0
    for gradient in pull(g)[0].values():
        assert (gradient[later] == 0).all()
        assert np.isfinite(gradient[first]).all()


def _stacked_count(example):
    _, outputs = example.call(loop)
    return sum(leaf.dtype.kind == "f" for leaf in map(as_array, tree.flatten(outputs)[0]))


# ---- rows with lengths of their own --------------------------------------------------------------------------------


@ways
@laws
@given(example=examples(), reverse=st.booleans(), seed=seeds, data=st.data())
def test_a_padded_batch_is_a_loop_over_its_rows(unroll, example, reverse, seed, data):
    n = data.draw(lengths_for(example))
    fast, slow = {"lengths": n, "reverse": reverse, "unroll": unroll}, {"lengths": n, "reverse": reverse}
    agree(example.call(mg.scan, **fast), example.call(ragged, **slow))
    at = example.variables()
    agree(
        first_order(example.function(mg.scan, **fast), at, seed),
        first_order(example.function(ragged, **slow), at, seed),
    )


@ways
@pytest.mark.parametrize("mixture", MIXTURES)
@settings(laws, max_examples=10)
@given(example=examples(), reverse=st.booleans(), seed=seeds, data=st.data())
def test_second_derivatives_of_a_padded_batch(unroll, mixture, example, reverse, seed, data):
    n = data.draw(lengths_for(example))
    at = example.variables()
    fast = example.function(mg.scan, lengths=n, reverse=reverse, unroll=unroll)
    slow = example.function(ragged, lengths=n, reverse=reverse)
    like = slow(at)
    expected = second_order(loss_of(slow, like, seed), at, seed, "reverse over reverse")
    agree(second_order(loss_of(fast, like, seed), at, seed, mixture), expected)


LENGTHS = {
    "unsorted": [2, 0, 4, 1], "equal": [3, 3, 3, 3], "full": [4, 4, 4, 4], "none": [0, 0, 0, 0], "one": [0, 0, 1, 0],
    "sorted": [4, 3, 2, 1], "rising": [0, 1, 2, 4],
}  # fmt: skip


@ways
@cells
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_cells_on_ragged_rows(unroll, cell, name, reverse):
    example, n = cell_example(cell, steps=4, rows=4), np.array(LENGTHS[name])
    fast = {"lengths": n, "reverse": reverse, "unroll": unroll}
    got, expected = example.call(mg.scan, **fast), example.call(ragged, lengths=n, reverse=reverse)
    agree(got, expected)
    at = example.variables()
    slow = example.function(ragged, lengths=n, reverse=reverse)
    agree(first_order(example.function(mg.scan, **fast), at, 1), first_order(slow, at, 1))


@ways
@laws
@given(example=examples(), reverse=st.booleans(), data=st.data())
def test_finished_rows_are_frozen_bit_for_bit(unroll, example, reverse, data):
    n = data.draw(lengths_for(example))
    result = example.call(mg.scan, lengths=n, reverse=reverse, unroll=unroll)
    stacked = tree.flatten(result[1] if example.has_output else result)[0]
    init = tree.flatten(example.init)[0]
    for leaf_number, leaf in enumerate(stacked):
        for row, length in enumerate(n):
            rest = leaf[length:, row]
            if example.has_output:
                assert (rest == 0).all()  # also of integers and booleans
            elif reverse or length == 0:
                assert (rest == init[leaf_number][row]).all()
            else:
                assert (rest == leaf[length - 1, row]).all()
    if example.has_output:
        for final, start in zip(tree.flatten(result[0])[0], init, strict=True):
            assert (final[n == 0] == start[n == 0]).all()


@ways
@laws
@given(example=examples(outputs=False), reverse=st.booleans(), data=st.data())
def test_the_last_state_is_final(unroll, example, reverse, data):
    """states[-1], in reverse states[0], are what the form with outputs returns as its final state."""
    n = data.draw(lengths_for(example))
    states = example.call(mg.scan, lengths=n, reverse=reverse, unroll=unroll)
    fn = example.body(example.weights)
    final, outputs = mg.scan(
        lambda s, x: (fn(s, x), {"copy": x}), example.elems, example.init,
        has_output=True, lengths=n, reverse=reverse, unroll=unroll,
    )  # fmt: skip
    if example.steps:
        same(tree.map(lambda leaf: leaf[0 if reverse else -1], states), final)
    else:
        same(final, example.init)
    for copy, given_ in zip(tree.flatten(outputs)[0], tree.flatten(example.elems)[0], strict=True):
        real = np.arange(example.steps)[:, None] < n
        assert (copy == given_ * real.reshape(*real.shape, *[1] * (given_.ndim - 2))).all()


@ways
@cells
def test_full_lengths_are_no_lengths(unroll, cell):
    example = cell_example(cell, steps=3, rows=2)
    for kind in (list, tuple, np.array, lambda n: np.array(n, np.uint8), lambda n: mg.asarray(np.array(n, np.int32))):
        same(example.call(mg.scan, lengths=kind([3, 3]), unroll=unroll), example.call(mg.scan, unroll=unroll))


@ways
def test_states_of_any_rank_are_masked_by_rows(unroll):
    """Keras once masked states of other ranks than the output wrongly (its issue 11499)."""
    n = np.array([2, 0, 3])
    draw = draws(0)
    init = {"row": draw((3,)), "matrix": draw((3, 2, 2)), "count": np.zeros(3, np.int64), "flag": np.zeros(3, bool)}

    def fn(s, x):
        new = {
            "row": mg.tanh(s["row"] + x.sum(axis=-1)),
            "matrix": mg.tanh(mg.einsum("bij,bjk->bik", s["matrix"], s["matrix"]) + x[:, :, None] * x[:, None, :]),
            "count": s["count"] + 1,
            "flag": s["row"] > 0,
        }
        return new, (new["count"], new["flag"], new["matrix"].sum(axis=(1, 2)))

    x = draw((4, 3, 2))
    got = mg.scan(fn, x, init, has_output=True, lengths=n, unroll=unroll)
    agree(got, ragged(fn, x, init, n, has_output=True))
    same(got[0]["count"], n)


def poisoned(example, n, poison):
    """The example with a number in its padding; tokens get one outside of any vocabulary."""

    def spoil(leaf):
        past = np.arange(example.steps)[:, None] >= n
        leaf = leaf.copy()
        leaf[past] = poison if leaf.dtype.kind == "f" else -(10**9)
        return leaf

    return Example(**{**vars(example), "elems": tree.map(spoil, example.elems)})


@ways
@laws
@given(example=examples(), reverse=st.booleans(), poison=st.sampled_from(POISONS), seed=seeds, data=st.data())
def test_padding_cannot_matter(unroll, example, reverse, poison, seed, data):
    """Bitwise: every output, gradient and tangent; and the gradient of the padding is exactly 0."""
    n = data.draw(lengths_for(example))
    options = {"lengths": n, "reverse": reverse, "unroll": unroll}
    bad = poisoned(example, n, poison)
    same(bad.call(mg.scan, **options), example.call(mg.scan, **options))
    got = first_order(bad.function(mg.scan, **options), bad.variables(), seed)
    same(got, first_order(example.function(mg.scan, **options), example.variables(), seed))
    past = np.arange(example.steps)[:, None] >= n
    for name, gradient in got.items():
        if name.startswith("gradient by elems"):
            assert (gradient[past] == 0).all()


@ways
@pytest.mark.parametrize("poison", POISONS, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_padding_cannot_matter_to_singular_bodies(unroll, poison, reverse):
    """Logarithms, quotients and roots of the inputs, at both orders; the tangents of padding are poison too."""

    def body(w):
        def fn(s, x):
            s = mg.tanh(mg.log(x) @ w["W"] + (1.0 / x) * s + mg.sqrt(x) * w["b"] + mg.norm(x, axis=-1, keepdims=True))
            return s, (s / x, x ** w["p"])

        return fn

    draw = draws(0)
    n = np.array([3, 0, 1, 4])
    weights = {"W": draw((2, 2)), "b": draw((2,)), "p": np.array(1.5)}
    example = Example(body, np.abs(draw((4, 4, 2))), draw((4, 2)), weights, True, 4, 4)
    bad = poisoned(example, n, poison)
    options = {"lengths": n, "reverse": reverse, "unroll": unroll}
    f, clean_f = bad.function(mg.scan, **options), example.function(mg.scan, **options)
    clean = first_order(clean_f, example.variables(), 1)
    same(first_order(f, bad.variables(), 1), clean)
    agree(clean, first_order(example.function(ragged, lengths=n, reverse=reverse), example.variables(), 1))
    like = clean_f(example.variables())
    for mixture in MIXTURES:
        loss, clean_loss = loss_of(f, like, 2), loss_of(clean_f, like, 2)
        got = second_order(loss, bad.variables(), 3, mixture)
        same(got, second_order(clean_loss, example.variables(), 3, mixture))
        past = np.arange(4)[:, None] >= n
        assert (got["elems"][past] == 0).all()
    tangent = random_like(bad.variables(), 4)
    tangent["elems"][past] = poison
    same(
        mg.jvp(f, (bad.variables(),), (tangent,))[1],
        mg.jvp(clean_f, (example.variables(),), (random_like(bad.variables(), 4),))[1],
    )


@ways
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_a_body_is_only_asked_what_some_row_asks(unroll, reverse):
    """A body that is singular wherever no row ever is: after the end of a countdown, and out of step with its inputs.

    A finished row whose last state meets its last input once more computes inf or NaN there; masked later, it still
    makes 0 * inf = NaN in the gradient of W, or a warning.
    """
    n = np.array([1, 3, 0, 2])
    draw = draws(0)
    ones = np.ones(2)
    t = np.arange(3)[:, None]
    position = (n - 1 - t if reverse else t + 0 * n)[..., None] * ones  # how many steps the row has made before

    def body(weights):
        def fn(s, x):
            in_step = mg.log(1.0 - mg.abs(s["made"] - x["made"]))
            return {"left": s["left"] - 1.0, "made": s["made"] + 1.0}, (x["x"] / s["left"] + in_step) @ weights["w"]

        return fn

    elems = {"x": draw((3, 4, 2)), "made": position}
    init = {"left": n[:, None] * ones, "made": np.zeros((4, 2))}
    example = Example(body, elems, init, {"w": draw((2, 2))}, True, 3, 4)
    fast, slow = {"lengths": n, "reverse": reverse, "unroll": unroll}, {"lengths": n, "reverse": reverse}
    agree(example.call(mg.scan, **fast), example.call(ragged, **slow))
    at = example.variables()
    agree(first_order(example.function(mg.scan, **fast), at, 1), first_order(example.function(ragged, **slow), at, 1))


@ways
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_what_a_body_captures_may_belong_to_rows(unroll, reverse):
    """Each row's own budget, captured: a finished row may only be computed from what it has met itself."""
    # Once: a finished row is computed from another row's state, with its own part of what is captured.
    n = np.array([1, 3, 2])
    draw = draws(0)

    def body(weights):
        def rowwise(rows):
            return lambda s, x: (s + 1.0, (x / (n[rows, None] - s)) @ weights["w"])

        return rowwise

    def run(apply, rows, at, **options):
        fn = body(at)(rows)
        return apply(fn, at["x"][:, rows], at["s"][rows], has_output=True, **options)

    def together(at):
        return list(run(mg.scan, slice(None), at, lengths=n, reverse=reverse, unroll=unroll))

    def apart(at):
        results = [run(ragged, slice(b, b + 1), at, lengths=n[b : b + 1], reverse=reverse) for b in range(3)]
        finals, outputs = zip(*results, strict=True)
        return [mg.concatenate(finals), mg.concatenate(outputs, axis=1)]

    at = {"x": draw((3, 3, 2)), "s": np.zeros((3, 2)), "w": draw((2, 2))}
    agree(together(at), apart(at))
    agree(first_order(together, at, 1), first_order(apart, at, 1))


@ways
def test_lengths_without_elems(unroll):
    """A decoder that reads nothing: rows are those of the state."""
    states = mg.scan(lambda s, x: 2.0 * s, None, np.array([1.0, 1.0, 1.0]), length=3, lengths=[1, 0, 3], unroll=unroll)
    same(states, np.array([[2.0, 1.0, 2.0], [2.0, 1.0, 4.0], [2.0, 1.0, 8.0]]))
    backwards = mg.scan(
        lambda s, x: 2.0 * s, None, np.array([1.0, 1.0]), length=3, lengths=[1, 3], reverse=True, unroll=unroll
    )
    same(backwards, np.array([[2.0, 8.0], [1.0, 4.0], [1.0, 2.0]]))


# ---- no steps, one step, no rows -----------------------------------------------------------------------------------


@ways
@cells
@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (1, 2), (0, 0), (3, 0), (1, 1)])
@pytest.mark.parametrize("with_lengths", [False, True], ids=["", "lengths"])
def test_degenerate_sizes(unroll, cell, steps, rows, with_lengths):
    example = cell_example(cell, steps=steps, rows=rows)
    options = {"lengths": np.full(rows, steps)} if with_lengths else {}
    got = example.call(mg.scan, unroll=unroll, **options)
    agree(got, example.call(loop))
    at = example.variables()
    agree(
        first_order(example.function(mg.scan, unroll=unroll, **options), at, 1),
        first_order(example.function(loop), at, 1),
    )
    if example.has_output and not steps:
        same(got[0], example.init)


@ways
def test_no_steps_are_defined_whatever_the_body(unroll):
    """The shapes of outputs come from one call that leaves no trace: no warning, no record, no gradient."""

    def fn(s, x):
        return s, (mg.log(x).sum(), [x > 0, (1.0 / x) @ w, np.arange(3)])

    w = mg.tensor(np.ones((2, 4)), requires_grad=True)
    with mg.Tape() as tape:
        final, (log, (positive, product, numbers)) = mg.scan(fn, np.ones((0, 2)), 1.0, has_output=True, unroll=unroll)
    assert final == 1.0
    assert [as_array(out).shape for out in (log, positive, product, numbers)] == [(0,), (0, 2), (0, 4), (0, 3)]
    assert [as_array(out).dtype.kind for out in (log, positive, product, numbers)] == ["f", "b", "f", "i"]
    assert len(tape) == 0
    same(mg.grad(lambda x: mg.scan(lambda s, x: s * x, x, 2.0, unroll=unroll).sum())(np.ones(0)), np.ones(0))


@ways
@pytest.mark.parametrize("lengths", [[0, 0], [0, 1]], ids=str)
def test_a_batch_of_empty_rows_has_gradients_of_zero(unroll, lengths):
    def f(x, w):
        states, outputs = mg.scan(
            lambda s, x: (s, x * w), x, np.ones(2), has_output=True, lengths=lengths, unroll=unroll
        )
        return outputs.sum() + states.sum()

    x = np.ones((2, 2))
    dx, dw = mg.grad(f, argnums=(0, 1))(x, 0.5)
    same(dw, np.array(float(sum(lengths))))
    same(dx, 0.5 * (np.arange(2)[:, None] < lengths))


@ways
def test_length_replaces_elems(unroll):
    states = mg.scan(lambda s, x: 2.0 * s, None, 1.0, length=4, unroll=unroll)
    same(states, np.array([2.0, 4.0, 8.0, 16.0]))
    same(mg.scan(lambda s, x: 2.0 * s, (), 1.0, length=np.int64(2), unroll=unroll), np.array([2.0, 4.0]))
    same(mg.scan(lambda s, x: 2.0 * s, None, 1.0, length=0, unroll=unroll), np.zeros(0))
    same(mg.scan(lambda s, x: s + x, np.ones(3), 0.0, length=3, unroll=unroll), np.array([1.0, 2.0, 3.0]))
    final, squares = mg.scan(lambda s, x: (s + 1, s * s), None, 0, has_output=True, length=4, unroll=unroll)
    same((final, squares), (np.array(4), np.array([0, 1, 4, 9])))


@ways
def test_nothing_may_be_state_or_output(unroll):
    x = np.array([1.0, 2.0])
    same(mg.scan(lambda s, x: (s, x * x), x, None, has_output=True, unroll=unroll), (None, x * x))
    same(mg.scan(lambda s, x: (s + x, None), x, 0.0, has_output=True, unroll=unroll), (np.array(3.0), None))
    same(mg.scan(lambda s, x: ((), ()), x, (), has_output=True, unroll=unroll), ((), ()))
    assert mg.scan(lambda s, x: s, x, None, unroll=unroll) is None


# ---- pytrees -------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("states", KINDS)
@pytest.mark.parametrize("inputs", KINDS)
def test_containers_come_back_as_they_went_in(unroll, states, inputs):
    """Every kind of container, as state, elems and outputs; the body gets it as it was given."""
    draw = draws(0)
    elems, init = [draw((3,)), draw((3, 2))], [draw((2,)), draw(()), draw((2, 2))]
    elems = elems[1:] if inputs == "bare" else elems
    init = init[:1] if states == "bare" else init

    def fn(state, x):
        s, x = unpack(states, state, len(init)), unpack(inputs, x, len(elems))
        new = [mg.tanh(leaf + x[-1].sum() * x[0].sum()) for leaf in s]
        return pack(states, new), pack(inputs, new[:1])

    packed = pack(inputs, elems), pack(states, init)
    final, outs = mg.scan(fn, *packed, has_output=True, unroll=unroll)
    assert [leaf.shape for leaf in unpack(states, final, len(init))] == [leaf.shape for leaf in init]
    (out,) = unpack(inputs, outs, 1)
    assert out.shape == (3, 2)
    agree((final, outs), loop(fn, *packed, has_output=True))
    stacked = mg.scan(lambda s, x: fn(s, x)[0], *packed, unroll=unroll)
    agree(stacked, loop(lambda s, x: fn(s, x)[0], *packed))


@ways
def test_two_names_of_one_tensor_are_two_leaves(unroll):
    """A state that holds one array twice: the copies are apart as soon as the body makes them differ."""
    h = mg.tensor([1.0, 2.0], requires_grad=True)
    states = mg.scan(lambda s, x: (s[0] * x, s[1] + x), np.array([2.0, 3.0]), (h, h), unroll=unroll)
    (states[0][-1] + 10.0 * states[1][-1]).sum().backward()
    same(h.grad, np.array([16.0, 16.0]))


# ---- types in, types out -------------------------------------------------------------------------------------------


@ways
@laws
@given(example=examples(rows=None), reverse=st.booleans())
def test_arrays_give_arrays_and_tensors_tensors(unroll, example, reverse):
    for leaf in tree.flatten(example.call(mg.scan, reverse=reverse, unroll=unroll))[0]:
        assert type(leaf) is np.ndarray
    fn, first = example.body(example.weights), tree.flatten(example.init)[0][0]
    boxed = tree.map(lambda leaf: mg.asarray(leaf) if leaf is first else leaf, example.init)
    result = mg.scan(fn, example.elems, boxed, has_output=example.has_output, reverse=reverse, unroll=unroll)
    for leaf in tree.flatten(result)[0]:
        assert type(leaf) is mg.Tensor
        assert not leaf.requires_grad


@ways
def test_a_recorded_tensor_behind_the_body_gives_tensors(unroll):
    w = mg.tensor(0.5, requires_grad=True)

    def run():
        return mg.scan(lambda s, x: (s * w, x + w), np.ones(2), 1.0, has_output=True, unroll=unroll)

    recorded = run()
    assert all(isinstance(leaf, mg.Tensor) and leaf.requires_grad for leaf in recorded)
    with mg.no_grad():
        same(tree.map(as_array, run()), tree.map(as_array, recorded))


@ways
@laws
@given(example=examples(), reverse=st.booleans(), seed=seeds, data=st.data())
def test_float32_stays(unroll, example, reverse, seed, data):
    n = data.draw(st.none() | lengths_for(example))

    def narrow(values):
        return tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype.kind == "f" else leaf, values)

    small = Example(**{**vars(example), **{part: narrow(vars(example)[part]) for part in ("elems", "init", "weights")}})
    checkpoint = data.draw(st.sampled_from((None, 2)))
    options = {"reverse": reverse, "lengths": n, "unroll": unroll, "checkpoint": checkpoint}
    result = small.call(mg.scan, **options)
    apply = loop if n is None else ragged
    wide = example.call(apply, reverse=reverse, **({} if n is None else {"lengths": n}))
    for leaf, reference in zip(tree.flatten(result)[0], tree.flatten(wide)[0], strict=True):
        assert leaf.dtype == (np.float32 if reference.dtype.kind == "f" else reference.dtype)
    assert tree.flatten(result)[1] == tree.flatten(wide)[1]
    at = small.variables()
    f = small.function(mg.scan, **options)
    values, pull = mg.vjp(f, at)
    for gradient, leaf in zip(tree.flatten(pull(random_like(values, seed)))[0], at.values(), strict=True):
        assert gradient.dtype == np.float32
        assert gradient.shape == leaf.shape
    tangents = mg.jvp(f, (at,), (random_like(at, seed),))[1]
    assert [t.dtype for t in tangents] == [v.dtype for v in values]


@ways
@laws
@given(example=examples(rows=None), reverse=st.booleans(), seed=seeds)
def test_what_goes_in_is_neither_changed_nor_kept(unroll, example, reverse, seed):
    """Read-only arrays are taken; nothing is written to; afterwards they are as writeable as before."""
    at = example.variables()
    before = tree.map(np.copy, at)
    f = example.function(mg.scan, reverse=reverse, unroll=unroll)
    values, pull = mg.vjp(f, at)
    g = random_like(values, seed)
    g_before = tree.map(np.copy, g)
    gradients = pull(g)
    again = pull(g)
    same(at, before)
    same(g, g_before)
    same(again, gradients)
    for gradient in tree.flatten((gradients, again))[0]:
        assert not any(np.shares_memory(gradient, leaf) for leaf in tree.flatten((at, g, values))[0])
    del values, pull
    assert all(leaf.flags.writeable for leaf in at.values())
    for leaf in at.values():
        leaf.flags.writeable = False
    same(first_order(f, at, seed), first_order(example.function(mg.scan, reverse=reverse, unroll=unroll), before, seed))


@ways
@pytest.mark.parametrize("boxed", [False, True], ids=["arrays", "tensors"])
def test_a_body_that_writes_into_its_arguments_spoils_nothing(unroll, boxed):
    """`s += x` in a body: the right numbers, or an error, but no silent change of what was given."""

    # Once: with arrays, `s += x` changes the initializer, and all stacked states are the last one.
    def add(s, x):
        s += x
        return s

    def double(s, x):
        x *= 2.0
        return s + x

    for fn, factor in ((add, 1.0), (double, 2.0)):
        x, start = np.ones((3, 2)), np.zeros(2)
        given_ = [mg.asarray(a) if boxed else a for a in (x, start)]
        try:
            states = mg.scan(fn, *given_, unroll=unroll)
        except ValueError as error:
            assert "read-only" in str(error)  # noqa: PT017  (either road is right, silence is not)
        else:
            same(as_array(states), factor * np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
        same([x, start], [np.ones((3, 2)), np.zeros(2)])
        assert x.flags.writeable
        assert start.flags.writeable


@ways
@pytest.mark.parametrize("part", ["elems", "init"])
def test_an_array_that_backward_needs_cannot_be_overwritten(unroll, part):
    """Refilling the batch's buffer before backward would silently change the gradient of W."""
    # The slices x[t] are views: to hold them is not enough, as long as their base can be written to.
    w = mg.tensor(draws(0)((2, 2)), requires_grad=True)
    given_ = {"elems": np.ones((3, 2)), "init": np.ones(2)}

    def forward():
        return mg.scan(lambda s, x: s @ w + x @ w, given_["elems"], given_["init"], unroll=unroll).sum()

    forward().backward()
    expected, w.grad = w.grad, None
    loss = forward()
    try:
        given_[part][...] = 100.0
    except ValueError as error:
        assert "read-only" in str(error)  # noqa: PT017  (either road is right, silence is not)
    loss.backward()
    same(w.grad, expected)
    del loss
    given_[part][...] = 2.0


# ---- what it refuses -----------------------------------------------------------------------------------------------

H, C = np.zeros(2), np.zeros(3)
BROKEN_CARRIES = {
    "another structure": (
        lambda s, x: (s["h"], s["c"]),
        ["structure", "(*, *)", "{'c': *, 'h': *}"],
    ),
    "one leaf more": (lambda s, x: {**s, "z": x}, ["structure", "'z'"]),
    "an output without has_output": (lambda s, x: (s, x), ["structure", "has_output=True"]),
    "another shape": (
        lambda s, x: {"h": s["h"], "c": s["c"][:, None] * np.ones((1, 2))},
        ["['c']", "(3,)", "(3, 2)", "float64", "reshape"],
    ),
    "an added axis": (lambda s, x: {"h": s["h"][None], "c": s["c"]}, ["['h']", "(2,)", "(1, 2)"]),
    "another dtype": (
        lambda s, x: {"h": s["h"].astype("float32"), "c": s["c"]},
        ["['h']", "float64", "float32", "astype"],
    ),
    "integers": (lambda s, x: {"h": s["h"], "c": np.arange(3)}, ["['c']", "float64", "int64", "astype"]),
    "a number": (lambda s, x: {"h": 0.0, "c": s["c"]}, ["['h']", "(2,)", "()"]),
    "a string": (lambda s, x: {"h": "no", "c": s["c"]}, ["['h']", "str"]),
    "nothing": (lambda s, x: {"h": None, "c": s["c"]}, ["structure", "None"]),
}


@ways
@pytest.mark.parametrize("name", BROKEN_CARRIES)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("checkpoint", [None, 2])
def test_a_state_that_changes_is_refused(unroll, name, steps, checkpoint):
    fn, words = BROKEN_CARRIES[name]
    with pytest.raises(TypeError) as error:
        mg.scan(fn, np.ones(steps), {"h": H, "c": C}, unroll=unroll, checkpoint=checkpoint)
    for word in words:
        assert word in str(error.value)


@ways
def test_every_changed_leaf_is_named_at_the_step_where_it_changes(unroll):
    def fn(s, x):
        return Named(s.first * x, Data(s.rest.first[:1], s.rest.rest.astype("float32")))

    with pytest.raises(
        TypeError, match=r"state\.rest\.first was float64\(2,\) and became float64\(1,\).*state\.rest\.rest was"
    ):
        mg.scan(fn, np.ones(3), Named(1.0, Data(np.ones(2), np.ones(3))), unroll=unroll)
    with pytest.raises(TypeError, match=r"float32.*float64"):
        mg.scan(lambda s, x: s * x, np.ones(3), np.float32(1.0), unroll=unroll)
    with pytest.raises(TypeError, match=r"int64\(\) and became float64\(\).*initializer of dtype float64"):
        mg.scan(lambda s, x: s + x, np.ones(3), 0, unroll=unroll)


class CellLike:
    """What a cell looks like from outside."""

    def zero_state(self, batch_size):
        return np.zeros(batch_size)

    def __call__(self, x, state):
        return state, state


PAIR = (np.ones((3, 2)), np.ones((3, 4)))
STEP = lambda s, x: s  # noqa: E731
MISUSES = {
    "a cell": ((CellLike(), PAIR[0], 0.0), {}, TypeError, ["CellLike", "dynamic_rnn"]),
    "a stream": ((mg.nn.Stream(mg.nn.GRUCell(2, 3, seed=0)), PAIR[0], 0.0), {}, TypeError, ["stream(chunk)"]),
    "no function": ((3, PAIR[0], 0.0), {}, TypeError, ["function fn(state, x)", "int"]),
    "no elems": ((STEP, None, 0.0), {}, ValueError, ["length="]),
    "no leaves": ((STEP, [], 0.0), {}, ValueError, ["length="]),
    "0-d elems": ((STEP, {"a": np.ones(3), "b": 1.0}, 0.0), {}, ValueError, ["elems['b']", "time axis"]),
    "a list of numbers": ((STEP, [1.0, 2.0], 0.0), {}, ValueError, ["elems[0]", "time axis"]),
    "two T": ((STEP, (np.ones(3), np.ones(4)), 0.0), {}, ValueError, ["elems[0]: 3", "elems[1]: 4"]),
    "another length": ((STEP, np.ones(3), 0.0), {"length": 4}, ValueError, ["elems: 3", "length: 4"]),
    "a negative length": ((STEP, None, 0.0), {"length": -1}, ValueError, ["length", "-1"]),
    "a string": ((STEP, {"a": "text"}, 0.0), {}, TypeError, ["elems['a']", "str"]),
    "a state of strings": ((STEP, np.ones(3), {"a": "text"}), {}, TypeError, ["initializer['a']", "str"]),
    "a length of 2.0": ((STEP, None, 0.0), {"length": 2.0}, TypeError, ["length", "2.0"]),
    "checkpoint 2.5": ((STEP, np.ones(3), 0.0), {"checkpoint": 2.5}, (TypeError, ValueError), ["checkpoint", "2.5"]),
    "checkpoint 0": ((STEP, np.ones(3), 0.0), {"checkpoint": 0}, ValueError, ["checkpoint", "0", "sqrt"]),
    "checkpoint log": (
        (STEP, np.ones(3), 0.0), {"checkpoint": "log"}, (TypeError, ValueError), ["checkpoint", "'log'", "sqrt"],
    ),
    "no pair": (
        (lambda s, x: s, np.ones(3), 0.0), {"has_output": True}, TypeError, ["has_output=True", "(state, output)"],
    ),
    "a list for a pair": (
        (lambda s, x: [s, x], np.ones(3), 0.0), {"has_output": True}, TypeError, ["(state, output)", "list"],
    ),
    "a length too large": ((STEP, PAIR[0], np.ones(2)), {"lengths": [1, 4]}, ValueError, ["length", "4", "3"]),
    "a length below 0": ((STEP, PAIR[0], np.ones(2)), {"lengths": [-1, 3]}, ValueError, ["length", "-1"]),
    "float lengths": ((STEP, PAIR[0], np.ones(2)), {"lengths": [1.0, 2.0]}, TypeError, ["lengths", "float64"]),
    "boolean lengths": ((STEP, PAIR[0], np.ones(2)), {"lengths": [True, True]}, TypeError, ["lengths", "bool"]),
    "one number": ((STEP, PAIR[0], np.ones(2)), {"lengths": 2}, TypeError, ["lengths"]),
    "a mask": ((STEP, PAIR[0], np.ones(2)), {"lengths": np.ones((3, 2), int)}, TypeError, ["lengths", "(3, 2)"]),
    "too few lengths": ((STEP, PAIR[0], np.ones(2)), {"lengths": [1]}, ValueError, ["elems", "(3, 2)", "(T, 1"]),
    "rows of one leaf": ((STEP, PAIR, np.ones(2)), {"lengths": [1, 2]}, ValueError, ["elems[1]", "(3, 4)"]),
    "elems without rows": ((STEP, H, H), {"lengths": [1, 2]}, ValueError, ["elems", "axis 1", "(2,)"]),
    "a state without rows": ((STEP, PAIR[0], 0.0), {"lengths": [1, 2]}, ValueError, ["initializer", "axis 0", "()"]),
    "rows of the state": (
        (STEP, PAIR[0], (np.ones(2), np.ones((4, 2)))), {"lengths": [1, 2]}, ValueError, ["initializer[1]", "(4, 2)"],
    ),
    "an output without rows": (
        (lambda s, x: (s, {"a": x, "b": x.sum()}), PAIR[0], np.ones(2)), {"has_output": True, "lengths": [1, 2]},
        ValueError, ["output['b']", "axis 0", "()"],
    ),
    "outputs of rows that met": (
        (lambda s, x: (s, x[:1]), PAIR[0], np.ones(2)), {"has_output": True, "lengths": [1, 2]},
        ValueError, ["output", "(1,)"],
    ),
}  # fmt: skip


@ways
@pytest.mark.parametrize("name", MISUSES)
def test_misuse_gets_one_sentence_that_says_what_to_do(unroll, name):
    args, options, kind, words = MISUSES[name]
    with pytest.raises(kind) as error:
        mg.scan(*args, **options, unroll=unroll)
    for word in words:
        assert word in str(error.value), str(error.value)


def growing(make):
    """A body with outputs made from the number of the call, as no pure body is."""
    calls = []

    def fn(s, x):
        calls.append(x)
        return s, make(len(calls))

    return fn


@pytest.mark.parametrize("checkpoint", [None, 1])
def test_an_output_that_changes_is_refused(checkpoint):
    # Also from one chunk to the next, where mixing them by position would go unnoticed.
    with pytest.raises(TypeError, match=r"output.*\{'p': \*\}.*\{'q': \*\}"):
        mg.scan(
            growing(lambda n: {"p": 1.0} if n < 2 else {"q": 1.0}), np.ones(3), 0.0,
            has_output=True, unroll=True, checkpoint=checkpoint,
        )  # fmt: skip
    with pytest.raises((TypeError, ValueError), match=r"output\['p'\].*\(1,\).*\(2,\)"):
        mg.scan(
            growing(lambda n: {"p": np.ones(n)}), np.ones(3), 0.0, has_output=True, unroll=True, checkpoint=checkpoint
        )


@ways
def test_an_output_that_is_no_array_is_named(unroll):
    with pytest.raises(TypeError, match=r"output\['p'\].*object"):
        mg.scan(lambda s, x: (s, {"p": object()}), np.ones(2), 0.0, has_output=True, unroll=unroll)


@ways
def test_an_error_in_the_body_leaves_nothing_behind(unroll):
    """Neither the scope of random draws nor that of recording."""

    def fn(s, x):
        mg.random.normal((), seed=0)
        raise KeyError("from the body")

    before = mg.random.normal((), seed=0).item()
    for checkpoint in (None, 2):
        with pytest.raises(KeyError, match="from the body"):
            mg.grad(lambda x, k=checkpoint: mg.scan(fn, x, 0.0, unroll=unroll, checkpoint=k).sum())(np.ones(3))
    assert mg.random.normal((), seed=0).item() == before


# ---- random numbers ------------------------------------------------------------------------------------------------


def noisy(s, x):
    """A body with two draws of one seed and one of another."""
    return s + x, (mg.random.normal((2,), seed=1), mg.random.normal((2,), seed=1), mg.random.uniform((2,), seed=(1, 2)))


@ways
def test_draws_are_new_at_each_step_and_call_and_the_same_each_time(unroll):
    x = np.ones(4)
    _, drawn = mg.scan(noisy, x, 0.0, has_output=True, unroll=unroll)
    numbers = np.stack([as_array(d) for d in drawn])
    assert len(np.unique(numbers)) == numbers.size
    for options in ({}, {"checkpoint": 1}, {"checkpoint": 3}, {"checkpoint": "sqrt"}, {"reverse": True}):
        again = mg.scan(noisy, x, 0.0, has_output=True, unroll=unroll, **options)[1]
        same(tree.map(as_array, again), tree.map(as_array, drawn))
    with mg.no_grad():
        same(tree.map(as_array, mg.scan(noisy, x, 0.0, has_output=True)[1]), tree.map(as_array, drawn))
    _, short = mg.scan(noisy, x[:2], 0.0, has_output=True, unroll=unroll)
    same(tree.map(as_array, short), tree.map(lambda d: as_array(d)[:2], drawn))


@ways
def test_draws_outside_of_a_scan_are_none_of_its_own(unroll):
    # NumPy's SeedSequence pads with zeros, so that (seed) and (seed, call 0, step 0) would be one key; and it cuts
    # large numbers into words, so that a seed above 2**32 would also be a small seed and a call.
    for seed, other in ((1, 1), (2**32 + 5, 5), ((1, 0), (1, 0))):
        outside = as_array(mg.random.normal((), seed=seed))
        _, drawn = mg.scan(
            lambda s, x, k=other: (s, (mg.random.normal((), seed=k), mg.random.normal((), seed=k))), np.ones(3), 0.0,
            has_output=True, unroll=unroll,
        )  # fmt: skip
        assert not np.isin(outside, np.stack([as_array(d) for d in drawn]))


@ways
def test_ways_of_running_draw_alike(unroll):
    """The same masks with and without unroll, lengths, checkpoint, and in every derivative."""
    x, n = np.ones((4, 2)), [2, 4]

    def fn(s, x):
        mask = mg.random.bernoulli((2,), seed=3, p=0.5)
        return s + x * mask, mask + 0.0 * x

    plain = mg.scan(fn, x, np.zeros(2), has_output=True, unroll=not unroll)[1]
    ragged_ = mg.scan(fn, x, np.zeros(2), has_output=True, lengths=n, unroll=unroll)[1]
    same(as_array(ragged_), as_array(plain) * (np.arange(4)[:, None] < n))


@ways
@pytest.mark.parametrize("lengths", [None, [3, 0, 4]])
def test_a_net_that_reads_what_it_says_runs_as_by_hand(unroll, lengths):
    """Of its scores a token is chosen or drawn, and looked up at the next step; no gradient passes through it."""
    draw = draws(3)
    W, U, V, E = draw((4, 4)), draw((4, 5)), draw((4, 5)), draw((5, 4))

    def said(scores):
        return mg.random.categorical(scores, seed=2), mg.argmax(scores + 0.5, axis=-1), mg.argmax(scores)

    def fn(state, x):
        h, own, best = state
        h = mg.tanh(h @ at["W"] + mg.getitem(at["E"], own) + mg.getitem(at["E"], best) + x)
        own, best, _ = said(h @ at["V"] + h @ at["U"])
        return (h, own, best), (h, own, best)

    at = {"W": W, "U": U, "V": V, "E": E}
    x, start = draw((4, 3, 4)), (draw((3, 4)), np.zeros(3, int), np.ones(3, int))
    _, (_, owns, bests) = mg.scan(fn, x, start, has_output=True, unroll=True)
    tokens = [np.concatenate([first[None], t[:-1]]) for first, t in zip(start[1:], (owns, bests), strict=True)]

    def read(h, x):
        x, own, best = x
        h = mg.tanh(h @ at["W"] + mg.getitem(at["E"], own) + mg.getitem(at["E"], best) + x)
        return h, h

    def outputs(weights, body, elems, first, **options):
        at.update(weights)
        return mg.scan(body, elems, first, has_output=True, lengths=lengths, **options)[1]

    def free(weights):
        return [outputs(weights, fn, x, start, unroll=unroll)[0]]

    def told(weights):
        return [outputs(weights, read, (x, *tokens), start[0], unroll=True)]

    for row, n in enumerate([4] * 3 if lengths is None else lengths):
        for drawn, expected in zip(outputs(at, fn, x, start, unroll=unroll)[1:], (owns, bests), strict=True):
            assert np.array_equal(drawn[:n, row], expected[:n, row])
    weights = {"W": W, "E": E}
    agree(first_order(free, weights, 1), first_order(told, weights, 1))


def test_in_a_body_a_label_outside_gives_nan():
    """It cannot be named there, but must not pass for another one: NumPy would take -1 for the last."""
    logits, labels = draws(0)((4, 2, 3)), np.array([[0, 2], [-1, 1], [3, 0], [2, 2]])

    def body(state, x):
        return state, (mg.cross_entropy(*x), mg.one_hot(x[1], 3))

    losses, hot = mg.scan(body, (logits, labels), 0.0, has_output=True)[1]
    known = (labels >= 0) & (labels < 3)
    same(losses[known], mg.cross_entropy(logits[known], labels[known]))
    same(hot[known], mg.one_hot(labels[known], 3))
    assert np.isnan(losses[~known]).all()
    assert np.isnan(hot[~known]).all()
    with pytest.raises(TypeError, match="one_hot: in the body of a scan it is floating, .* got int64"):
        mg.scan(lambda s, x: (s, mg.one_hot(x, 3, "int64")), labels, 0.0, has_output=True)
    padded = mg.scan(body, (logits[:, :1], labels[:, :1]), np.zeros(1), has_output=True, lengths=[1])[1][0]
    same(padded, np.where(np.arange(4)[:, None] < 1, losses[:, :1], 0.0))


def test_an_argmax_over_the_rows_is_a_meeting():
    for axis in (None, 0, -2):
        with pytest.raises(ValueError, match="rows meet in `argmax`"):
            mg.scan(
                lambda h, x, a=axis: h + mg.argmax(h + x, axis=a),
                np.ones((2, 3, 3)),
                np.ones((3, 3)),
                lengths=[2, 1, 0],
            )


DROPPED = {"checkpoint": 2, "sqrt": "sqrt", "plain": None}


@ways
@pytest.mark.parametrize("checkpoint", DROPPED)
def test_dropout_has_the_derivatives_of_its_masks(unroll, checkpoint):
    """A body that draws = the same body given what it drew, at both orders and in both modes (zoneout's masks too)."""
    draw = draws(0)
    x, h, w = draw((5, 2, 3)), draw((2, 3)), draw((3, 3)) * 0.5

    def body(w, keep, zone):
        h_new = lambda h, x: mg.tanh((x * keep()) @ w + h @ w)  # noqa: E731
        return lambda h, x: (1.0 - zone()) * h + zone() * h_new(h, x)

    def drawing(at):
        def fn(h, x):
            keep = mg.random.bernoulli((2, 3), seed=1, p=0.6) / 0.6
            zone = mg.random.uniform((2, 3), seed=1)
            return body(at["w"], lambda: keep, lambda: zone)(h, x)

        return [mg.scan(fn, at["x"], at["h"], unroll=unroll, checkpoint=DROPPED[checkpoint])]

    def look(h, x):
        return h, (mg.random.bernoulli((2, 3), seed=1, p=0.6) / 0.6, mg.random.uniform((2, 3), seed=1))

    _, masks = mg.scan(look, x, h, has_output=True)

    def given_masks(at):
        def fn(h, xs):
            x, keep, zone = xs
            return body(at["w"], lambda: keep, lambda: zone)(h, x)

        return [loop(fn, (at["x"], *masks), at["h"])]

    at = {"x": x, "h": h, "w": w}
    agree(first_order(drawing, at, 1), first_order(given_masks, at, 1))
    like = given_masks(at)
    expected = second_order(loss_of(given_masks, like, 2), at, 3, "reverse over reverse")
    for mixture in MIXTURES:
        agree(second_order(loss_of(drawing, like, 2), at, 3, mixture), expected)


def two_draws(s, unroll, checkpoint=None):
    """An inner scan that draws at each of two steps."""
    draw = lambda s, x: (s, mg.random.normal((), seed=1))  # noqa: E731
    return mg.scan(draw, None, s, has_output=True, length=2, unroll=unroll, checkpoint=checkpoint)[1]


@ways
def test_nested_scans_draw_apart(unroll):
    """New draws at every step of both loops, in the outer body beside the inner scan, and in a second inner scan."""

    def outer(s, x):
        return s, (mg.random.normal((), seed=1), two_draws(s, unroll), mg.random.normal((), seed=1))

    _, drawn = mg.scan(outer, np.ones(3), 0.0, has_output=True, unroll=unroll)
    numbers = np.concatenate([as_array(d).ravel() for d in drawn])
    assert len(np.unique(numbers)) == numbers.size == 12
    _, again = mg.scan(outer, np.ones(3), 0.0, has_output=True, unroll=unroll, checkpoint=2)
    same(tree.map(as_array, again), tree.map(as_array, drawn))


@ways
def test_two_scans_in_one_step_draw_apart(unroll):
    def outer(s, x):
        return s, (two_draws(s, unroll), mg.random.normal((), seed=1), two_draws(s, unroll))

    seen = []
    for checkpoint in (None, 1, 2):
        _, drawn = mg.scan(outer, np.ones(3), 0.0, has_output=True, unroll=unroll, checkpoint=checkpoint)
        numbers = np.concatenate([as_array(d).ravel() for d in drawn])
        assert len(np.unique(numbers)) == numbers.size == 15
        seen.append(numbers)
    same(seen[1:], seen[:1] * 2)


@ways
def test_an_inner_scan_draws_alike_with_and_without_checkpoints(unroll):
    # Once: each chunk of an inner scan counts as a scan of its own in the key.
    def outer(s, x, k):
        return s, (two_draws(s, unroll, k), mg.random.normal((), seed=1))

    runs = [
        mg.scan(lambda s, x, k=k: outer(s, x, k), np.ones(3), 0.0, has_output=True, unroll=unroll)[1]
        for k in (None, 1, 2, "sqrt")
    ]
    same([tree.map(as_array, run) for run in runs[1:]], [tree.map(as_array, runs[0])] * 3)


@ways
def test_checkpoint_inside_of_a_body_draws_the_same_again(unroll):
    def fn(s, x):
        return mg.checkpoint(lambda s, x: mg.tanh(s * x + mg.random.normal((), seed=4) * s))(s, x)

    def plain(s, x):
        return mg.tanh(s * x + mg.random.normal((), seed=4) * s)

    x = draws(0)((4,))
    for k in (None, 2):
        got = mg.vjp(lambda x, s, k=k: mg.scan(fn, x, s, unroll=unroll, checkpoint=k), x, 0.5)
        expected = mg.vjp(lambda x, s: mg.scan(plain, x, s, unroll=unroll), x, 0.5)
        agree((got[0], got[1](np.ones(4))), (expected[0], expected[1](np.ones(4))))


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@ways
@laws
@given(example=examples(), reverse=st.booleans(), seed=seeds, data=st.data())
def test_checkpoints_change_nothing(unroll, example, reverse, seed, data):
    """States and outputs bit for bit, gradients to rounding, with and without lengths; types and tracking too."""
    k = data.draw(st.sampled_from(("sqrt", 1, 2, 3, 5, 7)))
    n = data.draw(st.none() | lengths_for(example))
    options = {"reverse": reverse, "lengths": n, "unroll": unroll}
    same(example.call(mg.scan, checkpoint=k, **options), example.call(mg.scan, **options))
    at = example.variables()
    plain, saving = example.function(mg.scan, **options), example.function(mg.scan, checkpoint=k, **options)
    same(saving(at), plain(at))
    agree(first_order(saving, at, seed), first_order(plain, at, seed))


@ways
@pytest.mark.parametrize("mixture", MIXTURES)
@few
@given(example=examples(), reverse=st.booleans(), seed=seeds, data=st.data())
def test_checkpoints_change_no_second_derivative(unroll, mixture, example, reverse, seed, data):
    k = data.draw(st.sampled_from(("sqrt", 1, 2, 3, 5, 7)))
    n = data.draw(st.none() | lengths_for(example))
    options = {"reverse": reverse, "lengths": n, "unroll": unroll}
    at = example.variables()
    plain, saving = example.function(mg.scan, **options), example.function(mg.scan, checkpoint=k, **options)
    like = plain(at)
    expected = second_order(loss_of(plain, like, seed), at, seed, "reverse over reverse")
    agree(second_order(loss_of(saving, like, seed), at, seed, mixture), expected)


@ways
def test_checkpoints_track_what_a_plain_scan_tracks(unroll):
    """An integer state is no more differentiable for having been recomputed."""
    w = mg.tensor(0.5, requires_grad=True)

    def run(k):
        def fn(s, x):
            return (s[0] + 1, s[1] * w), (s[0], s[1] > 0.3, x * s[1])

        return mg.scan(fn, np.ones(4), (0, 1.0), has_output=True, unroll=unroll, checkpoint=k)

    plain, saving = tree.flatten(run(None))[0], tree.flatten(run(2))[0]
    assert [leaf.requires_grad for leaf in map(mg.asarray, saving)] == [
        leaf.requires_grad for leaf in map(mg.asarray, plain)
    ]
    for a, b in zip(saving, plain, strict=True):
        same(as_array(a), as_array(b))


@ways
def test_checkpoints_of_integers_alone(unroll):
    """Tokens in, a counter as state: no chunk is given anything that can be differentiated by."""
    table = mg.tensor(draws(0)((3, 2)), requires_grad=True)
    tokens = np.array([0, 1, 2, 0, 0])
    _, out = mg.scan(
        lambda s, x: (s + 1, mg.take(table, x, axis=0)), tokens, 0, has_output=True, unroll=unroll, checkpoint=2
    )
    out.sum().backward()
    same(table.grad, np.array([[3.0, 3.0], [1.0, 1.0], [1.0, 1.0]]))


@ways
def test_a_chunk_may_have_no_use_for_its_state(unroll):
    # Zeros take the place of its gradient, at order 2 among Tensors.
    def loss(w):
        return (mg.scan(lambda s, x: x * w, np.ones(4), 0.5, unroll=unroll, checkpoint=2) ** 2).sum()

    same(mg.grad(mg.grad(loss))(3.0), np.array(8.0))


@ways
def test_a_checkpoint_in_a_checkpoint_keeps_captured_gradients(unroll):
    # When the outer one runs again, the transform whose variable the inner one captures has finished.
    def nested(w):
        return mg.checkpoint(mg.checkpoint(lambda x: x * w))(2.0)

    def scanned(w):
        def body(s, x):
            return mg.scan(lambda s, x: s * w, None, s, length=2, unroll=unroll, checkpoint=1)[-1]

        return mg.scan(body, np.ones(2), 1.0, unroll=unroll, checkpoint=1)[-1]

    same(mg.grad(nested)(3.0), np.array(2.0))
    same(mg.jvp(nested, (3.0,), (1.0,))[1], np.array(2.0))
    same(mg.grad(scanned)(3.0), np.array(4 * 3.0**3))
    same(mg.grad(mg.grad(scanned))(3.0), np.array(12 * 3.0**2))


def test_a_checkpointed_loop_calls_its_body_twice_a_step():
    calls = []

    def fn(s, x):
        calls.append(1)
        return mg.tanh(s + x)

    for k, expected in ((None, 7), (1, 14), (3, 14), ("sqrt", 14), (100, 14)):
        calls.clear()
        mg.grad(lambda x, k=k: mg.scan(fn, x, 0.0, unroll=True, checkpoint=k).sum())(np.ones(7))
        assert len(calls) == expected, k
        calls.clear()
        mg.scan(fn, np.ones(7), 0.0, unroll=True, checkpoint=k)
        assert len(calls) == 7


@ways
def test_a_weight_updated_too_early_is_noticed(unroll):
    """A chunk that is computed again must see what it saw: a compiled one does, with the old array."""
    w = mg.tensor(0.5, requires_grad=True)
    loss = mg.scan(lambda s, x: s * w + x, np.ones(4), 0.0, unroll=unroll, checkpoint=2).sum()
    w.data = np.array(0.7)
    if not unroll:
        loss.backward()
        same(w.grad, mg.grad(lambda w: mg.scan(lambda s, x: s * w + x, np.ones(4), 0.0, unroll=True).sum())(0.5))
        return
    with pytest.raises(RuntimeError, match="after backward"):
        loss.backward()


# ---- scans in scans ------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("outer_checkpoint", [None, 2])
@pytest.mark.parametrize("inner_checkpoint", [None, "sqrt"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_a_scan_inside_of_a_scan(unroll, outer_checkpoint, inner_checkpoint, reverse):
    """A two-dimensional recurrence; the inner loop captures the outer state, the outer input and a shared weight."""
    draw = draws(0)
    at = {"x": draw((3, 4, 2)), "h": draw((2,)), "w": draw((2, 2)) * 0.5, "v": draw((2,))}

    def f(outer, inner):
        def of(at):
            def row(h, xs):
                last, cells = inner(
                    lambda s, x: (mg.tanh(x + s @ at["w"] + h * at["v"]),) * 2, xs + h, h * at["v"],
                    has_output=True, reverse=not reverse,
                )  # fmt: skip
                return 0.5 * h + 0.5 * last, (cells, last @ at["w"])

            return tree.flatten(outer(row, at["x"], at["h"], has_output=True, reverse=reverse))[0]

        return of

    slow = f(loop, loop)
    fast = f(
        lambda *a, **o: mg.scan(*a, **o, unroll=unroll, checkpoint=outer_checkpoint),
        lambda *a, **o: mg.scan(*a, **o, unroll=unroll, checkpoint=inner_checkpoint),
    )
    agree(first_order(fast, at, 1), first_order(slow, at, 1))
    like = slow(at)
    expected = second_order(loss_of(slow, like, 2), at, 3, "reverse over reverse")
    for mixture in MIXTURES:
        agree(second_order(loss_of(fast, like, 2), at, 3, mixture), expected)


@ways
@few
@given(example=examples(rows=None), seed=seeds)
def test_a_random_scan_inside_of_a_scan(unroll, example, seed):
    """The whole scan as the body of another one, its final state handed on."""

    def twice(apply):
        def run(fn, elems, init, *, has_output):
            def body(state, _):
                return apply(lambda s, x: fn(s, x) if has_output else (fn(s, x), ()), elems, state, has_output=True)

            return apply(body, np.arange(2), init, has_output=True)

        return run

    at = example.variables()
    fast = example.function(twice(lambda *a, **o: mg.scan(*a, **o, unroll=unroll)))
    slow = example.function(twice(loop))
    agree(first_order(fast, at, seed), first_order(slow, at, seed))


# ---- the tape ------------------------------------------------------------------------------------------------------


def test_an_input_that_the_steps_ignore_has_no_uses():
    s, x = mg.tensor(np.ones(2), requires_grad=True), mg.tensor(np.ones((3, 2)), requires_grad=True)
    with mg.Tape() as tape:
        mg.scan(lambda h, e: mg.tanh(e), x, s).sum().backward()
    assert tape.uses(s) == []
    assert len(tape.uses(x)) == 3


@ways
@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]], ids=["", "lengths"])
def test_the_uses_of_a_weight_add_up_to_its_gradient(unroll, checkpoint, lengths):
    # With checkpoint, the records of the forward run are thrown away; those of the second run count.
    example = cell_example("vanilla", steps=5, rows=3)
    weights = tracked(example.weights)
    with mg.Tape() as tape:
        states = mg.scan(
            example.body(weights), example.elems, example.init, lengths=lengths, unroll=unroll, checkpoint=checkpoint
        )
        (states * random_like(as_array(states), 0)).sum().backward()
    assert ("tanh" if unroll else "scan") in str(tape)  # a compiled scan is one record, its steps are seen on request
    for name, weight in weights.items():
        uses = tape.uses(weight)
        assert checkpoint is not None or len(uses) == 5, name
        agree(np.sum([use.gradient for use in uses], axis=0), weight.grad)


@ways
def test_backward_twice(unroll):
    """The records are freed once; with `retain` they serve again, and gradients accumulate."""
    for checkpoint in (None, 2):
        x = mg.tensor(draws(0)((4,)), requires_grad=True)
        loss = mg.scan(lambda s, x: mg.tanh(s + x), x, 0.0, unroll=unroll, checkpoint=checkpoint).sum()
        loss.backward(retain=True)
        once = x.grad.copy()
        loss.backward()
        agree(x.grad, 2 * once)
        with pytest.raises(RuntimeError, match="freed by an earlier backward"):
            loss.backward()


# ---- long, and large -----------------------------------------------------------------------------------------------


@ways
def test_backpropagation_through_2000_steps_is_exact(unroll):
    """h' = h P + x U with a permutation P and integers: every sum is exact, so BPTT is compared with ==."""
    steps, units = 2000, 5
    rng = np.random.default_rng(0)

    def integers(*shape):
        return rng.integers(-9, 10, shape).astype(np.float64)

    p, x, h, u = np.eye(units)[rng.permutation(units)], integers(steps, 2, 3), integers(2, units), integers(3, units)
    g = integers(steps, 2, units)
    states, pull = mg.vjp(lambda x, h, u, p: mg.scan(lambda h, x: h @ p + x @ u, x, h, unroll=unroll), x, h, u, p)
    dx, dh, du, dp = np.zeros_like(x), np.zeros_like(h), np.zeros_like(u), np.zeros_like(p)
    expected = [h]
    for t in range(steps):
        expected.append(expected[-1] @ p + x[t] @ u)
    same(states, np.stack(expected[1:]))
    for t in reversed(range(steps)):
        dh = dh + g[t]
        dx[t], du, dp, dh = dh @ u.T, du + x[t].T @ dh, dp + expected[t].T @ dh, dh @ p.T
    assert max(np.abs(a).max() for a in (dx, dh, du, dp)) < 2**53
    same(pull(g), (dx, dh, du, dp))
    t_x, t_h = integers(*x.shape), integers(*h.shape)
    tangent = mg.jvp(lambda x, h: mg.scan(lambda h, x: h @ p + x @ u, x, h, unroll=unroll), (x, h), (t_x, t_h))[1]
    assert (tangent * g).sum() == (t_x * dx).sum() + (t_h * dh).sum()


@ways
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_exact_with_lengths_checkpoints_and_float32(unroll, reverse):
    """Sums below 2**24 are exact in float32 too, in whatever order they are taken."""
    steps, rng = 100, np.random.default_rng(1)
    n = np.array([100, 0, 37, 64])
    x, g = (rng.integers(-3, 4, (steps, 4, 2)).astype(np.float32) for _ in range(2))
    p = np.eye(2, dtype=np.float32)[::-1].copy()
    gradients = {}
    for k in (None, 7, "sqrt"):
        states, pull = mg.vjp(
            lambda x, p, k=k: mg.scan(
                lambda h, x: h @ p + x, x, np.zeros((4, 2), np.float32),
                lengths=n, reverse=reverse, unroll=unroll, checkpoint=k,
            ), x, p,
        )  # fmt: skip
        gradients[k] = states, pull(g)
    expected, expected_pull = mg.vjp(
        lambda x, p: ragged(lambda h, x: h @ p + x, x, np.zeros((4, 2), np.float32), n, reverse=reverse), x, p
    )
    for got in gradients.values():
        same(got, (expected, expected_pull(g)))


@ways
@pytest.mark.parametrize("checkpoint", [None, "sqrt"])
def test_ten_thousand_steps_without_recursion(unroll, checkpoint):
    """Forward, backward, and letting go of a tape that nobody walked."""
    x = mg.tensor(np.ones(10_000), requires_grad=True)

    def states():
        return mg.scan(lambda s, x: 0.5 * s + x, x, 0.0, unroll=unroll, checkpoint=checkpoint)

    unused = states()
    del unused
    states()[-1].backward()
    same(x.grad[-40:], 0.5 ** np.arange(40)[::-1])
    assert not x.grad[:-1100].any()


def peak(f):
    """The memory that a call takes, in bytes, and what it leaves behind."""
    gc.collect()
    tracemalloc.start()
    try:
        f()
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return most, left


def training(steps, **options):
    """Forward and backward of an LSTM, for `peak`."""
    example = cell_example("lstm", steps=steps, rows=8, units=16, inputs=8)
    weights = tracked(example.weights)
    elems = mg.tensor(example.elems, requires_grad=True)

    def run():
        (h, _), _ = mg.scan(
            lambda s, x: (example.body(weights)(s, x)[0], ()), elems, example.init, has_output=True, **options
        )
        h.sum().backward()

    return run


@ways
def test_memory_is_linear_in_time_and_checkpoints_save_most_of_it(unroll):
    small, large = (peak(training(steps, unroll=unroll))[0] for steps in (64, 128))
    assert large < 2.3 * small
    checkpointed = training(128, unroll=unroll, checkpoint="sqrt")
    checkpointed()  # the first time there is something to compile, and buffers to keep
    saving, left = peak(checkpointed)
    assert saving < large / 3
    assert left < large / 20


@ways
@pytest.mark.parametrize("walk", ["watched", "hvp"])
def test_memory_is_linear_in_time_whoever_walks(unroll, walk):
    # T slices of elems, each with a gradient of the size of all elems, would be kept by a Tape and by order 2.
    def run(steps):
        x, w = draws(0)((steps, 4, 16)), draws(1)((16, 16)) / 16

        def loss(x, w):
            return mg.scan(lambda h, x: mg.tanh(x @ w + h), x, np.zeros((4, 16)), unroll=unroll).sum()

        def go():
            if walk == "hvp":
                mg.grad(lambda x: (mg.grad(loss)(x, w) ** 2).sum())(x)
            else:
                with mg.Tape():
                    loss(*tracked((x, w))).backward()

        return go

    small, large = (peak(run(steps))[0] for steps in (100, 200))
    assert large < 2.3 * small


@ways
def test_without_gradients_nothing_is_kept(unroll):
    steps = 128 if unroll else 1280  # what a trace takes does not grow with time
    example = cell_example("lstm", steps=steps, rows=8, units=16, inputs=8)
    weights = tracked(example.weights)

    def run(weights):
        fn = example.body(weights)
        return mg.scan(lambda s, x: (fn(s, x)[0], ()), example.elems, example.init, has_output=True, unroll=unroll)

    def inference():
        with mg.Tape() as tape, mg.no_grad():
            run(weights)
        assert len(tape) == 0

    inference()  # the first time there is something to compile, and buffers to keep
    assert peak(inference)[0] < peak(training(steps, unroll=unroll))[0] / 10
    with mg.Tape() as tape:
        run(example.weights)
    assert len(tape) == 0


@ways
def test_what_a_step_made_dies_with_the_result(unroll):
    """Without waiting for the garbage collector: there are no cycles."""
    seen = []

    def fn(s, x):
        new = mg.tanh(s + x)
        seen.append(weakref.ref(new))
        return new

    gc.collect()
    gc.disable()
    try:
        for checkpoint in (None, 2):
            seen.clear()
            result = mg.scan(fn, mg.tensor(np.ones(4), requires_grad=True), 0.0, unroll=unroll, checkpoint=checkpoint)
            result.sum().backward(retain=True)
            assert seen
            del result
            assert [ref() for ref in seen] == [None] * len(seen)
    finally:
        gc.enable()


# ---- on another backend --------------------------------------------------------------------------------------------


def on_device(values):
    """Every array of a pytree on the strict backend."""
    return tree.map(fake_cupy.backend.asarray, values)


def on_host(values):
    """Every array of a pytree back as NumPy's."""
    return tree.map(lambda leaf: fake_cupy.backend.to_host(leaf.array if isinstance(leaf, mg.Tensor) else leaf), values)


def device_first_order(f, at, like, seed):
    """`first_order` with everything on the strict backend, and the answers on the host."""
    values, pull = mg.vjp(f, on_device(at))
    (gradients,) = pull(on_device(random_like(like, seed)))
    _, tangents = mg.jvp(f, (on_device(at),), (on_device(random_like(at, seed + 1)),))
    answers = {f"output {i}": value for i, value in enumerate(values)}
    answers |= {f"gradient by {name}": gradient for name, gradient in gradients.items()}
    return on_host(answers | {f"tangent {i}": tangent for i, tangent in enumerate(tangents)})


@ways
@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize("lengths", [None, [2, 0, 4, 1]], ids=["", "lengths"])
def test_cells_on_the_strict_backend(unroll, cell, reverse, checkpoint, lengths):
    example = cell_example(cell, steps=4, rows=4)
    options = {"reverse": reverse, "lengths": lengths}
    slow = example.function(loop if lengths is None else ragged, **{k: v for k, v in options.items() if v is not None})
    fast = example.function(mg.scan, unroll=unroll, checkpoint=checkpoint, **options)
    at = example.variables()
    like = slow(at)
    with mg.use_backend("strict"):
        agree(device_first_order(fast, at, like, 1), first_order(slow, at, 1))


@ways
@few
@given(example=examples(outputs=False), reverse=st.booleans(), seed=seeds, data=st.data())
def test_random_bodies_on_the_strict_backend(unroll, example, reverse, seed, data):
    n = data.draw(st.none() | lengths_for(example))
    device = Example(**{**vars(example), "elems": on_device(example.elems), "init": on_device(example.init)})
    slow = example.function(loop if n is None else ragged, reverse=reverse, **({} if n is None else {"lengths": n}))
    at = example.variables()
    with mg.use_backend("strict"), fake_cupy.memory_order(seed):
        got = device_first_order(
            device.function(mg.scan, reverse=reverse, lengths=n, unroll=unroll), at, slow(at), seed
        )
    agree(got, first_order(slow, at, seed))


@ways
@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize("lengths", [None, "host", "device"])
def test_how_often_the_host_waits(unroll, lengths, checkpoint):
    """Never in a forward run, but to read lengths that lie on the device; once in a walk, to look for NaN."""
    example = cell_example("lstm", steps=4, rows=4)
    weights = tracked(on_device(example.weights))
    elems, init = on_device((example.elems, example.init))
    n = {None: None, "host": [2, 0, 4, 1], "device": on_device(np.array([2, 0, 4, 1]))}[lengths]
    with mg.use_backend("strict"):
        with fake_cupy.expect_syncs(lengths == "device"):
            _, outputs = mg.scan(
                example.body(weights), elems, init, has_output=True, lengths=n, unroll=unroll, checkpoint=checkpoint
            )
            loss = outputs["h"].sum()
        chunks = 4 if checkpoint is not None and unroll else 0  # two, each with a walk and a look at what it gave again
        with fake_cupy.expect_syncs(1 + chunks):
            loss.backward()


@ways
def test_draws_and_empty_scans_on_the_strict_backend(unroll):
    with mg.use_backend("strict"):
        x = mg.asarray(on_device(np.ones((3, 2))))

        def fn(s, x):
            return s + x * mg.random.normal((2,), seed=1), mg.random.bernoulli((2,), seed=2)

        device = mg.scan(fn, x, mg.zeros(2), has_output=True, unroll=unroll)
        nothing = mg.scan(fn, x[:0], mg.zeros(2), has_output=True, unroll=unroll)
        assert {leaf.backend.name for leaf in tree.flatten((device, nothing))[0]} == {"strict"}
    host = mg.scan(fn, mg.asarray(np.ones((3, 2))), mg.zeros(2), has_output=True, unroll=unroll)
    same(on_host(device), tree.map(as_array, host))
    assert nothing[1].shape == (0, 2)
