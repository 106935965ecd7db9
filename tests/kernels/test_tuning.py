"""Tuning without a GPU: occupancy by hand, spills and overflows thrown out, the order that theory demands."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import replace

import pytest
from triton.runtime.jit import JITCallable

from einsum_cascade.errors import KernelError
from kernels import registry, report, shared, steps, tuning
from kernels.aot import WORD_BYTES, Resources
from kernels.sass import PIPES, Loop
from kernels.tileir import Work
from kernels.tiles import Tile


def resources(*, registers=128, shared_bytes=64 * 1024, warps=4, stack_bytes=0, instructions=500):
    pipes = dict.fromkeys((*PIPES, "other"), 0) | {"special": 64, "fma": 200, "alu": 60, "tensor": 16}
    return Resources(
        "k", "dense", "sm_90", "bf16", 64, Tile(128, 64, warps, 2), registers, shared_bytes, stack_bytes,
        (Loop(instructions, pipes),), {"local": 0}, work=Work(product_flops=4.0 * 128 * 64 * 64),
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
    assert steps.blocks_per_sm(r, steps.rates(90)) == blocks


def test_cycles_of_one_step():
    cycles = steps.step_cycles(resources(), steps.rates(90))
    # 4 x 128 x 64 x 64 operations at 4096 a cycle; 64 exponentials x 128 threads at 16 a cycle.
    assert cycles["tensor"] == 512
    assert cycles["exp"] == 512
    assert cycles["fma"] == 200
    assert cycles["issue"] == 500


def test_spills_and_overflows_are_thrown_out():
    assert tuning.judge(resources(stack_bytes=8)) is None
    assert tuning.judge(resources(shared_bytes=228 * 1024)) is None


def test_more_residents_are_never_slower():
    few, many = (tuning.judge(resources(registers=r)) for r in (255, 128))
    assert many.blocks_per_sm > few.blocks_per_sm
    assert many.cycles_per_kilo_unit <= few.cycles_per_kilo_unit


def test_without_a_second_stage_a_step_waits_for_its_loads():
    """What three resident blocks hide of each other costs nothing, but comes behind what has nothing to hide."""
    one = {"shared_bytes": 128 * 1024}
    for more, costs in ((one, True), ({}, False)):
        many = resources(**more)
        few = tuning.judge(replace(many, tile=Tile(128, 64, 4, 1)))
        assert (few.cycles_per_kilo_unit > tuning.judge(many).cycles_per_kilo_unit) == costs
        assert few.order > tuning.judge(many).order


def test_what_the_same_pipe_bounds_is_ordered_by_what_must_be_hidden():
    """Bytes from L2 bound both; the one with fewer instructions beside them comes first."""
    work = Work(product_flops=1.0, load_bytes=1e6)
    pipes = {**resources().loops[0].pipes, "fma": 500}
    light = replace(resources(), work=work)
    heavy = replace(light, loops=(Loop(700, pipes),))
    ranked = [tuning.judge(r) for r in (heavy, light)]
    assert ranked[0].cycles_per_kilo_unit == ranked[1].cycles_per_kilo_unit
    assert ranked[0].bound_by == ranked[1].bound_by == "l2"
    assert min(ranked, key=lambda c: c.order) is ranked[1]


def test_tiles_of_attention_are_told_apart_by_their_exponentials():
    """Once a tie of eight tiles, all bound by the L2 cache, which the products of none of them wait for."""
    tiles = [Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(128, 128, 8, 2)]
    ranked = tuning.tune("flash_attention", on="H100 SXM", tiles=tiles)
    assert [c.resources.tile for c in ranked] == [tiles[2], tiles[0], tiles[1]]
    assert len({c.cycles_per_kilo_unit for c in ranked}) == 3
    assert ranked[0].bound_by == "tensor"


def test_only_the_best_tiles_are_compiled_at_every_depth(monkeypatch):
    """Seven tiles at three depths: all seven at two stages, and the best four at the other two."""
    seen = []

    def compiled(build, target):
        seen.append(build.tile)
        return replace(resources(instructions=100 * build.tile.block_n), tile=build.tile)

    monkeypatch.setattr(tuning, "compile_fitting", compiled)
    sides = [(128, 128), (128, 64), (128, 32), (64, 128), (64, 64), (64, 32), (32, 32)]
    grid = [Tile(m, n, 4, stages) for m, n in sides for stages in (1, 2, 3)]
    ranked = tuning.tune("flash_attention", on="h100", head_dim=64, variant="dense", tiles=grid)
    assert len(seen) == len(set(seen)) == len(ranked) == 7 + 2 * 4
    assert {t.stages for t in seen[:7]} == {2}


def test_what_holds_a_tile_that_spills_is_not_compiled(monkeypatch):
    """64 x 64 spills on 4 warps: so does 128 x 64 there, while on 8 warps it is tried; the bar comes to its end."""
    seen, counted = [], []

    def compiled(build, target):
        seen.append(build.tile)
        t = build.tile
        return None if t.block_m * t.block_n >= 1024 * t.warps else replace(resources(), tile=t)

    monkeypatch.setattr(tuning, "compile_fitting", compiled)
    grid = [Tile(m, 64, warps, 2) for m in (128, 64, 32) for warps in (4, 8)]
    ranked = tuning.tune(
        "flash_attention",
        on="h100",
        tiles=grid,
        progress=lambda items: (counted.append(i) or i for i in items),
    )
    assert Tile(128, 64, 4, 2) not in seen
    assert {c.resources.tile for c in ranked} == {Tile(32, 64, 4, 2), Tile(32, 64, 8, 2), Tile(64, 64, 8, 2)}
    assert len(seen) == 5
    assert len(counted) == len(grid)


def test_a_tile_of_fewer_rows_than_its_warps_multiply_says_nothing_of_larger_ones(monkeypatch):
    """64 rows on 8 warps are repeated and spill, 128 rows do not: as 128-dimensional attention on an L40S."""

    def compiled(build, target):
        t = build.tile
        return None if t.block_m < 16 * t.warps else replace(resources(), tile=t)

    monkeypatch.setattr(tuning, "compile_fitting", compiled)
    grid = [Tile(m, n, 8, 2) for m in (64, 128) for n in (32, 64)]
    ranked = tuning.tune("flash_attention", on="l40s", tiles=grid)
    assert {c.resources.tile for c in ranked} == {Tile(128, 32, 8, 2), Tile(128, 64, 8, 2)}


def test_a_kernel_that_takes_another_one_s_tile_is_tuned_as_that_one(monkeypatch):
    seen = []

    def compiled(build, target):
        seen.append((build.kernel, build.variant))
        return replace(resources(), tile=build.tile)

    monkeypatch.setattr(tuning, "compile_fitting", compiled)
    assert tuning.tune("linear_attention_gradients", on="h100", tiles=[Tile(64, 32, 4, 2)])
    assert seen == [("linear_attention", "reversed")]


def test_candidates_compiled_side_by_side_are_those_compiled_one_by_one(capsys):
    """Threads share the compiler: nothing of one candidate may get into another; and a bar counts every one."""
    grid = [Tile(m, n, 4, 2) for m in (32, 64) for n in (32, 64)] + [Tile(128, 128, 4, 2)]
    counted = []

    def progress(items):
        for item in items:
            counted.append(item)
            yield item

    options = {"on": "h100", "head_dim": 128, "variant": "dense"}
    ranked = tuning.tune("flash_attention", **options, tiles=grid, progress=progress)
    assert len(counted) == len(grid)
    # The last needs more registers than a thread has.
    assert {c.resources.tile for c in ranked} == set(grid[:4])
    alone = [tuning.tune("flash_attention", **options, tiles=[c.resources.tile]) for c in ranked]
    assert [c for (c,) in alone] == ranked


def test_candidates_compiled_side_by_side_are_parsed_one_by_one(monkeypatch):
    """Python before 3.11.8 parses in one thread at a time only; a rare SystemError of tests and tuning was this."""
    within, most = [], []
    parse = JITCallable.parse

    def slowly(function):
        within.append(function)
        most.append(len(within))
        time.sleep(0.02)
        within.pop()
        return parse(function)

    def compiled(build, target):
        assert build.function.parse()
        return replace(resources(), tile=build.tile)

    monkeypatch.setattr(JITCallable, "parse", slowly)
    monkeypatch.setattr(tuning, "compile_fitting", compiled)
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 4)
    grid = [Tile(64, 64, warps, stages) for warps in (4, 8) for stages in (2, 3)]
    tuning.tune("flash_attention", on="h100", tiles=grid)
    assert most == [1] * len(grid)
    assert JITCallable.parse is slowly


def test_a_ranking_of_compiled_candidates():
    tiles = [Tile(64, 32, 4, 2), Tile(128, 64, 4, 2)]
    ranked = tuning.tune("flash_attention", on="h100", head_dim=64, variant="dense", tiles=tiles)
    assert [c.resources.tile for c in ranked] == [tiles[1], tiles[0]]
    assert ranked[0].cycles_per_kilo_unit < ranked[1].cycles_per_kilo_unit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"on": "h10"}, "did you mean 'h100'"),
        ({"kernel": "merge_attention"}, "no tile to tune"),
        ({"dtype": "bf8"}, "dtype 'bf8'"),
        ({"variant": "dens"}, "did you mean 'dense'"),
    ],
)
def test_mistakes(change, words):
    with pytest.raises(KernelError, match=words):
        tuning.tune(**({"kernel": "flash_attention", "on": "h100", "tiles": []} | change))


def test_kendall():
    assert tuning.kendall([1, 2, 3], [10, 20, 30]) == 1.0
    assert tuning.kendall([1, 2, 3], [30, 20, 10]) == -1.0
    assert tuning.kendall([1], [1]) is None


@pytest.mark.parametrize("name", [e.name for e in registry.entries() if e.build and 0 not in e.head_dims])
def test_every_kernel_has_candidates_and_fewer_fit_in_less_shared_memory(name):
    entry, machine = registry.find(name), steps.rates(80)
    for head_dim in entry.head_dims:
        sizes = {"variant": next(iter(entry.variants)), "head_dim": head_dim, "word_bytes": 2}
        found = list(tuning.candidates(entry, **sizes, machine=machine))
        assert found
        small = replace(machine, shared_bytes_per_block=1024)
        assert len(list(tuning.candidates(entry, **sizes, machine=small))) < len(found)


def compiled_rows(**wanted):
    """Yield the rows of the compiled table with their tile and sizes."""
    for row in csv.DictReader(report.store_path().read_text().splitlines()):
        if wanted.items() <= row.items():
            tile = Tile(*(int(row[n]) for n in ("block_m", "block_n", "warps", "stages")))
            sizes = {"head_dim": int(row["head_dim"]), "word_bytes": WORD_BYTES[row["dtype"]]}
            yield row, tile, sizes, int(row["target"][3:])


def test_what_attention_holds_is_what_the_compiler_says_less_its_scratch():
    """The oracle are builds: queries count on every generation, a stage of keys and values less for mma.sync."""
    exact = 0
    for row, tile, sizes, target in compiled_rows(kernel="flash_attention", dtype="bf16"):
        held = shared.swept_bytes(tile, **sizes, target=target)
        scratch = int(row["shared_bytes"]) - held
        # Weights change layout where a warp's rows are shared between warps; 2 KiB hold barriers and reductions. Tables
        # of modified scores come beside them.
        most = 2 * tile.block_m * tile.block_n + 2048
        assert (
            0
            <= scratch
            <= (math.inf if row["variant"] in registry.find("flash_attention").modified else most)
        ), row
        exact += scratch == 0
    assert exact > 20


def test_no_build_that_fits_is_left_out_of_the_candidates():
    """Whatever was compiled, of any kernel: counting all stages left out the tile that serves an RTX PRO 6000."""
    tried = 0
    for row, tile, sizes, target in compiled_rows():
        entry, machine = registry.find(row["kernel"]), steps.rates(target)
        choices = entry.choices
        sides = (choices.block_m, choices.block_n, choices.warps, choices.stages)
        shape = (tile.block_m, tile.block_n, tile.warps, tile.stages)
        if not all(value in allowed for value, allowed in zip(shape, sides, strict=True)):
            continue
        assert int(row["shared_bytes"]) <= machine.shared_bytes_per_block
        if max(tile.block_m, tile.block_n) >= 8 * tile.warps:
            tried += 1
            found = tuning.candidates(entry, variant=row["variant"], **sizes, machine=machine)
            assert tile in list(found), row
    assert tried > 100


def test_tensor_memory_limits_residency():
    """512 columns an SM: two blocks of 256, one of 288."""
    machine = steps.rates(100)
    for columns, blocks in ((256, 2), (288, 1), (128, 3)):
        r = replace(resources(registers=64), tensor_memory_columns=columns)
        # 228 KiB of shared memory hold three blocks of 64 KiB.
        assert steps.blocks_per_sm(r, machine) == blocks


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("linear_attention", {"head_dim": 64, "tiles": [Tile(64, 32, 4, 2), Tile(16, 16, 4, 1)]}),
        ("efficient_local_gate", {"variant": "strips", "tiles": [Tile(16, 64, 4, 1), Tile(16, 128, 4, 1)]}),
    ],
)
def test_other_kernels_are_ranked_too(kernel, options):
    ranked = tuning.tune(kernel, on="a100", **options)
    assert len(ranked) == 2
    assert 0 < ranked[0].cycles_per_kilo_unit <= ranked[1].cycles_per_kilo_unit


def test_a_candidate_that_does_not_run_is_left_out(capsys, monkeypatch):
    """Of three, the launcher refuses one, as a GPU does where a tile does not fit."""
    load = registry.load

    def picky(place):
        if place != "transposed:reversed_attention":
            return load(place)

        def launcher(*args, tile, **rest):
            if tile.block_m == 32:
                raise KernelError("out of resource: shared memory")
            return load(place)(*args, tile=tile, **rest)

        return launcher

    monkeypatch.setattr(registry, "load", picky)
    tiles = [Tile(16, 16, 4, 1), Tile(32, 16, 4, 1), Tile(16, 32, 4, 1)]
    made = replace(resources(), kernel="reversed_attention", variant="gather")
    ranked = [tuning.Ranked(replace(made, tile=t), float(i), 1, "fma") for i, t in enumerate(tiles)]
    found, quality = tuning.measured(ranked, seq=32, device="cpu", clock=lambda call: 1.0)
    assert [c.resources.tile for c in found] == [tiles[0], tiles[2]]
    assert quality.regret == 0.0
    assert "out of resource" in capsys.readouterr().err


def test_measured_order_is_reported_with_rank_correlation_and_regret():
    """The calls really run, in the interpreter; a clock that knows better gives times that contradict the ranking."""
    small = [Tile(16, 16, 4, 1), Tile(32, 16, 4, 1), Tile(16, 32, 4, 1)]
    ranked = [
        tuning.Ranked(
            replace(resources(), kernel="reversed_attention", variant="gather", tile=t), float(i), 1, "fma"
        )
        for i, t in enumerate(small)
    ]
    times = iter([3.0, 2.0, 4.0] * 3)
    found, quality = tuning.measured(
        ranked, seq=32, device="cpu", clock=lambda call: (call(), next(times))[1]
    )
    assert [c.measured_ms for c in found] == [3000.0, 2000.0, 4000.0]
    # Pairs: (3, 2) disagrees, (3, 4) and (2, 4) agree. The first is half as slow again as the fastest.
    assert quality.kendall_tau == pytest.approx(1 / 3)
    assert quality.regret == pytest.approx(0.5)
