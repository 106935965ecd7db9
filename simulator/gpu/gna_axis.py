"""One axis of generalised neighbourhood attention: its windows, and the KV tiles that its Q tiles visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from einsum_cascade.errors import MappingError

_AT_ONCE = 1 << 20  # Q tiles x settings held in memory at a time

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SOURCE = (
    "NATTEN 0.21.7, csrc/include/natten/cuda: fna_{blackwell,hopper}/collective/fna_fusion.hpp (windows, trip count, "
    "fast path), fna/kernel_forward.h and fna/na_utils.cuh (dynamic tiling), src/natten/utils/checks.py (limits)"
)


# Counting takes one array entry for each Q tile of an axis; more than this asks for gigabytes.
MAX_TILES = 2**22
# The (query, key) pairs of an axis are counted in 64 bits.
MAX_LENGTH = 2**31


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a neighbourhood-attention problem together with its tiling; legal once it exists.

    Attributes:
        length: tokens along the axis.
        window: keys that a query sees, counted inside its dilation class.
        stride: queries that share one window.
        dilation: step between the keys of a window; the axis falls into that many independent classes.
        causal: a query sees nothing behind itself.
        q_tile: queries of one Q tile.
        kv_tile: keys of one KV tile.
        dynamic: KV tiles start at the window of their Q tile instead of on a fixed grid.
    """

    length: int
    window: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False
    q_tile: int = 64
    kv_tile: int = 64
    dynamic: bool = False

    def __post_init__(self) -> None:
        for name, least in (("length", 2), ("window", 2), ("stride", 1), ("dilation", 1)):
            found = getattr(self, name)
            if found < least:
                alone = "; leave out an axis of one token" if name == "length" and found == 1 else ""
                raise MappingError(f"{name}: {found} is too small, an axis needs at least {least}{alone}")
        for name in ("q_tile", "kv_tile"):
            if getattr(self, name) < 1:
                raise MappingError(f"{name}: {getattr(self, name)} is not a tile, expected a positive number")
        if self.length > MAX_LENGTH:
            raise MappingError(f"layout: {self.length} is too long, an axis has at most 2^31 tokens")
        for name in ("q_tile", "kv_tile"):
            if getattr(self, name) > MAX_LENGTH:
                raise MappingError(
                    f"{name}: {getattr(self, name)} is too large, a tile has at most 2^31 tokens"
                )
        if self.q_tiles > MAX_TILES:
            raise MappingError(
                f"layout: {self.length} in Q tiles of {self.q_tile} is {self.q_tiles:,} tiles; at most 2^22 an axis"
            )
        if self.window * self.dilation > self.length:
            raise MappingError(
                f"window: {self.window} x dilation {self.dilation} = {self.window * self.dilation} is longer than "
                f"the layout's {self.length}; expected window x dilation <= length"
            )
        if self.stride > self.window:
            raise MappingError(
                f"stride: {self.stride} is larger than the window {self.window}, so keys would be left out; "
                "expected stride <= window"
            )

    @property
    def q_tiles(self) -> int:
        """Q tiles launched, all-padding ones of short dilation classes included."""
        return self.dilation * tiles_per_class(self.length, self.dilation, self.q_tile)

    @property
    def idle_q_tiles(self) -> bool:
        """Whether a short dilation class has a Q tile without a single real query."""
        return any(
            -(-size // self.q_tile) < tiles_per_class(self.length, self.dilation, self.q_tile)
            for size, _ in dilation_classes(self.length, self.dilation)
        )

    @property
    def kv_tiles(self) -> int:
        """KV tiles that the padded keys fill."""
        return self.dilation * tiles_per_class(self.length, self.dilation, self.kv_tile)


class AxisCounts(NamedTuple):
    """Counts of one axis for any shape of (window, stride): an N-dimensional count is a product of these.

    Attributes:
        visited: (Q tile, KV tile) visits summed over Q tiles and dilation classes.
        dense: those that need no mask.
        pairs: unmasked (query, key) pairs.
        per_q_min: fewest KV tiles of a Q tile.
        per_q_max: most KV tiles of a Q tile.
        fast: visits in the dilation classes where NATTEN's own predicate holds, so that its kernels mask nothing.
    """

    visited: Ints
    dense: Ints
    pairs: Ints
    per_q_min: Ints
    per_q_max: Ints
    fast: Ints


def tiles_per_class(length: int, dilation: int, tile: int) -> int:
    """Return the tiles of one dilation class; every class is padded to that of the longest.

    >>> tiles_per_class(37, 2, 16), tiles_per_class(32, 2, 16)
    (2, 1)
    """
    return -(-length // (tile * dilation))


def dilation_classes(length: int, dilation: int) -> tuple[tuple[int, int], ...]:
    """Return the distinct lengths of the dilation classes, each with the number of classes that have it.

    >>> dilation_classes(37, 5), dilation_classes(36, 4)
    (((8, 2), (7, 3)), ((9, 4),))
    """
    short, longer = divmod(length, dilation)
    found = ((short + 1, longer), (short, dilation - longer))
    return tuple((size, count) for size, count in found if count)


def window_start(
    query: ArrayLike, *, length: int, window: ArrayLike, stride: ArrayLike, causal: bool
) -> Ints:
    """Return the first key that a query sees, within its dilation class.

    The queries of a stride group share the window of their leader: the centre of the group (the right one of two), or
    its last query on a causal axis. A window is shifted at the edges, never cut; an even one looks one further left.

    Args:
        query: index in the class; one behind its end (padding) behaves as the last.
        length: tokens of the class.
        window: keys of a window.
        stride: queries of a stride group.
        causal: whether the axis is causal.

    Source: NATTEN 0.21.7, fna_fusion.hpp, get_win_start.

    >>> window_start([0, 1, 2, 3, 4, 5], length=6, window=3, stride=1, causal=False).tolist()
    [0, 0, 1, 2, 3, 3]
    >>> window_start([0, 1, 2, 3, 4, 5], length=6, window=3, stride=2, causal=True).tolist()
    [0, 0, 1, 1, 3, 3]
    """
    q, w, s = (np.asarray(x, dtype=np.int64) for x in (query, window, stride))
    group = q // s * s
    if causal:
        start: Ints = np.maximum(np.minimum(group + s - 1, length - 1) - w + 1, 0)
    else:
        leader = np.minimum(group + s // 2, length - 1)
        start = np.minimum(np.maximum(leader - w // 2, 0), length - w)
    return start


def window_end(query: ArrayLike, start: Ints, *, length: int, window: ArrayLike, causal: bool) -> Ints:
    """Return one past the last key that a query sees.

    >>> window_end([1, 9], np.array([0, 3]), length=6, window=3, causal=True).tolist()
    [2, 6]
    """
    if causal:
        return np.broadcast_to(np.minimum(np.asarray(query, dtype=np.int64) + 1, length), start.shape)
    return start + np.asarray(window, dtype=np.int64)


def class_trips(axis: Axis, size: int, window: ArrayLike, stride: ArrayLike) -> tuple[Ints, Ints]:
    """Return the KV tiles that each Q tile of one dilation class visits, and how many of those are dense.

    Args:
        axis: length, dilation, causality and tiles; its own window and stride are not looked at.
        size: tokens of the class.
        window: any shape.
        stride: any shape that broadcasts with `window`.

    Returns:
        Two arrays of the broadcast shape and one more dimension, the Q tiles.

    Source: NATTEN 0.21.7, fna_fusion.hpp, get_trip_count; fna/kernel_forward.h, "Iterate through keys".
    """
    w, s = (np.asarray(x, dtype=np.int64)[..., None] for x in (window, stride))
    tile = axis.kv_tile
    first = np.arange(tiles_per_class(axis.length, axis.dilation, axis.q_tile), dtype=np.int64) * axis.q_tile
    last = (
        np.minimum(first + axis.q_tile, size) - 1
    )  # an all-padding tile has last < first: nothing in it is real
    low = window_start(first, length=size, window=w, stride=s, causal=axis.causal)
    low_last = window_start(last, length=size, window=w, stride=s, causal=axis.causal)
    high_first = window_end(first, low, length=size, window=w, causal=axis.causal)
    high = window_end(last, low_last, length=size, window=w, causal=axis.causal)
    if axis.dynamic:
        visits = -(-(high - low) // tile)
        # The last KV tile ends with the union of the windows, so it may be short and still be dense.
        behind = np.where(high_first >= high, visits, (high_first - low) // tile)
        before = -(-(low_last - low) // tile)
    else:
        visits = -(-high // tile) - low // tile
        behind, before = high_first // tile, -(-low_last // tile)
    dense = np.where(first < size, np.maximum(behind - before, 0), 0)
    return visits, dense


def unmasked_pairs(size: int, window: ArrayLike, stride: ArrayLike, *, causal: bool) -> Ints:
    """Return the (query, key) pairs of one dilation class that no mask removes.

    >>> int(unmasked_pairs(6, 3, 1, causal=False)), int(unmasked_pairs(6, 3, 1, causal=True))
    (18, 15)
    """
    w, s = np.broadcast_arrays(np.asarray(window, dtype=np.int64), np.asarray(stride, dtype=np.int64))
    if not causal:
        return size * w
    # Query q sees keys start..q. Group k = 1, 2, ... starts at k s - w once that is positive, an unfinished last
    # group at size - w; so the starts sum to an arithmetic series over the groups from `first` on.
    groups, first = size // s, w // s + 1
    shifted = np.maximum(groups - first + 1, 0)
    starts = s * (s * (first + groups) * shifted // 2 - w * shifted) + size % s * (size - w)
    return np.asarray(size * (size + 1) // 2 - starts, dtype=np.int64)


def natten_fast_path(axis: Axis, size: int, window: ArrayLike, stride: ArrayLike) -> Bools:
    """Return whether NATTEN's kernels take their mask-free path on this axis for one dilation class.

    It is not the exact answer. 36 tokens, window 28, stride 16, tiles 16 and 4 need no mask although the predicate says
    otherwise; a window as long as the axis passes although padded keys may follow (these get a cheaper mask of their
    own). With even Q tiles and KV tiles that are powers of two, as all forward kernels have, it is sufficient; with a Q
    tile of one it is not: window 8, stride 1, tiles 1 and 4 pass, although windows then start inside KV tiles.

    Source: NATTEN 0.21.7, fna_fusion.hpp, is_fully_block_sparse_int and fully_block_sparse.
    """
    w, s = np.broadcast_arrays(np.asarray(window, dtype=np.int64), np.asarray(stride, dtype=np.int64))
    if axis.causal:
        return np.zeros(w.shape, dtype=np.bool_)
    q, k, half = axis.q_tile, axis.kv_tile, s // 2
    last = np.minimum(size // s * s + half, size - 1)
    last_start = window_start(last, length=size, window=w, stride=s, causal=False)
    two_groups = (size % k == 0) & (-(-size // s) == 2) & (s + half >= size - w)
    aligned = ((w // 2 - half) % k == 0) | two_groups
    tail = (size % s == 0) | (last_start % k == 0)
    return np.asarray((w == size) | ((s % q == 0) & (w % k == 0) & tail & aligned))


def count_axis(axis: Axis, window: ArrayLike | None = None, stride: ArrayLike | None = None) -> AxisCounts:
    """Return the counts of one axis, for its own window and stride or for whole arrays of them.

    Args:
        axis: the problem; `window` and `stride` replace its own where given, and are not checked again.
        window: keys, any shape.
        stride: queries, any shape that broadcasts with `window`.

    >>> count_axis(Axis(32768, 2048, q_tile=128, kv_tile=128)).visited.tolist()
    4336
    >>> count_axis(Axis(32768, 2048, q_tile=256, kv_tile=128), stride=[1, 128, 256]).visited.tolist()
    [2288, 2288, 2048]
    """
    w = np.asarray(axis.window if window is None else window, dtype=np.int64)
    s = np.asarray(axis.stride if stride is None else stride, dtype=np.int64)
    w, s = np.broadcast_arrays(w, s)
    step = max(1, _AT_ONCE // tiles_per_class(axis.length, axis.dilation, axis.q_tile))
    flat, parts = (w.ravel(), s.ravel()), range(0, w.size, step)
    counted = [_count(axis, *(x[at : at + step] for x in flat)) for at in parts]
    return AxisCounts(*(np.concatenate(column).reshape(w.shape) for column in zip(*counted, strict=True)))


def _count(axis: Axis, w: Ints, s: Ints) -> AxisCounts:
    """Count one list of windows and strides."""
    visited, dense, pairs, fast, most = (np.zeros(w.shape, dtype=np.int64) for _ in range(5))
    least = np.full(w.shape, np.iinfo(np.int64).max, dtype=np.int64)
    for size, count in dilation_classes(axis.length, axis.dilation):
        trips, whole = class_trips(axis, size, w, s)
        visits = count * trips.sum(axis=-1)
        visited += visits
        fast += np.where(natten_fast_path(axis, size, w, s), visits, 0)
        dense += count * whole.sum(axis=-1)
        pairs += count * unmasked_pairs(size, w, s, causal=axis.causal)
        least, most = np.minimum(least, trips.min(axis=-1)), np.maximum(most, trips.max(axis=-1))
    return AxisCounts(visited, dense, pairs, least, most, fast)


def axis_trips(axis: Axis, window: ArrayLike, stride: ArrayLike) -> Ints:
    """Return the KV tiles visited by every Q tile of an axis; the last two dimensions are dilation classes, Q tiles.

    >>> axis_trips(Axis(64, 16, q_tile=16, kv_tile=8), 16, [1, 16]).tolist()
    [[[3, 4, 4, 3]], [[2, 2, 2, 2]]]
    """
    w = np.asarray(window, dtype=np.int64)
    parts = []
    for size, count in dilation_classes(axis.length, axis.dilation):
        parts += [class_trips(axis, size, w, stride)[0]] * count
    return np.stack(parts, axis=-2)
