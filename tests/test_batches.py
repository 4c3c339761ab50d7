"""Batchers: every target once, whatever the length of the text, of the rows and of the chunks."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend import get_backend
from minigrad.training import bucketed, padded, streams

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
sizes = st.integers(1, 9)


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


# ---- streams -------------------------------------------------------------------------------------------------------


@quick
@given(count=st.integers(2, 60), batch=sizes, chunk=sizes)
def test_every_token_but_the_first_is_a_target_once(count, batch, chunk, backend):
    """And every token but the last is an input once, each target following its input: tokens are their own places."""
    pairs = []
    for inputs, targets, lengths in streams(backend.asarray(np.arange(count)), batch, chunk):
        for row, target_row, length in zip(backend.to_host(inputs), backend.to_host(targets), lengths, strict=True):
            pairs += zip(row[:length].tolist(), target_row[:length].tolist(), strict=True)
            assert (row[length:] == 0).all()
            assert (target_row[length:] == 0).all()
    assert sorted(pairs) == [(token, token + 1) for token in range(count - 1)]


@quick
@given(count=st.integers(2, 60), batch=sizes, chunk=sizes)
def test_rows_are_contiguous_and_chunks_follow_each_other(count, batch, chunk):
    rows = [[] for _ in range(batch)]
    chunks = list(streams(np.arange(count), batch, chunk))
    for inputs, targets, lengths in chunks:
        assert inputs.shape == targets.shape == (batch, inputs.shape[1])
        assert inputs.shape[1] == max(lengths) > 0
        for row, tokens, length in zip(rows, inputs, lengths, strict=True):
            row.extend(tokens[:length].tolist())
    assert [token for row in rows for token in row] == list(range(count - 1))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    for inputs, _, lengths in chunks[:-1]:
        assert inputs.shape[1] == chunk
        assert (lengths == chunk).all()
    assert chunks[-1].inputs.shape[1] <= chunk
    assert len(chunks) == -(-max(map(len, rows)) // chunk)


@pytest.mark.parametrize(("count", "batch", "chunk"), [(13, 2, 3), (13, 3, 4), (7, 1, 6), (7, 1, 3), (5, 4, 1)])
def test_a_row_that_is_a_multiple_of_the_chunk_ends_with_a_whole_one(count, batch, chunk):
    assert (count - 1) % (batch * chunk) == 0
    chunks = list(streams(np.arange(count), batch, chunk))
    assert len(chunks) == (count - 1) // (batch * chunk)
    for inputs, _, lengths in chunks:
        assert inputs.shape == (batch, chunk)
        assert (lengths == chunk).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32"])
def test_streams_keep_the_dtype_and_the_backend(dtype, backend):
    tokens = backend.asarray(np.arange(6).astype(dtype))
    for inputs, targets, lengths in streams(tokens, 2, 2):
        assert type(inputs) is type(targets) is backend.array_type
        assert inputs.dtype == targets.dtype == dtype
        assert lengths.dtype.kind == "i"


def test_streams_of_one_row_learn_what_one_row_reads():
    found = [(i.tolist(), t.tolist()) for i, t, _ in streams([3, 1, 4, 1, 5], 1, 3)]
    assert found == [([[3, 1, 4]], [[1, 4, 1]]), ([[1]], [[5]])]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1], 1, 1), ValueError, r"tokens \(N,\) with N >= 2, one to read and one to predict, got \(1,\)"),
        (([], 1, 1), ValueError, r"got \(0,\)"),
        (([[1, 2]], 1, 1), ValueError, r"got \(1, 2\)"),
        (([1, 2], 0, 1), ValueError, "streams: batch is at least 1, got 0"),
        (([1, 2], 1, 2.0), TypeError, "streams: chunk is an integer, got float"),
    ],
)
def test_streams_refuse_bad_input_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        streams(*arguments)


# ---- padded, bucketed ----------------------------------------------------------------------------------------------

BATCHERS = {"padded": padded, "bucketed": bucketed}
many = st.lists(st.integers(0, 7), max_size=20)


def labelled(lengths):
    """Sequences whose every token is another one."""
    starts = np.cumsum([0, *lengths])
    return [np.arange(start, start + n) for start, n in zip(starts[:-1], lengths, strict=True)]


@pytest.mark.parametrize("name", BATCHERS)
@quick
@given(lengths=many, batch=sizes, seed=st.none() | st.integers(0, 9))
def test_every_step_of_every_sequence_is_in_one_batch(name, lengths, batch, seed, backend):
    sequences = labelled(lengths)
    found, seen = [], []
    for values, here, rows in BATCHERS[name]([backend.asarray(s) for s in sequences], batch, seed, fill=-1):
        assert type(values) is backend.array_type
        assert values.shape == (len(rows), max(here))
        assert 0 < len(rows) <= batch
        for row, n, at in zip(backend.to_host(values), here, rows, strict=True):
            assert row[:n].tolist() == sequences[at].tolist()
            assert (row[n:] == -1).all()
            found += row[:n].tolist()
        seen.append(rows.tolist())
    order = [at for rows in seen for at in rows]
    assert sorted(order) == list(range(len(lengths)))
    assert sorted(found) == list(range(sum(lengths)))
    assert len(seen) == -(-len(lengths) // batch)
    if name == "padded" and seed is None:
        assert order == list(range(len(lengths)))


@pytest.mark.parametrize("name", BATCHERS)
@quick
@given(lengths=st.lists(st.integers(1, 7), max_size=20), batch=sizes, seed=st.none() | st.integers(0, 9))
def test_every_target_of_every_sequence_is_there_once(name, lengths, batch, seed):
    """Pairs of inputs and targets: every token but the first of its sequence, which nothing precedes."""
    sequences = labelled(lengths)
    pairs = []
    for (inputs, targets), here, _ in BATCHERS[name]([(s[:-1], s[1:]) for s in sequences], batch, seed):
        for row, target_row, n in zip(inputs, targets, here, strict=True):
            pairs += zip(row[:n].tolist(), target_row[:n].tolist(), strict=True)
    assert sorted(pairs) == [(token - 1, token) for s in sequences for token in s[1:].tolist()]


@quick
@given(lengths=many, batch=sizes, seed=st.none() | st.integers(0, 9))
def test_buckets_do_not_overlap(lengths, batch, seed):
    """Sorted by their shortest and longest, the batches' ranges of lengths follow each other."""
    ranges = sorted((min(here), max(here)) for _, here, _ in bucketed(labelled(lengths), batch, seed))
    assert all(longest <= shortest for (_, longest), (shortest, _) in itertools.pairwise(ranges))


@pytest.mark.parametrize("name", BATCHERS)
def test_a_seed_is_an_order(name):
    sequences = labelled([1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 3, 1])

    def order(seed):
        return [rows.tolist() for _, _, rows in BATCHERS[name](sequences, 3, seed)]

    assert order(5) == order(5)
    assert order((5, 1)) == order((5, 1))
    assert len({str(order(seed)) for seed in (None, 5, 6, (5, 1), (5, 2))}) == 5


@pytest.mark.parametrize("name", BATCHERS)
def test_steps_may_be_vectors_and_sequences_lists(name):
    vectors = [np.ones((2, 3), "float32"), np.ones((1, 3), "float32")]
    values, lengths, _ = next(BATCHERS[name]([(v, [7] * len(v)) for v in vectors], 2))
    assert values[0].shape == (2, 2, 3)
    assert values[0].dtype == "float32"
    assert values[1].sum() == 21
    assert sorted(lengths) == [1, 2]
    values, lengths, _ = next(BATCHERS[name]([[], [1, 2]], 2))
    assert values.dtype.kind == "i"
    assert lengths.tolist() == [0, 2]


@pytest.mark.parametrize("name", BATCHERS)
@pytest.mark.parametrize(
    ("sequences", "batch", "error", "message"),
    [
        ([[1]], 0, ValueError, "batch is at least 1, got 0"),
        ([[1], [1.5]], 1, ValueError, r"differ in T alone: sequence 0 is int64\(1,\), and sequence 1 float64\(1,\)"),
        ([np.ones((1, 2)), np.ones((1, 3))], 1, ValueError, r"sequence 1 float64\(1, 3\)"),
        ([1, 2], 1, ValueError, r"sequence 0 is int64\(\), and sequence 0 int64\(\)"),
        ([(1, 2)], 1, ValueError, r"sequence 0 is int64\(\)"),
        ([([1, 2], [1])], 1, ValueError, r"have one length, got \[2, 1\] in sequence 0"),
        ([([1], [1]), [1]], 1, TypeError, "all arrays, or all tuples of equally many"),
        ([([1], [1]), ([1],)], 1, TypeError, "all arrays, or all tuples of equally many"),
    ],
)
def test_sequences_that_do_not_fit_are_refused_at_once(name, sequences, batch, error, message):
    with pytest.raises(error, match=message):
        BATCHERS[name](sequences, batch)


@pytest.mark.parametrize("name", BATCHERS)
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("int64", 0.5),
        ("int64", math.nan),
        ("int64", 2**63),
        ("uint8", -1),
        ("uint8", 256),
        ("bool", 2),
        ("float32", 1e300),
        ("float32", 2**24 + 1),
        ("float32", 1j),
        ("float64", "0"),
        ("float64", None),
        ("float64", [0.0, 0.0]),
    ],
)
def test_a_fill_that_the_dtype_does_not_hold_is_refused_at_once(name, dtype, fill, backend):
    sequences = [backend.asarray(np.ones(n, dtype)) for n in (2, 1)]
    for items in (sequences, [(np.ones(len(s)), s) for s in sequences]):
        with pytest.raises(
            ValueError, match=f"{name}: fill is a number that .*, holds exactly, got {re.escape(repr(fill))}"
        ):
            BATCHERS[name](items, 2, fill=fill)


@pytest.mark.parametrize("name", BATCHERS)
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("int64", -1),
        ("int64", 2.0),
        ("int64", 2**63 - 1),
        ("uint8", np.int64(255)),
        ("bool", True),
        ("float16", math.nan),
        ("float32", -math.inf),
        ("float32", np.float32(0.1)),
        ("float64", 0.1),
    ],
)
def test_a_fill_stands_in_the_padding_as_it_is(name, dtype, fill, backend):
    values, _, rows = next(BATCHERS[name]([backend.asarray(np.ones(n, dtype)) for n in (2, 1)], 2, fill=fill))
    assert values.dtype == dtype
    padding = backend.to_host(values)[rows.tolist().index(1), 1]
    np.testing.assert_array_equal(padding, np.array(fill, dtype))
    assert padding == fill or math.isnan(fill)
