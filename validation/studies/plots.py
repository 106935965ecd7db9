"""Tables of the co-design studies -> Axes: the full-size results, with the points recomputed live marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from einsum_cascade.pictures import COLOURS, DARK, GRID, LINES

Axes = Any
# Ten attentions: three more colours, darker than those of all pictures.
_INK = (*COLOURS, "#332288", "#882255", "#117733")
_APART = 1.25  # marks closer than this share a label
_LIVE: Mapping[str, Any] = {
    "marker": "o", "linestyle": "none", "markerfacecolor": "none", "markeredgecolor": DARK, "markeredgewidth": 0.7,
}  # fmt: skip


def tokens_text(n: float) -> str:
    """Return a number of tokens as people write it.

    >>> tokens_text(1024), tokens_text(1048576), tokens_text(18669), tokens_text(1703)
    ('1K', '1M', '18K', '1.7K')
    """
    if n >= 2**20:
        return f"{n / 2**20:.3g}M"
    return f"{n / 2**10:.2g}K" if n < 10 * 2**10 else f"{n / 2**10:.0f}K"


def fastest_design(best: pd.DataFrame, live: pd.DataFrame, *, title: str) -> Axes:
    """Draw which split of an area is fastest, a cell a length and bandwidth; colour: latency / that of FuseMax.

    Args:
        best: columns length, bandwidth, array, buffer, relative; in the order of the cells.
        live: columns length and bandwidth of the cells that were computed just now.
        title: of the figure.
    """
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm

    lengths, bandwidths = (list(dict.fromkeys(best[c])) for c in ("length", "bandwidth"))
    figure, axes = pyplot.subplots(figsize=(9.6, 5.2), layout="constrained")
    grid = best.pivot(index="bandwidth", columns="length", values="relative").loc[bandwidths, lengths]
    norm = LogNorm(1, max(grid.to_numpy().max(), 1.01))
    shown = axes.imshow(grid, norm=norm, cmap="YlOrRd", aspect="auto", origin="lower")
    for row in best.to_dict("records"):
        design, late = f"{row['array']}$^2$, {row['buffer']}", row["relative"]
        text = f"{design}\n{late:.2f}x" if late >= 1.005 else design
        place = lengths.index(row["length"]), bandwidths.index(row["bandwidth"])
        axes.text(*place, text, ha="center", va="center", fontsize=8, color="white" if late > 6 else DARK)
    x = [lengths.index(n) + 0.42 for n in live["length"]]
    y = [bandwidths.index(b) + 0.36 for b in live["bandwidth"]]
    axes.plot(x, y, **_LIVE, markersize=4, label="recomputed in this run, equal")
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_yticks(range(len(bandwidths)), bandwidths)
    axes.set(xlabel="tokens", ylabel="memory bandwidth", title=title)
    axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.0, -0.08))
    label = "latency / latency of FuseMax at 400 GiB/s [1]"
    bar = figure.colorbar(shown, label=label, ticks=[1, 2, 4, 8, 16, 32], format="%g")
    bar.minorticks_off()
    return axes


def winners(best: pd.DataFrame, *, kinds: Sequence[str], names: Mapping[str, str]) -> Axes:
    """Draw which attention is fastest, a panel a kind, a cell a machine and length; numbers: speedup over exact.

    Args:
        best: columns reads, machine, tokens, attention, speedup.
        kinds: values of `reads`, in the order of the panels.
        names: what people call an attention.
    """
    from matplotlib import pyplot
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch, Rectangle

    machines, lengths = list(dict.fromkeys(best["machine"])), sorted(best["tokens"].unique())
    inks = {n: to_rgba(ink, 0.45) for n, ink in zip(sorted(best["attention"].unique()), _INK, strict=False)}
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(13, 3.8), sharey=True, layout="constrained")
    for axes, reads in zip(panels, kinds, strict=True):
        rows = best[best["reads"] == reads]
        for row in rows.to_dict("records"):
            x, y = lengths.index(row["tokens"]), machines.index(row["machine"])
            cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=inks[row["attention"]], edgecolor="white")
            axes.add_patch(cell)
            axes.text(x, y, _ratio_text(row["speedup"]), ha="center", va="center", fontsize=7.5)
        axes.set_xticks(range(len(lengths)), [tokens_text(n) for n in lengths], fontsize=8)
        axes.set(xlabel="tokens", title=f"a query reads {reads}")
        axes.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(len(machines) - 0.5, -0.5))
        seen = [Patch(facecolor=inks[n], label=names[n]) for n in inks if n in set(rows["attention"])]
        axes.legend(handles=seen, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    panels[0].set_yticks(range(len(machines)), machines)
    figure.suptitle(
        "Fastest attention of its kind, and its speedup over exact one-pass attention on the same machine"
    )
    return panels[0]


def _ratio_text(ratio: float) -> str:
    return f"{ratio / 1000:.1f}kx" if ratio >= 1000 else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def times_by_length(
    times: pd.DataFrame,
    crossings: pd.DataFrame,
    live: pd.DataFrame,
    *,
    baseline: str,
    names: Mapping[str, str],
) -> Axes:
    """Draw time a token against length, a panel a machine, a line an attention; marked: where it passes the baseline.

    Args:
        times: columns attention, machine, tokens, latency_s, low_s, high_s.
        crossings: columns attention, machine, tokens, latency_s.
        live: the rows of `times` that were computed just now.
        baseline: the attention whose line is drawn thick.
        names: what people call an attention.
    """
    from matplotlib import pyplot

    machines, kinds = (list(dict.fromkeys(times[c])) for c in ("machine", "attention"))
    inks = dict(zip([k for k in kinds if k != baseline], _INK, strict=False)) | {baseline: DARK}
    lines = {k: LINES[i % len(LINES)] for i, k in enumerate(k for k in kinds if k != baseline)}
    shape = {"figsize": (13, 7.4), "sharex": True, "layout": "constrained"}
    figure, panels = pyplot.subplots(2, -(-len(machines) // 2), **shape)
    least, most = int(times["tokens"].min()), int(times["tokens"].max())
    ticks = [least * 4**k for k in range(16) if least * 4**k <= most]
    for axes, machine in zip(panels.flat, machines, strict=False):
        for kind in kinds:
            rows = times[(times["machine"] == machine) & (times["attention"] == kind)]
            width, above = (2.6, 2.5) if kind == baseline else (1.3, 2)
            style = {"color": inks[kind], "linestyle": lines.get(kind, "-"), "linewidth": width}
            _line(axes, rows, **style, zorder=above, label=names[kind])
        now = live[live["machine"] == machine]
        axes.plot(now["tokens"], _each(now, "latency_s"), **_LIVE, markersize=3)
        _crossings(axes, crossings[crossings["machine"] == machine], inks, first=least)
        axes.set(title=machine, xscale="log", yscale="log")
        axes.set_xlabel("tokens" if machine in machines[-panels.shape[1] :] else "")
        axes.set_xticks(ticks, [tokens_text(n) for n in ticks])
        axes.minorticks_off()
        axes.grid(True, color=GRID, linewidth=0.8)
    figure.supylabel("time a token [ns]", fontsize=10)
    lines = panels.flat[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return panels.flat[0]


def _each(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    """Return nanoseconds a token."""
    return rows[column] * 1e9 / rows["tokens"]


def _line(axes: Axes, rows: pd.DataFrame, *, color: str, **style: Any) -> None:
    known = rows.dropna(subset=["latency_s"])
    axes.plot(known["tokens"], _each(known, "latency_s"), color=color, **style)
    band = _each(known, "low_s"), _each(known, "high_s")
    axes.fill_between(known["tokens"], *band, color=color, alpha=0.1, linewidth=0)


def _crossings(axes: Axes, crossings: pd.DataFrame, inks: Mapping[str, str], *, first: int) -> None:
    """Mark where lines pass the baseline; those that lie below it from the first length on have no crossing.

    Of marks that are close together the first is labelled.
    """
    labelled = float(first)
    for row in crossings[crossings["tokens"] > first].sort_values("tokens").to_dict("records"):
        place = row["tokens"], row["latency_s"] * 1e9 / row["tokens"]
        axes.plot(*place, "D", color=inks[row["attention"]], markersize=5, zorder=3)
        if row["tokens"] > _APART * labelled:
            labelled = row["tokens"]
            style = {"textcoords": "offset points", "fontsize": 7.5, "zorder": 4}
            axes.annotate(tokens_text(labelled), place, xytext=(5, -9), **style)


def changed_device(table: pd.DataFrame, live: pd.DataFrame, *, title: str) -> Axes:
    """Draw speedups on changed devices as bars between the two extremes of the model, the bottleneck named.

    Args:
        table: columns variant, label, head_dim, speedup, speedup_apart, bound_by.
        live: columns variant, label, head_dim of the rows that were computed just now.
        title: of the figure.
    """
    from matplotlib import pyplot

    variants, labels, dims = (list(dict.fromkeys(table[c])) for c in ("variant", "label", "head_dim"))
    figure, panels = pyplot.subplots(len(variants), 1, figsize=(12.5, 8.4), sharex=True, layout="constrained")
    width = 0.8 / len(dims)
    for axes, variant in zip(panels, variants, strict=True):
        for i, (dim, ink) in enumerate(zip(dims, _INK, strict=False)):
            shift = (i - (len(dims) - 1) / 2) * width
            rows = table[(table["variant"] == variant) & (table["head_dim"] == dim)]
            x = [labels.index(label) + shift for label in rows["label"]]
            _bars(axes, x, rows, width=width * 0.88, color=ink, label=f"head_dim {dim}")
            now = live[(live["variant"] == variant) & (live["head_dim"] == dim)]
            axes.plot(
                [labels.index(n) + shift for n in now["label"]], [0.45] * len(now), **_LIVE, markersize=4
            )
        axes.axhline(1, color=DARK, linewidth=0.9)
        axes.set(ylabel="speedup [x]", ylim=(0.4, 1.7))
        axes.set_title(variant, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[-1].set_xticks(range(len(labels)), labels, fontsize=8)
    panels[0].plot([], [], **_LIVE, markersize=4, label="recomputed in this run, equal")
    panels[0].plot([], [], color=DARK, linewidth=2, label="rows queue for pipes, blocks in step")
    panels[0].legend(frameon=False, fontsize=8, ncols=len(dims) + 2, loc="upper right")
    figure.suptitle(title, fontsize=11)
    return panels[0]


def _bars(axes: Axes, x: list[float], rows: pd.DataFrame, *, width: float, color: str, label: str) -> None:
    """Draw bars between two extremes, a line across at the first one, and what binds there."""
    low, high = (rows[["speedup", "speedup_apart"]].agg(f, axis=1) for f in ("min", "max"))
    axes.bar(x, high - low, bottom=low, width=width, color=color, alpha=0.75, label=label)
    axes.hlines(
        rows["speedup"], [p - width / 2 for p in x], [p + width / 2 for p in x], color=DARK, linewidth=2
    )
    for place, top, bound_by in zip(x, high, rows["bound_by"], strict=True):
        style = {"rotation": 90, "fontsize": 7, "ha": "center", "va": "bottom"}
        axes.annotate(bound_by, (place, top), xytext=(0, 4), textcoords="offset points", **style)
