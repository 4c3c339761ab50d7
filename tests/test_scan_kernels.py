"""A compiled scan on a backend that makes kernels: how many launches a step takes, and that the host never waits."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import fake_cupy

LAUNCHES = {  # of one step, forward and backward: its products, and kernels between them
    "vanilla": (2, 2),
    "lstm": (3, 2),
    "gru": (3, 4),
}


def cells(inputs, units):
    rng = np.random.default_rng(0)

    def weight(*shape):
        return mg.tensor(device(rng.normal(size=shape)), requires_grad=True)

    def vanilla():
        W_x, W_h, b = weight(inputs, units), weight(units, units), weight(units)
        return lambda h, x: mg.tanh(x @ W_x + h @ W_h + b), 1

    def lstm():
        W_x, W_h, b = weight(inputs, 4 * units), weight(units, 4 * units), weight(4 * units)

        def fn(state, x):
            h, c = state
            z = x @ W_x + h @ W_h + b
            i, f, g, o = (z[:, k * units : (k + 1) * units] for k in range(4))
            c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
            return mg.sigmoid(o) * mg.tanh(c), c

        return fn, 2

    def gru():
        W_x, W_h, b = weight(inputs, 3 * units), weight(units, 3 * units), weight(3 * units)

        def fn(h, x):
            a, q = x @ W_x + b, h @ W_h
            r, z = (
                mg.sigmoid(a[:, :units] + q[:, :units]),
                mg.sigmoid(a[:, units : 2 * units] + q[:, units : 2 * units]),
            )
            n = mg.tanh(a[:, 2 * units :] + r * q[:, 2 * units :])
            return (1.0 - z) * n + z * h

        return fn, 1

    return {"vanilla": vanilla, "lstm": lstm, "gru": gru}


def device(array):
    from minigrad.backend import get_backend

    return get_backend("strict").asarray(array)


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_of_a_step(name):
    """Counted as what longer sequences add; nothing that a step does waits for the device."""
    with mg.use_backend("strict"):
        fn, count = cells(3, 4)[name]()
        zero = mg.tensor(device(np.zeros((2, 4))))
        state = zero if count == 1 else (zero,) * count

        def launches(steps):
            x = mg.tensor(device(np.ones((steps, 2, 3))), requires_grad=True)
            for _ in range(2):  # compiled the first time, which looks at captured values
                with fake_cupy.count_syncs() as waits, fake_cupy.count_launches() as forward:
                    states = mg.scan(fn, x, state)
                    loss = sum((leaf * leaf).sum() for leaf in mg.tree.flatten(states)[0])
                with fake_cupy.expect_syncs(1), fake_cupy.count_launches() as backward:
                    loss.backward()
            assert not waits
            return np.array([len(forward), len(backward)])

        short, long = launches(4), launches(14)
    assert tuple((long - short) // 10) == LAUNCHES[name]
