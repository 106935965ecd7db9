"""The spatial simulator: a cascade, its sizes, a chip and a mapping -> an estimate; one pure function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from ..identity import remembered
from ..result import EinsumEstimate, Estimate, MemoryEstimate
from .area import area_mm2, assumptions, static_power_w
from .effort import Effort, efforts
from .energy import spent
from .lowering import Layout
from .nest import Count, Dimension, Sizes, SizeTable
from .planning import Moved, Place, Plan, count_all, gathered, moved_words, plan
from .schedule import Timetable, timetable
from .work import greatest, operations, total, useful

__all__ = ["Plan", "assemble", "count_all", "gathered", "plan", "simulate"]

_BESIDE = "memory traffic flows beside computation within a phase; start-up and drain of the pipeline are not counted"


def simulate(
    cascade: Cascade, sizes: Sizes | str, hardware: SpatialChip, mapping: SpatialMapping
) -> Estimate:
    """Return what a cascade costs on a chip under a mapping.

    Args:
        cascade: the algorithm.
        sizes: by rank, batch ranks included; ints, or NumPy arrays of many design points at once; or a text such as
            `BERT/64K,M0=128`. A tile of the cascade's own split (M0) wins over that of the mapping, unless it is the
            one that `parse_sizes` fills in where nobody states it.
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
    moved = moved_words(settled)
    work = efforts(settled.layout, hardware, settled.live)
    return assemble(settled, moved, spent(hardware, moved, work, settled.sizes))


def assemble(settled: Plan, moved: Mapping[Place, Moved], energies: Mapping[Place, Count]) -> Estimate:
    """Return the estimate of a plan.

    Args:
        settled: the plan.
        moved: words read and written, by (memory, Einsum).
        energies: J, by (component, Einsum).
    """
    chip, mapping, sizes = settled.chip, settled.mapping, settled.sizes
    work = efforts(settled.layout, chip, settled.live)
    per_einsum = {e.nest.einsum: e.cycles(sizes) for e in work}
    times = timetable(mapping.binding, per_einsum, sizes, where=mapping.name or "phases")
    moved_bytes = {place: (m[0] + m[1]) * chip.word_bytes for place, m in moved.items()}
    phases = _phase_seconds(settled, times, moved_bytes)
    latency = total(phases.values())
    if not (latency.all() if isinstance(latency, np.ndarray) else latency):
        raise MappingError(f"{settled.cascade}: there is nothing to do: a `where` removes every point")
    by_component, by_einsum = _sums(energies)
    areas = area_mm2(chip)
    rows = _einsum_rows(settled, work, per_einsum, latency, by_einsum, moved_bytes)
    memories = _memory_rows(settled, moved, latency, by_component, areas)
    return Estimate(
        cascade=settled.cascade,
        hardware=chip.name,
        mapping=mapping.name,
        latency_s=latency,
        energy_j=total(by_component.values()) + static_power_w(chip) * latency,
        traffic_bytes=total(r.traffic_bytes for r in rows),
        area_mm2=sum(areas.values()),
        utilization={a: total(r.utilization for r in rows if r.array == a) for a in chip.arrays},
        bound_by=_bound(rows, memories, latency),
        einsums=rows,
        memories=memories,
        tiles={p: sizes.full[p] for parts in settled.layout.ranks.parts.values() for p in parts},
        energy_by_component=by_component,
        area_by_component=areas,
        phases=phases,
        slots=times.slots,
        assumptions=_assumptions(settled),
    )


def _phase_seconds(settled: Plan, times: Timetable, moved_bytes: Mapping[Place, Count]) -> dict[str, Count]:
    """Return the seconds of each phase: its steps, or the memory whose bandwidth takes longer."""
    chip, phase_of = settled.chip, settled.layout.phase_of
    limited = _limited(chip)
    needs: dict[str, dict[str, Count]] = {phase: {} for phase in times.phase_cycles}
    for (memory, einsum), amount in moved_bytes.items():
        if memory in limited:
            of = needs[phase_of[einsum]]
            of[memory] = of.get(memory, 0) + amount
    return {
        phase: greatest((steps / chip.clock_hz, *(b / limited[m] for m, b in needs[phase].items())))
        for phase, steps in times.phase_cycles.items()
    }


@remembered(maxsize=64)
def _limited(chip: SpatialChip) -> Mapping[str, Count]:
    """Return the bandwidth of the memories that have one."""
    return {
        n: m.bandwidth_bytes_per_s
        for n, m in chip.memories.items()
        if isinstance(m.bandwidth_bytes_per_s, np.ndarray) or m.bandwidth_bytes_per_s < math.inf
    }


def _sums(counts: Mapping[Place, Count]) -> tuple[dict[str, Count], dict[str, Count]]:
    """Return the sums over the first words of places, and over the second ones."""
    firsts: dict[str, Count] = {}
    seconds: dict[str, Count] = {}
    for (first, second), number in counts.items():
        firsts[first] = firsts.get(first, 0.0) + number
        seconds[second] = seconds.get(second, 0.0) + number
    return firsts, seconds


def _einsum_rows(
    settled: Plan,
    work: Iterable[Effort],
    per_einsum: Mapping[str, Count],
    latency: Count,
    energy: Mapping[str, Count],
    moved_bytes: Mapping[Place, Count],
) -> tuple[EinsumEstimate, ...]:
    chip, sizes, phase_of = settled.chip, settled.sizes, settled.layout.phase_of
    out = []
    for effort in work:
        nest, live = effort.nest, effort.live
        name = nest.einsum
        seconds = per_einsum[name] / chip.clock_hz
        width = _width(nest.width, sizes if live.whole is None else sizes.across(live.whole.own))
        share = width / effort.elements * useful(nest, sizes, live)
        out.append(
            EinsumEstimate(
                name=name,
                array=nest.array,
                phase=phase_of[name],
                cycles=per_einsum[name],
                time_s=seconds,
                utilization=seconds * share / latency,
                energy_j=energy.get(name, 0.0),
                traffic_bytes=moved_bytes.get((chip.outermost, name), 0),
                operations=operations(nest, sizes, live),
            )
        )
    return tuple(out)


def _width(parts: tuple[str, ...], sizes: SizeTable) -> Count:
    """Return the elements of an array that are in use, on average over the steps."""
    if sizes.full is sizes:
        return sizes[parts]
    out: Count = 1.0
    for (
        part
    ) in parts:  # fractions become doubles before they are multiplied, as they are for many design points
        size = sizes[part]
        out = out * (size if isinstance(size, np.ndarray) else float(size))
    return out


def _memory_rows(
    settled: Plan,
    moved: Mapping[Place, Moved],
    latency: Count,
    energy: Mapping[str, Count],
    areas: Mapping[str, float],
) -> tuple[MemoryEstimate, ...]:
    word, held = settled.chip.word_bytes, settled.held_bytes
    read: dict[str, Count] = dict.fromkeys(settled.chip.memories, 0)
    written = dict(read)
    for (memory, _), words in moved.items():
        read[memory] = read[memory] + words[0]
        written[memory] = written[memory] + words[1]
    return tuple(
        MemoryEstimate(
            name=name,
            read_bytes=read[name] * word,
            write_bytes=written[name] * word,
            held_bytes=held[name],
            capacity_bytes=memory.capacity_bytes,
            busy=(read[name] + written[name]) * word / memory.bandwidth_bytes_per_s / latency,
            energy_j=energy.get(name, 0.0),
            area_mm2=areas[name],
        )
        for name, memory in settled.chip.memories.items()
    )


def _bound(rows: Iterable[EinsumEstimate], memories: Iterable[MemoryEstimate], latency: Count) -> Any:
    """Return the resource that is busy for the largest part of the time, by design point."""
    busy: dict[str, Count] = {}
    for row in rows:
        busy[row.array] = busy.get(row.array, 0.0) + row.time_s / latency
    busy.update({m.name: m.busy for m in memories})
    if any(isinstance(share, np.ndarray) for share in busy.values()):
        shape = np.broadcast_shapes(*(np.shape(share) for share in busy.values()))
        names = list(busy)
        stacked = np.stack([np.broadcast_to(busy[n], shape) for n in names])
        return np.array(names)[stacked.argmax(axis=0)]
    return max(busy, key=busy.__getitem__)


def _assumptions(settled: Plan) -> tuple[str, ...]:
    before, after = _stated(settled.layout, settled.chip, settled.mapping, settled.cascade)
    return (*assumptions(settled.chip), *before, *settled.notes, *after)


@remembered(maxsize=512)
def _stated(
    layout: Layout, chip: SpatialChip, mapping: SpatialMapping, cascade: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is assumed whatever the sizes are: what every estimate says, and what this one has to add."""
    out = []
    if _shares_neighbours(layout):
        out.append(
            "where an index is a sum of variables, tiles are moved whole; what neighbours share is not reused"
        )
    meant = ((mapping.nest.cascade, cascade), (mapping.binding.hardware, chip.name))
    out += [
        f"the mapping was written for {wanted}, not for {found}"
        for wanted, found in meant
        if wanted not in ("", found)
    ]
    arrays = chip.arrays
    guessed = {(w.op, n.array) for n in layout.nests for w in n.work if w.op in arrays[n.array].assumed}
    if guessed:
        listed = ", ".join(f"{op} on {array}" for op, array in sorted(guessed))
        out.append(f"cost of {listed}: assumed, the source of the chip does not state it")
    return (_BESIDE,), tuple(out)


def _shares_neighbours(layout: Layout) -> bool:
    """Tell whether tiles of some tensor overlap, as those of a window do."""
    return any(_overlaps(d) for use in layout.uses for d in use.operand.dimensions if len(d.terms) > 1)


def _overlaps(dimension: Dimension) -> bool:
    """Tell whether two variables of an index reach the same element (`p + w`), unlike the digits of `m1*M0 + m0`."""
    return not dimension.gathers and sum(1 for _, stride in dimension.terms if stride == 1) > 1
