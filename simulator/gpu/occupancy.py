"""Thread blocks that one SM holds at a time, from registers, shared memory, warps and tensor memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from einsum_cascade.errors import MappingError
from mappings.tiles import KernelResources, TileMapping

from ..hardware.gpu import Gpu
from .call import BYTES

_TENSOR_MEMORY_ROWS = 128  # lanes of tensor memory, each column 4 bytes wide: PTX ISA, tcgen05


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Resident blocks per SM and what allows no more of them; zero blocks means the kernel cannot be launched."""

    blocks: int
    limited_by: str
    limits: tuple[tuple[str, int], ...]


def occupancy(gpu: Gpu, resources: KernelResources, *, warps: int) -> Occupancy:
    """Return the blocks that one SM holds.

    Args:
        resources: of one block, as compiled.
        warps: of one block.

    Source: CUDA occupancy calculator: registers go to a warp in units of 256, warps in fours (one a scheduler),
        and every block takes 1 KiB of shared memory for the system.

    >>> from ..hardware.gpu import find_gpu
    >>> made = KernelResources(registers=250, shared_bytes=48 * 1024, made_by="table 2.1")
    >>> occupancy(find_gpu("a100"), made, warps=4)
    Occupancy(blocks=2, limited_by='registers', limits=(('warps', 16), ('blocks', 32), ('registers', 2), ('shared', 3)))
    """
    limits = {"warps": gpu.max_warps // warps, "blocks": gpu.max_blocks}
    if resources.registers:
        per_warp = math.ceil(resources.registers * 32 / gpu.register_granule) * gpu.register_granule
        warps_fit = int(gpu.registers_per_sm // per_warp) // 4 * 4
        limits["registers"] = warps_fit // warps
    if resources.shared_bytes:
        fits = resources.shared_bytes <= gpu.shared_bytes_per_block
        taken = resources.shared_bytes + gpu.shared_reserved_bytes
        limits["shared"] = int(gpu.shared_bytes_per_sm // taken) if fits else 0
    if gpu.tensor_memory_columns and resources.tensor_memory_columns:
        limits["tensor_memory"] = gpu.tensor_memory_columns // resources.tensor_memory_columns
    limited_by = min(limits, key=lambda name: limits[name])
    return Occupancy(limits[limited_by], limited_by, tuple(limits.items()))


def blocks_per_sm(gpu: Gpu, tile: TileMapping) -> int:
    """Return the blocks of a tile mapping that one SM holds: compiled resources where known, else the file's word.

    Raises:
        MappingError: not even one fits.
    """
    if tile.resources is None:
        return tile.blocks_per_sm
    held = occupancy(gpu, tile.resources, warps=tile.warps)
    if held.blocks < 1:
        raise MappingError(
            f"a block of {tile.query} x {tile.key} does not fit an SM of {gpu.name}: limited by {held.limited_by}"
        )
    return held.blocks


def require_fit(gpu: Gpu, tile: TileMapping, *, head_dim: int, dtype: str) -> None:
    """Refuse a tile that no compiler can make: a bound that holds before anything is compiled.

    Shared memory holds at least the queries and one key tile; the outputs of the tile are summed in fp32, in the
    registers of its threads or, for tcgen05, in tensor memory.

    Raises:
        MappingError: the least that the tile needs is more than the device has.

    >>> from ..hardware.gpu import find_gpu
    >>> require_fit(find_gpu("h100"), TileMapping(query=128, key=128, warps=8), head_dim=128, dtype="bf16")
    """
    place = f"a tile of {tile.query} x {tile.key} with head_dim {head_dim}, {dtype}, does not fit {gpu.name}"
    shared = (tile.query + tile.key) * head_dim * BYTES[dtype]
    if shared > gpu.shared_bytes_per_block:
        limit = int(gpu.shared_bytes_per_block)
        raise MappingError(
            f"{place}: {int(shared):,} bytes of shared memory at the least, expected up to {limit:,}"
        )
    if gpu.tensor_memory_columns and tile.operand_rows >= _TENSOR_MEMORY_ROWS:
        columns = tile.query * head_dim / _TENSOR_MEMORY_ROWS
        if columns > gpu.tensor_memory_columns:
            raise MappingError(
                f"{place}: {columns:.0f} columns of tensor memory, expected up to {gpu.tensor_memory_columns}"
            )
        return
    registers = tile.query * head_dim / (32 * tile.warps)
    if registers > gpu.max_registers:
        raise MappingError(
            f"{place}: {registers:.0f} registers a thread for the outputs alone, expected up to {gpu.max_registers}"
        )
