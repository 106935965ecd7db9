"""Pareto fronts by columns and senses, with the knee and the hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError, glimpse, nearest

from .computed import with_formulas
from .formulas import magnitudes

if TYPE_CHECKING:
    import pandas as pd


def pareto(
    table: pd.DataFrame,
    *,
    minimize: str | Sequence[str] = (),
    maximize: str | Sequence[str] = (),
    by: str | Sequence[str] = (),
) -> pd.DataFrame:
    """Return the rows that no other row beats, sorted by the objectives in the order given.

    A row is beaten by one that is at least as good in every objective and better in one; so rows that are equal in
    all objectives stay together. Rows with an `error` take no part.

    Args:
        table: one row a point.
        minimize: columns of which less is better; an axis too, amounts such as `16 MiB`, and formulas over columns
            such as `latency_s * energy_j`, which become columns of the front.
        maximize: columns of which more is better.
        by: columns of which each combination of values has a front of its own, for example the length of the
            sequence: designs that do different work are not to be compared.

    Raises:
        DataError: no objective, an unknown column or one of words, a value that is not finite, or an empty table.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"latency_s": [1.0, 2.0, 3.0], "area_mm2": [9.0, 4.0, 5.0]})
    >>> pareto(table, minimize=["latency_s", "area_mm2"]).index.tolist()
    [0, 1]
    """
    import pandas as pd

    usable, costs = objectives(table, minimize=minimize, maximize=maximize)
    groups = _names(by)
    for name in groups:
        if name not in table:
            raise DataError(f"unknown column '{name}'; {nearest(name, table.columns)}")
    if not groups:
        alone: pd.DataFrame = usable.iloc[_front(costs)]
        return alone
    rows = usable.reset_index(drop=True).groupby(list(groups), sort=False, dropna=False).indices.values()
    fronts: pd.DataFrame = pd.concat([usable.iloc[own[_front(costs[own])]] for own in rows])
    return fronts


def _front(costs: Any) -> Any:
    """Return the positions of the rows that none beats, sorted by the first objective, then the next."""
    import moocore

    # `keep_weakly` keeps rows that are equal in every objective: none of them beats another.
    front = np.flatnonzero(moocore.is_nondominated(costs, keep_weakly=True))
    return front[np.lexsort(costs[front].T[::-1])]


def objectives(
    table: pd.DataFrame, *, minimize: str | Sequence[str] = (), maximize: str | Sequence[str] = ()
) -> tuple[pd.DataFrame, Any]:
    """Return the rows without error, and their objectives as costs: one column each, less is better.

    Raises:
        DataError: as `pareto`.
    """
    if not hasattr(table, "columns"):
        raise DataError(f"expected the table of a sweep, found {glimpse(table)}")
    senses = [(c, 1.0) for c in _names(minimize)] + [(c, -1.0) for c in _names(maximize)]
    if not senses:
        raise DataError("no objective; name a column, as in --min latency_s --min area_mm2")
    columns = [c for c, _ in senses]
    table = with_formulas(table, columns)
    for name in columns:
        if name not in table:
            raise DataError(f"unknown column '{name}'; {nearest(name, table.columns)}")
        if columns.count(name) > 1:
            raise DataError(f"'{name}' is named as an objective twice")
    usable = table[table["error"].isna()] if "error" in table else table
    if not len(usable):
        raise DataError("the table has no row without an error")
    return usable, np.column_stack([sign * _finite(usable, name) for name, sign in senses])


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(given, (str, Sequence)):
        raise DataError(f"objectives: expected the names of columns, found {glimpse(given)}")
    return (given,) if isinstance(given, str) else tuple(given)


def _finite(table: pd.DataFrame, name: str) -> Any:
    values = numbers_in(table[name])
    if values is None:
        raise DataError(f"column '{name}' holds texts; an objective is a number, or an amount such as 16 MiB")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row, value = table.index[bad[0]], values[bad[0]]
        raise DataError(f"column '{name}' is {value} in row {row}; a front needs finite numbers")
    return values


def numbers_in(column: pd.Series) -> Any:
    """Return a column as numbers, amounts such as `16 MiB` in SI units; None where it holds words.

    >>> import pandas as pd
    >>> numbers_in(pd.Series(["4 KiB", "1 MiB"])).tolist(), numbers_in(pd.Series(["DRAM"]))
    ([4096.0, 1048576.0], None)
    """
    try:
        return column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        pass
    try:
        found = magnitudes(column.tolist())
    except DataError:
        return None  # words among amounts
    return None if found.dtype == object else found.astype(float)


def normalized(costs: Any) -> Any:
    """Return costs scaled so that the best of each objective is 0 and the worst 1."""
    low, high = costs.min(axis=0), costs.max(axis=0)
    return (costs - low) / np.where(high > low, high - low, 1.0)


def knee(
    table: pd.DataFrame, *, minimize: str | Sequence[str] = (), maximize: str | Sequence[str] = ()
) -> Any:
    """Return the row of the front that bends furthest: leaving it costs one objective more than it gains others.

    It is the point furthest below the plane through the ends of the front, objectives scaled to 0 .. 1.

    Source: I. Das, "On characterizing the knee of the Pareto curve based on normal-boundary intersection" (1999).

    >>> import pandas as pd
    >>> table = pd.DataFrame({"x": [0.0, 0.1, 1.0], "y": [1.0, 0.1, 0.0]})
    >>> int(knee(table, minimize=["x", "y"]).name)
    1
    """
    front = pareto(table, minimize=minimize, maximize=maximize)
    _, costs = objectives(front, minimize=minimize, maximize=maximize)
    return front.iloc[int(normalized(costs).sum(axis=1).argmin())]


def hypervolume(
    table: pd.DataFrame,
    *,
    minimize: str | Sequence[str] = (),
    maximize: str | Sequence[str] = (),
    reference: Sequence[float] | None = None,
) -> float:
    """Return the volume that the front dominates, below the reference point.

    Args:
        reference: one value an objective, minimised ones first, in the units of the columns. None takes the worst
            row and scales the objectives to 0 .. 1, so that the result is a share of the box that the table spans.

    Raises:
        DataError: as `pareto`; or a reference of another length.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"x": [1.0, 2.0], "y": [2.0, 1.0]})
    >>> hypervolume(table, minimize=["x", "y"], reference=[3.0, 3.0])
    3.0
    """
    import moocore

    _, costs = objectives(table, minimize=minimize, maximize=maximize)
    if reference is None:
        return float(moocore.hypervolume(normalized(costs), ref=[1.0] * costs.shape[1]))
    if len(reference) != costs.shape[1]:
        raise DataError(f"the reference has {len(reference)} values for {costs.shape[1]} objectives")
    signs = np.array([1.0] * len(_names(minimize)) + [-1.0] * len(_names(maximize)))
    return float(moocore.hypervolume(costs, ref=np.asarray(reference, dtype=float) * signs))
