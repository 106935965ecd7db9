"""aiconfigurator's own tables of attention kernels (parquet), brought to the schema of measured tables.

Source: aiconfigurator-core 0.12.0 (Apache-2.0), systems/data/<system>/attention/<framework>/<version>/
context_attention_perf.parquet: one row a call of a serving framework's prefill, latency in milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from einsum_cascade.errors import DataError

SUFFIXES = (".parquet", ".pq")
REQUIRED = (
    "framework", "version", "device", "op_name", "kernel_source", "batch_size", "isl", "num_heads",
    "num_key_value_heads", "head_dim", "attn_dtype", "kv_cache_dtype", "latency",
)  # fmt: skip
_WORDS = {"framework", "version", "device", "op_name", "kernel_source", "attn_dtype", "kv_cache_dtype"}
_CONTEXT = "context_attention"
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def is_parquet(path: Path) -> bool:
    """Return whether a path names a parquet file."""
    return path.suffix.lower() in SUFFIXES


def read_aiconfigurator(path: str | Path) -> pd.DataFrame:
    """Return the prefill attention rows of a parquet file as text columns of the measured schema.

    A window of zero means none; `step` is the number of keys that were in the cache before the call; prefill is causal.
    Useful operations are not in the file, so `tflops` stays empty.

    Raises:
        DataError: missing, not parquet, a column missing, no prefill row, or a value that cannot be.
    """
    path = Path(path)
    given = _read(path)
    missing = [c for c in REQUIRED if c not in given.columns]
    if missing:
        raise DataError(f"{path}: missing column '{missing[0]}'; expected {', '.join(REQUIRED)}")
    rows = given[given["op_name"].astype(str) == _CONTEXT].reset_index(drop=True)
    if not len(rows):
        raise DataError(f"{path}: no row with op_name '{_CONTEXT}'")
    _check(rows, path)
    return pd.DataFrame(_columns(rows))


def _read(path: Path) -> pd.DataFrame:
    import pyarrow

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except pyarrow.ArrowException as e:
        raise DataError(f"{path}: not a parquet table: {str(e).splitlines()[0]}") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from None


def _check(rows: pd.DataFrame, path: Path) -> None:
    for name in (c for c in REQUIRED if c not in _WORDS):
        numbers = pd.to_numeric(rows[name], errors="coerce")
        least = 0 if name == "num_key_value_heads" else 1e-12
        bad = rows.index[~(numbers >= least) | (numbers == float("inf"))]
        if len(bad):
            raise DataError(
                f"{path}: row {bad[0] + 1}: {name}: expected a positive number, found '{rows[name][bad[0]]}'"
            )


def _columns(rows: pd.DataFrame) -> dict[str, Any]:
    isl, step = rows["isl"].astype(int), _whole(rows, "step")
    window = _whole(rows, "window_size")
    cache = rows["kv_cache_dtype"].astype(str)
    return {
        "source": f"aiconfigurator, {_CONTEXT}_perf",
        "device": rows["device"].astype(str),
        "kernel": "flash_attention",
        "implementation": _implementation(rows),
        "direction": "fwd",
        "dtype": rows["attn_dtype"].astype(str).replace(_DTYPES),
        "batch": rows["batch_size"].astype(int).astype(str),
        "heads": rows["num_heads"].astype(int).astype(str),
        "seq_q": isl.astype(str),
        "seq_kv": (isl + step).astype(str),
        "head_dim": rows["head_dim"].astype(int).astype(str),
        "causal": "1",
        "extra": pd.Series(None, index=rows.index, dtype="object"),
        "latency_ms": rows["latency"].astype(float).astype(str),
        "tflops": pd.Series(None, index=rows.index, dtype="object"),
        "kv_heads": _whole(rows, "num_key_value_heads").astype(str),
        "window": window.astype(str),
        "kv_dtype": cache,
        "power_w": rows["power"].astype(float).astype(str)
        if "power" in rows
        else pd.Series(None, index=rows.index, dtype="object"),
    }


def _implementation(rows: pd.DataFrame) -> pd.Series:
    framework = rows["framework"].astype(str).str.lower()
    return framework + "-" + rows["version"].astype(str) + ":" + rows["kernel_source"].astype(str)


def _whole(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of whole numbers, zeros where the file has no such column."""
    if name not in rows.columns:
        return pd.Series(0, index=rows.index)
    return pd.to_numeric(rows[name], errors="coerce").fillna(0).astype(int)
