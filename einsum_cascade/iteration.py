"""One Einsum over its iteration space: broadcasting arrays that know which of their points exist.

Every array here has one axis per variable of the space, of length 1 where it does not depend on the variable.
A point that `where` removed, that lies outside its tensor, or that reads such a point is *absent*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cascade import rank_of
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
    conjuncts = _by_stage(einsum)
    names = list(space.variables)
    points: Points | None = None
    if reductions and reductions[0].op == "sum":
        points = _contracted(einsum, space, conjuncts[0])
    if points is None:
        points = _masked(value_of(einsum.value, space), conjuncts[0], space)
        if reductions:
            points = _reduced(points, names, reductions[0], einsum, space)
    for stage, reduction in enumerate(reductions):
        if stage > 0:
            points = _reduced(points, names, reduction, einsum, space)
        position = names.index(reduction.variables[0])
        if reduction.into:
            names[position] = reduction.into
        else:
            points, names = _dropped(points, names, reduction.variables)
        here = Space(tuple(names), space.sizes, space.fixed, space.tensors, space.limit_bytes)
        points = _masked(points, conjuncts[stage + 1], here)
    return _ordered(points, names, einsum, space)


def value_of(node: Expr, space: Space) -> Points:
    """Return an expression at every point of a space."""
    if isinstance(node, Num):
        return Points(space.scalar(node.value))
    if isinstance(node, Size):
        return Points(space.scalar(space.sizes[node.name]))
    if isinstance(node, Var):
        if node.name in space.fixed:
            return Points(space.scalar(space.fixed[node.name]))
        return Points(space.along(node.name, np.arange(space.extent(node.name), dtype=float)))
    if isinstance(node, Access):
        return _read(node, space)
    args = [value_of(a, space) for a in node.args]
    if isinstance(node, Compare):
        truth = np.asarray(True)
        for op, left, right in zip(node.ops, args, args[1:], strict=False):
            truth = truth & COMPARISON[op](left.values, right.values)
        return Points(truth, _all(*(a.present for a in args)))
    if node.op == "pad":
        return _padded(*args)
    if node.op == "select":
        return _selected(*args)
    return Points(SCALAR[node.op].function(*(a.values for a in args)), _all(*(a.present for a in args)))


def _padded(read: Points, other: Points) -> Points:
    if read.present is None:
        return read
    present = None if other.present is None else read.present | other.present
    return Points(np.where(read.present, read.values, other.values), present)


def _selected(truth: Points, yes: Points, no: Points) -> Points:
    """Only the branch that is taken is read, so the other one may be absent."""
    values = np.where(truth.values, yes.values, no.values)
    if yes.present is None and no.present is None:
        return Points(values, truth.present)
    taken = np.where(truth.values, _some(yes.present), _some(no.present))
    return Points(values, _all(truth.present, taken))


def _some(present: Array | None) -> Array:
    return np.asarray(True) if present is None else present


def _all(*presents: Array | None) -> Array | None:
    out = None
    for p in presents:
        if p is not None:
            out = p if out is None else out & p
    return out


def _read(access: Access, space: Space) -> Points:
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


def _sliced(key: tuple[int | slice, ...], access: Access, source: Points, space: Space) -> Points:
    names = [
        i.name
        for i, k in zip(access.indices, key, strict=True)
        if isinstance(k, slice) and isinstance(i, Var)
    ]
    order = [names.index(v) for v in space.variables if v in names]
    shape = [space.extent(v) if v in names else 1 for v in space.variables]

    def view(array: Array) -> Array:
        return np.reshape(np.transpose(array[key], order), shape)

    present = None if source.present is None else view(source.present)
    return Points(view(source.values), None if present is not None and present.all() else present)


def _gathered(access: Access, source: Points, space: Space) -> Points:
    present: Array | None = None
    places = []
    for index, extent in zip(access.indices, source.values.shape, strict=True):
        found = value_of(index, space)
        at = found.values
        broken = ~(np.isfinite(at) & (at == np.floor(at)))
        if found.present is not None:
            broken = broken & found.present
        if broken.any():
            value = float(np.broadcast_to(at, broken.shape)[broken][0])
            raise CascadeError(
                f"{access.tensor} is indexed by {value:g}, which is not a whole number", at=index.at
            )
        inside = (at >= 0) & (at < extent)
        if found.present is not None:
            inside = inside & found.present
        if not inside.all():
            present = _all(present, inside)
            at = np.where(inside, at, 0.0)
        places.append(at.astype(np.intp))
    values = source.values[tuple(places)]
    if source.present is not None:
        present = _all(present, source.present[tuple(places)])
    return Points(values, None if present is not None and present.all() else present)


def conjuncts_of(where: Expr | None) -> tuple[Expr, ...]:
    """Return the parts of a predicate that must all hold."""
    if where is None:
        return ()
    if isinstance(where, Apply) and where.op == "and":
        return conjuncts_of(where.args[0]) + conjuncts_of(where.args[1])
    return (where,)


def _by_stage(einsum: Einsum) -> list[list[Expr]]:
    """Return the conjuncts that act before each reduction, and last those that act on the output.

    A conjunct acts where one of its variables is about to be reduced: there it removes terms. One that names only
    variables of the output removes output points.
    """
    reductions = einsum.all_reductions
    stages: list[list[Expr]] = [[] for _ in range(len(reductions) + 1)]
    for conjunct in conjuncts_of(einsum.where):
        names = set(variables(conjunct))
        touched = (i for i, r in enumerate(reductions) if names & set(r.variables))
        stages[next(touched, len(reductions))].append(conjunct)
    return stages


def _masked(points: Points, conjuncts: Sequence[Expr], space: Space) -> Points:
    present = points.present
    for c in conjuncts:
        truth = value_of(c, space)
        present = _all(present, truth.values, truth.present)
    return Points(points.values, present)


def factors_of(value: Expr) -> tuple[Expr, ...]:
    """Return the factors of a product, or the value itself."""
    if isinstance(value, Apply) and value.op == "*":
        return factors_of(value.args[0]) + factors_of(value.args[1])
    return (value,)


def _contracted(einsum: Einsum, space: Space, conjuncts: Sequence[Expr]) -> Points | None:
    """Return the first sum of a product by np.einsum, which never makes the whole iteration space.

    None where that would not be exact: a factor that is infinite times an absent point would give not-a-number.
    """
    factors = factors_of(einsum.value)
    if len(factors) + len(conjuncts) < 2:
        return None
    operands = []
    for f in factors:
        p = value_of(f, space)
        values = p.values if p.present is None else np.where(p.present, p.values, 0.0)
        if not np.isfinite(values).all():
            return None
        operands.append(values)
    for c in conjuncts:
        truth = value_of(c, space)
        operands.append(_some(_all(truth.values, truth.present)).astype(float))
    return Points(_einsum(operands, einsum.all_reductions[0].variables, space))


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
    shape = list(np.broadcast_shapes(points.values.shape, np.shape(_some(points.present))))
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
