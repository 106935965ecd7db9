"""Under a `where`: how many tiles have a point left, for every combination of some tile sizes at once."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from einsum_cascade.analysis.intervals import Atom, alternatives, interval, slope
from einsum_cascade.analysis.predicates import components, deciding, needed
from einsum_cascade.analysis.tile_points import LIMIT_HIDDEN, live_settings
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import Compare, Expr, Num, Var

# The first and the last values of intervals.
Intervals: TypeAlias = tuple[Any, Any]
# Coordinates that are looked at one by one for a table; coordinates of two variables and more outside an interval.
_MOST_LOOKS = 2**26
_MOST_PLANE = 2**17
_FAR = np.iinfo(np.int64).max // 2
# Tile sizes of one variable: its number of values, and the sizes, ascending; the last tile may be shorter.
Cuts: TypeAlias = tuple[int, tuple[int, ...]]


def live_tiles(parts: Sequence[Expr], cuts: Mapping[str, Cuts], numbers: Mapping[str, float]) -> Any:
    """Return how many tiles have a point for which all parts hold, by the tile sizes of every variable.

    Args:
        parts: static predicates over the variables.
        cuts: the tile sizes of every variable.
        numbers: sizes and constants by their names in the predicates.

    Returns:
        An array with an axis for each variable, in their order; float64, exact below 2^53.

    Raises:
        CascadeError: too many coordinates would have to be looked at one by one.

    >>> from einsum_cascade.parser import parse_expression
    >>> sizes = (1024, (1, 256, 1024))
    >>> live_tiles([parse_expression("m <= p")], {"m": sizes, "p": sizes}, {})[1:, 1:].tolist()
    [[10.0, 4.0], [4.0, 1.0]]
    """
    order = list(cuts)
    out: Any = np.ones((1,) * len(order))
    used: set[str] = set()
    for names, group in components(deciding(parts, {v: n for v, (n, _) in cuts.items()}, numbers)):
        used |= set(names)
        found = _table(group, tuple((v, cuts[v]) for v in names), needed(group, numbers))
        out = out * _along(found, names, order)
    for v in order:
        if v not in used:
            size, widths = cuts[v]
            out = out * _along(np.ceil(size / np.array(widths, dtype=np.float64)), (v,), order)
    return out


def _along(table: Any, names: Sequence[str], order: Sequence[str]) -> Any:
    """Return a table with the axes of some variables as one with an axis for each variable."""
    ranked = sorted(names, key=order.index)
    table = np.transpose(table, [list(names).index(v) for v in ranked])
    lengths = dict(zip(ranked, table.shape, strict=True))
    return table.reshape([lengths.get(v, 1) for v in order])


@functools.lru_cache(maxsize=1024)
def _table(
    group: tuple[Expr, ...], cuts: tuple[tuple[str, Cuts], ...], numbers: tuple[tuple[str, float], ...]
) -> Any:
    known = dict(numbers)
    terms = alternatives(group)
    linear = [v for v, _ in cuts if all(slope(a.value, v, known) is not None for term in terms for a in term)]
    if linear:
        inner = max(linear, key=lambda v: dict(cuts)[v][0])
        found = _bands(terms, inner, dict(cuts), known)
        return np.moveaxis(found, -1, [v for v, _ in cuts].index(inner))
    shape = tuple(len(widths) for _, (_, widths) in cuts)
    points = math.prod(size for _, (size, _) in cuts)
    if math.prod(shape) * points > _MOST_LOOKS:
        shown = ", ".join(v for v, _ in cuts)
        raise CascadeError(
            f"a predicate would take {math.prod(shape) * points:,} steps over {shown} to count",
            hint="use smaller sizes",
        )
    out = np.empty(shape)
    uneven = [v for v, (size, widths) in cuts if any(size % w for w in widths)]
    ends = tuple(Compare(("<",), (Var(v), Num(dict(cuts)[v][0]))) for v in uneven)
    for place in itertools.product(*map(range, shape)):
        digits = {
            v: ((-(-size // widths[i]), True), (widths[i], False))
            for (v, (size, widths)), i in zip(cuts, place, strict=True)
        }
        out[place] = live_settings((*group, *ends), digits, known)
    return out


def _bands(
    terms: list[list[Atom]], inner: str, cuts: Mapping[str, Cuts], numbers: Mapping[str, float]
) -> Any:
    """Return the table where every value of the outer variables leaves intervals of the inner one; that is last.

    The intervals of a tile of outer values are those of all of them; where they hang together, those of a smaller
    tile are made one first, so that a coarse tile is put together from few.
    """
    size, widths = cuts[inner]
    outer = [cut for v, cut in cuts.items() if v != inner]
    extents = tuple(n for n, _ in outer)
    if math.prod(extents) > (LIMIT_HIDDEN if len(outer) < 2 else _MOST_PLANE):
        shown = ", ".join(v for v in cuts if v != inner)
        raise CascadeError(
            f"a predicate would take {math.prod(extents):,} steps over {shown} to count",
            hint="use smaller sizes",
        )
    grid = dict(zip((v for v in cuts if v != inner), np.indices(extents), strict=True))
    ends = [interval(term, inner, size, grid, numbers) for term in terms]
    low, high = (
        np.stack([np.broadcast_to(e, extents) for e in side])[..., None] for side in zip(*ends, strict=True)
    )
    merged: dict[tuple[int, ...], Intervals] = {(1,) * len(outer): (low, high)}
    out = np.empty((*(len(steps) for _, steps in outer), len(widths)))
    for place in np.ndindex(out.shape[:-1]):
        tile = tuple(steps[i] for (_, steps), i in zip(outer, place, strict=True))
        if tile not in merged:
            finer = [t for t in merged if all(a % b == 0 for a, b in zip(tile, t, strict=True))]
            best = max(finer, key=math.prod)
            merged[tile] = _merged(merged[best], [a // b for a, b in zip(tile, best, strict=True)])
        low, high = (np.moveaxis(side, 0, -2).reshape(side[0, ..., 0].size, -1) for side in merged[tile])
        out[place] = [_covered(low, high, width, -(-size // width)) for width in widths]
    return out


def _merged(fine: Intervals, factors: Sequence[int]) -> Intervals:
    """Return the intervals (term, tile of each variable, interval) of larger tiles, one each where they touch."""
    low, high = fine
    for axis, factor in enumerate(factors, start=1):
        if factor > 1:
            low, high = _filled(low, axis, factor, _FAR), _filled(high, axis, factor, -1)
            shape = (*low.shape[:axis], low.shape[axis] // factor, factor, *low.shape[axis + 1 :])
            sides = (np.moveaxis(side.reshape(shape), axis + 1, -2) for side in (low, high))
            low, high = _joined(*(side.reshape(*side.shape[:-2], -1) for side in sides))
    return low, high


def _filled(side: Any, axis: int, factor: int, empty: int) -> Any:
    """Return the ends of intervals with empty ones added along an axis, to a multiple of a factor."""
    missing = -side.shape[axis] % factor
    if not missing:
        return side
    return np.pad(side, [(0, missing if at == axis else 0) for at in range(side.ndim)], constant_values=empty)


def _joined(low: Any, high: Any) -> Intervals:
    """Return intervals as one along the last axis, if everywhere they touch or overlap."""
    empty = high < low
    low, high = np.where(empty, _FAR, low), np.where(empty, -1, high)
    order = np.argsort(low, axis=-1, kind="stable")
    low, high = np.take_along_axis(low, order, -1), np.take_along_axis(high, order, -1)
    reached = np.maximum.accumulate(high, axis=-1)
    apart = (low[..., 1:] > reached[..., :-1] + 1) & (low[..., 1:] < _FAR)
    return (low, high) if apart.any() else (low[..., :1], reached[..., -1:])


def _covered(low: Any, high: Any, width: int, tiles: int) -> int:
    """Return how many tiles of a width the intervals of each row touch, summed over rows."""
    empty = high < low
    low, high = np.where(empty, tiles, low // width), np.where(empty, -1, high // width)
    if low.shape[1] == 1:
        return int(np.maximum(high - low + 1, 0).sum())
    order = np.argsort(low, axis=1, kind="stable")
    low, high = np.take_along_axis(low, order, 1), np.take_along_axis(high, order, 1)
    reached = np.maximum.accumulate(high, axis=1)
    before = np.concatenate([np.full_like(reached[:, :1], -1), reached[:, :-1]], axis=1)
    return int(np.maximum(high - np.maximum(low, before + 1) + 1, 0).sum())
