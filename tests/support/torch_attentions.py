"""Attention and layers around it as people write them with PyTorch."""

from __future__ import annotations

import math

import torch
from torch import nn

F = nn.functional


def repeat_kv(x, n):
    b, h, m, e = x.shape
    return x[:, :, None, :, :].expand(b, h, n, m, e).reshape(b, h * n, m, e)


def rotate_half(x):
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def eager_attention(query, key, value, attention_mask):
    """Hugging Face's eager attention: grouped keys, additive mask, softmax in float32, transposed output."""
    key, value = repeat_kv(key, 2), repeat_kv(value, 2)
    weights = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
    weights = weights + attention_mask[:, :, :, : key.shape[-2]]
    weights = F.softmax(weights, dim=-1, dtype=torch.float64).to(query.dtype)
    weights = F.dropout(weights, p=0.1, training=False)
    return torch.matmul(weights, value).transpose(1, 2).contiguous()


def interleaved_groups(q, k, v):
    k = k.repeat_interleave(q.size(1) // k.size(1), dim=1)
    v = v.repeat_interleave(q.size(1) // v.size(1), dim=1)
    return torch.softmax(q @ k.transpose(-2, -1), -1) @ v


def grouped_by_view(q, k, v):
    b, h, n, e = q.shape
    q = q.view(b, k.shape[1], h // k.shape[1], n, e)
    s = torch.einsum("bgrpe,bgme->bgrpm", q, k)
    return torch.einsum("bgrpm,bgmf->bgrpf", s.softmax(-1), v).reshape(b, h, n, -1)


def rotary_halves(q, k, cos, sin):
    half = q.shape[-1] // 2
    q1, q2 = q[..., :half], q[..., half:]
    k1, k2 = k[..., :half], k[..., half:]
    qa, qb = q1 * cos - q2 * sin, q2 * cos + q1 * sin
    ka, kb = k1 * cos - k2 * sin, k2 * cos + k1 * sin
    return torch.softmax(qa @ ka.mT + qb @ kb.mT, -1)


def rotary_cat(q, cos, sin):
    return q * cos + rotate_half(q) * sin


def alibi(q, k, v, slopes):
    p = torch.arange(q.shape[-2])[:, None]
    m = torch.arange(k.shape[-2])[None, :]
    bias = -slopes[:, None, None] * (p - m).abs()
    s = q @ k.mT / math.sqrt(q.shape[-1]) + bias
    return s.masked_fill(m > p, float("-inf")).softmax(-1) @ v


def sliding_window(q, k, v):
    i = torch.arange(q.shape[-2]).view(-1, 1)
    j = torch.arange(k.shape[-2]).view(1, -1)
    outside = (j > i) | (j <= i - 3)
    return F.softmax(torch.matmul(q, k.mT).masked_fill(outside, -1e9), dim=-1) @ v


def filled_with_finfo(q, k, v):
    n = q.shape[-2]
    mask = torch.full((n, n), torch.finfo(q.dtype).min, dtype=q.dtype).triu(1)
    return torch.softmax(q @ k.mT + mask, -1) @ v


def soft_capped(q, k, v):
    s = q @ k.mT
    s = s / 5.0
    s = torch.tanh(s)
    s = s * 5.0
    return s.softmax(dim=-1) @ v


def sink_logit(q, k, v, sink):
    s = q @ k.mT
    top = torch.maximum(s.amax(-1, keepdim=True), sink)
    e = torch.exp(s - top)
    return e @ v / (e.sum(-1, keepdim=True) + torch.exp(sink - top))


def pre_norm_attention(x, w, g, b):
    y = F.layer_norm(x, (x.shape[-1],), g, b)
    q, k, v = (y @ w).chunk(3, dim=-1)
    return x + F.scaled_dot_product_attention(q, k, v)


def softmax_over_two(x):
    return torch.softmax(x.flatten(-2), -1).unflatten(-1, x.shape[-2:])


def baddbmm(mask, q, k):
    return torch.baddbmm(mask, q, k.transpose(1, 2), beta=1.0, alpha=0.5).softmax(-1)


def packed_heads(x, w):
    b, n, d = x.shape
    qkv = (x @ w).reshape(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, n, d)


def unbound_heads(x, w):
    b, n, d = x.shape
    q, k, v = (x @ w).view(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


def sdpa_mask(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)


def sdpa_keep(q, k, v, keep):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep > 0)


def sdpa_causal_grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5, enable_gqa=True)


def windows(x):
    """Swin's partition into windows of 2 x 2, and attention in each."""
    b, h, w, c = x.shape
    y = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    return (y @ y.mT).softmax(-1) @ y


def linear_attention(q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))


def relu_linear(q, k, v):
    q, k = torch.relu(q), F.relu(k)
    return torch.einsum("pe,ef->pf", q, torch.einsum("me,mf->ef", k, v)) / (q @ k.sum(0))[:, None].clamp(
        min=0.1
    )


def swiglu(x, up, gate, down):
    return (F.silu(x @ gate) * (x @ up)) @ down


def differential(q, k, v, lam):
    q1, q2 = q.chunk(2, -1)
    k1, k2 = k.chunk(2, -1)
    return ((q1 @ k1.mT).softmax(-1) - lam * (q2 @ k2.mT).softmax(-1)) @ v


def channel_attention(x):
    b, c, h, w = x.shape
    y = x.view(b, c, h * w)
    return (torch.bmm(y, y.permute(0, 2, 1)).softmax(-1) @ y).view(b, c, h, w)


def squeeze_excite(x, a, b):
    s = x.mean(dim=(2, 3))
    s = torch.sigmoid(F.relu(F.linear(s, a)).matmul(b))
    return x * s.view(s.shape[0], s.shape[1], 1, 1)


def entropy(q, k):
    p = torch.softmax(q @ k.T, -1)
    return -(p * p.log()).sum(-1)


def relative_bias(q, k, v, table):
    n = q.shape[0]
    i = torch.arange(n)
    return (q @ k.T + table[i[:, None] - i[None, :] + n - 1]).softmax(-1) @ v


def learned_temperature(q, k, v, t):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return (q @ k.mT * t.exp().clamp(max=100)).softmax(-1) @ v


def masked_mean(x, keep):
    m = (keep > 0).to(x.dtype).unsqueeze(-1)
    return (x * m).sum(1) / m.sum(1).clamp(min=1e-9)


class Attention(nn.Module):
    """Multi-head attention as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.qkv = nn.Linear(8, 24, bias=False, dtype=torch.float64)
        self.out = nn.Linear(8, 8, dtype=torch.float64)
        self.norm = nn.LayerNorm(8, dtype=torch.float64)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm(x)).split(d, dim=2)
        q, k, v = (t.view(b, n, self.heads, d // self.heads).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.drop(self.out(y.transpose(1, 2).contiguous().view(b, n, d)))


class Buffered(nn.Module):
    """Causal mask in a buffer, as GPT-2 keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tril(torch.ones(6, 6, dtype=torch.bool)).view(1, 1, 6, 6))

    def forward(self, q, k, v):
        n = q.shape[-2]
        w = q @ k.transpose(-1, -2) / v.size(-1) ** 0.5
        w = torch.where(self.bias[:, :, :n, :n], w, torch.finfo(w.dtype).min)
        return w.softmax(dim=-1) @ v


class Feedforward(nn.Sequential):
    """A feed-forward block."""

    def __init__(self) -> None:
        super().__init__(
            nn.RMSNorm(8, dtype=torch.float64),
            nn.Linear(8, 16, dtype=torch.float64),
            nn.GELU(),
            nn.Linear(16, 8, dtype=torch.float64),
        )


class BuiltIn(nn.Module):
    """PyTorch's own multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class Lstm(nn.Module):
    """A recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(3, 4, dtype=torch.float64)

    def forward(self, x):
        return self.inner(x)[0]


class Encoder(nn.TransformerEncoderLayer):
    """PyTorch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__(8, 2, 16, batch_first=True, dtype=torch.float64, norm_first=True)


class Learned(nn.Module):
    """Positions from a table of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 3, dtype=torch.float64)

    def forward(self, x):
        return x + self.table(torch.arange(x.shape[0]))


Q4, Q3 = (2, 4, 6, 4), (2, 6, 4)
# Those that must evaluate equal, with the shapes of their arguments.
SAID = [
    (eager_attention, [Q4, (2, 2, 6, 4), (2, 2, 6, 4), (2, 1, 6, 6)]),
    (interleaved_groups, [Q4, (2, 2, 6, 4), (2, 2, 6, 5)]),
    (grouped_by_view, [Q4, (2, 2, 5, 4), (2, 2, 5, 3)]),
    (rotary_halves, [Q3, Q3, (6, 2), (6, 2)]),
    (rotary_cat, [Q3, (6, 4), (6, 4)]),
    (alibi, [(3, 6, 4), (3, 6, 4), (3, 6, 5), (3,)]),
    (sliding_window, [Q3, Q3, Q3]),
    (filled_with_finfo, [Q3, Q3, Q3]),
    (soft_capped, [Q3, Q3, Q3]),
    (sink_logit, [Q3, Q3, Q3, (2, 1, 1)]),
    (pre_norm_attention, [(2, 5, 8), (8, 24), (8,), (8,)]),
    (softmax_over_two, [(2, 3, 4)]),
    (baddbmm, [(2, 6, 5), (2, 6, 4), (2, 5, 4)]),
    (packed_heads, [(2, 5, 8), (8, 24)]),
    (unbound_heads, [(2, 5, 8), (8, 24)]),
    (sdpa_mask, [Q4, Q4, Q4, (6, 6)]),
    (sdpa_keep, [Q4, Q4, Q4, (2, 1, 6, 6)]),
    (sdpa_causal_grouped, [Q4, (2, 2, 6, 4), (2, 2, 6, 4)]),
    (windows, [(2, 4, 6, 3)]),
    (linear_attention, [Q3, Q3, Q3]),
    (relu_linear, [(6, 4), (5, 4), (5, 3)]),
    (swiglu, [(3, 4), (4, 6), (4, 6), (6, 4)]),
    (differential, [(6, 8), (5, 8), (5, 3), ()]),
    (channel_attention, [(2, 3, 4, 5)]),
    (squeeze_excite, [(2, 6, 3, 4), (2, 6), (2, 6)]),
    (entropy, [(4, 3), (5, 3)]),
    (relative_bias, [(6, 4), (6, 4), (6, 3), (11,)]),
    (Attention(), [(2, 5, 8)]),
    (Buffered(), [Q4, Q4, Q4]),
    (Feedforward(), [(3, 8)]),
    (BuiltIn(), [(2, 5, 8)]),
    (learned_temperature, [(6, 4), (5, 4), (5, 3), ()]),
    (masked_mean, [(2, 5, 3), (2, 5)]),
    (Encoder(), [(2, 5, 8)]),
    (Learned(), [(5, 3)]),
]
# Those that are refused: the language has no words for them, or not yet.
REFUSED = [
    (Lstm(), [(5, 2, 3)]),
]
