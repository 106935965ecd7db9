"""Predicates over rank variables as unions of intervals, so that points are counted without listing them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CascadeError
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, substitute, variables, walk
from ..ops import SCALAR

Array = Any
# Points handled at a time: 2^20 float64 numbers and their intervals stay inside a cache of a few MiB.
CHUNK = 2**20
LIMIT_POINTS = 2**28
LIMIT_TERMS = 256

_MIRROR = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True, slots=True)
class Atom:
    """`value <op> 0`, the smallest part of a predicate."""

    value: Expr
    op: str


def conjuncts(predicate: Expr | None) -> tuple[Expr, ...]:
    """Return the parts of a predicate that are joined by `and`; a chain of comparisons is several parts."""
    if predicate is None:
        return ()
    if isinstance(predicate, Apply) and predicate.op == "and":
        return tuple(c for a in predicate.args for c in conjuncts(a))
    if isinstance(predicate, Compare) and len(predicate.ops) > 1:
        pairs = zip(predicate.ops, predicate.args, predicate.args[1:], strict=False)
        return tuple(Compare((op,), (a, b)) for op, a, b in pairs)
    return (predicate,)


def joined(op: str, predicates: Sequence[Expr]) -> Expr:
    """Return one predicate of at least one by `and` or `or`."""
    return functools.reduce(lambda a, b: Apply(op, (a, b)), predicates)


def is_static(predicate: Expr) -> bool:
    """Tell whether a predicate depends on coordinates and sizes alone, not on data."""
    return not any(isinstance(n, Access) for n in walk(predicate))


def count(parts: Sequence[Expr], sizes: Mapping[str, int], numbers: Mapping[str, float]) -> int:
    """Return how many points of the space of some variables satisfy all parts.

    Args:
        parts: static predicates.
        sizes: the number of values of every variable of the space.
        numbers: sizes and constants by their names in the predicates.

    >>> from einsum_cascade.parser import parse_expression
    >>> count([parse_expression("m <= p")], {"m": 1000, "p": 1000}, {})
    500500
    """
    total = 1
    used: set[str] = set()
    for names, group in components(deciding(parts, sizes, numbers)):
        used |= set(names)
        total *= _count(group, tuple((v, sizes[v]) for v in names), needed(group, numbers))
    return total * math.prod(n for v, n in sizes.items() if v not in used)


@functools.lru_cache(maxsize=1024)
def _count(
    group: tuple[Expr, ...], sizes: tuple[tuple[str, int], ...], numbers: tuple[tuple[str, float], ...]
) -> int:
    return sum(int(n.sum()) for n in _counted(group, dict(sizes), dict(numbers)))


def needed(group: Sequence[Expr], numbers: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return the sizes and constants that some predicates mention."""
    names = sorted({n.name for part in group for n in walk(part) if isinstance(n, Size)})
    return tuple((n, numbers[n]) for n in names)


def deciding(
    parts: Sequence[Expr], sizes: Mapping[str, int], numbers: Mapping[str, float]
) -> tuple[Expr, ...]:
    """Return the predicates that are not true at every point, as far as linear ones tell at the corners."""
    return tuple(p for p in dict.fromkeys(parts) if not _always(p, sizes, numbers))


def _always(part: Expr, sizes: Mapping[str, int], numbers: Mapping[str, float]) -> bool:
    if isinstance(part, Compare) and part.ops == ("==",):
        return all(_always(Compare((op,), part.args), sizes, numbers) for op in ("<=", ">="))
    if not isinstance(part, Compare) or len(part.ops) != 1 or part.ops[0] not in ("<", "<=", ">", ">="):
        return False
    low_side, high_side = part.args if part.ops[0] in ("<", "<=") else part.args[::-1]
    gap = _minus(low_side, high_side)
    most = 0.0
    for v in variables(gap):
        factor = slope(gap, v, numbers)
        if factor is None:
            return False
        most += max(0.0, factor * (sizes[v] - 1))
        gap = substitute(gap, {v: Num(0)})
    most += float(number(gap, {}, numbers))
    return most < 0 if part.ops[0] in ("<", ">") else most <= 0


def projection(
    parts: Sequence[Expr], kept: Sequence[str], sizes: Mapping[str, int], numbers: Mapping[str, float]
) -> int:
    """Return how many values of the kept variables occur in some point that satisfies all parts."""
    total = 1
    used: set[str] = set()
    for names, group in components(deciding(parts, sizes, numbers)):
        mine = [v for v in kept if v in names]
        used |= set(mine)
        total *= _projected(group, mine, {v: sizes[v] for v in names}, numbers)
    return total * math.prod(sizes[v] for v in kept if v not in used)


def _projected(
    group: Sequence[Expr], kept: list[str], sizes: dict[str, int], numbers: Mapping[str, float]
) -> int:
    if not kept:
        return int(any(n.any() for n in _counted(group, sizes, numbers)))
    if len(kept) == len(sizes):
        return sum(int(n.sum()) for n in _counted(group, sizes, numbers))
    terms = alternatives(group)
    others = [v for v in sizes if v not in kept]
    inner = _inner_variable(terms, others, sizes, numbers)
    if inner is None:
        return _covered(terms, kept, sizes, numbers)
    order = [*kept, *(v for v in others if v != inner)]
    seen = np.zeros(math.prod(sizes[v] for v in kept), dtype=bool)
    width = math.prod(sizes[v] for v in order) // len(seen)
    for start, grid in _grids(order, sizes):
        found = _interval_points(terms, inner, sizes[inner], grid, numbers, _length(order, sizes, start))
        hit = np.flatnonzero(found) + start
        seen[hit // width] = True
    return int(seen.sum())


def _covered(
    terms: list[list[Atom]], kept: list[str], sizes: dict[str, int], numbers: Mapping[str, float]
) -> int:
    """Return how many values of one kept variable lie in the interval of some value of the others."""
    inner = _inner_variable(terms, kept, sizes, numbers) if len(kept) == 1 else None
    if inner is None:
        return _listed(terms, kept, sizes, numbers)
    order = [v for v in sizes if v != inner]
    _bound_steps(order, sizes)
    edges = np.zeros(sizes[inner] + 1, dtype=np.int64)
    for start, grid in _grids(order, sizes):
        for term in terms:
            low, high = np.broadcast_arrays(*interval(term, inner, sizes[inner], grid, numbers))
            low, high = (np.broadcast_to(x, _length(order, sizes, start)) for x in (low, high))
            real = high >= low
            np.add.at(edges, low[real], 1)
            np.add.at(edges, high[real] + 1, -1)
    return int((np.cumsum(edges)[:-1] > 0).sum())


def _listed(
    terms: list[list[Atom]], kept: list[str], sizes: dict[str, int], numbers: Mapping[str, float]
) -> int:
    """Return how many values of the kept variables occur, from a list of all points."""
    order = [*kept, *(v for v in sizes if v not in kept)]
    _bound_steps(order, sizes)
    seen = np.zeros(math.prod(sizes[v] for v in kept), dtype=bool)
    width = math.prod(sizes[v] for v in order) // len(seen)
    for start, grid in _grids(order, sizes):
        holds = any_term(terms, grid, numbers, _length(order, sizes, start))
        seen[(np.flatnonzero(holds) + start) // width] = True
    return int(seen.sum())


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


def _bound_steps(order: Sequence[str], sizes: Mapping[str, int]) -> None:
    steps = math.prod(sizes[v] for v in order)
    if steps > LIMIT_POINTS:
        shown = ", ".join(sizes)
        raise CascadeError(
            f"a predicate over {shown} would take {steps:,} steps to count", hint="use smaller sizes"
        )


def _length(order: Sequence[str], sizes: Mapping[str, int], start: int) -> int:
    return min(CHUNK, math.prod(sizes[v] for v in order) - start)


def components(parts: Sequence[Expr]) -> list[tuple[tuple[str, ...], tuple[Expr, ...]]]:
    """Return groups of parts that share no variable; each can be counted on its own."""
    groups: list[tuple[set[str], list[Expr]]] = []
    for part in parts:
        names = set(variables(part))
        joined = [g for g in groups if g[0] & names] if names else []
        merged = (names.union(*(g[0] for g in joined)), [p for g in joined for p in g[1]] + [part])
        groups = [g for g in groups if g not in joined] + [merged]
    return [(tuple(sorted(names)), tuple(group)) for names, group in groups]


def _counted(group: Sequence[Expr], sizes: dict[str, int], numbers: Mapping[str, float]) -> Iterator[Array]:
    """Yield, chunk by chunk of all variables but one, how many values of that one satisfy the group."""
    terms = alternatives(group)
    inner = _inner_variable(terms, list(sizes), sizes, numbers)
    order = [v for v in sizes if v != inner]
    _bound_steps(order, sizes)
    for start, grid in _grids(order, sizes):
        length = _length(order, sizes, start)
        if inner is None:
            yield any_term(terms, grid, numbers, length)
        else:
            yield _interval_points(terms, inner, sizes[inner], grid, numbers, length)


def _grids(order: Sequence[str], sizes: Mapping[str, int]) -> Iterator[tuple[int, dict[str, Array]]]:
    shape = tuple(sizes[v] for v in order)
    total = math.prod(shape)
    for start in range(0, total, CHUNK):
        flat = np.arange(start, min(start + CHUNK, total))
        places = np.unravel_index(flat, shape) if shape else ()
        yield start, dict(zip(order, places, strict=True))


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
    each = [_comparison(op if positive else _MIRROR[op], a, b) for op, a, b in pairs]
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
        return [[Atom(_minus(inside, right), op), Atom(_minus(Apply("neg", (inside,)), right), op)]]
    if isinstance(right, Apply) and right.op == "abs" and op in ("<", "<="):
        inside = right.args[0]
        return [[Atom(_minus(left, inside), op)], [Atom(_minus(left, Apply("neg", (inside,))), op)]]
    return [[Atom(_minus(left, right), op)]]


def _minus(a: Expr, b: Expr) -> Expr:
    return Apply("-", (a, b))


def _inner_variable(
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


def _interval_points(
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
        return SCALAR[node.op].function(*(number(a, grid, numbers) for a in node.args))
    raise CascadeError("a predicate that reads tensors cannot be counted without their data")
