"""Rows of a measured table that calibrate one key: read without pandas, every mistake one line."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from einsum_cascade.errors import DataError, HardwareError

from ..hardware.gpu import find_gpu
from .calibration import Key
from .call import Call, make_call

_WANTED = ("device", "kernel", "implementation", "direction", "dtype", "head_dim", "latency_ms")


def calibration_rows(path: str | Path, *, kernels: tuple[str, ...], key: Key) -> list[tuple[Call, float]]:
    """Return the (call, seconds) of a measured table that calibrate a key.

    Args:
        kernels: names of the kernel, each with whatever follows it.

    Raises:
        DataError: the file cannot be read, has a malformed row of this key, or no row of it.
    """
    found = []
    for line, row in _rows(Path(path)):
        if _is_of(row, kernels, key):
            call, seconds = _timed(row, f"{path}: line {line}")
            if call.dtype == key.dtype:
                found.append((call, seconds))
    if not found:
        raise DataError(
            f"{path}: no row of {key.implementation} on {key.device} with head_dim {key.head_dim}, {key.dtype}, "
            f"{key.direction}"
        )
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers; a cell that a short row lacks is empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, restval="")
            rows = [(lines.line_num, row) for row in lines]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{path}: not a text table") from None
    missing = set(_WANTED) - set(rows[0][1]) if rows else set(_WANTED)
    if missing:
        raise DataError(f"{path}: expected a measured table with the columns {', '.join(sorted(missing))}")
    return rows


def _is_of(row: Mapping[str, str], kernels: tuple[str, ...], key: Key) -> bool:
    return (
        row["implementation"] == key.implementation
        and row["kernel"].startswith(kernels)
        and row["direction"] == key.direction
        and _number(row["head_dim"]) == key.head_dim
        and _device(row["device"]) == key.device
    )


def _device(name: str) -> str:
    """Return the library's name of a device; a table may hold rows of devices that nobody described."""
    try:
        return find_gpu(name).name
    except HardwareError:
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _timed(row: Mapping[str, str], place: str) -> tuple[Call, float]:
    names = [f.name for f in fields(Call)]
    try:
        call = make_call(**{n: row[n] for n in names if row.get(n)})
    except DataError as e:
        raise DataError(f"{place}: {e}") from None
    seconds = _number(row["latency_ms"]) * 1e-3
    if not 0 < seconds < math.inf:
        raise DataError(f"{place}: latency_ms: expected a positive number, found '{row['latency_ms']}'")
    return call, seconds
