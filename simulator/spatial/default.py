"""A mapping for any cascade on any spatial chip, made on the spot from groups of Einsums."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError
from einsum_cascade.expr import Expr
from einsum_cascade.sizes import BATCH_RANKS
from mappings.binding import ALL, Binding, SpatialMapping
from mappings.loopnest import EinsumLoops, LoopNest

from ..hardware.model import Array, SpatialChip
from .groups import Group, group, units
from .lowering import operands_of
from .tiles import divisor


@dataclass(frozen=True, slots=True)
class Draft:
    """What is decided before a mapping is written down.

    Attributes:
        arrays: the array of each Einsum.
        spatial: the size of the innermost part of each rank, the one that can lie on an axis.
        buffered: the size of the middle part, the one whose loop stands at the innermost shared memory.
    """

    cascade: Cascade
    chip: SpatialChip
    sizes: Mapping[str, int]
    groups: tuple[Group, ...]
    arrays: Mapping[str, str]
    spatial: Mapping[str, int]
    buffered: Mapping[str, int]

    @property
    def ranks(self) -> tuple[str, ...]:
        """Ranks that Einsums loop over, without those of the batch."""
        found = dict.fromkeys(rank_of(v) for e in self.cascade.einsums for v in e.variables)
        return tuple(found)


def default_mapping(cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip) -> SpatialMapping:
    """Return a legal mapping: as much fused as fits, everything else through the outermost memory.

    Every Einsum goes to the array that does it in the fewest cycles; whole groups are tried from the largest (the
    whole cascade) to the smallest (every Einsum, or iterate block, by itself).

    Raises:
        MappingError: no array can do an operation, or nothing fits.
    """
    from .search import best_tiles

    least = units(cascade)
    attempts = [(tuple(e for u in least for e in u),)] if len(least) > 1 else []
    attempts.append(least)  # type: ignore[arg-type]
    problem: MappingError | None = None
    for parts in attempts:
        groups = tuple(group(cascade, part) for part in parts)
        if any(not g.fused and len(g.einsums) > 1 and not g.iterated for g in groups):
            continue
        try:
            return write(best_tiles(draft(cascade, sizes, chip, groups)))
        except MappingError as e:
            problem = e
    raise problem or MappingError(f"{cascade.name} has no Einsums")


def draft(
    cascade: Cascade,
    sizes: Mapping[str, int],
    chip: SpatialChip,
    groups: tuple[Group, ...],
    *,
    widest: int | None = None,
) -> Draft:
    """Return a draft with the widest spatial tiles and the least buffered ones.

    Args:
        cascade: the algorithm.
        sizes: by rank.
        chip: the machine.
        groups: which Einsums run together.
        widest: bound on the tiles of iterated ranks (M0 of M = M1 * M0); else the shortest axis of the chip.
    """
    sizes = _tiled(cascade, sizes, widest or narrowest(chip))
    arrays = {e.name: best_array(e, sizes, chip) for g in groups for e in g.einsums}
    width = narrowest(chip)
    ranks = dict.fromkeys(rank_of(v) for e in cascade.einsums for v in e.variables)
    in_turn = {g.iterated for g in groups}
    spatial = {r: 1 if r in in_turn else divisor(sizes[r], width) for r in ranks}
    return Draft(cascade, chip, sizes, groups, arrays, spatial, dict.fromkeys(ranks, 1))


def narrowest(chip: SpatialChip) -> int:
    """Return the length of the shortest axis of all arrays."""
    return min(extent for array in chip.arrays.values() for extent in array.shape)


def _tiled(cascade: Cascade, sizes: Mapping[str, int], widest: int) -> dict[str, int]:
    """Return the sizes with the inner ranks of the cascade's own splits as wide as they may be."""
    out = dict(sizes)
    iterated = {variable_of(r) for r in cascade.rank_names} & {
        b for e in cascade.einsums if (b := cascade.block_of(e.name))
    }
    for whole, parts in cascade.splits.items():
        steps = [p for p in parts if variable_of(p) in iterated]
        if len(parts) == 2 and len(steps) == 1:
            inner = next(p for p in parts if p not in steps)
            out[inner] = divisor(out[whole], widest)
            out[steps[0]] = out[whole] // out[inner]
            out.update({alias: out[of] for alias, of in cascade.aliases.items()})
    return out


def best_array(einsum: Einsum, sizes: Mapping[str, int], chip: SpatialChip) -> str:
    """Return the array that does an Einsum in the fewest cycles.

    Raises:
        MappingError: no array can do all of its operations.
    """
    able = {
        name: _cycles(einsum, sizes, array)
        for name, array in chip.arrays.items()
        if all(a.op in array.ops for a in einsum.actions)
    }
    if not able:
        missing = {a.op for a in einsum.actions} - {op for a in chip.arrays.values() for op in a.ops}
        what = ", ".join(sorted(missing)) or "all of " + ", ".join(sorted({a.op for a in einsum.actions}))
        raise MappingError(f"{einsum.name}: no array of {chip.name} can do {what}")
    return min(able, key=lambda name: able[name])


def _cycles(einsum: Einsum, sizes: Mapping[str, int], array: Array) -> float:
    """Return cycles of an Einsum per element of its batch, at the best choice of ranks for the axes."""
    work = sum(sum(array.ops[a.op].values()) * a.count for a in einsum.actions)
    points = 1
    for v in einsum.variables:
        points *= sizes[rank_of(v)]
    used = 1
    for rank, extent in zip(_axes(einsum, sizes, array), array.shape, strict=False):
        used *= divisor(sizes[rank], extent)
    return work * points / used


def _axes(
    einsum: Einsum, sizes: Mapping[str, int], array: Array, in_one_piece: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Return the rank for each axis: those that fill the array best, results before reductions."""
    # Sorted, so that Einsums over the same ranks lie on the array in the same way.
    ranks = sorted(r for v in einsum.variables if (r := rank_of(v)) not in in_one_piece)
    output = {rank_of(v) for v in einsum.output_variables}

    def merit(choice: Sequence[str]) -> tuple[int, int]:
        used = 1
        for rank, extent in zip(choice, array.shape, strict=False):
            used *= divisor(sizes[rank], extent)
        return used, sum(r in output for r in choice)

    number = min(len(array.shape), len(ranks))
    return max(itertools.permutations(ranks, number), key=merit, default=())


def write(found: Draft, name: str = "automatic") -> SpatialMapping:
    """Return the mapping that a draft describes."""
    chip, sizes = found.chip, found.sizes
    split, stated = {}, {}
    own_parts = {p for ps in found.cascade.splits.values() for p in ps}
    for rank in found.ranks:
        if rank in found.cascade.splits:
            continue  # the cascade itself splits it; where it is looped over whole, it stays in one piece
        split[rank] = (f"{rank}_2", f"{rank}_1", f"{rank}_0")
        stated[f"{rank}_1"] = found.buffered[rank]
        stated[f"{rank}_0"] = found.spatial[rank]
    for parts in found.cascade.splits.values():
        for part in parts[1:]:
            if part in own_parts and part in sizes:
                stated[part] = sizes[part]
    nests = {e.name: _loops(e, g, found) for g in found.groups for e in g.einsums}
    keep = {memory: _kept(memory, found) for memory in chip.memories if _keeps(memory, chip)}
    phases = {f"phase_{i}": (_lanes(g, found),) for i, g in enumerate(found.groups, start=1)}
    batch = tuple(b for b in BATCH_RANKS if b not in found.cascade.rank_names)
    nest = LoopNest(found.cascade.name, nests, split, stated, batch)
    return SpatialMapping(nest, Binding(keep, phases, hardware=chip.name), name)


def shared_memories(chip: SpatialChip) -> tuple[str, ...]:
    """Return the memories of the whole chip inside the outermost one."""
    return tuple(name for name, m in chip.memories.items() if not m.of and name != chip.outermost)


def _loops(einsum: Einsum, of: Group, found: Draft) -> EinsumLoops:
    """Return the loops of an Einsum: outer parts, then middle parts, then what does not lie on an axis."""
    output = {rank_of(v) for v in einsum.output_variables}
    ranks = sorted((rank_of(v) for v in einsum.variables), key=lambda r: r not in output)
    array = found.chip.arrays[found.arrays[einsum.name]]
    axes = _axes(einsum, found.spatial, array, frozenset(found.cascade.splits))
    first = [r for r in of.fused if r in ranks] + [r for r in (of.iterated,) if r in ranks]
    whole = [r for r in ranks if r in found.cascade.splits]
    ranks = [r for r in ranks if r not in whole]
    first = [r for r in first if r in ranks]
    outer = [f"{r}_2" for r in (*first, *(r for r in ranks if r not in first))]
    middle = [f"{r}_1" for r in ranks] + whole + [f"{r}_0" for r in ranks if r not in axes]
    shared = shared_memories(found.chip)
    if not shared:
        return EinsumLoops({found.chip.outermost: (*outer, *middle)}, tuple(f"{r}_0" for r in axes))
    return EinsumLoops(
        {found.chip.outermost: tuple(outer), shared[-1]: tuple(middle)}, tuple(f"{r}_0" for r in axes)
    )


def _keeps(memory: str, chip: SpatialChip) -> bool:
    found = chip.memories[memory]
    return memory == chip.outermost or not found.of or found.per_element


def _kept(memory: str, found: Draft) -> str | Mapping[str, tuple[str, ...]]:
    """Return what a memory keeps: the outermost one what passes between groups, the others everything.

    A tile that several Einsums of a group read at the same indices comes from the outermost memory for the first.
    """
    if found.chip.memories[memory].per_element:
        return _registers(memory, found)
    if not shared_memories(found.chip):
        return ALL
    out: dict[str, tuple[str, ...]] = {}
    if memory != found.chip.outermost:
        for g in found.groups:
            passed = passed_on(found, g)
            for e in g.einsums:
                tensors = dict.fromkeys((*(a.tensor for a in e.reads), e.name))
                out[e.name] = tuple(t for t in tensors if t not in passed)
        return out
    for g in found.groups:
        here = inner_tensors(found.cascade, g)
        brought: set[tuple[str, tuple[Expr, ...]]] = set()
        for e in g.einsums:
            wanted = [(a.tensor, a.indices) for a in e.reads if a.tensor not in here]
            fetched = [t for t, indices in wanted if (t, indices) not in brought]
            brought.update(wanted)
            out[e.name] = tuple(dict.fromkeys([*fetched, *([e.name] if e.name not in here else [])]))
    return out


def _registers(memory: str, found: Draft) -> str | Mapping[str, tuple[str, ...]]:
    """Return the tensors of each Einsum that have a register: the result first, then the others as far as they fit."""
    chip = found.chip
    room = chip.memories[memory].capacity_bytes // chip.word_bytes
    out = {}
    for e in (e for g in found.groups for e in g.einsums):
        words = 0
        kept: dict[str, None] = {}
        for tensor, times in Counter(o.tensor for o in reversed(operands_of(e))).items():
            if words + times <= room:
                kept[tensor] = None
                words += times
        out[e.name] = tuple(kept)
    return out


def passed_on(found: Draft, of: Group) -> frozenset[str]:
    """Return the tensors that stay in the registers of the elements that made them.

    Writer and readers stand on one array with the same ranks on its axes, and the ranks of the tensor are on those axes
    whole, or are the ranks over which the group is fused.
    """
    by_name = {e.name: e for e in of.einsums}

    def place(e: Einsum) -> tuple[str, tuple[str, ...]]:
        array = found.arrays[e.name]
        in_one_piece = frozenset(found.cascade.splits)
        return array, _axes(e, found.spatial, found.chip.arrays[array], in_one_piece)

    out = []
    for name in inner_tensors(found.cascade, of) - found.cascade.states:
        writer = by_name[name]
        readers = [e for e in of.einsums if any(a.tensor == name for a in e.reads)]
        array, axes = place(writer)
        whole = {r for r in axes if found.spatial[r] == found.sizes[r]} | {*of.fused, of.iterated}
        registered = any(m.of == array and m.per_element for m in found.chip.memories.values())
        local = all(rank_of(v) in whole for v in writer.output_variables)
        if registered and local and all(place(e) == (array, axes) for e in readers):
            out.append(name)
    return frozenset(out)


def inner_tensors(cascade: Cascade, of: Group) -> frozenset[str]:
    """Return the tensors that nobody outside a group reads."""
    read_outside = {a.tensor for e in cascade.einsums if e.name not in of.names for a in e.reads}
    asked = {s.tensor for s in cascade.outputs}
    return frozenset(t for t in of.names if t not in read_outside and t not in asked)


def _lanes(of: Group, found: Draft) -> dict[str, tuple[str, ...]]:
    lanes: dict[str, tuple[str, ...]] = {}
    for e in of.einsums:
        array = found.arrays[e.name]
        lanes[array] = (*lanes.get(array, ()), e.name)
    return lanes
