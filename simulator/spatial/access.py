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

A nest is turned into a program once (which sizes are multiplied for what); a program is then run for any sizes.

Source: the counting of Timeloop (ISPASS 2019), written out; tests walk the same nests element by element.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from einsum_cascade.declarations import rank_of
from einsum_cascade.expr import Apply, Num, Size
from mappings.expression import evaluate_node

from .live import Live, Mask, settings
from .nest import Count, Dimension, Level, Loop, Nest, Operand, Sizes, SizeTable


@dataclass(frozen=True, slots=True)
class Tile:
    """What a tile's number of elements is a product of.

    Attributes:
        parts: sizes of loops.
        coupled: indices that are sums of variables: for each, its terms as (loops of the variable, stride).
        gathered: indices that gather: the loops of their variables, and the ranks that hold no more elements.
    """

    parts: tuple[str, ...]
    coupled: tuple[tuple[tuple[tuple[str, ...], object], ...], ...] = ()
    gathered: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Trips:
    """Temporal loops outside a tile, innermost first, with whether they move the tensor.

    Attributes:
        all: every loop, where each step counts; else None.
        moving: those that move it, innermost first, each with the loops from there outwards.
    """

    loops: tuple[tuple[str, bool], ...]
    all: tuple[str, ...] | None = None
    moving: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = tuple(part for part, _ in self.loops)
        moving = tuple((part, names[i:]) for i, (part, moves) in enumerate(self.loops) if moves)
        object.__setattr__(self, "moving", moving)


@dataclass(frozen=True, slots=True)
class Use:
    """How one operand uses one memory: the program behind a `Usage`.

    Attributes:
        brought: what of the tile comes from outside at a time: all of it, or one generation where states are carried.
        below: the tile of the next memory inside; None for the functional units.
        spread: fan-out between this memory and the next inside that reaches different elements.
        above: fan-out outside this memory that reaches different elements.
        copies: all fan-out outside this memory.
        spares_reads: the first touch of a word needs no read: outputs, and states that the next memory inside carries.
        spares_fills: the same of fills from outside: outputs, and states that this memory carries.
    """

    einsum: str
    operand: Operand
    memory: str
    outermost: bool
    whole: Tile
    tile: Tile
    brought: Tile
    below: Tile | None
    spread: tuple[str, ...]
    above: tuple[str, ...]
    copies: tuple[str, ...]
    inner: Trips
    outer: Trips
    spares_reads: bool = False
    spares_fills: bool = False


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


def program(nest: Nest) -> tuple[Use, ...]:
    """Return, for every operand and memory that keeps it, which sizes are multiplied for what."""
    within = loops_within(nest.levels)
    return tuple(use for operand in nest.operands for use in _uses(nest, operand, within))


def loops_within(levels: Sequence[Level]) -> list[dict[str, tuple[str, ...]]]:
    """Return, for each level and for the units below the last, the loops of each variable there and inside."""
    out: list[dict[str, tuple[str, ...]]] = [{}]
    for level in reversed(levels):
        loops = dict(out[-1])
        for loop in (*level.time, *level.fan_out):
            loops[loop.variable] = (*loops.get(loop.variable, ()), loop.part)
        out.append(loops)
    return out[::-1]


def tile_of(operand: Operand, within: Mapping[str, tuple[str, ...]]) -> Tile:
    """Return the tile of an operand under some loops."""
    parts: list[str] = [*operand.whole]
    coupled = []
    gathered = []
    for dimension in operand.dimensions:
        if dimension.within:
            loops = tuple(part for v, _ in dimension.terms for part in within.get(v, ()))
            gathered += [(loops, dimension.within)] if loops else []
        elif dimension.gathers:
            parts += (part for v, _ in dimension.terms for part in within.get(v, ()))
        elif len(dimension.terms) == 1:  # a stride leaves gaps, not more elements
            parts += within.get(dimension.terms[0][0], ())
        elif _single(dimension, within) is not None:
            parts += _single(dimension, within) or ()
        elif _are_digits(dimension):  # m1*M0 + m0 is never the same for two pairs
            parts += (part for v, _ in dimension.terms for part in within[v])
        else:
            coupled.append(tuple((within.get(v, ()), stride) for v, stride in dimension.terms))
    return Tile(tuple(parts), tuple(coupled), tuple(gathered))


def _single(dimension: Dimension, within: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the loops of an index of which at most one variable moves here."""
    moving = [v for v, _ in dimension.terms if within.get(v)]
    return within.get(moving[0], ()) if len(moving) == 1 else (() if not moving else None)


def _are_digits(dimension: Dimension) -> bool:
    """Tell whether the stride of every variable is the size of all ranks below it, as in m1*M0 + m0."""
    found = {v: _factors(stride) for v, stride in dimension.terms}
    below: Counter[str] = Counter()
    for v in sorted(found, key=lambda v: found[v].total()):
        if found[v] != below:
            return False
        below[rank_of(v)] += 1
    return True


def _factors(stride: object) -> Counter[str]:
    """Return the sizes that a stride is a product of; a name of no rank for what is no size."""
    if isinstance(stride, Size):
        return Counter([stride.name])
    if isinstance(stride, Apply) and stride.op == "*":
        return sum(map(_factors, stride.args), Counter[str]())
    return Counter() if stride in (1, Num(1)) else Counter([""])


def _uses(nest: Nest, operand: Operand, within: Sequence[Mapping[str, tuple[str, ...]]]) -> Iterable[Use]:
    levels = nest.levels
    moved = operand.variables
    kept = [i for i, level in enumerate(levels) if level.memory in operand.kept]
    for position, i in enumerate(kept):
        last = position == len(kept) - 1
        c = len(levels) if last else kept[position + 1]
        carried_in, carried = (_carried(operand, levels, at) for at in (c, i))
        inner = _time(levels[:c], moved - {operand.generation} if carried_in else moved)
        tile = tile_of(operand, within[i])
        below = None if last else (_one_generation if carried_in else tile_of)(operand, within[c])
        yield Use(
            einsum=nest.einsum,
            operand=operand,
            memory=levels[i].memory,
            outermost=position == 0,
            whole=_one_generation(operand, within[0]),
            tile=tile,
            brought=_one_generation(operand, within[i]) if carried else tile,
            below=below,
            spread=_fan_out(levels[i:c], moved),
            above=_fan_out(levels[:i], moved),
            copies=_fan_out(levels[:i], None),
            inner=Trips(inner, tuple(part for part, _ in inner) if last else None),
            outer=Trips(_time(levels[:i], moved - {operand.generation} if carried else moved)),
            spares_reads=operand.output or carried_in,
            spares_fills=operand.output or carried,
        )


def _carried(operand: Operand, levels: Sequence[Level], at: int) -> bool:
    """Tell whether a memory still holds of a state what the generation before left there.

    It does where nothing but other words of the state comes between the start and the last generation: what starts
    all over again has to begin with the first one again.
    """
    if at == len(levels) or levels[at].memory not in operand.carried:
        return False
    generation = operand.generation
    if any(loop.variable == generation for level in levels for loop in level.fan_out):
        return False
    outside = [loop.variable for level in levels[:at] for loop in level.time]
    inside = any(loop.variable == generation for level in levels[at:] for loop in level.time)
    last = len(outside) if inside else len(outside) - outside[::-1].index(generation)
    return operand.variables.issuperset(outside[:last])


def _one_generation(operand: Operand, within: Mapping[str, tuple[str, ...]]) -> Tile:
    """Return the tile of an operand, of one generation if it is a state."""
    return tile_of(operand, {v: loops for v, loops in within.items() if v != operand.generation})


def _fan_out(levels: Sequence[Level], moved: frozenset[str] | None) -> tuple[str, ...]:
    loops: list[Loop] = [loop for level in levels for loop in level.fan_out]
    return tuple(loop.part for loop in loops if moved is None or loop.variable in moved)


def _time(levels: Sequence[Level], moved: frozenset[str]) -> tuple[tuple[str, bool], ...]:
    loops = [loop for level in levels for loop in level.time]
    return tuple((loop.part, loop.variable in moved) for loop in reversed(loops))


def run(use: Use, sizes: SizeTable) -> Usage:
    """Return the words that a use moves for some sizes."""
    accesses = sizes[use.spread] * trips(use.inner, sizes)
    if use.below is not None:
        accesses = accesses * words(use.below, sizes)
    share: Count = 0 if use.outermost else words(use.brought, sizes) * trips(use.outer, sizes)
    if not use.spares_reads and not use.spares_fills:
        return Usage(
            use.einsum, use.operand, use.memory, use.outermost, accesses, share, 0, 0, sizes[use.copies]
        )
    first = _quotient(words(use.whole, sizes), sizes[use.above])
    return _with_first_touches(use, accesses, share, first, first, sizes[use.copies])


def run_masked(use: Use, sizes: SizeTable, mask: Mask) -> Usage:
    """Return the words that a use moves where a mask leaves some steps without anything to do.

    As in `run`, but loops count in as many settings as leave a point: what steps over a tile brings it, whole, when
    there is work for it, and a word of an output is new the first time that a tile with it is worked on.

    Raises:
        CascadeError: there are too many points to look at.
    """
    piece = sizes[use.spread] * (1 if use.below is None else words(use.below, sizes))
    accesses = piece * _live_trips(use.inner, sizes, mask)
    brought = words(use.brought, sizes)
    share: Count = 0 if use.outermost else brought * _live_trips(use.outer, sizes, mask)
    reads = piece * _distinct(use.inner, sizes, mask) if use.spares_reads else 0
    fills = brought * _distinct(use.outer, sizes, mask) if use.spares_fills else 0
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
    piece = sizes[use.spread] * (1 if use.below is None else words(use.below, sizes))
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


def words(tile: Tile, sizes: SizeTable) -> Count:
    """Return the number of elements of a tile.

    >>> words(Tile((), (((("P",), 1), (("W",), 1)),)), SizeTable({"P": 16, "W": 5}))
    20
    """
    total = sizes[tile.parts]
    if not tile.coupled and not tile.gathered:
        return total
    for loops, ranks in tile.gathered:
        total = total * _least(sizes[loops], sizes[ranks])
    for terms in tile.coupled:
        span: Count = 1
        points: Count = 1
        for loops, stride in terms:
            size = sizes[loops]
            span = span + _stride(stride, sizes) * (size - 1)
            points = points * size
        total = total * _least(span, points)
    return total


def _least(a: Count, b: Count) -> Count:
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)


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
