"""Bench of sweeps: FuseMax points together and one at a time; what the engine adds, how it resumes, finds a front."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from simulator.dse import study
from simulator.dse.engine import sweep
from simulator.dse.pareto import pareto
from simulator.dse.points import attention, together
from simulator.dse.space import Space

POINTS = 100_000
SPACE = Space({"n": list(range(100)), "m": list(range(100)), "L3": [f"{2**k} MiB" for k in range(10)]})

# One-pass attention on FuseMax: every row is latency, energy, traffic, area, utilisation and what bounds.
INPUTS = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/64K"}
DESIGNS = Space(
    {
        "hardware.N": [64, 96, 128, 192, 256, 384, 512, 1024],
        "hardware.L3": [f"{2**k} MiB" for k in range(1, 9)],
        "hardware.memories.DRAM.bandwidth": [f"{50 * k} GiB/s" for k in range(1, 17)],
        "sizes.seq": [f"{2**k}K" for k in range(10)],
        "sizes.B": list(range(1, 11)),
    }
)
BATCH = 1 << 13  # arrays of this length stay in the cache of a core
ALONE = 500


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


def _designs(part: int, parts: int) -> int:
    """Evaluate a share of the designs in batches, as a worker of a sweep does, and return how many."""
    positions = DESIGNS.shard(part, parts) if parts > 1 else range(len(DESIGNS))
    for i in range(0, len(positions), BATCH):
        together.evaluate_many(DESIGNS.columns(positions[i : i + BATCH]), inputs=INPUTS)
    return len(positions)


def _attention() -> list[dict[str, Any]]:
    """Return points per second: one at a time, together on one core and on two, and as a whole sweep."""
    some = [DESIGNS[i] for i in range(0, len(DESIGNS), len(DESIGNS) // ALONE)]

    def singly() -> None:
        for point in some:
            attention.evaluate(point, inputs=INPUTS)

    singly()  # reads each chip; what is measured after is the simulation
    alone = len(some) / _seconds(singly)
    first = len(DESIGNS) / _seconds(lambda: _designs(0, 1))
    single = len(DESIGNS) / _seconds(lambda: _designs(0, 1))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = functools.partial(pool.starmap, _designs, [(0, 2), (1, 2)], chunksize=1)
        halves()
        double = len(DESIGNS) / _seconds(halves)
    with tempfile.TemporaryDirectory() as folder:
        whole = len(DESIGNS) / _seconds(lambda: study.sweep(DESIGNS, out=folder, jobs=2, **INPUTS))
    return [
        _row("attention points, one at a time", alone, "points/s"),
        _row(
            "attention points together, 1 core",
            single,
            "points/s",
            "",
            f"{single / alone:.0f} x one at a time",
        ),
        _row("attention points together, first time", first, "points/s", "", f"{first / alone:.0f} x"),
        _row(
            "attention points together, 2 cores", double, "points/s", ">= 300,000", f"{double / alone:.0f} x"
        ),
        _row("attention points, a sweep saved, 2 cores", whole, "points/s", "", f"{whole / alone:.0f} x"),
    ]


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
        *_attention(),
        _row("sweep: engine, in memory", (memory - bare) * us, "us a point", "< 100 us"),
        _row("sweep: engine, batched evaluator", batched * us, "us a point"),
        _row("sweep: engine, every point saved", (saved - bare) * us, "us a point", "< 100 us"),
        _row(
            "sweep: resume of a finished sweep", again * us, "us a point", "", f"{saved / again:.1f} x faster"
        ),
        _row("sweep: 100,000 points, 2 processes", POINTS / pooled, "points/s"),
        _row("Pareto front of 1,000,000 designs, 3 objectives", front, "s"),
    ]
