"""Habits of kernels that mappings state: overlap, types of products, keys as given, a cache left alone, packing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mappings.gpu import CacheCopy, PerScore, TileMapping, find_kernel_mapping
from simulator.gpu.call import make_call
from simulator.gpu.model import lay
from simulator.gpu.tile import tile_time
from simulator.hardware.gpu import find_gpu

H100 = find_gpu("h100")
SERVED = find_kernel_mapping("flash_attention", "vllm-0.24.0:vllm_flash_attn_fa3")
CALL = make_call(batch=2, heads=8, kv_heads=2, seq_q=2048, head_dim=128, causal=1, kv_dtype="fp8")


def test_without_overlap_products_and_softmax_add_up():
    work = {"head_dim": 128, "dtype": "bf16", "per_score": PerScore()}
    tile = TileMapping(query=128, key=128, warps=8)
    # 4 x 128 x 128 x 128 operations at 4096 a cycle, 128 x 128 exponentials at 16.
    assert tile_time(H100, tile, **work).bound == 2048.0
    assert tile_time(H100, tile, **work, overlaps=False).bound == 2048.0 + 1024.0


def test_the_l2_cache_is_a_ceiling_that_no_efficiency_moves():
    tile = TileMapping(query=16, key=64, warps=4, operand_rows=16)
    time = tile_time(H100, tile, head_dim=128, dtype="bf16", per_score=PerScore())
    assert time.seconds(1e9, 1e9) == pytest.approx(time.l2 / 1e9)
    assert time.seconds(1e9, 0.01) == pytest.approx(time.bound / 0.01 / 1e9)


def test_products_in_the_type_of_a_narrow_cache_run_at_its_rate():
    tile = TileMapping(query=128, key=128, warps=8)
    cycles = [
        dict(lay([CALL], H100, mapping=replace(SERVED, narrow=n), tile=tile).tile_times.pipes)["tensor"]
        for n in ((), ("sm_90",), ("sm_100",))
    ]
    assert cycles == [2048.0, 1024.0, 2048.0]


def test_keys_as_given_are_read_at_the_width_of_the_queries():
    tile = TileMapping(query=128, key=128, warps=8)
    cached, given = (
        lay([CALL], H100, mapping=replace(SERVED, reads_given=g), tile=tile).tile_times.l2
        for g in (False, True)
    )
    assert given == 2 * cached


def test_a_cache_left_alone_costs_nothing():
    alone = lay([CALL], H100, mapping=replace(SERVED, copies=(CacheCopy("none"),)))
    assert alone.bytes_appended[0] == alone.elements_appended[0] == 0.0
    assert lay([CALL], H100, mapping=SERVED).bytes_appended[0] > 0


def test_a_tile_may_say_otherwise_than_its_mapping_whether_heads_are_packed():
    tile = TileMapping(query=128, key=128, warps=8)
    packed = lay([CALL], H100, mapping=SERVED, tile=tile)
    apart = lay([CALL], H100, mapping=SERVED, tile=replace(tile, pack=False))
    # 2 x 2 groups of 4 heads x 2048 rows, or 2 x 8 heads x 2048 rows, in tiles of 128.
    assert packed.copies[0] == 4 * packed.parts[0]
    assert apart.copies[0] == 16 * apart.parts[0]
