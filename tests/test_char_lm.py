"""examples/char_lm.py: it learns, measures honestly, goes on bit for bit, and minds its input."""

from __future__ import annotations

import importlib
import io
import math
import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, training

for library in ("matplotlib", "rich", "safetensors", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")


PROGRAM = Path(__file__).parents[1] / "examples" / "char_lm.py"
char_lm = importlib.import_module("char_lm")
Config, Corpus = char_lm.Config, char_lm.Corpus

WORDS = "a tape records what is computed, and a walk back along it gives the gradient.\n"
TINY = "--units 6 --embedding 4 --batch 3 --chunk 5 --steps 12 --every 5 --warmup 3 --sample 0".split()


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A folder to work in, with a text of 780 characters."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 10)
    return path


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("draw_learning_curve", "draw_gradient_flow"):
        monkeypatch.setattr(char_lm, name, lambda *_: None)


def arguments(text, *more):
    return ["--text", str(text), *TINY, *more]


def small_model(kind, layers=1, characters=5, dtype="float64"):
    return char_lm.LanguageModel(characters, Config(cell=kind, layers=layers, units=4, embedding=3, seed=1)).astype(
        dtype
    )


def table(out):
    """Step, loss and validation of each line; the time differs from run to run."""
    return [line.split()[:3] for line in out.splitlines() if re.fullmatch(r" +[\d,]+ .* \d+:\d\d", line)]


def weights(module):
    return {name: weight.numpy() for name, weight in module.parameters().items()}


# ---- text ----------------------------------------------------------------------------------------------------------


def test_rows_are_pieces_of_the_text_and_targets_come_one_later():
    inputs, targets = char_lm.rows(np.arange(14), 4)
    np.testing.assert_array_equal(inputs, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    np.testing.assert_array_equal(targets, inputs + 1)


def test_training_and_validation_share_only_the_character_between_them():
    corpus = Corpus("digits", "0123456789" * 3 + "abc")
    assert [corpus.vocabulary.tokens[token] for token in corpus.training] == list("0123456789" * 3)
    assert [corpus.vocabulary.tokens[token] for token in corpus.validation] == list("9abc")


def test_words_are_written_back_exactly():
    text = 'def __init__(self):\n    """Two  words, 3.14 -- and\ttabs\u00e9."""\n\n'
    pieces = char_lm.words_of(text)
    assert "".join(pieces) == text
    assert pieces[:8] == ["def", " __init__", "(", "self", ")", ":", "\n    ", '"""']
    assert pieces[8:16] == ["Two", "  ", "words", ",", " 3", ".", "14", " --"]
    assert pieces[16:] == [" and", "\t", "tabs\u00e9", ".", '"""', "\n\n"]


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=30))
def test_every_text_is_written_back_exactly(text):
    assert "".join(char_lm.words_of(text)) == text


def test_the_vocabulary_of_words_is_that_of_the_training_part_and_the_rest_is_unknown():
    corpus = Corpus("animals", "cat " * 6 + "dog " * 4 + "emu newt cat.\n", char_lm.WORDS, 3)
    assert corpus.pieces[-4:] == [" newt", " cat", ".", "\n"]
    assert corpus.vocabulary.tokens == [char_lm.UNKNOWN, " cat", " dog", " emu"]
    assert corpus.validation_pieces == [".", "\n"]  # " cat" begins before the last tenth of the characters
    assert corpus.vocabulary.tokens_of(corpus.validation) == [" cat", char_lm.UNKNOWN, char_lm.UNKNOWN]


def test_the_last_tenth_is_the_same_text_by_characters_and_by_words():
    text = char_lm.documentation.whole("--text")
    characters, words = (Corpus("text", text, level, 9) for level in (char_lm.CHARACTERS, char_lm.WORDS))
    parts = ["".join(corpus.validation_pieces) for corpus in (characters, words)]
    assert parts[0].endswith(parts[1])
    assert len(parts[0]) - len(parts[1]) < 20


def test_the_default_text_is_the_language_reference():
    corpus = char_lm.read_corpus(Config())
    assert len(corpus.text) > 300_000
    assert "yield" in corpus.text


def test_chunks_follow_each_other_and_the_state_begins_anew_with_the_text():
    corpus = Corpus("words", WORDS * 2)
    run = char_lm.new_run(Config(units=2, embedding=2, batch=2, chunk=30), corpus)
    run.state = old = ["the state so far"]
    inputs = []
    for step in range(3):
        run.history.losses = [0.0] * step
        inputs.append(char_lm.next_chunk(run, corpus)[0])
        if step == 0:
            assert not run.state[0].h.numpy().any()
            run.state = old
    whole = char_lm.rows(corpus.training, 2)[0]
    np.testing.assert_array_equal(np.concatenate(inputs[:2]), whole[:60])
    np.testing.assert_array_equal(inputs[2], whole[:30])
    assert run.state is not old


# ---- learning and measuring ----------------------------------------------------------------------------------------


def markov_text(length):
    """Text in which each letter depends on the one before, and the bits that nobody can save on a letter."""
    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.full(6, 0.3), size=6)
    letters = [0]
    for u in rng.random(length - 1):
        letters.append(min(int(np.searchsorted(np.cumsum(rates[letters[-1]]), u)), 5))
    tail = letters[-(length // 10) - 1 :]
    best = -np.mean([math.log2(rates[a, b]) for a, b in pairwise(tail)])
    return "".join("abcdef"[letter] for letter in letters), best


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_it_learns_all_that_there_is_to_learn(kind):
    """The loss comes close to the entropy of the source, and not below: nothing of the future leaks in."""
    letters, best = markov_text(6000)
    corpus = Corpus("letters", letters)
    run = char_lm.new_run(
        Config(cell=kind, units=16, embedding=6, batch=16, chunk=10, steps=150, lr=0.02, warmup=10), corpus
    )
    char_lm.train(run, corpus, None, char_lm.Console(file=io.StringIO()))
    found = char_lm.evaluate(run.model, corpus)
    assert run.history.measured == [(150, found)]
    assert best - 0.02 < found < best + 0.1
    assert found < char_lm.guessing(corpus) - 0.5


def cell_by_hand(weights, token, h):
    """A step of the plain RNN in plain NumPy."""
    W_x, W_h, b = (weights[f"net.layers.0.cell.{name}"] for name in ("W_x", "W_h", "b"))
    return np.tanh(weights["embedding.W"][token] @ W_x + h @ W_h + b)


def by_hand(weights, tokens):
    """The loss of each token but the first."""
    h, nats = np.zeros(4), []
    for token, target in pairwise(tokens):
        x = weights["embedding.W"][token]
        h = np.tanh(
            x @ weights["net.layers.0.cell.W_x"] + h @ weights["net.layers.0.cell.W_h"] + weights["net.layers.0.cell.b"]
        )
        scores = h @ weights["scores.W"] + weights["scores.b"]
        nats.append(np.log(np.exp(scores).sum()) - scores[target])
    return nats


@pytest.mark.parametrize("count", [1, 3, 4])
def test_evaluation_counts_every_token_once(count, monkeypatch):
    monkeypatch.setattr(char_lm, "VALIDATION_ROWS", count)
    monkeypatch.setattr(char_lm, "VALIDATION_CHUNK", 7)
    model = small_model("rnn")
    tokens = np.random.default_rng(0).integers(0, 5, 60)  # 59 to predict: the last row is shorter, but for count=1
    length = math.ceil(59 / count)
    expected = [by_hand(weights(model), tokens[i * length : (i + 1) * length + 1]) for i in range(count)]
    np.testing.assert_allclose(char_lm.total_loss(model, tokens), np.concatenate(expected).sum(), rtol=1e-12)


def test_guessing_by_frequency_costs_the_cross_entropy():
    corpus = Corpus("ab", "a" * 17 + "bab")  # the tenth: "ab"; 18 of 20 are a
    expected = -(math.log2(0.9) + math.log2(0.1)) / 2
    np.testing.assert_allclose(char_lm.guessing(corpus), expected, rtol=1e-15)


def test_spelling_costs_the_entropy_of_the_characters_and_the_ends():
    expected = -(2 * math.log(2 / 8) * 3 + 1 * math.log(1 / 8) * 2)  # a a b b and two ends, c, d
    np.testing.assert_allclose(char_lm.spelling(["abc", "abd"]), expected, rtol=1e-14)
    assert char_lm.spelling([]) == 0


@pytest.mark.parametrize("words", [False, True])
def test_dropout_is_for_training_alone(words):
    corpus = Corpus("words", WORDS * 10, char_lm.WORDS if words else char_lm.CHARACTERS, 9)
    config = Config(units=6, embedding=4, batch=2, chunk=5, dropout=0.5)
    run, plain = char_lm.new_run(config, corpus), char_lm.new_run(replace(config, dropout=0.0), corpus)
    assert char_lm.evaluate(run.model, corpus) == char_lm.evaluate(plain.model, corpus)
    run.history.losses = plain.history.losses = [0.0]
    losses = [char_lm.loss_of_next_chunk(r, corpus).item() for r in (run, plain, run)]
    assert losses[0] != losses[1]


def test_dropout_is_another_one_at_each_step():
    corpus = Corpus("words", WORDS * 10)
    run = char_lm.new_run(Config(units=6, embedding=4, batch=2, chunk=5, dropout=0.5), corpus)
    losses = []
    for seed in ([0, 1], [0, 1], [0, 2]):
        logits, _ = run.model(corpus.tokens[:5, None], run.model.zero_state(1), training=True, seed=seed)
        losses.append(mg.cross_entropy(logits[:, 0], corpus.tokens[1:6]).sum().item())
    assert losses[0] == losses[1] != losses[2]


def test_the_learning_rate_rises_and_falls():
    schedule = char_lm.schedule_of(Config(steps=1000, lr=2.0, warmup=10))
    rates = [schedule.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0, rel=1e-3)
    assert rates[500] == pytest.approx(1.0)
    assert 0 < rates[-1] < 1e-4


# ---- sampling ------------------------------------------------------------------------------------------------------


def sampled(corpus, temperature, length=30, seed=3):
    run = SimpleNamespace(model=small_model("gru", layers=2), config=Config(seed=seed))
    return run, char_lm.sample(run, corpus, "bad", length, temperature)


def test_a_cold_sample_is_what_the_model_finds_likeliest():
    run, written = sampled(Corpus("letters", "abcde"), 0)
    assert written.startswith("bad")
    assert len(written) == 33
    tokens = np.array([["abcde".index(c)] for c in written])
    logits = run.model(tokens[:-1], run.model.zero_state(1))[0].numpy()[2:, 0]
    np.testing.assert_array_equal(logits.argmax(axis=-1), tokens[3:, 0])


def test_a_warm_sample_follows_from_its_seed_and_has_the_frequencies_that_the_model_says():
    run, written = sampled(Corpus("letters", "abcde"), 0.5, length=400)
    assert sampled(Corpus("letters", "abcde"), 0.5, length=400)[1] == written
    assert sampled(Corpus("letters", "abcde"), 0.5, length=30, seed=4)[1] != written[:33]
    tokens = np.array([["abcde".index(c)] for c in written])
    logits = run.model(tokens[:-1], run.model.zero_state(1))[0][2:, 0] / 0.5
    expected = mg.softmax(logits).numpy().sum(axis=0)
    np.testing.assert_allclose(np.bincount(tokens[3:, 0], minlength=5), expected, atol=4 * math.sqrt(400 / 4))


# ---- gradient flow -------------------------------------------------------------------------------------------------


def test_gradient_flow_is_the_chain_rule_of_the_plain_rnn(monkeypatch):
    """d loss / d h(T) from the softmax, then a step back is a product with diag(1 - h^2) and W_h."""
    monkeypatch.setattr(char_lm, "FLOW_ROWS", 1)
    monkeypatch.setattr(char_lm, "FLOW_STEPS", 6)
    model, tokens = small_model("rnn"), np.random.default_rng(0).integers(0, 5, 13)
    w, h, states = weights(model), np.zeros(4), []
    for token in tokens[:-1]:
        h = np.tanh(
            w["embedding.W"][token] @ w["net.layers.0.cell.W_x"]
            + h @ w["net.layers.0.cell.W_h"]
            + w["net.layers.0.cell.b"]
        )
        states.append(h)
    scores = h @ w["scores.W"] + w["scores.b"]
    g = w["scores.W"] @ (np.exp(scores) / np.exp(scores).sum() - np.eye(5)[tokens[-1]])
    expected = []
    for h in reversed(states[6:]):
        expected.append(np.linalg.norm(g))
        g = w["net.layers.0.cell.W_h"] @ ((1 - h * h) * g)
    np.testing.assert_allclose(char_lm.gradient_flow(model, tokens)["layer 1 h"], expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_gradient_flow_is_how_much_the_loss_moves_when_a_state_is_moved(kind, monkeypatch):
    """The upper layer's state is moved by hand, three steps before the end, and the rest of the text read again."""
    monkeypatch.setattr(char_lm, "FLOW_ROWS", 1)
    monkeypatch.setattr(char_lm, "FLOW_STEPS", 5)
    model, tokens = small_model(kind, layers=2), np.random.default_rng(0).integers(0, 5, 11)
    flow = char_lm.gradient_flow(model, tokens)
    _, before = model(tokens[:7, None], model.zero_state(1))  # the state 3 steps before the last

    def loss(layer, part, unit, eps):
        leaves, structure = mg.tree.flatten(before)
        moved = [leaf.numpy() for leaf in leaves]
        moved[layer * len(leaves) // 2 + part][0, unit] += eps
        logits, _ = model(tokens[7:-1, None], structure.build([mg.tensor(array) for array in moved]))
        return float(mg.cross_entropy(logits[-1], tokens[-1:]).numpy()[0])

    for part, name in enumerate("hc" if kind == "lstm" else "h"):
        # of the lower layer, a nudge of h goes up too, in the step that made it, which is not read again here
        slope = [(loss(1, part, unit, 1e-5) - loss(1, part, unit, -1e-5)) / 2e-5 for unit in range(4)]
        np.testing.assert_allclose(flow[f"layer 2 {name}"][3], np.linalg.norm(slope), rtol=1e-8)


def test_gradient_flow_has_a_line_for_each_state_and_ends_with_a_short_text():
    flow = char_lm.gradient_flow(small_model("lstm", layers=2), np.array([0, 1, 2, 3, 4, 0]))
    assert list(flow) == ["layer 1 h", "layer 1 c", "layer 2 h", "layer 2 c"]
    assert all(norms.shape == (2,) for norms in flow.values())
    assert flow["layer 2 c"][0] == 0  # the last c is read by nobody


# ---- a whole run ---------------------------------------------------------------------------------------------------


def test_a_whole_run(text, capsys):
    assert char_lm.main(arguments(text, "--layers", "2", "--sample", "20", "--checkpoint", "run.ck")) == 0
    shown = capsys.readouterr()
    assert [row[0] for row in table(shown.out)] == ["5", "10", "12"]
    assert "not below 1.85 bits per character in 12 steps, " in shown.out
    assert "validation: " in shown.out
    assert not set(shown.out) & {"\x1b", "\r"}  # no bar in a file
    assert shown.err == ""
    for name in ("learning_curve.png", "gradient_flow.png"):
        assert (Path("runs/char_lm") / name).read_bytes().startswith(b"\x89PNG")
    # again: the pictures are ours and replaced; the run is over, so it only shows its results
    assert char_lm.main(arguments(text, "--layers", "2", "--checkpoint", "run.ck", "--resume")) == 0
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if line.startswith("validation:")] == [
        line for line in shown.out.splitlines() if line.startswith("validation:")
    ]


def test_a_whole_run_by_words(text, capsys):
    options = "--words --vocabulary 15 --dropout 0.1 --sample 9 --units 12 --lr 0.05 --steps 100 --target 5".split()
    assert char_lm.main(arguments(text, *options, "--prompt", "the gradient")) == 0
    shown = capsys.readouterr()
    corpus = Corpus("words", WORDS * 10, char_lm.WORDS, 15)
    unknown = sum(word not in corpus.vocabulary for word in corpus.validation_pieces)
    assert f"with the spelling of {unknown} words that are not in the vocabulary" in shown.out
    assert unknown > 0
    assert re.search(r"^below a perplexity of 5 per word after \d+ s \(step [1-9]?[05]\)$", shown.out, re.MULTILINE)
    assert "the gradient" in shown.out[shown.out.index("a sample") :]
    values = [float(row[2]) for row in table(shown.out)]
    assert values[-1] < 5 < values[0]
    assert shown.err == ""


def test_help_lists_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        char_lm.main(["--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for setting in (*fields(Config), *fields(char_lm.Request)):
        assert f"--{setting.name} " in shown
        assert setting.default is None or isinstance(setting.default, bool) or f"[{setting.default}]" in shown


@pytest.mark.usefixtures("no_pictures")
def test_a_run_moves_from_one_backend_to_another(text, monkeypatch):
    """The strict backend refuses what CuPy would refuse. It may add in another order, so the last bits may differ."""
    options = arguments(text, "--layers", "2", "--sample", "5", "--checkpoint")
    assert char_lm.main([*options, "numpy.ck"]) == 0
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 7)
        assert char_lm.main([*options, "both.ck", "--backend", "strict"]) == 130
    assert char_lm.main([*options, "both.ck", "--resume"]) == 0
    assert char_lm.main([*options, "strict.ck", "--backend", "strict"]) == 0
    expected = training.load("numpy.ck")[0]
    for path in ("both.ck", "strict.ck"):
        found = training.load(path)[0]
        for name in ("losses", "validation"):
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, err_msg=name)


def test_gradient_flow_on_another_backend():
    tokens = np.arange(30) % 5
    expected = char_lm.gradient_flow(small_model("lstm"), tokens)
    with mg.use_backend("strict"):
        found = char_lm.gradient_flow(small_model("lstm"), tokens)
    for name, norms in expected.items():
        np.testing.assert_allclose(found[name], norms, rtol=1e-12)


# ---- going on ------------------------------------------------------------------------------------------------------


def interrupt_before_step(monkeypatch, last):
    """Press Ctrl-C while step number `last` is computed."""
    loss = char_lm.loss_of_next_chunk

    def interrupted(run, corpus):
        if run.history.step == last - 1:
            signal.raise_signal(signal.SIGINT)
        return loss(run, corpus)

    monkeypatch.setattr(char_lm, "loss_of_next_chunk", interrupted)


def assert_same_run(one, other):
    (arrays, meta), (expected, expected_meta) = training.load(one), training.load(other)
    for times in (meta, expected_meta):
        assert 0 < max(times.pop("times")) <= times.pop("seconds")
    assert meta == expected_meta
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("more", ["--cell rnn", "--cell gru", "--cell lstm --dropout 0.4", "--words --vocabulary 9"])
@pytest.mark.usefixtures("no_pictures")
def test_resume_goes_on_bit_for_bit(more, text, capsys, monkeypatch):
    options = arguments(text, *more.split(), "--layers", "2", "--checkpoint")
    assert char_lm.main([*options, "whole.ck"]) == 0
    whole = capsys.readouterr().out
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 7)
        assert char_lm.main([*options, "parts.ck"]) == 130
    assert signal.getsignal(signal.SIGINT) is handler
    assert "interrupted after step 7 of 12, saved in parts.ck" in capsys.readouterr().out
    assert len(training.load("parts.ck")[0]["losses"]) == 7
    assert char_lm.main([*options, "parts.ck", "--resume"]) == 0
    assert_same_run("parts.ck", "whole.ck")
    assert table(capsys.readouterr().out) == table(whole)[1:]


@pytest.mark.usefixtures("no_pictures")
def test_resume_remembers_its_settings_and_may_train_longer(text):
    assert char_lm.main(arguments(text, "--checkpoint", "run.ck")) == 0
    text.rename("moved.txt")
    more = ["--resume", "--checkpoint", "run.ck", "--text", "moved.txt", "--steps", "15", "--sample", "0"]
    assert char_lm.main(more) == 0
    arrays, meta = training.load("run.ck")
    assert len(arrays["losses"]) == 15
    assert meta["config"]["units"] == 6


@pytest.mark.usefixtures("no_pictures")
def test_resume_may_end_a_run_where_it_stands_and_not_before(text, checkpoint, capsys):
    options = arguments(text, "--checkpoint", "run.ck", "--resume", "--steps")
    message = refused(capsys, *options, "1")
    assert "the run in --checkpoint run.ck has done 2 steps, more than --steps 1: --steps counts them all" in message
    before = training.load(checkpoint)
    assert char_lm.main([*options, "2"]) == 0
    arrays, meta = training.load(checkpoint)
    assert meta["config"] == before[1]["config"] | {"steps": 2}
    np.testing.assert_array_equal(arrays["losses"], before[0]["losses"])


def test_ctrl_c_without_a_checkpoint_says_how(text, capsys, monkeypatch):
    interrupt_before_step(monkeypatch, 3)
    assert char_lm.main(arguments(text)) == 130
    shown = capsys.readouterr()
    assert "interrupted after step 3 of 12, nothing is saved: with --checkpoint FILE" in shown.out
    assert shown.err == ""


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_ends_at_once(text, capsys, monkeypatch):
    def interrupted(run, corpus):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(char_lm, "loss_of_next_chunk", interrupted)
    assert char_lm.main(arguments(text)) == 130
    assert capsys.readouterr().err == "char_lm: interrupted\n"


def started(*options):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="signals between processes are POSIX's")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_from_outside_goes_on_bit_for_bit(sent, text, monkeypatch):
    """SIGKILL comes at any moment, perhaps in the middle of saving: the file is the last whole one all the same."""
    options = [*arguments(text), "--steps", "1000", "--every", "1", "--checkpoint"]  # saving most of the time
    with started(*options, "parts.ck") as process:
        for line in process.stdout:
            if line.split()[:1] == ["4"]:  # the run has printed, and thus saved, its fourth step
                break
        process.send_signal(sent)
        process.communicate(timeout=60)
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    done = len(training.load("parts.ck")[0]["losses"])
    assert 4 <= done < 1000
    interrupt_before_step(monkeypatch, done + 3)
    assert char_lm.main([*options, "parts.ck", "--resume"]) == 130
    assert char_lm.main([*options, "whole.ck"]) == 130
    assert_same_run("parts.ck", "whole.ck")


# ---- bad input -----------------------------------------------------------------------------------------------------


def refused(capsys, *options):
    """The one line that the program says, having written nothing and changed nothing."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    capsys.readouterr()
    assert char_lm.main(options) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("char_lm: ")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return shown.err


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "cannot read --text given.txt: No such file"),
        (b"", "has 0 characters, which is too short"),
        (b"abc" * 5, "has 15 characters, which is too short: nine tenths of it must fill --batch 3 rows of --chunk 5"),
        (b"good until here \xff" * 100, "is not UTF-8: invalid start byte at byte 16"),
        ("folder", "cannot read --text given.txt: Is a directory"),
    ],
)
def test_a_bad_text_is_refused(contents, message, text, capsys):
    path = Path("given.txt")
    if contents == "folder":
        path.mkdir()
    elif contents is not None:
        path.write_bytes(contents)
    assert message in refused(capsys, *arguments(path, "--checkpoint", "run.ck"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--units 0", "argument --units: needs a whole number of at least 1, got '0'"),
        ("--layers two", "argument --layers: needs a whole number of at least 1, got 'two'"),
        ("--lr nan", "argument --lr: needs a number above 0, got 'nan'"),
        ("--temperature -1", "argument --temperature: needs a number of at least 0, got '-1'"),
        ("--cell lstn", "argument --cell: is one of rnn, gru, lstm, got 'lstn'"),
        ("--dropout 1", "argument --dropout: needs a number from 0 to below 1, got '1'"),
        ("--vocabulary 9", "--vocabulary is for --words"),
        ("--words --vocabulary 0", "argument --vocabulary: needs a whole number of at least 1, got '0'"),
        ("--words --prompt gradiant", "--prompt needs words in the vocabulary of text.txt, got ['gradiant']"),
        ("--words --prompt=", "--prompt needs words in the vocabulary of text.txt, got none"),
        ("--words --batch 40", "text.txt has 180 words, which is too short"),
        ("--colour red", "unrecognized arguments: --colour red"),
        ("--backend nampy", "--backend: no backend is called 'nampy'; installed here: 'numpy'"),
        ("--prompt é", "--prompt needs characters in the vocabulary of text.txt, got ['é']"),
        ("--resume", "--resume needs --checkpoint FILE"),
        ("--resume --quick", "--quick is for a new run: leave it out with --resume"),
        ("--resume --checkpoint none.ck", "there is no checkpoint file 'none.ck'"),
        ("--checkpoint text.txt", "text.txt exists and is kept"),
        ("--checkpoint text.txt/run.ck", "cannot write --checkpoint text.txt/run.ck: File exists"),
        ("--checkpoint .", ". exists and is kept"),
        ("--resume --checkpoint text.txt", "'text.txt' is damaged, or no safetensors file"),
        ("--out text.txt", "cannot use --out text.txt: File exists"),
    ],
)
@pytest.mark.usefixtures("text")
def test_a_bad_option_is_refused(options, message, capsys):
    assert message in refused(capsys, *arguments("text.txt"), *options.split())


@pytest.mark.skipif(mg.backends().get("cupy", (0, False))[1], reason="cupy works here")
def test_a_missing_gpu_is_one_line(text, capsys):
    assert "cupy" in refused(capsys, *arguments(text, "--backend", "cupy"))


@pytest.fixture
def checkpoint(text, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 2)
        assert char_lm.main(arguments(text, "--checkpoint", "run.ck")) == 130
    return Path("run.ck")


@pytest.mark.usefixtures("checkpoint")
def test_a_checkpoint_of_another_run_is_refused(text, capsys):
    options = arguments(text, "--checkpoint", "run.ck")
    assert "run.ck exists and is kept: add --resume" in refused(capsys, *options)
    other = refused(capsys, *options, "--resume", "--units", "7")
    assert "the checkpoint was made with --units 6, not 7" in other
    assert "made with --cell lstm, not gru" in refused(capsys, *options, "--resume", "--cell", "gru")
    text.write_text(WORDS * 11)
    assert f"made from another text than {text}" in refused(capsys, *options, "--resume")


def test_a_damaged_checkpoint_is_refused(text, checkpoint, capsys):
    whole = checkpoint.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        checkpoint.write_bytes(damaged)
        assert "damaged" in refused(capsys, *arguments(text, "--checkpoint", "run.ck", "--resume"))


def test_a_foreign_checkpoint_is_refused(text, capsys):
    training.save("model.ck", nn.GRUCell(2, 3, seed=0).state_dict(), {"step": 7})
    message = refused(capsys, *arguments(text, "--checkpoint", "model.ck", "--resume"))
    assert "model.ck holds something else than a run of this program" in message


def test_a_checkpoint_of_an_earlier_version_is_refused(text, checkpoint, capsys):
    arrays, meta = training.load(checkpoint)
    del meta["config"]["dropout"]
    training.save(checkpoint, arrays, meta)
    message = refused(capsys, *arguments(text, "--checkpoint", "run.ck", "--resume"))
    assert "run.ck was made by another version of this program: begin anew" in message


def test_a_picture_of_somebody_else_is_kept(text, capsys):
    Path("art").mkdir()
    Path("art/gradient_flow.png").write_bytes(b"\x89PNG, a photograph")
    message = refused(capsys, *arguments(text, "--out", "art", "--checkpoint", "run.ck"))
    assert "gradient_flow.png was not made by this program and is kept" in message


@pytest.mark.parametrize("library", ["rich", "matplotlib"])
def test_a_missing_library_is_one_line(library, capsys, monkeypatch):
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "plumbing")
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PROGRAM))
    assert end.value.code == 2
    assert capsys.readouterr().err == f"char_lm: {library} is not installed: pip install 'minigrad[examples]'\n"


def test_missing_safetensors_matters_only_to_checkpoints(text, capsys, monkeypatch):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'minigrad[training]'" in refused(capsys, *arguments(text, "--checkpoint", "run.ck"))
    interrupt_before_step(monkeypatch, 2)
    assert char_lm.main(arguments(text)) == 130


def test_training_that_breaks_down_says_so(text, capsys):
    assert char_lm.main(arguments(text, "--lr", "1e38", "--clip", "1e38")) == 1
    shown = capsys.readouterr()
    assert "training broke down: the gradients have the norm" in shown.err
    assert shown.err.count("\n") == 1
