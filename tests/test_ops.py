"""Every op, every property, on every backend: values, both derivatives, precision, special values, memory, structure.

The ops come from `minigrad.testing.op_specs`, the properties from `minigrad.testing.properties`, and the ledger fails
the session if anything is missing. `--minigrad-backend cupy` runs all of it on a GPU.
"""

from minigrad.testing.plugin import convention_test, minigrad_registry_problems, op_test, stale_exemptions
from minigrad.testing.specs import all_specs

test_p0_reference = op_test("P0")
test_p1_derivative = op_test("P1")
test_p2_exact = op_test("P2")
test_p3_homogeneity = op_test("P3")
test_p4_kind = op_test("P4")
test_p5_purity = op_test("P5")
test_p6_layout = op_test("P6")
test_p7_limits = op_test("P7")
test_p8_fan_out = op_test("P8")
test_p9_kinks = op_test("P9")
test_p9_conventions = convention_test()
test_p10_float32 = op_test("P10")
test_p11_specials = op_test("P11")
test_p12_subsets = op_test("P12")
test_p13_second_order = op_test("P13")
test_p14_device = op_test("P14")
test_p15_determinism = op_test("P15")


def test_every_op_has_one_spec():
    assert minigrad_registry_problems() == []


def test_exemptions_are_still_needed():
    assert {spec.name: stale for spec in all_specs() if (stale := stale_exemptions(spec))} == {}
