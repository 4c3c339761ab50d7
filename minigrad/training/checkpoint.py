"""Checkpoints: named arrays and some JSON, in one safetensors file that appears whole or not at all.

A safetensors file is a JSON header and the raw bytes of the arrays. It is data and never code, unlike a pickle, and
other tools read it too. The header holds our JSON, and a digest of everything, since the format itself has none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.module import Module
from minigrad.tape import constant
from minigrad.training.gate_conventions import check_conventions, conventions

FORMAT = "minigrad checkpoint 1"
DTYPES = frozenset(
    "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
)  # those of NumPy that a safetensors file can hold, without complex ones
Host = np.ndarray[Any, Any]


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    meta: dict[str, Any] | None = None,
    module: Module | None = None,
) -> None:
    """Write arrays (of any backend) by name, and `meta`, which is anything that JSON can hold.

    module: whose conventions are written too, as `meta["conventions"]`, for `load` to compare; see `conventions`.
    The file is written beside `path` under another name and put in place when it is complete and on disk, so a
    failure, Ctrl-C included, leaves what was there before. A process that is killed meanwhile may leave a hidden file
    that ends in .tmp. A missing folder is made.
    TypeError for an array or a part of `meta` that would not come back as it was; ValueError for a module and a
    `meta["conventions"]` of your own; ImportError without safetensors.

    >>> import minigrad as mg, tempfile, os
    >>> cell = mg.nn.GRUCell(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     mg.training.save(path, cell.state_dict(), {"step": 7})
    ...     arrays, meta = mg.training.load(path)
    >>> cell.load_state_dict(arrays)
    >>> meta
    {'step': 7}
    """
    library = _safetensors()
    host = {_checked_name(name): _host(name, array) for name, array in arrays.items()}
    meta = {} if meta is None else meta
    if not isinstance(meta, dict):
        raise TypeError(f"meta is a dict, got {type(meta).__name__}")
    if module is not None:
        if "conventions" in meta:
            raise ValueError("with a module, save writes meta['conventions'] itself: call yours by another name")
        meta = {**meta, "conventions": conventions(module)}
    _check_json(meta, "meta")
    import json  # noqa: PLC0415  # with what hashes, it is a tenth of what minigrad imports

    text = json.dumps(meta)
    header = {"format": FORMAT, "meta": text, "sha256": _digest(host, text)}
    _write(Path(os.path.realpath(path)), library.numpy.save(host, metadata=header))


def load(path: str | os.PathLike[str], module: Module | None = None) -> tuple[dict[str, Host], dict[str, Any]]:
    """The NumPy arrays and the `meta` of a checkpoint, bit for bit as they were saved.

    module: the one that the arrays are for; ValueError, which says how to convert them, where its conventions are not
    those of the file, or the file tells none. Nothing is loaded into it, and without it nothing is compared.
    ValueError too for a file that is damaged, cut short, or no checkpoint of minigrad; FileNotFoundError for none.

    >>> import minigrad as mg, tempfile, os
    >>> cell = mg.nn.LSTMCell(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     mg.training.save(path, cell.state_dict(), module=cell)
    ...     arrays, meta = mg.training.load(path, module=cell)
    >>> cell.load_state_dict(arrays)
    """
    library = _safetensors()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {str(path)!r}")
    try:
        with library.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except Exception as error:
        if isinstance(error, OSError | MemoryError):
            raise
        raise ValueError(f"{str(path)!r} is damaged, or no safetensors file: {error}") from None
    if header.get("format") != FORMAT:
        found = header.get("format", "something else")
        raise ValueError(
            f"{str(path)!r} is no checkpoint that this minigrad reads: it needs {FORMAT!r}, found {found!r}"
        )
    text = header.get("meta", "")
    if header.get("sha256") != _digest(arrays, text):
        raise ValueError(f"{str(path)!r} is damaged: its contents differ from what was saved; use an older checkpoint")
    import json  # noqa: PLC0415  # see save

    meta = json.loads(text)
    if module is not None:
        check_conventions(str(path), meta.get("conventions"), module)
    return arrays, meta


# ---- the file ------------------------------------------------------------------------------------------------------


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy  # noqa: PLC0415  (an extra, needed by checkpoints only)
    except ModuleNotFoundError as error:
        raise ImportError("checkpoints need safetensors: pip install 'minigrad[training]'", name=error.name) from None
    return safetensors


def _digest(arrays: Mapping[str, Host], text: str) -> str:
    """A fingerprint of all names, dtypes, shapes, bytes and of the JSON text."""
    import hashlib  # noqa: PLC0415  # see save
    import json  # noqa: PLC0415

    digest = hashlib.sha256(json.dumps(text).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Put a file in place at once: whoever looks sees the old one or the whole new one, even after a power cut."""
    if path.is_dir():
        raise IsADirectoryError(f"a checkpoint is a file, and {str(path)!r} is a folder: add a file name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  (the call whose atomicity is documented)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is in the folder, which is written too
        finally:
            os.close(folder)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or name == "__metadata__":
        raise TypeError(f"arrays are named by strings, but for '__metadata__', got {name!r}")
    return name


def _host(name: str, value: Any) -> Host:
    """An array as one that is on the host, contiguous and of the machine's byte order."""
    array = constant(value)
    try:
        host = backend_of(array).to_host(array)
    except TypeError as error:
        raise TypeError(f"array {name!r} cannot be saved: {error}") from None
    if host.dtype.name not in DTYPES:
        raise TypeError(f"array {name!r} has dtype {host.dtype}, and a checkpoint holds {', '.join(sorted(DTYPES))}")
    return np.asarray(host, dtype=host.dtype.newbyteorder("="), order="C")


def _check_json(value: Any, where: str, around: tuple[Any, ...] = ()) -> None:
    """TypeError for what JSON would turn into something else, or cannot hold; a tuple may become a list.

    around: the dicts and lists that the value is in.
    """
    if any(value is outer for outer in around):
        raise TypeError(f"{where} is a {type(value).__name__} that holds itself, which JSON cannot; take it out")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r}: keys are strings")
            _check_json(item, f"{where}[{key!r}]", (*around, value))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]", (*around, value))
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(
            f"{where} is a {type(value).__name__}, and JSON holds dicts, lists, strings, numbers, booleans and None; "
            "arrays go among the arrays"
        )
