"""Maps, reductions, views and losses as people write them with PyTorch."""

from __future__ import annotations

import torch
from torch import nn

F = nn.functional


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


def addmm(b, x, w):
    return torch.addmm(b, x, w, beta=0.5, alpha=2.0)


def split_heads(x):
    a, b = torch.split(x, x.shape[-1] // 2, dim=-1)
    return a * torch.sigmoid(b)


def glu(x):
    return F.glu(x, -1)


def logsumexp_keep(x):
    return x - torch.logsumexp(x, dim=-1, keepdim=True), torch.logsumexp(x, (0, 1))


def moments(x):
    return x.mean(), x.mean((0, 1)), x.var(1), x.std(-1, unbiased=False), torch.var_mean(x, 1)[0]


def norms(x):
    return x.norm(dim=-1), torch.linalg.vector_norm(x, dim=-1), F.normalize(x, dim=-1)


def cosine(x, y):
    return F.cosine_similarity(x, y, dim=-1)


def squared_relu(x, w):
    return F.relu(x @ w).square() + F.leaky_relu(x @ w, 0.1) - F.hardtanh(x @ w)


def pooled(x):
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.pow(2).sum().sqrt() * y.pow(2).sum().sqrt())


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


def tiled(x):
    return x.repeat(2, 3), x.tile(2), x.broadcast_to(2, *x.shape)


def lerped(x, y):
    return torch.lerp(x, y, 0.3), torch.addcmul(x, x, y, value=2.0), torch.addcdiv(x, x, y.abs() + 1)


def distances(x, y):
    return torch.cdist(x, y), (x[:, None] - y[None]).pow(2).sum(-1).sqrt()


def kronecker(x, y):
    return torch.kron(x, y)


def upsampled(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


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


# Those that must evaluate equal, with the shapes of their arguments.
def einsum_over_copies(x):
    return torch.einsum("bhtd->btd", x[:, None].expand(2, 3, 4, 5))


def product_of_copies(x):
    return x[..., None].expand(2, 4, 5, 3) @ torch.ones(3, 2, dtype=x.dtype)


def softmax_over_copies(x):
    return x[..., None].expand(2, 4, 5, 3).softmax(-1).sum(-1)


def one_key_for_several_heads(q, k):
    return torch.nn.functional.scaled_dot_product_attention(
        q[:, None].expand(2, 3, 4, 5), k[:, None], k[:, None]
    ).sum(1)


SAID = [
    (written_in_place, [(4, 5)]),
    (distances, [(4, 3), (5, 3)]),
    (products, [(4, 5)]),
    (lerped, [(4, 5), (4, 5)]),
    (convolved, [(2, 3, 7), (4, 3, 3)]),
    (top_two, [(4, 5)]),
    (argmax_gather, [(4, 5)]),
    (einsum_over_copies, [(2, 4, 5)]),
    (product_of_copies, [(2, 4, 5)]),
    (softmax_over_copies, [(2, 4, 5)]),
    (one_key_for_several_heads, [(2, 4, 5), (2, 6, 5)]),
    (rms_norm, [(2, 5, 8), (8,)]),
    (builtin_rms_norm, [(2, 5, 8), (8,)]),
    (cross_entropy, [(5, 7), (5, 7)]),
    (builtin_cross_entropy, [(5, 7), (5, 7)]),
    (kl_divergence, [(5, 7), (5, 7)]),
    (softmax_first, [(4, 5)]),
    (softmin, [(4, 5)]),
    (einsum_forms, [(4, 5), (4, 5)]),
    (matmul_broadcast, [(2, 3, 4, 5), (3, 5, 6)]),
    (outer_products, [(3, 4), (2, 4)]),
    (addmm, [(6,), (4, 5), (5, 6)]),
    (split_heads, [(3, 8)]),
    (glu, [(3, 8)]),
    (logsumexp_keep, [(4, 5)]),
    (moments, [(4, 5, 3)]),
    (norms, [(4, 5)]),
    (cosine, [(4, 5), (4, 5)]),
    (squared_relu, [(3, 4), (4, 5)]),
    (pooled, [(2, 3, 4, 5)]),
    (pearson, [(7,), (7,)]),
    (stacked, [(4, 3), (4, 3)]),
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
    (tiled, [(4, 5)]),
    (class_loss, [(4, 5)]),
    (group_norm, [(2, 4, 5)]),
    (negative_log, [(4, 5)]),
    (rounded, [(4, 5)]),
    (one_hot, [(4,)]),
    (sorted_rows, [(4, 5)]),
    (remainders, [(4, 5), (4, 5)]),
    (extremes, [(4, 5)]),
    (hyperbolic, [(4, 5)]),
    (mish, [(4, 5)]),
    (nan_safe, [(4, 5)]),
    (kronecker, [(2, 3), (3, 2)]),
    (upsampled, [(1, 2, 3, 4)]),
    (diagonal, [(4, 4)]),
    (squared_error, [(4, 5), (4, 5)]),
    (batch_norm, [(4, 5)]),
    (instance_norm, [(2, 4, 5)]),
    (max_pool, [(2, 3, 6)]),
    (threshold, [(4, 5)]),
]
# Those that are refused: the language has no words for them, or not yet.
REFUSED = [
    (random_noise, [(4, 5)]),
    (training_dropout, [(4, 5)]),
    (boolean_index, [(4, 5)]),
]
