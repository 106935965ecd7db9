"""Attention to gathered blocks: for each query an index names the blocks of keys that it attends to.

Cascade: `attention_selected_blocks`; routed, retrieved and top-k attention differ in how the index is made, not here.
Tiling: one query with all heads of its group, which share the selection, by one block of keys.
Exact: scores, maximum, denominator and numerator are float32; half types round the weights and the result only.
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
from .primitives import LOG2E, block_of, finish, fold, launch, of_head, tile_and_lane


@triton.jit
def selected_blocks(q_ptr, k_ptr, v_ptr, index_ptr, out_ptr, lse_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
                    v_batch, v_head, v_row, heads, kv_heads, group, seq_q, seq_kv, selected, scale,
                    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_T: tl.constexpr,
                    CAUSAL: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One query of one group of heads; an index that is negative or beyond the last block names no key."""
    query, lane = tile_and_lane(seq_q)
    batch = lane // kv_heads
    kv_head = lane % kv_heads
    members = tl.arange(0, BLOCK_G)
    dims = tl.arange(0, BLOCK_D)
    inside = (members[:, None] < group) & (dims[None, :] < HEAD_DIM)
    head = kv_head * group + members
    q_ptrs = (
        q_ptr + batch * q_batch + head[:, None] * q_head + tl.cast(query, tl.int64) * q_row + dims[None, :]
    )
    q = tl.load(q_ptrs, mask=inside, other=0.0)
    k_ptr += batch * k_batch + kv_head * k_head
    v_ptr += batch * v_batch + kv_head * v_head
    index_ptr += (lane * seq_q + query) * selected
    acc = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_G], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_G], tl.float32)
    steps = tl.arange(0, BLOCK_T)
    for pick in range(0, selected):
        block = tl.load(index_ptr + pick)
        start = tl.maximum(block, 0).to(tl.int64) * BLOCK_T
        cols = start + steps
        limit = tl.where(block >= 0, seq_kv, 0)
        if CAUSAL:
            limit = tl.minimum(limit, query + seq_kv - seq_q + 1)
        seen = cols < limit
        k_mask = seen[None, :] & (dims[:, None] < HEAD_DIM)
        v_mask = seen[:, None] & (dims[None, :] < HEAD_DIM)
        k = tl.load(k_ptr + start * k_row + (steps[None, :] * k_row + dims[:, None]), mask=k_mask, other=0.0)
        scores = tl.where(seen[None, :], tl.dot(q, k, input_precision=PRECISION), float("-inf"))
        weights, shrink, row_max, row_sum = fold(scores, scale, row_max, row_sum, True)
        v = tl.load(v_ptr + start * v_row + (steps[:, None] * v_row + dims[None, :]), mask=v_mask, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    out, lse = finish(acc, row_max, row_sum)
    flat = (batch * heads + head) * seq_q + query
    out_ptrs = out_ptr + flat[:, None] * HEAD_DIM + dims[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + flat, lse, mask=members < group)


@interpreted_on_cpu
def selected_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    index: torch.Tensor,
    block: int = 16,
    causal: bool = True,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention of every query to the blocks that its index names, and the log-sum-exp.

    Args:
        q: [batch, heads, seq_q, head_dim].
        k: [batch, kv_heads, seq_kv, head_dim].
        v: like k.
        index: [batch, kv_heads, seq_q, selected] integers: different blocks; one that is negative or beyond
            the last block names no key.
        block: keys of a block, a power of two from 16.
        causal: a query sees no key after itself; the last query stands on the last key.
        tile: warps and stages; the shipped choice for the device where not given.
        empty: makes outputs; the checker passes one that fills them with NaN.

    Raises:
        KernelError: shapes that do not fit.
    """
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    if block < 16 or block & (block - 1):
        raise KernelError(f"block={block}: expected a power of two from 16")
    if index.shape[:-1] != (batch, kv_heads, seq_q) or index.is_floating_point():
        expected = f"integers [{batch}, {kv_heads}, {seq_q}, selected]"
        raise KernelError(f"index: expected {expected}, found {index.dtype} {list(index.shape)}")
    tile = tile or tiles.choose("selected_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    out = empty((batch, heads, seq_q, head_dim), dtype=q.dtype, device=q.device)
    lse = empty((batch, heads, seq_q), dtype=torch.float32, device=q.device)
    group = heads // kv_heads
    launch(selected_blocks, seq_q * batch * kv_heads, tile)(
        q, k, v, index.to(torch.int32).contiguous(), out, lse, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        heads, kv_heads, group, seq_q, seq_kv, index.shape[-1], head_dim**-0.5 * LOG2E,
        **of_head(head_dim, q.dtype.itemsize), BLOCK_G=block_of(group), BLOCK_T=block, CAUSAL=causal,
    )  # fmt: skip
    return out, lse


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler; block_m is the largest group, block_n the keys of a block."""
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype])
    pointers |= {"index_ptr": "*i32", "lse_ptr": "*fp32"}
    strides = tuple(f"{t}_{axis}" for t in "qkv" for axis in ("batch", "head", "row"))
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_G": tile.block_m, "BLOCK_T": tile.block_n,
        "CAUSAL": variant == "causal",
    }  # fmt: skip
    return Build("selected_attention", variant, head_dim, dtype, tile, selected_blocks, pointers, ("scale",), strides,
                 constants)  # fmt: skip
