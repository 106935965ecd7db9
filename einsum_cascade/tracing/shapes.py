"""Views of traced tensors: other shapes, orders and parts of the same elements, and coordinates as values."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..expr import Apply, Compare, Expr, Num
from .values import Axis, Builder, UntraceableError, Value, both, constant, is_truth, number, size_expression

Handler = Callable[..., Any]
# Parts of a dimension that may be the tiles of a loop: as many as a loop has steps at the least.
LEAST_STEPS = 3


def axis_of(x: Value, dim: int) -> int:
    """Return a dimension counted from the front."""
    if not x.sizes:
        raise UntraceableError("a dimension of a single number")
    return dim % len(x.sizes)


def arange(stop: int, start: int = 0, step: int = 1) -> Value:
    """Return the coordinates themselves."""

    def element(at: tuple[Expr, ...]) -> Expr:
        out = at[0] if step == 1 else Apply("*", (at[0], constant(step)))
        return out if start == 0 else Apply("+", (out, constant(start)))

    return Value((None,), (len(range(start, stop, step)),), element)


def aranged(b: Builder, *bounds: Any, **_: Any) -> Value:
    """Return coordinates between bounds."""
    if any(x != int(x) for x in bounds):
        raise UntraceableError("arange with steps that are not whole numbers")
    whole = [int(x) for x in bounds]
    return arange(whole[0]) if len(whole) == 1 else arange(whole[1], whole[0], *whole[2:])


def spaced(b: Builder, start: float, end: float, steps: int, **_: Any) -> Value:
    """Return numbers at equal distances between two."""
    step = (end - start) / max(steps - 1, 1)

    def element(at: tuple[Expr, ...]) -> Expr:
        return Apply("+", (constant(start), Apply("*", (at[0], constant(step)))))

    return Value((None,), (steps,), element)


def filled(b: Builder, sizes: Sequence[int], fill: float, **_: Any) -> Value:
    """Return a constant."""
    axes = (None,) * len(sizes)
    if b.constants and sizes and not is_truth(constant(fill)):
        return b.define("U", axes, lambda at: constant(fill), sizes=tuple(sizes), whole=True)
    return Value(axes, tuple(sizes), lambda at: constant(fill))


def filled_like(fill: float | None) -> Handler:
    """Return a handler of constants in the shape of a value."""
    return lambda b, x, value=fill, **_: filled(b, x.sizes, value)


def triangle(keep: str) -> Handler:
    """Return a handler that keeps one triangle of a matrix."""

    def cut(b: Builder, x: Value, diagonal: int = 0) -> Value:
        def element(at: tuple[Expr, ...]) -> Expr:
            shift = at[-2] if diagonal == 0 else Apply("+", (at[-2], constant(diagonal)))
            value = x.element(at)
            kept = Compare((keep,), (at[-1], shift))
            if is_truth(value):
                return both(value, kept) or value
            return Apply("select", (kept, number(value), Num(0)))

        return Value(x.axes, x.sizes, element)

    return cut


def diagonal(b: Builder, rows: int, columns: int | None = None, **_: Any) -> Value:
    """Return the unit matrix."""
    sizes = (rows, rows if columns is None else columns)
    return Value((None, None), sizes, lambda at: Compare(("==",), (at[0], at[1])))


def diagonal_of(b: Builder, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """Return the elements of which two places are the same, or one so many behind the other, along a last dimension."""
    rows, columns = axis_of(x, dim1), axis_of(x, dim2)
    down, right = max(-offset, 0), max(offset, 0)
    size = min(x.sizes[rows] - down, x.sizes[columns] - right)
    if size < 1:
        raise UntraceableError("a diagonal without elements")
    rest = [i for i in range(len(x.sizes)) if i not in (rows, columns)]

    def element(at: tuple[Expr, ...]) -> Expr:
        own = dict(zip(rest, at[:-1], strict=True))
        for i, shift in ((rows, down), (columns, right)):
            own[i] = Apply("+", (at[-1], Num(shift))) if shift else at[-1]
        return x.element(tuple(own[i] for i in range(len(x.sizes))))

    axes, sizes = [x.axes[i] for i in rest], [x.sizes[i] for i in rest]
    return Value((*axes, Axis(size)), (*sizes, size), element, plain=x.plain)


def moved(b: Builder, x: Value, source: Any, target: Any) -> Value:
    """Return a value with some dimensions at other places."""
    sources, targets = ([d] if isinstance(d, int) else d for d in (source, target))
    at = {axis_of(x, t): axis_of(x, s) for s, t in zip(sources, targets, strict=True)}
    rest = iter(i for i in range(len(x.sizes)) if i not in at.values())
    return permuted(x, [at[i] if i in at else next(rest) for i in range(len(x.sizes))])


def permuted(x: Value, order: Sequence[int]) -> Value:
    """Return a value with its dimensions in another order."""
    order = [axis_of(x, d) for d in order]

    def element(at: tuple[Expr, ...]) -> Expr:
        return x.element(tuple(at[order.index(i)] for i in range(len(order))))

    return Value(tuple(x.axes[i] for i in order), tuple(x.sizes[i] for i in order), element, plain=x.plain)


def transposed(x: Value, first: int, second: int) -> Value:
    """Return a value with two dimensions exchanged."""
    order = list(range(len(x.sizes)))
    a, b = axis_of(x, first), axis_of(x, second)
    order[a], order[b] = order[b], order[a]
    return permuted(x, order)


def unsqueezed(b: Builder, x: Value, dim: int) -> Value:
    """Return a value with one more dimension."""
    place = dim % (len(x.sizes) + 1)
    return reshaped(b, x, [*x.sizes[:place], 1, *x.sizes[place:]])


def squeezed(b: Builder, x: Value, dims: Any = None) -> Value:
    """Return a value without its single dimensions."""
    if not x.sizes:
        return x  # torch takes the dimensions 0 and -1 of a single number
    some = range(len(x.sizes)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {axis_of(x, d) for d in some if x.sizes[d] == 1}
    return reshaped(b, x, [n for i, n in enumerate(x.sizes) if i not in gone])


def expanded(b: Builder, x: Value, sizes: Sequence[int], **_: Any) -> Value:
    """Return a value repeated along new or single dimensions."""
    new = len(sizes) - len(x.sizes)
    full = tuple((x.sizes[i - new] if i >= new else 1) if n == -1 else n for i, n in enumerate(sizes))
    axes = tuple(x.axes[i - new] if i >= new and x.sizes[i - new] == n else None for i, n in enumerate(full))

    def element(at: tuple[Expr, ...]) -> Expr:
        own = at[new:]
        return x.element(
            tuple(Num(0) if n == 1 and full[new + i] != 1 else own[i] for i, n in enumerate(x.sizes))
        )

    return Value(axes, full, element, plain=x.plain)


def together(b: Builder, values: Sequence[Value]) -> list[Value]:
    """Return values repeated to the one shape that they have together."""
    width = max(len(v.sizes) for v in values)
    full = [(1,) * (width - len(v.sizes)) + v.sizes for v in values]
    return [expanded(b, v, [max(column) for column in zip(*full, strict=True)]) for v in values]


def viewed(b: Builder, x: Value, sizes: Sequence[int]) -> Value:
    """Return a value under another shape."""
    known = math.prod(n for n in sizes if n != -1)
    return reshaped(b, x, [math.prod(x.sizes) // known if n == -1 else n for n in sizes])


def flattened(b: Builder, x: Value, start: int = 0, end: int = -1) -> Value:
    """Return a value with some dimensions merged."""
    first, last = axis_of(x, start), axis_of(x, end)
    return reshaped(b, x, [*x.sizes[:first], math.prod(x.sizes[first : last + 1]), *x.sizes[last + 1 :]])


def unflattened(b: Builder, x: Value, dim: int, sizes: Sequence[int]) -> Value:
    """Return a value with one dimension split."""
    place = axis_of(x, dim)
    parts = [x.sizes[place] // math.prod(n for n in sizes if n != -1) if n == -1 else n for n in sizes]
    return reshaped(b, x, [*x.sizes[:place], *parts, *x.sizes[place + 1 :]])


def sliced(
    b: Builder, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """Return part of a dimension."""
    place = axis_of(x, dim)
    chosen = range(*slice(start, end, step).indices(x.sizes[place]))
    if len(chosen) == x.sizes[place]:
        return x
    if b.tiles and step == 1 and is_tile(chosen.start, len(chosen), x.sizes[place]):
        count = x.sizes[place] // len(chosen)
        in_tiles = [*x.sizes[:place], count, len(chosen), *x.sizes[place + 1 :]]
        return selected(b, reshaped(b, x, in_tiles), place, chosen.start // len(chosen))
    at_place = arange(chosen.stop, chosen.start, step)
    axes = tuple(Axis(len(chosen)) if i == place else a for i, a in enumerate(x.axes))
    sizes = tuple(len(chosen) if i == place else n for i, n in enumerate(x.sizes))

    def element(at: tuple[Expr, ...]) -> Expr:
        return x.element(tuple(at_place.element((v,)) if i == place else v for i, v in enumerate(at)))

    return Value(axes, sizes, element, plain=x.plain)


def is_tile(start: int, length: int, whole: int) -> bool:
    """Tell whether a part of a dimension is one of three or more of its size that make the whole."""
    return length > 1 and whole % length == 0 == start % length and whole // length >= LEAST_STEPS


def selected(b: Builder, x: Value, dim: int, index: int) -> Value:
    """Return one place of a dimension."""
    place = axis_of(x, dim)
    chosen = Num(index % x.sizes[place])
    axes = tuple(a for i, a in enumerate(x.axes) if i != place)
    sizes = tuple(n for i, n in enumerate(x.sizes) if i != place)
    return Value(axes, sizes, lambda at: x.element((*at[:place], chosen, *at[place:])), plain=x.plain)


def repeated(b: Builder, x: Value, times: int, dim: int | None = None, **_: Any) -> Value:
    """Return a value with each element of a dimension repeated."""
    if dim is None:
        raise UntraceableError("repeat_interleave without a dimension")
    place = axis_of(x, dim)
    axes = tuple(Axis(a.size * times) if i == place and a is not None else a for i, a in enumerate(x.axes))
    sizes = tuple(n * times if i == place else n for i, n in enumerate(x.sizes))

    def element(at: tuple[Expr, ...]) -> Expr:
        return x.element(tuple(Apply("//", (v, Num(times))) if i == place else v for i, v in enumerate(at)))

    return Value(axes, sizes, element, plain=x.plain)


def unchanged(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    """Return the value itself, where only its storage changes."""
    return x


def reshaped(builder: Builder, value: Value, sizes: Sequence[int]) -> Value:
    """Return a value under another shape, as far as axes are split, merged, added or dropped.

    Raises:
        UntraceableError: the new axes cut across the old ones.
    """
    between = _cut(value.sizes, sizes)
    if between not in (tuple(value.sizes), tuple(sizes)):
        return reshaped(builder, reshaped(builder, value, between), sizes)
    axes: list[Axis | None] = []
    index: list[Callable[[tuple[Expr, ...]], list[Expr]]] = []
    for old, new in _groups(value.sizes, sizes):
        first = len(axes)
        mine = [value.axes[i] for i in old]
        counts = [value.sizes[i] for i in old]
        if len(old) == 1 and len(new) == 1:
            axes.append(mine[0])
            index.append(functools.partial(_kept, first))
        elif new and old and (len(old) > 1 < len(new) or not _divides(mine[0], [sizes[j] for j in new])):
            axes += [Axis(sizes[j]) for j in new]
            index.append(functools.partial(_found, first, tuple(counts), tuple(sizes[j] for j in new)))
        elif len(old) == 1 and new:
            parts = _parts(builder, mine[0], [sizes[j] for j in new])
            axes += parts
            inner = tuple(_count(p, sizes[j]) for p, j in zip(parts, new, strict=True))
            index.append(functools.partial(_joined, first, inner))
        else:
            if not new:  # an axis of one element that is dropped
                index.append(lambda at: [Num(0)])
                continue
            if not old:  # an axis of one element that is added
                axes.append(None)
                index.append(lambda at: [])
                continue
            solid = tuple(a if a is not None else Axis(n) for a, n in zip(mine, counts, strict=True))
            axes.append(Axis(math.prod(counts), parts=solid))
            index.append(functools.partial(_taken_apart, first, solid))

    def element(at: tuple[Expr, ...]) -> Expr:
        return value.element(tuple(i for part in index for i in part(at)))

    return Value(tuple(axes), tuple(sizes), element, plain=value.plain)


def _cut(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that is cut wherever one of two is, or the new one where that has no whole sizes."""
    ends = sorted({math.prod(shape[i:]) for shape in (old, new) for i in range(len(shape) + 1)})
    if 0 in ends or any(b % a for a, b in itertools.pairwise(ends)) or {1} & {*old, *new}:
        return tuple(new)
    return tuple(b // a for a, b in itertools.pairwise(ends))[::-1]


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which old dimensions become which new ones: one to one, one to many, or many to one."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and old[i] == new[j]:
            groups.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        if i < len(old) and old[i] == 1:
            groups.append(([i], []))
            i += 1
            continue
        if j < len(new) and new[j] == 1:
            groups.append(([], [j]))
            j += 1
            continue
        left, right = [i], [j]
        a, b = old[i], new[j]
        while a != b:
            if a < b:
                left.append(left[-1] + 1)
                a *= old[left[-1]]
            else:
                right.append(right[-1] + 1)
                b *= new[right[-1]]
        groups.append((left, right))
        i, j = left[-1] + 1, right[-1] + 1
    return groups


def _parts(builder: Builder, axis: Axis | None, sizes: Sequence[int]) -> list[Axis | None]:
    """Return the axes that a dimension is the product of."""
    if axis is None:
        return [None] * len(sizes)
    root = axis.origin
    if not root.parts:
        root.parts = tuple(Axis(n) for n in sizes)
    return list(root.parts)


def _divides(axis: Axis | None, sizes: Sequence[int]) -> bool:
    """Tell whether a dimension may be the product of some sizes: it is not the product of others already."""
    parts = axis.origin.parts if axis is not None else ()
    return len(sizes) == 1 or not parts or [p.size for p in parts] == list(sizes)


def _found(first: int, old: Sequence[int], new: Sequence[int], at: Sequence[Expr]) -> list[Expr]:
    """Return the indices under an old shape of the element at some indices under a new one, from the first of it on."""
    place = at[first]
    for index, n in zip(at[first + 1 : first + len(new)], new[1:], strict=True):
        place = Apply("+", (Apply("*", (place, Num(n))), index))
    out: list[Expr] = []
    for i, n in enumerate(old):
        inner = math.prod(old[i + 1 :])
        rest = place if inner == 1 else Apply("//", (place, Num(inner)))
        out.append(rest if i == 0 else Apply("%", (rest, Num(n))))
    return out


def _count(axis: Axis | None, size: int) -> Expr:
    """Return the size of an axis by its name, or as a number where nothing ties it down yet."""
    return Num(size) if axis is None else size_expression(axis)


def _kept(first: int, at: Sequence[Expr]) -> list[Expr]:
    """Return the index of an axis that both shapes have."""
    return [at[first]]


def _joined(first: int, counts: Sequence[Expr], at: Sequence[Expr]) -> list[Expr]:
    """Return the index of an axis that the new shape cuts into some, from the first of them on."""
    return [_offset(at[first : first + len(counts)], counts)]


def _taken_apart(first: int, parts: Sequence[Axis], at: Sequence[Expr]) -> list[Expr]:
    """Return the indices of axes that the new shape makes one."""
    return _digits(at[first], parts)


def _offset(at: Sequence[Expr], counts: Sequence[Expr]) -> Expr:
    out = at[0]
    for index, n in zip(at[1:], counts[1:], strict=True):
        out = Apply("+", (Apply("*", (out, n)), index))
    return out


def _digits(at: Expr, parts: Sequence[Axis]) -> list[Expr]:
    out: list[Expr] = []
    for i, part in enumerate(parts):
        rest = at
        for inner in reversed(parts[i + 1 :]):
            rest = Apply("//", (rest, size_expression(inner)))
        out.append(rest if i == 0 else Apply("%", (rest, size_expression(part))))
    return out
