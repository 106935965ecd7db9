"""Rows of a measured table that calibrate one key: read without pandas, every mistake one line."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from einsum_cascade.errors import DataError, HardwareError, ModelError

from ..hardware.gpu import find_gpu
from .calibration import Key
from .call import SIZES, Call

_WANTED = ("source", "device", "kernel", "implementation", "direction", "dtype", "head_dim", "latency_ms")
# Sizes that older tables hold among the remarks of their column `extra`.
REMARKED = {"kv_heads": r"kv heads=(\d+)", "window": r"window=(\d+)"}
_AT_ONCE = 64  # rows of one launch: it is as wide as its longest call


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A timed call of a kernel on the device in question."""

    kernel: str
    implementation: str
    call: Call
    seconds: float


def calibration_rows(
    path: str | Path,
    *,
    kernels: tuple[str, ...],
    key: Key,
    direction: str,
    call_of: Callable[[Mapping[str, Any], str], Call],
) -> list[MeasuredRow]:
    """Return the rows of a measured table on a key's device and in a direction, in an order of their own.

    Args:
        kernels: names of the kernel, each with whatever follows it.
        call_of: the call of a row's sizes and of its remarks, the column `extra`.

    Raises:
        DataError: the file cannot be read, has a malformed row of this device, or no row of the key.
    """
    found = [
        MeasuredRow(kernels[0], row["implementation"], *_timed(row, f"{path}: line {line}", call_of))
        for line, row in _rows(Path(path))
        if _is_near(row, kernels, key, direction)
    ]
    if not any(is_own(r, key) for r in found):
        raise DataError(
            f"{path}: no row of {key.implementation} on {key.device} with head_dim {key.head_dim}, {key.dtype}, "
            f"{direction}"
        )
    return sorted(found, key=lambda r: (r.implementation, astuple(r.call), r.seconds))


def is_own(row: MeasuredRow, key: Key) -> bool:
    """Return whether a row calibrates a key itself, and not one of its likes."""
    return (row.implementation, row.call.head_dim, row.call.dtype) == (
        key.implementation,
        key.head_dim,
        key.dtype,
    )


def alike_rows(rows: Sequence[MeasuredRow]) -> Iterator[list[MeasuredRow]]:
    """Yield rows that one launch can describe, short calls with short ones."""
    alike: dict[tuple[object, ...], list[MeasuredRow]] = {}
    for row in rows:
        call = row.call
        like = (call.head_dim, call.dtype, call.kv_dtype, call.windowed, call.causal, call.parameters)
        alike.setdefault((row.implementation, *like), []).append(row)
    for group in alike.values():
        ordered = sorted(group, key=lambda r: r.call.seq_q * r.call.group)
        yield from (ordered[i : i + _AT_ONCE] for i in range(0, len(ordered), _AT_ONCE))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers; a cell that a short row lacks is empty, spaces around one are none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names, lines = [name.strip() for name in next(csv.reader(file), [])], csv.reader(file)
            # The head is a line, too.
            rows = [(lines.line_num + 1, _cells(names, row)) for row in lines if row]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{path}: not a text table") from None
    missing = set(_WANTED) - set(names)
    if missing:
        raise DataError(f"{path}: expected a measured table with the columns {', '.join(sorted(missing))}")
    if not rows:
        raise DataError(f"{path}: the table has no rows")
    return rows


def _cells(names: list[str], row: list[str]) -> dict[str, str]:
    return dict(itertools.zip_longest(names, (cell.strip() for cell in row[: len(names)]), fillvalue=""))


def _is_near(row: Mapping[str, str], kernels: tuple[str, ...], key: Key, direction: str) -> bool:
    return (
        row["kernel"].startswith(kernels)
        and row["direction"] == direction
        and _number(row["head_dim"]) >= 0  # 0 of a kernel without heads
        and key.device in (row["device"], _device(row["device"]))
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


def _timed(
    row: Mapping[str, str], place: str, call_of: Callable[[Mapping[str, Any], str], Call]
) -> tuple[Call, float]:
    if not row["source"].strip():
        raise DataError(f"{place}: no source; rows without a source are refused")
    remarks = row.get("extra", "")
    said = {n: found[1] for n, pattern in REMARKED.items() if (found := re.search(pattern, remarks))}
    try:
        call = call_of(said | {n: row[n] for n in sorted(SIZES) if row.get(n)}, remarks)
    except ModelError as e:
        raise DataError(f"{place}: {e}") from None
    seconds = _number(row["latency_ms"]) * 1e-3
    if not 0 < seconds < math.inf:
        raise DataError(f"{place}: latency_ms: expected a positive number, found '{row['latency_ms']}'")
    return call, seconds
