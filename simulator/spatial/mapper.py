"""The search for a mapping: what is fused, which array does what, which tiles; with the distance to the bound."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from einsum_cascade.analysis.bounds import bounds
from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError, nearest
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from ..result import Estimate
from .default import Draft, draft, narrowest, shared_memories, write
from .groups import group, units
from .model import simulate
from .search import best_tiles

OBJECTIVES = ("latency_s", "energy_j", "traffic_bytes")
_MOST_PARTITIONS = 64


@dataclass(frozen=True, slots=True)
class Found:
    """The best mapping of a search.

    Attributes:
        gap: its traffic over the least traffic that any schedule needs with the chip's shared buffer.
        evaluated: mappings that were simulated.
        seconds: of the search.
    """

    mapping: SpatialMapping
    estimate: Estimate
    gap: float
    evaluated: int
    seconds: float


def find_mapping(
    cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip, *, objective: str = "latency_s"
) -> Found:
    """Return the best mapping that the search finds.

    It goes through the ways to fuse consecutive Einsums, the tiles of iterated ranks, and, from the fastest array
    for each Einsum, moves Einsums to other arrays as long as that helps. Tiles are grown by what saves most traffic.

    Args:
        cascade: the algorithm.
        sizes: by rank, batch ranks included.
        chip: the machine.
        objective: `latency_s`, `energy_j` or `traffic_bytes`; ties go to the less traffic, then to the less energy.

    Raises:
        MappingError: an unknown objective, or nothing fits.
    """
    if objective not in OBJECTIVES:
        raise MappingError(f"unknown objective '{objective}'; {nearest(objective, OBJECTIVES)}")
    begin = time.perf_counter()
    search = _Search(cascade, sizes, chip, objective)
    problem: MappingError | None = None
    best: tuple[tuple[float, ...], Draft, Estimate] | None = None
    for start in _starts(cascade, sizes, chip):
        try:
            found = search.improved(best_tiles(start))
        except MappingError as e:
            problem = e
            continue
        if best is None or found[0] < best[0]:
            best = found
    if best is None:
        raise problem or MappingError(f"{cascade.name} has no Einsums")
    least = least_traffic_bytes(cascade, best[1].sizes, chip)
    return Found(
        write(best[1], "found"),
        best[2],
        best[2].traffic_bytes / least,
        search.evaluated,
        time.perf_counter() - begin,
    )


def least_traffic_bytes(cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip) -> float:
    """Return the bound on traffic to the outermost memory, given the memories inside it."""
    room = sum(chip.memories[m].capacity_bytes for m in shared_memories(chip))
    found = bounds(cascade, sizes, buffer=f"{room:.0f} B", word=f"{chip.word_bytes:.0f} B")
    return float(found.traffic_bytes)


def _starts(cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip) -> Iterator[Draft]:
    """Yield a draft for every way to fuse, and for every tile of iterated ranks worth a try."""
    for parts in _partitions(units(cascade)):
        groups = tuple(group(cascade, part) for part in parts)
        if any(not g.fused and len(g.einsums) > 1 and not g.iterated for g in groups):
            continue
        tiles = (1, 2) if any(g.iterated for g in groups) else (1,)
        for shrink in tiles:
            yield draft(cascade, sizes, chip, groups, widest=max(1, narrowest(chip) // shrink))


def _partitions(found: Sequence[tuple[Einsum, ...]]) -> Iterator[tuple[tuple[Einsum, ...], ...]]:
    """Yield the ways to cut a sequence of units into runs, the least cut ones first."""
    gaps = range(1, len(found))
    cuts = (c for n in range(len(found)) for c in itertools.combinations(gaps, n))
    for cut in itertools.islice(cuts, _MOST_PARTITIONS):
        edges = (0, *cut, len(found))
        yield tuple(tuple(e for u in found[a:b] for e in u) for a, b in itertools.pairwise(edges))
    if 2 ** len(gaps) > _MOST_PARTITIONS:
        yield tuple(found)


class _Search:
    """Counts what was evaluated, and improves one draft at a time."""

    def __init__(self, cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip, objective: str) -> None:
        self.cascade, self.sizes, self.chip, self.objective = cascade, sizes, chip, objective
        self.evaluated = 0

    def improved(self, start: Draft) -> tuple[tuple[float, ...], Draft, Estimate]:
        """Return the draft after moves of single Einsums to other arrays, with its merit and estimate."""
        best = self._judged(start)
        while True:
            moves = []
            for trial in self._moves(best[1]):
                try:
                    moves.append(self._judged(trial))
                except MappingError:
                    continue  # a register file of the other array may be too small
            step = min(moves, key=lambda m: m[0], default=best)
            if step[0] >= best[0]:
                return best
            best = step

    def _moves(self, found: Draft) -> Iterator[Draft]:
        for of in found.groups:
            for e in of.einsums:
                for name, array in self.chip.arrays.items():
                    if name != found.arrays[e.name] and all(a.op in array.ops for a in e.actions):
                        yield replace(found, arrays={**found.arrays, e.name: name})

    def _judged(self, trial: Draft) -> tuple[tuple[float, ...], Draft, Estimate]:
        self.evaluated += 1
        found = simulate(self.cascade, trial.sizes, self.chip, write(trial))
        merit = (float(getattr(found, self.objective)), float(found.traffic_bytes), float(found.energy_j))
        return merit, trial, found
