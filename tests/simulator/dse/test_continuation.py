"""A folder belongs to one sweep: it goes on and grows, and never becomes another."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from simulator.dse.continuation import check_same_sweep
from simulator.dse.engine import described, sweep
from simulator.dse.space import Derived, Range, Space


def evaluate(point):
    return {"y": point["x"] * 2}


SPACES = {
    "small": Space({"x": [1, 2]}),
    "more": Space({"x": [0, 1, 2]}),
    "other": Space({"x": [1, 3]}),
    "constrained": Space({"x": [0, 1, 2]}, where=("x >= 1",)),
    "two axes": Space({"x": [1, 2], "z": [1]}),
    "two axes, more": Space({"x": [1, 2], "z": [1, 2]}),
    "float": Space({"x": [1.0, 2.0]}),
    "derived": Space({"x": [1, 2]}, derived={"z": "x * 2"}),
    "derived as object": Space({"x": [1, 2]}, derived={"z": Derived("x * 2")}),
    "derived otherwise": Space({"x": [1, 2]}, derived={"z": "x * 3"}),
}


@pytest.mark.parametrize(("first", "second"), list(itertools.product(SPACES, SPACES)))
def test_only_a_sweep_that_keeps_every_constraint_and_column_goes_on(tmp_path, first, second):
    """Oracle: where a sweep goes on, its table holds every row of the table before."""
    before = sweep(SPACES[first], evaluate=evaluate, out=tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in ("table.parquet", "manifest.json", "points.log")}
    try:
        after = sweep(SPACES[second], evaluate=evaluate, out=tmp_path)
    except DataError as error:
        assert "this folder holds another sweep: " in str(error)
        assert len(str(error).splitlines()) == 1
        assert kept == {name: (tmp_path / name).read_bytes() for name in kept}
        return
    rows = {tuple(map(repr, row)) for row in after.astype(object).values.tolist()}
    assert {tuple(map(repr, row)) for row in before.astype(object).values.tolist()} <= rows
    assert list(before.columns) == list(after.columns)


def goes_on(first: Space, second: Space, **inputs: str) -> bool:
    try:
        check_same_sweep(
            "out", {**described(first), "inputs": {"chip": "a"}}, {**described(second), "inputs": inputs}
        )
    except DataError:
        return False
    return True


def test_what_goes_on_is_what_was_decided():
    assert goes_on(SPACES["small"], SPACES["more"], chip="a")
    assert goes_on(SPACES["constrained"], SPACES["more"], chip="a")
    assert goes_on(SPACES["derived"], SPACES["derived as object"], chip="a")
    assert not goes_on(SPACES["small"], SPACES["small"], chip="b")
    assert not goes_on(SPACES["small"], SPACES["small"])
    draw = {n: Space({"x": Range(0, 9)}, samples=n) for n in (4, 8)}
    assert goes_on(draw[4], draw[8], chip="a")
    assert not goes_on(draw[8], draw[4], chip="a")
    assert not goes_on(draw[4], Space({"x": Range(0, 9)}, samples=4, seed=1), chip="a")
    assert not goes_on(draw[4], Space({"x": Range(0, 8)}, samples=4), chip="a")


def test_more_samples_contain_the_first_ones(tmp_path):
    few, many = (Space({"x": Range(0, 9), "z": ["a", "b", "c"]}, samples=n, seed=3) for n in (5, 11))
    assert list(few) == list(many)[:5]


def test_a_folder_without_points_belongs_to_nobody(tmp_path):
    sweep(Space({"x": [1]}), evaluate=evaluate, out=tmp_path)
    (tmp_path / "points.log").write_bytes(b"")
    assert sweep(Space({"x": [7]}), evaluate=evaluate, out=tmp_path)["y"].tolist() == [14]


def test_whole_numbers_stay_whole_where_some_points_fail(tmp_path):
    def some(point):
        if point["x"] % 3 == 0:
            raise DataError("no")
        return {
            "count": 2**60 + point["x"],
            "even": point["x"] % 2 == 0,
            "share": 0.5 if point["x"] > 1 else 1,
        }

    for out in (None, tmp_path):
        table = sweep(Space({"x": list(range(7))}), evaluate=some, out=out)
        fine = table[table["error"].isna()]
        assert fine["count"].tolist() == [2**60 + x for x in (1, 2, 4, 5)]
        assert fine["even"].tolist() == [False, True, True, False]
        assert table["count"].isna().tolist() == [x % 3 == 0 for x in range(7)]
        assert table["share"].dtype == "float64"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)
