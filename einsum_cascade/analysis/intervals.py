"""Predicates over rank variables as unions of conjunctions, each of which leaves an interval of one variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CascadeError
from ..expr import Apply, Compare, Expr, Num, Size, Var, substitute, variables
from ..ops import OPPOSITE, SCALAR

Array = Any
LIMIT_TERMS = 256


@dataclass(frozen=True, slots=True)
class Atom:
    """`value <op> 0`, the smallest part of a predicate."""

    value: Expr
    op: str


def alternatives(group: Sequence[Expr]) -> list[list[Atom]]:
    """Return the conjunction of a group as a disjunction of conjunctions of atoms."""
    terms: list[list[Atom]] = [[]]
    for part in group:
        terms = [t + more for t in terms for more in _disjuncts(part, positive=True)]
        if len(terms) > LIMIT_TERMS:
            raise CascadeError("a predicate has too many alternatives to count its points")
    return terms


def _disjuncts(node: Expr, *, positive: bool) -> list[list[Atom]]:
    if isinstance(node, Apply) and node.op == "not":
        return _disjuncts(node.args[0], positive=not positive)
    if isinstance(node, Apply) and node.op in ("and", "or"):
        left, right = (_disjuncts(a, positive=positive) for a in node.args)
        if (node.op == "and") == positive:
            return [a + b for a in left for b in right]
        return left + right
    assert isinstance(node, Compare)
    pairs = list(zip(node.ops, node.args, node.args[1:], strict=False))
    each = [_comparison(op if positive else OPPOSITE[op], a, b) for op, a, b in pairs]
    if not positive:
        return [t for terms in each for t in terms]
    out: list[list[Atom]] = [[]]
    for terms in each:
        out = [t + more for t in out for more in terms]
    return out


def _comparison(op: str, left: Expr, right: Expr) -> list[list[Atom]]:
    if op in (">", ">="):
        op, left, right = ("<" if op == ">" else "<="), right, left
    if op == "!=":
        return _comparison("<", left, right) + _comparison("<", right, left)
    if isinstance(left, Apply) and left.op == "abs" and op in ("<", "<="):
        inside = left.args[0]
        return [[Atom(minus(inside, right), op), Atom(minus(Apply("neg", (inside,)), right), op)]]
    if isinstance(right, Apply) and right.op == "abs" and op in ("<", "<="):
        inside = right.args[0]
        return [[Atom(minus(left, inside), op)], [Atom(minus(left, Apply("neg", (inside,))), op)]]
    return [[Atom(minus(left, right), op)]]


def minus(a: Expr, b: Expr) -> Expr:
    """Return the difference of two expressions."""
    return Apply("-", (a, b))


def inner_variable(
    terms: list[list[Atom]], candidates: Sequence[str], sizes: Mapping[str, int], numbers: Mapping[str, float]
) -> str | None:
    """Return the largest variable in which every atom is linear, or None."""
    linear = [
        v for v in candidates if all(slope(a.value, v, numbers) is not None for term in terms for a in term)
    ]
    return max(linear, key=lambda v: sizes[v], default=None)


def slope(node: Expr, variable: str, numbers: Mapping[str, float]) -> float | None:
    """Return the constant factor of a variable in an expression that is linear in it, else None."""
    if variable not in variables(node):
        return 0.0
    if isinstance(node, Var):
        return 1.0
    if not isinstance(node, Apply):
        return None
    if node.op in ("+", "-", "neg"):
        parts = [slope(a, variable, numbers) for a in node.args]
        if any(p is None for p in parts):
            return None
        known = [p for p in parts if p is not None]
        return -known[0] if node.op == "neg" else known[0] + (known[1] if node.op == "+" else -known[1])
    if node.op == "*":
        for a, b in (node.args, node.args[::-1]):
            inner = slope(a, variable, numbers)
            if inner is not None and not variables(b):
                return inner * float(number(b, {}, numbers))
    return None


def interval_points(
    terms: list[list[Atom]],
    inner: str,
    extent: int,
    grid: dict[str, Array],
    numbers: Mapping[str, float],
    length: int,
) -> Array:
    """Return, for each point of the grid, how many values of the inner variable satisfy one of the terms."""
    ranges = [interval(term, inner, extent, grid, numbers) for term in terms]
    lows, highs = (
        np.stack([np.broadcast_to(end, length) for end in side]) for side in zip(*ranges, strict=True)
    )
    if len(ranges) == 1:
        return np.maximum(highs[0] - lows[0] + 1, 0)
    empty = highs < lows
    lows = np.where(empty, extent, lows)
    highs = np.where(empty, extent - 1, highs)
    order = np.argsort(lows, axis=0, kind="stable")
    lows, highs = np.take_along_axis(lows, order, 0), np.take_along_axis(highs, order, 0)
    reached = np.maximum.accumulate(highs, axis=0)
    before = np.concatenate([np.full_like(reached[:1], -1), reached[:-1]])
    return np.maximum(highs - np.maximum(lows, before + 1) + 1, 0).sum(axis=0)


def interval(
    term: list[Atom], inner: str, extent: int, grid: dict[str, Array], numbers: Mapping[str, float]
) -> tuple[Array, Array]:
    """Return the first and the last value of the inner variable for which a term holds, at each point of a grid."""
    low: Array = np.asarray(0)
    high: Array = np.asarray(extent - 1)
    for atom in term:
        factor = slope(atom.value, inner, numbers)
        assert factor is not None
        rest = number(substitute(atom.value, {inner: Num(0)}), grid, numbers)
        if factor == 0:
            high = np.where(_holds(rest, atom.op), high, -1)
            continue
        edge = -np.asarray(rest) / factor
        if atom.op == "==":
            low, high = np.maximum(low, np.ceil(edge)), np.minimum(high, np.floor(edge))
        elif factor > 0:
            last = np.floor(edge) if atom.op == "<=" else np.ceil(edge) - 1
            high = np.minimum(high, last)
        else:
            first = np.ceil(edge) if atom.op == "<=" else np.floor(edge) + 1
            low = np.maximum(low, first)
    return np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)


def any_term(
    terms: list[list[Atom]], grid: Mapping[str, Array], numbers: Mapping[str, float], length: int
) -> Array:
    """Return at which points of a grid one of the terms holds."""
    holds = np.zeros(length, dtype=bool)
    for term in terms:
        one = np.ones(length, dtype=bool)
        for atom in term:
            one &= _holds(number(atom.value, grid, numbers), atom.op)
        holds |= one
    return holds


def _holds(value: Array, op: str) -> Array:
    if op == "==":
        return np.equal(value, 0)
    return np.less(value, 0) if op == "<" else np.less_equal(value, 0)


def number(node: Expr, grid: Mapping[str, Array], numbers: Mapping[str, float]) -> Array:
    """Return the value of an expression over coordinates and sizes, on a grid of coordinates."""
    if isinstance(node, Num):
        return node.value
    if isinstance(node, Size):
        return numbers[node.name]
    if isinstance(node, Var):
        return grid[node.name]
    if isinstance(node, Apply):
        if node.op == "select":
            holds = np.any(
                [
                    np.all([_holds(number(a.value, grid, numbers), a.op) for a in t], axis=0)
                    for t in _disjuncts(node.args[0], positive=True)
                ],
                axis=0,
            )
            return np.where(holds, number(node.args[1], grid, numbers), number(node.args[2], grid, numbers))
        values = [number(a, grid, numbers) for a in node.args]
        if node.op == "**":
            values = [np.asarray(v, dtype=float) for v in values]  # NumPy refuses 2 ** -1 of whole numbers
        with np.errstate(all="ignore"):  # as the evaluator: what is no number is one of its values
            return SCALAR[node.op].function(*values)
    raise CascadeError("a predicate that reads tensors cannot be counted without their data")
