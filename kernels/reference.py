"""The numerical truth: every algorithm as plain PyTorch on materialised tensors, in the precision of its inputs."""

from __future__ import annotations

import torch


def band(seq_q: int, seq_kv: int, *, left: int | None, right: int | None) -> torch.Tensor:
    """Return which keys each query sees, [seq_q, seq_kv] bool; the last query stands on the last key.

    >>> band(2, 3, left=1, right=0).int().tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    distance = distances(seq_q, seq_kv)
    seen = torch.ones_like(distance, dtype=torch.bool)
    if left is not None:
        seen &= distance >= -left
    if right is not None:
        seen &= distance <= right
    return seen


def distances(seq_q: int, seq_kv: int) -> torch.Tensor:
    """Return key position minus query position, [seq_q, seq_kv]; the last query stands on the last key."""
    return torch.arange(seq_kv)[None, :] - (torch.arange(seq_q)[:, None] + seq_kv - seq_q)


def window_mask(seq_q: int, seq_kv: int, *, causal: bool = False, window: int | None = None) -> torch.Tensor:
    """Return the mask of a causal or centred window; an even centred window looks one key further left."""
    if causal:
        return band(seq_q, seq_kv, left=None if window is None else window - 1, right=0)
    if window is None:
        return band(seq_q, seq_kv, left=None, right=None)
    return band(seq_q, seq_kv, left=window // 2, right=window - 1 - window // 2)


def softmax_of(scores: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and log-sum-exp of masked scores; a row that sees no key has weights 0 and -inf."""
    scores = scores.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - torch.where(lse.isinf(), 0.0, lse)[..., None])
    return weights, lse


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    slopes: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    sink: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention and the log-sum-exp of its rows, with every score in memory.

    Args:
        q: [batch, heads, seq_q, head_dim].
        k: [batch, kv_heads, seq_kv, head_dim].
        v: like k.
        mask: [seq_q, seq_kv] bool, True where a query sees a key, besides `causal` and `window`.

    The other arguments are those of `kernels.attention.flash_attention`.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    seq_q, seq_kv = q.shape[2], k.shape[2]
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if soft_cap:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    if slopes is not None:
        scores = scores + slopes[:, None, None] * distances(seq_q, seq_kv)
    if bias is not None:
        last = bias.shape[1] // 2
        scores = scores + bias[:, distances(seq_q, seq_kv).clamp(-last, last) + last]
    seen = window_mask(seq_q, seq_kv, causal=causal, window=window)
    if mask is not None:
        seen = seen & mask
    seen = seen.expand_as(scores)
    if sink is not None:
        extra = sink[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, extra], -1)
        seen = torch.cat([seen, torch.ones_like(extra, dtype=torch.bool)], -1)
    weights, lse = softmax_of(scores, seen)
    return weights[..., :seq_kv] @ v, lse
