"""The engine on toy evaluators: order, errors as a column, batches, types, and what the table looks like."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError, HardwareError
from simulator.dse.engine import sweep
from simulator.dse.runner import Pending
from simulator.dse.space import Space
from simulator.dse.tables import read_table
from simulator.dse.workers import Workers, processes

SPACE = Space({"n": list(range(1, 30)), "m": [1, 2, 3], "L3": ["4 MiB", "16 MiB"]})


def evaluate(point):
    if point["n"] == 7:
        raise HardwareError("memories.L3: the tile does not fit\n  hint")
    return {
        "latency_s": point["m"] / point["n"],
        "traffic_bytes": point["n"] << 40,
        "utilization": {"PE2D": 1 / point["n"]} | ({"PE1D": 0.5} if point["m"] == 2 else {}),
        "bound_by": "PE2D" if point["m"] > 1 else "DRAM",
    }


def evaluate_many(columns):
    n, m = np.array(columns["n"]), np.array(columns["m"])
    return {
        "latency_s": m / n,
        "traffic_bytes": n << 40,
        "utilization": {"PE2D": 1 / n},
        "error": ["does not fit" if v == 7 else None for v in n],
    }


def test_one_row_a_point_in_the_order_of_the_space():
    table = sweep(SPACE, evaluate=evaluate)
    assert len(table) == len(SPACE)
    assert table.columns.tolist() == [
        "n",
        "m",
        "L3",
        "latency_s",
        "traffic_bytes",
        "utilization.PE2D",
        "bound_by",
        "utilization.PE1D",
        "error",
    ]
    for point, row in zip(SPACE, table.to_dict("records"), strict=True):
        assert {axis: row[axis] for axis in point} == point
        if point["n"] == 7:
            assert row["error"] == "memories.L3: the tile does not fit hint"
            assert math.isnan(row["latency_s"])
        else:
            assert pd.isna(row["error"])
            assert row["latency_s"] == point["m"] / point["n"]
            assert row["bound_by"] == ("PE2D" if point["m"] > 1 else "DRAM")


def test_evaluate_many_gives_the_same_rows():
    columns = ["n", "m", "L3", "latency_s", "traffic_bytes", "utilization.PE2D"]
    one = sweep(SPACE, evaluate=evaluate)
    many = sweep(SPACE, evaluate=evaluate, evaluate_many=evaluate_many)
    pd.testing.assert_frame_equal(one[columns], many[columns], check_exact=True)
    assert many["error"].dropna().unique().tolist() == ["does not fit"]


def test_where_evaluate_many_raises_each_point_speaks_for_itself():
    def whole_or_nothing(columns):
        raise HardwareError("one of these does not fit")

    table = sweep(SPACE, evaluate=evaluate, evaluate_many=whole_or_nothing)
    pd.testing.assert_frame_equal(table, sweep(SPACE, evaluate=evaluate))


@pytest.mark.parametrize("width", [1, 3])
def test_any_executor_gives_the_same_table(tmp_path, width):
    with ThreadPoolExecutor(width) as pool:
        table = sweep(SPACE, evaluate=evaluate, workers=Workers(pool, width), out=tmp_path)
    pd.testing.assert_frame_equal(table, sweep(SPACE, evaluate=evaluate), check_exact=True)
    pd.testing.assert_frame_equal(read_table(tmp_path), table, check_exact=True)


def test_a_number_that_is_not_finite_is_an_error_of_its_point():
    def result(point):
        return {"latency_s": math.inf if point["x"] == 2 else 1.0}

    table = sweep(Space({"x": [1, 2]}), evaluate=result)
    assert table["error"].tolist() == [pd.NA, "latency_s is inf"]


def test_all_points_failing_is_one_error():
    def fail(point):
        raise HardwareError("no memory named L9")

    with pytest.raises(DataError, match="all 2 points fail; most often: no memory named L9"):
        sweep(Space({"x": [1, 2]}), evaluate=fail)


def test_a_bug_in_the_evaluator_is_not_hidden(tmp_path):
    def bug(point):
        if point["x"] == 5:
            raise ZeroDivisionError
        return {"y": 1}

    space = Space({"x": list(range(9))})
    with pytest.raises(ZeroDivisionError):
        sweep(space, evaluate=bug, out=tmp_path)
    with pytest.raises(DataError, match="not finished"):
        read_table(tmp_path)
    assert len(sweep(space, evaluate=lambda point: {"y": 1}, out=tmp_path)) == 9


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_table_does_not_depend_on_the_batches(data):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    once = sweep(SPACE, evaluate=evaluate)
    turn = iter(sizes * 200)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pending, "learn", lambda self, batch: setattr(self, "size", next(turn)))
        pd.testing.assert_frame_equal(sweep(SPACE, evaluate=evaluate), once, check_exact=True)


def test_columns_have_types_that_parquet_keeps(tmp_path):
    def results(point):
        x = point["x"]
        return {
            "whole": x,
            "real": x / 2,
            "flag": x > 1,
            "word": "a",
            "mixed": x if x > 1 else "one",
            "none": None,
        }

    table = sweep(Space({"x": [1, 2], "y": [1, "two"]}), evaluate=results, out=tmp_path)
    kinds = {name: str(kind) for name, kind in table.dtypes.items()}
    assert kinds["whole"] == "int64"
    assert kinds["real"] == "float64"
    assert kinds["flag"] == "bool"
    assert kinds["word"] == kinds["mixed"] == kinds["y"] == kinds["error"] == "string"
    assert table["mixed"].tolist() == ["one", "one", "2", "2"]
    read = pd.read_csv(tmp_path / "table.csv")
    assert read["real"].tolist() == table["real"].tolist()


def test_the_manifest_says_what_was_swept(tmp_path):
    sweep(SPACE, evaluate=evaluate, out=tmp_path, provenance={"model": "toy 1"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["model"] == "toy 1"
    assert manifest["points"] == len(SPACE)
    assert manifest["failed"] == 6
    assert manifest["axes"]["L3"] == ["4 MiB", "16 MiB"]


def test_interrupted_processes_leave_what_they_work_at() -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes(1) as workers:
        workers.executor.submit(time.sleep, 0.0).result()
        long = workers.executor.submit(time.sleep, 60.0)
        while not long.running():
            time.sleep(0.01)
        begin = time.monotonic()
        raise KeyboardInterrupt
    # Ending a process takes milliseconds; the bound leaves room for a busy machine, far below the minute of work.
    assert time.monotonic() - begin < 20
    assert long.done()
