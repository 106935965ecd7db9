"""What the closed form of a schedule leaves out, filling and draining the pipeline of tiles, by an event-driven run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from .live import DENSE
from .nest import Sizes
from .pipeline import run
from .planning import plan
from .work import cycles


@dataclass(frozen=True, slots=True)
class StartUp:
    """The first phase of a mapping, run tile by tile.

    Attributes:
        tiles: passes of the longest Einsum: settings of its loops at the outermost memory.
        steady_over_closed: length of a pass once the pipeline is full, over what the closed form says; below 1 where
            the stated steps keep arrays apart that could work side by side, above 1 where so few streams (four) are
            in flight that an array waits for results although the stated steps would keep it busy.
        fill_s: what filling and draining add, at most: within a tile the pipeline may work in smaller steps.
    """

    phase: str
    tiles: int
    steady_over_closed: float
    fill_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {
            "phase": self.phase,
            "tiles": self.tiles,
            "steady_over_closed": self.steady_over_closed,
            "fill_s": self.fill_s,
        }


def start_up(cascade: Cascade, sizes: Sizes | str, hardware: SpatialChip, mapping: SpatialMapping) -> StartUp:
    """Return what filling and draining the pipeline of the first phase adds to its latency.

    Args:
        cascade: the algorithm.
        sizes: of one design point, as for `simulate`.
        hardware: a spatial chip.
        mapping: loops, what is kept where, and the schedule.

    Raises:
        MappingError: see `simulate`; sizes of many design points at once.

    >>> from einsum_cascade import zoo
    >>> import mappings
    >>> from simulator import load_hardware
    >>> sizes = {"B": 1, "H": 12, "E": 64, "F": 64, "P": 4096, "M": 4096}
    >>> found = start_up(zoo.load("attention_1pass"), sizes, load_hardware("fusemax"), mappings.load("fusemax"))
    >>> found.tiles, round(found.steady_over_closed, 6)
    (192, 1.0)
    """
    settled = plan(cascade, sizes, hardware, mapping)
    if any(np.ndim(size) for size in settled.sizes.values()):
        raise MappingError("the start-up of a pipeline is computed for one design point at a time")
    phase = next(iter(mapping.binding.phases))
    nests = [n for n in settled.layout.nests if settled.layout.phase_of[n.einsum] == phase]
    lengths = [
        float(cycles(n, hardware.arrays[n.array], settled.sizes, settled.live.get(n.einsum, DENSE)))
        for n in nests
    ]
    longest = max(range(len(nests)), key=lambda i: lengths[i])
    tiles = int(settled.sizes[tuple(loop.part for loop in nests[longest].levels[0].time)])
    found = run(settled, cascade)
    unit_s = lengths[longest] / tiles / hardware.clock_hz
    return StartUp(phase, tiles, found.steady / found.closed, max(0.0, found.fill) * unit_s)
