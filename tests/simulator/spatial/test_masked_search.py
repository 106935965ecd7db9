"""The search under a `where`: it counts what the simulator counts, and finds mappings that skip what is masked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from einsum_cascade import zoo
from einsum_cascade.parser import parse
from einsum_cascade.zoo.entries import sizes_at
from simulator import load_hardware, simulate
from simulator.spatial.mapper import find_mapping
from simulator.spatial.search import Search
from simulator.spatial.writing import write

MASKED = (
    "attention_1pass_causal",
    "attention_sliding_window",
    "attention_sink",
    "arrow_attention",
    "gna_1d",
    "gna_2d",
    "linear_chunked",
    "landmark",
    "bispa",
)


@pytest.mark.parametrize("chip", ["fusemax", "edge"])
@pytest.mark.parametrize("name", MASKED)
def test_the_search_counts_what_the_simulator_counts(name, chip):
    cascade, machine, sizes = zoo.load(name), load_hardware(chip), sizes_at(name, 1024)
    path = Search(cascade, sizes, machine, "latency_s", effort=8).best()
    found = simulate(cascade, sizes, machine, write(cascade, sizes, path, "found"))
    latency_s, traffic_bytes, energy_j = (sum(t.merit[i] for t in path) for i in range(3))
    # Sums of the same numbers in another order.
    assert latency_s == pytest.approx(found.latency_s, rel=1e-9)
    assert traffic_bytes == pytest.approx(found.traffic_bytes, rel=1e-9)
    assert energy_j == pytest.approx(found.energy_j, rel=1e-9)


def test_a_window_in_a_plane_is_not_swept_whole():
    """Queries and keys of an image, 128 x 128, windows of 16 x 16: 1 of 64 products exists."""
    cascade, chip, sizes = zoo.load("gna_2d"), load_hardware("fusemax"), sizes_at("gna_2d", 16384)
    found = find_mapping(cascade, sizes, chip).estimate
    dense = find_mapping(without_where(cascade), sizes, chip).estimate
    # One axis of the window is met by arrays 128 elements wide, the other is stepped over: 8 of 64 are left.
    assert found.latency_s < dense.latency_s / 6


def without_where(cascade):
    """The same cascade over all points."""
    return replace(cascade, body=tuple(replace(e, where=None) for e in cascade.body))


def test_axes_are_those_that_skip_most():
    """A band of one key a query: keys and queries on the axes of one array leave whole steps with little to do."""
    text = "cascade c\nrank E M P\ninput Q[E, P] K[E, M]\noutput S[M, P]\nS[m, p] = Q[e, p] * K[e, m] where m == p\n"
    sizes = {"E": 64, "M": 256, "P": 256}
    machine = load_hardware("fusemax", N=64)
    found = find_mapping(parse(text), sizes, machine, slack=0.0).estimate
    # Elements of one rank with E: 256 keys, each with the 64 elements of E at once, by 64 queries: 4 times 64 steps
    # at most; with M and P on the axes it is 4 tiles on the diagonal of 64 steps each.
    assert sum(e.cycles for e in found.einsums) <= 4 * 64
