"""The spatial simulator: a cascade, its sizes, a chip and a mapping -> an estimate; one pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from ..result import EinsumEstimate, Estimate, MemoryEstimate
from .access import Usage, count
from .area import area_mm2, assumptions
from .energy import Action, actions, by_component, total_j
from .lowering import Extents, lower
from .nest import Count, Dimension, Nest
from .schedule import Timetable, timetable
from .tiles import extents, occupancy_words
from .work import cycles, fill, greatest, operations


@dataclass(frozen=True, slots=True)
class Plan:
    """A mapped cascade before its cost is counted: what an analysis, or a correction of one, starts from."""

    cascade: str
    chip: SpatialChip
    mapping: SpatialMapping
    extents: Extents
    nests: tuple[Nest, ...]


def simulate(
    cascade: Cascade, sizes: Mapping[str, Count], hardware: SpatialChip, mapping: SpatialMapping
) -> Estimate:
    """Return what a cascade costs on a chip under a mapping.

    Args:
        cascade: the algorithm.
        sizes: by rank, batch ranks included; ints, or NumPy arrays of many design points at once.
        hardware: a spatial chip.
        mapping: loops, what is kept where, and the schedule.

    Raises:
        MappingError: the mapping does not fit the cascade or the chip; a tile does not fit its memory.

    >>> from einsum_cascade import zoo
    >>> import mappings
    >>> from simulator import load_hardware
    >>> sizes = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}
    >>> found = simulate(zoo.load("attention_1pass"), sizes, load_hardware("fusemax"), mappings.load("fusemax"))
    >>> round(found.latency_s, 4), found.bound_by
    (7.4025, 'PE1D')
    """
    return evaluate(plan(cascade, sizes, hardware, mapping))


def plan(
    cascade: Cascade, sizes: Mapping[str, Count], hardware: SpatialChip, mapping: SpatialMapping
) -> Plan:
    """Return the nests of a cascade with all sizes settled, checked against the chip's capacities."""
    if not isinstance(hardware, SpatialChip):
        raise MappingError(f"simulate needs a spatial chip; {getattr(hardware, 'name', hardware)} is none")
    if not isinstance(mapping, SpatialMapping):
        raise MappingError(f"simulate needs a spatial mapping; {getattr(mapping, 'name', mapping)} is none")
    found = extents(cascade, sizes, hardware, mapping)
    nests = lower(cascade, found, hardware, mapping)
    settled = Plan(cascade.name, hardware, mapping, found, nests)
    _check_capacity(settled)
    return settled


def held_bytes(settled: Plan) -> dict[str, Count]:
    """Return the bytes that one instance of each memory holds at the fullest time."""
    return {
        memory: occupancy_words(settled.nests, memory, settled.chip, settled.mapping)
        * settled.chip.word_bytes
        for memory in settled.chip.memories
    }


def _check_capacity(settled: Plan) -> None:
    chip = settled.chip
    for memory, held in held_bytes(settled).items():
        capacity = chip.memories[memory].capacity_bytes
        if memory != chip.outermost and np.any(held > capacity):
            raise MappingError(
                f"{settled.mapping.name or 'mapping'}: the tiles kept in {memory} take {np.max(held):,.0f} bytes, "
                f"{memory} of {chip.name} holds {capacity:,.0f}; make a tile smaller"
            )


def evaluate(settled: Plan) -> Estimate:
    """Return the cost of a plan."""
    usages = tuple(u for nest in settled.nests for u in count(nest))
    return assemble(settled, usages, actions(settled.chip, settled.nests, usages))


def assemble(settled: Plan, usages: Sequence[Usage], acts: Sequence[Action]) -> Estimate:
    """Return the estimate of a plan from its memory accesses and its actions."""
    chip, mapping = settled.chip, settled.mapping
    per_einsum = {n.einsum: cycles(n, chip.arrays[n.array]) for n in settled.nests}
    times = timetable(mapping.binding, per_einsum, settled.extents.sizes, where=mapping.name or "phases")
    moved = moved_bytes(settled, usages)
    phases = phase_seconds(settled, times, moved)
    latency = _total(phases.values())
    energy_j = by_component(acts)
    areas = area_mm2(chip)
    rows = _einsum_rows(settled, per_einsum, latency, acts, moved)
    busy = {a: _total(r.utilization for r in rows if r.array == a) for a in chip.arrays}
    memories = _memory_rows(settled, usages, latency, energy_j, areas)
    return Estimate(
        cascade=settled.cascade,
        hardware=chip.name,
        mapping=mapping.name,
        latency_s=latency,
        energy_j=total_j(acts) + chip.static_power_w * latency,
        traffic_bytes=_total(b for (memory, _), b in moved.items() if memory == chip.outermost),
        area_mm2=sum(areas.values()),
        utilization=busy,
        bound_by=_bound(settled, per_einsum, phases, memories, latency),
        einsums=rows,
        memories=memories,
        tiles={p: settled.extents.sizes[p] for parts in settled.extents.parts.values() for p in parts},
        energy_by_component=energy_j,
        area_by_component=areas,
        phases=phases,
        slots=times.slots,
        assumptions=(*assumptions(chip), *_assumptions(settled)),
    )


def moved_bytes(settled: Plan, usages: Sequence[Usage]) -> dict[tuple[str, str], Count]:
    """Return the bytes read and written by (memory, Einsum), over all instances of the memory."""
    out: dict[tuple[str, str], Count] = {}
    for u in usages:
        words = (u.reads + u.updates + u.fills) * u.instances
        key = (u.memory, u.einsum)
        out[key] = out.get(key, 0) + words * settled.chip.word_bytes
    return out


def phase_seconds(
    settled: Plan, times: Timetable, moved: Mapping[tuple[str, str], Count]
) -> dict[str, Count]:
    """Return the seconds of each phase: its steps, or the memory whose bandwidth takes longer."""
    chip = settled.chip
    phase_of = {einsum: phase for einsum, _, phase in settled.mapping.binding.placements()}
    out = {}
    for phase, steps in times.phase_cycles.items():
        needs = [steps / chip.clock_hz]
        for name, memory in chip.memories.items():
            if np.isfinite(memory.bandwidth_bytes_per_s):
                own = (b for (m, e), b in moved.items() if m == name and phase_of[e] == phase)
                needs.append(_total(own) / memory.bandwidth_bytes_per_s)
        out[phase] = greatest(needs)
    return out


def _total(values: Any) -> Count:
    total: Count = 0
    for v in values:
        total = total + v
    return total


def _einsum_rows(
    settled: Plan,
    per_einsum: Mapping[str, Count],
    latency: Count,
    acts: Sequence[Action],
    moved: Mapping[tuple[str, str], Count],
) -> tuple[EinsumEstimate, ...]:
    chip = settled.chip
    energy: dict[str, Count] = {}
    for a in acts:
        energy[a.einsum] = energy.get(a.einsum, 0.0) + a.energy_j
    phase_of = {einsum: phase for einsum, _, phase in settled.mapping.binding.placements()}
    out = []
    for nest in settled.nests:
        array = chip.arrays[nest.array]
        seconds = per_einsum[nest.einsum] / chip.clock_hz
        out.append(
            EinsumEstimate(
                name=nest.einsum,
                array=nest.array,
                phase=phase_of[nest.einsum],
                cycles=per_einsum[nest.einsum],
                time_s=seconds,
                utilization=seconds * fill(nest, array) / latency,
                energy_j=energy.get(nest.einsum, 0.0),
                traffic_bytes=moved.get((chip.outermost, nest.einsum), 0),
                operations=operations(nest),
            )
        )
    return tuple(out)


def _memory_rows(
    settled: Plan,
    usages: Sequence[Usage],
    latency: Count,
    energy_j: Mapping[str, Count],
    areas: Mapping[str, float],
) -> tuple[MemoryEstimate, ...]:
    word = settled.chip.word_bytes
    held = held_bytes(settled)
    out = []
    for name, memory in settled.chip.memories.items():
        own = [u for u in usages if u.memory == name]
        read = _total(u.reads * u.instances for u in own) * word
        written = _total((u.updates + u.fills) * u.instances for u in own) * word
        out.append(
            MemoryEstimate(
                name=name,
                read_bytes=read,
                write_bytes=written,
                held_bytes=held[name] if name != settled.chip.outermost else _footprint(own) * word,
                capacity_bytes=memory.capacity_bytes,
                busy=(read + written) / memory.bandwidth_bytes_per_s / latency,
                energy_j=energy_j.get(name, 0.0),
                area_mm2=areas[name],
            )
        )
    return tuple(out)


def _footprint(usages: Sequence[Usage]) -> Count:
    tiles: dict[str, Count] = {}
    for u in usages:
        tiles[u.operand.tensor] = greatest((tiles.get(u.operand.tensor, 0), u.tile))
    return _total(tiles.values())


def _bound(
    settled: Plan,
    per_einsum: Mapping[str, Count],
    phases: Mapping[str, Count],
    memories: Sequence[MemoryEstimate],
    latency: Count,
) -> str:
    """Return the resource that is busy for most of the time (of the last design point, where there are many)."""
    busy: dict[str, float] = {}
    for nest in settled.nests:
        share = per_einsum[nest.einsum] / settled.chip.clock_hz / latency
        busy[nest.array] = busy.get(nest.array, 0.0) + float(np.ravel(share)[-1])
    for m in memories:
        busy[m.name] = float(np.ravel(m.busy)[-1])
    return max(busy, key=lambda name: busy[name])


def _assumptions(settled: Plan) -> tuple[str, ...]:
    out = [
        "memory traffic flows beside computation within a phase; start-up and drain of the pipeline are not counted"
    ]
    if any(
        len(d.terms) > 1 and _overlaps(d) for n in settled.nests for o in n.operands for d in o.dimensions
    ):
        out.append(
            "where an index is a sum of variables, tiles are moved whole; what neighbours share is not reused"
        )
    return tuple(out)


def _overlaps(dimension: Dimension) -> bool:
    """Tell whether two variables of an index reach the same element (`p + w`), unlike the digits of `m1*M0 + m0`."""
    return sum(1 for _, stride in dimension.terms if np.all(stride == 1)) > 1
