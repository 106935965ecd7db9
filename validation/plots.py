"""The report's figures: a table goes in, Axes come out; nothing is computed here."""

from __future__ import annotations

from typing import Any

import pandas as pd

from einsum_cascade.analysis.plots import axis_of_bytes
from einsum_cascade.pictures import COLOURS, DARK, GREY, GRID, LINES, MARKS, RED

Axes = Any
# What the columns of the FuseMax tables are called, by a part of their names; all others are utilisations.
_QUANTITIES = {"traffic": "traffic [B]", "energy": "energy [pJ]", "lat": "latency [s]", "area": "area [µm²]"}


def _axes(width: float = 8.0, height: float = 4.8) -> Axes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def traffic_against_buffer(table: pd.DataFrame, *, title: str) -> Axes:
    """Draw lower bounds on traffic; needs cascade, buffer_bytes, traffic_bytes."""
    axes = _axes()
    for ink, line, (name, rows) in zip(
        COLOURS, LINES * 2, table.groupby("cascade", sort=False), strict=False
    ):
        axes.plot(
            rows["buffer_bytes"], rows["traffic_bytes"], line, color=ink, linewidth=2.2, label=str(name)
        )
    axes.set(xlabel="on-chip buffer", ylabel="least off-chip traffic", title=title)
    for which in "xy":
        axis_of_bytes(axes, which)
    axes.legend(frameon=False)
    return axes


def published_against_simulated(cases: pd.DataFrame) -> Axes:
    """Draw every published cell against the simulated one, a colour a quantity; needs column, expected, got."""
    axes = _axes(6.4, 5.4)
    positive = cases[(cases["expected"] > 0) & (cases["got"] > 0)]
    quantities = positive["column"].map(_quantity)
    for i, (name, rows) in enumerate(positive.groupby(quantities)):
        axes.loglog(
            rows["expected"],
            rows["got"],
            MARKS[i],
            markersize=4,
            alpha=0.7,
            color=COLOURS[i],
            label=str(name),
        )
    ends = [positive["expected"].min(), positive["expected"].max()]
    axes.loglog(ends, ends, color=DARK, linewidth=0.8)
    axes.set(xlabel="published", ylabel="simulated", title="FuseMax artifact: every public cell")
    axes.legend(frameon=False, fontsize=8)
    return axes


def _quantity(column: str) -> str:
    return next((shown for part, shown in _QUANTITIES.items() if part in column), "utilisation [1]")


def design_space(table: pd.DataFrame, front: pd.DataFrame, *, title: str) -> Axes:
    """Draw latency against area of all designs with the front marked; needs area_mm2, latency_s, energy_j."""
    axes = _axes()
    energy = table["energy_j"] / table["energy_j"].min()
    dots = axes.scatter(table["area_mm2"], table["latency_s"], c=energy, s=28, cmap="viridis_r", alpha=0.85)
    axes.plot(
        front["area_mm2"],
        front["latency_s"],
        "o",
        markersize=9,
        fillstyle="none",
        color=RED,
        label="Pareto front",
    )
    axes.set(xscale="log", yscale="log", xlabel="area [mm²]", ylabel="latency [s]")
    axes.set_title(title)
    axes.figure.colorbar(dots, label="energy / least energy")
    axes.legend(frameon=False)
    return axes


def gna_bars(table: pd.DataFrame) -> Axes:
    """Draw the published bars beside ours; the first column names the use case, the others are speedups."""
    axes = _axes(10.5, 4.6)
    series = list(table.columns[1:])
    width = 0.8 / len(series)
    for i, name in enumerate(series):
        places = [x + (i - (len(series) - 1) / 2) * width for x in range(len(table))]
        drawn = axes.bar(places, table[name], width=width * 0.92, color=COLOURS[i], label=name)
        axes.bar_label(drawn, fmt="%.1f", fontsize=7, padding=1)
    names = ["\n".join(str(name).rsplit(maxsplit=1)) for name in table.iloc[:, 0]]
    axes.set_xticks(range(len(table)), names, fontsize=8)
    axes.set(ylabel="speedup over dense attention [x]", title="Neighbourhood attention on Blackwell tiles")
    axes.set_ylim(0, 1.25 * table[series].max().max())
    axes.legend(frameon=False, fontsize=8, ncols=len(series), loc="upper center")
    return axes


def ratios(table: pd.DataFrame) -> Axes:
    """Draw predicted against measured ratios; needs variant, 'measured ratio', 'predicted ratio'.

    Rows that are not judged, where the table has `judged`, are hollow.
    """
    axes = _axes(7.0, 5.0)
    judged = table.get("judged", pd.Series(True, index=table.index)).astype(bool)
    for i, (name, rows) in enumerate(table.groupby("variant", sort=False)):
        look = {"marker": MARKS[i % len(MARKS)], "color": COLOURS[i % len(COLOURS)], "linestyle": ""}
        axes.loglog([], [], label=str(name), **look)
        for fill, own in (("full", judged), ("none", ~judged)):
            shown = rows[own.loc[rows.index]]
            axes.loglog(shown["measured ratio"], shown["predicted ratio"], fillstyle=fill, **look)
    if not judged.all():
        hollow = {"marker": "o", "color": GREY, "fillstyle": "none", "linestyle": ""}
        axes.loglog([], [], label="hollow: others had its CPUs, not judged", **hollow)
    _diagonal(axes, pd.concat([table["measured ratio"], table["predicted ratio"]]), within=0.3)
    axes.set(xlabel="measured time / dense fused attention [1]", ylabel="predicted ratio [1]")
    axes.set_title("This CPU: ratios to dense fused attention (band: 30 %)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes


def speedups(table: pd.DataFrame) -> Axes:
    """Draw predicted against measured speedups over dense attention; needs variant and both speedups."""
    axes = _axes(7.6, 5.0)
    for i, (name, rows) in enumerate(table.groupby("variant", sort=False)):
        look = {"marker": MARKS[i % len(MARKS)], "color": COLOURS[i % len(COLOURS)], "linestyle": ""}
        axes.loglog(rows["measured speedup"], rows["predicted speedup"], label=str(name), **look)
    _diagonal(axes, pd.concat([table["measured speedup"], table["predicted speedup"]]), within=0.15)
    axes.set(xlabel="measured time of the dense kernel / time", ylabel="predicted speedup")
    axes.set_title("Our kernels: speedup over the dense one (band: 15 %)")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes


def _diagonal(axes: Axes, values: pd.Series, *, within: float) -> None:
    """Draw where the two sides are equal, and the band of a relative error around it."""
    ends = [values.min() * 0.8, values.max() * 1.25]
    axes.loglog(ends, ends, color=DARK, linewidth=0.8)
    low, high = ([e * (1 + sign * within) for e in ends] for sign in (-1, 1))
    axes.fill_between(ends, low, high, color=GREY, alpha=0.12)


def _panels(table: pd.DataFrame) -> tuple[Any, list[str]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(table["model"]))
    _, grid = pyplot.subplots(1, len(models), figsize=(3.1 * len(models), 3.4), sharey=True)
    for axes, model in zip(grid, models, strict=True):
        axes.set_title(model, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return grid, models


def utilization(table: pd.DataFrame) -> Axes:
    """Draw both arrays' utilisation by length, one panel a model; needs configuration, length, util_2d, util_1d."""
    grid, models = _panels(table)
    for axes, model in zip(grid, models, strict=True):
        for ink, (name, rows) in zip(
            COLOURS, table[table["model"] == model].groupby("configuration", sort=False), strict=False
        ):
            axes.plot(
                rows["length"], rows["util_2d"], "o-", color=ink, markersize=4, label=f"{name}, 2-D array"
            )
            axes.plot(
                rows["length"], rows["util_1d"], "x:", color=ink, markersize=4, label=f"{name}, 1-D array"
            )
        axes.tick_params(axis="x", labelrotation=45, labelsize=8)
        axes.set_xlabel("tokens")
    grid[0].set(ylabel="utilisation of the array [1]", ylim=(0, 1.05))
    grid[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return grid[0]


def ratio_bars(table: pd.DataFrame, *, column: str) -> Axes:
    """Draw `ratio` as bars by length, one panel a model; `column` says what the ratio is of."""
    grid, models = _panels(table)
    names = list(dict.fromkeys(table["configuration"]))
    width = 0.84 / len(names)
    for axes, model in zip(grid, models, strict=True):
        for i, name in enumerate(names):
            rows = table[(table["model"] == model) & (table["configuration"] == name)]
            places = [x + (i - (len(names) - 1) / 2) * width for x in range(len(rows))]
            axes.bar(places, rows["ratio"], width=width, color=COLOURS[i], label=name)
        axes.set_xticks(range(len(rows)), list(rows["length"]), rotation=45, fontsize=8)
        axes.set_xlabel("tokens")
    scope = "end to end" if column.startswith("end_to_end") else "attention"
    label = "speedup over unfused [x]" if "latency" in column else "energy / unfused [1]"
    grid[0].set_ylabel(f"{scope}: {label}")
    grid[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return grid[0]


def area_latency(table: pd.DataFrame) -> Axes:
    """Draw latency against area for growing arrays; needs model, PE_dim, area_mm2, latency_s."""
    axes = _axes()
    for ink, mark, (name, rows) in zip(COLOURS, MARKS, table.groupby("model", sort=False), strict=False):
        axes.loglog(rows["area_mm2"], rows["latency_s"], f"{mark}-", color=ink, label=str(name))
    last = table[table["model"] == table["model"].iloc[0]]
    for _, row in last.iterrows():
        axes.annotate(
            f"{row['PE_dim']:.0f}",
            (row["area_mm2"], row["latency_s"]),
            fontsize=7,
            xytext=(4, 4),
            textcoords="offset points",
        )
    axes.set(
        xlabel="area [mm²]", ylabel="latency at 256K tokens [s]", title="Array size (labels: elements a side)"
    )
    axes.legend(frameon=False)
    return axes
