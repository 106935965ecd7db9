"""Traced tensors written to at the places that data name: sums with a condition, `sum(i) where J[i] == n`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..expr import Access, Apply, Compare, Expr, Num, Var, variables
from .shapes import axis_of
from .values import Axis, Builder, UntraceableError, Value, applied, constant, elementwise, number, reducing

Index = tuple[Expr, ...]


def added_at(b: Builder, x: Value, dim: int, index: Value, source: Value, **kwargs: Any) -> Value:
    """Return a value to which others are added at the places of an index of their shape: `scatter_add`."""
    if kwargs.get("alpha", 1) != 1:
        raise UntraceableError("adding at places with a factor")
    place = axis_of(x, dim)
    named = index if len(index.sizes) == len(source.sizes) else None
    _check_shapes(x, source if named is None else index, source, place)

    def at_row(at: Index) -> Expr:
        return number(index.element(at if named is not None else (at[place],)))

    total = _sum_at(b, x, place, source, at_row, lambda at: number(source.element(at)), "SC")
    return total if _is_nothing(x) else elementwise(b, applied("+"), x, total)


def placed(b: Builder, x: Value, dim: int, index: Value, source: Any, **kwargs: Any) -> Value:
    """Return a value that is new at the places of an index: `scatter` of a number, or of what topk chose."""
    if kwargs:
        raise UntraceableError("scatter with a reduction; scatter_add is said")
    place = axis_of(x, dim)
    single = not isinstance(source, Value) or not source.sizes
    _check_shapes(x, index, index if single else source, place)
    if not single and not _is_unique(b, index, place):
        raise UntraceableError("a scatter to places that may be the same; those of topk differ")

    def named(at: Index) -> Expr:
        return number(index.element(at))

    new = source if isinstance(source, Value) else Value((), (), lambda at: constant(source))
    if not single:
        new = _sum_at(b, x, place, index, named, lambda at: number(source.element(at)), "SC")
        if _is_nothing(x):
            return new
    hits = _sum_at(b, x, place, index, named, lambda at: Num(1), "HIT")

    def chosen(hit: Expr, value: Expr, old: Expr) -> Expr:
        return Apply("select", (Compare((">",), (hit, Num(0))), number(value), number(old)))

    return elementwise(b, chosen, hits, new, x)


def _is_nothing(x: Value) -> bool:
    return x.element(tuple(Var(f"c{i}") for i in range(len(x.sizes)))) == Num(0)


def _check_shapes(x: Value, index: Value, source: Value, place: int) -> None:
    """Refuse shapes of which torch takes only a corner."""
    for i, n in enumerate(x.sizes):
        if index.sizes[i] != source.sizes[i] or (i != place and n != index.sizes[i]):
            raise UntraceableError("a scatter of a part of its index or of its rows")


def _is_unique(b: Builder, index: Value, place: int) -> bool:
    """Tell whether an index names no place twice: it has one row, or topk along this dimension made it."""
    at = tuple(Var(f"c{i}") for i in range(len(index.sizes)))
    shown = index.element(at)
    if index.sizes[place] == 1:
        return True
    if not isinstance(shown, Access) or shown.tensor not in b.places or shown.indices != at:
        return False
    made = next(e for e in b.einsums if e.name == shown.tensor)
    return any(r.into is not None and made.target.indices[place] == Var(r.into) for r in made.reductions)


def _sum_at(
    b: Builder,
    x: Value,
    place: int,
    rows: Value,
    at_row: Callable[[Index], Expr],
    of_row: Callable[[Index], Expr],
    wanted: str,
) -> Value:
    """Return, in the shape of a value, the sum of the rows whose index names the place.

    Args:
        rows: has the dimensions of the rows; at_row: the index of a row; of_row: what is summed.
    """
    rank = len(x.sizes)
    others = [
        b.join(a, r) if i != place else a for i, (a, r) in enumerate(zip(x.axes, rows.axes, strict=True))
    ]
    axes = [a if a is not None else Axis(n) for a, n in zip(others, x.sizes, strict=True)]
    row = rows.axes[place] or Axis(rows.sizes[place])

    def hit(at: Index) -> Expr:
        return Compare(("==",), (at_row(inner(at)), at[place]))

    def inner(at: Index) -> Index:
        return (*at[:place], at[rank], *at[place + 1 : rank])

    # A condition that does not name what is summed would remove the place itself, which is there and 0.
    moves = rows.sizes[place] > 1 and "c" in variables(at_row(_probe(rank, place)))
    return b.define(
        wanted,
        [*axes, row],
        lambda at: of_row(inner(at)) if moves else Apply("select", (hit(at), of_row(inner(at)), Num(0))),
        reductions=reducing("sum", rank),
        kept=rank,
        sizes=[*x.sizes, rows.sizes[place]],
        where=hit if moves else None,
    )


def _probe(rank: int, place: int) -> Index:
    """Return indices of which the one at a place has a name."""
    return tuple(Var("c") if i == place else Num(0) for i in range(rank))
