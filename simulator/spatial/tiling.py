"""The tiles of a placed block: every choice at once, what fits, and the best of it; which tiles: see candidates.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .candidates import Allowed, around, candidates, finer, grid_of, smallest, thinned
from .ledger import Built, Ledger
from .nest import Count
from .placement import Placed

_MOST_TIES = 16
# What is no worse than this on a thinned grid may be better than the best so far on the whole one.
_HOPE = 1.1
# Objective, traffic and energy: smaller is better, in this order.
Merit: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Tiled:
    """A placed block with its tiles.

    Attributes:
        merit: those of several blocks add up.
        tiles: the tile of each rank at home, in elements, and as `P@HBM` that on a shelf or a bench; it may reach
            beyond the end of the rank.
    """

    merit: Merit
    placed: Placed
    tiles: Mapping[str, int]

    def cuts(self, rank: str) -> tuple[int, ...]:
        """Return the sizes at which a rank is cut: all its tiles, and what lies on axes; largest first."""
        whole = self.placed.sizes[rank]
        outer = (min(n, whole) for n in reversed(self.placed.outer(rank, self.tiles)))
        inner = (min(n, whole) for n in self.placed.inner(rank, self.tiles))
        tile, *axes = self.placed.cuts(rank, self.tiles[rank])
        return (*outer, tile, *inner, *axes)


def best_tiles(
    placed: Placed,
    objective: str,
    *,
    built: Built,
    allowed: Allowed | None = None,
    limit: Merit | None = None,
) -> tuple[Tiled | None, float]:
    """Return the best of all tiles of a placed block, and what smaller steps could reach at most.

    All combinations of candidates are counted at once. Where these are too many, each rank keeps an even choice of
    them, the ends among them; then all between the neighbours of the best are.

    Args:
        placed: the block.
        objective: `latency_s`, `traffic_bytes` or `energy_j`; ties go to the less traffic, then to the less energy.
        built: what was built before, added to.
        allowed: leaves out tiles.
        limit: only what is better counts.

    Returns:
        The tiles, or None where nothing fits or is better than the limit; a bound on the objective (0: unknown).
    """
    ledger = Ledger(placed, built)
    lists = candidates(placed, allowed)
    if lists is None or not ledger.fits(ledger.table(smallest(placed))):
        return None, math.inf
    found, bound = best_among(ledger, lists, objective, limit)
    if found is not None and ledger.refused(found.tiles):
        even = candidates(placed, allowed, uneven=False)
        found = None if even is None else _best_of(ledger, thinned(even), objective, limit)[0]
    if found is not None and limit is not None and found.merit[:2] > limit[:2]:
        return None, bound
    return found, bound


def best_among(
    ledger: Ledger, lists: Mapping[str, Sequence[int]], objective: str, limit: Merit | None
) -> tuple[Tiled | None, float]:
    """Return the best of all combinations of some tiles, thinned out where there are too many, and the bound."""
    thin = thinned(lists)
    loose = (limit[0] * _HOPE, math.inf, math.inf) if thin != lists and limit else limit
    found, bound = _best_of(ledger, thin, objective, loose)
    if found is not None and thin != lists:
        nearby = {r: around(found.tiles[r], thin[r], lists[r]) for r in lists}
        better, _ = _best_of(ledger, thinned(nearby), objective, found.merit)
        found = better or found
    return found, bound


def refined(
    placed: Placed,
    near: Mapping[str, int],
    limit: Merit,
    objective: str,
    *,
    built: Built,
    allowed: Allowed | None = None,
) -> Tiled | None:
    """Return tiles better than a limit, those between the candidates next to some tiles among them; None for none."""
    lists = finer(placed, near, allowed)
    if lists is None:
        return None
    ledger = Ledger(placed, built)
    better, _ = _best_of(ledger, thinned(lists), objective, limit)
    return None if better is None or better.merit >= limit or ledger.refused(better.tiles) else better


def shortage(placed: Placed, built: Built) -> tuple[float, str]:
    """Return the share by which the smallest tiles exceed a memory, and in words what is missing where."""
    ledger = Ledger(placed, built)
    sizes = ledger.table(smallest(placed))
    found = [(0.0, "")]
    for name, memory in placed.chip.memories.items():
        if not memory.of and memory.capacity_bytes < math.inf:
            held = float(ledger.held(name, sizes)) * placed.chip.word_bytes
            said = f"the smallest tiles take {held:,.0f} bytes of {name}, which holds {memory.capacity_bytes:,.0f}"
            found.append((held / memory.capacity_bytes, said))
    return max(found)


def thriftiest(
    placed: Placed,
    limit: tuple[float, float],
    *,
    built: Built,
    allowed: Allowed | None = None,
) -> Tiled | None:
    """Return the tiles of a placed block with the least product of energy and delay within a latency and traffic."""
    ledger = Ledger(placed, built)
    lists = candidates(placed, allowed)
    if lists is None or not ledger.fits(ledger.table(smallest(placed))):
        return None
    grid = grid_of(thinned(lists))
    cost = ledger.cost(ledger.table(grid))
    counts = (cost.latency_s, cost.traffic_bytes, cost.fits)
    spread = np.broadcast_arrays(*grid.values(), *counts)
    tiles = dict(zip(grid, spread, strict=False))
    latency, traffic, fits = spread[len(grid) :]
    chosen = np.flatnonzero((fits & (latency <= limit[0]) & (traffic <= limit[1])).ravel())
    if not chosen.size:
        return None
    points = {r: v.ravel()[chosen] for r, v in tiles.items()}
    delay = latency.ravel()[chosen]
    energy = np.broadcast_to(ledger.energy_j(ledger.table(points), delay), delay.shape)
    best = int(np.argmin(energy * delay))
    if ledger.refused({r: int(v[best]) for r, v in points.items()}):
        return None
    merit = (float(delay[best]), float(traffic.ravel()[chosen][best]), float(energy[best]))
    return Tiled(merit, placed, {r: int(v[best]) for r, v in points.items()})


def _best_of(
    ledger: Ledger, lists: Mapping[str, Sequence[int]], objective: str, limit: Merit | None
) -> tuple[Tiled | None, float]:
    """Return the best of all combinations of some tiles, all counted at once, and the bound for smaller steps."""
    grid = grid_of(lists)
    sizes = ledger.table(grid)
    cost = ledger.cost(sizes)
    shape = np.broadcast_shapes(*(np.shape(v) for v in grid.values()), np.shape(cost.fits))

    def at(count: Count, chosen: Any) -> Any:
        return np.broadcast_to(count, shape).ravel()[chosen]

    legal = np.flatnonzero(at(cost.fits, slice(None)))
    bound = 0.0
    if objective != "energy_j":
        value = getattr(cost, objective)
        bound = float(np.min(value))
        if not legal.size or at(value, legal).min() > bound:
            loose = at(value, at(ledger.fits(sizes, loose=True), slice(None)))
            bound = float(loose.min(initial=math.inf))
        for count in (value, cost.traffic_bytes):
            if legal.size:
                found = at(count, legal)
                legal = legal[found <= found.min() * (1 + 1e-12)]
        legal = legal[-_MOST_TIES:]  # the largest tiles
        if legal.size and limit is not None:
            first = int(legal[0])
            if (float(at(value, first)), float(at(cost.traffic_bytes, first))) > limit[:2]:
                return None, bound
    if not legal.size:
        return None, bound
    points = {r: np.ascontiguousarray(at(v, legal)) for r, v in grid.items()}
    latency, traffic = at(cost.latency_s, legal), at(cost.traffic_bytes, legal)
    energy = np.broadcast_to(ledger.energy_j(ledger.table(points), latency), legal.shape)
    first_of = {"latency_s": latency, "traffic_bytes": traffic, "energy_j": energy}[objective]
    best = int(np.lexsort((energy, traffic, first_of))[0])
    merit = (float(first_of[best]), float(traffic[best]), float(energy[best]))
    return Tiled(merit, ledger.placed, {r: int(v[best]) for r, v in points.items()}), bound
