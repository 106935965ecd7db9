"""The CPU as a live device: attention algorithms as PyTorch runs them here, and this CPU's own rates."""

from __future__ import annotations

import ctypes
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
# A shorter call is repeated for so long after a first one, so that it finds caches and allocator as its own last call
# left them, and not as the larger tensors of another contender did.
SHORTEST_S = 0.01
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
def keep_memory() -> bool:
    """Let this process keep the memory that it frees, and tell whether its allocator could be told so.

    glibc hands blocks of some sizes back to the system or keeps them depending on what was freed before, so that the
    same call pays for new pages in one process and not in the next. PyTorch's guide to tuning advises an allocator that
    keeps them.
    """
    mmap_max, trim_threshold = -4, -1  # Source: glibc, malloc.h
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tell(mmap_max, 0) and tell(trim_threshold, 2**31 - 1))


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
        block: queries of a block; block + window keys are read for them, one more than they see: rows of scores then
            begin at whole vectors, and the products are a quarter faster.
    """
    batch, heads, seq, dim = q.shape
    blocks = -(-seq // block)
    reach = block + window
    tail = blocks * block - seq
    q = functional.pad(q, (0, 0, 0, tail)).view(batch, heads, blocks, block, dim)
    k, v = (functional.pad(t, (0, 0, window, tail)).unfold(2, reach, block) for t in (k, v))
    scores = (q @ k) * dim**-0.5
    rows, cols = torch.arange(block)[:, None], torch.arange(reach)[None, :]
    absolute = cols + torch.arange(blocks)[:, None, None] * block - window
    seen = (cols > rows) & (cols <= rows + window) & (absolute >= 0)
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


def _attention_truth(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    return reference.attention(q, k, v, **options)[0]


def _by_name(call: peers.Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return call({"q": q, "k": k, "v": v})


def contenders(setting: Setting, windows: Sequence[int]) -> tuple[Contender, ...]:
    """Return every way in which a size is computed here; the dense baseline first."""
    causal = replace(setting, causal=True)

    def truth(**options: Any) -> Callable[..., torch.Tensor]:
        return functools.partial(_attention_truth, **options)

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
                functools.partial(blocked_window, window=w, block=w), truth(causal=True, window=w),
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
        truth = functools.partial(_attention_truth, causal=s.causal, window=s.window)
        found.append(
            Contender(
                "torch-flex", "flash_attention", s,
                functools.partial(_by_name, peers.flex(s)), truth, s.flops, "compiled", whole=True,
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
) -> tuple[list[Measurement], Rates]:
    """Return one row for every contender of a size, with `count` threads, and the machine's rates meanwhile.

    The rates are timed in the same rounds as the contenders: what else the machine does meets both alike.

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
    now = timing.own_time() if count == 1 else time.perf_counter
    keep_memory()
    with threads(count), torch.inference_mode():
        for c in entered.values():
            gate(c, tensors)
        probes, shares = _probes(setting, count)
        times = timing.interleaved(
            {label: lambda c=c: c.call(*tensors) for label, c in entered.items()} | probes,
            clock=functools.partial(timing.cpu_clock, now=now, shortest_s=SHORTEST_S), budget_s=budget_s,
        )  # fmt: skip
    base = next(iter(entered))
    over = timing.ratios(times, base)
    found = _rates(setting, times, shares, count=count)
    facts = {
        "clock": "processor time" if now is time.process_time else "wall",
        "cpu_share": f"{found.cpu_share:.2f}",
    } | {name: f"{rate:.6g}" for name, rate in asdict(found).items() if name.endswith("_per_s")}
    rows = [_row(c, timing.spread(times[label]), over[label], count, facts) for label, c in entered.items()]
    return rows, found


def _row(
    c: Contender, s: timing.Spread, ratio: timing.Spread, count: int, how: Mapping[str, str]
) -> Measurement:
    facts = {"threads": count} | device.environment("cpu")
    return Measurement(
        source=f"cascade kernels bench, commit {facts.pop('commit')}", device=device.name("cpu"), kernel=c.kernel,
        implementation=c.implementation, direction="fwd", dtype="fp32", batch=c.setting.batch, heads=c.setting.heads,
        seq_q=c.setting.seq, seq_kv=c.setting.seq, head_dim=c.setting.head_dim, causal=int(c.setting.causal),
        extra="; ".join(filter(None, [c.remark, device.as_pairs({**facts, "threads": count, **how})])),
        latency_ms=s.median * 1e3, tflops=c.flops / s.median / 1e12, kv_heads=c.setting.kv_heads or c.setting.heads,
        window=c.setting.window, kv_dtype="fp32", power_w=None, q25_ms=s.q25 * 1e3, q75_ms=s.q75 * 1e3,
        rounds=s.rounds, threads=count, ratio=ratio.median, ratio_q25=ratio.q25, ratio_q75=ratio.q75,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rates:
    """What this CPU did in a second with a number of threads, while a size was measured.

    Attributes:
        batch, heads, seq, head_dim: of that size.
        gemm_flops_per_s: float32 product of two square matrices.
        fused_flops_per_s: operations of the products, the softmax between them included, in three tiles of PyTorch's
            fused attention for each thread, 256 queries by 512 keys.
        bmm_flops_per_s: the two products of 16 blocks of 128 queries and as many keys a thread, one call each.
        softmax_per_s: scores of a softmax of rows of 1024 in cache: maximum, exponential, sum and division.
        masked_per_s: scores in cache that pass a causal mask, in place.
        calls_per_s: operators on one element.
        copy_bytes_per_s: bytes read plus bytes written by a copy of as many words as the size has scores.
        cached_copy_bytes_per_s: the same for a copy of 2 MiB.
        fresh_bytes_per_s: bytes written to so much memory that was just allocated: the system hands large blocks out
            page by page.
        cpu_share: processor time of the square product over the time of the wall and the threads: below 1 where others
            had the processors for the rest.
    """

    threads: int
    batch: int
    heads: int
    seq: int
    head_dim: int
    gemm_flops_per_s: float
    fused_flops_per_s: float
    bmm_flops_per_s: float
    softmax_per_s: float
    masked_per_s: float
    calls_per_s: float
    copy_bytes_per_s: float
    cached_copy_bytes_per_s: float
    fresh_bytes_per_s: float
    cpu_share: float


SQUARE, CACHED = 1024, 2**19
# Source: PyTorch, aten/src/ATen/native/cpu/FlashAttentionKernel.cpp, three tiles of queries and one of keys.
QUERIES, KEYS, HEAD = 3 * 256, 512, 64
BLOCKS, BLOCK = 16, 128
ROWS, ROW = 64, 1024


def _probes(setting: Setting, count: int) -> tuple[dict[str, Callable[[], object]], list[float]]:
    """Return the calls that a machine's rates are read from, and a list that its share of the CPUs is added to."""
    square = torch.randn(SQUARE, SQUARE)
    queries, keys, values = (torch.randn(1, count, tokens, HEAD) for tokens in (QUERIES, KEYS, KEYS))
    block_queries = torch.randn(count * BLOCKS, BLOCK, HEAD)
    block_scores = torch.empty(count * BLOCKS, BLOCK, BLOCK)
    one = torch.ones(1)
    rows, weights = torch.randn(count * ROWS, ROW), torch.empty(count * ROWS, ROW)
    copied = _scores(setting)
    source, target = torch.ones(copied), torch.empty(copied)
    large_cached, cached_copy = torch.ones(CACHED), torch.empty(CACHED)
    shares: list[float] = []

    def blocks() -> None:
        torch.matmul(block_queries, block_queries.transpose(-1, -2), out=block_scores)
        torch.matmul(block_scores, block_queries)

    def product() -> None:
        wall, own = time.perf_counter(), time.process_time()
        square @ square
        shares.append((time.process_time() - own) / (time.perf_counter() - wall) / count)

    probes: dict[str, Callable[[], object]] = {
        "gemm": product,
        "fused": lambda: functional.scaled_dot_product_attention(queries, keys, values),
        "blocks": blocks,
        "softmax": lambda: torch.softmax(rows, -1, out=weights),
        "masked": lambda: weights.view(count, ROWS, ROW).masked_fill_(_future(ROW)[:ROWS], float("-inf")),
        "call": lambda: one + one,
        "copy": lambda: target.copy_(source),
        "cached copy": lambda: cached_copy.copy_(large_cached),
        "fresh": lambda: torch.empty(copied).fill_(1.0),
    }
    return probes, shares


def _scores(s: Setting) -> int:
    return s.batch * s.heads * s.seq**2


def _rates(s: Setting, times: Mapping[str, Sequence[float]], shares: Sequence[float], *, count: int) -> Rates:
    median = {name: timing.spread(values).median for name, values in times.items()}
    return Rates(
        count, s.batch, s.heads, s.seq, s.head_dim,
        gemm_flops_per_s=2.0 * SQUARE**3 / median["gemm"],
        fused_flops_per_s=4.0 * count * QUERIES * KEYS * HEAD / median["fused"],
        bmm_flops_per_s=4.0 * count * BLOCKS * BLOCK * BLOCK * HEAD / median["blocks"],
        softmax_per_s=count * ROWS * ROW / median["softmax"],
        masked_per_s=count * ROWS * ROW / median["masked"],
        calls_per_s=1.0 / median["call"],
        copy_bytes_per_s=2.0 * 4 * _scores(s) / median["copy"],
        cached_copy_bytes_per_s=2.0 * 4 * CACHED / median["cached copy"],
        fresh_bytes_per_s=4.0 * _scores(s) / median["fresh"],
        cpu_share=min(1.0, timing.spread(shares).median),
    )  # fmt: skip
