"""Random numbers: a function of their key alone, distinct for distinct keys, and distributed as they say."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad import random
from minigrad.testing import fake_cupy

DRAWS = {
    "normal": lambda seed: random.normal((2, 3), seed),
    "uniform": lambda seed: random.uniform((2, 3), seed),
    "bernoulli": lambda seed: random.bernoulli(50, seed),
    "categorical": lambda seed: random.categorical(np.zeros((20, 4)), seed),
}


@pytest.fixture(autouse=True)
def _scoped_state_is_as_it_was():
    before = random.normal(2, seed=0).data
    yield
    assert np.array_equal(random.normal(2, seed=0).data, before)


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_a_function_of_its_seed(name):
    draw = DRAWS[name]
    assert np.array_equal(draw(3).data, draw(3).data)
    assert not np.array_equal(draw(3).data, draw(4).data)
    assert np.array_equal(draw(np.int64(3)).data, draw(3).data)
    assert isinstance(draw(3), mg.Tensor)
    assert not draw(3).requires_grad


def test_the_draws_are_pinned():
    """These numbers are written into checkpoints and papers: changing them is a breaking change, to be announced."""
    first = random.normal(2, seed=0).data
    assert np.array_equal(first, random.generator(0).standard_normal(2))
    assert random.generator(0).bit_generator.__class__ is np.random.Philox


def test_numpy_s_global_generator_is_left_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002  # the global state is what is asked about
    random.normal(5, seed=1)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def first_number(seed):
    return float(random.generator(seed).random())


def keyed(call, *steps):
    """The first number of draw number `call` with seed 7 at the given steps of nested scans."""

    def inside(rest):
        if not rest:
            for _ in range(call):
                random.generator(7)
            return first_number(7)
        with random.steps() as enter:
            enter(rest[0])
            return inside(rest[1:])

    return inside(steps)


def test_distinct_keys_give_distinct_numbers():
    seeds = [0, 1, 7, 2**32, 2**64 + 7, [0, 0], [7, 0], [0, 7], [7, 0, 0], [0], (1, 2), [2**32, 1], [1, 2**32], []]
    found = {repr(seed): first_number(seed) for seed in seeds}
    found.pop("[0]")  # a sequence of one seed is that seed
    assert first_number([0]) == first_number(0)
    for call, depth in itertools.product(range(3), (1, 2)):
        for steps in itertools.product(range(3), repeat=depth):
            found[call, steps] = keyed(call, *steps)
    assert len(set(found.values())) == len(found)


def test_in_a_scan_the_key_is_seed_call_and_step():
    def body(total, x):
        draws = mg.stack([random.normal(2, seed=5), random.normal(2, seed=5)])
        return total + x * draws[0] + draws[1], draws

    xs = np.ones((3, 2))
    once, again, unrolled = (
        mg.scan(body, xs, np.zeros(2), has_output=True, unroll=unroll) for unroll in (False, False, True)
    )
    assert np.array_equal(once[1], again[1])  # a function of the key
    assert np.array_equal(once[1], unrolled[1])
    assert len(np.unique(once[1])) == once[1].size  # a new draw at each step, and at each call in it
    bound = 64 * np.finfo(float).eps * np.abs(once[1]).sum(axis=(0, 1))  # sums are reassociated
    assert np.all(np.abs(once[0] - unrolled[0]) <= bound)


def test_the_count_of_calls_starts_anew_at_each_step_and_ends_with_the_scope():
    def two():
        return first_number(1), first_number(1)

    outside = two()
    assert outside[0] == outside[1]
    with random.steps() as enter:
        enter(0)
        first = two()
        enter(1)
        second = two()
        enter(0)
        assert two() == first
    assert len({*first, *second, outside[0]}) == 5
    with pytest.raises(KeyError), random.steps() as enter:
        enter(3)
        raise KeyError
    assert two() == outside


def test_another_thread_is_outside_of_the_scan():
    seen = []
    with random.steps() as enter:
        enter(0)
        thread = threading.Thread(target=lambda: seen.append(first_number(1)))
        thread.start()
        thread.join()
    assert seen == [first_number(1)]


def test_every_backend_draws_the_same():
    here = {name: draw(11) for name, draw in DRAWS.items()}
    with mg.use_backend("strict"):
        for name, draw in DRAWS.items():
            if name != "categorical":  # which follows its logits
                assert type(draw(11).data) is fake_cupy.StrictArray
            assert np.array_equal(draw(11).numpy(), here[name].numpy())
        logits = mg.tensor(np.zeros((20, 4)))
        drawn = random.categorical(logits, 11)
        assert type(drawn.data) is fake_cupy.StrictArray
        assert np.array_equal(drawn.numpy(), here["categorical"].numpy())


def test_dtypes_and_shapes():
    for draw in (random.normal, random.uniform, random.bernoulli):
        assert draw((), 0).shape == ()
        assert type(draw((), 0).data) is np.ndarray
        assert draw((0, 2), 0).shape == (0, 2)
        assert draw(3, 0).dtype == np.float64
        assert draw(3, 0, dtype="float32").dtype == np.float32
    assert np.array_equal(random.normal(4, 0, dtype="float32").data, random.normal(4, 0).data.astype("float32"))
    assert random.categorical(np.zeros(3), 0).shape == ()
    assert random.categorical(np.zeros((2, 5, 3)), 0).shape == (2, 5)
    assert random.categorical(np.zeros((2, 3)), 0).dtype == np.int64


N = 20_000


def test_the_distributions():
    x = random.normal(N, seed=1).data
    assert abs(x.mean()) < 4 / N**0.5
    assert abs(x.var() - 1) < 4 * (2 / N) ** 0.5
    u = random.uniform(N, seed=2, low=-1.0, high=3.0).data
    assert u.min() >= -1.0
    assert u.max() < 3.0
    assert abs(u.mean() - 1.0) < 4 * 4 / (12 * N) ** 0.5
    b = random.bernoulli(N, seed=3, p=0.3).data
    assert set(np.unique(b)) == {0.0, 1.0}
    assert abs(b.mean() - 0.3) < 4 * (0.21 / N) ** 0.5
    logits = np.log([0.1, 0.2, 0.7])
    c = np.bincount(random.categorical(np.tile(logits, (N, 1)), seed=4).data, minlength=3) / N
    assert np.all(np.abs(c - [0.1, 0.2, 0.7]) < 4 * 0.5 / N**0.5)


def test_certain_outcomes():
    assert random.bernoulli(1000, seed=0, p=0.0).data.max() == 0.0
    assert random.bernoulli(1000, seed=0, p=1.0).data.min() == 1.0
    assert set(random.categorical(np.tile([0.0, -np.inf, -np.inf], (100, 1)), seed=0).data) == {0}


def test_a_narrow_uniform_stays_below_its_upper_end(monkeypatch):
    """The largest double below 1 rounds to 1 in float32; `log(1 - u)` would be minus infinity, once in 30 million."""

    class Largest:
        def uniform(self, low, high, shape):
            return np.full(shape, low + (high - low) * (1 - 2.0**-53))

        def random(self, shape=(), dtype=np.float64):
            return np.full(shape, 1 - 2.0**-53 if dtype == np.float64 else 1 - 2.0**-24, dtype)

    monkeypatch.setattr(random, "generator", lambda seed: Largest())
    assert random.uniform(3, seed=0, dtype="float32").data.max() < 1.0


def test_a_draw_is_a_constant_of_the_trace():
    x = np.array([1.0, 2.0])
    noise = random.normal(2, seed=9).data
    assert np.array_equal(mg.grad(lambda x: (x * random.normal(2, seed=9)).sum())(x), noise)
    logits = mg.tensor([0.0, 1.0], requires_grad=True)
    assert random.categorical(logits, 0).record is None


def test_a_class_is_the_one_that_wins_with_gumbel_noise():
    """Also where it is drawn in a scan, one class a row and step."""
    logits = np.random.default_rng(0).normal(size=(3, 2, 5))
    noise = random.generator(7).gumbel(size=(3, 2, 5))
    assert np.array_equal(random.categorical(logits, 7).data, np.argmax(logits + noise, axis=-1))

    def body(state, x):
        return state, random.categorical(x, 7)

    drawn = [mg.scan(body, logits, 0.0, has_output=True, unroll=unroll)[1] for unroll in (True, False)]
    assert np.array_equal(*drawn)
    assert drawn[0].dtype == np.int64


@pytest.mark.parametrize("seed", [-1, [1, -2]])
def test_a_negative_seed_is_an_error(seed):
    with pytest.raises(ValueError, match="at least 0"):
        random.normal(2, seed)


@pytest.mark.parametrize("seed", [1.5, None, "a", [0.5], np.array([1, 2])])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError):
        random.normal(2, seed)


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_a_probability_lies_between_0_and_1(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        random.bernoulli(2, 0, p=p)


@pytest.mark.parametrize("backend", ["numpy", "strict"])
@pytest.mark.parametrize(
    ("logits", "got"),
    [
        ([0.0, np.nan], "nan as the largest logit$"),
        ([np.inf, 0.0], "inf as the largest logit$"),
        ([-np.inf, -np.inf], "-inf as the largest logit$"),
        ([[0.0, 1.0], [-np.inf, -np.inf]], "-inf as the largest logit of row 1$"),
        ([[[0.0, 1.0], [-np.inf, np.nan]], [[0.0, 1.0], [0.0, np.inf]]], "nan as the largest logit of row 0, 1$"),
    ],
)
def test_logits_that_are_no_distribution_are_refused(logits, got, backend):
    """An argmax would always take the NaN, and class 0 where all are impossible."""
    with mg.use_backend(backend), pytest.raises(ValueError, match=f"logits are numbers, or -inf.*{got}"):
        random.categorical(mg.tensor(logits), 0)


def test_categorical_of_integers_and_of_no_rows():
    assert random.categorical([0, 1000], 0) == 1
    assert random.categorical(np.zeros((0, 3)), 0).shape == (0,)


def test_a_trace_cannot_refuse_logits():
    """As the docstring says: there is nothing to see while a scan's body is traced; unrolled, there is."""
    logits = np.array([[0.0, np.nan], [-np.inf, -np.inf]])

    def draw(unroll):
        return mg.scan(lambda s, x: (s, random.categorical(x, 7)), logits, 0.0, has_output=True, unroll=unroll)[1]

    assert draw(unroll=False).tolist() == [1, 0]
    with pytest.raises(ValueError, match="nan as the largest logit"):
        draw(unroll=True)
