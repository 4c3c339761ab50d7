"""examples/sentiment.py: no text is in two parts, padding says nothing, and a net learns what a bag of words cannot."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

for library in ("matplotlib", "rich", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")

sentiment, documentation = importlib.import_module("sentiment"), importlib.import_module("plumbing.documentation")
Labelled = sentiment.Labelled
TINY = sentiment.Config(embedding=6, units=5, dropout=0.0, hidden=0.0, batch=8, steps=6)
OPTIONS = "--embedding 6 --units 5 --batch 8 --steps 6".split()
QUIET = sentiment.Console(file=io.StringIO())


def numbered(label, count):
    return [Labelled(label, f"{label} number {i}") for i in range(count)]


def tsv(path, lines):
    path.write_text("".join(f"{label}\t{text}\n" for label, text in lines), encoding="utf-8")
    return path


def parts_of(corpus):
    return corpus.learnt, corpus.validation, corpus.test


# ---- texts ---------------------------------------------------------------------------------------------------------


def test_sentences_are_what_a_paragraph_holds_without_code_grammar_and_tables():
    block = 'The "if" statement is used\nfor choices.  It evaluates an expression, e.g. a name:\n  Too short.'
    assert documentation.sentences(block) == [
        'The "if" statement is used for choices.',
        "It evaluates an expression, e.g. a name:",
    ]
    assert documentation.sentences("* The first of all points.") == ["The first of all points."]
    code, grammar = "   if x < y < z: print(x)", 'if_stmt ::= "if" The rest is it.'
    table = "| The cell of a table. |\n+-----+"
    assert [documentation.sentences(other) for other in (code, grammar, table)] == [[], [], []]


def test_the_documentation_has_enough_sentences_of_each_chapter():
    corpus = sentiment.read_corpus(TINY)
    assert set(corpus.labels.tokens) == set(documentation.CHAPTERS)
    assert len(corpus.learnt) > 1000


def test_a_text_is_kept_once_and_one_with_two_labels_is_left_out():
    items = [("a", "Yes, it is."), ("b", "no"), ("a", "yes it IS"), ("b", "maybe"), ("a", "Maybe!"), ("b", "No?")]
    assert sentiment.distinct(Labelled(*item) for item in items) == [("a", "Yes, it is."), ("b", "no")]


texts = st.lists(st.sampled_from(["yes", "No", "no", "maybe.", "maybe", "Perhaps"]), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), texts.map(" ".join)), max_size=60), st.integers(0, 3))
def test_no_text_is_in_two_parts_and_none_is_lost(drawn, seed):
    items = [Labelled(*item) for item in drawn] + numbered("a", 23) + numbered("b", 10) + numbered("c", 19)
    parts = parts_of(sentiment.Corpus(items, "it", replace(TINY, seed=seed)))
    found = [tuple(sentiment.words(item.text)) for part in parts for item in part]
    assert len(found) == len(set(found))
    assert sorted(item for part in parts for item in part) == sorted(sentiment.distinct(items))


def test_each_part_has_its_share_of_each_label_and_follows_from_the_seed():
    items = numbered("a", 23) + numbered("b", 10) + numbered("c", 19)
    once, again, other = (sentiment.Corpus(items, "it", replace(TINY, seed=seed)) for seed in (0, 0, 1))
    counts = [[sum(item.label == label for item in part) for label in "abc"] for part in parts_of(once)]
    assert counts == [[17, 7, 16], [2, 1, 1], [4, 2, 2]]
    assert parts_of(once) == parts_of(again) != parts_of(other)


def test_only_words_that_are_learnt_from_are_known():
    corpus = sentiment.Corpus(numbered("a", 20) + numbered("b", 20), "it", TINY)
    learnt = {word for item in corpus.learnt for word in sentiment.words(item.text)}
    assert set(corpus.words.tokens) == learnt | {sentiment.UNKNOWN}
    [tokens] = corpus.numbers(["a b 99"])
    assert corpus.words.tokens_of(tokens) == ["a", "b", sentiment.UNKNOWN]
    small = sentiment.Corpus(numbered("a", 20) + numbered("b", 20), "it", replace(TINY, vocabulary=1))
    assert small.words.tokens == [sentiment.UNKNOWN, "number"]


def test_a_file_is_read_whatever_its_line_ends(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_bytes("\ufeffgut\tschön war's\r\n\r\n böse \t a\tb\u2028c".encode())
    assert list(sentiment.from_file(path)) == [("gut", "schön war's"), ("böse", "a\tb\u2028c")]


# ---- models --------------------------------------------------------------------------------------------------------


def test_a_bag_of_words_counts_what_is_real():
    model = sentiment.BagOfWords(4, 2, TINY)
    rows = model(np.array([[1, 3, 1, 2], [2, 0, 0, 0]]), np.array([3, 1])).numpy()
    W = model.readout.W.numpy()
    np.testing.assert_allclose(rows, [2 * W[1] + W[3], W[2]], rtol=1e-5)  # float32


@pytest.mark.parametrize("kind", [sentiment.Net, sentiment.BagOfWords])
def test_padding_says_nothing(kind):
    model = kind(9, 3, TINY)
    tokens, lengths = np.random.default_rng(0).integers(0, 9, (4, 6)), np.array([6, 1, 3, 5])
    other = np.where(np.arange(6) < lengths[:, None], tokens, 8 - tokens)
    assert (model(tokens, lengths).numpy() == model(other, lengths).numpy()).all()


def test_a_text_gets_the_same_answer_alone_as_in_a_batch():
    model = sentiment.Net(9, 3, TINY).astype("float64")
    tokens, lengths = np.random.default_rng(0).integers(0, 9, (4, 6)), np.array([6, 1, 3, 5])
    together = model(tokens, lengths).numpy()
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, :length], lengths[row : row + 1]).numpy()[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-12)


def said_before(count):
    """The label says which of two words comes first, so that counts of words tell nothing."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        around = [str(rng.integers(20)) for _ in range(rng.integers(3, 8))]
        first, second = sorted(rng.integers(0, len(around), 2))
        for label, pair in (("good", ("yes", "no")), ("bad", ("no", "yes"))):
            around_them = [*around[:first], pair[0], *around[first:second], pair[1], *around[second:]]
            yield Labelled(label, " ".join(around_them))


def test_the_net_learns_from_the_order_of_words_and_the_bag_of_words_cannot():
    config = sentiment.Config(embedding=8, units=8, dropout=0.0, hidden=0.0, steps=120, lr=0.03)
    corpus = sentiment.Corpus(said_before(200), "it", config)
    answers, right = corpus.answers(corpus.test), {}
    for kind in (sentiment.BagOfWords, sentiment.Net):
        model = kind(len(corpus.words), len(corpus.labels), config)
        sentiment.fit(model, corpus, config, QUIET)
        said = sentiment.probabilities(model, corpus, [item.text for item in corpus.test])
        np.testing.assert_allclose(said.sum(axis=1), 1, rtol=1e-6)
        right[kind] = (said.argmax(axis=1) == answers).mean()
    assert right[sentiment.Net] > 0.95
    assert right[sentiment.BagOfWords] < 0.65


def test_some_words_are_hidden_in_training_alone(monkeypatch):
    corpus = sentiment.Corpus(numbered("a", 40) + numbered("b", 40), "it", TINY)
    seen = {True: [], False: []}

    class Watched(sentiment.BagOfWords):
        def __call__(self, tokens, lengths, training=False, seed=None):
            seen[training].append(tokens)
            return super().__call__(tokens, lengths, training, seed)

    model = Watched(len(corpus.words), 2, TINY)
    sentiment.fit(model, corpus, replace(TINY, hidden=0.5, steps=20), QUIET)
    assert 0.4 < np.mean([(tokens == 0).mean() for tokens in seen[True]]) < 0.6
    sentiment.probabilities(model, corpus, ["a number"])
    assert (seen[False][-1] > 0).all()


# ---- command line --------------------------------------------------------------------------------------------------


def run(capsys, *options):
    code = sentiment.main([*OPTIONS, *map(str, options)])
    return code, *capsys.readouterr()


def results(out):
    """What is printed, without the times, which differ from run to run."""
    return [line.rpartition("   ")[0] if line.strip()[:1].isdigit() else line for line in out.splitlines()]


def test_a_whole_run(tmp_path, capsys):
    path = tsv(tmp_path / "texts.tsv", said_before(30))
    code, out, err = run(capsys, "--data", path, "--out", tmp_path, "--text", "yes but no")
    assert (code, err) == (0, "")
    assert "42 texts with 2 labels to learn from, 6 for validation, 12 for the test" in out
    assert out.splitlines()[-5] == "--text, of which it does not know but"
    assert out.splitlines()[-4] == "  yes but no"
    rows = [line.split() for line in out.splitlines() if line.startswith(("good ", "bad ", "all "))]
    assert [row[:3] for row in rows] == [["bad", "6", "100.0"], ["good", "6", "0.0"], ["all", "12", "50.0"]]
    assert not set(out) & {"\x1b", "\r"}  # no bar in a file
    assert (tmp_path / "sentiment.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_run_on_another_backend_too(tmp_path, capsys):
    path, runs = tsv(tmp_path / "texts.tsv", said_before(30)), []
    for more in ([], [], ["--backend", "strict"], ["--seed", "1"]):
        _, out, _ = run(capsys, "--data", path, "--out", tmp_path, *more)
        runs.append(results(out.replace("on strict", "on numpy")))
    assert runs[0] == runs[1] == runs[2] != runs[3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read --data texts.tsv: No such file or directory"),
        (b"", "--data texts.tsv has no texts to learn from"),
        (b" \n\n", "--data texts.tsv has no texts to learn from"),
        (b"a\tgood\n\nbad\n", "--data texts.tsv, line 3: needed is a label, a tab and a text, got no tab"),
        (b"a\tgood\n \tbad\n", "--data texts.tsv, line 2: the label before the tab is empty"),
        (b"a\tgood\nb\t...\n", "--data texts.tsv, line 2: the text after the tab has no words"),
        (b"a\tgood\na\tbad\n", "--data texts.tsv has one label only, 'a': there is nothing to tell apart"),
        (
            b"a\tgood\nb\tbad\nb\tworse\n",
            "--data texts.tsv has too few texts with the label 'a': 1, needed are 10 that differ",
        ),
        (b"a\tgood\nb\tGood.\n", "--data texts.tsv has no texts to learn from"),
        (b"a\tsch\xf6n\n", "--data texts.tsv is not UTF-8: invalid start byte at byte 5; convert it first"),
        ("a\tb\n".encode("utf-16"), "--data texts.tsv is not UTF-8: invalid start byte at byte 0; convert it first"),
    ],
)
def test_a_bad_file_is_refused(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("texts.tsv").write_bytes(content)
    assert run(capsys, "--data", "texts.tsv") == (2, "", f"sentiment: {message}\n")
    assert not Path("runs").exists()


@pytest.mark.parametrize("text", ["", " ?! "])
def test_a_text_without_words_is_refused(text, capsys):
    assert run(capsys, "--text", text) == (2, "", f"sentiment: --text needs a word at least, got {text!r}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--hidden 1", "argument --hidden: needs a number from 0 to below 1, got '1' (--help lists the options)"),
        ("--steps 0", "argument --steps: needs a whole number of at least 1, got '0' (--help lists the options)"),
        ("--out texts.tsv", "cannot use --out texts.tsv: File exists; name another folder"),
    ],
)
def test_a_bad_option_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tsv(Path("texts.tsv"), said_before(30))
    assert run(capsys, "--data", "texts.tsv", *options.split()) == (2, "", f"sentiment: {message}\n")
