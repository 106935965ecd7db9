"""Reversed attention: softmax over the keys of each query, then aggregated back onto the keys: O = P^T V.

Tied to `reversed_attention_2pass`. A key gathers from all queries, but each weight needs its query's denominator first.
So there are two passes: the log-sum-exp of every query, then a sweep over the queries for every tile of keys that forms
the weights again; the same shape as the value gradient of flash attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import LOG2E, checked_shapes, precision
from .interpreter import interpreted_on_cpu


@triton.jit
def row_logsumexp(q_ptr, k_ptr, lse_ptr, seq_q, seq_kv, scale, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """First pass: log-sum-exp, in base 2, of a tile of queries over all keys. Tensors are contiguous."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    base = tl.program_id(1).to(tl.int64)
    inside = (rows[:, None] < seq_q) & (dims[None, :] < HEAD_DIM)
    q = tl.load(q_ptr + (base * seq_q + rows[:, None]) * HEAD_DIM + dims[None, :], mask=inside, other=0.0)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, seq_kv, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        mask = (cols[None, :] < seq_kv) & (dims[:, None] < HEAD_DIM)
        k = tl.load(k_ptr + (base * seq_kv + cols[None, :]) * HEAD_DIM + dims[:, None], mask=mask, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        scores = tl.where(cols[None, :] < seq_kv, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        row_sum = row_sum * tl.exp2(row_max - new_max) + tl.sum(tl.exp2(scores - new_max[:, None]), 1)
        row_max = new_max
    tl.store(lse_ptr + base * seq_q + rows, row_max + tl.log2(row_sum), mask=rows < seq_q)


@triton.jit
def gathered_values(q_ptr, k_ptr, v_ptr, lse_ptr, out_ptr, seq_q, seq_kv, scale, HEAD_DIM: tl.constexpr,
                    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """Second pass: a tile of keys gathers the values of all queries."""
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    base = tl.program_id(1).to(tl.int64)
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
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    tl.store(out_ptr + keys, acc.to(out_ptr.dtype.element_ty), mask=inside)


@interpreted_on_cpu
def reversed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return P^T V with P the softmax over keys of Q K^T / sqrt(head_dim): a value belongs to a query.

    Args:
        q: [batch, heads, seq_q, head_dim].
        k: [batch, heads, seq_kv, head_dim].
        v: like q.
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
    tile = tile or tiles.choose("reversed_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    q, k, v = (t.contiguous() for t in (q, k, v))
    lse = empty((batch, heads, seq_q), dtype=torch.float32, device=q.device)
    out = empty((batch, heads, seq_kv, head_dim), dtype=q.dtype, device=q.device)
    sizes = (seq_q, seq_kv, head_dim**-0.5 * LOG2E)
    shape = {
        "HEAD_DIM": head_dim, "BLOCK_D": max(16, triton.next_power_of_2(head_dim)), "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n, "PRECISION": precision(q.dtype), "num_warps": tile.warps,
        "num_stages": tile.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    row_logsumexp[(triton.cdiv(seq_q, tile.block_m), batch * heads)](q, k, lse, *sizes, **shape)
    gathered_values[(triton.cdiv(seq_kv, tile.block_n), batch * heads)](q, k, v, lse, out, *sizes, **shape)
    return (out,)


def builds(target: int) -> Iterator[Build]:
    """Yield the shipped specialisations for a compute capability: both passes."""
    for head_dim in (64, 128):
        tile = tiles.pick(
            "reversed_attention", head_dim=head_dim, word_bytes=WORD_BYTES["bf16"], target=target
        )
        constants = {
            "HEAD_DIM": head_dim, "BLOCK_D": head_dim, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
            "PRECISION": "tf32",
        }  # fmt: skip
        for variant, function, names in (
            ("log-sum-exp", row_logsumexp, ("q_ptr", "k_ptr")),
            ("gather", gathered_values, ("q_ptr", "k_ptr", "v_ptr", "out_ptr")),
        ):
            pointers = dict.fromkeys(names, POINTER["bf16"]) | {"lse_ptr": "*fp32"}
            yield Build("reversed_attention", variant, head_dim, "bf16", tile, function, pointers, ("scale",), (),
                        constants)  # fmt: skip
