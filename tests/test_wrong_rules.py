"""Each derivative rule of minigrad is made wrong by 1e-5, one after the other: some property of some op must notice."""

import pytest
from hypothesis import Phase, given, settings

from minigrad import ops
from minigrad.testing import GradientError
from minigrad.testing.adapters import Minigrad
from minigrad.testing.properties import PROPERTIES
from minigrad.testing.specs import Case, OpSpec, all_specs
from minigrad.testing.strategies import seeds
from minigrad.testing.trial import Trial

SAME_ANYWAY = {("sign", 0): "its derivative is 0, and 0 times anything is 0"}


def rules(op):
    """The containers of an op's own rules; the VJPs of an elementwise op only call its partial derivatives."""
    kinds = ("partials",) if getattr(op, "partials", None) else ("vjps", "jvps")
    return [rules for kind in kinds if (rules := getattr(op, kind, None))]


def noticed(spec: OpSpec, count: int = 12) -> bool:
    """Whether the derivatives of this op disagree with finite differences within a few examples."""

    @settings(max_examples=count, database=None, derandomize=True, deadline=None, phases=[Phase.generate])
    @given(case=spec.cases, seed=seeds)
    def run(case: Case, seed: int) -> None:
        trial = Trial(spec, case, seed, Minigrad())
        for prop in ("P1", "P13"):
            PROPERTIES[prop].check(trial)

    try:
        run()
    except GradientError:
        return True
    return False


def likely_first(name: str) -> list[OpSpec]:
    """All ops with a derivative, those first whose name says that they use the primitive of this name."""
    specs = [spec for spec in all_specs() if spec.differentiable]
    return sorted(specs, key=lambda spec: (spec.name != name, spec.name not in name, name not in spec.name))


@pytest.mark.parametrize("name", ops.REGISTRY)
def test_a_rule_that_is_wrong_by_one_in_100000_is_noticed(name):
    for container in rules(ops.REGISTRY[name]):
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            rule = container[key]

            def wrong(*args, rule=rule, **static):
                return rule(*args, **static) * 1.00001

            container[key] = wrong
            try:
                excused = (name, key) in SAME_ANYWAY
                found = any(noticed(spec) for spec in likely_first(name)[: 5 if excused else None])
            finally:
                container[key] = rule
            assert found is not excused, f"rule {key} of {name}"
