"""Tables of a sweep -> Axes: the design space with its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError
from einsum_cascade.outputs import PICTURES
from einsum_cascade.pictures import COLOURS, GRID, MARKS

from .formulas import unit_of
from .pareto import numbers_in

if TYPE_CHECKING:
    import pandas as pd

_UNITS = {"s": "s", "j": "J", "bytes": "B", "mm2": "mm²", "hz": "Hz", "w": "W"}
# Values over more than this factor are drawn on a logarithmic axis.
_LOG_FROM = 30.0


def axis_label(column: str, values: pd.Series | None = None) -> str:
    """Return a column's name and unit for people; amounts have the unit in which they are drawn.

    >>> axis_label("latency_s"), axis_label("traffic_bytes"), axis_label("hardware.N")
    ('latency [s]', 'traffic [B]', 'hardware.N')
    """
    name, _, suffix = column.rpartition("_")
    if suffix in _UNITS and name.isidentifier():
        return f"{name.replace('_', ' ')} [{_UNITS[suffix]}]"
    unit = unit_of(values.iloc[0]) if values is not None and isinstance(values.iloc[0], str) else ""
    return f"{column} [{unit}]" if unit else column


def _in_numbers(table: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """Return the rows without error, objectives that are amounts as numbers."""
    usable = table[table["error"].isna()] if "error" in table else table
    return usable.assign(**{name: numbers_in(usable[name]) for name in objectives})


def plot_front(
    table: pd.DataFrame,
    front: pd.DataFrame,
    objectives: Sequence[str],
    *,
    by: Sequence[str] = (),
    axes: Any = None,
) -> Any:
    """Draw all designs of a table and its front, and return the Axes.

    Args:
        table: every design.
        front: those that no other beats.
        objectives: the first two are drawn along x and y; a third one as colour.
        by: the columns that the front was grouped by; each group is drawn as a line of its own.
        axes: where to draw; None makes a new figure.

    Raises:
        DataError: fewer than two objectives.
    """
    if len(objectives) < 2:
        raise DataError("a plot needs two objectives, as in --min latency_s --min area_mm2")
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(7.0, 4.6), layout="constrained").add_subplot()
    x, y, *rest = objectives
    labels = {name: axis_label(name, table[name]) for name in objectives}
    every, front = (_in_numbers(t, objectives) for t in (table, front))
    axes.scatter(every[x], every[y], s=9, color="0.75", linewidths=0, label=f"all {len(every):,} designs")
    _draw_groups(axes, front, x, y, by)
    if rest:
        values = front[rest[0]].to_numpy(dtype=float)
        norm = "log" if _is_wide(values) else None
        drawn = axes.scatter(front[x], front[y], s=26, c=values, cmap="viridis", norm=norm, zorder=3)
        axes.figure.colorbar(drawn, ax=axes, label=labels[rest[0]])
    axes.set(xlabel=labels[x], ylabel=labels[y])
    for name, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
        if _is_wide(every[name].to_numpy(dtype=float)):
            scale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    # Above the axes, where it hides no design.
    entries = len(axes.get_legend_handles_labels()[1])
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=min(entries, 3), fontsize="small", frameon=False
    )
    return axes


def _is_wide(values: Any) -> bool:
    return bool(values.min() > 0 and values.max() / values.min() > _LOG_FROM)


def _draw_groups(axes: Any, front: pd.DataFrame, x: str, y: str, by: Sequence[str]) -> None:
    groups = front.groupby(list(by), sort=False) if by else [((), front)]
    for i, (values, own) in enumerate(groups):
        named = ", ".join(f"{name} {v}" for name, v in zip(by, values, strict=True))
        label = f"front, {named}" if named else f"Pareto front, {len(own):,} designs"
        ordered = own.sort_values(x)
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)]}
        axes.plot(ordered[x], ordered[y], markersize=5, linewidth=0.8, label=label, **look)


def save_front(
    path: Path,
    table: pd.DataFrame,
    front: pd.DataFrame,
    objectives: Sequence[str],
    *,
    by: Sequence[str] = (),
) -> None:
    """Write the plot of a front to a file; the kind of file follows from its ending.

    Raises:
        DataError: an unknown kind of file, or one that cannot be written.
    """
    if path.suffix not in PICTURES:
        raise DataError(f"{path}: expected a file that ends in {', '.join(PICTURES)}")
    axes = plot_front(table, front, objectives, by=by)
    try:
        axes.figure.savefig(path, dpi=160)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror}") from None
