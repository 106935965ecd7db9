"""Sizes of the parts of split ranks: as a mapping states them, the largest that fit, or the best found by search."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError, nearest
from mappings.binding import SpatialMapping
from mappings.expression import call_of, evaluate_expression, evaluate_node

from ..hardware.model import Array, Memory, SpatialChip
from .access import room, run
from .cuts import check_cuts, cut, doubles, table_of
from .factors import divisor, divisors, step, tiles_of
from .holding import Groups
from .lowering import Layout, Ranks
from .nest import Count, Sizes, SizeTable, anywhere
from .work import greatest


def settle(
    layout: Layout, cascade: Cascade, sizes: Sizes, chip: SpatialChip, mapping: SpatialMapping
) -> SizeTable:
    """Return the sizes of all ranks and parts.

    A tile that the mapping states wins over one in `sizes`, which may have been filled in: M0 is the mapping's affair.

    Args:
        layout: the cascade on the chip.
        cascade: the algorithm.
        sizes: by rank; those of split ranks (M) and of batch ranks (B, H) included.
        chip: its arrays, memories and parameters may be named in the mapping's sizes.
        mapping: sizes of parts.

    Raises:
        MappingError: a part is not whole, or the parts do not divide their rank where counts would not be exact (see
            cuts.py), or no tile fits a memory.
    """
    where = mapping.name or "mapping"
    known = {k: v for k, v in sizes.items() if k in layout.ranks.variable}
    own = tuple(cascade.splits)
    open_parts = _state_parts(known, layout.ranks, own, chip, mapping, where, exact=True)
    _derive(known, cascade, where)
    rest = tuple(whole for whole in layout.ranks.parts if whole not in own)
    for word, parts in _state_parts(known, layout.ranks, rest, chip, mapping, where).items():
        open_parts[word] += parts
    cuttable = {whole: layout.ranks.parts[whole] for whole in rest}
    for part, memory in open_parts["fit"]:
        known = _fitted(layout, known, cuttable, part, memory, chip, mapping)
    known = _searched(layout, known, cuttable, open_parts["search"], chip, mapping)
    found = _table(doubles(known), cuttable)
    masked = {e: of.whole.own for e, of in layout.live.items() if of.whole is not None}
    check_cuts(layout.nests, layout.uses, found, masked, where)
    return found


def _table(known: Mapping[str, Count], cuttable: Mapping[str, Sequence[str]]) -> SizeTable:
    """Return a table of sizes, also where the parts of some ranks do not divide them."""
    cuts = []
    for whole, parts in cuttable.items():
        steps = [known[p] for p in parts]
        if anywhere(math.prod(steps) != known[whole]):
            cuts.append(cut(whole, known[whole], parts, steps))
    return table_of(known, cuts)


def _state_parts(
    known: dict[str, Count],
    ranks: Ranks,
    wholes: Sequence[str],
    chip: SpatialChip,
    mapping: SpatialMapping,
    where: str,
    *,
    exact: bool = False,
) -> dict[str, list[tuple[str, str]]]:
    """Give the parts of some ranks their sizes, in place; return those that are to fit a memory or to be searched.

    All tiles have to be equal where `exact` says so.
    """
    owner = {p: whole for whole, ps in ranks.parts.items() for p in ps}
    names: dict[str, Any] = {**chip.arrays, **chip.memories, **chip.parameters, **known}
    left_open: dict[str, list[tuple[str, str]]] = {"fit": [], "search": []}
    stated: dict[str, set[str]] = {}
    for part, text in mapping.nest.sizes.items():
        if part not in owner:
            raise MappingError(f"{where}: sizes: '{part}' is no part of a split; {nearest(part, owner)}")
        whole = owner[part]
        if whole not in wholes:
            continue
        if whole not in known:
            known[whole] = names[whole] = _whole(known, ranks.parts[whole], whole, where)
        word, memory = _choice(text)
        if memory:
            _check_memory(memory, chip, f"{where}: sizes.{part}")
            left_open[word].append((part, memory))
            known[part] = 1
        else:
            known[part] = _size(text, names, f"{where}: sizes.{part}")
        names[part] = known[part]
        stated.setdefault(whole, set()).add(part)
    for whole in wholes:
        ps = ranks.parts[whole]
        given = stated.get(whole) or {p for p in ps if p in known}
        _leave_open(known, whole, ps, given, where, exact=exact)
    return left_open


@functools.lru_cache(maxsize=4096)
def _choice(text: str | int) -> tuple[str, str]:
    """Return ("fit", memory), ("search", memory), or two empty strings."""
    for word in ("fit", "search"):
        memory = call_of(text, word)
        if memory:
            return word, memory
    return "", ""


def _whole(known: Mapping[str, Count], parts: Sequence[str], whole: str, where: str) -> Count:
    if any(p not in known for p in parts):
        raise MappingError(f"{where}: the size of {whole} is needed")
    return math.prod(known[p] for p in parts)


def _leave_open(
    known: dict[str, Count],
    whole: str,
    parts: Sequence[str],
    given: Collection[str],
    where: str,
    *,
    exact: bool,
) -> None:
    """Give the one part that nobody states what the others leave of the rank."""
    left = [p for p in parts if p not in given]
    if whole not in known:
        known[whole] = _whole(known, parts, whole, where)
    taken: Count = 1
    for p in given:
        taken = taken * known[p]
    if len(left) > 1:
        raise MappingError(f"{where}: sizes: give all parts of {whole} but one; open are {', '.join(left)}")
    if anywhere(known[whole] % taken != 0):
        shown = " * ".join(p for p in parts if p in given)
        refused = f"{where}: {shown} = {taken} does not divide {whole} = {known[whole]}"
        if exact or left != [parts[0]]:
            raise MappingError(refused)
        if anywhere(taken > known[whole]):
            raise MappingError(f"{refused}; a tile may be as large as its rank")
    if left:
        known[left[0]] = -(-known[whole] // taken)
    elif anywhere(taken != known[whole]):
        raise MappingError(f"{where}: the parts of {whole} make {taken}, its size is {known[whole]}")


def _derive(known: dict[str, Count], cascade: Cascade, where: str) -> None:
    """Compute the ranks that follow from others, in place (S0 = T0 after T0 was given)."""
    names: dict[str, Any] = known
    if cascade.constants:
        names = dict(known)
        for constant in cascade.constants:
            value = evaluate_node(constant.value, names, where=f"{cascade.name}: let {constant.name}")
            known[constant.name] = names[constant.name] = value
    for rank in cascade.ranks:
        if rank.size is not None and rank.name not in cascade.splits:
            value = evaluate_node(rank.size, {**names, **known}, where=f"{cascade.name}: rank {rank.name}")
            known[rank.name] = value
        elif rank.name not in known:
            raise MappingError(f"{where}: {cascade.name} needs the size of {rank.name}")


def of_chip(text: str | int, chip: SpatialChip, sizes: Mapping[str, Any], where: str) -> Count:
    """Return the value of an expression of a mapping over sizes, parameters and memories of the chip."""
    names = {**chip.arrays, **chip.memories, **chip.parameters, **sizes}
    return evaluate_expression(text, names, where=where, functions=_FUNCTIONS)


def _size(text: str | int, names: Mapping[str, Any], where: str) -> Count:
    value = evaluate_expression(text, names, where=where, functions=_FUNCTIONS)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, np.ndarray, np.integer)) or anywhere(value < 1):
        raise MappingError(f"{where}: '{text}' is {value}; a size is a whole number of at least 1")
    return value


def _extent(array: Any, axis: Any) -> int:
    if not isinstance(array, Array) or not isinstance(axis, int) or not 0 <= axis < len(array.shape):
        raise MappingError("extent(ARRAY, AXIS) takes an array of the chip and one of its axes")
    return array.shape[axis]


def _capacity(memory: Any) -> float:
    if not isinstance(memory, Memory):
        raise MappingError("capacity(MEMORY) takes a memory of the chip")
    return memory.capacity_bytes


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "extent": _extent,
    "capacity": _capacity,
    "divisor": divisor,
    "step": step,
}


def _check_memory(memory: str, chip: SpatialChip, where: str) -> None:
    if memory not in chip.memories:
        raise MappingError(f"{where}: {chip.name} has no memory '{memory}'; {nearest(memory, chip.memories)}")


def _rest(part: str, ranks: Ranks, mapping: SpatialMapping) -> str:
    """Return the part of the same rank that takes what is left."""
    whole = next(w for w, ps in ranks.parts.items() if part in ps)
    return next(p for p in ranks.parts[whole] if p not in mapping.nest.sizes)


def _fitted(
    layout: Layout,
    known: dict[str, Count],
    cuttable: Mapping[str, Sequence[str]],
    part: str,
    memory: str,
    chip: SpatialChip,
    mapping: SpatialMapping,
) -> dict[str, Count]:
    """Return the sizes with the largest tile for a part with which everything kept in the memory fits."""
    rest = _rest(part, layout.ranks, mapping)
    whole = known[part] * known[rest]
    capacity_words = chip.memories[memory].capacity_bytes / chip.word_bytes
    if any(isinstance(v, np.ndarray) for v in (capacity_words, *known.values())):
        shape = np.broadcast_shapes(np.shape(capacity_words), *(np.shape(v) for v in known.values()))
        wholes = np.broadcast_to(whole, shape)
        found = _fitted_each(layout, known, cuttable, (part, rest), wholes, memory, capacity_words)
        if not found.all():
            raise MappingError(f"{mapping.name or 'mapping'}: no tile fits {memory} at some of the points")
        return {**known, part: found, rest: -(-wholes // found)}
    candidates = tiles_of(int(whole))
    low, high = 0, len(candidates)
    while low < high:  # what is held only grows with the part
        middle = (low + high) // 2
        trial = _table({**known, part: candidates[middle], rest: -(-whole // candidates[middle])}, cuttable)
        if anywhere(occupancy(layout, memory, trial.full) > capacity_words):
            high = middle
        else:
            low = middle + 1
    if low == 0:
        smallest = _table({**known, part: 1, rest: whole}, cuttable).full
        least = float(np.max(occupancy(layout, memory, smallest))) * chip.word_bytes
        raise MappingError(
            f"{mapping.name or 'mapping'}: no tile fits {memory}: the smallest ({part} = 1) takes {least:,.0f} bytes, "
            f"{memory} of {chip.name} holds {chip.memories[memory].capacity_bytes:,.0f}"
        )
    return {**known, part: candidates[low - 1], rest: -(-whole // candidates[low - 1])}


def _fitted_each(
    layout: Layout,
    known: Mapping[str, Count],
    cuttable: Mapping[str, Sequence[str]],
    parts: tuple[str, str],
    wholes: Any,
    memory: str,
    capacity_words: Count,
) -> Any:
    """Return the largest tile that fits for each of many design points; 0 where none does."""
    part, rest = parts
    distinct, which = np.unique(wholes, return_inverse=True)
    lists = [tiles_of(int(w)) for w in distinct]
    longest = max(map(len, lists))
    table = np.array([d + d[-1:] * (longest - len(d)) for d in lists], dtype=np.float64)
    high = np.array([len(d) for d in lists])[which]
    low = np.zeros_like(high)
    while (low < high).any():
        middle = (low + high) // 2
        candidate = table[which, np.minimum(middle, longest - 1)]
        trial = _table({**known, part: candidate, rest: -(-wholes // candidate)}, cuttable)
        fits = occupancy(layout, memory, trial.full) <= capacity_words
        still = low < high
        low, high = np.where(still & fits, middle + 1, low), np.where(still & ~fits, middle, high)
    return np.where(low > 0, table[which, low - 1], 0.0)


def _searched(
    layout: Layout,
    known: dict[str, Count],
    cuttable: Mapping[str, Sequence[str]],
    open_parts: Sequence[tuple[str, str]],
    chip: SpatialChip,
    mapping: SpatialMapping,
) -> dict[str, Count]:
    """Return the sizes with the open parts set to what fits and moves least through the outermost memory."""
    if not open_parts:
        return known
    capacities = (chip.memories[memory].capacity_bytes for _, memory in open_parts)
    if any(np.ndim(v) for v in (*known.values(), *capacities, chip.word_bytes)):
        raise MappingError(f"{mapping.name or 'mapping'}: a tile is searched for one design point at a time")
    parts = [part for part, _ in open_parts]
    rest = {p: _rest(p, layout.ranks, mapping) for p in parts}
    wholes = {p: int(known[p] * known[rest[p]]) for p in parts}
    grid = np.meshgrid(*(np.array(divisors(wholes[p]), dtype=np.int64) for p in parts), indexing="ij")
    trial: dict[str, Count] = dict(known)
    for part, values in zip(parts, grid, strict=True):
        trial[part], trial[rest[part]] = values.ravel(), wholes[part] // values.ravel()
    table = _table(doubles(trial), cuttable)
    legal = np.ones(grid[0].size, dtype=bool)
    for memory in dict.fromkeys(memory for _, memory in open_parts):
        held = occupancy(layout, memory, table.full) * chip.word_bytes
        legal &= np.broadcast_to(held <= chip.memories[memory].capacity_bytes, legal.shape)
    if not legal.any():
        memories = ", ".join(dict.fromkeys(memory for _, memory in open_parts))
        raise MappingError(
            f"{mapping.name or 'mapping'}: no tile fits {memories} of {chip.name}: "
            f"not even {', '.join(f'{p} = 1' for p in parts)}"
        )
    moved = [run(use, table) for use in layout.uses if use.memory == chip.outermost]
    traffic = sum((u.reads + u.updates) * 1.0 for u in moved)
    best = int(np.argmin(np.where(legal, traffic, np.inf)))
    return {k: int(v[best]) if isinstance(v, np.ndarray) else v for k, v in trial.items()}


def occupancy(layout: Layout, memory: str, sizes: SizeTable) -> Count:
    """Return the words that one instance of a memory holds at the fullest time."""
    return greatest(held_together(layout.held[memory], sizes))


def held_together(groups: Groups, sizes: SizeTable) -> list[Count]:
    """Return the words of each group of tensors, each tensor by the largest of its tiles."""
    out = []
    for tensors in groups:
        together: Count = 0
        for tiles in tensors:
            first = room(tiles[0], sizes)
            together = together + (first if len(tiles) == 1 else greatest(room(t, sizes) for t in tiles))
        out.append(together)
    return out
