"""The wave scheduler against an event-driven greedy, and its bounds."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu.waves import makespan, makespan_bound, timeline


def greedy(costs, counts, slots):
    """One block after another to the slot that is free first."""
    free = [0.0] * slots
    last = 0.0
    for cost, count in zip(costs, counts, strict=True):
        for _ in range(count):
            end = heapq.heappop(free) + cost
            last = max(last, end)
            heapq.heappush(free, end)
    return last


# Costs are whole numbers, so that sums are exact in floating point and ties are the same on both sides.
runs = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60)), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(runs, st.integers(1, 40))
def test_makespan_is_that_of_the_event_driven_greedy_in_any_order(blocks, slots):
    costs, counts = [c for c, _ in blocks], [n for _, n in blocks]
    assert makespan(costs, counts, slots=slots) == pytest.approx(greedy(costs, counts, slots), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(runs, st.integers(1, 40))
def test_makespan_lies_between_its_bounds(blocks, slots):
    blocks = sorted(blocks, reverse=True)
    costs, counts = [c for c, _ in blocks], [n for _, n in blocks]
    got = makespan(costs, counts, slots=slots)
    low = float(makespan_bound([costs], [counts], slots=slots)[0])
    work = sum(c * n for c, n in blocks)
    assert low <= got + 1e-9
    assert got <= work / slots + max(costs)  # Graham: the last block starts no later than at the mean load


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 64), st.integers(1, 40), st.integers(20, 160))
def test_closed_form_is_close_where_blocks_are_many(tiles, copies, slots):
    copies = max(copies, -(-16 * slots // tiles))
    costs, counts = list(range(tiles, 0, -1)), [copies] * tiles
    low = float(makespan_bound([costs], [counts], slots=slots)[0])
    # 2 %: above 16 blocks a slot the last, shortest blocks fill the gaps.
    assert makespan(costs, counts, slots=slots) <= 1.02 * low + min(costs)


@settings(max_examples=100, deadline=None)
@given(runs, st.integers(1, 30))
def test_more_slots_are_never_slower(blocks, slots):
    blocks = sorted(blocks, reverse=True)
    costs, counts = [c for c, _ in blocks], [n for _, n in blocks]
    assert makespan(costs, counts, slots=slots + 1) <= makespan(costs, counts, slots=slots) + 1e-9


def test_worked_example():
    # 5 blocks of 2 on 2 slots: waves of 2, 2, 1 -> 6; the closed form says ceil(5/2) * 2 = 6 too.
    assert makespan([2.0], [5], slots=2) == 6.0
    assert makespan_bound([[2.0]], [[5]], slots=2).tolist() == [6.0]


def test_timeline_ends_at_the_makespan_and_never_overlaps():
    costs, counts = [5.0, 3.0, 1.0], [4, 7, 9]
    events = timeline(costs, counts, slots=3)
    assert max(end for _, _, end, _ in events) == makespan(costs, counts, slots=3)
    for slot in range(3):
        mine = sorted((a, b) for s, a, b, _ in events if s == slot)
        assert all(b <= c for (_, b), (c, _) in itertools.pairwise(mine))
    with pytest.raises(ValueError, match="too many"):
        timeline([1.0], [10**6], slots=3)
