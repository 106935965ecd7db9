"""Indices and conditions in which variables have been replaced, written as a person would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy

from ..analysis.predicates import conjuncts
from ..cascade import Cascade
from ..declarations import rank_of, variable_of
from ..expr import (
    Access,
    Apply,
    Compare,
    Expr,
    Num,
    Size,
    Var,
    accesses,
    substitute,
    transform,
    variables,
    walk,
)
from ..rewrite.algebra import Formula, Symbols, expanded


def replaced(node: Expr, values: Mapping[str, Expr]) -> Expr:
    """Return an expression with variables replaced, its indices and comparisons of indices worked out.

    >>> from ..expr import Access, Apply, Num, Var
    >>> shifted = Access("K", (Apply("+", (Var("m"), Num(1))),))
    >>> replaced(shifted, {"m": Apply("-", (Var("p"), Num(1)))}).indices[0].name
    'p'
    """
    moved = {v: e for v, e in values.items() if e != Var(v)}
    if not moved or not set(variables(node)) & moved.keys():
        return node
    found = substitute(node, moved)

    def change(part: Expr) -> Expr:
        if isinstance(part, Access):
            return Access(part.tensor, tuple(map(worked_out, part.indices)))
        if isinstance(part, Compare) and not accesses(part):
            return Compare(part.ops, tuple(map(worked_out, part.args)))
        return part

    return transform(found, change)


def at(access: Access, values: Mapping[str, Expr]) -> Access:
    """Return an access at another place, as `replaced` does."""
    found = replaced(access, values)
    assert isinstance(found, Access)
    return found


def worked_out(index: Expr) -> Expr:
    """Return an index whose sums of coordinates are worked out; all else in it is one word to them."""
    if not isinstance(index, Apply):
        return index
    if not _is_sum(index):
        return _digit(Apply(index.op, tuple(map(worked_out, index.args))))
    symbols = Symbols()
    return _whole(symbols.expression(expanded(_formula(index, symbols))))


def _is_sum(index: Apply) -> bool:
    return index.op in ("+", "-", "neg") or (index.op == "*" and any(isinstance(a, Num) for a in index.args))


def _formula(index: Expr, symbols: Symbols) -> Formula:
    if isinstance(index, Num):
        return symbols.formula(index)
    if not isinstance(index, Apply):
        return symbols.symbol(index)
    if not _is_sum(index):
        return symbols.symbol(worked_out(index))
    first, *rest = (_formula(a, symbols) for a in index.args)
    if index.op == "neg":
        return -first
    (second,) = rest
    return first + second if index.op == "+" else first - second if index.op == "-" else first * second


def _digit(index: Apply) -> Expr:
    """Return d of `(d*G + g)//G` and g of `(d*G + g)%G`, g running over G."""
    if index.op not in ("//", "%"):
        return index
    whole, by = index.args
    if not (isinstance(whole, Apply) and whole.op == "+" and isinstance(by, Size)):
        return index
    block, inside = whole.args
    if (
        inside != Var(variable_of(by.name))
        or not isinstance(block, Apply)
        or block.op != "*"
        or block.args[1] != by
    ):
        return index
    return block.args[0] if index.op == "//" else inside


def _whole(index: Expr) -> Expr:
    """Return an index whose numbers are whole, as sympy hands them back."""
    return transform(
        index, lambda n: Num(int(n.value)) if isinstance(n, Num) and n.value == int(n.value) else n
    )


def isolated(index: Expr, variable: str, value: Expr) -> Expr | None:
    """Return what a variable is where an index has a value, or None where it does not stand there once, times 1 or -1.

    >>> from ..expr import Apply, Num, Var
    >>> from ..printer import expression
    >>> expression(isolated(Apply("+", (Var("p"), Var("w"))), "p", Var("m")))
    'm - w'
    """
    if index == Var(variable):
        return worked_out(value)
    if sum(n == Var(variable) for n in walk(index)) != 1 or not isinstance(index, Apply):
        return None
    if index.op == "neg":
        return isolated(index.args[0], variable, Apply("neg", (value,)))
    if index.op not in ("+", "-"):
        return None
    a, b = index.args
    if variable in variables(a):
        return isolated(a, variable, Apply("-" if index.op == "+" else "+", (value, b)))
    left = Apply("-", (value, a)) if index.op == "+" else Apply("-", (a, value))
    return isolated(b, variable, left)


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
