"""What was chosen after looking at data is read off the files: no list that could fall behind them."""

from __future__ import annotations

from mappings.gpu import kernel_mappings
from simulator.gpu.calibration import shipped
from validation.gpu_chosen import _marked_constants, chosen_after_data, chosen_note


def test_every_marked_mapping_and_table_is_listed():
    found = chosen_after_data()
    files = {entry["file"].rpartition("/")[2] for entry in found}
    assert {f"{m.name}.yaml" for m in kernel_mappings() if m.chosen_on} <= files
    assert {"efficiency.csv", "energy.csv", "intervals.csv", "likeness.csv", "cache_copies.csv"} <= files
    assert ("h100_pcie.yaml", "clock: 1335 MHz") in {(e["file"].rpartition("/")[2], e["what"]) for e in found}
    table = next(entry for entry in found if entry["file"].endswith("tables/efficiency.csv"))
    assert table["what"] == f"{len(shipped())} rows"
    assert all(entry["why"] for entry in found)


def test_constants_in_the_code_are_listed_with_their_value():
    what = {
        entry["what"].partition(" = ")[0] for entry in chosen_after_data() if entry["file"].endswith(".py")
    }
    assert {"_OVERLAP", "COMBINE_S", "_UNLIKE", "_WARMING_S", "PART_BYTES"} <= what


def test_marks_above_and_beside_a_constant():
    text = "# How much.\n# Chosen after looking at X.\nA, B = 1, 2\nC = 3  # fitted: Y\n# Of a book.\nD = 4\n"
    assert [what for what, _ in _marked_constants(text)] == ["(A, B) = (1, 2)", "C = 3"]


def test_the_note_counts_rows():
    found = [
        {"file": "a/t.csv", "what": "12 rows", "why": "w"},
        {"file": "a/m.yaml", "what": "tiles", "why": "w"},
    ]
    assert chosen_note(found).endswith("m.yaml 1, t.csv 12")
