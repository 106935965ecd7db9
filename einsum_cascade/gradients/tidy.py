"""Indices and conditions in which variables have been replaced, written as a person would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..analysis.points import fits
from ..analysis.predicates import conjuncts
from ..cascade import Cascade
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, substitute, transform, variables, walk
from ..rewrite.algebra import Formula, Symbols, expanded

_AFFINE = frozenset({"+", "-", "*", "neg"})


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
            return Access(part.tensor, tuple(map(_plain, part.indices)))
        if isinstance(part, Compare) and not accesses(part):
            return Compare(part.ops, tuple(map(_plain, part.args)))
        return part

    return transform(found, change)


def _plain(index: Expr) -> Expr:
    """Return an index whose sums of coordinates are worked out; what is not a sum is one word to them."""
    if not isinstance(index, Apply):
        return index
    if index.op not in _AFFINE:
        return Apply(index.op, tuple(map(_plain, index.args)))
    symbols = Symbols()
    return _whole(symbols.expression(expanded(_formula(index, symbols))))


def _formula(index: Expr, symbols: Symbols) -> Formula:
    if isinstance(index, Num):
        return symbols.formula(index)
    if not isinstance(index, Apply):
        return symbols.symbol(index)
    if index.op not in _AFFINE:
        return symbols.symbol(_plain(index))
    first, *rest = (_formula(a, symbols) for a in index.args)
    if index.op == "neg":
        return -first
    (second,) = rest
    return first + second if index.op == "+" else first - second if index.op == "-" else first * second


def _whole(index: Expr) -> Expr:
    """Return an index whose numbers are whole, as sympy hands them back."""
    return transform(index, lambda n: Num(int(n.value)) if isinstance(n, Num) and n.value == int(n.value) else n)


def isolated(index: Expr, variable: str, value: Expr) -> Expr | None:
    """Return what a variable is where an index has a value, or None where it does not stand there once, times 1 or -1.

    >>> from ..expr import Apply, Num, Var
    >>> from ..printer import expression
    >>> expression(isolated(Apply("+", (Var("p"), Var("w"))), "p", Var("m")))
    'm - w'
    """
    if index == Var(variable):
        return _plain(value)
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
            if part not in said and not _always(part, cascade):
                found[part] = None
    return list(found)


def _always(part: Expr, cascade: Cascade) -> bool:
    """Tell whether a comparison says only that a coordinate lies inside its rank."""
    if not isinstance(part, Compare) or len(part.ops) != 1:
        return False
    op, (a, b) = part.ops[0], part.args
    if isinstance(b, Var):
        return (op == "<=" and a == Num(0)) or a == b
    if isinstance(a, Var) and isinstance(b, Size) and op == "<":
        return b.name in cascade.rank_names and fits(cascade, b.name, a)
    return a == b and op in ("<=", ">=", "==")
