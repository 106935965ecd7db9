"""The spatial simulator: a cascade, its sizes, a chip and a mapping -> an estimate; one pure function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from ..identity import remembered
from ..result import EinsumEstimate, Estimate, MemoryEstimate
from .access import Usage
from .area import area_mm2, assumptions, static_power_w
from .energy import Action, actions
from .live import DENSE
from .lowering import Layout
from .nest import Count, Dimension, Sizes
from .planning import Plan, count_all, plan
from .schedule import Timetable, timetable
from .work import cycles, fill, greatest, operations, total, useful

__all__ = ["Plan", "assemble", "count_all", "plan", "simulate"]


def simulate(
    cascade: Cascade, sizes: Sizes | str, hardware: SpatialChip, mapping: SpatialMapping
) -> Estimate:
    """Return what a cascade costs on a chip under a mapping.

    Args:
        cascade: the algorithm.
        sizes: by rank, batch ranks included; ints, or NumPy arrays of many design points at once; or a text such as
            `BERT/64K`.
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
    settled = plan(cascade, sizes, hardware, mapping)
    usages = count_all(settled)
    acts = actions(hardware, settled.layout.nests, usages, settled.sizes, settled.live)
    return assemble(settled, usages, acts)


def assemble(settled: Plan, usages: Sequence[Usage], acts: Iterable[Action]) -> Estimate:
    """Return the estimate of a plan from its memory accesses and its actions."""
    chip, mapping, sizes = settled.chip, settled.mapping, settled.sizes
    live = settled.live
    per_einsum = {
        n.einsum: cycles(n, chip.arrays[n.array], sizes, live.get(n.einsum, DENSE))
        for n in settled.layout.nests
    }
    times = timetable(mapping.binding, per_einsum, sizes, where=mapping.name or "phases")
    moved = _moved_bytes(settled, usages)
    phases = _phase_seconds(settled, times, moved)
    latency = total(phases.values())
    if not (latency.all() if isinstance(latency, np.ndarray) else latency):
        raise MappingError(f"{settled.cascade}: there is nothing to do: a `where` removes every point")
    by_einsum, by_component = _energies(acts)
    areas = area_mm2(chip)
    rows = _einsum_rows(settled, per_einsum, latency, by_einsum, moved)
    memories = _memory_rows(settled, usages, latency, by_component, areas)
    parts = [p for ps in settled.layout.ranks.parts.values() for p in ps]
    return Estimate(
        cascade=settled.cascade,
        hardware=chip.name,
        mapping=mapping.name,
        latency_s=latency,
        energy_j=total(by_component.values()) + static_power_w(chip) * latency,
        traffic_bytes=total(b for (memory, _), b in moved.items() if memory == chip.outermost),
        area_mm2=sum(areas.values()),
        utilization={a: total(r.utilization for r in rows if r.array == a) for a in chip.arrays},
        bound_by=_bound(settled, per_einsum, memories, latency),
        einsums=rows,
        memories=memories,
        tiles={p: sizes[p] for p in parts},
        energy_by_component=by_component,
        area_by_component=areas,
        phases=phases,
        slots=times.slots,
        assumptions=(*assumptions(chip), *_assumptions(settled)),
    )


def _moved_bytes(settled: Plan, usages: Iterable[Usage]) -> dict[tuple[str, str], Count]:
    """Return the bytes read and written by (memory, Einsum), over all instances of the memory."""
    out: dict[tuple[str, str], Count] = {}
    word = settled.chip.word_bytes
    for u in usages:
        key = (u.memory, u.einsum)
        out[key] = out.get(key, 0) + (u.reads + u.updates + u.fills) * u.instances * word
    return out


def _phase_seconds(
    settled: Plan, times: Timetable, moved: Mapping[tuple[str, str], Count]
) -> dict[str, Count]:
    """Return the seconds of each phase: its steps, or the memory whose bandwidth takes longer."""
    chip = settled.chip
    phase_of = settled.layout.phase_of
    limited = {
        n: m.bandwidth_bytes_per_s
        for n, m in chip.memories.items()
        if isinstance(m.bandwidth_bytes_per_s, np.ndarray) or m.bandwidth_bytes_per_s < math.inf
    }
    needs: dict[str, dict[str, Count]] = {phase: {} for phase in times.phase_cycles}
    for (memory, einsum), amount in moved.items():
        if memory in limited:
            of = needs[phase_of[einsum]]
            of[memory] = of.get(memory, 0) + amount
    return {
        phase: greatest((steps / chip.clock_hz, *(b / limited[m] for m, b in needs[phase].items())))
        for phase, steps in times.phase_cycles.items()
    }


def _energies(acts: Iterable[Action]) -> tuple[dict[str, Count], dict[str, Count]]:
    """Return energy by Einsum and by component."""
    by_einsum: dict[str, Count] = {}
    by_component: dict[str, Count] = {}
    for a in acts:
        energy = a.number * a.each_j
        by_einsum[a.einsum] = by_einsum.get(a.einsum, 0.0) + energy
        by_component[a.component] = by_component.get(a.component, 0.0) + energy
    return by_einsum, by_component


def _einsum_rows(
    settled: Plan,
    per_einsum: Mapping[str, Count],
    latency: Count,
    energy: Mapping[str, Count],
    moved: Mapping[tuple[str, str], Count],
) -> tuple[EinsumEstimate, ...]:
    chip = settled.chip
    phase_of = settled.layout.phase_of
    out = []
    for nest in settled.layout.nests:
        seconds = per_einsum[nest.einsum] / chip.clock_hz
        live = settled.live.get(nest.einsum, DENSE)
        share = fill(nest, chip.arrays[nest.array], settled.sizes) * useful(nest, settled.sizes, live)
        out.append(
            EinsumEstimate(
                name=nest.einsum,
                array=nest.array,
                phase=phase_of[nest.einsum],
                cycles=per_einsum[nest.einsum],
                time_s=seconds,
                utilization=seconds * share / latency,
                energy_j=energy.get(nest.einsum, 0.0),
                traffic_bytes=moved.get((chip.outermost, nest.einsum), 0),
                operations=operations(nest, settled.sizes, live),
            )
        )
    return tuple(out)


def _memory_rows(
    settled: Plan,
    usages: Iterable[Usage],
    latency: Count,
    energy: Mapping[str, Count],
    areas: Mapping[str, float],
) -> tuple[MemoryEstimate, ...]:
    word, held = settled.chip.word_bytes, settled.held_bytes
    read: dict[str, Count] = {}
    written: dict[str, Count] = {}
    for u in usages:
        read[u.memory] = read.get(u.memory, 0) + u.reads * u.instances
        written[u.memory] = written.get(u.memory, 0) + (u.updates + u.fills) * u.instances
    return tuple(
        MemoryEstimate(
            name=name,
            read_bytes=read.get(name, 0) * word,
            write_bytes=written.get(name, 0) * word,
            held_bytes=held[name],
            capacity_bytes=memory.capacity_bytes,
            busy=(read.get(name, 0) + written.get(name, 0)) * word / memory.bandwidth_bytes_per_s / latency,
            energy_j=energy.get(name, 0.0),
            area_mm2=areas[name],
        )
        for name, memory in settled.chip.memories.items()
    )


def _bound(
    settled: Plan, per_einsum: Mapping[str, Count], memories: Iterable[MemoryEstimate], latency: Count
) -> Any:
    """Return the resource that is busy for the largest part of the time, by design point."""
    busy: dict[str, Count] = {}
    for nest in settled.layout.nests:
        share = per_einsum[nest.einsum] / settled.chip.clock_hz / latency
        busy[nest.array] = busy.get(nest.array, 0.0) + share
    busy.update({m.name: m.busy for m in memories})
    if any(isinstance(share, np.ndarray) for share in busy.values()):
        shape = np.broadcast_shapes(*(np.shape(share) for share in busy.values()))
        names = list(busy)
        stacked = np.stack([np.broadcast_to(busy[n], shape) for n in names])
        return np.array(names)[stacked.argmax(axis=0)]
    return max(busy, key=lambda name: busy[name])


def _assumptions(settled: Plan) -> tuple[str, ...]:
    layout = settled.layout
    out = [
        "memory traffic flows beside computation within a phase; start-up and drain of the pipeline are not counted"
    ]
    out += settled.notes
    if _shares_neighbours(layout):
        out.append(
            "where an index is a sum of variables, tiles are moved whole; what neighbours share is not reused"
        )
    meant = (
        (settled.mapping.nest.cascade, settled.cascade),
        (settled.mapping.binding.hardware, settled.chip.name),
    )
    out += [
        f"the mapping was written for {wanted}, not for {found}"
        for wanted, found in meant
        if wanted not in ("", found)
    ]
    arrays = settled.chip.arrays
    guessed = {(w.op, n.array) for n in layout.nests for w in n.work if w.op in arrays[n.array].assumed}
    if guessed:
        listed = ", ".join(f"{op} on {array}" for op, array in sorted(guessed))
        out.append(f"cost of {listed}: assumed, the source of the chip does not state it")
    return tuple(out)


@remembered(maxsize=512)
def _shares_neighbours(layout: Layout) -> bool:
    """Tell whether tiles of some tensor overlap, as those of a window do."""
    return any(_overlaps(d) for use in layout.uses for d in use.operand.dimensions if len(d.terms) > 1)


def _overlaps(dimension: Dimension) -> bool:
    """Tell whether two variables of an index reach the same element (`p + w`), unlike the digits of `m1*M0 + m0`."""
    return sum(1 for _, stride in dimension.terms if stride == 1) > 1
