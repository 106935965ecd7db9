"""First and total Sobol indices by SALib: which axis moves an objective alone, and which with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError

from .effects import logarithms
from .pareto import objectives as costs_of

if TYPE_CHECKING:
    import pandas as pd

    from .space import Space

SALTELLI = "saltelli"


def fractions(axes: int, samples: int, seed: int) -> Any:
    """Return points of the unit cube for Sobol indices, one a row; no more than so many.

    Source: A. Saltelli et al., "Variance based sensitivity analysis of model output" (2010).

    Raises:
        DataError: SALib is not installed, or the samples are too few.
    """
    try:
        from SALib.sample import sobol
    except ImportError:
        message = "design: saltelli needs SALib; install it: pip install 'einsum-cascade[sensitivity]'"
        raise DataError(message) from None
    base = samples // (axes + 2)
    if base < 2:
        raise DataError(f"samples: {axes} axes need at least {2 * (axes + 2)} points, found {samples}")
    # The sequence is balanced in powers of two only.
    return sobol.sample(_problem(axes), 1 << (base.bit_length() - 1), calc_second_order=False, seed=seed)


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
            _problem(len(space.axes)),
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


def _problem(axes: int) -> dict[str, Any]:
    return {"num_vars": axes, "names": [f"x{i}" for i in range(axes)], "bounds": [[0.0, 1.0]] * axes}
