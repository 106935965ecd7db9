"""The CPU model's counts, worked by hand, and its arithmetic."""

from __future__ import annotations

import pytest

from validation.cpu import Problem, Sweep, Work, blocked, chunked, fused, materialised, predicted_s

RATES = {
    "threads": 1,
    "tile_gemm_flops_per_s": 1e9,
    "exp_per_s": 1e8,
    "copy_bytes_per_s": 1e9,
    "cached_copy_bytes_per_s": 4e9,
    "fresh_bytes_per_s": 1e8,
}


def test_fused_causal_attention_runs_whole_query_tiles() -> None:
    # 1024 tokens in four tiles of 256 queries see 256 + 512 + 768 + 1024 = 2560 keys: 256 * 2560 pairs.
    found = fused(Problem(heads=1, seq=1024, head_dim=64, causal=True, window=0))
    assert found.flops == 4 * 64 * 256 * 2560
    assert fused(Problem(1, 1024, 64, False, 0)).flops == 4 * 64 * 1024**2


def test_eager_attention_sweeps_every_score() -> None:
    found = materialised(Problem(2, 128, 32, False, 0))
    assert found.exps == 2 * 128**2
    assert found.sweeps == (Sweep(2 * 128**2 * 4, 6, 3),)


def test_blocks_see_block_plus_window_keys() -> None:
    # 300 tokens are 3 blocks of 128 queries, each against 128 + 127 keys.
    found = blocked(Problem(1, 300, 64, True, 128))
    assert found.exps == 384 * 255


def test_chunked_linear_attention_is_linear() -> None:
    short, long = (chunked(Problem(1, n, 64, True, 0)).flops for n in (512, 1024))
    assert long == 2 * short


@pytest.mark.parametrize(
    ("sweep", "seconds"),
    [
        (Sweep(2**20, 4, 1), 4 * 2**20 / 4e9),  # in the caches
        (Sweep(2**24, 4, 1), 4 * 2**24 / 1e9),  # in memory, but its blocks are handed out once
        (Sweep(2**26, 4, 1), 3 * 2**26 / 1e9 + 2**26 / 1e8),  # one of four sweeps goes to new pages
    ],
)
def test_time_is_the_sum_of_its_parts(sweep: Sweep, seconds: float) -> None:
    assert predicted_s(Work(1e9, 1e8, (sweep,)), RATES) == pytest.approx(2.0 + seconds)
