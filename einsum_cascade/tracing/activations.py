"""Activation functions of PyTorch as expressions of one element."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..expr import Apply, Compare, Expr, Num
from .rounding import towards_zero
from .values import Builder, UntraceableError, Value, constant, elementwise, number


def gated(x: Expr, gate: Expr) -> Expr:
    """Return a value times the sigmoid of its gate."""
    return Apply("*", (x, Apply("sigmoid", (gate,))))


def leaky(slope: float) -> Callable[[Expr], Expr]:
    """Return the map that keeps what is above 0 and scales the rest."""

    def leaky(v: Expr) -> Expr:
        return Apply("select", (Compare((">",), (v, Num(0))), v, Apply("*", (constant(slope), v))))

    return leaky


def elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    """Return what is above 0, and exp less 1 of the rest."""
    if scale != 1 or input_scale != 1:
        raise UntraceableError("elu with scales")

    def elu(v: Expr) -> Expr:
        below = Apply("-", (Apply("exp", (v,)), Num(1)))
        below = below if alpha == 1 else Apply("*", (constant(alpha), below))
        return Apply("select", (Compare((">",), (v, Num(0))), v, below))

    return elementwise(b, elu, x)


def gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    """Return gelu, by erf or by tanh."""
    if approximate == "none":
        return elementwise(b, lambda v: Apply("gelu", (number(v),)), x)

    def by_tanh(v: Expr) -> Expr:
        cube = Apply("*", (Num(0.044715), Apply("**", (v, Num(3)))))
        inner = Apply("*", (Num(math.sqrt(2 / math.pi)), Apply("+", (v, cube))))
        return Apply("*", (Apply("/", (v, Num(2))), Apply("+", (Num(1), Apply("tanh", (inner,))))))

    return elementwise(b, by_tanh, x)


def softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    """Return log(1 + exp)."""
    if beta != 1:
        raise UntraceableError("softplus with beta")
    return elementwise(b, lambda v: Apply("softplus", (number(v),)), x)


def log_sigmoid(b: Builder, x: Value) -> Value:
    """Return the logarithm of a sigmoid: minus the softplus of what is negated."""

    def log_of(v: Expr) -> Expr:
        return Apply("neg", (Apply("softplus", (Apply("neg", (number(v),)),)),))

    return elementwise(b, log_of, x)


def mish(b: Builder, x: Value) -> Value:
    """Return a value times tanh(softplus)."""

    def mish(v: Expr) -> Expr:
        return Apply("*", (number(v), Apply("tanh", (Apply("softplus", (number(v),)),))))

    return elementwise(b, mish, x)


def blended(b: Builder, x: Value, end: Value, weight: Value | float) -> Value:
    """Return what lies between two values: the first, and a part of the way to the second."""

    def blend(p: Expr, q: Expr, part: Expr) -> Expr:
        return Apply("+", (number(p), Apply("*", (number(part), Apply("-", (number(q), number(p)))))))

    return elementwise(b, blend, x, end, weight)


def added(op: str) -> Callable[..., Value]:
    """Return a handler of `addcmul` or `addcdiv`: a value, and a number of times a product or a quotient."""

    def added(b: Builder, x: Value, y: Value, z: Value, *, value: float = 1) -> Value:
        def total(p: Expr, q: Expr, r: Expr) -> Expr:
            more = Apply(op, (number(q), number(r)))
            return Apply("+", (number(p), more if value == 1 else Apply("*", (constant(value), more))))

        return elementwise(b, total, x, y, z)

    return added


def _halves(op: str) -> Callable[..., Value]:
    """Return a handler of half the sum (cosh) or the difference (sinh) of both exponentials."""

    def both(v: Expr) -> Expr:
        up, down = Apply("exp", (number(v),)), Apply("exp", (Apply("neg", (number(v),)),))
        return Apply("/", (Apply(op, (up, down)), Num(2)))

    return lambda b, x: elementwise(b, both, x)


def _logarithm(base: int) -> Callable[..., Value]:
    def logarithm(v: Expr) -> Expr:
        return Apply("/", (Apply("log", (number(v),)), Num(math.log(base))))

    return lambda b, x: elementwise(b, logarithm, x)


def _left_over(x: Expr, y: Expr) -> Expr:
    """Return what is left of a division towards zero."""
    whole = towards_zero(Apply("/", (number(x), number(y))))
    return Apply("-", (number(x), Apply("*", (whole, number(y)))))


def _length(x: Expr, y: Expr) -> Expr:
    squares = (Apply("*", (number(v), number(v))) for v in (x, y))
    return Apply("sqrt", (Apply("+", tuple(squares)),))


FORMULAS: dict[str, Callable[..., Value]] = {
    "sinh": _halves("-"),
    "cosh": _halves("+"),
    "log2": _logarithm(2),
    "log10": _logarithm(10),
    "erfc": lambda b, x: elementwise(b, lambda v: Apply("-", (Num(1), Apply("erf", (number(v),)))), x),
    "fmod": lambda b, x, y: elementwise(b, _left_over, x, y),
    "hypot": lambda b, x, y: elementwise(b, _length, x, y),
}
