"""What the L2 cache holds from one call to the next, against a cache played through line by line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.gpu.efficiency import held_in_l2, memory_seconds
from simulator.hardware.gpu import find_gpu

L40S, H100 = find_gpu("l40s"), find_gpu("h100")


def played(caches_full: float, *, lines: int = 1000, calls: int = 30) -> float:
    """Return the hits of calls that each read the same data once, in order; a miss takes any line of a full cache."""
    random, data = np.random.default_rng(0), round(caches_full * lines)
    place = np.full(data, -1)  # of each datum, in the cache
    holds, used, hits = np.full(lines, -1), 0, 0
    for call in range(calls):
        for datum in range(data):
            if place[datum] >= 0:
                hits += call >= calls // 2  # once the cache has settled
                continue
            slot = used if used < lines else int(random.integers(lines))
            used = min(used + 1, lines)
            if holds[slot] >= 0:
                place[holds[slot]] = -1
            holds[slot], place[datum] = datum, slot
    return hits / (data * (calls - calls // 2))


@pytest.mark.parametrize("caches_full", [0.5, 0.95, 1.2, 1.5, 2.0, 3.0])
def test_a_cache_that_is_played_through_holds_as_much(caches_full):
    # Hits of 15 calls over some thousand lines scatter by about 1 %.
    assert held_in_l2(L40S, caches_full * L40S.l2_bytes) == pytest.approx(played(caches_full), abs=0.02)


@given(st.floats(1e3, 1e12), st.floats(1.0, 10.0))
def test_more_data_are_never_read_faster_nor_a_smaller_part_of_them_missed(footprint, more):
    assert held_in_l2(H100, more * footprint) <= held_in_l2(H100, footprint)
    seconds = [memory_seconds(H100, n, footprint=n) for n in (footprint, more * footprint)]
    assert seconds[0] <= seconds[1]


def test_two_partitions_hold_half_as_much_of_what_all_read():
    assert (H100.l2_partitions, L40S.l2_partitions) == (2, 1)
    whole = replace(H100, l2_partitions=1)
    for footprint in np.geomspace(1e6, 1e9, 7):
        assert held_in_l2(H100, footprint) == held_in_l2(whole, 2 * footprint)
    assert held_in_l2(H100, 0.49 * H100.l2_bytes) == 1.0 > held_in_l2(H100, 0.6 * H100.l2_bytes)
