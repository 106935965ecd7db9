"""Occupancy and pipe cycles from compiled resources: against published analyses of the same builds, and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from einsum_cascade.errors import MappingError
from mappings.compiled import with_compiled
from mappings.gpu import find_kernel_mapping
from mappings.tiles import KernelResources, LoopWork, TileMapping
from simulator.gpu.call import make_call
from simulator.gpu.model import lay, predict
from simulator.gpu.occupancy import occupancy
from simulator.gpu.tile import tile_time
from simulator.hardware.gpu import find_gpu

PUBLISHED = pd.read_csv(Path(__file__).parent / "tutorial_cycles.csv")
ROWS = list(PUBLISHED.itertuples(index=False))
DEVICES = {"sm_80": "a100", "sm_90": "h100"}
TRITON = find_kernel_mapping("flash_attention", "triton")


def compiled_tile(row, mapping=TRITON) -> TileMapping:
    tile = TileMapping(
        query=row.block_m,
        key=row.block_n,
        warps=row.warps,
        stages=row.stages,
        operand_rows=16 if row.target == "sm_80" else 64,
    )
    causal = row.variant == "causal"
    return with_compiled(
        mapping,
        tile,
        head_dim=row.head_dim,
        target=row.target,
        dtype="bf16",
        causal=causal,
        window=False,
    )


# The published analysis counts four blocks at the most, and one where two leave no byte of shared memory:
# 2 x (115,712 + 1,024) bytes are the 228 KiB of an SM, which the occupancy calculator allows.
MOST_PUBLISHED = 4
TO_THE_LAST_BYTE = (64, 64, 128, 3, "sm_90")


def test_published_occupancy():
    ours = [
        occupancy(find_gpu(DEVICES[r.target]), compiled_tile(r).resources, warps=r.warps).blocks for r in ROWS
    ]
    full = [(r.block_m, r.block_n, r.head_dim, r.stages, r.target) == TO_THE_LAST_BYTE for r in ROWS]
    assert sum(full) == 2
    expected = [2 if last else r.blocks_per_sm for r, last in zip(ROWS, full, strict=True)]
    assert [min(n, MOST_PUBLISHED) for n in ours] == expected


def test_published_cycles():
    for row in ROWS:
        time = tile_time(
            find_gpu(DEVICES[row.target]), compiled_tile(row), head_dim=row.head_dim, dtype="bf16",
            per_score=TRITON.per_score,
        )  # fmt: skip
        pipes = dict(time.pipes)
        assert (pipes["exp"], pipes["alu"], pipes["issue"]) == (row.exp, row.alu, row.issue)
        # The published count of this pipe holds instructions of addresses too.
        assert pipes["fma"] <= row.fma
        # On sm_80 warps beyond the tile's rows repeat products: 8 warps on 64 rows. The published count of wgmma holds
        # waiting for operands in shared memory, which is a pipe of its own here.
        assert pipes["tensor"] == row.tensor if row.target == "sm_80" else pipes["tensor"] <= row.tensor


def test_the_result_says_where_resources_come_from():
    sizes = {"batch": 4, "heads": 32, "seq_q": 4096, "seq_kv": 4096, "head_dim": 128}
    known = predict("flash_attention", on="h100", **sizes, causal=True).resources
    # 215 registers -> 216 x 32 = 6912 a warp, 9 warps of 65536, in fours 8: one block of 8 warps.
    assert (known["registers"], known["blocks_per_sm"], known["limited_by"]) == (215, 1, "registers")
    assert known["resources"].startswith("compiled sm_90 ")
    # A head of 80 is padded to 128, in the kernel that is compiled for that; nobody compiled the one for 32.
    assert predict("flash_attention", on="h100", **{**sizes, "head_dim": 80}, causal=True).resources == known
    unknown = predict("flash_attention", on="h100", **{**sizes, "head_dim": 32}, causal=True).resources
    assert unknown["resources"] == "estimated"
    decode = predict("flash_decode", on="b200", **{**sizes, "seq_q": 1, "kv_heads": 8}).resources
    # 128 registers x 32 = 4096 a warp, 16 warps: four blocks of 4; 228 KiB / 39 KiB would hold five.
    assert (decode["blocks_per_sm"], decode["limited_by"]) == (4, "registers")
    assert decode["resources"] == "compiled sm_100 cascade kernels compile, triton 3.9.0"


def test_any_tile_of_the_tables_can_be_asked_for():
    tile = TileMapping(query=64, key=32, warps=4, stages=2, operand_rows=16)
    asked = predict(
        "flash_attention", on="a100", tile=tile, batch=1, heads=8, seq_q=4096, head_dim=64, causal=True
    ).resources
    # 130 registers -> 136 x 32 = 4352 a warp, 15 warps, in fours 12: three blocks of 4 warps.
    assert (asked["registers"], asked["blocks_per_sm"]) == (130, 3)


def test_what_a_file_states_wins():
    own = KernelResources(registers=64, shared_bytes=1024, made_by="by hand")
    tile = replace(TRITON.tiles[4], resources=own)
    call = make_call(batch=1, heads=8, seq_q=4096, head_dim=128)
    assert lay([call], find_gpu("h100"), mapping=TRITON, tile=tile).tile.resources is own


def test_a_compiled_block_that_does_not_fit_is_refused():
    tile = TileMapping(query=128, key=128, warps=8, stages=4, operand_rows=16)
    with pytest.raises(MappingError, match="limited by shared"):
        predict("flash_attention", on="a100", tile=tile, batch=1, heads=8, seq_q=4096, head_dim=128)


def loop_tile(loop: LoopWork, **made) -> TileMapping:
    resources = KernelResources(registers=128, shared_bytes=65536, made_by="test", loop=loop, **made)
    return TileMapping(query=128, key=64, warps=4, resources=resources)


def test_spills_cost_the_cache_that_holds_them():
    gpu = find_gpu("a100")
    work = {"head_dim": 64, "dtype": "fp16", "per_score": TRITON.per_score}
    loop = LoopWork(instructions=600, special=68, fma=212, alu=240, local=100)
    near = dict(tile_time(gpu, loop_tile(loop, stack_bytes=64), **work).pipes)["spills"]
    # 100 instructions x 128 lanes x 4 bytes at 128 bytes a cycle.
    assert near == 400.0
    far = dict(tile_time(gpu, loop_tile(loop, stack_bytes=4096), **work).pipes)["spills"]
    per_cycle = gpu.l2_bandwidth_bytes_per_s / gpu.sms / gpu.clock_hz
    assert far == pytest.approx(51200 / per_cycle)
    assert "spills" not in dict(tile_time(gpu, loop_tile(replace(loop, local=0)), **work).pipes)
    call = make_call(batch=1, heads=8, seq_q=4096, head_dim=64)
    good, bad = (
        predict("flash_attention", on="a100", tile=loop_tile(each, stack_bytes=4096), batch=1, heads=8,
                seq_q=call.seq_q, head_dim=64)
        for each in (replace(loop, local=0), replace(loop, local=4000))
    )  # fmt: skip
    assert bad.latency_s > good.latency_s
    assert bad.bound_by == "spills"
    assert any("spills" in text for text in bad.assumptions)


def test_a_masked_tile_costs_the_instructions_of_its_own_loop():
    gpu = find_gpu("h100")
    loop = LoopWork(instructions=554, special=68, fma=228, alu=123, masked_instructions=2000)
    work = {"head_dim": 64, "dtype": "fp16", "per_score": TRITON.per_score}
    time = tile_time(gpu, loop_tile(loop), **work)
    assert time.masked == 2000.0  # 4 warps on 4 schedulers
    assert tile_time(gpu, loop_tile(replace(loop, masked_instructions=0)), **work).masked == time.bound


MODIFIED = ["soft-cap", "alibi", "relative-bias", "toeplitz"]


@pytest.mark.parametrize("on", ["a100", "h100", "b200"])
@pytest.mark.parametrize("word", MODIFIED)
def test_modified_scores_take_longer_in_a_forward_pass(word, on):
    """By the instructions of their own loop: no file says what a modification costs."""
    sizes = {"batch": 8, "heads": 16, "seq_q": 4096, "head_dim": 128, "causal": True}
    plain, modified = (
        predict("flash_attention", on=on, implementation=name, **sizes)
        for name in ("triton-cascade", f"triton-cascade {word}")
    )
    assert modified.latency_s > plain.latency_s
    assert modified.resources["resources"].startswith("compiled")


def test_what_a_modification_does_to_a_backward_pass_is_not_known():
    sizes = {"batch": 8, "heads": 16, "seq_q": 4096, "head_dim": 128, "direction": "bwd"}
    plain, modified = (
        predict("flash_attention", on="h100", implementation=name, **sizes)
        for name in ("triton-cascade", "triton-cascade alibi")
    )
    assert modified.latency_s == plain.latency_s


def test_the_largest_head_that_a_message_names_is_one_of_that_type() -> None:
    with pytest.raises(MappingError, match="head_dim 192, fp32 on sm_80; expected a head_dim up to 128"):
        predict(
            "flash_attention", on="a100", implementation="triton-cascade",
            batch=1, heads=2, seq_q=4096, head_dim=192, dtype="fp32",
        )  # fmt: skip
