"""Gradients of flash attention: weights are computed again from the saved log-sum-exp, never stored.

Cascade: the derivative of `attention_1pass` and its causal and window variants, under every modification of the scores
that the forward pass knows. Tiling: one kernel walks the queries (block_m a step) of a key tile (block_n) for the
gradients of K and V, one the keys of a query tile for that of Q; `kernels.learnt` has those of slopes, bias, sink and
factor. Each writes its own tile once, so that no atomic addition is needed and the result does not depend on timing.
Exact: weights and sums are float32; half types round weights and score gradients once before each product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import check_words, checked_shapes, flash_attention
from .interpreter import interpreted_on_cpu
from .learnt import learnt_gradients
from .masks import limits
from .modified import _score_gradient, beside, modified_by
from .primitives import LOG2E, block_of, launch, of_head, tile_and_lane

# Rows of the result that a thread block multiplies with their gradients: bound by memory.
ROWS = tiles.Tile(16, 16, 4, 1)


@triton.jit
def row_products(out_ptr, grad_ptr, delta_ptr, rows_total, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
                 BLOCK_M: tl.constexpr):  # fmt: skip
    """delta: the product of result and its gradient, summed over a row."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < rows_total) & (dims[None, :] < HEAD_DIM)
    places = rows[:, None] * HEAD_DIM + dims[None, :]
    out = tl.load(out_ptr + places, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta_ptr + rows, tl.sum(out * grad, 1), mask=rows < rows_total)


@triton.jit
def gradients_kv(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, heads, kv_heads, group, seq_q,
                 seq_kv, left, right, scale, cap, slopes_ptr, bias_ptr, factor_ptr, HEAD_DIM: tl.constexpr,
                 BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HAS_LEFT: tl.constexpr,
                 HAS_RIGHT: tl.constexpr, SOFT_CAP: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr,
                 FACTOR: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of one tile of keys and values, over all query heads that share it. Tensors are contiguous."""
    tile, lane = tile_and_lane(tl.cdiv(seq_kv, BLOCK_N))
    batch = lane // kv_heads
    kv_head = lane % kv_heads
    n0 = tile * BLOCK_N
    cols = n0 + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    inside = (cols[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM)
    keys = (lane * seq_kv + cols[:, None]) * HEAD_DIM + dims[None, :]
    k = tl.load(k_ptr + keys, mask=inside, other=0.0)
    v = tl.load(v_ptr + keys, mask=inside, other=0.0)
    shift = seq_kv - seq_q
    first = 0
    last = seq_q
    if HAS_RIGHT:
        first = tl.maximum(n0 - right - shift, 0) // BLOCK_M * BLOCK_M
    if HAS_LEFT:
        last = tl.minimum(tl.maximum(n0 + BLOCK_N + left - shift, 0), seq_q)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for member in range(0, group):
        base = (batch * heads + kv_head * group + member) * seq_q
        head = kv_head * group + member
        slope = 0.0
        if ALIBI:
            slope = tl.load(slopes_ptr + head).to(tl.float32)
        bias_row = bias_ptr + head * (2 * LAST + 1)
        factor_row = factor_ptr + head * (2 * LAST + 1)
        for start in range(first, last, BLOCK_M):
            queries = start + tl.arange(0, BLOCK_M)
            there = queries < seq_q
            mask = there[:, None] & (dims[None, :] < HEAD_DIM)
            places = (base + queries[:, None]) * HEAD_DIM + dims[None, :]
            q = tl.load(q_ptr + places, mask=mask, other=0.0)
            grad = tl.load(grad_ptr + places, mask=mask, other=0.0)
            # A row without keys has -inf, a row beyond the end nothing: +inf gives both of them weight 0.
            lse = tl.load(lse_ptr + base + queries, mask=there, other=float("inf")) * 1.4426950408889634
            lse = tl.where(lse == float("-inf"), float("inf"), lse)
            delta = tl.load(delta_ptr + base + queries, mask=there, other=0.0)
            weights, ds, _, _ = _score_gradient(
                q, k, v, grad, lse, delta, queries + shift, cols, seq_kv, left, right, scale, cap, slope, bias_row,
                factor_row, HAS_LEFT, HAS_RIGHT, SOFT_CAP, ALIBI, BIAS, FACTOR, LAST, PRECISION,
            )  # fmt: skip
            dv = tl.dot(tl.trans(weights.to(grad.dtype)), grad, dv, input_precision=PRECISION)
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    dk = dk * scale * 0.6931471805599453
    tl.store(dk_ptr + keys, dk.to(dk_ptr.dtype.element_ty), mask=inside)
    tl.store(dv_ptr + keys, dv.to(dv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gradients_q(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, heads, kv_heads, group, seq_q, seq_kv,
                left, right, scale, cap, slopes_ptr, bias_ptr, factor_ptr, HEAD_DIM: tl.constexpr,
                BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HAS_LEFT: tl.constexpr,
                HAS_RIGHT: tl.constexpr, SOFT_CAP: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr,
                FACTOR: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gradient of one tile of queries."""
    tile, lane = tile_and_lane(tl.cdiv(seq_q, BLOCK_M))
    batch = lane // heads
    head = lane % heads
    p0 = tile * BLOCK_M
    queries = p0 + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    there = queries < seq_q
    mask = there[:, None] & (dims[None, :] < HEAD_DIM)
    base = lane * seq_q
    places = (base + queries[:, None]) * HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + places, mask=mask, other=0.0)
    grad = tl.load(grad_ptr + places, mask=mask, other=0.0)
    lse = tl.load(lse_ptr + base + queries, mask=there, other=float("inf")) * 1.4426950408889634
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    delta = tl.load(delta_ptr + base + queries, mask=there, other=0.0)
    shift = seq_kv - seq_q
    first = 0
    last = seq_kv
    if HAS_LEFT:
        first = tl.maximum(p0 + shift - left, 0) // BLOCK_N * BLOCK_N
    if HAS_RIGHT:
        last = tl.minimum(tl.maximum(p0 + BLOCK_M + shift + right, 0), seq_kv)
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes_ptr + head).to(tl.float32)
    bias_row = bias_ptr + head * (2 * LAST + 1)
    factor_row = factor_ptr + head * (2 * LAST + 1)
    key_base = (batch * kv_heads + head // group) * seq_kv
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(first, last, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        inside = (cols[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM)
        keys = (key_base + cols[:, None]) * HEAD_DIM + dims[None, :]
        k = tl.load(k_ptr + keys, mask=inside, other=0.0)
        v = tl.load(v_ptr + keys, mask=inside, other=0.0)
        _, ds, _, _ = _score_gradient(
            q, k, v, grad, lse, delta, queries + shift, cols, seq_kv, left, right, scale, cap, slope, bias_row,
            factor_row, HAS_LEFT, HAS_RIGHT, SOFT_CAP, ALIBI, BIAS, FACTOR, LAST, PRECISION,
        )  # fmt: skip
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    tl.store(dq_ptr + places, (dq * scale * 0.6931471805599453).to(dq_ptr.dtype.element_ty), mask=mask)


def row_deltas(out: torch.Tensor, grad: torch.Tensor, empty: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Return the product of a result and its gradient, summed over each row: float32, without the last axis.

    Args:
        out: [..., head_dim], contiguous; `grad` alike.
    """
    head_dim = out.shape[-1]
    delta = empty(tuple(out.shape[:-1]), dtype=torch.float32, device=out.device)
    rows = delta.numel()
    launch(row_products, triton.cdiv(rows, ROWS.block_m), ROWS)(
        out, grad, delta, rows, HEAD_DIM=head_dim, BLOCK_D=block_of(head_dim), BLOCK_M=ROWS.block_m,
    )  # fmt: skip
    return delta


@interpreted_on_cpu
def flash_attention_gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    grad: torch.Tensor,
    causal: bool = False,
    window: int | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
    **modifications: Any,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of `flash_attention` for q, k and v; the forward pass is run for its log-sum-exp.

    Args:
        q: [batch, heads, seq_q, head_dim].
        k: [batch, kv_heads, seq_kv, head_dim].
        v: like k.
        grad: gradient of the result, like q.
        causal: as in the forward pass.
        window: as in the forward pass.
        tile: block_m queries by block_n keys; the shipped choice for the device where not given.
        empty: makes outputs and scratch; the checker passes one that fills them with NaN.
        modifications: scale, soft_cap, slopes, bias, sink and factor of the forward pass, see
            `kernels.modified.Modifications`.

    Returns:
        Gradients of q, k and v, each like its tensor, then those of slopes, bias, sink and factor, in this order and
        as far as they are given, each like its tensor.
    """
    out, lse = flash_attention(q, k, v, causal=causal, window=window, empty=empty, **modifications)
    return gradients_from(
        q, k, v, out, lse, grad, causal=causal, window=window, tile=tile, empty=empty, **modifications
    )


@interpreted_on_cpu
def gradients_from(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
    **modifications: Any,
) -> tuple[torch.Tensor, ...]:
    """Return what `flash_attention_gradients` does from what a forward pass saved: its result and log-sum-exp.

    Args:
        out: [batch, heads, seq_q, head_dim].
        lse: [batch, heads, seq_q] float32.

    The other arguments are those of `flash_attention_gradients`.
    """
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    left, right = limits(causal=causal, window=window, farthest=seq_q + seq_kv)
    _check_saved(q, out, lse, grad)
    modified = modified_by(heads=heads, head_dim=head_dim, **modifications)
    # As in the forward pass: modified scores take the tiles of windows.
    tile = tile or beside(
        tiles.choose(
            "flash_attention_gradients",
            head_dim=head_dim,
            dtype=q.dtype,
            device=q.device,
            window=modified.scores or left is not None,
        ),
        modified,
        head_dim=head_dim,
        word_bytes=q.dtype.itemsize,
    )
    q, k, v, out, grad, lse = (t.contiguous() for t in (q, k, v, out, grad, lse))
    delta = row_deltas(out, grad, empty)
    dq, dk, dv = (empty(tuple(t.shape), dtype=t.dtype, device=q.device) for t in (q, k, v))
    sizes = (
        heads, kv_heads, heads // kv_heads, seq_q, seq_kv, left or 0, right or 0, modified.scale * LOG2E,
        modified.soft_cap, *modified.tables(instead=q),
    )  # fmt: skip
    shape: dict[str, Any] = {
        **of_head(head_dim, q.dtype.itemsize), "HAS_LEFT": left is not None, "HAS_RIGHT": right is not None,
        **modified.flags,
    }  # fmt: skip
    sides = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    launch(gradients_kv, triton.cdiv(seq_kv, tile.block_n) * batch * kv_heads, tile)(
        q, k, v, grad, lse, delta, dk, dv, *sizes, **shape, **sides,
    )  # fmt: skip
    launch(gradients_q, triton.cdiv(seq_q, tile.block_m) * batch * heads, tile)(
        q, k, v, grad, lse, delta, dq, *sizes, **shape, **sides,
    )  # fmt: skip
    learnt = learnt_gradients((q, k, v, grad, lse, delta), modified, sizes, shape, tile=tile, empty=empty)
    return dq, dk, dv, *learnt


def _check_saved(q: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, grad: torch.Tensor) -> None:
    """Refuse what does not belong to the queries: the kernels would read beside it."""
    check_words(q=q, out=out, grad=grad)
    for name, t, shape in (("out", out, q.shape), ("grad", grad, q.shape), ("lse", lse, q.shape[:-1])):
        if t.shape != shape:
            raise KernelError(f"{name}: expected {list(shape)}, found {list(t.shape)}")
    if lse.dtype != torch.float32 or lse.device != q.device:
        raise KernelError(f"lse: expected {torch.float32} on {q.device}, found {lse.dtype} on {lse.device}")


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "keys and values" or "queries", then "dense", or words of "causal window modified"; the last is every
            modification of the scores at once.
    """
    part, _, mask = variant.partition(", ")
    function, outputs = (
        (gradients_q, ("dq_ptr",)) if part == "queries" else (gradients_kv, ("dk_ptr", "dv_ptr"))
    )
    words = ("q_ptr", "k_ptr", "v_ptr", "grad_ptr", *outputs)
    tables = ("lse_ptr", "delta_ptr", "slopes_ptr", "bias_ptr", "factor_ptr")
    pointers = dict.fromkeys(words, POINTER[dtype]) | dict.fromkeys(tables, "*fp32")
    modified = "modified" in mask
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
        "HAS_LEFT": "window" in mask, "HAS_RIGHT": "causal" in mask or "window" in mask,
        **dict.fromkeys(("SOFT_CAP", "ALIBI", "BIAS", "FACTOR"), modified), "LAST": 5 if modified else 0,
    }  # fmt: skip
    return Build("flash_attention_gradients", variant, head_dim, dtype, tile, function, pointers, ("scale", "cap"), (),
                 constants)  # fmt: skip
