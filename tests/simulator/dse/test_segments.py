"""Finished points in bytes: what goes in comes out, kinds and gaps included, and damage is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.dse.coded import Coded, coded
from simulator.dse.segments import decode, encode, segment

AXIS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.sampled_from([0, 1, 0.0, 1.0, True, False, "1", "true"]),
)
RESULT = st.one_of(
    st.none(), AXIS, st.sampled_from([math.inf, math.nan, np.float64(2.5), np.int64(3), np.True_])
)


@st.composite
def tables(draw):
    count = draw(st.integers(1, 8))
    names = st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), min_size=1, max_size=3, unique=True
    )
    column = {
        "kind": st.sampled_from([RESULT, st.integers(0, 9), st.floats(0, 1), st.booleans(), st.just("a")])
    }
    axes = {n: draw(st.lists(AXIS, min_size=count, max_size=count)) for n in draw(names)}
    kinds = {n: draw(column["kind"]) for n in draw(names)}
    return axes, {n: draw(st.lists(kind, min_size=count, max_size=count)) for n, kind in kinds.items()}


def same(a, b):
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(tables())
def test_what_goes_in_comes_out(table):
    axes, results = table
    found = decode(encode(segment({n: coded(v) for n, v in axes.items()}, results, "context")))
    for name, values in axes.items():
        assert all(map(same, found.points[name].tolist(), values))
    errors = [None] * found.count
    if "error" in found.results:
        errors = found.results["error"].to_pylist()
    for name, values in results.items():
        listed = found.results[name]
        listed = listed if isinstance(listed, list) else listed.to_pylist()
        for got, value, error in zip(listed, values, errors, strict=True):
            plain = value.item() if hasattr(value, "item") else value
            if error:
                assert got is None
            elif isinstance(plain, int) and not isinstance(plain, bool) and abs(plain) >= 2**63:
                assert got == plain or got == float(plain)
            else:
                assert same(got, plain)
    for i, error in enumerate(errors):
        infinite = any(isinstance(v[i], float) and not math.isfinite(v[i]) for v in results.values())
        assert bool(error) == infinite


def test_arrays_and_lists_are_the_same():
    points = {"x": Coded(("a", "b"), np.array([0, 1, 1]))}
    arrays = {"f": np.array([1.5, math.inf, 2.0]), "i": np.array([1, 2, 3]), "w": np.array(["p", "q", "p"])}
    lists = {name: values.tolist() for name, values in arrays.items()}
    for results in (arrays, lists):
        found = segment(points, results, "")
        assert {n: v.to_pylist() for n, v in found.results.items()} == {
            "f": [1.5, None, 2.0],
            "i": [1, None, 3],
            "w": ["p", None, "p"],
            "error": [None, "f is inf", None],
        }
        assert found.failed == 1


@pytest.mark.parametrize("value", [b"bytes", [1], {"a": 1}, 1j, object()])
def test_what_is_no_result_is_a_bug(value):
    with pytest.raises(TypeError, match="a result is a number or a text; y is"):
        segment({"x": coded([1, 2])}, {"y": [value, 1]}, "")


def test_columns_of_another_length_are_a_bug():
    with pytest.raises(ValueError, match="1 values of y for 2 points"):
        segment({"x": coded([1, 2])}, {"y": np.array([1.0])}, "")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_bytes_that_are_no_segment(data):
    whole = encode(segment({"x": coded([1, 2, 3])}, {"y": [1.0, 2.0, 3.0]}, "context"))
    assert decode(whole[: data.draw(st.integers(0, 100))]) is None
    assert decode(data.draw(st.binary(max_size=60))) is None
