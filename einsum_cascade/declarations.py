"""What a cascade declares: ranks, constants, signatures, iterate blocks; and how ranks and variables share names."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from .einsum import Einsum
from .expr import Expr, Place


@dataclass(frozen=True, slots=True)
class Rank:
    """A free rank (`size` is None) or one that follows from others: `rank M = M1 * M0`."""

    name: str
    size: Expr | None = None
    at: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Constant:
    """`let NAME = expression`."""

    name: str
    value: Expr
    at: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Signature:
    """The ranks of a tensor, in order; a state has one extra slot along its `state` axis (M1 + 1 states)."""

    tensor: str
    ranks: tuple[str, ...]
    state: int | None = None
    at: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Iterate:
    """`iterate variable { ... }`: its Einsums run for variable = 0, 1, ..."""

    variable: str
    einsums: tuple[Einsum, ...]
    at: Place | None = field(default=None, compare=False, repr=False)


def free_name(wanted: str, taken: Container[str]) -> str:
    """Return a name, with the first number behind it that makes it one that is not taken.

    >>> free_name("U", {"U", "U2"})
    'U3'
    """
    name, n = wanted, 2
    while name in taken:
        name, n = f"{wanted}{n}", n + 1
    return name


def variable_of(rank: str) -> str:
    """Return the variable that runs over a rank: `M1` -> `m1`."""
    return rank[0].lower() + rank[1:]


def rank_of(variable: str) -> str:
    """Return the rank that a variable runs over: `m1` -> `M1`."""
    return variable[0].upper() + variable[1:]
