"""Published kernels beside the texts of their algorithms: which rows have one, what it computes, what is held."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from einsum_cascade import evaluate
from validation.gpu_cascades import NOT_HELD, SET, cases_of, text_of, texts
from validation.measured import PUBLISHED, read_measured


@pytest.fixture(scope="module")
def table():
    return read_measured(PUBLISHED / "gpu_measured.csv")


def small(table: pd.DataFrame, kernel: str, **more):
    """Return the text of the first row of a kernel at sizes that can be run."""
    rows = table[(table["kernel"] == kernel) & (table["direction"] == "fwd")]
    for name, value in more.items():
        rows = rows[rows[name] == value]
    return text_of(rows.iloc[0].to_dict())


def test_texts_compute_what_the_kernels_compute(table):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5))
    found = evaluate(small(table, "softmax").cascade, {"R": 3, "C": 5}, {"X": x})["Y"]
    weights = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert np.allclose(found, weights)
    q, k, v = (rng.normal(size=(4, 6)) for _ in range(3))
    mask = np.where(np.tri(6).T > 0, 0.0, -np.inf)  # keys m up to the query p
    scores = np.exp(k.T @ q + mask)
    wanted = v @ (scores / scores.sum(axis=0))
    sizes = {"E": 4, "F": 4, "M": 6, "P": 6}
    text = small(table, "standard_attention", causal=1).cascade
    assert np.allclose(evaluate(text, sizes, {"Q": q, "K": k, "V": v, "MASK": mask})["AV"], wanted)


def test_frameworks_kernels_are_those_that_their_authors_launch(table):
    assert small(table, "softmax").kernels == (("GM", "SN", "SD", "Y"),)
    assert small(table, "standard_attention", causal=0).kernels == (("QK",), ("GM", "SN", "SD", "A"), ("AV",))
    assert small(table, "matmul").kernels is None


def test_rows_of_lengths_that_no_text_has_are_left_out(table):
    row = (
        table[(table["kernel"] == "flash_attention") & (table["implementation"] == "triton")]
        .iloc[0]
        .to_dict()
    )
    row |= {"direction": "fwd", "dtype": "fp16", "seq_q": 4096, "seq_kv": 4096, "window": 0}
    assert text_of(row) is not None
    assert text_of(row | {"seq_kv": 4097}) is None
    assert text_of(row | {"implementation": "cuda-fa3"}) is None
    assert text_of(row | {"window": 128}) is None


def test_published_times_lie_within_a_factor_of_two_and_sets_that_do_not_say_why(table):
    # Of softmax there are 124 rows much alike.
    found = texts(table[(table["kernel"] != "softmax") | (np.arange(len(table)) % 5 == 0)])
    assert (found[["got", "low", "high", "roofline"]] > 0).all(axis=None)
    assert set(found[SET].itertuples(index=False, name=None)) >= {
        ("A100-80G (LLMCompass)", "matmul", "cublas")
    }
    framework = found[found["kernel"].isin(["matmul", "standard_attention"])]
    large = framework[framework["seconds"] > 100e-6]  # below, the host's work is most of it
    assert large["seconds"].between(large["low"], large["high"]).all()
    cases = cases_of(found)
    shown = cases[cases["tolerance"].isna()]
    assert set(shown["why"]) == set(NOT_HELD.values())
    assert len(shown) == len(NOT_HELD)
    assert cases["ok"].all()
    assert (cases["n"] >= 2).all()
