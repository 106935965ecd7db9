"""Tables of the tile simulator -> Axes: predicted against measured, error by set, roofline, waves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_BAND = 0.10


def _axes(axes: Any) -> Any:
    import matplotlib.pyplot as plt

    return axes if axes is not None else plt.subplots(figsize=(6.4, 4.6), layout="constrained")[1]


def predicted_against_measured(cases: pd.DataFrame, axes: Any = None) -> Any:
    """Draw predicted against measured seconds, log-log with a 10 % band, one colour a group.

    Args:
        cases: columns `expected`, `got` in seconds, and `group`.
    """
    ax = _axes(axes)
    for name, rows in cases.groupby("group"):
        ax.loglog(rows["expected"], rows["got"], ".", markersize=4, label=str(name))
    low, high = cases["expected"].min(), cases["expected"].max()
    ax.loglog([low, high], [low, high], color="black", linewidth=0.8)
    ax.fill_between(
        [low, high],
        [low * (1 - _BAND), high * (1 - _BAND)],
        [low * (1 + _BAND), high * (1 + _BAND)],
        color="black",
        alpha=0.12,
        linewidth=0,
    )
    ax.set(
        xlabel="measured latency [s]",
        ylabel="predicted latency [s]",
        title="Predicted against measured (band 10 %)",
    )
    if cases["group"].nunique() <= 12:
        ax.legend(fontsize=6)
    return ax


def error_by_set(sets: pd.DataFrame, axes: Any = None) -> Any:
    """Draw the mean error of every set as a bar, the roofline's beside it, the worst row as a dot.

    Args:
        sets: columns device, implementation, head_dim, window, mape_calibrated, mape_roofline, worst (fractions).
    """
    ax = _axes(axes)
    rows = sets.sort_values("mape_calibrated").reset_index(drop=True)
    place = rows.index.to_numpy()
    ax.barh(place - 0.2, 100 * rows["mape_calibrated"], height=0.4, label="tile simulator")
    ax.barh(place + 0.2, 100 * rows["mape_roofline"], height=0.4, label="roofline, treated the same way")
    ax.plot(100 * rows["worst"], place - 0.2, "k.", markersize=4, label="worst row")
    names = rows[["device", "implementation", "head_dim", "window"]].astype(str).agg(" ".join, axis=1)
    ax.set_yticks(place, names, fontsize=6)
    ax.set(xlabel="error of the latency [%]", title="Out-of-sample error by set")
    ax.legend(fontsize=7)
    return ax


def roofline(points: pd.DataFrame, ceilings: pd.DataFrame, axes: Any = None) -> Any:
    """Draw kernels under the roofline, with the ceilings that the tile's pipes set.

    Args:
        points: columns `intensity` [operations/byte], `tflops`, `name`.
        ceilings: columns `name`, `tflops` (a horizontal ceiling), `bandwidth_tb_s` (a slope; the one not used is 0).
    """
    import numpy as np

    ax = _axes(axes)
    x = np.geomspace(points["intensity"].min() / 4, points["intensity"].max() * 4, 64)
    flat = ceilings[ceilings["tflops"] > 0]
    top = flat["tflops"].max()
    for row in ceilings.to_dict("records"):
        y = (
            np.full_like(x, row["tflops"])
            if row["tflops"] > 0
            else np.minimum(row["bandwidth_tb_s"] * x, top)
        )
        ax.loglog(x, y, linewidth=1, label=row["name"])
    ax.loglog(points["intensity"], points["tflops"], "ko", markersize=4)
    for row in points.to_dict("records"):
        ax.annotate(row["name"], (row["intensity"], row["tflops"]), fontsize=6)
    ax.set(xlabel="operations per byte of memory", ylabel="TFLOPS", title="Roofline and the tile's ceilings")
    ax.legend(fontsize=6)
    return ax


def wave_timeline(events: pd.DataFrame, axes: Any = None) -> Any:
    """Draw one launch: a bar a block, a line a slot, coloured by the length of its run.

    Args:
        events: columns slot, start, end [s], run: `pandas.DataFrame(timeline(...), columns=...)`.
    """
    import matplotlib as mpl

    ax = _axes(axes)
    colours = mpl.colormaps["viridis"]
    most = max(int(events["run"].max()), 1)
    ax.barh(
        events["slot"],
        1e6 * (events["end"] - events["start"]),
        left=1e6 * events["start"],
        height=0.9,
        color=[colours(run / most) for run in events["run"]],
        edgecolor="white",
        linewidth=0.2,
    )
    ax.set(xlabel="time [us]", ylabel="slot (SM x resident block)", title="Blocks of one launch")
    return ax
