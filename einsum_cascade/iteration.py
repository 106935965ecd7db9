"""One Einsum over its iteration space: contracted as a matrix product where it can be, else reduced step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .einsum import Einsum, Reduction
from .errors import CascadeError
from .expr import Apply, Expr
from .ops import REDUCTION
from .terms import Array, Condition, Points, Space, Terms, all_present, condition_of, value_of

WORD_BYTES = 8


def run(einsum: Einsum, space: Space) -> Points:
    """Return what an Einsum defines, one axis per free variable of its target, in the target's order.

    Raises:
        CascadeError: an index that is not a whole number, or an array beyond the limit.
    """
    reductions = einsum.all_reductions
    where = [condition_of(c, space) for c in conjuncts_of(einsum.where)]
    contracted = _contracted(einsum, space, where) if reductions and reductions[0].op == "sum" else None
    if contracted is None:
        terms = value_of(einsum.value, space)
        stages = _by_stage((*terms.conditions, *where), reductions)
        points = Points(terms.values, all_present(*(c.holds for c in stages[0])))
        if reductions:
            points = _reduced(points, space.variables, reductions[0], einsum, space)
    else:
        stages = _by_stage((*contracted.conditions, *where), reductions)
        points = Points(contracted.values)
    names = list(space.variables)
    for stage, reduction in enumerate(reductions):
        if stage > 0:
            points = _reduced(points, names, reduction, einsum, space)
        if reduction.into:
            names[names.index(reduction.variables[0])] = reduction.into
        else:
            points, names = _dropped(points, names, reduction.variables)
        held = [_laid(c, space.variables, names) for c in stages[stage + 1]]
        points = Points(points.values, all_present(points.present, *held))
    return _ordered(points, names, einsum, space)


def _laid(condition: Condition, before: Sequence[str], after: Sequence[str]) -> Array:
    """Return what a condition says, with the axes of a space from which variables have been reduced."""
    shape = [condition.holds.shape[before.index(v)] if v in before else 1 for v in after]
    return np.reshape(condition.holds, shape)


def conjuncts_of(where: Expr | None) -> tuple[Expr, ...]:
    """Return the parts of a predicate that must all hold."""
    if where is None:
        return ()
    if isinstance(where, Apply) and where.op == "and":
        return conjuncts_of(where.args[0]) + conjuncts_of(where.args[1])
    return (where,)


def _by_stage(conditions: Sequence[Condition], reductions: Sequence[Reduction]) -> list[list[Condition]]:
    """Return the conditions that act before each reduction, and last those that act on the output."""
    stages: list[list[Condition]] = [[] for _ in range(len(reductions) + 1)]
    for c in conditions:
        touched = (i for i, r in enumerate(reductions) if not c.names.isdisjoint(r.variables))
        stages[next(touched, len(reductions))].append(c)
    return stages


def factors_of(value: Expr) -> tuple[Expr, ...]:
    """Return the factors of a product, or the value itself."""
    if isinstance(value, Apply) and value.op == "*":
        return factors_of(value.args[0]) + factors_of(value.args[1])
    return (value,)


def _contracted(einsum: Einsum, space: Space, where: Sequence[Condition]) -> Terms | None:
    """Return the first sum of a product by np.einsum, which never makes the whole iteration space.

    None where that would not be exact: a factor that is infinite times an absent point would give not-a-number.
    The conditions that remain are those of the factors.
    """
    summed = einsum.all_reductions[0].variables
    removing = [c for c in where if not c.names.isdisjoint(summed)]
    factors = factors_of(einsum.value)
    if len(factors) + len(removing) < 2:
        return None
    operands: list[Array] = []
    conditions: list[Condition] = []
    for f in factors:
        terms = value_of(f, space)
        values = np.where(terms.present, terms.values, 0.0) if terms.conditions else terms.values
        if not np.isfinite(values).all():
            return None
        operands.append(values)
        conditions += terms.conditions
    operands += [c.holds.astype(float) for c in removing]
    return Terms(_einsum(operands, summed, space), tuple(conditions))


def _einsum(operands: Sequence[Array], summed: Sequence[str], space: Space) -> Array:
    """Sum the product of arrays over some variables; their axes are kept, with length 1."""
    rank = len(space.variables)
    axes = [[i for i in range(rank) if o.shape[i] > 1] for o in operands]
    gone = {space.variables.index(v) for v in summed}
    used = sorted({i for a in axes for i in a})
    kept = [i for i in used if i not in gone]
    repeats = math.prod(space.extent(space.variables[i]) for i in gone if i not in used)
    arguments: list[Any] = []
    for o, a in zip(operands, axes, strict=True):
        arguments += [np.squeeze(o, axis=tuple(i for i in range(rank) if i not in a)), a]
    memory = space.limit_bytes // WORD_BYTES
    out = np.einsum(*arguments, kept, optimize=("greedy", memory) if len(operands) > 1 else False)
    shape = [space.extent(space.variables[i]) if i in kept else 1 for i in range(rank)]
    return np.reshape(out, shape) * repeats


def _reduced(
    points: Points, names: Sequence[str], reduction: Reduction, einsum: Einsum, space: Space
) -> Points:
    """Return the points after one reduction; the axes that it takes have length 1 (or the selected rank's)."""
    axes = tuple(names.index(v) for v in reduction.variables)
    present = np.asarray(True) if points.present is None else points.present
    shape = list(np.broadcast_shapes(points.values.shape, present.shape))
    for axis, v in zip(axes, reduction.variables, strict=True):
        shape[axis] = space.extent(v)
    bound(math.prod(shape), f"the iteration space of {einsum.name}", space.limit_bytes)
    values = np.broadcast_to(points.values, shape)
    op = REDUCTION[reduction.op]
    if op.index:
        count = space.extent(reduction.into) if reduction.into else 1
        return _largest(values, points.present, axes[0], count, ordered=reduction.sorted)
    if points.present is not None:
        values = np.where(points.present, values, op.identity)
    return Points(np.expand_dims(op.function(values, axis=axes), axes))


def _largest(values: Array, present: Array | None, axis: int, count: int, *, ordered: bool) -> Points:
    """Return the indices of the largest values along an axis; ties go to the smaller index, absent points last."""
    extent = values.shape[axis]
    order = np.argsort(-values, axis=axis, kind="stable")
    missing = (
        np.zeros(values.shape, dtype=bool) if present is None else ~np.broadcast_to(present, values.shape)
    )
    ranked = np.argsort(np.take_along_axis(missing, order, axis), axis=axis, kind="stable")
    order = np.take_along_axis(order, ranked, axis)
    gone = np.take_along_axis(missing, order, axis)
    chosen = np.where(gone, extent, order).take(range(min(count, extent)), axis=axis)
    if count > extent:
        wide = [(0, count - extent if i == axis else 0) for i in range(values.ndim)]
        chosen = np.pad(chosen, wide, constant_values=extent)
    if ordered:
        chosen = np.sort(chosen, axis=axis)
    exists = chosen < extent
    return Points(chosen.astype(float), None if exists.all() else exists)


def _dropped(points: Points, names: list[str], gone: Sequence[str]) -> tuple[Points, list[str]]:
    axes = tuple(names.index(v) for v in gone)
    present = None if points.present is None else np.squeeze(points.present, axis=axes)
    return Points(np.squeeze(points.values, axis=axes), present), [n for n in names if n not in gone]


def _ordered(points: Points, names: Sequence[str], einsum: Einsum, space: Space) -> Points:
    wanted = [v for v in einsum.output_variables if v not in space.fixed]
    order = [names.index(v) for v in wanted]
    shape = [space.extent(v) for v in wanted]

    def laid(array: Array) -> Array:
        return np.broadcast_to(np.transpose(array, order), shape)

    present = None
    if points.present is not None:
        full = np.broadcast_to(points.present, np.broadcast_shapes(points.present.shape, points.values.shape))
        present = laid(full)
        present = None if present.all() else present
    return Points(laid(points.values), present)


def bound(points: int, what: str, limit_bytes: int) -> None:
    """Refuse an array that would not fit.

    Raises:
        CascadeError: naming the array and the bytes that it would take.
    """
    size = points * WORD_BYTES
    if size > limit_bytes:
        raise CascadeError(
            f"{what} would take {size:,} bytes; the limit is {limit_bytes:,}",
            hint="give smaller sizes, or a higher limit_bytes",
        )
