"""Tiles in the registers of elements: against sums by hand, a walk over all steps, and mappings without them."""

from __future__ import annotations

import mapping_walk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from simulator import load_hardware, simulate
from simulator.spatial.mapper import find_mapping

CHIP = """
kind: spatial
name: mine
clock: 1 GHz
word: 2 B
memories:
  DRAM: {component: dram, kind: hbm2, bandwidth: 10 GB/s, row: 8 B}
%s
  RF: {component: registers, capacity: %d B, row: 2 B, of: PE, per_element: true}
arrays:
  PE:
    shape: [4, 4]
    units: [mac]
    ops: {mac: {mac: 1}, mul: {mac: 1}, add: {mac: 1}, max: {mac: 1}, exp: {mac: 6}, divide: {mac: 6}}
"""
BUFFER = "  GLB: {component: sram, capacity: %d B, row: 8 B}"
CONV = """cascade conv
rank C K P R
rank X = %d
input I[C, X]  W[K, C, R]
output O[K, P]
O[k, p] = I[c, p + r] * W[k, c, r]
"""


@pytest.fixture
def chip(tmp_path):
    def load(registers, buffer=0):
        path = tmp_path / f"mine_{registers}_{buffer}.yaml"
        path.write_text(CHIP % (BUFFER % buffer if buffer else "", 2 * registers))
        return load_hardware(path)

    return load


@pytest.mark.parametrize(("registers", "side"), [(3, 1), (8, 2), (24, 4)])
def test_a_square_of_sums_asks_for_its_sides(chip, registers, side):
    """An element with s x s sums takes s words of either operand: 4 x 4 of them read 2 * 4 s words for 16 s^2 products.

    Registers for s^2 + 2 s words: 3, 8, 24. Each sum leaves once.
    """
    n = 64
    found = find_mapping(
        zoo.load("gemm"), {"M": n, "N": n, "K": n}, chip(registers), objective="traffic_bytes"
    )
    assert found.estimate.traffic_bytes == 2 * (2 * 4 * side * n**3 / (16 * side**2) + n * n)
    assert found.gap >= 1


def test_time_and_energy_follow(chip):
    """With a word of each operand the memory sets the pace, with 4 x 4 sums the sixteen elements do."""
    sizes = {"M": 64, "N": 64, "K": 64}
    few, more = (find_mapping(zoo.load("gemm"), sizes, chip(n)).estimate for n in (3, 24))
    assert few.bound_by == "DRAM"
    assert few.latency_s == pytest.approx(2 * (2 * 4 * 64**3 / 16 + 64**2) / 10e9, rel=1e-12)
    assert more.bound_by == "PE"
    assert more.latency_s == pytest.approx(64**3 / 16 / 1e9, rel=1e-12)
    assert more.energy_j < few.energy_j


USES = {
    "gemm": (zoo.load("gemm"), {"M": 12, "N": 8, "K": 6}),
    "conv": (parse(CONV % 10), {"C": 2, "K": 4, "P": 8, "R": 3, "X": 10}),
    "unfused": (zoo.load("attention_3pass"), {"E": 4, "F": 4, "M": 16, "P": 8}),
}


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(USES)),
    st.sampled_from([3, 5, 8, 24, 64]),
    st.sampled_from([0, 64, 256, 4096]),
    st.sampled_from(["latency_s", "energy_j", "traffic_bytes"]),
)
def test_what_is_found_is_what_a_walk_counts_and_a_file_keeps(
    tmp_path_factory, name, registers, buffer, objective
):
    folder = tmp_path_factory.mktemp("deep")
    (folder / "mine.yaml").write_text(CHIP % (BUFFER % buffer if buffer else "", 2 * registers))
    machine = load_hardware(folder / "mine.yaml")
    cascade, sizes = USES[name]
    try:
        found = find_mapping(cascade, sizes, machine, objective=objective, effort=20)
    except MappingError as e:
        assert "fit" in str(e)
        return
    mappings.save(found.mapping, folder / "found.yaml")
    again = simulate(cascade, sizes, machine, mappings.load(folder / "found.yaml"))
    assert again.to_dict() | {"mapping": ""} == found.estimate.to_dict() | {"mapping": ""}
    assert found.gap >= 1 - 1e-12
    held = {m.name: m for m in found.estimate.memories}
    assert held["RF"].held_bytes <= 2 * registers
    if buffer:
        mapping_walk.check_moved(mapping_walk.Walk(cascade, sizes, machine, found.mapping))


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["gemm", "conv"]), st.sampled_from([3, 6, 16]), st.sampled_from([0, 256]))
def test_longer_registers_never_move_more(tmp_path_factory, name, registers, buffer):
    folder = tmp_path_factory.mktemp("deep")
    moved = []
    for words in (registers, 2 * registers):
        (folder / f"{words}.yaml").write_text(CHIP % (BUFFER % buffer if buffer else "", 2 * words))
        cascade, sizes = USES[name]
        machine = load_hardware(folder / f"{words}.yaml")
        moved.append(find_mapping(cascade, sizes, machine, objective="traffic_bytes").estimate.traffic_bytes)
    assert moved[1] <= moved[0]
