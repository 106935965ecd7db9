"""Bench of the sweep engine: what it adds to a point, how fast it resumes, merges, and finds a front."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from simulator.dse.engine import sweep
from simulator.dse.pareto import pareto
from simulator.dse.space import Space

POINTS = 100_000
SPACE = Space({"n": list(range(100)), "m": list(range(100)), "L3": [f"{2**k} MiB" for k in range(10)]})


def one(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a point at once, so that what is measured is the engine."""
    return {
        "latency_s": (1 + point["m"]) / (1 + point["n"]),
        "energy_j": point["m"] * 1.5,
        "area_mm2": 1.0 + point["n"],
        "bound_by": "PE1D",
    }


def many(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the results of many points at once."""
    n, m = np.array(columns["n"]), np.array(columns["m"])
    return {
        "latency_s": (1 + m) / (1 + n),
        "energy_j": m * 1.5,
        "area_mm2": 1.0 + n,
        "bound_by": ["PE1D"] * len(n),
    }


def _seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _row(what: str, value: float, unit: str, target: str = "", ratio: str = "") -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "target": target, "ratio": ratio}


def bench() -> list[dict[str, Any]]:
    """Return what the engine costs a point, in memory and on disk, one by one and in batches."""
    bare = _seconds(lambda: [one(point) for point in SPACE])
    memory = _seconds(lambda: sweep(SPACE, evaluate=one))
    batched = _seconds(lambda: sweep(SPACE, evaluate=one, evaluate_many=many))
    with tempfile.TemporaryDirectory() as folder:
        saved = _seconds(lambda: sweep(SPACE, evaluate=one, out=folder))
        again = _seconds(lambda: sweep(SPACE, evaluate=one, out=folder))
    with tempfile.TemporaryDirectory() as folder:
        pooled = _seconds(lambda: sweep(SPACE, evaluate=one, out=folder, jobs=2))
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((1_000_000, 3)), columns=["a", "b", "c"])
    front = _seconds(lambda: pareto(table, minimize=["a", "b", "c"]))
    us = 1e6 / POINTS
    return [
        _row("sweep: engine, in memory", (memory - bare) * us, "us a point", "< 100 us"),
        _row("sweep: engine, batched evaluator", batched * us, "us a point"),
        _row("sweep: engine, every point saved", (saved - bare) * us, "us a point", "< 100 us"),
        _row(
            "sweep: resume of a finished sweep", again * us, "us a point", "", f"{saved / again:.1f} x faster"
        ),
        _row("sweep: 100,000 points, 2 processes", POINTS / pooled, "points/s"),
        _row("Pareto front of 1,000,000 designs, 3 objectives", front, "s"),
    ]
