"""Reductions of traced tensors, and softmax as it is made of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ..expr import Apply, Expr, Var
from .scores import keeps_some, masked
from .shapes import axis_of, reshaped
from .values import Builder, Value, elementwise, number, reducing


def reduced(
    b: Builder, x: Value, dims: Sequence[int] | int | None, op: str, *, keepdim: bool = False, wanted: str
) -> Value:
    """Return a reduction over some dimensions."""
    if not x.sizes:  # torch takes a single number for a row of one
        return reduced(b, reshaped(b, x, [1]), 0, op, wanted=wanted)
    some = range(len(x.sizes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = [axis_of(x, d) for d in some]
    left = [i for i in range(len(x.sizes)) if i not in gone]
    order = [*left, *gone]
    back = {place: i for i, place in enumerate(order)}

    def make(at: tuple[Expr, ...]) -> Expr:
        return number(x.element(tuple(at[back[i]] for i in range(len(order)))))

    axes, sizes = [x.axes[i] for i in order], [x.sizes[i] for i in order]
    out = b.define(wanted, axes, make, reductions=reducing(op, len(left)), kept=len(left), sizes=sizes)
    if not keepdim:
        return out
    shape = [1 if i in gone else n for i, n in enumerate(x.sizes)]
    return reshaped(b, out, shape)


def softmax(b: Builder, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    """Return the stable softmax as it is written in textbooks: maximum, exponentials, sum, quotient."""
    shifted, total = _exponentials(b, x, dim)
    return b.solid(elementwise(b, lambda p, q: Apply("/", (p, q)), shifted, total), "A")


def _exponentials(b: Builder, x: Value, dim: int) -> tuple[Value, Value]:
    scores = scores_of(b, x, dim)
    top = reduced(b, scores, dim, "max", keepdim=True, wanted="GM")
    shifted = elementwise(b, lambda s, m: Apply("exp", (Apply("-", (s, m)),)), scores, top)
    numerator = b.solid(shifted, "SN")
    return numerator, reduced(b, numerator, dim, "sum", keepdim=True, wanted="SD")


def scores_of(b: Builder, x: Value, dims: Sequence[int] | int) -> Value:
    """Return scores by name; those that a mask makes so low that exp of them is 0 do not exist."""
    along = [axis_of(x, d) for d in ([dims] if isinstance(dims, int) else dims or range(len(x.sizes)))]
    return x if x.plain else _named(b, x, "S", along)


def named(b: Builder, x: Value) -> Value:
    """Return a value by name; elements that a mask makes -inf do not exist, as of scores that several read."""
    return x if x.plain else _named(b, x, "U")


def _named(b: Builder, x: Value, wanted: str, along: Sequence[int] = ()) -> Value:
    @functools.cache  # asked for the score and for where it exists
    def apart(at: tuple[Expr, ...]) -> tuple[Expr, Expr | None]:
        names = [v for v in at if isinstance(v, Var)]
        return masked(number(x.element(at)), lambda c: bool(along) and keeps_some(c, names, x.sizes, along))

    return b.define(wanted, x.axes, lambda at: apart(at)[0], sizes=x.sizes, where=lambda at: apart(at)[1])


def log_softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    """Return the logarithm of the stable softmax."""
    scores = scores_of(b, x, dim)
    total = _exponentials(b, scores, dim)[1]
    top = reduced(b, scores, dim, "max", keepdim=True, wanted="GM")
    log = elementwise(b, lambda d: Apply("log", (d,)), total)
    return elementwise(b, lambda s, m, d: Apply("-", (Apply("-", (s, m)), d)), scores, top, log)


def logsumexp(b: Builder, x: Value, dims: Any, keepdim: bool = False) -> Value:
    """Return the logarithm of a sum of exponentials."""
    return reduced(b, scores_of(b, x, dims), dims, "logsumexp", keepdim=keepdim, wanted="L")
