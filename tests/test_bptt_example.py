"""examples/bptt.py: what the lesson prints is computed, and adds up."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

for library in ("matplotlib", "rich", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")

PROGRAM = Path(__file__).parents[1] / "examples" / "bptt.py"
bptt = importlib.import_module("bptt")


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """What a short lesson prints, by the number of its section."""
    monkeypatch.chdir(tmp_path)
    assert bptt.main(["--word", "aba", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    sections = re.split(r"^(\d)\. .*\n-+\n", out, flags=re.MULTILINE)[1:]
    return dict(zip(map(int, sections[::2]), sections[1::2], strict=True))


def numbers(line):
    return [float(word) for word in re.findall(r"-?\d+\.\d+", line)]


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def by_hand(word, seed):
    """The states, deltas and shares of the lesson's net, by backpropagation through time in plain NumPy."""
    alphabet = sorted(set(word + "."))
    tokens = [alphabet.index(character) for character in word + "."]
    net = bptt.Net(len(alphabet), seed)
    W_x, W_h, W_y = net.W_x.numpy(), net.W_h.numpy(), net.W_y.numpy()
    states = [np.zeros(4)]
    for token in tokens[:-1]:
        states.append(np.tanh(W_x[token] + states[-1] @ W_h))
    errors, losses = [], []
    for h, target in zip(states[1:], tokens[1:], strict=True):
        p = np.exp(h @ W_y) / np.exp(h @ W_y).sum()
        losses.append(-np.log(p[target]))
        errors.append(W_y @ (p - np.eye(len(alphabet))[target]))
    deltas, later = [], np.zeros(4)
    for h, error in zip(states[:0:-1], errors[::-1], strict=True):
        later = (error + W_h @ later) * (1 - h * h)
        deltas.insert(0, later)
    return losses, deltas, [np.outer(h, delta) for h, delta in zip(states, deltas, strict=False)]


def test_it_has_six_sections_and_a_picture(shown):
    assert list(shown) == [1, 2, 3, 4, 5, 6]
    assert Path("runs/bptt/credit_map.png").read_bytes().startswith(b"\x89PNG")


def test_the_losses_add_up_and_the_tape_is_printed(shown):
    losses, _, _ = by_hand("aba", 3)
    printed = [numbers(line)[0] for line in lines(shown[1], "step ")]
    np.testing.assert_allclose(printed, losses, atol=1e-4)
    assert numbers(lines(shown[1], "The loss is their sum")[0])[0] == pytest.approx(sum(losses), abs=1e-4)
    assert shown[1].count("W_h") == shown[1].count("W_y") == 3


def test_delta_is_that_of_backpropagation_by_hand(shown):
    _, deltas, _ = by_hand("aba", 3)
    for t, delta in enumerate(deltas):
        found = numbers(lines(shown[2], f"delta_{t} =")[0])
        np.testing.assert_allclose(found, [*delta, *delta], atol=1e-4)


def test_the_shares_of_the_gradient_add_up(shown):
    _, _, shares = by_hand("aba", 3)
    printed = np.array([numbers(line) for line in lines(shown[3], "step ")])
    np.testing.assert_allclose(printed[:, 0], np.linalg.norm(shares, axis=(1, 2)), atol=1e-4)
    assert printed[:, 1].sum() == pytest.approx(100, abs=0.02)
    assert printed[0].tolist() == [0, 0]
    norm = numbers(lines(shown[3], "Their sum is W_h.grad")[0])[0]
    assert norm == pytest.approx(np.linalg.norm(np.sum(shares, axis=0)), abs=1e-4)
    difference = re.search(r"largest difference (\S+)\.$", shown[3], re.MULTILINE)[1]
    assert float(difference) < 1e-14


def test_forward_mode_finds_the_same_column(shown):
    _, _, shares = by_hand("aba", 3)
    for mode in ("forward", "backward"):
        found = numbers(lines(shown[4], mode)[0])
        np.testing.assert_allclose(found, np.sum(shares, axis=0)[:, 0], atol=1e-4)


def test_the_map_of_credit_has_nothing_below_its_diagonal(shown):
    rows = [line.split()[1:] for line in shown[5].splitlines() if re.match(r" +\d ", line)]
    assert [row.count(".") for row in rows] == [0, 1, 2]
    assert all(row[:t] == ["."] * t for t, row in enumerate(rows))
    assert all(float(entry) > 0 for t, row in enumerate(rows) for entry in row[t:])


def test_the_program_is_that_of_the_net(shown):
    assert "forward: 1 matrix product in the loop" in shown[6]
    assert "backward: 1 matrix product in the loop" in shown[6]
    assert "W_h" in shown[6]


@pytest.mark.parametrize("word", ["xx", "é ", "twelve chars"])
def test_it_reads_any_word(word, tmp_path, capsys):
    assert bptt.main(["--word", word, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "credit_map.png").exists()


def test_it_runs_on_another_backend(tmp_path, capsys):
    assert bptt.main(["--word", "ab", "--out", str(tmp_path)]) == 0
    expected = capsys.readouterr().out
    assert bptt.main(["--word", "ab", "--out", str(tmp_path), "--backend", "strict"]) == 0
    found = capsys.readouterr().out
    assert found.partition("6. ")[0] == expected.partition("6. ")[0]
    assert mg.zeros(1).backend.name == "numpy"  # left as it was


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--word=x", "argument --word: has 2 to 12 characters and no '.', which marks its end, got 'x'"),
        ("--word=thirteenchars", "argument --word: has 2 to 12 characters"),
        ("--word=a.b", "got 'a.b'"),
        ("--seed=-1", "argument --seed: needs a whole number of at least 0, got '-1'"),
        ("--backend=nampy", "--backend: no backend is called 'nampy'"),
        ("--out=taken", "cannot use --out taken: File exists; name another folder"),
    ],
)
def test_a_bad_option_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    assert bptt.main([options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("bptt: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_picture_of_somebody_else_is_kept(tmp_path, capsys):
    photograph = tmp_path / "credit_map.png"
    photograph.write_bytes(b"\x89PNG, a photograph")
    assert bptt.main(["--out", str(tmp_path)]) == 2
    assert "credit_map.png was not made by this program and is kept" in capsys.readouterr().err
    assert photograph.read_bytes() == b"\x89PNG, a photograph"


def test_a_missing_library_is_one_line(capsys, monkeypatch):
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "plumbing")
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PROGRAM))
    assert end.value.code == 2
    assert capsys.readouterr().err == "bptt: matplotlib is not installed: pip install 'minigrad[examples]'\n"
