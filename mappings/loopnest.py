"""The loops of a cascade on a machine: how ranks are split, which loops stand at which memory, what is spatial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OTHERS = "others"


@dataclass(frozen=True, slots=True)
class EinsumLoops:
    """The inner loops of some Einsums; each takes those whose rank it has.

    Attributes:
        time: temporal loops by memory, outermost first; they step over the tiles that the next memory inside holds.
        space: for each axis of the array the ranks that lie on it; "H P0" lays two ranks on one axis.
    """

    time: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    space: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """An Einsum that is computed once more, under a name of its own, so that its result need not be kept.

    Attributes:
        of: the Einsum.
        readers: the Einsums, copies included, that read this result instead of the first one.
    """

    of: str
    readers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoopNest:
    """Splits, tile sizes, and the loops of every Einsum of a cascade.

    Attributes:
        split: parts of a rank, outermost first; a cascade's own splits (M = M1 * M0) need not be repeated.
        sizes: size of a part, as a number or an expression; one part of every split is left open and takes the rest.
            `extent(ARRAY, 0)` is the length of an axis, `step(P, 256)` how much of P lies on an axis of that length at
            a time, `divisor(P, 256)` the largest divisor of P up to 256, and `fit(MEMORY)` the largest tile with which
            everything kept in the memory fits: a divisor, or where those are rare another. Parts need not divide their
            rank where the outermost one is left open: P1 = 342 of P = P2 * P1 * P0 with 1024 blocks of P0 makes P2 = 3
            tiles, the last of 340 blocks.
        outer: temporal loops at the outermost memory around all Einsums, outermost first.
        nests: inner loops by Einsum; a key may name several, and `others` stands for all that are not named.
        recompute: Einsums that are computed again, by the name of the copy; a copy that another copy reads stands
            after it.
    """

    cascade: str
    nests: Mapping[str, EinsumLoops]
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: Mapping[str, str | int] = field(default_factory=dict)
    outer: tuple[str, ...] = ()
    recompute: Mapping[str, Copy] = field(default_factory=dict)
    name: str = ""
    summary: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for whole, parts in self.split.items():
            if len(parts) < 2:
                raise ValueError(f"split: {whole}: a split has at least two parts, found {list(parts)}")
            for part in parts:
                if part in seen:
                    raise ValueError(f"split: {part} is a part of both {seen[part]} and {whole}")
                seen[part] = whole
        by_einsum: dict[str, str] = {}
        for key in self.nests:
            for einsum in key.split():
                if einsum in by_einsum:
                    raise ValueError(f"nests: {einsum} stands in '{by_einsum[einsum]}' and in '{key}'")
                by_einsum[einsum] = key

    def loops_of(self, einsum: str) -> EinsumLoops | None:
        """Return the inner loops of an Einsum, or None where the mapping has none for it."""
        for key, loops in self.nests.items():
            if einsum in key.split():
                return loops
        return self.nests.get(OTHERS)
