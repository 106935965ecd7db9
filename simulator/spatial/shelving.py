"""A memory between the outermost one and the homes of blocks put to use: larger tiles, whole tensors, or nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from einsum_cascade.declarations import rank_of
from einsum_cascade.expr import Expr, Var
from einsum_cascade.sizes import BATCH_RANKS

from ..hardware.model import SpatialChip
from .block import Block
from .candidates import Lists, orders_of
from .factors import divisors
from .idle import skipped
from .ledger import Built, Ledger
from .placement import Placed
from .search import dividing, merit_of
from .shelf import Shelf, is_at, tile_at
from .tiling import Tiled, best_among
from .writing import boundaries

# All sets of tensors are tried up to so many, beyond that one tensor is added after another.
_MOST_TENSORS = 4


@dataclass(frozen=True, slots=True)
class Stay:
    """A tensor that stays whole in a memory from the block that makes or brings it to the last one that reads it.

    Attributes:
        words: of all of it, batch ranks included.
        first: the position of the first block that exchanges it.
        last: of the last one.
        made: whether a block makes it; else it comes from outside, to the first block.
        asked: whether it has to go outside too.
    """

    tensor: str
    words: float
    first: int
    last: int
    made: bool
    asked: bool


@dataclass(slots=True)
class Shelving:
    """The blocks of a path on a chip with one memory more, inside the outermost one and outside of all they use.

    Attributes:
        path: the blocks, one a phase, laid on a chip without that memory, or with that memory as the outermost.
        chip: with the memory.
    """

    path: Sequence[Tiled]
    sizes: Mapping[str, int]
    chip: SpatialChip
    memory: str
    objective: str
    evaluated: int = 0
    built: Built = field(default_factory=dict)
    _known: dict[Any, Tiled | None] = field(default_factory=dict)

    def best(self) -> tuple[Tiled, ...] | None:
        """Return the best use of the memory, or None where the blocks do not fit the chip in any way."""
        found = (self._with(stays) for stays in self._choices())
        return min((p for p in found if p is not None), key=merit_of, default=None)

    def _choices(self) -> Iterator[tuple[Stay, ...]]:
        """Yield what may stay whole: nothing, then more and more, the tensors first that spare most for their size."""
        yield ()
        room = self.chip.memories[self.memory].capacity_bytes / self.chip.word_bytes
        held = [0.0] * len(self.path)
        chosen: list[Stay] = []
        for stay in self._stays():
            life = range(stay.first, stay.last + 1)
            if all(held[i] + stay.words <= room for i in life):
                for i in life:
                    held[i] += stay.words
                chosen.append(stay)
                yield tuple(chosen)

    def _stays(self) -> list[Stay]:
        cascade = self.path[0].placed.block.given
        outputs = {s.tensor for s in cascade.outputs}
        batch = math.prod(self.sizes[b] for b in _batch(self.path[0].placed))
        users: dict[str, list[int]] = {}
        made: set[str] = set()
        for i, tiled in enumerate(self.path):
            placed = tiled.placed
            for tensor in dict.fromkeys(t for of in placed.exchanged.values() for t in of):
                users.setdefault(tensor, []).append(i)
            made |= placed.block.by_name.keys()
        out = []
        for tensor, at in users.items():
            if (
                len(at) > 1
                and tensor not in cascade.states
                and (tensor in made or self._all_brought(tensor, at))
            ):
                words = math.prod(self.sizes[r] for r in cascade.signatures[tensor].ranks) * batch
                out.append(Stay(tensor, words, at[0], at[-1], tensor in made, tensor in outputs))
        spared = {s.tensor: len(users[s.tensor]) - (not s.made or s.asked) for s in out}
        return sorted(out, key=lambda s: (-spared[s.tensor] / (s.last - s.first + 1), s.words))

    def _all_brought(self, tensor: str, at: Sequence[int]) -> bool:
        """Tell whether the first block that reads an input brings all that the others read of it."""
        reads = [
            [(e, a.indices) for e in block.einsums for a in e.reads if a.tensor == tensor]
            for block in (self.path[i].placed.block for i in at)
        ]
        cascade = self.path[0].placed.block.given

        def covers(indices: Sequence[Expr], others: Sequence[Expr]) -> bool:
            names = [i.name for i in indices if isinstance(i, Var)]
            ranks = cascade.signatures[tensor].ranks
            whole = len(set(names)) == len(indices) and all(
                self.sizes[rank_of(v)] == self.sizes[r] for v, r in zip(names, ranks, strict=True)
            )
            return whole or tuple(indices) == tuple(others)

        return all(
            any(covers(i, j) and skipped(cascade, d) <= skipped(cascade, e) for d, i in reads[0])
            for of in reads[1:]
            for e, j in of
        )

    def _with(self, stays: Sequence[Stay]) -> tuple[Tiled, ...] | None:
        """Return the blocks with some tensors that stay, those first that move most; None where they do not fit."""
        out = list(self.path)
        for i in sorted(range(len(out)), key=lambda i: -out[i].merit[1]):
            alive = tuple(s for s in stays if s.first <= i <= s.last)
            found = self._block(i, alive, boundaries([*out[:i], *out[i + 1 :]]))
            if found is None:
                return None
            out[i] = found
        return tuple(out)

    def _block(self, at: int, alive: tuple[Stay, ...], cuts: Mapping[str, set[int]]) -> Tiled | None:
        key = at, alive, tuple((r, tuple(sorted(of))) for r, of in cuts.items())
        if key not in self._known:
            self._known[key] = self._shelved(at, alive, cuts)
        return self._known[key]

    def _shelved(self, at: int, alive: tuple[Stay, ...], cuts: Mapping[str, set[int]]) -> Tiled | None:
        """Return a block with the best tiles in the memory, and the best choice of what it keeps of them."""
        tiled = self.path[at]
        plan = _Plan(tiled.placed, self.chip, self.memory, alive, at)
        best: Tiled | None = None
        for through in (False, True) if plan.passes else (False,):
            for lists in plan.lists(tiled.tiles, cuts, through=through):
                for order in plan.orders:
                    best = self._subsets(plan, order, lists, through, best)
        return best

    def _subsets(
        self, plan: _Plan, order: tuple[str, ...], lists: Lists, through: bool, best: Tiled | None
    ) -> Tiled | None:
        tensors = plan.tensors
        if len(tensors) <= _MOST_TENSORS:
            for n in range(len(tensors) + 1):
                for kept in itertools.combinations(tensors, n):
                    best = self._better(plan, order, lists, through, kept, best)
            return best
        chosen: tuple[str, ...] = ()
        best = self._better(plan, order, lists, through, (), best)
        while len(chosen) < len(tensors):
            before = best
            for tensor in tensors:
                if tensor not in chosen:
                    found = self._better(plan, order, lists, through, (*chosen, tensor), best)
                    if found is not best:
                        best, added = found, tensor
            if best is before:
                break
            chosen = (*chosen, added)
        return best

    def _better(
        self,
        plan: _Plan,
        order: tuple[str, ...],
        lists: Lists,
        through: bool,
        kept: Collection[str],
        best: Tiled | None,
    ) -> Tiled | None:
        placed = plan.placed(order, kept, through=through)
        if placed is None:
            return best
        self.evaluated += 1
        if not placed.shelves or placed.shelves[-1].memory != self.memory:
            lists = {name: tiles for name, tiles in lists.items() if not is_at(self.memory, name)}
        ledger = Ledger(placed, self.built)
        limit = None if best is None else best.merit
        found, _ = best_among(ledger, lists, self.objective, limit)
        if found is None or (best is not None and found.merit >= best.merit) or ledger.refused(found.tiles):
            return best
        return found


@dataclass(frozen=True)
class _Plan:
    """What a block may do with a memory."""

    before: Placed
    chip: SpatialChip
    memory: str
    alive: tuple[Stay, ...]
    at: int

    @property
    def block(self) -> Block:
        return self.before.block

    @property
    def alone(self) -> bool:
        """Whether an Einsum runs alone, whose loops may stand in any order."""
        return len(self.block.einsums) == 1 and not self.block.iterated

    @property
    def staying(self) -> Mapping[str, Stay]:
        used = {t for of in self.before.exchanged.values() for t in of}
        return {s.tensor: s for s in self.alive if s.tensor in used}

    @property
    def tensors(self) -> tuple[str, ...]:
        """Tensors that may have tiles in the memory."""
        found = dict.fromkeys(t for of in self.before.exchanged.values() for t in of)
        return tuple(t for t in found if t not in self.staying)

    @property
    def orders(self) -> tuple[tuple[str, ...], ...]:
        """Orders of the loops over the tiles in the memory."""
        found = orders_of(self.block.order, self.before.sizes) if self.alone else ()
        return found or (self.block.order,)

    @property
    def passes(self) -> Mapping[str, frozenset[str]]:
        """By Einsum, what an earlier pass brought or made already: it is there still if all of a stream stays."""
        block = self.block
        out: dict[str, set[str]] = {}
        if not block.stream or block.tiled:
            return {}
        first: dict[Any, str] = {}
        for e in block.einsums:
            for access in e.reads:
                tensor = access.tensor
                if tensor not in self.before.exchanged[e.name] or tensor in self.staying:
                    continue
                made = tensor in block.by_name
                before = tensor if made else first.setdefault((tensor, access.indices), e.name)
                if before == e.name or block.stage[before] >= block.stage[e.name]:
                    continue
                if made or skipped(block.cascade, block.by_name[before]) <= skipped(block.cascade, e):
                    out.setdefault(e.name, set()).add(tensor)
        makers = {t for of in out.values() for t in of if t in block.by_name and t not in block.asked_for}
        for tensor in makers:
            out.setdefault(tensor, set()).add(tensor)
        return {e: frozenset(of) for e, of in out.items()}

    def lists(
        self, tiles: Mapping[str, int], cuts: Mapping[str, set[int]], *, through: bool
    ) -> Iterator[Lists]:
        """Yield the tiles in the memory that are looked at together, with those further inside, which stay as they are.

        Where Einsums share loops these go on in the order in which they are: one of them is cut, those outside it stand
        at the next memory outside, those inside at this one. What waits at home for its readers would else have to
        make room for other tiles meanwhile.
        """
        every = self._tiles(tiles, cuts, through=through)
        if self.alone:
            yield every
            return
        order = [tile_at(self.memory, r) for r in self.block.order]
        for at in range(len(order)):
            outer, inner = ({n: every[n] for n in of} for of in (order[:at], order[at + 1 :]))
            yield {
                **every,
                **{n: of[:1] for n, of in outer.items()},
                **{n: of[-1:] for n, of in inner.items()},
            }

    def _tiles(self, tiles: Mapping[str, int], cuts: Mapping[str, set[int]], *, through: bool) -> Lists:
        out: Lists = {name: (tile,) for name, tile in tiles.items()}
        allowed = dividing(cuts, self.before.sizes)
        for rank in self.block.order:
            whole = self.before.sizes[rank]
            tile = (tiles[rank], *self.before.outer(rank, tiles))[-1]
            end = -(-whole // tile) * tile
            found = [tile, end]
            if whole % tile == 0:
                found = [n for n in divisors(whole) if n % tile == 0 and (n in found or allowed(rank, (n,)))]
            if through and rank == self.block.stream:
                found = [end]
            out[tile_at(self.memory, rank)] = tuple(dict.fromkeys(found))
        return out

    def placed(self, order: tuple[str, ...], kept: Collection[str], *, through: bool) -> Placed | None:
        """Return the block with tiles of some tensors in the memory; None where that is what another choice is."""
        staying = self.staying
        if not kept and not self.alive:
            plain = order == self.block.order and not through
            return replace(self.before, chip=self.chip) if plain else None
        again = self.passes if through else {}
        if through and not any(t in kept for of in again.values() for t in of):
            return None
        exchanged = self.before.exchanged
        tiles = {e: tuple(t for t in of if t in kept or t in staying) for e, of in exchanged.items()}
        only = {
            e: frozenset(
                t for t in of if (self._stays(e, staying[t]) if t in staying else t in again.get(e, ()))
            )
            for e, of in tiles.items()
        }
        shelf = Shelf(
            self.memory,
            order,
            tiles,
            only,
            {t: s.words for t, s in staying.items()},
            sum(s.words for s in self.alive if s.tensor not in staying),
        )
        return replace(self.before, chip=self.chip, shelves=(*self.before.shelves, shelf))

    def _stays(self, einsum: str, stay: Stay) -> bool:
        """Tell whether an Einsum exchanges a tensor that stays with no memory outside."""
        if stay.made:
            return einsum != stay.tensor or not stay.asked
        return self.at > stay.first


def _batch(placed: Placed) -> Iterable[str]:
    return (b for b in BATCH_RANKS if b in placed.sizes and b not in placed.block.cascade.rank_names)
