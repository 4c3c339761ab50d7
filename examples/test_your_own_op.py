"""The file to copy when you have written an op: the op, what the kit must know about it, and the tests of its rule.

    pytest examples/test_your_own_op.py -p minigrad.testing.plugin
    python examples/test_your_own_op.py                              does the same

docs/your_own_op.md explains it step by step. Replace the first part and adapt the second; the third may stay as it is.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import (
    PROPERTIES,
    Case,
    OpSpec,
    check_float32,
    check_linear,
    check_properties,
    check_vjp,
    mutate,
)
from minigrad.testing.adapters import Minigrad
from minigrad.testing.strategies import broadcastable

# ---- 1. the op, with its rules for reverse and for forward mode ----------------------------------------------------


def summed_to(g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum over the axes along which an argument of this shape was repeated."""
    extra = len(g.shape) - len(shape)
    repeated = [extra + i for i, n in enumerate(shape) if n == 1]
    return mg.reshape(mg.sum(g, axis=(*range(extra), *repeated)), shape)


def lerp_vjp(g: Any, out: Any, a: Any, b: Any, w: Any) -> tuple[Any, Any, Any]:
    da = summed_to(g * (1 - w), a.shape)
    db = summed_to(g * w, b.shape)
    dw = summed_to(g * (b - a), w.shape)
    return da, db, dw


def lerp_jvp(tangents: Any, out: Any, a: Any, b: Any, w: Any) -> Any:
    da, db, dw = tangents
    return mg.add(da * (1 - w) + db * w, dw * (b - a))  # an op gives arrays; NumPy's + of 0-d arrays gives a scalar


@mg.custom_op(vjp=lerp_vjp, jvp=lerp_jvp)
def lerp(a: Any, b: Any, w: Any) -> Any:
    """Go from a to b by the fraction w; the three broadcast."""
    return a + w * (b - a)


# ---- 2. what the kit must know about it ----------------------------------------------------------------------------

SPEC = OpSpec(
    "lerp",
    fn=lerp,
    ref=lambda a, b, w: (1 - w) * a + w * b,  # the same function on NumPy arrays, written independently
    cases=broadcastable(3).map(Case),  # three shapes that broadcast; now and then 0-d, empty, or of length 1
    tags=frozenset({"0d", "empty", "size1", "broadcast"}),  # structure that must have occurred
    exempt={"P11": "a plain product: past a NaN a cotangent of 0 does not give 0"},
)
rng = np.random.default_rng(0)
POINT = [rng.uniform(-2, 2, shape) for shape in ((1, 2), (2, 1), (2, 1, 1))]  # each argument is repeated somewhere

# ---- 3. the tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [p for p in PROPERTIES if PROPERTIES[p].applies(SPEC) and p not in SPEC.exempt])
def test_property(name: str, minigrad_backend: str) -> None:
    check_properties(SPEC, Minigrad(minigrad_backend), properties=[name])


def check_rule(rule: Any) -> None:
    check_vjp(lerp, *POINT, vjp=rule)


def test_one_point() -> None:
    check_rule(lerp_vjp)
    check_linear(lerp, *POINT, vjp=lerp_vjp, argnums=(0, 1))  # in a and b together: exactly, without a tolerance
    check_float32(lerp, *POINT, vjp=lerp_vjp)


def test_that_the_point_has_teeth() -> None:
    """Every mutant of the rule, in what it returns and in its source, is noticed at the one point."""
    report = mutate.score(lerp_vjp, check_rule)
    assert report.ok, str(report)  # noqa: S101


if __name__ == "__main__":
    command = [sys.executable, "-m", "pytest", __file__, "-p", "minigrad.testing.plugin", *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603
