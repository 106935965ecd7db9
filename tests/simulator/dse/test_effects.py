"""Sensitivities against closed forms: a product of powers, and Ishigami's function with its known Sobol indices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from simulator.dse.effects import sensitivity


def test_a_product_of_powers():
    # log t = 3 log a - log b: alone, a moves t by 4^3 = 64 and b by 2, and the variances add.
    rows = [(a, b, c, a**3 / int(b)) for a, b, c in itertools.product([1, 2, 4], ["1", "2"], [5, 6])]
    table = pd.DataFrame(rows, columns=["a", "b", "c", "t"])
    found = sensitivity(table, axes=["a", "b", "c"], objectives=["t"]).set_index("axis")
    assert found.index.tolist() == ["a", "b", "c"]
    assert found["typical"].tolist() == pytest.approx([64, 2, 1])
    assert found["largest"].tolist() == pytest.approx([64, 2, 1])
    assert found["last_to_first"].tolist() == pytest.approx([64, 0.5, 1])
    ln2 = math.log(2)
    parts = np.array([9 * np.var([0, ln2, 2 * ln2]), np.var([0, ln2]), 0.0])
    assert found["share"].tolist() == pytest.approx((parts / parts.sum()).tolist(), abs=1e-12)


def test_an_axis_that_moves_nothing_has_no_share():
    rows = [(a, b, math.exp(math.sqrt(a))) for a, b in itertools.product(range(1, 8), range(6))]
    found = sensitivity(pd.DataFrame(rows, columns=["a", "b", "t"]), axes=["a", "b"], objectives=["t"])
    assert found.set_index("axis")["share"]["b"] == 0


def test_shares_of_ishigami():
    # f = sin x + 7 sin^2 y + 0.1 z^4 sin x on (-pi, pi)^3; first-order indices 0.3139, 0.4424, 0.
    # Source: T. Ishigami, T. Homma (1990); A. Saltelli et al., Global Sensitivity Analysis (2008), p. 179.
    middle = (np.arange(60) + 0.5) / 60 * 2 * math.pi - math.pi
    x, y, z = (v.ravel() for v in np.meshgrid(middle, middle, middle, indexing="ij"))
    f = np.sin(x) + 7 * np.sin(y) ** 2 + 0.1 * z**4 * np.sin(x)
    table = pd.DataFrame({"x": x, "y": y, "z": z, "t": np.exp(f)})
    share = sensitivity(table, axes=["x", "y", "z"], objectives=["t"]).set_index("axis")["share"]
    # The midpoint rule on 60 points is exact to about (pi / 60)^2.
    assert share["x"] == pytest.approx(0.3139, abs=2e-3)
    assert share["y"] == pytest.approx(0.4424, abs=2e-3)
    assert share["z"] == pytest.approx(0.0, abs=1e-9)


def test_a_sample_has_shares_but_no_lines():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 20_000))
    table = pd.DataFrame({"x": x, "y": y, "t": np.exp(x + 2 * y)})
    found = sensitivity(table, axes=["x", "y"], objectives=["t"]).set_index("axis")
    assert found["typical"].isna().all()
    # Variances 1/12 and 4/12; sixteen groups lose 1/16^2 of each, 20,000 samples scatter by about 1 %.
    assert found["share"]["y"] == pytest.approx(0.8, abs=0.02)
    assert found["share"]["x"] == pytest.approx(0.2, abs=0.02)


def test_errors_and_what_is_refused():
    table = pd.DataFrame({"a": [1, 2, 3], "t": [1.0, 2.0, None], "error": [None, None, "does not fit"]})
    assert sensitivity(table, axes=["a"], objectives=["t"])["typical"].tolist() == [2.0]
    with pytest.raises(DataError, match="unknown column 'b'"):
        sensitivity(table, axes=["b"], objectives=["t"])
    with pytest.raises(DataError, match="positive numbers"):
        sensitivity(table.assign(t=[0.0, 1.0, 2.0]), axes=["a"], objectives=["t"])


def test_the_first_value_is_that_of_the_space_whatever_rows_are_left():
    # t = a falls from the first value, 4, to the last, 1; where b = 1 the row with a = 4 is missing.
    axes = {"a": [4, 2, 1], "b": [1, 2]}
    rows = [(a, b, float(a)) for b, a in itertools.product(axes["b"], axes["a"]) if (a, b) != (4, 1)]
    table = pd.DataFrame(rows, columns=["a", "b", "t"])
    found = sensitivity(table, axes=axes, objectives=["t"]).set_index("axis")
    # Two lines: 2 -> 1 and 4 -> 1.
    assert found["last_to_first"]["a"] == pytest.approx(math.sqrt(1 / 2 * 1 / 4))
    # A row that failed still tells where its value stands.
    failed = pd.concat([pd.DataFrame([{"a": 4, "b": 1, "error": "no room"}]), table], ignore_index=True)
    told = sensitivity(failed, axes=["a", "b"], objectives=["t"]).set_index("axis")
    assert told["last_to_first"]["a"] == found["last_to_first"]["a"]


@pytest.mark.parametrize("unit", ["", " MiB"])
@pytest.mark.parametrize("count", [60, 78, 200, 3000])
def test_a_sampled_axis_that_moves_nothing_has_no_share_by_chance(unit, count):
    # Without a correction, groups of g points out of n give an axis without effect about n/g/n = 1/g of the variance.
    rng = np.random.default_rng(count)
    shares = {"x": [], "y": []}
    for _ in range(40 if count < 1000 else 10):
        x, y = rng.random((2, count))
        table = pd.DataFrame(
            {"x": [f"{v!r}{unit}" if unit else v for v in x.tolist()], "y": y, "t": np.exp(y)}
        )
        found = sensitivity(table, axes=["x", "y"], objectives=["t"]).set_index("axis")["share"]
        for name, own in shares.items():
            own.append(found[name])
    # The standard deviation of the share of g = 16 groups without effect is sqrt(2 g) / n; what lies below zero is cut
    # off, which leaves a mean of less than half of that, and of uncorrected shares g / n or more.
    assert np.mean(shares["x"]) < math.sqrt(2 * 16) / count
    # Groups lose 1/g^2 of the variance that the axis gives.
    assert np.mean(shares["y"]) > 0.98


def test_an_axis_that_follows_from_another_leaves_a_grid_full():
    rows = [(a, b, f"{64 - a} MiB", a**2 * b) for a, b in itertools.product([1, 2, 4], [1, 3])]
    table = pd.DataFrame(rows, columns=["a", "b", "c", "t"])
    found = sensitivity(table, axes=["a", "b", "c"], objectives=["t"], derived=["c"])
    found = found.set_index("axis")["share"]
    parts = [np.var([0, math.log(4), math.log(16)]), np.var([0, math.log(3)])]
    assert found["a"] == pytest.approx(parts[0] / sum(parts))
    assert found["b"] == pytest.approx(parts[1] / sum(parts))
    assert found["c"] == pytest.approx(found["a"])


def test_words_of_which_each_is_another_tell_nothing():
    table = pd.DataFrame({"a": ["p", "q", "r"], "b": [1, 2, 3], "t": [1.0, 5.0, 2.0]})
    found = sensitivity(table, axes=["a"], objectives=["t"])
    assert found["share"].tolist() == [1.0]  # a grid of its own
    both = pd.DataFrame({"a": list("pqrs"), "b": [1, 1, 2, 3], "t": [1.0, 5.0, 2.0, 3.0]})
    assert sensitivity(both, axes=["a", "b"], objectives=["t"]).set_index("axis")["share"].isna()["a"]
