"""Fit the shipped table of efficiencies to the published rows: `python -m validation.gpu_fit`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.gpu.calibration import NUMBERS, TABLE, Key, prior, unsure_of
from simulator.gpu.efficiency import times
from simulator.gpu.fitting import calibrate, unsure

from .gpu_sets import CONSTANTS, Part, attention_rows, parts_of
from .measured import PUBLISHED, read_measured
from .tables import write_rows

_LEAST_ROWS = 4


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield one row of the table for each set of constants of a measured table."""
    table = read_measured(path)
    for direction in ("fwd", "bwd"):
        rows, _ = attention_rows(table, direction=direction)
        for _, group in rows.groupby(CONSTANTS, sort=True):
            for kv_dtype, same in group.groupby("kv_dtype", sort=True):
                if len(same) >= _LEAST_ROWS:
                    yield _entry(same, str(kv_dtype), path)


def _entry(rows: pd.DataFrame, kv_dtype: str, path: Path) -> dict[str, Any]:
    parts = list(parts_of(rows))
    key = parts[0].key
    # The weak prior of a kernel that nobody measured: many rows outweigh it, few lean on it.
    known = prior(key, table=())
    laid, seconds = [p.launch for p in parts], [p.measured_s for p in parts]
    fitted = calibrate(laid, seconds, known=known, source="", exact=False)
    left_open = unsure(laid, seconds, known=known, found=fitted)
    errors = np.concatenate([_errors(p, fitted) for p in parts])
    return {
        **{name: getattr(key, name) for name in Key.__dataclass_fields__},
        "scalar": f"{fitted.scalar:.4g}",
        "launch_s": f"{fitted.launch_s:.3g}",
        "block_cycles": f"{fitted.block_cycles:.4g}",
        "memory": f"{fitted.memory:.3g}",
        "copy_cycles": f"{fitted.copy_cycles:.3g}",
        **{unsure_of(name): f"{x:.3g}" for name, x in zip(NUMBERS, left_open, strict=True)},
        "n": len(rows),
        "mape": f"{errors.mean():.3f}",
        "source": f"fitted: {len(rows)} rows of {rows['device'].iloc[0]} in {path.name}",
    }


def _errors(part: Part, fitted: Any) -> np.ndarray:
    got = times(part.launch, fitted).latency_s
    return np.asarray(np.abs(got / part.measured_s - 1))


def write(path: Path = TABLE) -> int:
    """Write the table and return its number of rows."""
    rows = [
        row for name in ("gpu_measured.csv", "serving_attention.csv") for row in entries(PUBLISHED / name)
    ]
    write_rows(path, rows)
    return len(rows)


if __name__ == "__main__":
    write()
