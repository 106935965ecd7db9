"""What is refused before a sweep begins: values that no point can have, and not those that some points cannot."""

from __future__ import annotations

import itertools

import pytest

import simulator as sim
from einsum_cascade.errors import DataError, HardwareError
from simulator.dse.space import Range, Space
from simulator.dse.trials import check_values

FIXED = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/1K"}
# A row of the buffer holds N words of 2 bytes, which 64 KiB do not at N = 65536: no such chip can be described.
L3, N = ("64 KiB", "1 GiB"), (64, 65536)


@pytest.mark.parametrize("buffers", list(itertools.permutations(L3)))
@pytest.mark.parametrize("arrays", list(itertools.permutations(N)))
def test_the_order_of_values_does_not_decide_whether_a_sweep_runs(buffers, arrays):
    table = sim.sweep(Space({"hardware.L3": buffers, "hardware.N": arrays}), **FIXED)
    failed = table[table["error"].notna()]
    assert failed[["hardware.L3", "hardware.N"]].to_numpy().tolist() == [["64 KiB", 65536]]
    assert "expected at most the capacity" in failed["error"].iloc[0]


def test_what_a_constraint_leaves_out_is_not_tried():
    for where in ("2 * hardware.N <= hardware.L3", "hardware.N < 65536"):
        table = sim.sweep(Space({"hardware.L3": L3, "hardware.N": N}, where=(where,)), **FIXED)
        assert table["error"].isna().all()


def test_derived_values_are_those_of_the_point():
    seen = []

    def prepare(point):
        seen.append(point)
        if point["b"] < point["a"]:
            raise DataError("no room")

    check_values(Space({"a": (1, 2, 3)}, derived={"b": "2 * a"}), prepare)
    assert all(point["b"] == 2 * point["a"] for point in seen)


def test_a_value_that_fits_nowhere_is_named():
    with pytest.raises(
        HardwareError, match=r"^hardware\.N: 0: fusemax: memories\.GlobalBuffer: row: expected more"
    ):
        sim.sweep(Space({"hardware.L3": L3, "hardware.N": (64, 0)}), **FIXED)
    with pytest.raises(HardwareError, match=r"^fusemax: no parameter or field 'M'"):
        sim.sweep(Space({"hardware.L3": L3, "hardware.M": (64, 128)}), **FIXED)


def test_ranges_and_large_spaces():
    def prepare(point):
        if point["x"] == 7 or point["y"] < 0.5:
            raise DataError("no room")

    check_values(Space({"x": (1, 2), "y": Range(0, 1)}, samples=16), prepare)
    with pytest.raises(DataError, match=r"^x: 7: no room"):
        check_values(Space({"x": (1, 7), "y": Range(0, 1)}, samples=16), prepare)
    # A list of all these points would take 6 GiB.
    with pytest.raises(DataError, match=r"^x: 7: no room"):
        check_values(
            Space({"x": (1, 7), "z": range(20_000), "w": range(20_000), "y": (1,)}),
            prepare,
        )
