"""examples/adding.py: the problem is what it says, a gated net learns it, and the pictures tell the truth."""

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


PROGRAM = Path(__file__).parents[1] / "examples" / "adding.py"
TINY = "--length 6 --units 5 --batch 4 --steps 30".split()
adding = importlib.import_module("adding")
Config = adding.Config


@pytest.mark.parametrize("length", [3, 7, 20])
def test_one_number_is_marked_in_each_half_and_the_answer_is_their_sum(length):
    inputs, sums = (part.numpy() for part in adding.problems(500, length, [1, 2]))
    assert inputs.shape == (length, 500, 2)
    numbers, marks = np.moveaxis(inputs, -1, 0)
    assert set(marks.ravel()) == {0, 1}
    assert (marks[: length // 2].sum(axis=0) == 1).all()
    assert (marks[length // 2 :].sum(axis=0) == 1).all()
    assert (marks.sum(axis=1) > 0).all()  # each place is drawn
    np.testing.assert_allclose(sums[:, 0], (numbers * marks).sum(axis=0), rtol=1e-6)
    assert sums.var() == pytest.approx(1 / 6, abs=0.03)
    assert sums.mean() == pytest.approx(1, abs=0.06)


def test_problems_follow_from_their_seed_and_are_new_at_each_step():
    once, again, other = (adding.problems(3, 5, seed)[0].numpy() for seed in ([0, 4], [0, 4], [0, 5]))
    assert (once == again).all()
    assert (once[..., 0] != other[..., 0]).all()


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_gated_net_learns_it(kind):
    config = Config(length=10, units=12, batch=32, steps=700, lr=0.02)
    before = adding.unseen_error(adding.Model(kind, config.units, config.seed), config)
    run = adding.train_net(kind, config, adding.commands.console())
    assert run.error == adding.unseen_error(run.model, config) < adding.SOLVED < 0.1 < before
    assert run.history.step < config.steps


def plain_flow(model, config):
    """The chain rule of the plain net: a step back is a product with diag(1 - h^2) and W_h."""
    inputs = adding.problems(adding.FLOW_ROWS, config.length, [config.seed, 0, 2])[0].numpy()
    w = {name: weight.numpy() for name, weight in model.parameters().items()}
    states = [np.zeros((adding.FLOW_ROWS, config.units))]
    for x in inputs:
        states.append(np.tanh(x @ w["cell.W_x"] + states[-1] @ w["cell.W_h"] + w["cell.b"]))
    g, norms = np.broadcast_to(w["readout.W"][:, 0], states[0].shape), []
    for h in reversed(states[1:]):
        norms.insert(0, np.linalg.norm(g, axis=1))
        g = ((1 - h * h) * g) @ w["cell.W_h"].T
    return (np.array(norms) / norms[-1]).mean(axis=1)


def test_gradient_flow_is_the_chain_rule_of_the_plain_net(monkeypatch):
    monkeypatch.setattr(adding, "FLOW_ROWS", 3)
    config = Config(length=9, units=4, seed=5)
    model = adding.Model("rnn", 4, 5)
    np.testing.assert_allclose(adding.gradient_flow(model, config), plain_flow(model, config), rtol=1e-4)  # float32


def test_gradient_flow_is_the_last_column_of_the_map_of_credit(monkeypatch):
    """Up to its scale: there the loss is the squared error, and here it is what the net says."""
    monkeypatch.setattr(adding, "FLOW_ROWS", 1)
    config = Config(length=8, units=4, seed=5)
    model = adding.Model("lstm", 4, 5)
    inputs, sums = adding.problems(1, 8, [5, 0, 2])

    def losses(outputs):
        return mg.square(model.readout(outputs) - sums)[..., 0]

    column = mg.explain.credit_map(model.cell, inputs, losses, time_major=True)[:, -1]
    np.testing.assert_allclose(adding.gradient_flow(model, config), column / column[-1], rtol=1e-4)


def test_the_learning_rate_falls_to_0_and_the_curve_is_a_mean_of_what_was(monkeypatch):
    schedule = adding.schedule_of(Config(steps=4, lr=0.8))
    np.testing.assert_allclose([schedule.learning_rate(step) for step in range(4)], [0.8, 0.6, 0.4, 0.2], rtol=1e-12)
    monkeypatch.setattr(adding, "LATELY", 3)
    np.testing.assert_allclose(adding.smoothed([1.0, 2.0, 6.0, 10.0]), [1, 1.5, 3, 6], rtol=1e-15)


def test_training_stops_where_the_problem_is_solved():
    losses = [adding.SOLVED] * 100
    assert not adding.solved(losses)
    assert adding.solved(losses + [adding.SOLVED / 3] * (adding.LATELY - 1))
    assert not adding.solved([0.0] * (adding.LATELY - 1))  # luck


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert adding.main([*TINY, "--cells", "rnn", "lstm"]) == 0
    shown = capsys.readouterr()
    assert "solved is below 0.01" in shown.out
    rows = [line.split() for line in shown.out.splitlines() if re.match(r"(rnn|gru|lstm) ", line)]
    assert [row[0] for row in rows] == ["rnn", "lstm"]
    assert [row[1] for row in rows] == ["30", "30"]
    assert not set(shown.out) & {"\x1b", "\r"}  # no bar in a file
    assert shown.err == ""
    for name in ("learning_curves.png", "gradient_flow.png"):
        assert (Path("runs/adding") / name).read_bytes().startswith(b"\x89PNG")


def table(out):
    """The lines without the times, which differ from run to run."""
    return [line.split()[:-2] for line in out.splitlines() if re.match(r"(rnn|gru|lstm) ", line)]


def test_the_same_seed_gives_the_same_run_on_another_backend_too(tmp_path, capsys):
    options = [*TINY, "--out", str(tmp_path), "--cells", "gru"]
    tables = []
    for more in ([], [], ["--backend", "strict"], ["--seed", "1"]):
        assert adding.main([*options, *more]) == 0
        tables.append(table(capsys.readouterr().out))
    assert tables[0] == tables[1] == tables[2] != tables[3]


def test_a_picture_of_somebody_else_is_kept(tmp_path, capsys):
    photograph = tmp_path / "gradient_flow.png"
    photograph.write_bytes(b"\x89PNG, a photograph")
    assert adding.main([*TINY, "--out", str(tmp_path)]) == 2
    assert "gradient_flow.png was not made by this program and is kept" in capsys.readouterr().err
    assert photograph.read_bytes() == b"\x89PNG, a photograph"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 0", "argument --steps: needs a whole number of at least 1, got '0'"),
        ("--length 1", "argument --length: needs a whole number of at least 2, got '1'"),
        ("--lr nan", "argument --lr: needs a number above 0, got 'nan'"),
        ("--cells rnn lstn", "argument --cells: is one of rnn, gru, lstm, got 'lstn'"),
        ("--backend nampy", "--backend: no backend is called 'nampy'"),
        ("--out taken", "cannot use --out taken: File exists; name another folder"),
    ],
)
def test_a_bad_option_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    assert adding.main([*TINY, *options.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("adding: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_ctrl_c_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adding, "train_net", interrupted)
    assert adding.main([*TINY, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "adding: interrupted\n"


@pytest.mark.parametrize("library", ["rich", "matplotlib"])
def test_a_missing_library_is_one_line(library, capsys, monkeypatch):
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "plumbing")
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PROGRAM))
    assert end.value.code == 2
    assert capsys.readouterr().err == f"adding: {library} is not installed: pip install 'minigrad[examples]'\n"
