"""Searches for one objective against those for another: nobody finds a better mapping by asking for something else."""

from __future__ import annotations

import re

import pytest

from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from simulator import load_hardware
from simulator.spatial.mapper import find_mapping

OBJECTIVES = ("latency_s", "energy_j", "traffic_bytes")
VECTOR = """
    units: [mac, add, max, exp, divide]
    ops: {mac: {mac: 1}, mul: {mac: 1}, add: {add: 1}, max: {max: 1}, exp: {exp: 1}, divide: {divide: 1}}
    pipelined: true
"""
PRODUCTS = "    units: [mac, add]\n    ops: {mac: {mac: 1}, mul: {mac: 1}, add: {add: 1}}\n"
ODD = f"""kind: spatial
name: odd
clock: 1 GHz
word: 2 B
memories:
  DRAM: {{component: dram, kind: hbm2, bandwidth: 10 GB/s, row: 8 B}}
  Buf: {{component: sram, capacity: 33 KiB, row: 8 B}}
  R: {{component: registers, capacity: 8 B, row: 2 B, of: PE, per_element: true}}
  RV: {{component: registers, capacity: 8 B, row: 2 B, of: V, per_element: true}}
arrays:
  PE:
    shape: [7, 13]
{PRODUCTS}  V:
    shape: [11]{VECTOR}"""
ACCUMULATORS = f"""kind: spatial
name: accumulators
clock: 700 MHz
word: 2 B
memories:
  DRAM: {{component: dram, kind: hbm2, bandwidth: 300 GB/s, row: 64 B}}
  UB: {{component: sram, capacity: 1 MiB, row: 256 B}}
  Acc: {{component: sram, capacity: 64 KiB, row: 256 B, of: MXU}}
  RM: {{component: registers, capacity: 4 B, row: 2 B, of: MXU, per_element: true}}
  RV: {{component: registers, capacity: 64 B, row: 2 B, of: VPU, per_element: true}}
arrays:
  MXU:
    shape: [32, 32]
{PRODUCTS}  VPU:
    shape: [256]{VECTOR}"""
BARE = f"""kind: spatial
name: bare
clock: 1 GHz
word: 2 B
memories:
  DRAM: {{component: dram, kind: hbm2, bandwidth: 100 GB/s, row: 8 B}}
  R: {{component: registers, capacity: 32 B, row: 2 B, of: PE, per_element: true}}
arrays:
  PE:
    shape: [16, 16]{VECTOR}"""
CONV = parse(
    "cascade conv\nrank N C K R S P Q\nrank Y = 18\nrank X = 18\ninput I[N, C, Y, X]  W[K, C, R, S]\n"
    "output O[N, K, P, Q]\nO[n, k, p, q] = I[n, c, p + r, q + s] * W[k, c, r, s]\n"
)
CASES = {
    "attention": (zoo.load("attention_3pass"), {"E": 16, "F": 16, "M": 256, "P": 64}),
    "convolution": (CONV, {"N": 1, "C": 8, "K": 8, "R": 3, "S": 3, "P": 16, "Q": 16, "Y": 18, "X": 18}),
    "product": (zoo.load("gemm"), {"M": 100, "N": 96, "K": 64}),
}


@pytest.fixture
def machine(tmp_path):
    def load(text):
        (tmp_path / "chip.yaml").write_text(text)
        return load_hardware(tmp_path / "chip.yaml")

    return load


@pytest.mark.parametrize("chip", [ODD, ACCUMULATORS, BARE], ids=["odd", "accumulators", "bare"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_each_objective_is_served_best_by_its_own_search(machine, case, chip):
    cascade, sizes = CASES[case]
    found = {
        o: find_mapping(cascade, sizes, machine(chip), objective=o, effort=40, slack=0.0).estimate
        for o in OBJECTIVES
    }
    for o in OBJECTIVES:
        assert getattr(found[o], o) <= min(getattr(e, o) for e in found.values()) * (1 + 1e-9), o


@pytest.mark.parametrize(
    "formula", ["latency_s * energy_j", "latency_s ** 2 * energy_j", "max(traffic_bytes, 1) / 2"]
)
def test_a_formula_is_served_no_worse_than_by_any_other_search(machine, formula):
    cascade, sizes = CASES["product"]

    def value(objective, slack):
        found = find_mapping(
            cascade, sizes, machine(BARE), objective=objective, effort=20, slack=slack
        ).estimate
        names = {
            "latency_s": found.latency_s,
            "energy_j": found.energy_j,
            "traffic_bytes": found.traffic_bytes,
        }
        return eval(formula, {"max": max}, names)

    for slack in (0.0, 0.01):
        assert value(formula, slack) <= min(value(o, slack) for o in OBJECTIVES) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("edp", "unknown objective 'edp'"),
        ("latency * energy_j", "unknown name 'latency'; did you mean 'latency_s'"),
        ("latency_s *", "not an expression"),
        ("latency_s < 2", "cannot stand"),
        ("2 * 3", "names none of latency_s, energy_j, traffic_bytes"),
    ],
)
def test_what_is_no_objective_is_refused(machine, objective, message):
    cascade, sizes = CASES["product"]
    with pytest.raises(MappingError, match=re.escape(message)):
        find_mapping(cascade, sizes, machine(BARE), objective=objective)


def test_blocks_that_do_not_agree_give_way_to_others_that_do(machine):
    """QK and AV take 37 * 8 steps of 7 x 8 elements for 256 x 64 scores, 16 products long, in one phase.

    Two phases whose best tiles exclude each other had been made to agree at four times that.
    """
    cascade, sizes = CASES["attention"]
    found = find_mapping(cascade, sizes, machine(ODD), slack=0.0).estimate
    assert 2 * 256 * 64 * 16 / (7 * 13) / 1e9 <= found.latency_s <= 2 * 37 * 8 * 16 / 1e9 * (1 + 1e-9)
