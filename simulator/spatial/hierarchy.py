"""The search over several levels of memory: from pairs of levels outwards, one more level at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace

from ..hardware.model import SpatialChip
from .benching import Benching, benches
from .placement import InnerLevels, shared_memories
from .shelving import Shelving
from .tiling import Tiled
from .writing import boundaries


def levels(chip: SpatialChip) -> tuple[str, ...]:
    """Return the memories of the whole chip, outermost first.

    >>> from ..hardware.reader import load_hardware
    >>> levels(load_hardware("fusemax"))
    ('DRAM', 'GlobalBuffer')
    """
    return (chip.outermost, *shared_memories(chip))


def deep(chip: SpatialChip) -> bool:
    """Tell whether tiles may be kept in more than one memory between the outermost one and the registers."""
    return len(levels(chip)) > 2 or bool(len(levels(chip)) > 1 and benches(chip))


def with_levels(chip: SpatialChip, names: Collection[str]) -> SpatialChip:
    """Return a chip with some of its memories of the whole chip, and all of those of arrays."""
    memories = {n: m for n, m in chip.memories.items() if m.of or n in names}
    if chip.outermost in names:
        return replace(chip, memories=memories)
    same = {f.name: getattr(chip, f.name) for f in fields(chip) if f.init}
    return InnerLevels(**{**same, "memories": memories})


def pairs(chip: SpatialChip) -> Iterator[tuple[tuple[str, str], SpatialChip]]:
    """Yield the pairs of an outer and an inner level from which a search may begin, and the chip of those two.

    Where memories inside the inner one may relieve it, it is also taken to be as fast as can be.
    """
    found = levels(chip)
    for outer, inner in itertools.combinations(found, 2):
        left_out = set(found) - {outer, inner}
        if any(m.part_of in left_out for m in chip.memories.values()):
            continue
        two = with_levels(chip, (outer, inner))
        yield (outer, inner), two
        memory = chip.memories[inner]
        if memory.bandwidth_bytes_per_s < math.inf and (inner != found[-1] or benches(chip)):
            relieved = replace(
                memory,
                bandwidth_bytes_per_s=math.inf,
                interface_area_mm2_s_per_byte=0.0,
                interface_j_per_byte=0.0,
            )
            yield (outer, inner), replace(two, memories={**two.memories, inner: relieved})


def grown(
    path: Sequence[Tiled], sizes: Mapping[str, int], chip: SpatialChip, pair: tuple[str, str], objective: str
) -> tuple[tuple[Tiled, ...] | None, int]:
    """Return blocks found on a pair of levels laid on all levels, and the structures counted.

    Levels inside the inner one come first, from the outside in, then those in between, from the inside out; then those
    outside the outer one, which then holds what fits.
    """
    found = levels(chip)
    outer, inner = map(found.index, pair)
    counted = 0
    steps = [(found[k], found[outer]) for k in range(inner - 1, outer, -1)]
    steps += [(found[k], found[k - 1]) for k in range(outer, 0, -1)]
    used = set(pair)
    done = list(path)
    for memory in (*found[inner + 1 :], *benches(chip)):
        used.add(memory)
        for i, tiled in enumerate(done):
            cuts = boundaries([*done[:i], *done[i + 1 :]])
            benching = Benching(tiled, with_levels(chip, used), memory, objective, cuts)
            done[i] = benching.best()
            counted += benching.evaluated
    out: tuple[Tiled, ...] | None = tuple(done)
    for memory, outermost in steps:
        used |= {memory, outermost}
        if out is None:
            break
        shelving = Shelving(out, sizes, with_levels(chip, used), memory, objective)
        out = shelving.best()
        counted += shelving.evaluated
    return out, counted
