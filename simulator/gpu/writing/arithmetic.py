"""Arithmetic of the language where Triton's own differs: powers, whole numbers beyond 32 bits, what does not hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from einsum_cascade.analysis.intervals import number
from einsum_cascade.analysis.ranges import reach
from einsum_cascade.einsum import is_constant
from einsum_cascade.expr import Access, Apply, Compare, Expr, Num, Size, Var
from einsum_cascade.ops import OPPOSITE

from .terms import Term, joined, literal

# The largest whole number of 32 bits, and the largest that one of 64 bits is trusted with.
MOST_32 = 2**31 - 1
_MOST_64 = 2**62
# Powers up to this one are products of products; a higher one takes an exponential.
_MOST_FACTORS = 32
# Of finite numbers they make numbers.
_KEEP_NUMBERS = frozenset({"+", "-", "*", "//", "%", "neg", "abs", "min", "max", "clamp", "relu"})


def widened(node: Expr, parts: Sequence[Term], numbers: Mapping[str, float]) -> list[Term]:
    """Return the operands of whole-number arithmetic, in a type that holds what comes out.

    Where the ends of the operands do not tell how much that is, they stay 32-bit numbers.
    """
    ends = reach(node, numbers)
    most = max(abs(end) for end in ends)
    if any(p.kind != "int" for p in parts) or most <= MOST_32 or not math.isfinite(most):
        return list(parts)
    if most > _MOST_64:
        return [p.as_float() for p in parts]
    return [p if p.plain else replace(p, text=f"tl.cast({p.text}, tl.int64)", whole=True) for p in parts]


def power(
    node: Apply, parts: Sequence[Term], numbers: Mapping[str, float], order: Mapping[str, int]
) -> tuple[Term, str]:
    """Return a power, and the function of the written file that it calls, or the empty string.

    A constant whole power up to `_MOST_FACTORS` is a product of its base, which should have a name.
    """
    base, exponent = parts
    known = float(number(node.args[1], {}, numbers)) if is_constant(node.args[1]) else math.nan
    if known.is_integer() and abs(known) <= _MOST_FACTORS:
        return _product(node, base, int(known), numbers), ""
    (low, high), (least, most) = reach(node, numbers), reach(node.args[1], numbers)
    if base.kind == exponent.kind == "int" and least >= 0 and max(abs(low), abs(high)) <= MOST_32:
        bits = max(1, int(most).bit_length())
        form = f"_whole_power({{}}, {{}}, {bits})".format
        return joined(order, form, base, exponent, kind="int", whole=True), "_whole_power"
    base, exponent = base.as_float(), exponent.as_float()
    if base.plain and (value := float(number(node.args[0], {}, numbers))) > 0:
        log = literal(math.log2(value)).as_float()
        return joined(order, "tl.exp2({1} * {0})".format, log, exponent, kind="float", whole=True), ""
    if known == known and not known.is_integer():  # of a base below zero there is no such power
        log = Term(f"tl.log2({base.text})", base.axes)
        return joined(order, "tl.exp2({1} * {0})".format, log, exponent, kind="float", whole=True), ""
    both = (
        replace(p, text=f"tl.full([], {p.text}, tl.float32)", plain=False) if p.plain else p
        for p in (base, exponent)
    )
    return joined(order, "_power({}, {})".format, *both, kind="float", whole=True), "_power"


def _product(node: Apply, base: Term, times: int, numbers: Mapping[str, float]) -> Term:
    """Return a whole power as a product: x * x, squared again and again."""
    most = max(abs(end) for end in reach(node, numbers))
    if base.kind == "int" and (times < 0 or (math.isfinite(most) and most > MOST_32)):
        base = base.as_float()
    if times == 0:
        return Term(f"({base.bracketed} * 0 + 1)", base.axes, base.kind, base.plain)
    text = _times(base.bracketed, abs(times))
    if times < 0:
        return Term(f"(1.0 / ({text}))", base.axes, plain=base.plain)
    return replace(base, text=text, whole=times == 1 and base.whole)


def _times(name: str, times: int) -> str:
    """Return a product of equal factors, halved as far as that goes.

    >>> _times("x", 5), _times("x", 8)
    ('(x * x) * (x * x) * x', '((x * x) * (x * x)) * ((x * x) * (x * x))')
    """
    if times == 1:
        return name
    half = _times(name, times // 2)
    half = f"({half})" if times > 3 else half
    return " * ".join((half, half, name) if times % 2 else (half, half))


def opposite(node: Expr, indices: Collection[str]) -> Expr:
    """Return what holds where a condition does not: comparisons turned round wherever that says the same.

    A comparison of the value that a loop walks along is a truth value of Python's in Triton's interpreter, of which `~`
    is never false. Only of numbers from memory, which are tensors there, it stays: of one that is not a number, that it
    is not less does not say that it is as large or larger.

    Args:
        indices: tensors of whole numbers.
    """
    if isinstance(node, Compare):
        pairs = zip(node.ops, node.args, node.args[1:], strict=False)
        return reduce(_either, (_turned_round(Compare((op,), (a, b)), indices) for op, a, b in pairs))
    if isinstance(node, Apply) and node.op == "not":
        return node.args[0]
    if isinstance(node, Apply) and node.op in ("and", "or"):
        parts = tuple(opposite(a, indices) for a in node.args)
        return Apply("or" if node.op == "and" else "and", parts)
    return Apply("not", (node,))


def _either(one: Expr, other: Expr) -> Expr:
    return Apply("or", (one, other))


def _turned_round(node: Compare, indices: Collection[str]) -> Expr:
    (op,) = node.ops
    if op in ("==", "!=") or all(_is_number(a, indices) for a in node.args):
        return Compare((OPPOSITE[op],), node.args)
    return Apply("not", (node,))


def _is_number(node: Expr, indices: Collection[str]) -> bool:
    """Tell whether an expression is a number wherever it stands, as coordinates and what is made of them are."""
    match node:
        case Num():
            return math.isfinite(node.value)
        case Size() | Var():
            return True
        case Access():
            return node.tensor in indices
        case Apply() if node.op in _KEEP_NUMBERS:
            return all(_is_number(a, indices) for a in node.args)
        case _:
            return False
