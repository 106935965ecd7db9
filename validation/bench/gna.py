"""Speed of the GNA room: settings counted per second, and the ranking that replaces an autotuner."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.gpu.gna import gna_bounds, grid_counts
from simulator.gpu.gna_axis import Axis, count_axis
from simulator.gpu.gna_tune import tune_gna
from simulator.hardware.gpu import find_gpu

from .timing import timed

LAYOUT, Q_TILE, KV_TILE = (30, 48, 80), (4, 8, 8), (2, 8, 8)
WINDOW_STEPS = (3, 12, 20)  # every such window of an axis with every legal stride: some four million settings


def bench(rounds: int = 5) -> list[dict[str, Any]]:
    """Return what was measured, with unit and target: one row a figure."""
    settings, together = timed(_count_grid, rounds)
    calls, alone = timed(_count_alone, rounds)
    find_gpu("b200")  # reading the chip's file once is not ranking
    ranked, seconds = timed(_rank, rounds)
    return [
        {
            "what": "GNA settings counted, HunyuanVideo windows x strides",
            "value": settings / together,
            "unit": "settings/s",
            "target": ">= 1,000,000",
            "ratio": f"{settings / together / (calls / alone):,.0f} x one call at a time",
        },
        {
            "what": f"HunyuanVideo ranked on b200, {ranked:,} stride x tile pairs",
            "value": seconds,
            "unit": "s",
            "target": "< 0.2 s",
            "ratio": f"{ranked / seconds:,.0f} settings/s",
        },
    ]


def _count_grid() -> int:
    """Count every window of the steps with every stride of it, tables included."""
    tables = []
    for length, q_tile, kv_tile, step in zip(LAYOUT, Q_TILE, KV_TILE, WINDOW_STEPS, strict=True):
        windows = np.arange(step, length + 1, step)
        stride = np.concatenate([np.arange(1, w + 1) for w in windows])
        axis = Axis(length, 2, q_tile=q_tile, kv_tile=kv_tile)
        tables.append(count_axis(axis, np.repeat(windows, windows), stride))
    return int(grid_counts(tables).visited.size)


def _count_alone() -> int:
    for stride in range(1, 19):
        gna_bounds(layout=LAYOUT, window=(18, 24, 24), stride=stride, q_tile=Q_TILE, kv_tile=KV_TILE)
    return 18


def _rank() -> int:
    return tune_gna(layout=LAYOUT, window=(18, 24, 24), on="b200").settings
