"""Pieces that the Triton kernels share: the place of a program in the grid, a step of the running softmax, its end."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

LOG2E = math.log2(math.e)


@triton.jit
def tile_and_lane(tiles):
    """Tile and lane of this program; a lane is one head of one batch, or another independent problem.

    The grid has one axis, tiles fastest: the other two axes of a GPU's grid end at 65535.
    """
    return tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)


@triton.jit
def fold(scores, factor, row_max, row_sum, MASKED: tl.constexpr):
    """One step of the running softmax: weights, the shrinkage of what is there, maximum and denominator.

    The weights are 2 ** (scores * factor - maximum). The factor is positive, so that it commutes with the maximum: one
    FMA per score instead of two multiplications.
    """
    new_max = tl.maximum(row_max, tl.max(scores, 1) * factor)
    # A row that has seen no key yet keeps -inf; exp2(-inf - 0) is then 0, while -inf - (-inf) would be NaN.
    finite_max = tl.where(new_max == float("-inf"), 0.0, new_max) if MASKED else new_max
    weights = tl.exp2(scores * factor - finite_max[:, None])
    shrink = tl.exp2(row_max - finite_max)
    return weights, shrink, new_max, row_sum * shrink + tl.sum(weights, 1)


@triton.jit
def finish(acc, row_max, row_sum):
    """Numerator over denominator, and the natural log-sum-exp; 0 and -inf for a row without keys."""
    empty = row_sum == 0.0
    safe_sum = tl.where(empty, 1.0, row_sum)
    lse = tl.where(empty, float("-inf"), (row_max + tl.log2(safe_sum)) * 0.6931471805599453)
    return acc / safe_sum[:, None], lse


def precision(dtype: torch.dtype) -> str:
    """Return how a tile product treats float32 operands: as three TF32 products, which lose next to nothing."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def block_of(size: int) -> int:
    """Return the power of two, 16 at least, that holds a head size or another short axis.

    >>> block_of(8), block_of(40), block_of(64)
    (16, 64, 64)
    """
    return int(max(16, triton.next_power_of_2(size)))
