"""The colours of all pictures stay apart for every colour vision, and pictures take them from one place."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from einsum_cascade.analysis.plots import axis_of_bytes, plot_traffic
from einsum_cascade.pictures import COLOURS, LINES, MARKS

ROOT = Path(__file__).resolve().parents[2]
# What linear RGB becomes without one kind of cones. Source: G. Machado, M. Oliveira, L. Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), severity 1.
SEEN = {
    "all cones": np.eye(3),
    "no L cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no M cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no S cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# CIELAB distances of 2.3 are just seen side by side (Mahy et al. 1994); small marks apart from each other need
# several times that.
LEAST = 10.0


def lab(colour, seen):
    s = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(seen) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colours, seen):
    return min(np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in itertools.combinations(colours, 2))


@pytest.mark.parametrize("vision", SEEN)
def test_colours_stay_apart(vision):
    assert closest(COLOURS, SEEN[vision]) > LEAST
    # On white, each has to be seen at all.
    assert all(lab(c, SEEN[vision])[0] < 75 for c in COLOURS)


def test_the_measure_of_this_test_knows_a_bad_pair():
    # matplotlib's usual red and green.
    assert closest(("#d62728", "#2ca02c"), SEEN["all cones"]) > 100
    assert closest(("#d62728", "#2ca02c"), SEEN["no M cones"]) < LEAST


def test_pictures_take_their_colours_from_here():
    own = {"validation/studies/plots.py": 3}  # of ten attentions; beside names or line styles
    for path in ROOT.glob("*/**/plots.py"):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith((".", "tests", "demo")):
            found = re.findall(r"#[0-9a-fA-F]{6}", path.read_text(encoding="utf-8"))
            assert len(found) == own.get(place, 0), place


def test_curves_and_points_differ_by_more_than_colour():
    curves = {name: ([2.0**12, 2.0**30], [2.0**40, 2.0**33]) for name in "abcd"}
    points = dict.fromkeys("pq", (2.0**20, 2.0**36))
    ax = plot_traffic(curves, points=points)
    assert {line.get_linestyle() for line in ax.lines[:4]} == set(LINES)
    assert [line.get_marker() for line in ax.lines[4:]] == [MARKS[4], MARKS[0]]
    mpl.pyplot.close(ax.figure)


def test_amounts_are_written_as_people_do():
    ax = plot_traffic({"a": ([2.0**7, 2.0**34], [1.2 * 2**34, 2.8 * 2**34])})
    along, up = ([t.get_text() for t in axis.get_ticklabels()] for axis in (ax.xaxis, ax.yaxis))
    assert along[:4] == ["64 B", "1 KiB", "16 KiB", "256 KiB"]
    assert 4 <= len(along) <= 9
    assert up[:2] == ["20 GiB", "24 GiB"]
    for which in "xy":
        axis_of_bytes(ax, which)  # once more changes nothing
    assert [t.get_text() for t in ax.xaxis.get_ticklabels()] == along
    mpl.pyplot.close(ax.figure)
