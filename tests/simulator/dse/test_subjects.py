"""Kernels on GPUs and neighbourhood settings by the same files; every row is what the simulator itself says."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import mappings
import simulator as sim
from einsum_cascade import zoo
from einsum_cascade.errors import DataError, ModelError
from einsum_cascade.sizes import parse_sizes
from simulator.dse import cli
from simulator.spatial.default import default_mapping
from simulator.spatial.model import simulate
from simulator.spatial.request import resolve

KERNEL = """
kernel: flash_attention
hardware: h100
sizes: {batch: 4, heads: 32, seq_q: 4K, head_dim: 128, dtype: bf16}
axes:
  sizes.seq_q: [4K, 16K]
  sizes.causal: [0, 1]
  hardware.clock: [1.2 GHz, 1.7 GHz]
minimize: [latency_s]
"""
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


def run(*arguments: str | Path):
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def swept(folder: Path, text: str) -> pd.DataFrame:
    (folder / "spec.yaml").write_text(text)
    run("sweep", folder / "spec.yaml", "--out", folder / "out", "--jobs", "1")
    return pd.read_parquet(folder / "out" / "table.parquet")


def test_a_kernel_on_a_gpu(tmp_path):
    table = swept(tmp_path, KERNEL)
    assert len(table) == 8
    for row in table.to_dict("records"):
        gpu = sim.load_hardware("h100", {"clock": row["hardware.clock"]})
        call = {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
        found = sim.predict(
            "flash_attention", on=gpu, seq_q=row["sizes.seq_q"], causal=row["sizes.causal"], **call
        )
        assert row["latency_s"] == found.latency_s
        assert row["bound_by"] == found.bound_by
        assert row["tiles.skipped"] == found.tiles["skipped"]
    assert len(json.loads(run("pareto", tmp_path / "out", "--by", "sizes.seq_q", "--json").stdout)) == 2


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


MASKED = """
kernel: flash_attention
mask: arrow_attention
hardware: h100
sizes: {batch: 4, heads: 32, head_dim: 128}
axes:
  sizes.seq_q: [4K, 8K]
  sizes.R: [64, 1K]
minimize: [latency_s]
"""


def test_a_kernel_under_the_mask_of_a_cascade(tmp_path):
    table = swept(tmp_path, MASKED)
    assert len(table) == 4
    call = {"batch": 4, "heads": 32, "head_dim": 128, "cascade": zoo.load("arrow_attention")}
    for row in table.to_dict("records"):
        found = sim.predict("flash_attention", on="h100", seq_q=row["sizes.seq_q"], R=row["sizes.R"], **call)
        assert row["latency_s"] == found.latency_s
        assert row["tiles.skipped"] == found.tiles["skipped"]
    (tmp_path / "lacking").mkdir()
    with pytest.raises(AssertionError, match="needs the size of R"):
        swept(tmp_path / "lacking", MASKED.replace("  sizes.R: [64, 1K]\n", ""))


def test_a_kernel_on_a_gpu_with_more_of_one_pipe(tmp_path):
    axes = "  hardware.exp_per_cycle: [x0.25, x1, x2]\n  hardware.l2: [x0.5, x1]\n  sizes.seq_q: [512, 8K]\n"
    head, _, tail = KERNEL.partition("axes:\n")
    table = swept(tmp_path, head + "axes:\n" + axes + "minimize" + tail.partition("minimize")[2])
    by = table.set_index(["sizes.seq_q", "hardware.l2", "hardware.exp_per_cycle"])["latency_s"]
    assert by["8K", "x1", "x0.25"] > 1.2 * by["8K", "x1", "x1"] >= by["8K", "x1", "x2"]
    assert by["512", "x0.5", "x1"] > by["512", "x1", "x1"]
    gpu = sim.load_hardware("h100", {"exp_per_cycle": "x2", "l2": "25 MiB"})
    call = {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
    found = sim.predict("flash_attention", on=gpu, seq_q=512, **call)
    assert by["512", "x0.5", "x2"] == found.latency_s


def test_gradients_by_the_name_that_predict_takes(tmp_path):
    table = swept(tmp_path, KERNEL.replace("flash_attention", "flash_attention_gradients"))
    call = {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
    for row in table.to_dict("records"):
        gpu = sim.load_hardware("h100", {"clock": row["hardware.clock"]})
        words = {"seq_q": row["sizes.seq_q"], "causal": row["sizes.causal"]}
        both = [
            sim.predict("flash_attention", on=gpu, direction=d, **words, **call).latency_s
            for d in ("fwd", "bwd")
        ]
        assert row["latency_s"] == pytest.approx(sum(both), rel=1e-12)


OWN = """
kind: gpu
name: copies
kernel: copies
implementations: ["*"]
family: copies
source: "written for a test"
tiles: [{query: 64, key: 1, warps: 4}]
grids:
- {name: copy, blocks: "batch * heads", steps: 1, step: {loads: 1024}, reads: "WORDS * batch * seq_q * word", writes: 0}
"""


def test_a_kernel_of_your_own_by_its_mapping_files(tmp_path):
    for name, factor in (("once", "1"), ("twice", "2")):
        (tmp_path / f"{name}.yaml").write_text(OWN.replace("WORDS", factor))
    files = [str(tmp_path / f"{name}.yaml") for name in ("once", "twice")]
    text = f"""
kernel: copies
sizes: {{batch: 64, heads: 8}}
axes:
  mapping: {files}
  hardware: [a100, h100]
  sizes.seq_q: [64K, 1M]
minimize: [latency_s]
"""
    table = swept(tmp_path, text)
    assert len(table) == 8
    for row in table.to_dict("records"):
        found = sim.predict(
            "copies", on=row["hardware"], mapping=row["mapping"], batch=64, heads=8, seq_q=row["sizes.seq_q"]
        )
        assert row["latency_s"] == found.latency_s
    (tmp_path / "lacking").mkdir()
    with pytest.raises(AssertionError, match=r"none\.yaml: .*no such file"):
        swept(tmp_path / "lacking", text.replace("once.yaml", "none.yaml"))


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (KERNEL, ("flash_attention", "flash_atention"), "flash_attention"),
        (KERNEL, ("hardware: h100", "hardware: fusemax"), "not a GPU"),
        (KERNEL, ("heads: 32", "head: 32"), "unknown size 'head'"),
        (KERNEL, ("hardware.clock", "hardware.klock"), "klock"),
        (KERNEL, ("hardware.clock", "mapping.tile"), "unknown axis 'mapping.tile'"),
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
        (TIMED, ("axes:", "head_dim: 40\naxes:"), "hopper-fna cannot run 40"),
        (TIMED, ("axes:", "heads: many\naxes:"), "heads: found 'many', expected a whole number"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, given, message):
    (tmp_path / "spec.yaml").write_text(text.replace(*given))
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)
    result = CliRunner().invoke(app, ["sweep", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_tile_that_the_user_states_wins_as_in_simulate():
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax"}
    table = sim.sweep(sim.Space({"sizes.M0": [64, 128, 256]}), sizes="BERT/4K", **fixed)
    for row in table.to_dict("records"):
        sizes = f"BERT/4K,M0={row['sizes.M0']}"
        asked = resolve("attention_1pass", on="fusemax", mapping="fusemax", sizes=sizes)
        assert (
            row["latency_s"] == simulate(asked.cascade, asked.sizes, asked.hardware, asked.mapping).latency_s
        )
    assert table["latency_s"].nunique() == 3


def test_inputs_that_contradict_or_lack():
    space = sim.Space({"mapping": ["fusemax"]})
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "sizes": "BERT/4K"}
    with pytest.raises(DataError, match="'mapping' is both a field and an axis"):
        sim.sweep(space, mapping="fusemax", **fixed)
    with pytest.raises(DataError, match=r"missing field 'mapping'; 'mapping.sizes.P1' is a field of it"):
        sim.sweep(sim.Space({"mapping.sizes.P1": [1, 2]}), **fixed)
    with pytest.raises(DataError, match="missing field 'sizes'"):
        sim.sweep(sim.Space({"hardware.N": [64]}), **{k: v for k, v in fixed.items() if k != "sizes"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'mappings'"):
        sim.sweep(space, mappings="x", **fixed)
    with pytest.raises(DataError, match="cannot be set on an object"):
        sim.sweep(
            sim.Space({"hardware.N": [64]}),
            **{**fixed, "hardware": sim.load_hardware("fusemax")},
            mapping="fusemax",
        )
    with pytest.raises(ModelError, match="GPU"):
        sim.sweep(sim.Space({"sizes.seq": ["4K"]}), **{**fixed, "hardware": "h100"}, mapping="fusemax")


def test_without_a_mapping_one_is_made_for_each_point():
    fixed = {"hardware": "fusemax", "sizes": "BERT/4K,B=1"}
    axes = {
        "cascade": ["attention_1pass", "attention_3pass"],
        "hardware.N": [64, 128],
        "sizes.seq": ["1K", "4K"],
    }
    table = sim.sweep(sim.Space(axes), **fixed)
    for row in table.to_dict("records"):
        settings = [f"hardware.N={row['hardware.N']}"]
        asked = resolve(
            row["cascade"], on="fusemax", mapping="", sizes=f"BERT/{row['sizes.seq']},B=1", settings=settings
        )
        found = simulate(asked.cascade, asked.sizes, asked.hardware, asked.mapping)
        assert row["latency_s"] == found.latency_s


def test_objects_are_taken_as_names_are(tmp_path):
    space = sim.Space({"sizes.seq": ["4K", "16K"]})
    names = {
        "cascade": "attention_1pass",
        "hardware": "fusemax",
        "mapping": "fusemax",
        "sizes": "BERT/4K,B=1",
    }
    table = sim.sweep(space, **names)
    sizes = {"B": 1, "H": 12, "E": 64, "F": 64, "M": 4096, "P": 4096}
    objects = {
        "cascade": zoo.load("attention_1pass"),
        "hardware": sim.load_hardware("fusemax"),
        "mapping": mappings.load("fusemax"),
        "sizes": sizes,
    }
    given = sim.sweep(space, **objects, jobs=2, out=tmp_path)
    pd.testing.assert_frame_equal(given, table, check_exact=True)
    for root in ("cascade", "hardware", "mapping"):
        wrong = {**objects, root: sim.load_hardware("h100")}
        with pytest.raises(DataError, match=rf"{root}: expected .*found Gpu 'h100'"):
            sim.sweep(space, **wrong)
    with pytest.raises(
        DataError, match="axis 'hardware': expected finite numbers or texts, found SpatialChip fusemax"
    ):
        sim.Space({"hardware": [objects["hardware"]]})


def test_a_table_of_sizes_is_taken_as_its_text_is():
    """`parse_sizes` fills in a tile; only one that a user chose wins over the mapping's."""
    flash = zoo.load("attention_1pass")
    fixed = {"cascade": flash, "hardware": "fusemax", "mapping": "fusemax"}
    for text in ("BERT/1K", "BERT/1K,M0=128", "BERT/1K,M1=8"):
        space = sim.Space({"hardware.N": [64, 256], "sizes.B": [1, 2]})
        by_text = sim.sweep(space, **fixed, sizes=text)
        by_table = sim.sweep(space, **fixed, sizes=parse_sizes(text, flash))
        pd.testing.assert_frame_equal(by_table, by_text, check_exact=True)
    space = sim.Space({"sizes.seq": ["1K", "4K"]})
    table = sim.sweep(space, **fixed, sizes=parse_sizes("BERT/1K", flash))
    pd.testing.assert_frame_equal(table, sim.sweep(space, **fixed, sizes="BERT/1K"), check_exact=True)


def test_sensitivity_and_the_page_by_command(tmp_path):
    swept(tmp_path, NEIGHBOURHOOD)
    rows = json.loads(run("sensitivity", tmp_path / "out", "--of", "tile_speedup", "--json").stdout)
    assert {r["axis"] for r in rows} == {"stride", "kv_tile"}
    assert "stride" in run("sensitivity", tmp_path / "out").stdout
    written = json.loads(run("explore", tmp_path / "out", "--json").stdout)
    assert Path(written["page"]).stat().st_size == written["bytes"] > 10_000


TEXT = """
cascade: attention_3pass
sizes: BERT/64K
axes:
  hardware: [a100, h100]
  sizes.seq: [1K, 4K]
  implementation: [fused, eager]
minimize: [latency_s]
"""


def test_a_cascade_on_gpus_is_swept_as_it_is_predicted(tmp_path):
    """The same words as on a spatial machine; the machine tells that it is a GPU."""
    (tmp_path / "text.yaml").write_text(TEXT)
    run("sweep", tmp_path / "text.yaml", "--out", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "table.parquet")
    assert len(table) == 8
    for row in table.to_dict("records"):
        told = sim.predict_cascade(
            zoo.load("attention_3pass"),
            f"BERT/{row['sizes.seq']}",
            on=row["hardware"],
            implementation=row["implementation"],
        )
        assert row["latency_s"] == told.latency_s
        assert row["launches"] == len(told.launches)
        assert row["traffic_bytes"] == sum(each["bytes"] for each in told.launches)


def test_kernels_and_types_of_a_cascade_are_axes_too():
    table = sim.sweep(
        sim.Space({"kernels": ["QK/GM+SN+SD+A/AV", "QK+GM/SN+SD+A/AV"], "dtype": ["bf16", "fp32"]}),
        cascade="attention_3pass",
        hardware="h100",
        sizes="BERT/1K",
    )
    assert set(table["launches"]) == {3}
    assert table["latency_s"].nunique() == 4


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"hardware": "h100", "mapping": "fusemax"}, "h100 is a GPU; expected a spatial chip"),
        ({"hardware": "h100", "sizes": "E=3"}, "F, M, P"),
        ({"hardware": "h100", "implementation": "lazy"}, "eager, fused"),
        ({"hardware": "h100", "dtype": 16}, "dtype: expected a word"),
        ({"hardware": "fusemax", "dtype": "bf16"}, "dtype"),
    ],
)
def test_what_a_cascade_on_a_gpu_does_not_take(inputs, message):
    given = {"cascade": "attention_3pass", "sizes": "BERT/1K", **inputs}
    with pytest.raises((ModelError, TypeError)) as error:
        sim.sweep(sim.Space({"hardware.clock": ["x1", "x2"]}), **given)
    assert message in str(error.value)


def test_windows_and_heads_are_different_work(tmp_path):
    text = NEIGHBOURHOOD.replace("window: [18, 24, 24]\n", "").replace(
        "axes:", 'axes:\n  window: ["18,24,24", "16,16,16"]'
    )
    table = swept(tmp_path, text)
    assert table["window"].nunique() == 2
    assert "one front for each: --by window" in run("pareto", tmp_path / "out").stderr


def test_a_cascade_on_machines_of_both_kinds(tmp_path):
    text = """
cascade: attention_1pass
sizes: BERT,B=1
axes:
  hardware: [h100, fusemax, b200, edge]
  sizes.seq: [1K, 64K]
minimize: [latency_s]
"""
    table = swept(tmp_path, text)
    assert len(table) == 8
    cascade = zoo.load("attention_1pass")
    for row in table.to_dict("records"):
        sizes = parse_sizes(f"BERT/{row['sizes.seq']},B=1", cascade)
        if row["hardware"] in ("h100", "b200"):
            found = sim.predict_cascade(cascade, sizes, on=row["hardware"])
            assert pd.isna(row["area_mm2"])
        else:
            chip = sim.load_hardware(row["hardware"])
            found = simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))
            assert pd.isna(row["high_s"])
        assert row["latency_s"] == found.latency_s
    # A field of one kind alone is told, for no point of the other can have it.
    (tmp_path / "field").mkdir()
    with pytest.raises(AssertionError, match="hardware: fusemax: "):
        swept(tmp_path / "field", text.replace("axes:", "axes:\n  hardware.sms: [66, 132]"))
