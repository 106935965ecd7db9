"""One Einsum on one array, as loops over levels of memory: what the access count reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

# An int, a float, or a NumPy array of them: one design point, or many at once.
Count: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over (a part of) a rank variable.

    Attributes:
        variable: the rank variable of the cascade, or a batch variable.
        size: number of its steps.
        part: the name of the part in the mapping, for people.
    """

    variable: str
    size: Count
    part: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """A memory, the loops that step over the tiles below it, and the fan-out below it.

    Attributes:
        memory: its name on the chip.
        time: temporal loops, outermost first.
        space: spatial loops between this memory and the next one inside.
    """

    memory: str
    time: tuple[Loop, ...] = ()
    space: tuple[Loop, ...] = ()


@dataclass(frozen=True, slots=True)
class Dimension:
    """One index of an access: terms (variable, stride); an index that is one bare variable has one term of stride 1."""

    terms: tuple[tuple[str, Count], ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as one Einsum reads or writes it, and the memories that keep a tile of it meanwhile."""

    tensor: str
    dimensions: tuple[Dimension, ...]
    kept: tuple[str, ...]
    output: bool = False

    @property
    def variables(self) -> frozenset[str]:
        """Rank variables that select an element."""
        return frozenset(v for d in self.dimensions for v, _ in d.terms)


@dataclass(frozen=True, slots=True)
class Work:
    """Scalar operations of one cost class at every point of the space of `variables`."""

    op: str
    count: int
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nest:
    """One Einsum laid on one array.

    Attributes:
        levels: outermost first; the functional units stand below the last one.
        work: what the functional units do.
    """

    einsum: str
    array: str
    levels: tuple[Level, ...]
    operands: tuple[Operand, ...]
    work: tuple[Work, ...]

    @property
    def time(self) -> tuple[Loop, ...]:
        """All temporal loops, outermost first."""
        return tuple(loop for level in self.levels for loop in level.time)

    @property
    def space(self) -> tuple[Loop, ...]:
        """All spatial loops, outermost first."""
        return tuple(loop for level in self.levels for loop in level.space)
