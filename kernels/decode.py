"""Few queries, many keys: the keys are split over thread blocks, and the partial attentions are merged.

Cascade: `attention_split_decode`: each split is corrected by its own log-sum-exp. The merge alone is also the step of
ring attention (`ring_attention`), where the partial results come from other devices.
Tiling: block_m rows, that is all queries of all heads that share a key head, by block_n keys of one split.
Exact: partial results, log-sum-exps and the merge are float32; half types round the weights and the result only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import check_words, checked_shapes
from .interpreter import interpreted_on_cpu
from .primitives import LOG2E, block_of, finish, fold, launch, of_head, tile_and_lane

# Rows of partial results that a thread block merges: it multiplies no tiles and is bound by memory.
MERGE = tiles.Tile(16, 16, 4, 1)


@triton.jit
def decode_split(q_ptr, k_ptr, v_ptr, part_ptr, lse_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
                 v_batch, v_head, v_row, heads, kv_heads, group, seq_q, seq_kv, splits, keys_per_split, part_split,
                 scale, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                 PRECISION: tl.constexpr):  # fmt: skip
    """One split of the keys, for a tile of rows: all queries of all heads that share a key head."""
    tile, lane = tile_and_lane(splits * tl.cdiv(group * seq_q, BLOCK_M))
    split = tile % splits
    batch = lane // kv_heads
    kv_head = lane % kv_heads
    packed = tile // splits * BLOCK_M + tl.arange(0, BLOCK_M)
    there = packed < group * seq_q
    head = kv_head * group + packed // seq_q
    query = packed % seq_q
    dims = tl.arange(0, BLOCK_D)
    inside = there[:, None] & (dims[None, :] < HEAD_DIM)
    q_ptrs = q_ptr + batch * q_batch + head[:, None] * q_head + query[:, None] * q_row + dims[None, :]
    q = tl.load(q_ptrs, mask=inside, other=0.0)
    k_ptr += batch * k_batch + kv_head * k_head
    v_ptr += batch * v_batch + kv_head * v_head

    first = split * keys_per_split
    last = tl.minimum(first + keys_per_split, seq_kv)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    steps = tl.arange(0, BLOCK_N)
    for start in range(first, last, BLOCK_N):
        cols = start + steps
        k_tile = k_ptr + tl.cast(start, tl.int64) * k_row
        v_tile = v_ptr + tl.cast(start, tl.int64) * v_row
        seen = (cols[None, :] < last) & (cols[None, :] <= query[:, None] + seq_kv - seq_q)
        k_mask = (cols[None, :] < last) & (dims[:, None] < HEAD_DIM)
        v_mask = (cols[:, None] < last) & (dims[None, :] < HEAD_DIM)
        k = tl.load(k_tile + (steps[None, :] * k_row + dims[:, None]), mask=k_mask, other=0.0)
        scores = tl.where(seen, tl.dot(q, k, input_precision=PRECISION), float("-inf"))
        weights, shrink, row_max, row_sum = fold(scores, scale, row_max, row_sum, True)
        v = tl.load(v_tile + (steps[:, None] * v_row + dims[None, :]), mask=v_mask, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)

    part, lse = finish(acc, row_max, row_sum)
    # Rows of the partial results: [splits, batch, heads, seq_q].
    flat = tl.cast(split, tl.int64) * part_split + (batch * heads + head) * seq_q + query
    tl.store(part_ptr + flat[:, None] * HEAD_DIM + dims[None, :], part, mask=inside)
    tl.store(lse_ptr + flat, lse, mask=there)


@triton.jit
def merge_parts(part_ptr, part_lse_ptr, out_ptr, lse_ptr, parts, rows_total,
                HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr):  # fmt: skip
    """Weight partial attentions by the exponentials of their log-sum-exps: one pass, a running maximum."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    there = rows < rows_total
    inside = there[:, None] & (dims[None, :] < HEAD_DIM)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for part in range(0, parts):
        flat = tl.cast(part, tl.int64) * rows_total + rows
        lse = (
            tl.load(part_lse_ptr + flat, mask=there, other=float("-inf")).to(tl.float32) * 1.4426950408889634
        )
        new_top = tl.maximum(top, lse)
        finite_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp2(lse - finite_top)
        shrink = tl.exp2(top - finite_top)
        value = tl.load(part_ptr + flat[:, None] * HEAD_DIM + dims[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        acc = acc * shrink[:, None] + value * weight[:, None]
        total = total * shrink + weight
        top = new_top
    out, lse = finish(acc, top, total)
    out_ptrs = out_ptr + rows[:, None] * HEAD_DIM + dims[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + rows, lse, mask=there)


@interpreted_on_cpu
def merge_attention(
    parts: torch.Tensor,
    part_lse: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention over all keys from attentions over disjoint parts of them.

    Args:
        parts: [parts, ..., rows, head_dim], each normalised over its own keys, contiguous.
        part_lse: [parts, ..., rows], their log-sum-exps; -inf for a part without keys.
        dtype: of the result; that of the parts where not given.
        empty: makes the outputs; the checker passes one that fills them with NaN.

    Returns:
        [..., rows, head_dim] and the log-sum-exp [..., rows].
    """
    if part_lse.shape != parts.shape[:-1]:
        raise KernelError(f"part_lse: expected {list(parts.shape[:-1])}, found {list(part_lse.shape)}")
    check_words(parts=parts)
    parts, part_lse = parts.contiguous(), part_lse.contiguous()
    head_dim = parts.shape[-1]
    out = empty(tuple(parts.shape[1:]), dtype=dtype or parts.dtype, device=parts.device)
    lse = empty(tuple(part_lse.shape[1:]), dtype=torch.float32, device=parts.device)
    rows = lse.numel()
    launch(merge_parts, triton.cdiv(rows, MERGE.block_m), MERGE)(
        parts, part_lse, out, lse, parts.shape[0], rows, HEAD_DIM=head_dim, BLOCK_D=block_of(head_dim),
        BLOCK_M=MERGE.block_m,
    )  # fmt: skip
    return out, lse


@interpreted_on_cpu
def decode_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    splits: int = 8,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return causal attention of the last few tokens over a long cache, and its log-sum-exp.

    Args:
        q: [batch, heads, seq_q, head_dim]; the last query stands on the last key.
        k: [batch, kv_heads, seq_kv, head_dim].
        v: like k.
        splits: thread blocks that share the keys of a head.
        tile: shape, warps and stages; the shipped choice for the device where not given.
        empty: makes outputs and partial results; the checker passes one that fills them with NaN.
    """
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    if splits < 1:
        raise KernelError(f"splits={splits}: expected 1 or more")
    if seq_q * q.stride(-2) >= 2**31:
        raise KernelError(
            f"q: expected few queries, less than {2**31} elements from the first to the last of a head, found "
            f"{seq_q} with strides {q.stride()}"
        )
    tile = tile or tiles.choose("decode_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    group = heads // kv_heads
    parts = empty((splits, batch, heads, seq_q, head_dim), dtype=torch.float32, device=q.device)
    part_lse = empty((splits, batch, heads, seq_q), dtype=torch.float32, device=q.device)
    keys = triton.cdiv(triton.cdiv(seq_kv, splits), tile.block_n) * tile.block_n
    row_tiles = triton.cdiv(group * seq_q, tile.block_m)
    launch(decode_split, splits * row_tiles * batch * kv_heads, tile)(
        q, k, v, parts, part_lse, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], heads, kv_heads, group, seq_q,
        seq_kv, splits, keys, batch * heads * seq_q, head_dim**-0.5 * LOG2E, **of_head(head_dim, q.dtype.itemsize),
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
    )  # fmt: skip
    return merge_attention(parts, part_lse, dtype=q.dtype, empty=empty)


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "split" or "merge", whose tile is always `MERGE`.
    """
    if variant == "merge":
        pointers = dict.fromkeys(("part_ptr", "part_lse_ptr", "lse_ptr"), "*fp32") | {
            "out_ptr": POINTER[dtype]
        }
        return Build("decode_attention", variant, head_dim, dtype, MERGE, merge_parts, pointers, (), (),
                     {"HEAD_DIM": head_dim, "BLOCK_D": block_of(head_dim), "BLOCK_M": MERGE.block_m})  # fmt: skip
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), POINTER[dtype])
    pointers |= dict.fromkeys(("part_ptr", "lse_ptr"), "*fp32")
    strides = tuple(f"{t}_{axis}" for t in "qkv" for axis in ("batch", "head", "row"))
    constants = of_head(head_dim, WORD_BYTES[dtype]) | {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    return Build("decode_attention", variant, head_dim, dtype, tile, decode_split, pointers, ("scale",),
                 (*strides, "keys_per_split"), constants)  # fmt: skip
