"""Which tiles a memory holds at the same time: structure only, their sizes come beside it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from einsum_cascade.errors import MappingError, nearest
from mappings.binding import SpatialMapping

from .programs import Several, Tile, Use

# Groups of which the largest counts; in a group the tensors held together, each by the largest of its tiles.
Groups: TypeAlias = tuple[tuple[tuple[Tile | Several, ...], ...], ...]
# The tiles whose extent a mapping states, by phase, memory and tensor.
Stated: TypeAlias = Mapping[tuple[str, str, str], Tile]


def stated_tiles(
    mapping: SpatialMapping, memories: Collection[str], parts: Collection[str], chip: str
) -> Stated:
    """Return the tiles whose extent a mapping states.

    Args:
        mapping: its `hold`.
        memories: those of the whole chip.
        parts: all ranks and parts of ranks.
        chip: its name.

    Raises:
        MappingError: an unknown memory, rank or part.
    """
    where = f"{mapping.name or 'mapping'}: hold"
    out = {}
    for phase, by_memory in mapping.binding.hold.items():
        for memory, tensors in by_memory.items():
            if memory not in memories:
                hint = nearest(memory, memories)
                raise MappingError(f"{where}.{phase}: '{memory}' is no memory of all of {chip}; {hint}")
            for tensor, extent in tensors.items():
                for part in extent:
                    if part not in parts:
                        hint = nearest(part, parts)
                        raise MappingError(
                            f"{where}.{phase}.{memory}.{tensor}: no rank or part '{part}'; {hint}"
                        )
                out[phase, memory, tensor] = Tile(tuple(extent))
    return out


def held_groups(
    uses: Sequence[Use],
    memory: str,
    group_of: Mapping[str, str],
    stated: Stated,
    outermost: str,
    of: Sequence[str] | None = None,
) -> Groups:
    """Return the tiles that a memory holds, grouped by what lives at the same time.

    In a memory of the whole chip the Einsums of a phase live side by side: each tensor that it keeps is held once, by
    the tile that the mapping states, or else by its largest one. A memory of one array serves one Einsum after
    another. Phases follow each other; what is made in one and read in a later one, without coming from a memory outside
    again, is held in those between.

    Args:
        uses: of all memories.
        memory: one of them.
        group_of: phases by Einsum; an Einsum that is not there is a group of its own.
        stated: see `stated_tiles`.
        outermost: the memory from which tensors come.
        of: the tensors to look at; None for all.
    """
    groups: dict[str, dict[str, dict[Tile | Several, None]]] = {}
    for use, own in resting(u for u in uses if u.memory == memory):
        phase = group_of.get(use.einsum, use.einsum)
        tensors = groups.setdefault(phase, {})
        if of is not None and use.operand.tensor not in of:
            continue
        tile = stated.get((phase, memory, use.operand.tensor), own)
        tensors.setdefault(use.operand.tensor, {})[tile] = None
    if len(groups) > 2 and group_of:
        brought = {
            (group_of.get(u.einsum), u.operand.tensor)
            for u in uses
            if outermost in u.operand.kept
            or (u.memory == memory and not u.outermost and not u.operand.output)  # from a level between
        }
        _keep_between(groups, tuple(dict.fromkeys(group_of.values())), brought)
    return tuple(tuple(tuple(tiles) for tiles in tensors.values()) for tensors in groups.values())


def resting(uses: Iterable[Use]) -> Iterator[tuple[Use, Tile | Several]]:
    """Yield the uses of one memory with what is held for each.

    What an Einsum reads of a tensor at several places is held for the first of them, together.
    """
    apart: dict[tuple[str, str], list[Use]] = {}
    for use in uses:
        if use.most is None:
            yield use, use.tile
        else:
            apart.setdefault((use.einsum, use.operand.tensor), []).append(use)
    for found in apart.values():
        tiles = {use.operand.place: use.tile for use in found}
        whole = found[0].most
        assert whole is not None
        yield found[0], Several(tuple(tiles.values()), whole)


def _keep_between(
    groups: dict[str, dict[str, dict[Tile | Several, None]]],
    phases: Sequence[str],
    brought: Collection[tuple[str | None, str]],
) -> None:
    """Add to each phase the tiles of an earlier one that a later one reads, and that nobody brings again."""
    order = [phase for phase in phases if phase in groups]
    for tensor in dict.fromkeys(t for tensors in groups.values() for t in tensors):
        at = [i for i, phase in enumerate(order) if tensor in groups[phase]]
        for first, last in itertools.pairwise(at):
            if (order[last], tensor) not in brought:
                for phase in order[first + 1 : last]:
                    groups[phase][tensor] = dict(groups[order[first]][tensor])


def largest(groups: Groups) -> Groups:
    """Return the groups without what can never be the largest, whatever the sizes are.

    >>> small, large = Tile(("E",)), Tile(("P0", "E"))
    >>> found = largest((((small,),), ((small, large),), ((large,), (small,))))
    >>> [[[tile.parts for tile in tiles] for tiles in tensors] for tensors in found]
    [[[('P0', 'E')], [('E',)]]]
    """
    slim = [tuple(_not_inside(tiles) for tiles in tensors) for tensors in groups]
    kept: list[tuple[tuple[Tile | Several, ...], ...]] = []
    for tensors in sorted(slim, key=len, reverse=True):
        if not any(Counter(tensors) <= Counter(larger) for larger in kept):
            kept.append(tensors)
    return tuple(kept)


def _not_inside(held: tuple[Tile | Several, ...]) -> tuple[Tile | Several, ...]:
    """Return the tiles that do not lie in another one with more loops."""
    kept: list[Tile] = []
    tiles = [tile for tile in held if isinstance(tile, Tile)]
    for tile in sorted(tiles, key=lambda tile: len(tile.parts), reverse=True):
        if not any(
            replace(tile, parts=k.parts) == k and Counter(tile.parts) <= Counter(k.parts) for k in kept
        ):
            kept.append(tile)
    return (*kept, *(several for several in held if isinstance(several, Several)))
