"""How far the truth may be from a prediction: widths measured out of sample, by what is known and of which kernel."""

from __future__ import annotations

import csv
import functools
from dataclasses import replace
from pathlib import Path

from mappings.gpu import KernelMapping

from .efficiency import Efficiency

TABLE = Path(__file__).parent / "tables" / "intervals.csv"

SHORT_S = 50e-6  # below it fixed costs weigh more, and times are further off
UNKNOWN = 1.0  # of a kernel that nobody described: half to twice the time

STATES = ("measured", "own", "like")
KINDS = ("plain", "serving", "backward", "described")


@functools.cache
def _table() -> dict[tuple[str, str], tuple[float, float]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            (r["state"], r["kind"]): (float(r["spread"]), float(r["short"])) for r in csv.DictReader(file)
        }


def kind_of(mapping: KernelMapping, direction: str) -> str:
    """Return the kind of kernel by which intervals are tabulated."""
    if mapping.grids:
        return "described"
    return "backward" if direction != "fwd" else "serving" if mapping.appends else "plain"


def with_interval(efficiency: Efficiency, *, state: str, kind: str) -> Efficiency:
    """Return an efficiency with the widths that hold 90 % of the rows of its kind.

    Args:
        state: "measured", calibrated on rows of its own; "own", the shipped constants of the same device; "like",
            what other devices and kernels say.
        kind: of kernel, see `kind_of`.
    """
    long, short = _table()[state, kind]
    return replace(efficiency, spread=long, short_spread=short)


def interval(latency_s: float, efficiency: Efficiency) -> tuple[float, float]:
    """Return the seconds between which the truth is expected: the prediction divided and multiplied by one factor.

    >>> [round(x * 1e3, 3) for x in interval(1e-3, Efficiency(0.6, spread=0.25))]
    [0.8, 1.25]
    """
    short = latency_s < SHORT_S and efficiency.short_spread > 0
    factor = 1.0 + (efficiency.short_spread if short else efficiency.spread)
    return latency_s / factor, latency_s * factor
