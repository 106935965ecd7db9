"""What no mapping of some Einsums can beat: the bounds that prune the search over blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.sizes import BATCH_RANKS

from ..hardware.model import SpatialChip
from .access import words
from .area import static_power_w
from .block import Block, read_by
from .energy import memory_cost
from .masks import elements_left
from .nest import SizeTable
from .operands import operands_in
from .placement import Placed, placements
from .programs import tile_of
from .tiling import Merit

# Bounds are lowered by more than floats round, and are reached within a little more than that.
_ROUNDING, CLOSE = 1 + 1e-12, 1 + 1e-11


@dataclass(frozen=True, slots=True)
class Floors:
    """Lower bounds on what Einsums of a cascade take on a chip.

    Attributes:
        sizes: by rank, all settled.
        objective: what comes first in a merit.
    """

    cascade: Cascade
    sizes: Mapping[str, int]
    chip: SpatialChip
    objective: str
    _counted: dict[str, Mapping[str, float]] = field(default_factory=dict)  # words of the operands, by Einsum

    def of(self, einsums: Sequence[Einsum], narrow: int = 1) -> Merit:
        """Return what no way to run some Einsums in one phase can beat."""
        moved = sum(self._moved_words(einsums).values()) * self.chip.word_bytes
        memory = self.chip.memories[self.chip.outermost]
        plain = Block(self.cascade, tuple(einsums), stream="-")
        span = min(p.span for p in placements(plain, self.sizes, self.chip, most=1, narrow=narrow))
        return self._floored(span, moved, memory.bandwidth_bytes_per_s)

    def of_placed(self, placed: Placed, moved: float) -> Merit:
        """Return what no tiles of a placed block can beat, given the least bytes that it moves."""
        return self._floored(
            placed.span, moved, self.chip.memories[self.chip.outermost].bandwidth_bytes_per_s
        )

    def _floored(self, span: float, moved: float, bandwidth: float) -> Merit:
        batch = 1
        for b in BATCH_RANKS:
            batch *= self.sizes[b] if b in self.sizes and b not in self.cascade.rank_names else 1
        latency = max(span * batch / self.chip.clock_hz, moved / bandwidth)
        if self.objective == "latency_s":
            return latency / _ROUNDING, moved / _ROUNDING, 0.0
        if self.objective == "traffic_bytes":
            return moved / _ROUNDING, moved / _ROUNDING, 0.0
        each = memory_cost(self.chip.memories[self.chip.outermost], self.chip)
        rows = moved / self.chip.memories[self.chip.outermost].row_bytes
        energy = rows * min(each.read_j, each.write_j) + static_power_w(self.chip) * latency
        return energy / _ROUNDING, moved / _ROUNDING, 0.0

    def _moved_words(self, einsums: Sequence[Einsum]) -> dict[str, float]:
        """Return the words of each tensor that has to pass the outermost memory when these Einsums run in a phase."""
        names = {e.name for e in einsums}
        asked = self.asked_for(einsums)
        out: dict[str, float] = {}
        for e in einsums:
            for tensor, size in self._words(e).items():
                if tensor not in names or (tensor in asked and tensor == e.name):
                    out[tensor] = max(size, out.get(tensor, 0))
        return out

    def _words(self, einsum: Einsum) -> Mapping[str, float]:
        found = self._counted.get(einsum.name)
        if found is None:
            found = self._counted[einsum.name] = self._count_words(einsum)
        return found

    def _count_words(self, einsum: Einsum) -> dict[str, float]:
        batch = tuple(b for b in BATCH_RANKS if b in self.sizes and b not in self.cascade.rank_names)
        around = SizeTable(self.sizes)
        whole = {v: (rank_of(v),) for v in einsum.variables}
        found: dict[str, float] = {}
        for o in operands_in(self.cascade, einsum):
            size = float(words(tile_of(o, whole), around) * around[batch])
            size *= elements_left(self.cascade, einsum, o, self.sizes)
            found[o.tensor] = max(size, found.get(o.tensor, 0.0))
        return found

    def asked_for(self, einsums: Sequence[Einsum]) -> frozenset[str]:
        """Return the tensors of some Einsums that somebody else needs."""
        names = frozenset(e.name for e in einsums)
        outside = (read_by(e) for e in self.cascade.einsums if e.name not in names)
        return names & frozenset(s.tensor for s in self.cascade.outputs).union(*outside)

    def spilled_bytes(self, tensors: Iterable[str]) -> float:
        """Return the bytes that it takes at least to write some tensors and to read them back."""
        return sum(2 * self._words(self.cascade.einsum(t))[t] * self.chip.word_bytes for t in tensors)
