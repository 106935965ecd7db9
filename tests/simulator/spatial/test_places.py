"""A tensor that one Einsum reads at several places: all of them are held at a time, and never more than all of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from mappings.binding import Binding, SpatialMapping
from mappings.loopnest import EinsumLoops, LoopNest
from simulator import find_mapping, load_hardware, simulate
from simulator.spatial.registers import registers

GRAM = parse(
    "cascade gram\nrank E N\nrank P = N\nrank M = N\ninput X[E, N]\noutput G[P, M]\n"
    "G[p, m] = X[e, p] * X[e, m]\n"
)
PAIR = parse("cascade pair\nrank S M\ninput A[S, M]\noutput D[M]\nD[m] = A[0, m] - A[1, m]\n")
CHIP = """
kind: spatial
name: small
clock: 1 GHz
word: 1 B
memories:
  D: {{component: dram, kind: hbm2, row: 8 B, bandwidth: 1 GB/s}}
  S: {{component: sram, capacity: {words} B, row: 1 B}}
  R: {{component: registers, capacity: 3 B, row: 1 B, of: A, per_element: true}}
arrays:
  A: {{shape: [2, 2], units: [mac], ops: {{mac: {{mac: 1}}, mul: {{mac: 1}}, add: {{mac: 1}}}}}}
"""


def chip(tmp_path: Path, words: int):
    path = tmp_path / "small.yaml"
    path.write_text(CHIP.format(words=words))
    return load_hardware(str(path))


def mapped(einsum: str, time, split, sizes, kept: str) -> SpatialMapping:
    tensors = {"D": "all", "S": (kept,), "R": "all"}
    nest = LoopNest("", {einsum: EinsumLoops(time, ())}, split, sizes)
    return SpatialMapping(nest, Binding(tensors, {"all": ({"A": (einsum,)},)}), "mine")


def held(found):
    return {m.name: m.held_bytes for m in found.memories}


@pytest.mark.parametrize(
    ("n", "p0", "m0"), [(12, 3, 4), (12, 2, 6), (12, 6, 6), (12, 12, 3), (4, 2, 2), (6, 1, 1)]
)
def test_two_blocks_of_one_matrix(tmp_path, n, p0, m0):
    blocks = {"P": ("P1", "P0"), "M": ("M1", "M0")}
    time = {"D": ("P1", "M1"), "S": ("P0", "M0", "E")}
    mapping = mapped("G", time, blocks, {"P0": p0, "M0": m0}, "X")
    sizes = {"E": 5, "N": n, "P": n, "M": n}
    steps = itertools.product(range(n // p0), range(n // m0))
    most = max(len({*range(a * p0, a * p0 + p0), *range(b * m0, b * m0 + m0)}) for a, b in steps)
    found = held(simulate(GRAM, sizes, chip(tmp_path, 1000), mapping))
    assert found == {"D": 5 * n + n * n, "S": 5 * most, "R": 3}
    simulate(GRAM, sizes, chip(tmp_path, 5 * most), mapping)
    with pytest.raises(MappingError, match=f"take {5 * most} bytes"):
        simulate(GRAM, sizes, chip(tmp_path, 5 * most - 1), mapping)


def test_two_rows_told_apart_by_a_number(tmp_path):
    mapping = mapped("D", {"D": ("M1",), "S": ("M0",)}, {"M": ("M1", "M0")}, {"M0": 4}, "A")
    found = held(simulate(PAIR, {"S": 2, "M": 12}, chip(tmp_path, 100), mapping))
    assert found == {"D": 24 + 12, "S": 8, "R": 3}


def test_a_register_for_each_place(tmp_path):
    sizes = {"E": 4, "N": 8, "P": 8, "M": 8}
    einsum = GRAM.einsums[0]
    assert registers(einsum, sizes, 3) == ("G", "X") and registers(einsum, sizes, 2) == ("G",)


@pytest.mark.parametrize("words", [10, 16, 30])
def test_what_the_search_finds_fits(tmp_path, words):
    sizes = {"E": 4, "N": 8, "P": 8, "M": 8}
    found = find_mapping(GRAM, sizes, chip(tmp_path, words), objective="traffic_bytes")
    assert held(found.estimate)["S"] <= words
    assert found.estimate == simulate(GRAM, sizes, chip(tmp_path, words), found.mapping)
