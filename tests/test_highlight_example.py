"""examples/highlight.py: the truth is what it says, both directions beat one, and what is shown is what was found."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

for library in ("matplotlib", "rich", "safetensors", "babel"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'minigrad[examples]'")

from rich.console import Console  # noqa: E402

import highlight  # noqa: E402
from highlight import CLASSES, Config, Corpus, Source, Tagger  # noqa: E402

TINY = "--files 6 --held-out 2 --units 4 --window 10 --batch 3 --steps 5".split()
WORDS = "i in int if iffy is island del delta as ask".split()


def program(seed, lines=12):
    """Some Python in which keywords begin names, and comments and strings hold both."""
    rng = np.random.default_rng(seed)
    names = [word for word in WORDS if not highlight.iskeyword(word)]
    code = []
    for kind in rng.integers(6, size=lines):
        a, b, c = rng.choice(names, 3)
        d, e = rng.choice(WORDS, 2)
        forms = (
            f"{a} = {b}({c})",
            f"{a} = {b}",
            f"def {a}({b}): pass",
            f"# {d} {e} {a}",
            f"{a} = '{d} {e} {b}'",
            f"if {a} in {b} is {c}: del {a}",
        )
        code.append(forms[kind])
    return "\n".join(code) + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, and in it one of eight programs."""
    monkeypatch.chdir(tmp_path)
    Path("code").mkdir()
    for i in range(8):
        Path(f"code/p{i}.py").write_text(program(i))
    return Path("code")


def letters(code):
    return "".join(CLASSES[i][0] for i in highlight.truth(code))


# ---- truth ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("if int in x:  # in\n", "kkwiiiwkkwiowwccccw"),
        ("def f(a=f(1)):\n", "kkkwdoiofonooow"),
        ("class A(B): pass", "kkkkkwdoioowkkkk"),
        ("'''doc\n\n'''\n\tx", "sssssssssss" + "wwi"),
        ("y = f\"{a!r:>{w}} {{\" 'b'", "iwow" + "s" * 16 + "wsss"),
        ("f'{\"a\"}' + rf'''{\nf}'''", "ssssssss" + "wow" + "s" * 12),
        ("match (x):\n case _: pass", "fffffwoioowwiiiiwiowkkkk"),
        ("é = 1_0.5e3j \\\n + ü.f()", "iwownnnnnnnnwwwwowiofoo"),
        ("f\"{f'{x}'}\" in y", "s" * 11 + "wkkwi"),
        ("# only", "cccccc"),
        ("print\n(1)", "iiiiiwono"),
        ("@a.b()\nasync def c(): await d", "oiofoowkkkkkwkkkwdooowkkkkkwi"),
    ],
)
def test_the_class_of_each_character(code, expected):
    assert letters(code) == expected


FRAGMENTS = {
    "'# no' ": "ssssssw",
    "f'{x}'f'' ": "sssssssssw",
    "lambda ": "kkkkkkw",
    "lambdas ": "iiiiiiiw",
    "call( )": "ffffowo",
    "0x1F ": "nnnnw",
    "-> ": "oow",
    "# in 'a\n": "cccccccw",
    '"""\n# x""" ': "ssssssssssw",
    "def é ": "kkkwdw",
    "\n": "w",
}


@given(st.lists(st.sampled_from(sorted(FRAGMENTS)), min_size=1))
def test_the_classes_of_tokens_side_by_side(fragments):
    """What stands before has no say: neither its lines nor its strings nor its characters of more than a byte."""
    assert letters("x " + "".join(fragments)) == "iw" + "".join(FRAGMENTS[fragment] for fragment in fragments)


@pytest.mark.parametrize(
    "code", ["x = '", "x = 1 $ 2", "a ? b", "x = !1", "x = €", "'''abc", "if x:\n  a\n b", "f(", "a\0b", "`x`"]
)
def test_a_file_with_a_fault_has_no_truth_and_says_why(code, tmp_path):
    path = tmp_path / "x.py"
    path.write_text(code, encoding="utf-8")
    source = highlight.read(path)
    assert source.text == code
    assert source.tags is None
    assert source.fault


def test_a_file_is_read_in_the_encoding_that_it_declares(tmp_path):
    path = tmp_path / "x.py"
    path.write_bytes("# coding: latin-1\r\nx = 'é'\r\n".encode("latin-1"))
    source = highlight.read(path)
    assert source.text == "# coding: latin-1\nx = 'é'\n"
    assert len(source.tags) == len(source.text)


# ---- corpus --------------------------------------------------------------------------------------------------------


def names(sources):
    return [source.path.name for source in sources]


def test_files_are_drawn_by_the_seed_and_seen_or_held_out_or_shown(folder):
    for name, code in {
        "_private.py": program(9),
        "short.py": "x",
        "broken.py": "(" * 200,
        "data.txt": "x" * 99,
    }.items():
        (folder / name).write_text(code)
    (folder / "dir.py").mkdir()
    config = Config(folder, files=99, held_out=3, window=10)
    corpus = Corpus(config, None)
    assert len(corpus.held_out) == 3
    assert sorted(names(corpus.seen + corpus.held_out)) == [f"p{i}.py" for i in range(8)]
    assert names(Corpus(config, None).held_out) == names(corpus.held_out)
    assert names(Corpus(Config(folder, held_out=3, window=10, seed=1), None).held_out) != names(corpus.held_out)
    assert len(Corpus(Config(folder, files=5, held_out=3, window=10), None).seen) == 2
    shown = highlight.read(Path("code/../code/p3.py"))
    apart = Corpus(config, shown)
    assert sorted(names(apart.seen + apart.held_out)) == [f"p{i}.py" for i in range(8) if i != 3]


def test_windows_are_pieces_of_files_with_their_truth(folder):
    corpus = Corpus(Config(folder, files=5, held_out=2, window=7), None)
    codes, tags = corpus.windows(corpus.seen, 7)
    pieces = ["".join(corpus.vocabulary.tokens_of(column)) for column in codes.T]
    expected = [source.text[i : i + 7] for source in corpus.seen for i in range(0, len(source.text) - 6, 7)]
    assert pieces == expected
    assert tags.shape == codes.shape == (7, len(expected))
    assert tags[:, 0].tolist() == corpus.seen[0].tags[:7].tolist()
    assert tags[:, -1].tolist() == corpus.seen[-1].tags[: len(corpus.seen[-1].text) // 7 * 7][-7:].tolist()


def test_characters_that_are_not_frequent_are_one(folder):
    corpus = Corpus(Config(folder, held_out=2, window=7), None)
    x, once, again = corpus.codes(Source(Path("x"), "xΩ☃", None))
    assert once == again != x or "x" not in corpus.vocabulary
    assert once == again == corpus.vocabulary.numbers[highlight.UNKNOWN]


# ---- nets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "before", "after"), [("forward", 0, 1), ("backward", 1, 0), ("both", 1, 1)])
def test_a_direction_sees_what_it_has_read(direction, before, after):
    """The fifth character of nine is another: which outputs, before and after it, know."""
    model = Tagger(direction, 5, Config(units=3))
    codes = np.zeros((9, 1), int)
    other = codes.copy()
    other[4] = 3
    changed = (model(codes).numpy() != model(other).numpy()).any(axis=(1, 2))
    assert changed.tolist() == [bool(before)] * 4 + [True] + [bool(after)] * 4


def test_the_nets_have_about_equally_many_weights():
    counts = [sum(w.size for w in Tagger(d, 91, Config()).parameters().values()) for d in highlight.DIRECTIONS]
    assert max(counts) < 1.03 * min(counts)


@pytest.mark.parametrize("direction", highlight.DIRECTIONS)
def test_files_of_any_lengths_are_tagged_as_each_alone(direction, folder):
    corpus = Corpus(Config(folder, held_out=1, window=10), None)
    sources = [Source(Path("x"), code, None) for code in ("x", "def f", program(1), "y = 1\n", program(2, 3), "# c")]
    model = Tagger(direction, len(corpus.vocabulary), Config(units=3))
    together = highlight.tag_files(model, corpus, sources)
    for source, said in zip(sources, together, strict=True):
        assert said.tolist() == model.tags(corpus.codes(source)[:, None])[:, 0].tolist()
        assert len(said) == len(source.text)


def test_both_directions_learn_what_neither_can(folder):
    for i, path in enumerate(sorted(folder.iterdir())):
        path.write_text(program(i, lines=60))
    config = Config(folder, held_out=3, units=12, window=40, batch=16, steps=200)
    corpus, console = Corpus(config, None), Console(file=io.StringIO())
    models = {direction: highlight.train(direction, corpus, config, console) for direction in highlight.DIRECTIONS}
    table = highlight.compare(models, corpus, console)
    forward, backward, both = (dict(zip((*CLASSES, "all"), table[name], strict=True)) for name in table)
    assert forward["function"] < 70
    assert backward["comment"] < 80
    assert max(forward["all"], backward["all"]) < 97
    assert min(both["function"], both["comment"], both["all"]) > 99


# ---- what is shown -------------------------------------------------------------------------------------------------


class Fixed:
    """A net that says the same of every character."""

    def __init__(self, name):
        self.tag = CLASSES.index(name)

    def tags(self, codes, lengths=None):
        return np.full(codes.shape, self.tag)


def test_the_table_counts_characters_of_whole_files(folder):
    corpus = Corpus(Config(folder, held_out=5, window=10), None)
    table = highlight.compare({"both": Fixed("string")}, corpus, Console(file=io.StringIO()))
    row = dict(zip((*CLASSES, "all"), table["both"], strict=True))
    text = "".join(letters(source.text) for source in corpus.held_out)
    assert row.pop("string") == 100
    assert row.pop("all") == pytest.approx(100 * text.count("s") / len(text), rel=1e-12)
    assert np.isnan(row.pop("number"))  # these programs have none
    assert set(row.values()) == {0}


def tagged(code, said, known=True):
    by_letter = {name[0]: i for i, name in enumerate(CLASSES)}
    tags = highlight.truth(code) if known else None
    return highlight.lines_of(Source(Path("x"), code, tags), np.array([by_letter[c] for c in said]))


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def printed(lines, **options):
    console = Console(file=io.StringIO(), highlight=False, markup=False, soft_wrap=True, **options)
    highlight.show(lines, console)
    key, _, shown = console.file.getvalue().partition("\n\n")
    assert plain(key).startswith("whitespace comment" if console.is_terminal else "below each character")
    return shown


def test_without_a_terminal_letters_stand_below_and_errors_are_capitals():
    assert printed(tagged("if x: y", "kiwiowi")) == "if x: y\nkI io i\n"
    assert printed(tagged("if x: y", "kiwiowi", known=False)) == "if x: y\nki io i\n"
    assert printed(tagged("if x:\n\ty=1", "kkwwowsion")) == "if x:\nkk Wo\n y=1\nSion\n"
    assert printed(tagged("x\n\n# [b]\n", "iwwcccccw")) == "x\ni\n\n# [b]\nccccc\n\n"


def test_on_a_terminal_characters_are_coloured_and_errors_underlined():
    shown = printed(tagged("if x", "kiwi"), force_terminal=True, color_system="truecolor")
    colours = {name: tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for name, code in highlight.COLOURS.items()}
    keyword, identifier = (";".join(map(str, colours[name])) for name in ("keyword", "identifier"))
    assert re.search(rf"\x1b\[38;2;{keyword}mi", shown)
    assert re.search(rf"\x1b\[4;38;2;{identifier}mf", shown)
    assert plain(shown) == "if x\n"


def test_the_liveliest_lines_have_most_classes_and_then_most_errors():
    lines = tagged("a\nif b\nc\nif d\n", "iw" + "kkwiw" + "iw" + "kkwow")
    assert highlight.liveliest(lines, 1) == 3
    assert highlight.liveliest(lines[:3], 1) == 1
    assert highlight.liveliest(lines, 99) == 0


# ---- command line --------------------------------------------------------------------------------------------------


def test_a_whole_run(folder, capsys):
    assert highlight.main([*TINY, "--folder", "code", "--lines", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert not set(shown.out) & {"\x1b", "\r"}
    assert "4 files to learn from" in shown.out
    held_out = re.search(r"held out: (p\d.py), p\d.py\n", shown.out)
    assert re.search(rf"{held_out[1]} from line \d+, as .*\nof the file's [\d,]+ characters [\d.]+ % are", shown.out)
    table = [line.split() for line in shown.out.splitlines() if line.startswith((*CLASSES, "all"))]
    assert [row[0] for row in table[: len(CLASSES) + 1]] == [*CLASSES, "all"]
    assert sum(float(row[1]) for row in table[: len(CLASSES)]) == pytest.approx(100, abs=0.5)
    assert Path("runs/highlight/highlight.png").read_bytes().startswith(b"\x89PNG")


def untimed(out):
    return re.sub(r"\d+:\d\d|on \w+", "", out)


def test_the_same_seed_gives_the_same_run_on_another_backend_too(folder, capsys, monkeypatch):
    monkeypatch.setattr(highlight, "draw", lambda *_: None)
    outputs = []
    for more in ([], [], ["--backend", "strict"], ["--seed", "1"]):
        assert highlight.main([*TINY, "--folder", "code", *more]) == 0
        outputs.append(untimed(capsys.readouterr().out))
    assert outputs[0] == outputs[1] == outputs[2] != outputs[3]


def test_a_file_with_a_fault_is_shown_without_accuracy(folder, capsys):
    Path("mine.py").write_text("x = '\n# Ω\n" + "$\n" * 2000, encoding="utf-8")
    assert highlight.main([*TINY, "--folder", "code", "--file", "mine.py", "--lines", "9999"]) == 0
    shown = capsys.readouterr().out
    assert "mine.py from line 1, as" in shown
    assert "how much is right is unknown, because tokenize finds a fault: " in shown
    assert "characters are right" not in shown
    assert "\nx = '\n" in shown
    height = int.from_bytes(Path("runs/highlight/highlight.png").read_bytes()[20:24], "big")
    assert height < 2000  # of 2,002 lines the picture has the first 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--file none.py", "cannot read none.py: No such file or directory"),
        ("--file code", "cannot read code: Is a directory"),
        ("--file empty.py", "empty.py is empty"),
        ("--file blank.py", "blank.py is empty"),
        ("--file latin.py", "latin.py is not UTF-8, nor what it declares: "),
        ("--file unknown.py", "unknown.py is not UTF-8, nor what it declares: unknown encoding"),
        ("--file lies.py", "lies.py is not UTF-8, nor what it declares: "),
        ("--folder none", "--folder none has 0 Python files without a fault, of 10 to 40,000 characters; needed are"),
        ("--held-out 8 --files 8", "--files 8 leaves none to learn from: needed are more than the 8 of --held-out"),
        ("--window 5000", "code has 0 Python files without a fault, of 5,000 to 40,000 characters; needed are more"),
        ("--steps 0", "argument --steps: needs a whole number of at least 1, got '0'"),
        ("--window 0", "argument --window: needs a whole number of at least 1, got '0'"),
        ("--lines 0", "argument --lines: needs a whole number of at least 1, got '0'"),
        ("--lr nan", "argument --lr: needs a number "),
        ("--backend nampy", "--backend: no backend is called 'nampy'"),
        ("--out empty.py", "cannot use --out empty.py: File exists; name another folder"),
    ],
)
def test_bad_input_is_one_line(options, message, folder, capsys):
    files = {
        "empty.py": b"",
        "blank.py": b" \n\n",
        "latin.py": b"x = 1\n\n# \xe9\n",
        "unknown.py": b"# coding: klingon\n",
    }
    for name, content in (files | {"lies.py": b"# coding: ascii\n\nx = '\xe9'\n"}).items():
        Path(name).write_bytes(content)
    assert highlight.main([*TINY, "--folder", "code", *options.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("highlight: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        highlight.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in ("folder", "files", "held-out", "file", "lines", "units", "window", "steps", "lr", "seed", "backend"):
        assert f"--{name} " in shown
