"""A memory inside the home of a block put to use: smaller tiles of what the home keeps, or what passes in a step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..hardware.model import SpatialChip
from .candidates import Lists, orders_of
from .factors import divisors
from .ledger import Built, Ledger
from .placement import STEP, Placed
from .search import dividing
from .shelf import Bench, tile_at
from .tiling import Tiled, best_among

# All sets of tensors are tried up to so many, beyond that each is added once where that is better.
_MOST_TENSORS = 3


@dataclass(slots=True)
class Benching:
    """A block on a chip with one memory more, inside all that it uses.

    Attributes:
        chip: with the memory.
        cuts: the sizes at which other blocks cut ranks.
    """

    tiled: Tiled
    chip: SpatialChip
    memory: str
    objective: str
    cuts: Mapping[str, set[int]]
    evaluated: int = 0
    built: Built = field(default_factory=dict)

    def best(self) -> Tiled:
        """Return the best use of the memory, or the block without it."""
        before = self.tiled.placed
        plain = replace(before, chip=self.chip)
        lists: Lists = {name: (tile,) for name, tile in self.tiled.tiles.items()}
        found, _ = best_among(Ledger(plain, self.built), lists, self.objective, None)
        best = found or replace(self.tiled, placed=plain)
        if not before.home or self.memory == before.home:
            return best
        for tiles in self._tiles():
            for order in self._orders():
                for only in dict.fromkeys((frozenset(), self._passing())):
                    best = self._kept(tiles, order, only, best)
        return best

    @property
    def _alone(self) -> bool:
        return len(self.tiled.placed.block.einsums) == 1

    def _passing(self) -> frozenset[str]:
        """Return what passes between Einsums within a step, where the memory serves them all."""
        if self.chip.memories[self.memory].of:
            return frozenset()
        placed = self.tiled.placed
        exchanged = {t for of in placed.exchanged.values() for t in of}
        shared = set(placed.block.shared)
        return frozenset(
            t
            for t, extent in placed.hold.items()
            if t in placed.block.by_name
            and t not in exchanged
            and shared & extent.keys()
            and all(extent[r] == STEP for r in shared & extent.keys())
        )

    def _orders(self) -> Iterator[tuple[str, ...]]:
        """Yield orders of the loops around the tiles; empty for those of a tile."""
        placed = self.tiled.placed
        yield ()
        if self._alone and not placed.block.iterated:
            yield from orders_of(placed.block.ranks, placed.sizes)

    def _tiles(self) -> Iterator[Lists]:
        """Yield the tiles that are looked at together.

        Einsums share the loops over steps. Either those are cut and the ranks of single Einsums are not, or each step
        is done in parts: the loops of one Einsum else stand between two that others share.
        """
        placed, tiles = self.tiled.placed, self.tiled.tiles
        block = placed.block
        every = {r: self._parts(r) for r in block.ranks}
        names = {r: tile_at(self.memory, r) for r in block.ranks}
        known: Lists = {name: (tile,) for name, tile in tiles.items()}
        if self._alone:
            yield {**known, **{names[r]: found for r, found in every.items()}}
            return
        for shared in (True, False):
            cut = {
                r: of if (r in block.shared) == shared else (of[-1:] if shared else of[:1])
                for r, of in every.items()
            }
            if any(len(of) > 1 for of in cut.values()):
                yield {**known, **{names[r]: found for r, found in cut.items()}}

    def _parts(self, rank: str) -> tuple[int, ...]:
        """Return the tiles of a rank in the memory: whole steps that cut the next tile outside evenly."""
        placed, tiles = self.tiled.placed, self.tiled.tiles
        whole = placed.sizes[rank]
        tile = (tiles[rank], *placed.inner(rank, tiles))[-1]
        step = int(placed.widths(rank, tiles[rank])[0])
        found = [step * n for n in divisors(tile // step)]
        allowed = dividing(self.cuts, placed.sizes)
        if whole % tiles[rank]:
            return tuple(dict.fromkeys((found[0], found[-1])))
        return tuple(n for n in found if n in (step, tile) or allowed(rank, (n,)))

    def _kept(self, tiles: Lists, order: tuple[str, ...], only: frozenset[str], best: Tiled) -> Tiled:
        placed = self.tiled.placed
        at_home = placed.keep[placed.home]
        tensors = [t for t in dict.fromkeys(t for of in at_home.values() for t in of) if t not in only]
        if len(tensors) <= _MOST_TENSORS:
            for n in range(len(tensors) + 1):
                for kept in itertools.combinations(tensors, n):
                    best = self._better(tiles, order, only, kept, best)
            return best
        chosen: tuple[str, ...] = ()
        if only:
            best = self._better(tiles, order, only, (), best)
        for tensor in tensors:
            found = self._better(tiles, order, only, (*chosen, tensor), best)
            if found is not best:
                best, chosen = found, (*chosen, tensor)
        return best

    def _better(
        self,
        tiles: Lists,
        order: tuple[str, ...],
        only: frozenset[str],
        kept: Collection[str],
        best: Tiled,
    ) -> Tiled:
        if not kept and not only:
            return best
        self.evaluated += 1
        before = self.tiled.placed
        here = {e.name: self._here(before, e.name, {*kept, *only}) for e in before.block.einsums}
        bench = Bench(self.memory, here, only, order)
        placed = replace(before, chip=self.chip, benches=(*before.benches, bench))
        ledger = Ledger(placed, self.built)
        found, _ = best_among(ledger, tiles, self.objective, best.merit)
        if found is None or found.merit >= best.merit or ledger.refused(found.tiles):
            return best
        return found

    def _here(self, before: Placed, einsum: str, tensors: Collection[str]) -> tuple[str, ...]:
        if self.memory not in self.chip.hierarchy(before.arrays[einsum]):
            return ()
        return tuple(t for t in before.keep[before.home].get(einsum, ()) if t in tensors)


def benches(chip: SpatialChip) -> tuple[str, ...]:
    """Return the memories of single arrays that tiles may be kept in: those that hold a known number of words."""
    return tuple(
        name
        for name, m in chip.memories.items()
        if m.of and not m.per_element and not m.part_of and not m.passes_on and m.capacity_bytes < math.inf
    )
