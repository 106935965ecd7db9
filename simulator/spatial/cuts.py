"""Tiles that do not divide their rank: the last one is shorter, and every count stays exact.

P = 1000 in tiles of 300 makes 4 tiles, the last one of 100. A tile of 300 has to find room; everything that is counted
grows linearly with the size of a tile, so that the 4 tiles count as much as 4 tiles of their mean size, 250. With
several such ranks the tiles of one are the same in all tiles of the other, and the means multiply.

What is not linear is refused: a tile on an axis of an array, whose steps are as many as the longest tile takes; loops
inside a tile that stand outside the loop over the tiles; a mask over the rank, which leaves points here and not there;
a memory that spills; a last tile of one step, during which an operand stays that would else be fetched anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from einsum_cascade.errors import MappingError

from .access import Usage, words
from .lowering import Layout
from .nest import Count, Nest, SizeTable
from .programs import Tile, Trips, Use


@dataclass(frozen=True, slots=True)
class Cut:
    """A rank whose last tile is shorter than the others.

    Attributes:
        outer: the part that counts the tiles, the outermost one.
        part: the part next to it: the steps of a tile.
        full: steps of a tile.
        mean: steps of a tile on average, the last one included.
        last: steps of the last tile.
    """

    whole: str
    outer: str
    part: str
    full: Count
    mean: Count
    last: Count


def cut(known: Mapping[str, Count], whole: str, parts: Sequence[str], where: str) -> Cut:
    """Return how a rank is cut into tiles of which the last one is shorter.

    Args:
        known: the size of the rank, and of all its parts but the outermost.
        whole: the rank.
        parts: its parts, outermost first.
        where: what stands before an error.

    Raises:
        MappingError: the steps of a tile do not divide the rank, or the tile is larger than the rank.
    """
    outer, part, *inside = parts
    step: Count = 1
    for p in inside:
        step = step * known[p]
    shown, size = " * ".join((part, *inside)), known[part] * step
    refused = f"{where}: {shown} = {size} does not divide {whole} = {known[whole]}"
    if _any(known[whole] % step != 0):
        raise MappingError(
            f"{refused}; the last tile may be shorter where {' * '.join(inside)} divides it, which is {step}"
        )
    if _any(size > known[whole]):
        raise MappingError(f"{refused}; a tile may be as large as its rank")
    steps = known[whole] // step
    tiles = -(-steps // known[part])
    mean = steps / tiles if isinstance(tiles, np.ndarray) else _whole(Fraction(steps, tiles))
    return Cut(whole, outer, part, known[part], mean, steps - (tiles - 1) * known[part])


def with_cuts(sizes: Mapping[str, Count], cuts: Sequence[Cut]) -> SizeTable:
    """Return a table that counts with the mean of tiles, and weighs what is held by the full ones."""
    return with_means(_doubles(sizes), _doubles({c.part: c.mean for c in cuts}))


def with_means(sizes: Mapping[str, Count], means: Mapping[str, Count]) -> SizeTable:
    """Return a table of sizes, of which some are the mean of what varies from tile to tile."""
    found = SizeTable({**sizes, **means})
    if means:
        found.full = SizeTable(sizes)
    return found


def _doubles(sizes: Mapping[str, Count]) -> dict[str, Count]:
    # Doubles hold every count below 2^53 exactly, and do not overflow where 64-bit integers would wrap.
    return {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in sizes.items()}


def check_cuts(layout: Layout, sizes: SizeTable, cuts: Sequence[Cut], where: str) -> None:
    """Refuse what would not be counted exactly.

    Raises:
        MappingError: names the rank, and what is accepted.
    """
    full = {k: v for k, v in sizes.full.items() if isinstance(k, str)}
    last = {**full, **{c.part: c.last for c in cuts}}
    for c in cuts:
        refused = (
            f"{where}: {c.part} cuts {c.whole} = {sizes[c.whole]} into {sizes[c.outer]} tiles, "
            "the last one shorter"
        )
        for nest in layout.nests:
            _check_nest(nest, c, refused)
        for name, live in layout.live.items():
            if live.whole is not None and {c.part, c.outer}.intersection(live.whole.own):
                raise MappingError(f"{refused}; {name} has a `where` over it, so all parts have to divide it")
        for use in layout.uses:
            if not all(_linear(tile, c, others) for tile in _counted(use) for others in (full, last)):
                raise MappingError(
                    f"{refused}; what {use.operand.tensor} shows of its window does not grow evenly with them: a tile "
                    "has to divide the rank"
                )
    single = {c.part for c in cuts if _any((c.last == 1) & (full[c.part] > 1))}
    for use in layout.uses if single else ():
        for trips in (use.inner,) if use.outermost else (use.inner, use.outer):
            stays = _stays(trips, single, sizes.full)
            if stays:
                raise MappingError(
                    f"{where}: {stays}: the last tile has one step, during which {use.operand.tensor} would stay in "
                    f"{use.memory}; take a tile of another size"
                )


def _check_nest(nest: Nest, c: Cut, refused: str) -> None:
    wide = {loop.part for loop in nest.space}
    order = [loop.part for loop in nest.time]
    if wide & {c.part, c.outer}:
        raise MappingError(
            f"{refused}; in {nest.einsum} they lie on an axis of {nest.array}, where parts have to divide it"
        )
    if c.part in order and order.index(c.outer) > order.index(c.part):
        raise MappingError(
            f"{refused}; in {nest.einsum} the loop over {c.part} stands outside that over {c.outer}: put it inside"
        )


def _counted(use: Use) -> list[Tile]:
    """Return the tiles whose words are counted."""
    found = [use.brought] if not use.outermost else []
    found += [use.below] if use.below is not None else []
    return [*found, use.whole] if use.spares_reads or use.spares_fills else found


def _linear(tile: Tile, c: Cut, others: Mapping[str, Count]) -> bool:
    """Tell whether a tile grows linearly from the last size to the full one, for some sizes of other parts.

    A window has the smaller of its span and its points, both of which are linear: the same one has to be it at both.
    So has what is gathered: its points, or all that the tensor has.
    """
    windows = [loops for terms in tile.coupled for loops, _ in terms] + [loops for loops, _ in tile.gathered]
    if not any(c.part in loops and c.outer not in loops for loops in windows):
        return True
    short, middle, long = (
        words(tile, SizeTable({**others, c.part: size})) for size in (c.last, (c.last + c.full) / 2, c.full)
    )
    return not _any(abs((short + long) / 2 - middle) > 1e-9 * middle)


def _stays(trips: Trips, single: Iterable[str], sizes: SizeTable) -> str:
    """Return the part whose single step lets a tile stay while other loops run; empty where none does.

    A tile stays during the innermost loops that do not move it. Where the loop outside of those has one step in the
    last tile, the loops beyond it belong to them as well, up to the next one that moves it.
    """
    if trips.all is not None:
        return ""
    found = ""
    for part, moves in trips.loops:
        several = _any(sizes[part] > 1)
        if moves and several and part not in single:
            return ""
        if moves and part in single:
            found = part
        elif found and several:
            return found
    return ""


def exact(usage: Usage) -> Usage:
    """Return a usage with whole numbers where fractions of tiles add up to them."""
    return usage._replace(
        reads=_whole(usage.reads),
        fills=_whole(usage.fills),
        updates=_whole(usage.updates),
        elided=_whole(usage.elided),
    )


def _whole(value: Count) -> Count:
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def _any(truth: Any) -> bool:
    return bool(np.any(truth))
