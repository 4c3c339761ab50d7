"""examples/dates.py: dates are Babel's and can be decided, a net learns them, and what is told is what was found."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest

for library in ("matplotlib", "rich", "safetensors", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")

from babel.dates import format_date  # noqa: E402

import dates  # noqa: E402
from dates import Config, Dates, Written  # noqa: E402
from plumbing import commands, pictures, training  # noqa: E402

TINY = "--locales de,ru,en_GB,hu --strings 300 --held-out 4 --units 5 --batch 16 --steps 4 --every 2".split()


# ---- data ----------------------------------------------------------------------------------------------------------


def test_a_text_names_one_day_in_whatever_locale_it_is_written():
    """Two years, so that each date falls on two days of the week."""
    named = {}
    patterns = [(locale, pattern) for locale in dates.LOCALES for pattern in dates.forms(locale)]
    for number in range(date(2023, 1, 1).toordinal(), date(2025, 1, 1).toordinal()):
        day = date.fromordinal(number)
        for locale, pattern in patterns:
            text = format_date(day, pattern, locale=locale)
            for case in dates.CASES:
                assert named.setdefault(dates.tidy(case(text)), day) == day


def test_every_locale_has_short_and_long_forms():
    for locale in dates.LOCALES:
        patterns = dates.forms(locale)
        assert len(patterns) >= 4
        assert any("EEEE" in pattern or "cccc" in pattern for pattern in patterns)
        assert any("MMMM" not in pattern for pattern in patterns)


@pytest.mark.parametrize(
    "pattern", ["d. MMMM y", "EEEE, MMMM d, y", "dd/MM/y", "y. MM. dd.", "E d.M.y", "d MMM y 'г'."]
)
def test_what_can_be_decided(pattern):
    assert dates.is_decidable(pattern)


@pytest.mark.parametrize("pattern", ["M/d/y", "dd.MM.yy", "d MMM yy", "y/d/M"])
def test_what_cannot_be_decided(pattern):
    assert not dates.is_decidable(pattern)


def test_held_out_days_are_never_learnt_from_and_asked_for_in_every_locale():
    config = Config(locales=("de", "ru", "hu"), strings=3000, held_out=20)
    made = Dates(config)
    assert len(made.seen) == 3000
    asked = {item.iso for item in made.held_out}
    assert len(asked) == 20
    assert {(item.iso, item.locale) for item in made.held_out} == {
        (iso, locale) for iso in asked for locale in config.locales
    }
    assert len(made.held_out) == 60
    assert not asked & {item.iso for item in made.seen}
    assert {item.locale for item in made.seen} == set(config.locales)
    assert {item.iso[:2] for item in made.seen} == {"19", "20"}


def test_what_is_written_is_one_of_the_forms_in_one_of_the_cases():
    made, forms = Dates(Config(locales=("ru",), strings=400, held_out=1)), dates.forms("ru")
    seen = set()
    for text, iso, locale in made.seen:
        assert locale == "ru"
        plain = {dates.tidy(format_date(date.fromisoformat(iso), form, locale=locale)): form for form in forms}
        capital = {key.upper(): (form, "capitals") for key, form in plain.items()}
        seen.add((capital | plain)[text])  # Russian has small letters alone, and of numbers the cases are one
    assert seen == {*forms, *((form, "capitals") for form in forms if "MMM" in form)}


def test_spaces_are_plain_and_accents_stand_on_their_letters():
    assert dates.tidy(" 5\u202fjuin\xa01987\n") == "5 juin 1987"
    assert dates.tidy("a\u0301") == "á"


def test_dates_follow_from_the_seed():
    once, again, other = (Dates(Config(strings=50, held_out=2, seed=seed)) for seed in (0, 0, 1))
    assert (once.seen, once.held_out) == (again.seen, again.held_out)
    assert once.seen != other.seen
    assert {item.iso for item in once.held_out} != {item.iso for item in other.held_out}


# ---- net -----------------------------------------------------------------------------------------------------------


def test_it_learns_a_language():
    config = Config(("de",), strings=640, held_out=60, embedding=12, units=16, batch=16, steps=200, lr=0.03)
    made = Dates(config)
    net = dates.new_net(len(made.characters), config)
    before = [answer.right for answer in dates.answers(net, made)]
    history = dates.fit(net, made, config, commands.console())
    after = [answer.right for answer in dates.answers(net, made)]
    assert not any(before)
    assert np.mean(after) == history.measured[-1][1] > 0.6


def small(locales=("de", "ru")):
    config = Config(locales, strings=200, held_out=6, embedding=4, units=3)
    made = Dates(config)
    return made, dates.new_net(len(made.characters), config).astype("float64")


def test_texts_are_translated_in_their_order_and_as_if_alone():
    made, net = small()
    texts = [item.text for item in made.held_out]
    assert len({len(text) for text in texts}) > 3  # batches are sorted by them
    together = dates.translated(net, made, texts)
    for text, (said, log_prob) in zip(texts, together, strict=True):
        [(alone, own)] = dates.translated(net, made, [text])
        assert said == alone
        assert log_prob == pytest.approx(own, rel=1e-12)


def test_the_log_probability_is_that_of_what_was_written():
    made, net = small()
    text = made.held_out[0].text
    [(said, log_prob)] = dates.translated(net, made, [text])
    written = dates.ISO.numbers_of((said + dates.END)[: dates.LENGTH])
    logits = net(np.array(made.numbers([text])), np.array([written])).logits.numpy()[0]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert log_prob == pytest.approx(log_probs[np.arange(len(written)), written].sum(), rel=1e-12)


def test_answers_are_right_where_every_character_is(monkeypatch):
    made, net = small()
    truth = [item.iso for item in made.held_out]
    said = [truth[0], truth[1][:-1], truth[2] + "0", *truth[3:]]
    monkeypatch.setattr(dates, "translated", lambda net, made, texts: [(iso, -1.0) for iso in said])
    found = dates.answers(net, made)
    assert [answer.right for answer in found] == [True, False, False, *[True] * (len(truth) - 3)]
    assert [answer.item for answer in found] == made.held_out


def test_what_is_told_of_the_answers(capsys):
    def answer(iso, log_prob, said, locale):
        return dates.Answer(said == iso, log_prob, said, Written(f"text of {iso}", iso, locale))

    found = [
        answer("2000-01-01", -0.5, "2000-01-01", "de"),
        answer("2000-01-02", -0.1, "2000-01-03", "de"),
        answer("2000-01-04", -2.0, "2000-01-04", "ru"),
    ]
    dates.tell(found, commands.console())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.strip().splitlines()]
    assert lines == [
        "held-out dates exactly right: 66.67% of 3",
        "50.0% German text of 2000-01-01 2000-01-01",
        "100.0% Russian text of 2000-01-04 2000-01-04",
        "",
        "wrong, or least sure, with log-probabilities:",
        "-0.10 German text of 2000-01-02 2000-01-03 wrong, it is 2000-01-02",
        "-2.00 Russian text of 2000-01-04 2000-01-04 right",
        "-0.50 German text of 2000-01-01 2000-01-01 right",
    ]


@pytest.mark.parametrize("locales", [("hu",), ("de", "ru", "hu", "fi")])
def test_the_picture_shows_attention_over_the_characters_of_dates(locales, tmp_path, monkeypatch):
    made, net = small(locales)
    figures = []
    monkeypatch.setattr(pictures, "finish", lambda figure, *_, **__: figures.append(figure))
    dates.draw(net, made, training.History(losses=[2.0, 1.0], measured=[(2, 0.5)]), tmp_path / "dates.png")
    [figure] = figures
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == min(len(locales), 3)
    for axes, locale in zip(maps, locales, strict=False):
        read = "".join(label.get_text() for label in axes.get_xticklabels())
        assert read in {item.text for item in made.held_out if item.locale == locale}
        written = [label.get_text() for label in axes.get_yticklabels()]
        [(said, _)] = dates.translated(net, made, [read])
        assert written == [*said, "end"]
        weights = np.asarray(axes.images[0].get_array())
        assert weights.shape == (len(said) + 1, len(read))
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)


# ---- command line --------------------------------------------------------------------------------------------------


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert dates.main([*TINY, "--teacher-forcing", "0.5", "--date", "5. Juni 1987", " 5\xa0июня 1987 "]) == 0
    shown = capsys.readouterr()
    assert "300 dates to learn from, in 4 locales, of " in shown.out
    assert re.search(r"^held-out dates exactly right: \d+\.\d\d% of 16$", shown.out, re.MULTILINE)
    assert re.findall(r"^ +[\d.]+%  ([\w ()]+\S)  ", shown.out, re.MULTILINE) == [
        "German", "Russian", "English (United Kingdom)", "Hungarian",
    ]  # fmt: skip
    for text in ("5. Juni 1987", "5 июня 1987"):
        assert re.search(rf"^{text}\n[\d-]*, log-probability -\d+\.\d\d\d$", shown.out, re.MULTILINE)
    assert not set(shown.out) & {"\x1b", "\r"}  # no bar in a file
    assert shown.err == ""
    assert Path("runs/dates/dates.png").read_bytes().startswith(b"\x89PNG")


def told(out):
    """What was printed, without the times, which differ from run to run."""
    return re.sub(r"(?m) +\d+:\d\d$|, on \w+$", "", out)


def test_the_same_seed_gives_the_same_run_on_another_backend_too(tmp_path, capsys):
    options = [*TINY, "--steps", "2", "--out", str(tmp_path)]
    runs = []
    for more in ("", "", "--backend strict", "--teacher-forcing 0", "--seed 1"):
        assert dates.main([*options, *more.split()]) == 0
        runs.append(told(capsys.readouterr().out))
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strings", "0"], "argument --strings: needs a whole number of at least 1, got '0'"),
        (["--held-out", "73049"], "--held-out is below 73,049, all days there are, got 73,049"),
        (["--locales", "de,xx"], "argument --locales: takes names such as de and en_GB, between commas, got 'de,xx'"),
        (["--locales", ""], "argument --locales: takes names such as de and en_GB, between commas, got ''"),
        (["--teacher-forcing", "1.1"], "argument --teacher-forcing: needs a number from 0 to 1, got '1.1'"),
        (["--lr", "nan"], "argument --lr: needs a number above 0, got 'nan'"),
        (["--date", "5. Juni 1987", "昭和5年"], "--date '昭和5年': the net does not know '和', '年', '昭'"),
        (["--date", " "], "--date '': there is nothing to read"),
        (["--date"], "argument --date: expected at least one argument"),
        (["--backend", "nampy"], "--backend: no backend is called 'nampy'"),
        (["--out", "taken"], "cannot use --out taken: File exists; name another folder"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    assert dates.main([*TINY, *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("dates: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_locales_are_taken_once_and_by_the_name_that_babel_gives_them():
    assert dates.locales("en_gb,de,en_GB") == ("en_GB", "de")
