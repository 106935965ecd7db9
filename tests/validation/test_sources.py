"""Every published table says where it comes from."""

from __future__ import annotations

import csv
from pathlib import Path

import validation

PUBLISHED = Path(validation.__file__).parent / "data" / "published"


def test_every_table_has_a_source_and_every_source_a_table() -> None:
    with (PUBLISHED / "sources.csv").open(encoding="utf-8", newline="") as file:
        rows = {r["file"]: r for r in csv.DictReader(file)}
    found = {str(p.relative_to(PUBLISHED)) for p in PUBLISHED.rglob("*") if p.suffix in (".csv", ".json")}
    assert set(rows) == found - {"sources.csv"}
    assert all(r["source"] and r["how it was read"] for r in rows.values())
