"""Shorter expressions mean what the longer ones meant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade import evaluate, parse
from einsum_cascade.tracing.tidy import tidied


def told(condition: str) -> str:
    cascade = tidied(
        parse(f"cascade c\nrank N M\ninput X[N, M]\noutput O[N, M]\nO[n, m] = X[n, m] where {condition}\n")
    )
    return str(cascade).rpartition(" where ")[2].strip()


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("not not m <= n + -1", "m < n"),
        ("m < n + 1", "m <= n"),
        ("m >= n + 1", "m > n"),
        ("m > n - 1", "m >= n"),
        ("not m <= n", "m > n"),
        ("m < n + 2", "m < n + 2"),
        ("X[n, m] < m + 1", "X[n, m] < m + 1"),
        ("not X[n, m] <= m", "not X[n, m] <= m"),
    ],
)
def test_conditions(long: str, short: str) -> None:
    """A number that is not whole, or none at all, is not between its neighbours."""
    assert told(long) == short


@given(
    op=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    shift=st.integers(-2, 2),
    nots=st.integers(0, 3),
    negs=st.integers(0, 3),
)
def test_the_same_points_and_values(op: str, shift: int, nots: int, negs: int) -> None:
    condition = "not " * nots + f"m {op} n + {shift}"
    text = f"select({condition}, {'-' * negs}X[n, m] + -1, 0)"
    cascade = parse(f"cascade c\nrank N M\ninput X[N, M]\noutput O[N, M]\nO[n, m] = {text}\n")
    short = tidied(cascade)
    assert len(str(short)) <= len(str(cascade))
    x = {"X": np.random.default_rng(0).normal(size=(4, 5))}
    got, wanted = (evaluate(c, {"N": 4, "M": 5}, x)["O"] for c in (short, cascade))
    np.testing.assert_array_equal(got, wanted)
