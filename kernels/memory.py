"""Chunked neural memory: a linear memory that learns while it reads, by gradients with momentum and forgetting.

Cascade: `titans_chunked`. The gradient of every token of a chunk is taken at the memory with which the chunk begins, so
that all work inside a chunk is products of tiles. The length of a chunk is thus part of the mathematics, not a tile.
Tiling: a thread block walks all chunks of one head for block_n value columns, memory and momentum in registers.
Exact: memory, momentum and the products of gates are float32 (gates as sums of logarithms, differences of which are
never positive); half types round memory, errors and weights once before each product.
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
from .primitives import launch, of_head, tile_and_lane


@triton.jit
def _between(logs, CHUNK: tl.constexpr):
    """Product of gates after token s up to token t, [t, s], and 0 where s comes after t; `logs` are in base 2."""
    step = tl.arange(0, CHUNK)
    total = tl.cumsum(logs, 0)
    # Above the diagonal the difference is positive and may overflow: it is set to 0 before the exponential.
    distance = tl.minimum(total[:, None] - total[None, :], 0.0)
    return tl.where(step[:, None] >= step[None, :], tl.exp2(distance), 0.0)


@triton.jit
def _last_row(tile, CHUNK: tl.constexpr):
    """The last row of a tile: a sum over one row is how Triton picks a row."""
    return tl.sum(tl.where((tl.arange(0, CHUNK) == CHUNK - 1)[:, None], tile, 0.0), 0)


@triton.jit
def chunk_weights(q_ptr, k_ptr, eta_ptr, theta_ptr, alpha_ptr, weight_ptr, factor_ptr, q_batch, q_head, q_row,
                  k_batch, k_head, k_row, heads, seq, tokens, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
                  CHUNK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """What one chunk needs of its gates: weights of its pairs, and five factors a token; chunks are independent."""
    chunk, lane = tile_and_lane(tl.cdiv(seq, CHUNK))
    batch = lane // heads
    head = lane % heads
    step = tl.arange(0, CHUNK)
    dims = tl.arange(0, BLOCK_D)
    base = tl.cast(chunk, tl.int64) * CHUNK
    there = base + step < seq
    places = lane * seq + base + step
    # A token beyond the end keeps everything and teaches nothing. A gate of 0 is taken as 1e-30.
    alpha = tl.load(alpha_ptr + places, mask=there, other=0.0).to(tl.float32)
    eta = tl.load(eta_ptr + places, mask=there, other=1.0).to(tl.float32)
    theta = tl.load(theta_ptr + places, mask=there, other=0.0).to(tl.float32)
    log_kept = tl.log2(tl.maximum(1.0 - alpha, 1.0e-30))
    log_eta = tl.log2(tl.maximum(eta, 1.0e-30))
    kept = _between(log_kept, CHUNK)
    carried = _between(log_eta, CHUNK)
    # What token s taught is in the memory of token t through every token between at which momentum brought it.
    # Gates are float32 whatever the words are.
    reach = tl.dot(kept, carried, input_precision="tf32x3") * theta[None, :]
    from_start = tl.exp2(tl.cumsum(log_kept, 0))
    eta_from_start = tl.exp2(tl.cumsum(log_eta, 0))
    from_momentum = tl.sum(kept * eta_from_start[None, :], 1)
    tl.store(factor_ptr + places, from_start, mask=there)
    tl.store(factor_ptr + tokens + places, from_momentum, mask=there)
    tl.store(factor_ptr + 2 * tokens + places, eta_from_start, mask=there)
    tl.store(factor_ptr + 3 * tokens + places, _last_row(reach, CHUNK), mask=there)
    tl.store(factor_ptr + 4 * tokens + places, _last_row(carried, CHUNK) * theta, mask=there)

    mask = there[:, None] & (dims[None, :] < HEAD_DIM)
    q_ptr += batch * q_batch + head * q_head + base * q_row
    k_ptr += batch * k_batch + head * k_head + base * k_row
    q = tl.load(q_ptr + (step[:, None] * q_row + dims[None, :]), mask=mask, other=0.0)
    k = tl.load(k_ptr + (step[:, None] * k_row + dims[None, :]), mask=mask, other=0.0)
    weights = tl.dot(q, tl.trans(k), input_precision=PRECISION) * reach
    w_ptrs = weight_ptr + places[:, None] * CHUNK + step[None, :]
    tl.store(w_ptrs, weights.to(weight_ptr.dtype.element_ty), mask=there[:, None])


@triton.jit
def memory_chunks(q_ptr, k_ptr, v_ptr, weight_ptr, factor_ptr, out_ptr, q_batch, q_head, q_row,
                  k_batch, k_head, k_row, v_batch, v_head, v_row, heads, seq, tokens, HEAD_DIM: tl.constexpr,
                  BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, CHUNK: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    """All chunks of one head, one after the other, for one block of value columns."""
    tile, lane = tile_and_lane(tl.cdiv(HEAD_DIM, BLOCK_V))
    batch = lane // heads
    head = lane % heads
    step = tl.arange(0, CHUNK)
    dims = tl.arange(0, BLOCK_D)
    columns = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    memory = tl.zeros([BLOCK_D, BLOCK_V], tl.float32)
    momentum = tl.zeros([BLOCK_D, BLOCK_V], tl.float32)
    for start in range(0, seq, CHUNK):
        there = start + step < seq
        base = tl.cast(start, tl.int64)
        places = lane * seq + base + step
        row_mask = there[:, None] & (dims[None, :] < HEAD_DIM)
        value_mask = there[:, None] & (columns[None, :] < HEAD_DIM)
        k_ptrs = k_ptr + base * k_row + (step[:, None] * k_row + dims[None, :])
        v_ptrs = v_ptr + base * v_row + (step[:, None] * v_row + columns[None, :])
        held = memory.to(q_ptr.dtype.element_ty)
        k = tl.load(k_ptrs, mask=row_mask, other=0.0)
        v = tl.load(v_ptrs, mask=value_mask, other=0.0)
        error = 2.0 * (tl.dot(k, held, input_precision=PRECISION) - v.to(tl.float32))
        error = error.to(v.dtype)

        q_ptrs = q_ptr + base * q_row + (step[:, None] * q_row + dims[None, :])
        q = tl.load(q_ptrs, mask=row_mask, other=0.0)
        from_start = tl.load(factor_ptr + places, mask=there, other=0.0)
        from_momentum = tl.load(factor_ptr + tokens + places, mask=there, other=0.0)
        w_ptrs = weight_ptr + places[:, None] * CHUNK + step[None, :]
        weights = tl.load(w_ptrs, mask=there[:, None], other=0.0)
        out = tl.dot(q, held, input_precision=PRECISION) * from_start[:, None]
        out += tl.dot(q, momentum.to(q.dtype), input_precision=PRECISION) * from_momentum[:, None]
        out -= tl.dot(weights, error, input_precision=PRECISION)
        o_ptrs = out_ptr + (lane * seq + base) * HEAD_DIM + (step[:, None] * HEAD_DIM + columns[None, :])
        tl.store(o_ptrs, out.to(out_ptr.dtype.element_ty), mask=value_mask)

        # The memory with which the next chunk begins; after the last chunk nobody reads it.
        last = factor_ptr + lane * seq + tl.minimum(base + CHUNK, seq) - 1
        reached = tl.load(factor_ptr + 3 * tokens + places, mask=there, other=0.0)
        pushed = tl.load(factor_ptr + 4 * tokens + places, mask=there, other=0.0)
        # Transposed, and read again rather than kept: the tile would be in the way of the products above.
        k_ptrs = k_ptr + base * k_row + (step[None, :] * k_row + dims[:, None])
        k_mask = there[None, :] & (dims[:, None] < HEAD_DIM)
        keys = tl.load(k_ptrs, mask=k_mask, other=0.0)
        memory = memory * tl.load(last) + momentum * tl.load(last + tokens)
        learnt = (keys.to(tl.float32) * reached[None, :]).to(keys.dtype)
        memory -= tl.dot(learnt, error, input_precision=PRECISION)
        learnt = (keys.to(tl.float32) * pushed[None, :]).to(keys.dtype)
        momentum = momentum * tl.load(last + 2 * tokens)
        momentum -= tl.dot(learnt, error, input_precision=PRECISION)


@interpreted_on_cpu
def neural_memory(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    eta: torch.Tensor,
    theta: torch.Tensor,
    alpha: torch.Tensor,
    chunk: int = 32,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return what a memory recalls for each query, after it has learnt keys and values up to that token.

    Args:
        q: [batch, heads, sequence, head_dim].
        k: like q.
        v: like q.
        eta: [batch, heads, sequence], momentum that a token carries on, 0 to 1.
        theta: like eta, step size of a token.
        alpha: like eta, share of the memory that a token forgets, 0 to 1.
        chunk: tokens whose gradients are taken at the same memory; a power of two from 16. Long chunks spill registers:
            block_m in tiles.csv is the longest that was compiled without, from 16 to 64.
        tile: block_n value columns, warps and stages; the shipped choice for the device where not given.
        empty: makes the output; the checker passes one that fills it with NaN.

    Raises:
        KernelError: shapes or a chunk that do not fit.
    """
    batch, heads, seq, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    gates = (eta, theta, alpha)
    if kv_heads != heads or seq_kv != seq or any(t.shape != q.shape[:3] for t in gates):
        raise KernelError(
            f"expected k, v like q {list(q.shape)} and gates {list(q.shape[:3])}, found {list(k.shape)} and "
            + ", ".join(str(list(t.shape)) for t in gates)
        )
    if 5 * batch * heads * seq >= 2**31:
        raise KernelError(
            f"q: expected less than {2**31 // 5} tokens of all heads together, whose factors are counted in 32 bits, "
            f"found {batch * heads * seq}"
        )
    if chunk < 16 or chunk & (chunk - 1):
        raise KernelError(f"chunk={chunk}: expected a power of two from 16")
    tile = tile or tiles.choose("neural_memory", head_dim=head_dim, dtype=q.dtype, device=q.device)
    out = empty((batch, heads, seq, head_dim), dtype=q.dtype, device=q.device)
    weights = empty((batch, heads, seq, chunk), dtype=q.dtype, device=q.device)
    factors = empty((5, batch, heads, seq), dtype=torch.float32, device=q.device)
    lanes, tokens = batch * heads, batch * heads * seq
    shape = of_head(head_dim, q.dtype.itemsize) | {"CHUNK": chunk}
    launch(chunk_weights, triton.cdiv(seq, chunk) * lanes, tile)(
        q, k, *(t.contiguous() for t in gates), weights, factors, *q.stride()[:3], *k.stride()[:3], heads, seq, tokens,
        **shape,
    )  # fmt: skip
    launch(memory_chunks, triton.cdiv(head_dim, tile.block_n) * lanes, tile)(
        q, k, v, weights, factors, out, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], heads, seq, tokens,
        BLOCK_V=tile.block_n, **shape,
    )  # fmt: skip
    return (out,)


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler; block_m is the chunk, block_n the block of value columns.

    Args:
        variant: "weights" of the chunks, or "memory".
    """
    remembers = variant == "memory"
    function = memory_chunks if remembers else chunk_weights
    words = ("q_ptr", "k_ptr", "weight_ptr", *(("v_ptr", "out_ptr") if remembers else ()))
    pointers = dict.fromkeys(words, POINTER[dtype]) | {"factor_ptr": "*fp32"}
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "CHUNK": tile.block_m,
    }  # fmt: skip
    if remembers:
        constants |= {"BLOCK_V": tile.block_n}
    else:
        pointers |= dict.fromkeys(("eta_ptr", "theta_ptr", "alpha_ptr"), "*fp32")
    strides = tuple(
        n for t in "qkv" for axis in ("batch", "head", "row") if (n := f"{t}_{axis}") in function.arg_names
    )
    return Build("neural_memory", variant, head_dim, dtype, tile, function, pointers, (), strides,
                 constants)  # fmt: skip
