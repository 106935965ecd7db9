"""Which memory keeps which tensor, which array does which Einsum, and what runs beside what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from einsum_cascade.errors import nearest

from .loopnest import LoopNest
from .schema import Origin

ALL = "all"
WAIT = "wait"

Kept: TypeAlias = str | tuple[str, ...] | Mapping[str, tuple[str, ...]]
Step: TypeAlias = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Spill:
    """What a memory may hold less than whole: the share that does not fit lives in the next memory outside.

    Attributes:
        tensors: whose tiles may overflow.
        need: bytes that would have to be held, as an expression, where that is not the sum of the tiles: double
            buffers, or results that overwrite what they were made from.
    """

    tensors: tuple[str, ...]
    need: str = ""

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError("tensors: at least one is needed")


@dataclass(frozen=True, slots=True)
class Binding:
    """Where tensors are kept and when Einsums run.

    Attributes:
        keep: tensors by memory: a list for every Einsum that touches them, lists by Einsum, or `all`.
        phases: steps one after another. A step is a set of lanes that run side by side, one for each array, and the
            Einsums of a lane run one after another; `wait: [2 * LM]` lets cycles pass in which nothing is done.
            Memory traffic flows beside all steps of a phase; a phase begins when the one before has ended.
        spill: by memory, the tensors of which a share may live outside where the tiles do not fit.
        hold: by phase, memory and tensor, the ranks and parts over which the tile of the tensor extends there while
            it waits for its readers. Without an entry a tile is what the loops at the memory and inside it span: too
            much where Einsums share the outer ones of those loops, too little where a later pass reads the tile: such a
            mapping is refused unless the tensor is kept in the outermost memory too.
    """

    keep: Mapping[str, Kept]
    phases: Mapping[str, tuple[Step, ...]]
    hold: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = field(default_factory=dict)
    nest: str = ""
    hardware: str = ""
    name: str = ""
    summary: str = ""
    source: str = ""
    spill: Mapping[str, Spill] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("phases: at least one is needed")
        for memory, kept in self.keep.items():
            if isinstance(kept, str) and kept != ALL:
                raise ValueError(
                    f"keep: {memory}: expected '{ALL}', a list of tensors, or such lists by Einsum, found '{kept}'"
                )
        for phase in self.hold:
            if phase not in self.phases:
                raise ValueError(f"hold: no phase '{phase}'; {nearest(phase, self.phases)}")
        seen: set[str] = set()
        for einsum, array, phase in self.placements():
            if einsum in seen:
                raise ValueError(f"phases: {phase}: {einsum} is scheduled twice (again on {array})")
            seen.add(einsum)

    def placements(self) -> Iterator[tuple[str, str, str]]:
        """Yield (Einsum, array, phase) in the order of the schedule."""
        for phase, steps in self.phases.items():
            for step in steps:
                for array, einsums in step.items():
                    if array != WAIT:
                        yield from ((einsum, array, phase) for einsum in einsums)

    def keeps(self, memory: str, einsum: str, tensor: str) -> bool:
        """Tell whether a memory keeps a tile of a tensor while an Einsum runs."""
        kept = self.keep.get(memory, ())
        if isinstance(kept, str):
            return kept == ALL
        if isinstance(kept, Mapping):
            return any(tensor in tensors for key, tensors in kept.items() if einsum in key.split())
        return tensor in kept


@dataclass(frozen=True, slots=True)
class SpatialMapping:
    """Loops and binding together: how a cascade is laid on a machine."""

    nest: LoopNest
    binding: Binding
    name: str = ""
    summary: str = field(default="", compare=False)
    source: str = field(default="", compare=False)
    origin: Origin | None = field(default=None, init=False, compare=False, repr=False)
