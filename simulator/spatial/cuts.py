"""Tiles that do not divide their rank: the last one is shorter, and what is counted stays exact.

P = 1000 in tiles of 300 makes 4 tiles, the last one of 100. A tile of 300 has to find room; everything that is counted
grows linearly with the size of a tile, so that the 4 tiles count as much as 4 tiles of their mean size, 250. The same
holds for what lies on an axis, for the steps of a tile, and for several levels at once: 577 on an axis of 256 takes 3
steps with a mean of 192 1/3, and those in tiles of 2 steps make 2 tiles with a mean of 1 1/2. With several such ranks
the tiles of one are the same in all tiles of the other, and the means multiply.

An array works in lock-step, so that its elements go on working where the last step fills a part of them: what is
counted inside an element, and for its functional units, counts all steps in full. What comes from the memories of the
chip, or goes there, is the words that exist.

What is not linear is refused: steps inside what lies on an axis, which are as many as the longest one takes; loops
inside a tile that stand outside the loop over the tiles; a last tile of one step, during which an operand stays that
would else be fetched anew. Under a `where` all tiles count in full, see ends.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from einsum_cascade.errors import MappingError

from .access import Usage, words
from .nest import Count, Nest, SizeTable, anywhere, least
from .programs import Tile, Trips, Use

# A product of so many means, each a rounded quotient, is off by a few times 2^-53; what is that close to a whole number
# is one.
_ROUNDED = 16 * 2.0**-53


@dataclass(frozen=True, slots=True)
class Cut:
    """A rank in parts that do not multiply to its size.

    Attributes:
        whole: the rank.
        size: its size.
        parts: outermost first.
        full: steps of each part where it is full; of the outermost one, all there are. See `cut`.
    """

    whole: str
    size: Count
    parts: tuple[str, ...]
    full: tuple[Count, ...]

    @property
    def pieces(self) -> tuple[Count, ...]:
        """Of each part, the pieces that it cuts: those of the innermost are elements of the rank."""
        found = [self.size]
        for steps in reversed(self.full[1:]):
            found.append(-(-found[-1] // steps))
        return tuple(reversed(found))

    @property
    def means(self) -> tuple[Count, ...]:
        """Steps of each part on average over all tiles, the last one included."""
        pieces = self.pieces
        return (pieces[0], *(_over(n, of) for of, n in itertools.pairwise(pieces)))

    @property
    def last(self) -> tuple[Count, ...]:
        """Steps of each part in the last tile."""
        pieces = self.pieces
        inner = zip(self.full[1:], pieces, pieces[1:], strict=False)
        return (pieces[0], *(n - (of - 1) * steps for steps, of, n in inner))

    @property
    def uneven(self) -> tuple[str, ...]:
        """The parts of which the last tile has fewer steps than the others."""
        pairs = zip(self.parts, self.full, self.last, strict=True)
        return tuple(part for part, steps, left in pairs if anywhere(steps != left))


def cut(whole: str, size: Count, parts: Sequence[str], steps: Sequence[Count]) -> Cut:
    """Return how parts cut a rank; none has more steps than there are.

    Args:
        whole: the rank.
        size: its size.
        parts: outermost first.
        steps: of each part, as stated.
    """
    left, full = size, []
    for n in reversed(steps[1:]):
        full.append(least(n, left))
        left = -(-left // n)
    return Cut(whole, size, tuple(parts), (left, *reversed(full)))


def _over(pieces: Count, of: Count) -> Count:
    if isinstance(pieces, np.ndarray) or isinstance(of, np.ndarray):
        return pieces / of
    return _whole(Fraction(int(pieces), int(of)))


class _Means(SizeTable):
    """Sizes of which some are means of tiles: products of them that should be whole are."""

    def whole(self, count: Count) -> Count:
        """Return a count as a whole number where only the rounding of means keeps it from being one."""
        return _whole(count)

    def __missing__(self, key: Any) -> Count:
        value = self[key] = _whole(super().__missing__(key))
        return value


class CutTable(_Means):
    """Sizes where tiles of some ranks are shorter at the end: the means, which counts are products of."""

    def __init__(self, sizes: Mapping[str, Count], cuts: Sequence[Cut]) -> None:
        self._means = {p: mean for c in cuts for p, mean in zip(c.parts, c.means, strict=True)}
        super().__init__({**sizes, **_alike(sizes, doubles(self._means))})
        self.cuts = tuple(cuts)
        stated = {**sizes, **{p: n for c in cuts for p, n in zip(c.parts, c.full, strict=True)}}
        self.padded = SizeTable(stated)
        self._full = _Fullest(stated, cuts)
        self._across: dict[frozenset[str], SizeTable] = {}

    @property
    def full(self) -> SizeTable:
        """Sizes of the fullest tiles: what has to find room."""
        return self._full

    def across(self, parts: tuple[str, ...]) -> SizeTable:
        """Return the sizes as if all tiles of some parts were full, what lies beyond the end of a rank included."""
        wide = self._means.keys() & set(parts)
        if not wide:
            return self
        key = frozenset(wide)
        if key not in self._across:
            names = {k: v for k, v in self.items() if isinstance(k, str)}
            self._across[key] = _Means({**names, **{p: self.padded[p] for p in wide}})
        return self._across[key]


class _Fullest(SizeTable):
    """Sizes of full tiles; those of all parts of a rank together are at most its size."""

    def __init__(self, sizes: Mapping[str, Count], cuts: Iterable[Cut]) -> None:
        super().__init__(sizes)
        self._ends: dict[str, tuple[Count, set[str]]] = {}
        for c in cuts:
            self._ends.setdefault(c.whole, (c.size, set()))[1].update(c.parts)

    def __missing__(self, key: Any) -> Count:
        if not isinstance(key, tuple):
            raise KeyError(key)
        value: Count = 1
        rest = [name for name in key if not any(name in parts for _, parts in self._ends.values())]
        for size, parts in self._ends.values():
            inside: Count = 1
            for name in key:
                inside = inside * (self[name] if name in parts else 1)
            value = value * least(inside, size)
        for name in rest:
            value = value * self[name]
        self[key] = value
        return value


def table_of(sizes: Mapping[str, Count], cuts: Sequence[Cut]) -> SizeTable:
    """Return a table that counts with the mean of tiles, and weighs what is held by the full ones."""
    return CutTable(sizes, cuts) if cuts else SizeTable(sizes)


def doubles(sizes: Mapping[str, Count]) -> dict[str, Count]:
    """Return sizes with doubles in arrays."""
    # They hold every count below 2^53 exactly, and do not overflow where 64-bit integers would wrap.
    return {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in sizes.items()}


def _alike(sizes: Mapping[str, Count], means: Mapping[str, Count]) -> dict[str, Count]:
    """Return means as doubles where a size is an array: a fraction would make arrays of objects of all others."""
    if any(isinstance(v, np.ndarray) for v in (*sizes.values(), *means.values())):
        return {k: float(v) if isinstance(v, Fraction) else v for k, v in means.items()}
    return dict(means)


def check_cuts(
    nests: Iterable[Nest],
    uses: Iterable[Use],
    sizes: SizeTable,
    masked: Mapping[str, Collection[str]],
    where: str,
) -> None:
    """Refuse what would not be counted exactly.

    Args:
        nests: the loops.
        uses: what they do.
        sizes: of all loops; nothing is refused where all tiles are equal.
        masked: by Einsum, the parts over which it has a `where`, whose tiles count in full.
        where: what stands before an error.

    Raises:
        MappingError: names the rank, and what is accepted.
    """
    if not isinstance(sizes, CutTable):
        return
    for c in sizes.cuts:
        refused = _refused(c, where)
        for nest in nests:
            _check_nest(nest, c, refused)
    for use in uses:
        counted = [c for c in sizes.cuts if not set(c.parts).intersection(masked.get(use.einsum, ()))]
        for c in counted:
            if not all(_linear(tile, c, sizes) for tile in _counted(use)):
                refused = _refused(c, where)
                raise MappingError(
                    f"{refused}; what {use.operand.tensor} shows of its window does not grow evenly with them: a tile "
                    "has to divide the rank"
                )
        _check_stays(use, counted, sizes, where)


def _check_stays(use: Use, cuts: Iterable[Cut], sizes: CutTable, where: str) -> None:
    single = {
        part
        for c in cuts
        for part, steps, last in zip(c.parts[1:], c.full[1:], c.last[1:], strict=True)
        if anywhere((last == 1) & (steps > 1))
    }
    for trips in (use.inner,) if use.outermost else (use.inner, use.outer):
        stays = _stays(trips, single, sizes.padded) if single else ""
        if stays:
            raise MappingError(
                f"{where}: {stays}: the last tile has one step, during which {use.operand.tensor} would stay in "
                f"{use.memory}; take a tile of another size"
            )


def _check_nest(nest: Nest, c: Cut, refused: str) -> None:
    wide = {loop.part for loop in nest.space}
    order = [loop.part for loop in nest.time]
    for i, part in enumerate(c.parts):
        if part not in c.uneven or part not in order:
            continue
        for outer, steps in zip(c.parts[:i], c.full, strict=False):
            if not anywhere(steps > 1):
                continue
            if outer in wide:
                raise MappingError(
                    f"{refused}; in {nest.einsum}, {outer} lies on an axis of {nest.array}, and {part}, which has "
                    "fewer steps at the end, is done inside: parts have to divide it"
                )
            if outer in order and order.index(outer) > order.index(part):
                raise MappingError(
                    f"{refused}; in {nest.einsum} the loop over {part} stands outside that over {outer}: put it inside"
                )


def _refused(c: Cut, where: str) -> str:
    shown = " * ".join(f"{p} {n}" for p, n in zip(c.parts, c.full, strict=True))
    return f"{where}: {shown} cuts {c.whole} = {c.size} so that the last tile is shorter"


def _counted(use: Use) -> list[Tile]:
    """Return the tiles whose words are counted."""
    found = [use.brought] if not use.outermost else []
    found += [use.below] if use.below is not None else []
    return [*found, use.whole] if use.spares_reads or use.spares_fills else found


def _linear(tile: Tile, c: Cut, sizes: CutTable) -> bool:
    """Tell whether a tile grows linearly from the last size to the full one, for some sizes of other ranks.

    A window has the smaller of its span and its points, both of which are linear: the same one has to be it at both.
    So has what is gathered: its points, or all that the tensor has.
    """
    windows = [loops for terms in tile.coupled for loops, _ in terms] + [loops for loops, _ in tile.gathered]
    for loops in windows:
        inside = [part for part in c.parts if part in loops]
        if not inside or c.parts[0] in inside:
            continue
        most = sizes.padded[tuple(inside)]
        least = c.size - (-(-c.size // most) - 1) * most
        for others in _extremes(sizes, c):
            table = {**others, **dict.fromkeys(inside, 1)}
            short, middle, long = (
                words(tile, SizeTable({**table, inside[-1]: n})) for n in (least, (least + most) / 2, most)
            )
            if anywhere(abs((short + long) / 2 - middle) > 1e-9 * middle):
                return False
    return True


def _extremes(sizes: CutTable, but: Cut) -> list[dict[str, Count]]:
    """Return the sizes with all other ranks as long as in full tiles, and as short as in the last ones."""
    full = {k: v for k, v in sizes.padded.items() if isinstance(k, str)}
    last = {
        part: n for c in sizes.cuts if c.whole != but.whole for part, n in zip(c.parts, c.last, strict=True)
    }
    return [full, {**full, **last}]


def _stays(trips: Trips, single: Iterable[str], sizes: SizeTable) -> str:
    """Return the part whose single step lets a tile stay while other loops run; empty where none does.

    A tile stays during the innermost loops that do not move it. Where the loop outside of those has one step in the
    last tile, the loops beyond it belong to them as well, up to the next one that moves it.
    """
    if trips.all is not None:
        return ""
    found = ""
    for part, moves in trips.loops:
        several = anywhere(sizes[part] > 1)
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
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        near = np.rint(value)
        return np.where(abs(value - near) <= _ROUNDED * near, near, value)
    if isinstance(value, float):
        return round(value) if abs(value - round(value)) <= _ROUNDED * value else value
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value
