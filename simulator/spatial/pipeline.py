"""An event-driven run of the tiles of one phase: the check of the closed form of the schedule.

Every pass of a tile through the phase is a set of jobs, one an Einsum, that wait for the jobs whose results they read
and for their array; a state is read from the pass before. Some independent streams (other heads, other query tiles)
share the arrays, so that one stream works while another waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum_cascade.cascade import Cascade

from .live import DENSE
from .model import Plan
from .recompute import with_copies
from .work import cycles


@dataclass(frozen=True, slots=True)
class Run:
    """What an event-driven run measured; lengths are those of one pass of one stream, the longest Einsum taken as 1.

    Attributes:
        steady: length of a pass while the pipeline is full: what one pass more adds to the run; it nears `bound` as
            streams are added.
        bound: length of the busiest array in a pass: no schedule is faster.
        closed: length of a pass by the closed form of the schedule.
        fill: what filling and draining add to the whole run.
        total: length of the whole run.
    """

    steady: float
    bound: float
    closed: float
    fill: float
    total: float


def run(settled: Plan, cascade: Cascade, *, passes: int = 16, streams: int = 4) -> Run:
    """Return what running some passes of a plan's first phase event by event takes.

    Args:
        settled: a plan; its first phase is run.
        cascade: the algorithm, for who reads what.
        passes: of each stream, one after another.
        streams: independent of each other.
    """
    cascade = with_copies(cascade, settled.mapping.nest.recompute, where=settled.mapping.name or "mapping")
    phase, steps = next(iter(settled.mapping.binding.phases.items()))
    names = [n for n in settled.layout.nests if settled.layout.phase_of[n.einsum] == phase]
    live = settled.live
    whole = {
        n.einsum: float(cycles(n, settled.chip.arrays[n.array], settled.sizes, live.get(n.einsum, DENSE)))
        for n in names
    }
    array = {n.einsum: n.array for n in names}
    length = {e: c / max(whole.values()) for e, c in whole.items()}
    order = [e.name for e in cascade.einsums if e.name in length]
    half = passes // 2
    needs = _needs(cascade, order)
    # A window inside one run would end where some array has worked ahead; two whole runs differ by whole passes.
    first, last = (max(_simulate(order, length, array, needs, n, streams).values()) for n in (half, passes))
    busy = {a: sum(length[e] for e in order if array[e] == a) for a in set(array.values())}
    per_step = [
        max((sum(length.get(i, 0.0) for i in items) for items in step.values()), default=0.0)
        for step in steps
    ]
    steady = (last - first) / ((passes - half) * streams)
    return Run(steady, max(busy.values()), sum(per_step), last - steady * passes * streams, last)


def _needs(cascade: Cascade, order: Sequence[str]) -> Mapping[str, tuple[tuple[str, bool], ...]]:
    """Return what each Einsum waits for: (Einsum, whether it is the pass before that has to be done)."""
    out = {}
    for name in order:
        einsum = cascade.einsum(name)
        found = {}
        for access in einsum.reads:
            if access.tensor in order:
                found[access.tensor] = access.tensor in cascade.states and cascade.reads_previous(access)
        out[name] = tuple(found.items())
    return out


def _simulate(
    order: Sequence[str],
    length: Mapping[str, float],
    array: Mapping[str, str],
    needs: Mapping[str, tuple[tuple[str, bool], ...]],
    passes: int,
    streams: int,
) -> dict[tuple[int, int, str], float]:
    """Run all jobs; each array takes the ready job of the earliest pass. Returns when each job ends."""
    ends: dict[tuple[int, int, str], float] = {}
    free = dict.fromkeys(set(array.values()), 0.0)
    waiting = [(k, s, i) for k in range(passes) for s in range(streams) for i in range(len(order))]
    heapq.heapify(waiting)
    while waiting:
        blocked = []
        candidates: dict[str, tuple[float, tuple[int, int, int]]] = {}
        # A window of two passes is all that can be ready; looking further costs time and finds nothing.
        window = [heapq.heappop(waiting) for _ in range(min(len(waiting), 2 * streams * len(order)))]
        for job in window:
            k, s, i = job
            ready = _ready(ends, needs[order[i]], s, k)
            if ready is None:
                continue
            start = max(ready, free[array[order[i]]])
            best = candidates.get(array[order[i]])
            if best is None or (start, job) < best:
                candidates[array[order[i]]] = (start, job)
        start, job = min(candidates.values())
        k, s, i = job
        ends[s, k, order[i]] = free[array[order[i]]] = start + length[order[i]]
        blocked = [j for j in window if j != job]
        for j in blocked:
            heapq.heappush(waiting, j)
    return ends


def _ready(
    ends: Mapping[tuple[int, int, str], float], needs: tuple[tuple[str, bool], ...], stream: int, number: int
) -> float | None:
    """Return when the inputs of a job are there, or None while one is still to be made."""
    latest = 0.0
    for einsum, before in needs:
        at = number - 1 if before else number
        if at < 0:
            continue
        end = ends.get((stream, at, einsum))
        if end is None:
            return None
        latest = max(latest, end)
    return latest
