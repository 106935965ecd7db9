"""Tables of the tile simulator -> Axes: predicted against measured, error by set, roofline, waves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from einsum_cascade.pictures import BLUE, COLOURS, DARK, GREY, GRID, MARKS, PALE, RED

if TYPE_CHECKING:
    import pandas as pd

Axes = Any
_BAND = 0.10
# The chip in the name of a device: A100 of "A100 80GB PCIe cudnn-9.27".
_CHIP = re.compile(r"[A-Za-z]*\d+[A-Za-z]*")
_SHOWN = 4.0  # ceilings up to so many times the lowest one are drawn


def _axes(axes: Axes, width: float = 6.4, height: float = 4.6) -> Axes:
    import matplotlib.pyplot as plt

    ax = axes if axes is not None else plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def predicted_against_measured(cases: pd.DataFrame, axes: Axes = None) -> Axes:
    """Draw predicted against measured seconds, log-log with a 10 % band; a colour a group.

    Of more groups than there are colours, those of one chip share a mark, a hue and a line of the legend, and differ in
    their shade: nobody tells forty of them apart by name.

    Args:
        cases: columns `expected`, `got` in seconds, and `group`.
    """
    ax = _axes(axes, 7.2, 6.0)
    many = cases["group"].nunique() > len(COLOURS)
    families = cases["group"].map(_chip) if many else cases["group"]
    for i, (family, rows) in enumerate(cases.groupby(families, sort=True)):
        mark = {"marker": MARKS[i % len(MARKS)], "linestyle": "none", "alpha": 0.75}
        hue, label = COLOURS[i % len(COLOURS)], f"{family} ({len(rows)})"
        groups = list(rows.groupby("group", sort=True))
        for k, (_, own) in enumerate(groups):
            style = {"color": _shade(hue, k, len(groups)), "markersize": 4.5, "markeredgewidth": 0}
            ax.plot(1e3 * own["expected"], 1e3 * own["got"], **mark, **style, label="" if k else label)
    ends = [
        1e3 * cases[["expected", "got"]].min().min() / 1.5,
        1e3 * cases[["expected", "got"]].max().max() * 1.5,
    ]
    ax.plot(ends, ends, color=DARK, linewidth=0.8)
    low, high = ([e * (1 + s * _BAND) for e in ends] for s in (-1, 1))
    ax.fill_between(ends, low, high, color=DARK, alpha=0.12, linewidth=0, label="within 10 %")
    inside = ((cases["got"] / cases["expected"] - 1).abs() <= _BAND).mean()
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    ax.set(xlabel="measured latency [ms]", ylabel="predicted latency [ms]")
    ax.set_title(f"Predicted against measured: {len(cases):,} launches, {100 * inside:.0f} % within 10 %")
    ax.legend(fontsize=8, frameon=False, loc="upper left", ncols=2 if families.nunique() > 12 else 1)
    return ax


def _shade(colour: str, place: int, of: int) -> tuple[float, ...]:
    """Return one of several shades of a colour, from itself to half way to white."""
    from matplotlib.colors import to_rgb

    pale = 0.5 * place / max(of - 1, 1)
    return tuple(c + (1 - c) * pale for c in to_rgb(colour))


def _chip(group: str) -> str:
    """Return the chip that a group was measured on, or its first word.

    >>> _chip("A100-80G (not stated in README) cuda-fa2"), _chip("RTX 3090 triton"), _chip("mine")
    ('A100', 'RTX 3090', 'mine')
    """
    words = group.split()
    for i, word in enumerate(words):
        if found := _CHIP.match(word):
            return " ".join((*words[:i], found.group()))
    return words[0] if words else ""


def error_by_set(sets: pd.DataFrame, axes: Axes = None) -> Axes:
    """Draw the mean error of every set as a bar, the roofline's beside it, the worst row as a dot.

    Args:
        sets: columns device, implementation, head_dim, window, n, mape_calibrated, mape_roofline, worst (fractions).
    """
    rows = sets.sort_values("mape_calibrated", ascending=False).reset_index(drop=True)
    ax = _axes(axes, 8.6, 1.4 + 0.2 * len(rows))
    place = rows.index.to_numpy()
    ax.barh(place + 0.2, 100 * rows["mape_calibrated"], height=0.38, color=BLUE, label="tile simulator")
    ax.barh(
        place - 0.2, 100 * rows["mape_roofline"], height=0.38, color=PALE,
        label="roofline, treated the same way",
    )  # fmt: skip
    ax.plot(
        100 * rows["worst"],
        place + 0.2,
        ".",
        color=RED,
        markersize=5,
        label="tile simulator, worst row",
    )
    ax.set_yticks(place, [_set_name(row) for row in rows.to_dict("records")], fontsize=6.5)
    most = 100 * rows[["mape_calibrated", "mape_roofline", "worst"]].max().max()
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200) if t < 1.3 * most]
    ax.set(xscale="log", xlim=(0.8, 1.3 * most), ylim=(-0.8, len(rows) - 0.2))
    ax.set_xticks(ticks, [f"{t} %" for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("mean error of the latency")
    ax.set_title("Out-of-sample error by set (rows)", pad=22)
    ax.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return ax


def _set_name(row: dict[Any, Any]) -> str:
    window = f" window {row['window']}" if row["window"] else ""
    rows = f" ({row['n']})" if "n" in row else ""
    return f"{row['device']}, {row['implementation']}, d{row['head_dim']:.0f}{window}{rows}"


def roofline(points: pd.DataFrame, ceilings: pd.DataFrame, axes: Axes = None) -> Axes:
    """Draw kernels under the roofline, with the ceilings that the tile's pipes set.

    Args:
        points: columns `intensity` [operations/byte], `tflops`, `name`, and, where predictions stand beside
            measurements, `kind`.
        ceilings: columns `name`, `tflops` (a horizontal ceiling), `bandwidth_tb_s` (a slope; the one not used is 0).
    """
    ax = _axes(axes, 8.6, 5.2)
    flat = ceilings[ceilings["tflops"] > 0].sort_values("tflops")
    slopes = ceilings[ceilings["tflops"] <= 0]
    lowest = flat["tflops"].min()
    bottom, top = min(points["tflops"].min(), lowest) / 2, _SHOWN * lowest
    left, right = points["intensity"].min() / 8, points["intensity"].max() * 4
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    for row in slopes.to_dict("records"):
        _slope(ax, row, left=left, bottom=bottom, top=top)
    steepest = slopes["bandwidth_tb_s"].max() if len(slopes) else float("inf")
    for i, row in enumerate(flat[flat["tflops"] <= top].to_dict("records")):
        ink, width = (RED, 1.8) if i == 0 else (GREY, 1.0)
        ax.plot([max(left, row["tflops"] / steepest), right], [row["tflops"]] * 2, color=ink, linewidth=width)
        label = f"{row['name']} {row['tflops']:,.0f}"
        ax.text(right, row["tflops"], f" {label}", fontsize=7, va="center", color=ink)
    kinds = points.groupby("kind", sort=False) if "kind" in points else [("kernels", points)]
    for (kind, rows), mark, fill in zip(kinds, "oD", (BLUE, "none"), strict=False):
        style = {"color": BLUE, "markerfacecolor": fill, "markersize": 5, "linestyle": "none"}
        ax.plot(rows["intensity"], rows["tflops"], marker=mark, **style, label=str(kind))
    for name, rows in points.groupby("name"):
        place = rows["intensity"].iloc[0], rows["tflops"].min()
        ax.annotate(name, place, xytext=(0, -12), textcoords="offset points", fontsize=7, ha="center")
    ax.set(xlabel="useful operations per compulsory byte [1]", ylabel="TFLOPS")
    hidden = ", ".join(
        f"{r['name']} {r['tflops']:,.0f}" for r in flat[flat["tflops"] > top].to_dict("records")
    )
    more = f"; higher: {hidden}" if hidden else ""
    ax.set_title(f"What every pipe of an SM allows a tile (thick: the one that binds{more})", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return ax


def _slope(ax: Axes, row: dict[Any, Any], *, left: float, bottom: float, top: float) -> None:
    """Draw a bandwidth as a line up to the upper edge, with its name along it."""
    rate = row["bandwidth_tb_s"]
    ax.plot([left, top / rate], [left * rate, top], color=DARK, linewidth=1.4)
    place = max(left, bottom / rate) * 1.3
    label = f"{row['name']}: {rate:.3g} TB/s"
    ax.annotate(label, (place, place * rate), xytext=(8, -4), textcoords="offset points", fontsize=7.5)


def wave_timeline(events: pd.DataFrame, axes: Axes = None, *, sms: int = 0) -> Axes:
    """Draw one launch: a bar a block, a line a slot, coloured by the length of its run.

    Args:
        events: columns slot, start, end [s], run: `pandas.DataFrame(timeline(...), columns=...)`; `tiles`, the key
            tiles of the block, colours instead of the run where it is there.
        sms: streaming multiprocessors, for the title; 0 to leave them out.
    """
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ax = _axes(axes, 8.6, 5.0)
    by = "tiles" if "tiles" in events else "run"
    scale = ScalarMappable(Normalize(0, max(float(events[by].max()), 1.0)), mpl.colormaps["viridis"])
    ax.barh(
        events["slot"],
        1e6 * (events["end"] - events["start"]),
        left=1e6 * events["start"],
        height=1.0,
        color=scale.to_rgba(events[by].to_numpy(dtype=float)),
        edgecolor="white",
        linewidth=0.15,
    )
    last, busy = events["end"].max(), (events["end"] - events["start"]).sum()
    slots = int(events["slot"].max()) + 1
    name = "key tiles of the block" if by == "tiles" else "run of equal blocks"
    ax.figure.colorbar(scale, ax=ax, label=name)
    ax.grid(False)
    ax.set(xlim=(0, 1.02e6 * last), ylim=(-0.5, slots - 0.5))
    ax.set(xlabel="time [us]", ylabel="slot (SM x resident block)")
    chip = f" on {sms} SMs" if sms else ""
    ax.set_title(
        f"{len(events):,} blocks of one launch{chip}: slots busy {100 * busy / last / slots:.0f} % of the time"
    )
    return ax
