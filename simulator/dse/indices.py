"""First and total Sobol indices by SALib: which axis moves an objective alone, and which with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError

from .designs import problem
from .effects import logarithms
from .pareto import objectives as costs_of

if TYPE_CHECKING:
    import pandas as pd

    from .space import Space

SALTELLI = "saltelli"


def sobol_indices(table: pd.DataFrame, space: Space, *, objectives: Sequence[str]) -> pd.DataFrame:
    """Return the Sobol indices of the logarithm of each objective, the strongest axis first.

    Columns:
        first, total: share of the variance that the axis explains alone, and with all others together.
        first_within, total_within: half-widths of their intervals of 95 %.

    Args:
        table: of a sweep over the space, in its order.
        space: drawn with `design="saltelli"`.
        objectives: columns of positive numbers.

    Raises:
        DataError: the space was drawn otherwise or has constraints, a point has failed, or no such column.
    """
    import pandas as pd
    from SALib.analyze import sobol

    if space.design != SALTELLI or space.samples is None or space.where:
        raise DataError("Sobol indices need a sweep with 'design: saltelli', without constraints")
    if failed := int(table["error"].notna().sum()):
        raise DataError(f"Sobol indices need every point; {failed:,} of {len(table):,} have failed")
    # A point may stand in the design more than once, and once in the table.
    places = space.positions(space.every_draw())
    _, costs = costs_of(table, minimize=objectives)
    rows = []
    for name, values in zip(objectives, logarithms(costs, objectives).T, strict=True):
        drawn = values[places]
        if np.ptp(drawn) == 0.0:
            raise DataError(f"'{name}' is the same everywhere; nothing moves it")
        found = sobol.analyze(
            problem(len(space.axes)),
            (drawn - drawn.mean()) / drawn.std(),
            calc_second_order=False,
            seed=space.seed,
        )
        rows += sorted(_rows(name, tuple(space.axes), found), key=lambda row: -row["total"])
    return pd.DataFrame(rows)


def _rows(objective: str, axes: Sequence[str], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = {"first": "S1", "total": "ST", "first_within": "S1_conf", "total_within": "ST_conf"}
    return [
        {"objective": objective, "axis": axis, **{name: float(found[key][i]) for name, key in keys.items()}}
        for i, axis in enumerate(axes)
    ]
