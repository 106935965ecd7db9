"""Masks of scores, however they are written, as the condition under which a score exists."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, children, variables, walk
from ..ops import COMPARISON, OPPOSITE, SCALAR
from .values import both, constant, is_truth, size_in_example

# What is added to a score, or stands in its place, to mask it: -inf, the least number of a type, -1e9, and -10000 as in
# the first BERT. exp of it is 0 in every type, as long as scores stay within some thousands.
_LOW = -1e4
# The same before scores are divided by the root of a size that has no number here.
_LOW_ENOUGH = -1e8
# Of a mask that is looked at point by point: 8K x 8K.
_MOST_POINTS = 1 << 26


@dataclass(frozen=True)
class _Score:
    """A score that is very low where a condition holds.

    Attributes:
        value: what it is elsewhere.
        removed: the condition; None for nowhere.
        low: how low it is at the most.
    """

    value: Expr
    removed: Expr | None = None
    low: float = -math.inf


def masked(value: Expr, exists: Callable[[Expr], bool]) -> tuple[Expr, Expr | None]:
    """Return a score without its masks, and where it exists; None for everywhere.

    `select(c, x, -inf)`, `x + select(c, 0, -inf)`, `x + (1 - c) * -10000`, `select(c, x, -1e9) / sqrt(d)`: x where c.

    Args:
        exists: tells of a condition whether each row keeps a score, so that what a finite mask adds to the others does
            not count: a row of nothing but -1e9 has equal shares.
    """
    found = _score(value)
    if found.removed is None:
        return value, None
    kept = _not(found.removed)
    return (found.value, kept) if found.low == -math.inf or exists(kept) else (value, None)


def keeps_some(condition: Expr, at: Sequence[Var], sizes: Sequence[int], along: Sequence[int]) -> bool:
    """Tell whether a condition on indices alone holds at one point of every row.

    Args:
        at: the variables of all dimensions; `sizes` are those of the example.
        along: the dimensions of a row.
    """
    place = {v.name: i for i, v in enumerate(at)}
    shape = [n if v.name in {*variables(condition)} else 1 for v, n in zip(at, sizes, strict=True)]
    if any(isinstance(n, Access) for n in walk(condition)) or math.prod(shape) > _MOST_POINTS:
        return False

    def value(node: Expr) -> NDArray[Any]:
        if isinstance(node, Num):
            return np.asarray(float(node.value))
        if isinstance(node, Size):
            return np.asarray(float(size_in_example(node)))
        if isinstance(node, Var):
            i = place[node.name]
            return np.arange(float(sizes[i])).reshape([-1 if k == i else 1 for k in range(len(at))])
        args = [value(n) for n in children(node)]
        if isinstance(node, Compare):
            links = (COMPARISON[op](x, y) for op, x, y in zip(node.ops, args, args[1:], strict=False))
            return functools.reduce(np.logical_and, links)
        assert isinstance(node, Apply)
        return np.asarray(SCALAR[node.op].function(*args))

    with np.errstate(all="ignore"):
        held = np.broadcast_to(value(condition) != 0, shape)
    return bool(held.any(axis=tuple(along)).all())


def _score(node: Expr) -> _Score:
    if isinstance(node, Apply):
        match node.op, node.args:
            case "select", (c, x, y):
                return _chosen(node, c, x, y)
            case "+", (a, b):
                return _sum(node, a, b)
            case "-", (a, b):
                return _difference(node, a, b)
            case (("*" | "/"), (a, b)):
                return _product(node, a, b)
    return _Score(node)


def _chosen(node: Expr, condition: Expr, x: Expr, y: Expr) -> _Score:
    for low, other, removed in ((_number(y), x, _not(condition)), (_number(x), y, condition)):
        if low is not None and low <= _LOW:
            inner = _score(other)
            return _Score(inner.value, _either(inner.removed, removed), max(inner.low, low))
    return _Score(node)


def _sum(node: Expr, a: Expr, b: Expr) -> _Score:
    one, other = _score(a), _score(b)
    if one.removed is None and other.removed is None:
        return _Score(node)
    terms = [s.value for s in (one, other) if s.value != Num(0)] or [Num(0)]
    value = terms[0] if len(terms) == 1 else Apply("+", tuple(terms))
    return _Score(value, _either(one.removed, other.removed), max(one.low, other.low))


def _difference(node: Expr, a: Expr, b: Expr) -> _Score:
    negative = _negative(b)
    mask = _Score(b) if negative is None else _score(negative)
    if negative is not None and mask.removed is not None and mask.value == Num(0):
        return _sum(node, a, negative)
    one = _score(a)
    if one.removed is None:
        return _Score(node)
    return _Score(Apply("-", (one.value, b)), one.removed, one.low)


def _product(node: Apply, a: Expr, b: Expr) -> _Score:
    pairs = [(a, b)] if node.op == "/" else [(a, b), (b, a)]
    for x, factor in pairs:
        times, inside = _number(factor), _indicator(x)
        if node.op == "*" and inside is not None and times is not None and -math.inf < times <= _LOW:
            return _Score(Num(0), inside, times)
        score = _score(x)
        if score.removed is None:
            continue
        also = _indicator(factor)
        if node.op == "*" and score.value == Num(0) and also is not None and score.low > -math.inf:
            return _Score(Num(0), both(score.removed, also), score.low)
        low = _scaled(score.low, node.op, factor)
        if low is not None and low <= _LOW:
            args = (score.value, factor) if x is a else (factor, score.value)
            return _Score(score.value if score.value == Num(0) else Apply(node.op, args), score.removed, low)
    return _Score(node)


def _scaled(low: float, op: str, factor: Expr) -> float | None:
    """Return how low a mask is after it was multiplied or divided by what is positive, or None for what may not be."""
    number = _number(factor)
    if number is not None:
        return None if not 0 < number < math.inf else low * number if op == "*" else low / number
    sizes = all(isinstance(n, (Num, Size)) or (isinstance(n, Apply) and n.op == "sqrt") for n in walk(factor))
    return low if sizes and low <= _LOW_ENOUGH else None


def _indicator(node: Expr) -> Expr | None:
    """Return the condition under which a value is 1, if it is 0 elsewhere."""
    if is_truth(node):
        return node
    if not isinstance(node, Apply):
        return None
    match node.op, node.args:
        case "select", (c, Num(1), Num(0)):
            return c
        case "select", (c, Num(0), Num(1)):
            return _not(c)
        case "-", (Num(1), x):
            inner = _indicator(x)
            return None if inner is None else _not(inner)
        case "*", (a, b):
            left, right = _indicator(a), _indicator(b)
            return None if left is None or right is None else both(left, right)
    return None


def _negative(node: Expr) -> Expr | None:
    """Return the negative of a value that is a number times something, or one of two numbers."""
    match node:
        case Apply("*", (a, b)):
            for x, factor in ((a, b), (b, a)):
                if (number := _number(factor)) is not None:
                    return Apply("*", (x, constant(-number)))
        case Apply("select", (c, x, y)):
            if (one := _number(x)) is not None and (other := _number(y)) is not None:
                return Apply("select", (c, constant(-one), constant(-other)))
    return None


def _number(node: Expr) -> float | None:
    if isinstance(node, Num):
        return float(node.value)
    if isinstance(node, Apply) and node.op == "neg":
        inner = _number(node.args[0])
        return None if inner is None else -inner
    return None


def _either(a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        return b if a is None else a
    return Apply("or", (a, b))


def _not(condition: Expr) -> Expr:
    if isinstance(condition, Apply) and condition.op == "not":
        return condition.args[0]
    if isinstance(condition, Apply) and condition.op in ("and", "or"):
        return Apply("or" if condition.op == "and" else "and", tuple(map(_not, condition.args)))
    if isinstance(condition, Compare) and len(condition.ops) == 1:
        return Compare((OPPOSITE[condition.ops[0]],), condition.args)
    return Apply("not", (condition,))
