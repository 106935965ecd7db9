"""Cycles of one score tile on every pipe of an SM; the slowest pipe names the bottleneck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mappings.pipes import MMA_FLOPS, READ_TOGETHER, busy_cycles, elementwise_cycles, serial_cycles
from mappings.tiles import PerScore, TileMapping

from ..hardware.gpu import Gpu
from .call import BYTES
from .occupancy import occupancy

_GROUP_ROWS = 64  # of the products of a warp group (wgmma); mma.sync has fewer, tcgen05 more
_WORD = 4  # bytes of a register
# Bytes that an SM takes from the L2 cache in a cycle, however few others ask: two sectors of 32 bytes. Assumed of all.
L2_PORT_BYTES = 64.0
# Vector operations per score that a masked tile takes beside a compare for each edge, where no compiled loop tells: one
# select. Chosen after looking at windows of GB200 and GB300: with a select for each edge four of their five lengths
# come out 7 and 11 % too slow, so 2 % too fast and 3 % too slow.
_SELECT = 1.0
# Of an SM: each has a tensor core of its own, on which mma.sync of its warps runs. That groups of rows queue for them
# as `in_turns` says was chosen after looking at the scalars of the shipped table: they differ less between head
# dimensions and types, on H100, B200 and A100, than with every pipe hidden behind the slowest.
_SCHEDULERS = 4


@dataclass(frozen=True, slots=True)
class TileTime:
    """Cycles that one block needs for one score tile.

    Attributes:
        pipes: cycles per pipe, as if each worked alone.
        bound: cycles that it keeps its SM for: those of the slowest pipe, or of products and softmax as blocks and
            warp groups take turns at them; of `serial`, where a kernel does not overlap.
        l2: cycles in which the L2 cache delivers the key side at the soonest, whatever the SM does meanwhile, if all
            SMs ask.
        serial: tensor and softmax one after another: no overlap at all.
        bound_by: the slowest pipe.
        masked: cycles of a tile that needs its mask: from the compiled loop over such tiles where it was read, else
            with the tests of its edges.
    """

    pipes: tuple[tuple[str, float], ...]
    bound: float
    serial: float
    bound_by: str
    masked: float
    l2: float

    def seconds(self, clock_hz: float, scalar: float, *, share: float = 1.0) -> float:
        """Return the time of a tile, if the kernel reaches a part of the rate of the SM's pipes.

        What keeps a kernel from that rate, waiting and switching, does not slow the L2 cache.

        Args:
            share: the part of the SMs that share the L2 cache's rate.
        """
        return max(self.bound / scalar, self.l2 * share) / clock_hz


def tile_time(
    gpu: Gpu,
    tile: TileMapping,
    *,
    head_dim: int,
    dtype: str,
    per_score: PerScore,
    kv_dtype: str = "",
    overlaps: bool = True,
    edges: int = 0,
) -> TileTime:
    """Return the cycles of one score tile of `tile.query` x `tile.key`.

    Args:
        head_dim: columns of the query, key and value tiles.
        per_score: work of the kernel per element of the score tile; instructions of the tile's compiled loop take its
            place where they are known.
        kv_dtype: of the keys in memory, where it is not that of the products.
        overlaps: products and softmax of a block run at the same time; else one after another.
        edges: of the mask, each of which a masked tile tests every score against.

    Source: rates of the hardware file; shared-memory reads of the key side once per `operand_rows` rows, since every
        warp (mma.sync) or warp group (wgmma) reads its operands for itself.

    >>> from ..hardware.gpu import find_gpu
    >>> tile = TileMapping(query=128, key=128, warps=8)
    >>> time = tile_time(find_gpu("h100"), tile, head_dim=128, dtype="fp16", per_score=PerScore())
    >>> time.bound_by, dict(time.pipes)["tensor"], dict(time.pipes)["exp"], round(time.bound)
    ('tensor', 2048.0, 1024.0, 2389)
    """
    scores = float(tile.query * tile.key)
    width = BYTES[dtype]
    key_tile = tile.key * head_dim * per_score.operand_passes  # elements of the key side, both products
    readings = math.ceil(tile.query / tile.operand_rows)
    shared = width * (key_tile * (readings + 1) + tile.query * head_dim)
    flops = max(per_score.tensor * scores * head_dim, compiled_flops(tile, width))
    pipes = {
        "tensor": flops / (gpu.tensor.of(dtype) * tile.tensor_share),
        **(
            compiled(gpu, tile)
            or estimated(
                gpu,
                tile,
                exp=per_score.exp * scores,
                fma=per_score.fma * scores,
                alu=per_score.alu * scores,
                flops=flops,
            )
        ),
        "shared": shared / gpu.shared_bytes_per_cycle,
        "l2": BYTES[kv_dtype or dtype] * key_tile / tile.cluster / l2_per_cycle(gpu) / READ_TOGETHER,
    }
    # Each compare takes in the one before.
    tested = (edges + _SELECT) * scores if edges else 0.0
    turns = turns_of(gpu, tile) if overlaps else 0
    return timed(gpu, tile, pipes, overlaps=overlaps, tested=tested, turns=turns)


def timed(
    gpu: Gpu,
    tile: TileMapping,
    pipes: Mapping[str, float],
    *,
    overlaps: bool,
    tested: float = 0.0,
    turns: int = 0,
) -> TileTime:
    """Return the time of a tile, or of a step of a loop, from the cycles of its pipes.

    Args:
        tested: vector operations that a masked one takes more, where no compiled loop tells.
        turns: how many take turns at products and elementwise work; zero for so many that the slowest pipe never idles.
    """
    bound_by = max(pipes, key=lambda name: pipes[name])
    serial, bound = serial_cycles(pipes), _busy(pipes, overlaps=overlaps, turns=turns)
    loop = tile.resources.loop if tile.resources else None
    if loop:
        masked = loop.masked_instructions * tile.warps / gpu.issue_per_cycle
    else:
        more = {"alu": tested / gpu.alu_per_cycle, "issue": tested / 32 / gpu.issue_per_cycle}
        dearer = {name: cycles + more.get(name, 0.0) for name, cycles in pipes.items()}
        masked = _busy(dearer, overlaps=overlaps, turns=turns)
    return TileTime(
        tuple(pipes.items()), bound, max(serial, bound), bound_by, max(masked, bound), pipes["l2"]
    )


def turns_of(gpu: Gpu, tile: TileMapping) -> int:
    """Return how many groups of rows take turns at an SM's tensor cores and its softmax, of all its blocks.

    A group's own product, softmax and next product follow each other. wgmma and tcgen05 work for a group of 64 or 128
    rows on all tensor cores of the SM; of mma.sync, a warp on each scheduler makes such a group.
    """
    rows = tile.operand_rows * (1 if tile.operand_rows >= _GROUP_ROWS else _SCHEDULERS)
    made = tile.resources
    blocks = occupancy(gpu, made, warps=tile.warps).blocks if made else tile.blocks_per_sm
    return max(1, round(tile.query * blocks / rows))


def in_turns(products: float, elementwise: float, turns: int) -> float:
    """Return the cycles of a tile whose groups of rows queue for products and for elementwise work.

    One group does both one after the other; many keep the slower of them busy all the time. In between, a group often
    finds the one that it needs next taken, since neither takes the same time for every tile: data wait for memory, and
    warps for their issue slot and for each other.

    Source: closed network of two queues with exponential service (Gordon and Newell, 1967), throughput as a ratio of
        normalising constants (Buzen, 1973).

    >>> [in_turns(1000.0, 1000.0, n) for n in (1, 2, 3)], in_turns(1000.0, 500.0, 2)
    ([2000.0, 1500.0, 1333.3333333333333], 1166.6666666666667)
    """
    slow, fast = max(products, elementwise), min(products, elementwise)
    if not slow:
        return 0.0
    ratio = fast / slow
    # Of the slower one: what the sum of all powers is more than the sum of all but the last.
    powers = [ratio**i for i in range(turns + 1)]
    return slow * sum(powers) / sum(powers[:-1])


def _busy(pipes: Mapping[str, float], *, overlaps: bool, turns: int) -> float:
    busy = busy_cycles(pipes, overlaps=overlaps)
    return max(busy, in_turns(pipes["tensor"], elementwise_cycles(pipes), turns)) if turns else busy


def l2_per_cycle(gpu: Gpu) -> float:
    """Return the bytes that the L2 cache delivers to each SM in a cycle, if all ask at once."""
    return gpu.l2_bandwidth_bytes_per_s / (gpu.sms * gpu.clock_hz)


def port_share(gpu: Gpu) -> float:
    """Return the part of the SMs that may ask for tiles before an SM's port, not the L2 cache, is what holds it up.

    More than one where the ports of all SMs together take less than the cache gives.
    """
    return READ_TOGETHER * l2_per_cycle(gpu) / L2_PORT_BYTES


def estimated(
    gpu: Gpu, tile: TileMapping, *, exp: float, fma: float, alu: float, flops: float
) -> dict[str, float]:
    """Return the cycles of the scalar pipes from the operations that a tile takes at the least."""
    products = flops / MMA_FLOPS if tile.operand_rows < _GROUP_ROWS else 0.0
    return {
        "exp": exp / gpu.exp_per_cycle,
        "fma": fma / gpu.fma_per_cycle,
        "alu": alu / gpu.alu_per_cycle,
        "issue": ((exp + fma + alu) / 32 + products) / gpu.issue_per_cycle,
    }


def compiled_flops(tile: TileMapping, width: float) -> float:
    """Return the operations of the compiled loop's mma.sync instructions: more than the tile's where warps repeat some.

    Of wgmma and tcgen05 the count alone does not tell: one instruction is as wide as its operands.
    """
    loop = tile.resources.loop if tile.resources else None
    if loop is None or tile.operand_rows >= _GROUP_ROWS:
        return 0.0
    return loop.tensor * tile.warps * MMA_FLOPS * 2.0 / width


def compiled(gpu: Gpu, tile: TileMapping) -> dict[str, float]:
    """Return the cycles of the scalar pipes from the instructions of the compiled loop; nothing where unknown.

    Spilt registers lie in the L1 cache as far as shared memory leaves room there, else in the L2 cache.
    """
    made = tile.resources
    if made is None or made.loop is None:
        return {}
    loop, lanes = made.loop, 32 * tile.warps
    stack = made.stack_bytes * lanes
    room = gpu.shared_bytes_per_sm - made.shared_bytes
    out = {
        "exp": loop.special * lanes / gpu.exp_per_cycle,
        "fma": loop.fma * lanes / gpu.fma_per_cycle,
        "alu": loop.alu * lanes / gpu.alu_per_cycle,
        "issue": loop.instructions * tile.warps / gpu.issue_per_cycle,
    }
    if loop.local:
        out["spills"] = (
            loop.local * lanes * _WORD / (l2_per_cycle(gpu) if stack > room else gpu.shared_bytes_per_cycle)
        )
    return out
