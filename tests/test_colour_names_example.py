"""examples/colour_names.py: names are the survey's, their bits are the net's, and seeing the colour is worth some."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

for library in ("matplotlib", "rich", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")

import colour_names  # noqa: E402
from colour_names import END, Config, Survey, bits, drawn, likeliest, namer  # noqa: E402
from plumbing import commands  # noqa: E402

SMALL = Config(encoder=3, embedding=4, units=5, dropout=0.2, held_out=20, batch=6, steps=2, every=1)
TINY = "--encoder 3 --embedding 4 --units 5 --held-out 20 --batch 6 --steps 2 --every 1".split()


@pytest.fixture(scope="module")
def survey():
    return Survey()


def net_of(survey, config=SMALL, blind=False):
    return namer(config, len(survey.vocabulary), blind)


# ---- data ----------------------------------------------------------------------------------------------------------


def test_the_survey_has_its_colours_and_names(survey):
    assert len(survey.names) == len(set(survey.names)) == 949
    assert [survey.name(tokens) for tokens in survey.tokens] == survey.names
    assert survey.vocabulary.tokens[0] == END
    red = survey.names.index("red")
    np.testing.assert_array_equal(np.round(255 * survey.colours[red]), [0xE5, 0x00, 0x00])
    for tokens, length in zip(survey.tokens, survey.lengths, strict=True):
        assert (tokens[length - 1 :] == 0).all()
        assert (tokens[: length - 1] > 0).all()


def test_every_colour_is_in_one_part_and_the_parts_follow_from_the_seed(survey):
    once, again, other = (survey.split(Config(seed=seed)) for seed in (3, 3, 4))
    assert [len(part) for part in once] == [699, 125, 125]
    np.testing.assert_array_equal(np.sort(np.concatenate(once)), np.arange(949))
    np.testing.assert_array_equal(np.concatenate(once), np.concatenate(again))
    assert (np.concatenate(once) != np.concatenate(other)).any()


def test_the_fewest_colours_to_learn_from_are_a_batch(survey):
    assert len(survey.split(Config(held_out=400, batch=149))[0]) == 149
    with pytest.raises(commands.BadInputError, match="leave 149 of the 949 colours to learn from"):
        survey.split(Config(held_out=400, batch=150))


def test_frequencies_are_those_of_the_names_to_learn_from(survey):
    learned, _, test = survey.split(SMALL)
    counts = Counter("".join(survey.names[row] + END for row in learned))
    total = sum(counts.values()) + len(survey.vocabulary)
    expected = [sum(-np.log2((counts[char] + 1) / total) for char in survey.names[row] + END) for row in test]
    np.testing.assert_allclose(survey.frequency_bits(learned, test), expected, rtol=1e-12)


def test_nobody_named_the_colours_of_the_circle(survey):
    circle = colour_names.hue_circle()
    assert circle.shape == (len(colour_names.LIGHTNESSES) * colour_names.HUES, 3)
    assert ((circle >= 0) & (circle <= 1)).all()
    assert not {*map(colour_names.to_hex, circle)} & {*map(colour_names.to_hex, survey.colours)}


# ---- net -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", colour_names.CONTEXTS)
def test_bits_are_those_of_the_steps_that_decoding_takes(context, survey):
    net = net_of(survey, Config(context=context, encoder=3, embedding=4, units=5))
    rows = np.array([5, 800, 17])
    step, state, given = net.stepper(survey.colours[rows])
    before, total = np.full(len(rows), net.start), np.zeros(len(rows))
    with mg.no_grad():
        for t, tokens in enumerate(survey.tokens[rows].T):
            logits, state = step(before, state, given)
            told = mg.log_softmax(logits).numpy()[np.arange(len(rows)), tokens]
            total -= np.where(t < survey.lengths[rows], told, 0) / np.log(2)
            before = tokens
    np.testing.assert_allclose(bits(net, survey, rows), total, rtol=1e-5)  # float32


def test_the_blind_net_sees_no_colour_and_the_other_does(survey):
    recoloured = Survey()
    recoloured.colours = np.roll(survey.colours, 1, axis=0)
    rows = np.arange(40)
    blind, seeing = net_of(survey, blind=True), net_of(survey)
    np.testing.assert_array_equal(bits(blind, survey, rows), bits(blind, recoloured, rows))
    assert (bits(seeing, survey, rows) != bits(seeing, recoloured, rows)).all()


def test_likely_names_come_with_the_bits_that_they_cost(survey):
    net = net_of(survey)
    weights = net.state_dict()
    weights["readout.b"][0] = 2  # so that names end
    net.load_state_dict(weights)
    for colour, names in zip(survey.colours[:2], likeliest(net, survey, survey.colours[:2]), strict=True):
        assert len({name for name, _ in names}) == len(names) == 5
        assert [log_prob for _, log_prob in names] == sorted((log_prob for _, log_prob in names), reverse=True)
        other = Survey()
        for row, (name, _) in enumerate(names):
            other.colours[row], other.lengths[row] = colour, len(name) + 1
            other.tokens[row] = survey.vocabulary.numbers_of(name.ljust(survey.tokens.shape[1], END))
        cost = bits(net, other, np.arange(5)) * np.log(2)
        np.testing.assert_allclose([-log_prob for _, log_prob in names], cost, rtol=1e-5)  # float32


def test_drawn_names_follow_from_the_seed_and_freeze_into_the_likeliest(survey):
    net, colours = net_of(survey), survey.colours[:9]
    once, again, other = (drawn(net, survey, colours, 1.0, seed) for seed in (0, 0, 1))
    assert once == again != other
    cold = drawn(net, survey, colours, 1e-6, 0)
    greedy = mg.nn.decoding.greedy(*net.stepper(colours), start=0, end=0, max_length=survey.tokens.shape[1])
    assert cold == [survey.name(tokens) for tokens in greedy.tokens]


def test_it_learns_what_seeing_the_colour_is_worth(survey):
    config = Config(encoder=16, embedding=16, units=48, dropout=0.2, held_out=150, batch=32, steps=200, lr=0.04)
    learned, validation, test = survey.split(config)
    quiet = commands.Console(quiet=True)
    blind, seeing = (colour_names.train(survey, learned, validation, config, blind, quiet) for blind in (True, False))
    cost = bits(seeing, survey, test).mean()
    assert cost + 0.5 < bits(blind, survey, test).mean() < survey.frequency_bits(learned, test).mean() / 2
    mistaken = Survey()
    mistaken.colours[test] = np.roll(survey.colours[test], 1, axis=0)
    assert cost + 2 < bits(seeing, mistaken, test).mean()


# ---- command line --------------------------------------------------------------------------------------------------


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert colour_names.main([*TINY, "--colour", "3fa7d6", "#FFB07C"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "949 colours: 909 to learn from, 20 for validation, 20 for the test; the context is bias" in shown.out
    assert re.search(
        r"seeing the colour is worth -?\d+\.\d\d bits a name, with a standard error of \d+\.\d\d", shown.out
    )
    yours = shown.out.partition("yours")[2]
    assert [line.split()[0] for line in yours.splitlines()[1:3]] == ["#3fa7d6", "#ffb07c"]
    assert all(line.count("(-") == 3 for line in yours.splitlines()[1:3])
    assert not set(shown.out) & {"\x1b", "\r"}  # no colours and no bar in a file
    assert Path("runs/colour_names/colour_names.png").read_bytes().startswith(b"\x89PNG")


def told(out):
    """What was printed, without the times, which differ from run to run, and the backend."""
    return re.sub(r" \d+:\d\d$|on \w+$", "", out, flags=re.MULTILINE)


def test_the_same_seed_gives_the_same_run_on_another_backend_too(tmp_path, capsys):
    runs = []
    for more in ([], [], ["--backend", "strict"], ["--seed", "1"]):
        assert colour_names.main([*TINY, "--out", str(tmp_path), *more]) == 0
        runs.append(told(capsys.readouterr().out))
    assert runs[0] == runs[1] == runs[2] != runs[3]


def test_a_terminal_shows_the_colours():
    console = commands.Console(force_terminal=True, color_system="truecolor", width=80)
    with console.capture() as captured:
        console.print(colour_names.swatch((1, 0.5, 0), "orange"))
    assert "\x1b[48;2;255;128;0m    " in captured.get()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--colour red", "argument --colour: needs colours such as 3fa7d6, six hexadecimal digits, got 'red'"),
        ("--colour 3fa7d6 #12345", "six hexadecimal digits, got '#12345'"),
        ("--colour", "argument --colour: expected at least one argument"),
        ("--context within", "argument --context: is one of bias, every, init, both, got 'within'"),
        ("--dropout 1", "argument --dropout: needs a number from 0 to below 1, got '1'"),
        ("--held-out 0", "argument --held-out: needs a whole number of at least 1, got '0'"),
        ("--held-out 500", "--held-out 500 for validation, and as many for the test, leave 0 of the 949 colours"),
        ("--batch 910", "leave 909 of the 949 colours to learn from; needed is a --batch of 910"),
        ("--temperature 0", "argument --temperature: needs a number above 0, got '0'"),
        ("--backend nampy", "--backend: no backend is called 'nampy'"),
        ("--out taken", "cannot use --out taken: File exists; name another folder"),
    ],
)
def test_a_bad_option_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    assert colour_names.main([*TINY, *options.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("colour_names: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_ctrl_c_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(colour_names, "train", interrupted)
    assert colour_names.main([*TINY, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "colour_names: interrupted\n"
