"""Modified scores in the backward pass: which modifications a call has, and the gradient of a tile under them.

The scores themselves are modified by the function of the forward pass. With P the softmax weights, F the factor, dP =
grad . v and D the row's product of result and gradient: values are weighed by P F, the modified scores have the
gradient P (F dP - D), the factor P dP; a soft cap multiplies by 1 - tanh^2 what passes through it. A sink has no value
and leaves all of these as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl

from . import tiles
from .attention import _last, _modified, check_each_head, check_factors


@triton.jit
def _score_gradient(q, k, v, grad, lse, delta, rows, cols, seq_kv, left, right, scale, cap, slope, bias_row, factor_row,
                    HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, SOFT_CAP: tl.constexpr, ALIBI: tl.constexpr,
                    BIAS: tl.constexpr, FACTOR: tl.constexpr, LAST: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """Weights of the values of a tile and the gradients of its scores, modified scores and factors.

    Rows are counted on the keys' axis. What a caller leaves unused is not computed.
    """
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if SOFT_CAP:
        scores = _modified(scores, scale, rows, cols, cap, slope, bias_row, True, False, False, LAST)
        # The capped score is cap tanh(x), in base 2; the derivative of tanh is 1 - tanh^2.
        tanh = scores / (cap * 1.4426950408889634)
    else:
        scores = scores * scale
    if ALIBI or BIAS:
        scores = _modified(scores, 1.0, rows, cols, cap, slope, bias_row, False, ALIBI, BIAS, LAST)
    seen = cols[None, :] < seq_kv
    if HAS_LEFT:
        seen = seen & (cols[None, :] >= rows[:, None] - left)
    if HAS_RIGHT:
        seen = seen & (cols[None, :] <= rows[:, None] + right)
    weights = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
    from_values = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
    of_factor = weights * from_values
    if FACTOR:
        index = tl.minimum(tl.maximum(cols[None, :] - rows[:, None] + LAST, 0), 2 * LAST)
        factor = tl.load(factor_row + index).to(tl.float32)
        of_modified = weights * (factor * from_values - delta[:, None])
        weights = weights * factor
    else:
        of_modified = weights * (from_values - delta[:, None])
    of_scores = of_modified * (1.0 - tanh * tanh) if SOFT_CAP else of_modified
    return weights, of_scores, of_modified, of_factor


@dataclass(frozen=True, slots=True)
class Modifications:
    """How a call of attention modifies its scores, as `kernels.attention.flash_attention` takes it.

    Attributes:
        scale: of the scores, positive.
        soft_cap: scores become soft_cap * tanh(score / soft_cap); 0 leaves them.
        slopes: [heads], ALiBi.
        bias: [heads, 2 * last + 1], added by relative position.
        sink: [heads], logit of one more key without a value.
        factor: [heads, 2 * last + 1], multiplies the weights in the numerator by relative position.
        last: the largest distance that bias and factor tell apart.
    """

    scale: float
    soft_cap: float = 0.0
    slopes: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    sink: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    last: int = 0

    @property
    def scores(self) -> bool:
        """Whether a backward pass differs from that of plain scores: not by a scale, nor by a sink."""
        return self.soft_cap > 0 or any(t is not None for t in self._tables)

    @property
    def _tables(self) -> tuple[torch.Tensor | None, ...]:
        return self.slopes, self.bias, self.factor

    def tables(self, *, instead: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return slopes, bias and factor for a launch; another tensor, never read, where one is not given."""
        return tuple(instead if t is None else t.contiguous() for t in self._tables)

    @property
    def flags(self) -> dict[str, Any]:
        """The compile-time arguments of a launch."""
        return {
            "SOFT_CAP": self.soft_cap > 0, "ALIBI": self.slopes is not None, "BIAS": self.bias is not None,
            "FACTOR": self.factor is not None, "LAST": self.last,
        }  # fmt: skip


def modified_by(*, heads: int, head_dim: int, scale: float | None = None, **options: Any) -> Modifications:
    """Return how a call modifies its scores, from the options of `kernels.attention.flash_attention`.

    Args:
        heads: of the queries; slopes, bias, sink and factor have one row each.
        head_dim: its power -0.5 is the scale where none is given.

    Raises:
        KernelError: a tensor of another shape, a scale that is not positive, or a soft cap below 0.
    """
    found = Modifications(head_dim**-0.5 if scale is None else scale, **options)
    check_factors(scale=found.scale, soft_cap=found.soft_cap)
    check_each_head(heads, slopes=found.slopes, sink=found.sink)
    return replace(found, last=_last(found.bias, found.factor, heads=heads))


def beside(tile: tiles.Tile, modified: Modifications, *, head_dim: int, word_bytes: int) -> tiles.Tile:
    """Return the shipped tile, smaller where modified scores need more registers than it leaves.

    Beside the scores, their derivative and what the tables hold there are kept from one product to the next. Others
    spill on one GPU generation or another: 64 by 32 of 128 dimensions on Hopper, 32 by 32 on consumer Blackwell; of 256
    dimensions a single stage on Hopper and data center Blackwell, 32 by 32 on an A10 and consumer Blackwell, and beside
    a factor 16 by 32 on Hopper; of 128 dimensions in float32 all that is larger than 16 by 16.
    """
    if not modified.scores:
        return tile
    queries, keys, stages = 32, 32, tile.stages
    if word_bytes == 4 and head_dim <= 64:
        keys = 32 if tile.block_m < queries else 16
    elif word_bytes == 4:
        queries, keys, stages = 16, 16, 2
    elif head_dim <= 64:
        queries = 64
    elif head_dim <= 128:
        keys = 16
    else:
        # Whose tile of plain scores is as small in two stages already, as where a block has 99 KiB, takes half of it.
        small = tile.block_m <= 32 and tile.stages > 1
        queries, stages = (32 if modified.factor is None else 16), 2
        keys = 16 if small or modified.factor is not None else 32
    return tiles.Tile(min(tile.block_m, queries), min(tile.block_n, keys), max(tile.warps, 8), stages)
