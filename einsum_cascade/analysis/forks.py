"""How many alternatives predicates have, told without listing them: those with too many are not looked into."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..expr import Apply, Compare, Expr, Num
from .intervals import LIMIT_TERMS

# A condition that no point satisfies: what stands under it is in no bound.
NEVER = Compare(("<",), (Num(0), Num(0)))


def too_many(parts: Sequence[Expr], most: int = LIMIT_TERMS) -> bool:
    """Tell whether the points that satisfy some predicates could not be counted.

    >>> from einsum_cascade.parser import parse_expression
    >>> too_many([parse_expression("m != p")], 1), too_many([parse_expression("m < p")], 1)
    (True, False)
    """
    return how_many(parts) > most


def how_many(parts: Sequence[Expr]) -> int:
    """Return how many conjunctions of comparisons it takes to say all of some predicates."""
    return math.prod(_forks(p, positive=True) for p in parts)


def _forks(node: Expr, *, positive: bool) -> int:
    if isinstance(node, Apply) and node.op == "not":
        return _forks(node.args[0], positive=not positive)
    if isinstance(node, Apply) and node.op in ("and", "or"):
        found = [_forks(a, positive=positive) for a in node.args]
        return math.prod(found) if (node.op == "and") == positive else sum(found)
    if not isinstance(node, Compare):
        return 1
    # One that has to differ is less or more; so may be one whose absolute value is compared.
    differs = "!=" if positive else "=="
    each = [2 if op == differs or _has_abs(node) else 1 for op in node.ops]
    return math.prod(each) if positive else sum(each)


def _has_abs(node: Compare) -> bool:
    return any(isinstance(a, Apply) and a.op == "abs" for a in node.args)
