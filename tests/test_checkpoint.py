"""Checkpoints: bit for bit there and back, and nothing is lost when something fails."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend import get_backend
from minigrad.training import checkpoint, load, save

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="checkpoints need the extra `training`")


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def host(x):
    return mg.asarray(x).detach().numpy()


def arrays_of_every_kind():
    found = {}
    for name in sorted(checkpoint.DTYPES):
        dtype = np.dtype(name)
        bits = np.random.default_rng(0).integers(0, 256, size=24 * dtype.itemsize, dtype=np.uint8)
        full = (bits % 2).astype(bool) if name == "bool" else bits.view(dtype)  # every bit pattern, NaNs among them
        found |= {f"{name}.1d": full, f"{name}.3d": full.reshape(2, 3, 4), f"{name}.0d": full[0].reshape(())}
        found |= {f"{name}.empty": full[:0], f"{name}.empty3d": full[:0].reshape(2, 0, 3)}
    return found


def assert_same_bits(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        got = found[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


# ---- there and back ------------------------------------------------------------------------------------------------


def test_every_dtype_and_shape_comes_back_bit_for_bit(path, backend):
    expected = arrays_of_every_kind()
    save(path, {name: backend.asarray(array) for name, array in expected.items()}, {})
    found, meta = load(path)
    assert_same_bits(found, expected)
    assert meta == {}
    for array in found.values():
        assert type(array) is np.ndarray
        assert array.flags.writeable
        assert array.flags.owndata


@pytest.mark.parametrize("order", ["transposed", "strided", "reversed", "big-endian", "Fortran", "read-only"])
def test_layout_does_not_matter(order, path):
    a = np.arange(12.0).reshape(3, 4)
    given = {
        "transposed": a.T,
        "strided": a[:, ::2],
        "reversed": a[::-1],
        "big-endian": a.astype(">f8"),
        "Fortran": np.asfortranarray(a),
        "read-only": a.copy(),
    }[order]
    given.flags.writeable = False
    save(path, {"a": given}, {})
    np.testing.assert_array_equal(load(path)[0]["a"], given)


META = {
    "step": 3,
    "big": 2**200,
    "pi": math.pi,
    "tiny": 5e-324,
    "text": "línea\n\u2028 \U0001f600 \x00",
    "nested": {"list": [1, [2.5, None, True]], "": {}},
}


def test_meta_comes_back(path):
    save(path, {}, META)
    arrays, meta = load(path)
    assert arrays == {}
    assert meta == META
    save(path, {}, {"not": [math.inf, -math.inf, math.nan]})
    a, b, c = load(path)[1]["not"]
    assert (a, b, math.isnan(c)) == (math.inf, -math.inf, True)
    save(path, {"a": np.zeros(1)})
    assert load(path)[1] == {}


def test_tensors_are_arrays_too(path, backend):
    save(path, nn.Linear(1, 2, seed=0).parameters())
    np.testing.assert_array_equal(load(path)[0]["W"], host(nn.Linear(1, 2, seed=0).W))


def test_training_resumes_bit_for_bit(path, backend):
    """Model, optimiser and counters, through a file."""

    class Net(nn.Module):
        def __init__(self, seed):
            self.embedding = nn.Embedding(4, 3, seed=seed)
            self.cell = nn.LSTMCell(3, 5, seed=seed)
            self.out = nn.Linear(5, 4, seed=seed)

    def train(net, opt, state, steps):
        for step in steps:
            tokens = np.random.default_rng(step).integers(0, 4, size=(2, 6))
            outputs, state = nn.dynamic_rnn(net.cell, net.embedding(tokens[:, :-1]), initial_state=state)
            mg.cross_entropy(net.out(outputs), tokens[:, 1:]).mean().backward()
            optim.clip_global_norm(net, 0.1)
            opt.step()
            state = mg.stop_gradient(state)
        return state

    net = Net(0)
    opt = optim.Adam(net, lr=0.01)
    state = train(net, opt, None, range(3))
    groups = {"model": net.state_dict(), "optimiser": opt.state_dict(), "state": {"h": state.h.data, "c": state.c.data}}
    save(path, {f"{group}/{name}": a for group, part in groups.items() for name, a in part.items()}, {"step": 3})
    train(net, opt, state, range(3, 6))

    arrays, meta = load(path)
    restored = {
        group: {name.removeprefix(f"{group}/"): a for name, a in arrays.items() if name.startswith(f"{group}/")}
        for group in groups
    }
    twin = Net(1)
    twin.load_state_dict(restored["model"])
    opt = optim.Adam(twin)
    opt.load_state_dict(restored["optimiser"])
    state = nn.LSTMState(*[mg.tensor(restored["state"][name]) for name in "hc"])
    train(twin, opt, state, range(meta["step"], 6))
    assert_same_bits(
        {name: host(a) for name, a in twin.state_dict().items()},
        {name: host(a) for name, a in net.state_dict().items()},
    )


def test_other_tools_read_the_file(path):
    save(path, {"W": np.eye(2)}, {"step": 1})
    np.testing.assert_array_equal(safetensors_numpy.load_file(path)["W"], np.eye(2))


def test_a_file_of_this_version_stays_readable(path):
    """The format, byte by byte: a length, a JSON header, the arrays; whatever writes this writes a checkpoint."""
    header = {
        "__metadata__": {"format": "minigrad checkpoint 1", "meta": '{"step": 7}', "sha256": DIGEST},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    data = np.array([1.0, 2.0], "<f4").tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    arrays, meta = load(path)
    assert (arrays["w"].tolist(), meta) == ([1.0, 2.0], {"step": 7})


DIGEST = "a332fad0c8a22a19b47d55ed702d7bbbb7e10333ae8c8bb222b17636de40d0be"


# ---- refused: what cannot be saved ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros(1, complex)}, "array 'z' has dtype complex128, and a checkpoint holds bool, float16"),
        ({"t": np.zeros(1, "M8[s]")}, "array 't' has dtype datetime64"),
        ({1: np.zeros(1)}, "arrays are named by strings"),
        ({"__metadata__": np.zeros(1)}, "arrays are named by strings, but for '__metadata__'"),
        ({"x": [1.0]}, "expected an array"),
        ({"x": 1.0}, "expected an array"),
    ],
)
def test_arrays_that_would_not_come_back_are_refused(arrays, message, path):
    with pytest.raises(TypeError, match=message):
        save(path, arrays, {})
    assert not path.exists()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"a": [1, {"b": np.zeros(1)}]}, r"meta\['a'\]\[1\]\['b'\] is a ndarray, .* arrays go among the arrays"),
        ({"a": np.float64(1.0)}, r"meta\['a'\] is a float64"),
        ({"a": {1: 2}}, r"meta\['a'\] has the key 1: keys are strings"),
        ({"a": {1, 2}}, r"meta\['a'\] is a set"),
        ({"a": b"bytes"}, r"meta\['a'\] is a bytes"),
        ([1], "meta is a dict"),
        ("text", "meta is a dict"),
    ],
)
def test_meta_that_json_would_change_is_refused(meta, message, path):
    with pytest.raises(TypeError, match=message):
        save(path, {}, meta)
    assert not path.exists()


# ---- refused: what is no checkpoint --------------------------------------------------------------------------------


def saved(path):
    save(path, {"W": np.arange(6.0).reshape(2, 3), "n": np.array(3)}, {"step": 1})
    return path.read_bytes()


def refuses(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is looked at below)
        load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert "damaged" in message or "no checkpoint that this minigrad reads" in message
    assert path.read_bytes() == data  # reading changes nothing


def test_a_file_cut_short_anywhere_is_refused(path):
    data = saved(path)
    for length in range(len(data)):
        refuses(path, data[:length])
    refuses(path, data + b"\x00")


def test_any_changed_byte_is_noticed(path):
    """Even in the middle of an array, where safetensors itself would not look."""
    data = saved(path)
    header = 8 + int.from_bytes(data[:8], "little")
    assert header < len(data)
    changed = 0
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            broken = bytearray(data)
            broken[place] ^= flip
            if place < header and _says_the_same(broken[8:header], data[8:header]):
                continue
            changed += 1
            refuses(path, bytes(broken))
    assert changed > 2 * len(data)


def _says_the_same(one, other):
    """Some changes of a header change nothing: a blank for another."""
    try:
        return json.loads(bytes(one)) == json.loads(bytes(other))
    except ValueError:
        return False


FOREIGN = {
    "nothing": b"",
    "text": b"To be, or not to be",
    "a pickle": pickle.dumps({"W": [1.0]}),
    "zeros": b"\x00" * 64,
    "ones": b"\xff" * 64,
    "a zip": b"PK\x03\x04" + b"\x00" * 60,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused(kind, path):
    refuses(path, FOREIGN[kind])


def test_safetensors_of_others_are_refused(path):
    refuses(path, safetensors_numpy.save({"W": np.zeros(2)}))
    refuses(path, safetensors_numpy.save({"W": np.zeros(2)}, metadata={"format": "pt"}))
    path.write_bytes(safetensors_numpy.save({"W": np.zeros(2)}, metadata={"format": "minigrad checkpoint 2"}))
    with pytest.raises(ValueError, match="it needs 'minigrad checkpoint 1', found 'minigrad checkpoint 2'"):
        load(path)


def test_a_pickle_is_never_run(path, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    refuses(path, pickle.dumps(Trap()))
    assert not (tmp_path / "sprung").exists()


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        load(tmp_path)


# ---- nothing is lost -----------------------------------------------------------------------------------------------


class BrokenFile:
    """A file that takes half of what it is given."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_leaves_what_was_there(error, stage, existing, path, monkeypatch):
    before = saved(path) if existing else None

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        if stage == "write":
            opened = Path.open
            patch.setattr(Path, "open", lambda self, mode: BrokenFile(opened(self, mode), error))
        else:
            patch.setattr(os, stage, fail)
        with pytest.raises(type(error)):
            save(path, {"W": np.ones((2, 3))}, {"step": 2})
    assert [p.name for p in path.parent.iterdir()] == ([path.name] if existing else [])
    if existing:
        assert path.read_bytes() == before
        assert load(path)[1] == {"step": 1}


def test_the_old_file_is_whole_until_the_new_one_is(path, monkeypatch):
    """What is put in place is a complete checkpoint, flushed to disk, from the same folder."""
    before = saved(path)
    replace, synced = os.replace, []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))

    def look(source, target):
        assert Path(source).parent == path.parent == Path(target).parent
        assert path.read_bytes() == before
        assert load(source)[1] == {"step": 2}
        assert Path(source).stat().st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    save(path, {"W": np.ones(1)}, {"step": 2})
    assert load(path)[1] == {"step": 2}
    assert path.parent.stat().st_ino in synced
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_link_keeps_pointing_at_the_file(path, tmp_path):
    saved(path)
    link = tmp_path / "latest"
    link.symlink_to(path)
    save(link, {}, {"step": 5})
    assert link.is_symlink()
    assert load(path)[1] == {"step": 5}


def test_folders_are_made_and_never_written_over(tmp_path):
    save(tmp_path / "a" / "b" / "model", {}, {"step": 1})
    assert load(tmp_path / "a" / "b" / "model")[1] == {"step": 1}
    with pytest.raises(IsADirectoryError, match="is a folder: add a file name"):
        save(tmp_path / "a", {}, {})
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_strings_are_paths(tmp_path):
    save(str(tmp_path / "model"), {"W": np.ones(1)}, {})
    assert load(str(tmp_path / "model"))[0]["W"] == [1.0]


def test_the_mode_of_a_new_file_is_that_of_any_new_file(path, tmp_path):
    save(path, {}, {})
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---- safetensors is an extra ---------------------------------------------------------------------------------------


def test_without_safetensors_one_line_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda: save(path, {}, {}), lambda: load(path)):
        with pytest.raises(ImportError, match=r"checkpoints need safetensors: pip install 'minigrad\[training\]'"):
            call()
    assert not path.exists()


def test_safetensors_is_imported_only_when_needed():
    code = "import sys, minigrad, minigrad.training; sys.exit('safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
