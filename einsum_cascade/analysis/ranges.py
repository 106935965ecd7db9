"""How far expressions of coordinates reach, and which conditions hold by themselves because of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..declarations import rank_of
from ..expr import Apply, Compare, Expr, Num, Size, Var, accesses, variables, walk
from .intervals import number

_ALL = (-math.inf, math.inf)
Range = tuple[float, float]


def reach(node: Expr, numbers: Mapping[str, float], extents: Mapping[str, int] | None = None) -> Range:
    """Return the least and the greatest value of an expression over the values of its variables, or wider.

    Args:
        numbers: sizes and constants by their names.
        extents: how many values each variable has, where that is not the size of the rank of its name.

    >>> from einsum_cascade.parser import parse_expression
    >>> reach(parse_expression("(m - 3) % M0 + 2 * p"), {"M": 8, "M0": 4, "P": 5})
    (0.0, 11.0)
    """
    if isinstance(node, Var):
        return 0.0, float((numbers[rank_of(node.name)] if extents is None else extents[node.name]) - 1)
    if accesses(node):
        return _ALL
    if not variables(node):
        value = float(number(node, {}, numbers))
        return value, value
    if not isinstance(node, Apply):
        return _ALL
    parts = [reach(a, numbers, extents) for a in node.args]
    known = all(math.isfinite(end) for part in parts for end in part)
    if node.op == "%":
        return _remainder(*parts, whole=known and _whole(node, numbers))
    return _applied(node.op, parts) if known or node.op == "clamp" else _ALL


def _whole(node: Expr, numbers: Mapping[str, float]) -> bool:
    """Tell whether all numbers of an expression are whole; those of its operators whose reach is known keep it so."""
    values = [
        n.value if isinstance(n, Num) else numbers[n.name] for n in walk(node) if isinstance(n, (Num, Size))
    ]
    return all(float(v).is_integer() for v in values)


def _remainder(run: Range, by: Range, *, whole: bool) -> Range:
    if by[0] != by[1] or by[0] <= 0:
        return _ALL
    if run[0] >= 0 and run[1] < by[0]:
        return run
    return 0.0, by[0] - 1 if whole else by[0]


def _applied(op: str, parts: Sequence[Range]) -> Range:
    (low, high), (least, most) = parts[0], parts[-1]
    if op == "+":
        return low + least, high + most
    if op == "-":
        return low - most, high - least
    if op == "neg":
        return -high, -low
    if op == "*":
        ends = [a * b for a in (low, high) for b in (least, most)]
        return min(ends), max(ends)
    if op == "//" and least == most and least > 0:
        return low // least, high // least
    if op in ("min", "max"):
        pick = min if op == "min" else max
        return pick(p[0] for p in parts), pick(p[1] for p in parts)
    if op == "clamp":
        floor, ceiling = parts[1], parts[2]
        return min(max(low, floor[0]), ceiling[0]), min(max(high, floor[1]), ceiling[1])
    if op == "**" and low >= 0 and least >= 0:
        try:
            return (low**least if low >= 1 else 0.0), max(high, 1.0) ** most
        except OverflowError:
            return _ALL
    if op == "abs":
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
    return _ALL


def always(part: Expr, numbers: Mapping[str, float], extents: Mapping[str, int] | None = None) -> bool:
    """Tell whether a condition holds at every point, as far as the ends of its sides tell; arguments as of `reach`."""
    if isinstance(part, Apply) and part.op in ("and", "or"):
        each = [always(a, numbers, extents) for a in part.args]
        return all(each) if part.op == "and" else any(each)
    if not isinstance(part, Compare) or accesses(part):
        return False
    sides = [reach(a, numbers, extents) for a in part.args]
    return all(_holds(op, a, b) for op, a, b in zip(part.ops, sides, sides[1:], strict=False))


def _holds(op: str, a: Range, b: Range) -> bool:
    if op in (">", ">="):
        a, b, op = b, a, "<" if op == ">" else "<="
    return (op == "<" and a[1] < b[0]) or (op == "<=" and a[1] <= b[0])
