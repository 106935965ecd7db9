"""The choice of tiles: what is shipped stays while it fits, else the largest that does; the table is kept in order."""

from __future__ import annotations

import csv
import itertools
import shutil
from dataclasses import replace
from importlib.resources import files

import pytest

from einsum_cascade.errors import KernelError
from kernels import aot, measurement, primitives, registry, report, shipping, tiles
from kernels.offline import Launch
from kernels.sass import PIPES
from kernels.shipping import Wanted
from kernels.tiles import Tile
from mappings.compiled import with_compiled
from mappings.gpu import find_kernel_mapping


def unlaunched(row, *, target):
    """No check takes the row."""
    return ()


WANT = Wanted("flash_attention", "sm_90", 128, "bf16", window=False)


def made(build, target, *, stack_bytes=0, shared_bytes=1024):
    totals = dict.fromkeys((*PIPES, "other"), 0)
    return aot.Resources(
        build.kernel, build.variant, target, build.dtype, build.head_dim, build.tile, 64, shared_bytes,
        stack_bytes, (), totals, compiler="triton 0",
    )  # fmt: skip


def test_what_is_shipped_stays_while_it_fits():
    tile, refused, builds = shipping.choose(WANT, compiled=made, launched=unlaunched)
    assert tile == tiles.pick("flash_attention", head_dim=128, word_bytes=2, target=90)
    assert refused == 0
    assert {b.variant for b in builds} == {"dense", "causal"}


@pytest.mark.parametrize("fault", [{"stack_bytes": 8}, {"shared_bytes": 300 * 1024}])
def test_else_the_largest_tile_that_neither_spills_nor_overflows(fault):
    """More than 64 x 64 scores spill, or do not fit; the causal variant alone is enough to refuse a tile."""

    def compiled(build, target):
        large = build.tile.block_m * build.tile.block_n > 64 * 64
        return made(build, target, **fault if large and build.variant == "causal" else {})

    tile, refused, _ = shipping.choose(WANT, compiled=compiled, launched=unlaunched)
    assert tile.block_m * tile.block_n == 64 * 64
    assert refused > 1


def test_where_every_tile_spills_there_is_none():
    assert shipping.choose(WANT, compiled=lambda b, t: made(b, t, stack_bytes=8)) is None


def test_a_tile_whose_launches_spill_is_refused_too():
    """Builds ahead of time know of no odd head and no single head a group: what is shipped holds the builds only."""
    asked = []

    def launched(row, *, target):
        asked.append((row.tile, target))
        large = row.tile.block_m * row.tile.block_n > 64 * 32
        return [Launch("one", 64, 0, 1024, fits=True), Launch("two", 255, 8 * large, 1024, fits=True)]

    tile, refused, _ = shipping.choose(WANT, compiled=made, launched=launched)
    assert tile.block_m * tile.block_n == 64 * 32
    assert refused == len(asked) - 1
    assert asked[0] == (tiles.pick("flash_attention", head_dim=128, word_bytes=2, target=90), "sm_90")


@pytest.mark.parametrize(
    ("fits", "stack_bytes", "known", "ok"),
    [(True, 0, False, True), (True, 8, False, False), (True, 8, True, True), (False, 8, True, False)],
)
def test_a_launch_may_spill_only_where_its_check_says_so(fits, stack_bytes, known, ok):
    assert Launch("f", 255, stack_bytes, 1024, fits, known).ok == ok


@pytest.mark.parametrize("target", [86, 89, 120, 121])
def test_gpus_of_99_kib_a_block_take_tiles_that_fit_them(target):
    """Of the compiled sizes, those of the target that a row was compiled for; an A100 holds more and keeps it."""
    stored = {}
    for row in csv.DictReader(report.store_path().read_text().splitlines()):
        tile = Tile(*(int(row[n]) for n in ("block_m", "block_n", "warps", "stages")))
        words = 4 if row["dtype"] == "fp32" else 2
        modified = row["variant"] in registry.find(row["kernel"]).modified
        key = row["kernel"], int(row["target"][3:]), int(row["head_dim"]), words, modified, tile
        stored[key] = max(stored.get(key, 0), int(row["shared_bytes"]))
    smaller = 0
    for entry in (e for e in registry.entries() if e.build):
        for words, window in itertools.product((2, 4), (False, True)):
            ampere = tiles.legal(entry.name, word_bytes=words, target=80, window=window)
            found = tiles.legal(entry.name, word_bytes=words, target=target, window=window)
            assert {r.head_dim for r in found} == {r.head_dim for r in ampere}
            for r in found:
                key = r.kernel, r.target, r.head_dim, words
                assert stored[*key, False, r.tile] <= 99 * 1024, r
                # Modified scores take the tiles of windows, or smaller ones.
                assert not window or stored.get((*key, True, r.tile), 0) <= 99 * 1024, r
            smaller += len(set(found) - set(ampere))
    assert smaller > 0


@pytest.mark.parametrize("entry", [e for e in registry.entries() if e.build], ids=lambda e: e.name)
def test_a_ladder_goes_down_and_keeps_sides_that_have_one_choice(entry):
    for dtype in ("bf16", "fp32"):
        rungs = list(shipping.ladder(entry, head_dim=128, dtype=dtype))
        sizes = [t.block_m * t.block_n for t in rungs]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(rungs)) == len(rungs)
        for choice, side in ((entry.choices.block_m, "block_m"), (entry.choices.block_n, "block_n")):
            assert len(choice) > 1 or {getattr(t, side) for t in rungs} == {*choice}


def test_a_row_takes_the_place_of_its_own(tmp_path):
    path = tmp_path / "tiles.csv"
    shutil.copy(str(files("kernels").joinpath("tiles.csv")), path)
    before = list(csv.DictReader(path.read_text().splitlines()))
    row = shipping.row_text(WANT, Tile(64, 32, 8, 2), 3, "triton 0")
    shipping.store(path, WANT, row)
    after = list(csv.DictReader(path.read_text().splitlines()))
    assert [r for r in after if r not in before] == [row]
    assert len(after) == len(before)
    shipping.store(path, WANT, None)
    assert len(list(csv.DictReader(path.read_text().splitlines()))) == len(before) - 1


def test_another_generation_s_tile_is_no_answer(monkeypatch):
    """A tile that one generation holds may spill on the next: only rows of one generation count."""
    rows = [r for r in tiles.shipped() if r.kernel == "flash_attention"]
    kept = tuple(r for r in rows if r.target != 90 or r.head_dim <= 128)
    monkeypatch.setattr(tiles, "shipped", lambda: kept)
    assert tiles.pick("flash_attention", head_dim=256, word_bytes=2, target=80)
    with pytest.raises(KernelError, match="the largest head_dim is 128"):
        tiles.pick("flash_attention", head_dim=256, word_bytes=2, target=90)


class Kernel:
    """As a Triton function is launched."""

    def fn(self):
        """Carries the name."""

    def __init__(self, result):
        self.result = result

    def __getitem__(self, grid):
        assert grid == (7,)

        def call(*arguments, **constants):
            assert constants == {"WIDTH": 3, "num_warps": 8, "num_stages": 2, "enable_fp_fusion": True}
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

        return call


def test_a_launch_that_spills_is_warned_of():
    spilling = type("Compiled", (), {"n_spills": 12})()
    with pytest.warns(UserWarning, match="12 registers spill"):
        primitives.launch(Kernel(spilling), 7, Tile(16, 16, 8, 2))(1, WIDTH=3)


def test_a_launch_that_does_not_fit_is_the_kernel_s_error():
    from triton.runtime.errors import OutOfResources

    full = OutOfResources(300_000, 232_448, "shared memory")
    with pytest.raises(KernelError, match="Required: 300000"):
        primitives.launch(Kernel(full), 7, replace(Tile(16, 16, 8, 2)))(1, WIDTH=3)


def test_the_simulator_s_tiles_of_our_attention_are_those_that_are_shipped():
    """The file is read where no torch is; it must say what the kernels of this tree take, and no more."""
    mapping = find_kernel_mapping("flash_attention", measurement.OURS)
    assert mapping.name == "cascade_attention"
    modified = find_kernel_mapping("flash_attention", f"{measurement.OURS} soft-cap")
    assert modified.name == mapping.name
    assert modified.tiles[-len(mapping.tiles) :] == mapping.tiles  # behind those of what was compiled for it
    rows = [r for r in tiles.shipped() if r.kernel == "flash_attention"]
    assert len(mapping.tiles) == len(rows)
    for r in rows:
        found = mapping.tile(
            head_dim=r.head_dim, target=f"sm_{r.target}", dtype="bf16" if r.word_bytes == 2 else "fp32",
            causal=True, window=r.window,
        )  # fmt: skip
        assert Tile(found.query, found.key, found.warps, found.stages) == r.tile
        assert with_compiled(
            mapping, found, head_dim=r.head_dim, target=f"sm_{r.target}",
            dtype="bf16" if r.word_bytes == 2 else "fp32", causal=True, window=r.window,
        ).resources  # fmt: skip
