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
        (["--window", "80,many"], "--window: found '80,many'"),
        (["--window", "1"], "window: 1 is too small"),
        (["--stride", "81"], "stride: 81 is larger than the window 80"),
        (["--dilation", "4"], "longer than the layout's 256"),
        (["--q-tile", "16,0"], "q_tile: 0 is not a tile"),
        (["--layout", "8,8,8,8"], "found 4 axes"),
        (["--window", "80,80,80"], "found 3 numbers"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_2(words: list[str], said: str) -> None:
    result = run("gna", *FLUX, *words, "--json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_option_is_a_mistake() -> None:
    assert run("gna", "--layout", "256").exit_code == 2
