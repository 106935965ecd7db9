"""Traced numbers as numbers of another kind: rounded, true or false, their signs."""

from __future__ import annotations

import math
import sys
from typing import Any

from ..expr import Apply, Compare, Expr, Num
from .shapes import reshaped
from .values import Builder, UntraceableError, Value, constant, elementwise, number, truth


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


def to_nearest(v: Expr) -> Expr:
    """Return the nearest whole number, of two that are equally near the even one, as torch does."""
    half = Apply("+", (v, Num(0.5)))
    up = Apply("floor", (half,))
    tied = Compare(("==",), (up, half))
    odd = Compare(("==",), (Apply("%", (up, Num(2))), Num(1)))
    return Apply("select", (Apply("and", (tied, odd)), Apply("-", (up, Num(1))), up))


def rounded(b: Builder, x: Value, *, decimals: int = 0) -> Value:
    """Return the nearest whole numbers."""
    if decimals:
        raise UntraceableError("rounding to decimals")
    return elementwise(b, lambda v: to_nearest(number(v)), x)


def quantised(b: Builder, x: Value, scale: Any, zero: Any, low: int, high: int) -> Value:
    """Return values as a whole number of steps from low to high, and back: `fake_quantize_per_tensor_affine`."""
    steps = elementwise(
        b, lambda v, s, z: Apply("+", (to_nearest(_quotient(v, s)), number(z))), x, scale, zero
    )
    kept = elementwise(b, lambda v: Apply("clamp", (v, constant(low), constant(high))), steps)
    return elementwise(
        b, lambda v, s, z: Apply("*", (Apply("-", (v, number(z))), number(s))), kept, scale, zero
    )


def quantised_by_channel(
    b: Builder, x: Value, scale: Value, zero: Value, dim: int, low: int, high: int
) -> Value:
    """Return `fake_quantize_per_channel_affine`: a step and a zero for each place of a dimension."""
    shape = [n if i == dim % len(x.sizes) else 1 for i, n in enumerate(x.sizes)]
    return quantised(b, x, reshaped(b, scale, shape), reshaped(b, zero, shape), low, high)


def is_nan(v: Expr) -> Expr:
    """Return whether something is not a number: it is then not equal to itself."""
    return Compare(("!=",), (number(v), number(v)))


def without_nan(
    b: Builder, x: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    """Return values with numbers for what is none and for what is endless: the largest of float64, the evaluator's."""
    largest = sys.float_info.max if posinf is None else posinf
    lowest = -sys.float_info.max if neginf is None else neginf

    def change(v: Expr) -> Expr:
        endless = Compare(("==",), (number(v), Num(math.inf)))
        below = Compare(("==",), (number(v), Apply("neg", (Num(math.inf),))))
        finite = Apply(
            "select", (endless, constant(largest), Apply("select", (below, constant(lowest), number(v))))
        )
        return Apply("select", (is_nan(v), constant(nan or 0), finite))

    return elementwise(b, change, x)


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
