"""What an Einsum reads has to be somewhere: on the chip since it was made or brought, or in the outermost memory.

The Einsums of a phase step together over the loops that they begin with in common, as far as nobody needs what another
has not finished. Inside those, one follows the other: what the second reads of the first has to find room as a whole,
in what some memory keeps of it for either of them. So has a sum that is not finished while other results are worked on,
and a state until its next generation. A mapping in which it does not would move less than any machine can, and is
refused. What is checked is necessary, not sufficient: words are counted, not followed.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError
from einsum_cascade.expr import Access, variables
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from ..identity import Same
from .access import words
from .holding import Stated, stated_tiles
from .lowering import Layout
from .nest import Count, Loop, Nest, Operand, SizeTable, anywhere, least
from .programs import Tile, tile_of
from .work import greatest


@dataclass(frozen=True, slots=True)
class _Way:
    """A way in which words of a tensor stay on the chip.

    Attributes:
        needed: tiles of the two who exchange the words, of which the smaller has to stay.
        held: what memories hold.
    """

    needed: tuple[Tile, ...]
    held: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class _Need:
    """Words of a tensor that have to stay on the chip, in one of some ways; what is said where they do not.

    Attributes:
        whole: ranks of which the tensor has no more elements.
    """

    ways: tuple[_Way, ...]
    whole: tuple[str, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class _Use:
    """An operand of a nest, with its temporal loops, those of one step left out."""

    nest: Nest
    operand: Operand
    loops: tuple[Loop, ...]


def check_flow(
    cascade: Cascade, layout: Layout, sizes: SizeTable, chip: SpatialChip, mapping: SpatialMapping
) -> None:
    """Refuse a mapping under which an Einsum would read what is nowhere any more.

    Args:
        cascade: the algorithm, with what is computed again.
        layout: its nests on the chip.
        sizes: of full tiles.
        chip: the order of its memories.
        mapping: its phases, and what it says of tiles that wait.

    Raises:
        MappingError: such an Einsum.
    """
    holds = tuple(n for n, m in chip.memories.items() if n != chip.outermost and not m.passes_on)
    given = (Same(cascade), Same(layout), Same(mapping), chip.outermost, holds)
    for single, where in _patterns(layout, sizes):
        for need in _needs(*given, single):
            asked, found = _worst(need, sizes)
            if anywhere(where & (asked > found)):
                lost = (
                    f" ({np.max(asked):,.0f} words, of which {np.min(found):,.0f} are kept)"
                    if need.ways
                    else ""
                )
                advice = f"; keep it in {chip.outermost} too, or hold more of it inside" if need.ways else ""
                raise MappingError(f"{mapping.name or 'mapping'}: {need.problem}{lost}{advice}")


def _worst(need: _Need, sizes: SizeTable) -> tuple[Count, Count]:
    """Return the words that have to stay, and those that do, in the way that falls least short."""
    out: tuple[Count, Count] = (np.inf, 0)
    for way in need.ways:
        asked: Count = sizes[need.whole]
        for tile in way.needed:
            asked = least(asked, words(tile, sizes))
        found = greatest(words(tile, sizes) for tile in way.held)
        if not anywhere(asked > found):
            return asked, found
        if not anywhere(out[0] < asked):
            out = asked, found
    return out


def _patterns(layout: Layout, sizes: SizeTable) -> Iterator[tuple[frozenset[str], Count]]:
    """Yield the loops that take a single step, with where they are those, for design points that differ in that."""
    parts = _parts(Same(layout))
    single = frozenset(p for p in parts if not anywhere(sizes[p] > 1))
    mixed = [
        p for p in parts if p not in single and isinstance(sizes[p], np.ndarray) and (sizes[p] <= 1).any()
    ]
    if not mixed:
        yield single, True
        return
    bits: Count = 0
    for i, part in enumerate(mixed):
        bits = bits + ((sizes[part] <= 1).astype(np.int64) << i)
    for pattern in np.unique(bits):
        yield single | {p for i, p in enumerate(mixed) if int(pattern) >> i & 1}, bits == pattern


@functools.lru_cache(maxsize=512)
def _parts(layout: Same[Layout]) -> tuple[str, ...]:
    loops = (loop for n in layout.it.nests for loop in _expanded(layout.it, n.time))
    return tuple(dict.fromkeys(loop.part for loop in loops))


def _expanded(layout: Layout, loops: Iterable[Loop]) -> Iterator[Loop]:
    """Yield loops with those over a whole rank as loops over its parts, so that they compare with others."""
    for loop in loops:
        parts = layout.ranks.parts.get(loop.part)
        if parts is None:
            yield loop
        else:
            yield from _expanded(layout, (Loop(loop.variable, part) for part in parts))


@functools.lru_cache(maxsize=512)
def _needs(
    cascade: Same[Cascade],
    layout: Same[Layout],
    mapping: Same[SpatialMapping],
    outermost: str,
    holds: tuple[str, ...],
    single: frozenset[str],
) -> tuple[_Need, ...]:
    """Return what has to stay on the chip under a mapping and may not, given the loops of a single step."""
    flow = _Flow(cascade.it, layout.it, mapping.it, outermost, holds, single)
    return tuple(need for need in flow.needs() if not any(map(_always, need.ways)))


def _always(way: _Way) -> bool:
    """Tell whether words stay whatever the sizes are: one of the tiles lies in what is held."""
    return any(
        replace(asked, parts=tile.parts) == tile and Counter(asked.parts) <= Counter(tile.parts)
        for asked in way.needed
        for tile in way.held
    )


class _Flow:
    """Who reads what of whom under a mapping."""

    def __init__(
        self,
        cascade: Cascade,
        layout: Layout,
        mapping: SpatialMapping,
        outermost: str,
        holds: Sequence[str],
        single: frozenset[str],
    ) -> None:
        self.cascade, self.layout, self.outermost, self.holds = cascade, layout, outermost, holds
        self.einsums = {n.einsum: cascade.einsum(n.einsum) for n in layout.nests}
        self.phase_of = layout.phase_of
        self.order = list(mapping.binding.phases)
        shared = {m for phase in mapping.binding.hold.values() for m in phase}
        self.stated: Stated = stated_tiles(mapping, shared, layout.ranks.variable, "")
        self.uses = {n.einsum: tuple(self._uses(n, single)) for n in layout.nests}
        self.batch = {layout.ranks.variable[b] for b in layout.ranks.batch}
        self.depths: dict[tuple[str, str], int] = {}

    def _uses(self, nest: Nest, single: frozenset[str]) -> Iterator[_Use]:
        loops = tuple(x for x in _expanded(self.layout, nest.time) if x.part not in single)
        return (_Use(nest, o, loops) for o in nest.operands)

    def needs(self) -> Iterator[_Need]:
        """Yield what has to stay on the chip."""
        for name, einsum in self.einsums.items():
            for use in self.uses[name]:
                tensor = use.operand.tensor
                if self.outermost in use.operand.kept:
                    yield from self._fetched(name, tensor) if tensor != name else ()
                elif use.operand.output:
                    yield from self._unfinished(einsum, use)
                elif tensor != name:
                    yield self._read(einsum, use)

    def _fetched(self, reader: str, tensor: str) -> Iterator[_Need]:
        """Yield a need that nothing meets where an Einsum reads in the outermost memory what is not there yet."""
        if tensor not in self.einsums:
            return
        stored = any(self.outermost in u.operand.kept for u in self.uses[tensor] if u.operand.output)
        if not stored or self._later(tensor, reader):
            why = "before it is made" if stored else f"where {tensor} does not keep it"
            yield self._need(tensor, (), f"{reader} reads {tensor} from {self.outermost}, {why}")

    def _unfinished(self, einsum: Einsum, use: _Use) -> Iterator[_Need]:
        """Yield what a sum, or a state, has to keep while others are worked on; what nobody reads may be lost."""
        if not any(o.operand.tensor == einsum.name for u in self.uses.values() for o in u if o is not use):
            return
        again = set(einsum.reduced)
        if einsum.name in self.cascade.states:
            again.add(self.cascade.block_of(einsum.name) or "")
        at = next((i for i, loop in enumerate(use.loops) if loop.variable in again), None)
        if at is not None:
            inside = (loop for loop in (*use.loops[at:], *use.nest.space) if loop.variable not in again)
            what = f"{einsum.name} is not finished when the loops inside {use.loops[at].part} go on to others of it"
            yield self._need(einsum.name, [_Way((self._under(use, inside),), self._held(use))], what)

    def _read(self, einsum: Einsum, use: _Use) -> _Need:
        """Return what has to wait for an Einsum that reads a tensor on the chip: since it was made, or brought."""
        tensor = use.operand.tensor
        ways = []
        for name, uses in self.uses.items():
            for other in uses:
                brings = other.operand.output or self.outermost in other.operand.kept
                if other.operand.tensor == tensor and brings and not self._later(name, einsum.name):
                    depth = self._depth(name, einsum.name)
                    needed = (self._tile(use, depth), self._tile(other, depth))
                    ways.append(_Way(needed, (*self._held(use), *self._held(other))))
        gone = "which is on the chip no more" if ways else f"which nobody brings from {self.outermost}"
        return self._need(tensor, ways, f"{einsum.name} reads {tensor}, {gone}")

    def _need(self, tensor: str, ways: Sequence[_Way], problem: str) -> _Need:
        whole = (*self.layout.ranks.batch, *self.cascade.signatures[tensor].ranks)
        return _Need(tuple(ways), whole, problem)

    def _later(self, first: str, second: str) -> bool:
        return self.order.index(self.phase_of[first]) > self.order.index(self.phase_of[second])

    def _tile(self, use: _Use, depth: int) -> Tile:
        """Return the tile of an operand under the loops from some depth on, and on all axes."""
        return self._under(use, (*use.loops[depth:], *use.nest.space))

    def _under(self, use: _Use, loops: Iterable[Loop]) -> Tile:
        within: dict[str, tuple[str, ...]] = {}
        for loop in loops:
            within[loop.variable] = (*within.get(loop.variable, ()), loop.part)
        return tile_of(use.operand, within)

    def _held(self, use: _Use) -> tuple[Tile, ...]:
        """Return what memories hold of a tensor in the phase of its use, where each holds it once for all Einsums."""
        phase, tensor = self.phase_of[use.nest.einsum], use.operand.tensor
        found = (u for name, uses in self.uses.items() if self.phase_of[name] == phase for u in uses)
        return tuple(tile for u in found if u.operand.tensor == tensor for tile in self._kept(u, phase))

    def _kept(self, use: _Use, phase: str) -> Iterator[Tile]:
        """Yield what memories hold of an operand, all elements of the array together."""
        for i, level in enumerate(use.nest.levels):
            if level.memory in use.operand.kept and level.memory in self.holds:
                stated = self.stated.get((phase, level.memory, use.operand.tensor))
                inside = (loop for at in use.nest.levels[i:] for loop in at.time)
                yield stated or self._under(use, (*inside, *use.nest.space))

    def _depth(self, first: str, second: str) -> int:
        """Return how many loops two Einsums share."""
        key = first, second
        if key not in self.depths:
            self.depths[key] = self._shared(first, second)
        return self.depths[key]

    def _shared(self, first: str, second: str) -> int:
        if self.phase_of[first] != self.phase_of[second]:
            return 0
        between = self._between(first, second) or self._between(second, first) or frozenset((first, second))
        mine = self._loops(first)
        depth = 0
        while depth < len(mine):
            loop = mine[depth]
            if any(self._loops(e)[depth : depth + 1] != (loop,) for e in between):
                break
            if not all(self._ready(r, w, loop.variable) for r in between for w in between if r != w):
                break
            depth += 1
        return depth

    def _loops(self, einsum: str) -> tuple[Loop, ...]:
        return self.uses[einsum][0].loops

    def _between(self, first: str, last: str) -> frozenset[str]:
        """Return the Einsums of a phase on the ways from one to another that depends on it; none if it does not."""
        phase = self.phase_of[first]
        forward, backward = {first}, {last}
        names = [e for e in self.einsums if self.phase_of[e] == phase]
        for reach, ends in ((forward, self._writers), (backward, self._readers)):
            grown = True
            while grown:
                grown = False
                for e in names:
                    if e not in reach and ends(e) & reach:
                        reach.add(e)
                        grown = True
        return frozenset(forward & backward) if last in forward else frozenset()

    def _writers(self, einsum: str) -> set[str]:
        return {a.tensor for a in self.einsums[einsum].reads if not self._before(a)}

    def _readers(self, einsum: str) -> set[str]:
        return {n for n in self.einsums if einsum in self._writers(n)}

    def _before(self, access: Access) -> bool:
        """Tell whether an access reads what an earlier generation left."""
        return access.tensor in self.cascade.states and self.cascade.reads_previous(access)

    def _ready(self, reader: str, writer: str, variable: str) -> bool:
        """Tell whether a reader finds all that it needs of a writer within one step of a loop that both share."""
        if variable in self.batch or self.cascade.block_of(reader) == variable == self.cascade.block_of(
            writer
        ):
            return True
        target = self.einsums[writer].target
        reads = [a for a in self.einsums[reader].reads if a.tensor == writer and not self._before(a)]
        return all(_same_place(variable, target, a) for a in reads)


def _same_place(variable: str, written: Access, read: Access) -> bool:
    """Tell whether a tensor is read at the value of a variable at which it was written."""
    pairs = [
        (w, r)
        for w, r in zip(written.indices, read.indices, strict=True)
        if variable in (*variables(w), *variables(r))
    ]
    return bool(pairs) and all(w == r for w, r in pairs)
