"""Plots take tables and return labelled axes."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import pandas as pd

from simulator.gpu.plots import error_by_set, predicted_against_measured, roofline, wave_timeline
from simulator.gpu.waves import timeline

mpl.use("Agg")


def test_every_plot_labels_its_axes():
    cases = pd.DataFrame({"expected": [1e-4, 1e-3], "got": [1.1e-4, 0.9e-3], "group": ["a", "b"]})
    sets = pd.DataFrame(
        {
            "device": ["a", "b"],
            "implementation": "x",
            "head_dim": 64,
            "window": 0,
            "mape_calibrated": [0.1, 0.05],
            "mape_roofline": [0.2, 0.3],
            "worst": [0.3, 0.2],
        }
    )
    points = pd.DataFrame({"intensity": [10.0, 300.0], "tflops": [20.0, 500.0], "name": ["a", "b"]})
    ceilings = pd.DataFrame(
        {"name": ["tensor", "memory"], "tflops": [900.0, 0.0], "bandwidth_tb_s": [0.0, 3.35]}
    )
    events = pd.DataFrame(timeline([2e-6, 1e-6], [3, 5], slots=2), columns=["slot", "start", "end", "run"])
    drawn = [
        predicted_against_measured(cases),
        error_by_set(sets),
        roofline(points, ceilings),
        wave_timeline(events),
    ]
    for ax in drawn:
        assert ax.get_xlabel()
        assert ax.get_title()
        mpl.pyplot.close(ax.figure)
    assert len(drawn[-1].patches) == 8


def _dots(ax):
    return [line for line in ax.lines if line.get_marker() in set("os^Dv")]


def test_few_groups_have_a_colour_and_a_mark_of_their_own():
    names = [f"set {i}" for i in range(7)]
    ax = predicted_against_measured(pd.DataFrame({"expected": 1e-4, "got": 1e-4, "group": names}))
    dots = _dots(ax)
    assert len({mpl.colors.to_hex(line.get_color()) for line in dots}) == len(dots) == 7
    assert all(a.get_marker() != b.get_marker() for a, b in itertools.pairwise(dots))
    mpl.pyplot.close(ax.figure)


def test_many_sets_are_drawn_by_their_chip_and_none_is_lost():
    chips = ["A10", "A100", "B200", "GB200", "GB300", "H20", "H100", "H200", "L40S"]
    names = [f"{chip} 80GB SXM{i} kernel-{j}" for chip in chips for i in (4, 5) for j in range(3)]
    ax = predicted_against_measured(pd.DataFrame({"expected": 1e-4, "got": 1e-4, "group": names}))
    dots = _dots(ax)
    assert sorted(t.get_text() for t in ax.get_legend().get_texts()) == sorted(
        [*(f"{chip} (6)" for chip in chips), "within 10 %"]
    )
    looks = {(mpl.colors.to_hex(line.get_color()), line.get_marker()) for line in dots}
    assert len(looks) == len(dots) == len(names)
    assert sum(len(line.get_xdata()) for line in dots) == len(names)
    mpl.pyplot.close(ax.figure)
