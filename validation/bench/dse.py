"""Bench of sweeps: FuseMax points together and one at a time; what the engine adds, how it resumes, finds a front.

A million points on a cluster: install the same version everywhere, start `dask scheduler` on one machine and
`dask worker tcp://HOST:8786 --nthreads 1 --nworkers auto` on the others (dask-jobqueue and dask-kubernetes do the
same), then `cascade sweep SPEC.yaml --out DIR --scheduler tcp://HOST:8786`. The folder lives where the command runs;
workers need neither it nor each other. What a point costs and how that scales is measured below.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from simulator.dse import study
from simulator.dse.batch import Task
from simulator.dse.cluster import connected
from simulator.dse.engine import sweep
from simulator.dse.pareto import pareto
from simulator.dse.points import attention, together
from simulator.dse.runner import Pending, running
from simulator.dse.space import Space
from simulator.dse.store import opened
from simulator.dse.workers import Workers

from .timing import timed

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
BATCH = 1 << 16  # as a sweep hands them out
ALONE = 500
ROUNDS = 3
# A million points as they are sent to a cluster: slow enough for workers to matter, and the same for any machine.
CLUSTER_POINTS = 400
CLUSTER_S = 0.01


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
    return timed(run)[1]


def _designs(part: int, parts: int) -> int:
    """Evaluate a share of the designs in batches, as a worker of a sweep does, and return how many."""
    share = len(DESIGNS) // parts
    at, end = part * share, (part + 1) * share
    while at < end:
        size = min(DESIGNS.run(at, BATCH), end - at)
        together.evaluate_many(DESIGNS.coded(range(at, at + size)), inputs=INPUTS)
        at += size
    return share


def _attention() -> list[dict[str, Any]]:
    """Return points per second: one at a time, together on one core and on two, and as a whole sweep."""
    some = [DESIGNS[i] for i in range(0, len(DESIGNS), len(DESIGNS) // ALONE)]

    def singly() -> None:
        for point in some:
            attention.evaluate(point, inputs=INPUTS)

    singly()  # reads each chip; what is measured after is the simulation
    alone = len(some) / _seconds(singly)
    first = len(DESIGNS) / _seconds(lambda: _designs(0, 1))
    single = len(DESIGNS) / min(_seconds(lambda: _designs(0, 1)) for _ in range(ROUNDS))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = functools.partial(pool.starmap, _designs, [(0, 2), (1, 2)], chunksize=1)
        halves()
        double = len(DESIGNS) / min(_seconds(halves) for _ in range(ROUNDS))
    return [
        _row("attention points, one at a time", alone, "points/s"),
        _row(
            "attention points together, first time",
            first,
            "points/s",
            "",
            f"{first / alone:.0f} x one at a time",
        ),
        _row("attention points together, 1 core", single, "points/s", "", f"{single / alone:.0f} x"),
        _row(
            "attention points together, 2 cores", double, "points/s", ">= 300,000", f"{double / alone:.0f} x"
        ),
        _row(
            "attention points, a sweep saved", _saved(1), "points/s", ">= 100,000", "Parquet and CSV included"
        ),
        _row("peak memory of that sweep", _peak_mib(), "MiB", "< 500 MB"),
    ]


def _saved(jobs: int) -> float:
    """Return the points per second of a sweep into a folder, from the first point to the table as Parquet and CSV."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return _seconds(lambda: study.sweep(DESIGNS, out=folder, jobs=jobs, **INPUTS))

    return len(DESIGNS) / min(run() for _ in range(ROUNDS))


def _peak_mib() -> float:
    """Return the greatest resident memory of a process that does nothing but the saved sweep."""
    program = (
        "import tempfile\n"
        "from validation.bench import dse as b, memory\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    b.study.sweep(b.DESIGNS, out=folder, **b.INPUTS)\n"
        "print(memory.peak_mib())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(ran.stdout)


def wait_and_count(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result after a fixed time, as a slow model would."""
    time.sleep(CLUSTER_S)
    return {"y": point["x"]}


def _cluster() -> list[dict[str, Any]]:
    """Return how a Dask cluster on this machine scales from one worker to two; nothing where Dask is missing.

    A point of `CLUSTER_S` shows what the cluster adds. A batch holds half a second of a worker's work, and the client
    alone sends and saves it: n points of t seconds take n x t / w on w workers, and a second or two to begin and to
    end, as long as half a second is more than w times what the client spends on a batch. So a million points of 10 ms
    take 3 hours on one worker and 4 minutes on 40; those of the vectorised model take seconds and need no cluster.
    """
    if importlib.util.find_spec("distributed") is None:
        return []
    space = Space({"x": list(range(CLUSTER_POINTS))})
    taken = {}
    for count in (1, 2):
        with _local_cluster(count) as workers:
            sweep(Space({"x": [0, 1]}), evaluate=wait_and_count, workers=workers)
            taken[count] = _seconds(lambda: sweep(space, evaluate=wait_and_count, workers=workers))
    ratio = f"{taken[1] / taken[2]:.2f} x from 1 worker to 2"
    client_s = _client_s()
    busy = CLUSTER_POINTS * CLUSTER_S / 2 / taken[2]
    return [
        _row("Dask: 10 ms points, 2 workers", CLUSTER_POINTS / taken[2], "points/s", "", ratio),
        _row("Dask: share of its time that a worker computes", busy, "1", ">= 0.85"),
        _row(
            "Dask: what the client spends on a batch",
            client_s * 1e3,
            "ms",
            "",
            f"enough for {0.5 / client_s:.0f} workers",
        ),
    ]


def _client_s() -> float:
    """Return the seconds that the process which sends and saves spends on a batch of a cluster."""
    space = Space({"x": list(range(CLUSTER_POINTS))})
    with _local_cluster(2) as workers, tempfile.TemporaryDirectory() as folder:
        sweep(Space({"x": [-1]}), evaluate=wait_and_count, workers=workers)
        begun = time.process_time()
        with opened(folder) as store:
            with running(
                Task(wait_and_count), store, total=0, jobs=1, workers=workers, progress=False
            ) as runner:
                batches = list(runner.run(Pending(space, np.zeros(len(space), dtype=bool))))
            return (time.process_time() - begun) / len(batches)


# A changed chip is read anew, so device constants are the costly axes of these two.
KERNEL = {
    "kernel": "flash_attention",
    "hardware": "h100",
    "sizes": "batch=4,heads=32,seq_q=4K,head_dim=128,dtype=bf16",
}
KERNELS = Space(
    {
        "hardware.exp_per_cycle": ["x1", "x2"],
        "hardware.l2": ["x0.5", "x1"],
        "sizes.seq_q": [256 * n for n in range(1, 33)],
        "sizes.head_dim": [64, 128],
    }
)
NEIGHBOURHOOD = {
    "layout": "30,48,80",
    "window": "18,24,24",
    "q_tile": "4,4,8",
    "kv_tile": "4,4,8",
    "hardware": "h100",
}
STRIDES = Space(
    {
        "stride": [f"{a},{b},{c}" for a in (1, 2, 4, 8, 16) for b in (1, 4, 8, 16) for c in (1, 4, 8, 16)],
        "hardware.exp_per_cycle": ["x0.5", "x1", "x2", "x4"],
        "hardware.sms": [66, 114, 132, 144],
    }
)


def _gpus() -> list[dict[str, Any]]:
    """Return the points per second of sweeps over GPU kernels, device constants among the axes, one at a time."""
    study.sweep(KERNELS, **KERNEL)
    study.sweep(STRIDES, **NEIGHBOURHOOD)
    kernels = len(KERNELS) / _seconds(lambda: study.sweep(KERNELS, **KERNEL))
    strides = len(STRIDES) / _seconds(lambda: study.sweep(STRIDES, **NEIGHBOURHOOD))
    return [
        _row("GPU kernel points of a sweep, 1 core", kernels, "points/s"),
        _row("neighbourhood attention on a GPU, 1 core", strides, "points/s"),
    ]


@contextlib.contextmanager
def _local_cluster(count: int) -> Iterator[Workers]:
    """Give a scheduler and single-threaded worker processes of this machine."""
    import distributed

    local: Any = distributed.LocalCluster
    with (
        local(
            n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        connected(cluster.scheduler_address) as workers,
    ):
        yield workers


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
        *_gpus(),
        *_cluster(),
        _row("sweep: engine, in memory", (memory - bare) * us, "us a point", "< 100 us"),
        _row("sweep: engine, batched evaluator", batched * us, "us a point"),
        _row("sweep: engine, every point saved", (saved - bare) * us, "us a point", "< 100 us"),
        _row(
            "sweep: resume of a finished sweep", again * us, "us a point", "", f"{saved / again:.1f} x faster"
        ),
        _row("sweep: 100,000 points, 2 processes", POINTS / pooled, "points/s"),
        _row("Pareto front of 1,000,000 designs, 3 objectives", front, "s"),
    ]
