"""Machines that nobody here built: no buffer, no memory at all, two levels outside, half-byte words, random ones."""

from __future__ import annotations

import math
import random

import mapping_walk
import pytest
from examples import MORE
from hypothesis import given, settings
from hypothesis import strategies as st
from random_machines import random_machine
from tiny_cascades import tiny_cascade

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import HardwareError, MappingError
from einsum_cascade.parser import parse
from simulator import load_hardware, simulate
from simulator.spatial.mapper import find_mapping

ROUNDING = 1 + 1e-9  # sums of floats in another order
ARRAY = """
arrays:
  PE:
    shape: [4, 4]
    units: [mac]
    ops: {mac: {mac: 1}, mul: {mac: 1}, add: {mac: 1}, max: {mac: 1}, exp: {mac: 6}, divide: {mac: 6}}
"""
DRAM = "  DRAM: {component: dram, kind: hbm2, bandwidth: 10 GB/s, row: 8 B}\n"
REGISTERS = "  RF: {component: registers, capacity: 2 * word, row: word, of: PE, per_element: true}\n"
BUFFER = "  GLB: {component: sram, capacity: 4 KiB, row: 16 B}\n"
SIZES = {"E": 8, "F": 8, "M": 64, "P": 32}
SHORT = {"E": 4, "F": 4, "M": 16, "P": 8}


@pytest.fixture
def chip(tmp_path):
    def load(memories, word="2 B"):
        path = tmp_path / "mine.yaml"
        head = (
            f"kind: spatial\nname: mine\nclock: 1 GHz\nparameters: {{word: {word}}}\nword: word\nmemories:\n"
        )
        path.write_text(head + memories + ARRAY)
        return load_hardware(path)

    return load


def mapped(machine, folder, sizes=SIZES, **options):
    cascade = zoo.load("attention_3pass")
    found = find_mapping(cascade, sizes, machine, effort=20, **options)
    mappings.save(found.mapping, folder / "found.yaml")
    again = simulate(cascade, sizes, machine, mappings.load(folder / "found.yaml"))
    assert again.to_dict() | {"mapping": ""} == found.estimate.to_dict() | {"mapping": ""}
    assert found.gap >= 1
    return found


def test_registers_for_two_of_three_operands_and_no_buffer(chip, tmp_path):
    with_registers, without = (mapped(chip(m), tmp_path, SHORT) for m in (DRAM + REGISTERS, DRAM))
    assert with_registers.estimate.traffic_bytes < without.estimate.traffic_bytes


def test_what_a_row_of_elements_shares_is_on_the_chip_while_they_work(chip):
    """A word of A that comes once for a row of elements serves them all, though no memory of the chip holds it.

    Sixteen products a cycle take 16 words of one operand, 4 of the other, and 4 sums read and written: less than the
    two words a product that a machine without any word on chip needs.
    """
    side = 64
    found = find_mapping(
        zoo.load("gemm"), {"M": side, "N": side, "K": side}, chip(DRAM), objective="traffic_bytes"
    )
    assert found.estimate.traffic_bytes < 2 * 2 * side**3
    assert found.gap >= 1


def test_an_ideal_buffer_holds_what_it_is_said_to_hold(chip, tmp_path):
    """Wires with a capacity are a buffer without energy and area: what they keep counts in the bound as any other's."""
    ideal = "  Ideal: {component: wires, capacity: %s, row: 2 B}\n"
    sizes = {"M": 64, "N": 64, "K": 64}
    for capacity in ("inf", "4 KiB"):
        found = find_mapping(zoo.load("gemm"), sizes, chip(DRAM + ideal % capacity + REGISTERS))
        assert found.gap >= 1
        assert found.estimate.to_dict()["area_by_component_mm2"]["Ideal"] == 0
    assert found.estimate.traffic_bytes > 2 * 3 * 64**2  # 4 KiB do not hold all
    # What one phase leaves there the next one finds.
    fused = mapped(chip(DRAM + ideal % "64 KiB" + REGISTERS), tmp_path, objective="traffic_bytes")
    assert fused.gap == 1


def test_a_memory_without_end_inside_another(chip, tmp_path):
    """Host memory outside, DRAM inside: with no limit on the chip, the bound is what has to be moved once."""
    host = "  Host: {component: dram, kind: ddr4, bandwidth: 1 GB/s, row: 8 B}\n"
    found = mapped(chip(host + DRAM + REGISTERS), tmp_path, objective="traffic_bytes")
    assert found.gap == 1
    assert found.estimate.traffic_bytes == 2 * 8 * (32 + 64 + 64 + 32)


def test_words_of_four_bits_move_a_quarter_of_the_bytes(chip, tmp_path):
    plain, narrow = (
        mapped(chip(DRAM + BUFFER.replace("4", size) + REGISTERS, word), tmp_path, objective="traffic_bytes")
        for size, word in (("4", "2 B"), ("1", "4 bit"))
    )
    assert narrow.estimate.traffic_bytes == plain.estimate.traffic_bytes / 4
    assert narrow.gap == pytest.approx(plain.gap)


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        (
            DRAM + REGISTERS + BUFFER,
            "GLB serves the whole chip and stands inside RF, which serves one element",
        ),
        (
            DRAM + REGISTERS + "  Column: {component: wires, row: word, of: PE}\n",
            "Column serves all of PE and stands inside RF, which serves one element; expected the outermost first",
        ),
        (
            DRAM + "  Column: {component: wires, row: word, of: PE}\n" + BUFFER,
            "GLB serves the whole chip and stands inside Column, which serves one array",
        ),
    ],
)
def test_memories_stand_outermost_first(chip, memories, message):
    with pytest.raises(HardwareError, match=message):
        chip(memories)


def test_a_row_lies_in_its_memory(chip):
    with pytest.raises(
        HardwareError, match=r"GLB: row: expected at most the capacity, 4096 bytes, found 8192"
    ):
        chip(DRAM + BUFFER.replace("16 B", "8 KiB"))


def test_the_power_of_interfaces_counts_in_the_search_for_the_least_energy():
    """What an interface draws while the run takes longer is part of what a slower block costs."""
    cascade = zoo.load("attention_2pass")
    power = {"memories.DRAM.bandwidth": "1 GB/s", "memories.DRAM.interface_power": "20 W*s/GB"}
    machine = load_hardware("fusemax", {"N": 4, "L3": "4 KiB", **power})
    least = find_mapping(cascade, SIZES, machine, objective="energy_j").estimate
    fast = find_mapping(cascade, SIZES, machine, slack=0.0).estimate
    assert least.energy_j <= fast.energy_j * ROUNDING


LOOKED_BACK_AT = """
cascade back
rank M
input B[M]
output Y[M]
R[0] = 0
iterate m {
  R[m+1] = R[m] + B[m]
}
G[] = R[M]
Y[m] = R[m] - G[]
"""


def test_all_generations_of_a_state_are_kept_for_a_later_pass():
    """Eight generations wait for the last one: in eight words of the buffer, or outside it."""
    cascade, sizes = parse(LOOKED_BACK_AT), {"M": 8}
    found = find_mapping(cascade, sizes, load_hardware("fusemax", N=2, L3="1 KiB"))
    held = {m.name: m.held_bytes for m in found.estimate.memories}
    assert held["GlobalBuffer"] >= 8 * 2
    mapping_walk.Walk(cascade, sizes, load_hardware("fusemax", N=2, L3="1 KiB"), found.mapping)


def test_what_nobody_reads_is_mapped_too(chip):
    """Past the buffer, on an array without registers, for an Einsum whose result nobody asked for."""
    text = "cascade c\nrank M P\ninput A[M, P]\noutput O[M]\nU[p] = A[m, p] :: max(m)\nO[m] = A[m, p] :: sum(p)\n"
    for effort in (4, 200):
        for memories in (DRAM, DRAM + BUFFER, DRAM + BUFFER.replace("4 KiB, row: 16 B", "8 B, row: 8 B")):
            assert find_mapping(parse(text), {"M": 12, "P": 6}, chip(memories), effort=effort).gap >= 1


@settings(max_examples=16 * MORE, deadline=None)
@given(st.integers(0, 2**32))
def test_any_cascade_on_any_machine(tmp_path_factory, seed):
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("chip")
    (folder / "chip.yaml").write_text(random_machine(rng))
    machine = load_hardware(folder / "chip.yaml")
    tiny = tiny_cascade(seed, plain=rng.random() < 0.5)
    cascade, sizes = parse(tiny.text), {r: rng.choice([1, 2, 3, 4, 6, 7, 12]) for r in tiny.sizes}
    objective = rng.choice(["latency_s", "energy_j", "traffic_bytes"])
    try:
        found = find_mapping(cascade, sizes, machine, objective=objective, effort=rng.choice([4, 40]))
    except MappingError as e:
        assert "fit" in str(e) or "nothing to do" in str(e)
        return
    mappings.save(found.mapping, folder / "found.yaml")
    again = simulate(cascade, sizes, machine, mappings.load(folder / "found.yaml"))
    assert again.to_dict() | {"mapping": ""} == found.estimate.to_dict() | {"mapping": ""}
    assert found.gap >= 1 - 1e-12
    _check_laws(found.estimate, machine)


def _check_laws(found, machine):
    """Nothing is busy longer than the run or faster than its peak, and the parts are the whole."""
    for row in found.einsums:
        array = machine.arrays[row.array]
        busy = {}
        for op, number in row.operations.items():
            for unit, cycles in array.ops[op].items():
                busy[unit] = busy.get(unit, 0) + number * cycles
        least = (max if array.pipelined else sum)(
            busy.values(), **({"default": 0} if array.pipelined else {})
        )
        assert least <= row.time_s * machine.clock_hz * array.elements * ROUNDING
        assert -1e-12 <= row.utilization <= ROUNDING
    for name in machine.arrays:
        assert sum(r.time_s for r in found.einsums if r.array == name) <= found.latency_s * ROUNDING
    for m in found.memories:
        assert m.busy <= ROUNDING and m.held_bytes <= m.capacity_bytes
    outside = found.memories[0]
    assert outside.read_bytes + outside.write_bytes == pytest.approx(found.traffic_bytes)
    parts = sum(found.energy_by_component.values()) + machine.static_power_w * found.latency_s
    assert math.isclose(parts, found.energy_j, rel_tol=1e-9)
