"""Energy on a GPU held against measured board power; `python -m validation.gpu_energy` fits the two constants."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulator.gpu.energy import TABLE, power

from .gpu_metrics import relative_errors
from .gpu_sets import CONSTANTS, Part, attention_rows, parts_of
from .measured import PUBLISHED, read_measured
from .tables import write_rows

Floats = NDArray[np.float64]

_COVERED = 0.9  # the part of the rows that the interval is to hold


def powered_parts(rows: pd.DataFrame) -> Iterator[tuple[Part, Floats]]:
    """Yield launches with the measured watts of their rows."""
    powered = rows[rows["power_w"].notna()] if "power_w" in rows else rows.iloc[:0]
    for _, group in powered.groupby(CONSTANTS, sort=True):
        for part in parts_of(group):
            yield part, rows.loc[part.rows, "power_w"].to_numpy(float)


def power_note(rows: pd.DataFrame) -> list[str]:
    """Return what a comparison says of power: errors on measured times, held out, and of a constant."""
    pairs = list(powered_parts(rows))
    if not pairs:
        return []
    measured = np.concatenate([watts for _, watts in pairs])
    shipped = [power(part.launch, part.measured_s) for part, _ in pairs]
    got = np.concatenate([p.power_w for p in shipped])
    errors = relative_errors(got, measured)
    inside = np.concatenate([np.full(len(p.power_w), p.spread) for p in shipped]) >= errors
    constant = relative_errors(np.full(len(measured), np.median(measured)), measured).mean()
    return [
        f"board power x time, {len(measured)} rows on measured times: mean error {errors.mean():.1%}, "
        f"worst {errors.max():.0%}, {inside.mean():.0%} inside the interval; constants from the other half of the rows "
        f"{_held_out(pairs):.1%}; the median power for every row {constant:.1%}"
    ]


def _held_out(pairs: list[tuple[Part, Floats]]) -> float:
    """Return the mean error where even rows are predicted by constants of the odd ones and the reverse."""
    dynamic_w, measured, limit = _watts(pairs)
    odd = np.arange(len(measured)) % 2 == 1
    errors = []
    for half in (odd, ~odd):
        if half.sum() < 2:
            continue
        idle, scale = fit(dynamic_w[half], measured[half], limit_w=limit[half])
        got = np.minimum(idle + scale * dynamic_w[~half], limit[~half])
        errors.append(relative_errors(got, measured[~half]))
    return float(np.concatenate(errors).mean()) if errors else float("inf")


def _watts(pairs: list[tuple[Part, Floats]]) -> tuple[Floats, Floats, Floats]:
    dynamic = [power(part.launch, part.measured_s).dynamic_j / part.measured_s for part, _ in pairs]
    limit = [np.full(len(watts), part.launch.gpu.board_power_w) for part, watts in pairs]
    return np.concatenate(dynamic), np.concatenate([watts for _, watts in pairs]), np.concatenate(limit)


def fit(dynamic_w: Floats, measured_w: Floats, *, limit_w: Floats) -> tuple[float, float]:
    """Return (idle watts, scale of the dynamic power) of least mean relative error, power capped at the board's limit.

    A grid, refined once: two numbers, a kink at the cap, and absolute errors that outliers do not rule.

    >>> fit(np.array([100.0, 400.0]), np.array([300.0, 600.0]), limit_w=np.array([1000.0, 1000.0]))
    (200.0, 1.0)
    """
    idles, scales = np.linspace(0, 1, 41) * float(limit_w.max()), np.linspace(0, 2, 41)
    for _ in range(2):
        got = idles[:, None, None] + scales[None, :, None] * dynamic_w
        errors = relative_errors(np.minimum(got, limit_w), measured_w).mean(axis=2)
        i, j = np.unravel_index(int(errors.argmin()), errors.shape)
        idle, scale = float(idles[i]), float(scales[j])
        idles = np.clip(idle + np.linspace(-1, 1, 41) * (idles[1] - idles[0]), 0, None)
        scales = np.clip(scale + np.linspace(-1, 1, 41) * (scales[1] - scales[0]), 0, None)
    return idle, scale


def write(path: Path = TABLE) -> None:
    """Fit the constants of the table to the published rows that have power, and write them."""
    rows, _ = attention_rows(read_measured(PUBLISHED / "serving_attention.csv"))
    pairs = list(powered_parts(rows))
    gpu = pairs[0][0].launch.gpu
    dynamic_w, measured, limit = _watts(pairs)
    idle, scale = fit(dynamic_w, measured, limit_w=limit)
    errors = relative_errors(np.minimum(idle + scale * dynamic_w, limit), measured)
    rows_of = f"{gpu.name} board power of {len(measured)} rows in serving_attention.csv"
    source = f"fitted: {rows_of}, mean error {errors.mean():.1%}"
    found = {
        "idle_share": (idle / gpu.board_power_w, source),
        "scale": (scale, source),
        "spread": (float(np.quantile(errors, _COVERED)), f"{source}; {_COVERED:.0%} of the rows are inside"),
    }
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        if row["name"] in found:
            value, row["source"] = found[row["name"]]
            row["value"] = f"{value:.4g}"
    write_rows(path, table)


if __name__ == "__main__":
    write()
