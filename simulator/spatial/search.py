"""The search over blocks: which Einsums run together, in which way, found with lower bounds that prune."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError

from ..hardware.model import SpatialChip
from .block import Block, Way, direct_choices, ways
from .candidates import Allowed
from .floors import CLOSE, Floors
from .groups import units
from .ledger import Built
from .placement import Placed, placements, shared_memories
from .tiling import Merit, Tiled, best_tiles, refined, shortage
from .variants import varied
from .writing import boundaries

OBJECTIVES = ("latency_s", "energy_j", "traffic_bytes")
# Assignments of Einsums to arrays that are looked at for each block, the promising ones first.
_ASSIGNMENTS = {"latency_s": 8, "energy_j": 4, "traffic_bytes": 2}
# Assignments beyond the first are tried for so many of the best ways.
_BEST_WAYS = 3
# Tilings without progress after which a block is left, shared by the Einsums of a cascade: a long one has many blocks.
EFFORT = 200
_FEW_EINSUMS, _LEAST_PATIENCE = 4, 3
# Sequences of blocks that are made to agree, the cheapest first, as long as one may beat those that do.
_PATHS = 4
# How many times shorter a search is looked at where the blocks of a longer one do not agree.
_LESS = 4
# How many times shorter the axes of arrays are taken than they are, where the buffer asks for smaller steps.
_NARROW = (1, 2, 4, 16, 256)


@dataclass(slots=True)
class Search:
    """One search: a cascade with all sizes settled on one chip; remembers what was found for each run of Einsums.

    Attributes:
        effort: with more, each block is searched as far as with less, and then on.
        patience: tilings without progress after which a block is left as it is; the same for all blocks.
        evaluated: tilings, each of all tile sizes at once, that were counted.
    """

    cascade: Cascade
    sizes: Mapping[str, int]
    chip: SpatialChip
    objective: str
    effort: int = EFFORT
    evaluated: int = 0
    built: Built = field(default_factory=dict)
    floors: Floors = field(init=False)
    patience: int = field(init=False)
    _missing: dict[str, str] = field(default_factory=dict)  # by Einsums that fit in no way, what is missing

    def __post_init__(self) -> None:
        self.floors = Floors(self.cascade, self.sizes, self.chip, self.objective)
        self.patience = max(_LEAST_PATIENCE, self.effort // max(_FEW_EINSUMS, len(units(self.cascade))))

    def best(self, limit: Merit | None = None) -> tuple[Tiled, ...] | None:
        """Return the best sequence of blocks, or None where nothing is better than a limit.

        Raises:
            MappingError: nothing fits.
        """
        found = [self._refined(self._varied(path)) for path in self._agreed(limit)]
        return min(found, key=merit_of, default=None)

    def _agreed(self, limit: Merit | None) -> list[tuple[Tiled, ...]]:
        """Return sequences of blocks whose tiles divide each other, the one to take among them; none beyond a limit.

        Where the best blocks do not agree, the ones that take their place may be worse than other sequences, which
        fuse more, or all, or than what a shorter search would have come to: then these are looked at too, as far as
        tiles that divide no rank, which come later.
        """
        first: tuple[Tiled, ...] | None = None
        found: list[tuple[Tiled, ...]] = []
        for path in itertools.islice(self._paths(limit), _PATHS):
            first = first or path
            if found and merit_of(path) >= min(map(merit_of, found)):
                break
            agreed = self._agreeing(path)
            if agreed is not None and merit_of(agreed) <= merit_of(first):
                return [agreed]
            found += [agreed] if agreed is not None else []
        if first is None:
            return []
        if (together := self.block(self.cascade.einsums, needed=False)) is not None:
            found.append((together,))
        less = replace(self, effort=self.effort // _LESS)
        if less.patience < self.patience:
            found += less._agreed(limit)
            self.evaluated = less.evaluated
        if not found:
            raise MappingError(
                f"automatic: no tiles of {self.cascade.name} divide each other and fit {self.chip.name}"
            )
        return found

    def _paths(self, limit: Merit | None) -> Iterator[tuple[Tiled, ...]]:
        """Yield sequences of blocks, each block for itself, the cheapest sequence first.

        A run of units is an edge between two cuts of the sequence; the best path is searched with the bound of a run
        in place of its cost until the cost is needed (A*, lazily), so that most runs are never looked at. The k-th
        path leads over a cut that no more than k - 1 cheaper ways have reached.

        Raises:
            MappingError: nothing fits.
        """
        found = units(self.cascade)
        floors = {
            (i, j): self.floors.of(tuple(e for u in found[i:j] for e in u))
            for i, j in itertools.combinations(range(len(found) + 1), 2)
        }
        rest = _cheapest_rest(floors, len(found))
        ticket = itertools.count()
        queue: list[Any] = [((0.0, 0.0, 0.0), next(ticket), 0, (0.0, 0.0, 0.0), (), None)]
        expanded: Counter[int] = Counter()
        runs: dict[tuple[int, int], Tiled | None] = {}
        some = False
        while queue:
            bound, _, at, cost, path, pending = heapq.heappop(queue)
            if limit is not None and bound >= limit:
                return
            if pending is not None:
                if (at, pending) not in runs:
                    einsums = tuple(e for u in found[at:pending] for e in u)
                    runs[at, pending] = self.block(einsums, needed=pending == at + 1)
                tiled = runs[at, pending]
                if tiled is not None:
                    total = _sum(cost, tiled.merit)
                    entry = (_sum(total, rest[pending]), next(ticket), pending, total, (*path, tiled), None)
                    heapq.heappush(queue, entry)
                continue
            if at == len(found):
                some = True
                yield path
                continue
            if expanded[at] == _PATHS:
                continue
            expanded[at] += 1
            for j in range(at + 1, len(found) + 1):
                bound = _sum(_sum(cost, floors[at, j]), rest[j])
                heapq.heappush(queue, (bound, next(ticket), at, cost, path, j))
        if not some:
            raise MappingError(
                f"automatic: {self.cascade.name} does not fit {self.chip.name}: {self._lacking()}"
            )

    def block(
        self, einsums: Sequence[Einsum], allowed: Allowed | None = None, *, needed: bool = True
    ) -> Tiled | None:
        """Return the best way to run some Einsums in one phase, or None where nothing fits.

        Parts of the arrays are left idle, and ranks that nobody shares are cut, only where that may be better: where
        the best with whole arrays and whole ranks has not reached the bound. Each way is tried with its most promising
        assignment, the best ways with the others.
        """
        scan = Scan(self, einsums, allowed, needed)
        for narrow in _NARROW:
            best = scan.best
            if best is not None and narrow > 1 and self.floors.of(einsums, narrow) > best.merit:
                break
            if scan.through(narrow):
                break
        if scan.best is None and needed:
            self._missing[" ".join(e.name for e in einsums)] = scan.shortage()
        return scan.best

    def _lacking(self) -> str:
        return "; ".join(f"{names}: {what}" for names, what in self._missing.items())

    def placed(self, block: Block, narrow: int, *, others: bool) -> Iterator[Placed]:
        """Yield a block with the most promising assignment to arrays, or with the others."""
        homes = max(1, len(shared_memories(self.chip)))
        most = _ASSIGNMENTS[self.objective] if others else 1
        found = placements(block, self.sizes, self.chip, most=most, narrow=narrow)
        return itertools.islice(found, homes if others else 0, None)

    def _agreeing(self, path: Sequence[Tiled]) -> tuple[Tiled, ...] | None:
        """Return blocks whose tiles of a rank divide each other, those that move least made anew where they do not."""
        chosen: list[Tiled] = []
        for tiled in sorted(path, key=lambda t: -t.merit[1]):
            allowed = dividing(boundaries(chosen), self.sizes)
            agrees = all(allowed(r, tiled.cuts(r)) for r in tiled.tiles)
            found = tiled if agrees else self.block(self.originals(tiled), allowed)
            if found is None:
                return None
            chosen.append(found)
        order = {e.name: i for i, e in enumerate(self.cascade.einsums)}
        return tuple(
            sorted(chosen, key=lambda t: min(order.get(e.name, len(order)) for e in t.placed.block.einsums))
        )

    def _varied(self, path: Sequence[Tiled]) -> tuple[Tiled, ...]:
        """Return the same blocks, where they are not at the bound with choices that the scan takes one way changed."""
        out = list(path)
        for i, tiled in sorted(enumerate(path), key=lambda pair: -pair[1].merit[1]):
            if _reached(tiled, self.floors.of(self.originals(tiled)), 2):
                continue
            allowed = dividing(boundaries([*out[:i], *out[i + 1 :]]), self.sizes)
            spilled = self.floors.spilled_bytes(tiled.placed.block.spilled - tiled.placed.block.asked_for)
            floor = self.floors.of(self.originals(tiled))[1] + spilled

            def counted(
                placed: Placed, limit: Merit, allowed: Allowed = allowed, floor: float = floor
            ) -> Tiled | None:
                if self.floors.of_placed(placed, floor) > limit:
                    return None
                self.evaluated += 1
                return best_tiles(placed, self.objective, built=self.built, allowed=allowed, limit=limit)[0]

            out[i] = varied(tiled, counted)
        return tuple(out)

    def _refined(self, path: Sequence[Tiled]) -> tuple[Tiled, ...]:
        """Return the same blocks with tiles that need not divide their ranks, where these are better.

        That comes last: what one block cuts at an odd size all others would have to cut there too.
        """
        out = list(path)
        for i, tiled in sorted(enumerate(path), key=lambda pair: -pair[1].merit[1]):
            if not _reached(tiled, self.floors.of(self.originals(tiled)), 2):
                self.evaluated += 1
                allowed = dividing(boundaries([*out[:i], *out[i + 1 :]]), self.sizes)
                for placed in _siblings(tiled.placed):
                    near, limit = tiled.tiles, out[i].merit
                    found = refined(placed, near, limit, self.objective, built=self.built, allowed=allowed)
                    out[i] = found or out[i]
        return tuple(out)

    def originals(self, tiled: Tiled) -> tuple[Einsum, ...]:
        """Return the Einsums of the cascade that a block runs."""
        names = {e.name for e in tiled.placed.block.einsums}
        return tuple(e for e in self.cascade.einsums if e.name in names)


@dataclass(slots=True)
class Scan:
    """The ways to run some Einsums in one phase, gone through with the patience that the search has left.

    Attributes:
        needed: whether the Einsums cannot run but together, so that a way has to be found.
        best: the best tiles so far.
    """

    search: Search
    einsums: Sequence[Einsum]
    allowed: Allowed | None
    needed: bool
    best: Tiled | None = None
    _ways: Sequence[tuple[float, bool, int, Way]] = ()
    _floor: Merit = (0.0, 0.0, 0.0)
    _idle: int = 0  # tilings since the last progress
    _reach: dict[int, float] = field(default_factory=dict)  # by way, what smaller steps could reach at most

    def __post_init__(self) -> None:
        self._floor = self.search.floors.of(self.einsums)
        found = ways(self.search.cascade, self.einsums, self.search.sizes)
        asked = self.search.floors.asked_for(self.einsums)
        self._ways = sorted(
            (self.search.floors.spilled_bytes(w.spilled - asked), w.cut, i, w) for i, w in enumerate(found)
        )

    def through(self, narrow: int) -> bool:
        """Try all ways with axes that much shorter, and tell whether nothing better is to be expected."""
        merits: list[tuple[Merit, int]] = []
        for at, (_, cut, _, way) in enumerate(self._ways):
            if way.block is None:
                continue
            if self._done(1 if narrow > 1 or cut else 2):
                return True
            if narrow > 1 and self.best is not None and self._reach[at] * CLOSE >= self.best.merit[0]:
                continue
            found = self._tried(at, narrow, others=False)
            if found is not None:
                merits.append((found, at))
        for _, at in sorted(merits)[:_BEST_WAYS]:
            if self._done(2):
                return True
            self._tried(at, narrow, others=True)
        return False

    def _done(self, count: int) -> bool:
        """Tell whether the bound is reached as far as some numbers of the merit go, or patience is used up."""
        if self._idle > self.search.patience and not (self.needed and self.best is None):
            return True
        return self.best is not None and _reached(self.best, self._floor, count)

    def shortage(self) -> str:
        """Return what is missing, and where, in the way that comes closest to fitting."""
        found = (
            shortage(placed, self.search.built)
            for _, _, _, way in self._ways
            if way.block is not None
            for placed in self.search.placed(way.block, _NARROW[-1], others=False)
        )
        return min(found)[1]

    def _tried(self, at: int, narrow: int, *, others: bool) -> Merit | None:
        """Try some assignments of a way; return the best merit that is better than what there was before."""
        spilled, _, _, way = self._ways[at]
        search, out, reach = self.search, None, math.inf
        assert way.block is not None
        for placed in search.placed(way.block, narrow, others=others):
            floor = search.floors.of_placed(placed, self._floor[1] + spilled)
            if self.best is not None and floor > self.best.merit:
                reach = min(reach, floor[0])
                continue
            search.evaluated += 1
            self._idle += 1
            limit = None if self.best is None else self.best.merit
            found, bound = best_tiles(
                placed, search.objective, built=search.built, allowed=self.allowed, limit=limit
            )
            reach = min(reach, bound)
            if found is None:
                continue
            out = found.merit if out is None else min(out, found.merit)
            if self.best is None or found.merit < self.best.merit:
                self.best, self._idle = found, 0
        self._reach[at] = min(reach, self._reach.get(at, math.inf))
        return out


def _cheapest_rest(floors: Mapping[tuple[int, int], Merit], count: int) -> list[Merit]:
    """Return, for each cut, the least that what comes after it costs by the bounds."""
    rest: list[Merit] = [(0.0, 0.0, 0.0)] * (count + 1)
    for i in range(count - 1, -1, -1):
        rest[i] = min(_sum(floors[i, j], rest[j]) for j in range(i + 1, count + 1))
    return rest


def merit_of(path: Iterable[Tiled]) -> Merit:
    """Return objective, traffic and energy of some blocks together."""
    out: Merit = (0.0, 0.0, 0.0)
    for tiled in path:
        out = _sum(out, tiled.merit)
    return out


def _sum(a: Merit, b: Merit) -> Merit:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _siblings(placed: Placed) -> Iterator[Placed]:
    """Yield a placed block, then the same with another tensor, or none, that goes past the memory in between.

    With tiles that divide their ranks these are often as good as each other; with others they need not be.
    """
    yield placed
    block = placed.block
    if len(block.einsums) == 1 and not block.iterated:
        for direct in direct_choices(block.einsums[0]):
            if direct != block.direct:
                yield replace(placed, block=replace(block, direct=direct))


def _reached(found: Tiled, floor: Merit, count: int) -> bool:
    """Tell whether the first numbers of a merit are as good as can be."""
    return all(a <= b * CLOSE for a, b in zip(found.merit[:count], floor, strict=False))


def dividing(cuts: Mapping[str, set[int]], sizes: Mapping[str, int]) -> Allowed:
    """Return the test whether a rank may be cut at some sizes: where it is cut, one size divides another."""

    def allowed(rank: str, found: Sequence[int]) -> bool:
        inside = [b for b in found if b != sizes[rank]]
        return all(_comparable(a, b) for a in cuts.get(rank, ()) if a != sizes[rank] for b in inside)

    return allowed


def _comparable(a: int, b: int) -> bool:
    return a % b == 0 or b % a == 0
