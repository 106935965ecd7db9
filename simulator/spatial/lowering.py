"""A cascade, a chip and a mapping -> one loop nest per Einsum; the place where words meet the chip."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Action, Einsum
from einsum_cascade.errors import MappingError, nearest
from einsum_cascade.sizes import BATCH_RANKS
from mappings.binding import SpatialMapping
from mappings.loopnest import OTHERS, EinsumLoops

from ..hardware.model import SpatialChip
from ..identity import remembered
from .holding import Groups, held_groups, largest, stated_tiles
from .idle import idle
from .live import DENSE, Live, live_of
from .nest import Dimension, Level, Loop, Nest, Operand, Work
from .operands import operands_in, with_generations
from .programs import Use, program


@dataclass(frozen=True, slots=True)
class Ranks:
    """The names that loops may run over.

    Attributes:
        parts: parts of each split rank, outermost first; those of the mapping and of the cascade.
        variable: the rank variable behind each rank and part.
        batch: ranks around the whole cascade.
    """

    parts: Mapping[str, tuple[str, ...]]
    variable: Mapping[str, str]
    batch: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A cascade laid on a chip, sizes left open.

    Attributes:
        nests: in the order of the schedule.
        uses: the access programs of the nests.
        phase_of: by Einsum.
        held: what a memory holds at a time, see holding.py.
        live: the masks of the Einsums that have one.
        loose: the part of `held` that may spill, group by group, of the memories that may.
    """

    ranks: Ranks
    nests: tuple[Nest, ...]
    uses: tuple[Use, ...]
    phase_of: Mapping[str, str]
    held: Mapping[str, Groups]
    live: Mapping[str, Live] = field(default_factory=dict)
    loose: Mapping[str, Groups] = field(default_factory=dict)


def with_nests(layout: Layout, nests: Iterable[Nest]) -> Layout:
    """Return a layout with other nests, and the programs that belong to them."""
    nests = tuple(nests)
    return replace(layout, nests=nests, uses=tuple(u for n in nests for u in program(n)))


@dataclass(frozen=True, slots=True)
class _Words:
    """The names on a chip: all that a layout depends on."""

    name: str
    memories: tuple[tuple[str, str, bool], ...]
    arrays: tuple[tuple[str, int, tuple[str, ...]], ...]

    @property
    def common(self) -> tuple[str, ...]:
        """Memories of the whole chip."""
        return tuple(name for name, of, _ in self.memories if not of)

    def hierarchy(self, array: str) -> tuple[str, ...]:
        return tuple(name for name, of, _ in self.memories if of in ("", array))

    def per_element(self, memory: str) -> bool:
        return next(each for name, _, each in self.memories if name == memory)

    def ops(self, array: str) -> tuple[str, ...]:
        return next(ops for name, _, ops in self.arrays if name == array)

    def axes(self, array: str) -> int:
        return next(axes for name, axes, _ in self.arrays if name == array)


def lower(cascade: Cascade, chip: SpatialChip, mapping: SpatialMapping, batch: tuple[str, ...]) -> Layout:
    """Return the nests of a cascade in the order of the schedule.

    Args:
        cascade: the algorithm.
        chip: only the names of its memories and arrays matter here.
        mapping: loops, what is kept where, and the schedule.
        batch: ranks around the whole cascade.

    Raises:
        MappingError: the mapping names something that the cascade or the chip lacks, leaves out an Einsum, loops
            over a rank twice or not at all, or keeps a tensor nowhere.
    """
    return _lowered(cascade, _words(chip), mapping, _one(batch))


@remembered(maxsize=64)
def _words(chip: SpatialChip) -> _Words:
    memories = tuple((name, m.of, m.per_element) for name, m in chip.memories.items())
    arrays = tuple((name, len(a.shape), tuple(a.ops)) for name, a in chip.arrays.items())
    words: _Words = _one(_Words(chip.name, memories, arrays))
    return words


@functools.lru_cache(maxsize=512)
def _one(value: Hashable) -> Any:
    """Return the same object for equal values, so that what is remembered about one is about all."""
    return value


@remembered(maxsize=512)
def _lowered(cascade: Cascade, words: _Words, mapping: SpatialMapping, batch: tuple[str, ...]) -> Layout:
    _check_words(cascade, words, mapping)
    ranks = _ranks(cascade, mapping, batch)
    by_name = {e.name: e for e in cascade.einsums}
    nests = [
        _nest(cascade, by_name[e], array, ranks, words, mapping)
        for e, array, _ in mapping.binding.placements()
    ]
    _check_ends(cascade, nests, words.memories[0][0], mapping.name or "mapping")
    uses = tuple(u for n in nests for u in program(n))
    phase_of = {einsum: phase for einsum, _, phase in mapping.binding.placements()}
    common = words.common
    stated = stated_tiles(mapping, common, ranks.variable, words.name)
    spill = mapping.binding.spill
    outermost = words.memories[0][0]
    groups = {
        n: held_groups(uses, n, phase_of if n in common else {}, stated, outermost)
        for n, _, _ in words.memories
    }
    # What may spill is compared group by group with all that is held.
    held = {n: found if n in spill else largest(found) for n, found in groups.items()}
    loose = {
        n: held_groups(uses, n, phase_of if n in common else {}, stated, outermost, of.tensors)
        for n, of in spill.items()
        if n in groups
    }
    return Layout(ranks, tuple(nests), uses, phase_of, held, _live(cascade, nests, ranks), loose)


def _live(cascade: Cascade, nests: Sequence[Nest], ranks: Ranks) -> dict[str, Live]:
    removed = idle(cascade)
    found = {
        n.einsum: live_of(cascade, cascade.einsum(n.einsum), n, ranks.parts, removed.get(n.einsum))
        for n in nests
    }
    return {name: live for name, live in found.items() if live != DENSE}


def _ranks(cascade: Cascade, mapping: SpatialMapping, batch: tuple[str, ...]) -> Ranks:
    where = mapping.name or "mapping"
    parts = dict(cascade.splits)
    known = (*cascade.rank_names, *batch)
    for whole, names in mapping.nest.split.items():
        if whole in BATCH_RANKS and whole not in known:
            continue
        if whole not in known:
            raise MappingError(
                f"{where}: split: {cascade.name} has no rank '{whole}'; {nearest(whole, known)}"
            )
        if whole in cascade.splits and names != cascade.splits[whole]:
            raise MappingError(
                f"{where}: split: {cascade.name} itself splits {whole} into {', '.join(cascade.splits[whole])}; "
                "split one of those"
            )
        taken = [n for n in names if n in known and n not in cascade.splits.get(whole, ())]
        if taken:
            raise MappingError(f"{where}: split.{whole}: {taken[0]} is a rank of {cascade.name} already")
        parts[whole] = names
    variable = {r: variable_of(r) for r in known}
    owner = {p: variable[whole] for whole, ps in parts.items() for p in ps if p not in variable}
    return Ranks(parts, {**variable, **owner}, batch)


def _check_words(cascade: Cascade, words: _Words, mapping: SpatialMapping) -> None:
    nest, binding, where = mapping.nest, mapping.binding, mapping.name or "mapping"
    known = {e.name for e in cascade.einsums}
    arrays = [name for name, _, _ in words.arrays]
    memories = [name for name, _, _ in words.memories]

    def check(word: str, legal: Iterable[str], place: str, owner: str, kind: str) -> None:
        if word not in legal:
            raise MappingError(f"{where}: {place}: {owner} has no {kind} '{word}'; {nearest(word, legal)}")

    for einsum, array, phase in binding.placements():
        check(array, arrays, f"phases.{phase}", words.name, "array")
        check(einsum, known, f"phases.{phase}", cascade.name, "Einsum")
    placed = {einsum for einsum, _, _ in binding.placements()}
    left = [e.name for e in cascade.einsums if e.name not in placed]
    if left:
        raise MappingError(f"{where}: phases: no array does {', '.join(left)}")
    tensors = {*cascade.signatures, *known}
    for memory, kept in binding.keep.items():
        check(memory, memories, "keep", words.name, "memory")
        for word in _kept_words(kept):
            check(word, tensors, f"keep.{memory}", cascade.name, "tensor")
    for phase, by_memory in binding.hold.items():
        for memory, extents in by_memory.items():
            for tensor in extents:
                check(tensor, tensors, f"hold.{phase}.{memory}", cascade.name, "tensor")
    for key, loops in nest.nests.items():
        for word in key.split():
            check(word, (*known, OTHERS), f"nests.{key}", cascade.name, "Einsum")
        for memory in loops.time:
            check(memory, memories, f"nests.{key}", words.name, "memory")


def _check_ends(cascade: Cascade, nests: Sequence[Nest], outermost: str, where: str) -> None:
    """Refuse inputs that come from nowhere and outputs that go nowhere: their traffic cannot be saved."""
    kept = {o.tensor for n in nests for o in n.operands if outermost in o.kept}
    used = {o.tensor for n in nests for o in n.operands}
    for side, signatures in (("input", cascade.inputs), ("output", cascade.outputs)):
        for s in signatures:
            if s.tensor in used and s.tensor not in kept:
                raise MappingError(
                    f"{where}: keep.{outermost}: {s.tensor} is an {side} and has to be kept there"
                )


def _kept_words(kept: Any) -> Iterable[str]:
    if isinstance(kept, str):
        return ()
    if isinstance(kept, Mapping):
        return [w for key, tensors in kept.items() for w in (*key.split(), *tensors)]
    return kept  # type: ignore[no-any-return]


def _nest(
    cascade: Cascade, einsum: Einsum, array: str, ranks: Ranks, words: _Words, mapping: SpatialMapping
) -> Nest:
    where = f"{mapping.name or 'mapping'}: {einsum.name}"
    loops = mapping.nest.loops_of(einsum.name)
    if loops is None:
        raise MappingError(f"{where}: nests has no loops for it, and no 'others'")
    batch = tuple(ranks.variable[b] for b in ranks.batch)
    own = (*batch, *einsum.variables)
    hierarchy = words.hierarchy(array)
    levels = [Level(m, _loops(_time(m, loops, words, mapping), own, ranks, where)) for m in hierarchy]
    at = next((i for i, m in enumerate(hierarchy) if words.per_element(m)), len(hierarchy)) - 1
    levels[at] = replace(levels[at], space=_space(loops, own, ranks, words.axes(array), where))
    _check_cover(levels, own, ranks, where)
    found = with_generations(
        cascade, einsum, operands_in(cascade, einsum), words.common, mapping.binding.keeps
    )
    operands = tuple(_placed(o, batch, einsum.name, hierarchy, mapping) for o in found)
    for o in operands:
        if not o.kept:
            raise MappingError(f"{where}: no memory keeps {o.tensor}")
    work = tuple(_work(a, batch, levels) for a in einsum.actions)
    for w in work:
        if w.op not in words.ops(array):
            raise MappingError(f"{where}: {array} cannot do '{w.op}'; it does {', '.join(words.ops(array))}")
    return Nest(einsum.name, array, tuple(levels), operands, work)


def _work(action: Action, batch: Sequence[str], levels: Sequence[Level]) -> Work:
    over = (*batch, *action.variables)
    time = tuple(loop.part for level in levels for loop in level.time if loop.variable in over)
    space = tuple(loop.part for level in levels for loop in level.fan_out if loop.variable in over)
    return Work(action.op, action.count, time, space)


def _placed(
    operand: Operand, batch: Sequence[str], einsum: str, hierarchy: Sequence[str], mapping: SpatialMapping
) -> Operand:
    kept = tuple(m for m in hierarchy if mapping.binding.keeps(m, einsum, operand.tensor))
    around = tuple(Dimension(((b, 1),)) for b in batch)
    return replace(operand, dimensions=(*around, *operand.dimensions), kept=kept)


def _time(memory: str, loops: EinsumLoops, words: _Words, mapping: SpatialMapping) -> tuple[str, ...]:
    outer = mapping.nest.outer if memory == words.memories[0][0] else ()
    return (*outer, *loops.time.get(memory, ()))


def _loops(names: Sequence[str], own: Sequence[str], ranks: Ranks, where: str) -> tuple[Loop, ...]:
    out: list[Loop] = []
    for name in names:
        out += [Loop(ranks.variable[part], part) for part in _expanded(name, own, ranks, where)]
    return tuple(out)


def _expanded(name: str, own: Sequence[str], ranks: Ranks, where: str) -> tuple[str, ...]:
    """Return the loops that a word stands for in an Einsum with these variables: itself, its parts, or none."""
    if name in BATCH_RANKS and name not in ranks.variable:
        return ()  # a batch that the use does not have
    if name not in ranks.variable:
        raise MappingError(f"{where}: no rank or part '{name}'; {nearest(name, ranks.variable)}")
    if ranks.variable[name] in own:
        return (name,)
    return tuple(p for p in ranks.parts.get(name, ()) if ranks.variable[p] in own)


def _space(
    loops: EinsumLoops, own: Sequence[str], ranks: Ranks, axes: int, where: str
) -> tuple[tuple[Loop, ...], ...]:
    if len(loops.space) > axes:
        raise MappingError(f"{where}: space has {len(loops.space)} axes, the array has {axes}")
    return tuple(_loops(names.split(), own, ranks, where) for names in loops.space)


def _check_cover(levels: Sequence[Level], own: Sequence[str], ranks: Ranks, where: str) -> None:
    """Every variable is looped over once: by its whole rank, or by each part of it."""
    found: dict[str, list[str]] = {}
    for level in levels:
        for loop in (*level.time, *level.fan_out):
            found.setdefault(loop.variable, []).append(loop.part)
    for variable in own:
        rank = rank_of(variable)
        parts = sorted(p for p in ranks.parts.get(rank, ()) if ranks.variable[p] == variable)
        loops = sorted(found.get(variable, []))
        if loops not in ([rank], parts or [rank]):
            wanted = f"{' and '.join(parts)}, or {rank}" if parts else rank
            raise MappingError(
                f"{where}: rank {rank}: the loops run over {', '.join(loops) or 'none of it'}; "
                f"expected {wanted}, each once"
            )
