"""The table of a sweep: stored points merged in the order of the space, as Parquet and CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError

from .store import canonical, read_manifest, records, write_atomically

if TYPE_CHECKING:
    import pandas as pd

PARQUET, CSV = "table.parquet", "table.csv"
# Rows wait as dictionaries only so long; as a block of columns they take a tenth of the memory.
_BLOCK = 1 << 14
# No axis and no result has an empty name.
_POSITION = ""


def merge(lines: Iterable[bytes], keys: Sequence[str], axes: Sequence[str]) -> pd.DataFrame:
    """Return one row a point in the order of the keys: the axes, the results, and `error` last.

    The table depends on what is stored, not on the order in which it was.

    Args:
        lines: of one or many stores; other keys and damaged lines are passed over, a key counts once.
        keys: the points of the table.
        axes: the columns that come first.

    Raises:
        DataError: a point is missing.
    """
    import numpy as np
    import pandas as pd

    place = {key: i for i, key in enumerate(keys)}
    # Rows with the same columns make blocks of their own: a number that a failed point lacks turns no whole number
    # into a float.
    blocks: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    waiting: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, record in records(lines):
        position = place.pop(key, None)
        if position is None:
            continue
        row = record["result"] | record["point"]
        kind = tuple(sorted(row))
        rows = waiting.setdefault(kind, [])
        rows.append(row | {_POSITION: position})
        if len(rows) == _BLOCK:
            blocks.setdefault(kind, []).append(pd.DataFrame.from_records(rows))
            waiting[kind] = []
    if place:
        raise DataError(f"{len(place):,} of {len(keys):,} points are missing from the store")
    for kind, rows in waiting.items():
        if rows:
            blocks.setdefault(kind, []).append(pd.DataFrame.from_records(rows))
    table = _joined([pd.concat(same, ignore_index=True) for same in blocks.values()])
    order = np.argsort(table.pop(_POSITION).to_numpy())
    return _arranged(table.iloc[order].reset_index(drop=True), axes)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return tables with different columns as one; whole numbers and truths stay such where some rows have none."""
    import pandas as pd

    shared = set[str].intersection(*(set(part.columns) for part in parts))
    nullable: dict[str, Any] = {"int64": "Int64", "bool": "boolean"}
    for part in parts:
        kinds = {c: nullable.get(str(part[c].dtype)) for c in part.columns if c not in shared}
        for name, kind in kinds.items():
            if kind:
                part[name] = part[name].astype(kind)
    table = pd.concat(parts, ignore_index=True)
    floats = [c for c in table.columns if str(table[c].dtype) == "Float64"]
    return table.astype(dict.fromkeys(floats, "float64"))


def _arranged(table: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Return the table with its columns in order and each of one type that Parquet knows."""
    if "error" not in table:
        table["error"] = None
    results = [c for c in table.columns if c not in axes and c != "error"]
    # Which point was computed first must not show: columns come in the order in which the rows first fill them.
    filled = {c: table[c].notna().to_numpy() for c in results}
    results.sort(key=lambda c: int(filled[c].argmax()) if filled[c].any() else len(table))
    table = table[[*axes, *results, "error"]].copy()
    for name in table.columns:
        values = table[name]
        if name == "error" or values.dtype == object or _is_text(values):
            kinds = {type(v) for v in values.dropna().unique()}
            if kinds != {bool}:
                table[name] = values.map(str, na_action="ignore").astype("string")
    return table


def _is_text(values: Any) -> bool:
    """Tell whether a column holds texts, whatever this version of pandas calls their type."""
    import pandas as pd

    return bool(pd.api.types.is_string_dtype(values.dtype))


def write_table(folder: Path, table: pd.DataFrame, provenance: Mapping[str, Any]) -> None:
    """Write the table as Parquet, with its provenance inside, and as CSV.

    Raises:
        DataError: a file cannot be written; the points stay saved.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), b"sweep": canonical(provenance).encode()}
    buffer = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(metadata), buffer)
    write_atomically(folder / PARQUET, buffer.getvalue())
    write_atomically(folder / CSV, table.to_csv(index=False))


def read_table(folder: str | Path) -> pd.DataFrame:
    """Return the table of a finished sweep.

    Raises:
        DataError: there is no sweep, or it is not finished.
    """
    import pandas as pd

    folder = Path(folder)
    if read_manifest(folder).get("status") != "complete":
        raise DataError(f"{folder}: the sweep is not finished; run the same cascade sweep again, it goes on")
    try:
        return pd.read_parquet(folder / PARQUET)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / PARQUET}: cannot be read: {error}") from None


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain Python values, None where there is none."""
    import pandas as pd

    def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(k): None if pd.isna(v) else v for k, v in row.items()}

    return [plain(row) for row in table.to_dict("records")]
