"""A spatial chip as numbers: memories, arrays of processing elements, what an operation occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from einsum_cascade.errors import nearest
from einsum_cascade.ops import COST_CLASSES
from mappings.schema import Origin, Unit


@dataclass(frozen=True, slots=True)
class Memory:
    """A level of storage.

    Attributes:
        component: what it is made of: `dram`, `sram`, `registers`, or `wires` (no energy and no area). Wires of an
            array pass words on; wires that serve the whole chip are an ideal buffer, and hold words.
        kind: which sort of the component, where the table of the component has several (`hbm2`).
        capacity_bytes: of one instance.
        bandwidth_bytes_per_s: of all instances together; infinite where it is not modelled.
        row_bytes: what one access moves; energy is counted in rows.
        of: the array that it serves; the empty string for a memory that serves the whole chip.
        per_element: whether every element of that array has one.
        part_of: another memory whose words these are; an access costs what it costs there, and no area comes on top.
        interface_area_mm2_s_per_byte: area of the interface (controller and transceivers) for each byte/s of bandwidth.
        interface_j_per_byte: power of the interface, used or not, for each byte/s of bandwidth.
    """

    component: str
    row_bytes: Annotated[float, Unit("byte", "row")]
    capacity_bytes: Annotated[float, Unit("byte", "capacity")] = math.inf
    bandwidth_bytes_per_s: Annotated[float, Unit("byte/second", "bandwidth")] = math.inf
    kind: str = ""
    of: str = ""
    per_element: bool = False
    part_of: str = ""
    interface_area_mm2_s_per_byte: Annotated[float, Unit("mm^2*second/byte", "interface_area")] = 0.0
    interface_j_per_byte: Annotated[float, Unit("watt*second/byte", "interface_power")] = 0.0

    def __post_init__(self) -> None:
        for word, value in (
            ("capacity", self.capacity_bytes),
            ("bandwidth", self.bandwidth_bytes_per_s),
            ("row", self.row_bytes),
        ):
            if not value > 0:
                raise ValueError(f"{word}: expected more than zero, found {value}")
        if not self.row_bytes < math.inf:
            raise ValueError("row: expected a finite number of bytes")
        if self.row_bytes > self.capacity_bytes:
            raise ValueError(
                f"row: expected at most the capacity, {self.capacity_bytes:g} bytes, found {self.row_bytes:g}"
            )
        if self.per_element and not self.of:
            raise ValueError("per_element: needs 'of: ARRAY'")
        interface = (self.interface_area_mm2_s_per_byte, self.interface_j_per_byte)
        if min(interface) < 0:
            raise ValueError("interface_area and interface_power: expected zero or more")
        if (
            max(interface) > 0
            and isinstance(self.bandwidth_bytes_per_s, float)
            and math.isinf(self.bandwidth_bytes_per_s)
        ):
            raise ValueError("interface_area and interface_power: need a bandwidth")

    @property
    def passes_on(self) -> bool:
        """Whether words only pass through it on their way to an array."""
        return self.component == "wires" and bool(self.of)


@dataclass(frozen=True, slots=True)
class Array:
    """An array of equal processing elements.

    Attributes:
        shape: extent of each axis, outer axis first.
        units: functional units in each element; they are what takes area.
        ops: by cost class, the units that an operation occupies and for how many cycles.
        pipelined: True where the units of an element work on successive points at the same time, so that the busiest
            sets the pace; else an element does one thing after another.
        assumed: operations whose entry in `ops` the source of the chip does not state.
    """

    shape: tuple[int, ...]
    units: tuple[str, ...]
    ops: Mapping[str, Mapping[str, int]]
    pipelined: bool = False
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape: expected axes of at least one element, found {list(self.shape)}")
        for op in self.assumed:
            if op not in self.ops:
                raise ValueError(f"assumed: no operation '{op}' in ops; {nearest(op, self.ops)}")
        for op, units in self.ops.items():
            if not units:
                raise ValueError(f"ops: {op}: expected the units that it occupies, as in {{mac: 1}}")
            if op not in COST_CLASSES:
                raise ValueError(f"ops: unknown operation '{op}'; {nearest(op, COST_CLASSES)}")
            for unit in units:
                if unit not in self.units:
                    raise ValueError(f"ops: {op}: unknown unit '{unit}'; {nearest(unit, self.units)}")
                if not 1 <= units[unit] < math.inf:
                    raise ValueError(f"ops: {op}: {unit}: expected at least one cycle, found {units[unit]}")

    @property
    def elements(self) -> int:
        """Number of processing elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SpatialChip:
    """A chip of memories around arrays of processing elements; memories stand outermost first.

    Attributes:
        word_bytes: size of an element of a tensor.
        static_power_w: power that flows whether or not anything happens, interfaces and `leakage` left out.
        node_nm: technology node of the energies and areas.
        library: where energies and areas come from (hardware/cost.py).
        leakage: whether the leakage of SRAM, as far as the tables have it, counts.
        parameters: what the file calls by name, after overrides.
        origin: the file, so that other fields of it can be set; none of a chip that was made or changed in Python.
    """

    name: str
    clock_hz: Annotated[float, Unit("hertz", "clock")]
    word_bytes: Annotated[float, Unit("byte", "word")]
    memories: Mapping[str, Memory]
    arrays: Mapping[str, Array]
    summary: str = ""
    source: str = ""
    static_power_w: Annotated[float, Unit("watt", "static_power")] = 0.0
    node_nm: int = 45
    library: str = "accelergy"
    leakage: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    origin: Origin | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for word, value in (("clock", self.clock_hz), ("word", self.word_bytes)):
            if not 0 < value < math.inf:
                raise ValueError(f"{word}: expected a finite number above zero, found {value:g}")
        if not 0 <= self.static_power_w < math.inf:
            raise ValueError(
                f"static_power: expected a finite power of zero or more, found {self.static_power_w:g}"
            )
        if not self.memories or not self.arrays:
            raise ValueError("memories and arrays: at least one of each is needed")
        for name, memory in self.memories.items():
            if memory.of and memory.of not in self.arrays:
                raise ValueError(
                    f"memories.{name}.of: no array '{memory.of}'; {nearest(memory.of, self.arrays)}"
                )
            if memory.part_of and memory.part_of not in self.memories:
                hint = nearest(memory.part_of, self.memories)
                raise ValueError(f"memories.{name}.part_of: no memory '{memory.part_of}'; {hint}")
        if next(iter(self.memories.values())).of:
            raise ValueError("memories: the first one is the outermost and serves the whole chip")
        _check_order(self.memories)

    @property
    def outermost(self) -> str:
        """Name of the memory that stands outside all others."""
        return next(iter(self.memories))

    def hierarchy(self, array: str) -> tuple[str, ...]:
        """Return the memories above an array's units, outermost first."""
        return tuple(name for name, memory in self.memories.items() if memory.of in ("", array))


def _check_order(memories: Mapping[str, Memory]) -> None:
    """Refuse a memory inside one that serves fewer elements: what it holds would be counted once for each of them."""
    inside: dict[
        str, tuple[int, str]
    ] = {}  # by array, how far a memory is shared, 2 by the chip, and its name
    for name, memory in memories.items():
        shared = 0 if memory.per_element else 1 if memory.of else 2
        for array in [memory.of] if memory.of else [m.of for m in memories.values() if m.of]:
            least, before = inside.get(array, (2, ""))
            if shared > least:
                serves = "the whole chip" if shared == 2 else f"all of {array}"
                raise ValueError(
                    f"memories: {name} serves {serves} and stands inside {before}, which serves "
                    f"{'one element' if least == 0 else 'one array'}; expected the outermost first"
                )
            inside[array] = shared, name
