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
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32"}
_EIGHT_BITS = {"fp8_e4m3": "fp8", "float8_e4m3fn": "fp8", "fp8_e5m2": "fp8e5", "float8_e5m2": "fp8e5"}


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
    isl, step = _whole(rows, "isl"), _whole(rows, "step").clip(lower=0)
    window = _whole(rows, "window_size").clip(lower=0)  # frameworks write -1 for none
    return {
        "source": f"aiconfigurator, {_CONTEXT}_perf",
        "device": rows["device"].astype(str),
        "kernel": "flash_attention",
        "implementation": _implementation(rows),
        "direction": "fwd",
        "dtype": _types(rows["attn_dtype"]).replace(_DTYPES),
        "batch": _whole(rows, "batch_size").astype(str),
        "heads": _whole(rows, "num_heads").astype(str),
        "seq_q": isl.astype(str),
        "seq_kv": (isl + step).astype(str),
        "head_dim": _whole(rows, "head_dim").astype(str),
        "causal": "1",
        "extra": pd.Series(None, index=rows.index, dtype="object"),
        "latency_ms": rows["latency"].astype(float).astype(str),
        "tflops": pd.Series(None, index=rows.index, dtype="object"),
        "kv_heads": _whole(rows, "num_key_value_heads").astype(str),
        "window": window.astype(str),
        "kv_dtype": _types(rows["kv_cache_dtype"]).replace({"auto": ""}),
        "power_w": _power(rows),
    }


def _implementation(rows: pd.DataFrame) -> pd.Series:
    framework = rows["framework"].astype(str).str.lower()
    return framework + "-" + rows["version"].astype(str) + ":" + rows["kernel_source"].astype(str)


def _types(words: pd.Series) -> pd.Series:
    """Return names of types in our words; an unknown one stays, for its rows to be left out and counted."""
    plain = words.astype(str).str.lower().str.removeprefix("torch.")
    return plain.replace(_EIGHT_BITS)


def _power(rows: pd.DataFrame) -> pd.Series:
    """Return watts where the file has them."""
    if "power" not in rows.columns:
        return pd.Series(None, index=rows.index, dtype="object")
    return pd.to_numeric(rows["power"], errors="coerce")


def _whole(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of whole numbers, zeros where the file has no such column."""
    if name not in rows.columns:
        return pd.Series(0, index=rows.index)
    return pd.to_numeric(rows[name], errors="coerce").fillna(0).astype(int)
