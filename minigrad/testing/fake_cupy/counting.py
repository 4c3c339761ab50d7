"""What passes between host and device, counted: waits of the host, and calls that a kernel would be launched for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Logs = ContextVar[tuple[list[str], ...]]

_waits: Logs = ContextVar("fake_cupy_waits", default=())
_launches: Logs = ContextVar("fake_cupy_launches", default=())


@contextmanager
def count_syncs() -> Iterator[list[str]]:
    """Collect, in the list that the block is given, what made the host wait for the device.

    Reading a number (`float(a)`, `bool(a)`, `a.item()`, `repr(a)`), copying to the host (`a.get()`, `xp.asnumpy(a)`)
    and results whose shape depends on values (`xp.nonzero(a)`, `a[a > 0]`) make it wait. Blocks nest, and count in
    their own thread or task only.

    >>> from minigrad.testing import fake_cupy
    >>> with fake_cupy.count_syncs() as waits:
    ...     total = fake_cupy.xp.arange(4).sum()
    ...     rest = float(total) if total > 3 else 0.0
    >>> waits
    ['bool()', 'float()']
    """
    with _collect(_waits) as log:
        yield log


@contextmanager
def expect_syncs(count: int) -> Iterator[None]:
    """Assert that in the block the host waits for the device `count` times.

    Raises AssertionError, which lists the waits, at the end of a block that ends well.

    >>> from minigrad.testing import fake_cupy
    >>> with fake_cupy.expect_syncs(1):
    ...     total = fake_cupy.xp.arange(4).sum().item()
    """
    with count_syncs() as log:
        yield
    if len(log) != count:
        waits = f": {', '.join(log)}" if log else ""
        raise AssertionError(f"expected {count} synchronisations, got {len(log)}{waits}")


@contextmanager
def assert_no_sync() -> Iterator[None]:
    """Assert that in the block the host never waits for the device.

    Raises AssertionError, which lists the waits, at the end of a block that ends well.

    >>> from minigrad.testing import fake_cupy
    >>> x = fake_cupy.xp.asarray([3.0, 4.0])
    >>> with fake_cupy.assert_no_sync():
    ...     norm = float((x * x).sum()) ** 0.5
    Traceback (most recent call last):
    ...
    AssertionError: expected 0 synchronisations, got 1: float()
    """
    with expect_syncs(0):
        yield


@contextmanager
def count_launches() -> Iterator[list[str]]:
    """Collect, in the list that the block is given, the calls that CuPy would launch a kernel for, or several.

    Each ufunc, operator, product, reduction, copy on the device, fill and index by an array is one; views of an array,
    new arrays without values and copies from the host or to it are none.

    >>> from minigrad.testing import fake_cupy
    >>> x = fake_cupy.xp.arange(4.0)
    >>> with fake_cupy.count_launches() as launches:
    ...     y = fake_cupy.xp.tanh(2 * x[1:]).sum()
    >>> launches
    ['multiply', 'tanh', 'sum']
    """
    with _collect(_launches) as log:
        yield log


@contextmanager
def _collect(logs: Logs) -> Iterator[list[str]]:
    log: list[str] = []
    token = logs.set((*logs.get(), log))
    try:
        yield log
    finally:
        logs.reset(token)


def synchronised(by: str) -> None:
    """Note that the host waits for the device."""
    for log in _waits.get():
        log.append(by)


def launched(by: str) -> None:
    """Note that the device is asked to compute."""
    for log in _launches.get():
        log.append(by)
