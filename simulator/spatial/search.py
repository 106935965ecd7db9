"""The search for tile sizes of a draft: what moves least through the outermost memory among what fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from einsum_cascade.errors import MappingError
from einsum_cascade.sizes import BATCH_RANKS

from .access import run
from .default import Draft, draft, narrowest, shared_memories, write
from .lowering import Layout, lower
from .nest import SizeTable
from .tiles import divisors, occupancy, settle


def best_tiles(found: Draft) -> Draft:
    """Return the draft with the tiles that move least, by growing the most useful one until nothing more fits.

    Ranks that a group is not fused over stay whole on chip; where that does not fit, the spatial tiles of the fused
    ranks shrink.

    Raises:
        MappingError: nothing fits.
    """
    widest = narrowest(found.chip)
    while True:
        whole = _whole_inside(found)
        start: Draft | None = replace(found, buffered={**found.buffered, **whole})
        while start is not None:
            layout = _layout(start)
            if _fits(start, layout):
                return _grown(start, layout, frozenset(whole))
            start = _narrower(start, whole)
        widest //= 2
        if widest < 1 or not any(g.iterated for g in found.groups):
            raise MappingError(
                f"automatic: not even the smallest tiles of {found.cascade.name} fit {found.chip.name}"
            )
        found = draft(found.cascade, found.sizes, found.chip, found.groups, widest=widest)


def _whole_inside(found: Draft) -> dict[str, int]:
    """Return the ranks that have to be whole on chip, with the size of their middle part."""
    out = {}
    for g in found.groups:
        if len(g.einsums) > 1:
            ranks = {v[0].upper() + v[1:] for e in g.einsums for v in e.variables}
            for rank in ranks - set(g.fused) - {g.iterated}:
                out[rank] = found.sizes[rank] // found.spatial[rank]
    return out


def _layout(found: Draft) -> Layout:
    batch = tuple(b for b in BATCH_RANKS if b in found.sizes and b not in found.cascade.rank_names)
    return lower(found.cascade, found.chip, write(found), batch)


def _settled(found: Draft, layout: Layout) -> SizeTable:
    return settle(layout, found.cascade, found.sizes, found.chip, write(found))


def _fits(found: Draft, layout: Layout) -> bool:
    sizes = _settled(found, layout)
    word = found.chip.word_bytes
    return all(
        occupancy(layout, memory, sizes) * word <= found.chip.memories[memory].capacity_bytes
        for memory in shared_memories(found.chip)
    )


def _narrower(found: Draft, whole: Mapping[str, int]) -> Draft | None:
    """Return the draft with the widest spatial tile of a rank that is not held whole made narrower, or None."""
    free = [r for r in found.ranks if r not in whole and found.spatial[r] > 1]
    if not free:
        return None
    rank = max(free, key=lambda r: found.spatial[r])
    smaller = [d for d in divisors(found.sizes[rank]) if d < found.spatial[rank]]
    return replace(found, spatial={**found.spatial, rank: smaller[-1]})


def _traffic(found: Draft, layout: Layout) -> float:
    sizes = _settled(found, layout)
    moved = (run(use, sizes) for use in layout.uses if use.memory == found.chip.outermost)
    return float(sum(u.reads + u.updates for u in moved))


def _grown(found: Draft, layout: Layout, whole: frozenset[str]) -> Draft:
    """Grow one middle part at a time: the one that saves the most traffic for what it adds."""
    best = _traffic(found, layout)
    iterated = {g.iterated for g in found.groups}
    while True:
        steps = []
        for rank in found.ranks:
            if rank in whole or rank in iterated:
                continue
            for larger in _larger(found, rank)[:3]:
                trial = replace(found, buffered={**found.buffered, rank: larger})
                if not _fits(trial, layout):
                    break
                steps.append((_traffic(trial, layout), trial))
        if not steps:
            return found
        traffic, trial = min(steps, key=lambda s: s[0])
        if traffic >= best or math.isclose(traffic, best, rel_tol=1e-12):
            return found
        best, found = traffic, trial


def _larger(found: Draft, rank: str) -> tuple[int, ...]:
    whole = found.sizes[rank] // found.spatial[rank]
    return tuple(d for d in divisors(whole) if d > found.buffered[rank])
