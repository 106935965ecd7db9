"""Space against itertools: order, constraints, derived axes, samples, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError
from simulator.dse.coded import coded
from simulator.dse.space import Derived, Range, Space

NUMBERS = st.lists(st.integers(-50, 50), min_size=1, max_size=5, unique=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(NUMBERS, min_size=1, max_size=3), st.integers(-60, 60), st.sampled_from(["<=", "<", ">", "!="])
)
def test_the_grid_is_the_product_in_order_and_where_filters_it(levels, bound, op):
    axes = {f"hardware.x{i}": v for i, v in enumerate(levels)}
    names = list(axes)
    total = " + ".join(names)
    expected = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*levels)
        if eval(f"{sum(values)} {op} {bound}")  # the oracle is Python's own arithmetic
    ]
    if not expected:
        with pytest.raises(DataError, match="no point"):
            Space(axes, where=(f"{total} {op} {bound}",))
        return
    space = Space(axes, where=(f"{total} {op} {bound}",))
    assert list(space) == expected
    assert len(space) == len(expected)
    assert space[-1] == expected[-1]
    shards = [[space[i] for i in space.shard(k, 3)] for k in range(3)]
    assert sorted(map(str, itertools.chain(*shards))) == sorted(map(str, expected))


def test_values_keep_their_type_and_text():
    space = Space({"a": [1, 2.5, True], "b": ["4 MiB", "64K"], "c": np.array([3, 4])})
    point = space[len(space) - 1]
    assert point == {"a": True, "b": "64K", "c": 4}
    assert [type(v) for v in point.values()] == [bool, str, int]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("hardware.L3 <= 16 MiB", ["4 MiB", "16 MiB"]),
        ("hardware.L3 * 2 >= 32 MiB and hardware.L3 != 64 MiB", ["16 MiB"]),
        ("not hardware.L3 > 4 MiB", ["4 MiB"]),
        ("4 MiB < hardware.L3 < 64 MiB", ["16 MiB"]),
        ("min(hardware.L3, 16 MiB) < 8 MiB", ["4 MiB"]),
        ("hardware.L3 == 16777216", ["16 MiB"]),
        ("hardware.L3 < 1.7e7", ["4 MiB", "16 MiB"]),
        ("hardware.L3 < 64M and hardware.L3 > 1e1", ["4 MiB", "16 MiB"]),
    ],
)
def test_quantities_in_constraints(where, kept):
    space = Space({"hardware.L3": ["4 MiB", "16 MiB", "64 MiB"]}, where=where)
    assert [p["hardware.L3"] for p in space] == kept


def test_words_are_compared_with_quotes():
    space = Space({"mapping": ["flat", "fusemax"], "N": [1, 2]}, where=("mapping == 'fusemax' or N == 1",))
    assert [(p["mapping"], p["N"]) for p in space] == [("flat", 1), ("fusemax", 1), ("fusemax", 2)]


def test_derived_axes_follow_the_others_and_may_be_constrained():
    derived = {"cols": "2 * N", "L3": Derived("N * 64", unit="KiB")}
    space = Space({"N": [64, 128]}, where=("cols <= 128", "L3 <= 4 MiB"), derived=derived)
    assert list(space) == [{"N": 64, "cols": 128, "L3": "4096 KiB"}]


def test_samples_fill_the_ranges_evenly_and_repeat():
    axes = {"N": [1, 2, 3, 4], "x": Range(1, 1024, log=True), "m": Range(1, 64, whole=True, unit="MiB")}
    space = Space(axes, samples=256, seed=3)
    again = list(Space(axes, samples=256, seed=3))
    points = list(space)
    assert points == again
    assert list(Space(axes, samples=256, seed=4)) != points
    # A Sobol net of 2^8 points puts exactly a quarter into each quarter of an axis.
    quarters = np.floor(np.log2([p["x"] for p in points]) / 2.5).astype(int)
    assert np.bincount(quarters).tolist() == [64] * 4
    assert np.bincount([p["N"] for p in points]).tolist() == [0, 64, 64, 64, 64]
    assert all(p["m"].endswith(" MiB") and 1 <= int(p["m"].split()[0]) <= 64 for p in points)


def test_samples_that_fall_together_are_kept_once():
    assert len(Space({"a": [1, 2], "b": [1, 2]}, samples=64)) == 4


def test_a_large_grid_is_not_built():
    space = Space({c: range(100) for c in "abcd"})
    assert len(space) == 10**8
    assert space[12345678] == {"a": 12, "b": 34, "c": 56, "d": 78}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Space({}), "at least one axis"),
        (lambda: Space({"N": []}), "axis 'N': the list of values is empty"),
        (lambda: Space({"N": 64}), "expected a list of values, found 64"),
        (lambda: Space({"N": "64"}), "expected a list of values"),
        (lambda: Space({"N": [1, 2, 1]}), "1 is given twice"),
        (lambda: Space({"N": [math.nan]}), "finite numbers or texts, found nan"),
        (lambda: Space({"N": [[1]]}), "finite numbers or texts"),
        (lambda: Space({"hardware.N": [1]}, where=("hardware.M <= 2",)), "did you mean 'hardware.N'"),
        (lambda: Space({"N": [1]}, where=("N + 1",)), "a constraint compares"),
        (lambda: Space({"N": [1]}, where=("N <=",)), "where: 'N <=': expected"),
        (lambda: Space({"N": [1]}, where=("N <= 4 parsecs",)), "not a quantity"),
        (lambda: Space({"N": [1]}, where=("frob(N) <= 4",)), "unknown axis 'frob'"),
        (lambda: Space({"N": [1]}, where=("min(N) <= 4",)), "takes 2 to 8 arguments, not 1"),
        (lambda: Space({"N": [1]}, where=("N[1] <= 4",)), "only axes and numbers"),
        (lambda: Space({"m": ["flat"]}, where=("m <= 4",)), "numbers and words"),
        (lambda: Space({"N": [1]}, where=(4,)), "expected a formula"),
        (lambda: Space({"N": [1]}, where=("__import__('os').x < 1",)), "unknown axis '__import__'"),
        (lambda: Space({"N": [1]}, derived={"N": "2"}), "an axis already"),
        (lambda: list(Space({"N": [0, 1]}, derived={"M": "1 / N"})), "not finite"),
        (lambda: Space({"N": Range(1, 2)}), "say how many points"),
        (lambda: Space({"N": [1]}, samples=0), "whole number from 1"),
        (lambda: Range(2, 1), "low < high"),
        (lambda: Range(0, 1, log=True), "above 0"),
        (lambda: Space({c: range(1000) for c in "abcd"}), "draw some"),
        (lambda: Space({"N": [1]}).shard(2, 2), "shard 2 of 2"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(DataError) as found:
        make()
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert "A0" not in str(found.value)


def made(axes, where, samples):
    return Space(axes, where=where if samples is None else (), samples=samples, seed=3)


SPACES = st.builds(
    made,
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.lists(st.sampled_from([1, 2, 3, 4.5, 6, 7, 8, 9, 10, 12]), min_size=1, max_size=7, unique=True),
        min_size=1,
    ).filter(lambda axes: "a" in axes and 6 in axes["a"]),
    st.sampled_from([(), ("a <= 6",), ("a >= 6", "a < 20")]),
    st.sampled_from([None, 1, 5, 64]),
)


@settings(max_examples=100, deadline=None)
@given(SPACES, st.data())
def test_positions_undo_columns(space, data):
    every = np.array(data.draw(st.permutations(range(len(space)))))
    assert space.positions(space.coded(every)).tolist() == every.tolist()
    wrong = space.coded(every[:1]) | {"a": coded([5])}
    assert space.positions(wrong).tolist() == [-1]


@settings(max_examples=100, deadline=None)
@given(SPACES, st.data())
def test_batches_follow_one_another_and_end_with_blocks(space, data):
    at, most = 0, data.draw(st.integers(1, 60))
    while at < len(space):
        size = space.run(at, most)
        assert 1 <= size <= most
        at += size
    assert at == len(space)


def test_a_batch_of_a_grid_is_a_grid():
    space = Space({"x": range(6), "y": range(10), "z": range(4)})
    sizes, at = [], 0
    while at < len(space):
        sizes.append(space.run(at, 90))
        at += sizes[-1]
    assert sizes == [80, 80, 80]


@pytest.mark.parametrize(
    "where",
    ['L3 == "16 MiB"', 'L3 != "16 MiB"', 'N != "64"', "word != 3", "word == N", "2 * word > 1", 'N < "b"'],
)
def test_numbers_and_words_are_not_compared(where):
    axes = {"L3": ["4 MiB", "16 MiB"], "N": [64, 128], "word": ["a", "b"]}
    with pytest.raises(DataError, match="mixes numbers and words"):
        Space(axes, where=(where,))
    assert len(Space(axes, where=('word != "a" and L3 != 16 MiB',))) == 2
