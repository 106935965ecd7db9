"""Traced tensors written to at the places that data name: sums with a condition, `sum(i) where J[i] == n`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..expr import Access, Apply, Compare, Expr, Num, Var, variables
from .pieces import as_index, broadcast, inside, read
from .shapes import axis_of, expanded, reshaped
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


def reduced_at(
    b: Builder, x: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    """Return a value reduced with others at the places of an index of their shape: `scatter_reduce`."""
    place = axis_of(x, dim)
    _check_shapes(x, index, source, place)
    if source.sizes[place] == 1:
        raise UntraceableError("a scatter of one row that is reduced by more than a sum")

    def at_row(at: Index) -> Expr:
        return number(index.element(at))

    def over(of: Callable[[Index], Expr], op: str, wanted: str) -> Value:
        return _sum_at(b, x, place, source, at_row, of, wanted, op)

    op = {"amax": "max", "amin": "min", "mean": "sum"}.get(reduce, reduce)
    found = over(lambda at: number(source.element(at)), op, "SC")
    if include_self:
        found = elementwise(b, applied({"sum": "+", "prod": "*"}.get(op, op)), x, found)
        if reduce != "mean":
            return found
    hits = over(lambda at: Num(1), "sum", "HIT")

    def chosen(count: Expr, value: Expr, old: Expr) -> Expr:
        share = Apply("/", (value, count)) if reduce == "mean" else value
        return Apply("select", (_some(count), share, number(old)))

    if include_self:
        return elementwise(b, lambda v, n: Apply("/", (v, Apply("+", (Num(1), n)))), found, hits)
    return elementwise(b, chosen, hits, found, x)


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


def put_at(
    b: Builder, x: Value, indices: Sequence[Value | None], new: Any, accumulate: bool = False
) -> Value:
    """Return a value that is new where index tensors name a place, one for each of some dimensions: `x[:, i] = new`.

    A place that is named twice may hold either of both, as torch leaves open; it is given their sum.
    """
    dims = [i for i, index in enumerate(indices) if index is not None]
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise UntraceableError("writing by index tensors with other dimensions between them")
    rows = _rows(b, x, dims, [as_index(b, index) for index in indices if index is not None], new)

    def changed(hit: Expr, value: Expr, old: Expr) -> Expr:
        if accumulate:
            return number(value) if old == Num(0) else Apply("+", (number(old), number(value)))
        return Apply("select", (hit, number(value), number(old)))

    if all(n == 1 for n in rows.sizes):

        def element(at: Index) -> Expr:
            spread = (*at, *(Num(0) for _ in rows.sizes))
            value = number(rows.new(spread))
            hit = rows.hit(spread)
            return changed(hit, Apply("select", (hit, value, Num(0))) if accumulate else value, x.element(at))

        return Value(rows.axes(b, x), x.sizes, element)
    if accumulate or not rows.alike:
        summed = rows.total(b, x, rows.new, "SC", range(len(x.sizes)))
        if accumulate or _is_nothing(x):
            return elementwise(b, lambda v, old: changed(Num(1), v, old), summed, x) if accumulate else summed
    else:
        nowhere = tuple(Num(0) for _ in rows.sizes)
        summed = Value(rows.axes(b, x), x.sizes, lambda at: rows.new((*at, *nowhere)))
    hits = reshaped(
        b,
        rows.total(b, x, lambda at: Num(1), "HIT", dims),
        [n if i in dims else 1 for i, n in enumerate(x.sizes)],
    )
    return elementwise(b, lambda n, v, old: changed(_some(n), v, old), hits, summed, x)


def _some(count: Expr) -> Expr:
    return Compare((">",), (count, Num(0)))


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is written to the places that index tensors name, side by side.

    Attributes:
        dims: the dimensions written to; given: their index tensors, which make rows of some sizes.
        source: what is written, in the shape of the value with the rows in the place of these dimensions.
        alike: whether all rows write the same.
        wrapped: the index of a row along each of the dimensions, counted from the front.
    """

    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    row_axes: tuple[Axis | None, ...]
    source: Value | Expr
    alike: bool
    wrapped: Callable[[Index], list[Expr]]
    rank: int

    def hit(self, at: Index) -> Expr:
        """Return whether a row, given behind the dimensions of the value, names a place."""
        pairs = zip(self.dims, self.wrapped(at[self.rank :]), strict=True)
        found: list[Expr] = [Compare(("==",), (number(i), at[d])) for d, i in pairs]
        return functools.reduce(lambda p, q: Apply("and", (p, q)), found)

    def new(self, at: Index) -> Expr:
        """Return what a row writes; a number by itself is the same everywhere."""
        if not isinstance(self.source, Value):
            return self.source
        return number(
            self.source.element((*at[: self.dims[0]], *at[self.rank :], *at[self.dims[-1] + 1 : self.rank]))
        )

    def axes(self, b: Builder, x: Value) -> tuple[Axis | None, ...]:
        """Return the axes of the value, joined with those of what is written to it."""
        out = list(x.axes)
        first, after = self.dims[0], self.dims[-1] + 1
        for i in (i for i in range(self.rank) if i not in self.dims and isinstance(self.source, Value)):
            assert isinstance(self.source, Value)
            out[i] = b.join(
                out[i], self.source.axes[i if i < first else i - (after - first) + len(self.sizes)]
            )
        return tuple(out)

    def total(
        self, b: Builder, x: Value, of: Callable[[Index], Expr], wanted: str, left: Sequence[int]
    ) -> Value:
        """Return the sum of something over the rows that name a place, with some dimensions of the value."""
        axes = self.axes(b, x)

        def spread(at: Index) -> Index:
            known = dict(zip(left, at[: len(left)], strict=True))
            return (*(known.get(i, Num(0)) for i in range(self.rank)), *at[len(left) :])

        # A condition that does not name what is summed would remove the place itself, which is there and 0.
        probe = tuple(Var(f"c{i}") for i in range(len(self.sizes)))
        moves = all({v.name for v in probe} & set(variables(i)) for i in self.wrapped(probe))

        def value(at: Index) -> Expr:
            here = of(spread(at))
            return here if moves else Apply("select", (self.hit(spread(at)), here, Num(0)))

        return b.define(
            wanted,
            [*(axes[i] for i in left), *self.row_axes],
            value,
            reductions=reducing("sum", len(left)),
            kept=len(left),
            sizes=[*(x.sizes[i] for i in left), *self.sizes],
            where=(lambda at: self.hit(spread(at))) if moves else None,
        )


def _rows(b: Builder, x: Value, dims: Sequence[int], given: Sequence[Value], new: Any) -> _Rows:
    axes, sizes = broadcast(b, given)

    def wrapped(at: Index) -> list[Expr]:
        return [inside(b, read(i, at), x.sizes[d], i) for d, i in zip(dims, given, strict=True)]

    source: Value | Expr = new if isinstance(new, Value) else constant(new)
    if isinstance(source, Value) and not source.sizes:
        source = number(source.element(()))
    alike = True
    if isinstance(source, Value):
        behind = len(x.sizes) - dims[-1] - 1
        of_rows = source.sizes[: len(source.sizes) - behind][-len(sizes) :]
        alike = all(n == 1 for n in of_rows)
        source = expanded(b, source, (*x.sizes[: dims[0]], *sizes, *x.sizes[dims[-1] + 1 :]))
    return _Rows(tuple(dims), tuple(sizes), tuple(axes), source, alike, wrapped, len(x.sizes))


def copied_at(b: Builder, x: Value, dim: int, index: Value, source: Any) -> Value:
    """Return a value of which some places of a dimension are new: `index_copy`, `index_fill`."""
    return put_at(b, x, [*(None,) * axis_of(x, dim), index], source)


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
    op: str = "sum",
) -> Value:
    """Return, in the shape of a value, the sum of the rows whose index names the place; or another reduction.

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
        reductions=reducing(op, rank),
        kept=rank,
        sizes=[*x.sizes, rows.sizes[place]],
        where=hit if moves else None,
    )


def _probe(rank: int, place: int) -> Index:
    """Return indices of which the one at a place has a name."""
    return tuple(Var("c") if i == place else Num(0) for i in range(rank))
