"""What a block holds, worked by hand: operands in shared memory, the rest in registers, and what fits an SM."""

from __future__ import annotations

import pytest

from einsum_cascade import parse, zoo
from einsum_cascade.analysis.points import known_sizes
from simulator.gpu.fusion.held import Held, held_of, registers_of, spilt_of
from simulator.gpu.fusion.predict import case_of, kernels_of
from simulator.gpu.fusion.structure import structure_of, units_of
from simulator.gpu.fusion.tiling import Tiling
from simulator.hardware.gpu import find_gpu

H100 = find_gpu("h100")
ROWS = "cascade rows\nrank M P\ninput X[P, M]\noutput Y[P]\nY[p] = X[p, m] :: max(m)"
# Bytes of the 30 registers that a thread has for itself.
OWN = 30 * 32 * 4


def held(cascade, sizes, tile, gpu=H100, **more):
    known = known_sizes(cascade, sizes)
    structure = structure_of(cascade, units_of(cascade))
    return held_of(Tiling(case_of(cascade, known, "bf16"), structure, tile, **more), gpu)


def test_a_product_has_three_stages_of_both_sides_in_shared_memory_and_its_sums_in_registers():
    found = held(zoo.load("gemm"), "M=4K,N=4K,K=4K", {"m": 128, "n": 128})
    # (128 + 128) x 64 terms of 2 bytes, three times; 128 x 128 sums in fp32 on eight warps.
    assert found == Held(3 * 256 * 64 * 2, 128 * 128 * 4 + 8 * OWN, 128 * 128, 8)
    assert found.fits(H100)
    # 228 KiB hold 96 KiB twice.
    assert found.blocks(H100) == 2


@pytest.mark.parametrize(
    ("on", "rows", "stages"), [("a100", 128, 2), ("h100", 64, 3), ("h100", 32, 2), ("b200", 64, 2)]
)
def test_products_that_a_group_of_warps_does_together_have_a_stage_more(on, rows, stages):
    """Of mma.sync a tile is in registers when it is multiplied; groups of warps read it from shared memory."""
    found = held(zoo.load("gemm"), "M=4K,N=4K,K=4K", {"m": rows, "n": 128}, find_gpu(on))
    assert found.shared == stages * (rows + 128) * 64 * 2


def test_a_sum_without_a_product_is_loaded_into_registers():
    found = held(parse(ROWS), "P=1K,M=64K", {"p": 8}, step=1024)
    assert found == Held(0.0, 8 * 1024 * 2 + 8 * 4 + 4 * OWN, 8 * 1024, 4)


def test_what_moves_in_the_inner_walk_of_a_head_is_whole():
    """Keys of 128 dimensions are taken at once beside 64 queries, of 300 dimensions 64 at a time."""
    attention = zoo.load("attention_1pass")
    by_head = {e: held(attention, f"E={e},F=64,M0=64,M1=64,P=4K", {"p": 64}).shared for e in (128, 300)}
    keys, values = 3 * 64 * 2, 3 * 64 * 64 * 2
    assert by_head[128] == 64 * 128 * 2 + keys * 128 + values
    assert by_head[300] == 64 * 300 * 2 + keys * 64 + values


@pytest.mark.parametrize(("warps", "most"), [(4, 255 * 128 * 4), (8, 255 * 256 * 4), (16, 64 * 1024 * 4)])
def test_registers_beyond_what_a_thread_can_have_are_written_and_read_again(warps, most):
    assert registers_of(H100, warps) == most
    assert spilt_of(Held(0, most, 1, warps), H100) == 0
    assert spilt_of(Held(0, most + 4096, 1, warps), H100) == 2 * 4096
    assert not Held(0, most + 1, 1, warps).fits(H100)


def test_a_tile_that_a_thread_has_too_much_of_does_not_fit():
    assert Held(0, 0, 512 * 128, 4).fits(H100)
    assert not Held(0, 0, 512 * 128 + 1, 4).fits(H100)


@pytest.mark.parametrize("on", ["a10", "l40s", "h100", "b200"])
def test_kernels_of_a_plan_fit_the_chip_that_they_are_for(on):
    """99 KiB of shared memory a block on some, 227 on others."""
    gpu = find_gpu(on)
    for name in ("attention_3pass", "gemm"):
        sizes = "M=4K,N=4K,K=4K" if name == "gemm" else "E=128,F=128,M=4K,P=4K,H=8"
        for kernel in kernels_of(zoo.load(name), sizes, gpu):
            assert kernel.work.held.fits(gpu)
            assert kernel.work.held.shared <= gpu.shared_bytes_per_block
