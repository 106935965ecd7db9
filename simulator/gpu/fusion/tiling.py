"""Tiles and steps of a kernel's blocks: how many there are, and what each has before it at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from einsum_cascade.analysis.tile_points import Digit
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Expr, Num, Var, substitute, variables

from .case import Case
from .structure import Structure, extent

# Keys, tokens or terms that a block takes at a time: the commonest key tile of attention kernels. Assumed.
STEP = 64


class Tiling:
    """A structure with the extents of its tile.

    Args:
        tile: of the variables that tell blocks apart; the others of them are 1.
        parts: blocks that share a tile, each of which walks along a part of what is walked; `most_parts` at the most.
        scanned: steps of the loop that are worked out at a time, where it is a running sum.
    """

    def __init__(
        self, case: Case, structure: Structure, tile: Mapping[str, int], *, parts: int = 1, scanned: int = 1
    ) -> None:
        """See the class."""
        self.case, self.structure, self.parts, self.scanned = case, structure, parts, scanned
        self.tile = {v: min(tile.get(v, 1), extent(v, case.sizes)) for v in structure.blocks}
        self._steps = self._cut()

    def _cut(self) -> dict[str, int]:
        """Return the extent of a step along each variable that is walked; those summed together share one length."""
        loop = self.structure.loop
        out = {loop: min(self.scanned, extent(loop, self.case.sizes))} if loop else {}
        for einsum in self.structure.einsums:
            left = STEP
            for v in reversed(einsum.reduced):
                if v in self.structure.walked and v not in out:
                    out[v] = min(max(left, 1), extent(v, self.case.sizes))
                    left //= out[v]
        return {v: out[v] for v in self.structure.walked}

    @property
    def blocks(self) -> int:
        """Blocks of the kernel, batch left out."""
        return self.parts * math.prod(-(-extent(v, self.case.sizes) // t) for v, t in self.tile.items())

    @property
    def most_parts(self) -> int:
        """The most blocks that can share a tile: each takes a step at the least."""
        return self._steps_along(self.structure.parted) if self.structure.parted else 1

    @property
    def steps(self) -> int:
        """Steps of a block along what it walks outermost, with what is summed along with it."""
        return math.prod(-(-self._of_block(v) // self._steps[v]) for v in self.structure.outer)

    def _steps_along(self, variable: str) -> int:
        return -(-extent(variable, self.case.sizes) // self._steps[variable])

    def _of_block(self, variable: str) -> int:
        """Return how many values of a variable that is not a tile's a block comes to see."""
        every = extent(variable, self.case.sizes)
        if self.parts == 1 or variable != self.structure.parted:
            return every
        return min(every, -(-self._steps_along(variable) // self.parts) * self._steps[variable])

    def now(self, variable: str, *, whole: Iterable[str] = ()) -> int:
        """Return how many values of a variable a block has before it at a time.

        Args:
            whole: variables of which it has all, if they do not tell blocks apart.
        """
        if variable in self.tile:
            return self.tile[variable]
        if variable in self._steps and variable not in whole:
            return self._steps[variable]
        return self._of_block(variable)

    def part(self, access: Access, *, whole: Iterable[str] = ()) -> float:
        """Return how many elements of a tensor a block has before it at a time, at the most."""
        signature = self.case.cascade.signatures[access.tensor]
        now = {v: self.now(v, whole=whole) for v in self.case.names(access)}
        total = 1.0
        for axis, (rank, index) in enumerate(zip(signature.ranks, access.indices, strict=True)):
            most = self.case.sizes[rank] + (axis == signature.state)  # and what it was before the first step
            total *= min(self.case.places(index, now), most)
        return min(total, math.prod(now.values()))

    @cached_property
    def loaded(self) -> tuple[float, ...]:
        """Elements that a block comes to see of each reading of memory, in the order of the structure's."""
        return tuple(self.part(access, whole=self.structure.walked) for access in self.structure.readings)

    def executed(self, einsum: Einsum, space: tuple[str, ...]) -> float:
        """Return the points of a space that all blocks compute: in each tile and step that has a point left, all.

        Where too many coordinates would have to be looked at one by one, all points of all tiles.

        Args:
            space: variables that the work depends on; blocks that differ in others alone do it each for itself.
        """
        space, digits, apart = self._told(einsum, space)
        whole = math.prod(n for v, own in digits.items() if v not in apart for n, told in own if not told)
        return float(self.case.live_tiles(einsum, space, digits)) * whole

    def live(self, einsum: Einsum, space: Collection[str], along: Collection[str]) -> float:
        """Return the share of all tiles and of the steps along some variables in which an Einsum has a point left.

        Args:
            space: variables at which a point is looked for.
            along: those of them whose steps are told apart.
        """
        ordered, digits, _ = self._told(einsum, tuple(v for v in einsum.variables if v in space), along)
        if not self.case.conditions(einsum, ordered)[0]:
            return 1.0
        every = math.prod(n for own in digits.values() for n, told in own if told)
        return self.case.live_tiles(einsum, ordered, digits) / every

    def fullest(self, einsum: Einsum, space: Collection[str], along: Collection[str]) -> float:
        """Return the share of the steps along some variables in which the fullest block has a point left.

        Looked at are the first block, the last one and one in the middle along each variable that a condition names:
        under a triangle, a band or some of either end, one of them is the fullest, or a step less, by how it lies.
        """
        ordered, digits, _ = self._told(einsum, tuple(v for v in einsum.variables if v in space), along)
        parts, extents = self.case.conditions(einsum, ordered)
        named = {v for p in parts for v in variables(p)}
        cut = [v for v in self.tile if v in named and v in extents and self.tile[v] < extents[v]]
        digits = {v: own for v, own in digits.items() if v not in self.tile or v in cut}
        every = math.prod(n for v, own in digits.items() if v not in cut for n, told in own if told)
        most = 0.0
        for first in itertools.product(*(self._some(v, extents[v]) for v in cut)):
            at = dict(zip(cut, first, strict=True))
            moved: dict[str, Expr] = {v: Apply("+", (Var(v), Num(a))) if a else Var(v) for v, a in at.items()}
            inside = {v: ((min(self.tile[v], extents[v] - a), False),) for v, a in at.items()}
            here = {**{v: ((extents[v], False),) for v in named if v in extents}, **digits, **inside}
            most = max(
                most, self.case.live_among([substitute(p, moved) for p in parts], here, extents) / every
            )
        return most

    def _some(self, variable: str, size: int) -> tuple[int, ...]:
        """Return where the first, the middle and the last tile along a variable begin."""
        last = (size - 1) // self.tile[variable]
        return tuple(self.tile[variable] * i for i in sorted({0, last // 2, last}))

    def _told(
        self, einsum: Einsum, space: tuple[str, ...], along: Collection[str] | None = None
    ) -> tuple[tuple[str, ...], dict[str, tuple[Digit, ...]], tuple[str, ...]]:
        """Return a space with what tells blocks apart, the digits of its variables, and what was added."""
        apart = tuple(v for v in self.tile if v not in space)
        space = (*space, *apart)
        _, extents = self.case.conditions(einsum, space)
        told = {*self.tile, *(self._steps if along is None else along)}
        return space, {v: self._digits(v, told) for v in extents}, apart

    def _digits(self, variable: str, told: Collection[str]) -> tuple[Digit, ...]:
        """Return a variable as tiles that are told apart and places inside them, a split rank by its parts."""
        rank = rank_of(variable)
        if rank in self.case.cascade.splits and variable not in (*self.tile, *self._steps):
            parts = [variable_of(r) for r in self.case.cascade.splits[rank]]
            if any(v in (*self.tile, *self._steps) for v in parts):
                return tuple(d for v in parts for d in self._digits(v, told))
        size, now = extent(variable, self.case.sizes), self.now(variable)
        return (
            ((-(-size // now), True), (now, False)) if now < size and variable in told else ((size, False),)
        )
