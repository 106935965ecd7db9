"""Conditions that have to be written: not carried by what is read, nor true of every coordinate."""

from __future__ import annotations

from collections.abc import Iterable

import sympy

from ..analysis.predicates import conjuncts
from ..cascade import Cascade
from ..declarations import rank_of
from ..expr import (
    Apply,
    Compare,
    Expr,
    Num,
    Size,
    Var,
    accesses,
)
from ..rewrite.algebra import Formula


def unsaid(conditions: Iterable[Expr], carried: Iterable[Expr], cascade: Cascade) -> list[Expr]:
    """Return the conditions that have to be written: neither carried by what is read, nor true of every coordinate."""
    said = {c for whole in carried for c in conjuncts(whole)}
    found: dict[Expr, None] = {}
    for whole in conditions:
        for part in conjuncts(whole):
            if part not in said and not always(part, cascade):
                found[part] = None
    return list(found)


def chained(conditions: Iterable[Expr]) -> list[Expr]:
    """Return conditions with `a <= x` and `x < b` side by side as `a <= x < b`."""
    found: list[Expr] = []
    for part in conditions:
        last = found[-1] if found else None
        if (
            isinstance(part, Compare)
            and isinstance(last, Compare)
            and last.args[-1] == part.args[0]
            and _rises(last, part)
        ):
            found[-1] = Compare((*last.ops, *part.ops), (*last.args, *part.args[1:]))
        else:
            found.append(part)
    return found


def _rises(*parts: Compare) -> bool:
    return all(op in ("<", "<=") for part in parts for op in part.ops)


def always(part: Expr, cascade: Cascade) -> bool:
    """Tell whether a comparison of coordinates holds at every point, whatever the sizes.

    Each variable is taken at the end of its rank at which the comparison is least true; what is left is made of sizes,
    each at least 1.
    """
    if not isinstance(part, Compare) or len(part.ops) != 1 or accesses(part):
        return False
    op, (a, b) = part.ops[0], part.args
    if op == "<":
        a, op = Apply("+", (a, Num(1))), "<="
    if op != "<=":
        return a == b and op in ("==", ">=")
    room = _polynomial(Apply("-", (b, a)), cascade)
    if room is None:
        return False
    for v in [s for s in room.free_symbols if not s.name.startswith("size ")]:
        by = sympy.diff(room, v)
        if by.free_symbols or not by.is_number:
            return False
        room = room.subs(v, 0 if by >= 0 else _size(rank_of(v.name), cascade) - 1)
    room = sympy.expand(room.subs({s: s + 1 for s in room.free_symbols}))
    return (
        all(c >= 0 for c in sympy.Poly(room, *room.free_symbols).coeffs())
        if room.free_symbols
        else bool(room >= 0)
    )


def _polynomial(node: Expr, cascade: Cascade) -> Formula | None:
    if isinstance(node, Num):
        return sympy.Integer(node.value) if isinstance(node.value, int) else None
    if isinstance(node, Size):
        return _size(node.name, cascade) if node.name in cascade.rank_names else None
    if isinstance(node, Var):
        return sympy.Symbol(node.name)
    if not isinstance(node, Apply) or node.op not in ("+", "-", "*", "neg"):
        return None
    parts = [p for p in (_polynomial(a, cascade) for a in node.args) if p is not None]
    if len(parts) < len(node.args):
        return None
    first, *rest = parts
    if not rest:
        return -first
    return first + rest[0] if node.op == "+" else first - rest[0] if node.op == "-" else first * rest[0]


def _size(rank: str, cascade: Cascade) -> Formula:
    """Return the size of a rank by the sizes that it is made of."""
    sizes = {r.name: r.size for r in cascade.ranks}
    made = sizes.get(rank)
    if made is None:
        return sympy.Symbol(f"size {rank}")
    found = _polynomial(made, cascade)
    return sympy.Symbol(f"size {rank}") if found is None else found
