"""The search over several levels of memory: from pairs of levels outwards, one more level at a time."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from ..hardware.model import SpatialChip
from .placement import shared_memories
from .shelving import Shelving
from .tiling import Tiled


def levels(chip: SpatialChip) -> tuple[str, ...]:
    """Return the memories of the whole chip, outermost first.

    >>> from ..hardware.reader import load_hardware
    >>> levels(load_hardware("fusemax"))
    ('DRAM', 'GlobalBuffer')
    """
    return (chip.outermost, *shared_memories(chip))


def with_levels(chip: SpatialChip, names: Collection[str]) -> SpatialChip:
    """Return a chip with some of its memories of the whole chip, and all of those of arrays."""
    return replace(chip, memories={n: m for n, m in chip.memories.items() if m.of or n in names})


def pairs(chip: SpatialChip) -> Iterator[tuple[str, str]]:
    """Yield the pairs of an outer and an inner level from which a search may begin."""
    found = levels(chip)
    for outer, inner in itertools.combinations(found, 2):
        left_out = set(found) - {outer, inner}
        if not any(m.part_of in left_out for m in chip.memories.values()):
            yield outer, inner


def grown(
    path: Sequence[Tiled], sizes: Mapping[str, int], chip: SpatialChip, pair: tuple[str, str], objective: str
) -> tuple[tuple[Tiled, ...] | None, int]:
    """Return blocks found on a pair of levels with all levels outside the inner one, and the structures counted.

    Levels in between come first, from the inside out; then those outside the outer one, which then holds what fits.
    """
    found = levels(chip)
    outer, inner = map(found.index, pair)
    counted = 0
    steps = [(found[k], found[outer]) for k in range(inner - 1, outer, -1)]
    steps += [(found[k], found[k - 1]) for k in range(outer, 0, -1)]
    out: tuple[Tiled, ...] | None = tuple(path)
    used = set(pair)
    for memory, outermost in steps:
        used |= {memory, outermost}
        if out is None:
            break
        shelving = Shelving(out, sizes, with_levels(chip, used), memory, objective)
        out = shelving.best()
        counted += shelving.evaluated
    return out, counted
