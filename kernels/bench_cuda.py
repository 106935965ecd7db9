"""A GPU measured: our Triton kernel beside PyTorch's, with cold caches and outputs that were checked first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from einsum_cascade.errors import KernelError

from . import check, device, inputs, reference, timing
from .attention import flash_attention
from .masks import limits
from .measurement import Measurement, Setting

Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-mem-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
QUICK = (1024, 4096)
FULL = (1024, 2048, 4096, 8192, 16384)
TOKENS = 16384


@dataclass(frozen=True, slots=True)
class Contender:
    """One implementation of a setting on the GPU."""

    implementation: str
    call: Call


def settings(*, quick: bool) -> Iterator[Setting]:
    """Yield the problems: 16K tokens in all, head sizes 64 and 128, dense, causal, causal window."""
    for head_dim in (64, 128):
        for seq in QUICK if quick else FULL:
            dense = Setting(max(1, TOKENS // seq), 2048 // head_dim, seq, head_dim, dtype="bf16")
            yield dense
            yield replace(dense, causal=True)
            if seq > 1024:
                yield replace(dense, causal=True, window=1024)


def contenders(setting: Setting) -> Iterator[Contender]:
    """Yield the implementations that can compute a setting: ours first."""
    options: dict[str, Any] = {"causal": setting.causal, "window": setting.window}
    yield Contender("triton", lambda q, k, v: flash_attention(q, k, v, **options)[0])
    if setting.window is None:
        for name, backend in BACKENDS.items():
            yield Contender(name, _sdpa(backend, setting.causal))
    yield Contender("flex-attention", _flex(setting))


def _sdpa(backend: SDPBackend, causal: bool) -> Call:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return call


def _flex(setting: Setting) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    left, right = limits(causal=setting.causal, window=setting.window)
    if left is None and right is None:
        return compiled
    reach_left = setting.seq if left is None else left
    reach_right = setting.seq if right is None else right

    def seen(b: Any, h: Any, p: Any, m: Any) -> Any:
        return (m >= p - reach_left) & (m <= p + reach_right)

    mask = create_block_mask(seen, None, None, setting.seq, setting.seq, device="cuda")
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def measure(setting: Setting, *, budget_s: float = 1.0) -> list[Measurement]:
    """Return one row for every implementation that can compute the setting and agrees with float64."""
    copies = rotating(setting)
    entered = {c.implementation: c for c in contenders(setting) if _admitted(c, setting, copies[0])}
    before = device.gpu_state()
    times = timing.interleaved(
        {name: _rotate(c.call, copies) for name, c in entered.items()},
        clock=event_clock,
        budget_s=budget_s,
        warm_up=3,
    )
    state = device.environment("cuda") | {"sm_clock_before_mhz": before.get("sm_clock_mhz", "")}
    over = timing.ratios(times, next(iter(times)))
    return [_row(setting, name, timing.spread(times[name]), over[name], state) for name in entered]


def rotating(setting: Setting) -> list[tuple[torch.Tensor, ...]]:
    """Return copies of the inputs that together are more than twice the L2 cache, so that no launch finds its own."""
    made = inputs.attention(
        batch=setting.batch, heads=setting.heads, kv_heads=setting.kv_heads, seq_q=setting.seq, seq_kv=setting.seq,
        head_dim=setting.head_dim, dtype=setting.dtype,
    )  # fmt: skip
    first = tuple(t.cuda() for t in made.values())
    size = sum(t.numel() * t.element_size() for t in first)
    cache_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    return [first] + [tuple(t.clone() for t in first) for _ in range(2 * cache_bytes // size + 1)]


def _rotate(call: Call, copies: list[tuple[torch.Tensor, ...]]) -> Callable[[], object]:
    turn = 0

    def launch() -> object:
        nonlocal turn
        turn = (turn + 1) % len(copies)
        return call(*copies[turn])

    return launch


def event_clock(call: Callable[[], object], *, repeats: int = 10) -> float:
    """Return seconds of one launch on the GPU, from events around a row of launches."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def _admitted(contender: Contender, setting: Setting, tensors: tuple[torch.Tensor, ...]) -> bool:
    """Tell whether PyTorch has this backend here; raise where it has it and it is wrong.

    Raises:
        KernelError: an implementation that runs and disagrees with float64 on its first head and last rows.
    """
    try:
        got = contender.call(*tensors)
    except RuntimeError as error:
        if contender.implementation == "triton" or "vailable kernel" not in str(error):
            raise KernelError(f"{contender.implementation}: {error}") from error
        return False
    q, k, v = (t[:1, :1].double().cpu() for t in tensors)
    rows = min(setting.seq, 256)
    # The last queries see every kind of tile, and a reference of 256 rows is cheap at any length.
    truth = reference.attention(q[:, :, -rows:], k, v, causal=setting.causal, window=setting.window)[0]
    error_found = check.relative_error(got[:1, :1, -rows:], truth)
    if error_found > check.LIMITS[setting.dtype]:
        raise KernelError(
            f"{contender.implementation}: relative error {error_found:.3g} against float64; not timed"
        )
    return True


def _row(
    setting: Setting, name: str, s: timing.Spread, ratio: timing.Spread, state: dict[str, str]
) -> Measurement:
    facts = dict(state)
    power = facts.get("power_w", "")
    return Measurement(
        source=f"cascade kernels bench, commit {facts.pop('commit')}", device=device.name("cuda"),
        kernel="flash_attention", implementation=name, direction="fwd", dtype=setting.dtype, batch=setting.batch,
        heads=setting.heads, seq_q=setting.seq, seq_kv=setting.seq, head_dim=setting.head_dim,
        causal=int(setting.causal), extra=device.as_pairs(facts), latency_ms=s.median * 1e3,
        tflops=setting.flops / s.median / 1e12, kv_heads=setting.kv_heads or setting.heads, window=setting.window,
        kv_dtype=setting.dtype, power_w=float(power) if power.replace(".", "", 1).isdigit() else None,
        q25_ms=s.q25 * 1e3, q75_ms=s.q75 * 1e3, rounds=s.rounds, threads=None, ratio=ratio.median,
        ratio_q25=ratio.q25, ratio_q75=ratio.q75,
    )  # fmt: skip
