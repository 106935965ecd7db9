"""What a launch costs in seconds: one scalar, a fixed cost, a cost per block, the part of the memory bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware.gpu import Gpu
from ..roofline import roofline_seconds
from .launch import Launch
from .waves import makespan, makespan_bound, makespan_one_by_one

Floats = NDArray[np.float64]

# Compute and memory overlap, but not perfectly: the sum of fourth powers lies between their maximum and their sum,
# at most 19 % above the maximum. Chosen after looking at the serving rows of A100, H100, B200 and L40S.
_OVERLAP = 4.0
# Where keys are split a second kernel adds the parts up: an empty kernel's time. Chosen after looking at the serving
# rows of FlashAttention-3 on H100, where split calls of 20 to 30 us take 2 to 4 us more than their tiles.
COMBINE_S = 3e-6
# Blocks that are not handed out longest first leave slots idle at the end, in units of (longest - mean block): means
# over 400 random causal launches scheduled block by block (standard deviation 0.04 for the order of a launch in
# general, 0.14 head by head, 0.17 shortest first, 0.28 sequence by sequence; tests).
_TAIL = {"launch": 1.26, "shortest_first": 1.06, "head_by_head": 1.4, "sequence_by_sequence": 0.3}
# Orders that say which block comes when.
_KNOWN = ("shortest_first", "head_by_head", "sequence_by_sequence")
# Seconds in which load pulls the clock down to what heat and the power limit leave: a launch of T runs on the way there
# by a share T / (T + this). Chosen after looking at serving rows of H100, B200 and L40S.
_WARMING_S = 10e-3
# Misses between two uses of a line, in lines of the cache, and what follows from them in `held_in_l2`: the part of the
# lines that survives them, and the data that miss so often. Chosen after looking at serving rows of L40S, H100, B200
# and A100, between replacement at random and a smooth step at one cache full.
_MISSES = np.linspace(0.01, 40.0, 4000)
_SURVIVING = np.concatenate([[1.0], np.exp(-_MISSES)])
_CACHES_FULL = np.concatenate([[1.0], _MISSES / -np.expm1(-_MISSES)])
_MOSTLY = 0.5  # part of the bytes from which on the L2 cache is told of
# Above this many blocks a slot the closed form is within 2 % of the greedy schedule.
_MANY_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a measurement calibrates.

    Attributes:
        scalar: the part of the slowest pipe's rate that the kernel reaches.
        launch_s: fixed cost of a call.
        block_cycles: cost of a block beyond its tiles: prologue, first loads, epilogue.
        memory: the part of the memory bandwidth that it reaches.
        copy_cycles: what an element costs an SM in the copy into the cache, where the call makes one.
        source: where the numbers come from, to be printed with every prediction.
        spread: of the interval that goes with the source: the truth is within a factor of 1 + spread;
            `short_spread`: of a call below 50 us, zero for the same.
    """

    scalar: float
    launch_s: float = 3e-6
    block_cycles: float = 2500.0
    memory: float = 0.8
    copy_cycles: float = 0.5
    source: str = ""
    spread: float = 0.5
    short_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of n calls and of their parts, each of shape (n,).

    Attributes:
        launches: of each launch of the calls, beyond its fixed cost: all of it, compute, memory and append.
    """

    latency_s: Floats
    compute_s: Floats
    memory_s: Floats
    append_s: Floats
    roofline_s: Floats
    launches: tuple[tuple[Floats, Floats, Floats, Floats], ...]


def times(launch: Launch, efficiency: Efficiency, *, exact: bool = True) -> Times:
    """Return the seconds of every call of a launch.

    Args:
        exact: schedule few blocks event by event; else by the closed form, for sweeps.
    """
    parts = tuple(_busy(each, efficiency, exact=exact) for each in (launch, *launch.then))
    busy, compute, memory, append = np.sum(parts, axis=0) if launch.then else parts[0]
    gpu = launch.gpu
    roof = roofline_seconds(
        sum([each.flops for each in launch.then], launch.flops),
        sum([each.bytes_moved for each in launch.then], launch.bytes_moved),
        peak_per_s=gpu.peak_flops(launch.dtype),
        bandwidth_bytes_per_s=gpu.memory_bandwidth_bytes_per_s,
    )
    latency = efficiency.launch_s * launch.mapping.launches + busy
    return Times(latency, compute, memory, append, roof, parts)


def _busy(launch: Launch, efficiency: Efficiency, *, exact: bool) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the seconds of one launch beyond its fixed cost, and of what they are made of."""
    gpu, costs = launch.gpu, _costs(launch, efficiency)
    compute = _schedule(launch, costs, exact=exact)
    # The L2 cache serves all SMs: what the last blocks leave of its rate is not idle, so that it knows no waves.
    loads_s = (launch.full + launch.masked) * launch.tile_times.l2 / (gpu.sms * gpu.clock_hz)
    compute = np.maximum(compute, (loads_s * launch.blocks_of_run).sum(axis=1))
    work = (costs * launch.blocks_of_run).sum(axis=1) / (launch.slots * compute)
    compute = compute * np.where(launch.tile.lone < 1.0, np.clip(work, launch.tile.lone, 1.0), 1.0)
    memory = memory_seconds(gpu, launch.bytes_moved, footprint=launch.footprint) / efficiency.memory
    compute = compute / mean_clock(overlapped(compute, memory), gpu.hot_clock)
    append = overlapped(
        memory_seconds(gpu, launch.bytes_appended, footprint=launch.footprint) / efficiency.memory,
        launch.elements_appended * efficiency.copy_cycles / (gpu.sms * gpu.clock_hz),
    )
    combine = launch.bytes_of_parts / (gpu.memory_bandwidth_bytes_per_s * efficiency.memory)
    busy = overlapped(compute, memory) + np.where(launch.parts > 1, COMBINE_S + combine, 0.0)
    return append + busy, compute, memory, append


def _costs(launch: Launch, efficiency: Efficiency) -> Floats:
    """Return the seconds of a block of each run, shape (n, K); zero where there is none."""
    gpu = launch.gpu
    tile_s = launch.tile_times.seconds(gpu.clock_hz, efficiency.scalar, share=launch.port_share)
    tiles_s = launch.tiles_of_block * tile_s + launch.mask_cycles_of_block / gpu.clock_hz
    ends_s = efficiency.block_cycles / gpu.clock_hz + _ends_seconds(launch, efficiency.scalar)
    crowded_s = tiles_s * launch.crowding[:, None]
    if launch.chain_cycles:
        # Products that wait for each other take their time whatever else the SM does meanwhile.
        chained_s = (launch.full + launch.masked) * launch.chain_cycles / gpu.clock_hz
        crowded_s = np.maximum(crowded_s, chained_s)
    return np.where(launch.runs > 0, ends_s[:, None] + crowded_s, 0.0)


def overlapped(a: Any, b: Any) -> Any:
    """Return the seconds of compute and memory together, of many launches or of one."""
    return (a**_OVERLAP + b**_OVERLAP) ** (1 / _OVERLAP)


def mean_clock(busy_s: Any, hot_clock: float) -> Any:
    """Return the mean clock of launches in units of the one that they begin with."""
    hot = busy_s / (_WARMING_S + busy_s)
    return 1.0 - (1.0 - hot_clock) * hot


def memory_seconds(gpu: Gpu, moved: Any, *, footprint: Any) -> Any:
    """Return the seconds that bytes take, part of them from the L2 cache where the call's tensors fit into it."""
    held = held_in_l2(gpu, footprint)
    return moved * (held / gpu.l2_bandwidth_bytes_per_s + (1.0 - held) / gpu.memory_bandwidth_bytes_per_s)


def held_in_l2(gpu: Gpu, footprint: Any) -> Any:
    """Return which part of tensors of some bytes the L2 cache holds from one call to the next.

    Each call reads them once, so that a line is there again unless one of the misses in between took its place. Misses
    take any line, the least recently used or not: the part h that survives those of f caches full of data is
    exp(-f (1 - h)), all of it up to one cache full. Each partition of a cache holds what its own SMs read, and
    tensors that all of them read lie in every one.
    """
    return np.interp(footprint * gpu.l2_partitions / gpu.l2_bytes, _CACHES_FULL, _SURVIVING)


def memory_remarks(launch: Launch) -> Iterator[str]:
    """Yield what a prediction of the first call takes for granted of the memory."""
    gpu, footprint = launch.gpu, float(launch.footprint[0])
    held, gib = held_in_l2(gpu, footprint), footprint / 2**30
    if held > _MOSTLY:
        yield (
            f"{held:.0%} of the bytes come from the L2 cache, as where a call is timed again and again: it may take "
            "less than the roofline, which reads them from memory"
        )
    if footprint > gpu.memory_bytes:
        yield f"tensors of {gib:.3g} GiB exceed the memory of {gpu.name}; the time is as if they fitted"


def _ends_seconds(launch: Launch, scalar: float) -> Floats:
    """Return what a block takes at its two ends, where nothing overlaps.

    It loads its queries and stores its outputs at its SM's share of the L2 rate, while other blocks of the same SM go
    on; the softmax of its first tile waits for the first product, and the last product for the last softmax. Nothing
    where the kernel hides its ends behind a neighbouring block.
    """
    if launch.mapping.hides_ends:
        return np.zeros(len(launch.blocks))
    gpu, tile = launch.gpu, launch.tile_times
    of_block = launch.bytes_of_queries / (launch.blocks * launch.resident)
    alone_s = (tile.serial - tile.bound) / (gpu.clock_hz * scalar)
    share = gpu.l2_bandwidth_bytes_per_s / (gpu.sms * launch.asking)
    out: Floats = of_block / share + alone_s
    return out


def _longest_first(costs: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return each call's runs by falling cost; they often are in order, and sorting is most of a sweep."""
    if (costs[:, 1:] <= costs[:, :-1]).all():
        return costs, counts
    order = np.argsort(-costs, axis=1, kind="stable")
    return np.take_along_axis(costs, order, axis=1), np.take_along_axis(counts, order, axis=1)


def scheduled(launch: Launch, efficiency: Efficiency) -> Launch:
    """Return a launch whose closed form ends when its blocks do, one by one, with constants like these.

    For fits: to schedule the blocks anew at every step would take them most of their time, and how much later they end
    than the closed form says changes little with the constants.
    """
    each = [replace(one, late=_late(one, efficiency), then=()) for one in (launch, *launch.then)]
    return replace(each[0], then=tuple(each[1:]))


def _late(launch: Launch, efficiency: Efficiency) -> Floats:
    costs = _costs(launch, efficiency)
    plain = replace(launch, late=np.ones(1))
    out: Floats = _schedule(plain, costs, exact=True) / _schedule(plain, costs, exact=False)
    return out


def _schedule(launch: Launch, costs: Floats, *, exact: bool) -> Floats:
    """Return when the last block of each call ends, in the order in which the kernel hands out its blocks."""
    descending, counts = _longest_first(costs, launch.blocks_of_run)
    slots, blocks, order = launch.slots, launch.blocks, launch.mapping.order
    few = (
        np.flatnonzero((blocks > slots) & (blocks < _MANY_BLOCKS * slots)) if exact else np.zeros(0, np.int64)
    )
    # Of parts nobody says which comes when.
    whole = launch.parts[few] == 1 if order in _KNOWN else np.zeros(len(few), bool)
    out = makespan_bound(descending, counts, slots=slots)
    for i in few[~whole]:
        distinct, where = np.unique(descending[i][counts[i] > 0], return_inverse=True)
        each = np.bincount(where, counts[i][counts[i] > 0], len(distinct)).astype(np.int64)
        out[i] = makespan(distinct[::-1], each[::-1], slots=int(slots[i]))
    if order != "longest_first":
        work = (descending * counts).sum(axis=1)
        uneven = descending[:, 0] - work / np.maximum(blocks, 1.0)
        out = np.maximum(out, work / slots + np.where(blocks > slots, _TAIL[order] * uneven, 0.0))
    for i in few[whole]:
        out[i] = makespan_one_by_one(_in_order(launch, costs[i], i).tolist(), slots=int(slots[i]))
    return out if exact else out * launch.late


def _in_order(launch: Launch, costs: Floats, i: int) -> Floats:
    """Return what each block of a call costs, in the order in which they are handed out.

    The later the queries of a block, the more keys a causal mask lets them see: in the order of its query tiles a head
    goes from its shortest block to its longest.
    """
    head = np.sort(np.repeat(costs, launch.runs[i].astype(np.int64)))
    copies = int(launch.copies[i])
    sequences = int(np.broadcast_to(launch.sequences, len(launch.copies))[i])
    match launch.mapping.order:
        case "head_by_head":
            return np.tile(head, copies)
        case "sequence_by_sequence":
            return np.tile(np.repeat(head[::-1], copies // sequences), sequences)
        case _:
            return np.repeat(head, copies)
