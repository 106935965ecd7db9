"""Sweeps of settings of neighbourhood attention, counted or timed on a GPU; every row is what is said one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweeping import refused, run, swept

import simulator as sim

NEIGHBOURHOOD = """
layout: [30, 48, 80]
window: [18, 24, 24]
q_tile: [4, 8, 8]
axes:
  stride: [[1, 1, 1], [16, 8, 8], "1,8,8"]
  kv_tile: ["2,8,8", [4, 4, 8]]
maximize: [tile_speedup]
"""
TIMED = """
layout: [30, 48, 80]
window: [18, 24, 24]
q_tile: [4, 4, 8]
kv_tile: [4, 4, 8]
hardware: h100
axes:
  stride: [[1, 1, 1], [16, 8, 8]]
  hardware.exp_per_cycle: [x0.25, x1, x2, 4]
  hardware.l2_bandwidth: [x0.5, x1]
  hardware.sms: [66, 132]
minimize: [latency_s]
"""


def test_neighbourhood_settings(tmp_path):
    table = swept(tmp_path, NEIGHBOURHOOD)
    assert table["stride"].tolist() == ["1,1,1", "1,1,1", "16,8,8", "16,8,8", "1,8,8", "1,8,8"]
    row = table[(table["stride"] == "16,8,8") & (table["kv_tile"] == "2,8,8")].iloc[0]
    found = sim.gna_bounds(
        layout=(30, 48, 80), window=(18, 24, 24), stride=(16, 8, 8), q_tile=(4, 8, 8), kv_tile=(2, 8, 8)
    )
    assert row["visited"] == found.visited
    assert row["tile_speedup"] == found.tile_speedup
    two = run("pareto", tmp_path / "out", "--max", "flop_speedup", "--min", "visited")
    assert "knee: stride" in two.stderr
    best = json.loads(run("pareto", tmp_path / "out", "--json").stdout)
    assert best[0]["tile_speedup"] == table["tile_speedup"].max()


def test_neighbourhood_attention_on_a_gpu_whose_numbers_change(tmp_path):
    table = swept(tmp_path, TIMED)
    assert len(table) == 32
    for row in table.to_dict("records"):
        fields = ("exp_per_cycle", "l2_bandwidth", "sms")
        gpu = sim.load_hardware("h100", {f: row[f"hardware.{f}"] for f in fields})
        found = sim.predict_gna(
            layout=(30, 48, 80),
            window=(18, 24, 24),
            stride=[int(s) for s in row["stride"].split(",")],
            q_tile=(4, 4, 8),
            kv_tile=(4, 4, 8),
            on=gpu,
            heads=24,
        )
        assert row["latency_s"] == found.latency_s
        assert row["speedup"] == found.speedup
        assert row["steps"] == found.steps
        assert row["backend"] == "hopper-fna"
    times = table[table["stride"] == "16,8,8"].groupby("hardware.exp_per_cycle")["latency_s"].mean()
    assert times["4"] == times["x0.25"] > times["x1"] >= times["x2"]
    assert table.loc[table["hardware.exp_per_cycle"] == "4", "fitted"].eq(False).all()


def test_a_factor_is_a_number_to_a_constraint(tmp_path):
    text = TIMED.replace("minimize:", 'where: ["hardware.l2_bandwidth < 1"]\nminimize:').replace(", 4]", "]")
    assert swept(tmp_path, text)["hardware.l2_bandwidth"].unique().tolist() == ["x0.5"]


def test_windows_and_heads_are_different_work(tmp_path):
    text = NEIGHBOURHOOD.replace("window: [18, 24, 24]\n", "").replace(
        "axes:", 'axes:\n  window: ["18,24,24", "16,16,16"]'
    )
    table = swept(tmp_path, text)
    assert table["window"].nunique() == 2
    assert "one front for each: --by window" in run("pareto", tmp_path / "out").stderr


def test_sensitivity_and_the_page_by_command(tmp_path):
    swept(tmp_path, NEIGHBOURHOOD)
    rows = json.loads(run("sensitivity", tmp_path / "out", "--of", "tile_speedup", "--json").stdout)
    assert {r["axis"] for r in rows} == {"stride", "kv_tile"}
    assert "stride" in run("sensitivity", tmp_path / "out").stdout
    written = json.loads(run("explore", tmp_path / "out", "--json").stdout)
    assert Path(written["page"]).stat().st_size == written["bytes"] > 10_000


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (NEIGHBOURHOOD, ("window: [18, 24, 24]", "window: 18,x,24"), "expected whole numbers"),
        (NEIGHBOURHOOD, ("axes:", "mapping: fusemax\naxes:"), "unknown field 'mapping'"),
        (NEIGHBOURHOOD, ("axes:", "heads: 8\naxes:"), "heads: only a time depends on it"),
        (NEIGHBOURHOOD, ("axes:", "backend: flex-fna\naxes:"), "backend: only a time depends on it"),
        (
            NEIGHBOURHOOD,
            ("axes:", "axes:\n  hardware.sms: [66]"),
            "missing field 'hardware'; 'hardware.sms' is",
        ),
        (TIMED, ("hardware: h100", "hardware: fusemax"), "not a GPU"),
        (TIMED, ("hardware.l2_bandwidth", "hardware.l2_bandwith"), "did you mean 'l2_bandwidth'"),
        (TIMED, ("[x0.5, x1]", "[x0.5, y1]"), "y1"),
        (TIMED, ("axes:", "dynamic: 1\naxes:"), "dynamic: the kernel decides on a GPU"),
        (TIMED, ("axes:", "backend: hoper-fna\naxes:"), "did you mean 'hopper-fna'"),
        (TIMED, ("axes:", "backend: blackwell-fna\naxes:"), "does not run on h100"),
        (TIMED, ("axes:", "head_dim: 40\nbackend: hopper-fna\naxes:"), "hopper-fna cannot run 40"),
        (TIMED, ("axes:", "heads: many\naxes:"), "heads: found 'many', expected a whole number"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, given, message):
    assert message in refused(tmp_path, text.replace(*given))
