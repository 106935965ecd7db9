"""A table of measurements that grows row by row and survives any stop, and beside it the cases that failed.

`NAME.csv` holds the rows, `NAME.failed.csv` what could not be measured and why. Both are read when work goes on: what
is in the one is done, what is in the other is left out for as long as the commit is the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from einsum_cascade.errors import DataError

from .measurement import COLUMNS, Measurement

Key = tuple[str, ...]
KEY = (
    "device", "kernel", "implementation", "direction", "dtype", "batch", "heads", "seq_kv", "head_dim", "causal",
    "window",
)  # fmt: skip
FAILED = (*KEY, "commit", "error")


def failed_path(path: Path) -> Path:
    """Return where the failures of a table are kept.

    >>> failed_path(Path("h200.csv")).name
    'h200.failed.csv'
    """
    return path.with_suffix(".failed.csv")


def key_of(row: Measurement) -> Key:
    """Return what tells a row from all others of its table."""
    return tuple("" if (v := getattr(row, k)) is None else str(v) for k in KEY)


def done(path: Path) -> set[Key]:
    """Return the keys of the rows that a table holds; a last row that was cut off by a stop is removed.

    Raises:
        DataError: the file holds something else.
    """
    return {tuple(row[k] for k in KEY) for row in _rows(path, KEY, COLUMNS)}


def failures(path: Path, *, commit: str) -> dict[Key, str]:
    """Return the error of every case that failed at a commit, by key."""
    rows = _rows(failed_path(path), FAILED, FAILED)
    return {tuple(row[k] for k in KEY): row["error"] for row in rows if row["commit"] == commit}


def append(path: Path, rows: Iterable[Measurement]) -> None:
    """Add rows to a table, created where absent: all of them or, after a stop, none but the torn one."""
    _append(path, COLUMNS, [["" if (v := getattr(r, c)) is None else v for c in COLUMNS] for r in rows])


def fail(path: Path, key: Key, error: str, *, commit: str) -> None:
    """Record why a case was not measured, in one line."""
    _append(failed_path(path), FAILED, [[*key, commit, " ".join(error.split())[:500]]])


def _append(path: Path, header: Sequence[str], rows: list[list[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists() or path.stat().st_size == 0:
        writer.writerow(header)
    writer.writerows(rows)
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(text.getvalue())


def _rows(path: Path, needed: Sequence[str], header: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table of measurements; a file that is none is refused as it is, before anything is cut."""
    if not path.exists() or path.stat().st_size == 0:
        return []
    raw = path.read_bytes()
    head, end, _ = raw.partition(b"\n")
    if not end and ",".join(header).encode().startswith(head):
        path.write_bytes(b"")  # stopped while the head was written
        return []
    try:
        names = next(csv.reader([head.decode("utf-8")]), [])
        text = raw[: raw.rfind(b"\n") + 1].decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error):
        raise DataError(
            f"{path}: not a text table; expected a table of measurements, or a new file"
        ) from None
    missing = set(needed) - set(names)
    if missing:
        raise DataError(
            f"{path}: columns {', '.join(sorted(missing))} are missing; expected a table of measurements"
        )
    if not raw.endswith(b"\n"):
        # The last row was cut off by the stop: it is measured again.
        path.write_bytes(text.encode())
    return rows
