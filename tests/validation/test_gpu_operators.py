"""Other people's kernels: which rows are judged, by what, and what is said of them."""

from __future__ import annotations

import pandas as pd
import pytest

from simulator.gpu.model import predict
from validation import gpu
from validation.gpu_operators import operator_sets, operators
from validation.measured import PUBLISHED, read_measured


@pytest.fixture(scope="module")
def table():
    return read_measured(PUBLISHED / "gpu_measured.csv")


def test_rows_are_those_that_the_library_describes(table):
    found = operators(table)
    assert set(found["kernel"]) == {"matmul", "flash_decode", "chunk_retention", "standard_attention"}
    assert not found["kernel"].str.startswith("flash_attention").any()
    assert (found[["got", "low", "high", "roofline"]] > 0).all(axis=None)


def test_a_row_is_predicted_as_anybody_predicts_it(table):
    found = operators(table)
    row = found[(found["kernel"] == "matmul") & (found["implementation"] == "triton")].iloc[-1]
    # M = N = K = 4096: the table's head_dim is the inner rank of a product.
    alone = predict("matmul", on="a100", batch=1, heads=1, seq_q=4096, seq_kv=4096, inner=4096, dtype="fp16")
    assert row["got"] == alone.latency_s
    assert row["roofline"] == alone.roofline_s


def test_one_row_calibrates_and_is_not_judged(table):
    few = table[(table["kernel"] == "matmul") & (table["implementation"] == "cublas")]
    few = few[few["device"].str.contains("LLMCompass")].head(3)
    found = operators(few)
    assert found["fitting"].sum() == 1
    fitted = found[found["fitting"]].iloc[0]
    assert fitted["seconds"] == sorted(found["seconds"])[1]
    # The prior pulls a little.
    assert fitted["calibrated"] == pytest.approx(fitted["seconds"], rel=0.05)
    (told,) = operator_sets(found)
    assert told["n"] == 3
    assert told["median_calibrated"] < 0.1 < told["median_raw"]


def test_too_few_rows_have_none_to_spare(table):
    two = table[(table["kernel"] == "matmul") & (table["implementation"] == "cublas")].head(2)
    (told,) = operator_sets(operators(two))
    assert told["median_calibrated"] is None


def test_tables_without_such_rows_say_nothing():
    assert operator_sets(pd.DataFrame()) == []
    assert gpu.compare(PUBLISHED / "gpu_measured.csv")["operators"]
