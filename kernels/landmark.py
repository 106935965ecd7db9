"""Landmark attention: a grouped softmax, where the tokens of a past block share the weight of the block's landmark.

Cascade: `landmark_1pass`, and `landmark`, which it equals. The last token of every block of `period` tokens is its
landmark; past landmarks compete with the tokens of the query's own block, and each spreads its weight over its block.
Tiling: block_m queries by one block of keys: first the blocks that are past for all of them, then those that are not.
Exact: both softmaxes, denominator and numerator are float32; half types round the weights and the result only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import checked_shapes
from .interpreter import interpreted_on_cpu
from .primitives import LOG2E, block_of, launch, of_head, tile_and_lane


@triton.jit
def _blocks(acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, first, last, queries, seq, scale,
            PERIOD: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
            OWN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Fold the blocks of [first, last) into the running softmax; OWN: some may be a query's own block, or later."""
    token = tl.arange(0, BLOCK_T)
    dims = tl.arange(0, BLOCK_D)
    for block in range(first, last):
        start = tl.cast(block, tl.int64) * PERIOD
        there = (token < PERIOD) & (start + token < seq)
        k_mask = there[None, :] & (dims[:, None] < HEAD_DIM)
        v_mask = there[:, None] & (dims[None, :] < HEAD_DIM)
        k = tl.load(k_ptr + start * k_row + (token[None, :] * k_row + dims[:, None]), mask=k_mask, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        landmark = tl.sum(tl.where(token[None, :] == PERIOD - 1, scores, 0.0), 1)
        scores = tl.where(there[None, :] & (token[None, :] < PERIOD - 1), scores, float("-inf"))
        shares = tl.exp2(scores - tl.max(scores, 1)[:, None])
        if OWN:
            past = block < queries // PERIOD
            mine = (block == queries // PERIOD)[:, None] & (token[None, :] <= (queries % PERIOD)[:, None])
            own = tl.where(mine, scores, float("-inf"))
            # Every query has a finite maximum from block 0 on, which is past for it or its own.
            new_max = tl.maximum(row_max, tl.where(past, landmark, tl.max(own, 1)))
            weight = tl.where(past, tl.exp2(landmark - new_max), 0.0)
            own = tl.exp2(own - new_max[:, None])
            weights = shares * (weight / tl.sum(shares, 1))[:, None] + own
            weight += tl.sum(own, 1)
        else:
            new_max = tl.maximum(row_max, landmark)
            weight = tl.exp2(landmark - new_max)
            weights = shares * (weight / tl.sum(shares, 1))[:, None]
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + weight
        row_max = new_max
        v = tl.load(v_ptr + start * v_row + (token[:, None] * v_row + dims[None, :]), mask=v_mask, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return acc, row_max, row_sum


@triton.jit
def landmark_forward(q_ptr, k_ptr, v_ptr, out_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
                     v_batch, v_head, v_row, heads, group, seq, scale, PERIOD: tl.constexpr, HEAD_DIM: tl.constexpr,
                     BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr,
                     PRECISION: tl.constexpr):  # fmt: skip
    """One tile of queries of one head against every block up to its last query's own."""
    row_tiles = tl.cdiv(seq, BLOCK_M)
    tile, lane = tile_and_lane(row_tiles)
    # The longest rows first, so that the last wave is made of short ones.
    p0 = (row_tiles - 1 - tile) * BLOCK_M
    batch = lane // heads
    head = lane % heads
    steps = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    # Queries beyond the end do as the last one does, and are not stored.
    queries = tl.minimum(p0 + steps, seq - 1)
    inside = (p0 + steps[:, None] < seq) & (dims[None, :] < HEAD_DIM)
    q_ptr += batch * q_batch + head * q_head + tl.cast(p0, tl.int64) * q_row
    q = tl.load(q_ptr + (steps[:, None] * q_row + dims[None, :]), mask=inside, other=0.0)
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    past = p0 // PERIOD
    last = (tl.minimum(p0 + BLOCK_M, seq) - 1) // PERIOD + 1
    acc, row_max, row_sum = _blocks(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, 0, past, queries, seq, scale, PERIOD, HEAD_DIM, BLOCK_D,
        BLOCK_T, False, PRECISION,
    )  # fmt: skip
    acc, row_max, row_sum = _blocks(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, past, last, queries, seq, scale, PERIOD, HEAD_DIM,
        BLOCK_D, BLOCK_T, True, PRECISION,
    )  # fmt: skip
    out_ptr += (lane * seq + p0) * HEAD_DIM
    out = (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + (steps[:, None] * HEAD_DIM + dims[None, :]), out, mask=inside)


@interpreted_on_cpu
def landmark_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    period: int = 64,
    scale: float | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return causal attention with a grouped softmax over blocks and their landmarks.

    Args:
        q: [batch, heads, sequence, head_dim].
        k: [batch, kv_heads, sequence, head_dim].
        v: like k.
        period: tokens of a block, its landmark included; 2 to 256. The last block of the sequence may be incomplete.
        scale: head_dim ** -0.5 where not given.
        tile: block_m queries, warps and stages; the shipped choice for the device where not given.
        empty: makes the output; the checker passes one that fills it with NaN.

    Raises:
        KernelError: shapes or a period that do not fit.
    """
    batch, heads, seq, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    if seq_kv != seq:
        raise KernelError(f"k, v: expected as many tokens as q, {seq}, found {seq_kv}")
    if not 2 <= period <= 256:
        raise KernelError(f"period={period}: expected 2 to 256 tokens, one of them the landmark")
    tile = tile or tiles.choose("landmark_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    scale = head_dim**-0.5 if scale is None else scale
    out = empty((batch, heads, seq, head_dim), dtype=q.dtype, device=q.device)
    launch(landmark_forward, triton.cdiv(seq, tile.block_m) * batch * heads, tile)(
        q, k, v, out, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], heads, heads // kv_heads, seq, scale * LOG2E,
        PERIOD=period, **of_head(head_dim, q.dtype.itemsize), BLOCK_M=tile.block_m, BLOCK_T=block_of(period),
    )  # fmt: skip
    return (out,)


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler; block_n is the period of the landmarks."""
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype])
    strides = tuple(f"{t}_{axis}" for t in "qkv" for axis in ("batch", "head", "row"))
    constants = {
        "PERIOD": tile.block_n, **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_M": tile.block_m,
        "BLOCK_T": tile.block_n,
    }  # fmt: skip
    return Build("landmark_attention", variant, head_dim, dtype, tile, landmark_forward, pointers, ("scale",), strides,
                 constants)  # fmt: skip
