"""Other people's kernels beside fused attention: predicted from what attention alone has told of a device.

No row of them has fitted anything. They are matrix products, attention with its scores in memory, decode and chunked
linear attention: kernels of other shapes, by which the grids and the constants' reach are judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from einsum_cascade.errors import ModelError
from kernels.measurement import OURS
from mappings.gpu import KernelMapping, find_kernel_mapping
from simulator.gpu.calibration import prior
from simulator.gpu.call import Call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.fitting import calibrate
from simulator.gpu.launch import Launch
from simulator.gpu.model import key_of, lay, predict
from simulator.gpu.sizes import call_of, words_of
from simulator.hardware.gpu import Gpu, find_gpu

from .gpu_sets import KERNEL, known_device

SET = ["device", "kernel", "implementation"]
_WORDS = ("batch", "heads", "seq_q", "seq_kv", "head_dim", "causal", "dtype", "kv_heads", "window")
# Of a matrix product the tables hold the inner rank where attention has its head dimension.
_INNER = "inner"
# Sets of fewer rows have no row to spare.
_LEAST_ROWS = 3


def operators(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each forward row of another kernel that the library describes.

    Args:
        table: of `measured.read_measured`.

    Returns:
        device, kernel, implementation, seconds measured, `got` from the shipped constants with `low` and `high`,
        `calibrated` with the set's row of median time, `roofline`, and `fitting` for that row.
    """
    others = table[~table["kernel"].str.startswith(KERNEL) & ~table["implementation"].str.startswith(OURS)]
    others = others[others["direction"] == "fwd"]
    out = [_set(rows) for _, rows in others.groupby(SET, sort=True) if known_device(rows["device"].iloc[0])]
    found = [rows for rows in out if len(rows)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _set(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of the rows of one kernel on one device."""
    gpu = find_gpu(rows["device"].iloc[0])
    found = []
    for row in rows.to_dict("records"):
        try:
            mapping = find_kernel_mapping(row["kernel"], row["implementation"])
            call = _call(row, mapping)
            laid = lay([call], gpu, mapping=mapping)
        except ModelError:
            continue
        found.append((row, mapping, call, laid))
    if not found:
        return pd.DataFrame()
    seconds = np.array([row["latency_ms"] * 1e-3 for row, *_ in found])
    middle = (
        int(np.argsort(seconds, kind="stable")[len(seconds) // 2]) if len(seconds) >= _LEAST_ROWS else None
    )
    one = None if middle is None else _calibrated(*found[middle][1:], gpu, seconds[middle])
    out = []
    for i, (row, mapping, call, laid) in enumerate(found):
        told = predict(
            row["kernel"], on=gpu, implementation=row["implementation"], mapping=mapping, **words_of(call)
        )
        out.append(
            {name: row[name] for name in SET}
            | {"seconds": seconds[i], "got": told.latency_s, "low": told.low_s, "high": told.high_s}
            | {"calibrated": float(times(laid, one).latency_s[0]) if one else np.nan}
            | {"roofline": told.roofline_s, "fitting": i == middle}
        )
    return pd.DataFrame(out)


def _call(row: Mapping[Any, Any], mapping: KernelMapping) -> Call:
    sizes = {n: row[n] for n in _WORDS if row.get(n)}
    if _INNER in mapping.parameters:
        sizes[_INNER] = int(sizes.pop("head_dim"))
    return call_of(mapping, sizes, remarks=str(row["extra"]))


def _calibrated(mapping: KernelMapping, call: Call, laid: Launch, gpu: Gpu, seconds: float) -> Efficiency:
    known = prior(key_of(call, gpu, mapping, mapping.name))
    return calibrate([laid], [np.array([seconds])], known=known, source="the row of median time")


def operator_sets(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one record a set: rows, median errors (None where none calibrates), the part inside the interval."""
    if not len(found):
        return []
    return [_summary(keys, rows) for keys, rows in found.groupby(SET, sort=True)]


def _summary(keys: tuple[Any, ...], rows: pd.DataFrame) -> dict[str, Any]:
    judged = rows[~rows["fitting"]]

    def median(column: str, of: pd.DataFrame) -> float | None:
        errors = (of[column] / of["seconds"] - 1.0).abs().dropna()
        return float(errors.median()) if len(errors) else None

    return {
        **dict(zip(SET, keys, strict=True)),
        "n": len(rows),
        "median_raw": median("got", rows),
        "median_calibrated": median("calibrated", judged),
        "median_roofline": median("roofline", rows),
        "inside": float(rows["seconds"].between(rows["low"], rows["high"]).mean()),
    }
