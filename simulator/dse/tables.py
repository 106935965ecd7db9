"""The table of a sweep: stored points merged in the order of the space, as Parquet and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError

from .coded import Coded
from .segments import Segment, decoded, digest
from .space import Points
from .store import canonical, read_manifest, replacing

if TYPE_CHECKING:
    import pandas as pd

PARQUET, CSV = "table.parquet", "table.csv"
_NULLABLE: Mapping[str, Any] = {"int64": "Int64", "uint64": "UInt64", "bool": "boolean"}
_NUMBERS = {int, float}
# No axis and no result has an empty name.
_POSITION = ""


def merge(parts: Iterable[bytes], space: Points, context: str) -> pd.DataFrame:
    """Return one row a point in the order of the space: the axes, the results, and `error` last.

    The table depends on what is stored, not on the order in which it was.

    Args:
        parts: of one or many stores; other points, other contexts and damaged parts are passed over, a point counts
            once.
        space: the points of the table.
        context: of the results.

    Raises:
        DataError: a point is missing.
    """
    import numpy as np
    import pandas as pd

    owner = np.full(len(space), -1, dtype=np.int64)
    frames: list[pd.DataFrame] = []
    for found, own, at in fresh(parts, space, context):
        owner[at] = len(frames)
        whole = len(own) == found.count
        columns = {name: _series(v if whole else _taken(v, own)) for name, v in found.results.items()}
        frames.append(pd.DataFrame({**columns, _POSITION: at}))
    if missing := int((owner < 0).sum()):
        raise DataError(f"{missing:,} of {len(space):,} points are missing from the store")
    orders = [list(frame.columns) for frame in frames]
    joined = _joined(frames)
    frames.clear()  # a copy less of a large table
    places = joined.pop(_POSITION).to_numpy()
    if (np.diff(places) < 0).any():
        joined = joined.iloc[np.argsort(places)].reset_index(drop=True)

    def first(column: str) -> tuple[int, int]:
        filled = joined[column].notna().to_numpy()
        row = int(filled.argmax()) if filled.any() else len(joined)
        return row, orders[owner[row]].index(column) if filled.any() else 0

    # Which point was computed first must not show: columns come in the order in which the rows first fill them.
    axes = {name: _axis(column) for name, column in space.coded(range(len(space))).items()}
    results = sorted((c for c in joined.columns if c not in axes and c != "error"), key=first)
    return _typed(pd.DataFrame({**axes, **{c: joined[c] for c in results}, "error": joined.get("error")}))


def fresh(parts: Iterable[bytes], space: Points, context: str) -> Iterator[tuple[Segment, Any, Any]]:
    """Yield each segment that has points of a space not seen before: which of its rows they are, and where they lie.

    Args:
        parts: as `merge`.
        space: the points that count.
        context: of the results.
    """
    import numpy as np

    seen = np.zeros(len(space), dtype=bool)
    wanted = digest(context)
    for found in decoded(iter(parts)):
        if found.context != wanted or set(found.points) != set(space.names):
            continue
        places = space.positions(found.points)
        own = np.flatnonzero((places >= 0) & ~seen[places])
        own = own[np.sort(np.unique(places[own], return_index=True)[1])]
        if len(own):
            seen[places[own]] = True
            yield found, own, places[own]


def _taken(values: Any, own: Any) -> Any:
    return [values[i] for i in own.tolist()] if isinstance(values, list) else values.take(own)


def _series(values: Any) -> Any:
    """Return a column of a segment as pandas has it; whole numbers and truths stay such where some are missing."""
    import pandas as pd

    if isinstance(values, list):
        return pd.Series(values, dtype=object)
    kind = str(values.type)
    if kind in ("string", "null"):
        return pd.Series(pd.array(values.to_pylist(), dtype="string"))
    if values.null_count and (kind == "bool" or "int" in kind):
        return pd.Series(pd.array(values.to_pylist(), dtype=_NULLABLE[kind]))
    return pd.Series(values.to_numpy(zero_copy_only=False))


def _axis(column: Coded) -> Any:
    """Return an axis as pandas has it: numbers, truths, or texts where some of it is text."""
    import numpy as np
    import pandas as pd

    kinds = {type(v) for v in column.values}
    if kinds <= {int, float} or kinds == {bool}:
        return np.array(column.values)[column.which]
    return pd.array([str(v) for v in column.values], dtype="string").take(column.which)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return tables with different columns as one; whole numbers and truths stay such where some rows have none."""
    import pandas as pd

    if len(parts) == 1:
        return parts[0]
    shared = set[str].intersection(*(set(part.columns) for part in parts))
    for part in parts:
        kinds = {c: _NULLABLE.get(str(part[c].dtype)) for c in part.columns if c not in shared}
        for name, kind in kinds.items():
            if kind:
                part[name] = part[name].astype(kind)
    table = pd.concat(parts, ignore_index=True)
    floats = [c for c in table.columns if str(table[c].dtype) == "Float64"]
    return table.astype(dict.fromkeys(floats, "float64"))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each column of one type that Parquet knows."""
    for name in table.columns:
        values = table[name]
        if str(values.dtype) == "string" or (
            name != "error" and values.dtype != object and not _is_text(values)
        ):
            continue
        kinds = {type(v) for v in values.dropna().unique()}
        if kinds and kinds <= _NUMBERS:
            table[name] = values.astype("float64")
        elif kinds != {bool}:
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
    from pyarrow.csv import write_csv

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), b"sweep": canonical(provenance).encode()}
    # What repeats is worth a dictionary.
    words = [f.name for f in arrow.schema if not pa.types.is_floating(f.type)]
    # Opened here: pyarrow takes no names that the encoding of the system cannot say.
    with replacing(folder / PARQUET) as path, path.open("wb") as file:
        pq.write_table(arrow.replace_schema_metadata(metadata), file, use_dictionary=words)
    with replacing(folder / CSV) as path, path.open("wb") as file:
        write_csv(arrow, file)


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
        with (folder / PARQUET).open("rb") as file:
            return pd.read_parquet(file)
    except FileNotFoundError:
        raise DataError(
            f"{folder / PARQUET}: no such file; run the same cascade sweep again, which writes it from the points"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / PARQUET}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain Python values, None where there is none."""
    import pandas as pd

    def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(k): None if pd.isna(v) else v for k, v in row.items()}

    return [plain(row) for row in table.to_dict("records")]
