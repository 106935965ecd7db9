"""Gradients of what a modification of scores learns: slopes, relative bias, sink and Toeplitz factor.

A table by relative position gathers whole diagonals of the score gradients. A thread block walks the square tiles of
one diagonal of tiles, adds them up element by element in registers, and turns the sum once at its end, so that
diagonals become columns; a second kernel adds up the diagonals of an entry over tiles and batch, in a fixed order. No
atomic addition: the result does not depend on timing.
Exact: sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from . import tiles
from .modified import Modifications, _score_gradient
from .primitives import launch, tile_and_lane

# Sums of rows or of diagonals: bound by memory.
STEP = 1024
SUMS = tiles.Tile(16, 16, 4, 1)
# The squares of a diagonal hold two tiles of operands and two of sums: larger ones spill.
MOST, MOST_OF_LONG_ROWS, LONG_ROW_BYTES = 32, 16, 256


@triton.jit
def diagonal_sums(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, scores_ptr, factors_ptr, heads, kv_heads, group,
                  seq_q, seq_kv, left, right, scale, cap, slopes_ptr, bias_ptr, factor_ptr, HEAD_DIM: tl.constexpr,
                  BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr,
                  SOFT_CAP: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr, FACTOR: tl.constexpr,
                  LAST: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Sums over the diagonals that one diagonal of tiles cuts: of modified scores and of factors.

    Of [lanes, bands, 2 * BLOCK] sums, place BLOCK + d holds those at distance d from the diagonal of the band's tiles.
    """
    tiles_q = tl.cdiv(seq_q, BLOCK)
    tiles_kv = tl.cdiv(seq_kv, BLOCK)
    bands = tiles_q + tiles_kv - 1
    band, lane = tile_and_lane(bands)
    batch = lane // heads
    head = lane % heads
    shift = seq_kv - seq_q
    # Key tile minus query tile.
    ahead = band - (tiles_q - 1)
    first = tl.maximum(0, -ahead)
    last = tl.minimum(tiles_q, tiles_kv - ahead)
    distance = ahead * BLOCK - shift
    if HAS_LEFT:
        last = tl.where(distance + BLOCK - 1 < -left, first, last)
    if HAS_RIGHT:
        last = tl.where(distance - BLOCK + 1 > right, first, last)
    steps = tl.arange(0, BLOCK)
    dims = tl.arange(0, BLOCK_D)
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes_ptr + head).to(tl.float32)
    bias_row = bias_ptr + head * (2 * LAST + 1)
    factor_row = factor_ptr + head * (2 * LAST + 1)
    row_base = lane * seq_q
    key_base = (batch * kv_heads + head // group) * seq_kv
    # 64 bits to the place of a tile, 32 inside it: half the registers.
    offsets = steps[:, None] * HEAD_DIM + dims[None, :]
    of_scores = tl.zeros([BLOCK, BLOCK], tl.float32)
    of_factors = tl.zeros([BLOCK, BLOCK], tl.float32)
    for tile in range(first, last):
        queries = tile * BLOCK + steps
        cols = (tile + ahead) * BLOCK + steps
        there = queries < seq_q
        mask = there[:, None] & (dims[None, :] < HEAD_DIM)
        inside = (cols[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM)
        row = row_base + tile * BLOCK
        key = key_base + (tile + ahead) * BLOCK
        q = tl.load(q_ptr + row * HEAD_DIM + offsets, mask=mask, other=0.0)
        grad = tl.load(grad_ptr + row * HEAD_DIM + offsets, mask=mask, other=0.0)
        k = tl.load(k_ptr + key * HEAD_DIM + offsets, mask=inside, other=0.0)
        v = tl.load(v_ptr + key * HEAD_DIM + offsets, mask=inside, other=0.0)
        # As in the other kernels of the backward pass: +inf gives a row weight 0.
        lse = tl.load(lse_ptr + row + steps, mask=there, other=float("inf")) * 1.4426950408889634
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        delta = tl.load(delta_ptr + row + steps, mask=there, other=0.0)
        _, _, of_modified, of_factor = _score_gradient(
            q, k, v, grad, lse, delta, queries + shift, cols, seq_kv, left, right, scale, cap, slope, bias_row,
            factor_row, HAS_LEFT, HAS_RIGHT, SOFT_CAP, ALIBI, BIAS, FACTOR, LAST, PRECISION,
        )  # fmt: skip
        if ALIBI or BIAS:
            of_scores += of_modified
        if FACTOR:
            of_factors += of_factor
    out = (lane * bands + band) * (2 * BLOCK) + steps
    if ALIBI or BIAS:
        below, above = _turned(of_scores, BLOCK)
        tl.store(scores_ptr + out, below)
        tl.store(scores_ptr + out + BLOCK, above)
    if FACTOR:
        below, above = _turned(of_factors, BLOCK)
        tl.store(factors_ptr + out, below)
        tl.store(factors_ptr + out + BLOCK, above)


@triton.jit
def _turned(square, BLOCK: tl.constexpr):
    """Sums over the diagonals of a square: those at distance -BLOCK .. -1, of which the first is 0, and 0 .. BLOCK - 1.

    Row i is turned by i places, so that column d holds the elements at distances d and, from row BLOCK - d on,
    d - BLOCK.
    """
    rows = tl.arange(0, BLOCK)[:, None]
    places = rows + tl.arange(0, BLOCK)[None, :]
    turned = tl.gather(square, places % BLOCK, 1)
    wrapped = places >= BLOCK
    return tl.sum(tl.where(wrapped, turned, 0.0), 0), tl.sum(tl.where(wrapped, 0.0, turned), 0)


@triton.jit
def entry_sums(sums_ptr, out_ptr, batch, heads, bands, origin, BLOCK: tl.constexpr, LAST: tl.constexpr,
               BY_DISTANCE: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """One entry of a table by relative position, [heads, 2 * LAST + 1]: its diagonals over all tiles and the batch.

    The first and the last entry take every diagonal beyond. Diagonals are counted from `origin`, the distance of place
    0 of the first band; band b ends where place BLOCK of band b + 1 begins, so that each diagonal has two places.
    BY_DISTANCE: each is multiplied by its distance.
    """
    entry = tl.program_id(0) % (2 * LAST + 1)
    head = tl.program_id(0) // (2 * LAST + 1)
    end = (bands + 1) * BLOCK
    first = tl.minimum(tl.maximum(entry - LAST - origin, 0), end)
    last = tl.minimum(tl.maximum(entry - LAST - origin + 1, 0), end)
    if entry == 0:
        first = 0
    if entry == 2 * LAST:
        last = end
    total = tl.zeros([STEP], tl.float32)
    for b in range(0, batch):
        lane = (b * heads + head).to(tl.int64)
        for start in range(first, last, STEP):
            diagonal = start + tl.arange(0, STEP)
            band = diagonal // BLOCK
            place = diagonal % BLOCK
            row = sums_ptr + lane * bands * (2 * BLOCK)
            some = diagonal < last
            left = tl.load(row + band * (2 * BLOCK) + place, mask=some & (band < bands), other=0.0)
            right = tl.load(row + (band - 1) * (2 * BLOCK) + BLOCK + place, mask=some & (band > 0), other=0.0)
            if BY_DISTANCE:
                total += (left + right) * (diagonal + origin).to(tl.float32)
            else:
                total += left + right
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0).to(out_ptr.dtype.element_ty))


@triton.jit
def sink_sums(sink_ptr, lse_ptr, delta_ptr, out_ptr, batch, heads, seq_q, STEP: tl.constexpr):
    """Gradient of the sink of one head: its weight times minus the row's product, over all rows and the batch."""
    head = tl.program_id(0)
    sink = tl.load(sink_ptr + head).to(tl.float32)
    total = tl.zeros([STEP], tl.float32)
    for b in range(0, batch):
        row = (b * heads + head).to(tl.int64) * seq_q
        for start in range(0, seq_q, STEP):
            queries = start + tl.arange(0, STEP)
            lse = tl.load(lse_ptr + row + queries, mask=queries < seq_q, other=float("inf"))
            # A row that sees neither a key nor the sink, one of -inf, gives it nothing.
            lse = tl.where(lse == float("-inf"), float("inf"), lse)
            delta = tl.load(delta_ptr + row + queries, mask=queries < seq_q, other=0.0)
            total -= tl.exp2((sink - lse) * 1.4426950408889634) * delta
    tl.store(out_ptr + head, tl.sum(total, 0).to(out_ptr.dtype.element_ty))


def learnt_gradients(
    tensors: Sequence[torch.Tensor],
    modified: Modifications,
    sizes: Sequence[Any],
    shape: Mapping[str, Any],
    *,
    tile: tiles.Tile,
    empty: Callable[..., torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of slopes, bias, sink and factor, in this order and as far as they are given.

    Args:
        tensors: q, k, v, grad, lse and delta, the rows' products of result and gradient; contiguous.
        modified: checked.
        sizes: the arguments after the outputs that the kernels of the backward pass share.
        shape: their compile-time arguments but for the sides of a tile.
        tile: of the backward pass; the squares of a diagonal are no larger than its shorter side.
        empty: makes outputs and scratch.
    """
    q, k, *_, lse, delta = tensors
    batch, heads, seq_q, head_dim = q.shape
    seq_kv = k.shape[2]
    long = head_dim * q.dtype.itemsize > LONG_ROW_BYTES or q.dtype.itemsize == 4
    block = min(tile.block_m, tile.block_n, MOST_OF_LONG_ROWS if long else MOST)
    tiles_q, tiles_kv = triton.cdiv(seq_q, block), triton.cdiv(seq_kv, block)
    bands = tiles_q + tiles_kv - 1
    whole = (batch, heads, bands, 2 * block)

    def scratch(*, wanted: bool) -> torch.Tensor:
        return empty(whole, dtype=torch.float32, device=q.device) if wanted else delta

    by_scores = modified.slopes is not None or modified.bias is not None
    by_factor = modified.factor is not None
    scores, factors = scratch(wanted=by_scores), scratch(wanted=by_factor)
    if by_scores or by_factor:
        # A deeper pipeline reads operands from shared memory anew, which leaves registers to long rows of float32.
        stages = 3 if q.dtype.itemsize == 4 and head_dim > 64 else 1
        launch(diagonal_sums, bands * batch * heads, tiles.Tile(block, block, 8 if long else 4, stages))(
            *tensors, scores, factors, *sizes, **shape, BLOCK=block,
        )  # fmt: skip

    def like(table: torch.Tensor) -> torch.Tensor:
        return empty(tuple(table.shape), dtype=table.dtype, device=q.device)

    def gathered(table: torch.Tensor, sums: torch.Tensor, *, last: int, by_distance: bool) -> torch.Tensor:
        out = like(table)
        launch(entry_sums, table.numel(), SUMS)(
            sums, out, batch, heads, bands, seq_q - seq_kv - tiles_q * block, BLOCK=block, LAST=last,
            BY_DISTANCE=by_distance, STEP=STEP,
        )  # fmt: skip
        return out

    found: list[torch.Tensor] = []
    if modified.slopes is not None:
        found.append(gathered(modified.slopes, scores, last=0, by_distance=True))
    if modified.bias is not None:
        found.append(gathered(modified.bias, scores, last=modified.last, by_distance=False))
    if modified.sink is not None:
        found.append(like(modified.sink))
        launch(sink_sums, heads, SUMS)(
            modified.sink.contiguous(), lse, delta, found[-1], batch, heads, seq_q, STEP=STEP,
        )  # fmt: skip
    if modified.factor is not None:
        found.append(gathered(modified.factor, factors, last=modified.last, by_distance=False))
    return tuple(found)
