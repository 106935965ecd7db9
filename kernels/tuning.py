"""Rank tiles, warps and stages of a kernel by what the compiler makes of them, without a GPU.

For one step over a key tile: the busiest pipe bounds it from below; products and softmax one after the other is what
four warps alone take; and the groups of four warps that an SM holds at a time share the gap. What counts is cycles per
score. It ranks candidates of one kernel on one generation; absolute times are the simulator's affair.
"""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from einsum_cascade.errors import KernelError, nearest

from . import registry
from .aot import TARGETS, WORD_BYTES, Resources, compile_build
from .tiles import Tile

# Registers are handed out in units of 256 a warp. Source: CUDA occupancy calculator, compute capability 8.0 to 10.0.
REGISTER_UNIT = 256
MACHINES = {"a100": "sm_80", "h100": "sm_90", "h200": "sm_90", "b200": "sm_100", "gb200": "sm_100"}


@dataclass(frozen=True, slots=True)
class Rates:
    """What one SM of a generation does in a cycle, and what it holds. See targets.csv for the sources."""

    target: int
    tensor_flops_per_cycle: int
    special_per_cycle: int
    fma_per_cycle: int
    alu_per_cycle: int
    issue_per_cycle: int
    l2_bytes_per_cycle: int
    registers: int
    shared_bytes_per_sm: int
    shared_bytes_per_block: int
    warps: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """One candidate.

    Attributes:
        cycles_per_kilo_score: predicted, of one SM; the ranking.
        blocks_per_sm: thread blocks that an SM holds at a time.
        bound_by: the busiest pipe, or "latency" where too few warps are resident to hide the rest.
        measured_ms: median time where the candidate was measured.
    """

    resources: Resources
    cycles_per_kilo_score: float
    blocks_per_sm: int
    bound_by: str
    measured_ms: float | None = None


@functools.cache
def rates(target: int) -> Rates:
    """Return the rates of a generation by compute capability times ten."""
    text = resources.files(__package__).joinpath("targets.csv").read_text(encoding="utf-8")
    table = {int(r["target"]): r for r in csv.DictReader(text.splitlines())}
    row = table[target]
    return Rates(**{name: int(row[name]) for name in Rates.__dataclass_fields__})


def target_of(machine: str) -> str:
    """Return the compile target of a machine's name, or of a target itself.

    >>> target_of("h100"), target_of("sm_80")
    ('sm_90', 'sm_80')
    """
    found = MACHINES.get(machine.lower(), machine)
    if found not in TARGETS:
        raise KernelError(f"machine '{machine}': {nearest(machine, (*MACHINES, *TARGETS))}")
    return found


def candidates(*, head_dim: int, word_bytes: int, machine: Rates) -> Iterator[Tile]:
    """Yield the tiles whose operands fit in shared memory."""
    for m, n, warps, stages in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3)):
        if (
            m + 2 * n * stages
        ) * head_dim * word_bytes <= machine.shared_bytes_per_block and m >= 16 * warps // 2:
            yield Tile(m, n, warps, stages)


def blocks_per_sm(r: Resources, machine: Rates) -> int:
    """Return how many thread blocks of a compiled kernel one SM holds; 0 where not even one fits."""
    warps = r.tile.warps
    per_warp = -(-r.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = machine.registers // (per_warp * warps)
    # 1 KiB of shared memory is taken by the system for every block. Source: CUDA C++ Programming Guide, 8.0 on.
    by_shared = machine.shared_bytes_per_sm // (r.shared_bytes + 1024)
    fits = r.shared_bytes <= machine.shared_bytes_per_block
    return min(by_registers, by_shared, machine.warps // warps, machine.blocks) if fits else 0


def step_cycles(r: Resources, machine: Rates) -> dict[str, float]:
    """Return cycles that one step of one thread block keeps each pipe of an SM busy."""
    loop = r.full_loop
    if loop is None:
        raise KernelError(f"{r.kernel} ({r.variant}): no loop was found that multiplies tiles")
    t = r.tile
    lanes = 32 * t.warps
    return {
        "tensor": 4.0 * t.block_m * t.block_n * r.head_dim / machine.tensor_flops_per_cycle,
        "special": loop.pipes["special"] * lanes / machine.special_per_cycle,
        "fma": loop.pipes["fma"] * lanes / machine.fma_per_cycle,
        "alu": (loop.pipes["alu"] + loop.pipes["convert"]) * lanes / machine.alu_per_cycle,
        "issue": loop.instructions * t.warps / machine.issue_per_cycle,
        "l2": 2.0 * t.block_n * r.head_dim * WORD_BYTES[r.dtype] / machine.l2_bytes_per_cycle,
    }


def judge(r: Resources) -> Ranked | None:
    """Return the predicted cost of a compiled candidate; None where it spills or does not fit an SM."""
    machine = rates(TARGETS[r.target])
    resident = blocks_per_sm(r, machine)
    if r.spills or resident < 1:
        return None
    cycles = step_cycles(r, machine)
    pipe = max(cycles, key=lambda name: cycles[name])
    # Four warps, one for each quarter of an SM, go through their phases together; other groups overlap with them.
    groups = resident * max(1, r.tile.warps // 4)
    alone = sum(cycles[name] for name in ("tensor", "special", "fma", "alu")) / groups
    step = max(cycles[pipe], alone)
    per_kilo = 1000.0 * step / (r.tile.block_m * r.tile.block_n)
    return Ranked(r, per_kilo, resident, pipe if cycles[pipe] >= alone else "latency")


def tune(
    kernel: str,
    *,
    on: str,
    head_dim: int = 128,
    dtype: str = "bf16",
    variant: str = "causal",
    tiles: Sequence[Tile] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Ranked]:
    """Return the candidates that neither spill nor overflow an SM, best first.

    Args:
        on: "a100", "h100", "h200", "b200", or a compile target.
        variant: as `cascade kernels compile` lists them.
        tiles: the candidates; a grid of them where not given.

    Raises:
        KernelError: a kernel that has nothing to tune, or no candidate that fits.
    """
    entry = registry.find(kernel)
    if not entry.tunable:
        able = [e.name for e in registry.entries() if e.tunable]
        raise KernelError(f"{kernel}: its tile is not tunable; {nearest(kernel, able)}")
    if dtype not in WORD_BYTES:
        raise KernelError(f"dtype '{dtype}': {nearest(dtype, WORD_BYTES)}")
    target = target_of(on)
    grid = tiles or tuple(
        candidates(head_dim=head_dim, word_bytes=WORD_BYTES[dtype], machine=rates(TARGETS[target]))
    )
    make = registry.load(entry.tunable)
    compiled = (
        compile_build(make(t, head_dim=head_dim, dtype=dtype, variant=variant), target)
        for t in progress(grid)
    )
    ranked = [found for found in map(judge, compiled) if found is not None]
    if not ranked:
        raise KernelError(
            f"{kernel}: every candidate spills or is too large for {target} at head_dim={head_dim}"
        )
    return sorted(ranked, key=lambda c: c.cycles_per_kilo_score)


def measured(
    ranked: Sequence[Ranked], *, seq: int = 4096, best: int = 5
) -> tuple[list[Ranked], float | None]:
    """Return the first candidates with their measured times, and Kendall's tau of prediction and measurement.

    Needs the GPU that the candidates were ranked for; the kernel is flash attention.
    """
    from dataclasses import replace

    import torch

    from .attention import flash_attention
    from .bench_cuda import event_clock
    from .inputs import attention
    from .timing import interleaved, spread

    first = list(ranked[:best])
    head_dim, dtype = first[0].resources.head_dim, first[0].resources.dtype
    tensors = attention(batch=4, heads=2048 // head_dim, seq_q=seq, seq_kv=seq, head_dim=head_dim, dtype=dtype,
                        device=torch.device("cuda").type)  # fmt: skip
    words = first[0].resources.variant.split()
    options = {"causal": "causal" in words, "window": 1024 if "window" in words else None}
    calls = {
        str(i): lambda c=c: flash_attention(**tensors, **options, tile=c.resources.tile)
        for i, c in enumerate(first)
    }
    times = interleaved(calls, clock=event_clock, budget_s=2.0)
    found = [replace(c, measured_ms=1e3 * spread(times[str(i)]).median) for i, c in enumerate(first)]
    return found, kendall([c.cycles_per_kilo_score for c in found], [c.measured_ms or 0.0 for c in found])


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Kendall's tau: agreeing pairs minus disagreeing ones over all pairs; None for fewer than two values.

    >>> kendall([1, 2, 3], [1, 3, 2])
    0.3333333333333333
    """
    pairs = list(itertools.combinations(range(len(a)), 2))
    if not pairs:
        return None
    signs = [(a[i] - a[j]) * (b[i] - b[j]) for i, j in pairs]
    return sum((s > 0) - (s < 0) for s in signs) / len(pairs)
