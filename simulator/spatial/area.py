"""Area and static power of a chip from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..hardware.cost import Cost
from ..hardware.model import Memory, SpatialChip
from ..identity import remembered
from .effort import unit_cost
from .energy import row_costs
from .nest import Count

_TABLED_BYTES = 2  # a word of the operands whose units the tables have


@remembered(maxsize=64)
def area_mm2(chip: SpatialChip) -> Mapping[str, float]:
    """Return the area of every memory (all its instances, and its interface) and of every array (its units), in mm^2.

    >>> from ..hardware.reader import load_hardware
    >>> round(area_mm2(load_hardware("fusemax"))["GlobalBuffer"], 4)
    84.2014
    """
    out: dict[str, Any] = {}
    for name, memory in chip.memories.items():
        out[name] = row_costs(chip)[name][0].area_mm2 * _instances(memory, chip)
        if memory.interface_area_mm2_s_per_byte:
            out[name] = out[name] + memory.interface_area_mm2_s_per_byte * memory.bandwidth_bytes_per_s
    for name, array in chip.arrays.items():
        out[name] = sum(c.area_mm2 for c in _units(name, chip)) * array.elements
    return out


@remembered(maxsize=64)
def static_power_w(chip: SpatialChip) -> Count:
    """Return the power that flows whether or not anything happens: stated, of interfaces, and leakage if it counts.

    >>> from ..hardware.reader import load_hardware
    >>> static_power_w(load_hardware("fusemax", static_power="10 W"))
    10.0
    """
    power: Count = chip.static_power_w
    for name, memory in chip.memories.items():
        if memory.interface_j_per_byte:
            power = power + memory.interface_j_per_byte * memory.bandwidth_bytes_per_s
        if chip.leakage:
            power = power + row_costs(chip)[name][0].leakage_w * _instances(memory, chip)
    return power


def _instances(memory: Memory, chip: SpatialChip) -> int:
    return chip.arrays[memory.of].elements if memory.per_element else 1


def _units(array: str, chip: SpatialChip) -> list[Cost]:
    return [unit_cost(unit, array, chip) for unit in chip.arrays[array].units]


@remembered(maxsize=64)
def assumptions(chip: SpatialChip) -> tuple[str, ...]:
    """Return what was assumed about energies and areas of a chip."""
    out = [each.assumption for each, _ in row_costs(chip).values()]
    out += [c.assumption for array in chip.arrays for c in _units(array, chip)]
    free = [name for name, m in chip.memories.items() if m.component == "wires"]
    if free:
        out.append(f"{', '.join(free)}: wires, without energy or area")
    out.append(f"energies and areas at {chip.node_nm} nm")
    if np.any(chip.word_bytes != _TABLED_BYTES):
        out.append("functional units: energy and area are those of 16-bit words, whatever the chip's word is")
    if chip.leakage:
        out.append("leakage: that of SRAM alone")
    elif not np.any(chip.static_power_w):
        out.append("no leakage: the chip states no static power")
    return tuple(dict.fromkeys(filter(None, out)))
