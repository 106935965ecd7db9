"""What every command prints: a table where there is room for one, and lines where there is not."""

from __future__ import annotations

import pytest

from einsum_cascade.terminal import table

COLUMNS = ["Einsum", "array", "cycles", "time [s]", "energy [J]", "traffic [B]"]
ROWS = [["QK", "PE2D", 786432, 0.00083, 1.5, None], ["RM[m1]", "PE1D", 12288, 1e-05, 0.0, 64]]


@pytest.mark.parametrize("width", [42, 80, 200])
def test_a_table_keeps_to_the_width(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table("Einsums", COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert "━" in lines[1]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [1, 10, 41])
def test_a_narrow_terminal_gets_whole_words(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table("Einsums", COLUMNS, ROWS, note="of one launch")
    out = capsys.readouterr().out
    assert out.startswith("Einsums\n\nEinsum: QK\narray: PE2D\ncycles: 786,432\n")
    assert "Einsum: RM[m1]\n" in out
    assert out.endswith("traffic [B]: 64\n\nof one launch\n")
