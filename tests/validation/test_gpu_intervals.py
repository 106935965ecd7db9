"""Widths of intervals: split conformal holds what it promises; calibration rows are dense and spread over sizes."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu.intervals import TABLE
from validation.gpu_intervals import factor, source_of, three_rows
from validation.gpu_sets import CONSTANTS, attention_rows
from validation.measured import PUBLISHED, read_measured


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 400), st.floats(0.5, 0.95), st.integers(0, 2**32 - 1))
def test_the_factor_holds_its_part_of_the_rows(count, coverage, seed):
    ratios = np.exp(np.random.default_rng(seed).normal(0.0, 0.3, count))
    s = factor(ratios, coverage=coverage)
    inside = (ratios <= (1 + s) * (1 + 1e-12)) & (ratios >= (1 - 1e-12) / (1 + s))
    assert inside.mean() >= coverage


def test_new_rows_are_covered_too():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        s = factor(np.exp(rng.normal(0.0, 0.2, 60)))
        fresh = np.exp(rng.normal(0.0, 0.2, 60))
        covered.append(np.mean((fresh <= 1 + s) & (fresh >= 1 / (1 + s))))
    # Conformal coverage lies between 0.9 and 0.9 + 1/61 in the mean; 0.01 is four standard errors of 18,000 draws.
    assert np.mean(covered) == pytest.approx(0.9 + 0.5 / 61, abs=0.01 + 0.5 / 61)


def test_three_dense_rows_calibrate_a_set():
    rows, _ = attention_rows(read_measured(PUBLISHED / "serving_attention.csv"))
    picked = three_rows(rows)
    assert (picked["window"] == 0).all()
    assert picked.groupby(CONSTANTS).size().max() == 3
    dense = rows[rows["window"] == 0].groupby(CONSTANTS).size()
    assert (picked.groupby(CONSTANTS).size() == 3).sum() == (dense >= 3).sum()


def test_the_shipped_table_says_where_it_comes_from_as_it_would_be_written_now():
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 8
    for row in rows:
        assert row["source"] == source_of(row["state"], row["kind"], int(row["n"]))
