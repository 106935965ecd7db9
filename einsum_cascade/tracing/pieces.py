"""Traced tensors in pieces: joined, cut apart, turned round, and read at computed places."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..expr import Access, Apply, Compare, Expr, Num, Var, accesses, from_end, walk
from ..ops import INDEX_OPS
from .shapes import axis_of, is_tile, reshaped, selected, sliced
from .values import Axis, Builder, UntraceableError, Value, constant, is_truth, number, size_expression


def joined(b: Builder, pieces: Sequence[Value], dim: int = 0) -> Value:
    """Return pieces one behind the other along a dimension; those without elements, as of an empty cache, are none."""
    pieces = [p for p in pieces if 0 not in p.sizes] or pieces
    first = pieces[0]
    place = axis_of(first, dim)
    each, whole = first.sizes[place], sum(p.sizes[place] for p in pieces)
    if b.tiles and {p.sizes[place] for p in pieces} == {each} and is_tile(0, each, whole):
        shape = [*first.sizes[:place], whole, *first.sizes[place + 1 :]]
        return reshaped(b, stacked(b, pieces, place), shape)
    axes, sizes = list(first.axes), list(first.sizes)
    for piece in pieces[1:]:
        for i, axis in enumerate(piece.axes):
            axes[i] = axes[i] if i == place else b.join(axes[i], axis)
    ends = list(itertools.accumulate(p.sizes[place] for p in pieces))
    axes[place], sizes[place] = Axis(ends[-1]), ends[-1]

    def element(at: tuple[Expr, ...]) -> Expr:
        def of(piece: Value, start: int) -> Expr:
            moved = at[place] if start == 0 else Apply("-", (at[place], Num(start)))
            return number(piece.element((*at[:place], moved, *at[place + 1 :])))

        out = of(pieces[-1], ends[-1] - pieces[-1].sizes[place])
        for piece, end in reversed(list(zip(pieces, ends, strict=True))[:-1]):
            near = Compare(("<",), (at[place], Num(end)))
            out = Apply("select", (near, of(piece, end - piece.sizes[place]), out))
        return out

    return Value(tuple(axes), tuple(sizes), element) if len(pieces) > 1 else first


def stacked(b: Builder, pieces: Sequence[Value], dim: int = 0) -> Value:
    """Return pieces along a new dimension."""
    place = dim % (len(pieces[0].sizes) + 1)
    lifted = [reshaped(b, p, [*p.sizes[:place], 1, *p.sizes[place:]]) for p in pieces]
    return joined(b, lifted, place)


def split(b: Builder, x: Value, sizes: int | Sequence[int], dim: int = 0) -> list[Value]:
    """Return a value cut into pieces of some sizes."""
    n = x.sizes[axis_of(x, dim)]
    counts = [min(sizes, n - i) for i in range(0, n, sizes)] if isinstance(sizes, int) else list(sizes)
    ends = list(itertools.accumulate(counts))
    return [sliced(b, x, dim, end - count, end) for count, end in zip(counts, ends, strict=True)]


def chunked(b: Builder, x: Value, count: int, dim: int = 0) -> list[Value]:
    """Return a value cut into a number of pieces, the last one perhaps smaller."""
    n = x.sizes[axis_of(x, dim)]
    return split(b, x, -(-n // count), dim)


def evenly_split(b: Builder, x: Value, parts: int | Sequence[int], dim: int = 0) -> list[Value]:
    """Return a value cut into a number of pieces, the first ones larger by one, or cut before some places."""
    n = x.sizes[axis_of(x, dim)]
    if isinstance(parts, int):
        counts = [n // parts + (i < n % parts) for i in range(parts)]
    else:
        cuts = [0, *(min(p if p >= 0 else p + n, n) for p in parts), n]
        counts = [max(0, end - start) for start, end in itertools.pairwise(cuts)]
    if 0 in counts:
        raise UntraceableError("a piece without elements")
    return split(b, x, counts, dim)


def unbound(b: Builder, x: Value, dim: int = 0) -> list[Value]:
    """Return the places of a dimension, each by itself."""
    return [selected(b, x, dim, i) for i in range(x.sizes[axis_of(x, dim)])]


def flipped(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    """Return a value walked from the end along some dimensions."""
    gone = {axis_of(x, d) for d in dims}
    axes = tuple(
        a or Axis(n) if i in gone else a for i, (a, n) in enumerate(zip(x.axes, x.sizes, strict=True))
    )

    def turned(i: int, at: Expr) -> Expr:
        size = size_expression(axes[i])
        match at:
            case Apply("-", (Apply("-", (same, Num(1))), again)) if same == size:
                return again  # twice is not at all
        return from_end(size, at)

    def element(at: tuple[Expr, ...]) -> Expr:
        return x.element(tuple(turned(i, v) if i in gone else v for i, v in enumerate(at)))

    return Value(axes, x.sizes, element, plain=x.plain)


def rolled(b: Builder, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    """Return a value moved round along some dimensions."""
    if not dims:
        raise UntraceableError("roll over all elements at once; name the dimensions")
    by = {axis_of(x, d): s for d, s in zip(dims, shifts, strict=True)}

    def element(at: tuple[Expr, ...]) -> Expr:
        def moved(i: int, v: Expr) -> Expr:
            n = x.sizes[i]
            return Apply("%", (Apply("+", (v, Num(-by[i] % n))), Num(n))) if i in by else v

        return x.element(tuple(moved(i, v) for i, v in enumerate(at)))

    return Value(_loosened(x, by), x.sizes, element, plain=x.plain)


def tiled(b: Builder, x: Value, times: Sequence[int]) -> Value:
    """Return a value side by side with itself."""
    new = len(times) - len(x.sizes)
    sizes = tuple(k * (x.sizes[i - new] if i >= new else 1) for i, k in enumerate(times))
    axes = tuple(x.axes[i - new] if i >= new and k == 1 else Axis(sizes[i]) for i, k in enumerate(times))

    def element(at: tuple[Expr, ...]) -> Expr:
        counts = zip(at[new:], times[new:], x.sizes, strict=True)
        return x.element(tuple(v if k == 1 else Apply("%", (v, Num(n))) for v, k, n in counts))

    return Value(axes, sizes, element)


def padded(
    b: Builder, x: Value, widths: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """Return a value with a border, its widths given from the last dimension on."""
    if mode not in ("constant", "circular"):
        raise UntraceableError(f"padding of the kind '{mode}'")
    count = len(x.sizes)
    before = {count - 1 - i // 2: w for i, w in enumerate(widths) if i % 2 == 0}
    after = {count - 1 - i // 2: w for i, w in enumerate(widths) if i % 2 == 1}
    sizes = tuple(n + before.get(i, 0) + after.get(i, 0) for i, n in enumerate(x.sizes))
    bordered = {i for i in before if before[i] or after[i]}

    def element(at: tuple[Expr, ...]) -> Expr:
        # A border of less than nothing cuts elements off.
        own = tuple(
            Apply("-" if before[i] > 0 else "+", (v, Num(abs(before[i])))) if before.get(i) else v
            for i, v in enumerate(at)
        )
        if mode == "circular":
            around = (Apply("%", (v, Num(x.sizes[i]))) if i in bordered else v for i, v in enumerate(own))
            return number(x.element(tuple(around)))
        out = number(x.element(own))
        for i in bordered:
            inside = Compare(("<=", "<"), (Num(0), own[i], Num(x.sizes[i])))
            out = Apply("select", (inside, out, constant(value or 0)))
        return out

    axes = tuple(Axis(sizes[i]) if i in bordered else a for i, a in enumerate(x.axes))
    return Value(axes, sizes, element)


def _loosened(x: Value, places: Any) -> tuple[Axis | None, ...]:
    """Return the axes, those at some places as axes of their own: element i is no longer the element i of before."""
    return tuple(Axis(x.sizes[i]) if i in places else a for i, a in enumerate(x.axes))


def indexed(b: Builder, x: Value, indices: Sequence[Value | None]) -> Value:
    """Return a value at the places that index tensors name, which stand side by side."""
    places = [i for i, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    if places != list(range(places[0], places[-1] + 1)):
        raise UntraceableError("index tensors with other dimensions between them")
    if any(is_truth(i.element(tuple(Num(0) for _ in i.sizes))) for i in given):
        raise UntraceableError("an index by truth values: the shape of the result depends on the data")
    given = [as_index(b, index) for index in given]
    axes, sizes = broadcast(b, given)
    first, width = places[0], len(sizes)
    after = first + len(places)

    def element(at: tuple[Expr, ...]) -> Expr:
        own = at[first : first + width]
        found = tuple(
            inside(b, read(i, own), x.sizes[place], i) for place, i in zip(places, given, strict=True)
        )
        return x.element((*at[:first], *found, *at[first + width :]))

    return Value(
        (*x.axes[:first], *axes, *x.axes[after:]), (*x.sizes[:first], *sizes, *x.sizes[after:]), element
    )


def as_index(b: Builder, index: Value) -> Value:
    """Return an index as the language takes one: what is more than sums and remainders is a tensor of its own."""
    shown = index.element(tuple(Var(f"c{i}") for i in range(len(index.sizes))))
    plain = all(
        not isinstance(n, Compare) and (not isinstance(n, Apply) or n.op in INDEX_OPS) for n in walk(shown)
    )
    return index if plain else b.solid(index, "I")


def broadcast(b: Builder, values: Sequence[Value]) -> tuple[list[Axis | None], list[int]]:
    """Return the axes and sizes of values aligned from the right."""
    width = max(len(v.sizes) for v in values)
    axes: list[Axis | None] = [None] * width
    sizes = [1] * width
    for v in values:
        for i, n in enumerate(v.sizes):
            sizes[width - len(v.sizes) + i] = max(n, sizes[width - len(v.sizes) + i])
    for v in values:
        for i, (axis, n) in enumerate(zip(v.axes, v.sizes, strict=True)):
            place = width - len(v.sizes) + i
            axes[place] = b.join(axes[place], axis) if n == sizes[place] else axes[place]
    return axes, sizes


def read(value: Value, at: tuple[Expr, ...]) -> Expr:
    """Return the element of a value at the last of some indices, dimensions of one element repeated."""
    own = at[len(at) - len(value.sizes) :]
    return value.element(tuple(Num(0) if n == 1 else v for n, v in zip(value.sizes, own, strict=True)))


def inside(b: Builder, index: Expr, size: int, value: Value) -> Expr:
    """Return an index counted from the front: where it may be negative it counts from the end, as torch does."""
    selected = isinstance(index, Access) and index.tensor in b.places
    return index if selected or _never_negative(value) else Apply("%", (index, Num(size)))


def _never_negative(value: Value) -> bool:
    """Tell whether an index made of coordinates by sums is at least 0: it is smallest in a corner."""
    shown = value.element(tuple(Var(f"c{i}") for i in range(len(value.sizes))))
    plain = all(not isinstance(n, Apply) or n.op in ("+", "-", "neg") for n in walk(shown))
    if accesses(shown) or not plain:
        return False
    corners = itertools.product(*((0, n - 1) for n in value.sizes))
    return all(_sum(value.element(tuple(map(Num, corner)))) >= 0 for corner in corners)


def _sum(node: Expr) -> float:
    if isinstance(node, Num):
        return node.value
    if not isinstance(node, Apply):
        raise UntraceableError("an index that depends on a size by name")
    parts = [_sum(a) for a in node.args]
    return {"+": sum(parts), "neg": -parts[0], "-": parts[0] - sum(parts[1:])}[node.op]


def taken(b: Builder, x: Value, index: Value, dim: int | None = None) -> Value:
    """Return `take_along_dim`: as `gather`, dimensions of one element repeated."""
    if dim is None:
        raise UntraceableError("take_along_dim of all elements at once; name the dimension")
    place, index = axis_of(x, dim), as_index(b, index)
    pairs = list(zip(x.axes, index.axes, x.sizes, index.sizes, strict=True))
    sizes = tuple(m if i == place else max(n, m) for i, (_, _, n, m) in enumerate(pairs))
    axes = tuple(
        w if i == place or n == 1 else v if m == 1 else b.join(v, w) for i, (v, w, n, m) in enumerate(pairs)
    )

    def element(at: tuple[Expr, ...]) -> Expr:
        found = index.element(tuple(Num(0) if n == 1 else v for n, v in zip(index.sizes, at, strict=True)))
        own = [Num(0) if n == 1 else v for n, v in zip(x.sizes, at, strict=True)]
        own[place] = inside(b, found, x.sizes[place], index)
        return x.element(tuple(own))

    return Value(axes, sizes, element)


def marked(b: Builder, index: Value, count: int = -1) -> Value:
    """Return `one_hot`: 1 at the place of a new dimension that an index names, 0 elsewhere."""
    if count < 0:
        raise UntraceableError("one_hot without the number of classes")

    def element(at: tuple[Expr, ...]) -> Expr:
        return Apply("select", (Compare(("==",), (number(index.element(at[:-1])), at[-1])), Num(1), Num(0)))

    return Value((*index.axes, None), (*index.sizes, count), element)


def gathered(b: Builder, x: Value, dim: int, index: Value, **_: Any) -> Value:
    """Return a value read along one dimension at the places of an index of its shape."""
    place = axis_of(x, dim)
    index = as_index(b, index)
    axes = tuple(
        i if axis == place or n != m else b.join(a, i)
        for axis, (a, i, n, m) in enumerate(zip(x.axes, index.axes, x.sizes, index.sizes, strict=True))
    )

    def element(at: tuple[Expr, ...]) -> Expr:
        return x.element((*at[:place], index.element(at), *at[place + 1 :]))

    return Value(axes, index.sizes, element)
