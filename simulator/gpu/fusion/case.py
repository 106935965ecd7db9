"""A cascade at some sizes in a type: what its kernels are asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from einsum_cascade.analysis.intervals import slope
from einsum_cascade.analysis.points import live_parts, merged_splits, numbers_of
from einsum_cascade.analysis.tile_points import Digit, live_settings
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Action, Einsum
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import Access, Compare, Expr, Num, Var, accesses, index_variables, variables

from .operations import actions_of

T = TypeVar("T")

# Coordinates that are looked at for what a `where` leaves of tiles, 50 ms; beyond, nothing is taken to be removed.
_MOST_LOOKED = 2**20


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
    def _known(self) -> dict[Any, Any]:
        return {}

    def conditions(self, einsum: Einsum, space: tuple[str, ...]) -> tuple[list[Expr], dict[str, int]]:
        """Return what has to hold at a point of a space of an Einsum, and the extents of the space."""

        def found() -> tuple[list[Expr], dict[str, int]]:
            parts = [p for p in live_parts(self.cascade, einsum) if set(variables(p)) <= set(space)]
            return merged_splits(self.cascade, parts, space, self.sizes)

        return self._once((id(einsum), space), found)

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

    def live_tiles(
        self, einsum: Einsum, space: tuple[str, ...], digits: Mapping[str, tuple[Digit, ...]]
    ) -> int:
        """Return how many tiles of a space have a point that an Einsum computes; too many to look at: all.

        Args:
            digits: of each variable that `conditions` names, the extents of its digits and whether they tell tiles
                apart.
        """

        def found() -> int:
            merged, extents = self.conditions(einsum, space)
            return self.live_among(merged, digits, extents)

        return self._once((id(einsum), space, tuple(digits.items())), found)

    def live_among(
        self, parts: Sequence[Expr], digits: Mapping[str, tuple[Digit, ...]], extents: Mapping[str, int]
    ) -> int:
        """Return how many settings of the digits that are told apart have a point left; all, if it takes too long.

        Args:
            parts: what has to hold at a point.
            extents: of each variable, beyond which a last tile has no places.
        """
        ends = [
            Compare(("<",), (Var(v), Num(n)))
            for v, n in extents.items()
            if v in digits and math.prod(d for d, _ in digits[v]) > n
        ]
        key = ("live", tuple(parts), tuple(digits.items()))
        return self._once(key, lambda: self._settings([*parts, *(ends if parts else ())], digits))

    def _settings(self, parts: Sequence[Expr], digits: Mapping[str, tuple[Digit, ...]]) -> int:
        try:
            return live_settings(parts, digits, self.numbers, most=_MOST_LOOKED)
        except CascadeError:
            return math.prod(n for own in digits.values() for n, told in own if told)

    def elements(self, tensor: str) -> float:
        """Return the elements of a tensor in memory: those that exist, and of a state the last, or all."""

        def found() -> float:
            writer = next((e for e in self.cascade.einsums if e.name == tensor), None)
            signature = self.cascade.signatures[tensor]
            sizes = [self.sizes[r] for r in signature.ranks]
            if signature.state is not None:  # one more than the steps: what it was before the first
                sizes[signature.state] = sizes[signature.state] + 1 if self.wants_all(tensor) else 1
            elif writer is not None:
                space = writer.output_variables
                _, extents = self.conditions(writer, space)
                return float(self.live_tiles(writer, space, {v: ((n, True),) for v, n in extents.items()}))
            return float(math.prod(sizes))

        return self._once(("elements", tensor), found)

    def wants_all(self, state: str) -> bool:
        """Tell whether all generations of a state are asked for, as an output or by who reads it outside its block."""
        axis, block = self.cascade.signatures[state].state, self.cascade.block_of(state)
        if axis is None:
            return True
        outside = [
            a for e, at in self.cascade.statements if at != block for a in e.reads if a.tensor == state
        ]
        return any(s.tensor == state for s in self.cascade.outputs) or any(
            variables(a.indices[axis]) for a in outside
        )

    def reached(self, access: Access) -> float:
        """Return how many elements of a tensor in memory a reading comes to, at the most.

        That is all of the tensor only where the indices move over it: not of one place of a rank, nor of as many
        places as somebody looks up in a table.
        """

        def found() -> float:
            whole = {v: self.sizes[rank_of(v)] for v in variables(access)}
            places = math.prod(self.places(index, whole) for index in access.indices)
            return min(places, math.prod(whole.values()), self.elements(access.tensor))

        return self._once(("reached", access), found)

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
