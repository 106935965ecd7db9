"""Habits of kernels that mappings state: overlap, types of products, keys as given, a cache left alone, packing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappings.gpu import CacheCopy, find_kernel_mapping
from mappings.tiles import PerScore, TileMapping
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.model import lay
from simulator.gpu.tile import tile_time
from simulator.hardware.gpu import find_gpu

H100 = find_gpu("h100")
IDEAL = Efficiency(scalar=1.0, launch_s=1e-9, block_cycles=0.0, memory=1.0)
SERVED = find_kernel_mapping("flash_attention", "vllm-0.24.0:vllm_flash_attn_fa3")
CALL = make_call(batch=2, heads=8, kv_heads=2, seq_q=2048, head_dim=128, causal=1, kv_dtype="fp8")


def test_without_overlap_products_and_softmax_add_up():
    work = {"head_dim": 128, "dtype": "bf16", "per_score": PerScore()}
    tile = TileMapping(query=128, key=128, warps=8)
    # 4 x 128 x 128 x 128 operations at 4096 a cycle, 128 x 128 exponentials at 16. Of two groups of 64 rows that take
    # turns at them one often finds the other there: (2048^2 + 2048 x 1024 + 1024^2) / (2048 + 1024).
    assert tile_time(H100, tile, **work).bound == pytest.approx(7168 / 3, rel=1e-12)
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
    assert packed.copies[0] == 4
    assert apart.copies[0] == 16


def parts_by_search(call, sms, rows):
    """The host's plan as its source reads: the shortest part of keys with which all blocks fit two an SM."""
    tiles = call.batch * -(-call.seq_q * call.group // rows)
    for part in range(128, call.seq_kv):
        if tiles * -(-call.seq_kv // part) <= 2 * sms // call.key_heads:
            return -(-call.seq_kv // part)
    return 1


def test_keys_are_split_as_the_host_plans_it():
    planned = find_kernel_mapping("flash_attention", "sglang-0.5.14:flashinfer")
    gpu, seen = find_gpu("l40s"), set()
    for batch, heads, kv_heads, n in itertools.product(
        (1, 4, 32), (2, 16), (1, 2), (64, 200, 256, 1000, 4096)
    ):
        call = make_call(batch=batch, heads=heads, kv_heads=kv_heads, seq_q=n, head_dim=128, causal=1)
        parts = int(lay([call], gpu, mapping=planned).parts[0])
        assert parts == parts_by_search(call, gpu.sms, 128), call
        seen.add(parts)
    assert {1, 2} < seen  # some are left whole, some are cut in two, some in more


SPLITTING = ["sglang-0.5.14:flashinfer", "vllm-0.24.0:vllm_flashinfer_fiprefill", "sglang-0.5.14:fa3"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SPLITTING),
    st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 8]), st.sampled_from([1, 4])),
    st.tuples(st.integers(1, 900), st.integers(0, 9000)),
    st.sampled_from([64, 128, 256]),
    st.booleans(),
    st.sampled_from([0, 0, 128, 1024]),
)
def test_parts_of_the_keys_hold_each_tile_once(name, copies, lengths, head_dim, causal, window):
    (batch, kv_heads, group), (seq_q, more) = copies, lengths
    mapping, gpu = find_kernel_mapping("flash_attention", name), find_gpu("h100")
    call = make_call(batch=batch, heads=kv_heads * group, kv_heads=kv_heads, seq_q=seq_q, seq_kv=seq_q + more,
                     head_dim=head_dim, causal=causal, window=window)  # fmt: skip
    found = lay([call], gpu, mapping=mapping)
    whole = lay([call], gpu, mapping=replace(mapping, split_keys=False))
    tiles, blocks = found.full + found.masked, found.blocks_of_run
    assert (tiles * blocks).sum() == pytest.approx(((whole.full + whole.masked) * whole.blocks_of_run).sum())
    assert (found.masked * blocks).sum() == pytest.approx((whole.masked * whole.blocks_of_run).sum())
    assert (tiles[blocks > 0] > 0).all()
    assert whole.blocks[0] <= found.blocks[0] <= found.parts[0] * whole.blocks[0]
    # The longest part is a share of what the longest block visits, in whole tiles.
    longest = float((whole.full + whole.masked).max())
    assert tiles.max() <= 1e-9 + max(
        np.ceil(longest / found.parts[0]), np.ceil(call.seq_kv / found.parts[0] / found.tile.key)
    )
    if found.parts[0] == 1:
        assert times(found, IDEAL).latency_s == pytest.approx(times(whole, IDEAL).latency_s, rel=1e-12)


def test_a_block_of_few_keys_is_cut_into_no_more_parts_than_it_has_tiles():
    # 1024 causal queries of one group of 8: tiles of 64 rows see 8 queries, and 128 + 64 keys at the most by the plan.
    mapping = find_kernel_mapping("flash_attention", "vllm-0.24.0:vllm_flashinfer_fiprefill")
    sizes = {"batch": 1, "heads": 8, "kv_heads": 1, "seq_q": 512, "head_dim": 256, "causal": 1}
    windowed = lay([make_call(**sizes, seq_kv=16384, window=128)], find_gpu("l40s"), mapping=mapping)
    dense = lay([make_call(**sizes, seq_kv=16384)], find_gpu("l40s"), mapping=mapping)
    assert windowed.parts[0] == 2
    assert dense.parts[0] == 4  # 64 query tiles, 284 slots
    # A window that the plan does not see: all parts are of the whole cache.
    blind = lay(
        [make_call(**sizes, seq_kv=16384, window=128)],
        find_gpu("l40s"),
        mapping=replace(mapping, skips_window=False),
    )
    assert blind.parts[0] == 4


@pytest.mark.parametrize("implementation", ["sglang-0.5.14:flashinfer", "sglang-0.5.14:fa3"])
def test_nobody_splits_a_backward_pass(implementation):
    mapping = find_kernel_mapping("flash_attention", implementation)
    call = make_call(batch=1, heads=8, kv_heads=1, seq_q=2, seq_kv=16384, head_dim=128)
    gpu = find_gpu("h100")
    assert lay([call], gpu, mapping=mapping).parts[0] > 1
    # Each block owns a key tile of one of 8 heads and walks over the one tile of queries.
    backward = lay([call], gpu, mapping=mapping, direction="bwd")
    assert backward.parts[0] == 1
    assert backward.blocks[0] == 8 * 16384 / backward.tile.query
    assert ((backward.full + backward.masked) * backward.blocks_of_run).sum() == backward.blocks[0]


def test_parts_are_written_and_read_once_more():
    planned = find_kernel_mapping("flash_attention", "sglang-0.5.14:flashinfer")
    sizes = {"batch": 4, "heads": 16, "kv_heads": 8, "head_dim": 128, "causal": 1}
    split, whole = (lay([make_call(seq_q=n, **sizes)], find_gpu("l40s"), mapping=planned) for n in (256, 512))
    assert split.parts[0] == 2
    assert split.bytes_of_parts[0] == 2 * 4 * 4 * 16 * 256 * 128  # fp32 there and back, of every output
    assert whole.parts[0] == 1
    assert whole.bytes_of_parts[0] == 0
    costs = [
        times(replace(split, bytes_of_parts=split.bytes_of_parts * k), IDEAL).latency_s[0] for k in (0, 1)
    ]
    expected = split.bytes_of_parts[0] / split.gpu.memory_bandwidth_bytes_per_s
    assert costs[1] - costs[0] == pytest.approx(expected, rel=1e-9)


def test_a_tile_of_another_kernel_of_the_family_has_habits_of_its_own():
    mapping = find_kernel_mapping("flash_attention", "cudnn-92200")
    call = {"head_dim": 128, "dtype": "bf16", "causal": True, "window": False}
    hopper, blackwell = (mapping.of_tile(mapping.tile(target=t, **call)) for t in ("sm_90", "sm_100"))
    assert (hopper.order, blackwell.order) == ("launch", "longest_first")
    with pytest.raises(ValueError, match="order: expected one of longest_first, launch"):
        TileMapping(query=128, key=128, order="first_come")


def test_open_and_inference_kernels_of_cudnn_are_laid_by_files_of_their_own():
    names = ("cudnn-92200.0", "cudnn-9.27", "cudnn-oss-sm80", "cudnn")
    found = [find_kernel_mapping("flash_attention", n) for n in names]
    assert [m.order for m in found] == ["launch", "launch", "longest_first", "launch"]
    assert [m.hides_ends for m in found] == [False, True, False, False]


def test_hidden_ends_leave_a_block_its_tiles_and_its_fixed_cost():
    tile, fixed = TileMapping(query=128, key=128, warps=8), replace(IDEAL, block_cycles=1000.0)
    call = make_call(batch=1, heads=H100.sms * 2, seq_q=128, seq_kv=128, head_dim=128)
    mapping = replace(find_kernel_mapping("flash_attention", "cudnn"), hides_ends=True)
    hidden = times(lay([call], H100, mapping=mapping, tile=tile), fixed).compute_s[0]
    # Two blocks an SM one after the other, each 1000 cycles and one tile of 7168 / 3: two groups of 64 rows in turns at
    # 2048 cycles of products and 1024 of exponentials; at the clock of a short launch.
    assert hidden == pytest.approx(2 * (1000 + 7168 / 3) / H100.clock_hz, rel=1e-3)
    shown = times(lay([call], H100, mapping=replace(mapping, hides_ends=False), tile=tile), fixed)
    # Its queries and outputs at the SM's share of the L2 rate, and the softmax that nothing hides: 3072.
    l2 = 2 * 128 * 128 * 2 / (H100.l2_bandwidth_bytes_per_s / H100.sms) * H100.clock_hz
    assert shown.compute_s[0] == pytest.approx(2 * (1000 + l2 + 3072) / H100.clock_hz, rel=1e-3)


def test_the_ends_of_a_lone_block_pass_the_port_of_its_sm():
    tile, fixed = TileMapping(query=128, key=128, warps=8), replace(IDEAL, block_cycles=0.0)
    call = make_call(batch=1, heads=1, seq_q=128, seq_kv=128, head_dim=128)
    slow = replace(H100, l2_bandwidth_bytes_per_s=1e12)
    mapping = replace(find_kernel_mapping("flash_attention", "cudnn"), hides_ends=False)
    alone = times(lay([call], slow, mapping=mapping, tile=tile), fixed).compute_s[0]
    # Queries and outputs at 64 bytes a cycle, not at the 4.3 of an even share; a tile; the softmax that nothing hides.
    cycles = 2 * 128 * 128 * 2 / 64 + 2048 + 1024
    assert alone == pytest.approx(cycles / slow.clock_hz, rel=1e-3)
