"""Into how many parts kernels split the keys of a call, and what each part has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mappings.gpu import KernelMapping
from mappings.tiles import TileMapping

from .call import Call
from .visits import reach

Floats = NDArray[np.float64]

# flash-attention, hopper/heuristics.h: key tiles up to which it does not split, the part of the chip that blocks have
# to leave idle before it does, most parts, the part of the best fill that is good enough, and the share of a slot.
_FEW_KEYS, _ALMOST_FULL, _MOST_PARTS, _GOOD_ENOUGH, _SHARE = 4, 0.8, 128, 0.85, 1.1


@dataclass(frozen=True, slots=True)
class Dealt:
    """Runs of blocks whose keys are dealt out in parts, each part a block of its own.

    Attributes:
        full, masked, walked, runs: as in `Launch`; of a run first its whole parts, then its last one.
        parts: shape (n,), into how many the keys of a call are split.
    """

    full: Floats
    masked: Floats
    walked: Floats
    runs: Floats
    parts: Floats


def split(
    calls: Sequence[Call],
    *,
    mapping: KernelMapping,
    tile: TileMapping,
    sms: int,
    most: int,
    copies: Floats,
    blocks: tuple[Floats, Floats, Floats, Floats],
) -> Dealt:
    """Return the blocks of a forward pass of a kernel that splits keys.

    Args:
        most: blocks that an SM holds; `copies`: shape (n,), how often the runs occur.
        blocks: full, masked and walked tiles of each run, and how many blocks it has.
    """
    full, masked, walked, runs = blocks
    visited = full + masked
    if mapping.split_slots:
        planned = [_planned(c, mapping, tile, sms) for c in calls]
        parts = np.array([n for n, _ in planned], dtype=np.float64)
        least = np.ceil(np.array([[keys] for _, keys in planned], dtype=np.float64) / tile.key)
    else:
        parts = _split(visited, runs.sum(axis=1) * copies, slots=sms * most)
        least = np.zeros((len(parts), 1))
    # A window that starts within a tile may visit one more than its keys fill.
    share = np.where(parts[:, None] > 1, np.maximum(least, np.ceil(visited / parts[:, None])), visited)
    return Dealt(*_deal(full, masked, walked, runs, share=share), parts)


def _deal(
    full: Floats, masked: Floats, walked: Floats, runs: Floats, *, share: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the runs of parts: a block's tiles are handed out `share` at a time, and the last part takes the rest.

    A part without a tile is no block: the kernel leaves it at once. Every part has its even share of masked tiles.

    >>> ones = np.ones((1, 1))
    >>> full, masked, _, runs = _deal(7 * ones, ones, 0 * ones, 2 * ones, share=3 * ones)
    >>> (full + masked).tolist(), runs.tolist()
    ([[3.0, 2.0]], [[4.0, 2.0]])
    """
    visited = full + masked
    each = np.clip(share, 1.0, np.maximum(visited, 1.0))
    used = np.maximum(np.ceil(visited / each), 1.0)
    rest = visited - (used - 1.0) * each
    of_block = np.concatenate([each, rest], axis=1) / np.tile(np.maximum(visited, 1.0), 2)
    counts = np.concatenate([runs * (used - 1.0), runs], axis=1)

    def of_parts(tiles: Floats) -> Floats:
        return np.where(counts > 0, np.tile(tiles, 2) * of_block, 0.0)

    return of_parts(full), of_parts(masked), of_parts(walked), counts


def _split(tiles_of_block: Floats, blocks: Floats, *, slots: int) -> Floats:
    """Return into how many parts each call's keys are dealt out, so that its blocks fill the chip."""
    tiles = np.maximum(tiles_of_block.max(axis=1), 1.0)
    parts = np.ones(len(blocks))
    for i in np.flatnonzero((tiles > _FEW_KEYS) & (blocks < _ALMOST_FULL * slots)):
        parts[i] = _parts(float(blocks[i]), int(tiles[i]), slots)
    return parts


def _planned(call: Call, mapping: KernelMapping, tile: TileMapping, sms: int) -> tuple[int, int]:
    """Return into how many parts the host plans to split the keys, as many as its slots hold, and the keys of a part.

    Of a window it counts what the rows of a query tile can see at the most, and starts each tile's parts there.

    Source: flashinfer, include/flashinfer/attention/scheduler.cuh, PrefillSplitQOKVIndptr: the shortest part with which
        query tiles, parts and key heads stay within two blocks a multiprocessor; at least 128 keys.

    >>> tile = TileMapping(query=128, key=64)
    >>> mapping = KernelMapping("m", "k", ("*",), "", (tile,), pack=True, split_slots=2)
    >>> [_planned(Call(4, 16, n, n, 128, kv_heads=8), mapping, tile, 142) for n in (256, 512, 1024)]
    [(2, 128), (1, 512), (1, 1024)]
    >>> _planned(Call(1, 16, 1024, 1024, 128, kv_heads=1, causal=True, window=128), mapping, tile, 142)
    (2, 128)
    """
    heads = call.key_heads if mapping.pack else call.heads
    rows = tile.planned_rows or tile.query
    tiles = call.batch * -(-call.seq_q * (call.heads // heads) // rows)
    most = max(mapping.split_slots * sms // heads // tiles, 1)
    keys = call.seq_kv
    if call.window and mapping.skips_window:
        left, right = reach(causal=call.causal, window=call.window)
        keys = min(int(left) + int(right) + rows, keys)
    shortest = max(-(-keys // most), mapping.split_least)
    return -(-keys // shortest), shortest


def _parts(blocks: float, tiles: int, slots: int) -> int:
    """Return into how many parts a kernel splits the keys: enough to fill the chip, no more than even shares ask for.

    Source: flash-attention, hopper/heuristics.h, num_splits_heuristic: the least number whose last wave leaves little
        idle; hopper/flash_prepare_scheduler.cu: key tiles per multiprocessor, a tenth more than an even share.

    >>> _parts(80.0, 128, 132), _parts(1.0, 8, 132)
    (2, 7)
    """
    waves = blocks * np.arange(1, min(_MOST_PARTS, slots, tiles) + 1) / slots
    filled = waves / np.ceil(waves)
    fills = int(np.argmax(filled >= _GOOD_ENOUGH * filled.max())) + 1
    share = np.ceil(_SHARE * blocks * tiles / slots)
    return int(min(fills, np.ceil(tiles / share)))
