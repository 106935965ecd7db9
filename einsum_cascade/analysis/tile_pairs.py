"""Under a `where`: how many points each tile of a matrix of rows and columns keeps, without listing the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CascadeError
from ..expr import Expr
from .intervals import alternatives, any_term, interval, slope
from .predicates import CHUNK, LIMIT_POINTS

Ints = NDArray[np.int64]

_CELLS = 2**18  # of a band of tiles that is held at a time


@dataclass(frozen=True, slots=True)
class Axes:
    """One side of a matrix: variables with their extents, outermost first, cut into tiles.

    Attributes:
        names, extents: of the variables; none is a side of a single point.
        tile: its extent along every axis; a single number for several axes cuts the points in their order.
    """

    names: tuple[str, ...]
    extents: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def flat(self) -> bool:
        """Whether tiles cut the points in their order, whatever the axes are."""
        return len(self.tile) < len(self.names)

    @property
    def points(self) -> int:
        """Points of the whole side."""
        return math.prod(self.extents)

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles along each axis, or of the whole side."""
        along = (self.points,) if self.flat else self.extents
        return tuple(-(-n // t) for n, t in zip(along, self.tile, strict=True))

    @property
    def tiles(self) -> int:
        """Tiles of the whole side, the last one of an axis shorter where it must be."""
        return math.prod(self.grid)

    @property
    def whole(self) -> int:
        """Points of a tile that is not cut off at the end."""
        return math.prod(self.tile)

    def coordinates(self, points: Ints) -> dict[str, Ints]:
        """Return the coordinates of points by their number."""
        places = np.unravel_index(points, self.extents) if self.names else ()
        return {n: np.asarray(p, dtype=np.int64) for n, p in zip(self.names, places, strict=True)}

    def tile_of(self, points: Ints) -> Ints:
        """Return the number of the tile that each point lies in."""
        if not self.names:
            return np.zeros(points.shape, dtype=np.int64)
        if self.flat:
            return points // self.tile[0]
        along = tuple(p // t for p, t in zip(self.coordinates(points).values(), self.tile, strict=True))
        return np.asarray(np.ravel_multi_index(along, self.grid), dtype=np.int64)

    def sizes(self) -> Ints:
        """Return the points of every tile."""
        return np.bincount(self.tile_of(np.arange(self.points)), minlength=self.tiles).astype(np.int64)


def tile_pairs(
    parts: Sequence[Expr], rows: Axes, columns: Axes, numbers: Mapping[str, float], *, group: int = 1
) -> Iterator[tuple[int, Ints]]:
    """Yield bands of tiles: the number of the first row tile, and the points of each tile that a predicate keeps.

    Args:
        parts: static predicates over the variables of both sides, all of which have to hold.
        rows: one side; `columns`: the other, whose last axis is counted by intervals where the predicate is linear.
        numbers: sizes and constants by their names in the predicates.
        group: neighbouring rows that are one point of `rows`, which then is flat.

    Raises:
        CascadeError: too many coordinates would have to be looked at one by one.

    >>> from einsum_cascade.parser import parse_expression
    >>> p, m = (Axes((name,), (256,), (64,)) for name in "pm")
    >>> [(first, kept.tolist()) for first, kept in tile_pairs([parse_expression("m + 64 <= p")], p, m, {})]
    [(0, [[0, 0, 0, 0], [2080, 0, 0, 0], [4096, 2080, 0, 0], [4096, 4096, 2080, 0]])]
    """
    terms = alternatives(parts)
    inner = columns.names[-1] if columns.names and _linear(terms, columns.names[-1], numbers) else ""
    outer = Axes(columns.names[:-1], columns.extents[:-1], ()) if inner else columns
    lanes = math.prod(outer.extents)
    if rows.points * group * lanes > LIMIT_POINTS:
        names = ", ".join((*rows.names, *columns.names))
        raise CascadeError(
            f"a mask over {names} would take {rows.points * group * lanes:,} steps to count",
            hint="use smaller sizes",
        )
    order, starts = _by_tile(rows, group)
    heads = np.arange(lanes) * (columns.extents[-1] if inner else 1)  # the first column of each lane
    step = max(1, _CELLS // columns.tiles)
    for first in range(0, len(starts) - 1, step):
        last = min(first + step, len(starts) - 1)
        band = _Band(last - first, columns, inner)
        mine = order[starts[first] : starts[last]]
        tiles = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        some = max(1, CHUNK // lanes)
        for at in range(0, len(mine), some):
            points = mine[at : at + some] // group
            places = {n: np.repeat(x, lanes) for n, x in rows.coordinates(points).items()}
            lane = np.tile(heads, len(points))
            places |= {n: x for n, x in columns.coordinates(lane).items() if n != inner}
            band.add(
                np.repeat(tiles[at : at + some], lanes), lane, _kept(terms, inner, columns, places, numbers)
            )
        yield first, band.kept()


def _linear(terms: Any, name: str, numbers: Mapping[str, float]) -> bool:
    return all(slope(atom.value, name, numbers) is not None for term in terms for atom in term)


def _by_tile(rows: Axes, group: int) -> tuple[Ints, Ints]:
    """Return the rows in the order of their tiles, and where each tile begins, the end of the last one included."""
    if rows.flat or len(rows.names) == 1:
        count = rows.points * group
        starts = np.append(np.arange(0, count, rows.tile[0]), count)
        return np.arange(count, dtype=np.int64), starts
    tile = rows.tile_of(np.arange(rows.points))
    order = np.argsort(tile, kind="stable")
    return order, np.searchsorted(tile[order], np.arange(rows.tiles + 1))


def _kept(
    terms: Any, inner: str, columns: Axes, places: dict[str, Ints], numbers: Mapping[str, float]
) -> list[tuple[Ints, Ints]]:
    """Return intervals of the inner variable, none overlapping another, at each place; of length one without it."""
    length = len(next(iter(places.values()))) if places else 1
    if not inner:
        return [
            (np.zeros(length, dtype=np.int64), any_term(terms, places, numbers, length).astype(np.int64) - 1)
        ]
    extent = columns.extents[-1]
    ends = [interval(term, inner, extent, places, numbers) for term in terms]
    low, high = (np.stack([np.broadcast_to(e, length) for e in side]) for side in zip(*ends, strict=True))
    if len(terms) == 1:
        return [(low[0], high[0])]
    empty = high < low
    low, high = np.where(empty, extent, low), np.where(empty, extent - 1, high)
    order = np.argsort(low, axis=0, kind="stable")
    low, high = np.take_along_axis(low, order, 0), np.take_along_axis(high, order, 0)
    before = np.maximum.accumulate(np.concatenate([np.full_like(high[:1], -1), high[:-1]]))
    return list(zip(np.maximum(low, before + 1), high, strict=True))


class _Band:
    """Points kept of some row tiles x all column tiles, added up as differences along the columns."""

    def __init__(self, rows: int, columns: Axes, inner: str) -> None:
        self._shape, self._columns, self._inner = (rows, columns.tiles), columns, inner
        self._ends = np.zeros(rows * columns.tiles)
        self._steps = np.zeros(rows * (columns.tiles + 1))

    def add(self, tiles: Ints, lanes: Ints, pieces: list[tuple[Ints, Ints]]) -> None:
        """Add intervals of columns; `lanes` is the column at which each begins to count."""
        columns = self._columns
        if columns.flat or not self._inner:
            # Runs of neighbours in the order of the points; without an inner variable each is a point of its own.
            width, base = (columns.tile[0], lanes) if columns.flat else (1, columns.tile_of(lanes))
        else:
            width, base = columns.tile[-1], columns.tile_of(lanes) * columns.tile[-1]
        for low, high in pieces:
            real = high >= low
            self._add(tiles[real], (base + low)[real], (base + high)[real], width)

    def _add(self, tiles: Ints, low: Ints, high: Ints, width: int) -> None:
        first, last = low // width, high // width
        n = self._shape[1]
        many = last > first
        self._put(self._ends, tiles * n + first, np.where(many, (first + 1) * width, high + 1) - low)
        tiles, first, last, high = tiles[many], first[many], last[many], high[many]
        self._put(self._ends, tiles * n + last, high + 1 - last * width)
        self._put(self._steps, tiles * (n + 1) + first + 1, np.full(len(first), width))
        self._put(self._steps, tiles * (n + 1) + last, np.full(len(first), -width))

    @staticmethod
    def _put(where: NDArray[np.float64], places: Ints, amounts: Ints) -> None:
        where += np.bincount(places, amounts, len(where))

    def kept(self) -> Ints:
        """Return the points of each tile, shape (row tiles, column tiles)."""
        rows, n = self._shape
        inside = np.cumsum(self._steps.reshape(rows, n + 1), axis=1)[:, :n]
        return np.asarray(np.rint(self._ends.reshape(rows, n) + inside), dtype=np.int64)
