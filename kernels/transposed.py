"""Reversed attention: softmax over the keys of each query, then aggregated back onto the keys: O = P^T V.

Cascade: `reversed_attention_2pass`. A key gathers from all queries, but each weight needs its query's denominator
first. So there are two passes: the log-sum-exp of every query, then a sweep over the queries for every tile of keys
that forms the weights again; the same shape as the value gradient of flash attention.
Tiling: block_m queries by block_n keys; the first pass walks keys, the second queries.
Exact: scores, log-sum-exp and sums are float32; half types round the weights and the result only.
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
from .primitives import LOG2E, fold, launch, of_head, tile_and_lane


@triton.jit
def row_logsumexp(q_ptr, k_ptr, lse_ptr, seq_q, seq_kv, scale, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """First pass: log-sum-exp, in base 2, of a tile of queries over all keys. Tensors are contiguous."""
    tile, base = tile_and_lane(tl.cdiv(seq_q, BLOCK_M))
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < seq_q) & (dims[None, :] < HEAD_DIM)
    q = tl.load(q_ptr + (base * seq_q + rows[:, None]) * HEAD_DIM + dims[None, :], mask=inside, other=0.0)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, seq_kv, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        mask = (cols[None, :] < seq_kv) & (dims[:, None] < HEAD_DIM)
        k = tl.load(k_ptr + (base * seq_kv + cols[None, :]) * HEAD_DIM + dims[:, None], mask=mask, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION)
        scores = tl.where(cols[None, :] < seq_kv, scores, float("-inf"))
        _, _, row_max, row_sum = fold(scores, scale, row_max, row_sum, False)
    tl.store(lse_ptr + base * seq_q + rows, row_max + tl.log2(row_sum), mask=rows < seq_q)


@triton.jit
def gathered_values(q_ptr, k_ptr, v_ptr, share_ptr, lse_ptr, out_ptr, seq_q, seq_kv, scale, HEAD_DIM: tl.constexpr,
                    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SHARED: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """Second pass: a tile of keys gathers the values of all queries, each with the share that its query gives."""
    tile, base = tile_and_lane(tl.cdiv(seq_kv, BLOCK_N))
    cols = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    inside = (cols[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM)
    keys = (base * seq_kv + cols[:, None]) * HEAD_DIM + dims[None, :]
    k = tl.load(k_ptr + keys, mask=inside, other=0.0)
    acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, seq_q, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        mask = (rows[:, None] < seq_q) & (dims[None, :] < HEAD_DIM)
        places = (base * seq_q + rows[:, None]) * HEAD_DIM + dims[None, :]
        q = tl.load(q_ptr + places, mask=mask, other=0.0)
        v = tl.load(v_ptr + places, mask=mask, other=0.0)
        # A query beyond the end has +inf, so that its weights are 0.
        lse = tl.load(lse_ptr + base * seq_q + rows, mask=rows < seq_q, other=float("inf"))
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        weights = tl.exp2(scores - lse[None, :])
        if SHARED:
            share = tl.load(share_ptr + base * seq_q + rows, mask=rows < seq_q, other=0.0).to(tl.float32)
            weights = weights * share[None, :]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    tl.store(out_ptr + keys, acc.to(out_ptr.dtype.element_ty), mask=inside)


@interpreted_on_cpu
def reversed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    share: torch.Tensor | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return P^T V with P the softmax over keys of Q K^T / sqrt(head_dim): a value belongs to a query.

    Args:
        q: [batch, heads, seq_q, head_dim].
        k: [batch, heads, seq_kv, head_dim].
        v: like q.
        share: [batch, heads, seq_q], factor on all that a query gives: DependencyViT's head selector times its message
            controller; 1 where not given.
        tile: block_m queries by block_n keys; the shipped choice for the device where not given.
        empty: makes output and scratch; the checker passes one that fills them with NaN.

    Returns:
        [batch, heads, seq_kv, head_dim].

    Raises:
        KernelError: shapes that do not fit.
    """
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, k)
    if v.shape != q.shape or v.dtype != q.dtype or kv_heads != heads:
        raise KernelError(
            f"expected v like q {list(q.shape)} and as many key heads, found {list(v.shape)}, {kv_heads}"
        )
    if share is not None and share.shape != q.shape[:3]:
        raise KernelError(f"share: expected {list(q.shape[:3])}, found {list(share.shape)}")
    tile = tile or tiles.choose("reversed_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    q, k, v = (t.contiguous() for t in (q, k, v))
    lse = empty((batch, heads, seq_q), dtype=torch.float32, device=q.device)
    out = empty((batch, heads, seq_kv, head_dim), dtype=q.dtype, device=q.device)
    sizes = (seq_q, seq_kv, head_dim**-0.5 * LOG2E)
    shape = of_head(head_dim, q.dtype.itemsize) | {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    launch(row_logsumexp, triton.cdiv(seq_q, tile.block_m) * batch * heads, tile)(q, k, lse, *sizes, **shape)
    launch(gathered_values, triton.cdiv(seq_kv, tile.block_n) * batch * heads, tile)(
        q, k, v, q if share is None else share.contiguous(), lse, out, *sizes, SHARED=share is not None, **shape,
    )  # fmt: skip
    return (out,)


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "log-sum-exp" or "gather".
    """
    gathers = variant == "gather"
    names = ("q_ptr", "k_ptr", "v_ptr", "out_ptr") if gathers else ("q_ptr", "k_ptr")
    pointers = dict.fromkeys(names, POINTER[dtype]) | {"lse_ptr": "*fp32"}
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
    }  # fmt: skip
    if gathers:
        pointers |= {"share_ptr": "*fp32"}
        constants |= {"SHARED": True}
    return Build("reversed_attention", variant, head_dim, dtype, tile,
                 gathered_values if gathers else row_logsumexp, pointers, ("scale",), (), constants)  # fmt: skip
