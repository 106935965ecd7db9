"""Floors under what the tile model says of a kernel, in closed form: most tilings need not be laid to be left."""

from __future__ import annotations

import math

from mappings.tiles import TileMapping

from ...hardware.gpu import Gpu
from ..efficiency import COMBINE_S, Efficiency, mean_clock, memory_seconds, overlapped
from ..launch import PART_BYTES
from ..loops import MOST_BLOCKS, step_pipes
from ..tile import L2_PORT_BYTES, l2_per_cycle, port_share, timed
from .work import STEP_WORK, Work

# Of a floor that is as high as the time itself, sums of floating-point numbers in another order differ by less.
SLACK = 1e-9


def moved_s(gpu: Gpu, by: Efficiency, moved: float) -> float:
    """Return the seconds that a kernel's bytes alone take; nothing that it computes makes it faster than that."""
    return float(memory_seconds(gpu, moved, footprint=moved) / by.memory)


def floor_s(
    work: Work,
    tile: TileMapping,
    *,
    gpu: Gpu,
    by: Efficiency,
    dtype: str,
    batch: int,
    waited_cycles: float,
    alike: bool,
) -> float:
    """Return seconds beyond the fixed cost of a launch that the tile model says no less than.

    Blocks that are all alike take exactly these; of others, the mean of them stands for each.

    Args:
        tile: of a mapping whose products and elementwise work take turns.
        batch: how often the blocks occur.
        waited_cycles: that each step takes at the least, for what it waits for.
        alike: whether each block takes as many steps as the mean of them.
    """
    moved = (work.reads + work.writes) * batch
    memory = moved_s(gpu, by, moved)
    turns = -(-work.blocks * batch // MOST_BLOCKS)
    blocks = -(-work.blocks // turns) * batch
    resident = min(max(math.ceil(blocks / gpu.sms), 1), tile.blocks_per_sm)
    alone = timed(
        gpu,
        tile,
        step_pipes(gpu, tile, {n: getattr(work, n) for n in STEP_WORK}, dtype=dtype),
        overlaps=False,
    )
    tiles_s = turns * alone.seconds(gpu.clock_hz, by.scalar, share=port_share(gpu))
    waited_s = turns * work.steps * waited_cycles / gpu.clock_hz
    block_s = _ends_s(gpu, by, work.writes * batch / (blocks * resident), blocks) + max(
        tiles_s * resident, waited_s
    )
    rounds = blocks / (resident * gpu.sms)
    compute = block_s * (math.ceil(rounds) if alike else max(rounds, 1.0))
    compute = max(compute, blocks * turns * alone.l2 / (gpu.sms * gpu.clock_hz))
    compute /= mean_clock(overlapped(compute, memory), gpu.hot_clock)
    apart = PART_BYTES * work.partial * batch / (gpu.memory_bandwidth_bytes_per_s * by.memory)
    return float(overlapped(compute, memory)) + (COMBINE_S + apart if work.parts > 1 else 0.0)


def _ends_s(gpu: Gpu, by: Efficiency, written: float, blocks: int) -> float:
    """Return what a block takes at its two ends, the last of which writes its part of the results."""
    asking = max(min(blocks, gpu.sms) / gpu.sms, l2_per_cycle(gpu) / L2_PORT_BYTES)
    return by.block_cycles / gpu.clock_hz + written / gpu.l2_bandwidth_bytes_per_s * gpu.sms * asking
