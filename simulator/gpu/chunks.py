"""Chunked linear attention as score tiles: a chunk sees itself and a state, so that work per token is constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.errors import MappingError
from mappings.gpu import KernelMapping, TileMapping

from .call import Call
from .visits import Visits

Floats = NDArray[np.float64]


def chunk_visits(calls: Sequence[Call], tile: TileMapping) -> Visits:
    """Return the tiles of each chunk: one masked tile of its own scores, and the state as full tiles.

    Reading and updating a state of head_dim x head_dim costs a chunk as much as head_dim more keys would.

    >>> v = chunk_visits([Call(1, 1, 256, 256, 128, causal=True)], TileMapping(query=64, key=64))
    >>> v.full.tolist(), v.masked.tolist(), v.skipped.tolist()
    ([[2, 2, 2, 2]], [[1, 1, 1, 1]], [0])
    """
    chunks = np.array([-(-c.seq_q // tile.query) for c in calls])
    state = -(-calls[0].head_dim // tile.key)
    own = -(-tile.query // tile.key)
    real = (np.arange(chunks.max()) < chunks[:, None]).astype(np.int64)
    return Visits(real * state, real * own, chunks, np.full(len(calls), state + own))


def chunk_flops(call: Call, tile: TileMapping, *, tensor: float) -> float:
    """Return the useful operations: causal pairs within chunks, and head_dim of state for each token."""
    whole, rest = divmod(call.seq_q, tile.query)
    pairs = whole * tile.query * (tile.query + 1) / 2 + rest * (rest + 1) / 2
    return tensor * call.batch * call.heads * call.head_dim * (pairs + call.seq_q * float(call.head_dim))


def extra_bytes(call: Call, mapping: KernelMapping, tile: TileMapping) -> float:
    """Return the bytes that a kernel moves beyond its inputs and outputs: scores or states that leave the chip."""
    heads = call.batch * call.heads
    scores = mapping.score_bytes * heads * float(call.seq_q) * call.seq_kv
    scores *= 1.0 + (mapping.mask_passes if call.causal else 0.0)
    chunks = -(-call.seq_q // tile.query)
    return scores + mapping.state_bytes * heads * chunks * float(call.head_dim) ** 2


def require_chunks(calls: Sequence[Call], mapping: KernelMapping, direction: str) -> None:
    """Refuse what chunked linear attention does not mean.

    Raises:
        MappingError: a window, a backward pass, no causal mask, or keys that are not the queries' own.
    """
    for call in calls:
        if direction != "fwd" or not call.causal or call.window or call.seq_kv != call.seq_q:
            raise MappingError(
                f"{mapping.name}: expected a forward call with causal=1, no window and seq_kv = seq_q; found "
                f"direction={direction}, causal={int(call.causal)}, window={call.window}, seq_kv={call.seq_kv}, "
                f"seq_q={call.seq_q}; for the gradients predict linear_attention_gradients"
            )
