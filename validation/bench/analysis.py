"""Speed of what the text alone tells: passes, bounds, the traffic curve, rewriting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from einsum_cascade import parse, zoo
from einsum_cascade.analysis.bounds import bounds, traffic_curve
from einsum_cascade.analysis.passes import all_passes
from einsum_cascade.cascade import Cascade
from einsum_cascade.rewrite.reduce import reduce_passes

from .timing import timed

# AccelForge's curve of 30 points for the same attention, blind to passes; measured by us on two cores.
ACCELFORGE_CURVE_S = 8.6


def bench() -> list[dict[str, Any]]:
    """Return one row per target: value, unit, target, and a ratio that carries over to other machines."""
    names = zoo.names()
    reduce_passes(zoo.load("attention_3pass"), "M")  # imports sympy and the parser's tables once
    passes_s = {n: _seconds(lambda n=n: all_passes(parse(zoo.text(n)))) for n in names}
    bounds_s = {n: _seconds(lambda n=n: _bound(zoo.load(n))) for n in names}
    reduce_s = _seconds(lambda: reduce_passes(zoo.load("attention_3pass"), "M"))
    buffers = np.geomspace(2**10, 2**30, 30)
    curve_s = _seconds(lambda: traffic_curve(zoo.load("attention_3pass"), "BERT/64K", buffers_bytes=buffers))
    slowest = max(passes_s, key=lambda n: passes_s[n])
    largest = max(bounds_s, key=lambda n: bounds_s[n])
    faster = f"{ACCELFORGE_CURVE_S / curve_s:,.0f} x AccelForge ({ACCELFORGE_CURVE_S} s)"
    return [
        _row(
            "parse and passes of any zoo entry",
            passes_s[slowest] * 1e3,
            "ms",
            "< 20 ms",
            f"slowest: {slowest}",
        ),
        _row("bounds of any zoo entry", bounds_s[largest], "s", "< 1 s", f"slowest: {largest}"),
        _row("traffic curve of 30 buffers", curve_s, "s", "< 0.1 s", faster),
        _row("reduce of textbook attention", reduce_s, "s", "< 5 s", ""),
    ]


def _seconds(work: Callable[[], object]) -> float:
    return timed(work, 3)[1]


def _bound(cascade: Cascade) -> object:
    return bounds(cascade, _sizes(cascade), buffer="64 KiB")


def _row(what: str, value: float, unit: str, target: str, ratio: str) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "target": target, "ratio": ratio}


def _sizes(cascade: Cascade) -> dict[str, int]:
    """Return sizes of a usable scale: 1024 along sequences, 64 else."""
    parts = {p: w for w, names in cascade.splits.items() for p in names}
    return {r: 1024 if r in ("M", "P", "T") else 32 if r in parts else 64 for r in cascade.free_ranks}
