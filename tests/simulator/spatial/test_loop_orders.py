"""The loops inside a tile: no other order of those of one Einsum is faster, or costs less at the same speed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from simulator.hardware.reader import load_hardware
from simulator.spatial.mapper import find_mapping
from simulator.spatial.model import simulate

# A systolic array with a buffer of limited bandwidth, as real ones have: what its registers change costs time.
TPU = """
kind: spatial
name: systolic
parameters: {N: 32}
clock: 1 GHz
word: 2 B
memories:
  DRAM: {component: dram, kind: hbm2, bandwidth: 600 GB/s, row: 64 B}
  Buffer: {component: sram, capacity: 4 MiB, row: 64 B, bandwidth: 1 TB/s}
  Weights: {component: registers, capacity: 8 B, row: 2 B, of: Matrix, per_element: true}
  Lanes: {component: registers, capacity: 64 B, row: 2 B, of: Vector, per_element: true}
arrays:
  Matrix: {shape: [N, N], units: [mac], ops: {mac: {mac: 1}, mul: {mac: 1}}}
  Vector:
    shape: [8 * N]
    units: [mac, add, max, exp, divide]
    ops: {mac: {mac: 1}, mul: {mac: 1}, add: {add: 1}, max: {max: 1}, exp: {exp: 1}, divide: {divide: 1}}
"""
SIZES = {"E": 64, "F": 64, "P": 512, "M": 512, "H": 4}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("chip") / "systolic.yaml"
    path.write_text(TPU)
    return path


@pytest.fixture(scope="module")
def chip(path):
    return load_hardware(path)


@pytest.mark.parametrize("name", ["attention_1pass", "attention_1pass_causal", "attention_3pass"])
@pytest.mark.parametrize("objective", ["latency_s", "energy_j"])
def test_no_other_order_of_loops_is_better(chip, name, objective):
    cascade = zoo.load(name)
    found = find_mapping(cascade, SIZES, chip, objective=objective)
    best, tried = found.estimate, 0
    for mapping in _reordered(found.mapping):
        try:
            other = simulate(cascade, SIZES, chip, mapping)
        except MappingError:
            continue
        tried += 1
        if other.latency_s <= best.latency_s * (1 + 1e-12):  # the same work added up in another order
            assert other.latency_s >= best.latency_s * (1 - 1e-9)
            assert other.energy_j >= best.energy_j * (1 - 1e-9)
    assert tried >= 3


def test_a_matrix_stays_on_the_array_while_vectors_pass(path):
    """Both products at one step a cycle is all that the array can do; the scores stay while F rows of V pass.

    The array is wider than F, so that V and the sums on it would leave half of it idle.
    """
    wide = load_hardware(path, {"memories.Buffer.bandwidth": "4 TB/s"}, N=128)
    sizes = {**SIZES, "P": 1024, "M": 1024}
    estimate = find_mapping(zoo.load("attention_1pass"), sizes, wide).estimate
    macs = sizes["H"] * sizes["P"] * sizes["M"] * (sizes["E"] + sizes["F"])
    assert estimate.latency_s * wide.clock_hz <= 1.01 * macs / 128**2  # the slack of the search is a percent


def _reordered(mapping):
    nests = mapping.nest.nests
    for key, loops in nests.items():
        for memory, names in loops.time.items():
            for order in itertools.permutations(names):
                if order != tuple(names):
                    changed = replace(loops, time={**loops.time, memory: order})
                    yield replace(mapping, nest=replace(mapping.nest, nests={**nests, key: changed}))
