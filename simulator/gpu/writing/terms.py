"""Pieces of Triton source with the axes that their values have, and how they are put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from einsum_cascade.errors import MappingError


class CannotWriteError(MappingError):
    """What a text asks for and a Triton kernel of this package cannot do."""


@dataclass(frozen=True, slots=True)
class Term:
    """An expression of Triton's language.

    Attributes:
        text: the expression.
        axes: rank variables along which its value is a tile, in the kernel's order; none for a scalar.
        kind: "int", "float" or "bool" of its elements.
        plain: whether it is a Python number, which has no methods.
        whole: whether it can stand beside an operator without brackets.
    """

    text: str
    axes: tuple[str, ...] = ()
    kind: str = "float"
    plain: bool = False
    whole: bool = True

    @property
    def bracketed(self) -> str:
        """The expression as an operand."""
        return self.text if self.whole else f"({self.text})"

    def along(self, axes: Sequence[str]) -> str:
        """Return the expression as an operand that has these axes, of extent 1 where it does not move along them."""
        if not self.axes or self.axes == tuple(axes):
            return self.bracketed
        picks = ", ".join(":" if a in self.axes else "None" for a in axes)
        return f"{self.bracketed}[{picks}]"

    def as_float(self) -> Term:
        """Return the expression as a floating-point number."""
        if self.kind == "float":
            return self
        if self.plain and self.text.lstrip("-").isdigit():
            return replace(self, text=f"{self.text}.0", kind="float")
        if self.plain:
            return replace(self, text=f"{self.bracketed} * 1.0", kind="float", whole=False)
        return replace(self, text=f"tl.cast({self.text}, tl.float32)", kind="float", whole=True)


def literal(value: float) -> Term:
    """Return a number that is known as the kernel is written.

    >>> literal(3).text, literal(-0.5).text, literal(math.inf).text
    ('3', '-0.5', 'float("inf")')
    """
    if isinstance(value, int) or (math.isfinite(value) and float(value).is_integer() and abs(value) < 2**31):
        return Term(str(int(value)), kind="int", plain=True, whole=value >= 0)
    if math.isfinite(value):
        return Term(repr(float(value)), plain=True, whole=value >= 0)
    return Term(f'float("{value}")', plain=True)


def union(order: Mapping[str, int], *terms: Term) -> tuple[str, ...]:
    """Return the axes that any of some terms has, in the kernel's order."""
    return tuple(sorted({a for t in terms for a in t.axes}, key=order.__getitem__))


def joined(order: Mapping[str, int], form: Callable[..., str], *terms: Term, kind: str, whole: bool) -> Term:
    """Return terms put together element by element; `form` makes text of their texts."""
    axes = union(order, *terms)
    return Term(form(*(t.along(axes) for t in terms)), axes, kind, all(t.plain for t in terms), whole)
