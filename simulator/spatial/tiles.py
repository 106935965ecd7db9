"""Sizes of the parts of split ranks: as a mapping states them, or the largest that fit a memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError, nearest
from einsum_cascade.sizes import BATCH_RANKS
from mappings.binding import SpatialMapping
from mappings.expression import call_of, evaluate_expression, evaluate_node

from ..hardware.model import Array, Memory, SpatialChip
from .access import count, sizes_within, tile_words
from .lowering import Extents, lower, variable_names
from .nest import Count, Nest
from .work import greatest


def extents(
    cascade: Cascade, sizes: Mapping[str, Count], chip: SpatialChip, mapping: SpatialMapping
) -> Extents:
    """Return the sizes of all ranks and parts.

    A tile that the mapping states wins over one in `sizes`: M0 is the mapping's affair, M the user's.

    Args:
        cascade: the algorithm.
        sizes: by rank; those of split ranks (M) and of batch ranks (B, H) included.
        chip: its arrays and memories may be named in the mapping's sizes.
        mapping: splits and sizes of parts.

    Raises:
        MappingError: a part is not whole or does not divide its rank, or no tile fits a memory.
    """
    where = mapping.name or "mapping"
    batch = tuple(b for b in BATCH_RANKS if b in sizes and b not in cascade.rank_names)
    parts = _splits(cascade, mapping, batch, where)
    known = {k: v for k, v in sizes.items() if k in batch or k in cascade.rank_names}
    fits = _state_parts(known, parts, cascade, chip, mapping, where)
    names = variable_names(cascade, batch)
    variable = {**names, **{p: names[whole] for whole, ps in parts.items() for p in ps if p not in names}}
    _derive(known, cascade, parts, where)
    out = Extents(known, parts, variable, batch)
    for part, memory in fits:
        out = _fitted(out, part, memory, cascade, chip, mapping)
    return _searched(out, cascade, chip, mapping)


def _splits(
    cascade: Cascade, mapping: SpatialMapping, batch: Sequence[str], where: str
) -> dict[str, tuple[str, ...]]:
    parts = dict(cascade.splits)
    ranks = (*cascade.rank_names, *batch)
    for whole, names in mapping.nest.split.items():
        if whole in BATCH_RANKS and whole not in ranks:
            continue
        if whole not in ranks:
            raise MappingError(
                f"{where}: split: {cascade.name} has no rank '{whole}'; {nearest(whole, ranks)}"
            )
        if whole in cascade.splits and tuple(names) != cascade.splits[whole]:
            raise MappingError(
                f"{where}: split: {cascade.name} itself splits {whole} into {', '.join(cascade.splits[whole])}; "
                "split one of those"
            )
        parts[whole] = tuple(names)
    return parts


def _state_parts(
    known: dict[str, Count],
    parts: Mapping[str, tuple[str, ...]],
    cascade: Cascade,
    chip: SpatialChip,
    mapping: SpatialMapping,
    where: str,
) -> list[tuple[str, str]]:
    """Give the parts their sizes, in place; return those that are to fit a memory, as (part, memory)."""
    owner = {p: whole for whole, ps in parts.items() for p in ps}
    fits = []
    stated: dict[str, set[str]] = {}
    for part, text in mapping.nest.sizes.items():
        if part not in owner:
            raise MappingError(f"{where}: sizes: '{part}' is no part of a split; {nearest(part, owner)}")
        whole = owner[part]
        if whole not in known:
            known[whole] = _product(known, parts[whole], whole, where)
        memory = call_of(text, "fit") or call_of(text, "search")
        if memory is not None:
            _known_memory(memory, chip, f"{where}: sizes.{part}")
            if call_of(text, "fit"):
                fits.append((part, memory))
            known[part] = 1
        else:
            known[part] = _size(text, known, chip, f"{where}: sizes.{part}")
        stated.setdefault(whole, set()).add(part)
    for whole, ps in parts.items():
        given = stated.get(whole, set()) or {p for p in ps if p in known}
        _leave_open(known, whole, ps, given, where)
    return fits


def _product(known: Mapping[str, Count], parts: Sequence[str], whole: str, where: str) -> Count:
    missing = [p for p in parts if p not in known]
    if missing:
        raise MappingError(f"{where}: the size of {whole} is needed")
    return math.prod(known[p] for p in parts)


def _leave_open(
    known: dict[str, Count], whole: str, parts: Sequence[str], given: set[str], where: str
) -> None:
    left = [p for p in parts if p not in given]
    if whole not in known:
        known[whole] = _product(known, parts, whole, where)
    taken: Count = 1
    for p in given:
        taken = taken * known[p]
    if len(left) > 1:
        raise MappingError(f"{where}: sizes: give all parts of {whole} but one; open are {', '.join(left)}")
    if np.any(known[whole] % taken != 0):
        raise MappingError(
            f"{where}: {' * '.join(sorted(given))} = {taken} does not divide {whole} = {known[whole]}"
        )
    if left:
        known[left[0]] = known[whole] // taken
    elif np.any(taken != known[whole]):
        raise MappingError(f"{where}: the parts of {whole} make {taken}, its size is {known[whole]}")


def _derive(
    known: dict[str, Count], cascade: Cascade, parts: Mapping[str, tuple[str, ...]], where: str
) -> None:
    """Compute the ranks that follow from others, in place (S0 = T0 after T0 was given)."""
    names: dict[str, Any] = dict(known)
    for constant in cascade.constants:
        names[constant.name] = evaluate_node(constant.value, names, where=f"{cascade.name}: {constant.name}")
    for rank in cascade.ranks:
        if rank.size is not None and rank.name not in parts:
            known[rank.name] = names[rank.name] = evaluate_node(
                rank.size, names, where=f"{cascade.name}: {rank.name}"
            )
        elif rank.name not in known:
            raise MappingError(f"{where}: {cascade.name} needs the size of {rank.name}")


def _size(text: str | int, known: Mapping[str, Count], chip: SpatialChip, where: str) -> Count:
    names = {**chip.arrays, **chip.memories, **chip.parameters, **known}
    value = evaluate_expression(text, names, where=where, functions=_functions(where))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, np.ndarray, np.integer)) or np.any(value < 1):
        raise MappingError(f"{where}: '{text}' is {value}; a size is a whole number of at least 1")
    return value


def _functions(where: str) -> dict[str, Callable[..., Any]]:
    def extent(array: Any, axis: Any) -> int:
        if not isinstance(array, Array) or not isinstance(axis, int) or axis >= len(array.shape):
            raise MappingError(f"{where}: extent(ARRAY, AXIS) takes an array and one of its axes")
        return array.shape[axis]

    def capacity(memory: Any) -> float:
        if not isinstance(memory, Memory):
            raise MappingError(f"{where}: capacity(MEMORY) takes a memory")
        return memory.capacity_bytes

    return {"extent": extent, "capacity": capacity, "divisor": divisor}


def divisor(size: Count, most: Count) -> Count:
    """Return the largest divisor of a size that is at most `most`, element by element for arrays.

    >>> divisor(1000, 256), divisor(1024, 256), divisor(7, 4)
    (250, 256, 1)
    """
    if isinstance(size, np.ndarray) or isinstance(most, np.ndarray):
        return np.vectorize(_divisor, otypes=[np.int64])(size, most)
    return _divisor(int(size), int(most))


@functools.lru_cache(maxsize=65536)
def _divisor(size: int, most: int) -> int:
    return max((d for d in divisors(size) if d <= most), default=1)


@functools.lru_cache(maxsize=4096)
def divisors(n: int) -> tuple[int, ...]:
    """Return the divisors of a number, ascending.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return (*small, *(n // d for d in reversed(small) if d * d != n))


def _known_memory(memory: str, chip: SpatialChip, where: str) -> None:
    if memory not in chip.memories:
        raise MappingError(f"{where}: {chip.name} has no memory '{memory}'; {nearest(memory, chip.memories)}")


def _fitted(
    found: Extents, part: str, memory: str, cascade: Cascade, chip: SpatialChip, mapping: SpatialMapping
) -> Extents:
    """Return the extents with the largest divisor for a part with which everything kept in the memory fits."""
    whole = next(w for w, ps in found.parts.items() if part in ps)
    rest = next(p for p in found.parts[whole] if p not in mapping.nest.sizes)
    candidates = np.array(divisors(found.sizes[part] * found.sizes[rest]), dtype=np.int64)
    trial = Extents(
        {**found.sizes, part: candidates, rest: candidates[-1] // candidates},
        found.parts,
        found.variable,
        found.batch,
    )
    held = occupancy_words(lower(cascade, trial, chip, mapping), memory, chip, mapping) * chip.word_bytes
    fitting = candidates[np.broadcast_to(held <= chip.memories[memory].capacity_bytes, candidates.shape)]
    if not len(fitting):
        least = float(np.min(held))
        raise MappingError(
            f"{mapping.name or 'mapping'}: no tile fits {memory}: the smallest ({part} = 1) takes {least:,.0f} bytes, "
            f"{memory} of {chip.name} holds {chip.memories[memory].capacity_bytes:,.0f}"
        )
    best = int(fitting[-1])
    sizes = {**found.sizes, part: best, rest: int(candidates[-1]) // best}
    return Extents(sizes, found.parts, found.variable, found.batch)


def _searched(found: Extents, cascade: Cascade, chip: SpatialChip, mapping: SpatialMapping) -> Extents:
    """Return the extents with the parts that are to be searched set to what fits and moves least through DRAM."""
    parts = [p for p, text in mapping.nest.sizes.items() if call_of(text, "search")]
    if not parts:
        return found
    memories = {str(call_of(mapping.nest.sizes[p], "search")) for p in parts}
    owner = {p: whole for whole, ps in found.parts.items() for p in ps}
    rest = {p: next(r for r in found.parts[owner[p]] if r not in mapping.nest.sizes) for p in parts}
    axes = [np.array(divisors(found.sizes[p] * found.sizes[rest[p]]), dtype=np.int64) for p in parts]
    grid = [g.ravel() for g in np.meshgrid(*axes, indexing="ij")]
    sizes = dict(found.sizes)
    for part, values in zip(parts, grid, strict=True):
        sizes[part], sizes[rest[part]] = values, found.sizes[part] * found.sizes[rest[part]] // values
    nests = lower(cascade, Extents(sizes, found.parts, found.variable, found.batch), chip, mapping)
    legal = np.ones(len(grid[0]), dtype=bool)
    for memory in memories:
        held = occupancy_words(nests, memory, chip, mapping) * chip.word_bytes
        legal &= np.broadcast_to(held <= chip.memories[memory].capacity_bytes, legal.shape)
    if not legal.any():
        raise MappingError(
            f"{mapping.name or 'mapping'}: no tile fits {', '.join(sorted(memories))} of {chip.name}: "
            f"not even {', '.join(f'{p} = 1' for p in parts)}"
        )
    traffic = sum(
        (u.reads + u.updates + u.fills) * 1.0 for n in nests for u in count(n) if u.memory == chip.outermost
    )
    best = int(np.argmin(np.where(legal, traffic, np.inf)))
    chosen = {k: int(v[best]) if isinstance(v, np.ndarray) else v for k, v in sizes.items()}
    return Extents(chosen, found.parts, found.variable, found.batch)


def occupancy_words(nests: Sequence[Nest], memory: str, chip: SpatialChip, mapping: SpatialMapping) -> Count:
    """Return the words that one instance of a memory holds at a time.

    In a memory of the whole chip the Einsums of a phase live side by side: each tensor that it keeps is held once, by
    its largest tile. A memory of one array serves one Einsum after another. Phases follow each other.
    """
    phase_of = {einsum: phase for einsum, _, phase in mapping.binding.placements()}
    own = bool(chip.memories[memory].of)
    held: dict[str, dict[str, Count]] = {}
    for nest in nests:
        at = next((i for i, level in enumerate(nest.levels) if level.memory == memory), None)
        if at is None:
            continue
        tiles = held.setdefault(nest.einsum if own else phase_of[nest.einsum], {})
        inside = sizes_within(nest.levels)[at]
        for operand in nest.operands:
            if memory in operand.kept:
                tile = tile_words(operand, inside)
                tiles[operand.tensor] = greatest((tiles.get(operand.tensor, 0), tile))
    return greatest(sum(tiles.values()) for tiles in held.values())
