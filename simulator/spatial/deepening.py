"""Registers of elements put to use: a small tile of each operand in every element, instead of a word.

A word that an element keeps serves all points of its tile that need it: an element with a tile of 4 x 4 sums asks for a
word of A once for four products. That comes last, as a change of a mapping that the search has found: some steps of the
loops closest to an Einsum's array move inside its elements. What lies on the axes, what the memories outside hold and
what Einsums hand to each other stay as they are, so that nothing of it has to be searched again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from mappings.binding import SpatialMapping
from mappings.loopnest import EinsumLoops, LoopNest

from ..hardware.model import SpatialChip
from .access import words
from .factors import divisors
from .nest import Operand, SizeTable
from .operands import operands_of
from .programs import tile_of

# Tiles of an Einsum that are simulated, those that ask for the fewest words first.
_TRIED = 4
# Tiles of an Einsum that are compared beforehand.
_MOST_TILES = 1024


@dataclass(frozen=True, slots=True)
class _Site:
    """An Einsum whose elements have room, and the loops that may move into them.

    Attributes:
        memory: the registers.
        around: the memory at which the loops stand.
        room: words of an element's registers.
        order: the loops at `around`, outermost first.
        steps: of the parts of `order` that may be cut.
        wholes: by part of `order`, the rank that it is of.
        kept: the operands that have a register.
        sizes: of every rank, as a selection makes all of one at a time.
        alone: whether the order of the loops is free, as no other Einsum shares them.
    """

    einsum: Einsum
    memory: str
    around: str
    room: float
    order: tuple[str, ...]
    steps: Mapping[str, int]
    wholes: Mapping[str, str]
    kept: tuple[Operand, ...]
    sizes: Mapping[str, int]
    alone: bool


def deepened(
    cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip, mapping: SpatialMapping, einsum: str
) -> Iterator[SpatialMapping]:
    """Yield the mapping with tiles of an Einsum's operands in the registers of elements, the most promising first.

    Args:
        sizes: of every rank and of the parts of those that the cascade splits.
    """
    site = _site(cascade, sizes, chip, mapping, einsum)
    if site is None:
        return
    plain = _asked(site, site.order, {})
    better = sorted((t for t in _tiles(site) if t[0] < plain), key=lambda t: t[0])
    for _, order, tile in better[:_TRIED]:
        yield _with_tile(mapping, site, order, tile)


def _site(
    cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip, mapping: SpatialMapping, name: str
) -> _Site | None:
    """Return what there is to know of an Einsum's registers; None where no loop can move into them."""
    placed = {e: (array, phase) for e, array, phase in mapping.binding.placements()}
    if name in mapping.nest.recompute:
        return None  # a copy is cheap, or it would not be made
    array, phase = placed[name]
    levels = chip.hierarchy(array)
    memory = next((m for m in reversed(levels) if chip.memories[m].per_element), None)
    loops = mapping.nest.nests[name]
    around = next((m for m in reversed(levels) if loops.time.get(m)), None)
    if memory is None or around is None or memory == around:
        return None
    einsum = cascade.einsum(name)
    kept = tuple(o for o in operands_of(einsum) if mapping.binding.keeps(memory, name, o.tensor))
    room = chip.memories[memory].capacity_bytes / chip.word_bytes
    others = [e for e, (_, where) in placed.items() if where == phase and e != name]
    shared = {p for e in others for of in mapping.nest.nests[e].time.values() for p in of}
    wholes = {p: r for r, parts in mapping.nest.split.items() for p in parts}
    order = tuple(loops.time[around])
    of = {p: wholes.get(p, p) for p in order}
    steps = {
        p: _steps(p, of[p], mapping.nest, sizes)
        for p in order
        if p not in shared and of[p] not in _split_by(cascade) and of[p] in sizes
    }
    steps = {p: n for p, n in steps.items() if n > 1}
    if not steps or sum(words(tile_of(o, {}), SizeTable(sizes)) for o in kept) >= room:
        return None
    return _Site(einsum, memory, around, room, order, steps, of, kept, sizes, not others)


def _split_by(cascade: Cascade) -> set[str]:
    """Return the ranks that the cascade itself splits, and their parts: their loops stand where it says."""
    return {r for whole, parts in cascade.splits.items() for r in (whole, *parts)}


def _steps(part: str, rank: str, nest: LoopNest, sizes: Mapping[str, int]) -> int:
    """Return the steps of a part of a rank; of the outermost one, those that are left."""
    parts = nest.split.get(rank, (rank,))
    if part != parts[0]:
        return int(nest.sizes[part])
    return -(-sizes[rank] // math.prod(int(nest.sizes[p]) for p in parts[1:]))


def _tiles(site: _Site) -> Iterator[tuple[float, tuple[str, ...], dict[str, int]]]:
    """Yield the words that are asked for with each tile that fits, the order of the loops around it, and the tile."""
    orders = dict.fromkeys([site.order, *(_moved(site.order, p) for p in site.order if site.alone)])
    for tile in itertools.islice(_fitting(site, tuple(site.steps), {}), _MOST_TILES):
        for order in orders:
            if tile or order != site.order:
                yield _asked(site, order, tile), order, tile


def _fitting(site: _Site, parts: Sequence[str], tile: dict[str, int]) -> Iterator[dict[str, int]]:
    """Yield the tiles that fit and are as given but for some parts: a longer tile of one takes more words."""
    if not parts:
        yield tile
        return
    for n in divisors(site.steps[parts[0]]):
        longer = {**tile, parts[0]: n} if n > 1 else tile
        if sum(_words(site, o, longer) for o in site.kept) > site.room:
            return
        yield from _fitting(site, parts[1:], longer)


def _moved(order: Sequence[str], part: str) -> tuple[str, ...]:
    """Return the loops with one of them innermost."""
    return (*(p for p in order if p != part), part)


def _words(site: _Site, operand: Operand, tile: Mapping[str, int]) -> float:
    """Return the words of an operand in a tile."""
    inside: dict[str, list[str]] = {}
    for part in tile:
        inside.setdefault(site.wholes[part], []).append(part)
    within = {v: tuple(inside.get(rank_of(v), ())) for v in site.einsum.variables}
    return float(words(tile_of(operand, within), SizeTable({**site.sizes, **tile})))


def _asked(site: _Site, order: Sequence[str], tile: Mapping[str, int]) -> float:
    """Return the words that an element asks for, for each point: a tile stays while loops that do not move it run."""
    total = 0.0
    points = math.prod(tile.values())
    for o in site.kept:
        moving = {rank_of(v) for v in o.variables}
        stays = 1.0
        for part in reversed(order):
            left = site.steps.get(part, 1) // tile.get(part, 1)
            if site.wholes[part] in moving and (left > 1 or part not in site.steps):
                break
            stays *= left
        times = 2.0 if o.output else 1.0  # a sum is read and written
        total += times * _words(site, o, tile) / points / stays
    return total


def _with_tile(
    mapping: SpatialMapping, site: _Site, order: Sequence[str], tile: Mapping[str, int]
) -> SpatialMapping:
    """Return a mapping with some steps of the loops of an Einsum inside its elements."""
    nest = mapping.nest
    split, given = dict(nest.split), dict(nest.sizes)
    parts: dict[str, tuple[str, ...]] = {}  # by part as it was, what stands in its place
    for rank in dict.fromkeys(site.wholes[p] for p in tile):
        old = nest.split.get(rank, (rank,))
        many = sum(2 if p in tile else 1 for p in old)
        names = iter([f"{rank}_{i}" for i in range(many - 1, -1, -1)])
        parts |= {p: tuple(itertools.islice(names, 2 if p in tile else 1)) for p in old}
        stated = {p: given.pop(p) for p in old if p in given}
        split[rank] = tuple(new for p in old for new in parts[p])
        given |= {parts[p][0]: int(n) // tile.get(p, 1) for p, n in stated.items()}
        given |= {parts[p][1]: tile[p] for p in old if p in tile}
    nests = {e: _renamed(loops, parts) for e, loops in nest.nests.items()}
    mine = nests[site.einsum.name]
    time = {
        **mine.time,
        site.around: tuple(parts.get(p, (p,))[0] for p in order),
        site.memory: (*mine.time.get(site.memory, ()), *(parts[p][1] for p in order if p in tile)),
    }
    nests[site.einsum.name] = EinsumLoops(time, mine.space)
    hold = {
        phase: {m: {t: _all(of, parts) for t, of in tensors.items()} for m, tensors in memories.items()}
        for phase, memories in mapping.binding.hold.items()
    }
    return replace(
        mapping,
        nest=replace(nest, split=split, sizes=given, nests=nests, outer=_all(nest.outer, parts)),
        binding=replace(mapping.binding, hold=hold),
    )


def _renamed(loops: EinsumLoops, parts: Mapping[str, tuple[str, ...]]) -> EinsumLoops:
    time = {memory: _all(of, parts) for memory, of in loops.time.items()}
    return EinsumLoops(time, tuple(" ".join(_all(axis.split(), parts)) for axis in loops.space))


def _all(names: Sequence[str], parts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return some parts with what stands in their place."""
    return tuple(new for name in names for new in parts.get(name, (name,)))
