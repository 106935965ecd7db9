"""Fronts against the definition, row by row: O(n^2) brute force."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError
from simulator.dse.pareto import hypervolume, knee, pareto


def beaten(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(y <= x for x, y in zip(a, b, strict=True)) and any(y < x for x, y in zip(a, b, strict=True))


def front_by_definition(costs: list[tuple[float, ...]]) -> set[int]:
    return {i for i, a in enumerate(costs) if not any(beaten(a, b) for b in costs)}


# Few distinct values, so that ties and duplicates are common.
COSTS = st.integers(1, 5).flatmap(
    lambda d: st.lists(st.tuples(*[st.integers(-3, 3).map(float)] * d), min_size=1, max_size=60)
)


@settings(max_examples=100, deadline=None)
@given(COSTS, st.integers(0, 31))
def test_front_is_the_definition(costs, senses):
    columns = [f"c{i}" for i in range(len(costs[0]))]
    table = pd.DataFrame(costs, columns=columns)
    larger = [c for i, c in enumerate(columns) if senses >> i & 1]
    smaller = [c for c in columns if c not in larger]
    signs = [-1 if c in larger else 1 for c in columns]
    oracle = front_by_definition([tuple(s * v for s, v in zip(signs, row, strict=True)) for row in costs])
    front = pareto(table, minimize=smaller, maximize=larger)
    assert set(front.index) == oracle
    rows = [tuple(front[smaller].iloc[i]) + tuple(-front[larger].iloc[i]) for i in range(len(front))]
    assert rows == sorted(rows)


def test_a_large_front_of_many_objectives_is_the_definition():
    rng = np.random.default_rng(5)
    for dimensions in (2, 3, 4, 5):
        costs = rng.integers(0, 40, size=(900, dimensions)).astype(float)
        names = [f"c{i}" for i in range(dimensions)]
        front = pareto(pd.DataFrame(costs, columns=names), minimize=names)
        assert set(front.index) == front_by_definition([tuple(r) for r in costs])


def test_rows_with_errors_take_no_part():
    table = pd.DataFrame({"x": [None, 1.0, 2.0], "error": ["does not fit", None, None]})
    assert pareto(table, minimize="x").index.tolist() == [1]


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ({"x": [1.0]}, {}, "no objective"),
        ({"latency_s": [1.0]}, {"minimize": ["latency"]}, "did you mean 'latency_s'"),
        ({"x": ["a"]}, {"minimize": ["x"]}, "holds texts"),
        ({"x": [1.0, math.inf]}, {"minimize": ["x"]}, "is inf in row 1"),
        ({"x": [1.0, math.nan]}, {"maximize": ["x"]}, "is nan in row 1"),
        ({"x": [1.0]}, {"minimize": ["x"], "maximize": ["x"]}, "twice"),
        ({"x": [1.0], "error": ["no"]}, {"minimize": ["x"]}, "no row without an error"),
    ],
)
def test_what_is_refused(table, arguments, message):
    with pytest.raises(DataError, match=message):
        pareto(pd.DataFrame(table), **arguments)


def test_hypervolume_is_the_counted_volume():
    # Whole-number corners: the dominated volume below the reference is the number of dominated unit cells.
    rng = np.random.default_rng(2)
    corners = rng.integers(0, 9, size=(30, 3))
    cells = np.stack(np.meshgrid(*[np.arange(9)] * 3, indexing="ij"), -1).reshape(-1, 3)
    counted = sum(bool((corners <= cell).all(axis=1).any()) for cell in cells)
    table = pd.DataFrame(corners.astype(float), columns=["a", "b", "c"])
    assert hypervolume(table, minimize=["a", "b", "c"], reference=[9, 9, 9]) == pytest.approx(
        counted, rel=1e-12
    )
    flipped = table.assign(c=-table["c"])
    assert hypervolume(flipped, minimize=["a", "b"], maximize=["c"], reference=[9, 9, -9]) == pytest.approx(
        counted, rel=1e-12
    )


def test_the_knee_of_a_hyperbola_is_its_vertex():
    x = np.geomspace(0.1, 10.0, 201)
    table = pd.DataFrame({"x": x, "y": 1 / x})
    assert knee(table, minimize=["x", "y"])["x"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="2 values for 1"):
        hypervolume(table, minimize="x", reference=[1.0, 2.0])


TABLE = pd.DataFrame(
    {
        "hardware.L3": ["1 KiB", "2 KiB", "4 KiB", "8 KiB"],
        "latency_s": [4.0, 2.0, 1.0, np.nan],
        "energy_j": [1.0, 1.5, 5.0, np.nan],
        "bound_by": ["PE", "PE", "DRAM", None],
        "error": [None, None, None, "does not fit"],
    }
)


def test_a_formula_over_columns_is_an_objective():
    """Energy times delay by hand: 4, 3, 5; rate per byte of buffer: 1/4096, 1/4096, 1/4096 of 1/s."""
    front = pareto(TABLE, minimize="latency_s * energy_j")
    assert front.index.tolist() == [1]
    assert front["latency_s * energy_j"].tolist() == [3.0]
    rate = pareto(TABLE, maximize="1 / latency_s / hardware.L3")
    assert rate.index.tolist() == [0, 1, 2]  # amounts in SI units: all are equal, so that none beats another
    assert rate.iloc[0]["1 / latency_s / hardware.L3"] == 1 / 4 / 1024
    both = pareto(TABLE, minimize=["latency_s ** 2 * energy_j", "energy_j"])  # 16, 6, 5 and 1, 1.5, 5
    assert both.index.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_s * energy_x", "unknown column 'energy_x'"),
        ("latency_s <= energy_j", "true or false"),
        ("latency_s * bound_by", "holds texts"),
        ("latency_s *", "latency_s"),
        ("2 * 3", "names no column"),
    ],
)
def test_what_is_no_objective(text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        pareto(TABLE, minimize=text)
