"""The picture of a front hides none of its designs, and tells designs apart whose third objective spans decades."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import LogNorm, Normalize

from simulator.dse.pareto import pareto
from simulator.dse.plots import plot_front

SCALES = {"4K": 1.0, "64K": 300.0, "1M": 90000.0}
ROWS = [(n, seq, k / n, n**1.5, k * (1 + n / 99)) for seq, k in SCALES.items() for n in range(1, 9)]
TABLE = pd.DataFrame(ROWS, columns=["n", "seq", "latency_s", "area_mm2", "energy_j"])
OBJECTIVES = ["latency_s", "area_mm2", "energy_j"]


@pytest.mark.parametrize("by", [(), ("seq",)])
def test_the_legend_stands_beside_the_designs(by):
    axes = plot_front(TABLE, pareto(TABLE, minimize=OBJECTIVES[:2], by=by), OBJECTIVES[:2], by=by)
    axes.figure.draw_without_rendering()
    legend = axes.get_legend()
    assert len(legend.get_texts()) == 1 + (len(SCALES) if by else 1)
    # Half a point of slack: both edges may be the same line.
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 0.5
    assert legend.get_window_extent().y1 <= axes.figure.bbox.y1


@pytest.mark.parametrize(("rows", "norm"), [(TABLE, LogNorm), (TABLE[TABLE["seq"] == "4K"], Normalize)])
def test_a_third_objective_over_decades_is_coloured_by_its_logarithm(rows, norm):
    axes = plot_front(rows, pareto(rows, minimize=OBJECTIVES, by=["seq"]), OBJECTIVES, by=["seq"])
    assert type(axes.collections[-1].norm) is norm


def test_amounts_lie_along_an_axis_of_numbers():
    rows = TABLE.assign(**{"hardware.L3": [f"{n} MiB" for n in TABLE["n"]]})
    names = ["hardware.L3", "latency_s"]
    axes = plot_front(rows, pareto(rows, minimize=names), names)
    assert axes.get_xlabel() == "hardware.L3 [B]"
    low, high = axes.collections[0].get_offsets()[:, 0].min(), axes.collections[0].get_offsets()[:, 0].max()
    assert (low, high) == (2**20, 8 * 2**20)
