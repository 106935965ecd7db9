"""The GNA suite: every count, every published bar, the fit of the shipped constants, errors of what was not fitted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from simulator.gpu.gna_backends import backends, constants
from simulator.gpu.gna_time import fit_constants
from simulator.hardware.gpu import find_gpu
from validation import gna
from validation.bench.gna import bench
from validation.tables import read_table


def test_all_cases_hold() -> None:
    found = gna.cases()
    assert tuple(found.columns) == gna.COLUMNS
    assert found["ok"].all(), found[~found["ok"]].to_string()
    counts = found[found["case"].str.startswith("P")]
    assert len(counts) == 8 * 13
    assert counts["relative_error"].max() < 5e-7


def test_published_bars_come_out_to_their_printed_digit() -> None:
    found = gna.cases()
    bars = found[found["column"] == "worst_tile_speedup"]
    assert len(bars) == 12
    assert (bars["got"].round(1) == bars["expected"]).all()


def test_shipped_constants_are_the_fit_of_the_named_rows() -> None:
    rows = gna._rows(gna.PUBLISHED / "natten_profiler.csv", ("kernel",))
    for device, backend in (("H100", "hopper-fna"), ("B200", "blackwell-fna")):
        chosen = [
            r
            for r in rows
            if r["device"] == device and r["use_case"] in gna.FITTED and "FnaForward" in r["kernel"]
        ]
        assert len(chosen) == 3
        launches = [
            {
                **{name: gna._shape(r, name) for name in ("layout", "window", "stride", "q_tile", "kv_tile")},
                "heads": int(r["heads"]),
                "kernel_s": float(r["runtime_us"]) * 1e-6,
            }
            for r in chosen
        ]
        shipped = constants(backends()[backend], find_gpu(device))
        assert shipped.fitted
        # The table holds seven digits.
        assert fit_constants(launches, on=device, backend=backend) == pytest.approx(
            (shipped.start_s, shipped.flops_per_s, shipped.mask_factor), rel=1e-6
        )


def test_launches_that_were_not_fitted_are_predicted() -> None:
    found = gna.launches()
    outside = found[~found["fitted"]]
    assert len(found) == 10
    assert len(outside) == 4
    # Published for this model: mean 4-6 %, worst 13 %.
    assert outside["error"].abs().mean() < 0.06
    assert outside["error"].abs().max() < 0.13


def test_unreadable_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        gna.cases(tmp_path)
    (tmp_path / "gna_counts.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        gna.cases(tmp_path)
    (tmp_path / "gna_counts.json").unlink()
    (tmp_path / "gna_published.csv").write_text("device,use_case\nB200,FLUX\n")
    with pytest.raises(DataError, match="column 'layout' is missing"):
        gna.cases(tmp_path)
    (tmp_path / "gna_published.csv").write_text("")
    with pytest.raises(DataError, match="no rows"):
        gna.cases(tmp_path)
    (tmp_path / "gna_published.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file"):
        gna.cases(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [], r"expected a list of settings with their counts, found '\[\]'"),
        (lambda rows: {"rows": rows}, "expected a list of settings"),
        (lambda rows: [*rows, 7], "entry 3: expected a setting with its counts, found '7'"),
        (lambda rows: [{"name": "x"}], "entry 1: 'layout' is missing"),
        (lambda rows: [rows[0], {**rows[1], "layout": "x"}], "entry 2: layout: found 'x'"),
        (lambda rows: [{**rows[0], "visited": "many"}], "entry 1: visited: expected a number, found 'many'"),
        (lambda rows: [{**rows[0], "visited": math.nan}], "entry 1: visited: expected a number, found nan"),
        (
            lambda rows: [{**rows[0], "vizited": 1}],
            "entry 1: unknown field 'vizited'; did you mean 'visited'",
        ),
    ],
)
def test_counts_of_ones_own_are_read_or_refused(
    tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    rows = json.loads((gna.PUBLISHED / "gna_counts.json").read_text(encoding="utf-8"))[:2]
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert gna.cases(tmp_path)["ok"].all()
    path.write_text(json.dumps(change(rows)), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        gna.cases(tmp_path)


@pytest.mark.parametrize(
    ("file", "column", "value", "said"),
    [
        ("natten_profiler.csv", "runtime_us", "", "runtime_us: expected a positive number, found ''"),
        ("natten_profiler.csv", "runtime_us", "inf", "runtime_us: expected a positive number, found 'inf'"),
        ("natten_profiler.csv", "head_dim", "x", "head_dim: expected a whole number, found 'x'"),
        ("natten_profiler.csv", "device", "H1000", "unknown GPU 'H1000'"),
        ("gna_published.csv", "window", "16y24", "window: expected numbers such as 16x24x16, found '16y24'"),
        ("gna_published.csv", "value", "0", "value: expected a positive number, found '0'"),
    ],
)
def test_a_bad_cell_is_told_with_its_line(
    tmp_path: Path, file: str, column: str, value: str, said: str
) -> None:
    table = read_table(gna.PUBLISHED / file, as_text=True)
    compared = table["note"].str.contains("chart label") if "note" in table else table["heads"] != ""
    row = int(compared.to_numpy().argmax())
    table.loc[row, column] = value
    table.to_csv(tmp_path / file, index=False)
    with pytest.raises(DataError) as refused:
        gna.cases(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / file}:{row + 2}: ") and said in str(refused.value)


def test_profiler_rows_may_call_their_source_the_file_that_they_are_from(tmp_path: Path) -> None:
    ours = pd.read_csv(gna.PUBLISHED / "natten_profiler.csv", dtype=str, keep_default_na=False)
    ours.rename(columns={"source": "source_file"}).to_csv(tmp_path / "natten_profiler.csv", index=False)
    pd.testing.assert_frame_equal(gna.launches(tmp_path), gna.launches())
    cases = gna.cases(tmp_path)
    assert len(cases) > 4 and cases["ok"].all()


def test_the_bench_has_a_figure_and_a_target_in_each_row() -> None:
    rows = bench(rounds=1)
    assert len(rows) == 2
    assert all(r["value"] > 0 and r["unit"] and r["target"] for r in rows)
