"""Blocks with their tiles -> a mapping, as a file can say it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.sizes import BATCH_RANKS
from mappings.binding import ALL, Binding, Kept, SpatialMapping, Step
from mappings.loopnest import Copy, EinsumLoops, LoopNest

from .ledger import loops
from .placement import in_series
from .tiling import Tiled


def boundaries(blocks: Sequence[Tiled]) -> dict[str, set[int]]:
    """Return, by rank, the tile sizes that some block uses, in memory or on the axes."""
    out: dict[str, set[int]] = {}
    for b in blocks:
        for rank in b.placed.block.ranks:
            out.setdefault(rank, set()).update(b.cuts(rank))
    return out


def write(cascade: Cascade, sizes: Mapping[str, int], blocks: Sequence[Tiled], name: str) -> SpatialMapping:
    """Return the mapping that some blocks, one a phase, make together.

    A rank is cut at every tile size that a block uses; the sizes of one rank divide each other.
    """
    chip = blocks[0].placed.chip
    cuts = {
        rank: sorted(found - {1, sizes[rank]})
        for rank, found in boundaries(blocks).items()
        if rank not in cascade.splits
    }
    split = {r: tuple(f"{r}_{i}" for i in range(len(at), -1, -1)) for r, at in cuts.items() if at}
    given: dict[str, str | int] = {}
    for rank, parts in split.items():
        steps = [b // a for a, b in itertools.pairwise((1, *cuts[rank]))]
        given |= dict(zip(parts[1:], reversed(steps), strict=True))
    for parts in cascade.splits.values():
        given |= {p: sizes[p] for p in parts[1:] if p in sizes}
    nests: dict[str, EinsumLoops] = {}
    keep: dict[str, dict[str, tuple[str, ...]]] = {}
    hold: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}
    phases: dict[str, tuple[Step, ...]] = {}
    copies: dict[str, Copy] = {}
    for number, b in enumerate(blocks, start=1):
        placed, block = b.placed, b.placed.block
        for e in block.einsums:
            nests[e.name] = _loops(e, b, cuts)
        for memory, by_einsum in placed.keep.items():
            keep.setdefault(memory, {}).update(by_einsum)
        stated = {
            placed.home: placed.hold,
            **{bench.memory: placed.on_bench(bench) for bench in placed.benches},
        }
        waiting = {
            memory: {
                tensor: tuple(p for rank, how in extent.items() for p in _extent(rank, how, b, cuts))
                for tensor, extent in extents.items()
            }
            for memory, extents in stated.items()
            if extents
        }
        for shelf in placed.shelves:
            if shelf.whole:
                waiting[shelf.memory] = {t: _whole(t, cascade, sizes, cuts) for t in shelf.whole}
        if waiting:
            hold[f"phase_{number}"] = waiting
        phases[f"phase_{number}"] = _steps(b)
        copies |= block.copies
    batch = tuple(b for b in BATCH_RANKS if b not in cascade.rank_names)
    nest = LoopNest(cascade.name, nests, split, given, batch, copies)
    kept = keep if any(b.placed.home for b in blocks) else {m: _plain(of, blocks) for m, of in keep.items()}
    return SpatialMapping(nest, Binding(kept, phases, hold=hold, hardware=chip.name), name)


def _plain(kept: Mapping[str, tuple[str, ...]], blocks: Sequence[Tiled]) -> Kept:
    """Return what a memory keeps in a word where that is all that its Einsums touch."""
    touched = {e.name: {e.name, *(a.tensor for a in e.reads)} for b in blocks for e in b.placed.block.einsums}
    return ALL if all(touched[e] <= set(tensors) for e, tensors in kept.items()) else kept


def _pieces(rank: str, low: int, high: int, whole: int, cuts: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the parts of a rank between two tile sizes, outermost first."""
    at = cuts.get(rank, ())
    if not at:
        return [rank] if low < high else []
    edges = (1, *at, whole)
    found = [f"{rank}_{i}" for i, (a, b) in enumerate(itertools.pairwise(edges)) if low <= a and b <= high]
    return found[::-1]


def _span(rank: str, level: str, b: Tiled) -> tuple[int, int]:
    """Return the tile sizes between which a loop of a block steps."""
    tile, step, *narrower = b.placed.cuts(rank, b.tiles[rank])
    kind, _, extent = level.partition(".")
    whole = b.placed.sizes[rank]
    if kind == "1":
        steps = (tile, *(min(n, whole) for n in b.placed.inner(rank, b.tiles)), step)
        at = b.placed.steps[rank].index(f"{rank}.{level}")
        return steps[at + 1], steps[at]
    if extent:
        width = narrower[b.placed.extents[rank][1:].index(int(extent))]
        return (width, step) if kind == "turns" else (1, width)
    edges = (1, step, tile, *(min(n, whole) for n in b.placed.outer(rank, b.tiles)), whole)
    return edges[int(level)], edges[int(level) + 1]


def _loops(einsum: Einsum, b: Tiled, cuts: Mapping[str, Sequence[int]]) -> EinsumLoops:
    placed = b.placed
    sizes = placed.sizes

    def parts(rank: str, loop: str) -> list[str]:
        _, dot, level = loop.partition(".")
        return _pieces(rank, *_span(rank, level, b), sizes[rank], cuts) if dot else [rank]

    around, axes = loops(placed, einsum)
    time = {
        memory: tuple(p for rank, loop in found for p in parts(rank, loop))
        for memory, found in around.items()
    }
    space = tuple(" ".join(parts(rank, loop)) for rank, loop in axes)
    single = tuple(r for r in placed.block.ranks if sizes[r] == 1 and variable_of(r) in einsum.variables)
    innermost = placed.home or placed.chip.outermost
    return EinsumLoops({**time, innermost: (*time[innermost], *single)}, space)


def _extent(rank: str, how: int, b: Tiled, cuts: Mapping[str, Sequence[int]]) -> list[str]:
    if rank not in b.tiles:
        return [rank]
    tile, step, *_ = b.placed.cuts(rank, b.tiles[rank])
    top = (step, tile, b.placed.sizes[rank])[how]
    return _pieces(rank, 1, top, b.placed.sizes[rank], cuts)


def _whole(
    tensor: str, cascade: Cascade, sizes: Mapping[str, int], cuts: Mapping[str, Sequence[int]]
) -> tuple[str, ...]:
    """Return all ranks of a tensor, in the parts in which loops have them."""
    batch = (b for b in BATCH_RANKS if b in sizes and b not in cascade.rank_names)
    ranks = cascade.signatures[tensor].ranks
    return (*batch, *(p for r in ranks for p in _pieces(r, 1, sizes[r], sizes[r], cuts)))


def _steps(b: Tiled) -> tuple[Mapping[str, tuple[str, ...]], ...]:
    """Return the lanes of one step, or a step for each Einsum where nothing lets them run side by side."""
    placed = b.placed
    if in_series(placed.block):
        return tuple({placed.arrays[e.name]: (e.name,)} for e in placed.block.einsums)
    lanes: dict[str, tuple[str, ...]] = {}
    for e in placed.block.einsums:
        array = placed.arrays[e.name]
        lanes[array] = (*lanes.get(array, ()), e.name)
    return (lanes,)
