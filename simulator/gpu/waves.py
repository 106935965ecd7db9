"""Blocks over the slots of a chip: greedy list scheduling, exact, and a closed form for sweeps."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def makespan(
    costs: Sequence[float] | Floats, counts: Sequence[int] | NDArray[np.int64], *, slots: int
) -> float:
    """Return when the last block ends, if each free slot takes the next block of the list.

    Equal blocks are handed out together, so the time is one step per distinct cost, not per block; the result is
    that of the event-driven greedy.

    Args:
        costs: seconds (or any unit) of a block, one value per run of equal blocks, in the order of the list.
        counts: blocks in each run.
        slots: blocks that are resident at a time.

    Source: Graham, "Bounds on multiprocessing timing anomalies" (1969), list scheduling.

    >>> makespan([3.0, 2.0], [2, 3], slots=2)
    7.0
    """
    ends = np.zeros(slots)
    for cost, count in zip(costs, counts, strict=True):
        ends = _hand_out(ends, float(cost), int(count))
    return float(ends.max())


def _hand_out(ends: Floats, cost: float, count: int) -> Floats:
    """Return the slots' end times after `count` blocks of one cost, each taken by the slot that is free first."""
    if count == 0 or cost == 0.0:
        return ends
    ends = np.sort(ends)
    # Water level: were blocks divisible, the slots would be filled to the level at which the work is used up.
    level = (np.cumsum(ends) + count * cost) / np.arange(1, len(ends) + 1)
    above = np.append(ends[1:], np.inf)
    filled = int(np.argmax(level <= above)) + 1
    whole = np.floor((level[filled - 1] - ends[:filled]) / cost + 1e-9).astype(np.int64)
    rest = count - int(whole.sum())
    ends[:filled] += whole * cost
    if rest > 0:
        taken = np.argpartition(ends, rest - 1)[:rest] if rest < len(ends) else np.arange(len(ends))
        ends[taken] += cost
    return ends


def makespan_one_by_one(costs: Sequence[float], *, slots: int) -> float:
    """Return the `makespan` of blocks that each have a cost of their own: quicker where neighbours differ.

    >>> makespan_one_by_one([3.0, 3.0, 2.0, 2.0, 2.0], slots=2)
    7.0
    """
    ends = [0.0] * slots
    for cost in costs:
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)


def makespan_bound(costs: Any, counts: Any, *, slots: Any) -> Floats:
    """Return a lower bound of the makespan of many calls at once, longest blocks first.

    It is the larger of the mean load and, for each prefix of the list, the fullest slot's share of it. It equals the
    greedy result up to one block a slot; above 16 blocks a slot it is below it by less than 2 % (tests).

    Args:
        costs: shape (n, M), descending along M where it binds; padding has count 0.
        counts: shape (n, M).
        slots: shape (n,) or one number.

    >>> makespan_bound([[3.0, 2.0]], [[2, 3]], slots=2).tolist()
    [6.0]
    """
    cost, count = np.asarray(costs, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    places = np.asarray(slots, dtype=np.float64).reshape(-1, 1)
    mean = (cost * count).sum(axis=1) / places[:, 0]
    prefix = np.where(count > 0, np.ceil(np.cumsum(count, axis=1) / places) * cost, 0.0)
    out: Floats = np.maximum(mean, prefix.max(axis=1))
    return out


def timeline(
    costs: Sequence[float], counts: Sequence[int], *, slots: int, most: int = 20_000
) -> list[tuple[int, float, float, int]]:
    """Return (slot, start, end, run) of every block, event by event: the data of a wave plot.

    Raises:
        ValueError: more than `most` blocks.

    >>> timeline([2.0, 1.0], [1, 2], slots=2)
    [(0, 0.0, 2.0, 0), (1, 0.0, 1.0, 1), (1, 1.0, 2.0, 1)]
    """
    if sum(counts) > most:
        raise ValueError(f"{sum(counts)} blocks are too many to draw; at most {most}")
    free = [(0.0, slot) for slot in range(slots)]
    events = []
    for run, (cost, count) in enumerate(zip(costs, counts, strict=True)):
        for _ in range(count):
            start, slot = heapq.heappop(free)
            events.append((slot, start, start + cost, run))
            heapq.heappush(free, (start + cost, slot))
    return events
