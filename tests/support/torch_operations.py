"""Operations of PyTorch on two matrices of four rows and five columns; most of them torch itself says by others."""

from __future__ import annotations

import torch

F = torch.nn.functional

MAPS = {
    "logaddexp": lambda x, y: torch.logaddexp(x, y),
    "hardswish": lambda x, y: F.hardswish(x),
    "hardsigmoid": lambda x, y: F.hardsigmoid(x),
    "selu": lambda x, y: F.selu(x),
    "celu": lambda x, y: F.celu(x),
    "prelu": lambda x, y: F.prelu(x, y[:1, 0]),
    "relu6": lambda x, y: F.relu6(x),
    "infinite": lambda x, y: torch.isinf(x).double() + torch.isfinite(y).double(),
    "hyperbolic": lambda x, y: torch.sinh(x) + torch.cosh(y),
    "logarithms": lambda x, y: x.abs().log10() - x.abs().log2(),
    "erfc": lambda x, y: torch.erfc(x),
    "frac": lambda x, y: x.frac() + torch.fmod(x, y),
    "hypot": lambda x, y: torch.hypot(x, y),
    "xlogy": lambda x, y: torch.xlogy(x, y.abs()),
    "logit": lambda x, y: torch.logit(torch.sigmoid(x)),
    "heaviside": lambda x, y: torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)),
    "special": lambda x, y: torch.special.expit(x) + torch.special.erf(y),
    "softplus": lambda x, y: F.softplus(x, beta=2),
}
SHAPES = {
    "diag_embed": lambda x, y: torch.diag_embed(x),
    "diagonals": lambda x, y: (torch.diagonal(x, 1), torch.diagonal(x[None].expand(2, 4, 5), -1, 1, 2)),
    "trace": lambda x, y: torch.trace(x[:, :4]),
    "kron": lambda x, y: torch.kron(x, y),
    "block_diag": lambda x, y: torch.block_diag(x, y),
    "rot90": lambda x, y: torch.rot90(x),
    "first_part_of_a_result": lambda x, y: (
        (x @ y.T)[:, :2],
        x.softmax(0)[:3],
        y.topk(3, -1)[1].double()[:, :2],
        x.amax(0)[:2],
        x.cumsum(0)[:2],
        x[:, :2],
    ),
    "squeezed_number": lambda x, y: x.sum().squeeze(0) * y.sum().squeeze(-1),
    "roll": lambda x, y: torch.roll(x, 1),
    "tril_indices": lambda x, y: x[:, :4][tuple(torch.tril_indices(4, 4))],
    "pixel_shuffle": lambda x, y: F.pixel_shuffle(x[None, :, :, None], 2),
    "im2col": lambda x, y: F.unfold(x[None, None], 2, stride=2),
    "reflect": lambda x, y: F.pad(x, (2, 1), mode="reflect"),
    "circular": lambda x, y: (
        F.pad(x[None], (2, 1), mode="circular"),
        F.pad(y[None, None], (1, 0, 0, 2), mode="circular"),
    ),
    "replicate": lambda x, y: F.pad(x, (2, 1), mode="replicate"),
    "relative_shift": lambda x, y: F.pad(x, (1, 0)).view(-1)[4:].view(4, -1)[:, :4],
    "empty_cache": lambda x, y: (
        torch.softmax(x @ torch.cat([y[:0] * 2, y]).T, -1) @ torch.cat([y.new_zeros(0, 5), y])
    ),
    "not_a_number": lambda x, y: torch.where(x > 0, x, torch.nan).nan_to_num(0.0),
    "places": lambda x, y: torch.arange(24).view(4, 6)[1:, :5] * x[1:],
    "chunks_of_places": lambda x, y: x.masked_fill(torch.arange(20).view(4, 5) % 3 == 0, 0.0),
}
SUMS = {
    "std_mean": lambda x, y: torch.std_mean(x, -1),
    "medians": lambda x, y: (x.median(), x.median(0).values, y.kthvalue(2, -1, keepdim=True).values),
    "places_of_extremes": lambda x, y: (
        x.max(-1, keepdim=True)[1].double() * y,
        y.min(0).indices.double() + x.min(0).values,
    ),
    "ordered_beside_itself": lambda x, y: (x.sort(-1).values + x, y.topk(5, -1).values * y, y.sort(0)[0] - x),
    "nucleus": lambda x, y: torch.where(
        x.sort(-1, descending=True).values.softmax(-1).cumsum(-1) < 0.9, x, -torch.inf
    ).amax(-1),
    "inner": lambda x, y: torch.inner(x, y),
    "vdot": lambda x, y: torch.vdot(x[0], y[0]),
    "multi_dot": lambda x, y: torch.linalg.multi_dot([x, y.T, x]),
    "matrix_power": lambda x, y: torch.linalg.matrix_power(x[:, :4], 3),
    "cross": lambda x, y: torch.cross(x[:, :3], y[:, :3], dim=-1),
    "count": lambda x, y: torch.count_nonzero(x > 0, dim=-1).double(),
    "averages": lambda x, y: (F.avg_pool1d(x, 3, 2, 1), F.avg_pool2d(y[None], (3, 2), (1, 2), 1)),
    "convolved_with_a_border_of_its_own": lambda x, y: tuple(
        F.conv1d(part[None], y[:2, :3][None].expand(3, 2, 3) * 1.5, padding=1)
        for part in (
            x[:2, :3],
            x[:2, 1:4],
            x[:2, :1],
            x[:2].roll(1, -1),
            x[:2].repeat(1, 2),
            x[:2, :1].expand(-1, 4),
            x[:2].amax(-1, keepdim=True),
            x[:2].chunk(2, -1)[0],
        )
    ),
    "largest_of_windows": lambda x, y: F.max_pool2d(x[None, None], 2),
    "nearest": lambda x, y: F.interpolate(x[None, None], scale_factor=2, mode="nearest"),
    "bilinear": lambda x, y: F.interpolate(x[None, None], size=(8, 9), mode="bilinear", align_corners=False),
    "bicubic": lambda x, y: F.interpolate(x[None, None], size=(6, 7), mode="bicubic", align_corners=False),
    "cosine_of_what_is_repeated": lambda x, y: (
        F.cosine_similarity(x, y.sum(), dim=-1),
        F.cosine_similarity(x[None] * y[:, None], y, dim=1),
        F.cosine_similarity(x, y[:, :1], dim=1),
    ),
    "sampled": lambda x, y: F.grid_sample(
        x[None, None], y[:, :2].tanh().view(1, 2, 2, 2), align_corners=False
    ),
    "scattered": lambda x, y: tuple(
        (x * 0 + 1).scatter_reduce(1, (y.abs() * 3).long() % 5, x, how, include_self=own)
        for how in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    ),
}
SAID = MAPS | SHAPES | SUMS
REFUSED = {
    "atan2": (lambda x, y: torch.atan2(x, y), "cannot say 'atan2'"),
    "inverse": (lambda x, y: torch.linalg.inv(x[:, :4]), "cannot say 'linalg_inv'"),
    "random": (lambda x, y: torch.bernoulli(x.sigmoid()), "it is random"),
    "made_of_others": (
        lambda x, y: torch.copysign(x, y),
        "cannot say 'copysign': the language cannot say 'signbit'",
    ),
    "dimension_of_a_number": (lambda x, y: x.sum().sort(0).values, "a dimension of a single number"),
    "by_data": (lambda x, y: torch.argwhere(x > 0), "depends on the data"),
}
