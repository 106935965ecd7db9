"""One Einsum on one array, as loops over levels of memory: structure only, the sizes come beside it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from einsum_cascade.expr import Expr

# An int, a float, or a NumPy array of them: one design point, or many at once.
Count: TypeAlias = Any
# Sizes of ranks and of parts of ranks, by name.
Sizes: TypeAlias = Mapping[str, Count]


def least(a: Count, b: Count) -> Count:
    """Return the smaller of two counts, element by element for arrays."""
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)


def anywhere(truth: Any) -> bool:
    """Tell whether something holds, for arrays at any of the design points."""
    return bool(truth.any()) if isinstance(truth, np.ndarray) else bool(truth)


class SizeTable(dict[Any, Any]):
    """Sizes by name that also answer for products of names, each computed once.

    Where the last tile of a rank is shorter than the others, the size of a tile is their mean; see cuts.py, which then
    tells the questions below apart.

    >>> SizeTable({"P1": 4, "P0": 256})["P1", "P0"]
    1024
    """

    @property
    def full(self) -> SizeTable:
        """Sizes of the fullest tiles: what has to find room."""
        return self

    def across(self, parts: tuple[str, ...]) -> SizeTable:
        """Return the sizes as if all tiles of some parts were full, what lies beyond the end of a rank included."""
        return self

    def whole(self, count: Count) -> Count:
        """Return a count as a whole number where only the rounding of means keeps it from being one."""
        return count

    def __missing__(self, key: Any) -> Count:
        if not isinstance(key, tuple):
            raise KeyError(key)
        value: Count = 1
        for name in key:
            size = self[name]
            if isinstance(
                size, np.ndarray
            ):  # a product of arrays is worth remembering for those that begin alike
                value = self[key[:-1]] * self[key[-1]]
                break
            value *= size
        if type(value) is Fraction and value.denominator == 1:
            value = value.numerator
        self[key] = value
        return value


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over (a part of) a rank variable.

    Attributes:
        variable: the rank variable of the cascade, or a batch variable.
        part: the rank or part of a rank that it runs over; its size is the number of steps.
    """

    variable: str
    part: str


@dataclass(frozen=True, slots=True)
class Level:
    """A memory, the loops that step over the tiles below it, and the fan-out below it.

    Attributes:
        memory: its name on the chip.
        time: temporal loops, outermost first.
        space: for each axis of the array, the loops that lie on it, between this memory and the next one inside.
    """

    memory: str
    time: tuple[Loop, ...] = ()
    space: tuple[tuple[Loop, ...], ...] = ()

    @property
    def fan_out(self) -> tuple[Loop, ...]:
        """The spatial loops of all axes, outer axis first."""
        return tuple(loop for axis in self.space for loop in axis)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One index of an access, as terms (variable, stride); a stride is a number or an expression over sizes.

    Attributes:
        gathers: positions of several indices that are taken as one: what they show depends on data, or is no sum, so
            that there is one element for all values of the variables, and no more than the tensor has there.
        within: the ranks of the tensor there.
    """

    terms: tuple[tuple[str, int | Expr], ...]
    gathers: tuple[int, ...] = ()
    within: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as one Einsum reads or writes it, and the memories that keep a tile of it meanwhile.

    Attributes:
        whole: ranks that no loop runs over, so that every tile holds all of them: what a selection (topk) makes.
        generation: the variable that counts the generations of a state, where the one before is read; else empty.
        carried: memories in which the new generation is left, so that the next step finds it there.
        place: where an Einsum reads a tensor at several places at a time, index by index; else empty.
        differs: the indices in which those places differ.
        rest: the ranks of the tensor there.
    """

    tensor: str
    dimensions: tuple[Dimension, ...]
    kept: tuple[str, ...]
    output: bool = False
    whole: tuple[str, ...] = ()
    generation: str = ""
    carried: tuple[str, ...] = ()
    place: tuple[Hashable, ...] = ()
    differs: tuple[Dimension, ...] = ()
    rest: tuple[str, ...] = ()

    @property
    def variables(self) -> frozenset[str]:
        """Rank variables that select an element."""
        return frozenset(v for d in self.dimensions for v, _ in d.terms)


@dataclass(frozen=True, slots=True)
class Work:
    """Scalar operations of one cost class at every point of some variables.

    Attributes:
        time: the temporal loops over those variables.
        space: the spatial loops over them.
        loops: all of them.
    """

    op: str
    count: int
    time: tuple[str, ...]
    space: tuple[str, ...]
    loops: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loops", self.time + self.space)


@dataclass(frozen=True, slots=True)
class Nest:
    """One Einsum laid on one array.

    Attributes:
        levels: outermost first; the functional units stand below the last one.
        work: what the functional units do.
        width: names of all spatial loops.
    """

    einsum: str
    array: str
    levels: tuple[Level, ...]
    operands: tuple[Operand, ...]
    work: tuple[Work, ...]
    width: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Asked for in every estimate, and the same in all of them.
        object.__setattr__(self, "width", tuple(loop.part for loop in self.space))

    @property
    def time(self) -> tuple[Loop, ...]:
        """All temporal loops, outermost first."""
        return tuple(loop for level in self.levels for loop in level.time)

    @property
    def space(self) -> tuple[Loop, ...]:
        """All spatial loops, outermost first."""
        return tuple(loop for level in self.levels for loop in level.fan_out)
