"""What the gradients of normalised linear attention need beside the chunked operator: decayed sums of keys and queries.

Cascade: `linear_chunked` with its normaliser. Where s_p is the sum of the weights of a query, the gradient of a weight
is (g_p . v_m - g_p . o_p) / s_p: the chunked operator with g / s, less a decayed sum of keys for the queries and of
queries for the keys. Tiling: a thread block walks chunks of 16 tokens of one head.
Exact: sums are kept in float32; 1 / s is given as a half to each of two operands, so that float16 holds both.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import tile_and_lane
from .tiles import Tile

CHUNK = 16
COLUMNS = 64
# Of the walk over all columns, and of the walk over some of them.
WHOLE, PART = Tile(16, 16, 8, 1), Tile(16, 16, 4, 1)


@triton.jit
def _decays(rate, CHUNK: tl.constexpr):
    """What decays inside a chunk, since its start, until its end, over all of it; rate in base 2."""
    step = tl.arange(0, CHUNK)
    distance = (step[:, None] - step[None, :]).to(tl.float32)
    # The masked half would overflow for a large rate: its distance is set to 0 before the exponential.
    inside = tl.where(distance >= 0, tl.exp2(-rate * tl.maximum(distance, 0.0)), 0.0)
    since_start = tl.exp2(-rate * (step + 1).to(tl.float32))
    until_end = tl.exp2(-rate * (CHUNK - 1 - step).to(tl.float32))
    return inside, since_start, until_end, tl.exp2(-rate * CHUNK)


@triton.jit
def share_weights(q_ptr, k_ptr, grad_ptr, decay_ptr, q_out_ptr, grad_out_ptr, root_ptr,
                  q_batch, q_head, q_row, k_batch, k_head, k_row, heads, seq,
                  HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_V: tl.constexpr,
                  CHUNK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Queries and g times the root of 1 / s, and that root, of all tokens of one head.

    Where s is negative, so is the root that is stored and that g takes: one sign of two makes theirs.
    """
    _, lane = tile_and_lane(1)
    batch = lane // heads
    head = lane % heads
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    rate = tl.load(decay_ptr + head).to(tl.float32) * 1.4426950408889634
    inside, since_start, until_end, whole = _decays(rate, CHUNK)
    step = tl.arange(0, CHUNK)
    dims = tl.arange(0, BLOCK_D)
    columns = tl.arange(0, BLOCK_V)
    key_sum = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, seq, CHUNK):
        there = start + step < seq
        base = tl.cast(start, tl.int64)
        row_mask = there[:, None] & (dims[None, :] < HEAD_DIM)
        value_mask = there[:, None] & (columns[None, :] < VALUE_DIM)
        k = tl.load(k_ptr + base * k_row + (step[:, None] * k_row + dims[None, :]), mask=row_mask, other=0.0)
        q = tl.load(q_ptr + base * q_row + (step[:, None] * q_row + dims[None, :]), mask=row_mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * inside
        q = q.to(tl.float32)
        weight = tl.sum(scores, 1) + tl.sum(q * key_sum[None, :], 1) * since_start
        weight = tl.where(there, weight, 1.0)
        key_sum = key_sum * whole + tl.sum(k.to(tl.float32) * until_end[:, None], 0)
        root = tl.rsqrt(tl.abs(weight))
        signed = tl.where(weight < 0.0, -root, root)
        place = (lane * seq + base) * VALUE_DIM + (step[:, None] * VALUE_DIM + columns[None, :])
        grad = tl.load(grad_ptr + place, mask=value_mask, other=0.0).to(tl.float32) * signed[:, None]
        tl.store(grad_out_ptr + place, grad.to(grad_out_ptr.dtype.element_ty), mask=value_mask)
        q_place = (lane * seq + base) * HEAD_DIM + (step[:, None] * HEAD_DIM + dims[None, :])
        tl.store(q_out_ptr + q_place, (q * root[:, None]).to(q_out_ptr.dtype.element_ty), mask=row_mask)
        tl.store(root_ptr + lane * seq + base + step, signed, mask=there)


@triton.jit
def less_sums(x_ptr, base_ptr, root_ptr, product_ptr, decay_ptr, out_ptr, x_batch, x_head, x_row, heads, seq,
              HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
              REVERSE: tl.constexpr):  # fmt: skip
    """Gradients of q or, with time reversed, of k, from what the chunked operator leaves of them, for some columns.

    Of q: base * root - product * (decayed sum of k). Of k: base - decayed sum of q * product.
    """
    tile, lane = tile_and_lane(tl.cdiv(HEAD_DIM, BLOCK_D))
    x_ptr += (lane // heads) * x_batch + (lane % heads) * x_head
    rate = tl.load(decay_ptr + lane % heads).to(tl.float32) * 1.4426950408889634
    inside, since_start, until_end, whole = _decays(rate, CHUNK)
    step = tl.arange(0, CHUNK)
    dims = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    carried = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, seq, CHUNK):
        there = start + step < seq
        first = tl.cast(seq - 1 - start if REVERSE else start, tl.int64)
        place = -step if REVERSE else step
        mask = there[:, None] & (dims[None, :] < HEAD_DIM)
        x = tl.load(x_ptr + first * x_row + (place[:, None] * x_row + dims[None, :]), mask=mask, other=0.0)
        x = x.to(tl.float32)
        product = tl.load(product_ptr + lane * seq + first + place, mask=there, other=0.0)
        if REVERSE:
            x = x * product[:, None]
        sums = tl.dot(inside, x, input_precision="tf32x3") + carried[None, :] * since_start[:, None]
        carried = carried * whole + tl.sum(x * until_end[:, None], 0)
        rows = (lane * seq + first) * HEAD_DIM + (place[:, None] * HEAD_DIM + dims[None, :])
        out = tl.load(base_ptr + rows, mask=mask, other=0.0).to(tl.float32)
        if REVERSE:
            out = out - sums
        else:
            root = tl.load(root_ptr + lane * seq + first + place, mask=there, other=0.0)
            out = out * tl.abs(root)[:, None] - sums * product[:, None]
        tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=mask)
