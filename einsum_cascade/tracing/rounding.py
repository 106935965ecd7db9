"""Traced numbers as numbers of another kind: rounded, true or false, their signs."""

from __future__ import annotations

from typing import Any

from ..expr import Apply, Compare, Expr, Num
from .values import Builder, Value, elementwise, number, truth


def _quotient(x: Expr, y: Expr) -> Expr:
    return Apply("/", (number(x), number(y)))


def _floor(x: Expr) -> Expr:
    return Apply("floor", (number(x),))


def divided(b: Builder, x: Any, y: Any, *, rounding_mode: str | None = None) -> Value:
    """Return a quotient, whole where a way of rounding is given."""
    quotient = elementwise(b, _quotient, x, y)
    if rounding_mode is None:
        return quotient
    return elementwise(b, _floor if rounding_mode == "floor" else towards_zero, quotient)


def towards_zero(v: Expr) -> Expr:
    """Return a number without what is behind the point."""
    up = Apply("neg", (Apply("floor", (Apply("neg", (number(v),)),)),))
    return Apply("select", (Compare(("<",), (number(v), Num(0))), up, Apply("floor", (number(v),))))


def sign(v: Expr) -> Expr:
    """Return 1, 0 or -1."""
    above, below = (Compare((op,), (v, Num(0))) for op in (">", "<"))
    return Apply("select", (above, Num(1), Apply("select", (below, Apply("neg", (Num(1),)), Num(0)))))


def converted(b: Builder, x: Value, kind: str) -> Value:
    """Return a value as another kind of number: what is not 0 is true, and whole numbers drop what is behind the point.

    Args:
        kind: "truth", "whole" or "real".
    """
    if kind == "truth":
        return elementwise(b, truth, x)
    return elementwise(b, towards_zero if kind == "whole" else number, x)
