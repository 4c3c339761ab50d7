"""Gradient checking: for minigrad's own ops, for functions of its tensors, and for any rule of any framework.

    check_grads(f, *args, order=2)      a function of tensors: both modes, at every order
    check_vjp(f, *arrays, vjp=rule)     a rule of any framework, against finite differences
    check_linear(f, *arrays, vjp=rule)  a rule of a linear function, exactly

These need NumPy only. `OpSpec`, the strategies and the pytest plugin (`-p minigrad.testing.plugin`) test ops by
property and need Hypothesis: `pip install minigrad[testing]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigrad.testing import fake_cupy, mutate, strategies
    from minigrad.testing.checks import check_grads, check_linear, check_vjp
    from minigrad.testing.ledger import LEDGER, Ledger
    from minigrad.testing.numeric import Estimate, numerical_jvp, numerical_vjp
    from minigrad.testing.properties import PROPERTIES, replay
    from minigrad.testing.report import (
        Deviation,
        GradientError,
        GradReport,
        NondeterministicError,
        NondifferentiableError,
    )
    from minigrad.testing.specs import Case, Domain, Kink, OpSpec, all_specs, realize, register_spec, spec_for
    from minigrad.testing.trial import Rejected, Trial

__all__ = [
    "LEDGER",
    "PROPERTIES",
    "Case",
    "Deviation",
    "Domain",
    "Estimate",
    "GradReport",
    "GradientError",
    "Kink",
    "Ledger",
    "NondeterministicError",
    "NondifferentiableError",
    "OpSpec",
    "Rejected",
    "Trial",
    "all_specs",
    "check_grads",
    "check_linear",
    "check_vjp",
    "fake_cupy",
    "mutate",
    "numerical_jvp",
    "numerical_vjp",
    "realize",
    "register_spec",
    "replay",
    "spec_for",
    "strategies",
]

_HOME = {
    "checks": ("check_grads", "check_linear", "check_vjp"),
    "ledger": ("LEDGER", "Ledger"),
    "numeric": ("Estimate", "numerical_jvp", "numerical_vjp"),
    "properties": ("PROPERTIES", "replay"),
    "report": ("Deviation", "GradReport", "GradientError", "NondeterministicError", "NondifferentiableError"),
    "specs": ("Case", "Domain", "Kink", "OpSpec", "all_specs", "realize", "register_spec", "spec_for"),
    "trial": ("Rejected", "Trial"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import minigrad` must not pay for its tests."""
    try:
        if name in ("fake_cupy", "mutate", "strategies"):
            return import_module(f"minigrad.testing.{name}")
        if name in _MODULE_OF:
            return getattr(import_module(f"minigrad.testing.{_MODULE_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        message = f"minigrad.testing.{name} needs Hypothesis: pip install 'minigrad[testing]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
