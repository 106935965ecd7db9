"""Running sums, selections, windows and convolutions as people write them with PyTorch."""

from __future__ import annotations

import torch
from torch import nn

F = nn.functional


def running_sums(x):
    return torch.cumsum(x, -1), x.cumsum(0), torch.cumprod(x, 1), (x.relu() + 1).cumsum(1).log()


def running_mean(x):
    return x.cumsum(-1) / torch.arange(1, x.shape[-1] + 1)


def reversed_decay(x, g):
    """Decay from s to t, as gated linear attention writes it."""
    total = torch.log(torch.sigmoid(g)).cumsum(-1)
    decay = torch.exp(total[..., :, None] - total[..., None, :])
    return torch.einsum("bts,bs->bt", decay.tril(), x)


def top_of_rows(x):
    best = x.topk(2, dim=-1)
    return best.values, best.indices


def bottom_of_columns(x):
    return torch.topk(x, 3, dim=0, largest=False).values


def routed(x, w):
    """The best two experts of each token, weighted by a softmax over them."""
    scores, chosen = torch.topk(x @ w.mT, 2, dim=-1)
    return scores.softmax(-1).sum(-1) * 1.0, chosen


def places_of_extremes(x):
    return x.argmax(-1), x.argmin(0), torch.argmax(x, dim=1, keepdim=True), x[0].argmax()


def nearest_entry(x, table):
    """Vector quantisation: the entry of a codebook with the largest product."""
    return table[(x @ table.mT).argmax(-1)]


def depthwise(x, w, b):
    return F.conv1d(x, w, b, groups=x.shape[1])


def causal_depthwise(x, w):
    return F.silu(F.conv1d(x, w, padding=w.shape[-1] - 1, groups=x.shape[1])[..., : x.shape[-1]])


def full_convolution(x, w, b):
    return F.conv1d(x, w, b), F.conv1d(x, w, b, padding=1), F.conv1d(x[0], w)


def convolution_in_groups(x, w):
    return F.conv1d(x, w, groups=2), F.conv1d(x, w, groups=2, stride=2, dilation=2)


def same_convolution(x, w):
    return F.conv1d(x, w, padding="same")


class ConvolutionLayer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(3, 4, 3, padding=1).double()

    def forward(self, x):
        return self.conv(x).relu()


def unfolded(x):
    return x.unfold(-1, 3, 1).sum(-1), x.unfold(1, 2, 2), x.unfold(0, 2, 1).amax(-1)


def local_products(q, k):
    """Scores of each position with the three keys from it on."""
    return torch.einsum("ie,iew->iw", q[: k.shape[0] - 2], k.unfold(0, 3, 1))


def tensor_dots(x, y):
    return (
        torch.tensordot(x, y, dims=([1], [0])),
        torch.tensordot(x, y, dims=1),
        torch.tensordot(x, x, dims=2),
    )


def lerps(x, y, w):
    return (
        torch.lerp(x, y, 0.25),
        torch.lerp(x, y, w),
        torch.addcmul(x, y, w),
        torch.addcmul(x, y, w, value=-2),
    )


def mishes(x):
    return F.mish(x), nn.Mish()(x * 2)


def whole_sort(x):
    return torch.sort(x, dim=-1).values


def spectrum(x):
    return torch.fft.rfft(x, dim=-1).abs()


def two_dimensional(x, w):
    return F.conv2d(x, w)


def place_among_all(x):
    return x.argmax()


def largest_so_far(x):
    return x.cummax(-1).values, x.cummin(0).values, x.logcumsumexp(-1), x.diff(dim=0)


SAID = [
    (two_dimensional, [(1, 2, 4, 4), (3, 2, 2, 2)]),
    (running_sums, [(3, 4)]),
    (running_mean, [(2, 5)]),
    (reversed_decay, [(2, 4), (2, 4)]),
    (top_of_rows, [(3, 5)]),
    (bottom_of_columns, [(4, 3)]),
    (routed, [(4, 3), (5, 3)]),
    (places_of_extremes, [(3, 4)]),
    (nearest_entry, [(4, 3), (5, 3)]),
    (depthwise, [(2, 3, 7), (3, 1, 3), (3,)]),
    (causal_depthwise, [(2, 3, 7), (3, 1, 4)]),
    (full_convolution, [(2, 3, 7), (4, 3, 3), (4,)]),
    (convolution_in_groups, [(2, 4, 9), (6, 2, 3)]),
    (same_convolution, [(2, 3, 7), (4, 3, 5)]),
    (ConvolutionLayer(), [(2, 3, 6)]),
    (unfolded, [(4, 6)]),
    (local_products, [(6, 3), (6, 3)]),
    (tensor_dots, [(3, 4), (4, 5)]),
    (lerps, [(3, 4), (3, 4), (3, 4)]),
    (mishes, [(3, 4)]),
    (largest_so_far, [(4, 5)]),
    (whole_sort, [(4, 5)]),
]
REFUSED = [
    (spectrum, [(4, 6)]),
    (place_among_all, [(4, 5)]),
]
