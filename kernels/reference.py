"""The numerical truth: every algorithm as plain PyTorch on materialised tensors, in the precision of its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from .masks import limits


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
    """Return the mask of a causal or centred window, see `kernels.masks.limits`."""
    left, right = limits(causal=causal, window=window)
    return band(seq_q, seq_kv, left=left, right=right)


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
    factor: torch.Tensor | None = None,
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
    weights = weights[..., :seq_kv]
    if factor is not None:
        last = factor.shape[1] // 2
        weights = weights * factor[:, distances(seq_q, seq_kv).clamp(-last, last) + last]
    return weights @ v, lse


def unfused_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, passes: int = 3, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention; the number of passes does not change the mathematics."""
    del passes
    return attention(q, k, v, causal=causal)


def decayed(seq: int, decay: torch.Tensor) -> torch.Tensor:
    """Return exp(-decay * (p - m)) where m <= p and 0 elsewhere, [heads, p, m]."""
    distance = -distances(seq, seq).to(decay.dtype)
    return torch.where(distance >= 0, torch.exp(-decay[:, None, None] * distance.clamp_min(0)), 0.0)


def linear_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, decay: torch.Tensor, normalise: bool = False
) -> tuple[torch.Tensor]:
    """Return linear attention with decay as one weighted product over all pairs."""
    weights = (q @ k.transpose(-1, -2)) * decayed(q.shape[2], decay)
    out = weights @ v
    return (out / weights.sum(-1, keepdim=True) if normalise else out,)


def linear_attention_gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    grad: torch.Tensor,
    decay: torch.Tensor,
    normalise: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients for q, k, v by automatic differentiation of the reference."""
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    (out,) = linear_attention(*leaves, decay=decay, normalise=normalise)
    return torch.autograd.grad(out, leaves, grad)


def neighborhood_axis(length: int, *, window: int, stride: int, dilation: int, causal: bool) -> torch.Tensor:
    """Return which keys each query of one axis sees, [length, length] bool, by the rule of NATTEN, pair by pair."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    for p in range(length):
        residue, i = p % dilation, p // dilation
        n = -(-(length - residue) // dilation)
        if causal:
            leader = min(i // stride * stride + stride - 1, n - 1)
            neighbors = range(max(leader - window + 1, 0), i + 1)
        else:
            leader = min(i // stride * stride + stride // 2, n - 1)
            left, right = window // 2, window // 2 + window % 2 - 1
            start = max(leader - left, 0) + (n - right - leader - 1 if leader + right >= n else 0)
            neighbors = range(start, start + window)
        for j in neighbors:
            seen[p, j * dilation + residue] = True
    return seen


def neighborhood_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    causal: tuple[bool, ...] | None = None,
    **tiling: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return neighborhood attention under its materialised mask; the tiling does not change the mathematics."""
    del tiling
    layout, rank = q.shape[2:-1], len(window)
    mask = torch.ones(1, 1, dtype=torch.bool)
    options = zip(
        layout, window, stride or (1,) * rank, dilation or (1,) * rank, causal or (False,) * rank, strict=True
    )
    for length, w, s, d, c in options:
        mask = torch.kron(mask, neighborhood_axis(length, window=w, stride=s, dilation=d, causal=c))
    flat = [t.reshape(*t.shape[:2], -1, t.shape[-1]) for t in (q, k, v)]
    out, lse = attention(*flat, mask=mask)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def neighborhood_attention_gradients(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grad: torch.Tensor, **options: object
) -> tuple[torch.Tensor, ...]:
    """Return the gradients for q, k, v by automatic differentiation of the reference."""
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    out, _ = neighborhood_attention(*leaves, **options)  # type: ignore[arg-type]  # options of a case
    return torch.autograd.grad(out, leaves, grad)


def decode_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, splits: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return causal attention; the number of splits does not change the mathematics."""
    del splits
    return attention(q, k, v, causal=True)


def merge_attention(parts: torch.Tensor, part_lse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention over all keys from normalised attentions over parts of them, [parts, ...]."""
    weights, lse = softmax_of(part_lse.movedim(0, -1), torch.ones((), dtype=torch.bool))
    return (parts * weights.movedim(-1, 0)[..., None]).sum(0), lse


def flash_attention_gradients(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, grad: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, ...]:
    """Return the gradients for q, k, v and for what modifies scores, by automatic differentiation of the reference."""
    learnt = {n: options.pop(n) for n in ("slopes", "bias", "sink", "factor") if options.get(n) is not None}
    leaves = [t.detach().requires_grad_() for t in (q, k, v, *learnt.values())]
    q, k, v, *modifying = leaves
    out, _ = attention(q, k, v, **dict(zip(learnt, modifying, strict=True)), **options)
    return torch.autograd.grad(out, leaves, grad)


def prefix_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of one query per head [heads, head_dim] over every prefix of the keys."""
    batch, heads, seq, head_dim = k.shape
    return attention(q[None, :, None].expand(batch, heads, seq, head_dim), k, v, causal=True)


def channel_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float = 1.0
) -> tuple[torch.Tensor]:
    """Return attention between the channels of [batch, heads, channels, tokens]."""
    return (torch.softmax(scale * (q @ k.transpose(-1, -2)), -1) @ v,)


def reversed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, share: torch.Tensor | None = None
) -> tuple[torch.Tensor]:
    """Return the transposed aggregation: weights normalised over the keys of a query, summed over the queries."""
    weights = torch.softmax((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5, -1)
    if share is not None:
        weights = weights * share[..., None]
    return (weights.transpose(-1, -2) @ v,)


def selected_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    index: torch.Tensor,
    block: int = 16,
    causal: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention to the blocks that an index names, one query at a time, keys gathered."""
    batch, heads, seq_q, _ = q.shape
    group, seq_kv = heads // k.shape[1], k.shape[2]
    out, lse = torch.zeros_like(q), torch.full(q.shape[:3], float("-inf"), dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            for p in range(seq_q):
                blocks = [int(i) for i in index[b, h // group, p] if i >= 0]
                keys = [m for i in blocks for m in range(i * block, min((i + 1) * block, seq_kv))]
                keys = [m for m in keys if not causal or m <= p + seq_kv - seq_q]
                if keys:
                    scores = k[b, h // group, keys] @ q[b, h, p] * q.shape[-1] ** -0.5
                    out[b, h, p] = torch.softmax(scores, 0) @ v[b, h // group, keys]
                    lse[b, h, p] = torch.logsumexp(scores, 0)
    return out, lse


def landmark_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, period: int = 64, scale: float | None = None
) -> tuple[torch.Tensor]:
    """Return attention with a grouped softmax, its weights materialised block by block."""
    group, seq = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    token = torch.arange(seq)
    own, ordinary = token // period, token % period < period - 1
    mine = (own[:, None] == own[None, :]) & ordinary & (token[None, :] <= token[:, None])
    marks = scores[..., period - 1 :: period]
    past = torch.arange(marks.shape[-1])[None, :] < own[:, None]
    competing = torch.cat([scores.masked_fill(~mine, -torch.inf), marks.masked_fill(~past, -torch.inf)], -1)
    weights, shares = torch.softmax(competing, -1).split([seq, marks.shape[-1]], -1)
    inside = torch.zeros_like(scores)
    for block in range(marks.shape[-1]):
        members = slice(block * period, (block + 1) * period - 1)
        inside[..., members] = torch.softmax(scores[..., members], -1) * shares[..., block : block + 1]
    return ((weights + inside) @ v,)


def _softplus_weights(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softplus weights that sum to 1 over the keys seen, and how many keys each query sees."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    seen = -distances(q.shape[2], k.shape[2])
    length = seen.max(1).values.to(q.dtype) + 1
    dim = torch.tensor(q.shape[-1], dtype=q.dtype)
    warmth = torch.log(dim) * torch.log(length) / dim.sqrt()
    scores = (q @ k.transpose(-1, -2)) * warmth[:, None]
    # PyTorch's own softplus overflows, or below its threshold is none.
    weights = torch.logaddexp(scores, torch.zeros_like(scores)) * (seen >= 0)
    return weights / weights.sum(-1, keepdim=True), length


def softplus_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor]:
    """Return causal softplus attention, its weights materialised."""
    return (_softplus_weights(q, k)[0] @ v.repeat_interleave(q.shape[1] // v.shape[1], 1),)


def reweighted_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, power: int = 15
) -> tuple[torch.Tensor]:
    """Return softplus attention re-weighted: below the mean nothing, above it a power, normalised again."""
    weights, length = _softplus_weights(q, k)
    powers = torch.relu(weights * length[:, None] - 1.0) ** power
    values = powers @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    return (values / powers.sum(-1, keepdim=True).clamp_min(1e-9),)


def neural_memory(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    eta: torch.Tensor,
    theta: torch.Tensor,
    alpha: torch.Tensor,
    chunk: int = 32,
) -> tuple[torch.Tensor]:
    """Return what a memory recalls, token by token; gradients are those at the first memory of a chunk."""
    batch, heads, seq, dim = q.shape
    memory = momentum = q.new_zeros(batch, heads, dim, dim)
    held, out = memory, torch.empty_like(v)
    for t in range(seq):
        held = memory if t % chunk == 0 else held
        error = (held @ k[:, :, t, :, None])[..., 0] - v[:, :, t]
        gradient = 2.0 * error[..., :, None] * k[:, :, t, None, :]
        rate, step, lost = (g[:, :, t, None, None] for g in (eta, theta, alpha))
        momentum = rate * momentum - step * gradient
        memory = (1.0 - lost) * memory + momentum
        out[:, :, t] = (memory @ q[:, :, t, :, None])[..., 0]
    return (out,)


def _centred(strips: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return [batch, channels, length] convolved channel by channel with [channels, taps], zeros beyond the ends."""
    taps = weights.shape[1]
    padded = functional.pad(strips, (taps // 2, taps - 1 - taps // 2))
    return functional.conv1d(padded, weights[:, None], groups=strips.shape[1])


def efficient_channel_gate(x: torch.Tensor, *, weights: torch.Tensor) -> tuple[torch.Tensor]:
    """Return x times the sigmoid of its means, convolved along the channels."""
    means = x.flatten(2).mean(-1)[:, None]
    gate = torch.sigmoid(_centred(means, weights[None]))[:, 0]
    return (x * gate.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)),)


def squeeze_excite_gate(
    x: torch.Tensor, *, reduce: torch.Tensor, expand: torch.Tensor
) -> tuple[torch.Tensor]:
    """Return x times the sigmoid of two layers over its means."""
    gate = torch.sigmoid(torch.relu(x.flatten(2).mean(-1) @ reduce.T) @ expand.T)
    return (x * gate.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)),)


def efficient_local_gate(
    x: torch.Tensor, *, weights: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor, groups: int = 16
) -> tuple[torch.Tensor]:
    """Return x times the gates of its rows and columns, normalised by PyTorch's group norm."""
    rows, columns = (
        torch.sigmoid(functional.group_norm(_centred(x.mean(axis), weights), groups, gain, offset))
        for axis in (3, 2)
    )
    return (x * rows[..., :, None] * columns[..., None, :],)
