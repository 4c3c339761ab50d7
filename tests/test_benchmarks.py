"""The benchmarks run, at tiny sizes, and all contestants compute the same. No time is asserted."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

EAGER = {
    "numpy": ["by-hand"],
    "minigrad": ["minigrad"],
    "torch": ["torch"],
    "mygrad": ["mygrad"],
    "autograd": ["autograd"],
}
PARTS = {  # of benchmarks.rnn that are contests
    "lstm": {
        "numpy": ["by-hand-plain", "by-hand-best"],
        "minigrad": ["minigrad-nn", "minigrad-scan"],
        "torch": ["torch-lstm", "torch-loop"],
        "jax": ["jax-scan", "jax-hoisted"],
        "mygrad": ["mygrad-loop"],
        "autograd": ["autograd-loop"],
    },
    "gru": {"minigrad": ["minigrad-after"], "torch": ["torch-gru"], "jax": ["jax-after"]},
    "gru-before": {"minigrad": ["minigrad-before", "minigrad-gru"], "jax": ["jax-before"]},
    "rnn": {"minigrad": ["minigrad-vanilla", "minigrad-rnn"], "torch": ["torch-rnn"], "jax": ["jax-rnn"]},
    "gates": {"numpy": ["by-hand-best"], "minigrad": ["minigrad-scan", "minigrad-renamed", "minigrad-four"]},
    "stack": {"minigrad": ["minigrad-two-scans", "minigrad-one-body"]},
    "deep": {"minigrad": ["minigrad-deep", "minigrad-layers"], "torch": ["torch-deep"]},
    "bidirectional": {"minigrad": ["minigrad-both", "minigrad-directions"], "torch": ["torch-both"]},
    "lengths": {"minigrad": ["minigrad-scan", "minigrad-lengths"]},
    "linear": {"numpy": ["by-hand-best"], "minigrad": ["minigrad-scan"]},
}
TARGETS = {  # what each part of benchmarks.rnn says about minigrad alone, or beside NumPy
    "lstm": ["minigrad-nn / by-hand-best", "minigrad-scan / by-hand-best"],
    "gates": ["minigrad-renamed / by-hand-best", "minigrad-four / minigrad-scan"],
    "stack": ["minigrad-one-body / minigrad-two-scans"],
    "deep": ["minigrad-deep / minigrad-layers"],
    "bidirectional": ["minigrad-both / minigrad-directions"],
    "lengths": ["minigrad-lengths / minigrad-scan"],
    "overhead": ["trace, key and record", "a cache miss"],
    "linear": ["time of a step at T = 20 / at 10"],
    "memory": ["memory of the LSTM at 8", 'memory of the vanilla at 50,3,4,4, checkpoint="sqrt"'],
}


@pytest.fixture
def folder(tmp_path):
    """Holds a copy of benchmarks/ and examples/ alone, so that it finds the minigrad that the other tests find."""
    for name in ("benchmarks", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def smoke(folder, name, *arguments):
    done = python(folder, "-m", f"benchmarks.{name}", "--smoke", "--threads", "1", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    missing = re.findall(r"Not installed, so not measured: (.*) \(", done.stdout)
    assert {library for line in missing for library in line.split(", ")} == {
        library for library in ("torch", "jax", "autograd", "mygrad") if not installed(library)
    }
    return done.stdout


def installed(library):
    return importlib.util.find_spec(library) is not None


def present(contestants):
    return {name for library, names in contestants.items() if installed(library) for name in names}


def agreed(text):
    return [set(names.split(", ")) for names in re.findall(r"same values and gradients, .* from (.*)", text)]


def test_everyone_agrees_on_the_eager_chains(folder):
    assert agreed(smoke(folder, "eager")) == [present(EAGER)]


def test_everyone_agrees_on_the_recurrent_networks(folder):
    parts = re.split(r"^## (.*)$", smoke(folder, "rnn"), flags=re.MULTILINE)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(texts) == PARTS.keys() | TARGETS.keys()
    for part, contestants in PARTS.items():
        lines = agreed(re.sub(r"^where the time goes.*$", "", texts[part], flags=re.MULTILINE))
        assert lines, part
        assert all(names == present(contestants) for names in lines), part
    for part, targets in TARGETS.items():
        for target in targets:
            assert re.search(rf"^(PASS|short) +{re.escape(target)}.*\(at most .*\)$", texts[part], re.MULTILINE), target
    assert re.search(r"^\| 5,3,4,6 minigrad-scan ", texts["lstm"], re.MULTILINE)  # where the time goes


def test_parts_and_contestants_are_chosen(folder):
    text = smoke(folder, "rnn", "--parts", "gates", "stack", "--only", "by-hand-best", "minigrad-four")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["gates", "stack"]
    assert agreed(text) == [{"by-hand-best", "minigrad-four"}]


def test_a_slow_reference_voids_the_comparison(folder):
    code = """
from benchmarks.contest import Size, at_every_size, on_average
samples = {Size(1, 1, 1, H): {"one": [H * 1.0] * 3, "other": [32.0] * 3} for H in (32, 64, 128)}
at_every_size(samples, "one", "other", lambda size: {64: 2.5, 128: 3.5}.get(size.H), "VOID")
on_average(samples, "one", "other", 2.1)
on_average(samples, "one", "nobody", 2.1)
"""
    assert python(folder, "-c", code).stdout.splitlines() == [
        "PASS   one / other, worst of 1, at 1,1,1,64: 2 (at most 2.5)",
        "VOID   one / other, worst of 1, at 1,1,1,128: 4 (at most 3.5)",
        "PASS   one / other, geometric mean of 3: 2 (at most 2.1)",
    ]


@pytest.mark.skipif(
    not (installed("matplotlib") and installed("rich")), reason="the example needs the extra minigrad[examples]"
)
def test_the_character_models_agree(folder):
    text = smoke(folder, "char_lm")
    assert re.search(r"20 updates, minigrad *: \d\.\d+ bits per character", text)
    assert ("same loss and gradients of the first chunk" in text) == installed("torch")
    assert re.search(r"^\| seconds \| +[\d.]+ \|", text, re.MULTILINE)


WRONG = """
import numpy as np
from benchmarks import contest, rnn

right = rnn.BEST

def wrong(x, parameters):
    step = right.make(x, parameters)
    def spoilt():
        got = step()
        return {**got, "KEY": VALUE}
    return spoilt

contestants = {"by-hand-best": right, "wrong": right._replace(make=wrong)}
contest.measure("lstm", contest.Size(3, 2, 2, 2), "lstm", contestants, contest.Rounds(1, 1))
"""


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("db", 'got["db"] * 1.001', "db is off by 1.0e-03"),
        ("dx", 'got["dx"] * float("nan")', "dx is off by nan"),
        ("dW_h", 'np.zeros_like(got["dW_h"])', "dW_h is off by 1.0e+00"),
        ("dW_x", 'got["dW_x"][:1]', "dW_x has shape (1, 8), expected (2, 8)"),
    ],
)
def test_a_wrong_contestant_is_not_timed(folder, key, value, message):
    done = python(folder, "-c", WRONG.replace("KEY", key).replace("VALUE", value))
    assert done.returncode == 1
    assert "wrong at 3,2,2,2" in done.stderr
    assert message in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "1,2,3"], "'1,2,3' is not T,B,I,H, as in 100,32,128,128"),
        (["--sizes", "1,2,0,3"], "'0' is not a whole number above 0"),
        (["--threads", "two"], "'two' is not a whole number above 0"),
        (["--only", "nobody"], "invalid choice: 'nobody'"),
        (["--parts", "brass"], "invalid choice: 'brass'"),
    ],
)
def test_wrong_options(folder, arguments, message):
    done = python(folder, "-m", "benchmarks.rnn", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
