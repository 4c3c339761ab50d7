"""What every test has at hand: the strict backend, under its name, and Python's own way with Ctrl-C."""

import signal

import pytest

import minigrad.backend
from minigrad.testing import fake_cupy

minigrad.backend.register(fake_cupy.backend)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background, which shells keep it from."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
