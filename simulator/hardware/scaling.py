"""From 45 nm to other nodes: factors of energy and area between published figures.

Energy between 45 nm and 7 nm follows a power of the node, so that both ends are the published figures. Logic scales
with the geometric mean of eight operations; SRAM less the smaller it is. Wires and voltages are inside those figures,
which lie well above what scaling equations of single gates promise (0.35 against 0.09 at 7 nm).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

from einsum_cascade.errors import HardwareError

from .published import table

BASE_NM, FINEST_NM = 45, 7


def check_node(node_nm: float, what: str) -> None:
    """Refuse a node that no published figure reaches.

    Raises:
        HardwareError: the node is finer or coarser than the figures.
    """
    if not FINEST_NM <= node_nm <= BASE_NM:
        raise HardwareError(
            f"{what}: no energy at {node_nm} nm; the tables reach from {BASE_NM} to {FINEST_NM}"
        )


@functools.cache
def logic_energy(node_nm: float) -> float:
    """Return the energy of an operation at a node as a fraction of that at 45 nm.

    Source: Horowitz (ISSCC 2014) and Jouppi et al. (ISCA 2021), table 2: geometric mean of add and multiply of 8 and
    32 bits, and of 16- and 32-bit floating point.

    >>> round(logic_energy(7), 3), logic_energy(45)
    (0.348, 1.0)
    """
    ratios = [math.log(fine / coarse) for _, coarse, fine in _pairs(capacity=False)]
    return _between_ends(math.exp(sum(ratios) / len(ratios)), node_nm)


@functools.cache
def sram_energy(capacity_bytes: float, node_nm: float) -> float:
    """Return the energy of an access to an SRAM as a fraction of that at 45 nm.

    Source: Jouppi et al. (ISCA 2021), table 2: 8 KiB, 32 KiB and 1 MiB; in logarithms between them, the last beyond.

    >>> round(sram_energy(2**20, 7), 3), round(sram_energy(2**13, 7), 3)
    (0.14, 0.75)
    """
    points = [(capacity, fine / coarse) for capacity, coarse, fine in _pairs(capacity=True)]
    return _between_ends(_log_interpolated(points, capacity_bytes), node_nm)


@functools.cache
def area(node_nm: float) -> float:
    """Return an area at a node as a fraction of that at 45 nm.

    Source: Stillmaker and Baas, Scaling equations ..., Integration 58 (2017), table of areas; in logarithms between.

    >>> area(16), area(7)
    (0.19, 0.059)
    """
    points = sorted(
        (float(r["node_nm"]), float(r["value"])) for r in table("scaling") if r["quantity"] == "area"
    )
    return _log_interpolated(points, node_nm)


@functools.cache
def _pairs(*, capacity: bool) -> tuple[tuple[float, float, float], ...]:
    """Return (capacity, energy at the coarsest node, at the finest) of operations, or of memories."""
    found: dict[tuple[str, float], dict[float, float]] = {}
    for row in table("scaling"):
        if row["quantity"].startswith("energy") and bool(row["capacity_bytes"]) == capacity:
            key = (row["quantity"], float(row["capacity_bytes"] or 0))
            found.setdefault(key, {})[float(row["node_nm"])] = float(row["value"])
    return tuple(sorted((size, at[BASE_NM], at[FINEST_NM]) for (_, size), at in found.items()))


def _between_ends(finest: float, node_nm: float) -> float:
    return float(finest ** (math.log(BASE_NM / node_nm) / math.log(BASE_NM / FINEST_NM)))


def _log_interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    """Return the value at x between points in ascending order, in logarithms; the outermost one beyond them."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x == x1:
            return y1
        if x < x1:
            return float(y0 * (y1 / y0) ** (math.log(x / x0) / math.log(x1 / x0)))
    return points[-1][1]
