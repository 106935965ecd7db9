"""What every command prints: a table where there is room for one, and lines where there is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from einsum_cascade.terminal import READER_GONE, table

COLUMNS = ["Einsum", "array", "cycles", "time [s]", "energy [J]", "traffic [B]"]
ROWS = [["QK", "PE2D", 786432, 0.00083, 1.5, None], ["RM[m1]", "PE1D", 12288, 1e-05, 0.0, 64]]


@pytest.mark.parametrize("width", [43, 80, 200])
def test_a_table_keeps_to_the_width(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table("Einsums", COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert "━" in lines[1]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [1, 10, 42])
def test_a_narrow_terminal_gets_whole_words(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table("Einsums", COLUMNS, ROWS, note="of one launch")
    out = capsys.readouterr().out
    assert out.startswith("Einsums\n\nEinsum: QK\narray: PE2D\ncycles: 786,432\n")
    assert "Einsum: RM[m1]\n" in out
    assert out.endswith("traffic [B]: 64\n\nof one launch\n")


def test_a_stream_without_rules_gets_plain_ones(monkeypatch, capsys):
    monkeypatch.setattr("einsum_cascade.terminal._takes_lines", lambda: False)
    table("Einsums", COLUMNS, ROWS)
    assert capsys.readouterr().out.isascii()


# What a command prints at the end: a table, one JSON document, or plain lines.
PRINTS = {
    "table": "table('t', ['a', 'b'], [(i, i) for i in range(20000)])",
    "json": "emit_json(list(range(20000)))",
    "text": "typer.echo('x' * 200000)",
    "short": "typer.echo('x')",
}
COMMAND = """
import typer
from einsum_cascade.terminal import emit_json, guarded, table
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
@guarded
def run() -> None:
    {prints}
app()
"""


def ran(prints: str, stdout: int) -> tuple[int, str]:
    program = COMMAND.format(prints=PRINTS[prints])
    found = subprocess.run(
        [sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    return found.returncode, found.stderr


@pytest.mark.parametrize("prints", PRINTS)
def test_a_reader_that_goes_away_is_no_comparison_out_of_tolerance(prints):
    read, write = os.pipe()
    os.close(read)
    try:
        assert ran(prints, write) == (READER_GONE, "")
    finally:
        os.close(write)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("prints", PRINTS)
def test_a_full_disk_is_one_clear_line(prints):
    with Path("/dev/full").open("w") as full:
        assert ran(prints, full.fileno()) == (2, "the result: No space left on device\n")
