"""Calls laid on a GPU: tiles per block, blocks, slots, bytes; everything that no calibration changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mappings.gpu import KernelMapping, TileMapping

from ..hardware.gpu import Gpu
from .call import Call
from .chunks import chunk_flops, chunk_visits, extra_bytes, require_chunks
from .occupancy import blocks_per_sm, require_fit
from .tile import TileTime, tile_time
from .visits import Visits, reach, tile_visits

Floats = NDArray[np.float64]

_FEW_KEYS = 4  # key tiles up to which kernels do not split (flash-attention, hopper/heuristics.h)


@dataclass(frozen=True, slots=True)
class Launch:
    """n calls of one kernel, tile and operand type on one GPU.

    Attributes:
        tile_times: cycles of a score tile.
        full, masked: shape (n, M), tiles of each block along M; `walked`: tiles outside the window that the kernel
            walks over all the same; `counts`: shape (3, n), full, masked and skipped tiles of the whole call.
        copies: shape (n,), how often the row of blocks occurs (batch and heads).
        most: blocks that an SM can hold; `resident`: shape (n,), blocks that share one.
        flops: shape (n,), useful operations; likewise the compulsory bytes of the attention itself and of the
            copy of keys and values into the cache.
    """

    gpu: Gpu
    head_dim: int
    dtype: str
    mapping: KernelMapping
    tile: TileMapping
    tile_times: TileTime
    full: Floats
    masked: Floats
    walked: Floats
    windowed: NDArray[np.bool_]
    counts: Floats
    copies: Floats
    most: int
    resident: Floats
    flops: Floats
    bytes_moved: Floats
    bytes_appended: Floats
    footprint: Floats

    @property
    def tiles_of_block(self) -> Floats:
        """Score tiles of each block in units of full ones, shape (n, M)."""
        return self.full + self.mapping.mask_factor * self.masked

    @property
    def mask_cycles_of_block(self) -> Floats:
        """Cycles that a window's mask costs each block, on tiles that it visits and on tiles that it walks over."""
        scores = self.tile.query * self.tile.key
        visited = np.where(self.windowed[:, None], self.full + self.masked, 0.0)
        return scores * (self.mapping.window_cycles * visited + self.mapping.walk_cycles * self.walked)

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which entries along M are blocks that run, shape (n, M)."""
        return (self.full + self.masked) > 0

    @property
    def blocks(self) -> Floats:
        """Blocks of each call, shape (n,)."""
        return np.asarray(self.real.sum(axis=1) * self.copies, dtype=np.float64)

    @property
    def crowding(self) -> Floats:
        """Time of a block's tile in units of its time alone on an SM of a full chip, shape (n,)."""
        out: Floats = np.where(self.blocks < self.gpu.sms, max(self.tile.lone, 1.0), self.resident)
        return out

    @property
    def slots(self) -> NDArray[np.int64]:
        """Blocks that the chip holds at a time, shape (n,)."""
        return np.asarray(self.resident * self.gpu.sms, dtype=np.int64)


def launch(
    calls: Sequence[Call], gpu: Gpu, *, mapping: KernelMapping, tile: TileMapping, direction: str = "fwd"
) -> Launch:
    """Return calls laid on a GPU; all share `head_dim`, `dtype` and the tile.

    Args:
        direction: "fwd", or "bwd", where a block owns a key tile and walks over the query tiles.

    Raises:
        MappingError: the tile does not fit the GPU.
    """
    first = calls[0]
    require_fit(gpu, tile, head_dim=first.head_dim, dtype=first.dtype)
    per_score = mapping.per_score if direction == "fwd" else mapping.backward
    timed = tile_time(
        gpu, tile, head_dim=first.head_dim, dtype=first.dtype, per_score=per_score, kv_dtype=first.kv_dtype
    )
    most = blocks_per_sm(gpu, tile)
    visits = _visits(calls, mapping, tile, direction)
    heads = [c.key_heads if mapping.pack and direction == "fwd" else c.heads for c in calls]
    copies = np.array([c.batch * h for c, h in zip(calls, heads, strict=True)], dtype=np.float64)
    counts = np.stack([visits.full.sum(axis=1), visits.masked.sum(axis=1), visits.skipped]) * copies
    full, masked = visits.full.astype(np.float64), visits.masked.astype(np.float64)
    walked = _walked(calls, mapping, tile, visits)
    if mapping.split_keys:
        full, masked, copies = _split(full, masked, copies, slots=gpu.sms * most)
    blocks = ((full + masked) > 0).sum(axis=1) * copies
    moved, appended, footprint = _bytes(calls, mapping, tile, direction)
    return Launch(
        gpu=gpu,
        head_dim=first.head_dim,
        dtype=first.dtype,
        mapping=mapping,
        tile=tile,
        tile_times=timed,
        full=full,
        masked=masked,
        walked=walked,
        windowed=np.array([c.window > 0 for c in calls]),
        counts=counts,
        copies=copies,
        most=most,
        resident=np.asarray(np.clip(np.ceil(blocks / gpu.sms), 1, most), dtype=np.float64),
        flops=np.array([_flops(c, mapping, tile, per_score.tensor) for c in calls]),
        bytes_moved=moved,
        bytes_appended=appended,
        footprint=footprint,
    )


def _flops(call: Call, mapping: KernelMapping, tile: TileMapping, tensor: float) -> float:
    return chunk_flops(call, tile, tensor=tensor) if mapping.chunked else call.flops(tensor=tensor)


def _bytes(
    calls: Sequence[Call], mapping: KernelMapping, tile: TileMapping, direction: str
) -> tuple[Floats, Floats, Floats]:
    """Return the bytes of the attention, of the copy into the cache before it, and of all tensors together."""
    # The backward pass reads what the forward pass read and wrote, and writes as many gradients.
    scale = 1.0 if direction == "fwd" else 2.0
    cache = np.array([c.key_bytes() for c in calls])
    extra = np.array([extra_bytes(c, mapping, tile) for c in calls])
    moved = scale * (np.array([c.query_bytes() for c in calls]) + cache + extra)
    if not mapping.appends:
        return moved, np.zeros(len(calls)), moved
    given = np.array([c.key_bytes(stored=False) + c.converted_bytes() for c in calls])
    return moved, cache + given, moved + given


def _walked(calls: Sequence[Call], mapping: KernelMapping, tile: TileMapping, visits: Visits) -> Floats:
    """Return the tiles that the window cuts off and the kernel's loop still walks over."""
    if not mapping.walk_cycles or not any(c.window for c in calls):
        return np.zeros(visits.full.shape)
    whole = _visits(calls, replace(mapping, skips_window=False), tile, "fwd")
    return np.asarray(whole.visited - visits.visited, dtype=np.float64)


def _visits(calls: Sequence[Call], mapping: KernelMapping, tile: TileMapping, direction: str) -> Visits:
    """Return the visits; in the backward direction with queries and keys in each other's place."""
    if mapping.chunked:
        require_chunks(calls, mapping, direction)
        return chunk_visits(calls, tile)
    seq_q = np.array([c.seq_q for c in calls])
    seq_kv = np.array([c.seq_kv for c in calls])
    causal = np.array([c.causal and mapping.skips_causal for c in calls])
    window = np.array([c.window if mapping.skips_window else 0 for c in calls])
    left, right = reach(causal=causal, window=window)
    if direction != "fwd":
        return tile_visits(
            seq_kv, seq_q, query=tile.query, key=tile.key, left=right, right=left, offset=seq_q - seq_kv
        )
    group = np.array([c.group if mapping.pack else 1 for c in calls])
    return tile_visits(seq_q, seq_kv, query=tile.query, key=tile.key, left=left, right=right, group=group)


def _split(full: Floats, masked: Floats, copies: Floats, *, slots: int) -> tuple[Floats, Floats, Floats]:
    """Return the blocks with their key tiles dealt out over as many blocks as the chip has room for."""
    tiles = np.maximum((full + masked).max(axis=1), 1.0)
    blocks = ((full + masked) > 0).sum(axis=1) * copies
    parts = np.where(tiles > _FEW_KEYS, np.clip(np.floor(slots / np.maximum(blocks, 1.0)), 1.0, tiles), 1.0)
    return np.ceil(full / parts[:, None]), np.ceil(masked / parts[:, None]), copies * parts
