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
update but the first of each word, and filled from outside for every visit but the first. So is a state, whose
generation before lies where it was left, as long as its tile stays there. All numbers are words of one instance of the
memory.

A nest is turned into a program once (which sizes are multiplied for what); a program is then run for any sizes.

Source: the counting of Timeloop (ISPASS 2019), written out; tests walk the same nests element by element.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mappings.expression import evaluate_node

from .live import Live, Mask, settings
from .nest import Count, Nest, Operand, Sizes, SizeTable, least
from .programs import Several, Tile, Trips, Use, program


class Usage(NamedTuple):
    """What one operand of one Einsum does to one memory, in words of one instance.

    Attributes:
        outermost: True where no memory outside keeps the operand.
        elided: first touches of an output's words, which need no read.
        instances: instances of the memory that are in use.
        spilled_from: the memory that should hold these words and has no room for them; else empty.
    """

    einsum: str
    operand: Operand
    memory: str
    outermost: bool
    reads: Count
    fills: Count
    updates: Count
    elided: Count
    instances: Count
    spilled_from: str = ""


def count(nest: Nest, sizes: Sizes) -> tuple[Usage, ...]:
    """Return the use of every memory by every operand of a nest.

    >>> from .nest import Dimension, Level, Loop, Operand
    >>> levels = (Level("DRAM", (Loop("m", "M"), Loop("e", "E"))), Level("RF"))
    >>> q = Operand("Q", (Dimension((("e", 1),)),), ("DRAM", "RF"))
    >>> found = count(Nest("QK", "PE", levels, (q,), ()), {"M": 4, "E": 2})
    >>> [(u.memory, u.reads, u.fills) for u in found]
    [('DRAM', 8, 0), ('RF', 8, 8)]
    """
    table = SizeTable(sizes)
    return tuple(run(use, table) for use in program(nest))


def run(use: Use, sizes: SizeTable) -> Usage:
    """Return the words that a use moves for some sizes."""
    sizes = sizes.across(use.copies)
    accesses = sizes[use.spread] * trips(use.inner, sizes)
    if use.below is not None:
        accesses = accesses * words(use.below, sizes)
    share: Count = 0 if use.outermost else words(use.brought, sizes) * trips(use.outer, sizes)
    if not use.spares_reads and not use.spares_fills:
        return Usage(
            use.einsum, use.operand, use.memory, use.outermost, accesses, share, 0, 0, sizes[use.copies]
        )
    first = _quotient(words(use.whole, sizes), sizes[use.above])
    accesses, share, first = map(
        sizes.whole, (accesses, share, first)
    )  # before a difference, which may be zero
    return _with_first_touches(use, accesses, share, first, first, sizes[use.copies])


def run_masked(use: Use, sizes: SizeTable, mask: Mask) -> Usage:
    """Return the words that a use moves where a mask leaves some steps without anything to do.

    As in `run`, but loops count in as many settings as leave a point: what steps over a tile brings it, whole, when
    there is work for it, and a word of an output is new the first time that a tile with it is worked on.

    Raises:
        CascadeError: there are too many points to look at.
    """
    sizes = sizes.across((*use.copies, *mask.own))
    piece = sizes[use.spread] * (1 if use.below is None else words(use.below, sizes))
    accesses = piece * _live_trips(use.inner, sizes, mask)
    brought = words(use.brought, sizes)
    share: Count = 0 if use.outermost else brought * _live_trips(use.outer, sizes, mask)
    reads = piece * _distinct(use.inner, sizes, mask) if use.spares_reads else 0
    fills = brought * _distinct(use.outer, sizes, mask) if use.spares_fills else 0
    accesses, share, reads, fills = map(sizes.whole, (accesses, share, reads, fills))
    return _with_first_touches(use, accesses, share, reads, fills, sizes[use.copies])


def _with_first_touches(
    use: Use, accesses: Count, share: Count, read_free: Count, fill_free: Count, instances: Count
) -> Usage:
    """Return a usage from what passes inwards and outwards, and the first touches that need no read, and no fill."""
    output = use.operand.output
    return Usage(
        use.einsum,
        use.operand,
        use.memory,
        use.outermost,
        accesses - read_free if use.spares_reads else accesses,
        share - fill_free if use.spares_fills and not use.outermost else share,
        accesses if output else 0,
        read_free if output else 0,
        instances,
    )


def with_identities(usage: Usage, use: Use, sizes: SizeTable, live: Live) -> Usage:
    """Return a masked usage with the results that no point reaches, which are written without being read before.

    Raises:
        CascadeError: there are too many points to look at.
    """
    if not use.operand.output or live.written is live.whole or live.whole is None:
        return usage
    loops = tuple(part for part, _ in use.inner.moving)
    padded = sizes.across((*use.copies, *live.whole.own))
    piece = padded[use.spread] * (1 if use.below is None else words(use.below, padded))
    left = piece * (settings(live.written, loops, sizes) - settings(live.whole, loops, sizes))
    return usage._replace(updates=usage.updates + left, elided=usage.elided + left)


def _distinct(outside: Trips, sizes: SizeTable, mask: Mask) -> Count:
    """Return how many different tiles are worked on."""
    return settings(mask, tuple(part for part, _ in outside.moving), sizes)


def _live_trips(outside: Trips, sizes: SizeTable, mask: Mask) -> Count:
    """Return how often a tile changes, counting the settings of loops in which there is work for it."""
    if outside.all is not None:
        return settings(mask, outside.all, sizes)
    total: Count = settings(mask, (), sizes)
    for part, loops in reversed(outside.moving):  # the innermost of several steps has the last word
        size = sizes[part]
        if isinstance(size, np.ndarray):
            total = np.where(size > 1, settings(mask, loops, sizes), total)
        elif size > 1:
            total = settings(mask, loops, sizes)
    return total


def _quotient(words: Count, parts: Count) -> Count:
    # The parts divide the words; for arrays a true division is thirty times faster than a floored one.
    return words / parts if isinstance(words, np.ndarray) else words // parts


def room(held: Tile | Several, sizes: SizeTable) -> Count:
    """Return the words that a tile takes, or several of one tensor at different places.

    >>> blocks = Several((Tile(("E", "P0")), Tile(("E", "M0"))), Tile(("E", "N")))
    >>> [room(blocks, SizeTable({"E": 4, "P0": 3, "M0": 5, "N": n})) for n in (15, 6)]
    [32, 24]
    """
    if isinstance(held, Tile):
        return words(held, sizes)
    together: Count = 0
    for tile in held.tiles:
        together = together + words(tile, sizes)
    return least(together, words(held.whole, sizes))


def words(tile: Tile, sizes: SizeTable) -> Count:
    """Return the number of elements of a tile.

    >>> words(Tile((), (((("P",), 1), (("W",), 1)),)), SizeTable({"P": 16, "W": 5}))
    20
    """
    total = sizes[tile.parts]
    if not tile.coupled and not tile.gathered:
        return total
    for loops, ranks in tile.gathered:
        total = total * least(sizes[loops], sizes[ranks])
    for terms in tile.coupled:
        span: Count = 1
        points: Count = 1
        for loops, stride in terms:
            size = sizes[loops]
            span = span + _stride(stride, sizes) * (size - 1)
            points = points * size
        total = total * least(span, points)
    return total


def _stride(stride: object, sizes: Sizes) -> Count:
    if isinstance(stride, (int, float)):
        return abs(stride)
    return abs(evaluate_node(stride, sizes, where="stride"))  # type: ignore[arg-type]


def trips(outside: Trips, sizes: SizeTable) -> Count:
    """Return how often a tile changes: the loops outside it, without the innermost run that does not move it."""
    if outside.all is not None:
        return sizes[outside.all]
    for part, loops in outside.moving:
        size = sizes[part]
        if isinstance(size, np.ndarray):
            return _trips_each(outside, sizes)
        if size > 1:
            return sizes[loops]
    return 1


def _trips_each(outside: Trips, sizes: SizeTable) -> Count:
    """Return the same for many design points, where it depends on the point which loops have several steps."""
    total: Count = 1
    moving: Count = False
    for part, moves in outside.loops:
        size = sizes[part]
        if moves:
            total = total * size  # a loop of one step moves nothing, and multiplies by one
            moving = True if moving is True else _settled(moving | (size > 1))
        elif moving is True:
            total = total * size
        elif moving is not False:
            total = total * np.where(moving, size, 1)
    return total


def _settled(moving: Count) -> Count:
    """Return an array of truths as one truth where they agree."""
    if isinstance(moving, np.ndarray):
        return True if moving.all() else (moving if moving.any() else False)
    return bool(moving)
