"""A loop nest -> for every operand and memory, which sizes are multiplied for what: counted once, run for any sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from einsum_cascade.declarations import rank_of
from einsum_cascade.expr import Apply, Num, Size

from .nest import Dimension, Level, Loop, Nest, Operand


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
class Several:
    """Tiles of one tensor at different places, held beside each other.

    Attributes:
        whole: no more than that is there of the tensor.
    """

    tiles: tuple[Tile, ...]
    whole: Tile


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
        most: where the Einsum reads the tensor at several places: what all of them together can show; else None.
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
    most: Tile | None = None


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
    """Return the tile of an operand under some loops.

    A variable that stands alone in one index tells its values apart; in the others it adds nothing: `X[p, p]` has one
    element for each p, and `X[p, p + w]` as many as there are w.
    """
    parts: list[str] = [*operand.whole]
    coupled = []
    gathered = []
    for dimension in _once(operand.dimensions):
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
            parts += (part for v, _ in dimension.terms for part in within.get(v, ()))
        else:
            coupled.append(tuple((within.get(v, ()), stride) for v, stride in dimension.terms))
    return Tile(tuple(parts), tuple(coupled), tuple(gathered))


def _once(dimensions: Sequence[Dimension]) -> list[Dimension]:
    """Return the indices without the variables that another one, in which they stand alone, tells apart."""
    told: set[str] = set()
    out = list(dimensions)
    for i in sorted(range(len(out)), key=lambda i: len(out[i].terms) > 1 or bool(out[i].gathers)):
        if out[i].gathers:
            continue  # see operands.py
        left = tuple((v, stride) for v, stride in out[i].terms if v not in told)
        out[i] = out[i] if left == out[i].terms else replace(out[i], terms=left)
        if len(left) == 1:
            told.add(left[0][0])
    return out


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
            most=_most(operand, within[i]) if operand.place else None,
        )


def _most(operand: Operand, within: Mapping[str, tuple[str, ...]]) -> Tile:
    """Return what all places together can show at which an Einsum reads a tensor: all of it where they differ."""
    common = tuple(d for d in operand.dimensions if d not in operand.differs)
    tile = tile_of(replace(operand, dimensions=common), within)
    return replace(tile, parts=(*tile.parts, *operand.rest))


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
