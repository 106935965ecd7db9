"""Pieces that the Triton kernels share: the launch, the place of a program in the grid, the running softmax."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from .tiles import Tile

LOG2E = math.log2(math.e)
# Of the first axis of a grid. Source: CUDA C++ Programming Guide, technical specifications per compute capability.
MOST_PROGRAMS = 2**31 - 1


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


def precision(word_bytes: int) -> str:
    """Return how a tile product treats float32 operands: as three TF32 products, which lose next to nothing."""
    return "tf32x3" if word_bytes == 4 else "tf32"


def of_head(head_dim: int, word_bytes: int) -> dict[str, Any]:
    """Return the compile-time arguments that follow from head size and words.

    >>> of_head(40, 2)
    {'HEAD_DIM': 40, 'BLOCK_D': 64, 'PRECISION': 'tf32'}
    """
    return {"HEAD_DIM": head_dim, "BLOCK_D": block_of(head_dim), "PRECISION": precision(word_bytes)}


def launch(kernel: Any, programs: int, tile: Tile) -> Callable[..., None]:
    """Return a call of so many programs of a kernel, with the warps and stages of a tile.

    Registers that spill are warned of: the result is right, but its time says little. The call raises KernelError where
    the device has not what the kernel needs, or where the compiler refuses it.

    Raises:
        KernelError: more programs than a launch may have.
    """
    if programs > MOST_PROGRAMS:
        raise KernelError(
            f"{kernel.fn.__name__}, {tile}: {programs} thread blocks, more than the {MOST_PROGRAMS} of a launch"
        )
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}

    def call(*arguments: Any, **constants: Any) -> None:
        try:
            made = kernel[(programs,)](*arguments, **constants, **options)
        except triton.TritonError as error:
            raise KernelError(f"{kernel.fn.__name__}, {tile}: {error}") from error
        if spilled := getattr(made, "n_spills", 0):
            words = f"{kernel.fn.__name__}, {tile}: {spilled} registers spill; take a smaller tile"
            warnings.warn(words, stacklevel=3)

    return call


def block_of(size: int) -> int:
    """Return the power of two, 16 at least, that holds a head size or another short axis.

    >>> block_of(8), block_of(40), block_of(64)
    (16, 64, 64)
    """
    return int(max(16, triton.next_power_of_2(size)))
