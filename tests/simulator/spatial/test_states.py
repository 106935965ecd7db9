"""What a state that is also handed back costs: a mapped cascade executed step by step, against the counts."""

from __future__ import annotations

import mapping_walk
import pytest

from einsum_cascade.parser import parse
from mappings.binding import Binding, SpatialMapping
from mappings.loopnest import EinsumLoops, LoopNest
from simulator import load_hardware
from simulator.spatial.default import default_mapping
from simulator.spatial.mapper import find_mapping, least_traffic_bytes
from simulator.spatial.model import plan, simulate
from simulator.spatial.planning import count_all

SELF = parse(
    "cascade scan\nrank I T\ninput A[I] B[T]\noutput R[T, I]\nR[0, i] = A[i]\n"
    "iterate t {\nR[t + 1, i] = R[t, i] * B[t]\n}\n"
)
OTHER = parse(
    "cascade gate\nrank I T\ninput A[I] B[T]\noutput R[T, I]\nR[0, i] = A[i]\n"
    "iterate t {\nG[t, i] = R[t, i] + B[t]\nR[t + 1, i] = R[t, i] * G[t, i]\n}\n"
)
# What stands at DRAM, and what at the buffer; 8 tiles, more than the two generations of one that the buffer holds.
ORDERS = [(("T",), ("I1",)), (("I1", "T"), ()), (("T", "I1"), ()), (("I1",), ("T",))]
SIZES = {"I": 32, "T": 5}


def mapping_of(cascade, outside, inside):
    loops = EinsumLoops({"DRAM": outside, "GlobalBuffer": inside}, ("I0",))
    names = [e.name for e in cascade.einsums]
    split = {"I": ("I1", "I0")}
    nest = LoopNest(cascade.name, dict.fromkeys(names, loops), split, {"I0": 4}, ("B", "H"))
    dram = {n: ("B", "R") if n == "R" or outside == ("T", "I1") else ("B",) for n in names}
    keep = {"DRAM": dram, "GlobalBuffer": "all", "RF2D": "all"}
    return SpatialMapping(nest, Binding(keep, {"all": ({"PE2D": tuple(names)},)}), "by hand")


@pytest.mark.parametrize(("outside", "inside"), ORDERS)
@pytest.mark.parametrize("cascade", [SELF, OTHER], ids=["scan", "gate"])
def test_a_state_is_read_back_where_a_walk_reads_it_back(cascade, outside, inside):
    machine = load_hardware("fusemax")
    mapping = mapping_of(cascade, outside, inside)
    walk = mapping_walk.Walk(cascade, SIZES, machine, mapping)
    reads = read_from_dram(plan(cascade, SIZES, machine, mapping))
    first = cascade.einsums[0].name  # who comes second finds in the buffer what the first one brought
    assert reads[first] == walk.reads[first, "R"]
    tiles_change = outside == ("T", "I1")
    assert reads[first] == ((SIZES["T"] - 1) * SIZES["I"] if tiles_change else 0)


def read_from_dram(settled):
    """Words of the state read from the outermost memory, by Einsum, its first value left out."""
    used = [u for u in count_all(settled) if u.memory == "DRAM" and u.operand.tensor == "R"]
    return {u.einsum: u.reads for u in used if not u.operand.output} | {
        n.einsum: 0
        for n in settled.layout.nests
        if not any(u.einsum == n.einsum and not u.operand.output for u in used)
    }


def test_what_starts_all_over_is_read_again():
    # The sum over x asks for every generation once for each x, and the buffer holds one.
    cascade = parse(
        "cascade again\nrank I T X\ninput A[I] B[T]\noutput R[T, I] S[T, I, X]\nR[0, i] = A[i]\n"
        "iterate t {\nS[t, i, x] = R[t, i] * B[t]\nR[t + 1, i] = R[t, i] * B[t]\n}\n"
    )
    loops = {
        "S": EinsumLoops({"DRAM": ("X", "T", "I1")}, ("I0",)),
        "R": EinsumLoops({"DRAM": ("T", "I1")}, ("I0",)),
    }
    nest = LoopNest("again", loops, {"I": ("I1", "I0")}, {"I0": 32}, ("B", "H"))
    keep = {"DRAM": {"R": ("B", "R"), "S": ("B", "R", "S")}, "GlobalBuffer": "all", "RF2D": "all"}
    mapping = SpatialMapping(nest, Binding(keep, {"all": ({"PE2D": ("S", "R")},)}), "by hand")
    found = read_from_dram(plan(cascade, {**SIZES, "X": 3}, load_hardware("fusemax"), mapping))
    assert found == {"S": 3 * SIZES["T"] * SIZES["I"], "R": 0}


@pytest.mark.parametrize("cascade", [SELF, OTHER], ids=["scan", "gate"])
def test_the_best_mapping_moves_what_has_to_move(cascade):
    machine = load_hardware("fusemax")
    found = simulate(cascade, SIZES, machine, default_mapping(cascade, SIZES, machine))
    # A, B, and every generation of the state, the first one included.
    least = SIZES["I"] + SIZES["T"] + SIZES["I"] * (SIZES["T"] + 1)
    assert found.traffic_bytes == least * machine.word_bytes
    assert found.traffic_bytes >= least_traffic_bytes(cascade, SIZES, machine)


def test_two_blocks_one_after_the_other_share_no_pass():
    """The states of one block are what another begins with; neither's generations follow the passes of a third rank."""
    text = """cascade two_blocks
rank K M N
input B[K] V[K, M]
output O[K]
Z[0, k] = B[k]
iterate n {
  Y[n, k] = Z[n, k] * 2
  G[n] = Y[n, k] :: max(k)
  Z[n + 1, k] = Y[n, k] - G[n]
}
D[0, k] = 0
iterate m {
  D[m + 1, k] = D[m, k] + Z[N, k] * V[k, m]
}
O[k] = D[M, k]
"""
    found = find_mapping(parse(text), {"M": 64, "K": 512, "N": 4}, load_hardware("fusemax", N=64), effort=20)
    # B, V and O once, each of 2 bytes
    assert found.estimate.traffic_bytes == 2 * (512 + 512 * 64 + 512)
    assert found.gap == 1
