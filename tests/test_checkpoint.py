"""Checkpoints: bit for bit there and back, and nothing is lost when something fails."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend import get_backend
from minigrad.training import checkpoint, conventions, convert_update, load, save

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
        ({"x": [1.0]}, "array 'x' cannot be saved: expected an array .* got .*list"),
        ({"x": 1.0}, "array 'x' cannot be saved: expected an array .* got .*float"),
    ],
)
def test_arrays_that_would_not_come_back_are_refused(arrays, message, path):
    with pytest.raises(TypeError, match=message):
        save(path, arrays, {})
    assert not path.exists()


CIRCULAR = {"a": [0, {}]}
CIRCULAR["a"][1]["again"] = CIRCULAR


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"a": [1, {"b": np.zeros(1)}]}, r"meta\['a'\]\[1\]\['b'\] is a ndarray, .* arrays go among the arrays"),
        ({"a": np.float64(1.0)}, r"meta\['a'\] is a float64"),
        ({"a": {1: 2}}, r"meta\['a'\] has the key 1: keys are strings"),
        ({"a": {1, 2}}, r"meta\['a'\] is a set"),
        ({"a": b"bytes"}, r"meta\['a'\] is a bytes"),
        (CIRCULAR, r"meta\['a'\]\[1\]\['again'\] is a dict that holds itself"),
        ({"a": CIRCULAR["a"]}, r"meta\['a'\]\[1\]\['again'\]\['a'\] is a list that holds itself"),
        ([1], "meta is a dict"),
        ("text", "meta is a dict"),
    ],
)
def test_meta_that_json_would_change_is_refused(meta, message, path):
    with pytest.raises(TypeError, match=message):
        save(path, {}, meta)
    assert not path.exists()


def test_meta_may_hold_a_thing_twice(path):
    part = {"k": [1]}
    save(path, {}, {"a": part, "b": [part, part]})
    assert load(path)[1] == {"a": part, "b": [part, part]}


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


# ---- conventions ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, update="keep", reset="before"):
        self.layers = [nn.LSTMCell(2, 2, seed=0), nn.GRUCell(2, 2, update, reset, seed=1)]
        self.out = nn.Linear(2, 1, seed=2)
        self.tied = self.layers[1]


def test_conventions_are_those_of_every_cell_by_path():
    assert conventions(Net("write")) == {
        "layers.0": conventions(nn.LSTMCell(2, 2))[""],
        "layers.1": {"gates": "rzn", "update": "write", "reset": "before"},
    }
    assert conventions(nn.LSTMCell(2, 2))[""]["gates"] == "ifgo"
    assert conventions(nn.LSTMCell(2, 2, coupled=True))[""]["gates"] == "igo"
    assert conventions(nn.Linear(2, 2)) == {}


def test_any_module_may_have_conventions():
    class Own(nn.Module):
        gates, update, forget_bias_in = "fc", 0.5, "call"

    assert conventions(Own()) == {"": {"gates": "fc", "forget_bias_in": "call"}}


def test_options_of_a_cell_that_leave_no_trace_in_its_arrays_are_conventions(path):
    for saved, module, message in [
        (nn.RNNCell(2, 3, mg.relu), nn.RNNCell(2, 3), "activation is 'relu' there and 'tanh' here"),
        (nn.LSTMCell(2, 3, clip=1), nn.LSTMCell(2, 3), "clip is '1.0' there and None here"),
    ]:
        save(path, saved.state_dict(), module=saved)
        with pytest.raises(ValueError, match=f"{message}; build the module with the conventions of the file$"):
            load(path, module=module)
        load(path, module=saved)


def test_conventions_are_found_wherever_parameters_are(path):
    @dataclasses.dataclass
    class Parts:
        cell: Any

    net = nn.Module()
    net.parts, net.queue = Parts(nn.GRUCell(1, 1, "write")), collections.deque([nn.RNNCell(1, 1)])
    assert {name: words["gates"] for name, words in conventions(net).items()} == {"parts.cell": "rzn", "queue.0": "h"}


def test_a_conversion_is_offered_only_for_the_order_of_gates_that_it_knows(path):
    class Other(nn.Module):
        gates = "zrn"

        def __init__(self, update):
            self.update = update

    save(path, {}, module=Other("keep"))
    with pytest.raises(ValueError, match="update is 'keep' there and 'write' here; build the module with the conv"):
        load(path, module=Other("write"))


def test_a_file_of_the_same_conventions_is_loaded(path, backend):
    net = Net("write", "after")
    save(path, net.state_dict(), {"step": 3}, module=net)
    arrays, meta = load(path, module=Net("write", "after"))
    assert meta == {"step": 3, "conventions": conventions(net)}
    assert_same_bits(arrays, {name: host(a) for name, a in net.state_dict().items()})
    assert_same_bits(load(path)[0], arrays)


@pytest.mark.parametrize(
    ("saved", "module", "message"),
    [
        (
            nn.GRUCell(1, 2, "write"),
            nn.GRUCell(1, 2),
            r"module: update is 'write' there and 'keep' here; .* convert: arrays = .*convert_update\(arrays, ''\)$",
        ),
        (
            Net(),
            Net("write"),
            r"layers.1.update is 'keep' there and 'write' here; .* convert: .*convert_update\(arrays, 'layers.1'\)$",
        ),
        (
            Net("keep", "after"),
            Net("keep", "before"),
            "layers.1.reset is 'after' there and 'before' here; build the module with the conventions of the file$",
        ),
        (
            Net("keep", "after"),
            Net("write", "before"),
            "update is 'keep' there and 'write' here, layers.1.reset is 'after' there and 'before' here; build",
        ),
        (nn.GRUCell(2, 3), nn.LSTMCell(2, 3), "gates is 'rzn' there and 'ifgo' here, update is 'keep' there and None"),
        (nn.GRUCell(2, 3), nn.Linear(2, 3), "gates is 'rzn' there and None here"),
        (nn.Linear(2, 3), nn.RNNCell(2, 3), "gates is None there and 'h' here"),
    ],
    ids=["convert", "convert inside", "rebuild", "both", "another cell", "no cell here", "no cell there"],
)
def test_a_file_of_other_conventions_is_refused_with_the_way_out(saved, module, message, path):
    save(path, saved.state_dict(), module=saved)
    with pytest.raises(ValueError, match=message):
        load(path, module=module)
    assert_same_bits(load(path)[0], {name: host(a) for name, a in saved.state_dict().items()})


def test_a_file_that_tells_no_conventions_is_read_but_not_taken_to_agree(path):
    cell = nn.GRUCell(2, 3, seed=0)
    save(path, cell.state_dict(), {"step": 1})
    assert load(path)[1] == {"step": 1}
    assert load(path, module=nn.Linear(2, 3))[1] == {"step": 1}
    with pytest.raises(ValueError, match="does not tell its conventions, and GRUCell has .*'keep'.* without module="):
        load(path, module=cell)


def test_conventions_of_your_own_are_not_written_over(path):
    save(path, {}, {"conventions": "mine"})
    assert load(path)[1] == {"conventions": "mine"}
    with pytest.raises(ValueError, match="call yours by another name"):
        save(path, {}, {"conventions": "mine"}, module=nn.GRUCell(2, 3))
    meta = {"step": 1}
    save(path, {}, meta, module=nn.GRUCell(2, 3))
    assert meta == {"step": 1}


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize(("there", "here"), [("keep", "write"), ("write", "keep")])
def test_a_converted_gru_computes_the_same(there, here, reset, path, backend):
    draw = np.random.default_rng(0)
    old, new = (nn.GRUCell(2, 3, update, reset, dtype="float64") for update in (there, here))
    old.load_state_dict({name: draw.normal(size=p.shape) for name, p in old.parameters().items()})
    inputs, state = (backend.asarray(draw.normal(size=shape)) for shape in [(4, 5, 2), (4, 3)])
    save(path, old.state_dict(), module=old)
    arrays, _ = load(path)
    new.load_state_dict(convert_update(arrays))
    results = [nn.dynamic_rnn(cell, inputs, [5, 0, 3, 1], state) for cell in (old, new)]
    for (outputs, final), (others, other_final) in [results]:
        np.testing.assert_allclose(host(outputs), host(others), rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(host(final), host(other_final), rtol=1e-13, atol=1e-15)
        assert (host(final) != host(state)).any()


def test_conversion_loses_no_bit(backend):
    """z alone changes its sign, zeros and NaNs included; twice is the identity; the given arrays stay as they are."""
    bits = np.random.default_rng(0).integers(0, 2**64, size=(7, 9), dtype=np.uint64)
    matrix = bits.view(np.float64)
    matrix[0] = 0.0
    given = {"W_x": matrix[:2], "W_h": matrix[2:5], "b": matrix[5], "b_hn": matrix[6, :3]}
    arrays = {f"cell.{name}": backend.asarray(a.copy()) for name, a in given.items()}
    arrays |= {"other.W_x": backend.asarray(np.ones((2, 2))), "cell2.b": backend.asarray(np.ones(1))}
    before = {name: host(a) for name, a in arrays.items()}
    once = convert_update(arrays, "cell")
    assert_same_bits({name: host(a) for name, a in arrays.items()}, before)
    sign = np.uint64(2**63)
    for name in ("W_x", "W_h", "b"):
        expected = before[f"cell.{name}"].copy()
        expected.view(np.uint64)[..., 3:6] ^= sign
        assert host(once[f"cell.{name}"]).tobytes() == expected.tobytes()
    assert_same_bits({name: host(a) for name, a in convert_update(once, "cell").items()}, before)
    for name in ("cell.b_hn", "other.W_x", "cell2.b"):
        assert once[name] is arrays[name]


@pytest.mark.parametrize(
    ("cell", "path", "message"),
    [
        (nn.GRUCell(2, 3), "layers.0", r"got at the path 'layers.0': \[\]"),
        (nn.Linear(2, 3), "", r"W_x, W_h, b and perhaps b_hn, got at the path '': \['W', 'b'\]"),
        (nn.LSTMCell(2, 3, peepholes=True), "", "'p_f'"),
        (nn.LSTMCell(2, 4), "", r"W_x has the columns of three gates of 4 units side by side, got \(2, 16\)"),
        (nn.LSTMCell(2, 3), "", r"W_x has the columns of three gates of 3 units side by side, got \(2, 12\)"),
    ],
)
def test_what_is_no_gru_is_not_converted(cell, path, message):
    with pytest.raises(ValueError, match=message):
        convert_update(cell.state_dict(), path)


# ---- killed at any moment ------------------------------------------------------------------------------------------

TRAINING = """
import os, signal, sys
import numpy as np
import minigrad as mg
from minigrad import nn, optim, training

path, steps, tokens, die_at = sys.argv[1], 20, np.random.default_rng(0).integers(0, 5, size=70), int(sys.argv[2])

class Model(nn.Module):
    def __init__(self):
        self.embedding, self.cell = nn.Embedding(5, 3, seed=0), nn.LSTMCell(3, 4, seed=0)
        self.out = nn.Linear(4, 5, seed=0)

model = Model()
optimiser = optim.Adam(model, lr=0.1)
store = training.StateStore(model.cell)
step = 0
if os.path.exists(path):
    arrays, meta = training.load(path, module=model)
    groups = {}
    for name, array in arrays.items():
        group, _, name = name.partition("/")
        groups.setdefault(group, {})[name] = array
    model.load_state_dict(groups["model"])
    optimiser.load_state_dict(groups["optimiser"])
    store.put(range(2), nn.LSTMState(groups["state"]["h"], groups["state"]["c"]))
    step = meta["step"]

def die_at_the_call(name, count):
    function, calls = getattr(os, name), []
    def call(*args):
        calls.append(args)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    setattr(os, name, call)

if die_at:
    die_at_the_call("fsync" if die_at % 2 else "replace", die_at)

chunks = list(training.streams(tokens, batch=2, chunk=6))
while step < steps:
    sys.stdin.readline()  # a step a line: so that whoever kills this knows that it was not at its end
    inputs, targets, lengths = chunks[step % len(chunks)]
    if step % len(chunks) == 0:
        store.drop(range(2))
    drop = mg.random.bernoulli((2, inputs.shape[1], 3), seed=(7, step), p=0.8, dtype="float32")
    x = model.embedding(inputs) * drop
    outputs, state = nn.dynamic_rnn(model.cell, x, lengths, store.take(range(2)))
    mask = mg.sequence_mask(lengths, inputs.shape[1])
    mg.sum(mg.where(mask, mg.cross_entropy(model.out(outputs), targets), 0)).backward()
    optim.clip_global_norm(model, 1.0)
    optimiser.step()
    store.put(range(2), state)
    step += 1
    state = store.take(range(2))
    groups = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "state": state._asdict()}
    arrays = {f"{group}/{name}": array for group, part in groups.items() for name, array in part.items()}
    training.save(path, arrays, {"step": step}, module=model)
    print("saved", flush=True)
"""


@contextlib.contextmanager
def life(path, lines, die_at=0):
    """One life of the training, which is given so many steps to go."""
    command = [sys.executable, "-c", TRAINING, str(path), str(die_at)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdin.write("\n" * lines)
            process.stdin.flush()
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_a_run_that_is_killed_at_any_moment_resumes_bit_for_bit(tmp_path):
    """Some lives end at a random moment, some in the middle of saving, all before their fifth step; one goes on."""
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    draw = np.random.default_rng(0)
    with life(whole, 20) as uninterrupted:
        for steps in (1, 3, 2):
            with life(killed, 4) as process:
                assert [process.stdout.readline() for _ in range(steps)] == ["saved\n"] * steps
                time.sleep(draw.uniform(0.0, 0.02))
                process.kill()
                assert process.wait(timeout=60) == -signal.SIGKILL
        for die_at in (2, 3):  # before the new file is put in place, and before it is on disk
            with life(killed, 4, die_at) as process:
                assert process.wait(timeout=60) == -signal.SIGKILL
        arrays, meta = load(killed)
        assert 0 < meta["step"] < 20
        with life(killed, 20) as process:
            assert process.wait(timeout=60) == 0
        assert uninterrupted.wait(timeout=60) == 0
    expected, expected_meta = load(whole)
    assert load(killed)[1] == expected_meta == {"step": 20, "conventions": {"cell": conventions(nn.LSTMCell(3, 4))[""]}}
    assert_same_bits(load(killed)[0], expected)
    assert all(expected[name].tobytes() != arrays[name].tobytes() for name in expected if name.startswith("model/"))


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
