"""Gradient checking: for minigrad's own ops, for functions of its tensors, and for any rule of any framework.

    check_grads(f, *args, order=2)      a function of tensors: both modes, at every order
    check_vjp(f, *arrays, vjp=rule)     a rule of any framework, against finite differences
    check_linear(f, *arrays, vjp=rule)  a rule of a linear function, exactly
    check_float32(f, *arrays, vjp=rule) a rule in float32, against itself in float64
    check_jvp(f, *arrays, jvp=rule)     a rule of forward mode; `check_adjoint` compares it with reverse mode
    check_scan(body, init, xs)          a body of `scan`, or a net, by the laws S1 to S13
    mutate.score(rule, test)            which mutants of a rule a test lets live

These need NumPy only. `gradient_property`, `check_properties`, `OpSpec`, the strategies, the state machines and the
pytest plugin (`-p minigrad.testing.plugin`) need Hypothesis: `pip install minigrad[testing]`. `fake_cupy` tells whether
CuPy would refuse some code, without a GPU.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigrad.testing import fake_cupy, mutate, strategies
    from minigrad.testing.checks import check_grads, check_linear, check_vjp
    from minigrad.testing.examples import check_properties
    from minigrad.testing.float32 import check_float32
    from minigrad.testing.forward_mode import check_adjoint, check_jvp
    from minigrad.testing.from_shapes import gradient_property, size, tensor
    from minigrad.testing.kinks import scales, shifts, stays
    from minigrad.testing.ledger import LEDGER, Ledger
    from minigrad.testing.machines import GraphMachine, GraphOp, ProgramError, ViewMachine
    from minigrad.testing.numeric import Estimate, numerical_jvp, numerical_vjp
    from minigrad.testing.properties import PROPERTIES, replay
    from minigrad.testing.report import (
        Deviation,
        GradientError,
        GradReport,
        NondeterministicError,
        NondifferentiableError,
    )
    from minigrad.testing.scan_exact import check_exact_bptt
    from minigrad.testing.scan_laws import SCAN_LAWS, check_scan
    from minigrad.testing.scan_trial import Given, ScanTrial
    from minigrad.testing.specs import Case, Domain, Kink, OpSpec, all_specs, realize, register_spec, spec_for
    from minigrad.testing.trial import Rejected, Trial

__all__ = [
    "LEDGER",
    "PROPERTIES",
    "SCAN_LAWS",
    "Case",
    "Deviation",
    "Domain",
    "Estimate",
    "Given",
    "GradReport",
    "GradientError",
    "GraphMachine",
    "GraphOp",
    "Kink",
    "Ledger",
    "NondeterministicError",
    "NondifferentiableError",
    "OpSpec",
    "ProgramError",
    "Rejected",
    "ScanTrial",
    "Trial",
    "ViewMachine",
    "all_specs",
    "check_adjoint",
    "check_exact_bptt",
    "check_float32",
    "check_grads",
    "check_jvp",
    "check_linear",
    "check_properties",
    "check_scan",
    "check_vjp",
    "fake_cupy",
    "gradient_property",
    "mutate",
    "numerical_jvp",
    "numerical_vjp",
    "realize",
    "register_spec",
    "replay",
    "scales",
    "shifts",
    "size",
    "spec_for",
    "stays",
    "strategies",
    "tensor",
]

_HOME = {
    "checks": ("check_grads", "check_linear", "check_vjp"),
    "examples": ("check_properties",),
    "float32": ("check_float32",),
    "forward_mode": ("check_adjoint", "check_jvp"),
    "from_shapes": ("gradient_property", "size", "tensor"),
    "kinks": ("scales", "shifts", "stays"),
    "ledger": ("LEDGER", "Ledger"),
    "machines": ("GraphMachine", "GraphOp", "ProgramError", "ViewMachine"),
    "numeric": ("Estimate", "numerical_jvp", "numerical_vjp"),
    "properties": ("PROPERTIES", "replay"),
    "report": ("Deviation", "GradReport", "GradientError", "NondeterministicError", "NondifferentiableError"),
    "scan_exact": ("check_exact_bptt",),
    "scan_laws": ("SCAN_LAWS", "check_scan"),
    "scan_trial": ("Given", "ScanTrial"),
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
