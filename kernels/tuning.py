"""Rank tiles, warps and stages of a kernel by what the compiler makes of them, without a GPU.

A step of the kernel's loop takes what the tile simulator says of Triton's kernels (`mappings/pipes.py`): its slowest
pipe, or products and the longest elementwise pipe one after the other, or its bytes from the L2 cache. Without a second
stage four warps wait for their loads as well; the groups of four warps that an SM holds at a time share that. What
counts is cycles per unit of work; candidates alike in it are ordered by what their groups have to hide of each other.
It ranks candidates of one kernel on one GPU; absolute times are the simulator's affair.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from einsum_cascade.errors import KernelError, nearest
from einsum_cascade.terminal import note
from mappings.machines import Machine
from mappings.pipes import busy_cycles, serial_cycles

from . import registry
from .aot import TARGETS, WORD_BYTES, Resources, compile_fitting, compiler, parsing_in_turn
from .registry import KernelEntry
from .shared import least_bytes
from .steps import alone, blocks_per_sm, busiest, machine_of, rates, step_cycles, target_of
from .tiles import Tile, is_legal

# What a load that hits the L2 cache takes, in cycles: assumed, the class of what microbenchmarks of A100 and H100 find.
# It matters for single-stage candidates only, which it puts behind pipelined ones of the same tile.
LOAD_CYCLES = 260.0
# Tiles whose other pipeline depths are compiled too; of the rest one depth is enough to see that they are worse.
FINALISTS = 4


@dataclass(frozen=True, slots=True)
class Ranked:
    """One candidate.

    Attributes:
        cycles_per_kilo_unit: predicted cycles of one SM for a thousand units of work (scores, for attention); the
            ranking.
        blocks_per_sm: thread blocks that an SM holds at a time.
        hidden_cycles_per_kilo_unit: what the resident warps have to hide of each other; it orders candidates that cost
            the same.
        bound_by: the slowest pipe, or "latency" where too few warps are resident to hide their loads.
        measured_ms: median time where the candidate was measured.
    """

    resources: Resources
    cycles_per_kilo_unit: float
    blocks_per_sm: int
    bound_by: str
    measured_ms: float | None = None
    hidden_cycles_per_kilo_unit: float = 0.0

    @property
    def order(self) -> tuple[float, float]:
        """Less is better."""
        return self.cycles_per_kilo_unit, self.hidden_cycles_per_kilo_unit


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a ranking was where its first candidates were measured.

    Attributes:
        kendall_tau: agreeing pairs minus disagreeing ones over all pairs; None for fewer than two candidates.
        regret: time of the candidate ranked first over the fastest one's, less 1.
    """

    kendall_tau: float | None
    regret: float


def candidates(
    entry: KernelEntry, *, variant: str, head_dim: int, word_bytes: int, machine: Machine
) -> Iterator[Tile]:
    """Yield the tiles of a kernel that may fit in shared memory; what they take is known once they are compiled."""
    c, number = entry.choices, TARGETS[target_of(machine)]
    for m, n, warps, stages in itertools.product(c.block_m, c.block_n, c.warps, c.stages):
        # A warp multiplies 16 rows; more warps than rows would leave some of them idle.
        if max(m, n) >= 8 * warps and is_legal(m, n):
            tile = Tile(m, n, warps, stages)
            least = least_bytes(
                entry.name, variant, tile, head_dim=head_dim, word_bytes=word_bytes, target=number
            )
            if least <= machine.shared_bytes_per_block:
                yield tile


def judge(
    r: Resources, machine: Machine | None = None, *, units: Sequence[str] = ("block_m", "block_n")
) -> Ranked | None:
    """Return the predicted cost of a compiled candidate; None where it spills or does not fit an SM.

    Args:
        machine: the one that stands for the target of the build, where not given.
        units: the sides of the tile whose product is the work of one step.
    """
    machine = machine or rates(TARGETS[r.target])
    resident = blocks_per_sm(r, machine)
    if r.spills or resident < 1:
        return None
    cycles = step_cycles(r, machine)
    # Four warps, one for each quarter of an SM, go through their phases together; other groups overlap with them.
    groups = resident * max(1, r.tile.warps // 4)
    waiting = cycles["l2"] + LOAD_CYCLES if r.tile.stages == 1 else 0.0
    busy = max(busy_cycles(cycles, overlaps=False), cycles["l2"])
    latency = (serial_cycles(cycles) + waiting) / groups
    work = math.prod(getattr(r.tile, side) for side in units)
    bound_by = busiest(cycles) if busy >= latency else "latency"
    cost, hidden = (1000.0 * c / work for c in (max(busy, latency), (alone(cycles) + waiting) / groups))
    return Ranked(r, cost, resident, bound_by, hidden_cycles_per_kilo_unit=hidden)


def tune(
    kernel: str,
    *,
    on: str,
    head_dim: int | None = None,
    dtype: str = "bf16",
    variant: str | None = None,
    tiles: Sequence[Tile] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Ranked]:
    """Return the candidates that neither spill nor overflow an SM, best first.

    Args:
        on: a GPU of the hardware library by name or alias, or a compile target.
        head_dim: 128, or what the kernel is shipped for, where not given.
        variant: as the registry lists them; "causal" or else the first where not given.
        tiles: the candidates; those of the registry where not given.

    Raises:
        KernelError: a kernel that has nothing to tune, or no candidate that fits.
    """
    entry, whole = _tunable(kernel)
    machine = machine_of(on)
    target = target_of(machine)
    if dtype not in WORD_BYTES:
        raise KernelError(f"dtype '{dtype}': {nearest(dtype, WORD_BYTES)}")
    variant = variant or whole or ("causal" if "causal" in entry.variants else next(iter(entry.variants)))
    if variant not in entry.variants:
        raise KernelError(f"{kernel}: variant '{variant}': {nearest(variant, entry.variants)}")
    if head_dim is None:
        head_dim = 128 if 128 in entry.head_dims else entry.head_dims[0]
    if (head_dim < 1) != (entry.head_dims == (0,)):
        raise KernelError(f"{kernel}: head_dim={head_dim}: expected {_expected_heads(entry)}")
    compiler()
    sizes: dict[str, Any] = {"variant": variant, "head_dim": head_dim, "word_bytes": WORD_BYTES[dtype]}
    grid = tiles or tuple(candidates(entry, **sizes, machine=machine))
    make = registry.load(entry.build)

    def tried(tile: Tile) -> Resources | None:
        return compile_fitting(make(tile, head_dim=head_dim, dtype=dtype, variant=variant), target)

    def judged(some: Iterable[Tile]) -> list[Ranked]:
        found = (judge(r, machine, units=entry.choices.units) for r in _compiled(list(some), tried, progress))
        return [c for c in found if c is not None]

    shallow = [t for t in grid if t.stages == _first_depth(t, grid)]
    ranked = sorted(judged(shallow), key=lambda c: c.order)
    best = {replace(c.resources.tile, stages=1) for c in ranked[:FINALISTS]}
    ranked += judged(t for t in grid if t not in shallow and replace(t, stages=1) in best)
    if not ranked:
        raise KernelError(
            f"{kernel}: every candidate spills or is too large for {machine.name} at head_dim={head_dim}, {dtype}"
        )
    return sorted(ranked, key=lambda c: c.order)


def _expected_heads(entry: KernelEntry) -> str:
    return "0, as it has no heads" if entry.head_dims == (0,) else "1 or more"


def _compiled(
    grid: Sequence[Tile],
    compiled: Callable[[Tile], Resources | None],
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> list[Resources]:
    """Return what the compiler makes of the tiles that do not spill, small ones first.

    A tile that holds one that spilled, on no more warps, needs more registers still: it is not compiled, and those are
    what the compiler works longest on. Tiles of one size are compiled side by side: the assembler and the disassembler
    are processes of their own, and the compiler lets other threads run.
    """
    spilled: list[Tile] = []
    kept: list[Resources] = []
    sizes = itertools.groupby(sorted(grid, key=_size), key=_size)
    steps = iter(progress(range(len(grid))))
    with parsing_in_turn(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for _, same in sizes:
            tiles = list(same)
            worth = [t for t in tiles if not any(_holds(t, other) for other in spilled)]
            for tile, made in zip(worth, pool.map(compiled, worth), strict=True):
                if made is None:
                    spilled.append(tile)
                else:
                    kept.append(made)
                next(steps)
            for _ in range(len(tiles) - len(worth)):
                next(steps)
    # The bar closes when it is asked beyond its end.
    next(steps, None)
    return kept


def _size(tile: Tile) -> int:
    return tile.block_m * tile.block_n


def _holds(tile: Tile, other: Tile) -> bool:
    """Tell whether a tile is as large as another each way, at the same depth and on no more warps.

    Where a product has fewer than 16 rows for each warp, warps repeat each other's rows: what such a tile needs says
    nothing of one with more rows.
    """
    larger = tile.block_m >= other.block_m and tile.block_n >= other.block_n
    alike = tile.block_m == other.block_m or other.block_m >= 16 * other.warps
    return alike and larger and tile.stages == other.stages and tile.warps <= other.warps


def _first_depth(tile: Tile, grid: Iterable[Tile]) -> int:
    """Return the depth at which a tile is tried first: two stages, or what comes nearest among the candidates."""
    depths = [t.stages for t in grid if replace(t, stages=tile.stages) == tile]
    return min(depths, key=lambda depth: (abs(depth - 2), depth))


def _tunable(kernel: str) -> tuple[KernelEntry, str]:
    """Return the kernel whose tile is tuned, and the variant of it that serves another one's name; else no word."""
    entry = registry.find(kernel)
    if entry.shares:
        other, _, variant = entry.shares.partition("/")
        return registry.find(other), variant
    if not entry.build:
        able = [e.name for e in registry.entries() if e.build]
        raise KernelError(f"{kernel}: it has no tile to tune; {nearest(kernel, able)}")
    return entry, ""


def measured(
    ranked: Sequence[Ranked],
    *,
    seq: int = 4096,
    best: int = 5,
    device: str = "cuda",
    clock: Callable[[Callable[[], object]], float] | None = None,
) -> tuple[list[Ranked], Quality]:
    """Return the first candidates with their measured times, and how good the ranking was.

    Needs the GPU that the candidates were ranked for. What is run is the campaign's case of the kernel.

    Args:
        seq: tokens of the case, a power of two.
        best: how many candidates are measured.
        clock: seconds of one call; GPU events where not given.
    """
    from .campaign import case_of
    from .timing import interleaved, spread

    if clock is None:
        from .bench_cuda import event_clock

        clock = event_clock
    first = list(ranked[:best])
    made = first[0].resources
    entry = registry.find(made.kernel)
    plan = case_of(made.kernel, seq=seq, head_dim=made.head_dim, device=device)
    tensors = registry.load(entry.inputs)(**plan.sizes, dtype=made.dtype, extras=plan.extras, device=device)
    options = dict(plan.options) | dict(entry.variants[made.variant])
    launcher = registry.load(entry.launcher)
    calls: dict[str, Callable[[], object]] = {}
    runs: list[Ranked] = []
    for c in first:
        call = functools.partial(launcher, **tensors, **options, tile=c.resources.tile)
        try:
            call()
        except (KernelError, RuntimeError) as error:
            note(f"{c.resources.tile} is left out: {' '.join(str(error).split())[:200]}")
            continue
        calls[str(len(runs))] = call
        runs.append(c)
    if not runs:
        raise KernelError(f"{made.kernel}: none of the {len(first)} candidates ran")
    first = runs
    times = interleaved(calls, clock=clock, budget_s=2.0 if device == "cuda" else 0.0)
    found = [replace(c, measured_ms=1e3 * spread(times[str(i)]).median) for i, c in enumerate(first)]
    return found, quality(
        [c.cycles_per_kilo_unit for c in found], [spread(times[str(i)]).median for i in range(len(first))]
    )


def quality(predicted: Sequence[float], times: Sequence[float]) -> Quality:
    """Return how good an order by prediction was, given the times of what it orders.

    >>> quality([1, 2, 3], [1.1, 1.0, 1.5])
    Quality(kendall_tau=0.3333333333333333, regret=0.10000000000000009)
    """
    chosen = times[min(range(len(predicted)), key=lambda i: predicted[i])]
    return Quality(kendall(predicted, times), chosen / min(times) - 1.0)


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
