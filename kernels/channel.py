"""Channel attention: channels attend to channels; the scores are sums over all tokens.

Cascades: `channel_attention`, `davit_channel`. One kernel reduces the C x C scores of a head over the tokens and takes
their softmax, the other applies them token tile by token tile: two passes over the tokens, as the pass analysis says.
Tiling: all channels of a head by block_n tokens.
Exact: scores and softmax are float32; half types round the weights and the result only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import check_words
from .interpreter import interpreted_on_cpu
from .primitives import LOG2E, block_of, launch, precision, tile_and_lane

MOST_CHANNELS = 128


@triton.jit
def channel_weights(q_ptr, k_ptr, a_ptr, tokens, scale, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr,
                    BLOCK_N: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Softmax over channels d of the sum over tokens of q[c] k[d], for one head."""
    channels = tl.arange(0, BLOCK_C)
    base = tl.program_id(0).to(tl.int64) * CHANNELS * tokens
    scores = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in range(0, tokens, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        mask = (channels[:, None] < CHANNELS) & (cols[None, :] < tokens)
        places = base + channels[:, None] * tokens + cols[None, :]
        q = tl.load(q_ptr + places, mask=mask, other=0.0)
        k = tl.load(k_ptr + places, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), scores, input_precision=PRECISION)
    scores = tl.where(channels[None, :] < CHANNELS, scores * scale, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    square = tl.program_id(0).to(tl.int64) * CHANNELS * CHANNELS
    places = square + channels[:, None] * CHANNELS + channels[None, :]
    inside = (channels[:, None] < CHANNELS) & (channels[None, :] < CHANNELS)
    tl.store(a_ptr + places, weights.to(a_ptr.dtype.element_ty), mask=inside)


@triton.jit
def channel_values(a_ptr, v_ptr, out_ptr, tokens, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr,
                   BLOCK_N: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One tile of tokens: weights times values."""
    channels = tl.arange(0, BLOCK_C)
    tile, lane = tile_and_lane(tl.cdiv(tokens, BLOCK_N))
    cols = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    square = lane * CHANNELS * CHANNELS
    inside = (channels[:, None] < CHANNELS) & (channels[None, :] < CHANNELS)
    a = tl.load(a_ptr + square + channels[:, None] * CHANNELS + channels[None, :], mask=inside, other=0.0)
    places = lane * CHANNELS * tokens + channels[:, None] * tokens + cols[None, :]
    mask = (channels[:, None] < CHANNELS) & (cols[None, :] < tokens)
    v = tl.load(v_ptr + places, mask=mask, other=0.0)
    out = tl.dot(a, v, input_precision=PRECISION)
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=mask)


@interpreted_on_cpu
def channel_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float = 1.0,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return softmax over channels of (scale * Q K^T), times V.

    Args:
        q: [batch, heads, channels, tokens]; 16 to 128 channels a head.
        k: like q.
        v: like q.
        scale: of the scores; models learn it or take tokens ** -0.5.
        tile: block_n tokens a step; the shipped choice for the device where not given.
        empty: makes output and weights; the checker passes one that fills them with NaN.

    Raises:
        KernelError: shapes that do not fit.
    """
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape or not 1 <= q.shape[2] <= MOST_CHANNELS:
        raise KernelError(
            f"expected q, k, v [batch, heads, 1 to {MOST_CHANNELS} channels, tokens], found {list(q.shape)}, "
            f"{list(k.shape)}, {list(v.shape)}"
        )
    check_words(q=q, k=k, v=v)
    batch, heads, channels, tokens = q.shape
    if block_of(channels) * tokens >= 2**31:
        raise KernelError(
            f"q: expected less than {2**31 // block_of(channels)} tokens of {channels} channels, whose places in a "
            f"head are counted in 32 bits, found {tokens}"
        )
    tile = tile or tiles.choose("channel_attention", head_dim=channels, dtype=q.dtype, device=q.device)
    q, k, v = (t.contiguous() for t in (q, k, v))
    weights = empty((batch, heads, channels, channels), dtype=q.dtype, device=q.device)
    out = empty((batch, heads, channels, tokens), dtype=q.dtype, device=q.device)
    shape = {
        "CHANNELS": channels, "BLOCK_C": block_of(channels), "BLOCK_N": tile.block_n,
        "PRECISION": precision(q.dtype.itemsize),
    }  # fmt: skip
    launch(channel_weights, batch * heads, tile)(q, k, weights, tokens, scale * LOG2E, **shape)
    launch(channel_values, triton.cdiv(tokens, tile.block_n) * batch * heads, tile)(
        weights, v, out, tokens, **shape,
    )  # fmt: skip
    return (out,)


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        head_dim: channels of a head.
        variant: "weights" or "values".
    """
    function, names = {
        "weights": (channel_weights, ("q_ptr", "k_ptr", "a_ptr")),
        "values": (channel_values, ("a_ptr", "v_ptr", "out_ptr")),
    }[variant]
    constants = {
        "CHANNELS": head_dim, "BLOCK_C": block_of(head_dim), "BLOCK_N": tile.block_n,
        "PRECISION": precision(WORD_BYTES[dtype]),
    }  # fmt: skip
    pointers = dict.fromkeys(names, POINTER[dtype])
    return Build("channel_attention", variant, head_dim, dtype, tile, function, pointers, ("scale",), ("tokens",),
                 constants)  # fmt: skip
