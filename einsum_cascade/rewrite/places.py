"""Indices in which variables have been replaced, written as a person would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy

from ..declarations import Rank, rank_of, variable_of
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
from .algebra import Formula, Symbols, expanded


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


class Digits:
    """Quotients and remainders of indices by sizes of blocks, worked out where an index runs along the blocks.

    With T = T1 * T0 it reads `(T - (t1*T0 + t0) - 1) // T0` as `T1 - t1 - 1`, and the remainder as `T0 - t0 - 1`.
    """

    def __init__(self, ranks: Iterable[Rank]) -> None:
        self._sizes = {r.name: r.size for r in ranks if isinstance(r.size, (Size, Apply))}
        self._known: dict[Apply, Expr] = {}

    def worked_out(self, node: Expr) -> Expr:
        """Return a node, or what it is where it is such a quotient or remainder, or both put together again."""
        if isinstance(node, Apply) and node.op == "+":
            block, left = node.args
            if isinstance(left, Apply) and left.op == "%" and isinstance(block, Apply) and block.op == "*":
                whole = Apply("//", left.args), left.args[1]
                return left.args[0] if block.args == whole else node
        if not isinstance(node, Apply) or node.op not in ("//", "%") or not isinstance(node.args[1], Size):
            return node
        if node not in self._known:
            self._known[node] = self._found(node)
        return self._known[node]

    def same(self, a: Expr, b: Expr) -> bool:
        """Tell whether two indices, or sizes, are the same number."""
        symbols = Symbols()
        return bool(expanded(self._formula(a, symbols) - self._formula(b, symbols)) == 0)

    def _found(self, node: Apply) -> Expr:
        index, by = node.args
        symbols = Symbols()
        block = self._formula(by, symbols)
        if not block.is_Symbol:
            return node
        whole = left = sympy.Integer(0)
        for term in sympy.Add.make_args(expanded(self._formula(index, symbols))):
            if term.as_powers_dict().get(block, 0) >= 1:
                whole += term / block
            else:
                left += term
        inner = next((s for s in left.free_symbols if isinstance(symbols.meaning(s), Var)), None)
        if inner is None or left not in (inner, -inner - 1):
            return node
        step = symbols.meaning(inner)
        assert isinstance(step, Var)
        if self._formula(Size(rank_of(step.name)), symbols) != block:
            return node
        if node.op == "//":
            return _whole(symbols.expression(expanded(whole if left == inner else whole - 1)))
        return step if left == inner else Apply("-", (Apply("-", (by, step)), Num(1)))

    def _formula(self, node: Expr, symbols: Symbols) -> Formula:
        """Return a sum or product of coordinates and sizes, sizes by those that they are made of."""
        if isinstance(node, Size) and node.name in self._sizes:
            return self._formula(self._sizes[node.name], symbols)
        if not isinstance(node, Apply):
            return symbols.formula(node)
        if node.op not in ("+", "-", "neg", "*"):
            return symbols.symbol(node)
        first, *rest = (self._formula(a, symbols) for a in node.args)
        if not rest:
            return -first
        return first + rest[0] if node.op == "+" else first - rest[0] if node.op == "-" else first * rest[0]
