"""Attention of one learnt query per head, as a prefix over the keys: the output at every length at once (Aaren).

Cascade: `aaren_scan`: pairs of maximum and denominator are combined by an associative scan in a chunk, the numerator by
a triangular product, and one running state is carried from chunk to chunk.
Tiling: a thread block walks all chunks of block_n tokens of one head.
Exact: scores, scan and state are float32; half types round the weights of a chunk and the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import check_rows, check_words
from .interpreter import interpreted_on_cpu
from .primitives import LOG2E, launch, of_head


@triton.jit
def _join(left_max, left_sum, right_max, right_sum):
    """Join two neighbouring stretches of keys: maximum, and denominator relative to it."""
    top = tl.maximum(left_max, right_max)
    return top, left_sum * tl.exp2(left_max - top) + right_sum * tl.exp2(right_max - top)


@triton.jit
def prefix_attention_chunks(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, k_batch, k_head, k_row, v_batch, v_head, v_row,
                            heads, seq, scale, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
                            PRECISION: tl.constexpr):  # fmt: skip
    """All chunks of one head."""
    batch = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    dims = tl.arange(0, BLOCK_D)
    steps = tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + head * HEAD_DIM + dims, mask=dims < HEAD_DIM, other=0.0).to(tl.float32)
    state_max = -1.0e30
    state_sum = 0.0
    state = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, seq, BLOCK_N):
        cols = start + steps
        mask = (cols[:, None] < seq) & (dims[None, :] < HEAD_DIM)
        k_tile = k_ptr + tl.cast(start, tl.int64) * k_row
        v_tile = v_ptr + tl.cast(start, tl.int64) * v_row
        k = tl.load(k_tile + (steps[:, None] * k_row + dims[None, :]), mask=mask, other=0.0).to(tl.float32)
        v = tl.load(v_tile + (steps[:, None] * v_row + dims[None, :]), mask=mask, other=0.0)
        # Finite instead of -inf, so that joining two absent keys is not NaN.
        scores = tl.where(cols < seq, tl.sum(k * q[None, :], 1) * scale, -1.0e30)
        inner_max, inner_sum = tl.associative_scan((scores, tl.full([BLOCK_N], 1.0, tl.float32)), 0, _join)
        top = tl.maximum(inner_max, state_max)
        carried = tl.exp2(state_max - top)
        total = inner_sum * tl.exp2(inner_max - top) + state_sum * carried
        # weights[t, j]: key j as seen by the prefix that ends at t.
        weights = tl.where(steps[None, :] <= steps[:, None], tl.exp2(scores[None, :] - top[:, None]), 0.0)
        numerator = (
            tl.dot(weights.to(v.dtype), v, input_precision=PRECISION) + state[None, :] * carried[:, None]
        )
        flat = tl.program_id(0).to(tl.int64) * seq + cols
        out = (numerator / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + flat[:, None] * HEAD_DIM + dims[None, :], out, mask=mask)
        tl.store(lse_ptr + flat, (top + tl.log2(total)) * 0.6931471805599453, mask=cols < seq)
        # The last row is the state of the next chunk; a sum over one row is how Triton picks a row.
        last = steps == BLOCK_N - 1
        state_max = tl.sum(tl.where(last, top, 0.0), 0)
        state_sum = tl.sum(tl.where(last, total, 0.0), 0)
        state = tl.sum(tl.where(last[:, None], numerator, 0.0), 0)


@interpreted_on_cpu
def prefix_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for every position, the attention of a head's learnt query over the keys up to there.

    Args:
        q: [heads, head_dim], one learnt query a head.
        k: [batch, heads, sequence, head_dim].
        v: like k.
        tile: block_n is the chunk; the shipped choice for the device where not given.
        empty: makes outputs; the checker passes one that fills them with NaN.

    Returns:
        Output like k, and the log-sum-exp [batch, heads, sequence].

    Raises:
        KernelError: shapes that do not fit.
    """
    if k.ndim != 4 or k.shape != v.shape or q.shape != (k.shape[1], k.shape[3]):
        raise KernelError(
            f"expected q [heads, head_dim], k and v [batch, heads, sequence, head_dim], found {list(q.shape)}, "
            f"{list(k.shape)}, {list(v.shape)}"
        )
    check_words(k=k, v=v, q=q)
    check_rows(k=k, v=v)
    batch, heads, seq, head_dim = k.shape
    tile = tile or tiles.choose("prefix_attention", head_dim=head_dim, dtype=k.dtype, device=k.device)
    out = empty((batch, heads, seq, head_dim), dtype=k.dtype, device=k.device)
    lse = empty((batch, heads, seq), dtype=torch.float32, device=k.device)
    launch(prefix_attention_chunks, batch * heads, tile)(
        q.contiguous(), k, v, out, lse, *k.stride()[:3], *v.stride()[:3], heads, seq, head_dim**-0.5 * LOG2E,
        **of_head(head_dim, k.dtype.itemsize), BLOCK_N=tile.block_n,
    )  # fmt: skip
    return out, lse


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler."""
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype]) | {"lse_ptr": "*fp32"}
    strides = tuple(f"{t}_{axis}" for t in "kv" for axis in ("batch", "head", "row"))
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_N": tile.block_n,
    }  # fmt: skip
    return Build("prefix_attention", variant, head_dim, dtype, tile, prefix_attention_chunks, pointers, ("scale",),
                 strides, constants)  # fmt: skip
