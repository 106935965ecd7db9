"""Cycles of one score tile against sums worked by hand and against compiled kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mappings.tiles import PerScore, TileMapping
from simulator.gpu.tile import in_turns, tile_time, turns_of
from simulator.hardware.gpu import find_gpu


def pipes(device, *, query, key, head_dim, warps=8, rows=64, dtype="fp16"):
    tile = TileMapping(query=query, key=key, warps=warps, operand_rows=rows)
    time = tile_time(find_gpu(device), tile, head_dim=head_dim, dtype=dtype, per_score=PerScore())
    return time, dict(time.pipes)


# Tensor and MUFU cycles of the compiled forward kernels: 4 x 128 x 128 x 128 / 4096 = 2048; 128 x 128 / 16 = 1024.
COMPILED = [
    ("a100", 128, 64, 64, 1024, 512),
    ("a100", 128, 64, 128, 2048, 512),
    ("h100", 128, 64, 64, 512, 512),
    ("h100", 128, 128, 128, 2048, 1024),
]


@pytest.mark.parametrize(("device", "query", "key", "head_dim", "tensor", "exp"), COMPILED)
def test_tensor_and_exp_cycles(device, query, key, head_dim, tensor, exp):
    _, found = pipes(device, query=query, key=key, head_dim=head_dim)
    assert found["tensor"] == tensor
    assert found["exp"] == exp


def test_shared_memory_counts_every_reading_of_the_key_side():
    # wgmma, 128 x 128 x 128, fp16: K and V (64 KiB) are written once and read by each of two groups of 64 rows,
    # queries (32 KiB) are read once: 224 KiB at 128 B a cycle = 1792. The compiled kernel's count is 1856.
    _, found = pipes("h100", query=128, key=128, head_dim=128)
    assert found["shared"] == 1792


def test_l2_cycles():
    # 64 KiB a tile; 5.5 TB/s over 132 SMs at 1755 MHz are 23.74 B a cycle and SM, 2.5 times where neighbours share.
    _, found = pipes("h100", query=128, key=128, head_dim=128)
    assert found["l2"] == pytest.approx(65536 / (2.5 * 5.5e12 / 132 / 1755e6), rel=1e-12)


def test_the_bottleneck_is_the_slowest_pipe_and_serial_is_never_less():
    for head_dim in (64, 128, 256):
        time, found = pipes("h100", query=128, key=128, head_dim=head_dim)
        assert found[time.bound_by] == max(found.values())
        assert found[time.bound_by] <= time.bound <= time.serial


@given(st.floats(1.0, 1e5), st.floats(1.0, 1e5), st.integers(1, 6))
def test_groups_in_turns_take_what_the_chain_of_their_queues_says(products, elementwise, turns):
    # The oracle: how many groups wait for products is a Markov chain, each queue ends one at its own rate while it has
    # any; its stationary distribution by linear algebra, not by the product form.
    rates = np.zeros((turns + 1, turns + 1))
    for waiting in range(turns):
        rates[waiting, waiting + 1] = 1 / elementwise
        rates[waiting + 1, waiting] = 1 / products
    rates -= np.diag(rates.sum(axis=1))
    equations = np.vstack([rates.T * max(products, elementwise), np.ones(turns + 1)])
    share = np.linalg.lstsq(equations, np.append(np.zeros(turns + 1), 1.0), rcond=None)[0]
    got = in_turns(products, elementwise, turns)
    assert got == pytest.approx(products / share[1:].sum(), rel=1e-6)  # of least squares
    assert max(products, elementwise) <= got * (1 + 1e-12)
    assert got <= products + elementwise + 1e-6
    # One more group never takes a tile longer, one alone does everything in a row.
    assert in_turns(products, elementwise, turns + 1) <= got * (1 + 1e-12)
    assert in_turns(products, elementwise, 1) == pytest.approx(products + elementwise)


def test_a_tile_of_one_group_overlaps_nothing_and_one_without_elementwise_work_needs_no_turns():
    assert in_turns(700.0, 0.0, 2) == 700.0
    assert in_turns(0.0, 0.0, 2) == 0.0
    time, found = pipes("h100", query=64, key=128, head_dim=128)
    assert time.bound == time.serial == found["tensor"] + found["exp"]


@pytest.mark.parametrize(("device", "tile", "turns"), [
    # wgmma takes 64 rows a group, tcgen05 128; of mma.sync four warps of 16 or 32 rows are one, a warp a scheduler.
    ("h100", TileMapping(query=192, key=128, warps=12, operand_rows=64), 3),
    ("b200", TileMapping(query=256, key=128, warps=16, operand_rows=128), 2),
    ("l40s", TileMapping(query=64, key=64, warps=4, operand_rows=16), 1),
    ("a100", TileMapping(query=128, key=64, warps=4, operand_rows=32, blocks_per_sm=2), 2),
])  # fmt: skip
def test_groups_of_rows_that_take_turns(device, tile, turns):
    assert turns_of(find_gpu(device), tile) == turns


def test_fp8_halves_the_tensor_time_and_leaves_the_exponentials():
    _, half = pipes("h100", query=128, key=128, head_dim=128)
    _, quarter = pipes("h100", query=128, key=128, head_dim=128, dtype="fp8")
    assert quarter["tensor"] == half["tensor"] / 2
    assert quarter["exp"] == half["exp"]


def test_a_cluster_shares_readings_of_the_keys():
    gpu = find_gpu("b200")
    alone, pair = (
        dict(
            tile_time(
                gpu,
                TileMapping(query=128, key=128, warps=16, operand_rows=128, cluster=n),
                head_dim=256,
                dtype="bf16",
                per_score=PerScore(),
            ).pipes
        )
        for n in (1, 2)
    )
    assert pair["l2"] == alone["l2"] / 2
    assert {k: v for k, v in pair.items() if k != "l2"} == {k: v for k, v in alone.items() if k != "l2"}


@pytest.mark.parametrize(("device", "edges", "masked"), [
    # 256 x 128 scores: tensor 1024 cycles (head_dim 64), exp 2048 on B200 and 1024 on B300; conversions and maxima
    # 1.5 a score, a compare an edge and one select, 64 a cycle: 768, then 1792 and 2304. Two groups of T and S cycles
    # take (T^2 + T S + S^2) / (T + S): of 1024 and 2048, 1024, 1792 and 2304.
    ("b200", 1, 7168 / 3), ("b200", 2, 2619.1), ("b300", 0, 1536), ("b300", 1, 2164.4), ("b300", 2, 2619.1),
])  # fmt: skip
def test_a_masked_tile_tests_every_score_against_every_edge(device, edges, masked):
    tile = TileMapping(query=256, key=128, warps=16, operand_rows=128)
    time = tile_time(find_gpu(device), tile, head_dim=64, dtype="bf16", per_score=PerScore(), edges=edges)
    assert time.masked == pytest.approx(masked, rel=1e-4)  # of the numbers above
