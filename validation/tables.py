"""The one reader and the one writer of CSV tables: a file that is missing, empty or short of a column is named."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from einsum_cascade.errors import DataError, nearest


def read_table(
    path: Path,
    *,
    required: Iterable[str] = (),
    known_as: Mapping[str, str] | None = None,
    as_text: bool = False,
) -> pd.DataFrame:
    """Return a CSV file as a table.

    Args:
        path: the file.
        required: columns that it must have; it may have more.
        known_as: columns that have another name where the file comes from, and the name that they get.
        as_text: leave every cell as it is written, the empty string where there is nothing.

    Raises:
        DataError: no such file, not a table of text, no rows, or a column missing, with the nearest one that is there.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False) if as_text else pd.read_csv(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a table: not a text file") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: not a table: no rows in it") from None
    except pd.errors.ParserError as e:
        reason = str(e).splitlines()[0].rpartition("C error: ")[2]
        raise DataError(f"{path}: not a table of values between commas: {reason}") from None
    if table.empty:
        raise DataError(f"{path}: the table has no rows")
    there = {old: new for old, new in (known_as or {}).items() if new not in table.columns}
    table = table.rename(columns=there)
    for column in required:
        if column not in table.columns:
            hint = nearest(column, map(str, table.columns))
            raise DataError(f"{path}: column '{column}' is missing; {hint}")
    return table


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns of the first, as the tables of constants are kept: no index, Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
