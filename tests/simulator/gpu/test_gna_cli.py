"""The GNA commands: JSON alone on stdout, a table for people, one line and exit 2 for mistakes."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner, Result

from simulator.gpu import gna_cli

FLUX = ["--layout", "256,256", "--window", "80", "--q-tile", "16,16", "--kv-tile", "16,8"]
CONTRACT = (
    "q_tiles", "kv_tiles", "visited", "dense", "partial", "pairs", "per_q_min", "per_q_max", "flop_speedup",
    "tile_speedup", "worst_tile_speedup", "fully_block_sparse", "natten_fast_path",
)  # fmt: skip


def run(*words: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)  # with a single command typer would drop its name
    gna_cli.register(app)
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def test_json_holds_the_promised_fields() -> None:
    result = run("gna", *FLUX, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(CONTRACT) <= set(found)
    assert (found["visited"], found["dense"], found["per_q_max"]) == (18564, 8004, 84)
    assert found["fully_block_sparse"] is False
    assert found["stride"] == [1, 1]


def test_every_option_reaches_the_count() -> None:
    more = ["--stride", "16,8", "--dilation", "2,1", "--causal", "0,1", "--dynamic"]
    found = json.loads(run("gna", *FLUX, *more, "--json").stdout)
    assert found["stride"] == [16, 8]
    assert found["dilation"] == [2, 1]
    assert found["causal"] == [False, True]
    assert found["dynamic"] is True


def test_the_table_explains_its_numbers() -> None:
    result = run("gna", *FLUX)
    assert result.exit_code == 0
    for words in ("FLOP bound", "tile bound", "worst-tile figure", "no bound"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", "80,many"], "--window: expected a whole number, found 'many'"),
        (
            ["--layout", "9999999999999"],
            "--layout: expected at most 1,099,511,627,776, found '9999999999999'",
        ),
        (["--backend", "hopper-fna"], "--backend: 'hopper-fna' is a kernel of a GPU; expected --on too"),
        (["--window", "1"], "window: 1 is too small"),
        (["--stride", "81"], "stride: 81 is larger than the window 80"),
        (["--dilation", "4"], "longer than the layout's 256"),
        (["--q-tile", "16,0"], "q_tile: 0 is not a tile"),
        (["--layout", "8,8,8,8"], "found 4 axes"),
        (["--window", "80,80,80"], "found 3 numbers"),
        (["--layout", "4G,256"], "axis 0: layout: 4294967296 is too long"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_2(words: list[str], said: str) -> None:
    result = run("gna", *FLUX, *words, "--json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert json.loads(result.stdout) == {"ok": False, "error": result.stderr.strip()}
    assert len(result.stderr.strip().splitlines()) == 1


def test_numbers_are_written_as_in_sizes() -> None:
    tiles = ["--q-tile", "128", "--kv-tile", "128", "--json"]
    found = [
        json.loads(run("gna", "--layout", layout, "--window", window, *tiles).stdout)
        for layout, window in (("32768", "2048"), ("32k", "2K"), ("32K", "2k"))
    ]
    assert found[0] == found[1] == found[2]


def test_a_missing_option_is_a_mistake() -> None:
    assert run("gna", "--layout", "256").exit_code == 2


HUNYUAN = ["--layout", "30,48,80", "--window", "18,24,24"]


def test_tune_ranks_and_advises() -> None:
    result = run("gna-tune", *HUNYUAN, "--on", "B200", "--top", "3", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["settings"] == 7 * 18 * 24 * 24
    assert [c["rank"] for c in found["choices"]] == [1, 2, 3]
    assert found["choices"][0]["stride"] == [16, 8, 8]
    assert {"q_tile", "kv_tile", "exact", "natten"} <= set(found["advice"][0])
    assert found["constants"]["fitted"] is True


def test_tune_prints_a_table_and_keeps_notes_out_of_it() -> None:
    result = run("gna-tune", *HUNYUAN, "--on", "h100", "--stride", "1", "--heads", "3")
    assert result.exit_code == 0
    assert "smallest stride that needs no mask" in result.stdout
    assert "fitted: H100" in result.stderr


def test_tune_returns_all_when_asked() -> None:
    found = json.loads(
        run("gna-tune", "--layout", "64,64", "--window", "8", "--on", "h100", "--top", "0", "--json").stdout
    )
    assert len(found["choices"]) == found["settings"] == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "tpu"], "unknown GPU 'tpu'"),
        (["--on", "a100", "--backend", "hopper-fna"], "hopper-fna does not run on a100"),
        (["--on", "h100", "--head-dim", "96", "--backend", "hopper-fna"], "cannot run 96"),
        (["--on", "h100", "--stride", "x"], "--stride: expected a whole number, found '' in 'x'"),
    ],
)
def test_tune_mistakes(words: list[str], said: str) -> None:
    result = run("gna-tune", *HUNYUAN, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_gpu_adds_the_predicted_time_and_decides_on_the_tiling() -> None:
    from simulator.gpu.gna_time import predict_gna

    asked = [
        "--layout",
        "256,256",
        "--window",
        "80",
        "--stride",
        "16",
        "--q-tile",
        "16,8",
        "--kv-tile",
        "16,8",
    ]
    found = json.loads(run("gna", *asked, "--on", "h100", "--json").stdout)
    one = predict_gna(
        layout=(256, 256), window=80, stride=16, q_tile=(16, 8), kv_tile=(16, 8), on="h100", heads=24
    )
    assert found["predicted"]["latency_s"] == one.latency_s
    assert found["predicted"]["speedup"] == one.speedup
    assert found["predicted"]["fitted"] is True
    # cutlass-fna starts its KV tiles at the window: the counts are those of the kernel, without being asked for.
    assert json.loads(run("gna", *asked, "--on", "a100", "--json").stdout)["dynamic"] is True
    assert "predicted" not in json.loads(run("gna", *asked, "--json").stdout)
    shown = run("gna", *asked, "--on", "h100")
    assert "predicted speedup" in shown.stdout
    assert "fitted: H100" in shown.stderr


def test_tiles_that_no_kernel_has_are_said_to_be_so() -> None:
    # 16,16 / 16,8 are Blackwell's; Hopper's 2-D kernel of heads of 128 has 16,8 / 16,8 only.
    for on, compiled in (("b200", True), ("h100", False)):
        found = run("gna", *FLUX, "--on", on, "--json")
        assert json.loads(found.stdout)["predicted"]["compiled"] is compiled
        assert ("not compiled for these tiles" in found.stderr) is not compiled
        assert ("tiles compiled" in run("gna", *FLUX, "--on", on).stdout) is not compiled


def test_titles_name_the_whole_setting() -> None:
    setting = ["--layout", "64,64", "--window", "16,8", "--dilation", "2,1", "--causal", "0,1"]
    said = "GNA 64,64 window 16,8 stride 1,1 dilation 2,1 causal 0,1, tiles 8,8 / 8,8"
    assert said in run("gna", *setting, "--q-tile", "8", "--kv-tile", "8").stdout
    said = "GNA 64,64 window 16,8 dilation 2,1 causal 0,1 on h100"
    assert said in run("gna-tune", *setting, "--on", "h100").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "tpu"], "unknown GPU 'tpu'"),
        (["--on", "h100", "--head-dim", "-8"], "cannot run -8"),
        (["--on", "h100", "--heads", "0"], "heads: 0 is too small"),
        (["--on", "h100", "--backend", "blackwell-fna"], "does not run on h100"),
        (["--on", "h100", "--dynamic"], "--dynamic: the KV tiles of hopper-fna lie on a grid"),
    ],
)
def test_mistakes_about_the_gpu(words: list[str], said: str) -> None:
    result = run("gna", *FLUX, *words, "--json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert json.loads(result.stdout) == {"ok": False, "error": result.stderr.strip()}
