"""The tables that `cascade reproduce` writes say their units."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from validation.cli import app
from validation.fusemax_quirks import SIMULATED
from validation.reproduce import pareto_table


def test_every_column_of_the_area_table_says_its_unit():
    table = pareto_table(SIMULATED)
    plain = [c for c in table.columns if not re.search(r"_(s|bytes|um2|mm2)$", c)]
    assert plain == ["model", "PE_dim"]
    assert (table["area_mm2"] == table["area_um2"] / 1e6).all()
    # 256 x 256 elements: the chip of the paper, 1303 mm^2 with its 16 MiB, less where the table takes a smaller buffer.
    assert 1200 < table.set_index(["model", "PE_dim"])["area_mm2"]["BERT", 256] < 1303


def test_which_paper_may_be_left_out(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "validation.reproduce.reproduce", lambda subject, out: asked.append((subject, out)) or []
    )
    for words in (["reproduce"], ["reproduce", "gna"]):
        assert CliRunner().invoke(app, [*words, "--out", str(tmp_path)]).exit_code == 0
    assert asked == [("fusemax", tmp_path), ("gna", tmp_path)]
