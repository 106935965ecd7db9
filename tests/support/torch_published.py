"""Attentions of published models as their code is written, with the passes over keys that the literature has for each.

Rows: function or module, shapes, which arguments are whole numbers (and below what), passes as written, and after
rewriting: one walk of FlashAttention's kind where a paper or a kernel has one.
"""

from __future__ import annotations

import math

import torch
from torch import nn

F = nn.functional


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def repeat_kv(x, times):
    b, heads, n, d = x.shape
    return x[:, :, None].expand(b, heads, times, n, d).reshape(b, heads * times, n, d)


class GptOss(nn.Module):
    """A sink column beside the scores, a window by the lowest number of the format, grouped heads, rotary halves."""

    def __init__(self, heads=4, groups=2, d=4, dim=16, window=3):
        super().__init__()
        self.heads, self.groups, self.d, self.window = heads, groups, d, window
        self.q, self.k, self.v = (nn.Linear(dim, n * d) for n in (heads, groups, groups))
        self.o = nn.Linear(heads * d, dim)
        self.sinks = nn.Parameter(torch.randn(heads))
        self.register_buffer("freq", 1.0 / (10000 ** (torch.arange(0, d, 2).double() / d)), persistent=False)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, self.d).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.outer(torch.arange(n).to(x.dtype), self.freq)
        cos, sin = (f(torch.cat((angle, angle), -1)) for f in (torch.cos, torch.sin))
        q, k = (t * cos + rotate_half(t) * sin for t in (q, k))
        k, v = (repeat_kv(t, self.heads // self.groups) for t in (k, v))
        low = torch.finfo(x.dtype).min
        mask = torch.full((n, n), low, dtype=x.dtype).triu(1)
        mask = mask + torch.full((n, n), low / 2, dtype=x.dtype).tril(-self.window)
        scores = q @ k.transpose(2, 3) * self.d**-0.5 + mask[None, None]
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(b, -1, n, -1)
        both = torch.cat([scores, sinks], dim=-1)
        both = both - both.max(dim=-1, keepdim=True).values
        shares = F.softmax(both, dim=-1, dtype=both.dtype)[..., :-1]
        shares = F.dropout(shares, p=0.1, training=self.training)
        return self.o((shares @ v).transpose(1, 2).contiguous().reshape(b, n, -1))


def prefix_softmax(q, k, v, pk, pv):
    scores = torch.cat([q @ pk.T, q @ k.T], dim=-1)
    shares = torch.softmax(scores / math.sqrt(q.shape[-1]), dim=-1)
    return shares[:, : pk.shape[0]] @ pv + shares[:, pk.shape[0] :] @ v


def windows_of(x, w):
    b, rows, columns, c = x.shape
    x = x.view(b, rows // w, w, columns // w, w, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, w, w, c)


class Swin(nn.Module):
    """Shifted windows: rolled, cut into windows, a mask for each, a table of relative places."""

    def __init__(self, dim=4, heads=2, w=2, shift=1, rows=4, columns=4):
        super().__init__()
        self.heads, self.w, self.shift = heads, w, shift
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.randn((2 * w - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid([torch.arange(w), torch.arange(w)], indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + w - 1
        self.register_buffer("index", apart[0] * (2 * w - 1) + apart[1])
        image = torch.arange(rows * columns).view(1, rows, columns, 1) // (rows * w)
        cells = windows_of(image, w).view(-1, w * w)
        self.register_buffer("mask", -100.0 * (cells[:, None] != cells[:, :, None]).double())

    def forward(self, x):
        _, rows, columns, c = x.shape
        x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = windows_of(x, self.w).view(-1, self.w**2, c)
        many, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(many, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).unsqueeze(0)
        count = self.mask.shape[0]
        scores = scores.view(many // count, count, self.heads, n, n) + self.mask.unsqueeze(1).unsqueeze(0)
        out = (F.softmax(scores.view(-1, self.heads, n, n), -1) @ v).transpose(1, 2).reshape(many, n, c)
        out = self.proj(out).view(-1, rows // self.w, columns // self.w, self.w, self.w, c)
        out = out.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, rows, columns, c)
        return torch.roll(out, shifts=(self.shift, self.shift), dims=(1, 2))


class Deberta(nn.Module):
    """Disentangled attention: content to place and place to content, gathered by clamped distances."""

    def __init__(self, heads=2, d=4, dim=8, span=4):
        super().__init__()
        self.heads, self.span = heads, span
        self.q, self.k, self.v = (nn.Linear(dim, heads * d) for _ in range(3))
        self.places = nn.Embedding(2 * span, dim)

    def by_head(self, x):
        x = x.view(*x.size()[:-1], self.heads, -1)
        return x.permute(0, 2, 1, 3).contiguous().view(-1, x.size(1), x.size(-1))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (self.by_head(f(x)) for f in (self.q, self.k, self.v))
        scale = math.sqrt(q.size(-1) * 3)
        scores = torch.bmm(q, k.transpose(-1, -2) / scale)
        apart = (torch.arange(n)[:, None] - torch.arange(n)[None, :]).unsqueeze(0)
        pk, pq = (self.by_head(f(self.places.weight.unsqueeze(0))).repeat(b, 1, 1) for f in (self.k, self.q))
        for own, place, sign in ((q, pk, 1), (k, pq, -1)):
            found = torch.bmm(own, place.transpose(-1, -2))
            at = torch.clamp(sign * apart + self.span, 0, 2 * self.span - 1).expand(q.size(0), n, n)
            found = torch.gather(found, dim=-1, index=at)
            scores = scores + (found if sign > 0 else found.transpose(-1, -2)) / scale
        shares = F.softmax(scores.view(-1, self.heads, n, n), dim=-1)
        out = torch.bmm(shares.view(-1, n, n), v)
        return out.view(-1, self.heads, n, v.size(-1)).permute(0, 2, 1, 3).contiguous().view(b, n, -1)


def llama_rotary(q, k, v):
    n, d = q.shape[1], q.shape[-1]
    angle = torch.outer(
        torch.arange(n).double(), 1.0 / (10000.0 ** (torch.arange(0, d, 2)[: d // 2].double() / d))
    )
    turn = torch.polar(torch.ones_like(angle), angle).view(1, n, 1, d // 2)
    q, k = (torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2)) for t in (q, k))
    q, k = (torch.view_as_real(t * turn).flatten(3) for t in (q, k))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


class StaticCache(nn.Module):
    """Decoding against buffers into which the new keys are written by position."""

    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.randn(2, 2, 8, 4))
        self.register_buffer("values", torch.randn(2, 2, 8, 4))

    def forward(self, q, k, v, position):
        self.keys.index_copy_(2, position, k)
        self.values[:, :, position] = v
        seen = torch.arange(8)[None, :] <= position[:, None]
        return F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen[None, None])


def native_sparse(q, k, v, g):
    n, d = q.shape
    block, chosen, window = 2, 2, 3
    kc, vc = (t.view(n // block, block, d).mean(1) for t in (k, v))
    i, j = torch.arange(n), torch.arange(n // block)
    seen = (j[None] + 1) * block - 1 <= i[:, None]
    shares = torch.nan_to_num(torch.softmax((q @ kc.T / math.sqrt(d)).masked_fill(~seen, -math.inf), -1))
    places = shares.masked_fill(j[None] == (i // block)[:, None], 1e9).topk(chosen, dim=-1).indices
    taken = torch.zeros(n, n // block).scatter(1, places, 1.0).bool().repeat_interleave(block, dim=1)
    scores, early = q @ k.T / math.sqrt(d), i[None] <= i[:, None]
    near = early & (i[:, None] - i[None] < window)
    parts = [torch.softmax(scores.masked_fill(~kept, -math.inf), -1) @ v for kept in (taken & early, near)]
    gates = torch.sigmoid(g)
    return gates[:, 0:1] * (shares @ vc) + gates[:, 1:2] * parts[0] + gates[:, 2:3] * parts[1]


def lightning_indexer(q, k, v, qi, ki, w):
    n = q.shape[0]
    index = torch.einsum("ths,th->ts", F.relu(torch.einsum("thd,sd->ths", qi, ki)), w)
    causal = torch.full((n, n), -math.inf).triu_(1)
    places = (index + causal).topk(3, dim=-1)[1]
    kept = torch.full((n, n), -math.inf, dtype=q.dtype).scatter_(-1, places, 0)
    return torch.softmax(q @ k.T * q.shape[-1] ** -0.5 + kept + causal, -1) @ v


def stabilised_mlstm(q, k, v, ig, fg):
    b, n, d = q.shape
    sums = torch.cat([torch.zeros((b, 1, 1), dtype=q.dtype), torch.cumsum(F.logsigmoid(fg), -2)], -2)
    rows = sums.repeat(1, 1, n + 1)
    early = torch.tril(torch.ones((n, n), dtype=torch.bool))
    log_d = torch.where(early, (rows - rows.transpose(-2, -1))[:, 1:, 1:], -math.inf) + ig.transpose(-2, -1)
    top, _ = torch.max(log_d, dim=-1, keepdim=True)
    c = q @ (k / math.sqrt(d)).transpose(-2, -1) * torch.exp(log_d - top)
    return c / (torch.maximum(c.sum(-1, keepdim=True).abs(), torch.exp(-top)) + 1e-6) @ v


def forgetting(q, k, v, f, g):
    n = q.shape[1]
    decay = torch.cumsum(F.logsigmoid(f), -1)
    scores = torch.einsum("hid,hjd->hij", q, k) / math.sqrt(q.shape[-1])
    scores = scores + decay[:, :, None] - decay[:, None, :]
    out = torch.where(torch.ones(n, n, dtype=torch.bool).tril(), scores, -math.inf).softmax(-1) @ v
    return out * torch.rsqrt(out.pow(2).mean(-1, keepdim=True) + 1e-6) * g.sigmoid()


def reformer(qk, v, r):
    n, d = qk.shape
    turned = qk @ r
    bucket = torch.argmax(torch.cat([turned, -turned], -1), -1)
    order = torch.argsort(n * bucket + torch.arange(n))
    q, v = (t[order].view(n // 2, 2, d) for t in (qk, v))

    def back(t):
        return torch.cat([t, torch.cat([t[-1:], t[:-1]], 0)], 1)

    k, v = back(F.normalize(q, dim=-1)), back(v)
    scores = torch.einsum("nid,njd->nij", q, k) * d**-0.5
    out = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True)) @ v
    return out.view(n, d)[torch.argsort(order)]


def sparsemax(q, k, v):
    scores = q @ k.T
    ordered, _ = torch.sort(scores, dim=-1, descending=True)
    count = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    held = (1 + count * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
    threshold = (ordered.cumsum(-1).gather(-1, held - 1) - 1) / held
    return torch.clamp(scores - threshold, min=0) @ v


def normaliser(q, k, v):  # a product of two vectors in a recurrence (mLSTM)
    n, total, out = torch.zeros_like(q[0]), torch.zeros_like(q[0]), []
    for t in range(q.shape[0]):
        n, total = n + k[t], total + k[t] * v[t]
        out.append(total / torch.maximum((n @ q[t]).abs(), torch.dot(k[t], k[t])))
    return torch.stack(out)


def diagonal_state(u, nu, theta, b_re, b_im):
    turn, b = torch.exp(torch.complex(-torch.exp(nu), theta)), torch.complex(b_re, b_im)
    x, out = torch.zeros(3, dtype=torch.cdouble), []
    for t in range(u.shape[0]):
        x = turn * x + b @ u[t].to(torch.cdouble)
        out.append(x.real)
    return torch.stack(out)


def complex_numbers(a, b):
    z = torch.complex(a, b)
    w = z.conj() * 2 - z / (1 + 1j * z) + z**3
    many = (
        torch.view_as_real(torch.exp(0.1 * z) @ z.T),
        (z.sum(0) * 1j).imag,
        torch.cat([z, z.conj()], 0).real,
    )
    return w.real, w.imag, w.abs(), *many, torch.einsum("ij,kj->ik", z, z).real, torch.stack([z, w]).imag


def written_at_places(cache, x, at):
    by_slice, by_pair, by_row, by_number, added = (cache.clone() for _ in range(5))
    by_slice[:, at] = x
    by_pair[torch.arange(2), at] = x[:, 0]
    by_row[:, at - 5] = x[0, 0]
    by_number[:, at] = 7.0
    return by_slice, by_pair, by_row, by_number, added.index_put((torch.arange(2), at), x[1], accumulate=True)


def in_order(x, s):
    order = torch.argsort(s, descending=True)
    there = torch.zeros_like(s).scatter(0, order, s[order])
    return (
        x.sort(0).values,
        torch.gather(x, 0, torch.argsort(x, dim=0)),
        x[order][torch.argsort(order)],
        there,
    )


def quantised(x):
    return torch.fake_quantize_per_tensor_affine(x, 0.125, 3, -8, 7)


H = (2, 6, 4)


def contextual_position(q, k, v, table):
    """Contextual position encoding: positions count gates from the query back; between two, their vectors are mixed."""
    scores = (q @ k.mT).masked_fill(torch.ones(q.shape[-2], k.shape[-2]).triu(1).bool(), -torch.inf)
    places = scores.sigmoid().flip(-1).cumsum(-1).flip(-1).clamp(max=table.shape[-1] - 1)
    low, high = places.floor().long(), places.ceil().long()
    at = q @ table
    mixed = at.gather(-1, high) * (places - low) + at.gather(-1, low) * (1 - (places - low))
    return torch.softmax(scores + mixed, -1) @ v


PUBLISHED = [
    (GptOss().double(), [(2, 6, 16)], {}, 4, 1),
    (prefix_softmax, [(5, 4), (6, 4), (6, 3), (2, 4), (2, 3)], {}, 3, 1),
    (Swin().double(), [(2, 4, 4, 4)], {}, 3, 1),
    (Deberta().double(), [(2, 5, 8)], {}, 3, 1),
    (llama_rotary, [(2, 6, 3, 4)] * 3, {}, 3, 1),
    (StaticCache().double(), [(2, 2, 1, 4)] * 3 + [(1,)], {3: 8}, 3, 1),
    (native_sparse, [(8, 4), (8, 4), (8, 4), (8, 3)], {}, 4, 2),
    (lightning_indexer, [(6, 4)] * 3 + [(6, 2, 3), (6, 3), (6, 2)], {}, 3, 1),
    (stabilised_mlstm, [H, H, H, (2, 6, 1), (2, 6, 1)], {}, 3, 1),
    (forgetting, [H, H, H, (2, 6), H], {}, 3, 1),
    (contextual_position, [(2, 7, 4), (2, 7, 4), (2, 7, 3), (4, 5)], {}, 5, 1),
]
# The same without a count of passes.
SAID = [
    (reformer, [(8, 4), (8, 4), (4, 2)], {}),
    (sparsemax, [(4, 3), (5, 3), (5, 3)], {}),
    (normaliser, [(4, 3), (4, 3), (4, 3)], {}),
    (diagonal_state, [(6, 2), (3,), (3,), (3, 2), (3, 2)], {}),
    (complex_numbers, [(4, 3), (4, 3)], {}),
    (written_at_places, [(2, 5, 4), (2, 2, 4), (2,)], {2: 5}),
    (in_order, [(6, 4), (6,)], {}),
    (quantised, [(4, 6)], {}),
]
