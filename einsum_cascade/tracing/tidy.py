"""What a trace says in a roundabout way, as a person would write it: `c < n` for `not not c <= n + -1`."""

from __future__ import annotations

from dataclasses import replace

from ..cascade import Cascade
from ..einsum import Einsum
from ..expr import Apply, Compare, Expr, Num, Size, Var, plus, transform, walk
from ..rolling.plain import with_each
from .values import is_truth

# `a < b + 1` is `a <= b` of whole numbers, `a <= b - 1` is `a < b`, and so with both turned round.
_NEIGHBOURS = {("<", 1): "<=", ("<=", -1): "<", (">=", 1): ">", (">", -1): ">="}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def tidied(cascade: Cascade) -> Cascade:
    """Return a cascade of the same meaning, its expressions without detours."""

    def change(einsum: Einsum, _: str | None) -> list[Einsum]:
        where = None if einsum.where is None else transform(einsum.where, _shorter)
        return [replace(einsum, value=transform(einsum.value, _shorter), where=where)]

    return replace(cascade, body=with_each(cascade.body, change))


def _shorter(node: Expr) -> Expr:
    match node:
        case Apply("neg", (Apply("neg", (x,)),)):
            return x
        case Apply("not", (Apply("not", (x,)),)) if is_truth(x):
            return x
        case Apply("not", (Compare((op,), (a, b)),)) if _is_whole(a) and _is_whole(b):
            return _shorter(Compare((_OPPOSITE[op],), (a, b)))
        case Apply("+", (x, Num(c))) if c < 0:
            return plus(x, c)
        case Apply("+", (x, Apply("neg", (y,)))):
            return Apply("-", (x, y))
        case Compare((op,), (a, Apply("+" | "-" as sign, (b, Num(1))))) if _is_whole(a) and _is_whole(b):
            closer = _NEIGHBOURS.get((op, 1 if sign == "+" else -1))
            return node if closer is None else Compare((closer,), (a, b))
    return node


def _is_whole(node: Expr) -> bool:
    """Tell whether an expression is a whole number: coordinates and sizes, added and multiplied."""
    return all(
        isinstance(n, (Var, Size))
        or (isinstance(n, Num) and isinstance(n.value, int))
        or (isinstance(n, Apply) and n.op in ("+", "-", "*", "neg", "//", "%"))
        for n in walk(node)
    )
