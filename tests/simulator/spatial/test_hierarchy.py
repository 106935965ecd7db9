"""Several levels of memory: what fits one is fetched from outside once, more is never slower, bounds hold at each."""

from __future__ import annotations

import random

import mapping_walk
import pytest
from examples import MORE
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spatial_cascades import CASCADES

import mappings
from einsum_cascade import bounds, zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.ops import COST_CLASSES
from einsum_cascade.parser import parse
from simulator import load_hardware, simulate
from simulator.spatial.access import run
from simulator.spatial.hierarchy import levels
from simulator.spatial.mapper import find_mapping
from simulator.spatial.planning import plan

ROUNDING = 1 + 1e-9  # sums of floats in another order
OPS = ", ".join(f"{op}: {{mac: 1}}" for op in COST_CLASSES)


def machine(folder, memories, *, lanes=4, more=""):
    """A chip of one array; memories are (name, words, GB/s), outermost first, the first without end."""
    lines = ["kind: spatial", "name: levels", "clock: 1 GHz", "word: 2 B", "memories:"]
    for i, (name, words, rate) in enumerate(memories):
        kind = "component: sram" if i else "component: dram, kind: hbm2"
        capacity = f", capacity: {2 * words} B" if i else ""
        lines.append(f"  {name}: {{{kind}, row: 2 B{capacity}, bandwidth: {rate} GB/s}}")
    lines += [
        *([more] if more else []),
        "  RF: {component: registers, capacity: 8 B, row: 2 B, of: PE, per_element: true}",
        "arrays:",
        f"  PE: {{shape: [{lanes}, {lanes}], units: [mac], ops: {{{OPS}}}}}",
    ]
    path = folder / "levels.yaml"
    path.write_text("\n".join(lines) + "\n")
    return load_hardware(path)


def best(cascade, sizes, chip, **options):
    return find_mapping(cascade, sizes, chip, **{"slack": 0.0, "effort": 12, **options})


NORMALIZED = """
cascade normalized
rank E M P
input  Q[E, P] K[E, M]
output A[M, P]
S[m, p] = Q[e, p] * K[e, m]
G[]     = S[m, p] :: max(m, p)
A[m, p] = S[m, p] - G[]
"""
SCORES = {"E": 8, "M": 64, "P": 32}
ENDS = 8 * 64 + 8 * 32 + 64 * 32  # words of K, Q and A


def test_an_intermediate_that_fits_the_middle_level_never_goes_to_the_host(tmp_path):
    """The maximum of all scores is known after the last: 2,048 of them wait, or the product is done again."""
    outer, inner = ("Host", 0, 1), ("Buffer", 256, 64)
    cascade = parse(NORMALIZED)
    two = best(cascade, SCORES, machine(tmp_path, [outer, inner]))
    three = best(cascade, SCORES, machine(tmp_path, [outer, ("HBM", 4096, 16), inner]))
    assert two.gap > 1.2
    assert three.estimate.traffic_bytes == 2 * ENDS
    assert three.estimate.latency_s == pytest.approx(
        2 * ENDS / 1e9
    )  # the time in which the host delivers them


def test_what_does_not_fit_the_middle_level_goes_outside(tmp_path):
    """The scores stand in 2,048 words; a level of 600 holds no whole tensor of that size."""
    outer, inner = ("Host", 0, 1), ("Buffer", 256, 64)
    found = best(parse(NORMALIZED), SCORES, machine(tmp_path, [outer, ("HBM", 600, 16), inner]))
    held = {m.name: m.held_bytes for m in found.estimate.memories}
    assert held["HBM"] <= 1200 and found.estimate.traffic_bytes > 2 * ENDS


def test_keys_that_are_read_again_come_from_the_middle_level(tmp_path):
    """A tile of queries reads all keys, the buffer holds few queries: 16 times from the middle, once from outside."""
    cascade, sizes = zoo.load("gemm"), {"M": 256, "N": 256, "K": 16}
    memories = [("DRAM", 0, 1), ("L2", 16384, 16), ("L1", 512, 64)]
    found = best(cascade, sizes, machine(tmp_path, memories))
    assert found.estimate.traffic_bytes == 2 * (2 * 256 * 16 + 256 * 256)
    assert found.estimate.latency_s == pytest.approx(found.estimate.traffic_bytes / 1e9)


def test_a_product_is_cut_at_each_level(tmp_path):
    """128^3 on 16 elements: 131,072 cycles. No single buffer reaches that: the outer is slow, the inner small."""
    cascade, sizes = zoo.load("gemm"), {"M": 128, "N": 128, "K": 128}
    memories = [("DRAM", 0, 2), ("L2", 8192, 8), ("L1", 512, 64)]
    found = best(cascade, sizes, machine(tmp_path, memories)).estimate
    single = [best(cascade, sizes, machine(tmp_path, [memories[0], m])).estimate for m in memories[1:]]
    assert found.latency_s == pytest.approx(128**3 / 16 / 1e9)
    assert all(s.latency_s > 1.2 * found.latency_s for s in single)


def test_a_buffer_of_one_array_relieves_the_shared_one(tmp_path):
    memories = [("DRAM", 0, 2), ("L2", 8192, 8)]
    scratch = "  Scratch: {component: sram, capacity: 512 B, row: 2 B, of: PE}"
    cascade, sizes = zoo.load("gemm"), {"M": 128, "N": 128, "K": 128}
    without = best(cascade, sizes, machine(tmp_path, memories)).estimate
    found = best(cascade, sizes, machine(tmp_path, memories, more=scratch)).estimate
    held = next(m.held_bytes for m in found.memories if m.name == "Scratch")
    assert found.latency_s < 0.9 * without.latency_s and 0 < held <= 512


def test_only_what_was_brought_whole_stays(tmp_path):
    """The first phase brings a diagonal of A alone; the last one reads all of it."""
    text = (
        "cascade c\nrank M P E\ninput A[M, E, P]\noutput U[E, P]\n"
        "T[e, p] = exp(A[m, p, p - 1]) :: sum(m)\nG[e] = T[e, 0]\n"
        "Y[] = T[e, p] * G[e] :: sum(p, e)\nU[e, p] = pad(Y[], 0) + A[m, e, p] :: sum(m)\n"
    )
    memories = [("DRAM", 0, 0.5), ("L2", 512, 4), ("L1", 48, 1)]
    found = best(parse(text), {"M": 2, "P": 2, "E": 4}, machine(tmp_path, memories, lanes=2), effort=4)
    assert found.estimate.traffic_bytes >= 2 * (2 * 4 * 2 + 4 * 2)


def random_levels(rng):
    """Two or three levels inside the outermost one, each smaller and no slower than the one before."""
    words = [rng.choice([512, 1024, 2048, 8192, 32768])]
    rates = [rng.choice([0.5, 2, 8])]
    for _ in range(rng.choice([1, 1, 2])):
        words.append(max(32, words[-1] // rng.choice([2, 4, 8, 16])))
    for _ in words:
        rates.append(rates[-1] * rng.choice([1, 2, 4, 8]))
    return [(f"L{i}", w, r) for i, (w, r) in enumerate(zip([0, *words], rates, strict=True))]


@settings(max_examples=3 * MORE, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(CASCADES)))
def test_more_at_any_level_is_never_slower(tmp_path_factory, seed, name):
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("chip")
    memories = random_levels(rng)
    at, what = rng.randrange(len(memories)), rng.choice([1, 2])
    more = [
        tuple(2 * v if (i, j) == (at, what) else v for j, v in enumerate(m)) for i, m in enumerate(memories)
    ]
    try:
        plain = best(zoo.load(name), CASCADES[name], machine(folder, memories)).estimate
    except MappingError as e:
        assert "fit" in str(e)
        assume(False)
    found = best(zoo.load(name), CASCADES[name], machine(folder, more)).estimate
    assert found.latency_s <= plain.latency_s * ROUNDING


WALKED = {
    "attention_3pass": {"E": 2, "F": 2, "M": 8, "P": 4},
    "attention_2pass": {"E": 2, "F": 2, "M": 8, "P": 4},
    "attention_1pass": {"E": 2, "F": 2, "M1": 4, "M0": 2, "M": 8, "P": 4},
    "channel_attention": {"C": 4, "D": 4, "T": 4},
    "gemm": {"M": 8, "N": 4, "K": 4},
}


@settings(max_examples=6 * MORE, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(sorted(WALKED)),
    st.sampled_from(["latency_s", "traffic_bytes", "energy_j"]),
)
def test_every_word_is_where_the_mapping_says(tmp_path_factory, seed, name, objective):
    """Walked step by step: nothing is missing, nothing more is moved; and no level is crossed less than it must be."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("chip")
    words = sorted(
        rng.sample([8, 16, 24, 32, 48, 64, 96, 128, 256, 512], rng.choice([2, 2, 3])), reverse=True
    )
    rates = [rng.choice([0.5, 2, 10]), *(rng.choice([1, 4, 20]) for _ in words)]
    memories = [(f"L{i}", w, r) for i, (w, r) in enumerate(zip([0, *words], rates, strict=True))]
    chip, cascade, sizes = machine(folder, memories, lanes=2), zoo.load(name), WALKED[name]
    try:
        found = best(cascade, sizes, chip, objective=objective)
    except MappingError as e:
        assert "fit" in str(e)
        return
    mappings.save(found.mapping, folder / "found.yaml")
    again = simulate(cascade, sizes, chip, mappings.load(folder / "found.yaml"))
    assert again.to_dict() | {"mapping": ""} == found.estimate.to_dict() | {"mapping": ""}
    assert found.gap >= 1 - 1e-12
    assert all(m.held_bytes <= m.capacity_bytes and m.busy <= ROUNDING for m in found.estimate.memories)
    mapping_walk.check_moved(mapping_walk.Walk(cascade, sizes, chip, found.mapping))
    for at in range(len(memories) - 1):
        check_cut(cascade, sizes, chip, found.mapping, at)


def check_cut(cascade, sizes, chip, mapping, at):
    """What crosses from a level and those outside it inwards is no less than with all memory inside in one piece."""
    settled = plan(cascade, sizes, chip, mapping)
    names = levels(chip)
    crossing, fills = {}, {}
    for use in settled.layout.uses:
        key = use.einsum, use.operand
        if use.memory in names[: at + 1]:
            counted = run(use, settled.sizes)
            crossing[key] = counted.reads + counted.updates  # of the innermost of them that keeps it
        elif use.memory in names and key not in fills:
            counted = run(use, settled.sizes)
            fills[key] = None if counted.outermost else counted.fills
    for (einsum, operand), filled in fills.items():
        if filled is not None and not operand.output and (einsum, operand) in crossing:
            assert crossing[einsum, operand] == filled, (einsum, operand.tensor, at)
    inside = sum(m.capacity_bytes * (chip.arrays[m.of].elements if m.per_element else 1)
                 for n, m in chip.memories.items() if n not in names[: at + 1])  # fmt: skip
    least = float(bounds(cascade, sizes, buffer=inside, word=chip.word_bytes).traffic_bytes)
    assert sum(crossing.values()) * chip.word_bytes >= least * (1 - 1e-12)
