"""The CPU as a live device: attention algorithms as PyTorch runs them here, and this CPU's own rates."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from einsum_cascade.errors import KernelError

from . import check, device, inputs, peers, reference, timing
from .measurement import Measurement, Setting

BASELINE = "torch-sdpa"
CHUNK = 64
# What torch.compile looks for on a CPU.
COMPILERS = ("g++", "clang++")
# Above this the scores of the eager form no longer measure attention but the allocator.
MOST_SCORE_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to compute a setting.

    Attributes:
        flops: useful operations.
        whole: checked on the tensors that are timed, as a compiled form is made for one shape; else on part of them.
    """

    implementation: str
    kernel: str
    setting: Setting
    call: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    truth: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    flops: float
    remark: str = ""
    whole: bool = False

    @property
    def label(self) -> str:
        """Unique within a size."""
        words = [
            self.implementation,
            "causal" if self.setting.causal else "",
            f"w{self.setting.window or ''}",
        ]
        return " ".join(words)


@functools.cache
def _future(seq: int) -> torch.Tensor:
    return torch.ones(seq, seq, dtype=torch.bool).triu_(1)


def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False) -> torch.Tensor:
    """Return attention as three passes over scores in memory: product, softmax, product."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if causal:
        scores.masked_fill_(_future(q.shape[2]), float("-inf"))
    return torch.softmax(scores, -1) @ v


def blocked_window(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, window: int, block: int
) -> torch.Tensor:
    """Return causal sliding-window attention, each block of queries against the keys that its rows can see.

    Args:
        window: keys that a query sees, itself included.
        block: queries of a block; its keys are block + window - 1 long.
    """
    batch, heads, seq, dim = q.shape
    blocks = -(-seq // block)
    reach = block + window - 1
    tail = blocks * block - seq
    q = functional.pad(q, (0, 0, 0, tail)).view(batch, heads, blocks, block, dim)
    k, v = (functional.pad(t, (0, 0, window - 1, tail)).unfold(2, reach, block) for t in (k, v))
    scores = (q @ k) * dim**-0.5
    rows, cols = torch.arange(block)[:, None], torch.arange(reach)[None, :]
    absolute = cols + torch.arange(blocks)[:, None, None] * block - (window - 1)
    seen = (cols >= rows) & (cols < rows + window) & (absolute >= 0)
    weights = torch.softmax(scores.masked_fill_(~seen, float("-inf")), -1)
    return (weights @ v.transpose(-1, -2)).reshape(batch, heads, blocks * block, dim)[:, :, :seq]


def chunked_linear(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, chunk: int, decay: float
) -> torch.Tensor:
    """Return causal linear attention with decay: a product inside each chunk, a carried state between chunks."""
    batch, heads, seq, dim = q.shape
    tail = -seq % chunk
    q, k, v = (functional.pad(t, (0, 0, 0, tail)).view(batch, heads, -1, chunk, dim) for t in (q, k, v))
    step = torch.arange(chunk, dtype=q.dtype)
    distance = step[:, None] - step[None, :]
    inside = torch.where(distance >= 0, torch.exp(-decay * distance), 0.0)
    update = (k * torch.exp(-decay * (chunk - 1 - step))[:, None]).transpose(-1, -2) @ v
    carried = torch.zeros_like(update)
    shrink = torch.exp(torch.tensor(-decay * chunk, dtype=q.dtype))
    for c in range(1, update.shape[2]):
        carried[:, :, c] = carried[:, :, c - 1] * shrink + update[:, :, c - 1]
    within = ((q @ k.transpose(-1, -2)) * inside) @ v
    across = (q * torch.exp(-decay * (step + 1))[:, None]) @ carried
    return (within + across).reshape(batch, heads, seq + tail, dim)[:, :, :seq]


def _linear_truth(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, decay: float) -> torch.Tensor:
    distance = -reference.distances(q.shape[2], k.shape[2]).to(q.dtype)
    weights = torch.where(distance >= 0, torch.exp(-decay * distance.clamp_min(0)), 0.0)
    return ((q @ k.transpose(-1, -2)) * weights) @ v


def contenders(setting: Setting, windows: Sequence[int]) -> tuple[Contender, ...]:
    """Return every way in which a size is computed here; the dense baseline first."""
    causal = replace(setting, causal=True)

    def truth(**options: Any) -> Callable[..., torch.Tensor]:
        return lambda q, k, v: reference.attention(q, k, v, **options)[0]

    sdpa = functional.scaled_dot_product_attention
    found = [
        Contender(BASELINE, "flash_attention", setting, sdpa, truth(), setting.flops),
        Contender(
            BASELINE, "flash_attention", causal, lambda q, k, v: sdpa(q, k, v, is_causal=True), truth(causal=True),
            causal.flops,
        ),
    ]  # fmt: skip
    if 4 * setting.batch * setting.heads * setting.seq**2 <= MOST_SCORE_BYTES:
        found.append(Contender("torch-eager", "unfused_attention", setting, eager, truth(), setting.flops))
        found.append(
            Contender(
                "torch-eager", "unfused_attention", causal, lambda q, k, v: eager(q, k, v, causal=True),
                truth(causal=True), causal.flops, "mask applied after the whole product",
            )
        )  # fmt: skip
    for w in (w for w in windows if w < setting.seq):
        narrow = replace(causal, window=w)
        found.append(
            Contender(
                "torch-blocked-window", "window_attention", narrow,
                lambda q, k, v, w=w: blocked_window(q, k, v, window=w, block=w), truth(causal=True, window=w),
                narrow.flops, f"block={w}",
            )
        )  # fmt: skip
    tokens = setting.batch * setting.heads * setting.seq
    found.append(
        Contender(
            "torch-chunked", "linear_attention", causal,
            lambda q, k, v: chunked_linear(q, k, v, chunk=CHUNK, decay=0.01),
            lambda q, k, v: _linear_truth(q, k, v, decay=0.01),
            4.0 * tokens * setting.head_dim * (setting.head_dim + CHUNK), f"chunk={CHUNK}; decay=0.01",
        )
    )  # fmt: skip
    return tuple(found)


def compiled_contenders(setting: Setting, windows: Sequence[int]) -> tuple[Contender, ...]:
    """Return flex_attention, compiled for this size: dense, causal and causal windows. Compiling takes a minute.

    Raises:
        KernelError: there is no C++ compiler for it.
    """
    if not any(map(shutil.which, COMPILERS)):
        raise KernelError(
            f"flex_attention on a CPU needs a C++ compiler: {' or '.join(COMPILERS)}, found none"
        )
    causal = replace(setting, causal=True)
    found = []
    for s in (setting, causal, *(replace(causal, window=w) for w in windows if w < setting.seq)):
        call, options = peers.flex(s), {"causal": s.causal, "window": s.window}
        found.append(
            Contender(
                "torch-flex", "flash_attention", s,
                lambda q, k, v, call=call: call({"q": q, "k": k, "v": v}),
                lambda q, k, v, options=options: reference.attention(q, k, v, **options)[0],
                s.flops, "compiled", whole=True,
            )
        )  # fmt: skip
    return tuple(found)


def gate(contender: Contender, tensors: Sequence[torch.Tensor]) -> None:
    """Raise unless the contender agrees with the float64 reference on one head and at most 333 tokens.

    Raises:
        KernelError: how far off it is.
    """
    part = tensors if contender.whole else [t[:, :1, :333] for t in tensors]
    got = contender.call(*part)[:, :1]
    error = check.relative_error(got, contender.truth(*(t[:, :1].double() for t in part)))
    if error > check.LIMITS["fp32"]:
        raise KernelError(
            f"{contender.label}: relative error {error:.3g} against float64, expected at most {check.LIMITS['fp32']:g};"
            " nothing was timed"
        )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    setting: Setting, windows: Sequence[int], *, count: int, budget_s: float, flex: bool = False
) -> list[Measurement]:
    """Return one row for every contender of a size, with `count` threads.

    Args:
        flex: flex_attention too, which has to be compiled.
    """
    tensors = tuple(
        inputs.attention(
            batch=setting.batch, heads=setting.heads, seq_q=setting.seq, seq_kv=setting.seq, head_dim=setting.head_dim
        ).values()
    )  # fmt: skip
    extra = compiled_contenders(setting, windows) if flex else ()
    entered = {c.label: c for c in (*contenders(setting, windows), *extra)}
    with threads(count), torch.inference_mode():
        for c in entered.values():
            gate(c, tensors)
        times = timing.interleaved(
            {label: lambda c=c: c.call(*tensors) for label, c in entered.items()}, budget_s=budget_s
        )
    base = next(iter(entered))
    over = timing.ratios(times, base)
    return [_row(c, timing.spread(times[label]), over[label], count) for label, c in entered.items()]


def _row(c: Contender, s: timing.Spread, ratio: timing.Spread, count: int) -> Measurement:
    facts = {"threads": count} | device.environment("cpu")
    return Measurement(
        source=f"cascade kernels bench, commit {facts.pop('commit')}", device=device.name("cpu"), kernel=c.kernel,
        implementation=c.implementation, direction="fwd", dtype="fp32", batch=c.setting.batch, heads=c.setting.heads,
        seq_q=c.setting.seq, seq_kv=c.setting.seq, head_dim=c.setting.head_dim, causal=int(c.setting.causal),
        extra="; ".join(filter(None, [c.remark, device.as_pairs(facts | {"threads": count})])),
        latency_ms=s.median * 1e3, tflops=c.flops / s.median / 1e12, kv_heads=c.setting.heads, window=c.setting.window,
        kv_dtype="fp32", power_w=None, q25_ms=s.q25 * 1e3, q75_ms=s.q75 * 1e3, rounds=s.rounds, threads=count,
        ratio=ratio.median, ratio_q25=ratio.q25, ratio_q75=ratio.q75,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rates:
    """What this CPU does in a second with a number of threads.

    Attributes:
        gemm_flops_per_s: float32 product of two square matrices.
        tile_gemm_flops_per_s: products of attention's shape, [1024, 64] by [64, 1024].
        exp_per_s: exponentials of values in cache.
        copy_bytes_per_s: bytes read plus bytes written by a copy of 64 MiB.
        cached_copy_bytes_per_s: the same for a copy of 2 MiB.
        fresh_bytes_per_s: bytes written to memory that was just allocated, 64 MiB at a time: the system hands such
            blocks out page by page.
    """

    threads: int
    gemm_flops_per_s: float
    tile_gemm_flops_per_s: float
    exp_per_s: float
    copy_bytes_per_s: float
    cached_copy_bytes_per_s: float
    fresh_bytes_per_s: float


def rates(count: int, *, budget_s: float = 0.5) -> Rates:
    """Return this CPU's own rates, measured now: the medians of interleaved rounds."""
    square = torch.randn(1024, 1024)
    queries, keys = torch.randn(4, 1024, 64), torch.randn(4, 64, 1024)
    scores = torch.empty(4, 1024, 1024)
    cached, exps = torch.randn(2**16), torch.empty(2**16)
    source, target = torch.ones(2**24), torch.empty(2**24)
    large_cached, cached_copy = torch.ones(2**19), torch.empty(2**19)
    with threads(count), torch.inference_mode():
        times = timing.interleaved(
            {
                "gemm": lambda: square @ square,
                "tile": lambda: torch.matmul(queries, keys, out=scores),
                "exp": lambda: torch.exp(cached, out=exps),
                "copy": lambda: target.copy_(source),
                "cached copy": lambda: cached_copy.copy_(large_cached),
                "fresh": lambda: torch.empty(2**24).fill_(1.0),
            },
            budget_s=budget_s,
        )
    median = {name: timing.spread(values).median for name, values in times.items()}
    return Rates(
        count,
        gemm_flops_per_s=2.0 * 1024**3 / median["gemm"],
        tile_gemm_flops_per_s=2.0 * 4 * 1024 * 1024 * 64 / median["tile"],
        exp_per_s=2**16 / median["exp"],
        copy_bytes_per_s=2.0 * 4 * 2**24 / median["copy"],
        cached_copy_bytes_per_s=2.0 * 4 * 2**19 / median["cached copy"],
        fresh_bytes_per_s=4.0 * 2**24 / median["fresh"],
    )
