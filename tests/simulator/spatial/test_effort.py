"""What one estimate adds up at once against the long way: every use of every memory, every action."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from simulator import load_hardware, simulate
from simulator.spatial.access import words
from simulator.spatial.effort import efforts
from simulator.spatial.energy import actions, spent, summed
from simulator.spatial.holding import largest
from simulator.spatial.model import assemble, plan
from simulator.spatial.nest import SizeTable
from simulator.spatial.planning import count_all, gathered, moved_words
from simulator.spatial.programs import Tile
from simulator.spatial.tiles import held_together
from simulator.spatial.work import cycles, greatest

# A sum in another order rounds elsewhere; each of a hundred additions may be off by half a unit in the last place.
ROUNDING = 1e-14
RUNS = [
    ("attention_1pass", "fusemax", "fusemax"),
    ("attention_1pass", "fusemax_stalled", "fusemax"),
    ("attention_1pass", "fusemax_cascade", "flat"),
    ("attention_1pass_causal", "fusemax", "fusemax"),
    ("attention_3pass", "unfused", "flat"),
    ("attention_3pass", "flat", "flat"),
]


@pytest.mark.parametrize(("cascade", "mapping", "chip"), RUNS)
def test_sums_equal_what_they_are_sums_of(cascade, mapping, chip):
    sizes = {"B": 2, "H": 3, "E": 64, "F": 64, "P": 16384, "M": 16384}
    settled = plan(zoo.load(cascade), sizes, load_hardware(chip), mappings.load(mapping))
    usages = count_all(settled)
    moved = moved_words(settled)
    assert {p: m for p, m in moved.items() if any(m)} == {p: m for p, m in gathered(usages).items() if any(m)}
    acts = actions(settled.chip, settled.layout.nests, usages, settled.sizes, settled.live)
    long = summed(acts)
    work = efforts(settled.layout, settled.chip, settled.live)
    short = spent(settled.chip, moved, work, settled.sizes)
    assert long.keys() <= short.keys()
    for place, joules in short.items():
        assert joules == pytest.approx(long.get(place, 0.0), rel=ROUNDING)
    for effort in work:
        array = settled.chip.arrays[effort.nest.array]
        assert effort.cycles(settled.sizes) == cycles(effort.nest, array, settled.sizes, effort.live)
    slow = assemble(settled, gathered(usages), long)
    fast = simulate(zoo.load(cascade), sizes, load_hardware(chip), mappings.load(mapping))
    assert fast.latency_s == slow.latency_s
    assert fast.traffic_bytes == slow.traffic_bytes
    assert fast.energy_j == pytest.approx(slow.energy_j, rel=ROUNDING)


TILES = st.lists(st.sampled_from("ABC"), max_size=3).map(lambda parts: Tile(tuple(parts)))
TENSORS = st.lists(TILES, min_size=1, max_size=3).map(tuple)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(TENSORS, max_size=3).map(tuple), min_size=1, max_size=4).map(tuple),
    st.fixed_dictionaries(dict.fromkeys("ABC", st.integers(1, 7))),
)
def test_what_is_never_the_largest_is_left_out(groups, sizes):
    table = SizeTable(sizes)
    assert greatest(held_together(largest(groups), table)) == greatest(
        sum(max(words(t, table) for t in tiles) for tiles in tensors) for tensors in groups
    )
