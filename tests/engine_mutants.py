"""Mutants of the engine: each breaks the walk, the tape or what rules share in one place, and names who must notice.

Every check is a few numbers long and right by pencil and paper. `test_mutants` runs them, with and without the mutant.
"""

from functools import partial

import numpy as np

import minigrad as mg
from minigrad import hold, tape, transforms, walk
from minigrad.ops import indexing, op
from minigrad.ops.unstack import unstack
from minigrad.testing.mutate import Patch, edited, patched

X, Y = np.array([0.5, -1.25, 2.0]), np.array([[1.0, -2.0, 0.25], [3.0, 0.5, -0.75]])
LARGE = np.arange(-walk.LARGE, walk.LARGE, 2.0) / walk.LARGE  # the walk has ways of its own with large arrays
LARGE = np.concatenate([LARGE, LARGE + 0.5])


def equal(got, expected):
    assert type(got) is type(expected) is np.ndarray
    assert got.dtype == expected.dtype
    assert got.tolist() == expected.tolist()


def tracked(x):
    return mg.tensor(x, requires_grad=True)


# ---- the walk --------------------------------------------------------------------------------------------------------


def check_uses_add_up():
    equal(mg.grad(lambda x: (x * 2 + x * 3).sum())(X), np.full(3, 5.0))
    equal(mg.grad(lambda x: (x * x).sum())(X), 2 * X)


def check_three_uses_add_up():
    equal(mg.grad(lambda x: (x * 2 + x * 3 + x * 4).sum())(X), np.full(3, 9.0))


def check_roots_add_up():
    """One tensor may be given back twice."""

    def twice(x):
        y = x * 2
        return y, y

    equal(mg.vjp(twice, X)[1]((X, X))[0], 4 * X)


def check_order():
    """A value is not passed on before all who use it have said what they want of it."""

    def f(x):
        y = x * 2
        z = y * 3
        return (y + z * z).sum()

    equal(mg.grad(f)(X), 2 + 72 * X)


def check_diamond():
    """z = x + y hands one cotangent to both, and then x gets more: y must not."""

    def f(x, y):
        p = x * 5
        z = x + y
        return (p + z * 2).sum()

    gx, gy = mg.grad(f, (0, 1))(LARGE, LARGE)
    equal(gx, np.full(LARGE.shape, 7.0))
    equal(gy, np.full(LARGE.shape, 2.0))


def check_cotangents_survive():
    """What the caller passes in is his, whatever is added up on the way."""
    g = np.ones(LARGE.shape)
    _, pull = mg.vjp(lambda x: (x + x) + x, LARGE)
    equal(pull(g)[0], np.full(LARGE.shape, 3.0))
    equal(g, np.ones(LARGE.shape))


def check_constants_in_forward_mode():
    equal(mg.jvp(lambda x: x * 3 + mg.sin(Y), (X,), (np.ones(3),))[1], np.full((2, 3), 3.0))


def check_forward_mode_adds_up():
    equal(mg.jvp(lambda x, y: x * y, (X, X), (np.ones(3), np.ones(3)))[1], 2 * X)


def check_slices_add_up():
    """Also to what another op has handed on before, and still holds."""

    def f(x, y):
        parts = x[:2] * 2 + x[1:] * 3
        z = x + y
        return parts.sum() + (z * 5).sum()

    gx, gy = mg.grad(f, (0, 1))(X, X)
    equal(gx, np.array([7.0, 10.0, 8.0]))
    equal(gy, np.full(3, 5.0))
    equal(
        mg.grad(lambda x: (x[np.array([0, 0])] * 2).sum() + (x[0] * 3).sum() + (x * 4).sum())(X),
        np.array([11.0, 4.0, 4.0]),
    )
    equal(mg.grad(lambda x: (x[X > 0] * 2).sum() + x[0] * 3 + (x[::2] * 4).sum())(X), np.array([9.0, 0.0, 6.0]))
    equal(mg.grad(lambda x: (x[:2] * 2 + x[1:] * 3 + x[:2] * 4).sum())(X), np.array([6.0, 9.0, 3.0]))


def check_parts_stay_apart():
    x = tracked(Y)
    first, second = unstack(x)
    (first * 2 + second + first * 3).backward(np.ones(3))
    equal(x.grad, np.array([[5.0] * 3, [1.0] * 3]))


def check_perturbations_apart():
    """d/dx [x d/dy (x + y)] is 1, and d/dx [x d/dy (x y)] is 2 x."""
    assert float(mg.grad(lambda x: x * mg.grad(lambda y: x + y)(2.0))(3.0)) == 1
    assert float(mg.grad(lambda x: x * mg.grad(lambda y: x * y)(2.0))(3.0)) == 6


def check_masked_branches():
    x = np.array([0.0, 4.0])
    equal(mg.grad(lambda x: mg.where(x.data > 0, mg.sqrt(x), 0.0).sum())(x), np.array([0.0, 0.25]))


def check_masked_products_at_order_2():
    """What is masked is as good as 0, in the derivative of a derivative too."""
    mask, x = np.array([False, True]), np.array([1.0, 2.0])

    def curvature(first_row):
        a = np.array([first_row, [3.0, 4.0]])
        slope = mg.grad(lambda x: (mg.where(mask, mg.matmul(a, x * x), 0.0) ** 2).sum())
        return mg.grad(lambda x: slope(x).sum())(x)

    equal(curvature([np.inf, 1.0]), curvature([0.0, 0.0]))


# ---- backward and its tensors ----------------------------------------------------------------------------------------


def check_grad_is_private():
    x, g = tracked(X), np.ones(3)
    (x + 0.0).backward(g)
    x.grad[...] = 7.0
    equal(g, np.ones(3))


def check_grad_accumulates():
    x = tracked(X)
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    equal(x.grad, np.full(3, 5.0))


def check_retain():
    x = tracked(X)
    y = (x * x).sum()
    y.backward(retain=True)
    y.backward()
    equal(x.grad, 4 * X)


def check_freed():
    y = (tracked(X) * 2).sum()
    y.backward()
    try:
        y.backward()
    except RuntimeError:
        return
    raise AssertionError("a second backward walked over records that the first had freed")


def check_no_grad():
    with mg.no_grad():
        assert not (tracked(X) * 2).requires_grad


def check_stop_gradient():
    equal(mg.grad(lambda x: (mg.stop_gradient(x) * x).sum())(X), X)


def check_needed_arrays_are_read_only():
    x = tracked(X)
    y = x * x
    try:
        x.data[0] = 9.0
    except ValueError:
        equal(mg.grad(lambda x: (x * x).sum())(X), 2 * X)
        assert y.requires_grad
        return
    raise AssertionError("an array that backward needs was written to")


def check_checkpoint():
    f = lambda x: mg.sin(x) * x  # noqa: E731
    equal(mg.grad(lambda x: mg.checkpoint(f)(x).sum())(X), mg.grad(lambda x: f(x).sum())(X))


def check_contributions():
    w = tracked(2.0)
    with mg.Tape() as watched:
        (w * 3.0 + w * 4.0).backward()
    assert [float(use.gradient) for use in watched.uses(w)] == [3.0, 4.0]


# ---- what rules share ------------------------------------------------------------------------------------------------


def check_broadcasting_is_undone():
    gx, gy = mg.grad(lambda x, y: (x * y).sum(), (0, 1))(X, Y)
    equal(gx, Y.sum(axis=0))
    equal(gy, np.stack([X, X]))


def check_dtypes():
    x = X.astype(np.float32)
    equal(mg.grad(lambda x: (x * X).sum())(x), x * 0 + X.astype(np.float32))
    equal(mg.jvp(lambda x: x + X, (x,), (np.ones(3, np.float32),))[1], np.ones(3))

    joined = mg.grad(lambda x, y: (mg.concatenate([x, y]) * 3).sum(), (0, 1))(x, X)
    for gradient, like in zip(joined, (x, X), strict=True):
        equal(gradient, np.full(3, 3, like.dtype))
    equal(mg.jvp(lambda x: mg.astype(x, "float32"), (X,), (np.ones(3),))[1], np.ones(3, np.float32))


def check_dtypes_at_order_2():
    """The second derivative of float32 numbers, by both modes, is float32, also of what scatters and gathers."""
    x = X.astype(np.float32)

    def slope(x):
        return mg.grad(lambda x: (x[np.array([0, 0, 2])] ** 2).sum())(x)

    expected = np.array([4.0, 0.0, 2.0], np.float32)
    equal(mg.grad(lambda x: slope(x).sum())(x), expected)
    equal(mg.jvp(slope, (x,), (np.ones(3, np.float32),))[1], expected)


def check_tangents_are_broadcast():
    equal(mg.jvp(lambda x: x + Y, (X,), (X,))[1], np.stack([X, X]))


ENGINE = [
    Patch(name, partial(edited, function, old, new), check)
    for name, function, old, new, check in (
        ("gradients overwrite", walk.Walk._pull_back, "totals[parent] = added(totals[parent], gradient)",
         "totals[parent] = gradient", check_uses_add_up),
        ("the second use is forgotten", walk.Walk._pull_back, "totals[parent] = added(totals[parent], gradient)",
         "pass", check_uses_add_up),
        ("gradients overwrite in place", walk.Walk._pull_back, "total += gradient", "total[...] = gradient",
         check_three_uses_add_up),
        ("the third use is forgotten", walk.Walk._pull_back, "total += gradient", "pass", check_three_uses_add_up),
        ("topological order reversed", walk.Walk._pull_back, "reversed(self.order)", "self.order", check_order),
        ("records in the order of their discovery", walk.reachable, "order.sort(key=_number)", "pass", check_order),
        ("the walk owns what others hold", walk.Walk._pull_back,
         'gradient.size > LARGE and in_place and not slowly and getattr(op, "gives_new_arrays", False)', "in_place",
         check_diamond),
        ("the sum is written into the cotangent", walk.Walk._pull_back,
         "totals[parent] = added(totals[parent], gradient)", "totals[parent] += gradient", check_cotangents_survive),
        ("roots overwrite", walk.Walk._pull_back,
         "totals[record] = added(totals[record], g) if record in totals else g", "totals[record] = g",
         check_roots_add_up),
        ("forward mode wants all tangents", walk.Walk._push_forward, "any(tangent is not None",
         "all(tangent is not None", check_constants_in_forward_mode),
        ("forward mode forgets the second input", op.Elementwise.push, "total + term", "total",
         check_forward_mode_adds_up),
        ("slices are added to what others hold", indexing.getitem_dx_into, "total if owned else total.copy()", "total",
         check_slices_add_up),
        ("of several parts the last is left", tape.Pick.pull_into, "{} if total is None else total", "{}",
         check_parts_stay_apart),
        ("the careful walk is not careful", walk.Walk._optimistic, "scoped(careful, True)", "scoped(careful, False)",
         check_masked_branches),
        ("products take no care at order 2", op.absorbing, "careful.get() is not True", "careful.get() is True",
         check_masked_products_at_order_2),
        ("NaN is not looked for", walk.Walk._optimistic,
         "if not arrays or not backend_of(arrays[0]).any_nan(arrays):", "if True:", check_masked_branches),
        ("nobody differentiates a derivative again", transforms._Trace._walk,
         "foreign and tape.recorder.get() is not None", "False", check_perturbations_apart),
        ("the cotangent itself becomes .grad", walk.backward, "gradient if leaf in walk.owned else gradient.copy()",
         "gradient", check_grad_is_private),
        (".grad is overwritten", walk.backward, "leaf.grad = added(leaf.grad, gradient)", "leaf.grad = gradient",
         check_grad_accumulates),
        ("retain is ignored", walk.backward, "if not retain:", "if True:", check_retain),
        ("nothing is freed", walk.backward, "if not retain:", "if False:", check_freed),
        ("no_grad records", tape.no_grad.__wrapped__, "scoped(recorder, None)", "scoped(recorder, Record)",
         check_no_grad),
        ("stop_gradient does not stop", transforms.stop_gradient, "return", "return x\n    return",
         check_stop_gradient),
        ("needed arrays stay writeable", hold._take, "backend.freeze(array)", "pass",
         check_needed_arrays_are_read_only),
        ("contributions are not noted", tape.WatchedRecord.note, "in contributions", "in contributions[::-1]",
         check_contributions),
        ("gradients keep the dtype of the result", op.unbroadcast, "g = g.astype(like.dtype)", "pass", check_dtypes),
        ("tangents keep the dtype of the input", op.broadcast_like, "tangent = tangent.astype(out.dtype)", "pass",
         check_dtypes),
        ("what is scattered comes back in float64", indexing.scatter_add_dg, "getitem_(g, index=index)",
         'getitem_(g, index=index).astype("float64")', check_dtypes_at_order_2),
        ("tangents keep the shape of the input", op.broadcast_like, "tangent = tangent + zeros_like(out)", "pass",
         check_tangents_are_broadcast),
    )
] + [
    Patch("every sum of gradients is its last term", partial(patched, tape.added, lambda a, b: b), check_uses_add_up),
    Patch("broadcasting is not undone", partial(patched, op.unbroadcast, lambda g, like, out, name: g),
          check_broadcasting_is_undone),
]  # fmt: skip
