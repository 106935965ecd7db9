"""Expressions of a cascade as sympy expressions and back; accesses become symbols that remember what they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from ..expr import Access, Apply, Compare, Expr, Num, Size, Var

Formula = Any

# Ordinary numbers at which a formula is tried; none is special to a function or to another of them.
_TRIALS = (0.7310, 1.3170, 0.4240, 1.9050, 0.8930, 1.1410, 0.5770)

_FUNCTIONS: dict[str, Callable[..., Formula]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "neg": lambda a: -a,
    "exp": sympy.exp,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "tanh": sympy.tanh,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "abs": sympy.Abs,
    "max": lambda *a: sympy.Max(*a),
    "min": lambda *a: sympy.Min(*a),
}
_NAMES = {
    sympy.exp: "exp",
    sympy.log: "log",
    sympy.tanh: "tanh",
    sympy.sin: "sin",
    sympy.cos: "cos",
    sympy.Abs: "abs",
    sympy.Max: "max",
    sympy.Min: "min",
}


class Symbols:
    """The atoms of some expressions: one real sympy symbol per distinct access, coordinate, size or comparison."""

    def __init__(self) -> None:
        self._of: dict[Expr, Formula] = {}
        self._meaning: dict[Formula, Expr] = {}

    def copy(self) -> Symbols:
        """Return the same symbols, to which others may be added."""
        made = Symbols()
        made._of, made._meaning = dict(self._of), dict(self._meaning)
        return made

    def symbol(self, node: Expr) -> Formula:
        """Return the symbol of an atom, the same for equal atoms."""
        if node not in self._of:
            # Numbered in order of appearance, so that what is printed later keeps the order of the text.
            made = sympy.Symbol(f"s{len(self._of):04d}", real=True)
            self._of[node] = made
            self._meaning[made] = node
        return self._of[node]

    def meaning(self, symbol: Formula) -> Expr:
        """Return the atom of a symbol."""
        return self._meaning[symbol]

    def atoms(self, formula: Formula) -> tuple[Expr, ...]:
        """Return the atoms of a formula, in order of appearance."""
        found = sorted(formula.free_symbols, key=lambda s: s.name)
        return tuple(self._meaning[s] for s in found)

    def formula(self, node: Expr) -> Formula:
        """Return an expression as a sympy formula; what sympy has no word for stays a function of its arguments."""
        if isinstance(node, Num):
            return _number(node.value)
        if isinstance(node, (Access, Var, Size, Compare)):
            return self.symbol(node)
        assert isinstance(node, Apply)
        if node.op in ("and", "or", "not", "pad"):
            return self.symbol(node)
        args = [self.formula(a) for a in node.args]
        if node.op == "relu":
            return sympy.Max(0, args[0])
        made = _FUNCTIONS.get(node.op)
        return made(*args) if made else sympy.Function(node.op)(*args)

    def expression(self, formula: Formula) -> Expr:
        """Return a sympy formula as an expression, in the order of the text that the symbols came from."""
        if formula.is_Symbol:
            return self._meaning[formula]
        if formula.is_Number or formula in (sympy.oo, -sympy.oo):
            return _plain(formula)
        if formula.is_Add:
            return self._sum(formula)
        if formula.is_Mul:
            return self._product(formula)
        if formula.is_Pow:
            return self._power(formula)
        if isinstance(formula, sympy.Max) and 0 in formula.args and len(formula.args) == 2:
            (other,) = (a for a in formula.args if a != 0)
            return Apply("relu", (self.expression(other),))
        name = _NAMES.get(formula.func, formula.func.__name__)
        args = formula.args if name not in ("max", "min") else self._ordered(formula.args)
        return Apply(name, tuple(self.expression(a) for a in args))

    def _ordered(self, parts: Iterable[Formula]) -> list[Formula]:
        def place(part: Formula) -> tuple[int, str, str]:
            names = sorted(s.name for s in part.free_symbols)
            return (not names, names[0] if names else "", str(part))

        return sorted(parts, key=place)

    def _sum(self, formula: Formula) -> Expr:
        parts = self._ordered(formula.args)
        plus = [p for p in parts if not p.could_extract_minus_sign()]
        minus = [p for p in parts if p.could_extract_minus_sign()]
        first, *rest = plus or [minus.pop(0)]
        out = self.expression(first)
        for p in rest:
            out = Apply("+", (out, self.expression(p)))
        for p in minus:
            out = Apply("-", (out, self.expression(-p)))
        return out

    def _product(self, formula: Formula) -> Expr:
        if formula.could_extract_minus_sign():
            return Apply("neg", (self.expression(-formula),))
        above, below = [], []
        for part in self._ordered(formula.args):
            if part.is_Pow and part.exp.could_extract_minus_sign():
                below.append(part.base**-part.exp)
            elif part.is_Rational and part.q != 1:
                below.append(sympy.Integer(part.q))
                if part.p != 1:
                    above.append(sympy.Integer(part.p))
            else:
                above.append(part)
        out = self._times(above) if above else Num(1)
        return Apply("/", (out, self._times(below))) if below else out

    def _times(self, parts: list[Formula]) -> Expr:
        out = self.expression(parts[0])
        for p in parts[1:]:
            out = Apply("*", (out, self.expression(p)))
        return out

    def _power(self, formula: Formula) -> Expr:
        base, exponent = formula.base, formula.exp
        if exponent == sympy.Rational(1, 2):
            return Apply("sqrt", (self.expression(base),))
        if exponent.could_extract_minus_sign():
            return Apply("/", (Num(1), self.expression(base**-exponent)))
        return Apply("**", (self.expression(base), self.expression(exponent)))


def _number(value: int | float) -> Formula:
    if isinstance(value, int):
        return sympy.Integer(value)
    if value in (float("inf"), float("-inf")):
        return sympy.oo if value > 0 else -sympy.oo
    return sympy.Float(value) if value != int(value) else sympy.Integer(int(value))


def _plain(formula: Formula) -> Expr:
    if formula == sympy.oo:
        return Num(float("inf"))
    if formula.could_extract_minus_sign():
        return Apply("neg", (_plain(-formula),))
    if formula.is_Integer:
        return Num(int(formula))
    if formula.is_Rational:
        return Apply("/", (Num(int(formula.p)), Num(int(formula.q))))
    return Num(float(formula))


def expanded(formula: Formula) -> Formula:
    """Return a formula as a sum of products; an exponential is never torn apart, for its parts would overflow."""
    opened = sympy.expand_log(formula, force=True)
    return sympy.expand(
        opened, mul=True, multinomial=True, power_exp=False, power_base=False, log=False, basic=False
    )


def free_of(formula: Formula, symbols: Iterable[Formula]) -> bool:
    """Tell whether a formula mentions none of some symbols."""
    return not formula.free_symbols & set(symbols)


def _varies(formula: Formula, gone: frozenset[Formula]) -> bool:
    """Tell whether two trials show that a formula depends on some symbols: much sooner than trying to simplify it.

    Functions that sympy has no word for stand for any: what holds for them holds for a cosine.
    """
    formula = formula.replace(lambda part: isinstance(part, AppliedUndef), _stand_in)
    symbols = sorted(formula.free_symbols, key=lambda s: s.name)
    found = []
    for trial in (0, 1):
        values = {
            s: sympy.Float(_TRIALS[(i + trial * (s in gone)) % len(_TRIALS)]) for i, s in enumerate(symbols)
        }
        found.append(formula.xreplace(values).evalf())
    if not all(value.is_number and value.is_finite for value in found):
        return False
    return bool(abs(found[0] - found[1]) > 1e-6 * (abs(found[0]) + abs(found[1])))


def _stand_in(function: Formula) -> Formula:
    name = str(function.func)
    return 2 + sympy.cos(len(name) + sum((k + 2) * a for k, a in enumerate(function.args)))


def quotient(above: Formula, below: Formula, gone: Iterable[Formula]) -> Formula | None:
    """Return above / below if it can be written without some symbols, else None."""
    return _quotient(above / below, frozenset(gone))


@functools.lru_cache(maxsize=4096)  # a search asks for the same ones with each candidate
def _quotient(ratio: Formula, gone: frozenset[Formula]) -> Formula | None:
    if _varies(ratio, gone):
        return None
    for attempt in (lambda r: r, lambda r: sympy.powsimp(r), sympy.cancel, _scaled, sympy.simplify):
        found = attempt(ratio)
        if _is_value(found) and free_of(found, gone):
            return sympy.powsimp(found)
    return None


def _scaled(ratio: Formula) -> Formula:
    """Return a ratio with positive factors taken out of rectifiers, absolute values, maxima and minima.

    `max(0, exp(x - c) - exp(-c))` is `max(0, exp(x) - 1) * exp(-c)`, which tells how it follows c.
    """
    found = ratio.replace(lambda part: isinstance(part, (sympy.Max, sympy.Min, sympy.Abs)), _positive_out)
    return found if found == ratio else sympy.cancel(found)


def _positive_out(part: Formula) -> Formula:
    products = [
        sympy.Mul.make_args(sympy.factor_terms(a.expand(power_exp=True))) for a in part.args if a != 0
    ]
    common = [f for f in products[0] if f.is_positive and all(f in factors for factors in products)]
    kept = (sympy.Mul(*(f for f in factors if f not in common)) for factors in products)
    zero = (a for a in part.args if a == 0)
    return sympy.Mul(*common, part.func(*zero, *kept))


def difference(left: Formula, right: Formula, gone: Iterable[Formula]) -> Formula | None:
    """Return left - right if it can be written without some symbols, else None."""
    gone = frozenset(gone)
    if _varies(left - right, gone):
        return None
    for attempt in (lambda r: r, sympy.expand, sympy.simplify):
        found = attempt(left - right)
        if _is_value(found) and free_of(found, gone):
            return found
    return None


def _is_value(formula: Formula) -> bool:
    """Tell whether a formula says a value: 0 / 0 and 1 / 0, of sums that are 0 whatever they are made of, say none."""
    return not formula.has(sympy.nan, sympy.zoo)
