"""Tiles and steps of a kernel's blocks: how many there are, and what each has before it at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from einsum_cascade.analysis.tile_points import Digit
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access

from .case import Case, Condition, told_of
from .structure import Structure

# Keys, tokens or terms that a block takes at a time: the commonest key tile of attention kernels. Assumed.
STEP = 64
# Dimensions of a head that a product inside a walk takes at once: the largest head of the kernels of this package.
_INNER = 256
# Elements of the largest tile of a block above which it takes eight warps: with four of 32 threads, a tile of 16K
# elements leaves half of the 255 registers of a thread to all else. Chosen after looking at what softmax over rows of
# 32K elements, matrices in a recurrence and Sinkhorn steps compile to: with sixteen they spill as much or more.
_FOUR_WARPS = 2**14
_NOTHING: frozenset[str] = frozenset()


class Tiling:
    """A structure with the extents of its tile.

    Args:
        tile: of the variables that tell blocks apart; the others of them are 1.
        parts: blocks that share a tile, each of which walks along a part of what is walked; `most_parts` at the most.
        scanned: steps of the loop that are worked out at a time, where it is a running sum.
        step: terms of a sum without products that a block takes at a time.
    """

    def __init__(
        self,
        case: Case,
        structure: Structure,
        tile: Mapping[str, int],
        *,
        parts: int = 1,
        scanned: int = 1,
        step: int = STEP,
    ) -> None:
        """See the class."""
        self.case, self.structure, self.parts, self.scanned, self.step = case, structure, parts, scanned, step
        self.tile = {v: min(tile.get(v, 1), case.extents[v]) for v in structure.blocks}
        self._steps = self._cut()
        self._apart = {*self.tile, *self._steps}
        self._counted: dict[str, tuple[int, int]] = {}
        self._extents: dict[frozenset[str], dict[str, int]] = {}

    def _cut(self) -> dict[str, int]:
        """Return the extent of a step along each variable that is walked; those summed together share one length."""
        loop = self.structure.loop
        out = {loop: min(self.scanned, self.case.extents[loop])} if loop else {}
        summed = self.structure.summed_in_products
        # An inner walk over a head's dimensions is none: what does not move with the outer one is loaded before it.
        inner = (v for v in self.structure.walked[1:] if v in summed)
        out |= {v: n for v in inner if v not in out and (n := self.case.extents[v]) <= _INNER}
        out |= {v: self.case.extents[v] for v in self.structure.whole if v not in out}
        for einsum in self.structure.einsums:
            left = self.step if summed.isdisjoint(einsum.reduced) else STEP
            for v in reversed(einsum.reduced):
                if v in self.structure.walked:
                    out.setdefault(v, min(max(left, 1), self.case.extents[v]))
                    left //= out[v]
        return {v: out[v] for v in self.structure.walked}

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others of the same Einsums, in whatever order these are computed."""
        tile = tuple(sorted(self.tile.items()))
        return self.structure.walked, self.structure.chain, tile, self.parts, self.scanned, self.step

    @cached_property
    def largest(self) -> int:
        """Elements of the largest tile of a block, its sides rounded up to powers of two.

        The terms of a product on tensor cores are nowhere together, those of other sums are.
        """
        most = 1
        products = {id(p.einsum): p for p in self.structure.products}
        for einsum in self.structure.einsums:
            product = products.get(id(einsum))
            sides = (product.rows, product.columns, product.inner) if product else ()
            tile: Sequence[str] = einsum.variables
            if product and all(any(self.now(v) > 1 for v in side) for side in sides):
                tile = (*product.rows, *product.columns)
            most = max(most, math.prod(1 << (self.now(v) - 1).bit_length() for v in tile))
        return most

    @property
    def warps(self) -> int:
        """Warps of a block: four, or eight where its tiles would fill their registers."""
        return 8 if self.largest >= _FOUR_WARPS else 4

    @property
    def blocks(self) -> int:
        """Blocks of the kernel, batch left out."""
        return self.parts * math.prod(-(-self.case.extents[v] // t) for v, t in self.tile.items())

    @property
    def most_parts(self) -> int:
        """The most blocks that can share a tile: each takes a step at the least."""
        return self._steps_along(self.structure.parted) if self.structure.parted else 1

    @property
    def steps(self) -> int:
        """Steps of a block along what it walks outermost, with what is summed along with it."""
        return math.prod(-(-self._of_block(v) // self._steps[v]) for v in self.structure.outer)

    def _steps_along(self, variable: str) -> int:
        return -(-self.case.extents[variable] // self._steps[variable])

    def _of_block(self, variable: str) -> int:
        """Return how many values of a variable that is not a tile's a block comes to see."""
        every = self.case.extents[variable]
        if self.parts == 1 or variable != self.structure.parted:
            return every
        return min(every, -(-self._steps_along(variable) // self.parts) * self._steps[variable])

    def now(self, variable: str) -> int:
        """Return how many values of a variable a block has before it at a time."""
        return self.extents(_NOTHING).get(variable) or self._of_block(variable)

    def side(self, names: Sequence[str]) -> int:
        """Return how many rows, columns or terms of a product a block has before it at a time."""
        return math.prod(self.now(v) for v in names)

    def extents(self, whole: frozenset[str]) -> Mapping[str, int]:
        """Return how many values of each variable a block has before it at a time.

        Args:
            whole: variables of which it has all, if they do not tell blocks apart.
        """
        found = self._extents.get(whole)
        if found is None:
            steps = {v: n for v, n in self._steps.items() if v not in whole}
            seen = {v: self._of_block(v) for v in self.structure.variables if v not in steps}
            found = self._extents[whole] = {**seen, **steps, **self.tile}
        return found

    def part(self, access: Access, *, whole: frozenset[str] = _NOTHING) -> float:
        """Return how many elements of a tensor a block has before it at a time, at the most."""
        return self.case.part(access, self.extents(whole))

    @cached_property
    def loaded(self) -> tuple[float, ...]:
        """Elements that a block comes to see of each reading of memory, in the order of the structure's."""
        every = self.extents(frozenset(self.structure.walked))
        return tuple(self.case.part(access, every) for access in self.structure.readings)

    def executed(self, einsum: Einsum, space: tuple[str, ...]) -> float:
        """Return the points of a space that all blocks compute: in each tile and step that has a point left, all.

        Where too many coordinates would have to be looked at one by one, all points of all tiles.

        Args:
            space: variables that the work depends on; blocks that differ in others alone do it each for itself.
        """
        condition, names = self._condition(einsum, space)
        if not condition.parts:
            return float(math.prod(self._counts(v)[v not in self.tile or v in space] for v in names))
        digits = {v: self._digits(v, self._apart) for v in names}
        kept = (own for v, own in digits.items() if v not in self.tile or v in space)
        whole = math.prod(n for own in kept for n, told in own if not told)
        return float(self.case.live_tiles(condition, digits)) * whole

    def live(self, einsum: Einsum, space: Collection[str], along: tuple[str, ...]) -> float:
        """Return the share of all tiles and of the steps along some variables in which an Einsum has a point left.

        Args:
            space: variables at which a point is looked for.
            along: those of them whose steps are told apart.
        """
        condition, names = self._condition(einsum, _inside(einsum, space))
        if not condition.parts:
            return 1.0
        digits = {v: self._digits(v, {*self.tile, *along}) for v in names}
        return self.case.live_tiles(condition, digits) / told_of(digits.values())

    def fullest(self, einsum: Einsum, space: Collection[str], along: tuple[str, ...]) -> float:
        """Return the share of the steps along some variables in which the fullest block has a point left."""
        condition, _ = self._condition(einsum, _inside(einsum, space))
        extents = condition.extents
        cut = {v: n for v, n in self.tile.items() if n < extents.get(v, 0)}
        named = {v: self._digits(v, {*self.tile, *along}) for v in extents}
        every = told_of(own for v, own in named.items() if v not in cut)
        return self.case.fullest(condition, named, cut) / every

    @cached_property
    def active(self) -> float:
        """The share of the steps that find something to do, as a mean over all blocks."""
        return max((mean for mean, _, _ in self._shares), default=1.0)

    @cached_property
    def most_active(self) -> float:
        """The share of the steps that find something to do in the fullest block."""
        if self.active == 1.0:
            return 1.0
        most = (
            self.fullest(e, names, self.structure.outer)
            for mean, e, names in self._shares
            if mean == self.active
        )
        return max(self.active, *most)

    @cached_property
    def _shares(self) -> list[tuple[float, Einsum, frozenset[str]]]:
        """For each Einsum that reads what moves with the steps, the share of them in which it has a point left."""
        outer, names = self.structure.outer, self.case.names
        moving = ((a, e) for a, readers in self.structure.readings.items() for e in readers)
        return [
            (self.live(e, names(a), outer), e, names(a)) for a, e in moving if not names(a).isdisjoint(outer)
        ]

    def _condition(self, einsum: Einsum, space: tuple[str, ...]) -> tuple[Condition, tuple[str, ...]]:
        """Return what has to hold in a space with what tells blocks apart, and the variables by which it says so."""
        return self.case.condition(einsum, (*space, *(v for v in self.tile if v not in space)))

    def _counts(self, variable: str) -> tuple[int, int]:
        """Return how many tiles or steps there are along a variable, and how many values these have together."""
        if variable not in self._counted:
            own = self._digits(variable, self._apart)
            self._counted[variable] = told_of([own]), math.prod(n for n, _ in own)
        return self._counted[variable]

    def _digits(self, variable: str, told: Collection[str]) -> tuple[Digit, ...]:
        """Return a variable as tiles that are told apart and places inside them, a split rank by its parts."""
        rank = rank_of(variable)
        if rank in self.case.cascade.splits and variable not in self._apart:
            parts = [variable_of(r) for r in self.case.cascade.splits[rank]]
            if not self._apart.isdisjoint(parts):
                return tuple(d for v in parts for d in self._digits(v, told))
        size, now = self.case.extents[variable], self.now(variable)
        return (
            ((-(-size // now), True), (now, False)) if now < size and variable in told else ((size, False),)
        )


def _inside(einsum: Einsum, space: Collection[str]) -> tuple[str, ...]:
    return tuple(v for v in einsum.variables if v in space)
