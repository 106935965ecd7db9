"""Means, spreads, norms and losses of traced tensors, opened into sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..expr import Apply, Compare, Expr, Num
from .reductions import log_softmax, reduced
from .shapes import axis_of, expanded, reshaped
from .values import Builder, UntraceableError, Value, applied, constant, elementwise, size_of

Dims = Sequence[int] | int | None


def _divided(b: Builder, x: Any, y: Any) -> Value:
    return elementwise(b, lambda p, q: Apply("/", (p, q)), x, y)


def _times(b: Builder, x: Any, y: Any) -> Value:
    return elementwise(b, lambda p, q: Apply("*", (p, q)), x, y)


def _square(b: Builder, x: Value) -> Value:
    return elementwise(b, lambda v: Apply("**", (v, Num(2))), x)


def _root(b: Builder, x: Value) -> Value:
    return elementwise(b, lambda v: Apply("sqrt", (v,)), x)


def _scaled(b: Builder, x: Value, weight: Value | None, bias: Value | None = None) -> Value:
    out = x if weight is None else _times(b, x, weight)
    return out if bias is None else elementwise(b, lambda p, q: Apply("+", (p, q)), out, bias)


def _count(x: Value, dims: Dims) -> Value:
    some = range(len(x.sizes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = [axis_of(x, d) for d in some]
    return size_of([x.axes[i] for i in gone], [x.sizes[i] for i in gone])


def mean(b: Builder, x: Value, dims: Dims = None, keepdim: bool = False, **_: Any) -> Value:
    """Return a mean over some dimensions."""
    return _divided(b, reduced(b, x, dims, "sum", keepdim=keepdim, wanted="SUM"), _count(x, dims))


def variance(
    b: Builder,
    x: Value,
    dims: Dims | bool = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    """Return a variance over some dimensions, divided by their number less a correction."""
    less = int(dims if isinstance(dims, bool) else unbiased) if correction is None else correction
    dims = None if isinstance(dims, bool) else dims
    middle = b.solid(mean(b, x, dims, True), "MU")
    apart = elementwise(b, lambda v, m: Apply("**", (Apply("-", (v, m)), Num(2))), x, middle)
    total = reduced(b, apart, dims, "sum", keepdim=keepdim, wanted="VS")
    count = _count(x, dims)
    return _divided(b, total, elementwise(b, lambda n, c: Apply("-", (n, c)), count, less) if less else count)


def deviation(b: Builder, *args: Any, **kwargs: Any) -> Value:
    """Return a standard deviation over some dimensions."""
    return _root(b, variance(b, *args, **kwargs))


def variance_and_mean(
    b: Builder, x: Value, dims: Dims | bool = None, *args: Any, **kwargs: Any
) -> list[Value]:
    """Return both."""
    spread = variance(b, x, dims, *args, **kwargs)
    return [spread, mean(b, x, None if isinstance(dims, bool) else dims, bool(kwargs.get("keepdim")))]


def layer_norm(
    b: Builder,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    """Return values less their mean over their deviation."""
    dims = list(range(-len(shape), 0))
    x = b.solid(x)
    middle = b.solid(mean(b, x, dims, True), "MU")
    spread = b.solid(variance(b, x, dims, correction=0, keepdim=True), "VA")

    def normal(value: Expr, mu: Expr, va: Expr) -> Expr:
        return Apply("/", (Apply("-", (value, mu)), Apply("sqrt", (Apply("+", (va, constant(eps))),))))

    return _scaled(b, elementwise(b, normal, x, middle, spread), weight, bias)


def rms_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    """Return values over the root of their mean square."""
    dims = list(range(-len(shape), 0))
    x = b.solid(x)
    square = b.solid(mean(b, _square(b, x), dims, True), "MS")
    # Where none is given, torch adds the smallest step of the number format; float64's is the evaluator's.
    small = constant(2.0**-52 if eps is None else eps)
    root = elementwise(b, lambda v: Apply("sqrt", (Apply("+", (v, small)),)), square)
    return _scaled(b, _divided(b, x, root), weight)


def group_norm(
    b: Builder,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    """Return values less the mean of their group of channels over its deviation."""
    batch, channels, *places = x.sizes
    apart = reshaped(b, x, [batch, groups, channels // groups, *places])
    out = reshaped(b, layer_norm(b, apart, apart.sizes[2:], eps=eps), x.sizes)
    own = [None if w is None else reshaped(b, w, [channels, *(1 for _ in places)]) for w in (weight, bias)]
    return _scaled(b, out, *own)


def vector_norm(
    b: Builder, x: Value, order: Any = 2, dims: Dims = None, keepdim: bool = False, **_: Any
) -> Value:
    """Return the norm of order 1, 2 or infinity."""
    if order == 2:
        return _root(b, reduced(b, _square(b, x), dims, "sum", keepdim=keepdim, wanted="SQ"))
    size = elementwise(b, lambda v: Apply("abs", (v,)), x)
    if order not in (1, float("inf")):
        raise UntraceableError(f"a norm of order {order}")
    return reduced(b, size, dims, "sum" if order == 1 else "max", keepdim=keepdim, wanted="NRM")


def cosine_similarity(b: Builder, x: Value, y: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    """Return the cosine of the angle between two values along a dimension of what both are together."""
    both = _times(b, x, y)
    product = reduced(b, both, dim, "sum", wanted="XY")
    behind = dim % len(both.sizes) - len(both.sizes)

    def norm(v: Value) -> Value:
        # What is repeated along the dimension is as long as its repetitions together.
        full = [1] * (-behind - len(v.sizes)) + list(v.sizes)
        full[behind] = both.sizes[behind]
        whole = v if full == list(v.sizes) else expanded(b, v, full)
        return elementwise(b, lambda n: Apply("max", (n, constant(eps))), vector_norm(b, whole, 2, behind))

    return _divided(b, product, _times(b, norm(x), norm(y)))


def distances(b: Builder, x: Value, y: Value, p: float = 2, mode: Any = None) -> Value:
    """Return the distance of each row of one value from each row of another."""
    rows = reshaped(b, x, [*x.sizes[:-1], 1, x.sizes[-1]])
    columns = reshaped(b, y, [*y.sizes[:-2], 1, *y.sizes[-2:]])
    apart = elementwise(b, applied("-"), rows, columns)
    return vector_norm(b, apart, p, -1)


def average_pool(b: Builder, x: Value, sizes: Sequence[int]) -> Value:
    """Return the mean over the last dimensions, where all of them become one element."""
    if any(n != 1 for n in sizes):
        raise UntraceableError("adaptive pooling to more than one element")
    return mean(b, x, list(range(-len(sizes), 0)), True)


def cross_entropy(
    b: Builder,
    x: Value,
    target: Value,
    weight: Value | None = None,
    reduction: int = 1,
    ignored: int = -100,
    smoothing: float = 0.0,
) -> Value:
    """Return the cross-entropy of rows, of targets that are weights or the number of a class."""
    if weight is not None or smoothing:
        raise UntraceableError("cross-entropy with class weights or smoothing")
    dim = 1 if len(x.sizes) > 1 else 0
    log = b.solid(log_softmax(b, x, dim), "LP")
    if len(target.sizes) == len(x.sizes):
        product = elementwise(b, lambda t, v: Apply("neg", (Apply("*", (t, v)),)), target, log)
        rows = reduced(b, product, dim, "sum", wanted="CE")
        return _over(b, rows, reduction, lambda total: mean(b, rows))
    counted, loss = _class_loss(b, log, target, dim, ignored)
    return _over(b, loss, reduction, lambda total: _divided(b, total, _sum(b, counted)))


def squared_error(b: Builder, x: Value, y: Value, reduction: int = 1) -> Value:
    """Return squares of differences, their mean (reduction 1) or their sum (2)."""
    apart = _square(b, elementwise(b, applied("-"), x, y))
    return _over(b, apart, reduction, lambda total: mean(b, apart))


def negative_log(
    b: Builder,
    log: Value,
    target: Value,
    weight: Value | None = None,
    reduction: int = 1,
    ignored: int = -100,
) -> Value:
    """Return `nll_loss`: minus the logarithm at the number of a class."""
    if weight is not None:
        raise UntraceableError("a loss with class weights")
    log = b.solid(log, "LP")
    counted, loss = _class_loss(b, log, target, 1 if len(log.sizes) > 1 else 0, ignored)
    return _over(b, loss, reduction, lambda total: _divided(b, total, _sum(b, counted)))


def _sum(b: Builder, x: Value) -> Value:
    return reduced(b, x, None, "sum", wanted="SUM") if x.sizes else x


def _over(b: Builder, rows: Value, reduction: int, averaged: Callable[[Value], Value]) -> Value:
    if reduction == 0:
        return rows
    return averaged(_sum(b, rows)) if reduction == 1 else _sum(b, rows)


def _class_loss(b: Builder, log: Value, target: Value, dim: int, ignored: int) -> tuple[Value, Value]:
    """Return which rows count, and the loss of each: minus the logarithm at the number of its class."""

    def left_out(at: tuple[Expr, ...]) -> Expr:
        return Compare(("==",), (target.element(at), constant(ignored)))

    def counted(at: tuple[Expr, ...]) -> Expr:
        return Apply("select", (left_out(at), Num(0), Num(1)))

    def loss(at: tuple[Expr, ...]) -> Expr:
        read = log.element((*at[:dim], target.element(at), *at[dim:]))
        return Apply("select", (left_out(at), Num(0), Apply("neg", (read,))))

    rest = (*log.axes[:dim], *log.axes[dim + 1 :])
    axes = tuple(b.join(a, t) for a, t in zip(rest, target.axes, strict=True))
    return Value(axes, target.sizes, counted), Value(axes, target.sizes, loss)
