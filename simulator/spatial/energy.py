"""Energy as a sum of counted actions, each with its energy from the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from einsum_cascade.errors import HardwareError

from ..hardware.cost import Cost, cost
from ..hardware.model import Memory, SpatialChip
from ..identity import remembered
from .access import Usage
from .effort import Effort, unit_cost
from .live import DENSE, Live
from .nest import Count, Nest, SizeTable
from .work import unit_operations

READ, WRITE, OPERATE = "read", "write", "operate"


class Action(NamedTuple):
    """Actions of one kind that one Einsum causes in one component, over the whole run.

    Attributes:
        component: a memory or an array of the chip.
        subject: the tensor that is moved, or the functional unit that works.
        number: rows read or written, or cycles of a unit, over all instances.
        each_j: energy of one.
    """

    einsum: str
    component: str
    action: str
    subject: str
    number: Count
    each_j: Count

    @property
    def energy_j(self) -> Count:
        """Energy of all of them."""
        return self.number * self.each_j


@remembered(maxsize=64)
def row_costs(chip: SpatialChip) -> Mapping[str, tuple[Cost, Count]]:
    """Return, by memory, what a row costs and how many rows a word is."""
    out: dict[str, tuple[Cost, Count]] = {}
    for name, memory in chip.memories.items():
        try:
            out[name] = memory_cost(memory, chip), chip.word_bytes / memory.row_bytes
        except HardwareError as e:
            raise HardwareError(f"{chip.name}: memories.{memory.part_of or name}: {e}") from None
    return out


def memory_cost(memory: Memory, chip: SpatialChip) -> Cost:
    """Return energy per row and area of one instance of a memory."""
    if memory.part_of:
        return replace(memory_cost(chip.memories[memory.part_of], chip), area_mm2=0.0, leakage_w=0.0)
    rows = memory.capacity_bytes / memory.row_bytes
    if np.ndim(rows):
        return _costs(memory, rows, chip)
    return _cost(memory, memory.row_bytes * 8, rows, chip)


def _cost(memory: Memory, row_bits: float, rows: float, chip: SpatialChip) -> Cost:
    return cost(
        memory.component,
        row_bits=row_bits,
        rows=rows,
        kind=memory.kind,
        node_nm=chip.node_nm,
        library=chip.library,
    )


def _costs(memory: Memory, rows: Any, chip: SpatialChip) -> Cost:
    """Return the costs of a memory at many design points: each distinct one is looked up once."""
    row_bits = np.broadcast_to(memory.row_bytes * 8, np.shape(rows))
    # One complex number a pair: sorting those is much faster than sorting rows.
    pairs = np.empty(np.shape(rows), dtype=np.complex128)
    pairs.real, pairs.imag = row_bits, rows
    distinct, which = np.unique(pairs, return_inverse=True)
    found = [_cost(memory, float(d.real), float(d.imag), chip) for d in distinct]
    each: tuple[Any, ...] = tuple(np.array([(c.read_j, c.write_j, c.area_mm2, c.leakage_w) for c in found]).T)
    read, write, area, leakage = (values[which] for values in each)
    return Cost(read, write, area, next((c.assumption for c in found if c.assumption), ""), leakage)


def spent(
    chip: SpatialChip,
    moved: Mapping[tuple[str, str], tuple[Count, Count]],
    work: Iterable[Effort],
    sizes: SizeTable,
) -> dict[tuple[str, str], Count]:
    """Return the energy of a run by (component, Einsum): the sums of `actions`, at less cost.

    Args:
        chip: its energies.
        moved: words read and written, by (memory, Einsum).
        work: what the functional units do.
        sizes: of all loops.
    """
    costs = row_costs(chip)
    out: dict[tuple[str, str], Count] = {}
    for place, (read, written) in moved.items():
        each, rows_per_word = costs[place[0]]
        out[place] = (read * each.read_j + written * each.write_j) * rows_per_word
    for effort in work:
        out[effort.nest.array, effort.nest.einsum] = effort.energy_j(sizes)
    return out


def summed(acts: Iterable[Action]) -> dict[tuple[str, str], Count]:
    """Return the energy of some actions by (component, Einsum)."""
    out: dict[tuple[str, str], Count] = {}
    for a in acts:
        place = (a.component, a.einsum)
        out[place] = out.get(place, 0.0) + a.energy_j
    return out


def actions(
    chip: SpatialChip,
    nests: Sequence[Nest],
    usages: Iterable[Usage],
    sizes: SizeTable,
    live: Mapping[str, Live] = MappingProxyType({}),
) -> list[Action]:
    """Return every action of a run.

    Words are counted in rows of the memory; a write is an update or a fill. Every instance of a memory counts.

    Args:
        chip: its energies.
        nests: what the functional units do.
        usages: what the memories do.
        sizes: of all loops.
        live: the masks of the Einsums that have one.
    """
    costs = row_costs(chip)
    out = []
    for u in usages:
        each, rows_per_word = costs[u.memory]
        tensor, written = u.operand.tensor, u.updates + u.fills
        rows = u.instances * rows_per_word
        if _some(u.reads):
            out.append(Action(u.einsum, u.memory, READ, tensor, u.reads * rows, each.read_j))
        if _some(written):
            out.append(Action(u.einsum, u.memory, WRITE, tensor, written * rows, each.write_j))
    for nest in nests:
        array = chip.arrays[nest.array]
        for unit, number in unit_operations(nest, array, sizes, live.get(nest.einsum, DENSE)).items():
            each_j = unit_cost(unit, nest.array, chip).read_j
            out.append(Action(nest.einsum, nest.array, OPERATE, unit, number, each_j))
    return out


def _some(number: Count) -> bool:
    """Tell whether a count is anything but the number zero; an array is not looked into."""
    return not isinstance(number, int) or number != 0
