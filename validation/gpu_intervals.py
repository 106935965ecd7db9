"""Widths of intervals from errors out of sample: `python -m validation.gpu_intervals` writes the shipped table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mappings.gpu import find_kernel_mapping
from simulator.gpu.intervals import KINDS, SHORT_S, STATES, TABLE

from .gpu import cases_of
from .gpu_operators import operators
from .gpu_sets import CONSTANTS, attention_rows
from .measured import PUBLISHED, read_measured
from .tables import write_rows

COVERAGE = 0.9
_LEAST_ROWS = 20  # short rows fewer than this take the width of the long ones, and no less than the next
# Of calls under 50 us: their fixed costs are the host's and the driver's, which differ from run to run.
_LEAST_SHORT = 0.15
# What machines and versions of one device differ by in published tables: the least width for a machine not measured.
_BETWEEN_MACHINES = 0.25
HOSTED = "chunk_retention"  # whose published times hold the host's work
_OF_A_SET = (0.1, 0.5, 0.9)  # places in order of size of the dense rows that calibrate a serving set


def three_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return three dense rows of each set of constants: short, middle and long."""
    picked = []
    for _, group in rows[rows["window"] == 0].groupby(CONSTANTS, sort=True):
        order = group["latency_ms"].sort_values(kind="stable").index
        picked += [order[int(len(order) * place)] for place in _OF_A_SET]
    return rows.loc[sorted(set(picked))]


def factor(ratios: NDArray[np.float64], *, coverage: float = COVERAGE) -> float:
    """Return the least spread that holds a part of the rows, one more row allowed for.

    Args:
        ratios: predicted over measured; a spread s holds those from 1 / (1 + s) to 1 + s.

    Source: split conformal prediction (Lei et al., 2018): the ceil((n + 1) coverage)-th smallest score.

    >>> round(factor(np.array([1.0, 1.1, 0.9, 1.2])), 3)
    0.2
    """
    scores = np.sort(np.exp(np.abs(np.log(ratios)))) - 1.0
    place = min(int(np.ceil((len(scores) + 1) * coverage)), len(scores))
    return float(scores[place - 1])


def residuals() -> dict[tuple[str, str], pd.DataFrame]:
    """Return, by state and kind, rows with `expected` and `ratio`: predicted over measured, none seen by its fit."""
    plain = read_measured(PUBLISHED / "gpu_measured.csv")
    serving, _ = attention_rows(read_measured(PUBLISHED / "serving_attention.csv"))
    found = {
        "plain": cases_of(attention_rows(plain)[0], None, ""),
        "backward": cases_of(attention_rows(plain, direction="bwd")[0], None, ""),
        "serving": cases_of(serving, three_rows(serving), ""),
    }
    out = {}
    for kind, cases in found.items():
        cases["expected"] = cases["latency_ms"] * 1e-3
        judged = cases[~cases["fitting"] & cases["scalar_source"].str.startswith("calibrated")]
        out["measured", kind] = judged.assign(ratio=judged["got"] / judged["expected"])
        out["like", kind] = cases.assign(ratio=cases["left_out"] / cases["expected"])
    described = _described(plain)
    out["like", "described"] = described.assign(ratio=described["got"] / described["expected"])
    judged = described[~described["fitting"] & described["calibrated"].notna()]
    out["measured", "described"] = judged.assign(ratio=judged["calibrated"] / judged["expected"])
    return out


def _described(table: pd.DataFrame) -> pd.DataFrame:
    """Return the published rows of kernels that are described by grids, the host's work taken off where it is known.

    The times of chunked linear attention hold the same host work each, which the shortest one is little else but; what
    is predicted is the time on the GPU alone. The shortest row tells the host's share and is not judged.
    """
    rows = operators(table)
    grids = [
        bool(find_kernel_mapping(k, i).grids)
        for k, i in zip(rows["kernel"], rows["implementation"], strict=True)
    ]
    rows = rows[grids].rename(columns={"seconds": "expected"})
    hosted = rows["kernel"] == HOSTED
    shortest = rows.loc[hosted, "expected"].idxmin()
    host_s = float(rows.at[shortest, "expected"] - rows.at[shortest, "got"])
    # A row of those calibrates nothing here, as its time is not the GPU's.
    rows.loc[hosted, "calibrated"] = np.nan
    return rows.assign(expected=rows["expected"] - host_s * hosted).drop(index=shortest)


def entries() -> list[dict[str, Any]]:
    """Return the rows of the shipped table."""
    found = residuals()
    return [_entry(state, kind, found) for state in STATES for kind in KINDS]


def _entry(state: str, kind: str, found: dict[tuple[str, str], pd.DataFrame]) -> dict[str, Any]:
    # Of a machine that was not measured, but whose device was, no published table tells: as after a measurement, and
    # no less than machines differ.
    seen = "measured" if state == "own" else state
    rows = found.get((seen, kind), found["like", kind])
    short = rows[rows["expected"] < SHORT_S]["ratio"].to_numpy(float)
    long = rows[rows["expected"] >= SHORT_S]["ratio"].to_numpy(float)
    spread = factor(long)
    narrow = max(spread, factor(short)) if len(short) >= _LEAST_ROWS else spread
    least = _BETWEEN_MACHINES if state == "own" else 0.0
    return {
        "state": state,
        "kind": kind,
        "spread": f"{max(spread, least):.3f}",
        "short": f"{max(narrow, least, _LEAST_SHORT):.3f}",
        "coverage": COVERAGE,
        "n": len(rows),
        "source": source_of(state, kind, len(rows)),
    }


def source_of(state: str, kind: str, count: int) -> str:
    """Return where a row of the table comes from, which so many published rows tell."""
    how = {"measured": "calibrated rows left out", "own": "as measured", "like": "device left out"}[state]
    if (state, kind) == ("like", "described"):
        how = "constants of attention alone, the host's work taken off"
    least = (
        f"; at the least {_BETWEEN_MACHINES}, what machines of one device differ by" if state == "own" else ""
    )
    return f"fitted: {how}, {count} rows of the published tables{least}"


def write(path: Path = TABLE) -> None:
    """Write the table."""
    rows = entries()
    write_rows(path, rows)


if __name__ == "__main__":
    write()
