"""Windows against dense attention: speedups, and kernels that do not skip what lies outside the window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mappings.gpu import KernelMapping
from simulator.gpu.call import Call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.launch import Launch
from simulator.gpu.model import lay

from .gpu_metrics import relative_errors

# The dense kernel has to take this many times as long before a window's time tells whether the kernel skips.
_TELLING = 2.0
_LEAST_ROWS = 5
_CALL = ["batch", "heads", "kv_heads", "seq_q", "seq_kv", "causal", "kv_dtype"]


def skipping_seconds(calls: list[Call], launch: Launch, efficiency: Efficiency) -> NDArray[np.float64]:
    """Return the seconds of windowed calls if the kernel skipped everything outside the window, at no cost."""
    ideal = replace(launch.mapping, skips_window=True, walk_cycles=0.0, window_cycles=0.0)
    return _seconds(calls, launch, efficiency, ideal)


def dense_seconds(calls: list[Call], launch: Launch, efficiency: Efficiency) -> NDArray[np.float64]:
    """Return the seconds of the same calls without their window."""
    return _seconds([replace(c, window=0) for c in calls], launch, efficiency, launch.mapping)


def _seconds(
    calls: list[Call], launch: Launch, efficiency: Efficiency, mapping: KernelMapping
) -> NDArray[np.float64]:
    laid = lay(calls, launch.gpu, mapping=mapping, tile=launch.tile)
    return times(laid, efficiency, exact=False).latency_s


def finding(cases: pd.DataFrame) -> str:
    """Return what a windowed set does outside its window, from where its times lie; "" where they cannot tell.

    Rows tell where the dense kernel would take twice as long or more. The measured time then lies somewhere between
    the predicted time of a kernel that skips and that of the dense kernel; the median place, in logarithms, decides.

    Args:
        cases: rows of one set with `expected`, `skipping` and `dense` seconds.
    """
    telling = cases[cases["dense"] > _TELLING * cases["skipping"]]
    if len(telling) < _LEAST_ROWS:
        return ""
    place = np.log(telling["expected"] / telling["skipping"]) / np.log(telling["dense"] / telling["skipping"])
    middle = float(place.median())
    if middle > 0.6:
        return "does not skip outside the window"
    return "walks over tiles outside the window" if middle > 0.3 else "skips outside the window"


def speedups(cases: pd.DataFrame) -> dict[str, Any] | None:
    """Return the errors of predicted window speedups, over the calls that the table has both ways.

    Args:
        cases: rows of one set of constants, windowed and dense, with `got` and `expected` seconds.
    """
    dense = cases[cases["window"] == 0].drop_duplicates(_CALL)[[*_CALL, "got", "expected"]]
    pairs = cases[cases["window"] > 0].merge(dense, on=_CALL, suffixes=("", "_dense"))
    if not len(pairs):
        return None
    errors = relative_errors(pairs["got_dense"] / pairs["got"], pairs["expected_dense"] / pairs["expected"])
    return {"pairs": len(pairs), "speedup_mape": float(errors.mean()), "speedup_worst": float(errors.max())}
