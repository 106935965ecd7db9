"""Under a `where`: how many tiles have a point left, for every combination of some tile sizes at once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from einsum_cascade.analysis.predicates import (
    Atom,
    alternatives,
    components,
    deciding,
    interval,
    needed,
    slope,
)
from einsum_cascade.analysis.tile_points import LIMIT_HIDDEN, live_settings
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import Expr

# Tile sizes of one variable: its number of values, and the sizes, ascending; each divides that number.
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
            out = out * _along(size / np.array(widths, dtype=np.float64), (v,), order)
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
    if len(cuts) == 2 and linear:
        inner = max(linear, key=lambda v: dict(cuts)[v][0])
        found = _bands(terms, inner, dict(cuts), known)
        return found if cuts[0][0] != inner else found.T
    shape = tuple(len(widths) for _, (_, widths) in cuts)
    out = np.empty(shape)
    for place in itertools.product(*map(range, shape)):
        digits = {
            v: ((size // widths[i], True), (widths[i], False))
            for (v, (size, widths)), i in zip(cuts, place, strict=True)
        }
        out[place] = live_settings(group, digits, known)
    return out


def _bands(
    terms: list[list[Atom]], inner: str, cuts: Mapping[str, Cuts], numbers: Mapping[str, float]
) -> Any:
    """Return the table of two variables, where every value of the outer one leaves intervals of the inner one.

    The intervals of a tile of the outer variable are those of its values; where they hang together, those of a
    smaller tile are made one first, so that a coarse tile is put together from few.
    """
    size, widths = cuts[inner]
    outer = next(v for v in cuts if v != inner)
    extent, steps = cuts[outer]
    if extent > LIMIT_HIDDEN:
        raise CascadeError(
            f"a predicate would take {extent:,} steps over {outer} to count", hint="use smaller sizes"
        )
    grid = {outer: np.arange(extent)}
    ends = [np.broadcast_arrays(*interval(t, inner, size, grid, numbers), grid[outer])[:2] for t in terms]
    low, high = (np.stack(side)[:, :, None].astype(np.int64) for side in zip(*ends, strict=True))
    merged = {1: (low, high)}
    out = np.empty((len(steps), len(widths)))
    for i, step in enumerate(steps):
        if step not in merged:
            merged[step] = _merged(merged[max(s for s in merged if step % s == 0)], extent // step)
        low, high = (side.transpose(1, 0, 2).reshape(extent // step, -1) for side in merged[step])
        out[i] = [_covered(low, high, width, size // width) for width in widths]
    return out


def _merged(fine: tuple[Any, Any], tiles: int) -> tuple[Any, Any]:
    """Return the intervals (term, tile, interval) of larger tiles: one each where those inside hang together."""
    low, high = (side.reshape(len(side), tiles, -1) for side in fine)
    empty = high < low
    far = np.iinfo(np.int64).max // 2
    order = np.argsort(np.where(empty, far, low), axis=2, kind="stable")
    low = np.take_along_axis(np.where(empty, far, low), order, 2)
    high = np.take_along_axis(np.where(empty, -1, high), order, 2)
    reached = np.maximum.accumulate(high, axis=2)
    if ((low[:, :, 1:] > reached[:, :, :-1] + 1) & (low[:, :, 1:] < far)).any():
        return low, high
    return low[:, :, :1], reached[:, :, -1:]


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
