"""What each Einsum asks of its array: worked out once for a layout and a chip, then evaluated for any sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from einsum_cascade.errors import HardwareError

from ..hardware.cost import Cost, cost
from ..hardware.model import SpatialChip
from ..identity import remembered
from .live import DENSE, Live, Mask, settings
from .lowering import Layout
from .nest import Count, Nest, SizeTable
from .work import Pace, charges, paced, paces


@dataclass(frozen=True, slots=True)
class Effort:
    """The work of one Einsum, sizes left open.

    Attributes:
        elements: of its array.
        paces: what its cycles are a sum of.
        energies: what the energy of the functional units is a sum of: joules at every setting of some temporal loops
            that leaves a point, in every element of some fan-out.
    """

    nest: Nest
    elements: int
    live: Live
    paces: tuple[Pace, ...]
    energies: tuple[tuple[Mask | None, tuple[str, ...], tuple[str, ...], float], ...]

    def cycles(self, sizes: SizeTable) -> Count:
        """Return the cycles that the Einsum keeps its array."""
        return paced(self.paces, sizes)

    def energy_j(self, sizes: SizeTable) -> Count:
        """Return the energy of the functional units."""
        out: Count = 0.0
        for mask, time, space, joules in self.energies:
            out = out + settings(mask, time, sizes) * sizes.across(space)[space] * joules
        return out


def efforts(layout: Layout, chip: SpatialChip, live: Mapping[str, Live]) -> tuple[Effort, ...]:
    """Return the work of every Einsum, in the order of the nests.

    Args:
        layout: the nests.
        chip: what an operation takes.
        live: the masks of the Einsums that have one.
    """
    if live:
        return tuple(effort(n, chip, live.get(n.einsum, DENSE)) for n in layout.nests)
    return _dense(layout, chip)


@remembered(maxsize=64)
def _dense(layout: Layout, chip: SpatialChip) -> tuple[Effort, ...]:
    return tuple(effort(n, chip) for n in layout.nests)


def effort(nest: Nest, chip: SpatialChip, live: Live = DENSE) -> Effort:
    """Return the work of one Einsum."""
    array = chip.arrays[nest.array]
    joules: dict[tuple[Mask | None, tuple[str, ...], tuple[str, ...]], float] = {}
    for unit, mask, time, space, each in charges(nest, array, live):
        key = (mask, time, space)
        each_j = unit_cost(unit, nest.array, chip).read_j
        joules[key] = joules.get(key, 0.0) + each * each_j
    energies = tuple((*key, each_j) for key, each_j in joules.items())
    return Effort(nest, array.elements, live, paces(nest, array, live), energies)


def unit_cost(unit: str, array: str, chip: SpatialChip) -> Cost:
    """Return energy and area of a functional unit of an array.

    Raises:
        HardwareError: with the place in the chip; an unknown unit, node or library.
    """
    try:
        return cost(unit, node_nm=chip.node_nm, library=chip.library)
    except HardwareError as e:
        raise HardwareError(f"{chip.name}: arrays.{array}: {e}") from None
