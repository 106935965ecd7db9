"""Functions as people write them with PyTorch: what the tracer must say in Einsums, or refuse with a line."""

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


def rms_norm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w


def builtin_rms_norm(x, w):
    return F.rms_norm(x, (x.shape[-1],), w, 1e-6)


def cross_entropy(x, y):
    return -(y * F.log_softmax(x, dim=-1)).sum(-1).mean()


def builtin_cross_entropy(x, y):
    return F.cross_entropy(x, y.softmax(-1))


def kl_divergence(x, y):
    return (y.softmax(-1) * (y.log_softmax(-1) - x.log_softmax(-1))).sum()


def softmax_over_two(x):
    return torch.softmax(x.flatten(-2), -1).unflatten(-1, x.shape[-2:])


def softmax_first(x):
    return F.softmax(x, dim=0) - F.softmax(x, dim=1)


def softmin(x):
    return F.softmin(x, dim=-1)


def einsum_forms(x, y):
    a = torch.einsum("ij,kj", x, y)
    b = torch.einsum("...i,...i->...", x, y)
    return torch.einsum("ik,i->k", a, b), torch.einsum("ij->ji", x), torch.einsum("ij,ij->", x, y)


def einsum_diagonal(x):
    return torch.einsum("ii->i", x)


def matmul_broadcast(x, w):
    return torch.matmul(x, w), torch.matmul(w.mT, x.mT), x[0, 0] @ w[0, :, 0]


def outer_products(x, y):
    return torch.outer(x[0], y[0]) + x[0][:, None] * y[0], x @ y.mT


def baddbmm(mask, q, k):
    return torch.baddbmm(mask, q, k.transpose(1, 2), beta=1.0, alpha=0.5).softmax(-1)


def addmm(b, x, w):
    return torch.addmm(b, x, w, beta=0.5, alpha=2.0)


def packed_heads(x, w):
    b, n, d = x.shape
    qkv = (x @ w).reshape(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, n, d)


def unbound_heads(x, w):
    b, n, d = x.shape
    q, k, v = (x @ w).view(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


def split_heads(x):
    a, b = torch.split(x, x.shape[-1] // 2, dim=-1)
    return a * torch.sigmoid(b)


def glu(x):
    return F.glu(x, -1)


def sdpa_mask(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)


def sdpa_keep(q, k, v, keep):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep > 0)


def sdpa_causal_grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5, enable_gqa=True)


def logsumexp_keep(x):
    return x - torch.logsumexp(x, dim=-1, keepdim=True), torch.logsumexp(x, (0, 1))


def moments(x):
    return x.mean(), x.mean((0, 1)), x.var(1), x.std(-1, unbiased=False), torch.var_mean(x, 1)[0]


def norms(x):
    return x.norm(dim=-1), torch.linalg.vector_norm(x, dim=-1), F.normalize(x, dim=-1)


def cosine(x, y):
    return F.cosine_similarity(x, y, dim=-1)


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


def squared_relu(x, w):
    return F.relu(x @ w).square() + F.leaky_relu(x @ w, 0.1) - F.hardtanh(x @ w)


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


def pooled(x):
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.pow(2).sum().sqrt() * y.pow(2).sum().sqrt())


def entropy(q, k):
    p = torch.softmax(q @ k.T, -1)
    return -(p * p.log()).sum(-1)


def relative_bias(q, k, v, table):
    n = q.shape[0]
    i = torch.arange(n)
    return (q @ k.T + table[i[:, None] - i[None, :] + n - 1]).softmax(-1) @ v


def roll_and_flip(x):
    return torch.roll(x, 1, 0) + x.flip(0)


def argmax_gather(x):
    return torch.gather(x, 1, x.argmax(1, keepdim=True))


def top_two(x):
    return x.topk(2, dim=-1).values


def stacked(x, y):
    return torch.stack([x, y], dim=1).sum(-1)


def written_in_place(x):
    y = x.clone()
    y[:, 0] = 0
    return y


def sorted_rows(x):
    return x.sort(-1).values


def larger_of_two(x, y):
    return torch.max(x, y) + torch.min(x, y)


def rounded_division(x, y):
    return torch.div(x, y, rounding_mode="floor"), x // 2, x % 3, torch.div(x, y, rounding_mode="trunc")


def remainders(x, y):
    return torch.remainder(x, y), torch.fmod(x, y)


def casts(x):
    return (3 * x).long().double(), (3 * x).int().double(), x.bool().double(), (x > 0).to(x.dtype) * x


def truths(x):
    return (x > 0) * x, (x > 0).sum(-1), ((x > 0) ^ (x < 1)).double(), (x > 0).double().mean()


def any_and_all(x):
    return (x > 0).any(-1).double(), (x > 0).all(-1).double()


def slices(x):
    return x[-3:], x[..., ::2], x[None], x[:, 1:-1], x[1], x[:, -1], x[:, None, :, None]


def swapped(x):
    return x.swapaxes(0, 1), x.movedim(0, -1), x.T, x.transpose(-1, -2)


def made(x):
    return x + torch.eye(x.shape[0], dtype=x.dtype), x + x.new_zeros(x.shape), x * torch.tensor(3.0)


def spaced(x):
    return x * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)


def stepped(x):
    return x * torch.arange(1, 2 * x.shape[-1], 2) + torch.arange(0.0, x.shape[-1])


def padded(x):
    return F.pad(x, (1, 2))


def convolved(x, w):
    return F.conv1d(x, w, padding=1)


def one_hot(x):
    return F.one_hot((x > 0).long(), 2).double()


def extremes(x):
    return x.max(), x.min(1).values, x.max(0)[0], torch.aminmax(x, dim=1)[1]


def products(x):
    return x.prod(), x.prod(1), x.cumprod(1)


def signs(x):
    return torch.sign(x) * torch.abs(x) ** 1.5


def rounded(x):
    return torch.round(3 * x), torch.trunc(3 * x), torch.ceil(3 * x), torch.floor(3 * x)


def hyperbolic(x):
    return torch.sinh(x), torch.exp2(x), torch.log2(x.abs()), torch.expm1(x), torch.log1p(x.abs())


def mish(x):
    return F.mish(x), F.selu(x), F.celu(x), F.hardswish(x), F.relu6(x), F.softsign(x), F.logsigmoid(x)


def tanh_gelu(x):
    return F.gelu(x, approximate="tanh")


def nan_safe(x):
    return torch.nan_to_num(x), x.isfinite().double()


def constant_power(x):
    return 2**x, x**3, x.abs() ** 0.5, x**-2, torch.pow(x.abs(), x)


def learned_temperature(q, k, v, t):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return (q @ k.mT * t.exp().clamp(max=100)).softmax(-1) @ v


def tiled(x):
    return x.repeat(2, 3), x.tile(2), x.broadcast_to(2, *x.shape)


def lerped(x, y):
    return torch.lerp(x, y, 0.3), torch.addcmul(x, x, y, value=2.0), torch.addcdiv(x, x, y.abs() + 1)


def distances(x, y):
    return torch.cdist(x, y), (x[:, None] - y[None]).pow(2).sum(-1).sqrt()


def kronecker(x, y):
    return torch.kron(x, y)


def masked_mean(x, keep):
    m = (keep > 0).to(x.dtype).unsqueeze(-1)
    return (x * m).sum(1) / m.sum(1).clamp(min=1e-9)


def upsampled(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def scatter_add(x):
    return torch.zeros(3, x.shape[1], dtype=x.dtype).index_add(0, torch.tensor([0, 1, 0, 2]), x)


def diagonal(x):
    return torch.diagonal(x), torch.trace(x), torch.diag_embed(x)


def random_noise(x):
    return x + torch.rand_like(x)


def training_dropout(x):
    return F.dropout(x, 0.5, training=True)


def boolean_index(x):
    return x[x > 0]


def class_loss(x):
    return F.cross_entropy(x, torch.arange(x.shape[0]) % x.shape[1])


def negative_log(x):
    return F.nll_loss(x.log_softmax(1), torch.arange(x.shape[0]) % x.shape[1])


def squared_error(x, y):
    return F.mse_loss(x, y), F.l1_loss(x, y), F.smooth_l1_loss(x, y)


def batch_norm(x):
    return F.batch_norm(x, None, None, training=True)


def group_norm(x):
    return F.group_norm(x, 2)


def instance_norm(x):
    return F.instance_norm(x)


def max_pool(x):
    return F.max_pool1d(x, 2)


def threshold(x):
    return F.threshold(x, 0.1, 20.0), torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)), F.hardsigmoid(x)


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
    (rms_norm, [(2, 5, 8), (8,)]),
    (builtin_rms_norm, [(2, 5, 8), (8,)]),
    (cross_entropy, [(5, 7), (5, 7)]),
    (builtin_cross_entropy, [(5, 7), (5, 7)]),
    (kl_divergence, [(5, 7), (5, 7)]),
    (softmax_over_two, [(2, 3, 4)]),
    (softmax_first, [(4, 5)]),
    (softmin, [(4, 5)]),
    (einsum_forms, [(4, 5), (4, 5)]),
    (matmul_broadcast, [(2, 3, 4, 5), (3, 5, 6)]),
    (outer_products, [(3, 4), (2, 4)]),
    (baddbmm, [(2, 6, 5), (2, 6, 4), (2, 5, 4)]),
    (addmm, [(6,), (4, 5), (5, 6)]),
    (packed_heads, [(2, 5, 8), (8, 24)]),
    (unbound_heads, [(2, 5, 8), (8, 24)]),
    (split_heads, [(3, 8)]),
    (glu, [(3, 8)]),
    (sdpa_mask, [Q4, Q4, Q4, (6, 6)]),
    (sdpa_keep, [Q4, Q4, Q4, (2, 1, 6, 6)]),
    (sdpa_causal_grouped, [Q4, (2, 2, 6, 4), (2, 2, 6, 4)]),
    (logsumexp_keep, [(4, 5)]),
    (moments, [(4, 5, 3)]),
    (norms, [(4, 5)]),
    (cosine, [(4, 5), (4, 5)]),
    (windows, [(2, 4, 6, 3)]),
    (linear_attention, [Q3, Q3, Q3]),
    (relu_linear, [(6, 4), (5, 4), (5, 3)]),
    (squared_relu, [(3, 4), (4, 5)]),
    (swiglu, [(3, 4), (4, 6), (4, 6), (6, 4)]),
    (differential, [(6, 8), (5, 8), (5, 3), ()]),
    (channel_attention, [(2, 3, 4, 5)]),
    (squeeze_excite, [(2, 6, 3, 4), (2, 6), (2, 6)]),
    (pooled, [(2, 3, 4, 5)]),
    (pearson, [(7,), (7,)]),
    (entropy, [(4, 3), (5, 3)]),
    (stacked, [(4, 3), (4, 3)]),
    (relative_bias, [(6, 4), (6, 4), (6, 3), (11,)]),
    (Attention(), [(2, 5, 8)]),
    (Buffered(), [Q4, Q4, Q4]),
    (Feedforward(), [(3, 8)]),
    (BuiltIn(), [(2, 5, 8)]),
    (einsum_diagonal, [(4, 4)]),
    (roll_and_flip, [(4, 5)]),
    (larger_of_two, [(4, 5), (4, 5)]),
    (rounded_division, [(4, 5), (4, 5)]),
    (casts, [(4, 5)]),
    (truths, [(4, 5)]),
    (any_and_all, [(4, 5)]),
    (slices, [(4, 5)]),
    (swapped, [(4, 5)]),
    (made, [(5, 5)]),
    (spaced, [(4, 5)]),
    (stepped, [(4, 5)]),
    (padded, [(4, 5)]),
    (signs, [(4, 5)]),
    (tanh_gelu, [(4, 5)]),
    (constant_power, [(4, 5)]),
    (learned_temperature, [(6, 4), (5, 4), (5, 3), ()]),
    (tiled, [(4, 5)]),
    (masked_mean, [(2, 5, 3), (2, 5)]),
    (class_loss, [(4, 5)]),
    (Encoder(), [(2, 5, 8)]),
    (Learned(), [(5, 3)]),
]
# Those that may be refused: the language has no words for them, or not yet.
REFUSED = [
    (argmax_gather, [(4, 5)]),
    (top_two, [(4, 5)]),
    (written_in_place, [(4, 5)]),
    (sorted_rows, [(4, 5)]),
    (remainders, [(4, 5), (4, 5)]),
    (convolved, [(2, 3, 7), (4, 3, 3)]),
    (one_hot, [(4,)]),
    (extremes, [(4, 5)]),
    (products, [(4, 5)]),
    (rounded, [(4, 5)]),
    (hyperbolic, [(4, 5)]),
    (mish, [(4, 5)]),
    (nan_safe, [(4, 5)]),
    (lerped, [(4, 5), (4, 5)]),
    (distances, [(4, 3), (5, 3)]),
    (kronecker, [(2, 3), (3, 2)]),
    (upsampled, [(1, 2, 3, 4)]),
    (scatter_add, [(4, 5)]),
    (diagonal, [(4, 4)]),
    (random_noise, [(4, 5)]),
    (training_dropout, [(4, 5)]),
    (boolean_index, [(4, 5)]),
    (negative_log, [(4, 5)]),
    (squared_error, [(4, 5), (4, 5)]),
    (batch_norm, [(4, 5)]),
    (group_norm, [(2, 4, 5)]),
    (instance_norm, [(2, 4, 5)]),
    (max_pool, [(2, 3, 6)]),
    (threshold, [(4, 5)]),
    (Lstm(), [(5, 2, 3)]),
]
