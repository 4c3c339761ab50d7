"""The benchmarks run, at tiny sizes, and all contestants compute the same. No time is asserted."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

CONTESTANTS = {
    "eager": {
        "numpy": ["by-hand"],
        "minigrad": ["minigrad"],
        "torch": ["torch"],
        "mygrad": ["mygrad"],
        "autograd": ["autograd"],
    },
    "rnn": {
        "numpy": ["by-hand-plain", "by-hand-best"],
        "minigrad": ["minigrad-nn", "minigrad-scan"],
        "torch": ["torch-lstm", "torch-loop"],
        "jax": ["jax-scan"],
        "mygrad": ["mygrad-loop"],
        "autograd": ["autograd-loop"],
    },
}


@pytest.fixture
def folder(tmp_path):
    """Holds a copy of benchmarks/ alone, so that it finds the minigrad that the other tests find."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    return tmp_path


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("name", CONTESTANTS)
def test_everyone_agrees(folder, name):
    done = python(folder, "-m", f"benchmarks.{name}", "--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    missing = re.findall(r"Not installed, so not measured: (.*) \(", done.stdout)
    absent = {library for library in CONTESTANTS[name] if importlib.util.find_spec(library) is None}
    assert absent <= {library for line in missing for library in line.split(", ")}
    expected = {who for library, names in CONTESTANTS[name].items() if library not in absent for who in names}
    agreed = re.findall(r"same values and gradients, .* from (.*)", done.stdout)
    assert agreed
    for names in agreed:
        assert set(names.split(", ")) == expected


WRONG = """
import numpy as np
from benchmarks import eager, rnn

def wrong(x, W_x, W_h, b):
    right = rnn.by_hand_best(x, W_x, W_h, b)
    def step():
        got = right()
        return {**got, "KEY": VALUE}
    return step

rnn.CONTESTANTS["by-hand-best"] = ("numpy", wrong)
rnn.measure(rnn.Size(3, 2, 2, 2), ["by-hand-plain", "by-hand-best"], repeats=1)
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
    assert "by-hand-best at 3,2,2,2" in done.stderr
    assert message in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "1,2,3"], "'1,2,3' is not T,B,I,H, as in 100,32,128,128"),
        (["--sizes", "1,2,0,3"], "'0' is not a whole number above 0"),
        (["--threads", "two"], "'two' is not a whole number above 0"),
        (["--only", "nobody"], "invalid choice: 'nobody'"),
    ],
)
def test_wrong_options(folder, arguments, message):
    done = python(folder, "-m", "benchmarks.rnn", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
