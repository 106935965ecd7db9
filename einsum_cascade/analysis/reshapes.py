"""Indices that lay a tensor out anew: digits of one running number, as `reshape` and `view` write them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..expr import Apply, Expr, Num, accesses, substitute, variables
from .intervals import number, slope


@dataclass(frozen=True, slots=True)
class _Digit:
    """`run // step % base` of a running number; without a base, all that is left of it."""

    run: Expr
    step: int
    base: int | None


def reshapes(
    indices: Sequence[Expr],
    shape: Sequence[int],
    extents: Mapping[str, int],
    numbers: Mapping[str, float],
) -> bool:
    """Tell whether indices reach each element of a tensor once, as digits of a number that runs over all of them.

    Args:
        indices: of an access, one an axis.
        shape: of the tensor.
        extents: how many values each variable of the indices has.
        numbers: sizes and constants by their names in the indices.

    >>> from einsum_cascade.parser import parse_expression
    >>> indices = [parse_expression(text) for text in ("(c * N + n) % C", "(c * N + n) // C")]
    >>> reshapes(indices, (4, 6), {"c": 4, "n": 6}, {"C": 4, "N": 6})
    True
    >>> reshapes(indices, (4, 6), {"c": 4, "n": 5}, {"C": 4, "N": 5})
    False
    """
    if any(map(accesses, indices)):
        return False
    digits = [_digit(index, numbers) for index in indices]
    run = digits[0].run if digits else None
    if (
        run is None
        or any(d.run != run for d in digits)
        or _runs_over(run, extents, numbers) != math.prod(shape)
    ):
        return False
    step = 1
    for digit, size in sorted(zip(digits, shape, strict=True), key=lambda pair: (pair[0].step, pair[1] > 1)):
        last = step * size == math.prod(shape)
        if size > 1 and (digit.step != step or (digit.base != size and not (last and digit.base is None))):
            return False
        step *= size
    return True


def _digit(index: Expr, numbers: Mapping[str, float]) -> _Digit:
    whole = _Digit(index, 1, None)
    if not isinstance(index, Apply) or index.op not in ("//", "%") or variables(index.args[1]):
        return whole
    by = float(number(index.args[1], {}, numbers))
    inner = _digit(index.args[0], numbers)
    if not by.is_integer() or by < 1 or (inner.base is not None and inner.base % by):
        return whole
    divisor = int(by)
    if index.op == "%":
        return _Digit(inner.run, inner.step, divisor)
    return _Digit(inner.run, inner.step * divisor, None if inner.base is None else inner.base // divisor)


def _runs_over(run: Expr, extents: Mapping[str, int], numbers: Mapping[str, float]) -> int:
    """Return n where a linear expression takes each of the values 0 to n - 1 once; 0 where it does not."""
    names = variables(run)
    slopes = {v: slope(run, v, numbers) for v in names}
    if any(s is None for s in slopes.values()):
        return 0
    if float(number(substitute(run, {v: Num(0) for v in names}), {}, numbers)) != 0.0:
        return 0
    reached = 1
    for v in sorted((v for v in names if extents[v] > 1), key=lambda v: float(slopes[v] or 0.0)):
        if slopes[v] != reached:
            return 0
        reached *= extents[v]
    return reached
