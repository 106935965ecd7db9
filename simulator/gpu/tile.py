"""Cycles of one score tile on every pipe of an SM; the slowest pipe names the bottleneck."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mappings.gpu import PerScore, TileMapping

from ..hardware.gpu import Gpu
from .call import BYTES

_MMA_SCORES = (
    16 * 8 * 16 * 2.0
)  # operations of one warp-wide mma.sync m16n8k16: what an issue slot buys at the least


@dataclass(frozen=True, slots=True)
class TileTime:
    """Cycles that one block needs for one score tile.

    Attributes:
        pipes: cycles per pipe, as if each worked alone.
        bound: the slowest pipe's cycles: every other one hides behind it.
        serial: tensor and softmax one after another: no overlap at all.
        bound_by: the slowest pipe.
    """

    pipes: tuple[tuple[str, float], ...]
    bound: float
    serial: float
    bound_by: str


def tile_time(
    gpu: Gpu, tile: TileMapping, *, head_dim: int, dtype: str, per_score: PerScore, kv_dtype: str = ""
) -> TileTime:
    """Return the cycles of one score tile of `tile.query` x `tile.key`.

    Args:
        head_dim: columns of the query, key and value tiles.
        per_score: work of the kernel per element of the score tile.
        kv_dtype: of the keys in memory, where it is not that of the products.

    Source: rates of the hardware file; shared-memory reads of the key side once per `operand_rows` rows, since every
        warp (mma.sync) or warp group (wgmma) reads its operands for itself.

    >>> from ..hardware.gpu import find_gpu
    >>> tile = TileMapping(query=128, key=128, warps=8)
    >>> time = tile_time(find_gpu("h100"), tile, head_dim=128, dtype="fp16", per_score=PerScore())
    >>> time.bound_by, dict(time.pipes)["tensor"], dict(time.pipes)["exp"]
    ('l2', 2048.0, 1024.0)
    """
    scores = float(tile.query * tile.key)
    width = BYTES[dtype]
    key_tile = tile.key * head_dim * per_score.operand_passes  # elements of the key side, both products
    readings = math.ceil(tile.query / tile.operand_rows)
    shared = width * (key_tile * (readings + 1) + tile.query * head_dim)
    l2_per_cycle = gpu.l2_bandwidth_bytes_per_s / (gpu.sms * gpu.clock_hz)
    flops = per_score.tensor * scores * head_dim
    vector = per_score.exp + per_score.fma + per_score.alu
    pipes = {
        "tensor": flops / (gpu.tensor.of(dtype) * tile.tensor_share),
        "exp": per_score.exp * scores / gpu.exp_per_cycle,
        "fma": per_score.fma * scores / gpu.fma_per_cycle,
        "alu": per_score.alu * scores / gpu.alu_per_cycle,
        "shared": shared / gpu.shared_bytes_per_cycle,
        "l2": BYTES[kv_dtype or dtype] * key_tile / tile.cluster / l2_per_cycle,
        "issue": (vector * scores / 32 + (flops / _MMA_SCORES if tile.operand_rows < 64 else 0))
        / gpu.issue_per_cycle,
    }
    bound_by = max(pipes, key=lambda name: pipes[name])
    serial = pipes["tensor"] + max(pipes["exp"], pipes["fma"], pipes["alu"])
    return TileTime(tuple(pipes.items()), pipes[bound_by], max(serial, pipes[bound_by]), bound_by)
