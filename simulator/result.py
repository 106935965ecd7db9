"""What a prediction is: numbers with their units, what bounds them, and what was assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EinsumEstimate:
    """One Einsum of an estimate.

    Attributes:
        utilization: useful cycles of the whole array's elements, as a fraction of the latency; what an element computes
            at a point that a `where` removes is of no use.
        operations: scalar operations by cost class, at points that exist.
        traffic_bytes: to and from the outermost memory.
    """

    name: str
    array: str
    phase: str
    cycles: Any
    time_s: Any
    utilization: Any
    energy_j: Any
    traffic_bytes: Any
    operations: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """One memory of an estimate.

    Attributes:
        read_bytes, write_bytes: over all instances.
        held_bytes: of one instance, at the fullest time.
        busy: time that its bandwidth asks for, as a fraction of the latency.
    """

    name: str
    read_bytes: Any
    write_bytes: Any
    held_bytes: Any
    capacity_bytes: float
    busy: Any
    energy_j: Any
    area_mm2: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A prediction of one cascade on one machine under one mapping.

    Attributes:
        traffic_bytes: read from and written to the outermost memory.
        utilization: by array: useful cycles of all its elements as a fraction of the latency.
        bound_by: the array or memory whose busy time is nearest to the latency.
        tiles: sizes of the parts of split ranks.
        slots: when each Einsum runs (see simulator/spatial/schedule.py).
        assumptions: what the numbers rest on, as text.
    """

    cascade: str
    hardware: str
    mapping: str
    latency_s: Any
    energy_j: Any
    traffic_bytes: Any
    area_mm2: float
    utilization: Mapping[str, Any]
    bound_by: str
    einsums: tuple[EinsumEstimate, ...]
    memories: tuple[MemoryEstimate, ...]
    tiles: Mapping[str, Any]
    energy_by_component: Mapping[str, Any]
    area_by_component: Mapping[str, float]
    phases: Mapping[str, Any]
    slots: tuple[Any, ...]
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain data, in the shape of `cascade simulate --json`."""
        return {
            "cascade": self.cascade,
            "hardware": self.hardware,
            "mapping": self.mapping,
            "latency_s": self.latency_s,
            "energy_j": self.energy_j,
            "traffic_bytes": self.traffic_bytes,
            "area_mm2": self.area_mm2,
            "utilization": dict(self.utilization),
            "bound_by": self.bound_by,
            "einsums": [_fields(e) for e in self.einsums],
            "memories": [_fields(m) for m in self.memories],
            "tiles": dict(self.tiles),
            "energy_by_component_j": dict(self.energy_by_component),
            "area_by_component_mm2": dict(self.area_by_component),
            "phases_s": dict(self.phases),
            "assumptions": list(self.assumptions),
        }

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (quantity, value, unit) of the totals."""
        yield "latency", self.latency_s, "s"
        yield "energy", self.energy_j, "J"
        yield "traffic", self.traffic_bytes, "B"
        yield "area", self.area_mm2, "mm^2"
        for array, value in self.utilization.items():
            yield f"utilization of {array}", value, "1"
        yield "bound by", self.bound_by, ""

    def einsum_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield Einsum, array, phase, cycles, time, utilization, energy and traffic, in the order of the schedule."""
        for e in self.einsums:
            yield e.name, e.array, e.phase, e.cycles, e.time_s, e.utilization, e.energy_j, e.traffic_bytes

    def __str__(self) -> str:
        head = f"{self.cascade} on {self.hardware}, mapped by {self.mapping}"
        lines = [f"  {name:<24} {_text(value):>12} {unit}" for name, value, unit in self.rows()]
        notes = [f"  assumed: {a}" for a in self.assumptions]
        return "\n".join([head, *lines, *notes])

    def _repr_html_(self) -> str:
        from html import escape

        def body(rows: Iterator[tuple[Any, ...]]) -> str:
            cells = ("".join(f"<td>{escape(_text(v))}</td>" for v in row) for row in rows)
            return "".join(f"<tr>{c}</tr>" for c in cells)

        names = ("Einsum", "array", "phase", "cycles", "time [s]", "utilization", "energy [J]", "traffic [B]")
        head = "".join(f"<th>{n}</th>" for n in names)
        title = escape(f"{self.cascade} on {self.hardware}, mapped by {self.mapping}")
        notes = "".join(f"<li>{escape(a)}</li>" for a in self.assumptions)
        return (
            f"<b>{title}</b><table>{body(self.rows())}</table>"
            f"<table><tr>{head}</tr>{body(self.einsum_rows())}</table><ul>{notes}</ul>"
        )


def _fields(row: EinsumEstimate | MemoryEstimate) -> dict[str, Any]:
    from dataclasses import fields

    return {f.name: getattr(row, f.name) for f in fields(row)}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
