"""Tuning without a GPU: occupancy by hand, spills and overflows thrown out, the order that theory demands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from einsum_cascade.errors import KernelError
from kernels import tuning
from kernels.aot import Resources
from kernels.sass import PIPES, Loop
from kernels.tiles import Tile


def resources(*, registers=128, shared_bytes=64 * 1024, warps=4, stack_bytes=0, instructions=500):
    pipes = dict.fromkeys((*PIPES, "other"), 0) | {"special": 64, "fma": 200, "alu": 60, "tensor": 16}
    return Resources(
        "k", "dense", "sm_90", "bf16", 64, Tile(128, 64, warps, 2), registers, shared_bytes, stack_bytes,
        (Loop(instructions, pipes),), {"local": 0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("registers", "shared_kib", "warps", "blocks"),
    [
        # 65536 registers / (128 x 32 lanes x 4 warps) = 4; 228 KiB / (64 + 1) = 3.
        (128, 64, 4, 3),
        (128, 32, 4, 4),
        # 255 registers are 8160 a warp, handed out as 8192: 65536 / (8192 x 8) = 1.
        (255, 64, 8, 1),
        (32, 8, 4, 16),
        (32, 228, 4, 0),
    ],
)
def test_blocks_per_sm(registers, shared_kib, warps, blocks):
    r = resources(registers=registers, shared_bytes=shared_kib * 1024, warps=warps)
    assert tuning.blocks_per_sm(r, tuning.rates(90)) == blocks


def test_cycles_of_one_step():
    cycles = tuning.step_cycles(resources(), tuning.rates(90))
    # 4 x 128 x 64 x 64 operations at 4096 a cycle; 64 exponentials x 128 threads at 16 a cycle.
    assert cycles["tensor"] == 512
    assert cycles["special"] == 512
    assert cycles["fma"] == 200
    assert cycles["issue"] == 500


def test_spills_and_overflows_are_thrown_out():
    assert tuning.judge(resources(stack_bytes=8)) is None
    assert tuning.judge(resources(shared_bytes=228 * 1024)) is None


def test_more_residents_are_never_slower():
    few, many = (tuning.judge(resources(registers=r)) for r in (255, 128))
    assert many.blocks_per_sm > few.blocks_per_sm
    assert many.cycles_per_kilo_score <= few.cycles_per_kilo_score


def test_a_ranking_of_compiled_candidates():
    tiles = [Tile(64, 32, 4, 2), Tile(128, 64, 4, 2)]
    ranked = tuning.tune("flash_attention", on="h100", head_dim=64, variant="dense", tiles=tiles)
    assert [c.resources.tile for c in ranked] == [tiles[1], tiles[0]]
    assert ranked[0].cycles_per_kilo_score < ranked[1].cycles_per_kilo_score


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"on": "h10"}, "did you mean 'h100'"),
        ({"kernel": "merge_attention"}, "not tunable"),
        ({"dtype": "bf8"}, "dtype 'bf8'"),
    ],
)
def test_mistakes(change, words):
    with pytest.raises(KernelError, match=words):
        tuning.tune(**({"kernel": "flash_attention", "on": "h100", "tiles": []} | change))


def test_kendall():
    assert tuning.kendall([1, 2, 3], [10, 20, 30]) == 1.0
    assert tuning.kendall([1, 2, 3], [30, 20, 10]) == -1.0
    assert tuning.kendall([1], [1]) is None


def test_every_candidate_fits_in_shared_memory():
    machine = tuning.rates(80)
    for head_dim in (64, 128, 256):
        found = list(tuning.candidates(head_dim=head_dim, word_bytes=2, machine=machine))
        assert found
        small = replace(machine, shared_bytes_per_block=1024)
        assert not list(tuning.candidates(head_dim=head_dim, word_bytes=2, machine=small))
