"""Which axis moves which objective: one at a time, and as a share of all variation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError, nearest

from .formulas import magnitudes
from .pareto import objectives as costs_of

if TYPE_CHECKING:
    import pandas as pd

# Sampled axes have no two points that differ in nothing else; their share is taken over so many equal groups at most,
# each of so many points at least.
_GROUPS, _IN_GROUP = 16, 4


def sensitivity(
    table: pd.DataFrame,
    *,
    axes: Sequence[str] | Mapping[str, Sequence[Any]],
    objectives: Sequence[str],
    derived: Sequence[str] = (),
) -> pd.DataFrame:
    """Return how much each axis moves each objective, the strongest first.

    Columns:
        typical: factor between the worst and the best value of the axis, all else equal; geometric mean.
        largest: the greatest such factor anywhere in the space.
        last_to_first: factor from the axis's first value to its last, all else equal; below 1 it lowers the objective.
        share: of the variance of the objective's logarithm that the axis alone explains (first-order Sobol index);
            exact on a full grid, and the shares of all axes add to less than 1 by what they do together. Of a sample,
            what chance alone gives an axis is taken off.

    The first three are missing where no two points differ in the axis alone, as in a sample of ranges.

    Args:
        table: one row a point; rows with an `error` take no part.
        axes: columns to move; as a mapping, with the values of each in their order. Without it they stand in the order
            in which the rows first have them, which a constraint, or a sample, may change.
        objectives: columns of positive numbers.
        derived: those of the axes that follow from the others.

    Raises:
        DataError: an unknown column, or an objective that is not positive.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"a": [1, 1, 2, 2], "b": [1, 2, 1, 2], "t": [1.0, 1.0, 4.0, 4.0]})
    >>> sensitivity(table, axes=["a", "b"], objectives=["t"])[["axis", "typical", "share"]].values.tolist()
    [['a', 4.0, 1.0], ['b', 1.0, 0.0]]
    """
    import pandas as pd

    for axis in axes:
        if axis not in table:
            raise DataError(f"unknown column '{axis}'; {nearest(axis, table.columns)}")
    usable, costs = costs_of(table, minimize=objectives)
    logs = logarithms(costs, objectives)
    orders = axes if isinstance(axes, Mapping) else {axis: table[axis].unique() for axis in axes}
    codes = {axis: pd.Index(order).get_indexer(usable[axis]) for axis, order in orders.items()}
    full = math.prod(len(np.unique(c)) for a, c in codes.items() if a not in derived) == len(usable)
    groups = {axis: codes[axis] if full else _groups(usable[axis], codes[axis]) for axis in axes}
    rows = []
    for name, values in zip(objectives, logs.T, strict=True):
        found = []
        for axis in axes:
            factors = _one_at_a_time(codes, axis, values)
            found.append(
                (_share(groups[axis], values, full=full), {"objective": name, "axis": axis, **factors})
            )
        found.sort(key=lambda pair: -np.nan_to_num(pair[0], nan=-1.0))
        rows += [{**row, "share": share} for share, row in found]
    return pd.DataFrame(rows)


def logarithms(costs: Any, objectives: Sequence[str]) -> Any:
    """Return the logarithms of objectives, which have to be positive."""
    for name, low in zip(objectives, costs.min(axis=0), strict=True):
        if low <= 0:
            raise DataError(f"'{name}' has the value {low:g}; factors need positive numbers")
    return np.log(costs)


def _one_at_a_time(codes: dict[str, Any], axis: str, logs: Any) -> dict[str, float]:
    import pandas as pd

    others = [codes[a] for a in codes if a != axis] or [np.zeros(len(logs), dtype=int)]
    frame = pd.DataFrame(
        {"line": pd.MultiIndex.from_arrays(others).factorize()[0], "at": codes[axis], "log": logs}
    )
    lines = frame.sort_values("at", kind="stable").groupby("line")["log"]
    swing = (lines.max() - lines.min())[lines.size() > 1]
    if not len(swing):
        return {"typical": np.nan, "largest": np.nan, "last_to_first": np.nan}
    trend = (lines.last() - lines.first())[lines.size() > 1]
    return {
        "typical": float(np.exp(swing.mean())),
        "largest": float(np.exp(swing.max())),
        "last_to_first": float(np.exp(trend.mean())),
    }


def _groups(axis: pd.Series, codes: Any) -> Any:
    """Return the group of each point: its value, or, where few points share one, a range of values."""
    import pandas as pd

    count, distinct = len(axis), axis.nunique()
    if distinct <= 4 * _GROUPS and distinct * _IN_GROUP <= count:
        return codes
    values = axis
    if not pd.api.types.is_numeric_dtype(axis):
        found = magnitudes(axis.astype(str).tolist())
        if found.dtype == object:
            return codes  # words have no order in which some could be neighbours
        values = pd.Series(found)
    return pd.qcut(
        values.rank(method="first"), min(_GROUPS, max(2, count // _IN_GROUP)), labels=False
    ).to_numpy()


def _share(groups: Any, logs: Any, *, full: bool) -> float:
    """Return the variance of the objective's mean over groups of points, as a share of all of it.

    Args:
        groups: one for each point.
        logs: of the objective.
        full: whether the points are a full grid; else groups differ by chance too, as much as the variance inside them
            lets expect: epsilon squared of T. Kelley, "An unbiased correlation ratio measure" (1935).
    """
    _, own = np.unique(groups, return_inverse=True)
    sizes = np.bincount(own)
    total = float(np.sum((logs - logs.mean()) ** 2))
    if total == 0.0:
        return 0.0
    means = np.bincount(own, weights=logs) / sizes
    between = float(np.sum(sizes * (means - logs.mean()) ** 2))
    if not full:
        if len(sizes) == len(logs):
            return float("nan")  # every point has a value of its own: nothing tells chance from effect
        between -= (len(sizes) - 1) * (total - between) / (len(logs) - len(sizes))
    share = between / total
    # Means that are equal come out a rounding apart, and its square is no share.
    return share if share > float(np.finfo(float).eps) else 0.0
