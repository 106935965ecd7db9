"""The commands `passes`, `bounds` and `reduce`: fields as promised, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from einsum_cascade import parse, zoo
from einsum_cascade.analysis import cli as analysis_cli
from einsum_cascade.rewrite import cli as rewrite_cli

app = typer.Typer()
analysis_cli.register(app)
rewrite_cli.register(app)
SIZES = ["--sizes", "E=8,F=8,M=32,P=16"]


def run(*args: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, list(args))
    return found.exit_code, found.stdout, found.stderr


def test_passes_as_json() -> None:
    code, out, _ = run("passes", "attention_3pass", "--rank", "M", "--json")
    assert code == 0
    assert json.loads(out) == {
        "M": {
            "passes": 3,
            "levels": {"QK": 1, "GM": 1, "SN": 2, "SD": 2, "A": 3, "AV": 3},
            "chain": ["QK", "GM", "SN", "SD", "A"],
        }
    }
    assert set(json.loads(run("passes", "attention_3pass", "--json")[1])) == {"E", "M"}


def test_bounds_as_json_and_as_a_figure(tmp_path: Path) -> None:
    figure = tmp_path / "curve.svg"
    code, out, err = run(
        "bounds", "attention_3pass", *SIZES, "--buffer", "64 B", "--json", "--plot", str(figure)
    )
    found = json.loads(out)
    assert code == 0
    assert found["passes"] == {"E": 1, "M": 3}
    assert found["operations"]["exp"] == 32 * 16
    assert found["traffic_bytes"] >= found["compulsory_bytes"] == 2 * (8 * 16 + 8 * 32) * 2
    assert found["free_pass_buffer_bytes"] == 32 * 2
    assert "M*word" in found["formulas"]["free_pass_buffer_bytes"]
    assert figure.stat().st_size > 1000
    assert "curve.svg" in err


def test_reduce_as_json_and_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "found.cascade"
    code, out, _ = run("reduce", "attention_3pass", "--rank", "M", "--out", str(file), "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"before", "after", "steps", "stuck", "cascade"}
    assert (found["before"], found["after"]) == (3, 1)
    assert set(found["steps"][0]) == {"rule", "einsum", "why"}
    assert parse(file.read_text()) == parse(found["cascade"])


@pytest.mark.parametrize("command", ["passes", "reduce"])
def test_tables_for_people(command: str) -> None:
    code, out, _ = run(command, "attention_3pass", "--rank", "M")
    assert code == 0
    assert "passes over M" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["passes", "attention_3pas"], "did you mean 'attention_3pass'"),
        (["passes", "attention_3pass", "--rank", "N"], "has no rank N"),
        (["bounds", "attention_3pass", *SIZES, "--buffer", "16"], "write the unit: '16 MiB'"),
        (["bounds", "attention_3pass", "--sizes", "E=8"], "needs the size"),
        (["bounds", "attention_3pass", *SIZES, "--plot", "/nowhere/at/all.svg"], "cannot write"),
        (["bounds", "attention_3pass", *SIZES, "--plot", "curve.nonsense"], "ends in .svg, .png, .pdf"),
        (["reduce", "attention_3pass", "--rank", "Z"], "has no rank Z"),
        (["reduce", "attention_3pass", "--rank", "M", "--out", "/nowhere/at/all"], "cannot write"),
    ],
)
def test_mistakes_are_one_clear_message(args: list[str], message: str) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("name", zoo.names())
def test_every_zoo_entry_has_passes(name: str) -> None:
    code, out, _ = run("passes", name, "--json")
    assert code == 0
    assert all(p["passes"] >= 1 for p in json.loads(out).values())
