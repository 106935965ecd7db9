"""Columns that follow from others by a formula: energy times delay, rate per area."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError

from .formulas import Formula, read_formula, value_of

if TYPE_CHECKING:
    import pandas as pd

# One name, with dots or without: a column that is there, or a mistake.
_NAME = re.compile(r"\s*[\w.]*\s*")


def is_formula(text: str) -> bool:
    """Tell whether a text is a formula rather than the name of a column.

    >>> is_formula("latency_s * energy_j"), is_formula("hardware.N")
    (True, False)
    """
    return _NAME.fullmatch(text) is None


def objective(text: str, columns: Collection[str], *, where: str = "objective") -> Formula:
    """Return the formula of an objective over columns.

    Raises:
        DataError: an unknown column, no formula, or one that is true or false.
    """
    formula = read_formula(text, columns, where=where, noun="column")
    if formula.logical:
        raise DataError(f"{where}: '{text}' is true or false; an objective is a number")
    if not formula.axes:
        raise DataError(f"{where}: '{text}' names no column, so that it is the same for every design")
    return formula


def with_formulas(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a table with a column more for each of the names that is a formula over its columns.

    Amounts such as `16 MiB` count in SI units; rows without a result have none here either.

    Raises:
        DataError: an unknown column, or one of texts.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"latency_s": [1.0, 2.0], "energy_j": [6.0, 2.0]})
    >>> with_formulas(table, ["latency_s * energy_j"])["latency_s * energy_j"].tolist()
    [6.0, 4.0]
    """
    known = [c for c in table.columns if c != "error"]
    for name in dict.fromkeys(names):
        if name in table or not is_formula(name):
            continue
        formula = objective(name, known)
        columns = {c: _numbers(table, c, name) for c in formula.axes.values()}
        table = table.assign(**{name: np.broadcast_to(value_of(formula, columns), len(table)).astype(float)})
    return table


def _numbers(table: pd.DataFrame, column: str, formula: str) -> Any:
    from .pareto import numbers_in  # reads formulas itself

    usable = table["error"].isna().to_numpy() if "error" in table else np.ones(len(table), dtype=bool)
    values = numbers_in(table[column][usable])
    if values is None:
        raise DataError(f"objective: '{formula}': column '{column}' holds texts; a formula takes numbers")
    out = np.full(len(table), np.nan)
    out[usable] = values
    return out


def values_in(formula: Formula, columns: Mapping[str, Sequence[float | None]]) -> list[float | None]:
    """Return a formula's values where all that it names are known; None where one is not.

    >>> values_in(objective("a / b", ["a", "b"]), {"a": [1.0, None], "b": [4.0, 2.0]})
    [0.25, None]
    """
    taken = [columns[c] for c in formula.axes.values()]
    known = [None not in row for row in zip(*taken, strict=True)]
    arrays = {
        c: np.array([np.nan if v is None else float(v) for v in columns[c]]) for c in formula.axes.values()
    }
    found = np.broadcast_to(value_of(formula, arrays), len(known))
    return [float(v) if here else None for v, here in zip(found, known, strict=True)]
