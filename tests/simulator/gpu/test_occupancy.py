"""Blocks per SM against worked sums and against what the compiler's own tables say."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import MappingError
from mappings.tiles import KernelResources, TileMapping
from simulator.gpu.occupancy import blocks_per_sm, occupancy, require_fit
from simulator.hardware.gpu import find_gpu


def made(registers: int, shared_kib: float) -> KernelResources:
    return KernelResources(registers=registers, shared_bytes=int(shared_kib * 1024), made_by="test")


# The column CTA/SM of the table of compiled forward kernels: target's device, registers, KiB, warps -> blocks.
# First row: 250 registers -> 256 x 32 = 8192 a warp -> 8 warps -> 2 blocks of 4 warps; 164 KiB / 49 KiB = 3.
COMPILED = [
    ("a100", 250, 48, 4, 2),
    ("a100", 255, 64, 4, 2),
    ("a100", 202, 96, 8, 1),
    ("a100", 32, 160, 4, 1),
    ("h100", 187, 64, 4, 2),
    ("h100", 252, 128, 4, 1),
    ("h100", 188, 160, 8, 1),
]


@pytest.mark.parametrize(("device", "registers", "kib", "warps", "blocks"), COMPILED)
def test_blocks_per_sm_of_compiled_kernels(device, registers, kib, warps, blocks):
    assert occupancy(find_gpu(device), made(registers, kib), warps=warps).blocks == blocks


def test_what_limits_is_named():
    h100 = find_gpu("h100")
    assert occupancy(h100, made(64, 100), warps=4).limited_by == "shared"  # 228 / 101 = 2; registers allow 8
    assert occupancy(h100, made(255, 1), warps=4).limited_by == "registers"
    assert occupancy(h100, made(16, 0), warps=1).limited_by == "blocks"
    assert occupancy(h100, made(16, 0), warps=8).limited_by == "warps"
    columns = KernelResources(registers=64, shared_bytes=1024, made_by="test", tensor_memory_columns=512)
    assert occupancy(find_gpu("b200"), columns, warps=4).limited_by == "tensor_memory"


def test_a_block_larger_than_an_sm_cannot_be_launched():
    assert occupancy(find_gpu("l40s"), made(64, 120), warps=4).blocks == 0


def test_without_compiled_resources_the_file_is_believed():
    tile = TileMapping(query=128, key=64, blocks_per_sm=3)
    assert blocks_per_sm(find_gpu("h100"), tile) == 3


def test_a_mapping_that_does_not_fit_is_refused():
    tile = TileMapping(query=128, key=128, resources=made(64, 120))
    with pytest.raises(MappingError, match="limited by shared"):
        blocks_per_sm(find_gpu("l40s"), tile)


@pytest.mark.parametrize(
    ("device", "tile", "head_dim", "says"),
    [
        (
            "h100",
            TileMapping(query=64, key=64, warps=16),
            1024,
            "shared memory",
        ),  # 128 rows of 2 KiB: 256 KiB
        ("h100", TileMapping(query=128, key=16, warps=8), 512, "256 registers"),
        (
            "b200",
            TileMapping(query=256, key=16, warps=16, operand_rows=128),
            384,
            "768 columns of tensor memory",
        ),
    ],
)
def test_a_tile_that_no_compiler_can_make_is_refused(device, tile, head_dim, says):
    with pytest.raises(MappingError, match=says):
        require_fit(find_gpu(device), tile, head_dim=head_dim, dtype="bf16")
