"""cascade sweep and cascade pareto on FuseMax, through the command line; mistakes are one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import mappings
import simulator as sim
from einsum_cascade import zoo
from einsum_cascade.sizes import parse_sizes
from simulator.dse import cli

SPEC = """
cascade: attention_1pass
hardware: fusemax
mapping: fusemax
sizes: BERT/64K,B=1
axes:
  hardware.N: [64, 128, 512]
  hardware.L3: [4 MiB, 16 MiB]
  hardware.memories.DRAM.bandwidth: [200 GiB/s, 400 GiB/s]
  sizes.seq: [4K, 16K]
where: ["hardware.N <= 256", "hardware.L3 * 2 >= 8 MiB"]
minimize: [latency_s, area_mm2]
"""


def cascade(*arguments: str | Path):
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(*arguments: str | Path) -> str:
    result = cascade(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    message = result.stderr.strip()
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    (folder / "spec.yaml").write_text(SPEC)
    result = cascade("sweep", folder / "spec.yaml", "--out", folder / "out", "--jobs", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["points"] == 16
    return folder / "out"


def test_every_row_is_what_simulate_says(swept):
    table = pd.read_parquet(swept / "table.parquet")
    axes = ["hardware.N", "hardware.L3", "hardware.memories.DRAM.bandwidth", "sizes.seq"]
    assert table.columns[:4].tolist() == axes
    assert len(table) == 16
    algorithm = zoo.load("attention_1pass")
    for row in table.to_dict("records")[::3]:
        changes = {k.removeprefix("hardware."): v for k, v in row.items() if k.startswith("hardware.")}
        sizes = parse_sizes(f"BERT/{row['sizes.seq']},B=1", algorithm)
        estimate = sim.simulate(
            algorithm, sizes, sim.load_hardware("fusemax", changes), mappings.load("fusemax")
        )
        for name in ("latency_s", "energy_j", "traffic_bytes", "area_mm2", "bound_by"):
            assert row[name] == getattr(estimate, name)
        assert {k: row[f"utilization.{k}"] for k in estimate.utilization} == estimate.utilization
        assert row["assumptions"] == len(estimate.assumptions)


def test_the_face_gives_the_same_table_in_memory(swept):
    space = sim.Space(
        {
            "hardware.N": [64, 128, 512],
            "hardware.L3": ["4 MiB", "16 MiB"],
            "hardware.memories.DRAM.bandwidth": ["200 GiB/s", "400 GiB/s"],
            "sizes.seq": ["4K", "16K"],
        },
        where=("hardware.N <= 256",),
    )
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax"}
    table = sim.sweep(space, sizes="BERT/64K,B=1", **fixed)
    pd.testing.assert_frame_equal(table, pd.read_parquet(swept / "table.parquet"), check_exact=True)
    objects = {
        "cascade": zoo.load("attention_1pass"),
        "hardware": "fusemax",
        "mapping": mappings.load("fusemax"),
    }
    pd.testing.assert_frame_equal(sim.sweep(space, sizes="BERT/64K,B=1", **objects), table, check_exact=True)


def test_inputs_and_fields_of_all_kinds_may_be_axes():
    axes = {
        "mapping": ["fusemax", "fusemax_stalled"],
        "sizes.model": ["BERT", "XLM"],
        "mapping.sizes.P1": [1, 2],
        "sizes.B": [1, 2],
    }
    table = sim.sweep(sim.Space(axes), cascade="attention_1pass", hardware="fusemax", sizes="BERT/4K")
    assert table["error"].isna().all()
    by = table.set_index(list(axes))["latency_s"]
    assert by["fusemax_stalled", "BERT", 1, 1] > by["fusemax", "BERT", 1, 1]
    assert by["fusemax", "BERT", 1, 2] == pytest.approx(2 * by["fusemax", "BERT", 1, 1])
    explicit = sim.sweep(
        sim.Space({"sizes.seq": ["1K", "4K"]}),
        cascade="attention_1pass",
        hardware="fusemax",
        mapping="fusemax",
        sizes="E=64,F=64,M=1K,P=1K,B=1,H=12",
    )
    assert explicit["latency_s"][1] == pytest.approx(by["fusemax", "BERT"].min())


def test_points_that_do_not_fit_say_so():
    space = sim.Space({"hardware.L3": ["64 KiB", "16 MiB"]})
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/64K"}
    table = sim.sweep(space, **fixed)
    assert "GlobalBuffer" in table["error"][0]
    assert pd.isna(table["error"][1])


def test_the_front_is_printed_sorted_and_as_json(swept):
    rows = json.loads(cascade("pareto", swept, "--min", "latency_s", "--min", "area_mm2", "--json").stdout)
    assert rows == json.loads(cascade("pareto", swept, "--json").stdout), "the objectives of the sweep file"
    assert [r["latency_s"] for r in rows] == sorted(r["latency_s"] for r in rows)
    assert {r["sizes.seq"] for r in rows} == {"4K"}
    grouped = json.loads(cascade("pareto", swept, "--by", "sizes.seq", "--json").stdout)
    assert {r["sizes.seq"] for r in grouped} == {"4K", "16K"}
    shown = cascade("pareto", swept, "--max", "utilization.PE2D", "--min", "latency_s")
    assert shown.exit_code == 0
    assert "Pareto front" in shown.stdout
    assert "--by sizes.seq" in shown.stderr


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_plot_has_labels_with_units(swept, tmp_path, kind):
    path = tmp_path / f"front.{kind}"
    result = cascade("pareto", swept, "--by", "sizes.seq", "--plot", path)
    assert result.exit_code == 0, result.output
    assert path.stat().st_size > 5000


def test_samples_and_derived_axes_in_a_file(tmp_path):
    text = SPEC[: SPEC.index("axes:")] + (
        "axes:\n  hardware.N: [64, 128, 256]\n"
        "  hardware.memories.DRAM.bandwidth: {from: 50, to: 800, log: true, unit: GiB/s}\n"
        "derive:\n  hardware.L3: {formula: hardware.N * 64, unit: KiB}\nsamples: 8\nseed: 1\n"
    )
    (tmp_path / "spec.yaml").write_text(text)
    assert cascade("sweep", tmp_path / "spec.yaml", "--out", tmp_path / "out", "--jobs", "1").exit_code == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) == 8
    assert (table["hardware.L3"] == (table["hardware.N"] * 64).astype(str) + " KiB").all()


def test_a_model_may_leave_its_length_to_an_axis(tmp_path):
    sweeps = {}
    for name in ("BERT/64K,B=1", "'BERT,B=1'"):
        path, out = tmp_path / "spec.yaml", tmp_path / str(len(sweeps))
        path.write_text(SPEC.replace("BERT/64K,B=1", name))
        assert cascade("sweep", path, "--out", out, "--jobs", "1").exit_code == 0
        sweeps[name] = pd.read_csv(out / "table.csv")
    with_length, without = sweeps.values()
    pd.testing.assert_frame_equal(with_length, without)


REPLACED = [
    ("cascade: attention_1pass", "cascade: attention_1pas", "did you mean 'attention_1pass'"),
    ("hardware: fusemax", "hardwear: fusemax", "unknown field 'hardwear'; did you mean 'hardware'"),
    ("hardware: fusemax", "hardware: fusemx", "did you mean 'fusemax'"),
    ("hardware: fusemax\n", "", "missing field 'hardware'"),
    ("cascade: attention_1pass\n", "", "what is to be swept?"),
    ("mapping: fusemax\n", "mapping: fusemax\nmapping: flat\n", "spec.yaml:5"),
    ("mapping: fusemax\n", "mapping: [fusemax]\n", "mapping: expected a name or a path"),
    ("sizes: BERT/64K,B=1", "sizes: BURT/64K", "unknown model 'BURT'"),
    ("sizes: BERT/64K,B=1", "sizes: E=64", "needs the size of"),
    ("sizes: BERT/64K,B=1", "sizes: 64", "unknown model '64'"),
    ("sizes: BERT/64K,B=1", "sizes: 'E=64,F=64,8,P=1K,M=1K'", "'8' in 'E=64,F=64,8,"),
    ("sizes: BERT/64K,B=1", "sizes: 'E=64,F=64,P=1K,M=1K,E=8'", "E is given twice"),
    ("hardware.N: [64, 128, 512]", "hardware.N: [64]\n  hardware.NN: [64]", "no parameter or field 'NN'"),
    (
        "hardware.N: [64, 128, 512]",
        "hardwear.N: [64]",
        "unknown axis 'hardwear.N'; did you mean 'hardware.N'",
    ),
    ("hardware.N: [64, 128, 512]", "hardware.N: []", "the list of values is empty"),
    ("hardware.N: [64, 128, 512]", "hardware.N: 64", "expected a list of values"),
    ("hardware.N: [64, 128, 512]", "hardware.N: [64, 64]", "64 is given twice"),
    ("hardware.N: [64, 128, 512]", "hardware.N: {from: 1, too: 2}", "unknown field 'too'"),
    ("hardware.N: [64, 128, 512]", "hardware.N: {from: 1, to: 2}", "how many points"),
    ("[4 MiB, 16 MiB]", "[4 MiB, 16 MiBB]", "16 MiBB"),
    ("[200 GiB/s, 400 GiB/s]", "[200, 400]", "write the unit"),
    ("sizes.seq: [4K, 16K]", "sizes.Q: [4K]", "has no rank Q"),
    ("sizes.seq: [4K, 16K]", "sizes.seq: [4K, 4.3]", "whole number"),
    ("hardware.N <= 256", "hardware.M <= 256", "unknown axis 'hardware.M'; did you mean 'hardware.N'"),
    ("hardware.N <= 256", "hardware.N <= 1", "no point"),
    ("hardware.N <= 256", "hardware.N", "a constraint compares"),
    ("minimize: [latency_s, area_mm2]", "minimise: [latency_s]", "did you mean 'minimize'"),
    ("minimize: [latency_s, area_mm2]", "minimize: {latency_s: 1}", "expected a list of columns"),
    (
        "minimize: [latency_s, area_mm2]",
        "minimize: [latencys]",
        "unknown column 'latencys'; did you mean 'latency_s'",
    ),
    ("minimize: [latency_s, area_mm2]", "maximize: utilization.PE2", "did you mean 'utilization.PE2D'"),
    ("minimize: [latency_s, area_mm2]", "minimize: [bound_by]", "'bound_by' holds texts"),
    ("minimize: [latency_s, area_mm2]", "minimize: [latency_s]\nmaximize: [latency_s]", "objective twice"),
    ("minimize: [latency_s, area_mm2]", "samples: -3", "whole number from 1"),
    ("minimize: [latency_s, area_mm2]", "seed: x", "seed: expected a whole number"),
    (SPEC, "- 1\n", "expected one document of fields"),
    (SPEC, "cascade: attention_1pass\n", "missing field 'axes'"),
    (SPEC, "", "is empty"),
]


@pytest.mark.parametrize(
    ("found", "given", "message"), REPLACED, ids=[g.strip()[:40] for _, g, _ in REPLACED]
)
def test_a_wrong_file_is_one_clear_line(tmp_path, found, given, message):
    assert found in SPEC
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace(found, given, 1))
    said = refused("sweep", path, "--out", tmp_path / "out", "--jobs", "1")
    assert message in said
    assert not (tmp_path / "out").exists(), "nothing is written for a file that is wrong"


def test_other_mistakes(swept, tmp_path):
    assert "no such file" in refused("sweep", tmp_path / "none.yaml", "--out", tmp_path / "out")
    spec = swept.parent / "spec.yaml"
    assert "from 1, found 0" in refused("sweep", spec, "--out", tmp_path / "out", "--jobs", "0")
    both = refused("sweep", spec, "--out", tmp_path, "--jobs", "2", "--scheduler", "tcp://127.0.0.1:9")
    assert "exclude each other" in both
    (tmp_path / "file").write_text("")
    assert "cannot write here" in refused("sweep", spec, "--out", tmp_path / "file", "--jobs", "1")
    assert "no sweep here" in refused("pareto", tmp_path, "--min", "latency_s")
    assert "did you mean 'latency_s'" in refused("pareto", swept, "--min", "latency")
    assert "holds texts" in refused("pareto", swept, "--min", "bound_by")
    assert "unknown column 'nope'" in refused("pareto", swept, "--by", "nope")
    assert "ends in .svg" in refused("pareto", swept, "--plot", tmp_path / "front.doc")
    assert "two objectives" in refused("pareto", swept, "--min", "latency_s", "--plot", tmp_path / "f.svg")
    assert "cannot write" in refused("pareto", swept, "--plot", tmp_path / "none" / "f.svg")


def test_another_sweep_into_the_same_folder_is_refused_and_a_larger_one_goes_on(tmp_path):
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(SPEC)
    assert cascade("sweep", spec, "--out", out, "--jobs", "1").exit_code == 0
    before = (out / "table.parquet").read_bytes()
    spec.write_text(SPEC.replace("mapping: fusemax", "mapping: fusemax_stalled"))
    said = refused("sweep", spec, "--out", out, "--jobs", "1")
    assert "this folder holds another sweep: inputs.mapping was fusemax, is fusemax_stalled" in said
    assert (out / "table.parquet").read_bytes() == before
    larger = SPEC.replace("[4K, 16K]", "[4K, 16K, 64K]").replace("latency_s, area_mm2", "energy_j")
    spec.write_text(larger)
    assert cascade("sweep", spec, "--out", out, "--jobs", "1").exit_code == 0
    assert len(pd.read_parquet(out / "table.parquet")) == 24


def test_whole_numbers_of_the_front_stay_whole_though_points_failed(tmp_path):
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(
        SPEC.replace("[4 MiB, 16 MiB]", "[64 KiB, 16 MiB]").replace(', "hardware.L3 * 2 >= 8 MiB"', "")
    )
    ran = json.loads(cascade("sweep", spec, "--out", out, "--jobs", "1", "--json").stdout)
    assert 0 < ran["failed"] < ran["points"]
    for row in json.loads(cascade("pareto", out, "--json").stdout):
        for name in ("assumptions", "hardware.N"):
            assert type(row[name]) is int, name
        assert type(row["latency_s"]) is float


def test_a_sweep_of_nothing_but_failures(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("[4 MiB, 16 MiB]", "[4 KiB]").replace(', "hardware.L3 * 2 >= 8 MiB"', ""))
    assert "all 8 points fail; most often:" in refused(
        "sweep", path, "--out", tmp_path / "out", "--jobs", "1"
    )


def test_sensitivity_goes_from_the_first_value_of_the_file_to_the_last(tmp_path):
    # The constraint leaves the array of 64 to stand first in the table; the file's first one is 256.
    changed = SPEC.replace("[64, 128, 512]", "[256, 64]").replace(
        'where: ["hardware.N <= 256", "hardware.L3 * 2 >= 8 MiB"]',
        'where: ["hardware.N < 256 or hardware.L3 > 4 MiB"]',
    )
    (tmp_path / "spec.yaml").write_text(changed)
    assert cascade("sweep", tmp_path / "spec.yaml", "--out", tmp_path / "out", "--jobs", "1").exit_code == 0
    rows = json.loads(cascade("sensitivity", tmp_path / "out", "--of", "latency_s", "--json").stdout)
    (array,) = [row for row in rows if row["axis"] == "hardware.N"]
    assert array["last_to_first"] == pytest.approx(array["typical"])
    assert array["last_to_first"] > 10


def test_a_front_of_amounts(tmp_path):
    """Latency against the bandwidth that it takes: what stands for the cost of a GPU, which has no area."""
    (tmp_path / "spec.yaml").write_text(
        SPEC.replace("latency_s, area_mm2", "latency_s, hardware.memories.DRAM.bandwidth")
    )
    assert cascade("sweep", tmp_path / "spec.yaml", "--out", tmp_path / "out", "--jobs", "1").exit_code == 0
    shown = cascade(
        "pareto", tmp_path / "out", "--by", "sizes.seq", "--plot", tmp_path / "front.svg", "--json"
    )
    rows = json.loads(shown.stdout)
    # Bound by the arrays: the least bandwidth is as fast as any.
    assert {row["hardware.memories.DRAM.bandwidth"] for row in rows} == {"200 GiB/s"}
    assert {row["hardware.N"] for row in rows} == {128}
    assert (tmp_path / "front.svg").stat().st_size > 0
    larger = json.loads(cascade("pareto", tmp_path / "out", "--max", "hardware.L3", "--json").stdout)
    assert {row["hardware.L3"] for row in larger} == {"16 MiB"}


def test_a_folder_whose_name_the_locale_cannot_say(tmp_path):
    (tmp_path / "swéep.yaml").write_text(SPEC.replace("[64, 128, 512]", "[64]"), encoding="utf-8")
    code = "import typer; from simulator.dse import cli; app = typer.Typer(); cli.register(app); app()"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (
        ["sweep", "swéep.yaml", "--out", "öut", "--jobs", "1"],
        ["pareto", "öut"],
        ["explore", "öut"],
    ):
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=plain,
            capture_output=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
    assert len(pd.read_parquet(tmp_path / "öut" / "table.parquet")) == 8


def test_a_front_within_a_budget(swept):
    table = pd.read_parquet(swept / "table.parquet")
    budget = float(table["area_mm2"].median())
    asked = ["pareto", swept, "--by", "sizes.seq", "--json", "--where", f"area_mm2 <= {budget!r}"]
    rows = json.loads(cascade(*asked).stdout)
    fit = table[table["area_mm2"] <= budget]
    wanted = sim.pareto(fit, minimize=["latency_s", "area_mm2"], by=["sizes.seq"])
    assert [row["latency_s"] for row in rows] == wanted["latency_s"].tolist()
    assert 0 < len(fit) < len(table)
    both = json.loads(cascade(*asked, "--where", "hardware.L3 > 4 MiB and bound_by != 'DRAM'").stdout)
    assert {row["hardware.L3"] for row in both} == {"16 MiB"}
    assert "none of 16 designs meets 'area_mm2 <= 1'" in refused("pareto", swept, "--where", "area_mm2 <= 1")
    assert "did you mean 'area_mm2'" in refused("pareto", swept, "--where", "area_mm <= 1")
    assert "a constraint compares" in refused("pareto", swept, "--where", "area_mm2")


def test_energy_times_delay_from_the_file_to_the_page(tmp_path):
    """A sweep file may minimise a formula; the front is that of the products of two columns of its table."""
    spec = tmp_path / "sweep.yaml"
    spec.write_text(
        "cascade: attention_1pass\nhardware: fusemax\nmapping: fusemax\nsizes: BERT/4K\n"
        "axes: {hardware.N: [32, 64, 128, 256]}\nminimize: [latency_s * energy_j, area_mm2]\n"
    )
    assert cascade("sweep", spec, "--out", tmp_path / "run", "--jobs", "1").exit_code == 0
    rows = pd.read_csv(tmp_path / "run" / "table.csv")
    result = cascade("pareto", tmp_path / "run", "--json")
    front = json.loads(result.stdout)
    products = {
        int(n): x for n, x in zip(rows["hardware.N"], rows["latency_s"] * rows["energy_j"], strict=True)
    }
    for row in front:
        assert row["latency_s * energy_j"] == pytest.approx(products[row["hardware.N"]], rel=1e-12)
    best = min(products, key=products.get)
    assert min(front, key=lambda r: r["latency_s * energy_j"])["hardware.N"] == best
    moved = cascade("sensitivity", tmp_path / "run", "--json")
    assert {r["objective"] for r in json.loads(moved.stdout)} == {"latency_s * energy_j", "area_mm2"}
    plot = tmp_path / "front.svg"
    drawn = cascade("pareto", tmp_path / "run", "--plot", plot)
    assert drawn.exit_code == 0 and "latency_s * energy_j" in plot.read_text(encoding="utf-8")
    assert cascade("explore", tmp_path / "run").exit_code == 0
    assert "latency_s * energy_j" in (tmp_path / "run" / "explore.html").read_text(encoding="utf-8")
