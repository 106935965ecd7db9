"""Kernels compile for every target on a machine without a GPU, and what is shipped does not spill."""

from __future__ import annotations

import csv
import importlib
import itertools
import pkgutil
import re
from dataclasses import replace
from importlib.resources import files

import pytest

from einsum_cascade.errors import KernelError
from kernels import aot, attention, registry, report, sass, steps, tiles
from kernels.tiles import Tile

# The targets that every kernel has tiles of its own for; others take theirs, or smaller ones where they must.
WHOLE = ("sm_80", "sm_90", "sm_100")


@pytest.fixture(scope="module")
def compiled():
    # bf16 causal at both common head sizes, for all targets: the whole table is `cascade kernels compile --target all`.
    return {
        (target, b.head_dim): aot.compile_build(b, target)
        for target in WHOLE
        for b in aot.builds(target, kernels=["flash_attention"])
        if b.dtype == "bf16" and b.variant == "causal" and b.head_dim <= 128
    }


def test_shipped_configurations_do_not_spill(compiled):
    assert len(compiled) == 6
    for key, resources in compiled.items():
        assert not resources.spills, key
        assert 64 <= resources.registers <= 255
        assert 0 < resources.shared_bytes <= {"sm_80": 163, "sm_90": 227, "sm_100": 227}[key[0]] * 1024


def test_instruction_counts_are_those_of_the_tile(compiled):
    """128 x 64 scores on 8 warps: 32 a thread, so 32 exponentials, and one more a row for the rescaling (2 rows)."""
    r = compiled["sm_80", 128]
    assert (r.tile.block_m, r.tile.block_n, r.tile.warps) == (128, 64, 8)
    assert r.full_loop.pipes["special"] == 34
    # Two products of 128 x 64 x 128 multiplications in HMMA.16816 of 16 x 8 x 16, on 8 warps.
    assert r.full_loop.pipes["tensor"] == 2 * 128 * 64 * 128 // (16 * 8 * 16) // 8
    assert r.masked_loop.instructions > r.full_loop.instructions


def test_each_generation_has_its_own_tensor_instruction(compiled):
    assert compiled["sm_90", 64].full_loop.pipes["tensor"] < compiled["sm_80", 64].full_loop.pipes["tensor"]
    assert compiled["sm_100", 128].totals["tensor_memory"] > 0
    assert compiled["sm_90", 128].totals["tensor_memory"] == 0


def ptx_of(dtype, target):
    chosen = (
        b for b in aot.builds(target, kernels=["flash_attention"]) if (b.dtype, b.head_dim) == (dtype, 64)
    )
    return aot._compiled(next(b for b in chosen if b.variant == "causal"), aot.TARGETS[target])[0].asm["ptx"]


@pytest.mark.parametrize(("target", "product"), [("sm_80", "mma.sync"), ("sm_90", "wgmma.mma_async")])
def test_tiles_are_loaded_in_vectors_and_asynchronously(target, product):
    ptx = ptx_of("bf16", target)
    assert product in ptx
    assert "cp.async" in ptx
    assert not re.search(r"ld\.global\.b(16|32) ", ptx)
    assert "tf32" not in ptx


def test_float32_tiles_are_multiplied_as_rounded_tf32_alone():
    ptx = ptx_of("fp32", "sm_80")
    products = re.findall(r"mma\.sync\S*", ptx)
    assert products
    assert all(".tf32." in p for p in products)
    assert "cvt.rna.tf32.f32" in ptx


def test_a_tile_that_is_too_large_is_seen_to_spill():
    """128 x 128 on 4 warps needs 512 accumulators a thread where 255 registers are: the published failure."""
    build = attention.build(Tile(128, 128, warps=4, stages=3), head_dim=128, dtype="bf16", variant="causal")
    resources = aot.compile_build(build, "sm_80")
    assert resources.spills
    assert resources.stack_bytes > 5000


@pytest.fixture(scope="module")
def stored():
    import pandas as pd

    return pd.read_csv(report.store_path())


def keys_of(build, target):
    t = build.tile
    key = (
        build.kernel,
        build.variant,
        target,
        build.dtype,
        build.head_dim,
        t.block_m,
        t.block_n,
        t.warps,
        t.stages,
    )
    return tuple(map(str, key))


def test_the_stored_table_is_what_is_shipped(stored):
    """Every kernel, variant, head size, word and target, compiled from the sources that are here."""
    rows = {tuple(map(str, row)): f for *row, f in stored[[*report.KEY, "fingerprint"]].values.tolist()}
    for target in aot.TARGETS:
        for b in aot.builds(target, own=True):
            key = keys_of(b, target)
            assert rows.get(key) == aot.fingerprint(b.function), (
                f"not stored, or compiled from another source: {key}; run cascade kernels compile --target all --write"
            )
    assert stored["source"].str.contains("triton").all()


def test_nothing_that_is_shipped_spills_or_overflows(stored):
    """With the test above: a change that makes a kernel spill has to be compiled, and then fails here."""
    assert (stored["stack_bytes"] == 0).all()
    assert (stored["local_instructions"] == 0).all()
    assert (stored["registers"] <= 255).all()
    for target, number in aot.TARGETS.items():
        machine = steps.rates(number)
        there = stored[stored["target"] == target]
        assert (there["shared_bytes"] <= machine.shared_bytes_per_block).all()
        assert (there["tensor_memory_columns"] <= machine.tensor_memory_columns).all()


def test_every_row_that_is_called_compiled_is_stored_and_the_others_are_known(stored):
    """What is refused because every tile spills are float32 heads of more than 64 alone."""
    there = set(zip(stored["kernel"], stored["dtype"], stored["head_dim"], stored["target"], strict=True))
    rows = {(r.kernel, r.word_bytes, r.head_dim, r.target): r for r in tiles.shipped() if not r.window}
    for entry, dtype, target in itertools.product(registry.entries(), aot.SHIPPED_DTYPES, WHOLE):
        for head_dim in entry.head_dims if entry.build else ():
            row = rows.get((entry.name, aot.WORD_BYTES[dtype], head_dim, aot.TARGETS[target]))
            compiled = row is not None and row.compiled
            assert compiled == ((entry.name, dtype, head_dim, target) in there)
            if dtype == "bf16" or head_dim <= 64:
                assert compiled, (entry.name, dtype, head_dim, target)
            if row is None:
                state = entry.name in ("linear_attention", "neural_memory")
                assert head_dim == 256 or state, (entry.name, head_dim, target)


def test_no_tile_is_a_guess():
    for row in csv.DictReader(tiles_text().splitlines()):
        assert row["compiled"] == "1"
        assert row["source"].startswith(f"no spill on sm_{row['target']} (triton ")


def tiles_text():
    return files("kernels").joinpath("tiles.csv").read_text(encoding="utf-8")


def test_a_fingerprint_follows_what_a_kernel_calls(monkeypatch):
    before = aot.fingerprint(attention.flash_forward)
    assert before == aot.fingerprint(attention.flash_forward)
    assert before != aot.fingerprint(attention._visit)
    monkeypatch.setattr(
        attention.fold, "_src" if hasattr(attention.fold, "_src") else "src", "def fold(): pass"
    )
    assert aot.fingerprint(attention.flash_forward) != before


def test_storing_replaces_what_is_no_longer_shipped(compiled, tmp_path):
    """A new tile stands in the place of the old one, and a variant that is gone leaves no row."""
    path = tmp_path / "resources.csv"
    report.store_resources(compiled.values(), path)
    whole = path.read_text()
    assert len(whole.splitlines()) == 7
    one = compiled["sm_80", 64]
    other = replace(one, tile=replace(one.tile, stages=one.tile.stages + 1))
    report.store_resources([other, replace(one, variant="of old")], path)
    assert len(path.read_text().splitlines()) == 8
    report.store_resources([one], path)
    assert path.read_text() == whole


def test_unknown_target_names_the_nearest():
    with pytest.raises(KernelError, match="sm_90"):
        aot.target_number("sm90")


def test_every_compiled_kernel_has_tiles_for_every_target():
    for target in aot.TARGETS:
        made = list(aot.builds(target))
        assert {b.kernel for b in made} == {e.name for e in registry.entries() if e.build}
        assert len({keys_of(b, target) for b in made}) == len(made)


def test_no_kernel_uses_a_second_grid_axis():
    """The second and third axis of a grid end at 65535, which batch times heads may exceed."""
    from triton.runtime.jit import JITFunction

    import kernels

    seen = 0
    for info in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"kernels.{info.name}")
        for value in vars(module).values():
            if isinstance(value, JITFunction):
                seen += 1
                assert "program_id(1)" not in value.src
                assert "program_id(2)" not in value.src
    assert seen > 30


def test_loops_are_read_from_text():
    text = """
.L_x_0:
        /*0010*/                   SYNCS.PHASECHK P0, [R2] ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0040*/               @P1 MUFU.EX2 R5, R6 ;
        /*0050*/                   FFMA R7, R8, R9, R10 ;
        /*0060*/               @P2 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2);
"""
    (loop,) = sass.loops(text)
    assert loop.instructions == 4
    assert {k: v for k, v in loop.pipes.items() if v} == {"tensor": 1, "special": 1, "fma": 1, "other": 1}


def test_a_waiting_block_moved_out_of_the_way_makes_no_loop():
    """Its jump back is no loop: the instructions between are reached only once."""
    text = """
        /*0000*/              @!P0 BRA `(.L_wait) ;
.L_back:
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
.L_loop:
        /*0020*/                   MUFU.EX2 R5, R6 ;
        /*0030*/                   BRA.U UP0, `(.L_loop) ;
        /*0040*/                   EXIT ;
.L_wait:
        /*0050*/                   SYNCS.PHASECHK P0, [R2] ;
        /*0060*/              @!P0 BRA `(.L_wait) ;
        /*0070*/                   BRA `(.L_back) ;
"""
    (loop,) = sass.loops(text)
    assert loop.instructions == 2
    assert loop.pipes["special"] == 1
    assert loop.pipes["tensor"] == 0
