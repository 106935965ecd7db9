"""A spatial chip as numbers: memories, arrays of processing elements, what an operation occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from mappings.schema import Unit


@dataclass(frozen=True, slots=True)
class Memory:
    """A level of storage.

    Attributes:
        capacity_bytes: of one instance.
        bandwidth_bytes_per_s: of all instances together; infinite where it is not modelled.
        row_bytes: what one access moves; energy is counted in rows.
        component: its rows in the table of energies and areas.
        of: the array whose every element has one instance; the empty string for a memory of the whole chip.
    """

    component: str
    capacity_bytes: Annotated[float, Unit("byte", "capacity")] = math.inf
    bandwidth_bytes_per_s: Annotated[float, Unit("byte/second", "bandwidth")] = math.inf
    row_bytes: Annotated[float, Unit("byte", "row")] = 0.0
    of: str = ""


@dataclass(frozen=True, slots=True)
class Array:
    """An array of equal processing elements.

    Attributes:
        shape: extent of each axis, outer axis first.
        ops: functional units that a scalar operation occupies, one after another, each for that many cycles.
    """

    shape: tuple[int, ...]
    ops: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class SpatialChip:
    """A chip of memories around arrays of processing elements; memories stand outermost first."""

    name: str
    clock_hz: Annotated[float, Unit("hertz", "clock")]
    word_bytes: Annotated[float, Unit("byte", "word")]
    memories: Mapping[str, Memory]
    arrays: Mapping[str, Array]
    summary: str = ""
    source: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
