"""The mapping made on the spot: any cascade of the zoo on any spatial chip, within bounds that always hold."""

from __future__ import annotations

import math

import pytest

from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from simulator import load_hardware, simulate
from simulator.hardware.reader import names
from simulator.spatial.default import default_mapping
from simulator.spatial.groups import group, units

SIZES = {"E": 64, "F": 64, "D": 64, "M": 1024, "P": 1024, "T": 1024, "N": 1024, "K": 128, "W": 32}
CASCADES = (
    "gemm", "attention_3pass", "attention_2pass", "attention_2pass_local", "attention_1pass", "attention_1pass_causal",
    "attention_sliding_window", "attention_1pass_sliding_window", "linear_chunked", "linear_recurrent", "gna_2d",
    "channel_attention", "squeeze_excite",
)  # fmt: skip


def sizes_of(cascade):
    """Sizes for every rank: those of the table above, 16 for ranks that it lacks."""
    parts = {p for ps in cascade.splits.values() for p in ps}
    out = {r: SIZES.get(r, 16) for r in cascade.free_ranks if r not in parts}
    out |= {whole: SIZES.get(whole, 256) for whole in cascade.splits}
    from einsum_cascade.sizes import resolve

    return resolve(cascade, out)


def compulsory_words(cascade, sizes):
    """Words of the outputs: each is written at least once, whatever the mapping."""
    return sum(math.prod(sizes[r] for r in s.ranks) for s in cascade.outputs)


@pytest.mark.parametrize("chip", names("spatial"))
@pytest.mark.parametrize("name", CASCADES)
def test_any_cascade_on_any_chip(name, chip):
    cascade, machine = zoo.load(name), load_hardware(chip)
    sizes = {**sizes_of(cascade), "B": 2, "H": 4}
    batch = math.prod(sizes[b] for b in ("B", "H") if b not in cascade.rank_names)
    found = simulate(cascade, sizes, machine, default_mapping(cascade, sizes, machine))
    assert found.traffic_bytes >= compulsory_words(cascade, sizes) * batch * machine.word_bytes
    assert all(u <= 1 + 1e-12 for u in found.utilization.values())
    assert all(m.busy <= 1 + 1e-12 for m in found.memories)
    assert all(m.held_bytes <= m.capacity_bytes for m in found.memories)
    assert {e.name for e in found.einsums} == {e.name for e in cascade.einsums}


def test_fused_attention_moves_every_input_once():
    cascade, chip = zoo.load("attention_1pass"), load_hardware("fusemax")
    sizes = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 4096, "M": 4096}
    found = simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))
    assert found.traffic_bytes == 4 * 64 * 12 * 4096 * 64 * 2
    assert len(found.phases) == 1


def test_three_passes_fall_apart_where_rows_no_longer_fit():
    cascade = zoo.load("attention_3pass")
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 4096, "M": 4096}
    roomy, tight = load_hardware("fusemax"), load_hardware("fusemax", L3="64 KiB")
    fused = simulate(cascade, sizes, roomy, default_mapping(cascade, sizes, roomy))
    apart = simulate(cascade, sizes, tight, default_mapping(cascade, sizes, tight))
    assert fused.traffic_bytes < apart.traffic_bytes


def test_units_keep_a_block_and_its_readers_together():
    assert [[e.name for e in u] for u in units(zoo.load("attention_1pass"))] == [
        ["QK", "LM", "RM", "SLN", "SLD", "SLNV", "PRM", "SPD", "RD", "SPNV", "RNV", "AV"]
    ]
    assert [len(u) for u in units(zoo.load("attention_3pass"))] == [1] * 6


def test_fused_ranks():
    three = zoo.load("attention_3pass")
    assert group(three, three.einsums).fused == ("P",)
    one = zoo.load("attention_1pass")
    found = group(one, one.einsums)
    assert (found.fused, found.iterated) == (("P",), "M1")


def test_a_tensor_read_elsewhere_is_not_fused_over():
    # T is written at p and read at p + w: what one tile writes, the next one reads.
    text = "cascade x\nrank P W\nrank R = P + W\ninput A[R] C[W]\noutput Y[P]\n"
    text += "T[r] = A[r] * A[r]\nY[p] = T[p + w] * C[w]\n"
    cascade = parse(text)
    assert group(cascade, cascade.einsums).fused == ()


def test_an_operation_that_no_array_does():
    cascade = parse("cascade x\nrank P\ninput A[P]\noutput Y[P]\nY[p] = sqrt(A[p])\n")
    chip = load_hardware("fusemax", {"arrays.PE1D.ops": {"mac": {"mac": 1}}, "arrays.PE1D.assumed": []})
    with pytest.raises(MappingError, match="no array of fusemax can do sqrt"):
        default_mapping(cascade, {"P": 64}, chip)
