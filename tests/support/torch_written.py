"""PyTorch as models are written: in place, under autocast, with convolutions of images and reshapes that cut across."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (its usual name)
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def in_place(x):
    a = x @ x.transpose(1, 2)
    a *= 0.5
    a.masked_fill_(torch.ones(a.shape[-2:]).triu(1) > 0, float("-inf"))
    a -= a.max(dim=-1, keepdim=True)[0]
    a.exp_()
    a.div_(a.sum(-1, keepdim=True))
    return a @ x


def stretches(x):
    y = x.clone()
    y[:, 1:5:2] = 0.5 * x[:, 0:1]
    y[..., 0] += 1
    y[:, -1] = x[:, 0]
    y[:, 2:4, 1] = x[0, 0, 0]
    return (y @ x.mT).softmax(-1) @ y


def by_mask(x):
    a = x @ x.mT
    a[a < 0] = -1e4
    seen = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
    seen[:, :2] = True
    seen[2:4:2, 3] = True
    return a.masked_fill(~seen, -torch.inf).softmax(-1) @ x


class Cached(nn.Module):
    """Keys are written into a buffer, which the next call would find there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(2, 8, 8, dtype=torch.float64))

    def forward(self, x):
        self.keys[:, 2 : 2 + x.shape[1]] = x
        return (x @ self.keys.mT).softmax(-1) @ self.keys


class Rotary(nn.Module):
    """Tables of angles as in Hugging Face's models: without gradients, autocast switched off."""

    def __init__(self):
        super().__init__()
        steps = torch.arange(0, 8, 2, dtype=torch.float64) / 8
        self.register_buffer("frequencies", 1.0 / 10000**steps)

    @torch.no_grad()
    def tables(self, x):
        places = torch.arange(x.shape[1]).unsqueeze(0)
        rates = self.frequencies[None, :, None].expand(places.shape[0], -1, 1)
        with torch.autocast(device_type="cpu", enabled=False):
            angles = (rates @ places[:, None, :].to(x.dtype)).transpose(1, 2)
            both = torch.cat((angles, angles), dim=-1)
            return both.cos().to(dtype=x.dtype), both.sin().type_as(x)

    def forward(self, x):
        cos, sin = self.tables(x)
        first, second = x[..., :4], x[..., 4:]
        q = x * cos + torch.cat((-second, first), dim=-1) * sin
        return F.scaled_dot_product_attention(q, q, x, is_causal=True)


class Library(nn.Module):
    """PyTorch's own attention with a mask and the weights handed back, which writes the mask in place."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, attn_mask=torch.ones(x.shape[1], x.shape[1]).triu(1).bool())


class Buckets(nn.Module):
    """T5's buckets of distances: an index by `where`, logarithm and rounding."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 2)

    def forward(self, x):
        n = x.shape[1]
        apart = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        buckets = (apart > 0).to(torch.long) * 4
        apart = torch.abs(apart)
        far = 2 + (torch.log(apart.double() / 2) / torch.log(torch.tensor(64.0)) * 2).to(torch.long)
        buckets = buckets + torch.where(apart < 2, apart, torch.min(far, torch.full_like(far, 3)))
        q = x.view(2, n, 2, 4).transpose(1, 2)
        return (q @ q.mT + self.table(buckets).permute(2, 0, 1)).softmax(-1) @ q


class Patches(nn.Module):
    """A vision transformer's way in: patches, a convolution of each channel, grouped and dilated ones."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.each = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.grouped = nn.Conv2d(6, 4, (1, 3), padding="same", groups=2, dilation=2)

    def forward(self, x):
        y = self.patches(x)
        tokens = self.grouped(y + self.each(y)).flatten(2).transpose(1, 2)
        return (tokens @ tokens.mT).softmax(-1) @ tokens


def video(x, w):
    return F.conv3d(x, w, stride=(1, 2, 1), padding=(1, 0, 1))


def talking_heads(x, w):
    q = x.unflatten(-1, (2, -1)).transpose(1, 2)
    return F.conv2d(F.conv2d(q @ q.mT, w).softmax(-1), w) @ q


def multi_token(x, w):
    """Causal scores that a convolution mixes over queries and keys, each head by itself."""
    q = x.unflatten(-1, (2, -1)).transpose(1, 2)
    seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    mixed = F.conv2d((q @ q.mT).masked_fill(~seen, 0), w, padding=(2, 2), groups=2)[:, :, : x.shape[1]]
    return mixed.masked_fill(~seen, -torch.inf).softmax(-1) @ q


def shifted_positions(x, r):
    """Transformer-XL's shift: a column of zeros, and rows that are cut anew."""
    n = x.shape[1]
    by_distance = torch.einsum("btd,rd->btr", x, r)
    moved = F.pad(by_distance, (1, 0)).view(x.shape[0], n + 1, n)[:, 1:].view(x.shape[0], n, n)
    return ((x @ x.mT + moved) / 2).softmax(-1) @ x


def two_ways(x):
    """The same axis split as 2 x 4 and as 4 x 2."""
    a, c = (x.view(2, 6, h, 8 // h).transpose(1, 2) for h in (2, 4))
    return (a @ a.mT).softmax(-1).sum(1) @ x + (c @ c.mT).sum(1) @ x + x.transpose(1, 2).reshape(2, 6, 8)


def uneven(x):
    a, b, c = x.tensor_split(3, dim=1)
    d, e, f = torch.tensor_split(x, (2, 5), dim=-1)
    return a[:, :2] + b * c, d.sum(-1) + e.mean(-1) * f.amax(-1), x.cumprod(1), torch.cdist(x, x, p=1)


def stick_breaking(x):
    z = (x @ x.mT).tril(-1)
    rest = F.logsigmoid(-z).tril(-1)
    after = rest.flip(-1).cumsum(-1).flip(-1) - rest
    return torch.exp(F.logsigmoid(z) + after).tril(-1) @ x


def near_and_capped(q, k, v):
    """FlexAttention: a window as a block mask, capped scores."""
    blocks = create_block_mask(lambda b, h, p, m: (p >= m) & (p - m < 3), None, None, 8, 8, device="cpu")
    return flex_attention(q, k, v, lambda s, b, h, p, m: 20 * torch.tanh(s / 20), blocks)


def sloped(q, k, v):
    """ALiBi as a function of scores, keys shared by two heads each."""
    return flex_attention(
        q, k, v, lambda s, b, h, p, m: s + (m - p) * torch.exp2(-(h + 1) * 4.0), scale=0.3, enable_gqa=True
    )


def in_documents(q, k, v, ends, bias):
    """Tensors of their own: a mask by document, a bias by distance."""
    documents = (ends > 0).long().cumsum(-1)

    def alike(b, h, p, m):
        return (documents[b, p] == documents[b, m]) & (p >= m)

    blocks = create_block_mask(alike, 2, None, 8, 8, device="cpu")
    return flex_attention(q, k, v, lambda s, b, h, p, m: s + bias[h, p - m + 7], blocks)


def sorted_in_place(x):
    y = x * 1
    y += 1
    return y.sort(-1).values


def put_by_index(x, i):
    y = x.clone()
    y[i.abs().long()] = 0.0
    return y


def chosen_by_data(x):
    y = x * 2
    return y[y > 0]


def decided_by_data(x):
    return x if x.sum() > 0 else -x


X = (2, 6, 8)
SAID = [
    (in_place, [X]),
    (stretches, [X]),
    (by_mask, [X]),
    (Cached(), [X]),
    (Rotary(), [X]),
    (Library().double(), [X]),
    (Buckets().double(), [X]),
    (Patches().double(), [(2, 3, 8, 8)]),
    (video, [(2, 3, 4, 4, 5), (2, 3, 2, 2, 2)]),
    (talking_heads, [X, (2, 2, 1, 1)]),
    (multi_token, [X, (2, 1, 3, 5)]),
    (shifted_positions, [X, (6, 8)]),
    (two_ways, [X]),
    (uneven, [(2, 7, 8)]),
    (stick_breaking, [X]),
    (near_and_capped, [(2, 2, 8, 4), (2, 2, 8, 4), (2, 2, 8, 3)]),
    (sloped, [(2, 4, 8, 4), (2, 2, 8, 4), (2, 2, 8, 3)]),
    (in_documents, [(2, 2, 8, 4), (2, 2, 8, 4), (2, 2, 8, 3), (2, 8), (2, 15)]),
    (sorted_in_place, [(4, 5)]),
    (put_by_index, [(4, 5), (2,)]),
]
REFUSED = [
    (chosen_by_data, [(4, 5)]),
]
