"""Seeded random inputs of every kernel, as tensors by argument name."""

from __future__ import annotations

from collections.abc import Iterable

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def attention(
    *,
    batch: int = 1,
    heads: int,
    seq_q: int,
    seq_kv: int,
    head_dim: int,
    kv_heads: int | None = None,
    dtype: str = "fp32",
    extras: Iterable[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """Return q, k, v [batch, heads, sequence, head_dim] of unit variance, and the named extras.

    The same seed gives the same numbers on one kind of device. Extras: "slopes" as ALiBi sets them, "bias" and
    "factor" for distances up to 5, "sink", "grad", the gradient of the result, "share" for each query, and "eta",
    "theta", "alpha", the gates of a memory.
    """
    generator = torch.Generator(device).manual_seed(seed)
    kv_heads = kv_heads or heads

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(DTYPES[dtype])

    tensors = {
        "q": normal(batch, heads, seq_q, head_dim),
        "k": normal(batch, kv_heads, seq_kv, head_dim),
        "v": normal(batch, kv_heads, seq_kv, head_dim),
    }
    makers = {
        "slopes": lambda: 2.0 ** -(8.0 / heads * torch.arange(1, heads + 1, device=device)),
        "bias": lambda: normal(heads, 11).float(),
        "factor": lambda: normal(heads, 11).float(),
        "sink": lambda: normal(heads).float(),
        "grad": lambda: normal(batch, heads, seq_q, head_dim),
        "share": lambda: normal(batch, heads, seq_q).float(),
        "eta": lambda: 0.3 + 0.6 * torch.sigmoid(normal(batch, heads, seq_q).float()),
        "theta": lambda: 0.02 * torch.sigmoid(normal(batch, heads, seq_q).float()),
        "alpha": lambda: 0.1 * torch.sigmoid(normal(batch, heads, seq_q).float()),
    }
    return tensors | {name: makers[name]() for name in extras}


def linear(*, positive: bool = False, **sizes: object) -> dict[str, torch.Tensor]:
    """Return the inputs of `attention`, of deviation head_dim ** -0.5 for q and k, and decay rates as retention's.

    Args:
        positive: q and k above 0, as a positive feature map makes them.
    """
    tensors = attention(**sizes)  # type: ignore[arg-type]  # sizes of a case
    head_dim, heads = tensors["q"].shape[-1], tensors["q"].shape[1]
    for name in ("q", "k"):
        t = tensors[name] * head_dim**-0.5
        tensors[name] = t.abs() if positive else t
    # RetNet's rates: 1 - 2^(-5 - head) remains of the state after a token.
    rates = -torch.log1p(-(2.0 ** -(5.0 + torch.arange(heads))))
    tensors["decay"] = rates.to(tensors["q"].device)
    return tensors


def neighborhood(
    *,
    layout: tuple[int, ...],
    heads: int,
    head_dim: int,
    dtype: str = "fp32",
    batch: int = 1,
    extras: Iterable[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """Return q, k, v [batch, heads, *layout, head_dim] of unit variance, and the extra "grad" like them."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (batch, heads, *layout, head_dim)
    return {
        name: torch.randn(shape, generator=generator, device=device).to(DTYPES[dtype])
        for name in ("q", "k", "v", *extras)
    }


def partial_attentions(
    *, parts: int, rows: int, head_dim: int, dtype: str = "fp32", extras: Iterable[str] = (), seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return partial attentions [parts, rows, head_dim] and log-sum-exps, one of them of a part without keys."""
    del extras
    generator = torch.Generator().manual_seed(seed)
    lse = 4.0 * torch.randn(parts, rows, generator=generator)
    lse[0, 0] = float("-inf")
    return {
        "parts": torch.randn(parts, rows, head_dim, generator=generator).to(DTYPES[dtype]),
        "part_lse": lse,
    }


def prefix(**sizes: object) -> dict[str, torch.Tensor]:
    """Return the inputs of `attention` with one query a head, [heads, head_dim]."""
    tensors = attention(**sizes)  # type: ignore[arg-type]  # sizes of a case
    return tensors | {"q": tensors["q"][0, :, 0]}


def channels(**sizes: object) -> dict[str, torch.Tensor]:
    """Return q, k, v [batch, heads, channels, tokens] with scores of unit variance."""
    tensors = attention(**sizes)  # type: ignore[arg-type]  # sizes of a case
    root = tensors["q"].shape[2] ** -0.25
    transposed = {name: t.transpose(2, 3).contiguous() for name, t in tensors.items()}
    return transposed | {name: transposed[name] * root for name in ("q", "k")}


def selected(*, picks: int = 2, block: int = 16, **sizes: object) -> dict[str, torch.Tensor]:
    """Return the inputs of `attention` and an index of different random blocks, of which one is missing."""
    tensors = attention(**sizes)  # type: ignore[arg-type]  # sizes of a case
    q, k = tensors["q"], tensors["k"]
    blocks = -(-k.shape[2] // block)
    generator = torch.Generator(q.device).manual_seed(1)
    order = torch.rand(*k.shape[:2], q.shape[2], blocks, generator=generator, device=q.device).argsort(-1)
    index = order[..., : min(picks, blocks)].to(torch.int32).contiguous()
    index[0, 0, 0, 0] = -1
    return tensors | {"index": index}


def parents(**sizes: object) -> dict[str, torch.Tensor]:
    """Return q and k as `attention` does, a value for each query instead of each key, and what each query gives."""
    tensors = attention(**(sizes | {"extras": ("grad", "share")}))  # type: ignore[arg-type]  # sizes of a case
    return {"q": tensors["q"], "k": tensors["k"], "v": tensors["grad"], "share": tensors["share"]}


def memory(**sizes: object) -> dict[str, torch.Tensor]:
    """Return the inputs of `attention` with q and k of unit length, and the gates of a memory.

    Momentum lies in 0.3 .. 0.9, step sizes below 0.02 and forgetting below 0.1, so that learning does not diverge.
    """
    tensors = attention(**(sizes | {"extras": ("eta", "theta", "alpha")}))  # type: ignore[arg-type]  # as above
    for name in ("q", "k"):
        t = tensors[name]
        tensors[name] = (t.float() / t.float().norm(dim=-1, keepdim=True)).to(t.dtype)
    return tensors


def image(
    *,
    channels: int,
    height: int,
    width: int,
    batch: int = 1,
    taps: int = 3,
    reduced: int = 0,
    dtype: str = "fp32",
    extras: Iterable[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """Return x [batch, channels, height, width] and the named parameters of a gate.

    Extras: "taps" of one convolution along the channels; "layers" that squeeze to `reduced` channels and expand; and
    "strips", a convolution for each channel with gain and offset.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(DTYPES[dtype])

    tensors = {"x": normal(batch, channels, height, width) + 1.0}
    makers = {
        "taps": lambda: {"weights": normal(taps)},
        "layers": lambda: {"reduce": normal(reduced, channels), "expand": normal(channels, reduced)},
        "strips": lambda: {
            "weights": normal(channels, taps), "gain": normal(channels), "offset": normal(channels),
        },
    }  # fmt: skip
    for name in extras:
        tensors |= makers[name]()
    return tensors
