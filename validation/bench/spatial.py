"""How fast the spatial simulator is: one call, many design points at once, every published cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import mappings
from einsum_cascade import zoo
from simulator.hardware.reader import load_hardware
from simulator.spatial.model import simulate

from ..fusemax import cases, estimate
from ..fusemax_runs import gemm
from .timing import timed

POINTS = 16384  # arrays of this length stay in the caches of a core


def bench(points: int = POINTS) -> list[dict[str, Any]]:
    """Return rows: time of one call, design points per second when many are given at once, time of all cells.

    Args:
        points: length of the arrays; a point is the whole one-pass cascade (12 Einsums) at its own sizes.
    """
    cascade, chip = zoo.load("attention_1pass"), load_hardware("fusemax")
    plain, tiled = mappings.load("fusemax"), mappings.load("fusemax", {"P1": 4})
    sizes = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}
    one_s = _median(lambda: simulate(cascade, sizes, chip, plain), repeats=200)
    random = np.random.default_rng(0)
    width = random.choice([32.0, 64.0, 128.0], points)
    length = 1024.0 * random.integers(1, 1024, points)
    many = {
        **sizes,
        "H": random.integers(1, 64, points) * 1.0,
        "E": width,
        "F": width,
        "P": length,
        "M": length,
    }
    many_s = _median(lambda: simulate(cascade, many, chip, tiled), repeats=20)

    def cells() -> None:
        estimate.cache_clear()
        gemm.cache_clear()
        cases()

    return [
        {"what": "simulate, one call", "value": one_s * 1e3, "unit": "ms"},
        {"what": "simulate, arrays of sizes", "value": points / many_s, "unit": "points/s"},
        {"what": "every published FuseMax cell", "value": _median(cells, repeats=3), "unit": "s"},
    ]


def _median(work: Callable[[], object], *, repeats: int) -> float:
    work()
    return timed(work, repeats, clock=time.process_time)[1]
