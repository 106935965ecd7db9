"""The search on chips of a few words, against the best of all mappings counted one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from einsum_cascade import zoo
from einsum_cascade.parser import parse
from simulator import find_mapping, load_hardware, simulate
from simulator.spatial.assignment import ideal_cycles
from simulator.spatial.block import blocks
from simulator.spatial.placement import placements
from simulator.spatial.variants import _other_axes, _other_registers

VECTOR = "cascade x\nrank M K\ninput A[M, K] B[K]\noutput C[M]\nC[m] = A[m, k] * B[k]\n"
OUTER = "cascade x\nrank M N\ninput A[M] B[N]\noutput C[M, N]\nC[m, n] = A[m] * B[n]\n"
CHIP = """
kind: spatial
name: few
clock: 1 GHz
word: 2 B
memories:
  D: {{component: dram, kind: hbm2, row: 8 B, bandwidth: {dram} GB/s}}
  S: {{component: sram, capacity: {buffer} B, row: 2 B, bandwidth: {rate}}}
  R: {{component: registers, capacity: {registers} B, row: 2 B, of: A, per_element: true, bandwidth: {inner}}}
arrays:
  A: {{shape: {shape}, units: [mac], ops: {{mac: {{mac: 1}}, mul: {{mac: 1}}}}}}
"""


def few(tmp_path: Path, dram, buffer, rate, registers, shape, inner="inf"):
    path = tmp_path / "few.yaml"
    path.write_text(
        CHIP.format(dram=dram, buffer=buffer, rate=rate, registers=registers, shape=shape, inner=inner)
    )
    return load_hardware(str(path))


# The last number: the least latency (ns) of all mappings with tiles that divide, every order of loops, every choice of
# axes, and every choice of what the buffer and the registers keep, each counted by `simulate`.
@pytest.mark.parametrize(
    ("text", "sizes", "chip", "least_ns"),
    [
        (VECTOR, {"M": 6, "K": 6}, (1, 12, "16 GB/s", 2, [2, 2]), 96),  # one register, not for the result
        (VECTOR, {"M": 4, "K": 4}, (1, 8, "inf", 4, [2, 2]), 48),
        (VECTOR, {"M": 8, "K": 2}, (4, 16, "2 GB/s", 2, [4, 2]), 13),  # two tensors past a slow buffer
        (OUTER, {"M": 4, "N": 4}, (1, 8, "inf", 4, [2, 2]), 48),
        (OUTER, {"M": 6, "N": 3}, (100, 32, "4 GB/s", 12, [2, 2]), 9),
        (OUTER, {"M": 8, "N": 2}, (4, 16, "2 GB/s", 2, [4, 2]), 13),
    ],
)
def test_as_good_as_every_mapping(tmp_path, text, sizes, chip, least_ns):
    cascade, chip = parse(text), few(tmp_path, *chip)
    found = find_mapping(cascade, sizes, chip, slack=0)
    assert found.estimate.latency_s <= least_ns * 1e-9 * (1 + 1e-9)
    assert found.gap >= 1
    assert found.estimate == simulate(cascade, sizes, chip, found.mapping)


def test_slow_registers_keep_what_is_used_again(tmp_path):
    # C stays for all of K and needs a read and a write a step; A and B, which pass once, would each add as much.
    cascade, sizes = parse(VECTOR), {"M": 4, "K": 8}
    chip = few(tmp_path, 100, 64, "inf", 6, [2, 2], inner="2 GB/s")
    found = find_mapping(cascade, sizes, chip, slack=0)
    everything = {**found.mapping.binding.keep, "R": "all"}
    assert found.estimate.latency_s < 0.7 * _latency_with(cascade, sizes, chip, found.mapping, everything)


def _latency_with(cascade, sizes, chip, mapping, keep):
    changed = replace(mapping, binding=replace(mapping.binding, keep=keep))
    return simulate(cascade, sizes, chip, changed).latency_s


def test_variants_take_as_few_cycles():
    cascade, chip = zoo.load("attention_3pass"), load_hardware("fusemax", N=8)
    sizes = {"E": 4, "F": 4, "M": 64, "P": 64}
    block = next(b for b in blocks(cascade, cascade.einsums, sizes))
    placed = next(placements(block, sizes, chip, most=1))
    assert not list(_other_registers(placed))  # there is room for all, and no bandwidth to spare
    others = list(_other_axes(placed))
    assert others
    for e in block.einsums:
        array = chip.arrays[placed.arrays[e.name]]
        cycles = {ideal_cycles(cascade, e, sizes, array, p.axes[e.name]) for p in (placed, *others)}
        assert len(cycles) == 1
