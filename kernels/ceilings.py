"""What a GPU reaches at most, here and now: its clock under load, a copy, a product of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from . import timing

SIDE = 8192
COPY_BYTES = 2**30
# Long enough for a clock to settle, about a millisecond.
SPINS = 2**18
# A fused multiplication and addition takes 4 cycles to follow another: 2 ms at 1.98 GHz.
LEAD_SPINS = 2**20


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Rates of one GPU.

    Attributes:
        gemm_flops_per_s: of a bfloat16 product of 8192 x 8192 matrices.
        copy_bytes_per_s: read plus written by a copy of 1 GiB.
        clock_hz: of an SM while such products run; 0 where not measured.
    """

    gemm_flops_per_s: float
    copy_bytes_per_s: float
    clock_hz: float = 0.0


# Products and copies as read on H100 cards with random data; what a plan is estimated with where no GPU is at hand.
ASSUMED = Ceilings(gemm_flops_per_s=798e12, copy_bytes_per_s=3.0e12)


@triton.jit
def spin(out_ptr, spins):
    """Cycles and nanoseconds of one thread block that computes for a while: their ratio is the clock."""
    cycle = tl.inline_asm_elementwise(
        "mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    nano = tl.inline_asm_elementwise(
        "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    # From a number that only the launch knows: a loop over constants is folded away, and nothing would be waited for.
    value = spins * 1.0
    for _ in range(0, spins):
        value = value * 0.999 + 0.001
    last_cycle = tl.inline_asm_elementwise(
        "mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    last_nano = tl.inline_asm_elementwise(
        "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    tl.store(out_ptr, last_cycle - cycle)
    tl.store(out_ptr + 1, last_nano - nano)
    # The result is used, so that the loop stays.
    tl.store(out_ptr + 2, value.to(tl.int64))


def keep_busy(spins: int) -> None:
    """Queue so much of one thread block's work, behind which launches can gather; see `LEAD_SPINS`."""
    out = torch.empty(3, dtype=torch.int64, device="cuda")
    spin[(1,)](out, spins, num_warps=1)


def clock_hz() -> float:
    """Return the SM clock of the current GPU, just after it multiplied matrices; 0 where it tells no time."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda").bfloat16() for _ in range(2))
    out = torch.zeros(3, dtype=torch.int64, device="cuda")
    spin[(1,)](out, SPINS, num_warps=1)
    for _ in range(20):
        a @ b
    spin[(1,)](out, SPINS, num_warps=1)
    cycles, nanoseconds, _ = out.tolist()
    return 1e9 * cycles / nanoseconds if nanoseconds > 0 else 0.0


def measure(*, budget_s: float) -> tuple[Ceilings, Mapping[str, timing.Spread]]:
    """Return the ceilings of the current GPU, and the times of "copy" and "gemm" in seconds."""
    from .bench_cuda import event_clock

    source = torch.empty(COPY_BYTES // 2, dtype=torch.bfloat16, device="cuda").normal_()
    target = torch.empty_like(source)
    a, b = (torch.randn(SIDE, SIDE, device="cuda").bfloat16() for _ in range(2))
    calls = {"copy": lambda: target.copy_(source), "gemm": lambda: a @ b}
    times = timing.interleaved(calls, clock=event_clock, budget_s=budget_s)
    spreads = {name: timing.spread(values) for name, values in times.items()}
    rates = Ceilings(
        2.0 * SIDE**3 / spreads["gemm"].median, 2.0 * COPY_BYTES / spreads["copy"].median, clock_hz()
    )
    return rates, spreads
