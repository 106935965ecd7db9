"""The report says what it leaves out, and its Markdown holds nothing that reads as HTML."""

from __future__ import annotations

import pandas as pd

from validation.report import Section, Table, as_html, as_markdown

FRAME = pd.DataFrame(
    {"n": range(30), "x": [0.123456789] * 30, "error": pd.array([None, *["late"] * 29], dtype="string")}
)
PARTS = (Table("long", "All of it.", FRAME, rows_shown=4), Table("short", "Few.", FRAME.head(2)))


def test_a_shortened_table_says_how_many_rows_are_left_out():
    sections = [Section("One", PARTS)]
    text, page = as_markdown("T", "I", sections), as_html("T", "I", sections)
    assert "**All of it.** (`tables/long.csv`: 26 more rows)" in text
    assert "**Few.** (`tables/short.csv`)" in text
    assert "All of it. (26 more rows in tables/long.csv)" in page
    assert page.count("more rows") == 1


def test_what_is_missing_is_a_dash_in_markdown():
    text = as_markdown("T", "I", [Section("One", PARTS)])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "<NA>" not in text and "None" not in text
    assert [cell.strip() for cell in rows[2].strip("|").split("|")] == ["0", "0.1235", "-"]
