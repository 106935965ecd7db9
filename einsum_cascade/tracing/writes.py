"""Tensors of which a part is written anew: what `a[:, 0] = x` and other writing in place come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..expr import Apply, Compare, Expr, Num
from .scatters import put_at
from .shapes import axis_of
from .values import Builder, UntraceableError, Value, constant, elementwise, is_truth, number, truth


def with_place(b: Builder, x: Value, new: Value, dim: int, index: int) -> Value:
    """Return a value whose elements at one place of a dimension are new: `x[:, 0] = new`."""
    place = axis_of(x, dim)
    at_place = index % x.sizes[place]

    def element(at: tuple[Expr, ...]) -> tuple[Expr, tuple[Expr, ...]]:
        return Compare(("==",), (at[place], Num(at_place))), (*at[:place], *at[place + 1 :])

    return _written(b, x, new, element, [i for i in range(len(x.sizes)) if i != place])


def with_slice(
    b: Builder,
    x: Value,
    new: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """Return a value whose elements along a stretch of a dimension are new: `x[:, 2:5] = new`."""
    place = axis_of(x, dim)
    first, last, _ = slice(start, end, 1).indices(x.sizes[place])

    def element(at: tuple[Expr, ...]) -> tuple[Expr, tuple[Expr, ...]]:
        inside: Expr = Compare(("<=", "<"), (Num(first), at[place], Num(last)))
        moved: Expr = at[place] if first == 0 else Apply("-", (at[place], Num(first)))
        if step != 1:
            hit = Compare(("==",), (Apply("%", (moved, Num(step))), Num(0)))
            inside, moved = Apply("and", (inside, hit)), Apply("//", (moved, Num(step)))
        return inside, (*at[:place], moved, *at[place + 1 :])

    return _written(b, x, new, element, [i for i in range(len(x.sizes)) if i != place])


def stretches_written(node: Any) -> list[Any] | None:
    """Return what has been written to a tensor, stretch by stretch along a dimension, if it is new from end to end.

    `out[i : i + c] = x` in a loop is `cat` of all the x, whatever `out` has been before.

    Args:
        node: the last `slice_scatter` of a graph of torch.
    """
    shape = node.meta["val"].shape
    written: list[tuple[int, int, Any]] = []
    dims: set[int] = set()
    while str(node.target).startswith("aten.slice_scatter"):
        args = list(node.args)
        old, new, dim, start, end, step = args + [0, None, None, 1][len(args) - 2 :]
        if step != 1 or node.kwargs:
            return None
        first, last, _ = slice(start, end).indices(shape[dim])
        dims.add(dim % len(shape))
        written.append((first, last, new))
        node = old
    written.sort(key=lambda w: w[0])
    ends = [0, *(last for _, last, _ in written)]
    if len(written) < 2 or len(dims) > 1 or ends[-1] != shape[dims.pop()]:
        return None
    return [_copied(w[2]) for w in written] if [w[0] for w in written] == ends[:-1] else None


def _copied(node: Any) -> Any:
    """Return what a node copies to a place of its own shape; the place is looked at for its shape alone."""
    if not str(node.target).startswith("aten.copy.") or not hasattr(node.args[1], "meta"):
        return node
    mine, source = node.meta["val"], node.args[1].meta.get("val")
    same = source is not None and (mine.shape, mine.dtype) == (source.shape, source.dtype)
    return node.args[1] if same else node


def _written(
    b: Builder,
    x: Value,
    new: Value,
    element: Callable[[tuple[Expr, ...]], tuple[Expr, tuple[Expr, ...]]],
    kept: Sequence[int],
) -> Value:
    """Return a value with some elements of another, of which the dimensions that both have are the same.

    Args:
        element: given indices, the condition under which the element is new, and where it is found.
        kept: the dimensions that both have, in order.
    """
    axes = list(x.axes)
    shared = [i for i in range(len(new.sizes)) if len(new.sizes) < len(x.sizes) or i in kept]
    for i, mine in zip(kept, shared, strict=True):
        if x.sizes[i] == new.sizes[mine]:
            axes[i] = b.join(axes[i], new.axes[mine])

    def chosen(at: tuple[Expr, ...]) -> Expr:
        condition, where = element(at)
        return Apply("select", (condition, number(new.element(where)), number(x.element(at))))

    return Value(tuple(axes), x.sizes, chosen)


def put(b: Builder, x: Value, indices: Sequence[Value | None], new: Any, accumulate: bool = False) -> Value:
    """Return a value that is new where a mask is true, `x[mask] = new`, or at the places of index tensors."""
    mask = next(index for index in indices if index is not None)
    if not is_truth(mask.element(_zeros(mask))):
        return put_at(b, x, indices, new, accumulate)
    single = not isinstance(new, Value) or not new.sizes or new.sizes == (1,)
    if len(indices) > 1 or accumulate or not single:
        raise UntraceableError("writing several numbers by a mask: their count depends on the data")
    if mask.sizes != x.sizes:
        raise UntraceableError("writing by a mask of fewer dimensions; give it those of what it writes to")
    value = new.element(_zeros(new)) if isinstance(new, Value) else constant(new)
    return elementwise(b, lambda m, old: Apply("select", (truth(m), number(value), number(old))), mask, x)


def _zeros(x: Value) -> tuple[Expr, ...]:
    return tuple(Num(0) for _ in x.sizes)
