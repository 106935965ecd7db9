"""Co-design studies: committed tables against recomputed rows, and what is said when they differ."""

from __future__ import annotations

import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from validation.studies import iso_area, results
from validation.studies.results import committed, compute, disagreements, provenance


@pytest.mark.parametrize("name", ["iso_area", "changed_h100"])
def test_a_part_recomputed_equals_the_committed_table(name: str) -> None:
    live = compute(name, full=False)
    assert 0 < len(live) < len(committed(name))
    assert list(disagreements(name, live)) == []


@pytest.mark.parametrize("name", list(results.STUDIES))
def test_tables_say_where_they_come_from(name: str) -> None:
    assert provenance(name).startswith(f"computed by `python -m validation.studies {name}`, model ")
    assert not committed(name).duplicated().any()


def test_a_changed_number_and_a_missing_row_are_told() -> None:
    table = committed("iso_area").head(3)
    assert list(disagreements("iso_area", table)) == []
    slower = table.assign(latency_s=table["latency_s"] * [1.0, 1.0 + 1e-6, 1.0])
    (line,) = disagreements("iso_area", slower)
    assert "latency_s is" in line
    elsewhere = table.assign(**{iso_area.LENGTH: ["1K", "3K", "1K"]})
    (line,) = disagreements("iso_area", elsewhere)
    assert "sizes.seq=3K" in line
    assert "not in the committed table" in line


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(DataError, match="unknown study 'iso_are'; did you mean 'iso_area'"):
        compute("iso_are", full=False)


def test_designs_stay_within_the_area_and_the_least_buffer_wins_a_tie() -> None:
    table = committed("iso_area")
    base = iso_area.fusemax()
    assert table["area_mm2"].max() <= base["area_mm2"].iloc[0] * (1 + 1e-9)
    best = iso_area.fastest(table)
    assert len(best) == table[[iso_area.LENGTH, iso_area.BANDWIDTH]].drop_duplicates().shape[0]
    for row in best.to_dict("records"):
        same = table[
            (table[iso_area.LENGTH] == row[iso_area.LENGTH])
            & (table[iso_area.BANDWIDTH] == row[iso_area.BANDWIDTH])
        ]
        assert row["latency_s"] <= same["latency_s"].min() * (1 + 1e-8)
        ties = same[same["latency_s"] <= row["latency_s"] * (1 + 1e-10)]
        assert row["area_mm2"] == ties["area_mm2"].min()
    # FuseMax's own bandwidth: nothing of its area is faster than it is.
    own = best[best[iso_area.BANDWIDTH] == "400 GiB/s"]
    assert own["relative"].to_list() == pytest.approx([1.0] * len(own), rel=1e-9)


def test_more_bandwidth_is_never_slower() -> None:
    table = committed("iso_area").assign(
        rate=lambda t: t[iso_area.BANDWIDTH].str.split().str[0].astype(float)
    )
    wide = table.pivot_table(
        index=[iso_area.LENGTH, iso_area.ARRAY, iso_area.BUFFER], columns="rate", values="latency_s"
    )
    steps = wide.sort_index(axis=1).diff(axis=1).iloc[:, 1:]
    # Rounding of twelve digits.
    assert (steps.to_numpy() <= 1e-11 * wide.max(axis=1).to_numpy()[:, None]).all()


def test_a_changed_h100_lies_between_its_extremes() -> None:
    table = committed("changed_h100")
    more = table[table["variant"] == "twice the exponentials"]
    less = table[table["variant"] != "twice the exponentials"]
    # Twelve digits are written; a launch's schedule may round.
    assert (more[["speedup", "speedup_apart"]] >= 1 - 1e-9).all(axis=None)
    assert (more[["speedup", "speedup_apart"]] <= 2 + 1e-9).all(axis=None)
    assert (less[["speedup", "speedup_apart"]] <= 1 + 1e-9).all(axis=None)
    assert isinstance(table, pd.DataFrame)
