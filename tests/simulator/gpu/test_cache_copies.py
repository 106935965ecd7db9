"""How frameworks copy into the cache, and into how many parts kernels split keys."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappings.gpu import CacheCopy, find_kernel_mapping
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.model import lay
from simulator.gpu.splits import _parts
from simulator.hardware.gpu import find_gpu

SIZES = {"batch": 4, "heads": 16, "kv_heads": 2, "seq_q": 1024, "head_dim": 128, "causal": True}


def laid(implementation: str, gpu: str = "h100", **sizes):
    call = make_call(**{**SIZES, **sizes})
    return lay([call], find_gpu(gpu), mapping=find_kernel_mapping("flash_attention", implementation))


@pytest.mark.parametrize(
    ("implementation", "gpu", "elements"),
    [
        ("vllm-0.24.0:vllm_flash_attn_fa3", "h100", 2 * 4 * 1024 * 256),  # 2 heads of 128: below 512 threads
        ("sglang-0.5.14:fa3", "h100", 2 * 4 * 1024 * 256),
        ("trtllm-1.3.0rc20:torch_flow", "h100", 4 * 1024 * 16 * 128),
        ("trtllm-1.3.0rc20:torch_flow", "l40s", 4 * 1024 * (16 + 2 * 2) * 128),
        ("cuda-fa3", "h100", 0),
    ],
)
def test_elements(implementation, gpu, elements):
    assert laid(implementation, gpu).elements_appended[0] == elements


def test_a_block_of_threads_a_token():
    wide = laid("vllm-0.24.0:vllm_flash_attn_fa3", kv_heads=16)
    assert wide.elements_appended[0] == 2 * 4 * 1024 * 512
    narrow = laid("sglang-0.5.14:fa3", kv_heads=1)
    assert narrow.elements_appended[0] == 2 * 4 * 1024 * 256


def test_a_narrow_cache_is_written_out():
    same = laid("vllm-0.24.0:vllm_flashinfer_trtllmprefill", "b200", dtype="bf16", kv_dtype="bf16")
    narrow = laid("vllm-0.24.0:vllm_flashinfer_trtllmprefill", "b200", dtype="bf16", kv_dtype="fp8")
    elements = 2 * 4 * 1024 * 2 * 128
    # The cache is written in one byte less an element, then read in one byte and written in two.
    assert narrow.bytes_appended[0] - same.bytes_appended[0] == elements * (3 - 1)


def test_copy_cycles_are_seconds_of_all_multiprocessors():
    one = laid("trtllm-1.3.0rc20:torch_flow")
    slow = times(one, Efficiency(0.6, memory=1e6, copy_cycles=2.0)).append_s[0]
    gpu = one.gpu
    assert slow == pytest.approx(2.0 * one.elements_appended[0] / (gpu.sms * gpu.clock_hz), rel=1e-6)


def test_the_first_copy_that_serves_the_target_is_taken():
    mapping = find_kernel_mapping("flash_attention", "trtllm-1.3.0rc20:torch_flow")
    assert mapping.copy("sm_90").works_on == "queries"
    assert mapping.copy("sm_89").works_on == "all"
    with pytest.raises(ValueError, match="works_on"):
        CacheCopy(works_on="values")


def published_splits(blocks: int, tiles: int, sms: int) -> int:
    """Return FlashAttention-3's number of splits, transcribed loop by loop from its heuristics."""
    best, efficiency = 0.0, []
    for splits in range(1, min(128, sms, tiles) + 1):
        waves = blocks * splits / sms
        efficiency.append(waves / math.ceil(waves))
        best = max(best, efficiency[-1])
    static = next(i + 1 for i, e in enumerate(efficiency) if e >= 0.85 * best)
    per_sm = math.ceil(blocks * tiles * 1.1 / sms)
    return min(static, math.ceil(tiles / per_sm))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 120), st.integers(5, 400), st.sampled_from([78, 108, 132, 148]))
def test_splits_are_the_published_heuristics(blocks, tiles, sms):
    assert _parts(float(blocks), tiles, sms) == published_splits(blocks, tiles, sms)


def test_splitting_keeps_the_tiles_and_pays_for_the_sum():
    few = laid("sglang-0.5.14:fa3", batch=1, heads=2, kv_heads=1, seq_q=1536)
    assert few.parts[0] > 1
    assert few.blocks[0] <= few.gpu.sms
    alone = np.where(few.parts > 1, 3e-6, 0.0)
    assert times(few, Efficiency(0.6)).latency_s[0] > alone[0]
