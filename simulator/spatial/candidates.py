"""Which tiles of a placed block are looked at: divisors, and where those are far apart, ones with a rest."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from .factors import divisor, divisors, parts_of, step
from .masks import cuttable
from .nest import Count
from .placement import Placed

# Points of a grid of tile sizes that are looked at together; a larger grid is thinned out evenly.
MOST_POINTS = 1 << 13
# Divisors that are further apart have tiles with a shorter last one between them; what lies closer is refined later.
_FAR_APART = 4
# All orders of the loops of an Einsum that runs alone are tried up to so many ranks.
_MOST_RANKS = 3
# Whether a rank may be cut at some sizes.
Allowed: TypeAlias = Callable[[str, Sequence[int]], bool]
Lists: TypeAlias = dict[str, Sequence[int]]


def orders_of(ranks: Sequence[str], sizes: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return all orders of loops over ranks, those of one element outermost; none where they are too many.

    >>> orders_of(("M", "P", "B"), {"M": 8, "P": 4, "B": 1})
    (('B', 'M', 'P'), ('B', 'P', 'M'))
    """
    long = [r for r in ranks if sizes[r] > 1]
    if len(long) > _MOST_RANKS:
        return ()
    rest = tuple(r for r in ranks if r not in long)
    return tuple((*rest, *p) for p in itertools.permutations(long))


def candidates(placed: Placed, allowed: Allowed | None, *, uneven: bool = True) -> Lists | None:
    """Return the tiles of each rank that are worth a try; None where a rank has none.

    Args:
        placed: the block.
        allowed: leaves out tiles.
        uneven: whether tiles may be taken that do not divide their rank.
    """
    lists: Lists = {}
    for rank in placed.block.ranks:
        found = _tiles(placed, rank, uneven)
        if allowed is not None:
            found = [t for t in found if allowed(rank, placed.cuts(rank, t))]
        if not found:
            return None
        lists[rank] = found
    return lists


def finer(placed: Placed, tiles: Mapping[str, int], allowed: Allowed | None) -> Lists | None:
    """Return candidates and what lies between the neighbours of the tiles at hand; None where there is nothing.

    All candidates come along, for a larger tile of one rank may ask for a smaller one of another; where these are too
    many, the neighbours alone.
    """
    coarse = candidates(placed, allowed)
    if coarse is None:
        return None
    near: Lists = {}
    between: Lists = {}
    for rank, found in coarse.items():
        near[rank] = around(tiles[rank], found, found) if tiles[rank] in found else (tiles[rank],)
        between[rank] = ()
        if len(near[rank]) > 1 and cuttable(placed.block.given, rank):
            new = (t for t in _uneven(placed, rank) if near[rank][0] < t < near[rank][-1] and t not in found)
            between[rank] = [t for t in new if allowed is None or allowed(rank, placed.cuts(rank, t))]
    if not any(between.values()):
        return None
    both: Lists = {r: tuple(sorted({*coarse[r], *between[r]})) for r in coarse}
    if math.prod(map(len, both.values())) <= MOST_POINTS:
        return both
    return {r: tuple(sorted({*near[r], *between[r]})) for r in coarse}


def smallest(placed: Placed) -> dict[str, int]:
    """Return the smallest tiles: what does not fit with them fits with none."""
    block = placed.block
    return {r: 1 if r in block.order or r == block.stream else whole(placed, r) for r in block.ranks}


def whole(placed: Placed, rank: str) -> int:
    """Return the least tile that is all of a rank, in whole steps of the axis that it lies on."""
    return min(_wholes(placed, rank))


def _wholes(placed: Placed, rank: str) -> tuple[int, ...]:
    size = placed.sizes[rank]
    return tuple(sorted({-(-size // width) * width for width in _widths(placed, rank)}))


def _widths(placed: Placed, rank: str) -> tuple[int, ...]:
    """Return how much of a rank may lie on its longest axis at a time, with as few steps as there can be.

    Where no divisor will do, that is the whole axis, or no more elements than the steps need. The former goes together
    with the steps of any other array.
    """
    size = placed.sizes[rank]
    length = placed.extents[rank][0]  # 1 for what does not lie on an axis
    if not cuttable(placed.block.given, rank):
        return (divisor(size, length),)
    least = step(size, length)
    return (least,) if size % least == 0 else (least, length)


def _tiles(placed: Placed, rank: str, uneven: bool) -> Sequence[int]:
    block, size = placed.block, placed.sizes[rank]
    if block.iterated and rank == block.stream:
        return (1,)
    if rank not in block.order:
        return _wholes(placed, rank) if uneven else (size,)
    found = divisors(size)
    if not uneven or not cuttable(block.given, rank):
        return found
    coarse: set[int] = set()
    for width in _widths(placed, rank):
        steps = -(-size // width)
        fewer = {width * -(-steps // (1 << k)) for k in range(steps.bit_length())}
        coarse |= {t for t in fewer if size % width or _apart(t, found)}
    return tuple(sorted({*found, *coarse})) if coarse else found


def _apart(tile: int, found: Sequence[int]) -> bool:
    """Tell whether the divisors around a tile are far apart."""
    at = bisect.bisect_left(found, tile)
    return 0 < at < len(found) and found[at] > _FAR_APART * found[at - 1] and found[at] != tile


def _uneven(placed: Placed, rank: str) -> set[int]:
    """Return the tiles that cut a rank into each number of tiles, the last one shorter, in whole steps of its axis."""
    size = placed.sizes[rank]
    return {width * steps for width in _widths(placed, rank) for steps in parts_of(-(-size // width))}


def grid_of(lists: Mapping[str, Sequence[int]]) -> dict[str, Count]:
    """Return the candidates, those of each rank along an axis of its own."""
    long = [r for r, found in lists.items() if len(found) > 1]
    out: dict[str, Count] = {r: found[0] for r, found in lists.items()}
    for axis, rank in enumerate(long):
        shape = [1] * len(long)
        shape[axis] = -1
        out[rank] = np.array(lists[rank], dtype=np.int64).reshape(shape)
    return out


def thinned(lists: Mapping[str, Sequence[int]]) -> Lists:
    """Return an even choice of the candidates of each rank, so that their combinations can be looked at together."""
    out: Lists = dict(lists)
    while math.prod(len(v) for v in out.values()) > MOST_POINTS:
        rank = max(out, key=lambda r: len(out[r]))
        out[rank] = (*out[rank][:-1:2], out[rank][-1])
    return out


def around(tile: int, kept: Sequence[int], every: Sequence[int]) -> Sequence[int]:
    """Return the candidates between the neighbours of a tile among those that were kept."""
    at = list(kept).index(tile)
    low, high = kept[max(0, at - 1)], kept[min(len(kept) - 1, at + 1)]
    return [t for t in every if low <= t <= high]
