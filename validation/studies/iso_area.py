"""Co-design (a): the area of FuseMax split between array and buffer, at many bandwidths and lengths."""

from __future__ import annotations

import pandas as pd

import simulator as sim
from simulator.dse.spec import Spec, read_spec

from .results import FOLDER

SPEC = FOLDER / "iso_area.yaml"
LENGTH, BANDWIDTH = "sizes.seq", "hardware.memories.DRAM.bandwidth"
ARRAY, BUFFER = "hardware.N", "hardware.L3"
DESIGN = (LENGTH, BANDWIDTH, ARRAY, BUFFER)
_FEW = 3  # of the lengths and bandwidths every third one is a part of the study


def table(*, full: bool) -> pd.DataFrame:
    """Return latency and area of every design within FuseMax's area, by length and bandwidth.

    Columns: the axes of iso_area.yaml, latency_s, area_mm2, bound_by.
    """
    spec = read_spec(SPEC)
    axes = dict(spec.space.axes)
    if not full:
        axes |= {name: axes[name][::_FEW] for name in (LENGTH, BANDWIDTH)}
    found = sim.sweep(sim.Space(axes), **spec.inputs)
    # The area of FuseMax itself is among the designs; rounding must not throw it out.
    fits = found[found["area_mm2"] <= _budget(spec) * (1 + 1e-9)]
    return fits[[*DESIGN, "latency_s", "area_mm2", "bound_by"]].reset_index(drop=True)


def fusemax() -> pd.DataFrame:
    """Return FuseMax itself at every length: sizes.seq, latency_s, area_mm2."""
    spec = read_spec(SPEC)
    return sim.sweep(sim.Space({LENGTH: spec.space.axes[LENGTH]}), **spec.inputs)[
        [LENGTH, "latency_s", "area_mm2"]
    ]


def fastest(designs: pd.DataFrame) -> pd.DataFrame:
    """Return the fastest design of every length and bandwidth, the least buffer of equals, beside FuseMax.

    Columns as `table`, and relative: latency / FuseMax's at its own 400 GiB/s.
    """
    # Equal but for rounding is equal: then the smaller chip is the better one.
    order = designs.assign(rounded=designs["latency_s"].map(lambda x: float(f"{x:.9g}")))
    order = order.sort_values(["rounded", "area_mm2"], kind="stable")
    best = order.groupby([LENGTH, BANDWIDTH]).head(1).drop(columns="rounded").sort_index()
    base = fusemax().set_index(LENGTH)["latency_s"]
    return best.assign(relative=best["latency_s"] / best[LENGTH].map(base).astype(float))


def _budget(spec: Spec) -> float:
    first = sim.Space({LENGTH: spec.space.axes[LENGTH][:1]})
    return float(sim.sweep(first, **spec.inputs)["area_mm2"].iloc[0])
