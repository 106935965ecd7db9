"""Kernels described as grids of blocks that walk a loop, laid on a GPU: any kernel, whatever its loops are over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.errors import MappingError
from mappings.compiled import compiled_targets, compiled_tile
from mappings.gpu import KernelMapping
from mappings.grids import Grid, StepWork, value_of
from mappings.pipes import MMA_FLOPS, READ_TOGETHER, SYNC_SHARE
from mappings.tiles import TileMapping

from ..hardware.gpu import Gpu
from .call import BYTES, Call
from .launch import PART_BYTES, Launch
from .merge import merge
from .occupancy import blocks_per_sm
from .sizes import names_of
from .tile import compiled, compiled_flops, estimated, l2_per_cycle, timed

Floats = NDArray[np.float64]

# Cycles from one product to the next that needs its result: the latency of an mma.sync, 33 cycles on A100 and 32 on
# H100 (Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking", 2024), and
# a round trip through shared memory of twice 30 for the change of layout. Assumed to be all that is waited for.
CHAIN_CYCLES = 93.0
# Cycles from asking for a word of memory to having it: 466 on A100, 479 on H100 (the same).
TRIP_CYCLES = 479.0
# Blocks of a grid (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"); where each takes
# steps of its own they are written out, and more of them would fill the memory here.
MOST_BLOCKS, _MOST_UNLIKE = (1 << 31) - 1, 1 << 22


def lay_grids(
    calls: Sequence[Call], gpu: Gpu, *, mapping: KernelMapping, tile: TileMapping | None = None
) -> Launch:
    """Return calls of a kernel that is described by grids laid on a GPU: its first launch, and those that follow.

    Args:
        calls: alike in what a step of a loop does; they may differ in how many blocks and steps there are.
        tile: of all grids; by default the one that each was compiled with for this GPU, or else the mapping's.

    Raises:
        MappingError: an expression that is none or names an unknown size, a type that nobody compiled, or calls that
            are not alike.
    """
    laid = [_lay(calls, gpu, mapping, grid, tile) for grid in mapping.grids]
    useful = np.array([float(_value(mapping.useful, c, {}, f"{mapping.name}: useful")) for c in calls])
    useful = np.where(useful > 0, useful, np.sum([each.flops for each in laid], axis=0))
    laid = [replace(each, flops=np.zeros(len(calls))) for each in laid]
    first = replace(laid[0], flops=useful, mapping=replace(laid[0].mapping, launches=len(laid)))
    return replace(first, then=tuple(laid[1:]))


def _lay(
    calls: Sequence[Call], gpu: Gpu, mapping: KernelMapping, grid: Grid, given: TileMapping | None
) -> Launch:
    call, where = calls[0], f"{mapping.name}: grids.{grid.name}"
    tile = given or _tile(mapping, grid, call, gpu)
    sides = {"block_m": tile.query, "block_n": tile.key, "operand_rows": tile.operand_rows}
    shapes = [_named(grid, c, sides, where) for c in calls]
    each = list(zip(calls, shapes, strict=True))
    works = [_work(grid.step, c, shape, where) for c, shape in each]
    if any(w != works[0] for w in works):
        raise MappingError(f"{where}: step: expected calls whose steps are alike; found different ones")
    work = works[0]
    scale = float(_value(grid.of_compiled, call, shapes[0], f"{where}: of_compiled"))
    tile = _on_its_path(_scaled(tile, scale), work["tensor"], gpu, call.dtype)
    pipes = step_pipes(gpu, tile, work, dtype=call.dtype)
    blocks = _blocks(each, grid, where)
    lanes = np.array([_whole(grid.lanes, c, shape, f"{where}: lanes") for c, shape in each])
    reads, writes, parts, partial = (
        np.array([float(_value(getattr(grid, name), c, shape, f"{where}: {name}")) for c, shape in each])
        for name in ("reads", "writes", "parts", "partial")
    )
    most = blocks_per_sm(gpu, tile)
    nothing = np.zeros(len(calls))
    full, masked, walked, runs = blocks
    counts = np.stack([(full * runs).sum(axis=1), (masked * runs).sum(axis=1), nothing]) * lanes
    if not counts.sum(axis=0).all():
        raise MappingError(f"{where}: expected a block that takes a step, found none for these sizes")
    return Launch(
        gpu=gpu,
        head_dim=call.head_dim,
        dtype=call.dtype,
        mapping=replace(mapping, order=grid.order, launches=1),
        tile=tile,
        tile_times=timed(gpu, tile, pipes, overlaps=mapping.overlaps),
        full=full,
        masked=masked,
        walked=walked,
        runs=runs,
        windowed=np.zeros(len(calls), dtype=np.bool_),
        counts=counts,
        copies=lanes,
        parts=parts,
        most=most,
        resident=np.clip(np.ceil(runs.sum(axis=1) * lanes / gpu.sms), 1, most),
        flops=work["tensor"] * counts.sum(axis=0),
        bytes_moved=reads + writes,
        bytes_appended=nothing,
        bytes_of_queries=writes,
        bytes_of_parts=np.where(parts > 1, PART_BYTES * partial, 0.0),
        elements_appended=nothing,
        footprint=reads + writes,
        chain_cycles=waited_cycles(work["chain"], work["trips"]),
        name=grid.name,
    )


def step_pipes(gpu: Gpu, tile: TileMapping, work: Mapping[str, float], *, dtype: str) -> dict[str, float]:
    """Return the cycles in which a step keeps each pipe of an SM busy.

    Args:
        work: of the step, by the names of `StepWork`.
    """
    flops = max(work["tensor"], compiled_flops(tile, BYTES[dtype]))
    return {
        "tensor": flops / (gpu.tensor.of(dtype) * tile.tensor_share),
        **(
            compiled(gpu, tile)
            or estimated(gpu, tile, exp=work["exp"], fma=work["fma"], alu=work["alu"], flops=flops)
        ),
        "shared": work["shared"] / gpu.shared_bytes_per_cycle,
        "l2": work["loads"] / l2_per_cycle(gpu) / READ_TOGETHER,
    }


def waited_cycles(chain: float, trips: float) -> float:
    """Return the cycles that a step takes at the least, for all that it waits for products and for memory."""
    return max(chain * CHAIN_CYCLES, trips * TRIP_CYCLES)


def _tile(mapping: KernelMapping, grid: Grid, call: Call, gpu: Gpu) -> TileMapping:
    kind: dict[str, Any] = {"head_dim": call.head_dim, "target": gpu.target, "dtype": call.dtype}
    found = compiled_tile(grid.compiled, **kind) if grid.compiled else None
    if found is not None:
        return found
    if mapping.tiles:
        habits: dict[str, Any] = {"causal": call.causal, "window": call.windowed, "direction": call.direction}
        return mapping.tile(**kind, **habits, grid=grid.name)
    made_for = compiled_targets(grid.compiled)
    here = made_for.get(gpu.target)
    known = f"expected {' or '.join(here)}" if here else f"expected a GPU of {', '.join(made_for) or 'none'}"
    raise MappingError(
        f"{mapping.name}: grids.{grid.name}: '{grid.compiled}' was not compiled for {call.dtype} on {gpu.target}; "
        f"{known}, or a mapping with tiles"
    )


def _scaled(tile: TileMapping, scale: float) -> TileMapping:
    """Return the tile whose compiled loop is as long as a step of this call."""
    made = tile.resources
    if made is None or made.loop is None or scale == 1.0:
        return tile
    loop = made.loop
    counts = {f.name: round(getattr(loop, f.name) * scale) for f in fields(loop)}
    return replace(tile, resources=replace(made, loop=replace(loop, **counts)))


def _on_its_path(tile: TileMapping, flops: float, gpu: Gpu, dtype: str) -> TileMapping:
    """Return the tile with the instructions that its products take: mma.sync where there are as many as that needs.

    A wgmma or tcgen05 does the work of many, so that a loop of those has far fewer.
    """
    loop = tile.resources.loop if tile.resources else None
    if loop is None or BYTES[dtype] != 2.0 or loop.tensor * tile.warps * MMA_FLOPS < flops:
        return tile
    share = min(tile.tensor_share, SYNC_SHARE.get(gpu.target, 1.0))
    return replace(tile, operand_rows=16, tensor_share=share)


def _blocks(
    calls: Sequence[tuple[Call, Mapping[str, float]]], grid: Grid, where: str
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return full, masked and walked steps of the runs of blocks of a lane, and how many blocks each run has."""
    numbers = [int(_whole(grid.blocks, c, shape, f"{where}: blocks")) for c, shape in calls]
    alike = not grid.each_block(grid.steps, grid.masked, where=where)
    most = MOST_BLOCKS if alike else _MOST_UNLIKE
    if max(numbers) > most:
        raise MappingError(f"{where}: blocks: expected at most {most:,}, found {max(numbers):,}")
    out = np.zeros((2, len(calls), 1 if alike else max(*numbers, 1)))
    for row, ((call, shape), n) in enumerate(zip(calls, numbers, strict=True)):
        width = 1 if alike else n
        names = shape if alike else _named(grid, call, {**shape, "i": np.arange(n, dtype=np.float64)}, where)
        steps = np.broadcast_to(_whole(grid.steps, call, names, f"{where}: steps"), width)
        masked = np.broadcast_to(_whole(grid.masked, call, names, f"{where}: masked"), width)
        if (masked > steps).any():
            raise MappingError(f"{where}: masked: expected no more than steps")
        out[0, row, :width], out[1, row, :width] = steps - masked, masked
    if alike:
        runs = np.where(out.sum(axis=0) > 0, np.array(numbers, dtype=np.float64)[:, None], 0.0)
        return out[0], out[1], np.zeros_like(runs), runs
    return merge(out[0], out[1], np.zeros(out[0].shape))


def _named(grid: Grid, call: Call, shape: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a tile's shape, or the number of a block too, and the parts of expressions that a grid names."""
    return grid.named({**names_of(call), **shape}, where=where)


def _whole(text: str | float, call: Call, more: Mapping[str, Any], where: str) -> Any:
    """Return a number of blocks or of steps, which no half of one is."""
    found = np.asarray(_value(text, call, more, where), dtype=np.float64)
    part = found[found != np.floor(found)]
    if part.size:
        raise MappingError(f"{where}: '{text}' is {part.flat[0]:g}; expected whole numbers, as of cdiv(a, b)")
    return found


def _work(step: StepWork, call: Call, shape: Mapping[str, float], where: str) -> dict[str, float]:
    found = {
        f.name: float(_value(getattr(step, f.name), call, shape, f"{where}: step.{f.name}"))
        for f in fields(step)
        if getattr(step, f.name) != ""
    }
    return {"shared": 2.0 * found["loads"], **found}


def _value(text: str | float, call: Call, more: Mapping[str, Any], where: str) -> Any:
    names = {**names_of(call), **more} if isinstance(text, str) else {}
    return value_of(text, names, where=where)
