"""Area of a chip from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..hardware.cost import cost
from ..hardware.model import SpatialChip
from ..identity import remembered
from .energy import row_costs


@remembered(maxsize=64)
def area_mm2(chip: SpatialChip) -> Mapping[str, float]:
    """Return the area of every memory (all its instances) and of every array (its functional units), in mm^2.

    >>> from ..hardware.reader import load_hardware
    >>> round(area_mm2(load_hardware("fusemax"))["GlobalBuffer"], 4)
    84.2014
    """
    out: dict[str, Any] = {}
    for name, memory in chip.memories.items():
        instances = chip.arrays[memory.of].elements if memory.per_element else 1
        out[name] = row_costs(chip)[name][0].area_mm2 * instances
    for name, array in chip.arrays.items():
        out[name] = sum(cost(unit, node_nm=chip.node_nm).area_mm2 for unit in array.units) * array.elements
    return out


@remembered(maxsize=64)
def assumptions(chip: SpatialChip) -> tuple[str, ...]:
    """Return what was assumed about energies and areas of a chip."""
    out = [each.assumption for each, _ in row_costs(chip).values()]
    free = [name for name, m in chip.memories.items() if m.component == "wires"]
    if free:
        out.append(f"{', '.join(free)}: wires, without energy or area")
    out.append(f"energies and areas at {chip.node_nm} nm")
    if not np.any(chip.static_power_w):
        out.append("no leakage: the chip states no static power")
    return tuple(dict.fromkeys(filter(None, out)))
