"""The socket that array libraries plug into.

A backend is one object that offers the names of `Backend`, below. NumPy's is known by name; every other one
is found through the entry-point group `minigrad.backends`, which is read only when another backend than NumPy
is asked for. So a third party's `pip install minigrad-foo` plugs in as minigrad's own CuPy backend does.

Nothing here imports an array library. Ops follow the arrays that they are given (`backend_of`, `xp_of`);
`use_backend` decides only where new arrays are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "minigrad.backends"


class Backend(Protocol):
    """What an array library must offer to carry minigrad's tensors.

    Importing a plug-in must be cheap: its array library is imported when `xp` or `array_type` is first
    read. It is called like the root module of its array type (`cupy` for `cupy.ndarray`); then its arrays
    are recognised even where nobody has named the backend before.

    A backend whose arrays may be subclassed can offer `check_subclass(cls)` too, which returns if arrays of
    that subclass mean the same under every operator, and else raises TypeError, saying what to do.

    A backend for which every call is dear, as a GPU's kernels are, can offer `elementwise(run)` too, which
    returns `f(*arrays)`: it does an `ElementwiseRun` at once. Without it, scan calls ufuncs one by one.
    """

    @property
    def name(self) -> str:
        """The name by which `use_backend` knows this backend."""

    @property
    def xp(self) -> Any:
        """The namespace of array functions: NumPy, or a module with NumPy's names."""

    @property
    def array_type(self) -> type:
        """The exact class of this backend's arrays."""

    def unusable(self) -> str | None:
        """Return None if arrays can be made here, else one sentence: what is missing and what to do."""

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """Return numbers, nested lists, a NumPy or an own array as an own array; copy only if need be."""

    def to_host(self, array: Any) -> Any:
        """Return an own array as a NumPy array. Waits for the device."""

    def scatter_add(self, shape: tuple[int, ...], dtype: Any, index: Any, values: Any) -> Any:
        """Return zeros of `shape` with `values` added at `index`; where an index repeats, they add up.

        `index` is what NumPy takes between brackets: an int, a slice, an integer or boolean array, None,
        Ellipsis, or a tuple of them.
        """

    def any_nan(self, arrays: Iterable[Any]) -> bool:
        """Return whether any of the arrays holds a NaN, waiting for the device once for all of them."""

    def freeze(self, array: Any) -> None:
        """Make an array read-only, where the library knows such a thing."""

    def thaw(self, array: Any) -> None:
        """Undo `freeze`."""

    def is_writeable(self, array: Any) -> bool:
        """Return whether there is anything to freeze; False where the library has no read-only arrays."""

    def synchronize(self) -> None:
        """Wait until everything that was asked of the device is done."""


class ElementwiseRun(NamedTuple):
    """A run of elementwise operations that a backend's `elementwise` can do in one kernel.

    Step `(name, operands, destination)` means `arrays[destination][...] = ufunc(*[arrays[i] for i in operands])`:
    it is computed in the dtype that NumPy takes for these operands, and converted to the destination's. The name
    is a NumPy ufunc's, or "where", "copy" (one operand), "fill_0" or "fill_1" (none). The steps are done in order,
    so what a step has written is what later ones read.

    Shapes, strides and dtypes are known only at the call, and may differ between calls. All destinations have one
    shape, and operands broadcast to it. No array overlaps a destination in part: it is the same memory, element
    for element, or apart.

    >>> from minigrad.backend import ElementwiseRun
    >>> run = ElementwiseRun(steps=(("multiply", (0, 1), 2), ("tanh", (2,), 2)), arrays=3)  # c = tanh(a * b)
    >>> run.arrays
    3
    """

    steps: tuple[tuple[str, tuple[int, ...], int], ...]
    """For each operation its name, the numbers of its operands and the number of its destination."""
    arrays: int
    """How many arrays take part; operands and destinations are numbered from 0."""


class BackendStatus(NamedTuple):
    """One line of `backends()`: is this backend usable here, and if not, why not."""

    name: str
    usable: bool
    reason: str


BACKEND_OF_TYPE: dict[type, Backend] = {}  # exact array class -> its backend; the hot path of every op
_plugins: dict[str, Backend] = {}  # loaded or registered, perhaps unusable
_ready: dict[str, Backend] = {}  # usable, and known by the type of its arrays


# Finding a backend by its name


def register(backend: Backend) -> None:
    """Add a backend object to this process, under its own name; a later one of that name replaces it."""
    previous = _ready.pop(backend.name, None)
    for cls in [cls for cls, owner in BACKEND_OF_TYPE.items() if owner is previous]:
        del BACKEND_OF_TYPE[cls]
    _plugins[backend.name] = backend
    if backend.unusable() is None:
        _make_ready(backend)


def get_backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises ValueError if no backend of that name is installed, and RuntimeError, with the backend's own
    sentence, if it cannot be used on this machine.

    >>> import minigrad.backend
    >>> minigrad.backend.get_backend("numpy").xp.__name__
    'numpy'
    """
    backend = _ready.get(name)
    if backend is not None:
        return backend
    backend = _load(name)
    reason = backend.unusable()
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot be used here: {reason}")
    return _make_ready(backend)


def backends() -> dict[str, BackendStatus]:
    """Return what is installed, by name: whether it is usable here and, if not, why not.

    >>> import minigrad as mg
    >>> mg.backends()["numpy"]
    BackendStatus(name='numpy', usable=True, reason='')
    """
    return {name: _status(name) for name in _installed()}


def _status(name: str) -> BackendStatus:
    try:
        reason = _load(name).unusable()
    except Exception as error:  # noqa: BLE001  (whatever breaks a plug-in is the reason why it is unusable)
        reason = f"its plug-in is broken: {type(error).__name__}: {error}"
    return BackendStatus(name, reason is None, reason or "")


def _installed() -> list[str]:
    return list(dict.fromkeys(["numpy", *_plugins, *_entry_points()]))


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  (half of NumPy's import time, rarely needed)

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(point.name, point)  # as with imports, the first on sys.path wins
    return found


def _load(name: str) -> Backend:
    """Return the plug-in called `name`, usable or not."""
    if name not in _plugins:
        _plugins[name] = _load_numpy() if name == "numpy" else _load_entry_point(name)
    return _plugins[name]


def _load_numpy() -> Backend:
    try:
        backend: Backend = import_module("minigrad_numpy").backend
    except ModuleNotFoundError as error:
        if error.name != "minigrad_numpy":
            raise
        raise ModuleNotFoundError(
            "minigrad is here but its NumPy backend, the module minigrad_numpy, is not; install minigrad, "
            "in a checkout with `pip install -e .`",
            name="minigrad_numpy",
        ) from None
    return backend


def _load_entry_point(name: str) -> Backend:
    point = _entry_points().get(name)
    if point is None:
        installed = ", ".join(map(repr, _installed()))
        raise ValueError(f"no backend is called {name!r}; installed here: {installed}")
    backend: Backend = point.load()
    return backend


def _make_ready(backend: Backend) -> Backend:
    BACKEND_OF_TYPE[backend.array_type] = backend
    return _ready.setdefault(backend.name, backend)


# Finding a backend by an array


def backend_of(array: Any) -> Backend:
    """Return the backend that `array` belongs to; raise TypeError for all but arrays of a known backend."""
    try:
        return BACKEND_OF_TYPE[type(array)]
    except KeyError:
        traced: Backend | None = getattr(array, "__minigrad_backend__", None)
        return _backend_of_new_type(type(array)) if traced is None else traced


def xp_of(array: Any) -> Any:
    """Return the namespace of array functions that `array` belongs to, for example the module numpy."""
    return backend_of(array).xp


def _backend_of_new_type(cls: type) -> Backend:
    get_backend("numpy")  # whoever asks first, NumPy's arrays are known from here on
    if cls not in BACKEND_OF_TYPE:
        _make_ready_by_module(cls)
    for parent in cls.__mro__:
        backend = BACKEND_OF_TYPE.get(parent)
        if backend is not None:
            return backend if parent is cls else _accept_subclass(cls, backend)
    raise TypeError(
        f"expected an array of {' or '.join(sorted(_ready))}, got {_qualified(cls)}; "
        "make one with minigrad.tensor(...) or minigrad.asarray(...)"
    )


def _make_ready_by_module(cls: type) -> None:
    """Load the plug-in called like the library of `cls`; that is imported already, for its array exists."""
    for parent in cls.__mro__:
        root = parent.__module__.partition(".")[0]
        if root != "builtins" and root not in _ready and (root in _plugins or root in _entry_points()):
            get_backend(root)


def _accept_subclass(cls: type, backend: Backend) -> Backend:
    """Count `cls` among the classes of `backend`, or raise TypeError: its operators may mean other things."""
    check_subclass = getattr(backend, "check_subclass", None)
    if check_subclass is None:
        plain = _qualified(backend.array_type)
        raise TypeError(f"minigrad takes arrays of class {plain}, got its subclass {_qualified(cls)}; convert it first")
    check_subclass(cls)
    BACKEND_OF_TYPE[cls] = backend
    return backend


def _qualified(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# Where new arrays are made


class _Choice:
    """What `use_backend` returns: the process's default, and under `with` the default of that block only."""

    def __init__(self, backend: Backend):
        self.backend = backend

    def __enter__(self) -> Backend:
        if self in _defaults:  # a block is meant: the process's default is again what it was before the call
            _defaults.remove(self)
        _overrides.set((*_overrides.get(), self.backend))
        return self.backend

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _overrides.set(_overrides.get()[:-1])

    def __repr__(self) -> str:
        return f"use_backend({self.backend.name!r})"


_defaults: list[_Choice] = []  # the process's; the last one counts
_overrides: ContextVar[tuple[Backend, ...]] = ContextVar("minigrad_backend", default=())


def default_backend() -> Backend:
    """Return the backend on which new arrays are made: the innermost block's, else the process's default."""
    overrides = _overrides.get()
    if overrides:
        return overrides[-1]
    return _defaults[-1].backend if _defaults else get_backend("numpy")


def use_backend(name: str) -> _Choice:
    """Make new arrays on the backend called `name`: in the whole process, or in a `with` block only.

    As a call it sets the process's default. In `with use_backend(name):` it holds in that block only, for its
    thread or task, and the process's default stays as it was. Blocks nest, and end well on exceptions.
    It steers creation only: an op runs where its arrays are, and arrays of two backends never mix.

    Raises ValueError if no such backend is installed, RuntimeError if it is installed but not usable here.

    >>> import minigrad as mg
    >>> with mg.use_backend("numpy") as backend:
    ...     print(backend.name)
    numpy
    """
    choice = _Choice(get_backend(name))
    _defaults.append(choice)
    return choice
