"""Which key tiles a query tile visits under causal, window or no mask: exact, closed form, many calls at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

FAR = 1 << 40  # a reach that no sequence exceeds; integers stay exact


@dataclass(frozen=True, slots=True)
class Visits:
    """Key tiles per query tile, for n calls of at most M query tiles each.

    Attributes:
        full: shape (n, M), tiles whose every pair is visible; zero beyond a call's last query tile.
        masked: shape (n, M), tiles visited whose mask has to be applied.
        query_tiles: shape (n,), query tiles of each call.
        key_tiles: shape (n,), key tiles of each call.
    """

    full: Ints
    masked: Ints
    query_tiles: Ints
    key_tiles: Ints

    @property
    def visited(self) -> Ints:
        """Key tiles that each query tile visits, shape (n, M)."""
        return self.full + self.masked

    @property
    def skipped(self) -> Ints:
        """Key tiles that nobody visits, shape (n,)."""
        unvisited: Ints = self.query_tiles * self.key_tiles - self.visited.sum(axis=1)
        return unvisited


def reach(*, causal: Any, window: Any) -> tuple[Ints, Ints]:
    """Return how many keys a query sees to its left and to its right, itself not counted.

    A window of w keys ends at the query where the mask is causal; without, it stands around the query, and an even one
    sees one key more to the left. 0 is no window.

    >>> [int(x) for x in reach(causal=True, window=128)], [int(x) for x in reach(causal=False, window=128)]
    ([127, 0], [64, 63])
    """
    width = np.asarray(window, dtype=np.int64)
    only_left = np.asarray(causal, dtype=bool)
    left: Ints = np.where(width > 0, np.where(only_left, width - 1, width // 2), FAR)
    right: Ints = np.where(only_left, 0, np.where(width > 0, width - 1 - width // 2, FAR))
    return left, right


def tile_visits(
    seq_q: Any,
    seq_kv: Any,
    *,
    query: Any,
    key: Any,
    left: Any,
    right: Any,
    group: Any = 1,
    offset: Any = None,
) -> Visits:
    """Return the key tiles that every query tile visits.

    Query i sees key j when -left <= j - (i + offset) <= right. All arguments broadcast: one value, or one a call.

    Args:
        seq_q: queries; `seq_kv`: keys.
        query: rows of a tile; `key`: its columns.
        group: query heads that are packed as neighbouring rows: row r belongs to query r // group.
        offset: position of query 0 among the keys; None aligns the last query with the last key.

    Source: counting alone; the oracle of the tests is a materialised mask.

    >>> v = tile_visits(256, 256, query=128, key=64, left=FAR, right=0)
    >>> v.full.tolist(), v.masked.tolist(), v.skipped.tolist()
    ([[0, 2]], [[2, 2]], [2])
    """
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, dtype=np.int64)) for a in (
        seq_q, seq_kv, query, key, left, right, group, 0 if offset is None else offset)))  # fmt: skip
    seq_q, seq_kv, query, key, left, right, group, offset = (
        (a[:, None] if i != 7 or offset is not None else arrays[1][:, None] - arrays[0][:, None])
        for i, a in enumerate(arrays)
    )
    rows = seq_q * group
    query_tiles, key_tiles = -(-rows // query), -(-seq_kv // key)
    start = np.arange(int(query_tiles.max()), dtype=np.int64)[None, :] * query
    first = np.minimum(start, rows - 1) // group + offset
    last = np.minimum(start + query - 1, rows - 1) // group + offset
    low, high = np.maximum(first - left, 0), np.minimum(last + right, seq_kv - 1)
    real = (start < rows) & (low <= high)
    visited = np.where(real, high // key - low // key + 1, 0)
    # A tile is full when its every column is seen by the first and by the last row.
    full_low = -(-np.maximum(last - left, 0) // key)
    full_high = (np.minimum(first + right, seq_kv - 1) + 1) // key
    full = np.where(real, np.clip(full_high - full_low, 0, visited), 0)
    return Visits(full, visited - full, query_tiles[:, 0], key_tiles[:, 0])


def visible_pairs(seq_q: Any, seq_kv: Any, *, left: Any, right: Any) -> Ints:
    """Return how many (query, key) pairs the mask lets through, per call; the last query sees the last key.

    >>> visible_pairs(4, 4, left=FAR, right=0).tolist()
    [10]
    """
    n_q, n_kv, left, right = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(a, dtype=np.int64)) for a in (seq_q, seq_kv, left, right))
    )
    offset = n_kv - n_q
    # Pairs with j <= i + offset + right, less those with j < i + offset - left: two trapezia.
    return _below(n_q, n_kv, offset + np.minimum(right, FAR)) - _below(n_q, n_kv, offset - left - 1)


def _below(n_q: Ints, n_kv: Ints, shift: Ints) -> Ints:
    """Return the pairs with 0 <= j < n_kv and j <= i + shift, for i from 0 to n_q - 1."""
    rows_empty = np.clip(-shift, 0, n_q)
    rows_whole = np.clip(n_q - (n_kv - 1 - shift), 0, n_q - rows_empty)
    ramp = n_q - rows_empty - rows_whole
    first = rows_empty + shift + 1  # keys of the first row that sees any
    return rows_whole * n_kv + np.where(ramp > 0, ramp * np.clip(first, 0, FAR) + ramp * (ramp - 1) // 2, 0)
