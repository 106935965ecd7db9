"""Energy as a sum of counted actions, each with its energy from the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..hardware.cost import Cost, cost
from ..hardware.model import Memory, SpatialChip
from .access import Usage
from .nest import Count, Nest
from .work import unit_operations

READ, WRITE, OPERATE = "read", "write", "operate"


@dataclass(frozen=True, slots=True)
class Action:
    """Actions of one kind that one Einsum causes in one component, over the whole run.

    Attributes:
        component: a memory or an array of the chip.
        unit: the functional unit, for an array.
        number: how many: rows read or written, cycles of a unit.
        each_j: energy of one.
        instances: instances of the component that do them; `number` counts all of them together.
    """

    einsum: str
    component: str
    action: str
    unit: str
    number: Count
    each_j: float
    instances: Count

    @property
    def energy_j(self) -> Count:
        """Energy of all of them."""
        return self.number * self.each_j


def memory_cost(memory: Memory, chip: SpatialChip) -> Cost:
    """Return energy per row and area of one instance of a memory."""
    if memory.part_of:
        return replace(memory_cost(chip.memories[memory.part_of], chip), area_mm2=0.0)
    rows = memory.capacity_bytes / memory.row_bytes
    return cost(
        memory.component, row_bits=memory.row_bytes * 8, rows=rows, kind=memory.kind, node_nm=chip.node_nm
    )


def actions(chip: SpatialChip, nests: Sequence[Nest], usages: Iterable[Usage]) -> tuple[Action, ...]:
    """Return every action of a run.

    Words are counted in rows of the memory; a write is an update or a fill. Every instance of a memory counts.
    """
    costs = {name: memory_cost(memory, chip) for name, memory in chip.memories.items()}
    words_per_row = {n: m.row_bytes / chip.word_bytes for n, m in chip.memories.items()}
    out = []
    for u in usages:
        per_row = words_per_row[u.memory]
        each = costs[u.memory]
        for action, words, each_j in (
            (READ, u.reads, each.read_j),
            (WRITE, u.updates + u.fills, each.write_j),
        ):
            out.append(
                Action(
                    u.einsum,
                    u.memory,
                    action,
                    u.operand.tensor,
                    words * u.instances / per_row,
                    each_j,
                    u.instances,
                )
            )
    for nest in nests:
        for unit, number in unit_operations(nest, chip.arrays[nest.array]).items():
            each_j = cost(unit, node_nm=chip.node_nm).read_j
            out.append(Action(nest.einsum, nest.array, OPERATE, unit, number, each_j, 1))
    return tuple(out)


def total_j(found: Iterable[Action]) -> Count:
    """Return the energy of some actions."""
    total: Count = 0.0
    for action in found:
        total = total + action.energy_j
    return total


def by_component(found: Iterable[Action]) -> Mapping[str, Count]:
    """Return energy by memory or array."""
    out: dict[str, Count] = {}
    for action in found:
        out[action.component] = out.get(action.component, 0.0) + action.energy_j
    return out
