"""A cascade, its sizes, a chip and a mapping -> a plan: sizes settled, everything checked, accesses counted."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from einsum_cascade.analysis.predicates import conjuncts, is_static
from einsum_cascade.cascade import Cascade, require
from einsum_cascade.errors import CascadeError, MappingError, glimpse, nearest
from einsum_cascade.sizes import BATCH_RANKS, model_ranks, parse_sizes, require_table, stated_parts
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from ..identity import Same, remembered
from .access import Usage, run, run_masked, with_identities
from .cuts import CutTable, check_cuts, exact
from .ends import removes, with_ends
from .flow import check_flow
from .initial import FirstValue, first_usages, first_values
from .live import DENSE, Live
from .lowering import Layout, lower
from .nest import Count, Sizes, SizeTable, anywhere
from .programs import Use
from .recompute import with_copies
from .spill import Shares, shares, spilled
from .tiles import occupancy, settle
from .work import cycles, operations, useful

_MASKED = (
    "a `where` saves the steps of an array, and the tiles, in which it leaves no point; others count in full"
)


# (memory, Einsum), or (component, Einsum).
Place: TypeAlias = tuple[str, str]


# Words read from and written to a memory, over all its instances.
Moved: TypeAlias = tuple[Count, Count]


@dataclass(frozen=True, slots=True)
class Plan:
    """A mapped cascade before its cost is counted: what an analysis, or a correction of one, starts from.

    Attributes:
        live: the masks of the Einsums that have one.
        spills: by memory and tensor, the share of its words there that lives in the next memory outside.
        held_bytes: by memory, what one instance holds at the fullest time.
        notes: what was assumed on the way.
        first: what the first values of states exchange with the outermost memory.
    """

    cascade: str
    chip: SpatialChip
    mapping: SpatialMapping
    layout: Layout
    sizes: SizeTable
    live: Mapping[str, Live] = field(default_factory=dict)
    spills: Shares = field(default_factory=dict)
    held_bytes: Mapping[str, Count] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    first: tuple[FirstValue, ...] = ()


def plan(
    cascade: Cascade,
    sizes: Sizes | str,
    hardware: SpatialChip,
    mapping: SpatialMapping,
    *,
    checked: bool = True,
) -> Plan:
    """Return a cascade laid on a chip with all sizes settled.

    Args:
        cascade: the algorithm.
        sizes: by rank, batch ranks included; or a text. A tile of the cascade's own split (M0) wins over that of the
            mapping where it is not the one that `parse_sizes` would fill in.
        hardware: a spatial chip.
        mapping: loops, what is kept where, and the schedule.
        checked: False leaves out the checks of what finds room.

    Raises:
        MappingError: see `simulate`.
    """
    if not isinstance(hardware, SpatialChip):
        raise MappingError(f"simulate needs a spatial chip; {getattr(hardware, 'name', hardware)} is none")
    if not isinstance(mapping, SpatialMapping):
        raise MappingError(f"simulate needs a spatial mapping; {getattr(mapping, 'name', mapping)} is none")
    require(cascade)
    if isinstance(sizes, str):
        sizes = parse_sizes(sizes, cascade)
    _check_sizes(cascade, sizes)
    mapping = _with_stated_tiles(cascade, sizes, mapping)
    cascade = with_copies(cascade, mapping.nest.recompute, where=mapping.name or "mapping")
    batch = tuple(b for b in BATCH_RANKS if b in sizes and b not in cascade.rank_names)
    layout = lower(cascade, hardware, mapping, batch)
    settled = settle(layout, cascade, sizes, hardware, mapping)
    spills = shares(layout, settled.full, hardware, mapping) if mapping.binding.spill else {}
    found = Plan(
        cascade.name,
        hardware,
        mapping,
        layout,
        settled,
        spills=spills,
        held_bytes=_held(layout, settled, hardware, spills),
        first=first_values(cascade, layout),
    )
    _check_axes(found)
    if checked:
        _check_capacity(found)
        check_flow(cascade, layout, settled.full, hardware, mapping)
    return _noted(_masked(found), cascade)


def _check_sizes(cascade: Cascade, sizes: Sizes) -> None:
    """Refuse sizes of what is no rank, and those that are no whole numbers from 1, one or an array of them."""
    require_table(sizes)
    legal = (*cascade.rank_names, *BATCH_RANKS)
    for name, size in sizes.items():
        # a model's sizes tell its width too, which attention does not have
        if name not in legal and name not in model_ranks():
            raise CascadeError(f"{cascade.name} has no rank {name}", hint=nearest(name, legal))
        if type(size) is int and size >= 1:
            continue
        found = np.asarray(size)
        if found.dtype.kind not in "iuf" or not (found >= 1).all() or (found % 1).any():
            raise CascadeError(f"{name}={glimpse(size)}: a size is a whole number of at least 1")


def _with_stated_tiles(cascade: Cascade, sizes: Sizes, mapping: SpatialMapping) -> SpatialMapping:
    """Return a mapping with the tiles of a cascade's own splits that the sizes state."""
    named = {p for parts in cascade.splits.values() for p in parts if p in mapping.nest.sizes}
    if named.isdisjoint(sizes) or not all(isinstance(v, int) for v in sizes.values()):
        return mapping
    own = tuple((rank, sizes[rank]) for rank in cascade.rank_names if rank in sizes)
    return _stating(Same(cascade), own, Same(mapping))


@functools.lru_cache(maxsize=512)
def _stating(
    cascade: Same[Cascade], sizes: tuple[tuple[str, int], ...], mapping: Same[SpatialMapping]
) -> SpatialMapping:
    nest = mapping.it.nest
    stated = {p: n for p, n in stated_parts(cascade.it, dict(sizes)).items() if p in nest.sizes}
    return replace(mapping.it, nest=replace(nest, sizes={**nest.sizes, **stated})) if stated else mapping.it


def _held(layout: Layout, sizes: SizeTable, chip: SpatialChip, spills: Shares) -> dict[str, Count]:
    held = {memory: occupancy(layout, memory, sizes.full) * chip.word_bytes for memory in chip.memories}
    full = {memory for memory, _ in spills}
    return held | {m: np.minimum(held[m], chip.memories[m].capacity_bytes) for m in full}


def _masked(settled: Plan) -> Plan:
    """Return a plan with the masks whose points can be counted."""
    if not settled.layout.live:
        return settled
    live, left = {}, []
    masks = dict(settled.layout.live)
    if isinstance(settled.sizes, CutTable):
        ends = {c.whole: c.parts for c in settled.sizes.cuts}
        masks = with_ends(masks, settled.layout.nests, ends, settled.mapping.name or "mapping")
    for name, of in masks.items():
        try:
            if _idle_mask(settled, name, of):
                continue  # without it the shorter tiles are counted as they are
            _count_once(settled, name, of)
            live[name] = of
        except CascadeError:
            left.append(name)
    notes = [_MASKED] if live else []
    if left:
        notes.append(
            f"{', '.join(left)}: too many points to count what a `where` removes; nothing is taken off"
        )
    return replace(settled, live=live, notes=(*settled.notes, *notes))


def _idle_mask(settled: Plan, einsum: str, live: Live) -> bool:
    """Tell whether the last tiles of an Einsum are shorter, its mask removes nothing, and it counts exactly without.

    Raises:
        CascadeError: there are too many points to look at.
    """
    if not isinstance(settled.sizes, CutTable) or removes(live, settled.sizes):
        return False
    nests = [n for n in settled.layout.nests if n.einsum == einsum]
    uses = [u for u in settled.layout.uses if u.einsum == einsum]
    try:
        check_cuts(nests, uses, settled.sizes, {}, "")
    except MappingError:
        return False
    return True


def _count_once(settled: Plan, einsum: str, live: Live) -> None:
    """Count what the estimate of an Einsum will ask for; the counts are remembered.

    Raises:
        CascadeError: there are too many points.
    """
    nest = next(n for n in settled.layout.nests if n.einsum == einsum)
    useful(nest, settled.sizes, live)
    cycles(nest, settled.chip.arrays[nest.array], settled.sizes, live)
    operations(nest, settled.sizes, live)
    for use in settled.layout.uses:
        if use.einsum == einsum and live.whole is not None:
            with_identities(run_masked(use, settled.sizes, live.whole), use, settled.sizes, live)


def _noted(settled: Plan, cascade: Cascade) -> Plan:
    """Return a plan with what is to be said about predicates over data and about spills."""
    notes = list(settled.notes)
    unknown = [
        e.name for e in cascade.einsums if e.where is not None and not all(map(is_static, conjuncts(e.where)))
    ]
    if unknown:
        notes.append(f"{', '.join(unknown)}: a `where` that reads data removes nothing here")
    for memory in dict.fromkeys(memory for memory, _ in settled.spills):
        tensors = [t for m, t in settled.spills if m == memory]
        share = np.max(settled.spills[memory, tensors[0]])
        notes.append(f"{memory}: {share:.3g} of {', '.join(tensors)} does not fit and lives outside")
    return replace(settled, notes=tuple(notes)) if len(notes) > len(settled.notes) else settled


def count_all(settled: Plan) -> list[Usage]:
    """Return the use of every memory by every operand of every Einsum."""
    usages = _counted(settled)
    usages = spilled(usages, settled.chip, settled.spills) if settled.spills else usages
    if not settled.first:
        return usages
    batch = settled.layout.ranks.batch
    return usages + first_usages(settled.first, settled.chip.outermost, batch, settled.sizes)


def _counted(settled: Plan) -> list[Usage]:
    return [
        _counted_use(use, settled.sizes, settled.live.get(use.einsum, DENSE)) for use in settled.layout.uses
    ]


def _counted_use(use: Use, sizes: SizeTable, live: Live) -> Usage:
    if live.whole is None:
        usage = run(use, sizes)
    else:
        usage = with_identities(run_masked(use, sizes, live.whole), use, sizes, live)
    return usage if sizes.full is sizes else exact(usage)


def moved_words(settled: Plan) -> dict[Place, Moved]:
    """Return the words that each Einsum moves in each memory: the sums of `count_all`, at less cost.

    Operands that use a memory alike are counted once.
    """
    if settled.spills:
        return gathered(count_all(settled))
    sizes, live = settled.sizes, settled.live
    out: dict[Place, Moved] = {}
    plain = not live and sizes.full is sizes
    for use, places in _alike(settled.layout):
        usage = run(use, sizes) if plain else _counted_use(use, sizes, live.get(use.einsum, DENSE))
        _add(out, usage, places)
    for usage in first_usages(settled.first, settled.chip.outermost, settled.layout.ranks.batch, sizes):
        _add(out, usage, ((usage.memory, usage.einsum),))
    return out


def gathered(usages: Iterable[Usage]) -> dict[Place, Moved]:
    """Return the words that each Einsum moves in each memory."""
    out: dict[Place, Moved] = {}
    for usage in usages:
        _add(out, usage, ((usage.memory, usage.einsum),))
    return out


def _add(out: dict[Place, Moved], usage: Usage, places: Iterable[Place]) -> None:
    read = usage.reads * usage.instances
    written = (usage.updates + usage.fills) * usage.instances
    for place in places:
        before = out.get(place)
        out[place] = (read, written) if before is None else (before[0] + read, before[1] + written)


@remembered(maxsize=512)
def _alike(layout: Layout) -> tuple[tuple[Use, tuple[Place, ...]], ...]:
    """Return the distinct programs of a layout, each with where it runs; masked Einsums share none."""
    found: dict[Any, list[Use]] = {}
    for use in layout.uses:
        masked = use.einsum if use.einsum in layout.live else ""
        program = (
            use.outermost,
            use.whole,
            use.tile,
            use.brought,
            use.below,
            use.spread,
            use.above,
            use.copies,
        )
        key = (masked, use.operand.output, use.spares_reads, use.spares_fills, *program, use.inner, use.outer)
        found.setdefault(key, []).append(use)
    return tuple((uses[0], tuple((u.memory, u.einsum) for u in uses)) for uses in found.values())


def _check_axes(settled: Plan) -> None:
    sizes = settled.sizes.full
    for (array, axis, parts), einsum in _axes(settled.layout).items():
        length = settled.chip.arrays[array].shape[axis]
        if anywhere(sizes[parts] > length):
            raise MappingError(
                f"{settled.mapping.name or 'mapping'}: {einsum}: {' * '.join(parts)} = {sizes[parts]} does not fit "
                f"axis {axis} of {array}, {length} long"
            )


@remembered(maxsize=512)
def _axes(layout: Layout) -> Mapping[tuple[str, int, tuple[str, ...]], str]:
    """Return what lies on the axes of arrays, as (array, axis, loops), and the first Einsum that lays it there."""
    out: dict[tuple[str, int, tuple[str, ...]], str] = {}
    for nest in layout.nests:
        for level in nest.levels:
            for axis, loops in enumerate(level.space):
                out.setdefault((nest.array, axis, tuple(loop.part for loop in loops)), nest.einsum)
    return out


def _check_capacity(settled: Plan) -> None:
    chip = settled.chip
    for name, memory in chip.memories.items():
        if name in settled.mapping.binding.spill or not anywhere(memory.capacity_bytes < math.inf):
            continue
        held = settled.held_bytes[name]
        if anywhere(held > memory.capacity_bytes):
            raise MappingError(
                f"{settled.mapping.name or 'mapping'}: the tiles kept in {name} take {np.max(held):,.0f} bytes, "
                f"{name} of {chip.name} holds {np.min(memory.capacity_bytes):,.0f}; make a tile smaller"
            )
