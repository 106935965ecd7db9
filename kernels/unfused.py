"""Attention in three and in two passes over the keys, scores in memory: the baselines that show what a pass costs.

Cascades: `attention_3pass` (maximum; denominator; division and second product) and `attention_2pass` (the division
comes after the second product, so that denominator and numerator share a pass).
Tiling: block_m queries by block_n keys, for the products and for the sweeps over a row of scores.
Rows of scores are padded to a multiple of 16 with -inf, so that they are read and written in vectors.
Exact: scores and sums are float32; half types round the weights and the result only.
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
from .primitives import LOG2E, launch, of_head, tile_and_lane

# Rows that a thread block of the softmax sweeps: it multiplies no tiles and is bound by memory.
SOFTMAX_ROWS = 16


@triton.jit
def score_product(q_ptr, k_ptr, s_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row, heads, group, seq_q, seq_kv,
                  s_row, scale, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One tile of scaled scores, in base 2; a masked score is -inf, and so is the padding of a row."""
    row_tiles = tl.cdiv(seq_q, BLOCK_M)
    tile, lane = tile_and_lane(row_tiles * tl.cdiv(seq_kv, BLOCK_N))
    batch = lane // heads
    head = lane % heads
    steps_m = tl.arange(0, BLOCK_M)
    steps_n = tl.arange(0, BLOCK_N)
    m0 = tile % row_tiles * BLOCK_M
    n0 = tile // row_tiles * BLOCK_N
    rows = m0 + steps_m
    cols = n0 + steps_n
    dims = tl.arange(0, BLOCK_D)
    q_ptr += batch * q_batch + head * q_head + tl.cast(m0, tl.int64) * q_row
    k_ptr += batch * k_batch + head // group * k_head + tl.cast(n0, tl.int64) * k_row
    q_ptrs = q_ptr + (steps_m[:, None] * q_row + dims[None, :])
    k_ptrs = k_ptr + (steps_n[None, :] * k_row + dims[:, None])
    q = tl.load(q_ptrs, mask=(rows[:, None] < seq_q) & (dims[None, :] < HEAD_DIM), other=0.0)
    k = tl.load(k_ptrs, mask=(cols[None, :] < seq_kv) & (dims[:, None] < HEAD_DIM), other=0.0)
    scores = tl.dot(q, k, input_precision=PRECISION) * scale
    seen = cols[None, :] < seq_kv
    if CAUSAL:
        seen = seen & (cols[None, :] <= rows[:, None] + seq_kv - seq_q)
    scores = tl.where(seen, scores, float("-inf"))
    s_ptrs = s_ptr + (lane * seq_q + rows[:, None]) * s_row + cols[None, :]
    tl.store(s_ptrs, scores, mask=(rows[:, None] < seq_q) & (cols[None, :] < s_row))


@triton.jit
def _row_maximum(s_ptrs, s_row, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First pass: the largest score of each row, 0 for a row that sees no key."""
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for start in range(0, s_row, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        scores = tl.load(s_ptrs + cols[None, :], mask=cols[None, :] < s_row, other=float("-inf"))
        top = tl.maximum(top, tl.max(scores, 1))
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def softmax_rows(s_ptr, a_ptr, lse_ptr, rows_total, s_row, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The three sweeps of a softmax: maximum, denominator, division."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < rows_total
    # Rows beyond the end read the last row and write nothing.
    s_ptrs = s_ptr + tl.minimum(rows, rows_total - 1)[:, None] * s_row
    top = _row_maximum(s_ptrs, s_row, BLOCK_M, BLOCK_N)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, s_row, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        scores = tl.load(s_ptrs + cols[None, :], mask=cols[None, :] < s_row, other=float("-inf"))
        total += tl.sum(tl.exp2(scores - top[:, None]), 1)
    safe = tl.where(total == 0.0, 1.0, total)
    for start in range(0, s_row, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        there = cols[None, :] < s_row
        scores = tl.load(s_ptrs + cols[None, :], mask=there, other=float("-inf"))
        weights = tl.exp2(scores - top[:, None]) / safe[:, None]
        a_ptrs = a_ptr + rows[:, None] * s_row + cols[None, :]
        tl.store(a_ptrs, weights.to(a_ptr.dtype.element_ty), mask=inside[:, None] & there)
    lse = tl.where(total == 0.0, float("-inf"), (top + tl.log2(safe)) * 0.6931471805599453)
    tl.store(lse_ptr + rows, lse, mask=inside)


@triton.jit
def weighted_values(a_ptr, v_ptr, out_ptr, lse_ptr, v_batch, v_head, v_row, heads, group, seq_q, seq_kv, s_row,
                    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                    DEFERRED: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Second product. DEFERRED: `a` holds scores, and this pass takes the exponentials and divides at the end."""
    tile, lane = tile_and_lane(tl.cdiv(seq_q, BLOCK_M))
    batch = lane // heads
    head = lane % heads
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    flat = lane * seq_q + rows
    last = lane * seq_q + seq_q - 1
    a_ptrs = a_ptr + tl.minimum(flat, last)[:, None] * s_row
    v_ptr += batch * v_batch + head // group * v_head
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = total
    if DEFERRED:
        top = _row_maximum(a_ptrs, s_row, BLOCK_M, BLOCK_N)
    for start in range(0, seq_kv, BLOCK_N):
        cols = start + steps
        there = cols[None, :] < s_row
        v_mask = (cols[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM)
        v_tile = v_ptr + tl.cast(start, tl.int64) * v_row
        v = tl.load(v_tile + (steps[:, None] * v_row + dims[None, :]), mask=v_mask, other=0.0)
        if DEFERRED:
            scores = tl.load(a_ptrs + cols[None, :], mask=there, other=float("-inf"))
            weights = tl.exp2(scores - top[:, None])
            total += tl.sum(weights, 1)
        else:
            weights = tl.load(a_ptrs + cols[None, :], mask=there, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    if DEFERRED:
        safe = tl.where(total == 0.0, 1.0, total)
        acc = acc / safe[:, None]
        lse = tl.where(total == 0.0, float("-inf"), (top + tl.log2(safe)) * 0.6931471805599453)
        tl.store(lse_ptr + flat, lse, mask=rows < seq_q)
    o_ptrs = out_ptr + flat[:, None] * HEAD_DIM + dims[None, :]
    tl.store(
        o_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(rows[:, None] < seq_q) & (dims[None, :] < HEAD_DIM)
    )


@interpreted_on_cpu
def unfused_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    passes: int = 3,
    causal: bool = False,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention and its log-sum-exp, with the scores in memory.

    Args:
        q: [batch, heads, seq_q, head_dim].
        k: [batch, kv_heads, seq_kv, head_dim].
        v: like k.
        passes: 3 divides before the second product, 2 after it.
        causal: a query sees no key after itself; the last query stands on the last key.
        tile: shape, warps and stages; the shipped choice for the device where not given.
        empty: makes outputs and scratch; the checker passes one that fills them with NaN.
    """
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    if passes not in (2, 3):
        raise KernelError(f"passes={passes}: expected 2 or 3")
    tile = tile or tiles.choose("unfused_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    s_row = triton.cdiv(seq_kv, 16) * 16
    scores = empty((batch, heads, seq_q, s_row), dtype=torch.float32, device=q.device)
    out = empty((batch, heads, seq_q, head_dim), dtype=q.dtype, device=q.device)
    lse = empty((batch, heads, seq_q), dtype=torch.float32, device=q.device)
    shape = of_head(head_dim, q.dtype.itemsize) | {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    row_tiles, key_tiles = triton.cdiv(seq_q, tile.block_m), triton.cdiv(seq_kv, tile.block_n)
    scale = head_dim**-0.5 * LOG2E
    launch(score_product, row_tiles * key_tiles * batch * heads, tile)(
        q, k, scores, *q.stride()[:3], *k.stride()[:3], heads, heads // kv_heads, seq_q, seq_kv, s_row, scale,
        CAUSAL=causal, **shape,
    )  # fmt: skip
    weights = scores
    if passes == 3:
        weights = empty(scores.shape, dtype=q.dtype, device=q.device)
        rows = batch * heads * seq_q
        launch(softmax_rows, triton.cdiv(rows, SOFTMAX_ROWS), tile)(
            scores, weights, lse, rows, s_row, BLOCK_M=SOFTMAX_ROWS, BLOCK_N=tile.block_n,
        )  # fmt: skip
    launch(weighted_values, row_tiles * batch * heads, tile)(
        weights, v, out, lse, *v.stride()[:3], heads, heads // kv_heads, seq_q, seq_kv, s_row, DEFERRED=passes == 2,
        **shape,
    )  # fmt: skip
    return out, lse


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "product", "softmax", "values" or "exponentials and values".
    """
    word, wide = POINTER[dtype], "*fp32"
    deferred = variant == "exponentials and values"
    function, pointers = {
        "product": (score_product, {"q_ptr": word, "k_ptr": word, "s_ptr": wide}),
        "softmax": (softmax_rows, {"s_ptr": wide, "a_ptr": word, "lse_ptr": wide}),
    }.get(
        variant,
        (
            weighted_values,
            {"a_ptr": wide if deferred else word, "v_ptr": word, "out_ptr": word, "lse_ptr": wide},
        ),
    )
    every = {
        **of_head(head_dim, WORD_BYTES[dtype]),
        "BLOCK_M": SOFTMAX_ROWS if variant == "softmax" else tile.block_m, "BLOCK_N": tile.block_n,
        "CAUSAL": False, "DEFERRED": deferred,
    }  # fmt: skip
    constants = {name: value for name, value in every.items() if name in function.arg_names}
    strides = tuple(f"{t}_{axis}" for t in "qkv" for axis in ("batch", "head", "row"))
    aligned = tuple(n for n in (*strides, "s_row") if n in function.arg_names)
    return Build("unfused_attention", variant, head_dim, dtype, tile, function, pointers, ("scale",), aligned,
                 constants)  # fmt: skip
