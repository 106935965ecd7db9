"""Builds found for a tile: by kernel, mask, architecture and type; nothing found where nothing was compiled."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from mappings.compiled import TABLES, with_compiled
from mappings.gpu import LIBRARY, find_kernel_mapping
from mappings.tiles import TileMapping

OURS = replace(find_kernel_mapping("flash_attention", "triton"), compiled=("flash_attention",))
TILE = TileMapping(query=128, key=64, warps=8, stages=3)
KIND = {"head_dim": 128, "target": "sm_100", "dtype": "bf16", "causal": True, "window": False}


def rows(**wanted: str) -> list[dict[str, str]]:
    with (LIBRARY / "resources.csv").open(encoding="utf-8", newline="") as file:
        return [r for r in csv.DictReader(file) if all(r[k] == v for k, v in wanted.items())]


@pytest.mark.parametrize(
    ("causal", "window", "variant"),
    [(True, False, "causal"), (False, False, "dense"), (True, True, "causal window")],
)
def test_the_row_of_the_mask_is_taken(causal, window, variant):
    (row,) = rows(kernel="flash_attention", variant=variant, target="sm_100", dtype="bf16", head_dim="128")
    made = with_compiled(OURS, TILE, **{**KIND, "causal": causal, "window": window}).resources
    assert made.registers == int(row["registers"])
    assert made.shared_bytes == int(row["shared_bytes"])
    assert made.tensor_memory_columns == int(row["tensor_memory_columns"])
    assert made.loop.instructions == int(row["loop_instructions"])
    assert made.loop.alu == int(row["loop_alu"]) + int(row["loop_convert"])
    assert made.loop.masked_instructions == int(row["masked_loop_instructions"])


def test_builds_run_on_later_chips_of_their_generation_and_on_no_other():
    tile = with_compiled(OURS, TILE, **{**KIND, "target": "sm_103"})
    assert tile.resources.made_by.startswith("sm_100 ")
    ada = with_compiled(OURS, TILE, **{**KIND, "target": "sm_89"})
    assert ada.resources.made_by.startswith("sm_80 ")
    consumer = with_compiled(OURS, TILE, **{**KIND, "target": "sm_121"})
    assert consumer.resources.made_by.startswith("sm_120 ")
    assert with_compiled(OURS, TILE, **{**KIND, "target": "sm_110"}).resources is None


def test_half_types_share_a_build_and_others_do_not():
    assert with_compiled(OURS, TILE, **{**KIND, "dtype": "fp16"}).resources is not None
    assert with_compiled(OURS, TILE, **{**KIND, "dtype": "fp8"}).resources is None


@pytest.mark.parametrize("change", [{"query": 64}, {"key": 32}, {"warps": 4}, {"stages": 2}])
def test_another_tile_is_another_build(change):
    assert with_compiled(OURS, replace(TILE, **change), **KIND).resources is None


def test_the_first_name_with_a_build_tells():
    both = replace(OURS, compiled=("nothing", "flash_attention"))
    assert with_compiled(both, TILE, **KIND) == with_compiled(OURS, TILE, **KIND)


def test_gradients_have_builds_of_their_own():
    tile = TileMapping(query=64, key=64, warps=8, stages=2)
    made = with_compiled(OURS, tile, **KIND, direction="bwd").resources
    (row,) = rows(
        kernel="flash_attention_gradients",
        variant="keys and values, causal",
        target="sm_100",
        dtype="bf16",
        head_dim="128",
    )
    assert made.registers == int(row["registers"])
    assert with_compiled(OURS, TILE, **KIND, direction="bwd").resources is None


def test_every_row_of_every_table_has_a_source():
    for name in TABLES:
        with (LIBRARY / name).open(encoding="utf-8", newline="") as file:
            assert all(row["source"] for row in csv.DictReader(file))


WORDS = find_kernel_mapping("flash_attention", "triton-cascade").modifications


@pytest.mark.parametrize("word", WORDS)
def test_modified_scores_take_the_tile_and_the_loop_that_were_compiled_for_them(word):
    """All of the table is found again, by the name of the implementation that a campaign gives its rows."""
    mapping = find_kernel_mapping("flash_attention", f"triton-cascade {word}")
    stored = rows(kernel="flash_attention", variant=f"causal {word}")
    assert {(r["dtype"], r["head_dim"]) for r in stored} == {
        *(("bf16", d) for d in ("64", "128", "256")),
        *(("fp32", d) for d in ("64", "128")),
    }
    for row in stored:
        kind = {"head_dim": int(row["head_dim"]), "target": row["target"], "dtype": row["dtype"]}
        for mask in ({"causal": True, "window": False}, {"causal": False, "window": True}):
            tile = with_compiled(mapping, mapping.tile(**kind, **mask), **kind, **mask)
            shape = [tile.query, tile.key, tile.warps, tile.stages, tile.resources.registers]
            assert shape == [int(row[n]) for n in ("block_m", "block_n", "warps", "stages", "registers")], row


def test_other_words_and_other_directions_take_what_they_took():
    plain = find_kernel_mapping("flash_attention", "triton-cascade")
    alibi = find_kernel_mapping("flash_attention", "triton-cascade alibi")
    assert find_kernel_mapping("flash_attention", "triton-cascade grouped-query") == plain
    back = {**KIND, "direction": "bwd"}
    assert alibi.tile(**back) == plain.tile(**back)
    assert alibi.tile(**KIND) != plain.tile(**KIND)
    # Of what nobody compiled, as float32 heads of 256, the tile of plain scores serves.
    wide = {**KIND, "head_dim": 256, "dtype": "fp32"}
    assert alibi.tile(**wide) == plain.tile(**wide)
