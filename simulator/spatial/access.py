"""How often each memory is read, filled and updated by a loop nest: closed form, for one nest or many at once.

For a tensor `t`, a memory `i` that keeps a tile of it and the next memory `c` inside that also does (or the
functional units, whose tile is one element):

* tile(i): elements of `t` that the loops at `i` and inside it touch.
* trips(c): how often the tile of `c` changes: the product of the temporal loops outside `c`, without the innermost
  run of loops that do not move `t`. The functional units ask anew in every cycle, so nothing is left out for them.
* accesses(i) = tile(c) x (fan-out between `i` and `c` that moves `t`) x trips(c). Elements of a fan-out that need
  the same word get it in one access, and partial sums of a fan-out meet on the way up.
* share(i) = tile(i) x trips(i): what moves between `i` and the memory outside it, per instance of `i`.

An input is read `accesses` times and filled `share` times. An output is updated `accesses` times, read before every
update but the first of each word, and filled from outside for every visit but the first. All numbers are words of
one instance of the memory.

Source: the counting of Timeloop (ISPASS 2019), written out; tests walk the same nests element by element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .nest import Count, Dimension, Level, Loop, Nest, Operand


@dataclass(frozen=True, slots=True)
class Usage:
    """What one operand of one Einsum does to one memory, in words of one instance.

    Attributes:
        outermost: True where no memory outside keeps the operand.
        tile: words of the operand that the memory holds at a time.
        elided: first touches of an output's words, which need no read.
        instances: instances of the memory that are in use.
    """

    einsum: str
    operand: Operand
    memory: str
    outermost: bool
    tile: Count
    reads: Count
    fills: Count
    updates: Count
    elided: Count
    instances: Count


def count(nest: Nest) -> tuple[Usage, ...]:
    """Return the use of every memory by every operand of a nest.

    >>> from .nest import Dimension, Level, Loop, Operand
    >>> levels = (Level("DRAM", (Loop("m", 4), Loop("e", 2))), Level("RF", ()))
    >>> q = Operand("Q", (Dimension((("e", 1),)),), ("DRAM", "RF"))
    >>> [(u.memory, u.reads, u.fills) for u in count(Nest("QK", "PE", levels, (q,), ()))]
    [('DRAM', 8, 0), ('RF', 8, 8)]
    """
    within = sizes_within(nest.levels)
    fan_out = _instances(nest.levels)
    return tuple(u for operand in nest.operands for u in _uses(nest, operand, within, fan_out))


def sizes_within(levels: Sequence[Level]) -> list[dict[str, Count]]:
    """Return, for each level and for the units below the last, the steps of each variable there and inside."""
    out: list[dict[str, Count]] = [{}]
    for level in reversed(levels):
        sizes = dict(out[-1])
        for loop in (*level.time, *level.space):
            sizes[loop.variable] = sizes.get(loop.variable, 1) * loop.size
        out.append(sizes)
    return out[::-1]


def tile_words(operand: Operand, sizes: Mapping[str, Count]) -> Count:
    """Return the elements of an operand that variables running over the given sizes touch.

    >>> window = Operand("K", (Dimension((("p", 1), ("w", 1))),), ())
    >>> tile_words(window, {"p": 16, "w": 5})
    20
    """
    words: Count = 1
    for dimension in operand.dimensions:
        words = words * _extent(dimension, sizes)
    return words


def _extent(dimension: Dimension, sizes: Mapping[str, Count]) -> Count:
    terms = dimension.terms
    if len(terms) == 1:
        return sizes.get(terms[0][0], 1)  # a stride leaves gaps, not more elements
    span: Count = 1
    points: Count = 1
    for variable, stride in terms:
        size = sizes.get(variable, 1)
        span = span + stride * (size - 1)
        points = points * size
    return least(span, points)


def least(a: Count, b: Count) -> Count:
    """Return the smaller of two counts, element by element for arrays."""
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)


def _uses(
    nest: Nest, operand: Operand, within: Sequence[Mapping[str, Count]], fan_out: Sequence[Count]
) -> list[Usage]:
    levels = nest.levels
    moved = operand.variables
    kept = [i for i, level in enumerate(levels) if level.memory in operand.kept]
    whole = tile_words(operand, within[0])
    out = []
    for position, i in enumerate(kept):
        last = position == len(kept) - 1
        c = len(levels) if last else kept[position + 1]
        tile = tile_words(operand, within[i])
        below = 1 if last else tile_words(operand, within[c])
        accesses = below * _spread(levels[i:c], moved) * _trips(levels[:c], moved, every_cycle=last)
        share: Count = 0 if position == 0 else tile * _trips(levels[:i], moved, every_cycle=False)
        if not operand.output:
            use = (accesses, share, 0, 0)
        else:
            first = whole // _spread(levels[:i], moved)
            use = (accesses - first, 0 if position == 0 else share - first, accesses, first)
        out.append(Usage(nest.einsum, operand, levels[i].memory, position == 0, tile, *use, fan_out[i]))
    return out


def _spread(levels: Sequence[Level], moved: frozenset[str]) -> Count:
    """Return the fan-out below the levels that reaches different elements."""
    product: Count = 1
    for level in levels:
        for loop in level.space:
            if loop.variable in moved:
                product = product * loop.size
    return product


def _trips(levels: Sequence[Level], moved: frozenset[str], *, every_cycle: bool) -> Count:
    product: Count = 1
    moving: Count = every_cycle
    for level in reversed(levels):
        for loop in reversed(level.time):
            if loop.variable in moved:
                moving = moving | (loop.size > 1)
            product = product * _where(moving, loop)
    return product


def _where(moving: Count, loop: Loop) -> Count:
    if isinstance(moving, np.ndarray):
        return np.where(moving, loop.size, 1)
    return loop.size if moving else 1


def _instances(levels: Sequence[Level]) -> list[Count]:
    out: list[Count] = []
    product: Count = 1
    for level in levels:
        out.append(product)
        for loop in level.space:
            product = product * loop.size
    return out
