"""Operations that walk an axis: running sums, selections, windows; the table of these and of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..einsum import Einsum, Reduction
from ..expr import Access, Apply, Compare, Expr, Num, variables
from .convolutions import convolution
from .norms import mean
from .pieces import padded
from .reductions import reduced
from .shapes import axis_of, reshaped, selected, sliced, unsqueezed
from .values import Axis, Builder, UntraceableError, Value, applied, elementwise, number, reducing

Handler = Callable[..., Any]


def _running(op: str, wanted: str) -> Handler:
    """Return a handler of `cumsum` or `cumprod`: each place reduces what does not come after it."""

    def running(b: Builder, x: Value, dim: int) -> Value:
        if not x.sizes:
            return x
        place, rank = axis_of(x, dim), len(x.sizes)

        def make(at: tuple[Expr, ...]) -> Expr:
            return number(x.element((*at[:place], at[rank], *at[place + 1 : rank])))

        def before(at: tuple[Expr, ...]) -> Expr:
            return Compare(("<=",), (at[rank], at[place]))

        axis = x.axes[place] or Axis(x.sizes[place])
        axes = [*x.axes[:place], axis, *x.axes[place + 1 :], axis]
        sizes = [*x.sizes, x.sizes[place]]
        return b.define(
            wanted, axes, make, reductions=reducing(op, rank), kept=rank, sizes=sizes, where=before
        )

    return running


def largest(
    b: Builder, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    """Return the largest (or smallest) elements along a dimension, from the first on, and their places."""
    if not x.sizes:
        raise UntraceableError("topk of a single number")
    place = axis_of(x, dim)
    x = b.solid(x)
    axes = [a if a is not None else Axis(n) for a, n in zip(x.axes, x.sizes, strict=True)]
    at = tuple(b.variable(a) for a in b.separated(axes))
    into = b.variable(Axis(k))
    value = x.element(at)
    if not {v.name for v in at} <= set(variables(value)):
        raise UntraceableError("topk of a value that is the same all along a dimension")
    name = b.name("I")
    target = Access(name, (*at[:place], into, *at[place + 1 :]))
    keys = value if largest else Apply("neg", (value,))
    selection = Reduction("topk", (at[place].name,), into.name)
    b.einsums.append(Einsum(target, keys, (selection,)))
    b.places.add(name)
    made = [*(b.axis_of[v.name] for v in at)]
    made[place] = b.axis_of[into.name]
    sizes = (*x.sizes[:place], k, *x.sizes[place + 1 :])
    b.lengths[name] = sizes
    index = Value(tuple(made), sizes, lambda i: Access(name, i), plain=True)

    def element(i: tuple[Expr, ...]) -> Expr:
        return x.element((*i[:place], index.element(i), *i[place + 1 :]))

    return Value(tuple(made), sizes, element), index


def in_order(
    b: Builder, x: Value, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> tuple[Value, Value]:
    """Return all elements along a dimension in order and their places; of equal ones the first comes first."""
    return largest(b, x, x.sizes[axis_of(x, dim)], dim, largest=descending)


def places_in_order(
    b: Builder, x: Value, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> Value:
    """Return the places of all elements along a dimension in order."""
    return in_order(b, x, dim, descending)[1]


def in_the_middle(
    b: Builder, x: Value, k: int | None = None, dim: int = -1, keepdim: bool = False
) -> tuple[Value, Value]:
    """Return the k-th smallest elements along a dimension and their places; without k the lower median."""
    place = axis_of(x, dim)
    at = (x.sizes[place] - 1) // 2 if k is None else k - 1
    found = [selected(b, v, place, at) for v in in_order(b, x, dim)]
    values, places = (unsqueezed(b, v, place) if keepdim else v for v in found)
    return values, places


def _median(b: Builder, x: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        flat = reshaped(b, x, [math.prod(x.sizes)])
        return in_the_middle(b, flat)[0]
    return in_the_middle(b, x, None, dim, keepdim)


def averages(count: int) -> Handler:
    """Return a handler of `avg_pool1d` (count 1), `avg_pool2d` (2): the mean of each window, borders of 0 counted."""

    def averaged(
        b: Builder,
        x: Value,
        size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil: bool = False,
        with_border: bool = True,
        divisor: int | None = None,
    ) -> Value:
        widths, steps, borders = (
            list(v) * count if len(v) == 1 else list(v) for v in (size, stride or size, padding)
        )
        if ceil or divisor or (not with_border and any(borders)):
            raise UntraceableError("averages of windows of different sizes")
        x = padded(b, x, [w for border in reversed(borders) for w in (border, border)])
        first = len(x.sizes) - count
        for i, (width, step) in enumerate(zip(widths, steps, strict=True)):
            x = windows(b, x, first + i, width, step)
        return mean(b, x, list(range(len(x.sizes) - count, len(x.sizes))))

    return averaged


def place_of(sign: int) -> Handler:
    """Return a handler of `argmax` (sign 1) or `argmin` (sign -1); of equal elements the first counts."""

    def placed(b: Builder, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        if dim is None:
            if len(x.sizes) > 1:
                raise UntraceableError(
                    "the place among all elements at once; name the dimension: argmax(x, dim)"
                )
            dim = 0
        if sign < 0:
            inner = x
            x = Value(x.axes, x.sizes, lambda at: Apply("neg", (number(inner.element(at)),)))
        found = reduced(b, x, dim, "argmax", keepdim=keepdim, wanted="I")
        shown = found.element(tuple(Num(0) for _ in found.sizes))
        b.places |= {shown.tensor} if isinstance(shown, Access) else set()
        return found

    return placed


def windows(b: Builder, x: Value, dim: int, size: int, step: int) -> Value:
    """Return the windows of a dimension, the places of each in a dimension of their own at the end."""
    place = axis_of(x, dim)
    count = (x.sizes[place] - size) // step + 1

    def element(at: tuple[Expr, ...]) -> Expr:
        at_window = at[place] if step == 1 else Apply("*", (at[place], Num(step)))
        return x.element((*at[:place], Apply("+", (at_window, at[-1])), *at[place + 1 : -1]))

    axes = (*x.axes[:place], Axis(count), *x.axes[place + 1 :], Axis(size))
    return Value(axes, (*x.sizes[:place], count, *x.sizes[place + 1 :], size), element)


def _extreme_so_far(op: str, wanted: str) -> Handler:
    """Return a handler of `cummax` or `cummin`; the places of the extremes have no words."""
    running = _running(op, wanted)
    return lambda b, x, dim: (running(b, x, dim), None)


def differences(b: Builder, x: Value, n: int = 1, dim: int = -1, *ends: Any, **_: Any) -> Value:
    """Return each element less the one before it."""
    if n != 1 or any(e is not None for e in ends):
        raise UntraceableError("differences of a higher order, or with more at the ends")
    count = x.sizes[axis_of(x, dim)]
    after, before = sliced(b, x, dim, 1, count), sliced(b, x, dim, 0, count - 1)
    return elementwise(b, applied("-"), after, before)


SEQUENCES: dict[str, Handler] = {
    "cumsum": _running("sum", "CS"),
    "cumprod": _running("prod", "CP"),
    "cummax": _extreme_so_far("max", "CMAX"),
    "cummin": _extreme_so_far("min", "CMIN"),
    "logcumsumexp": _running("logsumexp", "CL"),
    "diff": differences,
    "topk": largest,
    "sort": in_order,
    "kthvalue": in_the_middle,
    "median": _median,
    "avg_pool1d": averages(1),
    "avg_pool2d": averages(2),
    "argsort": places_in_order,
    "argmax": place_of(1),
    "argmin": place_of(-1),
    "unfold": windows,
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "conv3d": convolution(3),
}
