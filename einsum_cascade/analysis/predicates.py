"""How many points satisfy predicates over rank variables, without a list of the points wherever intervals tell."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ..errors import CascadeError
from ..expr import Access, Apply, Compare, Expr, Num, Size, substitute, variables, walk
from . import ranges
from .intervals import (
    Atom,
    alternatives,
    any_term,
    inner_variable,
    interval,
    interval_points,
    minus,
    number,
    slope,
)

Array = Any
Item = TypeVar("Item")
# Points handled at a time: 2^20 float64 numbers and their intervals stay inside a cache of a few MiB.
CHUNK = 2**20
LIMIT_POINTS = 2**28


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
    """Return the predicates that are not true at every point, as far as corners and the reach of their sides tell."""
    return tuple(
        p
        for p in dict.fromkeys(parts)
        if not _always(p, sizes, numbers) and not ranges.always(p, numbers, sizes)
    )


def _always(part: Expr, sizes: Mapping[str, int], numbers: Mapping[str, float]) -> bool:
    if isinstance(part, Compare) and part.ops == ("==",):
        return all(_always(Compare((op,), part.args), sizes, numbers) for op in ("<=", ">="))
    if not isinstance(part, Compare) or len(part.ops) != 1 or part.ops[0] not in ("<", "<=", ">", ">="):
        return False
    low_side, high_side = part.args if part.ops[0] in ("<", "<=") else part.args[::-1]
    gap = minus(low_side, high_side)
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
    """Return how many values of the kept variables occur; what "or" joins, and what shares no other variable, alone.

    Some point satisfies one of two alternatives where it satisfies either; and where the kept variables are fixed,
    conditions on different variables are satisfied by points of their own.
    """
    if len(kept) == len(sizes):
        return sum(int(n.sum()) for n in _counted(group, sizes, numbers))
    _bound_steps(kept, sizes)
    known: dict[tuple[Atom, ...], Array] = {}
    seen = np.zeros([sizes[v] for v in kept], dtype=bool)
    for term in alternatives(group):
        holds = np.ones((1,) * len(kept), dtype=bool)
        for _, atoms in _grouped(term, lambda atom: set(variables(atom.value)) - set(kept)):
            if atoms not in known:
                known[atoms] = _where_some(list(atoms), kept, sizes, numbers)
            holds = holds & known[atoms]
            if not holds.any():
                break
        seen |= holds
    return int(seen.sum())


def _where_some(
    term: list[Atom], kept: Sequence[str], sizes: Mapping[str, int], numbers: Mapping[str, float]
) -> Array:
    """Return for which values of the kept variables some point satisfies a term; one entry along axes it leaves out."""
    names = {v for atom in term for v in variables(atom.value)}
    mine = [v for v in kept if v in names]
    others = sorted(names.difference(kept))
    inner = inner_variable([term], others, sizes, numbers)
    if inner is None and len(mine) == 1 and inner_variable([term], mine, sizes, numbers):
        seen = _covered(term, mine[0], others, sizes, numbers)
    else:
        order = [*mine, *(v for v in others if v != inner)]
        _bound_steps(order, sizes)
        seen = np.zeros(math.prod(sizes[v] for v in mine), dtype=bool)
        width = math.prod(sizes[v] for v in order) // len(seen)
        for start, grid in _grids(order, sizes):
            length = _length(order, sizes, start)
            if inner is None:
                found = any_term([term], grid, numbers, length)
            else:
                found = interval_points([term], inner, sizes[inner], grid, numbers, length)
            seen[(np.flatnonzero(found) + start) // width] = True
    return seen.reshape([sizes[v] if v in names else 1 for v in kept])


def _covered(
    term: list[Atom],
    inner: str,
    others: Sequence[str],
    sizes: Mapping[str, int],
    numbers: Mapping[str, float],
) -> Array:
    """Return which values of one variable lie in the interval that a term gives at some point of the others."""
    _bound_steps(others, sizes)
    edges = np.zeros(sizes[inner] + 1, dtype=np.int64)
    for start, grid in _grids(others, sizes):
        ends = interval(term, inner, sizes[inner], grid, numbers)
        low, high = (np.broadcast_to(end, _length(others, sizes, start)) for end in ends)
        real = high >= low
        np.add.at(edges, low[real], 1)
        np.add.at(edges, high[real] + 1, -1)
    return np.cumsum(edges)[:-1] > 0


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
    return _grouped(parts, lambda part: set(variables(part)))


def _grouped(
    items: Sequence[Item], names_of: Callable[[Item], set[str]]
) -> list[tuple[tuple[str, ...], tuple[Item, ...]]]:
    """Return groups of items that share no name, with their names; items without a name stay alone."""
    groups: list[tuple[set[str], list[Item]]] = []
    for item in items:
        names = names_of(item)
        joined = [g for g in groups if g[0] & names] if names else []
        merged = (names.union(*(g[0] for g in joined)), [i for g in joined for i in g[1]] + [item])
        groups = [g for g in groups if g not in joined] + [merged]
    return [(tuple(sorted(names)), tuple(group)) for names, group in groups]


def _counted(group: Sequence[Expr], sizes: dict[str, int], numbers: Mapping[str, float]) -> Iterator[Array]:
    """Yield, chunk by chunk of all variables but one, how many values of that one satisfy the group."""
    terms = alternatives(group)
    inner = inner_variable(terms, list(sizes), sizes, numbers)
    order = [v for v in sizes if v != inner]
    _bound_steps(order, sizes)
    for start, grid in _grids(order, sizes):
        length = _length(order, sizes, start)
        if inner is None:
            yield any_term(terms, grid, numbers, length)
        else:
            yield interval_points(terms, inner, sizes[inner], grid, numbers, length)


def _grids(order: Sequence[str], sizes: Mapping[str, int]) -> Iterator[tuple[int, dict[str, Array]]]:
    shape = tuple(sizes[v] for v in order)
    total = math.prod(shape)
    for start in range(0, total, CHUNK):
        flat = np.arange(start, min(start + CHUNK, total))
        places = np.unravel_index(flat, shape) if shape else ()
        yield start, dict(zip(order, places, strict=True))
