"""One Einsum over its iteration space: broadcasting arrays that know which of their points exist.

Every array here has one axis per variable of the space, of length 1 where it does not depend on the variable.
A point that `where` removed, that lies outside its tensor, or that reads such a point is *absent*. What can make
a point absent is a condition that names variables: the conjuncts of `where`, the index of an access (it must lie
inside the tensor), the access itself (its point must exist). A condition acts where the first of its variables is
about to be reduced; one that names only variables of the output removes output points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .declarations import rank_of
from .einsum import Einsum, Reduction
from .errors import CascadeError
from .expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, variables
from .ops import COMPARISON, REDUCTION, SCALAR

Array = Any
WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Points:
    """Values and which of them exist.

    Attributes:
        values: float64; what stands at an absent point means nothing.
        present: booleans that broadcast with the values, or None where every point exists.
    """

    values: Array
    present: Array | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a point to exist, and the variables that it names."""

    names: frozenset[str]
    holds: Array


@dataclass(frozen=True, slots=True)
class Terms:
    """An expression at every point of a space; where a condition fails the value means nothing."""

    values: Array
    conditions: tuple[Condition, ...] = ()

    @property
    def present(self) -> Array:
        """Where every condition holds."""
        return _every(self.conditions)


@dataclass(frozen=True, slots=True)
class Space:
    """The points over which one Einsum runs.

    Attributes:
        variables: one axis each.
        sizes: of every rank, and every named constant.
        fixed: the variable of an iterate block and its generation.
        tensors: everything defined so far.
        limit_bytes: no array that is made on the way may be larger.
    """

    variables: tuple[str, ...]
    sizes: Mapping[str, float]
    fixed: Mapping[str, int]
    tensors: Mapping[str, Points]
    limit_bytes: int

    def extent(self, variable: str) -> int:
        """Number of values that a variable takes."""
        return int(self.sizes[rank_of(variable)])

    def along(self, variable: str, line: Array) -> Array:
        """Return a vector laid along the axis of a variable."""
        shape = [1] * len(self.variables)
        shape[self.variables.index(variable)] = len(line)
        return np.reshape(line, shape)

    def scalar(self, value: float) -> Array:
        """Return a number with all axes of length 1."""
        return np.full((1,) * len(self.variables), value, dtype=float)


def space_of(
    einsum: Einsum,
    sizes: Mapping[str, float],
    tensors: Mapping[str, Points],
    *,
    fixed: Mapping[str, int],
    limit_bytes: int,
) -> Space:
    """Return the iteration space of an Einsum, without the variable that a block holds fixed."""
    free = tuple(v for v in einsum.variables if v not in fixed)
    return Space(free, sizes, fixed, tensors, limit_bytes)


def run(einsum: Einsum, space: Space) -> Points:
    """Return what an Einsum defines, one axis per free variable of its target, in the target's order.

    Raises:
        CascadeError: an index that is not a whole number, or an array beyond the limit.
    """
    reductions = einsum.all_reductions
    where = [_condition(c, space) for c in conjuncts_of(einsum.where)]
    contracted = _contracted(einsum, space, where) if reductions and reductions[0].op == "sum" else None
    if contracted is None:
        terms = value_of(einsum.value, space)
        stages = _by_stage((*terms.conditions, *where), reductions)
        points = Points(terms.values, _all(*(c.holds for c in stages[0])))
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
        points = Points(points.values, _all(points.present, *held))
    return _ordered(points, names, einsum, space)


def value_of(node: Expr, space: Space) -> Terms:
    """Return an expression at every point of a space."""
    if isinstance(node, Num):
        return Terms(space.scalar(node.value))
    if isinstance(node, Size):
        return Terms(space.scalar(space.sizes[node.name]))
    if isinstance(node, Var):
        if node.name in space.fixed:
            return Terms(space.scalar(space.fixed[node.name]))
        return Terms(space.along(node.name, np.arange(space.extent(node.name), dtype=float)))
    if isinstance(node, Access):
        return _read(node, space)
    args = [value_of(a, space) for a in node.args]
    conditions = tuple(c for a in args for c in a.conditions)
    if isinstance(node, Compare):
        truth = np.asarray(True)
        for op, left, right in zip(node.ops, args, args[1:], strict=False):
            truth = truth & COMPARISON[op](left.values, right.values)
        return Terms(truth, conditions)
    if node.op in ("pad", "select"):
        return _chosen(node, args)
    return Terms(SCALAR[node.op].function(*(a.values for a in args)), conditions)


def _chosen(node: Apply, args: Sequence[Terms]) -> Terms:
    """Return `pad` or `select`: only the branch that is taken is read, so the other one may be absent."""
    yes, no = args[-2:]
    truth, sure = (args[0].values, args[0].conditions) if node.op == "select" else (yes.present, ())
    values = np.where(truth, yes.values, no.values)
    if not yes.conditions and not no.conditions:
        return Terms(values, sure)
    taken: Array = np.where(truth, yes.present, no.present)
    if taken.all():
        return Terms(values, sure)
    return Terms(values, (*sure, Condition(frozenset(variables(node)), taken)))


def _condition(conjunct: Expr, space: Space) -> Condition:
    terms = value_of(conjunct, space)
    return Condition(frozenset(variables(conjunct)), terms.values & terms.present)


def _every(conditions: Sequence[Condition]) -> Array:
    held = _all(*(c.holds for c in conditions))
    return np.asarray(True) if held is None else held


def _all(*presents: Array | None) -> Array | None:
    out = None
    for p in presents:
        if p is not None:
            out = p if out is None else out & p
    return out


def _laid(condition: Condition, before: Sequence[str], after: Sequence[str]) -> Array:
    """Return what a condition says, with the axes of a space from which variables have been reduced."""
    shape = [condition.holds.shape[before.index(v)] if v in before else 1 for v in after]
    return np.reshape(condition.holds, shape)


def _read(access: Access, space: Space) -> Terms:
    source = space.tensors[access.tensor]
    key = _plain_key(access, source, space)
    return _gathered(access, source, space) if key is None else _sliced(key, access, source, space)


def _plain_key(access: Access, source: Points, space: Space) -> tuple[int | slice, ...] | None:
    """Return slices and numbers that read the access as a view, or None if an index is computed."""
    key: list[int | slice] = []
    seen: set[str] = set()
    for index, extent in zip(access.indices, np.shape(source.values), strict=True):
        if isinstance(index, Var) and index.name not in space.fixed:
            count = space.extent(index.name)
            if index.name in seen or count > extent:
                return None
            seen.add(index.name)
            key.append(slice(0, count))
            continue
        if accesses(index) or any(v not in space.fixed for v in variables(index)):
            return None
        at = float(value_of(index, space).values.reshape(()))
        if not (0 <= at < extent and at == int(at)):
            return None
        key.append(int(at))
    return tuple(key)


def _sliced(key: tuple[int | slice, ...], access: Access, source: Points, space: Space) -> Terms:
    names = [
        i.name
        for i, k in zip(access.indices, key, strict=True)
        if isinstance(k, slice) and isinstance(i, Var)
    ]
    order = [names.index(v) for v in space.variables if v in names]
    shape = [space.extent(v) if v in names else 1 for v in space.variables]

    def view(array: Array) -> Array:
        return np.reshape(np.transpose(array[key], order), shape)

    return Terms(
        view(source.values), _exists(access, None if source.present is None else view(source.present))
    )


def _exists(access: Access, present: Array | None) -> tuple[Condition, ...]:
    """Return the condition that the point of an access exists, if some do not."""
    return () if present is None or present.all() else (Condition(frozenset(variables(access)), present),)


def _gathered(access: Access, source: Points, space: Space) -> Terms:
    conditions: list[Condition] = []
    places = []
    for index, extent in zip(access.indices, source.values.shape, strict=True):
        found = value_of(index, space)
        at = found.values
        broken = ~(np.isfinite(at) & (at == np.floor(at))) & found.present
        if broken.any():
            value = float(np.broadcast_to(at, broken.shape)[broken][0])
            raise CascadeError(
                f"{access.tensor} is indexed by {value:g}, which is not a whole number", at=index.at
            )
        conditions += found.conditions
        inside = (at >= 0) & (at < extent)
        if not inside.all():
            conditions.append(Condition(frozenset(variables(index)), inside | ~found.present))
            at = np.where(inside, at, 0.0)
        places.append(at.astype(np.intp))
    values = source.values[tuple(places)]
    held = None if source.present is None else source.present[tuple(places)] | ~_every(conditions)
    return Terms(values, (*conditions, *_exists(access, held)))


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
