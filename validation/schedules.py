"""Real schedules beside a bound: what the spatial simulator moves on the chips of its library."""

from __future__ import annotations

import math

from einsum_cascade.analysis.quantities import as_bytes
from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError
from einsum_cascade.sizes import parse_sizes
from simulator.hardware.model import SpatialChip
from simulator.hardware.reader import load_hardware, names
from simulator.spatial.default import default_mapping
from simulator.spatial.model import simulate


def on_chip_bytes(chip: SpatialChip) -> float:
    """Return all memory of a chip below its outermost one, registers of every element included; wires hold nothing."""
    total = 0.0
    for name, memory in chip.memories.items():
        if name != chip.outermost and math.isfinite(memory.capacity_bytes):
            total += memory.capacity_bytes * (chip.arrays[memory.of].elements if memory.per_element else 1)
    return total


def simulated_traffic(cascade: Cascade, sizes: str, word: str) -> dict[str, tuple[float, float]]:
    """Return on-chip bytes and traffic of a mapping made on the spot, for every chip with that word size it fits.

    Args:
        cascade: the algorithm.
        sizes: such as `BERT/64K`.
        word: bytes of an element, such as `2 B`; chips with other words are left out.
    """
    known = parse_sizes(sizes, cascade)
    found = {}
    for name in names("spatial"):
        chip = load_hardware(name)
        if chip.word_bytes != as_bytes(word, what="word"):
            continue
        try:
            estimate = simulate(cascade, known, chip, default_mapping(cascade, known, chip))
        except MappingError:
            continue  # this cascade cannot run on this chip: no point to show
        found[f"{name}, mapped"] = (on_chip_bytes(chip), float(estimate.traffic_bytes))
    return found
