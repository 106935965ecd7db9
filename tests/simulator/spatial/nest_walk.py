"""The oracle of the access counts: the nest walked step by step, every element of every tile held in a set."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from types import MappingProxyType

from simulator.spatial.nest import Dimension, Nest, Operand

Point = dict[str, int]
# The elements of a tile, and the values of the operand's variables, by which one tile is told from another.
Tile = tuple[frozenset[tuple[int, ...]], frozenset[tuple[int, ...]]]


def walk(
    nest: Nest, sizes: dict[str, int], ends: dict[str, int] = MappingProxyType({})
) -> dict[tuple[str, bool, str], Counter[str]]:
    """Return reads, fills and updates of instance 0 of every memory, by (tensor, is output, memory).

    Values of the variables in `ends` stop there, before their loops do: the last tile is shorter.
    """
    out = {}
    for operand in nest.operands:
        kept = [i for i, level in enumerate(nest.levels) if level.memory in operand.kept]
        for position, i in enumerate(kept):
            child = kept[position + 1] if position + 1 < len(kept) else len(nest.levels)
            counts = _level(nest, sizes, ends, operand, i, child, outermost=position == 0)
            out[operand.tensor, operand.output, nest.levels[i].memory] = counts
    return out


def steps(nest: Nest, sizes: dict[str, int], ends: dict[str, int]) -> int:
    """Return the settings of all temporal loops in which some element has a point."""
    everything = Operand("", tuple(Dimension(((v, 1),)) for v in sorted({x.variable for x in nest.time})), ())
    wide = list(_places(nest, sizes, 0, len(nest.levels)))
    inside = len(nest.levels)
    return sum(
        any(_tile(nest, sizes, ends, everything, inside, now, place)[1] for place in wide)
        for now in _steps(nest, sizes)
    )


def fullest(nest: Nest, sizes: dict[str, int], ends: dict[str, int], operand: Operand, level: int) -> int:
    """Return the elements of the largest tile that an instance of a memory ever holds."""
    return max(len(_tile(nest, sizes, ends, operand, level, now, {})[0]) for now in _steps(nest, sizes))


def _level(
    nest: Nest,
    sizes: dict[str, int],
    ends: dict[str, int],
    operand: Operand,
    i: int,
    child: int,
    *,
    outermost: bool,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    held: Tile = frozenset(), frozenset()
    fetched: dict[tuple[int, ...], Tile] = {}
    seen_here: set[tuple[int, ...]] = set()
    updated: set[tuple[int, ...]] = set()
    known: dict[tuple[object, ...], Tile] = {}
    # Elements work to the end: beyond it they ask for what is not there, and have lost what they had.
    across = {loop.variable for at in nest.levels for loop in at.fan_out}
    lock_step = {v: end for v, end in ends.items() if v not in across}

    def tile_at(level: int, now: dict[int, int], place: dict[int, int], until: dict[str, int] = ends) -> Tile:
        outside = sum(len(at.time) for at in nest.levels[:level])
        key = (level, tuple(now[k] for k in range(outside)), tuple(sorted(place.items())), len(until))
        if key not in known:
            known[key] = _tile(nest, sizes, until, operand, level, now, place)
        return known[key]

    for now in _steps(nest, sizes):
        if not _tile(nest, sizes, ends, operand, len(nest.levels), now, {})[0]:
            continue
        at = tile_at(i, now, {})
        if at != held:
            held = at
            tile = at[0]
            if not outermost:
                counts["fills"] += len(tile - seen_here) * (not operand.output) + len(tile & seen_here)
            seen_here |= tile
        wanted: set[tuple[int, ...]] = set()
        for place in _places(nest, sizes, i, child):
            inner = tile_at(child, now, place)
            key = tuple(sorted(place.items()))
            asked = tile_at(child, now, place, lock_step)
            if child == len(nest.levels) or fetched.get(key) != asked:
                fetched[key] = asked
                wanted |= inner[0]
        if operand.output:
            counts["updates"] += len(wanted)
            counts["reads"] += len(wanted & updated)
            updated |= wanted
        else:
            counts["reads"] += len(wanted)
    return counts


def _steps(nest: Nest, sizes: dict[str, int]) -> Iterator[dict[int, int]]:
    """Yield the index of every temporal loop, in the order of execution; loops go by their position."""
    loops = [loop for level in nest.levels for loop in level.time]
    for indices in itertools.product(*(range(sizes[loop.part]) for loop in loops)):
        yield dict(enumerate(indices))


def _places(nest: Nest, sizes: dict[str, int], i: int, child: int) -> Iterator[dict[int, int]]:
    """Yield the coordinates of the child's instances under one instance of memory i."""
    before = sum(len(level.fan_out) for level in nest.levels[:i])
    loops = [loop for level in nest.levels[i:child] for loop in level.fan_out]
    for indices in itertools.product(*(range(sizes[loop.part]) for loop in loops)):
        yield {before + k: index for k, index in enumerate(indices)}


def _tile(
    nest: Nest,
    sizes: dict[str, int],
    ends: dict[str, int],
    operand: Operand,
    level: int,
    now: dict[int, int],
    place: dict[int, int],
) -> Tile:
    """Return what the loops at a level and inside touch, for the present indices of those outside."""
    ranges: list[list[tuple[str, int, int]]] = []  # one list a loop: (variable, index, size)
    time, space = 0, 0
    for number, here in enumerate(nest.levels):
        for loop in here.time:
            inside = number >= level
            indices = range(sizes[loop.part]) if inside else [now[time]]
            ranges.append([(loop.variable, index, sizes[loop.part]) for index in indices])
            time += 1
        for loop in here.fan_out:
            inside = number >= level
            indices = range(sizes[loop.part]) if inside else [place.get(space, 0)]
            ranges.append([(loop.variable, index, sizes[loop.part]) for index in indices])
            space += 1
    values = [
        v
        for v in map(_values, itertools.product(*ranges))
        if all(v[name] < end for name, end in ends.items())
    ]
    own = sorted(operand.variables)
    points = frozenset(tuple(v.get(name, 0) for name in own) for v in values)
    return frozenset(_element(operand, value) for value in values), points


def _values(chosen: tuple[tuple[str, int, int], ...]) -> Point:
    value: Point = {}
    for variable, index, size in chosen:
        value[variable] = value.get(variable, 0) * size + index
    return value


def _element(operand: Operand, value: Point) -> tuple[int, ...]:
    return tuple(sum(value.get(v, 0) * stride for v, stride in d.terms) for d in operand.dimensions)
