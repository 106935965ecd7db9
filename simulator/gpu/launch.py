"""Calls laid on a GPU: tiles per block, blocks, slots, bytes; everything that no calibration changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from mappings.gpu import KernelMapping
from mappings.tiles import TileMapping

from ..hardware.gpu import Gpu
from .call import Call
from .masks import Mask, mask_visits
from .merge import merge
from .occupancy import blocks_per_sm, require_fit
from .splits import split
from .tile import L2_PORT_BYTES, TileTime, l2_per_cycle, port_share, tile_time
from .visits import Visits, reach, tile_visits

Floats = NDArray[np.float64]

# Bytes that an element of an output in parts passes through memory: written and read in fp32. That they do not grow
# with the number of parts, whose rest the L2 cache holds, was chosen after looking at serving rows of L40S and H100.
PART_BYTES = 8.0


@dataclass(frozen=True, slots=True)
class Launch:
    """n calls of one kernel, tile and operand type on one GPU.

    Attributes:
        tile_times: cycles of a score tile.
        full, masked: shape (n, K), tiles of each run of blocks; `walked`: tiles outside the window that the kernel
            walks over all the same; `runs`: how many blocks a run has, zero where there is none;
            `counts`: shape (3, n), full, masked and skipped tiles of the whole call.
        copies: shape (n,), how often the runs occur (batch and heads); `sequences`: how many sequences these are of;
            `parts`: into how many the keys are split.
        most: blocks that an SM can hold; `resident`: shape (n,), blocks that share one.
        chain_cycles: that a tile takes at the least, because each of its products waits for the one before.
        late: shape (n,), when the last block ends in units of the closed form, where a fit has scheduled the blocks
            beforehand (see `efficiency.scheduled`).
        name: of the launch where a call has several.
        then: launches of the same calls that follow, each when the one before has ended.
        flops: shape (n,), useful operations; likewise the compulsory bytes of the attention itself, of the copy of
            keys and values into the cache, of queries and outputs, and of adding up the parts where keys are split;
            `elements_appended`: what that copy works through.
    """

    gpu: Gpu
    head_dim: int
    dtype: str
    mapping: KernelMapping
    tile: TileMapping
    tile_times: TileTime
    full: Floats
    masked: Floats
    walked: Floats
    runs: Floats
    windowed: NDArray[np.bool_]
    counts: Floats
    copies: Floats
    parts: Floats
    most: int
    resident: Floats
    flops: Floats
    bytes_moved: Floats
    bytes_appended: Floats
    bytes_of_queries: Floats
    bytes_of_parts: Floats
    elements_appended: Floats
    footprint: Floats
    chain_cycles: float = 0.0
    sequences: Floats = field(default_factory=lambda: np.ones(1))
    late: Floats = field(default_factory=lambda: np.ones(1))
    name: str = ""
    then: tuple[Launch, ...] = ()

    @property
    def tiles_of_block(self) -> Floats:
        """Score tiles of a block of each run in units of full ones, shape (n, K)."""
        times = self.tile_times
        # A step may do nothing but be there, in a kernel that only stores.
        dearer = max(self.mapping.mask_factor, times.masked / times.bound if times.bound else 1.0)
        return self.full + dearer * self.masked

    @property
    def mask_cycles_of_block(self) -> Floats:
        """Cycles that a window's mask costs each block, on tiles that it visits and on tiles that it walks over."""
        scores = self.tile.query * self.tile.key
        visited = np.where(self.windowed[:, None], self.full + self.masked, 0.0)
        return scores * (self.mapping.window_cycles * visited + self.mapping.walk_cycles * self.walked)

    @property
    def blocks_of_run(self) -> Floats:
        """Blocks of each run, in the whole call, shape (n, K)."""
        return self.runs * self.copies[:, None]

    @property
    def blocks(self) -> Floats:
        """Blocks of each call, shape (n,)."""
        return np.asarray(self.runs.sum(axis=1) * self.copies, dtype=np.float64)

    @property
    def crowding(self) -> Floats:
        """Time of a block's tile in units of its time alone on an SM of a full chip, shape (n,)."""
        out: Floats = np.where(self.blocks < self.gpu.sms, max(self.tile.lone, 1.0), self.resident)
        return out

    @property
    def port_share(self) -> float:
        """The part of the SMs that may ask for tiles before an SM's port, not the L2 cache, is what holds it up."""
        return port_share(self.gpu)

    @property
    def asking(self) -> Floats:
        """The part of the SMs that share the rate of the L2 cache, shape (n,): those that hold a block.

        An SM gets more than its even share of the chip's rate where few ask, up to what its port takes.
        """
        busy = np.minimum(self.blocks, self.gpu.sms) / self.gpu.sms
        out: Floats = np.maximum(busy, l2_per_cycle(self.gpu) / L2_PORT_BYTES)
        return out

    @property
    def slots(self) -> NDArray[np.int64]:
        """Blocks that the chip holds at a time, shape (n,)."""
        return np.asarray(self.resident * self.gpu.sms, dtype=np.int64)


class _Work(TypedDict):
    """Fields of a `Launch` that follow from counting tiles."""

    full: Floats
    masked: Floats
    walked: Floats
    runs: Floats
    counts: Floats
    copies: Floats
    parts: Floats
    most: int
    resident: Floats


def launch(
    calls: Sequence[Call], gpu: Gpu, *, mapping: KernelMapping, tile: TileMapping, direction: str = "fwd"
) -> Launch:
    """Return calls laid on a GPU; all share `head_dim`, `dtype` and the tile.

    Args:
        direction: "fwd", or "bwd", where a block owns a key tile and walks over the query tiles.

    Raises:
        MappingError: the tile does not fit the GPU.
    """
    first, mapping = calls[0], mapping.of_tile(tile)
    width = mapping.width(first.head_dim)
    require_fit(gpu, tile, head_dim=width, dtype=first.dtype)
    per_score = mapping.per_score if direction == "fwd" else mapping.backward
    products = mapping.products(target=gpu.target, dtype=first.dtype, kv_dtype=first.kv_dtype)
    read = "" if mapping.reads_given else first.kv_dtype
    timed = tile_time(
        gpu,
        tile,
        head_dim=width,
        dtype=products,
        per_score=per_score,
        kv_dtype=read,
        overlaps=mapping.overlaps,
        edges=first.mask.tests if first.mask else 2 if first.windowed else int(first.causal),
    )
    work = _work(calls, gpu, mapping=mapping, tile=tile, direction=direction)
    moved, appended, footprint = _bytes(calls, mapping, gpu.target, direction)
    return Launch(
        gpu=gpu,
        head_dim=first.head_dim,
        dtype=first.dtype,
        mapping=mapping,
        tile=tile,
        tile_times=timed,
        windowed=np.array([c.window > 0 for c in calls]),
        flops=np.array([c.flops(tensor=per_score.tensor) for c in calls]),
        bytes_moved=moved,
        bytes_appended=appended,
        bytes_of_queries=np.array([c.query_bytes() for c in calls]),
        bytes_of_parts=_bytes_of_parts(calls, work["parts"]),
        elements_appended=np.array([_copied(c, mapping, gpu.target) for c in calls]),
        footprint=footprint,
        sequences=np.array([float(c.batch) for c in calls]),
        **work,
    )


def _work(
    calls: Sequence[Call], gpu: Gpu, *, mapping: KernelMapping, tile: TileMapping, direction: str
) -> _Work:
    """Return the tiles of every block, merged into runs, and how the blocks share the chip."""
    most = blocks_per_sm(gpu, tile)
    visits = _visits(calls, mapping, tile, direction)
    heads = [c.key_heads if mapping.pack and direction == "fwd" else c.heads for c in calls]
    copies = np.array([c.batch * h for c, h in zip(calls, heads, strict=True)], dtype=np.float64)
    counts = np.stack([visits.full.sum(axis=1), visits.masked.sum(axis=1), visits.skipped]) * copies
    walked = _walked(calls, mapping, tile, visits, direction)
    full, masked, walked, runs = merge(
        visits.full.astype(np.float64), visits.masked.astype(np.float64), walked
    )
    parts = np.ones(len(copies))
    # A block of the backward pass walks over queries, of which nobody makes parts.
    if mapping.split_keys and tile.splits and direction == "fwd":
        blocks = (full, masked, walked, runs)
        dealt = split(calls, mapping=mapping, tile=tile, sms=gpu.sms, most=most, copies=copies, blocks=blocks)
        full, masked, walked, runs, parts = (getattr(dealt, f.name) for f in fields(dealt))
    resident = np.clip(np.ceil(runs.sum(axis=1) * copies / gpu.sms), 1, most)
    return _Work(
        full=full,
        masked=masked,
        walked=walked,
        runs=runs,
        counts=counts,
        copies=copies,
        parts=parts,
        most=most,
        resident=np.asarray(resident, dtype=np.float64),
    )


def _score_bytes(call: Call, mapping: KernelMapping) -> float:
    """Return the bytes of scores that leave the chip."""
    scores = mapping.score_bytes * call.batch * call.heads * float(call.seq_q) * call.seq_kv
    return scores * (1.0 + (mapping.mask_passes if call.causal else 0.0))


def _bytes(
    calls: Sequence[Call], mapping: KernelMapping, target: str, direction: str
) -> tuple[Floats, Floats, Floats]:
    """Return the bytes of the attention, of the copy into the cache before it, and of all tensors together."""
    # The backward pass reads what the forward pass read and wrote, and writes as many gradients.
    scale = 1.0 if direction == "fwd" else 2.0
    cache = np.array([c.key_bytes() for c in calls])
    extra = np.array([_score_bytes(c, mapping) for c in calls])
    moved = scale * (np.array([c.query_bytes() for c in calls]) + cache + extra)
    if not mapping.appends or mapping.copy(target).works_on == "none":
        return moved, np.zeros(len(calls)), moved
    given = np.array([c.key_bytes(stored=False) + c.converted_bytes() for c in calls])
    # Queries that are brought into place are moved, but need no more room in the L2 cache.
    copy = mapping.copy(target)
    always = copy.works_on != "keys"
    placed = np.array([c.converted_bytes(always=always) - c.converted_bytes() for c in calls])
    widened = np.array([c.widened_bytes() if copy.converts else 0.0 for c in calls])
    return moved, cache + given + placed + widened, moved + given


def _bytes_of_parts(calls: Sequence[Call], parts: Floats) -> Floats:
    """Return the bytes of outputs that one kernel writes in parts and another one reads and adds up."""
    return np.where(parts > 1, PART_BYTES * np.array([c.query_elements() for c in calls]), 0.0)


def _copied(call: Call, mapping: KernelMapping, target: str) -> float:
    """Return the elements that the copy into the cache works through."""
    copy = mapping.copy(target)
    if not mapping.appends or copy.works_on == "none":
        return 0.0
    queries = call.query_elements() if copy.works_on != "keys" else 0.0
    keys = call.new_elements(least=copy.least, most=copy.most) if copy.works_on != "queries" else 0.0
    return queries + keys


def _walked(
    calls: Sequence[Call], mapping: KernelMapping, tile: TileMapping, visits: Visits, direction: str
) -> Floats:
    """Return the tiles that the window cuts off and the kernel's loop still walks over."""
    if not mapping.walk_cycles or not any(c.window for c in calls):
        return np.zeros(visits.full.shape)
    whole = _visits(calls, replace(mapping, skips_window=False), tile, direction)
    return np.asarray(whole.visited - visits.visited, dtype=np.float64)


def _visits(calls: Sequence[Call], mapping: KernelMapping, tile: TileMapping, direction: str) -> Visits:
    """Return the visits; in the backward direction with queries and keys in each other's place."""
    if calls[0].mask and mapping.skips_causal and mapping.skips_window:
        return _masked(calls[0], calls[0].mask, mapping, tile, direction)
    seq_q = np.array([c.seq_q for c in calls])
    seq_kv = np.array([c.seq_kv for c in calls])
    causal = np.array([c.causal and mapping.skips_causal for c in calls])
    window = np.array([c.window if mapping.skips_window else 0 for c in calls])
    left, right = reach(causal=causal, window=window)
    if direction != "fwd":
        return tile_visits(
            seq_kv, seq_q, query=tile.query, key=tile.key, left=right, right=left, offset=seq_q - seq_kv
        )
    group = np.array([c.group if mapping.pack else 1 for c in calls])
    return tile_visits(seq_q, seq_kv, query=tile.query, key=tile.key, left=left, right=right, group=group)


def _masked(call: Call, mask: Mask, mapping: KernelMapping, tile: TileMapping, direction: str) -> Visits:
    """Return the visits of a call under the mask of a cascade."""
    forward = direction == "fwd"
    group = call.group if mapping.pack and forward else 1
    return mask_visits(mask, query=tile.query, key=tile.key, group=group, by_keys=not forward)
