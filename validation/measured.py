"""The one reader of measured tables: strict about columns, numbers and sources."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

from einsum_cascade.errors import DataError, nearest
from simulator.gpu.call import DTYPE_WORDS
from simulator.gpu.measured_rows import REMARKED

from .aiconfigurator import is_parquet, read_aiconfigurator

REQUIRED = (
    "source", "device", "kernel", "implementation", "direction", "dtype", "batch", "heads", "seq_q", "seq_kv",
    "head_dim", "causal", "extra", "latency_ms", "tflops",
)  # fmt: skip
OPTIONAL = (
    "kv_heads", "window", "kv_dtype", "power_w", "q25_ms", "q75_ms", "rounds", "threads", "ratio", "ratio_q25",
    "ratio_q75",
)  # fmt: skip
_WORDS = ("source", "device", "kernel", "implementation", "direction", "dtype")
_WHOLE = ("batch", "heads", "seq_q", "seq_kv", "causal")
_COUNTED = ("kv_heads", "window", "head_dim")  # whole too, where they are given
# As pandas and people write it.
_TRUTHS = {"True": "1", "true": "1", "TRUE": "1", "False": "0", "false": "0", "FALSE": "0"}
# The backward pass alone, or both passes one after the other, are measured too.
_DIRECTIONS = ("fwd", "bwd", "fwdbwd")
_MAY_BE_EMPTY = ("head_dim", "extra", "tflops", *OPTIONAL)

PUBLISHED = Path(__file__).parent / "data" / "published"


def read_measured(path: str | Path) -> pd.DataFrame:
    """Return a measured table, checked; whole numbers as integers, `kv_heads` and `window` filled in (0 for none).

    A parquet file is read as aiconfigurator writes it. Spaces around a cell or a column's name mean nothing; `causal`
    may be true or false, and types may have their long names, in capitals or not.

    Where the table has no column `kv_heads` or `window`, the remarks in `extra` are searched for "kv heads=8" and
    "window=128".

    Raises:
        DataError: missing, empty or binary file, a column missing or unknown, a row without source, a bad number or
            direction.
    """
    path = Path(path)
    table = _read(path)
    for name in _WORDS:
        blank = table.index[table[name].isna() | (table[name].str.strip() == "")]
        if len(blank):
            why = "rows without a source are refused" if name == "source" else "expected a word"
            raise DataError(f"{path}: line {blank[0] + 2}: no {name}; {why}")
    _check_directions(table["direction"], path)
    table["causal"] = table["causal"].replace(_TRUTHS)
    for name in {"dtype", "kv_dtype"} & {*table.columns}:
        table[name] = table[name].str.lower().replace(DTYPE_WORDS)
    numbers = [c for c in table.columns if c not in (*_WORDS, "extra", "kv_dtype")]
    for name in numbers:
        table[name] = _numbers(table[name], name, path)
    _check_positive(table, path)
    for name, pattern in REMARKED.items():
        said = table["extra"].str.extract(pattern, expand=False).astype(float)
        given = table[name] if name in table.columns else said
        table[name] = given.fillna(said).fillna(0).astype(int)
    table["kv_dtype"] = table["kv_dtype"].fillna("") if "kv_dtype" in table.columns else ""
    return table.astype(dict.fromkeys(_WHOLE, int))


def _read(path: Path) -> pd.DataFrame:
    if is_parquet(path):
        return read_aiconfigurator(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not a text table (byte {e.start} is not UTF-8)") from None
    if "\x00" in text:
        raise DataError(f"{path}: not a text table (it holds a zero byte)")
    if not text.strip():
        raise DataError(f"{path}: the table is empty")
    try:
        _check_shape(text, path)
    except csv.Error as e:
        raise DataError(f"{path}: not a table of values between commas: {e}") from None
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as e:
        raise DataError(f"{path}: not a table: {str(e).strip().splitlines()[0]}") from None
    if not len(table):
        raise DataError(f"{path}: the table has no rows")
    table = table.rename(columns=str.strip).apply(lambda column: column.str.strip())
    return table.mask(table == "")


def _check_shape(text: str, path: Path) -> None:
    """Refuse unknown columns, and rows that are not as long as the head: pandas would shift or pad them silently."""
    lines = csv.reader(io.StringIO(text))
    head = next(lines)
    _check_columns([name.strip() for name in head], path)
    for row in lines:
        if row and len(row) != len(head):
            raise DataError(f"{path}: line {lines.line_num}: expected {len(head)} fields, found {len(row)}")


def _check_columns(head: list[str], path: Path) -> None:
    legal = (*REQUIRED, *OPTIONAL)
    unknown = [c for c in head if c not in legal]
    missing = [c for c in REQUIRED if c not in head]
    twice = [c for c in dict.fromkeys(head) if head.count(c) > 1]
    if twice:
        raise DataError(
            f"{path}: the column '{twice[0]}' is there {head.count(twice[0])} times; expected once"
        )
    if unknown:
        raise DataError(f"{path}: unknown column '{unknown[0]}'; {nearest(unknown[0], legal)}")
    if missing:
        raise DataError(f"{path}: missing column '{missing[0]}'; expected {', '.join(REQUIRED)}")


def _numbers(values: pd.Series, name: str, path: Path) -> pd.Series:
    out = pd.to_numeric(values, errors="coerce")
    finite = out.notna() & (out.abs() != float("inf"))
    blank = values.isna() if name in _MAY_BE_EMPTY else pd.Series(False, index=values.index)
    bad = values.index[~(finite | blank)]
    if len(bad):
        found = "nothing" if pd.isna(values[bad[0]]) else f"'{values[bad[0]]}'"
        raise DataError(f"{path}: line {bad[0] + 2}: {name}: expected a number, found {found}")
    return out.astype(float)


def _check_directions(directions: pd.Series, path: Path) -> None:
    """Refuse a direction that nobody asks for: its rows would be in no set."""
    bad = directions.index[~directions.isin(_DIRECTIONS)]
    if len(bad):
        found = directions[bad[0]]
        raise DataError(
            f"{path}: line {bad[0] + 2}: direction: '{found}' is none; {nearest(found, _DIRECTIONS)}"
        )


def _check_positive(table: pd.DataFrame, path: Path) -> None:
    for name in ("batch", "heads", "seq_q", "seq_kv", "latency_ms"):
        bad = table.index[table[name] <= 0]
        if len(bad):
            raise DataError(
                f"{path}: line {bad[0] + 2}: {name}: expected a positive number, found {table[name][bad[0]]:g}"
            )
    for name in [c for c in (*_WHOLE, *_COUNTED) if c in table.columns]:
        bad = table.index[table[name].notna() & (table[name] != table[name].round())]
        if len(bad):
            raise DataError(
                f"{path}: line {bad[0] + 2}: {name}: expected a whole number, found {table[name][bad[0]]:g}"
            )
    bad = table.index[~table["causal"].isin((0, 1))]
    if len(bad):
        raise DataError(
            f"{path}: line {bad[0] + 2}: causal: expected 0 or 1, found {table['causal'][bad[0]]:g}"
        )
