"""A cascade at some sizes in a type: what its kernels are asked for."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from einsum_cascade.analysis.indices import merged_splits
from einsum_cascade.analysis.intervals import number, slope
from einsum_cascade.analysis.points import live_parts, numbers_of, operations
from einsum_cascade.analysis.predicates import deciding
from einsum_cascade.analysis.tile_points import Digit, live_settings
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Action, Einsum
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import (
    Access,
    Apply,
    Compare,
    Expr,
    Num,
    Var,
    accesses,
    index_variables,
    substitute,
    variables,
)
from einsum_cascade.ops import REDUCTION

from .operations import actions_of
from .scans import step_of

T = TypeVar("T")
Digits = Mapping[str, tuple[Digit, ...]]

# Coordinates that are looked at for what a `where` leaves of tiles, 50 ms; beyond, nothing is taken to be removed.
_MOST_LOOKED = 2**20
_FLOAT32 = 4


@dataclass(frozen=True, eq=False)
class Condition:
    """What has to hold at a point of some space of an Einsum, beyond what always holds.

    Attributes:
        parts: predicates.
        extents: of the variables that they name.
    """

    parts: tuple[Expr, ...]
    extents: Mapping[str, int]


class _Extents(dict[str, int]):
    """Sizes by variable, as somebody asks for them."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self._sizes = sizes

    def __missing__(self, variable: str) -> int:
        self[variable] = found = self._sizes[rank_of(variable)]
        return found


@dataclass(frozen=True)
class Case:
    """What a kernel is asked for: a cascade at some sizes, in a type.

    Attributes:
        sizes: of every rank; `batch`: how often all of it occurs, by ranks that the text leaves out.
        word: bytes of an element in memory; `tensor`: whether tensor cores multiply that type.
    """

    cascade: Cascade
    sizes: Mapping[str, int]
    batch: int
    word: float
    tensor: bool

    @functools.cached_property
    def numbers(self) -> dict[str, float]:
        """Sizes and constants by name."""
        return numbers_of(self.cascade, self.sizes)

    @functools.cached_property
    def wide(self) -> frozenset[str]:
        """Tensors between Einsums that are float32 in memory.

        Where a selection chooses, rounding would make ties. Of a sum that goes on and on differences are asked for,
        which would be lost in what it has grown to.
        """
        cascade = self.cascade
        made = {e.name for e in cascade.einsums} - {s.tensor for s in cascade.outputs}
        choosing = (
            e for e in cascade.einsums if e.all_reductions and REDUCTION[e.all_reductions[-1].op].index
        )
        chosen = {a.tensor for e in choosing for a in e.reads} - cascade.states
        steps = {name: step_of(cascade, cascade.einsum(name)) for name in cascade.states}
        growing = {name for name, step in steps.items() if step and step.op == "sum" and step.factor is None}
        return frozenset((chosen | growing) & made)

    def word_of(self, tensor: str) -> float:
        """Return the bytes of an element of a tensor in memory."""
        return max(self.word, _FLOAT32) if tensor in self.wide else self.word

    @functools.cached_property
    def operations(self) -> Mapping[str, int]:
        """Operations as the language counts them, by cost class, of all of the batch."""
        return operations(self.cascade, self.sizes)

    @functools.cached_property
    def extents(self) -> Mapping[str, int]:
        """How many values each variable has."""
        return _Extents(self.sizes)

    @functools.cached_property
    def _names(self) -> dict[int, tuple[str, ...]]:
        """The variables of each reading, by its identity."""
        return {}

    @functools.cached_property
    def _parts(self) -> dict[tuple[int, ...], float]:
        """The elements of each reading, by its identity and the extents of its variables."""
        return {}

    @functools.cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    def condition(
        self, einsum: Einsum, space: tuple[str, ...], *, outputs: bool = False
    ) -> tuple[Condition, tuple[str, ...]]:
        """Return what has to hold at a point of a space of an Einsum, and the variables by which it says so.

        Of `m1 * M0 + m0` the two may be one variable. Of conditions that say the same there is one.

        Args:
            outputs: whether the points are those of what it defines, of which a sum of nothing is one.
        """

        def found() -> tuple[Condition, tuple[str, ...]]:
            every = self._live_parts(einsum, outputs=outputs)
            parts = [p for p in every if set(variables(p)) <= set(space)]
            merged, extents = merged_splits(self.cascade, parts, space, self.sizes)
            left = deciding(merged, extents, self.numbers)
            named = {v for p in left for v in variables(p)}
            own = {v: n for v, n in extents.items() if v in named}
            key = ("condition", left, tuple(sorted(own.items())))
            return self._once(key, lambda: Condition(left, own)), tuple(extents)

        return self._once((id(einsum), space, outputs), found)

    def _live_parts(self, einsum: Einsum, *, outputs: bool) -> tuple[Expr, ...]:
        key = ("parts", id(einsum), outputs)
        return self._once(key, lambda: live_parts(self.cascade, einsum, outputs=outputs))

    def actions(self, einsum: Einsum) -> tuple[Action, ...]:
        """Return what a kernel computes of an Einsum."""
        return self._once(("actions", id(einsum)), lambda: tuple(actions_of(einsum)))

    def moves(self, index: Expr) -> tuple[tuple[str, ...], tuple[tuple[str, float], ...] | None]:
        """Return the variables of an index of the text, and how far it moves with each; None where that is not linear.

        One that reads a tensor may point anywhere.
        """
        return self._once(("moves", id(index)), lambda: (variables(index), self._slopes(index)))

    def names(self, access: Access) -> frozenset[str]:
        """Return the variables of a reading of the text."""
        return self._once(("names", id(access)), lambda: frozenset(variables(access)))

    def part(self, access: Access, extents: Mapping[str, int]) -> float:
        """Return how many elements of its tensor a reading comes to, at the most.

        Args:
            extents: how many values each variable has.
        """
        names = self._names.get(id(access)) or self._names.setdefault(id(access), variables(access))
        key = (id(access), *[extents[v] for v in names])
        found = self._parts.get(key)
        if found is None:
            found = self._parts[key] = self._part(access, extents)
        return found

    def _part(self, access: Access, extents: Mapping[str, int]) -> float:
        signature = self.cascade.signatures[access.tensor]
        total = 1.0
        for axis, (rank, index) in enumerate(zip(signature.ranks, access.indices, strict=True)):
            most = self.sizes[rank] + (axis == signature.state)  # and what it was before the first step
            total *= min(self.places(index, extents), most)
        return min(total, math.prod(extents[v] for v in variables(access)))

    def _slopes(self, index: Expr) -> tuple[tuple[str, float], ...] | None:
        if accesses(index):
            return None
        found = [(v, slope(index, v, self.numbers)) for v in index_variables(index)]
        known = tuple((v, abs(step)) for v, step in found if step is not None)
        return known if len(known) == len(found) else None

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    def live_tiles(self, condition: Condition, digits: Digits) -> int:
        """Return how many tiles of a space have a point left; too many to look at: all.

        Args:
            digits: of each variable of the space, the extents of its digits and whether they tell tiles apart.
        """
        named = {v: own for v, own in digits.items() if v in condition.extents}
        rest = told_of(own for v, own in digits.items() if v not in condition.extents)
        if not condition.parts:
            return rest
        key = ("live", id(condition), tuple(named.items()))
        return rest * self._once(
            key, lambda: self._live(condition.parts, named, condition.extents, decided=True)
        )

    def fullest(self, condition: Condition, digits: Digits, tile: Mapping[str, int]) -> int:
        """Return how many settings of the digits that are told apart have a point left in the fullest tile; or all.

        Looked at are the first tile, the last one and one in the middle along each variable: under a triangle, a band
        or some of either end, one of them is the fullest, or a step less, by how it lies.

        Args:
            digits: of the variables that the condition names; of the tile's, whatever stands here.
            tile: extents of a tile along some variables that the condition names.
        """

        def found() -> int:
            extents = condition.extents
            most = 0
            for first in itertools.product(*(_some(size, extents[v]) for v, size in tile.items())):
                at = dict(zip(tile, first, strict=True))
                moved: dict[str, Expr] = {
                    v: Apply("+", (Var(v), Num(a))) if a else Var(v) for v, a in at.items()
                }
                inside = {v: ((min(tile[v], extents[v] - a), False),) for v, a in at.items()}
                parts = [substitute(p, moved) for p in condition.parts]
                most = max(most, self._live(parts, {**digits, **inside}, extents))
            return most

        left = tuple((v, own) for v, own in digits.items() if v not in tile)
        return self._once(("fullest", id(condition), left, tuple(tile.items())), found)

    def _live(
        self, parts: Sequence[Expr], digits: Digits, extents: Mapping[str, int], *, decided: bool = False
    ) -> int:
        """Return the settings of digits that have a point left; beyond the extents a last tile has no places."""
        ends = [
            Compare(("<",), (Var(v), Num(n)))
            for v, n in extents.items()
            if v in digits and math.prod(d for d, _ in digits[v]) > n
        ]
        try:
            return live_settings([*parts, *ends], digits, self.numbers, most=_MOST_LOOKED, decided=decided)
        except CascadeError:
            return told_of(digits.values())

    def elements(self, tensor: str) -> float:
        """Return the elements of a tensor in memory: those that exist, and of a state the last, or all."""
        return self._once(("elements", tensor), lambda: self._elements(tensor))

    def _elements(self, tensor: str) -> float:
        writer = next((e for e in self.cascade.einsums if e.name == tensor), None)
        signature = self.cascade.signatures[tensor]
        sizes = [self.sizes[r] for r in signature.ranks]
        if signature.state is not None:  # one more than the steps: what it was before the first
            sizes[signature.state] = sizes[signature.state] + 1 if self.wants_all(tensor) else 1
        elif writer is not None:
            condition, names = self.condition(writer, writer.output_variables, outputs=True)
            return float(self.live_tiles(condition, {v: ((self.extents[v], True),) for v in names}))
        return float(math.prod(sizes))

    def wants_all(self, state: str) -> bool:
        """Tell whether others than the last generation of a state are asked for: as an output, or outside its block."""
        axis, block = self.cascade.signatures[state].state, self.cascade.block_of(state)
        if axis is None:
            return True
        last = self.sizes[self.cascade.signatures[state].ranks[axis]]
        outside = [
            a for e, at in self.cascade.statements if at != block for a in e.reads if a.tensor == state
        ]
        return any(s.tensor == state for s in self.cascade.outputs) or any(
            variables(a.indices[axis]) or number(a.indices[axis], {}, self.numbers) != last for a in outside
        )

    def reached(self, access: Access) -> float:
        """Return how many elements of a tensor in memory a reading comes to, at the most.

        That is all of the tensor only where the indices move over it: not of one place of a rank, nor of as many
        places as somebody looks up in a table.
        """

        def found() -> float:
            whole = {v: self.extents[v] for v in variables(access)}
            places = math.prod(self.places(index, whole) for index in access.indices)
            return min(places, math.prod(whole.values()), self.elements(access.tensor))

        return self._once(("reached", id(access)), found)

    def places(self, index: Expr, extents: Mapping[str, int]) -> float:
        """Return how many values an index takes, at the most: as far as it moves, where it is linear.

        Args:
            extents: how many values each of its variables has.
        """
        names, steps = self.moves(index)
        every = math.prod(extents[v] for v in names)
        if steps is None:
            return every
        return min(every, 1.0 + sum(step * (extents[v] - 1) for v, step in steps))


def told_of(digits: Iterable[tuple[Digit, ...]]) -> int:
    """Return how many settings of the digits that are told apart there are."""
    return math.prod(n for own in digits for n, told in own if told)


def _some(tile: int, size: int) -> tuple[int, ...]:
    """Return where the first, the middle and the last tile along a variable begin."""
    last = (size - 1) // tile
    return tuple(tile * i for i in sorted({0, last // 2, last}))
